"""Spectral bias: slow frequencies of a target are learned before fast ones; sooner or later in a ticket?

The numbers are those of `tombola.study.spectrum`, whose page has the formulas.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import mean
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field

from tombola.charts import Drawn, Figure, lines, styled
from tombola.data.facts import Facts
from tombola.errors import Fault
from tombola.lab.fields import Arms, Levels, numbers
from tombola.lab.kinds import Measurement, Seen, Train, Watched
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
    from tombola.study.spectrum import Sooner

Frequencies = Annotated[tuple[Annotated[int, Field(strict=True, ge=1, le=1000)], ...], BeforeValidator(numbers)]


class SpectrumSpec(Value):
    """At which step each frequency of the target is learned, arm beside arm: `study.spectrum`.

    Attributes:
        levels: of the tickets; the dense network stands beside them.
        arms: the ticket, and controls at its levels.
        every: steps between two looks at a training, which is done again for that.
        frequencies: that are looked for, in periods over the range of the inputs; None for those of the labels.
    """

    levels: Levels = Field(min_length=1)
    arms: Arms = Field(default=("ticket", "random"), min_length=1)
    every: StepField = Step("20it")
    frequencies: Annotated[Frequencies, Field(min_length=1, max_length=100)] | None = None


class Spectrum(Measurement):
    """How much of each frequency of the labels is in the answers, at all points of the data set.

    Attributes:
        frequencies: None for those of the labels.
    """

    name: Literal["spectrum"] = "spectrum"
    frequencies: tuple[Count, ...] | None = None

    def of(self, seen: Seen) -> dict[str, Any]:
        import torch

        from tombola.study import similarity, spectrum

        data = seen.dataset
        inputs = data.inputs(torch.cat([data.images, data.test_images]))
        labels, place = torch.cat([data.labels, data.test_labels]).cpu(), inputs[:, 0].cpu()
        points = (place - place.min()) / (place.max() - place.min())
        frequencies = self.frequencies or spectrum.heard(points, labels)
        answers = similarity.answered(seen.model, inputs)[:, 0].cpu()
        shares = spectrum.shares(points, answers, labels, frequencies)
        return {"frequencies": list(frequencies), "shares": shares}

    def examples(self, facts: Facts) -> int:
        return facts.train + facts.validation + facts.test


def faults(table: SpectrumSpec, setting: Setting) -> Iterator[Fault]:
    """What of the table the experiment cannot answer."""
    facts = setting.spec.facts
    yield from checks.levels("spectrum", table.levels, setting, least=1)
    yield from checks.beside_ticket("spectrum", table.arms, setting)
    yield from checks.repeated("study.spectrum.frequencies", "frequency", table.frequencies or ())
    if facts.answers != "number" or facts.shape != (1,):
        wanted = (
            "data whose inputs are one number and whose answers are numbers, as frequencies are of a function of one"
        )
        yield Fault("study.spectrum", wanted, f"{facts.name}", "recipe.data = 'slow-sinusoids', or no study")
    if setting.spec.iterations(table.every) < 1:
        yield Fault("study.spectrum.every", "at least one step", repr(str(table.every)))


def questions(table: SpectrumSpec, series: Series) -> Iterator[Question]:
    """Watch the dense network's training, and each arm's at each level."""
    replicate = series.replicate
    measurement, seed = Spectrum(frequencies=table.frequencies), replicate.seed("spectrum")

    def asked(arm: str, level: int, training: Train) -> Question:
        every = table.every.iterations(replicate.epoch_iterations)
        looks = sorted({*range(training.begin, training.until, every), training.until})
        run = Watched.of(training, measurement, looks, seed)
        density_of = series.training("ticket", level)  # which is done, too: controls need only be watched
        return Question("spectrum", arm, replicate.number, level, replicate.rewind_step, run, density_of)

    yield asked("dense", 0, series.training("dense", 0))
    for level in table.levels:
        for arm in table.arms:
            yield asked(arm, level, series.training(arm, level))


@dataclass(frozen=True)
class SpectrumFinding(Finding):
    """When frequencies are learned at one level and rewind step, arm beside arm.

    Attributes:
        frequencies: all that were looked for.
        fast: the faster half of them, on which the arms are compared.
        steps: of the looks, counted from where training began.
        learned: of each arm and each replicate, in order, the step at which each frequency is learned; None: never.
        course: of each arm, s_k at each look, the mean over replicates.
    """

    study: ClassVar[str] = "spectrum"
    level: int
    density: float
    frequencies: tuple[int, ...]
    fast: tuple[int, ...]
    arms: "tuple[Sooner, ...]"
    steps: tuple[int, ...]
    learned: "Mapping[str, list[list[int | None]]]"
    course: "Mapping[str, list[list[float]]]"


def findings(table: SpectrumSpec, evidence: Evidence) -> Iterator[SpectrumFinding]:
    """The ticket beside all others, at each level and rewind step."""
    dense = [answer for answer in evidence.answers if not answer.question.level]
    tickets = [answer for answer in evidence.answers if answer.question.level]
    for (_, rewind), answers in grouped(tickets, lambda question: (question.level, question.rewind)).items():
        beside = [answer for answer in dense if answer.question.rewind == rewind]
        yield _found(evidence, [*answers, *beside])


def _found(evidence: Evidence, answers: Sequence[Answer]) -> SpectrumFinding:
    from tombola.study import spectrum

    asked, first = answers[0].question, answers[0].values
    frequencies = tuple(first["measured"][0]["frequencies"])
    fast = frequencies[len(frequencies) // 2 :]
    steps = [step - first["step"][0] for step in first["step"]]
    learned: dict[str, dict[int, dict[int, int | None]]] = {}
    courses: dict[str, list[list[list[float]]]] = {}
    for answer in answers:
        course = [look["shares"] for look in answer.values["measured"]]
        arm = answer.question.arm
        learned.setdefault(arm, {})[answer.question.replicate] = spectrum.learned(steps, course, frequencies)
        courses.setdefault(arm, []).append(course)
    of_fast = {
        arm: {number: {k: each[k] for k in fast} for number, each in own.items()} for arm, own in learned.items()
    }
    arms = spectrum.compared(of_fast, evidence.confidence, every=steps[1] - steps[0])
    density = mean(answer.density for answer in answers if answer.question.level)
    return SpectrumFinding(
        asked.level,
        density,
        frequencies,
        fast,
        arms,
        tuple(steps),
        {arm: [[*each.values()] for each in own.values()] for arm, own in learned.items()},
        {
            arm: [[mean(each) for each in zip(*looks, strict=True)] for looks in zip(*own, strict=True)]
            for arm, own in courses.items()
        },
        rewind=asked.rewind,
        reason=spectrum.sentence(density, fast, arms, max(len(own) for own in learned.values())),
    )


def figures(findings: Sequence[SpectrumFinding], marks: Marks) -> dict[str, Figure]:
    """How much of each frequency there is at each step, a panel for each arm; when each is learned."""
    return {
        "spectrum": Figure(
            _courses(findings),
            "How much of each frequency of the labels is in the answers as training goes on, mean over replicates; "
            "dark is all of it.",
        ),
        "learned": Figure(
            _learned(findings, marks),
            "The step at which each frequency has 90 % of its amplitude, mean over replicates; there is no point where "
            "a replicate never has.",
        ),
    }


def _courses(findings: Sequence[SpectrumFinding]) -> dict[str, Any]:
    import altair as alt

    panels: dict[str, list[dict[str, Any]]] = {}
    for finding in findings:
        ends = [*finding.steps[1:], 2 * finding.steps[-1] - finding.steps[-2]]
        for arm, course in finding.course.items():
            level = "" if arm == "dense" else f" {100 * finding.density:.3g} %"
            panels[f"{arm}{level}{_since(finding)}"] = [
                {"from": step, "to": end, "k": str(k), "share": min(max(share, 0), 1)}
                for step, end, look in zip(finding.steps, ends, course, strict=True)
                for k, share in zip(finding.frequencies, look, strict=True)
            ]
    order = [str(k) for k in findings[0].frequencies[::-1]]
    charts = [
        alt.Chart(alt.NamedData(name), title=name)
        .mark_rect()
        .encode(
            x=alt.X("from:Q", title="step"),
            x2="to:Q",
            y=alt.Y("k:O", title="frequency k", sort=order),
            color=alt.Color("share:Q", title="share", scale=alt.Scale(scheme="blues", domain=[0, 1])),
        )
        .properties(width=280, height=180)
        for name in panels
    ]
    return styled(alt.concat(*charts, columns=2), panels)


def _learned(findings: Sequence[SpectrumFinding], marks: Marks) -> dict[str, Any]:
    import altair as alt

    panels: dict[str, list[dict[str, Any]]] = {}
    for finding in findings:
        panels[f"{100 * finding.density:.3g} %{_since(finding)}"] = [
            {"arm": arm, "k": k, "step": mean(steps)}
            for arm, own in finding.learned.items()
            for k, steps in zip(finding.frequencies, zip(*own, strict=True), strict=True)
            if None not in steps
        ]
    y = Drawn("step", "step at which it is learned")
    return lines(panels, alt.X("k:Q", title="frequency k"), y, marks)


def _since(finding: SpectrumFinding) -> str:
    return f", k = {finding.rewind:,}" if finding.rewind else ""


STUDY = Study(
    name="spectrum",
    table=SpectrumSpec,
    questions=questions,
    findings=findings,
    figures=figures,
    faults=faults,
    about="Which frequencies of a function are learned when, and are fast ones learned sooner in tickets?",
    paper="[On the Spectral Bias of Neural Networks](https://arxiv.org/abs/1806.08734)",
    year=2019,
    example="study.spectrum.levels=5",
)
