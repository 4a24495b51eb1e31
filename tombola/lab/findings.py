"""What the studies found: their answers, judged over replicates, each with its sentence."""

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import mean
from typing import Any, ClassVar, Literal, get_args

from tombola.lab.plan import Plan
from tombola.lab.results import criteria
from tombola.lab.store import Store
from tombola.lab.studies import Question
from tombola.study.connectivity import Instability
from tombola.study.overlap import Overlap
from tombola.study.stability import Stability

Kind = Literal["pruning", "data order"]


@dataclass(frozen=True)
class Answer:
    """A question and what its run found: `values`, as the run made them; the density of the networks."""

    question: Question
    density: float
    values: Mapping[str, Any]


@dataclass(frozen=True)
class Stable:
    """Stability of one kind at one level and rewind step."""

    study: ClassVar[str] = "stability"
    level: int
    rewind: int
    found: Stability


@dataclass(frozen=True)
class Connected:
    """The barrier of an arm's networks at one level and rewind step.

    Attributes:
        on: the images that the error is of, `test` or `train`.
        alphas, lines: the points, and the error at each by pair.
    """

    study: ClassVar[str] = "connectivity"
    arm: str
    level: int
    rewind: int
    on: str
    found: Instability
    alphas: tuple[float, ...]
    lines: tuple[tuple[float, ...], ...]


@dataclass(frozen=True)
class Alike:
    """How far the masks of every two replicates' tickets overlap at one level and rewind step, layer by layer."""

    study: ClassVar[str] = "overlap"
    level: int
    rewind: int
    density: float
    layers: tuple[Overlap, ...]
    sentence: str


Finding = Stable | Connected | Alike


def headlines(found: Sequence[Finding]) -> list[Finding]:
    """Those that a person wants first: of the lines the test error alone, with statistics that suit every point."""
    return [
        finding
        for finding in found
        if not isinstance(finding, Connected)
        or (finding.on == "test" and finding.found.statistics in ("none", "recomputed"))
    ]


def sentence(finding: Finding) -> str:
    """What was found, for people."""
    match finding:
        case Stable():
            return f"{_rewound(finding.rewind)}{finding.found.reason}"
        case Connected():
            return f"{finding.arm}: {finding.found.reason}"
        case Alike():
            return f"{_rewound(finding.rewind)}{finding.sentence}"


def _rewound(step: int) -> str:
    return f"Rewound to step {step:,}: " if step else ""


def findings(wanted: Plan, store: Store) -> list[Finding]:
    """All that the finished answers allow to say, study by study."""
    done = store.keys()
    answers = [
        Answer(question, store.values(question.density_of)["density"], store.values(question.run))
        for question in wanted.questions
        if question.run.key in done and question.density_of.key in done
    ]
    return [*_stable(answers, wanted), *_connected(answers, wanted), *_alike(wanted, store)]


def _grouped(answers: Sequence[Answer], by: Callable[[Question], Hashable]) -> dict[Any, list[Answer]]:
    groups: dict[Any, list[Answer]] = {}
    for answer in answers:
        groups.setdefault(by(answer.question), []).append(answer)
    return groups


def _by_replicate(answers: Sequence[Answer]) -> dict[Any, list[Answer]]:
    return _grouped(answers, lambda question: question.replicate)


def _stable(answers: Sequence[Answer], wanted: Plan) -> Iterator[Stable]:
    from tombola.study.stability import Distances, judge

    asked = [answer for answer in answers if answer.question.study in get_args(Kind)]
    groups = _grouped(asked, lambda question: (question.study, question.level, question.rewind))
    for (kind, level, rewind), group in groups.items():
        sides = {
            arm: {
                number: [Distances(one.values["l2"], one.values["degrees"]) for one in each]
                for number, each in _by_replicate([one for one in group if one.question.arm == arm]).items()
            }
            for arm in ("ticket", "random")
        }
        if sides["ticket"].keys() & sides["random"].keys():
            density, confidence = mean(one.density for one in group), criteria(wanted).confidence
            yield Stable(level, rewind, judge(kind, density, sides["ticket"], sides["random"], confidence))


def _connected(answers: Sequence[Answer], wanted: Plan) -> Iterator[Connected]:
    from tombola.study.connectivity import judge

    study, facts = wanted.experiment.spec.study.connectivity, wanted.experiment.spec.facts
    asked = [answer for answer in answers if answer.question.study == "connectivity"]
    groups = _grouped(asked, lambda question: (question.rewind, question.level, question.arm))
    for (rewind, level, arm), group in groups.items():
        assert study is not None
        for statistics in group[0].values["errors"]:
            for on, all_of_them in (("test", facts.test), ("train", facts.train)):
                barriers = [
                    [answer.values["barriers"][statistics][on] for answer in each]
                    for each in _by_replicate(group).values()
                ]
                found = judge(
                    mean(answer.density for answer in group),
                    rewind,
                    barriers,
                    statistics,
                    confidence=criteria(wanted).confidence,
                    grain=facts.grain(min(study.examples or all_of_them, all_of_them)),
                    error=f"{on} error",
                )
                lines = tuple(tuple(answer.values["errors"][statistics][on]) for answer in group)
                yield Connected(arm, level, rewind, on, found, tuple(group[0].values["alphas"]), lines)


def _alike(wanted: Plan, store: Store) -> Iterator[Alike]:
    from tombola.study.overlap import averaged, overlaps
    from tombola.study.overlap import sentence as said

    spec, done = wanted.experiment.spec, store.keys()
    for level in spec.study.overlap.levels if spec.study.overlap else ():
        for step in spec.rewind:
            at = spec.iterations(step)
            here = [row.run for row in wanted.rows if (row.arm, row.level, row.rewind) == ("ticket", level, at)]
            masks = [store.mask(run.mask) for run in here if run.mask and run.mask.key in done]
            pairs = [overlaps(left, right) for left, right in combinations(masks, 2)]
            if pairs:
                density = mean(mask.density for mask in masks)
                group = "tickets of different replicates"
                yield Alike(level, at, density, tuple(averaged(pairs)), said(group, density, pairs))
