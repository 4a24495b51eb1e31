"""A search in loops of other libraries: each of their trainings is one level."""

from collections.abc import Mapping
from inspect import signature
from pathlib import Path
from typing import Any

from torch import nn
from torch.optim import Optimizer

from tombola import weights
from tombola.errors import BadInput, GuardLost
from tombola.search import Level, Search, arguments, checkpoint


class SearchCallback:
    """The levels of a search, each begun and ended from outside: what the callbacks of all libraries have in common.

    Args:
        levels: how many times to prune; there are `levels + 1` trainings.
        options: as `Search` has them; with a `path` that is there already, its search goes on.
    """

    def __init__(self, *, levels: int, **options: Any) -> None:
        self._options: Mapping[str, Any] = {"levels": levels, **options}
        self._asked = signature(Search).bind(None, None, **self._options)  # what it does not take is said at once
        self._asked.apply_defaults()
        self._search: Search | None = None
        self._level: Level | None = None

    @property
    def search(self) -> Search:
        """The search, from the first training on; where its file holds all levels already, that of the file."""
        if self._search is None and not self.left:
            self._search = Search.resume(self._options["path"])
        if self._search is None:
            raise BadInput(where="search", expected="a training before", found="none", todo="Start one.")
        return self._search

    @property
    def left(self) -> int:
        """How many trainings there are to come.

        Raises:
            BadInput: the file holds a search of other options.
        """
        if self._search:
            return self._search.left
        path = self._options.get("path")
        if not path or not Path(path).exists():
            return int(self._options["levels"]) + 1
        left, options = checkpoint.left(Path(path))
        arguments.same_options(str(path), options, arguments.options(self._asked.arguments))
        return left

    def _from_step_0(self, training: str, steps: int) -> None:
        if steps:
            self._leave()
            raise BadInput(
                where=f"Trainer.{training}",
                expected="a Trainer of its own for every level, from step 0 on",
                found=f"one that has taken {steps} steps, or goes on from a checkpoint that has",
                todo="Make it inside of the loop over the levels, and leave checkpoints alone: Tickets(path=...) goes "
                "on with the level that was under way.",
            )

    @property
    def _replays(self) -> bool:
        """Whether the training is a replay of level 0's first steps, of which no best weights are to be kept."""
        return self._level is not None and not self._level.held

    def _check_loaded(self, model: nn.Module) -> None:
        """After a training: make sure that what is measured is the network of its level."""
        if self._level or self._search is None:
            return
        number = self._options["levels"] - self._search.left
        if number < 0:
            return
        state = weights.bare(model).state_dict()
        living = {name: alive for name, alive in self._search.mask(number).items() if name in state}
        found = sum(int(state[name][~alive.to(state[name].device)].count_nonzero()) for name, alive in living.items())
        if found:
            raise GuardLost(
                f"level {number}: expected every pruned weight to be 0 in what is measured after it, found {found:,} "
                "that are not. These are weights from before the rewind point, where the training replays level 0, or "
                "of another level, as those of a best checkpoint. Measure what this level's training has kept."
            )

    def _begin(self, model: nn.Module, optimizer: Optimizer, schedulers: Any) -> None:
        if self._search is None:
            self._search = Search.opened(model, optimizer, schedulers, self._options)
        self._search.leave()  # some libraries say nothing of a training that failed
        self._level = self._search.begin(optimizer, schedulers)

    def _end(self) -> None:
        self._level = None
        self.search.finish()

    def _leave(self) -> None:
        self._level = None
        if self._search:
            self._search.leave()
