"""Laws of masks: what one does to them can be undone, and controls keep what they promise to keep."""

from collections.abc import Callable

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor

from tombola import mask, mask_codec, weights
from tombola.mask import Mask
from tombola.study.overlap import overlaps

CONTROLS: dict[str, Callable[[Mask, int], Mask]] = {"shuffle": mask.shuffle, "random_like": mask.random_like}
seeds = st.integers(0, 2**63 - 1)
shapes = st.lists(st.lists(st.integers(1, 7), max_size=4), min_size=1, max_size=4)


@st.composite
def masks(draw: st.DrawFn) -> Mask:
    """One to four layers of any shape, each with any number of living weights."""
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32 - 1)))
    densities = st.sampled_from([0.0, 0.1, 0.5, 0.9, 1.0])
    return Mask(
        {
            f"{number}.weight": torch.rand(shape, generator=generator) < draw(densities)
            for number, shape in enumerate(draw(shapes))
        }
    )


def state_for(living: Mask) -> dict[str, Tensor]:
    """Weights in float64 for every layer of `living`, with a bias and a counter that no mask covers."""
    generator = torch.Generator().manual_seed(living.total)
    drawn = {name: torch.randn(alive.shape, generator=generator, dtype=torch.float64) for name, alive in living.items()}
    return drawn | {"0.bias": torch.randn(3, generator=generator, dtype=torch.float64), "count": torch.tensor(7)}


@given(living=masks())
def test_expand_undoes_compress(living: Mask) -> None:
    state = state_for(living)
    small = mask_codec.compress(state, living)
    assert sum(small[name].numel() for name in living) == living.alive
    back = mask_codec.expand(small, living)
    assert weights.equal(back, mask.apply(state, living))
    assert {name: value.dtype for name, value in back.items()} == {name: value.dtype for name, value in state.items()}
    assert weights.equal(mask_codec.compress(back, living), small)


@given(living=masks())
def test_unpack_undoes_pack_at_one_bit_a_weight(living: Mask) -> None:
    # C14
    packed = mask_codec.pack(living)
    assert all(
        packed[name].dtype == torch.uint8 and packed[name].numel() == -(-alive.numel() // 8)
        for name, alive in living.items()
    )
    assert mask_codec.unpack(packed, {name: tuple(alive.shape) for name, alive in living.items()}) == living


@given(living=masks())
def test_apply_is_a_projection(living: Mask) -> None:
    # M5 C8
    state = state_for(living)
    once = mask.apply(state, living)
    assert weights.equal(mask.apply(once, living), once)
    for name, alive in living.items():
        assert torch.equal(once[name][alive], state[name][alive]) and not once[name][~alive].any()


@given(living=masks())
def test_a_mask_counts_what_a_reader_would_count(living: Mask) -> None:
    # C12 C13
    flags = [flag for alive in living.values() for flag in alive.flatten().tolist()]
    assert (living.alive, living.total) == (sum(flags), len(flags))
    assert living.density == sum(flags) / len(flags)


@pytest.mark.parametrize("control", CONTROLS)
@given(living=masks(), seed=seeds)
def test_a_control_keeps_every_layers_count_and_shape(control: str, living: Mask, seed: int) -> None:
    # K1 K2 C9
    made = CONTROLS[control](living, seed)
    assert made.counts == living.counts
    assert {name: alive.shape for name, alive in made.items()} == {name: alive.shape for name, alive in living.items()}


@pytest.mark.parametrize("control", CONTROLS)
@given(size=st.integers(40, 200), seed=seeds)
def test_a_control_differs_from_the_mask_and_from_the_next_seeds(control: str, size: int, seed: int) -> None:
    # K1 K9 K10: of 40 choose 20 there are 1.4e11 masks
    living = Mask({"w": torch.arange(size) % 2 == 0})
    made = CONTROLS[control](living, seed)
    assert made != living
    assert made == CONTROLS[control](living, seed) != CONTROLS[control](living, seed + 1 if seed < 2**63 - 1 else 0)


@given(outer=masks(), seed=seeds, data=st.data())
def test_random_masks_of_one_seed_nest_as_the_counts_do(outer: Mask, seed: int, data: st.DataObject) -> None:
    # C5 K3
    def fewer(alive: Tensor) -> Tensor:
        kept = data.draw(st.integers(0, int(alive.sum())))
        places = alive.flatten().nonzero().squeeze(1)[:kept]
        return torch.zeros(alive.numel(), dtype=torch.bool).index_fill_(0, places, True).view_as(alive)

    inner = Mask({name: fewer(alive) for name, alive in outer.items()})
    assert Mask(mask.apply(inner, outer)) == inner
    assert (drawn := mask.random_like(inner, seed)) == Mask(mask.apply(drawn, mask.random_like(outer, seed)))


@given(left=masks(), seed=seeds)
def test_overlap_is_symmetric_and_1_for_equals_alone(left: Mask, seed: int) -> None:
    right = mask.shuffle(left, seed)
    assume(left.alive)
    assert overlaps(left, right)[-1].overlap == overlaps(right, left)[-1].overlap
    assert (overlaps(left, right)[-1].overlap == 1) == (left == right)
