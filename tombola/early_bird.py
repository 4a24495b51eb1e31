"""When a mask has settled: the rule by which an early-bird ticket is drawn while the dense network still trains.

Drawing Early-Bird Tickets: Towards More Efficient Training of Deep Networks (You et al., 2020),
https://arxiv.org/abs/1909.11957. Now and then the mask is drawn that pruning would give at that moment. Once the newest
one lies within a small distance of each of those before it, the training need not go on.
"""

from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from tombola.steps import Step
from tombola.value import Count, Number, StepField, Value

if TYPE_CHECKING:  # `tombola plan` reads the rule, and touches no tensor
    from torch import Tensor, nn

    from tombola.coupling import Coupling
    from tombola.mask import Mask


class Settling(Value):
    """When a mask has settled.

    Attributes:
        every: training between two masks; the first is drawn after so much of it, and none before.
        remembered: how many masks are compared, the newest with each of the others.
        within: the distance that none of them may exceed.
        distance: `hamming`, the share of places in which two masks differ; or `chance`, that share divided by what it
            is on average between two random masks of this density, 2 d (1 - d). At 5 % these differ in less than a
            tenth of their places: by the first, any two masks are alike there.
        by: `weight`, each by its size; or `channel`: a channel with the weights that make it and those that read it, by
            |gamma| of the batch normalisation after it, all layers together; where there is none, a unit by the norm of
            its weights. Then the channels that are kept are compared.

    >>> Settling(every="100it").within
    0.1
    """

    every: StepField = Step("1ep")
    remembered: Annotated[Count, Field(ge=2, le=1000)] = 5
    within: Annotated[Number, Field(ge=0, lt=1)] = 0.1
    distance: Literal["hamming", "chance"] = "hamming"
    by: Literal["weight", "channel"] = "weight"

    def reached(self, density: float) -> float:
        """The Hamming distance that a mask of `density` has to come within.

        >>> Settling(distance="chance", within=0.5).reached(0.5)
        0.25
        """
        return self.within * apart_by_chance(density) if self.distance == "chance" else self.within


def apart_by_chance(density: float) -> float:
    """2 d (1 - d): the share of places in which two random masks of density d differ.

    >>> round(apart_by_chance(0.05), 3)
    0.095
    """
    return 2 * density * (1 - density)


def distance(one: "Mask", other: "Mask") -> float:
    """The normalised Hamming distance of two masks of the same layers: the share of places in which they differ.

    >>> import torch
    >>> from tombola.mask import Mask
    >>> flags = torch.tensor([True, True, False, False])
    >>> distance(Mask({"w": flags}), Mask({"w": flags.roll(1)}))
    0.5
    """
    return sum(int((one[name] ^ other[name]).sum()) for name in one) / sum(flags.numel() for flags in one.values())


@dataclass(frozen=True)
class Drawn:
    """The masks that have been drawn last, oldest first: never more than are remembered.

    Attributes:
        remembered: how many there may be.
    """

    remembered: int
    masks: "tuple[Mask, ...]" = ()

    def then(self, mask: "Mask") -> "Drawn":
        """The same after one more mask, the oldest having gone where there are too many."""
        return replace(self, masks=(*self.masks, mask)[-self.remembered :])

    @property
    def distances(self) -> tuple[float, ...]:
        """Of the newest to each of the others; none before there are as many as are remembered."""
        if len(self.masks) < self.remembered:
            return ()
        *others, newest = self.masks
        return tuple(distance(newest, other) for other in others)

    def within(self, most: float) -> bool:
        """Whether none of the distances is larger than `most`; False as long as there are none."""
        return bool(self.distances) and max(self.distances) <= most


@dataclass(frozen=True)
class Wiring:
    """Which weights a channel has beside those that make it: those of the next layers that read it.

    Channels that a residual connection adds are one to whoever reads the sum.

    Attributes:
        gives: the number of each channel that a weight makes, [outputs].
        reads: the number of the channel that each column of a weight reads, [inputs].
        stays: the number of what no weight makes, such as the network's input.
    """

    gives: "Mapping[str, Tensor]"
    reads: "Mapping[str, Tensor]"
    stays: int = -1

    @staticmethod
    def of(coupling: "Coupling", mask: "Mask") -> "Wiring":
        """The channels of a network, of which each layer that makes one has one by itself: heads stay."""
        single = [along for along in coupling.makes if along.axis == 0 and not along.repeats]
        gives = {along.name: along.channels for along in single}
        known = {int(channel) for channels in gives.values() for channel in channels}
        known |= set(coupling.whole.nonzero().flatten().tolist())
        reads = {along.name: along.channels for along in coupling.reads if along.axis == 1 and along.name in mask}
        reads = {name: channels for name, channels in reads.items() if known.issuperset(channels.tolist())}
        return Wiring(gives, reads, int(coupling.whole.nonzero()[0]))


def covered(mask: "Mask", kept: "Mapping[str, Tensor]", wiring: Wiring) -> "Mask":
    """`mask` less the weights of the channels that are not `kept`: those that make one, and those that read it.

    What reads a sum is read as long as one of those that make it is kept.

    Args:
        kept: whether each channel of a layer is, [outputs]; of layers that are not named all are.

    >>> import torch
    >>> from tombola.mask import Mask
    >>> whole = Mask({"a": torch.ones(3, 2, dtype=torch.bool), "b": torch.ones(2, 3, dtype=torch.bool)})
    >>> wiring = Wiring(gives={"a": torch.tensor([0, 1, 2])}, reads={"b": torch.tensor([0, 1, 2])})
    >>> covered(whole, {"a": torch.tensor([True, False, True])}, wiring).counts
    {'a': 4, 'b': 4}
    """
    import torch

    from tombola.mask import Mask

    made = Mask(mask)
    for name, flags in kept.items():
        made[name][~flags] = False
    given = [units[kept[name]] if name in kept else units for name, units in wiring.gives.items()]
    living = torch.cat([*given, torch.tensor([wiring.stays])])
    for name, units in wiring.reads.items():
        if name in made:
            made[name][:, ~torch.isin(units, living)] = False
    return made


def kept_channels(mask: "Mask", importance: "Mapping[str, Tensor]", left: int, wiring: Wiring) -> "Mask":
    """The channels that stay: those of least importance go, all layers together, while `left` weights stay at least.

    Ties go by layer, then by channel, as everywhere; the most important channel of a layer stays.

    Args:
        mask: what is alive before; a channel is what shares the first index of a weight.
        importance: of each channel, a vector for each layer whose channels may go; other layers stay.
        left: weights that are to stay.
    """
    import torch

    from tombola.mask import Mask

    names = [name for name in mask if name in importance]
    places = [(name, channel) for name in names for channel in range(len(importance[name]))]
    ranked = torch.cat([importance[name] for name in names]) if names else torch.empty(0)
    ascending = [places[place] for place in torch.sort(ranked, stable=True).indices.tolist()]
    last = dict(ascending)  # of each layer the one that comes last
    going = [(name, channel) for name, channel in ascending if last[name] != channel]

    def without(count: int) -> Mask:
        flags = Mask({name: torch.ones(len(importance[name]), dtype=torch.bool) for name in names})
        for name, channel in going[:count]:
            flags[name][channel] = False
        return flags

    # The more channels go, the fewer weights are left: the last count that leaves enough.
    count = bisect_right(range(len(going) + 1), -left, key=lambda count: -covered(mask, without(count), wiring).alive)
    return without(max(0, count - 1))


def importance(model: "nn.Module", kinds: Mapping[str, str], weights: "Mapping[str, Tensor]") -> "dict[str, Tensor]":
    """How important each channel is: |gamma| of the batch normalisation after it.

    The normalisation of a layer is the one that is registered right after it. In a network without any, it is the norm
    of a unit's weights, and the output, whose units are the classes, has no unit to lose.

    Args:
        kinds: of the weights that are pruned, as `prunable.prunable` has them.
        weights: by name; those of the model may be others.

    >>> from torch import nn
    >>> model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(8, 3))
    >>> importance(model, {"0.weight": "conv", "3.weight": "output"}, model.state_dict())
    {'0.weight': tensor([1., 1.])}
    """
    from torch import nn

    from tombola.layers import layouts

    outputs_first = {name for name, layout in layouts(model).items() if layout.outputs == 0}
    found: dict[str, Tensor] = {}
    before = ""
    for path, module in model.named_modules():
        name = f"{path}.weight"
        if name in kinds:
            before = name if name in outputs_first else ""
        elif isinstance(module, nn.modules.batchnorm._NormBase) and module.affine:
            if before and len(weights[name]) == len(weights[before]):
                found[before] = weights[name].abs()
            before = ""
        elif not list(module.children()) and list(module.parameters()):
            before = ""  # what comes after it is about its outputs
    if found:
        return found
    units = [name for name, kind in kinds.items() if kind != "output" and name in outputs_first]
    return {name: weights[name].flatten(1).norm(dim=1) for name in units}
