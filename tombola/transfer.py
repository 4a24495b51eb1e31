"""A mask, and the weights with it, carried over to another model: one with a new head, or with other names."""

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from tombola import mask as masks
from tombola import prunable
from tombola import weights as states
from tombola.errors import BadInput
from tombola.mask import Mask
from tombola.weights import Weights

Rule = Literal["matching"] | Mapping[str, str]


@dataclass(frozen=True)
class Transfer:
    """What a model took of a ticket.

    Attributes:
        mask: of the new model: the ticket's where it took it, everything alive elsewhere.
        taken: target name -> source name of the weights that took their mask.
        dense: the other prunable weights, which stay dense, each with the reason.
        values: the entries of the state_dict that took values: those of `taken`, biases, norms; none if none were to.
        unused: masks of the ticket that went nowhere.
    """

    mask: Mask
    taken: Mapping[str, str]
    dense: Mapping[str, str]
    values: tuple[str, ...]
    unused: tuple[str, ...]

    def __str__(self) -> str:
        lines = [f"{len(self.taken)} of {len(self.mask)} layers took their mask, density now {self.mask.density:.3g}"]
        lines += [f"dense: {name}, {why}" for name, why in self.dense.items()]
        return "\n".join(lines + [f"unused: {name}" for name in self.unused])


def transfer(mask: Mask, weights: Weights, model: nn.Module, rule: Rule, *, values: bool = True) -> Transfer:
    """Put a mask, and `weights` where it goes, onto `model`; what does not fit stays dense and as it is.

    Args:
        mask, weights: a ticket's.
        model: written to where the rule says so, elsewhere left alone: a new head keeps its own fresh weights.
        rule: "matching": every entry of the same name and shape, so that a head of as many classes as before is
            carried over too. Or {target: source}, names of entries, or of modules for all that is inside them ("" is
            the whole model): what it names, and nothing else, is carried over. {"encoder": "bert.encoder"}
        values: whether the weights go along. If not, the mask alone does, to be trained on the model's own weights.

    Returns:
        The mask to train `model` under, and what it took.

    Raises:
        BadInput: no mask goes anywhere, what the rule names is not there or has another shape, the mask is not one of
            the weights, or the model cannot be written to. Nothing is written.

    >>> old, new = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 2)), nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 9))
    >>> half = Mask({"0.weight": torch.tensor([[True, False, True], [False, True, False]])})
    >>> print(transfer(half, states.of(old), new, "matching"))
    1 of 2 layers took their mask, density now 0.875
    dense: 1.weight, (9, 2) where the ticket has (2, 2)
    """
    masks.suits(mask, weights)
    own = states.own(model)
    where = f"transfer to {type(model).__name__}"
    masked_as = _masked_as(mask, weights, where)
    pairs = _by_first_name(_pairs(own, weights, rule, where), states.ties(model), masked_as, mask, where)
    taken = {name: masked_as[source] for name, source in pairs.items() if source in masked_as}
    names = dict.fromkeys([*prunable.prunable(model), *taken])
    layers = {name: own[name] for name in names if name in own}
    if not taken:
        raise _nothing_taken(mask, layers, where)
    made = prunable.checked(_carried(mask, taken, layers), model)
    if values:
        with torch.no_grad():
            for name, source in pairs.items():
                own[name].copy_(weights[source])
    return Transfer(
        mask=made,
        taken=taken,
        dense={name: _why(name, own, weights, pairs) for name in names if name not in taken},
        values=tuple(pairs) if values else (),
        unused=tuple(name for name in mask if name not in taken.values()),
    )


def _pairs(own: Weights, weights: Weights, rule: Rule, where: str) -> dict[str, str]:
    """Each entry of the model that takes one of the ticket's, and which, as the rule has it."""
    if not isinstance(rule, str):
        return _named(own, weights, rule, where)
    if rule != "matching":
        raise BadInput(where="rule", expected="'matching' or a mapping", found=repr(rule), todo="{'target': 'source'}")
    return {name: name for name, value in own.items() if name in weights and weights[name].shape == value.shape}


def _masked_as(mask: Mask, weights: Weights, where: str) -> dict[str, str]:
    """The name under which each of the weights has its mask: tied ones have it under one of theirs, mostly.

    Raises:
        BadInput: two names of one tensor have masks that differ.
    """
    first: dict[Hashable, str] = {}
    for name, alive in mask.items():
        one = first.setdefault(states.place(weights[name]), name)
        if not torch.equal(mask[one], alive):
            raise _two_masks(where, name, one)
    return {name: first[place] for name, value in weights.items() if (place := states.place(value)) in first}


def _carried(mask: Mask, taken: Mapping[str, str], own: Weights) -> Mask:
    """The mask of `own`: what is `taken` of `mask`, everything alive elsewhere."""
    return Mask(
        {
            name: mask[taken[name]] if name in taken else torch.ones(value.shape, dtype=torch.bool)
            for name, value in own.items()
        }
    )


def _nothing_taken(mask: Mask, own: Weights, where: str) -> BadInput:
    return BadInput(
        where=where,
        expected=f"weights that take a mask, of those of {_some(mask)}",
        found=f"none among {_some(own)}",
        todo="A layer takes a mask of its own shape alone. Where names differ, say which is which: "
        'rule={"target": "source"}, names of weights or of modules.',
    )


def _by_first_name(
    pairs: Mapping[str, str], tied: Mapping[str, str], masked_as: Mapping[str, str], mask: Mask, where: str
) -> dict[str, str]:
    """`pairs` with one target for each tensor of the model; of several sources for it the first that has a mask."""
    sources: dict[str, list[str]] = {}
    for name, source in sorted(pairs.items(), key=lambda pair: pair[0] in tied):
        sources.setdefault(tied.get(name, name), []).append(source)
    for several in sources.values():
        named = [source for source in several if source in masked_as]
        for source in named[1:]:
            if not torch.equal(mask[masked_as[source]], mask[masked_as[named[0]]]):
                raise _two_masks(where, source, named[0])
        several[:] = [*named, *several]
    return {name: several[0] for name, several in sources.items()}


def _two_masks(where: str, name: str, other: str) -> BadInput:
    return BadInput(
        where=where,
        expected=f"one mask for {other} and {name}, which are names of one tensor",
        found="two that differ",
        todo="Leave one of them out.",
    )


def _named(own: Weights, weights: Weights, rule: Mapping[str, str], where: str) -> dict[str, str]:
    pairs: dict[str, str] = {}
    for target in rule:
        if not any(_inside(name, target) for name in own):
            raise BadInput(where=where, expected=f"something named {target}", found=_some(own), todo="Name another.")
    for name in own:
        inside = [target for target in rule if _inside(name, target)]
        if inside:
            target = max(inside, key=len)  # of two that hold it, the closer one
            pairs[name] = f"{rule[target]}.{name.removeprefix(target).removeprefix('.')}".strip(".")
    for name, source in pairs.items():
        if source not in weights or weights[source].shape != own[name].shape:
            raise BadInput(
                where=where,
                expected=f"{source} {tuple(own[name].shape)} in the ticket, for {name}",
                found=_some({source: weights[source]} if source in weights else weights),
                todo="Leave it out of the rule, or name another.",
            )
    return pairs


def _inside(name: str, target: str) -> bool:
    return name == target or not target or name.startswith(f"{target}.")


def _why(name: str, own: Weights, weights: Weights, pairs: Mapping[str, str]) -> str:
    if name not in own:
        return "which is computed from others, as by weight_norm, and has no mask"
    if name in pairs:
        return "which has no mask in the ticket"
    if name in weights and weights[name].shape != own[name].shape:
        return f"{tuple(own[name].shape)} where the ticket has {tuple(weights[name].shape)}"
    return "which the rule leaves out" if name in weights else "which the ticket has not"


def _some(named: Mapping[str, Tensor]) -> str:
    listed = ", ".join(f"{name} {tuple(value.shape)}" for name, value in list(named.items())[:3])
    return f"{listed}, ..." if len(named) > 3 else listed or "nothing"
