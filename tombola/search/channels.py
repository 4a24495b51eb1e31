"""The channels of a model in a loop that is not ours: its first call shows how they flow."""

from copy import deepcopy
from typing import Any

from torch import Tensor, nn

from tombola.cash.coupled import coupling
from tombola.coupling import Coupling
from tombola.errors import BadInput
from tombola.search.watch import Look, no_look


class Channels:
    """Follows the first forward pass of `model`, from when it is made on.

    A model that cannot be followed is refused there, before anything is trained.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._coupling: Coupling | None = None
        self._hook = model.register_forward_pre_hook(Look(self._see), with_kwargs=True)

    def _see(self, module: nn.Module, given: tuple[Any, ...], named: dict[str, Any]) -> None:
        self._hook.remove()
        if named or not all(isinstance(each, Tensor) for each in given):
            raise BadInput(
                where="scope 'channel'",
                expected="a model that is called with tensors alone, one after the other: model(x)",
                found=f"arguments by name: {', '.join(named)}" if named else "an argument of another kind",
                todo="Give the model a forward like that, or prune single weights, in the scope 'layer'.",
            )
        self._coupling = coupling(_without_looks(deepcopy(self._model)), given)

    @property
    def found(self) -> Coupling:
        """How its channels live and die together.

        Raises:
            BadInput: it has not been called yet.
        """
        if self._coupling is None:
            raise BadInput(
                where="scope 'channel'",
                expected="a model that has been called once, which shows how its channels flow",
                found="one that has not been",
                todo="Call model(x) before.",
            )
        return self._coupling


def _without_looks(model: nn.Module) -> nn.Module:
    """A copy of the model without what is left of the search's own hooks."""
    for module in model.modules():
        for hooks in (module._forward_hooks, module._forward_pre_hooks):
            for number in [number for number, hook in hooks.items() if hook is no_look]:
                del hooks[number]
    return model
