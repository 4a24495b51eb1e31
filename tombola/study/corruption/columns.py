"""Corrupted numbers: a table's columns that are missing, that are another row's, or noisy.

Which columns of an example are missing or another row's is drawn for each example, so that no result hangs on which
column it was. Medians, deviations and other rows are those of the training set.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from tombola.errors import BadInput
from tombola.study.corruption.draws import Draws, Numbers

if TYPE_CHECKING:
    from torch import Tensor

SHARES, NOISE = (0.1, 0.2, 0.3, 0.4, 0.5), (0.1, 0.2, 0.4, 0.7, 1.0)


@dataclass(frozen=True)
class ColumnCorruption:
    """A way to corrupt numbers.

    Attributes:
        name: of it.
        about: what it is, in one sentence.
        make: examples [n, F], training examples [N, F], a severity's constant, what draws -> examples.
        constants: of each severity from 1 on.
    """

    name: str
    about: str
    make: Callable[[Numbers, Numbers, float, Draws], Numbers]
    constants: tuple[float, ...]

    @property
    def severities(self) -> tuple[int, ...]:
        """Those that it has."""
        return tuple(range(1, len(self.constants) + 1))


def missing_columns(x: Numbers, training: Numbers, c: float, draws: Draws) -> Numbers:
    """The share c of each example's columns is their median."""
    return np.where(_chosen(x, c, draws), np.median(training, axis=0), x)


def shuffled_columns(x: Numbers, training: Numbers, c: float, draws: Draws) -> Numbers:
    """The share c of each example's columns is another example's, each that of another one: as when it is permuted."""
    rows = draws.whole(0, len(training), x.shape[1])
    return np.where(_chosen(x, c, draws), training[rows, np.arange(x.shape[1])], x)


def noisy_columns(x: Numbers, training: Numbers, c: float, draws: Draws) -> Numbers:
    """Noise from N(0, c^2), in units of each column's deviation; columns of two values, as of categories, stay."""
    between = (training > training.min(axis=0)) & (training < training.max(axis=0))
    noisy: Numbers = x + c * training.std(axis=0) * between.any(axis=0) * draws.normal(x.shape[1])
    return noisy


def _chosen(x: Numbers, share: float, draws: Draws) -> NDArray[np.bool_]:
    """Of each example that share of the columns, rounded half up, at least one."""
    count = max(1, int(share * x.shape[1] + 0.5))
    return draws.uniform(0, 1, x.shape[1]).argsort(axis=1, kind="stable").argsort(axis=1) < count


def apply_to_columns(
    inputs: "Tensor", name: str, severity: int, seed: int, training: "Tensor", places: Iterable[int] | None = None
) -> "Tensor":
    """Examples of numbers, corrupted.

    Args:
        inputs: [N, F].
        name: one of `COLUMN_CORRUPTIONS`.
        severity: 0, which changes nothing, to 5.
        seed: 0 <= seed < 2^63.
        training: whose medians, deviations and rows are taken, [n, F].
        places: of the examples, by which each is corrupted in its own way; 0, 1, ... if None.

    Raises:
        BadInput: there is no such corruption or severity, or these are no such examples.

    >>> import torch
    >>> rows = torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 9.0]])
    >>> apply_to_columns(torch.zeros(1, 2), "missing_columns", 5, seed=0, training=rows).sum().item() in (3.0, 4.0)
    True
    """
    import torch

    where = range(len(inputs)) if places is None else list(map(int, places))
    corruption = COLUMN_CORRUPTIONS.get(name)
    if corruption is None or severity not in (0, *corruption.severities):
        known = ", ".join(COLUMN_CORRUPTIONS)
        found = f"{name} at {severity}"
        raise BadInput(
            where="corruption", expected=f"one of {known}, at 0 to 5", found=found, todo="Name one of these."
        )
    fits = inputs.dim() == 2 and training.dim() == 2 and inputs.shape[1] == training.shape[1] and len(training)
    if not fits or len(where) != len(inputs):
        raise BadInput(
            where=name,
            expected="inputs [N, F], training examples [n, F], and N places",
            found=f"{list(inputs.shape)}, {list(training.shape)}, {len(where)} places",
            todo="Take the training examples of the same columns.",
        )
    if severity == 0:
        return inputs.clone()
    held, rows = inputs.cpu().double().numpy(), training.cpu().double().numpy()
    made = corruption.make(held, rows, corruption.constants[severity - 1], Draws(name, seed, where)) if where else held
    return torch.from_numpy(made).to(inputs)


COLUMN_CORRUPTIONS: dict[str, ColumnCorruption] = {
    each.name: each
    for each in (
        ColumnCorruption("missing_columns", "Columns that are their median", missing_columns, SHARES),
        ColumnCorruption("shuffled_columns", "Columns that are another row's", shuffled_columns, SHARES),
        ColumnCorruption("noisy_columns", "Noise on numbers", noisy_columns, NOISE),
    )
}
