"""Pre-trained checkpoints: tickets in their weights, on a small BERT that is made here; nothing is ever downloaded."""

import hashlib
import json
import os
import re
import sys
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tombola import cash, data, hub, models, prunable, weights
from tombola.cash import timing
from tombola.controls import CONTROLS
from tombola.data import sst2
from tombola.data.shared import attach, publish
from tombola.engine import kernels
from tombola.errors import BadInput, SpecError
from tombola.lab.attempt import do
from tombola.lab.kinds import Init
from tombola.lab.plan import Plan, engine_of, plan
from tombola.lab.replicate import Replicate
from tombola.lab.results import results
from tombola.lab.spec import Experiment
from tombola.lab.spec_file import read
from tombola.lab.store import Store
from tombola.lab.tickets import ticket_of
from tombola.lab.worker import Worker
from tombola.mask import Mask
from tombola.methods import METHODS
from tombola.prune import count
from tombola.ticket import Seed, Ticket

transformers = pytest.importorskip("transformers")
safetensors = pytest.importorskip("safetensors.torch")

WORDS = [
    "[PAD]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "[MASK]",
    "good",
    "fine",
    "bad",
    "dull",
    "film",
    "plot",
    ",",
    "very",
    "##s",
]
HEAD = {"classifier.weight", "classifier.bias"}


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No way to the hub; and what these libraries warn of is theirs."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def made(folder: Path, seed: int = 1, **changes: Any) -> Path:
    """A pre-trained BERT in `folder`: two blocks of width 32, as filling gaps leaves it, and its tokenizer."""
    from tokenizers import Tokenizer, normalizers, pre_tokenizers, processors
    from tokenizers.models import WordPiece

    config = transformers.BertConfig(
        vocab_size=len(WORDS),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=128,
        **changes,
    )
    torch.manual_seed(seed)
    model = transformers.BertForPreTraining(config)  # as bert-base-uncased: with a pooler, without a classifier
    with torch.no_grad():
        for name, value in model.named_parameters():  # trained ones are neither 0 nor 1
            value.add_(torch.randn_like(value), alpha=0.05 if "weight" in name else 0.02)
    model.save_pretrained(folder)
    words = {word: token for token, word in enumerate(WORDS)}
    tokenizer = Tokenizer(WordPiece(words, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


@pytest.fixture(scope="session")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return made(tmp_path_factory.mktemp("tiny-bert"))


@pytest.fixture
def reviews(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with an SST-2 of a few dozen sentences, and facts that say so."""
    folder = tmp_path / "data" / "sst2"
    folder.mkdir(parents=True)
    draw = torch.Generator().manual_seed(0)
    for name, size in (("train.tsv", 40), ("dev.tsv", 8), ("test.tsv", 12)):
        rows = [torch.randint(5, 13, (5,), generator=draw).tolist() for _ in range(size)]
        lines = [f"{' '.join(WORDS[token] for token in row)}\t{int(min(row) < 7)}" for row in rows]
        (folder / name).write_text("\n".join(lines))
        monkeypatch.setitem(sst2.FILES, name, hashlib.sha256((folder / name).read_bytes()).hexdigest())
    monkeypatch.setattr(sst2, "FACTS", replace(sst2.FACTS, train=40, validation=8, test=12))
    return folder.parent


def spec_of(bert: Path, *changes: str) -> Experiment:
    """The preset's own recipe, made small."""
    small = [f"recipe.model='hf:{bert}'", f"recipe.data='sst2@{bert}'", "recipe.batch=8", "recipe.length=6it"]
    small += ["replicates=1", "levels=2", "evaluate={every='3it', test_every='6it'}"]
    changed = {change.partition("=")[0] for change in changes}
    return read("bert-sst2-pretrained", [*(each for each in small if each.partition("=")[0] not in changed), *changes])


def checkpoint_of(bert: Path) -> dict[str, Tensor]:
    found: dict[str, Tensor] = safetensors.load_file(bert / "model.safetensors")
    return {name: value for name, value in found.items() if name.startswith("bert.")}


def built(bert: Path, init: Any = "pretrained", init_seed: int = 0) -> dict[str, Tensor]:
    return weights.of(models.build(f"hf:{bert}", (128, len(WORDS)), 2, init, init_seed))


def foreign(drawn: Tensor, known: Tensor) -> bool:
    """Whether `drawn` is neither `known` nor made of its values: two of many floats may be equal by chance."""
    return not torch.equal(drawn, known) and float(torch.isin(drawn, known).double().mean()) < 0.01


def done(wanted: Plan, store: Store, data_dir: Path) -> Store:
    store.open()
    worker = Worker(store, data_dir)
    for run in wanted.runs:
        assert do(run, worker, lambda *seen: None)[0] == "stored"
    return store


# ---------------------------------------------------------------- theta_0


def test_the_weights_are_the_checkpoints_but_for_the_head(bert: Path) -> None:  # R2
    known, one, other = checkpoint_of(bert), built(bert), built(bert, init_seed=1)
    assert set(one) - set(known) == HEAD
    for name, value in known.items():
        assert torch.equal(one[name], value) and torch.equal(other[name], value)
    assert not torch.equal(one["classifier.weight"], other["classifier.weight"])
    assert not one["classifier.bias"].any() and float(one["classifier.weight"].std()) == pytest.approx(0.02, rel=0.5)


def test_drawn_weights_have_nothing_of_the_checkpoint(bert: Path) -> None:  # K4 K7
    known, first, other = checkpoint_of(bert), built(bert, "normal-0.02"), built(bert, "normal-0.02", init_seed=1)
    for name, value in known.items():
        assert foreign(first[name], value), name
        if name.endswith("bias"):
            assert not first[name].any()
        elif "LayerNorm" in name:
            assert (first[name] == 1).all()
        else:
            assert float(first[name].std()) == pytest.approx(0.02, rel=0.2) and not torch.equal(
                first[name], other[name]
            )


def test_the_names_are_the_librarys_own(bert: Path) -> None:
    model = transformers.BertForSequenceClassification.from_pretrained(bert)
    assert list(built(bert)) == list(model.state_dict())


def test_building_leaves_the_random_state_and_the_libraries_settings(bert: Path) -> None:
    log = transformers.utils.logging
    before = torch.get_rng_state(), log.get_verbosity(), log.is_progress_bar_enabled()
    built(bert)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (log.get_verbosity(), log.is_progress_bar_enabled()) == before[1:]


def test_the_scores_are_the_librarys_own_and_padding_changes_nothing(bert: Path) -> None:
    model = models.build(f"hf:{bert}", (128, len(WORDS)), 2, "pretrained", 0)
    own = transformers.BertForSequenceClassification.from_pretrained(bert)
    own.load_state_dict(model.state_dict())
    tokens = torch.tensor([[2, 5, 9, 3, 0, 0], [2, 7, 9, 10, 12, 3]])
    model.train()  # no dropout: the same in both modes
    scores = model(tokens)
    assert scores.shape == (2, 2) and torch.equal(scores, model(tokens))
    assert torch.allclose(scores, own.eval()(tokens, attention_mask=(tokens != 0).long()).logits, atol=1e-6)
    assert torch.allclose(scores[:1], model(tokens[:1, :4]), atol=1e-6)
    assert not torch.allclose(scores[:1], own(tokens[:1]).logits, atol=1e-6), "were padding attended to"


def test_layers_are_known_without_weights(bert: Path) -> None:
    name, shape = f"hf:{bert}", (128, len(WORDS))
    layers = models.layers(name, shape, 2)
    model = models.build(name, shape, 2, "normal-0.02", 0)
    assert {weight: layer.kind for weight, layer in layers.items()} == prunable.prunable(model)
    assert {weight: layer.weights for weight, layer in layers.items()} == prunable.full(model).counts
    kinds = {layer.kind for layer in layers.values()}
    assert kinds == {"embedding", "linear", "output"} and layers["classifier.weight"].kind == "output"
    assert layers["bert.encoder.layer.0.output.dense.weight"].uses == 64 * 32 * 128
    assert layers["bert.pooler.dense.weight"].uses == 32 * 32 and not models.family(name).SEQUENTIAL


@pytest.mark.parametrize(
    ("family", "changes", "head"),
    [
        ("Roberta", {"pad_token_id": 1, "max_position_embeddings": 34}, ["classifier.dense", "classifier.out_proj"]),
        ("DistilBert", {"dim": 32, "hidden_dim": 64, "n_layers": 2, "n_heads": 2}, ["pre_classifier", "classifier"]),
        ("Electra", {"embedding_size": 16}, ["classifier.dense", "classifier.out_proj"]),
    ],
)
def test_others_of_its_kin(family: str, changes: dict[str, Any], head: list[str], tmp_path: Path) -> None:  # R2 K4
    """Their heads are all that is drawn, and the last of it is the output; nothing is random in training mode."""
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    config = getattr(transformers, f"{family}Config")(**{"vocab_size": 20, "pad_token_id": 0} | sizes | changes)
    getattr(transformers, f"{family}Model")(config).save_pretrained(tmp_path)
    name, shape = f"hf:{tmp_path}", (32, 20)
    models.check(name, shape, 3)
    one, other = (models.build(name, shape, 3, "pretrained", init_seed) for init_seed in (0, 1))
    kinds = prunable.prunable(one)
    assert {weight: layer.kind for weight, layer in models.layers(name, shape, 3).items()} == kinds
    assert [weight for weight, kind in kinds.items() if kind == "output"] == [f"{head[-1]}.weight"]
    differing = [key for key, value in weights.of(one).items() if not torch.equal(value, weights.of(other)[key])]
    assert differing == [f"{each}.weight" for each in head]
    saved = safetensors.load_file(tmp_path / "model.safetensors")
    # RoBERTa's pooler has no place in its classifier.
    known = {f"{family.lower()}.{key}": value for key, value in saved.items() if "pooler" not in key}
    assert all(torch.equal(one.get_parameter(key), value) for key, value in known.items())
    tokens = torch.randint(2, 20, (4, 32), generator=torch.Generator().manual_seed(0))
    one.train()
    assert torch.equal(one(tokens), one(tokens)) and one(tokens).shape == (4, 3)


def test_checkpoints_of_old_names_and_of_half_precision(bert: Path, tmp_path: Path) -> None:
    """BERT's own file says gamma and beta; what is kept in 16 bits is trained in 32, each number as it is."""
    (tmp_path / "config.json").write_text(
        json.dumps(json.loads((bert / "config.json").read_text()) | {"dtype": "bfloat16", "torch_dtype": "bfloat16"})
    )
    old = {re.sub("LayerNorm.weight$", "LayerNorm.gamma", name): value for name, value in checkpoint_of(bert).items()}
    old = {re.sub("LayerNorm.bias$", "LayerNorm.beta", name): value.bfloat16() for name, value in old.items()}
    safetensors.save_file(old, tmp_path / "model.safetensors", metadata={"format": "pt"})
    found = built(tmp_path)
    for name, value in checkpoint_of(bert).items():
        assert found[name].dtype == torch.float32 and torch.equal(found[name], value.bfloat16().float()), name


# ---------------------------------------------------------------- data


def test_sentences_are_in_the_checkpoints_tokens(bert: Path, reviews: Path, tmp_path: Path) -> None:
    name = f"sst2@{bert}"
    dataset, facts = data.load(name, reviews), data.facts(name)
    assert facts.shape == (128, len(WORDS)) and facts.text and not facts.running
    assert dataset.images.shape == (48, 128) and dataset.test_images.shape == (12, 128)
    for tokens, (sentence, label), known in zip(
        dataset.images, sst2.sentences(reviews)[0], dataset.labels, strict=True
    ):
        words = [WORDS.index(word) for word in sentence.split()]
        assert tokens.tolist() == [2, *words, 3, *[0] * (126 - len(words))] and int(known) == label
    assert data.words(name) == WORDS
    publish(name, reviews, tmp_path)
    assert torch.equal(attach(name, tmp_path).images, dataset.images)
    part = data.load(f"sst2-30@{bert}", reviews)
    assert len(part.images) == 30 and {tuple(row) for row in part.images.tolist()} <= {
        tuple(row) for row in dataset.images.tolist()
    }


def test_another_tokenizer_or_another_sst2_is_other_data(
    bert: Path, reviews: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = tmp_path / "copy"
    copy.mkdir()
    content = (bert / "tokenizer.json").read_text()
    (copy / "tokenizer.json").write_text(content)
    own = data.facts(f"sst2@{bert}").fingerprint
    assert data.facts(f"sst2@{copy}").fingerprint == own, "the same in another place"
    (copy / "tokenizer.json").write_text(content.replace('"good"', '"bien"'))
    assert data.facts(f"sst2@{copy}").fingerprint != own
    monkeypatch.setitem(sst2.FILES, "dev.tsv", "0" * 64)
    assert data.facts(f"sst2@{bert}").fingerprint != own


# ---------------------------------------------------------------- experiments


def test_every_arm_starts_where_it_should(bert: Path, reviews: Path, tmp_path: Path) -> None:  # K3 K4 K5 K9 R1 R2 R10
    """The recipe of the paper from end to end: theta_0 under nested masks, a dense head, and controls that are some."""
    wanted = plan(spec_of(bert, "arms=ticket,reinit,random,shuffle"))
    store, known = done(wanted, Store(tmp_path / "store"), reviews), checkpoint_of(bert)
    rows = results(wanted, store).table
    assert len(rows) == 1 + 2 * 4 and engine_of(wanted).name in ("sparse", "reference")
    head: Tensor | None = None
    sizes = {name: value.numel() for name, value in known.items() if value.dim() == 2 and "embeddings" not in name}
    living = sum(sizes.values())
    expected = [living]
    for _ in range(2):
        expected.append(expected[-1] - count(0.1, expected[-1]))
    for row in wanted.rows:
        start, alive = store.weights(row.run.start), store.mask(row.run.mask) if row.run.mask else None
        assert alive is not None and set(alive) == set(sizes), "neither head nor embeddings are counted"
        assert alive.alive == expected[row.level]
        for name, value in known.items():
            if row.arm == "reinit":
                assert foreign(start[name], value), name
            else:
                assert torch.equal(start[name], value), name
        if row.arm != "reinit":
            head = start["classifier.weight"] if head is None else head
            assert torch.equal(start["classifier.weight"], head)
        trained = store.weights(row.run)
        for name, each in alive.items():
            assert not trained[name][~each].any() and not torch.equal(trained[name][each], start[name][each])
        assert (
            not torch.equal(trained["classifier.weight"], start["classifier.weight"])
            and trained["classifier.weight"].all()
        )
    ticket = ticket_of(wanted, store, level=2, replicate=0)
    for name, value in known.items():
        assert torch.equal(ticket.weights[name], value * ticket.mask[name] if name in ticket.mask else value)
    ticket.save(tmp_path / "ticket")
    own = transformers.BertForSequenceClassification.from_pretrained(bert)
    Ticket.load(tmp_path / "ticket").apply(own)
    assert weights.equal(weights.of(own), ticket.weights), "it is a ticket of the library's own model"


def test_each_replicate_has_a_head_of_its_own_and_one_body(bert: Path, reviews: Path) -> None:  # K10
    experiment = spec_of(bert, "replicates=2")
    starts = [Replicate(experiment.spec, number).rewind_point() for number in range(2)]
    assert all(isinstance(start, Init) and start.init == "pretrained" for start in starts)
    assert starts[0].key != starts[1].key


def test_the_control_draws_anew_also_where_tickets_are_rewound_to_a_later_step(bert: Path, reviews: Path) -> None:  # K4
    for rewind in ("0it", "2it"):
        replicate = Replicate(spec_of(bert, f"rewind={rewind}").spec, 0)
        _, ticket = METHODS["iterative"].search(replicate, 1)
        control = CONTROLS["reinit"].make(replicate, ticket, 1, 0)
        starts = [run.start if rewind == "0it" else run.start.start for run in (ticket, control)]  # type: ignore[attr-defined]
        assert [start.init for start in starts] == ["pretrained", "normal-0.02"]  # type: ignore[union-attr]


def test_keys_follow_the_checkpoints_bytes(bert: Path, reviews: Path, tmp_path: Path) -> None:  # S9
    copy = tmp_path / "copy"
    copy.mkdir()
    for file in bert.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    keys = [{run.key for run in plan(spec_of(copy)).runs}]
    known = models.checkpoint(f"hf:{copy}")
    assert known == models.checkpoint(f"hf:{bert}")
    for changed in ("model.safetensors", "config.json"):
        content = (copy / changed).read_bytes()
        flipped = content[:-4] + bytes([content[-4] ^ 1]) + content[-3:]  # the last bit of the last weight
        (copy / changed).write_bytes(flipped if changed == "model.safetensors" else content + b" ")
        os.utime(copy / changed, ns=(1, len(keys)))
        keys.append({run.key for run in plan(spec_of(copy)).runs})
    assert not keys[0] & keys[1] and not keys[1] & keys[2] and not keys[0] & keys[2]


def test_a_checkpoint_that_changes_meanwhile_is_refused(bert: Path, reviews: Path, tmp_path: Path) -> None:  # S9
    copy = made(tmp_path / "copy", seed=2)
    wanted, store = plan(spec_of(copy)), Store(tmp_path / "store")
    store.open()
    made(copy, seed=3)
    with pytest.raises(BadInput, match=r"expected the checkpoint with SHA-256 \w{16}..., found another one"):
        wanted.runs[0].perform(Worker(store, reviews))


# ---------------------------------------------------------------- what cannot be


def test_pickled_weights_are_not_read(bert: Path, tmp_path: Path) -> None:  # S3
    pickled = tmp_path / "pickled"
    pickled.mkdir()
    (pickled / "config.json").write_bytes((bert / "config.json").read_bytes())
    torch.save(checkpoint_of(bert), pickled / "pytorch_model.bin")
    for ask in (lambda: models.checkpoint(f"hf:{pickled}"), lambda: built(pickled)):
        with pytest.raises(BadInput, match=r"expected weights as model.safetensors, found none; pickles, .* not read"):
            ask()


@pytest.mark.parametrize("text", ["", "[" * 100_000, "[]", "{}", '{"weight_map": 3}', '{"weight_map": {"a": 3}}'])
def test_a_damaged_index_of_shards_is_named(text: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    (tmp_path / "model.safetensors.index.json").write_text(text)
    with pytest.raises(BadInput, match=r"model\.safetensors\.index\.json, a table of shards, found a damaged one"):
        models.checkpoint(f"hf:{tmp_path}")


@pytest.mark.parametrize("package", ["transformers", "tokenizers"])
def test_without_the_extra_it_is_said_what_to_install(
    package: str, bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = tmp_path / "copy"
    copy.mkdir()
    (copy / "tokenizer.json").write_bytes((bert / "tokenizer.json").read_bytes())
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(BadInput, match=r"Install it: pip install '\.\[transformers\]'"):
        _ = built(bert) if package == "transformers" else data.facts(f"sst2@{copy}")


def test_a_name_that_is_neither_here_nor_to_be_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(
        BadInput, match=r"the hub's user/none: expected .*no copy of it here, .*`hf download user/none`"
    ):
        models.checkpoint("hf:user/none")
    with pytest.raises(BadInput, match=r"/no/such/folder: expected a folder, or .* found neither"):
        models.checkpoint("hf:/no/such/folder")


def test_a_kept_copy_is_enough(bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a repository that the library has downloaded: shards and all, without a way to the hub."""
    commit = tmp_path / "models--user--bert" / "snapshots" / ("0" * 40)
    commit.mkdir(parents=True)
    (tmp_path / "models--user--bert" / "refs").mkdir()
    (tmp_path / "models--user--bert" / "refs" / "main").write_text("0" * 40)
    whole = transformers.BertForPreTraining.from_pretrained(bert)
    whole.save_pretrained(commit, max_shard_size="20KB")
    (commit / "tokenizer.json").write_bytes((bert / "tokenizer.json").read_bytes())
    assert not (commit / "model.safetensors").exists() and len(list(commit.glob("*.safetensors"))) > 1
    own = hub._client().hf_hub_download

    def from_here(*asked: Any, **more: Any) -> Any:
        return own(*asked, **more, cache_dir=tmp_path)

    monkeypatch.setattr("huggingface_hub.hf_hub_download", from_here)
    found, known = weights.of(models.build("hf:user/bert", (128, len(WORDS)), 2, "pretrained", 0)), checkpoint_of(bert)
    assert all(torch.equal(found[name], value) for name, value in known.items())
    assert models.checkpoint("hf:user/bert") != models.checkpoint(f"hf:{bert}")
    assert data.facts("sst2@user/bert").fingerprint == data.facts(f"sst2@{bert}").fingerprint


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ("recipe.data='sst2@OTHER'", "recipe.data: expected sentences in the tokens of its model, like sst2@"),
        ("recipe.data='digits'", "recipe.model: expected a model for images"),
        ("recipe.model='bert-1-32'", "recipe.data: expected a data set without a tokenizer"),
        ("recipe.data='mnist@HERE'", "recipe.data: expected sst2@PATH-OR-NAME"),
        ("recipe.model='hf-2'", "recipe.model: expected hf:PATH-OR-NAME"),
        ("prune.keep=['clasifier.weight']", "did you mean classifier.weight?"),
    ],
)
def test_what_does_not_go_together_is_said(change: str, fault: str, bert: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / "tokenizer.json").write_bytes((bert / "tokenizer.json").read_bytes())
    with pytest.raises(SpecError) as caught:
        spec_of(bert, change.replace("HERE", str(bert)).replace("OTHER", str(other)))
    assert fault in str(caught.value)


def test_models_of_ones_own_have_no_checkpoint() -> None:
    with pytest.raises(
        SpecError, match=r"recipe.init: expected a way to draw weights, found 'pretrained' \(lenet-20-10"
    ):
        read("digits-lenet", ["recipe.model=lenet-20-10", "recipe.init=pretrained"])


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"max_position_embeddings": 64}, "a model of texts of 128 tokens; .* reads 64"),
        ({"vocab_size": 10}, "a model that knows 14 tokens; .* knows 10"),
        ({"pad_token_id": 1}, "recipe.model: expected pad_token_id 0 in its config.json, .* found 1"),
        ({"pad_token_id": None}, "a checkpoint whose config.json has a pad_token_id"),
        ({"model_type": "no-such"}, "a model that transformers .* has the code of"),
        (
            {"model_type": "new", "auto_map": {"AutoConfig": "evil.Config"}},
            "a model that transformers .* has the code of",
        ),
    ],
)
def test_a_checkpoint_that_does_not_fit_is_refused(
    changes: dict[str, Any], fault: str, bert: Path, reviews: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    copy.mkdir()
    for file in bert.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    (copy / "evil.py").write_text("raise SystemExit('executed')")
    (copy / "config.json").write_text(json.dumps(json.loads((bert / "config.json").read_text()) | changes))
    with pytest.raises(BadInput, match=fault):
        spec_of(copy)


def test_weights_of_another_model_are_refused(bert: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    copy.mkdir()
    (copy / "config.json").write_bytes((bert / "config.json").read_bytes())
    safetensors.save_file({"other.weight": torch.ones(2)}, copy / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(BadInput, match=r"expected weights of a BertForSequenceClassification, found no bert"):
        built(copy)
    safetensors.save_file(
        {name: value[..., :-1].contiguous() for name, value in checkpoint_of(bert).items()},
        copy / "model.safetensors",
        metadata={"format": "pt"},
    )
    with pytest.raises(BadInput, match=r"expected the weights that its config.json tells of"):
        built(copy)


def test_a_model_that_would_never_be_pruned_is_refused(tmp_path: Path) -> None:
    config = transformers.GPT2Config(vocab_size=20, n_embd=8, n_layer=1, n_head=1, n_positions=128, pad_token_id=0)
    transformers.GPT2Model(config).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"matrices are in linear layers and embeddings; .* has transformer.h.0.attn"):
        models.check(f"hf:{tmp_path}", (128, 20), 2)


def test_a_tickets_file_fetches_no_checkpoint() -> None:
    with pytest.raises(ValueError, match="expected a model of Tombola's own, found hf:user/name"):
        Seed("hf:user/name", (128, 14), 2, "pretrained", 0)


# ---------------------------------------------------------------- the page


@pytest.mark.skipif(not kernels.sets(), reason="no compiled kernels here")
def test_a_trained_ticket_is_proved_in_all_forms_but_the_compact_ones(
    bert: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its calls depend on its input's values: torch.fx cannot follow it, and its layers are replaced one by one."""
    monkeypatch.setattr(timing, "timed", lambda calls: dict.fromkeys(calls, timing.Timing(1.0, (1.0, 1.0), (1.0,))))
    model = models.build(f"hf:{bert}", (16, len(WORDS)), 2, "pretrained", init_seed=0)
    drawn = torch.Generator().manual_seed(0)
    alive = Mask({name: torch.rand(flags.shape, generator=drawn) < 0.2 for name, flags in prunable.full(model).items()})
    tokens = torch.randint(len(WORDS), (64, 16), generator=drawn)
    tokens[:, 9:] = 0  # padding
    found = {form.name: form for form in cash.prove(model, alive, tokens, tokens[:, 0] % 2)}
    for form in ("dense, ONNX Runtime", "int8, ONNX Runtime"):
        found.pop(form, None)
    assert list(found) == ["dense", "sparse", "int8", "sparse int8"]
    dense, small = found["dense"], found["sparse"]
    assert dense.largest > 0 and small.difference < 1e-6 and small.accuracy == dense.accuracy
    products = sum(size.products for size in cash.sizes(model, tokens).values())  # of attention: no weight is in them
    assert 2 * small.disk_bytes < dense.disk_bytes and products > 0
    assert 4 * (small.multiply_adds - products) < dense.multiply_adds - products


def test_the_example_of_the_page_runs(
    reviews: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from tombola.cli import main

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TOMBOLA_DATA", str(reviews))
    made(tmp_path / "checkpoint")
    page = (Path(__file__).parents[1] / "docs" / "pretrained.md").read_text()
    (spec,) = re.findall(r"```toml\n(.*?)```", page, re.DOTALL)
    (tmp_path / "mine.toml").write_text(spec)
    small = ["recipe.length=4it", "levels=1", "replicates=2", "recipe.batch=8"]
    done(plan(read("mine.toml", small)), Store(tmp_path / "store"), reviews)
    sets = [word for change in small for word in ("--set", change)]
    assert main(["ticket", "mine.toml", *sets, "--store", "store", "--level", "1", "-o", "ticket.safetensors"]) == 0
    (example,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    names: dict[str, Any] = {}
    exec(example, names)
    assert "density 0.9" in capsys.readouterr().out
    assert weights.equal(weights.of(names["model"]), names["ticket"].weights)
