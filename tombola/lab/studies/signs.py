"""Signs: how many of the surviving weights end with another sign than they began with, level by level, arm by arm?"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import mean
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from tombola.charts import Figure, by_density
from tombola.errors import Fault
from tombola.lab.fields import Arms, Levels
from tombola.lab.kinds import Flips, Train
from tombola.lab.runs import Run
from tombola.lab.studies import checks
from tombola.lab.studies.study import (
    Evidence,
    Finding,
    Marks,
    Question,
    Series,
    Setting,
    Study,
    grouped,
)
from tombola.value import Value

if TYPE_CHECKING:
    from tombola.study.signs import Flipped

BEGINNING, REWIND = "at the beginning", "at the rewind point"


class SignsSpec(Value):
    """How many weights end with another sign than they began with, level by level: `study.signs`.

    Attributes:
        arms: whose networks, the ticket first; those of the spec, of controls the first draw.
    """

    levels: Levels = Field(min_length=1)
    arms: Arms = ("ticket",)


def faults(table: SignsSpec, setting: Setting) -> Iterator[Fault]:
    """What of the table the experiment cannot answer."""
    yield from checks.levels("signs", table.levels, setting, least=1, of_trained=True)
    yield from checks.arms("signs", table.arms, setting)


def questions(table: SignsSpec, series: Series) -> Iterator[Question]:
    """Compare each network with what it began with, and with the weights of step k."""
    replicate = series.replicate
    for level in table.levels:
        for arm in table.arms:
            training = series.training(arm, level)
            mask = replicate.mask_of(training)
            for since, run in beginnings(training, replicate.rewind_step):
                if mask is not None:
                    about = f"signs {since}"
                    flips, where = Flips(training, run, mask), (replicate.number, level, replicate.rewind_step)
                    yield Question("signs", arm, *where, flips, training, about)


def beginnings(training: Train, k: int) -> Iterator[tuple[str, Run]]:
    """The weights that a training goes back to through all that it was started from, and those of step k on the way."""
    run: Run = training
    while isinstance(run, Train):
        run = run.start
        if k and isinstance(run, Train) and run.until == k:
            yield REWIND, run
    yield BEGINNING, run


@dataclass(frozen=True)
class SignsFinding(Finding):
    """The shares of all arms at one level and rewind step, since the beginning or since the rewind point."""

    study: ClassVar[str] = "signs"
    level: int
    since: str
    density: float
    arms: "tuple[Flipped, ...]"


def findings(table: SignsSpec, evidence: Evidence) -> Iterator[SignsFinding]:
    """The shares, wherever an arm has answers."""
    from tombola.study.signs import flipped, sentence

    groups = grouped(evidence.answers, lambda question: (question.level, question.rewind, question.part))
    for (level, rewind, part), answers in groups.items():
        shares: dict[str, dict[int, float]] = {}
        for answer in answers:
            asked, living = answer.question, max(answer.values["living"], 1)
            shares.setdefault(asked.arm, {})[asked.replicate] = answer.values["flipped"] / living
        since, density = part.removeprefix("signs "), mean(answer.density for answer in answers)
        arms = flipped(shares, evidence.confidence)
        yield SignsFinding(level, since, density, arms, rewind=rewind, reason=sentence(density, since, arms))


def figures(findings: Sequence[SignsFinding], marks: Marks) -> dict[str, Figure]:
    """The shares against the density, one line for each arm."""
    caption = "How many of the surviving weights end with another sign than they began with."
    return {"signs": Figure(_lines(findings, marks), caption)}


def _lines(findings: Sequence[SignsFinding], marks: Marks) -> dict[str, Any]:
    data: dict[str, list[dict[str, Any]]] = {}
    for finding in findings:
        name = f"than {finding.since}" + (f", k = {finding.rewind:,}" if finding.rewind else "")
        data.setdefault(name, []).extend(
            {"arm": each.arm, "density": 100 * finding.density, "share": 100 * each.share.mean} for each in finding.arms
        )
    return by_density(data, "share", "with another sign (%)", marks)


STUDY = Study(
    name="signs",
    table=SignsSpec,
    questions=questions,
    findings=findings,
    figures=figures,
    faults=faults,
    about="How many of the surviving weights end with another sign than they began with?",
    paper="[Masks, Signs, And Learning Rate Rewinding](https://arxiv.org/abs/2402.19262)",
    year=2024,
    example="study.signs.levels=5",
)
