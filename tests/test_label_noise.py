"""False labels on purpose: exactly so many, of training examples alone, and known."""

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tombola import data
from tombola.data import Dataset, label_noise
from tombola.data.facts import Facts
from tombola.data.splits import split
from tombola.errors import SpecError
from tombola.lab.plan import plan, summary
from tombola.lab.replicate import Replicate
from tombola.lab.spec_file import read
from tombola.lab.store import Store
from tombola.methods import METHODS

WHOLE = "digits"


@pytest.fixture(scope="module")
def whole() -> Dataset:
    return data.load(WHOLE)


@given(
    st.integers(1, 99).map(lambda n: repr(n / 100)),
    st.integers(0, 2**62),
    st.integers(2, 90),
    st.integers(0, 30),
    st.integers(2, 5),
)
def test_exactly_the_share_of_the_training_examples_is_false(
    share: str, seed: int, train: int, validation: int, classes: int
) -> None:
    known = Facts("toy", (3,), classes, train=train, validation=validation, test=4)
    labels = np.random.default_rng(seed).integers(classes, size=train + validation)
    test = np.arange(4) % classes
    noise = label_noise.named(f"label-noise-{share}~{seed}")
    assert noise
    images = np.zeros((train + validation, 3), np.uint8)
    _, noisy, _, same = noise.arrays((images, labels, images[:4], test), known)
    wrong = set(np.flatnonzero(noisy != labels))
    assert len(wrong) == (2 * Fraction(share) * train + 1) // 2, "the share of n, rounded half up"
    assert wrong <= set(split(known, seed)[0].tolist()) and same is test
    assert noisy.min() >= 0 and noisy.max() < classes
    assert wrong == set(np.flatnonzero(label_noise.false_labels(noise.facts(known))))


def test_validation_and_test_keep_the_true_labels(whole: Dataset) -> None:  # E2
    made = data.load("digits+label-noise-0.3~7")
    train, validation = data.split(made, 7)
    assert torch.equal(made.labels[validation], whole.labels[validation])
    assert torch.equal(made.test_labels, whole.test_labels) and torch.equal(made.images, whole.images)
    assert int((made.labels[train] != whole.labels[train]).sum()) == 300
    false = torch.from_numpy(label_noise.false_labels(made.facts))
    assert torch.equal(false, made.labels != whole.labels)


def test_each_other_class_is_as_likely() -> None:
    known = Facts("toy", (1,), 5, train=20_000, validation=0, test=0)
    labels = np.full(20_000, 3)
    noise = label_noise.named("label-noise-0.8~1")
    assert noise
    _, noisy, *_ = noise.arrays((labels, labels, labels[:0], labels[:0]), known)
    counts = np.bincount(noisy, minlength=5)
    assert counts[3] == 4000 and (np.abs(counts[[0, 1, 2, 4]] - 4000) < 300).all()


def test_a_replicate_s_noise_is_that_of_its_split_behind_its_inputs() -> None:
    spec = read("digits-lenet", ["recipe.label_noise=0.2", "recipe.inputs=rotated"]).spec
    one, other = Replicate(spec, 0), Replicate(spec, 1)
    run = next(iter(METHODS["iterative"].search(one, 0)))
    assert run.recipe.data.endswith(f"+label-noise-0.2~{run.split_seed}")
    assert run.recipe.data != other.recipe.data and "label_noise" not in run.recipe.model_dump()
    made, true = data.load(run.recipe.data), data.load(WHOLE)
    train, validation = data.split(made, run.split_seed)
    assert int((made.labels[train] != true.labels[train]).sum()) == 200
    assert torch.equal(made.labels[validation], true.labels[validation])


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (["recipe.label_noise=1.0"], "a number < 1"),
        (["recipe.label_noise=0.0"], "a number > 0"),
        (["recipe.label_noise=often"], "number"),
        (["recipe.label_noise=0.2", "recipe.data=digits+label-noise-0.2~7"], "each once"),
        (["recipe.label_noise=0.2", "recipe.data=shakespeare"], "running text"),
        (["recipe.label_noise=0.2", "method=colt"], "true labels; .* has false ones"),
        (["recipe.label_noise=0.2", "arms=ticket,half-data"], "true labels; .* has false ones"),
        (["recipe.data=digits+label-noise-0.2"], "label-noise-SHARE~SEED"),
        (["recipe.data=digits+label-noise-0.20~7"], "label-noise-SHARE~SEED"),
    ],
)
def test_noise_that_cannot_be_is_refused(changes: list[str], words: str) -> None:
    with pytest.raises(SpecError, match=words):
        read("digits-lenet", changes)


def test_labels_of_no_noise_are_asked_for_in_vain() -> None:
    with pytest.raises(ValueError, match="expected a data set with label noise"):
        label_noise.false_labels(data.facts("digits+rotated~7"))


@pytest.mark.parametrize(
    ("name", "false"), [("digits", 0), ("digits+label-noise-0.2~7", 200), ("digits+rotated~1+label-noise-0.145~7", 145)]
)
def test_how_many_labels_are_false_is_known_of_a_name(name: str, false: int) -> None:
    known = data.facts(name)
    assert label_noise.number_false(known) == false
    assert not false or label_noise.false_labels(known).sum() == false


@pytest.mark.parametrize(("where", "told"), [("early-stop", True), ("end", False)])
def test_a_plan_says_that_an_early_stop_knows_the_true_labels(where: str, told: bool, tmp_path: Path) -> None:
    spec = read("digits-lenet", ["recipe.label_noise=0.2", f"verdict.at={where}"])
    notes = summary(plan(spec), Store(tmp_path), 1)["notes"]
    assert bool(notes) == told and all("validation labels are true" in note for note in notes)
