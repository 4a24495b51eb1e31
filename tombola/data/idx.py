"""Images and their labels in four idx files, the form in which MNIST was published, and what took its place since."""

import gzip
import hashlib
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tombola.data.arrays import ImageArrays
from tombola.data.download import fetch
from tombola.errors import DataError

Shape = tuple[int, ...]


@dataclass(frozen=True)
class IdxFiles:
    """Four files: images and labels of the training pool, then of the test set.

    Attributes:
        folder: below a data folder, where downloads go.
        files: SHA-256 of the decompressed bytes and shape, by name. The .gz wrapper differs from home to home; what is
            inside does not.
        homes: addresses of folders that have them.
        places: below a data folder, where they are looked for, plain or `.gz`.
    """

    folder: str
    files: dict[str, tuple[str, Shape]]
    homes: Sequence[str]
    places: Sequence[str]

    def read(self, data_dir: Path | None) -> ImageArrays:
        """Training images and labels, test images and labels; what is absent is downloaded.

        Raises:
            DataError: a file is damaged or another one, or is absent and cannot be downloaded.
        """
        train_images, train_labels, test_images, test_labels = (
            _parse(self._raw(name, data_dir), shape) for name, (_, shape) in self.files.items()
        )
        return train_images[:, None], train_labels.astype(np.int64), test_images[:, None], test_labels.astype(np.int64)

    def _raw(self, name: str, data_dir: Path | None) -> bytes:
        folders = [data_dir / place for place in self.places] if data_dir else []
        for path in (folder / (name + suffix) for folder in folders for suffix in ("", ".gz")):
            if path.is_file():
                return self._checked(path, name)
        path = fetch(self.folder, name + ".gz", self.homes, data_dir, check=lambda path: self._checked(path, name))
        return self._checked(path, name)

    def _checked(self, path: Path, name: str) -> bytes:
        known, shape = self.files[name]
        expected = f"the decompressed bytes of {name} with SHA-256 {known[:16]}..."
        size = _header(shape) + prod(shape)
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
        if digest != known:
            found = f"more than {size:,} bytes" if len(raw) > size else f"{len(raw):,} bytes with {digest[:16]}"
            raise DataError(where=str(path), expected=expected, found=found, todo=_TODO)
        return raw


_TODO = "The file is damaged or another one: remove it, and it is downloaded again."


def _header(shape: Shape) -> int:
    # idx: two zero bytes, the type, the number of dimensions, each as a big-endian 4-byte number, then the data.
    return 4 + 4 * len(shape)


def _parse(raw: bytes, shape: Shape) -> NDArray[np.uint8]:
    return np.frombuffer(raw, dtype=np.uint8, offset=_header(shape)).reshape(shape)
