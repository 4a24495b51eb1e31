"""Variants of a model under names of their own: `lenet-300-100+dct` is the network whose parameters are coordinates.

A variant has the parameters of the plain model, under the same names and in the same shapes, and they stand for other
numbers than weights: its forward pass makes the weights of them first. Masks, counts, pruning, rewinding and the store
are about parameters, and go on as they are.

To add one: write a module below `tombola.reparametrised.Reparametrised`, and declare it in `VARIANTS`.
"""

import difflib
import re
from functools import lru_cache
from math import isqrt, prod
from typing import TYPE_CHECKING

from tombola.models.variant import Named, Plain, Variant

if TYPE_CHECKING:
    from torch import nn

    from tombola.orthonormal import Basis

MARK = "+"
SEED_MARK = "~"
MOST_NUMBER = 9999  # that a name may have
MOST_SIDE = 4096  # of a matrix whose singular vectors are looked for
_SEED = re.compile("0|[1-9][0-9]{0,18}")


def _dct(model: "nn.Module", plain: Plain, named: Named) -> "nn.Module":
    from tombola import orthonormal
    from tombola.models.in_basis import InBasis

    return InBasis(model, {name: orthonormal.dct(shape) for name, shape in plain.shapes.items()}, named.name)


def _dct_pixels(model: "nn.Module", plain: Plain, named: Named) -> "nn.Module":
    from tombola import orthonormal
    from tombola.models.in_basis import InBasis

    first, shape = next(iter(plain.shapes.items()))
    return InBasis(model, {first: orthonormal.dct_of_pixels(shape, _image(plain.shape))}, named.name)


def _orthogonal(model: "nn.Module", plain: Plain, named: Named) -> "nn.Module":
    from tombola.models.in_basis import InBasis

    return InBasis(model, _drawn_axes(named.name, tuple(plain.shapes.items())), named.name)


@lru_cache(maxsize=2)  # a network is built for each run, and its axes take seconds to draw, and a hundred megabytes
def _drawn_axes(name: str, shapes: tuple[tuple[str, tuple[int, ...]], ...]) -> "dict[str, Basis]":
    """The random bases of the variant of this name for weights of these names and shapes."""
    from tombola import orthonormal

    return {weight: orthonormal.orthogonal(shape, orthonormal.drawing(f"{name} {weight}")) for weight, shape in shapes}


def _svd(model: "nn.Module", plain: Plain, named: Named) -> "nn.Module":
    from tombola import orthonormal
    from tombola.models.in_basis import InBasis

    first = plain.drawn(named.init, named.seed)
    return InBasis(model, {name: orthonormal.singular(first.get_parameter(name)) for name in plain.shapes}, named.name)


def _too_large(plain: Plain) -> str:
    sides = {name: max(shape[0], prod(shape[1:])) for name, shape in plain.shapes.items()}
    largest = max(sides, key=sides.__getitem__)
    if sides[largest] <= MOST_SIDE:
        return ""
    return f"matrices of at most {MOST_SIDE:,} a side; {largest} of {plain.name} has {sides[largest]:,}"


def _image(shape: tuple[int, ...]) -> tuple[int, ...]:
    """C x H x W of an image; of a flat one, as changed inputs are, that of the square it may have been; else ()."""
    if len(shape) == 3:
        return shape
    sides = {channels: isqrt(shape[0] // channels) for channels in (1, 3)} if len(shape) == 1 else {}
    return next(((channels, side, side) for channels, side in sides.items() if channels * side**2 == shape[0]), ())


def _no_pixels(plain: Plain) -> str:
    first = next(iter(plain.shapes.values()))
    if not _image(plain.shape) or len(first) != 2 or first[1] != prod(plain.shape):
        return f"a model whose first layer reads all pixels of an image, like lenet-300-100; {plain.name} does not"
    return ""


def _gaussian(model: "nn.Module", plain: Plain, named: Named) -> "nn.Module":
    from tombola.bayes import Gaussian

    return Gaussian(model, named.number or named.variant.usual)


VARIANTS: dict[str, Variant] = {
    each.name: each
    for each in (
        Variant("dct", "Coordinates in the 2-D DCT of each matrix and of each filter", _dct, dense=True),
        Variant(
            "dct-pixels",
            "Coordinates in the 2-D DCT of first units, laid out as the image; others as they are",
            _dct_pixels,
            dense=True,
            first=True,
            refuses=_no_pixels,
        ),
        Variant(
            "orthogonal",
            "Coordinates in random axes for what comes into the units of a layer",
            _orthogonal,
            seed=True,
            dense=True,
        ),
        Variant(
            "svd",
            "Coordinates in the products u_i v_j of the singular vectors of each matrix of theta_0",
            _svd,
            seed=True,
            of_init=True,
            dense=True,
            refuses=_too_large,
        ),
        Variant(
            "gaussian",
            "The means of Gaussian weights, with their deviations beside them; an answer is that of so many draws",
            _gaussian,
            number="SAMPLES",
            usual=10,
            gaussian=True,
        ),
    )
}
FORM = f"MODEL{MARK}VARIANT, a variant being {', '.join(each.form for each in VARIANTS.values())}"


def parts(name: str) -> tuple[str, str]:
    """The name of what is varied, and that of the variant; "" where there is none.

    >>> parts("lenet-300-100+dct"), parts("lenet-300-100")
    (('lenet-300-100', 'dct'), ('lenet-300-100', ''))
    """
    whole, _, variant = ("", "", "") if name.startswith("hf:") else name.partition(MARK)
    return whole or name, variant


def variant(name: str) -> Named | None:
    """The variant that the model of this name is; None for a plain one.

    Raises:
        ValueError: there is no such variant; says which there are.

    >>> variant("lenet-300-100+dct").name, variant("lenet-300-100+gaussian-3").number, variant("lenet-300-100")
    ('dct', 3, None)
    """
    whole, suffix = parts(name)
    if not suffix and whole == name:
        return None
    stem, mark, seed = suffix.partition(SEED_MARK)
    for each in VARIANTS.values():
        number = _number(each, stem)
        init = stem.removeprefix(f"{each.name}-") if each.of_init and stem.startswith(f"{each.name}-") else ""
        fits = bool(init) if each.of_init else stem == each.name or number is not None
        if fits and bool(mark) == each.seed and (not mark or _SEED.fullmatch(seed)):
            return Named(each, int(seed or 0), init, number)
    if MARK in suffix:
        raise ValueError(f"one variant of {whole}, {whole}{MARK}{suffix.partition(MARK)[0]} for one")
    for each in VARIANTS.values():
        if each.number and re.fullmatch(f"{each.name}-[0-9]+", stem) and not mark:
            raise ValueError(f"{whole}{MARK}{each.form}, {each.number} being 1 to {MOST_NUMBER:,}")
    raise ValueError(FORM.replace("MODEL", whole))


def meant(name: str) -> str:
    """The name with the variant that somebody who wrote it may have meant; "" where it has one, or nothing is close.

    >>> meant("lenet-300-100+gausian-2"), meant("lenet-300-100+DTC"), meant("lenet-300-100+dct")
    ('lenet-300-100+gaussian-2', 'lenet-300-100+dct', '')
    """
    whole, suffix = parts(name)
    stem, rest = re.fullmatch("([^0-9~]*?)((?:-?[0-9~].*)?)", suffix, re.DOTALL).groups()  # type: ignore[union-attr]
    close = difflib.get_close_matches(stem.lower(), VARIANTS, n=1)
    found = f"{whole}{MARK}{close[0]}{rest}" if close else ""
    try:
        return found if found not in ("", name) and variant(found) else ""
    except ValueError:
        return ""


def written(name: str) -> str:
    """The name with the number that is meant where it has none: one network has one name. No variant's is left alone.

    >>> written("lenet-300-100+gaussian"), written("lenet-300-100+gaussian-3"), written("lenet-300-100+none")
    ('lenet-300-100+gaussian-10', 'lenet-300-100+gaussian-3', 'lenet-300-100+none')
    """
    whole, suffix = parts(name)
    each = VARIANTS.get(suffix)
    return f"{whole}{MARK}{suffix}-{each.usual}" if each and each.number else name


def _number(each: Variant, stem: str) -> int | None:
    found = re.fullmatch(f"{each.name}-([1-9][0-9]{{0,3}})", stem) if each.number else None
    return int(found[1]) if found else None


def check(named: Named, plain: Plain) -> None:
    """Raise ValueError, with what was expected, unless the variant is one of such a model."""
    if plain.name.startswith("hf:"):
        raise ValueError("a model of Tombola's own, where its weights are made of other parameters")
    if why := named.variant.refuses(plain):
        raise ValueError(why)
