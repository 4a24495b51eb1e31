"""Stability: do tickets end where the dense network ends, and twice in the same place?

The numbers are those of `tombola.study.stability`, whose page has the formulas.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from statistics import mean
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from tombola.charts import Figure, bars
from tombola.errors import Fault
from tombola.lab.fields import MOST, Levels
from tombola.lab.kinds import Distance
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
    TrainingPair,
    by_replicate,
    grouped,
)
from tombola.value import Count, Value

if TYPE_CHECKING:
    from tombola.study.stability import Distances, Stability, StabilityKind

ARMS = ("ticket", "random")  # a distance means something only beside that of a random mask with the same counts


class StabilitySpec(Value):
    """Where two trainings of a ticket end, and where a ticket ends beside the dense network: `study.stability`.

    Attributes:
        levels: of the tickets.
        orders: trainings of each, in as many data orders: the ticket's own and others.
    """

    levels: Levels = Field(min_length=1)
    orders: Count = Field(default=2, ge=2, le=MOST)


def faults(table: StabilitySpec, setting: Setting) -> Iterator[Fault]:
    """What of the table the experiment cannot answer."""
    yield from checks.orders("stability", table.orders, len(table.levels) * len(ARMS), setting)
    yield from checks.levels("stability", table.levels, setting, least=1)


def questions(table: StabilitySpec, series: Series) -> Iterator[Question]:
    """How far each arm ends from the dense network, and from itself in other data orders."""
    for level in table.levels:
        for arm in ARMS:
            training = series.training(arm, level)
            yield _question("pruning", arm, level, series, TrainingPair(series.tickets[0], training, (0, 0)))
            for pair in series.pairs(training, table.orders):
                yield _question("data order", arm, level, series, pair)


def _question(kind: "StabilityKind", arm: str, level: int, series: Series, pair: TrainingPair) -> Question:
    ticket = series.training(arm, level)
    return Question(
        study="stability",
        arm=arm,
        replicate=series.replicate.number,
        level=level,
        rewind=series.replicate.rewind_step,
        run=Distance(pair.left, pair.right, ticket.mask or ticket),
        density_of=ticket,
        part=kind,
        names=pair.names(arm, level),
    )


@dataclass(frozen=True)
class StabilityFinding(Finding):
    """The stability of one kind at one level and rewind step."""

    study: ClassVar[str] = "stability"
    level: int
    found: "Stability"


def findings(table: StabilitySpec, evidence: Evidence) -> Iterator[StabilityFinding]:
    """Are the tickets closer than random masks are? Wherever a replicate has answers for both."""
    from tombola.study.stability import judge

    groups = grouped(evidence.answers, lambda question: (question.part, question.level, question.rewind))
    for (kind, level, rewind), group in groups.items():
        ticket, random = (_distances(answer for answer in group if answer.question.arm == arm) for arm in ARMS)
        if ticket.keys() & random.keys():
            density = mean(answer.density for answer in group)
            found = judge(kind, density, ticket, random, evidence.confidence)
            yield StabilityFinding(level, found, rewind=rewind, reason=found.reason)


def _distances(answers: Iterable[Answer]) -> "dict[int, list[Distances]]":
    from tombola.study.stability import Distances

    return {
        number: [Distances(answer.values["l2"], answer.values["degrees"]) for answer in group]
        for number, group in by_replicate(answers).items()
    }


def figures(findings: Sequence[StabilityFinding], marks: Marks) -> dict[str, Figure]:
    """The distances of tickets, as bars beside those of random masks."""
    caption = (
        "How far apart trainings end over the surviving weights, tickets beside random masks with the same "
        "layer-wise counts: from the dense network (pruning), and from each other (data order)."
    )
    return {"stability": Figure(_bars(findings, marks), caption)}


def _bars(findings: Sequence[StabilityFinding], marks: Marks) -> dict[str, Any]:
    import altair as alt

    several = len({(finding.level, finding.rewind) for finding in findings}) > 1
    records: list[dict[str, Any]] = []
    for finding in findings:
        where = f", {100 * finding.found.density:.3g} %, k = {finding.rewind:,}" if several else ""
        for arm, ends in zip(ARMS, (finding.found.ticket, finding.found.random), strict=True):
            records.append({"kind": finding.found.kind + where, "arm": arm, "l2": ends.l2, "degrees": ends.degrees})
    x = alt.X("kind:N", title=None, sort=None, axis=alt.Axis(labelAngle=-30 if several else 0))
    return bars(records, x, {"l2": "L2 distance of the surviving weights", "degrees": "angle (degrees)"}, marks)


STUDY = Study(
    name="stability",
    table=StabilitySpec,
    questions=questions,
    findings=findings,
    figures=figures,
    faults=faults,
    about="Do tickets end where the dense network ends, and twice in the same place, more than random masks do?",
    paper="[Stabilizing the Lottery Ticket Hypothesis](https://arxiv.org/abs/1903.01611)",
    year=2019,
    example="study.stability.levels=5",
)
