"""What goes on from level to level where nobody looks: batches of a generator of its own, numbers in modules."""

import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import chain, islice
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from tombola import weights
from tombola.search.state import Loop

MANY = 100_000  # numbers of a tensor that are looked at
LONG, DEEP = 100, 2  # entries of a dictionary or list that are looked at, and how many of these within another
NEAR = 1e-3  # what one computes from the same numbers on a GPU is not the same to the last bit

_TORCHS_OWN = frozenset(vars(nn.Module()))


@dataclass(frozen=True)
class Sight:
    """What was there at a forward pass.

    Attributes:
        module: which of the model's was called.
        inputs: the tensors that it was given.
        numbers: what modules hold and did not register, by name.
    """

    module: str
    inputs: tuple[Tensor, ...]
    numbers: Mapping[str, Any]


class Look:
    """A hook of a module that looks and changes nothing. In a copy of the model, or a file, it is nothing."""

    def __init__(self, see: Callable[..., None]) -> None:
        self._see = see

    def __call__(self, *given: Any) -> None:
        if not torch.compiler.is_compiling():
            self._see(*given)

    def __reduce__(self) -> tuple[Callable[..., object], tuple[()]]:
        return nothing, ()


def nothing() -> Callable[..., None]:
    """What is left of a look."""
    return no_look


def no_look(*_: object) -> None:
    """A hook that does nothing."""


class Watch:
    """Compares each level's first forward passes, from step 0 and from step k on, with those of level 0."""

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self._known: dict[int, Sight] = {}
        self._hooks: list[RemovableHandle] = []
        self._names: dict[nn.Module, str] = {}
        self._warned: set[str] = set()

    def look(self, level: int, step: int) -> None:
        """From `step` of `level` on, wait for a forward pass."""
        self.release()
        self._names = {module: name for name, module in self._loop.model.named_modules()}

        def see(module: nn.Module, *given: Any) -> None:
            if module not in self._names:
                return
            sight = Sight(self._names[module], tuple(_tensors(given)), dict(_numbers(self._loop)))
            self.release()
            if level == 0:
                self._known[step] = sight
            elif step in self._known:
                first = self._known[step]
                self._compare(level, first, sight)
                self._known[step] = replace(first, numbers={**sight.numbers, **first.numbers})  # some were made since

        hook = Look(see)
        modules = (module for module in self._names if not isinstance(module, torch.jit.ScriptModule))
        self._hooks = [module.register_forward_pre_hook(hook, with_kwargs=True) for module in modules]

    def release(self) -> None:
        """Take the hooks off."""
        for hook in self._hooks:
            hook.remove()
        self._hooks = []

    def _compare(self, level: int, first: Sight, now: Sight) -> None:
        for name, value in now.numbers.items():
            if name in first.numbers and not _same(first.numbers[name], value) and name not in self._warned:
                self._warned.add(name)
                warnings.warn(
                    f"level {level}: {name} is not what it was before: it changes in the loop and is not rewound. "
                    f"Make it a buffer (register_buffer), set it in the loop, or name it: also=[(get, set)].",
                    stacklevel=2,
                )
        same_inputs = len(first.inputs) == len(now.inputs) and all(map(_same, first.inputs, now.inputs))
        if first.module == now.module and not same_inputs and "batches" not in self._warned:
            self._warned.add("batches")
            warnings.warn(
                f"level {level}: the first batch is not that of level 0. What decides about batches goes on from level "
                "to level: a generator that is not in `also` (DataLoader(generator=...), an environment's), or an "
                "iterator that is made outside of the loop.",
                stacklevel=2,
            )


def _tensors(given: Any) -> Iterator[Tensor]:
    if isinstance(given, Tensor):
        if given.grad_fn is None and _readable(given):  # else weights made it: layers before it are called unseen
            yield _few(given)
    elif isinstance(given, Mapping):
        for part in given.values():
            yield from _tensors(part)
    elif isinstance(given, list | tuple):
        for part in given:
            yield from _tensors(part)


def _numbers(loop: Loop) -> Iterator[tuple[str, Any]]:
    registered = (each for root in loop.modules for each in chain(root.parameters(), root.buffers()))
    rewound = {weights.place(each) for each in chain(registered, loop.outside())}  # LSTMs keep a list of theirs
    for root in loop.modules:
        for path, module in root.named_modules():
            for name, value in vars(module).items():
                if name in _TORCHS_OWN:
                    continue
                where = f" of {type(module).__name__}" + (f" at {path}" if path else "")
                for own, part in _in(name, value):
                    if not (isinstance(part, Tensor) and weights.place(part) in rewound):
                        yield f"{own}{where}", _few(part) if isinstance(part, Tensor) else part


def _in(name: str, value: Any, depth: int = DEEP) -> Iterator[tuple[str, Any]]:
    """The numbers and tensors in what an attribute holds, each with its name."""
    if isinstance(value, bool | int | float | complex | np.generic):
        yield name, value
    elif isinstance(value, np.ndarray) and value.dtype.kind in "biufc":
        yield name, value.copy()
    elif isinstance(value, Tensor) and value.grad_fn is None and _readable(value):
        yield name, value
    elif isinstance(value, dict | list | tuple) and depth:
        parts = value.items() if isinstance(value, dict) else enumerate(value)
        for key, part in islice(parts, LONG):
            yield from _in(f"{name}[{key!r}]", part, depth - 1)


def _readable(value: Tensor) -> bool:
    return value.layout is torch.strided and not value.is_meta and not value.is_quantized


def _few(value: Tensor) -> Tensor:
    every = max(1, value.numel() // MANY)
    return value.detach().flatten()[::every].cpu().clone()


def _same(left: Any, right: Any) -> bool:
    if type(left) is not type(right):
        return False
    if isinstance(left, Tensor):
        same = left.shape == right.shape and left.dtype == right.dtype
        left, right = _wide(left), _wide(right)
        return same and torch.allclose(left, right, rtol=NEAR, atol=NEAR * _size(left), equal_nan=True)
    if isinstance(left, int):  # of any length
        return bool(left == right)
    return bool(np.array_equal(left, right, equal_nan=True))


def _wide(value: Tensor) -> Tensor:
    """In a type that torch computes with: it does not with all short ones."""
    return value if value.is_complex() else value.double()


def _size(value: Tensor) -> float:
    return float(value.abs().mean()) if value.numel() else 0.0
