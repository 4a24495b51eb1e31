"""Networks by name, with weights from a seed."""

import math
import re

import pytest
import torch
from torch import Tensor, nn

from tombola import mask, models
from tombola.engine.chain import chain
from tombola.models import Initialisation, conv, lenet

MNIST, DIGITS = (1, 28, 28), (1, 8, 8)
INITIALISATIONS: tuple[Initialisation, ...] = ("glorot-normal", "xavier-uniform", "kaiming-normal", "kaiming-uniform")


def built(name: str = "lenet-300-100", init: Initialisation = "glorot-normal", init_seed: int = 0) -> nn.Module:
    return models.build(name, MNIST, 10, init, init_seed)


def parameters(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach() for name, value in model.named_parameters()}


# ---------------------------------------------------------------- LeNet


def test_lenet_300_100_is_the_papers() -> None:
    """784-300-100-10, ReLU, 266,200 weights (The Lottery Ticket Hypothesis, Figure 2)."""
    model = built()
    assert {name: tuple(value.shape) for name, value in model.state_dict().items()} == {
        "fc1.weight": (300, 784),
        "fc1.bias": (300,),
        "fc2.weight": (100, 300),
        "fc2.bias": (100,),
        "output.weight": (10, 100),
        "output.bias": (10,),
    }
    assert mask.prunable(model) == {"fc1.weight": "linear", "fc2.weight": "linear", "output.weight": "output"}
    assert mask.full(model).total == sum(models.weight_counts("lenet-300-100", MNIST, 10).values()) == 266_200


def test_lenet_computes_what_its_formula_says() -> None:
    model = built("lenet-5-4")
    images = torch.randn(3, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    p = parameters(model)
    hidden = images.view(3, 784)
    for layer in ("fc1", "fc2"):
        hidden = (hidden @ p[f"{layer}.weight"].T + p[f"{layer}.bias"]).clamp(min=0)
    assert torch.allclose(model(images), hidden @ p["output.weight"].T + p["output.bias"], atol=1e-6)


@pytest.mark.parametrize(
    ("name", "shape", "classes"),
    [
        ("lenet-1", (1, 1, 1), 2),
        ("lenet-30", DIGITS, 10),
        ("lenet-300-100", MNIST, 10),
        ("lenet-7-6-5-4", (3, 32, 32), 100),
        ("conv-2", MNIST, 10),
        ("conv-4", (3, 33, 17), 7),
        ("conv-6", (3, 32, 32), 10),
        ("conv-6", DIGITS, 10),
    ],
)
def test_the_weights_are_counted_without_building_the_network(
    name: str, shape: tuple[int, int, int], classes: int
) -> None:
    model = models.build(name, shape, classes, "glorot-normal", init_seed=0)
    assert models.weight_counts(name, shape, classes) == mask.full(model).counts
    assert model(torch.zeros(2, *shape)).shape == (2, classes)
    models.check(name, shape, classes)


@pytest.mark.parametrize(
    "name",
    ["lenet", "lenet-", "lenet-0", "lenet-300-", "lenet--1", "lenet-03", "lenet-3x1", "lenet-300 ", "lenet-1000000"],
)
def test_a_bad_lenet_is_refused_with_its_form(name: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(lenet.FORM)}$"):
        models.check(name, MNIST, 10)
    with pytest.raises(ValueError, match=f"^{re.escape(lenet.FORM)}$"):
        models.build(name, MNIST, 10, "glorot-normal", init_seed=0)


# ---------------------------------------------------------------- Conv


@pytest.mark.parametrize(
    ("name", "total", "convolutions"),
    [("conv-2", 4_300_992, 38_592), ("conv-4", 2_425_024, 259_776), ("conv-6", 2_261_184, 1_144_512)],
)
def test_the_conv_networks_have_the_papers_weights(name: str, total: int, convolutions: int) -> None:
    """For CIFAR-10. The paper prints 1.7M for Conv-6, which its own description does not give."""
    model = models.build(name, (3, 32, 32), 10, "glorot-normal", init_seed=0)
    counts, kinds = mask.full(model).counts, mask.prunable(model)
    assert sum(counts.values()) == total
    assert sum(count for layer, count in counts.items() if kinds[layer] == "conv") == convolutions
    assert list(kinds.values()) == ["conv"] * int(name[-1]) + ["linear", "linear", "output"]


def test_conv_2_computes_what_its_figure_says() -> None:
    model = models.build("conv-2", MNIST, 10, "glorot-normal", init_seed=0)
    images = torch.randn(3, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    p = parameters(model)
    maps = images
    for layer in ("conv1", "conv2"):
        maps = nn.functional.conv2d(maps, p[f"{layer}.weight"], p[f"{layer}.bias"], padding=1).clamp(min=0)
    units = nn.functional.max_pool2d(maps, 2).reshape(3, 64 * 14 * 14)
    for layer in ("fc1", "fc2"):
        units = (units @ p[f"{layer}.weight"].T + p[f"{layer}.bias"]).clamp(min=0)
    assert torch.allclose(model(images), units @ p["output.weight"].T + p["output.bias"], atol=1e-5)


@pytest.mark.parametrize("name", ["lenet-30-20", "conv-2", "conv-6"])
def test_the_sizes_known_without_torch_are_those_that_the_engine_finds(name: str) -> None:
    shape = (3, 18, 21)
    found = chain(models.build(name, shape, 5, "glorot-normal", init_seed=0), shape)
    assert found and models.chain(name, shape, 5) == {
        layer.weight: (layer.inputs, layer.outputs, layer.window, layer.height, layer.width)
        if layer.window
        else (layer.columns, layer.outputs)
        for layer in found
    }


@pytest.mark.parametrize("name", ["conv", "conv-", "conv-1", "conv-3", "conv-8", "conv-02", "conv-2-2", "conv-2 "])
def test_a_bad_conv_is_refused_with_its_form(name: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(conv.FORM)}$"):
        models.check(name, MNIST, 10)


def test_an_image_too_small_to_be_halved_is_refused() -> None:
    with pytest.raises(ValueError, match="7 x 9; conv-6 halves them 3 times"):
        models.check("conv-6", (1, 7, 9), 10)


@pytest.mark.parametrize("name", ["", "resnet", "LeNet-300-100", "net-lenet", "300-100"])
def test_an_unknown_model_is_refused_with_the_forms_there_are(name: str) -> None:
    with pytest.raises(
        ValueError, match=r"^one of: .*lenet-W1-W2-\.\.\., hidden widths from the input on, like lenet-300-100"
    ):
        models.check(name, MNIST, 10)


# ---------------------------------------------------------------- initial weights


def test_the_seed_decides_every_weight_and_0_is_a_seed() -> None:  # K9 K11 K12
    zero, again, one = (parameters(built(init_seed=seed)) for seed in (0, 0, 1))
    for name in zero:
        assert torch.equal(zero[name], again[name])
        assert torch.equal(zero[name], one[name]) == name.endswith("bias"), "biases are 0 with every seed"


def test_the_process_wide_state_is_neither_used_nor_changed() -> None:  # K9 K12 K13
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = parameters(built())
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    assert all(torch.equal(value, first[name]) for name, value in parameters(built()).items())


def test_a_reinitialised_network_is_a_fresh_draw_not_a_permutation() -> None:  # K4
    first, other = (parameters(built(init_seed=seed)) for seed in (0, 1))
    for name in ("fc1.weight", "fc2.weight", "output.weight"):
        assert not torch.equal(first[name].flatten().sort().values, other[name].flatten().sort().values)


def test_layers_of_one_shape_are_drawn_each_for_itself() -> None:  # K3
    drawn = parameters(built("lenet-20-20-20"))
    assert not torch.equal(drawn["fc2.weight"], drawn["fc3.weight"])


@pytest.mark.parametrize("init", INITIALISATIONS)
@pytest.mark.parametrize("init_seed", [0, 1])
def test_every_name_has_the_distribution_its_initialisation_says(init: Initialisation, init_seed: int) -> None:  # K4 K7
    for name, value in parameters(built("lenet-400-300", init, init_seed)).items():
        if name.endswith("bias"):
            assert not value.any(), "an initialiser of weights has no business with biases"
            continue
        fan_out, fan_in = value.shape
        variance = 2 / (fan_in + fan_out) if init in ("glorot-normal", "xavier-uniform") else 2 / fan_in
        spread = 6 / math.sqrt(2 * value.numel())  # six standard errors of an estimated standard deviation
        assert float(value.std()) == pytest.approx(math.sqrt(variance), rel=spread)
        assert abs(float(value.mean())) < 6 * math.sqrt(variance / value.numel())
        beyond = float((value.abs() > math.sqrt(3 * variance)).double().mean())
        if init.endswith("uniform"):
            assert beyond < 1e-5, "sqrt(3) sigma is where a uniform distribution ends; float32 may round across"
        else:
            assert beyond == pytest.approx(math.erfc(math.sqrt(3 / 2)), rel=0.3)


def test_every_initialisation_is_another() -> None:
    drawn = [parameters(built("lenet-30", init))["fc1.weight"] for init in INITIALISATIONS]
    assert len({value.numpy().tobytes() for value in drawn}) == len(INITIALISATIONS)


def test_all_parameters_train() -> None:
    assert all(parameter.requires_grad and parameter.grad is None for parameter in built().parameters())
