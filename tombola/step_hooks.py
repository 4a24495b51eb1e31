"""Hooks of an optimiser's step: which optimisers have them, and in which order they are called."""

from collections.abc import Callable
from typing import Any

import torch
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from tombola.errors import BadInput


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
