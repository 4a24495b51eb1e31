"""Trainings in a stack are the trainings that each would have alone."""

import errno
import itertools
import multiprocessing
import os
import signal
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tombola import data, engine, models, prunable, weights
from tombola.data import Batches, Dataset
from tombola.engine.reference.trainer import Reference
from tombola.engine.stacked.trainer import Stacked, pays
from tombola.engine.training import Start, Training, TrainingState
from tombola.errors import Diverged, TombolaError
from tombola.evaluate import Evaluation
from tombola.lab import recorder
from tombola.lab.attempt import do, do_all
from tombola.lab.executor import Resources
from tombola.lab.kinds import Train
from tombola.lab.plan import Plan, missing, plan
from tombola.lab.queue import Event, RunQueue, Tally
from tombola.lab.runs import Outcome, Run
from tombola.lab.spec import Experiment, Spec
from tombola.lab.store import Store
from tombola.lab.worker import Worker
from tombola.lab.workers import execute
from tombola.mask import Mask
from tombola.objective import Reduction, cross_entropy
from tombola.recipe import SGD, Adam, AdamW, Optimizer, Precision, Recipe
from tombola.train import Span

MANY = 3
STEPS = 30
DEVICES = ["cpu", *(["cuda:0"] if torch.cuda.is_available() else [])]
OPTIMIZERS: dict[str, Optimizer] = {
    "momentum": SGD(name="sgd", lr=0.1, momentum=0.9, weight_decay=1e-3),
    "nesterov": SGD(name="sgd", lr=0.1, momentum=0.9, nesterov=True),
    "adam": Adam(name="adam", lr=1e-2, weight_decay=1e-3),
    "adamw": AdamW(name="adamw", lr=1e-2, weight_decay=1e-1),
}
CASES = [
    *(("lenet-20-10", name) for name in OPTIMIZERS),
    ("conv-2-w4", "adam"),
    ("resnet-8-w2", "momentum"),
    ("resnet-8-w2", "adam"),
]


class Exact(Dataset):
    """The same images in float64, so that the order of sums is all that differs."""

    def inputs(self, images: Tensor) -> Tensor:
        return super().inputs(images).double()

    def to(self, device: str) -> "Exact":
        one = super().to(device)
        return Exact(one.facts, one.images, one.labels, one.test_images, one.test_labels)


def digits() -> Exact:
    one = data.load("digits")
    return Exact(one.facts, one.images, one.labels, one.test_images, one.test_labels)


def network(name: str, number: int) -> tuple[nn.Module, Mask]:
    """Of each replicate another one, and another mask; the first has none."""
    model = models.build(name, (1, 8, 8), 10, "glorot-normal", init_seed=number).double()
    generator = torch.Generator().manual_seed(number)
    full = prunable.full(model)
    alive = {key: torch.rand(every.shape, generator=generator) < 0.6 for key, every in full.items()}
    return model, Mask(alive) if number else full


def batches(dataset: Dataset, number: int, device: str, augment: Any = None) -> Batches:
    """121 examples of its own: batches of 50, 50 and 21."""
    places = torch.randperm(len(dataset.labels), generator=torch.Generator().manual_seed(number))[:121]
    return Batches(dataset, places, 50, number, augment, number, device=device)


def rate(step: int) -> float:
    return 0.05 / (1 + step)


def numbers(training: TrainingState, dataset: Dataset) -> Callable[[], Evaluation]:
    return lambda: training.evaluate(dataset.test_images, dataset.test_labels, torch.arange(101))


def same(left: dict[str, Tensor], right: dict[str, Tensor], device: str) -> None:
    assert left.keys() == right.keys()
    close = 1e-9 if device == "cpu" else 1e-7
    for name in left:
        torch.testing.assert_close(left[name], right[name], rtol=close, atol=close, msg=name)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(("name", "optimizer"), CASES)
def test_each_of_a_stack_is_what_it_is_alone(name: str, optimizer: str, device: str) -> None:  # M1 K9
    """In two parts, the optimiser's state carried over; looked at on the way, weights taken and put back."""
    dataset = digits()
    training = Training(optimizer=OPTIMIZERS[optimizer], batch=50, device=device)
    middle, looks = 13, [0, 13, 20, STEPS]
    augment = "flip-crop" if optimizer == "adam" else None

    def alone(number: int) -> tuple[dict[str, Tensor], dict[str, Tensor], list[Evaluation]]:
        model, living = network(name, number)
        one, seen = Reference(training, Start(model, living, dataset)), list[Evaluation]()
        each = batches(dataset, number, device, augment)
        one.train(each, Span(0, STEPS, rate, looks), lambda step: seen.append(numbers(one, dataset)()))
        return one.weights(), one.optimizer_state(), seen

    found: list[list[Evaluation]] = [[] for _ in range(MANY)]
    starts = [network(name, number) for number in range(MANY)]
    keys = list(starts[0][0].state_dict())
    several = [batches(dataset, number, device, augment) for number in range(MANY)]
    states: list[dict[str, Tensor]] = [{}] * MANY
    for begin, until in ((0, middle), (middle, STEPS)):
        stack = Stacked(training, [Start(*start, dataset, state) for start, state in zip(starts, states, strict=True)])

        def look(number: int, stack: Stacked = stack) -> None:
            found[number].append(numbers(stack.states[number], dataset)())
            before = stack.states[number].snapshot()
            stack.states[number].load({key: torch.zeros_like(kept) for key, kept in before.items()})
            stack.states[number].restore(before)

        failed = stack.train(
            several,
            Span(begin, until, rate, [step for step in looks if step < until or until == STEPS]),
            [lambda step, number=number: look(number) for number in range(MANY)],  # type: ignore[misc]
        )
        assert failed == [None] * MANY
        states = [replicate.optimizer_state() for replicate in stack.states]
        fresh = [network(name, number) for number in range(MANY)]
        for (model, _), replicate in zip(fresh, stack.states, strict=True):
            weights.put(model, replicate.weights())
        starts = fresh
    for number, replicate in enumerate(stack.states):
        expected, state, seen = alone(number)
        assert list(expected) == keys
        same(replicate.weights(), expected, device)
        same(replicate.optimizer_state(), state, device)
        # The second part looks at the middle once more, at its beginning.
        assert [each.correct for each in found[number]] == [each.correct for each in seen]
        for key, alive in starts[number][1].items():
            assert not replicate.weights()[key][~alive].any()
            assert not any(
                held[~alive].any()
                for path, held in replicate.optimizer_state().items()
                if path.endswith(f"/{key}") and held.dim()
            )


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", ["lenet-20-10", "resnet-8-w2"])
@pytest.mark.parametrize("bad", range(MANY))
def test_who_fails_fails_alone(name: str, bad: int, device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = digits()
    several = [batches(dataset, number, device) for number in range(MANY)]

    def run(poisoned: bool) -> tuple[list[TombolaError | None], list[dict[str, Tensor]]]:
        starts = [network(name, number) for number in range(MANY)]
        stack = Stacked(
            Training(optimizer=OPTIMIZERS["adam"], batch=50, device=device), [Start(*each, dataset) for each in starts]
        )

        def look(number: int, step: int) -> None:
            if poisoned and number == bad and step == 3:
                stack.states[bad].load(
                    {
                        k: v * float("nan") if v.is_floating_point() else v
                        for k, v in stack.states[bad].weights().items()
                    }
                )
            if not abs(numbers(stack.states[number], dataset)().loss) < float("inf"):
                raise Diverged(f"{number} at {step}")

        watches = [lambda step, number=number: look(number, step) for number in range(MANY)]
        failed = stack.train(several, Span(0, 8, rate, range(0, 9, 3)), watches)
        return failed, [replicate.weights() for replicate in stack.states]

    if device != "cpu":  # else it gives other last bits each time
        monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)
    failed, found = run(poisoned=True)
    assert [str(error) for error in failed] == [f"{bad} at 3" if number == bad else "None" for number in range(MANY)]
    expected = run(poisoned=False)[1]
    assert all(weights.equal(found[number], expected[number]) for number in range(MANY) if number != bad)


def test_when_all_have_failed_it_is_over() -> None:
    dataset, steps = digits(), list[int]()
    starts = [network("lenet-20-10", number) for number in range(2)]
    stack = Stacked(Training(optimizer=OPTIMIZERS["adam"], batch=50), [Start(*each, dataset) for each in starts])

    def look(step: int) -> None:
        steps.append(step)
        raise Diverged("it did")

    several, taken = [batches(dataset, number, "cpu") for number in range(2)], list[int]()
    failed = stack.train(several, Span(0, 8, lambda step: taken.append(step) or 0.1, range(9)), [look] * 2)  # type: ignore[func-returns-value]
    assert [str(error) for error in failed] == ["it did"] * 2 and steps == [0, 0] and taken == []


def test_a_stack_in_16_bits_trains_as_it_would_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """There convolutions give 16 bits under vmap too, which they do not on a CPU; statistics and the loss have 32."""
    dataset = data.load("digits")
    starts = [models.build("resnet-8-w2", (1, 8, 8), 10, "glorot-normal", init_seed=seed) for seed in range(2)]
    for module in starts[0].modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.register_forward_hook(lambda *seen: seen[-1].bfloat16())
    training = Training(optimizer=OPTIMIZERS["momentum"], batch=50, precision="bfloat16")
    stack = Stacked(training, [Start(model, prunable.full(model), dataset) for model in starts])
    entropy, kinds = cross_entropy, set[torch.dtype]()

    def watched(outputs: Tensor, labels: Tensor, reduction: Reduction = "mean") -> Tensor:
        kinds.add(outputs.dtype)
        return entropy(outputs, labels, reduction)

    monkeypatch.setattr("tombola.objective.cross_entropy", watched)
    several = [batches(dataset, number, "cpu") for number in range(2)]
    stack.train(several, Span(0, 3, lambda step: 0.01), [lambda step: None] * 2)
    assert kinds == {torch.float32}
    for number, replicate in enumerate(stack.states):
        found, begun = replicate.weights(), models.build("resnet-8-w2", (1, 8, 8), 10, "glorot-normal", number)
        assert all(bool(value.isfinite().all()) for value in found.values())
        assert not torch.equal(found["stem.conv.weight"], begun.state_dict()["stem.conv.weight"])
        assert found["stem.norm.running_mean"].dtype == torch.float32


@pytest.mark.parametrize("precision", [None, "bfloat16"])
def test_a_stack_computes_in_the_precision_it_is_told(precision: Precision | None) -> None:
    dataset = data.load("digits")
    starts = [models.build("resnet-8-w2", (1, 8, 8), 10, "glorot-normal", init_seed=seed) for seed in range(2)]
    training = Training(optimizer=OPTIMIZERS["momentum"], batch=50, precision=precision)
    stack = Stacked(training, [Start(model, prunable.full(model), dataset) for model in starts])
    several = [batches(dataset, number, "cpu") for number in range(2)]
    stack.train(several, Span(0, 3, lambda step: 0.01), [lambda step: None] * 2)
    alone = models.build("resnet-8-w2", (1, 8, 8), 10, "glorot-normal", init_seed=1)
    one = Reference(training, Start(alone, prunable.full(alone), dataset))
    one.train(several[1], Span(0, 3, lambda step: 0.01), lambda step: None)
    found, expected = stack.states[1].weights(), one.weights()
    assert all(value.dtype in (torch.float32, torch.int64) for value in found.values())
    worst = max(float((found[name] - expected[name]).abs().max()) for name in expected)
    assert worst < (1e-5 if precision is None else 2e-2)


# ---------------------------------------------------------------- runs

SPEC: dict[str, Any] = {
    "replicates": 3,
    "levels": 1,
    "arms": ["ticket", "reinit"],
    "engine": "stacked",
    "recipe": {
        "model": "lenet-20-10",
        "data": "digits",
        "length": "40it",
        "batch": 60,
        "optimizer": {"name": "adam", "lr": 2e-3},
    },
    "evaluate": {"every": "20it", "test_every": "20it"},
}


def planned(**changes: Any) -> Plan:
    return plan(Experiment(name="tiny", spec=Spec.model_validate(SPEC | changes)))


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers that come from a server which has torch already, as in test_workers.py."""
    if "forkserver" in multiprocessing.get_all_start_methods():
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["tombola.lab.worker", "sklearn.datasets", "torch._dynamo"])
        monkeypatch.setattr(multiprocessing, "get_context", lambda method=None: context)


def references(wanted: Plan, root: Path) -> Store:
    worker = Worker(Store(root).open(), None, "reference")
    for run in wanted.runs:
        assert do(run, worker, lambda *seen: None) == ("stored",)
    return worker.store


def close(found: Store, expected: Store, wanted: Plan) -> None:
    assert found.keys() == expected.keys() == {run.key for run in wanted.runs}
    for run in (row.run for row in wanted.rows):
        left, right = found.values(run), expected.values(run)
        assert left.keys() == right.keys() and left["alive"] == right["alive"]
        for name in (name for name in right if name.endswith("accuracy")):
            assert abs(left[name] - right[name]) < 0.02, name


def test_without_stacks_the_keys_are_the_same() -> None:
    assert [run.key for run in planned().runs] == [run.key for run in planned(engine="reference").runs]


@pytest.mark.usefixtures("quick")
def test_executed_in_stacks_a_plan_has_the_results_of_the_plain_loop(tmp_path: Path) -> None:  # S4
    """One of the workers is killed on the way: each of its runs is tried once more, alone."""
    wanted, store, killed = planned(), Store(tmp_path / "stacked").open(), list[Run]()
    retried: list[Run] = []

    def tell(event: Event) -> None:
        if event.what == "looked" and event.done == 20 and event.run == wanted.rows[0].run and not killed:
            killed.append(event.run)
            (child,) = multiprocessing.active_children()
            os.kill(child.pid or 0, signal.SIGKILL)
        retried.extend([event.run] if event.what == "retried" else [])

    result = execute(Resources(store=store, workers=1, engine="stacked"), missing(wanted, store), tell)
    assert result == Tally(done=len(wanted.runs))
    close(store, references(wanted, tmp_path / "plain"), wanted)
    dense = {row.run.key for row in wanted.rows if row.arm == "dense"}
    assert {run.key for run in retried} == dense
    engines = Counter(store.provenance(row.run)["engine"] for row in wanted.rows)
    assert engines == {"reference": 3, "stacked 6 x reference": 6}, "tickets and controls in one stack"
    assert not list((store.root / "tmp").iterdir()) and not list((store.root / "checkpoints").iterdir())


@pytest.mark.usefixtures("quick")
def test_a_run_that_diverges_fails_and_the_others_of_its_stack_do_not(tmp_path: Path) -> None:
    wanted, store = planned(levels=0, arms=["ticket"]), Store(tmp_path / "stacked").open()
    worker = Worker(store, None)
    inits = [row.run.start for row in wanted.rows]
    for run in inits[1:]:
        assert do(run, worker, lambda *seen: None) == ("stored",)
    start = store.weights(inits[1])
    poison = {name: torch.full_like(value, float("nan")) for name, value in start.items()}
    store.save(inits[0], Outcome({}, {"weights": poison}), {"seconds": 0.0})
    result = execute(Resources(store=store, workers=1, engine="stacked"), missing(wanted, store), lambda event: None)
    assert list(result.failed) == [wanted.rows[0].run] and result.done == 2 and result.skipped == []
    assert "the validation loss is nan after 0 steps" in result.failed[wanted.rows[0].run].reason
    assert [store.provenance(row.run)["engine"] for row in wanted.rows[1:]] == ["stacked 3 x reference"] * 2


class Stopped(BaseException):
    """What no code catches."""


def test_a_stack_goes_on_from_its_checkpoints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # S2 R9
    """Stopped after two of three have kept the second checkpoint: those two go on together, the third by itself."""
    monkeypatch.setattr(recorder, "STOPS", 8)
    wanted = planned(levels=0, arms=["ticket"])
    expected, store = references(wanted, tmp_path / "plain"), Store(tmp_path / "stacked").open()
    ticks = itertools.count()
    late = Worker(store, None, "stacked", clock=lambda: 1000.0 * next(ticks))
    runs = [row.run for row in wanted.rows]
    for run in runs:
        do(run.start, late, lambda *seen: None)
    kept, times = Store.keep, itertools.count(1)

    def keep(self: Store, run: Run, state: Outcome) -> None:
        kept(self, run, state)
        if next(times) == 5:
            raise Stopped

    with monkeypatch.context() as patched:
        patched.setattr(Store, "keep", keep)
        with pytest.raises(Stopped):
            Train.perform_stack(runs, late, [lambda *seen: None] * 3)
    found = [store.kept(run) for run in runs]
    assert [each.values["step"] for each in found if each] == [16, 16, 8]
    do_all(runs, Worker(store, None, "stacked"), lambda *said: None)
    hows = [store.provenance(run) for run in runs]
    first = "stacked 3 x reference, then"
    assert [how["engine"] for how in hows[:2]] == [f"{first} stacked 2 x reference"] * 2
    assert "stacked 3" in hows[2]["engine"] and "stacked 2" not in hows[2]["engine"]
    assert [how["resumed"] for how in hows] == [[16], [16], [8]]
    close(store, expected, wanted)


@pytest.mark.parametrize(("stack_seconds", "expected"), [(2.9, True), (3.1, False)])
def test_a_stack_is_taken_where_it_is_faster_than_one_after_another(
    stack_seconds: float, expected: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    times = iter([0.0, 1.0, 10.0, 10.0 + stack_seconds])
    monkeypatch.setattr("tombola.engine.stacked.trainer.perf_counter", lambda: next(times))
    wanted = planned(levels=0, arms=["ticket"])
    expected_store, store = references(wanted, tmp_path / "plain"), Store(tmp_path / "measured").open()
    worker = Worker(store, None, "reference")
    runs = [row.run for row in wanted.rows]
    for run in runs:
        do(run.start, worker, lambda *seen: None)
    said: list[str] = []
    do_all(runs, worker, lambda run, what, *why: said.append(what))
    assert set(said) == {"looked", "stored"}, said
    engines = {store.provenance(run)["engine"] for run in runs}
    assert engines == {"stacked 3 x reference"} if expected else all("stacked" not in each for each in engines)
    close(store, expected_store, wanted)
    Train.perform_stack(runs, worker, [lambda *seen: None] * 3)  # a second measurement would run out of times


def test_measuring_whether_a_stack_pays_touches_no_model() -> None:
    dataset, starts = digits(), [network("resnet-8-w2", number) for number in range(2)]
    several = [batches(dataset, number, "cpu") for number in range(2)]
    before = [weights.of(model) for model, _ in starts]
    state = torch.get_rng_state()
    pays(Training(optimizer=OPTIMIZERS["adam"], batch=50), [Start(*each, dataset) for each in starts], several)
    assert all(weights.equal(weights.of(model), each) for (model, _), each in zip(starts, before, strict=True))
    assert torch.equal(torch.get_rng_state(), state)


def test_what_cannot_be_measured_is_not_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[int] = []

    def failing(*_: object) -> bool:
        tried.append(1)
        raise RuntimeError("CUDA out of memory")

    monkeypatch.setattr("tombola.engine.stacked.trainer.pays", failing)
    wanted, store = planned(levels=0, arms=["ticket"]), Store(tmp_path).open()
    worker = Worker(store, None, "reference")
    runs = [row.run for row in wanted.rows]
    for run in runs:
        do(run.start, worker, lambda *seen: None)
    with pytest.raises(RuntimeError):
        Train.perform_stack(runs, worker, [lambda *seen: None] * 3)
    assert Train.perform_stack(runs, worker, [lambda *seen: None] * 3) == [None] * 3 and tried == [1]


def test_one_that_cannot_be_stored_takes_no_others_along(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first of the stack has been told of as stored: nothing more is said of it."""
    saved, times = Store.save, itertools.count(1)

    def save(self: Store, run: Run, outcome: Outcome, provenance: dict[str, Any]) -> None:
        if next(times) == 2:
            raise OSError(errno.EIO, "Input/output error")
        saved(self, run, outcome, provenance)

    wanted, store = planned(levels=0, arms=["ticket"]), Store(tmp_path).open()
    worker, said = Worker(store, None, "stacked"), list[Any]()
    runs = [row.run for row in wanted.rows]
    for run in runs:
        do(run.start, worker, lambda *seen: None)
    monkeypatch.setattr(Store, "save", save)
    do_all(runs, worker, lambda run, what, *why: said.append((run, what)))
    told = [each for each in said if each[1] != "looked"]
    first, second, third = runs
    assert told == [(first, "stored"), (second, "apart"), (second, "stored"), (third, "stored")]
    assert all(store.has(run) for run in runs)


def test_a_stack_of_which_nothing_is_left_to_do_is_done(tmp_path: Path) -> None:
    """Another process has done one of them since, and is at the other."""
    wanted, store = planned(levels=0, arms=["ticket"]), Store(tmp_path).open()
    worker, said = Worker(store, None, "stacked"), list[Any]()
    first, second, *_ = (row.run for row in wanted.rows)
    for run in (first.start, first):
        do(run, worker, lambda *seen: None)
    with Store(tmp_path).claim(second):
        do_all([first, second], worker, lambda run, *what: said.append((run, *what)))
    assert said == [(first, "stored"), (second, "elsewhere")]


def test_why_a_stack_did_not_work_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def too_many(*_: object) -> None:
        raise RuntimeError("CUDA out of memory")

    monkeypatch.setattr(Train, "perform_stack", too_many)
    wanted, store = planned(levels=0, arms=["ticket"]), Store(tmp_path).open()
    worker, said = Worker(store, None, "stacked"), list[Any]()
    runs = [row.run for row in wanted.rows]
    for run in runs:
        do(run.start, worker, lambda *seen: None)
    do_all(runs, worker, lambda run, what, *why: said.append((what, *why)))
    told = [each for each in said if each[0] != "looked"]
    assert told == [("apart", "RuntimeError: CUDA out of memory"), *[("stored",)] * 3]


def test_all_of_a_stack_keep_checkpoints_of_the_same_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By one clock, however long each takes to keep its own: else an interruption would tear the stack apart."""
    monkeypatch.setattr(recorder, "STOPS", 2)
    wanted, store = planned(levels=0, arms=["ticket"]), Store(tmp_path).open()
    ticks = itertools.count()
    slow = Worker(store, None, "stacked", clock=lambda: 30.0 * next(ticks))
    runs = [row.run for row in wanted.rows]
    for run in runs:
        do(run.start, slow, lambda *seen: None)
    kept, at = Store.keep, dict[str, list[int]]()

    def keep(self: Store, run: Run, state: Outcome) -> None:
        at.setdefault(run.key, []).append(state.values["step"])
        kept(self, run, state)

    monkeypatch.setattr(Store, "keep", keep)
    Train.perform_stack(runs, slow, [lambda *seen: None] * 3)
    first, *others = at.values()
    assert len(others) == 2 and all(steps == first for steps in others)
    assert 1 < len(first) < runs[0].until / 2 - 1, "now and then, not at every stop"


def test_only_what_is_alike_is_given_together(tmp_path: Path) -> None:
    store = Store(tmp_path).open()
    one, other = planned(levels=0), planned(levels=0, recipe=SPEC["recipe"] | {"batch": 50})
    runs: list[Run] = [run for wanted in (one, other) for run in wanted.runs if isinstance(run, Train)]
    work = RunQueue(runs, store, lambda event: None)
    groups = [work.next(lambda run: 2) for _ in range(4)]
    assert [len(group) for group in groups] == [2, 1, 2, 1] and work.next() == []
    assert all(len({run.stack for run in group if isinstance(run, Train)}) == 1 for group in groups)
    assert {run for group in groups for run in group} == set(runs)


def test_idle_workers_share_what_goes_together(tmp_path: Path) -> None:
    """Ten trainings and three GPUs: none of them waits while another has all ten."""
    runs: list[Run] = [run for run in planned(levels=0, replicates=10).runs if isinstance(run, Train)]
    work = RunQueue(runs, Store(tmp_path).open(), lambda event: None)
    assert [len(work.next(lambda run: 16, idle)) for idle in (3, 2, 1)] == [4, 3, 3]


def test_where_trainings_go_together_all_else_goes_first(tmp_path: Path) -> None:
    runs = [run for run in planned(levels=0).runs if isinstance(run, Train)]
    other = planned(levels=0, seed=1).runs[0]
    for most, expected in ((1, [runs[:1], runs[1:2], runs[2:3], [other]]), (16, [[other], runs])):
        work = RunQueue([*runs, other], Store(tmp_path).open(), lambda event: None)
        assert [work.next(lambda run, most=most: most) for _ in expected] == expected  # type: ignore[misc]


def test_at_once_is_for_gpus_and_for_who_asks() -> None:
    def described(model: str, choice: str, device: str) -> Training:
        recipe = {"model": model, "data": "cifar10", "length": "1ep", "batch": 60}
        made = Recipe.model_validate(recipe | {"optimizer": {"name": "sgd", "lr": 0.1}})
        return Training.of(made, data.facts("cifar10"), choice, device)

    small, large = "lenet-300-100", "vgg-19"
    for choice, device, model, count in (
        ("auto", "cpu", small, 1),
        ("auto", "cuda:1", small, 16),
        ("stacked", "cpu", small, 16),
        ("reference", "cuda:0", small, 1),
        ("auto", "cuda:0", large, 1),
    ):
        assert engine.at_once(described(model, choice, device)) == count
        assert (engine.forecast(described(model, choice, device)).name == "stacked") == (count > 1)
