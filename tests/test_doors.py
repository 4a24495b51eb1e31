"""A mask is checked against its model at every door that takes both, and what is written to a model arrives."""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from tombola import cash, effective, mask, mask_codec, prunable, weights
from tombola.errors import BadInput
from tombola.guard import Guard
from tombola.mask import Mask
from tombola.search import Search
from tombola.ticket import Ticket
from tombola.transfer import transfer


class Tied(nn.Module):
    """An embedding, a layer, and an output whose weight is the embedding's."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.inner, self.head = nn.Embedding(7, 4), nn.Linear(4, 4), nn.Linear(4, 7, bias=False)
        self.head.weight = self.words.weight

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(functional.relu(self.inner(self.words(tokens))))  # type: ignore[no-any-return]


TOKENS = torch.arange(6).view(3, 2)
HALF = torch.arange(28).view(7, 4) % 2 == 0


def sgd(model: nn.Module) -> torch.optim.SGD:
    return torch.optim.SGD(model.parameters(), lr=0.1)


def of_a_model(model: nn.Module, alive: Mask, example: Tensor) -> dict[str, Callable[[], Any]]:
    """Each door that knows the model."""
    return {
        "Guard": lambda: Guard(model, sgd(model), alive),
        "Ticket.of": lambda: Ticket.of(model, alive, weights.of(model)),
        "cash.compact": lambda: cash.compact(model, alive, example),
        "cash.prove": lambda: cash.prove(model, alive, example, batches=(1,)),
    }


def of_weights(model: nn.Module, alive: Mask) -> dict[str, Callable[[], Any]]:
    """Each door that knows the weights alone, and cannot tell which names are tied."""
    own = weights.of(model)
    return {
        "Ticket": lambda: Ticket(alive, own),
        "transfer": lambda: transfer(alive, own, model, "matching"),
        "apply": lambda: mask.apply(own, alive),
        "compress": lambda: mask_codec.compress(own, alive),
    }


@pytest.mark.parametrize(
    "name, shape",
    [("model.0.weight", (2, 3)), ("0.weight", (3,)), ("0.weight", (2, 1)), ("0.weight", (1, 2, 3)), ("0.weight", ()),
     ("0.weight", (3, 2))],
)  # fmt: skip
def test_a_mask_of_another_model_is_refused_at_every_door(name: str, shape: tuple[int, ...]) -> None:
    model = nn.Sequential(nn.Linear(3, 2), nn.ReLU(), nn.Linear(2, 2))
    wrong = Mask({name: torch.ones(shape, dtype=torch.bool)})
    for door, call in (of_a_model(model, wrong, torch.zeros(2, 3)) | of_weights(model, wrong)).items():
        with pytest.raises(BadInput, match=r"mask of .*another model"):
            call()
            pytest.fail(f"{door} took it")
    plain: Any = dict(prunable.full(model))
    for call in (of_a_model(model, plain, torch.zeros(2, 3)) | of_weights(model, plain)).values():
        with pytest.raises(BadInput, match="mask: expected a Mask, found dict"):
            call()


def test_a_model_that_torch_wraps_is_masked_as_what_is_in_it() -> None:
    model = nn.Sequential(nn.Linear(3, 2), nn.ReLU(), nn.Linear(2, 2))
    alive = Mask({"0.weight": torch.tensor([[True, False, True], [False, False, False]])})
    wanted = cash.compact(model, alive, torch.zeros(2, 3))
    for wrapped in (torch.compile(model, backend="eager"), nn.DataParallel(model)):
        assert isinstance(wrapped, nn.Module)
        Guard(wrapped, sgd(model), alive).release()
        assert repr(cash.compact(wrapped, alive, torch.zeros(2, 3))) == repr(wanted)


def test_a_tied_weight_is_masked_at_every_door_whichever_of_its_names_the_mask_has() -> None:
    for name in ("words.weight", "head.weight"):
        model, alive = Tied(), Mask({name: HALF})
        made = Ticket.of(model, alive, weights.of(model))
        assert list(made.mask) == ["words.weight"]
        for each in ("words.weight", "head.weight"):
            assert not made.weights[each][~HALF].any()
        small = cash.compact(model, alive, TOKENS)
        assert not small.get_parameter("words.weight")[~HALF].any()
        taken = transfer(alive, weights.of(model), Tied(), "matching")
        assert taken.mask.counts["words.weight"] == 14 and taken.taken == {"words.weight": name}
        Guard(model, sgd(model), alive)
        assert not model.head.weight[~HALF].any()


def test_two_masks_of_one_tied_weight_are_one_or_are_refused() -> None:
    model = Tied()
    both = Mask({"head.weight": HALF, "words.weight": HALF})
    assert prunable.checked(both, model).counts == {"words.weight": 14}
    differing = Mask({"head.weight": HALF, "words.weight": ~HALF})
    made = Ticket.of(model, prunable.full(model), weights.of(model))
    calls = of_a_model(model, differing, TOKENS)
    calls["transfer"] = lambda: transfer(differing, made.weights, model, "matching")
    for call in calls.values():
        with pytest.raises(BadInput, match="names of one tensor"):
            call()


def test_keep_and_rate_know_a_tied_weight_by_all_of_its_names() -> None:
    for name in ("words.weight", "head.weight"):
        model = Tied()
        kept = Search(model, sgd(model), levels=1, keep=[name])
        assert list(kept.mask(0)) == ["inner.weight"]
        optimizer = sgd(model)
        for level in Search(model, optimizer, levels=1, rate={name: 0.5, "*": 0.25}):
            loss: Tensor = model(TOKENS).square().sum()
            loss.backward()
            optimizer.step()
            if level.number:
                assert level.mask.counts == {"words.weight": 14, "inner.weight": 12}


# ---------------------------------------------------------------- memory that is shared


def shared(view: Callable[[Tensor], Tensor]) -> nn.Sequential:
    """Two layers, of which the second's Parameter is over the memory of the first's."""
    one, other = nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False)
    other.weight = nn.Parameter(view(one.weight.detach()))
    return nn.Sequential(one, nn.ReLU(), other)


def test_two_parameters_over_one_memory_count_once_and_are_guarded_both() -> None:
    model = shared(lambda weight: weight)
    assert prunable.prunable(model) == {"0.weight": "output"} and prunable.full(model).total == 16
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1, weight_decay=0.1)
    alive = torch.arange(16).view(4, 4) % 2 == 0
    guard = Guard(model, optimizer, Mask({"2.weight": alive}))
    for _ in range(3):
        optimizer.zero_grad()
        model(torch.randn(5, 4)).square().sum().backward()
        optimizer.step()
        guard.check()
        assert torch.equal(model.get_parameter("0.weight") != 0, alive)
    guard.release()
    small = cash.compact(shared(lambda weight: weight), Mask({"2.weight": ~torch.eye(4).bool()}), torch.zeros(2, 4))
    assert all(torch.equal(value == 0, torch.eye(4).bool()) for value in small.parameters())
    for level in Search(model, optimizer, levels=1, rate=0.5):
        optimizer.zero_grad()
        model(torch.randn(5, 4)).square().sum().backward()
        optimizer.step()
        level.check()
        assert int(model.get_parameter("2.weight").count_nonzero()) <= level.mask.alive <= level.mask.total == 16


@pytest.mark.parametrize(
    "view", [lambda weight: weight.t(), lambda weight: weight.flatten()[:8].view(2, 4)], ids=["turned", "a part"]
)
def test_a_view_into_another_weight_is_refused_with_what_to_do(view: Callable[[Tensor], Tensor]) -> None:
    model = shared(view)
    alive = Mask({"0.weight": torch.ones(4, 4, dtype=torch.bool)})
    calls = of_a_model(model, alive, torch.zeros(2, 4))
    calls |= {"Search": lambda: Search(model, sgd(model), levels=1), "full": lambda: prunable.full(model)}
    for call in calls.values():
        with pytest.raises(BadInput, match="Share the Parameter itself"):
            call()


def test_parameters_in_one_memory_that_do_not_meet_are_their_own() -> None:
    flat = torch.zeros(8)
    model = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False))
    for layer, part in zip(model, (flat[::2], flat[1::2]), strict=True):
        layer.weight = nn.Parameter(part.view(2, 2))
    assert list(prunable.full(model)) == ["0.weight", "1.weight"]


def test_views_into_memory_that_is_not_torchs_are_seen_too() -> None:
    """Each tensor made of a NumPy array has a storage of its own."""
    rows = np.ones((6, 4), np.float32)
    model = nn.Sequential(nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False))
    for layer, part in zip(model, (rows[:4], rows[2:]), strict=True):
        layer.weight = nn.Parameter(torch.from_numpy(part))
    with pytest.raises(BadInput, match=r"found a view into that of 0\.weight"):
        prunable.full(model)


def test_views_without_numbers_meet_where_their_storage_is_one() -> None:
    model = nn.Sequential(nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False))
    rows, others = torch.empty(8, 4, device="meta"), torch.empty(8, 4, device="meta")
    for one, other, meet, tied in (
        (rows[:4], rows[3:7], True, False),
        (rows[:4], rows[4:], False, False),
        (rows[4:], rows[4:], False, True),
        (rows[4:], others[4:], False, False),
    ):
        for layer, part in zip(model, (one, other), strict=True):
            layer.weight = nn.Parameter(part)
        assert bool(list(weights.overlapping(model))) == meet and bool(weights.ties(model)) == tied


@st.composite
def models(draw: st.DrawFn) -> nn.ModuleDict:
    """Layers of a few sizes, some of which share a Parameter, a memory, or a part of one."""
    layers: dict[str, nn.Linear] = {}
    for number in range(draw(st.integers(1, 4))):
        layer = nn.Linear(draw(st.integers(1, 3)), draw(st.integers(1, 3)), bias=draw(st.booleans()))
        shares = draw(st.booleans())
        if layers and shares:
            other = draw(st.sampled_from(list(layers.values()))).weight
            whole = other.detach()
            part = whole[draw(st.integers(0, len(whole) - 1)) :]
            over = draw(st.sampled_from([None, whole, whole.t(), part]))
            layer.weight = other if over is None else nn.Parameter(over)
        layers[f"layer{number}"] = layer
    return nn.ModuleDict(layers)


def belongs(alive: Mask, model: nn.Module) -> bool:
    """Whether it does, found by writing to each weight and reading the others."""
    own = dict(model.named_parameters(remove_duplicate=False))
    if not all(name in own and own[name].shape == each.shape for name, each in alive.items()):
        return False
    for name, each in alive.items():
        with torch.no_grad():
            for value in own.values():
                value.zero_()
            own[name].copy_(torch.arange(1.0, own[name].numel() + 1).view_as(own[name]))
        for other, value in own.items():
            if value.any() and not torch.equal(value, own[name]):
                return False  # a part of it, or in another order
            if value.any() and other in alive and not torch.equal(alive[other], each):
                return False
    return True


@given(st.data())
def test_a_mask_is_taken_where_it_belongs_and_nowhere_else(data: st.DataObject) -> None:
    model = data.draw(models())
    own = dict(model.named_parameters(remove_duplicate=False))
    names = data.draw(st.lists(st.sampled_from([*sorted(own), "none.weight"]), min_size=1, max_size=3, unique=True))
    layers = {}
    for name in names:
        shape = tuple(own[name].shape) if name in own else (2, 2)
        wrong = st.sampled_from([shape, shape, shape, shape[:-1], (1, *shape), tuple(1 for _ in shape)])
        seed = data.draw(st.integers(0, 1))
        layers[name] = torch.rand(data.draw(wrong), generator=torch.Generator().manual_seed(seed)) > 0.5
    alive = Mask(layers)
    try:
        taken = prunable.checked(alive, model)
    except BadInput:
        assert not belongs(alive, model)
        return
    assert belongs(alive, model)
    tied = weights.ties(model)
    assert taken == Mask({tied.get(name, name): each for name, each in alive.items()})


# ---------------------------------------------------------------- weights that are computed


class Standardised(nn.Conv2d):
    def _conv_forward(self, values: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return super()._conv_forward(values, weight - weight.mean(), bias)  # type: ignore[no-any-return]


class Binarised(nn.Linear):
    def forward(self, values: Tensor) -> Tensor:
        return functional.linear(values, torch.where(self.weight >= 0, 1.0, -1.0), self.bias)


class Equalised(nn.Linear):
    def forward(self, values: Tensor) -> Tensor:
        return functional.linear(values, weight=self.weight * 0.5)


class Padded(nn.Conv2d):
    def forward(self, values: Tensor) -> Tensor:
        return super().forward(functional.pad(values, (1, 1, 1, 1)))


class Product(nn.Linear):
    """It multiplies as `multiply` does with what it makes of its parameter."""

    def __init__(self, multiply: Callable[[Tensor, Tensor], Tensor], shift: float) -> None:
        super().__init__(4, 3, bias=False)
        self.beside = nn.Parameter(torch.ones(3, 4))
        self.multiply, self.shift = multiply, shift

    def forward(self, values: Tensor) -> Tensor:
        return self.multiply(values, self.weight + self.shift) + self.multiply(values, self.beside)


def by_operator(values: Tensor, weight: Tensor) -> Tensor:
    return values @ weight.t()


def from_the_left(values: Tensor, weight: Tensor) -> Tensor:
    return (weight @ values.t()).t()


def by_einsum(values: Tensor, weight: Tensor) -> Tensor:
    return torch.einsum("bi,oi->bo", values, weight)


def by_mm(values: Tensor, weight: Tensor) -> Tensor:
    return torch.addmm(torch.zeros(3), values, weight.t())


@pytest.mark.parametrize("multiply", [functional.linear, by_operator, from_the_left, by_einsum, by_mm])
def test_products_are_seen_however_they_are_written(multiply: Any) -> None:
    """And another parameter of the layer, of the same shape, is no weight made of this one."""
    assert effective.remade(nn.Sequential(Product(multiply, 1.0)), ["0.weight"]) == ["0.weight"]
    assert effective.remade(nn.Sequential(Product(multiply, 0.0)), ["0.weight"]) == []


def test_a_layer_that_makes_its_weight_of_its_parameter_is_warned_of() -> None:
    model = nn.Sequential(Standardised(1, 2, 3), Padded(2, 2, 3), nn.Flatten(), Equalised(8, 4), Binarised(4, 3))
    before, random = weights.of(model), torch.get_rng_state()
    assert effective.remade(model, prunable.prunable(model)) == ["0.weight", "4.weight"]
    assert weights.equal(weights.of(model), before) and torch.equal(torch.get_rng_state(), random)
    said = r"0\.weight, 4\.weight: the layer makes the weight"
    with pytest.warns(UserWarning, match=said) as found:
        Search(model, sgd(model), levels=1)
    assert found[0].filename == __file__
    alive = Mask({name: torch.rand(each.shape) > 0.5 for name, each in prunable.full(model).items()})
    with pytest.warns(UserWarning, match=said):
        cash.compact(model, alive, torch.zeros(1, 1, 4, 4))
    with warnings.catch_warnings():  # what stays dense has no density
        warnings.simplefilter("error")
        Search(model, sgd(model), levels=1, keep=["0.weight", "4.weight"])


# ---------------------------------------------------------------- writing that does not arrive


@contextmanager
def not_written(model: nn.Module, said: str) -> Iterator[None]:
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    with pytest.raises(BadInput, match=said):
        yield
    assert all(torch.equal(value, before[name]) for name, value in model.named_parameters() if not value.is_meta)


def network() -> nn.Sequential:
    return nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 2))


def cast(model: nn.Module) -> nn.Module:
    """With a hook that gives copies in half the precision."""
    model._register_state_dict_hook(
        lambda _, state, *__: state.update({name: value.bfloat16().float() for name, value in state.items()})
    )
    return model


def test_weights_that_would_not_arrive_are_refused(tmp_path: Path) -> None:
    made = Ticket.of(plain := network(), prunable.full(plain), weights.of(plain))
    cash.export.to_safetensors(plain, tmp_path / "it")
    for odd, said in ((cast(network()), "found a copy"), (network().to("meta"), "on the meta device")):
        for call in (
            lambda odd=odd: made.apply(odd),
            lambda odd=odd: made.transfer(odd),
            lambda odd=odd: cash.export.from_safetensors(odd, tmp_path / "it"),
            lambda odd=odd: cash.compact(odd, made.mask, torch.zeros(1, 3)),
            lambda odd=odd: Search(odd, sgd(odd), levels=1),
        ):
            with not_written(odd, said):
                call()
    with pytest.raises(BadInput, match="on the meta device"):
        weights.of(network().to("meta"))


def test_a_state_dict_that_names_its_tensors_otherwise_is_written_to() -> None:
    model = network()
    model._register_state_dict_hook(
        lambda _, state, *__: [state.update({f"own.{name}": state.pop(name)}) for name in list(state)] and None
    )
    weights.put(model, {name: torch.full_like(value, 3.0) for name, value in weights.of(model).items()})
    assert all(bool((value == 3).all()) for value in model.parameters())


@pytest.mark.filterwarnings("ignore:Sparse CSR")
@pytest.mark.parametrize("made", [Tensor.to_sparse, Tensor.to_sparse_csr], ids=["COO", "CSR"])
def test_a_sparse_buffer_in_the_state_is_refused_and_beside_it_put_back(made: Callable[[Tensor], Tensor]) -> None:
    class Graph(nn.Module):
        edges: Tensor

        def __init__(self, saved: bool) -> None:
            super().__init__()
            self.layer = nn.Linear(3, 2)
            self.register_buffer("edges", made(torch.eye(3)), persistent=saved)

    model = Graph(saved=True)
    alive = Mask({"layer.weight": torch.ones(2, 3, dtype=torch.bool)})
    values = {name: value.clone() for name, value in model.state_dict().items()}
    for call in (
        lambda: weights.of(model),
        lambda: weights.put(model, values),
        lambda: Ticket.of(model, alive, values),
        lambda: Search(model, sgd(model), levels=1),
    ):
        with pytest.raises(BadInput, match=r"edges of .*persistent=False"):
            call()
    model = Graph(saved=False)
    small = cash.masking.masked(model, alive)
    assert torch.equal(small.get_buffer("edges").to_dense(), torch.eye(3)) and small.edges is not model.edges
    optimizer = sgd(model)
    for _ in Search(model, optimizer, levels=1):
        assert torch.equal(model.edges.to_dense(), torch.eye(3))
        model.edges.copy_(made(2 * torch.eye(3)))
        optimizer.zero_grad()
        model.layer(model.edges @ torch.ones(3, 3)).sum().backward()
        optimizer.step()
