"""Flags in few bytes: whatever goes in comes out, in no more bytes than bits take."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from tombola import mask_codec

SHAPES = st.lists(st.integers(0, 40), max_size=4).map(tuple)


@st.composite
def flags(draw: st.DrawFn) -> Tensor:
    """Flags of any shape, no dimension at all and empty ones too, from none set to all."""
    shape = draw(SHAPES)
    density = draw(st.sampled_from([0.0, 0.001, 0.003, 0.02, 0.1, 0.125, 0.2, 0.9, 1.0]))
    drawn = np.random.default_rng(draw(st.integers(0, 2**32 - 1))).random(shape)
    return torch.from_numpy(np.asarray(drawn < density))


@given(flags())
def test_what_goes_in_comes_out_in_no_more_bytes_than_bits_take(alive: Tensor) -> None:  # C14
    code = mask_codec.encode(alive)
    back = mask_codec.decode(code, alive.shape)
    assert back.dtype == torch.bool and back.shape == alive.shape and torch.equal(back, alive)
    assert code.dtype == torch.uint8 and code.ndim == 1
    assert len(code) <= -(-alive.numel() // 8)


@given(st.lists(st.integers(0, 1200), max_size=8), st.integers(0, 5))
def test_gaps_of_any_length_come_back(gaps: list[int], after: int) -> None:
    places = np.cumsum([gap + 1 for gap in gaps]) - 1 if gaps else np.array([], dtype=int)
    alive = torch.zeros(int(places[-1]) + 1 + after if gaps else after, dtype=torch.bool)
    alive[torch.from_numpy(places)] = True
    assert torch.equal(mask_codec.decode(mask_codec.encode(alive), alive.shape), alive)


@pytest.mark.parametrize("gap", [0, 1, 254, 255, 256, 509, 510, 511])
def test_a_gap_is_as_the_format_says(gap: int) -> None:
    alive = torch.zeros(10_000, dtype=torch.bool)
    alive[gap] = True
    assert mask_codec.encode(alive).tolist() == [255] * (gap // 255) + [gap % 255]


def test_bits_are_as_the_format_says() -> None:
    alive = torch.tensor([[1, 0, 0, 0, 0], [0, 0, 1, 1, 1]], dtype=torch.bool)
    assert mask_codec.encode(alive).tolist() == [0b10000001, 0b11000000]


def test_a_mask_of_a_twentieth_takes_two_fifths_of_its_bits() -> None:
    alive = torch.rand(300, 784, generator=torch.Generator().manual_seed(0)) < 0.05
    assert len(mask_codec.encode(alive)) < 0.41 * 300 * 784 / 8


@pytest.mark.parametrize(("code", "shape"), [([0, 0, 0], (16,)), ([250, 250], (480,)), ([0], (0,)), ([0, 0], ())])
def test_what_is_no_code_for_so_many_flags_is_refused(code: list[int], shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="expected"):
        mask_codec.decode(torch.tensor(code, dtype=torch.uint8), shape)


def test_gaps_as_long_as_bits_are_not_taken_for_bits() -> None:
    alive = torch.zeros(296, dtype=torch.bool)
    alive[:35] = alive[295] = True  # 36 gaps, the last of two bytes: 37, as many as the bits take
    assert len(mask_codec.encode(alive)) == 37 and torch.equal(
        mask_codec.decode(mask_codec.encode(alive), (296,)), alive
    )
