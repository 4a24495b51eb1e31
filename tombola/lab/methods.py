"""Search methods: each a generator of runs, level by level, level 0 dense. And the controls made from a ticket.

To add a method: write a generator like `iterative`, name it in `METHODS` and in `lab.spec.Method` and `Arm`.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace

from tombola.lab.replicate import Replicate
from tombola.lab.runs import RandomMask, ShuffledMask, Train
from tombola.recipe import at_final_rate


def iterative(replicate: Replicate, levels: int) -> Iterator[Train]:
    """Train, prune, rewind the survivors to step k, repeat: Strategy 1 where k = 0.

    The Lottery Ticket Hypothesis (Frankle & Carbin, 2019); Stabilizing the Lottery Ticket Hypothesis (Frankle,
    Dziugaite, Roy & Carbin, 2019).
    """
    start = replicate.rewind_point()
    ticket = replicate.train(start)
    yield ticket
    for _ in range(levels):
        ticket = replicate.train(start, mask=replicate.prune(ticket, ticket.mask))
        yield ticket


def continued(replicate: Replicate, levels: int) -> Iterator[Train]:
    """Train, prune, train on without resetting, repeat; rewind only the ticket at the end: Strategy 2.

    The Lottery Ticket Hypothesis (Frankle & Carbin, 2019), Appendix B.
    """
    start = replicate.rewind_point()
    trained = replicate.train(start)
    yield trained
    for _ in range(levels):
        mask = replicate.prune(trained, trained.mask)
        yield replicate.train(start, mask=mask)
        trained = replicate.train(trained, mask=mask)


def one_shot(replicate: Replicate, levels: int) -> Iterator[Train]:
    """Train once; each level prunes that one trained network to the level's counts and rewinds the survivors.

    The Lottery Ticket Hypothesis (Frankle & Carbin, 2019), Section 2.
    """
    start = replicate.rewind_point()
    dense = replicate.train(start)
    yield dense
    mask = dense.mask
    for _ in range(levels):
        # Round by round, so that the counts are those of the iterative search to the last weight.
        mask = replicate.prune(dense, mask)
        yield replicate.train(start, mask=mask)


def learning_rate_rewinding(replicate: Replicate, levels: int) -> Iterator[Train]:
    """Train, prune, keep the trained weights, train again with the learning rates from step k on, repeat.

    Comparing Rewinding and Fine-tuning in Neural Network Pruning (Renda, Frankle & Carbin, 2020).
    """
    trained = replicate.train(replicate.rewind_point())
    yield trained
    for _ in range(levels):
        trained = replicate.train(trained, mask=replicate.prune(trained, trained.mask))
        yield trained


def fine_tune(replicate: Replicate, levels: int) -> Iterator[Train]:
    """Train, prune, keep the trained weights, train again at the last learning rate throughout, repeat.

    Comparing Rewinding and Fine-tuning in Neural Network Pruning (Renda, Frankle & Carbin, 2020).
    """
    spec = replicate.spec
    slow = at_final_rate(spec.recipe, spec.facts.epoch_iterations(spec.recipe.batch))
    trained = replicate.train(replicate.rewind_point())
    yield trained
    for _ in range(levels):
        trained = replicate.train(trained, mask=replicate.prune(trained, trained.mask), recipe=slow)
        yield trained


Search = Callable[[Replicate, int], Iterator[Train]]

METHODS: dict[str, Search] = {
    "iterative": iterative,
    "continued": continued,
    "one-shot": one_shot,
    "lr-rewind": learning_rate_rewinding,
    "fine-tune": fine_tune,
}


def reinit(replicate: Replicate, ticket: Train, level: int, draw: int) -> Train:
    """The ticket's mask on weights drawn anew, theta_0' ~ D_theta; for k > 0 they too are trained for k steps first."""
    return replace(ticket, start=replicate.rewind_point(init=f"reinit {draw}"))


def random(replicate: Replicate, ticket: Train, level: int, draw: int) -> Train:
    """The ticket's weights under a random mask with the same layer-wise counts; the masks of the levels nest."""
    assert ticket.mask is not None
    return replace(ticket, mask=RandomMask(ticket.mask, mask_seed=replicate.seed(f"random mask {draw}")))


def shuffle(replicate: Replicate, ticket: Train, level: int, draw: int) -> Train:
    """The ticket's weights under the ticket's mask with its entries permuted inside each layer."""
    assert ticket.mask is not None
    return replace(ticket, mask=ShuffledMask(ticket.mask, mask_seed=replicate.seed(f"shuffled mask {level}")))


Make = Callable[[Replicate, Train, int, int], Train]

# A control is its ticket with one field replaced: what the arms share, they share by construction.
CONTROLS: dict[str, Make] = {"reinit": reinit, "random": random, "shuffle": shuffle}
