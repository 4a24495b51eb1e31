"""The study of signs: what it counts, of whom, since when, and what it says."""

from pathlib import Path

import numpy as np
import pytest

from tombola.errors import BadInput
from tombola.lab.attempt import do
from tombola.lab.kinds import Flips, Init, Train
from tombola.lab.plan import plan
from tombola.lab.results import results
from tombola.lab.spec_file import read
from tombola.lab.store import Store
from tombola.lab.studies.signs import SignsFinding
from tombola.lab.worker import Worker
from tombola.study.signs import flipped, sentence

CHANGES = ["levels=2", "replicates=2", "recipe.model=lenet-20-10", "recipe.length=30it", "evaluate.every=15it"]
ARMS = ["arms=ticket,sign,lr-rewind", "study.signs={levels=[1,2],arms=['ticket','sign','lr-rewind']}"]


def test_signs_are_counted_since_the_initialisation_and_since_the_rewind_point(tmp_path: Path) -> None:
    wanted, worker = plan(read("digits-lenet", [*CHANGES, *ARMS, "rewind=6it"])), Worker(Store(tmp_path).open(), None)
    for run in wanted.runs:
        assert do(run, worker, lambda *_: None) == ("stored",)
    rows, store = {(row.arm, row.level, row.replicate): row.run for row in wanted.rows}, worker.store
    seen = set()
    for question in wanted.questions:
        flips, own = question.run, rows[question.arm, question.level, question.replicate]
        assert isinstance(flips, Flips) and flips.trained == own and own.mask and question.density_of == own
        since = "rewind point" in question.part
        if question.arm != "sign":
            dense = rows["dense", 0, question.replicate]
            assert isinstance(dense.start, Train) and isinstance(dense.start.start, Init)
            assert flips.since == (dense.start if since else dense.start.start)
        else:
            assert flips.since == own.start and not since, "it begins with weights of its own"
        began, ended, living = store.weights(flips.since), store.weights(own), store.alive(own.mask)
        turned = {
            name: int((np.sign(began[name].numpy()) != np.sign(ended[name].numpy()))[alive].sum())
            for name, alive in living.items()
        }
        values = store.values(flips)
        assert values["flipped"] == sum(turned.values())
        assert values["living"] == sum(int(alive.sum()) for alive in living.values())
        assert {name: each["flipped"] for name, each in values["layers"].items()} == turned
        seen.add((question.arm, question.level, question.replicate, since))
    assert len(seen) == 2 * 2 * (2 + 1 + 2)
    found = [each for each in results(wanted, store).findings if isinstance(each, SignsFinding)]
    assert [(each.level, each.since) for each in found] == [
        (level, since) for level in (1, 2) for since in ("at the rewind point", "at the beginning")
    ]
    assert [arm.arm for arm in found[1].arms] == ["ticket", "sign", "lr-rewind"]
    assert "Rewound to step 6: At" in found[0].sentence


def test_shares_are_paired_by_replicate_and_one_replicate_has_no_interval() -> None:
    arms = flipped({"ticket": {0: 0.1, 1: 0.2}, "lr-rewind": {0: 0.2, 1: 0.4}}, 0.95)
    assert arms[0].more is None and arms[1].more is not None
    assert arms[1].more.mean == pytest.approx(0.15) and arms[1].share.mean == pytest.approx(0.3)
    one = flipped({"ticket": {0: 0.1}, "lr-rewind": {0: 0.2}}, 0.95)
    assert sentence(0.2, "at the beginning", one) == (
        "At 20.0%, of the surviving weights have another sign than at the beginning: "
        "10.0% in ticket; 20.0% in lr-rewind, +10.0 points; n = 1."
    )


def test_arms_that_are_not_in_the_spec_are_refused() -> None:
    with pytest.raises(BadInput, match=r"study.signs.arms: expected arms of the spec \(ticket\), found 'lr-rewind'"):
        read("digits-lenet", ["arms=ticket", "study.signs={levels=[1],arms=['ticket','lr-rewind']}"])


def test_signs_may_be_asked_of_a_method_that_keeps_trained_weights() -> None:
    asked = plan(read("digits-lenet", [*CHANGES, "arms=ticket", "method=lr-rewind", "study.signs.levels=1,2"]))
    assert {(question.level, question.part) for question in asked.questions} == {
        (1, "signs at the beginning"),
        (2, "signs at the beginning"),
    }
