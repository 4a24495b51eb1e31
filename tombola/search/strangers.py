"""The optimisers that step in a loop and that nobody handed over."""

import warnings
from collections.abc import Callable
from weakref import WeakKeyDictionary

from torch import nn
from torch.optim import Optimizer


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
