"""What a ticket looks like inside: where its weights begin, how far they move, how they are spread over the units.

The Lottery Ticket Hypothesis (Frankle & Carbin, 2019), App. F. First what is counted in one network, layer by layer;
then what that comes to over replicates, each number beside what it would be if the mask were none in particular.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from math import isfinite, prod
from statistics import mean
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tombola import layerwise
from tombola.study.paired import Difference, paired
from tombola.study.paths import Links, heard, on_a_path, reached
from tombola.study.written import points, written

if TYPE_CHECKING:
    from tombola.layers import Layout


def input_survivors(first: NDArray[np.bool_], shape: tuple[int, ...]) -> NDArray[np.float64] | None:
    """How many living weights of the first layer each input has, as an image.

    Args:
        first: the first layer's mask, units x inputs.
        shape: channels, height, width of an image; a text has no such image.

    Returns:
        height x width, the mean over units (and sum over channels) of what is alive, so 1 per channel in a dense layer;
        None where the first layer does not see the whole input, like a convolution.

    App. F.6 of The Lottery Ticket Hypothesis (Frankle & Carbin, 2019).
    """
    if len(shape) != 3 or first.ndim != 2 or first.shape[1] != prod(shape):
        return None
    channels, height, width = shape
    per_input: NDArray[np.float64] = first.mean(axis=0).reshape(channels, height, width).sum(axis=0)
    return per_input


def idle(alive: NDArray[np.bool_], layout: "Layout") -> tuple[int, int]:
    """How many outputs of a layer have no living weight, and how many of its inputs are read by none.

    An output without a living weight is its bias, whatever comes in. The outputs and inputs of a convolution are its
    channels. Of other layers nothing is asked: more may be dead that only feeds what is dead.

    Args:
        alive: the layer's mask, of two axes or more.
        layout: which of them are its outputs and its inputs. In each group of a convolution there are others along
            axis 1.

    >>> from tombola.layers import Layout
    >>> alive = np.array([[1, 0, 0], [0, 0, 0]], bool)
    >>> idle(alive, Layout()), idle(alive, Layout(inputs=0, outputs=1)), idle(alive, Layout(groups=2))
    ((1, 2), (2, 1), (1, 5))
    """
    links = np.asarray(alive.any(axis=tuple(range(2, alive.ndim))))
    groups, rows, columns = layout.groups, *links.shape
    dead = [int((~each).sum()) for each in (links.any(1), links.reshape(groups, rows // groups, columns).any(1))]
    return dead[layout.outputs], dead[layout.inputs]


# ---------------------------------------------------------------- one network, layer by layer

NEAR = 0.5  # deviations of the layer's initial weights: what begins within is near 0
REACH, BINS = 4.0, 40  # histograms: up to so many deviations, beyond which all is in the last bin
QUANTILES = 21


@dataclass(frozen=True)
class Counted:
    """Two histograms with the same bins.

    Attributes:
        low, high: where the first bin begins and the last one ends; what lies beyond is in these bins.
        kept: how many of the weights that a mask keeps are in each bin.
        rest: of those that it does not.
    """

    low: float
    high: float
    kept: tuple[int, ...]
    rest: tuple[int, ...]


def counted(values: NDArray[np.float64], alive: NDArray[np.bool_], low: float, high: float) -> Counted:
    """How values are distributed among the weights that a mask keeps, and among the rest.

    >>> counted(np.array([-9.0, 0.1, 0.31]), np.array([True, False, True]), 0.0, 1.0).kept[:13]
    (1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1)
    """
    inside = np.clip(values, low, high)
    kept, rest = (np.histogram(inside[each], BINS, (low, high))[0].tolist() for each in (alive, ~alive))
    return Counted(low, high, tuple(kept), tuple(rest))


def beginnings(initial: NDArray[np.float64], alive: NDArray[np.bool_]) -> dict[str, Any]:
    """Where the weights of a layer begin that a mask keeps, in standard deviations of all of the layer's.

    Returns:
        `near`, the shares of those that are kept, and of all, that begin within half a deviation of 0: two like ones
        where a mask does not ask for it, 0 beside 0.38 where what is kept leaves a gap around 0; `positive`, the
        same of those that begin above 0; `size`, the mean |theta_i|; and `histogram`.

    >>> found = beginnings(np.array([-2.0, -0.1, 0.1, 2.0]), np.array([True, False, False, True]))
    >>> found["near"], found["positive"]
    ((0.0, 0.5), (0.5, 0.5))
    """
    deviation = float(initial.std()) or 1.0
    scaled = initial / deviation
    facts = {"near": np.abs(scaled) < NEAR, "positive": scaled > 0, "size": np.abs(scaled)}
    means = {name: (float(each[alive].mean()), float(each.mean())) for name, each in facts.items()}
    return {**means, "histogram": asdict(counted(scaled, alive, -REACH, REACH))}


def moves(
    initial: NDArray[np.float64], trained: NDArray[np.float64], alive: NDArray[np.bool_], deviation: float
) -> dict[str, Any]:
    """How far training moves the weights of a layer that a mask keeps, and the rest of them.

    Args:
        initial, trained: theta_i and theta_f, of a network in which all of them are trained.
        alive: what the mask keeps; not all of it.
        deviation: in which distances are given.

    Returns:
        `moved`, mean |theta_f - theta_i| of what is kept and of the rest; `grown`, mean |theta_f| - |theta_i|; and
        `histograms` of both.
    """
    moved, grown = np.abs(trained - initial) / deviation, (np.abs(trained) - np.abs(initial)) / deviation
    facts = {"moved": moved, "grown": grown}
    means = {name: (float(each[alive].mean()), float(each[~alive].mean())) for name, each in facts.items()}
    lows = {"moved": 0.0, "grown": -REACH / 2}
    drawn = {name: asdict(counted(each, alive, lows[name], REACH / 2)) for name, each in facts.items()}
    return {**means, "histograms": drawn}


def degrees(alive: NDArray[np.bool_], layout: "Layout") -> dict[str, Any]:
    """How the living weights of a layer are spread over the units that they come into, and over those they go out from.

    Of n weights of which k live, a unit with c of them keeps a hypergeometric number in a random mask, of variance
    k (c / n) (1 - c / n) (n - k) / (n - 1); its root over the mean is the coefficient of variation by chance.

    Args:
        alive: the layer's mask, of two axes or more.
        layout: which of them are its outputs and its inputs.

    Returns:
        `into` and `out of` units: `variation`, the coefficient found and that of chance; `kept`, the share of its
        weights that a unit keeps at `QUANTILES` quantiles of the units; and `chance`, the same of random masks.
    """
    from scipy.stats import hypergeom

    n, k, groups = alive.size, int(alive.sum()), layout.groups
    others = alive.any(axis=tuple(range(2, alive.ndim))).shape[1] * groups
    per_row = alive.reshape(len(alive), -1).sum(1)
    blocks = alive.reshape(groups, len(alive) // groups, alive.shape[1], -1)
    per_column = blocks.sum(axis=(1, 3)).reshape(others)
    sides = {"into": per_row, "out of": per_column}
    if layout.outputs:
        sides = {"into": per_column, "out of": per_row}
    places, found = (np.arange(QUANTILES) + 0.5) / QUANTILES, {}
    for side, counts in sides.items():
        fan = n // len(counts)
        expected, share = k / len(counts), 1 / len(counts)
        chance = (k * share * (1 - share) * (n - k) / max(n - 1, 1)) ** 0.5
        found[side] = {
            "variation": (float(counts.std()) / expected, chance / expected),
            "kept": np.quantile(counts / fan, places).tolist(),
            "chance": (hypergeom.ppf(places, n, k, fan) / fan).tolist(),
        }
    return found


def on_paths(alive: Mapping[str, NDArray[np.bool_]], links: Mapping[str, Links]) -> dict[str, float]:
    """Of the living weights of each layer, the share that lies on a path from an input to an output.

    Args:
        alive: the masks, units first, as linear layers and convolutions have them.
        links: of these layers, and of those that are dense, as `paths.of_model` gives them.

    >>> dead_end = {"fc1": np.array([[True], [True]]), "output": np.array([[True, False]])}
    >>> on_paths(dead_end, dead_end)
    {'fc1': 0.5, 'output': 1.0}
    """
    into, out = reached(list(links.values())), heard(list(links.values()))
    shares = {}
    for layer, name in enumerate(links):
        if name in alive:
            counts = alive[name].sum(axis=tuple(range(2, alive[name].ndim)))
            fed = np.repeat(into[layer], counts.shape[1] // len(into[layer]))
            on = int((counts * (out[layer + 1][:, None] & fed)).sum())
            shares[name] = on / max(int(counts.sum()), 1)
    return shares


def dead_units(links: Sequence[Links]) -> list[float]:
    """Of the inputs, and of each layer's units, the share that lies on no path from an input to an output.

    >>> dead_units([np.array([[True, False]]), np.array([[True], [False]])])
    [0.5, 0.0, 0.5]
    """
    return [float((~each).mean()) for each in on_a_path(links)]


def layer_densities(alive: Mapping[str, NDArray[np.bool_]]) -> dict[str, dict[str, float]]:
    """The density of each layer, beside that of Erdős-Rényi-Kernel and the same for all, with as many weights in all.

    >>> layer_densities({"a": np.ones((2, 2), bool), "b": np.zeros((2, 2), bool)})["b"]
    {'density': 0.0, 'ERK': 0.5, 'uniform': 0.5}
    """
    shapes, total = {name: each.shape for name, each in alive.items()}, sum(int(each.sum()) for each in alive.values())
    counts = layerwise.erdos_renyi_kernel(shapes, dict.fromkeys(shapes, 0.5), total)
    size = sum(each.size for each in alive.values())
    return {
        name: {"density": int(each.sum()) / each.size, "ERK": counts[name] / each.size, "uniform": total / size}
        for name, each in alive.items()
    }


# ---------------------------------------------------------------- over replicates, in words


@dataclass(frozen=True)
class Aspect:
    """One thing that is asked of every layer: a number, beside what it is without the mask or by chance.

    Attributes:
        name: of what is asked.
        path: where the pair of numbers stands in what was counted of a layer.
        unit: `share`, given in percent, or what a number is counted in, which may be empty.
        about: the numbers in words, of an arm.
        lower, higher: what it means if what is found is less, and more, than what stands beside it.
    """

    name: str
    path: tuple[str, ...]
    unit: str
    about: str
    lower: str
    higher: str


SHARE = "share"
ASPECTS = tuple(
    Aspect(*fields)
    for fields in (
        (
            *("beginnings", ("begin", "near"), SHARE),
            "of the weights that {arm} keeps these shares began near 0, within half a standard deviation of their "
            "layer's, beside those of all of the layer",
            *("a gap around 0", "a crowd around 0"),
        ),
        (
            *("tilt", ("begin", "positive"), SHARE),
            "of the weights that {arm} keeps these shares began above 0, beside those of all of the layer",
            *("rather negative ones", "rather positive ones"),
        ),
        (
            *("sizes", ("begin", "size"), "deviations"),
            "the weights that {arm} keeps began at these mean magnitudes, beside those of all of the layer",
            *("smaller ones", "larger ones"),
        ),
        (
            *("moved", ("moves", "moved"), "deviations"),
            "in the dense network the weights that {arm} keeps move so far in training, beside the others",
            *("they move less", "they move farther"),
        ),
        (
            *("grown", ("moves", "grown"), "deviations"),
            "in the dense network the magnitudes of the weights that {arm} keeps grow by so much in training, beside "
            "the others",
            *("they grow less", "they grow more"),
        ),
        (
            *("in-degrees", ("degrees", "into", "variation"), ""),
            "the number of weights that {arm} keeps into each unit of a layer varies by these coefficients, beside "
            "random masks",
            *("more even than chance", "less even than chance"),
        ),
        (
            *("out-degrees", ("degrees", "out of", "variation"), ""),
            "the number of weights that {arm} keeps out of each input of a layer varies by these coefficients, beside "
            "random masks",
            *("more even than chance", "less even than chance"),
        ),
        (
            *("effective", ("effective",), SHARE),
            "of the weights that {arm} keeps these shares lie on a path from an input to an output, beside a random "
            "mask of equal counts",
            *("more dead ends than by chance", "fewer dead ends than by chance"),
        ),
        (
            *("dead units", ("dead",), SHARE),
            "under the masks of {arm} these shares of units lie on no path from an input to an output, beside a random "
            "mask of equal counts",
            *("fewer than by chance", "more than by chance"),
        ),
        (
            *("density", ("density",), SHARE),
            "{arm} keeps these shares of the layers' weights, beside Erdős-Rényi-Kernel",
            *("sparser than that", "denser than that"),
        ),
    )
)


@dataclass(frozen=True)
class Beside:
    """A number of a layer, over replicates.

    Attributes:
        layer: the name of its weight.
        own: what is found.
        beside: what it is without the mask, or by chance.
        apart: own less beside, paired by replicate.
        more: own less that of another arm, paired by replicate; None where there is none.
    """

    layer: str
    own: Difference
    beside: Difference
    apart: Difference
    more: Difference | None = None


def compared(
    aspect: Aspect,
    found: Mapping[int, Mapping[str, Any]],
    confidence: float,
    other: Mapping[int, Mapping[str, Any]] | None = None,
) -> tuple[Beside, ...]:
    """What an aspect comes to in each layer that has it in some replicate.

    Args:
        aspect: what is asked.
        found: by replicate, and by layer: what was counted.
        confidence: of the intervals, in (0.5, 1).
        other: the same of the arm that this one is compared with.
    """
    layers = dict.fromkeys(layer for each in found.values() for layer in each)
    results = []
    for layer in layers:
        pairs, others = _pairs(aspect, layer, found), _pairs(aspect, layer, other or {})
        both = [pairs[number][0] - others[number][0] for number in pairs if number in others]
        if pairs:
            columns = [list(column) for column in zip(*pairs.values(), strict=True)]
            apart = [one - other for one, other in pairs.values()]
            own, beside, difference = (paired(each, confidence) for each in (*columns, apart))
            more = paired(both, confidence) if both else None
            results.append(Beside(layer, own, beside, difference, more))
    return tuple(results)


def _pairs(aspect: Aspect, layer: str, found: Mapping[int, Mapping[str, Any]]) -> dict[int, tuple[float, float]]:
    pairs = {}
    for number, layers in found.items():
        value: Any = layers.get(layer)
        for step in aspect.path:
            value = value and value.get(step)
        if value:
            pairs[number] = (value[0], value[1])
    return pairs


MOST_TOLD = 6  # layers in a sentence


def sentence(aspect: Aspect, density: float, arm: str, layers: Sequence[Beside], other: str = "") -> str:
    """What an aspect comes to, in words.

    Args:
        aspect: what was asked.
        density: P_m, in (0, 1].
        arm: whose networks they are.
        layers: as `compared` gives them, one at least.
        other: the arm that this one is compared with, if there is one.

    >>> near = [{"fc1.weight": {"begin": {"near": each}}} for each in ((0.1, 0.4), (0.2, 0.4))]
    >>> sentence(ASPECTS[0], 0.1, "ticket", compared(ASPECTS[0], dict(enumerate(near)), 0.95))
    "At 10.0%, of the weights that ticket keeps these shares began near 0, within half a standard deviation of their
    layer's, beside those of all of the layer: fc1 15.0% beside 40.0% (-25.0 [-88.5, +38.5] points). No difference is
    shown; n = 2."
    """
    told = layers if len(layers) <= MOST_TOLD else sorted(layers, key=lambda each: -abs(each.apart.mean))[:MOST_TOLD]
    parts = [_told(aspect, each, other) for each in told]
    left = f"; {len(layers) - len(told)} layers more" if len(layers) > len(told) else ""
    head = f"At {density:.1%}, {aspect.about.format(arm=arm)}: {'; '.join(parts)}{left}"
    return f"{head}. {_verdict(aspect, layers)}; n = {min(each.own.n for each in layers)}."


def _verdict(aspect: Aspect, layers: Sequence[Beside]) -> str:
    if not isfinite(layers[0].apart.low):
        return "One replicate decides nothing"
    ways = {
        aspect.lower: [_bare(each.layer) for each in layers if each.apart.high < 0],
        aspect.higher: [_bare(each.layer) for each in layers if each.apart.low > 0],
    }
    shown = [f"{what} in {_listed(names, len(layers))}" for what, names in ways.items() if names]
    text = "; ".join(shown) or "no difference is shown"
    return text[0].upper() + text[1:]


def _listed(names: Sequence[str], layers: int) -> str:
    if len(names) == layers > 1:
        return "every layer"
    return ", ".join(names) if len(names) <= MOST_TOLD else f"{len(names)} of {layers} layers"


def _bare(layer: str) -> str:
    return layer.removesuffix(".weight")


def _told(aspect: Aspect, each: Beside, other: str) -> str:
    if aspect.unit == SHARE:
        text, unit = f"{each.own.mean:.1%} beside {each.beside.mean:.1%}", "points"
    else:
        text, unit = f"{each.own.mean:.2f} beside {each.beside.mean:.2f}", aspect.unit
    than = f"; {_difference(each.more, unit)} to {other}" if each.more else ""
    return f"{_bare(each.layer)} {text} ({_difference(each.apart, unit)}{than})"


def _difference(given: Difference, unit: str) -> str:
    number = points(given, 1) if unit == "points" else written(given, "+.2f")
    return f"{number} {unit}".rstrip()


def pooled(histograms: Sequence[Mapping[str, Any]]) -> Counted:
    """Histograms of several replicates as one."""
    kept, rest = (np.sum([each[part] for each in histograms], axis=0).tolist() for part in ("kept", "rest"))
    return Counted(histograms[0]["low"], histograms[0]["high"], tuple(kept), tuple(rest))


def averaged(quantiles: Sequence[Sequence[float]]) -> tuple[float, ...]:
    """The mean of each quantile over replicates."""
    return tuple(mean(each) for each in zip(*quantiles, strict=True))
