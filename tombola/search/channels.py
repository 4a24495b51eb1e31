"""The channels of a model in a loop that is not ours: its first call shows how they flow."""

from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from tombola.cash.coupled import coupling
from tombola.cash.replaceable import copied
from tombola.coupling import Coupling, check_rates, known
from tombola.errors import BadInput
from tombola.mask import Mask
from tombola.prunable import prunable
from tombola.pruning import Round
from tombola.search.watch import Look, no_look
from tombola.step_hooks import opaque
from tombola.weights import ties


class Channels:
    """Follows the first forward pass of `model`, from when it is made on.

    A model that cannot be followed, or not be pruned by channels so, is refused there; one that was not seen, as where
    it is called compiled only, at the first step of the optimiser.

    Args:
        mask: what is alive in level 0.
        round: what goes after each level.
    """

    def __init__(self, model: nn.Module, mask: Mask, round: Round) -> None:
        self._model, self._mask, self._round = model, mask, round
        self._coupling: Coupling | None = None
        self._failure: BadInput | None = None
        self._step: RemovableHandle | None = None
        self._hook = model.register_forward_pre_hook(Look(self._see), with_kwargs=True)

    def _see(self, module: nn.Module, given: tuple[Any, ...], named: dict[str, Any]) -> None:
        self._hook.remove()
        try:
            self._coupling = self._followed(given, named)
        except BadInput as error:
            self._failure = error
            raise

    def _followed(self, given: tuple[Any, ...], named: dict[str, Any]) -> Coupling:
        if named or not all(isinstance(each, Tensor) for each in given):
            raise BadInput(
                where="scope 'channel'",
                expected="a model that is called with tensors alone, one after the other: model(x)",
                found=f"arguments by name: {', '.join(named)}" if named else "an argument of another kind",
                todo="Give the model a forward like that, or prune single weights, in the scope 'layer'.",
            )
        found = known(coupling(_without_looks(copied(self._model)), given), self._mask)
        check_rates(self._round.rates_of(prunable(self._model), ties(self._model)), found.living(self._mask))
        return found

    def wait(self, optimizer: Optimizer) -> None:
        """At the first step from now on, refuse a model that was not called before, or could not be followed."""
        self.release()

        def stepped(*_: object) -> None:
            self.release()
            assert self.found

        self._step = optimizer.register_step_post_hook(opaque(stepped))  # one that takes a closure calls it in its step

    def release(self) -> None:
        """Wait no more."""
        if self._step:
            self._step.remove()
            self._step = None

    @property
    def found(self) -> Coupling:
        """How its channels live and die together.

        Raises:
            BadInput: it has not been called yet, or could not be followed.
        """
        if self._failure:
            raise self._failure
        if self._coupling is None:
            raise BadInput(
                where="scope 'channel'",
                expected="a model that has been called once, which shows how its channels flow",
                found="one that has not been, or compiled only",
                todo="Call model(x) before the loop, the model itself, in eval mode.",
            )
        return self._coupling


def _without_looks(model: nn.Module) -> nn.Module:
    """A copy of the model without what is left of the search's own hooks."""
    for module in model.modules():
        for hooks in (module._forward_hooks, module._forward_pre_hooks):
            for number in [number for number, hook in hooks.items() if hook is no_look]:
                del hooks[number]
    return model
