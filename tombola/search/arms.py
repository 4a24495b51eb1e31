"""Is this ticket a winning one? The user's own training under the ticket, the dense network and the controls."""

import hashlib
import inspect
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from math import isfinite
from typing import Literal

import torch
from torch import nn

from tombola import mask, weights
from tombola.errors import BadInput
from tombola.mask import Mask
from tombola.search import ranks
from tombola.search.course import Level, Report, Rewinding
from tombola.search.question import Question, criteria_of, rows_of, trial_of
from tombola.search.state import Loop
from tombola.search.verification import Verification
from tombola.stacks import join, split
from tombola.study.verdict import judge
from tombola.weights import Weights

Control = Literal["reinit", "random", "shuffle"]


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
    question: Question,
) -> Verification:
    """As `Search.verify` has it."""
    _check(arms, train, replicates, controls, build)
    loop, before, gradients = arms.loop, arms.loop.moment(), [p.grad for p in arms.loop.parameters()]
    drawn = Draws(
        initial=[arms.rewinding.start.left["weights"]],
        later=[arms.rewinding.moment.left["weights"], before.left["weights"]],
    )
    ends: list[Weights] = []
    found: dict[tuple[str, int], tuple[Report, ...]] = {}
    try:
        for replicate in range(replicates):
            for arm in ("dense", "ticket", *controls):
                fresh = drawn.another(arms, build, replicate) if arm == "reinit" and build else None
                found[arm, replicate] = arms.train(train, arm, replicate, fresh)
                if arm == "dense":
                    _differ(ends, weights.of(loop.model))
    finally:
        loop.put(before)
        for parameter, gradient in zip(loop.parameters(), gradients, strict=True):
            parameter.grad = gradient
    name = question.metric.name
    rows = {at: rows_of(reports, name) for at, reports in found.items()}
    criteria = criteria_of(question, list(rows.values()))
    trials = [trial_of(arm, replicate, of_one, criteria) for (arm, replicate), of_one in rows.items()]
    finite = tuple(trial for trial in trials if isfinite(trial.accuracy))
    lost = Counter(trial.arm for trial in trials if not isfinite(trial.accuracy))
    verdicts = judge(finite, criteria)
    if not verdicts:
        raise BadInput(
            where="verify",
            expected=f"a replicate in which the {question.metric.label} of ticket and dense network is a number",
            found=", ".join(f"{count} of {arm} that is none" for arm, count in lost.items()),
            todo="Lower the learning rate, or judge an earlier step.",
        )
    notes = [
        f"{count} of {replicates} trainings of {arm} ended in no number, and are left out of every comparison."
        for arm, count in lost.items()
    ]
    if drawn.fixed:
        notes.append(
            f"The control reinit leaves {', '.join(drawn.fixed)} as at the start: `build` makes the same at each call."
        )
    return Verification(verdicts[0], finite, criteria, tuple(notes))


def _check(arms: Arms, train: object, replicates: int, controls: Sequence[str], build: object) -> None:
    if not callable(train) or not _takes_one(train):
        raise BadInput(
            where="verify",
            expected="train, a function of a level: the body of the loop over the search",
            found=repr(train),
            todo="def train(level): ...",
        )
    known = ("reinit", "random", "shuffle")
    if type(replicates) is not int or replicates < 1:
        raise BadInput(
            where="verify",
            expected="one replicate or more",
            found=repr(replicates),
            todo="Five replicates are better than two.",
        )
    several = isinstance(controls, Collection) and not isinstance(controls, str)
    unknown = [control for control in controls if control not in known] if several else [controls]
    if unknown:
        close = get_close_matches(str(unknown[0]), known, n=1)
        raise BadInput(
            where="verify",
            expected=f"controls among {', '.join(known)}",
            found=repr(controls),
            todo=f"Did you mean controls=[{close[0]!r}]?" if close else "controls=['random'], for one.",
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


@dataclass
class Draws:
    """The weights that `build` has drawn.

    Attributes:
        initial: those at the start of the search, and all that were drawn so far.
        later: others that `build` may have kept, which were trained.
        fixed: names of weights that are the same at each call, though others are not: an initialisation that draws
            nothing, as of an identity, or a part that is pre-trained.
    """

    initial: list[Weights]
    later: list[Weights]
    fixed: tuple[str, ...] = ()

    def another(self, arms: Arms, build: Callable[[], nn.Module], replicate: int) -> Weights:
        """New initial weights, unlike all earlier ones, to which they are added.

        Raises:
            BadInput: `build` seeds, loads or copies.
        """
        arms.loop.seed(arms.seed_of("reinit", replicate))
        now = weights.of(arms.loop.model)  # a copy of it is none that is drawn
        fresh = weights.of(weights.bare(build()))
        weights.fit(self.initial[0], fresh, "what build makes")
        varied = [name for name in arms.ticket if bool((fresh[name] != fresh[name].flatten()[0]).any())]
        names = varied or list(arms.ticket)  # a weight that begins as a constant is none that is drawn
        known = [name for name in names if _among(self.initial, name, fresh)]
        trained = [name for name in names if name not in known and _among([*self.later, now], name, fresh)]
        if trained or len(known) == len(names):
            raise BadInput(
                where=f"{(trained or known)[0]} of what build makes",
                expected="weights newly drawn at each call",
                found="the same as before",
                todo="build must neither seed, load nor copy anything; where all weights begin as fixed numbers there "
                "is no control reinit.",
            )
        self.fixed = tuple(dict.fromkeys([*self.fixed, *known]))
        self.initial.append(fresh)
        return fresh


def _among(several: Sequence[Weights], name: str, fresh: Weights) -> bool:
    return any(torch.equal(fresh[name], other[name]) for other in several)


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
