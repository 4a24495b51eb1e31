"""Are two kernels alike? Features of two networks (CKA); features, or a network's tangent kernel, and the labels.

All of it is one number, the alignment of two centred n x n kernels of the same n examples,

    A(K, L) = <HKH, HLH>_F / (||HKH||_F ||HLH||_F),     H = I - 11^T / n,

of Algorithms for Learning Kernels Based on Centered Alignment (Cortes, Mohri & Rostamizadeh, 2012). With L = Y Y^T,
the rows of Y one-hot labels, it is how far a kernel is aligned with the labels. With K = X X^T and L = Z Z^T, of the
features X and Z of two layers, it is linear CKA, ||Z^T X||^2 / (||X^T X|| ||Z^T Z||) of centred features, of
Similarity of Neural Network Representations Revisited (Kornblith et al., 2019).

CKA of few examples in many dimensions is high whatever the features are: `unbiased` puts in place of each product
of kernels its unbiased estimate, as Do Wide and Deep Networks Learn the Same Things? (Nguyen et al., 2021) has it, by
Feature Selection via Dependence Maximization (Song et al., 2012). Then features that have nothing to do with each
other have 0 on average, and may be negative. Of labels the plain value has its level of chance beside it.

The tangent kernel of a network f with the weights theta that live is

    K(x, x') = sum_c <d f_c(x) / d theta, d f_c(x') / d theta>,

the trace over the outputs c of the kernel of Neural Tangent Kernel (Jacot, Gabriel & Hongler, 2018). Centred, it is
the one whose alignment Implicit Regularization via Neural Feature Alignment (Baratin et al., 2021) follows through a
training.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod, sqrt

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

ROOM = 1 << 26  # numbers of gradients, or of features, that are held at once: 256 MiB
AT_ONCE = 64  # examples whose gradients are computed together


def gram(features: Tensor) -> Tensor:
    """H X X^T H of features, n x ... of which each example's are one vector: the centred kernel, n x n, in float64.

    >>> gram(torch.tensor([[1.0, 2.0], [0.0, 1.0]]))
    tensor([[ 0.5000, -0.5000],
            [-0.5000,  0.5000]], dtype=torch.float64)
    """
    rows = features.flatten(1)
    rows = rows - rows.mean(0)  # before the product: float32 would lose digits where the mean is far from 0
    return (rows @ rows.T).double()


def alignment(left: Tensor, right: Tensor) -> float:
    """A(K, L) of two kernels, n x n, symmetric; in [0, 1] where both are positive semi-definite.

    0 where one of them is the same for all examples, and says nothing.

    >>> one = gram(torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]]))
    >>> round(alignment(one, 7 * one), 6)
    1.0
    """
    one, other = centred(left), centred(right)
    norms = float(one.norm() * other.norm())
    return float((one * other).sum()) / norms if norms > 0 else 0.0


def chance(left: Tensor, right: Tensor) -> float:
    """The mean of `alignment` over all orders of the examples of one of the two; n >= 2.

    tr(HKH) tr(HLH) / ((n - 1) ||HKH|| ||HLH||): it is the higher, the more dimensions a kernel has.
    """
    one, other = centred(left), centred(right)
    norms = float(one.norm() * other.norm())
    return float(one.trace() * other.trace()) / ((len(one) - 1) * norms) if norms > 0 else 0.0


def unbiased(left: Tensor, right: Tensor) -> float:
    """The same as `alignment` with unbiased estimates of the products: <K, L>, <K, K>, <L, L> of n >= 4 examples.

        n (n-3) <K, L> = tr(K'L') + 1'K'1 1'L'1 / ((n-1)(n-2)) - 2 / (n-2) 1'K'L'1,    K', L': with 0 on the diagonal.

    0 where an estimate of a square is not above 0: there is nothing to compare.
    """
    one, other = _hollow(left), _hollow(right)
    squares = _product(one, one), _product(other, other)
    return _product(one, other) / sqrt(squares[0] * squares[1]) if min(squares) > 0 else 0.0


def _hollow(kernel: Tensor) -> Tensor:
    hollow = kernel.double().clone()
    return hollow.fill_diagonal_(0)


def _product(one: Tensor, other: Tensor) -> float:
    n = len(one)
    sums = one.sum(1), other.sum(1)
    whole = float(sums[0].sum() * sums[1].sum()) / ((n - 1) * (n - 2))
    return (float((one * other).sum()) + whole - 2 / (n - 2) * float(sums[0] @ sums[1])) / (n * (n - 3))


def centred(kernel: Tensor) -> Tensor:
    """H K H in float64."""
    kernel = kernel.double()
    return kernel - kernel.mean(0) - kernel.mean(1)[:, None] + kernel.mean()


def linear_cka(left: Tensor, right: Tensor) -> float:
    """CKA of the features of two layers, n x ..., by way of d x d products where that is less work than n x n ones.

    >>> features = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    >>> turned = features @ torch.tensor([[0.0, -3.0], [3.0, 0.0]])
    >>> round(linear_cka(features, turned), 6)
    1.0
    """
    one, other = (features.flatten(1).double() for features in (left, right))
    if max(one.shape[1], other.shape[1]) >= len(one):
        return alignment(gram(one), gram(other))
    one, other = one - one.mean(0), other - other.mean(0)
    norms = float((one.T @ one).norm() * (other.T @ other).norm())
    return float((other.T @ one).square().sum()) / norms if norms > 0 else 0.0


def targets(labels: Tensor, classes: int) -> Tensor:
    """Y, one row for each example: one-hot where the labels are classes, n; as they are where they are numbers."""
    if labels.is_floating_point() or labels.ndim > 1:
        return labels.double().reshape(len(labels), -1)
    return nn.functional.one_hot(labels.long(), classes).double()


def handed(model: nn.Module, layer: str, inputs: Tensor) -> Tensor:
    """What a layer is handed for each of the inputs: the features that it reads. n x ..."""
    seen: list[Tensor] = []
    hook = model.get_submodule(layer).register_forward_pre_hook(lambda module, given: seen.append(given[0].detach()))
    parts = []
    try:
        with torch.no_grad():
            for part in inputs.split(AT_ONCE):
                model(part)
                parts.append(seen.pop())
                seen.clear()
    finally:
        hook.remove()
    return torch.cat(parts)


def answered(model: nn.Module, inputs: Tensor) -> Tensor:
    """What the network answers: its outputs, n x ..."""
    with torch.no_grad():
        return torch.cat([model(part) for part in inputs.split(AT_ONCE)])


def tangent_kernel(model: nn.Module, inputs: Tensor, living: Mapping[str, Tensor], room: int = ROOM) -> Tensor:
    """The tangent kernel of a network in evaluation mode on its living weights and all that is not prunable, n x n.

    Gradients are held of as many examples as there is room for, and computed again for each pair of such blocks.

    Args:
        living: of each prunable weight by name, which of its entries live.
        room: how many numbers of gradients are held at once.
    """
    parameters = {name: value.detach() for name, value in model.named_parameters()}
    chosen = {name: alive.flatten().nonzero().squeeze(1) for name, alive in living.items() if name in parameters}
    width = sum(len(chosen[name]) if name in chosen else value.numel() for name, value in parameters.items())
    blocks = inputs.split(max(1, min(len(inputs), room // max(width, 1))))
    with torch.no_grad():
        outputs = prod(model(inputs[:1]).shape[1:])
    kernel = torch.zeros(len(inputs), len(inputs), dtype=torch.float64)
    for output in range(outputs):
        for first, second, values in _products(model, parameters, chosen, output, blocks):
            kernel[first, second] += values
            if first != second:
                kernel[second, first] += values.T
    return kernel


def _products(
    model: nn.Module,
    parameters: Mapping[str, Tensor],
    chosen: Mapping[str, Tensor],
    output: int,
    blocks: Sequence[Tensor],
) -> Iterator[tuple[slice, slice, Tensor]]:
    """The kernel of one output, one block of it after another: where it stands, and what stands there."""
    starts = [sum(len(block) for block in blocks[:place]) for place in range(len(blocks))]
    places = [slice(start, start + len(block)) for start, block in zip(starts, blocks, strict=True)]
    for row, place in enumerate(places):
        left = _gradients(model, parameters, chosen, output, blocks[row])
        yield place, place, _product_of(left, left)
        for other in range(row):
            right = _gradients(model, parameters, chosen, output, blocks[other])
            yield place, places[other], _product_of(left, right)


def _product_of(left: Sequence[Tensor], right: Sequence[Tensor]) -> Tensor:
    products = [(one @ other.T).cpu().double() for one, other in zip(left, right, strict=True)]
    return torch.stack(products).sum(0)


def _gradients(
    model: nn.Module, parameters: Mapping[str, Tensor], chosen: Mapping[str, Tensor], output: int, inputs: Tensor
) -> list[Tensor]:
    """The gradients of one output by what lives of each parameter, one row for each input."""

    def answer(changed: dict[str, Tensor], example: Tensor) -> Tensor:
        answers: Tensor = functional_call(model, changed, (example[None],))
        return answers.flatten()[output]

    of_each = vmap(grad(answer), in_dims=(None, 0))
    rows: dict[str, list[Tensor]] = {name: [] for name in parameters}
    for part in inputs.split(AT_ONCE):
        for name, value in of_each(dict(parameters), part).items():
            places, flat = chosen.get(name), value.flatten(1)
            whole = places is None or len(places) == flat.shape[1]
            rows[name].append(flat if whole else flat.index_select(1, places))
    return [torch.cat(parts) for parts in rows.values()]


@dataclass(frozen=True)
class Aligned:
    """How far a kernel is aligned with the labels.

    Attributes:
        alignment: A(K, Y Y^T), in [0, 1].
        chance: the mean of that if labels were dealt to the examples at random.
    """

    alignment: float
    chance: float


def aligned(kernel: Tensor, labels: Tensor, classes: int) -> Aligned:
    """The alignment of a kernel with labels, and what chance would give.

    >>> labels = torch.tensor([0, 0, 1, 1])
    >>> aligned(gram(targets(labels, 2)), labels, 2)
    Aligned(alignment=1.0..., chance=0.333...)
    """
    wanted = gram(targets(labels, classes))
    return Aligned(alignment(kernel, wanted), chance(kernel, wanted))
