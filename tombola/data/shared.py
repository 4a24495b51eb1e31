"""A data set in files that any number of processes map into memory: one copy, however many read it."""

import hashlib
import secrets
import shutil
from math import prod
from pathlib import Path

import numpy as np

from tombola import files
from tombola.data import Dataset, facts, is_folder, is_table, is_tokenised, read
from tombola.data import folder as photographs
from tombola.errors import DataError

_FIELDS = ("images", "labels", "test_images", "test_labels")


def published(name: str, data_dir: Path | None, folder: Path) -> None:
    """Make sure that the data set `name` lies below `folder`: the first of several processes that asks puts it there.

    Raises:
        DataError, BadInput: as `publish`.
    """
    if is_folder(name) or (place := _place(name, folder)).is_dir():
        return
    with files.turn(place.with_name(f"{place.name}.lock")):
        if not place.is_dir():
            publish(name, data_dir, folder)


def publish(name: str, data_dir: Path | None, folder: Path) -> None:
    """Read the data set `name`, check it, and write it below `folder` for `attach`; of photographs, where they are.

    Raises:
        DataError: a file is absent, damaged or another one.
        BadInput: a package that reads it is not installed.
    """
    if is_folder(name):
        photographs.publish(name, _manifest(name, folder))
        return
    place = _place(name, folder)
    part = place.with_name(f"{place.name}.{secrets.token_hex(4)}.part")
    part.mkdir()
    for field, array in zip(_FIELDS, read(name, data_dir), strict=True):
        np.asarray(array).tofile(part / field)
    try:
        part.rename(place)  # so that it is whole, or not there
    except OSError:
        if not place.is_dir():  # else another process was faster, where there are no locks
            raise
        shutil.rmtree(part, ignore_errors=True)


def attach(name: str, folder: Path) -> Dataset:
    """The data set `name` as `publish` left it below `folder`: mapped, not copied, and not to be written to.

    Raises:
        DataError: a file is absent, or not as long as it was.
    """
    import torch

    if is_folder(name):
        return Dataset(*photographs.attach(_manifest(name, folder)))
    known, place = facts(name), _place(name, folder)
    pool, test = known.train + known.validation, known.test
    shapes = [(size, *part) for size in (pool, test) for part in (known.input_shape, known.label_shape)]
    held = torch.float32 if known.real else torch.int64 if known.text else torch.uint8
    kinds = (held, torch.float32 if known.answers == "number" else torch.int64) * 2
    for field, shape, kind in zip(_FIELDS, shapes, kinds, strict=True):  # torch would fill up with zeros
        file, size = place / field, prod(shape) * kind.itemsize
        if not file.is_file() or file.stat().st_size != size:
            raise _changed(file, size)
    return Dataset(
        known,
        *(
            torch.from_file(str(place / field), shared=True, size=prod(shape), dtype=kind).view(shape)
            for field, shape, kind in zip(_FIELDS, shapes, kinds, strict=True)
        ),
    )


def _changed(file: Path, size: int) -> DataError:
    return DataError(
        where=str(file),
        expected=f"{size:,} bytes",
        found=f"{file.stat().st_size:,}" if file.is_file() else "no file",
        todo="Somebody removed or changed it while workers were at work: run the same command again.",
    )


def _place(name: str, folder: Path) -> Path:
    return (
        _manifest(name, folder).with_suffix("") if is_tokenised(name) or is_table(name) else folder / name
    )  # of a path


def _manifest(name: str, folder: Path) -> Path:
    return folder / (hashlib.sha256(name.encode()).hexdigest()[:20] + ".json")
