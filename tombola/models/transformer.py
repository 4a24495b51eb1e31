"""Blocks of attention and of two fully connected layers: what `gpt.py` and `bert.py` are made of.

Attention Is All You Need (Vaswani et al., 2017), in the form with a normalisation before each part ("pre-norm") and
without dropout.
"""

import re
from dataclasses import dataclass

from tombola.models.layer import Layer

HEAD = 32  # units of a head where the name says nothing of heads
PADDING = 0  # the token that stands for none, where texts are of different lengths
EXPANSION = 4  # units between the two fully connected layers of a block, to those of its ends


@dataclass(frozen=True)
class TransformerSize:
    """How large a transformer is.

    Attributes:
        depth: blocks.
        width: numbers that stand for a token between blocks.
        heads: of each attention; they share the width evenly.
    """

    depth: int
    width: int
    heads: int


def form(family: str) -> str:
    """What is said when a name is not understood."""
    return (
        f"{family}-LAYERS-WIDTH, like {family}-4-128, with other heads than one for every {HEAD} units "
        f"like {family}-4-128-h2; up to 99 layers, width 99999 and 999 heads"
    )


def size(name: str) -> TransformerSize:
    """The size that a name like `gpt-4-128` or `gpt-4-128-h2` asks for.

    Raises:
        ValueError: it is not of that form, or the heads do not share the width evenly.

    >>> size("bert-2-64"), size("gpt-6-384-h6")
    (TransformerSize(depth=2, width=64, heads=2), TransformerSize(depth=6, width=384, heads=6))
    """
    match = re.fullmatch(r"[a-z]+-([1-9]\d?)-([1-9]\d{0,4})(?:-h([1-9]\d{0,2}))?", name)
    if not match:
        raise ValueError(form(name.split("-")[0]))
    depth, width = int(match[1]), int(match[2])
    heads = int(match[3]) if match[3] else -(-width // HEAD)
    if width % heads:
        raise ValueError(f"{form(name.split('-')[0])}; {heads} heads share the width evenly")
    return TransformerSize(depth, width, heads)


def blocks(size: TransformerSize, length: int) -> dict[str, Layer]:
    """The layers of the blocks, each of which is used once for every one of `length` tokens.

    >>> list(blocks(TransformerSize(depth=1, width=4, heads=2), length=8))[:3]
    ['blocks.0.attention.query.weight', 'blocks.0.attention.key.weight', 'blocks.0.attention.value.weight']
    """
    width, wide = size.width, size.width * EXPANSION
    inside = {f"attention.{part}": (width, width) for part in ("query", "key", "value", "projection")}
    inside |= {"expand": (width, wide), "contract": (wide, width)}
    return {
        f"blocks.{number}.{name}.weight": Layer("linear", *sizes, height=length)
        for number in range(size.depth)
        for name, sizes in inside.items()
    }


def products(name: str, shape: tuple[int, ...]) -> int:
    """The multiply-adds of an example that no weight takes part in: queries with keys, shares of attention with values.

    2 x tokens^2 x width in each block; those of padding and of tokens that are not looked at are counted too.

    >>> products("gpt-2-64", (256, 65))
    16777216
    """
    length, _ = text(name, shape)
    return 2 * length**2 * size(name).width * size(name).depth


def text(name: str, shape: tuple[int, ...]) -> tuple[int, int]:
    """(length, vocabulary) of a text's shape; ValueError where it is an image's, with what was expected."""
    if len(shape) != 2:
        raise ValueError(f"a model for images; {name} reads texts, like those of shakespeare and sst2")
    length, vocabulary = shape
    return length, vocabulary
