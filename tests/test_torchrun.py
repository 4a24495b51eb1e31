"""Several processes, one training: the same weights, statistics and state as one process makes, and the same table."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, distributed, nn
from torch.multiprocessing.spawn import spawn

from tombola import data, models, prunable, weights
from tombola.data import Batches, Dataset, share
from tombola.data.augment import Augmentation
from tombola.data.facts import IGNORED, Facts
from tombola.engine.data_parallel.batch_norm import whole_batches
from tombola.engine.data_parallel.crew import Crew, leave
from tombola.engine.data_parallel.trainer import Parallel
from tombola.engine.reference.trainer import Reference
from tombola.engine.training import Start, Training
from tombola.errors import StoreError, TombolaError
from tombola.evaluate import Evaluation
from tombola.lab import store as storing
from tombola.lab.attempt import do
from tombola.lab.kinds import Train
from tombola.lab.plan import plan
from tombola.lab.queue import RunQueue
from tombola.lab.runs import Outcome, Stored
from tombola.lab.spec_file import read
from tombola.lab.store import Store
from tombola.lab.torchrun import _lead
from tombola.lab.worker import Worker
from tombola.mask import Mask
from tombola.recipe import SGD, Adam, Optimizer
from tombola.train import Span

WORLD = 2
STEPS = 8
OPTIMIZERS: dict[str, Optimizer] = {
    "momentum": SGD(name="sgd", lr=0.1, momentum=0.9, weight_decay=1e-3),
    "adam": Adam(name="adam", lr=1e-2, weight_decay=1e-3),
}
# The bias of an attention's keys has no gradient but rounding, which Adam would make as large as any: hence momentum.
# Batches of 50 among 121 examples: the last one has 21, of which the shares are 10 and 11. Of 51: one, and one share is
# empty; a batch normalisation has nothing but its maps' positions then.
CASES = {
    "uneven": ("resnet-8-w2", "momentum", 121),
    "an empty share": ("resnet-8-w2", "adam", 51),
    "convolutions": ("conv-2-w4", "adam", 121),
    "a running text": ("gpt-1-32", "momentum", 121),
}


class Exact(Dataset):
    """The same images in float64, so that the order of sums is all that differs."""

    def inputs(self, images: Tensor) -> Tensor:
        return super().inputs(images).double()


def digits() -> Exact:
    one = data.load("digits")
    return Exact(one.facts, one.images, one.labels, one.test_images, one.test_labels)


def texts() -> Dataset:
    """Blocks of a running text of which some ask for more answers than others, so that shares of a batch do too."""
    draw = torch.Generator().manual_seed(0)
    tokens, labels = (torch.randint(0, 20, (222, 6), generator=draw) for _ in range(2))
    labels[torch.rand(222, generator=draw) < 0.5, 2:] = IGNORED
    facts = Facts("texts", (6, 20), 20, train=121, validation=0, test=101)
    return Dataset(facts, tokens[:121], labels[:121], tokens[121:], labels[121:])


def dataset_of(name: str) -> Dataset:
    return texts() if name.startswith("gpt") else digits()


def network(name: str) -> tuple[nn.Module, Mask]:
    facts = dataset_of(name).facts
    model = models.build(name, facts.shape, facts.classes, "glorot-normal", init_seed=1).double()
    generator = torch.Generator().manual_seed(2)
    alive = {key: torch.rand(full.shape, generator=generator) < 0.6 for key, full in prunable.full(model).items()}
    return model, Mask(alive)


def trained(engine: Reference, dataset: Dataset, examples: int, part: tuple[int, int] = (0, 1)) -> dict[str, Any]:
    augment: Augmentation | None = None if dataset.facts.text else "flip-crop"
    batches = Batches(dataset, torch.arange(examples), size=50, order_seed=0, augment=augment, part=part)
    seen: list[Evaluation] = []

    def look(step: int) -> None:
        seen.append(engine.evaluate(dataset.test_images, dataset.test_labels, torch.arange(101)))

    engine.train(batches, Span(0, STEPS, lambda step: 0.05 / (1 + step), [0, 3, STEPS]), look)
    return {"weights": engine.weights(), "state": engine.optimizer_state(), "seen": seen}


@contextmanager
def group(rank: int, where: str, world: int = WORLD) -> Iterator[Crew]:
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{where}", rank=rank, world_size=world)
    yield Crew(rank, world, "cpu")
    leave()


def one_of_the_crew(rank: int, folder: str) -> None:
    with group(rank, f"{folder}/meeting") as crew:
        found = {}
        for case, (name, optimizer, examples) in CASES.items():
            model, living = network(name)
            keys = list(model.state_dict())
            traces = {module: set(vars(module)) for module in model.modules()}
            engine = Parallel(
                crew, Training(optimizer=OPTIMIZERS[optimizer], batch=50), Start(model, living, dataset_of(name))
            )
            found[case] = trained(engine, dataset_of(name), examples, (rank, WORLD))
            assert list(model.state_dict()) == keys and all(set(vars(m)) == traces[m] for m in model.modules())
        torch.save(found, f"{folder}/found-{rank}")
        with pytest.raises(TombolaError, match=r"the number: expected the same of all 2 processes, found \[0, 1\]"):
            crew.agree(rank, "the number")
        assert crew.hear({"from": rank}) == {"from": 0}


def same(left: dict[str, Tensor], right: dict[str, Tensor]) -> None:
    assert left.keys() == right.keys()
    for name in left:
        torch.testing.assert_close(left[name], right[name], rtol=1e-9, atol=1e-9, msg=name)


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    folder = tmp_path_factory.mktemp("crew")
    spawn(one_of_the_crew, (str(folder),), nprocs=WORLD)
    return [torch.load(folder / f"found-{rank}", weights_only=False) for rank in range(WORLD)]


@pytest.mark.parametrize("case", CASES)
def test_two_processes_make_what_one_makes(case: str, found: list[dict[str, Any]]) -> None:  # M7 K9 S10
    name, optimizer, examples = CASES[case]
    model, living = network(name)
    dataset = dataset_of(name)
    training = Training(optimizer=OPTIMIZERS[optimizer], batch=50)
    expected = trained(Reference(training, Start(model, living, dataset)), dataset, examples)
    for one in (ranks[case] for ranks in found):
        same(one["weights"], expected["weights"])
        same(one["state"], expected["state"])
        for seen, wanted in zip(one["seen"], expected["seen"], strict=True):
            assert (seen.correct, seen.total) == (wanted.correct, wanted.total)
            assert seen.loss == pytest.approx(wanted.loss, rel=1e-6), "evaluated in float32"
        for key, alive in living.items():
            assert not one["weights"][key][~alive].any()
            assert not any(
                value[~alive].any() for path, value in one["state"].items() if path.endswith(f"/{key}") and value.dim()
            )
    first, second = (ranks[case] for ranks in found)
    assert weights.equal(first["weights"], second["weights"]) and first["seen"] == second["seen"], "to the last bit"


def one_alone(rank: int, folder: str) -> None:
    """Batch normalisation by a crew of one is torch's own; the same gradients and statistics, in every mode."""
    with group(rank, f"{folder}/alone", world=1):
        torch.manual_seed(0)
        for momentum in (0.1, None):
            ours, theirs = (nn.BatchNorm2d(3, momentum=momentum).double() for _ in range(2))
            for _ in range(3):
                inputs = torch.randn(4, 3, 5, 2, dtype=torch.float64, requires_grad=True)
                twin = inputs.detach().clone().requires_grad_()
                factor = torch.randn(4, 3, 5, 2, dtype=torch.float64)
                with whole_batches(ours):
                    (ours(inputs) * factor).sum().backward()
                (theirs(twin) * factor).sum().backward()
                assert inputs.grad is not None and twin.grad is not None
                torch.testing.assert_close(inputs.grad, twin.grad, rtol=1e-10, atol=1e-10)
            same(weights.of(ours), weights.of(theirs))
            same(
                {n: p.grad for n, p in ours.named_parameters() if p.grad is not None},
                {n: p.grad for n, p in theirs.named_parameters() if p.grad is not None},
            )
            with whole_batches(ours):
                torch.testing.assert_close(ours.eval()(inputs), theirs.eval()(inputs), rtol=1e-9, atol=1e-9)


def test_batch_normalisation_of_one_process_is_torchs_own(tmp_path: Path) -> None:
    spawn(one_alone, (str(tmp_path),), nprocs=1)


@pytest.mark.parametrize("count", [0, 1, 2, 7, 60])
@pytest.mark.parametrize("world", [1, 2, 3, 8])
def test_shares_cover_everything_once(count: int, world: int) -> None:  # K9
    shares = [share(count, rank, world) for rank in range(world)]
    assert [shares[0].start, shares[-1].stop] == [0, count]
    assert all(left.stop == right.start for left, right in pairwise(shares))
    assert max(each.stop - each.start for each in shares) - min(each.stop - each.start for each in shares) <= 1


class Leading:
    """The part of a crew that says something, to all."""

    rank, world = 0, WORLD

    def __init__(self) -> None:
        self.said: list[int | None] = []

    def hear(self, said: Any = None) -> Any:
        self.said.append(said)
        return said


@pytest.mark.parametrize("step", [8, None])
def test_all_go_on_from_the_leaders_checkpoint(
    step: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, crew = Store(tmp_path).open(), Leading()
    late(store, [step], monkeypatch)
    halted = Worker(store, None, crew=crew).halted(Stored("train-1"))  # type: ignore[arg-type]
    assert crew.said == [step] and (halted and halted.values["step"]) == step


class Following:
    """The part of a crew that hears what its leader says."""

    def __init__(self, said: int | None) -> None:
        self._said = said

    def hear(self, said: Any = None) -> Any:
        return self._said


def late(store: Store, shown: list[int | None], monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a file system show, time after time, checkpoints of these steps, the last of them for good."""

    def kept(self: Store, run: Any) -> Outcome | None:
        step = shown.pop(0) if len(shown) > 1 else shown[0]
        return None if step is None else Outcome({"step": step})

    monkeypatch.setattr(storing, "POLL_S", 0.0)
    monkeypatch.setattr(Store, "kept", kept)


@pytest.mark.parametrize("shown", [[8], [None, 8], [4, None, 4, 8]])
def test_a_checkpoint_that_is_seen_late_is_waited_for(
    shown: list[int | None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(tmp_path).open()
    late(store, shown, monkeypatch)
    halted = Worker(store, None, crew=Following(8)).halted(Stored("train-1"))  # type: ignore[arg-type]
    assert halted is not None and halted.values["step"] == 8


def test_where_the_leader_has_no_checkpoint_nobody_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(tmp_path).open()
    late(store, [8], monkeypatch)
    assert Worker(store, None, crew=Following(None)).halted(Stored("train-1")) is None  # type: ignore[arg-type]


def test_a_checkpoint_that_never_comes_is_no_silent_start_from_zero(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(tmp_path).open()
    late(store, [4], monkeypatch)
    monkeypatch.setattr(storing, "SEEN_WITHIN_S", 0.01)
    with pytest.raises(StoreError, match="the checkpoint of train-1 at step 8, which the first process has written"):
        Worker(store, None, crew=Following(8)).halted(Stored("train-1"))  # type: ignore[arg-type]


class InItsOwnWay(Train):
    """A kind of training that makes something of the plain one."""

    kind = "in-its-own-way"


def test_a_kind_that_trains_in_its_own_way_is_trained_by_the_leader_alone(tmp_path: Path) -> None:
    """Though it calls the plain training's: the others, who hear nothing of the run, would be waited for for ever."""
    small = ["levels=0", "replicates=1", "recipe.length=4it", "device=cpu"]
    plain = plan(read("digits", small)).rows[0].run
    run = InItsOwnWay(**{each.name: getattr(plain, each.name) for each in fields(plain) if each.init})
    store, crew = Store(tmp_path).open(), Leading()
    queue = RunQueue([run.start, run], store, lambda event: None)
    for each in (run.start, run):
        _lead(each, Worker(store, None, crew=crew), queue)  # type: ignore[arg-type]
    assert queue.result.failed == {} and queue.result.done == 2 and crew.said == []


# ---------------------------------------------------------------- the command

# Gentle: at ten times this rate the reference in float32 is as far from itself in float64 after 24 steps.
SPEC = """
replicates = 1
levels = 1
arms = ["ticket"]
[recipe]
model = "resnet-8-w2"
data = "digits"
length = "16it"
batch = 100
optimizer = {name = "sgd", lr = 0.01, momentum = 0.9}
[evaluate]
every = "8it"
test_every = "8it"
"""


def launch(spec: Path, store: Path) -> "subprocess.CompletedProcess[str]":
    several = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(WORLD)]
    line = [sys.executable, *several, "-m", "tombola", "run", str(spec), "--store", str(store), "--set", "device=cpu"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(line, capture_output=True, text=True, timeout=150, env=environment)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("torchrun")
    (folder / "tiny.toml").write_text(SPEC)
    done = launch(folder / "tiny.toml", folder / "two")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("Report: ") == 1, "one process speaks"
    return folder


def test_torchrun_makes_the_table_that_one_process_makes(place: Path) -> None:  # M7
    one, two = Store(place / "one").open(), Store(place / "two")
    wanted = plan(read(str(place / "tiny.toml"), ()))
    for run in wanted.runs:
        assert do(run, Worker(one, None, "reference"), lambda *seen: None) == ("stored",)
    assert one.keys() == two.keys()
    for row in wanted.rows:
        assert two.provenance(row.run)["engine"] == "data-parallel 2 x reference"
        found, expected = two.values(row.run), one.values(row.run)
        assert found["alive"] == expected["alive"]
        for name in (name for name in expected if name.endswith("accuracy")):
            assert abs(found[name] - expected[name]) < 0.02, name
    assert not list((place / "two" / "tmp").iterdir()) and not list((place / "two" / "checkpoints").iterdir())


def test_launched_again_it_does_nothing(place: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in (place / "two" / "runs").rglob("*")}
    again = launch(place / "tiny.toml", place / "two")
    assert again.returncode == 0 and "Nothing to do" in again.stdout
    assert before == {path: path.stat().st_mtime_ns for path in (place / "two" / "runs").rglob("*")}
