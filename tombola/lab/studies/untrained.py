"""Untrained: what can the networks of the table do before a step of theirs is taken?

A mask on weights that nobody trains is a network, too: a supermask. Of every training the first look is at step k,
under its mask, so the answer is in the table's runs, and none is made for it. Under the score `large-final-same-sign`
the control `constant` has the masks and the weights that do best in *Deconstructing Lottery Tickets*.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import mean
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from tombola.charts import Figure, by_density
from tombola.errors import Fault
from tombola.lab.fields import Arms, Levels
from tombola.lab.studies import checks
from tombola.lab.studies.study import Evidence, Finding, Marks, Question, Series, Setting, Study
from tombola.value import Value

if TYPE_CHECKING:
    from tombola.study.untrained import Untrained


class UntrainedSpec(Value):
    """What networks can do before a step is taken, level by level: `study.untrained`.

    Attributes:
        arms: whose networks; those of the spec.
    """

    levels: Levels = Field(min_length=1)
    arms: Arms = ("ticket",)


def faults(table: UntrainedSpec, setting: Setting) -> Iterator[Fault]:
    """What of the table the experiment cannot answer."""
    yield from checks.levels("untrained", table.levels, setting, least=1)
    yield from checks.arms("untrained", table.arms, setting)


def questions(table: UntrainedSpec, series: Series) -> Iterator[Question]:
    """Nothing beside the trainings that the table has anyway."""
    yield from ()


@dataclass(frozen=True)
class UntrainedFinding(Finding):
    """The accuracies of all arms at one level and rewind step, where their trainings begin."""

    study: ClassVar[str] = "untrained"
    level: int
    density: float
    arms: "tuple[Untrained, ...]"


def findings(table: UntrainedSpec, evidence: Evidence) -> Iterator[UntrainedFinding]:
    """The accuracies, wherever an arm has finished trainings; of a control the mean over its draws."""
    from tombola.study.untrained import sentence, untrained

    for level in table.levels:
        for step in map(evidence.spec.iterations, evidence.spec.rewind):
            looks = {arm: _first_looks(evidence, arm, level, step) for arm in table.arms}
            accuracies = {arm: {each: mean(found) for each, found in own.items()} for arm, own in looks.items()}
            arms = untrained(accuracies, evidence.confidence)
            masks = [mask.density for arm in table.arms for mask in evidence.masks(arm, level, step)]
            if arms and masks:
                density = mean(masks)
                yield UntrainedFinding(level, density, arms, rewind=step, reason=sentence(density, arms))


def _first_looks(evidence: Evidence, arm: str, level: int, rewind: int) -> dict[int, list[float]]:
    """The test accuracies at the first look at the trainings of an arm, by replicate."""
    found: dict[int, list[float]] = {}
    for row in evidence.rows:
        if (row.arm, row.level, row.rewind) == (arm, level, rewind) and row.run.key in evidence.done:
            curve = evidence.store.values(row.run)["curve"]
            found.setdefault(row.replicate, []).append(float(curve["test_accuracy"][0]))
    return found


def figures(findings: Sequence[UntrainedFinding], marks: Marks) -> dict[str, Figure]:
    """The accuracies against the density, one line for each arm."""
    caption = "The test accuracy of networks before any step of theirs is taken."
    return {"untrained": Figure(_lines(findings, marks), caption)}


def _lines(findings: Sequence[UntrainedFinding], marks: Marks) -> dict[str, Any]:
    data: dict[str, list[dict[str, Any]]] = {}
    for finding in findings:
        name = f"k = {finding.rewind:,}" if finding.rewind else "at initialisation"
        data.setdefault(name, []).extend(
            {"arm": each.arm, "density": 100 * finding.density, "accuracy": 100 * each.accuracy.mean}
            for each in finding.arms
        )
    return by_density(data, "accuracy", "test accuracy (%)", marks)


STUDY = Study(
    name="untrained",
    table=UntrainedSpec,
    questions=questions,
    findings=findings,
    figures=figures,
    faults=faults,
    about="What can the networks of the table do before a step of theirs is taken, on weights that nobody trained?",
    paper="[Deconstructing Lottery Tickets](https://arxiv.org/abs/1905.01067)",
    year=2019,
    example="study.untrained.levels=5",
)
