"""Perturbations stay in the ball and in the box, climb the loss, and leave the model as it was."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from tombola.data import load, normalise
from tombola.errors import BadInput
from tombola.perturbation import Ball, Climb, OfPixels, cross_entropies, fgsm, losses_and_slopes, pgd

BALLS = st.builds(Ball, st.sampled_from([0.0, 0.01, 0.3, 1.0]), st.sampled_from([-0.5, 0.0]), st.sampled_from([1.0, 2]))


def network() -> nn.Sequential:
    torch.manual_seed(0)
    layers = nn.Flatten(), nn.Linear(12, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 3)
    return nn.Sequential(*layers)


def examples(n: int = 6, low: float = 0.0, high: float = 1.0) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(1)
    pixels = low + (high - low) * torch.rand(n, 3, 2, 2, generator=draw)
    pixels[0], pixels[1] = low, high
    return pixels, torch.arange(n) % 3


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@given(BALLS, st.sampled_from([0.01, 0.3, 5.0]), st.integers(0, 3), st.booleans())
@settings(max_examples=40, deadline=None)
def test_no_perturbation_leaves_the_ball_or_the_box(ball: Ball, step: float, steps: int, drawn: bool) -> None:
    pixels, labels = examples(low=ball.low, high=ball.high)
    draw = generator() if drawn else None
    for found in (
        fgsm(network(), pixels, labels, ball),
        pgd(network(), pixels, labels, ball, Climb(step, steps), draw),
    ):
        assert ball.low <= found.min() and found.max() <= ball.high
        assert float((found.double() - pixels.double()).abs().max()) <= ball.epsilon + 1e-7
        assert not found.requires_grad


def test_a_ball_of_radius_0_changes_nothing() -> None:
    pixels, labels = examples()
    assert torch.equal(fgsm(network(), pixels, labels, Ball(0)), pixels)
    assert torch.equal(pgd(network(), pixels, labels, Ball(0), Climb(0.1, 3), generator()), pixels)


def test_a_model_and_its_statistics_and_gradients_stay_as_they_were() -> None:
    model = network().train()
    model[4].eval()
    before, modes = copy.deepcopy(model.state_dict()), [each.training for each in model.modules()]
    pixels, labels = examples()
    as_it_was = pixels.clone()
    pgd(model, pixels, labels, Ball(0.3), Climb(0.1, 3), generator())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert [each.training for each in model.modules()] == modes
    assert all(each.grad is None for each in model.parameters()) and all(p.requires_grad for p in model.parameters())
    assert torch.equal(pixels, as_it_was) and not pixels.requires_grad


def test_gradients_are_those_of_evaluation_mode() -> None:
    pixels, labels = examples()
    model = network().train()
    _, slopes = losses_and_slopes(model, pixels, labels)
    assert torch.equal(losses_and_slopes(copy.deepcopy(model).eval(), pixels, labels)[1], slopes)
    _, alone = losses_and_slopes(model, pixels[:1], labels[:1])
    torch.testing.assert_close(alone, slopes[:1])  # each for itself


def test_one_step_from_the_pixels_themselves_as_long_as_the_radius_is_the_sign_method() -> None:
    pixels, labels = examples()
    one = pgd(network(), pixels, labels, Ball(0.2), Climb(0.2, 1))
    assert torch.equal(one, fgsm(network(), pixels, labels, Ball(0.2)))


def test_the_sign_method_finds_the_worst_corner_of_a_linear_model() -> None:
    """Of two classes and a linear model the loss is largest at a corner of the ball: all of them are tried."""
    model = nn.Linear(4, 2).double()
    pixels, labels = (
        0.5 + 0.2 * torch.rand(5, 4, generator=generator(), dtype=torch.float64),
        torch.tensor([0, 1, 0, 1, 1]),
    )
    corners = torch.cartesian_prod(*[torch.tensor([-0.2, 0.2], dtype=torch.float64)] * 4)
    all_of_them = torch.stack([cross_entropies(model(pixels + corner), labels) for corner in corners])
    found = cross_entropies(model(fgsm(model, pixels, labels, Ball(0.2))), labels)
    torch.testing.assert_close(found, all_of_them.amax(0))


def test_a_start_is_the_same_of_one_seed_and_another_of_another() -> None:
    pixels, _ = examples()
    ball = Ball(0.1)
    assert torch.equal(ball.drawn(pixels, generator(3)), ball.drawn(pixels, generator(3)))
    assert not torch.equal(ball.drawn(pixels, generator(3)), ball.drawn(pixels, generator(4)))


@pytest.mark.parametrize("how", ["standard", "range", "unit"])
def test_pixels_are_normalised_as_the_bytes_that_they_are(how: Any) -> None:
    data = load("digits").normalised(how)
    bytes_ = data.images[:50]
    pixels = bytes_.float() / data.facts.white
    kept = pixels.clone()
    found = normalise.of_pixels(pixels, data.facts, how)
    torch.testing.assert_close(found, data.inputs(bytes_))
    assert torch.equal(pixels, kept)
    model = OfPixels(nn.Flatten(), lambda points: normalise.of_pixels(points, data.facts, how))
    assert float(losses_and_slopes(model, pixels, data.labels[:50])[1].abs().max()) > 0  # gradients go through


@pytest.mark.parametrize(("ball", "words"), [((-0.1,), "epsilon"), ((float("nan"),), "epsilon"), ((0.1, 1, 1), "box")])
def test_balls_that_are_none_are_refused(ball: tuple[float, ...], words: str) -> None:
    with pytest.raises(BadInput, match=words):
        Ball(*ball)


@pytest.mark.parametrize(
    ("made", "words"),
    [
        (lambda: Ball(8.0), "at most the width of the box, 1,"),
        (lambda: Ball(-0.1), "a number from 0 on"),
        (lambda: Climb(-1.0, 3), "found step = -1, steps = 3"),
        (lambda: Climb(0.1, -1), "from 0 on"),
    ],
)
def test_balls_and_climbs_that_lead_nowhere_are_refused(made: Callable[[], object], words: str) -> None:
    with pytest.raises(BadInput, match=words):
        made()
    assert Ball(8.0, 0, 255).epsilon == 8
