"""Nested Python values as JSON with the tensors aside: what a state_dict holds, without pickle.

JSON knows neither tuples nor keys that are numbers: whatever it would change is written as `{"$kind": ...}`.
"""

from collections import Counter
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tombola.errors import BadInput


def encode(value: Any, tensors: dict[str, Tensor], where: str) -> Any:
    """`value` for `json.dumps`; its tensors go into `tensors`, under names that begin with `where`.

    Raises:
        BadInput: something in it is neither plain Python, NumPy nor a tensor.

    >>> tensors = {}
    >>> encode({"betas": (0.9, 0.99), 0: torch.ones(2)}, tensors, "state")
    {'$dict': [['betas', {'$tuple': [0.9, 0.99]}], [0, {'$tensor': 'state.0'}]]}
    >>> decode(_, tensors)
    {'betas': (0.9, 0.99), 0: tensor([1., 1.])}
    """

    def within(name: object, part: Any) -> Any:
        return encode(part, tensors, f"{where}.{name}")

    def each(parts: Any) -> list[Any]:
        return [within(place, part) for place, part in enumerate(parts)]

    if value is None or type(value) in (bool, int, float, str):
        return value
    if isinstance(value, Tensor):
        return _aside(value, tensors, where)
    if isinstance(value, np.generic | np.ndarray):
        array = np.asarray(value)
        if array.dtype.kind in "biufc":
            where = _free(where, tensors)
            tensors[where] = torch.from_numpy(np.frombuffer(array.tobytes(), np.uint8).copy())
            return {"$numpy": [where, array.dtype.str, list(array.shape), isinstance(value, np.generic)]}
    if isinstance(value, Counter):
        return {"$counter": [[key, count] for key, count in value.items()]}
    if isinstance(value, dict):
        if all(type(key) is str and not key.startswith("$") for key in value):
            return {key: within(key, part) for key, part in value.items()}
        if all(type(key) in (str, int, float, bool) for key in value):
            return {"$dict": [[key, within(key, part)] for key, part in value.items()]}
    if type(value) is list:
        return each(value)
    if type(value) is tuple:
        return {"$tuple": each(value)}
    if type(value) is set:
        return {"$set": each(sorted(value, key=repr))}
    raise _not_plain(value, where)


def _not_plain(value: object, where: str) -> BadInput:
    return BadInput(
        where=where,
        expected="numbers, strings, tensors, and lists, tuples and dicts of them, which a file can hold without pickle",
        found=f"{type(value).__module__}.{type(value).__qualname__}",
        todo="Give it a state_dict without it, or search without a path.",
    )


def _free(where: str, tensors: dict[str, Tensor]) -> str:
    while where in tensors:  # keys that hold points, or are 0 and "0", may come to one name
        where += "'"
    return where


def _aside(value: Tensor, tensors: dict[str, Tensor], where: str) -> dict[str, Any]:
    if value.layout != torch.strided or value.is_quantized:
        raise BadInput(
            where=where,
            expected="a dense tensor of numbers",
            found=f"{value.layout}, {value.dtype}",
            todo="Give it a state_dict without it, or search without a path.",
        )
    where = _free(where, tensors)
    tensors[where] = value.detach().cpu().clone(memory_format=torch.contiguous_format)
    # Fused optimisers want their state laid out as the weights are, channels last for one.
    stride = torch.empty_like(value, device="meta").stride()
    return {"$tensor": where} | ({"$stride": list(stride)} if stride != tensors[where].stride() else {})


def decode(code: Any, tensors: dict[str, Tensor]) -> Any:
    """The inverse of `encode`."""
    if isinstance(code, list):
        return [decode(part, tensors) for part in code]
    if not isinstance(code, dict):
        return code
    match code:
        case {"$tensor": name, "$stride": stride}:
            return _laid_out(tensors[name], stride)
        case {"$tensor": name}:
            return tensors[name]
        case {"$numpy": [name, dtype, shape, scalar]}:
            array = np.frombuffer(tensors[name].numpy().tobytes(), np.dtype(dtype)).reshape(shape).copy()
            return array[()] if scalar else array
        case {"$counter": counts}:
            return Counter(dict(counts))
        case {"$dict": pairs}:
            return {key: decode(part, tensors) for key, part in pairs}
        case {"$tuple": parts}:
            return tuple(decode(parts, tensors))
        case {"$set": parts}:
            return set(decode(parts, tensors))
    return {key: decode(part, tensors) for key, part in code.items()}


def _laid_out(value: Tensor, stride: list[int]) -> Tensor:
    """`value` in memory as it was, which was no larger than it is: `empty_like` leaves no gaps."""
    if 1 + sum((size - 1) * step for size, step in zip(value.shape, stride, strict=True)) > max(1, value.numel()):
        raise ValueError(f"strides {stride} for a tensor of shape {tuple(value.shape)}")
    return torch.empty_strided(value.shape, stride, dtype=value.dtype).copy_(value)
