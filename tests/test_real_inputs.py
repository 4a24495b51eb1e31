"""Examples that are real numbers, not bytes: held as they are, trained on as they are, by whoever can."""

import hashlib
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from tombola import data, models
from tombola.data.facts import Facts
from tombola.data.shared import attach, publish
from tombola.engine import forecast
from tombola.engine.training import Training
from tombola.errors import SpecError
from tombola.evaluate import evaluate
from tombola.lab.kinds import Train
from tombola.lab.replicate import Replicate
from tombola.lab.runs import ancestry, shallow
from tombola.lab.spec_file import read
from tombola.lab.store import Store
from tombola.lab.worker import Worker
from tombola.methods import METHODS
from tombola.recipe import Recipe


def arrays() -> tuple[Any, ...]:
    draw = np.random.default_rng(0)
    examples = draw.normal(size=(200, 5)).astype(np.float32)
    labels = (examples[:, 0] + examples[:, 3] > 0).astype(np.int64)
    return examples[:160], labels[:160], examples[160:], labels[160:]


@pytest.fixture(autouse=True)
def vectors(monkeypatch: pytest.MonkeyPatch) -> None:
    source: Any = ModuleType("vectors")
    digest = hashlib.sha256(b"".join(np.ascontiguousarray(one).tobytes() for one in arrays())).hexdigest()
    source.FACTS = Facts("vectors", (5,), 2, train=128, validation=32, test=40, checksum=digest, real=True)
    source.read = lambda data_dir: arrays()
    monkeypatch.setitem(data.SOURCES, "vectors", source)


def recipe(**changes: Any) -> Recipe:
    optimizer = {"name": "adam", "lr": 1e-2}
    return Recipe.model_validate(
        {"model": "lenet-16", "data": "vectors", "length": "60it", "batch": 32, "optimizer": optimizer, **changes}
    )


def test_real_numbers_are_inputs_as_they_are() -> None:
    dataset = data.load("vectors")
    assert dataset.images.dtype == torch.float32
    assert torch.equal(dataset.inputs(dataset.images[:3]), torch.from_numpy(arrays()[0][:3]))


def test_other_processes_map_them(tmp_path: Path) -> None:
    publish("vectors", None, tmp_path)
    mapped, held = attach("vectors", tmp_path), data.load("vectors")
    assert torch.equal(mapped.images, held.images) and torch.equal(mapped.test_labels, held.test_labels)


def test_that_examples_are_real_is_in_their_fingerprint_and_that_they_are_not_is_in_none() -> None:
    known = data.facts("vectors")
    assert known.fingerprint != replace(known, real=False).fingerprint


def test_a_ticket_is_found_among_them(tmp_path: Path) -> None:
    spec = read("digits-lenet", ["recipe.model=lenet-16", "recipe.data=vectors", "recipe.length=60it"]).spec
    worker = Worker(Store(tmp_path / "store").open(), None)
    ticket: Train = list(METHODS["iterative"].search(Replicate(spec, 0), 1))[1]
    for run in ancestry([ticket]):
        worker.store.save(run, shallow(run).perform(worker), {})
    assert worker.store.values(ticket)["final_test_accuracy"] > 0.8


def test_the_kernels_leave_them_to_the_plain_loop() -> None:
    plain = forecast(Training.of(recipe(), data.facts("vectors")))
    assert plain.name == "reference" and plain.why.startswith("the kernels read images as bytes; ")


def test_they_are_evaluated_like_images() -> None:
    dataset = data.load("vectors")
    model = models.build("lenet-16", (5,), 2, "glorot-normal", init_seed=0)
    seen = evaluate(model, dataset, dataset.test_images, dataset.test_labels)
    outputs = model(torch.from_numpy(arrays()[2]))
    assert seen.correct == int((outputs.argmax(1) == torch.from_numpy(arrays()[3])).sum())


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("recipe.model=conv-2", "expected a model for examples that are no images: lenet-W1"),
        ("recipe.augment=flip-crop", "none, as real numbers are not changed"),
        ("recipe.normalise=unit", "none, as real numbers are not changed"),
    ],
)
def test_what_images_alone_have_is_refused(change: str, words: str) -> None:
    with pytest.raises(SpecError, match=words):
        read("digits-lenet", ["recipe.data=vectors", change])
