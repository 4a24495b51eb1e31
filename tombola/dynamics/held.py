"""Weights of which the pruned ones are held at values of their own, beside those that are trained."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from tombola import weights
from tombola.dynamics.base import Course, Setting

if TYPE_CHECKING:
    from tombola.mask import Mask


class Beside(nn.Module):
    """theta ⊙ m + held: what is pruned of theta has no gradient and is 0, so that the optimiser keeps nothing of it.

    Args:
        alive: the mask of these weights, on their device.
        held: what stands in the places of pruned ones; 0 elsewhere.
    """

    alive: Tensor
    held: Tensor

    def __init__(self, alive: Tensor, held: Tensor) -> None:
        super().__init__()
        self.register_buffer("alive", alive, persistent=False)
        self.register_buffer("held", held, persistent=False)

    def forward(self, theta: Tensor) -> Tensor:
        """The weight that the network computes with."""
        return theta * self.alive + self.held

    def right_inverse(self, whole: Tensor) -> Tensor:
        """What of a weight is trained."""
        return whole * self.alive


class Held(Course):
    """One training beside the pruned weights of its beginning.

    Args:
        setting: what it begins with.
    """

    holds = True

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        self._layers: dict[str, tuple[Any, str]] = {}
        whole: dict[str, int] = {}
        for name, alive in setting.mask.items():
            path, _, own = name.rpartition(".")
            layer = setting.model.get_submodule(path)
            begun = getattr(layer, own).detach().clone()
            kept = alive.to(begun.device)
            whole[name] = int(((begun != 0) | kept).sum())
            parametrize.register_parametrization(layer, own, Beside(kept, begun.masked_fill(kept, 0)))
            self._layers[name] = layer, own
        # Forwards, and backwards to the inputs, with all that is not 0; to the weights with those that are trained.
        self._multiply_adds = 2 * setting.forward(whole) + setting.forward(setting.mask.counts)
        self._held = sum(whole.values()) - setting.mask.alive

    @property
    def mask(self) -> "Mask":
        """That which the training was given: what is trained."""
        return self.setting.mask

    def multiply_adds(self, step: int) -> int:
        """2 f with all weights that are not 0, and f with those that are trained."""
        return self._multiply_adds

    @property
    def numbers(self) -> dict[str, Any]:
        """How many pruned weights are held at other values than 0."""
        return {"held": self._held}

    def carried(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """That of kept weights too: they are trained as in any other training; of pruned ones there is none.

        What this training has kept of itself comes back as it was.
        """
        whole: dict[str, Tensor] = {}
        for path, value in state.items():
            entry, _, name = path.partition("/")
            alive = self.setting.mask.get(name)
            where, _, own = name.rpartition(".")
            inside = path if alive is None else f"{entry}/{where}.parametrizations.{own}.original".replace("/.", "/")
            whole[inside] = value if alive is None or value.shape != alive.shape else value * alive
        return super().carried(whole)

    def weights(self) -> dict[str, Tensor]:
        """Trained and held ones together, under the names of a plain network."""
        inside = weights.of(self.setting.model)
        plain = {name: value for name, value in inside.items() if ".parametrizations." not in f".{name}"}
        with torch.no_grad():
            together = {name: getattr(layer, own).detach().cpu().clone() for name, (layer, own) in self._layers.items()}
        return plain | together

    def load(self, state: Mapping[str, Tensor]) -> None:
        """All that it stands on is in the model's state_dict, and in what the training began with."""
