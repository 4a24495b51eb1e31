"""Searches that cost less than the ticket's own: on a part of the data, shorter, in larger rounds, early; and COLT."""

import csv
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

from tombola import models, prunable
from tombola.cli import main
from tombola.errors import SpecError
from tombola.lab.attempt import do
from tombola.lab.executor import Resources
from tombola.lab.kinds import Prune, Train
from tombola.lab.plan import plan
from tombola.lab.row import Row
from tombola.lab.runs import ancestry
from tombola.lab.spec import Experiment, Spec
from tombola.lab.spec_file import read
from tombola.lab.store import Store
from tombola.lab.worker import Worker
from tombola.lab.workers import execute
from tombola.mask import Mask
from tombola.method import SearchOptions
from tombola.prune import count

SPEC = """
replicates = 1
densities = [0.4, 0.1]
arms = [
    "ticket", "part", "short", "half-precision", "fast", "large", "colt", "colt-examples", "early-bird", "by-channel"
]
[recipe]
model = "lenet-20-10"
data = "digits"
length = "40it"
batch = 60
optimizer = {name = "adam", lr = 1e-2}
[evaluate]
every = "20it"
test_every = "20it"
[arm.part]
method = "iterative"
data = "digits-600"
[arm.short]
method = "iterative"
length = "10it"
[arm.half-precision]
method = "iterative"
precision = "bfloat16"
[arm.fast]
method = "one-shot"
lr = 3e-2
[arm.large]
method = "iterative"
rate = 0.8
[arm.colt]
rate = 0.5
[arm.colt-examples]
method = "colt"
split = "examples"
[arm.early-bird]
every = "3it"
[arm.by-channel]
method = "early-bird"
every = "3it"
by = "channel"
"""
CHEAPER = ("part", "short", "half-precision", "fast", "large")
EXACT = (*CHEAPER, "ticket", "colt", "colt-examples", "early-bird")


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("spec") / "cheaper.toml"
    path.write_text(SPEC)
    return path


@pytest.fixture(scope="module")
def store(spec: Path) -> Path:
    """With all runs of the spec, by two workers."""
    opened = Store(spec.parent / "store").open()
    execute(Resources(store=opened, workers=2), plan(read(str(spec), [])).runs, lambda event: None)
    return opened.root


def rows_of(spec: Path, *changes: str) -> list[Row]:
    return list(plan(read(str(spec), list(changes))).rows)


def of(rows: list[Row], arm: str) -> list[Train]:
    return [row.run for row in rows if row.arm == arm]


def trainings(run: Train) -> list[Train]:
    """Those that its mask needs."""
    return [each for each in ancestry([run.mask] if run.mask else []) if isinstance(each, Train)]


def test_masks_found_cheaply_are_trained_in_full_from_the_rewind_point(spec: Path) -> None:
    rows = rows_of(spec)
    (dense,), tickets = of(rows, "dense"), of(rows, "ticket")
    for arm in CHEAPER:
        for run, ticket in zip(of(rows, arm), tickets, strict=True):
            assert replace(run, mask=ticket.mask) == ticket, f"{arm}: all but the mask is the ticket's"
    searches = {arm: trainings(of(rows, arm)[-1]) for arm in CHEAPER}
    assert {run.recipe.data for run in searches["part"]} == {"digits-600"}
    assert {run.data_fingerprint for run in searches["part"]}.isdisjoint({dense.data_fingerprint})
    assert {(run.until, str(run.recipe.length)) for run in searches["short"]} == {(10, "10it")}
    assert {run.recipe.precision for run in searches["half-precision"]} == {"bfloat16"}
    assert {run.recipe.optimizer.lr for run in searches["fast"]} == {3e-2} and len(searches["fast"]) == 1
    assert searches["large"][0] == dense and len(searches["large"]) < len(trainings(tickets[-1]))


def all_exact(rows: list[Row], store: Store) -> bool:
    """Whether every row of an arm that prunes single weights has its density's count, to the last weight."""
    whole = prunable.full(models.build("lenet-20-10", (1, 8, 8), 10, "glorot-normal", 0)).total
    counted = [(row, 1 - [0.4, 0.1][row.level - 1]) for row in rows if row.arm in EXACT]
    return all(store.values(row.run)["alive"] == whole - count(gone, whole) for row, gone in counted)


def test_all_have_the_same_number_of_weights_at_every_level(spec: Path, store: Path, tmp_path: Path) -> None:
    assert all_exact(rows_of(spec), Store(store))
    few = ["prune.scope=global", "recipe.length=30it", "arms=ticket,large,colt,early-bird"]
    changes = [*few, *(f"arm.{name}=none" for name in ("part", "short", "half-precision", "fast", "colt-examples"))]
    made = plan(read(str(spec), [*changes, "arm.by-channel=none"]))
    worker = Worker(Store(tmp_path).open(), None)
    for run in made.runs:
        assert do(run, worker, lambda *seen: None) == ("stored",)
    assert all_exact(list(made.rows), worker.store) and len(made.rows) == 9


def test_two_workers_find_what_one_does(spec: Path, store: Path, tmp_path: Path) -> None:
    alone = tmp_path / "alone"
    worker = Worker(Store(alone).open(), None)
    for run in plan(read(str(spec), [])).runs:
        assert do(run, worker, lambda *seen: None) == ("stored",)
        for path in (store / "runs" / run.key).iterdir():
            if path.name != "provenance.json":
                assert path.read_bytes() == (alone / "runs" / run.key / path.name).read_bytes(), run


def test_a_cheaper_search_costs_less_and_the_training_as_much(
    spec: Path, store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    assert main(["table", str(spec), "--store", str(store), "--format", "csv"]) == 0
    rows = [row for row in csv.DictReader(capsys.readouterr().out.splitlines()) if row["level"] == "2"]
    search = {row["arm"]: int(row["search_macs"]) for row in rows}
    training = {row["arm"]: int(row["training_macs"]) for row in rows}
    assert all(search[arm] < search["ticket"] for arm in ("short", "fast", "large", "early-bird"))
    assert search["early-bird"] < search["fast"], "less than a dense training"
    assert len({training[arm] for arm in EXACT}) == 1
    assert main(["verdict", str(spec), "--store", str(store)]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "early-bird: masks had settled after these steps of the search: at 40.0% " in said


def test_every_choice_is_in_the_keys_of_the_masks_and_in_no_training(spec: Path) -> None:
    changes = {
        "data": "digits-900",
        "length": "30it",
        "batch": "50",
        "precision": "bfloat16",
        "lr": "1e-3",
        "score": "random",
        "scope": "global",
        "rate": "0.4",
    }
    assert changes.keys() == SearchOptions.model_fields.keys() - {"retrain"}
    plain = of(rows_of(spec), "part")
    for name, value in changes.items():
        changed = of(rows_of(spec, f"arm.part.{name}={value}"), "part")
        assert {run.key for run in changed}.isdisjoint({run.key for run in plain}), name
        assert [replace(run, mask=None) for run in changed] == [replace(run, mask=None) for run in plain], name
    assert of(rows_of(spec, "arm.part.retrain=true"), "part") == plain, "it is trained in full anyway"


def test_densities_are_a_list_as_others_are(spec: Path) -> None:
    for written, densities in (("0.5,0.25", (0.5, 0.25)), ("0.5", (0.5,)), ("[0.5, 0.25]", (0.5, 0.25))):
        read_spec = read(str(spec), [f"densities={written}"]).spec
        assert (read_spec.densities, read_spec.levels) == (densities, len(densities))
    with pytest.raises(SpecError, match=r"densities\.1: expected a number, found 'half'"):
        read(str(spec), ["densities=0.5,half"])


# ---------------------------------------------------------------- colt


def largest(weights: dict[str, torch.Tensor], before: Mask, kept: int) -> Mask:
    """The `kept` largest weights of each layer, by a sort of all its values."""
    made = {}
    for name, alive in before.items():
        sizes = weights[name].abs().masked_fill(~alive, -1).flatten()
        made[name] = torch.zeros_like(sizes, dtype=torch.bool)
        made[name][sizes.sort(descending=True, stable=True).indices[:kept]] = True
        made[name] = made[name].view_as(alive)
    return Mask(made)


def test_colt_keeps_what_both_halves_would_keep(tmp_path: Path) -> None:
    worker = Worker(Store(tmp_path).open(), None)
    values = {"recipe": read_recipe(), "levels": 3, "replicates": 1, "arms": ["ticket"], "method": "colt"}
    wanted = plan(Experiment(name="tiny", spec=Spec.model_validate(values | {"prune": {"rate": 0.3}})))
    for run in wanted.runs:
        assert do(run, worker, lambda *seen: None) == ("stored",)
    _, *tickets = [row.run for row in wanted.rows]
    before = prunable.full(models.build("lenet-20-10", (1, 8, 8), 10, "glorot-normal", 0))
    for ticket in tickets:
        mask = ticket.mask
        assert isinstance(mask, Prune) and mask.beside
        after = worker.store.mask(mask)
        left, right = (worker.store.weights(run) for run in (mask.trained, *mask.beside))
        for name in before:
            common = [
                int((largest(left, only(before, name), k)[name] & largest(right, only(before, name), k)[name]).sum())
                for k in range(before[name].numel() + 1)
            ]
            wanted_count = before.counts[name] - count(0.3, before.counts[name])
            k = next(k for k, each in enumerate(common) if each >= wanted_count)
            both = largest(left, only(before, name), k)[name] & largest(right, only(before, name), k)[name]
            assert not (after[name] & ~both).any() and int(after[name].sum()) == wanted_count
            assert int(both.sum()) - wanted_count in (0, 1), "at most one of two that would leave at once"
        before = after


def only(mask: Mask, name: str) -> Mask:
    return Mask({name: mask[name]})


def read_recipe() -> dict[str, Any]:
    optimizer = {"name": "adam", "lr": 1e-2}
    return {"model": "lenet-20-10", "data": "digits", "length": "40it", "batch": 60, "optimizer": optimizer}


def test_masks_of_colt_nest(spec: Path, store: Path) -> None:
    open_store = Store(store)
    for arm in ("colt", "colt-examples"):
        masks = [open_store.mask(run.mask) for run in of(rows_of(spec), arm) if run.mask]
        for larger, smaller in pairwise(masks):
            assert all(not (smaller[name] & ~larger[name]).any() for name in larger)
