"""The presets: each reads, plans, runs, and is the experiment that it says it is."""

from pathlib import Path

import pytest

from tombola.lab import presets
from tombola.lab.execute import do
from tombola.lab.perform import Bench
from tombola.lab.plan import Plan, missing, plan
from tombola.lab.results import results, table, verdicts
from tombola.lab.spec import read
from tombola.lab.store import Store
from tombola.models.lenet import sizes
from tombola.prune import count

every_preset = pytest.mark.parametrize("name", presets.names())


def rows_of(wanted: Plan) -> dict[str, int]:
    return {arm: sum(row.arm == arm for row in wanted.rows) for arm in {row.arm for row in wanted.rows}}


def densities(name: str) -> list[float]:
    """P_m of each level in percent, from the layers' sizes and the rates alone."""
    spec = read(name).spec
    rates = dict(spec.prune.rates)
    layers = sizes(spec.recipe.model, spec.facts.shape, spec.facts.classes)
    living = [inputs * outputs for inputs, outputs in layers]
    total, found = sum(living), [100.0]
    for _ in range(spec.levels):
        *hidden, output = living
        living = [n - count(rates["linear"], n) for n in hidden] + [output - count(rates["output"], output)]
        found.append(100 * sum(living) / total)
    return found


def test_names_are_in_order_and_their_texts_are_the_files() -> None:
    assert presets.names() == tuple(sorted(presets.names())) and "digits" in presets.names()
    folder = Path(presets.__file__).parent
    assert {path.stem for path in folder.glob("*.toml")} == set(presets.names())
    assert all(presets.text(name) == (folder / f"{name}.toml").read_text() for name in presets.names())


@every_preset
def test_a_preset_says_what_it_is_and_plans(name: str) -> None:  # K15
    experiment = read(name)
    spec, wanted = experiment.spec, plan(experiment)
    assert experiment.name == name and 20 < len(spec.about) < 130
    assert spec.replicates >= 3, "one replicate decides nothing"
    draws = {"reinit": spec.reinits, "random": spec.randoms}
    per_level = {arm: draws.get(arm, 1) for arm in spec.arms}
    expected = {arm: spec.replicates * spec.levels * draws for arm, draws in per_level.items()}
    assert rows_of(wanted) == {"dense": spec.replicates} | expected


@every_preset
def test_a_preset_runs_from_end_to_end_when_made_small(name: str, tmp_path: Path) -> None:
    small = ["recipe.data=digits", "recipe.model=lenet-20-10", "recipe.length=8it", "recipe.batch=50"]
    looks = ["evaluate.every=4it", "evaluate.test_every=8it"]
    wanted = plan(read(name, [*small, *looks, "replicates=2", "levels=2"]))
    store = Store(tmp_path / "store").open()
    bench = Bench(store, None)
    for run in wanted.runs:
        assert do(run, bench, lambda *seen: None) == ("stored",)
    found = results(wanted, store)
    assert missing(wanted, store) == [] and len(table(wanted, found)) == len(wanted.rows)
    assert len(verdicts(wanted, found)) == 2


@pytest.mark.parametrize("name", ["lenet-mnist", "lenet-mnist-quick", "lenet-mnist-oneshot", "lenet-mnist-strategies"])
def test_lenet_on_mnist_is_that_of_the_paper(name: str) -> None:
    """Figure 2 of the paper: 60k examples, batch 60, Adam 1.2e-3, 20 % a round, 10 % of the output layer."""
    spec = read(name).spec
    optimizer = spec.recipe.optimizer.model_dump()
    adam = {"name": "adam", "lr": 1.2e-3, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.0}
    assert (spec.recipe.model, spec.recipe.data, spec.recipe.batch, optimizer) == ("lenet-300-100", "mnist", 60, adam)
    assert (spec.recipe.init, spec.recipe.schedule.name, spec.iterations(spec.rewind[0])) == (
        "glorot-normal",
        "constant",
        0,
    )
    assert (spec.prune.scope, spec.prune.score) == ("layer", "magnitude")
    assert dict(spec.prune.rates) == {"linear": 0.2, "conv": 0.2, "embedding": 0.2, "output": 0.1}
    assert spec.iterations(spec.recipe.length) == (5_000 if name.endswith("quick") else 50_000)
    assert spec.iterations(spec.evaluate.every) == 100


def test_lenets_levels_have_the_papers_densities() -> None:
    found = densities("lenet-mnist")
    printed = {0: 100.0, 1: 80.0, 3: 51.3, 7: 21.1, 12: 7.0, 15: 3.6, 18: 1.9}
    assert {level: round(found[level], 1) for level in printed} == printed


def test_digits_needs_no_download_and_goes_deep() -> None:
    spec, found = read("digits").spec, densities("digits")
    assert spec.recipe.data == "digits" and spec.replicates == 5
    assert found[-1] < 3 and len(plan(read("digits")).rows) == 5 * (1 + 9 * 3)


def test_the_one_shot_preset_compares_it_with_the_iterative_search() -> None:
    spec = read("lenet-mnist-oneshot").spec
    assert spec.method == "one-shot" and "iterative" in spec.arms


def test_presets_of_one_experiment_share_their_runs() -> None:
    """The ticket of `lenet-mnist` is the arm `iterative` of the one-shot preset: trained once for both."""
    figure, oneshot = (plan(read(name)) for name in ("lenet-mnist", "lenet-mnist-oneshot"))
    tickets = {row.run for row in figure.rows if row.arm == "ticket"}
    assert tickets == {row.run for row in oneshot.rows if row.arm == "iterative"}
