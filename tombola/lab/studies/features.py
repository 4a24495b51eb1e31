"""Features: are those of tickets aligned with the labels, before and after training, and like the dense network's?

The numbers are those of `tombola.study.similarity`, whose page has the formulas.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from statistics import mean
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from tombola.charts import Drawn, Figure, by_density, lines
from tombola.data.facts import Facts
from tombola.errors import Fault
from tombola.lab.fields import Arms, Levels
from tombola.lab.kinds import Measured, Measurement, Seen, Train
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
from tombola.value import Count, Value

if TYPE_CHECKING:
    from torch import Tensor, nn

    from tombola.study.features import Standing, Verdict

START, END, ALIKE = "before training", "after training", "likeness"
TANGENT, ANSWERS = "tangent kernel", "answers"
OTHER = "dense"  # whose features an arm's are compared with, and an earlier replicate's dense network's


class FeaturesSpec(Value):
    """Whose features and tangent kernels are aligned with the labels, and like the dense network's: `study.features`.

    Attributes:
        levels: of the tickets; the dense network stands beside them.
        arms: the ticket, and controls at its levels.
        examples: of the test set, drawn for each replicate, on which kernels are computed.
        tangent: whether the tangent kernel is computed too, which takes most of the time.
    """

    levels: Levels = Field(min_length=1)
    arms: Arms = Field(default=("ticket", "reinit", "random"), min_length=1)
    examples: Count = Field(default=500, ge=10, le=5000)
    tangent: bool = True


class LabelAlignment(Measurement):
    """How far what each layer is handed, the answers, and the tangent kernel are aligned with the labels.

    Attributes:
        size: examples of the test set.
        tangent: whether the tangent kernel is among them.
    """

    name: Literal["label-alignment"] = "label-alignment"
    size: Count
    tangent: bool

    def of(self, seen: Seen) -> dict[str, Any]:
        from tombola.study import similarity

        inputs, labels = _drawn(seen, self.size)
        classes = seen.dataset.facts.classes
        kernels = _kernels(seen, inputs) | {ANSWERS: lambda: similarity.gram(similarity.answered(seen.model, inputs))}
        if self.tangent:
            kernels[TANGENT] = lambda: similarity.tangent_kernel(seen.model, inputs, dict(seen.mask))
        # One after another: of a large network no two layers' features are held at once.
        found = {name: similarity.aligned(kernel(), labels, classes) for name, kernel in kernels.items()}
        return {
            "kernels": list(found),  # in their order, which JSON keeps of lists alone
            "values": [each.alignment for each in found.values()],
            "chance": [each.chance for each in found.values()],
        }

    def examples(self, facts: Facts) -> int:
        # A product of two examples' gradients is about what looking at one takes.
        return self.size * ((self.size + 200) * facts.classes * self.tangent + 20)


class FeatureSimilarity(Measurement):
    """How alike what each layer is handed, and the answers, are in a network and in the one beside it: unbiased CKA.

    Attributes:
        size: examples of the test set.
    """

    name: Literal["feature-similarity"] = "feature-similarity"
    size: Count

    def of(self, seen: Seen) -> dict[str, Any]:
        from tombola.study import similarity

        inputs, _ = _drawn(seen, self.size)
        beside = replace(seen, model=seen.modelled(OTHER))
        own, theirs = _kernels(seen, inputs), _kernels(beside, inputs)
        names = [*own][1:]  # the first layer is handed the data
        values = [similarity.unbiased(own[name](), theirs[name]()) for name in names]
        answers = (similarity.gram(similarity.answered(each.model, inputs)) for each in (seen, beside))
        return {"kernels": [*names, ANSWERS], "values": [*values, similarity.unbiased(*answers)]}

    def examples(self, facts: Facts) -> int:
        return self.size * 40


def _drawn(seen: Seen, size: int) -> "tuple[Tensor, Tensor]":
    """So many test examples, drawn from the seed; all where there are fewer."""
    import torch

    order = torch.randperm(len(seen.test), generator=torch.Generator().manual_seed(seen.seed))
    return seen.test_inputs(seen.test[order[:size].to(seen.test.device)])


def _kernels(seen: Seen, inputs: "Tensor") -> "dict[str, Callable[[], Tensor]]":
    """The kernel of what each layer with prunable weights is handed, by what people call it; data first."""
    from tombola import prunable

    layers = dict.fromkeys(name.rpartition(".")[0] for name in prunable.prunable(seen.model))
    return {layer: partial(_handed, seen.model, layer, inputs) for layer in layers}


def _handed(model: "nn.Module", layer: str, inputs: "Tensor") -> "Tensor":
    from tombola.study import similarity

    return similarity.gram(similarity.handed(model, layer, inputs))


def faults(table: FeaturesSpec, setting: Setting) -> Iterator[Fault]:
    """What of the table the experiment cannot answer."""
    yield from checks.levels("features", table.levels, setting, least=1)
    yield from checks.beside_ticket("features", table.arms, setting)
    if setting.spec.facts.text:
        yield Fault(
            "study.features", "data whose examples have one vector of features at each layer", "texts", "no study"
        )


def questions(table: FeaturesSpec, series: Series) -> Iterator[Question]:
    """In one replicate at one rewind step: of the dense network, and of each arm at each level."""
    replicate, dense = series.replicate, series.training("dense", 0)
    seed = replicate.seed("features")

    def asked(arm: str, level: int, training: Train, other: Train | None) -> Iterator[Question]:
        aligned = LabelAlignment(size=table.examples, tangent=table.tangent)
        runs = {END: Measured.of(aligned, training, seed)}
        if training.recipe.dynamics is None:  # others may begin with pruned weights that are not 0
            runs = {START: Measured.before(aligned, training, seed), **runs}
        if other:
            runs[ALIKE] = Measured.of(FeatureSimilarity(size=table.examples), training, seed, {OTHER: other})
        for part, run in runs.items():
            yield Question("features", arm, replicate.number, level, replicate.rewind_step, run, training, part)

    yield from asked("dense", 0, dense, _earlier(series, dense))
    for level in table.levels:
        for arm in table.arms:
            yield from asked(arm, level, series.training(arm, level), dense)


def _earlier(series: Series, dense: Train) -> Train | None:
    """The dense network of the replicate before, if the table has it and it has seen the same data."""
    replicate = series.replicate
    before = replicate.earlier
    if before is None or before.recipe.data != replicate.recipe.data:
        return None
    return before.train(before.rewind_point()) if replicate.train(replicate.rewind_point()) == dense else None


@dataclass(frozen=True)
class FeaturesFinding(Finding):
    """What all arms have in one respect, at one level and rewind step.

    Attributes:
        of: the kernel: of what a layer is handed, of the answers, or the tangent kernel.
        part: `before training`, `after training`: the alignment with labels; `likeness`: CKA with the dense network.
        chance: the alignment by chance, mean over all arms and replicates; None of likeness.
        leads: whether a person wants it first.
        verdict: on `claim`.
    """

    study: ClassVar[str] = "features"
    level: int
    density: float
    of: str
    part: str
    chance: float | None
    leads: bool
    arms: "tuple[Standing, ...]"
    verdict: "Verdict"

    @property
    def headline(self) -> bool:
        return self.leads


def findings(table: FeaturesSpec, evidence: Evidence) -> Iterator[FeaturesFinding]:
    """For each level: the alignment of each kernel before and after training, and the likeness of each layer."""
    dense = [answer for answer in evidence.answers if not answer.question.level]
    tickets = [answer for answer in evidence.answers if answer.question.level]
    groups = grouped(tickets, lambda question: (question.level, question.rewind, question.part))
    for (_, rewind, part), answers in groups.items():
        beside = [one for one in dense if (one.question.rewind, one.question.part) == (rewind, part)]
        kernels = answers[0].values["kernels"]
        # What the first layer is handed are the data, the same before and after.
        for place, kernel in enumerate(kernels):
            if place or part == ALIKE:
                yield _found(evidence, [*answers, *beside], part, kernel, leads=kernel == _leading(kernels))


def _leading(kernels: Sequence[str]) -> str:
    """The kernel that a person wants first: the tangent one, else what the last layer is handed."""
    return TANGENT if TANGENT in kernels else [name for name in kernels if name != ANSWERS][-1]


def _found(evidence: Evidence, answers: Sequence[Answer], part: str, kernel: str, leads: bool) -> FeaturesFinding:
    from tombola.study import features

    asked, place = answers[0].question, answers[0].values["kernels"].index(kernel)
    values: dict[str, dict[int, float]] = {}
    for answer in answers:
        values.setdefault(answer.question.arm, {})[answer.question.replicate] = answer.values["values"][place]
    arms = features.standings(values, evidence.confidence)
    density = mean(answer.density for answer in answers if answer.question.level)
    chance = None if part == ALIKE else mean(answer.values["chance"][place] for answer in answers)
    reason = f"At {density:.1%}, {_alike(kernel, arms) if chance is None else _aligned(kernel, part, chance, arms)}."
    verdict = features.verdict(arms)
    return FeaturesFinding(
        asked.level, density, kernel, part, chance, leads, arms, verdict, rewind=asked.rewind, reason=reason
    )


def _alike(kernel: str, arms: "Sequence[Standing]") -> str:
    from tombola.study import features

    what, called = _called(kernel), {"dense": "two dense networks of other initialisations"}
    claim = "tickets have the features of the dense network"
    told = features.told(arms, "more like it than", "less like it than", claim, {"dense": "two dense networks"})
    about = f"{what} are like those of the dense network of the replicate by a CKA of {features.listed(arms, called)}"
    return f"{about}; n = {_n(arms)}: {told}"


def _aligned(kernel: str, part: str, chance: float, arms: "Sequence[Standing]") -> str:
    from tombola.study import features

    claim = "tickets are aligned with the data" + (" from the start" if part == START else "")
    told = features.told(arms, "better aligned than", "worse aligned than", claim)
    what = "tangent kernel" if kernel == TANGENT else f"kernel of {_called(kernel)}"
    about = f"{part}, the {what} is aligned with the labels by {features.listed(arms)}"
    return f"{about}; by chance {chance:.3f}; n = {_n(arms)}: {told}"


def _called(kernel: str) -> str:
    return "the answers" if kernel == ANSWERS else f"the features that {kernel} is handed"


def _n(arms: "Sequence[Standing]") -> int:
    return max(each.value.n for each in arms)


def figures(findings: Sequence[FeaturesFinding], marks: Marks) -> dict[str, Figure]:
    """Alignment and likeness, layer by layer, at each level; the tangent kernel's against the density."""
    drawn = {
        "features": Figure(
            _layers(
                [one for one in findings if one.part != ALIKE and one.of != TANGENT], marks, "alignment with labels"
            ),
            "How far the kernel of what each layer is handed, and of the answers, is aligned with the labels, "
            "before and after training.",
        )
    }
    alike = [one for one in findings if one.part == ALIKE]
    if alike:
        caption = (
            "How alike (unbiased CKA) what each layer is handed is in a network and in the dense one of its replicate; "
            "of dense networks, in two of other initialisations."
        )
        drawn["likeness"] = Figure(_layers(alike, marks, "CKA with the dense network"), caption)
    tangent = [one for one in findings if one.of == TANGENT]
    if tangent:
        caption = (
            "How far the tangent kernel on the living weights is aligned with the labels, before and after training."
        )
        drawn["tangent"] = Figure(_tangent(tangent, marks), caption)
    return drawn


def _layers(findings: Sequence[FeaturesFinding], marks: Marks, title: str) -> dict[str, Any]:
    import altair as alt

    panels: dict[str, list[dict[str, Any]]] = {}
    for one in findings:
        name = f"{100 * one.density:.3g} %, {one.part}" + (f", k = {one.rewind:,}" if one.rewind else "")
        points = panels.setdefault(name, [])
        points.extend({"layer": one.of, "arm": each.arm, "value": each.value.mean} for each in one.arms)
    order = list(dict.fromkeys(one.of for one in findings))
    x = alt.X("layer:N", sort=order, title=None, axis=alt.Axis(labelAngle=-30))
    return lines(panels, x, Drawn("value", title), marks)


def _tangent(findings: Sequence[FeaturesFinding], marks: Marks) -> dict[str, Any]:
    panels: dict[str, list[dict[str, Any]]] = {}
    for one in findings:
        name = one.part + (f", k = {one.rewind:,}" if one.rewind else "")
        panels.setdefault(name, []).extend(
            {"arm": each.arm, "density": 100 * one.density, "value": each.value.mean} for each in one.arms
        )
    return by_density(panels, "value", "alignment with labels", marks)


STUDY = Study(
    name="features",
    table=FeaturesSpec,
    questions=questions,
    findings=findings,
    figures=figures,
    faults=faults,
    about="Are features and tangent kernels of tickets aligned with the labels, and like those of the dense network?",
    paper="[Similarity of Neural Network Representations Revisited](https://arxiv.org/abs/1905.00414)",
    year=2019,
    rest="kernels of features layer by layer, and of answers",
    example="study.features.levels=5",
    of_numbers=True,
)
