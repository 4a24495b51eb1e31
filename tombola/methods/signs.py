"""Methods about signs: found by learning-rate rewinding and handed to other weights, or left free to flip."""

from collections.abc import Iterator
from typing import Annotated

from pydantic import AfterValidator, Field

from tombola.dynamics import Aws, SignIn
from tombola.mark import Mark
from tombola.method import Method, SearchOptions
from tombola.methods import at_initialisation
from tombola.recipe import Recipe, with_dynamics
from tombola.replicate import MethodReplicate, T
from tombola.signs import with_signs_of
from tombola.steps import Step
from tombola.value import Number, StepField


class WinningSignOptions(SearchOptions):
    """What `winning-sign` lets one choose.

    Attributes:
        aws: whether normalisations are softened while signs are searched for; False for plain learning-rate rewinding.
    """

    aws: bool = True


def _at_initialisation(name: str) -> str:
    if name not in at_initialisation.METHODS:
        raise ValueError(f"Input should be one of {', '.join(at_initialisation.METHODS)}")
    return name


class SignInOptions(at_initialisation.ScoringOptions):
    """What `sign-in` lets one choose.

    Attributes:
        masks: the method at initialisation whose masks are trained.
        beta, every: as `dynamics.SignIn` has them.
    """

    masks: Annotated[str, AfterValidator(_at_initialisation)] = "random-erk"
    beta: Number = Field(default=1.0, gt=0)
    every: StepField = Step("1ep")


def aws(replicate: MethodReplicate[T], levels: int) -> Iterator[T]:
    """Learning-rate rewinding, from the first training on with normalisations softened at random.

    Where a network has none it is learning-rate rewinding itself.
    """
    yield replicate.train(replicate.rewind_point())
    yield from _kept(replicate, levels, _softened(replicate.recipe))


def winning_sign(replicate: MethodReplicate[T], levels: int) -> Iterator[T]:
    """Train newly drawn weights with the signs, and under the mask, that `aws` has found from one's own ones.

    They are drawn as those of the control `reinit` are, which has the same mask: the signs alone make the difference.
    """
    recipe = _softened(replicate.recipe) if replicate.options.aws else replicate.recipe
    drawn = replicate.rewind_point(init="reinit 0")
    yield replicate.train(replicate.rewind_point())
    for level, found in enumerate(_kept(replicate, levels, recipe), start=1):
        start = replicate.derived_weights(with_signs_of, drawn, f"winning sign {level}", beside=(found,))
        yield replicate.train(start, mask=found.mask)


def sign_in(replicate: MethodReplicate[T], levels: int) -> Iterator[T]:
    """Masks found at initialisation, and weights that are products of two factors while they are trained."""
    options = replicate.options
    recipe = with_dynamics(replicate.recipe, SignIn(beta=options.beta, every=options.every))
    dense, *tickets = at_initialisation.METHODS[options.masks].search(replicate, levels)
    yield dense
    for ticket in tickets:
        yield replicate.train(ticket.start, mask=ticket.mask, recipe=recipe)


def _kept(replicate: MethodReplicate[T], levels: int, recipe: Recipe) -> Iterator[T]:
    """The levels but the first one of learning-rate rewinding, all trained by `recipe`."""
    trained = replicate.train(replicate.rewind_point(), recipe=recipe)
    for _ in range(levels):
        trained = replicate.train(trained, mask=replicate.prune(trained, trained.mask), recipe=recipe)
        yield trained


def _softened(recipe: Recipe) -> Recipe:
    """The recipe with AWS; as it is where the model has no normalisations that could be softened."""
    return recipe if Aws().refuses(recipe.model) else with_dynamics(recipe, Aws())


_WINNING_SIGN = "[Find a Winning Sign](https://arxiv.org/abs/2504.05357)"

METHODS: dict[str, Method] = {
    "aws": Method(
        name="aws",
        search=aws,
        about="Keep the weights, rewind the learning rate, soften normalisations at random",
        paper=_WINNING_SIGN,
        year=2025,
        rewinds=False,
        of_weights=True,
        mark=Mark("#888888", (4, 1, 1, 1), "triangle-up"),
    ),
    "winning-sign": Method(
        name="winning-sign",
        search=winning_sign,
        about="Newly drawn weights with the signs and masks that aws has found",
        paper=_WINNING_SIGN,
        year=2025,
        rewinds=False,
        of_weights=True,
        options=WinningSignOptions,
        mark=Mark("#882255", (4, 1, 1, 1), "diamond"),
    ),
    "sign-in": Method(
        name="sign-in",
        search=sign_in,
        about="A mask at initialisation, trained as products of two factors, balanced again and again",
        paper="[Sign-In to the Lottery](https://arxiv.org/abs/2504.12801)",
        year=2025,
        rewinds=False,
        of_weights=True,
        options=SignInOptions,
        mark=Mark("#332288", (4, 1, 1, 1), "triangle-down"),
    ),
}
