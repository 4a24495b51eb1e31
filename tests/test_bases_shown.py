"""What reports, tables and the explorer show of tickets in bases: coordinates are neither pixels nor connections."""

import io
from pathlib import Path

import pytest
import torch
from rich.console import Console

from tombola import data, models, weights
from tombola.cli import main
from tombola.errors import BadInput
from tombola.explorer import experiment, one_file
from tombola.lab.plan import plan
from tombola.lab.results import Results, results
from tombola.lab.spec_file import read
from tombola.lab.store import Store
from tombola.report import page
from tombola.report.text import arms_table, summary_table
from tombola.ticket import Ticket

SPEC = """
levels = 2
replicates = 1
arms = ["ticket"]
[recipe]
model = "lenet-20-10"
data = "digits"
length = "40it"
batch = 60
optimizer = {name = "adam", lr = 2e-3}
[prune]
rate = 0.5
"""
ARMS = """
[arm.dct]
method = "generalised"
basis = "dct"
[arm.rank]
method = "generalised"
basis = "svd"
scope = "units"
"""
DRAWN = ("method=generalised", "search.basis=orthogonal")


def of(folder: Path, name: str, *changes: str) -> Results:
    given = [each for change in changes for each in ("--set", change)]
    spec, store = str(folder / f"{name}.toml"), folder / "store"
    assert main(["run", spec, "--store", str(store), "--workers", "1", *given]) == 0
    return results(plan(read(spec, changes)), Store(store))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("bases")
    (made / "ticket.toml").write_text(SPEC)
    (made / "arms.toml").write_text(SPEC.replace('["ticket"]', '["ticket", "dct", "rank"]') + ARMS)
    return made


@pytest.fixture(scope="module")
def arms(folder: Path) -> Results:
    return of(folder, "arms")


@pytest.fixture(scope="module")
def drawn(folder: Path) -> Results:
    return of(folder, "ticket", *DRAWN)


def test_the_density_of_a_row_is_the_tickets_and_those_of_other_arms_are_named(arms: Results, tmp_path: Path) -> None:
    other = arms.other_densities["rank"][-1]
    assert list(arms.other_densities) == ["rank"] and f"{other:.1%}" != "25.0%"
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(summary_table(arms, 200))
    console.print(arms_table(arms, 200))
    text = " ".join(console.export_text().split())
    assert " 2 25.0 " in text and text.count(f"Density of rank, level by level: 50.0%, {other:.1%}.") == 2
    html = page.write(arms, tmp_path).read_text()
    living = next(one.values["alive"] for one in arms.rows if (one.row.arm, one.row.level) == ("ticket", 2))
    assert f"<td>2<td>25.0%<td>{living:,}<td>" in html and html.count(f"<small>density</small> {other:.1%}") == 1


def test_coordinates_are_not_drawn_as_pixels(arms: Results, drawn: Results) -> None:
    assert page._survivors(arms) and not page._survivors(drawn)


def test_a_basis_that_each_replicate_draws_has_one_name_in_titles(drawn: Results) -> None:
    assert drawn.network.startswith("lenet-20-10+orthogonal, ")


def test_the_explorer_shows_the_weights_that_coordinates_make(arms: Results) -> None:
    shown = experiment.page(arms, data.load)
    assert any("dct, rank: what is pruned is coordinates" in note for note in shown.notes)
    run = next(one for one in arms.rows if (one.row.arm, one.row.level) == ("dct", 2))
    look = experiment._look(run, arms)
    assert look.level.density == 0.25 and look.mask().density == 1 and look.trained is not None
    turned, plain = (
        models.build(name, (1, 8, 8), 10, "glorot-normal", 0) for name in ("lenet-20-10+dct", "lenet-20-10")
    )
    weights.put(turned, arms.store.weights(run.row.run))
    weights.put(plain, look.trained())
    images = torch.randn(3, 1, 8, 8)
    assert torch.allclose(plain(images), turned(images), atol=1e-5)


def test_the_page_of_a_file_shows_weights_or_says_why_not(drawn: Results, folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "ticket.safetensors"
    given = [each for change in DRAWN for each in ("--set", change)]
    spec = [str(folder / "ticket.toml"), "--store", str(folder / "store")]
    assert main(["ticket", *spec, *given, "--level", "2", "-o", str(file)]) == 0
    shown = one_file.page(file)
    assert any("coordinates in a basis" in note for note in shown.notes)
    (series,) = shown.series
    assert series.levels[0].density == 0.25
    ticket = Ticket.load(file)
    Ticket(ticket.mask, ticket.weights, {"model": "mine", "basis": "orthogonal~3"}).save(file)
    with pytest.raises(BadInput, match="coordinates in orthogonal~3, of a network that the file does not tell whole"):
        one_file.page(file)
