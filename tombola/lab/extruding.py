"""The runs of an extrusion and of its controls: what draws a network out of weights, and what costs as much instead."""

from dataclasses import replace

from tombola.errors import BadInput
from tombola.extrusion import KEPT, Extrusion
from tombola.lab.kinds import Cut, Prune, Train
from tombola.lab.runs import Run
from tombola.macs import examples, steps


def extruding(trained: Train, mask: Run) -> Train:
    """A training, begun at its own first step and with an optimizer of its own, that is told which weights stay."""
    length = trained.recipe.length.iterations(1)  # the recipe of an extrusion counts in iterations
    alone = replace(trained, begin=0, until=length, optimizer_state="fresh")
    return replace(alone, further=((KEPT, mask),))


def extrusions(ticket: Train) -> list[Train]:
    """The trainings by which a ticket's weights were transformed, the first first.

    Raises:
        BadInput: none were.
    """
    found = list[Train]()
    run = ticket.start.trained if isinstance(ticket.start, Cut) else None
    while isinstance(run, Train) and isinstance(run.recipe.objective, Extrusion):
        found.append(run)
        run = run.start
    if not found:
        raise BadInput(
            where="extrusion",
            expected="a ticket of dual or dual-iterative",
            found=f"{ticket.key}, whose weights were not transformed",
            todo="Leave the control out of `arms`, or take method = 'dual'.",
        )
    return found[::-1]


def as_long(ticket: Train, train: int) -> int:
    """The step at which a ticket's training has seen its extrusions' examples too, where an epoch is `train`."""
    extruded = sum(examples(each.begin, each.until, train, each.recipe.batch) for each in extrusions(ticket))
    batch = ticket.recipe.batch
    return steps(examples(0, ticket.until, train, batch) + extruded, train, batch)


def unpenalised(ticket: Train) -> Train:
    """The dense network, trained as the ticket's extrusions train it, by cross-entropy alone."""
    first, *others = extrusions(ticket)
    made = _plain(first, first.start)
    for each in others:
        made = _plain(each, made)
    return made


def _plain(extrusion: Train, start: Run) -> Train:
    recipe = extrusion.recipe.model_copy(update={"objective": None})
    return replace(extrusion, start=start, recipe=recipe, further=None)


def largest(ticket: Train) -> Prune:
    """The largest weights of `unpenalised`, in each layer as many as a ticket keeps that pruning has drawn."""
    trained, mask = unpenalised(ticket), ticket.mask
    assert isinstance(mask, Prune)  # which the methods that extrude give their tickets
    return replace(mask, trained=trained, mask=None, score="magnitude")
