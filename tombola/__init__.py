"""Tombola finds winning lottery tickets, proves them, shows why, and cashes them in.

The public names are those of `__all__`, and the modules they come from. They are imported when they are first used:
torch takes two seconds, which `tombola --help` should not.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tombola.cash.shrinking import shrink
    from tombola.errors import BadInput, TombolaError
    from tombola.evaluate import Evaluation
    from tombola.guard import Guard
    from tombola.mask import Mask
    from tombola.recipe import Recipe
    from tombola.search import Search
    from tombola.search.at_initialisation import prune_at_init
    from tombola.steps import Step
    from tombola.study.components import components
    from tombola.ticket import Ticket

__version__ = "0.1.0"

__all__ = [
    "Step",
    "Mask",
    "Ticket",
    "Recipe",
    "Guard",
    "Evaluation",
    "Search",
    "prune_at_init",
    "shrink",
    "components",
    "TombolaError",
    "BadInput",
]

_HOMES = {
    "Step": "steps",
    "Mask": "mask",
    "Ticket": "ticket",
    "Recipe": "recipe",
    "Guard": "guard",
    "Evaluation": "evaluate",
    "Search": "search",
    "prune_at_init": "search.at_initialisation",
    "shrink": "cash.shrinking",
    "components": "study.components",
    "TombolaError": "errors",
    "BadInput": "errors",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'tombola' has no attribute {name!r}")
    return getattr(import_module(f"tombola.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
