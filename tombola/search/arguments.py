"""What a search is given, checked once, before anything is done with it."""

import inspect
import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from tombola import weights
from tombola.errors import BadInput
from tombola.pruning import Round
from tombola.score import MAGNITUDE, Score, Scored
from tombola.scores import SCORES
from tombola.search.options import Options, rates_of
from tombola.search.state import Loop
from tombola.steps import Step
from tombola.weights import Weights

Rate = float | Mapping[str, float]
AnyScore = str | Score | Callable[[Scored], Mapping[str, Tensor]]


def options(given: Mapping[str, Any]) -> Options:
    """Return what the arguments of a `Search` ask for.

    Args:
        given: all of them, by their names.

    Raises:
        BadInput: one of them does not fit.
    """
    k = iterations(given["rewind"], given["epoch_iterations"])
    lasting(given["batches"])
    return Options(
        given["levels"],
        round_of(given),
        k,
        given["score_seed"],
        given["replay"],
        given["score_at"],
        given["engine"],
    )


def lasting(batches: Iterable[Any] | None) -> Iterable[Any] | None:
    """Return `batches`, once they are found to be there more than once.

    Raises:
        BadInput: they are an iterator, which ends.
    """
    if isinstance(batches, Iterator):
        raise _batches_once(batches)
    return batches


_PARTS = {"rate": 0.2, "scope": "layer", "keep": (), "prune": (), "stacks": (), "score": MAGNITUDE.of}


def round_of(given: Mapping[str, Any]) -> Round:
    """Return the round that the arguments of a `Search` ask for, as one value or in its parts.

    Raises:
        BadInput: a part is none, or stands beside a whole round.
    """
    whole = given["round"]
    if whole is None:
        return Round(
            scope=given["scope"],
            rates=rates_of(given["rate"]),
            keep=patterns(given["keep"], "keep"),
            include=patterns(given["prune"], "prune"),
            stacks=patterns(given["stacks"], "stacks"),
            score=score_of(given["score"], given["batches"]),
        )
    if not isinstance(whole, Round):
        raise _no_round(whole)
    if beside := [name for name, default in _PARTS.items() if given[name] not in (default, [])]:
        raise _two_rounds(beside)
    if whole.score.sees_batches and given["batches"] is None:
        raise _no_batches(whole.score.name)
    return whole


def score_of(given: Any, batches: object) -> Score:
    """Return the score that `given` is, names, or computes.

    Args:
        batches: of the training set; None where there are none.

    Raises:
        BadInput: it is none, or a function of other arguments, or asks for batches where there are none.
    """
    known: dict[Any, Score] = {**SCORES, **{score.of: score for score in SCORES.values()}}
    if (isinstance(given, str) and given not in known) or not (callable(given) or isinstance(given, str | Score)):
        raise _no_score(given)
    if not isinstance(given, Score) and given not in known:
        _check_score(given)
        name = getattr(given, "__qualname__", type(given).__name__)
        return Score(name, given, sees_batches=batches is not None)
    score = given if isinstance(given, Score) else known[given]
    if score.sees_batches and batches is None:
        raise _no_batches(score.name)
    return score


def _check_score(function: Callable[..., object]) -> None:
    try:
        inspect.signature(function).bind(None)
    except TypeError:
        raise _other_arguments(function) from None
    except ValueError:  # of some written in C nothing is known
        return


def patterns(given: str | Sequence[str], where: str) -> tuple[str, ...]:
    """What was given for `where` as it is meant: one pattern, or several."""
    entries = (
        (given,) if isinstance(given, str) else tuple(given) if isinstance(given, list | tuple | set) else (given,)
    )
    for entry in entries:
        if not isinstance(entry, str):
            raise BadInput(where=where, expected="names or patterns", found=repr(entry), todo="As in ['encoder.*'].")
    return entries


def warn_of_settings(loop: Loop, groups: Sequence[Mapping[str, Any]], where: str) -> None:
    """Say where the search in a file began with other settings of its optimiser than this one has."""
    for own, then in zip(loop.optimizer.param_groups, groups, strict=True):
        differing = [name for name in own if name in then and repr(own[name]) != repr(then[name])]
        if differing:
            theirs, ours = (", ".join(f"{name}={group[name]}" for name in differing) for group in (then, own))
            warnings.warn(
                f"{where}: the search in it had {theirs}, and this optimizer has {ours}: the results are of the first.",
                stacklevel=4,
            )
            return


def same_options(path: str, options: Options, asked: Options) -> None:
    """Raise BadInput unless the search in `path`, which has these options, is that which is asked for."""
    if options.values() != asked.values():
        raise BadInput(
            where=path,
            expected=f"the options of the search in it: {options.values()}",
            found=str(asked.values()),
            todo="Ask for the same, or name another file.",
        )


def same_types(own: Weights, other: Weights, where: str) -> None:
    """Raise BadInput, naming the first that differ, unless `other` has the names, shapes and types of `own`."""
    weights.fit(own, other, where)
    for name, value in own.items():
        if value.dtype is not other[name].dtype:
            raise BadInput(
                where=where,
                expected=f"{name} of {value.dtype}, as in the model",
                found=str(other[name].dtype),
                todo="Bring the model to the type that it had in the search.",
            )


def iterations(rewind: str | Step, epoch_iterations: int | None) -> int:
    """k, in optimiser steps.

    Raises:
        BadInput: it is no step, or counts in epochs whose length is not given.
    """
    try:
        step = rewind if isinstance(rewind, Step) else Step(rewind)
    except ValueError as error:
        raise BadInput(where="rewind", expected=str(error), found=repr(rewind), todo="0it is the start.") from None
    if epoch_iterations is not None and (type(epoch_iterations) is not int or epoch_iterations < 1):
        raise BadInput(
            where="epoch_iterations",
            expected="a whole number of steps, 1 or more",
            found=repr(epoch_iterations),
            todo="len(loader), mostly.",
        )
    if step.unit == "ep" and epoch_iterations is None:
        raise BadInput(
            where="rewind",
            expected="steps, or epoch_iterations beside epochs",
            found=str(step),
            todo="epoch_iterations is the number of optimiser steps in one of your epochs: len(loader), mostly.",
        )
    return step.iterations(epoch_iterations or 1)


def _no_round(given: object) -> BadInput:
    todo = "Round(rates=(('*', 0.2),)) is one; rate, scope, keep, prune, stacks and score are its parts."
    return BadInput(where="round", expected="a tombola.pruning.Round", found=repr(given), todo=todo)


def _two_rounds(beside: Sequence[str]) -> BadInput:
    expected = "a round, or its parts"
    return BadInput(where="round", expected=expected, found=f"{', '.join(beside)} beside it", todo="Give one of both.")


def _no_score(given: object) -> BadInput:
    todo = "score.magnitude is one."
    expected = f"a function, or one of {', '.join(SCORES)}"
    return BadInput(where="score", expected=expected, found=repr(given), todo=todo)


def _no_batches(name: str) -> BadInput:
    expected = f"batches of the training set, which the score {name} asks for"
    return BadInput(where="batches", expected=expected, found="none", todo="batches=loader, for one.")


def _batches_once(batches: object) -> BadInput:
    expected, found = "what can be gone through again and again", f"a {type(batches).__name__}, which ends once"
    return BadInput(where="batches", expected=expected, found=found, todo="batches=loader, not iter(loader).")


def _other_arguments(function: Callable[..., object]) -> BadInput:
    return BadInput(
        where="score",
        expected="a function of one argument, what it sees: model, weights, mask, batches, seed, loss, initial",
        found=f"one of {inspect.signature(function)}",
        todo="def score(scored): return {name: scored.weights[name].abs() for name in scored.mask} is score.magnitude.",
    )


def check_path(path: Path, given: object, writes: bool) -> None:
    """Raise BadInput unless `path` can be a search's file.

    Args:
        given: the path as it was given.
        writes: whether this process writes it.
    """
    if path.is_dir():
        raise BadInput(
            where=f"path={given!r}", expected="a file's name", found="a folder", todo="Name a file in it, or None."
        )
    if not path.exists() and writes and not os.access(path.parent, os.W_OK):
        raise BadInput(
            where=str(path),
            expected="a file in a folder that is there and can be written to",
            found=f"no such folder: {path.parent}",
            todo="Make the folder, or name another one.",
        )


def file_in_the_way(path: Path, holds_search: bool) -> BadInput:
    """The error of a new search whose file is there already."""
    other = "Search.resume goes on with the search that it holds; or name another one."
    return BadInput(
        where=str(path),
        expected="a new file, or that of this search with all levels finished",
        found="one that is there already" + ("" if holds_search else ", and holds no search"),
        todo=other if holds_search else "Name another one.",
    )


def under_way(where: str, level: int, todo: str) -> BadInput:
    """The error of what cannot be called while a level is trained."""
    return BadInput(where=where, expected="no level under way", found=f"level {level}", todo=todo)


def none_left(levels: int) -> BadInput:
    """The error of a level after the last one."""
    expected = f"one of {levels + 1} levels to be left"
    return BadInput(where="Search.begin", expected=expected, found="none", todo="Ask the search for a ticket.")


def other_optimizers(expected: int, found: int) -> BadInput:
    """The error of a level with more optimisers, or fewer, than the search was given."""
    return BadInput(
        where="Search.begin",
        expected=f"as many optimizers as the search was given, {expected}",
        found=str(found),
        todo="Hand over one for each, in the same order.",
    )
