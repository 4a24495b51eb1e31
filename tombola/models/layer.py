"""What is known of a layer before the network is built."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tombola.layers import Kind


@dataclass(frozen=True)
class Layer:
    """A fully connected layer, a convolution or a table of embeddings, by its sizes.

    Attributes:
        kind: as `tombola.prunable.prunable` has it; the last fully connected layer is the `output`.
        inputs, outputs: units, or channels of maps; of a table its rows and the numbers in each.
        window: side of a convolution's square window.
        height, width: of the maps that a convolution gives; of what is done for each token of a text, its length and 1.

    >>> layer = Layer("conv", 3, 64, window=3, height=32, width=32)
    >>> layer.weights, layer.uses
    (1728, 1769472)
    """

    kind: "Kind"
    inputs: int
    outputs: int
    window: int = 1
    height: int = 1
    width: int = 1

    @property
    def weights(self) -> int:
        """How many there are; biases are not counted."""
        return self.inputs * self.outputs * self.window**2

    @property
    def shape(self) -> tuple[int, ...]:
        """The axes of the weights: (outputs, inputs), of a convolution its window too; of a table (inputs, outputs)."""
        window = (self.window, self.window) if self.kind == "conv" else ()
        return (*((self.inputs, self.outputs) if self.kind == "embedding" else (self.outputs, self.inputs)), *window)

    @property
    def positions(self) -> int:
        """How often an example multiplies with each weight: a table never, a convolution at all places of its map."""
        return 0 if self.kind == "embedding" else self.height * self.width

    @property
    def uses(self) -> int:
        """Multiplications per example."""
        return self.weights * self.positions

    @property
    def sizes(self) -> tuple[int, ...]:
        """(inputs, outputs), of a convolution (inputs, outputs, window, height, width)."""
        maps = (self.window, self.height, self.width) if self.kind == "conv" else ()
        return (self.inputs, self.outputs, *maps)
