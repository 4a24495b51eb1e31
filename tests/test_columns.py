"""How much of a first layer is on useless columns: by hand, turned and turned back, and in the study, with a tree."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.feature_selection import f_classif, f_regression

from tombola import data
from tombola.data import changed_inputs
from tombola.errors import SpecError
from tombola.lab.kinds import Tree
from tombola.lab.plan import plan
from tombola.lab.results import results
from tombola.lab.runs import shallow
from tombola.lab.spec_file import read
from tombola.lab.store import Store
from tombola.lab.studies.columns import ColumnsFinding
from tombola.lab.worker import Worker
from tombola.study.columns import heard, least, told_alone


@given(st.integers(2, 12), st.integers(1, 6), st.integers(0, 99))
def test_of_turned_inputs_the_mass_is_that_before_they_were_turned(columns: int, units: int, seed: int) -> None:
    draw = torch.Generator().manual_seed(seed)
    weight, useless = (
        torch.randn(units, columns, generator=draw, dtype=torch.float64),
        torch.arange(columns) >= columns // 2,
    )
    turned = changed_inputs.named(f"rotated~{seed}")
    assert turned is not None
    turn = torch.from_numpy(turned.turn(columns))
    everything = torch.ones(units, columns, dtype=torch.bool)
    plain = heard(weight, everything, useless)
    # The network that computes the same of Q x as `weight` of x has the weights W Q^T.
    back = heard(weight @ turn.T, everything, useless, turn)
    assert back.mass == pytest.approx(plain.mass) and back.kept is None and plain.kept == pytest.approx(plain.chance)


def test_the_matrix_is_that_by_which_the_data_were_turned() -> None:
    whole = "table:diabetes~3+noise-4~3"
    plain, turned = data.load(whole), data.load(f"{whole}+rotated~3")
    found = changed_inputs.noise_columns(["noise-4~3", "rotated~3"])
    assert found is not None and found[1] is not None
    turn = torch.from_numpy(found[1].turn(14)).float()
    assert found[0] == 4 and torch.allclose(plain.images @ turn.T, turned.images, atol=1e-5)


@given(st.integers(20, 60), st.integers(2, 4), st.integers(0, 99))
def test_what_a_column_says_alone_orders_columns_as_their_f_does(count: int, classes: int, seed: int) -> None:
    draw = np.random.default_rng(seed)
    inputs, labels = draw.normal(size=(count, 5)), np.arange(count) % classes
    inputs[:, 0] += labels
    told = told_alone(torch.from_numpy(inputs), torch.from_numpy(labels)).numpy()
    f = f_classif(inputs, labels)[0]
    assert np.allclose(told / (1 - told) * (count - classes) / (classes - 1), f)
    numbers = inputs[:, 0] + draw.normal(size=count)
    told = told_alone(torch.from_numpy(inputs), torch.from_numpy(numbers)).numpy()
    assert np.allclose(told / (1 - told) * (count - 2), f_regression(inputs, numbers)[0])


def test_a_constant_column_says_nothing_and_is_among_the_least() -> None:
    inputs = torch.tensor([[1.0, 2.0, 5.0, 1.0], [1.0, 3.0, 4.0, 1.5]])
    told = told_alone(inputs, torch.tensor([0, 1]))
    assert told[0] == 0 and least(told).tolist() == [True, False, False, False]


def test_a_tree_is_grown_on_the_training_examples_alone(tmp_path: Path) -> None:  # leakage
    store = Store(tmp_path).open()
    run, worker = Tree("table:diabetes~5", split_seed=5, tree_seed=1), Worker(store, None)
    dataset = worker.dataset(run.source)
    train, _ = data.split(dataset, 5)
    tree = HistGradientBoostingRegressor(random_state=1).fit(dataset.images[train].numpy(), dataset.labels[train])
    found = shallow(run).perform(worker).values["test"]
    y = dataset.test_labels.double().numpy()
    squares = ((y - tree.predict(dataset.test_images.numpy())) ** 2).sum()
    assert found == pytest.approx(1 - squares / (y**2).sum(), abs=1e-6)


def test_the_study_says_all_of_it(tmp_path: Path) -> None:
    changes = ["levels=3", "replicates=2", "recipe.length=60it", "study.columns.levels=0,3"]
    for inputs, turned in (("noise-10", False), ("noise-10,rotated", True)):
        made = plan(read("table-columns-quick", [*changes, f"recipe.inputs={inputs}"]))
        store = Store(tmp_path / inputs).open()
        worker = Worker(store, None)
        for run in made.runs:
            store.save(run, shallow(run).perform(worker), {"seconds": 1.0})
        found = [each for each in results(made, store).findings if isinstance(each, ColumnsFinding)]
        assert [each.arm for each in found] == ["dense", "ticket", "random"]
        for each in found:
            assert (each.mind.kept is None) == turned
            assert each.mind.chance == 10 / 40 and "gradient-boosted tree" in each.sentence
            assert ("turned back" in each.sentence) == turned


def test_a_file_that_has_changed_has_other_trees_and_other_numbers_before_training(tmp_path: Path) -> None:
    file, known = tmp_path / "my.csv", list[set[str]]()
    asked = [f"recipe.data=table:{file}@y", "replicates=1", "levels=1", "recipe.length=6it", "recipe.batch=20"]
    studies = ["study.columns.levels=1", "study.features={levels=[1],arms=['ticket','random']}", "arms=ticket,random"]
    for add in (0, 1):
        file.write_text("x,z,y\n" + "".join(f"{row * 7 % 11 + add},{row % 5},{row % 3 % 2}\n" for row in range(80)))
        made = plan(read("table-columns-quick", [*asked, *studies, "evaluate.every=6it", "method=random-uniform"]))
        known.append({question.run.key for question in made.questions})
    assert not known[0] & known[1]


def test_columns_of_noise_are_said_to_be_noise_also_in_the_name_of_the_data(tmp_path: Path) -> None:
    changes = ["levels=1", "replicates=1", "recipe.length=6it", "evaluate.every=6it", "study.columns.levels=1"]
    data = ["recipe.model=lenet-20-10", "recipe.data=digits+noise-8", "arms=ticket"]
    made, store = plan(read("digits-lenet", [*changes, *data])), Store(tmp_path).open()
    for run in made.runs:
        store.save(run, shallow(run).perform(Worker(store, None)), {"seconds": 1.0})
    assert all("weights on noise columns" in each.sentence for each in results(made, store).findings)


def test_a_first_layer_that_is_not_pruned_is_looked_at_all_the_same(tmp_path: Path) -> None:
    changes = ["levels=1", "replicates=1", "recipe.length=6it", "evaluate.every=6it", "study.columns.levels=1"]
    made, store = plan(read("table-columns-quick", [*changes, "prune.keep=fc1.weight"])), Store(tmp_path).open()
    for run in made.runs:
        store.save(run, shallow(run).perform(Worker(store, None)), {"seconds": 1.0})
    for each in results(made, store).findings:
        assert isinstance(each, ColumnsFinding) and each.mind.kept and each.mind.kept.mean == 0


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (["recipe.inputs=rotated"], "expected columns of noise, and nothing but a rotation behind them"),
        (["recipe.inputs=rotated,noise-3"], "expected columns of noise, and nothing but a rotation behind them"),
        (["study.columns.levels=11"], "expected levels from 0 to 10"),
    ],
)
def test_what_it_cannot_say_is_refused(changes: list[str], words: str) -> None:
    with pytest.raises(SpecError, match=words):
        read("table-columns-quick", changes)
