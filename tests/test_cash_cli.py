"""`tombola cash` as a person meets it: what it prints, what it writes, how it ends."""

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tombola import data, models
from tombola.cash import export, timing
from tombola.cash.ensemble import Ensemble
from tombola.cash.export import from_safetensors
from tombola.cash.timing import Timing
from tombola.cli import main
from tombola.engine import kernels
from tombola.errors import BadInput
from tombola.lab.executor import Resources
from tombola.lab.plan import missing, plan
from tombola.lab.spec_file import read
from tombola.lab.store import Store
from tombola.lab.tickets import trained_of
from tombola.lab.workers import execute

CHANGES = [
    "recipe.model=lenet-30-20",
    "recipe.length=60it",
    "levels=1",
    "replicates=2",
    "arms=ticket",
    "prune.rate=0.9",
]
CHANGES += ["evaluate.every=30it", "evaluate.test_every=60it"]
TINY = [argument for change in CHANGES for argument in ("--set", change)]
TEST_SET = data.facts("digits").test


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store in which a tiny experiment is finished."""
    root = tmp_path_factory.mktemp("cash") / "store"
    opened, wanted = Store(root).open(), plan(read("digits-lenet", CHANGES))
    execute(Resources(store=opened, workers=1, engine="reference"), missing(wanted, opened), lambda event: None)
    assert not missing(wanted, opened)
    return root


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Nothing is timed; with how many threads it would have been. And nothing is exported to ONNX: it takes long."""
    threads: list[int] = []

    def timed(calls: Mapping[str, Callable[[], Tensor]]) -> dict[str, Timing]:
        threads.append(torch.get_num_threads())
        taken = {name: 1e-3 if name == "dense" else 2e-3 if name.startswith("compact") else 2.5e-4 for name in calls}
        return {name: Timing(each, (each, each), (each,)) for name, each in taken.items()}

    def without(*given: object, **named: object) -> None:
        raise BadInput(where="export to ONNX", expected="onnx", found="no package onnx", todo="Install it.")

    monkeypatch.setattr(timing, "timed", timed)
    monkeypatch.setattr(export, "to_onnx", without)
    return threads


def ask(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    status = main(list(arguments))
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def cash(store: Path, capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    return ask(capsys, "cash", "digits-lenet", "--store", str(store), *TINY, *arguments)


def names() -> list[str]:
    return ["dense", "compact", "sparse", "compact int8", "sparse int8"] if kernels.sets() else [
        "dense", "compact", "compact int8"
    ]  # fmt: skip


def test_as_json_it_gives_every_number_with_its_unit(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = cash(store, capsys, "--level", "1", "--replicate", "1", "--format", "json")
    record: dict[str, Any] = json.loads(out)
    assert status == 0
    assert set(record) == {"key", "density", "examples", "threads", "forms", "left_out", "itself", "drawn", "files"}
    assert set(record["left_out"]) >= {"dense, ONNX Runtime", "compact, ONNX Runtime"} and record["itself"] == 0
    model, alive, run = trained_of(plan(read("digits-lenet", CHANGES)), Store(store), 1, 1)
    assert (record["key"], record["density"]) == (run.key, alive.density)  # C11: a fraction
    assert (record["examples"], record["threads"], record["files"]) == (TEST_SET, 1, [])
    assert [form["name"] for form in record["forms"]] == names()
    for form in record["forms"]:
        assert set(form) == {
            *(
                "name",
                "difference",
                "largest_output",
                "accuracy",
                "disk_bytes",
                "plain_bytes",
                "memory_bytes",
                "multiply_adds",
            ),
            *("latency_s", "quartiles_s", "rounds_s", "unchanged", "examples_per_s"),
        }
        assert set(form["latency_s"]) == {"1", "64"}
        assert form["examples_per_s"]["64"] == pytest.approx(64 / form["latency_s"]["64"])
        assert form["difference"] < (1e-4 if "int8" not in form["name"] else 1)
    dense = record["forms"][0]
    assert dense["difference"] == 0 and dense["multiply_adds"] == alive.total
    digits = data.load("digits", None)
    with torch.no_grad():
        answers = model.eval()(digits.inputs(digits.test_images)).argmax(dim=1)
    assert dense["accuracy"] == float((answers == digits.test_labels).double().mean())


def test_for_people_it_prints_a_table_and_what_was_found_in_words(
    store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status, out, _ = cash(store, capsys, "--level", "1")
    assert status == 0
    lines = out.splitlines()
    assert re.fullmatch(
        rf"train-\w+, density \d+\.\d\d%; {TEST_SET} test examples, outputs up to [0-9.e+]+; 1 thread", lines[0]
    )
    head, rows = lines[2], lines[3 : 3 + len(names())]
    for column in ("form", "accuracy", "difference", "on disk", "in memory", "batch 1: ms", "batch 64: ms"):
        assert column in head
    assert [re.split(r"\s{2,}", row)[0] for row in rows] == names()
    assert len({len(row) for row in [head, *rows]}) == 1  # numbers stand under their names
    said = [line for line in lines if " smaller" in line and " at batch 1 (" in line]
    assert len(said) == len(names()) - 1
    assert "no faster here at batch 1 (2.000 ms; dense: 1.000 ms)" in said[0]
    if kernels.sets():
        assert said[1].startswith("sparse: ") and "4.0 times faster at batch 64 (0.250 ms; dense: 1.000 ms)." in said[1]


def test_files_are_written_where_it_says_and_are_those_of_the_training(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status, out, _ = cash(store, capsys, "--level", "1", "-o", str(tmp_path / "forms"))
    assert status == 0
    listed = [Path(line.removeprefix("-> ")) for line in out.splitlines() if line.startswith("-> ")]
    assert sorted(listed) == sorted((tmp_path / "forms").iterdir())
    wanted = {"compact.safetensors", "compact.pt2", "compact-int8.safetensors"}
    wanted |= {"sparse.safetensors", "sparse-int8.safetensors"} if kernels.sets() else set()
    assert {path.name for path in listed} == wanted
    model, _, _ = trained_of(plan(read("digits-lenet", CHANGES)), Store(store), 1, 0)
    digits = data.load("digits", None)
    inputs = digits.inputs(digits.test_images)
    fresh = models.build("lenet-30-20", (1, 8, 8), 10, "kaiming-normal", init_seed=5)
    with torch.no_grad():
        found = from_safetensors(fresh, tmp_path / "forms" / "compact.safetensors")(inputs)
        torch.testing.assert_close(found, model.eval()(inputs), rtol=1e-4, atol=1e-4)


def test_a_model_that_cannot_be_compacted_has_its_other_forms_and_says_why(
    store: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def cannot(*given: object) -> None:
        raise BadInput(where="Net", expected="a model that torch.fx can trace", found="another", todo="Sorry.")

    monkeypatch.setattr("tombola.cash.comparison.compacted", cannot)
    status, out, _ = cash(store, capsys, "--level", "1")
    assert status == 0
    rows = [re.split(r"\s{2,}", line)[0] for line in out.splitlines()]
    assert [name.replace("compact int8", "int8") for name in names() if name != "compact"] == rows[3 : 2 + len(names())]
    assert "compact: left out. Net: expected a model that torch.fx can trace, found another. Sorry." in rows
    assert "compact, ONNX Runtime: left out. There is no compact form." in rows


def test_it_ends_with_which_form_to_take_and_how_to_load_it(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "forms"
    _, out, _ = cash(store, capsys, "--level", "1", "-o", str(folder))
    lines = out.splitlines()
    (smallest,) = (line for line in lines if line.startswith("Smallest: "))
    name, size = re.findall(r"Smallest: ([a-z0-9 ]+), ([\d,]+) bytes", smallest)[0]
    path = folder / f"{name.replace(' ', '-')}.safetensors"
    assert f'cash.from_safetensors(network, "{path}")' in smallest
    others = [each.stat().st_size for each in folder.iterdir() if each.suffix == ".safetensors"]
    assert path.stat().st_size == int(size.replace(",", "")) == min(others)
    fastest = "sparse" if kernels.sets() else "dense"
    assert [line for line in lines if line.startswith(f"Fastest at batch 64: {fastest}, ")]
    assert [line for line in lines if line.startswith("Most portable: compact, ") and f"{folder}/compact.pt2" in line]
    assert "compact.onnx: not written. export to ONNX: expected onnx, found no package onnx. Install it." in lines


def test_several_networks_are_an_ensemble_that_answers_with_the_mean_of_their_probabilities(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ["--level", "0", "--level", "1", "--replicate", "1", "--replicate", "0"]
    status, out, _ = cash(store, capsys, *asked, "--format", "json", "-o", str(tmp_path / "forms"))
    record = json.loads(out)
    networks = [
        trained_of(plan(read("digits-lenet", CHANGES)), Store(store), level, replicate)
        for level in (0, 1)
        for replicate in (1, 0)
    ]
    assert status == 0 and record["keys"] == [run.key for _, _, run in networks] and "key" not in record
    living, total = sum(alive.alive for _, alive, _ in networks), sum(alive.total for _, alive, _ in networks)
    assert record["density"] == pytest.approx(living / total)
    digits = data.load("digits", None)
    inputs = digits.inputs(digits.test_images)
    with torch.no_grad():
        mean = torch.stack([model.eval()(inputs).softmax(dim=1) for model, _, _ in networks]).mean(dim=0)
    assert record["forms"][0]["accuracy"] == float((mean.argmax(dim=1) == digits.test_labels).double().mean())
    fresh = Ensemble([models.build("lenet-30-20", (1, 8, 8), 10, "kaiming-normal", init_seed=5)] * 4)
    with torch.no_grad():
        found = from_safetensors(fresh, tmp_path / "forms" / "compact.safetensors")(inputs)
        torch.testing.assert_close(found.softmax(dim=1), mean, rtol=1e-4, atol=1e-5)
    status, out, _ = cash(store, capsys, *asked)
    assert out.startswith(f"ensemble of 4: {', '.join(record['keys'])}, density ")
    assert 'cash.from_safetensors(cash.Ensemble([network] * 4), "FOLDER/' in out


ENSEMBLE = ["study.ensemble.levels=1", "study.ensemble.kinds=orders,average", "study.ensemble.members=2"]


@pytest.fixture(scope="module")
def asked_as_one(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store in which an experiment that asks networks as one is finished."""
    root = tmp_path_factory.mktemp("ensemble") / "store"
    opened, wanted = Store(root).open(), plan(read("digits-lenet", [*CHANGES, "recipe.normalise=unit", *ENSEMBLE]))
    execute(Resources(store=opened, workers=1, engine="reference"), missing(wanted, opened), lambda event: None)
    assert not missing(wanted, opened)
    return root


def test_the_networks_that_a_study_asks_as_one_are_cashed_in_as_one_and_are_as_good_as_it_says(
    asked_as_one: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wanted = plan(read("digits-lenet", [*CHANGES, "recipe.normalise=unit", *ENSEMBLE]))
    changes = [each for change in ("recipe.normalise=unit", *ENSEMBLE) for each in ("--set", change)]
    for kind, count in (("orders", 2), ("average", 1)):
        (run,) = (one.run for one in wanted.questions if (one.replicate, one.level, one.part) == (1, 1, kind))
        given = ["--level", "1", "--replicate", "1", "--ensemble", kind, "--format", "json"]
        status, out, err = cash(asked_as_one, capsys, *changes, *given)
        assert status == 0, err
        record = json.loads(out)
        assert len(record.get("keys", ["one"])) == count
        assert record["forms"][0]["accuracy"] == Store(asked_as_one).values(run)["whole"]["accuracy"]
    for given, said in (
        (["--level", "1", "--ensemble", "dst"], "--ensemble: expected average at level 1 of replicate 0, average at"),
        (["--level", "1", "--level", "0", "--ensemble", "orders"], "--ensemble: expected one level and one replicate"),
    ):
        status, out, err = cash(asked_as_one, capsys, *changes, *given)
        assert (status, out) == (2, "") and said in " ".join(err.split())


def test_replicates_whose_inputs_differ_are_no_ensemble(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = ["--set", "recipe.inputs=permuted", "--level", "1", "--replicate", "0", "--replicate", "1"]
    status, out, err = cash(store, capsys, *given)
    assert (status, out) == (2, "")
    assert "--replicate: expected one, as inputs are changed" in " ".join(err.split())


def test_the_dense_network_can_be_cashed_in_too(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = cash(store, capsys, "--level", "0", "--format", "json")
    assert status == 0 and json.loads(out)["density"] == 1


def test_all_is_timed_on_as_many_threads_as_were_asked_for(
    store: Path, capsys: pytest.CaptureFixture[str], quick: list[int]
) -> None:
    before = torch.get_num_threads()
    for asked in (2, 1):
        quick.clear()
        status, out, _ = cash(store, capsys, "--level", "1", "--threads", str(asked))
        assert status == 0 and f"{asked} thread{'s' if asked > 1 else ''}\n" in out
        assert set(quick) == {asked} and torch.get_num_threads() == before


@pytest.mark.parametrize(("arguments", "said"), [
    (["--level", "2"], "--level: expected 0 to 1, found 2"),
    (["--level", "-1"], "--level: expected 0 to 1, found -1"),
    (["--level", "1", "--replicate", "2"], "--replicate: expected 0 to 1, found 2"),
    (["--level", "1", "--replicate", "0", "--replicate", "0"], "--replicate: expected each number once, found 0 twice"),
    (["--level", "1", "--level", "1"], "--level: expected each number once, found 1 twice"),
    (["--level", "1", "--level", "2"], "--level: expected 0 to 1, found 2"),
    (["--level", "1", "--threads", "0"], "--threads: expected 1 to"),
    (["--level", "1", "--format", "xml"], "--format"),
    (["--level", "1", "--device", "cuda"], "--device: expected a GPU that torch can use, found none. Leave it out"),
    ([], "--level"),
])  # fmt: skip
def test_bad_input_ends_with_2_and_writes_nothing(
    arguments: list[str],
    said: str,
    store: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    status, out, err = cash(store, capsys, *arguments, "-o", str(tmp_path / "forms"))
    assert (status, out) == (2, "")
    assert said in " ".join(err.split())
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_made_ends_with_2(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("years of work")
    before = torch.get_num_threads()
    status, out, err = cash(store, capsys, "--level", "1", "-o", str(tmp_path / "file"), "--threads", "2")
    assert (status, out) == (2, "")
    assert "expected a folder to write to" in err and torch.get_num_threads() == before
    assert (tmp_path / "file").read_text() == "years of work"


def test_a_training_that_is_not_finished_is_refused_with_the_command_that_does_it(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for level, where in ((1, tmp_path / "new"), (2, store)):
        given = [argument.replace("levels=1", "levels=2") for argument in TINY]
        rest = ["--store", str(where), *given, "--level", str(level), "-o", str(tmp_path / "forms")]
        status, out, err = ask(capsys, "cash", "digits", *rest)
        assert (status, out) == (2, "")
        assert "tombola run digits" in " ".join(err.split())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["x.pt", "x.ONNX", "x.pkl"])
def test_the_name_of_a_file_is_no_folder(
    name: str, store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status, out, err = cash(store, capsys, "--level", "1", "-o", str(tmp_path / name))
    assert (status, out) == (2, "") and "--output: expected a folder" in err and name in err
    assert list(tmp_path.iterdir()) == []


def test_help_has_a_text_for_every_option(capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = ask(capsys, "cash", "--help")
    assert "Where data sets lie" in " ".join(out.split())
