"""Answers that are numbers, or several of yes and no: their loss, their measure, and the words for it."""

import hashlib
import io
import re
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any, get_args

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from sklearn.metrics import log_loss, mean_squared_error

from tombola import data
from tombola.data import subset
from tombola.data.facts import Answers, Facts
from tombola.data.shared import attach, publish
from tombola.engine import data_parallel, native, stacked
from tombola.engine.training import Training
from tombola.errors import SpecError
from tombola.evaluate import evaluate
from tombola.lab.plan import plan
from tombola.lab.results import results
from tombola.lab.runs import shallow
from tombola.lab.spec_file import read
from tombola.lab.store import Store
from tombola.lab.worker import Worker
from tombola.objective import loss_of_answers
from tombola.recipe import Recipe
from tombola.report.figures import all_figures
from tombola.report.page import _reasons, _told
from tombola.report.text import records_text, summary_table

KINDS = get_args(Answers)
LABELS: dict[str, Any] = {
    "class": lambda x: (x[:, 0] + x[:, 3] > 0).astype(np.int64),
    "number": lambda x: (x[:, 0] - 2 * x[:, 3] ** 2 + 1).astype(np.float32),
    "tasks": lambda x: np.stack([x[:, 0] > 0, x[:, 1] > x[:, 2], x[:, 3] > 1], axis=1).astype(np.int64),
}
SIZES: dict[str, Any] = {"train": 128, "validation": 32, "test": 40}
OUTPUTS = {"class": 2, "number": 1, "tasks": 3}


def arrays(answers: str) -> tuple[Any, ...]:
    examples = np.random.default_rng(0).normal(size=(200, 5)).astype(np.float32)
    labels = LABELS[answers](examples)
    if answers == "number":
        labels -= labels[:160].mean()
    return examples[:160], labels[:160], examples[160:], labels[160:]


@pytest.fixture(autouse=True)
def sources(monkeypatch: pytest.MonkeyPatch) -> None:
    for answers in KINDS:
        source: Any = ModuleType(answers)
        digest = hashlib.sha256(b"".join(np.ascontiguousarray(each).tobytes() for each in arrays(answers)))
        made: dict[str, Any] = {
            "classes": OUTPUTS[answers],
            "checksum": digest.hexdigest(),
            "real": True,
            "answers": answers,
        }
        source.FACTS = Facts(answers, (5,), **SIZES, **made)
        source.read = lambda data_dir, answers=answers: arrays(answers)
        monkeypatch.setitem(data.SOURCES, answers, source)


def recipe(answers: str, **changes: Any) -> Recipe:
    adam = {"name": "adam", "lr": 1e-2}
    return Recipe.model_validate(
        {"model": "lenet-16", "data": answers, "length": "60it", "batch": 32, "optimizer": adam, **changes}
    )


def outputs(count: int, width: int) -> Any:
    return torch.randn(count, width, generator=torch.Generator().manual_seed(count))


@given(st.integers(2, 30), st.integers(0, 99))
def test_the_loss_of_numbers_is_their_squared_error(count: int, seed: int) -> None:
    labels = torch.randn(count, generator=torch.Generator().manual_seed(seed))
    found = loss_of_answers(outputs(count, 1), labels)
    assert float(found) == pytest.approx(mean_squared_error(labels, outputs(count, 1)[:, 0]), rel=1e-5)


@given(st.integers(2, 30), st.integers(1, 4), st.integers(0, 99))
def test_the_loss_of_tasks_is_that_of_each_added_up(count: int, tasks: int, seed: int) -> None:
    labels = torch.randint(0, 2, (count, tasks), generator=torch.Generator().manual_seed(seed))
    chances = outputs(count, tasks).double().sigmoid()
    alone = [log_loss(labels[:, task], chances[:, task], labels=[0, 1]) for task in range(tasks)]
    assert float(loss_of_answers(outputs(count, tasks), labels)) == pytest.approx(sum(alone), rel=1e-5)
    each = loss_of_answers(outputs(count, tasks), labels, "none")
    assert each.shape == (count,)
    assert float(loss_of_answers(outputs(count, tasks), labels, "sum")) == pytest.approx(float(each.sum()), rel=1e-5)


def test_r2_is_about_the_mean_of_the_training_set() -> None:
    dataset, zero = data.load("number"), torch.nn.Linear(5, 1)
    torch.nn.init.zeros_(zero.weight)
    torch.nn.init.constant_(zero.bias, 0.0)
    assert evaluate(zero, dataset, dataset.test_images, dataset.test_labels).accuracy == 0
    torch.nn.init.constant_(zero.bias, 3.0)
    seen = evaluate(zero, dataset, dataset.test_images, dataset.test_labels)
    y = dataset.test_labels.double()
    assert seen.accuracy == pytest.approx(1 - float(((y - 3) ** 2).sum() / (y**2).sum())) and seen.accuracy < 0
    assert seen.loss == pytest.approx(float(((y - 3) ** 2).mean()), rel=1e-6)


def test_the_accuracy_of_tasks_is_the_mean_share_of_right_answers() -> None:
    dataset, model = data.load("tasks"), torch.nn.Linear(5, 3)
    seen = evaluate(model, dataset, dataset.test_images, dataset.test_labels)
    right = (model(dataset.test_images) > 0) == dataset.test_labels.bool()
    assert seen.accuracy == pytest.approx(float(right.double().mean())) and seen.total == 40 * 3


@pytest.mark.parametrize("answers", KINDS)
def test_other_processes_map_them_and_parts_are_drawn(answers: str, tmp_path: Path) -> None:
    publish(answers, None, tmp_path)
    here, there = data.load(answers), attach(answers, tmp_path)
    assert torch.equal(here.labels, there.labels) and torch.equal(here.test_labels, there.test_labels)
    part = data.load(f"{answers}-50")
    assert len(part.labels) == 50 and part.facts.answers == answers
    assert sum(subset.counts(part.facts)) == 50


def test_facts_of_classes_keep_their_fingerprint() -> None:
    known = data.facts("class")
    assert len({known.fingerprint, *(replace(known, answers=other).fingerprint for other in KINDS[1:])}) == 3
    assert (known.measure, data.facts("number").measure) == ("accuracy", "R2")


@pytest.mark.parametrize("answers", KINDS[1:])
def test_other_engines_leave_them_to_the_plain_loop(answers: str) -> None:
    training = Training.of(recipe("class"), data.facts(answers))
    bytes_of_images = replace(training, examples="images", sequential=True)
    assert "classes" in native.hindrance(bytes_of_images)
    assert "classes" in stacked.accepts(replace(training, choice="stacked", count=4))
    assert "classes" in data_parallel.accepts(replace(training, processes=2))


def test_label_smoothing_needs_classes() -> None:
    smoothing = 'recipe.objective={name = "label-smoothing"}'
    with pytest.raises(SpecError, match=r"recipe.objective: expected one for answers of number"):
        read("digits-lenet", ["recipe.model=lenet-16", "recipe.data=number", smoothing])


@pytest.mark.parametrize(("answers", "score"), [("number", "snip"), ("number", "magnitude"), ("tasks", "magnitude")])
def test_an_experiment_says_what_it_measures(answers: str, score: str, tmp_path: Path) -> None:
    changes = ["recipe.model=lenet-16", f"recipe.data={answers}", "recipe.length=40it", "levels=1", "replicates=2"]
    made = plan(read("digits-lenet", [*changes, f"prune.score={score}", "arms=ticket,random"]))
    worker = Worker(Store(tmp_path).open(), None)
    for run in made.runs:
        worker.store.save(run, shallow(run).perform(worker), {"seconds": 1.0})
    found = results(made, worker.store)
    Console(width=200, file=(screen := io.StringIO())).print(summary_table(found))
    drawn = str(list(all_figures(found, []).values()))
    shown = "\n".join([screen.getvalue(), *found.sentences, _reasons(found.verdicts, found.criteria), _told(found)])
    shown += drawn.replace("'accuracy'", "").replace("accuracy:Q", "") + records_text(found.table, "csv")
    words = re.findall(r"\S*accura\w*|\bacc\.", shown)
    assert bool(words) == (answers == "tasks"), words
    assert ("R2 %" in shown) == (answers == "number") == ("early_stop_test_R2" in shown)
