"""What is known of a data set before any of it is read: enough to plan, to check a spec and to name a run."""

import hashlib
import json
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from math import prod
from typing import Any, Literal

IGNORED = -100  # a label of which nothing is asked, as torch has it

# What is asked of an example. class: which of several; number: how much, in units of the training set's deviation and
# from its mean on; tasks: several times yes or no.
Answers = Literal["class", "number", "tasks"]


@dataclass(frozen=True)
class Facts:
    """The fixed facts of a data set.

    Attributes:
        shape: channels, height, width of an image; of a text its length in tokens, and how many kinds there are; of
            examples that are neither, how many numbers there are in one.
        classes: of one answer. Where they are the tokens of a text, the next token is asked for at every position. More
            generally how many outputs a network has: of a number one, of tasks one for each.
        train, validation, test: how many examples; the validation ones come out of the official training set.
        mean, std: per channel, of pixels in [0, 1]; of a text nothing.
        white: the pixel value that stands for 1.
        checksum: SHA-256 over all images and labels, or of the archive that holds them.
        most_frequent: the share of the test set's answers that are the most frequent one; 0 where all are as frequent.
        class_counts: how many examples of each class are in the training set and for validation together; empty where
            there are as many of each, or, where that does not divide, of the first ones one more.
        real: whether examples are held as float32, the inputs as they are, and not as bytes or tokens.
        answers: what is asked of an example.
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
    answers: Answers = "class"

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over all of this, checksum included: what the key of every run on this data has of it."""
        said = ("most_frequent", "class_counts")  # by the labels
        content = {name: value for name, value in asdict(self).items() if name not in said}
        if not self.real:
            del content["real"]  # it came later
        if self.answers == "class":
            del content["answers"]  # so did this
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    @property
    def chance(self) -> float:
        """The accuracy on the test set of whoever always gives the same answer, the best one; R2 is 0."""
        if self.answers == "number":
            return 0.0
        return max(self.most_frequent, 1 / 2 if self.answers == "tasks" else 1 / self.classes)

    @property
    def measure(self) -> Literal["accuracy", "R2"]:
        """What says how good answers are: the share of right ones; of numbers R2 = 1 - SSE / SST.

        SST are the squares about the mean of the training set, not about that of the set that is asked.
        """
        return "R2" if self.answers == "number" else "accuracy"

    @property
    def text(self) -> bool:
        """Whether its examples are texts, not images."""
        return len(self.shape) == 2

    @property
    def running(self) -> bool:
        """Whether it is one running text in blocks, of which the next token is asked for at every position."""
        return self.text and self.answers == "class" and self.classes == self.shape[1]

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Of an example as it is held: C x H x W bytes, T tokens, or real numbers."""
        return self.shape[:1] if self.text else self.shape

    @property
    def label_shape(self) -> tuple[int, ...]:
        """Of an example's labels: one, or one for each token or task."""
        if self.answers == "tasks":
            return (self.classes,)
        return self.shape[:1] if self.running else ()

    def grain(self, examples: int) -> float:
        """How exactly a fraction of right answers over so many is known: the share of one answer; R2 is not counted."""
        return 0.0 if self.answers == "number" else 1 / (examples * prod(self.label_shape))

    def epoch_iterations(self, batch: int) -> int:
        """Optimiser steps in one pass over the training set, a smaller last batch included."""
        return -(-self.train // batch)

    def varied(self, way: str, **changes: Any) -> "Facts":
        """Those of a data set that is made of this one in a way that has a name: `NAME+WAY`, its checksum its own.

        Args:
            changes: what else is known of it.
        """
        what = f"{way} of {self.checksum}"
        checksum = hashlib.sha256(what.encode()).hexdigest()
        return replace(self, **{"name": f"{self.name}+{way}", "checksum": checksum, **changes})
