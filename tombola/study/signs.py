"""How many weights end with another sign than they began with: as shares of those that survive, arm beside arm."""

from collections.abc import Mapping
from dataclasses import dataclass

from tombola.study.paired import Difference, paired
from tombola.study.written import points, share


@dataclass(frozen=True)
class Flipped:
    """The share of an arm's surviving weights that end with another sign, and what it is more than the ticket's.

    Attributes:
        arm: its name.
        share: in [0, 1].
        more: paired by replicate; None for the ticket, and where no replicate has both.
    """

    arm: str
    share: Difference
    more: Difference | None


def flipped(shares: Mapping[str, Mapping[int, float]], confidence: float) -> tuple[Flipped, ...]:
    """What the shares of all replicates come to.

    Args:
        shares: by arm, and by replicate.
        confidence: of the intervals, in (0.5, 1).

    >>> [each.share.mean for each in flipped({"ticket": {0: 0.25, 1: 0.75}}, 0.95)]
    [0.5]
    """
    ticket = shares.get("ticket", {})
    found = []
    for arm, own in shares.items():
        both = [own[number] - ticket[number] for number in own if number in ticket]
        more = paired(both, confidence) if both and arm != "ticket" else None
        found.append(Flipped(arm, paired(list(own.values()), confidence), more))
    return tuple(found)


def sentence(density: float, since: str, arms: tuple[Flipped, ...]) -> str:
    """What the shares say.

    Args:
        density: P_m, in (0, 1].
        since: what the signs are compared with, `at the beginning` or `at the rewind point`.
        arms: as `flipped` gives them.

    >>> alike = {arm: {0: share, 1: share + 0.01} for arm, share in (("ticket", 0.1), ("lr-rewind", 0.3))}
    >>> sentence(0.2, "at the beginning", flipped(alike, 0.95))
    'At 20.0%, of the surviving weights have another sign than at the beginning: 10.5% [4.1%, 16.9%] in ticket; 30.5%
    [24.1%, 36.9%] in lr-rewind, +20.0 [+20.0, +20.0] points; n = 2.'
    """
    parts = [f"{share(each.share)} in {each.arm}{_more(each.more)}" for each in arms]
    n = min(each.share.n for each in arms)
    return f"At {density:.1%}, of the surviving weights have another sign than {since}: {'; '.join(parts)}; n = {n}."


def _more(more: Difference | None) -> str:
    return f", {points(more, 1)} points" if more else ""
