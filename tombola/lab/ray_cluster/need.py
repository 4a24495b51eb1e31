"""What is asked of a cluster for a worker, and what its nodes have."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import floor

from tombola.errors import BadInput
from tombola.lab.executor import Offer, Resources


@dataclass(frozen=True)
class Need:
    """What one worker takes of its node.

    Attributes:
        cpus, gpus: how many; parts of a GPU where several workers share one.
        others: of what the cluster calls by names of its own.
    """

    cpus: float = 1.0
    gpus: float = 0.0
    others: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def of(cls, resources: Resources) -> "Need":
        """What has been asked, by default one core, and a GPU where training is on GPUs.

        Raises:
            BadInput: that is no number, or none that Ray can share out.
        """
        asked = resources.options
        gpus = _number("gpus", asked.get("gpus", "0" if resources.devices == ("cpu",) else "1"))
        if gpus > 1:
            raise BadInput(
                where="--with gpus",
                expected="a part of a GPU, or 1: each worker trains on one",
                found=asked["gpus"],
                todo="gpus=0.25 lets four workers share one.",
            )
        name, _, count = asked.get("resource", "").partition(":")
        others = {name: _number("resource", count or "1")} if name else {}
        return cls(_number("cpus", asked.get("cpus", "1")), gpus, others)

    @property
    def items(self) -> dict[str, float]:
        """By Ray's names, what is needed at all."""
        return {
            name: count for name, count in {"CPU": self.cpus, "GPU": self.gpus, **dict(self.others)}.items() if count
        }

    def places(self, node: Mapping[str, float]) -> int:
        """How many workers a node has room for."""
        return min(floor(node.get(name, 0.0) / count + 1e-9) for name, count in self.items.items())

    @property
    def text(self) -> str:
        """In words."""
        return _counted(self.items)


def _number(option: str, text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not 0 <= number < 1e6:
        raise BadInput(
            where=f"--with {option}",
            expected="a number, 0 or more",
            found=repr(text),
            todo="Leave it out, say.",
        )
    return number


def _counted(items: Mapping[str, float]) -> str:
    """So many cores, GPUs and others, in words."""
    names = {"CPU": ("core", "cores"), "GPU": ("GPU", "GPUs")}
    parts = [f"{count:g} {names.get(name, (name, name))[count != 1]}" for name, count in items.items()]
    return " and ".join(parts) or "nothing"


def _having(items: Mapping[str, float]) -> dict[str, float]:
    """Of a node's resources those that somebody may ask for: not its memory, nor the name of the node."""
    own = ("memory", "object_store_memory")
    return {
        name: count
        for name, count in sorted(items.items())
        if name not in own and not name.startswith(("node:", "accelerator_type:"))
    }


def offer_of(nodes: Sequence[Mapping[str, float]], need: Need, workers: int | None, where: str) -> Offer:
    """What these nodes have for workers with this need.

    Args:
        nodes: the resources of each, by Ray's names.
        workers: how many are asked for; None for as many as there is room for.
        where: the cluster, in words.

    Raises:
        BadInput: no node has room for one, so that it would be waited for without end; or none is asked for.
    """
    places = [need.places(node) for node in nodes]
    if not any(places):
        found = "; ".join(_counted(_having(node)) for node in nodes) or "no node"
        raise BadInput(
            where="--on ray",
            expected=f"a node with {need.text} for a worker",
            found=found,
            todo="Ask for less with --with, or add such a node to the cluster. Nothing has been started.",
        )
    if workers is not None and workers < 1:
        raise BadInput(
            where="--workers", expected="at least 1", found=str(workers), todo="Leave it out for all that have room."
        )
    count = min(workers or sum(places), sum(places))
    total: dict[str, float] = {}
    for node in nodes:
        for name, amount in _having(node).items():
            total[name] = total.get(name, 0.0) + amount
    runs = "1 run at a time" if count == 1 else f"{count} runs at once"
    less = f", fewer than the {workers} asked for, as there is no room" if workers and count < workers else ""
    about = (
        f"{where}: {len(nodes)} node{'' if len(nodes) == 1 else 's'} with {_counted(total)}; {runs}, "
        f"each on {need.text}{less}."
    )
    return Offer(count, ("cuda:0",) if need.gpus else ("cpu",), about)
