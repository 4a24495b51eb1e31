"""Dynamics: masks that move, and weights that are made of others, while a network trains."""

import itertools
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from tombola import weights
from tombola.dynamics import Course, Dynamics, Setting, Timeline
from tombola.lab import recorder
from tombola.lab.attempt import do
from tombola.lab.kinds import Init, Prune, Train
from tombola.lab.runs import Network, Outcome, Run, ancestry
from tombola.lab.store import Store
from tombola.lab.worker import Worker
from tombola.mask import Mask
from tombola.recipe import Recipe

NETWORK = Network("lenet-20-10", (1, 8, 8), 10)
INIT = Init(NETWORK, "glorot-normal", init_seed=3)
OPTIMIZERS: dict[str, dict[str, Any]] = {
    "momentum": {"name": "sgd", "lr": 0.1, "momentum": 0.9, "weight_decay": 1e-3},
    "adam": {"name": "adam", "lr": 1e-2, "weight_decay": 1e-3},
}
SPARSE = Prune(NETWORK, INIT, None, "random", "layer", (("linear", 0.8), ("output", 0.5)), (), score_seed=3)


class Halfway(Dynamics):
    """Scores are trained, weights are frozen; those of the higher half of a layer's scores live."""

    name: Literal["halfway"] = "halfway"

    def settles(self, timeline: Timeline) -> int:
        return (timeline.begin + timeline.until) // 2

    def course(self, setting: Setting) -> Course:
        return HalfwayCourse(setting)


class Higher(torch.autograd.Function):
    """1 for the higher half of scores; its gradient goes straight through."""

    @staticmethod
    def forward(scores: Tensor) -> Tensor:
        return (scores >= scores.median()).to(scores.dtype)

    @staticmethod
    def setup_context(*_: Any) -> None:
        """Nothing is kept."""

    @staticmethod
    def backward(_: Any, gradient: Tensor) -> Tensor:
        return gradient


def higher(scores: Tensor) -> Tensor:
    """h(s)."""
    made: Tensor = Higher.apply(scores)  # type: ignore[no-untyped-call]
    return made


class Scored(nn.Module):
    """w * h(s)."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.scores = nn.Parameter(weight.detach().abs().clone())

    def forward(self, weight: Tensor) -> Tensor:
        return weight * higher(self.scores)


class HalfwayCourse(Course):
    """The course of `Halfway`."""

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        self.layers: dict[str, Scored] = {}
        for name in setting.mask:
            layer: Any = setting.model.get_submodule(name.rpartition(".")[0])
            self.layers[name] = Scored(layer.weight)
            parametrize.register_parametrization(layer, "weight", self.layers[name])
            layer.parametrizations.weight.original.requires_grad_(False)

    @property
    def mask(self) -> Mask:
        return Mask({name: higher(layer.scores).bool() for name, layer in self.layers.items()})

    def weights(self) -> dict[str, Tensor]:
        held = {name: value for name, value in weights.of(self.setting.model).items() if "parametrizations" not in name}
        layers: dict[str, Any] = {
            name: self.setting.model.get_submodule(name.rpartition(".")[0]) for name in self.layers
        }
        return held | {name: layer.weight.detach().clone() for name, layer in layers.items()}


@pytest.fixture(autouse=True)
def stops(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recorder, "STOPS", 4)


def training(dynamics: dict[str, Any] | Dynamics | None, optimizer: str = "momentum", **changes: Any) -> Train:
    recipe = {"model": "lenet-20-10", "data": "digits", "length": "24it", "batch": 60, "dynamics": dynamics}
    made = Train(
        start=INIT,
        mask=None,
        recipe=Recipe.model_validate(recipe | {"optimizer": OPTIMIZERS[optimizer]}),
        data_fingerprint="85eb",
        split_seed=1,
        order_seed=2,
        begin=0,
        until=24,
        evaluate_every=3,
        test_every=6,
        dynamics_seed=5 if dynamics else None,
    )
    return replace(made, **changes)


def gradual(**changes: Any) -> Train:
    values = {"name": "gradual", "every": 4, "end": "17it"} | changes
    return training(values, further=(("target", SPARSE),))


def scored(optimizer: str = "momentum", **values: Any) -> Train:
    return training(values, optimizer, further=(("target", SPARSE),))


CASES: dict[str, Callable[[], Train]] = {
    "gradual": gradual,
    "gradual, global": lambda: gradual(scope="global"),
    "halfway": lambda: training(Halfway()),
    **{
        f"{name}, {optimizer}, {choices}": partial(scored, optimizer, name=name, **choices)
        for optimizer in OPTIMIZERS
        for name, choices in (
            ("edge-popup", {}),
            ("edge-popup", {"scope": "global", "scaled": True, "weights": "initial"}),
            ("supermask", {"rescaled": True, "weights": "initial"}),
            ("supermask", {"counted": True, "begin": None}),
            ("signed-supermask", {}),
            ("gem-miner", {"every": "5it"}),
        )
    },
}


def performed(run: Run, root: Path) -> Store:
    """A store that has it."""
    worker = Worker(Store(root).open(), None, "reference")
    for each in ancestry([run]):
        if not worker.store.has(each):
            assert do(each, worker, lambda *seen: None) == ("stored",)
    return worker.store


def outcomes(store: Store) -> dict[str, bytes]:
    found = (path for path in (store.root / "runs").rglob("*") if path.is_file() and path.name != "provenance.json")
    return {str(path.relative_to(store.root)): path.read_bytes() for path in found}


# ---------------------------------------------------------------- of all dynamics


class Stopped(BaseException):
    """What no code catches: as near to `kill -9` as a test in one process comes."""


@pytest.mark.parametrize("case", CASES)
def test_a_training_that_is_stopped_again_and_again_has_the_bytes_of_an_undisturbed_one(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # S2 S4 R9
    run = CASES[case]()
    undisturbed = performed(run, tmp_path / "whole")
    store, kept, at = performed(SPARSE, tmp_path / "parts"), Store.keep, list[int]()
    undisturbed = performed(SPARSE, undisturbed.root)

    def keep(self: Store, run: Any, state: Outcome) -> None:
        kept(self, run, state)
        at.append(state.values["step"])
        raise Stopped

    monkeypatch.setattr(Store, "keep", keep)
    ticks = itertools.count()
    while not store.has(run):
        try:
            late = Worker(store, None, "reference", clock=lambda: 1000.0 * next(ticks))
            assert do(run, late, lambda *seen: None) == ("stored",)
        except Stopped:
            continue
    assert at == [3, 4, 6, 8, 9, 12, 15, 16, 18, 20, 21]
    assert outcomes(store) == outcomes(undisturbed)


@pytest.mark.parametrize("case", CASES)
def test_the_outcome_has_the_mask_at_the_end_and_its_weights(case: str, tmp_path: Path) -> None:
    run = CASES[case]()
    store = performed(run, tmp_path)
    values, mask, trained = store.values(run), store.mask(run), store.weights(run)
    assert not run.keeps_mask and store.masked_by(run) == run
    assert values["alive"] == mask.alive and values["counts"] == mask.counts and values["density"] == mask.density
    assert isinstance(values["macs"], int) and values["macs"] > 0
    assert set(trained) == set(store.weights(INIT)), "the names are those of a plain network"
    for name, alive in mask.items():
        assert not trained[name][~alive].any() and trained[name][alive].all() and 0 < int(alive.sum()) < alive.numel()


@pytest.mark.parametrize("case", CASES)
def test_an_early_stop_waits_for_the_mask_to_settle(case: str, tmp_path: Path) -> None:
    run = CASES[case]()
    dynamics = run.recipe.dynamics
    assert dynamics is not None
    settled = dynamics.settles(Timeline(0, 24, 20))
    values = performed(run, tmp_path).values(run)
    curve = values["curve"]
    allowed = {s: v for s, v in zip(curve["step"], curve["validation_loss"], strict=True) if s >= settled}
    assert values["early_stop_step"] == min(allowed, key=lambda step: allowed[step])
