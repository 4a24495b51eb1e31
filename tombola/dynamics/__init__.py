"""How mask and weights move while a network trains: the table of what a recipe may name as its `dynamics`."""

from collections.abc import Mapping
from typing import Any

from pydantic_core import PydanticCustomError

from tombola.dynamics.aws import Aws
from tombola.dynamics.base import Course, Dynamics, Setting, Timeline
from tombola.dynamics.frozen import Frozen
from tombola.dynamics.gradual import Gradual
from tombola.dynamics.rewiring import SET, Escape, RigL
from tombola.dynamics.sign_in import SignIn
from tombola.dynamics.supermasks import EdgePopup, GemMiner, SignedSupermask, Supermask

__all__ = ["DYNAMICS", "Aws", "Course", "Dynamics", "Frozen", "Setting", "SignIn", "Timeline", "dynamics_of"]

DYNAMICS: dict[str, type[Dynamics]] = {
    "gradual": Gradual,
    "edge-popup": EdgePopup,
    "supermask": Supermask,
    "signed-supermask": SignedSupermask,
    "gem-miner": GemMiner,
    "set": SET,
    "rigl": RigL,
    "escape": Escape,
    "aws": Aws,
    "sign-in": SignIn,
    "frozen": Frozen,
}


def dynamics_of(table: Any, known: Mapping[str, type[Dynamics]] = DYNAMICS) -> Dynamics | None:
    """The dynamics that a recipe's `table` means, by its `name`; None for none.

    Args:
        table: as it was written, or dynamics.
        known: by name, those that there are.

    Raises:
        ValidationError: there are no such dynamics, or they have no such parameters.
    """
    if table is None or isinstance(table, Dynamics):
        return table
    if not isinstance(table, Mapping):
        raise PydanticCustomError("model_type", "Input should be a table")
    if table.get("name") not in known:
        raise PydanticCustomError(
            "union_tag_invalid",
            "Input should be one of {expected_tags}",
            {"expected_tags": ", ".join(map(repr, known))},
        )
    return known[table["name"]].model_validate(table)
