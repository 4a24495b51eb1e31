"""The page's record: what is coded is decoded again, what has no room is named, and nothing else is in it."""

import tomllib
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from torch import nn

from tombola import data, mask, models, prunable, weights
from tombola.cli import main
from tombola.errors import BadInput
from tombola.explorer import one_file, page
from tombola.explorer.coding import Blobs, coded, decoded, quantised
from tombola.explorer.shown import Shown
from tombola.search import Search
from tombola.ticket import Ticket

some_masks = st.integers(1, 6).flatmap(
    lambda levels: arrays.arrays(bool, st.tuples(st.just(levels), st.integers(1, 40)), elements=st.booleans())
)


@given(some_masks)
def test_masks_are_decoded_as_they_were_whether_they_nest_or_not(masks: np.ndarray) -> None:
    nested = np.logical_and.accumulate(masks, axis=0)
    for levels, code in ((masks, None), (nested, "lives")):
        found = coded(list(levels))
        assert code is None or found.code == code
        assert np.array_equal(decoded(found, *levels.shape), levels)


@given(st.lists(st.integers(-8_000, 8_000), max_size=30))
def test_weights_as_bytes_are_close_and_keep_their_signs(thousandths: list[int]) -> None:
    values = (np.array(thousandths) / 1000).astype(np.float32)
    content, unit = quantised(values)
    found = np.frombuffer(content, np.int8)
    assert np.array_equal(np.sign(found), np.sign(values))
    assert np.all(np.abs(found * unit - values) <= unit * 1.001)


def test_all_that_the_page_is_made_of_is_in_the_package() -> None:
    root = Path(one_file.__file__).parents[2]
    if not (root / "pyproject.toml").is_file():
        pytest.skip("needs the checkout")
    patterns = tomllib.loads((root / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]["tombola"]
    files = [each for each in (root / "tombola" / "explorer").iterdir() if each.suffix not in (".py", "")]
    assert files and all(any(each.match(f"tombola/{pattern}") for pattern in patterns) for each in files)


def test_parts_that_are_of_use_only_together_come_together_or_not_at_all() -> None:
    noise = np.random.default_rng(0).bytes(100)
    blobs = Blobs(200)
    assert blobs.add(noise) == 0 and blobs.add(noise) == 0
    left = blobs.room
    assert blobs.add_all([b"short", np.random.default_rng(1).bytes(100)]) is None
    assert blobs.room == left and len(blobs.parts) == 1 and blobs.add(b"short") == 1


def test_a_table_is_shown_as_each_replicate_has_it() -> None:
    shown, tables = Shown(Blobs(10**6)), [data.load(f"table:diabetes~{seed}", None) for seed in (1, 2)]
    for place, each in enumerate(tables):
        at, inputs = shown.of(each)
        assert at == place and torch.equal(inputs, each.test_images[torch.arange(len(inputs))])


def a_ticket(path: Path, origin: dict[str, object]) -> Path:
    model = models.build("lenet-6-5", (1, 8, 8), 10, "glorot-normal", 0)
    alive = mask.random_like(prunable.full(model), 0)
    Ticket.of(model, alive, weights.of(model), origin).save(path)
    return path


def test_a_tickets_file_has_a_page(tmp_path: Path) -> None:
    file = a_ticket(tmp_path / "one.safetensors", {"model": "mine", "data": "digits", "level": 4})
    assert main(["explore", str(file)]) == 0
    assert "A ticket, before any training of its own." in (tmp_path / "one.html").read_text()
    made = one_file.page(file)
    assert made.shape == (1, 8, 8) and made.chained
    (series,) = made.series
    assert [level.level for level in series.levels] == [4] and series.levels[0].start and not series.levels[0].trained


@pytest.mark.parametrize("data", ["folder:/", "sst2@/etc/passwd", 7, "none such", "</script>"])
def test_what_a_file_says_of_data_is_not_looked_for(tmp_path: Path, data: object) -> None:
    file = a_ticket(
        tmp_path / "one.safetensors", {"data": data, "layouts": {"fc1.weight": {"outputs": "x"}}, "level": "4"}
    )
    made = one_file.page(file)
    assert not made.shape and one_file.NO_PLACE in made.notes
    assert "</script>" not in json_of(page.text(made))
    assert one_file.page(file, (1, 8, 8)).shape == (1, 8, 8)
    with pytest.raises(BadInput, match=r"--shape: expected channels, height and width of what fc1\.weight reads"):
        one_file.page(file, (3, 8, 8))


def json_of(text: str) -> str:
    return text.partition('id="record">')[2].partition("</script>")[0]


def test_a_searchs_file_has_a_page_before_it_is_finished(tmp_path: Path) -> None:
    model = models.build("lenet-20-10", (1, 8, 8), 10, "glorot-normal", 0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    path = tmp_path / "search.safetensors"
    search = Search(model, optimizer, levels=3, rate=0.5, path=path)
    for level in search:
        if level.number == 2:
            break
        for _ in range(2):
            optimizer.zero_grad()
            model(torch.linspace(-1, 1, 512).sin().view(8, 1, 8, 8)).square().mean().backward()
            optimizer.step()
        level.report(accuracy=0.25 * level.number, loss=float("nan"))
    made = one_file.page(path, (1, 8, 8))
    (series,) = made.series
    assert [level.alive for level in series.levels] == [search.mask(number).alive for number in range(3)]
    assert [level.values.get("accuracy") for level in series.levels] == [0.0, 0.25, None]
    assert [level.values.get("steps") for level in series.levels] == [2, 2, None]
    assert series.levels[0].values["loss"] is None  # NaN is no JSON
    assert [level.trained is not None for level in series.levels] == [True, True, False]
    assert main(["explore", str(path), "--shape", "1,8,8", "-o", str(tmp_path / "page.html")]) == 0
    assert (tmp_path / "page.html").is_file()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_a_ticket_of_any_precision_has_a_page(tmp_path: Path, dtype: torch.dtype) -> None:
    model = nn.Sequential(nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 2)).to(dtype)
    Ticket.of(model, prunable.full(model), weights.of(model)).save(tmp_path / "one.safetensors")
    (series,) = one_file.page(tmp_path / "one.safetensors").series
    assert series.levels[0].start


def test_what_is_no_shape_and_no_file_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = a_ticket(tmp_path / "one.safetensors", {})
    assert main(["explore", str(file), "--shape", "28x28"]) == 2
    assert "--shape: expected channels,height,width, found 28x28" in capsys.readouterr().err
    assert main(["explore", "digits", "--shape", "1,8,8"]) == 2
    (tmp_path / "other.bin").write_bytes(b"nothing")
    assert main(["explore", str(tmp_path / "other.bin")]) == 2
    assert "expected" in capsys.readouterr().err and not (tmp_path / "other.html").exists()
