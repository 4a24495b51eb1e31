"""Data sets in memory, their splits and their batches."""

import gzip
import hashlib
import re
import socket
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from tombola import data
from tombola.data import Batches, Dataset, cifar10, fashion_mnist, mnist, subset
from tombola.data.augment import flip_crop, flip_crop_draws
from tombola.data.facts import Facts
from tombola.data.shared import attach, publish
from tombola.errors import DataError

# ---------------------------------------------------------------- facts


@pytest.mark.parametrize(
    ("name", "batch", "steps"),
    [("mnist", 60, 917), ("mnist", 55_000, 1), ("mnist", 1, 55_000), ("digits", 60, 17), ("digits", 100, 10)],
)
def test_an_epoch_has_a_smaller_last_batch_where_the_numbers_do_not_divide(
    name: str, batch: int, steps: int
) -> None:  # E5
    assert data.facts(name).epoch_iterations(batch) == steps


def test_mnists_split_is_the_papers() -> None:
    known = data.facts("mnist")
    assert (known.train, known.validation, known.test, known.shape, known.classes) == (
        55_000,
        5_000,
        10_000,
        (1, 28, 28),
        10,
    )
    assert (known.mean, known.std, known.white) == ((0.1307,), (0.3081,), 255)


@pytest.mark.parametrize("name", ["imagenet", "", "mnist-", "mnist-x", "-100", "imagenet-100"])
def test_an_unknown_name_is_refused_with_the_known_ones(name: str) -> None:
    for ask in (data.check, data.facts):
        with pytest.raises(ValueError, match=r"^one of digits, mnist, .*; NAME-N.*; folder:PATH.*; sst2@.*; or table:"):
            ask(name)


def test_every_source_knows_its_own_name() -> None:
    assert all(data.facts(name).name == name for name in data.SOURCES)
    for known in map(data.facts, data.SOURCES):
        assert known.answers == "number" or 1 / known.classes <= known.chance < 0.6
    assert len({data.facts(name).fingerprint for name in data.SOURCES}) == len(data.SOURCES)


@pytest.mark.parametrize("name", ["cifar10", "cifar100", "cifar10-jpeg"])
def test_cifars_split_is_the_papers(name: str) -> None:
    known = data.facts(name)
    assert (known.train, known.validation, known.test, known.shape) == (45_000, 5_000, 10_000, (3, 32, 32))
    assert known.epoch_iterations(128) == 352  # E5


# ---------------------------------------------------------------- parts


@pytest.mark.parametrize(
    ("name", "train", "validation", "test"),
    [
        ("cifar10-5000", 4500, 500, 10_000),
        ("cifar10-jpeg-5000", 4500, 500, 10_000),
        ("mnist-6000", 5500, 500, 10_000),
        ("mnist-59999", 54_999, 5_000, 10_000),
        ("fashion-mnist-6000", 5500, 500, 10_000),
        ("cifar100-1000", 900, 100, 10_000),
        ("digits-100", 83, 17, 597),
    ],
)
def test_a_part_keeps_the_proportion_of_validation_and_the_test_set(
    name: str, train: int, validation: int, test: int
) -> None:
    known = data.facts(name)
    assert (known.name, known.train, known.validation, known.test) == (name, train, validation, test)


@pytest.mark.parametrize("size", [0, 1, 99, 1200, 5000])
def test_a_part_has_ten_of_each_class_and_less_than_the_pool(size: int) -> None:
    wanted = "one of" if size == 0 else "^digits-N with N from 100 to 1,199, or digits$"
    with pytest.raises(ValueError, match=wanted):
        data.check(f"digits-{size}")
    with pytest.raises(ValueError, match="one of"):
        data.check("digits-0500")  # digits-500 has one name


def test_parts_and_the_whole_have_different_keys() -> None:
    names = ["digits", "digits-500", "digits-501"]
    assert len({data.facts(name).checksum for name in names}) == len({data.facts(n).fingerprint for n in names}) == 3


def test_a_part_is_made_of_the_pool_and_nothing_else() -> None:  # E2
    whole, part = data.load("digits"), data.load("digits-300")
    places = torch.from_numpy(subset.drawn(whole.labels.numpy(), 300))
    assert len(set(places.tolist())) == 300 == len(part.labels)
    assert torch.equal(part.images, whole.images[places]) and torch.equal(part.labels, whole.labels[places])
    assert torch.equal(part.test_images, whole.test_images) and torch.equal(part.test_labels, whole.test_labels)
    assert torch.bincount(part.labels).tolist() == [30] * 10
    assert [len(places) for places in data.split(part, 0)] == [250, 50]


@given(st.lists(st.integers(0, 4), min_size=1, max_size=60), st.data())
def test_parts_are_even_nest_and_are_drawn_once(labels: list[int], draw: st.DataObject) -> None:
    size = draw.draw(st.integers(1, len(labels)))
    every = np.array(labels)
    chosen = subset.drawn(every, size)
    assert chosen.tolist() == sorted(set(chosen.tolist())) == subset.drawn(every, size).tolist()
    counts, most = np.bincount(every[chosen], minlength=5), np.bincount(every, minlength=5)
    short = counts[counts < most]  # of these there would have been more
    assert len(chosen) == size and (not len(short) or counts.max() - short.min() <= 1)
    assert set(subset.drawn(every, size - 1).tolist()) < set(chosen.tolist())


def test_a_part_is_no_mere_beginning() -> None:
    assert subset.drawn(np.zeros(100, np.int64), 10).tolist() != list(range(10))


def test_a_part_of_a_changed_source_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    images, *rest = data.SOURCES["digits"].read(None)
    monkeypatch.setattr(data.SOURCES["digits"], "read", lambda data_dir: (images + 1, *rest))
    with pytest.raises(DataError, match="digits: expected examples and labels with SHA-256"):
        data.load("digits-300")


# ---------------------------------------------------------------- digits


def test_digits_are_what_their_facts_say() -> None:
    digits = data.load("digits")
    assert digits.images.shape == (1200, 1, 8, 8) and digits.test_images.shape == (597, 1, 8, 8)
    assert digits.images.dtype == torch.uint8 and digits.labels.dtype == torch.int64
    assert sorted(set(digits.labels.tolist())) == sorted(set(digits.test_labels.tolist())) == list(range(10))
    assert int(digits.images.max()) == digits.facts.white == 16
    assert digits.facts.chance == int(digits.test_labels.bincount().max()) / 597


def test_pool_and_test_set_share_no_example() -> None:  # E2
    digits = data.load("digits")
    pool = {(image.numpy().tobytes(), int(label)) for image, label in zip(digits.images, digits.labels, strict=True)}
    assert not any(
        (image.numpy().tobytes(), int(label)) in pool
        for image, label in zip(digits.test_images, digits.test_labels, strict=True)
    )


def test_the_facts_of_digits_standardise_its_training_set() -> None:
    digits = data.load("digits")
    inputs = digits.inputs(digits.images)
    assert abs(float(inputs.mean())) < 0.01 and float(inputs.std()) == pytest.approx(1, abs=0.01)


def test_another_content_than_the_checksums_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    real = data.SOURCES["digits"].read

    def changed(data_dir: Path | None) -> tuple[NDArray[np.uint8], ...]:
        images, *rest = real(data_dir)
        images[0, 0, 0, 0] += 1
        return images, *rest

    monkeypatch.setattr(data.SOURCES["digits"], "read", changed)
    begins = f"digits: expected examples and labels with SHA-256 {data.facts('digits').checksum[:16]}..., found "
    with pytest.raises(
        DataError,
        match=f"^{re.escape(begins)}[0-9a-f]{{64}}\\. The source has changed; results would not compare.$",
    ):
        data.load("digits")


def test_without_a_checksum_the_one_that_was_found_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    source = data.SOURCES["digits"]
    known = source.FACTS.checksum
    monkeypatch.setattr(source, "FACTS", replace(source.FACTS, checksum=""))
    message = (
        f'digits: expected a checksum in its FACTS, found none. Where what was read is right, write checksum="{known}".'
    )
    with pytest.raises(DataError, match=f"^{re.escape(message)}$"):
        data.load("digits")


# ---------------------------------------------------------------- inputs


def toy(size: int = 10, channels: int = 1) -> Dataset:
    """`size` images that hold their own number, two of which are for validation."""
    facts = Facts(
        name="toy",
        shape=(channels, 1, 1),
        classes=size,
        train=size - 2,
        validation=2,
        test=1,
        mean=(0.5, 0.25, 0.0)[:channels],
        std=(0.5, 0.25, 2.0)[:channels],
        white=100,
        checksum="",
    )
    images = torch.arange(size, dtype=torch.uint8).view(size, 1, 1, 1).expand(size, channels, 1, 1).contiguous()
    return Dataset(facts, images, torch.arange(size), images[:1], torch.arange(1))


@pytest.mark.parametrize("channels", [1, 3])
def test_inputs_are_normalised_per_channel(channels: int) -> None:
    dataset = toy(channels=channels)
    pixels = dataset.images.double() / 100
    mean, std = (
        torch.tensor(numbers, dtype=torch.float64).view(1, -1, 1, 1)
        for numbers in (dataset.facts.mean, dataset.facts.std)
    )
    inputs = dataset.inputs(dataset.images)
    assert inputs.dtype == torch.float32 and torch.allclose(inputs.double(), (pixels - mean) / std, atol=1e-6)
    assert torch.equal(dataset.images, toy(channels=channels).images), "the bytes stay"


@pytest.mark.parametrize("channels", [1, 3])
def test_inputs_in_range_are_pixels_from_0_to_1(channels: int) -> None:
    dataset = toy(channels=channels).normalised("range")
    inputs = dataset.inputs(dataset.images)
    assert inputs.dtype == torch.float32 and torch.allclose(inputs, dataset.images / 100, atol=1e-7)


@pytest.mark.parametrize("channels", [1, 3])
def test_inputs_of_unit_length_have_it_over_all_channels_and_a_black_image_stays_black(channels: int) -> None:
    dataset = toy(channels=channels).normalised("unit")
    inputs = dataset.inputs(dataset.images).double()
    lengths = inputs.flatten(1).norm(dim=1)
    assert lengths[0] == 0 and torch.allclose(lengths[1:], torch.ones(len(lengths) - 1, dtype=torch.float64))
    directions = dataset.images.double() / dataset.images.double().flatten(1).norm(dim=1).clamp(min=1).view(-1, 1, 1, 1)
    assert torch.allclose(inputs, directions, atol=1e-7)


def test_a_normalisation_stays_on_the_way_to_a_device_and_standard_is_none_given() -> None:
    unit = toy().normalised("unit")
    assert unit.to("meta").normalisation == "unit"
    assert unit.normalised(None) == replace(unit, normalisation="standard")


# ---------------------------------------------------------------- the split


def test_training_and_validation_are_disjoint_and_together_the_pool() -> None:  # E2
    train, validation = data.split(toy(50), split_seed=0)
    assert (len(train), len(validation)) == (48, 2)
    assert sorted([*train.tolist(), *validation.tolist()]) == list(range(50))


def test_the_split_is_fixed_by_its_seed_and_0_is_a_seed() -> None:  # E2 K9 K10
    torch.manual_seed(3)
    zero, again, one = (data.split(toy(50), seed)[1].tolist() for seed in (0, 0, 1))
    assert zero == again != one


# ---------------------------------------------------------------- batches


def order(batches: Batches, steps: range) -> list[list[int]]:
    return [batches(step)[1].tolist() for step in steps]


def flat(batches: list[list[int]]) -> list[int]:
    return list(chain.from_iterable(batches))


def toy_batches(order_seed: int = 0, size: int = 8, batch: int = 3) -> Batches:
    return Batches(toy(size + 2), torch.arange(size), batch, order_seed)


def test_an_epoch_holds_every_example_once_and_the_next_in_another_order() -> None:  # E5 K9
    steps = order(toy_batches(size=40, batch=7), range(12))
    first, second = steps[:6], steps[6:]
    assert [len(batch) for batch in first] == [len(batch) for batch in second] == [7, 7, 7, 7, 7, 5]
    assert sorted(flat(first)) == sorted(flat(second)) == list(range(40))
    assert first != second


def test_images_come_with_their_own_labels() -> None:
    batches, dataset = toy_batches(), toy()
    for step in range(6):
        inputs, labels = batches(step)
        assert torch.equal(inputs, dataset.inputs(dataset.images[labels]))


def test_only_training_examples_are_drawn() -> None:  # E2
    train = torch.tensor([9, 2, 5])
    batches = Batches(toy(), train, 2, order_seed=0)
    assert set(flat(order(batches, range(20)))) == {2, 5, 9}


@pytest.mark.parametrize("start", [0, 1, 2, 3, 4, 7])
def test_the_batch_at_a_step_does_not_depend_on_where_the_training_began(start: int) -> None:  # R8 R12
    whole = order(toy_batches(), range(12))
    assert order(toy_batches(), range(start, 12)) == whole[start:]


def test_batches_may_be_asked_for_in_any_order_any_number_of_times() -> None:  # R8
    batches = toy_batches()
    whole = order(batches, range(12))
    assert [order(batches, range(step, step + 1))[0] for step in (11, 0, 5, 5, 2, 9)] == [
        whole[step] for step in (11, 0, 5, 5, 2, 9)
    ]


def test_orders_of_past_epochs_are_forgotten() -> None:
    batches = toy_batches()
    order(batches, range(300))
    assert len(batches._orders) <= 2, "an order of ImageNet's takes 10 MB"


def test_the_order_seed_decides_the_order_and_nothing_else_does() -> None:  # K9 K10 K11 R12
    """Arms of a replicate share their order; replicates differ."""
    torch.manual_seed(1)
    state = torch.get_rng_state()
    arm = order(toy_batches(order_seed=0), range(6))
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    assert order(toy_batches(order_seed=0), range(6)) == arm
    assert order(toy_batches(order_seed=1), range(6)) != arm


def test_the_orders_of_neighbouring_seeds_and_epochs_are_unrelated() -> None:  # K10
    """Seed s in epoch e must not be seed s + 1 in epoch e - 1."""
    orders = {
        (seed, epoch): order(toy_batches(seed, size=20, batch=20), range(epoch, epoch + 1))[0]
        for seed in range(5)
        for epoch in range(5)
    }
    assert len({str(numbers) for numbers in orders.values()}) == 25


def test_one_batch_may_hold_the_whole_training_set() -> None:
    assert sorted(order(toy_batches(size=8, batch=100), range(1))[0]) == list(range(8))


@pytest.mark.parametrize("world", [1, 2, 3, 8])
@pytest.mark.parametrize("augment", [None, "flip-crop"])
def test_the_shares_of_all_processes_are_the_batch_in_order(augment: Literal["flip-crop"] | None, world: int) -> None:
    dataset = data.load("digits")
    whole = Batches(dataset, torch.arange(1000), 60, 3, augment, augment_seed=5)
    shares = [Batches(dataset, torch.arange(1000), 60, 3, augment, 5, (rank, world)) for rank in range(world)]
    for step in (0, 16, 17, 40):  # 16: the epoch's last, of 40 examples
        parts = [share(step) for share in shares]
        assert torch.equal(torch.cat([inputs for inputs, _ in parts]), whole(step)[0])
        assert torch.equal(torch.cat([labels for _, labels in parts]), whole(step)[1])
        assert max(len(labels) for _, labels in parts) - min(len(labels) for _, labels in parts) <= 1


def test_a_share_may_be_empty() -> None:
    batches = [Batches(toy(), torch.arange(7), 6, 0, "flip-crop", 0, (rank, 4)) for rank in range(4)]
    assert [len(batch(1)[1]) for batch in batches] == [0, 0, 0, 1]
    assert batches[0](1)[0].shape == (0, 1, 1, 1) and batches[0](1)[0].dtype == torch.float32


@pytest.mark.parametrize("augment", [None, "flip-crop"])
def test_batches_for_several_trainings_are_those_of_each(augment: Literal["flip-crop"] | None) -> None:  # K9 K10
    dataset = data.load("digits")
    several = [
        Batches(dataset, torch.arange(first, first + 130), 60, first, augment, augment_seed=7 * first)
        for first in (0, 40, 900)
    ]
    for step in (0, 2, 4):  # the third of an epoch has 10 examples
        inputs, labels = data.stacked_batches(several, step)
        for place, each in enumerate(several):
            assert torch.equal(inputs[place], each(step)[0]) and torch.equal(labels[place], each(step)[1])


def test_augmented_batches_are_those_of_the_order_changed_by_the_step() -> None:  # K9 K10 R8
    dataset = data.load("digits")
    plain, changed = (Batches(dataset, torch.arange(1000), 60, 3, augment, 9) for augment in (None, "flip-crop"))
    for step in (40, 3, 16):
        places, _ = plain.places(step, step + 1)
        draws = flip_crop_draws(9, step, len(places))
        assert torch.equal(changed(step)[0], dataset.inputs(flip_crop(dataset.images[places], draws)))
        assert torch.equal(changed(step)[1], plain(step)[1]) and not torch.equal(changed(step)[0], plain(step)[0])


def test_a_data_set_is_moved_once_and_its_batches_are_where_it_is() -> None:
    """`meta` is the other device that every machine has; it holds shapes and no numbers."""
    dataset = toy(channels=3)
    there = dataset.to("meta")
    assert dataset.to("cpu") is dataset and there.to("meta") is there
    assert {tensor.device.type for tensor in (there.images, there.labels, there.test_images, there.test_labels)} == {
        "meta"
    }
    inputs, labels = Batches(dataset, torch.arange(8), 3, 0, "flip-crop", device="meta")(0)
    assert (inputs.device.type, labels.device.type, inputs.shape) == ("meta", "meta", (3, 3, 1, 1))
    assert dataset.inputs(dataset.images).device.type == "cpu"


# ---------------------------------------------------------------- idx files

SHAPES = {
    "train-images-idx3-ubyte": (3, 28, 28),
    "train-labels-idx1-ubyte": (3,),
    "t10k-images-idx3-ubyte": (2, 28, 28),
    "t10k-labels-idx1-ubyte": (2,),
}


def idx(name: str) -> bytes:
    """A small file of this name: a header of big-endian numbers, then bytes that count."""
    shape = SHAPES[name]
    header = bytes([0, 0, 8, len(shape)]) + b"".join(size.to_bytes(4, "big") for size in shape)
    return header + bytes(place % 251 for place in range(int(np.prod(shape))))


@pytest.fixture
def small_mnist(monkeypatch: pytest.MonkeyPatch) -> None:
    """An MNIST of five images, whose homes nobody answers at."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        closed = free.getsockname()[1]
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(mnist, "HOMES", (f"http://127.0.0.1:{closed}/",))
    monkeypatch.setattr(
        mnist, "FILES", {name: (hashlib.sha256(idx(name)).hexdigest(), shape) for name, shape in SHAPES.items()}
    )


def fill(folder: Path, suffix: str = ".gz", wrap: Callable[[bytes], bytes] = gzip.compress) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name in SHAPES:
        (folder / (name + suffix)).write_bytes(wrap(idx(name)))
    return folder


def plain(content: bytes) -> bytes:
    return content


@pytest.mark.usefixtures("small_mnist")
@pytest.mark.parametrize("below", ["", "mnist", "MNIST/raw"])
@pytest.mark.parametrize(("suffix", "wrap"), [(".gz", gzip.compress), ("", plain), ("", gzip.compress), (".gz", plain)])
def test_files_are_found_plain_or_gz_in_the_folder_or_below(
    tmp_path: Path, below: str, suffix: str, wrap: Callable[[bytes], bytes]
) -> None:
    fill(tmp_path / below, suffix, wrap)
    images, labels, test_images, test_labels = mnist.read(tmp_path)
    assert images.shape == (3, 1, 28, 28) and test_images.shape == (2, 1, 28, 28)
    assert images.dtype == np.uint8 and labels.dtype == np.int64
    assert images.flatten().tolist() == [place % 251 for place in range(3 * 784)]
    assert (labels.tolist(), test_labels.tolist()) == ([0, 1, 2], [0, 1])


@pytest.mark.usefixtures("small_mnist")
def test_reading_leaves_the_folder_as_it_was(tmp_path: Path) -> None:
    fill(tmp_path)
    before = sorted(path.name for path in tmp_path.rglob("*"))
    mnist.read(tmp_path)
    assert sorted(path.name for path in tmp_path.rglob("*")) == before


@pytest.mark.usefixtures("small_mnist")
def test_a_truncated_gz_is_named_and_refused(tmp_path: Path) -> None:
    broken = fill(tmp_path) / "train-labels-idx1-ubyte.gz"
    broken.write_bytes(broken.read_bytes()[:-6])
    digest = mnist.FILES["train-labels-idx1-ubyte"][0][:16]
    message = (
        f"{broken}: expected the decompressed bytes of train-labels-idx1-ubyte with SHA-256 {digest}..., "
        "found a file that cannot be read (Compressed file ended before the end-of-stream marker was reached). "
        "The file is damaged or another one: remove it, and it is downloaded again."
    )
    with pytest.raises(DataError, match=f"^{re.escape(message)}$"):
        mnist.read(tmp_path)
    assert broken.is_file(), "what a user put there is not ours to remove"


@pytest.mark.usefixtures("small_mnist")
@pytest.mark.parametrize("content", [b"", b"<html/>", gzip.compress(b"other"), idx("t10k-labels-idx1-ubyte")])
def test_another_content_is_named_and_refused(tmp_path: Path, content: bytes) -> None:
    wrong = fill(tmp_path) / "train-labels-idx1-ubyte.gz"
    wrong.write_bytes(content)
    raw = gzip.decompress(content) if content[:2] == b"\x1f\x8b" else content
    found = f"found {len(raw):,} bytes with {hashlib.sha256(raw).hexdigest()[:16]}."
    with pytest.raises(
        DataError,
        match=f"^{re.escape(str(wrong))}: expected .*{re.escape(found)}.* remove it, and it is downloaded again",
    ):
        mnist.read(tmp_path)


@pytest.mark.usefixtures("small_mnist")
@pytest.mark.parametrize(
    "damage", [lambda content: content[:20] + b"\x00\x00\x00" + content[23:], lambda content: content + b"more"]
)
def test_a_damaged_gz_is_named_and_refused(tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    wrong = fill(tmp_path) / "t10k-images-idx3-ubyte.gz"
    wrong.write_bytes(damage(wrong.read_bytes()))
    with pytest.raises(
        DataError,
        match=f"^{re.escape(str(wrong))}: expected the decompressed bytes of t10k-images-idx3-ubyte .* remove it",
    ):
        mnist.read(tmp_path)


@pytest.mark.usefixtures("small_mnist")
@pytest.mark.parametrize("wrap", [gzip.compress, plain])
def test_a_file_takes_no_more_memory_than_its_data_set_has(tmp_path: Path, wrap: Callable[[bytes], bytes]) -> None:
    """However much a few bytes unpack to, and whatever their header claims."""
    bomb = fill(tmp_path) / "train-images-idx3-ubyte.gz"
    bomb.write_bytes(wrap(idx("train-images-idx3-ubyte") + bytes(40_000_000)))
    tracemalloc.start()
    with pytest.raises(DataError, match=rf"^{re.escape(str(bomb))}: expected .*, found more than 2,368 bytes\."):
        mnist.read(tmp_path)
    assert tracemalloc.get_traced_memory()[1] < 5_000_000
    tracemalloc.stop()


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("shakespeare", "text/tinyshakespeare.txt"),
        ("sst2", "sst2/train.tsv"),
        ("cifar10-jpeg", "cifar-10-batches-bin/data_batch_1.bin"),
    ],
)
def test_a_file_is_not_read_beyond_the_length_that_is_known(tmp_path: Path, name: str, file: str) -> None:
    place = tmp_path / file
    place.parent.mkdir()
    for each in (*cifar10.TRAIN, *cifar10.TEST) if place.name in cifar10.TRAIN else (place.name,):
        with (place.parent / each).open("wb") as sparse:
            sparse.truncate(1 << 28)
    tracemalloc.start()
    with pytest.raises(DataError):
        data.load(name, tmp_path)
    assert tracemalloc.get_traced_memory()[1] < 1 << 28
    tracemalloc.stop()


@pytest.mark.usefixtures("small_mnist")
def test_a_folder_that_is_not_there_is_refused_and_not_made(tmp_path: Path) -> None:
    place = tmp_path / "nope"
    message = f"{place}: expected a folder for data sets, found none. Make it, or name another one with --data-dir or"
    with pytest.raises(DataError, match=f"^{re.escape(message)}"):
        data.load("mnist", place)
    assert not place.exists()


@pytest.mark.usefixtures("small_mnist")
def test_without_files_and_network_the_error_names_the_folder_and_the_file(tmp_path: Path) -> None:
    fill(tmp_path)
    (tmp_path / "t10k-labels-idx1-ubyte.gz").unlink()
    begins = (
        f"mnist: expected t10k-labels-idx1-ubyte.gz in {tmp_path / 'mnist'}, "
        "found no such file there, and no download: "
        f"{mnist.HOMES[0]}: not reached ("
    )
    with pytest.raises(DataError, match=f"^{re.escape(begins)}") as caught:
        mnist.read(tmp_path)
    assert str(caught.value).endswith(
        "Put the file into that folder by hand, or name a folder that has it with --data-dir or TOMBOLA_DATA."
    )


@pytest.mark.parametrize("below", ["fashion-mnist", "FashionMNIST/raw"])
def test_fashion_mnist_is_not_looked_for_among_files_of_the_same_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, below: str
) -> None:
    known = {name: (hashlib.sha256(idx(name)[:-1] + b"!").hexdigest(), shape) for name, shape in SHAPES.items()}
    monkeypatch.setattr(fashion_mnist, "FILES", known)
    fill(tmp_path)  # MNIST's, as far as one can tell
    fill(tmp_path / below, wrap=lambda content: gzip.compress(content[:-1] + b"!"))
    images, _, _, test_labels = fashion_mnist.read(tmp_path)
    assert images.shape == (3, 1, 28, 28) and test_labels.tolist() == [0, ord("!")]


# ---------------------------------------------------------------- the real one


def test_fashion_mnist_is_what_its_facts_say(fashion_dir: Path) -> None:
    dataset = data.load("fashion-mnist", fashion_dir)
    assert dataset.images.shape == (60_000, 1, 28, 28) and dataset.test_images.shape == (10_000, 1, 28, 28)
    assert torch.bincount(dataset.labels).tolist() == [6_000] * 10 == list(subset.counts(dataset.facts))
    assert torch.bincount(dataset.test_labels).tolist() == [1_000] * 10 and dataset.facts.chance == 0.1
    assert dataset.labels[:5].tolist() == [9, 0, 0, 3, 0] and dataset.test_labels[:5].tolist() == [9, 2, 1, 1, 6]
    pixels = dataset.images.double() / 255
    assert (round(float(pixels.mean()), 4), round(float(pixels.std()), 4)) == (*dataset.facts.mean, *dataset.facts.std)
    part = data.load("fashion-mnist-600", fashion_dir)
    assert torch.bincount(part.labels).tolist() == [60] * 10 and torch.equal(part.test_images, dataset.test_images)


def test_mnist_is_what_its_facts_say(mnist_dir: Path) -> None:
    dataset = data.load("mnist", mnist_dir)
    assert dataset.images.shape == (60_000, 1, 28, 28) and dataset.test_images.shape == (10_000, 1, 28, 28)
    assert torch.bincount(dataset.labels).tolist() == [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    assert dataset.facts.chance == int(dataset.test_labels.bincount().max()) / 10_000
    assert dataset.labels[:5].tolist() == [5, 0, 4, 1, 9] and dataset.test_labels[:5].tolist() == [7, 2, 1, 0, 4]
    inputs = dataset.inputs(dataset.images[:, :, ::4, ::4])
    assert inputs.shape == (60_000, 1, 7, 7) and float(dataset.inputs(dataset.images[:6000]).mean()) == pytest.approx(
        0, abs=0.02
    )
    train, validation = data.split(dataset, split_seed=0)
    assert (len(train), len(validation)) == (55_000, 5_000) and not set(train.tolist()) & set(validation.tolist())
    batches = Batches(dataset, train, 60, order_seed=0)
    assert [len(batches(step)[1]) for step in (0, 915, 916, 917)] == [60, 60, 40, 60]


def test_published_data_are_mapped_as_they_were_and_damage_is_seen(tmp_path: Path) -> None:
    publish("digits", None, tmp_path)
    mapped, read_again = attach("digits", tmp_path), data.load("digits")
    for name in ("images", "labels", "test_images", "test_labels"):
        assert torch.equal(getattr(mapped, name), getattr(read_again, name))
    with (tmp_path / "digits" / "labels").open("r+b") as file:
        file.truncate(100)
    with pytest.raises(DataError, match="100"):
        attach("digits", tmp_path)
    (tmp_path / "digits" / "labels").unlink()
    with pytest.raises(DataError, match="no file"):
        attach("digits", tmp_path)
