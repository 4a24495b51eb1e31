"""Weights made from other ones, for the controls of the weights."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from tombola.code import attribute
from tombola.lab.runs import Outcome, Run, Tell, untold

if TYPE_CHECKING:
    from tombola.lab.worker import Worker


@dataclass(frozen=True, eq=False, repr=False)
class DerivedWeights(Run):
    """A control: the weights that a function makes of those of `of`; the optimizer's state, if kept, is that of `of`.

    Attributes:
        of: a rewind point, say.
        function: from weights by name and a seed to such weights; its name, by which `code.attribute` finds it.
        code: SHA-256 of the extension that it is of; None for the package.
    """

    kind = "derived_weights"
    version = 1

    of: Run
    function: str
    code: str | None
    weights_seed: int

    @property
    def keep_optimizer(self) -> bool:
        """Whether a training that starts from it can carry the optimizer's state over."""
        return bool(getattr(self.of, "keep_optimizer", False))

    def perform(self, worker: "Worker", tell: Tell = untold) -> Outcome:
        """Have the function make them; what it draws from generators of the whole process begins at the seed too."""
        from tombola import weights

        store, function = worker.store, attribute(self.function, self.code)
        tensors = {"weights": weights.derived(function, store.weights(self.of), self.weights_seed)}
        if store.holds(self.of, "optimizer"):
            tensors["optimizer"] = store.tensors(self.of, "optimizer")
        return Outcome({}, tensors)
