"""Inputs changed on purpose: one factor each, in pool and test set alike, others in each replicate."""

import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.random import RandomState

from tombola import data
from tombola.data import Dataset, variants
from tombola.data.changed_inputs import CHANGES
from tombola.data.shared import attach, published
from tombola.errors import SpecError
from tombola.lab.kinds import Train
from tombola.lab.members import BUILT_IN, Arm
from tombola.lab.replicate import Replicate
from tombola.lab.searches import trainings
from tombola.lab.spec import Spec
from tombola.lab.spec_file import read
from tombola.lab.store import Store
from tombola.lab.worker import MOST_DRAWN, Worker
from tombola.methods import METHODS
from tombola.rotation import rotation

WHOLE = "digits-300"
LABELS = np.zeros(20_000, np.int64)
NAMES = ("permuted", "rotated", "gaussian", "noise-5")
every_change = pytest.mark.parametrize("change", NAMES)


@pytest.fixture(scope="module")
def whole() -> Dataset:
    return data.load(WHOLE)


def changed(way: str) -> Dataset:
    return data.load(f"{WHOLE}+{way}")


def flat(dataset: Dataset, examples: torch.Tensor) -> torch.Tensor:
    return dataset.inputs(examples).flatten(1).double()


def spec_of(*changes: str) -> Spec:
    return read("digits-lenet", ["recipe.data=digits-300", "recipe.model=lenet-20-10", *changes]).spec


def test_these_are_all_changes() -> None:
    assert {name.partition("-")[0] for name in NAMES} == set(CHANGES)


@every_change
def test_the_facts_are_those_of_the_arrays_and_labels_stay(change: str, whole: Dataset) -> None:
    made = changed(f"{change}~7")
    known = made.facts
    assert known == data.facts(f"{WHOLE}+{change}~7") and known.classes == 10
    for images in (made.images, made.test_images):
        assert images.shape[1:] == known.shape
        assert images.dtype == (torch.float32 if known.real else torch.uint8)
    assert torch.equal(made.labels, whole.labels) and torch.equal(made.test_labels, whole.test_labels)
    assert not torch.equal(flat(made, made.images)[:, :64], flat(whole, whole.images)) or change == "noise-5"


@every_change
def test_a_seed_makes_the_same_data_each_time_and_another_seed_others(change: str) -> None:  # K11 K13
    first = changed(f"{change}~7")
    np.random.seed(1)
    torch.manual_seed(1)
    again, other, unseeded = changed(f"{change}~7"), changed(f"{change}~8"), changed(change)
    assert torch.equal(first.images, again.images) and torch.equal(first.test_images, again.test_images)
    assert not torch.equal(first.images, other.images) and not torch.equal(first.images, unseeded.images)
    assert len({each.facts.fingerprint for each in (first, other, unseeded)}) == 3


def test_permuted_pixels_are_in_one_order_in_pool_and_test_set(whole: Dataset) -> None:  # E2
    made = changed("permuted~7")
    before = torch.cat([whole.images, whole.test_images]).flatten(1).T.tolist()
    after = torch.cat([made.images, made.test_images]).flatten(1).T.tolist()
    assert sorted(after) == sorted(before) and after != before, "each column is one of those there were, once"


def test_a_permuted_pixel_keeps_its_channels_together() -> None:
    images = np.arange(2 * 3 * 4, dtype=np.uint8).reshape(2, 3, 2, 2)
    arrays, known = (images, LABELS[:2], images, LABELS[:2]), data.facts("cifar10").varied("small", shape=(3, 2, 2))
    moved, _ = CHANGES["permuted"].change(arrays, known, RandomState(0), 0)
    assert (moved[:, 1] - moved[:, 0] == 4).all() and (moved[:, 2] - moved[:, 0] == 8).all()
    assert (moved != images).any()


def test_a_rotation_undone_gives_the_same_images(whole: Dataset) -> None:
    made = changed("rotated~7")
    turn = torch.from_numpy(rotation(64, RandomState(list(hashlib.sha256(b"rotated~7").digest()))))
    for there, here in ((made.images, whole.images), (made.test_images, whole.test_images)):
        assert (flat(made, there) @ turn - flat(whole, here)).abs().max() < 1e-5


def test_rotations_are_drawn_from_the_haar_measure() -> None:
    # Of a uniform rotation E[trace] = 0 and E[trace^2] = 1 (n >= 2); signs left as LAPACK has them shift the trace.
    draw = RandomState(0)
    traces = np.array([np.trace(rotation(4, draw)) for _ in range(4000)])
    assert abs(traces.mean()) < 4 / 4000**0.5 and abs((traces**2).mean() - 1) < 0.12


def test_gaussian_clones_have_the_mean_and_the_covariance_of_their_class() -> None:
    # A class of two dimensions on a ring: nothing of the ring is left but its moments.
    draw = np.random.default_rng(0)
    angle = draw.uniform(0, 2 * np.pi, 20_000)
    ring = (np.stack([3 * np.cos(angle) + 1, np.sin(angle)], axis=1)).astype(np.float32)
    arrays = (ring, LABELS, ring[:10_000] * 5, LABELS[:10_000])
    known = data.facts("digits").varied("ring", shape=(2,), real=True)
    pool, test = CHANGES["gaussian"].change(arrays, known, RandomState(0), 0)
    for made in (pool, test):  # the test set's own inputs are not looked at
        assert np.allclose(made.mean(0), [1, 0], atol=0.1)
        assert np.allclose(np.cov(made.T), [[4.5, 0], [0, 0.5]], atol=0.15)
        centred = made - made.mean(0)
        assert np.allclose((centred**4).mean(0) / (centred**2).mean(0) ** 2, 3, atol=0.2), "a ring has 1.5"


def test_clones_of_two_classes_are_of_two_laws(whole: Dataset) -> None:
    made = changed("gaussian~7")
    for kind in (0, 1):
        here, there = (flat(one, one.images[one.labels == kind]).mean(0) for one in (whole, made))
        others = flat(whole, whole.images[whole.labels == 1 - kind]).mean(0)
        assert (here - there).norm() < 0.6 * (others - there).norm()


def test_noise_columns_stand_behind_the_inputs_and_are_of_unit_variance(whole: Dataset) -> None:
    made = changed("noise-5~7")
    assert made.facts.shape == (69,)
    assert torch.equal(made.images[:, :64], whole.inputs(whole.images).flatten(1))
    columns = torch.cat([made.images, made.test_images])[:, 64:].double()
    assert (columns.mean(0).abs() < 0.15).all() and ((columns.var(0) - 1).abs() < 0.25).all()
    assert len(np.unique(columns)) == columns.numel(), "each its own"


def test_several_are_made_in_the_order_in_which_they_are_written() -> None:
    first, second = changed("noise-5~7+rotated~7"), changed("rotated~7+noise-5~7")
    assert first.facts.shape == second.facts.shape == (69,)
    assert not torch.allclose(first.images[:, 64:], second.images[:, 64:])
    assert torch.equal(second.images[:, :64], changed("rotated~7").images)


def test_a_variant_of_the_pool_may_follow() -> None:
    made, plain = changed("rotated~7+shuffled-pixels"), changed("rotated~7")
    assert torch.equal(made.images.sort(1).values, plain.images.sort(1).values)
    assert torch.equal(made.test_images, plain.test_images) and not torch.equal(made.images, plain.images)


def test_each_replicate_has_its_own_and_all_of_its_runs_the_same() -> None:
    spec = spec_of("recipe.inputs=noise-5,rotated", "rewind=0it,20it")
    one, other = Replicate(spec, 0), Replicate(spec, 1)
    assert one.recipe.data == Replicate(spec, 0, spec.rewind[1]).recipe.data != other.recipe.data
    assert one.recipe.data == variants.named("digits-300", ["noise-5", "rotated"], inputs_seed=one.seed("inputs"))
    assert one.network.shape == (69,)
    for method in ("iterative", "colt", "random-erk"):
        arm = Arm("", METHODS[method], METHODS[method].options())
        for run in METHODS[method].search(one.asking(arm), 1):
            assert run.data[0].startswith(one.recipe.data)
            assert run.recipe.inputs is None and "inputs" not in run.recipe.model_dump()


def test_what_is_not_asked_for_leaves_keys_and_folders_as_they_were() -> None:
    plain, changed_spec = spec_of(), spec_of("recipe.inputs=rotated")
    assert "inputs" not in plain.model_dump_json() and "label_noise" not in plain.model_dump_json()
    keys = {next(iter(METHODS["iterative"].search(Replicate(each, 0), 0))).key for each in (plain, changed_spec)}
    assert len(keys) == 2


def test_a_search_on_other_data_has_them_changed_alike() -> None:
    spec = spec_of("recipe.inputs=rotated", "search.data=digits-200", "arms=ticket,shuffled-pixels")
    replicate = Replicate(spec, 0)
    arm, seed = BUILT_IN.arm("ticket", spec), replicate.seed("inputs")
    ticket: Train = trainings(arm, replicate.asking(arm))[1]
    control = BUILT_IN.controls["shuffled-pixels"].make(replicate.asking(arm), ticket, 1, 0)
    for run, whole in ((ticket, "digits-200"), (control, "digits-200")):
        assert run.data == (f"digits-300+rotated~{seed}",) and run.mask is not None
        searched = {name for needed in run.mask.inputs for name in needed.data}
        shuffled = "+shuffled-pixels" if run is control else ""
        assert searched == {f"{whole}+rotated~{seed}{shuffled}"}


def test_processes_share_one_copy_that_the_first_one_makes(tmp_path: Path) -> None:
    name = f"{WHOLE}+noise-5~7"
    for _ in range(2):
        published(name, None, tmp_path)
    ours, theirs = data.load(name), attach(name, tmp_path)
    assert torch.equal(ours.images, theirs.images) and ours.facts == theirs.facts


def test_a_worker_lets_go_of_what_earlier_replicates_had(tmp_path: Path) -> None:
    worker = Worker(Store(tmp_path).open(), None)
    worker.dataset(WHOLE)
    for seed in range(MOST_DRAWN + 2):
        worker.dataset(f"{WHOLE}+noise-5~{seed}")
    assert list(worker._datasets) == [WHOLE, *(f"{WHOLE}+noise-5~{seed}" for seed in range(2, MOST_DRAWN + 2))]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("recipe.inputs=turned", "changes of the inputs: permuted, rotated, gaussian, noise-N"),
        ("recipe.inputs=noise-0", "changes of the inputs"),
        ("recipe.inputs=noise", "changes of the inputs"),
        ("recipe.inputs=rotated~7", "changes of the inputs"),
        ("recipe.inputs=[]", "at least one"),
        ("recipe.inputs=rotated,rotated", "each once"),
        ("recipe.data=digits+rotated", "each once"),
        ("recipe.data=shakespeare", "is a text"),
        ("recipe.augment=flip-crop", "none beside recipe.inputs"),
        ("recipe.normalise=unit", "real numbers are not changed"),
        ("recipe.model=conv-2", "a model for examples that are no images"),
    ],
)
def test_what_cannot_be_changed_is_refused(change: str, words: str) -> None:
    changes = [change] if change.startswith("recipe.inputs") else ["recipe.inputs=rotated", change]
    with pytest.raises(SpecError, match=words):
        read("digits-lenet", changes)


def test_images_changed_into_images_are_for_convolutions_too() -> None:
    spec = read("digits-lenet", ["recipe.inputs=gaussian", "recipe.model=conv-2"]).spec
    assert spec.facts.shape == (1, 8, 8) and spec.facts.real
