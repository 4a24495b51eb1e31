"""What moves a network beside its optimiser's steps while it trains: its mask, or how its weights are made.

`Dynamics` is the value that a recipe names; `Course` is what goes on in one training. `tombola.dynamics.DYNAMICS` lists
those that there are. To add one, write a class like `RigL` in a file beside this one, and name it there.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import computed_field

from tombola import macs
from tombola.code import code_of
from tombola.steps import Step
from tombola.value import Value

if TYPE_CHECKING:  # `tombola plan` reads recipes, and touches no tensor
    from torch import Tensor, nn
    from torch.optim import Optimizer

    from tombola.mask import Mask
    from tombola.models.layer import Layer


@dataclass(frozen=True)
class Timeline:
    """When a training takes place, whole, whatever it was interrupted by.

    Attributes:
        begin, until: optimiser steps done before and after.
        length: of the recipe, which schedules span: what moves is, like the learning rate, a function of the step.
        epoch_iterations: the optimiser steps of one pass over the training set.
    """

    begin: int
    until: int
    length: int
    epoch_iterations: int

    def interval(self, every: int | None, within: int) -> int:
        """Return `every`, and for None 100 steps, or a tenth of the steps `within` which something moves if fewer."""
        return every or max(1, min(100, within // 10))

    def iterations(self, step: Step) -> int:
        """How many optimiser steps `step` is."""
        return step.iterations(self.epoch_iterations)


@dataclass(frozen=True)
class Setting:
    """What a course begins with.

    Attributes:
        model: holds the weights that the training starts from, on its device; a course may change how it is made.
        mask: what the training was given, True = alive; all that may be pruned where it was given none.
        timeline: of the training.
        seed: for a course that draws.
        inputs: what else the training was given, by name: the weights of a run, or the mask of one that made a mask.
        layers, products: of the network, by weight, and what it multiplies without weights; see `tombola.macs`.
    """

    model: "nn.Module"
    mask: "Mask"
    timeline: Timeline
    seed: int = 0
    inputs: "Mapping[str, Mapping[str, Tensor]]" = field(default_factory=dict)
    layers: "Mapping[str, Layer]" = field(default_factory=dict)
    products: int = 0

    def forward(self, counts: Mapping[str, int]) -> int:
        """f, as `tombola.macs.forward` has it.

        Args:
            counts: living weights of each layer; a layer that is not named is whole.
        """
        return macs.forward(self.layers, counts, self.products)


class Course(ABC):
    """One training under dynamics while it goes on: it has a state, and belongs to that training alone.

    The trainer makes it before the optimiser, which is made over all parameters that the model has by then.

    Args:
        setting: what it begins with.
    """

    holds: ClassVar[bool] = False  # whether pruned weights are held at other values than 0, which are kept too

    def __init__(self, setting: Setting) -> None:
        self.setting = setting

    @property
    @abstractmethod
    def mask(self) -> "Mask":
        """What is alive now."""

    @contextmanager
    def along(self, optimizer: "Optimizer") -> Iterator[None]:
        """Meanwhile steps are taken; what holds pruned weights at 0 is set up before, and taken off after."""
        yield

    def advance(self, optimizer: "Optimizer", step: int) -> None:
        """Take the optimiser's step that follows after `step` steps, and move what moves beside it.

        The gradients of that step's batch are there, of pruned weights too. A course that moves its mask in the place
        of a step takes none.
        """
        optimizer.step()

    def multiply_adds(self, step: int) -> int:
        """What the step after `step` steps, just taken, took for one example, on a machine that skips what is pruned.

        3 f, as `tombola.macs` counts it.
        """
        return macs.GRADIENT * self.setting.forward(self.mask.counts)

    def carried(self, state: "Mapping[str, Tensor]") -> "dict[str, Tensor]":
        """What of an optimiser's state, by `ENTRY/PARAMETER`, belongs to parameters that the model has now.

        Of what a training before had, and this one makes of others, there is nothing to be carried over.
        """
        own = dict(self.setting.model.named_parameters())
        return {path: value for path, value in state.items() if path.partition("/")[2] in own}

    def weights(self) -> "dict[str, Tensor]":
        """The weights as the network computes with them now, under the names of a plain one, copied to the CPU."""
        from tombola import weights

        return weights.of(self.setting.model)

    @property
    def numbers(self) -> dict[str, Any]:
        """What else is recorded of it, as it stands."""
        return {}

    def state(self) -> "dict[str, Tensor]":
        """All that it has to remember beside the model's own state_dict and the optimiser's state, for `load`."""
        return {}

    def load(self, state: "Mapping[str, Tensor]") -> None:
        """Stand where `state` was taken. Nothing that holds pruned weights is moved: it may only be to look."""
        return None


class Dynamics(Value, ABC):
    """How mask and weights move while a network trains, beside the optimiser's steps: a name and its parameters.

    Attributes:
        name: by which a recipe names it: `dynamics = {name = "rigl", fraction = 0.3}`.
    """

    about: ClassVar[str] = ""  # one sentence
    paper: ClassVar[str] = ""
    year: ClassVar[int] = 0
    of_method: ClassVar[bool] = False  # whether its trainings are given more than a recipe says, as a method does
    by_weight: ClassVar[bool] = False  # whether single weights leave and join its mask, which leaves no channel whole

    name: str

    @computed_field(repr=False)  # type: ignore[prop-decorator]
    @property
    def code(self) -> str | None:
        """SHA-256 of the extension whose class it is; None for what is installed. It is in its trainings' keys."""
        return code_of(type(self))

    def __hash__(self) -> int:
        return hash((type(self), self.model_dump_json()))  # its parameters may be lists

    def refuses(self, model: str) -> str:
        """Why networks of the name `model` cannot be trained so, as far as their name says it; "" where they can."""
        return ""

    def settles(self, timeline: Timeline) -> int:
        """The step from which on as many weights live as at the end: an early stop is taken no earlier.

        So are networks of equal density compared.
        """
        return timeline.begin

    @abstractmethod
    def course(self, setting: Setting) -> Course:
        """What goes on in one training.

        Raises:
            BadInput: the training was not given what it needs.
        """
