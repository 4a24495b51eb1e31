"""Laws of members: one that is declared in one place, ours or an extension's, is seen everywhere.

`MINE` declares one of each kind. It is taken as it is, by --extend, and into the tables of the package, as if it stood
there.
"""

import importlib.util
import json
from pathlib import Path

import pytest

from tombola import mark
from tombola.cli import main
from tombola.lab.attempt import do
from tombola.lab.extension import load
from tombola.lab.members import BUILT_IN
from tombola.lab.plan import plan
from tombola.lab.spec import Experiment
from tombola.lab.spec_file import read
from tombola.lab.store import Store
from tombola.lab.worker import Worker
from tombola.mark import DENSE, TICKET
from tombola.report import members as pages

MINE = '''
"""A member of each kind."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

from pydantic import Field

from tombola.charts import Figure, styled
from tombola.control import Control
from tombola.dynamics import Course, Dynamics
from tombola.dynamics.moving_mask import by_layer_to
from tombola.lab.fields import Levels
from tombola.lab.runs import Outcome, Run
from tombola.lab.studies import Finding, Question, Study
from tombola.mask import Mask
from tombola.method import Method
from tombola.objective import Objective, cross_entropy
from tombola.score import Score
from tombola.value import Value


def lazily(replicate, levels):
    """Prune one and the same network."""
    start = replicate.rewind_point()
    dense = replicate.train(start)
    yield dense
    mask = dense.mask
    for _ in range(levels):
        mask = replicate.prune(dense, mask)
        yield replicate.train(start, mask=mask)


def redrawn(replicate, ticket, level, draw):
    """The ticket's mask on weights drawn once more."""
    return replace(ticket, start=replicate.rewind_point(init=f"redrawn {draw}"))


def smallest(scored):
    """The other end of magnitude."""
    return {name: -scored.weights[name].abs() for name in scored.mask}


class Halved(Objective):
    """Half the cross-entropy."""

    about = "Half the cross-entropy"

    name: Literal["halved"] = "halved"

    def loss(self, model, batch, inputs):
        examples, labels = batch
        return cross_entropy(model(examples), labels) / 2


class Thinning(Course):
    """At one step the smallest weight of each layer goes."""

    def __init__(self, setting, at):
        super().__init__(setting)
        self.at, self.alive = at, setting.mask

    @property
    def mask(self):
        return self.alive

    def advance(self, optimizer, step):
        optimizer.step()
        named = dict(self.setting.model.named_parameters())
        if step == self.at:
            sizes = {name: named[name].detach().abs() for name in self.alive}
            self.alive = by_layer_to(sizes, self.alive, {name: n - 1 for name, n in self.alive.counts.items()})
        for name, alive in self.alive.items():
            named[name].data.mul_(alive)

    def state(self):
        return dict(self.alive)

    def load(self, state):
        self.alive = Mask(state)


class Once(Dynamics):
    """The smallest weight of each layer goes."""

    about = "The smallest weight of each layer goes at one step"

    name: Literal["once"] = "once"
    at: int = 3

    def course(self, setting):
        return Thinning(setting, self.at)


class NormsSpec(Value):
    """The norms of tickets."""

    levels: Levels = Field(min_length=1)


@dataclass(frozen=True, eq=False, repr=False)
class Norm(Run):
    """The L2 norm of trained weights."""

    kind = "norm"
    version = 1

    trained: Run

    def perform(self, worker, tell=lambda done, total, loss: None):
        return Outcome({"l2": sum(float(each.square().sum()) for each in worker.store.weights(self.trained).values())})


@dataclass(frozen=True)
class Long(Finding):
    """A norm."""

    study: ClassVar[str] = "norms"
    level: int
    l2: float


def questions(table, series):
    for level in table.levels:
        trained, step = series.training("ticket", level), series.replicate.rewind_step
        yield Question("norms", "ticket", series.replicate.number, level, step, Norm(trained), trained)


def findings(table, evidence):
    for answer in evidence.answers:
        level, l2 = answer.question.level, answer.values["l2"]
        yield Long(level, l2, reason=f"At level {level} the squared weights sum up to {l2:.2f}.")


def figures(findings, marks):
    import altair as alt

    chart = alt.Chart(alt.NamedData("norms")).mark_bar(color=marks["ticket"].colour).encode(x="level:O", y="l2:Q")
    records = [{"level": finding.level, "l2": finding.l2} for finding in findings]
    return {"norms": Figure(styled(chart, {"norms": records}), "The norms of what survives.")}


METHODS = {"lazily": lazily}
CONTROLS = {
    "once-more": Control(
        "once-more",
        redrawn,
        claim="it matters what is drawn",
        what="weights drawn once more",
        about="Drawn once more",
    )
}
SCORES = {"smallest": smallest}
OBJECTIVES = {"halved": Halved}
DYNAMICS = {"once": Once}
STUDIES = {"norms": Study("norms", NormsSpec, questions, findings, "How long are tickets?", "None", 2026, figures)}
'''
NAMES = {
    "methods": "lazily",
    "controls": "once-more",
    "scores": "smallest",
    "objectives": "halved",
    "dynamics": "once",
    "studies": "norms",
}
SPEC = """
replicates = 2
levels = 1
arms = ["ticket", "random", "once-more", "lazily"]
[recipe]
model = "lenet-20-10"
data = "digits"
length = "24it"
batch = 60
optimizer = {name = "adam", lr = 1e-2}
objective = {name = "halved"}
dynamics = {name = "once"}
[prune]
rate = 0.4
score = "smallest"
[evaluate]
every = "6it"
test_every = "6it"
[study.norms]
levels = [0, 1]
"""


class Finished:
    """A finished experiment with a member of each kind, and what the commands print of it."""

    def __init__(self, folder: Path, extend: list[str], capsys: pytest.CaptureFixture[str]) -> None:
        (folder / "mine.toml").write_text(SPEC)
        self.spec, self.store, self.extend, self.capsys = str(folder / "mine.toml"), folder / "store", extend, capsys

    @property
    def experiment(self) -> Experiment:
        return read(self.spec, [], self.extend)

    def printed(self, command: str, *more: str) -> str:
        extend = [word for path in self.extend for word in ("--extend", path)]
        status = main([command, self.spec, "--store", str(self.store), *extend, *more])
        seen = self.capsys.readouterr()
        assert status == 0, seen.err
        return seen.out


@pytest.fixture(params=["an extension's", "ours"])
def finished(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Finished:
    path = tmp_path / "mine.py"
    path.write_text(MINE)
    if request.param == "ours":
        for kind, table in load(path).members.tables.items():
            for name, member in table.items():
                monkeypatch.setitem(BUILT_IN.tables[kind], name, member)
        made = Finished(tmp_path, [], capsys)
        worker = Worker(Store(made.store).open(), None)
        for run in plan(made.experiment).runs:  # other processes do not know what this one has put into its tables
            assert do(run, worker, lambda *seen: None) == ("stored",)
        return made
    made = Finished(tmp_path, [str(path)], capsys)
    content = json.loads(made.printed("plan", "--format", "json"))
    assert content["rows"] == 2 * (1 + 4) and content["runs"]["norm"]["missing"] == 4
    made.printed("run", "--workers", "2")
    return made


def test_a_member_of_each_kind_reaches_everything(finished: Finished) -> None:
    arms = {"dense", "ticket", "random", "once-more", "lazily"}
    assert "Nothing to do" in finished.printed("plan")
    rows = finished.printed("table", "--format", "csv").splitlines()
    assert {row.split(",")[1] for row in rows[1:]} == arms and len(rows) == 1 + 2 * (1 + 4)
    verdict = " ".join(finished.printed("verdict").split())
    assert "hat it matters what is drawn" in verdict and "weights drawn once more" in verdict and "lazily" in verdict
    study = finished.printed("study")
    assert study.count("the squared weights sum up to") == 4
    page = Path(finished.printed("report").strip())
    report = page.read_text()
    for words in ("weights drawn once more", "lazily", "the squared weights", "The norms of what survives", "halved"):
        assert words in report
    assert ("sha256" in report) == bool(finished.extend)
    figures = {path.stem for path in (page.parent / "figures").glob("*.png")}
    assert {"accuracy", "early-stop", "curves", "norms"} <= figures
    text = pages.page(finished.experiment.members)
    for kind, name in NAMES.items():
        assert f"| `{name}` |" in text.partition(f"## {pages.KINDS[kind][0]}")[2].partition("##")[0]


def test_arms_without_a_mark_are_told_apart_in_print(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(MINE)
    experiment = read("digits", ["arms=ticket,random,once-more,lazily"], [tmp_path / "mine.py"])
    marks = experiment.members.marks(experiment.spec)
    assert marks["once-more"] != marks["lazily"] and marks["dense"] == DENSE and marks["ticket"] == TICKET
    assert len({(mark.dash, mark.shape) for mark in marks.values()}) == len(marks)
    ours = {mark.colour for arm, mark in marks.items() if arm in ("dense", "ticket", "random")}
    assert len({marks["once-more"].colour, marks["lazily"].colour} - ours) == 2, "a colour of their own"
    many = mark.marks(dict.fromkeys(map(str, range(200))))
    assert len({(each.dash, each.shape) for each in many.values()}) == 202


def test_every_name_that_a_spec_may_have_is_in_the_table_of_its_kind() -> None:
    for kind, table in BUILT_IN.tables.items():
        for name, member in table.items():
            own = member.model_fields["name"].default if kind in ("objectives", "dynamics") else member.name
            assert own == name and member.about, f"{kind}: {name}"
    arms = [*BUILT_IN.methods, *BUILT_IN.controls]
    assert len(arms) == len(set(arms)) and not {"dense", "ticket"} & set(arms)


def test_the_docs_list_what_there_is() -> None:
    """`python benchmarks/methods.py` writes both."""
    path = Path(__file__).parents[2] / "benchmarks" / "methods.py"
    made = importlib.util.spec_from_file_location("methods", path)
    assert made and made.loader
    module = importlib.util.module_from_spec(made)
    made.loader.exec_module(module)
    for name, text in module.pages().items():
        assert (path.parents[1] / name).read_text(encoding="utf-8") == text, name
