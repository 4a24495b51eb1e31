"""`output` is the linear layer registered last; where the first call shows another one, the search says so."""

import copy
import io
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tombola.search import Search
from tombola.search.watch import no_look


class HeadedModel(nn.Module):
    """Linear layers by name, in the order in which they are given, called by a function of them."""

    def __init__(self, call: Callable[..., Any], **sizes: tuple[int, int]) -> None:
        super().__init__()
        self.layers = nn.ModuleDict({name: nn.Linear(*size) for name, size in sizes.items()})
        self.call = call

    def forward(self, values: Tensor) -> Any:
        return self.call(self.layers, values)


def experts(layers: Any, values: Tensor) -> Tensor:
    chosen = layers["gate"](values).softmax(1)
    out: Tensor = chosen[:, :1] * layers["one"](values) + chosen[:, 1:] * layers["two"](values)
    return out


IN, MID, OUT = (4, 3), (3, 3), (3, 2)
HEAD_FIRST = HeadedModel(lambda of, x: of["head"](of["body"](x).relu()), head=OUT, body=IN)
TWO_HEADS = HeadedModel(lambda of, x: (of["a"](h := of["body"](x)), of["b"](h)), body=IN, a=OUT, b=OUT)
BOTH_SQUASHED = HeadedModel(lambda of, x: [of["a"](h := of["body"](x)).exp(), of["b"](h).exp()], body=IN, a=OUT, b=OUT)
APART = HeadedModel(lambda of, x: (of["a"](x), of["b"](of["body"](x).relu())), body=IN, a=(4, 2), b=OUT)
IN_ORDER = HeadedModel(lambda of, x: {"logits": of["b"](of["a"](x)).view(-1)}, a=IN, b=OUT)
SQUASHED = HeadedModel(lambda of, x: of["b"](of["a"](x)).log_softmax(1), a=IN, b=OUT)
GATED = HeadedModel(experts, one=(4, 2), two=(4, 2), gate=(4, 2))


WIDE = HeadedModel(lambda of, x: of["b"](of["a"](x)) + of["wide"](x), a=IN, b=OUT, wide=(4, 2))


def searched(model: nn.Module, **options: Any) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in Search(model, optimizer, levels=1, **options):
        for _ in range(2):
            answers = model(torch.rand(5, 4))
            parts = answers.values() if isinstance(answers, dict) else answers
            sum(part.square().mean() for part in parts).backward()
            optimizer.step()


@pytest.mark.parametrize(
    ("model", "said"),
    [
        (HEAD_FIRST, "'output' means layers.body.weight, .* answers come from layers.head.weight. In keep"),
        (TWO_HEADS, "'output' means layers.b.weight, .* answers come from layers.a.weight too. In keep"),
        (BOTH_SQUASHED, "'output' means layers.b.weight, .* answers come from layers.a.weight too. In keep"),
        (APART, "'output' means layers.b.weight, .* answers come from layers.a.weight too. In keep"),
        (GATED, "'output' means layers.gate.weight, .* answers come from layers.one.weight, layers.two.weight too"),
    ],
)
@pytest.mark.parametrize("options", [{"keep": "output"}, {"rate": {"output": 0.1, "*": 0.2}}])
def test_an_output_that_is_not_called_last_is_reported(model: nn.Module, said: str, options: dict[str, Any]) -> None:
    with pytest.warns(UserWarning, match=said) as found:
        searched(model, **options)
    assert len(found) == 1
    assert not any(module._forward_hooks for module in model.modules())


@pytest.mark.parametrize("model", [IN_ORDER, SQUASHED, WIDE, nn.Linear(4, 2)])
def test_one_that_is_called_last_is_as_it_was_meant(model: nn.Module) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        searched(model, rate={"output": 0.1, "*": 0.2})


def test_who_does_not_ask_for_the_output_hears_nothing_of_it() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        searched(HEAD_FIRST, keep="layers.head.*")


def test_a_level_that_is_left_leaves_nothing_on_the_model() -> None:
    optimizer = torch.optim.SGD(HEAD_FIRST.parameters(), lr=0.1)
    for _ in Search(HEAD_FIRST, optimizer, levels=1, keep="output"):
        break
    assert not any(module._forward_hooks for module in HEAD_FIRST.modules())


def test_tied_and_attending_models_are_understood() -> None:
    class Attending(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention = nn.MultiheadAttention(4, 2, batch_first=True)

        def forward(self, values: Tensor) -> Tensor:
            out: Tensor = self.attention(values[None], values[None], values[None])[0]
            return out[0]

    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding, self.output = nn.Embedding(5, 4), nn.Linear(4, 5, bias=False)
            self.output.weight = self.embedding.weight

        def forward(self, values: Tensor) -> Tensor:
            out: Tensor = self.output(self.embedding(values.argmax(1)))
            return out

    for model in (Attending(), Tied()):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            searched(model, rate={"output": 0.1, "*": 0.2})


@pytest.mark.parametrize("taken", ["copied", "saved"])
def test_a_copy_of_the_model_is_watched_by_nobody(taken: str) -> None:
    model = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2))
    search = Search(model, torch.optim.SGD(model.parameters(), lr=0.1), levels=1, keep="output")
    search.begin()
    if taken == "copied":
        twin = copy.deepcopy(model)
    else:
        file = io.BytesIO()
        torch.save(model, file)
        assert b"heads" not in file.getvalue() and b"Search" not in file.getvalue()
        twin = torch.load(io.BytesIO(file.getvalue()), weights_only=False)
    assert not [hook for module in twin.modules() for hook in module._forward_hooks.values() if hook is not no_look]
    search.leave()


def test_layers_that_are_called_by_keyword_do_not_stand_side_by_side() -> None:
    searched(HeadedModel(lambda of, x: of["b"](input=of["a"](input=x)).exp(), a=IN, b=OUT), keep="output")
