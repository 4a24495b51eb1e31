"""Multiply-adds: the one rule by which everything that trains or scores says what it costs.

f = sum over layers of positions x living weights, + products: what one example takes forwards. A weight is used once
at every position of a layer's map, or for every token of a text; attention multiplies queries with keys and its shares
with values, whatever is pruned. Backwards takes 2 f: the gradient of what a layer reads and that of its weights, in the
first layer too, as the field counts it. So an example that is trained on costs 3 f.

Biases, normalisations, activations, pooling, look-ups in embeddings, the optimiser's own arithmetic, and looking at
validation and test images are not counted (docs/costs.md).
"""

from collections.abc import Mapping
from dataclasses import dataclass

from tombola.models.layer import Layer

GRADIENT = 3  # f forwards, 2 f backwards


@dataclass(frozen=True)
class Macs:
    """Multiply-adds, counted twice.

    Attributes:
        ideal: of a machine that multiplies with living weights alone.
        executed: of the machine that there is: an engine multiplies with pruned weights too where it holds a layer
            dense.
    """

    ideal: int = 0
    executed: int = 0

    def __add__(self, other: "Macs") -> "Macs":
        return Macs(self.ideal + other.ideal, self.executed + other.executed)

    def __mul__(self, times: int) -> "Macs":
        return Macs(times * self.ideal, times * self.executed)


def forward(layers: Mapping[str, Layer], living: Mapping[str, int], products: int = 0) -> int:
    """f, the multiply-adds of one example forwards.

    Args:
        layers: of the network, by the name of their weight.
        living: how many weights live in a layer; all of them in one that it does not name.
        products: those of an example that no weight takes part in: `models.products`.

    >>> layers = {"conv.weight": Layer("conv", 1, 2, 3, 8, 8), "output.weight": Layer("output", 128, 10)}
    >>> forward(layers, {}), forward(layers, {"conv.weight": 9})
    (2432, 1856)
    """
    return products + sum(layer.positions * living.get(name, layer.weights) for name, layer in layers.items())


def examples(begin: int, until: int, train: int, batch: int) -> int:
    """How many examples the steps after `begin` up to `until` see, where the last batch of an epoch may be smaller.

    >>> examples(0, 3, train=100, batch=60), examples(1, 4, train=100, batch=60)
    (160, 140)
    """
    return _examples(until, train, batch) - _examples(begin, train, batch)


def steps(seen: int, train: int, batch: int) -> int:
    """How many steps from the first one on see so many examples, or up to a batch more.

    >>> steps(160, train=100, batch=60), steps(161, train=100, batch=60)
    (3, 4)
    """
    epochs, rest = divmod(seen, train)
    return epochs * -(-train // batch) + -(-rest // batch)


def _examples(steps: int, train: int, batch: int) -> int:
    epochs, rest = divmod(steps, -(-train // batch))
    return epochs * train + rest * batch
