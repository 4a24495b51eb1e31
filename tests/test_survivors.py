"""What survivors begin with: each action keeps of the early weights what it says, layer by layer, and nothing else."""

from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest
import torch

from tombola import mask, models, prunable, weights
from tombola.controls import sparse_init, survivors
from tombola.lab.kinds import DerivedWeights
from tombola.lab.plan import plan
from tombola.lab.spec import Experiment, Spec
from tombola.mask import Mask
from tombola.weights import Weights

Action = Callable[[Weights, Mask, int], Weights]
ACTIONS = {
    each.__name__: each
    for each in (
        survivors.signed_constants,
        survivors.unsigned_constants,
        survivors.reshuffled_sizes,
        survivors.reshuffled_values,
    )
}
every_action = pytest.mark.parametrize("action", ACTIONS.values(), ids=ACTIONS)


def early(seed: int = 0) -> dict[str, torch.Tensor]:
    return weights.of(models.build("lenet-40-20", (1, 8, 8), 10, "glorot-normal", init_seed=seed))


def kept() -> Mask:
    return mask.random_like(
        Mask(
            {
                name: torch.arange(alive.numel()).view_as(alive) % 5 == 0
                for name, alive in prunable.full(models.build("lenet-40-20", (1, 8, 8), 10, "glorot-normal", 0)).items()
            }
        ),
        mask_seed=3,
    )


def numbers(values: torch.Tensor) -> Counter[float]:
    return Counter(values.flatten().tolist())


@every_action
def test_biases_stay_and_what_is_drawn_begins_at_the_seed(action: Action) -> None:  # K6 K7 K11
    start, living = early() | {"norm.running_mean": torch.ones(3)}, kept()
    made = weights.derived(action, start, 1, living)
    assert all(torch.equal(made[name], start[name]) for name in start if name not in living)
    assert weights.equal(made, weights.derived(action, start, 1, living))
    random = action is not survivors.signed_constants
    for name in living:
        assert (made[name] != start[name]).any()
        assert torch.equal(made[name], weights.derived(action, start, 2, living)[name]) != random


@every_action
def test_layers_are_drawn_apart(action: Action) -> None:  # K3
    """Two layers of one shape and one content are dealt out in two ways, and each as if the other were not there."""
    values = torch.randn(30, 30, generator=torch.Generator().manual_seed(0))
    alive = torch.ones(30, 30, dtype=torch.bool)
    both = action({"a": values, "b": values}, Mask({"a": alive, "b": alive}), 5)
    alone = action({"b": values}, Mask({"b": alive}), 5)
    assert torch.equal(both["b"], alone["b"])
    assert torch.equal(both["a"], both["b"]) == (action is survivors.signed_constants)


@pytest.mark.parametrize("action", [survivors.signed_constants, survivors.unsigned_constants])
def test_constants_are_the_deviation_of_the_layer(action: Action) -> None:
    start, living = early(), kept()
    made = action(start, living, 0)
    for name in living:
        deviation = float(np.std(start[name].numpy(), dtype=np.float64))
        assert made[name].abs().flatten().tolist() == pytest.approx([deviation] * made[name].numel(), rel=1e-5)
        assert int((made[name] > 0).sum()) == int((start[name] > 0).sum()), "as many of either sign"


@pytest.mark.parametrize("action", [survivors.signed_constants, survivors.reshuffled_sizes])
def test_a_sign_that_is_kept_is_that_of_its_place(action: Action) -> None:  # K6
    start, living = early(), kept()
    made = action(start, living, 0)
    assert all(torch.equal(made[name] > 0, start[name] > 0) for name in living)


@pytest.mark.parametrize("action", [survivors.unsigned_constants, survivors.reshuffled_values])
def test_a_sign_that_is_not_kept_agrees_by_chance(action: Action) -> None:
    start, living = early(), kept()
    made = action(start, living, 0)
    survived = [(made[name][alive] > 0) == (start[name][alive] > 0) for name, alive in living.items()]
    assert 0.4 < torch.cat(survived).float().mean() < 0.6


def test_reshuffled_values_are_those_of_the_survivors_of_their_layer() -> None:  # K4
    start, living = early(), kept()
    values, sizes = (action(start, living, 4) for action in (survivors.reshuffled_values, survivors.reshuffled_sizes))
    for name, alive in living.items():
        assert numbers(values[name][alive]) == numbers(start[name][alive])
        assert numbers(sizes[name][alive].abs()) == numbers(start[name][alive].abs())
        assert torch.equal(values[name][~alive], start[name][~alive]), "of the pruned ones none takes part"
        assert 0 < (values[name] == start[name])[alive].sum() + 1 < 0.2 * alive.sum(), "hardly one is in its place"


def test_redrawn_weights_are_fresh_in_size_and_old_in_sign() -> None:  # K4 K6
    drawn, living = early(1) | {"norm.weight": torch.ones(3)}, kept()
    original = early(0) | {"norm.weight": -torch.ones(3)}
    made = survivors.signed_as(drawn, original, living, 0)
    for name in original:
        if name in living:
            assert torch.equal(made[name].abs(), drawn[name].abs()) and torch.equal(made[name] > 0, original[name] > 0)
            assert numbers(made[name].abs()) != numbers(original[name].abs()), "not a permutation of the old ones"
        else:
            assert torch.equal(made[name], drawn[name])


def test_redrawn_is_reinit_with_other_signs() -> None:
    """The two controls of one draw begin with the same sizes: what they differ in is the signs alone."""
    spec = {
        "replicates": 1,
        "levels": 1,
        "arms": ["ticket", "reinit", "redrawn"],
        "recipe": {
            "model": "lenet-20-10",
            "data": "digits",
            "length": "24it",
            "batch": 60,
            "optimizer": {"name": "adam", "lr": 1e-2},
        },
    }
    runs = {row.arm: row.run for row in plan(Experiment(name="tiny", spec=Spec.model_validate(spec))).rows}
    start = runs["redrawn"].start
    assert start.inputs == (runs["reinit"].start, runs["ticket"].start, runs["ticket"].mask)


@pytest.mark.parametrize("control", ["constant", "reshuffled", "redrawn", "flipped-10"])
@pytest.mark.parametrize("method", ["early-bird", "set", "edge-popup"])
def test_of_a_run_that_made_a_mask_and_weights_a_control_reads_the_mask(method: str, control: str) -> None:  # K1 K6
    search = {"every": "1it"} if method == "early-bird" else {"retrain": True}
    recipe = {"model": "lenet-40-20", "data": "digits", "length": "20it", "batch": 60}
    table = {
        "replicates": 1,
        "levels": 1,
        "method": method,
        "search": search,
        "arms": ["ticket", control],
        "recipe": recipe | {"optimizer": {"name": "sgd", "lr": 0.1}},
    }
    wanted = plan(Experiment(name="tiny", spec=Spec.model_validate(table)))
    (ticket, made) = (next(row.run for row in wanted.rows if row.arm == arm) for arm in ("ticket", control))
    assert isinstance(made.start, DerivedWeights) and made.start.beside
    assert [what for what, run in made.start.beside if run == ticket.mask] == ["mask"]


# ---------------------------------------------------------------- as wide as the connections that are left ask for


def test_each_unit_is_drawn_as_wide_as_its_own_inputs_ask_for() -> None:
    alive = torch.zeros(4, 3, 20, 20, dtype=torch.bool)
    for unit, inputs in enumerate((1200, 300, 100, 0)):
        alive[unit].view(-1)[:inputs] = True
    drawn = {"w": torch.full((4, 3, 20, 20), 9.0), "b": torch.ones(4)}
    made = sparse_init.normal_by_unit(drawn, Mask({"w": alive}), seed=3)
    for unit, inputs in enumerate((1200, 300, 100)):
        kept = made["w"][unit][alive[unit]]
        assert abs(float(kept.square().mean()) * inputs / 2 - 1) < 4 * (2 / inputs) ** 0.5
    assert not made["w"][~alive].any() and made["b"] is drawn["b"]
    again, other = (sparse_init.normal_by_unit(drawn, Mask({"w": alive}), seed)["w"] for seed in (3, 4))
    assert torch.equal(made["w"], again) and not torch.equal(made["w"], other)


def test_a_layer_is_widened_by_the_root_of_its_density() -> None:
    alive = torch.arange(12).view(3, 4) % 4 == 0
    drawn = {"w": torch.randn(3, 4)}
    assert torch.allclose(sparse_init.wider_by_layer(drawn, Mask({"w": alive}), 0)["w"], 2 * drawn["w"])
