"""What the page shows, as values, and as the JSON that the page reads."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class Layer:
    """A layer whose weights may be pruned; on the page its weights are outputs x inputs x window.

    Attributes:
        name: of the weight.
        kind: as `tombola.prunable.prunable` has it.
        outputs, inputs: how many units; of a convolution with groups, `inputs` is of one group.
        window: of a convolution, else empty.
        groups: of a convolution.
    """

    name: str
    kind: str
    outputs: int
    inputs: int
    window: tuple[int, ...] = ()
    groups: int = 1

    @property
    def label(self) -> str:
        """By which the page calls it: `fc1` of fc1.weight."""
        return self.name.removesuffix(".weight")


@dataclass(frozen=True)
class Level:
    """One network: its mask's numbers, what was measured, and where its binary parts are.

    Attributes:
        level: rounds of pruning.
        density, alive: the share of the weights that remain, and how many these are.
        values: numbers by the name of `Page.columns`.
        sentence: what there is to say of it, a verdict for one.
        trained: part with the weights at the end of training, living ones only, and what 1 is in each layer.
        start: part with the weights that training began with, all of them, likewise.
        exciting: part with the examples that excite each unit most, then where in them, then how much.
        reading: part with the tokens that each unit reads most, then how much; and of which layers, by their place.
    """

    level: int
    density: float
    alive: int
    values: Mapping[str, float | int | None]
    sentence: str = ""
    trained: tuple[int, tuple[float, ...]] | None = None
    start: tuple[int, tuple[float, ...]] | None = None
    exciting: int | None = None
    reading: tuple[int, tuple[int, ...]] | None = None


@dataclass(frozen=True)
class Series:
    """The networks of one arm and one replicate.

    Attributes:
        masks: of each layer its code and its part.
        examples: which of the page's sets of examples its units were shown.
    """

    arm: str
    replicate: int
    masks: tuple[tuple[str, int], ...]
    levels: tuple[Level, ...]
    examples: int | None = None


@dataclass(frozen=True)
class Examples:
    """Some examples of the test set.

    Attributes:
        part: bytes, one after the other, of images; of texts their tokens, two bytes each; of vectors
            float32.
        labels: the right answers.
        white: the byte that stands for 1.
    """

    part: int | None
    labels: tuple[str, ...]
    white: int = 255


@dataclass(frozen=True)
class Page:
    """All that the page shows.

    Attributes:
        title, about: what it is of.
        shape: of an input: channels, height, width of an image.
        chained: whether each layer reads what the one before gives, and nothing else.
        columns: what `Level.values` has: name -> (words, how it is written: `percent`, `count`, `number`).
        excited: from which layers `Level.exciting` has units, by their place among the layers.
        top: how many examples for each of these units.
        words: what each token of a text stands for.
        inputs: what each number of an input is, where that has a name.
        notes: what is left out, and why.
    """

    title: str
    about: str
    shape: tuple[int, ...]
    chained: bool
    layers: tuple[Layer, ...]
    columns: Mapping[str, tuple[str, str]]
    series: tuple[Series, ...]
    parts: tuple[str, ...] = field(repr=False)
    examples: tuple[Examples, ...] = ()
    excited: tuple[int, ...] = ()
    top: int = 9
    words: tuple[str, ...] = ()
    inputs: tuple[str, ...] = ()
    notes: Sequence[str] = ()

    @property
    def record(self) -> dict[str, Any]:
        """All but the binary parts, as JSON values."""
        found = {name: value for name, value in vars(self).items() if name != "parts"}
        return found | {
            "layers": [asdict(layer) | {"label": layer.label} for layer in self.layers],
            "series": [asdict(series) for series in self.series],
            "examples": [asdict(examples) for examples in self.examples],
            "notes": list(self.notes),
        }
