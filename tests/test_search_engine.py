"""A search of sparse layers finds what a dense one finds, and leaves a plain model."""

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import torch
from torch import nn
from torch.nn import functional

from tombola import allocator
from tombola.engine.native import calibrate
from tombola.errors import BadInput, GuardLost
from tombola.search import Search, checkpoint
from tombola.search.engine import Computed
from tombola.sparse import choice, layers
from tombola.sparse.times import DENSITIES, Times

STEPS = 6
INPUTS = torch.randn(32, 1, 6, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
LABELS = torch.arange(32) % 3
EVEN = Times(0.3, DENSITIES)  # living weights alone are faster below 27 %


def network() -> nn.Sequential:
    torch.manual_seed(7)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 6, 3, stride=2, padding=1), nn.ReLU(),
        nn.Flatten(), nn.Linear(54, 12), nn.ReLU(), nn.Dropout(0.1), nn.Linear(12, 3),
    ).double()  # fmt: skip


class Loop:
    """An ordinary loop, which notes which layers were sparse at each of its steps."""

    def __init__(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        self.model, self.optimizer, self.sparse = model, optimizer, [0]

    def __call__(self, steps: int = STEPS) -> None:
        self.model.train()
        self.sparse = []
        for _ in range(steps):
            places = torch.randint(len(INPUTS), (8,))
            self.sparse.append(len([*layers.sparse_layers(self.model)]))
            self.optimizer.zero_grad()
            functional.cross_entropy(self.model(INPUTS[places]), LABELS[places]).backward()
            nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
            self.optimizer.step()


def searched(engine: str, **asked: Any) -> tuple[Search, nn.Sequential, list[list[int]]]:
    """A search of three levels, its model, and how many layers were sparse before each step of each level."""
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-3)
    loop, seen = Loop(model, optimizer), []
    search = Search(model, optimizer, **{"levels": 3, "rate": 0.5, "engine": engine, **asked})
    for level in search:
        loop()
        level.check()
        seen.append(loop.sparse)
    return search, model, seen


@pytest.fixture
def pretended(monkeypatch: pytest.MonkeyPatch) -> list[choice.Call]:
    """Layers of any size are thought about; what would have been measured."""
    asked: list[choice.Call] = []

    def times(calls: Any) -> dict[choice.Call, Times]:
        asked.extend(calls := list(calls))
        return dict.fromkeys(calls, EVEN)

    monkeypatch.setattr(calibrate, "times", times)
    monkeypatch.setattr(choice, "LEAST", 0)
    return asked


@pytest.mark.parametrize("rewind", ["0it", "2it"])
@pytest.mark.parametrize("scope", ["layer", "global"])
def test_the_masks_are_those_of_a_dense_search_and_the_model_is_plain_again(rewind: str, scope: str) -> None:
    dense, _, none = searched("dense", rewind=rewind, scope=scope)
    sparse, model, seen = searched("sparse", rewind=rewind, scope=scope)
    k = int(rewind[0])
    assert none == [[0] * STEPS] * 4 and seen == [[0] * STEPS, *[[0] * k + [4] * (STEPS - k)] * 3]
    for level in range(4):
        masks, trained = (each.mask(level) for each in (dense, sparse)), sparse.trained(level)
        first, second = masks
        assert all(torch.equal(first[name], second[name]) for name in first)
        assert all(torch.allclose(value, trained[name], atol=1e-9) for name, value in dense.trained(level).items())
        assert not any(trained[name][~alive].any() for name, alive in second.items())
    assert not [*layers.sparse_layers(model)]
    assert [type(each) for each in model] == [type(each) for each in network()]


def test_auto_takes_what_is_faster_at_its_density_from_the_second_step_of_a_level_on(
    pretended: list[choice.Call],
) -> None:
    search, model, seen = searched("auto")
    assert seen == [[0] * STEPS, [0] * STEPS, *[[0] + [4] * (STEPS - 1)] * 2]
    assert {call.rows for call in pretended} == {8} and len(set(pretended)) == 4
    assert [call.maps for call in pretended[:4]] == [(6, 6), (6, 6), (), ()]
    assert search.computed(1).sparse == () and search.computed(1).dense["0"] == "it is faster so here"
    assert search.computed(2).sparse == ("0", "3", "6", "9") and not [*layers.sparse_layers(model)]
    assert "level 3: 0, 3, 6, 9 sparse: a step takes" in str(search) and "times as fast as level 0's" in str(search)


@pytest.mark.parametrize("k", [1, 3, STEPS - 1, STEPS])
def test_auto_chooses_in_the_first_step_from_the_rewind_point_on(k: int, pretended: list[choice.Call]) -> None:
    """The steps of the replay before it are the dense network's."""
    search, model, seen = searched("auto", rewind=f"{k}it")
    assert seen == [[0] * STEPS, [0] * STEPS, *[([0] * (k + 1) + [4] * STEPS)[:STEPS]] * 2]
    again, _, without = searched("auto", rewind=f"{k}it", replay=False, levels=2)
    assert without[2] == [0] + [4] * (STEPS - 1) and again.computed(2).sparse == ("0", "3", "6", "9")
    dense = search.computed(3).dense if k == STEPS else search.computed(1).dense
    reason = "the level has no step after the rewind point" if k == STEPS else "it is faster so here"
    assert dense.keys() == {"0", "3", "6", "9"} and set(dense.values()) == {reason}
    assert not [*layers.sparse_layers(model)]


def test_auto_leaves_small_layers_as_they_are_and_measures_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calibrate, "times", lambda calls: dict.fromkeys(list(calls)) or {})
    _, _, seen = searched("auto")
    assert seen == [[0] * STEPS] * 4


@pytest.mark.parametrize("engine", ["auto", "sparse"])
def test_layers_within_torch_compile_are_dense_and_said_to_be(engine: str, pretended: list[choice.Call]) -> None:
    """What is called outside of it beside them is sparse."""
    model, inputs = network(), INPUTS[:8]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    compiled: Any = torch.compile(model[:9], backend="eager")
    search = Search(model, optimizer, levels=1, rate=0.8, engine=engine)
    for _ in search:
        for _ in range(3):
            optimizer.zero_grad()
            functional.cross_entropy(model[9](compiled(inputs)), LABELS[:8]).backward()
            optimizer.step()
    found = search.computed(1)
    assert found.sparse == ("9",) and found.dense.keys() == {"0", "3", "6"}
    assert all("outside of torch.compile, within which it is dense" in why for why in found.dense.values())


@pytest.mark.parametrize("engine", ["auto", "sparse"])
def test_an_interrupted_search_goes_on_as_if_it_had_not_been(
    engine: str, pretended: list[choice.Call], tmp_path: Path
) -> None:
    whole, _, _ = searched(engine, rewind="2it")
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-3)
    path = tmp_path / "search.safetensors"
    search = Search(model, optimizer, levels=3, rate=0.5, engine=engine, rewind="2it", path=path)
    with pytest.raises(KeyboardInterrupt):
        for level in search:
            Loop(model, optimizer)(STEPS if level.number < 2 else 4)
            if level.number == 2:
                raise KeyboardInterrupt
    assert not [*layers.sparse_layers(model)]
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-3)
    search = Search.resume(path, model, optimizer)
    for _ in search:
        Loop(model, optimizer)()
    assert all(search.computed(number).sparse == whole.computed(number).sparse for number in range(4))
    assert str(Search.resume(path)) == str(search) and "level 2: 0, 3, 6, 9 sparse: a step takes" in str(search)
    for number in range(4):
        assert Search.resume(path).computed(number) == search.computed(number)
        again = search.trained(number)
        assert all(torch.equal(value, again[name]) for name, value in whole.trained(number).items())


def test_verify_trains_its_arms_by_the_same_engine() -> None:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    search = Search(model, optimizer, levels=1, rate=0.5, engine="sparse")
    loop = Loop(model, optimizer)
    for _ in search:
        loop()
    seen: list[int] = []

    def train(level: Any) -> None:
        loop()
        seen.append(loop.sparse[-1])
        level.report(accuracy=float(torch.rand(())))

    search.verify(train, level=1, replicates=2, controls=["random"])
    assert seen == [0, 4, 4] * 2 and not [*layers.sparse_layers(model)]


def test_averages_and_copies_of_a_level_are_plain_and_evaluate_as_it_does() -> None:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    average = torch.optim.swa_utils.AveragedModel(model)
    for level in Search(model, optimizer, levels=1, rate=0.5, engine="sparse", also=[average]):
        for _ in range(3):
            Loop(model, optimizer)(1)
            average.update_parameters(model)
        twin, own = copy.deepcopy(model).eval(), model.eval()
        assert not [*layers.sparse_layers(twin)] and not [*layers.sparse_layers(average)]
        assert torch.allclose(twin(INPUTS), own(INPUTS), atol=1e-12)
        level.check()


def test_weights_that_come_alive_are_found_whichever_way_the_layers_compute() -> None:
    model = network()
    layer: Any = model[6]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(GuardLost, match="found 324 that are not"):
        for level in Search(model, optimizer, levels=1, rate=0.5, engine="sparse"):
            Loop(model, optimizer)()
            with torch.no_grad():
                layer.weight += 0.1
            dense = functional.linear(torch.ones(1, 54).double(), layer.weight, layer.bias)
            assert torch.allclose(layer(torch.ones(1, 54).double()), dense)
            level.check()


def test_how_a_level_computed_that_a_file_does_not_say_is_not_known(tmp_path: Path) -> None:
    path = tmp_path / "search.safetensors"
    searched("sparse", levels=1, path=path)
    about, progress = checkpoint.read(path, 0, 1)
    search = Search._read(path, about, replace(progress, computed=()))
    with pytest.raises(BadInput, match="level 1: expected a level of which the file says how it computed"):
        search.computed(1)
    searched("dense", levels=1, path=(plain := tmp_path / "dense.safetensors"))
    assert Search.resume(plain).computed(1) == Computed() and b'"computed' not in plain.read_bytes()


def test_a_level_without_a_sparse_layer_is_in_the_table_with_the_reasons(pretended: list[choice.Call]) -> None:
    search, _, _ = searched("auto", levels=1, rate=0.1)
    assert str(search).endswith("level 1: all layers dense (4: it is faster so here)" + _step(search))


def _step(search: Search) -> str:
    return f": a step takes {1000 * (search.computed(1).step_seconds or 0):.3g} ms"


def test_an_engine_that_there_is_not_is_refused() -> None:
    model = network()
    with pytest.raises(BadInput, match="one of auto, dense, sparse"):
        Search(model, torch.optim.SGD(model.parameters(), lr=0.1), levels=1, engine="fast")


@pytest.mark.parametrize("engine", ["auto", "dense", "sparse"])
def test_the_process_keeps_its_memory_for_the_engine_that_is_asked_for_alone(
    engine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = Mock()
    monkeypatch.setattr(allocator, "keep", kept)
    searched(engine)
    assert bool(kept.call_count) == (engine != "dense")


def test_what_it_gained_is_said_where_it_is_known() -> None:
    whole, level = Computed(step_seconds=0.03), Computed(("fc1", "fc2"), {}, 0.0125)
    assert level.sentence(whole) == "fc1, fc2 sparse: a step takes 12.5 ms, 2.40 times as fast as level 0's"
    assert level.sentence() == "fc1, fc2 sparse: a step takes 12.5 ms"
    assert Computed(tuple("abcdef")).sentence() == "a, b, c and 3 others sparse"
    assert Computed().sentence() == "all layers dense"
