"""Elastic tickets: one network's ticket stretched or squeezed into a ticket of another member of its family.

The Elastic Lottery Ticket Hypothesis (Chen, Cheng, Wang, Gan, Liu & Wang, 2021): blocks of the source (theta_k, m) are
replicated or dropped, which gives g(theta_k, m) and h(theta_k, m) for a deeper or a shallower target. A block is a
residual block, a convolution with its normalisation, a fully connected layer, a transformer's block. What is copied is
copied whole, by one rule: weights, biases, normalisations with their statistics and counters, and masks.

A map says which: `"0:0;1:1,3;2:2,4"`, source block : target blocks, counted from 0 in each stage; one for all stages,
or one for each, with `|` between them; a rule's name is one, too. A stage is what the names of blocks say, or else a
run of blocks with equally many outputs. Where a stage begins with a block of another form, as one that halves maps,
every first block goes to the first one alone, as in the paper. All that is outside of blocks, the first layer and the
last one, is copied by name.

All of it is about names and shapes, so that plans are made without torch.
"""

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any, TypeVar

from tombola.errors import BadInput, shown

if TYPE_CHECKING:
    from torch import Tensor

    from tombola.mask import Mask

Shapes = Mapping[str, tuple[int, ...]]  # of tensors, by name
Block = Mapping[str, str]  # its tensors: their names with {} for the block's numbers -> their names in the network
Stages = Sequence[Sequence[Block]]
BlockMap = tuple[tuple[int, ...], ...]  # of each stage, for each block of the target the source's

# How Tombola's own models name their blocks: ResNets, VGGs, transformers, fully connected networks.
BLOCKS = (("stage{}.block{}",), ("stage{}.conv{}", "stage{}.norm{}"), ("blocks.{}",), ("fc{}",))
EXAMPLE = '"0:0;1:1,3;2:2,4" copies block 1 to 1 and 3, block 2 to 2 and 4'

_Value = TypeVar("_Value")


def appended(source: int, target: int) -> tuple[int, ...]:
    """The blocks in their order again and again: for each of `target` blocks one of `source`.

    >>> appended(2, 4), appended(4, 2)
    ((0, 1, 0, 1), (0, 1))
    """
    return tuple(block % source for block in range(target))


def interpolated(source: int, target: int) -> tuple[int, ...]:
    """Each block as often as it takes, its copies beside it, the earlier ones more often; fewer are spread evenly.

    >>> interpolated(2, 4), interpolated(2, 3), interpolated(4, 2)
    ((0, 0, 1, 1), (0, 0, 1), (0, 2))
    """
    if target < source:  # the first copy of each block where these were made by this rule
        return tuple(-(-block * source // target) for block in range(target))
    return tuple(block * source // target for block in range(target))


RULES: dict[str, Callable[[int, int], tuple[int, ...]]] = {"appended": appended, "interpolated": interpolated}


def taken(source: Shapes, target: Shapes, how: str = "appended", blocks: Sequence[str] = ()) -> dict[str, str]:
    """Which tensor of the source each tensor of the target is a copy of.

    Args:
        source, target: the shapes of their tensors, by name: of all, or of those that are of interest.
        how: a map, or `appended` or `interpolated`.
        blocks: how names of blocks begin, {} for their numbers, `encoder.{}`, or for those of stage and block,
            `layer{}.{}`; by default one of `BLOCKS`.

    Returns:
        Target name -> source name, of every tensor of the target.

    Raises:
        BadInput: a tensor of the target would have no source, or one of another shape; the map is not one of these
            networks; nothing is named like a block.

    >>> deep = {"fc1.bias": (9,), "fc2.bias": (9,), "fc3.bias": (9,), "output.bias": (2,)}
    >>> flat = {name: shape for name, shape in deep.items() if name != "fc3.bias"}
    >>> taken(flat, deep)
    {'fc1.bias': 'fc1.bias', 'fc2.bias': 'fc2.bias', 'fc3.bias': 'fc1.bias', 'output.bias': 'output.bias'}
    """
    theirs, ours = stages(source, blocks), stages(target, blocks)
    pairs = dict(_outside(source, theirs, target, ours))
    for chosen, left, right in zip(_chosen(source, theirs, target, ours, how), theirs, ours, strict=True):
        for number, block in zip(chosen, right, strict=True):
            pairs |= _copied(left[number], block)
    for name, shape in target.items():
        if source[pairs[name]] != shape:
            raise _other_shape(name, shape, pairs[name], source[pairs[name]])
    return {name: pairs[name] for name in target}


def written(source: Shapes, target: Shapes, how: str, blocks: Sequence[str] = ()) -> str:
    """The map that `how` stands for between two networks, block by block.

    Raises:
        BadInput: as `taken`.

    >>> flat = {f"blocks.{number}.weight": (8, 8) for number in range(2)}
    >>> deep = {f"blocks.{number}.weight": (8, 8) for number in range(5)}
    >>> written(flat, deep, "appended"), written(flat, deep, "interpolated")
    ('0:0,2,4;1:1,3', '0:0,1,2;1:3,4')
    """
    theirs, ours = stages(source, blocks), stages(target, blocks)
    chosen = _chosen(source, theirs, target, ours, how)
    texts = [_one_written(each) for each in chosen]
    grown = {text for text, *depths in zip(texts, theirs, ours, strict=True) if [*map(len, depths)] != [1, 1]}
    return texts[0] if not grown else grown.pop() if len(grown) == 1 else "|".join(texts)


def copied(taken: Mapping[str, str], values: Mapping[str, _Value]) -> dict[str, _Value]:
    """What each name of the target takes of values that the source has by name, where it has one.

    >>> copied({"fc2.weight": "fc2.weight", "fc3.weight": "fc2.weight"}, {"fc2.weight": 0.5})
    {'fc2.weight': 0.5, 'fc3.weight': 0.5}
    """
    return {name: values[source] for name, source in taken.items() if source in values}


def weights(taken: Mapping[str, str], values: "Mapping[str, Tensor]") -> "dict[str, Tensor]":
    """The target's tensors, each with memory of its own."""
    return {name: value.clone() for name, value in copied(taken, values).items()}


def mask(taken: Mapping[str, str], alive: "Mask") -> "Mask":
    """The target's mask: of the copies of what has one in the source."""
    from tombola.mask import Mask

    return Mask(copied(taken, alive))


def said(origin: Mapping[str, Any]) -> str:
    """Of which ticket one is stretched or squeezed, in words, as its origin has it; "" of any other.

    >>> said({"model": "resnet-32", "elastic": {"model": "resnet-20", "density": 0.168, "map": "0:0;1:1,3;2:2,4"}})
    'resnet-20, density 0.168, by 0:0;1:1,3;2:2,4'
    """
    came = origin.get("elastic")
    if not isinstance(came, Mapping):
        return ""
    model, text, density = (came.get(name, "?") for name in ("model", "map", "density"))
    known = f"{density:.3g}" if isinstance(density, float) else "?"
    return f"{shown(model)}, density {known}, by {shown(text)}"


def stages(shapes: Shapes, blocks: Sequence[str] = ()) -> list[list[dict[str, str]]]:
    """The blocks of a network, stage by stage.

    Raises:
        BadInput: nothing is named like one.

    >>> found = stages({"fc1.weight": (9, 4), "fc2.weight": (9, 9), "fc3.weight": (5, 9), "output.weight": (2, 5)})
    >>> [[block["fc{}.weight"] for block in stage] for stage in found]
    [['fc1.weight', 'fc2.weight'], ['fc3.weight']]
    """
    if isinstance(blocks, str):
        todo = f"blocks=[{blocks!r}]."
        raise BadInput(where="blocks", expected="a list of patterns", found=repr(blocks), todo=todo)
    for patterns in [tuple(blocks)] if blocks else BLOCKS:
        numbered = _numbered(shapes, patterns)
        if numbered:
            if blocks:
                _all_found(numbered, blocks, shapes)
            found = [numbered[number] for number in sorted(numbered)]
            return _by_number(numbered) if len(min(numbered)) > 1 else _by_width(found, shapes)
    listed = blocks or [pattern for patterns in BLOCKS for pattern in patterns]
    raise BadInput(
        where="blocks",
        expected=f"names that begin like {' or '.join(listed)}, a number for each {{}}",
        found=_some(shapes),
        todo='Say how blocks are named: blocks=["encoder.{}"], or with stages blocks=["layer{}.{}"].',
    )


def _numbered(shapes: Shapes, patterns: Sequence[str]) -> dict[tuple[int, ...], dict[str, str]]:
    """The blocks by their numbers, or by those of stage and block."""
    found: dict[tuple[int, ...], dict[str, str]] = {}
    if {pattern.count("{}") for pattern in patterns} not in ({1}, {2}):
        todo = '"encoder.{}" for blocks, "layer{}.{}" for blocks of stages.'
        raise BadInput(where="blocks", expected="{} once, or twice, in each", found=shown(list(patterns)), todo=todo)
    for pattern in patterns:
        known = re.compile(re.escape(pattern).replace(r"\{\}", r"(\d+)") + r"(?=\.)")
        for name in shapes:
            if match := known.match(name):
                numbers = tuple(map(int, match.groups()))
                found.setdefault(numbers, {})[pattern + name[match.end() :]] = name
    return found


def _all_found(numbered: Mapping[tuple[int, ...], dict[str, str]], blocks: Sequence[str], shapes: Shapes) -> None:
    """Raise BadInput where one of the user's patterns is that of no name, while others are."""
    parts = [inside for block in numbered.values() for inside in block]
    for pattern in blocks:
        if not any(inside.startswith(pattern) for inside in parts):
            raise BadInput(
                where="blocks",
                expected=f"a name that begins like {pattern}, a number for each {{}}",
                found=_some(shapes),
                todo="Leave it out, or write it as the names are.",
            )


def _by_number(numbered: Mapping[tuple[int, ...], dict[str, str]]) -> list[list[dict[str, str]]]:
    order = sorted(numbered)
    return [[numbered[number] for number in group] for _, group in groupby(order, key=lambda number: number[0])]


def _by_width(blocks: Sequence[dict[str, str]], shapes: Shapes) -> list[list[dict[str, str]]]:
    def width(block: Block) -> int:
        matrices = [shapes[name] for name in block.values() if len(shapes[name]) > 1]
        return matrices[-1][0] if matrices else 0

    return [list(group) for _, group in groupby(blocks, key=width)]


def _outside(source: Shapes, theirs: Stages, target: Shapes, ours: Stages) -> Iterator[tuple[str, str]]:
    """What is in no block, on both sides under the same names."""
    left, right = _no_block(source, theirs), _no_block(target, ours)
    if left != right:
        lacking = sorted(right - left) or sorted(left - right)
        raise BadInput(
            where=lacking[0],
            expected="the same tensors outside of blocks in both networks",
            found=f"none of this name in the {'source' if right - left else 'target'}",
            todo="Members of a family differ in how many blocks they have, and in nothing else." + _part_of(lacking[0]),
        )
    yield from ((name, name) for name in target if name in right)


def _part_of(name: str) -> str:
    """How to say that a tensor is a part of a block, where its name has a number."""
    numbered = re.match(r"(?:.*?\.)?[^.]*\d+(?=\.)", name)
    pattern = numbered and re.sub(r"\d+", "{}", numbered[0])
    return f" If it is a part of a block, name it among these: blocks=[..., {json.dumps(pattern)}]." if pattern else ""


def _no_block(shapes: Shapes, stages: Stages) -> set[str]:
    return set(shapes) - {name for stage in stages for block in stage for name in block.values()}


def _chosen(source: Shapes, theirs: Stages, target: Shapes, ours: Stages, how: str) -> BlockMap:
    """For each block of the target, stage by stage, the source's."""
    if not isinstance(how, str):
        raise _bad_map(how, f"a map as text, or {' or '.join(RULES)}", shown(repr(how)))
    if len(theirs) != len(ours):
        raise BadInput(
            where="stages",
            expected=f"{len(theirs)} of them in the target, as in the source",
            found=f"{len(ours)}",
            todo="A stage is a run of equally wide blocks; members of a family have as many of them.",
        )
    depths = [(len(left), len(right)) for left, right in zip(theirs, ours, strict=True)]
    whole = _begins_apart(source, theirs) or _begins_apart(target, ours)
    if how in RULES:
        return tuple(_by_rule(how, *each, stage, whole) for stage, each in enumerate(depths))
    maps = how.split("|")
    if len(maps) == 1:  # stages of one block are copied, whatever it says of the others
        maps = ["0:0" if each == (1, 1) else how for each in depths]
    if len(maps) != len(depths):
        expected = f"one map, or {len(depths)} with | between them, one for each stage"
        raise _bad_map(how, expected, f"{len(maps)}")
    return tuple(
        _by_rule(text, *each, stage, whole) if text in RULES else _read(text, *each, whole)
        for stage, (text, each) in enumerate(zip(maps, depths, strict=True))
    )


def _begins_apart(shapes: Shapes, stages: Stages) -> bool:
    """Whether a stage begins with a block of another form than those after it, as one that halves maps."""
    forms = [[{inside: shapes[name] for inside, name in block.items()} for block in stage] for stage in stages]
    return any(form != stage[0] for stage in forms for form in stage[1:])


def _by_rule(how: str, source: int, target: int, stage: int, whole: bool) -> tuple[int, ...]:
    """What a rule has of one stage: of the blocks after the first one, where that is `whole` one to one."""
    first = 1 if whole else 0
    if target > first and source <= first:
        raise BadInput(
            where=f"stage {stage}",
            expected="a block that can be replicated",
            found="none but the first one, which has a form of its own",
            todo="Take a source with two blocks at least in each stage that grows.",
        )
    return (*range(first), *(first + block for block in RULES[how](source - first, target - first)))


def _read(text: str, source: int, target: int, whole: bool) -> tuple[int, ...]:
    """The map of one stage.

    Raises:
        BadInput: it is no map of so many blocks.
    """
    if not re.fullmatch(r"\d+:\d+(,\d+)*(;\d+:\d+(,\d+)*)*", text):
        raise _bad_map(text, f"source block : target blocks, or {' or '.join(RULES)}", shown(repr(text)))
    pairs = [part.split(":") for part in text.split(";")]
    given = sorted((int(block), int(number)) for number, blocks in pairs for block in blocks.split(","))
    if [block for block, _ in given] != list(range(target)):
        listed = ", ".join(str(block) for block, _ in given)
        raise _bad_map(text, f"each block of the target once, 0 to {target - 1}", listed)
    chosen = tuple(number for _, number in given)
    if max(chosen) >= source:
        raise _bad_map(text, f"blocks of the source, 0 to {source - 1}", f"{max(chosen)}")
    if whole and (chosen[0] != 0 or 0 in chosen[1:]):
        raise _bad_map(text, "0:0, as the first block of a stage has a form of its own", _one_written(chosen))
    return chosen


def _one_written(chosen: Sequence[int]) -> str:
    targets: dict[int, list[str]] = {}
    for block, number in enumerate(chosen):
        targets.setdefault(number, []).append(str(block))
    return ";".join(f"{number}:{','.join(blocks)}" for number, blocks in sorted(targets.items()))


def _copied(source: Block, target: Block) -> dict[str, str]:
    """The names of a target block's tensors, and of those that they are copies of."""
    if source.keys() != target.keys():
        other = sorted(source.keys() ^ target.keys())[0]
        name, where = (target[other], "source") if other in target else (source[other], "target")
        raise BadInput(
            where=name,
            expected="blocks of the same form where one is a copy of the other",
            found=f"no {other} in the block of the {where}",
            todo="A block that changes shapes has a projection and goes to its like alone.",
        )
    return {name: source[inside] for inside, name in target.items()}


def _other_shape(name: str, ours: tuple[int, ...], source: str, theirs: tuple[int, ...]) -> BadInput:
    return BadInput(
        where=name,
        expected=f"{_by(ours)}, as the target has it",
        found=f"{_by(theirs)} in {source} of the source",
        todo="Only layers of one shape are copies of each other: take a network as wide as this one, or another map.",
    )


def _bad_map(text: str, expected: str, found: str) -> BadInput:
    return BadInput(where=f"map {shown(text)}", expected=expected, found=found, todo=f"{EXAMPLE}.")


def _by(shape: Sequence[int]) -> str:
    return " x ".join(map(str, shape)) or "one number"


def _some(shapes: Shapes) -> str:
    listed = ", ".join(list(shapes)[:3])
    return f"{listed}, ..." if len(shapes) > 3 else listed or "nothing"
