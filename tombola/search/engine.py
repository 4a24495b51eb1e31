"""How the layers of a level compute: densely, or with their living weights only where that is faster here."""

import time
from collections import Counter, deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from statistics import median
from typing import Any

import torch
from torch import Tensor
from torch.utils.hooks import RemovableHandle

from tombola import allocator
from tombola.engine.native import calibrate
from tombola.mask import Mask
from tombola.search.state import Loop
from tombola.search.watch import Look
from tombola.sparse import choice, layers
from tombola.sparse.choice import Call
from tombola.sparse.layers import Candidate, Living
from tombola.step_hooks import opaque

ENGINES = ("auto", "dense", "sparse")
DEFAULT = "dense"
MOST = 1000  # steps whose times are kept
NAMED = 4  # layers in a sentence
UNSEEN = "nothing called it for gradients in the first step outside of torch.compile, within which it is dense"
UNTRIED = "the level has no step after the rewind point"
UNTAKEN = "nothing called it with its own weights outside of torch.compile, within which it is dense"


@dataclass(frozen=True)
class Computed:
    """How a level computed.

    Attributes:
        sparse: the layers that did so with their living weights only.
        dense: those that were pruned and did not, each with the reason.
        step_seconds: from one optimiser step to the next, the median; None where there were too few.
    """

    sparse: tuple[str, ...] = ()
    dense: Mapping[str, str] = field(default_factory=dict)
    step_seconds: float | None = None

    @staticmethod
    def of(values: Mapping[str, Any]) -> "Computed":
        """What `vars` of one says, as JSON has it.

        Raises:
            KeyError, TypeError, ValueError: it says something else.
        """
        sparse, dense, seconds = values["sparse"], dict(values["dense"]), values["step_seconds"]
        if not all(type(text) is str for text in (*sparse, *dense, *dense.values())):
            raise ValueError("layers whose names are no text")
        return Computed(tuple(sparse), dense, None if seconds is None else float(seconds))

    def sentence(self, whole: "Computed | None" = None) -> str:
        """What it was, and what it gained.

        Args:
            whole: how level 0 computed, where that is known.
        """
        words = self._which
        if self.step_seconds is None:
            return words
        words += f": a step takes {1000 * self.step_seconds:.3g} ms"
        if not self.sparse or whole is None or whole.step_seconds is None:
            return words
        return f"{words}, {whole.step_seconds / self.step_seconds:.2f} times as fast as level 0's"

    @property
    def _which(self) -> str:
        if not self.sparse:
            reasons = "; ".join(f"{count}: {reason}" for reason, count in Counter(self.dense.values()).items())
            return f"all layers dense ({reasons})" if reasons else "all layers dense"
        if len(self.sparse) <= NAMED:
            return f"{', '.join(self.sparse)} sparse"
        return f"{', '.join(self.sparse[: NAMED - 1])} and {len(self.sparse) - NAMED + 1} others sparse"


class LevelLayers:
    """Puts sparse layers on a model, and takes them off at the end of a level.

    Which of them gain is known once the first step from the rewind point on has shown what they are called with: it is
    dense, at every level, and so the same in a search that was interrupted.

    Args:
        loop: whose model, and by which engine.
        living: what is alive.
    """

    def __init__(self, loop: Loop, living: Mask) -> None:
        self._loop, self._living = loop, living
        self._able: dict[str, Candidate] = {}
        self._dense: dict[str, str] = {}
        self._put: dict[str, Candidate] = {}
        self._with: dict[str, Living] = {}
        self._calls: dict[str, Call] = {}
        self._looks: list[RemovableHandle] = []
        self._hooks: list[RemovableHandle] = []
        self._times: deque[float] = deque(maxlen=MOST)
        self._last: float | None = None
        self._begun = self._whole = False  # whether the step under way is all the level's own
        if loop.engine != "dense":
            allocator.keep()  # at level 0 too, to whose steps the others' are compared
            self._hooks = [
                loop.optimizer.register_step_pre_hook(opaque(lambda *_: self._steps())),
                loop.optimizer.register_step_post_hook(opaque(lambda *_: self._stepped())),
            ]

    def begin(self) -> None:
        """From now on the level's pruned weights are 0; to say so again changes nothing."""
        if self._begun or self._loop.engine == "dense":
            return
        self._begun = True
        self._able, self._dense = layers.candidates(self._loop.model, self._living)
        if self._loop.engine == "sparse":
            self._put_on(self._able)
        else:
            self._looks = [
                each.module.register_forward_pre_hook(Look(self._see(name)), with_kwargs=True)
                for name, each in self._able.items()
            ]

    def _see(self, name: str) -> Any:
        def see(module: Any, given: tuple[Any, ...], named: Mapping[str, Any]) -> None:
            inputs = given[0] if given else named.get("input")
            if not torch.is_grad_enabled() or not isinstance(inputs, Tensor):
                return
            if torch.is_autocast_enabled("cpu"):
                self._dense[name] = "it computes in a shorter type"
                return
            call, before = choice.observed(module, inputs), self._calls.get(name)
            if before is None or before.work < call.work:
                self._calls[name] = call

        return see

    def _steps(self) -> None:
        self._whole = self._begun

    def _stepped(self) -> None:
        if not self._whole:  # the last step of a replay, at the end of which the level begins
            return
        now = time.perf_counter()
        if self._looks:
            self._choose()
            self._last = None
        else:
            if self._last is not None:
                self._times.append(now - self._last)
            self._last = now

    def _choose(self) -> None:
        """Put on those that are faster with their living weights only, at their density and with their inputs."""
        self._look_no_more()
        worth = {name: call for name, call in self._calls.items() if call.work >= choice.LEAST}
        times = calibrate.times(worth.values())
        chosen = {
            name: self._able[name]
            for name, call in worth.items()
            if choice.gains(call, self._able[name].density, times[call])
        }
        for name in self._able:
            if name not in chosen:
                self._dense.setdefault(name, "it is faster so here" if name in self._calls else UNSEEN)
        self._put_on(chosen)

    def _put_on(self, chosen: Mapping[str, Candidate]) -> None:
        for name, each in chosen.items():
            self._put[name] = each  # first: whoever interrupts between the two finds it taken off again
            self._with[name] = each.put_on()

    def _look_no_more(self) -> None:
        _removed(self._looks)
        self._looks = []

    @property
    def computed(self) -> Computed:
        """How it has computed so far: a layer that could be sparse, and that no call found so, is among the dense."""
        sparse = tuple(name for name, living in self._with.items() if living.computed)
        not_so = {
            name: layers.hindrance(each.module) or UNTAKEN for name, each in self._put.items() if name not in sparse
        }
        if self._looks:
            not_so = dict.fromkeys(self._able, UNTRIED)
        seconds = median(self._times) if len(self._times) > 1 else None
        return Computed(sparse, self._dense | not_so, seconds)

    def release(self) -> None:
        """All layers are dense again, and nothing is looked at any more."""
        self._look_no_more()
        _removed(self._hooks)
        for each in self._put.values():
            layers.dense(each.module)


def _removed(hooks: Iterable[RemovableHandle]) -> None:
    for hook in hooks:
        hook.remove()
