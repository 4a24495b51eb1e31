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
from tombola.study.paths import Links, chain, effective, on_a_path

if TYPE_CHECKING:
    from tombola.layers import Layout
    from tombola.mask import Mask

MOST_LISTED = 8  # runs of numbers in a sentence


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


def components(mask: "Mask", layouts: "Sequence[Layout] | None" = None) -> tuple[Part, ...]:
    """The parts into which a mask falls that have a path from an input to an output, the one with most links first.

    Args:
        mask: of a network whose layers each read what the one before gives; in the order in which they are called.
        layouts: of its layers, where others than linear layers and convolutions are among them.

    Raises:
        BadInput: a layer cannot read what the one before it gives.

    >>> import torch
    >>> from tombola.mask import Mask
    >>> blocks = Mask({"fc1": torch.eye(2).bool().repeat_interleave(2, 1), "output": torch.eye(2).bool()})
    >>> for part in components(blocks):
    ...     print(part)
    inputs 0-1 with output 0
    inputs 2-3 with output 1
    """
    return tuple(sorted(_parts(chain(mask, layouts)), key=lambda part: (-part.links, part.inputs)))


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


def falls_apart(density: float, what: str, parts: Sequence[Part]) -> str:
    """What the parts of one mask say.

    Args:
        density: P_m, in [0, 1].
        what: whose mask it is, as the sentence names it.
        parts: as `components` gives them.

    >>> parts = Part((0, 1), (0,), 5, 4), Part((2, 3), (1,), 5, 4)
    >>> falls_apart(0.004, "the ticket", parts)
    'At 0.4 %, the ticket falls apart into 2 parts: inputs 0-1 with output 0; inputs 2-3 with output 1.'
    >>> falls_apart(0.5, "the ticket", parts[:1])
    'At 50 %, the ticket is one part: inputs 0-1 with output 0.'
    """
    head = f"At {100 * density:.3g} %, {what}"
    if not parts:
        return f"{head} has no path from an input to an output left."
    shown = "; ".join(map(str, parts[:4])) + (f"; and {len(parts) - 4:,} more" if len(parts) > 4 else "")
    return f"{head} {'is one part' if len(parts) == 1 else f'falls apart into {len(parts):,} parts'}: {shown}."


@dataclass(frozen=True)
class Apart:
    """Into how many parts an arm's masks fall, beside random masks with the same layer-wise counts.

    Attributes:
        arm: its name.
        parts: how many there are.
        more: parts less those of the random masks, paired by replicate.
        share: of all links, those in the largest part; 0 where there is none.
    """

    arm: str
    parts: Difference
    more: Difference
    share: Difference


def sentence(density: float, apart: Apart, example: str) -> str:
    """What the parts of an arm's masks say, over replicates.

    Args:
        density: P_m, in (0, 1].
        apart: over replicates.
        example: the parts of the first replicate in words, as `falls_apart` has them behind the colon.
    """
    spread = f" [{apart.more.low:+.2f}, {apart.more.high:+.2f}]" if isfinite(apart.more.low) else ""
    verdict = (
        "one replicate decides nothing"
        if not isfinite(apart.more.low)
        else "more than random masks"
        if apart.more.low > 0
        else "fewer than random masks"
        if apart.more.high < 0
        else "no other number than random masks is shown"
    )
    return (
        f"At {density:.1%}, the masks of {apart.arm} fall into {apart.parts.mean:.3g} "
        f"{'part' if apart.parts.mean == 1 else 'parts'} on average, {apart.more.mean:+.2f}{spread} beside random masks "
        f"of equal counts: {verdict}; n = {apart.parts.n}. The largest has {apart.share.mean:.0%} of the links. "
        f"In the first replicate: {example}."
    )


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
