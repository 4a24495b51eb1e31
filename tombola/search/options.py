"""What is asked of a search, all of it plain values."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tombola.errors import BadInput
from tombola.pruning import SCOPES, Round
from tombola.score import MAGNITUDE, Score
from tombola.search.engine import DEFAULT, ENGINES
from tombola.steps import Step

# What older searches lack is absent where it is empty.
_LATER = ("prune", "stacks", "n", "m", "score_at", "engine", "multiple")


@dataclass(frozen=True)
class Options:
    """What is asked of a search.

    Attributes:
        levels: how many times it prunes, 0 or more.
        round: what goes in each of these.
        rewind: k, in optimiser steps.
        score_seed: what the score is given to draw from.
        replay: whether the loop starts from its own beginning at every level.
        score_at: when the score sees the network: at the `end` of a level, or at its `rewind` point.
        engine: how the layers compute: `auto`, `dense`, `sparse`.
    """

    levels: int
    round: Round
    rewind: int
    score_seed: int = 0
    replay: bool = True
    score_at: str = "end"
    engine: str = DEFAULT

    def __post_init__(self) -> None:
        if type(self.levels) is not int or self.levels < 0:
            raise _no_levels(self.levels, "a whole number, 0 or more", "10 prunes ten times.")
        if self.score_at not in ("end", "rewind"):
            todo = "'rewind' prunes by the weights of step k, at initialisation with rewind='0it'."
            raise BadInput(where="score_at", expected="'end' or 'rewind'", found=repr(self.score_at), todo=todo)
        if self.engine not in ENGINES:
            todo = "'auto' computes with the living weights only, where that is measured to be faster."
            expected = f"one of {', '.join(ENGINES)}"
            raise BadInput(where="engine", expected=expected, found=repr(self.engine), todo=todo)
        if self.levels > 1 and SCOPES[self.round.scope].once:
            expected = f"0 or 1 in the scope {self.round.scope!r}, where a second round removes nothing more"
            raise _no_levels(self.levels, expected, "levels=1 prunes once.")
        if SCOPES[self.round.scope].whole:
            raise _no_rounds(self.round.scope)

    def values(self) -> dict[str, Any]:
        """Return them as JSON has them, without the score."""
        round = self.round
        same = len(round.rates) == 1 and round.rates[0][0] == "*"
        values = {
            "levels": self.levels,
            "rate": round.rates[0][1] if same else dict(round.rates),
            "rewind": f"{self.rewind}it",
            "scope": round.scope,
            "keep": list(round.keep),
            "score_seed": self.score_seed,
            "replay": self.replay,
            "prune": list(round.include),
            "stacks": list(round.stacks),
            "n": round.n,
            "m": round.m,
            "multiple": None if round.multiple == 1 else round.multiple,
            "score_at": None if self.score_at == "end" else self.score_at,
            "engine": None if self.engine == DEFAULT else self.engine,
        }
        return {name: value for name, value in values.items() if name not in _LATER or value not in ([], None)}

    @staticmethod
    def of(values: Mapping[str, Any], score: Score = MAGNITUDE) -> "Options":
        """Return the inverse of `values`."""
        round = Round(
            scope=values["scope"],
            rates=rates_of(values["rate"]),
            keep=tuple(values["keep"]),
            include=tuple(values.get("prune", ())),
            stacks=tuple(values.get("stacks", ())),
            n=values.get("n"),
            m=values.get("m"),
            multiple=values.get("multiple", 1),
            score=score,
        )
        k = Step(values["rewind"]).iterations(1)
        return Options(
            values["levels"],
            round,
            k,
            values["score_seed"],
            values["replay"],
            values.get("score_at", "end"),
            values.get("engine", DEFAULT),
        )

    @property
    def asks_for_output(self) -> bool:
        """Whether the kind `output` decides about anything."""
        return "output" in (*self.round.keep, *(entry for entry, _ in self.round.rates))


def rates_of(rate: float | Mapping[str, float]) -> tuple[tuple[str, float], ...]:
    """Return the rates that one number, or one for each kind, name or pattern, stands for."""
    return tuple(rate.items()) if isinstance(rate, Mapping) else (("*", rate),)


def _no_levels(levels: object, expected: str, todo: str) -> BadInput:
    return BadInput(where="levels", expected=expected, found=repr(levels), todo=todo)


def _no_rounds(scope: str) -> BadInput:
    expected, todo = "a scope for rounds of pruning", "prune_at_init(model, scope=...) makes a mask at once, for mask=."
    return BadInput(where="scope", expected=expected, found=repr(scope), todo=todo)
