"""How far apart two trainings end."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from tombola.lab.kinds.training import Train
from tombola.lab.runs import Outcome, Run, Tell, untold

if TYPE_CHECKING:
    from tombola.lab.worker import Worker


@dataclass(frozen=True, eq=False, repr=False)
class Distance(Run):
    """How far apart two trainings end, over the weights that survive in `mask`."""

    kind = "distance"
    version = 1

    left: Train
    right: Train
    mask: Run

    def perform(self, worker: "Worker", tell: Tell = untold) -> Outcome:
        """Measure it, as an L2 norm and as an angle."""
        from tombola.study import stability

        left, right = worker.store.weights(self.left), worker.store.weights(self.right)
        apart = stability.distances(left, right, worker.store.mask(self.mask))
        return Outcome({"l2": apart.l2, "degrees": apart.degrees})
