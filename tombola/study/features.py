"""Are tickets' features aligned with the data? What arms have, replicate by replicate, beside what the ticket has.

The numbers are those of `tombola.study.similarity`: the alignment of a kernel with the labels, and how alike the
features of two networks are. Whether the ticket's is higher is judged arm by arm, paired by replicate.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from tombola.study.paired import Difference, paired
from tombola.study.written import written

Verdict = Literal["for", "against", "undecided"]


@dataclass(frozen=True)
class Standing:
    """What one arm has.

    Attributes:
        arm: its name.
        value: over replicates.
        behind: what the ticket has more, paired by replicate; None for the ticket itself, and where no replicate has
            both.
    """

    arm: str
    value: Difference
    behind: Difference | None


def standings(values: Mapping[str, Mapping[int, float]], confidence: float, grain: float = 0.0) -> tuple[Standing, ...]:
    """What the numbers of all arms come to.

    Args:
        values: by arm, and by replicate.
        confidence: of the intervals, in (0.5, 1).
        grain: what numbers are rounded to: of a share of examples, that of one.

    >>> ticket, random = standings({"ticket": {0: 0.5, 1: 0.75}, "random": {0: 0.25, 1: 0.5}}, 0.95)
    >>> ticket.value.mean, random.behind.mean
    (0.625, 0.25)
    """
    ticket = values.get("ticket", {})
    found = []
    for arm, own in values.items():
        both = [ticket[number] - own[number] for number in own if number in ticket]
        behind = paired(both, confidence, grain) if both and arm != "ticket" else None
        found.append(Standing(arm, paired(list(own.values()), confidence, grain), behind))
    return tuple(found)


def verdict(arms: Sequence[Standing]) -> Verdict:
    """`for`, if the ticket has more than every other arm; `against`, if less than every one; by intervals without 0.

    >>> verdict(standings({"ticket": {0: 0.5, 1: 0.6}, "random": {0: 0.2, 1: 0.3}}, 0.95))
    'for'
    """
    behind = [each.behind for each in arms if each.behind]
    if behind and all(each.low > 0 for each in behind):
        return "for"
    return "against" if behind and all(each.high < 0 for each in behind) else "undecided"


def told(arms: Sequence[Standing], more: str, less: str, claim: str, called: Mapping[str, str] | None = None) -> str:
    """What the standings say of a claim, in words.

    Args:
        more, less: what the ticket is beside an arm that has less, or more: `better aligned than`.
        claim: what is spoken for or against.
        called: by arm, what it is called where that is not its name.

    >>> arms = standings({"ticket": {0: 0.5, 1: 0.6}, "random": {0: 0.2, 1: 0.3}}, 0.95)
    >>> told(arms, "higher than", "lower than", "it is high")
    'the ticket is higher than random, which speaks for the guess that it is high'
    """
    others = [(each.arm, each.behind) for each in arms if each.behind]
    if not others:
        return "there is nothing to compare the ticket with"
    if max(behind.n for _, behind in others) < 2:
        return f"one replicate decides nothing about the guess that {claim}"
    groups: dict[str, list[str]] = {more: [], less: [], "not told apart from": []}
    for arm, behind in others:
        words = more if behind.low > 0 else less if behind.high < 0 else "not told apart from"
        groups[words].append((called or {}).get(arm, arm))
    parts = [f"{words} {_and(names)}" for words, names in groups.items() if names]
    speaks = {"for": "speaks for", "against": "speaks against", "undecided": "speaks neither for nor against"}[
        verdict(arms)
    ]
    return f"the ticket is {'; '.join(parts)}, which {speaks} the guess that {claim}"


def listed(
    arms: Sequence[Standing], called: Mapping[str, str] | None = None, within: tuple[float, float] = (-1, 1)
) -> str:
    """The value of each arm, and what the ticket has more, with their intervals.

    Args:
        called: by arm, what it is called where that is not its name.
        within: the least and the largest value that there can be.

    >>> listed(standings({"ticket": {0: 0.5}, "random": {0: 0.25}}, 0.95))
    '0.500 in ticket; 0.250 in random (ticket +0.250)'
    """
    most = max(each.value.n for each in arms)
    return "; ".join(_listed(each, (called or {}).get(each.arm, each.arm), most, within) for each in arms)


def _listed(one: Standing, name: str, most: int, within: tuple[float, float]) -> str:
    fewer = f"n = {one.value.n}" if one.value.n < most else ""
    behind = f"ticket {written(one.behind, '+.3f')}" if one.behind else ""
    beside = ", ".join(part for part in (behind, fewer) if part)
    return f"{written(one.value, '.3f', within=within)} in {name}" + (f" ({beside})" if beside else "")


def _and(names: Sequence[str]) -> str:
    *most, last = names
    return f"{', '.join(most)} and {last}" if most else last
