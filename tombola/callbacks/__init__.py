"""A search in loops of other libraries: each of their trainings is one level."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tombola.search import saved


def levels_left(options: Mapping[str, Any]) -> int:
    """How many trainings a search with these options needs, of which its file may hold some already."""
    path = options.get("path")
    return saved.left(Path(path)) if path and Path(path).exists() else int(options["levels"]) + 1
