"""What a spec may name: the methods, controls, scores, objectives, dynamics and studies that there are."""

from collections.abc import Iterable
from dataclasses import dataclass, fields
from functools import reduce
from typing import Any, Protocol

from tombola.code import code_of
from tombola.control import Control
from tombola.controls import CONTROLS
from tombola.dynamics import DYNAMICS, Dynamics
from tombola.errors import BadInput
from tombola.lab.studies import STUDIES, Study
from tombola.mark import Mark, marks
from tombola.method import Method, SearchOptions
from tombola.methods import METHODS
from tombola.objective import OBJECTIVES, Objective
from tombola.score import Score
from tombola.scores import SCORES


@dataclass(frozen=True)
class Arm:
    """What is compared inside of a replicate: a method with what is chosen of it, or a control of its tickets.

    Attributes:
        name: by which the spec's `arms` name it.
        options: a value of the method's `options`.
        control: None for the tickets themselves.
    """

    name: str
    method: Method
    options: SearchOptions
    control: Control | None = None

    @property
    def rewinds(self) -> bool:
        """Whether its levels go back to early weights."""
        return self.method.rewinds or self.options.apart


@dataclass(frozen=True)
class Members:
    """The tables that a spec is read with: name -> member, kind by kind."""

    methods: dict[str, Method]
    controls: dict[str, Control]
    scores: dict[str, Score]
    objectives: dict[str, type[Objective]]
    dynamics: dict[str, type[Dynamics]]
    studies: dict[str, Study]

    @property
    def tables(self) -> dict[str, dict[str, Any]]:
        """Kind -> name -> member."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    def marks(self, spec: Any) -> dict[str, Mark]:
        """How each arm of a spec looks in figures, and each control, which studies draw too."""
        known = {name: member.mark for table in (self.controls, self.methods) for name, member in table.items()}
        arms = {name: None if name in spec.arm else known[name] for name in spec.arms if name != "ticket"}
        of_arms: dict[str, Mark | None] = dict(marks(arms))  # first, so that colours last for them
        return marks(of_arms | {name: control.mark for name, control in self.controls.items() if name not in arms})

    def arm(self, name: str, spec: Any) -> "Arm":
        """The arm of a spec that has this name: one that it declares, the ticket, a control of the ticket, a method."""
        if name in spec.arm:
            own = spec.arm[name]
            control = self.controls[own.control] if own.control else None
            return Arm(name, self.methods[own.method], own.search, control)
        if name in self.methods:
            method = self.methods[name]
            return Arm(name, method, method.options())
        control, method = self.controls.get(name), self.methods[spec.method]
        options = spec.search if spec.search.model_fields_set else method.options()
        return Arm(name, method, options, control)

    def draws(self, arm: str, spec: Any) -> int:
        """How many trainings of an arm there are at each level of a replicate: the draws of a control, else 1."""
        control = self.arm(arm, spec).control
        draws: dict[str, int] = spec.draws
        return draws.get(arm, getattr(spec, control.draws) if control and control.draws else 1)

    def with_(self, extension: "Adding") -> "Members":
        """These and those of an extension.

        Raises:
            BadInput: two have one name; an arm is a method or a control, which share theirs.
        """
        tables = self.tables
        for kind, table in extension.members.tables.items():
            for name, member in table.items():
                kinds = ("methods", "controls") if kind in ("methods", "controls") else (kind,)
                for other in (tables[each][name] for each in kinds if name in tables[each]):
                    raise _taken(extension.where(kind, name), name, other)
                tables[kind] = tables[kind] | {name: member}
        return Members(**tables)


class Adding(Protocol):
    """An extension, as `lab.extension` loads it."""

    @property
    def members(self) -> Members: ...
    def where(self, kind: str, name: str) -> str: ...


def _taken(where: str, name: str, member: Any) -> BadInput:
    code = code_of(member) if isinstance(member, type) else member.code
    whose = "another extension's" if code else "Tombola's own"
    return BadInput(where=where, expected="a name that is free", found=f"{name!r}, {whose}", todo="Rename it.")


BUILT_IN = Members(METHODS, CONTROLS, SCORES, OBJECTIVES, DYNAMICS, STUDIES)


def extended(extensions: Iterable[Adding]) -> Members:
    """The built-in members and those of extensions.

    Raises:
        BadInput: two have one name.
    """
    return reduce(Members.with_, extensions, BUILT_IN)
