"""A smaller dense model of any model, without a search: its least channels go, and its layers become narrower."""

import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from math import prod

import torch
from torch import Tensor, nn

from tombola import coupling as coupled
from tombola import prunable, weights
from tombola.amounts import check_fraction
from tombola.cash.compaction import compact
from tombola.cash.coupled import coupling
from tombola.cash.replaceable import copied
from tombola.cash.size import sizes
from tombola.coupling import Coupling, Living
from tombola.errors import BadInput
from tombola.mask import Mask
from tombola.pruning import Round, channels_that_go, worth_of_channels
from tombola.score import Batch, Score, Scored, cross_entropy, scores
from tombola.scores import SCORES

UNITS = ("channels", "parameters", "multiply_adds")
_HALVINGS = 30
_QUERY = ".query.weight"


@dataclass(frozen=True)
class Importance:
    """By what channels are ranked, and against which.

    Attributes:
        score: a name in `scores.SCORES`, or a score.
        batches: of training examples, (inputs, labels) each, for a score that sees them.
        loss: what training makes small, of the model and a batch.
        scope: `channel`: every layer is narrowed alike; `channel_global`: all layers' channels are ranked together.
        keep: kinds, names or patterns of names of weights whose own channels all stay; those that they read may go.
    """

    score: str | Score = "norm"
    batches: Iterable[Batch] = ()
    loss: Callable[[nn.Module, Batch], Tensor] = cross_entropy
    scope: str = "channel"
    keep: tuple[str, ...] = ()

    @property
    def round(self) -> Round:
        """What goes, but for how much."""
        if isinstance(self.score, str) and self.score not in SCORES:
            known = ", ".join(name for name, score in SCORES.items() if score.of_channels)
            raise BadInput(where="by", expected=f"a score: {known}", found=repr(self.score), todo="Name one.")
        return Round(
            self.scope, keep=self.keep, score=SCORES[self.score] if isinstance(self.score, str) else self.score
        )

    def rounds(self, rate: float, multiple: int) -> Round:
        """The same for one rate, and widths that divide by `multiple`."""
        return replace(self.round, rates=(("*", rate),), multiple=multiple)


def shrink(
    model: nn.Module,
    keep: float,
    example: Tensor | tuple[Tensor, ...],
    *,
    of: str = "channels",
    by: str | Importance = "norm",
    multiple: int = 1,
) -> nn.Module:
    """A copy of `model`, in eval mode, with narrower layers of the same kinds: it computes f(x; m ⊙ theta).

    The mask m takes out whole channels, the least important first, with all weights that make and read them; what the
    smaller model computes is what the masked one does, up to rounding. It is to be trained on, or tuned, afterwards.
    Layers whose channels all stay are named, with the reason, by `cash.coupling(model, example).alone`.

    Args:
        model: any module whose calls can be followed; it is left as it was.
        keep: how much stays, in (0, 1].
        example: what it is called with.
        of: of what `keep` is the share: `channels`, of each layer that can be narrowed; `parameters` or
            `multiply_adds`, of the whole model: the widest model that has no more.
        by: a score that ranks channels, or one with the batches that it sees.
        multiple: what the widths of layers divide by afterwards: 8 or 16 suit GPUs. Layers that are too narrow for it
            stay as wide as they are, and are warned of.

    Raises:
        BadInput: the model cannot be followed; it has no channel that can go, or not as many as it would take; or
            `keep` is no such share.

    The coupling is that of DepGraph: Towards Any Structural Pruning (Fang et al., 2023),
    https://arxiv.org/abs/2301.12900.

    >>> net = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 2))
    >>> shrink(net, 0.5, torch.zeros(1, 3))
    Sequential(
      (0): Linear(in_features=3, out_features=4, bias=True)
      (1): ReLU()
      (2): Linear(in_features=4, out_features=2, bias=True)
    )
    """
    return compact(model, shrunk_mask(model, keep, example, of=of, by=by, multiple=multiple), example)


def shrunk_mask(
    model: nn.Module,
    keep: float,
    example: Tensor | tuple[Tensor, ...],
    *,
    of: str = "channels",
    by: str | Importance = "norm",
    multiple: int = 1,
) -> Mask:
    """The mask of `shrink`, to train under before it is cashed in.

    Args:
        model, keep, example, of, by, multiple: as in `shrink`.
    """
    if of not in UNITS:
        raise BadInput(where="of", expected=f"one of {', '.join(UNITS)}", found=repr(of), todo="Name one.")
    check_fraction(keep, "keep", f"0.5 keeps half of the {of.replace('_', '-')}.")
    if not keep:
        todo = f"0.5 keeps half of the {of.replace('_', '-')}, 1 keeps all."
        raise BadInput(where="keep", expected="more than 0: of every layer a channel stays", found="0", todo=todo)
    model = weights.bare(model)
    importance, found = by if isinstance(by, Importance) else Importance(by), coupling(model, example)
    full = importance.round.full(model)
    ranked = _ranked(model, importance, full, coupled.known(found, full))
    living = found.living(full)
    worth = worth_of_channels(importance.round, ranked, full, living, found)

    def gone(rate: float) -> Tensor:
        return channels_that_go(importance.rounds(rate, multiple), worth, living, found, dict.fromkeys(full, rate))

    went = gone(1 - keep) if of == "channels" else _widest(gone, _price(model, found, example, of), keep, of)
    _warn_of_the_narrow(living, went, found, multiple)
    return found.without(_read_and_made(model, full, found), went)


def _warn_of_the_narrow(living: Living, gone: Tensor, found: Coupling, multiple: int) -> None:
    left = living.alive & ~gone
    narrow = {
        names[0]: count
        for names, channels in living.sets
        if (count := int(left[channels].sum())) % found.step(int(channels[0]), multiple)
    }
    if narrow:
        which = ", ".join(f"{name} ({count} channels)" for name, count in narrow.items())
        stays = "stays as wide as it is" if len(narrow) == 1 else "stay as wide as they are"
        warnings.warn(f"multiple: {which} {stays}, too narrow for a width that divides by {multiple}.", stacklevel=3)


def _read_and_made(model: nn.Module, full: Mask, found: Coupling) -> Mask:
    """`full` and the weights that are kept: their own channels stay, and those that they read may go."""
    read = {along.name for along in found.reads}
    return prunable.full_over(model, [name for name in prunable.prunable(model) if name in full or name in read])


def _ranked(model: nn.Module, importance: Importance, full: Mask, found: Coupling) -> Mapping[str, Tensor]:
    round = importance.round
    if round.score.sees_batches and not importance.batches:
        raise BadInput(
            where="by",
            expected=f"batches of training examples, which {round.score.name} sees",
            found="none",
            todo=f"by=Importance({round.score.name!r}, batches=loader), of tombola.cash.",
        )
    seen = copied(model).train()
    loss, batches = importance.loss, importance.batches
    return scores(round.score, Scored(seen, weights.of(model), full, batches, loss=loss, coupling=found))


def _widest(gone: Callable[[float], Tensor], price: Callable[[Tensor], float], keep: float, of: str) -> Tensor:
    """The channels that go at the least rate that leaves no more than the share `keep`, found by halving."""
    whole, low, high = price(gone(0.0)), 0.0, 1.0
    if price(gone(high)) > keep * whole:
        raise BadInput(
            where="keep",
            expected=f"{price(gone(high)) / whole:.3g} or more of the {of.replace('_', '-')}, which stay in any case",
            found=f"{keep:g}",
            todo="cash.coupling(model, example).alone says which layers stay as wide as they are, and why.",
        )
    if keep == 1:
        return gone(0.0)
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (low, middle) if price(gone(middle)) <= keep * whole else (middle, high)
    return gone(high)


def _price(
    model: nn.Module, found: Coupling, example: Tensor | tuple[Tensor, ...], of: str
) -> Callable[[Tensor], float]:
    """What the model costs without the channels that are gone: parameters, or multiply-adds of an example."""
    shapes = {name: tuple(value.shape) for name, value in model.named_parameters()}
    channels = _channels_of(shapes, found)
    if of == "parameters":
        return partial(_cost, shapes, channels, dict.fromkeys(shapes, 1.0), 0)
    known = sizes(copied(model), example)
    positions = {name: known[layer].positions for name in shapes if (layer := name.removesuffix(".weight")) in known}
    heads = [  # and the products that they all make, in which no weight takes part
        (along.channels, known[module].products)
        for along in found.makes
        if along.name.endswith(_QUERY) and (module := along.name.removesuffix(_QUERY)) in known
    ]
    counted = _cost(shapes, channels, positions, 0, torch.zeros(found.size, dtype=torch.bool))
    other = sum(size.multiply_adds for size in known.values()) - counted - sum(made for _, made in heads)

    def price(gone: Tensor) -> float:
        products = sum(made * float((~gone[along]).double().mean()) for along, made in heads)
        return products + _cost(shapes, channels, positions, other, gone)

    return price


def _channels_of(shapes: Mapping[str, tuple[int, ...]], found: Coupling) -> dict[str, dict[int, Tensor]]:
    """Of each parameter the channels along its axes: of weights, of the biases beside them and of what normalises."""
    channels: dict[str, dict[int, Tensor]] = {}
    for along in (*found.makes, *found.reads, *found.scales):
        channels.setdefault(along.name, {})[along.axis] = along.channels
    for along in (*found.makes, *found.scales):
        bias = f"{along.name.removesuffix('weight')}bias"
        if bias in shapes:
            channels[bias] = {0: along.channels}
    return channels


def _cost(
    shapes: Mapping[str, tuple[int, ...]],
    channels: Mapping[str, Mapping[int, Tensor]],
    positions: Mapping[str, float],
    other: float,
    gone: Tensor,
) -> float:
    """The numbers that are left of each parameter, as often as each is used, and what else there is."""
    left = {name: prod(shape) for name, shape in shapes.items()}
    for name, axes in channels.items():
        for axis, along in axes.items():
            left[name] = left[name] // shapes[name][axis] * int((~gone[along]).sum())
    return other + sum(count * positions.get(name, 0) for name, count in left.items())
