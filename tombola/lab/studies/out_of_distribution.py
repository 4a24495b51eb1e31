"""Out of distribution: does a ticket know what it was not trained on better, or worse, than other networks do?

The numbers are those of `tombola.study.out_of_distribution`. The other images are normalised as the training's own are,
by the mean and deviation of its data: by their own they would be made more alike.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from statistics import mean
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from tombola import data
from tombola.charts import BARS, Figure, by_density, in_panels, interval
from tombola.data import subset, variants
from tombola.data.facts import Facts
from tombola.errors import DataError, Fault
from tombola.lab.fields import Arms, Levels
from tombola.lab.kinds import Measured, Measurement, Seen
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
    grouped,
)
from tombola.value import Value

if TYPE_CHECKING:
    from torch import Tensor

    from tombola.study.features import Standing, Verdict

DENSE = "dense"
NOISE = "uniform-noise"
TITLES = {"max-softmax": "the largest softmax", "energy": "the energy"}


class Detection(Measurement):
    """The AUROC with which a network's answers tell its test set from another one.

    Attributes:
        data: whose test set; `uniform-noise`: as many images, of which every value is as probable.
        fingerprint: of that data set's facts; None of noise.
    """

    name: Literal["detection"] = "detection"
    data: str
    fingerprint: str | None

    @property
    def further_data(self) -> tuple[str, ...]:
        return () if self.data == NOISE else (self.data,)

    def of(self, seen: Seen) -> dict[str, Any]:
        """By each score."""
        import torch

        from tombola.evaluate import outputs
        from tombola.study.out_of_distribution import detection

        own, precision = seen.dataset, seen.recipe.precision
        inside = outputs(seen.model, own, own.test_images, seen.test, precision)
        images, known = _others(self, seen)
        as_ours = replace(own, facts=replace(own.facts, white=known.white))  # its bytes, our mean and deviation
        return detection(inside, outputs(seen.model, as_ours, images, torch.arange(len(images)), precision))

    def examples(self, facts: Facts) -> int:
        return (facts.test + (facts if self.data == NOISE else data.facts(self.data)).test) // 3  # forwards alone


def _others(asked: Detection, seen: Seen) -> "tuple[Tensor, Facts]":
    import torch

    if asked.data != NOISE:
        other = seen.datasets[asked.data]
        return other.test_images, other.facts
    known = seen.dataset.facts
    draw = torch.Generator().manual_seed(seen.seed)
    return torch.randint(known.white + 1, (known.test, *known.shape), generator=draw, dtype=torch.uint8), known


class OutOfDistributionSpec(Value):
    """Whether tickets know what they were not trained on: `study.out_of_distribution`.

    Attributes:
        levels: of the tickets; the dense network stands beside them.
        arms: whose networks, the ticket and any other arm of the spec.
        data: whose test set they shall tell from their own; images of the same shape, or `uniform-noise`.
    """

    levels: Levels = Field(min_length=1)
    arms: Arms = ("ticket",)
    data: str


def faults(table: OutOfDistributionSpec, setting: Setting) -> Iterator[Fault]:
    """What of the table the experiment cannot answer."""
    yield from checks.levels("out_of_distribution", table.levels, setting, least=1, of_trained=True)
    yield from checks.arms("out_of_distribution", table.arms, setting)
    if "ticket" not in table.arms:
        yield Fault("study.out_of_distribution.arms", "the ticket, which all others stand beside", repr(table.arms))
    recipe, own, where = setting.spec.recipe, setting.spec.facts, "study.out_of_distribution"
    if own.text or own.real or own.answers != "class":
        yield Fault(
            where,
            "images, and answers that are classes",
            f"{recipe.data}, whose answers are {own.answers}" if own.answers != "class" else recipe.data,
            "leave the study out",
        )
    elif recipe.inputs:
        yield Fault(where, "inputs that are not changed, as those of other data are not", f"{list(recipe.inputs)}")
    elif table.data != NOISE:
        yield from _unlike(table.data, recipe.data, own)


def _unlike(name: str, own_name: str, own: Facts) -> Iterator[Fault]:
    """What keeps a data set from being another one of the same form."""
    path = "study.out_of_distribution.data"
    try:
        known = data.facts(name)
    except (ValueError, DataError) as error:
        yield Fault(path, f"{NOISE}, or {error}", repr(name))
        return
    if _whole(name) == _whole(own_name):
        yield Fault(path, f"other data than those of the recipe, whose test set is that of {_whole(own_name)}", name)
    elif known.text or known.real or known.shape != own.shape:
        form = "no images in bytes" if known.text or known.real else f"images of {_size(known)}"
        yield Fault(path, f"images of {_size(own)}, as those of {own_name}", f"{name}, {form}")


def _whole(name: str) -> str:
    return name if data.is_folder(name) else subset.parts(variants.parts(name)[0])[0]


def _size(known: Facts) -> str:
    return " x ".join(map(str, known.shape))


def questions(table: OutOfDistributionSpec, series: Series) -> Iterator[Question]:
    """Measure the dense network, the ticket and the other arms where their trainings end."""
    replicate = series.replicate
    seed = replicate.seed("out of distribution")
    asked = Detection(data=table.data, fingerprint=None if table.data == NOISE else data.facts(table.data).fingerprint)
    for level in table.levels:
        trainings = {DENSE: series.tickets[0], **{arm: series.training(arm, level) for arm in table.arms}}
        for arm, training in trainings.items():
            run = Measured.of(asked, training, seed)
            where = arm, replicate.number, level, replicate.rewind_step
            yield Question("out_of_distribution", *where, run, training, asked.name)


@dataclass(frozen=True)
class OutOfDistributionFinding(Finding):
    """The AUROC of all arms by one score, at one level and rewind step.

    Attributes:
        density: P_m of the tickets.
        data: what was told from their own test set.
        score: `max-softmax` or `energy`.
        verdict: on the guess that tickets know better than the others what they were not trained on.
    """

    study: ClassVar[str] = "out_of_distribution"
    level: int
    density: float
    data: str
    score: str
    arms: "tuple[Standing, ...]"
    verdict: "Verdict"


def findings(table: OutOfDistributionSpec, evidence: Evidence) -> Iterator[OutOfDistributionFinding]:
    """For each level and score, the ticket beside the dense network and the other arms."""
    groups = grouped(evidence.answers, lambda question: (question.level, question.rewind))
    for (level, rewind), answers in groups.items():
        tickets = [answer.density for answer in answers if answer.question.arm != DENSE]
        for score in TITLES:
            yield _found(table, evidence, (level, rewind), answers, mean(tickets or [1.0]), score)


def _found(
    table: OutOfDistributionSpec,
    evidence: Evidence,
    where: tuple[int, int],
    answers: Sequence[Answer],
    density: float,
    score: str,
) -> OutOfDistributionFinding:
    from tombola.study import features

    values: dict[str, dict[int, float]] = {}
    for answer in answers:
        values.setdefault(answer.question.arm, {})[answer.question.replicate] = answer.values[score]
    grain = 1 / evidence.spec.facts.test  # an example that moves past all others moves the AUROC by that
    arms = features.standings(values, evidence.confidence, grain)
    told = features.told(arms, "better at it than", "worse at it than", "tickets know better what they do not know")
    n = max(each.value.n for each in arms)
    own = evidence.spec.recipe.data
    reason = (
        f"At {density:.1%}, {TITLES[score]} tells {own} from {table.data} with an AUROC of "
        f"{features.listed(arms, within=(0, 1))}; n = {n}, each interval for itself: {told}."
    )
    level, rewind = where
    verdict = features.verdict(arms)
    return OutOfDistributionFinding(level, density, table.data, score, arms, verdict, rewind=rewind, reason=reason)


def figures(findings: Sequence[OutOfDistributionFinding], marks: Marks) -> dict[str, Figure]:
    """The AUROC against the density of tickets, by each score, one line for each arm."""
    points = []
    for one in findings:
        name = TITLES[one.score].removeprefix("the ") + (f", k = {one.rewind:,}" if one.rewind else "")
        for each in one.arms:
            density = 1.0 if each.arm == DENSE else one.density
            points.append((name, each.arm, 100 * density, interval("auroc", each.value, within=(0, 1))))
    caption = (
        f"How well networks tell their own test set from {findings[0].data} (1: always; 0.5, a dashed line where the "
        f"axis reaches so far: by chance). Points are means over replicates, {BARS}; the dense network is at 100 %."
    )
    drawn = by_density(in_panels(points), "auroc", "AUROC", marks, across=0.5, zero=False)
    return {"out_of_distribution": Figure(drawn, caption)}


STUDY = Study(
    name="out_of_distribution",
    table=OutOfDistributionSpec,
    questions=questions,
    findings=findings,
    figures=figures,
    faults=faults,
    about="Do tickets tell examples that are none of their data from those that are, better than other networks do?",
    paper="[A Baseline for Detecting Misclassified and Out-of-Distribution Examples](https://arxiv.org/abs/1610.02136)",
    year=2017,
    example="study.out_of_distribution={levels=[5],data='uniform-noise'}",
)
