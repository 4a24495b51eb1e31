"""The order in which images are evaluated fastest: all of them, once, and like ones together."""

from pathlib import Path

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from tombola import data
from tombola.engine.native.image_order import GROUP, image_order


def pixels_of_groups(images: NDArray[np.uint8], order: NDArray[np.int64]) -> float:
    """The mean share of the pixels that some image of a group has."""
    flat = images.reshape(len(images), -1)[order] > 0
    return float(np.mean([flat[begin : begin + GROUP].any(axis=0).mean() for begin in range(0, len(flat), GROUP)]))


@given(
    count=st.integers(0, 200),
    pixels=st.integers(1, 70),
    density=st.sampled_from([0.0, 0.02, 0.3, 1.0]),
    seed=st.integers(0, 2**16),
)
def test_every_image_is_there_once(count: int, pixels: int, density: float, seed: int) -> None:
    draw = np.random.default_rng(seed)
    images = (draw.random((count, pixels)) < density).astype(np.uint8) * 7
    order = image_order(images)
    assert sorted(order.tolist()) == list(range(count))
    assert order.tolist() == image_order(images).tolist()


def test_kinds_of_images_come_one_after_the_other() -> None:
    kinds = np.eye(5, dtype=np.uint8).repeat(8, axis=1)
    mixed = kinds[np.arange(5 * GROUP) % 5]
    assert {len(set(kind.tolist())) for kind in (image_order(mixed) % 5).reshape(5, GROUP)} == {1}


def test_digits_of_people_share_their_empty_pixels(mnist_dir: Path) -> None:
    images = data.load("mnist", mnist_dir).test_images.numpy()[:3000]
    assert pixels_of_groups(images, image_order(images)) < 0.8 * pixels_of_groups(images, np.arange(3000))
