"""What is public, and what the README and the docs promise."""

import importlib.util
import json
import re
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

import tombola
from tombola import cash
from tombola.errors import SpecError
from tombola.lab import presets, spec, spec_file
from tombola.lab.plan import plan, summary
from tombola.lab.store import Store
from tombola.lab.studies import STUDIES

ROOT = Path(__file__).parents[1]


def test_every_public_name_can_be_imported_and_no_other_is_promised() -> None:
    for name in tombola.__all__:
        assert getattr(tombola, name).__module__.startswith("tombola")
        assert name in dir(tombola)
    with pytest.raises(AttributeError, match="no attribute 'Tickets'"):
        _ = tombola.Tickets


def test_every_public_name_of_cash_can_be_imported_whatever_module_was_imported_before() -> None:
    for name in cash.__all__:
        value = getattr(cash, name)
        assert value.__module__.startswith("tombola.cash.") and name in dir(cash)
        assert getattr(cash, value.__module__.rpartition(".")[2]) is sys.modules[value.__module__], "no name is taken"
    with pytest.raises(AttributeError, match="no attribute 'compacting'"):
        _ = cash.compacting


def test_links_in_the_readme_and_the_docs_lead_somewhere() -> None:
    for page in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]:
        for link in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
            assert link.startswith("http") or (page.parent / link).exists(), f"{page.name}: {link}"


def test_the_spec_of_the_docs_is_valid_and_complete(tmp_path: Path) -> None:
    least, text, searches = re.findall(r"```toml\n(.*?)```", (ROOT / "docs" / "spec.md").read_text(), re.DOTALL)
    (tmp_path / "searches.toml").write_text(searches + least)
    assert set(spec_file.read(str(tmp_path / "searches.toml")).spec.arm) == {
        "snip",
        "cheap",
        "snip-shuffled",
        "movement",
    }
    assert re.search("^# densities = ", text, re.MULTILINE), "shown beside the levels, in whose place it stands"
    # What is not there by default is shown, but commented out.
    text = re.sub(r"^# (?!densities|inputs|published|basis|multiple)(\w+ = )", r"\1", text, flags=re.MULTILINE)
    # Changed inputs are none that one could augment or normalise, and a spectrum is of other data.
    (of_sinusoids,) = re.findall(r"^\[study\.spectrum\].*?(?=^\[)", text, re.MULTILINE | re.DOTALL)
    assert set(tomllib.loads(of_sinusoids)["study"]["spectrum"]) == set(STUDIES["spectrum"].table.model_fields)
    (tmp_path / "all.toml").write_text(text.replace(of_sinusoids, ""))
    shown = spec_file.read(str(tmp_path / "all.toml")).spec
    table = tomllib.loads(text)
    assert set(table) == set(spec.Spec.model_fields) - {"densities", "search", "arm"}
    # Of another scope than the one that is shown, beside no augmentation, and beside no study of connections.
    elsewhere = {"n", "m", "inputs", "basis", "multiple"}
    assert all(re.search(f"^# {name} = ", text, re.MULTILINE) for name in ("inputs", "basis", "multiple"))
    for part in ("recipe", "prune", "evaluate", "verdict"):
        assert set(table[part]) == set(type(getattr(shown, part)).model_fields) - elsewhere
    for study, asked in shown.study:
        if study == "spectrum":
            continue
        assert set(table["study"][study]) == set(type(asked).model_fields) - {"published"}, (
            "a folder that one must have"
        )
    (tmp_path / "least.toml").write_text(least)
    plain = spec_file.read(str(tmp_path / "least.toml")).spec
    for field in tomllib.loads(least)["recipe"]:
        with pytest.raises(SpecError, match=f"recipe.{field}: expected a value, found nothing"):
            spec_file.read(str(tmp_path / "least.toml"), [f"recipe.{field}=none"])
    same = shown.model_dump(mode="json"), plain.model_dump(mode="json")
    for each in same:  # shown with the value they come to, which a default leaves open
        for part, name in (("prune", "conv_rate"), ("prune", "output_rate"), ("verdict", "step_margin")):
            each[part].pop(name)
        for name in ("augment", "objective", "precision", "normalise", "dynamics", "label_noise"):
            each["recipe"].pop(name, None)
        for name in ("until", "most_replicates"):
            each["verdict"].pop(name, None)
        each.pop("study")
    assert same[0] == same[1]


def test_the_readme_names_every_command_and_preset_that_it_shows() -> None:
    readme = (ROOT / "README.md").read_text()
    for used in re.findall(r"tombola run ([a-z0-9-]+)", readme):
        assert used in presets.names()
    for command in ("run", "plan", "table", "verdict", "study", "report", "ticket", "show", "cash", "presets"):
        assert f"`tombola {command}" in readme


def test_the_readme_counts_trainings_as_the_plan_does(tmp_path: Path) -> None:
    readme = (ROOT / "README.md").read_text()
    more = dict(re.findall(r"tombola run (\S+) --set (replicates=\d+)", readme))
    rows = re.findall(r"^\| `([a-z0-9-]+)` \| .* \| ([0-9]+) \| [^|]+ \|$", readme, re.MULTILINE)
    counted = [(name, count) for name, count in rows if name in presets.names()]
    assert len(counted) == 19
    for name, count in counted:
        wanted = plan(spec_file.read(name, [more[name]] if name in more else []))
        assert summary(wanted, Store(tmp_path / "none"), 1)["runs"]["train"]["missing"] == int(count), name


def test_the_readmes_first_look_is_what_the_command_prints_of_the_numbers_that_are_kept(tmp_path: Path) -> None:
    """Its sentences are today's code's; its numbers those of the run that results/digits.md reports."""
    made = importlib.util.spec_from_file_location("first_look", ROOT / "benchmarks" / "first_look.py")
    assert made and made.loader
    first_look = importlib.util.module_from_spec(made)
    made.loader.exec_module(first_look)
    block = first_look.BLOCK.search((ROOT / "README.md").read_text(encoding="utf-8"))
    records = json.loads((ROOT / "results" / "digits.json").read_text(encoding="utf-8"))
    assert block and block[0] == first_look.printed(records, Store(tmp_path / "none"))


def test_modules_that_the_docs_name_exist() -> None:
    for page in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]:
        for name in re.findall(r"`(tombola(?:\.[a-z_]+)+)`", page.read_text()):
            module, _, attribute = name.rpartition(".")
            assert hasattr(importlib.import_module(module), attribute) or importlib.import_module(name)


def test_the_python_of_the_page_on_tickets_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tombola.ticket import Ticket

    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    for example in re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "tickets.md").read_text(), re.DOTALL):
        exec(example, names)
    ticket = Ticket.load("ticket.safetensors")
    assert {len(names["tensors"][f"mask/{name}"]) < alive.numel() / 8 for name, alive in ticket.mask.items()} == {
        True,
        False,
    }
    assert list(names["state"]) == list(ticket.weights)
    assert all((names["masks"][name] == alive.numpy()).all() for name, alive in ticket.mask.items())
    assert all((names["state"][name] == value.numpy()).all() for name, value in ticket.weights.items())


def test_the_python_of_the_readme_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tombola import models, prunable, weights
    from tombola.ticket import Ticket

    monkeypatch.chdir(tmp_path)
    model = models.build("conv-2-w8", (1, 8, 8), 10, "glorot-normal", init_seed=1)
    Ticket(prunable.full(model), weights.of(model), {}).save(tmp_path / "ticket.safetensors")
    example = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)[0]
    names: dict[str, object] = {}
    exec(example, names)
    made = names["model"]
    assert isinstance(made, type(model))
    assert weights.equal(weights.of(made), weights.of(model))
