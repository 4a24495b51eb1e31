"""Data that ask a question: two tasks side by side."""

from pathlib import Path

import numpy as np
import pytest

from tombola import data
from tombola.data import moons_circles
from tombola.lab.kinds import Train
from tombola.lab.replicate import Replicate
from tombola.lab.runs import ancestry, shallow
from tombola.lab.spec_file import read
from tombola.lab.store import Store
from tombola.lab.worker import Worker
from tombola.methods import METHODS


def neighbours(inputs: np.ndarray, known: np.ndarray, answers: np.ndarray) -> np.ndarray:
    """The answer of the nearest known point."""
    distances = np.square(inputs[:, None] - known[None]).sum(-1)
    found: np.ndarray = answers[distances.argmin(axis=1)]
    return found


def test_each_task_is_answered_by_its_own_two_inputs_and_not_by_the_others() -> None:
    known, answers, test, asked = moons_circles.read(None)
    for task, places in enumerate(moons_circles.TASKS.values()):
        others = [place for place in range(4) if place not in places]
        own = neighbours(test[:, list(places)], known[:, list(places)], answers[:, task])
        foreign = neighbours(test[:, others], known[:, others], answers[:, task])
        assert (own == asked[:, task]).mean() > 0.98
        assert abs((foreign == asked[:, task]).mean() - 0.5) < 0.07


def test_the_two_answers_know_nothing_of_each_other() -> None:
    _, answers, *_ = moons_circles.read(None)
    share = (answers[:, 0] == answers[:, 1]).mean()
    assert abs(share - 0.5) < 0.05
    assert answers.shape == (1200, 2) and abs(answers.mean(axis=0) - 0.5).max() < 0.02


def test_inputs_are_standardised_by_the_pool_alone() -> None:  # E2
    known, _, test, _ = moons_circles.read(None)
    assert np.allclose(known.mean(axis=0), 0, atol=1e-4) and np.allclose(known.std(axis=0), 1, atol=1e-4)
    assert not np.allclose(test.mean(axis=0), 0, atol=1e-4)


def test_a_moon_and_a_circle_have_the_noise_and_the_size_that_are_said() -> None:
    points, answers, *_ = moons_circles.read(None)
    circles = points[:, 2:].astype(float)
    radius = [np.sqrt(np.square(circles[answers[:, 1] == inner]).sum(axis=1).mean()) for inner in (0, 1)]
    # E r^2 = R^2 + 2 noise^2, before both are divided by the same deviation.
    expected = np.sqrt((0.35**2 + 2 * 0.1**2) / (1 + 2 * 0.1**2))
    assert radius[1] / radius[0] == pytest.approx(expected, abs=0.03)


def test_a_ticket_is_found_for_both_tasks(tmp_path: Path) -> None:
    spec = read("moons-circles", ["recipe.length=300it", "recipe.optimizer.lr=5e-3"]).spec
    worker = Worker(Store(tmp_path / "store").open(), None)
    ticket: Train = list(METHODS["iterative"].search(Replicate(spec, 0), 1))[1]
    for run in ancestry([ticket]):
        worker.store.save(run, shallow(run).perform(worker), {})
    assert worker.store.values(ticket)["final_test_accuracy"] > 0.9


def test_classes_are_what_noise_and_clones_ask_for() -> None:
    for way in ("gaussian~1", "label-noise-0.2~1"):
        with pytest.raises(ValueError, match="answers that are classes for"):
            data.facts(f"moons-circles+{way}")
