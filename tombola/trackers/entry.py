"""What a tracker is told of one training, or of an experiment as a whole: a value that says itself when it changes."""

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property


@dataclass(frozen=True)
class Curve:
    """A number over steps.

    Attributes:
        steps: of the optimiser in a training; of an experiment its levels of pruning.
        values: finite numbers, one for each step.
    """

    name: str
    steps: tuple[int, ...]
    values: tuple[float, ...]


@dataclass(frozen=True)
class Attachment:
    """A file that goes along. Its content is made when a tracker asks for it.

    Attributes:
        name: with folders, `masks/fc1.weight.png`; what ends in .png is shown as a picture.
    """

    name: str
    content: Callable[[], bytes] = field(repr=False, compare=False)


@dataclass(frozen=True)
class Entry:
    """What a tracker calls a run: one training, or the experiment as a whole.

    Attributes:
        id: tells it from all others of its project: letters, digits and dashes.
        path: by what it is found: `("ticket", "level 3", "replicate 0")`.
        params: what it was made with; they never change.
        tags: what else is known of it in words; a verdict may become another one when replicates are added.
        metrics: finite numbers that it came to.
        text: sentences, in Markdown.
        began, ended: seconds since 1970.
        alters: whether its numbers may become others: an experiment's, as trainings are added.
    """

    id: str
    path: tuple[str, ...]
    params: Mapping[str, str | int | float]
    tags: Mapping[str, str] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)
    curves: tuple[Curve, ...] = ()
    text: str = ""
    files: tuple[Attachment, ...] = ()
    began: float = 0.0
    ended: float = 0.0
    alters: bool = False

    @property
    def name(self) -> str:
        """What people call it.

        >>> Entry("train-0123", ("ticket", "level 3", "replicate 0"), {}).name
        'ticket, level 3, replicate 0'
        """
        return ", ".join(self.path)

    @cached_property
    def digest(self) -> str:
        """Of all that is told of it: where it is the same, there is nothing to tell again.

        Of a training's files it has the names; those of an experiment follow from its numbers.
        """
        curves = [[curve.name, curve.steps, curve.values] for curve in self.curves]
        names = [] if self.alters else [attachment.name for attachment in self.files]
        told = [self.path, dict(self.params), dict(self.tags), dict(self.metrics), curves, self.text, names]
        return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:16]
