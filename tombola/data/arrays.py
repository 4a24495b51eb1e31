"""What a data set is read as: examples and labels of the training pool, then of the test set."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

ImageArrays = tuple[NDArray[np.uint8], NDArray[np.int64], NDArray[np.uint8], NDArray[np.int64]]
TokenArrays = tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]
Arrays = tuple[NDArray[Any], NDArray[Any], NDArray[Any], NDArray[Any]]  # of either, or of real numbers


def by_place(images: NDArray[Any]) -> NDArray[Any]:
    """N x C x HW; of examples that are no images, N x 1 x F."""
    channels = images.shape[1] if images.ndim == 4 else 1
    return images.reshape(len(images), channels, -1)
