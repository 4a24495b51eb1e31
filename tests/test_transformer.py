"""Transformers: their sizes, what a token can see, and the one matrix that has two names."""

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from tombola import mask, models, prunable, weights
from tombola.data import Batches, Dataset
from tombola.data.facts import IGNORED, Facts
from tombola.engine.native.sequential_layers import sequential_layers
from tombola.engine.reference.trainer import Reference
from tombola.engine.stacked.trainer import Stacked
from tombola.engine.training import Start, Training
from tombola.mask import Mask
from tombola.models.attention import SelfAttention
from tombola.models.transformer import size
from tombola.recipe import AdamW
from tombola.ticket import Ticket
from tombola.train import Span

LENGTH, VOCABULARY = 12, 20
SHAPE = (LENGTH, VOCABULARY)
NAMES = {"gpt-2-32-h4": VOCABULARY, "bert-2-32-h4": 2}  # and the classes of each
every_model = pytest.mark.parametrize("name", NAMES)


def built(name: str, init_seed: int = 0) -> nn.Module:
    return models.build(name, SHAPE, NAMES[name], "xavier-uniform", init_seed)


def tokens(count: int, seed: int = 0) -> Tensor:
    return torch.randint(1, VOCABULARY, (count, LENGTH), generator=torch.Generator().manual_seed(seed))


def texts(name: str) -> Dataset:
    """Thirty texts of which the model `name` is asked something, some labels of a running one being none."""
    facts = Facts("texts", SHAPE, NAMES[name], train=30, validation=0, test=7)
    inputs, last = tokens(37), 1 if name.startswith("bert") else LENGTH
    labels = torch.randint(0, NAMES[name], (37, last), generator=torch.Generator().manual_seed(1))
    if facts.running:
        labels[::5, -4:] = IGNORED
    else:
        labels = labels[:, 0]
    return Dataset(facts, inputs[:30], labels[:30], inputs[30:], labels[30:])


# ---------------------------------------------------------------- sizes


@pytest.mark.parametrize(
    ("depth", "width", "length", "vocabulary"), [(1, 32, 8, 30), (3, 64, 256, 65), (6, 384, 256, 65)]
)
def test_the_weights_are_those_of_the_formula(depth: int, width: int, length: int, vocabulary: int) -> None:  # P7
    """12 w^2 a block: four projections of w^2 and two layers of 4 w^2; tokens, which are the output too; positions."""
    name, shape = f"gpt-{depth}-{width}", (length, vocabulary)
    inside = depth * 12 * width**2 + length * width
    assert sum(models.weight_counts(name, shape, vocabulary).values()) == inside + vocabulary * width
    counts = models.weight_counts(f"bert-{depth}-{width}", shape, 2)
    assert sum(counts.values()) == inside + vocabulary * width + 2 * width
    model = models.build(name, shape, vocabulary, "normal-0.02", init_seed=0)
    assert prunable.full(model).total == inside + vocabulary * width
    unmasked = depth * (9 + 4) * width + 2 * width  # biases 4 w + 4 w + w, two norms; the last norm
    assert sum(value.numel() for value in model.parameters()) == inside + vocabulary * width + unmasked


@every_model
def test_layers_are_known_without_building(name: str) -> None:
    model, layers = built(name), models.layers(name, SHAPE, NAMES[name])
    found = prunable.prunable(model)
    assert {weight: layer.kind for weight, layer in layers.items()} == found and list(layers) == list(found)
    assert {weight: layer.weights for weight, layer in layers.items()} == prunable.full(model).counts
    used: dict[str, int] = {}
    for path, module in model.named_modules():
        if isinstance(module, nn.Linear):
            module.register_forward_hook(
                lambda layer, inputs, _, path=path: used.update({path: inputs[0][0].numel() * layer.out_features})
            )
    model(tokens(1))
    used["tokens" if name.startswith("gpt") else "output"] = used.pop("output")
    assert {weight: layer.uses for weight, layer in layers.items() if layer.uses} == {
        f"{path}.weight": count for path, count in used.items()
    }


@every_model
def test_norms_and_biases_are_never_prunable(name: str) -> None:  # P1 P2
    model = built(name)
    left = {key for key, _ in model.named_parameters()} - set(prunable.prunable(model))
    assert left == {key for key, _ in model.named_parameters() if "norm" in key or key.endswith("bias")}
    for key, value in model.state_dict().items():
        if "norm" in key and key.endswith("weight"):
            assert torch.equal(value, torch.ones_like(value))
        if key.endswith("bias"):
            assert not value.any()


def test_the_output_is_what_scores_the_tokens_also_where_it_is_tied() -> None:  # P7
    kinds = {
        name: [weight for weight, kind in prunable.prunable(built(name)).items() if kind == "output"] for name in NAMES
    }
    assert kinds == {"gpt-2-32-h4": ["tokens.weight"], "bert-2-32-h4": ["output.weight"]}
    assert prunable.prunable(built("bert-2-32-h4"))["tokens.weight"] == "embedding"


def test_normal_draws_have_the_deviation_that_their_name_says() -> None:
    model = models.build("gpt-1-128", (64, 65), 65, "normal-0.02", init_seed=0)
    for weight in prunable.prunable(model):
        values = model.get_parameter(weight)
        assert float(values.detach().std()) == pytest.approx(0.02, rel=6 / (2 * values.numel()) ** 0.5)


@pytest.mark.parametrize("name", ["gpt", "gpt-2", "gpt-0-32", "gpt-2-32-", "bert-2-32-h0", "bert-2-32-w3", "gpt-2-32x"])
def test_a_bad_name_is_refused_with_its_form(name: str) -> None:
    with pytest.raises(ValueError, match=r"^(gpt|bert)-LAYERS-WIDTH, like \1-4-128, with other heads than"):
        models.check(name, SHAPE, 2)


def test_heads_share_the_width_evenly() -> None:
    assert size("gpt-2-96").heads == 3 and size("gpt-2-16").heads == 1
    for name in ("gpt-2-90-h4", "gpt-2-33", "gpt-2-32-h5"):
        with pytest.raises(ValueError, match=r"heads share the width evenly$"):
            models.check(name, SHAPE, VOCABULARY)


@pytest.mark.parametrize(
    ("name", "shape", "classes", "message"),
    [
        ("gpt-2-32", (3, 32, 32), 10, "a model for images; gpt-2-32 reads texts"),
        ("lenet-300-100", SHAPE, 2, "a model for texts: gpt-LAYERS-WIDTH"),
        ("resnet-20", SHAPE, 2, "a model for texts: gpt-LAYERS-WIDTH"),
        ("gpt-2-32", SHAPE, 2, "a model that tells 2 classes apart, like bert"),
        ("bert-2-32", SHAPE, VOCABULARY, "a model that says which token is next, like gpt"),
    ],
)
def test_a_model_for_other_inputs_is_refused(name: str, shape: tuple[int, ...], classes: int, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}"):
        models.check(name, shape, classes)


@pytest.mark.parametrize("name", ["lenet-10", "conv-2", "vgg-11", "resnet-20", "imagenet-resnet-18", *NAMES])
def test_what_every_model_of_a_family_takes_it_takes(name: str) -> None:
    models.check(name, *models.taken(name))


def test_the_kernels_leave_transformers_to_the_plain_loop() -> None:
    for name in NAMES:
        assert not models.family(name).SEQUENTIAL and sequential_layers(built(name), SHAPE) is None


# ---------------------------------------------------------------- what they compute


def test_attention_computes_what_its_formula_says() -> None:
    """Head by head and position by position, with nothing but a softmax."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        attention, inputs = SelfAttention(6, 2, causal=True).double(), torch.randn(2, 5, 6, dtype=torch.float64)
    assert (attention.heads, attention.head_width) == (2, 3)
    q, k, v = attention.query(inputs), attention.key(inputs), attention.value(inputs)
    mixed = torch.zeros_like(q)
    for head in (slice(0, 3), slice(3, 6)):
        for place in range(5):
            scores = q[:, None, place, head] @ k[:, : place + 1, head].transpose(1, 2) / 3**0.5
            mixed[:, place, head] = (scores.softmax(-1) @ v[:, : place + 1, head])[:, 0]
    assert torch.allclose(attention(inputs), attention.projection(mixed), atol=1e-12)


def test_whole_heads_can_be_carried_out() -> None:
    """A head whose outputs are 0 is one whose rows are gone from `query`, `key`, `value`, and its columns after."""
    whole, lesser = SelfAttention(8, 4, causal=False), SelfAttention(8, 4, causal=False)
    inputs = torch.randn(2, 5, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        whole.value.weight[:2].zero_()
        whole.value.bias[:2].zero_()
        lesser.heads = 3
        for full, less in zip(whole.children(), lesser.children(), strict=True):
            assert isinstance(full, nn.Linear) and isinstance(less, nn.Linear)
            rows = full is not whole.projection
            less.weight = nn.Parameter(full.weight[2:] if rows else full.weight[:, 2:])
            less.bias = nn.Parameter(full.bias[2:] if rows else full.bias)
        assert torch.allclose(lesser(inputs), whole(inputs), atol=1e-6)


@given(place=st.integers(1, LENGTH - 1), other=st.integers(1, VOCABULARY - 1), seed=st.integers(0, 3))
def test_no_token_of_a_gpt_sees_a_later_one(place: int, other: int, seed: int) -> None:
    model, text = built("gpt-2-32-h4"), tokens(2, seed)
    changed = text.clone()
    changed[:, place] = (changed[:, place] + other) % VOCABULARY
    before, after = model(text), model(changed)
    assert torch.equal(before[:, :place], after[:, :place]) and before.shape == (2, LENGTH, VOCABULARY)
    assert not torch.equal(before[:, place], after[:, place])


def test_every_token_of_a_bert_sees_every_other() -> None:
    model, text = built("bert-2-32-h4"), tokens(1)
    for place in range(LENGTH):
        changed = text.clone()
        changed[:, place] = changed[:, place] % (VOCABULARY - 1) + 1
        assert not torch.equal(model(text), model(changed))


@given(length=st.integers(1, LENGTH), seed=st.integers(0, 3))
def test_padding_changes_nothing(length: int, seed: int) -> None:
    model, text = built("bert-2-32-h4"), tokens(3, seed)
    padded = text.clone()
    padded[:, length:] = 0
    assert torch.allclose(model(padded), model(text[:, :length]), atol=1e-5)
    alone = model(padded[:1])
    assert torch.allclose(alone, model(padded)[:1], atol=1e-5)


def test_the_order_of_tokens_matters() -> None:
    text = tokens(1)
    for name in NAMES:
        assert not torch.allclose(built(name)(text).mean(), built(name)(text.flip(1)).mean(), atol=1e-6)


# ---------------------------------------------------------------- one matrix, two names


def half(model: nn.Module) -> Mask:
    generator = torch.Generator().manual_seed(5)
    return Mask(
        {name: torch.rand(full.shape, generator=generator) < 0.5 for name, full in prunable.full(model).items()}
    )


def trained(model: nn.Module, kept: Mask, dataset: Dataset, steps: int = 5) -> Reference:
    training = Training(optimizer=AdamW(name="adamw", lr=1e-2, weight_decay=0.1), batch=8)
    engine = Reference(training, Start(model, kept, dataset))
    engine.train(Batches(dataset, torch.arange(30), 8, 0), Span(0, steps, lambda step: 1e-2), lambda step: None)
    return engine


@every_model
def test_pruned_weights_stay_pruned_and_tied_ones_tied(name: str) -> None:  # P7 M1 M10
    model = built(name)
    kept = half(model)
    assert trained(model, kept, texts(name)).optimizer_state()
    for key, alive in kept.items():
        assert not model.get_parameter(key)[~alive].any() and model.get_parameter(key)[alive].all()
    if name.startswith("gpt"):
        assert model.get_parameter("output.weight") is model.get_parameter("tokens.weight")


@pytest.mark.parametrize("times", [1, 3])
def test_rewinding_leaves_one_matrix(times: int) -> None:  # P7 R1 R2
    model = built("gpt-2-32-h4")
    start, kept = weights.of(model), half(model)
    for _ in range(times):
        trained(model, kept, texts("gpt-2-32-h4"))
        weights.put(model, mask.apply(start, kept))
        assert model.get_parameter("output.weight") is model.get_parameter("tokens.weight")
        assert torch.equal(model.get_parameter("tokens.weight"), start["tokens.weight"] * kept["tokens.weight"])


def test_a_ticket_of_tied_weights_goes_through_its_file(tmp_path: Path) -> None:  # P7
    model = built("gpt-2-32-h4")
    kept = half(model)
    Ticket(kept, mask.apply(weights.of(model), kept), {}).save(tmp_path / "ticket")
    other = built("gpt-2-32-h4", init_seed=1)
    Ticket.load(tmp_path / "ticket").apply(other)
    assert other.get_parameter("output.weight") is other.get_parameter("tokens.weight")
    assert torch.equal(
        other.get_parameter("output.weight"), model.get_parameter("tokens.weight") * kept["tokens.weight"]
    )
    assert list(kept).count("tokens.weight") == 1 and "output.weight" not in kept


# ---------------------------------------------------------------- a stack


@every_model
def test_a_stack_trains_each_as_it_would_alone(name: str) -> None:  # P7 K9
    dataset = texts(name)
    training = Training(optimizer=AdamW(name="adamw", lr=1e-2, weight_decay=0.1), batch=8)
    several = [Batches(dataset, torch.arange(30), 8, order_seed) for order_seed in (0, 1)]
    starts = [built(name, seed).double() for seed in (0, 1)]
    masks = [half(model) for model in starts]
    stack = Stacked(training, [Start(model, kept, dataset) for model, kept in zip(starts, masks, strict=True)])
    idle: Any = [lambda step: None] * 2
    assert stack.train(several, Span(0, 6, lambda step: 1e-2), idle) == [None, None]
    for seed, replicate in enumerate(stack.states):
        alone = Reference(training, Start(built(name, seed).double(), masks[seed], dataset))
        alone.train(several[seed], Span(0, 6, lambda step: 1e-2), lambda step: None)
        found, expected = replicate.weights(), alone.weights()
        for key in expected:
            torch.testing.assert_close(found[key], expected[key], rtol=1e-7, atol=1e-9, msg=key)
        if "output.weight" in found and name.startswith("gpt"):
            assert torch.equal(found["output.weight"], found["tokens.weight"])
        assert replicate.evaluate(dataset.test_images, dataset.test_labels).total == (
            7 if name.startswith("bert") else int((dataset.test_labels != IGNORED).sum())
        )


def test_the_loss_of_a_step_is_the_mean_over_its_answers() -> None:
    """Two steps of SGD, one by hand."""
    dataset = texts("gpt-2-32-h4")
    model, by_hand = built("gpt-2-32-h4"), built("gpt-2-32-h4")
    batches = Batches(dataset, torch.arange(30), 8, 0)
    inputs, labels = batches(0)
    scores = by_hand(inputs)
    asked = labels != IGNORED
    assert int(asked.sum()) == int(batches.answers(0)) < labels.numel()
    functional.nll_loss(scores.log_softmax(-1)[asked], labels[asked]).backward()
    training = Training(optimizer=AdamW(name="adamw", lr=1e-3), batch=8)
    engine = Reference(training, Start(model, prunable.full(model), dataset))
    engine.train(batches, Span(0, 1, lambda step: 0.0), lambda step: None)
    for key, value in engine.optimizer_state().items():
        if key.startswith("exp_avg/"):
            gradient = by_hand.get_parameter(key.removeprefix("exp_avg/")).grad
            assert gradient is not None and torch.allclose(value, 0.1 * gradient, atol=1e-7)
