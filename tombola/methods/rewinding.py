"""Methods that train, prune and train again: each a generator of trainings, level by level, level 0 dense.

To add one: write a generator like `iterative`, and declare it in `METHODS`. What it asks of a replicate are values that
name their inputs: nothing is trained here, and rewinding is which run a training starts from.
"""

from collections.abc import Iterator
from typing import Any

from tombola.mark import Mark
from tombola.method import Method
from tombola.recipe import at_final_rate
from tombola.replicate import MethodReplicate, T


def iterative(replicate: MethodReplicate[T], levels: int) -> Iterator[T]:
    """Train, prune, rewind the survivors to step k, repeat: Strategy 1 where k = 0."""
    yield from iterative_from(replicate, replicate.rewind_point(), levels)


def iterative_from(replicate: MethodReplicate[T], start: Any, levels: int) -> Iterator[T]:
    """The same, back to the weights `start` each time."""
    ticket = replicate.train(start)
    yield ticket
    for _ in range(levels):
        ticket = replicate.train(start, mask=replicate.prune(ticket, replicate.mask_of(ticket)))
        yield ticket


def continued(replicate: MethodReplicate[T], levels: int) -> Iterator[T]:
    """Train, prune, train on without resetting, repeat; rewind only the ticket at the end: Strategy 2."""
    start = replicate.rewind_point()
    trained = replicate.train(start)
    yield trained
    for _ in range(levels):
        mask = replicate.prune(trained, replicate.mask_of(trained))
        yield replicate.train(start, mask=mask)
        trained = replicate.train(trained, mask=mask)


def one_shot(replicate: MethodReplicate[T], levels: int) -> Iterator[T]:
    """Train once; each level prunes that one trained network to the level's counts and rewinds the survivors."""
    start = replicate.rewind_point()
    dense = replicate.train(start)
    yield dense
    mask = replicate.mask_of(dense)
    for _ in range(levels):
        # Round by round, so that the counts are those of the iterative search to the last weight.
        mask = replicate.prune(dense, mask)
        yield replicate.train(start, mask=mask)


def learning_rate_rewinding(replicate: MethodReplicate[T], levels: int) -> Iterator[T]:
    """Train, prune, keep the trained weights, train again with the learning rates from step k on, repeat."""
    trained = replicate.train(replicate.rewind_point())
    yield trained
    for _ in range(levels):
        trained = replicate.train(trained, mask=replicate.prune(trained, replicate.mask_of(trained)))
        yield trained


def fine_tune(replicate: MethodReplicate[T], levels: int) -> Iterator[T]:
    """Train, prune, keep the trained weights, train again at the last learning rate throughout, repeat."""
    slow = at_final_rate(replicate.recipe, replicate.epoch_iterations)
    trained = replicate.train(replicate.rewind_point())
    yield trained
    for _ in range(levels):
        trained = replicate.train(trained, mask=replicate.prune(trained, replicate.mask_of(trained)), recipe=slow)
        yield trained


_ORIGINAL = "[The Lottery Ticket Hypothesis](https://arxiv.org/abs/1803.03635)"
_STABILIZING = "[Stabilizing the Lottery Ticket Hypothesis](https://arxiv.org/abs/1903.01611)"
_COMPARING = "[Comparing Rewinding and Fine-tuning](https://arxiv.org/abs/2003.02389)"

METHODS: dict[str, Method] = {
    "iterative": Method(
        name="iterative",
        search=iterative,
        about="Train, prune, rewind to step k, repeat; k = 0 is the original",
        paper=f"{_ORIGINAL}; {_STABILIZING}",
        year=2019,
        mark=Mark("#000000", (4, 1), "cross"),
    ),
    "continued": Method(
        name="continued",
        search=continued,
        about="Train on without resetting between rounds, reset at the end (Strategy 2)",
        paper=f"{_ORIGINAL}, App. B",
        year=2019,
        mark=Mark("#56b4e9", (10, 2), "triangle-down"),
    ),
    "one-shot": Method(
        name="one-shot",
        search=one_shot,
        about="Prune the trained network once to each density",
        paper=_ORIGINAL,
        year=2019,
        mark=Mark("#e69f00", (5, 1, 1, 1), "triangle-right"),
    ),
    "lr-rewind": Method(
        name="lr-rewind",
        search=learning_rate_rewinding,
        about="Keep the weights, rewind the learning rate",
        paper=_COMPARING,
        year=2020,
        rewinds=False,
        mark=Mark("#a08000", (1, 3), "triangle-left"),
    ),
    "fine-tune": Method(
        name="fine-tune",
        search=fine_tune,
        about="Keep the weights, train on at the last learning rate",
        paper=_COMPARING,
        year=2020,
        rewinds=False,
        mark=Mark("#7a5195", (12, 4), "stroke"),
    ),
}
