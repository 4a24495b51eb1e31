"""What a network was not trained on: scores and areas as others compute them, and the study of tickets."""

from dataclasses import replace
from math import exp, inf, log, nan
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn

from tombola import data
from tombola.data import Dataset
from tombola.errors import BadInput, SpecError
from tombola.lab.kinds import Measured, Seen
from tombola.lab.plan import plan
from tombola.lab.spec_file import read
from tombola.lab.studies.out_of_distribution import NOISE, Detection
from tombola.study import features
from tombola.study.out_of_distribution import SCORES, auroc, detection, energy, max_softmax

ASKED = "study.out_of_distribution={levels=[1],arms=['ticket','random'],data='uniform-noise'}"
scores = st.lists(st.integers(-3, 3), min_size=1, max_size=30)


@given(scores, scores)
def test_the_area_is_that_of_scikit_learn_ties_and_all(inside: list[int], outside: list[int]) -> None:
    truth = [1] * len(inside) + [0] * len(outside)
    assert auroc(Tensor(inside), Tensor(outside)) == pytest.approx(roc_auc_score(truth, inside + outside), abs=1e-12)
    swapped = auroc(Tensor(outside), Tensor(inside))
    assert swapped == pytest.approx(1 - auroc(Tensor(inside), Tensor(outside)), abs=1e-12)


def test_scores_are_the_papers() -> None:
    logits = 5 * torch.tensor(np.random.default_rng(0).standard_normal((50, 4)))
    p = logits.softmax(1).amax(1)
    assert torch.allclose(max_softmax(logits).sigmoid(), p)
    for row, found, cold in zip(logits.tolist(), energy(logits), energy(logits, 0.5), strict=True):
        assert float(found) == pytest.approx(-log(sum(map(exp, row))))
        assert float(cold) == pytest.approx(-0.5 * log(sum(exp(each / 0.5) for each in row)))
    others = logits.flip(0) * 0.5
    truth = [1] * 50 + [0] * 50
    found = detection(logits, others)
    both = torch.cat([logits, others])
    assert found["max-softmax"] == pytest.approx(roc_auc_score(truth, both.softmax(1).amax(1).numpy()))
    assert found["energy"] == pytest.approx(roc_auc_score(truth, both.logsumexp(1).numpy()))
    assert list(found) == list(SCORES)


def test_networks_that_are_sure_of_all_are_still_told_apart() -> None:
    """Their largest softmax is 1 in any float."""
    sure, surer = torch.tensor([[50.0, 0.0]]), torch.tensor([[60.0, 0.0]])
    assert float(sure.double().softmax(1).max()) == float(surer.double().softmax(1).max()) == 1
    assert detection(surer, sure)["max-softmax"] == 1


def test_what_is_no_score_is_refused() -> None:
    for inside in (torch.tensor([]), torch.tensor([nan])):
        with pytest.raises(BadInput, match="scores of examples inside and outside"):
            auroc(inside, torch.tensor([0.0]))
    assert auroc(torch.tensor([inf]), torch.tensor([-inf])) == 1
    with pytest.raises(BadInput, match="a number above 0"):
        energy(torch.zeros(1, 2), temperature=0.0)


# ---------------------------------------------------------------- the measurement


def seen(other: Dataset, name: str = "other") -> Seen:
    """A network of digits that looks at them and at another data set."""
    torch.manual_seed(0)
    model, own = nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), data.load("digits")
    recipe = SimpleNamespace(precision=None)
    return Seen(
        model, {}, {}, own, *(torch.arange(10),) * 2, torch.arange(597), recipe, 3, {}, {}, None, {name: other}  # type: ignore[arg-type]
    )  # fmt: skip


def test_other_data_are_normalised_as_ones_own_and_not_by_their_own_statistics() -> None:
    digits = data.load("digits")
    brighter = replace(digits, facts=replace(digits.facts, mean=(0.9,), std=(0.1,)), normalisation="range")
    finer = replace(
        digits, facts=replace(digits.facts, white=15 * digits.facts.white), test_images=15 * digits.test_images
    )
    for same_pixels in (digits, brighter, finer):
        found = Detection(data="other", fingerprint=None).of(seen(same_pixels))
        assert found == {name: pytest.approx(0.5, abs=1e-3) for name in SCORES}
    darker = replace(digits, test_images=digits.test_images // 2)
    assert abs(Detection(data="other", fingerprint=None).of(seen(darker))["energy"] - 0.5) > 0.01


def test_noise_is_drawn_from_the_seed() -> None:
    asked, network = Detection(data=NOISE, fingerprint=None), seen(data.load("digits"))
    assert asked.of(network) == asked.of(network) != asked.of(replace(network, seed=4))
    assert asked.further_data == ()


# ---------------------------------------------------------------- the study


def test_the_dense_network_and_every_arm_are_asked_once() -> None:
    wanted = plan(read("digits-lenet", ["levels=1", "replicates=2", "arms=ticket,random", ASKED]))
    asked = [question for question in wanted.questions if question.study == "out_of_distribution"]
    assert [question.arm for question in asked] == ["dense", "ticket", "random"] * 2
    rows = {(row.arm, row.level, row.replicate): row.run for row in wanted.rows if row.draw == 0}
    for question in asked:
        assert isinstance(question.run, Measured)
        assert question.run.trained == rows[question.arm, 0 if question.arm == "dense" else 1, question.replicate]


def changed(name: str, changes: list[str]) -> list[Any]:
    return [*changes, f"study.out_of_distribution={{levels=[1],data='{name}'}}"]


def test_other_data_are_read_and_are_in_the_key() -> None:
    (run, *_) = (question.run for question in plan(read("lenet-mnist-quick", changed("fashion-mnist", []))).questions)
    assert isinstance(run, Measured) and run.data == ("mnist", "fashion-mnist")
    assert run.measurement.fingerprint == data.facts("fashion-mnist").fingerprint  # type: ignore[attr-defined]
    other = replace(run, measurement=run.measurement.model_copy(update={"fingerprint": "other"}))
    assert other.key != run.key


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("cifar10", [], r"images of 1 x 28 x 28, as those of mnist, found cifar10, images of 3 x 32 x 32"),
        ("mnist", [], "other data than those of the recipe, whose test set is that of mnist, found mnist"),
        ("mnist-6000+random-labels", [], "other data than those of the recipe"),
        ("fashion-mnist+rotated", [], "found fashion-mnist.rotated, no images in bytes"),
        ("shakespeare", [], "no images in bytes"),
        ("fashion", [], "uniform-noise, or one of digits, mnist, "),
        ("fashion-mnist", ["recipe.inputs=['permuted']"], "inputs that are not changed"),
        ("fashion-mnist", ["recipe.data=moons-circles"], "images, and answers that are classes"),
    ],
)
def test_data_that_cannot_be_told_from_ones_own_are_refused(name: str, changes: list[str], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        read("lenet-mnist-quick", changed(name, changes))


def test_a_ticket_belongs_to_the_arms() -> None:
    with pytest.raises(SpecError, match=r"study.out_of_distribution.arms: expected the ticket"):
        read("digits-lenet", ["study.out_of_distribution={levels=[1],arms=['reinit'],data='uniform-noise'}"])


@pytest.mark.parametrize(
    ("inside", "outside", "words"),
    [
        (torch.randn(5, 4), torch.randn(5, 3), r"found \(5, 4\) and \(5, 3\)"),
        (torch.randn(5, 1), torch.randn(5, 1), "two classes or more"),
        (torch.randn(5), torch.randn(5), r"found \(5,\)"),
        (torch.randn(5, 4).softmax(1), torch.randn(5, 4), "rows that are probabilities"),
    ],
)
def test_what_is_not_told_apart_is_named(inside: Tensor, outside: Tensor, words: str) -> None:
    with pytest.raises(BadInput, match=words):
        detection(inside, outside)
    assert detection(3 * torch.eye(3).numpy(), torch.zeros(3, 3).numpy())["energy"] == 1


def test_a_difference_of_less_than_one_example_is_not_shown_by_two_replicates() -> None:
    values = {"ticket": {0: 0.9972, 1: 0.9973}, "dense": {0: 0.9970, 1: 0.9971}}
    fine, coarse = features.standings(values, 0.95), features.standings(values, 0.95, grain=1 / 300)
    assert features.verdict(fine) == "for" and features.verdict(coarse) != "for"
