"""The state of a model as a value: name -> tensor, parameters and buffers, everything a state_dict holds."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from tombola.errors import BadInput

Weights = Mapping[str, Tensor]


def of(model: nn.Module) -> dict[str, Tensor]:
    """A copy of everything `model.state_dict()` holds, on the CPU, sharing no memory with the model.

    >>> model = nn.Linear(2, 1)
    >>> before = of(model)
    >>> _ = nn.init.zeros_(model.weight)
    >>> bool((before["weight"] == 0).any())
    False
    """
    return {
        name: value.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, value in model.state_dict().items()
    }


def bare(model: nn.Module) -> nn.Module:
    """`model` without what torch wraps around it, which renames its weights: compilation, several processes.

    >>> model = nn.Linear(2, 1)
    >>> bare(nn.DataParallel(model)) is model
    True
    """
    while True:
        if isinstance(model, nn.parallel.DistributedDataParallel | nn.DataParallel):
            model = model.module
        elif isinstance(inner := getattr(model, "_orig_mod", None), nn.Module):  # of torch.compile
            model = inner
        elif type(model).__name__ == "_FabricModule" and isinstance(model.module, nn.Module):  # of Lightning's Fabric
            model = model.module
        else:
            check(model)
            return model


def check(model: object) -> None:
    """Raise BadInput unless it is a model: what else is handed in has changed places with it, mostly."""
    if not isinstance(model, nn.Module):
        raise BadInput(
            where="model",
            expected="a model, an nn.Module",
            found=f"the class {model.__name__}" if isinstance(model, type) else f"a {type(model).__name__}",
            todo="The model itself comes first, then what belongs to it.",
        )


def ties(model: nn.Module) -> dict[str, str]:
    """Each further name of a tied tensor of `model` -> its first name, under which a mask has it.

    >>> model = nn.Sequential(nn.Embedding(5, 3), nn.Linear(3, 5, bias=False))
    >>> model[1].weight = model[0].weight
    >>> ties(model)
    {'1.weight': '0.weight'}
    """
    first: dict[int, str] = {}
    named = [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]
    own = model.state_dict().keys()  # which has no buffers that are not to be saved
    kept = ((name, id(value)) for name, value in named if name in own)
    return {name: first[value] for name, value in kept if first.setdefault(value, name) != name}


def put(model: nn.Module, weights: Weights) -> None:
    """Write `weights` into `model`: every entry of its state_dict, by copy.

    The values are copied, never aliased, so that training the model leaves `weights` as they were and the same
    weights can be put back any number of times.

    Raises:
        BadInput: names or shapes differ; the first that differs are named.
    """
    own = model.state_dict()
    fit(own, weights, f"weights of {type(model).__name__}")
    written: set[tuple[int, torch.Size]] = set()
    with torch.no_grad():
        for name, value in own.items():
            # Tied weights are one tensor under several names; it takes what its first name says, as a mask does.
            place = value.data_ptr(), value.shape
            if place not in written or not value.numel():
                written.add(place)
                value.copy_(weights[name])


def fit(own: Weights, other: Weights, where: str) -> None:
    """Raise BadInput, naming the first that differ, unless `other` has the names and shapes of `own`."""
    differing = [
        name
        for name in {**own, **other}
        if name not in own or name not in other or own[name].shape != other[name].shape
    ]
    if differing:
        raise BadInput(
            where=where,
            expected=_listed(own, differing),
            found=_listed(other, differing),
            todo="These weights belong to another model.",
        )


def _listed(weights: Weights, names: list[str]) -> str:
    return ", ".join(f"{name} {tuple(weights[name].shape)}" if name in weights else f"no {name}" for name in names[:3])


def below(prefix: str, tensors: Weights) -> dict[str, Tensor]:
    """The tensors whose names begin with `prefix`, by the rest of their names."""
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def equal(left: Weights, right: Weights) -> bool:
    """Whether two weights hold the same names and the same numbers, bit for bit but for the sign of 0.

    >>> equal({"w": torch.zeros(2)}, {"w": torch.zeros(2)})
    True
    """
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


def interpolate(left: Weights, right: Weights, alpha: float) -> dict[str, Tensor]:
    """(1 - alpha) left + alpha right, over every entry that holds real numbers; shares no memory with either.

    Counters and other entries that are no real numbers are those of `left`, as there is nothing between two of them.
    At alpha = 0 and alpha = 1 every entry has the very bytes of `left` or of `right`, counters too.

    Args:
        left, right: the weights of two networks of one architecture.
        alpha: where on the line, in [0, 1].

    Raises:
        BadInput: names or shapes differ.

    Linear Mode Connectivity and the Lottery Ticket Hypothesis (Frankle, Dziugaite, Roy & Carbin, 2020).

    >>> interpolate({"w": torch.tensor([0.0, 4.0])}, {"w": torch.tensor([8.0, 4.0])}, alpha=0.25)
    {'w': tensor([2., 4.])}
    """
    fit(left, right, "the right end of the line")
    if alpha in (0, 1):  # not by arithmetic, which would turn -0 into 0
        return {name: (right if alpha else left)[name].clone() for name in left}

    def between(name: str, value: Tensor) -> Tensor:
        # lerp leaves what both ends share as it is, bit for bit; (1 - alpha) x + alpha x would round.
        return value.lerp(right[name], alpha) if value.is_floating_point() else value.clone()

    return {name: between(name, value) for name, value in left.items()}
