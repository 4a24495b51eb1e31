"""The ways to a ticket that an experiment compares, each with its family: the controls of its own tickets."""

from dataclasses import replace

from tombola.controls import Control
from tombola.lab.members import Arm, Members
from tombola.lab.spec import Spec


def families(spec: Spec, members: Members) -> dict[str, dict[str, Control]]:
    """By arm, the controls of its tickets, by the names of theirs; an arm that is a control itself is no way.

    A control belongs to the first way with the same method and the same choices of it.
    """
    arms = [members.arm(name, spec) for name in spec.arms]
    found: dict[str, dict[str, Control]] = {arm.name: {} for arm in arms if arm.control is None}
    named = {arm.name: arm for arm in arms}
    for arm in arms:
        if arm.control and (way := next((name for name in found if _alike(arm, named[name])), None)):
            found[way][arm.name] = replace(arm.control, name=arm.name)
    return found


def _alike(control: Arm, way: Arm) -> bool:
    """Whether a control is one of the tickets of a way."""
    return control.method == way.method and control.options.model_dump() == way.options.model_dump()
