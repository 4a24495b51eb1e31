"""Paired statistics: intervals, ratios, several hypotheses together, and how many replicates would decide."""

from math import exp, inf, log, nan

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import nct, t, ttest_1samp, ttest_rel

from tombola.study.paired import MOST, Difference, holm, more_replicates, paired, ratio

UNIT = st.floats(-1, 1, allow_subnormal=False)  # flushed to 0 here, as in the workers


@given(st.lists(st.tuples(UNIT, UNIT), min_size=3, max_size=9, unique=True))
@settings(derandomize=True, deadline=None)
def test_the_interval_is_that_of_a_paired_t_test(pairs: list[tuple[float, float]]) -> None:
    left, right = [a for a, _ in pairs], [b for _, b in pairs]
    ours = paired([a - b for a, b in pairs], confidence=0.9)
    if ours.high - ours.low < 1e-9:
        return  # scipy warns of lost precision where all differences are alike
    theirs = ttest_rel(left, right).confidence_interval(0.9)
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=1e-9)


def test_replicates_that_agree_by_rounding_are_no_certainty() -> None:
    exact = paired([0.0, 0.0], confidence=0.95)
    rounded = paired([0.0, 0.0], confidence=0.95, grain=0.01)
    assert (exact.low, exact.high) == (0, 0)
    assert rounded.high == pytest.approx(12.706 * 0.01 / 6**0.5 / 2**0.5, rel=1e-4)


def test_holm_is_between_no_correction_and_bonferroni() -> None:
    p_values = [0.001, 0.012, 0.03, 0.2, 0.04]
    assert holm(p_values, alpha=0.05) == [True, True, False, False, False]
    assert [p <= 0.05 / len(p_values) for p in p_values] == [True, False, False, False, False]


@given(st.lists(st.floats(0.1, 10, allow_subnormal=False), min_size=3, max_size=9, unique=True))
@settings(derandomize=True, deadline=None)
def test_a_ratio_s_interval_is_that_of_its_logarithms(ratios: list[float]) -> None:
    found = ratio([log(each) for each in ratios], confidence=0.9)
    if found.high / found.low < 1 + 1e-9:
        return
    theirs = ttest_1samp([log(each) for each in ratios], 0).confidence_interval(0.9)
    assert (found.low, found.high) == pytest.approx((exp(theirs.low), exp(theirs.high)), rel=1e-6)


def test_a_ratio_and_its_inverse_agree() -> None:
    logarithms = [-0.7, -0.4, -0.9]
    there, back = ratio(logarithms, 0.95), ratio([-each for each in logarithms], 0.95)
    assert (back.mean, back.low, back.high, back.p) == pytest.approx(
        (1 / there.mean, 1 / there.high, 1 / there.low, there.p)
    )


@given(st.integers(2, 30), st.floats(0.05, 3), st.floats(0.1, 5))
@settings(derandomize=True, deadline=None, max_examples=50)
def test_as_many_more_replicates_as_are_said_have_the_power_and_one_less_has_not(
    n: int, effect: float, spread: float
) -> None:
    half = float(t.ppf(0.975, n - 1)) * spread / n**0.5
    more = more_replicates(Difference(effect, effect - half, effect + half, n), 0.0, 0.95)

    def power(count: int) -> float:
        return float(nct.sf(t.ppf(0.975, count - 1), count - 1, effect * count**0.5 / spread))

    if more is None:
        assert power(MOST) < 0.8
        return
    assert power(n + more) >= 0.8 - 1e-6
    assert more == 1 or power(n + more - 1) < 0.8 + 1e-6


def test_where_nothing_is_known_of_the_spread_no_number_is_given() -> None:
    assert more_replicates(paired([0.1], 0.95), -0.2, 0.95) is None
    assert more_replicates(Difference(0.0, 0.0, 0.0, 3), -0.2, 0.95) is None
    assert more_replicates(paired([0.1, -0.1], 0.95), 0.0, 0.95) is None, "the mean is on the bound"


@pytest.mark.parametrize("differences", [[nan, 0.1, 0.2], [inf, 0.1, 0.2], [inf, -inf]])
def test_differences_that_are_no_numbers_show_nothing(differences: list[float]) -> None:
    found = paired(differences, 0.95)
    assert (found.low, found.high, found.p) == (-inf, inf, 1.0)
