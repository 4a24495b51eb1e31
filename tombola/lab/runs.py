"""A run is a frozen value; its fields are its parameters and its input runs; its key is its hash.

The graph of work is the nesting of these values. Every field goes into the key, defaults too, with the data's checksum
and the version of the run's kind; an input run goes in as its own key. Device, threads and workers are not fields: they
are recorded with the outcome. `lab.kinds` has the kinds of run there are.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass, replace
from functools import cache, cached_property, lru_cache
from json.encoder import encode_basestring_ascii
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from pydantic import BaseModel

from tombola import models
from tombola.code import code_of
from tombola.engine import Choice
from tombola.errors import TombolaError
from tombola.macs import Macs
from tombola.recipe import Recipe
from tombola.value import Same, sorted_text

if TYPE_CHECKING:
    from torch import Tensor, nn

    from tombola.coupling import Coupling
    from tombola.data.facts import Facts
    from tombola.models.layer import Layer
    from tombola.score import Score

KEY_DIGITS = 20  # 80 bits: a million runs collide with a chance below 1e-12
_AS_KEY = json.JSONEncoder(sort_keys=True, separators=(",", ":"))
A_LOOK = 1 / 6  # what looking at an image costs beside training on it, about

Tell = Callable[[int, int, float], None]  # done, in all, and what it comes to: see `Run.progress`


def untold(done: int, total: int, loss: float) -> None:
    """What is told of a run where nobody asks."""


@dataclass(frozen=True)
class Outcome:
    """What a run made: numbers, and named files of named tensors; and, for the record, how."""

    values: Mapping[str, Any]
    tensors: Mapping[str, Mapping[str, "Tensor"]] = field(default_factory=dict)
    how: Mapping[str, Any] = field(default_factory=dict)


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

    def build(self) -> "nn.Module":
        """The network, for its shapes; whoever asks puts the weights in."""
        return models.build(self.model, self.shape, self.classes, "glorot-normal", init_seed=0)

    def coupling(self) -> "Coupling":
        """Which of its channels live and die together.

        Raises:
            BadInput: its calls cannot be followed.
        """
        return _coupling(self)


@lru_cache(maxsize=8)
def _coupling(network: Network) -> "Coupling":
    from tombola.cash.coupled import coupling

    return coupling(network.build(), models.example(network.model, network.shape))


class Known(Protocol):
    """What is known of runs when it is asked what one costs: what the store has of them, else what is expected."""

    @property
    def scores(self) -> "Mapping[str, Score]":
        """Those that a pruning may name."""

    def facts(self, data: str) -> "Facts":
        """Of a data set."""

    def layers(self, network: Network) -> "Mapping[str, Layer]":
        """Of a network, by the name of their weight."""

    def values(self, run: "Run") -> Mapping[str, Any]:
        """The numbers of a finished run; none of one that is not done."""

    def counts(self, mask: "Run | None") -> Mapping[str, int]:
        """How many weights of each layer live under the mask that a run made; it may leave out those that are whole."""

    def forward(self, network: Network, living: Mapping[str, int], by: "Run | None" = None) -> Macs:
        """What an example takes forwards, with so many living weights; executed by the engine of `by`, or densely."""


@dataclass(frozen=True, eq=False, repr=False)
class Run:
    """One unit of work with one outcome. Kinds of run are classes below this one.

    A kind says all there is to say of its runs: their fields, how they are performed, which data they need, what they
    cost. Its module imports no torch at the top: plans are made without.

    Attributes:
        kind: its name, the beginning of its keys.
        version: to be raised whenever the numbers it makes change: old outcomes then keep their old names.
        later: fields that older runs lack: absent from the key where None.
        data_parallel: whether the processes that torchrun starts do such a run all together; no kind inherits it.
    """

    kind: ClassVar[str]
    version: ClassVar[int]
    later: ClassVar[frozenset[str]] = frozenset()
    data_parallel: ClassVar[bool] = False
    key: str = field(init=False, repr=False)

    def __init_subclass__(cls) -> None:
        # A kind that is built on another one performs in its own way, which may know nothing of other processes.
        cls.data_parallel = cls.__dict__.get("data_parallel", False)

    def perform(self, worker: Any, tell: Tell = untold) -> Outcome:
        """The outcome of this run, whose inputs the worker's store has.

        Args:
            worker: a `lab.worker.Worker`.
            tell: is told how far it is.

        Raises:
            TombolaError: the run cannot be done; the message says why.
        """
        raise NotImplementedError(f"no way to perform {self!r}")

    @property
    def data(self) -> tuple[str, ...]:
        """The names of the data sets that it needs."""
        return ()

    @property
    def recipe_trained(self) -> Recipe | None:
        """The recipe of a training; None for all that trains nothing."""
        return None

    @property
    def steps(self) -> int:
        """Optimiser steps that it takes."""
        return 0

    def seconds(self, facts: "Facts", step_seconds: Callable[[], float]) -> float:
        """Seconds that it takes, about; 0 for what comes for nothing.

        Args:
            facts: of the data set of the experiment.
            step_seconds: asked for the seconds of one optimiser step at the run's density.
        """
        return 0.0

    def macs(self, known: Known) -> Macs:
        """The multiply-adds that it takes, by the rule in `tombola.macs`; none for what neither trains nor scores."""
        return Macs()

    def counts(self, known: Known) -> Mapping[str, int]:
        """How many weights of each layer are expected to live under the mask that it makes; see `Known.counts`."""
        return {}

    def progress(self, done: int, total: int, loss: float) -> str:
        """What it has told of itself, in words."""
        return f"{done} of {total}"

    @property
    def compressed_by(self) -> "Run | None":
        """The run that made the mask whose living weights alone its outcome holds; None where it holds all weights."""
        return None

    @property
    def stack(self) -> tuple[Any, ...] | None:
        """What it has in common with runs that can be done in one stack with it; None where it is done alone."""
        return None

    def stack_size(self, choice: Choice, device: str) -> int:
        """How many such runs a worker does at once."""
        return 1

    @staticmethod
    def perform_stack(
        runs: Sequence[Any], worker: Any, tells: Sequence[Tell]
    ) -> Sequence[Outcome | TombolaError | None]:
        """The outcomes of runs with the same `stack`, of each its own or why it failed; None for those left out."""
        return [None for _ in runs]

    @property
    def names(self) -> tuple[str, ...]:
        """Of its parameters and inputs: all fields but the key, those that are given by keyword only too."""
        kind: type = type(self)
        return _names(kind, True)

    @cached_property
    def inputs(self) -> tuple["Run", ...]:
        """The runs whose outcomes this one needs: fields, and what is in tuples of fields."""
        found = list[Run]()
        for name in self.names:
            value = getattr(self, name)
            if isinstance(value, Run):  # most are one, or none: a walk of each costs a plan more than its keys do
                found.append(value)
            elif isinstance(value, tuple):
                found += _runs_in(value)
        return tuple(found)

    @property
    def described(self) -> dict[str, Any]:
        """All that can change the outcome, as plain JSON values; of a kind of an extension, the extension too."""
        items = {name: getattr(self, name) for name in self.names}
        values = {name: _plain(item) for name, item in items.items() if item is not None or name not in self.later}
        code = code_of(type(self))
        return {"kind": self.kind, "version": self.version, **({"kind_code": code} if code else {}), **values}

    def __post_init__(self) -> None:
        # Made with the run and not when asked for: the inputs have theirs by then, so no depth of nesting costs depth
        # of recursion, here or where runs are compared.
        kind: type = type(self)
        parts = list[str]()
        for name, written, later in _spelled(kind, self.version):
            if not name:
                parts.append(written)
            elif (item := getattr(self, name)) is not None or not later:
                parts.append(written + _text(item))
        text = "{" + ",".join(parts) + "}"  # `described`, as JSON
        object.__setattr__(self, "key", f"{self.kind}-{hashlib.sha256(text.encode()).hexdigest()[:KEY_DIGITS]}")

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.key})"

    def __hash__(self) -> int:
        return hash(self.key)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Run) and self.key == other.key


@cache
def _names(kind: type, given: bool) -> tuple[str, ...]:
    """The fields of a dataclass, or those that are given when one is made: looked up once, not for each of many."""
    return tuple(each.name for each in fields(kind) if each.init or not given)


@cache
def _spelled(kind: Any, version: int) -> tuple[tuple[str, str, bool], ...]:
    """What is the same in the JSON text of all runs of a kind, in the order of the text: for each of many once.

    Of a parameter its name, the text before its value, and whether it is left out where it is None; of what all runs of
    the kind have in common no name, and the whole text.
    """
    common = {"kind": kind.kind, "version": version}
    if code := code_of(kind):
        common["kind_code"] = code
    fixed = {name: ("", f"{_text(name)}:{_text(value)}", False) for name, value in common.items()}
    given = {name: (name, f"{_text(name)}:", name in kind.later) for name in _names(kind, True)}
    return tuple(part for _, part in sorted((fixed | given).items()))


def _runs_in(value: Any) -> Iterator[Run]:
    if isinstance(value, Run):
        yield value
    elif isinstance(value, tuple):
        for item in value:
            yield from _runs_in(item)


def _replaced(value: Any, change: Callable[[Run], Run]) -> Any:
    """A field's value with all runs in it changed."""
    if isinstance(value, Run):
        return change(value)
    if isinstance(value, tuple):
        return tuple(_replaced(item, change) for item in value)
    return value


def _plain(value: Any) -> Any:
    """A field's value as plain JSON; what is None inside of a value is absent, as in `Run.later`."""
    if value is None or isinstance(value, str | int | float):
        return value
    if isinstance(value, Run):
        return value.key
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json", exclude_none=True)
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    if is_dataclass(value):
        kind: type = type(value)
        items = {name: getattr(value, name) for name in _names(kind, False)}
        return {name: _plain(item) for name, item in items.items() if item is not None}
    return value


def _text(value: Any) -> str:
    """A field's value as JSON text: what `_plain` gives, names in their order; what many runs share is made once."""
    kind = type(value)
    if kind is str:
        return encode_basestring_ascii(value)
    if kind is int:
        return str(value)
    if value is None:
        return "null"
    if isinstance(value, Run):
        return encode_basestring_ascii(value.key)
    if isinstance(value, tuple):
        return "[" + ",".join(map(_text, value)) + "]"
    if isinstance(value, BaseModel):
        return sorted_text(value)
    return _network_text(Same(value)) if kind is Network else _AS_KEY.encode(_plain(value))


@lru_cache(maxsize=256)
def _network_text(same: Same) -> str:
    return _AS_KEY.encode(_plain(same.of))


@dataclass(frozen=True, eq=False, repr=False)
class Stored(Run):
    """Stands for an input by its key alone, where only its outcome matters.

    Attributes:
        mask: stands for what the input is `compressed_by`.
    """

    kind = "stored"
    version = 1

    name: str
    mask: "Stored | None" = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "key", self.name)

    @cached_property
    def inputs(self) -> tuple[Run, ...]:
        return ()

    @property
    def compressed_by(self) -> Run | None:
        return self.mask

    @classmethod
    def of(cls, run: Run) -> "Stored":
        """What stands for `run`."""
        return cls(run.key, cls(mask.key) if (mask := run.compressed_by) else None)


def shallow(run: Run) -> Run:
    """The same run, same key, its inputs known by key only: small to send, whatever it is built on."""
    by_key: dict[str, Any] = {
        name: _replaced(value, Stored.of) for name in run.names if any(_runs_in(value := getattr(run, name)))
    }
    return replace(run, **by_key)


def data_sets(runs: Iterable[Run]) -> list[str]:
    """The names of the data sets that `runs` need, each once."""
    return sorted({name for run in runs for name in run.data})


def ancestry(runs: list[Run]) -> Iterator[Run]:
    """All that `runs` need, themselves included, each once, inputs before what needs them.

    Walks with a stack of its own: a chain of hundreds of levels is deeper than Python's.
    """
    seen: set[str] = set()
    for last in runs:
        stack = [(last, False)]
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
