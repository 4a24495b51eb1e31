"""One line of an experiment's table."""

from dataclasses import dataclass

from tombola.lab.kinds import Train


@dataclass(frozen=True)
class Row:
    """One line of an experiment's table: which training it is about.

    Attributes:
        arm: what is compared, `dense` at level 0.
        replicate, level: which repetition, how many rounds of pruning.
        draw: which of several draws of a control; 0 where there is one.
        rewind: k, the step it starts from, in optimiser steps.
    """

    arm: str
    replicate: int
    level: int
    draw: int
    run: Train
    rewind: int = 0
