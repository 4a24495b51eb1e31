"""Which of several networks and ensembles is best at no more than the dense network's cost?

Each is held against the dense network, paired by replicate. Whoever is best of many looks better than it is, as it was
chosen by the very numbers that it is reported with; so the intervals of all that were candidates hold together, each at
1 - (1 - confidence) / m of m candidates (Bonferroni). Best is whose interval has the highest lower end: one that few
replicates know, whose mean may be high by luck, comes after one that is surely better.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import inf, isfinite
from statistics import mean
from typing import Literal

from tombola.study.paired import Difference, paired
from tombola.study.written import points, three_digits, written

Word = Literal["better", "worse", "not shown"]
Than = Literal["dense", "alone"]
SCORES = ("accuracy", "nll", "brier", "ece")
ROOM = 1e-9  # by which a sum of costs may be above 1


@dataclass(frozen=True)
class Asked:
    """What is known of one network or ensemble, beside the dense network.

    Attributes:
        name: as sentences have it.
        members: how many networks answer.
        parameters, macs: in multiples of the dense network's, mean over replicates; multiply-adds of one example.
        scores: `accuracy`, `nll`, `brier` and `ece`, each by replicate.
        dense: the same of the dense network.
        alone: the same of the ticket, or, where several answer together, the mean over them.
    """

    name: str
    members: int
    parameters: float
    macs: float
    scores: Mapping[str, Mapping[int, float]]
    dense: Mapping[str, Mapping[int, float]]
    alone: Mapping[str, Mapping[int, float]] = field(default_factory=dict)

    def mean(self, score: str) -> float:
        """Over all replicates that it is known of."""
        return mean(self.scores[score].values())

    def more(self, score: str, confidence: float, grain: float = 0.0, than: Than = "dense") -> Difference | None:
        """By how much it is above another one, paired; None where no replicate has both."""
        own, other = self.scores[score], getattr(self, than).get(score, {})
        both = [own[number] - other[number] for number in own if number in other]
        return paired(both, confidence, grain) if both else None

    @property
    def affordable(self) -> bool:
        """Whether it has no more parameters, and takes no more multiply-adds, than the dense network."""
        return max(self.parameters, self.macs) <= 1 + ROOM


@dataclass(frozen=True)
class Best:
    """The best of those that cost no more than the dense network.

    Attributes:
        asked: it, by the lower end of what its accuracy has more than the dense network's.
        candidates: how many it was chosen from: those that two replicates know, where there are some.
        more: its accuracy less the dense network's, with an interval that holds together with those of all candidates.
        word: what that interval says of it.
    """

    asked: Asked
    candidates: int
    more: Difference
    word: Word


def word(more: Difference, sign: int = 1) -> Word:
    """What a difference says, by its whole interval; `not shown` of one replicate.

    Args:
        sign: 1 where more is better, -1 where less is.
    """
    if not isfinite(more.low) or more.low <= 0 <= more.high:
        return "not shown"
    return "better" if more.mean * sign > 0 else "worse"


def best(asked: Sequence[Asked], confidence: float, grain: float = 0.0) -> Best | None:
    """The best at no more than the dense network's cost; None where nothing that costs no more is known beside it.

    Args:
        confidence: of the intervals of all candidates together, in (0.5, 1).
        grain: the step between two accuracies.

    >>> scores = {"accuracy": {0: 0.98, 1: 0.97}}
    >>> dense = {"accuracy": {0: 0.97, 1: 0.965}}
    >>> best([Asked("tickets", 3, 0.5, 0.5, scores, dense), Asked("dense", 3, 3, 3, scores, dense)], 0.95).asked.name
    'tickets'
    """
    pairs = [(each, each.more("accuracy", confidence)) for each in asked if each.affordable]
    known = [(each, more) for each, more in pairs if more]
    held = [each for each, more in known if more.n > 1] or [each for each, _ in known]
    together = 1 - (1 - confidence) / max(1, len(held))
    found = [(each, more) for each in held if (more := each.more("accuracy", together, grain))]
    if not found:
        return None
    chosen, more = max(found, key=lambda pair: (pair[1].low if isfinite(pair[1].low) else -inf, pair[1].mean))
    return Best(chosen, len(found), more, word(more))


def told(asked: Asked, confidence: float, grain: float = 0.0) -> str:
    """How good it is, what it costs, and how it stands beside the dense network."""
    scores = f"accuracy {asked.mean('accuracy'):.2%}, NLL {three_digits(asked.mean('nll'))}"
    scores += f", Brier {three_digits(asked.mean('brier'))}, ECE {asked.mean('ece'):.2%} (15 bins of equal width)"
    cost = f"{_times(asked.parameters)} the parameters and {_times(asked.macs)} the multiply-adds of the dense network"
    others: dict[Than, str] = {"dense": "the latter", "alone": "one of them" if asked.members > 1 else "the ticket"}
    found = {name: _beside(asked, confidence, grain, than) for than, name in others.items()}
    beside = "".join(f"; against {name} {said}" for name, said in found.items() if said)
    return f"{scores} at the end of training, at {cost}{beside}"


def _beside(asked: Asked, confidence: float, grain: float, than: Than) -> str:
    """By how much it is above another one, and what that says; "" where no replicate has both."""
    more, less = asked.more("accuracy", confidence, grain, than), asked.more("nll", confidence, than=than)
    if more is None or less is None:
        return ""
    found = f"accuracy {points(more)} points, NLL {written(less, lambda number: three_digits(number, '+'))}"
    if more.n < 2:
        return f"{found} (n = 1: one replicate decides nothing)"
    return f"{found} (n = {more.n}, each interval for itself: accuracy {word(more)}, NLL {word(less, -1)})"


def sentence(found: Best | None) -> str:
    """What is best at no more than the dense network's cost, as far as it is known."""
    if found is None:
        return "At no more than the dense network's cost: nothing that is finished costs so little"
    one, more = found.asked, found.more
    about = f"{one.name}, at {_times(one.parameters)} its parameters and {_times(one.macs)} its multiply-adds"
    if more.n < 2:
        verdict = "one replicate decides nothing"
    else:
        together = f"the interval holds together with those of all {found.candidates}" if found.candidates > 1 else ""
        verdict = f"{found.word} than the dense network" if found.word != "not shown" else "not shown to differ"
        verdict += f" ({together})" if together else ""
    of = f"of {found.candidates} that cost no more, " if found.candidates > 1 else ""
    return (
        f"At no more than the dense network's cost: {of}the best, by what is sure of it, is {about}: accuracy "
        f"{one.mean('accuracy'):.2%}, {points(more)} points against the dense network; n = {more.n}: {verdict}"
    )


def _times(cost: float) -> str:
    return f"{three_digits(cost)} times"
