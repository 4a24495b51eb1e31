"""A mask and the weights under it, in few bytes: flags as bits where many are set; as gaps where few are.

Gaps: a byte below 255 says how many flags are unset before the next set one, 255 that 255 more are unset. Those after
the last set one need no byte. Gaps take about a byte a set flag and bits an eighth of a byte a flag, so that gaps win
below a density of an eighth. Bytes, for 300 x 784 random flags:

    density     bits     gaps   the smaller, deflated   least possible
      20 %    29,400   47,040                  22,820           21,225
      10 %    29,400   23,520                  15,337           13,788
       5 %    29,400   11,760                   8,714            8,420
     3.6 %    29,400    8,467                   6,722            6,575
       1 %    29,400    2,546                   2,454            2,375

Nothing is deflated: beside values of four bytes each it would save some five per cent, and zlib's bytes depend on who
built it, while the same flags should be the same bytes everywhere.

Gaps take no byte for what is unset after the last set flag, and so claim any number of flags; a file that claims more
than it could have been made of is not read (`affordable`), nor written (`encoded`).
"""

from collections.abc import Iterable, Mapping, Sequence
from math import prod

import numpy as np
import torch
from torch import Tensor

from tombola.mask import Mask, suits
from tombola.weights import Weights, bits

MORE = 255
LEAST, PER_BYTE = 2**24, 2**10  # flags that any file may claim, and more for each of its bytes


def encode(alive: Tensor) -> Tensor:
    """The flags as bytes: gaps where those are fewer than bits, else bits, the first flag in the highest bit of a byte.

    Args:
        alive: bool, of any shape; its flat order counts.

    Returns:
        uint8, a vector. Its length tells `decode` which of the two it is.

    >>> encode(torch.tensor([True, False, True, True])).tolist()         # bits: 1011 0000
    [176]
    >>> flags = torch.zeros(400, dtype=torch.bool)
    >>> flags[[3, 4, 300]] = True
    >>> encode(flags).tolist()                                           # 3 unset, none, 255 and 40 more
    [3, 0, 255, 40]
    """
    flags = alive.flatten().numpy()
    bits = -(-flags.size // 8)
    if np.count_nonzero(flags) < bits:
        gaps = np.diff(np.flatnonzero(flags), prepend=-1) - 1
        places = np.cumsum(gaps // MORE + 1) - 1
        if not places.size or places[-1] + 1 < bits:
            code = np.full(places[-1] + 1 if places.size else 0, MORE, dtype=np.uint8)
            code[places] = gaps % MORE
            return torch.from_numpy(code)
    return torch.from_numpy(np.packbits(flags))


def encoded(flags: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The codes of all flags that go into one file: bits for all of them where gaps would be too few to be read again.

    They are where some ten million flags are unset and next to none is set.
    """
    codes = {name: encode(alive) for name, alive in flags.items()}
    try:
        affordable((alive.shape for alive in flags.values()), sum(code.numel() for code in codes.values()))
        return codes
    except ValueError:
        return {name: torch.from_numpy(np.packbits(alive.flatten().numpy())) for name, alive in flags.items()}


def affordable(shapes: Iterable[Sequence[int]], size: int) -> None:
    """Make sure that a file of `size` bytes can be of tensors of these shapes, before there are any.

    Raises:
        ValueError: these are no shapes, or those of far more numbers than such a file has been made of.

    >>> affordable([(30000, 60000)], size=815)
    Traceback (most recent call last):
    ValueError: 1,800,000,000 weights in a file of 815 bytes
    """
    count = 0
    for shape in shapes:
        if not all(type(each) is int and each >= 0 for each in shape):
            raise ValueError(f"{list(shape)!r:.60} where a shape should be")
        count += prod(shape)
    if count > LEAST + PER_BYTE * size:
        raise ValueError(f"{count:,} weights in a file of {size:,} bytes")


def decode(code: Tensor, shape: Sequence[int]) -> Tensor:
    """The inverse of `encode`: the flags, in `shape`.

    Raises:
        ValueError: it is no code for so many flags.

    >>> decode(torch.tensor([3, 0, 255, 40], dtype=torch.uint8), (400,)).nonzero().flatten().tolist()
    [3, 4, 300]
    """
    size = prod(shape)
    data, bits = code.numpy(), -(-size // 8)
    if data.size > bits:
        raise ValueError(f"expected at most {bits} bytes for {size} flags, found {data.size}")
    if data.size == bits:
        flags = np.unpackbits(data, count=size).astype(bool)
    else:
        set_here = data != MORE
        places = np.cumsum(data.astype(np.int64) + set_here)[set_here] - 1
        if places.size and places[-1] >= size:
            raise ValueError(f"expected {size} flags, found one at place {places[-1]}")
        flags = np.zeros(size, dtype=bool)
        flags[places] = True
    return torch.from_numpy(flags).reshape(tuple(shape))


def compress(weights: Weights, mask: Mask) -> dict[str, Tensor]:
    """Only what lives: each masked weight as the vector of its living values, in flat order.

    Raises:
        BadInput: the mask names what is not among the weights, or not of its shape.
    """
    suits(mask, weights)
    return {
        name: bits(value)[mask[name]].view(value.dtype) if name in mask else value for name, value in weights.items()
    }


def expand(living: Weights, mask: Mask) -> dict[str, Tensor]:
    """The inverse of `compress`: full tensors again, exactly 0 where pruned.

    Raises:
        ValueError: there are fewer values than places, or more, or none at all for a mask.
    """

    def restored(name: str, values: Tensor) -> Tensor:
        if name not in mask:
            return values
        places = int(mask[name].sum())
        if values.shape != (places,):
            raise ValueError(f"expected {places} values for the mask of {name}, found {tuple(values.shape)}")
        full = torch.zeros(mask[name].shape, dtype=bits(values).dtype)
        return full.masked_scatter(mask[name], bits(values)).view(values.dtype)

    if missing := mask.keys() - living.keys():
        raise ValueError(f"expected values for the mask of {min(missing)}, found none")
    return {name: restored(name, values) for name, values in living.items()}


def pack(mask: Mask) -> dict[str, Tensor]:
    """One bit a weight: each layer as uint8, eight flags a byte, the first flag in the highest bit."""
    return {name: torch.from_numpy(np.packbits(alive.numpy())) for name, alive in mask.items()}


def unpack(packed: Weights, shapes: Mapping[str, tuple[int, ...]]) -> Mask:
    """The inverse of `pack`, given each layer's shape.

    Raises:
        ValueError: there are too few bits, or too many, for a shape.
    """

    for name, shape in shapes.items():
        size, code = prod(shape), packed[name]
        if code.shape != (-(-size // 8),):  # before anything is made of that size
            raise ValueError(f"expected {size} bits for the mask of {name}, found {8 * code.numel()}")
    return Mask({name: decode(packed[name], shape) for name, shape in shapes.items()})
