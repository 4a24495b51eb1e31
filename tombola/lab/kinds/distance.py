"""How far apart two trainings end."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from tombola.lab.kinds.training import Train
from tombola.lab.runs import Outcome, Run, Tell, untold

if TYPE_CHECKING:
    from tombola.lab.worker import Worker


@dataclass(frozen=True, eq=False, repr=False)
class Distance(Run):
    """How far apart two trainings end, over the weights that survive in `mask`, and in their own where they changed it.

    Attributes:
        mask: what they were given; or a training that ends under a mask of its own.
    """

    kind = "distance"
    version = 1

    left: Train
    right: Train
    mask: Run

    def perform(self, worker: "Worker", tell: Tell = untold) -> Outcome:
        """Measure it, as an L2 norm and as an angle."""
        from tombola.study import stability

        store = worker.store
        surviving = dict(store.mask(self.mask))
        for end in (self.left, self.right):
            if store.masked_by(end) == end:
                surviving = {name: alive & surviving[name] for name, alive in store.mask(end).items()}
        apart = stability.distances(store.weights(self.left), store.weights(self.right), surviving)
        return Outcome({"l2": apart.l2, "degrees": apart.degrees})
