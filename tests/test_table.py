"""Tables of one's own: what is read of a file, what becomes of it, and what is refused, by row and column."""

import csv
import io
import math
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.preprocessing import StandardScaler

from tombola import data
from tombola.data import columns, table
from tombola.data.shared import attach, publish
from tombola.errors import DataError
from tombola.lab.plan import plan, summary
from tombola.lab.replicate import Replicate
from tombola.lab.spec_file import read
from tombola.lab.store import Store

CELLS = st.text("ab \"',;\n|", min_size=1, max_size=5).filter(lambda text: text.strip() not in columns.MISSING)
FLOATS = st.one_of(st.none(), st.floats(-1e9, 1e9, allow_subnormal=False))


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def text_of(rows: list[list[Any]]) -> bytes:
    csv.writer(stream := io.StringIO(newline=""), lineterminator="\n").writerows(rows)
    return stream.getvalue().encode()


def rows(count: int = 200, seed: int = 0) -> list[list[Any]]:
    """Four columns, one with gaps, one of categories, and one of what follows from them."""
    draw = np.random.default_rng(seed)
    age, size = draw.normal(40, 10, count), draw.exponential(3, count)
    town = draw.choice(["Ulm", "Bern", "Graz"], count)
    kind = np.where(age + 5 * (town == "Ulm") > 40, "yes", "no")
    gaps = ["" if draw.random() < 0.1 else f"{each:.4f}" for each in size]
    made = [[f"{a:.4f}", g, t, k] for a, g, t, k in zip(age, gaps, town, kind, strict=True)]
    return [["age", "size", "town", "bought"], *made]


def name(folder: Path, made: list[list[Any]], target: str = "bought") -> str:
    (folder / "my.csv").write_bytes(text_of(made))
    return f"table:{folder / 'my.csv'}@{target}"


# ---- reading


@given(st.lists(st.tuples(FLOATS, CELLS), min_size=1, max_size=30))
def test_what_was_written_is_read(cells: list[tuple[float | None, str]]) -> None:
    written = [["number", "text"], *(["" if one is None else repr(one), other] for one, other in cells)]
    found = columns.read(text_of(written), Path("my.csv"))
    numbers, texts = found["number"].numbers, found["text"]
    assert numbers is not None
    assert [None if math.isnan(one) else one for one in numbers] == [one for one, _ in cells]
    assert [texts.levels[code] for code in texts.codes] == [other.strip() for _, other in cells]


@given(st.integers(20, 200), st.integers(0, 200))
def test_a_column_is_of_numbers_where_nineteen_in_twenty_cells_are(count: int, texts: int) -> None:
    texts = min(texts, count)
    content = text_of([["x", "y"], *(["1", "2"] for _ in range(count - texts)), *(["abc", "2"] for _ in range(texts))])
    few = texts <= (1 - columns.NUMBERS) * count
    if texts and few:
        with pytest.raises(DataError, match="column 'x': 'abc'"):
            columns.read(content, Path("my.csv"))
    else:
        assert (columns.read(content, Path("my.csv"))["x"].numbers is None) == bool(texts)


@pytest.mark.parametrize("delimiter", list(",;\t|"))
def test_cells_are_parted_by_what_the_first_row_has(delimiter: str) -> None:
    content = delimiter.join("abc").encode() + b"\n" + delimiter.join("123").encode() + b"\n"
    assert list(columns.read(content, Path("my.csv"))) == ["a", "b", "c"]


def test_parquet_is_read_as_csv_is(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    made = rows()
    cells = list(zip(*made[1:], strict=True))
    kinds: list[Any] = [float, lambda cell: float(cell) if cell else None, str, str]
    held = {column: list(map(kind, own)) for column, kind, own in zip(made[0], kinds, cells, strict=True)}
    parquet.write_table(pyarrow.table(held), tmp_path / "my.parquet")
    one, other = (
        data.load(name(tmp_path, made)),
        columns.read((tmp_path / "my.parquet").read_bytes(), Path("x.parquet")),
    )
    for column, each in columns.read((tmp_path / "my.csv").read_bytes(), Path("x.csv")).items():
        assert each.levels == other[column].levels and np.array_equal(each.codes, other[column].codes)
        if each.numbers is not None:
            assert np.array_equal(each.numbers, other[column].numbers, equal_nan=True)  # type: ignore[arg-type]
    assert data.facts(f"table:{tmp_path / 'my.parquet'}@bought").shape == one.facts.shape


# ---- what becomes of it


def test_standardised_by_the_training_examples_alone(tmp_path: Path) -> None:  # leakage
    whole = name(tmp_path, rows())
    dataset = data.load(table.of_split(whole, 7))
    train, validation = data.split(dataset, 7)
    raw = columns.read((tmp_path / "my.csv").read_bytes(), tmp_path / "my.csv")["age"].numbers
    assert raw is not None
    pool = np.sort(np.concatenate([train, validation]))
    assert len(pool) == len(dataset.images)
    assert dataset.images[train, 0].mean().abs() < 1e-6 < dataset.images[:, 0].mean().abs()
    assert abs(float(dataset.images[train, 0].std(correction=0)) - 1) < 1e-6
    in_pool = np.setdiff1d(np.arange(200), _test_rows(whole))
    scaler = StandardScaler().fit(raw[in_pool][train, None])
    assert np.allclose(dataset.images[:, 0], scaler.transform(raw[in_pool][:, None])[:, 0], atol=1e-6)
    assert np.allclose(dataset.test_images[:, 0], scaler.transform(raw[_test_rows(whole)][:, None])[:, 0], atol=1e-6)


def _test_rows(whole: str) -> Any:
    asked = table.parts(whole)
    return table._opened(*table._state(asked)).drawn(asked)[1]


def test_cells_of_validation_and_test_change_no_training_input(tmp_path: Path) -> None:  # leakage
    made = rows()
    one = data.load(f"{name(tmp_path, made)}~3")
    test = set(_test_rows(name(tmp_path, made)).tolist())
    train, validation = data.split(one, 3)
    pool = [place for place in range(200) if place not in test]
    held_out = {pool[place] for place in validation.tolist()}
    # The file's content draws the test set: the numbers are changed where the columns are known, not in the file.
    opened = table._opened(*table._state(table.parts(name(tmp_path, made))))
    numbers = opened.columns["age"].numbers
    assert numbers is not None
    changed = numbers.copy()
    changed[sorted(held_out | test)] += 1000
    places = np.array(pool)
    before = table._inputs(opened.columns["age"], places, places[train.numpy()])[0]
    after = table._inputs(columns.Column(changed), places, places[train.numpy()])[0]
    assert np.array_equal(before[places[train.numpy()]], after[places[train.numpy()]])


def test_all_replicates_have_one_test_set_and_one_width(tmp_path: Path) -> None:
    spec = read("digits-lenet", ["recipe.model=lenet-8", f"recipe.data={name(tmp_path, rows())}"]).spec
    names = [Replicate(spec, number).recipe.data for number in range(3)]
    assert len(set(names)) == 3
    sets = [data.load(each) for each in names]
    assert len({each.facts.shape for each in sets}) == 1 and len({each.facts.fingerprint for each in sets}) == 3
    assert all(torch.equal(each.test_labels, sets[0].test_labels) for each in sets)
    assert not torch.equal(sets[0].images, sets[1].images)


def test_gaps_are_medians_and_said_so(tmp_path: Path) -> None:
    dataset = data.load(f"{name(tmp_path, rows())}~1")
    assert table.input_names(name(tmp_path, rows())) == [
        *("age", "size", "size is missing", "town is Bern", "town is Graz", "town is Ulm")
    ]
    size, gap = dataset.images[:, 1], dataset.images[:, 2]
    assert len(size[gap == 1].unique()) == 1 and set(gap.unique().tolist()) == {0.0, 1.0}
    train, _ = data.split(dataset, 1)
    known = size[train][gap[train] == 0]
    assert float(size[gap == 1][0]) == pytest.approx(float(np.median(known.numpy())), abs=1e-6)


def test_a_category_that_a_training_set_has_not_is_0(tmp_path: Path) -> None:
    made = rows()
    made[10][2] = "Rom"
    whole = name(tmp_path, made)
    kinds = set()
    for seed in range(12):
        dataset = data.load(f"{whole}~{seed}")
        train, _ = data.split(dataset, seed)
        for column in dataset.images.T:
            if (column[train] == column[train][0]).all():
                assert not column.any()
                kinds.add(seed)
    assert kinds or 9 in _test_rows(whole)


@pytest.mark.parametrize("others", range(52, 57))
def test_a_class_of_one_row_is_a_class_wherever_that_row_is(others: int, tmp_path: Path) -> None:
    made: list[list[Any]] = [["size", "bought"], *([row, "no"] for row in range(others)), [0, "yes"]]
    whole = name(tmp_path, made)
    labels = np.concatenate(table.arrays(whole)[1::2])
    assert table.facts(whole).classes == labels.max() + 1 == 2


@given(st.integers(2, 6), st.integers(60, 200), st.integers(0, 9))
def test_the_test_set_is_a_fifth_of_each_class(classes: int, count: int, seed: int) -> None:
    codes = np.random.default_rng(seed).integers(0, classes, count)
    made = table.Table(Path("x"), f"{seed:064x}", {"y": columns.Column(None, ("a",) * classes, codes)})
    pool, test = made.drawn(table.parts("table:x.csv@y"))
    assert sorted([*pool, *test]) == list(range(count))
    for kind in range(classes):
        assert abs((codes[test] == kind).sum() - (codes == kind).sum() / 5) <= 1


@pytest.mark.parametrize(
    ("values", "forced", "answers"),
    [
        (["yes", "no"], "", "class"),
        (["True", "False"], "", "class"),
        ([0, 1, 2], "", "class"),
        ([0.5, 1.5], "", "number"),
        (range(21), "", "number"),
        (range(21), ":class", "class"),
        ([0, 1, 2], ":number", "number"),
    ],
)
def test_what_is_asked_follows_from_the_target(values: Any, forced: str, answers: str, tmp_path: Path) -> None:
    made = [["x", "y"], *([place * 0.5, list(values)[place % len(values)]] for place in range(210))]
    known = data.facts(name(tmp_path, made, "y") + forced)
    assert (known.answers, known.classes) == (answers, len(set(values)) if answers == "class" else 1)
    labels = data.load(name(tmp_path, made, "y") + forced).labels
    assert labels.dtype == (torch.int64 if answers == "class" else torch.float32)


def test_numbers_are_about_the_mean_of_the_training_set(tmp_path: Path) -> None:
    dataset = data.load(f"{name(tmp_path, rows(), 'age')}~5")
    train, _ = data.split(dataset, 5)
    assert abs(float(dataset.labels[train].double().mean())) < 1e-6 < abs(float(dataset.labels.double().mean()))


def test_other_processes_map_them_with_noise_and_turned(tmp_path: Path) -> None:
    whole = f"{name(tmp_path, rows())}~2+noise-4~2+rotated~2"
    publish(whole, None, tmp_path)
    mapped, held = attach(whole, tmp_path), data.load(whole)
    assert torch.equal(mapped.images, held.images) and held.facts.shape == (10,)


def test_facts_are_kept_until_the_file_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = name(tmp_path, rows())
    known = data.facts(whole)
    with monkeypatch.context() as patch:
        patch.setattr(table, "_opened", lambda *_: pytest.fail("it was read again"))
        assert data.facts(whole) == known
    assert data.facts(name(tmp_path, rows(201))) != known


def test_what_scikit_learn_ships_needs_no_file() -> None:
    assert (data.facts("table:breast-cancer").classes, data.facts("table:diabetes").answers) == (2, "number")
    assert data.load("table:diabetes~1").images.shape == (354, 10)


# ---- what is refused


def with_cell(row: int, column: int, text: str) -> list[list[Any]]:
    made = rows()
    made[row - 1][column] = text
    return made


@pytest.mark.parametrize(
    ("made", "target", "words"),
    [
        (rows(), "bougth", "expected a column 'bougth', found none. Did you mean bought"),
        (with_cell(31, 0, "abc"), "bought", "row 31, column 'age': 'abc' among numbers"),
        (with_cell(31, 0, "inf"), "bought", "row 31, column 'age': an infinite number"),
        (with_cell(31, 3, ""), "bought", "an answer in each row, column 'bought', found none in row 31"),
        ([*rows(), ["1", "2"]], "bought", "row 202: 2 cells, not 4"),
        ([["a", "a"], *([1, 2] for _ in range(60))], "a", "different names, found 'a' more than once"),
        ([["a", "b"], *([1, "x"] for _ in range(60))], "b", "one class only, 'x'"),
        ([["a", "b"], *([1, ""] for _ in range(60))], "b", "expected answers in the column 'b', found none in any row"),
        ([["a", "b"]], "b", "expected rows below the names of the columns, found none"),
        ([], "b", "found an empty file"),
        (rows(20), "bought", "expected at least 50 rows, found 20"),
        ([["a", "b"], *([1, f"x{n}"] for n in range(60))], "b", "expected classes in the column 'b', found 60 in 60"),
    ],
)
def test_bad_tables_are_refused(made: list[list[Any]], target: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(DataError) as raised:
        data.facts(name(tmp_path, made, target))
    assert words in str(raised.value)


def test_rows_stand_where_empty_ones_leave_them(tmp_path: Path) -> None:
    made = with_cell(31, 3, "")
    with pytest.raises(DataError, match="found none in row 34"):
        data.facts(name(tmp_path, [*made[:10], [], [], [], *made[10:]]))
    lines = ["age;bought", "", *(f"{n},5;{'yes' if n % 2 else 'no'}" for n in range(60))]
    (tmp_path / "my.csv").write_text("\n".join(lines))
    with pytest.raises(DataError, match="like '0,5' in row 3"):
        data.facts(f"table:{tmp_path / 'my.csv'}@bought")


@pytest.mark.parametrize("target", ["a+b", "a~1", "a:class"])
def test_a_target_that_would_be_misread_is_to_be_renamed(target: str, tmp_path: Path) -> None:
    made = rows()
    made[0][3] = target
    with pytest.raises(DataError, match=f"Rename the column '{re.escape(target)}'"):
        data.facts(name(tmp_path, made, target))


@pytest.mark.parametrize("ending", ["CSV", "tsv", "Csv"])
def test_endings_in_any_letters_are_tables(ending: str, tmp_path: Path) -> None:
    (tmp_path / f"my.{ending}").write_bytes(text_of(rows()).replace(b",", b"\t"))
    assert data.facts(f"table:{tmp_path / f'my.{ending}'}@bought").classes == 2


def test_how_a_table_is_read_is_told_before_anything_is_trained(tmp_path: Path) -> None:
    made = [[*row, "same" if place else "k"] for place, row in enumerate(rows())]
    spec = read("digits-lenet", ["recipe.model=lenet-8", f"recipe.data={name(tmp_path, made)}"])
    assert summary(plan(spec), Store(tmp_path / "store"), 1)["notes"] == [
        "recipe.data: 4 columns, 2 of numbers, 2 of categories (town: 3, k: 1), 1 with missing cells (size), make 7 "
        "inputs; bought is one of 2 classes. Alike in all rows, so that they teach nothing: k."
    ]


def test_without_a_target_the_columns_are_listed(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="TARGET; age, size, town, bought"):
        data.facts(name(tmp_path, rows()).partition("@")[0])


def test_other_encodings_are_refused_by_row(tmp_path: Path) -> None:
    (tmp_path / "my.csv").write_bytes(text_of([["a", "b"], [1, 2]]) + "Köln,3\n".encode("latin-1"))
    with pytest.raises(DataError, match="0xf6, in row 3"):
        data.facts(f"table:{tmp_path / 'my.csv'}@b")


def test_three_broken_rows_among_many_are_all_named(tmp_path: Path) -> None:
    made: list[list[Any]] = [["x", "y"], *([place * 0.5, place % 2] for place in range(100_000))]
    for row, cell in ((77, "abc"), (31_007, "-"), (99_999, "12,5")):
        made[row - 1][0] = cell
    with pytest.raises(DataError) as raised:
        data.facts(name(tmp_path, made, "y"))
    assert all(
        f"row {row}, column 'x': '{cell}'" in str(raised.value)
        for row, cell in (("77", "abc"), ("31,007", "-"), ("99,999", "12,5"))
    )


def test_nothing_is_trained_and_a_plan_needs_no_torch(tmp_path: Path) -> None:
    whole = name(tmp_path, with_cell(31, 0, "abc"))
    asked = ["digits-lenet", "--set", f"recipe.data={whole}", "--set", "recipe.model=lenet-8"]
    command = [sys.executable, "-m", "tombola", "run", *asked, "--store", str(tmp_path / "store")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=os.environ.copy())
    assert done.returncode == 2 and "row 31, column 'age'" in done.stderr.replace("\n", " ")
    assert not list(tmp_path.glob("store/*-*"))
    name(tmp_path, rows())
    code = "import sys; from tombola.cli import main; assert main(sys.argv[1:]) == 0; assert 'torch' not in sys.modules"
    command = [sys.executable, "-c", code, "plan", *asked, "--store", str(tmp_path / "store")]
    assert subprocess.run(command, capture_output=True, timeout=120, env=os.environ.copy()).returncode == 0


@pytest.mark.parametrize("cells", [["50,5", "31", "7,25"], ["1,050", "2,300,000", "12"], ["1.050,5", "3,1", "2"]])
def test_numbers_with_commas_are_no_categories(cells: list[str], tmp_path: Path) -> None:
    lines = [f"{cells[row % 3]};{'yes' if row % 2 else 'no'}" for row in range(60)]
    (tmp_path / "my.csv").write_text("age;bought\n" + "\n".join(lines) + "\n")
    with pytest.raises(DataError, match=f"commas in column 'age', like '{cells[0]}' in row 2"):
        data.facts(f"table:{tmp_path / 'my.csv'}@bought")


def test_whole_numbers_and_words_with_commas_are_read(tmp_path: Path) -> None:
    content = b"town;floor\nUlm, old town;1\nBern;2\n"
    assert columns.read(content, Path("my.csv"))["town"].levels == ("Bern", "Ulm, old town")
