"""The loop: any module, any mask, from one step to another."""

import re
from collections.abc import Callable
from functools import wraps
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from tombola import mask, models, prunable, weights
from tombola.errors import GuardLost
from tombola.mask import Mask
from tombola.optimizers import optimizer_of, restore_state, state_of
from tombola.recipe import SGD, Adam, AdamW, Optimizer, Recipe, learning_rate
from tombola.train import Span, losses, train

OPTIMISERS: dict[str, Optimizer] = {
    "sgd": SGD(name="sgd", lr=0.5),
    "momentum": SGD(name="sgd", lr=0.5, momentum=0.9, weight_decay=0.1),
    "nesterov": SGD(name="sgd", lr=0.5, momentum=0.9, nesterov=True),
    "adam": Adam(name="adam", lr=0.1),
    "adamw": AdamW(name="adamw", lr=0.1, weight_decay=0.1),
}
optimisers = pytest.mark.parametrize("name", OPTIMISERS)


def network() -> nn.Sequential:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(4, 8, bias=False), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))


def batch_of(step: int) -> tuple[Tensor, Tensor]:
    """Eight examples of step `step`, the same whenever it is asked for."""
    generator = torch.Generator().manual_seed(step)
    return torch.randn(8, 4, generator=generator), torch.randint(3, (8,), generator=generator)


def half(model: nn.Module) -> Mask:
    return Mask(
        {name: (torch.arange(alive.numel()) % 2 == 0).view_as(alive) for name, alive in prunable.full(model).items()}
    )


def ignore(step: int) -> None:
    """Nobody watches."""


def run(
    model: nn.Module,
    value: Optimizer,
    kept: Mask,
    begin: int = 0,
    until: int = 10,
    state: dict[str, Tensor] | None = None,
    rate: Callable[[int], float] = lambda step: 0.1 / (1 + step),
    watch: Callable[[int], None] = ignore,
) -> dict[str, Tensor]:
    """Train `model` in place with a fresh optimiser, or one that starts with `state`; returns its last state."""
    optimizer = optimizer_of(value, model)
    if state is not None:
        restore_state(optimizer, model, state)
    train(model, optimizer, kept, losses(model, batch_of), Span(begin, until, rate, range(begin, until + 1)), watch)
    return state_of(optimizer, model)


# ---------------------------------------------------------------- the optimisers


@pytest.mark.parametrize(
    ("name", "kind", "options"),
    [
        ("sgd", torch.optim.SGD, {"lr": 0.5, "momentum": 0.0, "nesterov": False, "weight_decay": 0.0}),
        ("momentum", torch.optim.SGD, {"lr": 0.5, "momentum": 0.9, "nesterov": False, "weight_decay": 0.1}),
        ("nesterov", torch.optim.SGD, {"lr": 0.5, "momentum": 0.9, "nesterov": True, "weight_decay": 0.0}),
        ("adam", torch.optim.Adam, {"lr": 0.1, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.0}),
        ("adamw", torch.optim.AdamW, {"lr": 0.1, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.1}),
    ],
)
def test_a_recipes_optimiser_becomes_torchs(name: str, kind: type, options: dict[str, Any]) -> None:  # K8
    made = optimizer_of(OPTIMISERS[name], network())
    assert type(made) is kind
    (group,) = made.param_groups
    assert {option: group[option] for option in options} == options
    assert len(group["params"]) == 5, "weights, biases and norms all train"


@optimisers
def test_a_new_optimiser_remembers_nothing(name: str) -> None:  # M4 R5 R7
    model = network()
    run(model, OPTIMISERS[name], half(model))
    assert state_of(optimizer_of(OPTIMISERS[name], model), model) == {}


# ---------------------------------------------------------------- one step by hand


def test_one_step_of_a_linear_net_solved_by_hand() -> None:
    """Softmax regression: W <- m * (W - lr (softmax(XW') - Y)' X / N)."""
    model = nn.Linear(4, 3)
    kept = Mask({"weight": torch.tensor([[1, 0, 1, 1], [1, 1, 0, 1], [0, 1, 1, 1]]).bool()})
    m, start = kept["weight"].double(), weights.of(model)
    w, b = start["weight"].double() * m, start["bias"].double()
    x, labels = batch_of(0)[0].double(), batch_of(0)[1]
    error = (torch.softmax(x @ w.T + b, dim=1) - functional.one_hot(labels, 3)) / 8
    run(model, OPTIMISERS["sgd"], kept, until=1, rate=lambda step: 0.3)
    assert torch.allclose(model.weight.double(), m * (w - 0.3 * error.T @ x), atol=1e-6)
    assert torch.allclose(model.bias.double(), b - 0.3 * error.sum(dim=0), atol=1e-6)


def test_the_loop_learns() -> None:
    model = network()

    def easy(step: int) -> tuple[Tensor, Tensor]:
        inputs = torch.randn(64, 4, generator=torch.Generator().manual_seed(step))
        return inputs, inputs[:, :3].argmax(dim=1)

    train(
        model,
        optimizer_of(OPTIMISERS["adam"], model),
        prunable.full(model),
        losses(model, easy),
        Span(0, 300, lambda step: 0.03),
        ignore,
    )
    inputs, labels = easy(1000)
    assert (model.eval()(inputs).argmax(dim=1) == labels).sum() >= 54, "by chance a third of 64"


# ---------------------------------------------------------------- watching, rates, steps


def test_who_watches_sees_every_step_from_begin_to_until_before_it_is_done() -> None:  # R6
    model, seen = network(), list[tuple[int, list[float]]]()
    optimizer = optimizer_of(OPTIMISERS["sgd"], model)

    def look(step: int) -> None:
        seen.append((step, model.get_parameter("3.bias").tolist()))

    train(
        model,
        optimizer,
        prunable.full(model),
        losses(model, batch_of),
        Span(3, 6, lambda step: 0.1, range(3, 6 + 1)),
        look,
    )
    assert [step for step, _ in seen] == [3, 4, 5, 6]
    assert len({str(bias) for _, bias in seen}) == 4, "each step moved the model, the last one before the last look"


def test_the_first_look_sees_the_masked_start() -> None:  # M5 R6
    model, first = network(), list[dict[str, Tensor]]()
    start, kept = weights.of(model), half(network())
    run(model, OPTIMISERS["sgd"], kept, until=2, watch=lambda step: first.append(weights.of(model)))
    assert weights.equal(first[0], mask.apply(start, kept))


def test_every_step_has_the_rate_of_its_number() -> None:  # R5 R13
    model, seen, asked = network(), list[float](), list[int]()
    optimizer = optimizer_of(OPTIMISERS["momentum"], model)
    optimizer.register_step_pre_hook(lambda *_: seen.append(optimizer.param_groups[0]["lr"]))

    def rate(step: int) -> float:
        asked.append(step)
        return 1 / (1 + step)

    train(model, optimizer, half(model), losses(model, batch_of), Span(4, 7, rate), ignore)
    assert seen == [1 / 5, 1 / 6, 1 / 7] and asked == [4, 5, 6]


def test_a_rewound_training_has_the_rates_of_the_first_in_every_round() -> None:  # R5 R13
    recipe = Recipe.model_validate(
        {
            "model": "lenet-4",
            "data": "digits",
            "length": "8it",
            "batch": 8,
            "optimizer": {"name": "sgd", "lr": 0.1},
            "warmup": "2it",
            "schedule": {"name": "step", "milestones": ["6it"]},
        }
    )
    rounds: list[list[float]] = []
    for begin in (0, 3, 3):
        model = network()
        optimizer = optimizer_of(recipe.optimizer, model)
        seen: list[float] = []
        optimizer.register_step_pre_hook(
            lambda *_, seen=seen, optimizer=optimizer: seen.append(optimizer.param_groups[0]["lr"])
        )
        train(
            model,
            optimizer,
            half(model),
            losses(model, batch_of),
            Span(begin, 8, lambda step: learning_rate(recipe, step, 4)),
            ignore,
        )
        rounds.append(seen)
    assert rounds[0] == pytest.approx([0.0, 0.05, 0.1, 0.1, 0.1, 0.1, 0.01, 0.01])
    assert rounds[1] == rounds[2] == rounds[0][3:]


def test_no_steps_only_mask_and_look() -> None:  # R6
    model, seen = network(), list[int]()
    start, kept = weights.of(model), half(model)
    run(model, OPTIMISERS["adam"], kept, begin=5, until=5, watch=seen.append)
    assert seen == [5] and weights.equal(weights.of(model), mask.apply(start, kept))


def test_a_look_may_put_the_model_into_evaluation_mode_and_back() -> None:
    watched, alone = network(), network()

    def look(step: int) -> None:
        watched.eval()
        watched(batch_of(step)[0])
        watched.train()

    run(watched, OPTIMISERS["adam"], half(watched), watch=look)
    run(alone.eval(), OPTIMISERS["adam"], half(alone))
    assert weights.equal(weights.of(watched), weights.of(alone))


# ---------------------------------------------------------------- the same again


@optimisers
def test_the_same_training_gives_the_same_bytes(name: str) -> None:  # K11 K12
    results = []
    for seed in (1, 2):
        torch.manual_seed(seed)  # the process-wide state has no say
        model = network()
        results.append((run(model, OPTIMISERS[name], half(model)), weights.of(model)))
    (state, trained), (state_again, trained_again) = results
    assert weights.equal(trained, trained_again) and weights.equal(state, state_again)


@optimisers
def test_two_parts_with_the_state_carried_over_are_the_whole(name: str) -> None:  # R8 R9 S4
    whole, parts = network(), network()
    kept = half(whole)
    last = run(whole, OPTIMISERS[name], kept, until=10)
    state = run(parts, OPTIMISERS[name], kept, until=4)
    point = weights.of(parts)
    resumed = network()
    weights.put(resumed, point)
    last_of_parts = run(resumed, OPTIMISERS[name], kept, begin=4, until=10, state=state)
    assert weights.equal(weights.of(resumed), weights.of(whole)) and weights.equal(last_of_parts, last)


@optimisers
def test_a_fresh_optimiser_gives_another_training_where_it_has_a_memory(name: str) -> None:  # M4
    """So that the test above is known to see a state that is not carried over."""
    whole, parts = network(), network()
    kept = half(whole)
    run(whole, OPTIMISERS[name], kept, until=10)
    run(parts, OPTIMISERS[name], kept, until=4)
    run(parts, OPTIMISERS[name], kept, begin=4, until=10)
    assert weights.equal(weights.of(parts), weights.of(whole)) == (name == "sgd")


def test_three_rounds_from_one_rewind_point_start_from_the_same_bytes() -> None:  # R1 R2 R3 R6 M4
    model = network()
    run(model, OPTIMISERS["momentum"], prunable.full(model), until=3)
    point = weights.of(model)
    frozen = {name: value.numpy().tobytes() for name, value in point.items()}
    finals = []
    for _ in range(3):
        weights.put(model, point)
        run(model, OPTIMISERS["momentum"], half(model), begin=3, until=8)
        finals.append(weights.of(model))
        assert {name: value.numpy().tobytes() for name, value in point.items()} == frozen
    assert weights.equal(finals[0], finals[1]) and weights.equal(finals[0], finals[2])


@optimisers
def test_what_a_pruned_weight_held_before_makes_no_difference(name: str) -> None:  # M5
    clean, dirty = network(), network()
    kept = half(clean)
    huge = {
        layer: value.masked_fill(~kept[layer], 1e6) if layer in kept else value
        for layer, value in weights.of(dirty).items()
    }
    weights.put(dirty, huge)
    run(clean, OPTIMISERS[name], kept)
    run(dirty, OPTIMISERS[name], kept)
    assert weights.equal(weights.of(clean), weights.of(dirty))


@optimisers
def test_after_training_the_model_computes_what_its_mask_says(name: str) -> None:  # M1 M5 R10
    model, other = network(), network()
    kept = half(model)
    run(model, OPTIMISERS[name], kept)
    trained = weights.of(model)
    assert weights.equal(trained, mask.apply(trained, kept))
    huge = {layer: value.masked_fill(~kept[layer], 1e6) if layer in kept else value for layer, value in trained.items()}
    weights.put(other, mask.apply(huge, kept))
    inputs = batch_of(99)[0]
    assert torch.equal(other.eval()(inputs), model.eval()(inputs))


def test_everything_trains_but_the_pruned() -> None:  # M6 K8
    model = network()
    kept, before = half(model), weights.of(model)
    run(model, OPTIMISERS["adam"], kept)
    after = weights.of(model)
    assert all((after[name] != before[name]).any() for name in before)
    assert (after["3.weight"] != before["3.weight"])[kept["3.weight"] & (before["3.weight"] < 0)].all()


# ---------------------------------------------------------------- the guard is on


def test_an_optimiser_that_goes_round_the_guard_is_found_out() -> None:  # M8
    model = network()
    optimizer = optimizer_of(OPTIMISERS["momentum"], model)
    bare: Callable[..., Any] = torch.optim.SGD.step.__wrapped__  # type: ignore[attr-defined]

    @wraps(bare)
    def step_without_hooks(*args: Any) -> Any:
        return bare(optimizer, *args)

    optimizer.step = step_without_hooks  # type: ignore[method-assign, assignment]
    message = "0.weight: expected every pruned weight to be 0, found "
    with pytest.raises(GuardLost, match=f"^{re.escape(message)}"):
        train(model, optimizer, half(model), losses(model, batch_of), Span(0, 2, lambda step: 0.1), ignore)


def test_the_guard_is_off_when_the_training_is_done() -> None:
    model = network()
    optimizer = optimizer_of(OPTIMISERS["sgd"], model)
    train(model, optimizer, half(model), losses(model, batch_of), Span(0, 2, lambda step: 0.1), ignore)
    inputs, labels = batch_of(2)
    functional.cross_entropy(model(inputs), labels).backward()
    optimizer.step()
    assert model.get_parameter("3.weight").detach()[~half(model)["3.weight"]].any()


# ---------------------------------------------------------------- the optimiser's state as a value


@pytest.mark.parametrize(
    ("name", "entries"),
    [
        ("sgd", set()),
        ("momentum", {"momentum_buffer"}),
        ("adam", {"step", "exp_avg", "exp_avg_sq"}),
        ("adamw", {"step", "exp_avg", "exp_avg_sq"}),
    ],
)
def test_the_state_is_named_by_entry_and_parameter(name: str, entries: set[str]) -> None:
    model = network()
    state = run(model, OPTIMISERS[name], half(model))
    assert set(state) == {f"{entry}/{parameter}" for entry in entries for parameter, _ in model.named_parameters()}


def test_the_state_is_copied_out_and_in() -> None:  # R1 K5
    model = network()
    kept = half(model)
    state = run(model, OPTIMISERS["adam"], kept, until=2)
    frozen = {name: value.clone() for name, value in state.items()}
    run(model, OPTIMISERS["adam"], kept, begin=2, until=6, state=state)
    assert weights.equal(state, frozen)
    assert float(state["step/0.weight"]) == 2


def test_the_state_of_pruned_weights_is_0() -> None:  # M1 M2
    model = network()
    kept = half(model)
    dense = run(model, OPTIMISERS["adam"], prunable.full(model), until=3)
    assert dense["exp_avg/0.weight"][~kept["0.weight"]].any()
    for begin, state in ((0, None), (3, dense)):
        last = run(model, OPTIMISERS["adam"], kept, begin=begin, until=5, state=state)
        for name, alive in kept.items():
            assert not last[f"exp_avg/{name}"][~alive].any() and not last[f"exp_avg_sq/{name}"][~alive].any()


@pytest.mark.parametrize("value", [
    SGD(name="sgd", lr=0.1, momentum=0.9, weight_decay=0.1, decay="kernels"),
    Adam(name="adam", lr=0.1, weight_decay=0.1, decay="kernels"),
    AdamW(name="adamw", lr=0.1, weight_decay=0.1, decay="kernels"),
])  # fmt: skip
def test_of_kernels_alone_biases_do_not_decay(value: Any) -> None:
    ours, theirs = (models.build("lenet-5", (1, 28, 28), 10, "glorot-normal", init_seed=0) for _ in range(2))
    named = dict(theirs.named_parameters())
    kernels, biases = ([one for name, one in named.items() if name.endswith(end)] for end in ("weight", "bias"))
    options = value.model_dump(exclude={"name", "decay"})
    kind = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[value.name]
    plain = kind([{"params": kernels}, {"params": biases, "weight_decay": 0.0}], **options)
    images = torch.randn(8, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    for model, optimizer in ((ours, optimizer_of(value, ours)), (theirs, plain)):
        for bias in (one for name, one in model.named_parameters() if name.endswith("bias")):
            torch.nn.init.ones_(bias)
        for _ in range(3):
            optimizer.zero_grad()
            model(images).square().mean().backward()
            optimizer.step()
    for name, one in ours.named_parameters():
        assert torch.allclose(one, named[name], atol=1e-6)


def test_whether_biases_decay_is_in_the_recipe_only_where_they_do_not() -> None:
    assert "decay" not in SGD(name="sgd", lr=0.1).model_dump()
    assert SGD(name="sgd", lr=0.1, decay="kernels").model_dump()["decay"] == "kernels"
