"""The verdict: formal definition, margins, intervals, pairing, and what it refuses to say."""

from math import inf

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import ttest_rel

from tombola.study.verdict import (
    ACCURACY,
    Comparison,
    Criteria,
    Difference,
    Metric,
    Trial,
    amount,
    compare,
    decide,
    holm,
    judge,
    paired,
    sentences,
)

UNIT = st.floats(-1, 1, allow_subnormal=False)  # flushed to 0 here, as in the workers
CRITERIA = Criteria(accuracy_margin=0.002, step_margin=100)


def trials(arm: str, level: int, accuracies: list[float], steps: list[int], density: float = 0.5) -> list[Trial]:
    return [Trial(arm, n, level, density, step, a) for n, (a, step) in enumerate(zip(accuracies, steps, strict=True))]


DENSE = trials("dense", 0, [0.980, 0.981, 0.982], [4000, 4100, 4200], density=1.0)


def word(accuracies: list[float], steps: list[int]) -> str:
    (verdict,) = judge([*DENSE, *trials("ticket", 1, accuracies, steps)], CRITERIA)
    return verdict.verdict


def test_a_ticket_that_is_as_good_and_faster_wins() -> None:
    assert word([0.982, 0.983, 0.984], [3000, 3100, 3200]) == "winning"


def test_as_good_but_slower_is_matching() -> None:
    assert word([0.982, 0.983, 0.984], [9000, 9100, 9200]) == "matching"


def test_clearly_less_accurate_is_losing() -> None:
    assert word([0.960, 0.961, 0.962], [3000, 3100, 3200]) == "losing"


def test_a_wide_interval_decides_nothing() -> None:
    assert word([0.970, 0.981, 0.990], [3000, 3100, 3200]) == "not decided"


def test_worse_by_less_than_the_margin_still_matches() -> None:
    assert word([0.979, 0.980, 0.981], [4000, 4100, 4200]) == "winning"


def test_one_replicate_decides_nothing() -> None:  # K15
    (verdict,) = judge([DENSE[0], *trials("ticket", 1, [0.99], [10])], CRITERIA)
    assert verdict.verdict == "not decided"
    assert "one replicate has no interval" in verdict.reason
    assert (verdict.dense.accuracy.low, verdict.dense.accuracy.high, verdict.dense.accuracy.n) == (-inf, inf, 1)
    assert "One replicate decides nothing" in sentences([verdict], CRITERIA)[-1]


@given(st.lists(st.tuples(UNIT, UNIT), min_size=3, max_size=9, unique=True))
@settings(derandomize=True, deadline=None)
def test_the_interval_is_that_of_a_paired_t_test(pairs: list[tuple[float, float]]) -> None:
    left, right = [a for a, _ in pairs], [b for _, b in pairs]
    ours = paired([a - b for a, b in pairs], confidence=0.9)
    if ours.high - ours.low < 1e-9:
        return  # scipy warns of lost precision where all differences are alike
    theirs = ttest_rel(left, right).confidence_interval(0.9)
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=1e-9)


def test_differences_are_paired_by_replicate_not_by_position() -> None:  # K10 K15
    ticket, backwards = (
        trials("ticket", 1, [0.90, 0.95, 0.99], [1, 2, 3]),
        [*reversed(trials("dense", 0, [0.89, 0.94, 0.98], [1, 2, 3]))],
    )
    difference = compare(ticket, backwards, CRITERIA).accuracy
    assert difference.mean == pytest.approx(0.01)
    assert difference.high - difference.low == pytest.approx(0, abs=1e-9)


def test_replicates_that_only_one_arm_has_are_left_out() -> None:
    assert compare(trials("ticket", 1, [0.9, 0.9], [1, 1]), DENSE, CRITERIA).accuracy.n == 2


def test_draws_of_a_control_are_averaged_inside_their_replicate_and_do_not_add_to_n() -> None:
    reinits = [Trial("reinit", n, 1, 0.5, 100, accuracy) for n in range(3) for accuracy in (0.90, 0.92, 0.94)]
    (verdict,) = judge([*DENSE, *trials("ticket", 1, [0.98, 0.98, 0.98], [1, 1, 1]), *reinits], CRITERIA)
    (control,) = verdict.controls
    assert control.accuracy.n == 3
    assert control.accuracy.mean == pytest.approx(0.06)
    assert control.result == "better"


def test_whether_the_initialisation_matters_is_said_both_ways() -> None:
    tickets = trials("ticket", 1, [0.980, 0.981, 0.983], [4000, 4000, 4000])
    worse = trials("reinit", 1, [0.960, 0.962, 0.961], [4000, 4000, 4000])
    same = trials("reinit", 1, [0.981, 0.980, 0.983], [4000, 4000, 4000])
    said = [" ".join(sentences(judge([*DENSE, *tickets, *reinit], CRITERIA), CRITERIA)) for reinit in (worse, same)]
    assert "The initialisation matters" in said[0]
    assert "no difference between the ticket and the same mask on newly drawn weights" in said[1]


def test_the_sentences_name_the_method_the_margin_and_n() -> None:
    said = sentences(judge([*DENSE, *trials("ticket", 1, [0.982, 0.983, 0.984], [1, 1, 1])], CRITERIA), CRITERIA)
    assert said[0].startswith("Winning tickets are found.")
    assert "n = 3" in said[-1] and "95% Student t" in said[-1] and "0.2 points" in said[-1]


def test_a_level_without_dense_runs_has_no_verdict() -> None:
    assert judge(trials("ticket", 1, [0.9], [1]), CRITERIA) == []
    assert sentences([], CRITERIA) == ["No level has both a ticket and a dense network yet."]


@pytest.mark.parametrize(("low", "high", "stop", "expected"), [
    (-0.0019, 0.1, 100, "winning"),
    (-0.0019, 0.1, 101, "matching"),
    (-0.0021, 0.1, 0, "not decided"),
    (-0.0100, -0.0021, 0, "losing"),
    (-0.0100, -0.0019, 0, "not decided"),
])  # fmt: skip
def test_the_margins_are_where_they_are_said_to_be(low: float, high: float, stop: float, expected: str) -> None:
    comparison = Comparison("dense", Difference(0, low, high, 5), Difference(0, -1000, stop, 5), "not shown")
    assert decide(comparison, CRITERIA) == expected


def test_an_early_stop_at_the_end_of_training_does_not_win() -> None:
    dense = [Trial("dense", n, 0, 1.0, 5000, 0.98, censored=True) for n in range(3)]
    tickets = [Trial("ticket", n, 1, 0.5, 5000, 0.98, censored=True) for n in range(3)]
    (verdict,) = judge([*dense, *tickets], CRITERIA)
    assert verdict.verdict == "matching"
    assert "its early stop is the end of the training" in verdict.reason


def test_a_dense_network_that_was_still_improving_can_be_beaten() -> None:
    dense = [Trial("dense", n, 0, 1.0, 5000, 0.98, censored=True) for n in range(3)]
    (verdict,) = judge([*dense, *trials("ticket", 1, [0.98, 0.98, 0.98], [3000, 3000, 3000])], CRITERIA)
    assert verdict.verdict == "winning"


def test_replicates_that_agree_by_rounding_are_no_certainty() -> None:
    exact = paired([0.0, 0.0], confidence=0.95)
    rounded = paired([0.0, 0.0], confidence=0.95, grain=0.01)
    assert (exact.low, exact.high) == (0, 0)
    assert rounded.high == pytest.approx(12.706 * 0.01 / 6**0.5 / 2**0.5, rel=1e-4)


def test_what_goes_on_from_trained_weights_cannot_win() -> None:
    kept = Criteria(accuracy_margin=0.002, step_margin=100, isolated=False)
    (verdict,) = judge([*DENSE, *trials("ticket", 1, [0.982, 0.983, 0.984], [1, 1, 1])], kept)
    assert verdict.verdict == "matching"
    assert "no ticket" in verdict.reason


def test_the_best_of_many_levels_is_no_evidence_by_itself() -> None:
    """One level of twenty below 0.05 is what chance gives; Holm's correction asks for more."""
    chance = [[0.001 * sign for sign in (1, -1, 1)] for _ in range(19)]
    lucky = [0.010, 0.012, 0.017]
    rows = []
    for level, gains in enumerate([lucky, *chance], start=1):
        rows += trials("ticket", level, [0.97 + gain for gain in gains], [100, 120, 110], density=1 / level)
        rows += trials("reinit", level, [0.97, 0.97, 0.97], [100, 120, 110], density=1 / level)
    verdicts = judge([*DENSE, *rows], CRITERIA)
    assert verdicts[0].controls[0].result == "better"
    assert (
        "no difference between the ticket and the same mask on newly drawn weights" in sentences(verdicts, CRITERIA)[1]
    )


def test_holm_is_between_no_correction_and_bonferroni() -> None:
    p_values = [0.001, 0.012, 0.03, 0.2, 0.04]
    assert holm(p_values, alpha=0.05) == [True, True, False, False, False]
    assert [p <= 0.05 / len(p_values) for p in p_values] == [True, False, False, False, False]


def test_another_method_that_is_better_is_called_better() -> None:
    tickets = trials("ticket", 1, [0.970, 0.971, 0.972], [4000, 4000, 4000])
    other = trials("iterative", 1, [0.980, 0.981, 0.9825], [3000, 3000, 3000])
    said = sentences(judge([*DENSE, *tickets, *other], CRITERIA), CRITERIA)[1]
    assert "less accurate than iterative at 50.0%" in said


# ---------------------------------------------------------------- several rewind steps, accuracy at the end


def swept(gaps: dict[int, list[float]], arm: str = "reinit") -> list[Trial]:
    """Trials at level 1 of several rewind steps, in which the ticket beats another arm by these gaps."""
    made = []
    for step, each in gaps.items():
        for number, gap in enumerate(each):
            for name, level, accuracy in (("dense", 0, 0.9), ("ticket", 1, 0.9 + gap), (arm, 1, 0.9)):
                made.append(Trial(name, number, level, 0.5, 100, accuracy, rewind=step))
    return made


def test_statements_about_an_arm_hold_for_all_rewind_steps_together() -> None:
    """p is 0.02 at one step: shown alone; not among the four that were tried."""
    sure, nothing = [0.010, 0.012, 0.006], [0.001, -0.001, 0.0005]
    p = ttest_rel([0.9 + gap for gap in sure], [0.9] * 3).pvalue
    assert 0.05 / 4 < p < 0.05
    alone = sentences(judge(swept({0: sure}), CRITERIA), CRITERIA)
    assert any("more accurate than the same mask" in line for line in alone)
    steps = {0: sure, 10: nothing, 20: nothing, 30: nothing}
    together = sentences(judge(swept(steps), CRITERIA), CRITERIA)
    assert not any("more accurate than the same mask" in line for line in together)
    assert "corrected for 1 level at 4 rewind steps (Holm)" in together[-1]


def test_trials_of_other_rewind_steps_are_not_mixed() -> None:
    judged = judge(swept({0: [0.01, 0.01, 0.012], 10: [-0.05, -0.05, -0.052]}), CRITERIA)
    assert [(one.rewind, one.verdict) for one in judged] == [(0, "winning"), (10, "losing")]
    assert [control.against for control in judged[1].controls] == ["reinit", "the ticket rewound to step 0"]
    assert judged[1].controls[1].accuracy.mean == pytest.approx(-0.05 - 0.01, abs=0.002)


def test_where_paces_are_not_compared_a_ticket_matches_and_says_nothing_of_steps() -> None:
    unpaced = Criteria(accuracy_margin=0.002, step_margin=100, paced=False)
    (verdict,) = judge(swept({0: [0.01, 0.01, 0.012]}), unpaced)
    assert verdict.verdict == "matching" and "stop" not in verdict.reason
    said = " ".join(sentences([verdict], unpaced))
    assert "trained for as many steps" in said and "the end of training" in said and "stop" not in said


# ---------------------------------------------------------------- other metrics

LOSS = Metric("loss", higher_is_better=False)
BY_LOSS = Criteria(accuracy_margin=0.05, step_margin=100, metric=LOSS)


def by_loss(losses: list[float], steps: list[int]) -> list[Trial]:
    dense = trials("dense", 0, [1.50, 1.51, 1.52, 1.50, 1.51], [4000, 4100, 4200, 4000, 4100], density=1.0)
    return [*dense, *trials("ticket", 1, losses, steps)]


@pytest.mark.parametrize(("losses", "expected"), [
    ([1.30, 1.31, 1.33, 1.31, 1.30], "winning"),
    ([1.70, 1.71, 1.72, 1.71, 1.70], "losing"),
    ([1.53, 1.54, 1.55, 1.53, 1.54], "winning"),
    ([1.30, 1.80, 1.50, 1.60, 1.40], "not decided"),
])  # fmt: skip
def test_of_a_loss_less_is_better(losses: list[float], expected: str) -> None:
    (verdict,) = judge(by_loss(losses, [3000, 3100, 3200, 3000, 3100]), BY_LOSS)
    assert verdict.verdict == expected


@given(
    st.lists(st.tuples(UNIT, UNIT), min_size=2, max_size=6),
    st.lists(st.tuples(UNIT, UNIT), min_size=2, max_size=6),
    st.floats(0, 0.5, allow_subnormal=False),
)
@settings(derandomize=True, deadline=None)
def test_a_metric_and_its_negative_get_the_same_words(
    dense: list[tuple[float, float]], ticket: list[tuple[float, float]], margin: float
) -> None:
    words = []
    for sign in (1, -1):
        criteria = Criteria(margin, 100, metric=Metric("it", higher_is_better=sign == 1))
        rows = [Trial("dense", n, 0, 1.0, 9, sign * one) for n, (one, _) in enumerate(dense)]
        rows += [Trial("ticket", n, 1, 0.5, 9, sign * one) for n, (one, _) in enumerate(ticket)]
        rows += [Trial("reinit", n, 1, 0.5, 9, sign * two) for n, (_, two) in enumerate(ticket)]
        (verdict,) = judge(rows, criteria)
        words.append((verdict.verdict, verdict.dense.result, verdict.controls[0].result))
    assert words[0] == words[1]


def test_sentences_about_a_loss_read_as_of_a_loss() -> None:
    rows = by_loss([1.53, 1.54, 1.55, 1.53, 1.54], [3000, 3100, 3200, 3000, 3100])
    rows += trials("reinit", 1, [1.70, 1.75, 1.72, 1.71, 1.73], [3000, 3100, 3200, 3000, 3100])
    (verdict,) = judge(rows, BY_LOSS)
    assert verdict.reason.startswith("loss +0.030 [") and "the loss is no more than 0.05 higher" in verdict.reason
    said = " ".join(sentences([verdict], BY_LOSS))
    assert "the ticket's loss is lower than that of the same mask on newly drawn weights" in said
    assert "The loss is that at" in said and "not more than 0.05 above dense" in said
    assert "accura" not in said + verdict.reason and "points" not in said + verdict.reason
    (worse,) = judge(by_loss([1.70, 1.71, 1.72, 1.71, 1.70], [1, 1, 1, 1, 1]), BY_LOSS)
    assert "the loss is more than 0.05 higher" in worse.reason


@pytest.mark.parametrize(("difference", "metric", "expected"), [
    (Difference(0.0012, -0.0005, 0.0029, 5), ACCURACY, "+0.12 [-0.05, +0.29] points"),
    (Difference(-0.213, -0.4, -0.026, 5), Metric("psnr", unit="dB"), "-0.21 [-0.40, -0.03] dB"),
    (Difference(1532.4, 1322.0, 1742.8, 5), Metric("episode_return"), "+1,532 [+1,322, +1,743]"),
    (Difference(3e-9, 1e-9, 5e-9, 5), Metric("dice"), "+0.0000000030 [+0.0000000010, +0.0000000050]"),
    (Difference(0.25, -inf, inf, 1), Metric("r2"), "+0.25"),
    (Difference(0.0, 0.0, 0.0, 3), Metric("r2"), "+0.0 [+0.0, +0.0]"),
])  # fmt: skip
def test_a_difference_has_two_digits_of_its_interval(difference: Difference, metric: Metric, expected: str) -> None:
    assert amount(difference, metric) == expected
