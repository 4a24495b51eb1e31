"""Training images changed at random, a whole batch at once: what a step sees is a function of seed and step alone."""

import hashlib
from math import exp, log, sqrt
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from torch import Generator, Tensor

Augmentation = Literal["flip-crop", "resized-crop"]

BORDER = 4  # black pixels around an image from which a crop is taken
SCALE, RATIO = (0.08, 1.0), (3 / 4, 4 / 3)  # of a resized crop: its area in the image's, its width by its height
TRIES = 10


def generator(*key: object) -> "Generator":
    """A generator on the CPU whose draws depend on `key` alone, and on all of it."""
    import torch

    digest = hashlib.sha256("/".join(map(str, key)).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)


def flip_crop_draws(augment_seed: int, step: int, total: int) -> "Tensor":
    """What `flip_crop` does with each of the `total` images of a step's batch: 3 x total, on the CPU.

    Top and left of the crop in the bordered image, 0 to 8 pixels; 1 where it is mirrored.

    Args:
        augment_seed, step: decide the draws, and nothing else does.
        total: images of the whole batch, of all processes together.
    """
    import torch

    draws, span = generator("augment", augment_seed, step), 2 * BORDER + 1
    return torch.stack([torch.randint(most, (total,), generator=draws) for most in (span, span, 2)])


def flip_crop(images: "Tensor", draws: "Tensor") -> "Tensor":
    """Each image mirrored with probability 1/2, then cropped to its own size out of itself with a black border.

    The border is 4 pixels wide, every place of the crop equally likely: the augmentation of Deep Residual Learning for
    Image Recognition (He, Zhang, Ren & Sun, 2016), section 4.2, after Deeply-Supervised Nets (Lee et al., 2015).

    Args:
        images: N x C x H x W, bytes, on any device. They stay as they are.
        draws: 3 x N, of these images, from `flip_crop_draws`, which are made on the CPU: every device gives the same
            bytes.

    >>> import torch
    >>> batch = torch.arange(18, dtype=torch.uint8).view(2, 1, 3, 3)
    >>> draws = flip_crop_draws(augment_seed=0, step=7, total=2)
    >>> bool((flip_crop(batch[1:], draws[:, 1:]) == flip_crop(batch, draws)[1:]).all())
    True
    """
    import torch
    from torch.nn.functional import pad

    number, channels, height, width = images.shape
    device = images.device
    ours = draws.to(device, non_blocking=True)
    rows = ours[0, :, None] + torch.arange(height, device=device)
    # Mirroring and then cropping at x is cropping at the mirrored place and then mirroring: as likely, and one gather.
    across = torch.arange(width, device=device)
    columns = ours[1, :, None] + torch.where(ours[2, :, None] > 0, width - 1 - across, across)
    places = (rows * (width + 2 * BORDER))[:, :, None] + columns[:, None, :]
    bordered = pad(images, (BORDER,) * 4).flatten(2)
    chosen = bordered.gather(2, places.flatten(1)[:, None].expand(-1, channels, -1))
    return chosen.view(number, channels, height, width)


def uniforms(*key: object) -> tuple[float, float, float, float]:
    """Four numbers, uniform in [0, 1), that depend on `key` alone: a generator for each image would take far longer.

    >>> uniforms("mirror", 0, 7) == uniforms("mirror", 0, 7) != uniforms("mirror", 0, 8)
    True
    """
    digest = hashlib.sha256("/".join(map(str, key)).encode()).digest()
    first, second, third, fourth = (
        (int.from_bytes(digest[begin : begin + 8], "big") >> 11) * 2.0**-53 for begin in range(0, 32, 8)
    )
    return first, second, third, fourth


def resized_crop(width: int, height: int, augment_seed: int, step: int, place: int) -> tuple[int, int, int, int]:
    """Which part of an image is to be brought to a network's size: left, top, width, height in pixels.

    Area uniform in [0.08, 1] of the image's, log(width / height) uniform in [log 3/4, log 4/3], the place uniform among
    those where it fits. Where ten draws do not fit: the middle, as much as the ratios allow. Going Deeper with
    Convolutions (Szegedy et al., 2015), section 6, in the form that torchvision gave it.

    Args:
        width, height: of the image, in pixels.
        augment_seed, step, place: of the training, and of the image in the pool; they decide the draws.

    >>> resized_crop(4000, 20, augment_seed=0, step=0, place=0)
    (1986, 0, 27, 20)
    """
    for number in range(TRIES):
        area, slant, across, down = uniforms("resized-crop", augment_seed, step, place, number)
        pixels = width * height * (SCALE[0] + area * (SCALE[1] - SCALE[0]))
        ratio = exp(log(RATIO[0]) + slant * (log(RATIO[1]) - log(RATIO[0])))
        wide, high = round(sqrt(pixels * ratio)), round(sqrt(pixels / ratio))
        if 0 < wide <= width and 0 < high <= height:
            return int(across * (width - wide + 1)), int(down * (height - high + 1)), wide, high
    wide = min(width, max(1, round(height * RATIO[1])))
    high = min(height, max(1, round(width / RATIO[0])))
    return (width - wide) // 2, (height - high) // 2, wide, high
