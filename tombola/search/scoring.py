"""What a search shows its score: the trained network, and batches of the training set where the score asks for them."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from tombola import weights
from tombola.score import Batch, Score, Scored, cross_entropy, scores
from tombola.search.state import Loop

Loss = Callable[[nn.Module, Batch], Tensor]


@dataclass(frozen=True)
class Examples:
    """The training set, as a score sees it.

    Attributes:
        batches: (inputs, labels) each; None where there are none.
        loss: what the loop makes small, of the model and a batch.
    """

    batches: Iterable[Batch] | None = None
    loss: Loss = cross_entropy

    def on(self, model: nn.Module) -> Iterable[Batch]:
        """The batches where the model is, as often as they are asked for."""
        return _Placed(() if self.batches is None else self.batches, next(iter(model.parameters())).device)


@dataclass(frozen=True)
class _Placed:
    """Batches on the model's device, as often as they are asked for."""

    batches: Iterable[Any]
    device: torch.device

    def __iter__(self) -> Iterator[Any]:
        for batch in self.batches:
            yield _placed(batch, self.device)


def _placed(value: Any, device: torch.device) -> Any:
    """`value` with all tensors in it on `device`."""
    if isinstance(value, Tensor):
        return value.to(device)
    if type(value) is dict:
        return {name: _placed(part, device) for name, part in value.items()}
    if type(value) in (list, tuple):
        return type(value)(_placed(part, device) for part in value)
    return value.to(device) if hasattr(value, "to") else value  # as the encodings of tokenizers


def apart(model: nn.Module) -> nn.Module:
    """A copy of a model, in training mode and without gradients, of which a score may change everything."""
    copy = deepcopy(model).train()
    for parameter in copy.parameters():
        parameter.grad = None
    return copy


def ranked(score: Score, loop: Loop, scored: Scored, early: bool = False) -> Mapping[str, Tensor]:
    """Return the scores of the weights of a loop's network at the end of a level, or as they were before.

    A score that sees batches is given a copy of the model, of which it may change everything; what it draws from
    torch, NumPy and random is decided by the seed, and is not missing in the loop.

    Args:
        scored: what the score sees, of the loop's own model.
        early: whether its weights are not those that the model has now.

    Raises:
        BadInput: it gives no number for a weight, or one that cannot be compared.
    """
    if early or score.sees_batches:
        scored = replace(scored, model=apart(loop.model))
        weights.put(scored.model, scored.weights)
    if not score.sees_batches:
        return scores(score, scored)
    random = loop.random()
    try:
        loop.seed(scored.seed)
        with torch.enable_grad():
            return scores(score, scored)
    finally:
        loop.put_random(random)
