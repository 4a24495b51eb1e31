"""An average is what follows the weights in no optimiser's hands: teachers and twins only look like one."""

import copy
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from tombola import mask, weights
from tombola.errors import BadInput, GuardLost
from tombola.mask import Mask
from tombola.search import Search

STEPS = 6
INPUTS = torch.randn(32, 6, generator=torch.Generator().manual_seed(1))
LABELS = torch.arange(32) % 3


def network(seed: int = 7) -> Any:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 12), nn.BatchNorm1d(12), nn.ReLU(), nn.Linear(12, 3))


def momentum(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD((p for p in model.parameters() if p.requires_grad), lr=0.1, momentum=0.9)


def batch() -> tuple[Tensor, Tensor]:
    places = torch.randint(len(INPUTS), (8,))
    return INPUTS[places], LABELS[places]


def step(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


@torch.no_grad()
def follow(average: Any, model: nn.Module, by: float = 0.3) -> None:
    for left, right in zip(average, model.parameters(), strict=True):
        left.lerp_(right, by)


@pytest.mark.parametrize("k", [0, 3])
@pytest.mark.parametrize("seed", [7, 8])
def test_a_frozen_teacher_stays_whole_whatever_it_begins_with(seed: int, k: int) -> None:
    model, teacher = network(), network(seed).requires_grad_(False)
    whole = weights.of(teacher)
    optimizer = momentum(model)
    search = Search(model, optimizer, levels=1, rate=0.5, rewind=f"{k}it", also=[teacher.eval()])
    for _ in search:
        for _ in range(STEPS):
            inputs, _ = batch()
            step(optimizer, functional.mse_loss(model(inputs), teacher(inputs)))
        assert weights.equal(weights.of(teacher), whole)

    def train(level: Any) -> None:
        assert weights.equal(weights.of(teacher), whole)
        for _ in range(STEPS):
            step(optimizer, functional.mse_loss(model(batch()[0]), teacher(INPUTS[:8])))
        level.report(accuracy=0.5)

    search.verify(train, level=1, replicates=1, build=lambda: network(random.randrange(99)))
    assert weights.equal(weights.of(teacher), whole)


@pytest.mark.parametrize("k", [0, 3])
def test_a_twin_that_an_optimiser_trains_stays_whole(k: int) -> None:
    model, twin = network(), network()
    optimizer, another = momentum(model), momentum(twin)
    for _ in Search(model, optimizer, levels=1, rate=0.5, rewind=f"{k}it", also=[twin, another]):
        for _ in range(STEPS):
            inputs, labels = batch()
            step(optimizer, functional.cross_entropy(model(inputs), labels))
            step(another, functional.cross_entropy(twin(inputs), labels))
    assert all(parameter.all() for parameter in (twin[0].weight, twin[3].weight))


def part(model: nn.Sequential) -> tuple[Any, Callable[[], list[Tensor]]]:
    average: Any = copy.deepcopy(model[0])
    return average, lambda: [average.weight, average.bias]


class Named(nn.Module):
    """Latent diffusion's: buffers, in whose names are no points."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        for name, value in model.named_parameters():
            self.register_buffer(name.replace(".", ""), value.detach().clone())


class Listed:
    """torch_ema's, diffusers': the parameters in order, without names."""

    def __init__(self, model: nn.Module) -> None:
        self.shadow = [value.detach().clone() for value in model.parameters()]

    def state_dict(self) -> dict[str, Any]:
        return {"decay": 0.7, "shadow_params": self.shadow}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.shadow = [value.clone() for value in state["shadow_params"]]


def named(model: nn.Sequential) -> tuple[Any, Callable[[], list[Tensor]]]:
    average = Named(model)
    return average, lambda: list(average.buffers())


def listed(model: nn.Sequential) -> tuple[Any, Callable[[], list[Tensor]]]:
    average = Listed(model)
    return average, lambda: average.shadow


def wrapped(model: nn.Sequential) -> tuple[Any, Callable[[], list[Tensor]]]:
    average: Any = nn.ModuleDict({"ema": copy.deepcopy(model), "head": nn.Linear(3, 3)})
    return average, lambda: list(average["ema"].parameters())


def in_double(model: nn.Sequential) -> tuple[Any, Callable[[], list[Tensor]]]:
    average = copy.deepcopy(model).double()
    return average, lambda: list(average.parameters())


@pytest.mark.parametrize("k", [0, 3])
@pytest.mark.parametrize("kind", [part, named, listed, wrapped, in_double])
def test_an_average_is_held_whatever_it_is_called(kind: Any, k: int, tmp_path: Path) -> None:
    def made() -> tuple[Any, ...]:
        model = network()
        for layer in (model[0], model[3]):
            nn.init.zeros_(layer.bias)
        return model, *kind(model), momentum(model)

    model, average, held, optimizer = made()
    search = Search(
        model, optimizer, levels=2, rate=0.5, rewind=f"{k}it", also=[average], path=tmp_path / "search.safetensors"
    )

    def level_of(number: int, living: Mask) -> None:
        for place in range(STEPS):
            inputs, labels = batch()
            step(optimizer, functional.cross_entropy(model(inputs), labels))
            with torch.no_grad():
                for left, right in zip(held(), model.parameters(), strict=False):
                    left.lerp_(right.to(left), 0.3)
            if place >= k:
                own = dict(zip((name for name, _ in model.named_parameters()), held(), strict=False))
                assert all(own[name][~alive].count_nonzero() == 0 for name, alive in living.items() if name in own)
                assert own["0.weight"][living["0.weight"]].all()

    for level in search:
        if level.number == 2:
            break
        level_of(level.number, level.mask)
    model, average, held, optimizer = made()
    search = Search.resume(tmp_path / "search.safetensors", model, optimizer, also=[average])
    for level in search:
        level_of(level.number, level.mask)
        held()[0].data.fill_(1.0)
        with pytest.raises(GuardLost, match="expected 0 where it is pruned in an average too"):
            level.check()
        with torch.no_grad():
            held()[0].copy_(model[0].weight)


class Contrast(nn.Module):
    """MoCo's: the second encoder follows the first, within one model."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(5)
        self.query: Any
        self.key: Any
        self.query, self.key = (nn.Sequential(nn.Linear(6, 10), nn.ReLU(), nn.Linear(10, 4)) for _ in range(2))
        nn.init.zeros_(self.query[2].bias)
        self.key.load_state_dict(self.query.state_dict())
        self.key.requires_grad_(False)

    def forward(self, inputs: Tensor) -> Tensor:
        follow(self.key.parameters(), self.query)
        one, other = self.query(inputs), self.key(inputs + 0.1 * torch.randn_like(inputs))
        return functional.cross_entropy(one @ other.T, torch.arange(len(inputs)))


def everything(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)


@pytest.mark.parametrize("k", [0, 3])
@pytest.mark.parametrize("trained_by", [momentum, everything])  # MoCo's own script hands over what has no gradient too
def test_an_average_within_the_model_is_neither_counted_nor_left_dense(k: int, trained_by: Any, tmp_path: Path) -> None:
    model = Contrast()
    optimizer = trained_by(model)
    path = tmp_path / "search"
    search = Search(model, optimizer, levels=2, rate=0.5, rewind=f"{k}it", path=path)
    assert list(search.mask(0)) == ["query.0.weight", "query.2.weight"]
    for level in search:
        if level.number == 2:
            break
        for place in range(STEPS):
            loss = model(batch()[0])
            if place >= k:
                for name, alive in level.mask.items():
                    assert model.get_parameter(name.replace("query", "key"))[~alive].count_nonzero() == 0
            step(optimizer, loss)
        assert model.key[0].weight[level.mask["query.0.weight"]].all()
    model = Contrast()
    for level in Search.resume(path, model, optimizer := trained_by(model)):
        for _ in range(STEPS):
            step(optimizer, model(batch()[0]))
        assert model.key[0].weight[~level.mask["query.0.weight"]].count_nonzero() == 0


def test_what_is_frozen_at_first_and_trained_later_is_no_average() -> None:
    torch.manual_seed(0)
    block = nn.Linear(6, 6)
    model: Any = nn.Sequential(block, copy.deepcopy(block), nn.Linear(6, 3))
    model[0].requires_grad_(False)
    optimizer = everything(model)
    search = Search(model, optimizer, levels=1, rate=0.5)
    assert list(search.mask(0)) == ["1.weight", "2.weight"]
    for _ in search:
        for place in range(STEPS):
            model[0].requires_grad_(place > 1)
            step(optimizer, functional.cross_entropy(model(INPUTS), LABELS))
    assert model[0].weight.all()


def test_layers_that_begin_alike_are_told_apart_by_their_names() -> None:
    torch.manual_seed(0)
    block = nn.Linear(6, 6)
    model: Any = nn.Sequential(block, copy.deepcopy(block), copy.deepcopy(block))
    average: Any = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.7))
    plain, another = Listed(model), copy.deepcopy(model)
    optimizer = momentum(model)
    for level in Search(model, optimizer, levels=1, rate=0.5, also=[average, plain, another]):
        for _ in range(STEPS):
            step(optimizer, model(batch()[0]).square().mean())
            average.update_parameters(model)
            follow(plain.shadow, model)
            follow(another.parameters(), model)
            for place in range(3):
                dead = ~level.mask[f"{place}.weight"]
                for held in (average.module[place].weight, plain.shadow[2 * place], another[place].weight):
                    assert held[dead].count_nonzero() == 0 and held[~dead].all()


def test_zeros_are_nobodys_average() -> None:
    model, other = network(), nn.Linear(12, 3)
    optimizer = momentum(model)
    nn.init.zeros_(model[3].weight)
    nn.init.zeros_(other.weight)
    for _ in Search(model, optimizer, levels=1, rate=0.5, also=[other]):
        for _ in range(STEPS):
            step(optimizer, functional.cross_entropy(model(INPUTS), LABELS))
            with torch.no_grad():
                other.weight += 0.5
    assert other.weight.all()


def test_what_follows_and_began_elsewhere_is_said() -> None:
    model, average = network(), network(8)
    optimizer = momentum(model)
    with pytest.warns(UserWarning, match=r"also\[0\] \(Sequential\) has the names and shapes of the model, changed"):
        for _ in Search(model, optimizer, levels=0, also=[average]):
            step(optimizer, functional.cross_entropy(model(INPUTS), LABELS))
            follow(average.parameters(), model)


class Other(nn.Module):
    seen: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 3)
        self.register_buffer("seen", torch.zeros(()), persistent=False)


@pytest.mark.parametrize("k", [0, 3])
def test_of_a_module_in_also_all_is_rewound(k: int) -> None:
    model, other = network(), Other()
    optimizer, another = momentum(model), momentum(other)
    other.layer.bias.requires_grad_(False)
    found: list[list[Any]] = []
    for _ in Search(model, optimizer, levels=1, rewind=f"{k}it", also=[other, another]):
        found.append([])
        for place in range(STEPS):
            if place in (0, k + 1):
                found[-1].append((other.layer.training, other.layer.bias.requires_grad, float(other.seen)))
                if not place:
                    assert other.layer.weight.grad is None
            inputs, labels = batch()
            step(optimizer, functional.cross_entropy(other.layer(model(inputs)), labels))
            another.step()
            if place == 0:
                other.layer.eval()
                other.layer.bias.requires_grad_(True)
            elif place == k + 1:
                other.train()
            other.seen += 1
    assert found[0] == found[1] == [(True, False, 0.0), (False, True, k + 1.0)]


@pytest.mark.parametrize("k", [0, 3])
def test_numpys_old_generator_and_pairs_of_functions_are_rewound(k: int, tmp_path: Path) -> None:
    def made() -> Any:
        model = network()
        return model, momentum(model), np.random.RandomState(4), {"buffer": [0.5]}

    model, optimizer, generator, memory = made()
    seen: list[list[Any]] = []

    def train(level: Any) -> None:
        seen.append([])
        for _ in range(STEPS):
            seen[-1].append((generator.rand(), list(memory["buffer"])))
            memory["buffer"].append(seen[-1][-1][0])
            step(optimizer, functional.cross_entropy(model(INPUTS), LABELS))

    def also() -> list[Any]:
        return [generator, (lambda: memory["buffer"], lambda state: memory.update(buffer=state))]

    path = tmp_path / "search"
    for level in Search(model, optimizer, levels=2, rewind=f"{k}it", also=also(), path=path):
        if level.number == 2:
            break
        train(level)
    model, optimizer, generator, memory = made()
    generator.rand(5)
    for level in Search.resume(path, model, optimizer, also=also()):
        train(level)
    assert seen[0] == seen[1] == seen[2] and len({first for first, _ in seen[0]}) == STEPS


def test_what_is_no_pair_of_functions_is_refused() -> None:
    model = network()
    with pytest.raises(BadInput, match=r"found tuple. What has a state of another kind .* also=\[\(get, set\)\]"):
        Search(model, momentum(model), levels=1, also=[(1, 2)])


@pytest.mark.parametrize("k", [0, 3])
def test_a_search_may_begin_with_a_mask(k: int, tmp_path: Path) -> None:
    model, average = network(), network()
    optimizer = momentum(model)
    dead = torch.zeros(12, 6, dtype=torch.bool)
    dead[:, :3] = True
    begun = Mask({"0.weight": ~dead})
    states: list[list[dict[str, Tensor]]] = []

    def train(level: Any) -> None:
        states.append([])
        for _ in range(STEPS):
            inputs, labels = batch()
            if level.mask["0.weight"][dead].sum() == 0:  # a random control is drawn over all of a layer
                assert model[0].weight[dead].count_nonzero() == average[0].weight[dead].count_nonzero() == 0
            step(optimizer, functional.cross_entropy(model(inputs), labels))
            follow(average.parameters(), model)
            states[-1].append(weights.of(model))
        level.report(accuracy=0.5)

    path = tmp_path / "search"
    search = Search(
        model, optimizer, levels=2, rate=0.5, rewind=f"{k}it", also=[average], mask=begun, path=path, keep="output"
    )
    for level in search:
        if level.number == 2:
            break
        train(level)
    assert (
        search.mask(0) == begun
        and search.mask(1).alive == begun.alive / 2
        and Mask(mask.apply(search.mask(1), begun)) == search.mask(1)
    )
    for place in range(k - 1):
        assert weights.equal(states[0][place], states[1][place])
    model, average = network(), network()
    optimizer = momentum(model)
    search = Search.resume(path, model, optimizer, also=[average])
    for level in search:
        train(level)
    assert search.mask(0) == begun and search.mask(2).alive == begun.alive / 4
    states.clear()
    search.verify(train, level=1, replicates=1, controls=["random"])
    assert weights.equal(states[0][0], mask.apply(states[0][0], begun))  # the reference is the network under the mask


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"1.weight": (12,)}, "mask of 1.weight: expected a weight that may be pruned, found none of that name"),
        ({"0.weight": (6, 12)}, r"mask of 0.weight: .*found 0.weight \(6, 12\), which is \(12, 6\) there"),
        ({"0.weight": (6,)}, r"mask of 0.weight: .*found 0.weight \(6,\), which is \(12, 6\) there"),
    ],
)
def test_a_mask_of_another_model_is_refused(given: Any, message: str) -> None:
    model = network()
    begun = Mask({name: torch.ones(shape, dtype=torch.bool) for name, shape in given.items()})
    with pytest.raises(BadInput, match=message):
        Search(model, momentum(model), levels=1, mask=begun)
    with pytest.raises(BadInput, match="mask: expected weights that are alive, found none"):
        Search(model, momentum(model), levels=1, mask=Mask({"0.weight": torch.zeros(12, 6, dtype=torch.bool)}))


@pytest.mark.parametrize("seed", [7, 8])
def test_a_teacher_beside_a_mask_is_whole_or_refused(seed: int) -> None:
    model, teacher = network(), network(seed).requires_grad_(False).eval()
    whole = weights.of(teacher)
    optimizer = momentum(model)
    begun = Mask({"0.weight": torch.arange(72).view(12, 6) % 2 == 0})
    search = Search(model, optimizer, levels=1, also=[teacher], mask=begun, keep="output")

    def run() -> None:
        for _ in search:
            step(optimizer, (model(INPUTS) - teacher(INPUTS) - 1).square().mean())

    if seed == 7:  # as an average begins
        with pytest.raises(BadInput, match=r"also\[0\] \(Sequential\): .* stays as it is, as a teacher does"):
            run()
        assert not search.history and len(search._progress.trained) == 0
    else:
        run()
        assert weights.equal(weights.of(teacher), whole)


class Online(nn.Module):
    """A network and one that follows it, which begins with weights of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.online, self.target = network(7), network(8)

    def forward(self, values: Tensor) -> Tensor:
        wanted: Tensor = self.online(values) - self.target(values).detach()
        return wanted


def test_keep_is_not_all_the_advice_where_an_average_within_the_model_began_elsewhere() -> None:
    model = Online()
    optimizer = momentum(model.online)
    with pytest.raises(
        BadInput, match=r"keep=\['target\.\*'\]\. Or, if target follows online .* target\.load_state_dict"
    ):
        Search(model, optimizer, levels=1)
    with pytest.warns(UserWarning, match="target has the names and shapes of online, changed in level 0"):
        for _ in Search(model, optimizer, levels=0, keep="target.*"):
            step(optimizer, model(INPUTS).square().mean())
            follow(model.target.parameters(), model.online)


def test_a_frozen_part_of_the_same_shapes_is_nothing_to_speak_of() -> None:
    model = Online()
    optimizer = momentum(model.online)
    for _ in Search(model, optimizer, levels=0, keep="target.*"):
        step(optimizer, model(INPUTS).square().mean())


def test_of_two_parameters_over_one_memory_the_optimiser_may_have_either() -> None:
    model, other = network(), network(9)
    model[3].weight.data = other[3].weight.data
    both = nn.ModuleDict({"first": other, "second": model})
    optimizer = torch.optim.SGD([*other[0].parameters(), *model.parameters()], lr=0.1)
    search = Search(both, optimizer, levels=1, rate=0.5)
    for _ in search:
        step(optimizer, model(other[0](INPUTS)[:, :6]).square().mean())
    alive = search.mask(1)["first.3.weight"]
    assert alive.sum() == 18 and torch.equal(other[3].weight == 0, ~alive)
