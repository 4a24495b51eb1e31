"""How an arm looks in figures: a colour, and for print without colour a dash and a shape, no two arms alike."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import product


@dataclass(frozen=True)
class Mark:
    """A colour (`#rrggbb`), a dash (lengths of lines and gaps in pixels) and a shape that Vega-Lite knows."""

    colour: str
    dash: tuple[int, ...]
    shape: str


# Okabe and Ito's colours, told apart by all, but a darker yellow, as theirs is lost on white.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
# For arms that bring none along: Tol's muted ones, unlike those above, but without those that are pale on white; then
# some of his other schemes and darker ones.
MORE_COLOURS = (
    *("#882255", "#332288", "#999933", "#117733", "#661100", "#6699cc", "#aa4499", "#888888"),
    *("#44aa99", "#bb5566", "#004488", "#aa7700", "#5c4033", "#7f7fff"),
)
SHAPES = ("cross", "square", "triangle-up", "diamond", "triangle-down", "triangle-right", "triangle-left", "circle")

DENSE = Mark("#000000", (3, 3), "circle")
TICKET = Mark("#0072b2", (1, 0), "circle")


def marks(chosen: Mapping[str, Mark | None]) -> dict[str, Mark]:
    """A mark for each arm: its own, the dense network's and the ticket's, or else one that no other arm has.

    Args:
        chosen: by arm, the mark that it brings along; None where any will do.

    >>> given = marks({"mine": None, "yours": None})
    >>> len({(mark.dash, mark.shape) for mark in given.values()})
    4
    """
    own = {"dense": DENSE, "ticket": TICKET} | {arm: mark for arm, mark in chosen.items() if mark}
    free = _free(own.values())
    return {arm: own[arm] if arm in own else next(free) for arm in ("dense", "ticket", *chosen)}


def _free(taken: Iterable[Mark]) -> Iterator[Mark]:
    """Marks of which none has the dash and shape of one that is taken, nor of another one; there is no last one.

    Colours that nobody has come first, and then all of them in turn.
    """
    marks = list(taken)
    used = {(mark.dash, mark.shape) for mark in marks}
    free = [colour for colour in MORE_COLOURS if colour not in {mark.colour for mark in marks}]
    colours = (*free, *COLOURS, *MORE_COLOURS)
    strokes, number = 1, 0
    while True:
        # Dashes of one, two, three ... strokes of different lengths: there are as many as anybody wants.
        for length, shape in product((7, 4, 9, 2), SHAPES):
            dash = (length, 2) + (1, 2) * strokes
            if (dash, shape) not in used:
                yield Mark(colours[number % len(colours)], dash, shape)
                number += 1
        strokes += 1
