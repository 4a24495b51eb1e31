"""What excites a unit: the examples to which it answers most strongly; and of a text the tokens that it reads most."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from tombola.layers import layer_weights
from tombola.weights import place

BATCH = 64
POSITIONS = 8  # over which what is read of a token is a mean
TRIED = 4  # texts


@dataclass(frozen=True)
class Excitement:
    """The examples that excite each unit of a layer most, strongest first.

    Attributes:
        examples: units x top, their places among the inputs.
        values: units x top, what the layer gives there, before whatever follows it: a normalisation, a ReLU.
        spots: units x top, where in the example: the place in a convolution's map, row by row; the position in a text.
    """

    examples: Tensor
    values: Tensor
    spots: Tensor


@dataclass(frozen=True)
class Reading:
    """The tokens that each unit of a layer reads most, strongest first.

    Attributes:
        tokens: units x top.
        values: units x top, what the layer gives for the token, less its mean over all tokens.
    """

    tokens: Tensor
    values: Tensor


def excitement(model: nn.Module, names: Sequence[str], inputs: Tensor, top: int = 9) -> dict[str, Excitement]:
    """The examples that excite most, for each layer whose weight is named and whose outputs are its units.

    Of a convolution it is the largest value over the places of its map, of a text that over its positions. A table of
    embeddings and the projections inside of an attention layer are left out.

    Args:
        model: in evaluation mode.
        names: of weights.
        inputs: examples, as the model takes them.
        top: how many.

    >>> model = nn.Sequential(nn.Linear(2, 1, bias=False))
    >>> _ = model[0].weight.data.copy_(torch.tensor([[1.0, 0.0]]))
    >>> excitement(model, ["0.weight"], torch.tensor([[1.0, 5.0], [3.0, 0.0]]), top=1)["0.weight"].examples
    tensor([[1]])
    """
    given = _given(model, names, inputs, _largest)
    return {name: _strongest(torch.cat(parts), top) for name, parts in given.items()}


def reading(
    model: nn.Module, names: Sequence[str], vocabulary: int, length: int, top: int = 9, positions: int = POSITIONS
) -> dict[str, Reading]:
    """The tokens that each unit reads most, in the layers that read a text token by token.

    In these what a unit gives at a position hangs on the token there, and the position, alone, as in the first
    attention of a transformer: that is tried out on texts drawn at random. So what its living weights make of a token,
    through its embedding and what normalises that, is known exactly: f_u(t), the mean over the first positions of a
    text that is t throughout, and f_u(t) - mean over t' of f_u(t') is said, the largest in size first. Of layers after
    an attention nothing is, as in them all tokens of a text are joined.

    Args:
        model: in evaluation mode; it takes tokens, N x T.
        names: of weights.
        vocabulary: how many kinds of tokens there are.
        length: T, the most that it takes.
        top: how many.
        positions: over how many, the first ones, the mean is.

    >>> model = nn.Sequential(nn.Embedding(3, 1), nn.Linear(1, 1))
    >>> _ = model[0].weight.data.copy_(torch.tensor([[0.0], [6.0], [0.0]])), model[1].weight.data.fill_(-1)
    >>> reading(model, ["1.weight"], vocabulary=3, length=2, top=2)["1.weight"]
    Reading(tokens=tensor([[1, 0]]), values=tensor([[-4.,  2.]]))
    """
    single = _token_by_token(model, names, vocabulary, length)
    texts = torch.arange(vocabulary)[:, None].expand(-1, min(length, positions))
    given = _given(model, single, texts, lambda values: values.mean(dim=1)) if single else {}
    return {name: _read_most(torch.cat(parts), top) for name, parts in given.items()}


def _token_by_token(model: nn.Module, names: Sequence[str], vocabulary: int, length: int) -> list[str]:
    """The layers that give at each position the same, whatever stands at the other ones."""
    if length < 2 or vocabulary < 2:
        return []
    draw = torch.Generator().manual_seed(0)
    texts, others = torch.randint(vocabulary, (2, TRIED, length), generator=draw)
    kept = torch.arange(length) % 2 == 1  # with others before them: a causal attention joins none to the first
    mixed = torch.where(kept, texts, others)
    one, other = (_given(model, names, each, lambda values: values) for each in (texts, mixed))
    return [name for name, parts in one.items() if _same(torch.cat(parts), torch.cat(other[name]), kept)]


def _same(one: Tensor, other: Tensor, kept: Tensor) -> bool:
    return one.shape[1] == len(kept) and torch.allclose(one[:, kept], other[:, kept], rtol=1e-4, atol=1e-6)


def _read_most(values: Tensor, top: int) -> Reading:
    apart = values - values[0]  # tokens x units; exactly 0 where no token makes a difference
    away = (apart - apart.mean(dim=0)).T
    order = away.abs().sort(dim=1, descending=True, stable=True).indices[:, :top]
    return Reading(order, away.gather(1, order))


def _given(
    model: nn.Module, names: Sequence[str], inputs: Tensor, reduced: Callable[[Tensor], Tensor]
) -> dict[str, list[Tensor]]:
    """What each layer gives, batch by batch: `reduced` of N x places x units."""
    found: dict[str, list[Tensor]] = {}
    hooks = [
        module.register_forward_hook(_noting(found.setdefault(name, []), axis, reduced))
        for name, module, axis in _layers(model, names)
    ]
    try:
        with torch.no_grad():
            for start in range(0, len(inputs), BATCH):
                model(inputs[start : start + BATCH])
    finally:
        for hook in hooks:
            hook.remove()
    # A layer that is called several times for an example gives several answers to it.
    return {name: parts for name, parts in found.items() if sum(map(len, parts)) == len(inputs)}


def _layers(model: nn.Module, names: Sequence[str]) -> Iterator[tuple[str, nn.Module, int]]:
    """(name of the weight, the module that has it, the axis of its units) of those of which it is known."""
    places: Mapping[Any, str] = {
        place(value): name for name, value in model.named_parameters(remove_duplicate=False) if name in names
    }
    for module in model.modules():
        row, weight = layer_weights(module), getattr(module, "weight", None)
        if row and row.kind in ("linear", "conv") and isinstance(weight, Tensor) and place(weight) in places:
            yield places[place(weight)], module, 1 if row.kind == "conv" else -1


def _noting(parts: list[Tensor], axis: int, reduced: Callable[[Tensor], Tensor]) -> Any:
    def note(module: nn.Module, given: Any, made: Tensor) -> None:
        units = made.movedim(axis, -1)  # N, ..., units
        parts.append(reduced(units.reshape(len(units), -1, units.shape[-1])).float().cpu())

    return note


def _largest(values: Tensor) -> Tensor:
    """N x 2 x units: the largest over all places, and at which it is, the first of them."""
    spots = values.argmax(dim=1, keepdim=True)
    return torch.cat([values.gather(1, spots).float(), spots.float()], dim=1)


def _strongest(values: Tensor, top: int) -> Excitement:
    order = values[:, 0].T.sort(dim=1, descending=True, stable=True)  # equal ones in the order of the examples
    examples = order.indices[:, :top]
    return Excitement(examples, order.values[:, :top], values[:, 1].T.gather(1, examples).long())
