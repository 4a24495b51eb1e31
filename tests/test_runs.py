"""Runs: the key holds all that can change the outcome and nothing else, however deep the nesting."""

import hashlib
import json
import pickle
import time
from copy import deepcopy
from dataclasses import dataclass, field, fields, replace
from typing import Any

import pytest

from tombola.data import digits
from tombola.dynamics import Dynamics
from tombola.dynamics.frozen import Frozen
from tombola.dynamics.gradual import Gradual
from tombola.dynamics.rewiring import SET, Escape, RigL
from tombola.early_bird import Settling
from tombola.extrusion import Extrusion
from tombola.lab.kinds import (
    AlignedMask,
    Alignment,
    Average,
    Cut,
    DerivedMask,
    DerivedWeights,
    Distance,
    EarlyBird,
    Flips,
    FullMask,
    Init,
    InvertedMask,
    Line,
    MatchedMask,
    Pool,
    Prune,
    RandomMask,
    Sample,
    ShuffledMask,
    Stretch,
    StretchedMask,
    StretchedWeights,
    Train,
    Tree,
)
from tombola.lab.plan import plan
from tombola.lab.replicate import Replicate
from tombola.lab.runs import Network, Run, Stored, ancestry, shallow
from tombola.lab.spec import EvaluateSpec, Experiment, PruneSpec, Spec, VerdictSpec
from tombola.methods import METHODS
from tombola.objective import L1, Adversarial, LabelSmoothing, Objective, Slimming
from tombola.recipe import SGD, Adam, AdamW, Constant, Cosine, Linear, Recipe, Steps
from tombola.value import Value

NETWORK = Network("lenet-20-10", (1, 8, 8), 10)
RECIPE: dict[str, Any] = {
    "model": "lenet-20-10",
    "data": "digits",
    "length": "40it",
    "batch": 60,
    "optimizer": {"name": "adam", "lr": 2e-3},
}
INIT = Init(NETWORK, "glorot-normal", init_seed=0)
TRAIN = Train(
    start=INIT,
    mask=None,
    recipe=Recipe.model_validate(RECIPE),
    data_fingerprint="85eb",
    split_seed=1,
    order_seed=2,
    begin=0,
    until=40,
    evaluate_every=5,
    test_every=20,
)
PRUNE = Prune(NETWORK, TRAIN, None, "magnitude", "layer", (("linear", 0.2), ("output", 0.1)), (), score_seed=3)
RANDOM = RandomMask(PRUNE, mask_seed=4)
SHUFFLED = ShuffledMask(PRUNE, mask_seed=4)
DERIVED = DerivedMask(PRUNE, "halves", "c0de", mask_seed=4)
OF_WEIGHTS = DerivedWeights(INIT, "flipped", "c0de", weights_seed=4)
ALIGNMENT = Alignment(NETWORK, TRAIN, replace(TRAIN, order_seed=8), Sample.of(TRAIN), batches=9)
ALIGNED = AlignedMask(NETWORK, PRUNE, ALIGNMENT)
FULL = FullMask(NETWORK, keep=("output",))
DISTANCE = Distance(TRAIN, replace(TRAIN, order_seed=8), PRUNE)
RATES = (("linear", 0.2), ("output", 0.1))
EARLY = EarlyBird(NETWORK, INIT, Sample.of(TRAIN), 0, 40, "layer", RATES, (), None, 2, "layer", Settling(every="5it"))
INVERTED = InvertedMask(**{name: getattr(PRUNE, name) for name in PRUNE.names}, like=PRUNE)
FLIPS = Flips(TRAIN, INIT, PRUNE)
TREE = Tree("table:diabetes~1", split_seed=1, tree_seed=1)
AVERAGE = Average((TRAIN, replace(TRAIN, order_seed=8)), TRAIN.recipe, split_seed=1)
CUT = Cut(TRAIN, PRUNE, TRAIN.recipe, split_seed=1)
POOL = Pool(TRAIN, (replace(TRAIN, order_seed=8),), pooled=False, recipe=TRAIN.recipe, split_seed=1)
LINE = Line(TRAIN, replace(TRAIN, order_seed=8), TRAIN.recipe, split_seed=1, points=30, examples=None)
STRETCH = Stretch(NETWORK, NETWORK, "0:0;1:1;2:2")
STRETCHED, STRETCHED_MASK = StretchedWeights(STRETCH, INIT), StretchedMask(STRETCH, PRUNE)
MATCHED = MatchedMask(**{name: getattr(PRUNE, name) for name in PRUNE.names}, like=STRETCHED_MASK)

# For every field of every kind of run, another value. A field that is missing here fails a test below.
CHANGES: dict[Run, dict[str, Any]] = {
    STRETCHED: {"stretch": replace(STRETCH, map="0:0;1:2;2:1"), "of": replace(INIT, init_seed=1)},
    STRETCHED_MASK: {"stretch": replace(STRETCH, source=replace(NETWORK, classes=11)), "like": RANDOM},
    INIT: {"network": replace(NETWORK, model="lenet-21-10"), "init": "kaiming-normal", "init_seed": 1},
    TRAIN: {
        "start": replace(INIT, init_seed=1),
        "mask": PRUNE,
        "recipe": Recipe.model_validate(RECIPE | {"batch": 61}),
        "data_fingerprint": "85ec",
        "split_seed": 2,
        "order_seed": 1,
        "begin": 1,
        "until": 39,
        "evaluate_every": 6,
        "test_every": 10,
        "optimizer_state": "carried",
        "keep_optimizer": True,
        "augment_seed": 0,
        "further": (("teacher", INIT),),
        "dynamics_seed": 0,
    },
    DISTANCE: {"left": replace(TRAIN, order_seed=9), "right": replace(TRAIN, order_seed=7), "mask": RANDOM},
    FLIPS: {"trained": replace(TRAIN, order_seed=9), "since": replace(INIT, init_seed=1), "mask": RANDOM},
    TREE: {"source": "table:diabetes~2", "split_seed": 2, "tree_seed": 2, "data_fingerprint": "another"},
    LINE: {
        "left": replace(TRAIN, order_seed=9),
        "right": replace(TRAIN, order_seed=7),
        "recipe": Recipe.model_validate(RECIPE | {"batch": 61}),
        "split_seed": 2,
        "points": 3,
        "examples": 100,
    },
    AVERAGE: {
        "trained": (TRAIN, replace(TRAIN, order_seed=9)),
        "recipe": Recipe.model_validate(RECIPE | {"batch": 61}),
        "split_seed": 2,
    },
    CUT: {
        "trained": replace(TRAIN, order_seed=9),
        "mask": RANDOM,
        "recipe": Recipe.model_validate(RECIPE | {"batch": 61}),
        "split_seed": 2,
    },
    POOL: {
        "target": replace(TRAIN, order_seed=9),
        "neighbours": (replace(TRAIN, order_seed=9),),
        "pooled": True,
        "recipe": Recipe.model_validate(RECIPE | {"batch": 61}),
        "split_seed": 2,
    },
    PRUNE: {
        "network": replace(NETWORK, classes=11),
        "trained": replace(TRAIN, order_seed=9),
        "mask": RANDOM,
        "score": "random",
        "scope": "global",
        "rates": (("linear", 0.2), ("output", 0.2)),
        "keep": ("output",),
        "score_seed": 4,
        "include": ("fc1.bias",),
        "n": 2,
        "m": 4,
        "code": "c0de",
        "sample": Sample.of(TRAIN),
        "further": (("teacher", INIT),),
        "density": 0.1,
        "rounds": 2,
        "counted": "global",
        "iterations": 100,
        "returning": True,
        "initial": replace(INIT, init_seed=1),
        "beside": (INIT,),
        "multiple": 8,
    },
    EARLY: {
        "network": replace(NETWORK, classes=11),
        "start": replace(INIT, init_seed=1),
        "sample": Sample.of(replace(TRAIN, order_seed=9)),
        "begin": 1,
        "until": 39,
        "density": 0.5,
        "rounds": 3,
        "counted": "global",
        "scope": "global",
        "rates": (("linear", 0.2), ("output", 0.2)),
        "keep": ("output",),
        "rule": Settling(every="6it"),
        "include": ("fc1.bias",),
        "further": (("teacher", INIT),),
    },
    ALIGNMENT: {
        "network": replace(NETWORK, classes=11),
        "theirs": replace(TRAIN, order_seed=9),
        "ours": replace(TRAIN, order_seed=9),
        "sample": Sample.of(replace(TRAIN, split_seed=9)),
        "batches": 10,
    },
    ALIGNED: {
        "network": replace(NETWORK, classes=11),
        "like": RANDOM,
        "alignment": replace(ALIGNMENT, batches=10),
    },
    FULL: {"network": replace(NETWORK, model="lenet-20"), "keep": (), "include": ("fc1.bias",)},
    RANDOM: {"like": replace(PRUNE, score_seed=9), "mask_seed": 0, "network": NETWORK},
    SHUFFLED: {"like": replace(PRUNE, score_seed=9), "mask_seed": 0, "network": NETWORK},
    DERIVED: {"like": replace(PRUNE, score_seed=9), "function": "thirds", "code": None, "mask_seed": 0},
    OF_WEIGHTS: {
        "of": replace(INIT, init_seed=1),
        "function": "grown",
        "code": None,
        "weights_seed": 0,
        "beside": (("weights", TRAIN), ("mask", PRUNE)),
    },
}
CHANGES[MATCHED] = CHANGES[PRUNE] | {"like": RANDOM, "earlier": ((INIT, None), (TRAIN, PRUNE))}
CHANGES[INVERTED] = CHANGES[PRUNE] | {"like": RANDOM, "earlier": ((INIT, None), (TRAIN, PRUNE))}
EVERY_FIELD = [(run, name) for run, others in CHANGES.items() for name in others]

# The same for the values inside a recipe: a base, and for each of its fields another value.
RECIPES: dict[type[Value], tuple[dict[str, Any], dict[str, Any]]] = {
    Recipe: (
        RECIPE,
        {
            "model": "lenet-20",
            "data": "mnist",
            "length": "41it",
            "batch": 59,
            "optimizer": {"name": "adamw", "lr": 2e-3},
            "init": "xavier-uniform",
            "schedule": {"name": "cosine"},
            "warmup": "1it",
            "augment": "flip-crop",
            "precision": "bfloat16",
            "normalise": "unit",
            "objective": {"name": "label-smoothing"},
            "dynamics": {"name": "gradual"},
            "inputs": ["rotated"],
            "label_noise": 0.2,
        },
    ),
    SGD: (
        {"name": "sgd", "lr": 0.1, "momentum": 0.9},
        {"lr": 0.11, "momentum": 0.8, "nesterov": True, "weight_decay": 1e-4, "decay": "kernels"},
    ),
    Adam: (
        {"name": "adam", "lr": 0.1},
        {"lr": 0.11, "betas": [0.9, 0.99], "eps": 1e-7, "weight_decay": 1e-4, "decay": "kernels"},
    ),
    AdamW: (
        {"name": "adamw", "lr": 0.1},
        {"lr": 0.11, "betas": [0.8, 0.999], "eps": 1e-7, "weight_decay": 0.02, "decay": "kernels"},
    ),
    Constant: ({"name": "constant"}, {}),
    Steps: ({"name": "step", "milestones": ["9it"]}, {"milestones": ["9it", "10it"], "factor": 0.2}),
    Cosine: ({"name": "cosine"}, {"final": 0.1}),
    Linear: ({"name": "linear"}, {"final": 0.1}),
    LabelSmoothing: ({"name": "label-smoothing"}, {"epsilon": 0.2}),
    L1: ({"name": "l1", "strength": 1e-5}, {"strength": 2e-5}),
    Slimming: ({"name": "slimming", "strength": 1e-5}, {"strength": 2e-5}),
    Extrusion: (
        {"name": "extrusion"},
        {
            "penalty_step": 2e-4,
            "every": 1,
            "rise": "cube",
            "ceiling": 2.0,
            "hold": 0,
        },
    ),
    Adversarial: (
        {"name": "adversarial"},
        {
            "attack": "fgsm",
            "epsilon": 0.2,
            "step": 0.1,
            "steps": 9,
            "random_start": False,
            "share": 1.0,
            "away_from": "prediction",
            "smoothing": 0.1,
        },
    ),
    Gradual: (
        {"name": "gradual"},
        {"begin": "1it", "end": "30it", "every": 50, "curve": "linear", "scope": "global"},
    ),
    Frozen: ({"name": "frozen"}, {}),
    SET: ({"name": "set"}, {"fraction": 0.2, "decay": "cosine", "every": 50, "end": "30it"}),
    Escape: (
        {"name": "escape"},
        {"fraction": 0.2, "decay": "cosine", "every": 50, "end": "30it", "escape": 0.5},
    ),
    RigL: ({"name": "rigl"}, {"fraction": 0.2, "decay": "constant", "every": 50, "end": "30it"}),
}
EVERY_VALUE = [(kind, name) for kind, (_, others) in RECIPES.items() for name in others]

# And of a spec: which of its rows a change gives other keys. All other rows that it had before keep theirs.
SPEC: dict[str, Any] = {"replicates": 2, "levels": 2, "arms": ["ticket", "reinit"], "rewind": "8it", "recipe": RECIPE}
ALL, PRUNED, NONE = {"dense", "ticket", "reinit"}, {"ticket", "reinit"}, set[str]()
SPECS: dict[str, tuple[Any, set[str]]] = {
    "about": ("more words", NONE),
    "replicates": (4, NONE),
    "levels": (5, NONE),
    "arms": (["ticket", "reinit", "random", "shuffle", "one-shot", "fine-tune"], NONE),
    "reinits": (3, NONE),
    "randoms": (3, NONE),
    "draws": ({"shuffle": 3}, NONE),
    "densities": ((0.5, 0.4, 0.3), PRUNED),
    "search": ({"length": "20it"}, PRUNED),
    "arm": ({"short": {"method": "iterative", "length": "20it"}}, NONE),
    "study": ({"connectivity": {"levels": [0, 1]}, "stability": {"levels": [1]}}, NONE),
    "verdict.at": ("end", NONE),
    "verdict.accuracy_margin": (0.01, NONE),
    "verdict.step_margin": ("7it", NONE),
    "verdict.confidence": (0.9, NONE),
    "verdict.until": ("decided", NONE),
    "verdict.most_replicates": (7, NONE),
    "engine": ("reference", NONE),
    "device": ("cpu", NONE),
    "seed": (1, ALL),
    "rewind": ("9it", ALL),
    "carry_optimizer": (True, ALL),
    "recipe": (RECIPE | {"batch": 61}, ALL),
    "evaluate.every": ("4it", ALL),
    "evaluate.test_every": ("4it", ALL),
    "method": ("continued", PRUNED),
    "prune.scope": ("global", PRUNED),
    "prune.rate": (0.3, PRUNED),
    "prune.conv_rate": (0.3, PRUNED),
    "prune.output_rate": (0.3, PRUNED),
    "prune.keep": (["output"], ALL),
    "prune.include": (["fc1.bias"], ALL),
    "prune.score": ("random", PRUNED),
    "prune.n": (2, PRUNED),
    "prune.m": (4, PRUNED),
    "prune.multiple": (8, NONE),  # of whole channels alone
    "prune.basis": ("dct", ALL),
}


def train_with(kind: type[Value], values: dict[str, Any]) -> Train:
    """`TRAIN` with its recipe, or the part of it that is a `kind`, as `values` say."""
    table = values if kind is Recipe else RECIPE | {place(kind): kind.model_validate(values)}
    return replace(TRAIN, recipe=Recipe.model_validate(table))


def place(kind: type[Value]) -> str:
    """The field of a recipe in which a `kind` stands."""
    families = {Objective: "objective", Dynamics: "dynamics"}
    found = (name for family, name in families.items() if issubclass(kind, family))
    return "optimizer" if kind in (SGD, Adam, AdamW) else next(found, "schedule")


def keys(spec: dict[str, Any]) -> dict[tuple[str, int, int, int], str]:
    """The key of each row of the spec's table."""
    wanted = plan(Experiment(name="tiny", spec=Spec.model_validate(spec)))
    return {(row.arm, row.replicate, row.level, row.draw): row.run.key for row in wanted.rows}


def as_fields(values: dict[str, Any]) -> dict[str, Any]:
    return values


def with_value(spec: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    changed = deepcopy(spec)
    table, names = changed, path.split(".")
    for name in names[:-1]:
        table = table.setdefault(name, {})
    table[names[-1]] = value
    return changed


def chain(levels: int) -> list[Train]:
    spec = Spec.model_validate(SPEC | {"rewind": "0it"})
    return list(METHODS["iterative"].search(Replicate(spec, 0), levels))


# ---------------------------------------------------------------- what is in the key


def test_the_key_is_the_hash_of_the_description() -> None:
    text = json.dumps(TRAIN.described, sort_keys=True, separators=(",", ":"))
    assert TRAIN.key == "train-" + hashlib.sha256(text.encode()).hexdigest()[:20]
    assert json.loads(text) == TRAIN.described, "plain JSON values"
    assert TRAIN.described["start"] == INIT.key and TRAIN.described["mask"] is None


@pytest.mark.parametrize("run", CHANGES, ids=lambda run: run.kind)
def test_the_table_of_changes_misses_no_field(run: Run) -> None:
    assert set(CHANGES[run]) == {one.name for one in fields(run)} - {"key"}
    assert set(run.described) == set(CHANGES[run]) - run.later | {"kind", "version"}
    assert all(getattr(run, name) is None for name in run.later), "what came later is absent where it is not used"


@pytest.mark.parametrize(("run", "name"), EVERY_FIELD, ids=lambda value: getattr(value, "kind", value))
def test_any_field_changes_the_key(run: Run, name: str) -> None:  # S9
    other = replace(run, **as_fields({name: CHANGES[run][name]}))
    assert other.key != run.key and other != run
    assert replace(other, **as_fields({name: getattr(run, name)})).key == run.key


@pytest.mark.parametrize("kind", RECIPES)
def test_the_table_of_recipes_misses_no_field(kind: type[Value]) -> None:
    assert {"name", *RECIPES[kind][1]} - {"name"} == set(kind.model_fields) - {"name"}


@pytest.mark.parametrize(("kind", "name"), EVERY_VALUE)
def test_any_value_of_a_recipe_changes_the_key(kind: type[Value], name: str) -> None:  # K8 S9
    base, others = RECIPES[kind]
    assert train_with(kind, base | {name: others[name]}).key != train_with(kind, base).key


def test_all_fields_left_alone_the_members_of_a_family_have_keys_of_their_own() -> None:
    made = [train_with(kind, base) for kind, (base, _) in RECIPES.items() if kind not in (Recipe, Constant)]
    assert len({run.key for run in [*made, TRAIN]}) == len(made) + 1


@pytest.mark.parametrize("kind", RECIPES)
def test_a_default_is_in_the_key_like_any_value(kind: type[Value]) -> None:  # S9
    """So that a default that changes in the code makes other keys, and old results keep their names."""
    base, _ = RECIPES[kind]
    described = train_with(kind, base).described["recipe"]
    part = described if kind is Recipe else described[place(kind)]
    assert set(part) == {name for name, one in kind.model_fields.items() if one.default is not None}
    spelled_out = train_with(kind, json.loads(json.dumps(part)))
    assert spelled_out.key == train_with(kind, base).key, "a default written out is the same value"


@pytest.mark.parametrize("kind", [Init, Train, Prune, RandomMask, ShuffledMask])
def test_a_kinds_version_changes_its_key_and_those_of_what_is_made_from_it(
    kind: type[Run], monkeypatch: pytest.MonkeyPatch
) -> None:  # S9
    before = {row: key for row, key in keys(SPEC | {"arms": ["ticket", "random", "shuffle"]}).items() if row[2] == 2}
    monkeypatch.setattr(kind, "version", kind.version + 1)
    after = keys(SPEC | {"arms": ["ticket", "random", "shuffle"]})
    touched = {arm for (arm, *rest), key in before.items() if after[arm, rest[0], rest[1], rest[2]] != key}
    one_arm = {RandomMask: {"random"}, ShuffledMask: {"shuffle"}}
    assert touched == one_arm.get(kind, {"ticket", "random", "shuffle"})


def test_the_content_of_the_data_is_in_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    before = plan(Experiment(name="tiny", spec=Spec.model_validate(SPEC)))
    monkeypatch.setattr(digits, "FACTS", replace(digits.FACTS, checksum="0" * 64))
    after = plan(Experiment(name="tiny", spec=Spec.model_validate(SPEC)))
    shared = {run.key for run in before.runs} & {run.key for run in after.runs}
    assert {key.split("-")[0] for key in shared} == {"init"}, "weights are drawn without a look at the data"


@pytest.mark.parametrize("run", CHANGES, ids=lambda run: run.kind)
def test_0_is_a_seed_like_any_other(run: Run) -> None:  # K9
    for name in (one.name for one in fields(run) if one.name.endswith("_seed")):
        made = [replace(run, **as_fields({name: seed})) for seed in (0, 1, 2**63 - 1)]
        assert len({one.key for one in made}) == 3
        assert made[0].described[name] == 0


# ---------------------------------------------------------------- what is not


def test_the_table_of_specs_misses_no_field() -> None:
    nested: dict[str, type[Value]] = {"prune": PruneSpec, "evaluate": EvaluateSpec, "verdict": VerdictSpec}
    leaves = set(Spec.model_fields) - set(nested)
    assert set(SPECS) == leaves | {f"{name}.{field}" for name, model in nested.items() for field in model.model_fields}


@pytest.mark.parametrize("path", SPECS)
def test_a_change_of_the_spec_gives_other_keys_where_it_changes_results_and_only_there(path: str) -> None:  # K8 S9
    value, touched = SPECS[path]
    before, after = keys(SPEC), keys(with_value(SPEC, path, value))
    assert before.keys() <= after.keys(), "what is asked for later comes on top"
    # Level 2: at level 1 a continued search is still the iterative one.
    assert {row[0] for row, key in before.items() if row[2] in (0, 2) and after[row] != key} == touched
    if not touched:
        assert before.items() <= after.items()


def test_the_multiple_is_in_the_keys_of_whole_channels() -> None:  # K8
    of_channels = with_value(SPEC, "prune.scope", "channel")
    before, after = keys(of_channels), keys(with_value(of_channels, "prune.multiple", 8))
    assert {row[0] for row, key in before.items() if row[2] in (0, 2) and after[row] != key} == PRUNED


def test_the_experiments_name_is_not_in_the_key() -> None:
    spec = Spec.model_validate(SPEC)
    one, other = (plan(Experiment(name=name, spec=spec)) for name in ("one", "other"))
    assert one.runs == other.runs


def test_how_a_number_is_written_is_not_in_the_key() -> None:
    assert train_with(SGD, {"name": "sgd", "lr": 1}).key == train_with(SGD, {"name": "sgd", "lr": 1.0}).key
    one, other = {"betas": [0, 0.5], "lr": 1e-3}, {"betas": (0.0, 0.5), "lr": 0.001}
    assert train_with(Adam, {"name": "adam", **one}).key == train_with(Adam, {"name": "adam", **other}).key


def test_rewind_and_looks_in_epochs_are_the_same_runs_as_in_iterations() -> None:
    in_epochs = SPEC | {"rewind": "1ep", "evaluate": {"every": "1ep", "test_every": "2ep"}}
    in_iterations = SPEC | {"rewind": "17it", "evaluate": {"every": "17it", "test_every": "34it"}}
    assert keys(in_epochs) == keys(in_iterations)


def test_a_length_in_epochs_and_in_iterations_are_two_keys() -> None:
    """docs/keys.md: two spellings, two keys; never one key for two results."""
    in_epochs, in_iterations = (keys(with_value(SPEC, "recipe.length", length)) for length in ("2ep", "34it"))
    assert not set(in_epochs.values()) & set(in_iterations.values())
    spec = Spec.model_validate(with_value(SPEC, "recipe.length", "2ep"))
    assert Replicate(spec, 0).train(INIT).until == 34


# ---------------------------------------------------------------- runs as values


def test_runs_are_equal_by_key() -> None:
    assert replace(TRAIN) == TRAIN and hash(replace(TRAIN)) == hash(TRAIN) and TRAIN != INIT
    assert Stored(TRAIN.key) == TRAIN and TRAIN.key != TRAIN
    assert repr(TRAIN) == f"Train({TRAIN.key})"


def test_a_run_is_frozen() -> None:
    with pytest.raises(AttributeError):
        TRAIN.until = 1  # type: ignore[misc]
    with pytest.raises(ValueError, match="frozen"):
        TRAIN.recipe.batch = 1  # type: ignore[misc]


@dataclass(frozen=True, eq=False, repr=False)
class Ensemble(Run):
    """A kind of run with as many inputs as one likes, and a value among its fields."""

    kind = "ensemble"
    version = 1
    later = frozenset({"shares"})

    members: tuple[Run, ...]
    by_name: tuple[tuple[str, Run], ...] = ()
    shares: tuple[float, ...] | None = None
    power: int = field(default=1, kw_only=True)
    less: Run | None = field(default=None, kw_only=True)


def test_what_is_given_by_keyword_only_is_in_the_key_and_an_input() -> None:  # S9
    both = replace(ENSEMBLE, power=2, less=RANDOM)
    assert len({ENSEMBLE.key, replace(ENSEMBLE, power=2).key, both.key}) == 3
    assert both.inputs == (*ENSEMBLE.inputs, RANDOM) and shallow(both).key == both.key


ENSEMBLE = Ensemble((TRAIN, replace(TRAIN, order_seed=8, mask=PRUNE)), (("teacher", INIT),))


def test_inputs_in_tuples_are_inputs_and_go_into_the_key_by_theirs() -> None:
    first, second = ENSEMBLE.members
    assert ENSEMBLE.inputs == (first, second, INIT)
    assert ENSEMBLE.described["members"] == [first.key, second.key]
    assert ENSEMBLE.described["by_name"] == [["teacher", INIT.key]] and "shares" not in ENSEMBLE.described
    assert replace(ENSEMBLE, members=(second, first)).key != ENSEMBLE.key
    assert [run.kind for run in ancestry([ENSEMBLE])] == ["init", "train", "prune", "train", "ensemble"]


def test_what_stands_for_a_run_knows_by_which_mask_its_weights_are_compressed() -> None:
    stand_ins = shallow(ENSEMBLE).inputs
    assert [run.compressed_by for run in stand_ins] == [None, PRUNE, None]


@pytest.mark.parametrize("run", [*CHANGES, replace(TRAIN, mask=SHUFFLED), ENSEMBLE], ids=lambda run: run.kind)
def test_shallow_keeps_key_and_description_and_knows_inputs_by_key_alone(run: Run) -> None:
    small = shallow(run)
    assert type(small) is type(run) and small.key == run.key and small.described == run.described
    assert [needed.key for needed in small.inputs] == [needed.key for needed in run.inputs]
    assert all(isinstance(needed, Stored) and not needed.inputs for needed in small.inputs)
    assert pickle.loads(pickle.dumps(small)).key == run.key


def test_ancestry_has_every_run_once_and_inputs_first() -> None:  # S5
    ticket = replace(TRAIN, mask=PRUNE)
    random = replace(TRAIN, mask=RANDOM)
    listed = list(ancestry([random, ticket, TRAIN, random]))
    assert sorted(run.key for run in listed) == sorted(
        {run.key for run in (INIT, TRAIN, PRUNE, RANDOM, ticket, random)}
    )
    for place, run in enumerate(listed):
        assert all(needed in listed[:place] for needed in run.inputs)
    assert list(ancestry([])) == []


def test_a_search_of_600_levels_is_neither_too_deep_nor_slow() -> None:
    """Deeper than Python's recursion limit of 1000: each level is a pruning and a training."""
    began = time.monotonic()
    runs = chain(600)
    last, again = runs[-1], chain(600)[-1]
    assert len(list(ancestry([last]))) == 1 + 601 + 600
    assert last == again and len({last, again}) == 1 and repr(last) == f"Train({last.key})"
    assert len(pickle.dumps(shallow(last))) < 5_000
    assert len({run.key for run in runs}) == 601
    assert time.monotonic() - began < 10
