"""The keys of the presets' runs, and the defaults of every field, as they were when results were published.

A red test here means that stored and published results get, or lose, their names, but for the one that says what is not
pinned yet: `python tests/golden/test_keys.py` adds that, and changes nothing that is pinned. If a change is meant - the
numbers that a kind of run makes have changed, and its `version` is raised - take its old lines out of the file by hand.
"""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, fields, replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from pydantic_core import to_jsonable_python

from tombola import data
from tombola.controls import CONTROLS
from tombola.dynamics import DYNAMICS
from tombola.early_bird import Settling
from tombola.lab import kinds, presets, runs
from tombola.lab.members import BUILT_IN
from tombola.lab.replicate import Replicate
from tombola.lab.runs import Run
from tombola.lab.searches import trainings
from tombola.lab.spec import EvaluateSpec, PruneSpec, Spec, StudySpec, VerdictSpec
from tombola.lab.spec_file import read
from tombola.lab.studies import STUDIES
from tombola.method import SearchOptions
from tombola.methods import METHODS
from tombola.objective import OBJECTIVES
from tombola.pruning import SCOPES
from tombola.recipe import SGD, Adam, AdamW, Constant, Cosine, Linear, Recipe, Steps
from tombola.steps import Step
from tombola.value import Value

FILE = Path(__file__).with_name("keys.json")
PINNED: dict[str, Any] = json.loads(FILE.read_text()) if FILE.exists() else {"keys": {}, "defaults": {}}
# Beside the presets, what none of them uses.
EXTRA = {
    "digits, rewound": ("digits-lenet", ["rewind=40it", "carry_optimizer=true"]),
    "digits, global": ("digits-lenet", ["prune={scope='global', rate=0.3, score='random'}", "seed=1"]),
    "digits, output kept": ("digits-lenet", ["prune={rate=0.35, keep='output'}"]),
    "digits, of unit length": ("digits-lenet", ["recipe.normalise=unit", "recipe.init=glorot-truncated"]),
    "digits, with biases": ("digits-lenet", ["prune.include=fc1.bias,output.bias"]),
    "digits, scheduled": ("digits-lenet", ["recipe.optimizer={name='sgd', lr=0.1}", "recipe.schedule={name='cosine'}"]),
}
VALUES: list[type[Value]] = [
    Spec,
    PruneSpec,
    EvaluateSpec,
    VerdictSpec,
    StudySpec,
    *(study.table for study in STUDIES.values()),
    Recipe,
    SGD,
    Adam,
    AdamW,
    Constant,
    Steps,
    Cosine,
    Linear,
    *OBJECTIVES.values(),
    Settling,
    *DYNAMICS.values(),
]
KINDS: list[type[runs.Run]] = [
    kind for kind in vars(kinds).values() if isinstance(kind, type) and issubclass(kind, runs.Run)
]


def keys_of(name: str, changes: list[str]) -> dict[str, str]:
    """Keys of the first replicate: rewind point, dense; ticket, controls, declared arms at level 1; methods at 2."""
    replicate = Replicate(read(name, changes).spec, 0)
    spec = replicate.spec
    if not (METHODS[spec.method].rewinds or spec.search.apart):  # controls ask something of tickets that do
        spec = spec.model_copy(update={"method": "iterative", "search": SearchOptions()})
        replicate = replace(replicate, spec=spec)
    # Not all controls are of masks that a training with dynamics has made.
    dense, ticket, _ = METHODS["iterative" if spec.search.apart else spec.method].search(replicate, 2)
    found = {"rewind point": dense.start, "dense": dense, "ticket 1": ticket}
    general = {arm: control for arm, control in CONTROLS.items() if control.refuses is None}
    able = {arm: control for arm, control in general.items() if all(varied(replicate, way) for way in control.data)}
    found |= {f"{arm} 1": control.make(replicate, ticket, 1, 0) for arm, control in able.items()}
    found |= {f"arm {arm} 1": run for arm, run in declared(replicate)}
    for name, method in METHODS.items():
        own = replace(replicate, options=method.options())
        at_once = not own.options.by_rounds and SCOPES[spec.prune.scope].grouped  # which a spec refuses
        if at_once or any(own.options.faults(own.spec)):
            continue
        _, ticket, found[f"{name} 2"], *_ = method.search(own, 2)
        of = {arm: each for arm, each in CONTROLS.items() if each.refuses and not each.refuses(spec, own.options)}
        found |= {f"{arm} 1, {name}": control.make(own, ticket, 1, 0) for arm, control in of.items()}
    return {label: run.key for label, run in found.items()}


def declared(replicate: Replicate) -> Iterator[tuple[str, Run]]:
    """At level 1 what each arm trains that the spec declares."""
    for name in replicate.spec.arm:
        arm = BUILT_IN.arm(name, replicate.spec)
        asked = replicate.asking(arm)
        ticket = trainings(arm, asked)[1]
        yield name, arm.control.training(asked, ticket, 1, 0) if arm.control else ticket


def varied(replicate: Replicate, variant: str) -> bool:
    """Whether there is a variant of the replicate's data."""
    try:
        return bool(data.facts(f"{replicate.recipe.data}+{variant}"))
    except ValueError:
        return False


@cache
def all_keys() -> dict[str, dict[str, str]]:
    # Of a folder of pictures, and of a pre-trained model, nothing is known before it is there.
    named = [name for name in presets.names() if not re.search("folder:|hf:", presets.text(name))]
    return {name: keys_of(name, []) for name in named} | {label: keys_of(*source) for label, source in EXTRA.items()}


@cache
def all_defaults() -> dict[str, dict[str, Any]]:
    """Each field's default as JSON has it; `required` where there is none."""
    found: dict[str, dict[str, Any]] = {}
    for value in VALUES:
        found[value.__name__] = {
            name: "required" if field.is_required() else _plain(field.default)
            for name, field in value.model_fields.items()
        }
    for kind in KINDS:
        found[kind.__name__] = {"version": kind.version} | {
            one.name: "required" if one.default is MISSING else one.default for one in fields(kind) if one.init
        }
    return found


def _plain(value: Any) -> Any:
    return str(value) if isinstance(value, Step) else to_jsonable_python(value)


def now() -> dict[str, dict[str, dict[str, Any]]]:
    return {"keys": all_keys(), "defaults": all_defaults()}


Table = Mapping[str, Mapping[str, Mapping[str, Any]]]


def not_pinned(made: Table, pinned: Table) -> Iterator[tuple[str, str, str]]:
    """(part, name, label) of what there is and the file lacks."""
    for part, names in made.items():
        for name, values in names.items():
            yield from ((part, name, label) for label in values if label not in pinned[part].get(name, {}))


def changed(made: Table, pinned: Table) -> list[str]:
    """What is pinned and has gone, or is another value now, as lines to read."""
    return [
        f"{part}: {name}: {label}: {value!r} is {made[part].get(name, {}).get(label, 'gone')!r}"
        for part, names in pinned.items()
        for name, values in names.items()
        for label, value in values.items()
        if label not in made[part].get(name, {}) or not _holds(made[part][name][label], value)
    ]


def _holds(value: Any, pinned: Any) -> bool:
    """Whether a value is as pinned; a table in a table may have got more entries, which are pinned by themselves."""
    if isinstance(value, dict) and isinstance(pinned, dict):
        return all(name in value and _holds(value[name], pinned[name]) for name in pinned)
    return bool(value == pinned)


def added(made: Table, pinned: Table) -> Table:
    """What is pinned, and behind it what was not.

    Raises:
        SystemExit: something that is pinned has changed.
    """
    if faults := changed(made, pinned):
        raise SystemExit("\n".join(["Pinned, and not as it was; nothing is written:", *faults]))
    return {
        part: {name: {**pinned[part].get(name, {}), **made[part][name]} for name in {**pinned[part], **made[part]}}
        for part in made
    }


@pytest.mark.parametrize(("part", "name"), [(part, name) for part, names in PINNED.items() for name in names])
def test_what_is_pinned_is_as_it_was(part: str, name: str) -> None:  # S9
    assert changed(now(), {part: {name: PINNED[part][name]}}) == []


def test_all_is_pinned() -> None:
    missing = [": ".join(each) for each in not_pinned(now(), PINNED)]
    assert not missing, "\n".join(["`python tests/golden/test_keys.py` adds these:", *missing])


def test_the_script_adds_what_is_not_pinned_and_changes_nothing() -> None:
    made: Table = {"keys": {"digits": {"dense": "train-1", "mine 1": "train-2"}}, "defaults": {"Mine": {"a": 1}}}
    old: Table = {"keys": {"digits": {"dense": "train-1"}}, "defaults": {}}
    assert list(not_pinned(made, old)) == [("keys", "digits", "mine 1"), ("defaults", "Mine", "a")]
    assert added(made, old) == made
    assert _holds({"study": {"a": None, "mine": None}}, {"study": {"a": None}}) and not _holds({"a": 1}, {"a": 2})
    for pinned in ({"digits": {"dense": "train-0"}}, {"digits": {"gone 1": "train-1"}}, {"gone": {"dense": "train-1"}}):
        with pytest.raises(SystemExit, match="nothing is written"):
            added(made, {"keys": pinned, "defaults": {}})


def test_what_is_pinned_is_told_apart() -> None:
    """No two runs share a name, but for fine-tuning where the learning rate is constant anyway: there it rewinds it.

    A method from later on may do at level 2 what another one does.
    """
    ours = {f"{method} 2" for method in ("iterative", "continued", "one-shot", "lr-rewind", "fine-tune")}
    for name, keys in PINNED["keys"].items():
        pinned = {label: key for label, key in keys.items() if label in ours or not label.endswith(" 2")}
        same = {label for label, key in pinned.items() if list(pinned.values()).count(key) > 1}
        recipe = read(*EXTRA.get(name, (name, []))).spec.recipe
        assert same == ({"lr-rewind 2", "fine-tune 2"} if recipe.schedule.name == "constant" else set())


if __name__ == "__main__":
    FILE.write_text(json.dumps(added(now(), PINNED), indent=1) + "\n")
