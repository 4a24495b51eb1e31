"""The criteria of Deconstructing Lottery Tickets, weight by weight in plain Python, and their masks by bisection."""

from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from tombola import score
from tombola.errors import BadInput
from tombola.mask import Mask
from tombola.prune import by_layer
from tombola.score import Scored
from tombola.scores import SCORES

CRITERIA: dict[str, Callable[[float, float], float]] = {  # of the initial and the final weight
    "large-final": lambda i, f: abs(f),
    "small-final": lambda i, f: -abs(f),
    "large-init": lambda i, f: abs(i),
    "small-init": lambda i, f: -abs(i),
    "magnitude-increase": lambda i, f: abs(f) - abs(i),
    "magnitude-decrease": lambda i, f: abs(i) - abs(f),
    "movement": lambda i, f: abs(f - i),
    "small-movement": lambda i, f: -abs(f - i),
    "large-final-same-sign": lambda i, f: max(0.0, i * f / abs(i)),
    "large-final-diff-sign": lambda i, f: max(0.0, -i * f / abs(i)),
    "magnitude-increase-same-sign": lambda i, f: abs(f) - abs(i) if i * f > 0 else 0.0,
    "magnitude-increase-diff-sign": lambda i, f: abs(f) - abs(i) if i * f < 0 else 0.0,
}
OPPOSITE = {
    "small-final": "large-final", "small-init": "large-init", "magnitude-decrease": "magnitude-increase",
    "small-movement": "movement",
}  # fmt: skip


def trained(size: int, seed: int, living: Mask | None = None) -> Scored:
    """A layer of weights that went from somewhere to elsewhere; some of them changed their sign."""
    draw = torch.Generator().manual_seed(seed)
    initial, final = (torch.randn(size, generator=draw, dtype=torch.float64) for _ in range(2))
    mask = living or Mask({"w": torch.ones(size, dtype=torch.bool)})
    return Scored(nn.Module(), {"w": (initial + final) * mask["w"]}, mask, initial={"w": initial})


def both(scored: Scored) -> tuple[Tensor, Tensor]:
    assert scored.initial is not None
    return scored.initial["w"], scored.weights["w"]


@pytest.mark.parametrize("name", CRITERIA)
@given(seed=st.integers(0, 2**32 - 1))
def test_a_criterion_is_what_the_paper_says_of_each_weight(name: str, seed: int) -> None:
    scored = trained(12, seed)
    expected = [CRITERIA[name](i, f) for i, f in torch.stack(both(scored), 1).tolist()]
    assert score.scores(SCORES[name], scored)["w"].tolist() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("name", OPPOSITE)
def test_an_opposite_lets_go_what_the_other_keeps(name: str) -> None:
    scored = trained(20, seed=1)
    kept, other = (score.scores(SCORES[each], scored) for each in (name, OPPOSITE[name]))
    assert torch.equal(by_layer(kept, scored.mask, {"w": 0.5})["w"], ~by_layer(other, scored.mask, {"w": 0.5})["w"])


def by_bisection(initial: Tensor, final: Tensor, keep: int) -> Tensor:
    """What is above the same percentile of both, by bisection for as many as are to be kept, or one fewer."""

    def above(share: float) -> Tensor:
        lowest = round(share * len(initial))
        thresholds = (each.sort().values[lowest - 1] if lowest else each.min() - 1 for each in (initial, final))
        return torch.stack([each > least for each, least in zip((initial, final), thresholds, strict=True)]).all(0)

    low, high = 0.0, 1.0
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if int(above(middle).sum()) > keep else (low, middle)
    return above(high)


@pytest.mark.parametrize(("name", "sign"), [("large-init-large-final", 1), ("small-init-small-final", -1)])
@given(seed=st.integers(0, 2**32 - 1), rate=st.sampled_from([0.3, 0.5, 0.8]))
def test_large_or_small_at_both_ends_is_above_one_percentile_at_both(
    name: str, sign: int, seed: int, rate: float
) -> None:
    """As the authors' program finds it; where several share a rank, bisection cannot split them, and keeps fewer."""
    scored = trained(101, seed)
    initial, final = (sign * each.abs() for each in both(scored))
    kept = by_layer(score.scores(SCORES[name], scored), scored.mask, {"w": rate})["w"]
    theirs = by_bisection(initial, final, int(kept.sum()))
    assert bool((kept | ~theirs).all()) and int(kept.sum()) - int(theirs.sum()) <= 1


def test_ranks_are_among_the_living() -> None:
    """What was pruned before, and is 0, takes no place."""
    living = Mask({"w": torch.arange(10) >= 5})
    scored = trained(10, seed=2, living=living)
    initial, final = (each.abs()[5:] for each in both(scored))
    ranks = torch.stack([(each[:, None] > each).sum(1) for each in (initial, final)]).min(0).values
    assert (
        score.scores(SCORES["large-init-large-final"], scored)["w"].tolist()
        == [0.0] * 5 + (ranks.double() / 5).tolist()
    )


def test_the_order_does_not_depend_on_the_scale_of_either_end() -> None:
    """Which is what the paper's alpha is for."""
    scored = trained(30, seed=3)
    assert scored.initial is not None
    wide = Scored(scored.model, {"w": 100 * scored.weights["w"]}, scored.mask, initial=scored.initial)
    for name in ("large-init-large-final", "small-init-small-final"):
        first, again = (score.scores(SCORES[name], each)["w"] for each in (scored, wide))
        assert torch.equal(first, again)


def test_without_a_beginning_there_is_no_such_score() -> None:
    scored = trained(4, seed=0)
    bare = Scored(scored.model, scored.weights, scored.mask)
    asking = {name for name, member in SCORES.items() if member.sees_initial}
    for name in sorted(asking):
        with pytest.raises(BadInput, match="score: expected the weights at the beginning of the training"):
            score.scores(SCORES[name], bare)
    assert asking > set(CRITERIA) - {"large-final", "small-final"}
