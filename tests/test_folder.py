"""Folders of photographs: what counts as one, what is read of it, ahead of time, and what is refused."""

import io
import os
import re
import shutil
import sys
import zlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from hashlib import sha256
from math import log
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from torch import nn

from tombola import data, engine, prunable
from tombola.data import Batches, folder
from tombola.data.augment import resized_crop, uniforms
from tombola.data.shared import attach, publish
from tombola.engine.training import Start, Training
from tombola.errors import BadInput, DataError
from tombola.evaluate import evaluate
from tombola.lab.plan import plan, summary
from tombola.lab.spec_file import read
from tombola.lab.store import Store
from tombola.lab.worker import Worker
from tombola.recipe import SGD, Recipe
from tombola.report.text import plan_text

SIZE = 14  # of which 256 / 224 are 16


def picture(number: int, width: int = 20, height: int = 16) -> Image.Image:
    noise = np.random.RandomState(number).randint(0, 256, (height, width, 3), np.uint8)
    return Image.fromarray(noise).resize((width, height))


def put(path: Path, number: int, **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    picture(number).save(path, **options)
    return path


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two classes, 12 + 4 images, JPEG and PNG; beside them what is no image."""
    place = tmp_path / "pets"
    for number in range(12):
        put(place / "train" / ("cat", "dog")[number % 2] / f"{number:02}{('.jpg', '.PNG')[number % 3 == 0]}", number)
    for number in range(4):
        put(place / "val" / ("cat", "dog")[number % 2] / f"{number}.png", 100 + number)
    (place / "train" / "cat" / "notes.txt").write_text("no image")
    (place / "train" / "cat" / "._00.jpg").write_text("what a Mac leaves behind")
    (place / "train" / ".cache").mkdir()
    (place / "README").write_text("pets")
    return place


@pytest.fixture(autouse=True)
def looked_at_anew() -> Iterator[None]:
    folder._known.cache_clear()
    yield
    folder._known.cache_clear()


def named(root: Path, size: int = SIZE) -> str:
    return f"folder:{root}@{size}"


# ---------------------------------------------------------------- facts


def test_facts_are_known_without_decoding(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folder, "_decoded", None)
    known = data.facts(named(root))
    assert (known.classes, known.train, known.validation, known.test) == (2, 11, 1, 4)
    assert (known.shape, known.white, known.name) == ((3, 14, 14), 255, "folder@14")
    assert data.facts(f"folder:{root}").shape == (3, 224, 224)
    assert "pets" not in str(known)


@pytest.mark.parametrize(("images", "validation"), [(2, 1), (19, 1), (20, 2), (99_999, 9_999), (1_281_167, 10_000)])
def test_a_tenth_is_for_validation_and_at_most_10000(images: int, validation: int) -> None:
    entry = folder.Entry("train/a/1.jpg", 0, 1, 1)
    listing = folder.Listing("/", ("a", "b"), (entry,) * images, (entry,))
    known = folder._facts(listing, "", 224)
    assert (known.train, known.validation) == (images - validation, validation)


@given(st.lists(st.integers(0, 2), min_size=1))
def test_guessing_gives_the_share_of_the_most_frequent_class(labels: list[int]) -> None:
    entries = tuple(folder.Entry(f"val/{number}.jpg", label, 1, 1) for number, label in enumerate(labels))
    known = folder._facts(folder.Listing("/", ("a", "b", "c"), entries, entries), "", 224)
    assert known.chance == max(labels.count(label) for label in range(3)) / len(labels)


def test_the_checksum_is_of_paths_sizes_and_contents(root: Path) -> None:
    """By an independent walk."""
    total = sha256()
    paths = [path for path in root.rglob("*") if path.suffix in (".jpg", ".PNG", ".png") and path.name[0] != "."]
    for path in sorted(paths, key=lambda path: path.relative_to(root).as_posix()):
        content = path.read_bytes()
        line = f"{path.relative_to(root).as_posix()}\0{len(content)}\0{sha256(content).hexdigest()}\n"
        total.update(line.encode())
    assert len(paths) == 16 and data.facts(named(root)).checksum == total.hexdigest()


def again(root: Path, size: int = SIZE) -> str:
    """The fingerprint that another process would see."""
    folder._known.cache_clear()
    return data.facts(named(root, size)).fingerprint


def test_what_changes_an_image_changes_the_key_and_where_it_lies_does_not(root: Path, tmp_path: Path) -> None:
    first = again(root)
    moved = shutil.copytree(root, tmp_path / "elsewhere")
    (root / "train" / "dog" / "more.txt").write_text("more")
    assert again(moved) == again(root) == first, "the same images"
    assert again(root, 15) != first, "of another size"
    (moved / "train" / "cat" / "00.PNG").rename(moved / "train" / "cat" / "0.PNG")
    assert again(moved) != first, "renamed, so in another order"
    image = root / "val" / "dog" / "1.png"
    content = image.read_bytes()
    image.write_bytes(content[:-20] + bytes(20))
    assert again(root) != first, "of the same length"
    image.write_bytes(content)
    assert again(root) == first
    put(root / "train" / "dog" / "new.jpg", 50)
    assert again(root) != first, "one more"


def test_contents_are_read_once(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Path] = []
    digest = folder._digest

    def counted(path: Path) -> str:
        seen.append(path)
        return digest(path)

    monkeypatch.setattr(folder, "_digest", counted)
    first = again(root)
    assert len(seen) == 16 and again(root) == first != again(root, 30) and len(seen) == 16
    os.utime(root / "train" / "cat" / "02.jpg", ns=(1, 1))
    assert again(root) == first and len(seen) == 32, "a file that was touched may have changed"


def test_without_a_cache_that_can_be_written_it_is_read_each_time(
    root: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    first = again(root)
    (tmp_path / "file").write_text("where the cache should be")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert again(root) == first


def test_a_damaged_cache_is_not_believed(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    first = again(root)
    (kept,) = [path for path in (tmp_path / "cache").rglob("*") if path.is_file() and path.suffix != ".lock"]
    kept.write_text("")
    assert again(root) == first


# ---------------------------------------------------------------- what is refused


def gone(root: Path, path: str) -> None:
    shutil.rmtree(root / path)


def emptied(root: Path, path: str) -> None:
    for file in (root / path).iterdir():
        file.unlink()


@pytest.mark.parametrize(
    ("harm", "where", "message"),
    [
        (lambda root: gone(root, ""), "train", "a folder with a folder for each class, found No such file"),
        (lambda root: gone(root, "train"), "train", "a folder with a folder for each class, found No such file"),
        (lambda root: gone(root, "val"), "test", "a folder with a folder for each class, found No such file"),
        (lambda root: gone(root, "train/cat"), "train", "for each of two classes or more, found 1 folder."),
        (lambda root: gone(root, "val/cat"), "val", "/pets/train, found cat in train only."),
        (lambda root: put(root / "val/cow/1.png", 1), "val", "/pets/train, found cow in val only."),
        (lambda root: emptied(root, "val/cat"), "val/cat", "with a suffix like .jpg or .png, found nothing."),
        (
            lambda root: [path.rename(path.with_suffix(".txt")) for path in (root / "train/dog").iterdir()],
            "train/dog",
            "with a suffix like .jpg or .png, found only 6 .txt.",
        ),
        (lambda root: (root / "train/dog/x.jpg").symlink_to("nothing"), "train/dog/x.jpg", "found No such file"),
    ],
)
def test_a_folder_laid_out_otherwise_is_named(
    root: Path, harm: Callable[[Path], object], where: str, message: str
) -> None:
    harm(root)
    with pytest.raises(DataError, match=f"^{re.escape(str(root / where))}: expected .*{re.escape(message)}") as caught:
        data.check(named(root))
    assert str(caught.value).endswith("it has PATH/train/CLASS/*.jpg and PATH/val/CLASS/*.jpg.")


@pytest.mark.parametrize("name", ["folder", "folder:", "folder:@", "folder:\n"])
def test_a_name_of_another_form_says_which_are_known(name: str) -> None:
    with pytest.raises((ValueError, DataError), match=r"folder:PATH or folder:PATH@SIZE|names another"):
        data.check(name)


def test_test_stands_in_for_val(root: Path) -> None:
    first = data.facts(named(root))
    (root / "val").rename(root / "test")
    folder._known.cache_clear()
    assert replace(data.facts(named(root)), checksum="") == replace(first, checksum="")


def test_images_in_folders_below_that_of_their_class_are_found(root: Path) -> None:
    """As Tiny ImageNet has them; and links are followed."""
    put(root / "train" / "cat" / "images" / "deep.JPEG", 30)
    (root / "train" / "dog" / "linked").symlink_to(root / "val" / "dog")
    assert data.facts(named(root)).train == 14 - 1 + 1


@pytest.mark.parametrize("target", [".", "..", "deep", "../../..", "deep/../deep", "deep/inner"])
def test_every_folder_is_counted_once_wherever_links_lead(root: Path, target: str) -> None:
    put(root / "train" / "cat" / "deep" / "inner" / "0.png", 30)
    (root / "train" / "cat" / "also").symlink_to(target)
    assert [entry.path for entry in folder.listed(root).pool if "deep" in entry.path] == ["train/cat/deep/inner/0.png"]
    assert len(folder.listed(root).pool) == 13


def test_what_is_not_taken_for_an_image_is_counted_by_its_suffix(root: Path, tmp_path: Path) -> None:
    for name in ("train/cat/a.avif", "train/dog/b.AVIF", "val/cat/c.jp2", "val/cat/d"):
        (root / name).write_bytes(b"")
    first = again(root)
    assert data.passed_over(named(root)) == {".avif": 2, ".txt": 1, ".jp2": 1, "without a suffix": 1}
    wanted = plan(read("digits", [f"recipe.data={named(root, 16)}", "recipe.batch=5", "recipe.model=conv-2"]))
    said = plan_text(summary(wanted, Store(tmp_path / "store"), 1))
    assert "\nNot taken for images: 2 .avif, 1 .txt, 1 .jp2, 1 without a suffix.\n" in said
    for name in ("train/cat/a.avif", "val/cat/d"):
        (root / name).unlink()
    assert again(root) == first, "what is passed over is in no key"


@pytest.mark.parametrize("suffix", ["jfif", "jpe", "JPE"])
def test_jpegs_of_rarer_suffixes_are_images(root: Path, suffix: str) -> None:
    (root / "train" / "cat" / "02.jpg").rename(root / "train" / "cat" / f"02.{suffix}")
    assert data.facts(named(root)).train == 11


@pytest.mark.parametrize("size", [4097, 10**9])
def test_no_image_is_made_larger_than_memory_allows(root: Path, size: int) -> None:
    with pytest.raises(ValueError, match="folder:PATH@SIZE with SIZE up to 4,096 pixels"):
        data.check(named(root, size))


@pytest.mark.parametrize(
    ("width", "height", "said"),
    [
        (9_500, 9_500, "9,500 x 9,500"),
        (20_000, 20_000, "more (Image size (400000000 pixels) exceeds limit"),
        (400_000, 1, "400,000 x 1, whose shorter side is brought to 16"),
        (1, 400_000, "1 x 400,000, whose shorter side is brought to 16"),
    ],
)
@pytest.mark.parametrize("augment", [None, "resized-crop"])
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_an_image_that_would_take_gigabytes_is_named_and_not_decoded(
    root: Path, width: int, height: int, said: str, augment: Any
) -> None:
    place = root / "train" / "cat" / "00.PNG"
    place.write_bytes(png(width, height))
    dataset = data.load(named(root))
    message = f"{place}: expected an image of at most 89,478,485 pixels, found {said}"
    with pytest.raises(DataError, match=f"^{re.escape(message)}.* Make it smaller, or remove it"):
        Batches(dataset, torch.tensor([0]), 1, 0, augment)(0)


def png(width: int, height: int) -> bytes:
    """A file that says it is that large, and has one line of it."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return len(content).to_bytes(4, "big") + kind + content + zlib.crc32(kind + content).to_bytes(4, "big")

    header = width.to_bytes(4, "big") + height.to_bytes(4, "big") + bytes([8, 0, 0, 0, 0])
    lines = zlib.compress(bytes((width + 1) * (height if width == 1 else 1)))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", lines) + chunk(b"IEND", b"")


def test_pixels_are_as_the_file_has_them_whichever_way_the_camera_was_held(root: Path) -> None:
    place = root / "val" / "cat" / "0.png"
    upright = data.load(named(root)).test_images.index_select(0, torch.tensor([0]))
    with Image.open(place) as image:
        tags = image.getexif()
        tags[0x0112] = 6  # to be turned by a quarter
        image.load()
    image.save(place, exif=tags)
    with Image.open(place) as image:
        assert image.getexif()[0x0112] == 6
    folder._known.cache_clear()
    assert torch.equal(data.load(named(root)).test_images.index_select(0, torch.tensor([0])), upright)


def test_a_spec_with_a_folder_that_is_none_has_a_fault(root: Path, tmp_path: Path) -> None:
    given = ["recipe.model=conv-2", "levels=1"]
    assert read("digits", [f"recipe.data={named(root, 16)}", "recipe.batch=5", *given]).spec.facts.classes == 2
    for name, expected in ((named(tmp_path / "none"), "a folder for each class"), ("folder:", "folder:PATH@SIZE")):
        with pytest.raises(BadInput, match=f"recipe.data: expected .*{re.escape(expected)}"):
            read("digits", [f"recipe.data={name}", *given])


def test_without_pillow_one_is_told_how_to_get_it(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    known = data.facts(named(root))
    monkeypatch.setitem(sys.modules, "PIL", None)
    monkeypatch.setitem(sys.modules, "PIL.Image", None)
    with pytest.raises(BadInput, match=r"expected Pillow, .* pip install '\.\[images\]'"):
        data.load(named(root))
    assert data.facts(named(root)) == known


def test_a_folder_that_has_changed_since_is_refused_once(root: Path) -> None:
    first = data.facts(named(root))
    put(root / "train" / "cat" / "new.png", 77)
    with pytest.raises(DataError, match=r"found others\. Run the same command again"):
        data.load(named(root))
    assert data.facts(named(root)) != first and data.load(named(root)).facts == data.facts(named(root))


# ---------------------------------------------------------------- what is read


def pixels(image: Image.Image) -> NDArray[np.uint8]:
    return np.asarray(image).transpose(2, 0, 1)


def test_an_evaluation_sees_the_middle_of_each_image(root: Path) -> None:
    dataset = data.load(named(root))
    assert len(dataset.images) == len(dataset.labels) == 12 and len(dataset.test_images) == 4
    assert dataset.labels.tolist() == [0] * 6 + [1] * 6 and dataset.test_labels.tolist() == [0, 0, 1, 1]
    taken = dataset.test_images.index_select(0, torch.tensor([2, 0, 2]))
    assert taken.dtype == torch.uint8 and taken.shape == (3, 3, 14, 14) and taken.is_contiguous()
    assert torch.equal(taken[0], taken[2]) and not torch.equal(taken[0], taken[1])
    # 20 x 16 stays as it is, its shorter side being 16: two rows and six columns go.
    assert np.array_equal(taken[0].numpy(), pixels(picture(101))[:, 1:15, 3:17])


@pytest.mark.parametrize(("width", "height"), [(20, 16), (16, 20), (500, 375), (9, 40), (224, 224), (1, 3), (255, 256)])
@pytest.mark.parametrize("size", [14, 15, 32])
def test_the_middle_is_the_usual_one(width: int, height: int, size: int) -> None:
    """`Resize(round(size * 256 / 224))`, `CenterCrop(size)`: int() of the longer side, round() of the edge."""
    image, shorter = picture(3, width, height), round(size * 256 / 224)
    across, down = (
        (shorter, int(shorter * height / width)) if width <= height else (int(shorter * width / height), shorter)
    )
    whole = pixels(image.resize((across, down), Image.Resampling.BILINEAR))
    left, top = round((across - size) / 2), round((down - size) / 2)
    wanted = whole[:, top : top + size, left : left + size]
    assert np.array_equal(pixels(folder.evaluated_on(image, size)), wanted) and wanted.shape == (3, size, size)


@given(st.integers(1, 600), st.integers(1, 600), st.integers(0, 9), st.integers(0, 9), st.integers(0, 9))
def test_a_resized_crop_lies_in_the_image(width: int, height: int, seed: int, step: int, place: int) -> None:
    left, top, wide, high = resized_crop(width, height, seed, step, place)
    assert 0 <= left <= left + wide <= width and 0 <= top <= top + high <= height and wide > 0 and high > 0


@given(st.integers(0, 99), st.integers(0, 9999))
def test_a_resized_crop_has_the_usual_area_and_ratio(seed: int, place: int) -> None:
    _, _, wide, high = resized_crop(5000, 4000, seed, 7, place)
    assert 0.0799 < wide * high / 2e7 <= 1 and 0.7499 < wide / high < 1.3334


def test_resized_crops_are_drawn_evenly() -> None:
    """Where nearly every draw fits: area and log ratio uniform, the place uniform in what is left."""
    drawn = np.array([resized_crop(8000, 8000, 0, 0, place) for place in range(4000)], float)
    left, top, wide, high = drawn.T
    small = wide * high < 0.5 * 8000**2  # of these every one fits
    quantiles = [
        (wide * high / 8000**2)[small] / 0.42 - 0.08 / 0.42,
        (np.log(wide / high)[small] - log(3 / 4)) / (2 * log(4 / 3)),
        left[small] / (8000 - wide[small]),
        top[small] / (8000 - high[small]),
    ]
    for numbers in quantiles:
        distance = np.abs(np.sort(numbers) - np.linspace(0, 1, len(numbers))).max()
        assert distance < 1.63 / len(numbers) ** 0.5, "Kolmogorov and Smirnov, at 1 %"


@pytest.mark.parametrize(
    ("width", "height", "box"),
    [(9000, 30, (4480, 0, 40, 30)), (30, 9000, (0, 4480, 30, 40)), (1, 900, (0, 449, 1, 1)), (900, 1, (449, 0, 1, 1))],
)
def test_where_no_draw_fits_it_is_the_middle(width: int, height: int, box: tuple[int, int, int, int]) -> None:
    assert resized_crop(width, height, 0, 0, 0) == box


def test_uniforms_are_uniform_and_of_their_key() -> None:
    numbers = np.array([uniforms("a", place) for place in range(5000)])
    assert numbers.min() >= 0 and numbers.max() < 1 and np.abs(np.corrcoef(numbers.T) - np.eye(4)).max() < 0.05
    assert np.allclose(numbers.mean(0), 0.5, atol=0.02) and np.allclose(numbers.var(0), 1 / 12, atol=0.005)
    assert len({uniforms(*key) for key in (("a", 1), ("b", 1), ("a", 11), ("a", 1, 1))}) == 4


def test_training_images_are_resized_crops_by_seed_step_and_place(root: Path) -> None:  # K9 K10 R8
    dataset = data.load(named(root))
    batches = Batches(dataset, torch.arange(12), 5, 3, "resized-crop", augment_seed=4)
    for step in (7, 0, 1, 2, 7):
        places, _ = batches.places(step, step + 1)
        wanted = np.zeros((len(places), 3, 14, 14), np.uint8)
        for row, place in enumerate(places.tolist()):
            path = sorted((root / "train").rglob("*/[0-9]*"))[place]
            with Image.open(path) as image:
                left, top, wide, high = resized_crop(*image.size, 4, step, place)
                part = image.convert("RGB").crop((left, top, left + wide, top + high)).resize((14, 14), 2)
            mirrored = uniforms("mirror", 4, step, place)[0] < 0.5
            wanted[row] = pixels(part)[:, :, :: -1 if mirrored else 1]
        inputs, labels = batches(step)
        assert torch.equal(inputs, dataset.inputs(torch.from_numpy(wanted))) and torch.equal(
            labels, dataset.labels[places]
        )


@pytest.mark.parametrize("augment", [None, "flip-crop", "resized-crop"])
def test_shares_of_batches_from_files_are_the_batch(root: Path, augment: Any) -> None:
    dataset = data.load(named(root))
    whole = Batches(dataset, torch.arange(11), 4, 0, augment, 1)
    shares = [Batches(dataset, torch.arange(11), 4, 0, augment, 1, (rank, 3)) for rank in range(3)]
    for step in range(7):
        assert torch.equal(torch.cat([share(step)[0] for share in shares]), whole(step)[0])


def test_without_augmentation_batches_are_what_an_evaluation_sees(root: Path) -> None:
    dataset = data.load(named(root))
    batches = Batches(dataset, torch.arange(12), 5, 0)
    for step in range(6):  # beyond an epoch's end
        places, _ = batches.places(step, step + 1)
        assert torch.equal(batches(step)[0], dataset.inputs(dataset.images.index_select(0, places)))


def test_the_next_batches_are_decoded_while_one_is_trained_on(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    began: list[int] = []
    decoded = folder._decoded

    def counted(path: Path, size: int, draws: tuple[int, int, int] | None) -> Image.Image:
        began.append(1)
        return decoded(path, size, draws)

    monkeypatch.setattr(folder, "_decoded", counted)
    dataset = data.load(named(root))
    batches = Batches(dataset, torch.arange(12), 4, 0, "resized-crop")
    for step in range(9):
        batches(step)
    folder._threads(os.getpid()).submit(int).result()
    assert 9 * 4 <= len(began) <= (9 + data.AHEAD) * 4, "each once, and those ahead"
    pictures: Any = dataset.images
    assert len(pictures._ready) == data.AHEAD


def test_what_nobody_comes_for_is_given_up(root: Path) -> None:
    dataset = data.load(named(root))
    pictures: Any = dataset.images
    for place in range(12):
        pictures.begin(torch.tensor([place]))
    assert len(pictures._ready) == folder.MOST_READY
    assert torch.equal(pictures.take(torch.tensor([0])), pictures.take(torch.tensor([0])))


def test_what_is_ready_for_one_is_not_given_to_another(root: Path) -> None:
    """The same places for an evaluation and for two steps of a training."""
    pictures: Any = data.load(named(root)).images
    places = torch.arange(12)
    alone = [pictures.take(places, draws) for draws in (None, (0, 0), (0, 1))]
    for draws in (None, (0, 0), (0, 1)):
        pictures.begin(places, draws)
    assert all(
        torch.equal(pictures.take(places, draws), seen)
        for draws, seen in zip(((0, 1), None, (0, 0)), (alone[2], alone[0], alone[1]), strict=True)
    )
    assert not torch.equal(alone[1], alone[2])


@pytest.mark.parametrize("mode", ["L", "LA", "P", "RGBA", "CMYK", "1"])
def test_every_kind_of_image_becomes_rgb(root: Path, mode: str) -> None:
    place = root / "val" / "cat" / ("0.png" if mode != "CMYK" else "0.jpg")
    (root / "val" / "cat" / "0.png").unlink()
    picture(9).convert(mode).save(place)
    with Image.open(place) as image:
        assert image.mode == mode
        wanted = pixels(image.convert("RGB"))[:, 1:15, 3:17]
    dataset = data.load(named(root))
    assert np.array_equal(dataset.test_images.index_select(0, torch.tensor([0]))[0].numpy(), wanted)


@pytest.mark.parametrize(("suffix", "mode"), [("png", "I;16"), ("tiff", "I;16"), ("tiff", "I;16B"), ("pgm", "I")])
def test_16_bits_become_the_nearest_8(tmp_path: Path, suffix: str, mode: str) -> None:
    place, values = tmp_path / f"0.{suffix}", np.arange(65536, dtype=np.uint16).reshape(256, 256)
    if suffix == "pgm":  # which the lowest Pillow reads and does not write
        place.write_bytes(b"P5 256 256 65535\n" + values.astype(">u2").tobytes())
    else:
        Image.fromarray(values.astype(">u2") if mode == "I;16B" else values).save(place)
    with Image.open(place) as image:
        assert image.mode == mode
        found = np.array(folder._in_8_bits(image, place)).astype(float)
    assert found.shape == (256, 256, 3) and found.min() == 0 and found.max() == 255
    assert np.abs(found - values[..., None] / 65535 * 255).max() < 0.5


@pytest.mark.parametrize("kind", [np.int32, np.float32])
def test_numbers_of_unknown_range_are_refused(root: Path, kind: Any) -> None:
    place = root / "val" / "cat" / "0.tiff"
    Image.fromarray(np.full((16, 20), 70_000, kind)).save(place)
    dataset = data.load(named(root))
    mode = "I" if kind is np.int32 else "F"
    message = f"^{re.escape(str(place))}: expected an image of 8 or 16 bits per channel, found Pillow's mode {mode},"
    with pytest.raises(DataError, match=message):
        dataset.test_images.index_select(0, torch.arange(5))


def jpeg() -> bytes:
    buffer = io.BytesIO()
    picture(5, 100, 100).save(buffer, "JPEG")
    return buffer.getvalue()


BROKEN = {
    "empty": b"",
    "text": b"<html>",
    "truncated": jpeg()[:-600],
    "only begun": jpeg()[:20],
    "png": b"\x89PNG\r\n\x1a\n" + b"x" * 50,
}


@pytest.mark.parametrize("content", BROKEN.values(), ids=BROKEN)
@pytest.mark.parametrize("augment", [None, "resized-crop"])
def test_a_broken_image_is_named_in_training_and_evaluation(root: Path, content: bytes, augment: Any) -> None:
    broken = root / "train" / "dog" / "01.jpg"
    broken.write_bytes(content)
    dataset = data.load(named(root))
    message = f"^{re.escape(str(broken))}: expected an image, found a file that cannot be read as one"
    with pytest.raises(DataError, match=message):
        for step in range(3):
            Batches(dataset, torch.arange(12), 4, 0, augment)(step)
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 14 * 14, 2))
    with pytest.raises(DataError, match=message):
        evaluate(model, dataset, dataset.images, dataset.labels)


def test_an_image_that_is_gone_is_named(root: Path) -> None:
    dataset = data.load(named(root))
    (root / "val" / "dog" / "3.png").unlink()
    with pytest.raises(DataError, match=re.escape(str(root / "val" / "dog" / "3.png"))):
        dataset.test_images.index_select(0, torch.arange(4))


# ---------------------------------------------------------------- in the lab


def test_tensors_have_no_resized_crops() -> None:
    with pytest.raises(ValueError, match="expected a folder of photographs"):
        Batches(data.load("digits"), torch.arange(1000), 60, 0, "resized-crop")
    assert data.augmentations("digits-500") == ("flip-crop",)
    assert data.augmentations("folder:x") == ("flip-crop", "resized-crop")


def test_an_evaluation_is_that_of_the_same_images_in_memory(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tombola.evaluate.CHUNK", 3)
    dataset = data.load(named(root))
    memory = data.Dataset(
        dataset.facts,
        dataset.images.index_select(0, torch.arange(12)),
        dataset.labels,
        dataset.test_images.index_select(0, torch.arange(4)),
        dataset.test_labels,
    )
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 14 * 14, 2))
    places = torch.tensor([11, 3, 4, 0, 7, 8, 1])
    assert evaluate(model, dataset, dataset.images, dataset.labels, places) == evaluate(
        model, memory, memory.images, memory.labels, places
    )
    assert evaluate(model, dataset, dataset.test_images, dataset.test_labels).total == 4


def test_workers_are_handed_where_the_images_are(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read_here = data.load(named(root))
    publish(named(root), None, tmp_path)
    folder._known.cache_clear()
    monkeypatch.setattr(folder, "_digest", None)  # a worker does not read it all again, whatever the cache has
    monkeypatch.setattr(folder, "listed", None)
    mapped = attach(named(root), tmp_path)
    assert mapped.facts == read_here.facts and torch.equal(mapped.labels, read_here.labels)
    assert torch.equal(
        mapped.test_images.index_select(0, torch.arange(4)), read_here.test_images.index_select(0, torch.arange(4))
    )


def test_the_kernels_leave_files_to_the_plain_loop(root: Path) -> None:
    dataset = data.load(named(root, 8))
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, 2))
    sgd = SGD(name="sgd", lr=0.1)
    start = Start(model, prunable.full(model), dataset)
    assert engine.begin(Training(optimizer=sgd, batch=4), [start]).name == "reference"


def test_validation_and_test_images_are_ordered_for_connected_layers_only(root: Path, tmp_path: Path) -> None:
    worker = Worker(Store(tmp_path / "store").open(), None)

    def recipe(data_name: str, model: str) -> Recipe:
        return Recipe(model=model, data=data_name, length="9it", batch=4, optimizer=SGD(name="sgd", lr=0.1))

    plain = data.split(worker.dataset("digits"), 5)[1]
    assert torch.equal(worker.split(recipe("digits", "conv-2"), 5)[1], plain)
    assert torch.equal(worker.test(recipe("digits", "conv-2")), torch.arange(597))
    ordered = worker.split(recipe("digits", "lenet-30"), 5)[1]
    assert not torch.equal(ordered, plain) and torch.equal(ordered.sort().values, plain.sort().values)
    assert not torch.equal(worker.test(recipe("digits", "lenet-30")), torch.arange(597))
    assert torch.equal(worker.test(recipe(named(root), "lenet-30")), torch.arange(4))
    assert len(worker.split(recipe(named(root), "lenet-30"), 5)[1]) == 1
