"""How many signs a training has turned."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from tombola.lab.runs import Outcome, Run, Tell, untold

if TYPE_CHECKING:
    from tombola.lab.worker import Worker


@dataclass(frozen=True, eq=False, repr=False)
class Flips(Run):
    """How many of the weights that survive in `mask` have another sign in `trained` than in `since`.

    Attributes:
        trained, since: weights.
        mask: what survives; or a training that ends under a mask of its own.
    """

    kind = "flips"
    version = 1

    trained: Run
    since: Run
    mask: Run

    def perform(self, worker: "Worker", tell: Tell = untold) -> Outcome:
        """Count them, layer by layer."""
        from tombola import signs

        store = worker.store
        found = signs.flips(store.mask(self.mask), store.weights(self.trained), store.weights(self.since))
        flipped, living = (sum(pair[place] for pair in found.values()) for place in (0, 1))
        layers = {name: {"flipped": one, "living": all_} for name, (one, all_) in found.items()}
        return Outcome({"flipped": flipped, "living": living, "layers": layers})
