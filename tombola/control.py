"""What a control is: its ticket with one field replaced, and what a difference from the ticket shows.

The ones there are stand in `controls`.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal, Protocol

from tombola.code import defined_at
from tombola.errors import BadInput
from tombola.mark import Mark
from tombola.method import SearchOptions
from tombola.replicate import Draws, T


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
        otherwise: what a ticket that is as good as it shows, and no better, as a clause: `the mask is as good on other
            weights`; empty for nothing in particular.
        about: what it is, in one sentence.
        paper, year: where it comes from.
        draws: the field of a spec that says how many draws of it there are where its `draws` does not; empty for one.
        of_trained: whether it asks something of trained weights, too, as the tickets of a method have them that never
            goes back to early ones.
        changes: the field of its ticket that it replaces, or all of these fields; empty where that is not said, and
            either its start or its mask.
        data: variants of the data set, as `data.variants` names them, on which its masks are searched for, one for each
            draw; empty for one that searches for none.
        of_classes: whether it asks something of classes, which data with other answers have not.
        refuses: given a spec and what is chosen of a method, why it can be asked of none of that method's tickets, in
            words, and "" where it can; None for one that can be asked of any.
        descends: whether its training makes an objective of its own small, in the place of the recipe's.
        by_weight: whether its masks are made weight by weight, which whole channels are not.
        of_numbers: whether it holds weights at values, which Gaussian ones, drawn anew each time, have not.
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
    changes: Literal[
        "start",
        "mask",
        "recipe",
        "start and mask",
        "start and recipe",
        "recipe and further",
        "start and recipe and further",
        "start and recipe and until",
        "",
    ] = ""
    of_trained: bool = False
    data: tuple[str, ...] = ()
    of_classes: bool = False
    refuses: Callable[[Any, SearchOptions], str] | None = None
    descends: bool = False
    of_numbers: bool = False
    by_weight: bool = False
    mark: Mark | None = None
    code: str | None = None
    otherwise: str = ""

    def training(self, replicate: Draws, ticket: T, level: int, draw: int) -> T:
        """The control of a ticket, which differs from it in what it declares, and in nothing else.

        Raises:
            BadInput: it does not.
        """
        made = self.make(replicate.of(ticket), ticket, level, draw)
        if type(made) is not type(ticket):
            raise _bad_control(self, f"a {type(made).__name__}")
        changed = {field.name for field in fields(ticket) if field.init and _other(ticket, made, field.name)}
        if changed not in ([set(self.changes.split(" and "))] if self.changes else [{"start"}, {"mask"}]):
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
