"""Pruned means pruned: holds pruned weights, their gradients and their optimiser state at exactly 0.

A mask applied in the forward pass alone is not enough: momentum, Adam's moments and weight decay go on moving what the
gradient no longer touches. The guard sits in the optimiser's own step hooks, so a loop that steps the optimiser cannot
forget it.
"""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from tombola import prunable, weights
from tombola.errors import BadInput, Diverged, GuardLost
from tombola.mask import Mask


@dataclass(frozen=True)
class Keeping:
    """What is known of an optimiser's state.

    Attributes:
        per_weight: the names of what it keeps of each weight by itself, which is 0 where the weight is pruned.
        leaving: those of them that its step takes away from 0 where weight and gradient are 0.
        stays: whether its step leaves a weight at 0 whose gradient and state are 0.
    """

    per_weight: frozenset[str] = frozenset()
    leaving: frozenset[str] = frozenset()
    stays: bool = False


def _stays(*per_weight: str, leaving: str = "") -> Keeping:
    return Keeping(frozenset(per_weight), frozenset(leaving.split()), stays=True)


def _moves(*per_weight: str) -> Keeping:
    return Keeping(frozenset(per_weight), frozenset(per_weight))


_MOMENTS = ("exp_avg", "exp_avg_sq", "max_exp_avg_sq")
UNKNOWN = Keeping()
# By package and class. A shape says nothing: factors of a square layer and rotated moments have that of the weight too.
KNOWN = {
    "torch.SGD": _stays("momentum_buffer"),
    "torch.Adam": _stays(*_MOMENTS),
    "torch.AdamW": _stays(*_MOMENTS),
    "torch.NAdam": _stays("exp_avg", "exp_avg_sq"),
    "torch.RAdam": _stays("exp_avg", "exp_avg_sq"),
    "torch.Adamax": _stays("exp_avg", "exp_inf", leaving="exp_inf"),
    "torch.Adagrad": _stays("sum"),
    "torch.Adadelta": _stays("square_avg", "acc_delta"),
    "torch.Adafactor": _stays("variance"),
    "torch.ASGD": _stays("ax"),
    "torch.RMSprop": _stays("square_avg", "momentum_buffer", "grad_avg"),
    "torch.Rprop": _stays("prev", "step_size", leaving="step_size"),
    "torch.Muon": _moves("momentum_buffer"),
    "pytorch_optimizer.AdaBelief": _moves("exp_avg", "exp_avg_var", "max_exp_avg_var"),
    "pytorch_optimizer.AdEMAMix": _moves("exp_avg", "exp_avg_sq", "exp_avg_slow"),
    "pytorch_optimizer.Lamb": _moves("exp_avg", "exp_avg_sq"),
    "pytorch_optimizer.Lion": _moves("exp_avg"),
    "pytorch_optimizer.Muon": _moves("momentum_buffer"),
    "pytorch_optimizer.Prodigy": _moves("s", "p0", "exp_avg", "exp_avg_sq"),
    "pytorch_optimizer.ScheduleFreeAdamW": _moves("z", "exp_avg_sq"),
    "pytorch_optimizer.ScheduleFreeRAdam": _moves("z", "exp_avg_sq"),
    "pytorch_optimizer.ScheduleFreeSGD": _moves("z"),
    "pytorch_optimizer.StableAdamW": _moves("exp_avg", "exp_avg_sq"),
}


def keeping(optimizer: Optimizer) -> Keeping:
    """What is known of the state of `optimizer`, by its class or that of which it is a subclass.

    >>> sorted(keeping(torch.optim.SGD([torch.zeros(1)], momentum=0.9)).per_weight)
    ['momentum_buffer']
    """
    kinds: tuple[Any, ...] = type(optimizer).__mro__
    for kind in kinds:
        if found := KNOWN.get(f"{kind.__module__.partition('.')[0]}.{kind.__qualname__}"):
            # Torch wraps the step of a class when its first object is made.
            same = inspect.unwrap(type(optimizer).step) is inspect.unwrap(kind.step)
            return found if same else Keeping(found.per_weight, found.per_weight)
    return UNKNOWN


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
        tied = weights.ties(weights.bare(model))
        parameters = [(tied.get(name, name), each) for name, each in weights.bare(model).named_parameters()]
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
        self._mask_rest()
        self._hooks = [
            optimizer.register_step_pre_hook(opaque(self._before_step)),
            optimizer.register_load_state_dict_post_hook(lambda _: self._mask_rest()),
        ]
        if not self._keeping.stays or self._keeping.leaving:
            self._hooks.append(ahead(optimizer, self._after_step))

    def hold(self) -> None:
        """From now on, pruned is pruned."""
        self.held = True
        self._mask_gradients()
        self._mask_rest()

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

    @torch.no_grad()
    def _mask_rest(self) -> None:
        if not self.held:
            return
        for parameter, dead in zip(self._parameters, self._dead, strict=True):
            parameter.masked_fill_(dead, 0)
            for state in self._state_of(parameter, self._keeping.per_weight):
                state.masked_fill_(dead, 0)

    @torch.no_grad()
    def _after_step(self, *_: Any) -> None:
        if not self.held:
            return
        for parameter, dead in zip(self._parameters, self._dead, strict=True):
            if not self._keeping.stays:
                parameter.masked_fill_(dead, 0)
            for state in self._state_of(parameter, self._keeping.leaving):
                state.masked_fill_(dead, 0)

    def _state_of(self, parameter: Tensor, names: frozenset[str]) -> list[Tensor]:
        state = self._optimizer.state.get(parameter, {})
        found = (state.get(name) for name in names)
        return [value for value in found if isinstance(value, Tensor) and value.shape == parameter.shape]

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
                pruned = value[dead] if part is None else value[part][dead[part]]
                if not bool(pruned.isfinite().all()):
                    raise Diverged(f"{name}: expected every pruned {what} to be 0, found NaN. The training diverged.")
                moved = int(pruned.count_nonzero())
                if moved:
                    raise GuardLost(
                        f"{name}: expected every pruned {what} to be 0, found {moved} that are not. "
                        "Something changed them outside of the optimiser's step, as loading weights from before the "
                        "rewind point does, a best checkpoint's for one."
                    )

    def release(self) -> None:
        """Take the hooks off the optimiser."""
        for hook in self._hooks:
            hook.remove()


def watchable(optimizer: Optimizer) -> bool:
    """Whether it has the hooks that torch gives to each: wrappers may call themselves optimisers and have none."""
    hooks = ("step_pre", "step_post", "load_state_dict_post")
    return all(hasattr(optimizer, f"_optimizer_{hook}_hooks") for hook in hooks)


def check_watchable(optimizer: Optimizer) -> None:
    """Raise BadInput, naming its class, unless `optimizer` has the hooks that torch gives to each."""
    if not watchable(optimizer):
        raise BadInput(
            where="optimizer",
            expected="an Optimizer with the hooks that torch gives to each",
            found=f"a {type(optimizer).__name__} without, which wraps another one, mostly",
            todo="Hand over the one that it wraps.",
        )


def ahead(optimizer: Optimizer, hook: Callable[..., None]) -> RemovableHandle:
    """Call `hook` right after each step of `optimizer`, before all hooks that are registered already."""
    handle = optimizer.register_step_post_hook(opaque(hook))
    hooks: Any = optimizer._optimizer_step_post_hooks  # an OrderedDict
    hooks.move_to_end(handle.id, last=False)
    return handle


def opaque(hook: Callable[..., Any]) -> Callable[..., Any]:
    """`hook`, called as it is in a compiled step too: each new one that the compiler looked into, it compiled anew."""
    opaque: Callable[..., Any] = torch.compiler.disable(hook)
    return opaque
