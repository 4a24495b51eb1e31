"""What holds for every study: those that come along, and one of docs/adding-a-study.md from a file of its own."""

import json
import re
import subprocess
import sys
import tomllib
from dataclasses import replace
from math import sqrt
from pathlib import Path
from typing import Any

import altair as alt
import pytest

from tombola.cli import main
from tombola.errors import SpecError
from tombola.lab.extension import load
from tombola.lab.kinds import Train
from tombola.lab.members import BUILT_IN
from tombola.lab.plan import Plan, plan
from tombola.lab.results import Results, results
from tombola.lab.spec import Experiment, spec_model
from tombola.lab.spec_file import read
from tombola.lab.store import Store
from tombola.lab.studies import STUDIES, Study, asked
from tombola.report import figures

PAGE = Path(__file__).resolve().parents[2] / "docs" / "adding-a-study.md"
SPEC = """
replicates = 2
levels = 2
arms = ["ticket"]
rewind = ["0it", "6it"]
recipe = {model = "lenet-20-10", data = "digits", length = "24it", batch = 60, optimizer = {name = "adam", lr = 1e-2}}
prune = {rate = 0.4}
evaluate = {every = "8it", test_every = "12it"}

[study]
"""
TABLES = {
    "stability": "{levels = [2]}",
    "connectivity": "{levels = [0, 2], orders = 2, points = 3}",
    "overlap": "{levels = [1, 2]}",
    "alignment": "{levels = [2], inputs = ['permuted']}",
    "robustness": "{levels = [2], examples = 50, steps = 5, queries = 20}",
    "norms": "{levels = [1, 2]}",
}


def example_of(study: Study) -> str:
    """The table that its example asks for, at the levels that there are."""
    table = getattr(read("digits-lenet", [study.example]).spec.study, study.name).model_dump(mode="json")
    table["levels"] = [level for level in table["levels"] if level <= 2] or [2]
    return "{" + ", ".join(f"{name} = {json.dumps(value)}" for name, value in table.items() if value is not None) + "}"


OF_SINUSOIDS = {"spectrum"}  # of other data it is refused: tests/test_spectrum.py
ON_IMAGES = {name: study for name, study in STUDIES.items() if name not in OF_SINUSOIDS}
ASKED = {name: example_of(study) for name, study in ON_IMAGES.items() if name not in TABLES} | TABLES
SPEC += "".join(f"{name} = {table}\n" for name, table in ASKED.items())
NAMES = [*ON_IMAGES, "norms"]
every_study = pytest.mark.parametrize("name", NAMES)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file that the page shows, a spec that asks for all studies, and a store that two workers have filled."""
    folder = tmp_path_factory.mktemp("studies")
    (python,) = re.findall(r"<!-- file mine.py -->\n```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    (folder / "norms.py").write_text(python)
    (folder / "tiny.toml").write_text(SPEC)
    assert main(["run", *command(folder), "--workers", "2"]) == 0
    return folder


def command(folder: Path) -> list[str]:
    return [str(folder / "tiny.toml"), "--extend", str(folder / "norms.py"), "--store", str(folder / "store")]


@pytest.fixture(scope="module")
def finished(folder: Path) -> Results:
    wanted = plan(read(str(folder / "tiny.toml"), extend=[folder / "norms.py"]))
    return results(wanted, Store(folder / "store"))


@pytest.fixture(scope="module")
def all_drawn(finished: Results) -> tuple[set[str], set[str]]:
    """The names of all studies' figures; and those that they have where these are taken."""
    first = set(figures.study_figures(finished))
    return first, set(figures.study_figures(finished, taken=first))


@every_study
def test_a_study_says_what_it_can_of_what_is_finished_so_far(name: str, finished: Results) -> None:
    own = [question for question in finished.plan.questions if question.study == name]
    alone = [[question] for question in own]
    for answered in [own[:1], own[::2], own[1::2], own[len(own) // 2 :], *alone]:
        some = replace(finished.plan, questions=tuple(answered))
        assert all(finding.sentence for finding in results(some, finished.store).findings)


def study_of(finished: Results, name: str) -> tuple[Study, Any]:
    experiment = finished.experiment
    return next(one for one in asked(experiment.spec.study, experiment.members.studies) if one[0].name == name)


def inside(folder: Path) -> Plan:
    """The same plan where the study is one of the package's own."""
    study = replace(load(folder / "norms.py").members.studies["norms"], code=None)
    members = replace(BUILT_IN, studies=BUILT_IN.studies | {"norms": study})
    spec = spec_model(members).model_validate(tomllib.loads(SPEC), context=members.tables)
    return plan(Experiment(name="tiny", spec=spec, members=members))


# ---------------------------------------------------------------- every study


def test_a_study_without_a_table_here_is_asked_for_by_its_example() -> None:
    tables = {name: tomllib.loads(f"table = {example_of(study)}")["table"] for name, study in ON_IMAGES.items()}
    assert tables["overlap"]["levels"] == [2] and tables["connectivity"]["levels"] == [0]
    for name, study in ON_IMAGES.items():
        assert study.table.model_validate(tables[name]).levels == tuple(tables[name]["levels"])  # type: ignore[attr-defined]


@every_study
def test_a_study_stands_under_its_own_name(name: str, finished: Results) -> None:
    study, table = study_of(finished, name)
    assert study.name == name and study.about.endswith("?") and isinstance(table, study.table)
    assert all(question.study == name for question in study_questions(finished, name))
    assert all(finding.study == name for finding in finished.findings if finding.study == name)


def study_questions(finished: Results, name: str) -> list[Any]:
    return [question for question in finished.plan.questions if question.study == name]


def levels_of(finding: Any) -> tuple[int, ...]:
    """That it is at, or the several that it is about."""
    return finding.values.get("levels") or (finding.values["level"],)


@every_study
def test_a_study_finds_something_at_every_level_and_rewind_step(name: str, finished: Results) -> None:
    _, table = study_of(finished, name)
    own = [finding for finding in finished.findings if finding.study == name]
    found = {(level, one.values["rewind"]) for one in own for level in levels_of(one)}
    assert found == {(level, step) for level in table.levels for step in (0, 6)}
    assert all(one.sentence.endswith(".") and json.dumps(one.values) for one in own)
    assert any(one.headline for one in own)


@every_study
def test_a_study_draws_what_it_found(name: str, finished: Results, all_drawn: tuple[set[str], set[str]]) -> None:
    study, _ = study_of(finished, name)
    own, marks = (
        [one for one in finished.findings if one.study == name],
        finished.experiment.members.marks(finished.experiment.spec),
    )
    drawn = study.figures(own, marks)
    assert name in drawn
    for figure in drawn.values():
        alt.Chart.from_dict(figure.spec, validate=True)
        assert figure.caption.endswith(".")
    first, beside = all_drawn
    assert first >= drawn.keys()
    assert beside >= {f"{name}-{figure}" for figure in drawn} and not beside & drawn.keys()


@every_study
def test_a_study_of_nothing_that_is_finished_says_nothing(name: str, finished: Results, tmp_path: Path) -> None:
    nothing = results(finished.plan, Store(tmp_path).open())
    assert nothing.findings == [] and not nothing.rows


@every_study
def test_a_level_that_is_not_there_is_a_fault_of_its_table(name: str, folder: Path) -> None:
    with pytest.raises(SpecError, match=rf"study.{name}.levels: expected levels from [01] to 2, the spec's, found 3"):
        read(str(folder / "tiny.toml"), [f"study.{name}.levels=3"], [folder / "norms.py"])


@every_study
def test_a_study_changes_no_run_of_the_table(name: str, finished: Results, folder: Path) -> None:
    without = plan(read(str(folder / "tiny.toml"), [f"study.{name}=none"], [folder / "norms.py"]))
    assert without.rows == finished.plan.rows and set(without.runs) <= set(finished.plan.runs)


@every_study
def test_the_commands_say_and_show_it(
    name: str, finished: Results, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sentence = next(one.sentence for one in finished.findings if one.study == name and one.headline)
    assert main(["study", *command(folder)]) == 0 and sentence in capsys.readouterr().out
    assert main(["study", *command(folder), "--format", "json"]) == 0
    assert name in {one["study"] for one in json.loads(capsys.readouterr().out)["findings"]}
    assert main(["report", *command(folder)]) == 0
    page = Path(capsys.readouterr().out.strip()).read_text()
    assert f"<figure id={name}>" in page and sentence in page.replace("&#x27;", "'")


# ---------------------------------------------------------------- the one from outside


def test_the_norms_are_those_of_the_surviving_weights(finished: Results) -> None:
    store, questions = finished.store, study_questions(finished, "norms")
    assert len(questions) == 2 * 2 * 2 * 2, "replicates, rewind steps, levels, and both arms"
    for question in questions:
        run = question.density_of
        assert isinstance(run, Train) and run.mask is not None
        weights, mask = store.weights(run), store.mask(run.mask)
        squares = [float(value) ** 2 for name in mask for value in weights[name][mask[name]].double()]
        assert store.values(question.run)["norm"] == pytest.approx(sqrt(sum(squares)), rel=1e-5)
        assert set(question.run.inputs) == {run, run.mask}


def test_the_code_of_a_study_from_outside_is_in_the_keys_of_its_runs_alone(finished: Results, folder: Path) -> None:
    code = load(folder / "norms.py").sha256
    with_code = {run.kind for run in finished.plan.runs if code in json.dumps(run.described)}
    assert with_code == {"norm"}


def test_a_study_of_the_package_is_planned_as_one_from_outside(finished: Results, folder: Path) -> None:
    own, outside = inside(folder), finished.plan
    assert own.runs == outside.runs and own.questions == outside.questions
    within = results(own, finished.store)
    assert [one.sentence for one in within.findings] == [one.sentence for one in finished.findings]
    assert figures.study_figures(within).keys() == figures.study_figures(finished).keys()


def test_the_studies_need_neither_torch_nor_altair_to_be_planned(folder: Path) -> None:
    program = (
        "import sys\nfrom tombola.lab.plan import plan\nfrom tombola.lab.spec_file import read\n"
        f"assert plan(read({str(folder / 'tiny.toml')!r}, extend=[{str(folder / 'norms.py')!r}])).questions\n"
        "assert not {'torch', 'altair'} & sys.modules.keys(), 'a plan is made in a moment'\n"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
