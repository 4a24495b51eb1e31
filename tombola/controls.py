"""Controls: each is its ticket with one field replaced. What a difference from the ticket shows is said beside it.

To add one: write a function like `reinit`, and declare it in `CONTROLS`. The lab makes runs with it, `Search.verify`
masks and weights: which of the two is the replicate's business.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, Protocol

from tombola.code import defined_at
from tombola.errors import BadInput
from tombola.mark import Mark
from tombola.replicate import Draws, T
from tombola.signs import flipped_10, flipped_30, trained_values, with_magnitudes_of, with_signs_of


class Make(Protocol):
    """What makes a control of a ticket: at a level, for one of several draws, which count from 0."""

    def __call__(self, replicate: Draws, ticket: T, level: int, draw: int, /) -> T: ...


@dataclass(frozen=True)
class Control:
    """A control.

    Attributes:
        name: by which the `arms` of a spec and the `controls` of `Search.verify` name it.
        make: what makes it.
        claim: what a ticket that is better than it shows, as a clause: `the initialisation matters`.
        what: its networks in a sentence: `a random mask with the same layer-wise counts`.
        about: what it is, in one sentence.
        paper, year: where it comes from.
        draws: the field of a spec that says how many draws of it there are where its `draws` does not; empty for one.
        of_trained: whether it asks something of trained weights, too, as the tickets of a method have them that never
            goes back to early ones.
        changes: the field of its ticket that it replaces; empty where that is not said, and any one of the two.
        mark: how it looks in figures; None for any that is free.
        code: the SHA-256 of the extension that it comes from; None for ours.
    """

    name: str
    make: Make
    claim: str
    what: str
    about: str
    paper: str = ""
    year: int | None = None
    draws: str = ""
    changes: Literal["start", "mask", ""] = ""
    of_trained: bool = False
    mark: Mark | None = None
    code: str | None = None

    def training(self, replicate: Draws, ticket: T, level: int, draw: int) -> T:
        """The control of a ticket, which differs from it in what it declares, and in nothing else.

        Raises:
            BadInput: it does not.
        """
        made = self.make(replicate, ticket, level, draw)
        if type(made) is not type(ticket):
            raise _bad_control(self, f"a {type(made).__name__}")
        changed = {field.name for field in fields(ticket) if field.init and _other(ticket, made, field.name)}
        if changed not in ([{self.changes}] if self.changes else [{"start"}, {"mask"}]):
            raise _bad_control(self, f"one that differs in {_listed(changed)}")
        lacking = [name for name in changed if getattr(made, name) is None]
        if lacking:
            raise _bad_control(self, f"one whose {_listed(lacking)} is None")
        return made


def _other(ticket: Any, made: Any, name: str) -> bool:
    """Whether a field is another one. Runs are compared; of masks and weights each is one by itself."""
    # A mask in which all is alive is the same when it is shuffled, and that is no fault of the control.
    one, other = getattr(ticket, name), getattr(made, name)
    return one is not other and (isinstance(one, Mapping) or bool(one != other))


def _bad_control(control: Control, found: str) -> BadInput:
    place = defined_at(control.make)
    return BadInput(
        where=f"{place}, control {control.name}" if place else f"control {control.name}",
        expected=f"a training that differs from its ticket in its {control.changes or 'start or its mask'} alone",
        found=found,
        todo="Let it return replace(ticket, mask=...) or replace(ticket, start=...), and declare that as `changes`.",
    )


def _listed(names: Iterable[str]) -> str:
    return ", ".join(sorted(names)) or "nothing"


def reinit(replicate: Draws, ticket: T, level: int, draw: int) -> T:
    """The ticket's mask on weights drawn anew, theta_0' ~ D_theta; for k > 0 they too are trained for k steps first."""
    return replace(ticket, start=replicate.rewind_point(init=f"reinit {draw}"))


def random(replicate: Draws, ticket: T, level: int, draw: int) -> T:
    """The ticket's weights under a random mask with the same layer-wise counts; the masks of the levels nest."""
    return replace(ticket, mask=replicate.random_mask(ticket.mask, f"random mask {draw}"))


def shuffle(replicate: Draws, ticket: T, level: int, draw: int) -> T:
    """The ticket's weights under the ticket's mask with its entries permuted inside each layer."""
    name = f"shuffled mask {level}" + (f" {draw}" if draw else "")  # as long as there was one draw, it had no number
    return replace(ticket, mask=replicate.shuffled_mask(ticket.mask, name))


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

CONTROLS: dict[str, Control] = {
    "reinit": Control(
        name="reinit",
        make=reinit,
        claim="the initialisation matters",
        what="the same mask on newly drawn weights (reinit)",
        about="The ticket's mask on re-initialised weights",
        paper="[The Lottery Ticket Hypothesis](https://arxiv.org/abs/1803.03635)",
        year=2019,
        draws="reinits",
        changes="start",
        of_trained=True,
        mark=Mark("#d55e00", (6, 3), "square"),
    ),
    "random": Control(
        name="random",
        make=random,
        claim="it matters which weights are kept",
        what="a random mask with the same layer-wise counts",
        about="A random mask with the same layer-wise counts",
        paper="[The Lottery Ticket Hypothesis](https://arxiv.org/abs/1803.03635), App. E",
        year=2019,
        draws="randoms",
        changes="mask",
        mark=Mark("#009e73", (2, 2), "triangle-up"),
    ),
    "shuffle": Control(
        name="shuffle",
        make=shuffle,
        claim="it matters where in a layer the weights are kept",
        what="the same mask shuffled inside each layer",
        about="The ticket's mask shuffled inside each layer",
        paper="[Sanity-Checking Pruning Methods](https://arxiv.org/abs/2009.11094)",
        year=2020,
        changes="mask",
        mark=Mark("#cc79a7", (8, 2, 2, 2), "diamond"),
    ),
    "sign": Control(
        name="sign",
        make=sign,
        claim="the trained signs are not all that matters",
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
        what="the same ticket with three tenths of its first weights' signs flipped at random",
        about="The ticket with the signs of three tenths of its first weights flipped at random",
        paper=_MASKS_AND_SIGNS,
        year=2024,
        changes="start",
        of_trained=True,
        mark=Mark("#6699cc", (9, 1, 1, 1), "triangle-down"),
    ),
}
