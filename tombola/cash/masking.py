"""The masked model itself, which all forms of a ticket are compared with."""

from torch import nn

from tombola import effective, prunable, weights
from tombola import mask as masks
from tombola.cash.replaceable import copied
from tombola.mask import Mask


def masked(model: nn.Module, mask: Mask) -> nn.Module:
    """A copy with m ⊙ theta, of what torch may have wrapped."""
    model = weights.bare(model)
    whole = copied(model)
    mask, tied = prunable.checked(mask, model), weights.ties(model)
    effective.warn(whole, [name for name, alive in mask.items() if not alive.all()], stacklevel=3)
    values = masks.apply(weights.of(whole), mask)
    # A copy shares the parameters that are shared, and no longer memory that several parameters were over.
    weights.put(whole, {name: values[tied.get(name, name)] for name in values})
    return whole
