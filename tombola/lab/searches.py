"""What a method finds in one replicate: its trainings, level by level."""

from collections.abc import Iterable
from typing import Any, Protocol

from tombola.code import defined_at
from tombola.errors import BadInput, shown
from tombola.lab.kinds import Train
from tombola.lab.members import Arm
from tombola.method import Method, retrained
from tombola.objective import TEACHER
from tombola.replicate import MethodReplicate


class Searching(MethodReplicate[Train], Protocol):
    """A replicate whose method is asked, as `lab.replicate.Replicate` is one."""

    @property
    def rounds(self) -> list[int]:
        """How many rounds of pruning each level has behind it, level 0 first."""

    @property
    def searching(self) -> "Searching":
        """The same where its method searches with another recipe than the one that tickets are trained with."""

    def of_model(self, model: str) -> "Searching":
        """The same with another network."""


def trainings(arm: Arm, replicate: Searching) -> list[Train]:
    """What an arm's method makes, level by level, trained in full where it searches with another recipe.

    Args:
        arm: whose choices `replicate` has.

    Raises:
        BadInput: it makes no list of trainings.
    """
    made = _searched(arm.method, replicate.searching if arm.options.apart else replicate)
    # A mask on coordinates is of no other network than the one that was searched.
    found = list(retrained(replicate.of_model(made[0].recipe.model), iter(made))) if arm.options.apart else made
    return [found[rounds] for rounds in replicate.rounds if rounds < len(found)]


def _searched(method: Method, replicate: Searching) -> list[Train]:
    """What a method makes, round by round.

    Raises:
        BadInput: it is no list of trainings.
    """
    made: Any = method.search(replicate, replicate.rounds[-1])
    trainings = list(made) if isinstance(made, Iterable) else [made]
    for each in trainings:
        if not isinstance(each, Train):
            raise _no_training(method, "returns" if made is each else "yields", each)
        if (objective := each.recipe.objective) and objective.taught and TEACHER not in dict(each.further or ()):
            raise _untaught(method, objective.name)
    return trainings


def _untaught(method: Method, objective: str) -> BadInput:
    return BadInput(
        where=f"method {method.name}",
        expected="trainings that a teacher can be handed to",
        found=f"the objective {objective}, beside what the method itself hands to its trainings",
        todo="Take another objective, or another method; the control `distilled` teaches tickets of any.",
    )


def _no_training(method: Method, does: str, made: object) -> BadInput:
    place = defined_at(method.search)
    return BadInput(
        where=f"{place}, method {method.name}" if place else f"method {method.name}",
        expected="a training for each level",
        found=f"one that {does} {shown(repr(made))}",
        todo="Yield what replicate.train(...) gives.",
    )
