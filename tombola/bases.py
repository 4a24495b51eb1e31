"""In which coordinates a ticket is sparse: the bases that a spec may name, and the model that stands for each."""

from dataclasses import dataclass, replace

from tombola.models import variants
from tombola.models.variant import Named
from tombola.models.variants import VARIANTS


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
        *(BasisChoice(name, VARIANTS[name].about, variant=name) for name in ("dct",)),
    )
}


def chosen(name: str) -> str | None:
    """The name as runs and specs have it: None for the identity, which is what there was before there were others.

    Raises:
        ValueError: there is no such basis; says which there are.

    >>> chosen("dct"), chosen("identity")
    ('dct', None)
    """
    if name not in BASES:
        raise ValueError(f"one of {', '.join(BASES)}")
    return None if name == "identity" else name


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
