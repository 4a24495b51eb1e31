"""The ticket, and the trained network, of a level and a replicate of a plan, out of its finished runs."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, cast

from tombola import models
from tombola.data import variants
from tombola.errors import BadInput, StoreError
from tombola.lab.kinds import Average, Init, Measured, Pool, Train
from tombola.lab.members import Arm
from tombola.lab.plan import Plan
from tombola.lab.replicate import Replicate
from tombola.lab.row import Row
from tombola.lab.runs import Run
from tombola.lab.spec import Spec
from tombola.lab.store import Store

if TYPE_CHECKING:
    from torch import nn

    from tombola.mask import Mask
    from tombola.ticket import Ticket

    Trained = Train | Average | Pool  # what ends with the weights of a network


def ticket_of(plan: Plan, store: Store, level: int, replicate: int) -> "Ticket":
    """The ticket of a level and a replicate: its mask, and the weights that its survivors return to.

    Raises:
        BadInput: the experiment has no such level or replicate.
        StoreError: the runs that it is made of are not finished.
    """
    spec = plan.experiment.spec
    if not plan.experiment.members.arm("ticket", spec).rewinds:
        raise _no_ticket(spec, plan.experiment.members.arm("ticket", spec))
    return ticket_of_row(plan, store, _row(plan, level, replicate))


def ticket_of_row(plan: Plan, store: Store, row: Row) -> "Ticket":
    """The ticket of a row of the plan, whose arm rewinds to early weights.

    Raises:
        StoreError: the runs that it is made of are not finished.
    """
    from tombola.ticket import Seed, Ticket

    run, level, replicate = row.run, row.level, row.replicate
    _need(run.inputs if run.keeps_mask else (run, *run.inputs), plan, store, level, replicate)
    start, mask = store.weights(run.start), store.masked_by(run)
    model, alive = _network(plan, store, run)
    how = store.provenance(mask or run.start)
    origin = {
        "experiment": plan.experiment.name,
        "key": run.key,
        "keys": {"start": run.start.key, **({"mask": mask.key} if mask else {})},
        "model": run.recipe.model,
        "data": run.recipe.data,
        "data_fingerprint": run.data_fingerprint,
        "method": plan.experiment.spec.method,
        "level": level,
        "replicate": replicate,
        "rewind": f"{run.begin}it",
        "density": alive.density,
        "recipe": run.recipe.model_dump(mode="json"),
        "made": how.get("finished"),
        "versions": {name: how[name] for name in ("tombola", "git", "torch", "machine") if how.get(name)},
    }
    seed = None
    if isinstance(run.start, Init) and run.start.network.checkpoint is None:
        network = run.start.network
        seed = Seed(network.model, network.shape, network.classes, run.start.init, run.start.init_seed)
    return replace(Ticket.of(model, alive, start, origin), seed=seed)


def one_of(plan: Plan, store: Store, level: int, replicate: int, kind: str) -> "Ticket":
    """One network out of several, of a level and a replicate: its mask, and its weights, which are trained.

    Args:
        kind: of the study of ensembles: `average`, `pool`.

    Raises:
        BadInput: the experiment has no such level or replicate, or its study asks for no such network.
        StoreError: it is not finished.
    """
    from tombola.ticket import Ticket

    ticket, run = ticket_of(plan, store, level, replicate), _training(plan, level, replicate)
    asked = [one for one in plan.questions if (one.study, one.part, one.level) == ("ensemble", kind, level)]
    made = next((each for one in asked if one.replicate == replicate for each in one.run.inputs), None)
    if made is None:
        raise BadInput(
            where=f"--of {kind}",
            expected=f"an experiment whose study.ensemble asks for {kind!r} at level {level}",
            found=f"{plan.experiment.name}, which does not",
            todo=f"--set \"study.ensemble={{levels=[{level or 1}],kinds=['{kind}']}}\", here and when it is run."
            + ("" if level else " Level 0 is the dense network."),
        )
    _need([made], plan, store, level, replicate)
    model, _ = _network(plan, store, run)
    alive, how = store.mask(made), store.provenance(made)
    origin = {
        **ticket.origin,
        "key": made.key,
        "keys": {kind: made.key},
        "rewind": f"{run.until}it",
        "density": alive.density,
        "made": how.get("finished"),
        "of": kind,
    }
    return Ticket.of(model, alive, store.weights(made), origin)


def stretched_to(ticket: "Ticket", plan: Plan, model: str, how: str) -> "Ticket":
    """A ticket of a plan's network, stretched or squeezed to another model for the same data.

    Args:
        how: which of its blocks go where; see `tombola.elastic`.

    Raises:
        BadInput: there is no such model for these data, or the ticket can not be stretched to it.
    """
    from tombola import models

    facts, recipe = plan.experiment.spec.facts, plan.experiment.spec.recipe
    try:
        models.check(model, facts.shape, facts.classes)
    except ValueError as error:
        todo = f"Name a model of the family of {recipe.model}."
        raise BadInput(where="--to", expected=str(error), found=repr(model), todo=todo) from error
    target = models.build(model, facts.shape, facts.classes, models.drawn(recipe.init), init_seed=0)
    deeper = len(target.state_dict()) > len(ticket.weights)
    return (ticket.stretch if deeper else ticket.squeeze)(target, how, name=model)


def _no_ticket(spec: Spec, arm: Arm) -> BadInput:
    able = (
        not any(arm.options.model_copy(update={"retrain": True}).faults(spec)) and "retrain" not in arm.options.ignored
    )
    todo = "with search.retrain = true they are" if able else "tombola cash has the networks that it trains"
    return BadInput(
        where="method",
        expected="one that rewinds to early weights",
        found=spec.method,
        todo=f"Its masks are not trained alone from early weights: {todo}.",
    )


def trained_of(plan: Plan, store: Store, level: int, replicate: int) -> "tuple[nn.Module, Mask, Train]":
    """The network of a level and a replicate with its weights at the end of its training, its mask, and that training.

    Raises:
        BadInput: the experiment has no such level or replicate.
        StoreError: the training is not finished.
    """
    run = _training(plan, level, replicate)
    _need([run], plan, store, level, replicate)
    return *_trained(plan, store, run), run


def networks_of(
    plan: Plan, store: Store, levels: Sequence[int], replicates: Sequence[int]
) -> "list[tuple[nn.Module, Mask, Trained]]":
    """The trained networks of all these levels and replicates, as `trained_of` gives one.

    Raises:
        BadInput: the experiment has no such level or replicate, one is asked for twice, or replicates have inputs of
            their own.
        StoreError: a training is not finished.
    """
    spec = plan.experiment.spec
    if len({_inputs(spec, replicate) for replicate in replicates}) > 1:
        raise BadInput(
            where="--replicate",
            expected="one, as inputs are changed or standardised by each replicate's own seed",
            found=", ".join(map(str, replicates)),
            todo="Networks of several levels of one replicate have the same inputs.",
        )
    for where, numbers in (("--level", levels), ("--replicate", replicates)):
        twice = next((number for number in numbers if list(numbers).count(number) > 1), None)
        if twice is not None:
            raise BadInput(
                where=where,
                expected="each number once",
                found=f"{twice} twice",
                todo="A network that is twice in an ensemble costs twice and counts twice; leave one out.",
            )
    return [trained_of(plan, store, level, replicate) for level in levels for replicate in replicates]


def _inputs(spec: Spec, number: int) -> str:
    """The name of a replicate's inputs, its labels left aside."""
    seed = Replicate(spec, number).seed
    return variants.named(spec.recipe.data, spec.recipe.inputs or (), None, seed("inputs"), seed("split"))


def members_of(
    plan: Plan, store: Store, level: int, replicate: int, kind: str
) -> "list[tuple[nn.Module, Mask, Trained]]":
    """The trained networks that `[study.ensemble]` asks as one, as `trained_of` gives one.

    Args:
        kind: where they come from, as that table has it: `orders`, `levels`, `edst`, ...

    Raises:
        BadInput: the experiment does not ask this study, or not of this kind at this level and replicate.
        StoreError: a training is not finished.
    """
    asked = {
        (question.level, question.replicate, question.part): question.run
        for question in plan.questions
        if question.study == "ensemble" and isinstance(question.run, Measured)
    }
    found = asked.get((level, replicate, kind))
    if found is None:
        there = ", ".join(sorted({f"{part} at level {at} of replicate {of}" for at, of, part in asked}))
        raise BadInput(
            where="--ensemble",
            expected=there or "an experiment that asks [study.ensemble]",
            found=f"{kind} at level {level} of replicate {replicate}",
            todo="Levels, kinds and how many members are in [study.ensemble] of the spec; without --ensemble, --level "
            "and --replicate may be repeated.",
        )
    runs = cast("list[Trained]", [found.trained, *(run for _, run in found.further or ())])
    _need(runs, plan, store, level, replicate)
    return [(*_trained(plan, store, run), run) for run in runs]


def _training(plan: Plan, level: int, replicate: int) -> Train:
    """The training of the ticket, or at level 0 of the dense network."""
    return _row(plan, level, replicate).run


def _row(plan: Plan, level: int, replicate: int) -> Row:
    spec = plan.experiment.spec
    if len(spec.rewind) > 1:
        raise BadInput(
            where="rewind",
            expected="one step",
            found=", ".join(map(str, spec.rewind)),
            todo=f"--set rewind={spec.rewind[0]} picks one of them.",
        )
    if not 0 <= level <= spec.levels:
        raise BadInput(
            where="--level", expected=f"0 to {spec.levels}", found=str(level), todo="Level 0 is the dense network."
        )
    if not 0 <= replicate < spec.all_replicates:
        raise BadInput(
            where="--replicate",
            expected=f"0 to {spec.all_replicates - 1}",
            found=str(replicate),
            todo="Replicates count from 0.",
        )
    arm = "ticket" if level else "dense"
    return next(row for row in plan.rows if (row.arm, row.level, row.replicate) == (arm, level, replicate))


def _need(runs: Iterable[Run], plan: Plan, store: Store, level: int, replicate: int) -> None:
    for needed in runs:
        if not store.has(needed):
            raise StoreError(
                where=store.address,
                expected=f"the finished runs of level {level} and replicate {replicate}",
                found=f"no {needed.key}",
                todo=f"`tombola run {plan.experiment.asked_by}` makes them; give the same --set and --store here.",
            )


def _trained(plan: Plan, store: Store, run: "Trained") -> "tuple[nn.Module, Mask]":
    """The network with the weights that a run made, and what lives of it; without coordinates, and without noise.

    Of coordinates it has the weights made of them, of Gaussian weights the means.
    """
    from tombola import weights
    from tombola.bayes import Gaussian
    from tombola.models.in_basis import InBasis

    model, alive = _network(plan, store, run)
    weights.put(model, store.weights(run))
    if isinstance(model, InBasis):
        return model.carried_out(alive)
    return (model.means() if isinstance(model, Gaussian) else model), alive


def coordinates_of(plan: Plan, store: Store, run: "Trained") -> tuple[str, float] | None:
    """The basis that a network's coordinates are in, and which share of them lives; None of one in its own weights."""
    named = models.variants.variant(run.recipe.model)
    if named is None or not named.variant.dense:
        return None
    _, alive = _network(plan, store, run)
    return named.variant.name, alive.density


def _network(plan: Plan, store: Store, run: "Trained") -> "tuple[nn.Module, Mask]":
    """The network, whatever its weights, and what lives of it: at the end, where that is another mask."""
    from tombola import prunable

    facts, recipe = plan.experiment.spec.facts, run.recipe
    model = models.build(recipe.model, facts.shape, facts.classes, recipe.init, init_seed=0)
    living = store.living(run)
    return model, prunable.full(model) if living is None else living
