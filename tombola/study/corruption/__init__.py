"""Corrupted images: `apply(images, "fog", severity, seed)`, at the constants of MNIST-C and CIFAR-10-C.

Grey images are corrupted as in MNIST-C: A Robustness Benchmark for Computer Vision (Mu & Gilmer, 2019), coloured ones
as CIFAR-10-C: Benchmarking Neural Network Robustness to Common Corruptions and Perturbations (Hendrycks & Dietterich,
2019).
The implementation follows the formulas, for images of any size. What is drawn for an image is drawn from the
corruption's name, a seed and the image's place alone.

Left out are frost, which is made of the authors' photographs, and the spatter of coloured images, which at three
severities is made by OpenCV's edges and distances. The published images are other draws of the same; where they were
made by ImageMagick or OpenCV, whose arithmetic is of 8 bits in places, ours rounds once, at the end.

To add one: write a function like those of `noise` and declare it in `CORRUPTIONS`.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tombola.errors import BadInput
from tombola.study.corruption import blur, noise, place, strokes, tone, weather
from tombola.study.corruption.draws import Draws, Numbers

if TYPE_CHECKING:
    from torch import Tensor

AT_ONCE = 500  # images, for the sake of memory


@dataclass(frozen=True)
class Corruption:
    """A way to corrupt images.

    Attributes:
        name: as the benchmarks have it.
        about: what it is, in one sentence.
        make: images in [0, 1], [n, channels, side, side], a severity's constants, what draws -> images.
        grey: of images of one channel, the constants of each severity from 1 on; MNIST-C's.
        colour: of images of three, CIFAR-10-C's.
        mnist_c: the severity that it has in MNIST-C; None where it is not one of the fifteen there.
        cifar10_c: whether it is one of the fifteen of CIFAR-10-C, with all severities, and not one for validation.
    """

    name: str
    about: str
    make: Callable[[Numbers, Any, Draws], Numbers]
    grey: Sequence[Any] = ()
    colour: Sequence[Any] = ()
    mnist_c: int | None = None
    cifar10_c: bool = False

    def severities(self, channels: int) -> tuple[int, ...]:
        """Those that it has for images of so many channels."""
        constants = {1: self.grey, 3: self.colour}.get(channels, ())
        return tuple(range(1, len(constants) + 1))


def standard(channels: int) -> dict[str, tuple[int, ...]]:
    """The corruptions of the benchmark for images of so many channels, and their severities there.

    >>> standard(1)["fog"], standard(3)["fog"], len(standard(1)), len(standard(3))
    ((5,), (1, 2, 3, 4, 5), 15, 14)
    """
    if channels == 1:
        return {name: (each.mnist_c,) for name, each in CORRUPTIONS.items() if each.mnist_c}
    return {name: each.severities(channels) for name, each in CORRUPTIONS.items() if each.cifar10_c and channels == 3}


def apply(images: "Tensor", name: str, severity: int, seed: int, places: Iterable[int] | None = None) -> "Tensor":
    """Images, corrupted.

    Args:
        images: [N, C, H, W], C 1 or 3 and H = W; bytes in 0..255, or floats in [0, 1]: before any normalisation.
        name: one of `CORRUPTIONS`.
        severity: 0, which changes nothing, or one that the corruption has for such images.
        seed: 0 <= seed < 2^63.
        places: of the images, by which each is corrupted in its own way: the same way in whatever batch it comes;
            0, 1, ... if None.

    Returns:
        Of the same shape and dtype, on the same device; bytes are rounded.

    Raises:
        BadInput: there is no such corruption or severity, or these are no such images.

    >>> import torch
    >>> images = torch.full((2, 1, 28, 28), 0.5)
    >>> foggy = apply(images, "fog", 5, seed=0)
    >>> foggy.shape, bool((foggy != images).all()), torch.equal(apply(images, "fog", 0, seed=0), images)
    (torch.Size([2, 1, 28, 28]), True, True)
    """
    import torch

    if not isinstance(images, torch.Tensor):
        raise BadInput(
            where=name,
            expected="a tensor of images, [N, 1 or 3, side, side]",
            found=type(images).__name__,
            todo="torch.from_numpy makes one of an array.",
        )
    where = range(len(images)) if places is None else list(map(int, places))
    _check(images, name, severity, len(where))
    if severity == 0:
        return images.clone()
    corruption, most = CORRUPTIONS[name], 255.0 if images.dtype == torch.uint8 else 1.0
    constants = (corruption.grey if images.shape[1] == 1 else corruption.colour)[severity - 1]
    out = torch.empty(images.shape, dtype=images.dtype)
    for begin in range(0, len(images), AT_ONCE):
        part = slice(begin, begin + AT_ONCE)
        pixels = images[part].cpu().double().numpy() / most
        made = corruption.make(pixels, constants, Draws(name, seed, where[part])).clip(0, 1) * most
        out[part] = torch.from_numpy(made.round() if most == 255 else made)
    return out.to(images.device)


def _check(images: "Tensor", name: str, severity: int, places: int) -> None:
    import torch

    if name not in CORRUPTIONS:
        raise BadInput(
            where="corruption", expected=f"one of {', '.join(CORRUPTIONS)}", found=repr(name), todo="Name one of these."
        )
    if images.ndim != 4 or images.shape[1] not in (1, 3) or images.shape[2] != images.shape[3]:
        raise BadInput(
            where=name,
            expected="images, [N, 1 or 3, side, side]",
            found=str(list(images.shape)),
            todo="Images of two channels or of other sides are in no benchmark; crop or convert them before.",
        )
    known = CORRUPTIONS[name].severities(images.shape[1])
    if severity not in (0, *known):
        kind = "grey" if images.shape[1] == 1 else "coloured"
        raise BadInput(
            where=name,
            expected=f"a severity of {', '.join(map(str, known)) or 'none'} for {kind} images, or 0",
            found=str(severity),
            todo="Take another severity."
            if known
            else f"There is no {name} of {kind} images; take another corruption.",
        )
    if places != len(images):
        raise BadInput(where=name, expected=f"{len(images)} places", found=str(places), todo="Name one of each image.")
    if images.dtype != torch.uint8 and not (images.is_floating_point() and _in_the_box(images)):
        raise BadInput(
            where=name,
            expected="bytes, or floats in [0, 1]",
            found=f"{images.dtype} in [{images.min()}, {images.max()}]",
            todo="Corrupt images before they are normalised.",
        )


def _in_the_box(images: "Tensor") -> bool:
    return not len(images) or bool(images.min() >= 0 and images.max() <= 1)


_TENTHS, _TURNS = (0.1, 0.2, 0.3, 0.4, 0.5), (0.2, 0.4, 0.6, 0.8, 1.0)

CORRUPTIONS: dict[str, Corruption] = {
    each.name: each
    for each in (
        Corruption(
            "gaussian_noise",
            "Gaussian noise on each pixel",
            noise.gaussian_noise,
            grey=(0.08, 0.12, 0.18, 0.26, 0.38),
            colour=(0.04, 0.06, 0.08, 0.09, 0.10),
            cifar10_c=True,
        ),
        Corruption(
            "shot_noise",
            "A count of photons in place of each pixel",
            noise.shot_noise,
            grey=(60, 25, 12, 5, 3),
            colour=(500, 250, 100, 75, 50),
            mnist_c=5,
            cifar10_c=True,
        ),
        Corruption(
            "impulse_noise",
            "Pixels that are black or white by chance",
            noise.impulse_noise,
            grey=(0.03, 0.06, 0.09, 0.17, 0.27),
            colour=(0.01, 0.02, 0.03, 0.05, 0.07),
            mnist_c=4,
            cifar10_c=True,
        ),
        Corruption(
            "speckle_noise",
            "Noise in proportion to each pixel",
            noise.speckle_noise,
            grey=(0.15, 0.2, 0.35, 0.45, 0.6),
            colour=(0.06, 0.1, 0.12, 0.16, 0.2),
        ),
        Corruption(
            "defocus_blur",
            "Out of focus",
            blur.defocus_blur,
            grey=((3, 0.1), (4, 0.5), (6, 0.5), (8, 0.5), (10, 0.5)),
            colour=((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1, 0.2), (1.5, 0.1)),
            cifar10_c=True,
        ),
        Corruption(
            "glass_blur",
            "Through frosted glass",
            blur.glass_blur,
            grey=((0.7, 1, 2), (0.9, 2, 1), (1, 2, 3), (1.1, 3, 2), (1.5, 4, 2)),
            colour=((0.05, 1, 1), (0.25, 1, 1), (0.4, 1, 1), (0.25, 1, 2), (0.4, 1, 2)),
            mnist_c=1,
            cifar10_c=True,
        ),
        Corruption(
            "motion_blur",
            "The camera moves",
            blur.motion_blur,
            grey=((10, 3), (15, 5), (15, 8), (15, 12), (20, 15)),
            colour=((6, 1), (6, 1.5), (6, 2), (8, 2), (9, 2.5)),
            mnist_c=1,
            cifar10_c=True,
        ),
        Corruption(
            "zoom_blur",
            "The camera comes nearer",
            blur.zoom_blur,
            grey=((1.11, 0.01), (1.16, 0.01), (1.21, 0.02), (1.26, 0.02), (1.31, 0.03)),
            colour=((1.06, 0.01), (1.11, 0.01), (1.16, 0.01), (1.21, 0.01), (1.26, 0.01)),
            cifar10_c=True,
        ),
        Corruption(
            "gaussian_blur",
            "A Gaussian's blur",
            blur.gaussian_blur,
            grey=(1, 2, 3, 4, 6),
            colour=(0.4, 0.6, 0.7, 0.8, 1),
        ),
        Corruption("shear", "Sheared to one side", place.shear, grey=_TURNS, mnist_c=2),
        Corruption(
            "scale", "Smaller", place.scale, grey=tuple(1 / part for part in (0.9, 0.8, 0.7, 0.6, 0.5)), mnist_c=3
        ),
        Corruption("rotate", "Rotated", place.rotate, grey=_TURNS, mnist_c=2),
        Corruption("translate", "Moved aside", place.translate, grey=(1, 2, 3, 4, 5), mnist_c=3),
        Corruption(
            "elastic_transform",
            "As on a cloth that is pulled",
            place.elastic_transform,
            colour=((0, 0, 0.08), (0.05, 0.2, 0.07), (0.08, 0.06, 0.06), (0.1, 0.04, 0.05), (0.1, 0.03, 0.03)),
            cifar10_c=True,
        ),
        Corruption(
            "brightness",
            "Brighter",
            tone.brightness,
            grey=_TENTHS,
            colour=(0.05, 0.1, 0.15, 0.2, 0.3),
            mnist_c=5,
            cifar10_c=True,
        ),
        Corruption(
            "contrast",
            "Less contrast",
            tone.contrast,
            grey=(0.4, 0.3, 0.2, 0.1, 0.05),
            colour=(0.75, 0.5, 0.4, 0.3, 0.15),
            cifar10_c=True,
        ),
        Corruption(
            "saturate",
            "Other saturation",
            tone.saturate,
            colour=((0.3, 0), (0.1, 0), (1.5, 0), (2, 0.1), (2.5, 0.2)),
        ),
        Corruption("stripe", "Inverted but for a stripe in the middle", tone.stripe, grey=(None,), mnist_c=1),
        Corruption("inverse", "Inverted", tone.inverse, grey=(None,)),
        Corruption("quantize", "Fewer levels of grey", noise.quantize, grey=(5, 4, 3, 2, 1)),
        Corruption(
            "fog",
            "Fog",
            weather.fog,
            grey=((1.5, 2), (2.0, 2), (2.5, 1.7), (2.5, 1.5), (3.0, 1.4)),
            colour=((0.2, 3), (0.5, 3), (0.75, 2.5), (1, 2), (1.5, 1.75)),
            mnist_c=5,
            cifar10_c=True,
        ),
        Corruption(
            "snow",
            "Snow that falls",
            weather.snow,
            colour=(
                (0.1, 0.2, 1, 0.6, 8, 3, 0.95),
                (0.1, 0.2, 1, 0.5, 10, 4, 0.9),
                (0.15, 0.3, 1.75, 0.55, 10, 4, 0.9),
                (0.25, 0.3, 2.25, 0.6, 12, 6, 0.85),
                (0.3, 0.3, 1.25, 0.65, 14, 12, 0.8),
            ),
            cifar10_c=True,
        ),
        Corruption(
            "spatter",
            "Spattered with mud",
            weather.spatter,
            grey=(
                (0.65, 0.3, 4, 0.69, 0.6),
                (0.65, 0.3, 3, 0.68, 0.6),
                (0.65, 0.3, 2, 0.68, 0.5),
                (0.65, 0.3, 1, 0.65, 1.5),
                (0.67, 0.4, 1, 0.65, 1.5),
            ),
            mnist_c=4,
        ),
        Corruption(
            "pixelate",
            "Fewer pixels",
            blur.pixelate,
            grey=(0.6, 0.5, 0.4, 0.3, 0.25),
            colour=(0.95, 0.9, 0.85, 0.75, 0.65),
            cifar10_c=True,
        ),
        Corruption(
            "jpeg_compression",
            "A JPEG file of low quality; asks for pillow",
            blur.jpeg_compression,
            grey=(25, 18, 15, 10, 7),
            colour=(80, 65, 58, 50, 40),
            cifar10_c=True,
        ),
        Corruption("line", "A line over it", strokes.line, grey=(None,)),
        Corruption("dotted_line", "A dotted line over it", strokes.dotted_line, grey=(None,), mnist_c=1),
        Corruption("zigzag", "A zigzag over it", strokes.zigzag, grey=(None,), mnist_c=1),
        Corruption("canny_edges", "Its edges in its place", strokes.canny_edges, grey=(None,), mnist_c=1),
    )
}
