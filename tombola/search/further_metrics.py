"""Further metrics of a verification: which they are, and what the trainings reported of them."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from difflib import get_close_matches
from math import isfinite
from typing import Any

from tombola.errors import BadInput
from tombola.search.grain import grain
from tombola.search.level_run import Report
from tombola.search.verdict_settings import VerdictSettings
from tombola.study.further import Numbers
from tombola.study.verdict import ACCURACY, Metric, Trial

MISSPELT = 0.85  # alike from here on: robust_accuracy is another number than accuracy
LESS = ("loss", "nll", "brier", "ece", "error")  # is better, of what has such a name or ends in one


def with_further(settings: VerdictSettings, given: Sequence[str | Metric], reported: Sequence[str]) -> VerdictSettings:
    """The settings with metrics that are looked at beside the first.

    Args:
        given: names of which it is known which way they are better, or metrics.
        reported: names of what the search's levels reported.

    Raises:
        BadInput: it is not known which way one is better, or it is named twice.
    """
    several = isinstance(given, Collection) and not isinstance(given, str)
    listed: list[Any] = list(given) if several else [given]
    if not several or not all(isinstance(each, Metric) or (isinstance(each, str) and each) for each in listed):
        raise BadInput(
            where="verify(also=...)",
            expected="a list of names under which level.report gets further numbers, or of metrics",
            found=repr(given),
            todo="also=['ece'], for one.",
        )
    made = tuple(each if isinstance(each, Metric) else _known(each, reported) for each in listed)
    names = [settings.metric.name, *(each.name for each in made)]
    if len(set(names)) < len(names):
        raise BadInput(
            where="verify(also=...)",
            expected="each number once, and not the one that the verdict is about",
            found=", ".join(names),
            todo="Name further ones, or none.",
        )
    return replace(settings, also=made)


def _known(name: str, reported: Sequence[str]) -> Metric:
    """The metric of a name that says which way it is better."""
    if name not in reported and (close := get_close_matches(name, reported, 1, MISSPELT)):
        raise BadInput(
            where="verify(also=...)",
            expected=f"the name of a number that is reported ({', '.join(reported)})",
            found=repr(name),
            todo=f"Did you mean {close[0]}?",
        )
    last = name.rpartition("_")[2]
    if last == ACCURACY.name:
        return replace(ACCURACY, name=name)
    if last in LESS:
        return Metric(name, higher_is_better=False)
    raise BadInput(
        where="verify(also=...)",
        expected=f"a name that ends in accuracy, {', '.join(LESS)}, or a metric that says which way it is better",
        found=repr(name),
        todo=f"also=[tombola.study.verdict.Metric({name!r}, higher_is_better=True)].",
    )


def numbers_of(
    settings: VerdictSettings, rows: Mapping[tuple[str, int], Sequence[Report]], trials: Sequence[Trial]
) -> tuple[list[Numbers], list[str]]:
    """What the trainings reported of each further metric, and sentences on what they did not.

    It is taken at the step that the verdict is about where every training has it there, else the last that each has.

    Args:
        rows: by arm and replicate, one for each step.
        trials: those of which the verdict is.
    """
    steps = {(trial.arm, trial.replicate): trial.step for trial in trials}
    found, missing = [], []
    for metric in settings.also:
        known = {at: [row for row in rows[at] if metric.name in row.metrics] for at in steps}
        lacking = sorted({arm for (arm, _), own in known.items() if not own})
        if lacking:
            missing.append(
                f"No {metric.label} was reported in some training of {', '.join(lacking)}, so nothing is said of it."
            )
            continue
        there = all(any(row.step == steps[at] for row in own) for at, own in known.items())
        values: dict[str, dict[int, float]] = {}
        for (arm, replicate), own in known.items():
            row = next(row for row in own if row.step == steps[arm, replicate]) if there else own[-1]
            values.setdefault(arm, {})[replicate] = row.metrics[metric.name]
        seen = [value for own in known.values() for row in own if isfinite(value := row.metrics[metric.name])]
        found.append(Numbers(metric, "the verdict's step" if there else "the last report", values, grain(seen)))
    return found, missing
