"""What is known of a data set before any of it is read: enough to plan, to check a spec and to name a run."""

import hashlib
import json
from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class Facts:
    """The fixed facts of a data set.

    Attributes:
        shape: channels, height, width of an image.
        train, validation, test: how many examples; the validation ones come out of the official training set.
        mean, std: per channel, of pixels in [0, 1].
        white: the pixel value that stands for 1.
        checksum: SHA-256 over all images and labels, or of the archive that holds them.
    """

    name: str
    shape: tuple[int, int, int]
    classes: int
    train: int
    validation: int
    test: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    white: int
    checksum: str

    @property
    def fingerprint(self) -> str:
        """SHA-256 over all of this, checksum included: what the key of every run on this data has of it."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()

    def epoch_iterations(self, batch: int) -> int:
        """Optimiser steps in one pass over the training set, a smaller last batch included."""
        return -(-self.train // batch)
