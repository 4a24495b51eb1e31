"""Masks and weights as bytes, small enough for a page."""

import base64
import hashlib
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Bools = NDArray[np.bool_]
MOST = 127  # of a weight that is held as a byte


@dataclass(frozen=True)
class MaskCode:
    """One layer's masks at several levels, ascending.

    Attributes:
        code: `lives`, a byte for each weight, at how many levels it is kept, where masks nest and there are under 256;
            `bits`, a bit for each weight and level, in which a level but the first is its difference from the one
            before.
        content: these.
    """

    code: Literal["lives", "bits"]
    content: bytes


def coded(masks: Sequence[Bools]) -> MaskCode:
    """The code of one layer's masks, level by level.

    >>> coded([np.array([True, True]), np.array([True, False])])
    MaskCode(code='lives', content=b'\\x02\\x01')
    >>> coded([np.array([True, False]), np.array([False, True])])
    MaskCode(code='bits', content=b'\\x80\\xc0')
    """
    levels = np.stack([mask.ravel() for mask in masks])
    if len(levels) < 256 and not (levels[1:] & ~levels[:-1]).any():
        return MaskCode("lives", levels.sum(axis=0).astype(np.uint8).tobytes())
    levels[1:] ^= levels[:-1].copy()
    return MaskCode("bits", np.packbits(levels, axis=1).tobytes())


def decoded(code: MaskCode, levels: int, weights: int) -> list[Bools]:
    """The masks that `coded` was handed, each flat, as the page decodes them."""
    if code.code == "lives":
        lives = np.frombuffer(code.content, np.uint8)
        return [lives > level for level in range(levels)]
    bits = np.frombuffer(code.content, np.uint8).reshape(levels, -1)
    flags = np.unpackbits(bits, axis=1, count=weights).astype(bool)
    return list(np.logical_xor.accumulate(flags, axis=0))


def quantised(values: NDArray[np.float32]) -> tuple[bytes, float]:
    """Weights as signed bytes, and what 1 of them is: the largest in size is 127 or -127.

    A weight that lives is never 0 here, however small it is, so that its sign is seen.

    >>> quantised(np.array([0.5, -1.0, 1e-9], np.float32))
    (b'@\\x81\\x01', 0.007874015748031496)
    """
    largest = float(np.abs(values).max(initial=0))
    if not np.isfinite(largest) or largest == 0:
        return bytes(values.size), 0.0
    steps = np.rint(values.astype(np.float64) / (largest / MOST))
    small = np.where(values < 0, -1, 1) * (values != 0)
    return np.where(steps == 0, small, steps).astype(np.int8).tobytes(), largest / MOST


@dataclass
class Blobs:
    """The binary parts of a page, deflated, each of them once, and no more than there is room for.

    Attributes:
        room: for how many characters, as they stand in the page.
        parts: what is in so far.
    """

    room: int
    parts: list[str] = field(default_factory=list)
    _known: dict[str, int] = field(default_factory=dict)

    def add(self, content: bytes) -> int | None:
        """The number of the part with this content; None where there is no room for it."""
        digest = hashlib.sha256(content).hexdigest()
        if digest not in self._known:
            part = base64.b64encode(zlib.compress(content, 9)).decode()
            if len(part) > self.room:
                return None
            self.room -= len(part)
            self._known[digest] = len(self.parts)
            self.parts.append(part)
        return self._known[digest]

    def add_all(self, contents: Sequence[bytes]) -> list[int] | None:
        """The numbers of parts that are of use only together; None, and none of them, where one has no room."""
        before = self.room, len(self.parts), dict(self._known)
        numbers: list[Any] = [self.add(content) for content in contents]
        if None in numbers:
            self.room, count, self._known = before
            del self.parts[count:]
            return None
        return numbers
