"""Scores of gradients against finite differences, which share no code with them; SynFlow against what it conserves."""

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from tombola import models, prunable, saliency, score, weights
from tombola.errors import BadInput
from tombola.mask import Mask
from tombola.pruning import Round
from tombola.score import Scored
from tombola.scores import SCORES

Losses = Callable[[Mapping[str, Tensor]], Tensor]
OF_GRADIENTS = ("gradient", "snip", "grasp", "grasp-magnitude", "synflow", "prospr")
NUDGE = 1e-5


class Smooth(nn.Module):
    """Small, and with derivatives of every order: 3 inputs, 4 hidden units, 3 classes."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(3, 4), nn.Linear(4, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        outputs: Tensor = self.second(self.first(inputs).tanh())
        return outputs


def drawn(model: nn.Module, seed: int = 0) -> nn.Module:
    """`model` in float64, with weights of a size at which curvature is felt."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.double().parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    return model


def examples(count: int, size: int = 5, features: int = 3) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    return [
        (torch.randn(size, features, generator=generator).double(), torch.randint(3, (size,), generator=generator))
        for _ in range(count)
    ]


def seen(model: nn.Module, batches: list[Any], living: Mask | None = None) -> Scored:
    mask = living or prunable.full(model)
    values = {name: each * mask[name] if name in mask else each for name, each in weights.of(model).items()}
    return replace(Scored.of(model, mask), weights=values, batches=batches)


def half(model: nn.Module) -> Mask:
    """Every second weight."""
    return Mask(
        {name: torch.arange(own.numel()).view(own.shape) % 2 == 0 for name, own in prunable.full(model).items()}
    )


def loss_by_hand(theta: Mapping[str, Tensor], batch: tuple[Tensor, Tensor], temperature: float = 1.0) -> Tensor:
    """The cross-entropy of `Smooth`, written out."""
    inputs, labels = batch
    hidden = (inputs @ theta["first.weight"].T + theta["first.bias"]).tanh()
    outputs = (hidden @ theta["second.weight"].T + theta["second.bias"]) / temperature
    return (outputs.logsumexp(1) - outputs[torch.arange(len(labels)), labels]).mean()


def central(function: Losses, at: Mapping[str, Tensor], name: str, step: float = NUDGE) -> Tensor:
    """The derivative of a number by each entry of at[name], from two values of it."""
    found = torch.zeros_like(at[name])
    for place in range(found.numel()):
        ends = []
        for sign in (1, -1):
            moved = at[name].clone()
            moved.view(-1)[place] += sign * step
            ends.append(function({**at, name: moved}))
        found.view(-1)[place] = (ends[0] - ends[1]) / (2 * step)
    return found


def gradient_by_hand(at: Mapping[str, Tensor], batch: tuple[Tensor, Tensor], **how: float) -> dict[str, Tensor]:
    """The gradient of `Smooth`'s loss by the rules for products and the softmax."""
    inputs, labels = batch
    temperature = how.get("temperature", 1.0)
    hidden = (inputs @ at["first.weight"].T + at["first.bias"]).tanh()
    outputs = (hidden @ at["second.weight"].T + at["second.bias"]) / temperature
    errors = (outputs.softmax(1) - functional.one_hot(labels, 3)) / len(labels) / temperature
    back = errors @ at["second.weight"] * (1 - hidden**2)
    return {
        "first.weight": back.T @ inputs,
        "first.bias": back.sum(0),
        "second.weight": errors.T @ hidden,
        "second.bias": errors.sum(0),
    }


def theta_of(scored: Scored) -> dict[str, Tensor]:
    return dict(scored.weights)


def close(found: Mapping[str, Tensor], expected: Mapping[str, Tensor], rtol: float = 1e-6) -> bool:
    largest = max(float(each.abs().max()) for each in expected.values())
    return found.keys() == expected.keys() and all(
        torch.allclose(found[name], expected[name], rtol=rtol, atol=rtol * largest) for name in found
    )


@pytest.mark.parametrize("sparse", [False, True])
def test_snip_is_how_fast_the_loss_changes_with_a_weights_presence(sparse: bool) -> None:
    """dL/dc by finite differences in c, the sum over batches before its size is taken."""
    model, batches = drawn(Smooth()), examples(2)
    scored = seen(model, batches, half(model) if sparse else None)
    theta, ones = theta_of(scored), {name: torch.ones_like(scored.weights[name]) for name in scored.mask}

    def loss(presence: Mapping[str, Tensor]) -> Tensor:
        there = theta | {name: presence[name] * theta[name] for name in presence}
        return sum((loss_by_hand(there, batch) for batch in batches), torch.zeros(()))

    expected = {name: central(loss, ones, name).abs() for name in scored.mask}
    assert close(saliency.snip(scored), expected)
    assert close(
        saliency.gradient(scored),
        {name: central(lambda at: loss_of(at, batches), theta, name).abs() for name in scored.mask},
    )


def loss_of(theta: Mapping[str, Tensor], batches: list[tuple[Tensor, Tensor]]) -> Tensor:
    return sum((loss_by_hand(theta, batch) for batch in batches), torch.zeros(()))


@pytest.mark.parametrize("temperature", [1.0, 200.0])
@pytest.mark.parametrize("sparse", [False, True])
def test_grasp_is_how_half_the_squared_gradient_changes_with_a_weight(sparse: bool, temperature: float) -> None:
    """Its directional derivative along each weight, of gradients written out by hand: only of what is scored."""
    model, batches = drawn(Smooth()), examples(2)
    scored = seen(model, batches, half(model) if sparse else None)
    theta = theta_of(scored)

    def flow(at: Mapping[str, Tensor]) -> Tensor:
        parts = [gradient_by_hand(at, batch, temperature=temperature) for batch in batches]
        return (
            torch.stack(
                [sum((part[name] for part in parts), torch.zeros(())).square().sum() for name in scored.mask]
            ).sum()
            / 2
        )

    expected = {name: theta[name] * central(flow, theta, name) for name in scored.mask}
    assert close(saliency.grasp(scored, temperature), expected, rtol=1e-5)
    if temperature == saliency.TEMPERATURE:
        assert close(saliency.grasp_magnitude(scored), {name: each.abs() for name, each in expected.items()}, 1e-5)


def test_grasp_lets_go_what_slows_the_loss_down() -> None:
    """L = (w - 1)^2 / 2: -w H g is +.25 at w = .5, which goes before w = 2, at -2."""
    model = nn.Linear(1, 2, bias=False).double()
    model.weight.data = torch.tensor([[0.5], [2.0]]).double()
    scored = replace(
        seen(model, [torch.ones(1, 1).double()]), loss=lambda model, inputs: (model(inputs) - 1).square().sum() / 2
    )
    found = saliency.grasp(scored, temperature=1)
    assert found["weight"].flatten().tolist() == [-0.25, 2.0]
    after = Round(rates=(("*", 0.5),)).next(scored.mask, found, prunable.prunable(model))
    assert after["weight"].flatten().tolist() == [False, True]


@pytest.mark.parametrize("sparse", [False, True])
def test_prospr_is_how_the_loss_after_three_steps_changes_with_a_weights_presence(sparse: bool) -> None:
    """Of SGD steps written by hand; finite differences go through all of them, and know no second derivative."""
    model, batches = drawn(Smooth()), examples(4)
    scored = seen(model, batches, half(model) if sparse else None)
    theta, ones = theta_of(scored), {name: torch.ones_like(scored.weights[name]) for name in scored.mask}

    def ahead(presence: Mapping[str, Tensor]) -> Tensor:
        at = theta | {name: presence[name] * theta[name] for name in presence}
        speed = {name: torch.zeros_like(value) for name, value in at.items()}
        for batch in batches[:3]:
            g = gradient_by_hand(at, batch)
            for name in at:
                living = scored.mask[name] if name in scored.mask else torch.ones(())
                speed[name] = 0.9 * speed[name] + living * g[name]
                at[name] = at[name] - 0.5 * speed[name]
        return loss_by_hand(at, batches[3])

    expected = {name: central(ahead, ones, name).abs() for name in scored.mask}
    assert close(saliency.prospr(scored), expected, rtol=1e-5)


def test_prospr_without_a_step_is_snip_and_goes_round_few_batches() -> None:
    scored = seen(drawn(Smooth()), examples(1))
    assert close(saliency.prospr(scored, steps=0), saliency.snip(scored))
    again = replace(scored, batches=[*scored.batches] * 4)
    assert close(saliency.prospr(scored), saliency.prospr(again))


def conv_net(bias: bool) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(2, 3, 3, padding=1, bias=bias), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
        nn.Linear(12, 5, bias=bias), nn.ReLU(), nn.Linear(5, 3, bias=bias),
    )  # fmt: skip


def pictures(count: int = 2) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(2)
    return [(torch.rand(3, 2, 4, 4, generator=generator), torch.tensor([0, 1, 2])) for _ in range(count)]


@pytest.mark.parametrize(("sparse", "bias"), [(False, False), (True, False), (False, True)])
def test_synflow_is_conserved_from_layer_to_layer(sparse: bool, bias: bool) -> None:
    """Biases, which nobody asks it to score, add nothing."""
    model = drawn(conv_net(bias)).float()
    found = saliency.synflow(seen(model, pictures(), half(model) if sparse else None))
    sums = [float(each.sum()) for each in found.values()]
    assert len(sums) == 3 and sums == pytest.approx([sums[0]] * 3, rel=1e-12) and sums[0] > 0


@pytest.mark.parametrize("bias", [False, True])
def test_synflow_is_conserved_at_each_hidden_unit(bias: bool) -> None:
    """What comes in, the unit's bias included, goes out."""
    model = drawn(nn.Sequential(nn.Linear(4, 6, bias=bias), nn.ReLU(), nn.Linear(6, 3, bias=bias)))
    every = prunable.full_over(model, [name for name, _ in model.named_parameters()])
    found = saliency.synflow(seen(model, examples(1, features=4), every))
    incoming = found["0.weight"].sum(1) + (found["0.bias"] if bias else 0)
    assert torch.allclose(incoming, found["2.weight"].sum(0), rtol=1e-12)


def test_synflow_passes_a_normalisation_by_its_size_whatever_the_signs_and_the_means() -> None:
    """A unit's normalisation is one positive factor: what comes in goes out, and running means take nothing off."""

    def normalised(mean: float, sign: float) -> nn.Module:
        norm = nn.BatchNorm1d(6)
        model = drawn(nn.Sequential(nn.Linear(4, 6, bias=False), norm, nn.ReLU(), nn.Linear(6, 3, bias=False)))
        norm.weight.data.abs_().mul_(sign)
        norm.running_mean, norm.running_var = torch.full((6,), mean).double(), torch.full((6,), 4.0).double()
        return model

    found = saliency.synflow(seen(normalised(0.0, 1.0), examples(1, features=4)))
    assert torch.allclose(found["0.weight"].sum(1), found["3.weight"].sum(0), rtol=1e-12)
    assert close(saliency.synflow(seen(normalised(7.0, -1.0), examples(1, features=4))), found)


def test_synflow_sees_no_data_but_the_shape() -> None:
    model = drawn(conv_net(bias=True)).float()
    there, elsewhere = pictures(), [(-7 * inputs[:1], labels[:1]) for inputs, labels in pictures(1)]
    assert close(saliency.synflow(seen(model, there)), saliency.synflow(seen(model, elsewhere)), rtol=0)


def test_synflow_does_not_overflow_where_single_precision_does() -> None:
    deep = nn.Sequential(*(nn.Linear(16, 16, bias=False) for _ in range(40)))
    for weight in deep.parameters():
        weight.data.fill_(50.0)
    deep.append(nn.Linear(16, 3, bias=False))
    found = saliency.synflow(seen(deep, [(torch.ones(1, 16), torch.zeros(1))]))
    assert all(bool(each.isfinite().all()) and float(each.min()) > 1e38 for each in list(found.values())[:3])


@pytest.mark.parametrize(("name", "same"), [("snip", True), ("synflow", True), ("magnitude", False)])
def test_rescaling_a_pair_of_layers_changes_magnitude_alone(name: str, same: bool) -> None:
    """What a ReLU network computes stays, and so does what the loss and the flow would miss."""
    model, batches = drawn(conv_net(bias=False)), [(inputs.double(), labels) for inputs, labels in pictures()]
    before = score.scores(SCORES[name], seen(model, batches))
    model.get_parameter("0.weight").data.mul_(8)
    model.get_parameter("4.weight").data.div_(8)
    assert close(score.scores(SCORES[name], seen(model, batches)), before, 1e-10) == same


def test_weights_that_are_pruned_have_scores_where_their_dense_values_are_known() -> None:
    """FORCE's: g of the sparse network, times the dense weight."""
    model, batches = drawn(Smooth()), examples(1)
    living, dense = half(model), weights.of(model)
    found = saliency.snip(replace(Scored.of(model, living), batches=batches))
    at = dense | {name: dense[name] * living[name] for name in living}
    g = gradient_by_hand(at, batches[0])
    assert close(found, {name: (g[name] * dense[name]).abs() for name in living})


@pytest.mark.parametrize("name", OF_GRADIENTS)
def test_a_score_leaves_the_model_as_it_was(name: str) -> None:
    """Weights, running statistics, gradients, modes, frozen weights, hooks, and what is drawn next."""
    model = nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.3), nn.Linear(8, 3))
    model[4].weight.requires_grad_(False)
    model.train()[3].eval()
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, 0.5)
    batches = [(inputs.float(), labels) for inputs, labels in examples(4)]
    before, modes = weights.of(model), [module.training for module in model.modules()]
    torch.manual_seed(5)
    score.scores(SCORES[name], seen(model, batches))
    after = torch.rand(1).item()
    torch.manual_seed(5)
    assert after == torch.rand(1).item()
    assert weights.equal(weights.of(model), before) and modes == [module.training for module in model.modules()]
    assert all(bool((parameter.grad == 0.5).all()) for parameter in model.parameters() if parameter.grad is not None)
    assert not model[4].weight.requires_grad and model[0].weight.requires_grad and not model._forward_hooks


@pytest.mark.parametrize("name", ["snip", "grasp", "prospr"])
@pytest.mark.parametrize("model", ["gpt-1-8", "bert-1-8"])
def test_a_transformer_that_reads_text_is_scored(model: str, name: str) -> None:
    """Its fast attention has no second derivative, of which GraSP and ProsPr are made."""
    network = models.build(model, (6, 11), 11 if model.startswith("gpt") else 2, "glorot-normal", init_seed=0)
    draw = torch.Generator().manual_seed(0)
    labels = torch.randint(2, (3, 6) if model.startswith("gpt") else (3,), generator=draw)
    batches = [(torch.randint(11, (3, 6), generator=draw), labels) for _ in range(2)]
    found = score.scores(SCORES[name], seen(network, batches))
    assert all(bool(each.isfinite().all()) and bool(each.any()) for each in found.values())


def once(model: nn.Module, batch: Any) -> Tensor:
    """A loss that insists on the fast attention, of which there is no second derivative."""
    outputs = model(batch[0].float())[None, None]
    with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
        return functional.scaled_dot_product_attention(outputs, outputs, outputs).square().sum()


@pytest.mark.parametrize("name", OF_GRADIENTS)
def test_a_tied_weight_is_scored_as_one(name: str) -> None:
    model = nn.Sequential(nn.Linear(3, 3, bias=False), nn.Softplus(), nn.Linear(3, 3, bias=False))
    model[2].weight = model[0].weight
    found = score.scores(SCORES[name], seen(drawn(model), examples(4)))
    assert list(found) == ["0.weight"] and bool(found["0.weight"].abs().gt(0).all())


@pytest.mark.parametrize(
    ("name", "batches", "loss", "message"),
    [
        ("snip", [], score.cross_entropy, "batches: expected at least one batch"),
        ("prospr", [], score.cross_entropy, "batches: expected at least one batch"),
        ("grasp", examples(1), lambda model, batch: 0.0, "loss: expected a function of the model and a batch"),
        ("snip", examples(1), lambda model, batch: model(batch[0]), "found a tensor of shape (5, 3)"),
        ("grasp", examples(1), lambda model, batch: model(batch[0]).sum().detach(), "so that there is a gradient"),
        ("snip", examples(1), lambda model, batch: Smooth().double()(batch[0]).sum(), "Let the loss ask the model"),
        ("grasp", examples(1), once, "found one that cannot: derivative for aten::"),
        ("prospr", examples(1), once, "expected layers that can be differentiated twice"),
        ("synflow", [(torch.ones(2, 3, dtype=torch.long), None)], score.cross_entropy, "found torch.int64 numbers"),
        ("synflow", [{"pixels": 1}], score.cross_entropy, "found dict"),
    ],
)  # fmt: skip
def test_what_cannot_be_scored_is_refused(name: str, batches: list[Any], loss: Any, message: str) -> None:
    model = drawn(Smooth()) if loss is not once else Smooth()
    scored = replace(seen(model, batches), loss=loss)
    with pytest.raises(BadInput, match=re.escape(message)):
        score.scores(SCORES[name], scored)


def test_a_temperature_wants_logits() -> None:
    class Named(Smooth):
        def forward(self, inputs: Tensor) -> Any:
            return {"logits": super().forward(inputs)}

    scored = seen(drawn(Named()), examples(1))
    scored = replace(scored, loss=lambda model, batch: functional.cross_entropy(model(batch[0])["logits"], batch[1]))
    with pytest.raises(BadInput, match="one that gives dict"):
        saliency.grasp(scored)
    assert close(
        saliency.grasp(scored, temperature=1), saliency.grasp(seen(drawn(Smooth()), examples(1)), temperature=1)
    )
