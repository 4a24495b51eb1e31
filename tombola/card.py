"""The page of a ticket's repository on the Hugging Face hub, which the hub calls its card."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from tombola import elastic
from tombola.mask import Mask

_KNOWN = ("model", "data", "method", "rewind", "level", "replicate")  # of a ticket's origin
_HEAD = """---
library_name: tombola
tags:
- lottery-ticket
- sparse
---
"""
_WHAT = "A lottery ticket: a mask, and the early weights that its survivors return to before they are trained."
_LOADED = """```python
from tombola import Ticket

ticket = Ticket.pull("{repo}")
ticket.apply(model)  # m ⊙ theta_k, to be trained under ticket.mask
```
"""


def card(repo: str, title: str, mask: Mask, origin: Mapping[str, Any]) -> str:
    """The README of a ticket's repository, in Markdown: what it is, its densities, how to load it."""
    facts = [f"- {name}: {origin[name]}" for name in _KNOWN if name in origin]
    facts += [f"- elastic: from the ticket of {came}" for came in [elastic.said(origin)] if came]
    table = [
        "| layer | alive | weights | density |",
        "|---|---:|---:|---:|",
        *(_row(f"`{name}`", *_counts(alive)) for name, alive in mask.items()),
        _row("all", mask.alive, mask.total, mask.density),
    ]
    parts = [_HEAD, f"# {title}\n", f"{_WHAT}\n", *facts, "", *table, "", _LOADED.format(repo=repo)]
    return "\n".join(parts)


def _counts(alive: Tensor) -> tuple[int, int, float]:
    kept = int(alive.sum())
    return kept, alive.numel(), kept / max(alive.numel(), 1)


def _row(name: str, alive: int, weights: int, density: float) -> str:
    return f"| {name} | {alive:,} | {weights:,} | {density:.2%} |"
