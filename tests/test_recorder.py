"""What is recorded of a training: where its early stop is, and which weights its accuracies are of."""

from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from tombola import data
from tombola.errors import Diverged
from tombola.evaluate import Evaluation
from tombola.lab.recorder import STOPS, EvaluationSchedule, Recorder, Splits

TOTAL = 1000


class Scripted:
    """A training whose weights are the step that it stands at, and whose validation losses are given.

    Its test accuracy is its step in thousandths, so that it says of which weights it is.
    """

    def __init__(self, losses: Mapping[int, float]) -> None:
        self.losses, self.step = losses, 0

    def repeatedly(self, images: Any, labels: Any, places: Any = None) -> Callable[[], Evaluation]:
        return lambda: self.evaluate(images, labels, places)

    def evaluate(self, images: Any, labels: Any, places: Any = None) -> Evaluation:
        return Evaluation(self.losses.get(self.step, 1.0), correct=self.step, total=TOTAL)

    def snapshot(self) -> int:
        return self.step

    def restore(self, snapshot: int) -> None:
        self.step = snapshot

    def load(self, start: Mapping[str, Tensor]) -> None:
        self.step = int(start["step"])

    def weights(self) -> dict[str, Tensor]:
        return {"step": torch.tensor(self.step)}

    def optimizer_state(self) -> dict[str, Tensor]:
        return {}


class Unkept:
    """Checkpoints of a run that keeps none."""

    halted = None

    def due(self, stop: int) -> bool:
        return False


def recorded(
    schedule: EvaluationSchedule, losses: Mapping[int, float], told: list[Any] | None = None
) -> dict[str, Any]:
    training, places = Scripted(losses), torch.arange(3)
    splits = Splits(data.load("digits"), places, places, places)
    tell = lambda *seen: None if told is None else told.append(seen)  # noqa: E731
    recorder = Recorder(training, "scripted", schedule, splits, Unkept(), tell)  # type: ignore[arg-type]
    for step in recorder.stops:
        training.step = step
        recorder(step)
    numbers = recorder.finish()
    assert training.step == schedule.until, "the weights stay those of the end"
    return numbers


schedules = st.builds(
    lambda begin, length, every, test_every, settled: EvaluationSchedule(
        begin, begin + length, every, test_every, min(settled, begin + length)
    ),
    st.integers(0, 120),
    st.integers(1, 200),
    st.integers(1, 70),
    st.integers(1, 70),
    st.integers(0, 400),
)


@given(schedules)
def test_a_training_is_looked_at_at_both_ends_and_at_multiples_between(schedule: EvaluationSchedule) -> None:
    stops = schedule.stops(schedule.begin)
    assert stops == sorted(set(stops)) and stops[0] == schedule.begin and stops[-1] == schedule.until
    for step in range(schedule.begin, schedule.until + 1):
        ends = step in (schedule.begin, schedule.until)
        assert schedule.validated(step) == (ends or step % schedule.evaluate_every == 0)
        assert schedule.tested(step) == (ends or step % schedule.test_every == 0)
        assert (step in stops) == (schedule.validated(step) or schedule.tested(step) or step % STOPS == 0)
    assert schedule.stops(stops[len(stops) // 2]) == stops[len(stops) // 2 :], "one that goes on has the rest of them"


@given(schedules, st.randoms(use_true_random=False))
def test_the_early_stop_is_the_first_of_the_smallest_validation_losses(schedule: EvaluationSchedule, draw: Any) -> None:
    """Of those from when the mask has settled on; the test accuracy is of that very step, tested then or not."""
    looks = [step for step in schedule.stops(schedule.begin) if schedule.validated(step)]
    losses = {step: draw.choice([0.25, 0.5, 0.75, 1.0]) for step in looks}
    told: list[Any] = []
    numbers = recorded(schedule, losses, told)
    best = min((step for step in looks if step >= schedule.settled), key=lambda step: (losses[step], step))
    assert numbers["early_stop_step"] == best and numbers["early_stop_validation_loss"] == losses[best]
    assert numbers["early_stop_test_accuracy"] == numbers["early_stop_train_accuracy"] == best / TOTAL
    assert numbers["final_test_accuracy"] == numbers["final_train_accuracy"] == schedule.until / TOTAL
    assert numbers["curve"]["step"] == looks and numbers["curve"]["validation_loss"] == [losses[step] for step in looks]
    assert numbers["curve"]["test_step"] == [s for s in schedule.stops(schedule.begin) if schedule.tested(s)]
    length = schedule.until - schedule.begin
    assert told == [(step - schedule.begin, length, losses[step]) for step in looks]


@pytest.mark.parametrize("loss", [float("nan"), float("inf")])
def test_a_loss_that_is_no_number_ends_the_training_and_says_when(loss: float) -> None:
    with pytest.raises(Diverged, match=f"the validation loss is {loss} after 4 steps"):
        recorded(EvaluationSchedule(0, 8, 2, 8), {0: 2.0, 2: 1.0, 4: loss})
