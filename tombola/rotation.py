"""A random rotation of a space."""

import numpy as np
from numpy.random import RandomState
from numpy.typing import NDArray


def rotation(size: int, draw: RandomState) -> NDArray[np.float64]:
    """A random orthogonal matrix, drawn from the Haar measure, [size, size].

    Q of the QR decomposition of a Gaussian matrix, its columns times the signs of the diagonal of R, without which Q
    would not be uniform: How to generate random matrices from the classical compact groups (Mezzadri, 2007).

    >>> turn = rotation(3, RandomState(0))
    >>> bool(np.allclose(turn @ turn.T, np.eye(3)))
    True
    """
    orthogonal, triangular = np.linalg.qr(draw.standard_normal((size, size)))
    turned: NDArray[np.float64] = orthogonal * np.sign(np.diag(triangular))
    return turned
