"""The corrupted test sets as they were published: arrays in a folder, which somebody has downloaded.

MNIST-C is FOLDER/NAME/test_images.npy, bytes [10,000, 28, 28, 1]; CIFAR-10-C is FOLDER/NAME.npy, bytes
[50,000, 32, 32, 3], 10,000 of each severity, one severity after the other. Images are those of the test set in its
order.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tombola.errors import DataError
from tombola.study.corruption import standard

if TYPE_CHECKING:
    from torch import Tensor

BY_AUTHORS = {"frost": (1, 2, 3, 4, 5)}  # of CIFAR-10-C, made of photographs that only the authors have


@dataclass(frozen=True)
class Published:
    """Published images of a test set.

    Attributes:
        folder: where they lie.
        shape: of an image: channels, height, width.
        test: how many images the test set has.
    """

    folder: Path
    shape: tuple[int, ...]
    test: int

    @property
    def available(self) -> dict[str, tuple[int, ...]]:
        """The published corruptions of such images, and their severities.

        >>> Published(Path("mnist_c"), (1, 28, 28), 10_000).available["fog"]
        (5,)
        """
        return standard(self.shape[0]) | (BY_AUTHORS if self._coloured else {})

    @property
    def _coloured(self) -> bool:
        return self.shape[0] == 3

    def path(self, name: str) -> Path:
        """Where a corruption's images are.

        >>> Published(Path("mnist_c"), (1, 28, 28), 10_000).path("fog").as_posix()
        'mnist_c/fog/test_images.npy'
        """
        return self.folder / (f"{name}.npy" if self._coloured else f"{name}/test_images.npy")

    def check(self, name: str) -> None:
        """Raise DataError where a corruption's images are not there, or not those of this test set."""
        import numpy as np

        try:
            held = np.load(self.path(name), mmap_mode="r")
        except (OSError, ValueError) as error:
            found = "no such file" if isinstance(error, FileNotFoundError) else str(error)
            raise self._wrong(name, f"the published images of {name}", found) from error
        channels, height, width = self.shape
        severities = len(self.available[name]) if self._coloured else 1
        expected = (severities * self.test, height, width, channels)
        if held.shape != expected or held.dtype != np.uint8:
            raise self._wrong(name, f"bytes of shape {expected}", f"{held.dtype} of shape {held.shape}")

    def images(self, name: str, severity: int, places: Sequence[int]) -> "Tensor":
        """The images of the test set at `places` under a corruption that `check` has looked at, bytes [N, C, H, W]."""
        import numpy as np
        import torch

        block = (severity - 1) * self.test if self._coloured else 0
        rows = np.load(self.path(name), mmap_mode="r")[block + np.asarray(places)]
        return torch.from_numpy(np.ascontiguousarray(rows.transpose(0, 3, 1, 2)))

    def _wrong(self, name: str, expected: str, found: str) -> DataError:
        todo = "Leave study.corruption.published out, and the corruptions are made here."
        return DataError(where=str(self.path(name)), expected=expected, found=found, todo=todo)
