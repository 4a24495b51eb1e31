"""Several trained networks as one model, which answers with the mean of their probabilities."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from tombola import prunable, weights
from tombola.cash.masking import masked
from tombola.errors import BadInput
from tombola.mask import Mask
from tombola.probabilities import log_mean_probability


class Ensemble(nn.Module):
    """log p(x), p = 1/K sum_k softmax(f_k(x)): the members are called one after another.

    Args:
        members: trained networks of one architecture, two or more; copies are taken, in eval mode. One that is there
            twice counts twice.
        masks: of each, where its weights are not masked yet; None: what is 0 is pruned.

    Raises:
        BadInput: there are fewer than two, one is no model or has other layers than the first, or masks are not theirs.

    >>> members = [nn.Linear(3, 2), nn.Linear(3, 2)]
    >>> x = torch.ones(1, 3)
    >>> mean = sum(member(x).softmax(dim=1) for member in members) / 2
    >>> torch.allclose(Ensemble(members)(x).softmax(dim=1), mean)
    True
    """

    def __init__(self, members: Sequence[nn.Module], masks: Sequence[Mask] | None = None) -> None:
        super().__init__()
        members = list(members)
        _are_one_architecture(members)
        masks = [prunable.full(member) for member in members] if masks is None else list(masks)
        if len(masks) != len(members):
            raise BadInput(
                where="masks",
                expected=f"{len(members)}, one for each member",
                found=str(len(masks)),
                todo="Leave them out where the weights of all members are masked.",
            )
        self.members = nn.ModuleList(masked(member, mask) for member, mask in zip(members, masks, strict=True))

    @property
    def mask(self) -> Mask:
        """Of all members, by the names that their weights have here: what is 0 is pruned."""
        values = weights.of(self)
        return Mask({name: values[name] != 0 for name in prunable.full(self)})

    def forward(self, inputs: Tensor) -> Tensor:
        """[N, ...] -> [N, ..., classes]."""
        logits = torch.stack([member(inputs) for member in self.members], dim=1)
        return log_mean_probability(logits, len(self.members))


def check_classes(outputs: Tensor) -> None:
    """Raise BadInput unless an ensemble's outputs are those of two classes or more: of one, every probability is 1."""
    if outputs.dim() < 2 or outputs.shape[-1] < 2:
        raise BadInput(
            where="the ensemble",
            expected="members with a logit for each class, N x 2 or more, of which probabilities are made",
            found=f"outputs of {' x '.join(map(str, outputs.shape))}",
            todo="For a logit z of two classes let them give 0 and z.",
        )


def _are_one_architecture(members: Sequence[nn.Module]) -> None:
    if len(members) < 2:
        raise BadInput(
            where="members",
            expected="two networks or more",
            found=str(len(members)) if members else "none",
            todo="One network is cashed in by itself: `cash.prove(model, mask, inputs)`.",
        )
    for member in members:
        weights.check(member)
    first = _shapes(members[0])
    for number, member in enumerate(members[1:], start=1):
        own = _shapes(member)
        if own == first:
            continue
        name = next(name for name in [*first, *own] if own.get(name) != first.get(name))
        raise BadInput(
            where=f"member {number}, {name}",
            expected=f"{_size(first.get(name))}, as member 0 has it",
            found=_size(own.get(name)),
            todo="Hand in networks of one architecture, as they were trained; they are compacted afterwards.",
        )


def _shapes(model: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(value.shape) for name, value in model.state_dict().items() if isinstance(value, Tensor)}


def _size(shape: tuple[int, ...] | None) -> str:
    return "no such tensor" if shape is None else " x ".join(map(str, shape)) or "one number"
