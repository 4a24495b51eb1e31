"""A mask that moves while a network trains: what dies becomes 0, what comes to life starts from 0, always held."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from tombola.dynamics.base import Course, Setting
from tombola.guard import Guard
from tombola.macs import GRADIENT
from tombola.mask import Mask
from tombola.mask_checks import check_finite
from tombola.prune import lowest

if TYPE_CHECKING:
    from torch.optim import Optimizer


Move = Callable[[int, Mask], Mask]


def _stay(step: int, mask: Mask) -> Mask:
    return mask


class MovingMask(Course):
    """A course whose mask another one follows at some steps; a `Guard` holds at 0 what is dead now.

    Args:
        setting: what it begins with.
        following: (step, mask) -> the mask after the optimiser's step that follows after `step` steps, which has been
            taken; the same mask where it stays. None for one that always stays.
        instead: (step, mask) -> the mask that takes the place of that step, before which it is asked; the same mask
            where the step is to be taken. None where all steps are.
    """

    def __init__(self, setting: Setting, following: Move | None = None, instead: Move | None = None) -> None:
        super().__init__(setting)
        self._following, self._instead = following or _stay, instead or _stay
        self._guard: Guard | None = None
        self._took = 0
        self._put(setting.mask)

    @property
    def mask(self) -> Mask:
        """What is alive now."""
        return self._mask

    @contextmanager
    def along(self, optimizer: "Optimizer") -> Iterator[None]:
        """Meanwhile the guard holds what is dead at 0."""
        self._hold(optimizer)
        try:
            yield
            self._held.check()
        finally:
            self._held.release()
            self._guard = None

    def advance(self, optimizer: "Optimizer", step: int) -> None:
        """The optimiser's step and then the mask that follows, or a mask in the step's place."""
        moved = self._instead(step, self._mask)
        if moved is not self._mask:
            # Forwards and back to what layers read with what lives; the gradient of all weights.
            self._took = 2 * self._forward + self.setting.forward({})
            self.take(moved, optimizer)
            return
        self._took = GRADIENT * self._forward
        optimizer.step()
        self.take(self._following(step, self._mask), optimizer)

    def take(self, mask: Mask, optimizer: "Optimizer") -> None:
        """From now on `mask` is what is alive: what dies becomes 0, and what comes to life starts from 0."""
        if mask is not self._mask:
            self._put(mask)
            self._hold(optimizer)

    @property
    def _held(self) -> Guard:
        assert self._guard is not None, "masks move in training alone"
        return self._guard

    def _hold(self, optimizer: "Optimizer") -> None:
        # A guard makes weights and optimiser state of what is dead 0 when it comes, and what it has held until then has
        # neither: so what comes to life has none.
        if self._guard is not None:
            self._guard.release()
        self._guard = Guard(self.setting.model, optimizer, self._mask)

    def multiply_adds(self, step: int) -> int:
        """3 f with what was alive; 2 f and that of the whole network where a mask took the place of the step."""
        return self._took

    def state(self) -> dict[str, Tensor]:
        """The mask as it stands."""
        return dict(self._mask)

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Stand where `state` was taken; what the guard holds stays."""
        self._put(Mask(state))

    def _put(self, mask: Mask) -> None:
        # In the model's order, whatever that of a file: ties go by it, and so does what is drawn.
        names = [name for name, _ in self.setting.model.named_parameters(remove_duplicate=False) if name in mask]
        self._mask = Mask({name: mask[name] for name in names}) if list(mask) != names else mask
        self._forward = self.setting.forward(mask.counts)


def magnitudes(setting: Setting, mask: Mask) -> dict[str, Tensor]:
    """|theta_i| of each weight that `mask` names, as it stands, on the CPU."""
    parameters = dict(setting.model.named_parameters(remove_duplicate=False))
    return {name: parameters[name].detach().abs().cpu() for name in mask}


def gradients(setting: Setting, mask: Mask) -> dict[str, Tensor]:
    """|dL/dtheta_i| of each weight that `mask` names, of pruned ones too, on the CPU; 0 where there is none."""
    parameters = dict(setting.model.named_parameters(remove_duplicate=False))
    found = {name: parameters[name].grad for name in mask}
    return {
        name: torch.zeros(mask[name].shape) if gradient is None else gradient.detach().abs().cpu()
        for name, gradient in found.items()
    }


def drawn(mask: Mask, seed: int) -> dict[str, Tensor]:
    """A uniform number per weight that `mask` names, drawn from `seed`."""
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.rand(alive.shape, generator=generator, dtype=torch.float64) for name, alive in mask.items()}


def rewired(
    mask: Mask, kept_by: Mapping[str, Tensor], grown_by: Mapping[str, Tensor], counts: Mapping[str, int]
) -> Mask:
    """The mask when in each layer so many weights have gone and as many have come.

    Args:
        mask: what is alive before.
        kept_by: a number per weight; of what is alive the lowest go, ties as `prune` has it.
        grown_by: a number per weight; of all that did not stay the highest come, of equal ones the earlier.
        counts: how many move in each layer, at most as many as live.

    >>> mask = Mask({"w": torch.tensor([True, True, False, False])})
    >>> numbers = {"w": torch.tensor([1.0, 2.0, 3.0, 4.0])}
    >>> rewired(mask, numbers, numbers, {"w": 1})["w"]
    tensor([False,  True, False,  True])
    """
    living = mask.counts
    kept = by_layer_to(kept_by, mask, {name: living[name] - counts[name] for name in mask})
    return Mask({name: _with_highest(alive, grown_by[name], counts[name]) for name, alive in kept.items()})


def _with_highest(alive: Tensor, scores: Tensor, come: int) -> Tensor:
    grown = alive.flatten().clone()
    places = (~grown).nonzero().squeeze(1)
    order = torch.sort(scores.flatten()[places], stable=True, descending=True).indices
    grown[places[order[:come]]] = True
    return grown.view_as(alive)


def by_layer_to(scores: Mapping[str, Tensor], mask: Mask, counts: Mapping[str, int]) -> Mask:
    """In each layer, so many living weights stay, those of highest score; ties go as `prune` has it.

    Args:
        scores: a number per weight.
        mask: what is alive before; pruned weights stay pruned.
        counts: how many stay in each layer, at most as many as live.
    """
    check_finite(scores)
    living = mask.counts
    return Mask({name: lowest(scores[name], alive, living[name] - counts[name]) for name, alive in mask.items()})


def globally_to(scores: Mapping[str, Tensor], mask: Mask, stay: int) -> Mask:
    """Of all layers together `stay` living weights stay, those of highest score; the rest as `by_layer_to` has it."""
    layers = {name: alive.flatten() for name, alive in mask.items()}
    pooled = {"all": torch.cat([scores[name].flatten() for name in layers])}
    survivors = by_layer_to(pooled, Mask({"all": torch.cat(list(layers.values()))}), {"all": stay})["all"]
    parts = survivors.split([alive.numel() for alive in layers.values()])
    return Mask({name: part.view_as(mask[name]) for name, part in zip(layers, parts, strict=True)})
