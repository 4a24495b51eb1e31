"""CIFAR-10 from a copy whose pixels went through JPEG (quality 75): another data set, by a little, of the same labels.

The same split and classes as the official one of Learning Multiple Layers of Features from Tiny Images (Krizhevsky,
2009), in its unpacked layout. Results on the two do not compare to the last digit, so they have different names.
"""

from dataclasses import replace
from math import prod
from pathlib import Path

from tombola import files
from tombola.data import cifar10
from tombola.data.arrays import ImageArrays
from tombola.data.cifar10 import TEST, TRAIN, records
from tombola.data.facts import Facts
from tombola.errors import DataError

FOLDER = "cifar-10-batches-bin"
RECORDS = 10_000  # in each of its files

# Normalised by the constants of the official images, so that a network sees what it would see there.
FACTS: Facts = replace(
    cifar10.FACTS,
    name="cifar10-jpeg",
    checksum="a5a9fef8f53da35cc3497d06269597727ff05fa41828dd3ac1138d4c311b4c0c",
)


def read(data_dir: Path | None) -> ImageArrays:
    """Training images and labels, test images and labels, from `cifar-10-batches-bin/` in `data_dir` or below it.

    Below it means in `data_dir/cifar10`. There is no home to download it from.

    Raises:
        DataError: a file is absent, or is not made of records.
    """
    places = (data_dir / FOLDER, data_dir / "cifar10" / FOLDER) if data_dir else ()
    for place in places:
        if all((place / name).is_file() for name in (*TRAIN, *TEST)):
            most = RECORDS * (1 + prod(FACTS.shape))
            found = {name: files.beginning(place / name, most + 1) for name in (*TRAIN, *TEST)}
            return *records(found, TRAIN, FACTS, labels=1), *records(found, TEST, FACTS, labels=1)
    raise DataError(
        where="cifar10-jpeg",
        expected="the six .bin files of " + (" or ".join(map(str, places)) or f"a folder {FOLDER}"),
        found="not all of them" if places else "no folder named",
        todo="Name the folder above them with --data-dir or TOMBOLA_DATA. data = 'cifar10' is the official data set, "
        "which is downloaded.",
    )
