"""Is this ticket a winning one? The user's own training under the ticket, the dense network and the controls."""

import inspect
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from math import isfinite
from typing import Any

from torch import nn

from tombola import weights
from tombola.control import Control
from tombola.controls import CONTROLS
from tombola.coupling import Coupling
from tombola.errors import BadInput
from tombola.mask import Mask
from tombola.mask_checks import rearranged
from tombola.search import distributed
from tombola.search.candidates import AtRewindPoint, Candidate, Drawn, SearchReplicate
from tombola.search.further_metrics import numbers_of
from tombola.search.level_run import Level, Report, Rewinding
from tombola.search.state import Loop
from tombola.search.verdict_settings import VerdictSettings, criteria_of, rows_of, trial_of
from tombola.search.verification import Verification
from tombola.study.further import further
from tombola.study.verdict import Metric, judge
from tombola.weights import Weights


@dataclass(frozen=True)
class Arms:
    """All that is compared, in one loop.

    Attributes:
        dense, ticket: the masks of level 0 and of `level`.
        trained: the weights at the end of `level`; None where it is not finished.
        stacks: weights of which each leading index is a layer of its own.
        coupling: the channels that live and die together, where channels were pruned.
    """

    loop: Loop
    rewinding: Rewinding
    level: int
    dense: Mask
    ticket: Mask
    trained: Weights | None
    seed: int
    stacks: frozenset[str] = frozenset()
    coupling: Coupling | None = None

    def candidates(self, controls: Sequence[Control], replicate: SearchReplicate) -> dict[str, Candidate]:
        """Every network that a replicate trains, by its arm.

        Raises:
            BadInput: a control differs from the ticket in more than its start or where its mask is alive.
        """
        ticket = Candidate(None, self.ticket)
        made = {
            control.name: control.training(replace(replicate, control=control.name), ticket, self.level, 0)
            for control in controls
        }
        for name, candidate in made.items():
            rearranged(candidate.mask, self.ticket, f"control {name}")
        return {"dense": Candidate(None, self.dense), "ticket": ticket} | made

    def train(
        self, train: Callable[[Level], object], number: int, candidate: Candidate, order_seed: int
    ) -> tuple[Report, ...]:
        """The reports of one network, all of it put in place before."""
        rewinding, start = self.rewinding, candidate.start
        if isinstance(start, AtRewindPoint):
            rewinding, start = rewinding.with_weights(start.weights), None
        course = rewinding.course(self.loop, number, candidate.mask, order_seed, start)
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
    controls: Sequence[str | Control],
    build: Callable[[], nn.Module] | None,
    settings: VerdictSettings,
) -> Verification:
    """As `Search.verify` has it."""
    _check(train, replicates)
    made = _controls(controls)
    loop, before, gradients = arms.loop, arms.loop.moment(), [p.grad for p in arms.loop.parameters()]
    drawn = Drawn(
        names=list(arms.ticket),
        initial=[arms.rewinding.start.left["weights"]],
        later=[arms.rewinding.moment.left["weights"], before.left["weights"]],
        build=build,
    )
    trained = None if arms.trained is None else (arms.ticket, arms.trained)
    ends: list[Weights] = []
    reports: dict[tuple[str, int], tuple[Report, ...]] = {}
    try:
        for number in range(replicates):
            replicate = SearchReplicate(
                loop, arms.rewinding, arms.level, arms.stacks, trained, arms.seed, number, drawn, coupling=arms.coupling
            )
            order_seed = replicate.seed(f"order {distributed.rank()}")
            for arm, candidate in arms.candidates(made, replicate).items():
                level = 0 if arm == "dense" else arms.level
                reports[arm, number] = arms.train(train, level, candidate, order_seed)
                if arm == "dense":
                    _differ(ends, weights.of(loop.model))
    finally:
        loop.put(before)
        for parameter, gradient in zip(loop.parameters(), gradients, strict=True):
            parameter.grad = gradient
    name = settings.metric.name
    rows = {at: rows_of(of_one, name) for at, of_one in reports.items()}
    criteria = criteria_of(settings, list(rows.values()))
    trials = [trial_of(arm, replicate, of_one, criteria) for (arm, replicate), of_one in rows.items()]
    finite = tuple(trial for trial in trials if isfinite(trial.accuracy))
    lost = Counter(trial.arm for trial in trials if not isfinite(trial.accuracy))
    verdicts = judge(finite, criteria)
    if not verdicts:
        raise _no_numbers(settings.metric, lost)
    notes = [
        f"{count} of {replicates} trainings of {arm} ended in no number, and are left out of every comparison."
        for arm, count in lost.items()
    ]
    notes += [
        f"The control {control} leaves {', '.join(names)} as at the start: `build` makes the same at each call."
        for control, names in drawn.fixed.items()
    ]
    numbers, missing = numbers_of(settings, rows, finite)
    beside = further(numbers, criteria.confidence)
    return Verification(verdicts[0], finite, criteria, (*notes, *missing), made, beside)


def _no_numbers(metric: Metric, lost: Mapping[str, int]) -> BadInput:
    return BadInput(
        where="verify",
        expected=f"a replicate in which the {metric.label} of ticket and dense network is a number",
        found=", ".join(f"{count} of {arm} that is none" for arm, count in lost.items()),
        todo="Lower the learning rate, or judge an earlier step.",
    )


def _check(train: object, replicates: int) -> None:
    if not callable(train) or not _takes_one(train):
        raise BadInput(
            where="verify",
            expected="train, a function of a level: the body of the loop over the search",
            found=repr(train),
            todo="def train(level): ...",
        )
    if type(replicates) is not int or replicates < 1:
        raise BadInput(
            where="verify",
            expected="one replicate or more",
            found=repr(replicates),
            todo="Five replicates are better than two.",
        )


def _controls(given: Sequence[str | Control]) -> tuple[Control, ...]:
    """Controls by name, or as they are."""
    several = isinstance(given, Collection) and not isinstance(given, str)
    listed: list[Any] = list(given) if several else [given]
    unknown = [each for each in listed if not isinstance(each, Control) and each not in CONTROLS]
    if unknown or not several:
        close = get_close_matches(str(unknown[0]), CONTROLS, n=1) if unknown else []
        raise BadInput(
            where="verify",
            expected=f"a list of controls, each of {', '.join(CONTROLS)}, or a tombola.controls.Control",
            found=repr(given) if unknown else f"{getattr(given, 'name', given)!r}, in no list",
            todo=f"Did you mean controls=[{close[0]!r}]?" if close else "controls=['random'], for one.",
        )
    made = [each if isinstance(each, Control) else CONTROLS[each] for each in listed]
    by_name = {control.name: control for control in made}
    if by_name.keys() & {"dense", "ticket"} or any(by_name[control.name] != control for control in made):
        raise BadInput(
            where="verify",
            expected="controls of different names, none of them dense or ticket",
            found=", ".join(control.name for control in made),
            todo="dataclasses.replace(control, name=...) renames one.",
        )
    return tuple(by_name.values())


def _takes_one(function: Callable[..., object]) -> bool:
    try:
        inspect.signature(function).bind(None)
    except TypeError:
        return False
    except ValueError:  # of some written in C nothing is known
        return True
    return True


def _differ(ends: list[Weights], end: Weights) -> None:
    """Make sure that a dense training ended elsewhere than those of the replicates before, to which it is added."""
    if any(weights.equal(end, other) for other in ends):
        raise BadInput(
            where="verify",
            expected="trainings that depend on the data order",
            found="two replicates that ended in the same weights",
            todo="Let `train` seed nothing by itself, and name the generators of your loaders in `Search(also=...)`.",
        )
    ends.append(end)
