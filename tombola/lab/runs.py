"""A run is a frozen value; its fields are its parameters and its input runs; its key is its hash.

The graph of work is the nesting of these values. Every field goes into the key, defaults too, with the data's checksum
and the version of the run's kind; an input run goes in as its own key. Device, threads and workers are not fields: they
are recorded with the outcome.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal

from pydantic import BaseModel

from tombola.models import Initialisation
from tombola.recipe import Recipe

KEY_DIGITS = 20  # 80 bits: a million runs collide with a chance below 1e-12


@dataclass(frozen=True)
class Network:
    """A model's name and what goes in and out of it: enough to build it.

    Attributes:
        checkpoint: SHA-256 of the pre-trained model that it is; absent from keys where it is none.
    """

    model: str
    shape: tuple[int, ...]
    classes: int
    checkpoint: str | None = None


@dataclass(frozen=True, eq=False, repr=False)
class Run:
    """One unit of work with one outcome. Kinds of run are final classes below this one.

    Raise a kind's `version` whenever the numbers it makes change: old outcomes then keep their old names.
    """

    kind: ClassVar[str]
    version: ClassVar[int]
    later: ClassVar[frozenset[str]] = frozenset()  # fields that older runs lack: absent from the key where None
    key: str = field(init=False, repr=False)

    @property
    def names(self) -> tuple[str, ...]:
        """Of its parameters and inputs: all fields but the key."""
        return self.__match_args__

    @property
    def inputs(self) -> tuple["Run", ...]:
        """The runs whose outcomes this one needs."""
        return tuple(value for name in self.names if isinstance(value := getattr(self, name), Run))

    @property
    def described(self) -> dict[str, Any]:
        """All that can change the outcome, as plain JSON values."""
        fields = {name: getattr(self, name) for name in self.names}
        values = {name: _plain(value) for name, value in fields.items() if value is not None or name not in self.later}
        return {"kind": self.kind, "version": self.version, **values}

    def __post_init__(self) -> None:
        # Made with the run and not when asked for: the inputs have theirs by then, so no depth of nesting costs depth
        # of recursion, here or where runs are compared.
        text = json.dumps(self.described, sort_keys=True, separators=(",", ":"))
        object.__setattr__(self, "key", f"{self.kind}-{hashlib.sha256(text.encode()).hexdigest()[:KEY_DIGITS]}")

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.key})"

    def __hash__(self) -> int:
        return hash(self.key)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Run) and self.key == other.key


def _plain(value: Any) -> Any:
    if isinstance(value, Run):
        return value.key
    if isinstance(value, Network):
        plain = {"model": value.model, "shape": list(value.shape), "classes": value.classes}
        return plain | ({"checkpoint": value.checkpoint} if value.checkpoint else {})
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json", exclude_none=True)  # as `Run.later`
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return value


@dataclass(frozen=True, eq=False, repr=False)
class Init(Run):
    """The weights at step 0, theta_0 ~ D_theta."""

    kind = "init"
    version = 1

    network: Network
    init: Initialisation
    init_seed: int


@dataclass(frozen=True, eq=False, repr=False)
class Train(Run):
    """The only kind of training: from the weights of `start`, under `mask`, from step `begin` to step `until`.

    Attributes:
        start: where the weights come from. Rewinding is which run this names.
        mask: which weights live; None for all of them.
        recipe: how the training goes. Its schedule spans the recipe's length, whatever `begin` and `until` are.
        data_fingerprint: of the recipe's data set: its content, its split sizes, its normalisation.
        split_seed, order_seed: what is held out for validation; the order of the examples.
        begin, until: optimiser steps done before and after.
        evaluate_every, test_every: when the validation loss and the test accuracy are looked at.
        optimizer_state: `fresh`, or `carried` over from `start`.
        keep_optimizer: whether the outcome holds the optimiser's state for a successor that carries it over.
        augment_seed: how the images are changed, where the recipe augments them.
    """

    kind = "train"
    version = 1
    later = frozenset({"augment_seed"})

    start: Run
    mask: Run | None
    recipe: Recipe
    data_fingerprint: str
    split_seed: int
    order_seed: int
    begin: int
    until: int
    evaluate_every: int
    test_every: int
    optimizer_state: Literal["fresh", "carried"] = "fresh"
    keep_optimizer: bool = False
    augment_seed: int | None = None


@dataclass(frozen=True, eq=False, repr=False)
class Prune(Run):
    """The mask left when the living weights of lowest score have gone.

    Attributes:
        network: whose weights they are.
        trained: the weights that are scored.
        mask: what was alive before; None for all.
        score: which score.
        scope: `layer`, each layer by the rate of its kind, or `global`, all together by `rates["linear"]`.
        rates: (kind, fraction) for the kinds linear, conv, embedding, output.
        keep: kinds, names, and patterns of names that are never pruned and not counted; see `layer_patterns.named`.
        score_seed: for scores that draw.
        include: names and patterns of names of parameters that are pruned too, by `rates["linear"]`; None for none.
    """

    kind = "prune"
    version = 1
    later = frozenset({"include"})

    network: Network
    trained: Run
    mask: Run | None
    score: str
    scope: Literal["layer", "global"]
    rates: tuple[tuple[str, float], ...]
    keep: tuple[str, ...]
    score_seed: int
    include: tuple[str, ...] | None = None


@dataclass(frozen=True, eq=False, repr=False)
class FullMask(Run):
    """Everything alive that may be pruned at all: what level 0 counts where `keep` or `include` change the count."""

    kind = "full"
    version = 1
    later = frozenset({"include"})

    network: Network
    keep: tuple[str, ...]
    include: tuple[str, ...] | None = None


@dataclass(frozen=True, eq=False, repr=False)
class RandomMask(Run):
    """A control: a random mask with the layer-wise counts of `like`; one seed gives nested masks."""

    kind = "random"
    version = 1

    like: Run
    mask_seed: int


@dataclass(frozen=True, eq=False, repr=False)
class ShuffledMask(Run):
    """A control: the mask `like` with its entries permuted inside each layer."""

    kind = "shuffle"
    version = 1

    like: Run
    mask_seed: int


@dataclass(frozen=True, eq=False, repr=False)
class Distance(Run):
    """How far apart two trainings end, over the weights that survive in `mask`."""

    kind = "distance"
    version = 1

    left: Train
    right: Train
    mask: Run


@dataclass(frozen=True, eq=False, repr=False)
class Line(Run):
    """The error along the line between the ends of two trainings.

    Attributes:
        left, right: at alpha = 0 and 1.
        points: on the line, its ends included.
        recipe, split_seed: those of both: which model, which data, which part of them is trained on.
        examples: of the training set and of the test set each, the first ones; None for all.
    """

    kind = "line"
    version = 1

    left: Train
    right: Train
    recipe: Recipe
    split_seed: int
    points: int
    examples: int | None


@dataclass(frozen=True, eq=False, repr=False)
class Stored(Run):
    """Stands for an input by its key alone, where only its outcome matters."""

    kind = "stored"
    version = 1

    name: str

    def __post_init__(self) -> None:
        object.__setattr__(self, "key", self.name)


def shallow(run: Run) -> Run:
    """The same run, same key, its inputs known by key only: small to send, whatever it is built on."""
    by_key: dict[str, Any] = {
        name: Stored(value.key) for name in run.names if isinstance(value := getattr(run, name), Run)
    }
    return replace(run, **by_key)


def data_sets(runs: Iterable[Run]) -> list[str]:
    """The names of the data sets that `runs` need, each once."""
    return sorted({run.recipe.data for run in runs if isinstance(run, Train | Line)})


def ancestry(runs: list[Run]) -> Iterator[Run]:
    """All that `runs` need, themselves included, each once, inputs before what needs them.

    Walks with a stack of its own: a chain of hundreds of levels is deeper than Python's.
    """
    seen: set[str] = set()
    for wanted in runs:
        stack = [(wanted, False)]
        while stack:
            run, expanded = stack.pop()
            if run.key in seen:
                continue
            if expanded:
                seen.add(run.key)
                yield run
            else:
                stack.append((run, True))
                stack.extend((needed, False) for needed in reversed(run.inputs))
