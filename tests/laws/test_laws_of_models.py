"""Laws of the networks of a plan: whatever stands beside a ticket has its weights made as the ticket has them.

Coordinates, means and weights have the same names and shapes, so that nothing fails where one is read as the other.
"""

from collections.abc import Iterable
from typing import Any

import pytest
from pydantic import ValidationError

from tombola.controls import CONTROLS
from tombola.errors import BadInput
from tombola.lab.kinds import Cut, DerivedWeights, Means, Prune, StretchedMask, StretchedWeights, Train
from tombola.lab.members import BUILT_IN
from tombola.lab.plan import plan
from tombola.lab.replicate import Replicate
from tombola.lab.runs import Run, ancestry
from tombola.lab.searches import trainings
from tombola.lab.spec import Experiment, Spec
from tombola.lab.spec_checks import contradictions
from tombola.methods import METHODS
from tombola.objective import TEACHER

PLAIN: dict[str, Any] = {
    "replicates": 1,
    "levels": 2,
    "reinits": 1,
    "rewind": "6it",
    "recipe": {
        "model": "lenet-20-10",
        "data": "digits",
        "length": "24it",
        "batch": 60,
        "optimizer": {"name": "adam", "lr": 1e-2},
    },
    "prune": {"rate": 0.4},
    "evaluate": {"every": "6it", "test_every": "24it"},
}
GAUSSIAN = {"recipe": PLAIN["recipe"] | {"model": "lenet-20-10+gaussian-10", "objective": {"name": "elbo"}}}
SETTINGS: dict[str, dict[str, Any]] = {
    "plain": {},
    "from the beginning": {"rewind": "0it"},
    "searched on less": {"search": {"length": "12it"}},
    "retrained": {"search": {"retrain": True}},
    "other states": {"carry_optimizer": True},
    "dct": {"prune": {"rate": 0.4, "basis": "dct"}},
    "orthogonal": {"prune": {"rate": 0.4, "basis": "orthogonal"}},
    "svd": {"prune": {"rate": 0.4, "basis": "svd"}},
    "gaussian": GAUSSIAN,
    "gaussian by means": GAUSSIAN | {"prune": {"rate": 0.4, "score": "snr"}},
    "gaussian retrained": GAUSSIAN | {"search": {"retrain": True}},
}
OPTIONS: dict[str, dict[str, Any]] = {
    "dual": {"penalty_step": 0.25, "hold": 10},
    "dual-iterative": {"penalty_step": 0.25, "hold": 10},
    "elastic": {"source": "lenet-20-10-10"},
}


def written(method: str, setting: str, arms: Iterable[str] = ()) -> Spec:
    changes = SETTINGS[setting]
    chosen = {"search": OPTIONS.get(method, {}) | changes.get("search", {})}
    return Spec.model_validate(PLAIN | changes | chosen | {"method": method, "arms": ["ticket", *arms]})


def trained(method: str, setting: str) -> list[Train]:
    """A method's trainings, and those of all controls that its tickets can have; none where the method is refused."""
    try:
        spec = written(method, setting, CONTROLS)
    except ValidationError:
        return []
    faults = list(contradictions(spec, BUILT_IN))
    if any(fault.path != "arms" or fault.found not in map(repr, CONTROLS) for fault in faults):
        return []
    arm, replicate = BUILT_IN.arm("ticket", spec), Replicate(spec, 0)
    tickets = trainings(arm, replicate.asking(arm))
    beside = list[Train]()
    for control in (each for each in CONTROLS.values() if repr(each.name) not in [fault.found for fault in faults]):
        try:
            beside.append(control.training(replicate.asking(arm), tickets[-1], len(tickets) - 1, 0))
        except BadInput as error:  # of what the method has done only the plan knows
            assert "differs in" not in error.found
    return [*tickets, *beside]


def model_of(weights: Run) -> str:
    """Of which model a run has made the weights."""
    match weights:
        case Train() | Cut():
            return weights.recipe.model
        case StretchedWeights():
            return weights.stretch.target.model
        case DerivedWeights():
            return model_of(weights.of)
    network: Any = weights
    return str(network.network.model)


def coordinates_of(mask: Run) -> str:
    """The variant in whose parameters a mask is, if they are coordinates; "" for weights and for means."""
    made: Any = mask
    if isinstance(mask, StretchedMask):
        model = mask.stretch.target.model
    elif isinstance(mask, Train):
        model = mask.recipe.model
    elif getattr(mask, "network", None) is not None:
        model = made.network.model
    else:
        return coordinates_of(made.like)
    return _coordinates(model)


def _coordinates(model: str) -> str:
    variant = model.partition("+")[2]
    return "" if variant.startswith("gaussian") else variant


def check(run: Run) -> None:
    if isinstance(run, Train):
        model, objective = run.recipe.model, run.recipe.objective
        assert model_of(run.start) == model, "it starts from weights of its own network"
        assert run.mask is None or coordinates_of(run.mask) == _coordinates(model), "and prunes what its mask is of"
        assert all(model_of(teacher) == model for name, teacher in run.further or () if name == TEACHER)
        if "+gaussian" in model or (objective and objective.of_gaussian):
            assert "+gaussian" in model and objective and objective.of_gaussian
    if isinstance(run, Prune):
        assert model_of(run.trained) == run.network.model, "scores are of the network's own weights"
    if isinstance(run, DerivedWeights):
        others = {_coordinates(model_of(other)) for what, other in run.beside or () if what == "weights"}
        assert others <= {_coordinates(model_of(run.of))}
    if isinstance(run, Means):
        assert model_of(run.of) == run.network.model.partition("+")[0]


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("method", METHODS)
def test_what_stands_beside_a_ticket_is_of_its_network(method: str, setting: str) -> None:
    found = trained(method, setting)
    assert len({training.recipe.model for training in found}) <= 1
    for run in ancestry([*found]):
        check(run)


@pytest.mark.parametrize(
    ("setting", "arm", "model"),
    [
        ("plain", {"method": "generalised"}, "lenet-20-10+dct"),
        ("plain", {"method": "generalised", "length": "12it"}, "lenet-20-10+dct"),
        ("plain", {"method": "generalised", "basis": "units"}, "lenet-20-10"),
        ("dct", {"method": "generalised", "basis": "identity"}, "lenet-20-10"),
        ("gaussian by means", {"method": "deterministic"}, "lenet-20-10"),
        ("gaussian by means", {"method": "deterministic", "length": "12it"}, "lenet-20-10"),
        ("gaussian by means", {"method": "transplant", "weights": "trained"}, "lenet-20-10+gaussian-10"),
    ],
)
def test_an_arm_in_another_network_has_its_controls_in_it(setting: str, arm: dict[str, str], model: str) -> None:
    kept = {"prune": SETTINGS[setting].get("prune", {"rate": 0.4}) | {"keep": ["output"]}}
    controls = {name: arm | {"control": name} for name in ("reinit", "sparse-init", "redrawn")}
    arms = {"arm": {"other": arm} | {f"{name} of it": control for name, control in controls.items()}}
    spec = Spec.model_validate(PLAIN | SETTINGS[setting] | kept | arms | {"arms": ["ticket", *arms["arm"]]})
    assert not list(contradictions(spec, BUILT_IN))
    own, made = Replicate(spec, 0), plan(Experiment(name="tiny", spec=spec))
    for row in made.rows:
        assert row.run.recipe.model == (own.model if row.arm in ("dense", "ticket") else model)
    for run in made.runs:
        check(run)
