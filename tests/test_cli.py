"""The command as a person meets it: what it prints, what it writes, how it ends."""

import csv
import io
import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import altair
import pytest
from rich.console import Console

from tombola import models, weights
from tombola.cli import main
from tombola.lab import presets
from tombola.lab.plan import plan
from tombola.lab.results import COLUMNS, results
from tombola.lab.spec_file import read
from tombola.lab.store import Store
from tombola.report import figures
from tombola.report.text import summary_table
from tombola.ticket import Ticket

TINY = [
    *("--set", "recipe.model=lenet-20-10", "--set", "recipe.length=40it", "--set", "levels=2", "--set", "replicates=2"),
    *("--set", "evaluate.every=10it", "--set", "evaluate.test_every=20it"),
    *("--set", "arms=ticket,reinit,random,shuffle"),
]


def tiny(*changes: str) -> list[str]:
    """TINY with these changes in place of its own of the same fields."""
    kept = [one for one in TINY[1::2] if one.partition("=")[0] not in {each.partition("=")[0] for each in changes}]
    return [argument for change in (*kept, *changes) for argument in ("--set", change)]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store in which a tiny experiment is finished, done as a person does it: by the command, in its own process."""
    root = tmp_path_factory.mktemp("cli") / "store"
    command = [sys.executable, "-m", "tombola", "run", "digits-lenet", "--store", str(root), *TINY]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    (root.parent / "output.txt").write_text(done.stdout)
    return root


def ask(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    status = main(list(arguments))
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def test_a_run_ends_with_table_verdict_and_the_report_s_path(store: Path) -> None:
    output = (store.parent / "output.txt").read_text()
    assert "verdict" in output and "corrected for 2 levels (Holm)" in output.replace("\n", " ")
    assert "lenet-20-10, 1,580 weights" in output and "rounds the last bits otherwise" in output.replace("\n", " ")
    assert Path(re.findall(r"Report: (.*)", output)[0]).is_file()
    assert "\x1b" not in output  # readable when piped to a file


def test_a_second_run_does_nothing_and_says_so(store: Path, capsys: pytest.CaptureFixture[str]) -> None:  # S5
    status, out, _ = ask(capsys, "run", "digits-lenet", "--store", str(store), *TINY)
    assert status == 0
    assert "Nothing to do: everything is stored." in out


def test_the_table_has_the_promised_columns_one_row_per_training(
    store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, out, _ = ask(capsys, "table", "digits-lenet", "--store", str(store), *TINY, "--format", "csv")
    rows = list(csv.DictReader(io.StringIO(out)))
    assert tuple(rows[0]) == COLUMNS
    assert len(rows) == 2 * (1 + 2 * 4)
    assert {row["arm"] for row in rows} == {"dense", "ticket", "reinit", "random", "shuffle"}
    assert all(0 <= float(row["final_test_accuracy"]) <= 1 for row in rows)  # C11: fractions
    _, out, _ = ask(capsys, "table", "digits-lenet", "--store", str(store), *TINY, "--format", "json")
    assert [row["key"] for row in json.loads(out)] == [row["key"] for row in rows]
    _, out, _ = ask(capsys, "table", "digits-lenet", "--store", str(store), *TINY)
    assert len(out.splitlines()) == 1 + len(rows)


def test_trainings_of_several_processors_are_called_so_beside_the_table_and_once_in_the_verdict(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, _, alone = ask(capsys, "table", "digits-lenet", "--store", str(store), *TINY)
    mixed = shutil.copytree(store, tmp_path / "store")
    how = next(mixed.glob("runs/train-*/provenance.json"))
    how.write_text(json.dumps(json.loads(how.read_text()) | {"processor": "another one"}))
    _, out, beside = ask(capsys, "table", "digits-lenet", "--store", str(mixed), *TINY, "--format", "csv")
    assert alone == "" and "2 processors" in beside and "processors" not in out
    _, out, _ = ask(capsys, "verdict", "digits-lenet", "--store", str(mixed), *TINY, "--format", "json")
    (said,) = [line for line in json.loads(out)["sentences"] if "last digits" in line or "last bits" in line]
    assert "2 processors" in said and "interval ends near its margin" in said


def test_arms_of_a_level_have_the_same_number_of_living_weights(
    store: Path, capsys: pytest.CaptureFixture[str]
) -> None:  # K2
    _, out, _ = ask(capsys, "table", "digits-lenet", "--store", str(store), *TINY, "--format", "json")
    for level in (1, 2):
        assert len({row["alive"] for row in json.loads(out) if row["level"] == level}) == 1


def test_the_verdict_as_json_has_differences_intervals_n_and_reasons(
    store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, out, _ = ask(capsys, "verdict", "digits-lenet", "--store", str(store), *TINY, "--format", "json")
    content = json.loads(out)
    first = content["levels"][0]
    names = {"arm", "level", "density", "verdict", "reason", "dense", "controls", "rewind", "pace", "more_replicates"}
    assert set(first) == names
    assert (content["network"], content["weights"]) == ("lenet-20-10, 1,580 weights", 1580)
    assert [contrast["against"] for contrast in content["contrasts"]] == ["reinit", "random", "shuffle"]
    assert first["dense"]["accuracy"]["n"] == 2
    assert first["dense"]["accuracy"]["low"] <= first["dense"]["accuracy"]["mean"] <= first["dense"]["accuracy"]["high"]
    assert [control["against"] for control in first["controls"]] == ["reinit", "random", "shuffle"]
    assert content["sentences"]


def test_one_replicate_has_null_for_the_ends_of_its_interval(
    store: Path, capsys: pytest.CaptureFixture[str]
) -> None:  # K15
    status, out, _ = ask(
        capsys, "verdict", "digits-lenet", "--store", str(store), *tiny("replicates=1"), "--format", "json"
    )
    level = json.loads(out)["levels"][0]
    assert (status, level["verdict"], level["dense"]["accuracy"]["low"]) == (0, "not decided", None)


def test_networks_that_learned_nothing_get_no_verdict(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wild = tiny("recipe.optimizer.lr=1e4", "arms=ticket", "replicates=3")
    status, out, _ = ask(capsys, "run", "digits-lenet", "--store", str(tmp_path / "store"), *wild, "--workers", "1")
    said = out.replace("\n", " ")
    assert status == 0 and "not learned" in out and "tickets are found" not in said
    assert "interval ends near its margin" not in said, "where there is no verdict, none is near its margin"
    assert "No verdict: the dense network learned nothing in 3 of 3 replicates" in said


def test_no_levels_show_the_dense_network(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = ask(capsys, "run", "digits-lenet", "--store", str(store), *tiny("levels=0", "replicates=1"))
    assert "digits-lenet: 1 training compared, 2 runs in all" in out
    (row,) = (line for line in out.splitlines() if line.split()[:2] == ["0", "100.0"])
    assert re.fullmatch(r"\s*0 +100\.0 +\d+\.\d\d +\d+ +dense\s*", row)
    assert "the spec has no level of pruning (levels = 0)" in " ".join(out.split())
    assert "yet" not in out


@pytest.mark.parametrize("width", [60, 80, 200])
def test_a_table_leaves_out_columns_before_it_cuts_a_number(store: Path, width: int) -> None:
    wanted = plan(read("digits-lenet", TINY[1::2]))
    found = results(wanted, Store(store))
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(summary_table(found, width))
    shown = console.export_text()
    assert "…" not in shown and found.verdicts[0].label in shown
    head, _, left_out = shown.partition("No room for ")
    assert head.count("shuffle") == {60: 1, 80: 1, 200: 2}[width], "its accuracy stays, its early stop where it fits"
    assert ("shuffle stop" in left_out) == (width < 200), "what is left out is named"


@pytest.mark.parametrize("width", [24, 45])
def test_arms_that_do_not_fit_beside_each_other_have_lines_of_their_own(store: Path, width: int) -> None:
    found = results(plan(read("digits-lenet", TINY[1::2])), Store(store))
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(summary_table(found, width))
    shown = console.export_text()
    lines = [line.split() for line in shown.splitlines() if line.split()]
    arms = [words for words in lines if words[0] in ("dense", *found.arms)]
    assert [words[0] for words in arms] == ["dense", *found.arms] and "…" not in shown
    assert all(len(words) > 1 and all(re.fullmatch(r"[0-9.]+", word) for word in words[1:]) for words in arms)


def test_the_plan_counts_what_is_wanted_stored_and_missing(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = ask(capsys, "plan", "digits-lenet", "--store", str(store), *tiny("levels=3"), "--format", "json")
    content = json.loads(out)
    assert content["runs"]["train"] == {"asked": 32, "wanted": 26, "stored": 18, "missing": 8}
    assert content["estimated_seconds"] > 0
    assert content["total"]["missing"] == 8 + 2 + 2 + 2  # and a mask each of ticket, random and shuffle, per replicate


@pytest.mark.parametrize(
    ("asked", "first", "gpu"),
    [
        (["digits-lenet"], "140 trainings of 400 steps to do: ", False),
        (["digits-lenet", "--set", "rewind=100it"], "150 trainings of 100 to 300 steps to do: ", False),
        (["digits-lenet", "--set", "levels=0", "--set", "replicates=1"], "1 training of 400 steps to do: ", False),
        (["vgg16-cifar10-rewind", "--set", "device=cpu"], "984 trainings of ", True),
    ],
)
def test_the_plan_begins_with_what_it_costs(
    asked: list[str], first: str, gpu: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, out, _ = ask(capsys, "plan", *asked, "--store", str(tmp_path / "new"), "--workers", "2")
    assert out.startswith(first)
    assert re.search(r"about .* with 2 workers on a machine that is idle, (guessed|as)\b.*\.$", out.splitlines()[0])
    assert ("An experiment of this size is for a GPU, and torch finds none here." in out) == gpu


def test_a_plan_starts_nothing_and_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert ask(capsys, "plan", "lenet-mnist", "--store", str(tmp_path / "new"))[0] == 0
    assert list(tmp_path.iterdir()) == []


def test_the_report_is_one_file_that_needs_no_network(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = ask(capsys, "report", "digits-lenet", "--store", str(store), *TINY)
    page = Path(out.strip())
    text = page.read_text()
    assert status == 0
    assert not re.findall(r"(?:src|href)=['\"]?(?:https?:)?//|@import|<script", text)
    assert text.count("<svg") == 5
    names = {"accuracy", "early-stop", "final-accuracy", "curves", "survivors"}
    assert {path.name for path in (page.parent / "figures").iterdir()} == {
        f"{n}.{kind}" for n in names for kind in ("svg", "png")
    }
    assert (page.parent / "figures" / "accuracy.png").read_bytes()[:4] == b"\x89PNG"
    assert "weights remaining (%)" in text and "training steps" in text  # axes named with units
    assert "early_stop_step" in (page.parent / "table.csv").read_text()


def test_specs_of_one_name_have_a_report_each(store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "mine.toml").write_text(presets.text("digits-lenet"))
    first, second, again = (
        ask(capsys, "report", str(tmp_path / folder / "mine.toml"), "--store", str(store), *TINY)[1]
        for folder in ("a", "b", "a")
    )
    assert first == again != second and Path(first.strip()).is_file() and Path(second.strip()).is_file()


def test_beginning_and_end_are_no_curve(store: Path, tmp_path: Path) -> None:
    wanted = plan(read("digits-lenet", [change for change in TINY if change != "--set"]))
    found = results(wanted, Store(store))
    assert "curves" in figures.all_figures(found, [])
    ends = [replace(one, values=one.values | {"curve": {"test_step": [0, 40]}}) for one in found.rows]
    assert "curves" not in figures.all_figures(replace(found, rows=ends), [])


def test_curves_of_all_panels_have_one_axis(store: Path) -> None:
    wanted = plan(read("digits-lenet", [change for change in TINY if change != "--set"]))
    late = {"curve": {"test_step": [30, 35, 40], "test_accuracy": [0.5, 0.6, 0.7]}}  # as of a later rewind step
    found = results(wanted, Store(store))
    rows = [replace(one, values=one.values | late) if one.row.arm == "ticket" else one for one in found.rows]
    chart, _ = figures.all_figures(replace(found, rows=rows), [])["curves"]
    axes = [panel["encoding"]["x"]["scale"]["domain"] for panel in chart["concat"]]
    assert axes == [[0, 40]] * 4


def test_a_ticket_is_the_mask_and_the_early_weights_not_the_trained_ones(  # R10 C14 S8
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "t.safetensors"
    status, out, _ = ask(
        capsys,
        "ticket",
        "digits-lenet",
        "--level",
        "2",
        "--replicate",
        "1",
        "-o",
        str(file),
        "--store",
        str(store),
        *TINY,
    )
    ticket = Ticket.load(file)
    assert status == 0
    assert repr(ticket) in out
    training = outcome(store, ticket.origin["key"])
    init_seed = outcome(store, training["run"]["start"])["run"]["init_seed"]
    fresh = models.build("lenet-20-10", (1, 8, 8), 10, "glorot-normal", init_seed)
    for name, weight in fresh.state_dict().items():
        alive = ticket.mask.get(name)
        expected = weight if alive is None else weight.masked_fill(~alive, 0)
        assert bool((ticket.weights[name] == expected).all())


def test_a_ticket_knows_its_origin_and_can_be_kept_as_a_seed(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = {}
    for name, more in (("whole", []), ("seed", ["--as-seed"])):
        where = ["-o", str(tmp_path / name), "--store", str(store)]
        assert ask(capsys, "ticket", "digits-lenet", "--level", "2", *where, *more, *TINY)[0] == 0
        made[name] = Ticket.load(tmp_path / name)
    assert (tmp_path / "seed").stat().st_size < (tmp_path / "whole").stat().st_size
    assert made["seed"].mask == made["whole"].mask
    assert weights.equal(made["seed"].weights, made["whole"].weights)
    origin = made["whole"].origin
    training = outcome(store, origin["key"])["run"]
    assert origin["keys"] == {"start": training["start"], "mask": training["mask"]}
    assert origin["data_fingerprint"] == training["data_fingerprint"]
    provenance = json.loads((store / "runs" / training["mask"] / "provenance.json").read_text())
    assert origin["made"] == provenance["finished"] and origin["versions"]["torch"] == provenance["torch"]


def test_a_ticket_is_written_for_another_network_of_the_family(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "t.safetensors"
    asked = ["ticket", "digits-lenet", "--level", "2", "-o", str(file), "--store", str(store), *TINY]
    assert ask(capsys, *asked, "--to", "lenet-20-10", "--map", "interpolated")[0] == 0
    density = Ticket.load(file).mask.density
    assert Ticket.load(file).origin["elastic"] == {"model": "lenet-20-10", "density": density, "map": "0:0"}
    said = ask(capsys, "show", str(file))[1]
    assert f"elastic    from lenet-20-10, density {density:.3g}, by 0:0" in said
    assert ask(capsys, *asked)[0] == 0 and "elastic" not in Ticket.load(file).origin
    for model, expected in (("lenet-20-20-10", "a block that can be replicated"), ("resnet-20", "outside of blocks")):
        status, _, error = ask(capsys, *asked, "--to", model)
        assert status == 2 and expected in error, error


def outcome(store: Path, key: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((store / "runs" / key / "outcome.json").read_text())
    return content


def test_presets_are_listed_and_printed(capsys: pytest.CaptureFixture[str]) -> None:
    listed = ask(capsys, "presets")[1]
    names = [line.split()[0] for line in listed.splitlines()]
    assert names == list(presets.names()) and {"digits", "lenet-mnist", "resnet50-imagenet-rewind"} < set(names)
    assert 'data = "digits"' in ask(capsys, "presets", "digits")[1]


@pytest.mark.parametrize(("arguments", "said"), [
    (["plan", "digitz"], "Did you mean digits?"),
    (["plan", "digits", "--set", "prune.rate=2"], "prune.rate: expected a number <= 1, found 2"),
    (["plan", "digits", "--set", "nonsense"], "expected path=value"),
    (["plan", "digits", "--sett", "a=1"], "Did you mean --set?"),
    (["plan", "digits", "--format", "xml"], "--format"),
    (["plan"], "requires an argument"),
    (["nonsense"], "Unknown command"),
    (["digits"], "digits: expected a command, found an experiment. Did you mean `tombola run digits`?"),
    (["mine.toml"], "Did you mean `tombola run mine.toml`?"),
    (["plan", "digits", "--set", "about=two", "words"], "found 'words' besides. Each change takes a --set of its own"),
    (["plan", "digits", "--set", "seed=1", "--set", "seed=2"], "--set seed: expected one value, found --set seed=1"),
    (["plan", "mine.toml"], "mine.toml: expected a preset or a TOML file, found no such file. `tombola presets` lists"),
    (["plan", "resnet50-imagenet-rewind"], "found No such file or directory (--set recipe.data=folder:PATH"),
    (["show", "table.csv"], "table.csv: expected a ticket's file, which is one of safetensors, found a .csv file."),
    (["show", "digits"], "found a preset. `tombola ticket digits --level 5 -o ticket.safetensors` writes one."),
    (["ticket", "digits", "--level", "1", "-o", "t.pt"], ".pt stands for another format: -o t.safetensors."),
    (
        ["ticket", "resnet20-cifar10-rewind", "--level", "1", "-o", "t", "--set", "rewind=7it"],
        "--set rewind: expected a step of the sweep: 0it, 100it, 500it, 1000it, 2000it, found 7it. Take one",
    ),
    (["run", "digits", "--workers", "0"], "--workers: expected at least 1, found 0"),
    (["table", "digits", "--store", "nowhere"], "expected finished runs of digits, found none"),
    (["presets", "nonsense"], "expected a preset or a TOML file, found no such file"),
])  # fmt: skip
def test_bad_input_ends_with_2_says_what_to_do_and_leaves_nothing(
    arguments: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    status, out, err = ask(capsys, *arguments)
    assert (status, out) == (2, "")
    assert said in err
    assert list(tmp_path.iterdir()) == []


def test_help_is_a_command_too(capsys: pytest.CaptureFixture[str]) -> None:
    for asked, same in ((["help"], ["--help"]), (["help", "plan"], ["plan", "--help"])):
        status, out, _ = ask(capsys, *asked)
        assert (status, out) == (0, ask(capsys, *same)[1]) and "Usage: tombola" in out


def test_a_level_or_replicate_that_is_not_there_is_refused(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for wrong, said in (
        (["--level", "9"], "expected 0 to 2, found 9"),
        (["--level", "1", "--replicate", "7"], "expected 0 to 1, found 7"),
    ):
        status, _, err = ask(
            capsys, "ticket", "digits-lenet", *wrong, "-o", str(tmp_path / "t"), "--store", str(store), *TINY
        )
        assert status == 2
        assert said in err
    assert list(tmp_path.iterdir()) == []


def test_a_folder_of_other_things_is_not_taken_for_a_store(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    status, _, err = ask(capsys, "run", "digits", "--store", str(tmp_path))
    assert status == 2
    assert "expected a store or an empty folder" in err
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_store_from_a_newer_version_is_refused_by_every_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "store.json").write_text('{"format": 99}')
    for command in ("run", "plan", "table", "verdict", "report"):
        status, _, err = ask(capsys, command, "digits", "--store", str(tmp_path))
        assert status == 2
        assert "format 99" in err and "newer version" in err
    assert [path.name for path in tmp_path.iterdir()] == ["store.json"]


def test_damaged_data_are_met_before_anything_is_trained(tmp_path: Path) -> None:
    (tmp_path / "mnist").mkdir()
    (tmp_path / "mnist" / "train-images-idx3-ubyte").write_bytes(b"not an image")
    command = [
        sys.executable,
        "-m",
        "tombola",
        "run",
        "lenet-mnist-quick",
        "--store",
        str(tmp_path / "store"),
        "--data-dir",
        str(tmp_path),
        "--workers",
        "1",
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 2
    assert "train-images-idx3-ubyte" in done.stderr and "expected" in done.stderr and "remove it" in done.stderr
    assert not list((tmp_path / "store" / "runs").glob("train-*"))


def test_a_run_whose_output_nobody_reads_any_more_goes_on_to_its_report(store: Path, tmp_path: Path) -> None:
    """As under `| head -1`."""
    root = shutil.copytree(store, tmp_path / "store")
    shutil.rmtree(root / "reports")
    reads, writes = os.pipe()
    os.close(reads)
    command = [sys.executable, "-m", "tombola", "run", "digits-lenet", "--store", str(root), *TINY]
    done = subprocess.run(command, stdout=writes, stderr=subprocess.PIPE, text=True, timeout=300)
    os.close(writes)
    assert (done.returncode, done.stderr) == (0, "") and list((root / "reports").glob("*/report.html"))


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
@pytest.mark.parametrize("buffered", [True, False])
@pytest.mark.parametrize("asked", [["table", "--format", "json"], ["verdict"], ["run"]])
def test_output_that_cannot_be_written_is_told_in_a_sentence(store: Path, asked: list[str], buffered: bool) -> None:
    unbuffered = [] if buffered else ["-u"]
    command = [sys.executable, *unbuffered, "-m", "tombola", *asked, "digits-lenet", "--store", str(store), *TINY]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, timeout=300, env=environment)
    assert done.returncode == 1
    assert done.stderr == "tombola: the output cannot be written: No space left on device. What is finished is kept.\n"


def test_help_answers_without_importing_torch() -> None:
    code = """
import sys
from tombola.cli import main
main(["plan", "lenet-mnist", "--store", "none"])
assert "torch" not in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def test_methods_that_keep_trained_weights_have_no_ticket_and_no_controls(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:  # R10 K3
    changes = ["--set", "method=fine-tune", "--set", "arms=ticket"]
    status, _, err = ask(capsys, "ticket", "digits-lenet", "--level", "1", "-o", str(tmp_path / "t"), *changes)
    assert status == 2
    assert "from early weights: with search.retrain = true they are" in err.replace("\n", " ")
    dual = ["--set", "method=dual", "--set", "arms=ticket"]
    status, _, err = ask(capsys, "ticket", "digits-lenet", "--level", "1", "-o", str(tmp_path / "t"), *dual)
    assert status == 2 and "from early weights: tombola cash has the networks" in " ".join(err.split())
    status, _, err = ask(capsys, "plan", "digits-lenet", *changes[:2], "--set", "arms=ticket,random")
    assert status == 2
    assert "does not train early weights" in err


def test_failed_trainings_are_named_in_the_verdict_and_the_plan(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A learning rate that diverges: the dense training fails, what needs it is left out, and everything says so."""
    asked = ["digits", "--store", str(tmp_path / "store")]
    asked += tiny("replicates=1", "levels=1", "recipe.optimizer={name='sgd', lr=1e30}")
    command = [sys.executable, "-m", "tombola", "run", *asked, "--workers", "1"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 1
    assert "failed: dense 0 of replicate 0: the validation loss is nan" in done.stderr
    assert (done.stdout + done.stderr).count("the validation loss is nan") == 1, "once"
    log = re.findall(r"log: (.*)", done.stderr)[0]
    assert "Diverged" in Path(log).read_text()
    assert "1 of them failed last time" in ask(capsys, "plan", *asked)[1]


def test_the_figures_hold_to_the_schema(store: Path) -> None:  # `report` itself leaves the check out, for speed
    wanted = plan(read("digits-lenet", TINY[1::2]))
    found = results(wanted, Store(store))
    for spec, caption in figures.all_figures(found, [(0.5, [[0.0, 1.0]])]).values():
        assert altair.Chart.from_dict(spec, validate=True) and caption.endswith(".")


def test_a_curve_is_cut_where_it_crosses_the_edge() -> None:
    curve = [{"step": step, "accuracy": value} for step, value in [(0, 10.0), (10, 90.0), (20, 80.0), (30, 84.0)]]
    kept = figures._above(82.0, curve)
    assert [(point["step"], point["accuracy"], point["piece"]) for point in kept] == [
        (9.0, 82.0, 1),
        (10, 90.0, 1),
        (18.0, 82.0, 1),
        (25.0, 82.0, 2),
        (30, 84.0, 2),
    ]
