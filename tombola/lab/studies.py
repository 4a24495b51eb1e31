"""What an experiment's studies ask of its networks: which trainings beside its own, and which measurements on them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations

from tombola.lab.kinds import Distance, Line, Train
from tombola.lab.replicate import Replicate
from tombola.lab.runs import Run


@dataclass(frozen=True)
class Question:
    """One measurement on two trainings.

    Attributes:
        study: `pruning` or `data order`, the two kinds of stability, or `connectivity`.
        arm: whose networks they are, `dense` at level 0.
        rewind: k, the step that both start from, in optimiser steps.
        pair: which data orders the two trainings had; 0 is that of the table's own.
        density_of: a training at whose density the answer holds.
    """

    study: str
    arm: str
    replicate: int
    level: int
    rewind: int
    pair: tuple[int, int]
    density_of: Train
    run: Run


def questions(replicate: Replicate, tickets: Sequence[Train]) -> Iterator[Question]:
    """All that the spec's studies ask in one replicate at one rewind step.

    Args:
        tickets: level by level, the dense network first.
    """
    yield from _stability(replicate, tickets)
    yield from _connectivity(replicate, tickets)


def _stability(replicate: Replicate, tickets: Sequence[Train]) -> Iterator[Question]:
    """Stabilizing the Lottery Ticket Hypothesis (Frankle, Dziugaite, Roy & Carbin, 2019)."""
    study, control = replicate.spec.study.stability, replicate.members.controls["random"]
    for level in study.levels if study else ():
        ticket = tickets[level]
        for arm, training in (("ticket", ticket), ("random", control.make(replicate, ticket, level, 0))):
            mask = training.mask
            assert mask is not None and study is not None
            where = replicate.number, level, replicate.rewind_step

            yield Question("pruning", arm, *where, (0, 0), training, Distance(tickets[0], training, mask))
            for pair in combinations(range(study.orders), 2):
                left, right = (replicate.reordered(training, order) for order in pair)
                yield Question("data order", arm, *where, pair, training, Distance(left, right, mask))


def _connectivity(replicate: Replicate, tickets: Sequence[Train]) -> Iterator[Question]:
    """Linear Mode Connectivity and the Lottery Ticket Hypothesis (Frankle, Dziugaite, Roy & Carbin, 2020)."""
    study, controls = replicate.spec.study.connectivity, replicate.members.controls
    for level in study.levels if study else ():
        assert study is not None
        for arm in study.arms if level else ("dense",):
            ticket = tickets[level]
            training = controls[arm].make(replicate, ticket, level, 0) if arm in controls else ticket
            for pair in combinations(range(study.orders), 2):
                left, right = (replicate.reordered(training, order) for order in pair)
                line = Line(left, right, training.recipe, training.split_seed, study.points, study.examples)
                yield Question(
                    "connectivity", arm, replicate.number, level, replicate.rewind_step, pair, training, line
                )
