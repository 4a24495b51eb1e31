"""The weights at step 0."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from tombola import models
from tombola.errors import BadInput
from tombola.lab.runs import Network, Outcome, Run, Tell, untold
from tombola.models import Initialisation

if TYPE_CHECKING:
    from tombola.lab.worker import Worker


@dataclass(frozen=True, eq=False, repr=False)
class Init(Run):
    """The weights at step 0, theta_0 ~ D_theta."""

    kind = "init"
    version = 1

    network: Network
    init: Initialisation
    init_seed: int

    def perform(self, worker: "Worker", tell: Tell = untold) -> Outcome:
        """Draw the weights, or take the pre-trained ones."""
        from tombola import weights

        network = self.network
        if network.checkpoint and models.checkpoint(network.model) != network.checkpoint:
            raise BadInput(
                where=network.model,
                expected=f"the checkpoint with SHA-256 {network.checkpoint[:16]}...",
                found="another one",
                todo="Somebody changed it while this was at work: run the same command again.",
            )
        model = models.build(network.model, network.shape, network.classes, self.init, self.init_seed)
        return Outcome(values={}, tensors={"weights": weights.of(model)})
