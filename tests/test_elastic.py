"""Elastic tickets: what is copied where, by maps written out by hand, and by networks that are built."""

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from tombola import elastic, models, prunable, weights
from tombola.errors import BadInput
from tombola.mask import Mask
from tombola.ticket import Ticket

# Members of each family, the shallower one first, with what goes in and out.
FAMILIES: dict[str, tuple[str, str, tuple[int, ...], int]] = {
    "resnet": ("resnet-20-w2", "resnet-32-w2", (3, 8, 8), 10),
    "imagenet": ("imagenet-resnet-18-w2", "imagenet-resnet-34-w2", (3, 64, 64), 5),
    "vgg": ("vgg-13-w2", "vgg-19-w2", (3, 16, 16), 10),
    "lenet": ("lenet-12-12-7", "lenet-12-12-12-12-7", (1, 4, 4), 3),
    "gpt": ("gpt-2-8-h1", "gpt-5-8-h1", (6, 11), 11),
    "bert": ("bert-2-8-h1", "bert-3-8-h1", (6, 11), 2),
}
every_family = pytest.mark.parametrize("family", FAMILIES)


def build(name: str, shape: tuple[int, ...], classes: int, seed: int = 0) -> nn.Module:
    """With statistics and counters that differ from block to block, as trained ones do."""
    model = models.build(name, shape, classes, "kaiming-normal", seed)
    draw = torch.Generator().manual_seed(seed + 1)
    with torch.no_grad():
        for value in model.state_dict().values():
            if value.dtype.is_floating_point:
                value.add_(0.1 * torch.rand(value.shape, generator=draw))
            else:
                value.fill_(int(torch.randint(1, 1000, (), generator=draw)))
    return model


def pair(family: str = "resnet") -> tuple[nn.Module, nn.Module]:
    """The shallower network of a family and the deeper one, of other values."""
    flat, deep, shape, classes = FAMILIES[family]
    return build(flat, shape, classes), build(deep, shape, classes, seed=7)


def ticket_of(model: nn.Module, seed: int = 0) -> Ticket:
    """With a mask of another density in each layer."""
    draw = torch.Generator().manual_seed(seed)
    layers = {
        name: torch.rand(alive.shape, generator=draw) < 0.2 + 0.6 * torch.rand((), generator=draw)
        for name, alive in prunable.full(model).items()
    }
    return Ticket.of(model, Mask(layers), weights.of(model), {"model": "source", "rewind": "0it", "key": "train-1"})


def shapes(model: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(value.shape) for name, value in model.state_dict().items()}


def same(one: Ticket, other: Ticket) -> bool:
    return one.mask == other.mask and weights.equal(one.weights, other.weights)


# ---------------------------------------------------------------- maps


def test_the_papers_maps_from_3_to_5_blocks_by_hand() -> None:
    """Of ResNet-20 and ResNet-32: what is appended is 0 1 2 1 2, what is interpolated 0 1 1 2 2, in every stage."""
    source, target = map(shapes, pair())
    assert elastic.written(source, target, "appended") == "0:0;1:1,3;2:2,4"
    assert elastic.written(source, target, "interpolated") == "0:0;1:1,2;2:3,4"
    for how, order in (("0:0;1:1,3;2:2,4", [1, 2, 3, 2, 3]), ("interpolated", [1, 2, 2, 3, 3])):
        taken = elastic.taken(source, target, how)
        for stage in (1, 2, 3):
            for block, number in enumerate(order, start=1):
                for part in ("conv1.weight", "norm2.running_var", "norm1.num_batches_tracked"):
                    name, of = (f"stage{stage}.block{each}.{part}" for each in (block, number))
                    assert taken[name] == of
        assert taken["stem.conv.weight"] == "stem.conv.weight" and taken["output.bias"] == "output.bias"


def test_the_authors_maps_of_fully_connected_networks() -> None:
    """Of n layers of 300 units to others; the layer of 100 is a stage of its own and of one block."""
    networks = {n: models.shapes("lenet" + "-300" * n + "-100", (1, 28, 28), 10) for n in (2, 3, 4)}
    by_hand = {
        (2, 3): "0:0;1:1,2",
        (2, 4): "0:0;1:1,2,3",
        (3, 4): "0:0;1:1,2;2:3",
        (3, 2): "0:0;1:1",
        (4, 2): "0:0;1:1",
    }
    for (source, target), text in by_hand.items():
        found = elastic.taken(networks[source], networks[target], text)
        assert set(found) == set(networks[target])
        rule = "interpolated" if source < target else "appended"
        assert elastic.written(networks[source], networks[target], rule) == text
    assert elastic.taken(networks[2], networks[3], "appended")["fc4.weight"] == "fc3.weight", "300 to 100"


def test_each_stage_may_have_a_map_of_its_own() -> None:
    source, target = (models.shapes(f"vgg-{depth}", (3, 32, 32), 10) for depth in (13, 16))
    text = "0:0;1:1|0:0;1:1|0:0;1:1,2|0:0;1:1,2|0:0;1:1,2"
    assert elastic.written(source, target, "appended") == text
    assert elastic.taken(source, target, text) == elastic.taken(source, target, "interpolated")


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("sideways", "source block : target blocks, or appended or interpolated"),
        ("0:0;1:1,3;2:2", "each block of the target once, 0 to 4, found 0, 1, 2, 3"),
        ("0:0;1:1,3;2:2,4,4", "each block of the target once"),
        ("0:0;1:1,3;3:2,4", "blocks of the source, 0 to 2, found 3"),
        ("0:0,1;1:3;2:2,4", "0:0, as the first block of a stage has a form of its own, found 0:0,1;1:3;2:2,4"),
        ("1:0,1;2:2,3,4", "0:0, as the first block"),
        ("0:0;1:1,3;2:2,4|0:0", "one map, or 3 with | between them, one for each stage, found 2"),
    ],
)
def test_a_map_of_other_networks_is_refused_with_what_was_expected(how: str, said: str) -> None:
    source, target = (models.shapes(name, (3, 32, 32), 10) for name in ("resnet-20", "resnet-32"))
    with pytest.raises(BadInput, match="map") as error:
        elastic.taken(source, target, how)
    assert said in str(error.value)


@pytest.mark.parametrize(
    ("source", "target", "said"),
    [
        ("resnet-20", "resnet-32-w8", "stem.conv.weight: expected 8 x 3 x 3 x 3, as the target has it, found 16 x 3 x"),
        ("resnet-8", "resnet-20", "a block that can be replicated, found none but the first one"),
        ("vgg-13", "resnet-20", "expected the same tensors outside of blocks|names that begin like|stages: expected"),
        ("lenet-300-100", "lenet-300-300-100", "a block that can be replicated"),
        ("lenet-300-300-100", "lenet-300-300-50", "fc3.weight: expected 50 x 300, as the target has it, found 100 x 3"),
        ("lenet-300-300-100", "lenet-300-300-300", "expected 2 of them in the target, as in the source, found 1"),
    ],
)
def test_networks_of_two_families_are_told_apart_by_the_first_tensor_that_differs(
    source: str, target: str, said: str
) -> None:
    with pytest.raises(BadInput, match=said):
        elastic.taken(models.shapes(source, (3, 32, 32), 10), models.shapes(target, (3, 32, 32), 10))


def test_no_tensor_is_dropped_or_left_over_in_silence() -> None:
    """A block with a projection is no copy of one without; a tensor outside of blocks is in both or nowhere."""
    plain: dict[str, tuple[int, ...]] = {"stage1.block1.conv.weight": (4, 4), "output.weight": (2, 4)}
    projecting = plain | {"stage1.block1.shortcut.weight": (4, 4)}
    for one, other in ((plain, projecting), (projecting, plain)):
        with pytest.raises(BadInput, match=r"no stage{}\.block{}\.shortcut\.weight"):
            elastic.taken(one, other)
    for one, other, where in ((plain, plain | {"more": (1,)}, "source"), (plain | {"more": (1,)}, plain, "target")):
        with pytest.raises(BadInput, match=f"more: .* none of this name in the {where}"):
            elastic.taken(one, other)


# ---------------------------------------------------------------- tickets


@every_family
@pytest.mark.parametrize("how", elastic.RULES)
def test_every_tensor_of_the_target_is_a_copy_of_the_sources(family: str, how: str) -> None:
    """None keeps what it was built with, statistics and counters neither; weights and masks go the same way."""
    flat, target = pair(family)
    ticket = ticket_of(flat)
    before = weights.of(target)
    stretched = ticket.stretch(target, how)
    assert weights.equal(before, weights.of(target)), "the model that is handed over is left alone"
    assert set(stretched.weights) == set(before)
    taken = elastic.taken(shapes(flat), shapes(target), how)
    for name, source in taken.items():
        assert torch.equal(stretched.weights[name], ticket.weights[source]), name
        assert (name in stretched.mask) == (source in ticket.mask)
        if name in stretched.mask:
            assert torch.equal(stretched.mask[name], ticket.mask[source])
    stretched.apply(target)
    assert not any(torch.equal(before[name], value) for name, value in weights.of(target).items())


@every_family
@settings(max_examples=10, deadline=None)
@given(drawn=st.data())
def test_stretched_and_squeezed_a_ticket_is_itself(family: str, drawn: st.DataObject) -> None:
    """By any map in which each block has a copy, and back by any of its copies."""
    small, large = pair(family)
    whole = family not in ("gpt", "bert")
    there, back = [], []
    for left, right in zip(elastic.stages(shapes(small)), elastic.stages(shapes(large)), strict=True):
        first = [0] if whole else []
        rest = range(len(first), len(left))
        more = drawn.draw(
            st.lists(st.sampled_from(rest), min_size=len(right) - len(left), max_size=len(right) - len(left))
            if rest
            else st.just([])
        )
        order = [*first, *drawn.draw(st.permutations([*rest, *more]))]
        there.append(";".join(f"{number}:{block}" for block, number in enumerate(order)))
        chosen = [
            drawn.draw(st.sampled_from([b for b, n in enumerate(order) if n == block])) for block in range(len(left))
        ]
        back.append(";".join(f"{number}:{block}" for block, number in enumerate(chosen)))
    ticket = ticket_of(small)
    stretched = ticket.stretch(large, "|".join(_joined(each) for each in there))
    assert same(stretched.squeeze(small, "|".join(back)), ticket)


def _joined(text: str) -> str:
    """`1:1;1:2` as `1:1,2`."""
    targets: dict[str, list[str]] = {}
    for part in text.split(";"):
        number, block = part.split(":")
        targets.setdefault(number, []).append(block)
    return ";".join(f"{number}:{','.join(blocks)}" for number, blocks in targets.items())


@every_family
@pytest.mark.parametrize("how", elastic.RULES)
def test_each_rule_undoes_its_own_stretching(family: str, how: str) -> None:
    flat, deep = pair(family)
    ticket = ticket_of(flat)
    assert same(ticket.stretch(deep, how).squeeze(flat, how), ticket)


def test_what_an_untouched_part_computes_is_the_same() -> None:
    """The stem and the first blocks of stage 1 of a stretched ResNet, in evaluation, with the source's statistics."""
    source, target = (model.eval() for model in pair())
    ticket_of(source).apply(source)
    ticket_of(source).stretch(target).apply(target)
    images = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    one, other = source.get_submodule("stem")(images), target.get_submodule("stem")(images)
    assert torch.equal(one, other)
    for number in (1, 2, 3):
        one, other = (
            net.get_submodule(f"stage1.block{number}")(maps) for net, maps in ((source, one), (target, other))
        )
        assert torch.equal(one, other)
    features = torch.randn(4, 8, generator=torch.Generator().manual_seed(1))
    assert torch.equal(*(net.get_submodule("output")(features) for net in (source, target)))


def test_the_density_is_that_of_the_blocks_as_often_as_they_are_copied() -> None:
    flat, deep = pair()
    ticket = ticket_of(flat)
    stretched = ticket.stretch(deep, "0:0;1:1,3,4;2:2")
    times = {name: 3 if ".block2." in name else 1 for name in ticket.mask}
    alive = sum(int(each.sum()) * times[name] for name, each in ticket.mask.items())
    total = sum(each.numel() * times[name] for name, each in ticket.mask.items())
    assert (stretched.mask.alive, stretched.mask.total) == (alive, total)
    assert stretched.origin["density"] == alive / total != ticket.mask.density


def test_a_ticket_says_where_it_came_from_and_may_be_saved(tmp_path: Path) -> None:
    flat, deep = pair()
    ticket = ticket_of(flat)
    stretched = ticket.stretch(deep, name="resnet-32-w2")
    assert stretched.origin["model"] == "resnet-32-w2" and stretched.origin["rewind"] == "0it"
    assert stretched.origin["elastic"] == {"model": "source", "density": ticket.mask.density, "map": "0:0;1:1,3;2:2,4"}
    stretched.save(tmp_path / "ticket.safetensors")
    loaded = Ticket.load(tmp_path / "ticket.safetensors")
    assert same(loaded, stretched) and loaded.origin == stretched.origin and loaded.seed is None
    back = loaded.squeeze(flat)
    assert back.origin["elastic"]["elastic"] == stretched.origin["elastic"] and same(back, ticket)


def test_the_other_way_is_named() -> None:
    flat, deep = pair()
    with pytest.raises(BadInput, match=r"ticket\.squeeze goes the other way"):
        ticket_of(deep).stretch(flat)
    with pytest.raises(BadInput, match=r"ticket\.stretch goes the other way"):
        ticket_of(flat).squeeze(deep)


class Own(nn.Module):
    """An encoder of blocks with a normalisation, and a head."""

    def __init__(self, depth: int) -> None:
        super().__init__()
        self.encoder = nn.ModuleList(nn.Sequential(nn.Linear(6, 6), nn.BatchNorm1d(6)) for _ in range(depth))
        self.head = nn.Linear(6, 2)


def test_a_stage_may_have_a_rule_of_its_own() -> None:
    flat, deep = ({f"stage{stage}.block{block}.w": (stage + 2,) for stage in range(2) for block in range(blocks)}
                  for blocks in (2, 4))  # fmt: skip
    assert elastic.written(flat, deep, "appended|interpolated") == "0:0,2;1:1,3|0:0,1;1:2,3"


def test_blocks_of_a_model_of_ones_own_are_named() -> None:
    ticket = ticket_of(Own(2))
    stretched = ticket.stretch(Own(5), "0:0,3;1:1,2,4", blocks=["encoder.{}"])
    for block, source in enumerate((0, 1, 1, 0, 1)):
        assert torch.equal(stretched.mask[f"encoder.{block}.0.weight"], ticket.mask[f"encoder.{source}.0.weight"])
        assert torch.equal(stretched.weights[f"encoder.{block}.1.bias"], ticket.weights[f"encoder.{source}.1.bias"])
    assert stretched.origin["model"] == "Own"
    with pytest.raises(BadInput, match=r'blocks=\["encoder\.{}"\]'):
        ticket.stretch(Own(5))
    with pytest.raises(BadInput, match=r"a list of patterns, found .*blocks=\[.encoder\.\{\}.\]"):
        ticket.stretch(Own(5), blocks="encoder.{}")
    with pytest.raises(BadInput, match=r"a name that begins like encodr\.\{\}"):
        ticket.stretch(Own(5), blocks=["encodr.{}", "encoder.{}"])
    with pytest.raises(BadInput, match=r'name it among these: blocks=\[\.\.\., "encoder\.\{\}"\]'):
        ticket.stretch(Own(5), blocks=["encoder.{}.0"])
    with pytest.raises(BadInput, match="a map as text"):
        ticket.stretch(Own(5), ["appended"], blocks=["encoder.{}"])  # type: ignore[arg-type]
    for wrong in (["encoder"], ["{}.{}.{}"], ["encoder.{}", "stage{}.{}"]):
        with pytest.raises(BadInput, match="once, or twice, in each"):
            ticket.stretch(Own(5), blocks=wrong)
