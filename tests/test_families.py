"""The controls of each way to a ticket: whose they are, and that they are compared with that way alone."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tombola.lab.attempt import do
from tombola.lab.families import families
from tombola.lab.members import BUILT_IN
from tombola.lab.plan import plan
from tombola.lab.results import results
from tombola.lab.spec import Experiment, Spec
from tombola.lab.store import Store
from tombola.lab.worker import Worker
from tombola.report.text import verdict_json
from tombola.study.sentences import of_another
from tombola.study.verdict import Criteria, Trial, judge

SPEC: dict[str, Any] = {
    "replicates": 2,
    "densities": [0.5],
    "arms": ["ticket", "reinit", "magnitude-init", "low", "small", "small-low", "again"],
    "arm": {
        "low": {"method": "magnitude-init", "control": "invert"},
        "small": {"method": "magnitude-init", "scope": "layer"},
        "small-low": {"method": "magnitude-init", "scope": "layer", "control": "invert"},
        "again": {"method": "iterative", "control": "shuffle"},
    },
    "recipe": {
        "model": "lenet-20-10",
        "data": "digits-300",
        "length": "12it",
        "batch": 60,
        "optimizer": {"name": "adam", "lr": 1e-2},
    },
    "evaluate": {"every": "6it", "test_every": "12it"},
}


def test_a_control_is_of_the_way_with_its_method_and_its_choices() -> None:
    found = families(Spec.model_validate(SPEC), BUILT_IN)
    assert {way: list(controls) for way, controls in found.items()} == {
        "ticket": ["reinit", "again"],
        "magnitude-init": ["low"],
        "small": ["small-low"],
    }
    assert found["magnitude-init"]["low"].claim == BUILT_IN.controls["invert"].claim


def test_a_control_of_a_way_that_is_not_compared_is_of_none() -> None:
    found = families(Spec.model_validate(SPEC | {"arms": ["ticket", "low", "small", "small-low", "again"]}), BUILT_IN)
    assert found.keys() == {"ticket", "small"} and "low" not in found["ticket"] | found["small"]


def test_each_way_is_compared_with_its_own_controls_alone(tmp_path: Path) -> None:
    wanted = plan(Experiment(name="tiny", spec=Spec.model_validate(SPEC)))
    worker = Worker(Store(tmp_path / "store").open(), None)
    for run in wanted.runs:
        assert do(run, worker, lambda *seen: None) == ("stored",)
    found = results(wanted, worker.store)
    (verdict,) = found.verdicts
    assert [control.against for control in verdict.controls] == ["reinit", "again", "magnitude-init", "small"]
    others = {way: [each.against for each in of[0].controls] for way, of in found.other_verdicts.items()}
    assert others == {"magnitude-init": ["low"], "small": ["small-low"]}
    rows = {(row.row.arm, row.row.replicate): row.values[found.accuracy] for row in found.rows}
    (inverse,) = found.other_verdicts["small"][0].controls
    gaps = [rows["small", number] - rows["small-low", number] for number in (0, 1)]
    assert abs(inverse.accuracy.mean - sum(gaps) / 2) < 1e-12
    if found.verdicts[0].verdict != "not learned":
        said = [line for line in found.sentences if line.startswith(("magnitude-init: ", "small: "))]
        assert len(said) == 2 and all("go first (invert)" in line for line in said)
    assert json.loads(verdict_json(found))["others"].keys() == {"magnitude-init", "small"}


def test_lines_of_another_way_have_its_name_in_front() -> None:
    criteria = Criteria(accuracy_margin=0.002, step_margin=100)
    trials = [Trial("dense", number, 0, 1.0, 100, 0.98) for number in range(5)]
    trials += [Trial("snip", number, 1, 0.02, 100, 0.97) for number in range(5)]
    trials += [Trial("snip-shuffle", number, 1, 0.02, 100, 0.97 + 1e-4 * (-1) ** number) for number in range(5)]
    words = {"snip-shuffle": BUILT_IN.controls["shuffle"]}
    (line,) = of_another("snip", judge(trials, criteria, "snip"), criteria, words)
    assert line == (
        "snip: The mask carries no more than how many weights each layer keeps: the same mask shuffled inside each "
        "layer is as accurate as the ticket, within 0.2 points, at 2.0% (-0.00 [-0.02, +0.01] points)."
    )
    steps = [*trials, *(replace(trial, rewind=8) for trial in trials)]
    both = of_another("snip", judge(steps, criteria, "snip"), criteria, words)
    assert any(each.startswith("snip, rewound to step 8: ") for each in both)


def test_where_replicates_are_added_all_ways_share_the_error(tmp_path: Path) -> None:
    def confidence(**changes: Any) -> float:
        wanted = plan(Experiment(name="tiny", spec=Spec.model_validate(SPEC | changes)))
        return results(wanted, Store(tmp_path / "store").open()).criteria.confidence

    assert confidence() == 0.95
    assert confidence(verdict={"until": "decided"}) == pytest.approx(1 - 0.05 / 3), "the ticket and two other ways"
    assert confidence(verdict={"until": "decided"}, arms=["ticket", "reinit"], arm={}) == pytest.approx(0.95)
