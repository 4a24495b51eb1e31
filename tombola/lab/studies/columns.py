"""Columns: do tickets disconnect what is useless in an input, also where its axes are turned, and does it make up for
what a tree has over a network?

The numbers are those of `tombola.study.columns`, whose page has the formulas.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import mean
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from tombola import models
from tombola.charts import Figure, by_density
from tombola.data import changed_inputs, variants
from tombola.data.facts import Facts
from tombola.errors import Fault
from tombola.lab.fields import Arms, Levels
from tombola.lab.kinds import Measured, Measurement, Seen, Tree
from tombola.lab.studies import checks
from tombola.lab.studies.alignment import first_layer
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
from tombola.value import Value

if TYPE_CHECKING:
    from torch import Tensor

    from tombola.study.columns import Mind

DENSE, TREE = "dense", "tree"
NOISE, LEAST = "noise columns", "the columns, a quarter at most, that by themselves say least of the answer"


class FirstLayer(Measurement):
    """How much of a first layer is on useless columns, and how good the network is at the end."""

    name: Literal["first-layer"] = "first-layer"

    def of(self, seen: Seen) -> dict[str, Any]:
        from tombola.evaluate import evaluate
        from tombola.study.columns import heard

        data, name = seen.dataset, first_layer(seen.recipe.model, seen.dataset.facts)
        assert name
        weight, (useless, turn) = seen.weights[name], _useless(seen)
        alive = seen.mask[name].cpu() if name in seen.mask else weight.new_ones(weight.shape).bool()
        found = heard(weight, alive, useless, turn)
        tested = evaluate(seen.model, data, data.test_images, data.test_labels, seen.test, seen.recipe.precision)
        return {"kept": found.kept, "mass": found.mass, "chance": found.chance, "test": tested.accuracy}

    def examples(self, facts: Facts) -> int:
        return facts.test


def _useless(seen: Seen) -> "tuple[Tensor, Tensor | None]":
    """Which columns are useless, and what the inputs were turned by after there were such columns."""
    import torch

    from tombola.study.columns import least, told_alone

    inputs, labels = seen.inputs(seen.train)
    width = inputs[0].numel()
    found = changed_inputs.noise_columns(variants.parts(seen.recipe.data)[1])
    if found is None:
        return least(told_alone(inputs.cpu(), labels.cpu())), None
    count, turned = found
    useless = torch.arange(width) >= width - count
    return useless, torch.from_numpy(turned.turn(width)) if turned else None


class ColumnsSpec(Value):
    """How much of first layers is on useless columns, level by level, and a tree beside it: `study.columns`.

    Attributes:
        levels: 0 is the dense network.
        arms: whose networks, those of the spec, of controls the first draw.
    """

    levels: Levels = Field(min_length=1)
    arms: Arms = ("ticket",)


def faults(table: ColumnsSpec, setting: Setting) -> Iterator[Fault]:
    """What of the table the experiment cannot answer."""
    yield from checks.levels("columns", table.levels, setting, least=0, of_trained=True)
    yield from checks.arms("columns", table.arms, setting)
    recipe, known = setting.spec.recipe, setting.spec.facts
    if models.family(recipe.model) is not models.lenet:
        yield Fault("study.columns", "a model whose first layer reads columns: lenet-W1-W2-...", repr(recipe.model))
    if known.answers == "tasks":
        yield Fault(
            "study.columns", "classes, or a number asked for", f"{known.classes} tasks", "a tree has one answer"
        )
    inputs = tuple(recipe.inputs or ())
    kinds = [each.partition("-")[0] for each in inputs]
    if inputs and kinds not in (["noise"], ["noise", "rotated"]):
        todo = 'recipe.inputs = ["noise-N"], or ["noise-N", "rotated"]'
        yield Fault(
            "study.columns", "columns of noise, and nothing but a rotation behind them", str(list(inputs)), todo
        )


def questions(table: ColumnsSpec, series: Series) -> Iterator[Question]:
    """Look at each first layer, and grow a tree on the same examples."""
    replicate, dense = series.replicate, series.tickets[0]
    place = replicate.number, 0, replicate.rewind_step
    tree = Tree(dense.recipe.data, dense.split_seed, replicate.seed("tree"), dense.data_fingerprint)
    yield Question("columns", TREE, *place, tree, dense)
    for level in table.levels:
        for arm in table.arms if level else [DENSE]:
            training = series.training(arm, level) if level else dense
            run = Measured.of(FirstLayer(), training, seed=0)
            yield Question("columns", arm, replicate.number, level, replicate.rewind_step, run, training)


@dataclass(frozen=True)
class ColumnsFinding(Finding):
    """How much of an arm's first layers is on useless columns at one level and rewind step."""

    study: ClassVar[str] = "columns"
    arm: str
    level: int
    density: float
    mind: "Mind"


def findings(table: ColumnsSpec, evidence: Evidence) -> Iterator[ColumnsFinding]:
    """What first layers and trees say, wherever a replicate has both."""
    spec = evidence.spec
    _, ways = variants.parts(variants.named(spec.recipe.data, spec.recipe.inputs or ()))
    which = NOISE if changed_inputs.noise_columns(ways) else LEAST
    trees = {one.question.replicate: one.values["test"] for one in evidence.answers if one.question.arm == TREE}
    asked = [one for one in evidence.answers if one.question.arm != TREE and one.question.replicate in trees]
    for (level, rewind, arm), answers in grouped(asked, lambda one: (one.level, one.rewind, one.arm)).items():
        yield _finding(arm, level, rewind, answers, trees, evidence.confidence, which, spec.facts.measure)


def _finding(
    arm: str,
    level: int,
    rewind: int,
    answers: Sequence[Answer],
    trees: dict[int, float],
    confidence: float,
    which: str,
    measure: str,
) -> ColumnsFinding:
    from tombola.study.columns import Mind, sentence
    from tombola.study.paired import paired

    values = {number: one.values for number, (one,) in by_replicate(answers).items()}
    each = list(values.values())
    chance, turned = each[0]["chance"], each[0]["kept"] is None
    mind = Mind(
        None if turned else paired([one["kept"] - chance for one in each], confidence),
        paired([one["mass"] - chance for one in each], confidence),
        chance,
        mean(one["test"] for one in each),
        paired([one["test"] - trees[number] for number, one in values.items()], confidence),
    )
    density = mean(answer.density for answer in answers)
    reason = sentence(density, arm, mind, which, measure)
    return ColumnsFinding(arm, level, density, mind, rewind=rewind, reason=reason)


def figures(findings: Sequence[ColumnsFinding], marks: Marks) -> dict[str, Figure]:
    """The share of squared weights on useless columns against the density, each arm from the dense network on."""
    panels: dict[str, list[dict[str, Any]]] = {}
    arms = list(dict.fromkeys(each.arm for each in findings if each.arm != DENSE)) or [DENSE]
    for each in findings:
        for arm in arms if each.arm == DENSE else [each.arm]:
            share = 100 * (each.mind.chance + each.mind.mass.mean)
            record = {"arm": arm, "density": 100 * each.density, "share": share}
            name = f"k = {each.rewind:,}" if each.rewind else "squared weights on useless columns"
            panels.setdefault(name, []).append(record)
    spec = by_density(panels, "share", "of the first layer's squares (%)", marks)
    chance = findings[0].mind.chance
    caption = f"The share of squared weights that first layers have on useless columns; these are {chance:.1%} of all."
    return {"columns": Figure(spec, caption)}


STUDY = Study(
    name="columns",
    table=ColumnsSpec,
    questions=questions,
    findings=findings,
    figures=figures,
    faults=faults,
    about="Do tickets disconnect useless columns, also of turned inputs, and how far is a tree ahead of them?",
    example="study.columns.levels=5",
    of_weights=True,
)
