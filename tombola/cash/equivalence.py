"""Whether a model of other layers computes what the first one does, tried out on a few inputs.

What torch.fx sees of a model is not all that its code may do: it may read the sizes of its layers, ask what class they
are of, or drop an axis of size 1. Such a model is found out here.
"""

import copy
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from tombola.cash.replaceable import cloned, first_line, in_batch
from tombola.seeding import seeded

_SEED = 1  # not the one under which calls are traced: a number drawn there, and frozen, would be drawn here again
_TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-3}  # of the largest output
_COARSE = 1e-1  # in half precision, and on devices that may multiply in it
_SMALL = 1e-3  # what outputs smaller than this differ by is rounding of larger numbers on the way


def difference(whole: nn.Module, other: nn.Module, example: tuple[Any, ...]) -> str:
    """What `other` does otherwise on `example`, on random inputs of its shapes, and on batches of 1 and 3; or nothing.

    Inputs that `whole` cannot be called with are left out, and numbers that are not finite: a 0 that is skipped is
    none that is multiplied with them. The models stay as they are.
    """
    whole, other = copy.deepcopy(whole), copy.deepcopy(other)
    tolerance = _tolerance(whole)
    for inputs in _inputs(example):
        try:
            expected = _called(whole, inputs)
        except Exception:  # the model's own code may raise anything
            continue
        try:
            found = _called(other, inputs)
        except Exception as error:
            return f"{type(error).__name__} ({first_line(error)})"
        if not _agree(expected, found, tolerance):
            return "other outputs"
    return ""


def random_states() -> list[Tensor]:
    """Where torch's random numbers are, on the CPU and on each GPU that is in use."""
    gpus = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
    return [torch.get_rng_state(), *gpus]


def _inputs(example: tuple[Any, ...]) -> Iterator[tuple[Any, ...]]:
    """The example, random inputs of its shapes, and batches of these of other sizes; what is sparse stays as it is."""
    generator = torch.Generator().manual_seed(0)

    def drawn(value: Any) -> Any:
        if not isinstance(value, Tensor) or not value.is_floating_point() or value.layout is not torch.strided:
            return value
        return torch.randn(value.shape, generator=generator, dtype=torch.float64).to(value)

    def batch(value: Any, size: int) -> Any:
        return value[torch.arange(size, device=value.device) % len(value)] if len(value) else value

    yield example
    yield tuple(drawn(value) for value in example)
    cut = in_batch(example)
    for size in (1, 3):
        yield tuple(drawn(batch(value, size) if of else value) for value, of in zip(example, cut, strict=True))


def _called(model: nn.Module, inputs: tuple[Any, ...]) -> list[Any]:
    with seeded(_SEED), torch.no_grad():
        return list(_leaves(model(*cloned(inputs))))


def _leaves(value: Any) -> Iterator[Any]:
    """What outputs consist of: tensors and numbers."""
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        for each in value:
            yield from _leaves(each)
    elif isinstance(value, (Tensor, int, float)):
        yield value


def apart(own: Tensor, other: Tensor) -> float:
    """The largest |own - other|; the same infinity or NaN is no difference, any other is the largest."""
    own, other = (tensor.detach().cpu().double() for tensor in (own, other))
    gaps = (own - other).abs().masked_fill((own == other) | (own.isnan() & other.isnan()), 0)
    return float(gaps.nan_to_num(nan=torch.inf).max()) if gaps.numel() else 0.0


def allowed(model: nn.Module, largest: float) -> float:
    """What outputs up to `largest` may differ by where another form of `model` computes them."""
    return _tolerance(model) * max(largest, _SMALL)


def _tolerance(model: nn.Module) -> float:
    """Of the type that it computes in, or the coarsest of these."""
    state = [value for value in model.state_dict(keep_vars=True).values() if value.is_floating_point()]
    return max(
        (_TOLERANCE.get(each.dtype, _COARSE) if each.device.type == "cpu" else _COARSE for each in state),
        default=_COARSE,
    )


def _agree(expected: list[Any], outputs: list[Any], tolerance: float) -> bool:
    return len(expected) == len(outputs) and all(
        _close(left, right, tolerance) for left, right in zip(expected, outputs, strict=True)
    )


def _close(expected: Any, output: Any, tolerance: float) -> bool:
    if not isinstance(expected, Tensor) or not isinstance(output, Tensor):
        return type(expected) is type(output) and bool(expected == output)
    if (expected.shape, expected.dtype) != (output.shape, output.dtype):
        return False
    if not expected.is_floating_point() or not expected.numel():
        return True  # of numbers that are all but equal, either may be the larger one
    left, right = (each.detach().to_dense().cpu().double() for each in (expected, output))
    finite = left.isfinite()
    left, right = left.where(finite, 0), right.where(finite, 0)
    return torch.allclose(left, right, rtol=0, atol=tolerance * max(float(left.abs().max()), _SMALL))
