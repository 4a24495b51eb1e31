"""What figures show of many arms and levels: how each arm looks, and which levels."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import altair as alt

from tombola.lab.results import Result
from tombola.mark import COLOURS, Mark

BAR = "M-1,-.25L1,-.25L1,.25L-1,.25Z"  # a stroke as a shape that can be filled
MOST = 6  # levels shown at most: more lines cannot be told apart
MANY = 6  # arms whose bands can be told apart where they overlap


def arms_scale(arms: Sequence[str], marks: Mapping[str, Mark]) -> dict[str, Any]:
    """The channels by which arms are told apart: colour, dash and shape."""
    # Of several rewind steps each has a colour, and the arms keep their dashes and shapes.
    steps = list(dict.fromkeys(arm.partition(", k = ")[2] for arm in arms))
    looks = [marks[arm.partition(", k = ")[0]] for arm in arms]
    if len(steps) > 1:
        colours = [COLOURS[steps.index(arm.partition(", k = ")[2]) % len(COLOURS)] for arm in arms]
        looks = [replace(look, colour=colour) for colour, look in zip(colours, looks, strict=True)]

    def scale(values: list[Any]) -> alt.Scale:
        return alt.Scale(domain=list(arms), range=values)

    shapes = [BAR if look.shape == "stroke" else look.shape for look in looks]
    return {
        "color": alt.Color("arm:N", scale=scale([look.colour for look in looks]), title=None),
        "strokeDash": alt.StrokeDash("arm:N", scale=scale([list(look.dash) for look in looks]), title=None),
        "shape": alt.Shape("arm:N", scale=scale(shapes), title=None),
    }


def few(levels: Sequence[int]) -> list[int]:
    """Levels spread over all of these, as many as can be told apart.

    >>> few(range(21))
    [0, 4, 8, 12, 16, 20]
    """
    if len(levels) <= MOST:
        return list(levels)
    return sorted({levels[round(place * (len(levels) - 1) / (MOST - 1))] for place in range(MOST)})


def living(rows: Sequence[Result]) -> list[int]:
    """The levels at which something lives."""
    return sorted({result.row.level for result in rows if result.values["alive"]})
