"""The intersection of what several scores would keep, to an exact count."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from tombola import prune
from tombola.intersection import lowest_ranks
from tombola.mask import Mask


def of_seed(seed: int) -> tuple[Mask, list[dict[str, torch.Tensor]]]:
    generator = torch.Generator().manual_seed(seed)
    shapes = {"a": (5, 4), "b": (3, 3)}
    mask = Mask({name: torch.rand(shape, generator=generator) < 0.8 for name, shape in shapes.items()})
    return mask, [{name: torch.rand(shape, generator=generator) for name, shape in shapes.items()} for _ in range(3)]


def kept_by(score: dict[str, torch.Tensor], mask: Mask, kept: int) -> set[tuple[str, int]]:
    """The places that one score keeps of all layers together, by a sort of Python's."""
    living = [
        (float(score[name].flatten()[i]), name, i)
        for name in mask
        for i in range(mask[name].numel())
        if mask[name].flatten()[i]
    ]
    return {(name, i) for _, name, i in sorted(living)[len(living) - kept :]}


@given(seed=st.integers(0, 50), kept=st.integers(0, 20), several=st.integers(1, 3))
def test_what_ranks_high_everywhere_is_the_intersection(seed: int, kept: int, several: int) -> None:
    mask, scores = of_seed(seed)
    kept = min(kept, mask.alive)
    ranks = lowest_ranks(scores[:several], mask, [list(mask)])
    common = set.intersection(*(kept_by(score, mask, kept) for score in scores[:several]))
    found = {
        (name, i)
        for name in mask
        for i in range(mask[name].numel())
        if mask[name].flatten()[i] and ranks[name].flatten()[i] >= mask.alive - kept
    }
    assert found == common
    left = prune.globally({name: each.double() for name, each in ranks.items()}, mask, 0.5)
    assert left.alive == mask.alive - prune.count(0.5, mask.alive), "to the exact count"


def test_of_one_score_it_is_that_score() -> None:
    mask, (score, *_) = of_seed(1)
    ranks = lowest_ranks([score], mask, [["a"], ["b"]])
    by_rank = prune.by_layer({name: each.double() for name, each in ranks.items()}, mask, {"a": 0.3, "b": 0.6})
    by_score = prune.by_layer(score, mask, {"a": 0.3, "b": 0.6})
    assert all(torch.equal(by_rank[name], by_score[name]) for name in mask)
