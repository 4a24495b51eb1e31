"""The study of regularisation: what it measures, of whom, and what it says for and against."""

from typing import Any

import pytest
import torch

from tombola import models, weights
from tombola.data.label_noise import false_labels
from tombola.errors import BadInput
from tombola.lab.attempt import do
from tombola.lab.kinds import Init, Measured
from tombola.lab.plan import plan
from tombola.lab.results import results
from tombola.lab.spec_file import read
from tombola.lab.store import Store
from tombola.lab.studies.regularisation import MEASURES, RegularisationFinding
from tombola.lab.worker import Worker
from tombola.study.regularisation import QUANTITIES, compared, sentence

CHANGES = ["levels=2", "replicates=2", "recipe.model=lenet-20-10", "recipe.length=60it", "evaluate.every=30it"]
ASKED = ["arms=ticket,reinit", "study.regularisation={levels=[1,2],arms=['ticket','reinit'],examples=100}"]


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Worker]:
    wanted = plan(read("digits-lenet", [*CHANGES, *ASKED, "rewind=6it", "recipe.label_noise=0.25"]))
    worker = Worker(Store(tmp_path_factory.mktemp("regularisation")).open(), None)
    for run in wanted.runs:
        assert do(run, worker, lambda *_: None) == ("stored",)
    return wanted, worker


def test_each_network_is_measured_once_where_it_ended(done: tuple[Any, Worker]) -> None:
    wanted, _ = done
    rows = {(row.arm, row.level, row.replicate): row.run for row in wanted.rows if row.draw == 0}
    for question in wanted.questions:
        level = 0 if question.arm == "dense" else question.level
        assert isinstance(question.run, Measured)
        assert question.run.trained == question.density_of == rows[question.arm, level, question.replicate]
    assert {question.run.measurement.name for question in wanted.questions} == {
        measure(1).name for measure in MEASURES.values()
    }
    assert len({question.run.key for question in wanted.questions}) == len(MEASURES) * 2 * (1 + 2 * 2)


def test_distances_are_from_the_initial_weights_not_from_the_rewind_point(done: tuple[Any, Worker]) -> None:
    wanted, worker = done
    for question in wanted.questions:
        if question.part == "learning-distance":
            start = dict(question.run.further or ())["start"]
            assert isinstance(start, Init)
            began, ended = worker.store.weights(start), worker.store.weights(question.density_of)
            squares = sum(float((began[name] - ended[name]).square().sum()) for name in began if "weight" in name)
            assert worker.store.values(question.run)["distance"] == pytest.approx(squares**0.5, rel=1e-4)


def test_false_labels_are_counted_apart_and_together_make_the_training_accuracy(done: tuple[Any, Worker]) -> None:
    wanted, worker = done
    for question in wanted.questions:
        if question.part == "false-labels":
            training = question.density_of
            dataset = worker.placed(training.recipe)
            train, _ = worker.split(training.recipe, training.split_seed)
            false = torch.from_numpy(false_labels(dataset.facts))[train]
            model = models.build("lenet-20-10", (1, 8, 8), 10, "glorot-normal", init_seed=0)
            weights.put(model, worker.store.weights(training))
            with torch.no_grad():
                right = model(dataset.inputs(dataset.images[train])).argmax(1) == dataset.labels[train]
            values = worker.store.values(question.run)
            assert int(false.sum()) == int(0.25 * len(train) + 0.5)
            assert values["clean"] == pytest.approx(float(right[~false].double().mean()))
            assert values["memorised"] == pytest.approx(float(right[false].double().mean()))
            whole = worker.store.values(training)["final_train_accuracy"]
            assert float(right.double().mean()) == pytest.approx(whole)


def test_the_ticket_is_held_against_the_dense_network_and_the_controls(done: tuple[Any, Worker]) -> None:
    wanted, worker = done
    found = [each for each in results(wanted, worker.store).findings if isinstance(each, RegularisationFinding)]
    assert [(each.level, each.arm) for each in found] == [
        (level, arm) for level in (1, 2) for arm in ("reinit", "dense")
    ]
    for each in found:
        assert [one.quantity for one in each.quantities] == list(QUANTITIES)
        assert each.other_density == (1 if each.arm == "dense" else pytest.approx(each.density))
        assert ("between two densities" in each.sentence) == (each.arm == "dense"), "reinit lives in the same space"
        assert each.sentence.startswith("Rewound to step 6: Regularised tickets at")
    values = {(row.arm, row.level, row.replicate): worker.store.values(row.run) for row in wanted.rows if not row.draw}
    gaps = {key: one["final_train_accuracy"] - one["final_test_accuracy"] for key, one in values.items()}
    gap = found[-1].quantities[0]
    differences = [gaps["ticket", 2, number] - gaps["dense", 0, number] for number in (0, 1)]
    assert gap.quantity == "gap" and gap.more.mean == pytest.approx(sum(differences) / 2)


def test_words_follow_the_sign_that_a_quantity_has() -> None:
    low = {number: 1 + number / 100 for number in range(4)}
    high = {number: 2 + number / 90 for number in range(4)}
    for name, quantity in QUANTITIES.items():
        (less,) = compared({name: low}, {name: high}, 0.95)
        (more,) = compared({name: high}, {name: low}, 0.95)
        assert (less.word, more.word) == (("for", "against") if quantity.sign < 0 else ("against", "for"))


def test_intervals_of_several_quantities_hold_together() -> None:
    """One p-value of 0.03 is something; the smallest of eleven is nothing (Holm)."""
    some = {"gap": {0: 0.0, 1: 0.0, 2: 0.0}}, {"gap": {0: 1.0, 1: 2.0, 2: 1.5}}
    noise = {name: {0: 0.0, 1: 0.0, 2: 0.0} for name in QUANTITIES if name != "gap"}
    other = {name: {0: 1.0, 1: -1.0, 2: 0.1} for name in noise}
    (alone,) = compared(*some, 0.95)
    first, *rest = compared({**some[0], **noise}, {**some[1], **other}, 0.95)
    assert alone.word == "for" and first.word == "not shown"
    assert {each.word for each in rest} == {"not shown"}
    assert first.more.low < alone.more.low and first.more.high > alone.more.high


def test_what_depends_on_the_space_decides_nothing_between_densities() -> None:
    numbers = {"eigenvalue": {0: 1.0, 1: 1.01, 2: 1.02}}, {"eigenvalue": {0: 9.0, 1: 9.01, 2: 9.03}}
    found = compared(*numbers, 0.95)
    assert "against dense: open, as all that was measured is of different spaces" in sentence(0.1, "dense", 1.0, found)
    assert "against reinit: for; for it: largest Hessian eigenvalue 1.01" in sentence(0.1, "reinit", 0.1, found)


def test_a_distance_that_pruning_itself_makes_longer_is_no_word_against_sparse_networks() -> None:
    far = {"distance": {0: 8.0, 1: 8.1, 2: 8.2}}, {"distance": {0: 4.0, 1: 4.1, 2: 4.1}}
    found = compared(*far, 0.95)
    assert "against dense: open" in sentence(0.1, "dense", 1.0, found)
    assert "against reinit: against" in sentence(0.1, "reinit", 0.1, found)


def test_one_replicate_decides_nothing() -> None:
    said = sentence(0.1, "dense", 1.0, compared({"gap": {0: 0.1}}, {"gap": {0: 0.2}}, 0.95))
    assert (
        "one replicate decides nothing; measured: generalisation gap 10.00% against 20.00%, -10.00 points; n = 1"
        in said
    )


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("{levels=[1],arms=['reinit']}", "the ticket, which all others are held against"),
        ("{levels=[1],arms=['ticket','random']}", "expected arms of the spec"),
        (
            "{levels=[1],measures=['false-labels']}",
            "recipe.label_noise, which makes labels false, found 'false-labels'",
        ),
        ("{levels=[1],measures=['rank','rank']}", "each measure once"),
        ("{levels=[0]}", "levels from 1"),
    ],
)
def test_what_cannot_be_asked_is_refused(table: str, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        read("digits-lenet", ["arms=ticket,reinit", f"study.regularisation={table}"])


@pytest.mark.parametrize(("false", "told"), [(0.2, True), (0.0, False)])
def test_a_gap_from_partly_false_labels_says_so(false: float, told: bool) -> None:
    found = compared({"gap": {0: 0.1, 1: 0.1}}, {"gap": {0: 0.2, 1: 0.3}}, 0.95)
    assert ("labels of which 20.0% are false" in sentence(0.1, "random", 0.1, found, false)) == told
    assert ("are false" in sentence(0.1, "random", 0.1, found, false)) == told
    other = compared({"rank": {0: 4.0, 1: 4.1}}, {"rank": {0: 9.0, 1: 9.1}}, 0.95)
    assert "are false" not in sentence(0.1, "random", 0.1, other, false)
