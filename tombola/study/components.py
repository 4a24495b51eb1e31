"""Into which parts a mask falls: the connected components of its graph, each with an input, an output and a path.

Two tasks that have nothing in common but a network need no weight between them: a search that finds that out leaves
two networks side by side. What lies on no path from an input to an output is left out before components are counted,
so that each of them carries something.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import isfinite
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from tombola.study.paired import Difference
from tombola.study.paths import Links, chain, effective, of_model, on_a_path
from tombola.study.written import written

if TYPE_CHECKING:
    from torch import nn

    from tombola.mask import Mask

MOST_LISTED, MOST_PARTS = 8, 4  # in a sentence: runs of places, parts


@dataclass(frozen=True)
class Part:
    """One connected component of a mask's graph.

    Attributes:
        inputs, outputs: the places of those that belong to it; channels where a convolution reads the inputs.
        units: how many lie in it in all, inputs and outputs too.
        links: the pairs of units that living weights connect.
    """

    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    units: int
    links: int

    def __str__(self) -> str:
        return f"{_listed('input', self.inputs)} with {_listed('output', self.outputs)}"


def components(mask: "Mask", model: "nn.Module | None" = None) -> tuple[Part, ...]:
    """The parts into which a mask falls that have a path from an input to an output, the one with most links first.

    Args:
        mask: of a network whose layers each read what the one before gives, and nothing else.
        model: it is of, an `nn.Sequential` of layers. Without it the mask's layers are taken to be all there are,
            linear layers and convolutions in the order in which they are called.

    Raises:
        BadInput: layers are not called one after the other, or cannot read what the one before gives.

    >>> import torch
    >>> from tombola.mask import Mask
    >>> blocks = Mask({"fc1": torch.eye(2).bool().repeat_interleave(2, 1), "output": torch.eye(2).bool()})
    >>> for part in components(blocks):
    ...     print(part)
    inputs 0-1 with output 0
    inputs 2-3 with output 1
    """
    links = chain(mask) if model is None else of_model(mask, model)
    return tuple(sorted(_parts(list(links.values())), key=lambda part: (-part.links, part.inputs)))


def _parts(links: Sequence[Links]) -> Iterator[Part]:
    living, units = effective(links), on_a_path(links)
    starts = np.cumsum([0, *(len(each) for each in units)])
    ends = [np.nonzero(each) for each in living]
    outputs, inputs = (
        np.concatenate([each[axis] + starts[layer + 1 - axis] for layer, each in enumerate(ends)]) for axis in (0, 1)
    )
    size = int(starts[-1])
    graph = coo_array((np.ones(len(inputs), bool), (inputs, outputs)), shape=(size, size))
    _, label = connected_components(graph, directed=False)
    layers = [label[begin:end] for begin, end in pairwise(starts)]
    edges = np.bincount(label[inputs], minlength=int(label.max(initial=0)) + 1)
    counts = np.bincount(label, minlength=len(edges))
    for part in np.flatnonzero(edges):
        first, last = (tuple(np.flatnonzero(each == part).tolist()) for each in (layers[0], layers[-1]))
        yield Part(first, last, int(counts[part]), int(edges[part]))


def _listed(noun: str, places: Sequence[int]) -> str:
    """`inputs 0-1, 5`: runs of places in words; how many there are where the runs are many."""
    breaks = [place for place, (one, other) in enumerate(pairwise(places), start=1) if other != one + 1]
    runs = [places[begin:end] for begin, end in pairwise([0, *breaks, len(places)])]
    if len(runs) > MOST_LISTED:
        return f"{len(places):,} {noun}s"
    text = ", ".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else f"{run[0]}" for run in runs)
    return f"{noun}{'s' if len(places) > 1 else ''} {text}"


def told(parts: Sequence[Part]) -> str:
    """The parts of one mask in words, as what is said of it.

    >>> parts = Part((0, 1), (0,), 5, 4), Part((2, 3), (1,), 5, 4)
    >>> told(parts)
    'it falls apart into 2 parts: inputs 0-1 with output 0; inputs 2-3 with output 1'
    >>> told(parts[:1])
    'it is one part: inputs 0-1 with output 0'
    """
    if not parts:
        return "it has no path from an input to an output left"
    shown = "; ".join(map(str, parts[:MOST_PARTS])) + (
        f"; and {len(parts) - MOST_PARTS:,} more" if len(parts) > MOST_PARTS else ""
    )
    return f"it {'is one part' if len(parts) == 1 else f'falls apart into {len(parts):,} parts'}: {shown}"


@dataclass(frozen=True)
class Apart:
    """Into how many parts an arm's masks fall, beside random masks with the same layer-wise counts.

    Attributes:
        parts: how many there are.
        more: parts less the mean over the random masks, paired by replicate.
        largest: of all links that lie on a path, the share of those in the largest part.
    """

    parts: Difference
    more: Difference
    largest: Difference


def sentence(density: float, arm: str, apart: Apart, first: Sequence[Part]) -> str:
    """What the parts of an arm's masks say.

    Args:
        density: P_m, in (0, 1].
        arm: its name.
        apart: over replicates.
        first: the parts of the first replicate.

    >>> from tombola.study.paired import paired
    >>> apart = Apart(paired([2.0, 2.0], 0.95), paired([1.0, 1.0], 0.95), paired([0.5, 0.5], 0.95))
    >>> parts = Part((0, 1), (0,), 5, 4), Part((2, 3), (1,), 5, 4)
    >>> sentence(0.004, "ticket", apart, parts)
    'At 0.4%, masks of ticket fall into 2 parts on average, random masks of equal counts into 1 (+1.00 [+1.00, +1.00]:
    more); n = 2. In the first replicate it falls apart into 2 parts: inputs 0-1 with output 0; inputs 2-3 with output
    1.'
    """
    more, known = apart.more, isfinite(apart.more.low)
    shown = "more" if more.low > 0 else "fewer" if more.high < 0 else "no difference is shown"
    by_chance = apart.parts.mean - more.mean
    return (
        f"At {density:.1%}, masks of {arm} fall into {_number(apart.parts.mean)} on average, random masks of equal "
        f"counts into {by_chance:.3g} ({written(more, '+.2f')}: "
        f"{shown if known else 'one replicate decides nothing'}); n = {more.n}. In the first replicate {told(first)}."
    )


def _number(parts: float) -> str:
    return f"{parts:.3g} part{'' if parts == 1 else 's'}"


def of_parts(parts: Sequence[Part]) -> dict[str, Any]:
    """The parts as JSON values."""
    return {
        "parts": len(parts),
        "largest": parts[0].links / sum(part.links for part in parts) if parts else 0.0,
        "each": [
            {"inputs": list(part.inputs), "outputs": list(part.outputs), "units": part.units, "links": part.links}
            for part in parts
        ],
    }


def parts_of(values: Mapping[str, Any]) -> tuple[Part, ...]:
    """The parts that `of_parts` has written down."""
    return tuple(
        Part(tuple(each["inputs"]), tuple(each["outputs"]), each["units"], each["links"]) for each in values["each"]
    )
