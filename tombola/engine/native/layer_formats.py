"""What the times of a layer in the kernels' two formats depend on, and those of a network by them."""

from collections.abc import Iterable
from dataclasses import dataclass

from tombola.sparse.choice import Call
from tombola.sparse.times import Times


@dataclass(frozen=True)
class Shape:
    """What the times of a layer depend on, but for its density."""

    inputs: int
    outputs: int
    batch: int
    first: bool  # needs no gradient of its inputs
    window: int = 0  # side of a convolution's window; 0: fully connected
    height: int = 1  # of a convolution's maps
    width: int = 1

    @property
    def name(self) -> str:
        maps = f"{self.window} x {self.window} on {self.height} x {self.width}, " if self.window else ""
        return f"{self.inputs} to {self.outputs}, {maps}{'first, ' if self.first else ''}batch {self.batch}"


Timed = Shape | Call  # what is measured on a machine


def network_seconds(layers: Iterable[tuple[Times, float]]) -> tuple[float, float]:
    """Seconds of a step of a network, by the kernels and by the plain loop, from its layers' times and densities."""
    known = list(layers)
    kernels = sum(times.seconds(density) for times, density in known)
    return kernels, sum(times.plain_seconds(density) for times, density in known)
