"""CIFAR-100: 50,000 + 10,000 photographs of 32 x 32 pixels, by their hundred fine labels, from the official archive.

Learning Multiple Layers of Features from Tiny Images (Krizhevsky, 2009).
"""

from pathlib import Path

from tombola.data.arrays import ImageArrays
from tombola.data.cifar10 import archive, records, unpacked
from tombola.data.facts import Facts

ARCHIVE = "cifar-100-binary.tar.gz"
TRAIN, TEST = ("train.bin",), ("test.bin",)

# The checksum is the archive's: torchvision-ruby, MLDatasets.jl and GoMLX each name the same one. The paper has no
# constants for the normalisation; these are the mean and deviation of the 50,000 official images, to four digits.
FACTS = Facts(
    name="cifar100",
    shape=(3, 32, 32),
    classes=100,
    train=45_000,
    validation=5_000,
    test=10_000,
    mean=(0.5071, 0.4865, 0.4409),
    std=(0.2673, 0.2564, 0.2762),
    white=255,
    checksum="58a81ae192c23a4be8b1804d68e518ed807d710a4eb253b1f2a199162a40d8ec",
)


def read(data_dir: Path | None) -> ImageArrays:
    """Training images and fine labels, test images and fine labels; as `cifar10.read`, from `data_dir/cifar100`.

    Raises:
        DataError: the archive is damaged or another one, or is absent and cannot be downloaded.
    """
    files = unpacked(archive("cifar100", ARCHIVE, FACTS.checksum, data_dir), (*TRAIN, *TEST))
    # A record begins with two labels, the coarse and the fine one.
    return *records(files, TRAIN, FACTS, labels=2), *records(files, TEST, FACTS, labels=2)
