"""Which examples of a pool are for training and which for validation, as a function of what is known and of a seed."""

from typing import TYPE_CHECKING

from tombola.data.facts import Facts

if TYPE_CHECKING:
    from torch import Tensor


def split(known: Facts, split_seed: int) -> tuple["Tensor", "Tensor"]:
    """Indices into the pool for training and for validation: disjoint, together all of it, drawn from `split_seed`.

    A running text is not torn apart: whatever the seed, validation is the end of its pool.
    """
    import torch

    size = known.train + known.validation
    drawn = torch.randperm(size, generator=torch.Generator().manual_seed(split_seed))
    order = torch.arange(size) if known.running else drawn
    train, validation = order.split([known.train, known.validation])
    return train, validation
