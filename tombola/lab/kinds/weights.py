"""Weights made from other ones, for the controls of the weights."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from tombola.code import attribute
from tombola.lab.runs import Outcome, Run, Tell, untold

if TYPE_CHECKING:
    from tombola.lab.worker import Worker


@dataclass(frozen=True, eq=False, repr=False)
class DerivedWeights(Run):
    """A control: the weights that a function makes of those of `of`; the optimizer's state, if kept, is that of `of`.

    Attributes:
        of: a rewind point, say.
        function: from weights by name, what is `beside` them, and a seed to such weights; its name, by which
            `code.attribute` finds it.
        code: SHA-256 of the extension that it is of; None for the package.
        beside: what else the function is handed, in this order, as (which of its outcome, run); None for nothing.
    """

    kind = "derived_weights"
    version = 1
    later = frozenset({"beside"})

    of: Run
    function: str
    code: str | None
    weights_seed: int
    beside: tuple[tuple[Literal["weights", "mask"], Run], ...] | None = None

    @property
    def keep_optimizer(self) -> bool:
        """Whether a training that starts from it can carry the optimizer's state over."""
        return bool(getattr(self.of, "keep_optimizer", False))

    def perform(self, worker: "Worker", tell: Tell = untold) -> Outcome:
        """Have the function make them; what it draws from generators of the whole process begins at the seed too."""
        from tombola import weights

        store, function = worker.store, attribute(self.function, self.code)
        read = {"weights": store.weights, "mask": store.mask}
        beside = [read[what](run) for what, run in self.beside or ()]
        tensors = {"weights": weights.derived(function, store.weights(self.of), self.weights_seed, *beside)}
        if store.holds(self.of, "optimizer"):
            tensors["optimizer"] = store.tensors(self.of, "optimizer")
        return Outcome({}, tensors)
