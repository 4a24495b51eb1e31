"""Which weights a search prunes and counts."""

import warnings
from collections.abc import Iterable, Mapping, Sequence

from torch import nn

from tombola import layers, weights
from tombola.bayes import is_noise
from tombola.errors import BadInput
from tombola.layer_patterns import covering, few, named
from tombola.layers import Kind
from tombola.mask import Mask
from tombola.prunable import checked, prunable
from tombola.pruning import Round
from tombola.search import averages
from tombola.search.state import Loop


def full(loop: Loop, round: Round, given: Mask | None = None) -> Mask:
    """What level 0 counts: all that may be pruned, is not kept dense and is no average of what is.

    Args:
        given: the mask of level 0, where it is another.

    Raises:
        BadInput: `keep`, `rate`, `prune` or `stacks` names nothing of the model, a weight has no rate, or the mask does
            not fit.
    """
    model, ties = loop.model, weights.ties(loop.model)
    kinds = prunable(model, round.include)
    known = {**kinds, **{name: kinds[first] for name, first in ties.items() if first in kinds}}
    all_alive = of_model(model, round)
    own = [name for name in all_alive if weights.place(model.get_parameter(name)) in loop.trained]
    beside = {path for average in averages.within(loop, own) for path in average.sources}
    counted = Mask({name: alive for name, alive in all_alive.items() if name not in beside})
    if not counted:
        raise _nothing(model, round, kinds)
    _known([entry for entry, _ in round.rates], known, "rate")
    round.rates_of(kinds, ties)
    _known(round.stacks, known, "stacks")
    if flat := [name for name in round.stacked(kinds, ties) if model.get_parameter(name).dim() < 2]:
        raise _no_stack(flat)
    return counted if given is None else _given(checked(given, model), counted)


def of_model(model: nn.Module, round: Round) -> Mask:
    """All that may be pruned of `model` and is not kept dense.

    Raises:
        BadInput: `keep` or `include` names nothing of the model; a weight is computed from others; nothing is left.
    """
    kinds, ties = prunable(model, round.include), weights.ties(model)
    known = {**kinds, **{name: kinds[first] for name, first in ties.items() if first in kinds}}
    _known(round.keep, known, "keep", others(model, round.include))
    dense = round.kept(kinds, ties)
    _whole(model, (name for name in kinds if name not in dense))
    whole = round.full(model, ties)
    if not whole:
        raise _nothing(model, round, kinds)
    return whole


def _nothing(model: nn.Module, round: Round, kinds: Mapping[str, Kind]) -> BadInput:
    return BadInput(
        where=type(model).__name__,
        expected="a weight that may be pruned: of a linear, convolution, embedding or attention layer",
        found=f"none that keep={list(round.keep)} leaves" if kinds else "none",
        todo="Build layers of torch.nn, or name others: prune=['*.W']; and keep fewer of them.",
    )


def _no_stack(names: Sequence[str]) -> BadInput:
    return BadInput(
        where="stacks",
        expected="weights with two dimensions or more, like [experts, outputs, inputs]",
        found=f"{few(names)}, a vector",
        todo="Name stacks alone.",
    )


def _given(given: Mask, full: Mask) -> Mask:
    for name in given:
        if name not in full:
            raise BadInput(
                where=f"mask of {name}",
                expected="a weight that may be pruned",
                found="none of that name",
                todo="Give a mask of this model, without what `keep` names.",
            )
    if not given.alive:
        raise BadInput(where="mask", expected="weights that are alive", found="none", todo="Give a mask that has some.")
    return given


def _known(entries: Iterable[str], kinds: Mapping[str, Kind], where: str, beside: Iterable[str] = ()) -> None:
    for entry in entries:
        if not named([entry], {**dict.fromkeys(beside, ""), **kinds}):
            raise BadInput(
                where=where,
                expected=f"kinds ({', '.join(dict.fromkeys(kinds.values()))}), or weights of the model ({few(kinds)}) "
                "or patterns of their names",
                found=repr(entry),
                todo="* stands for anything, as in *.conv1.weight.",
            )


def _whole(model: nn.Module, names: Iterable[str]) -> None:
    state = model.state_dict()
    for name in names:
        if name not in state:
            raise BadInput(
                where=f"{name} of {type(model).__name__}",
                expected="a parameter",
                found="a parametrisation (as of weight_norm)",
                todo=f"Remove the parametrisation before the Search, or leave the layer dense: keep={[name]}.",
            )


def others(model: nn.Module, include: Sequence[str] = ()) -> dict[str, int]:
    """The matrices that are trained, in no layer that can be pruned, and not included: name -> how many weights."""
    kinds = prunable(model, include)
    own = {weights.place(each) for name, each in model.named_parameters(remove_duplicate=False) if name in kinds}
    return {
        name: parameter.numel()
        for name, parameter in model.named_parameters()
        if parameter.dim() > 1 and parameter.requires_grad and weights.place(parameter) not in own
    }


def warn_of_others(model: nn.Module, round: Round) -> None:
    """Say which matrices stay dense and uncounted without `keep` saying so.

    Deviations of Gaussian weights go with their means, whose masks are theirs.
    """
    extra = {name: count for name, count in others(model, round.include).items() if not is_noise(name)}
    kept = named(round.keep, dict.fromkeys(extra, ""))
    unsaid = [name for name in extra if name not in kept and not _original(model, name)]
    if unsaid:
        matrices = (name for name, each in model.named_parameters() if each.dim() > 1)
        entries = covering(unsaid, (name for name in matrices if name not in unsaid))
        warnings.warn(
            f"{sum(extra[name] for name in unsaid):,} weights are in no layer that can be pruned, and stay dense and "
            f"uncounted: {few(unsaid)}. prune={entries} prunes and counts them; keep={entries} says that this is "
            "meant. Both take patterns of names.",
            stacklevel=3,
        )


def _original(model: nn.Module, name: str) -> bool:
    """Whether the weight of a layer is computed of the parameter `name`: then `keep` is asked about the weight."""
    path, _, own = f".{name}".rpartition(".")
    owner, inside, weight = path.rpartition(".parametrizations.")
    if not inside:
        owner, weight = path, own.rpartition("_")[0]  # weight_g, weight_v, weight_orig
    module = model.get_submodule(owner.removeprefix("."))
    row = layers.layer_weights(module)
    return bool(row and weight in row.weights and weight not in module._parameters)
