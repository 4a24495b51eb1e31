"""Tickets of another network of the family, stretched or squeezed: their early weights, and their masks."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from tombola import elastic, models
from tombola.lab.kinds.masks import Prune, mask_outcome
from tombola.lab.runs import Known, Network, Outcome, Run, Tell, untold

if TYPE_CHECKING:
    from tombola.lab.worker import Worker


@dataclass(frozen=True)
class Stretch:
    """From which network to which, and which blocks go where.

    Attributes:
        map: block by block, as `elastic.written` has it.
    """

    source: Network
    target: Network
    map: str

    def taken(self) -> Mapping[str, str]:
        """Which tensor of the source each tensor of the target is a copy of: all that their state_dicts hold."""
        source, target = (
            {name: tuple(value.shape) for name, value in network.build().state_dict().items()}
            for network in (self.source, self.target)
        )
        return elastic.taken(source, target, self.map)


@dataclass(frozen=True, eq=False, repr=False)
class StretchedWeights(Run):
    """The weights that another network had at step k, block by block: parameters, and what normalisations remember.

    Attributes:
        of: the source's, a rewind point.
    """

    kind = "stretched_weights"
    version = 1

    stretch: Stretch
    of: Run

    def perform(self, worker: "Worker", tell: Tell = untold) -> Outcome:
        """Copy them."""
        made = elastic.weights(self.stretch.taken(), worker.store.weights(self.of))
        return Outcome({}, tensors={"weights": made})


@dataclass(frozen=True, eq=False, repr=False)
class StretchedMask(Run):
    """The mask of another network's ticket, block by block.

    Attributes:
        like: the source's.
    """

    kind = "stretched_mask"
    version = 1

    stretch: Stretch
    like: Run

    def counts(self, known: Known) -> Mapping[str, int]:
        """Those of `like`, of each copy again."""
        stretch = self.stretch
        source, target = (
            models.shapes(each.model, each.shape, each.classes) for each in (stretch.source, stretch.target)
        )
        return elastic.copied(elastic.taken(source, target, stretch.map), known.counts(self.like))

    def perform(self, worker: "Worker", tell: Tell = untold) -> Outcome:
        """Copy it."""
        alive = worker.store.mask(self.like)
        made = mask_outcome(elastic.mask(self.stretch.taken(), alive))
        of_source = {"source": self.stretch.source.model, "source_density": alive.density, "map": self.stretch.map}
        return Outcome({**made.values, **of_source}, made.tensors)


@dataclass(frozen=True, eq=False, repr=False)
class MatchedMask(Prune):
    """A control: what the network's own search leaves where its rounds end with as many weights as `like` keeps.

    Its other fields are those of the search's last round. The round that is the last with as many weights before it
    lets more of them go, or fewer, than it did.

    Attributes:
        like: a stretched mask.
        earlier: the rounds before, from the first on, as (weights that were scored, mask before); None for none.
    """

    kind = "matched_mask"
    version = 1

    like: Run | None = None
    earlier: tuple[tuple[Run, Run | None], ...] | None = None

    def perform(self, worker: "Worker", tell: Tell = untold) -> Outcome:
        """Score the weights of that round, and let all but as many go."""
        assert self.like
        store, wanted = worker.store, worker.store.mask(self.like)
        rounds = (*(self.earlier or ()), (self.trained, self.mask))
        trained, mask = [each for each in rounds if each[1] is None or store.mask(each[1]).alive >= wanted.alive][-1]
        return mask_outcome(replace(self, trained=trained, mask=mask, density=wanted.density).left(worker))
