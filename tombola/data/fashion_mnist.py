"""Fashion-MNIST: 60,000 + 10,000 articles of clothing in MNIST's form, 28 x 28 pixels and ten classes, but harder.

Fashion-MNIST: a Novel Image Dataset for Benchmarking Machine Learning Algorithms (Xiao, Rasul & Vollgraf, 2017),
https://arxiv.org/abs/1708.07747
"""

from pathlib import Path

from tombola.data.arrays import ImageArrays
from tombola.data.facts import Facts
from tombola.data.idx import IdxFiles

# The paper has no constants for the normalisation; these are the mean and deviation of the 60,000 official images.
FACTS = Facts(
    name="fashion-mnist",
    shape=(1, 28, 28),
    classes=10,
    train=55_000,
    validation=5_000,
    test=10_000,
    mean=(0.2860,),
    std=(0.3530,),
    white=255,
    checksum="ece172613115fb18b120bec8f6c02271af90b8b8f0a5af5c51cbd5ceed68e619",
)

HOMES = (
    "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
    "https://github.com/zalandoresearch/fashion-mnist/raw/master/data/fashion/",
)

FILES: dict[str, tuple[str, tuple[int, ...]]] = {
    "train-images-idx3-ubyte": ("c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888", (60_000, 28, 28)),
    "train-labels-idx1-ubyte": ("bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9", (60_000,)),
    "t10k-images-idx3-ubyte": ("5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b", (10_000, 28, 28)),
    "t10k-labels-idx1-ubyte": ("0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34", (10_000,)),
}


def read(data_dir: Path | None) -> ImageArrays:
    """Training images and labels, test images and labels; as `mnist.read`.

    The files have MNIST's names: they are looked for in `data_dir/fashion-mnist` and `data_dir/FashionMNIST/raw`, and
    not in `data_dir` itself.

    Raises:
        DataError: a file is damaged or another one, or is absent and cannot be downloaded.
    """
    return IdxFiles("fashion-mnist", FILES, HOMES, places=("fashion-mnist", "FashionMNIST/raw")).read(data_dir)
