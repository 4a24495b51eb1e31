"""CIFAR-10: 50,000 + 10,000 photographs of 32 x 32 pixels in ten classes, from the official binary archive.

Learning Multiple Layers of Features from Tiny Images (Krizhevsky, 2009).
"""

import gzip
import hashlib
import tarfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tombola.data.arrays import ImageArrays
from tombola.data.download import fetch
from tombola.data.facts import Facts
from tombola.errors import DataError

HOMES = ("https://www.cs.toronto.edu/~kriz/",)
ARCHIVE = "cifar-10-binary.tar.gz"
TRAIN = tuple(f"data_batch_{number}.bin" for number in range(1, 6))
TEST = ("test_batch.bin",)

# The checksum is the archive's: torchvision-ruby, MLDatasets.jl and GoMLX each name the same one. The paper has no
# constants for the normalisation; these are the mean and deviation of the 50,000 official images, to four digits.
FACTS = Facts(
    name="cifar10",
    shape=(3, 32, 32),
    classes=10,
    train=45_000,
    validation=5_000,
    test=10_000,
    mean=(0.4914, 0.4822, 0.4465),
    std=(0.2470, 0.2435, 0.2616),
    white=255,
    checksum="c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
)


def read(data_dir: Path | None) -> ImageArrays:
    """Training images and labels, test images and labels, from the archive as it is: nothing is unpacked to disk.

    Looks for it in `data_dir` and in `data_dir/cifar10`; where it is absent it is downloaded into `data_dir/cifar10`,
    or into the user's cache where no folder is given.

    Raises:
        DataError: it is damaged or another one, or is absent and cannot be downloaded.
    """
    files = unpacked(archive("cifar10", ARCHIVE, FACTS.checksum, data_dir), (*TRAIN, *TEST))
    return *records(files, TRAIN, FACTS, labels=1), *records(files, TEST, FACTS, labels=1)


def archive(name: str, file: str, digest: str, data_dir: Path | None) -> Path:
    """Where the official archive `file` of `name` lies, checked; downloaded if it is nowhere.

    Raises:
        DataError: it is damaged or another one, or is absent and cannot be downloaded.
    """

    def check(path: Path) -> None:
        try:
            with path.open("rb") as opened:
                found = hashlib.file_digest(opened, "sha256").hexdigest()
        except OSError as error:
            found = f"nothing that can be read ({error.strerror})"
        if found != digest:
            raise _another_archive(path, file, digest, found)

    for path in (data_dir / file, data_dir / name / file) if data_dir else ():
        if path.is_file():
            check(path)
            return path
    path = fetch(name, file, HOMES, data_dir, check)
    check(path)
    return path


def _another_archive(path: Path, file: str, digest: str, found: str) -> DataError:
    return DataError(
        where=str(path),
        expected=f"the archive {file} with SHA-256 {digest[:16]}...",
        found=found,
        todo="The file is damaged or another one: remove it, and it is downloaded again.",
    )


def unpacked(path: Path, names: Sequence[str]) -> dict[str, bytes]:
    """The files of these names in the `.tar.gz` at `path`, in whichever of its folders they are.

    Raises:
        DataError: one is not there, or the archive cannot be read.
    """
    found: dict[str, bytes] = {}
    reason = "an archive without it"
    try:
        with tarfile.open(path, "r:gz") as tar:
            for member in tar:
                content = tar.extractfile(member)
                if content and (name := Path(member.name).name) in names:
                    found[name] = content.read()
    except (OSError, EOFError, zlib.error, gzip.BadGzipFile, tarfile.TarError) as error:
        reason = f"an archive that cannot be read ({error})"
    for name in names:
        if name not in found:
            raise DataError(where=str(path), expected=f"{name} in it", found=reason, todo="Remove the archive.")
    return found


def records(
    files: Mapping[str, bytes], names: Sequence[str], facts: Facts, labels: int
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Images and labels of files of records: `labels` bytes, of which the last counts, then the pixels, C x H x W.

    Raises:
        DataError: a file does not end with a record, or has a label that is none.
    """
    size = labels + int(np.prod(facts.shape))
    for name in names:
        if len(files[name]) % size:
            raise DataError(
                where=name,
                expected=f"records of {size:,} bytes",
                found=f"{len(files[name]):,} bytes",
                todo="The file is damaged or another one: put the right one there.",
            )
    rows = np.concatenate([np.frombuffer(files[name], np.uint8).reshape(-1, size) for name in names])
    return np.ascontiguousarray(rows[:, labels:]).reshape(-1, *facts.shape), rows[:, labels - 1].astype(np.int64)
