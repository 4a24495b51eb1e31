"""Laws of the engines: what the plan says of a training is what its record says; and no description is taken twice."""

from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from tombola.engine import ENGINES, candidates, choose, forecast, kernels
from tombola.engine.native import calibrate
from tombola.engine.training import Training
from tombola.errors import BadInput
from tombola.lab.attempt import do_all
from tombola.lab.kinds import Train
from tombola.lab.plan import Plan, engine_of, plan
from tombola.lab.queue import RunQueue
from tombola.lab.runs import Run
from tombola.lab.spec import Experiment, Spec
from tombola.lab.store import Store
from tombola.lab.worker import Worker
from tombola.models.layer import Layer
from tombola.objective import L1, LabelSmoothing
from tombola.recipe import SGD, Adam, Optimizer, Precision

RECIPE: dict[str, Any] = {
    "model": "lenet-20-10",
    "data": "digits",
    "length": "4it",
    "batch": 60,
    "optimizer": {"name": "adam", "lr": 2e-3},
}
# What a spec says beside the common part, which engine all of its trainings get, and a word of the plan's reason.
TRAININGS: dict[str, tuple[dict[str, Any], str, str]] = {
    "connected layers": ({}, "native", ""),
    "convolutions": ({"recipe": {"model": "conv-2-w4"}}, "native", ""),
    "images of unit length": ({"recipe": {"normalise": "unit"}}, "native", ""),
    "cross-entropy by its name": ({"recipe": {"objective": {"name": "cross-entropy"}}}, "native", ""),
    "a residual network": ({"recipe": {"model": "resnet-8-w2"}}, "reference", "chains of convolutions"),
    "augmentation": ({"recipe": {"augment": "flip-crop"}}, "reference", "no augmentation"),
    "mixed precision": ({"recipe": {"precision": "bfloat16"}}, "reference", "no mixed precision"),
    "label smoothing": ({"recipe": {"objective": {"name": "label-smoothing"}}}, "reference", "but cross-entropy"),
    "l1": ({"recipe": {"objective": {"name": "l1", "strength": 1e-4}}}, "reference", "but cross-entropy"),
    "adversarial examples": ({"recipe": {"objective": {"name": "adversarial"}}}, "reference", "but cross-entropy"),
    "no biases": ({"recipe": {"model": "lenet-20-10-no-bias"}}, "reference", "with biases"),
    "pruned biases": ({"prune": {"include": ["fc1.bias"]}}, "reference", "weights of layers only"),
    "output kept": ({"prune": {"keep": ["output"]}}, "native", ""),
    "as asked for": ({"engine": "reference"}, "reference", "as asked for"),
    "a stack": ({"engine": "stacked"}, "stacked", "at once"),
    "a stack of smooth labels": (
        {"engine": "stacked", "recipe": {"objective": {"name": "label-smoothing"}}},
        "stacked",
        "at once",
    ),
    "adversarial examples in no stack": (
        {"engine": "stacked", "recipe": {"objective": {"name": "adversarial", "steps": 2}}},
        "reference",
        "stacks know no adversarial",
    ),
    "l1 in no stack": (
        {"engine": "stacked", "recipe": {"objective": {"name": "l1", "strength": 1e-4}}},
        "reference",
        "stacks know no l1",
    ),
}


def planned(changes: dict[str, Any]) -> Plan:
    common = {"replicates": 2, "levels": 1, "arms": ["ticket"], "device": "cpu"}
    spec = common | changes | {"recipe": RECIPE | changes.get("recipe", {})}
    return plan(Experiment(name="tiny", spec=Spec.model_validate(spec)))


@pytest.mark.skipif(not kernels.sets(), reason="the kernels were not compiled here")
@pytest.mark.parametrize("case", TRAININGS)
def test_what_the_plan_foresees_is_what_the_record_says(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes, name, word = TRAININGS[case]
    monkeypatch.setattr(calibrate, "known", lambda shapes: dict.fromkeys(shapes, calibrate.ASSUMED))
    wanted, store = planned(changes), Store(tmp_path).open()
    foreseen = engine_of(wanted)
    assert foreseen.name.split()[0] == name and word in foreseen.why
    worker = Worker(store, None, wanted.experiment.spec.engine, measured={})
    queue = RunQueue(list(wanted.runs), store, lambda event: None)

    def stored(run: Run, what: str, *_: object) -> None:
        assert what in ("looked", "stored"), (run, what, _)
        if what == "stored":
            queue.stored(run)

    while not queue.over:
        do_all(queue.next(lambda run: run.stack_size(worker.engine, worker.device)), worker, stored)
    trainings = [run for run in wanted.runs if isinstance(run, Train)]
    assert len(trainings) == 4
    assert {store.provenance(run)["engine"].split()[0] for run in trainings} == {name}


OPTIMIZERS: list[Optimizer] = [SGD(name="sgd", lr=0.1), Adam(name="adam", lr=0.1)]
PRECISIONS: list[Precision | None] = [None, "bfloat16"]
LARGE = {"body.weight": Layer("conv", 16, 16, 3, 32, 32)}
GRID = [
    Training(
        optimizer=optimizer,
        batch=60,
        objective=objective,
        precision=precision,
        augmented=augmented,
        device=device,
        choice=choice,
        count=count,
        sequential=sequential,
        densities=densities,
        layers=layers,
    )
    for optimizer, objective, precision in product(OPTIMIZERS, [None, LabelSmoothing(), L1(strength=1e-4)], PRECISIONS)
    for device, choice in product(["cpu", "cuda:0"], ["auto", "reference", "stacked"])
    for augmented, count, sequential in product([False, True], [1, 16], [False, True])
    for densities, layers in [({}, {}), ({"fc1.bias": 0.5}, {}), ({}, LARGE)]
]


def test_every_training_gets_the_first_engine_that_takes_it() -> None:
    """And the reasons of the two before it, which do not."""
    for training in GRID:
        engine, refusal = choose(training)
        before = candidates(training)[: candidates(training).index(engine)]
        assert engine.accepts(training) == "" and all(other.accepts(training) for other in before)
        assert refusal == "; ".join(each.accepts(training) for each in before[-2:])
        assert engine.name == forecast(training).engine.name or training.count == 1, "the plan thinks of many"


def test_only_the_plain_loop_takes_everything() -> None:
    assert [engine.name for engine in ENGINES if not any(map(engine.accepts, GRID))] == ["reference"]
    assert {choose(training)[0].name for training in GRID} == {engine.name for engine in ENGINES} - {
        "data-parallel"
    } - ({"native", "sparse"} if not kernels.sets() else set())


@pytest.mark.parametrize("objective", [LabelSmoothing(), L1(strength=1e-4)])
def test_processes_that_train_together_refuse_what_they_cannot_share_out(objective: Any) -> None:
    training = replace(GRID[0], processes=2)
    assert choose(training)[0].name == "data-parallel"
    with pytest.raises(
        BadInput, match=f"torchrun: expected .* found the objective {objective.name}: .*Start one process"
    ):
        choose(replace(training, objective=objective))
