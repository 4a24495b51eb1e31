"""Masks of scores: which weights they keep, what the gradient of a score is, and that no weight is trained."""

from collections.abc import Iterator, Mapping
from math import sqrt
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.functional import cross_entropy

from tombola import prunable, weights
from tombola.dynamics.base import Dynamics, Setting, Timeline
from tombola.dynamics.score_training import ScoreCourse
from tombola.dynamics.supermasks import EdgePopup, GemMiner, SignedSupermask, Supermask, frozen_out
from tombola.mask import Mask
from tombola.models.layer import Layer
from tombola.prune import lowest
from tombola.steps import Step
from tombola.supermask import highest, highest_of, signed_constant, signed_deviation

STEPS = 6
SCORED = ".parametrizations.weight.0"  # where torch puts what makes a weight
ALL: dict[str, Dynamics] = {
    "edge-popup": EdgePopup(),
    "edge-popup, scaled": EdgePopup(weights="initial", scaled=True),
    "edge-popup, global": EdgePopup(scope="global"),
    "supermask": Supermask(),
    "supermask, rescaled": Supermask(rescaled=True, weights="initial"),
    "supermask, counted": Supermask(counted=True, begin="level", scope="global"),
    "signed-supermask": SignedSupermask(),
    "gem-miner": GemMiner(every=Step("2it")),
    "gem-miner, layer": GemMiner(every=Step("2it"), scope="layer"),
}
each_of_all = pytest.mark.parametrize("dynamics", ALL.values(), ids=ALL.keys())


def network() -> nn.Module:
    """A convolution with a normalisation behind it, and two linear layers."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(1, 4, 3),
            nn.BatchNorm2d(4),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(144, 12),
            nn.ReLU(),
            nn.Linear(12, 5),
        )


def at(model: nn.Module, path: str) -> Any:
    """A part of it."""
    return model.get_submodule(path)


def counts(model: nn.Module, density: float) -> Mask:
    """A mask that leaves so much of each layer, its first weights."""
    whole = prunable.full(model)
    return Mask(
        {
            name: (torch.arange(alive.numel()) < round(density * alive.numel())).view_as(alive)
            for name, alive in whole.items()
        }
    )


def begun(dynamics: Dynamics, model: nn.Module, density: float = 0.3, seed: int = 3) -> ScoreCourse:
    """A course of it on a model."""
    inputs = {"target": counts(model, density)}
    made = dynamics.course(Setting(model, prunable.full(model), Timeline(0, STEPS, STEPS, 10), seed, inputs))
    assert isinstance(made, ScoreCourse)
    return made


def batch(step: int) -> tuple[Tensor, Tensor]:
    """Some images and labels."""
    draw = torch.Generator().manual_seed(step)
    return torch.randn(8, 1, 8, 8, generator=draw), torch.randint(5, (8,), generator=draw)


def optimizer(model: nn.Module) -> torch.optim.Optimizer:
    """Momentum and weight decay, which move all that they may."""
    return torch.optim.SGD(model.parameters(), lr=0.5, momentum=0.9, weight_decay=1e-2, fused=True)


def steps(course: ScoreCourse, stepping: torch.optim.Optimizer, begin: int = 0, until: int = STEPS) -> Iterator[int]:
    """Train, and stop after each step."""
    model = course.setting.model.train()
    for step in range(begin, until):
        images, labels = batch(step)
        stepping.zero_grad()
        cross_entropy(model(images), labels).backward()
        course.advance(stepping, step)
        yield step + 1


def scores(course: ScoreCourse) -> dict[str, Tensor]:
    """The scores as they are, by the name of their weight."""
    return {
        name.replace(".parametrizations.weight.0.scores", ".weight"): value.detach().clone()
        for name, value in course.setting.model.named_parameters()
        if name.endswith(".scores")
    }


def frozen(model: nn.Module) -> dict[str, Tensor]:
    """All parameters but the scores."""
    return {name: value.detach().clone() for name, value in model.named_parameters() if not name.endswith(".scores")}


@given(values=st.lists(st.integers(0, 3), min_size=1, max_size=30), data=st.data())
def test_the_highest_are_exactly_so_many_and_ties_go_as_in_pruning(values: list[int], data: st.DataObject) -> None:
    keep = data.draw(st.integers(0, len(values)))  # C1 C2 C6 C19
    numbers = torch.tensor(values, dtype=torch.float32)
    kept = highest(numbers, keep)
    assert int(kept.sum()) == keep
    assert torch.equal(kept, lowest(numbers, torch.ones_like(kept), len(values) - keep))


def test_ties_between_layers_take_the_earlier_layer_first() -> None:
    kept = highest_of({"a": torch.ones(2), "b": torch.ones(2)}, {("a", "b"): 3})
    assert [kept["a"].tolist(), kept["b"].tolist()] == [[False, True], [True, True]]


@each_of_all
@pytest.mark.parametrize("density", [0.02, 0.3, 1.0])
def test_as_many_weights_live_as_the_level_leaves_at_every_step(dynamics: Dynamics, density: float) -> None:
    model = network()  # C1 C9
    asked = counts(model, density)
    course = begun(dynamics, model, density)
    for _ in steps(course, optimizer(model)):
        found = course.mask
        assert list(found) == list(asked)
        if getattr(dynamics, "scope", "") == "layer":
            assert found.counts == asked.counts
        assert found.alive == asked.alive
        made = course.weights()
        assert all(not made[name][~alive].any() for name, alive in found.items())


@each_of_all
def test_weights_biases_and_normalisations_never_move_and_statistics_do(dynamics: Dynamics) -> None:
    model = network()
    course = begun(dynamics, model)
    before, means = frozen(model), at(model, "1").running_mean.clone()
    began = scores(course)
    for _ in steps(course, optimizer(model)):
        pass
    after = frozen(model)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert not torch.equal(means, at(model, "1").running_mean)
    assert any(not torch.equal(began[name], value) for name, value in scores(course).items())


@each_of_all
def test_what_multiplies_is_the_weight_or_its_opposite_times_one_number(dynamics: Dynamics) -> None:
    model = network()
    plain = {"initial": lambda w: w, "signed-constant": signed_constant, "signed-deviation": signed_deviation}
    chosen = plain[str(dict(dynamics)["weights"])]
    expected = {name: chosen(value) for name, value in weights.of(model).items() if name in prunable.full(model)}
    course = begun(dynamics, model)
    for _ in steps(course, optimizer(model)):
        pass
    made, signed = course.weights(), isinstance(dynamics, SignedSupermask)
    assert made.keys() == weights.of(network()).keys()
    for name, alive in course.mask.items():
        ratios = (made[name] / expected[name])[alive]
        assert torch.allclose(ratios.abs(), ratios.abs()[:1].expand_as(ratios), rtol=1e-6)
        assert signed or bool((ratios > 0).all())
    if signed:
        assert any(bool((made[name] * expected[name] < 0).any()) for name in expected)


@each_of_all
def test_the_network_that_is_looked_at_has_the_weights_that_it_ends_with(dynamics: Dynamics) -> None:
    model, plain = network(), network()
    course = begun(dynamics, model)
    for _ in steps(course, optimizer(model)):
        pass
    images, _ = batch(99)
    weights.put(plain, course.weights())
    assert torch.equal(plain.eval()(images), model.eval()(images))


def by_hand(dynamics: Dynamics, scored: Mapping[str, Tensor], hard: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """ds from dL/dw_eff of a plain network, by the formulas."""
    model = network()
    images, labels = batch(0)
    plain = weights.of(model)
    assert getattr(dynamics, "weights", "") == "initial"
    factors = {name: mask.numel() / mask.abs().sum() for name, mask in hard.items()}
    factor = {name: factors[name].sqrt() if getattr(dynamics, "scaled", False) else torch.tensor(1.0) for name in hard}
    if getattr(dynamics, "rescaled", False):
        factor = factors
    effective = {name: (plain[name] * hard[name] * factor[name]).requires_grad_() for name in hard}
    loss = cross_entropy(functional_call(model.train(), {**plain, **effective}, images), labels)
    gradients = dict(zip(effective, torch.autograd.grad(loss, list(effective.values())), strict=True))
    made = {}
    for name, gradient in gradients.items():
        own = gradient * plain[name] * factor[name]
        if getattr(dynamics, "rescaled", False):  # d(n / |m|)/dm_i = -n / |m|^2
            own = own - (gradient * plain[name] * hard[name]).sum() * factor[name] / hard[name].sum()
        s = scored[name]
        through = {"edge-popup": s.sign(), "supermask": s.sigmoid() * (1 - s.sigmoid())}
        made[name] = own * through.get(dynamics.name, torch.ones_like(s))
    return made


@pytest.mark.parametrize(
    "dynamics",
    [
        EdgePopup(weights="initial"),
        EdgePopup(weights="initial", scaled=True),
        Supermask(weights="initial", begin=0.7),
        Supermask(weights="initial", rescaled=True),
        SignedSupermask(weights="initial"),
        GemMiner(weights="initial", every=Step("2it")),
    ],
    ids=repr,
)
def test_the_gradient_of_a_score_is_that_of_its_weight_times_the_weight(dynamics: Dynamics) -> None:
    model = network()
    course = begun(dynamics, model)
    began = scores(course)
    own = {name: at(model, name.replace(".weight", SCORED)) for name in began}
    hard = {name: each.hard.clone() for name, each in own.items()}
    images, labels = batch(0)
    cross_entropy(model.train()(images), labels).backward()
    expected = by_hand(dynamics, began, hard)
    for name in began:
        found = own[name].scores.grad
        assert torch.allclose(found, expected[name], rtol=1e-4, atol=1e-6)
        hidden = hard[name] == 0
        assert bool(found[hidden].any()) or not bool(hidden.any())  # hidden weights can come up


@each_of_all
def test_a_course_that_is_put_back_goes_on_as_if_nothing_had_been(dynamics: Dynamics) -> None:
    model = network()
    course, stepping = begun(dynamics, model), optimizer(model)
    for step in steps(course, stepping):
        if step == 3:
            kept, held, remembered = weights.of(model), stepping.state_dict(), course.state()
            held = {**held, "state": {key: {k: v.clone() for k, v in s.items()} for key, s in held["state"].items()}}
    other = network()
    again = begun(dynamics, other)
    weights.put(other, kept)
    again.load(remembered)
    resumed = optimizer(other)
    resumed.load_state_dict(held)
    for _ in steps(again, resumed, begin=3):
        pass
    assert weights.equal(course.weights(), again.weights())
    assert weights.equal(weights.of(model), weights.of(other))
    assert course.mask == again.mask


@each_of_all
def test_another_seed_draws_other_scores_and_the_same_the_same(dynamics: Dynamics) -> None:
    def end(seed: int) -> dict[str, Tensor]:
        model = network()
        course = begun(dynamics, model, seed=seed)
        for _ in steps(course, optimizer(model)):
            pass
        return course.weights()

    assert weights.equal(end(3), end(3))
    assert not weights.equal(end(3), end(4))


def test_all_weights_kept_are_the_plain_network() -> None:
    model, plain = network(), network()
    course = begun(EdgePopup(weights="initial", scaled=True), model, density=1.0)
    images, _ = batch(0)
    assert torch.equal(plain.train()(images), model.train()(images))
    for _ in steps(course, optimizer(model)):
        pass
    made = {name: value for name, value in course.weights().items() if "running" not in name and "tracked" not in name}
    assert all(torch.equal(made[name], value) for name, value in weights.of(network()).items() if name in made)


def test_a_supermask_draws_each_weight_with_its_probability() -> None:
    model = nn.Sequential(nn.Linear(200, 100), nn.Linear(100, 2))
    course = begun(Supermask(begin=0.8), model)
    drawn: list[Tensor] = []
    for _ in range(20):
        course.advance(torch.optim.SGD(model.parameters(), lr=0.0), len(drawn))
        drawn.append(at(model, f"0{SCORED}").hard.mean())
    assert abs(float(torch.stack(drawn).mean()) - 0.8) < 4 * sqrt(0.16 / 400_000)
    assert len(set(map(float, drawn))) > 10  # anew each time
    course.setting.model.eval()
    assert course.mask == course.mask  # and once where it is looked at


def test_gem_miner_freezes_the_lowest_for_good_down_to_the_level() -> None:
    model = network()
    course = begun(GemMiner(every=Step("2it")), model, density=0.1)
    whole, left, path = course.setting.mask.total, course.mask.alive, "open/"
    opened = {0: sum(int(value.sum()) for name, value in course.state().items() if name.startswith(path))}
    before = course.state()
    for step in steps(course, optimizer(model)):
        state = course.state()
        assert all(not bool((state[name] & ~before[name]).any()) for name in state if name.startswith(path))
        opened[step] = sum(int(value.sum()) for name, value in state.items() if name.startswith(path))
        before = state
        assert all(float(value.min()) >= 0 and float(value.max()) <= 1 for value in scores(course).values())
    middle = -int(-whole * sqrt(left / whole))  # after one of two freezings, rounded up
    assert opened == {0: whole, 1: whole, 2: opened[2], 3: opened[2], 4: left, 5: left, 6: left}
    assert abs(opened[2] - middle) <= 1
    still = {name: value for name, value in course.mask.items()}
    assert all(torch.equal(before[f"open/{name}"], alive) for name, alive in still.items())


def test_after_freezings_so_many_are_left_by_the_formula() -> None:
    found = frozen_out({("a",): 1000, ("b",): 7}, {("a",): 1, ("b",): 7}, [5, 10, 15])
    assert [found[step][("a",)] for step in (5, 10, 15)] == [100, 10, 1]
    assert {found[step][("b",)] for step in (5, 10, 15)} == {7}


def test_signed_constants_have_the_deviation_that_they_say() -> None:
    drawn = torch.randn(50, 20, 3, 3, generator=torch.Generator().manual_seed(0))
    assert torch.equal(signed_constant(drawn).sign(), drawn.sign())
    assert torch.allclose(signed_constant(drawn).abs(), torch.full_like(drawn, sqrt(2 / 180)))
    assert torch.allclose(signed_deviation(drawn).abs(), torch.full_like(drawn, float(drawn.std(correction=0))))


def test_a_step_costs_two_ways_of_its_mask_and_the_gradients_of_all_open_scores() -> None:
    model = nn.Sequential(nn.Linear(20, 10), nn.ReLU(), nn.Linear(10, 5))
    layers = {"0.weight": Layer("linear", 20, 10), "2.weight": Layer("output", 10, 5)}
    inputs = {"target": counts(model, 0.1)}
    setting = Setting(model, prunable.full(model), Timeline(0, 6, 6, 10), 3, inputs, layers, products=7)
    popped = EdgePopup().course(setting)
    popped.advance(torch.optim.SGD(model.parameters(), lr=0.1), 0)
    assert popped.multiply_adds(0) == 2 * (20 + 5) + (200 + 50) + 3 * 7
