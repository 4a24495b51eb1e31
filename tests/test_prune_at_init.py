"""A model of one's own is pruned before it is trained: to an exact count, by any score, and stays as it is."""

import re
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from tombola import prunable, prune_at_init, saliency, weights
from tombola.errors import BadInput
from tombola.lab.attempt import do
from tombola.lab.kinds import Init, Prune
from tombola.lab.replicate import Replicate
from tombola.lab.runs import ancestry
from tombola.lab.spec import Spec
from tombola.lab.store import Store
from tombola.lab.worker import Worker
from tombola.methods import METHODS
from tombola.score import Scored
from tombola.scores import SCORES
from tombola.search import Search

BATCHES = [
    (torch.rand(6, 8, generator=torch.Generator().manual_seed(batch)), torch.arange(6) % 3) for batch in range(2)
]
AT_ONCE = ("snip", "iterative-snip", "force", "grasp", "synflow", "prospr", "magnitude-init", "random-erk")


def network(width: int = 10, depth: int = 2) -> nn.Sequential:
    torch.manual_seed(0)
    hidden = [part for _ in range(depth - 1) for part in (nn.Linear(width, width), nn.ReLU())]
    return nn.Sequential(nn.Linear(8, width), nn.BatchNorm1d(width), nn.ReLU(), *hidden, nn.Linear(width, 3))


@pytest.mark.parametrize(
    "score", sorted(name for name, each in SCORES.items() if not (each.of_gaussian or each.of_channels))
)
@pytest.mark.parametrize("how", [{}, {"scope": "layer"}, {"iterations": 5}, {"iterations": 5, "returning": True}])
def test_so_many_weights_are_left_and_the_model_is_as_it_was(score: str, how: dict[str, Any]) -> None:
    model = network().eval()
    weight, other = model.get_parameter("0.weight"), model.get_parameter("5.weight")
    weight.grad = torch.ones_like(weight)
    before = weights.of(model)
    torch.manual_seed(3)
    living = prune_at_init(model, score, 0.3, BATCHES, **how)
    drawn = torch.rand(1)
    torch.manual_seed(3)
    assert torch.equal(drawn, torch.rand(1))
    assert living.total == 210 and living.alive == 63 and list(living) == list(prunable.full(model))
    if how.get("scope") == "layer":
        assert list(living.counts.values()) == [24, 30, 9]
    assert weights.equal(weights.of(model), before) and not any(module.training for module in model.modules())
    assert bool((weight.grad == 1).all()) and other.grad is None
    assert living == prune_at_init(model, score, 0.3, BATCHES, **how)


@pytest.mark.parametrize("name", AT_ONCE)
@pytest.mark.parametrize("density", [0.3, 0.02])
def test_a_method_of_a_spec_makes_the_same_mask(
    name: str, density: float, tmp_path_factory: pytest.TempPathFactory
) -> None:
    recipe = {
        "model": "lenet-20-10",
        "data": "digits",
        "length": "4it",
        "batch": 60,
        "optimizer": {"name": "sgd", "lr": 0.1},
    }
    spec = Spec.model_validate(
        {"densities": [density], "replicates": 1, "method": name, "recipe": recipe, "prune": {"rate": 0.99}}
    )  # fmt: skip
    replicate, worker = (
        Replicate(spec, 0),
        Worker(Store(tmp_path_factory.mktemp("store") / "store").open(), None, "reference"),
    )
    _, ticket = METHODS[name].search(replicate, 1)
    start, made = ticket.start, ticket.mask
    assert isinstance(start, Init) and isinstance(made, Prune)
    for run in ancestry([made]):
        do(run, worker, lambda *seen: None)
    model = start.network.build()
    weights.put(model, worker.store.weights(start))
    how: dict[str, Any] = {
        part: value
        for part, value in (("scope", made.scope), ("iterations", made.iterations), ("returning", made.returning))
        if value
    }
    seen = made.sample.batches(worker) if made.sample else None
    assert prune_at_init(model, made.score, density, seen, seed=made.score_seed, **how) == worker.store.mask(made)


def test_force_is_a_loop_of_snip_on_the_sparse_network() -> None:
    """By hand: the gradient at m ⊙ theta times the dense weights, among all of them, 5 times."""
    model = network()
    dense = {name: each.detach().clone() for name, each in model.named_parameters()}
    full = prunable.full(model)
    alive, ever = {name: each.float() for name, each in full.items()}, []
    for step in range(1, 6):
        copy = network()
        for name, parameter in copy.named_parameters():
            parameter.data = dense[name] * alive.get(name, torch.ones(()))
        for inputs, labels in BATCHES:
            functional.cross_entropy(copy(inputs), labels).backward()
        scores = {name: (copy.get_parameter(name).grad * dense[name]).abs() for name in full}  # type: ignore[operator]
        left = 42 if step == 5 else int(210 * 0.2 ** (step / 5) + 0.5)
        lowest = torch.cat([each.flatten() for each in scores.values()]).sort(descending=True).values[left - 1]
        alive = {name: (each >= lowest).float() for name, each in scores.items()}
        ever.append({name: each.bool() for name, each in alive.items()})
    found = prune_at_init(model, "snip", 0.2, BATCHES, iterations=5, returning=True)
    assert all(torch.equal(found[name], alive[name].bool()) for name in full)
    came_back = [(later[name] & ~earlier[name]).any() for earlier, later in pairwise(ever) for name in full]
    assert any(came_back)


def test_synflow_in_many_steps_cuts_no_layer_off_where_one_step_does() -> None:
    model = network(width=40, depth=6)
    once, slowly = (prune_at_init(model, "synflow", 0.01, BATCHES, iterations=steps) for steps in (1, 100))
    assert min(slowly.counts.values()) > 0 == min(once.counts.values())
    assert once.alive == slowly.alive


def test_a_search_trains_under_the_mask() -> None:
    model = network()
    living = prune_at_init(model, saliency.snip, 0.2, BATCHES)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    search = Search(model, optimizer, levels=0, mask=living)
    for _ in search:
        for inputs, labels in BATCHES:
            optimizer.zero_grad()
            functional.cross_entropy(model(inputs), labels).backward()
            optimizer.step()
    assert all(not bool(model.get_parameter(name)[~alive].any()) for name, alive in living.items())
    assert search.mask(0) == living


def searched(score: Any, steps: int, **options: Any) -> tuple[Search, nn.Module]:
    """A search whose loop takes so many steps, and its model as it was at the beginning."""
    model, beginning = network(), network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    search = Search(model, optimizer, score=score, **{"batches": BATCHES} | options)
    for _ in search:
        for step in range(steps):
            inputs, labels = BATCHES[step % 2]
            optimizer.zero_grad()
            functional.cross_entropy(model(inputs), labels).backward()
            optimizer.step()
    return search, beginning


@pytest.mark.parametrize("score", ["magnitude", "snip", "grasp", "synflow", "prospr", "large-init"])
def test_a_search_prunes_at_initialisation(score: str) -> None:
    """The same mask, with the dense network beside it as level 0, however long that was trained."""
    for steps in (3, 4):
        search, beginning = searched(score, steps, levels=1, rate=0.7, scope="global", score_at="rewind")
        assert search.mask(1) == prune_at_init(beginning, score, 0.3, BATCHES)
        assert search.mask(0).density == 1
    after, _ = searched(score, 4, levels=1, rate=0.7, scope="global")
    assert (after.mask(1) == search.mask(1)) == (score == "large-init")


@pytest.mark.parametrize("score", ["snip", "synflow", "magnitude"])
def test_a_search_prunes_at_step_k(score: str) -> None:
    """By the weights and running statistics of step k under the level's mask, in a second round too."""
    search, beginning = searched(score, 6, levels=2, rate=0.4, scope="global", rewind="3it", score_at="rewind")
    early = network()
    weights.put(early, search._rewinding().moment.left["weights"])
    assert not weights.equal(weights.of(early), weights.of(beginning))
    first = prune_at_init(early, score, 0.6, BATCHES)
    assert search.mask(1) == first and search.mask(2).alive == first.alive - int(0.4 * first.alive + 0.5)
    if score == "snip":
        weights.put(early, search.ticket(1).weights)
        values = saliency.snip(Scored(early, weights.of(early), first, BATCHES))
        gone = torch.cat([values[name][first[name] & ~alive] for name, alive in search.mask(2).items()])
        kept = torch.cat([values[name][alive] for name, alive in search.mask(2).items()])
        assert gone.max() <= kept.min()


def test_at_step_k_a_weight_has_moved_since_the_beginning() -> None:
    search, beginning = searched("movement", 6, levels=1, rate=0.4, scope="global", rewind="3it", score_at="rewind")
    before, after = weights.of(beginning), search.ticket(0).weights
    moved = {name: (after[name] - before[name]).abs() for name in search.mask(0)}
    least = torch.cat([each.flatten() for each in moved.values()]).sort().values[84]
    assert all(torch.equal(alive, moved[name] >= least) for name, alive in search.mask(1).items())


def test_without_batches_a_score_is_shown_the_early_network_too() -> None:
    def of_the_model(scored: Scored) -> dict[str, Tensor]:
        return {name: scored.model.get_parameter(name).detach().abs() for name in scored.mask}

    how: dict[str, Any] = {"levels": 1, "rate": 0.7, "scope": "global", "score_at": "rewind", "batches": None}
    search, beginning = searched(of_the_model, 3, **how)
    assert search.mask(1) == prune_at_init(beginning, "magnitude", 0.3)


def test_when_a_score_sees_the_network_is_kept_and_checked(tmp_path: Path) -> None:
    path = tmp_path / "search.safetensors"
    search, _ = searched("snip", 2, levels=1, rate=0.7, score_at="rewind", path=path)
    model = network()
    again = Search.resume(path, model, torch.optim.SGD(model.parameters(), 0.1, 0.9), score="snip", batches=BATCHES)
    assert again.mask(1) == search.mask(1) and again._options.score_at == "rewind"
    with pytest.raises(BadInput, match="score_at: expected 'end' or 'rewind', found 'start'"):
        searched("snip", 1, levels=1, score_at="start")


def test_what_is_named_stays_dense_and_a_loss_may_be_of_anything() -> None:
    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.scale = network(), nn.Parameter(torch.ones(4, 4))

        def forward(self, named: dict[str, Tensor]) -> dict[str, Tensor]:
            return {"out": self.inner(named["pixels"]) * self.scale.sum()}

    def loss(model: nn.Module, batch: Any) -> Tensor:
        squared: Tensor = model(batch)["out"].square()
        return squared.mean()

    batches = [{"pixels": inputs} for inputs, _ in BATCHES]
    living = prune_at_init(Named(), "snip", 0.5, batches, loss=loss, keep="output", prune="scale")
    assert set(living) == {"inner.0.weight", "inner.3.weight", "scale"}
    assert living.total == 196 and living.alive == 98


def unsure() -> Iterator[Any]:
    yield from BATCHES


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"density": 0}, "density: expected a fraction in (0, 1], found 0. 0.05 leaves a twentieth of the weights."),
        ({"density": True}, "density: expected a fraction in (0, 1], found True."),
        ({"iterations": 0}, "iterations: expected a whole number, 1 or more, found 0."),
        ({"scope": "n_of_m"}, "expected n of m"),
        ({"scope": "channel"}, "scope: expected one of"),
        ({"score": "snap"}, "score: expected a function, or one of magnitude"),
        (
            {"batches": None},
            "batches: expected batches of the training set, which the score snip asks for, found none.",
        ),
        ({"batches": unsure()}, "batches: expected what can be gone through again and again, found a generator"),
        ({"batches": BATCHES[0]}, "batches: expected (inputs, labels) in each batch, found a tensor of shape (6, 8)."),
        ({"batches": BATCHES[0][0]}, "batches: expected (inputs, labels) in each batch, found a tensor of shape (8,)."),
        ({"batches": []}, "batches: expected at least one batch of the training set"),
        ({"keep": "conv"}, "keep: expected kinds"),
        ({"keep": "*"}, "expected a weight that may be pruned"),
    ],
)
def test_what_does_not_fit_is_refused(given: dict[str, Any], message: str) -> None:
    asked: dict[str, Any] = {"score": "snip", "density": 0.5, "batches": BATCHES} | given
    score, density = asked.pop("score"), asked.pop("density")
    with pytest.raises(BadInput, match=re.escape(message)):
        prune_at_init(network(), score, density, **asked)


def test_a_score_of_ones_own_sees_the_model_as_it_is() -> None:
    model, seen = network(), []

    def mine(scored: Scored) -> dict[str, Tensor]:
        seen.append((scored.model is not model, scored.model.training, len(list(scored.batches))))
        assert scored.initial is not None
        return {name: scored.initial[name].abs() for name in scored.mask}

    living = prune_at_init(model.eval(), mine, 0.5, BATCHES)
    assert living == prune_at_init(model, "magnitude", 0.5) and seen == [(True, True, 2)]


def test_a_density_that_leaves_nothing_is_refused() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.Linear(8, 2))
    with pytest.raises(BadInput, match="a density at which a weight is left of 80"):
        prune_at_init(model, "random", 1e-6)
