"""How long runs take that several workers do at once: no run begins before its inputs are there."""

from collections import deque
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from heapq import heapify, heappop, heappush

from tombola.lab.runs import Run


@dataclass(frozen=True)
class Work:
    """Runs, and which of them need which: what there is to do, as numbers.

    Attributes:
        needs: of each run, how many of the others it needs.
        dependants: of each run, the places of those that need it.
    """

    needs: Sequence[int]
    dependants: Sequence[Sequence[int]]

    @classmethod
    def of(cls, runs: Sequence[Run]) -> "Work":
        """The work of `runs`; inputs that are not among them are there already."""
        place = {run.key: number for number, run in enumerate(runs)}
        inputs = [{place[needed.key] for needed in run.inputs if needed.key in place} for run in runs]
        return cls.between(inputs)

    @classmethod
    def between(cls, inputs: Sequence[Collection[int]]) -> "Work":
        """The work of runs of which each needs those at some places."""
        dependants: list[list[int]] = [[] for _ in inputs]
        for number, needed in enumerate(inputs):
            for each in needed:
                dependants[each].append(number)
        return cls([len(needed) for needed in inputs], dependants)

    def makespan(
        self,
        seconds: Sequence[float],
        workers: int,
        done: Collection[int] = (),
        under_way: Sequence[Sequence[int]] = (),
    ) -> float:
        """Seconds from now until all is done, in the order in which `queue.RunQueue` hands runs out.

        A run is done alone, so of runs that are done in one stack each takes its share of the stack's time.

        Args:
            seconds: that each run takes from now on, whatever is in `done` or not.
            workers: how many are at work, >= 1.
            done: the places of the runs that are over.
            under_way: of each worker that is at work now, the places of its runs.

        >>> chain_and_another = Work.between([[], [0], [1], []])
        >>> chain_and_another.makespan([1, 1, 1, 2], workers=2)
        3.0
        >>> chain_and_another.makespan([1, 1, 1, 2], workers=1)
        5.0
        """
        needs, dependants = list(self.needs), self.dependants
        for number in done:
            for each in dependants[number]:
                needs[each] -= 1
        needed, leaves = deque[int](), deque[int]()  # what others wait for goes first
        begun = {*done, *(number for given in under_way for number in given)}
        for number, waits in enumerate(needs):
            if not waits and number not in begun:
                (needed if dependants[number] else leaves).append(number)
        now, busy = 0.0, [(sum(seconds[number] for number in given), given) for given in under_way]
        heapify(busy)
        while busy or needed or leaves:
            while len(busy) < workers and (needed or leaves):
                number = (needed or leaves).popleft()
                heappush(busy, (now + seconds[number], (number,)))
            now, given = heappop(busy)
            for number in given:
                for each in dependants[number]:
                    needs[each] -= 1
                    if not needs[each] and each not in begun:
                        (needed if dependants[each] else leaves).append(each)
        return now
