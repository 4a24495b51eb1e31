"""Regularisation: are tickets regularised by being sparse - less memorised, flatter, simpler, nearer to the start?

The numbers are those of `tombola.study.curvature`, `flatness`, `effective_rank`, `margin` and `learning_distance`.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from statistics import mean
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field

from tombola import data
from tombola.charts import Figure, by_density, in_panels
from tombola.data.facts import Facts
from tombola.data.label_noise import number_false
from tombola.errors import Fault
from tombola.lab.fields import MOST, Arms, Levels
from tombola.lab.kinds import Measured, Measurement, Seen, Train
from tombola.lab.runs import Run
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
from tombola.recipe import Recipe
from tombola.study.regularisation import QUANTITIES
from tombola.value import Count, Number, Value, listed

if TYPE_CHECKING:
    from tombola.study.living import Living, Loss
    from tombola.study.regularisation import Compared

DENSE, GAP = "dense", "gap"


class _OnExamples(Measurement):
    """A measurement on the first `count` training examples."""

    name: str
    count: Count = Field(ge=1)


class Curvature(_OnExamples):
    """The Hessian's largest eigenvalue and trace over the living weights and all biases, in evaluation mode.

    Attributes:
        draws: random signs for the trace.
    """

    name: Literal["curvature"] = "curvature"
    draws: Count = Field(default=32, ge=2)

    def of(self, seen: Seen) -> dict[str, Any]:
        """With the standard error of the trace, and over how many coordinates it is."""
        from tombola.study.curvature import hessian_product, top_eigenvalue, trace

        living, loss = _loss(seen, self.count)
        n = living.theta.numel()
        product = hessian_product(loss, living.theta)
        found = trace(product, n, seen.seed, self.draws)
        return {
            "eigenvalue": top_eigenvalue(product, n, seen.seed),
            "trace": found.trace,
            "trace_error": found.error,
            "trace-per-weight": found.trace / n,
            "coordinates": n,
        }

    def examples(self, facts: Facts) -> int:
        return 2 * (self.draws + 30) * min(self.count, facts.train)


class Sharpness(_OnExamples):
    """How much the loss rises by one step uphill, and by one in units of each weight's size.

    Attributes:
        rho, adaptive_rho: how long the steps are.
    """

    name: Literal["sharpness"] = "sharpness"
    rho: Number = Field(default=0.05, gt=0)
    adaptive_rho: Number = Field(default=0.5, gt=0)

    def of(self, seen: Seen) -> dict[str, Any]:
        """Of the training loss, in evaluation mode."""
        from tombola.study.flatness import sharpness

        living, loss = _loss(seen, self.count)
        return {
            "sharpness": sharpness(loss, living.theta, self.rho),
            "adaptive-sharpness": sharpness(loss, living.theta, self.adaptive_rho, adaptive=True),
        }

    def examples(self, facts: Facts) -> int:
        return 4 * min(self.count, facts.train)


class Flatness(_OnExamples):
    """How large noise on each living weight, in units of its size, may be before a tenth of the accuracy is gone."""

    name: Literal["flatness"] = "flatness"

    def of(self, seen: Seen) -> dict[str, Any]:
        """sigma, of the accuracy on training examples."""
        from tombola.study.flatness import flatness
        from tombola.study.living import Living

        living = Living.of(seen.model, seen.mask)
        inputs, labels = seen.inputs(seen.train[: self.count])
        accuracy = living.answers(inputs, lambda outputs: outputs.argmax(dim=-1) == labels)
        return {"flatness": flatness(accuracy, living.theta, seen.seed)}

    def examples(self, facts: Facts) -> int:
        return 15 * 14 * min(self.count, facts.train) // 3  # forwards alone


class Rank(_OnExamples):
    """The effective rank of what the last linear layer is handed."""

    name: Literal["rank"] = "rank"

    def of(self, seen: Seen) -> dict[str, Any]:
        """Of the features of training examples, not centred."""
        from tombola.study.effective_rank import effective_rank, features

        return {"rank": effective_rank(features(seen.model, seen.inputs(seen.train[: self.count])[0]))}

    def examples(self, facts: Facts) -> int:
        return min(self.count, facts.train)


class Margin(_OnExamples):
    """How far inputs are, to first order, from where the network would answer otherwise."""

    name: Literal["margin"] = "margin"

    def of(self, seen: Seen) -> dict[str, Any]:
        """The median over training examples."""
        from tombola.study.margin import margins

        return {"margin": float(margins(seen.model, *seen.inputs(seen.train[: self.count])).median())}

    def examples(self, facts: Facts) -> int:
        return min(self.count, facts.train)


class Distance(Measurement):
    """How far the weights are from the initial ones of the dense network, `start`."""

    name: Literal["learning-distance"] = "learning-distance"

    def of(self, seen: Seen) -> dict[str, Any]:
        """Pruned weights count as 0; `moved` is over the living ones alone."""
        from tombola.study.learning_distance import learning_distance, moved

        start = seen.others["start"]
        return {
            "distance": learning_distance(start, seen.weights, seen.mask),
            "moved": moved(start, seen.weights, seen.mask),
        }


class FalseLabels(Measurement):
    """The training accuracy on labels that are true and on those that are false on purpose."""

    name: Literal["false-labels"] = "false-labels"

    def of(self, seen: Seen) -> dict[str, Any]:
        """`clean` and `memorised`, on all training examples; the false labels count as the answers."""
        import torch

        from tombola.data.label_noise import false_labels
        from tombola.evaluate import evaluate

        false = torch.from_numpy(false_labels(seen.dataset.facts))[seen.train.cpu()]
        shares = {}
        for name, chosen in (("clean", ~false), ("memorised", false)):
            data = seen.dataset
            found = evaluate(seen.model, data, data.images, data.labels, seen.train[chosen.to(seen.train.device)])
            shares[name] = found.accuracy
        return shares

    def examples(self, facts: Facts) -> int:
        return facts.train // 3  # forwards alone


def _loss(seen: Seen, count: int) -> "tuple[Living, Loss]":
    from tombola.objective import loss_of_answers
    from tombola.study.living import Living

    living = Living.of(seen.model, seen.mask)
    return living, living.loss(*seen.inputs(seen.train[:count]), of=loss_of_answers)


MEASURES: dict[str, Callable[[int], Measurement]] = {
    "curvature": lambda count: Curvature(count=count),
    "sharpness": lambda count: Sharpness(count=count),
    "flatness": lambda count: Flatness(count=count),
    "rank": lambda count: Rank(count=count),
    "margin": lambda count: Margin(count=count),
    "distance": lambda count: Distance(),
    "false-labels": lambda count: FalseLabels(),
}  # by their names in a spec; the gap is in the table
if TYPE_CHECKING:
    MeasureName = str
else:  # so that a spec's readers are told the names
    MeasureName = Literal[GAP, *MEASURES]


class RegularisationSpec(Value):
    """Whether tickets are regularised: `study.regularisation`.

    Attributes:
        levels: of the tickets.
        arms: whose networks, the ticket first; those of the spec, of controls the first draw. The dense network is
            beside them.
        measures: what is measured; None for all that can be.
        examples: of the training set, on which.
    """

    levels: Levels = Field(min_length=1)
    arms: Arms = ("ticket",)
    measures: Annotated[tuple[MeasureName, ...] | None, BeforeValidator(listed)] = None
    examples: Count = Field(default=1000, ge=1, le=MOST)

    def asked(self, recipe: Recipe) -> tuple[str, ...]:
        """What is measured of trainings by a recipe: what is asked for, or all that can be."""
        return self.measures or tuple(name for name in (GAP, *MEASURES) if _lacking(name, recipe) is None)


def _lacking(measure: str, recipe: Recipe) -> str | None:
    """What a measure would ask for that trainings by this recipe do not have; None where there is nothing."""
    facts = data.facts(recipe.data)
    if measure in ("margin", "flatness") and facts.answers != "class":
        return "answers that are classes, one for each example"
    if measure == "margin" and facts.text:
        return "inputs that are real numbers, which texts are not"
    if measure == "false-labels" and not (recipe.label_noise or number_false(facts)):
        return "recipe.label_noise, which makes labels false"
    return None


def faults(table: RegularisationSpec, setting: Setting) -> Iterator[Fault]:
    """What of the table the experiment cannot answer."""
    yield from checks.levels("regularisation", table.levels, setting, least=1, of_trained=True)
    yield from checks.arms("regularisation", table.arms, setting)
    yield from checks.repeated("study.regularisation.measures", "measure", table.measures or ())
    if "ticket" not in table.arms:
        yield Fault("study.regularisation.arms", "the ticket, which all others are held against", repr(table.arms))
    for name in table.measures or ():
        if wanted := _lacking(name, setting.spec.recipe):
            yield Fault("study.regularisation.measures", wanted, repr(name))


def questions(table: RegularisationSpec, series: Series) -> Iterator[Question]:
    """Measure the dense network, the ticket and the other arms where their trainings end."""
    replicate = series.replicate
    seed = replicate.seed("regularisation")
    wanted = [MEASURES[name](table.examples) for name in table.asked(replicate.recipe) if name != GAP]
    for level in table.levels:
        trainings = {DENSE: series.tickets[0], **{arm: series.training(arm, level) for arm in table.arms}}
        for arm, training in trainings.items():
            where = arm, replicate.number, level, replicate.rewind_step
            for measurement in wanted:
                further = {"start": _beginning(training)} if isinstance(measurement, Distance) else None
                run = Measured.of(measurement, training, seed, further)
                yield Question("regularisation", *where, run, training, measurement.name)


def _beginning(training: Train) -> Run:
    """The weights that a training goes back to, through all that it was started from."""
    run: Run = training
    while isinstance(run, Train):
        run = run.start
    return run


@dataclass(frozen=True)
class RegularisationFinding(Finding):
    """Tickets against another arm, at one level and rewind step.

    Attributes:
        arm: the other one.
        density, other_density: P_m of either.
        quantities: what was measured, each with its word.
    """

    study: ClassVar[str] = "regularisation"
    level: int
    arm: str
    density: float
    other_density: float
    quantities: "tuple[Compared, ...]"


Numbers = dict[str, dict[int, float]]  # by quantity, and by replicate


def findings(table: RegularisationSpec, evidence: Evidence) -> Iterator[RegularisationFinding]:
    """The ticket against each other arm, wherever both have answers."""
    from tombola.study.regularisation import compared, sentence

    facts = evidence.spec.facts
    false = number_false(facts)
    grains = {GAP: facts.grain(facts.test), "memorised": facts.grain(false or facts.train)}
    answers = grouped(evidence.answers, lambda question: (question.level, question.rewind, question.arm))
    for level in table.levels:
        for rewind in map(evidence.spec.iterations, evidence.spec.rewind):
            networks = {
                arm: _numbers(table, evidence, (arm, level, rewind), answers.get((level, rewind, arm), ()))
                for arm in (*table.arms, DENSE)
            }
            density = _density(evidence, "ticket", level, rewind)
            for arm, own in networks.items():
                found = compared(networks["ticket"], own, evidence.confidence, grains) if arm != "ticket" else ()
                if found:
                    other = 1.0 if arm == DENSE else _density(evidence, arm, level, rewind)
                    said = sentence(density, arm, other, found, false / facts.train)
                    yield RegularisationFinding(level, arm, density, other, found, rewind=rewind, reason=said)


def _numbers(
    table: RegularisationSpec, evidence: Evidence, where: tuple[str, int, int], answers: Sequence[Answer]
) -> Numbers:
    """The quantities of an arm's networks at a level and a rewind step: of its answers, and of the table."""
    numbers: Numbers = {}
    for answer in answers:
        for name in QUANTITIES.keys() & answer.values.keys():
            numbers.setdefault(name, {})[answer.question.replicate] = answer.values[name]
    if GAP in table.asked(evidence.spec.recipe):
        arm, level, rewind = where
        for row in evidence.rows:
            here = (row.arm, row.level, row.rewind, row.draw) == (arm, 0 if arm == DENSE else level, rewind, 0)
            if here and row.run.key in evidence.done:
                values = evidence.store.values(row.run)
                gap = values["final_train_accuracy"] - values["final_test_accuracy"]
                numbers.setdefault(GAP, {})[row.replicate] = gap
    return numbers


def _density(evidence: Evidence, arm: str, level: int, rewind: int) -> float:
    masks = evidence.masks(arm, level, rewind)
    return mean(mask.density for mask in masks) if masks else 1.0


def figures(findings: Sequence[RegularisationFinding], marks: Marks) -> dict[str, Figure]:
    """Each quantity against the density, one line for each arm, the dense network at 100 %."""
    caption = "What is measured where trainings end, as means over replicates; the dense network is at 100 %."
    return {"regularisation": Figure(by_density(_panels(findings), "value", "mean over replicates", marks), caption)}


def _panels(findings: Sequence[RegularisationFinding]) -> dict[str, list[dict[str, Any]]]:
    points = []
    for finding in findings:
        for each in finding.quantities:
            quantity = QUANTITIES[each.quantity]
            unit, scale = (f" ({quantity.unit})", 100) if quantity.unit else ("", 1)
            step = f", k = {finding.rewind:,}" if finding.rewind else ""
            title = f"{quantity.title}{unit}{step}"
            points.append((title, "ticket", 100 * finding.density, {"value": scale * each.ticket}))
            points.append((title, finding.arm, 100 * finding.other_density, {"value": scale * each.other}))
    return in_panels(points)


STUDY = Study(
    name="regularisation",
    table=RegularisationSpec,
    questions=questions,
    findings=findings,
    figures=figures,
    faults=faults,
    about="Are tickets regularised by being sparse: less memorised, flatter, simpler, nearer to the start?",
    paper="[Sparse Double Descent](https://arxiv.org/abs/2206.08684)",
    year=2022,
    example="study.regularisation.levels=5",
)
