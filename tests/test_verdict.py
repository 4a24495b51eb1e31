"""The verdict: formal definition, margins, intervals, pairing, and what it refuses to say."""

from dataclasses import replace
from math import inf, log, nan
from statistics import mean

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom, ttest_rel

from tombola.study.paired import Difference
from tombola.study.records import contrast_record, record
from tombola.study.sentences import sentences
from tombola.study.smoothed import Stop, smoothed_early_stop
from tombola.study.verdict import (
    ACCURACY,
    Comparison,
    Criteria,
    Metric,
    Trial,
    amount,
    compare,
    contrasts,
    decide,
    judge,
)

UNIT = st.floats(-1, 1, allow_subnormal=False)  # flushed to 0 here, as in the workers
CRITERIA = Criteria(accuracy_margin=0.002, step_margin=100)


def trials(arm: str, level: int, accuracies: list[float], steps: list[int], density: float = 0.5) -> list[Trial]:
    return [Trial(arm, n, level, density, step, a) for n, (a, step) in enumerate(zip(accuracies, steps, strict=True))]


DENSE = trials("dense", 0, [0.980, 0.981, 0.982, 0.980, 0.981], [4000, 4100, 4200, 4000, 4100], density=1.0)


def word(accuracies: list[float], steps: list[int]) -> str:
    (verdict,) = judge([*DENSE, *trials("ticket", 1, accuracies, steps)], CRITERIA)
    return verdict.verdict


def test_a_ticket_that_is_as_good_and_faster_wins() -> None:
    assert word([0.982, 0.983, 0.984, 0.982, 0.983], [3000, 3100, 3200, 3000, 3100]) == "winning"


def test_as_good_but_slower_is_matching() -> None:
    assert word([0.982, 0.983, 0.984], [9000, 9100, 9200]) == "matching"


def test_clearly_less_accurate_is_losing() -> None:
    assert word([0.960, 0.961, 0.962], [3000, 3100, 3200]) == "losing"


def test_a_wide_interval_decides_nothing() -> None:
    assert word([0.970, 0.981, 0.990], [3000, 3100, 3200]) == "not decided"


def test_worse_by_less_than_the_margin_still_matches() -> None:
    assert word([0.979, 0.980, 0.981, 0.979, 0.980], [4000, 4100, 4200, 4000, 4100]) == "winning"


def test_one_replicate_decides_nothing() -> None:  # K15
    (verdict,) = judge([DENSE[0], *trials("ticket", 1, [0.99], [10])], CRITERIA)
    assert verdict.verdict == "not decided"
    assert "one replicate has no interval" in verdict.reason
    assert (verdict.dense.accuracy.low, verdict.dense.accuracy.high, verdict.dense.accuracy.n) == (-inf, inf, 1)
    assert "One replicate decides nothing" in sentences([verdict], CRITERIA)[-1]


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
    tickets = trials("ticket", 1, [0.982, 0.983, 0.984, 0.982, 0.983], [1, 1, 1, 1, 1])
    said = sentences(judge([*DENSE, *tickets], CRITERIA), CRITERIA)
    assert said[0].startswith("Winning tickets are found.")
    assert "n = 5" in said[-1] and "95% Student t" in said[-1] and "0.2 points" in said[-1]


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
    assert "an early stop lies at an end of the training" in verdict.reason


def test_a_dense_network_that_was_still_improving_can_be_beaten() -> None:
    dense = [Trial("dense", n, 0, 1.0, 5000, 0.98, censored=True) for n in range(5)]
    (verdict,) = judge([*dense, *trials("ticket", 1, [0.98] * 5, [3000] * 5)], CRITERIA)
    assert verdict.verdict == "winning"


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
    judged = judge(swept({0: [0.01, 0.01, 0.012] * 2, 10: [-0.05, -0.05, -0.052] * 2}), CRITERIA)
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
    dense, ticket = [[(one + 2, two + 2) for one, two in arm] for arm in (dense, ticket)]  # no metric of 0
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


# ---------------------------------------------------------------- what a word takes

FIVE = [0.980, 0.981, 0.982, 0.980, 0.981]


@pytest.mark.parametrize(("n", "expected"), [(2, "matching"), (4, "matching"), (5, "winning")])
def test_winning_takes_five_replicates(n: int, expected: str) -> None:
    (verdict,) = judge([*DENSE, *trials("ticket", 1, FIVE[:n], [3000] * n)], CRITERIA)
    assert verdict.verdict == expected and verdict.pace == "as fast"
    assert ("winning takes five replicates" in verdict.reason) is (expected == "matching")


@pytest.mark.parametrize(("steps", "label", "phrase"), [
    ([9000, 9100, 9200, 9000, 9150], "matching, slower", "matching (as accurate, slower) at 50.0%"),
    ([2000, 9100, 3200, 7000, 150], "matching, speed open", "matching (as accurate, speed not decided) at 50.0%"),
    ([3000, 3100, 3200, 3000, 3150], "winning", "winning (as accurate as the dense network, in at most as many steps)"),
])  # fmt: skip
def test_matching_says_whether_it_is_slower_or_not_known(steps: list[int], label: str, phrase: str) -> None:
    (verdict,) = judge([*DENSE, *trials("ticket", 1, FIVE, steps)], CRITERIA)
    assert verdict.label == label
    assert phrase in sentences([verdict], CRITERIA)[0]


def test_what_is_not_decided_says_how_many_more_replicates_would_decide() -> None:
    spread = [0.976, 0.984, 0.979, 0.986, 0.979]
    (verdict,) = judge([*DENSE, *trials("ticket", 1, spread, [3000] * 5)], CRITERIA)
    assert verdict.verdict == "not decided" and verdict.more_replicates
    assert f"about {verdict.more_replicates} more replicates would decide" in verdict.reason
    assert f"about {verdict.more_replicates} more replicates would decide" in sentences([verdict], CRITERIA)[0]


# ---------------------------------------------------------------- nothing learned


def untaught(
    accuracies: list[float], steps: list[int], criteria: Criteria, **more: float
) -> tuple[str, str, list[str]]:
    """Word, reason and sentences where dense and ticket are alike."""
    dense = [replace(each, **more) for each in trials("dense", 0, accuracies, steps, density=1.0)]  # type: ignore[arg-type]
    (verdict,) = judge(
        [*dense, *trials("ticket", 1, accuracies, steps), *trials("reinit", 1, accuracies, steps)], criteria
    )
    return verdict.verdict, verdict.reason, sentences([verdict], criteria)


def test_networks_that_guess_have_no_verdict() -> None:
    """lr = 1e4: ten classes, 597 test examples, 9.5 % right; they "matched"."""
    criteria = Criteria(0.01, 10, accuracy_grain=1 / 597, step_grain=10, chance=0.1139)
    word, reason, said = untaught([0.095, 0.102, 0.085, 0.097, 0.099], [40, 50, 60, 40, 50], criteria)
    assert word == "not learned" and "no better than that of guessing, 11.39%" in reason
    assert said == [f"No verdict: {reason}."]


@pytest.mark.parametrize("right", range(76, 90))
def test_what_guessing_gives_with_probability_5_percent_is_no_learning(right: int) -> None:
    criteria = Criteria(0.01, 10, accuracy_grain=1 / 597, chance=0.1139)
    word, *_ = untaught([right / 597] * 5, [500, 900, 40, 80, 230], criteria)
    assert (word == "not learned") == (binom.sf(right - 1, 597, 0.1139) > 0.05)


@pytest.mark.parametrize(("metric", "grain", "learned", "guessing"), [
    (Metric("error", higher_is_better=False), 0.0, 0.05, 0.9),
    (Metric("error", higher_is_better=False), 1 / 200, 0.05, 0.9),
    (Metric("loss", higher_is_better=False), 0.0, 1.5, 4.17),
    (Metric("return"), 1.0, 203.0, 21.0),
    (Metric("return"), 1.0, -110.0, -200.0),
    (Metric("r2"), 0.0, 0.9, 0.0),
])  # fmt: skip
def test_guessing_is_on_the_worse_side_of_learning_whatever_the_metric(
    metric: Metric, grain: float, learned: float, guessing: float
) -> None:
    """An error rate of 0.05 beside one of 0.9 for guessing was "not above that of guessing"."""
    criteria = replace(CRITERIA, metric=metric, accuracy_grain=grain, chance=guessing)
    assert untaught([learned] * 5, [500] * 5, criteria)[0] != "not learned"
    word, reason, _ = untaught([guessing] * 5, [500] * 5, criteria)
    assert word == "not learned" and "no better than that of guessing" in reason


def test_a_minimum_before_the_first_step_is_no_learning() -> None:
    word, reason, _ = untaught(FIVE, [0] * 5, CRITERIA)
    assert word == "not learned" and "smallest before the first step of training" in reason
    assert untaught(FIVE, [0] * 5, replace(CRITERIA, paced=False))[0] == "matching", "the stop is not asked for"


@pytest.mark.parametrize(("metric", "value", "before"), [
    (Metric("dice"), 1e-8, None),
    (ACCURACY, 0.0, None),
    (Metric("r2"), 0.004, 0.004),
    (Metric("loss", higher_is_better=False), 2.31, 2.30),
])  # fmt: skip
def test_a_metric_that_is_what_it_was_is_no_learning(metric: Metric, value: float, before: float | None) -> None:
    more = {} if before is None else {"before": before}
    word, _, said = untaught([value] * 5, [300, 400, 300, 400, 350], replace(CRITERIA, metric=metric), **more)
    assert word == "not learned" and said[0].startswith("No verdict: the dense network learned nothing")


def test_a_metric_that_is_no_number_is_no_learning_and_no_difference() -> None:
    criteria = replace(CRITERIA, accuracy_grain=1 / 597, chance=0.1)
    word, reason, _ = untaught([nan] * 5, [300] * 5, criteria)
    assert word == "not learned" and "no number" in reason
    (verdict,) = judge(
        [*DENSE, *trials("ticket", 1, [nan] * 5, [300] * 5), *trials("reinit", 1, FIVE, [300] * 5)], criteria
    )
    assert verdict.verdict == "not decided" and verdict.more_replicates is None
    assert (verdict.controls[0].result, verdict.controls[0].result_holm) == ("not shown", "not shown")


def test_one_dense_network_of_five_that_learned_nothing_is_left_to_the_interval() -> None:
    dense = [replace(each, step=0) if each.replicate == 0 else each for each in DENSE]
    (verdict,) = judge([*dense, *trials("ticket", 1, FIVE, [3000] * 5)], CRITERIA)
    assert verdict.verdict == "matching" and verdict.pace == "speed open"


def test_a_minimum_at_the_first_evaluation_is_censored_as_one_at_the_last_is() -> None:
    steps = [3000] * 5
    early = [replace(each, first=True) for each in trials("ticket", 1, FIVE, steps)]
    (verdict,) = judge([*DENSE, *early], CRITERIA)
    assert verdict.label == "matching, speed open"
    dense = [replace(each, first=True) for each in DENSE]
    (verdict,) = judge([*dense, *trials("ticket", 1, FIVE, steps)], CRITERIA)
    assert verdict.label == "matching, speed open"


# ---------------------------------------------------------------- ratios, and the second reading


def test_early_stops_are_compared_as_ratios_too() -> None:
    grained = replace(CRITERIA, step_grain=100)
    tickets = trials("ticket", 1, FIVE, [1950, 2000, 2050, 1950, 2000])
    (verdict,) = judge([*DENSE, *tickets], grained)
    found = verdict.dense.ratio
    logs = [log((mine.step + 100) / (other.step + 100)) for mine, other in zip(tickets, DENSE, strict=True)]
    assert found and log(found.mean) == pytest.approx(mean(logs)) and found.low < 0.5 < found.high < 0.55
    assert "(0.50 [0." in verdict.reason


def test_a_stop_at_step_0_has_a_ratio() -> None:
    (verdict,) = judge([*DENSE, *trials("ticket", 1, FIVE, [0, 0, 100, 0, 100])], replace(CRITERIA, step_grain=100))
    assert verdict.dense.ratio and 0 < verdict.dense.ratio.low < verdict.dense.ratio.high < 1


def test_the_smoothed_early_stop_is_that_of_a_running_mean() -> None:
    steps = list(range(0, 310, 10))
    losses = [3 - min(step, 200) / 100 + max(0, step - 200) / 200 for step in steps]
    spiked = [loss - 2.2 * (step == 40) for step, loss in zip(steps, losses, strict=True)]
    assert min(range(31), key=spiked.__getitem__) == 4, "one lucky evaluation"
    stop = smoothed_early_stop(steps, spiked)
    by_hand = [sum(spiked[place - 5 : place + 6]) for place in range(5, 26)]
    assert stop == Stop(steps[5 + by_hand.index(min(by_hand))])
    assert smoothed_early_stop(steps, [-float(step) for step in steps]) == Stop(250, last=True)
    assert smoothed_early_stop(steps, [float(step) for step in steps]) == Stop(50, first=True)
    assert smoothed_early_stop(steps[:11], losses[:11]) is None


def test_the_second_reading_has_a_name_and_no_part_in_the_word() -> None:
    def read(step: int) -> tuple[str, str, list[str]]:
        dense = [replace(each, smoothed=Stop(each.step)) for each in DENSE]
        tickets = [replace(each, smoothed=Stop(step)) for each in trials("ticket", 1, FIVE, [3000] * 5)]
        (verdict,) = judge([*dense, *tickets], CRITERIA)
        second = record(verdict, ACCURACY)["dense"]["second_reading"]
        assert second["name"] == "smoothed early stop" and second["evaluations"] == 11
        return verdict.verdict, second["pace"], sentences([verdict], CRITERIA)

    slow, fast = read(9000), read(1000)
    assert (slow[0], slow[1], fast[0], fast[1]) == ("winning", "slower", "winning", "as fast")
    assert slow[2][0] == fast[2][0] and slow[2][2:] == fast[2][2:]
    assert slow[2][1].startswith("Second reading, on which no word rests: the smoothed early stop")
    assert slow[2][1].endswith("is later than dense at 50.0%.") and fast[2][1].endswith("no later than dense at 50.0%.")


# ---------------------------------------------------------------- one contrast for each control, and JSON


def rounds(gaps: dict[float, list[float]]) -> list[Trial]:
    """Trials at these densities whose ticket is better than reinit by these gaps."""
    rows = list(DENSE)
    for level, (density, each) in enumerate(gaps.items(), start=1):
        accuracies = [0.970 + 0.001 * number for number in range(len(each))]
        rows += trials("reinit", level, accuracies, [4000] * len(each), density)
        rows += trials(
            "ticket", level, [a + gap for a, gap in zip(accuracies, each, strict=True)], [4000] * len(each), density
        )
    return rows


GAPS = {0.5: [0.9] * 5, 0.29: [0.01, 0.02, 0.03, 0.02, 0.01], 0.1: [0.03, 0.02, 0.01, 0.02, 0.0]}


def test_the_contrast_is_the_mean_over_the_levels_below_30_percent_in_each_replicate() -> None:
    (found,) = contrasts(judge(rounds(GAPS), CRITERIA), CRITERIA)
    assert (found.levels, found.densities) == ((2, 3), (0.29, 0.1))
    expected = ttest_rel([0.02, 0.02, 0.02, 0.02, 0.005], [0.0] * 5).confidence_interval(0.95)
    assert (found.accuracy.low, found.accuracy.high) == pytest.approx((expected.low, expected.high))
    assert found.result == "better"
    dense_ones = {density + 0.5: gaps for density, gaps in list(GAPS.items())[1:]}
    (found,) = contrasts(judge(rounds(dense_ones), CRITERIA), CRITERIA)
    assert found.levels == (1, 2), "all there are, where none lies below"


def test_a_replicate_without_one_of_the_levels_is_left_out_of_the_contrast() -> None:
    rows = [row for row in rounds(GAPS) if (row.arm, row.level, row.replicate) != ("reinit", 3, 4)]
    (found,) = contrasts(judge(rows, CRITERIA), CRITERIA)
    assert found.accuracy.n == 4 and found.accuracy.mean == pytest.approx(0.02)
    nobody = [row for row in rounds(GAPS) if (row.arm, row.level) != ("reinit", 3) or row.replicate > 4]
    assert contrasts(judge(nobody, CRITERIA), CRITERIA)[0].levels == (2,), "a level that the control has not at all"


def test_the_contrast_leads_the_sentence_and_decides_it() -> None:
    said = sentences(judge(rounds(GAPS), CRITERIA), CRITERIA)[1]
    assert said.startswith(
        "The initialisation matters: the ticket is more accurate than the same mask on newly drawn weights (reinit) on "
        "average over the levels below 30%, 29.0% to 10.0% (+1.70 ["
    )
    assert said.endswith("level by level more accurate at 50.0% to 10.0%.")
    weak = {0.5: [0.9] * 5, 0.2: [0.03, -0.02, 0.01, -0.02, 0.0]}
    said = sentences(judge(rounds(weak), CRITERIA), CRITERIA)[1]
    assert said.startswith("That the initialisation matters stays open: no difference between the ticket and")
    assert "level by level the ticket is more accurate at 50.0%" in said


def test_json_says_of_each_result_which_correction_it_has() -> None:
    lucky = [0.010, 0.012, 0.017]
    gaps = {1 / level: [0.001, -0.001, 0.001] for level in range(2, 21)} | {0.04: lucky}
    verdicts = judge(rounds(gaps), CRITERIA)
    (control,) = record(verdicts[-1], ACCURACY)["controls"]
    assert (control["result"], control["result_holm"]) == ("better", "not shown")
    assert control["correction"] == {
        "result": "none",
        "result_holm": "Holm",
        "earlier_holm": "Holm",
        "same_holm": "Holm",
    }
    assert record(verdicts[-1], ACCURACY)["dense"]["correction"] == {"result": "none"}
    assert len(control["pairs"]) == 3 and set(control["pairs"][0]) == {"replicate", "accuracy", "steps"}


def test_json_has_the_metric_under_its_name() -> None:
    (verdict,) = judge(by_loss([1.53, 1.54, 1.55, 1.53, 1.54], [3000] * 5), BY_LOSS)
    dense = record(verdict, LOSS)["dense"]
    assert dense["loss"]["mean"] == pytest.approx(0.03) and "accuracy" not in dense
    rows = [*by_loss([1.53] * 5, [3000] * 5), *trials("reinit", 1, [1.6] * 5, [3000] * 5)]
    (found,) = contrasts(judge(rows, BY_LOSS), BY_LOSS)
    assert contrast_record(found, LOSS)["loss"]["n"] == 5


def test_a_ticket_that_stops_at_its_first_evaluation_is_not_said_to_stop_earlier() -> None:
    lost = [0.10, 0.11, 0.10, 0.09, 0.10]
    control = trials("random", 1, lost[::-1], [900, 1000, 1100, 1000, 950], density=0.1)
    for first, expected in ((False, "earlier"), (True, "not shown")):
        tickets = [replace(each, first=first) for each in trials("ticket", 1, lost, [0] * 5, density=0.1)]
        verdicts = judge([*DENSE, *tickets, *control], CRITERIA)
        (contrast,), (alone,) = contrasts(verdicts, CRITERIA), verdicts[0].controls
        assert (contrast.earlier, alone.earlier_holm) == (expected, expected)
        assert ("stops earlier" in " ".join(sentences(verdicts, CRITERIA))) == (not first)
