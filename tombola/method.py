"""What a search method is: a generator of trainings, and what is said of it. The ones there are stand in `methods`."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from tombola.mark import Mark
from tombola.replicate import MethodReplicate, T


class SearchFunction(Protocol):
    """What a method does: given a replicate, the trainings of level 0 to `levels`, one by one."""

    def __call__(self, replicate: MethodReplicate[T], levels: int, /) -> Iterator[T]: ...


@dataclass(frozen=True)
class Method:
    """A search method.

    Attributes:
        name: by which a spec names it, as its `method` or as one of its `arms`.
        search: what it does.
        about: that in one sentence.
        paper, year: where it comes from.
        rewinds: whether its levels go back to early weights; those that go on from trained weights are no tickets in
            the formal sense, and the controls, which ask what the early weights and the mask are worth by themselves,
            ask nothing of them.
        mark: how it looks in figures; None for any that is free.
        code: the SHA-256 of the extension that it comes from; None for ours.
    """

    name: str
    search: SearchFunction
    about: str
    paper: str = ""
    year: int | None = None
    rewinds: bool = True
    mark: Mark | None = None
    code: str | None = None
