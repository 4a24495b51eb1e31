"""Every score in every scope obeys the same laws, on any network, for any fraction, tied or not."""

from collections.abc import Callable, Mapping
from fractions import Fraction
from math import floor

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from tombola import mask, prune
from tombola.bayes import noise_of
from tombola.mask import Mask
from tombola.score import Score, Scored
from tombola.scores import SCORES

Scores = Mapping[str, Tensor]
FRACTIONS = ("0", "0.1", "0.2", "0.5", "0.9", "1")


def by_layer(scores: Scores, before: Mask, rate: float) -> Mask:
    return prune.by_layer(scores, before, dict.fromkeys(before, rate))


SCOPES: dict[str, Callable[[Scores, Mask, float], Mask]] = {"layer": by_layer, "global": prune.globally}


def pools(scope: str, counts: Mapping[str, int]) -> list[int]:
    """How many living weights there are in each pool that the rate is taken of."""
    return list(counts.values()) if scope == "layer" else [sum(counts.values())]


@st.composite
def networks(draw: st.DrawFn) -> dict[str, Tensor]:
    """One to four layers of any shape in float64; the values are all distinct, or few, or all the same."""
    shapes = draw(st.lists(st.lists(st.integers(1, 6), min_size=1, max_size=4), min_size=1, max_size=4))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32 - 1)))
    distinct = draw(st.sampled_from([0, 1, 3]))

    def values(shape: list[int]) -> Tensor:
        if distinct:
            return torch.randint(-distinct, distinct, shape, generator=generator).double()
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    return {f"layer{number}": values(shape) for number, shape in enumerate(shapes)}


def full(weights: Scores) -> Mask:
    return Mask({name: torch.ones_like(value, dtype=torch.bool) for name, value in weights.items()})


def of_gradients(scored: Scored) -> Scores:
    """|g_i theta_i|, of the model and the batches."""
    parameters = [scored.model.get_parameter(name) for name in scored.mask]
    loss = torch.stack([scored.loss(scored.model, batch) for batch in scored.batches]).sum()
    gradients = torch.autograd.grad(loss, parameters)
    return {name: (g * p).abs() for name, g, p in zip(scored.mask, gradients, parameters, strict=True)}


OF_WEIGHTS = {name: score for name, score in SCORES.items() if not score.of_channels}
MEMBERS = OF_WEIGHTS | {"one that sees batches": Score("of gradients", of_gradients, sees_batches=True)}


def scores_of(score: str, weights: Scores, seed: int) -> Scores:
    """Those of a network of `weights` that looks at batches, as a score may do."""
    network = Summed({name: nn.Parameter(value.clone()) for name, value in weights.items()})
    draw = torch.Generator().manual_seed(seed)
    batches = [(torch.randn(5, 3, generator=draw).double(), torch.randint(3, (5,), generator=draw)) for _ in range(4)]
    initial = {name: value.flip(0) for name, value in weights.items()}
    noise = {noise_of(name): value.flip(0).abs().clamp(min=0.1).log() for name, value in weights.items()}
    return MEMBERS[score].of(Scored(network, {**weights, **noise}, full(weights), batches, seed=seed, initial=initial))


class Summed(nn.Module):
    """A network of weights of any shape: each layer shifts the answers by a smooth function of all of its weights."""

    def __init__(self, layers: Mapping[str, nn.Parameter]) -> None:
        super().__init__()
        for name, layer in layers.items():
            self.register_parameter(name, layer)

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs * sum((1 + layer.flatten().tanh().mean() for layer in self.parameters()), torch.zeros(()))


members = pytest.mark.parametrize(("score", "scope"), [(score, scope) for score in MEMBERS for scope in SCOPES])
FEWER = settings(max_examples=12)  # of each of many scores, in each scope
seeds = st.integers(0, 2**32 - 1)
rounds = st.lists(st.sampled_from(FRACTIONS), min_size=1, max_size=5)


@members
@FEWER
@given(weights=networks(), seed=seeds, rates=rounds)
def test_exactly_the_asked_count_goes_in_every_round(
    score: str, scope: str, weights: dict[str, Tensor], seed: int, rates: list[str]
) -> None:
    # C1 C2 C4 C6 C9
    living, scores = full(weights), scores_of(score, weights, seed)
    for rate in rates:
        after = SCOPES[scope](scores, living, float(rate))
        expected = [pool - floor(Fraction(rate) * pool + Fraction(1, 2)) for pool in pools(scope, living.counts)]
        assert pools(scope, after.counts) == expected
        living = after


@members
@FEWER
@given(weights=networks(), seed=seeds, rates=rounds)
def test_masks_nest_over_the_rounds_though_the_scores_change(
    score: str, scope: str, weights: dict[str, Tensor], seed: int, rates: list[str]
) -> None:
    # C4 C5
    living = full(weights)
    for number, rate in enumerate(rates):
        scores = scores_of(
            score, {name: value * (-1) ** number + number for name, value in weights.items()}, seed + number
        )
        after = SCOPES[scope](scores, living, float(rate))
        assert Mask(mask.apply(after, living)) == after
        living = after


@members
@FEWER
@given(weights=networks(), seed=seeds, rate=st.sampled_from(FRACTIONS))
def test_nothing_that_goes_scores_higher_than_what_stays(
    score: str, scope: str, weights: dict[str, Tensor], seed: int, rate: str
) -> None:
    # C16 C18
    scores = scores_of(score, weights, seed)
    after = SCOPES[scope](scores, full(weights), float(rate))
    pooled = [[name] for name in weights] if scope == "layer" else [list(weights)]
    for names in pooled:
        kept = torch.cat([scores[name][after[name]] for name in names])
        gone = torch.cat([scores[name][~after[name]] for name in names])
        assert not len(kept) or not len(gone) or gone.max() <= kept.min()


@members
@FEWER
@given(weights=networks(), seed=seeds, rate=st.sampled_from(FRACTIONS))
def test_the_slow_and_obvious_way_gives_the_same_mask(
    score: str, scope: str, weights: dict[str, Tensor], seed: int, rate: str
) -> None:
    # C1 C19: sort (score, tensor, flat index) in plain Python
    scores = scores_of(score, weights, seed)
    before = by_layer(scores, full(weights), 0.2)
    after = SCOPES[scope](scores, before, float(rate))
    pooled = [[name] for name in weights] if scope == "layer" else [list(weights)]
    for names in pooled:
        places = [
            (value, order, index)
            for order, name in enumerate(names)
            for index, (value, alive) in enumerate(
                zip(scores[name].flatten().tolist(), before[name].flatten().tolist(), strict=True)
            )
            if alive
        ]
        stay = {
            (order, index) for _, order, index in sorted(places)[floor(Fraction(rate) * len(places) + Fraction(1, 2)) :]
        }
        for order, name in enumerate(names):
            assert {(order, int(index)) for index in after[name].flatten().nonzero()} == {
                place for place in stay if place[0] == order
            }


@members
@FEWER
@given(weights=networks(), seed=seeds, rate=st.sampled_from(FRACTIONS))
def test_the_same_question_has_the_same_answer(
    score: str, scope: str, weights: dict[str, Tensor], seed: int, rate: str
) -> None:
    # C19 K9
    before = full(weights)
    first, again = (SCOPES[scope](scores_of(score, weights, seed), before, float(rate)) for _ in range(2))
    assert first == again and before == full(weights)


@given(weights=networks())
def test_all_tied_weights_go_in_flat_order(weights: dict[str, Tensor]) -> None:
    # C1 C19
    tied = {name: torch.ones_like(value) for name, value in weights.items()}
    after = by_layer(tied, full(weights), 0.5)
    for alive in after.values():
        flat = alive.flatten().int().tolist()
        assert flat == sorted(flat) and sum(flat) == len(flat) // 2
