"""Gradients: do tickets win as their gradients are larger, or as they go back to the solution that they come from?

The numbers are those of `tombola.study.gradients`, whose page has the formulas.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from statistics import mean
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from tombola import data
from tombola.charts import Drawn, Figure, bars, lines
from tombola.data.facts import Facts
from tombola.errors import Fault
from tombola.lab.fields import MOST, Arms, Levels
from tombola.lab.kinds import Measured, Measurement, Prune, Seen, Train, Watched
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
from tombola.steps import Step
from tombola.value import Count, StepField, Value

if TYPE_CHECKING:
    from tombola.study.gradients import Flow, Return

COURSE, END = "course", "end"
DENSE, PRUNED = "dense", "pruned"


class GradientNorm(Measurement):
    """||g||_2 of the mean loss on training examples, as `study.gradients` has it.

    Attributes:
        count: how many, the first of the training set.
    """

    name: Literal["gradient-norm"] = "gradient-norm"
    count: Count = Field(ge=1)

    def of(self, seen: Seen) -> dict[str, Any]:
        """Of all parameters, and layer by layer."""
        from tombola.study.gradients import gradient_norm

        found = gradient_norm(seen.model, seen.mask, *seen.inputs(seen.train[: self.count]))
        return {"norm": found.all, "layers": dict(found.layers)}

    def examples(self, facts: Facts) -> int:
        return 3 * min(self.count, facts.train)


class NearTo(Measurement):
    """How near a network has come to the trained weights `pruned` under the mask `kept`.

    Attributes:
        count: of training examples, on which the errors of the line between are counted.
    """

    name: Literal["near-to"] = "near-to"
    count: Count = Field(ge=1)

    def of(self, seen: Seen) -> dict[str, Any]:
        """As `study.gradients.nearness` has it: distances over the weights that masks name, answers on the test set."""
        from tombola import mask as masks
        from tombola.study.gradients import nearness

        solution = masks.apply(seen.others["pruned"], seen.masks["kept"])
        train = seen.inputs(seen.train[: self.count])
        return asdict(nearness(seen.model, solution, list(seen.mask), seen.test_inputs(seen.test)[0], train))

    def examples(self, facts: Facts) -> int:
        return 11 * min(self.count, facts.train) + 2 * facts.test


class GradientsSpec(Value):
    """Gradient norms over trainings, and how near they end to where the ticket was pruned: `study.gradients`.

    The way back is asked where one trained network's weights made the mask, and answers are no numbers.

    Attributes:
        levels: of the tickets.
        arms: whose networks, the ticket first; those of the spec, of controls the first draw. The dense network and the
            pruned solution are beside them.
        every: steps between two looks at a training.
        examples: of the training set, of which gradients and errors are taken.
    """

    levels: Levels = Field(min_length=1)
    arms: Arms = ("ticket",)
    every: StepField = Step("200it")
    examples: Count = Field(default=1000, ge=1, le=MOST)


def faults(table: GradientsSpec, setting: Setting) -> Iterator[Fault]:
    """What of the table the experiment cannot answer."""
    yield from checks.levels("gradients", table.levels, setting, least=1)
    yield from checks.arms("gradients", table.arms, setting)
    if "ticket" not in table.arms:
        yield Fault("study.gradients.arms", "the ticket, which all others are held against", repr(table.arms))
    if setting.spec.iterations(table.every) < 1:
        yield Fault("study.gradients.every", "at least one step", repr(str(table.every)))


def questions(table: GradientsSpec, series: Series) -> Iterator[Question]:
    """Watch the gradients of each arm's training and of the dense one's; see where each ends."""
    replicate, measure = series.replicate, GradientNorm(count=table.examples)
    where = replicate.number, replicate.rewind_step
    seed = replicate.seed("gradients")
    dense = series.tickets[0]
    counted = data.facts(replicate.recipe.data).answers != "number"  # of numbers no two networks give the same
    for level in table.levels:
        ticket = series.training("ticket", level)
        source = _source(ticket)
        for arm, training in {DENSE: dense, **{arm: series.training(arm, level) for arm in table.arms}}.items():
            watched = Watched.of(training, measure, _looks(training, table, replicate), seed)
            yield Question("gradients", arm, where[0], level, where[1], watched, ticket, COURSE)
            if counted and arm != DENSE and source is not None and ticket.mask is not None:
                further: dict[str, Run] = {"pruned": source, "kept": ticket.mask}
                near = Measured.of(NearTo(count=table.examples), training, seed, further)
                yield Question("gradients", arm, where[0], level, where[1], near, ticket, END)
        if source is not None:
            solution = replace(Measured.of(measure, ticket, seed), trained=source, mask=ticket.mask)
            yield Question("gradients", PRUNED, where[0], level, where[1], solution, ticket, PRUNED)


def _source(ticket: Train) -> Run | None:
    """The trained network by whose weights alone the ticket's mask was pruned; None where there is none.

    One that has only trained up to where the ticket begins has no solution to go back to.
    """
    mask = ticket.mask
    # A training that moved its mask is the one that it was pruned by.
    found = mask.trained if isinstance(mask, Prune) and mask.beside is None else mask
    return found if isinstance(found, Train) and found.until > ticket.begin else None


def _looks(training: Train, table: GradientsSpec, replicate: Any) -> tuple[int, ...]:
    every = max(table.every.iterations(replicate.epoch_iterations), 1)
    inside = range(training.begin - training.begin % every + every, training.until, every)
    return (training.begin, *inside, training.until)


@dataclass(frozen=True)
class FlowFinding(Finding):
    """The gradient norms of all arms at one level and rewind step.

    Attributes:
        course: of each arm, the means over its replicates at each `step`: the `norm` of all, its square (the gradient
            `flow`: each look's, then averaged), and the norm of each weight by its name.
        solution: the norm at the pruned solution, the mean over replicates; None where there is none.
    """

    study: ClassVar[str] = "gradients"
    level: int
    density: float
    arms: "tuple[Flow, ...]"
    course: "Mapping[str, Mapping[str, list[float]]]"
    solution: float | None


@dataclass(frozen=True)
class ReturnFinding(Finding):
    """How near all arms end to the pruned solution at one level and rewind step."""

    study: ClassVar[str] = "gradients"
    level: int
    density: float
    arms: "tuple[Return, ...]"


def findings(table: GradientsSpec, evidence: Evidence) -> Iterator[Finding]:
    """For and against favourable gradients; and whether the ticket goes back to the solution that it comes from."""
    groups = grouped(evidence.answers, lambda question: (question.level, question.rewind))
    for (level, rewind), answers in groups.items():
        density = mean(answer.density for answer in answers)
        yield from _flow(level, rewind, density, answers, evidence.confidence)
        yield from _return(level, rewind, density, answers, evidence.confidence)


def _flow(
    level: int, rewind: int, density: float, answers: Sequence[Answer], confidence: float
) -> Iterator[FlowFinding]:
    from tombola.study.gradients import early, flow_sentence, flows

    start: dict[str, dict[int, float]] = {}
    first: dict[str, dict[int, float]] = {}
    curves: dict[str, list[dict[str, list[float]]]] = {}
    for answer in (answer for answer in answers if answer.question.part == COURSE):
        arm, number = answer.question.arm, answer.question.replicate
        steps, norms = answer.values["step"], [look["norm"] for look in answer.values["measured"]]
        start.setdefault(arm, {})[number], first.setdefault(arm, {})[number] = norms[0], early(steps, norms)
        curves.setdefault(arm, []).append(_curve(answer.values))
    found = flows(start, first, confidence)
    ends = [answer.values["norm"] for answer in answers if answer.question.part == PRUNED]
    if found:
        solution = mean(ends) if ends else None
        means = {
            arm: {
                name: [mean(one) for one in zip(*(curve[name] for curve in several), strict=True)]
                for name in several[0]
            }
            for arm, several in curves.items()
        }
        reason = flow_sentence(density, found, solution)
        yield FlowFinding(level, density, found, means, solution, rewind=rewind, reason=reason)


def _curve(values: Mapping[str, Any]) -> dict[str, list[float]]:
    """What was measured at each look: the step, the norm, its square, the norm of each weight."""
    looks = values["measured"]
    layers = {name: [look["layers"][name] for look in looks] for name in looks[0]["layers"]}
    norms = [look["norm"] for look in looks]
    return {"step": values["step"], "norm": norms, "flow": [norm**2 for norm in norms], **layers}


def _return(
    level: int, rewind: int, density: float, answers: Sequence[Answer], confidence: float
) -> Iterator[ReturnFinding]:
    from tombola.study.gradients import Nearness, return_sentence, returns

    near: dict[str, dict[int, Nearness]] = {}
    for answer in answers:
        if answer.question.part == END:
            near.setdefault(answer.question.arm, {})[answer.question.replicate] = Nearness(**answer.values)
    if near.get("ticket"):
        found = returns(near, confidence)
        yield ReturnFinding(level, density, found, rewind=rewind, reason=return_sentence(density, found))


def figures(findings: Sequence[Finding], marks: Marks) -> dict[str, Figure]:
    """The gradient norms over the steps, one line for each arm; and how far each arm ends from the pruned solution."""
    drawn = {}
    if flow := [finding for finding in findings if isinstance(finding, FlowFinding)]:
        caption = (
            "The norm of the gradient over all living weights and biases, without weight decay, as networks train."
        )
        drawn["gradients"] = Figure(_courses(flow, ["norm"], marks), caption)
        layers = [name for name in next(iter(flow[-1].course.values())) if name not in ("step", "norm", "flow")]
        caption = f"The same of each layer's living weights, at {100 * flow[-1].density:.3g} %."
        drawn["gradients-by-layer"] = Figure(_courses(flow[-1:], layers, marks), caption)
    if back := [finding for finding in findings if isinstance(finding, ReturnFinding)]:
        caption = "How far each arm ends from the solution that the ticket was pruned from, and the barrier between."
        drawn["pruned-solution"] = Figure(_ends(back, marks), caption)
    return drawn


def _where(finding: FlowFinding | ReturnFinding) -> str:
    return f"{100 * finding.density:.3g} %" + (f", k = {finding.rewind:,}" if finding.rewind else "")


def _courses(findings: Sequence[FlowFinding], names: Sequence[str], marks: Marks) -> dict[str, Any]:
    import altair as alt

    data = {
        _where(finding) + (f", {name}" if name != "norm" else ""): [
            {"arm": arm, "step": step, "norm": norm}
            for arm, curve in finding.course.items()
            for step, norm in zip(curve["step"], curve[name], strict=True)
            if norm > 0  # on an axis of powers
        ]
        for finding in findings
        for name in names
    }
    y = Drawn("norm", "gradient norm", {"type": "log"})
    return lines(data, alt.X("step:Q", title="training step"), y, marks, points=False)


def _ends(findings: Sequence[ReturnFinding], marks: Marks) -> dict[str, Any]:
    import altair as alt

    records = [
        {"where": _where(finding), "arm": each.arm, "l2": each.l2.mean, "barrier": 100 * each.barrier.mean}
        for finding in findings
        for each in finding.arms
    ]
    x = alt.X("where:N", title="weights remaining", sort=None, axis=alt.Axis(labelAngle=0))
    fields = {"l2": "L2 distance to the pruned solution", "barrier": "error barrier (points)"}
    return bars(records, x, fields, marks)


STUDY = Study(
    name="gradients",
    table=GradientsSpec,
    questions=questions,
    findings=findings,
    figures=figures,
    faults=faults,
    about="Do tickets win by larger gradients, or by going back to the solution that they were pruned from?",
    paper="[Gradient Flow in Sparse Neural Networks](https://arxiv.org/abs/2010.03533)",
    year=2022,
    example="study.gradients.levels=5",
)
