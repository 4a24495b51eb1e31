"""All that a training loop changes: taken as values, and put back by copy as often as one likes."""

import random
from collections.abc import Callable, Hashable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from tombola import weights
from tombola.errors import BadInput
from tombola.step_hooks import watchable
from tombola.weights import Weights

State = Mapping[str, Any]
Generator = torch.Generator | np.random.Generator | np.random.RandomState | random.Random
GENERATORS = (torch.Generator, np.random.Generator, np.random.RandomState, random.Random)


def copied(value: Any) -> Any:
    """A copy of nested Python values that shares nothing with them; tensors on the CPU, laid out as they were."""
    if isinstance(value, Tensor):
        return value.detach().cpu().clone()
    if type(value) is dict or type(value) is list or type(value) is tuple:
        parts = [copied(part) for part in (value.values() if isinstance(value, dict) else value)]
        return dict(zip(value, parts, strict=True)) if isinstance(value, dict) else type(value)(parts)
    return deepcopy(value)


@dataclass(frozen=True)
class StateFunctions:
    """Two functions that stand for something with a state: one returns it, the other takes it back.

    Attributes:
        get: the state, which is copied: plain Python values, arrays and tensors.
        set: puts such a copy in place.
    """

    get: Callable[[], Any]
    set: Callable[[Any], object]

    def state_dict(self) -> State:
        return {"state": self.get()}

    def load_state_dict(self, state: State) -> None:
        self.set(state["state"])


@dataclass(frozen=True)
class Moment:
    """A training after some step.

    Attributes:
        left: what the optimiser's step itself left: weights, buffers, the optimiser's state, random states. Where
            others step after it, what the last of them left, and of how many `steps` that is.
        followed: what the loop did after the step and before the next one: schedulers, averages, scalers, and the
            learning rates they set. Known only when the next step begins.
    """

    left: State
    followed: State


@dataclass(frozen=True)
class Loop:
    """What a training loop changes.

    Attributes:
        model: the plain one, without wrappers.
        also: further things with a `state_dict`; the first `listed` of them are optimisers given beside `optimizer`.
        generators: random generators beside torch's own.
        engine: how the model's layers compute once they are pruned: `auto`, `dense`, `sparse`.
    """

    model: nn.Module
    optimizer: Optimizer
    schedulers: Sequence[Any]
    also: Sequence[Any]
    generators: Sequence[Generator]
    listed: int = 0
    engine: str = "dense"

    @property
    def others(self) -> list[Optimizer]:
        """The optimisers in `also`, which step in the same loop."""
        return [thing for thing in self.also if isinstance(thing, Optimizer) and watchable(thing)]

    @property
    def optimizers(self) -> list[Optimizer]:
        """All of them, first the one whose steps are counted."""
        return [self.optimizer, *self.others]

    @property
    def trained(self) -> set[Hashable]:
        """The places of the parameters that an optimiser trains, whichever objects it has over them.

        It may be given others too, which have no gradient.
        """
        groups = (group for optimizer in self.optimizers for group in optimizer.param_groups)
        return {weights.place(each) for group in groups for each in group["params"] if each.requires_grad}

    @property
    def modules(self) -> list[nn.Module]:
        """The model, and the modules in `also`."""
        return [self.model, *(thing for thing in self.also if isinstance(thing, nn.Module))]

    def moment(self) -> Moment:
        """Everything, between two steps."""
        return Moment(self.left(), self.followed())

    def put(self, moment: Moment) -> None:
        """Everything back; gradients are forgotten."""
        self.put_left(moment.left)
        self.put_followed(moment.followed)
        self.forget_gradients()

    def forget_gradients(self) -> None:
        for parameter in self.parameters():
            parameter.grad = None

    def parameters(self) -> list[Tensor]:
        """All that have a gradient: of the modules, and what the optimisers train beside them."""
        return [*(each for module in self.modules for each in module.parameters()), *self.outside()]

    def outside(self) -> list[Tensor]:
        """What the optimisers train that is in no module given: a loss's weights, coefficients of an equation."""
        own = {id(parameter) for module in self.modules for parameter in module.parameters()}
        parameters = (
            each for optimizer in self.optimizers for group in optimizer.param_groups for each in group["params"]
        )
        return list({id(parameter): parameter for parameter in parameters if id(parameter) not in own}.values())

    def left(self) -> dict[str, Any]:
        return {
            "weights": weights.of(self.model),
            **_beside(self.model),
            "optimizer": copied(self.optimizer.state_dict()),
            "random": self.random(),
            **({"outside": outside} if (outside := [copied(parameter) for parameter in self.outside()]) else {}),
        }

    def put_left(self, state: State) -> None:
        _same_beside("", self.model, state)
        _same("GPUs", sorted(state["random"]["cuda"]), self._gpus())
        groups = self.optimizer.param_groups
        parameters = [len(group["params"]) for group in state["optimizer"]["param_groups"]]
        _same("numbers of parameters in the optimizer's groups", parameters, [len(each["params"]) for each in groups])
        if "outside" in state:
            outside = [tuple(value.shape) for value in state["outside"]]
            _same("shapes of parameters in no module", outside, [tuple(each.shape) for each in self.outside()])
            for parameter, value in zip(self.outside(), state["outside"], strict=True):
                parameter.data.copy_(value)
        weights.put(self.model, state["weights"])
        _put_beside(self.model, state)
        _load(self.optimizer, copied(state["optimizer"]))
        self.put_random(state["random"])

    def followed(self) -> State:
        return {
            "groups": [copied(_options(group)) for group in self.optimizer.param_groups],
            "schedulers": [copied(scheduler.state_dict()) for scheduler in self.schedulers],
            "also": [copied(dict(thing.state_dict())) for thing in self.also],
            "beside": [_beside(thing) if isinstance(thing, nn.Module) else None for thing in self.also],
        }

    def put_followed(self, state: State) -> None:
        for thing, own in zip(self.also, state["beside"], strict=True):
            if own:
                _same_beside(f" of the {type(thing).__name__} in `also`", thing, own)
        for group, options in zip(self.optimizer.param_groups, state["groups"], strict=True):
            group.update(copied(options))
        for scheduler, own in zip(self.schedulers, state["schedulers"], strict=True):
            scheduler.load_state_dict(copied(own))
        for thing, own in zip(self.also, state["also"], strict=True):
            if own:  # a GradScaler that is switched off has none, and refuses it
                _load(thing, _placed(copied(own), thing.state_dict()))
        for thing, own in zip(self.also, state["beside"], strict=True):
            if own:
                _put_beside(thing, own)

    def random(self) -> State:
        """The random states of Python, NumPy, torch, the model's GPUs, and the generators."""
        return {
            "python": random.getstate(),
            "numpy": np.random.get_state(),
            "torch": torch.get_rng_state(),
            "cuda": {device: torch.cuda.get_rng_state(device) for device in self._gpus()},
            "generators": [_state(generator) for generator in self.generators],
        }

    def put_random(self, state: State) -> None:
        random.setstate(state["python"])
        np.random.set_state(state["numpy"])
        torch.set_rng_state(state["torch"])
        for device, own in state["cuda"].items():
            torch.cuda.set_rng_state(own, device)
        for generator, own in zip(self.generators, state["generators"], strict=True):
            _set_state(generator, own)

    def seed(self, seed: int) -> None:
        """Begin all random states anew, from one seed."""
        random.seed(seed)
        np.random.seed(seed % 2**32)
        torch.manual_seed(seed)
        for generator in self.generators:
            if isinstance(generator, torch.Generator):
                generator.manual_seed(seed)
            elif isinstance(generator, random.Random):
                generator.seed(seed)
            elif isinstance(generator, np.random.RandomState):
                generator.seed(seed % 2**32)
            else:
                generator.bit_generator.state = type(generator.bit_generator)(seed).state

    def _gpus(self) -> list[str]:
        return sorted({str(p.device) for p in self.model.parameters() if p.device.type == "cuda"})


def _beside(module: nn.Module) -> dict[str, Any]:
    """What of a module's state is not in its state_dict."""
    return {
        "buffers": copied(_unsaved(module)),
        "requires_grad": [parameter.requires_grad for parameter in module.parameters()],
        "training": [each.training for each in module.modules()],
    }


def _same_beside(whose: str, module: nn.Module, state: State) -> None:
    _same(f"buffers{whose}", _sizes(state["buffers"]), _sizes(_unsaved(module)))
    _same(f"modules{whose}", len(state["training"]), sum(1 for _ in module.modules()))


def _put_beside(module: nn.Module, state: State) -> None:
    for name, buffer in _unsaved(module).items():
        buffer.copy_(state["buffers"][name])
    for parameter, trained in zip(module.parameters(), state["requires_grad"], strict=True):
        parameter.requires_grad_(trained)
    for each, training in zip(module.modules(), state["training"], strict=True):
        each.training = training


def _unsaved(module: nn.Module) -> dict[str, Tensor]:
    """The buffers that a module keeps out of its state_dict."""
    saved = module.state_dict().keys()
    return {name: buffer for name, buffer in module.named_buffers() if name not in saved}


def _load(thing: Any, state: State) -> None:
    groups = thing.param_groups if isinstance(thing, Optimizer) else []
    if groups and watchable(thing):  # before the hooks of a guard, which masks what it finds
        hook = thing.register_load_state_dict_post_hook(lambda _: _put_types(thing, state), prepend=True)
        try:
            thing.load_state_dict(state)
        finally:
            hook.remove()
    else:
        thing.load_state_dict(state)
    # An optimiser makes them anew; who holds the old ones, to set learning rates in them, shall go on to set these.
    for own, loaded in zip(groups, thing.param_groups if groups else [], strict=True):
        own.clear()
        own.update(loaded)
    if groups:
        thing.param_groups = groups


def _put_types(optimizer: Optimizer, saved: State) -> None:
    """The state in the types that it had: torch's loading casts it to those of the weights."""
    places = [place for group in saved["param_groups"] for place in group["params"]]
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for place, parameter in zip(places, parameters, strict=True):
        if place in saved["state"] and parameter in optimizer.state:
            optimizer.state[parameter] = _typed(optimizer.state[parameter], saved["state"][place])


def _typed(value: Any, like: Any) -> Any:
    if isinstance(value, Tensor) and isinstance(like, Tensor):
        return value if value.dtype is like.dtype else like.to(value.device)
    if type(value) is dict and isinstance(like, Mapping):
        return {key: _typed(part, like.get(key)) for key, part in value.items()}
    if type(value) is list and isinstance(like, list | tuple) and len(value) == len(like):
        return [_typed(part, own) for part, own in zip(value, like, strict=True)]
    return value


def _same(what: str, expected: object, found: object) -> None:
    if expected != found:
        raise BadInput(
            where="the model",
            expected=f"the {what} that it began the search with: {expected}",
            found=str(found),
            todo="Move it, add to it, and let it make all that it makes in its first forward pass, before the Search.",
        )


def _sizes(buffers: Weights) -> dict[str, tuple[int, ...]]:
    return {name: tuple(buffer.shape) for name, buffer in buffers.items()}


def _placed(value: Any, like: Any) -> Any:
    """Its tensors where those of `like` are: what comes from a file is on the CPU, and not everybody moves it."""
    if isinstance(value, Tensor) and isinstance(like, Tensor):
        return value.to(like.device)
    if isinstance(value, Mapping) and isinstance(like, Mapping):
        return {key: _placed(part, like.get(key)) for key, part in value.items()}
    return value


def _state(generator: Generator) -> Any:
    if isinstance(generator, torch.Generator):
        return generator.get_state()
    if isinstance(generator, np.random.RandomState):
        return generator.get_state()
    return generator.getstate() if isinstance(generator, random.Random) else generator.bit_generator.state


def _set_state(generator: Generator, state: Any) -> None:
    if isinstance(generator, torch.Generator):
        generator.set_state(state)
    elif isinstance(generator, random.Random):
        generator.setstate(state)
    elif isinstance(generator, np.random.RandomState):
        generator.set_state(state)
    else:
        generator.bit_generator.state = state


def _options(group: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in group.items() if name != "params"}
