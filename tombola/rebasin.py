"""Units of one network matched with those of another one, and a mask carried over by the permutation.

Hidden units have no order of their own: permuted, with all that leads to them and from them, the network computes the
same. Of two networks A and B that were trained from different initialisations, the permutation

    pi_l = argmax_pi sum_i corr(z_B[i], z_A[pi[i]]),

unit by unit over layer l's activations z on training examples, makes A as like B as it can (Git Re-Basin, Ainsworth,
Hayase & Srinivasa, 2023; REPAIR, Jordan et al., 2023). A mask that was found in A names other units in B; pi(m_A) names
the ones that are alike (Sparse Training from Random Initialization, Adnan et al., 2025).
"""

import copy
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from torch import Tensor, fx, nn

from tombola import weights
from tombola.cash.channels import STAYS, Flow, follow
from tombola.cash.trace import GraphInterpreter
from tombola.errors import BadInput
from tombola.mask import Mask
from tombola.weights import Weights

Permutations = Mapping[str, Tensor]  # layer -> for each unit of B, which one of A


@dataclass(frozen=True, eq=False)
class Ordered:
    """Layers whose units have one order in common: a layer by itself, or those that a residual connection adds.

    Attributes:
        name: of the first of these layers, by which the permutation is known.
        units: of it, [units]; those of the others are in the same groups, one by one.
        reader: the last call of a layer that reads them: behind the activation, and behind all that is added.
        axis: of what it reads, along which the channels lie.
        places: of each unit, where it lies along them, [units, positions].
    """

    name: str
    units: Tensor
    reader: fx.Node
    axis: int
    places: Tensor


@dataclass(frozen=True, eq=False)
class Symmetries:
    """What may be permuted in a network without changing what it computes.

    Attributes:
        flow: of its channels.
        ordered: the layers that may each be permuted by itself.
    """

    flow: Flow
    ordered: tuple[Ordered, ...]

    @classmethod
    def of(cls, model: nn.Module, example: Tensor) -> "Symmetries":
        """Those of `model`, as far as its calls can be followed: what leads into anything else stays in its order.

        Args:
            model: in eval mode.
            example: a batch of inputs.

        Raises:
            BadInput: nothing of it may be permuted; or its calls depend on the values of its input.
        """
        flow = follow(model, (example,))
        if not flow.trace.general or any(layer.transposed for layer in flow.layers):
            raise BadInput(
                where=type(model).__name__,
                expected="a network whose calls torch.fx can follow, without transposed convolutions",
                found="code that decides by sizes" if not flow.trace.general else "a transposed convolution",
                todo="A mask is carried to another initialisation in fully connected and convolutional networks.",
            )
        calls = [node for node in flow.trace.graph.nodes if node.op == "call_module"]
        kept, readers = flow.groups[STAYS], {str(node.target): node for node in calls}
        found: dict[tuple[int, ...], Ordered] = {}
        for layer in flow.layers:
            units = flow.groups[layer.gives]
            key = tuple(units.tolist())
            if key in found or bool((units == kept).any()) or len(set(key)) < len(key):
                continue
            reading = [other for other in flow.layers if bool(torch.isin(flow.groups[other.reads.units], units).any())]
            if reading:
                last = reading[-1]
                places = _places(flow.groups[last.reads.units], units)
                found[key] = Ordered(layer.name, units, readers[last.name], last.reads.axis, places)
        # A unit of two orders - layers that are joined, or added in part - can follow one of them at most.
        clashing = {unit for unit, count in Counter(unit for key in found for unit in key).items() if count > 1}
        ordered = tuple(each for key, each in found.items() if not clashing.intersection(key))
        if not ordered:
            raise BadInput(
                where=type(model).__name__,
                expected="a network with hidden units that may be permuted",
                found="none whose way through it is known",
                todo="A mask is carried to another initialisation in fully connected and convolutional networks.",
            )
        return cls(flow, ordered)

    def permuted(self, permutations: Permutations, unit: Tensor) -> Tensor:
        """The unit of A for each unit of B in `unit`, of any shape; itself where nothing permutes it."""
        to = torch.arange(int(self.flow.groups.max()) + 1)
        for each in self.ordered:
            to[each.units] = each.units[permutations[each.name]]
        return to[self.flow.groups[unit]]


def matched(ours: nn.Module, theirs: nn.Module, batches: Iterable[Tensor], symmetries: Symmetries) -> "Matched":
    """Match the units of two networks by their activations.

    Args:
        ours: B, in eval mode.
        theirs: A, of the same architecture, in eval mode.
        batches: inputs, of which each network sees all.
        symmetries: of that architecture.
    """
    sums = {each.name: _Moments() for each in symmetries.ordered}
    graph, readers = symmetries.flow.trace.graph, [each.reader for each in symmetries.ordered]
    networks = [_called(symmetries.flow, model) for model in (ours, theirs)]
    for inputs in batches:
        seen = [_inputs_of(readers, model, graph, inputs) for model in networks]
        for each in symmetries.ordered:
            ours_now, theirs_now = (_activations(inputs_of[each.reader], each) for inputs_of in seen)
            sums[each.name].add(ours_now, theirs_now)
    correlations = {name: moments.correlations() for name, moments in sums.items()}
    chosen = {name: linear_sum_assignment(each, maximize=True)[1] for name, each in correlations.items()}
    means = {name: float(each[np.arange(len(each)), chosen[name]].mean()) for name, each in correlations.items()}
    return Matched({name: torch.from_numpy(each).to(torch.int64) for name, each in chosen.items()}, means)


@dataclass(frozen=True, eq=False)
class Matched:
    """Which unit of A each unit of B is like.

    Attributes:
        permutations: by layer.
        correlations: the mean of corr(z_B[i], z_A[pi[i]]) over the units of each of these layers.
    """

    permutations: Permutations
    correlations: Mapping[str, float]


def carried(tensors: Weights, permutations: Permutations, symmetries: Symmetries) -> dict[str, Tensor]:
    """Return pi(tensors): W_l <- pi_l W_l pi_{l-1}^T, biases and normalisations with their units.

    Args:
        tensors: of A by name: its weights, or the layers of a mask.
        permutations: for each unit of B, which one of A.
        symmetries: of the architecture.
    """
    made = dict(tensors)
    flow = symmetries.flow
    along = [*((layer.name, layer.gives) for layer in flow.layers), *flow.along]
    for name, units in along:
        rows = _rearranged(flow.groups[units], symmetries.permuted(permutations, units))
        for key in (each for each in tensors if each.rpartition(".")[0] == name and tensors[each].dim()):
            made[key] = made[key][rows]
    for layer in flow.layers:
        if (key := f"{layer.name}.weight") in tensors:
            read = layer.reads.units
            columns = _rearranged(flow.groups[read], symmetries.permuted(permutations, read))
            made[key] = made[key].index_select(1, columns)
    return made


def carried_mask(mask: Mask, permutations: Permutations, symmetries: Symmetries) -> Mask:
    """Return pi(mask): as many weights of each layer are alive in it, and one pi lets masks nest that did."""
    return Mask(carried(mask, permutations, symmetries))


def _rearranged(units: Tensor, wanted: Tensor) -> Tensor:
    """Where along `units` each of `wanted` lies; of a unit with several places the first one first, and so on."""
    if torch.equal(units, wanted):
        return torch.arange(len(units))
    places: dict[int, list[int]] = {}
    for place, unit in enumerate(units.tolist()):
        places.setdefault(unit, []).append(place)
    nexts = {unit: iter(found) for unit, found in places.items()}
    return torch.tensor([next(nexts[unit]) for unit in wanted.tolist()])


def _places(read: Tensor, units: Tensor) -> Tensor:
    """Where each of `units` lies along what is read, [units, positions]."""
    return torch.stack([(read == unit).nonzero().flatten() for unit in units])


def _called(flow: Flow, model: nn.Module) -> nn.Module:
    """What performs the calls of `flow` with the weights of `model`."""
    called = copy.deepcopy(flow.trace.called)
    weights.put(called, weights.of(model))
    return called.to(next(model.parameters()).device).eval()


def _inputs_of(readers: list[fx.Node], model: nn.Module, graph: fx.Graph, inputs: Tensor) -> dict[fx.Node, Tensor]:
    run = GraphInterpreter(model, graph, readers)
    with torch.no_grad():
        run.run(inputs)
    return run.inputs


def _activations(value: Tensor, ordered: Ordered) -> Tensor:
    """What each unit gives, for each example and at each position, [examples and positions, units], in float64."""
    channels = value.movedim(ordered.axis, 0).flatten(1)
    chosen = channels[ordered.places.to(value.device)]  # [units, positions along the channels, all others]
    return chosen.flatten(1).T.double()


class _Moments:
    """Sums of two sets of variables, of their squares and of their products, from which their correlations come."""

    def __init__(self) -> None:
        self.count = 0
        self.sums: tuple[Tensor, Tensor, Tensor, Tensor, Tensor] | None = None

    def add(self, ours: Tensor, theirs: Tensor) -> None:
        """So many observations more, [observations, variables] each."""
        now = ours.sum(0), theirs.sum(0), ours.square().sum(0), theirs.square().sum(0), ours.T @ theirs
        self.count += len(ours)
        self.sums = now if self.sums is None else tuple(map(torch.add, self.sums, now))  # type: ignore[assignment]

    def correlations(self) -> NDArray[np.float64]:
        """corr(ours[i], theirs[j]); 0 where one of the two never changes, as a unit that is never active."""
        assert self.sums is not None, "no batch was seen"
        ours, theirs, ours_squared, theirs_squared, products = (each.cpu() / self.count for each in self.sums)
        spreads = _spread(ours, ours_squared), _spread(theirs, theirs_squared)
        found = (products - torch.outer(ours, theirs)) / torch.outer(*spreads)
        return found.nan_to_num(0, 0, 0).numpy()


def _spread(mean: Tensor, square: Tensor) -> Tensor:
    """Standard deviations; 0 where they are no more than rounding."""
    variance = square - mean.square()
    return variance.where(variance > 1e-12 * square, 0).sqrt()
