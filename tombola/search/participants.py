"""The model, the optimisers and what else a loop changes: looked at before a search begins, and sorted."""

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from tombola import weights
from tombola.errors import BadInput
from tombola.layer_patterns import covering, few
from tombola.mask import Mask
from tombola.optimizer_state import UNKNOWN, keeping
from tombola.search import averages
from tombola.search.state import GENERATORS, Loop, StateFunctions
from tombola.step_hooks import check_watchable

_SCHEDULED = ("_wrapped_by_lr_sched", "_with_counter")  # what torch's schedulers leave on an optimiser's step


def loop_of(model: nn.Module, optimizer: Optimizer | Sequence[Optimizer], scheduler: Any, also: Sequence[Any]) -> Loop:
    """What is to be rewound, sorted.

    Raises:
        BadInput: something of it cannot be.
    """
    if not isinstance(model, nn.Module):
        raise BadInput(
            where="model", expected="a torch.nn.Module", found=type(model).__name__, todo="Its weights are pruned."
        )
    _not_sharded(model)
    _plain(weights.bare(model))
    optimizer, *more = _optimizers(optimizer)
    if not isinstance(also, list | tuple):
        raise BadInput(where="also", expected="a list", found=type(also).__name__, todo="also=[it], for one.")
    also = [*more, *(thing for thing in map(bare, also) if not any(thing is each for each in (optimizer, *more)))]
    _none_within([optimizer, *more], also)
    schedulers = _schedulers(scheduler)
    things = tuple(_with_state(thing) for thing in also if not isinstance(thing, GENERATORS))
    for where, thing in [*(("scheduler", each) for each in schedulers), *(("also", each) for each in things)]:
        if not (hasattr(thing, "state_dict") and hasattr(thing, "load_state_dict")):
            raise _no_state(where, thing)
    generators = tuple(thing for thing in also if isinstance(thing, GENERATORS))
    loop = Loop(weights.bare(model), optimizer, schedulers, things, generators, len(more))
    _check_schedulers(loop, given=scheduler is not None)
    return loop


def _none_within(optimizers: Sequence[Optimizer], also: Sequence[Any]) -> None:
    """That no optimiser has another one in it, whose state nobody rewinds."""
    within = (pair for each in optimizers for pair in vars(each).items())
    rewound = (optimizers[0], *also)
    inner = [name for name, value in within if isinstance(value, Optimizer) and value not in rewound]
    if inner:
        raise BadInput(
            where="optimizer",
            expected="all of its state in its state_dict",
            found=f"another optimizer in it ({inner[0]}), whose state is not",
            todo=f"Have it rewound too: also=[optimizer.{inner[0]}].",
        )


def _schedulers(given: Any) -> tuple[Any, ...]:
    schedulers = tuple(given) if isinstance(given, list | tuple) else () if given is None else (given,)
    if wrong := [type(each).__name__ for each in map(bare, schedulers) if isinstance(each, Optimizer)]:
        raise BadInput(
            where="scheduler",
            expected="a scheduler, as of torch.optim.lr_scheduler",
            found=f"an optimizer, {wrong[0]}",
            todo="Several optimizers are Search(model, [optimizer, other]); without a scheduler, leave it out.",
        )
    return schedulers


def _check_schedulers(loop: Loop, given: bool) -> None:
    """That they are of the loop's optimisers, and that none is missing."""
    for each in loop.schedulers:
        # By its groups: some libraries hand a scheduler a wrapper around the optimiser.
        own = isinstance(each, LRScheduler) and each.optimizer.param_groups
        if own and not any(optimizer.param_groups is own for optimizer in loop.optimizers):
            raise BadInput(
                where="scheduler",
                expected="one of the optimizer that is given",
                found="one of another optimizer",
                todo="Make it of this one, or hand over the other one too: Search(model, [optimizer, other]).",
            )
    scheduled = (hasattr(optimizer.step, mark) for optimizer in loop.optimizers for mark in _SCHEDULED)
    if not given and any(scheduled):
        raise BadInput(
            where="scheduler",
            expected="the scheduler of the optimizer, which is to be rewound with it",
            found="none, though one has been made for it",
            todo="Hand it in: scheduler=scheduler; or scheduler=[] if it is not used any more.",
        )


def _no_state(where: str, thing: object) -> BadInput:
    return BadInput(
        where=where,
        expected="state_dict and load_state_dict, or a generator of torch, NumPy or random in `also`",
        found=type(thing).__name__,
        todo="What has a state of another kind is handed over as two functions: also=[(get, set)].",
    )


def _optimizers(given: Any) -> list[Optimizer]:
    optimizers = [bare(each) for each in (given if isinstance(given, list | tuple) else [given])]
    wrong = [type(each).__name__ for each in optimizers if not isinstance(each, Optimizer)]
    if wrong or not optimizers or len({id(each) for each in optimizers}) < len(optimizers):
        raise BadInput(
            where="optimizer",
            expected="a torch.optim.Optimizer" + (", or several, each once" if isinstance(given, list | tuple) else ""),
            found=wrong[0] if wrong else "one of them twice" if optimizers else "an empty list",
            todo="Its step is what the search sees.",
        )
    for each in optimizers:
        check_watchable(each)
    return optimizers


def _with_state(thing: Any) -> Any:
    if isinstance(thing, tuple) and len(thing) == 2 and all(callable(part) for part in thing):
        return StateFunctions(*thing)
    return bare(thing)


def bare(optimizer: Any) -> Any:
    """`optimizer` without what accelerate or Fabric wrap around it: hooks do not see the wrapper's steps."""
    wrapped = any(base.__name__ in ("AcceleratedOptimizer", "_FabricOptimizer") for base in type(optimizer).__mro__)
    return optimizer.optimizer if wrapped else optimizer


def _not_sharded(model: nn.Module) -> None:
    from torch import distributed

    wrapped = any(type(module).__name__ == "FullyShardedDataParallel" for module in model.modules())
    if distributed.is_available():
        from torch.distributed.tensor import DTensor

        wrapped = wrapped or any(isinstance(parameter, DTensor) for parameter in model.parameters())
    if wrapped:
        raise BadInput(
            where=type(model).__name__,
            expected="whole parameters on every process",
            found="parameters in shards (FSDP or DTensor)",
            todo="Wrap the model in DistributedDataParallel instead.",
        )


def _plain(model: nn.Module) -> None:
    """That all its state is tensors, of which each number has a place of its own, and can be put back."""
    saved = weights.own(model)
    for name, value in model.named_buffers():
        if name not in saved:
            weights.check_memory(model, name, value)


def trained(loop: Loop, full: Mask) -> None:
    """Make sure that the optimisers train, with dense gradients, what the search would prune.

    Raises:
        BadInput: they do not; the weights are named.
    """
    steps = loop.trained
    parameters = {name: loop.model.get_parameter(name) for name in full}
    still = [name for name, each in parameters.items() if weights.place(each) not in steps or not each.requires_grad]
    if steps.isdisjoint(map(weights.place, loop.model.parameters())):
        raise BadInput(
            where="optimizer",
            expected="the parameters of the model that the search was given",
            found="those of another one",
            todo="Make model and optimizer once, before the search: it puts their states back for every level.",
        )
    if still:
        raise BadInput(
            where="optimizer",
            expected="every weight that may be pruned among its parameters, with requires_grad",
            found=f"without {few(still)}",
            todo=f"Train them, or leave them dense and uncounted: keep={covering(still, full.keys() - still)}."
            + _if_followed(loop, still),
        )
    modules = loop.model.named_modules()
    sparse = {f"{path}.weight" for path, module in modules if isinstance(module, nn.Embedding) and module.sparse}
    if found := [name for name in full if name in sparse]:
        raise BadInput(
            where=few(found),
            expected="dense gradients",
            found="an embedding with sparse=True",
            todo=f"Build it with sparse=False, or leave it dense: keep={covering(found, full.keys() - found)}.",
        )


def _if_followed(loop: Loop, names: Sequence[str]) -> str:
    """What else to do where a part of the model that nobody trains is shaped like one that is trained."""
    for part, trained in averages.twins(loop).items():
        if any(name.startswith(f"{part}.") for name in names):
            return (
                f" Or, if {part} follows {trained} as a target network or a momentum encoder does, let it begin with "
                f"the same weights, {part}.load_state_dict({trained}.state_dict()): it is then held at 0 where "
                f"{trained} is pruned, which keep= would not do."
            )
    return ""


def rewindable(loop: Loop, k: int) -> None:
    """Make sure that the optimiser's state after step k can be masked.

    Raises:
        BadInput: it is that of L-BFGS: products of old directions, in which pruned weights have left their part.
    """
    if k and isinstance(loop.optimizer, torch.optim.LBFGS):
        raise BadInput(
            where="rewind",
            expected="step 0 with L-BFGS, whose memory of the first k steps is that of the dense network",
            found=f"{k}it",
            todo="Rewind to 0it, or use another optimizer.",
        )


def gathered(loop: Loop, full: Mask, k: int) -> None:
    """Look at what the optimisers have gathered by the moment after step k, which every level returns to.

    Raises:
        BadInput: one of them is L-BFGS, and has; as in `rewindable`.
    """
    parameters = [loop.model.get_parameter(name) for name in full]
    distinct = {id(optimizer.param_groups): optimizer for optimizer in reversed(loop.optimizers)}  # no wrappers
    for optimizer in distinct.values():
        own = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        kind = type(optimizer).__name__
        if isinstance(optimizer, torch.optim.LBFGS):
            if any(_holds(optimizer.state.get(parameter)) for parameter in own):
                raise _stepped_too_early(k)
        elif keeping(optimizer) == UNKNOWN and any(_holds(optimizer.state.get(parameter)) for parameter in parameters):
            otherwise = "; an optimizer made anew and rewind='0it' leave none" if k else ""
            warnings.warn(
                f"{kind}: what its state holds of each weight is not known, and stays at every level as the dense "
                f"network left it at step {k}, pruned weights included. These and their gradients are held at 0, and "
                f"the others may be moved by what they have left{otherwise}.",
                stacklevel=2,
            )


def _stepped_too_early(k: int) -> BadInput:
    return BadInput(
        where="rewind",
        expected=f"an L-BFGS that has not stepped by step {k}, as its memory is that of the dense network",
        found="one that has",
        todo="Rewind to a step before its first one, or use another optimizer.",
    )


def _holds(state: Any) -> bool:
    """Whether a state holds more than counters."""
    if isinstance(state, Mapping | list | tuple):
        return any(_holds(part) for part in (state.values() if isinstance(state, Mapping) else state))
    return isinstance(state, Tensor) and state.numel() > 1
