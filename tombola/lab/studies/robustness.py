"""Robustness: do tickets keep their answers when inputs are changed on purpose, beside the dense network and controls?

The attacks and the numbers are those of `tombola.study.robustness`.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import mean
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field

from tombola.charts import BARS, Figure, by_density, in_panels, interval
from tombola.data.facts import Facts
from tombola.errors import Fault
from tombola.lab.fields import Arms, Levels
from tombola.lab.kinds import Measured, Measurement, Seen
from tombola.lab.studies import checks
from tombola.lab.studies.study import Answer, Evidence, Finding, Marks, Question, Series, Setting, Study, grouped
from tombola.study.robustness import APGD, FGSM, FROM_DENSE, PGD, WHOLE_BOX_STEPS, AnyAttack, Attack, Square
from tombola.value import Count, Number, Value, listed

if TYPE_CHECKING:
    from torch import Tensor

    from tombola.study.paired import Difference, Estimate
    from tombola.study.robust_tickets import Contrast
    from tombola.study.robustness import Robustness

DENSE = "dense"
TO_DENSE = "to dense"  # how many of the dense network's answers inputs found on another network leave
ATTACKS: dict[str, Callable[["RobustnessSpec"], Attack]] = {
    "fgsm": lambda table: FGSM(),
    "pgd": lambda table: table.pgd,
    "apgd-ce": lambda table: APGD(loss="ce", restarts=table.restarts),
    "apgd-dlr": lambda table: APGD(loss="dlr", restarts=table.restarts),
    "square": lambda table: Square(queries=table.queries),
}  # by their names in a spec
if TYPE_CHECKING:
    AttackName = str
else:  # so that a spec's readers are told the names
    AttackName = Literal[tuple(ATTACKS)]


class RobustnessSpec(Value):
    """Whether tickets withstand attacks: `study.robustness`.

    Attributes:
        levels: of the tickets.
        arms: whose networks, the ticket first; those of the spec, of controls the first draw. The dense network is
            beside them.
        attacks: by which; None for all that the data allow.
        epsilon: the largest change of a pixel in [0, 1]; None for 0.3 of grey images and 8 / 255 of coloured ones.
        examples: of the test set, evenly spread over it.
        steps, step: of `pgd`, and the change of a pixel in one; None for 2.5 epsilon / steps.
        restarts: of `pgd` and `apgd`.
        queries: of `square`, for each example.
        transfer: whether inputs that `pgd` finds on the dense network are tried on the others, and the other way.
    """

    levels: Levels = Field(min_length=1)
    arms: Arms = ("ticket",)
    attacks: Annotated[tuple[AttackName, ...] | None, BeforeValidator(listed)] = Field(default=None, min_length=1)
    epsilon: Number | None = Field(default=None, ge=0, le=1)
    examples: Count = Field(default=500, ge=1, le=100_000)
    steps: Count = Field(default=40, ge=1, le=10_000)
    step: Number | None = Field(default=None, gt=0, le=1)
    restarts: Count = Field(default=1, ge=1, le=100)
    queries: Count = Field(default=500, ge=1, le=100_000)
    transfer: bool = True

    @property
    def pgd(self) -> PGD:
        """The attack whose inputs are tried on other networks."""
        return PGD(steps=self.steps, step=self.step, restarts=self.restarts)

    def radius(self, facts: Facts) -> float:
        """Epsilon, as usual for such images where it is not given."""
        if self.epsilon is not None:
            return self.epsilon
        return 0.3 if facts.shape[0] == 1 else 8 / 255

    def asked(self, facts: Facts) -> tuple[Attack, ...]:
        """The attacks that are asked for, or all that can be of so many classes."""
        attacks = [ATTACKS[name](self) for name in self.attacks or ATTACKS]
        return tuple(each for each in attacks if self.attacks or each.classes <= facts.classes)


class Attacks(Measurement):
    """Accuracy on test examples under attacks, and what says whether gradients are masked.

    Where it is handed a `dense` network it tries its inputs on this one, and the other way.

    Attributes:
        attacks: of which, each title once.
        epsilon: the largest change of a pixel in [0, 1].
        count: of the examples.
        transfer: by which inputs are found that are tried on another network.
    """

    name: Literal["attacks"] = "attacks"
    attacks: tuple[AnyAttack, ...]
    epsilon: Number = Field(ge=0, le=1)
    count: Count = Field(ge=1)
    transfer: PGD | None

    def of(self, seen: Seen) -> dict[str, Any]:
        """The fields of a `Robustness`, and `to dense`."""
        from tombola.perturbation import OfPixels
        from tombola.study.robustness import attack, summary, transferred

        examples = _spread(seen, self.count)
        network = OfPixels(seen.model, seen.dataset.of_pixels)
        found = {each.title: attack(network, *examples, each, self.epsilon, seen.seed) for each in self.attacks}
        values: dict[str, Any] = {}
        if self.transfer and DENSE in seen.others:
            dense = OfPixels(seen.modelled(DENSE), seen.dataset.of_pixels)
            there = attack(dense, *examples, self.transfer, self.epsilon, seen.seed)
            here = found[self.transfer.title] if self.transfer in self.attacks else None
            here = here or attack(network, *examples, self.transfer, self.epsilon, seen.seed)
            found[FROM_DENSE] = transferred(network, *examples, there.points)
            values[TO_DENSE] = transferred(dense, *examples, here.points).accuracy
        return {**asdict(summary(network, *examples, found, self.epsilon, seen.seed)), **values}

    def examples(self, facts: Facts) -> int:
        looks = sum(each.looks for each in self.attacks) + 3 * WHOLE_BOX_STEPS
        return (looks + (self.transfer.looks if self.transfer else 0)) * min(self.count, facts.test) // 3


def _spread(seen: Seen, count: int) -> "tuple[Tensor, Tensor]":
    images, labels = seen.test_images(seen.spread_test(count))
    return seen.dataset.pixels(images), labels


def faults(table: RobustnessSpec, setting: Setting) -> Iterator[Fault]:
    """What of the table the experiment cannot answer."""
    yield from checks.levels("robustness", table.levels, setting, least=1, of_trained=True)
    yield from checks.arms("robustness", table.arms, setting)
    yield from checks.repeated("study.robustness.attacks", "attack", table.attacks or ())
    if "ticket" not in table.arms:
        yield Fault("study.robustness.arms", "the ticket, which all others are held against", repr(table.arms))
    facts = setting.spec.facts
    if not _images(facts):
        yield Fault(
            "study.robustness",
            "images and one class for each, as attacks change pixels a little",
            f"recipe.data = {setting.spec.recipe.data!r}",
            "Leave the study out, or ask it of images.",
        )
        return
    for each in table.asked(facts):
        if each.classes > facts.classes:
            found = f"{each.title} of {facts.classes}"
            yield Fault("study.robustness.attacks", f"attacks for {facts.classes} classes", found)


def _images(facts: Facts) -> bool:
    return not facts.text and not facts.real and len(facts.shape) == 3 and facts.answers == "class"


def questions(table: RobustnessSpec, series: Series) -> Iterator[Question]:
    """Attack the dense network, the ticket and the other arms where their trainings end."""
    from tombola import data

    replicate, dense = series.replicate, series.tickets[0]
    facts = data.facts(replicate.recipe.data)
    seed = replicate.seed("robustness")
    transfer = table.pgd if table.transfer else None
    attacks = table.asked(facts)
    for level in table.levels:
        trainings = {DENSE: dense, **{arm: series.training(arm, level) for arm in table.arms}}
        for arm, training in trainings.items():
            onto = transfer if arm != DENSE else None
            measurement = Attacks(attacks=attacks, epsilon=table.radius(facts), count=table.examples, transfer=onto)
            run = Measured.of(measurement, training, seed, {DENSE: dense} if onto else None)
            yield Question("robustness", arm, replicate.number, level, replicate.rewind_step, run, training)


@dataclass(frozen=True)
class RobustnessFinding(Finding):
    """Tickets under attack against another arm, at one level and rewind step.

    Attributes:
        arm: the other one.
        density, other_density: P_m of either.
        epsilon: the largest change of a pixel.
        chance: the share that is right of whoever always gives the same answer.
        found: the shares of answers that stay right.
        transfer: of tickets' answers with inputs found on the dense network, and the other way; None without.
    """

    study: ClassVar[str] = "robustness"
    level: int
    arm: str
    density: float
    other_density: float
    epsilon: float
    chance: float
    found: "Contrast"
    transfer: "tuple[Difference, Difference] | None"


def findings(table: RobustnessSpec, evidence: Evidence) -> Iterator[RobustnessFinding]:
    """The ticket against each other arm, wherever both have answers."""
    from tombola.study.robust_tickets import contrast, sentence

    facts = evidence.spec.facts
    epsilon, grain = table.radius(facts), facts.grain(min(table.examples, facts.test))
    answers = grouped(evidence.answers, lambda question: (question.rewind, question.level, question.arm))
    for rewind, level in dict.fromkeys((rewind, level) for rewind, level, _ in answers):
        networks = {arm: answers.get((rewind, level, arm), []) for arm in (DENSE, *table.arms)}
        tickets = networks["ticket"]
        transfer = _transfer(tickets, evidence.confidence, grain)
        for arm, others in networks.items():
            if arm == "ticket":
                continue
            found = contrast(_by_replicate(tickets), _by_replicate(others), arm, evidence.confidence, grain)
            if found:
                density, other = (mean(each.density for each in own) for own in (tickets, others))
                own = transfer if arm == DENSE else None
                said = sentence(density, epsilon, arm, found, facts.chance, own)
                numbers = density, other, epsilon, facts.chance
                yield RobustnessFinding(level, arm, *numbers, found, own, rewind=rewind, reason=said)


def _by_replicate(answers: Sequence[Answer]) -> "dict[int, Robustness]":
    from tombola.study.robustness import Robustness

    fields = Robustness.__dataclass_fields__
    return {
        answer.question.replicate: Robustness(**{name: answer.values[name] for name in fields}) for answer in answers
    }


def _transfer(tickets: Sequence[Answer], confidence: float, grain: float) -> "tuple[Difference, Difference] | None":
    from tombola.study.paired import paired

    both = [(one.values["attacked"][FROM_DENSE], one.values[TO_DENSE]) for one in tickets if TO_DENSE in one.values]
    if not both:
        return None
    onto, back = (paired(shares, confidence, grain) for shares in zip(*both, strict=True))
    return onto, back


def figures(findings: Sequence[RobustnessFinding], marks: Marks) -> dict[str, Figure]:
    """The accuracy as it is, in the worst case, and under each attack, against the density."""
    panels, first = _panels(findings), findings[0]
    drawn = by_density(panels, "accuracy", "right answers (%)", marks, across=100 * first.chance, domain=[0, 100])
    return {"robustness": Figure(drawn, " ".join(_explained(panels, first)))}


def _explained(panels: Mapping[str, Any], first: RobustnessFinding) -> Iterator[str]:
    """The sentences of the caption, those on what there is."""
    yield f"The share of answers that stay right where pixels are changed by up to {first.epsilon:.3g}."
    yield "In the worst case: that none of the attacks which are made on the network itself makes wrong."
    if any(title.startswith(FROM_DENSE) for title in panels):
        yield "From dense: with the inputs that an attack on the dense network of the replicate has found."
    yield f"Points are means over replicates, {BARS}; the dense network is at 100 %."
    yield f"The dashed line across is guessing ({first.chance:.1%})."


def _panels(findings: Sequence[RobustnessFinding]) -> dict[str, list[dict[str, Any]]]:
    def drawn(share: "Estimate") -> dict[str, Any]:
        return interval("accuracy", share, 100, within=(0, 1))

    points = []
    for finding in findings:
        step = f", k = {finding.rewind:,}" if finding.rewind else ""
        for each in (finding.found.worst, *finding.found.rest):
            points.append((f"{each.name}{step}", "ticket", 100 * finding.density, drawn(each.ticket)))
            points.append((f"{each.name}{step}", finding.arm, 100 * finding.other_density, drawn(each.other)))
    return in_panels(points)


STUDY = Study(
    name="robustness",
    table=RobustnessSpec,
    questions=questions,
    findings=findings,
    figures=figures,
    faults=faults,
    about="Do tickets keep their answers under attack, and is what attacks say to be believed?",
    paper="[The Search for Sparse, Robust Neural Networks](https://arxiv.org/abs/1912.02386)",
    year=2019,
    example="study.robustness.levels=5",
)
