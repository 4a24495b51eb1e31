"""CIFAR-10 and CIFAR-100 from small archives of the official layout, and the whole of the JPEG copy where it lies."""

import gzip
import hashlib
import io
import re
import socket
import tarfile
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from tombola import data
from tombola.data import cifar10, cifar10_jpeg, cifar100
from tombola.errors import DataError

SOURCES = {"cifar10": cifar10, "cifar100": cifar100}
LABELS = {"cifar10": 1, "cifar100": 2}


def pixels(number: int) -> bytes:
    """Of image `number`: no two bytes of neighbouring rows, columns or channels are alike."""
    return bytes((number * 17 + place * 7 + place // 1024) % 256 for place in range(3072))


def records(name: str, numbers: range) -> bytes:
    """Images with their numbers for labels, after a coarse label of 19 in CIFAR-100."""
    return b"".join(bytes([19] * (LABELS[name] - 1) + [number]) + pixels(number) for number in numbers)


def files(name: str) -> dict[str, bytes]:
    """Two images for each training file and one for the test, in which the numbers go on."""
    known = SOURCES[name]
    made = {file: records(name, range(2 * place, 2 * place + 2)) for place, file in enumerate(known.TRAIN)}
    return made | {known.TEST[0]: records(name, range(99, 100)), "batches.meta.txt": b"airplane\n"}


def archived(content: dict[str, bytes], folder: str = "cifar-batches") -> bytes:
    """A .tar.gz with a folder entry and the files in another order than their numbers'."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        entry = tarfile.TarInfo(folder)
        entry.type = tarfile.DIRTYPE
        tar.addfile(entry)
        for file in reversed(content):
            entry = tarfile.TarInfo(f"{folder}/{file}")
            entry.size = len(content[file])
            tar.addfile(entry, io.BytesIO(content[file]))
    return buffer.getvalue()


def expect(monkeypatch: pytest.MonkeyPatch, source: ModuleType, archive: bytes) -> None:
    """Let `source` take this archive for the official one."""
    monkeypatch.setattr(source, "FACTS", replace(source.FACTS, checksum=hashlib.sha256(archive).hexdigest()))


@pytest.fixture(autouse=True)
def nobody_home(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        closed = free.getsockname()[1]
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(cifar10, "HOMES", (f"http://127.0.0.1:{closed}/",))


@pytest.mark.parametrize("below", [False, True])
@pytest.mark.parametrize("name", SOURCES)
def test_an_archive_is_read_as_it_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str, below: bool) -> None:
    source, content = SOURCES[name], archived(files(name))
    expect(monkeypatch, source, content)
    folder = tmp_path / name if below else tmp_path
    folder.mkdir(exist_ok=True)
    (folder / source.ARCHIVE).write_bytes(content)
    images, labels, test_images, test_labels = data.read(name, tmp_path)
    count = 2 * len(source.TRAIN)
    assert (images.shape, test_images.shape) == ((count, 3, 32, 32), (1, 3, 32, 32))
    assert images.dtype == np.uint8 and labels.dtype == np.int64 and images.flags.c_contiguous
    assert labels.tolist() == list(range(count)) and test_labels.tolist() == [99], "the fine ones, in the files' order"
    assert [image.tobytes() for image in images] == [pixels(number) for number in range(count)]
    assert images[1, 2, 3, 4] == pixels(1)[2 * 1024 + 3 * 32 + 4], "channel, row, column"
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [folder / source.ARCHIVE], "nothing unpacked"


@pytest.mark.parametrize("name", SOURCES)
def test_another_archive_is_named_and_refused_and_stays(tmp_path: Path, name: str) -> None:
    wrong = tmp_path / SOURCES[name].ARCHIVE
    wrong.write_bytes(archived(files(name)))
    message = (
        f"{wrong}: expected the archive {wrong.name} with SHA-256 {SOURCES[name].FACTS.checksum[:16]}..., "
        f"found {hashlib.sha256(wrong.read_bytes()).hexdigest()}. The file is damaged or another one: remove it, "
        "and it is downloaded again."
    )
    with pytest.raises(DataError, match=f"^{re.escape(message)}$"):
        data.load(name, tmp_path)
    assert wrong.is_file()


@pytest.mark.parametrize("name", SOURCES)
def test_an_archive_that_was_damaged_after_its_download_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str
) -> None:
    """In the user's cache, where `fetch` does not look into a file that is there; with a folder and without."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    place = tmp_path / "tombola" / name / SOURCES[name].ARCHIVE
    place.parent.mkdir(parents=True)
    place.write_bytes(b"")
    for folder in (None, tmp_path / "tombola"):
        with pytest.raises(DataError, match=f"^{re.escape(str(place))}: expected the archive .* with SHA-256"):
            data.load(name, folder)


@pytest.mark.parametrize("name", SOURCES)
def test_without_archive_and_network_the_error_names_the_folder_and_the_file(tmp_path: Path, name: str) -> None:
    begins = f"{name}: expected {SOURCES[name].ARCHIVE} in {tmp_path / name}, found no such file there, and no download"
    with pytest.raises(DataError, match=f"^{re.escape(begins)}"):
        data.load(name, tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"no archive", "expected data_batch_1.bin in it, found an archive that cannot be read"),
        (archived(files("cifar10"))[:-300], "found an archive that cannot be read"),
        (gzip.compress(b"no tar"), "found an archive that cannot be read"),
        (archived({"data_batch_1.bin": b""}), "expected data_batch_2.bin in it, found an archive without it"),
        (
            archived(files("cifar10") | {"data_batch_3.bin": bytes(3074)}),
            "data_batch_3.bin: expected records of 3,073 bytes, found 3,074 bytes",
        ),
    ],
)
def test_an_archive_of_something_else_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, content: bytes, message: str
) -> None:
    """Not even with the checksum of what is expected does anything else become a data set."""
    expect(monkeypatch, cifar10, content)
    (tmp_path / cifar10.ARCHIVE).write_bytes(content)
    with pytest.raises(DataError, match=re.escape(message)):
        data.load("cifar10", tmp_path)


# ---------------------------------------------------------------- the JPEG copy


@pytest.mark.parametrize("below", ["", "cifar10"])
def test_the_unpacked_copy_is_found_and_another_content_refused(tmp_path: Path, below: str) -> None:
    folder = tmp_path / below / "cifar-10-batches-bin"
    folder.mkdir(parents=True)
    for file, content in files("cifar10").items():
        (folder / file).write_bytes(content)
    images, labels, _, _ = cifar10_jpeg.read(tmp_path)
    assert labels.tolist() == list(range(10)) and images[3].tobytes() == pixels(3)
    with pytest.raises(DataError, match="cifar10-jpeg: expected examples and labels with SHA-256"):
        data.load("cifar10-jpeg", tmp_path)


@pytest.mark.parametrize("given", [True, False])
def test_without_the_copy_the_error_says_where_it_was_sought(tmp_path: Path, given: bool) -> None:
    with pytest.raises(DataError, match="data = 'cifar10' is the official data set") as caught:
        data.load("cifar10-jpeg", tmp_path if given else None)
    assert not given or str(tmp_path / "cifar-10-batches-bin") in str(caught.value)


def test_the_jpeg_copy_is_what_its_facts_say(cifar_dir: Path) -> None:
    dataset = data.load("cifar10-jpeg", cifar_dir)
    assert torch.bincount(dataset.labels).tolist() == [5000] * 10
    assert torch.bincount(dataset.test_labels).tolist() == [1000] * 10
    inputs = dataset.inputs(dataset.images[:5000])
    assert inputs.mean((0, 2, 3)).abs().max() < 0.02 and (inputs.std((0, 2, 3)) - 1).abs().max() < 0.03
    part = data.load("cifar10-jpeg-5000", cifar_dir)
    assert torch.bincount(part.labels).tolist() == [500] * 10 and part.test_images.shape == (10_000, 3, 32, 32)
