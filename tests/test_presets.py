"""The presets: each reads, plans, runs, and is the experiment that it says it is."""

import json
import re
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest

from tombola import models
from tombola.early_bird import Settling
from tombola.extrusion import Penalty
from tombola.lab import presets
from tombola.lab.attempt import do
from tombola.lab.plan import Plan, missing, plan
from tombola.lab.results import results
from tombola.lab.spec import Spec
from tombola.lab.spec_file import read
from tombola.lab.store import Store
from tombola.lab.worker import Worker
from tombola.layer_patterns import named
from tombola.methods import METHODS
from tombola.methods.elastic import ElasticOptions
from tombola.models import layers, weight_counts
from tombola.models.lenet import sizes
from tombola.prune import count

ROOT = Path(__file__).parents[1]
every_preset = pytest.mark.parametrize("name", presets.names())


@pytest.fixture(autouse=True)
def imagenet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where presets look for it, a folder named as ImageNet, of nothing: a plan reads names and bytes, not pictures."""
    for place in (f"imagenet/{part}/{name}" for part in ("train", "val") for name in ("n01440764", "n01443537")):
        (tmp_path / place).mkdir(parents=True)
        for number in range(600):
            (tmp_path / place / f"{number}.JPEG").write_bytes(place.encode())
    monkeypatch.chdir(tmp_path)


@pytest.fixture(autouse=True)
def bert(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """Where `bert-base-uncased` is looked for first, a folder of that name, of as much as a plan reads."""
    if "pretrained" in request.node.name:
        pytest.importorskip("transformers")
    model: dict[str, Any] = {"type": "WordPiece", "unk_token": "[UNK]", "vocab": {"[PAD]": 0, "[UNK]": 1}}
    model |= {"continuing_subword_prefix": "##", "max_input_chars_per_word": 100}
    files = {"config.json": {"model_type": "bert"}, "tokenizer.json": {"added_tokens": [], "model": model}}
    folder = tmp_path / "bert-base-uncased"
    folder.mkdir()
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content))
    (folder / "model.safetensors").write_bytes(b"weights")


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
    searches = spec.replicates * len(spec.rewind)
    expected = {arm: searches * spec.levels * draws for arm, draws in per_level.items()}
    assert rows_of(wanted) == {"dense": searches} | expected


SCHEDULED = {"begin", "end", "every"}  # of a training that prunes on the way


def searches_made_small(name: str) -> list[str]:
    """What makes the searches of a preset as small as the experiment: one level, and all of its data and length."""
    experiment = read(name)
    arms = [experiment.members.arm(arm, experiment.spec) for arm in experiment.spec.arms]
    given = [(arm.name, field) for arm in arms for field in arm.options.model_fields_set & {"data", "length"}]
    early = [arm.name for arm in arms if isinstance(arm.options, Settling)]
    settling = [f"arm.{arm}.{field}" for arm in early for field in ("every=1it", "remembered=2")]
    steps = [f"search.{field}=none" for field in sorted(experiment.spec.search.model_fields_set & SCHEDULED)]
    tables = {"ticket": "search"} | {arm.name: f"arm.{arm.name}" for arm in arms if arm.name in METHODS}
    extruding = [tables[arm.name] for arm in arms if arm.name in tables and isinstance(arm.options, Penalty)]
    short = [f"{table}.{field}" for table in extruding for field in ("penalty_step=50", "ceiling=100", "hold=3")]
    return ["densities=0.5", *(f"arm.{arm}.{field}=none" for arm, field in given), *settling, *steps, *short]


def stretched_to(spec: Spec) -> list[str]:
    """Where tickets come from other networks: one of three layers, to which those of one of two are stretched."""
    arms = [name for name, arm in spec.arm.items() if isinstance(arm.search, ElasticOptions)]
    small = [f"arm.{arm}.{change}" for arm in arms for change in ("source=lenet-20-20-10", "map=appended")]
    return ["recipe.model=lenet-20-20-20-10", *small] if arms else []


@every_preset
def test_a_preset_runs_from_end_to_end_when_made_small(name: str, tmp_path: Path) -> None:
    spec = read(name).spec
    small = [
        "recipe.data=digits",
        *(stretched_to(spec) or [f"recipe.model=lenet-20-10{'+gaussian-2' * models.is_gaussian(spec.recipe.model)}"]),
        "recipe.length=8it",
        "recipe.batch=50",
    ]
    small += ["recipe.schedule=none", "recipe.warmup=none", "recipe.augment=none", "recipe.precision=none"]
    small += ["recipe.init=none"] if "pretrained" in name else []
    small += ["prune.keep=none", "rewind=0it", "study=none", "replicates=2", "evaluate.every=4it"]
    small += searches_made_small(name) if spec.densities else ["levels=2"]
    wanted = plan(read(name, [*small, "evaluate.test_every=8it"]))
    store = Store(tmp_path / "store").open()
    worker = Worker(store, None)
    for run in wanted.runs:
        assert do(run, worker, lambda *seen: None) == ("stored",)
    found = results(wanted, store)
    assert missing(wanted, store) == [] and len(found.table) == len(wanted.rows)
    assert len(found.verdicts) == wanted.experiment.spec.levels


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


@pytest.mark.parametrize("suffix", ["", "-quick"])
def test_lenet_on_fashion_mnist_differs_in_its_data_alone(suffix: str) -> None:
    spec, mnist = read(f"lenet-fashion-mnist{suffix}").spec, read(f"lenet-mnist{suffix}").spec
    assert spec.recipe.data == "fashion-mnist"
    same = {"about": mnist.about, "recipe": spec.recipe.model_copy(update={"data": "mnist"})}
    assert spec.model_copy(update=same) == mnist


def test_lenets_levels_have_the_papers_densities() -> None:
    found = densities("lenet-mnist")
    printed = {0: 100.0, 1: 80.0, 3: 51.3, 7: 21.1, 12: 7.0, 15: 3.6, 18: 1.9}
    assert {level: round(found[level], 1) for level in printed} == printed


def test_digits_needs_no_download_and_goes_deep() -> None:
    spec, found = read("digits-lenet").spec, densities("digits-lenet")
    assert spec.recipe.data == read("digits").spec.recipe.data == "digits" and spec.replicates == 5
    assert found[-1] < 3 and len(plan(read("digits-lenet")).rows) == 5 * (1 + 9 * 3)


def test_the_first_look_is_on_replicates_on_which_nothing_was_tried_out() -> None:
    """results/digits.md lists the seeds with which its recipe was found."""
    tried = {int(seed) for seed in re.findall(r"`seed=(\d+)`", (ROOT / "results" / "digits.md").read_text())}
    assert len(tried) > 5 and read("digits").spec.seed not in tried


def test_the_one_shot_preset_compares_it_with_the_iterative_search() -> None:
    spec = read("lenet-mnist-oneshot").spec
    assert spec.method == "one-shot" and "iterative" in spec.arms


def test_presets_of_one_experiment_share_their_runs() -> None:
    """The ticket of `lenet-mnist` is the arm `iterative` of the one-shot preset: trained once for both."""
    figure, oneshot = (plan(read(name)) for name in ("lenet-mnist", "lenet-mnist-oneshot"))
    tickets = {row.run for row in figure.rows if row.arm == "ticket"}
    assert tickets == {row.run for row in oneshot.rows if row.arm == "iterative"}


FIGURE_2 = {  # model, iterations, batch, optimiser, learning rate, rates of (linear, conv, output) or the global one
    "conv2-cifar10": ("conv-2", 20_000, 60, "adam", 2e-4, (0.2, 0.1, 0.1)),
    "conv4-cifar10": ("conv-4", 25_000, 60, "adam", 3e-4, (0.2, 0.1, 0.1)),
    "conv6-cifar10": ("conv-6", 30_000, 60, "adam", 3e-4, (0.2, 0.15, 0.1)),
    "resnet20-cifar10": ("resnet-20", 30_000, 128, "sgd", 0.1, None),
    "resnet20-cifar10-low": ("resnet-20", 30_000, 128, "sgd", 0.01, None),
    "resnet20-cifar10-warmup": ("resnet-20", 30_000, 128, "sgd", 0.03, None),
    "vgg19-cifar10": ("vgg-19", 112_480, 64, "sgd", 0.1, None),
    "vgg19-cifar10-low": ("vgg-19", 112_480, 64, "sgd", 0.01, None),
    "vgg19-cifar10-warmup": ("vgg-19", 112_480, 64, "sgd", 0.1, None),
}


@pytest.mark.parametrize("name", FIGURE_2)
def test_the_networks_of_figure_2_are_those_of_the_paper(name: str) -> None:
    spec = read(name).spec
    recipe, prune, optimizer = spec.recipe, spec.prune, spec.recipe.optimizer
    found = recipe.model, spec.iterations(recipe.length), recipe.batch, optimizer.name, optimizer.lr
    assert found == FIGURE_2[name][:5]
    rates = FIGURE_2[name][5]
    if rates:
        assert prune.scope == "layer" and spec.verdict.at == "early-stop" and recipe.augment is None
        assert tuple(dict(prune.rates)[kind] for kind in ("linear", "conv", "output")) == rates
    else:
        assert (prune.scope, prune.rate, spec.verdict.at, recipe.augment) == ("global", 0.2, "end", "flip-crop")
        assert optimizer.model_dump() == {
            "name": "sgd",
            "lr": optimizer.lr,
            "momentum": 0.9,
            "nesterov": False,
            "weight_decay": 1e-4,
        }
        kept = 5_120 if recipe.model == "vgg-19" else 640 + 2_560
        counts = weight_counts(recipe.model, (3, 32, 32), 10)
        living = sum(
            count for weight, count in counts.items() if not any(fnmatch(weight, f"{each}*") for each in prune.keep)
        )
        assert sum(counts.values()) - living == kept, "never pruned, and not counted"
    warm = {"resnet20-cifar10-warmup": 20_000, "vgg19-cifar10-warmup": 10_000}
    assert spec.iterations(recipe.warmup) == warm.get(name, 0)


def test_conv_nets_levels_have_the_papers_densities() -> None:
    """The labels that the paper prints: section 1.3 of the notes on it."""
    printed = {
        "conv2-cifar10": {6: 26.5, 11: 8.8, 14: 4.6},
        "conv4-cifar10": {11: 11.1, 12: 9.2, 15: 5.4},  # and 7.65 at 13, which is printed as 7.6
        "conv6-cifar10": {7: 26.6, 10: 15.3, 12: 10.6},
    }
    for name, labels in printed.items():
        spec = read(name).spec
        assert spec.levels >= max(labels)
        rates = dict(spec.prune.rates)
        living = {
            weight: (layer.kind, layer.weights) for weight, layer in layers(spec.recipe.model, (3, 32, 32), 10).items()
        }
        total, found = sum(count for _, count in living.values()), [100.0]
        for _ in range(spec.levels):
            living = {weight: (kind, n - count(rates[kind], n)) for weight, (kind, n) in living.items()}
            found.append(100 * sum(n for _, n in living.values()) / total)
        assert {level: round(found[level], 1) for level in labels} == labels


def test_berts_tickets_are_those_of_the_paper() -> None:  # pretrained
    """Section 11 of the notes: theta_0, 10 % a round, 3 epochs, 2e-5 falling to 0, batch 32; what the code prunes."""
    pytest.importorskip("transformers")
    experiment = read("bert-sst2-pretrained")
    spec, recipe, optimizer = experiment.spec, experiment.spec.recipe, experiment.spec.recipe.optimizer
    assert (recipe.init, spec.method, list(map(str, spec.rewind))) == ("pretrained", "iterative", ["0it"])
    assert (str(recipe.length), recipe.batch, recipe.data.partition("@")[0]) == ("3ep", 32, "sst2")
    assert (optimizer.lr, optimizer.weight_decay, recipe.schedule.model_dump()["final"]) == (2e-5, 0, 0)
    assert spec.facts.shape[0] == 128 and (spec.prune.scope, spec.prune.rate) == ("global", 0.1)
    kinds = {name: layer.kind for name, layer in layers(recipe.model, spec.facts.shape, 2).items()}
    kept = named(spec.prune.keep, kinds)
    counts = weight_counts(recipe.model, spec.facts.shape, 2)
    pruned = sum(counts[name] for name in kinds if name not in kept)
    assert pruned == 12 * 12 * 768**2 + 768**2 and "bert.pooler.dense.weight" not in kept
    assert round(100 * (1 - 0.9**9), 1) == 61.3 and spec.levels >= 9
