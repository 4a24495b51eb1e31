"""1,797 handwritten digits of 8 x 8 pixels that ship inside scikit-learn: real data without a download.

Optical Recognition of Handwritten Digits (Alpaydin & Kaynak, 1998), UCI Machine Learning Repository.
"""

from pathlib import Path

import numpy as np

from tombola.data.arrays import ImageArrays
from tombola.data.facts import Facts

# scikit-learn's copy has no split. Ours is drawn once, with this seed, and is part of what `digits` means here:
# 1,000 + 200 for training and validation, 597 for the test.
TEST_SEED = 1998

FACTS = Facts(
    name="digits",
    shape=(1, 8, 8),
    classes=10,
    train=1000,
    validation=200,
    test=597,
    mean=(0.3044,),
    std=(0.3759,),
    white=16,
    checksum="85ebd8ba4351ade706d3b67dae6ded0e75ab28486c9eb3e5a155865c6db73432",
    most_frequent=68 / 597,
    class_counts=(121, 127, 121, 126, 113, 124, 122, 118, 112, 116),
)


def read(data_dir: Path | None) -> ImageArrays:
    """Training images and labels, test images and labels; `data_dir` is not needed."""
    from sklearn.datasets import load_digits  # 1.6 s: only when digits are really read

    bunch = load_digits()
    images = bunch.images.astype(np.uint8)[:, None]
    labels = bunch.target.astype(np.int64)
    order = np.random.RandomState(TEST_SEED).permutation(len(images))
    pool, test = order[: -FACTS.test], order[-FACTS.test :]
    return images[pool], labels[pool], images[test], labels[test]
