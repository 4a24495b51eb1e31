"""`--until decided`: what is open, given up or decided, and the command that adds replicates until nothing is open."""

import json
import re
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import t

from tombola.cli import main
from tombola.lab.plan import complete, of_first, plan
from tombola.lab.spec_file import read
from tombola.lab.store import Store
from tombola.study.sequential import Looks
from tombola.study.standing import HARDLY, Place, chance, needed, standings
from tombola.study.verdict import Criteria, Trial, judge

CRITERIA = Criteria(accuracy_margin=0.002, step_margin=100, paced=False, looks=Looks(5, 20))


def trials(arm: str, level: int, accuracies: Sequence[float]) -> list[Trial]:
    density = 0.2**level
    return [Trial(arm, number, level, density, 100, accuracy) for number, accuracy in enumerate(accuracies)]


def scattered(center: float, spread: float, count: int) -> list[float]:
    """So many values around a center, the same at each call."""
    return list(center + spread * np.random.default_rng(0).permutation(np.linspace(-1, 1, count)))


def dense(count: int) -> list[Trial]:
    return trials("dense", 0, [0.95] * count)


@pytest.mark.parametrize("mean", [0.0, 0.4, 0.9])
def test_the_chance_of_a_decision_is_how_often_simulation_decides(mean: float) -> None:
    values = np.array(scattered(mean, 1.0, 8))
    spread, draws = values.std(ddof=1), np.random.default_rng(1)
    further = draws.normal(abs(values.mean()) + spread / np.sqrt(8), spread, (20_000, 12))
    means = (abs(values.sum()) + further.sum(1)) / 20
    beyond = Looks(5, 20).nominal(0.05)
    decided = (means > t.isf(beyond / 2, 19) * spread / np.sqrt(20)).mean()
    assert chance(list(values), 0.95, CRITERIA, 0.0) == pytest.approx(decided, abs=0.01)


def test_a_difference_that_is_clear_is_decided_at_once_and_one_that_is_none_is_given_up() -> None:
    clear, none = scattered(0.90, 0.001, 6), scattered(0.948, 0.02, 6)
    known = standings([*dense(6), *trials("ticket", 1, clear), *trials("ticket", 2, none)], CRITERIA)
    assert [(each.state, each.replicates) for each in known] == [("decided", 5), ("given up", None)]
    assert known[1].chance is not None and known[1].chance < HARDLY


def test_a_difference_that_may_yet_be_shown_is_open_and_before_the_first_look_all_is() -> None:
    some = scattered(0.955, 0.01, 6)
    (known,) = standings([*dense(6), *trials("ticket", 1, some)], CRITERIA)
    assert known.state == "open" and known.chance is not None and known.chance >= HARDLY
    (early,) = standings([*dense(4), *trials("ticket", 1, some[:4])], CRITERIA)
    assert (early.state, early.chance) == ("open", 1.0)


def test_at_the_last_look_nothing_is_open() -> None:
    last = Criteria(accuracy_margin=0.002, step_margin=100, paced=False, looks=Looks(5, 6))
    made = [*dense(6), *trials("ticket", 1, scattered(0.955, 0.01, 6))]
    known = standings(made, last)
    assert [each.state for each in known] == ["given up"]
    assert needed(known, judge(made, last), Looks(5, 6)) == [
        "Replicates needed against dense: not decided by 6 at 20.0%."
    ]


def test_a_control_is_decided_where_it_is_shown_to_be_as_good() -> None:
    tickets, control = (
        scattered(0.95, 0.01, 8),
        [value + 1e-5 * (-1) ** n for n, value in enumerate(scattered(0.95, 0.01, 8))],
    )
    known = standings([*dense(8), *trials("ticket", 1, tickets), *trials("random", 1, control)], CRITERIA)
    states = {each.place: (each.state, each.replicates) for each in known}
    assert states[Place("random", 0, None)] == states[Place("random", 0, 1)] == ("decided", 5)


def test_how_many_replicates_each_level_needed_is_said_in_a_sentence() -> None:
    made = [*dense(9), *trials("ticket", 1, scattered(0.948, 0.02, 9))]
    for level in (2, 3):
        made += trials("ticket", level, scattered(0.90, 0.001, 9))
    made += trials("random", 1, scattered(0.5, 0.01, 9))
    known = standings(made, CRITERIA)
    assert needed(known, judge(made, CRITERIA), Looks(5, 20)) == [
        "Replicates needed against dense: given up, as 20 would hardly decide it, at 20.0%; 5 at 4.0% to 0.8%.",
        "Replicates needed against random: 5 over the low densities together; 5 at 20.0%.",
    ]


TINY = [
    *("digits-lenet", "--set", "recipe.model=lenet-20-10", "--set", "recipe.length=40it", "--set", "levels=1"),
    *("--set", "evaluate.every=10it", "--set", "evaluate.test_every=20it", "--set", "arms=ticket,reinit"),
]
UNTIL = ["--until", "decided", "--most-replicates", "7"]


def ask(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    status = main(list(arguments))
    captured = capsys.readouterr()
    return status, captured.out.replace("\n", " "), captured.err


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with a run until decided, of two workers."""
    root = tmp_path_factory.mktemp("until") / "store"
    assert main(["run", *TINY, *UNTIL, "--store", str(root), "--workers", "2"]) == 0
    return root


def test_a_run_until_decided_says_after_each_look_what_is_open_and_ends_where_nothing_is(
    store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status, out, _ = ask(capsys, "run", *TINY, *UNTIL, "--store", str(store))
    (count, states) = re.findall(r"After (\d) replicates: (.*?): no more\.", out)[0]
    assert status == 0 and 5 <= int(count) <= 7 and ", 0 open" in states
    numbers = [int(number) for number in re.findall(r"\d+", states)]
    assert numbers[0] + numbers[2] == numbers[1] == 3  # the verdict, and reinit over the low densities and at its level
    assert "Replicates needed against dense" in out and "Replicates needed against reinit" in out
    assert "after 5 to 7 replicates (Pocock's boundary" in out
    assert len({path.name for path in (store / "runs").glob("train-*")}) == 3 * int(count)  # no more than were needed


def test_a_run_ends_as_soon_as_all_is_decided(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    easy = ["prune.rate=0.01", "verdict.accuracy_margin=10pt", "verdict.at=end", "recipe.length=200it"]
    changes = [argument for change in [*easy, "arms=ticket"] for argument in ("--set", change)]
    tiny = ["digits-lenet", *changes, "--set", "levels=1", "--set", "recipe.model=lenet-20-10", "--until", "decided"]
    status, out, _ = ask(capsys, "run", *tiny, "--store", str(tmp_path / "store"), "--workers", "2")
    assert status == 0
    assert "After 5 replicates: 1 of 1 question decided, 0 given up, 0 open: no more." in out
    assert re.search(r"Replicates needed against dense: 5 at 9\d\.\d%\.", out)


def test_its_verdict_as_json_names_the_rule_and_every_question(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = ask(capsys, "verdict", *TINY, *UNTIL, "--store", str(store), "--format", "json")
    content = json.loads(out)
    assert content["rule"]["name"].startswith("Pocock") and content["rule"]["looks"] == [5, 6, 7]
    assert 0.95 < content["rule"]["confidence_of_one_look_at_one_comparison"] < 0.99
    (level,) = content["levels"]
    assert level["dense"]["sure"]["accuracy"] > 0.97 and level["dense"]["correction"]["result"] == "looks, Holm"
    assert [(each["against"], each["level"]) for each in content["questions"]] == [
        ("dense", 1),
        ("reinit", None),
        ("reinit", 1),
    ]
    assert {each["state"] for each in content["questions"]} <= {"decided", "given up"}


def test_intervals_of_a_fixed_number_say_that_they_are_too_narrow_for_such_replicates(
    store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, out, _ = ask(capsys, "verdict", *TINY, "--set", "replicates=6", "--store", str(store))
    assert "too narrow for that: --until decided has those that hold" in out
    for fine in (["--set", "replicates=5"], UNTIL):  # five were there in any case
        assert "too narrow" not in ask(capsys, "verdict", *TINY, *fine, "--store", str(store))[1]


def test_later_data_are_a_replicate_each_and_one_that_is_under_way_is_left_out(store: Path, tmp_path: Path) -> None:
    kept, asked = (
        Store(shutil.copytree(store, tmp_path / "store")),
        plan(read(TINY[0], [*TINY[2::2], "verdict.until=decided"])),
    )
    count = complete(asked, kept)
    assert 5 <= count <= 7
    row = next(row for row in asked.rows if (row.replicate, row.arm) == (2, "ticket"))
    shutil.rmtree(kept.root / "runs" / row.run.key)
    assert complete(asked, kept) == 2
    kept.fail(row.run, "tried out", "")
    assert complete(asked, kept) == count  # what failed is left out of comparisons, not waited for
    assert {row.replicate for row in of_first(asked, 2).rows} == {0, 1}


def test_an_interrupted_run_goes_on_where_it_was(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kept, asked = (
        Store(shutil.copytree(store, tmp_path / "store")),
        plan(read(TINY[0], [*TINY[2::2], "verdict.until=decided"])),
    )
    before = {key: (kept.root / "runs" / key / "outcome.json").read_bytes() for key in sorted(kept.keys())}
    for row in asked.rows:
        if row.replicate >= 4 and row.run.key in before:  # as if it had been killed in the fifth replicate
            shutil.rmtree(kept.root / "runs" / row.run.key)
    assert ask(capsys, "run", *TINY, *UNTIL, "--store", str(kept.root), "--workers", "1")[0] == 0
    assert {key: (kept.root / "runs" / key / "outcome.json").read_bytes() for key in sorted(kept.keys())} == before


def test_a_plan_until_decided_says_the_least_and_the_most(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = ask(capsys, "plan", *TINY, *UNTIL, "--store", str(tmp_path / "store"))
    assert "21 trainings of 40 steps to do" in out and "That is the most, 7 replicates." in out
    assert "the first look is after 5: " in out
    _, out, _ = ask(capsys, "plan", *TINY, *UNTIL, "--store", str(tmp_path / "store"), "--format", "json")
    content = json.loads(out)
    assert (content["replicates"], content["least"]["replicates"]) == (7, 5)
    assert 7 * content["least"]["missing"] == 5 * content["total"]["missing"]


@pytest.mark.parametrize(("arguments", "said"), [
    (["--until", "foo"], 'Invalid value "foo" for --until. Choose from: "decided".'),
    (["--until", "decided", "--most-replicates", "3"], "verdict.most_replicates: expected a number >= 5, found 3"),
    (["--until", "decided", "--most-replicates", "101"], "most_replicates: expected a number <= 100, found 101"),
    (["--most-replicates", "9"], "expected absent where none are added, found 9 (--until decided"),
    (["--set", "verdict.until=dawn"], "verdict.until: expected one of decided, found 'dawn'"),
])  # fmt: skip
def test_what_no_run_until_decided_can_do_is_refused(
    arguments: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status, _, error = ask(capsys, "run", *TINY, *arguments, "--store", str(tmp_path / "store"))
    assert status == 2 and said in error
    assert not (tmp_path / "store" / "runs").exists()


def test_as_many_replicates_may_come_as_a_spec_has_in_any_case() -> None:
    until = ["verdict.until=decided"]
    last = {count: read("digits-lenet", [*until, f"replicates={count}"]).spec.all_replicates for count in (3, 24, 500)}
    assert last == {3: 20, 24: 24, 500: 100}


def test_a_spec_s_folder_knows_nothing_of_fields_that_it_does_not_use() -> None:
    assert set(read("digits-lenet").spec.verdict.model_dump()) == {"at", "accuracy_margin", "step_margin", "confidence"}
