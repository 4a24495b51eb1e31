"""Measuring networks: what a measurement sees of a run's weights, and of a training that is done again."""

from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pytest
import torch

from tombola import mask
from tombola.evaluate import evaluate
from tombola.lab.kinds import Measured, Measurement, Seen, Train, Watched
from tombola.lab.replicate import Replicate
from tombola.lab.runs import Run, ancestry, shallow
from tombola.lab.spec import Spec
from tombola.lab.store import Store
from tombola.lab.worker import Worker
from tombola.methods import METHODS

SPEC: dict[str, Any] = {
    "replicates": 1,
    "levels": 2,
    "arms": ["ticket"],
    "rewind": ["5it"],
    "recipe": {
        "model": "lenet-20-10",
        "data": "digits",
        "length": "40it",
        "batch": 60,
        "optimizer": {"name": "adam", "lr": 1e-2},
    },
    "prune": {"rate": 0.4},
    "evaluate": {"every": "5it", "test_every": "10it"},
}


class Sums(Measurement):
    """Enough to tell one network from another."""

    name: Literal["sums"] = "sums"
    scale: float = 1.0

    def of(self, seen: Seen) -> dict[str, Any]:
        dataset = seen.dataset
        return {
            "sum": self.scale * float(sum(value.double().abs().sum() for value in seen.weights.values())),
            "accuracy": evaluate(seen.model, dataset, dataset.test_images, dataset.test_labels).accuracy,
            "alive": seen.mask.alive,
            "nonzero": sum(int(seen.weights[name].count_nonzero()) for name in seen.mask),
            "others": sorted(seen.others),
            "seed": seen.seed,
        }


@pytest.fixture
def worker(tmp_path: Path) -> Worker:
    return Worker(Store(tmp_path / "store").open(), None)


def tickets(levels: int = 2, **changes: Any) -> list[Train]:
    replicate = Replicate(Spec.model_validate({**SPEC, **changes}), 0)
    return list(METHODS["iterative"].search(replicate, levels))


def done(run: Run, worker: Worker) -> dict[str, Any]:
    for each in ancestry([run]):
        if not worker.store.has(each):
            worker.store.save(each, shallow(each).perform(worker), {})
    return worker.store.values(run)


def test_a_training_is_measured_where_it_ended(worker: Worker) -> None:
    training = tickets()[2]
    found = done(Measured.of(Sums(), training, seed=3, further={"start": training.start}), worker)
    ended = worker.store.weights(training)
    assert found["sum"] == pytest.approx(sum(float(value.double().abs().sum()) for value in ended.values()))
    assert found["accuracy"] == worker.store.values(training)["final_test_accuracy"]
    assert found["alive"] == worker.store.values(training)["alive"] >= found["nonzero"]
    assert (found["others"], found["seed"]) == (["start"], 3)


def test_weights_that_were_not_trained_under_the_mask_are_measured_under_it(worker: Worker) -> None:
    ticket = tickets()[2]
    assert ticket.mask is not None
    begun = replace(Measured.of(Sums(), ticket, seed=0), trained=ticket.start)
    found = done(begun, worker)
    assert found["nonzero"] == found["alive"] == worker.store.mask(ticket.mask).alive
    whole = worker.store.weights(ticket.start)
    kept = mask.apply(whole, worker.store.mask(ticket.mask))
    assert found["sum"] == pytest.approx(sum(float(one.double().abs().sum()) for one in kept.values()))


@pytest.mark.parametrize("engine", ["reference", "native"])
def test_a_watched_training_takes_the_steps_that_it_took(worker: Worker, engine: Any) -> None:
    worker.engine = engine
    training = tickets()[1]
    watched = Watched.of(training, Sums(), looks=(5, 20, 40), seed=0)
    seen = done(watched, worker)
    assert seen["step"] == [5, 20, 40]
    for step, accuracy in zip(seen["step"], (look["accuracy"] for look in seen["measured"]), strict=True):
        if step in (20, 40):  # where the table looks, too
            done(training, worker)
            curve = worker.store.values(training)["curve"]
            assert accuracy == curve["test_accuracy"][curve["test_step"].index(step)]
    begun = done(replace(Measured.of(Sums(), training, seed=0), trained=training.start), worker)
    assert seen["measured"][0] == begun
    assert not worker.store.holds(watched, "weights")


def test_the_measurement_its_parameters_and_its_seed_are_in_the_key() -> None:
    training = tickets()[1]
    runs = [
        Measured.of(Sums(), training, seed=0),
        Measured.of(Sums(scale=2.0), training, seed=0),
        Measured.of(Sums(), training, seed=1),
        Measured.of(Sums(), training, seed=0, further={"start": training.start}),
        Watched.of(training, Sums(), looks=(40,), seed=0),
        Watched.of(training, Sums(), looks=(20, 40), seed=0),
    ]
    assert len({run.key for run in runs}) == len(runs)
    assert not any(run in (training,) for run in runs)


@pytest.mark.parametrize("looks", [(), (4, 40), (40, 41), (20, 10), (10, 10)])
def test_looks_lie_inside_of_the_training_in_order(looks: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="from 5 to 40, ascending"):
        Watched.of(tickets()[1], Sums(), looks=looks, seed=0)


def test_what_a_measurement_changes_of_the_network_changes_no_step(worker: Worker) -> None:
    class Spoils(Sums):
        def of(self, seen: Seen) -> dict[str, Any]:
            for parameter in seen.model.parameters():
                torch.nn.init.zeros_(parameter)
            return {"weights": sum(float(value.double().abs().sum()) for value in seen.weights.values())}

    training = tickets()[1]
    spoiled = done(Watched.of(training, Spoils(), looks=(5, 20, 40), seed=0), worker)
    assert spoiled["measured"][2]["weights"] == done(Measured.of(Sums(), training, seed=0), worker)["sum"]
