"""The anatomy of a mask: paths, histograms, degrees and densities, each beside an answer of another way."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from tombola import mask, prunable
from tombola.errors import BadInput
from tombola.lab.attempt import do
from tombola.lab.kinds import Measured
from tombola.lab.plan import Plan, plan
from tombola.lab.results import results
from tombola.lab.spec_file import read
from tombola.lab.store import Store
from tombola.lab.studies.anatomy import AnatomyFinding
from tombola.lab.worker import Worker
from tombola.layers import Layout
from tombola.mask import Mask
from tombola.study import anatomy, paths

SEEDS = st.integers(0, 2**32 - 1)


def network(*widths: int, seed: int, density: float) -> tuple[nn.Sequential, Mask]:
    """Linear layers without biases, all weights positive, and a random mask, applied."""
    draw = torch.Generator().manual_seed(seed)
    model = nn.Sequential(*(nn.Linear(*sizes, bias=False) for sizes in pairwise(widths)))
    alive = {name: torch.rand(each.shape, generator=draw) < density for name, each in model.named_parameters()}
    with torch.no_grad():
        for name, each in model.named_parameters():
            each.copy_(alive[name])
    return model, Mask(alive)


@given(st.lists(st.integers(1, 4), min_size=2, max_size=5), SEEDS, st.floats(0.1, 0.9))
def test_weights_on_a_path_are_those_that_the_output_depends_on(widths: list[int], seed: int, density: float) -> None:
    """Where nothing is negative, nothing cancels: what the output has a gradient by is on a path."""
    model, masks = network(*widths, seed=seed, density=density)
    model(torch.ones(1, widths[0])).sum().backward()
    found = paths.effective(list(paths.of_model(masks, model).values()))
    felt = [parameter.grad for parameter in model.parameters()]
    for alive, links, gradient in zip(masks.values(), found, felt, strict=True):
        assert gradient is not None
        assert np.array_equal(links, (alive & (gradient != 0)).numpy())
    shares = anatomy.on_paths({name: alive.numpy() for name, alive in masks.items()}, paths.of_model(masks, model))
    for (name, alive), links in zip(masks.items(), found, strict=True):
        assert shares[name] == pytest.approx(links.sum() / max(int(alive.sum()), 1))


@given(SEEDS)
def test_units_on_a_path_pass_something_on(seed: int) -> None:
    """An input is on a path where the output depends on it; a unit where it does on both sides."""
    model, masks = network(4, 3, 3, 2, seed=seed, density=0.4)
    values = [torch.ones(1, 4, requires_grad=True)]
    for layer in model:
        values.append(layer(values[-1]))
        values[-1].retain_grad()
    values[-1].sum().backward()
    wanted = [float(((value == 0) | (value.grad == 0)).double().mean()) for value in values]
    assert anatomy.dead_units(list(paths.of_model(masks, model).values())) == wanted


def test_channels_are_units_and_a_flattened_map_is_read_place_by_place() -> None:
    model = nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Linear(3 * 4, 2))
    alive = {name: torch.zeros_like(each) for name, each in prunable.full(model).items()}
    alive["0.weight"][1, 0, 2, 2] = alive["4.weight"][0, 7] = alive["4.weight"][1, 8] = True  # 4 to 7 are of channel 1
    links = paths.of_model(Mask(alive), model)
    assert [each.tolist() for each in links.values()] == [
        [[False, False], [True, False], [False, False]],
        [[False, True, False], [False, False, True]],
    ]
    assert anatomy.on_paths({name: each.numpy() for name, each in alive.items()}, links) == {
        "0.weight": 1.0,
        "4.weight": 0.5,
    }
    assert anatomy.dead_units(list(links.values())) == [1 / 2, 2 / 3, 1 / 2]


def test_groups_of_a_convolution_do_not_meet() -> None:
    model = nn.Sequential(nn.Conv2d(4, 6, 1, groups=2))
    (links,) = paths.of_model(prunable.full(model), model).values()
    assert links.tolist() == [[True, True, False, False]] * 3 + [[False, False, True, True]] * 3


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 2)


@pytest.mark.parametrize(
    "inside",
    [Residual(), nn.LayerNorm(2), nn.GRU(2, 2), nn.MultiheadAttention(2, 1)],
    ids=lambda each: type(each).__name__,
)
def test_units_that_meet_otherwise_are_not_followed(inside: nn.Module) -> None:
    model = nn.Sequential(nn.Linear(2, 2), inside, nn.Linear(2, 2))
    with pytest.raises(BadInput, match=r"1 \(\w+\): expected an nn.Sequential of linear layers"):
        paths.of_model(prunable.full(model), model)
    with pytest.raises(BadInput, match=r"mask of b: expected a layer that reads the 3 units of a.* found 4 inputs"):
        paths.chain(Mask({"a": torch.ones(3, 2).bool(), "b": torch.ones(2, 4).bool()}))


@given(SEEDS, st.floats(0.05, 0.95))
def test_histograms_count_what_lives_and_what_does_not(seed: int, density: float) -> None:
    drawn = np.random.default_rng(seed)
    initial, trained = drawn.normal(size=(2, 20, 30)) * 3
    alive = drawn.random((20, 30)) < density
    found, moved = anatomy.beginnings(initial, alive), anatomy.moves(initial, trained, alive, 1.0)
    for each in (found["histogram"], *moved["histograms"].values()):
        assert (sum(each["kept"]), sum(each["rest"])) == (alive.sum(), (~alive).sum())
    scaled = initial / initial.std()
    assert found["near"] == pytest.approx((np.mean(np.abs(scaled[alive]) < 0.5), np.mean(np.abs(scaled) < 0.5)))
    assert moved["moved"][1] == pytest.approx(np.abs(trained - initial)[~alive].mean())


@pytest.mark.parametrize("layout", [Layout(), Layout(inputs=0, outputs=1), Layout(groups=2)])
def test_degrees_of_random_masks_vary_as_chance_says(layout: Layout) -> None:
    shape = (8, 12, 2)
    like, sides = Mask({"w": torch.arange(192).view(shape) % 5 == 0}), {"into": 8, "out of": 12 * layout.groups}
    if layout.outputs:
        sides = {"into": 12, "out of": 8}
    masks = [mask.random_like(like, seed)["w"].numpy() for seed in range(400)]
    found = [anatomy.degrees(alive, layout) for alive in masks]
    for side, units in sides.items():
        own = np.array([each[side]["variation"][0] for each in found])
        chance = found[0][side]["variation"][1]
        assert (own**2).mean() == pytest.approx(chance**2, rel=0.06)
        kept = np.mean([each[side]["kept"] for each in found], axis=0)
        assert np.abs(kept - found[0][side]["chance"]).max() < 0.6 * units / 192 * np.sqrt(8)
    alive = masks[0]
    into = alive.sum(axis=(0, 2)) if layout.outputs else alive.sum(axis=(1, 2))
    assert found[0]["into"]["variation"][0] == pytest.approx(into.std() / into.mean())


def test_one_unit_that_keeps_all_is_uneven() -> None:
    alive = np.zeros((5, 10), bool)
    alive[2] = True
    found = anatomy.degrees(alive, Layout())
    assert found["into"]["variation"][0] == pytest.approx(2) and found["out of"]["variation"][0] == 0
    assert found["into"]["kept"][0] == 0 and found["into"]["kept"][-1] == pytest.approx(0.9, abs=0.1)


# ---------------------------------------------------------------- the study

CHANGES = ["levels=2", "replicates=2", "recipe.model=lenet-20-10", "recipe.length=40it", "evaluate.every=20it"]
ASKED = ["arms=ticket,random,noisy-1", "study.anatomy={levels=[1,2],arms=['ticket','random','noisy-1']}"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Plan, Worker]:
    wanted = plan(read("digits-lenet", [*CHANGES, *ASKED, "rewind=6it"]))
    worker = Worker(Store(tmp_path_factory.mktemp("store")).open(), None)
    for run in wanted.runs:
        assert do(run, worker, lambda *_: None) == ("stored",)
    return wanted, worker


def test_it_is_asked_beside_what_a_network_began_with_and_how_the_dense_one_went(finished: Any) -> None:
    wanted, worker = finished
    rows = {(row.arm, row.level, row.replicate): row.run for row in wanted.rows}
    assert len(wanted.questions) == 2 * 2 * 3
    for question in wanted.questions:
        measured, own = question.run, rows[question.arm, question.level, question.replicate]
        dense = rows["dense", 0, question.replicate]
        assert isinstance(measured, Measured) and measured.trained == own and measured.further
        further = dict(measured.further)
        assert further["dense"] == dense and further["dense initial"] == dense.start.start
        assert further["initial"] == (own.start if question.arm == "noisy-1" else dense.start.start)
        values, alive = worker.store.values(measured), worker.store.mask(own.mask)
        began = worker.store.weights(further["initial"])
        assert set(values["layers"]) == {"inputs", *alive}
        for name, layer in ((name, values["layers"][name]) for name in alive):
            assert sum(layer["begin"]["histogram"]["kept"]) == alive.counts[name]
            kept = began[name][alive[name]].abs() < 0.5 * began[name].double().std(correction=0)
            assert layer["begin"]["near"][0] == pytest.approx(float(kept.double().mean()))
            assert layer["density"][0] == alive.counts[name] / alive[name].numel()


def test_each_finding_is_of_one_arm_and_another_arm_stands_beside_the_first(finished: Any) -> None:
    wanted, worker = finished
    found = [each for each in results(wanted, worker.store).findings if isinstance(each, AnatomyFinding)]
    aspects = {aspect.name for aspect in anatomy.ASPECTS}
    assert {(each.arm, each.level, each.aspect) for each in found} == {
        (arm, level, aspect) for arm in ("ticket", "random", "noisy-1") for level in (1, 2) for aspect in aspects
    }
    for each in found:
        assert "Rewound to step 6: At" in each.sentence and each.sentence.endswith("; n = 2.")
        assert all((layer.more is None) == (each.arm == "ticket") for layer in each.layers)
        assert each.headline == (each.arm == "ticket" and each.level == 2)
    ticket, noisy = (
        next(each for each in found if (each.arm, each.aspect, each.level) == (arm, "density", 2))
        for arm in ("ticket", "noisy-1")
    )
    assert [layer.more and layer.more.mean for layer in noisy.layers] == [0, 0, 0] and ticket.density == noisy.density


def test_one_replicate_decides_nothing() -> None:
    aspect = anatomy.ASPECTS[0]
    layers = anatomy.compared(aspect, {0: {"w": {"begin": {"near": (0.1, 0.4)}}}}, 0.95)
    assert anatomy.sentence(aspect, 0.1, "ticket", layers).endswith(
        "w 10.0% beside 40.0% (-30.0 points). One replicate decides nothing; n = 1."
    )


def test_a_layer_that_stays_dense_is_on_the_way_all_the_same(tmp_path: Any) -> None:
    asked = ["study.anatomy.levels=1", "recipe.length=4it", "levels=1", "replicates=1", "arms=ticket"]
    values = measured_at_the_end(tmp_path, "digits-lenet", [*asked, "prune={rate=0.5, keep='fc2.weight'}"])
    assert set(values["layers"]) == {"inputs", "fc1.weight", "fc2.weight", "output.weight"}
    assert set(values["layers"]["fc2.weight"]) == {"dead"}, "whose weights are all alive, but whose units may be dead"
    assert values["layers"]["output.weight"]["effective"][0] > 0.9


def test_a_model_with_sums_has_no_paths_and_a_layer_that_is_wholly_kept_has_no_rest(tmp_path: Any) -> None:
    asked = ["study.anatomy.levels=1", "recipe.model=resnet-8-w4", "recipe.length=2it", "levels=1", "replicates=1"]
    values = measured_at_the_end(tmp_path, "digits", [*asked, "arms=ticket", "prune={rate=0.001}"])
    assert not any("effective" in layer or "dead" in layer for layer in values["layers"].values())
    assert any(layer["moves"] is None for layer in values["layers"].values())


def measured_at_the_end(folder: Path, preset: str, changes: list[str]) -> dict[str, Any]:
    """What is measured of the one ticket there is; that something is found, and no aspect that was not measured."""
    wanted, worker = plan(read(preset, [*changes, "evaluate.every=2it"])), Worker(Store(folder).open(), None)
    for run in wanted.runs:
        assert do(run, worker, lambda *_: None) == ("stored",)
    (question,) = wanted.questions
    values = worker.store.values(question.run)
    found = {each.values["aspect"] for each in results(wanted, worker.store).findings}
    assert "density" in found and ("effective" in found) == ("dead units" in found) == ("inputs" in values["layers"])
    return values
