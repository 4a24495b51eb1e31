"""A ticket and its file: nothing but mask and early weights, loaded without executing anything."""

from pathlib import Path

import pytest
import torch
from torch import nn

from tombola import mask, prune, score, weights
from tombola.errors import BadInput
from tombola.ticket import Ticket


def network() -> nn.Sequential:
    return nn.Sequential(nn.Linear(9, 7), nn.BatchNorm1d(7), nn.ReLU(), nn.Linear(7, 3))


@pytest.fixture
def ticket() -> Ticket:
    model = network()
    start = weights.of(model)
    alive = prune.globally(score.magnitude(start, mask.full(model), score_seed=0), mask.full(model), rate=0.7)
    return Ticket(alive, mask.apply(start, alive), {"model": "mine", "rewind": "0it", "key": "train-1"})


def test_a_file_gives_back_the_same_ticket(ticket: Ticket, tmp_path: Path) -> None:
    ticket.save(tmp_path / "t.safetensors")
    loaded = Ticket.load(tmp_path / "t.safetensors")
    assert loaded.mask == ticket.mask
    assert weights.equal(loaded.weights, ticket.weights)
    assert loaded.origin == ticket.origin


def test_the_same_ticket_is_the_same_bytes(ticket: Ticket, tmp_path: Path) -> None:
    for name in ("a", "b"):
        ticket.save(tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert {path.name for path in tmp_path.iterdir()} == {"a", "b"}


def test_an_alive_weight_that_is_0_stays_alive(tmp_path: Path) -> None:  # C8
    alive = mask.Mask({"weight": torch.tensor([[True, True, False]])})
    Ticket(alive, {"weight": torch.tensor([[0.0, 1.0, 0.0]])}, {}).save(tmp_path / "t")
    assert Ticket.load(tmp_path / "t").mask == alive


def test_applying_it_restores_everything_a_state_dict_holds(ticket: Ticket) -> None:  # R3 R4
    model = network()
    model(torch.randn(5, 9))
    ticket.apply(model)
    assert weights.equal(weights.of(model), ticket.weights)


def test_training_leaves_the_ticket_as_it_was(ticket: Ticket) -> None:  # R1 R2
    before = {name: value.clone() for name, value in ticket.weights.items()}
    for _ in range(3):
        model = network()
        ticket.apply(model)
        model(torch.randn(5, 9)).sum().backward()
        torch.optim.SGD(model.parameters(), lr=1.0).step()
        assert weights.equal(ticket.weights, before)


def test_another_model_is_refused_and_the_difference_named(ticket: Ticket) -> None:
    with pytest.raises(BadInput, match=r"0\.weight \(4, 9\).*0\.weight \(7, 9\)"):
        ticket.apply(nn.Sequential(nn.Linear(9, 4)))


def test_what_is_no_ticket_is_refused(tmp_path: Path) -> None:  # S3
    (tmp_path / "t").write_bytes(b"something else entirely")
    with pytest.raises(BadInput, match="expected a ticket's file"):
        Ticket.load(tmp_path / "t")


def test_a_truncated_file_is_refused(ticket: Ticket, tmp_path: Path) -> None:
    ticket.save(tmp_path / "t")
    (tmp_path / "t").write_bytes((tmp_path / "t").read_bytes()[:-10])
    with pytest.raises(BadInput, match="expected a ticket's file"):
        Ticket.load(tmp_path / "t")


def test_a_folder_that_is_not_there_is_named(ticket: Ticket, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="expected a file that can be written"):
        ticket.save(tmp_path / "no" / "t")
