"""Recurrent weights, a graph layer's, stacks of experts: what is pruned by its name is pruned as all else is."""

import ast
import json
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from tombola import prunable, prune, weights
from tombola.controls import CONTROLS
from tombola.errors import BadInput
from tombola.mask import Mask
from tombola.search import Level, Search
from tombola.ticket import Ticket

TEXT = torch.arange(60).remainder(7)


class Characters(nn.Module):
    """A recurrent character model."""

    def __init__(self, cell: type[nn.LSTM | nn.GRU]) -> None:
        super().__init__()
        self.embedding, self.output = nn.Embedding(7, 4), nn.Linear(5, 7)
        self.cell = cell(4, 5, num_layers=2, batch_first=True)

    def loss(self) -> Tensor:
        text = TEXT.view(4, 15)
        states, _ = self.cell(self.embedding(text[:, :-1]))
        return functional.cross_entropy(self.output(states).flatten(0, 1), text[:, 1:].flatten())


class GraphLayer(nn.Module):
    """H' = A H W + b."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.W, self.b = nn.Parameter(torch.empty(inputs, outputs)), nn.Parameter(torch.zeros(outputs))
        nn.init.xavier_uniform_(self.W)

    def forward(self, nodes: Tensor, adjacency: Tensor) -> Tensor:
        out: Tensor = adjacency @ (nodes @ self.W) + self.b
        return out


class GraphNetwork(nn.Module):
    """Two graph layers."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = GraphLayer(6, 8), GraphLayer(8, 3)

    def loss(self) -> Tensor:
        generator = torch.Generator().manual_seed(0)
        nodes, adjacency = torch.rand(10, 6, generator=generator), torch.rand(10, 10, generator=generator).softmax(1)
        hidden = self.one(nodes, adjacency).relu()
        return functional.cross_entropy(self.two(hidden, adjacency), torch.arange(10) % 3)


class Experts(nn.Module):
    """A stack of experts of which a gate mixes what they give."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Linear(4, 3)
        self.experts = nn.Parameter(torch.randn(3, 5, 4) * torch.tensor([1.0, 10.0, 100.0]).view(3, 1, 1))

    def loss(self) -> Tensor:
        inputs = torch.rand(6, 4, generator=torch.Generator().manual_seed(0))
        each = torch.einsum("eoi,ni->neo", self.experts, inputs)
        loss: Tensor = (self.gate(inputs).softmax(1).unsqueeze(2) * each).sum(1).square().mean()
        return loss


Made = tuple[Any, torch.optim.Optimizer]


def made(build: Callable[[], nn.Module], seed: int = 0) -> Made:
    torch.manual_seed(seed)
    model = build()
    return model, torch.optim.AdamW(model.parameters(), lr=0.05)


def train(model: Any, optimizer: torch.optim.Optimizer, level: Level) -> None:
    for _ in range(6):
        optimizer.zero_grad()
        model.loss().backward()
        optimizer.step()
    level.report(validation_loss=model.loss())


MODELS: dict[str, tuple[Callable[[], nn.Module], list[str], dict[str, int]]] = {
    "lstm": (
        lambda: Characters(nn.LSTM),
        ["cell.*"],
        {"embedding.weight": 28, "output.weight": 35, **{f"cell.weight_{x}_l{n}": 100 for n in (0, 1) for x in "ih"}},
    ),
    "gru": (lambda: Characters(nn.GRU), ["cell.weight_*"], {"embedding.weight": 28, "output.weight": 35}),
    "graph": (GraphNetwork, ["*.W"], {"one.W": 48, "two.W": 24}),
}


@pytest.mark.parametrize("name", MODELS)
def test_what_is_named_is_pruned_counted_held_and_kept_in_the_ticket(name: str, tmp_path: Path) -> None:
    build, entries, known = MODELS[name]
    model, optimizer = made(build)
    path = tmp_path / "search"
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # nothing is left unsaid
        search = Search(model, optimizer, levels=3, rate=0.3, prune=entries, path=path)
    full = search.mask(0).counts
    matrices = {name: value.numel() for name, value in model.named_parameters() if value.dim() > 1}
    assert full == {name: matrices[name] for name in full} and full.keys() == matrices.keys()
    assert all(full[name] == count for name, count in known.items() if name in full)
    wanted = full
    for level in search:
        assert level.mask.counts == wanted
        for _ in range(6):
            optimizer.zero_grad()
            model.loss().backward()
            optimizer.step()
            assert not any(weights.of(model)[name][~alive].any() for name, alive in level.mask.items())
        wanted = {name: count - prune.count(0.3, count) for name, count in wanted.items()}
    ticket = search.ticket(3)
    ticket.save(tmp_path / "ticket")
    again = Ticket.load(tmp_path / "ticket")
    assert again.mask == search.mask(3) and weights.equal(again.weights, ticket.weights)
    fresh, _ = made(build, seed=1)
    again.apply(fresh)
    assert all(not weights.of(fresh)[name][~alive].any() for name, alive in again.mask.items())


def test_a_search_that_is_resumed_prunes_what_was_named(tmp_path: Path) -> None:
    def searched(path: Path, stop: int | None) -> Search:
        model, optimizer = made(lambda: Characters(nn.GRU))
        search = Search(model, optimizer, levels=2, rate=0.5, prune="cell.*", stacks="cell.weight_ih_l0", path=path)
        for level in search:
            if level.number == stop:
                break
            train(model, optimizer, level)
        return search

    whole = searched(tmp_path / "whole", None)
    searched(tmp_path / "broken", 1)
    model, optimizer = made(lambda: Characters(nn.GRU), seed=5)
    search = Search.resume(tmp_path / "broken", model, optimizer)
    for level in search:
        train(model, optimizer, level)
    assert [search.mask(level) for level in range(3)] == [whole.mask(level) for level in range(3)]
    assert weights.equal(search.trained(2), whole.trained(2))


def test_a_search_that_names_nothing_says_so_nowhere(tmp_path: Path) -> None:
    model = nn.Linear(2, 2)
    search = Search(model, torch.optim.SGD(model.parameters(), lr=0.1), levels=0, path=tmp_path / "search")
    for _ in search:
        model(torch.ones(1, 2)).sum().backward()
        search._loop.optimizer.step()
    held = (tmp_path / "search").read_bytes()
    header = json.loads(json.loads(held[8 : 8 + int.from_bytes(held[:8], "little")])["__metadata__"]["tombola-search"])
    assert not {"prune", "stacks"} & set(header["about"]["plan"]), "files written before it was known are read"


def test_keep_wins_over_prune_and_a_rate_may_be_of_what_is_named() -> None:
    model, optimizer = made(lambda: Characters(nn.LSTM))
    rate = {"*_l0": 0.0, "named": 0.5, "*": 0.1}
    search = Search(model, optimizer, levels=1, rate=rate, prune=["cell.*"], keep=["cell.weight_hh_l1"])
    for level in search:
        train(model, optimizer, level)
    assert search.mask(1).counts == {
        "embedding.weight": 25,
        "output.weight": 31,
        "cell.weight_ih_l0": 80,
        "cell.weight_hh_l0": 100,
        "cell.weight_ih_l1": 50,
    }


def test_each_part_of_a_stack_loses_its_own_share() -> None:
    def alive(stacks: list[str]) -> list[int]:
        model, optimizer = made(Experts)
        search = Search(model, optimizer, levels=1, rate=0.25, prune=["experts"], stacks=stacks)
        for level in search:
            train(model, optimizer, level)
        return search.mask(1)["experts"].flatten(1).sum(1).tolist()

    assert alive(["expert*"]) == [15, 15, 15]
    small, _, large = alive([])
    assert (small < 10, large) == (True, 20), "as one layer, the expert of small weights pays for the others"


def test_controls_keep_the_count_of_each_part_of_a_stack() -> None:
    from tombola.search.candidates import Candidate, SearchReplicate

    living = Mask({"experts": torch.arange(60).view(3, 5, 4) < torch.tensor([3, 35, 47]).view(3, 1, 1)})
    nothing: Any = None
    replicate = SearchReplicate(nothing, nothing, 1, frozenset({"experts"}), None, 0, 0, nothing)
    for arm in ("random", "shuffle"):
        drawn = CONTROLS[arm].make(replicate, Candidate(None, living), 1, 0).mask
        assert drawn != living and drawn["experts"].flatten(1).sum(1).tolist() == [3, 15, 7]


def test_verify_judges_a_ticket_of_what_was_named() -> None:
    generator = torch.Generator()
    model, optimizer = made(GraphNetwork)

    def body(level: Level) -> None:
        for _ in range(4):
            optimizer.zero_grad()
            (model.loss() * (0.5 + torch.rand((), generator=generator))).backward()
            optimizer.step()
        level.report(accuracy=0.5)

    search = Search(model, optimizer, levels=1, rate=0.5, prune="*.W", also=[generator])
    for level in search:
        body(level)
    found = search.verify(body, level=1, replicates=2, build=GraphNetwork)
    assert {trial.density for trial in found.trials if trial.arm != "dense"} == {0.5}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"prune": ["cell.w_*"]}, r"^prune: .* found 'cell\.w_\*', which names nothing. Did you mean cell\.weight"),
        ({"prune": [3]}, r"^prune: expected names or patterns, found 3"),
        ({"stacks": ["cell.*"]}, r"^stacks: expected kinds .* found 'cell\.\*'"),
        ({"prune": "cell.bias_ih_l0", "stacks": "cell.bias_ih_l0"}, r"^stacks: .* found cell\.bias_ih_l0, a vector"),
    ],
)
def test_what_names_nothing_is_refused(options: dict[str, Any], said: str) -> None:
    model, optimizer = made(lambda: Characters(nn.GRU))
    with pytest.raises(BadInput, match=said):
        Search(model, optimizer, levels=1, keep="cell.*" if "prune" not in options else (), **options)


def test_of_two_parameters_over_one_memory_either_may_be_named() -> None:
    one, other = GraphLayer(3, 3), GraphLayer(3, 3)
    other.W.data = one.W.data
    model = nn.Sequential(one, other)
    assert list(prunable.full(model, ["1.W"])) == ["0.W"]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    search = Search(model, optimizer, levels=1, prune=["1.W"], rate=0.5)
    for _ in search:
        optimizer.zero_grad()
        one.W.square().sum().backward()
        optimizer.step()
    assert list(search.mask(1)) == ["0.W"] and search.mask(1).alive == 4


def test_weights_of_complex_numbers_are_held_where_their_gradients_are_conjugate_views() -> None:
    weight = nn.Parameter(torch.randn(3, 3, dtype=torch.complex64))
    model = nn.ParameterDict({"W": weight})
    optimizer = torch.optim.SGD([weight], lr=0.1, momentum=0.9)
    inputs = torch.randn(2, 3, dtype=torch.complex64)
    for level in Search(model, optimizer, levels=2, prune=["W"], rate=0.5):
        for _ in range(2):
            optimizer.zero_grad()
            (inputs @ weight.conj().t()).abs().sum().backward()
            optimizer.step()
        assert torch.equal(weight == 0, ~level.mask["W"])


class Lora(nn.Module):
    """A layer that is not trained, and what is added to it."""

    def __init__(self) -> None:
        super().__init__()
        self.base_layer = nn.Linear(4, 4).requires_grad_(False)
        self.lora_A, self.lora_B = nn.Linear(4, 2, bias=False), nn.Linear(2, 4, bias=False)


def test_what_is_advised_to_keep_names_all_that_is_meant() -> None:
    model = nn.Sequential(*(Lora() for _ in range(6)), nn.Linear(4, 2).requires_grad_(False))
    optimizer = torch.optim.SGD((each for each in model.parameters() if each.requires_grad), lr=0.1)
    with pytest.raises(BadInput, match=r"and 4 more\. .*: keep=\['\*\.base_layer\.\*', '6\.weight'\]\.$"):
        Search(model, optimizer, levels=1)
    search = Search(model, optimizer, levels=1, keep=["*.base_layer.*", "6.weight"])
    assert all("lora" in name for name in search.mask(0)) and len(search.mask(0)) == 12


def test_what_is_advised_for_other_matrices_names_them_all_and_nothing_else() -> None:
    model = nn.Sequential(*(GraphLayer(3, 3) for _ in range(5)), nn.Linear(3, 3), Characters(nn.LSTM))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.warns(UserWarning, match=r"prune=(\[.*\]) prunes and counts them; keep=\1 says") as found:
        Search(model, optimizer, levels=1)
    entries = ast.literal_eval(re.findall(r"keep=(\[.*?\])", str(found[0].message))[0])
    assert len(entries) < 9
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert Search(model, optimizer, levels=1, keep=entries).mask(0).keys() == prunable.full(model).keys()
        assert len(Search(model, optimizer, levels=1, prune=entries).mask(0)) == 3 + 5 + 4


@pytest.mark.filterwarnings("ignore:.*torch.nn.utils.weight_norm.*:FutureWarning")
@pytest.mark.parametrize("normed", [nn.utils.parametrizations.weight_norm, nn.utils.weight_norm])
def test_a_weight_that_is_computed_is_kept_with_all_that_it_is_computed_of(normed: Any) -> None:
    model = nn.Sequential(nn.Linear(3, 3), normed(nn.Linear(3, 3)))
    search = Search(model, torch.optim.SGD(model.parameters(), lr=0.1), levels=1, keep=["1.weight"])
    assert list(search.mask(0)) == ["0.weight"]


def test_a_sparse_gradient_of_what_is_named_is_refused() -> None:
    table = nn.Parameter(torch.randn(5, 3))
    optimizer = torch.optim.SGD([table], lr=0.1)
    with pytest.raises(BadInput, match=r"shape \(5, 3\): expected a dense one, found a sparse one"):
        for _ in Search(nn.ParameterDict({"W": table}), optimizer, levels=1, prune=["W"]):
            functional.embedding(torch.tensor([0, 1]), table, sparse=True).square().sum().backward()
            optimizer.step()
