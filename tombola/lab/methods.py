"""Search methods: each a generator of runs, level by level, level 0 dense. And the controls made from a ticket.

To add a method: write a generator like `iterative`, name it in `METHODS` and in `lab.spec.Method` and `Arm`.
"""

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from tombola import models
from tombola.lab.runs import FullMask, Init, Network, Prune, RandomMask, Run, ShuffledMask, Train
from tombola.lab.spec import Spec
from tombola.recipe import Recipe, at_final_rate
from tombola.steps import Step


@dataclass(frozen=True)
class Replicate:
    """One independent repetition of a spec: its own seeds, and the runs built with them.

    Attributes:
        number: from 0.
        rewind: the step k that its tickets return to; by default the spec's first.
    """

    spec: Spec
    number: int
    rewind: Step | None = None

    def seed(self, name: str) -> int:
        """The seed that governs `name` in this replicate; 0 <= seed < 2^63."""
        digest = hashlib.sha256(f"{name}/{self.spec.seed}/{self.number}".encode()).digest()
        return int.from_bytes(digest[:8], "big") >> 1

    @property
    def network(self) -> Network:
        facts, model = self.spec.facts, self.spec.recipe.model
        return Network(model, facts.shape, facts.classes, models.checkpoint(model))

    @property
    def rewind_step(self) -> int:
        """k, in optimiser steps."""
        return self.spec.iterations(self.rewind or self.spec.rewind[0])

    def rewind_point(self, init: str = "init") -> Run:
        """theta_k: the initial weights, trained for k steps without a mask; for k = 0 the initial weights alone."""
        how = self.spec.recipe.init
        # Whatever the seed, pre-trained weights would be the same again: other ones have to be drawn.
        start = Init(self.network, how if init == "init" else models.drawn(how), init_seed=self.seed(init))
        if self.rewind_step == 0:
            return start
        return replace(self.train(start), begin=0, until=self.rewind_step, keep_optimizer=self.spec.carry_optimizer)

    @property
    def full_mask(self) -> Run | None:
        """What level 0 trains under: nothing, unless `prune.keep` or `prune.include` changes what is counted."""
        keep, include = self.spec.prune.keep, self.spec.prune.include
        return FullMask(self.network, keep, include or None) if keep or include else None

    def train(self, start: Run, mask: Run | None = None, recipe: Recipe | None = None) -> Train:
        """From `start`, taken as the state at step k, to the end under `mask`, by default under the full one."""
        spec = self.spec
        return Train(
            start=start,
            mask=mask or self.full_mask,
            recipe=recipe or spec.recipe,
            data_fingerprint=spec.facts.fingerprint,
            split_seed=self.seed("split"),
            order_seed=self.seed("order"),
            begin=self.rewind_step,
            until=spec.iterations(spec.recipe.length),
            evaluate_every=spec.iterations(spec.evaluate.every),
            test_every=spec.iterations(spec.evaluate.test_every),
            optimizer_state="carried" if isinstance(start, Train) and start.keep_optimizer else "fresh",
            augment_seed=self.seed("augment") if spec.recipe.augment else None,
        )

    def reordered(self, training: Train, order: int) -> Train:
        """The same training in another data order, with other augmentation; order 0 is the training itself."""
        if not order:
            return training
        augment = self.seed(f"augment {order}") if training.augment_seed is not None else None
        return replace(training, order_seed=self.seed(f"order {order}"), augment_seed=augment)

    def prune(self, trained: Train, mask: Run | None) -> Prune:
        """One round more: what is left of `mask` after the lowest-scoring weights of `trained` have gone."""
        prune = self.spec.prune
        return Prune(
            self.network,
            trained,
            mask,
            prune.score,
            prune.scope,
            prune.rates,
            prune.keep,
            score_seed=self.seed("score"),
            include=prune.include or None,
        )


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
