"""Laws of the search methods, all of them: counts, dead weights, interruption, options, workers.

Each method makes the tickets of a small experiment, in every scope for rounds; what its trainings left is looked at.
"""

import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from tombola.cli import main
from tombola.lab.attempt import do
from tombola.lab.kinds import Train
from tombola.lab.plan import Plan, plan
from tombola.lab.runs import untold
from tombola.lab.spec import Experiment, Spec
from tombola.lab.store import Store
from tombola.lab.worker import Worker
from tombola.methods import METHODS
from tombola.prune import count

RECIPE: dict[str, Any] = {
    "model": "lenet-20-10",
    "data": "digits",
    "length": "30it",
    "batch": 60,
    "optimizer": {"name": "sgd", "lr": 0.1, "momentum": 0.9, "weight_decay": 1e-4},
}
DENSITIES = [0.4, 0.1]
# Of methods whose papers have them train for long, how long it takes here.
SHORT: dict[str, Any] = {name: {"penalty_step": 0.25, "hold": 10} for name in ("dual", "dual-iterative")}
every_method = pytest.mark.parametrize("method", METHODS)


def planned(method: str, scope: str = "layer", **changes: Any) -> Plan:
    spec: dict[str, Any] = {
        "replicates": 1,
        "densities": DENSITIES,
        "arms": ["ticket"],
        "method": method,
        "search": {},
        "device": "cpu",
        "engine": "reference",
        "recipe": RECIPE,
        "prune": {"scope": scope, "rate": 0.5},
        "evaluate": {"every": "10it", "test_every": "10it"},
    }
    spec |= changes
    spec["search"] = SHORT.get(method, {}) | spec["search"]
    return plan(Experiment(name="tiny", spec=Spec.model_validate(spec)))


def done(made: Plan, folder: Path) -> Store:
    """A store in which all runs of a plan are finished."""
    store = Store(folder).open()
    worker = Worker(store, None, "reference", measured={})
    for run in made.runs:
        assert do(run, worker, untold) == ("stored",), run
    return store


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The plan and the store of a method in a scope, made once."""

    @cache
    def made(method: str, scope: str) -> tuple[Plan, Store]:
        wanted = planned(method, scope)
        return wanted, done(wanted, tmp_path_factory.mktemp(method))

    return made


def tickets(made: Plan) -> Iterator[tuple[float, Train]]:
    for row in made.rows:
        if row.arm == "ticket":
            yield DENSITIES[row.level - 1], row.run


@pytest.mark.parametrize("scope", ["layer", "global"])
@every_method
def test_every_level_has_exactly_as_many_weights_as_its_density_says(method: str, scope: str, finished: Any) -> None:
    made, store = finished(method, scope)  # C1 C2 C9
    for density, ticket in tickets(made):
        mask = store.mask(store.masked_by(ticket))
        assert mask.alive == mask.total - count(1 - density, mask.total)
        assert store.values(ticket)["alive"] == mask.alive


@every_method
def test_no_dead_weight_is_anything_but_zero(method: str, finished: Any) -> None:  # M1 M2 M10
    made, store = finished(method, "layer")
    for _, ticket in tickets(made):
        trained, mask = store.weights(ticket), store.mask(store.masked_by(ticket))
        assert all(bool((trained[name][~alive] == 0).all()) for name, alive in mask.items())
        assert all(bool((trained[name][alive] != 0).any()) for name, alive in mask.items() if alive.any())


def test_one_worker_and_two_find_the_same_masks_side_by_side(tmp_path: Path) -> None:
    """All methods as arms of one experiment, by the command that people type."""
    of_gaussian = {"deterministic", "transplant"}  # beside networks with Gaussian weights alone
    others = [name for name in METHODS if name not in {"iterative", *of_gaussian}]
    tables = SHORT | {name: {"every": "4it"} for name in METHODS if "early-bird" in name}  # the training is short
    made = planned("iterative", arms=["ticket", *others], arm=tables)
    lines = [
        f"arms = {json.dumps(['ticket', *others])}",
        f"densities = {DENSITIES}",
        "replicates = 1",
        'engine = "reference"',
    ]
    lines += [
        'device = "cpu"',
        "[prune]",
        "rate = 0.5",
        "[evaluate]",
        'every = "10it"',
        'test_every = "10it"',
        "[recipe]",
    ]
    lines += [f"{name} = {json.dumps(value)}" for name, value in RECIPE.items() if name != "optimizer"]
    lines += ['optimizer = {name = "sgd", lr = 0.1, momentum = 0.9, weight_decay = 1e-4}']
    lines += [
        "\n".join([f"[arm.{name}]", *(f"{choice} = {json.dumps(value)}" for choice, value in table.items())])
        for name, table in tables.items()
    ]
    (tmp_path / "all.toml").write_text("\n".join(lines))
    masks: list[dict[str, Any]] = []
    for workers in (1, 2):
        store = tmp_path / f"store-{workers}"
        assert main(["run", str(tmp_path / "all.toml"), "--store", str(store), "--workers", str(workers)]) == 0
        opened = Store(store).open()
        found = {row.run.key: opened.living(row.run) for row in made.rows}
        masks.append(
            {key: mask and {name: alive.tolist() for name, alive in mask.items()} for key, mask in found.items()}
        )
    assert masks[0] == masks[1] and len(made.rows) == 1 + 2 * (1 + len(others))


# Another value of every choice that a method has of its own, and of those that all have.
OTHER: dict[str, Any] = {
    "aws": False,
    "basis": "orthogonal",
    "begin": "3it",
    "beta": 2.0,
    "by": "channel",
    "ceiling": 0.5,
    "counted": True,
    "curve": "linear",
    "cycles": 2,
    "decay": "cosine",
    "distance": "chance",
    "end": "12it",
    "every": "2it",
    "examples": 7,
    "extrusion_batch": 30,
    "fraction": 0.2,
    "hold": 5,
    "iterations": 3,
    "length": "20it",
    "map": "interpolated",
    "masks": "random-uniform",
    "optimizer": {"name": "adam", "lr": 0.01},
    "penalty_step": 0.5,
    "pick": "smallest",
    "rate": 0.3,
    "remembered": 3,
    "rescaled": True,
    "rise": "square",
    "scaled": True,
    "schedule": {"name": "linear"},
    "scope": "layer",
    "score": "gradient",
    "slimming": 1e-4,
    "source": "lenet-20-20-10",
    "split": "examples",
    "weights": "initial",
    "within": 0.3,
}
# In whole numbers of steps; and what is the default of some methods.
OTHERWISE: dict[tuple[str, str], Any] = {
    **{(name, "every"): 3 for name in ("gradual", "set", "rigl", "dual", "dual-iterative")},
    **{(name, "optimizer"): {"name": "sgd", "lr": 0.01} for name in ("dual", "dual-iterative")},
    **{(name, "scope"): "global" for name in METHODS if METHODS[name].options.by_rounds or name == "random-uniform"},
    **{(name, "scope"): "global" for name in ("gradual", "early-bird", "early-bird-continued")},
    **{(name, "scope"): "global" for name in ("edge-popup", "supermask", "signed-supermask")},
    ("supermask", "begin"): 0.3,
    **{(name, "score"): "magnitude" for name in ("set", "rigl")},
    ("colt", "score"): "random",
    ("rigl", "decay"): "constant",
    ("transplant", "weights"): "trained",
}
COMMON = ("data", "batch", "precision", "lr", "retrain")  # of the search, whatever the method
CHOICES = [
    (name, choice)
    for name, method in METHODS.items()
    for choice in method.options.model_fields
    if choice not in {*method.options.ignored, *COMMON}
]


@pytest.mark.parametrize(("method", "choice"), CHOICES)
def test_every_choice_is_in_the_keys(method: str, choice: str) -> None:  # S9 K8
    value = OTHERWISE.get((method, choice), OTHER.get(choice))
    assert value is not None, f"a value of {choice}, which {method} lets one choose"
    before, after = (
        {row.run.key for row in planned(method, search=search).rows if row.level} for search in ({}, {choice: value})
    )
    # What is drawn, or read off the initial weights, is the same however long one trains, on however many examples;
    # and LeNet has no normalisation, which AWS would soften; to the network itself each rule is the same map.
    same = choice == "length" and ("random" in method or method == "magnitude-init")
    known = (("sign-in", "examples"), ("winning-sign", "aws"), ("elastic", "map"))
    assert (before == after) == (same or (method, choice) in known)
