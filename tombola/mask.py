"""Which weights are alive: name -> bool tensor over the prunable weights of a model, True = alive.

A mask is a value beside a plain `nn.Module`: no wrapper, no buffer, no renamed key. It is checked when it is made
and must not be written to; pruning makes another one.
"""

import difflib
from collections.abc import Hashable, Iterator, Mapping, Sequence
from math import prod

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from tombola import layers
from tombola import weights as states
from tombola.errors import BadInput, shown
from tombola.layers import Kind
from tombola.names import named
from tombola.weights import Weights

WITHOUT_ZERO = ("float8_e8m0fnu", "float4_e2m1fn_x2")  # powers of 2 alone; two numbers in one place


class Mask(Mapping[str, Tensor]):
    """An immutable map from the name of a weight to a bool tensor of its shape, True where it is alive.

    >>> mask = Mask({"weight": torch.tensor([True, False, True, True])})
    >>> mask
    Mask(4 weights, density 0.75)
    """

    __slots__ = ("_layers",)

    def __init__(self, layers: Mapping[str, Tensor]) -> None:
        if not isinstance(layers, Mapping):
            raise BadInput(
                where="Mask",
                expected="a mapping from names of weights to tensors of bool",
                found=type(layers).__name__,
                todo="Mask({'fc.weight': alive}), for one.",
            )
        for name, alive in layers.items():
            if not isinstance(alive, Tensor) or alive.dtype != torch.bool:
                array = isinstance(alive, np.ndarray)
                raise BadInput(
                    where=f"mask of {name}",
                    expected="a tensor of bool",
                    found=f"an array of NumPy, {alive.dtype}"
                    if array
                    else str(alive.dtype)
                    if isinstance(alive, Tensor)
                    else shown(repr(alive)),
                    todo="torch.from_numpy(array != 0) makes one." if array else "Compare or convert it first.",
                )
        self._layers = {name: alive.detach().cpu().clone() for name, alive in layers.items()}

    @staticmethod
    def check(found: object) -> None:
        """Raise BadInput if it is no mask."""
        if not isinstance(found, Mask):
            todo = "tombola.Mask(it) makes one." if isinstance(found, Mapping) else "A ticket's is ticket.mask."
            raise BadInput(where="mask", expected="a Mask", found=type(found).__name__, todo=todo)

    def __getitem__(self, name: str) -> Tensor:
        return self._layers[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._layers)

    def __len__(self) -> int:
        return len(self._layers)

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Mask)
            and list(self) == list(other)
            and all(torch.equal(self[name], other[name]) for name in self)
        )

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"Mask({self.total:,} weights, density {self.density:.3g})"

    @property
    def alive(self) -> int:
        """||m||_0, the number of living weights."""
        return sum(self.counts.values())

    @property
    def total(self) -> int:
        """|theta|, the number of prunable weights."""
        return sum(alive.numel() for alive in self._layers.values())

    @property
    def density(self) -> float:
        """P_m = ||m||_0 / |theta|, the fraction of prunable weights that are alive."""
        return self.alive / self.total if self.total else 1.0

    @property
    def counts(self) -> dict[str, int]:
        """The number of living weights in each layer."""
        return {name: int(alive.sum()) for name, alive in self._layers.items()}


def prunable(model: nn.Module, include: Sequence[str] = ()) -> dict[str, Kind]:
    """The weights of `model` that may be pruned, each with its kind, in the order of its modules.

    Weights of linear, convolution, embedding and attention-projection layers (`tombola.layers`); never norms or biases
    that are not named. Rows of an embedding that stand for padding are among them, 0 from the start and so the first
    to go. A tensor that two names share (tied weights) counts once, under its first name. The linear layer that is
    registered last is the `output`, also where its weight is an embedding's: then that has its kind.

    Args:
        include: parameters of other modules that may be pruned too, of kind `named`: recurrent weights, a graph
            layer's, a stack of experts. Names, or patterns of the names of those with two dimensions or more.

    Raises:
        BadInput: an entry of `include` names no such parameter.

    >>> prunable(nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(8, 4), nn.Linear(4, 2)))
    {'0.weight': 'conv', '3.weight': 'linear', '4.weight': 'output'}
    >>> prunable(nn.GRU(2, 3), include=["weight_*"])
    {'weight_ih_l0': 'named', 'weight_hh_l0': 'named'}
    """
    found: dict[str, Kind] = {}
    # The name under which a tensor was met first; and the tensor, lest another one that is computed takes its place.
    first: dict[Hashable, tuple[str, Tensor]] = {}
    last = ""
    more = _included(model, include)
    for path, module in model.named_modules():
        row = layers.row(module)
        # A weight that is computed from others is an attribute and no parameter.
        own = {name: getattr(module, name) for name in row.weights} if row else {}
        own |= {name: value for name, value in module.named_parameters(recurse=False) if states.place(value) in more}
        for name, parameter in own.items():
            if parameter is None:
                continue
            listed = row and name in row.weights
            full_name, _ = first.setdefault(states.place(parameter), (f"{path}.{name}" if path else name, parameter))
            found.setdefault(full_name, row.kind if row and listed else "named")
            last = full_name if row and listed and row.kind == "linear" else last
    if last:
        found[last] = "output"
    return found


def _included(model: nn.Module, include: Sequence[str]) -> set[Hashable]:
    """The places of the parameters that are named."""
    parameters = dict(model.named_parameters(remove_duplicate=False))
    more: set[Hashable] = set()
    for entry in include:
        meant = named([entry], {name: "" for name, each in parameters.items() if each.dim() > 1 or name == entry})
        if not meant:
            vectors = named([entry], dict.fromkeys(parameters, ""))
            matrices = [name for name, each in parameters.items() if each.dim() > 1]
            close = difflib.get_close_matches(entry, matrices, n=3, cutoff=0.4)
            raise BadInput(
                where="prune",
                expected=f"names of parameters of {type(model).__name__}, or patterns of names of matrices",
                found=f"{entry!r}, which names {'only vectors' if vectors else 'nothing'}",
                todo=f"Name each vector by its whole name, as {min(vectors)}."
                if vectors
                else f"Did you mean {' or '.join(close)}?"
                if close
                else "* stands for anything, as in gru.*",
            )
        more |= {states.place(parameters[name]) for name in meant}
    return more


def full(model: nn.Module, include: Sequence[str] = ()) -> Mask:
    """The mask of the dense network: every prunable weight alive, those that `include` names too.

    Raises:
        BadInput: one of them is computed from others, as by weight_norm; or `include` names nothing.
    """
    parameters = dict(model.named_parameters(remove_duplicate=False))
    names = prunable(model, include)
    if computed := next((name for name in names if name not in parameters), None):
        raise _computed(model, computed)
    return checked(Mask({name: torch.ones(parameters[name].shape, dtype=torch.bool) for name in names}), model)


def checked(mask: Mask, model: nn.Module) -> Mask:
    """`mask`, once it is found to be one of `model`, under the first name of each weight that has several.

    Every door that takes a mask beside a model asks here, and goes on with what it is given back.

    Args:
        mask: over all parameters of `model` that may be pruned, or over some.
        model: as it is, compiled, or wrapped for several processes.

    Raises:
        BadInput: the mask names what is no parameter of the model, or not of its shape; two masks of one tied weight
            differ; or a weight shares a part of its memory with another.

    >>> model = nn.Sequential(nn.Embedding(2, 1), nn.Linear(1, 2, bias=False))
    >>> model[1].weight = model[0].weight
    >>> list(checked(Mask({"1.weight": torch.tensor([[True], [False]])}), model))
    ['0.weight']
    """
    Mask.check(mask)
    model = states.bare(model)
    parameters = dict(model.named_parameters(remove_duplicate=False))
    for name, alive in mask.items():
        if name not in parameters and _is_computed(model, name):
            raise _computed(model, name)
        if name not in parameters or is_lazy(parameters[name]) or parameters[name].shape != alive.shape:
            raise _foreign(f"a weight of {type(model).__name__}", name, alive, parameters)
    tied = states.ties(model)
    found: dict[str, Tensor] = {}
    for name, alive in mask.items():
        first = tied.get(name, name)
        if not torch.equal(found.setdefault(first, alive), alive):
            raise BadInput(
                where=f"mask of {name}",
                expected=f"the mask of {first}, as both are names of one tensor",
                found="another one",
                todo="Give one mask, under either name.",
            )
    for left, right in states.overlapping(model):
        if not found.keys().isdisjoint((tied.get(left, left), tied.get(right, right))):
            raise BadInput(
                where=f"{right} of {type(model).__name__}",
                expected="weights with memory of their own",
                found=f"a view into that of {left}: to prune one prunes the other",
                todo="Share the Parameter itself, and transpose or cut it in forward; or clone it.",
            )
    return mask if found.keys() == mask.keys() else Mask(found)


def _computed(model: nn.Module, name: str) -> BadInput:
    return BadInput(
        where=f"{name} of {type(model).__name__}",
        expected="a parameter",
        found="a weight that is computed from others (by weight_norm, spectral_norm, torch.nn.utils.prune, ...)",
        todo="Remove what computes it first, with the `remove` function of what put it there.",
    )


def _is_computed(model: nn.Module, name: str) -> bool:
    path, _, own = name.rpartition(".")
    module = dict(model.named_modules()).get(path)
    if module is None:
        return False
    return own in getattr(module, "parametrizations", ()) or any(
        f"{own}{end}" in module._parameters
        for end in ("_orig", "_g")  # as torch.nn.utils leaves them
    )


def _foreign(expected: str, name: str, alive: Tensor, known: Mapping[str, Tensor]) -> BadInput:
    shape = f"{name} {tuple(alive.shape)}"
    if name not in known:
        names = ", ".join(list(known)[:3]) + (", ..." if len(known) > 3 else "")
        found = f"{shape}, where the names are {names}" if known else f"{shape}, where there are none"
    else:
        own = known[name]
        found = f"{shape}, which is {'lazy' if is_lazy(own) else tuple(own.shape)} there"
    todo = "The mask belongs to another model."
    return BadInput(where=f"mask of {name}", expected=expected, found=found, todo=todo)


def suits(mask: Mask, weights: Weights) -> None:
    """Raise BadInput unless all that `mask` names is in `weights`, in its shape: nothing broadcasts, or is left out."""
    Mask.check(mask)
    for name, alive in mask.items():
        if name not in weights or weights[name].shape != alive.shape:
            raise _foreign("one of the weights", name, alive, weights)
        if str(weights[name].dtype).removeprefix("torch.") in WITHOUT_ZERO:
            raise BadInput(
                where=f"mask of {name}",
                expected="a weight of a type that has a number 0, each in its own place",
                found=str(weights[name].dtype),
                todo="Convert it first, or keep it out of the mask.",
            )


def nested(inner: Mask, outer: Mask) -> bool:
    """Whether every weight alive in `inner` is alive in `outer`."""
    return list(inner) == list(outer) and all(bool((inner[name] <= outer[name]).all()) for name in inner)


def overlap(left: Mask, right: Mask) -> float:
    """How alike two masks are: |left and right| / |left or right|, in [0, 1] (Jaccard).

    Two independent masks of density d overlap by chance d / (2 - d).
    """
    both = sum(int((left[name] & right[name]).sum()) for name in left)
    either = sum(int((left[name] | right[name]).sum()) for name in left)
    return both / either if either else 1.0


def shuffle(mask: Mask, mask_seed: int) -> Mask:
    """The same layer-wise counts elsewhere: in each layer the entries of `mask`, permuted.

    The control that keeps how many weights each layer has and forgets which.
    """
    generator = torch.Generator().manual_seed(mask_seed)

    def permuted(alive: Tensor) -> Tensor:
        return alive.flatten()[torch.randperm(alive.numel(), generator=generator)].view_as(alive)

    return Mask({name: permuted(alive) for name, alive in mask.items()})


def random_like(mask: Mask, mask_seed: int) -> Mask:
    """A random mask with the layer-wise counts of `mask`.

    Each weight has a place in one random order drawn from `mask_seed`; the first ones of each layer live. Masks drawn
    with one seed therefore nest whenever the counts do, as the levels of a search do.
    """
    generator = torch.Generator().manual_seed(mask_seed)

    def drawn(alive: Tensor) -> Tensor:
        order = torch.randperm(alive.numel(), generator=generator)
        living = torch.zeros(alive.numel(), dtype=torch.bool)
        living[order[: int(alive.sum())]] = True
        return living.view_as(alive)

    return Mask({name: drawn(alive) for name, alive in mask.items()})


def apply(weights: Weights, mask: Mask) -> dict[str, Tensor]:
    """m ⊙ theta: a copy of `weights` in which every pruned weight is exactly +0.

    Raises:
        BadInput: the mask names what is not among the weights, or not of its shape.
    """
    suits(mask, weights)
    return {
        name: _bits(value).masked_fill(~mask[name], 0).view(value.dtype) if name in mask else value.clone()
        for name, value in weights.items()
    }


def _bits(value: Tensor) -> Tensor:
    """`value`, or where torch fills and scatters no such type the bytes of its numbers: all bits of +0 are 0."""
    return value.view(torch.uint8) if str(value.dtype).startswith("torch.float8_") else value


def compress(weights: Weights, mask: Mask) -> dict[str, Tensor]:
    """Only what lives: each masked weight as the vector of its living values, in flat order.

    Raises:
        BadInput: the mask names what is not among the weights, or not of its shape.
    """
    suits(mask, weights)
    return {name: value[mask[name]] if name in mask else value for name, value in weights.items()}


def expand(living: Weights, mask: Mask) -> dict[str, Tensor]:
    """The inverse of `compress`: full tensors again, exactly 0 where pruned.

    Raises:
        ValueError: there are fewer values than places, or more, or none at all for a mask.
    """

    def restored(name: str, values: Tensor) -> Tensor:
        if name not in mask:
            return values
        places = int(mask[name].sum())
        if values.shape != (places,):
            raise ValueError(f"expected {places} values for the mask of {name}, found {tuple(values.shape)}")
        full = torch.zeros(mask[name].shape, dtype=_bits(values).dtype)
        return full.masked_scatter(mask[name], _bits(values)).view(values.dtype)

    if missing := mask.keys() - living.keys():
        raise ValueError(f"expected values for the mask of {min(missing)}, found none")
    return {name: restored(name, values) for name, values in living.items()}


def pack(mask: Mask) -> dict[str, Tensor]:
    """One bit a weight: each layer as uint8, eight flags a byte, the first flag in the highest bit."""
    return {name: torch.from_numpy(np.packbits(alive.numpy())) for name, alive in mask.items()}


def unpack(packed: Weights, shapes: Mapping[str, tuple[int, ...]]) -> Mask:
    """The inverse of `pack`, given each layer's shape.

    Raises:
        ValueError: there are too few bits, or too many, for a shape.
    """

    def flags(name: str) -> Tensor:
        size = prod(shapes[name])
        if packed[name].shape != (-(-size // 8),):  # before anything is made of that size
            raise ValueError(f"expected {size} bits for the mask of {name}, found {8 * packed[name].numel()}")
        bits = np.unpackbits(packed[name].numpy(), count=size)
        return torch.from_numpy(bits.astype(bool)).reshape(shapes[name])

    return Mask({name: flags(name) for name in shapes})
