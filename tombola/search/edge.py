"""What a search is given, checked once, before anything is done with it."""

import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from tombola import layers, prunable, prune, weights
from tombola.errors import BadInput
from tombola.guard import UNKNOWN, check_watchable, keeping
from tombola.layer_patterns import covering, named
from tombola.layers import Kind
from tombola.mask import Mask
from tombola.search import averages
from tombola.search.state import GENERATORS, Loop, Pair
from tombola.steps import Step
from tombola.weights import Weights

_SCHEDULED = ("_wrapped_by_lr_sched", "_with_counter")  # what torch's schedulers leave on an optimiser's step

Scope = Literal["layer", "global"]
Rate = float | Mapping[str, float]


@dataclass(frozen=True)
class Plan:
    """What is asked of a search, all of it plain values.

    Attributes:
        rewind: k, in optimiser steps.
        replay: whether the loop starts from its own beginning at every level.
        prune: what else may be pruned, by names or patterns of names.
        stacks: weights of which each leading index is a layer of its own.
    """

    levels: int
    rate: Rate
    rewind: int
    scope: Scope
    keep: tuple[str, ...]
    score_seed: int
    replay: bool
    prune: tuple[str, ...] = ()
    stacks: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if type(self.levels) is not int or self.levels < 0:
            raise BadInput(
                where="levels",
                expected="a whole number, 0 or more",
                found=repr(self.levels),
                todo="10 prunes ten times.",
            )
        if self.scope not in ("layer", "global"):
            raise BadInput(where="scope", expected="'layer' or 'global'", found=repr(self.scope), todo="Name one.")
        if self.scope == "global" and isinstance(self.rate, Mapping):
            raise BadInput(
                where="rate",
                expected="one number in the global scope, where all layers are pruned together",
                found=f"rates for {', '.join(self.rate)}",
                todo="Give one number, or scope='layer'.",
            )
        for rate in self.rate.values() if isinstance(self.rate, Mapping) else [self.rate]:
            if isinstance(rate, bool) or not isinstance(rate, int | float):
                raise BadInput(where="rate", expected="a number", found=repr(rate), todo="0.2 removes a fifth.")
            prune.check(rate, "rate")

    def values(self) -> dict[str, Any]:
        """As JSON has it, and `Search` takes it; what older searches lack is absent where it is empty."""
        later = {name: list(getattr(self, name)) for name in ("prune", "stacks") if getattr(self, name)}
        plain = {name: value for name, value in asdict(self).items() if name not in ("prune", "stacks")}
        return plain | {"keep": list(self.keep), "rewind": f"{self.rewind}it"} | later

    @staticmethod
    def asked(
        *,
        levels: int,
        rate: Rate,
        rewind: str | Step,
        epoch_iterations: int | None,
        scope: Scope,
        keep: str | Sequence[str],
        score_seed: int,
        replay: bool,
        prune: str | Sequence[str],
        stacks: str | Sequence[str],
        **_: object,
    ) -> "Plan":
        """What the arguments of a `Search` ask for, which may all be given.

        Raises:
            BadInput: one of them does not fit.
        """
        k, rate = iterations(rewind, epoch_iterations), dict(rate) if isinstance(rate, Mapping) else rate
        named = patterns(prune, "prune"), patterns(stacks, "stacks")
        return Plan(levels, rate, k, scope, patterns(keep, "keep"), score_seed, replay, *named)

    @staticmethod
    def of(values: Mapping[str, Any]) -> "Plan":
        """The inverse of `values`."""
        lists = {name: tuple(values[name]) for name in ("keep", "prune", "stacks") if name in values}
        return Plan(**{**values, **lists, "rewind": Step(values["rewind"]).iterations(1)})

    def full(self, loop: Loop, given: Mask | None = None) -> Mask:
        """What level 0 counts: all that may be pruned, is not kept dense and is no average of what is.

        Args:
            given: the mask of level 0, where it is another.

        Raises:
            BadInput: `keep`, `rate`, `prune` or `stacks` names nothing of the model, a weight has no rate, or the mask
                does not fit.
        """
        model = loop.model
        kinds = prunable.prunable(model, self.prune)
        _known(self.keep, _alike(model, kinds), "keep", others(model, self.prune))
        dense = _meant(self.keep, model, kinds)
        _whole(model, (name for name in kinds if name not in dense))
        state = model.state_dict()
        full = Mask({name: torch.ones(state[name].shape, dtype=torch.bool) for name in kinds if name not in dense})
        own = [name for name in full if weights.place(model.get_parameter(name)) in loop.trained]
        beside = {path for average in averages.within(loop, own) for path in average.sources}
        full = Mask({name: alive for name, alive in full.items() if name not in beside})
        if not full:
            raise BadInput(
                where=type(model).__name__,
                expected="a weight that may be pruned: of a linear, convolution, embedding or attention layer",
                found=f"none that keep={list(self.keep)} leaves" if kinds else "none",
                todo="Build layers of torch.nn, or name others: prune=['*.W']; and keep fewer of them.",
            )
        self.rates(model)
        _known(self.stacks, _alike(model, kinds), "stacks")
        flat = [name for name in self.stacked(model) if state[name].dim() < 2]
        if flat:
            raise BadInput(
                where="stacks",
                expected="weights with two dimensions or more, like [experts, outputs, inputs]",
                found=f"{_few(flat)}, a vector",
                todo="Name stacks alone.",
            )
        return prunable.checked(full, model) if given is None else _given(prunable.checked(given, model), full)

    @property
    def asks_for_output(self) -> bool:
        """Whether the kind `output` decides about anything."""
        return "output" in self.keep or (isinstance(self.rate, Mapping) and "output" in self.rate)

    def stacked(self, model: nn.Module) -> frozenset[str]:
        """The weights that are stacks."""
        kinds = prunable.prunable(model, self.prune)
        return frozenset(_meant(self.stacks, model, kinds) - _meant(self.keep, model, kinds))

    def rates(self, model: nn.Module) -> dict[str, float]:
        """The rate of each weight that is not kept dense: that of the first entry that names it or its kind."""
        kinds = prunable.prunable(model, self.prune)
        if not isinstance(self.rate, Mapping):
            return dict.fromkeys(kinds, self.rate)
        _known(self.rate, _alike(model, kinds), "rate")
        dense = _meant(self.keep, model, kinds)
        rates: dict[str, float] = {}
        for entry, rate in reversed(list(self.rate.items())):  # the first that names it has the last word
            rates |= dict.fromkeys(_meant([entry], model, kinds), rate)
        without = [name for name in kinds if name not in dense and name not in rates]
        if without:
            raise BadInput(
                where="rate",
                expected="a rate for every weight that is not in `keep`",
                found=f"none for {_few(without)}",
                todo="'*', as the last entry, stands for all others.",
            )
        return {name: rates[name] for name in kinds if name not in dense}


def _given(given: Mask, full: Mask) -> Mask:
    for name in given:
        if name not in full:
            raise BadInput(
                where=f"mask of {name}",
                expected="a weight that may be pruned",
                found="none of that name",
                todo="Give a mask of this model, without what `keep` names.",
            )
    if not given.alive:
        raise BadInput(where="mask", expected="weights that are alive", found="none", todo="Give a mask that has some.")
    return given


def _alike(model: nn.Module, kinds: Mapping[str, Kind]) -> dict[str, Kind]:
    """The kind of each weight under each of its names."""
    return {**kinds, **{name: kinds[first] for name, first in weights.ties(model).items() if first in kinds}}


def _meant(entries: Iterable[str], model: nn.Module, kinds: Mapping[str, Kind]) -> set[str]:
    """The weights that `entries` name, whichever of their names they have there, by the first of these."""
    tied = weights.ties(model)
    return {tied.get(name, name) for name in named(entries, _alike(model, kinds))}


def _known(entries: Iterable[str], kinds: Mapping[str, Kind], where: str, beside: Iterable[str] = ()) -> None:
    for entry in entries:
        if not named([entry], {**dict.fromkeys(beside, ""), **kinds}):
            raise BadInput(
                where=where,
                expected=f"kinds ({', '.join(dict.fromkeys(kinds.values()))}), or weights of the model ({_few(kinds)}) "
                "or patterns of their names",
                found=repr(entry),
                todo="* stands for anything, as in *.conv1.weight.",
            )


def patterns(given: str | Sequence[str], where: str) -> tuple[str, ...]:
    """What was given for `where` as it is meant: one pattern, or several."""
    found = (given,) if isinstance(given, str) else tuple(given) if isinstance(given, list | tuple | set) else (given,)
    for entry in found:
        if not isinstance(entry, str):
            raise BadInput(where=where, expected="names or patterns", found=repr(entry), todo="As in ['encoder.*'].")
    return found


def same_plan(path: str, plan: Plan, asked: Plan) -> None:
    """Raise BadInput unless the search in `path`, which is of `plan`, is that which is asked for."""
    if plan != asked:
        raise BadInput(
            where=path,
            expected=f"the options of the search in it: {plan.values()}",
            found=str(asked.values()),
            todo="Ask for the same, or name another file.",
        )


def warn_of_settings(loop: Loop, groups: Sequence[Mapping[str, Any]], where: str) -> None:
    """Say where the search in a file began with other settings of its optimiser than this one has."""
    for own, then in zip(loop.optimizer.param_groups, groups, strict=True):
        differing = [name for name in own if name in then and repr(own[name]) != repr(then[name])]
        if differing:
            theirs, ours = (", ".join(f"{name}={group[name]}" for name in differing) for group in (then, own))
            warnings.warn(
                f"{where}: the search in it had {theirs}, and this optimizer has {ours}: the results are of the first.",
                stacklevel=4,
            )
            return


def same_types(own: Weights, other: Weights, where: str) -> None:
    """Raise BadInput, naming the first that differ, unless `other` has the names, shapes and types of `own`."""
    weights.fit(own, other, where)
    for name, value in own.items():
        if value.dtype is not other[name].dtype:
            raise BadInput(
                where=where,
                expected=f"{name} of {value.dtype}, as in the model",
                found=str(other[name].dtype),
                todo="Bring the model to the type that it had in the search.",
            )


def iterations(rewind: str | Step, epoch_iterations: int | None) -> int:
    """k, in optimiser steps.

    Raises:
        BadInput: it is no step, or counts in epochs whose length is not given.
    """
    try:
        step = rewind if isinstance(rewind, Step) else Step(rewind)
    except ValueError as error:
        raise BadInput(where="rewind", expected=str(error), found=repr(rewind), todo="0it is the start.") from None
    if epoch_iterations is not None and (type(epoch_iterations) is not int or epoch_iterations < 1):
        raise BadInput(
            where="epoch_iterations",
            expected="a whole number of steps, 1 or more",
            found=repr(epoch_iterations),
            todo="len(loader), mostly.",
        )
    if step.unit == "ep" and epoch_iterations is None:
        raise BadInput(
            where="rewind",
            expected="steps, or epoch_iterations beside epochs",
            found=str(step),
            todo="epoch_iterations is the number of optimiser steps in one of your epochs: len(loader), mostly.",
        )
    return step.iterations(epoch_iterations or 1)


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
    within = (pair for each in (optimizer, *more) for pair in vars(each).items())
    inner = [name for name, value in within if isinstance(value, Optimizer) and value not in (optimizer, *also)]
    if inner:
        raise BadInput(
            where="optimizer",
            expected="all of its state in its state_dict",
            found=f"another optimizer in it ({inner[0]}), whose state is not",
            todo=f"Have it rewound too: also=[optimizer.{inner[0]}].",
        )
    schedulers = tuple(scheduler) if isinstance(scheduler, list | tuple) else () if scheduler is None else (scheduler,)
    if wrong := [type(each).__name__ for each in map(bare, schedulers) if isinstance(each, Optimizer)]:
        raise BadInput(
            where="scheduler",
            expected="a scheduler, as of torch.optim.lr_scheduler",
            found=f"an optimizer, {wrong[0]}",
            todo="Several optimizers are Search(model, [optimizer, other]); without a scheduler, leave it out.",
        )
    things = tuple(_with_state(thing) for thing in also if not isinstance(thing, GENERATORS))
    for where, thing in [*(("scheduler", each) for each in schedulers), *(("also", each) for each in things)]:
        if not (hasattr(thing, "state_dict") and hasattr(thing, "load_state_dict")):
            raise BadInput(
                where=where,
                expected="state_dict and load_state_dict, or a generator of torch, NumPy or random in `also`",
                found=type(thing).__name__,
                todo="What has a state of another kind is handed over as two functions: also=[(get, set)].",
            )
    generators = tuple(thing for thing in also if isinstance(thing, GENERATORS))
    loop = Loop(weights.bare(model), optimizer, schedulers, things, generators, len(more))
    for each in schedulers:
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
    if scheduler is None and any(scheduled):
        raise BadInput(
            where="scheduler",
            expected="the scheduler of the optimizer, which is to be rewound with it",
            found="none, though one has been made for it",
            todo="Hand it in: scheduler=scheduler; or scheduler=[] if it is not used any more.",
        )
    return loop


def _optimizers(given: Any) -> list[Optimizer]:
    found = [bare(each) for each in (given if isinstance(given, list | tuple) else [given])]
    wrong = [type(each).__name__ for each in found if not isinstance(each, Optimizer)]
    if wrong or not found or len({id(each) for each in found}) < len(found):
        raise BadInput(
            where="optimizer",
            expected="a torch.optim.Optimizer" + (", or several, each once" if isinstance(given, list | tuple) else ""),
            found=wrong[0] if wrong else "one of them twice" if found else "an empty list",
            todo="Its step is what the search sees.",
        )
    for each in found:
        check_watchable(each)
    return found


def _with_state(thing: Any) -> Any:
    if isinstance(thing, tuple) and len(thing) == 2 and all(callable(part) for part in thing):
        return Pair(*thing)
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


def _whole(model: nn.Module, names: Iterable[str]) -> None:
    state = model.state_dict()
    for name in names:
        if name not in state:
            raise BadInput(
                where=f"{name} of {type(model).__name__}",
                expected="a parameter",
                found="a parametrisation (as of weight_norm)",
                todo=f"Remove the parametrisation before the Search, or leave the layer dense: keep={[name]}.",
            )


def others(model: nn.Module, include: Sequence[str] = ()) -> dict[str, int]:
    """The matrices that are trained, in no layer that can be pruned, and not included: name -> how many weights."""
    kinds = prunable.prunable(model, include)
    own = {weights.place(each) for name, each in model.named_parameters(remove_duplicate=False) if name in kinds}
    return {
        name: parameter.numel()
        for name, parameter in model.named_parameters()
        if parameter.dim() > 1 and parameter.requires_grad and weights.place(parameter) not in own
    }


def warn_of_others(model: nn.Module, plan: Plan) -> None:
    """Say which matrices stay dense and uncounted without `keep` saying so."""
    found, keep = others(model, plan.prune), plan.keep
    said = named(keep, dict.fromkeys(found, ""))
    unsaid = [name for name in found if name not in said and not _original(model, name)]
    if unsaid:
        matrices = (name for name, each in model.named_parameters() if each.dim() > 1)
        entries = covering(unsaid, (name for name in matrices if name not in unsaid))
        warnings.warn(
            f"{sum(found[name] for name in unsaid):,} weights are in no layer that can be pruned, and stay dense and "
            f"uncounted: {_few(unsaid)}. prune={entries} prunes and counts them; keep={entries} says that this is "
            "meant. Both take patterns of names.",
            stacklevel=3,
        )


def _original(model: nn.Module, name: str) -> bool:
    """Whether the weight of a layer is computed of the parameter `name`: then `keep` is asked about the weight."""
    path, _, own = f".{name}".rpartition(".")
    owner, inside, weight = path.rpartition(".parametrizations.")
    if not inside:
        owner, weight = path, own.rpartition("_")[0]  # weight_g, weight_v, weight_orig
    module = model.get_submodule(owner.removeprefix("."))
    row = layers.row(module)
    return bool(row and weight in row.weights and weight not in module._parameters)


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
            found=f"without {_few(still)}",
            todo=f"Train them, or leave them dense and uncounted: keep={covering(still, full.keys() - still)}."
            + _if_followed(loop, still),
        )
    modules = loop.model.named_modules()
    sparse = {f"{path}.weight" for path, module in modules if isinstance(module, nn.Embedding) and module.sparse}
    if found := [name for name in full if name in sparse]:
        raise BadInput(
            where=_few(found),
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
                raise BadInput(
                    where="rewind",
                    expected=f"an L-BFGS that has not stepped by step {k}, as its memory is that of the dense network",
                    found="one that has",
                    todo="Rewind to a step before its first one, or use another optimizer.",
                )
        elif keeping(optimizer) == UNKNOWN and any(_holds(optimizer.state.get(parameter)) for parameter in parameters):
            otherwise = "; an optimizer made anew and rewind='0it' leave none" if k else ""
            warnings.warn(
                f"{kind}: what its state holds of each weight is not known, and stays at every level as the dense "
                f"network left it at step {k}, pruned weights included. These and their gradients are held at 0, and "
                f"the others may be moved by what they have left{otherwise}.",
                stacklevel=2,
            )


def _holds(state: Any) -> bool:
    """Whether a state holds more than counters."""
    if isinstance(state, Mapping | list | tuple):
        return any(_holds(part) for part in (state.values() if isinstance(state, Mapping) else state))
    return isinstance(state, Tensor) and state.numel() > 1


class Strangers:
    """The optimisers that step in the loop and that nobody handed over: of each class it warns once.

    One that was made in the loop and trains what was made there needs no rewinding. One that trains the model does, and
    one that comes back at a later level, where it goes on from what an earlier one left.
    """

    def __init__(self) -> None:
        self._since: WeakKeyDictionary[Optimizer, int] = WeakKeyDictionary()
        self._warned: set[type] = set()

    def at(self, level: int, model: nn.Module) -> Callable[[Optimizer], None]:
        """Given each one that steps at `level`."""
        own = {id(parameter) for parameter in model.parameters()}

        def stepped(optimizer: Optimizer) -> None:
            since, kind = self._since.setdefault(optimizer, level), type(optimizer)
            trains = [id(parameter) for group in optimizer.param_groups for parameter in group["params"]]
            inside = sum(place in own for place in trains)
            if kind in self._warned or not (inside or since < level):
                return
            self._warned.add(kind)
            what = f"{inside} parameters of the model" if inside else f"{len(trains)} that are none of the model's"
            warnings.warn(
                f"an optimizer that the search was not given, {kind.__name__}, steps in the loop and trains {what}: "
                "neither its state nor what else it trains is rewound. Hand it over, Search(model, [optimizer, "
                "other]), and in `also` what it trains beside the model.",
                stacklevel=2,
            )

        return stepped


def _few(names: Iterable[str]) -> str:
    first, *more = names
    return ", ".join([first, *more[:2]]) + (f" and {len(more) - 2} more" if len(more) > 2 else "")
