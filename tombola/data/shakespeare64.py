"""Tiny Shakespeare in blocks of 64 characters, where `text.py` has 256: what a small network learns on a CPU.

The same text, spans and tokens; a character is asked for after at most 64 others, so results on the two do not compare.
"""

from dataclasses import replace
from pathlib import Path

from tombola.data import text
from tombola.data.arrays import TokenArrays
from tombola.data.facts import Facts

LENGTH = 64

FACTS: Facts = replace(
    text.FACTS,
    name="shakespeare64",
    shape=(LENGTH, text.FACTS.classes),
    train=14_814,
    validation=872,
    test=1_743,
    checksum="039fb9e7dfc8ea4928a91a7af1863b4161e86111b1d270886f8e0d996b358b9e",
)


words = text.words


def read(data_dir: Path | None) -> TokenArrays:
    """As `text.read`, in shorter blocks.

    Raises:
        DataError: the text is damaged or another one, or is absent and cannot be downloaded.
    """
    return text.arrays(text.whole(data_dir), text.ENDS, LENGTH)
