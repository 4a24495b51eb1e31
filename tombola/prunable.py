"""Which weights of a model may be pruned, and whether a mask is one of that model."""

import difflib
from collections.abc import Hashable, Iterable, Sequence

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from tombola import layers, weights
from tombola.errors import BadInput
from tombola.layer_patterns import named
from tombola.layers import Kind
from tombola.mask import Mask
from tombola.mask_checks import foreign


def prunable(model: nn.Module, include: Sequence[str] = ()) -> dict[str, Kind]:
    """The weights of `model` that may be pruned, each with its kind, in the order of its modules.

    Weights of linear, convolution, embedding and attention-projection layers (`tombola.layers`); never norms or biases
    that are not named. Rows of an embedding that stand for padding are among them, 0 from the start and so the first
    to go. A tensor that two names share (tied weights) counts once, under its first name. The linear layer that is
    registered last is the `output`, also where its weight is an embedding's: then that has its kind.

    Args:
        include: parameters of other modules that may be pruned too, of kind `named`: recurrent weights, a graph
            layer's, a stack of experts. Names, or patterns of the names of those with two dimensions or more.

    Raises:
        BadInput: an entry of `include` names no such parameter.

    >>> prunable(nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(8, 4), nn.Linear(4, 2)))
    {'0.weight': 'conv', '3.weight': 'linear', '4.weight': 'output'}
    >>> prunable(nn.GRU(2, 3), include=["weight_*"])
    {'weight_ih_l0': 'named', 'weight_hh_l0': 'named'}
    """
    kinds: dict[str, Kind] = {}
    # The name under which a tensor was met first; and the tensor, lest another one that is computed takes its place.
    first: dict[Hashable, tuple[str, Tensor]] = {}
    last = ""
    more = _included(model, include)
    for path, module in model.named_modules():
        row = layers.layer_weights(module)
        # A weight that is computed from others is an attribute and no parameter.
        own = {name: getattr(module, name) for name in row.weights} if row else {}
        own |= {name: value for name, value in module.named_parameters(recurse=False) if weights.place(value) in more}
        for name, parameter in own.items():
            if parameter is None:
                continue
            listed = row and name in row.weights
            full_name, _ = first.setdefault(weights.place(parameter), (f"{path}.{name}" if path else name, parameter))
            kinds.setdefault(full_name, row.kind if row and listed else "named")
            last = full_name if row and listed and row.kind == "linear" else last
    if last:
        kinds[last] = "output"
    return kinds


def _included(model: nn.Module, include: Sequence[str]) -> set[Hashable]:
    """The places of the parameters that are named."""
    parameters = dict(model.named_parameters(remove_duplicate=False))
    more: set[Hashable] = set()
    for entry in include:
        meant = named([entry], {name: "" for name, each in parameters.items() if each.dim() > 1 or name == entry})
        if not meant:
            vectors = named([entry], dict.fromkeys(parameters, ""))
            matrices = [name for name, each in parameters.items() if each.dim() > 1]
            close = difflib.get_close_matches(entry, matrices, n=3, cutoff=0.4)
            raise BadInput(
                where="prune",
                expected=f"names of parameters of {type(model).__name__}, or patterns of names of matrices",
                found=f"{entry!r}, which names {'only vectors' if vectors else 'nothing'}",
                todo=f"Name each vector by its whole name, as {min(vectors)}."
                if vectors
                else f"Did you mean {' or '.join(close)}?"
                if close
                else "* stands for anything, as in gru.*",
            )
        more |= {weights.place(parameters[name]) for name in meant}
    return more


def full(model: nn.Module, include: Sequence[str] = ()) -> Mask:
    """The mask of the dense network: every prunable weight alive, those that `include` names too.

    Raises:
        BadInput: one of them is computed from others, as by weight_norm; or `include` names nothing.
    """
    return full_over(model, prunable(model, include))


def full_over(model: nn.Module, names: Iterable[str]) -> Mask:
    """The mask under which all weights of these names are alive.

    Raises:
        BadInput: one of them is computed from others.
    """
    parameters, names = dict(model.named_parameters(remove_duplicate=False)), list(names)
    if computed := next((name for name in names if name not in parameters), None):
        raise _computed(model, computed)
    return checked(Mask({name: torch.ones(parameters[name].shape, dtype=torch.bool) for name in names}), model)


def checked(mask: Mask, model: nn.Module) -> Mask:
    """`mask`, once it is found to be one of `model`, under the first name of each weight that has several.

    Every door that takes a mask beside a model asks here, and goes on with what it is given back.

    Args:
        mask: over all parameters of `model` that may be pruned, or over some.
        model: as it is, compiled, or wrapped for several processes.

    Raises:
        BadInput: the mask names what is no parameter of the model, or not of its shape; two masks of one tied weight
            differ; or a weight shares a part of its memory with another.

    >>> model = nn.Sequential(nn.Embedding(2, 1), nn.Linear(1, 2, bias=False))
    >>> model[1].weight = model[0].weight
    >>> list(checked(Mask({"1.weight": torch.tensor([[True], [False]])}), model))
    ['0.weight']
    """
    Mask.check(mask)
    model = weights.bare(model)
    parameters = dict(model.named_parameters(remove_duplicate=False))
    for name, alive in mask.items():
        if name not in parameters and _is_computed(model, name):
            raise _computed(model, name)
        if name not in parameters or is_lazy(parameters[name]) or parameters[name].shape != alive.shape:
            raise foreign(f"a weight of {type(model).__name__}", name, alive, parameters)
    tied = weights.ties(model)
    masks: dict[str, Tensor] = {}
    for name, alive in mask.items():
        first = tied.get(name, name)
        if not torch.equal(masks.setdefault(first, alive), alive):
            raise _two_masks(name, first)
    for left, right in weights.overlapping(model):
        if not masks.keys().isdisjoint((tied.get(left, left), tied.get(right, right))):
            raise _shared_memory(model, left, right)
    return mask if masks.keys() == mask.keys() else Mask(masks)


def _two_masks(name: str, first: str) -> BadInput:
    return BadInput(
        where=f"mask of {name}",
        expected=f"the mask of {first}, as both are names of one tensor",
        found="another one",
        todo="Give one mask, under either name.",
    )


def _shared_memory(model: nn.Module, left: str, right: str) -> BadInput:
    return BadInput(
        where=f"{right} of {type(model).__name__}",
        expected="weights with memory of their own",
        found=f"a view into that of {left}: to prune one prunes the other",
        todo="Share the Parameter itself, and transpose or cut it in forward; or clone it.",
    )


def _computed(model: nn.Module, name: str) -> BadInput:
    return BadInput(
        where=f"{name} of {type(model).__name__}",
        expected="a parameter",
        found="a weight that is computed from others (by weight_norm, spectral_norm, torch.nn.utils.prune, ...)",
        todo="Remove what computes it first, with the `remove` function of what put it there.",
    )


def _is_computed(model: nn.Module, name: str) -> bool:
    path, _, own = name.rpartition(".")
    module = dict(model.named_modules()).get(path)
    if module is None:
        return False
    return own in getattr(module, "parametrizations", ()) or any(
        f"{own}{end}" in module._parameters
        for end in ("_orig", "_g")  # as torch.nn.utils leaves them
    )
