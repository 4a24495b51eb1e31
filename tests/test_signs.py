"""Signs and magnitudes, each taken from the trained ticket or drawn anew: a table of four arms; and signs that flip."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tombola import signs, weights
from tombola.controls import CONTROLS
from tombola.dynamics import Aws, SignIn
from tombola.errors import BadInput
from tombola.lab.attempt import do
from tombola.lab.kinds import DerivedWeights, Train
from tombola.lab.plan import plan
from tombola.lab.replicate import Replicate
from tombola.lab.spec_file import read
from tombola.lab.store import Store
from tombola.lab.worker import Worker
from tombola.mask import Mask
from tombola.methods import METHODS
from tombola.steps import Step

CHANGES = ["replicates=1", "levels=2", "recipe.model=lenet-20-10", "recipe.length=24it", "evaluate.every=12it"]
ARMS = "arms=ticket,reinit,sign,magnitude,trained,flipped-10,flipped-30"
SHAPES: list[tuple[int, ...]] = [(5, 7), (3, 2, 2, 2), (40,), (1, 1)]


def drawn(seed: int) -> dict[str, Tensor]:
    """Weights of a network with convolutions, batch norm and layers with a bias, none of them 0."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Conv2d(2, 3, 2), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Linear(12, 4))
        for parameter in model.parameters():
            nn.init.normal_(parameter)
        return weights.of(model)


def test_each_of_the_two_is_taken_from_the_network_that_is_named_and_norms_are_none_of_it() -> None:  # K4
    one, other = drawn(1), drawn(2)
    signed, sized = signs.with_signs_of(one, other), signs.with_magnitudes_of(one, other)
    assert list(signed) == list(sized) == list(one)
    for name, value in one.items():
        if name.startswith("1."):
            assert torch.equal(signed[name], value) and torch.equal(sized[name], value)
            continue
        ours, theirs = value.numpy(), other[name].numpy()
        assert np.array_equal(signed[name].numpy(), np.copysign(ours, theirs))
        assert np.array_equal(sized[name].numpy(), np.copysign(theirs, ours))


@pytest.mark.parametrize("fraction", [0.0, 0.1, 0.3, 0.5, 1.0])
def test_so_many_living_signs_are_flipped_in_each_layer_and_nothing_else(fraction: float) -> None:  # K4 P1
    draw = np.random.default_rng(3)
    start = {str(i): torch.from_numpy(draw.normal(size=shape)).float() for i, shape in enumerate(SHAPES)}
    living = Mask({str(i): torch.from_numpy(draw.random(shape) < 0.6) for i, shape in enumerate(SHAPES)})
    made = signs.flipped(start | {"bias": torch.ones(2)}, living, fraction, seed=5)
    assert torch.equal(made["bias"], torch.ones(2))
    for name, alive in living.items():
        turned = made[name] == -start[name]
        assert torch.equal(made[name].abs(), start[name].abs()) and not (turned & ~alive).any()
        assert int(turned.sum()) == int(np.floor(fraction * int(alive.sum()) + 0.5))
    assert sum(count for count, _ in signs.flips(living, made, start).values()) == sum(
        int(np.floor(fraction * int(alive.sum()) + 0.5)) for alive in living.values()
    )


def performed(folder: Path, *changes: str) -> tuple[dict[tuple[str, int], Train], Store]:
    wanted, worker = plan(read("digits-lenet", [*CHANGES, ARMS, *changes])), Worker(Store(folder).open(), None)
    for run in wanted.runs:
        assert do(run, worker, lambda *_: None) == ("stored",)
    return {(row.arm, row.level): row.run for row in wanted.rows}, worker.store


@pytest.mark.parametrize(
    "changes", [[], ["rewind=6it", "carry_optimizer=true"], ["method=lr-rewind"]], ids=["k=0", "k=6", "kept weights"]
)
def test_the_four_arms_are_made_of_two_draws_and_two_ends(tmp_path: Path, changes: list[str]) -> None:  # K4 K8 R1
    rows, store = performed(tmp_path / "store", *changes)
    ticket, start = store.weights(rows["ticket", 2]), store.weights(rows["ticket", 2].start)
    begun: dict[str, dict[str, Any]] = {arm: store.weights(rows[arm, 2].start) for arm in CONTROLS if (arm, 2) in rows}
    living = store.mask(rows["ticket", 2].mask or rows["ticket", 2])
    for name, alive in living.items():
        new, old = begun["reinit"][name].numpy(), ticket[name].numpy()
        assert np.array_equal(begun["sign"][name].numpy()[alive], np.copysign(new, old)[alive])
        assert np.array_equal(begun["magnitude"][name].numpy()[alive], np.copysign(old, new)[alive])
        assert np.array_equal(begun["trained"][name].numpy(), old)
    for arm, fraction in (("flipped-10", 0.1), ("flipped-30", 0.3)):
        for name, alive in living.items():
            turned = begun[arm][name] != start[name]
            assert int(turned.sum()) == int(np.floor(fraction * int(alive.sum()) + 0.5))
            assert torch.equal(begun[arm][name].abs(), start[name].abs())
            assert not (turned & ~(begun["flipped-30"][name] != start[name])).any(), "the smaller share is part of it"
    carried = "carry_optimizer=true" in changes
    for arm in begun:
        run = rows[arm, 2]
        assert (run.optimizer_state == "carried") == carried and run.mask == rows["ticket", 2].mask
        assert isinstance(run.start, DerivedWeights) or arm == "reinit"


# ---------------------------------------------------------------- methods


def searched(method: str, model: str = "lenet-20-10", **options: Any) -> list[Train]:
    own = Replicate(read("digits-lenet", ["levels=2", f"recipe.model={model}"]).spec, 0)
    chosen = METHODS[method].options.model_validate(options)
    return list(METHODS[method].search(replace(own, options=chosen), 2))


def test_aws_where_there_is_no_normalisation_is_learning_rate_rewinding_run_by_run() -> None:
    assert searched("aws") == searched("lr-rewind")


def test_signs_are_found_with_softened_normalisations_and_trained_without(tmp_path: Path) -> None:  # K4
    changes = ["recipe.model=resnet-8-w2", "recipe.length=12it", "levels=1", "evaluate.every=6it"]
    wanted = plan(read("digits-lenet", [*CHANGES[:1], *changes, "arms=ticket,reinit,winning-sign,aws"]))
    worker = Worker(Store(tmp_path / "store").open(), None)
    for run in wanted.runs:
        assert do(run, worker, lambda *_: None) == ("stored",)
    rows, store = {row.arm: row.run for row in wanted.rows}, worker.store
    found, made = rows["aws"], rows["winning-sign"]
    assert found.recipe.dynamics == Aws() and isinstance(found.start, Train) and found.start.recipe.dynamics == Aws()
    assert made.recipe == rows["dense"].recipe and made.mask == found.mask and found.mask
    drawn, trained, begun = (store.weights(run) for run in (rows["reinit"].start, found, made.start))
    for name, alive in store.mask(found.mask).items():
        expected = np.copysign(drawn[name].numpy(), trained[name].numpy())
        assert np.array_equal(begun[name].numpy(), expected * alive.numpy())
    norms = [name for name in drawn if "norm" in name]
    assert norms and all(torch.equal(begun[name], drawn[name]) for name in norms)
    assert any(not torch.equal(trained[name], drawn[name]) for name in norms)


def test_signs_of_plain_learning_rate_rewinding_are_there_for_comparison() -> None:
    made = searched("winning-sign", "resnet-8-w2", aws=False)[2]
    plain = searched("lr-rewind", "resnet-8-w2")[2]
    assert isinstance(made.start, DerivedWeights) and made.start.beside == (("weights", plain),)


@pytest.mark.parametrize("masks", ["random-erk", "snip"])
def test_sign_in_trains_the_masks_of_a_method_at_initialisation(masks: str) -> None:
    made, plain = searched("sign-in", masks=masks, beta=2.0, every="7it"), searched(masks)
    assert made[0] == plain[0]
    for ours, theirs in zip(made[1:], plain[1:], strict=True):
        recipe = theirs.recipe.model_copy(update={"dynamics": SignIn(beta=2.0, every=Step("7it"))})
        assert ours == replace(theirs, recipe=recipe, dynamics_seed=ours.dynamics_seed)


def test_sign_in_goes_on_with_the_optimizer_of_what_is_no_product(tmp_path: Path) -> None:
    changes = ["levels=1", "recipe.length=24it", "evaluate.every=12it", "rewind=6it", "carry_optimizer=true"]
    wanted = plan(
        read("digits-lenet", ["replicates=1", *changes, "recipe.model=lenet-20-10", "method=sign-in", "arms=ticket"])
    )
    worker = Worker(Store(tmp_path / "store").open(), None)
    for run in wanted.runs:
        assert do(run, worker, lambda *_: None) == ("stored",)


def test_sign_in_with_masks_of_no_method_at_initialisation_is_refused() -> None:
    with pytest.raises(BadInput, match="Input should be one of random-uniform"):
        read("digits-lenet", ["method=sign-in", "search.masks=iterative"])


def test_aws_in_a_recipe_for_a_network_without_normalisations_is_refused_before_anything_is_trained() -> None:
    message = "recipe.dynamics: expected dynamics that lenet-20-10 can be trained with, found 'aws'"
    with pytest.raises(BadInput, match=message):
        read("digits-lenet", ["recipe.model=lenet-20-10", "recipe.dynamics={name='aws'}"])
    assert read("digits-lenet", ["recipe.model=resnet-8-w2", "recipe.dynamics={name='aws'}"]).spec.recipe.dynamics
