"""Files of members from outside the package: what they add, what of them is refused, and how they travel."""

import hashlib
import pickle
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from tombola.cli import main
from tombola.code import code_of
from tombola.errors import BadInput
from tombola.lab.attempt import do
from tombola.lab.extension import Extension, load
from tombola.lab.kinds import DerivedMask, mask_outcome
from tombola.lab.members import BUILT_IN
from tombola.lab.plan import plan
from tombola.lab.results import results
from tombola.lab.runs import Run, Stored, untold
from tombola.lab.spec_file import read
from tombola.lab.store import Store
from tombola.lab.worker import Worker
from tombola.mask import Mask
from tombola.report import figures, progress

GOOD = '''
from dataclasses import dataclass, replace

from tombola import Mask
from tombola.control import Control


def unhurried(replicate, levels):
    """Search without hurry.

    More of it.
    """
    start = replicate.rewind_point()
    ticket = replicate.train(start)
    yield ticket
    for _ in range(levels):
        ticket = replicate.train(start, mask=replicate.prune(ticket, ticket.mask))
        yield ticket


def turned(mask, seed):
    return Mask({name: alive.flip(0) for name, alive in mask.items()})


def turned_over(replicate, ticket, level, draw):
    return replace(ticket, mask=replicate.derived(turned, ticket.mask, "turned-over"))


@dataclass(frozen=True)
class Thing:
    number: int


METHODS = {"unhurried": unhurried}
CONTROLS = {
    "turned-over": Control("turned-over", turned_over, claim="it matters where", what="a mirrored mask", about="So"),
}
'''


CONTROL = """
from tombola.control import Control
def f(*x): ...
CONTROLS = {{'a': Control('a', {}, '', '', '', draws={!r})}}
"""


KIND = """
from tombola.lab.runs import Run
METHODS = {{}}


class Norm(Run):
    kind = {}
    version = {}
"""


ANY = "model_config = {'arbitrary_types_allowed': True}"
OBJECTIVE = """
import torch
from typing import Literal
from tombola.objective import Objective



class A(Objective):
    {}
    name: Literal["a"] = "a"
    strength: {}
    def loss({}): ...
OBJECTIVES = {{"a": A}}
"""


STUDY = """
from tombola.lab.studies import STUDIES as OURS
STUDIES = {"copy": OURS["overlap"]}
"""


def written(folder: Path, text: str, name: str = "mine.py") -> str:
    path = folder / name
    path.write_text(text)
    return str(path)


def test_an_extension_adds_to_what_a_spec_may_name(tmp_path: Path) -> None:
    path = written(tmp_path, GOOD)
    mine = load(path)
    method, control = mine.members.methods["unhurried"], mine.members.controls["turned-over"]
    assert (method.about, method.code) == ("Search without hurry", mine.sha256)
    assert (control.claim, control.what, control.code) == ("it matters where", "a mirrored mask", mine.sha256)
    changes = ["arms=ticket,turned-over,unhurried", "levels=1", "replicates=1"]
    experiment = read("digits-lenet", changes, [path])
    assert [row.arm for row in plan(experiment).rows] == ["dense", "ticket", "turned-over", "unhurried"]
    with pytest.raises(BadInput, match=r"arms.1: expected one of ticket, .*, found 'turned-over'"):
        read("digits-lenet", changes)
    assert "turned-over" not in BUILT_IN.controls


def test_an_extension_changes_no_key_of_a_run_that_executes_nothing_of_it(tmp_path: Path) -> None:
    plain = plan(read("digits-lenet"))
    extended = plan(read("digits-lenet", ["arms=ticket,reinit,random,turned-over"], [written(tmp_path, GOOD)]))
    more = {run.kind for run in extended.runs} - {run.kind for run in plain.runs}
    assert {run.key for run in plain.runs} < {run.key for run in extended.runs} and more == {"derived"}
    other = plan(read("digits-lenet", ["arms=ticket,reinit,random,turned-over"], [written(tmp_path, GOOD + "\n")]))
    assert len({run.key for run in extended.runs} & {run.key for run in other.runs}) == len(plain.runs)


def test_what_to_type_and_the_report_name_the_extension(tmp_path: Path) -> None:
    path = written(tmp_path, GOOD, "my own.py")
    plain, extended = read("digits-lenet"), read("digits-lenet", [], [path])
    assert extended.asked_by == f"digits-lenet --extend '{path}'" and extended.origin == plain.origin
    assert extended.folder != plain.folder == "digits-lenet"
    (mine,) = extended.extensions
    assert extended.record["extensions"] == [{"path": path, "sha256": mine.sha256}]
    assert "extensions" not in plain.record


def test_an_extension_is_loaded_where_it_is_unpickled_and_before_what_is_of_it(tmp_path: Path) -> None:
    path = written(tmp_path, GOOD)
    mine = load(path)
    thing = sys.modules[mine.members.methods["unhurried"].search.__module__].Thing(3)
    assert code_of(type(thing)) == mine.sha256 and load(path).members == mine.members
    (tmp_path / "both").write_bytes(pickle.dumps((mine, thing)))
    Path(path).unlink()
    program = (
        "import pickle, sys; from pathlib import Path\n"
        "extension, thing = pickle.loads(Path(sys.argv[1]).read_bytes())\n"
        "print(thing, type(thing).__module__ in sys.modules, extension.sha256)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, tmp_path / "both"], capture_output=True, text=True, check=True
    )
    assert done.stdout == f"Thing(number=3) True {mine.sha256}\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("METHODS = {\n'a': 1}", "mine.py, line 2: expected a function of (replicate, levels), or a Method, found"),
        ("CONTROLS = {'a': len}", "line 1: expected a function of (replicate, ticket, level, draw), or a Control"),
        ("def f(x): ...\n\nCONTROLS: dict = {\n    'a': f\n}", "line 4: expected a function of (replicate, ticket, "),
        (CONTROL.format("3", ""), "line 4: expected a function of (replicate, ticket, level, draw), or a Control"),
        (CONTROL.format("f", "levels"), "line 4: expected a Control without draws, as a spec says how many"),
        ("METHODS = []", "line 1: expected METHODS, a dict of name: member, found a list"),
        ("def f(x, y): ...\nMETHODS = {'ticket': f}", "line 2: expected a name of letters, digits"),
        ("def f(x, y): ...\nMETHODS = {'a,b': f}", "line 2: expected a name of letters, digits"),
        ("def f(x, y): ...\nMETHODS = {'reinit': f}", "line 2: expected a name that is free, found 'reinit', "),
        ("def f(*x): ...\nMETHODS = {}\nCONTROLS = {\n 'a': f,\n 'random': f}", "line 5: expected a name that is free"),
        ("def f(*x): ...\nMETHODS = {'a': f}\nCONTROLS = {'a': f}", "line 3: expected a name that is free, found 'a',"),
        ("OBJECTIVES = {'a': int}", "line 1: expected a class below tombola.objective.Objective"),
        ("STUDIES = {'a': len}", "line 1: expected a tombola.lab.studies.Study"),
        (STUDY, "line 3: expected a study by another name, as that is one of every table's own"),
        (KIND.format("'my/dead kind'", 1), "line 6: expected a kind of run whose `kind` is a name of letters"),
        (KIND.format(None, 1), "line 6: expected a kind of run whose `kind` is a name of letters, digits, - and _"),
        (KIND.format("'norm'", None), "line 6: expected a kind of run whose `version` is a whole number, found Norm"),
        (OBJECTIVE.format("", "torch.Tensor", "self, model, batch, inputs"), "found one of <class 'torch.Tensor'>. "),
        (OBJECTIVE.format(ANY, "torch.Tensor", "self, model, batch, inputs"), "line 13: expected an objective with"),
        (OBJECTIVE.format("", "float", "self, model, batch"), "line 13: expected an objective whose loss is a"),
        *((f"def f(x, y): ...\nMETHODS = {{'{name}': f}}", f"line 2: expected a name that --set reads as a text, found "
           f"'{name}', which") for name in ("nan", "1", "true", "none", "1e5", "2020-01-01")),
        ("METHODS = {'a': 1}", "adding-a-method.md"), ("CONTROLS = {'a': 1}", "adding-a-control.md"),
        ("SCORES = {'a': 1}", "adding-a-score.md"), ("OBJECTIVES = {'a': 1}", "adding-an-objective.md"),
        ("STUDIES = {'a': 1}", "adding-a-study.md"), ("STUDIES = 3", "adding-a-study.md"),
        ("x = 1\n\nx.y = 3", "line 3: expected Python that can be executed, found AttributeError: 'int' object"),
        ("def f():\n    1 / 0\nf()", "line 2: expected Python that can be executed, found ZeroDivisionError"),
        ("x = 1\ny = (", "line 2: expected Python that can be executed, found SyntaxError: '(' was never closed"),
        ("raise SystemExit(0)", "line 1: expected Python that can be executed, found SystemExit: 0"),
        ("import nowhere_at_all", "line 1: expected Python that can be executed, found ModuleNotFoundError"),
        ("x = 1", "expected one of METHODS, CONTROLS, SCORES, OBJECTIVES, DYNAMICS, STUDIES, found none of them"),
    ],
)  # fmt: skip
def test_a_file_that_is_no_extension_is_refused_with_its_line(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(BadInput) as caught:
        read("digits", [], [written(tmp_path, text)])
    assert message in str(caught.value) and str(caught.value).startswith(str(tmp_path))


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    for path, reason in ((tmp_path / "none.py", "no such file"), (tmp_path, "a folder")):
        with pytest.raises(BadInput, match=f"expected a Python file, found {reason}"):
            load(path)


def test_a_file_that_is_not_utf8_is_to_be_saved_as_it_and_a_byte_order_mark_is_none_of_its_text(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_bytes(b"# gr\xfc\xdfe\n" + GOOD.encode())
    with pytest.raises(BadInput, match=r"found one that is not UTF-8, from byte 4 on. Save it as UTF-8\.$"):
        load(path)
    path.write_bytes(b"\xef\xbb\xbf" + GOOD.encode())
    mine = load(path)
    assert mine.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert pickle.loads(pickle.dumps(mine)) == mine and "unhurried" in mine.members.methods


def test_two_extensions_of_one_name_are_refused_and_one_that_is_named_twice_is_one(tmp_path: Path) -> None:
    one, other = written(tmp_path, GOOD), written(tmp_path, GOOD + "\n", "other.py")
    assert len(read("digits", [], [one, one]).extensions) == 1
    with pytest.raises(BadInput, match=r"other.py, line \d+: expected a name that is free, found 'unhurried', another"):
        read("digits", [], [one, other])


@pytest.mark.parametrize("arm", ["tired", "partial", "dumps", "hidden", "method", "empty", "lost", "nothing", "number"])
def test_what_goes_wrong_in_an_extension_is_told_with_its_line(
    tmp_path: Path, arm: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Not with a traceback through code that is none of the reader's."""
    path = written(tmp_path, f"{GOOD}{WRONG}# {tmp_path}")
    line = next(number for number, text in enumerate((GOOD + WRONG).splitlines(), 1) if f"# {arm}" in text)
    none = "expected a function at the top level of an extension, or of a module of tombola, found"
    messages = {
        "tired": f"{path}, line {line}: expected code that runs, found ZeroDivisionError: division by zero.",
        "empty": f"{path}, line {line}, method empty: expected a training for each level, found one that yields None. ",
        "lost": f"{path}, line {line}, method lost: expected a training for each level, found one that returns None. ",
        "nothing": f"{path}, line {line}, control nothing: expected a training that differs from its ticket in its ",
        "number": f"{path}, line {line}, control number: expected a training that differs from its ticket in its ",
        "partial": f"derived(..., 'p'): {none} a part of another one",
        "hidden": f"derived(..., 'h'): {none} turned, which is none",
        "method": f"derived(..., 'm'): {none} Turn.turn",
        "dumps": f"derived(..., 'o'): {none} dumps",
    }
    assert main(["plan", "digits-lenet", "--extend", path, "--set", f"arms=ticket,{arm}"]) == 2
    assert messages[arm] in capsys.readouterr().err


WRONG = """
import json
from functools import partial



def tired(replicate, levels):
    yield 1 / 0  # tired


def part(replicate, ticket, level, draw):
    return replace(ticket, mask=replicate.derived(partial(turned), ticket.mask, "p"))  # partial


def dumps(replicate, ticket, level, draw):
    return replace(ticket, mask=replicate.derived(json.dumps, ticket.mask, "o"))  # dumps


earlier = turned


def turned(mask, seed):
    return mask


def hidden(replicate, ticket, level, draw):
    return replace(ticket, mask=replicate.derived(earlier, ticket.mask, "h"))  # hidden


class Turn:
    @staticmethod
    def turn(mask, seed):
        return mask


def method(replicate, ticket, level, draw):
    return replace(ticket, mask=replicate.derived(Turn.turn, ticket.mask, "m"))  # method


def empty(replicate, levels):  # empty
    yield None


def lost(replicate, levels):  # lost
    return None


def nothing(replicate, ticket, level, draw):  # nothing
    replicate.rewind_point()


METHODS |= {"tired": tired, "empty": empty, "lost": lost}
CONTROLS |= {"partial": part, "dumps": dumps, "hidden": hidden, "method": method, "nothing": nothing}
CONTROLS["number"] = lambda replicate, ticket, level, draw: 3  # number
"""


DRAWING = """
import random

import torch

from tombola.mask import Mask


def drawn(mask, seed):
    places = {name: torch.randperm(len(alive)).roll(random.randrange(len(alive))) for name, alive in mask.items()}
    return Mask({name: alive[places[name]] for name, alive in mask.items()})


CONTROLS = {"drawn": lambda replicate, ticket, level, draw: ticket}
"""


def test_what_a_derived_mask_draws_from_anywhere_is_decided_by_its_seed(tmp_path: Path) -> None:  # K9 K11
    mine, like, kept = load(written(tmp_path, DRAWING)), Mask({"w": torch.arange(99) < 40}), Stored("like")
    store = Store(tmp_path / "store").open()
    store.save(kept, mask_outcome(like), {})
    worker = Worker(store, None)
    first, again, other = (
        DerivedMask(kept, "drawn", mine.sha256, mask_seed=seed).perform(worker).tensors["mask"]["w"]
        for seed in (1, 1, 2)
    )
    assert torch.equal(first, again) and not torch.equal(first, other)


BOOM = """
from dataclasses import dataclass, replace
from typing import Literal

from tombola.lab.runs import Run, untold
from tombola.objective import Objective


def boom(*given):
    raise ValueError("boom")  # here


class Boom(Objective):
    name: Literal["bang"] = "bang"

    def loss(self, model, batch, inputs):
        return boom()


@dataclass(frozen=True, eq=False, repr=False)
class Norm(Run):
    kind = "norm"
    version = 1

    def perform(self, worker, tell=untold):
        boom()


class Other(Objective):
    name: Literal["other"] = "other"
    powers: list[float] = [1.0]
    how: str = "float"

    def loss(self, model, batch, inputs):
        losses = model(batch[0]).square().mean(dim=1)
        loss = losses.mean()
        return {"float": loss.item(), "vector": losses, "detached": loss.detach()}[self.how]


def crash(replicate, ticket, level, draw):
    return replace(ticket, mask=replicate.derived(boom, ticket.mask, "crash"))


CONTROLS = {"crash": crash}
SCORES, OBJECTIVES = {"boom": boom}, {"bang": Boom, "other": Other}
"""


def line_of(words: str, text: str, which: int = 0) -> int:
    return [number for number, line in enumerate(text.splitlines(), 1) if words in line][which]


def first_failure(tmp_path: Path, *changes: str) -> tuple[Run, str]:
    """The first run of an experiment that fails, and why."""
    small = ["levels=1", "replicates=1", "recipe.model=lenet-20-10", "recipe.length=10it", "evaluate.test_every=5it"]
    experiment = read("digits", [*small, "evaluate.every=5it", *changes], [written(tmp_path, f"{BOOM}# {tmp_path}")])
    wanted = plan(experiment)
    worker = Worker(Store(tmp_path / "store").open(), None, scores=experiment.members.scores)
    for run in wanted.runs:
        if (said := do(run, worker, untold))[0] == "failed":
            return run, said[1]
    raise AssertionError("nothing failed")


@pytest.mark.parametrize("change", ["arms=ticket,crash", "prune.score=boom", "recipe.objective={name = 'bang'}"])
def test_why_a_run_failed_ends_with_the_place_in_the_extension(tmp_path: Path, change: str) -> None:
    _, reason = first_failure(tmp_path, change)
    assert reason == f"ValueError: boom ({tmp_path / 'mine.py'}, line {line_of('# here', BOOM)})"


def test_why_a_measurement_failed_ends_with_the_place_in_the_extension(tmp_path: Path) -> None:
    mine = load(written(tmp_path, BOOM))
    kind = sys.modules[mine.members.scores["boom"].of.__module__].Norm
    _, reason, _ = do(kind(), Worker(Store(tmp_path / "store").open(), None), untold)
    assert reason.endswith("mine.py, line 10)")


@pytest.mark.parametrize(
    ("how", "found"),
    [("float", "a float"), ("vector", "a tensor of shape (120,)"), ("detached", "one without a gradient")],
)
def test_what_no_step_can_descend_is_said_of_the_objective(tmp_path: Path, how: str, found: str) -> None:
    run, reason = first_failure(tmp_path, f"recipe.objective={{name = 'other', how = '{how}'}}")
    expected = "loss of the objective other: expected a scalar tensor with a gradient"
    assert run.kind == "train" and reason.startswith(f"{expected}, found {found}. Let loss return the mean over")
    assert reason.endswith(f"({tmp_path / 'mine.py'}, line {line_of('def loss', BOOM, -1)}).")


def test_a_parameter_may_be_a_list(tmp_path: Path) -> None:
    objective = load(written(tmp_path, BOOM)).members.objectives["other"]
    one, same, other = (objective.model_validate({"name": "other", "powers": powers}) for powers in ([1], [1.0], [2.0]))
    assert {one, same} == {one} != {other}


def test_progress_names_the_masks_of_controls(tmp_path: Path) -> None:
    wanted = plan(read("digits", ["arms=ticket,crash", "levels=1", "replicates=2"], [written(tmp_path, BOOM)]))
    names = progress._names(wanted)
    derived = [run.key for run in wanted.runs if run.kind == "derived"]
    assert [names[key] for key in derived] == [f"mask of crash 1 of replicate {number}" for number in range(2)]


def test_a_figure_of_a_study_has_a_name_that_files_can_have() -> None:
    drawn: Any = {name: name for name in ("a/b ü", "a b ü", "a?b ", "..", "plain")}
    ours = replace(BUILT_IN.studies["overlap"], figures=lambda findings, marks: drawn)
    members = SimpleNamespace(studies={"overlap": ours}, marks=lambda spec: {})
    results: Any = SimpleNamespace(
        experiment=SimpleNamespace(members=members, spec=None), findings=[SimpleNamespace(study="overlap")]
    )
    named = figures.study_figures(results, taken=["plain"])
    assert {name: str(figure) for name, figure in named.items()} == {
        "a-b-": "a/b ü",
        "overlap-a-b-": "a b ü",
        "overlap-overlap-a-b-": "a?b ",
        "..": "..",
        "overlap-plain": "plain",
    }


DERIVING = """
from tombola.mask import Mask


def partial(mask, seed):
    return Mask({"a": mask["a"]})


def more(mask, seed):
    return Mask({"a": mask["a"], "b": mask["b"], "c": mask["b"]})


def turned(mask, seed):
    return Mask({"a": mask["a"].T, "b": mask["b"]})


def denser(mask, seed):
    return Mask({name: alive | True for name, alive in mask.items()})


def in_place(mask, seed):
    for alive in mask.values():
        alive.fill_(True)
    return mask


def plain(mask, seed):
    return dict(mask)


def nothing(mask, seed):
    pass


def moved(mask, seed):
    return Mask({"b": ~mask["b"], "a": ~mask["a"]})


CONTROLS = {"any": lambda replicate, ticket, level, draw: ticket}
"""


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("partial", "expected a mask of the layers that there are, b (3,), found b missing"),
        ("more", "expected a mask of the layers that there are, c missing, found c (3,)"),
        ("turned", "expected a mask of the layers that there are, a (1, 3), found a (3, 1)"),
        ("denser", "expected a mask that keeps 3 weights, found one that keeps 6"),
        ("in_place", "expected a mask that keeps 3 weights, found one that keeps 6"),
        ("plain", "expected a Mask, found a dict"),
        ("nothing", "expected a Mask, found a NoneType"),
    ],
)
def test_a_derived_mask_has_all_layers_and_as_many_living_weights(
    tmp_path: Path, function: str, message: str
) -> None:  # K6
    mine, worker, kept = derivation(tmp_path)
    with pytest.raises(BadInput) as caught:
        DerivedMask(kept, function, mine.sha256, mask_seed=1).perform(worker)
    assert message in str(caught.value) and function in caught.value.where


def test_a_derived_mask_may_move_what_lives_from_layer_to_layer(tmp_path: Path) -> None:
    mine, worker, kept = derivation(tmp_path)
    made = DerivedMask(kept, "moved", mine.sha256, mask_seed=1).perform(worker)
    assert made.values["counts"] == {"a": 1, "b": 2} and list(made.values["counts"]) == ["a", "b"]


def derivation(folder: Path) -> tuple[Extension, Worker, Stored]:
    """An extension of functions of masks, and a mask in a store to derive others from."""
    like = Mask({"a": torch.tensor([[True, True, False]]), "b": torch.tensor([False, False, True])})
    kept, store = Stored("like"), Store(folder / "store").open()
    store.save(kept, mask_outcome(like), {})
    return load(written(folder, DERIVING)), Worker(store, None), kept


SLIPS = """
import random
from dataclasses import dataclass, replace
from typing import ClassVar

from tombola.lab.kinds import Init
from tombola.lab.studies import Finding, Question, Study
from tombola.value import Value


def chance(replicate, ticket, level, draw):
    return replace(ticket, start=replicate.rewind_point(init=f"chance {random.random()}"))


def unsteady(replicate, levels):
    start = replicate.rewind_point(init=f"unsteady {random.random()}")
    for _ in range(levels + 1):
        yield replicate.train(start)


def counted(replicate, levels, calls=[]):
    calls.append(replicate)
    return [replicate.train(replicate.rewind_point())] * len(calls)


class Table(Value):
    pass


@dataclass(frozen=True)
class Done(Finding):
    study: ClassVar[str] = "deed"


@dataclass(frozen=True)
class Nameless(Finding):
    pass


def asking(study, name):
    def questions(table, series):
        training = series.training("ticket", 1)
        start = series.replicate.rewind_point(init=name())
        yield Question(study, "ticket", series.replicate.number, 1, 0, start, training)

    return questions


def steady():
    return "init"


METHODS = {"unsteady": unsteady, "counted": counted}
CONTROLS = {"chance": chance}
STUDIES = {
    name: Study(name, Table, asking(study, init), lambda table, evidence, found=found: found, "Are deeds done?")
    for name, study, init, found in [
        ("slip", "deed", steady, []),
        ("moody", "moody", lambda: str(random.random()), []),
        ("deeds", "deeds", steady, [Done(reason="It is done.")]),
        ("silent", "silent", steady, [Nameless(reason="It is done.")]),
    ]
}
"""


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("arms=ticket,chance", "control chance: expected the same runs each time that an experiment is planned, found"),
        ("arms=ticket,unsteady", "method unsteady: expected the same runs each time"),
        ("arms=ticket,counted", "method counted: expected the same runs each time"),
        ("method=unsteady", "method unsteady: expected the same runs each time"),
        ("study.moody={}", "study moody: expected the same runs each time"),
        ("study.slip={}", "study slip: expected questions of its own, Question('slip', ...), found one of the study"),
    ],
)  # fmt: skip
def test_a_plan_that_cannot_be_made_twice_or_answers_nobody_is_refused(
    tmp_path: Path, change: str, message: str
) -> None:  # K11
    changes = ["levels=2", "replicates=1", *(["arms=ticket"] if not change.startswith("arms") else []), change]
    with pytest.raises(BadInput) as caught:
        plan(read("digits-lenet", changes, [written(tmp_path, SLIPS)]))
    assert message in str(caught.value)


@pytest.mark.parametrize(("study", "found"), [("deeds", "Done, with 'deed'"), ("silent", "Nameless, with None")])
def test_a_finding_of_another_study_is_refused(tmp_path: Path, study: str, found: str) -> None:
    wanted = plan(read("digits-lenet", ["arms=ticket", f"study.{study}={{}}"], [written(tmp_path, SLIPS)]))
    with pytest.raises(BadInput) as caught:
        _ = results(wanted, Store(tmp_path / "store").open()).findings
    message = f"study {study}: expected findings of its own, whose class has study = '{study}', found {found}"
    assert message in str(caught.value)
