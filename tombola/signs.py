"""Signs and magnitudes of weights, one taken from a trained network and the other drawn anew; and signs that flip.

theta = sign(theta) |theta|: of what a trained network knows, how much is in its signs, and how much in its magnitudes?
"""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from tombola.mask import Mask
    from tombola.weights import Weights


def with_signs_of(drawn: "Weights", trained: "Weights", seed: int = 0) -> "Weights":
    """Return |drawn| sign(trained): magnitudes drawn anew with the signs of a trained network.

    So of all weights of layers, and of their biases; what belongs to a normalisation stays as it was drawn. What is 0
    in one of the two, a pruned weight or a bias that begins at 0, is 0.

    Find a Winning Sign (Oh, Baik & Lee, 2025); Sign-In to the Lottery (Gadhikar, Jacobs, Zhou & Burkholz, 2025).

    Args:
        drawn, trained: weights of one model, by name.
        seed: unused, as nothing is drawn here.

    >>> import torch
    >>> with_signs_of({"w": torch.tensor([[1.0, -2.0, 3.0]])}, {"w": torch.tensor([[-0.1, -0.1, 0.0]])})
    {'w': tensor([[-1., -2.,  0.]])}
    """
    return {**drawn, **{name: drawn[name].abs() * trained[name].sign() for name in _of_layers(drawn)}}


def with_magnitudes_of(drawn: "Weights", trained: "Weights", seed: int = 0) -> "Weights":
    """Return |trained| sign(drawn): the magnitudes of a trained network with signs drawn anew; else as `with_signs_of`.

    >>> import torch
    >>> with_magnitudes_of({"w": torch.tensor([[1.0, -2.0, 3.0]])}, {"w": torch.tensor([[-0.1, -0.1, 0.0]])})
    {'w': tensor([[ 0.1000, -0.1000,  0.0000]])}
    """
    return {**drawn, **{name: trained[name].abs() * drawn[name].sign() for name in _of_layers(drawn)}}


def trained_values(start: "Weights", trained: "Weights", seed: int = 0) -> "Weights":
    """Return `trained`, all of it, normalisations too, in place of `start`.

    >>> import torch
    >>> trained_values({"w": torch.zeros(1)}, {"w": torch.ones(1)})
    {'w': tensor([1.])}
    """
    return trained


def flipped_10(start: "Weights", mask: "Mask", seed: int) -> "Weights":
    """`flipped` of a tenth."""
    return flipped(start, mask, 0.1, seed)


def flipped_30(start: "Weights", mask: "Mask", seed: int) -> "Weights":
    """`flipped` of three tenths."""
    return flipped(start, mask, 0.3, seed)


def flipped(start: "Weights", mask: "Mask", fraction: float, seed: int) -> "Weights":
    """Return `start` with the signs of so many living weights of each layer flipped, which are drawn at random.

    Of n living weights, floor(fraction n + 1/2) are: one seed flips all that it flips at a smaller fraction too.

    Masks, Signs, and Learning Rate Rewinding (Gadhikar & Burkholz, 2024).

    Args:
        start: weights by name.
        mask: what is alive.
        fraction: of the living weights of each layer, in [0, 1].
        seed: 0 <= seed < 2^63.

    >>> import torch
    >>> from tombola import Mask
    >>> flipped({"w": torch.ones(3)}, Mask({"w": torch.tensor([True, False, True])}), 1.0, seed=0)
    {'w': tensor([-1.,  1., -1.])}
    """
    import torch

    from tombola.prune import count

    draw, made = torch.Generator().manual_seed(seed), dict(start)
    for name, alive in mask.items():
        places = alive.flatten().nonzero().flatten()
        chosen = places[torch.randperm(len(places), generator=draw)[: count(fraction, len(places))]]
        signs = torch.ones(alive.numel(), dtype=start[name].dtype)
        signs[chosen] = -1
        made[name] = start[name] * signs.view_as(alive)
    return made


def flips(mask: "Mask", weights: "Weights", reference: "Weights") -> dict[str, tuple[int, int]]:
    """Of each layer, how many living weights have another sign than in `reference`, and how many there are.

    A weight that is 0 in one and not in the other has another sign; one that is 0 in both has not.

    Args:
        mask: what is alive.
        weights, reference: weights of one model, by name.

    >>> import torch
    >>> from tombola import Mask
    >>> flips(Mask({"w": torch.tensor([True, True, False])}), {"w": torch.tensor([1.0, 2.0, 3.0])},
    ...       {"w": torch.tensor([1.0, -1.0, -1.0])})
    {'w': (1, 2)}
    """
    return {
        name: (int((weights[name].sign() != reference[name].sign())[alive].sum()), int(alive.sum()))
        for name, alive in mask.items()
    }


def _of_layers(weights: "Mapping[str, Tensor]") -> Iterator[str]:
    """The names of the weights of layers and of their biases: all but normalisations, whose weights are vectors."""
    for name, value in weights.items():
        weight = weights.get(f"{name.removesuffix('bias')}weight") if name.endswith("bias") else value
        if value.is_floating_point() and weight is not None and weight.dim() > 1:
            yield name
