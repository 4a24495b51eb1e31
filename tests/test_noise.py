"""Noise on initial weights: how large it is, where it is, and that one draw serves all scales."""

import pytest
import torch

from tombola import mask, models, prunable, weights
from tombola.controls import CONTROLS, noise
from tombola.lab.kinds import DerivedWeights
from tombola.lab.plan import plan
from tombola.lab.spec_file import read

SCALES = {"noisy-0.5": 0.5, "noisy-1": 1.0, "noisy-2": 2.0, "noisy-3": 3.0}
FUNCTIONS = {0.5: noise.noisy_half, 1.0: noise.noisy_1, 2.0: noise.noisy_2, 3.0: noise.noisy_3}


def test_noise_is_as_large_as_it_says_where_weights_live_and_nowhere_else() -> None:  # K4 K6 K11
    model = models.build("lenet-300-100", (1, 28, 28), 10, "glorot-normal", init_seed=0)
    start = {name: value.double() for name, value in weights.of(model).items()}
    alive = mask.shuffle(mask.Mask({name: each.cumsum(1) % 3 == 0 for name, each in prunable.full(model).items()}), 1)
    ones = {name: (FUNCTIONS[1.0](start, alive, 5)[name] - start[name]) for name in start}
    for name, value in start.items():
        for scale, function in FUNCTIONS.items():
            off = function(start, alive, 5)[name] - value
            assert torch.allclose(off, scale * ones[name], atol=1e-12)
        if name in alive:
            kept = ones[name][alive[name]] / value.std(correction=0)
            assert not ones[name][~alive[name]].any()
            assert float(kept.std()) == pytest.approx(1, abs=4 / (2 * kept.numel()) ** 0.5)
            assert abs(float(kept.mean())) < 4 / kept.numel() ** 0.5
        else:
            assert not ones[name].any(), "biases stay"
    other = FUNCTIONS[1.0](start, alive, 6)
    assert all((other[name] != start[name] + ones[name])[alive[name]].all() for name in alive)


def test_a_weight_that_two_masks_keep_gets_the_same_noise() -> None:
    values = {"w": torch.randn(40, 40, generator=torch.Generator().manual_seed(0))}
    wide, narrow = (mask.Mask({"w": torch.arange(1600).view(40, 40) % each == 0}) for each in (2, 4))
    one, other = noise.noisy_2(values, wide, 3)["w"], noise.noisy_2(values, narrow, 3)["w"]
    assert torch.equal(one[narrow["w"]], other[narrow["w"]])


def test_the_arms_are_their_ticket_with_another_start_of_one_draw() -> None:  # K3
    asked = [f"arms=ticket,{','.join(SCALES)}", "levels=1", "replicates=2", "recipe.length=20it", "evaluate.every=10it"]
    rows = {(row.arm, row.replicate): row.run for row in plan(read("digits-lenet", asked)).rows if row.level == 1}
    seeds = set()
    for replicate in (0, 1):
        ticket = rows["ticket", replicate]
        for arm in SCALES:
            start = rows[arm, replicate].start
            assert isinstance(start, DerivedWeights) and start.inputs == (ticket.start, ticket.mask)
            assert start.function.endswith(FUNCTIONS[SCALES[arm]].__name__)
            seeds.add(start.weights_seed)
    assert len(seeds) == 2 and all(CONTROLS[arm].changes == "start" for arm in SCALES)
