"""Tickets and another arm under attack: what withstands more, paired by replicate, and in words."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from statistics import mean

from tombola.study import written
from tombola.study.paired import Difference, Estimate, paired, together
from tombola.study.robustness import FGSM, Robustness

CLEAN, WORST = "clean", "worst case"
OVERSTATED = 0.1  # by one step, of which networks that were trained on it may have learned to tell it


@dataclass(frozen=True)
class Compared:
    """One share of tickets and of another arm.

    Attributes:
        name: `clean`, `worst case`, or an attack's title.
        ticket, other: the means, each with an interval for itself.
        more: ticket less other, paired by replicate.
    """

    name: str
    ticket: Estimate
    other: Estimate
    more: Difference


@dataclass(frozen=True)
class Contrast:
    """Tickets and another arm under attack.

    Attributes:
        worst: the claim, whose interval is for itself.
        rest: clean answers and each attack, whose intervals hold together.
        masking: by arm, what speaks for masked gradients in it, by the means over replicates.
        looked_at: in every arm, to see whether there are some.
        examples: of the test set, that were attacked.
    """

    worst: Compared
    rest: tuple[Compared, ...]
    masking: Mapping[str, tuple[str, ...]]
    looked_at: tuple[str, ...]
    examples: int


def contrast(
    ticket: Mapping[int, Robustness], other: Mapping[int, Robustness], arm: str, confidence: float, grain: float
) -> Contrast | None:
    """What the networks of all replicates come to; None where no replicate has both.

    Args:
        ticket, other: by replicate.
        arm: the name of the other one.
        confidence: of the intervals, in (0.5, 1).
        grain: the share of one example.
    """
    both = [(ticket[number], other[number]) for number in ticket if number in other]
    if not both:
        return None
    shares = {CLEAN: [(ours.clean, theirs.clean) for ours, theirs in both]}
    for title in both[0][0].attacked:
        if title in both[0][1].attacked:  # the dense network has not been attacked from itself
            shares[title] = [(ours.attacked[title], theirs.attacked[title]) for ours, theirs in both]
    worst = [(ours.worst, theirs.worst) for ours, theirs in both]
    rest = together({name: _less(pairs) for name, pairs in shares.items()}, confidence, dict.fromkeys(shares, grain))
    means = {"ticket": averaged([ours for ours, _ in both]), arm: averaged([theirs for _, theirs in both])}
    return Contrast(
        _compared(WORST, worst, paired(_less(worst), confidence, grain), confidence),
        tuple(_compared(name, shares[name], more, confidence) for name, more in rest.items()),
        {name: each.masking for name, each in means.items()},
        tuple(words for words in means["ticket"].looked_at if words in means[arm].looked_at),
        round(1 / grain),
    )


def _less(pairs: Sequence[tuple[float, float]]) -> list[float]:
    return [ours - theirs for ours, theirs in pairs]


def _compared(name: str, pairs: Sequence[tuple[float, float]], more: Difference, confidence: float) -> Compared:
    ours, theirs = (paired(each, confidence) for each in zip(*pairs, strict=True))
    return Compared(name, ours, theirs, more)


def averaged(found: Sequence[Robustness]) -> Robustness:
    """The means of several networks' shares, one network at least; logits are as repeatable as the least of them."""
    return Robustness(
        mean(each.clean for each in found),
        {title: mean(each.attacked[title] for each in found) for title in found[0].attacked},
        mean(each.worst for each in found),
        mean(each.zero_gradients for each in found),
        mean(each.whole_box for each in found),
        _mean([each.one_step_more for each in found]),
        _mean([each.black_box_more for each in found]),
        all(each.deterministic for each in found),
    )


def _mean(shares: Sequence[float | None]) -> float | None:
    known = [each for each in shares if each is not None]
    return mean(known) if known else None


def sentence(
    density: float,
    epsilon: float,
    arm: str,
    found: Contrast,
    chance: float,
    transfer: tuple[Estimate, Estimate] | None = None,
) -> str:
    """What attacks say of tickets beside another arm.

    Args:
        density: P_m of the tickets, in (0, 1].
        epsilon: the largest change of a pixel.
        arm: what they are held against.
        found: as `contrast` gives it.
        chance: the accuracy of whoever always gives the same answer.
        transfer: the share of tickets' answers that inputs found on the dense network do not fool, and the other way.

    >>> network = Robustness(0.98, {"FGSM": 0.1}, 0.02, 0, 0, 0, None, True)
    >>> both = {0: network, 1: network}
    >>> sentence(0.1, 0.3, "dense", contrast(both, both, "dense", 0.95, 0.001), chance=0.1)
    'Robust accuracy of tickets at 10.0%, pixels changed by up to 0.3: 2.0% against 2.0% of dense, +0.00 [-0.37, +0.37]
    points, not shown to differ; both are below guessing (10.0%); clean 98.0% against 98.0%, +0.00 [-0.73, +0.73]; FGSM
    10.0% against 10.0%, +0.00 [-0.73, +0.73]; gradient masking is not seen: logits repeat, gradients are not 0, pixels
    that may become anything fool all, one step fools no more than many; on 1,000 test examples, at the end of
    training; n = 2.'
    """
    worst = found.worst
    low = f"; both are below guessing ({chance:.1%})" if max(worst.ticket.mean, worst.other.mean) < chance else ""
    head = f"Robust accuracy of tickets at {density:.1%}, pixels changed by up to {epsilon:.3g}"
    parts = [
        f"{head}: {_told(worst, arm)} points, {_word(worst.more)}{low}",
        *(f"{each.name} {_told(each)}" for each in found.rest),
        *_overstated(found),
        *_transferred(transfer),
        _masked(found),
        f"on {found.examples:,} test examples, at the end of training; n = {worst.more.n}.",
    ]
    return "; ".join(parts)


def _told(each: Compared, arm: str = "") -> str:
    of = f" of {arm}" if arm else ""
    return f"{each.ticket.mean:.1%} against {each.other.mean:.1%}{of}, {written.points(each.more)}"


def _overstated(found: Contrast) -> list[str]:
    for each in found.rest:
        too_much = each.ticket.mean - found.worst.ticket.mean, each.other.mean - found.worst.other.mean
        if each.name == FGSM().title and max(too_much) > OVERSTATED:
            tickets, other = (f"{100 * points:.1f}" for points in too_much)
            return [f"FGSM alone would overstate it by {tickets} and {other} points"]
    return []


def _transferred(transfer: tuple[Estimate, Estimate] | None) -> list[str]:
    if not transfer:
        return []
    onto, back = map(written.share, transfer)
    return [f"inputs found on the dense network leave tickets {onto}, those found on tickets leave it {back}"]


def _word(more: Difference) -> str:
    if more.n < 2:
        return "but one replicate decides nothing"
    if not isfinite(more.low) or more.low <= 0 <= more.high:
        return "not shown to differ"
    return f"{'more' if more.mean > 0 else 'less'} robust"


def _masked(found: Contrast) -> str:
    seen = [f"in {arm}, as {' and '.join(signs)}" for arm, signs in found.masking.items() if signs]
    if seen:
        return f"gradients are likely masked {', and '.join(seen)}, so that the true numbers are lower"
    return f"gradient masking is not seen: {', '.join(found.looked_at)}"
