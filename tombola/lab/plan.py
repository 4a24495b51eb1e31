"""From a spec to the runs it wants: which trainings make its table, and what those need."""

import gc
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from statistics import median
from typing import Any, Literal

from tombola import data, models
from tombola.engine import EngineForecast, forecast
from tombola.engine.machine import devices, processes
from tombola.engine.training import Training
from tombola.errors import BadInput
from tombola.lab.costs import Costs
from tombola.lab.kinds import Train
from tombola.lab.makespan import Work
from tombola.lab.members import Arm
from tombola.lab.replicate import Replicate
from tombola.lab.row import Row
from tombola.lab.runs import Run, ancestry
from tombola.lab.searches import trainings
from tombola.lab.spec import Experiment, Spec
from tombola.lab.store import Store
from tombola.lab.studies import Question, Series, asked
from tombola.recipe import Recipe

Basis = Literal["finished", "measured", "guessed"]

# What is around the runs, in seconds, rounded, on two cores and a local disk as in results/forecast.md: too much on a
# fast machine and too little where torch comes over a network, which matters to experiments of less than a minute only.
MEASURING_S = 10.0  # of layers, where an engine goes by their times and they are not known yet
START_S = 5.0  # until the first run begins: the command and its workers import torch, and read data
RUN_S = 0.03  # of a run beside what its record says: handing it out, claiming it, and writing its outcome to the disk
END_S = 2.5  # table, verdict and report


@dataclass(frozen=True)
class Plan:
    """An experiment, the rows of its table, what its studies ask, and every run they need, inputs first.

    Attributes:
        placed: the devices of those who will do it; none where nobody has been asked, which stands for this machine's.
    """

    experiment: Experiment
    rows: tuple[Row, ...]
    questions: tuple[Question, ...]
    runs: tuple[Run, ...]
    placed: tuple[str, ...] = ()

    @property
    def devices(self) -> tuple[str, ...]:
        """Where its runs are done.

        Raises:
            BadInput: on a GPU, which this machine does not have.
        """
        return self.placed or devices(self.experiment.spec.device)


def for_devices(plan: Plan, given: tuple[str, ...]) -> Plan:
    """The plan, to be done on these devices.

    Raises:
        BadInput: its spec asks for others.
    """
    wanted, found = plan.experiment.spec.device, "cpu" if given == ("cpu",) else "cuda"
    if wanted not in ("auto", found):
        raise BadInput(
            where="device",
            expected=f"{found} or auto, as who does it has {'no GPU' if found == 'cpu' else 'GPUs'} for it",
            found=wanted,
            todo=f"--set device={found}, or ask for others with --with gpus.",
        )
    return replace(plan, placed=given)


@contextmanager
def _nothing_collected() -> Iterator[None]:
    """No looking for cycles in here: runs are kept and have none, and 100,000 are looked through again and again."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()


@_nothing_collected()
def plan(experiment: Experiment) -> Plan:
    """List the runs that `experiment` wants.

    Raises:
        BadInput: a control, a method or a study does what none may do.
    """
    rows, questions = _planned(experiment)
    if experiment.extensions:
        _check_again(experiment, (rows, questions), _planned(experiment))
    asking = [*(row.run for row in rows), *(question.run for question in questions)]
    return Plan(experiment, tuple(rows), tuple(questions), tuple(ancestry(asking)))


_Planned = tuple[list[Row], list[Question]]


def _planned(experiment: Experiment) -> _Planned:
    spec, members, rows, questions = experiment.spec, experiment.members, list[Row](), list[Question]()
    for number in range(spec.all_replicates):
        for step in spec.rewind:
            replicate = Replicate(spec, number, step, members)
            series = _series(replicate)
            own = list(_rows(replicate, series.tickets))
            first = {(row.arm, row.level): row.run for row in own if not row.draw}
            rows += own
            questions += _questions(experiment, replace(series, rows=first))
    return rows, questions


def _series(replicate: Replicate) -> Series:
    """A replicate's tickets at its rewind step, those of the search on changed inputs, and those of earlier ones."""
    members = replicate.members
    arm = members.arm("ticket", replicate.spec)
    tickets = trainings(arm, replicate.asking(arm))
    return Series(
        replicate.of_model(tickets[0].recipe.model),
        tickets,
        members.controls,
        changing=lambda change: _series(replicate.with_inputs(change)),
        earlier=lambda: _series(replicate.earlier) if replicate.earlier else None,
    )


def _questions(experiment: Experiment, series: Series) -> Iterator[Question]:
    """What the studies ask of one replicate at one rewind step.

    Raises:
        BadInput: a study asks in the name of another one.
    """
    for study, table in asked(experiment.spec.study, experiment.members.studies):
        for question in study.questions(table, series):
            if question.study != study.name:  # its answer would be nobody's
                raise _of_another_study(question, study.name)
            yield question


def _of_another_study(question: Question, study: str) -> BadInput:
    return BadInput(
        where=f"study {study}",
        expected=f"questions of its own, Question({study!r}, ...)",
        found=f"one of the study {question.study!r}",
        todo="A question is named after the study that asks it.",
    )


def _check_again(experiment: Experiment, first: _Planned, second: _Planned) -> None:
    """Make sure that two plans of one experiment are the same: else no run that is done would be found again."""
    one, other = (_by_member(experiment, *planned) for planned in (first, second))
    for member in one | other:
        if one.get(member) != other.get(member):
            raise BadInput(
                where=member,
                expected="the same runs each time that an experiment is planned",
                found="others the second time",
                todo="Draw from replicate.seed(name) alone, and keep nothing between two calls.",
            )


def _by_member(experiment: Experiment, rows: list[Row], questions: list[Question]) -> dict[str, list[Run]]:
    """The runs that each method, control and study asks for; those of the method that makes the tickets come first."""
    spec, runs = experiment.spec, dict[str, list[Run]]()
    for row in rows:
        arm = experiment.members.arm("ticket" if row.arm == "dense" else row.arm, spec)
        of = f"control {arm.control.name}" if arm.control else f"method {arm.method.name}"
        runs.setdefault(of, []).append(row.run)
    for question in questions:
        runs.setdefault(f"study {question.study}", []).append(question.run)
    return runs


def _rows(replicate: Replicate, tickets: Sequence[Train]) -> Iterator[Row]:
    spec, members, number, step = replicate.spec, replicate.members, replicate.number, replicate.rewind_step
    arms = [members.arm(name, spec) for name in spec.arms if name != "ticket"]
    found = {
        arm.name: trainings(arm, replicate.asking(arm)) for arm in arms if arm.name in spec.arm or arm.control is None
    }
    for level, ticket in enumerate(tickets):
        if level == 0:
            yield Row("dense", number, level, 0, ticket, step)
            continue
        yield Row("ticket", number, level, 0, ticket, step)
        for arm in arms:
            if arm.control:
                of = found.get(arm.name, tickets)
                yield from (
                    Row(arm.name, number, level, draw, run, step) for draw, run in _drawn(arm, replicate, of, level)
                )
    for arm in arms:
        if arm.control is None:
            for level, run in enumerate(found[arm.name]):
                if level:
                    yield Row(arm.name, number, level, 0, run, step)


def _drawn(arm: Arm, replicate: Replicate, tickets: Sequence[Train], level: int) -> Iterator[tuple[int, Train]]:
    """The draws of a control at a level, of whosever tickets these are."""
    assert arm.control
    if level >= len(tickets):
        return
    own = replicate.asking(arm)
    draws = replicate.members.draws(arm.name, replicate.spec)
    drawn = [arm.control.training(own, tickets[level], level, draw) for draw in range(draws)]
    if len(set(drawn)) < draws:  # they would count as several
        raise _same_draws(arm.name, draws)
    yield from enumerate(drawn)


def _same_draws(arm: str, draws: int) -> BadInput:
    return BadInput(
        where=f"draws of {arm}",
        expected="a control that is another one in each draw",
        found=f"the same training in several of {draws} draws",
        todo="Let its seeds depend on `draw`; or draw it once.",
    )


def of_first(plan: Plan, replicates: int) -> Plan:
    """The part of a plan that is about its first replicates."""
    rows = tuple(row for row in plan.rows if row.replicate < replicates)
    questions = tuple(question for question in plan.questions if question.replicate < replicates)
    asking = [*(row.run for row in rows), *(question.run for question in questions)]
    return replace(plan, rows=rows, questions=questions, runs=tuple(ancestry(asking)))


def complete(plan: Plan, store: Store) -> int:
    """How many replicates, from the first on, are finished but for what failed."""
    done, failed = store.keys(), store.failed()
    asked: list[tuple[int, Run]] = [(row.replicate, row.run) for row in plan.rows]
    asked += [(question.replicate, question.run) for question in plan.questions]
    lacking = [(number, run) for number, run in asked if run.key not in done]
    lost = failed and {run.key for run in plan.runs if run.key not in done and run.key in failed}
    for run in plan.runs:  # inputs first
        if lost and run.key not in done and any(needed.key in lost for needed in run.inputs):
            lost.add(run.key)
    return min((number for number, run in lacking if run.key not in lost), default=plan.experiment.spec.all_replicates)


def missing(plan: Plan, store: Store) -> list[Run]:
    """The runs whose outcomes the rows need and the store lacks: the rows themselves, their starts and masks.

    What went into a run that is done is not needed for its own sake.
    """
    done = store.keys()
    needed = {run.key for run in _needed(plan, done)}
    return [run for run in plan.runs if run.key in needed]


def _needed(plan: Plan, done: set[str]) -> Iterator[Run]:
    seen: set[str] = set()
    stack: list[Run] = [run for row in plan.rows for run in (row.run, *row.run.inputs)]
    stack += [question.run for question in plan.questions]
    while stack:
        run = stack.pop()
        if run.key not in seen and run.key not in done:
            seen.add(run.key)
            yield run
            stack.extend(run.inputs)


def expected_costs(plan: Plan) -> list[dict[str, Any]]:
    """What a row of each arm and level will cost, as the first replicate has it at the first rewind step, before
    anything is trained.
    """
    first = [row for row in plan.rows if (row.replicate, row.rewind, row.draw) == (0, plan.rows[0].rewind, 0)]
    costs = Costs(plan.experiment, ancestry([row.run for row in first]))
    return [
        {
            "arm": row.arm,
            "level": row.level,
            "search_macs": cost.search.ideal,
            "training_macs": cost.training.ideal,
            "dense_training_macs": cost.dense,
        }
        for row, cost in ((row, costs.of(row)) for row in first)
    ]


def engine_of(plan: Plan, measuring: bool = False) -> EngineForecast:
    """The engine that the trainings of `plan` will get."""
    recipe = plan.experiment.spec.recipe
    trained = [row.run.recipe.model for row in plan.rows]
    if trained and recipe.model not in trained:  # all are in a basis
        recipe = recipe.model_copy(update={"model": trained[0]})
    return _engine_for(recipe, plan, measuring)


def _engine_for(recipe: Recipe, plan: Plan, measuring: bool = False) -> EngineForecast:
    """The engine that trainings of a recipe will get: what a search trains may be for another one than the ticket."""
    spec = plan.experiment.spec
    training = Training.of(recipe, spec.facts, spec.engine, plan.devices[0])
    return forecast(replace(training, processes=processes(), densities=_densities(spec, 0)), measuring)


def other_engines(plan: Plan) -> list[dict[str, Any]]:
    """Where arms train with a recipe of their own, for another engine than the spec's: which one, why, and these arms.

    As the first replicate has it.
    """
    known = engine_of(plan)
    recipes: dict[Recipe, dict[str, None]] = {}
    for row in plan.rows:
        if row.replicate == 0:
            recipes.setdefault(row.run.recipe, {})[row.arm] = None
    found: dict[tuple[str, str], dict[str, None]] = {}
    for recipe, arms in recipes.items():
        engine = _engine_for(recipe, plan)
        if engine.name != known.name:
            found.setdefault((engine.name, engine.why), {}).update(arms)
    return [{"name": name, "why": why, "arms": list(arms)} for (name, why), arms in found.items()]


def run_seconds(plan: Plan, store: Store) -> Callable[[Run], float]:
    """Seconds that each run of `plan` takes, as its kind says.

    As the engine's measured times have it for the density of the run's level, or else a guess from the model's size;
    scaled so that finished trainings of this plan come out right.
    """
    spec, facts = plan.experiment.spec, plan.experiment.spec.facts
    levels = {each.key: question.level for question in plan.questions for each in question.run.inputs}
    levels |= {question.run.key: question.level for question in plan.questions}
    levels |= {row.run.key: row.level for row in plan.rows}

    def expected(run: Run) -> float:
        return run.seconds(facts, lambda: expected_at(levels.get(run.key, 0), run.recipe_trained or spec.recipe))

    @cache
    def expected_at(level: int, recipe: Recipe) -> float:
        return engine_for(recipe).step_seconds(_densities(spec, level))

    @cache
    def engine_for(recipe: Recipe) -> EngineForecast:
        return _engine_for(recipe, plan)

    done = store.keys()
    known = [row.run for row in plan.rows if row.run.key in done and expected(row.run)][:100]
    store.ahead(run.key for run in known)
    taken = [store.provenance(run)["seconds"] for run in known]
    factor = median(each / expected(run) for each, run in zip(taken, known, strict=True)) if known else 1.0
    return lambda run: factor * expected(run)


def estimated_by(plan: Plan, store: Store) -> Basis:
    """What `run_seconds` goes by."""
    done = store.keys()
    if any(row.run.key in done for row in plan.rows):
        return "finished"
    return "measured" if engine_of(plan).measured else "guessed"


def wall_seconds(runs: Sequence[Run], seconds: Callable[[Run], float], workers: int, unmeasured: bool = False) -> float:
    """Seconds of a command that does `runs`, from its start to the end of its report; 0 where there are none.

    Args:
        runs: those that are missing, inputs first.
        seconds: that each of them takes.
        workers: how many are done at once, >= 1.
        unmeasured: whether layers are measured before.
    """
    if not runs:
        return 0.0
    each = [seconds(run) + RUN_S for run in runs]
    before = START_S + (MEASURING_S if unmeasured else 0.0)
    return before + Work.of(runs).makespan(each, workers) + END_S


def _densities(spec: Spec, level: int) -> dict[str, float]:
    kinds = models.kinds(spec.recipe.model, spec.facts.shape, spec.facts.classes, spec.prune.include)
    if not spec.densities or not level:
        return spec.prune.round.densities(kinds, level)
    rates, density = spec.prune.round.rates_of(kinds), spec.densities[level - 1]
    return {name: density if name in rates else 1.0 for name in kinds}


def _notes(spec: Spec) -> Iterator[str]:
    """What whoever reads the numbers should know before anything is trained."""
    if data.table.named(spec.recipe.data):
        yield f"recipe.data: {data.table.described(spec.recipe.data)}"
    if spec.recipe.label_noise and spec.verdict.at == "early-stop":
        yield (
            "recipe.label_noise: the validation labels are true, so an early stop knows which labels the training does "
            'not; verdict.at = "end" compares what has been fitted to the false ones too.'
        )


@_nothing_collected()
def summary(plan: Plan, store: Store, workers: int) -> dict[str, Any]:
    """What a plan amounts to: per kind, how often runs are asked for, how many they are, stored, missing; the time.

    Args:
        workers: how many runs are done at once, >= 1.
    """
    absent = missing(plan, store)
    asked = Counter(row.run.kind for row in plan.rows) + Counter(
        needed.kind for run in plan.runs for needed in run.inputs
    )
    asked += Counter(question.run.kind for question in plan.questions)
    kinds = Counter(run.kind for run in plan.runs)
    lacking = Counter(run.kind for run in absent)
    done = store.keys()
    stored = Counter(run.kind for run in plan.runs if run.key in done)
    lengths = [run.steps for run in absent if run.steps]
    each, engine, looks = run_seconds(plan, store), engine_of(plan), plan.experiment.spec.looks
    first = missing(of_first(plan, looks.first), store) if looks else []
    least = {
        "replicates": looks.first if looks else 0,
        "missing": len(first),
        "estimated_seconds": round(wall_seconds(first, each, workers, engine.unmeasured), 3),
    }
    return {
        "experiment": plan.experiment.name,
        "rows": len(plan.rows),
        "runs": {
            kind: {
                "asked": asked[kind],
                "wanted": kinds[kind],
                "stored": stored[kind],
                "missing": lacking[kind],
            }
            for kind in kinds
        },
        "notes": list(_notes(plan.experiment.spec)),
        "files_passed_over": data.passed_over(plan.experiment.spec.recipe.data),
        "failed_last_time": len(store.failed() & {run.key for run in absent}),
        "total": {"wanted": len(plan.runs), "stored": stored.total(), "missing": len(absent)},
        "training_steps_missing": sum(lengths),
        "training_lengths_missing": sorted(set(lengths)),
        "devices": list(plan.devices),
        "engine": {
            "name": engine.name,
            "why": engine.why,
            "unmeasured": engine.unmeasured,
            "sparse_below": {name: round(times.break_even, 3) for name, times in engine.times.items()},
        },
        "other_engines": other_engines(plan),
        "expected_costs": expected_costs(plan),
        "workers": workers,
        "estimated_seconds": round(wall_seconds(absent, each, workers, engine.unmeasured), 3),
        "estimated_by": estimated_by(plan, store),
        **({"replicates": looks.last, "least": least} if looks else {}),
    }
