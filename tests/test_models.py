"""Networks by name, with weights from a seed."""

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from tombola import data, models, prunable, weights
from tombola.data import Dataset
from tombola.engine.native import inspected
from tombola.engine.native.sequential_layers import sequential_layers
from tombola.engine.training import Start, Training
from tombola.models import Initialisation, conv, imagenet, lenet, residual, resnet, vgg
from tombola.models.modules import Basic, Bottleneck
from tombola.recipe import SGD, Recipe

MNIST, DIGITS, CIFAR = (1, 28, 28), (1, 8, 8), (3, 32, 32)
INITIALISATIONS: tuple[Initialisation, ...] = (
    "glorot-normal",
    "xavier-uniform",
    "kaiming-normal",
    "kaiming-uniform",
    "glorot-truncated",
)


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
    assert prunable.prunable(model) == {"fc1.weight": "linear", "fc2.weight": "linear", "output.weight": "output"}
    assert prunable.full(model).total == sum(models.weight_counts("lenet-300-100", MNIST, 10).values()) == 266_200


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
        ("lenet-30-20-no-bias", DIGITS, 10),
        ("lenet-300-100", MNIST, 10),
        ("lenet-7-6-5-4", (3, 32, 32), 100),
        ("conv-2", MNIST, 10),
        ("conv-4", (3, 33, 17), 7),
        ("conv-6", (3, 32, 32), 10),
        ("conv-6", DIGITS, 10),
        ("conv-4-w32", CIFAR, 10),
        ("vgg-11", CIFAR, 10),
        ("vgg-13-w1", (1, 16, 16), 3),
        ("vgg-16-w16", CIFAR, 100),
        ("vgg-19-w4", (2, 33, 50), 10),
        ("resnet-20", CIFAR, 10),
        ("resnet-20-w4", DIGITS, 10),
        ("resnet-32-w1", (1, 4, 4), 2),
        ("resnet-44-w2", (3, 9, 14), 5),
        ("resnet-56", CIFAR, 100),
        ("resnet-110-w4", MNIST, 10),
        ("imagenet-resnet-18-w8", (3, 64, 64), 200),
        ("imagenet-resnet-34-w2", (3, 33, 70), 10),
        ("imagenet-resnet-50-w4", (1, 32, 32), 10),
    ],
)
def test_the_weights_are_counted_without_building_the_network(
    name: str, shape: tuple[int, int, int], classes: int
) -> None:
    model = models.build(name, shape, classes, "glorot-normal", init_seed=0)
    positions: dict[str, int] = {}

    def look(path: str) -> Callable[[nn.Module, object, Tensor], None]:
        def note(_layer: nn.Module, _images: object, maps: Tensor) -> None:
            positions[path] = maps[0, 0].numel()

        return note

    for weight in prunable.prunable(model):
        model.get_submodule(weight.removesuffix(".weight")).register_forward_hook(look(weight))
    assert model(torch.zeros(2, *shape)).shape == (2, classes)
    layers, counts = models.layers(name, shape, classes), prunable.full(model).counts
    assert list(models.weight_counts(name, shape, classes).items()) == list(counts.items())
    assert {weight: layer.kind for weight, layer in layers.items()} == prunable.prunable(model)
    assert {weight: layer.uses for weight, layer in layers.items()} == {
        weight: count * positions[weight] for weight, count in counts.items()
    }
    models.check(name, shape, classes)


@pytest.mark.parametrize(
    "name",
    [
        *("lenet", "lenet-", "lenet-0", "lenet-300-", "lenet--1", "lenet-03", "lenet-3x1", "lenet-300 "),
        *("lenet-1000000", "lenet-no-bias", "lenet-30-no-bias-20", "lenet-30-nobias"),
    ],
)
def test_a_bad_lenet_is_refused_with_its_form(name: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(lenet.FORM)}$"):
        models.check(name, MNIST, 10)
    with pytest.raises(ValueError, match=f"^{re.escape(lenet.FORM)}$"):
        models.build(name, MNIST, 10, "glorot-normal", init_seed=0)


def test_without_biases_it_is_the_same_network_with_biases_of_0_and_the_kernels_leave_it() -> None:
    name = "lenet-20-10-no-bias"
    plain, without = (models.build(each, DIGITS, 10, "glorot-normal", 0) for each in ("lenet-20-10", name))
    assert list(without.state_dict()) == ["fc1.weight", "fc2.weight", "output.weight"]
    assert all(torch.equal(value, plain.get_parameter(path)) for path, value in without.named_parameters())
    images = torch.randn(3, *DIGITS, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(without(images), plain(images))  # whose biases start at 0
    assert sequential_layers(without, DIGITS) is None and not models.sequential(name)
    assert sequential_layers(plain, DIGITS) and models.sequential("lenet-20-10")


# ---------------------------------------------------------------- Conv


@pytest.mark.parametrize(
    ("name", "total", "convolutions"),
    [("conv-2", 4_300_992, 38_592), ("conv-4", 2_425_024, 259_776), ("conv-6", 2_261_184, 1_144_512)],
)
def test_the_conv_networks_have_the_papers_weights(name: str, total: int, convolutions: int) -> None:
    """For CIFAR-10. The paper prints 1.7M for Conv-6, which its own description does not give."""
    model = models.build(name, (3, 32, 32), 10, "glorot-normal", init_seed=0)
    counts, kinds = prunable.full(model).counts, prunable.prunable(model)
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
    """And of all that decides which engine it gets, nothing is found otherwise when the training begins."""
    facts = replace(data.facts("cifar10"), shape=shape, classes=5)
    recipe = Recipe(model=name, data="cifar10", length="1ep", batch=60, optimizer=SGD(name="sgd", lr=0.1))
    model = models.build(name, shape, 5, "glorot-normal", init_seed=0)
    images, labels = torch.zeros((3, *shape), dtype=torch.uint8), torch.arange(3)
    start = Start(model, prunable.full(model), Dataset(facts, images, labels, images, labels))
    planned = replace(Training.of(recipe, facts), densities=dict.fromkeys(models.layers(name, shape, 5), 1.0))
    assert planned.sequential and inspected(planned, start) == planned


@pytest.mark.parametrize(
    "name", ["conv", "conv-", "conv-1", "conv-3", "conv-8", "conv-02", "conv-2-2", "conv-2 ", "conv-2-w0"]
)
def test_a_bad_conv_is_refused_with_its_form(name: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(conv.FORM)}$"):
        models.check(name, MNIST, 10)


def test_an_image_too_small_to_be_halved_is_refused() -> None:
    with pytest.raises(ValueError, match="7 x 9; conv-6 halves them 3 times"):
        models.check("conv-6", (1, 7, 9), 10)


@pytest.mark.parametrize("name", ["", "net-lenet", "300-100"])
def test_an_unknown_model_is_refused_with_the_forms_there_are(name: str) -> None:
    with pytest.raises(
        ValueError, match=r"^one of: .*lenet-W1-W2-\.\.\., hidden widths from the input on, like lenet-300-100"
    ):
        models.check(name, MNIST, 10)


# ---------------------------------------------------------------- VGG and ResNet


def test_the_width_of_conv_is_that_of_its_convolutions() -> None:
    layers = models.layers("conv-4-w32", CIFAR, 10)
    assert [layer.outputs for layer in layers.values()] == [32, 32, 64, 64, 256, 256, 10]
    assert models.layers("conv-4-w64", CIFAR, 10) == models.layers("conv-4", CIFAR, 10)


@pytest.mark.parametrize(("name", "default"), [("vgg-16", 64), ("resnet-20", 16), ("imagenet-resnet-50", 64)])
def test_the_width_is_that_of_the_first_stage_and_all_others_in_proportion(name: str, default: int) -> None:
    shape = (3, 64, 64)
    dense, narrow = (models.layers(f"{name}{width}", shape, 10).values() for width in ("", f"-w{default // 4}"))
    for whole, quarter in zip(dense, narrow, strict=True):
        assert whole.kind == "output" or whole.outputs == 4 * quarter.outputs
    assert models.layers(f"{name}-w{default}", shape, 10) == models.layers(name, shape, 10)


def test_resnet_20_is_the_papers() -> None:
    """270,256 weights in convolutions, 2,560 of them in shortcuts; 274K with all that the network keeps."""
    model = models.build("resnet-20", CIFAR, 10, "kaiming-normal", init_seed=0)
    counts, kinds = prunable.full(model).counts, prunable.prunable(model)
    assert sum(count for layer, count in counts.items() if kinds[layer] == "conv") == 270_256
    assert counts["output.weight"] == 640 and list(kinds.values()).count("conv") == 19 + 2
    assert {layer: count for layer, count in counts.items() if "shortcut" in layer} == {
        "stage2.block1.shortcut.conv.weight": 512,
        "stage3.block1.shortcut.conv.weight": 2_048,
    }
    numbers = [value.numel() for value in model.state_dict().values() if value.is_floating_point()]
    assert sum(numbers) == 274_042


@pytest.mark.parametrize("depth", [20, 32, 44, 56, 110])
def test_the_number_of_a_resnet_is_its_layers_without_shortcuts(depth: int) -> None:
    layers = models.layers(f"resnet-{depth}", CIFAR, 10)
    assert len([weight for weight in layers if "shortcut" not in weight]) == depth


@pytest.mark.parametrize(
    ("name", "total"),
    [("vgg-11", 9_222_848), ("vgg-13", 9_407_168), ("vgg-16", 14_715_584), ("vgg-19", 20_024_000)],
)
def test_the_vggs_have_the_papers_layers(name: str, total: int) -> None:
    """The number counts three layers of which one is left; the paper prints 20.0M for VGG-19."""
    layers = models.layers(name, CIFAR, 10)
    assert len(layers) == int(name.removeprefix("vgg-")) - 2 and layers["output.weight"].weights == 5_120
    assert sum(layer.weights for layer in layers.values()) == total


@pytest.mark.parametrize(
    ("name", "total"),
    [
        ("imagenet-resnet-18", 11_689_512),
        ("imagenet-resnet-34", 21_797_672),
        ("imagenet-resnet-50", 25_557_032),
    ],
)
def test_the_resnets_of_imagenet_have_the_parameters_known_everywhere(name: str, total: int) -> None:
    with torch.device("meta"):
        model = imagenet.build(name, (3, 224, 224), 1000)
    assert sum(parameter.numel() for parameter in model.parameters()) == total


def test_resnet_50_does_the_operations_of_version_1_5() -> None:
    """4.09 G multiplications; with the stride in the first 1 x 1 convolution it would be 3.8 G."""
    uses = [layer.uses for layer in models.layers("imagenet-resnet-50", (3, 224, 224), 1000).values()]
    assert sum(uses) == 4_089_184_256


DEEP = [
    ("vgg-11-w4", CIFAR),
    ("resnet-20-w4", DIGITS),
    ("imagenet-resnet-18-w4", CIFAR),
    ("imagenet-resnet-50-w4", CIFAR),
]


@pytest.mark.parametrize(("name", "shape"), DEEP)
def test_normalisations_start_neutral_and_are_never_masked(name: str, shape: tuple[int, int, int]) -> None:  # P1 P2 P5
    model = models.build(name, shape, 10, "kaiming-normal", init_seed=3)
    norms = {path: part for path, part in model.named_modules() if isinstance(part, nn.BatchNorm2d)}
    convolutions = [part for part in model.modules() if isinstance(part, nn.Conv2d)]
    assert len(norms) == len(convolutions) and all(part.bias is None for part in convolutions)
    state = model.state_dict()
    for path in norms:
        assert not {f"{path}.{part}" for part in ("weight", "bias")} & set(prunable.full(model))
        assert (state[f"{path}.weight"] == 1).all() and not state[f"{path}.bias"].any()
        assert (state[f"{path}.running_var"] == 1).all() and not state[f"{path}.running_mean"].any()
    assert not state["output.bias"].any()


@pytest.mark.parametrize(("name", "shape"), DEEP)
def test_the_seed_decides_every_convolution(name: str, shape: tuple[int, int, int]) -> None:  # K9 K11
    zero, again, one = (
        models.build(name, shape, 10, "kaiming-normal", init_seed=seed).state_dict() for seed in (0, 0, 1)
    )
    for weight in models.layers(name, shape, 10):
        assert torch.equal(zero[weight], again[weight]) and not torch.equal(zero[weight], one[weight])


@pytest.mark.parametrize(("name", "shape"), DEEP)
def test_rewinding_brings_back_what_the_normalisations_have_seen(name: str, shape: tuple[int, int, int]) -> None:  # R3
    model = models.build(name, shape, 10, "kaiming-normal", init_seed=0)
    start = weights.of(model)
    model(torch.randn(4, *shape, generator=torch.Generator().manual_seed(0)))
    moved = {path for path, value in model.state_dict().items() if not torch.equal(value, start[path])}
    assert moved == {path for path in start if path.endswith(("running_mean", "running_var", "num_batches_tracked"))}
    weights.put(model, start)
    assert all(torch.equal(value, start[path]) for path, value in model.state_dict().items())


def test_the_kernels_leave_deep_networks_to_the_plain_loop() -> None:
    for name, shape in DEEP:
        assert not models.family(name).SEQUENTIAL
        assert sequential_layers(models.build(name, shape, 10, "kaiming-normal", init_seed=0), shape) is None


def normalised(maps: Tensor, state: Mapping[str, Tensor], path: str) -> Tensor:
    """By the mean and variance of the batch, times gamma, plus beta."""
    mean, variance = maps.mean((0, 2, 3), keepdim=True), maps.var((0, 2, 3), keepdim=True, unbiased=False)
    gamma, beta = (state[f"{path}.{part}"].view(1, -1, 1, 1) for part in ("weight", "bias"))
    return (maps - mean) / (variance + 1e-5).sqrt() * gamma + beta


def with_drawn_norms(model: nn.Module) -> dict[str, Tensor]:
    """Its parameters, after those of its normalisations were drawn, as 1 and 0 would hide a mistake."""
    generator = torch.Generator().manual_seed(1)
    found = parameters(model)
    for value in found.values():
        if value.ndim == 1:
            value.uniform_(0.5, 1.5, generator=generator)
    return found


@pytest.mark.parametrize(("inputs", "stride"), [(4, 1), (3, 1), (4, 2), (8, 2)])
def test_a_basic_block_computes_what_its_formula_says(inputs: int, stride: int) -> None:
    block = Basic(residual.ResidualBlock("", inputs, 4, stride, bottleneck=False))
    p, maps = with_drawn_norms(block), torch.randn(2, inputs, 6, 7, generator=torch.Generator().manual_seed(0))
    conv2d = nn.functional.conv2d
    inner = normalised(conv2d(maps, p["conv1.weight"], stride=stride, padding=1), p, "norm1").clamp(min=0)
    body = normalised(conv2d(inner, p["conv2.weight"], padding=1), p, "norm2")
    short = maps
    if inputs != 4 or stride != 1:
        short = normalised(conv2d(maps, p["shortcut.conv.weight"], stride=stride), p, "shortcut.norm")
    assert torch.allclose(block(maps), (body + short).clamp(min=0), atol=1e-5)


@pytest.mark.parametrize(("inputs", "stride"), [(8, 1), (3, 1), (8, 2)])
def test_a_bottleneck_computes_what_its_formula_says(inputs: int, stride: int) -> None:
    block = Bottleneck(residual.ResidualBlock("", inputs, 2, stride, bottleneck=True))
    p, maps = with_drawn_norms(block), torch.randn(2, inputs, 6, 7, generator=torch.Generator().manual_seed(0))
    conv2d = nn.functional.conv2d
    inner = normalised(conv2d(maps, p["conv1.weight"]), p, "norm1").clamp(min=0)
    inner = normalised(conv2d(inner, p["conv2.weight"], stride=stride, padding=1), p, "norm2").clamp(min=0)
    body = normalised(conv2d(inner, p["conv3.weight"]), p, "norm3")
    short = maps
    if inputs != 8 or stride != 1:
        short = normalised(conv2d(maps, p["shortcut.conv.weight"], stride=stride), p, "shortcut.norm")
    assert torch.allclose(block(maps), (body + short).clamp(min=0), atol=1e-5)


def test_vgg_11_computes_what_its_description_says() -> None:
    model = models.build("vgg-11-w4", CIFAR, 10, "kaiming-normal", init_seed=0)
    p, images = with_drawn_norms(model), torch.randn(3, *CIFAR, generator=torch.Generator().manual_seed(0))
    maps = images
    for stage, depth in enumerate((1, 1, 2, 2, 2), start=1):
        if stage > 1:
            maps = nn.functional.max_pool2d(maps, 2)
        for number in range(1, depth + 1):
            maps = nn.functional.conv2d(maps, p[f"stage{stage}.conv{number}.weight"], padding=1)
            maps = normalised(maps, p, f"stage{stage}.norm{number}").clamp(min=0)
    answers = maps.mean((2, 3)) @ p["output.weight"].T + p["output.bias"]
    assert torch.allclose(model(images), answers, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "form"),
    [
        *((name, vgg.FORM) for name in ("vgg", "vgg-12", "vgg-16-", "vgg-16-16", "vgg-16-w0", "vgg-16-w10000")),
        *(
            (name, resnet.FORM)
            for name in ("resnet", "resnet-21", "resnet-20-32", "resnet-20-w", "resnet-20-w04", "resnet-20-w99999999")
        ),
        *((name, imagenet.FORM) for name in ("imagenet", "imagenet-resnet-20", "imagenet-vgg-16")),
    ],
)
def test_a_bad_deep_model_is_refused_with_its_form(name: str, form: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(form)}$"):
        models.check(name, (3, 64, 64), 10)


@pytest.mark.parametrize("name", ["resnet-20", "imagenet-resnet-18", "vgg-16", "conv-4"])
def test_a_width_that_is_too_large_is_refused_with_the_largest(name: str) -> None:
    models.check(f"{name}-w9999", (3, 64, 64), 10)
    with pytest.raises(ValueError, match=r"\(1 to 9999\)"):
        models.check(f"{name}-w99999999", (3, 64, 64), 10)


def test_who_asks_for_the_papers_resnet_18_is_told_its_name() -> None:
    told = r"imagenet-resnet-18; the lottery ticket papers' ResNet-18 for CIFAR-10 is resnet-20$"
    with pytest.raises(ValueError, match=told):
        models.check("resnet-18", CIFAR, 10)
    with pytest.raises(ValueError, match=r"ImageNet's resnet-50 is imagenet-resnet-50$"):
        models.check("resnet-50-w8", CIFAR, 10)


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("vgg-19", (3, 32, 15), "a model for images of 32 x 15; vgg-19 halves them 4 times"),
        ("resnet-20", (1, 3, 8), "a model for images of 3 x 8; resnet-20 halves them 2 times"),
        ("imagenet-resnet-18", (3, 31, 32), "a model for images of 31 x 32; imagenet-resnet-18 halves them 5 times"),
    ],
)
def test_an_image_too_small_for_a_deep_model_is_refused(name: str, shape: tuple[int, int, int], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}$"):
        models.check(name, shape, 10)


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
        variance = (
            2 / (fan_in + fan_out) if init in ("glorot-normal", "xavier-uniform", "glorot-truncated") else 2 / fan_in
        )
        spread = 6 / math.sqrt(2 * value.numel())  # six standard errors of an estimated standard deviation
        assert float(value.std()) == pytest.approx(math.sqrt(variance), rel=spread)
        assert abs(float(value.mean())) < 6 * math.sqrt(variance / value.numel())
        beyond = float((value.abs() > math.sqrt(3 * variance)).double().mean())
        if init == "glorot-truncated":
            end = 2 * math.sqrt(variance) / 0.8796256610342398
            assert 0.99 * end < float(value.abs().max()) <= end * (1 + 1e-6), "two deviations of what is cut off"
        elif init.endswith("uniform"):
            assert beyond < 1e-5, "sqrt(3) sigma is where a uniform distribution ends; float32 may round across"
        else:
            assert beyond == pytest.approx(math.erfc(math.sqrt(3 / 2)), rel=0.3)


def test_every_initialisation_is_another() -> None:
    drawn = [parameters(built("lenet-30", init))["fc1.weight"] for init in INITIALISATIONS]
    assert len({value.numpy().tobytes() for value in drawn}) == len(INITIALISATIONS)


def test_all_parameters_train() -> None:
    assert all(parameter.requires_grad and parameter.grad is None for parameter in built().parameters())


# ---------------------------------------------------------------- LeNet-5


def test_lenet_5_has_the_papers_weights() -> None:
    assert models.weight_counts("lenet-5", MNIST, 10) == {
        "conv1.weight": 150,
        "conv2.weight": 2_400,
        "fc1.weight": 30_720,
        "fc2.weight": 10_080,
        "output.weight": 840,
    }
    model = built("lenet-5")
    assert {name: tuple(value.shape) for name, value in parameters(model).items() if "weight" in name} == {
        name: layer.shape for name, layer in models.layers("lenet-5", MNIST, 10).items()
    }


def test_lenet_5_computes_what_its_formula_says() -> None:
    model, functional = built("lenet-5"), torch.nn.functional
    images = torch.randn(3, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    p, maps = parameters(model), images
    for layer in ("conv1", "conv2"):
        maps = functional.conv2d(maps, p[f"{layer}.weight"], p[f"{layer}.bias"]).clamp(min=0)
        maps = maps.unfold(2, 2, 2).unfold(3, 2, 2).amax(dim=(4, 5))
    hidden = maps.flatten(1)
    assert hidden.shape == (3, 256)
    for layer in ("fc1", "fc2"):
        hidden = (hidden @ p[f"{layer}.weight"].T + p[f"{layer}.bias"]).clamp(min=0)
    assert torch.allclose(model(images), hidden @ p["output.weight"].T + p["output.bias"], atol=1e-6)


def test_lenet_5_sees_every_use_of_its_weights() -> None:
    layers = models.layers("lenet-5", MNIST, 10)
    assert [layer.positions for layer in layers.values()] == [24 * 24, 8 * 8, 1, 1, 1]


@pytest.mark.parametrize("side", [8, 15])
def test_lenet_5_says_which_images_it_takes(side: int) -> None:
    with pytest.raises(ValueError, match="16 x 16 or more"):
        models.check("lenet-5", (1, side, side), 10)
    models.check("lenet-5", (1, 16, 16), 10)


def test_lenets_of_other_widths_stay_fully_connected() -> None:
    assert set(models.weight_counts("lenet-6", MNIST, 10)) == {"fc1.weight", "output.weight"}
    assert models.meant("LeNet5") == "lenet-5"
