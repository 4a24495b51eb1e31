"""Pruning a whole network at once: exact amounts, in every scope, in as many steps as one likes."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tombola.at_once import Amount, AtOnce, course
from tombola.mask import Mask
from tombola.prune import count
from tombola.pruning import Round

SHAPES = {"fc1": (30, 64), "fc2": (20, 30), "output": (10, 20)}
KINDS = {"fc1": "linear", "fc2": "linear", "output": "output"}
EVERYTHING = Mask({name: torch.ones(shape, dtype=torch.bool) for name, shape in SHAPES.items()})
RATES = (("output", 0.1), ("*", 0.2))
AT_ONCE = ["layer", "global", "er", "erk"]


def drawn(seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.rand(shape, generator=generator) for name, shape in SHAPES.items()}


def scored(alive: Mask, among: Mask) -> dict[str, torch.Tensor]:
    return drawn()


def rounds_of(scope: str, levels: int) -> Mask:
    """What so many rounds leave, one after another."""
    round = Round(scope, RATES if scope == "layer" else (("*", 0.2),))
    mask = EVERYTHING
    for _ in range(levels):
        mask = round.next(mask, drawn(), KINDS)
    return mask


@pytest.mark.parametrize("levels", [1, 2, 7, 13])
@pytest.mark.parametrize("scope", ["layer", "global"])
def test_rounds_at_once_are_to_the_last_weight_what_rounds_one_by_one_are(scope: str, levels: int) -> None:  # C1 C4
    by = Round(scope, RATES if scope == "layer" else (("*", 0.2),))
    at_once = AtOnce(by, Amount(by, rounds=levels)).mask(EVERYTHING, scored, KINDS)
    assert at_once == rounds_of(scope, levels)


@pytest.mark.parametrize("counted", ["layer", "global"])
@pytest.mark.parametrize("scope", AT_ONCE)
def test_whatever_the_scope_as_many_are_left_as_the_rounds_leave(scope: str, counted: str) -> None:
    by = Round(counted, RATES if counted == "layer" else (("*", 0.2),))
    for levels in (1, 5, 12):
        made = AtOnce(Round(scope), Amount(by, rounds=levels)).mask(EVERYTHING, scored, KINDS)
        assert made.alive == rounds_of(counted, levels).alive


@pytest.mark.parametrize("iterations", [1, 3, 100])
@pytest.mark.parametrize("scope", AT_ONCE)
@given(density=st.floats(0.001, 1))
def test_a_density_is_met_exactly(scope: str, iterations: int, density: float) -> None:
    steps = AtOnce(Round(scope), Amount(Round(rates=RATES), density=density), iterations)
    assert steps.mask(EVERYTHING, scored, KINDS).alive == EVERYTHING.total - count(1 - density, EVERYTHING.total)


def test_between_steps_so_much_is_left_as_the_exponential_schedule_says() -> None:
    seen: list[int] = []

    def watched(alive: Mask, among: Mask) -> dict[str, torch.Tensor]:
        seen.append(alive.alive)
        assert among == alive, "what has gone is not scored again"
        return drawn()

    AtOnce(Round("global", (("*", 0.2),)), Amount(Round(), density=0.01), steps=4).mask(EVERYTHING, watched, KINDS)
    whole = EVERYTHING.total
    total = whole - count(0.99, whole)
    assert seen == [whole, *(int(whole * (total / whole) ** (step / 4) + 0.5) for step in (1, 2, 3))]


def test_weights_come_back_between_steps_where_they_may() -> None:
    """The second scoring turns everything round: what the first one took is what it keeps."""
    first = drawn()

    def turned(alive: Mask, among: Mask) -> dict[str, torch.Tensor]:
        return first if alive == EVERYTHING else {name: -score for name, score in first.items()}

    half = Amount(Round(), density=0.25)
    stays = AtOnce(Round("global", (("*", 0.2),)), half, steps=2).mask(EVERYTHING, turned, KINDS)
    returns = AtOnce(Round("global", (("*", 0.2),)), half, steps=2, returning=True).mask(EVERYTHING, turned, KINDS)
    lowest = AtOnce(Round("global", (("*", 0.2),)), half).mask(
        EVERYTHING, lambda *_: {name: -score for name, score in first.items()}, KINDS
    )
    assert returns == lowest != stays and returns.alive == stays.alive


def test_what_was_pruned_before_stays_pruned() -> None:
    before = rounds_of("layer", 2)
    amount = Amount(Round(rates=RATES), density=0.3)
    made = AtOnce(Round(rates=RATES), amount).mask(EVERYTHING, scored, KINDS, before=before)
    assert all(bool((before[name] | ~made[name]).all()) for name in made)
    assert made.alive == EVERYTHING.total - count(0.7, EVERYTHING.total)


@given(densities=st.lists(st.floats(0.001, 0.999), min_size=1, max_size=6, unique=True), rate=st.floats(0.05, 0.9))
def test_a_course_meets_every_density_and_no_round_removes_more_than_the_rate(
    densities: list[float], rate: float
) -> None:
    asked = sorted(densities, reverse=True)
    after = course(asked, rate)
    assert [density for density in after if density in asked] == asked
    steps = [1.0, *after]
    assert all(later / earlier >= 1 - rate - 1e-6 for earlier, later in zip(steps, after, strict=False))
