"""Signs and magnitudes of the trained ticket, one of the two drawn anew; and signs of the early weights that flip."""

from dataclasses import replace

from tombola.control import Control
from tombola.mark import Mark
from tombola.replicate import Draws, T
from tombola.signs import flipped_10, flipped_30, trained_values, with_magnitudes_of, with_signs_of


def sign(replicate: Draws, ticket: T, level: int, draw: int) -> T:
    """The ticket's mask on the weights of `reinit`, with the signs of the trained ticket."""
    drawn, name = replicate.rewind_point(init=f"reinit {draw}"), f"sign {draw}"
    return replace(ticket, start=replicate.derived_weights(with_signs_of, drawn, name, beside=(ticket,)))


def magnitude(replicate: Draws, ticket: T, level: int, draw: int) -> T:
    """The ticket's mask on the magnitudes of the trained ticket, with the signs of `reinit`."""
    drawn, name = replicate.rewind_point(init=f"reinit {draw}"), f"magnitude {draw}"
    return replace(ticket, start=replicate.derived_weights(with_magnitudes_of, drawn, name, beside=(ticket,)))


def trained(replicate: Draws, ticket: T, level: int, draw: int) -> T:
    """The ticket's mask on all that the trained ticket holds, which is trained once more."""
    return replace(ticket, start=replicate.derived_weights(trained_values, ticket.start, "trained", beside=(ticket,)))


def flipped_tenth(replicate: Draws, ticket: T, level: int, draw: int) -> T:
    """The ticket with the signs of a tenth of its early weights flipped, those of `flipped-30` among others."""
    start, name = ticket.start, f"flipped {draw}"
    return replace(ticket, start=replicate.derived_weights(flipped_10, start, name, beside=(ticket.mask,)))


def flipped_three_tenths(replicate: Draws, ticket: T, level: int, draw: int) -> T:
    """The ticket with the signs of three tenths of its early weights flipped."""
    start, name = ticket.start, f"flipped {draw}"
    return replace(ticket, start=replicate.derived_weights(flipped_30, start, name, beside=(ticket.mask,)))


_WINNING_SIGN = "[Find a Winning Sign](https://arxiv.org/abs/2504.05357)"
_SIGN_IN = "[Sign-In to the Lottery](https://arxiv.org/abs/2504.12801)"
_MASKS_AND_SIGNS = "[Masks, Signs, And Learning Rate Rewinding](https://arxiv.org/abs/2402.19262)"

CONTROLS = {
    "sign": Control(
        name="sign",
        make=sign,
        claim="the trained signs are not all that matters",
        otherwise="the trained signs are enough",
        what="the same mask on newly drawn weights with the signs of the trained ticket (sign)",
        about="The ticket's mask on newly drawn weights with the trained ticket's signs",
        paper=f"{_WINNING_SIGN}; {_SIGN_IN}",
        year=2025,
        changes="start",
        of_trained=True,
        mark=Mark("#332288", (6, 1, 1, 1), "cross"),
    ),
    "magnitude": Control(
        name="magnitude",
        make=magnitude,
        claim="the trained magnitudes are not all that matters",
        otherwise="the trained magnitudes are enough",
        what="the same mask on the trained ticket's magnitudes with newly drawn signs (magnitude)",
        about="The ticket's mask on the trained ticket's magnitudes with newly drawn signs",
        paper=_SIGN_IN,
        year=2025,
        changes="start",
        of_trained=True,
        mark=Mark("#882255", (6, 1, 1, 1), "square"),
    ),
    "trained": Control(
        name="trained",
        make=trained,
        claim="trained weights are the worse ones to begin with",
        otherwise="trained weights are as good to begin with",
        what="the trained ticket, trained once more (trained)",
        about="The trained ticket itself, trained once more: its mask, signs and magnitudes",
        paper=f"{_WINNING_SIGN}; {_SIGN_IN}",
        year=2025,
        changes="start",
        of_trained=True,
        mark=Mark("#999933", (6, 1, 1, 1), "triangle-up"),
    ),
    "flipped-10": Control(
        name="flipped-10",
        make=flipped_tenth,
        claim="the signs of a tenth of the weights to begin with matter",
        otherwise="the signs of a tenth of the weights to begin with do not matter",
        what="the same ticket with a tenth of its first weights' signs flipped at random",
        about="The ticket with the signs of a tenth of its first weights flipped at random",
        paper=_MASKS_AND_SIGNS,
        year=2024,
        changes="start",
        of_trained=True,
        mark=Mark("#117733", (9, 1, 1, 1), "diamond"),
    ),
    "flipped-30": Control(
        name="flipped-30",
        make=flipped_three_tenths,
        claim="the signs of three tenths of the weights to begin with matter",
        otherwise="the signs of three tenths of the weights to begin with do not matter",
        what="the same ticket with three tenths of its first weights' signs flipped at random",
        about="The ticket with the signs of three tenths of its first weights flipped at random",
        paper=_MASKS_AND_SIGNS,
        year=2024,
        changes="start",
        of_trained=True,
        mark=Mark("#6699cc", (9, 1, 1, 1), "triangle-down"),
    ),
}
