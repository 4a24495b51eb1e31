"""How bytes become a network's inputs: by the data set's mean and deviation, by their range, or to unit length."""

from functools import lru_cache
from typing import TYPE_CHECKING, Literal

from tombola.data.facts import Facts

if TYPE_CHECKING:
    from torch import Tensor

# standard: (x / white - mean) / std, per channel. range: x / white, in [0, 1]. unit: x / ||x||_2, image by image over
# all of its channels, as the code that the authors of The Lottery Ticket Hypothesis released has it.
Normalisation = Literal["standard", "unit", "range"]


def inputs(images: "Tensor", facts: Facts, how: Normalisation) -> "Tensor":
    """Images as float32 inputs, on the device where they are.

    Args:
        images: bytes, N x C x H x W.
        facts: of their data set.
        how: which normalisation. A black image has no direction: its inputs are 0 in `unit`.

    >>> import torch
    >>> known = Facts("toy", (1, 1, 2), 2, train=1, validation=0, test=0, mean=(0.5,), std=(0.25,), white=255)
    >>> image = torch.tensor([[[[0, 255]]]], dtype=torch.uint8)
    >>> [inputs(image, known, how).flatten().tolist() for how in ("standard", "range", "unit")]
    [[-2.0, 2.0], [0.0, 1.0], [0.0, 1.0]]
    """
    if how == "unit":
        # The sum of squares of bytes is exact, so that it does not depend on the order in which it is taken.
        squares = images.flatten(1).long().square().sum(dim=1).clamp(min=1)
        return images.float().mul_((1 / squares.double().sqrt()).float().view(-1, 1, 1, 1))
    scale, shift = affine(facts, how)
    if len(scale) == 1:
        return images.float().mul_(scale[0]).add_(shift[0])
    scales, shifts = _affine_on(facts, how, str(images.device))
    return images.float().mul_(scales).add_(shifts)


def of_pixels(pixels: "Tensor", facts: Facts, how: Normalisation) -> "Tensor":
    """`inputs` of images whose pixels are real numbers in [0, 1], 1 for white; gradients go through.

    Args:
        pixels: N x C x H x W.
        facts: of their data set.
        how: which normalisation.

    >>> import torch
    >>> known = Facts("toy", (1, 1, 2), 2, train=1, validation=0, test=0, mean=(0.5,), std=(0.25,), white=255)
    >>> of_pixels(torch.tensor([[[[0.0, 1.0]]]]), known, "standard").flatten().tolist()
    [-2.0, 2.0]
    """
    if how == "unit":
        lengths: Tensor = pixels.flatten(1).norm(dim=1)
        return pixels / lengths.clamp(min=1 / facts.white).view(-1, 1, 1, 1)
    scales, shifts = _affine_on(facts, how, str(pixels.device))
    return facts.white * pixels * scales + shifts


def affine(facts: Facts, how: Normalisation) -> tuple[list[float], list[float]]:
    """The factor and the summand of each channel with which a byte becomes an input, where that is all it takes.

    Of `unit` those of x, before the image's own length divides it.
    """
    if how == "standard":
        scale = [1 / (facts.white * std) for std in facts.std]
        return scale, [-mean / std for mean, std in zip(facts.mean, facts.std, strict=True)]
    channels = facts.shape[0]
    return [1 / facts.white if how == "range" else 1.0] * channels, [0.0] * channels


def pixel_scale(facts: Facts, how: Normalisation) -> "dict[str, Tensor]":
    """`scale` and `shift`, C x 1 x 1 each, by which a pixel x in [0, 1] becomes an input: scale x + shift.

    Raises:
        ValueError: `unit`, in which each image has a scale of its own.

    >>> known = Facts("toy", (1, 1, 2), 2, train=1, validation=0, test=0, mean=(0.5,), std=(0.25,), white=255)
    >>> {name: value.item() for name, value in pixel_scale(known, "standard").items()}
    {'scale': 4.0, 'shift': -2.0}
    """
    import torch

    if how == "unit":
        raise ValueError("expected a normalisation with one scale for all images: standard or range")
    scale, shift = (torch.tensor(numbers).view(-1, 1, 1) for numbers in affine(facts, how))
    return {"scale": facts.white * scale, "shift": shift}


@lru_cache(maxsize=8)
def _affine_on(facts: Facts, how: Normalisation, device: str) -> "tuple[Tensor, Tensor]":
    # Kept: sending them to an accelerator again at every step would make each step wait for it.
    import torch

    scale, shift = (torch.tensor(numbers, device=device).view(-1, 1, 1) for numbers in affine(facts, how))
    return scale, shift
