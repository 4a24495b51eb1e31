"""What is asked of arms that were trained: of which metric, which way it is better, and where in a training."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from itertools import pairwise
from math import inf, isfinite, nan

from tombola.errors import BadInput
from tombola.evaluate import early_stop
from tombola.search.grain import grain
from tombola.search.level_run import Report
from tombola.study.smoothed import smoothed_early_stop
from tombola.study.verdict import ACCURACY, Criteria, Metric, Trial

MARGIN = 0.002  # of accuracy, as in a spec


@dataclass(frozen=True)
class VerdictSettings:
    """What is asked of the arms.

    Attributes:
        metric: what is judged.
        margin: how much worse than dense, in the metric's own unit, is as good.
        examples: that the metric is a fraction of, where that is known.
        chance: the metric of guessing, in its own unit, where that is known.
        criteria: all else that counts, where it is given.
        also: further metrics, of which the arms are compared, too; no verdict rests on them.
    """

    metric: Metric
    margin: float
    examples: int | None
    chance: float | None
    criteria: Criteria | None
    also: tuple[Metric, ...] = ()

    @classmethod
    def of(
        cls,
        metric: str | Metric,
        higher_is_better: bool | None,
        margin: float | None,
        examples: int | None,
        chance: float | None,
        criteria: Criteria | None,
        reported: Sequence[str] = (),
    ) -> "VerdictSettings":
        """As `Search.verify` is given it.

        Args:
            reported: names of what the search's levels reported.

        Raises:
            BadInput: it is not known which way the metric is better, or what is as good; or it is said twice.
        """
        if examples is not None and (type(examples) is not int or examples < 1):
            raise BadInput(
                where="verify(examples=...)",
                expected="the number of examples in the test set",
                found=repr(examples),
                todo="Leave it out where the metric is no fraction of examples.",
            )
        if criteria:
            beside = higher_is_better, margin, chance
            if metric not in ("accuracy", criteria.metric) or any(each is not None for each in beside):
                raise BadInput(
                    where="verify(criteria=...)",
                    expected="criteria alone, which have the metric, its direction and its margin",
                    found=f"metric={metric!r} and higher_is_better, margin, chance = {beside} beside them",
                    todo="Criteria(accuracy_margin=0.2, step_margin=100, metric=Metric('psnr', unit='dB')).",
                )
            return cls(criteria.metric, criteria.accuracy_margin, examples, criteria.chance, criteria)
        compared = metric if isinstance(metric, Metric) else _metric(metric, higher_is_better, reported)
        if compared.unit == "points" and margin is None:
            margin = MARGIN
        _margin(compared, margin)
        _chance(compared, chance)
        assert margin is not None
        return cls(compared, margin, examples, chance, None)


def _metric(name: str, higher_is_better: bool | None, reported: Sequence[str]) -> Metric:
    if not isinstance(name, str) or not name:
        raise BadInput(
            where="verify(metric=...)",
            expected="the name under which level.report gets it",
            found=repr(name),
            todo="verify(metric='psnr', higher_is_better=True, margin=0.2).",
        )
    if name == ACCURACY.name and higher_is_better is not False:
        return ACCURACY
    if higher_is_better is None and (name == "loss" or name.endswith("_loss")):
        return Metric(name, higher_is_better=False)
    if higher_is_better is None and reported and name not in reported:
        close = get_close_matches(name, reported, n=1)
        raise BadInput(
            where="verify(metric=...)",
            expected=f"the name of a metric that was reported ({', '.join(reported)}), or higher_is_better=True or "
            "False beside another",
            found=repr(name),
            todo=f"Did you mean {close[0]}?" if close else "Name one of them.",
        )
    if type(higher_is_better) is not bool:
        raise BadInput(
            where=f"verify(metric={name!r})",
            expected="higher_is_better=True or False, which is known of accuracy and losses only",
            found=repr(higher_is_better),
            todo=f"verify(metric={name!r}, higher_is_better=True, margin=...).",
        )
    return Metric(name, higher_is_better)


def _margin(metric: Metric, margin: float | None) -> None:
    most = 1.0 if metric.unit == "points" else inf
    if isinstance(margin, int | float) and type(margin) is not bool and 0 <= margin < most:
        return
    raise BadInput(
        where=f"verify(metric={metric.name!r}, margin=...)",
        expected="a fraction from 0 to 1" if metric.unit == "points" else "how much worse than dense is as good, >= 0",
        found="none" if margin is None else repr(margin),
        todo="0.002 is 0.2 points." if metric.unit == "points" else "State it in the metric's own unit.",
    )


def _chance(metric: Metric, chance: float | None) -> None:
    fraction = metric.unit == "points"
    number = isinstance(chance, int | float) and type(chance) is not bool and isfinite(chance)
    if chance is None or (number and (not fraction or 0 <= chance <= 1)):
        return
    raise BadInput(
        where="verify(chance=...)",
        expected=f"the {metric.label} of guessing, " + ("a fraction from 0 to 1" if fraction else "in its own unit"),
        found=repr(chance),
        todo="Of ten classes of one size it is 0.1." if fraction else "Leave it out where it is not known.",
    )


def rows_of(reports: Sequence[Report], metric: str) -> list[Report]:
    """One row for each step, with all that was reported there; at least one has the metric."""
    steps: dict[int, Report] = {}
    for report in reports:
        metrics = {**steps[report.step].metrics, **report.metrics} if report.step in steps else report.metrics
        steps[report.step] = replace(report, metrics=metrics)
    rows = list(steps.values())
    if not any(metric in row.metrics for row in rows):
        others = list(dict.fromkeys(name for row in rows for name in row.metrics))
        raise BadInput(
            where="verify",
            expected=f"level.report({metric}=...) in what is to train",
            found=f"only {', '.join(others)}" if others else "none",
            todo="Report it after the rewind point, at the end at least"
            + (f"; or judge what is reported: verify(metric={others[0]!r}, margin=...)." if others else "."),
        )
    return rows


def _looks(rows: Sequence[Report], metric: str) -> list[Report]:
    """The rows at which an early stop was looked for: those with the metric and a validation loss."""
    return [row for row in rows if metric in row.metrics and "validation_loss" in row.metrics]


def criteria_of(settings: VerdictSettings, reports: Sequence[Sequence[Report]]) -> Criteria:
    """What counts, given the rows of all trainings.

    Steps are compared where every training has looked for its early stop; the grains are those that are seen.
    """
    name = settings.metric.name
    looks = [[row.step for row in _looks(rows, name)] for rows in reports]
    paced = all(len(steps) > 1 for steps in looks)
    values = [row.metrics[name] for rows in reports for row in rows if isfinite(row.metrics.get(name, inf))]
    known = grain(values, settings.examples)
    if asked := settings.criteria:
        return replace(asked, paced=asked.paced and paced, accuracy_grain=asked.accuracy_grain or known)
    interval = max((later - earlier for steps in looks for earlier, later in pairwise(steps)), default=0)
    return Criteria(
        settings.margin,
        interval,
        accuracy_grain=known,
        step_grain=interval,
        paced=paced,
        metric=settings.metric,
        chance=settings.chance,
    )


def trial_of(arm: str, replicate: int, rows: Sequence[Report], criteria: Criteria) -> Trial:
    """The row that counts: that of minimum validation loss, or where steps are not compared, the last one.

    Where no validation loss is a number, nor is the metric.
    """
    metric = criteria.metric.name
    known = [row for row in rows if metric in row.metrics]
    before = known[0].metrics[metric] if known[0].step == 0 else None
    if not criteria.paced:
        last = known[-1]
        return Trial(arm, replicate, last.level, last.density, last.step, last.metrics[metric], True, before=before)
    looks = _looks(rows, metric)
    numbers = [row for row in looks if isfinite(row.metrics["validation_loss"])]
    if not numbers:
        end = looks[-1]
        return Trial(arm, replicate, end.level, end.density, end.step, nan, True, before=before)
    losses = [row.metrics["validation_loss"] for row in numbers]
    stop = numbers[early_stop(losses)]
    return Trial(
        arm,
        replicate,
        stop.level,
        stop.density,
        stop.step,
        stop.metrics[metric],
        censored=stop is numbers[-1],
        first=stop is numbers[0],
        smoothed=smoothed_early_stop([row.step for row in numbers], losses) if len(numbers) == len(looks) else None,
        before=before,
    )
