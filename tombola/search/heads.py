"""Which layers a model's answers come from: the kind `output` is the linear layer registered last, maybe another one.

In what order layers are called only a call shows, and `keep` and `rate` are about names before there has been one. So
the first forward pass is watched, where `output` was asked for, and what it contradicts is reported.
"""

import warnings
from collections.abc import Iterator
from functools import partial
from itertools import takewhile
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from tombola import layers
from tombola.prunable import prunable
from tombola.search.watch import Look


class Heads:
    """Watches the first forward pass of `model`, and warns where its answers are not, or not only, of the `output`.

    A layer gives an answer if what the model returns is what it gave, or a view of that. If no layer does, it is the
    last one that was called, and those right before it that read the same tensor.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._calls: list[tuple[str, Any, Any]] = []  # the weight, and what its layer got and gave
        self._hooks: list[RemovableHandle] = []
        for path, module in model.named_modules():
            if entry := layers.layer_weights(module):
                weight = "out_proj.weight" if isinstance(module, nn.MultiheadAttention) else "weight"
                if entry.kind == "linear":
                    note = partial(self._note, f"{path}.{weight}" if path else weight)
                    self._hooks.append(module.register_forward_hook(Look(note)))
        self._hooks.append(model.register_forward_hook(Look(self._over)))

    def _note(self, name: str, module: nn.Module, given: tuple[Any, ...], gave: Any) -> None:
        self._calls.append((name, next(iter(given), None), gave[0] if isinstance(gave, tuple) else gave))

    def _over(self, module: nn.Module, given: tuple[Any, ...], answers: Any) -> None:
        calls = self._calls
        self.release()
        if not calls:
            return
        places = {_place(answer) for answer in _tensors(answers)}
        heads = {name for name, _, gave in calls if isinstance(gave, Tensor) and _place(gave) in places}
        name, last, _ = calls[-1]
        side_by_side = takewhile(lambda call: call[1] is last, reversed(calls)) if last is not None else ()
        self._compare(heads or {name, *(beside for beside, *_ in side_by_side)})

    def _compare(self, heads: set[str]) -> None:
        kinds = prunable(self._model)
        parameters = dict(self._model.named_parameters(remove_duplicate=False))
        output = next((name for name, kind in kinds.items() if kind == "output"), "")
        others = sorted(name for name in heads if parameters.get(name) is not parameters.get(output))
        if others:
            both = len(others) < len(heads)
            warnings.warn(
                f"'output' means {output}, the linear layer that is registered last, and the model's answers come from "
                f"{', '.join(others)}{' too' if both else ''}. In keep= and rate= name the weights themselves.",
                stacklevel=2,
            )

    def release(self) -> None:
        """Take all hooks off."""
        for hook in self._hooks:
            hook.remove()
        self._hooks, self._calls = [], []


def _place(tensor: Tensor) -> object:
    return tensor.untyped_storage().data_ptr() if tensor.layout is torch.strided else id(tensor)


def _tensors(answers: Any) -> Iterator[Tensor]:
    if isinstance(answers, Tensor):
        yield answers
    elif isinstance(answers, dict | list | tuple):
        for each in answers.values() if isinstance(answers, dict) else answers:
            yield from _tensors(each)
