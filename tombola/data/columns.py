"""What stands in a table's file: its columns, numbers or categories, and what of it cannot be read, by row and column.

A row is counted as a spreadsheet does: that of the names is row 1.
"""

import csv
import io
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tombola.errors import DataError, not_installed

MISSING = frozenset({"", "na", "n/a", "nan", "null", "none", "?"})  # in any letters: a cell of which nothing is known
NUMBERS = 0.95  # of a column's cells from which on it is one of numbers, and the others are faults
NAMED = 5  # faults that a message names one by one
_AT_ONCE = 1000  # rows: of more at once the cells leave the cache, and take six times as long
_DELIMITERS = ",;\t|"
_COMMAS = re.compile(r"[-+]?[0-9]+([., ][0-9]+)*")  # a number to whoever wrote it, if there is a comma


@dataclass(frozen=True)
class Column:
    """One column of a table.

    Attributes:
        numbers: one for each row, NaN where it is missing; of categories none.
        levels: the categories, sorted; of numbers none.
        codes: which of them each row has, -1 where it is missing; of numbers none.
    """

    numbers: NDArray[np.float64] | None = None
    levels: tuple[str, ...] = ()
    codes: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))

    @property
    def missing(self) -> NDArray[np.bool_]:
        """Which rows have none."""
        return self.codes < 0 if self.numbers is None else np.isnan(self.numbers)


@dataclass
class _Seen:
    """What has been read of a column so far: numbers, and cells that are none."""

    parts: list[NDArray[np.float64]] = field(default_factory=list)
    others: int = 0
    first: list[tuple[int, str]] = field(default_factory=list)
    infinite: list[int] = field(default_factory=list)

    def add(self, cells: Sequence[str], rows: Sequence[int]) -> None:
        try:
            numbers = np.array(list(map(float, cells)))
        except ValueError:
            numbers = np.array([self._number(cell, row) for cell, row in zip(cells, rows, strict=True)])
        if np.isinf(numbers).any():
            self.infinite += [rows[int(place)] for place in np.flatnonzero(np.isinf(numbers)).tolist()]
        self.parts.append(numbers)

    def _number(self, cell: str, row: int) -> float:
        try:
            return float(cell)
        except ValueError:
            if cell.strip().lower() not in MISSING:
                self.others += 1
                if len(self.first) < NAMED:
                    self.first.append((row, cell))
            return float("nan")

    def faults(self, name: str) -> Iterator[str]:
        if self.others:
            listed = "; ".join(f"row {row:,}, column {name!r}: {cell!r}" for row, cell in self.first)
            yield f"{listed}{_more(self.others - len(self.first))} among numbers"
        if self.infinite:
            rows = ", ".join(f"{row:,}" for row in self.infinite[:NAMED])
            yield f"row {rows}{_more(len(self.infinite) - NAMED)}, column {name!r}: an infinite number"


def read(content: bytes, place: Path) -> dict[str, Column]:
    """The columns, by name in their order, of a file that has been read.

    Args:
        content: of it; what its name ends in says whether it is CSV or Parquet.
        place: where it lies, for messages.

    Raises:
        DataError: something of it cannot be read; names rows and columns.
        BadInput: it is Parquet, and pyarrow, which reads it, is not installed.

    >>> made = read(b"age,town\\n31,Ulm\\n,Bern\\n", Path("people.csv"))
    >>> made["age"].numbers.tolist(), made["town"].levels, made["town"].codes.tolist()
    ([31.0, nan], ('Bern', 'Ulm'), [1, 0])
    """
    return _parquet(content, place) if _is_parquet(place) else _csv(content, place)


def rows(content: bytes, place: Path, numbers: Sequence[int]) -> list[int]:
    """Where the rows of these numbers, from 0 on and rising, stand in the file."""
    if _is_parquet(place):
        return [number + 2 for number in numbers]
    text = _text(content, place)
    return _rows(text, numbers, len(_header(text)))


def _is_parquet(place: Path) -> bool:
    return place.suffix.lower() == ".parquet"


def names(content: bytes, place: Path) -> list[str]:
    """The names of the columns alone."""
    return list(_frame(content, place).schema.names) if _is_parquet(place) else _header(_text(content, place))


def wrong(place: Path, expected: str, found: str, todo: str = "Mend the file; nothing was trained.") -> DataError:
    """What to raise of a table's file."""
    return DataError(where=str(place), expected=expected, found=found, todo=todo)


# ---- CSV


def _text(content: bytes, place: Path) -> str:
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        row = content.count(b"\n", 0, error.start) + 1
        found = f"a byte that is none, {content[error.start]:#04x}, in row {row:,}"
        coding = "utf-16" if content[:2] in (b"\xff\xfe", b"\xfe\xff") else "latin1"
        todo = f"Save it as UTF-8; if it is {coding}, as it may be, by iconv -f {coding} -t utf-8."
        raise wrong(place, "text in UTF-8", found, todo) from error


def _header(text: str) -> list[str]:
    return next(_records(text), [])


def _records(text: str) -> Iterator[list[str]]:
    first = text.partition("\n")[0]
    delimiter = max(_DELIMITERS, key=first.count)
    return csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)


def _csv(content: bytes, place: Path) -> dict[str, Column]:
    text = _text(content, place)
    header = _header(text)
    _check_header(header, place)
    seen, ragged = [_Seen() for _ in header], list[str]()
    rows = 0
    try:
        for numbered, cells in _chunks(text, len(header), ragged):
            rows += len(numbered)
            for each, column in zip(seen, cells, strict=True):
                each.add(column, numbered)
    except csv.Error as error:
        raise wrong(place, "rows of cells", str(error)) from error
    if not rows and not ragged:
        raise wrong(place, "rows below the names of the columns", "none")
    kinds = [_numeric(each, rows) for each in seen]
    faults = ragged + [
        fault for name, each, numeric in zip(header, seen, kinds, strict=True) if numeric for fault in each.faults(name)
    ]
    if faults:
        listed = "; ".join(faults[:NAMED]) + _more(len(faults) - NAMED)
        raise wrong(place, f"rows of {len(header)} cells, and numbers in columns of numbers", listed)
    categories = iter(_categories(text, [place for place, numeric in enumerate(kinds) if not numeric], len(header)))
    made = {
        name: Column(np.concatenate(each.parts)) if numeric else next(categories)
        for name, each, numeric in zip(header, seen, kinds, strict=True)
    }
    _check_commas(made, text, place)
    return made


def _check_commas(made: Mapping[str, Column], text: str, place: Path) -> None:
    """Refuse numbers that are written with commas: as categories each would be one of its own, and mean nothing."""
    for name, column in made.items():
        written = [level for level in column.levels if _COMMAS.fullmatch(level)]
        if len(written) > NUMBERS * len(column.levels) and any("," in level for level in written):
            first = int(np.flatnonzero(column.codes >= 0)[0])
            cell, (row,) = column.levels[column.codes[first]], _rows(text, [first], len(made))
            found = f"numbers written with commas in column {name!r}, like {cell!r} in row {row:,}"
            raise wrong(place, "numbers like 1050.5", found, "Write a point before the decimals, and nothing else.")


def _check_header(header: Sequence[str], place: Path) -> None:
    if not header:
        raise wrong(place, "a table, its first row the names of the columns", "an empty file")
    if twice := sorted({name for name in header if header.count(name) > 1}):
        raise wrong(place, "columns of different names", f"{', '.join(map(repr, twice))} more than once")


def _chunks(text: str, width: int, ragged: list[str]) -> Iterator[tuple[list[int], list[tuple[str, ...]]]]:
    """Numbers of rows and their cells column by column, some rows at a time; what is not `width` long is told."""
    records = enumerate(_records(text), start=1)
    next(records)
    while chunk := list(islice(records, _AT_ONCE)):
        ragged += [
            f"row {row:,}: {len(cells)} cells, not {width}" for row, cells in chunk if len(cells) not in (0, width)
        ]
        whole = [(row, cells) for row, cells in chunk if len(cells) == width]
        if whole:
            yield [row for row, _ in whole], list(zip(*(cells for _, cells in whole), strict=True))


def _rows(text: str, numbers: Sequence[int], width: int) -> list[int]:
    """Where the rows of these numbers, from 0 on and rising, stand among empty ones."""
    rows = [row for numbered, _ in _chunks(text, width, []) for row in numbered]
    return [rows[number] for number in numbers]


def _numeric(seen: _Seen, rows: int) -> bool:
    """Whether a column is one of numbers: no other cells, or few of them."""
    missing = sum(int(np.isnan(part).sum()) for part in seen.parts) - seen.others
    return seen.others <= (1 - NUMBERS) * (rows - missing)


def _categories(text: str, places: Sequence[int], width: int) -> list[Column]:
    """Those of the columns at `places`, by another look at the file."""
    known: list[dict[str, int]] = [{} for _ in places]
    codes: list[list[int]] = [[] for _ in places]
    for _, cells in _chunks(text, width, []) if places else ():
        for levels, own, place in zip(known, codes, places, strict=True):
            own += [levels.setdefault(cell, len(levels)) for cell in cells[place]]
    return [_category(list(levels), np.array(own)) for levels, own in zip(known, codes, strict=True)]


def _category(texts: Sequence[str], codes: NDArray[Any]) -> Column:
    """A column of categories out of what its cells say, blanks around it taken away, and which each row has."""
    bare = [text.strip() for text in texts]
    levels = sorted({text for text in bare if text.lower() not in MISSING})
    place = {text: number for number, text in enumerate(levels)}
    return Column(None, tuple(levels), np.array([place.get(text, -1) for text in bare], np.int64)[codes])


def _more(others: int) -> str:
    return f" and {others:,} more" if others > 0 else ""


# ---- Parquet


def _frame(content: bytes, place: Path) -> Any:
    try:
        from pyarrow import ArrowInvalid, parquet
    except ImportError as error:
        raise not_installed(str(place), "pyarrow, which reads Parquet", "tables") from error
    try:
        return parquet.read_table(io.BytesIO(content))
    except ArrowInvalid as error:
        raise wrong(place, "a file in Parquet's format", str(error)) from error


def _parquet(content: bytes, place: Path) -> dict[str, Column]:
    frame = _frame(content, place)
    _check_header(frame.schema.names, place)
    if not frame.num_rows:
        raise wrong(place, "rows", "none")
    made = {name: _arrow(frame.column(name).to_pylist()) for name in frame.schema.names}
    infinite = [name for name, each in made.items() if each.numbers is not None and np.isinf(each.numbers).any()]
    if infinite:
        rows = {name: int(np.flatnonzero(np.isinf(_numbers(made[name])))[0]) + 2 for name in infinite}
        listed = "; ".join(f"row {row:,}, column {name!r}: an infinite number" for name, row in rows.items())
        raise wrong(place, "finite numbers", listed)
    return made


def _numbers(column: Column) -> NDArray[np.float64]:
    assert column.numbers is not None
    return column.numbers


def _arrow(cells: Sequence[Any]) -> Column:
    """A column by what its cells are: numbers where all are, else categories."""
    if all(cell is None or (isinstance(cell, int | float) and not isinstance(cell, bool)) for cell in cells):
        return Column(np.array([float("nan") if cell is None else float(cell) for cell in cells]))
    texts, levels = ["" if cell is None else str(cell) for cell in cells], dict[str, int]()
    codes = np.array([levels.setdefault(text, len(levels)) for text in texts])
    return _category(list(levels), codes)


def counted(columns: Mapping[str, Column]) -> int:
    """How many rows there are."""
    first = next(iter(columns.values()))
    return len(first.codes) if first.numbers is None else len(first.numbers)
