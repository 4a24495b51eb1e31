"""Networks by name: `build(name, ...)` makes one with its weights drawn from a seed.

To add a family: write a file like `lenet.py` with `SEQUENTIAL`, `FORM`, `check`, `layers`, `build`, and name it in
`FAMILIES`. Each has the variants of `variants.py`, under names like `lenet-300-100+dct`.
"""

import difflib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from math import prod, sqrt
from types import ModuleType
from typing import TYPE_CHECKING, Literal, cast, get_args

from tombola.models import bert, conv, gpt, hf, imagenet, lenet, lenet5, resnet, variants, vgg
from tombola.models.layer import Layer
from tombola.models.variant import Plain

if TYPE_CHECKING:
    from torch import Generator, Tensor, nn

    from tombola.layers import Kind

Initialisation = Literal[
    "glorot-normal",
    "xavier-uniform",
    "kaiming-normal",
    "kaiming-uniform",
    "normal-0.02",
    "pretrained",
    "glorot-truncated",
]

FAMILIES: dict[str, ModuleType] = {
    "lenet": lenet,
    "lenet-5": lenet5,  # a whole name comes before the family that it begins with
    "conv": conv,
    "vgg": vgg,
    "resnet": resnet,
    "imagenet": imagenet,
    "gpt": gpt,
    "bert": bert,
    "hf": hf,
}
# (shape, classes) of a text that each of these takes; all others read images.
READ_TEXT: dict[ModuleType, tuple[tuple[int, ...], int]] = {gpt: ((256, 65), 65), bert: ((256, 65), 2), hf: ((1, 1), 2)}

# Those whose layers each read what the one before gives, and nothing else.
CHAINS = frozenset({lenet, lenet5, conv, vgg})


def family(name: str) -> ModuleType:
    """The file that knows the model `name`, or what it is a variant of.

    Raises:
        ValueError: none does; the message lists the forms that names have, or that of the family it is close to.
    """
    plain, _ = variants.parts(name)
    known = FAMILIES.get(plain) or FAMILIES.get(re.split("[-:]", plain)[0])
    if known is None:
        raise ValueError(_expected(name))
    return known


def meant(name: str) -> str:
    """The model that somebody who wrote `name` may have meant: in small letters, with hyphens; "" where there is none.

    >>> meant("ResNet20"), meant("LeNet_300_100"), meant("resnet18"), meant("resnet-20")
    ('resnet-20', 'lenet-300-100', '', '')
    """
    plain, variant = variants.parts(name)
    if variant:
        close = variants.meant(name)
        tidy, varied = meant(plain) or plain, variants.parts(close or name)[1]
        return f"{tidy}{variants.MARK}{varied}" if close or tidy != plain else ""
    tidy = _tidied(name)
    if tidy == name or source(tidy):
        return ""
    with suppress(ValueError):
        check(tidy, *taken(tidy))
        return tidy
    return ""


def _tidied(name: str) -> str:
    return re.sub(r"(?<=[a-z])(?<!-w)(?=[0-9])", "-", re.sub("[-_ ]+", "-", name.lower()))


def _expected(name: str) -> str:
    """What is expected in place of a name of no family: what its own says where it is only written otherwise."""
    tidy, close = _tidied(name), difflib.get_close_matches(_tidied(name).split("-")[0], FAMILIES, n=1, cutoff=0.85)
    if not close:
        return "one of: " + "; ".join(module.FORM for module in FAMILIES.values())
    form: str = FAMILIES[close[0]].FORM
    if tidy.split("-")[0] != close[0] or source(tidy):
        return form
    try:
        check(tidy, *taken(tidy))
    except ValueError as error:
        return str(error)
    return form


def taken(name: str) -> tuple[tuple[int, ...], int]:
    """A shape of inputs and a number of classes that every model of the family of `name` takes."""
    return READ_TEXT.get(family(name), ((3, 224, 224), 1000))


def check(name: str, shape: tuple[int, ...], classes: int) -> None:
    """Raise ValueError, with what was expected, unless `name` is a model that takes such inputs."""
    known, (plain, _) = family(name), variants.parts(name)
    if len(shape) == 2 and known not in READ_TEXT:
        raise ValueError("a model for texts: " + "; ".join(module.FORM for module in READ_TEXT))
    if len(shape) == 1 and known is not lenet:
        raise ValueError(f"a model for examples that are no images: {lenet.FORM}")
    known.check(plain, shape, classes)
    if variant := variants.variant(name):
        if variant.init and variant.init not in (
            able := [each for each in get_args(Initialisation) if drawn(each) == each]
        ):
            raise ValueError(f"{plain}+{variant.variant.form}, INIT being one of {', '.join(able)}")
        variants.check(variant, plain_of(name, shape, classes))


def example(name: str, shape: tuple[int, ...]) -> "Tensor":
    """Two empty inputs of a network: images or columns of zeros, texts of token 0.

    >>> example("lenet-30", (1, 8, 8)).shape, example("gpt-2-4-64", (256, 65)).shape
    (torch.Size([2, 1, 8, 8]), torch.Size([2, 256]))
    """
    import torch

    text = family(name) in READ_TEXT
    return torch.zeros((2, shape[0]) if text else (2, *shape), dtype=torch.int64 if text else torch.float32)


def plain_of(name: str, shape: tuple[int, ...], classes: int) -> Plain:
    """What the model `name` is without its variant, and what is known of that before it is built.

    >>> plain_of("lenet-30+dct", (1, 8, 8), 10).shapes
    {'fc1.weight': (30, 64), 'output.weight': (10, 30)}
    """
    plain, _ = variants.parts(name)

    def drawn(init: str, seed: int) -> "nn.Module":
        return build(plain, shape, classes, cast("Initialisation", init), seed)

    return Plain(plain, shape, classes, shapes(name, shape, classes), drawn)


def layers(name: str, shape: tuple[int, ...], classes: int) -> dict[str, Layer]:
    """What is prunable in the model, layer by layer by the name of the weight, without building it.

    >>> {weight: layer.kind for weight, layer in layers("lenet-300-100", (1, 28, 28), 10).items()}
    {'fc1.weight': 'linear', 'fc2.weight': 'linear', 'output.weight': 'output'}
    """
    found: dict[str, Layer] = family(name).layers(variants.parts(name)[0], shape, classes)
    return found


def sequential(name: str) -> bool:
    """Whether it is a chain that the kernels know: of layers that all have biases.

    >>> sequential("lenet-300-100"), sequential("lenet-300-100-no-bias"), sequential("resnet-20")
    (True, False, False)
    """
    known, (plain, variant) = family(name), variants.parts(name)
    return bool(known.SEQUENTIAL) and not variant and (known is not lenet or lenet.biased(plain))


def chain(name: str) -> bool:
    """Whether its weights are its parameters, in layers that each read what the one before gives, and nothing else.

    >>> chain("lenet-300-100"), chain("lenet-300-100+dct"), chain("resnet-20")
    (True, False, False)
    """
    return family(name) in CHAINS and not variants.parts(name)[1]


def varied(name: str) -> bool:
    """Whether it is a variant, whose weights are made of its parameters.

    >>> varied("lenet-300-100+dct"), varied("resnet-20")
    (True, False)
    """
    return bool(variants.parts(name)[1])


def is_gaussian(name: str) -> bool:
    """Whether its weights are drawn anew each time, and its parameters are their means.

    >>> is_gaussian("lenet-300-100+gaussian-3"), is_gaussian("lenet-300-100+dct"), is_gaussian("lenet-300-100")
    (True, False, False)
    """
    named = variants.variant(name)
    return named is not None and named.variant.gaussian


def of_numbers(name: str) -> str:
    """The name of the same network whose weights are numbers, where they are Gaussian; of any other its own.

    >>> of_numbers("lenet-300-100+gaussian-3"), of_numbers("lenet-300-100+dct")
    ('lenet-300-100', 'lenet-300-100+dct')
    """
    return variants.parts(name)[0] if is_gaussian(name) else name


def mixes(name: str) -> bool:
    """Whether its weights are made of its parameters so that with most of these at 0 hardly a weight is.

    >>> mixes("lenet-300-100+dct"), mixes("lenet-300-100")
    (True, False)
    """
    variant = variants.variant(name)
    return variant is not None and variant.variant.dense


def multiplied(name: str, layers: Iterable[str], living: Mapping[str, int]) -> Mapping[str, int]:
    """With how many weights of each layer an example is multiplied where so many parameters live.

    Args:
        layers: of the model, in their order.
        living: parameters; a layer that it does not name is whole, here as in what is returned.

    >>> multiplied("lenet-30+dct-pixels", ["fc1.weight", "output.weight"], {"fc1.weight": 7, "output.weight": 9})
    {'output.weight': 9}
    """
    variant = variants.variant(name)
    if variant is None or not variant.variant.dense:
        return living
    made = set([*layers][:1] if variant.variant.first else layers)
    return {layer: count for layer, count in living.items() if layer not in made}


def products(name: str, shape: tuple[int, ...]) -> int:
    """The multiply-adds of an example that no weight takes part in: those inside of attention; 0 of a family without.

    >>> products("bert-2-64", (48, 7751)), products("lenet-300-100", (1, 28, 28))
    (589824, 0)
    """
    of_family = getattr(family(name), "products", None)
    return int(of_family(variants.parts(name)[0], shape)) if of_family else 0


def kinds(name: str, shape: tuple[int, ...], classes: int, include: Sequence[str] = ()) -> "dict[str, Kind]":
    """The kind of each weight of the model that may be pruned, by its name; see `tombola.prunable.prunable`.

    Args:
        include: parameters that may be pruned too. Where there are none the model is not built.

    Raises:
        BadInput: an entry of `include` names nothing.

    >>> list(kinds("lenet-30", (1, 8, 8), 10, include=["fc1.bias"]))
    ['fc1.weight', 'fc1.bias', 'output.weight']
    """
    if not include:
        return {weight: layer.kind for weight, layer in layers(name, shape, classes).items()}
    import torch

    from tombola.prunable import prunable

    with torch.device("meta"):  # without memory for its weights
        return prunable(family(name).build(variants.parts(name)[0], shape, classes), include)


def weight_counts(name: str, shape: tuple[int, ...], classes: int) -> dict[str, int]:
    """The prunable weights of the model, layer by layer, without building it.

    >>> weight_counts("lenet-300-100", (1, 28, 28), 10)
    {'fc1.weight': 235200, 'fc2.weight': 30000, 'output.weight': 1000}
    """
    return {weight: layer.weights for weight, layer in layers(name, shape, classes).items()}


def source(name: str) -> str | None:
    """Where the checkpoint that the model `name` is comes from, a folder or a name on the hub; None for Tombola's own.

    >>> source("hf:bert-base-uncased"), source("bert-4-128")
    ('bert-base-uncased', None)
    """
    return name.removeprefix("hf:") if name.startswith("hf:") else None


def checkpoint(name: str) -> str | None:
    """SHA-256 of the checkpoint that the model `name` is; None for those that Tombola makes by itself.

    Raises:
        BadInput: there is no such checkpoint, or none whose weights can be read without executing code.
    """
    return hf.checkpoint(name) if source(name) else None


def drawn(init: Initialisation) -> Initialisation:
    """What new weights are drawn by where `init` says how they start: the same, but that nothing can be drawn from
    `pretrained` ones; then it is what a head that the checkpoint lacks is drawn by.

    >>> drawn("glorot-normal"), drawn("pretrained")
    ('glorot-normal', 'normal-0.02')
    """
    return "normal-0.02" if init == "pretrained" else init


def shapes(name: str, shape: tuple[int, ...], classes: int) -> dict[str, tuple[int, ...]]:
    """The shape of each weight of the model that may be pruned, without building it.

    >>> shapes("lenet-300-100", (1, 28, 28), 10)
    {'fc1.weight': (300, 784), 'fc2.weight': (100, 300), 'output.weight': (10, 100)}
    """
    return {weight: layer.shape for weight, layer in layers(name, shape, classes).items()}


def build(name: str, shape: tuple[int, ...], classes: int, init: Initialisation, init_seed: int) -> "nn.Module":
    """The network `name` with weights drawn by `init` from `init_seed`.

    Glorot (Xavier) normal: N(0, 2 / (fan_in + fan_out)); Kaiming normal: N(0, 2 / fan_in); the uniform ones have the
    same variances; glorot-truncated: Glorot normal cut off at two of its deviations and widened to the same variance,
    as the framework of the first paper's authors has it; normal-0.02: N(0, 0.02^2), as GPT-2 and BERT have it. Biases
    are 0. Normalisations start as PyTorch makes them, gamma 1, beta 0, running mean 0 and variance 1. pretrained: what
    the model's checkpoint has is as it has it, and the rest, a new head, drawn by normal-0.02. The process-wide random
    state is neither used nor changed. A variant has the parameters with which it computes what these weights compute.

    >>> one, same = (build("lenet-30", (1, 8, 8), 10, "glorot-normal", init_seed=0) for _ in range(2))
    >>> bool((one.fc1.weight == same.fc1.weight).all())
    True
    """
    import torch
    from torch import nn

    from tombola.prunable import prunable

    draws: dict[str, Callable[..., object]] = {
        "glorot-normal": nn.init.xavier_normal_,
        "xavier-uniform": nn.init.xavier_uniform_,
        "kaiming-normal": lambda weight, generator: nn.init.kaiming_normal_(
            weight, nonlinearity="relu", generator=generator
        ),
        "kaiming-uniform": lambda weight, generator: nn.init.kaiming_uniform_(
            weight, nonlinearity="relu", generator=generator
        ),
        "glorot-truncated": _glorot_truncated,
        "normal-0.02": lambda weight, generator: nn.init.normal_(weight, std=0.02, generator=generator),
    }
    draw = draws[drawn(init)]
    plain, _ = variants.parts(name)
    generator = torch.Generator().manual_seed(init_seed)
    # PyTorch's constructors draw from the process-wide generator; ours overwrites every weight they draw.
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        model: nn.Module = family(name).build(plain, shape, classes)
        parameters = dict(model.named_parameters(remove_duplicate=False))
        for weight in prunable(model):
            draw(parameters[weight], generator=generator)
        for parameter_name, parameter in parameters.items():
            if parameter_name.endswith("bias"):
                parameter.zero_()
        if init == "pretrained":
            family(name).load(name, model)
        if variant := variants.variant(name):
            return variant.variant.wrap(model, plain_of(name, shape, classes), variant)
    return model


# Of a normal distribution of deviation 1 that is cut off at two: sqrt(1 - 4 phi(2) / (2 Phi(2) - 1)).
_CUT_DEVIATION = 0.87962566103423978


def _glorot_truncated(weight: "Tensor", generator: "Generator") -> "Tensor":
    from torch import nn

    outputs, *inputs = weight.shape
    area = prod(inputs[1:])
    cut = sqrt(2 / ((inputs[0] + outputs) * area)) / _CUT_DEVIATION
    return nn.init.trunc_normal_(weight, std=cut, a=-2 * cut, b=2 * cut, generator=generator)
