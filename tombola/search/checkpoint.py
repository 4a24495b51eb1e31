"""The file of a search: all that its unfinished levels need, and all that the finished ones found. No pickle."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from tombola import container, files, mask_codec, weights
from tombola.errors import BadInput, NoRoom
from tombola.mask import Mask
from tombola.search.averages import Average, coded, decoded
from tombola.search.codec import decode, encode
from tombola.search.engine import Computed
from tombola.search.level_run import Course, Report
from tombola.search.options import Options
from tombola.search.state import Moment
from tombola.weights import Weights

FORMAT = 3
KEY = "tombola-search"  # of what is said in the header


@dataclass(frozen=True)
class Progress:
    """How far a search is.

    Attributes:
        masks: of each level so far, the one that comes next included.
        trained: of each finished level, the trained weights that live, as `mask_codec.compress` has them.
        start: the moment in which level 0 began; None before.
        rewind: the moment to return to; None until level 0 has reached it.
        history: what was reported.
        steps: how many optimiser steps were done at the end of each finished level.
        averages: what follows the weights; known once level 0 has begun, for certain once it is finished.
        computed: how the layers of each finished level did; None where it is not known.
    """

    masks: tuple[Mask, ...]
    trained: tuple[Weights, ...] = ()
    start: Moment | None = None
    rewind: Moment | None = None
    history: tuple[Report, ...] = ()
    steps: tuple[int, ...] = ()
    averages: tuple[Average, ...] = ()
    computed: tuple[Computed | None, ...] = ()

    @property
    def weights(self) -> Weights:
        """Those in which level 0 began."""
        assert self.start
        weights: Weights = self.start.left["weights"]
        return weights


def content(about: Mapping[str, Any], progress: Progress, randoms: Sequence[Any]) -> bytes:
    """The bytes of a safetensors file.

    Args:
        about: what the search is of, as JSON has it.
        randoms: of each process, its random states at the start and at the rewind point.

    Raises:
        BadInput: a state holds something that a file cannot hold without pickle.
    """
    tensors: dict[str, Tensor] = {}
    for level, living in enumerate(progress.masks):
        tensors |= {f"mask.{level}/{name}": bits for name, bits in mask_codec.pack(living).items()}
    for level, trained in enumerate(progress.trained):
        tensors |= {f"trained.{level}/{name}": value for name, value in trained.items()}
    again = progress.rewind is progress.start  # once is enough
    metadata = {
        "digest": files.ZEROS,  # before anything else that could be zeros
        "format": FORMAT,
        "about": about,
        "shapes": {name: list(alive.shape) for name, alive in progress.masks[0].items()},
        "finished": len(progress.trained),
        "history": [vars(report) for report in progress.history],
        "steps": progress.steps,
        "start": encode(_without_random(progress.start), tensors, "start"),
        "rewind": None if again else encode(_without_random(progress.rewind), tensors, "rewind"),
        "random": encode(list(randoms), tensors, "random"),
        "averages": coded(progress.averages),
    }
    if about["plan"].get("engine"):  # those of a dense search say nothing
        metadata["computed"] = [each and vars(each) for each in progress.computed]
    return container.content(tensors, KEY, metadata)


def write(path: Path, content: bytes) -> None:
    """Write the file, which appears complete or not at all.

    Raises:
        NoRoom: it cannot be written; what was there before still is.
    """
    try:
        files.replace(path, content)
    except OSError as error:
        raise NoRoom(f"{path}: expected room for the search's file, found: {error.strerror}.") from error


def _without_random(moment: Moment | None) -> Any:
    if moment is None:
        return None
    left = {name: value for name, value in moment.left.items() if name != "random"}
    return {"left": left, "followed": dict(moment.followed)}


def random_states(progress: Progress) -> list[Any]:
    """This process's share of `randoms`."""
    return [moment and moment.left["random"] for moment in (progress.start, progress.rewind)]


def read(path: Path, rank: int, world: int) -> tuple[dict[str, Any], Progress]:
    """What `write` wrote: what the search is of, and how far it is, with the random states of process `rank`.

    Raises:
        BadInput: it is no search's file, is damaged, or is that of other processes or of another version.
    """
    try:
        content = path.read_bytes()
        metadata = _metadata(content)
        _same(path, "format", FORMAT, metadata["format"], "Another version of Tombola wrote it: use that one.")
        tensors = container.sealed(content, metadata)
        randoms = decode(metadata["random"], tensors)
        _same(path, "a search of as many processes", world, len(randoms), "Start as many as before.")
        shapes = {name: tuple(shape) for name, shape in metadata["shapes"].items()}
        finished = metadata["finished"]
        if not shapes or type(finished) is not int or not 0 <= finished <= len(tensors):
            raise ValueError(f"{finished!r:.60} levels, of masks of {len(shapes)} weights")
        packed = (weights.below(f"mask.{level}/", tensors) for level in range(finished + 1))
        masks = tuple(mask_codec.unpack(bits, shapes) for bits in packed if bits)
        trained = tuple(weights.below(f"trained.{level}/", tensors) for level in range(finished))
        for living, each in zip(trained, masks, strict=False):
            mask_codec.expand(living, each)
        start, rewind = (
            _with_random(decode(metadata[name], tensors), own)
            for name, own in zip(("start", "rewind"), randoms[rank], strict=True)
        )
        history, steps = tuple(Report(**row) for row in metadata["history"]), tuple(metadata["steps"])
        averages = decoded(metadata["averages"])
        rows = metadata.get("computed") or [None] * finished
        computed = tuple(None if row is None else Computed.of(row) for row in rows)
        progress = Progress(masks, trained, start, rewind or start, history, steps, averages, computed)
        _checked(metadata["about"], progress)
        about = metadata["about"]
        return {**about, "plan": Options.of(about["plan"]).values()}, progress
    except (OSError, *container.DAMAGED) as error:
        raise _no_search(path, error) from error


_ABOUT = {
    "model": str,
    "tied": dict,
    "optimizer": str,
    "parameters": list,
    "schedulers": list,
    "also": list,
    "generators": int,
    "score": str,
}


def _checked(about: Mapping[str, Any], progress: Progress) -> None:
    """Raise an error unless what a file says has the types, and as many levels, as what `content` writes.

    Raises:
        KeyError, TypeError, ValueError, AttributeError, BadInput: it has others.
    """
    Options.of(about["plan"])
    begun, later = (moment.left["weights"] if moment else None for moment in (progress.start, progress.rewind))
    of_it = {
        **{name: type(about[name]) is kind for name, kind in _ABOUT.items()},
        "start": _are_weights(begun),
        "rewind": _are_weights(later),
        "steps": len(progress.steps) == len(progress.trained) and all(type(each) is int for each in progress.steps),
        "history": all(map(_is_report, progress.history)),
        "computed": len(progress.computed) == len(progress.trained),
    }
    for name, right in of_it.items():
        if not right:
            raise ValueError(f"{name} of another type, or for other levels, than is written")
    if unknown := set(about["tied"].values()) - set(progress.weights):
        raise ValueError(f"weights tied to {unknown}")


def _are_weights(state: Any) -> bool:
    return isinstance(state, dict) and all(isinstance(value, Tensor) for value in state.values())


def _is_report(report: Report) -> bool:
    whole = all(type(each) is int for each in (report.level, report.alive, report.step))
    numbers = [report.density, *report.metrics.values()]
    return whole and all(isinstance(each, int | float) for each in numbers)


def left(path: Path) -> tuple[int, Options]:
    """How many levels of the search in a file are not finished, and what was asked of it.

    Raises:
        BadInput: it is no search's file.
    """
    try:
        metadata = _metadata(container.beginning(path))
        options = Options.of(metadata["about"]["plan"])
        return options.levels + 1 - int(metadata["finished"]), options
    except (OSError, *container.DAMAGED) as error:
        raise _no_search(path, error) from error


def holds(path: Path) -> bool:
    """Whether a file says that it is a search's."""
    try:
        left(path)
    except BadInput:
        return False
    return True


def _metadata(content: bytes) -> dict[str, Any]:
    try:
        return container.metadata(content, KEY)
    except container.Foreign as other:
        raise ValueError("a ticket" if "tombola" in other.keys else str(other)) from other


def _no_search(path: Path, error: Exception) -> BadInput:
    return BadInput(
        where=str(path),
        expected="the file of a search",
        found="no such file" if isinstance(error, FileNotFoundError) else f"something else, or a damaged one ({error})",
        todo="Search(..., path=...) writes one.",
    )


def _with_random(moment: Any, own: Any) -> Moment | None:
    return moment and Moment({**moment["left"], "random": own}, moment["followed"])


def _same(path: Path, what: str, expected: object, found: object, todo: str) -> None:
    if expected != found:
        raise BadInput(where=str(path), expected=f"{what}: {expected}", found=str(found), todo=todo)


def finished(
    progress: Progress, trained: Weights, following: Mask | None, course: Course, computed: Computed
) -> Progress:
    """One level further: its trained weights and reports are kept, and the next level's mask, if there is one."""
    living = mask_codec.compress(trained, progress.masks[-1])
    return replace(
        progress,
        masks=progress.masks + ((following,) if following else ()),
        trained=(*progress.trained, living),
        history=(*progress.history, *course.reports),
        steps=(*progress.steps, course.steps),
        computed=(*progress.computed, computed),
    )
