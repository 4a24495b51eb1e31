"""Linear connectivity: do two trainings from one start, in other data orders, end in the same valley?

The numbers are those of `tombola.study.connectivity`, whose page has the formulas.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import mean
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import Field

from tombola.charts import Figure, styled
from tombola.errors import Fault
from tombola.lab.fields import MOST, MOST_STEPS, Arms, Levels
from tombola.lab.kinds import Line
from tombola.lab.studies import checks
from tombola.lab.studies.study import (
    Answer,
    Evidence,
    Finding,
    Marks,
    Question,
    Series,
    Setting,
    Study,
    by_replicate,
    grouped,
)
from tombola.mark import COLOURS
from tombola.value import Count, Value

if TYPE_CHECKING:
    from tombola.study.connectivity import Instability, Statistics


class ConnectivitySpec(Value):
    """How high the error rises between two trainings from one start in different data orders: `study.connectivity`.

    Attributes:
        levels: of the networks; 0 is the dense one.
        arms: which networks at these levels: `ticket`, and controls.
        orders: trainings of each; every two of them are a pair.
        points: on the line between two, its ends included.
        examples: of the training set and of the test set each, at which the error is measured; None for all.
    """

    levels: Levels = Field(min_length=1)
    arms: Arms = Field(default=("ticket",), min_length=1)
    orders: Count = Field(default=3, ge=2, le=MOST)
    points: Count = Field(default=30, ge=2, le=MOST)
    examples: Annotated[Count, Field(gt=0, le=MOST_STEPS)] | None = None


def faults(table: ConnectivitySpec, setting: Setting) -> Iterator[Fault]:
    """What of the table the experiment cannot answer."""
    yield from checks.orders("connectivity", table.orders, len(table.levels) * len(table.arms), setting)
    yield from checks.levels("connectivity", table.levels, setting, least=0)
    for place, arm in enumerate(table.arms):
        if arm not in (known := ("ticket", *setting.controls)):
            yield Fault(f"study.connectivity.arms.{place}", f"one of {', '.join(known)}", repr(arm))
    yield from checks.repeated("study.connectivity.arms", "arm", table.arms)


def questions(table: ConnectivitySpec, series: Series) -> Iterator[Question]:
    """The error along the line between any two trainings of each arm in other data orders."""
    for level in table.levels:
        for arm in table.arms if level else ("dense",):
            training = series.training(arm, level)
            for pair in series.pairs(training, table.orders):
                ends, recipe = (pair.left, pair.right), training.recipe
                yield Question(
                    study="connectivity",
                    arm=arm,
                    replicate=series.replicate.number,
                    level=level,
                    rewind=series.replicate.rewind_step,
                    run=Line(*ends, recipe, training.split_seed, table.points, table.examples),
                    density_of=training,
                    names=pair.names(arm, level),
                )


@dataclass(frozen=True)
class ConnectivityFinding(Finding):
    """The barrier of an arm's networks at one level and rewind step.

    Attributes:
        on: the images that the error is of, `test` or `train`.
        alphas, lines: the points, and the error at each by pair.
    """

    study: ClassVar[str] = "connectivity"
    arm: str
    level: int
    on: str
    found: "Instability"
    alphas: tuple[float, ...]
    lines: tuple[tuple[float, ...], ...]

    @property
    def sentence(self) -> str:
        return self.reason  # which says the step that both trainings start from

    @property
    def headline(self) -> bool:
        """Of the lines the test error alone, with statistics that suit every point."""
        return self.on == "test" and self.found.statistics in ("none", "recomputed")


def findings(table: ConnectivitySpec, evidence: Evidence) -> Iterator[ConnectivityFinding]:
    """How far the error rises, and whether that is stable, for each treatment of statistics and each set of images."""
    groups = grouped(evidence.answers, lambda question: (question.rewind, question.level, question.arm))
    for group in groups.values():
        for statistics in group[0].values["errors"]:
            for on in ("test", "train"):
                yield _connected(table, evidence, group, statistics, on)


def _connected(
    table: ConnectivitySpec, evidence: Evidence, answers: Sequence[Answer], statistics: "Statistics", on: str
) -> ConnectivityFinding:
    from tombola.study.connectivity import judge

    facts, first = evidence.spec.facts, answers[0]
    size = facts.test if on == "test" else facts.train
    instability = judge(
        mean(answer.density for answer in answers),
        first.question.rewind,
        [[answer.values["barriers"][statistics][on] for answer in group] for group in by_replicate(answers).values()],
        statistics,
        confidence=evidence.confidence,
        grain=facts.grain(min(table.examples or size, size)),
        error=f"{on} error",
    )
    return ConnectivityFinding(
        first.question.arm,
        first.question.level,
        on,
        instability,
        tuple(first.values["alphas"]),
        tuple(tuple(answer.values["errors"][statistics][on]) for answer in answers),
        rewind=first.question.rewind,
        reason=f"{first.question.arm}: {instability.reason}",
    )


def figures(findings: Sequence[ConnectivityFinding], marks: Marks) -> dict[str, Figure]:
    """The error along the lines, and where there are several rewind steps the barrier against them."""
    lines = (
        "Test error on the straight line between the ends of two trainings that differ in data order alone, mean "
        "over initialisations and pairs. A hump is a barrier: the two do not lie in one valley."
    )
    barriers = (
        "How far the test error rises on that line, against the step that both trainings start from; bars are "
        "intervals over initialisations. Below the dashed line, 2 points, a network counts as stable."
    )
    of_test = [finding for finding in findings if finding.on == "test"]
    drawn = {"connectivity": Figure(_lines(of_test), lines)}
    if len({finding.rewind for finding in of_test}) > 1:
        drawn["barriers"] = Figure(_barriers(of_test), barriers)
    return drawn


def _names(findings: Sequence[ConnectivityFinding]) -> list[str]:
    """What each finding is about, as far as it has to be said to tell them apart."""
    several = len({finding.rewind for finding in findings}) > 1
    return [
        f"{finding.arm} {100 * finding.found.density:.3g} %" + (f", k = {finding.rewind:,}" if several else "")
        for finding in findings
    ]


def _lines(findings: Sequence[ConnectivityFinding]) -> dict[str, Any]:
    import altair as alt

    names = _names(findings)
    order = list(dict.fromkeys(names))
    panels = list(dict.fromkeys(finding.found.statistics for finding in findings))
    data: dict[str, list[dict[str, Any]]] = {
        panel: [
            {"network": name, "alpha": alpha, "error": 100 * mean(line[place] for line in finding.lines)}
            for name, finding in zip(names, findings, strict=True)
            if finding.found.statistics == panel
            for place, alpha in enumerate(finding.alphas)
        ]
        for panel in panels
    }
    scale = alt.Scale(domain=order)
    charts = [
        alt.Chart(alt.NamedData(panel), title="" if panel == "none" else f"running statistics {panel}")
        .mark_line(strokeWidth=2)
        .encode(
            x=alt.X("alpha:Q", title="alpha, from one end to the other", axis=alt.Axis(tickCount=5)),
            y=alt.Y("error:Q", title="test error (%)", scale=alt.Scale(zero=False)),
            color=alt.Color("network:N", sort=order, title=None, scale=alt.Scale(domain=order, range=list(COLOURS))),
            strokeDash=alt.StrokeDash("network:N", sort=order, title=None, scale=scale),
        )
        .properties(width=600 // len(panels) - 20, height=280)
        for panel in panels
    ]
    return styled(alt.hconcat(*charts), data)


def _barriers(findings: Sequence[ConnectivityFinding]) -> dict[str, Any]:
    import altair as alt

    points = [_point(finding) for finding in findings]
    order = list(dict.fromkeys(point["network"] for point in points))
    base = alt.Chart(alt.NamedData("points")).encode(
        x=alt.X("step:Q", title="step k that both trainings start from", axis=alt.Axis(tickCount=6)),
        color=alt.Color("network:N", sort=order, title=None, scale=alt.Scale(domain=order, range=list(COLOURS))),
    )
    line = base.mark_line(strokeWidth=2).encode(
        y=alt.Y("barrier:Q", title="barrier, points of test error"),
        strokeDash=alt.StrokeDash("network:N", sort=order, title=None, scale=alt.Scale(domain=order)),
    )
    bars = base.mark_rule().encode(y="low:Q", y2="high:Q")
    dots = base.mark_point(filled=True, size=50, opacity=1).encode(y="barrier:Q")
    bound = alt.Chart(alt.NamedData("bound")).mark_rule(strokeDash=[3, 3], color="#444444").encode(y="barrier:Q")
    chart = alt.layer(bars, line, dots, bound).properties(width=600, height=300)
    return styled(chart, {"points": points, "bound": [{"barrier": 2}]})


def _point(finding: ConnectivityFinding) -> dict[str, Any]:
    statistics = "" if finding.found.statistics == "none" else f", {finding.found.statistics}"
    risen = finding.found.barrier
    low, high = (risen.low, risen.high) if risen.n > 1 else (risen.mean, risen.mean)
    return {
        "network": f"{finding.arm} {100 * finding.found.density:.3g} %{statistics}",
        "step": finding.rewind,
        "barrier": 100 * risen.mean,
        "low": max(100 * low, 0),
        "high": min(100 * high, 100),
    }


STUDY = Study(
    name="connectivity",
    table=ConnectivitySpec,
    questions=questions,
    findings=findings,
    figures=figures,
    faults=faults,
    about="How high does the error rise between two trainings from one start in other data orders?",
    paper="[Linear Mode Connectivity](https://arxiv.org/abs/1912.05671)",
    year=2020,
    rest="errors on training images, running statistics interpolated",
    example="study.connectivity.levels=0,5",
)
