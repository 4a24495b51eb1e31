"""Pruned means pruned: holds pruned weights, their gradients and their optimiser state at exactly 0.

A mask applied in the forward pass alone is not enough: momentum, Adam's moments and weight decay go on moving what the
gradient no longer touches. The guard sits in the optimiser's own step hooks, so a loop that steps the optimiser cannot
forget it.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from tombola import prunable, weights
from tombola.mask import Mask
from tombola.mask_checks import check_zero
from tombola.optimizer_state import keeping
from tombola.step_hooks import ahead, check_watchable, opaque


class Guard:
    """Keeps `model`'s pruned weights at exactly 0 through every step of `optimizer`.

    On entry the weights are masked, and what the optimiser keeps of each; before each step the gradients are. Zero
    weight, zero gradient and zero state are a fixed point of SGD, Adam and most of torch.optim, weight decay included,
    so there that is all it takes. Of any other optimiser the weights are masked after each step too; its state is left
    to it unless it is known to be one number per weight.

    Args:
        held: False if the pruned weights shall move freely until `hold` is called.

    Raises:
        BadInput: the mask is of another model, or the optimiser one that cannot be watched.

    >>> from tombola import mask, prunable
    >>> model = nn.Linear(2, 1)
    >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    >>> guard = Guard(model, optimizer, mask.Mask({"weight": torch.tensor([[True, False]])}))
    >>> model(torch.ones(4, 2)).sum().backward(); optimizer.step()
    >>> model.weight[0, 1].item()
    0.0
    """

    def __init__(self, model: nn.Module, optimizer: Optimizer, mask: Mask, held: bool = True) -> None:
        mask = prunable.checked(mask, model)
        check_watchable(optimizer)
        # Several parameters over one memory have a gradient and a state each, and are all to be guarded.
        model = weights.bare(model)
        tied = weights.ties(model)
        parameters = [(tied.get(name, name), each) for name, each in model.named_parameters()]
        # A full layer needs no guarding, which makes dense training as fast as without a guard.
        dead = {name for name, alive in mask.items() if not bool(alive.all())}
        self._names = [name for name, _ in parameters if name in dead]
        self._parameters = [parameter for name, parameter in parameters if name in dead]
        self._optimizer = optimizer
        # Laid out in memory as the weights are, for one pass over both.
        pairs = zip(self._names, self._parameters, strict=True)
        self._live = [torch.empty_like(parameter.detach()).copy_(mask[name]) for name, parameter in pairs]
        self._dead = [live == 0 for live in self._live]
        self.held = held
        self._keeping = keeping(optimizer)
        self._mask_all()
        self._hooks = [
            optimizer.register_step_pre_hook(opaque(self._before_step)),
            optimizer.register_load_state_dict_post_hook(lambda _: self._mask_all()),
        ]
        if not self._keeping.stays or self._keeping.leaving:
            self._hooks.append(ahead(optimizer, self._after_step))

    def hold(self) -> None:
        """From now on, pruned is pruned."""
        self.held = True
        self._mask_gradients()
        self._mask_all()

    @property
    def dead(self) -> list[tuple[nn.Parameter, Tensor]]:
        """Each parameter that is not wholly alive, with True where it is pruned."""
        return list(zip(self._parameters, self._dead, strict=True))

    def _before_step(self, _: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if not self.held:
            return None
        closure = args[1] if len(args) > 1 else kwargs.get("closure")
        if closure is None:
            self._mask_gradients()
            return None

        def masked() -> Any:  # a closure makes the gradients inside the step
            loss = closure()
            self._mask_gradients()
            return loss

        return args[:1], {**kwargs, "closure": masked}

    def _mask_gradients(self) -> None:
        pairs = [(p.grad, live) for p, live in zip(self._parameters, self._live, strict=True) if p.grad is not None]
        if pairs:
            torch._foreach_mul_([gradient for gradient, _ in pairs], [live for _, live in pairs])

    def _mask_all(self) -> None:
        self._mask(weights=True, states=self._keeping.per_weight)

    def _after_step(self, *_: Any) -> None:
        self._mask(weights=not self._keeping.stays, states=self._keeping.leaving)

    @torch.no_grad()
    def _mask(self, weights: bool, states: frozenset[str]) -> None:
        for parameter, dead in self.dead if self.held else ():
            for value in [*([parameter] if weights else []), *self._state_of(parameter, states)]:
                value.masked_fill_(dead, 0)

    def _state_of(self, parameter: Tensor, names: frozenset[str]) -> list[Tensor]:
        state = self._optimizer.state.get(parameter, {})
        values = (state.get(name) for name in names)
        return [value for value in values if isinstance(value, Tensor) and value.shape == parameter.shape]

    def check(self, part: int | None = None) -> None:
        """Make sure that every pruned weight and all of its optimiser state is exactly 0.

        Args:
            part: of a stack of networks, which one; None for everything.

        Raises:
            GuardLost: some are not.
            Diverged: some are not even numbers, as an infinite gradient times 0 is none.
        """
        for name, parameter, dead in zip(self._names, self._parameters, self._dead, strict=True):
            states = [("optimiser state", state) for state in self._state_of(parameter, self._keeping.per_weight)]
            for what, value in [("weight", parameter.detach()), *states]:
                check_zero(name, what, value[dead] if part is None else value[part][dead[part]])

    def release(self) -> None:
        """Take the hooks off the optimiser."""
        for hook in self._hooks:
            hook.remove()
