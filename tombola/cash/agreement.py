"""Whether a compacted model computes what the masked one does, tried out on a few inputs.

What torch.fx sees of a model is not all that its code may do: it may read the sizes of its layers, ask what class they
are of, or drop an axis of size 1. Such a model is found out here.
"""

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from tombola.errors import BadInput

_SEED = 1  # not the one under which calls are traced: a number drawn there, and frozen, would be drawn here again
_TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-3}  # of the largest output
_COARSE = 1e-1  # in half precision, and on devices that may multiply in it
_SMALL = 1e-3  # what outputs smaller than this differ by is rounding of larger numbers on the way


def check(whole: nn.Module, small: nn.Module, example: tuple[Any, ...]) -> None:
    """Compare outputs on `example`, on random inputs of its shapes, and on batches of 1 and 3.

    Inputs that `whole` cannot be called with are left out. The models stay as they are.

    Raises:
        BadInput: outputs differ by more than rounding, or `small` cannot be called.
    """
    whole, small = copy.deepcopy(whole), copy.deepcopy(small)
    for inputs in _inputs(example):
        try:
            expected = _called(whole, inputs)
        except Exception:  # the model's own code may raise anything
            continue
        try:
            found = _called(small, inputs)
        except Exception as error:
            raise _unfit(whole, type(error).__name__ + ": " + str(error).partition("\n")[0]) from error
        if not _agree(expected, found):
            raise _unfit(whole, "other outputs")


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Random numbers that begin at `seed`; nobody's random state is disturbed."""
    gpus = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
    with torch.random.fork_rng(devices=gpus):
        torch.default_generator.manual_seed(seed)
        for gpu in gpus:
            torch.cuda.default_generators[gpu].manual_seed(seed)
        yield


def _unfit(model: nn.Module, found: str) -> BadInput:
    return BadInput(
        where=type(model).__name__,
        expected="the same outputs from smaller layers",
        found=found,
        todo="It cannot be compacted: its code may read the sizes or classes of its layers, or drop axes of size 1. "
        "Quantised and exported it can be.",
    )


def _inputs(example: tuple[Any, ...]) -> Iterator[tuple[Any, ...]]:
    """The example, random inputs of its shapes, and batches of these of other sizes."""
    generator = torch.Generator().manual_seed(0)

    def drawn(value: Any) -> Any:
        if not isinstance(value, Tensor) or not value.is_floating_point():
            return value
        return torch.randn(value.shape, generator=generator, dtype=torch.float64).to(value)

    def batch(value: Any, size: int) -> Any:
        if not isinstance(value, Tensor) or not value.dim() or not len(value):
            return value
        return value[torch.arange(size, device=value.device) % len(value)]

    yield example
    yield tuple(drawn(value) for value in example)
    for size in (1, 3):
        yield tuple(drawn(batch(value, size)) for value in example)


def _called(model: nn.Module, inputs: tuple[Any, ...]) -> list[Any]:
    with seeded(_SEED), torch.no_grad():
        return list(_leaves(model(*(each.clone() if isinstance(each, Tensor) else each for each in inputs))))


def _leaves(value: Any) -> Iterator[Any]:
    """What outputs consist of: tensors and numbers."""
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        for each in value:
            yield from _leaves(each)
    elif isinstance(value, (Tensor, int, float)):
        yield value


def _agree(expected: list[Any], found: list[Any]) -> bool:
    return len(expected) == len(found) and all(map(_close, expected, found))


def _close(expected: Any, found: Any) -> bool:
    if not isinstance(expected, Tensor) or not isinstance(found, Tensor):
        return type(expected) is type(found) and bool(expected == found)
    if (expected.shape, expected.dtype) != (found.shape, found.dtype):
        return False
    if not expected.is_floating_point() or not expected.numel():
        return True  # of numbers that are all but equal, either may be the larger one
    tolerance = _TOLERANCE.get(expected.dtype, _COARSE) if expected.device.type == "cpu" else _COARSE
    left, right = (each.detach().to_dense().cpu().double() for each in (expected, found))
    largest = max(float(left.abs().nan_to_num(0, 0).max()), _SMALL)
    return torch.allclose(left, right, rtol=0, atol=tolerance * largest, equal_nan=True)
