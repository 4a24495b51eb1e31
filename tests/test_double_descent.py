"""Sparse double descent: where a curve has its valley, and how sure that it is one."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from tombola.errors import BadInput
from tombola.lab.attempt import do
from tombola.lab.plan import plan
from tombola.lab.results import results
from tombola.lab.spec_file import read
from tombola.lab.store import Store
from tombola.lab.studies.double_descent import DescentFinding
from tombola.lab.worker import Worker
from tombola.study.double_descent import Valley, descent, sentence, valley

LEVELS = 25
PLACES = np.linspace(0, 1, LEVELS)
WITHOUT_DIP: dict[str, NDArray[Any]] = {
    "flat": 0 * PLACES,
    "falling": -5 * PLACES,
    "rising": 5 * PLACES,
    "hill": -20 * (PLACES - 0.5) ** 2,
    "step up": 2.0 * (PLACES > 0.6),
    "up at the end": 5.0 * (PLACES == 1),
    "down at the start": -5.0 * (PLACES > 0),
}  # in units of the noise
accuracies = st.lists(st.integers(0, 20).map(lambda twentieths: twentieths / 20), min_size=3, max_size=12)


@given(curve=accuracies)
def test_a_valley_is_the_deepest_place_between_two_higher_ones(curve: list[float]) -> None:
    at = valley(curve)
    depths = {
        (i, j, k): min(curve[i], curve[k]) - curve[j]
        for j in range(1, len(curve) - 1)
        for i in range(j)
        for k in range(j + 1, len(curve))
    }
    assert at.before < at.dip < at.peak and depths[at] == max(depths.values())


@pytest.mark.parametrize("replicates", [3, 5])
@pytest.mark.parametrize("shape", WITHOUT_DIP)
def test_where_there_is_no_dip_noise_makes_one_in_no_more_than_a_twentieth(shape: str, replicates: int) -> None:
    """Without the split into those that choose and those that judge it is up to a fifth, and more by the mean alone."""
    draw, tries = np.random.default_rng(0), 300
    found = 0
    for _ in range(tries):
        noise = draw.normal(size=(replicates, LEVELS)) + draw.normal(size=(replicates, 1))
        found += descent(dict(enumerate((WITHOUT_DIP[shape] + noise).tolist())), 0.95).dips
    assert found <= 27, "15 are expected of 300 at most; 28 or more happen once in a thousand times"


def test_a_dip_that_is_there_is_found() -> None:
    draw, found = np.random.default_rng(0), 0
    curve = 85 - 6 * np.exp(-(((PLACES - 0.4) / 0.15) ** 2)) + 9 * np.exp(-(((PLACES - 0.8) / 0.12) ** 2))
    for _ in range(40):
        noisy = curve + 0.4 * draw.normal(size=(5, LEVELS))
        made = descent(dict(enumerate((noisy / 100).tolist())), 0.95, grain=1e-4)
        found += made.dips and made.above.low > 0 and made.end.high < 0
        assert abs(made.levels.dip - int(curve.argmin())) <= 3 and abs(made.levels.peak - int(curve.argmax())) <= 3
    assert found >= 36


def test_two_replicates_are_too_few() -> None:
    curves: dict[int, list[float]] = {number: [0.85, 0.7 + number / 100, 0.95, 0.9] for number in range(2)}
    made = descent(curves, 0.95)
    assert not made.dips and made.levels == Valley(0, 1, 2)
    assert "too few replicates to say, of 3 at least" in sentence(made, [1, 0.5, 0.2, 0.1], [1, 1, 0.8, 0.8])


def test_the_end_is_left_out_where_the_peak_is_there() -> None:
    curves: dict[int, list[float]] = {number: [0.85, 0.7 + number / 1000, 0.95] for number in range(4)}
    said = sentence(descent(curves, 0.95), [1, 0.5, 0.2], [1, 1, 0.8])
    assert "a dip and a peak above the dense network (dip: p" in said and "last level" not in said


CHANGES = ["levels=3", "replicates=2", "recipe.model=lenet-20-10", "recipe.length=20it", "evaluate.every=10it"]


def test_the_study_reads_the_table_and_trains_nothing(tmp_path: Path) -> None:
    changes = [*CHANGES, "arms=ticket", "recipe.label_noise=0.25"]
    asked = [*changes, "study.double_descent.levels=1,2,3"]
    wanted, worker = plan(read("digits-lenet", asked)), Worker(Store(tmp_path).open(), None)
    assert {run.key for run in wanted.runs} == {run.key for run in plan(read("digits-lenet", changes)).runs}
    for run in wanted.runs:
        assert do(run, worker, lambda *_: None) == ("stored",)
    (found,) = (each for each in results(wanted, worker.store).findings if isinstance(each, DescentFinding))
    rows: dict[tuple[int, int], dict[str, Any]] = {
        (row.level, row.replicate): worker.store.values(row.run) for row in wanted.rows
    }
    for level in range(4):
        for name, curve in (("final_test_accuracy", found.descent.curve), ("final_train_accuracy", found.training)):
            assert curve[level] == pytest.approx((rows[level, 0][name] + rows[level, 1][name]) / 2)
    assert found.densities[0] == 1 and found.clean == 0.75
    assert "75.0% are true" in found.sentence


def test_of_numbers_the_curve_is_of_r2(tmp_path: Path) -> None:
    asked = ["arms=ticket", "recipe.data=table:diabetes", "recipe.batch=30", "study.double_descent.levels=1,2,3"]
    wanted, worker = plan(read("digits-lenet", [*CHANGES, *asked])), Worker(Store(tmp_path).open(), None)
    for run in wanted.runs:
        assert do(run, worker, lambda *_: None) == ("stored",)
    (found,) = results(wanted, worker.store).findings
    assert "Test R2 at the end" in found.sentence and "accuracy" not in found.sentence


def test_a_curve_needs_two_levels_behind_the_dense_network() -> None:
    with pytest.raises(BadInput, match="two levels at least, for a dip and a peak"):
        read("digits-lenet", ["levels=3", "study.double_descent.levels=2"])
    with pytest.raises(BadInput, match="levels >= 2"):
        read("digits-lenet", ["levels=1", "study.double_descent={}"])
    with pytest.raises(BadInput, match="expected arms of the spec"):
        read("digits-lenet", ["arms=ticket", "levels=3", "study.double_descent.arms=random"])
