"""The state of a model as a value: name -> tensor, parameters and buffers, everything a state_dict holds."""

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from tombola.errors import BadInput
from tombola.seeding import seeded

Weights = Mapping[str, Tensor]


def of(model: nn.Module) -> dict[str, Tensor]:
    """A copy of everything `model.state_dict()` holds, on the CPU, sharing no memory with the model.

    Raises:
        BadInput: some of it is no dense tensor with numbers in it: lazy, sparse, on the meta device.

    >>> model = nn.Linear(2, 1)
    >>> before = of(model)
    >>> _ = nn.init.zeros_(model.weight)
    >>> bool((before["weight"] == 0).any())
    False
    """
    return {
        name: value.detach().cpu().clone(memory_format=torch.contiguous_format) for name, value in _state(model).items()
    }


def own(model: nn.Module) -> dict[str, Tensor]:
    """The tensors of `model.state_dict()`, which are the model's: what is written to them arrives.

    Raises:
        BadInput: some are copies, as a hook on state_dict may give, or nothing that can be written to.
    """
    state = _state(model)
    registered = {place(value) for _, value in _registered(model)}
    again: Weights = {}
    for name, value in state.items():
        check_memory(model, name, value)
        here = place(value)
        if here not in registered and isinstance(here, tuple):
            again = again or model.state_dict()  # a tensor that is kept, if not registered, is given each time
            if place(again[name]) != here:
                raise BadInput(
                    where=f"state_dict of {type(model).__name__}",
                    expected=f"the model's own tensors, so that {name} can be put back",
                    found="a copy, as of a hook that casts or offloads it",
                    todo="Take off what changes the state_dict, or hand in the module that holds the weights.",
                )
    return state


def _state(model: nn.Module) -> dict[str, Tensor]:
    """Its state_dict, in which each entry is a dense tensor that has numbers."""
    state: dict[str, Tensor] = dict(model.state_dict())
    for name, value in state.items():
        if not isinstance(value, Tensor):
            raise _unusable(
                type(model).__name__, name, type(value).__name__, "Keep out of the state_dict what is no tensor."
            )
        if is_lazy(value):
            raise _unusable(type(model).__name__, name, *_LAZY)
        check_dense(type(model).__name__, name, value)
        if value.is_meta:
            raise _unusable(type(model).__name__, name, *_META)
    return state


_LAZY = ("a lazy layer before its first forward pass", "Let a batch through it first.")
_META = ("one on the meta device, without numbers", "Load the model, or stop offloading it, first.")


def check_dense(owner: str, name: str, value: Tensor) -> None:
    """Raise BadInput if `value`, the tensor `name` of `owner`, is a sparse one, or of another layout of its own."""
    if value.layout is not torch.strided:
        raise _unusable(
            owner,
            name,
            f"one of the layout {str(value.layout).removeprefix('torch.')}",
            "Keep it out of the state_dict: register_buffer(name, value, persistent=False).",
        )


def check_memory(model: nn.Module, name: str, value: Tensor) -> None:
    """Raise BadInput unless `value`, the tensor `name` of `model`, has memory for each of its numbers."""
    if is_lazy(value):
        raise _unusable(type(model).__name__, name, *_LAZY)
    if value.is_meta:
        raise _unusable(type(model).__name__, name, *_META)
    strided = value.layout is torch.strided
    if strided and any(size > 1 and not stride for size, stride in zip(value.shape, value.stride(), strict=True)):
        raise _unusable(type(model).__name__, name, "an expanded one", "Clone it where it is made.")


def check_bias(layer: str, shapes: Mapping[str, torch.Size]) -> None:
    """Raise BadInput unless a layer's `bias` has a number for each output of its `weight`: a file may say anything."""
    weight, bias = shapes.get("weight"), shapes.get("bias")
    if weight is not None and bias is not None and (not weight or bias != weight[:1]):
        raise BadInput(
            where=layer,
            expected="a bias with a number for each output of its weight",
            found=f"a weight of {tuple(weight)} and a bias of {tuple(bias)}",
            todo="These weights are of no model: get the file anew.",
        )


def _unusable(owner: str, name: str, found: str, todo: str) -> BadInput:
    expected = "a tensor that has a shape, and memory for each of its numbers"
    return BadInput(where=f"{name} of {owner}", expected=expected, found=found, todo=todo)


def place(tensor: Tensor) -> Hashable:
    """Where the numbers of a tensor are: two tensors of one place are one, whichever objects hold them.

    It is a tuple, of the address, the shape and the strides; where a tensor has no storage, it is of the object alone.

    >>> one = torch.zeros(2, 2)
    >>> place(one) == place(one.detach()), place(one) == place(one.t())
    (True, False)
    """
    try:
        if tensor.layout is torch.strided and not is_lazy(tensor) and tensor.numel():
            stride = tuple(step for size, step in zip(tensor.shape, tensor.stride(), strict=True) if size > 1)
            here = region(tensor)
            return here.memory, here.start, tensor.shape, stride, tensor.dtype
    except (RuntimeError, NotImplementedError):  # some subclasses of tensors have no storage
        pass
    return id(tensor)


@dataclass(frozen=True)
class Region:
    """The bytes of a tensor.

    Attributes:
        memory: in what they are: a device, over one memory of which may be several storages, as NumPy's; or, where
            there are no addresses, one storage.
        start, end: where in that the first byte is, and the one behind the last.
    """

    memory: Hashable
    start: int
    end: int

    def meets(self, other: "Region") -> bool:
        """Whether a byte may be in both; columns of one matrix lie between each other and count as meeting."""
        return self.memory == other.memory and self.start < other.end and other.start < self.end


def region(tensor: Tensor) -> Region:
    """Where the bytes of a strided tensor are.

    >>> table = torch.zeros(4, 2)
    >>> region(table).meets(region(table[1:])), region(table[:2]).meets(region(table[2:]))
    (True, False)
    """
    last = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    address = 0 if tensor.is_meta else tensor.data_ptr()
    memory: Hashable = str(tensor.device) if address else tensor.untyped_storage()._cdata
    start = int(address or tensor.storage_offset() * tensor.element_size())
    return Region(memory, start, start + (last + 1) * tensor.element_size())


def _registered(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    return chain(model.named_parameters(remove_duplicate=False), model.named_buffers(remove_duplicate=False))


def bare(model: nn.Module) -> nn.Module:
    """`model` without what torch wraps around it, which renames its weights: compilation, several processes.

    >>> model = nn.Linear(2, 1)
    >>> bare(nn.DataParallel(model)) is model
    True
    """
    while True:
        if isinstance(model, nn.parallel.DistributedDataParallel | nn.DataParallel):
            model = model.module
        elif isinstance(inner := getattr(model, "_orig_mod", None), nn.Module):  # of torch.compile
            model = inner
        elif type(model).__name__ == "_FabricModule" and isinstance(model.module, nn.Module):  # of Lightning's Fabric
            model = model.module
        else:
            check(model)
            return model


def check(model: object) -> None:
    """Raise BadInput unless it is a model: what else is handed in has changed places with it, mostly."""
    if not isinstance(model, nn.Module):
        raise BadInput(
            where="model",
            expected="a model, an nn.Module",
            found=f"the class {model.__name__}" if isinstance(model, type) else f"a {type(model).__name__}",
            todo="The model itself comes first, then what belongs to it.",
        )


def ties(model: nn.Module) -> dict[str, str]:
    """Each further name of a tied tensor of `model` -> its first name, under which a mask has it.

    Tied are names of one tensor, and of several over one memory, of one shape and one order in it.

    >>> model = nn.Sequential(nn.Embedding(5, 3), nn.Linear(3, 5, bias=False))
    >>> model[1].weight = model[0].weight
    >>> ties(model)
    {'1.weight': '0.weight'}
    """
    first: dict[Hashable, str] = {}
    saved = model.state_dict().keys()  # which has no buffers that are not to be saved
    kept = ((name, place(value)) for name, value in _registered(model) if name in saved)
    return {name: first[where] for name, where in kept if first.setdefault(where, name) != name}


def overlapping(model: nn.Module) -> Iterator[tuple[str, str]]:
    """Pairs of parameters of `model` that share some of their memory without being tied, by their names.

    >>> model = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False))
    >>> model[1].weight = nn.Parameter(model[0].weight.detach().t())
    >>> list(overlapping(model))
    [('0.weight', '1.weight')]
    """
    stored: dict[Hashable, list[tuple[str, Tensor]]] = {}
    for name, value in model.named_parameters():
        if isinstance(place(value), tuple):
            stored.setdefault(region(value).memory, []).append((name, value))
    for neighbours in stored.values():
        before: list[tuple[str, Tensor]] = []
        for right, other in sorted(neighbours, key=lambda pair: region(pair[1]).start):
            before = [(left, one) for left, one in before if region(one).end > region(other).start]
            for left, one in before:
                if place(one) != place(other) and _meet(one, other):
                    yield left, right
            before.append((right, other))


def _meet(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors on one device have a byte in common."""
    left, right = region(one), region(other)
    if not left.meets(right):
        return False
    start = min(left.start, right.start)
    taken = torch.zeros(max(left.end, right.end) - start, dtype=torch.bool)
    for each in (one, other):
        size = each.element_size()
        steps = [stride * size for stride in each.stride()]
        mine = taken.as_strided((*each.shape, size), (*steps, 1), region(each).start - start)
        if each is other:
            return bool(mine.any())
        mine.fill_(True)
    return False


def put(model: nn.Module, weights: Weights) -> None:
    """Write `weights` into `model`: every entry of its state_dict, by copy.

    The values are copied, never aliased, so that training the model leaves `weights` as they were and the same
    weights can be put back any number of times.

    Raises:
        BadInput: names or shapes differ, of which the first are named; or what is written would not arrive.
    """
    mine = own(model)
    fit(mine, weights, f"weights of {type(model).__name__}")
    written: set[Hashable] = set()
    with torch.no_grad():
        for name, value in mine.items():
            # Tied weights are one tensor under several names; it takes what its first name says, as a mask does.
            if place(value) not in written:
                written.add(place(value))
                value.copy_(weights[name])


def fit(own: Weights, other: Weights, where: str) -> None:
    """Raise BadInput, naming the first that differ, unless `other` has the names and shapes of `own`."""
    differing = [
        name
        for name in {**own, **other}
        if name not in own or name not in other or own[name].shape != other[name].shape
    ]
    if differing:
        raise BadInput(
            where=where,
            expected=_listed(own, differing),
            found=_listed(other, differing),
            todo="These weights belong to another model.",
        )


def derived(
    function: Callable[..., Weights], start: Weights, seed: int, *beside: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Return the weights that a function makes of others; what it draws begins at the seed, and `start` stays.

    Args:
        function: of weights, what is `beside` them, and a seed.
        start: weights by name.
        seed: 0 <= seed < 2^63.
        beside: further weights, and masks, which are the function's own.

    Raises:
        BadInput: what it returns differs from `start` in a name, a shape or a type, or is not finite.

    >>> derived(lambda weights, seed: {name: -value for name, value in weights.items()}, {"w": torch.ones(2)}, 0)
    {'w': tensor([-1., -1.])}
    """
    with seeded(seed):
        made = function({name: value.clone() for name, value in start.items()}, *beside, seed)
    maker = f"what {getattr(function, '__name__', 'the function')} makes"
    if not isinstance(made, Mapping) or not all(isinstance(value, Tensor) for value in made.values()):
        raise _not_derived(maker, "tensors by name", type(made).__name__)
    fit(start, made, maker)
    for name, value in made.items():
        if value.dtype != start[name].dtype or not bool(value.isfinite().all()):
            found = "NaN or infinity" if value.dtype == start[name].dtype else str(value.dtype)
            raise _not_derived(f"{name} of {maker}", f"finite numbers of type {start[name].dtype}", found)
    return {name: made[name].detach().cpu().clone(memory_format=torch.contiguous_format) for name in start}


def _not_derived(where: str, expected: str, found: str) -> BadInput:
    todo = "Return all weights, those that stay too: {**weights, name: ...}."
    return BadInput(where=where, expected=expected, found=found, todo=todo)


def _listed(weights: Weights, names: list[str]) -> str:
    return ", ".join(f"{name} {tuple(weights[name].shape)}" if name in weights else f"no {name}" for name in names[:3])


def below(prefix: str, tensors: Weights) -> dict[str, Tensor]:
    """The tensors whose names begin with `prefix`, by the rest of their names."""
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def equal(left: Weights, right: Weights) -> bool:
    """Whether two weights hold the same names and the same numbers, bit for bit but for the sign of 0.

    >>> equal({"w": torch.zeros(2)}, {"w": torch.zeros(2)})
    True
    """
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


def interpolate(left: Weights, right: Weights, alpha: float) -> dict[str, Tensor]:
    """(1 - alpha) left + alpha right, over every entry that holds real numbers; shares no memory with either.

    Counters and other entries that are no real numbers are those of `left`, as there is nothing between two of them.
    At alpha = 0 and alpha = 1 every entry has the very bytes of `left` or of `right`, counters too.

    Args:
        left, right: the weights of two networks of one architecture.
        alpha: where on the line, in [0, 1].

    Raises:
        BadInput: names or shapes differ.

    Linear Mode Connectivity and the Lottery Ticket Hypothesis (Frankle, Dziugaite, Roy & Carbin, 2020).

    >>> interpolate({"w": torch.tensor([0.0, 4.0])}, {"w": torch.tensor([8.0, 4.0])}, alpha=0.25)
    {'w': tensor([2., 4.])}
    """
    fit(left, right, "the right end of the line")
    if alpha in (0, 1):  # not by arithmetic, which would turn -0 into 0
        return {name: (right if alpha else left)[name].clone() for name in left}

    def between(name: str, value: Tensor) -> Tensor:
        # lerp leaves what both ends share as it is, bit for bit; (1 - alpha) x + alpha x would round.
        return value.lerp(right[name], alpha) if value.is_floating_point() else value.clone()

    return {name: between(name, value) for name, value in left.items()}


def average(several: Sequence[Weights]) -> dict[str, Tensor]:
    """The mean of several weights, over every entry that holds real numbers, computed in float64.

    Counters and other entries that are no real numbers are those of the first.

    Args:
        several: the weights of networks of one architecture, one at least.

    Raises:
        BadInput: names or shapes differ.

    >>> average([{"w": torch.tensor([0.0, 4.0])}, {"w": torch.tensor([8.0, 4.0])}])
    {'w': tensor([4., 4.])}
    """
    first, *others = several
    for other in others:
        fit(first, other, "the weights of an average")

    def mean(name: str, value: Tensor) -> Tensor:
        if not value.is_floating_point():
            return value.clone()
        return torch.stack([each[name].double() for each in several]).mean(0).to(value.dtype)

    return {name: mean(name, value) for name, value in first.items()}


def bits(value: Tensor) -> Tensor:
    """Return `value`, or the bytes of its numbers where torch fills and scatters no such type: all bits of +0 are 0."""
    return value.view(torch.uint8) if str(value.dtype).startswith("torch.float8_") else value
