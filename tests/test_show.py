"""`tombola show`: what a ticket's file holds, for people and for programs."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from tombola import mask, models, prunable, weights
from tombola.cli import main
from tombola.layers import Layout, layouts
from tombola.mask import Mask
from tombola.study import anatomy
from tombola.ticket import Seed, Ticket

SEED = Seed("lenet-6-5", (1, 4, 4), 3, "glorot-normal", 0)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """LeNet with 6 and 5 units: unit 1 of the first layer has no input left, nobody reads pixel 3 and unit 4."""
    start = SEED.weights()
    alive = {
        name: alive.clone()
        for name, alive in prunable.full(models.build("lenet-6-5", (1, 4, 4), 3, "glorot-normal", 0)).items()
    }
    alive["fc1.weight"][1] = False
    alive["fc1.weight"][:, 3] = False
    alive["output.weight"][:, 4] = False
    origin = {"model": "lenet-6-5", "data": "digits", "level": 0, "replicate": 2, "rewind": "0it", "key": "train-7",
              "made": "2026-11-21T00:00:00Z", "versions": {"tombola": "0.1.0", "torch": "2.13.0"}}  # fmt: skip
    masks = Mask(alive)
    Ticket(masks, mask.apply(start, masks), origin, SEED).save(tmp_path / "t.safetensors")
    return tmp_path / "t.safetensors"


def ask(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    status = main(["show", *arguments])
    out, err = capsys.readouterr()
    return status, out, err


def test_it_shows_densities_idle_units_origin_and_size(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = ask(capsys, str(file))
    said = [" ".join(line.split()) for line in out.splitlines()]
    assert status == 0
    assert said[0] == "Ticket(lenet-6-5, density 0.83, rewind 0it, from train-7)"
    assert f"{file}: format 2, mask and the living weights, {file.stat().st_size:,} bytes, " in said[1]
    assert said[1].endswith("of the 620 of all its numbers")
    for line in (
        "level 0",
        "replicate 2",
        "data digits",
        "made 2026-11-21T00:00:00Z",
        "torch 2.13.0",
        "layer shape alive of density idle outputs unread inputs",
        "fc1.weight 6 x 16 75 96 78.12% 1 1",
        "fc2.weight 5 x 6 30 30 100.00% 0 0",
        "output.weight 3 x 5 12 15 80.00% 0 1",
        "all 117 141 82.98%",
        # Of fc2 the 5 weights that read unit 1 do nothing, nor do the 5 others into unit 4.
        "107 of the 117 living weights lie on a path from an input to an output. As a network it is one part: "
        "inputs 0-2, 4-15 with outputs 0-2.",
    ):
        assert line in said, line


def test_it_gives_the_same_to_programs(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = ask(capsys, str(file), "--format", "json")
    content: dict[str, Any] = json.loads(out)
    assert status == 0
    assert (content["format"], content["holds"], content["bytes"]) == (2, "weights", file.stat().st_size)
    assert (content["alive"], content["total"]) == (117, 141)
    assert content["layers"][0] == {
        "name": "fc1.weight",
        "shape": [6, 16],
        "alive": 75,
        "total": 96,
        "density": 75 / 96,
        "idle_outputs": 1,
        "unread_inputs": 1,
    }
    assert content["origin"]["level"] == 0 and content["origin"]["versions"]["torch"] == "2.13.0"


def test_paths_are_followed_in_models_of_ours_alone(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ticket = Ticket.load(file)
    for origin in ({}, {"model": "mine"}, {"model": "resnet-20"}, {"model": "conv-2"}):
        Ticket(ticket.mask, ticket.weights, origin).save(file.with_name("other"))
        record = json.loads(ask(capsys, str(file.with_name("other")), "--format", "json")[1])
        assert (record["on_a_path"] is None) == (origin.get("model") != "conv-2"), (
            "whose layers are called in order, too"
        )


def test_paths_of_a_residual_network_are_not_followed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its shortcuts go around layers, which a mask does not say."""
    model = models.build("resnet-8", (3, 8, 8), 10, "kaiming-normal", 0)
    whole = prunable.full(model)
    Ticket.of(model, whole, weights.of(model), {"model": "resnet-8"}).save(tmp_path / "t.safetensors")
    assert json.loads(ask(capsys, str(tmp_path / "t.safetensors"), "--format", "json")[1])["on_a_path"] is None


def test_a_ticket_without_its_weights_says_so(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Ticket.load(file).save(file.with_name("seed"), as_seed=True)
    assert "mask and the seed of the weights" in ask(capsys, str(file.with_name("seed")))[1]
    assert file.with_name("seed").stat().st_size < file.stat().st_size


def test_any_mask_can_be_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = {
        "none": torch.zeros(3, 0),
        "bias": torch.ones(4),
        "scalar": torch.ones(()),
        "conv": torch.zeros(2, 3, 2, 2),
    }
    alive = Mask({name: value.bool() for name, value in flags.items()})
    Ticket(alive, flags).save(tmp_path / "t")
    status, out, _ = ask(capsys, str(tmp_path / "t"))
    assert status == 0
    assert "conv 2 x 3 x 2 x 2 0 24 0.00% 2 3" in " ".join(out.split())
    assert ask(capsys, str(tmp_path / "t"), "--format", "json")[0] == 0


def test_what_is_no_ticket_ends_with_2_and_says_what_it_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save({"w": torch.ones(2)}, tmp_path / "model.pt")
    for name, said in (
        ("none", "no such file"),
        ("", "is a directory"),
        ("model.pt", "a pickle, as torch.save writes"),
    ):
        status, out, err = ask(capsys, str(tmp_path / name))
        assert (status, out) == (2, "")
        assert f"{tmp_path / name}: expected a ticket's file, found" in err and said in err


@given(st.integers(0, 5), st.integers(0, 5), st.integers(0, 3), st.integers(0, 2**32 - 1))
def test_idle_units_are_those_without_a_living_weight(outputs: int, inputs: int, window: int, seed: int) -> None:
    alive = np.random.default_rng(seed).random((outputs, inputs, window)) < 0.3
    assert anatomy.idle(alive, Layout()) == (
        sum(not any(alive[o, i, w] for i in range(inputs) for w in range(window)) for o in range(outputs)),
        sum(not any(alive[o, i, w] for o in range(outputs) for w in range(window)) for i in range(inputs)),
    )


class Table(nn.Module):
    """A layer of each layout."""

    def __init__(self) -> None:
        super().__init__()
        self.plain, self.up = nn.Linear(4, 3), nn.ConvTranspose2d(4, 6, 3, groups=2)
        self.grouped, self.words = nn.Conv2d(4, 6, 3, groups=2), nn.Embedding(5, 3)
        self.own = nn.ParameterDict({"W": torch.ones(4, 3)})


def felt(layer: nn.Module, shape: tuple[int, ...]) -> Tensor:
    """Which outputs depend on which inputs, [outputs, inputs], where no weight is negative."""
    inputs = shape[0]
    each = torch.eye(inputs).view(inputs, inputs, *[1] * (len(shape) - 1)).expand(inputs, *shape)
    answers: Tensor = layer(each) - layer(torch.zeros_like(each))
    return answers.flatten(2).any(2).T if answers.dim() > 2 else answers.bool().T


@given(st.integers(0, 2**32 - 1))
def test_idle_and_unread_units_are_those_of_what_the_layer_computes(seed: int) -> None:
    model, generator = Table(), torch.Generator().manual_seed(seed)
    shapes = {"plain": (4,), "up": (4, 3, 3), "grouped": (4, 5, 5)}
    for name, shape in shapes.items():
        weight = model.get_parameter(f"{name}.weight")
        alive = torch.rand(weight.shape, generator=generator) < 0.05
        weight.data = alive.float()
        links = felt(model.get_submodule(name), shape)
        wanted = int((~links.any(1)).sum()), int((~links.any(0)).sum())
        assert anatomy.idle(alive.numpy(), layouts(model)[f"{name}.weight"]) == wanted


def test_a_ticket_says_how_its_weights_are_laid_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = Table()
    full = prunable.full(model, ["own.W"])
    alive = {name: torch.zeros_like(each) for name, each in full.items()}
    for name in alive:
        alive[name][0] = True
    Ticket.of(model, Mask(alive), weights.of(model)).save(tmp_path / "t")
    record = json.loads(ask(capsys, str(tmp_path / "t"), "--format", "json")[1])
    found = {layer["name"]: (layer["idle_outputs"], layer["unread_inputs"]) for layer in record["layers"]}
    assert found == {
        "plain.weight": (2, 0),
        "up.weight": (3, 3),  # the first input feeds the outputs of its group alone
        "grouped.weight": (5, 2),
        "words.weight": (0, 4),
        "own.W": (None, None),
    }
    plain = nn.Sequential(nn.Linear(2, 2), nn.Conv2d(1, 1, 1))
    assert Ticket.of(plain, prunable.full(plain), weights.of(plain), {"model": "mine"}).origin == {"model": "mine"}


def test_a_table_of_embeddings_that_is_an_outputs_weight_is_laid_out_as_that() -> None:
    output, table = nn.Linear(4, 7, bias=False), nn.Embedding(7, 4)
    output.weight = table.weight
    for model in (nn.ModuleList([output, table]), nn.ModuleList([table, output])):
        assert layouts(model) == {"0.weight": Layout(), "1.weight": Layout()}


@pytest.mark.parametrize("said", [3, {"w": 3}, {"w": {"inputs": 5}}, {"w": {"groups": 0}}, {"w": {"inputs": []}}])
def test_a_layout_that_is_none_is_passed_over(said: object, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Ticket(Mask({"w": torch.ones(3, 2).bool()}), {"w": torch.ones(3, 2)}, {"layouts": said}).save(tmp_path / "t")
    assert ask(capsys, str(tmp_path / "t"))[0] == 0
