"""Are two tickets the same ticket? How far their masks overlap, and how far masks of that size would by chance.

Two masks that keep a and b of a layer's n weights at random have a b / n in common on average, and so overlap by

    (a b / n) / (a + b - a b / n),

which is d / (2 - d) for one density d. An overlap says nothing without it: at 90 % density chance gives 0.82.

How Many Winning Tickets Are There in One DNN? (Grosse & Backes, 2020).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean

from tombola.mask import Mask

WHOLE = "all"


@dataclass(frozen=True)
class Overlap:
    """Two masks in one layer, or in all of them together.

    Attributes:
        name: of the layer's weight; `all` for the whole network.
        overlap: |A and B| / |A or B|, in [0, 1] (Jaccard).
        chance: the same with the mean of |A and B| over random masks of the same counts.
    """

    name: str
    overlap: float
    chance: float


def chance(a: int, b: int, n: int) -> float:
    """The overlap of two independent random masks that keep a and b of n weights: e / (a + b - e) where e = a b / n.

    >>> chance(20, 20, 100)  # d / (2 - d)
    0.111...
    """
    return _jaccard(a * b / n if n else 0.0, a + b)


def overlaps(left: Mask, right: Mask) -> list[Overlap]:
    """The overlap of two masks of one architecture in each layer, and last in all layers together.

    What chance gives in all comes from the sum of what the layers have in common by chance, each with its own counts:
    masks that share nothing but how many weights each layer keeps are no more alike than that.

    Raises:
        ValueError: the masks have other layers.

    >>> from torch import tensor
    >>> left, right = Mask({"w": tensor([True, True, False, False])}), Mask({"w": tensor([True, True, True, False])})
    >>> overlaps(left, right)
    [Overlap(name='w', overlap=0.666..., chance=0.428...), Overlap(name='all', overlap=0.666..., chance=0.428...)]
    """
    shapes = [{name: tuple(alive.shape) for name, alive in mask.items()} for mask in (left, right)]
    if shapes[0] != shapes[1]:
        raise ValueError(f"expected two masks of the same layers, found {shapes[0]} and {shapes[1]}")
    layers, common, by_chance, kept = [], 0, 0.0, 0
    for name in left:
        both = int((left[name] & right[name]).sum())
        a, b, n = int(left[name].sum()), int(right[name].sum()), left[name].numel()
        layers.append(Overlap(name, _jaccard(both, a + b), chance(a, b, n)))
        common, by_chance, kept = common + both, by_chance + (a * b / n if n else 0.0), kept + a + b
    return [*layers, Overlap(WHOLE, _jaccard(common, kept), _jaccard(by_chance, kept))]


def _jaccard(both: float, kept: int) -> float:
    return both / (kept - both) if kept else 1.0  # two empty masks are alike


def averaged(pairs: Sequence[Sequence[Overlap]]) -> list[Overlap]:
    """The mean over several pairs of masks, layer by layer.

    Args:
        pairs: what `overlaps` gives for each, all of one architecture.
    """
    return [
        Overlap(same[0].name, mean(one.overlap for one in same), mean(one.chance for one in same))
        for same in zip(*pairs, strict=True)
    ]


def sentence(group: str, density: float, pairs: Sequence[Sequence[Overlap]]) -> str:
    """What several pairs of masks have in common, against chance.

    The range is over the pairs; it is no interval, as pairs that share a mask are not independent.

    Args:
        group: whose masks they are, such as `tickets of one initialisation in other data orders`.
        density: P_m, in (0, 1].
        pairs: what `overlaps` gives for each.

    >>> pair = [Overlap("w", 0.5, 0.1), Overlap("v", 0.3, 0.2), Overlap("all", 0.4, 0.1)]
    >>> sentence("tickets of one initialisation", 0.2, [pair, pair])
    'At 20.0%, the masks of tickets of one initialisation overlap by 0.40 (0.40 to 0.40) where chance gives 0.10, over 2
    pairs: most above chance in w (0.50 against 0.10), least in v (0.30 against 0.20).'
    """
    *layers, whole = averaged(pairs)
    each = [pair[-1].overlap for pair in pairs]
    spread = f" ({min(each):.2f} to {max(each):.2f})" if len(each) > 1 else ""
    opening = (
        f"At {density:.1%}, the masks of {group} overlap by {whole.overlap:.2f}{spread} where chance gives "
        f"{whole.chance:.2f}, over {len(pairs)} pair{'s' if len(pairs) > 1 else ''}"
    )
    if len(layers) < 2:
        return f"{opening}."
    ordered = sorted(layers, key=lambda layer: layer.overlap - layer.chance)
    if f"{ordered[-1].overlap:.2f}" <= f"{ordered[-1].chance:.2f}":
        return f"{opening}: in no layer more than chance, to two digits."
    most, least = (
        f"{layer.name} ({layer.overlap:.2f} against {layer.chance:.2f})" for layer in (ordered[-1], ordered[0])
    )
    return f"{opening}: most above chance in {most}, least in {least}."
