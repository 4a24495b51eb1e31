"""The parts into which a mask falls: of masks made by hand, of random blocks, and in the study."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import tombola
from tombola.errors import BadInput
from tombola.lab.attempt import do
from tombola.lab.plan import plan
from tombola.lab.results import results
from tombola.lab.spec_file import read
from tombola.lab.store import Store
from tombola.lab.studies.components import ComponentsFinding
from tombola.lab.worker import Worker
from tombola.mask import Mask
from tombola.study.components import Part, components, of_parts, parts_of, told


def of(**layers: Any) -> Mask:
    return Mask({name: torch.tensor(alive).bool() for name, alive in layers.items()})


def test_two_tasks_side_by_side_are_two_parts() -> None:
    alive = of(
        fc1=[[1, 1, 0, 0], [0, 1, 0, 0], [0, 0, 1, 1], [0, 0, 0, 0]],  # unit 3 reads nothing
        output=[[1, 1, 0, 0], [0, 0, 1, 1]],
    )
    assert components(alive) == (Part((0, 1), (0,), 5, 5), Part((2, 3), (1,), 4, 3))
    assert told(components(alive)) == (
        "it falls apart into 2 parts: inputs 0-1 with output 0; inputs 2-3 with output 1"
    )


def test_what_no_path_goes_through_joins_nothing() -> None:
    """Unit 2 reads two inputs, and nobody hears of it; unit 3 is heard by both outputs, and reads nothing."""
    alive = of(fc1=[[1, 0], [0, 1], [1, 1], [0, 0]], output=[[1, 0, 0, 1], [0, 1, 0, 1]])
    assert [(part.inputs, part.outputs) for part in components(alive)] == [((0,), (0,)), ((1,), (1,))]


def test_a_mask_without_a_path_has_no_part() -> None:
    alive = of(fc1=[[1, 0], [0, 0]], output=[[0, 1]])
    assert components(alive) == () and told(()) == "it has no path from an input to an output left"
    assert of_parts(()) == {"parts": 0, "largest": 0.0, "each": []}


@given(st.integers(1, 5), st.integers(0, 2**32 - 1))
def test_blocks_that_are_shuffled_are_found_again(blocks: int, seed: int) -> None:
    draw = np.random.default_rng(seed)
    sizes = draw.integers(1, 4, (blocks, 4))  # units of each block in each layer
    owner = [draw.permutation(np.repeat(np.arange(blocks), sizes[:, layer])) for layer in range(4)]
    layers = {f"fc{at}": owner[at + 1][:, None] == owner[at][None] for at in range(3)}
    found = components(of(**{name: each.tolist() for name, each in layers.items()}))
    assert len(found) == blocks
    for part in found:
        (block,) = {int(owner[0][place]) for place in part.inputs}
        assert part.inputs == tuple(np.flatnonzero(owner[0] == block).tolist())
        assert part.outputs == tuple(np.flatnonzero(owner[3] == block).tolist())
        a, b, c, d = (int(size) for size in sizes[block])
        assert (part.units, part.links) == (a + b + c + d, a * b + b * c + c * d)
    assert parts_of(of_parts(found)) == found


def test_a_layer_that_the_mask_does_not_name_is_dense_where_the_model_says_that_it_is_there() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2))
    alive = of(**{"0.weight": [[1, 0], [0, 1]], "4.weight": [[1, 0], [0, 1]]})
    assert len(tombola.components(alive)) == 2 and len(tombola.components(alive, model)) == 1


def test_the_parts_of_tickets_stand_beside_those_of_random_masks(tmp_path: Path) -> None:
    changes = ["levels=2", "replicates=2", "recipe.model=lenet-6", "recipe.length=20it", "evaluate.every=10it"]
    asked = ["arms=ticket,random", "study.components={levels=[2],arms=['ticket','random'],draws=7}", "prune.rate=0.9"]
    wanted, worker = plan(read("digits-lenet", [*changes, *asked])), Worker(Store(tmp_path).open(), None)
    for run in wanted.runs:
        assert do(run, worker, lambda *_: None) == ("stored",)
    for question in wanted.questions:
        values = worker.store.values(question.run)
        alive = worker.store.mask(question.density_of.mask)  # type: ignore[arg-type]
        assert parts_of(values) == components(alive) and len(values["chance"]) == 7
    found = [each for each in results(wanted, worker.store).findings if isinstance(each, ComponentsFinding)]
    assert [each.arm for each in found] == ["ticket", "random"]
    first = worker.store.values(wanted.questions[0].run)
    assert told(parts_of(first)) in found[0].sentence and "; n = 2." in found[0].sentence


def test_models_that_are_not_followed_are_refused() -> None:
    with pytest.raises(BadInput, match=r"study.components: expected a model whose layers each read .* 'resnet-20'"):
        read("digits", ["recipe.model=resnet-20", "study.components.levels=1"])
    with pytest.raises(BadInput, match=r"study.components.arms: expected arms of the spec \(ticket\), found 'random'"):
        read("digits-lenet", ["arms=ticket", "study.components={levels=[1],arms=['random']}"])
