"""`tombola show`: what a ticket's file holds, for people and for programs."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tombola import mask, models
from tombola.cli import main
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
        for name, alive in mask.full(models.build("lenet-6-5", (1, 4, 4), 3, "glorot-normal", 0)).items()
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
    assert f"{file}: format 2, mask and the living weights, {file.stat().st_size:,} bytes; dense 620" in said[1]
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
    assert anatomy.idle(alive) == (
        sum(not any(alive[o, i, w] for i in range(inputs) for w in range(window)) for o in range(outputs)),
        sum(not any(alive[o, i, w] for o in range(outputs) for w in range(window)) for i in range(inputs)),
    )
