"""The examples that units are shown: a fixed part of the test set, drawn at random from a fixed seed."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch

from tombola.explorer.coding import Blobs
from tombola.explorer.record import Examples

if TYPE_CHECKING:
    from torch import Tensor

    from tombola.data import Dataset

COUNT = 256  # so that a place among them is a byte
SEED = 0


@dataclass
class Shown:
    """Sets of examples, each of them once.

    Attributes:
        blobs: where their pictures go.
        sets: so far.
    """

    blobs: Blobs
    sets: list[Examples] = field(default_factory=list)
    _known: dict[str, "tuple[int, Tensor]"] = field(default_factory=dict)

    def of(self, dataset: "Dataset") -> "tuple[int, Tensor]":
        """The place of its set, and the examples as inputs of a network."""
        data = dataset.facts.fingerprint  # two replicates' tables have one name, and are standardised otherwise
        if data not in self._known:
            places = chosen(len(dataset.test_labels))
            images = dataset.test_images.index_select(0, places)
            self.sets.append(self._examples(dataset, images, dataset.test_labels[places]))
            self._known[data] = len(self.sets) - 1, dataset.inputs(images)
        return self._known[data]

    def _examples(self, dataset: "Dataset", images: "Tensor", labels: "Tensor") -> Examples:
        several = labels.reshape(len(labels), -1).tolist()
        words = tuple(" ".join(f"{label:.4g}" for label in own) for own in several)
        if dataset.facts.text:
            words = words if labels.dim() == 1 else ("",) * len(labels)
            return Examples(self.blobs.add(images.numpy().astype("<u2").tobytes()), words)
        white = 255 if dataset.facts.real else dataset.facts.white
        return Examples(self.blobs.add(_bytes(images)), words, white=white)


def chosen(count: int) -> "Tensor":
    """Which of so many examples, ascending."""
    return torch.randperm(count, generator=torch.Generator().manual_seed(SEED))[:COUNT].sort().values


def _bytes(images: "Tensor") -> bytes:
    """Images: bytes as they are; real numbers from their smallest, 0, to their largest, 255. Vectors: float32."""
    if images.dim() == 2:
        return images.numpy().astype("<f4").tobytes()
    if not images.is_floating_point():
        return images.numpy().tobytes()
    low, high = float(images.min()), float(images.max())
    scaled = (images - low) / (high - low or 1) * 255
    return scaled.round().numpy().astype(np.uint8).tobytes()
