"""Tiny Shakespeare: 1.1 million characters of Shakespeare's plays as one running text, character by character.

The Unreasonable Effectiveness of Recurrent Neural Networks (Karpathy, 2015), whose copy this is. An example is a block
of `LENGTH` characters; its labels are the characters that follow each of them. The blocks of a span follow each other
without a gap, and its last one is filled up: every character of a span but the first is asked for once.
"""

import hashlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tombola import files
from tombola.data.arrays import TokenArrays
from tombola.data.download import fetch
from tombola.data.facts import IGNORED, Facts
from tombola.errors import DataError

HOMES = ("https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/",)
FILE = "input.txt"
DIGEST = "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed"

# Training, validation and test are spans of the text, one after the other: their ends, in characters. The last tenth
# is nobody's but the test's, as in nanoGPT.
ENDS = (948_084, 1_003_854, 1_115_394)
LENGTH = 256

FACTS = Facts(
    name="shakespeare",
    shape=(LENGTH, 65),
    classes=65,
    train=3_704,
    validation=218,
    test=436,
    checksum="a6e94049eba002a63b0610ed6a8de5d6c4f576f21fd55872c65785c814422c7a",
    most_frequent=16_617 / 111_539,
)


def read(data_dir: Path | None) -> TokenArrays:
    """The pool's blocks and the characters that follow, and the test's; the pool is in the order of the text.

    Raises:
        DataError: the text is damaged or another one, or is absent and cannot be downloaded.
    """
    return arrays(whole(data_dir), ENDS, LENGTH)


def whole(data_dir: Path | None) -> bytes:
    """The text.

    Looks for the file in `data_dir`, as `text/tinyshakespeare.txt` or `tinyshakespeare/input.txt`; where it is absent
    it is downloaded to the latter, or into the user's cache where no folder is given.

    Raises:
        DataError: it is damaged or another one, or is absent and cannot be downloaded.
    """
    for path in (data_dir / "text" / "tinyshakespeare.txt", data_dir / "tinyshakespeare" / FILE) if data_dir else ():
        if path.is_file():
            return _checked(path)
    return _checked(fetch("tinyshakespeare", FILE, HOMES, data_dir, check=_checked))


def words(data_dir: Path | None) -> list[str]:
    """The character that each token stands for.

    Raises:
        DataError: as `read`.
    """
    return [chr(code) for code in np.unique(np.frombuffer(whole(data_dir), np.uint8))]


def arrays(text: bytes, ends: tuple[int, int, int], length: int) -> TokenArrays:
    """Of a text of one byte a character, whose tokens are its characters in the order of their codes.

    Args:
        ends: of the spans for training, validation and test.

    >>> images, labels, *_ = arrays(b"abcabcabcabc", ends=(6, 9, 12), length=4)
    >>> images.tolist()
    [[0, 1, 2, 0], [1, 0, 0, 0], [0, 1, 0, 0]]
    >>> labels.tolist()
    [[1, 2, 0, 1], [2, -100, -100, -100], [1, 2, -100, -100]]
    """
    _, tokens = np.unique(np.frombuffer(text, np.uint8), return_inverse=True)
    spans = [_blocks(tokens[begin:end], length) for begin, end in zip((0, *ends), ends, strict=False)]
    (train, follow_train), (validation, follow_validation), (test, follow_test) = spans
    return np.concatenate([train, validation]), np.concatenate([follow_train, follow_validation]), test, follow_test


def _blocks(tokens: NDArray[np.int64], length: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    missing = -(len(tokens) - 1) % length
    before = np.pad(tokens[:-1], (0, missing))
    after = np.pad(tokens[1:], (0, missing), constant_values=IGNORED)
    return before.reshape(-1, length), after.reshape(-1, length)


def _checked(path: Path) -> bytes:
    try:
        content = files.beginning(path, ENDS[-1] + 1)
        found = f"{len(content):,} bytes with {hashlib.sha256(content).hexdigest()[:16]}"
        found = found if len(content) <= ENDS[-1] else f"more than {ENDS[-1]:,} bytes"
    except OSError as error:
        content, found = b"", f"a file that cannot be read ({error.strerror})"
    if hashlib.sha256(content).hexdigest() != DIGEST:
        raise DataError(
            where=str(path),
            expected=f"tiny Shakespeare, {ENDS[-1]:,} bytes with SHA-256 {DIGEST[:16]}...",
            found=found,
            todo="The file is damaged or another one: remove it, and it is downloaded again.",
        )
    return content
