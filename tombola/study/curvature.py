"""How curved the loss is where a training ended: the Hessian over the living coordinates, H = d²L / dtheta dtheta^T.

It is never written down. Of a vector it takes one backward pass through a gradient (Fast Exact Multiplication by the
Hessian, Pearlmutter, 1994). Its largest eigenvalue comes by Lanczos' iteration, its trace from random signs z,
E[z^T H z] = tr H (A Stochastic Estimator of the Trace of the Influence Matrix, Hutchinson, 1990).

A network of which less is alive has fewer directions in which it can be curved: eigenvalues and traces of networks of
different densities are of different spaces, and no measure of which of them is flatter.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import sqrt

import torch
from torch import Tensor

from tombola.study.living import Loss, gradient

Product = Callable[[Tensor], Tensor]


def hessian_product(loss: Loss, theta: Tensor) -> Product:
    """v -> H v at theta.

    >>> product = hessian_product(lambda theta: theta[0] ** 2 * theta[1], torch.tensor([1.0, 2.0]))
    >>> product(torch.tensor([1.0, 0.0]))
    tensor([4., 2.])
    """
    point = theta.detach().requires_grad_()
    _, slope = gradient(loss, point, again=True)

    def product(vector: Tensor) -> Tensor:
        if not slope.requires_grad:  # a loss that is linear, or that no coordinate reaches
            return torch.zeros_like(theta)
        (found,) = torch.autograd.grad(slope, point, vector.to(slope), retain_graph=True, allow_unused=True)
        return torch.zeros_like(theta) if found is None else found

    return product


def top_eigenvalue(product: Product, n: int, seed: int, tolerance: float = 1e-3, most: int = 100) -> float:
    """The largest eigenvalue of a symmetric n x n matrix, by Lanczos' iteration with full reorthogonalisation.

    Largest, not largest in size: a negative one is found only where all are negative.

    Args:
        product: v -> H v.
        n: how many coordinates there are, > 0.
        seed: of the vector that the iteration begins with.
        tolerance: the iteration ends when the Ritz value is within this share of itself of an eigenvalue.
        most: iterations.

    An Iteration Method for the Solution of the Eigenvalue Problem (Lanczos, 1950).

    >>> diagonal = torch.tensor([3.0, -5.0, 1.0])
    >>> round(top_eigenvalue(lambda vector: diagonal * vector, 3, seed=0), 4)
    3.0
    """
    vector = torch.randn(n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    basis = [vector / vector.norm()]
    diagonal: list[float] = []
    beside: list[float] = []
    while True:
        moved = product(basis[-1]).detach().cpu().double()
        diagonal.append(float(moved @ basis[-1]))
        known = torch.stack(basis)
        for _ in range(2):  # once is not enough in finite precision
            moved = moved - known.T @ (known @ moved)
        left = float(moved.norm())
        small = torch.diag(torch.tensor(diagonal, dtype=torch.float64))
        small += torch.diag(torch.tensor(beside, dtype=torch.float64), 1)
        values, vectors = torch.linalg.eigh(small, UPLO="U")
        top = float(values[-1])
        near = left * abs(float(vectors[-1, -1])) <= tolerance * abs(top)
        if near or len(basis) == min(n, most):
            return top
        beside.append(left)
        basis.append(moved / left)


@dataclass(frozen=True)
class Trace:
    """A trace as random signs estimate it, the standard error of that, and how many coordinates it is over."""

    trace: float
    error: float
    coordinates: int


def trace(product: Product, n: int, seed: int, draws: int = 32) -> Trace:
    """tr H as the mean of z^T H z over `draws` vectors z of random signs.

    Args:
        product: v -> H v.
        n: how many coordinates there are, > 0.
        seed: of the signs.
        draws: >= 2. Where H is diagonal one would do.

    >>> diagonal = torch.tensor([3.0, -5.0, 1.0])
    >>> trace(lambda vector: diagonal * vector, 3, seed=0)
    Trace(trace=-1.0, error=0.0, coordinates=3)
    """
    generator, found = torch.Generator().manual_seed(seed), []
    for _ in range(draws):
        signs = torch.randint(0, 2, (n,), generator=generator).double() * 2 - 1
        found.append(float(signs @ product(signs).detach().cpu().double()))
    values = torch.tensor(found, dtype=torch.float64)
    return Trace(float(values.mean()), float(values.std()) / sqrt(draws), n)
