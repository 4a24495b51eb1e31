"""Methods that prune before they train: a mask is found at step k, at initialisation where k = 0, and trained once.

Each is a score and how it is applied. Whatever their scope, they leave as many weights as the spec's levels do, to the
last one.
"""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Any, ClassVar

from pydantic import Field

from tombola.at_once import Scoring
from tombola.mark import Mark
from tombola.method import Method, SearchOptions
from tombola.replicate import MethodReplicate, T
from tombola.value import Count


class AtOnceOptions(SearchOptions):
    """What methods let one choose that prune at once, and by a score of their own: where weights are ranked."""

    by_rounds: ClassVar[bool] = False
    ignored: ClassVar[frozenset[str]] = frozenset({"rate", "score", "length", "lr"})


class ScoringOptions(SearchOptions):
    """What methods let one choose that score a network which is not trained.

    Attributes:
        examples: of the training set that the score sees, in the order in which the training sees them.
        iterations: steps of scoring between the whole network and the density of the level.
    """

    by_rounds: ClassVar[bool] = False
    ignored: ClassVar[frozenset[str]] = frozenset({"rate", "length", "lr"})

    examples: Count | None = Field(default=None, gt=0)
    iterations: Count | None = Field(default=None, gt=0)


def at_initialisation(replicate: MethodReplicate[T], levels: int, scoring: Scoring) -> Iterator[T]:
    """Score the weights of step k, let all but the level's count go at once, and train what is left."""
    start = replicate.rewind_point()
    yield replicate.train(start)
    for level in range(1, levels + 1):
        yield replicate.train(start, mask=replicate.prune_at_once(start, level, chosen(scoring, replicate.options)))


def chosen(scoring: Scoring, options: Any) -> Scoring:
    """The method's own scoring, with what a spec has chosen otherwise."""
    names = ("score", "scope", "examples", "iterations")
    given = {name: value for name in names if (value := getattr(options, name, None)) is not None}
    return replace(scoring, **given)


def _method(name: str, scoring: Scoring, about: str, paper: str, year: int, mark: Mark | None = None) -> Method:
    search = partial(at_initialisation, scoring=scoring)
    sees = scoring.per_class or scoring.batches or scoring.examples
    options = ScoringOptions if sees else AtOnceOptions
    return Method(name, search, about, paper, year, score=scoring.score, options=options, mark=mark)


_MISSING = "[Pruning Neural Networks at Initialization](https://arxiv.org/abs/2009.08576)"
_FORCE = "[Progressive Skeletonization](https://arxiv.org/abs/2006.09081)"
_RIGL = "[Rigging the Lottery](https://arxiv.org/abs/1911.11134)"

METHODS: dict[str, Method] = {
    method.name: method
    for method in (
        _method(
            "random-uniform",
            Scoring("random", scope="layer"),
            "Prune at random, each layer to the density of the level",
            "[The Unreasonable Effectiveness of Random Pruning](https://arxiv.org/abs/2202.02643)",
            2022,
        ),
        _method(
            "random-global",
            Scoring("random"),
            "Prune at random, all layers together",
            _MISSING,
            2021,
        ),
        _method(
            "random-er",
            Scoring("random", scope="er"),
            "Prune at random, with the layers' densities of Erdős-Rényi",
            "[Sparse Evolutionary Training](https://www.nature.com/articles/s41467-018-04316-3)",
            2018,
        ),
        _method(
            "random-erk",
            Scoring("random", scope="erk"),
            "Prune at random, with the layers' densities of Erdős-Rényi-Kernel",
            _RIGL,
            2020,
        ),
        _method(
            "magnitude-init",
            Scoring("magnitude"),
            "Keep the largest initial weights",
            _MISSING,
            2021,
        ),
        _method(
            "snip",
            Scoring("snip", per_class=10),
            "Keep what the loss at initialisation is most sensitive to",
            "[SNIP: Single-shot Network Pruning](https://arxiv.org/abs/1810.02340)",
            2019,
        ),
        _method(
            "iterative-snip",
            Scoring("snip", iterations=60, per_class=10),
            "SNIP in 60 steps, each on the network that the one before has left",
            _FORCE,
            2021,
        ),
        _method(
            "force",
            Scoring("snip", iterations=60, returning=True, per_class=10),
            "SNIP in 60 steps, between which weights may come back",
            _FORCE,
            2021,
        ),
        _method(
            "grasp",
            Scoring("grasp", per_class=10),
            "Let go first what leaves the largest gradient",
            "[Picking Winning Tickets Before Training](https://arxiv.org/abs/2002.07376)",
            2020,
        ),
        _method(
            "synflow",
            Scoring("synflow", iterations=100, examples=1),
            "Conserve what flows through the network, in 100 steps, without any data",
            "[Pruning Neural Networks without Any Data](https://arxiv.org/abs/2006.05467)",
            2020,
        ),
        _method(
            "prospr",
            Scoring("prospr", batches=4),
            "Keep what the loss is most sensitive to after three steps of training",
            "[Prospect Pruning](https://arxiv.org/abs/2202.08132)",
            2022,
        ),
    )
}
