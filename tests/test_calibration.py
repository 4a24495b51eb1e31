"""Likelihood, Brier score and calibration error: scikit-learn's, or counted by hand."""

from math import inf, log

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import entropy as scipy_entropy
from sklearn.metrics import brier_score_loss, log_loss

from tombola.errors import BadInput
from tombola.study.calibration import brier, calibration, ece, entropy, mace, nll

NUMBERS = np.random.default_rng(0)


def outputs(classes: int, n: int = 200) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.tensor(3 * NUMBERS.standard_normal((n, classes))), torch.tensor(NUMBERS.integers(0, classes, n))


@pytest.mark.parametrize("classes", [2, 5])
def test_likelihood_and_brier_score_are_those_of_scikit_learn(classes: int) -> None:
    logits, labels = outputs(classes)
    found, p = calibration(logits, labels), logits.softmax(1)
    assert found.nll == pytest.approx(log_loss(labels.numpy(), p.numpy(), labels=range(classes)), rel=1e-9)
    assert found.nll == pytest.approx(nll(p, labels), rel=1e-9)
    whole = brier_score_loss(labels.numpy(), p.numpy(), scale_by_half=False, labels=range(classes))
    assert found.brier == pytest.approx(whole, rel=1e-9)
    if classes == 2:
        assert found.brier == pytest.approx(2 * brier_score_loss(labels.numpy(), p[:, 1].numpy()), rel=1e-9)


@pytest.mark.parametrize("bins", [1, 2, 10, 15])
def test_the_calibration_error_is_a_sum_over_that_many_bins(bins: int) -> None:  # linspace(0, 1, 15) makes 14
    logits, labels = outputs(3)
    p, answers = logits.softmax(1).numpy(), labels.numpy()
    total = 0.0
    for number in range(bins):
        inside = [row for row in range(len(p)) if number / bins < p[row].max() <= (number + 1) / bins]
        if inside:
            right = np.mean([p[row].argmax() == answers[row] for row in inside])
            total += len(inside) / len(p) * abs(right - np.mean([p[row].max() for row in inside]))
    assert ece(p, answers, bins) == pytest.approx(total, abs=1e-12)
    assert ece(p, answers) == calibration(logits, labels).ece


@pytest.mark.parametrize("bins", [1, 3, 10])
def test_the_mean_calibration_error_weighs_each_bin_that_has_examples_alike(bins: int) -> None:
    logits, labels = outputs(3)
    p, answers = logits.softmax(1).numpy(), labels.numpy()
    off = []
    for number in range(bins):
        inside = [row for row in range(len(p)) if number / bins < p[row].max() <= (number + 1) / bins]
        if inside:
            off.append(abs(np.mean([p[row].argmax() == answers[row] for row in inside]) - np.mean(p[inside].max(1))))
    assert mace(p, answers, bins) == pytest.approx(np.mean(off), abs=1e-12)
    assert mace(p, answers) == calibration(logits, labels).mace
    assert mace(p, answers, 1) == pytest.approx(ece(p, answers, 1), abs=1e-12)


def test_the_entropy_is_that_of_scipy() -> None:
    logits, labels = outputs(4)
    assert calibration(logits, labels).entropy == pytest.approx(scipy_entropy(logits.softmax(1).numpy(), axis=1).mean())
    assert entropy([[0.25] * 4]) == pytest.approx(log(4)) and entropy([[1.0, 0.0]]) == 0


def test_edges_belong_to_the_bin_below() -> None:
    # Of two bins 0.5 is in the first one; together with 0.75, in the second, the errors do not cancel.
    assert ece([[0.5, 0.5], [0.75, 0.25]], [0, 1], bins=2) == pytest.approx((0.5 + 0.75) / 2)
    assert ece([[0.5, 0.5], [0.75, 0.25]], [0, 1], bins=1) == pytest.approx(0.125)


@given(st.floats(0.001, 0.999))
def test_whoever_is_as_often_right_as_believed_has_no_calibration_error(share: float) -> None:
    n = 1_000
    right = round(share * n)
    p = np.tile([right / n, 1 - right / n], (n, 1))
    labels = np.array([0] * right + [1] * (n - right))
    assert ece(p, labels) == pytest.approx(0, abs=1e-9)


def test_logarithms_of_probabilities_are_logits_and_certainty_costs_what_it_should() -> None:
    p = torch.tensor([[0.2, 0.8], [1.0, 0.0], [0.5, 0.5]])
    assert calibration(p.log(), [1, 0, 1]).nll == pytest.approx(-(log(0.8) + log(0.5)) / 3, rel=1e-6)
    assert nll(p, [1, 1, 1]) == calibration(p.log(), [1, 1, 1]).nll == inf
    assert calibration([[0.0, 2_000.0], [0.0, 1.0]], [0, 1]).nll == pytest.approx(1_000 + log(1 + np.exp(-1)) / 2)
    assert calibration(p.log().half(), [1, 0, 1]).accuracy == pytest.approx(2 / 3)


def test_what_is_no_logit_and_no_probability_is_refused() -> None:
    p, logits = [[0.2, 0.8], [0.5, 0.5]], [[0.2, 1.8], [-0.5, 0.5]]
    with pytest.raises(BadInput, match="before the softmax, found rows that are probabilities"):
        calibration(p, [0, 1])
    for number in (nll, brier, ece):
        with pytest.raises(BadInput, match="rows with sums from 0 to 2"):
            number(logits, [0, 1])
        for labels in ([0, 2], [-100, 1], [0], [0.0, 1.0]):
            with pytest.raises(BadInput, match="a label for each row: a column"):
                number(p, labels)
    with pytest.raises(BadInput, match="one bin or more"):
        ece(p, [0, 1], bins=0)
