"""In which coordinates a ticket is sparse: the bases that a spec may name, and the model that stands for each."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from tombola import models
from tombola.errors import Fault
from tombola.models import variants
from tombola.models.variant import Named
from tombola.models.variants import VARIANTS
from tombola.pruning import Round


@dataclass(frozen=True)
class BasisChoice:
    """What a mask is on.

    Attributes:
        name: by which a spec names it.
        about: what it is, in one sentence.
        variant: of the model, whose parameters are the coordinates; "" where they are the weights.
        scope: in which whole groups go, in the place of the spec's own scope; "" where single ones do.
    """

    name: str
    about: str
    variant: str = ""
    scope: str = ""


BASES: dict[str, BasisChoice] = {
    each.name: each
    for each in (
        BasisChoice("identity", "The weights themselves, as in all other papers"),
        *(BasisChoice(name, VARIANTS[name].about, variant=name) for name in ("dct", "dct-pixels", "orthogonal", "svd")),
        BasisChoice("units", "The weights, those that come into a unit or a filter together", scope="units"),
        BasisChoice("blocks", "The weights, those of each 4 x 4 block together", scope="blocks"),
    )
}


def known(name: str) -> str:
    """The name itself, if it is one of a basis.

    Raises:
        ValueError: there is no such basis; says which there are.
    """
    if name not in BASES:
        raise ValueError(f"one of {', '.join(BASES)}")
    return name


def chosen(name: str) -> str | None:
    """The name as runs and specs have it: None for the identity, which is what there was before there were others.

    Raises:
        ValueError: there is no such basis; says which there are.

    >>> chosen("dct"), chosen("identity")
    ('dct', None)
    """
    return None if known(name) == "identity" else name


def model_in(basis: str | None, model: str, seed: int, init: str, init_seed: int) -> str:
    """The name of a model whose parameters are the coordinates of its weights in a basis.

    Args:
        basis: by its name; None for the identity.
        model: without a basis.
        seed: of a basis that is drawn.
        init, init_seed: how theta_0 is drawn, for a basis that is made of it.

    >>> model_in("dct", "lenet-300-100", 7, "glorot-normal", 3), model_in(None, "lenet-300-100", 7, "glorot-normal", 3)
    ('lenet-300-100+dct', 'lenet-300-100')
    """
    variant = basis and BASES[basis].variant
    if not variant:
        return model
    named = Named(VARIANTS[variant], seed)
    if named.variant.of_init:
        named = replace(named, seed=init_seed, init=init)
    return f"{model}{variants.MARK}{named.name}"


def faults(basis: str, spec: Any) -> Iterator[Fault]:
    """Why there is no such basis of the networks of a spec, each with the path `basis`."""
    recipe, facts = spec.recipe, spec.facts
    if BASES[basis].variant and variants.parts(recipe.model)[1]:
        made = "Gaussian weights" if models.is_gaussian(recipe.model) else "a model of coordinates"
        yield Fault("basis", f"none beside {made}", repr(basis), f"recipe.model is {recipe.model}")
        return
    try:
        models.check(model_in(basis, recipe.model, 0, models.drawn(recipe.init), 0), facts.shape, facts.classes)
    except ValueError as error:
        yield Fault("basis", f"another basis, or {error}", repr(basis), f"for {recipe.model} on {facts.name}")
    if BASES[basis].variant and recipe.init == "pretrained":
        yield Fault("basis", "identity, for the weights of a checkpoint", repr(basis), "or draw the weights")
    if BASES[basis].variant and recipe.objective and (path := recipe.objective.teacher_file):
        todo = "objective.teacher = 'dense' trains one in the same basis"
        yield Fault("basis", "identity, for a teacher's file, whose weights are in none", path, todo)
    if BASES[basis].variant and recipe.dynamics:
        todo = "leave one of the two out: they move masks, or make weights, of a network in its own weights"
        yield Fault("basis", f"identity beside the dynamics {recipe.dynamics.name}", repr(basis), todo)
    if BASES[basis].scope and spec.densities:
        todo = "levels and rates say how many groups stay: a density may lie between two of them"
        yield Fault("basis", "single coordinates where there are densities", repr(basis), todo)


def classes_among_units(prune: Any) -> Iterator[Fault]:
    """What is wrong with a spec's `prune` whose groups are units: that the classes, which are units too, would go."""
    kept = Round(keep=prune.keep).kept({"output.weight": "output"}) or dict(prune.rates)["output"] == 0
    if prune.basis is None and not kept:
        todo = 'prune.keep = ["output"]: the units of the last layer are the classes'
        yield Fault("prune.keep", "the output kept where units go", str(list(prune.keep)), todo)
