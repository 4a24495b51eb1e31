"""MNIST: 60,000 + 10,000 handwritten digits of 28 x 28 pixels, from the standard idx files.

Gradient-Based Learning Applied to Document Recognition (LeCun, Bottou, Bengio & Haffner, 1998).
"""

from pathlib import Path

from tombola.data.arrays import ImageArrays
from tombola.data.facts import Facts
from tombola.data.idx import IdxFiles

# Normalisation is not in the paper, and results depend on it: with these constants replications match its Figure 3.
FACTS = Facts(
    name="mnist",
    shape=(1, 28, 28),
    classes=10,
    train=55_000,
    validation=5_000,
    test=10_000,
    mean=(0.1307,),
    std=(0.3081,),
    white=255,
    checksum="1e35582d42a90940c55b956deb61875c020b567ed20e3c5b174f52bf7809ed9b",
    most_frequent=1_135 / 10_000,
    class_counts=(5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949),
)

HOMES = (
    "https://ossci-datasets.s3.amazonaws.com/mnist/",
    "https://storage.googleapis.com/cvdf-datasets/mnist/",
)

FILES: dict[str, tuple[str, tuple[int, ...]]] = {
    "train-images-idx3-ubyte": ("ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db", (60_000, 28, 28)),
    "train-labels-idx1-ubyte": ("65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5", (60_000,)),
    "t10k-images-idx3-ubyte": ("0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7", (10_000, 28, 28)),
    "t10k-labels-idx1-ubyte": ("ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2", (10_000,)),
}


def read(data_dir: Path | None) -> ImageArrays:
    """Training images and labels, test images and labels.

    Looks for the four files, plain or `.gz`, in `data_dir`, in `data_dir/mnist` and in `data_dir/MNIST/raw`, where
    torchvision puts them; what is absent is downloaded into `data_dir/mnist`, or into the user's cache where no folder
    is given.

    Raises:
        DataError: a file is damaged or another one, or is absent and cannot be downloaded.
    """
    return IdxFiles("mnist", FILES, HOMES, places=("", "mnist", "MNIST/raw")).read(data_dir)
