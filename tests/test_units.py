"""What excites units and which tokens they read, against loops over examples, positions and tokens."""

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from tombola import mask, models, prunable, weights
from tombola.models.attention import Decoder
from tombola.study.units import excitement, reading

LENGTH, VOCABULARY = 6, 11


def transformer(name: str, classes: int, seed: int) -> Any:
    """One whose weights are half pruned at random, its normalisations not the identity."""
    model = models.build(name, (LENGTH, VOCABULARY), classes, "normal-0.02", seed).eval()
    draw = torch.Generator().manual_seed(seed)
    for value in model.parameters():
        value.data = torch.randn(value.shape, generator=draw)
    alive = mask.Mask({n: torch.rand(m.shape, generator=draw) < 0.5 for n, m in prunable.full(model).items()})
    weights.put(model, mask.apply(weights.of(model), alive))
    return model


@given(st.integers(0, 2**32 - 1))
def test_excitement_is_that_of_a_loop_over_examples_and_places(seed: int) -> None:
    draw = torch.Generator().manual_seed(seed)
    model = nn.Sequential(nn.Conv2d(1, 3, 2), nn.ReLU(), nn.Flatten(), nn.Linear(12, 2))
    images = torch.randn(70, 1, 3, 3, generator=draw)  # more than a batch
    found = excitement(model, ["0.weight", "3.weight"], images, top=2)
    conv: Any = model[0].requires_grad_(False)
    for unit in range(3):
        answers = []  # (value, example, place)
        for example, image in enumerate(images):
            for place in range(4):
                row, column = divmod(place, 2)
                window = image[0, row : row + 2, column : column + 2]
                answers.append((float((window * conv.weight[unit, 0]).sum() + conv.bias[unit]), example, place))
        best = {example: max(each for each in answers if each[1] == example) for example in range(len(images))}
        value, example, place = max(best.values())
        assert found["0.weight"].examples[unit, 0] == example and found["0.weight"].spots[unit, 0] == place
        assert found["0.weight"].values[unit, 0] == pytest.approx(value, abs=1e-5)
    with torch.no_grad():
        every = torch.stack([model(image[None])[0] for image in images])
    assert found["3.weight"].examples.T.tolist() == every.sort(dim=0, descending=True).indices[:2].tolist()
    assert not found["3.weight"].spots.any()


def test_a_layer_that_is_called_twice_for_an_example_is_left_out() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.again, self.output = nn.Linear(2, 2), nn.Linear(2, 1)

        def forward(self, values: Tensor) -> Tensor:
            answer: Tensor = self.output(self.again(self.again(values)))
            return answer

    assert set(excitement(Twice(), ["again.weight", "output.weight"], torch.randn(3, 2))) == {"output.weight"}


# ---------------------------------------------------------------- tokens


def by_hand(model: Decoder, part: str, positions: int) -> Tensor:
    """Units x tokens: W norm(E[t] + P[p]) of the living weights, the mean over positions, less that over tokens."""
    layer = getattr(model.blocks[0].attention, part)
    rows = []
    for token in range(VOCABULARY):
        values = []
        for place in range(positions):
            stream = model.tokens.weight[token] + model.positions.weight[place]
            norm: Any = model.blocks[0].norm1
            away = stream - stream.mean()
            scaled = away / (away.square().mean() + norm.eps).sqrt() * norm.weight + norm.bias
            values.append(layer.weight @ scaled + layer.bias)
        rows.append(sum(values) / positions)
    found = torch.stack(rows).detach()
    return (found - found.mean(dim=0)).T


@pytest.mark.parametrize(("name", "classes"), [("gpt-2-8-h2", VOCABULARY), ("bert-2-8-h2", 2)])
@pytest.mark.parametrize("positions", [1, 3, 8])
def test_tokens_that_are_read_most_are_those_of_the_formula(name: str, classes: int, positions: int) -> None:
    model = transformer(name, classes, seed=positions)
    found = reading(model, list(prunable.prunable(model)), VOCABULARY, LENGTH, top=4, positions=positions)
    parts = ("query", "key", "value")
    assert set(found) == {f"blocks.0.attention.{part}.weight" for part in parts}  # all others see what attention joins
    for part in parts:
        expected, own = by_hand(model, part, min(positions, LENGTH)), found[f"blocks.0.attention.{part}.weight"]
        order = expected.abs().sort(dim=1, descending=True).indices[:, :4]
        assert own.tokens.tolist() == order.tolist()
        assert torch.allclose(own.values, expected.gather(1, order), atol=1e-4)


def test_a_unit_without_a_living_weight_reads_no_token_more_than_others() -> None:
    model = nn.Sequential(nn.Embedding(5, 3), nn.Linear(3, 2))
    linear: Any = model[1]
    linear.weight.data[1] = 0
    found = reading(model, ["1.weight"], vocabulary=5, length=4)["1.weight"]
    assert found.values[0].abs().min() > 0 and not found.values[1].any()
    assert found.tokens.shape == (2, 5)  # there are no more


def test_what_reads_no_text_token_by_token_reads_none() -> None:
    model = nn.Sequential(nn.Embedding(5, 3), nn.Flatten(), nn.Linear(12, 4), nn.Linear(4, 4))
    assert reading(model, ["2.weight", "3.weight"], vocabulary=5, length=4) == {}
