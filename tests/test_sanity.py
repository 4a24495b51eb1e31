"""What is said of a control that is as good as its ticket: only where that is shown."""

from math import sqrt
from statistics import mean, stdev

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import t as student
from scipy.stats import ttest_1samp

from tombola.control import Control
from tombola.controls import CONTROLS
from tombola.study.paired import beyond, paired
from tombola.study.records import record
from tombola.study.sentences import sentences
from tombola.study.verdict import Criteria, Metric, Trial, contrasts, judge

CRITERIA = Criteria(accuracy_margin=0.002, step_margin=100)
DENSE = [Trial("dense", number, 0, 1.0, 100, 0.98) for number in range(5)]
NUMBERS = st.lists(st.floats(-1, 1, allow_subnormal=False).map(lambda x: round(x, 6)), min_size=2, max_size=8)


def trials(arm: str, gaps: list[float], level: int = 1, density: float = 0.02) -> list[Trial]:
    return [Trial(arm, number, level, density, 100, 0.97 + gap) for number, gap in enumerate(gaps)]


def said(arm: str, gaps: list[float], criteria: Criteria = CRITERIA) -> str:
    """Of one arm, at one level, given by how much the ticket is better in each replicate."""
    verdicts = judge([*DENSE, *trials("ticket", [0.0] * len(gaps)), *trials(arm, [-gap for gap in gaps])], criteria)
    return sentences(verdicts, criteria)[1]


def test_a_mask_that_shuffling_does_not_harm_carries_no_more_than_counts() -> None:
    assert said("shuffle", [0.0003, -0.0003, 0.0001, 0.0002, -0.0002]) == (
        "The mask carries no more than how many weights each layer keeps: the same mask shuffled inside each layer is "
        "as accurate as the ticket, within 0.2 points, at 2.0% (+0.00 [-0.03, +0.03] points)."
    )


def test_a_difference_that_is_not_shown_is_not_said_to_be_none() -> None:
    few = said("shuffle", [0.01, -0.01])
    assert few.startswith("That it matters where in a layer the weights are kept stays open: no difference")
    assert "carries no more" not in few and "as accurate" not in few


def test_a_mask_that_shuffling_harms_carries_more() -> None:
    assert said("shuffle", [0.010, 0.011, 0.012, 0.010, 0.011]) == (
        "It matters where in a layer the weights are kept: the ticket is more accurate than the same mask shuffled "
        "inside each layer at 2.0% (+1.08 [+0.98, +1.18] points)."
    )


def test_a_difference_that_is_shown_and_small_is_both() -> None:
    assert "(+0.05 [+0.04, +0.06] points, by less than 0.2 points)" in said("shuffle", [5e-4, 5e-4, 4e-4, 6e-4, 5e-4])


def test_an_arm_that_is_no_control_claims_nothing() -> None:
    assert said("fine-tune", [0.0001, -0.0001, 0.0001, 0.0, 0.0]).startswith(
        "Fine-tune is as accurate as the ticket, within 0.2 points, at 2.0%"
    )


def test_of_a_loss_the_words_are_others() -> None:
    loss = Criteria(accuracy_margin=0.002, step_margin=100, metric=Metric("loss", higher_is_better=False))
    assert "is as good as the ticket, within 0.002, at 2.0%" in said("shuffle", [0.0001, -0.0001, 0.0001, 0.0], loss)


def test_level_by_level_it_is_corrected_for_how_many_there_are() -> None:
    """At one level by itself the interval lies within the margin; among six that are open it is not shown."""
    near = [0.0016, -0.0008, 0.0004, 0.0002, -0.0004]
    assert paired(near, 0.95).high < 0.002
    wide = [0.01, -0.01, 0.01, -0.01, 0.0]

    def alike(others: int) -> bool | None:
        levels = [(1, near), *((2 + number, wide) for number in range(others))]
        arms = [*DENSE]
        for level, gaps in levels:
            arms += trials("ticket", [0.0] * 5, level, 0.1 / level) + trials("shuffle", gaps, level, 0.1 / level)
        return judge(arms, CRITERIA)[0].controls[0].same_holm

    assert alike(0) and not alike(5)


def test_levels_that_are_as_good_are_named() -> None:
    level = [trials("ticket", [0.0] * 5), trials("shuffle", [1e-4, -1e-4, 1e-4, -1e-4, 0.0])]
    other = [
        trials("ticket", [0.0] * 5, 2, 0.01),
        trials("shuffle", [-0.02, -0.021, -0.022, -0.02, -0.021], 2, 0.01),
    ]
    verdicts = judge([*DENSE, *(trial for arm in (*level, *other) for trial in arm)], CRITERIA)
    assert (
        "; level by level more accurate at 1.0%, as accurate within 0.2 points at 2.0%."
        in sentences(verdicts, CRITERIA)[1]
    )
    assert record(verdicts[0], CRITERIA.metric)["controls"][0]["same_holm"] is True
    assert "same_holm" not in record(verdicts[0], CRITERIA.metric)["dense"]
    assert not contrasts(verdicts, CRITERIA)[0].same, "the mean over both levels lies far off"


def test_every_control_of_ours_says_what_it_shows_otherwise() -> None:
    for control in CONTROLS.values():
        assert isinstance(control, Control) and control.otherwise and control.otherwise[0].islower()
        assert not control.otherwise.endswith(".")


@given(NUMBERS, st.floats(0.001, 2), st.sampled_from([0.9, 0.95, 0.99]))
def test_the_p_value_is_that_of_the_nearer_of_two_t_tests(
    differences: list[float], margin: float, confidence: float
) -> None:
    difference = paired(differences, confidence)
    if stdev(differences) < 1e-6:
        return
    lower = ttest_1samp(differences, -margin, alternative="greater").pvalue
    upper = ttest_1samp(differences, margin, alternative="less").pvalue
    assert beyond(difference, margin, confidence) == pytest.approx(max(lower, upper), abs=1e-9)


@given(NUMBERS, st.floats(0.001, 2))
def test_it_is_small_just_where_the_interval_lies_within_the_margin(differences: list[float], margin: float) -> None:
    difference = paired(differences, 0.95)
    edge = max(abs(difference.low), abs(difference.high))
    if stdev(differences) < 1e-6 or abs(edge - margin) < 1e-6:
        return
    assert (beyond(difference, margin, 0.95) < 0.025) == (edge < margin)


def test_what_cannot_be_known_is_not_small() -> None:
    assert beyond(paired([0.0], 0.95), 0.1, 0.95) == 1
    assert beyond(paired([0.0, float("nan")], 0.95), 0.1, 0.95) == 1
    assert beyond(paired([0.0, 0.0, 0.0], 0.95), 0.0, 0.95) == 1
    assert beyond(paired([0.0, 0.0, 0.0], 0.95), 0.1, 0.95) == 0


@settings(deadline=None, max_examples=5)
@given(st.integers(0, 2**32 - 1))
def test_a_difference_at_the_margin_is_seldom_said_to_be_small(seed: int) -> None:
    """Of 400 experiments whose true difference is the margin itself, at most one in forty says so, but for chance."""
    import numpy as np

    draws = np.random.default_rng(seed).normal(0.002, 0.002, (400, 5))
    spread = [stdev(row) / sqrt(5) for row in draws]
    ends = [mean(row) + student.ppf(0.975, 4) * error for row, error in zip(draws, spread, strict=True)]
    wrong = sum(beyond(paired(list(map(float, row)), 0.95), 0.002, 0.95) < 0.025 for row in draws)
    assert wrong <= sum(end < 0.002 for end in ends) <= 25
