"""Components: into how many parts does a mask fall that share no weight, and would a random one of its size?"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import mean
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from tombola import models
from tombola.charts import Figure, by_density
from tombola.errors import Fault
from tombola.lab.fields import Arms, Levels
from tombola.lab.kinds import Measured, Measurement, Seen
from tombola.lab.studies import checks
from tombola.lab.studies.study import (
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
from tombola.mark import Mark
from tombola.value import Value

if TYPE_CHECKING:
    from tombola.study.components import Apart

CHANCE = "random masks of equal counts"


class Components(Measurement):
    """The parts of a mask, and how many as many weights of each layer make that are drawn at random.

    Attributes:
        draws: of such random masks.
    """

    name: Literal["components"] = "components"
    draws: int

    def of(self, seen: Seen) -> dict[str, Any]:
        from tombola.mask import random_like
        from tombola.study.components import components, of_parts

        drawn = (random_like(seen.mask, seen.seed + draw) for draw in range(self.draws))
        chance = [len(components(each, seen.model)) for each in drawn]
        return {**of_parts(components(seen.mask, seen.model)), "chance": chance}


class ComponentsSpec(Value):
    """Into how many parts masks fall that share no weight, beside random masks: `study.components`.

    Attributes:
        arms: whose masks, those of the spec, of controls the first draw.
        draws: random masks with the same layer-wise counts, beside each.
    """

    levels: Levels = Field(min_length=1)
    arms: Arms = ("ticket",)
    draws: int = Field(20, ge=1, le=1000)


def faults(table: ComponentsSpec, setting: Setting) -> Iterator[Fault]:
    """What of the table the experiment cannot answer."""
    yield from checks.levels("components", table.levels, setting, least=1, of_trained=True)
    yield from checks.arms("components", table.arms, setting)
    model = setting.spec.recipe.model
    if models.family(model) not in models.CHAINS:
        yield Fault(
            "study.components",
            "a model whose layers each read what the one before gives, and nothing else: lenet, conv or vgg",
            repr(model),
            "through sums, joins and attention nobody follows a mask's parts",
        )


def questions(table: ComponentsSpec, series: Series) -> Iterator[Question]:
    """Take each mask apart."""
    replicate, measurement = series.replicate, Components(draws=table.draws)
    for level in table.levels:
        for arm in table.arms:
            training = series.training(arm, level)
            run = Measured.of(measurement, training, seed=replicate.seed(f"components {arm} {level}"))
            yield Question("components", arm, replicate.number, level, replicate.rewind_step, run, training)


@dataclass(frozen=True)
class ComponentsFinding(Finding):
    """Into how many parts an arm's masks fall at one level and rewind step."""

    study: ClassVar[str] = "components"
    arm: str
    level: int
    density: float
    apart: "Apart"


def findings(table: ComponentsSpec, evidence: Evidence) -> Iterator[ComponentsFinding]:
    """The parts, wherever an arm's masks have been taken apart."""
    from tombola.study.components import Apart, parts_of, sentence
    from tombola.study.paired import paired

    groups = grouped(evidence.answers, lambda question: (question.level, question.rewind, question.arm))
    for (level, rewind, arm), answers in groups.items():
        values = [one.values for (one,) in by_replicate(answers).values()]
        counts, chances = ([float(each["parts"]) for each in values], [mean(each["chance"]) for each in values])
        apart = Apart(
            paired(counts, evidence.confidence),
            paired([own - chance for own, chance in zip(counts, chances, strict=True)], evidence.confidence),
            paired([each["largest"] for each in values], evidence.confidence),
        )
        density = mean(answer.density for answer in answers)
        reason = sentence(density, arm, apart, parts_of(values[0]))
        yield ComponentsFinding(arm, level, density, apart, rewind=rewind, reason=reason)


def figures(findings: Sequence[ComponentsFinding], marks: Marks) -> dict[str, Figure]:
    """How many parts there are against the density, one line for each arm and one for chance."""
    data: dict[str, list[dict[str, Any]]] = {}
    for each in findings:
        name = f"parts of masks, k = {each.rewind:,}" if each.rewind else "parts of masks"
        beside = {CHANCE: each.apart.parts.mean - each.apart.more.mean} if each.arm == findings[0].arm else {}
        data.setdefault(name, []).extend(
            {"arm": arm, "density": 100 * each.density, "parts": parts}
            for arm, parts in {each.arm: each.apart.parts.mean, **beside}.items()
        )
    spec = by_density(data, "parts", "parts, on average", {**marks, CHANCE: Mark("#888888", (2, 2), "square")})
    caption = "Into how many parts masks fall that have a path from an input to an output and share no weight."
    return {"components": Figure(spec, caption)}


STUDY = Study(
    name="components",
    table=ComponentsSpec,
    questions=questions,
    findings=findings,
    figures=figures,
    faults=faults,
    about="Into how many parts that share no weight do masks fall, and would random ones?",
    example="study.components.levels=5",
    of_numbers=True,
    of_weights=True,
)
