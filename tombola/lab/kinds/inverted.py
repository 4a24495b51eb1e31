"""The inverse of a pruned mask, for a control."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from tombola.lab.kinds.masks import Prune, mask_outcome
from tombola.lab.runs import Known, Outcome, Run, Tell, untold
from tombola.macs import Macs

if TYPE_CHECKING:
    from tombola.going import Step
    from tombola.lab.worker import Worker


@dataclass(frozen=True, eq=False, repr=False)
class InvertedMask(Prune):
    """A control: of each layer as many weights as `like` keeps, those that its pruning lets go first.

    Its other fields are those of the pruning that made `like`, which is scored once more.

    Attributes:
        like: the mask of which it is the inverse.
        earlier: the rounds before that pruning's, from the first on, as (weights that were scored, mask before);
            None for none.
    """

    kind = "invert"
    version = 1

    like: Run | None = None
    earlier: tuple[tuple[Run, Run | None], ...] | None = None

    def macs(self, known: Known) -> Macs:
        """Nothing: what is scored has been scored for `like`."""
        return Macs()

    def counts(self, known: Known) -> Mapping[str, int]:
        """Those of `like`."""
        assert self.like
        return known.counts(self.like)

    def perform(self, worker: "Worker", tell: Tell = untold) -> Outcome:
        """Prune again, round by round, and watch what goes."""
        from tombola.going import first_to_go

        assert self.like
        steps: list[Step] = []
        for trained, mask in (*(self.earlier or ()), (self.trained, self.mask)):
            replace(self, trained=trained, mask=mask).left(worker, lambda alive, scores: steps.append((alive, scores)))
        return mask_outcome(first_to_go(steps, worker.store.mask(self.like)))
