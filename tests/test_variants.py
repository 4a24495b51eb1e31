"""Variants of data sets: each changes of the pool what its name says, and nothing else."""

from dataclasses import fields, replace
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tombola import data
from tombola.data import Dataset, missing, subset
from tombola.data.facts import Facts
from tombola.data.shared import attach, publish
from tombola.data.variants import VARIANTS
from tombola.errors import DataError
from tombola.lab.spec_checks import unknown_names

WHOLE = "digits-300"
NUMBERED = ("missing-0.3", "missing-0.3~7", "long-tailed-3", "long-tailed-3~7")
every_variant = pytest.mark.parametrize("variant", [*VARIANTS, *NUMBERED])


@pytest.fixture(scope="module")
def whole() -> Dataset:
    return data.load(WHOLE)


def varied(variant: str) -> Dataset:
    return data.load(f"{WHOLE}+{variant}")


def rows(images: torch.Tensor) -> torch.Tensor:
    return images.flatten(1).sort(dim=1).values


def as_set(dataset: Dataset) -> set[bytes]:
    return {
        bytes(image.flatten().tolist()) + bytes([label])
        for image, label in zip(dataset.images, dataset.labels, strict=True)
    }


@every_variant
def test_the_facts_of_a_variant_are_those_of_its_arrays(variant: str, whole: Dataset) -> None:
    made = varied(variant)
    known, pool = made.facts, made.facts.train + made.facts.validation
    assert known.name == f"{WHOLE}+{variant}" and known == data.facts(known.name)
    assert len(made.images) == len(made.labels) == pool
    assert made.labels.bincount(minlength=10).tolist() == list(subset.counts(known))
    assert made.images.shape[1:] == known.shape and made.images.dtype == torch.uint8
    of_the_pool = {"name", "train", "validation", "checksum", "class_counts"}
    for field in fields(Facts):
        if field.name not in of_the_pool:
            assert getattr(known, field.name) == getattr(whole.facts, field.name)
    assert known.validation == (pool + 3) // 6, "in the proportion of the whole"


@every_variant
def test_the_test_set_stays_whole_and_true(variant: str, whole: Dataset) -> None:  # E2
    made = varied(variant)
    assert torch.equal(made.test_images, whole.test_images) and torch.equal(made.test_labels, whole.test_labels)


@every_variant
def test_what_is_drawn_is_drawn_from_the_name_alone(variant: str) -> None:  # K11 K13
    first = varied(variant)
    np.random.seed(1)
    torch.manual_seed(1)
    again = varied(variant)
    assert torch.equal(first.images, again.images) and torch.equal(first.labels, again.labels)


def test_each_variant_has_keys_of_its_own() -> None:
    names = [
        WHOLE,
        *(f"{WHOLE}+{variant}" for variant in (*VARIANTS, *NUMBERED)),
        f"{WHOLE}+random-labels+shuffled-pixels",
    ]
    names.append(f"{WHOLE}+shuffled-pixels+random-labels")
    assert len({data.facts(name).fingerprint for name in names}) == len(names)
    assert len({data.facts(name).checksum for name in names}) == len(names)


def test_random_labels_are_as_many_of_each_and_know_nothing_of_the_images(whole: Dataset) -> None:
    made = varied("random-labels")
    assert torch.equal(made.images, whole.images)
    assert torch.equal(made.labels.bincount(), whole.labels.bincount())
    assert 0.03 < (made.labels == whole.labels).float().mean() < 0.17, "right by chance alone, one in ten"


def test_shuffled_pixels_are_those_of_their_image_in_an_order_of_its_own(whole: Dataset) -> None:
    made = varied("shuffled-pixels")
    assert torch.equal(made.labels, whole.labels) and torch.equal(rows(made.images), rows(whole.images))
    # The same image twice comes out in two orders.
    twins = np.stack([np.arange(64, dtype=np.uint8).reshape(1, 8, 8)] * 1002)
    variant = VARIANTS["shuffled-pixels"]
    shuffled, _ = variant.change(twins, np.zeros(1002, np.int64), variant.draw)
    assert len(np.unique(shuffled.reshape(1002, -1), axis=0)) == 1002
    assert np.abs(shuffled.reshape(1002, -1).mean(axis=0) - 31.5).max() < 3, "every place has every pixel alike"


def test_permuted_pixels_are_in_one_order_for_all_images(whole: Dataset) -> None:
    made = varied("permuted-pixels")
    places = np.arange(64, dtype=np.uint8).reshape(1, 1, 8, 8)
    variant = VARIANTS["permuted-pixels"]
    order = torch.from_numpy(variant.change(places, np.zeros(1, np.int64), variant.draw)[0].flatten().astype(np.int64))
    assert order.sort().values.tolist() == list(range(64)) and order.tolist() != list(range(64))
    assert torch.equal(made.images.flatten(1), whole.images.flatten(1)[:, order])
    assert torch.equal(made.labels, whole.labels)


def test_of_each_image_exactly_the_share_is_missing_and_elsewhere_in_each(whole: Dataset) -> None:
    made = varied("missing-0.3")
    gone = (made.images == 0) & (whole.images != 0)
    assert torch.equal(made.images[~gone], whole.images[~gone]) and torch.equal(made.labels, whole.labels)
    white = np.full((1002, 3, 8, 8), 9, np.uint8)
    known = replace(whole.facts, shape=(3, 8, 8))
    way = missing.named("missing-0.3")
    assert way
    holes = way.arrays((white, np.zeros(1002, np.int64), white, np.zeros(1002, np.int64)), known)[0] == 0
    assert (holes.sum(axis=(2, 3)) == 19).all(), "0.3 of 64, rounded half up"
    assert (holes == holes[:, :1]).all(), "of all channels at once"
    assert len(np.unique(holes.reshape(1002, -1), axis=0)) == 1002
    assert np.abs(holes.mean(axis=0) - 19 / 64).max() < 0.08, "every place as often"


def test_numbers_that_are_missing_are_the_mean_of_the_training_set() -> None:
    made, whole = data.load("table:diabetes+missing-0.5"), data.load("table:diabetes")
    gone = made.images == 0
    assert (gone.sum(dim=1) >= 5).all() and torch.equal(made.images[~gone], whole.images[~gone])
    assert torch.equal(made.test_images, whole.test_images)


@pytest.mark.parametrize("seeded", ["missing-0.3", "long-tailed-3"])
def test_a_seed_in_the_name_draws_others(seeded: str) -> None:
    images = [varied(each).images for each in (seeded, f"{seeded}~1", f"{seeded}~2")]
    assert not any(torch.equal(images[one], images[two]) for one, two in ((0, 1), (0, 2), (1, 2)))


@pytest.mark.parametrize("ratio", [2, 3, 10])
def test_a_tail_falls_exponentially_and_its_examples_are_of_the_whole(ratio: int, whole: Dataset) -> None:
    made = varied(f"long-tailed-{ratio}")
    counts, fewest = made.labels.bincount().tolist(), min(subset.counts(whole.facts))
    assert counts[0] == fewest and counts[-1] == int(fewest / ratio + 0.5)
    for place, count in enumerate(counts):
        assert abs(count - fewest * ratio ** (-place / 9)) <= 0.5
    assert as_set(made) <= as_set(whole)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("digits-300+long-tailed-61", "a ratio of at most 60 for long-tailed-61, as digits-300 has 30 of a class"),
        ("table:diabetes+long-tailed-5", "answers that are classes for long-tailed-5; those of .* are number"),
        ("shakespeare+long-tailed-5", "answers that are classes for long-tailed-5; those of shakespeare are the next"),
        ("shakespeare+missing-0.5", "images or numbers for missing-0.5; shakespeare is a text"),
        ("digits+label-noise-0.2~3+long-tailed-5", "true labels for long-tailed-5"),
        ("digits+missing-0.5~1+missing-0.2", "each once"),
        ("digits+missing-0.50", "missing-SHARE, long-tailed-RATIO"),
        ("digits+long-tailed-1", "missing-SHARE, long-tailed-RATIO"),
    ],
)
def test_what_cannot_be_missing_or_have_a_tail_is_refused(name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        data.facts(name)


@pytest.mark.parametrize("variant", ["shuffled-pixels", "permuted-pixels"])
def test_a_pixel_keeps_its_channels_together(variant: str) -> None:
    images = (
        np.arange(4 * 36, dtype=np.uint8).reshape(4, 1, 6, 6).repeat(3, axis=1)
        + np.array([0, 1, 2], np.uint8)[:, None, None]
    )
    made, _ = VARIANTS[variant].change(images, np.zeros(4, np.int64), VARIANTS[variant].draw)
    assert (made[:, 1] == made[:, 0] + 1).all() and (made[:, 2] == made[:, 0] + 2).all()
    assert (made != images).any()


@pytest.mark.parametrize(("one", "other"), [("first-half", "second-half"), ("first-classes", "second-classes")])
def test_two_halves_are_disjoint_and_together_everything(one: str, other: str, whole: Dataset) -> None:
    first, second = varied(one), varied(other)
    assert len(first.labels) + len(second.labels) == 300
    assert not as_set(first) & as_set(second) and as_set(first) | as_set(second) == as_set(whole)


def test_the_first_half_is_the_part_of_that_size() -> None:
    assert torch.equal(data.load("digits+first-half").images, data.load("digits-600").images)


def test_halves_of_the_classes_keep_the_numbers_of_the_classes() -> None:
    assert set(varied("first-classes").labels.tolist()) == {0, 1, 2, 3, 4}
    assert set(varied("second-classes").labels.tolist()) == {5, 6, 7, 8, 9}
    assert varied("second-classes").facts.classes == 10


@given(st.lists(st.integers(0, 12), min_size=1, max_size=6).filter(any), st.data())
def test_how_many_of_each_class_a_part_has_is_known_before_it_is_drawn(counts: list[int], draw: st.DataObject) -> None:
    labels = np.array(draw.draw(st.permutations(list(chain(*([k] * n for k, n in enumerate(counts)))))), np.int64)
    size = draw.draw(st.integers(1, len(labels)))
    drawn = np.bincount(labels[subset.drawn(labels, size)], minlength=len(counts))
    assert tuple(drawn) == subset.evenly(tuple(counts), size)


@pytest.mark.parametrize("name", ["digits", "digits-301", "digits-1199"])
def test_class_counts_are_those_of_the_labels(name: str) -> None:
    assert data.load(name).labels.bincount().tolist() == list(subset.counts(data.facts(name)))


def test_a_source_whose_classes_are_other_ones_than_its_facts_say_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    source = data.SOURCES["digits"]
    monkeypatch.setattr(source, "FACTS", replace(data.facts("digits"), class_counts=()))
    assert data.load("digits+random-labels").facts.train == 1000, "which asks for no count"
    with pytest.raises(DataError, match=r"Write class_counts=\(121, 127, 121, 126"):
        data.load("digits+first-classes")


def test_a_variant_in_shared_files_is_the_one_that_is_read(tmp_path: Path) -> None:
    name = f"{WHOLE}+random-labels+shuffled-pixels"
    publish(name, None, tmp_path)
    ours, theirs = data.load(name), attach(name, tmp_path)
    assert torch.equal(ours.images, theirs.images) and torch.equal(ours.labels, theirs.labels)
    assert ours.facts == theirs.facts


@pytest.mark.parametrize(
    ("name", "expected", "meant"),
    [
        (
            "digits+random-label",
            r"^digits\+VARIANT, each once, a variant being random-labels, ",
            "digits+random-labels",
        ),
        ("mnits-6000+Random_Labels", "^one of digits", "mnist-6000+random-labels"),
        ("digits+", "VARIANT, each once", ""),
        ("digits+first-half+first-half", r"^digits\+first-half\+VARIANT, each once", ""),
        ("shakespeare+random-labels", "one label for each example; shakespeare is a running text", ""),
        ("sst2+shuffled-pixels", "^for shuffled-pixels, images; sst2 is a text", ""),
        ("sst2+first-classes", "at least 4 classes; sst2 has 2", ""),
        ("digits-100+first-half", "first-half leaves 10 of each class, not 100", ""),
        ("sst2+random-labels@bert", "sst2@PATH", "sst2+random-labels"),
    ],
)
def test_a_variant_that_there_is_not_is_refused_with_what_is_near(name: str, expected: str, meant: str) -> None:
    with pytest.raises(ValueError, match=expected):
        data.facts(name)
    (fault,) = unknown_names({"recipe": {"data": name}})
    assert fault.todo == (f"did you mean {meant}?" if meant else "")


def test_a_source_that_is_new_has_all_variants_without_more_work(monkeypatch: pytest.MonkeyPatch) -> None:
    known = Facts("new", (1, 8, 8), 4, train=90, validation=10, test=0)
    monkeypatch.setitem(data.SOURCES, "new", type(data.SOURCES["digits"])("new"))
    monkeypatch.setattr(data.SOURCES["new"], "FACTS", known, raising=False)
    pools = {variant: data.facts(f"new+{variant}") for variant in VARIANTS}
    assert {
        name: one.train + one.validation for name, one in pools.items() if name.startswith(("first", "second"))
    } == {
        "first-half": 50,
        "second-half": 50,
        "first-classes": 50,
        "second-classes": 50,
    }
