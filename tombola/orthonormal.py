"""Orthonormal bases of the space that a weight lies in: coordinates c = B theta, and back theta = B^T c.

No B is ever written out: of a 300 x 784 matrix it would have 55 billion entries. Each basis here turns the axes of the
weight one by one, by an orthogonal matrix for each, B = A_1 x A_2 x ... (Kronecker's product), or leaves an axis alone.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import pi, prod, sqrt

import torch
from numpy.random import RandomState
from torch import Tensor

from tombola.rotation import rotation

MOST = 1024  # numbers that one random rotation mixes

Turn = tuple[Tensor, ...]  # the square blocks of a block-diagonal orthogonal matrix; () for the identity


@dataclass(frozen=True, eq=False)
class Basis:
    """An orthonormal basis of the weights of one layer.

    Attributes:
        view: the axes that are turned: the shape that the weight is read in, of as many numbers.
        turns: for each of these axes the matrix A whose rows are the new axes.

    >>> basis = Basis((2,), ((torch.tensor([[0.6, 0.8], [-0.8, 0.6]], dtype=torch.float64),),))
    >>> c = basis.coordinates(torch.tensor([0.6, 0.8]))
    >>> [round(float(value), 6) + 0.0 for value in c]
    [1.0, 0.0]
    >>> torch.allclose(basis.weight(c), torch.tensor([0.6, 0.8]))
    True
    """

    view: tuple[int, ...]
    turns: tuple[Turn, ...]

    def coordinates(self, weight: Tensor) -> Tensor:
        """c = B theta, in the shape of the weight."""
        return self._turned(weight, lambda block: block.mT)

    def weight(self, coordinates: Tensor) -> Tensor:
        """theta = B^T c, in the shape of the coordinates."""
        return self._turned(coordinates, lambda block: block)

    def reached(self, kept: Tensor) -> Tensor:
        """The weights that some of the coordinates `kept` have a part in, a mask of the same shape.

        >>> dct((2, 2)).reached(torch.tensor([[True, False], [False, False]])).all()
        tensor(True)
        """
        sizes = tuple(tuple(block.abs().cpu() for block in turn) for turn in self.turns)
        return Basis(self.view, sizes).weight(kept.double().cpu()) > 0

    def to(self, device: torch.device, dtype: torch.dtype) -> "Basis":
        """The same with its matrices there and of that type."""
        return Basis(self.view, tuple(tuple(block.to(device, dtype) for block in turn) for turn in self.turns))

    def _turned(self, values: Tensor, way: Callable[[Tensor], Tensor]) -> Tensor:
        turned = values.reshape(self.view)
        for axis, turn in enumerate(self.turns):
            if turn:
                parts = turned.movedim(axis, -1).split([len(block) for block in turn], dim=-1)
                mixed = [part @ way(block.to(part)) for part, block in zip(parts, turn, strict=True)]
                turned = (mixed[0] if len(mixed) == 1 else torch.cat(mixed, dim=-1)).movedim(-1, axis)
        return turned.reshape(values.shape)


def cosines(size: int) -> Tensor:
    """The orthonormal DCT-II: D_ki = s_k cos(pi k (i + 1/2) / n) with s_0 = (1/n)^1/2 and all other s_k = (2/n)^1/2.

    Args:
        size: n, of numbers.

    >>> cosines(2)
    tensor([[ 0.7071,  0.7071],
            [ 0.7071, -0.7071]], dtype=torch.float64)
    """
    places = torch.arange(size, dtype=torch.float64)
    matrix = torch.cos(pi / size * places[:, None] * (places + 0.5)) * sqrt(2 / size)
    matrix[0] /= sqrt(2)
    return matrix


def dct(shape: Sequence[int]) -> Basis:
    """The 2-D DCT of a matrix; of convolutions that of each filter's window.

    >>> filter = torch.ones(1, 1, 3, 3)
    >>> int((dct(filter.shape).coordinates(filter).abs() > 1e-6).sum())
    1
    """
    *whole, height, width = shape
    return Basis(tuple(shape), (*((),) * len(whole), (cosines(height),), (cosines(width),)))


def dct_of_pixels(shape: Sequence[int], pixels: Sequence[int]) -> Basis:
    """The 2-D DCT of each unit's weights, laid out as the image that they are multiplied with.

    Args:
        shape: of the weight, (units, channels x height x width).
        pixels: (channels, height, width) of an image.
    """
    channels, height, width = pixels
    return Basis((shape[0], channels, height, width), ((), (), (cosines(height),), (cosines(width),)))


def orthogonal(shape: Sequence[int], draw: RandomState) -> Basis:
    """Random axes for what comes into a unit or a filter: a Haar rotation, or one for every `MOST` inputs in a row."""
    inputs = prod(shape[1:])
    sizes = [min(MOST, inputs - begin) for begin in range(0, inputs, MOST)]
    return Basis((shape[0], inputs), ((), tuple(torch.from_numpy(rotation(size, draw)) for size in sizes)))


def singular(weight: Tensor) -> Basis:
    """The outer products u_i v_j^T of the singular vectors of `weight`, W = sum_k s_k u_k v_k^T: c = U^T W V.

    `weight` itself has the coordinates s on the diagonal and 0 elsewhere; who keeps the first k of these has the
    nearest matrix of rank k. A convolution is read as the matrix (filters, what comes into each). Vectors have the sign
    with which their largest entry in u is positive, and what a longer side has more of them follows from the others by
    Householder's reflections: so that the next machine finds the same basis but for rounding.
    """
    matrix = weight.detach().double().cpu().flatten(1)
    left, _, right = torch.linalg.svd(matrix, full_matrices=False)
    largest = left.gather(0, left.abs().argmax(0, keepdim=True))
    turns = (
        (_completed(left * largest.sign()).T.contiguous(),),
        (_completed(right.T * largest.sign()).T.contiguous(),),
    )
    return Basis(tuple(matrix.shape), turns)


def _completed(columns: Tensor) -> Tensor:
    """A square orthogonal matrix whose first columns are these."""
    if columns.shape[0] == columns.shape[1]:
        return columns
    whole, _ = torch.linalg.qr(columns, mode="complete")
    return torch.cat([columns, whole[:, columns.shape[1] :]], dim=1)


def drawing(name: str) -> RandomState:
    """What draws the basis of this name: seeded by its SHA-256, in a generator whose numbers NumPy keeps for good."""
    return RandomState(list(hashlib.sha256(name.encode()).digest()))
