"""How many weights of each layer stay when so many of all do: evenly, by Erdős-Rényi, by Erdős-Rényi-Kernel.

Each rule gives layers their densities, whose counts add up to the total exactly: what rounding leaves over goes to the
layers with the largest fractions, one each.
"""

from collections.abc import Callable, Mapping
from math import floor, fsum, prod

Shape = tuple[int, ...]
Counts = dict[str, int]


def evenly(shapes: Mapping[str, Shape], rates: Mapping[str, float], total: int) -> Counts:
    """Layer l keeps (1 - rate_l)^x of its weights, with the one x at which all together keep `total`.

    With one rate for all of them this is one density for all; where the output is pruned at half the rate, say, it is
    what a search that goes round by round leaves at that density.

    Args:
        shapes: of the layers' weights.
        rates: the fraction that each layer loses in a round, in [0, 1); one of 0 stays dense.
        total: how many weights stay, in [0, their number].

    >>> evenly({"a": (10, 10), "b": (5, 4)}, {"a": 0.2, "b": 0.2}, 60)
    {'a': 50, 'b': 10}
    >>> evenly({"a": (10, 10), "b": (5, 4)}, {"a": 0.2, "b": 0.1}, 60)
    {'a': 46, 'b': 14}
    """
    sizes = {name: prod(shape) for name, shape in shapes.items()}

    def after(rounds: float) -> dict[str, float]:
        return {name: size * (1 - rates[name]) ** rounds for name, size in sizes.items()}

    return _rounded(_at(after, total), sizes, total)


def erdos_renyi(shapes: Mapping[str, Shape], rates: Mapping[str, float], total: int) -> Counts:
    """A layer's density is proportional to (n_in + n_out) / (n_in n_out), capped at 1.

    What a cap takes away is shared out among the others again until no density exceeds 1. `rates` of 0 keep a layer
    dense. Source: Scalable Training of Artificial Neural Networks with Adaptive Sparse Connectivity (Mocanu et al.,
    2018); the cap as in Rigging the Lottery (Evci et al., 2020).

    >>> erdos_renyi({"a": (10, 20), "b": (4, 10)}, {"a": 0.2, "b": 0.2}, 44)
    {'a': 30, 'b': 14}
    """
    return _proportional(
        {name: sum(shape[:2]) / prod(shape[:2]) for name, shape in shapes.items()}, shapes, rates, total
    )


def erdos_renyi_kernel(shapes: Mapping[str, Shape], rates: Mapping[str, float], total: int) -> Counts:
    """As `erdos_renyi`, with the kernel: density proportional to (n_in + n_out + k_1 + k_2) / (n_in n_out k_1 k_2).

    Source: Rigging the Lottery: Making All Tickets Winners (Evci et al., 2020), https://arxiv.org/abs/1911.11134.

    >>> erdos_renyi_kernel({"a": (8, 3, 3, 3), "b": (8, 8, 3, 3)}, {"a": 0.2, "b": 0.2}, 156)
    {'a': 68, 'b': 88}
    """
    return _proportional({name: sum(shape) / prod(shape) for name, shape in shapes.items()}, shapes, rates, total)


def _proportional(
    raw: Mapping[str, float], shapes: Mapping[str, Shape], rates: Mapping[str, float], total: int
) -> Counts:
    sizes = {name: prod(shape) for name, shape in shapes.items()}
    dense = {name for name in sizes if not rates[name]}
    while True:
        left = total - sum(sizes[name] for name in dense)
        spread = fsum(raw[name] * sizes[name] for name in sizes if name not in dense)
        factor = left / spread if spread else 0.0
        full = {name for name in sizes if name not in dense and raw[name] * factor > 1}
        if not full:
            break
        dense |= full
    exact = {name: float(size) if name in dense else raw[name] * factor * size for name, size in sizes.items()}
    return _rounded(exact, sizes, total)


def _at(after: Callable[[float], dict[str, float]], total: int) -> dict[str, float]:
    """The counts of layers at the number of rounds, a real one, at which they add up to `total`."""
    low, high = 0.0, 1.0
    while fsum(after(high).values()) > total and high < 1e6:
        low, high = high, 2 * high
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if fsum(after(middle).values()) > total else (low, middle)
    return after(high)


def _rounded(exact: Mapping[str, float], sizes: Mapping[str, int], total: int) -> Counts:
    """Whole numbers that add up to `total`: rounded down, and one more where most was cut off; ties by order."""
    counts = {name: min(floor(count + 1e-9), sizes[name]) for name, count in exact.items()}
    by_fraction = sorted(exact, key=lambda name: counts[name] - exact[name])
    room = [name for name in by_fraction if counts[name] < sizes[name]]
    missing = max(0, min(total, sum(sizes.values())) - sum(counts.values()))
    for name in (room * (missing // max(len(room), 1) + 1))[:missing]:
        counts[name] += counts[name] < sizes[name]
    return counts
