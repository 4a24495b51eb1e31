"""Which weights are alive: name -> bool tensor over the prunable weights of a model, True = alive.

A mask is a value beside a plain `nn.Module`: no wrapper, no buffer, no renamed key. It is checked when it is made
and must not be written to; pruning makes another one.
"""

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from tombola import mask_checks
from tombola.errors import BadInput
from tombola.weights import Weights, bits


class Mask(Mapping[str, Tensor]):
    """An immutable map from the name of a weight to a bool tensor of its shape, True where it is alive.

    >>> mask = Mask({"weight": torch.tensor([True, False, True, True])})
    >>> mask
    Mask(4 weights, density 0.75)
    """

    __slots__ = ("_layers",)

    def __init__(self, layers: Mapping[str, Tensor]) -> None:
        mask_checks.check_layers(layers)
        self._layers = {name: alive.detach().cpu().clone() for name, alive in layers.items()}

    @staticmethod
    def check(value: object) -> None:
        """Raise BadInput if it is no mask."""
        if not isinstance(value, Mask):
            todo = "tombola.Mask(it) makes one." if isinstance(value, Mapping) else "A ticket's is ticket.mask."
            raise BadInput(where="mask", expected="a Mask", found=type(value).__name__, todo=todo)

    def __getitem__(self, name: str) -> Tensor:
        return self._layers[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._layers)

    def __len__(self) -> int:
        return len(self._layers)

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Mask)
            and list(self) == list(other)
            and all(torch.equal(self[name], other[name]) for name in self)
        )

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"Mask({self.total:,} weights, density {self.density:.3g})"

    @property
    def alive(self) -> int:
        """||m||_0, the number of living weights."""
        return sum(self.counts.values())

    @property
    def total(self) -> int:
        """|theta|, the number of prunable weights."""
        return sum(alive.numel() for alive in self._layers.values())

    @property
    def density(self) -> float:
        """P_m = ||m||_0 / |theta|, the fraction of prunable weights that are alive."""
        return self.alive / self.total if self.total else 1.0

    @property
    def counts(self) -> dict[str, int]:
        """The number of living weights in each layer."""
        return {name: int(alive.sum()) for name, alive in self._layers.items()}


def suits(mask: Mask, weights: Weights) -> None:
    """Raise BadInput unless all that `mask` names is in `weights`, in its shape: nothing broadcasts, or is left out."""
    Mask.check(mask)
    mask_checks.check_weights(mask, weights)


def shuffle(mask: Mask, mask_seed: int) -> Mask:
    """The same layer-wise counts elsewhere: in each layer the entries of `mask`, permuted.

    The control that keeps how many weights each layer has and forgets which.
    """
    generator = torch.Generator().manual_seed(mask_seed)

    def permuted(alive: Tensor) -> Tensor:
        return alive.flatten()[torch.randperm(alive.numel(), generator=generator)].view_as(alive)

    return Mask({name: permuted(alive) for name, alive in mask.items()})


def random_like(mask: Mask, mask_seed: int) -> Mask:
    """A random mask with the layer-wise counts of `mask`.

    Each weight has a place in one random order drawn from `mask_seed`; the first ones of each layer live. Masks drawn
    with one seed therefore nest whenever the counts do, as the levels of a search do.
    """
    generator = torch.Generator().manual_seed(mask_seed)

    def drawn(alive: Tensor) -> Tensor:
        order = torch.randperm(alive.numel(), generator=generator)
        living = torch.zeros(alive.numel(), dtype=torch.bool)
        living[order[: int(alive.sum())]] = True
        return living.view_as(alive)

    return Mask({name: drawn(alive) for name, alive in mask.items()})


def apply(weights: Weights, mask: Mask) -> dict[str, Tensor]:
    """m ⊙ theta: a copy of `weights` in which every pruned weight is exactly +0.

    Raises:
        BadInput: the mask names what is not among the weights, or not of its shape.
    """
    suits(mask, weights)
    return {
        name: bits(value).masked_fill(~mask[name], 0).view(value.dtype) if name in mask else value.clone()
        for name, value in weights.items()
    }
