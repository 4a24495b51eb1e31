"""The study of features: what it measures, of whom, under which weights, and what it says."""

from typing import Any

import pytest
import torch

from tombola import models
from tombola.errors import BadInput
from tombola.lab.attempt import do
from tombola.lab.kinds import Measured, Train
from tombola.lab.plan import Plan, plan
from tombola.lab.results import results
from tombola.lab.spec_file import read
from tombola.lab.store import Store
from tombola.lab.studies.features import ALIKE, END, START, FeaturesFinding
from tombola.lab.worker import Worker
from tombola.study.features import listed, standings, told, verdict
from tombola.study.similarity import aligned, gram, handed, tangent_kernel

CHANGES = ["levels=2", "replicates=2", "recipe.model=lenet-20-10", "recipe.length=30it", "evaluate.every=15it"]
ASKED = ["rewind=6it", "study.features={levels=[2],examples=40}"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Plan, Worker]:
    wanted = plan(read("digits-lenet", [*CHANGES, *ASKED]))
    worker = Worker(Store(tmp_path_factory.mktemp("features")).open(), None)
    for run in wanted.runs:
        assert do(run, worker, lambda *_: None) == ("stored",)
    return wanted, worker


def test_features_are_measured_where_training_began_and_where_it_ended(finished: tuple[Plan, Worker]) -> None:
    wanted, worker = finished
    store, seen = worker.store, set()
    rows = {(row.arm, row.level, row.replicate): row.run for row in wanted.rows}
    for question in wanted.questions:
        run, own = question.run, question.density_of
        assert isinstance(run, Measured) and isinstance(own, Train)
        assert own == rows.get((question.arm, question.level, question.replicate), own)
        assert run.trained == (own.start if question.part == START else own) and run.mask == own.mask
        seen.add((question.arm, question.level, question.part, question.replicate))
    assert {(arm, level) for arm, level, _, _ in seen} == {("dense", 0), ("ticket", 2), ("reinit", 2), ("random", 2)}
    assert len(seen) == 4 * 3 * 2 - 1, "the first replicate has none before it"
    assert ("dense", 0, ALIKE, 0) not in seen
    question = next(one for one in wanted.questions if (one.arm, one.part, one.replicate) == ("ticket", START, 1))
    training = question.density_of
    assert training.mask
    living = store.mask(training.mask)
    model = models.build("lenet-20-10", (1, 8, 8), 10, "glorot-normal", init_seed=0)
    model.load_state_dict({**store.weights(training.start)})
    with torch.no_grad():
        for name, alive in living.items():
            model.get_parameter(name).mul_(alive)
    test = worker.test(training.recipe)
    chosen = torch.randperm(len(test), generator=torch.Generator().manual_seed(question.run.seed))[:40]  # type: ignore[attr-defined]
    dataset = worker.placed(training.recipe)
    inputs, labels = dataset.inputs(dataset.test_images[test[chosen]]), dataset.test_labels[test[chosen]]
    kernels = [gram(handed(model, name, inputs)) for name in ("fc1", "fc2", "output")]
    kernels += [gram(model(inputs).detach()), tangent_kernel(model, inputs, dict(living))]
    values = store.values(question.run)
    assert values["kernels"] == ["fc1", "fc2", "output", "answers", "tangent kernel"]
    assert values["values"] == pytest.approx([aligned(kernel, labels, 10).alignment for kernel in kernels], abs=1e-6)


def test_the_dense_network_beside_is_that_of_the_replicate_and_for_dense_ones_of_the_one_before(
    finished: tuple[Plan, Worker],
) -> None:
    wanted, _ = finished
    dense = {row.replicate: row.run for row in wanted.rows if row.arm == "dense"}
    for question in wanted.questions:
        if question.part == ALIKE:
            number = question.replicate - (question.arm == "dense")
            assert isinstance(question.run, Measured) and question.run.further == (("dense", dense[number]),)


def test_a_network_that_does_not_begin_with_pruned_weights_at_0_is_not_measured_as_if_it_did() -> None:
    arms = ["arms=ticket,frozen", "study.features={levels=[1],arms=['ticket','frozen'],tangent=false}"]
    wanted = plan(read("digits-lenet", ["levels=1", "replicates=1", *arms]))
    assert {one.arm for one in wanted.questions if one.part == "before training"} == {"dense", "ticket"}


def test_it_says_what_it_found(finished: tuple[Plan, Worker]) -> None:
    found = [one for one in results(finished[0], finished[1].store).findings if isinstance(one, FeaturesFinding)]
    assert [(one.part, one.of) for one in found if one.headline] == [
        (START, "tangent kernel"),
        (END, "tangent kernel"),
        (ALIKE, "output"),
    ]
    assert {one.of for one in found if one.part == START} == {"fc2", "output", "answers", "tangent kernel"}
    assert all(0 <= arm.value.mean <= 1 for one in found if one.part != ALIKE for arm in one.arms)
    sentence = next(one.sentence for one in found if one.part == ALIKE and one.of == "output")
    assert "two dense networks of other initialisations" in sentence and "n = 1); n = 2: the ticket is" in sentence


def test_only_what_is_beyond_every_interval_speaks_for_or_against() -> None:
    def arms(**values: float) -> Any:
        return standings({arm: {0: value, 1: value + 0.01} for arm, value in values.items()}, 0.95)

    assert verdict(arms(ticket=0.5, random=0.3, dense=0.2)) == "for"
    assert verdict(arms(ticket=0.1, random=0.3, dense=0.2)) == "against"
    mixed = arms(ticket=0.25, random=0.3, dense=0.2)
    assert verdict(mixed) == "undecided" == verdict(arms(ticket=0.5))
    assert told(mixed, "above", "below", "this") == (
        "the ticket is above dense; below random, which speaks neither for nor against the guess that this"
    )
    apart = standings({"ticket": {0: 0.5, 1: 0.6}, "random": {0: 0.6, 1: 0.4}}, 0.95)
    assert verdict(apart) == "undecided" and "not told apart from random" in told(apart, "above", "below", "this")
    one = standings({"ticket": {0: 0.5}, "random": {0: 0.2}}, 0.95)
    assert (
        verdict(one) == "undecided"
        and told(one, "a", "b", "this") == "one replicate decides nothing about the guess that this"
    )
    assert listed(one, {"random": "chance"}) == "0.500 in ticket; 0.200 in chance (ticket +0.300)"


@pytest.mark.parametrize(
    ("preset", "changes", "words"),
    [
        ("gpt-shakespeare-quick", ["study={}", "study.features={levels=[1],arms=['ticket']}"], "found texts"),
        ("digits-lenet", ["study.features={levels=[1],arms=['random']}"], "the ticket among them"),
        ("digits-lenet", ["study.features={levels=[1],arms=['ticket','winner']}"], "one of ticket, .*found 'winner'"),
    ],
)
def test_what_it_cannot_answer_is_refused(preset: str, changes: list[str], words: str) -> None:
    with pytest.raises(BadInput, match=words):
        read(preset, changes)
