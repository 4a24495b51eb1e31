"""Hidden units of LSTM, GRU and RNN: which say nothing, and the layer without them.

A unit is 0 at every step if it starts at 0 and what it is moved by is: tanh(g), tanh(n) or tanh(W x + U h + b), whose
weights meet only what is 0 and whose biases are 0. Then no other unit hears of it. All layers and directions of one
module are equally wide.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from tombola import weights
from tombola.cash.quantization import RECURRENT

_MOVES = {nn.LSTM: 2, nn.GRU: 2, nn.RNN: 0}  # the gate, by its place among the rows, that a unit is moved by


@dataclass(frozen=True)
class Way:
    """One layer of a recurrent module, in one direction.

    Attributes:
        name: what its parameters end in, `l0` or `l1_reverse`.
        units: hidden ones.
    """

    name: str
    units: int

    def of(self, module: nn.RNNBase, kind: str) -> Tensor:
        """Its `weight_ih`, `bias_hh`, ..., by gate: [gates, units, ...] in float64 on the CPU; biases of 0 if none."""
        value = getattr(module, f"{kind}_{self.name}", None)
        if value is None:
            like = getattr(module, f"weight_ih_{self.name}")
            value = like.new_zeros(len(like))
        by_gate: Tensor = value.detach().cpu().double().unflatten(0, (-1, self.units))
        return by_gate


def ways(module: nn.RNNBase) -> list[list[Way]]:
    """Of each layer its directions."""
    ends = ("", "_reverse")[: 2 if module.bidirectional else 1]
    return [[Way(f"l{layer}{end}", module.hidden_size) for end in ends] for layer in range(module.num_layers)]


def follows(module: nn.Module) -> bool:
    """Whether it is a recurrent module whose outputs are its units: no LSTM with projections, no subclass."""
    return type(module) in RECURRENT and not module.proj_size


def alive(module: nn.RNNBase, way: Way, kind: str) -> Tensor:
    """Whether a unit hears of what the weights `kind` read, [units, inputs or units]."""
    return (way.of(module, kind) != 0).any(dim=0)


def zero(module: nn.RNNBase, way: Way, silent: Tensor) -> Tensor:
    """Whether a unit is 0 at every step, where inputs that are `silent`, [inputs], are; and it starts at 0, [units]."""
    gate = _MOVES[type(module)]
    given, fed, one, other = (way.of(module, kind)[gate] for kind in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"))
    still = (one == 0) & (other == 0) if isinstance(module, nn.GRU) else one + other == 0
    found = still & (given[:, ~silent] == 0).all(dim=1)
    while bool((moved := found & (fed[:, ~found] != 0).any(dim=1)).any()):
        found = found & ~moved
    return found


def unmoved(module: nn.RNNBase, way: Way) -> Tensor:
    """Whether no weight moves a unit: what it is does not depend on the inputs, [units]."""
    return ~(alive(module, way, "weight_ih").any(dim=1) | alive(module, way, "weight_hh").any(dim=1))


@dataclass(frozen=True)
class Kept:
    """What stays of one way.

    Attributes:
        way: of the module as it was.
        rows: units that stay, [units]; among them are some that are to be 0, the `fillers`.
        fillers: [units].
        columns: inputs that stay, [inputs].
        read: those of them that are read.
        constants: of the inputs, 0 where they are not constant.
    """

    way: Way
    rows: Tensor
    fillers: Tensor
    columns: Tensor
    read: Tensor
    constants: Tensor


def shrink(module: nn.RNNBase, kept: Sequence[Kept]) -> None:
    """Take units and inputs from a module; what constant inputs add goes into its biases."""
    for each in kept:
        made = _smaller(module, each)
        for kind, value in made.items():
            _put(module, f"{kind}_{each.way.name}", value)
    tell_sizes(module)


def _smaller(module: nn.RNNBase, kept: Kept) -> dict[str, Tensor]:
    given, fed = (kept.way.of(module, kind).clone() for kind in ("weight_ih", "weight_hh"))
    shift = given[:, :, ~kept.read] @ kept.constants[~kept.read]
    given[:, :, ~kept.read] = 0
    fed[:, :, kept.fillers] = 0
    made = {
        "weight_ih": given[:, :, kept.columns],
        "weight_hh": fed[:, :, kept.rows],
        "bias_ih": kept.way.of(module, "bias_ih") + shift,
        "bias_hh": kept.way.of(module, "bias_hh").clone(),
    }
    for value in made.values():
        value[:, kept.fillers] = 0
    return {
        kind: value[:, kept.rows].flatten(0, 1) for kind, value in made.items() if module.bias or "bias" not in kind
    }


def _put(module: nn.RNNBase, name: str, values: Tensor) -> None:
    old = getattr(module, name)
    setattr(module, name, nn.Parameter(values.to(old).contiguous(), old.requires_grad))


def tell_sizes(module: nn.RNNBase) -> None:
    """Set what a module says of itself to the sizes of its weights."""
    given, fed = module.get_parameter("weight_ih_l0"), module.get_parameter("weight_hh_l0")
    module.input_size, module.hidden_size = given.shape[1], fed.shape[1]
    module.flatten_parameters()


def fit(module: nn.Module, name: str, values: weights.Weights) -> None:
    """Give a recurrent module as many units and inputs as `values` have."""
    if not follows(module):
        return
    shapes: Mapping[str, torch.Size] = {
        own: values[key].shape for own, _ in module.named_parameters() if (key := f"{name}.{own}".lstrip(".")) in values
    }
    if len(shapes) == len(list(module.parameters())):
        for own, shape in shapes.items():
            if len(shape) == getattr(module, own).dim():
                _put(module, own, torch.zeros(shape))  # type: ignore[arg-type]
        tell_sizes(module)  # type: ignore[arg-type]
