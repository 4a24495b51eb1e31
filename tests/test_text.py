"""Texts as data sets: their tokens and spans, what is asked about them, and experiments on them from end to end."""

import base64
import hashlib
import os
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from tombola import data, models, prunable
from tombola.data import Batches, Dataset, download, shakespeare64, sst2, subset, text
from tombola.data.facts import IGNORED, Facts
from tombola.data.shared import attach, publish
from tombola.engine import Choice
from tombola.errors import DataError, SpecError
from tombola.evaluate import evaluate
from tombola.explorer import experiment
from tombola.lab.attempt import do, do_all
from tombola.lab.plan import Plan, plan
from tombola.lab.results import criteria, results
from tombola.lab.spec import Experiment, Spec
from tombola.lab.spec_file import read
from tombola.lab.store import Store
from tombola.lab.studies import STUDIES, Answer, Evidence, asked
from tombola.lab.studies.connectivity import ConnectivityFinding
from tombola.lab.tickets import ticket_of
from tombola.lab.worker import Worker
from tombola.objective import cross_entropy
from tombola.study.paired import paired

PLAY = (b"to be or not to be, that is the question: whether 'tis nobler in the mind to suffer\n" * 40)[:3000]
ENDS = (2000, 2400, 3000)
WORDS = ["good", "fine", "bad", "dull", "film", "plot", ",", "very"]


@pytest.fixture
def text_dir() -> Path:
    """The folder that TOMBOLA_DATA names, if both texts are in it; otherwise the test is skipped."""
    named = os.environ.get("TOMBOLA_DATA")
    if not named:
        pytest.skip("TOMBOLA_DATA names no folder, and the tests download nothing")
    for file in ("text/tinyshakespeare.txt", *(f"sst2/{name}" for name in sst2.FILES)):
        if not (Path(named) / file).is_file():
            pytest.skip(f"TOMBOLA_DATA is {named}, where {file} is not found")
    return Path(named)


def reviews(count: int, seed: int) -> list[tuple[str, int]]:
    """Sentences of two to ten words, praise where "good" or "fine" is more frequent than "bad" or "dull"."""
    draw = np.random.RandomState(seed)
    rows = [[WORDS[place] for place in draw.randint(len(WORDS), size=draw.randint(2, 11))] for _ in range(count)]
    praise = [sum((word in WORDS[:2]) - (word in WORDS[2:4]) for word in row) > 0 for row in rows]
    return [(" ".join(row), int(good)) for row, good in zip(rows, praise, strict=True)]


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a short Shakespeare and a small SST-2, and facts that say so."""
    play, folder = tmp_path / "text" / "tinyshakespeare.txt", tmp_path / "sst2"
    play.parent.mkdir()
    play.write_bytes(PLAY)
    folder.mkdir()
    rows = {"train.tsv": reviews(120, 0), "dev.tsv": reviews(30, 1), "test.tsv": reviews(47, 2)}
    for name, lines in rows.items():
        (folder / name).write_text("\n".join(f"{sentence}\t{label}" for sentence, label in lines))
        digest = hashlib.sha256((folder / name).read_bytes()).hexdigest()
        monkeypatch.setitem(sst2.FILES, name, digest)
    monkeypatch.setattr(text, "DIGEST", hashlib.sha256(PLAY).hexdigest())
    monkeypatch.setattr(text, "ENDS", ENDS)
    monkeypatch.setattr(text, "LENGTH", 16)
    monkeypatch.setattr(sst2, "LENGTH", 8)
    kinds = len(set(PLAY))
    for module, facts in (
        (text, Facts("shakespeare", (16, kinds), kinds, train=125, validation=25, test=38)),
        (sst2, Facts("sst2", (8, 2 + len(WORDS)), 2, train=120, validation=30, test=47)),
    ):
        content = b"".join(array.tobytes() for array in module.read(tmp_path))
        monkeypatch.setattr(module, "FACTS", replace(facts, checksum=hashlib.sha256(content).hexdigest()))
    return tmp_path


# ---------------------------------------------------------------- what they are


@given(length=st.integers(1, 40), cuts=st.tuples(*[st.integers(2, 60)] * 3))
def test_every_character_of_a_span_but_the_first_is_asked_for_once(length: int, cuts: tuple[int, int, int]) -> None:
    """And of no other span: training sees nothing of the test, and no label is another span's character."""
    ends = (cuts[0], cuts[0] + cuts[1], sum(cuts))
    content = np.random.RandomState(length).randint(97, 101, size=ends[-1]).astype(np.uint8).tobytes()
    letters = sorted(set(content))
    pool, follow, test, follow_test = text.arrays(content, ends, length)
    assert pool.shape == follow.shape and test.shape == follow_test.shape == (-(-(cuts[2] - 1) // length), length)
    train = -(-(cuts[0] - 1) // length)
    parts = [(pool[:train], follow[:train]), (pool[train:], follow[train:]), (test, follow_test)]
    for (inputs, labels), begin, end in zip(parts, (0, *ends), ends, strict=False):
        asked = labels.ravel() != IGNORED
        assert bytes(letters[token] for token in inputs.ravel()[asked]) == content[begin : end - 1]
        assert bytes(letters[token] for token in labels.ravel()[asked]) == content[begin + 1 : end]


def test_words_are_those_of_the_pool_and_seen_twice() -> None:
    images, labels, test, test_labels = sst2.arrays([("a b a", 1), ("b c", 0)], [("c d a", 0), ("a " * 9, 1)], length=4)
    assert images.tolist() == [[2, 3, 2, 0], [3, 1, 0, 0]] and labels.tolist() == [1, 0]
    assert test.tolist() == [[1, 1, 2, 0], [2, 2, 2, 2]] and test_labels.tolist() == [0, 1]


def test_words_are_what_the_tokens_stand_for(small: Path) -> None:
    spelled = data.words("shakespeare-100", small)
    tokens = data.load("shakespeare", small).images[:20].flatten().tolist()
    assert "".join(spelled[token] for token in tokens) == PLAY[: len(tokens)].decode()
    words, sentences = data.words("sst2", small), data.load("sst2", small).test_images.tolist()
    known = [" ".join(word for token in sentence if (word := words[token])) for sentence in sentences]
    assert known == [" ".join(sentence.split()[:8]) for sentence, _ in reviews(47, 2)]
    assert data.words("digits") == []


@pytest.mark.parametrize("name", ["shakespeare", "shakespeare64", "sst2"])
def test_a_text_is_what_its_facts_say(name: str, text_dir: Path) -> None:
    dataset, facts = data.load(name, text_dir), data.facts(name)
    pool = facts.train + facts.validation
    assert dataset.images.shape == (pool, *facts.input_shape) and dataset.labels.shape == (pool, *facts.label_shape)
    assert len(dataset.test_images) == facts.test
    assert int(dataset.images.max()) == facts.shape[1] - 1, "every token is there"
    assert set(dataset.labels.unique().tolist()) - {IGNORED} == set(range(facts.classes))
    answers = dataset.test_labels[dataset.test_labels != IGNORED]
    assert facts.chance == pytest.approx(int(answers.bincount().max()) / len(answers))
    assert dataset.inputs(dataset.images) is dataset.images


def test_shakespeare_is_split_where_its_document_says(text_dir: Path) -> None:  # E2
    content = (text_dir / "text" / "tinyshakespeare.txt").read_bytes()
    letters = sorted(set(content))
    for module in (text, shakespeare64):
        dataset = data.load(module.FACTS.name, text_dir)
        train, validation = data.split(dataset, split_seed=3)
        spans = zip((0, *text.ENDS), text.ENDS, strict=False)
        parts = (dataset.labels[train], dataset.labels[validation], dataset.test_labels)
        for labels, (begin, end) in zip(parts, spans, strict=True):
            asked = labels[labels != IGNORED].tolist()
            assert bytes(letters[token] for token in asked) == content[begin + 1 : end]


def test_few_sentences_of_sst2_are_cut(text_dir: Path) -> None:
    lines = [line for name in sst2.FILES for line in (text_dir / "sst2" / name).read_text().splitlines()]
    assert len(lines) == 9_613
    assert sum(len(line.rsplit("\t", 1)[0].split()) > sst2.LENGTH for line in lines) < len(lines) / 200


# ---------------------------------------------------------------- parts, splits, batches


def test_a_running_text_is_not_torn_apart(small: Path) -> None:
    dataset = data.load("shakespeare", small)
    for seed in (0, 1):
        train, validation = data.split(dataset, seed)
        assert train.tolist() == list(range(125)) and validation.tolist() == list(range(125, 150))


def test_parts_of_a_running_text_are_its_beginning_and_nest(small: Path) -> None:
    whole = data.facts("shakespeare")
    places = {size: subset.beginnings(whole, size).tolist() for size in range(10, 150)}
    for size, chosen in places.items():
        facts = data.facts(f"shakespeare-{size}")
        assert len(chosen) == size == facts.train + facts.validation
        assert chosen == [*range(facts.train), *range(125, 125 + facts.validation)]
        assert set(chosen) <= set(places.get(size + 1, chosen))
    dataset = data.load("shakespeare-30", small)
    assert torch.equal(dataset.images[-5:], data.load("shakespeare", small).images[125:130])
    with pytest.raises(ValueError, match=r"^shakespeare-N with N from 10 to 149, or shakespeare$"):
        data.check("shakespeare-9")


@pytest.mark.parametrize("name", ["shakespeare", "shakespeare-40", "sst2", "sst2-40"])
def test_a_text_is_shared_as_it_is(name: str, small: Path, tmp_path: Path) -> None:
    (tmp_path / "shared").mkdir()
    publish(name, small, tmp_path / "shared")
    shared, read_again = attach(name, tmp_path / "shared"), data.load(name, small)
    for field in ("images", "labels", "test_images", "test_labels"):
        assert torch.equal(getattr(shared, field), getattr(read_again, field))


@pytest.mark.parametrize("name", ["shakespeare", "sst2"])
def test_batches_are_texts_with_their_labels(name: str, small: Path) -> None:
    dataset = data.load(name, small)
    train, _ = data.split(dataset, 0)
    several = [Batches(dataset, train, 50, order_seed=seed) for seed in (0, 1)]
    for step in range(4):
        both = data.stacked_batches(several, step) if len(several[0](step)[0]) == 50 else None
        for number, one in enumerate(several):
            inputs, labels = one(step)
            places = one.places(step, step + 1)[0]
            assert torch.equal(inputs, dataset.images[places]) and torch.equal(labels, dataset.labels[places])
            assert int(one.answers(step)) == int((labels != IGNORED).sum())
            if both:
                assert torch.equal(both[0][number], inputs) and torch.equal(both[1][number], labels)
    assert data.augmentations(name) == ()


# ---------------------------------------------------------------- counts


class Says(nn.Module):
    """Scores that were written down for each text, found again by its first token."""

    def __init__(self, scores: Tensor) -> None:
        super().__init__()
        self.scores = nn.Parameter(scores)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.scores[tokens[:, 0]]


@given(count=st.integers(1, 90), length=st.integers(1, 5), seed=st.integers(0, 5))
def test_every_answer_of_a_running_text_counts_once(count: int, length: int, seed: int) -> None:  # E3 E4 E5
    draw = torch.Generator().manual_seed(seed)
    classes = 100  # so that a chunk holds 32 texts
    scores = torch.randn(count, length, classes, generator=draw)
    labels = torch.randint(0, classes, (count, length), generator=draw)
    labels[torch.rand(count, length, generator=draw) < 0.3] = IGNORED
    labels[0, 0] = int(scores[0, 0].argmax())
    inputs = torch.arange(count)[:, None].expand(count, length)
    dataset = Dataset(Facts("toy", (length, classes), classes, count, 0, count), inputs, labels, inputs, labels)
    single = [
        (
            float(scores[n, t].double().logsumexp(0) - scores[n, t, labels[n, t]]),
            int(scores[n, t].argmax()) == labels[n, t],
        )
        for n in range(count)
        for t in range(length)
        if labels[n, t] != IGNORED
    ]
    seen = evaluate(Says(scores), dataset, inputs, labels)
    assert (seen.correct, seen.total) == (sum(bool(right) for _, right in single), len(single))
    assert seen.loss == pytest.approx(sum(loss for loss, _ in single) / len(single), rel=1e-5)
    assert float(cross_entropy(scores, labels)) == pytest.approx(seen.loss, rel=1e-5)


# ---------------------------------------------------------------- files


def test_a_damaged_text_is_refused(small: Path) -> None:
    path = small / "text" / "tinyshakespeare.txt"
    path.write_bytes(PLAY[:-1])
    with pytest.raises(DataError, match=r"tinyshakespeare.txt: expected tiny Shakespeare, .* found 2,999 bytes with "):
        data.load("shakespeare", small)


def test_shakespeare_is_fetched_from_its_home(small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home, empty = tmp_path / "home", tmp_path / "empty"
    empty.mkdir()
    home.mkdir()
    (home / text.FILE).write_bytes(PLAY)
    monkeypatch.setattr(text, "HOMES", (f"{home.as_uri()}/",))
    monkeypatch.setattr(download, "_try", copied)
    assert data.load("shakespeare", empty).images.shape == (150, 16)
    assert (empty / "tinyshakespeare" / text.FILE).read_bytes() == PLAY


def copied(address: str, part: Path, check: Any) -> str:
    part.write_bytes(Path(address.removeprefix("file://")).read_bytes())
    check(part)
    return ""


@pytest.mark.parametrize("absent", sst2.FILES)
def test_without_sst2_it_is_said_what_goes_where(absent: str, small: Path) -> None:
    (small / "sst2" / absent).unlink()
    for folder, found in ((small, "No such file or directory"), (None, "no folder named")):
        with pytest.raises(DataError, match=rf"expected sentences .* found {found}.*Put train.tsv, dev.tsv and test"):
            sst2.read(folder)


# ---------------------------------------------------------------- experiments

RECIPES: dict[str, dict[str, Any]] = {
    "shakespeare": {"model": "gpt-1-32", "data": "shakespeare", "length": "12it", "batch": 16},
    "sst2": {"model": "bert-1-32", "data": "sst2", "length": "12it", "batch": 16},
}
SPEC: dict[str, Any] = {
    "replicates": 1,
    "levels": 2,
    "arms": ["ticket", "reinit", "random", "shuffle"],
    "rewind": "3it",
    "prune": {"rate": 0.5},
    "evaluate": {"every": "5it", "test_every": "12it"},
}
RECIPE = {
    "init": "normal-0.02",
    "optimizer": {"name": "adamw", "lr": 3e-3},
    "warmup": "2it",
    "schedule": {"name": "cosine"},
}


def planned(name: str, **changes: Any) -> Plan:
    recipe = RECIPES[name] | RECIPE
    return plan(Experiment(name=name, spec=Spec.model_validate(SPEC | {"recipe": recipe} | changes)))


@pytest.mark.parametrize("name", RECIPES)
def test_an_experiment_on_a_text_from_end_to_end(name: str, small: Path, tmp_path: Path) -> None:  # P7 R1 M1 S4
    wanted, store = planned(name), Store(tmp_path / "store")
    store.open()
    worker = Worker(store, small)
    for run in wanted.runs:
        assert do(run, worker, lambda *seen: None)[0] == "stored"
    rows = results(wanted, store).table
    assert len(rows) == 9 and [row["density"] for row in rows[:2]] == [1.0, pytest.approx(0.5, abs=1e-3)]
    facts = wanted.experiment.spec.facts
    answers = int((worker.dataset(name).test_labels != IGNORED).sum())
    for row in rows:
        correct = row["final_test_accuracy"] * answers
        assert correct == pytest.approx(round(correct), abs=1e-6), "a number of answers"
    assert criteria(wanted).accuracy_grain == pytest.approx(1 / answers, rel=0.03)
    found = ticket_of(wanted, store, level=2, replicate=0)
    start = store.weights(next(row.run for row in wanted.rows if row.level == 2).start)
    model = models.build(wanted.experiment.spec.recipe.model, facts.shape, facts.classes, "normal-0.02", 5)
    found.apply(model)
    for key, alive in found.mask.items():
        assert torch.equal(model.get_parameter(key), start[key] * alive)
    if name == "shakespeare":
        assert model.get_parameter("output.weight") is model.get_parameter("tokens.weight")
        assert torch.equal(found.weights["output.weight"], found.weights["tokens.weight"])
    assert found.mask.total == prunable.full(model).total


@pytest.mark.parametrize("name", RECIPES)
def test_a_page_of_texts_has_their_words_and_what_units_read(name: str, small: Path, tmp_path: Path) -> None:
    wanted, store = planned(name), Store(tmp_path / "store")
    store.open()
    worker = Worker(store, small)
    assert all(do(run, worker, lambda *seen: None)[0] == "stored" for run in wanted.runs)
    made = experiment.page(results(wanted, store), lambda name: data.load(name, small), data.words(name, small))
    assert len(made.words) == made.shape[1] and not made.chained
    level = made.series[0].levels[-1]
    assert level.exciting is not None and level.reading is not None
    read = {made.layers[place].label for place in level.reading[1]}
    assert read >= {"blocks.0.attention.query", "blocks.0.attention.key", "blocks.0.attention.value"}
    outputs = sum(made.layers[place].outputs for place in level.reading[1])
    content = zlib.decompress(base64.b64decode(made.parts[level.reading[0]]))
    assert len(content) == 6 * made.top * outputs


@pytest.mark.parametrize("name", RECIPES)
def test_stacks_find_what_the_plain_loop_finds(name: str, small: Path, tmp_path: Path) -> None:
    accuracies = []
    engines: tuple[Choice, ...] = ("reference", "stacked")
    for engine in engines:
        wanted, store = planned(name, engine=engine, replicates=2, levels=0), Store(tmp_path / engine)
        store.open()
        worker = Worker(store, small, engine)
        for kind, begin in (("init", 0), ("train", 0), ("train", 3)):
            runs = [run for run in wanted.runs if run.kind == kind and getattr(run, "begin", 0) == begin]
            for group in [runs] if engine == "stacked" else [[run] for run in runs]:
                do_all(group, worker, lambda *said: None)
        how = {store.provenance(row.run)["engine"] for row in wanted.rows}
        assert how == {"reference" if engine == "reference" else "stacked 2 x reference"}
        accuracies.append([row["final_validation_loss"] for row in results(wanted, store).table])
    assert accuracies[0] == pytest.approx(accuracies[1], rel=1e-4)


def test_a_spec_of_texts_has_its_faults_told(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    lines = [
        'model = "MODEL"',
        'data = "DATA"',
        'length = "10it"',
        "batch = 8",
        'optimizer = {name = "adam", lr = 1e-3}',
    ]
    file.write_text("\n".join(["[recipe]", *lines]))

    def faults(model: str, name: str, *more: str) -> str:
        with pytest.raises(SpecError) as caught:
            read(str(file), [f"recipe.model={model}", f"recipe.data={name}", *more])
        return str(caught.value)

    assert "a model for texts: gpt-LAYERS-WIDTH" in faults("lenet-300-100", "sst2")
    assert "an input of sst2 is 48 x 7751" in faults("lenet-300-100", "sst2")
    assert "a model for images; gpt-1-32 reads texts" in faults("gpt-1-32", "mnist")
    assert "expected none, as texts are not changed" in faults("bert-1-32", "sst2", "recipe.augment=flip-crop")
    assert "expected none, as texts are not changed" in faults("bert-1-32", "sst2", "recipe.normalise=unit")
    assert "1 fault" in faults("gpt-1-32", "shakespear") and "did you mean shakespeare?" in faults(
        "gpt-1-32", "shakespear"
    )


@pytest.mark.parametrize("examples", [3, None])
def test_a_barrier_on_a_text_is_known_to_an_answer(examples: int | None, tmp_path: Path) -> None:
    """Barriers that agree have the interval of what one answer, not one example, can be out by."""
    study = {"connectivity": {"levels": [0], "orders": 2, "examples": examples}}
    wanted = planned("shakespeare", study=study, replicates=2)
    facts = wanted.experiment.spec.facts
    each = {"train": 0.1, "test": 0.1}
    values: dict[str, Any] = {
        "alphas": [0, 1],
        "errors": {"none": {on: [0.1, 0.1] for on in each}},
        "barriers": {"none": each},
    }
    answers = [Answer(question, 1.0, values) for question in wanted.questions]
    ((barriers, own),) = asked(wanted.experiment.spec.study, STUDIES)
    evidence = Evidence(wanted.experiment.spec, wanted.rows, answers, Store(tmp_path), 0.95, frozenset())
    found = {
        one.on: one.found.barrier for one in barriers.findings(own, evidence) if isinstance(one, ConnectivityFinding)
    }
    sizes = {"train": examples or facts.train, "test": examples or facts.test}
    length = facts.shape[0]
    assert length > 1 and found == {on: paired([0.1, 0.1], 0.95, 1 / (size * length)) for on, size in sizes.items()}
