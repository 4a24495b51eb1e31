"""Is this ticket a winning one? The user's own training under the ticket, the dense network and the controls."""

import hashlib
import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from math import inf, isfinite
from typing import Literal

import torch
from torch import nn

from tombola import mask, weights
from tombola.errors import BadInput
from tombola.evaluate import early_stop
from tombola.mask import Mask
from tombola.search import ranks
from tombola.search.course import Level, Report, Rewinding
from tombola.search.state import Loop
from tombola.stacks import join, split
from tombola.study.sentences import sentences
from tombola.study.verdict import Criteria, Trial, Verdict, judge
from tombola.weights import Weights

Control = Literal["reinit", "random", "shuffle"]

MARGIN = 0.002  # of accuracy, as in a spec


@dataclass(frozen=True)
class Verification:
    """What came out: the verdict on the ticket, and the trainings that it rests on."""

    verdict: Verdict
    trials: tuple[Trial, ...]
    criteria: Criteria

    def __str__(self) -> str:
        """In plain sentences."""
        n = self.verdict.dense.accuracy.n
        orders = f"{n} data orders" if n > 1 else "one data order"
        about = f"The replicates are {orders} of one initialisation: this speaks of this ticket, not of others."
        return "\n".join([*sentences([self.verdict], self.criteria), about])


@dataclass(frozen=True)
class Arms:
    """All that is compared, in one loop.

    Attributes:
        dense, ticket: the masks of level 0 and of `level`.
        stacks: weights of which each leading index is a layer of its own.
    """

    loop: Loop
    rewinding: Rewinding
    level: int
    dense: Mask
    ticket: Mask
    seed: int
    stacks: frozenset[str] = frozenset()

    def seed_of(self, what: str, replicate: int) -> int:
        """The seed that governs `what` in a replicate, of all its arms; 0 <= seed < 2^63."""
        digest = hashlib.sha256(f"{what}/{self.seed}/{replicate}".encode()).digest()
        return int.from_bytes(digest[:8], "big") >> 1

    def mask_of(self, arm: str, replicate: int) -> Mask:
        """What is alive in an arm."""
        match arm:
            case "dense":
                return self.dense
            case "random":
                return self._in_parts(mask.random_like, self.seed_of("random mask", replicate))
            case "shuffle":
                return self._in_parts(mask.shuffle, self.seed_of("shuffled mask", replicate))
        return self.ticket

    def _in_parts(self, control: Callable[[Mask, int], Mask], mask_seed: int) -> Mask:
        parts = control(Mask(split(self.ticket, self.stacks)), mask_seed)
        return join(parts, self.ticket, self.stacks)

    def train(
        self, train: Callable[[Level], object], arm: str, replicate: int, fresh: Weights | None
    ) -> tuple[Report, ...]:
        """The reports of one arm, all of it put in place before."""
        order_seed = self.seed_of(f"order {ranks.rank()}", replicate)
        number = 0 if arm == "dense" else self.level
        living = self.mask_of(arm, replicate)
        course = self.rewinding.course(self.loop, number, living, order_seed, fresh)
        try:
            train(course.level)
            course.end(self.rewinding.k)
        finally:
            course.release()
        return tuple(course.reports)


def verify(
    arms: Arms,
    train: Callable[[Level], object],
    replicates: int,
    controls: Sequence[Control],
    build: Callable[[], nn.Module] | None,
    criteria: Criteria | None,
) -> Verification:
    """As `Search.verify` has it."""
    _check(arms, train, replicates, controls, build)
    loop, before, gradients = arms.loop, arms.loop.moment(), [p.grad for p in arms.loop.model.parameters()]
    # All initial weights so far, and others that `build` may have kept.
    drawn: list[Weights] = [at.left["weights"] for at in (arms.rewinding.start, arms.rewinding.moment, before)]
    ends: list[Weights] = []
    found: dict[tuple[str, int], tuple[Report, ...]] = {}
    try:
        for replicate in range(replicates):
            for arm in ("dense", "ticket", *controls):
                fresh = _drawn(arms, build, replicate, drawn) if arm == "reinit" and build else None
                found[arm, replicate] = arms.train(train, arm, replicate, fresh)
                if arm == "dense":
                    _differ(ends, weights.of(loop.model))
    finally:
        loop.put(before)
        for parameter, gradient in zip(loop.model.parameters(), gradients, strict=True):
            parameter.grad = gradient
    rows = {at: _merged(reports) for at, reports in found.items()}
    criteria = _criteria(criteria, list(rows.values()))
    trials = tuple(_trial(arm, replicate, of_one, criteria.paced) for (arm, replicate), of_one in rows.items())
    (verdict,) = judge(trials, criteria)
    return Verification(verdict, trials, criteria)


def _check(arms: Arms, train: object, replicates: int, controls: Sequence[str], build: object) -> None:
    if not callable(train) or not _takes_one(train):
        raise BadInput(
            where="verify",
            expected="train, a function of a level: the body of the loop over the search",
            found=repr(train),
            todo="def train(level): ...",
        )
    known = ("reinit", "random", "shuffle")
    unknown = isinstance(controls, str) or [control for control in controls if control not in known]
    if type(replicates) is not int or replicates < 1 or unknown:
        raise BadInput(
            where="verify",
            expected="one replicate or more, and controls among reinit, random, shuffle",
            found=f"{replicates!r} and {controls!r}",
            todo="Five replicates are better than two.",
        )
    if "reinit" not in controls:
        return
    if not callable(build) or isinstance(build, nn.Module):
        raise BadInput(
            where="verify",
            expected="build, which makes your model with weights newly drawn, for the control reinit",
            found="none" if build is None else f"a {type(build).__name__}",
            todo="Pass build=lambda: Net(...), or controls=['random'].",
        )
    if arms.rewinding.k and not arms.rewinding.replay:
        raise BadInput(
            where="verify",
            expected="a loop that starts at step 0, where newly drawn weights are, for the control reinit",
            found=f"one that starts at step {arms.rewinding.k}",
            todo="Search with replay=True, or pass controls=['random'].",
        )


def _takes_one(function: Callable[..., object]) -> bool:
    try:
        inspect.signature(function).bind(None)
    except TypeError:
        return False
    except ValueError:  # of some written in C nothing is known
        return True
    return True


def _drawn(arms: Arms, build: Callable[[], nn.Module], replicate: int, earlier: list[Weights]) -> Weights:
    """New initial weights, unlike all `earlier` ones, to which they are added."""
    arms.loop.seed(arms.seed_of("reinit", replicate))
    now = weights.of(arms.loop.model)  # a copy of it is none that is drawn
    fresh = weights.of(weights.bare(build()))
    weights.fit(earlier[0], fresh, "what build makes")
    drawn = [name for name in arms.ticket if bool((fresh[name] != fresh[name].flatten()[0]).any())]
    for name in drawn or arms.ticket:  # a weight that begins as a constant is none that is drawn
        if any(torch.equal(fresh[name], other[name]) for other in (*earlier, now)):
            raise BadInput(
                where=f"{name} of what build makes",
                expected="weights newly drawn at each call",
                found="the same as before",
                todo="build must neither seed, load nor copy anything.",
            )
    earlier.append(fresh)
    return fresh


def _differ(ends: list[Weights], end: Weights) -> None:
    """Make sure that a dense training ended elsewhere than those of the replicates before, to which it is added."""
    if any(weights.equal(end, other) for other in ends):
        raise BadInput(
            where="verify",
            expected="trainings that depend on the data order",
            found="two replicates that ended in the same weights",
            todo="Let `train` seed nothing by itself, and name the generators of your loaders in `also`.",
        )
    ends.append(end)


def _merged(reports: Sequence[Report]) -> list[Report]:
    """One row for each step, with all that was reported there; at least one has an accuracy."""
    steps: dict[int, Report] = {}
    for report in reports:
        metrics = {**steps[report.step].metrics, **report.metrics} if report.step in steps else report.metrics
        steps[report.step] = replace(report, metrics=metrics)
    rows = list(steps.values())
    if not any("accuracy" in row.metrics for row in rows):
        raise BadInput(
            where="verify",
            expected="level.report(accuracy=...) in what is to train",
            found="none" if not reports else f"only {', '.join(reports[-1].metrics)}",
            todo="Report it after the rewind point, at the end at least.",
        )
    return rows


def _looks(rows: Sequence[Report]) -> list[Report]:
    """The rows among which an early stop is: those with an accuracy and a validation loss that is a number."""
    return [row for row in rows if "accuracy" in row.metrics and isfinite(row.metrics.get("validation_loss", inf))]


def _trial(arm: str, replicate: int, rows: Sequence[Report], paced: bool) -> Trial:
    """The row that counts: that of minimum validation loss, or where that is not known of all, the last accuracy."""
    looks = _looks(rows) if paced else [row for row in rows if "accuracy" in row.metrics]
    stop = looks[early_stop([row.metrics["validation_loss"] for row in looks])] if paced else looks[-1]
    return Trial(arm, replicate, stop.level, stop.density, stop.step, stop.metrics["accuracy"], stop is looks[-1])


def _criteria(asked: Criteria | None, found: Sequence[Sequence[Report]]) -> Criteria:
    """By default: the margins of a spec; steps are compared where every arm has looked for its early stop."""
    looks = [[row.step for row in _looks(rows)] for rows in found]
    paced = all(len(steps) > 1 for steps in looks)
    if asked:
        return replace(asked, paced=asked.paced and paced)
    interval = max((later - earlier for steps in looks for earlier, later in pairwise(steps)), default=0)
    return Criteria(MARGIN, interval, step_grain=interval, paced=paced)
