"""Weights that are numbers as the means of Gaussian ones."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from tombola.lab.runs import Network, Outcome, Run, Tell, untold

if TYPE_CHECKING:
    from tombola.lab.worker import Worker


@dataclass(frozen=True, eq=False, repr=False)
class Means(Run):
    """The weights of a plain network as the means of a Gaussian one, whose deviations are those that it begins with.

    Attributes:
        network: the Gaussian one.
        of: whose weights become means; its biases and normalisations, with their statistics, go with them.
    """

    kind = "means"
    version = 1

    network: Network
    of: Run

    def perform(self, worker: "Worker", tell: Tell = untold) -> Outcome:
        """Put them beside each other.

        Raises:
            BadInput: they are of another network.
        """
        from tombola import weights
        from tombola.bayes import is_noise

        start, given = weights.of(self.network.build()), worker.store.weights(self.of)
        means = {name: value for name, value in start.items() if not is_noise(name)}
        weights.fit(means, given, f"weights of {self.of.key}")
        return Outcome({}, {"weights": {**start, **given}})
