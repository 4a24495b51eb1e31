"""Pruned weights that are held at other values than 0: what is trained, what stays, what is kept of it."""

from pathlib import Path
from typing import Any

import pytest
import torch

from tombola import models, weights
from tombola.controls.pruned import all_if_grown, pruned_if_grown
from tombola.dynamics import Frozen, Setting, Timeline
from tombola.dynamics.held import Held
from tombola.errors import BadInput
from tombola.lab.attempt import do
from tombola.lab.kinds import Train
from tombola.lab.plan import Plan, plan
from tombola.lab.spec import Experiment, Spec
from tombola.lab.store import Store
from tombola.lab.worker import Worker
from tombola.mask import Mask

SPEC: dict[str, Any] = {
    "replicates": 1,
    "densities": [0.5, 0.1],
    "arms": ["ticket", "frozen", "frozen-if-grown", "initial-if-grown"],
    "engine": "reference",
    "recipe": {
        "model": "lenet-20-10",
        "data": "digits-300",
        "length": "24it",
        "batch": 60,
        "optimizer": {"name": "sgd", "lr": 0.1, "momentum": 0.9, "weight_decay": 1e-2},
    },
    "evaluate": {"every": "6it", "test_every": "24it"},
}


def planned(**changes: Any) -> Plan:
    return plan(Experiment(name="tiny", spec=Spec.model_validate(SPEC | changes)))


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> tuple[Plan, Worker]:
    wanted, worker = planned(), Worker(Store(tmp_path_factory.mktemp("store") / "store").open(), None)
    for run in wanted.runs:
        assert do(run, worker, lambda *seen: None) == ("stored",)
    return wanted, worker


def runs(wanted: Plan, arm: str) -> list[Train]:
    return [row.run for row in wanted.rows if row.arm == arm]


@pytest.mark.parametrize("arm", ["frozen", "frozen-if-grown", "initial-if-grown"])
def test_what_is_pruned_stays_where_it_began_and_what_is_kept_is_trained(lab: tuple[Plan, Worker], arm: str) -> None:
    wanted, worker = lab
    for ticket, run in zip(runs(wanted, "ticket"), runs(wanted, arm), strict=True):
        assert run.mask and run.mask == ticket.mask
        start, trained = worker.store.weights(run.start), worker.store.weights(run)
        values = worker.store.values(run)
        assert values["density"] == worker.store.values(ticket)["density"], "of those that are trained"
        held = 0
        for name, alive in worker.store.mask(run.mask).items():
            assert torch.equal(trained[name][~alive], start[name][~alive])
            assert (trained[name][alive] != start[name][alive]).any()
            held += int((trained[name][~alive] != 0).sum())
        assert values["held"] == held > 0


def test_the_rule_of_shrinking_is_that_of_the_trainings(lab: tuple[Plan, Worker]) -> None:
    """By hand: a weight that was pruned in a round has its value of that round's training, a kept one the last."""
    wanted, worker = lab
    for level, (frozen, one, two) in enumerate(
        zip(*(runs(wanted, arm) for arm in ("frozen", "frozen-if-grown", "initial-if-grown")), strict=True)
    ):
        early, kept = worker.store.weights(frozen.start), worker.store.mask(frozen.mask)
        chain, mask = [], frozen.mask
        while mask is not None:
            chain.append((worker.store.weights(mask.trained), worker.store.mask(mask)))
            mask = mask.mask
        ones, twos = worker.store.weights(one.start), worker.store.weights(two.start)
        assert level < len(chain)
        for name, alive in kept.items():
            flat = [values[name].flatten().tolist() for values, _ in reversed(chain)]
            masks = [mask[name].flatten().tolist() for _, mask in reversed(chain)]
            values = zip(early[name].flatten().tolist(), alive.flatten().tolist(), strict=True)
            for place, (begun, lives) in enumerate(values):
                rounds = next((number for number, mask in enumerate(masks) if not mask[place]), len(masks) - 1)
                grew = abs(flat[rounds][place]) >= abs(begun)
                assert ones[name].flatten()[place] == (begun if grew or lives else 0)
                assert twos[name].flatten()[place] == (begun if grew else 0)


def test_a_network_computes_with_held_weights_and_keeps_no_state_of_them() -> None:
    """Each step is that of a plain network in which held weights have no gradient, by another way."""
    model, other = (models.build("lenet-20-10", (1, 8, 8), 10, "glorot-normal", 0) for _ in range(2))
    names = ["fc1.weight", "fc2.weight"]
    begun = weights.of(model)
    mask = Mask(
        {name: torch.rand(begun[name].shape, generator=torch.Generator().manual_seed(1)) < 0.3 for name in names}
    )
    course = Held(Setting(model, mask, Timeline(0, 10, 10, 5)))
    optimizers = [torch.optim.SGD(each.parameters(), lr=0.1, momentum=0.9) for each in (model, other)]
    inputs, labels = torch.randn(30, 1, 8, 8), torch.randint(10, (30,))
    with course.along(optimizers[0]):
        for step in range(10):
            for each, optimizer in zip((model, other), optimizers, strict=True):
                optimizer.zero_grad()
                torch.nn.functional.cross_entropy(each(inputs), labels).backward()
                if each is other:
                    for name in names:
                        other.get_parameter(name).grad[~mask[name]] = 0  # type: ignore[index]
                    optimizer.step()
                else:
                    course.advance(optimizer, step)
    made, plain = course.weights(), weights.of(other)
    assert made.keys() == begun.keys()
    for name in made:
        torch.testing.assert_close(made[name], plain[name])
    for name in names:
        assert torch.equal(made[name][~mask[name]], begun[name][~mask[name]])
        original = model.get_parameter(f"{name[:-7]}.parametrizations.weight.original")
        momentum = optimizers[0].state[original]["momentum_buffer"]
        assert not original[~mask[name]].any() and not momentum[~mask[name]].any()


def test_a_training_done_again_is_the_same(lab: tuple[Plan, Worker]) -> None:  # K11
    wanted, worker = lab
    (*_, run) = runs(wanted, "frozen-if-grown")
    again = run.perform(worker)
    assert again.values == worker.store.values(run)
    for name, tensors in again.tensors.items():
        assert weights.equal(tensors, worker.store.tensors(run, name))


def test_what_a_step_takes_is_that_of_all_that_is_not_0() -> None:
    model = models.build("lenet-20-10", (1, 8, 8), 10, "glorot-normal", 0)
    layers = models.layers("lenet-20-10", (1, 8, 8), 10)
    mask = Mask({"fc1.weight": torch.arange(64 * 20).view(20, 64) < 100})
    with torch.no_grad():
        model.get_parameter("fc1.weight")[0, 60:] = 0  # kept, and 0 for now
        model.get_parameter("fc1.weight")[19, :] = 0  # pruned, and held at 0
    course = Frozen().course(Setting(model, mask, Timeline(0, 10, 10, 5), layers=layers))
    whole = 64 * 20 + 20 * 10 + 10 * 10
    assert course.multiply_adds(0) == 2 * (whole - 64) + (whole - 64 * 20 + 100)


def test_what_cannot_be_frozen_is_refused() -> None:
    with pytest.raises(BadInput, match="expected a mask that was pruned by the weights of one trained network"):
        planned(method="magnitude-init", arms=["ticket", "frozen-if-grown"])
    with pytest.raises(BadInput, match="one trained network after another"):  # of colt's rounds each has two
        planned(method="colt", arms=["ticket", "frozen-if-grown"], recipe=SPEC["recipe"] | {"data": "digits"})
    wanted = planned(method="magnitude-init", arms=["ticket", "frozen"])
    assert all(run.recipe.dynamics == Frozen() for run in runs(wanted, "frozen"))


def test_a_rule_without_trainings_between_is_that_of_one() -> None:
    early = {"w": torch.tensor([1.0, -2.0, 3.0, -4.0])}
    trained = {"w": torch.tensor([0.5, -2.5, 2.0, -4.0])}
    mask = Mask({"w": torch.tensor([True, False, False, False])})
    assert pruned_if_grown(early, mask, trained, 0)["w"].tolist() == [1.0, -2.0, 0.0, -4.0]
    assert all_if_grown(early, mask, trained, 0)["w"].tolist() == [0.0, -2.0, 0.0, -4.0]


@pytest.mark.parametrize("optimizer", [{"name": "sgd", "lr": 0.1, "momentum": 0.9}, {"name": "adam", "lr": 1e-2}])
def test_an_optimizer_is_carried_over_to_kept_weights_as_to_those_of_the_ticket(
    tmp_path: Path, optimizer: dict[str, Any]
) -> None:  # K8
    """Where nothing is pruned the two are one training; where something is, pruned weights bring nothing along."""
    recipe = SPEC["recipe"] | {"optimizer": optimizer}
    changes = {"rewind": "6it", "carry_optimizer": True, "arms": ["ticket", "frozen", "sign-in"], "recipe": recipe}
    worker = Worker(Store(tmp_path / "store").open(), None)
    for densities, prune in (([], {"rate": 0}), ([0.5], {})):
        wanted = planned(**changes, densities=densities, levels=1, prune=prune)
        for run in wanted.runs:
            assert worker.store.has(run) or do(run, worker, lambda *seen: None) == ("stored",)
        (ticket,), (frozen,) = runs(wanted, "ticket"), runs(wanted, "frozen")
        kept, held = (worker.store.tensors(run, "weights") for run in (ticket, frozen))
        alike = all(torch.allclose(held[name], kept[name], atol=1e-6) for name in kept)
        assert alike == (not densities)
        assert frozen.optimizer_state == ticket.optimizer_state == "carried"
