"""MNIST: 60,000 + 10,000 handwritten digits of 28 x 28 pixels, from the standard idx files.

Gradient-Based Learning Applied to Document Recognition (LeCun, Bottou, Bengio & Haffner, 1998).
"""

import gzip
import hashlib
import zlib
from math import prod
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tombola.data.arrays import ImageArrays
from tombola.data.download import fetch
from tombola.data.facts import Facts
from tombola.errors import DataError

# Normalisation is not in the paper, and results depend on it: with these constants replications match its Figure 3.
FACTS = Facts(
    name="mnist",
    shape=(1, 28, 28),
    classes=10,
    train=55_000,
    validation=5_000,
    test=10_000,
    mean=(0.1307,),
    std=(0.3081,),
    white=255,
    checksum="1e35582d42a90940c55b956deb61875c020b567ed20e3c5b174f52bf7809ed9b",
    most_frequent=1_135 / 10_000,
    class_counts=(5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949),
)

HOMES = (
    "https://ossci-datasets.s3.amazonaws.com/mnist/",
    "https://storage.googleapis.com/cvdf-datasets/mnist/",
)

# File, SHA-256 of its decompressed bytes, shape. The .gz wrapper differs from home to home; what is inside does not.
FILES: dict[str, tuple[str, tuple[int, ...]]] = {
    "train-images-idx3-ubyte": ("ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db", (60_000, 28, 28)),
    "train-labels-idx1-ubyte": ("65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5", (60_000,)),
    "t10k-images-idx3-ubyte": ("0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7", (10_000, 28, 28)),
    "t10k-labels-idx1-ubyte": ("ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2", (10_000,)),
}


def read(data_dir: Path | None) -> ImageArrays:
    """Training images and labels, test images and labels.

    Looks for the four files, plain or `.gz`, in `data_dir`, in `data_dir/mnist` and in `data_dir/MNIST/raw`, where
    torchvision puts them; what is absent is downloaded into `data_dir/mnist`, or into the user's cache where no folder
    is given.

    Raises:
        DataError: a file is damaged or another one, or is absent and cannot be downloaded.
    """
    train_images, train_labels, test_images, test_labels = (_parse(_raw(name, data_dir), name) for name in FILES)
    return train_images[:, None], train_labels.astype(np.int64), test_images[:, None], test_labels.astype(np.int64)


def _raw(name: str, data_dir: Path | None) -> bytes:
    folders = [data_dir, data_dir / "mnist", data_dir / "MNIST" / "raw"] if data_dir else []
    for path in (folder / (name + suffix) for folder in folders for suffix in ("", ".gz")):
        if path.is_file():
            return _checked(path, name)
    return _checked(fetch("mnist", name + ".gz", HOMES, data_dir, check=lambda path: _checked(path, name)), name)


def _checked(path: Path, name: str) -> bytes:
    expected = f"the decompressed bytes of {name} with SHA-256 {FILES[name][0][:16]}..."
    size = _header(name) + prod(FILES[name][1])
    try:
        with path.open("rb") as file:
            zipped = file.read(2) == b"\x1f\x8b"
            file.seek(0)
            raw = (gzip.GzipFile(fileobj=file) if zipped else file).read(size + 1)  # however much it unpacks to
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(
            where=str(path), expected=expected, found=f"a file that cannot be read ({error})", todo=_TODO
        ) from error
    digest = hashlib.sha256(raw).hexdigest()
    if digest != FILES[name][0]:
        found = f"more than {size:,} bytes" if len(raw) > size else f"{len(raw):,} bytes with {digest[:16]}"
        raise DataError(where=str(path), expected=expected, found=found, todo=_TODO)
    return raw


_TODO = "The file is damaged or another one: remove it, and it is downloaded again."


def _header(name: str) -> int:
    # idx: two zero bytes, the type, the number of dimensions, each as a big-endian 4-byte number, then the data.
    return 4 + 4 * len(FILES[name][1])


def _parse(raw: bytes, name: str) -> NDArray[np.uint8]:
    return np.frombuffer(raw, dtype=np.uint8, offset=_header(name)).reshape(FILES[name][1])
