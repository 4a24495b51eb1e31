"""SST-2: 9,613 sentences of film reviews, praise or not, word by word.

Recursive Deep Models for Semantic Compositionality Over a Sentiment Treebank (Socher et al., 2013), whole sentences
with neutral ones left out, in the official split. (GLUE's set of the same name trains on phrases of these as well.)
"""

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tombola import files
from tombola.data.arrays import TokenArrays
from tombola.data.facts import Facts
from tombola.errors import DataError
from tombola.models.transformer import PADDING

# Each line is a sentence, in small letters and with spaces around what counts as a word, a tab, and 1 for praise or 0.
FILES = {
    "train.tsv": "ec192f833a64da08f475488a77b0d0b47db47acd0f458bd18433fc793b569920",
    "dev.tsv": "eddea6b39e601dd4e7a672b53cc40fdf6019fa80522f351206c24340ca5d9359",
    "test.tsv": "831169c7e2e429d6026e1bdbb542f33b636e3e596caad9602ebc953c205928b7",
}
LONGEST = 720_259  # bytes, of these files
LENGTH = 48  # words; of longer sentences, one in two hundred, the rest is cut off
UNKNOWN, FIRST = PADDING + 1, PADDING + 2  # tokens; words follow from FIRST on
LEAST = 2  # times that a word is in the pool; others, which nothing could be learned about, are unknown

# Training and development sentences are the pool, which is split anew for every replicate in the official proportion.
FACTS = Facts(
    name="sst2",
    shape=(LENGTH, 7_751),
    classes=2,
    train=6_920,
    validation=872,
    test=1_821,
    checksum="62f4680180d8fe0232ac7c4ffbbab17419bdaa810a942e74a78448a54cf6949d",
    most_frequent=912 / 1_821,
    class_counts=(3738, 4054),
)

Labelled = list[tuple[str, int]]


def read(data_dir: Path | None) -> TokenArrays:
    """The pool's sentences and labels, and the test's, from `train.tsv`, `dev.tsv` and `test.tsv` in `data_dir/sst2`.

    There is no home to download them from.

    Raises:
        DataError: a file is absent or another one.
    """
    return arrays(*sentences(data_dir), LENGTH)


def sentences(data_dir: Path | None) -> tuple[Labelled, Labelled]:
    """(sentence, label) of the pool and of the test, from the same files.

    Raises:
        DataError: as `read`.
    """
    train, dev, test = (_lines(_checked(name, data_dir)) for name in FILES)
    return [*train, *dev], test


def arrays(pool: Sequence[tuple[str, int]], test: Sequence[tuple[str, int]], length: int) -> TokenArrays:
    """Tokens and labels of (sentence, label) in the pool and in the test; the pool alone says which words there are.

    >>> images, labels, test_images, _ = arrays([("good , good", 1), ("bad , sad", 0)], [("so good", 1)], length=4)
    >>> images.tolist(), test_images.tolist()
    ([[3, 2, 3, 0], [1, 2, 1, 0]], [[1, 3, 0, 0]])
    """
    known = vocabulary(sentence for sentence, _ in pool)
    found: list[NDArray[np.int64]] = []
    for examples in (pool, test):
        tokens = np.full((len(examples), length), PADDING, np.int64)
        for row, (sentence, _) in zip(tokens, examples, strict=True):
            words = sentence.split()[:length]
            row[: len(words)] = [known.get(word, UNKNOWN) for word in words]
        found += [tokens, np.array([label for _, label in examples], np.int64)]
    images, labels, test_images, test_labels = found
    return images, labels, test_images, test_labels


def words(data_dir: Path | None) -> list[str]:
    """The word that each token stands for; nothing for padding.

    Raises:
        DataError: as `read`.
    """
    pool, _ = sentences(data_dir)
    return ["", "(unknown)", *vocabulary(sentence for sentence, _ in pool)]


def vocabulary(sentences: Iterable[str]) -> dict[str, int]:
    """The token of each word that `sentences` have at least `LEAST` times, by the alphabet.

    >>> vocabulary(["a film", "a good film", "bad"])
    {'a': 2, 'film': 3}
    """
    counts = Counter(word for sentence in sentences for word in sentence.split())
    words = sorted(word for word, count in counts.items() if count >= LEAST)
    return {word: token for token, word in enumerate(words, start=FIRST)}


def _lines(content: bytes) -> Labelled:
    rows = (line.rsplit("\t", 1) for line in content.decode().splitlines())
    return [(sentence, int(label)) for sentence, label in rows]


def _checked(name: str, data_dir: Path | None) -> bytes:
    path, digest = (data_dir / "sst2" / name if data_dir else Path("sst2") / name), FILES[name]
    try:
        content = files.beginning(path, LONGEST + 1) if data_dir else b""
        found = hashlib.sha256(content).hexdigest()[:16] if data_dir else "no folder named"
    except OSError as error:
        content, found = b"", str(error.strerror)
    if hashlib.sha256(content).hexdigest() != digest:
        raise DataError(
            where=str(path),
            expected=f"sentences and labels of SST-2 with SHA-256 {digest[:16]}...",
            found=found,
            todo="Put train.tsv, dev.tsv and test.tsv (6,920, 872 and 1,821 lines: sentence, tab, 0 or 1) into a "
            "folder sst2, and name the folder above it with --data-dir or TOMBOLA_DATA.",
        )
    return content
