"""Averages of a model's weights: found by what they are, whatever they are called and wherever they are kept.

An average follows weights without an optimiser: an EMA, a target network, a momentum encoder. A frozen teacher has the
model's names and shapes too, and so has a twin that an optimiser trains; neither is one.
"""

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.swa_utils import AveragedModel

from tombola import weights
from tombola.search.state import Loop
from tombola.weights import Weights

_FEW = 8  # numbers that are compared before all are


@dataclass(frozen=True)
class Average:
    """Where an average of the model's weights is, or of a part of them.

    Attributes:
        thing: its place in `also`; None where it is in the model itself, as a target network may be.
        sources: the path of each of its tensors there -> the name of the tensor of the model that it follows.
        known: whether its class says that it is one; else it has to follow its source in level 0.
        begins: whether it begins with the numbers of its sources.
    """

    thing: int | None
    sources: Mapping[str, str]
    known: bool = False
    begins: bool = True


def places(thing: Any) -> dict[str, Tensor]:
    """Each tensor of `thing` by its path: of a module the tensors themselves, of others those in the state_dict."""
    if isinstance(thing, nn.Module):
        own = [*thing.named_parameters(remove_duplicate=False), *thing.named_buffers(remove_duplicate=False)]
        return {path: value.detach() for path, value in own}
    return dict(_below("", thing.state_dict()))


def begun(loop: Loop, names: Sequence[str]) -> tuple[Average, ...]:
    """What may be an average, before the first step: it is in no optimiser and equals the weights that it would follow.

    Args:
        names: the weights that are pruned.
    """
    things = [(number, thing) for number, thing in enumerate(loop.also) if not isinstance(thing, Optimizer)]
    averages = (_averages(number, thing, loop.model, names, loop.trained) for number, thing in things)
    return (*within(loop, names), *(average for part in averages for average in part))


def within(loop: Loop, names: Sequence[str]) -> tuple[Average, ...]:
    """Those of `begun` that are parts of the model itself."""
    return tuple(_averages(None, loop.model, loop.model, names, loop.trained))


def _averages(
    number: int | None, thing: Any, model: nn.Module, names: Sequence[str], trained: Set[Hashable]
) -> Iterator[Average]:
    own = places(model)
    sources = {name: own[name] for name in model.state_dict() if name in own}  # buffers that are not saved are its own
    theirs = _free(thing, trained)
    if thing is model:
        sources = {name: value for name, value in sources.items() if name not in theirs}
    else:
        memory = {value.data_ptr() for value in own.values() if value.numel()}
        theirs = {path: value for path, value in theirs.items() if value.data_ptr() not in memory}
    known = list(_by_class(number, thing, model, theirs))
    yield from known
    taken = {path for average in known for path in average.sources}
    yield from _by_value(number, {p: v for p, v in theirs.items() if p not in taken}, sources, names)


def _free(thing: Any, trained: Set[Hashable]) -> dict[str, Tensor]:
    """The tensors of `thing` that no optimiser trains."""
    free = places(thing)
    if isinstance(thing, nn.Module):
        own = thing.named_parameters(remove_duplicate=False)
        held = {path for path, value in own if weights.place(value) in trained}
        free = {path: value for path, value in free.items() if path not in held}
    return {path: value for path, value in free.items() if value.layout is torch.strided}


def _by_class(number: int | None, thing: Any, model: nn.Module, theirs: Weights) -> Iterator[Average]:
    """torch's own averages: they may begin anywhere."""
    for path, module in thing.named_modules() if isinstance(thing, nn.Module) else ():
        if not isinstance(module, AveragedModel):
            continue
        shapes = _shapes(module.module)
        start = next((f"{at}." if at else "" for at, part in model.named_modules() if _shapes(part) == shapes), None)
        if start is not None:
            prefix = f"{path}.module." if path else "module."
            sources = {f"{prefix}{name}": f"{start}{name}" for name in shapes if f"{prefix}{name}" in theirs}
            yield Average(number, sources, known=True)


def _by_value(number: int | None, theirs: Weights, sources: Weights, names: Sequence[str]) -> Iterator[Average]:
    """Tensors that hold the numbers of weights which are pruned, and those of the other tensors beside them."""
    pruned = {name: sources[name] for name in names if name in sources}
    equal = {path: [name for name, own in pruned.items() if _equal(value, own)] for path, value in theirs.items()}
    # What holds one number throughout, as zeros, is equal by chance.
    equal = {path: own for path, own in equal.items() if own and _varied(theirs[path])}
    groups: dict[tuple[str, str], dict[str, str]] = {}
    for path, name in _paired(equal).items():
        end = _common_end(path, name)
        at = (path.removesuffix(end), name.removesuffix(end)) if end else (path.rpartition(".")[0], "")
        groups.setdefault(at, {})[path] = name
    for (before, start), matched in groups.items():
        for path, value in theirs.items():
            name = start + path.removeprefix(before)
            if path.startswith(before) and path not in matched and name in sources and _equal(value, sources[name]):
                matched[path] = name
        yield Average(number, matched)


def _paired(equal: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """Each path with one of the names that fit: that which ends most like it, in order where all end alike."""
    paired: dict[str, str] = {}
    used: dict[tuple[str, ...], int] = {}
    for path, names in equal.items():
        lengths = [_likeness(path, name) for name in names]
        best = tuple(name for name, length in zip(names, lengths, strict=True) if length == max(lengths))
        turn = used.get(best, 0)
        used[best] = turn + 1
        paired[path] = best[turn % len(best)]
    return paired


def _likeness(path: str, name: str) -> int:
    """How many letters at their ends are the same, points left out: some write names without them."""
    pairs = zip(reversed(path.replace(".", "")), reversed(name.replace(".", "")), strict=False)
    return next((place for place, (left, right) in enumerate(pairs) if left != right), min(len(path), len(name)))


def _common_end(path: str, name: str) -> str:
    """The dotted parts at their ends that are the same."""
    ours, others = path.split("."), name.split(".")
    length = 0
    while length < min(len(ours), len(others)) and ours[-1 - length] == others[-1 - length]:
        length += 1
    return ".".join(ours[len(ours) - length :])


def _equal(value: Tensor, own: Tensor) -> bool:
    if value.shape != own.shape or value.is_floating_point() != own.is_floating_point() or value.is_meta:
        return False
    value = value.to(own.device)
    if value.dtype.itemsize > own.dtype.itemsize:  # averages may be kept in more digits
        value = value.to(own.dtype)
    own = own.to(value.dtype)
    few = slice(_FEW)
    return torch.equal(value.flatten()[few], own.flatten()[few]) and torch.equal(value, own)


def _varied(value: Tensor) -> bool:
    return bool((value != value.flatten()[:1]).any())


def _shapes(module: nn.Module) -> dict[str, torch.Size]:
    return {name: value.shape for name, value in module.state_dict().items() if isinstance(value, Tensor)}


def _below(path: str, value: Any) -> Iterator[tuple[str, Tensor]]:
    if isinstance(value, Tensor):
        yield path, value.detach()
    parts = value.items() if isinstance(value, Mapping) else enumerate(value) if isinstance(value, list | tuple) else ()
    for key, part in parts:
        yield from _below(f"{path}.{key}" if path else str(key), part)


def followed(averages: Sequence[Average], loop: Loop, before: Sequence[Weights], names: Weights) -> tuple[Average, ...]:
    """What is an average, after level 0: what has moved since it began; and mappings of the model's names that have.

    Args:
        before: what each of `also` held when level 0 began, and at last the model; see `held`.
    """
    moved = [each for each in averages if each.known or has_moved(each, loop, before)]
    for number, thing in enumerate(loop.also):
        if not isinstance(thing, nn.Module | Optimizer):
            taken = {path for average in moved if average.thing == number for path in average.sources}
            rest = {path: value for path, value in places(thing).items() if path not in taken}
            others = (Average(number, sources, begins=False) for sources in _tables(rest, names))
            moved += [each for each in others if has_moved(each, loop, before)]
    return tuple(moved)


def held(averages: Sequence[Average], loop: Loop) -> list[Weights]:
    """Copies of what each of `also` holds, and at last of what the model does, where an average may be in it."""
    own = any(average.thing is None for average in averages) or bool(twins(loop))
    things = [{} if isinstance(thing, Optimizer) else places(thing) for thing in loop.also]
    held = [*things, places(loop.model) if own else {}]
    return [{path: value.clone() for path, value in each.items()} for each in held]


def has_moved(average: Average, loop: Loop, before: Sequence[Weights]) -> bool:
    """Whether it holds other numbers than `before`, as `held` has them."""
    then = before[-1 if average.thing is None else average.thing]
    now = _free(_thing(average, loop), loop.trained)  # without what was frozen at first, and is trained by now
    return any(path in now and not (path in then and torch.equal(now[path], then[path])) for path in average.sources)


def place_of(average: Average, loop: Loop) -> str:
    """Where it is, for people."""
    if average.thing is None:
        return next(iter(average.sources))
    return _also(average.thing, loop)


def _also(number: int, loop: Loop) -> str:
    return f"also[{number - loop.listed}] ({type(loop.also[number]).__name__})"


def _thing(average: Average, loop: Loop) -> Any:
    return loop.model if average.thing is None else loop.also[average.thing]


def _tables(theirs: Weights, names: Weights) -> Iterator[dict[str, str]]:
    """Mappings with all names and shapes of the weights that are pruned."""
    first = next(iter(names))
    for path in theirs:
        prefix = path.removesuffix(first)
        if path == prefix + first and prefix[-1:] in ("", "."):
            sources = {f"{prefix}{name}": name for name in names}
            if all(at in theirs and theirs[at].shape == names[name].shape for at, name in sources.items()):
                yield sources


def twins(loop: Loop) -> dict[str, str]:
    """Parts of the model that no optimiser trains -> another part, of the same names and shapes, that is trained.

    Single layers are none, and those of a list neither: some of these may be frozen.
    """
    trained, ours, theirs = loop.trained, dict[str, dict[str, torch.Size]](), dict[str, dict[str, torch.Size]]()
    for path, module in loop.model.named_modules():
        own = {weights.place(parameter) for parameter in module.parameters()}
        if own and any(module.children()) and not path.rpartition(".")[2].isdigit():
            (theirs if own.isdisjoint(trained) else ours)[path] = _shapes(module)
    pairs = ((part, path) for part, shapes in theirs.items() for path, other in ours.items() if shapes == other)
    return dict(reversed(list(pairs)))


def unlike(averages: Sequence[Average], loop: Loop, before: Sequence[Weights]) -> dict[str, str]:
    """What is no average as it began, and yet follows something: nobody trains it, and it has changed.

    Returns:
        what it is -> whose names and shapes it has.
    """
    shapes = _shapes(loop.model)
    beside = [
        number
        for number, thing in enumerate(loop.also)
        if isinstance(thing, nn.Module)
        and not any(average.thing == number for average in averages)
        and any(_shapes(part) == shapes for part in thing.modules())
        and loop.trained.isdisjoint(map(weights.place, thing.parameters()))
        and any(not torch.equal(value, before[number][path]) for path, value in thing.named_parameters())
    ]
    taken = {path for average in averages if average.thing is None for path in average.sources}
    changed = [
        name
        for name, value in loop.model.named_parameters()
        if name not in taken and name in before[-1] and not torch.equal(value, before[-1][name])
    ]
    inside = {
        part: f"of {path}" for part, path in twins(loop).items() if any(name.startswith(f"{part}.") for name in changed)
    }
    return {_also(number, loop): "of the model" for number in beside} | inside


def change(averages: Sequence[Average], loop: Loop, made: Callable[[str, Tensor], Tensor | None]) -> None:
    """Put into each tensor of the averages what `made` makes of its source's name and itself; None leaves it."""
    for average in averages:
        thing = _thing(average, loop)
        new = {
            path: value
            for path, old in places(thing).items()
            if path in average.sources and (value := made(average.sources[path], old)) is not None
        }
        if not new:
            continue
        if isinstance(thing, nn.Module):
            with torch.no_grad():
                for path, value in places(thing).items():
                    if path in new:
                        value.copy_(new[path])
        else:
            thing.load_state_dict(_changed("", thing.state_dict(), new))


def _changed(path: str, value: Any, new: Weights) -> Any:
    def part(key: object, each: Any) -> Any:
        return _changed(f"{path}.{key}" if path else str(key), each, new)

    if path in new:
        return new[path]
    if isinstance(value, Mapping):
        return {key: part(key, each) for key, each in value.items()}
    if isinstance(value, list):
        return [part(place, each) for place, each in enumerate(value)]
    return tuple(part(place, each) for place, each in enumerate(value)) if type(value) is tuple else value


def tensors(averages: Sequence[Average], loop: Loop) -> Iterator[tuple[str, Tensor]]:
    """Each tensor of the averages, after the name of its source."""
    for average in averages:
        for path, value in places(_thing(average, loop)).items():
            if path in average.sources:
                yield average.sources[path], value


def coded(averages: Sequence[Average]) -> Any:
    """As JSON has it."""
    return [[average.thing, dict(average.sources), average.known, average.begins] for average in averages]


def decoded(code: Any) -> tuple[Average, ...]:
    """The inverse of `coded`."""
    return tuple(Average(*parts) for parts in code)
