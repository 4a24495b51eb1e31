"""Which units of one trained network are like which of another one, and a mask carried over by that."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

from tombola.data.facts import Facts
from tombola.lab.kinds.masks import Sample, mask_outcome
from tombola.lab.runs import Known, Network, Outcome, Run, Tell, untold
from tombola.macs import Macs, examples

if TYPE_CHECKING:
    from torch import nn

    from tombola.lab.worker import Worker
    from tombola.rebasin import Symmetries


@dataclass(frozen=True, eq=False, repr=False)
class Alignment(Run):
    """The units of `theirs` that those of `ours` are like, by their activations: see `tombola.rebasin`.

    Attributes:
        network: of both.
        theirs, ours: the trained weights of A and of B.
        sample: the training examples, of which activations are taken as far as `batches` of them go.
    """

    kind = "alignment"
    version = 1

    network: Network
    theirs: Run
    ours: Run
    sample: Sample
    batches: int

    @property
    def data(self) -> tuple[str, ...]:
        return (self.sample.recipe.data,)

    def seconds(self, facts: Facts, step_seconds: Callable[[], float]) -> float:
        """Two looks at each example, forwards alone."""
        return self.batches * step_seconds()

    def macs(self, known: Known) -> Macs:
        """f for each example and network."""
        recipe = self.sample.recipe
        seen = examples(0, self.batches, known.facts(recipe.data).train, recipe.batch)
        return known.forward(self.network, {}) * (2 * seen)

    def perform(self, worker: "Worker", tell: Tell = untold) -> Outcome:
        """Call both on the same examples, and match layer by layer."""
        from tombola import rebasin

        ours, theirs = (self._model(run, worker) for run in (self.ours, self.theirs))
        batches = (inputs for inputs, _ in islice(self.sample.batches(worker), self.batches))
        found = rebasin.matched(ours, theirs, batches, symmetries(self.network))
        return Outcome({"correlations": dict(found.correlations)}, {"permutations": dict(found.permutations)})

    def _model(self, run: Run, worker: "Worker") -> "nn.Module":
        from tombola import weights

        model = self.network.build()
        weights.put(model, worker.store.weights(run))
        return model.to(worker.device).eval()


@dataclass(frozen=True, eq=False, repr=False)
class AlignedMask(Run):
    """The mask `like` of one network with its units in the order of those of another one that they are like."""

    kind = "aligned"
    version = 1

    network: Network
    like: Run
    alignment: Run

    def counts(self, known: Known) -> Mapping[str, int]:
        """Those of `like`."""
        return known.counts(self.like)

    def perform(self, worker: "Worker", tell: Tell = untold) -> Outcome:
        """Permute rows by this layer's units, columns by those of the layer before."""
        from tombola import rebasin

        permutations = worker.store.tensors(self.alignment, "permutations")
        return mask_outcome(rebasin.carried_mask(worker.store.mask(self.like), permutations, symmetries(self.network)))


def symmetries(network: Network) -> "Symmetries":
    """What may be permuted in it."""
    import torch

    from tombola.rebasin import Symmetries

    return Symmetries.of(network.build().eval(), torch.zeros(2, *network.shape))
