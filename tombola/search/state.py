"""All that a training loop changes: taken as values, and put back by copy as often as one likes."""

import random
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from tombola import weights
from tombola.errors import BadInput
from tombola.weights import Weights

State = Mapping[str, Any]
Generator = torch.Generator | np.random.Generator | random.Random
GENERATORS = (torch.Generator, np.random.Generator, random.Random)


def copied(value: Any) -> Any:
    """A copy of nested Python values that shares nothing with them; tensors on the CPU, laid out as they were."""
    if isinstance(value, Tensor):
        return value.detach().cpu().clone()
    if type(value) is dict or type(value) is list or type(value) is tuple:
        parts = [copied(part) for part in (value.values() if isinstance(value, dict) else value)]
        return dict(zip(value, parts, strict=True)) if isinstance(value, dict) else type(value)(parts)
    return deepcopy(value)


@dataclass(frozen=True)
class Moment:
    """A training after some step.

    Attributes:
        left: what the optimiser's step itself left: weights, buffers, the optimiser's state, random states.
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
        also: further things with a `state_dict`.
        generators: random generators beside torch's own.
    """

    model: nn.Module
    optimizer: Optimizer
    schedulers: Sequence[Any]
    also: Sequence[Any]
    generators: Sequence[Generator]

    @property
    def optimizers(self) -> list[Optimizer]:
        """Those in `also`, which step in the same loop."""
        return [thing for thing in self.also if isinstance(thing, Optimizer)]

    def moment(self) -> Moment:
        """Everything, between two steps."""
        return Moment(self.left(), self.followed())

    def put(self, moment: Moment) -> None:
        """Everything back; gradients are forgotten."""
        self.put_left(moment.left)
        self.put_followed(moment.followed)
        self.forget_gradients()

    def forget_gradients(self) -> None:
        for parameter in self.model.parameters():
            parameter.grad = None

    def left(self) -> State:
        return {
            "weights": weights.of(self.model),
            "buffers": copied(self._unsaved()),
            "requires_grad": [parameter.requires_grad for parameter in self.model.parameters()],
            "training": [module.training for module in self.model.modules()],
            "optimizer": copied(self.optimizer.state_dict()),
            "random": self.random(),
        }

    def put_left(self, state: State) -> None:
        _same("buffers", _sizes(state["buffers"]), _sizes(self._unsaved()))
        _same("modules", len(state["training"]), sum(1 for _ in self.model.modules()))
        _same("GPUs", sorted(state["random"]["cuda"]), self._gpus())
        groups = self.optimizer.param_groups
        parameters = [len(group["params"]) for group in state["optimizer"]["param_groups"]]
        _same("numbers of parameters in the optimizer's groups", parameters, [len(each["params"]) for each in groups])
        weights.put(self.model, state["weights"])
        for name, buffer in self._unsaved().items():
            buffer.copy_(state["buffers"][name])
        for parameter, trained in zip(self.model.parameters(), state["requires_grad"], strict=True):
            parameter.requires_grad_(trained)
        for module, training in zip(self.model.modules(), state["training"], strict=True):
            module.training = training
        _load(self.optimizer, copied(state["optimizer"]))
        self.put_random(state["random"])

    def followed(self) -> State:
        return {
            "groups": [copied(_options(group)) for group in self.optimizer.param_groups],
            "schedulers": [copied(scheduler.state_dict()) for scheduler in self.schedulers],
            "also": [copied(dict(thing.state_dict())) for thing in self.also],
        }

    def put_followed(self, state: State) -> None:
        for group, options in zip(self.optimizer.param_groups, state["groups"], strict=True):
            group.update(copied(options))
        for scheduler, own in zip(self.schedulers, state["schedulers"], strict=True):
            scheduler.load_state_dict(copied(own))
        for thing, own in zip(self.also, state["also"], strict=True):
            if own:  # a GradScaler that is switched off has none, and refuses it
                _load(thing, _placed(copied(own), thing.state_dict()))

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
            else:
                generator.bit_generator.state = type(generator.bit_generator)(seed).state

    def averages(self) -> list[nn.Module]:
        """The modules in `also`, and in these, that have the model's names and shapes: averages of its weights."""
        own = _shapes(self.model)
        modules = (part for thing in self.also if isinstance(thing, nn.Module) for part in thing.modules())
        return [module for module in modules if _shapes(module) == own]

    def tables(self, names: Weights) -> list[Weights]:
        """Averages that are no modules: mappings in the states of `also`, with the names and shapes of `names`."""
        return [table for thing in self._others() for table in _tables(thing.state_dict(), names)]

    def put_tables(self, names: Weights, change: Callable[[str, Tensor], Tensor]) -> None:
        """In each of `tables`, what `change` makes of the tensors that `names` names."""
        for thing in self._others():
            state = thing.state_dict()
            if _tables(state, names):
                thing.load_state_dict(_changed(state, names, change))

    def _others(self) -> list[Any]:
        return [thing for thing in self.also if not isinstance(thing, nn.Module)]

    def _unsaved(self) -> dict[str, Tensor]:
        """The buffers that the model keeps out of its state_dict."""
        saved = self.model.state_dict().keys()
        return {name: buffer for name, buffer in self.model.named_buffers() if name not in saved}

    def _gpus(self) -> list[str]:
        return sorted({str(p.device) for p in self.model.parameters() if p.device.type == "cuda"})


def _load(thing: Any, state: State) -> None:
    groups = thing.param_groups if isinstance(thing, Optimizer) else []
    thing.load_state_dict(state)
    # An optimiser makes them anew; who holds the old ones, to set learning rates in them, shall go on to set these.
    for own, loaded in zip(groups, thing.param_groups if groups else [], strict=True):
        own.clear()
        own.update(loaded)
    if groups:
        thing.param_groups = groups


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


def _is_table(value: Any, names: Weights) -> bool:
    return isinstance(value, Mapping) and all(
        isinstance(found := value.get(name), Tensor) and found.shape == names[name].shape for name in names
    )


def _tables(value: Any, names: Weights) -> list[Weights]:
    if _is_table(value, names):
        return [value]
    parts = value.values() if isinstance(value, Mapping) else ()
    return [table for part in parts for table in _tables(part, names)]


def _changed(value: Any, names: Weights, change: Callable[[str, Tensor], Tensor]) -> Any:
    if _is_table(value, names):
        return {**value, **{name: change(name, value[name]) for name in names}}
    return {key: _changed(part, names, change) for key, part in value.items()} if isinstance(value, Mapping) else value


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
    return generator.getstate() if isinstance(generator, random.Random) else generator.bit_generator.state


def _set_state(generator: Generator, state: Any) -> None:
    if isinstance(generator, torch.Generator):
        generator.set_state(state)
    elif isinstance(generator, random.Random):
        generator.setstate(state)
    else:
        generator.bit_generator.state = state


def _options(group: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in group.items() if name != "params"}


def _shapes(model: nn.Module) -> dict[str, torch.Size]:
    return {name: value.shape for name, value in model.state_dict().items()}
