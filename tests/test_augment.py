"""Augmentation of whole batches against a loop over images, and its dependence on seed and step alone."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from tombola.data.augment import BORDER, flip_crop, flip_crop_draws, generator


def numbered(number: int, channels: int, height: int, width: int) -> Tensor:
    return torch.randint(1, 256, (number, channels, height, width), dtype=torch.uint8, generator=generator("images"))


def changed_by(images: Tensor, augment_seed: int, step: int) -> Tensor:
    """The whole batch of a step, changed."""
    return flip_crop(images, flip_crop_draws(augment_seed, step, len(images)))


def all_outcomes(image: Tensor) -> dict[bytes, tuple[int, int, bool]]:
    """Every image that may come of one, pixel by pixel, with where it was cropped and whether it is mirrored."""
    _, height, width = image.shape
    outcomes = {}
    for top in range(2 * BORDER + 1):
        for left in range(2 * BORDER + 1):
            for mirrored in (False, True):
                changed = torch.zeros_like(image)
                for row in range(height):
                    for column in range(width):
                        y, x = row + top - BORDER, column + left - BORDER
                        if 0 <= y < height and 0 <= x < width:
                            changed[:, row, width - 1 - column if mirrored else column] = image[:, y, x]
                outcomes[changed.numpy().tobytes()] = (top, left, mirrored)
    return outcomes


def test_each_image_becomes_one_of_its_outcomes_and_all_of_them_come_up() -> None:
    """Of 162, by a loop over pixels; each about equally often."""
    image = numbered(1, 2, 5, 6)[0]
    outcomes = all_outcomes(image)
    assert len(outcomes) == 162
    whole = changed_by(image.expand(162 * 40, -1, -1, -1), augment_seed=0, step=0)
    seen = [outcomes[changed.numpy().tobytes()] for changed in whole]
    counts = [seen.count(outcome) for outcome in outcomes.values()]
    assert min(counts) > 15 and max(counts) < 70  # 40 each, and four deviations
    assert sum(mirrored for *_, mirrored in seen) == pytest.approx(162 * 20, rel=0.05)


@given(
    st.integers(1, 5), st.integers(1, 3), st.integers(1, 9), st.integers(1, 9), st.integers(0, 99), st.integers(0, 99)
)
def test_a_batch_is_what_a_loop_over_its_images_makes_of_it(
    number: int, channels: int, height: int, width: int, seed: int, step: int
) -> None:
    images = numbered(number, channels, height, width)
    draws = generator("augment", seed, step)
    tops, lefts, mirrored = (torch.randint(most, (number,), generator=draws).tolist() for most in (9, 9, 2))
    wanted = torch.zeros_like(images)
    for place in range(number):
        bordered = torch.zeros(channels, height + 8, width + 8, dtype=torch.uint8)
        bordered[:, 4 : height + 4, 4 : width + 4] = images[place]
        crop = bordered[:, tops[place] : tops[place] + height, lefts[place] : lefts[place] + width]
        wanted[place] = crop.flip(2) if mirrored[place] else crop
    before = images.clone()
    assert torch.equal(changed_by(images, seed, step), wanted) and torch.equal(images, before)


def test_the_draws_depend_on_seed_and_step_and_on_nothing_else() -> None:  # K9 K10
    images = numbered(50, 3, 8, 8)
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = changed_by(images, 0, 7)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    assert torch.equal(changed_by(images, 0, 7), first)
    others = [changed_by(images, *key) for key in ((7, 0), (0, 8), (1, 7), (1, 6))]
    assert not any(torch.equal(other, first) for other in others)


@given(st.integers(1, 20), st.integers(0, 20), st.integers(0, 20))
def test_a_share_is_changed_as_it_is_within_the_whole(number: int, one: int, other: int) -> None:
    begin, end = sorted((min(one, number), min(other, number)))
    images = numbered(number, 2, 4, 4)
    share = flip_crop(images[begin:end], flip_crop_draws(3, 4, number)[:, begin:end])
    assert torch.equal(share, changed_by(images, 3, 4)[begin:end])


def test_images_that_are_not_contiguous_will_do() -> None:
    images = numbered(6, 3, 8, 8)
    assert torch.equal(changed_by(images.permute(0, 1, 3, 2), 0, 0), changed_by(images.mT.contiguous(), 0, 0))
    last = images.to(memory_format=torch.channels_last)
    assert torch.equal(changed_by(last, 0, 0), changed_by(images, 0, 0))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU, and this machine has none")
def test_every_device_makes_the_same_bytes() -> None:
    images = numbered(128, 3, 32, 32)
    assert torch.equal(changed_by(images.cuda(), 5, 6).cpu(), changed_by(images, 5, 6))
