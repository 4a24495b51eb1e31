"""A smaller dense model of any model, without a search: its least channels go, and its layers become narrower."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from tombola import coupling as coupled
from tombola import prunable, weights
from tombola.amounts import check_fraction
from tombola.cash.compaction import compact
from tombola.cash.coupled import coupling
from tombola.cash.replaceable import copied
from tombola.cash.size import sizes
from tombola.coupling import Coupling
from tombola.errors import BadInput
from tombola.mask import Mask
from tombola.pruning import Round
from tombola.score import Batch, Score, Scored, cross_entropy, scores
from tombola.scores import SCORES

UNITS = ("channels", "parameters", "multiply_adds")
_HALVINGS = 30


@dataclass(frozen=True)
class Importance:
    """By what channels are ranked, and against which.

    Attributes:
        score: a name in `scores.SCORES`, or a score.
        batches: of training examples, (inputs, labels) each, for a score that sees them.
        loss: what training makes small, of the model and a batch.
        scope: `channel`: every layer is narrowed alike; `channel_global`: all layers' channels are ranked together.
        keep: kinds, names or patterns of names of weights whose channels all stay.
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
        multiple: what the widths of layers divide by afterwards: 8 or 16 suit GPUs.

    Raises:
        BadInput: the model cannot be followed; it has no channel that can go, or not as many as it would take.

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
    check_fraction(keep, "keep")
    model = weights.bare(model)
    importance = by if isinstance(by, Importance) else Importance(by)
    round, found = importance.round, coupling(model, example)
    full = round.full(model)
    ranked = _ranked(model, importance, full, coupled.known(found, full))
    kinds, ties = prunable.prunable(model), weights.ties(model)

    def at(rate: float) -> Mask:
        return _with_rate(round, rate, multiple).next(full, ranked, kinds, ties, found)

    if of == "channels":
        return at(1 - keep)
    price = _price(model, full, found, example, of)
    return _widest(at, price, keep, of)


def _with_rate(round: Round, rate: float, multiple: int) -> Round:
    return Round(round.scope, (("*", rate),), round.keep, score=round.score, multiple=multiple)


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


def _widest(at: Callable[[float], Mask], price: Callable[[Mask], float], keep: float, of: str) -> Mask:
    """The mask of the least rate that costs no more than the share `keep`, found by halving."""
    whole, low, high = price(at(0.0)), 0.0, 1.0
    if price(at(high)) > keep * whole:
        raise BadInput(
            where="keep",
            expected=f"{price(at(high)) / whole:.3g} or more of the {of.replace('_', '-')}, which stay in any case",
            found=f"{keep:g}",
            todo="cash.coupling(model, example).alone says which layers stay as wide as they are, and why.",
        )
    if keep == 1:
        return at(0.0)
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (low, middle) if price(at(middle)) <= keep * whole else (middle, high)
    return at(high)


def _price(
    model: nn.Module, full: Mask, found: Coupling, example: Tensor | tuple[Tensor, ...], of: str
) -> Callable[[Mask], float]:
    """What the model costs that a mask leaves: parameters with biases and norms, or multiply-adds of an example."""
    shapes = {name: tuple(value.shape) for name, value in model.named_parameters()}
    if of == "multiply_adds":
        known = sizes(copied(model), example)
        positions = {
            name: known[layer].positions for name in shapes if (layer := name.removesuffix(".weight")) in known
        }
        return partial(_multiply_adds, full, positions, sum(size.multiply_adds for size in known.values()))
    return partial(_parameters, shapes, found)


def _multiply_adds(full: Mask, positions: Mapping[str, float], whole: float, mask: Mask) -> float:
    return whole - sum(positions.get(name, 0) * int((full[name] & ~alive).sum()) for name, alive in mask.items())


def _parameters(shapes: Mapping[str, tuple[int, ...]], found: Coupling, mask: Mask) -> float:
    gone = found.may_go(mask) & ~found.alive(mask)
    beside: dict[str, Any] = {}  # biases, and what normalises
    for along in (*found.makes, *found.scales):
        bias = f"{along.name.removesuffix('weight')}bias"
        beside |= {name: along for name in (bias, along.name) if name in shapes and len(shapes[name]) == 1}
    less = sum(int(gone[along.channels].sum()) for name, along in beside.items() if name not in mask)
    whole = sum(torch.Size(shape).numel() for shape in shapes.values())
    return whole - less - sum(int((~alive).sum()) for alive in mask.values())
