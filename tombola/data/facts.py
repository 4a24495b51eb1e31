"""What is known of a data set before any of it is read: enough to plan, to check a spec and to name a run."""

import hashlib
import json
from dataclasses import asdict, dataclass
from math import prod

IGNORED = -100  # a label of which nothing is asked, as torch has it


@dataclass(frozen=True)
class Facts:
    """The fixed facts of a data set.

    Attributes:
        shape: channels, height, width of an image; of a text its length in tokens, and how many kinds there are; of
            examples that are neither, how many numbers there are in one.
        classes: of one answer. Where they are the tokens of a text, the next token is asked for at every position.
        train, validation, test: how many examples; the validation ones come out of the official training set.
        mean, std: per channel, of pixels in [0, 1]; of a text nothing.
        white: the pixel value that stands for 1.
        checksum: SHA-256 over all images and labels, or of the archive that holds them.
        most_frequent: the share of the test set's answers that are the most frequent one; 0 where all are as frequent.
        class_counts: how many examples of each class are in the training set and for validation together; empty where
            there are as many of each, or, where that does not divide, of the first ones one more.
        real: whether examples are held as float32, the inputs as they are, and not as bytes or tokens.
    """

    name: str
    shape: tuple[int, ...]
    classes: int
    train: int
    validation: int
    test: int
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    white: int = 1
    checksum: str = ""
    most_frequent: float = 0.0
    class_counts: tuple[int, ...] = ()
    real: bool = False

    @property
    def fingerprint(self) -> str:
        """SHA-256 over all of this, checksum included: what the key of every run on this data has of it."""
        said = ("most_frequent", "class_counts")  # by the labels
        content = {name: value for name, value in asdict(self).items() if name not in said}
        if not self.real:
            del content["real"]  # it came later
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    @property
    def chance(self) -> float:
        """The accuracy on the test set of whoever always gives the same answer, the best one."""
        return max(self.most_frequent, 1 / self.classes)

    @property
    def text(self) -> bool:
        """Whether its examples are texts, not images."""
        return len(self.shape) == 2

    @property
    def running(self) -> bool:
        """Whether it is one running text in blocks, of which the next token is asked for at every position."""
        return self.text and self.classes == self.shape[1]

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Of an example as it is held: C x H x W bytes, T tokens, or real numbers."""
        return self.shape[:1] if self.text else self.shape

    @property
    def label_shape(self) -> tuple[int, ...]:
        """Of an example's labels: one, or one for each token."""
        return self.shape[:1] if self.running else ()

    def grain(self, examples: int) -> float:
        """How exactly a fraction of right answers over so many examples is known: the share of one answer."""
        return 1 / (examples * prod(self.label_shape))

    def epoch_iterations(self, batch: int) -> int:
        """Optimiser steps in one pass over the training set, a smaller last batch included."""
        return -(-self.train // batch)
