"""A table of one's own: `table:FILE.csv@TARGET`, numbers and categories as the inputs of a network.

Numbers have their mean over the training set taken away and are divided by its deviation; what is missing is the
training set's median, and a further column says so. Of categories each has a column of 0 and 1. All of this is known
from the training set alone, so it is a function of the split: a replicate asks for `table:FILE.csv@TARGET~SPLITSEED`.

How many columns an input has, the pool says, so that all replicates train the same network: what is constant in a
training set, a category that it has not for one, is 0 there and everywhere.
"""

import difflib
import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.random import RandomState
from numpy.typing import NDArray

from tombola import files
from tombola.data.arrays import Arrays
from tombola.data.columns import NAMED, Column, counted, names, read, rows, wrong
from tombola.data.download import cache_dir
from tombola.data.facts import Answers, Facts
from tombola.data.splits import split
from tombola.errors import DataError

FORM = (
    "table:FILE.csv@TARGET, .tsv or .parquet, TARGET being the column asked for; table:breast-cancer; or table:diabetes"
)
FEW = 20  # different whole numbers that are taken for classes
LEAST = 50  # rows
MOST_LEVELS = 1000  # of a column of categories
LISTED = 8  # columns that are named one by one
PART = 5  # one in so many rows is for the test, and of the others for validation
SHIPPED = {"breast-cancer": "diagnosis", "diabetes": "progression"}  # inside of scikit-learn, and what is asked for

_NAME = re.compile(
    r"table:(?P<path>breast-cancer|diabetes|.+?\.(?i:csv|tsv|parquet))"
    r"(?:@(?P<target>.+?))?(?::(?P<answers>class|number))?(?:~(?P<seed>0|[1-9][0-9]*))?(?P<ways>(?:\+[^+]+)*)"
)


@dataclass(frozen=True)
class Name:
    """What the name of a table's data set says.

    Attributes:
        path: of the file.
        target: the column that is asked for; "" where none is named.
        answers: what it is, where that is said; "" where its cells decide.
        seed: of the split from whose training set means and deviations are; None before a replicate has one.
        ways: what follows, `+VARIANT` each.
    """

    path: str
    target: str
    answers: str
    seed: int | None
    ways: tuple[str, ...]

    def __str__(self) -> str:
        answers, seed = self.answers and f":{self.answers}", "" if self.seed is None else f"~{self.seed}"
        target = self.target and f"@{self.target}"
        return f"table:{self.path}{target}{answers}{seed}" + "".join(f"+{way}" for way in self.ways)


def parts(name: str) -> Name:
    """What `name` says.

    Raises:
        ValueError: it is not of that form.

    >>> str(parts("table:my.csv@price:number~7+rotated~7")), parts("table:my.csv@price+noise-32").ways
    ('table:my.csv@price:number~7+rotated~7', ('noise-32',))
    """
    if not (found := _NAME.fullmatch(name)):
        raise ValueError(FORM)
    seed = None if found["seed"] is None else int(found["seed"])
    ways = tuple(found["ways"].split("+")[1:])
    return Name(found["path"], found["target"] or SHIPPED.get(found["path"], ""), found["answers"] or "", seed, ways)


def named(name: str) -> bool:
    """Whether `name` is that of a table, by its form."""
    return name.partition(":")[0] == "table"


def of_split(name: str, split_seed: int) -> str:
    """The same table, its means and deviations those of the training set of this split.

    >>> of_split("table:my.csv@price", 7)
    'table:my.csv@price~7'
    """
    return str(replace(parts(name), seed=split_seed))


def facts(name: str) -> Facts:
    """What is known of the table that `name` names, the variants left aside; out of the user's cache the second time.

    Raises:
        ValueError: it is not of that form.
        DataError: the file cannot be read, or not be trained on; says where and why.
        BadInput: the package that reads it is not installed.
    """
    asked = parts(name)
    path, state = _state(asked)
    what = f"2\0{path.resolve()}\0{state}\0{asked.target}\0{asked.answers}"
    known = _kept(_digest(what), path, state, asked)
    if asked.seed is None:
        return known
    return replace(known, checksum=_digest(f"split {asked.seed} of {known.checksum}"))


def described(name: str) -> str:
    """How the columns of a table are read, and what its inputs and answers are.

    >>> described("table:diabetes")
    '10 columns, 10 of numbers, make 10 inputs; progression is a number.'
    """
    known, asked = facts(name), parts(name)
    made = _opened(*_state(asked))
    columns = {column: made.columns[column] for column in made.features(asked)}
    categories = {column: len(each.levels) for column, each in columns.items() if each.numbers is None}
    read_as = [f"{len(columns) - len(categories)} of numbers"] if len(categories) < len(columns) else []
    if categories:
        read_as.append(f"{len(categories)} of categories ({_listed(f'{each}: {n}' for each, n in categories.items())})")
    if missing := [column for column, each in columns.items() if each.missing.any()]:
        read_as.append(f"{len(missing)} with missing cells ({_listed(missing)})")
    alike = [column for column, each in columns.items() if _alike(each)]
    nothing = f" Alike in all rows, so that they teach nothing: {_listed(alike)}." if alike else ""
    answers = "a number" if known.answers == "number" else f"one of {known.classes} classes"
    inputs = f"make {known.shape[0]:,} inputs; {asked.target} is {answers}"
    return f"{len(columns):,} columns, {', '.join(read_as)}, {inputs}.{nothing}"


def _listed(names: Iterable[str]) -> str:
    every = list(names)
    return ", ".join(every[:LISTED]) + (f" and {len(every) - LISTED:,} more" if len(every) > LISTED else "")


def arrays(name: str) -> Arrays:
    """The pool's inputs and answers and the test set's, by the training set of the seed in `name`, 0 where it has none.

    Raises:
        ValueError, DataError, BadInput: as `facts`.
    """
    known, asked = facts(name), parts(name)
    made = _opened(*_state(asked))
    pool, test = made.drawn(asked)
    train = pool[split(known, asked.seed or 0)[0].numpy()]
    inputs = [part for column in made.features(asked) for part in _inputs(made.columns[column], pool, train)]
    examples = np.stack(inputs, axis=1).astype(np.float32)
    labels = made.labels(asked)
    if known.answers == "number":
        mean, deviation = labels[train].mean(), labels[train].std()
        labels = ((labels - mean) / deviation).astype(np.float32)
    return examples[pool], labels[pool], examples[test], labels[test]


def input_names(name: str) -> list[str]:
    """What each number of an input is, variants left aside: a column, one of its categories, whether a cell is empty.

    >>> input_names("table:diabetes")[:2]
    ['age', 'sex']
    """
    asked = parts(name)
    made = _opened(*_state(asked))
    pool, _ = made.drawn(asked)
    return [each for column in made.features(asked) for each in _names(column, made.columns[column], pool)]


# ---- one file


@dataclass(frozen=True)
class Table:
    """A file that has been read.

    Attributes:
        sha256: of it.
    """

    path: Path
    sha256: str
    columns: Mapping[str, Column]

    def features(self, asked: Name) -> list[str]:
        """The columns that inputs are made of."""
        return [name for name in self.columns if name != asked.target]

    def answers(self, asked: Name) -> Answers:
        """What the target is: a class where it is texts, or so few different whole numbers; else a number."""
        column = self.columns[asked.target]
        if asked.answers == "number" and column.numbers is None:
            raise wrong(self.path, f"numbers in the column {asked.target!r}", f"texts like {column.levels[0]!r}")
        if asked.answers:
            return "number" if asked.answers == "number" else "class"
        if column.numbers is None:
            return "class"
        there = np.unique(column.numbers[~column.missing])
        return "class" if len(there) <= FEW and (there == np.round(there)).all() else "number"

    def labels(self, asked: Name) -> NDArray[Any]:
        """The target of each row: classes from 0 on, or numbers as they are."""
        column = self.columns[asked.target]
        if column.numbers is None:
            return column.codes
        if self.answers(asked) == "number":
            return column.numbers
        return np.unique(column.numbers, return_inverse=True)[1].astype(np.int64)

    def drawn(self, asked: Name) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The rows of the pool and of the test set: one in five, as many of each class, or from low to high numbers.

        Drawn by the file's content alone, so that all replicates have the same.
        """
        seed = [int.from_bytes(bytes.fromhex(self.sha256)[at : at + 4], "big") for at in range(0, 32, 4)]
        order = RandomState(seed).permutation(counted(self.columns))
        order = order[np.argsort(self.labels(asked)[order], kind="stable")]
        test = order[PART // 2 :: PART]
        return np.setdiff1d(order, test), np.sort(test)


def _state(asked: Name) -> tuple[Path, tuple[int, int]]:
    """Where the file is, its size and when it was changed; what scikit-learn has never is."""
    path = Path(asked.path).expanduser()
    if asked.path in SHIPPED:
        return path, (0, 0)
    try:
        state = path.stat()
    except OSError as error:
        raise wrong(path, "a file that can be read", error.strerror or str(error), _other()) from error
    return path, (state.st_size, state.st_mtime_ns)


def _shipped(name: str) -> Table:
    from sklearn import datasets

    if name == "diabetes":
        bunch = datasets.load_diabetes(scaled=False)
        target = Column(bunch.target)
    else:
        bunch = datasets.load_breast_cancer()
        order = np.argsort(bunch.target_names)
        target = Column(None, tuple(map(str, bunch.target_names[order])), np.argsort(order)[bunch.target])
    columns = {str(column): Column(bunch.data[:, place]) for place, column in enumerate(bunch.feature_names)}
    digest = hashlib.sha256(bunch.data.tobytes() + bunch.target.tobytes()).hexdigest()
    return Table(Path(name), digest, columns | {SHIPPED[name]: target})


@lru_cache(maxsize=4)
def _opened(path: Path, state: tuple[int, int]) -> Table:
    if str(path) in SHIPPED:
        return _shipped(str(path))
    content = path.read_bytes()
    return Table(path, hashlib.sha256(content).hexdigest(), read(content, path))


def _kept(key: str, path: Path, state: tuple[int, int], asked: Name) -> Facts:
    kept = cache_dir() / "tables" / f"{key}.json"
    with suppress(OSError, ValueError, TypeError):
        content = json.loads(kept.read_text(encoding="utf-8"))
        tuples = {name: tuple(value) for name, value in content.items() if isinstance(value, list)}
        return Facts(**(content | tuples))
    found = _facts(path, state, asked)
    with suppress(OSError):  # without a cache it is read again the next time
        kept.parent.mkdir(parents=True, exist_ok=True)
        files.replace(kept, json.dumps(asdict(found)).encode())
    return found


def _facts(path: Path, state: tuple[int, int], asked: Name) -> Facts:
    if faulty := _no_target(path, asked):
        raise faulty
    made = _opened(path, state)
    _check(made, asked)
    answers, labels, (pool, test) = made.answers(asked), made.labels(asked), made.drawn(asked)
    # A class of a single row may be in the test set alone.
    counts = np.bincount(labels[pool], minlength=labels.max() + 1) if answers == "class" else np.zeros(0, np.int64)
    validation = min(len(pool) // PART, 10_000)
    width = sum(len(list(_inputs(made.columns[column], pool, pool))) for column in made.features(asked))
    return Facts(
        name=f"table@{asked.target}",  # not its path: the same file elsewhere is the same data
        shape=(width,),
        classes=len(counts) or 1,
        train=len(pool) - validation,
        validation=validation,
        test=len(test),
        checksum=_digest(f"{asked.target} as {answers} of {made.sha256}"),
        most_frequent=float(np.bincount(labels[test]).max() / len(test)) if answers == "class" else 0.0,
        class_counts=tuple(map(int, counts)),
        real=True,
        answers=answers,
    )


def _no_target(path: Path, asked: Name) -> DataError | None:
    there = list(_shipped(asked.path).columns) if asked.path in SHIPPED else names(path.read_bytes(), path)
    if not there or asked.target in there:
        return None  # of an empty file more is said where it is read
    listed = ", ".join(there[:30]) + (f" and {len(there) - 30} more" if len(there) > 30 else "")
    if not asked.target:
        return wrong(path, "the column that is asked for", "none", f"Write table:{asked.path}@TARGET; {listed}.")
    if parted := [name for name in there if re.match(re.escape(asked.target) + "[+~:]", name)]:
        todo = f"Rename the column {parted[0]!r}: +, ~ and : part what is said of a data set."
        return wrong(path, f"a column {asked.target!r}", "none", todo)
    close = difflib.get_close_matches(asked.target, there, n=3, cutoff=0.5)
    todo = f"Did you mean {' or '.join(close)}? " if close else ""
    return wrong(path, f"a column {asked.target!r}", "none", f"{todo}There are {listed}.")


def _check(made: Table, asked: Name) -> None:
    """Raise DataError where nothing can be learned of the table."""
    target, size = made.columns[asked.target], counted(made.columns)
    if size < LEAST:
        raise wrong(made.path, f"at least {LEAST} rows", str(size))
    if len(made.columns) < 2:
        raise wrong(made.path, "columns beside the one that is asked for", "none")
    if target.missing.all():
        raise wrong(made.path, f"answers in the column {asked.target!r}", "none in any row")
    if target.missing.any():
        places = np.flatnonzero(target.missing)
        stand = rows(made.path.read_bytes(), made.path, places[:NAMED].tolist())
        rows_named = ", ".join(f"{row:,}" for row in stand)
        more = f" and {len(places) - NAMED:,} more" if len(places) > NAMED else ""
        raise wrong(made.path, f"an answer in each row, column {asked.target!r}", f"none in row {rows_named}{more}")
    different = len(np.unique(made.labels(asked)))
    if different < 2:
        only = target.levels[0] if target.numbers is None else f"{target.numbers[0]:g}"
        what = "class" if made.answers(asked) == "class" else "number"
        raise wrong(made.path, f"at least two answers in the column {asked.target!r}", f"one {what} only, {only!r}")
    if made.answers(asked) == "class" and different * 2 > size:
        todo = "Ask for another column, or write :number behind its name where it has numbers."
        raise wrong(made.path, f"classes in the column {asked.target!r}", f"{different:,} in {size:,} rows", todo)
    for name in made.features(asked):
        if len(levels := made.columns[name].levels) > MOST_LEVELS:
            todo = "Leave the column out, or write numbers or fewer categories."
            raise wrong(
                made.path, f"at most {MOST_LEVELS:,} categories in the column {name!r}", f"{len(levels):,}", todo
            )


def _alike(column: Column) -> bool:
    if column.numbers is None:
        return len(np.unique(column.codes)) == 1
    there = column.numbers[~column.missing]
    return len(np.unique(there)) < 2 and column.missing.mean() in (0, 1)


def _inputs(column: Column, pool: NDArray[np.int64], train: NDArray[np.int64]) -> list[NDArray[np.float64]]:
    """What a column becomes, for all rows: how many numbers it is, the pool says, and what they are, the training."""
    missing = column.missing
    unknown = [_flag(missing, train)] if missing[pool].any() else []
    if column.numbers is None:
        levels = np.unique(column.codes[pool])
        return [_flag(column.codes == level, train) for level in levels if level >= 0] + unknown
    there = column.numbers[train][~missing[train]]
    filled = np.where(missing, np.median(there) if len(there) else 0.0, column.numbers)
    mean, deviation = filled[train].mean(), filled[train].std()
    constant = len(np.unique(filled[train])) < 2
    return [np.zeros(len(filled)) if constant else (filled - mean) / deviation, *unknown]


def _names(name: str, column: Column, pool: NDArray[np.int64]) -> list[str]:
    """What the numbers are that `_inputs` makes of a column."""
    unknown = [f"{name} is missing"] if column.missing[pool].any() else []
    if column.numbers is None:
        levels = np.unique(column.codes[pool])
        return [f"{name} is {column.levels[level]}" for level in levels if level >= 0] + unknown
    return [name, *unknown]


def _flag(flags: NDArray[np.bool_], train: NDArray[np.int64]) -> NDArray[Any]:
    """1 where it holds, else 0; of what all of the training set is, or nothing of it, always 0."""
    varies = 0 < flags[train].sum() < len(train)
    return flags.astype(np.float64) if varies else np.zeros(len(flags))


def _digest(what: str) -> str:
    return hashlib.sha256(what.encode()).hexdigest()


def _other() -> str:
    return f"recipe.data has the form {FORM}."
