"""A moment in training, with its unit: '500it' is after 500 optimiser steps, '2ep' after two passes."""

import re
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Step:
    """A number of training steps that carries its unit.

    Args:
        text: a whole number >= 0 and a unit, `it` (iterations: optimiser steps) or `ep` (epochs: passes over
            the training set).

    Raises:
        ValueError: the text is anything else; a bare number is refused, since its unit would be a guess, and one of
            more than 15 digits as well.

    >>> Step("500it").iterations(epoch_iterations=917)
    500
    >>> Step("2ep").iterations(epoch_iterations=917)
    1834
    """

    text: str

    def __post_init__(self) -> None:
        if not isinstance(self.text, str) or not re.fullmatch(r"(0|[1-9]\d*)(it|ep)", self.text):
            raise ValueError("a whole number with a unit, like '500it' (iterations) or '2ep' (epochs)")
        if len(self.text) > 17:
            raise ValueError("a whole number of at most 15 digits with its unit, like '500it'")

    @property
    def count(self) -> int:
        return int(self.text[:-2])

    @property
    def unit(self) -> str:
        return self.text[-2:]

    def iterations(self, epoch_iterations: int) -> int:
        """How many optimiser steps this is where one pass over the training set takes `epoch_iterations`."""
        return self.count * (epoch_iterations if self.unit == "ep" else 1)

    def __str__(self) -> str:
        return self.text
