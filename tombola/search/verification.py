"""What a verification came to: a verdict, the means of all arms, and the sentences that a person wants."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from math import isfinite
from statistics import mean
from typing import Any

from tombola.control import Control
from tombola.controls import CONTROLS
from tombola.study.further import Further, apart
from tombola.study.records import criteria_record, record
from tombola.study.sentences import sentences
from tombola.study.verdict import Criteria, Metric, Trial, Verdict


@dataclass(frozen=True)
class Mean:
    """What one arm came to.

    Attributes:
        arm: `dense`, `ticket` or a control.
        metric: its mean over the replicates.
        early_stop: the mean of the steps of minimum validation loss; None where there is none to be found.
        n: replicates that ended in numbers.
    """

    arm: str
    metric: float
    early_stop: float | None
    n: int


@dataclass(frozen=True)
class Verification:
    """What came out: the verdict on the ticket, and the trainings that it rests on.

    Attributes:
        notes: what else has to be known, in sentences: which trainings are left out, as they ended in no number; which
            weights the control reinit leaves as they were.
        controls: with the words that are used of them.
        further: the numbers that were looked at beside the metric of the verdict.
    """

    verdict: Verdict
    trials: tuple[Trial, ...]
    criteria: Criteria
    notes: tuple[str, ...] = ()
    controls: tuple[Control, ...] = tuple(CONTROLS.values())
    further: tuple[Further, ...] = ()

    @property
    def means(self) -> tuple[Mean, ...]:
        """Arm by arm, the dense network first."""
        arms = {arm: [trial for trial in self.trials if trial.arm == arm] for arm in _arms(self.trials)}
        return tuple(
            Mean(
                arm,
                mean(trial.accuracy for trial in trials),
                mean(trial.step for trial in trials) if self.criteria.paced else None,
                len(trials),
            )
            for arm, trials in arms.items()
        )

    @property
    def sentences(self) -> tuple[str, ...]:
        """The verdict and what it rests on, for people."""
        metric, n, coarse = self.criteria.metric, self.verdict.dense.accuracy.n, []
        if self.criteria.accuracy_grain > self.criteria.accuracy_margin > 0:
            step, margin = (
                f"{metric.scale * each:.3g} {metric.unit}".rstrip()
                for each in (self.criteria.accuracy_grain, self.criteria.accuracy_margin)
            )
            coarse = [
                f"The {metric.label} is known in steps of {step}, wider than the margin of {margin}: a larger test set "
                "decides more."
            ]
        orders = f"{n} data orders" if n > 1 else "one data order"
        about = f"The replicates are {orders} of one initialisation: this is about this ticket, not about others."
        controls = {control.name: control for control in self.controls}
        beside = [each.sentence for each in self.further]
        if beside:
            beside.append(apart(metric, self.further, self.criteria.confidence))
        return (*sentences([self.verdict], self.criteria, controls), *coarse, *beside, *self.notes, about)

    def record(self) -> dict[str, Any]:
        """All of it as JSON values; an interval without ends has None for them."""
        values = {
            "criteria": criteria_record(self.criteria),
            "means": [asdict(each) for each in self.means],
            "verdict": record(self.verdict, self.criteria.metric),
            "trials": [asdict(trial) for trial in self.trials],
            "sentences": list(self.sentences),
        }
        if self.further:
            values["further"] = [asdict(each) | {"sentence": each.sentence} for each in self.further]
        plain: dict[str, Any] = _finite(values)
        return plain

    def __str__(self) -> str:
        """A table of means, arm by arm, then plain sentences."""
        metric, paced = self.criteria.metric, self.criteria.paced
        beside = [_headed(each.metric) for each in self.further]
        head = ["arm", _headed(metric), *(["early stop"] if paced else []), *beside, "n"]
        rows = [
            [
                each.arm,
                _cell(each.metric, metric),
                *([] if each.early_stop is None else [f"{each.early_stop:,.0f}"]),
                *(_cell(one.means.get(each.arm), one.metric) for one in self.further),
                str(each.n),
            ]
            for each in self.means
        ]
        widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
        lines = [
            "  ".join(
                [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
            )
            for row in (head, *rows)
        ]
        return "\n".join([*lines, "", *self.sentences])


def _headed(metric: Metric) -> str:
    return metric.label + {"points": " %", "": ""}.get(metric.unit, f" {metric.unit}")


def _cell(value: float | None, metric: Metric) -> str:
    if value is None:
        return "-"
    return f"{100 * value:.2f}" if metric.unit == "points" else f"{value:.5g}"


def _arms(trials: Sequence[Trial]) -> list[str]:
    return list(dict.fromkeys(trial.arm for trial in trials))


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _finite(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not isfinite(value) else value
