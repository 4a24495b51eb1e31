"""A search around a loop of one's own finds what the lab finds, rewinds everything, and notices when it is escaped."""

import copy
import random
import re
import warnings
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional

from tombola import data, mask, models, prune, score, weights
from tombola.errors import BadInput, GuardLost
from tombola.lab.attempt import do
from tombola.lab.kinds import Train
from tombola.lab.plan import plan
from tombola.lab.replicate import Replicate
from tombola.lab.runs import ancestry
from tombola.lab.spec import Experiment, Spec
from tombola.lab.store import Store
from tombola.lab.worker import Worker
from tombola.optimizers import optimizer_of
from tombola.pruning import Round
from tombola.recipe import learning_rate
from tombola.score import RANDOM, Score, Scored
from tombola.scores import SCORES
from tombola.search import Level, Search
from tombola.weights import Weights

STEPS = 12
PER_EPOCH = 4


class Net(nn.Module):
    """A convolution, batch normalisation, dropout, a linear layer, and a buffer that no state_dict holds."""

    seen: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.dropout = nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.2)
        self.middle, self.output = nn.Linear(16, 8), nn.Linear(8, 3)
        self.register_buffer("seen", torch.zeros(()), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        self.seen += self.training
        hidden = self.dropout(functional.relu(self.norm(self.conv(images)))).flatten(1)
        return self.output(functional.relu(self.middle(hidden)))  # type: ignore[no-any-return]


def network() -> Net:
    torch.manual_seed(7)
    return Net()


INPUTS = torch.randn(32, 1, 4, 4, generator=torch.Generator().manual_seed(1))
LABELS = torch.arange(32) % 3


class Loop:
    """An ordinary training loop: epochs in random order, a schedule stepped after each. It notes all it does."""

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        scheduler: Any = None,
        every: int = PER_EPOCH,
        after: Callable[[], None] = lambda: None,
    ) -> None:
        self.model, self.optimizer, self.scheduler, self.every, self.after = model, optimizer, scheduler, every, after
        self.rates: list[float] = []
        self.batches: list[list[int]] = []
        self.states: list[dict[str, Tensor]] = []

    def __call__(self, steps: int = STEPS) -> None:
        self.model.train()
        self.rates, self.batches, self.states = [], [], []
        for step in range(steps):
            if step % PER_EPOCH == 0:
                order = torch.randperm(len(INPUTS)).view(PER_EPOCH, -1)
            places = order[step % PER_EPOCH]
            self.rates.append(self.optimizer.param_groups[0]["lr"])
            self.batches.append(places.tolist())
            self.optimizer.zero_grad()
            loss = functional.cross_entropy(self.model(INPUTS[places]), LABELS[places])
            loss.backward()
            self.optimizer.step()
            self.states.append(everything(self.model))
            if self.scheduler and (step + 1) % self.every == 0:
                plateau = isinstance(self.scheduler, torch.optim.lr_scheduler.ReduceLROnPlateau)
                self.scheduler.step(*([loss.detach()] if plateau else []))
            self.after()


def everything(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in [*model.named_parameters(), *model.named_buffers()]}


def momentum(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)


RECIPE: dict[str, Any] = {
    "model": "lenet-20-10",
    "data": "digits",
    "length": "40it",
    "batch": 60,
    "optimizer": {"name": "adam", "lr": 1e-2},
    "schedule": {"name": "step", "milestones": ["30it"]},
}


@pytest.mark.parametrize("model", ["lenet-20-10", "conv-2-w4"])
@pytest.mark.parametrize("scope", ["layer", "global"])
@pytest.mark.parametrize("rewind", ["0it", "20it"])
def test_the_lab_finds_the_same_tickets(model: str, scope: Any, rewind: str, tmp_path: Path) -> None:
    """Tombola's own loop in a Search, and iterative magnitude pruning as the lab plans and stores it: the same bits."""
    recipe = RECIPE | {"model": model} | ({"length": "26it"} if model.startswith("conv") else {})
    asked: dict[str, Any] = {"replicates": 1, "levels": 3, "arms": ["ticket"], "rewind": [rewind], "recipe": recipe}
    if rewind != "0it":
        asked["carry_optimizer"] = True
    spec = Spec.model_validate(asked | {"prune": {"rate": 0.4, "scope": scope, "keep": ["*2.weight"]}})
    worker = Worker(Store(tmp_path).open(), None, "reference")
    wanted = plan(Experiment(name="tiny", spec=spec))
    for run in ancestry(list(wanted.runs)):
        assert do(run, worker, lambda *seen: None) == ("stored",)
    levels = [run for run in wanted.runs if isinstance(run, Train)]
    levels = sorted({run for run in levels if run.until == spec.iterations(spec.recipe.length)}, key=alive_in(worker))

    lab = Replicate(spec, 0)
    start = worker.store.weights(lab.rewind_point())
    assert len(levels) == 4
    for replay in (True, False):
        search = searched(lab, worker, replay)
        for number, run in enumerate(levels):
            assert run.mask
            stored = worker.store.mask(run.mask)
            assert weights.equal(search.mask(number), stored)
            assert weights.equal(search.trained(number), worker.store.weights(run))
            assert weights.equal(search.ticket(number).weights, mask.apply(start, stored))


def searched(lab: Replicate, worker: Worker, replay: bool) -> Search:
    """A search with Tombola's own loop, from the lab's initial weights and seeds."""
    spec, recipe = lab.spec, lab.spec.recipe
    net = models.build(recipe.model, (1, 8, 8), 10, recipe.init, lab.seed("init"))
    net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = optimizer_of(recipe.optimizer, net)
    batches = data.Batches(worker.dataset("digits"), worker.split(recipe, lab.seed("split"))[0], 60, lab.seed("order"))
    search = Search(
        net,
        optimizer,
        levels=3,
        rate=spec.prune.rate,
        rewind=spec.rewind[0],
        scope=spec.prune.scope,
        keep=spec.prune.keep,
        replay=replay,
    )
    for level in search:
        net.train()
        for step in range(level.begin, spec.iterations(recipe.length)):
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(recipe, step, spec.facts.epoch_iterations(60))
            inputs, labels = batches(step)
            loss = functional.cross_entropy(net(inputs), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return search


def alive_in(worker: Worker) -> Callable[[Train], int]:
    return lambda run: -worker.store.mask(run.mask).alive if run.mask else 0


@pytest.mark.parametrize("k", [0, 1, 3, 4, 11, 12])
@pytest.mark.parametrize("optimizer", ["momentum", "adam"])
def test_every_level_starts_from_the_state_after_exactly_k_steps(k: int, optimizer: str) -> None:  # R1 R2 R3 R4 R6 R8
    model = network()
    chosen = momentum(model) if optimizer == "momentum" else torch.optim.Adam(model.parameters(), lr=0.01)
    search = Search(model, chosen, levels=3, rate=0.4, rewind=f"{k}it")
    loop, early = Loop(model, chosen), everything(model)
    first: list[dict[str, Tensor]] = []
    for level in search:
        if k == 0:
            assert same(everything(model), apply(early, level))
        loop()
        first = first or loop.states
        for step in range(k - 1):  # the replay: what level 0 did, to the last bit
            assert same(loop.states[step], first[step])
        if k:
            assert same(loop.states[k - 1], apply(first[k - 1], level))
        if level.number and k < STEPS:
            assert not same(loop.states[-1], first[-1])
    rewound = {name: value for name, value in (first[k - 1] if k else early).items() if name != "seen"}
    for number in range(4):
        assert weights.equal(search.ticket(number).weights, mask.apply(rewound, search.mask(number)))


def apply(state: Weights, level: Level) -> dict[str, Tensor]:
    return mask.apply(state, level.mask)


def same(left: Weights, right: Weights) -> bool:
    return weights.equal(left, right)


SCHEDULES: dict[str, tuple[Callable[[Any], Any], int]] = {
    "step, by epoch": (lambda optimizer: torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5), PER_EPOCH),
    "multi-step": (lambda optimizer: torch.optim.lr_scheduler.MultiStepLR(optimizer, [2, 6], 0.5), 1),
    "one cycle": (lambda optimizer: torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.2, total_steps=STEPS), 1),
    "cosine": (lambda optimizer: torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS), 1),
    "plateau": (lambda optimizer: torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=0), 1),
    "in sequence": (
        lambda optimizer: torch.optim.lr_scheduler.SequentialLR(
            optimizer,
            [
                torch.optim.lr_scheduler.LinearLR(optimizer, total_iters=3),
                torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (1 + step)),
            ],
            [3],
        ),
        1,
    ),
}


@pytest.mark.filterwarnings("ignore:The epoch parameter in `scheduler.step")  # SequentialLR itself, in torch 2.6
@pytest.mark.parametrize("k", [0, 2, 4, 12])
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_learning_rates_and_batches_are_those_of_level_0_at_every_step(schedule: str, k: int) -> None:  # R5 R7 R8 R12
    model = network()
    optimizer = momentum(model)
    make, every = SCHEDULES[schedule]
    scheduler = make(optimizer)
    loop = Loop(model, optimizer, scheduler, every)
    seen = []
    for _ in Search(model, optimizer, levels=2, rate=0.4, rewind=f"{k}it", scheduler=scheduler):
        loop()
        seen.append((loop.rates, loop.batches))
    if schedule == "plateau":  # it looks at losses, which differ from the rewind point on
        seen = [(rates[: k + 1], batches) for rates, batches in seen]
    assert len(set(seen[0][0])) > 1 or len(seen[0][0]) < 4
    assert seen[1] == seen[0] and seen[2] == seen[0]


@pytest.mark.parametrize("k", [0, 3])
def test_a_schedule_that_the_search_is_not_told_of_is_found_out_by_nobody_but_its_rates(k: int) -> None:
    """A scheduler made inside of the loop starts from rewound rates by itself."""
    model = network()
    optimizer = momentum(model)
    seen = []
    for _ in Search(model, optimizer, levels=1, rewind=f"{k}it"):
        loop = Loop(model, optimizer, torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5))
        loop()
        seen.append(loop.rates)
    assert seen[0] == seen[1] and seen[0][0] == 0.1


def test_the_optimiser_is_fresh_at_step_0_and_that_of_step_k_after_it() -> None:  # M4 R5 R7
    for k, expected in ((0, [12, 12, 12]), (5, [12, 12, 12])):
        model = network()
        optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
        counts = []
        for _ in Search(model, optimizer, levels=2, rewind=f"{k}it"):
            Loop(model, optimizer)()
            counts.append(int(optimizer.state[model.conv.weight]["step"]))
        assert counts == expected


def test_all_random_states_are_rewound() -> None:  # R12
    model, own = network(), torch.Generator().manual_seed(3)
    optimizer = momentum(model)
    others: list[Any] = [random.Random(4), np.random.default_rng(5), np.random.Generator(np.random.MT19937(6))]

    def draw() -> list[float]:
        drawn = [float(np.random.rand()), float(torch.rand(())), float(torch.rand((), generator=own))]
        return [random.random(), *drawn, *(float(other.random()) for other in others)]

    for k in (0, 2, 3):
        seen: list[list[list[float]]] = []
        for _ in Search(model, optimizer, levels=2, rewind=f"{k}it", also=[own, *others]):
            drawn: list[list[float]] = []
            Loop(model, optimizer, after=lambda: drawn.append(draw()))()  # noqa: B023
            seen.append(drawn)
            draw()  # what is drawn after the loop changes nothing in the next level
        assert seen[0] == seen[1] == seen[2] and seen[0][0] != seen[0][1]


def test_dropout_and_evaluation_mode_are_rewound() -> None:  # R3
    model = network()
    optimizer = momentum(model)
    for _ in Search(model, optimizer, levels=2):
        assert model.training
        Loop(model, optimizer)()
        model.eval()
    assert not model.training


def test_a_loop_that_starts_at_step_k_by_itself_needs_no_replay() -> None:
    model, whole = network(), network()
    found = []
    for net, replay in ((whole, True), (model, False)):
        torch.manual_seed(5)
        optimizer = torch.optim.Adam(net.parameters(), lr=0.01)
        scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.02, total_steps=8)
        search = Search(net, optimizer, levels=2, rate=0.4, rewind="4it", scheduler=scheduler, replay=replay)
        begins = []
        for level in search:
            Loop(net, optimizer, scheduler, every=1)(8 - level.begin)
            begins.append(level.begin)
        found.append([search.trained(number) for number in range(3)])
        assert begins == ([0, 0, 0] if replay else [0, 4, 4])
    for left, right in zip(*found, strict=True):
        assert same(left, right)


def test_counts_are_exact_and_masks_nest_by_layer() -> None:  # C1 C5 P1 P2 R11
    model = network()
    optimizer = momentum(model)
    search = Search(model, optimizer, levels=3, rate={"conv": 0.5, "out*": 0.1, "*": 0.25}, keep=())
    numbers = []
    for level in search:
        Loop(model, optimizer)()
        numbers.append(level.number)
    assert numbers == [0, 1, 2, 3]
    for number in range(3):
        before, after = search.mask(number), search.mask(number + 1)
        assert mask.Mask(mask.apply(after, before)) == after
        for name, rate in (("conv.weight", 0.5), ("middle.weight", 0.25), ("output.weight", 0.1)):
            assert after.counts[name] == before.counts[name] - prune.count(rate, before.counts[name])
    assert list(search.mask(3)) == ["conv.weight", "middle.weight", "output.weight"]
    # After the last level nothing is pruned and nothing rewound: the model is what that level has trained.
    assert same(weights.of(model), search.trained(3))
    with pytest.raises(BadInput, match="expected one from 0 to 3 whose mask is known, found 4"):
        search.mask(4)


def test_the_global_scope_prunes_all_layers_together_and_keeps_what_is_to_be_kept() -> None:  # C16 C17
    model = network()
    optimizer = momentum(model)
    search = Search(model, optimizer, levels=1, rate=0.5, scope="global", keep=["output"])
    for _ in search:
        Loop(model, optimizer)()
    trained, pruned = search.trained(0), search.mask(1)
    assert list(pruned) == ["conv.weight", "middle.weight"] and pruned.alive == pruned.total // 2
    pooled = torch.cat([trained[name].abs().flatten() for name in pruned])
    alive = torch.cat([pruned[name].flatten() for name in pruned])
    assert pooled[alive].min() > pooled[~alive].max()
    assert model.output.weight.count_nonzero() == model.output.weight.numel()


def test_a_score_of_ones_own_decides() -> None:
    def largest(scored: Scored) -> dict[str, Tensor]:
        assert scored.seed == 3
        return {name: -scored.weights[name].abs() for name in scored.mask}

    model = network()
    optimizer = momentum(model)
    search = Search(model, optimizer, levels=1, rate=0.5, score=largest, score_seed=3)
    for _ in search:
        Loop(model, optimizer)()
    for name, alive in search.mask(1).items():
        sizes = search.trained(0)[name].abs()
        assert sizes[alive].max() < sizes[~alive].min()


def test_random_scores_are_drawn_from_their_seed() -> None:
    found = []
    for seed in (0, 0, 1):
        model = network()
        optimizer = momentum(model)
        search = Search(model, optimizer, levels=1, score=score.random, score_seed=seed)
        for _ in search:
            Loop(model, optimizer)()
        found.append(search.mask(1))
    assert found[0] == found[1] != found[2]


@pytest.mark.parametrize(
    ("parts", "whole"),
    [
        ({}, Round()),
        ({"rate": 0.3, "scope": "global", "score": "random"}, Round("global", (("*", 0.3),), score=RANDOM)),
        (
            {"rate": {"conv": 0.1, "*": 0.3}, "keep": ["out*"], "prune": ["norm.weight"]},
            Round(rates=(("conv", 0.1), ("*", 0.3)), keep=("out*",), include=("norm.weight",)),
        ),
    ],
)
def test_a_round_and_its_parts_are_one_search(parts: dict[str, Any], whole: Round, tmp_path: Path) -> None:
    searches = []
    for number, options in enumerate((parts, {"round": whole})):
        model = network()
        optimizer = momentum(model)
        search = Search(model, optimizer, levels=1, path=tmp_path / str(number), **options)
        for _ in search:
            Loop(model, optimizer)()
        searches.append(search)
    assert searches[0].mask(1) == searches[1].mask(1)
    assert (tmp_path / "0").read_bytes() == (tmp_path / "1").read_bytes()


def test_a_search_of_2_of_4_goes_on_from_its_file(tmp_path: Path) -> None:
    model = network()
    optimizer = momentum(model)
    options: dict[str, Any] = {"levels": 1, "round": Round("n_of_m", n=2, m=4), "path": tmp_path / "search"}
    for level in Search(model, optimizer, **options):
        if level.number == 1:
            break
        Loop(model, optimizer)()
    resumed = Search.resume(tmp_path / "search", model, optimizer)
    assert resumed.mask(1).counts == {"conv.weight": 36, "middle.weight": 64, "output.weight": 12}
    for level in resumed:
        assert level.number == 1
        Loop(model, optimizer)()
    with pytest.raises(BadInput, match="expected a new file, or that of this search"):
        Search(model, optimizer, **options | {"round": Round("n_of_m", n=1, m=4)})
    origin = resumed.ticket(1).origin
    assert (origin["scope"], origin["n"], origin["m"]) == ("n_of_m", 2, 4) and "rate" not in origin


def test_a_score_that_leaves_a_weight_out_is_refused() -> None:
    model = network()
    optimizer = momentum(model)
    search = Search(model, optimizer, levels=1, score=lambda scored: {"conv.weight": torch.ones(2)})
    with pytest.raises(BadInput, match=r"conv.weight: expected a tensor of shape \(4, 1, 3, 3\), found \(2,\)"):
        for _ in search:
            Loop(model, optimizer)()


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        (0.5, "score: expected a function that returns a mapping from names .*, found one that returns float"),
        ({"conv.weight": 0.5}, r"score of conv.weight: expected a tensor of shape \(4, 1, 3, 3\), found float"),
    ],
)  # fmt: skip
def test_a_score_that_returns_no_tensors_by_name_is_refused(returned: Any, message: str) -> None:
    model = network()
    optimizer = momentum(model)
    search = Search(model, optimizer, levels=1, score=lambda scored: returned)
    with pytest.raises(BadInput, match=message):
        for _ in search:
            Loop(model, optimizer)()


def test_reports_are_kept_with_their_step_and_density() -> None:  # C11 C13
    model = network()
    optimizer = momentum(model)
    search = Search(model, optimizer, levels=1, rate=0.5, rewind="4it")
    for level in search:
        Loop(model, optimizer, after=lambda: level.report(accuracy=torch.tensor(0.5)))(6)  # noqa: B023
    rows = [(row.level, row.step, row.alive) for row in search.history]
    total, left = search.mask(0).alive, search.mask(1).alive
    assert rows == [(0, step, total) for step in range(1, 7)] + [(1, step, left) for step in range(4, 7)]
    assert search.history[-1].metrics == {"accuracy": 0.5} and search.history[-1].density == left / total


def test_the_ticket_is_made_of_the_rewind_weights_not_of_the_trained_ones() -> None:  # R10
    model = network()
    optimizer = momentum(model)
    start = weights.of(model)
    search = Search(model, optimizer, levels=2, rate=0.5)
    for _ in search:
        Loop(model, optimizer)()
    ticket = search.ticket(level=2)
    assert weights.equal(ticket.weights, mask.apply(start, search.mask(2)))
    assert repr(ticket).startswith("Ticket(Net, density 0.2") and ticket.origin["level"] == 2
    fresh = network()
    ticket.apply(fresh)
    assert fresh.conv.weight.count_nonzero() == search.mask(2).counts["conv.weight"]


def test_without_the_search_pruned_weights_would_have_moved() -> None:  # M8
    model = network()
    optimizer = momentum(model)
    search = Search(model, optimizer, levels=1, rate=0.5)
    for _ in search:
        Loop(model, optimizer)()
    assert model.conv.weight[~search.mask(1)["conv.weight"]].count_nonzero() == 0
    Loop(model, optimizer)()  # after the search nothing is held any more
    assert model.conv.weight[~search.mask(1)["conv.weight"]].count_nonzero() > 0
    assert not model.conv.weight._backward_hooks


def test_what_is_measured_is_the_masked_network() -> None:  # M5
    """After every step and at the end: f(x; m ⊙ theta), whatever was evaluated at the beginning of the level."""
    model = network()
    optimizer = momentum(model)
    measured = []

    def measure(level: Level) -> None:
        model.eval()
        with torch.no_grad():
            masked = functional_call(model, mask.apply(weights.of(model), level.mask), (INPUTS,))
            assert torch.equal(model(INPUTS), masked)
        model.train()
        measured.append(level.number)

    for level in Search(model, optimizer, levels=2, rate=0.5):
        Loop(model, optimizer, after=partial(measure, level))()
        measure(level)
    assert measured == [number for number in range(3) for _ in range(STEPS + 1)]


def test_living_weights_train_whatever_their_sign_or_size() -> None:  # M6
    """A weight that is negative, tiny or 0 is no pruned one, unless the mask says so."""
    model = network()
    with torch.no_grad():
        model.middle.weight[:, :4] = 0.0
        model.middle.weight[:, 4:8] = -1e-9
    optimizer = momentum(model)
    for level in Search(model, optimizer, levels=2, rate=0.3, score=score.random):
        before, alive = model.middle.weight.detach().clone(), level.mask["middle.weight"]
        Loop(model, optimizer)()
        moved = (model.middle.weight.detach() != before) & alive
        assert moved[:, :4].any() and moved[:, 4:8].any() and moved[before < -1e-6].any()


def test_momentum_of_what_is_pruned_is_0_before_the_first_step() -> None:  # M12
    model = network()
    optimizer = momentum(model)
    for level in Search(model, optimizer, levels=2, rate=0.5, rewind="4it", replay=False):
        for name, alive in level.mask.items() if level.number else ():
            buffer = optimizer.state[model.get_parameter(name)]["momentum_buffer"]
            assert not buffer[~alive].any() and buffer[alive].any()
        Loop(model, optimizer)(STEPS - level.begin)


@pytest.mark.filterwarnings("ignore:level 1. the first batch is not that of level 0")  # without a replay, it shuffles
@pytest.mark.parametrize("replay", [True, False])
def test_a_warm_up_counts_among_the_steps_of_the_rewind_point(replay: bool) -> None:  # R13
    """Rates by the table; k = 2 lies within a warm-up of 4 steps."""
    model = network()
    optimizer = momentum(model)
    warm = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / 4))
    table = [0.025, 0.05, 0.075, *[0.1] * (STEPS - 3)]
    for level in Search(model, optimizer, levels=2, rate=0.5, rewind="2it", scheduler=warm, replay=replay):
        loop = Loop(model, optimizer, warm, 1)
        loop(STEPS - level.begin)
        assert level.begin == (2 if level.number and not replay else 0)
        assert loop.rates == pytest.approx(table[level.begin :])


def another_optimizer(model: Net, optimizer: torch.optim.Optimizer) -> None:
    Loop(model, momentum(model))()


def a_copy(model: Net, optimizer: torch.optim.Optimizer) -> None:
    Loop(copy.deepcopy(model), optimizer)()


def a_weight_by_hand(model: Net, optimizer: torch.optim.Optimizer) -> None:
    with torch.no_grad():
        model.conv.weight.fill_(1.0)


def another_parameter(model: Net, optimizer: torch.optim.Optimizer) -> None:
    model.conv.weight = nn.Parameter(model.conv.weight.detach().clone())


@pytest.mark.parametrize(
    ("escape", "first", "message"),
    [
        (another_optimizer, False, "level 1: expected steps of the optimizer that the search was given, found none"),
        (a_copy, False, "level 1: expected gradients of the model's own parameters, found none in 12 steps. A loop"),
        (a_weight_by_hand, True, "conv.weight: expected every pruned weight to be 0, found"),
        (another_parameter, True, "conv.weight: expected the parameter that the search began with, found another"),
    ],
)
@pytest.mark.parametrize("told_by", ["report", "the end"])
@pytest.mark.filterwarnings("ignore:an optimizer that the search was not given")
def test_a_loop_that_escapes_is_caught(
    escape: Callable[[Net, torch.optim.Optimizer], None], first: bool, message: str, told_by: str
) -> None:  # M8 M3
    if not first and told_by == "report":
        pytest.skip("a report may come before the first step")
    model = network()
    optimizer = momentum(model)
    search = Search(model, optimizer, levels=1, rate=0.5)
    with pytest.raises(GuardLost, match=f"^{re.escape(message)}"):
        for level in search:
            if level.number == 0 or first:
                Loop(model, optimizer)()
            if level.number == 1:
                escape(model, optimizer)
                if told_by == "report":
                    level.report(accuracy=1.0)
                    pytest.fail("the report should have said so")
    with pytest.raises(BadInput, match="expected one from 0 to 0 that is finished, found 1"):
        search.trained(1)


@pytest.mark.parametrize("k", [0, 3])
def test_a_level_that_is_left_is_as_if_it_had_not_begun(k: int) -> None:
    found = []
    for breaks in (False, True):
        model = network()
        torch.manual_seed(11)
        optimizer = momentum(model)
        search = Search(model, optimizer, levels=2, rate=0.5, rewind=f"{k}it")
        for left in (0, 1, 2) if breaks else ():
            for level in search:  # to the middle of a level, and out
                Loop(model, optimizer)(STEPS if level.number < left else 6)
                if level.number == left:
                    break
            with pytest.raises(BadInput, match=r"A level is finished when the loop .* comes round again, not by"):
                search.trained(left)
            assert not model.conv.weight._backward_hooks and not optimizer._optimizer_step_pre_hooks
        for _ in search:
            Loop(model, optimizer)()
        found.append([search.trained(number) for number in range(3)])
    for straight, broken in zip(*found, strict=True):
        assert same(straight, broken)


@pytest.mark.parametrize("k", [0, 5])
def test_an_optimiser_made_anew_for_each_level_takes_the_state_of_the_first(k: int) -> None:  # R5 R7
    """As frameworks do that own the loop: they make optimiser and scheduler, then say that it begins."""
    found = []
    for anew in (False, True):
        model = network()
        made = [(optimizer := momentum(model), torch.optim.lr_scheduler.StepLR(optimizer, 2, 0.5))]
        search = Search(model, *made[0][:1], levels=2, rate=0.5, rewind=f"{k}it", scheduler=made[0][1])
        for number in range(3):
            if anew and number:
                made.append((optimizer := momentum(model), torch.optim.lr_scheduler.StepLR(optimizer, 2, 0.5)))
            level = search.begin(*made[-1]) if anew else search.begin()
            loop = Loop(model, *made[-1], every=1)
            loop()
            level.report(rate=made[-1][0].param_groups[0]["lr"])
            search.finish()
        found.append(([search.trained(number) for number in range(3)], search.history))
    assert found[0][1] == found[1][1]
    for left, right in zip(found[0][0], found[1][0], strict=True):
        assert same(left, right)
    with pytest.raises(BadInput, match="expected one of 3 levels to be left, found none"):
        search.begin()
    with pytest.raises(BadInput, match="finish: expected a level under way, found none"):
        search.finish()


def test_a_rewind_point_that_is_never_reached_is_told_at_the_end_of_level_0() -> None:  # R6
    model = network()
    optimizer = momentum(model)
    with pytest.raises(BadInput, match="level 0: expected at least 13 optimiser steps, the rewind point, found 12"):
        for _ in Search(model, optimizer, levels=1, rewind="13it"):
            Loop(model, optimizer)()


def frozen(model: Net) -> dict[str, Any]:
    model.middle.weight.requires_grad_(False)
    return {}


def left_out(model: Net) -> dict[str, Any]:
    return {"optimizer": torch.optim.SGD([model.conv.weight, model.middle.weight], lr=0.1)}


class Sam(torch.optim.Optimizer):
    """Sharpness-aware minimisation as it is mostly written: around another optimiser, whose groups it shares."""

    def __init__(self, parameters: Any) -> None:
        super().__init__(parameters, {"lr": 0.1})
        self.base_optimizer = torch.optim.SGD(self.param_groups, lr=0.1, momentum=0.9)
        self.param_groups = self.base_optimizer.param_groups

    def step(self, closure: Any = None) -> Any:
        with torch.enable_grad():
            closure()
        moved = [(p, 0.05 * p.grad) for group in self.param_groups for p in group["params"]]
        with torch.no_grad():
            for parameter, by in moved:
                parameter.add_(by)
            with torch.enable_grad():
                loss = closure()
            for parameter, by in moved:
                parameter.sub_(by)
        self.base_optimizer.step()
        return loss


def sam(model: Net) -> dict[str, Any]:
    return {"optimizer": Sam(model.parameters())}


def an_optimizer(model: Net) -> dict[str, Any]:
    return {"scheduler": momentum(model)}


def of_another(model: Net) -> dict[str, Any]:
    return {"scheduler": torch.optim.lr_scheduler.StepLR(momentum(model), 1)}


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"levels": -1}, "levels: expected a whole number, 0 or more, found -1"),
        ({"levels": "3"}, "levels: expected a whole number, 0 or more, found '3'"),
        ({"levels": 2.5}, "levels: expected a whole number, 0 or more, found 2.5"),
        ({"levels": True}, "levels: expected a whole number, 0 or more, found True"),
        ({"rate": "0.2"}, "rate: expected a number, found '0.2'"),
        ({"rate": 1.5}, "rate: expected a fraction in [0, 1], found 1.5"),
        ({"rate": {"conv": 0.2}}, "rate: expected a rate for every weight that is not in `keep`, found none for"),
        ({"rate": {"cnv": 0.2}}, "rate: expected kinds (conv, linear, output), or weights of the model (conv.weight"),
        ({"rate": {"conv": 0.2, "*": 0.2}, "scope": "global"}, "rate: expected one number in the global scope"),
        ({"scope": "chanel"}, "scope: expected one of 'layer', 'global', 'er', 'erk', 'n_of_m', 'units', 'blocks',"),
        ({"keep": ["outptu"]}, "keep: expected kinds (conv, linear, output), or weights of the model (conv.weight"),
        ({"keep": ["*"]}, "Net: expected a weight that may be pruned"),
        ({"rewind": "2 epochs"}, "rewind: expected a whole number with a unit"),
        ({"rewind": 500}, "rewind: expected a whole number with a unit"),
        ({"rewind": "2ep"}, "rewind: expected steps, or epoch_iterations beside epochs, found 2ep"),
        ({"scheduler": 3}, "scheduler: expected state_dict and load_state_dict"),
        ({"also": [3]}, "also: expected state_dict and load_state_dict, or a generator of torch, NumPy or random"),
        ({"optimizer": 3}, "optimizer: expected a torch.optim.Optimizer, found int"),
        ({"also": torch.Generator()}, "also: expected a list, found Generator. also=[it], for one."),
        ({"keep": [nn.Linear(2, 2)]}, "keep: expected names or patterns, found Linear("),
        ({"score": lambda weights, names, seed: {}},
         "score: expected a function of one argument, what it sees: model, weights, mask, batches, seed, loss"),
        ({"score": Score("snip", score.magnitude, sees_batches=True)},
         "batches: expected batches of the training set, which the score snip asks for, found none"),
        ({"score": Score("snip", score.magnitude, sees_batches=True), "batches": iter([(INPUTS, LABELS)])},
         "batches: expected what can be gone through again and again, found a list_iterator, which ends once"),
        ({"round": 0.2}, "round: expected a tombola.pruning.Round, found 0.2"),
        ({"round": Round(), "rate": 0.1, "keep": ["conv"]}, "round: expected a round, or its parts, found rate, keep"),
        ({"round": Round("n_of_m", n=2, m=4), "levels": 3}, "levels: expected 0 or 1 in the scope 'n_of_m'"),
        ({"score": "magnitud"}, f"score: expected a function, or one of {', '.join(SCORES)}, found 'magnitud'"),
        ({"rewind": "2ep", "epoch_iterations": "10"}, "epoch_iterations: expected a whole number of steps, 1 or more"),
        ({"rewind": "2ep", "epoch_iterations": 0}, "epoch_iterations: expected a whole number of steps, 1 or more"),
        ({"rewind": "2ep", "epoch_iterations": 7.5}, "epoch_iterations: expected a whole number of steps, 1 or more"),
        (sam, "optimizer: expected all of its state in its state_dict, found another optimizer in it (base_optimizer)"),
        (frozen, "optimizer: expected every weight that may be pruned among its parameters, with requires_grad, "
         "found without middle.weight"),
        (left_out, "optimizer: expected every weight that may be pruned among its parameters, with requires_grad, "
         "found without output.weight"),
        (an_optimizer, "scheduler: expected a scheduler, as of torch.optim.lr_scheduler, found an optimizer, "),
        (of_another, "scheduler: expected one of the optimizer that is given, found one of another optimizer"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused_before_anything_is_done(wrong: Any, message: str) -> None:
    model = network()
    before = weights.of(model)
    changes: dict[str, Any] = wrong(model) if callable(wrong) else wrong
    given: dict[str, Any] = {"optimizer": momentum(model), "levels": 2} | changes
    with pytest.raises(BadInput, match=f"^{re.escape(message)}"):
        Search(model, given.pop("optimizer"), **given)
    assert same(weights.of(model), before)


@pytest.mark.parametrize("k", [0, 3])
def test_an_optimiser_in_an_optimiser_is_rewound_as_one_of_also(k: int) -> None:  # M4 R5
    model = network()
    optimizer = Sam(model.parameters())
    base, groups = optimizer.base_optimizer, optimizer.param_groups
    seen: list[list[list[Tensor]]] = []
    for level in Search(model, optimizer, levels=2, rate=0.5, rewind=f"{k}it", also=[base]):
        seen.append([])
        model.train()
        for step in range(6):

            def closure() -> Tensor:
                optimizer.zero_grad()
                loss = functional.cross_entropy(model(INPUTS), LABELS)
                loss.backward()
                return loss

            moments = [base.state[p].get("momentum_buffer") for p in model.parameters()]
            seen[-1].append([torch.zeros(1) if each is None else each.clone() for each in moments])
            optimizer.step(closure)
            living = mask.apply(weights.of(model), level.mask)
            assert step < k or same(weights.of(model), living)
        assert optimizer.param_groups is groups is base.param_groups
    for level_of in seen[1:]:
        names = [name for name, _ in model.named_parameters()]
        for name, now, first in zip(names, level_of[k], seen[0][k], strict=True):
            assert (name in level.mask and k) or torch.equal(now, first)
    assert any(each.any() for each in seen[1][5])


@pytest.mark.parametrize("earlier", [True, False])
@pytest.mark.parametrize("k", [1, 3])
def test_another_optimiser_of_the_loop_is_rewound_between_the_same_steps(earlier: bool, k: int) -> None:  # R5 R6
    """Whether it steps before the search's own or after it: what it does after step k, the ticket has made it do."""
    model = network()
    optimizer, bias = momentum(model), nn.Parameter(torch.zeros(()))
    helper, holder = torch.optim.SGD([bias], lr=1.0), nn.ParameterList([bias])
    moved: list[list[float]] = []
    due: list[list[float]] = []

    def help_out() -> None:
        """It moves by as much as the model's weights sum up to."""
        before, by = float(bias.detach()), float(model.conv.weight.detach().double().abs().sum())
        helper.zero_grad()
        (bias * by).backward()
        helper.step()
        moved[-1].append(before)
        due[-1].append(-by)

    for _ in Search(model, optimizer, levels=1, rate=0.5, rewind=f"{k}it", also=[helper, holder]):
        moved.append([])
        due.append([])
        model.train()
        for _ in range(6):
            optimizer.zero_grad()
            functional.cross_entropy(model(INPUTS), LABELS).backward()
            for step in (help_out, optimizer.step) if earlier else (optimizer.step, help_out):
                step()
        moved[-1].append(float(bias.detach()))
    for places, by in zip(moved, due, strict=True):
        steps = [after - before for before, after in pairwise(places)]
        assert steps[k:] == pytest.approx(by[k:], rel=1e-5), "after step k it steps along the network that there is"
    at = k if earlier else k - 1  # so often it has stepped before the search's own takes step k + 1, or k is done
    assert moved[1][at + 1 - earlier] == pytest.approx(moved[0][at + 1 - earlier])
    assert due[0][k + 1 - earlier] != pytest.approx(due[1][k + 1 - earlier])


def test_matrices_that_stay_dense_are_told_unless_that_is_meant() -> None:  # P1
    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lstm, self.output = nn.LSTM(4, 3), nn.Linear(3, 2)

    model = Recurrent()
    with pytest.warns(UserWarning, match=r"84 weights are in no layer that can be pruned.*: lstm.weight_ih_l0, lstm"):
        Search(model, momentum(model), levels=1)
    assert Search(model, momentum(model), levels=1, keep=["lstm.*"]).mask(0).total == 6
    assert Search(model, momentum(model), levels=1, prune="lstm.*").mask(0).total == 84 + 6


def test_a_parametrised_layer_may_stay_dense() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.utils.parametrizations.weight_norm(nn.Linear(4, 2)))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    start = weights.of(model)
    for level in Search(model, optimizer, levels=1, rate=0.5, keep=["1.*"]):
        assert same(weights.of(model), mask.apply(start, level.mask))
        optimizer.zero_grad()
        model(torch.ones(2, 4)).square().sum().backward()
        optimizer.step()
    assert level.mask.counts == {"0.weight": 8}


class Expanded(nn.Module):
    def __init__(self, persistent: bool) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 2)
        self.register_buffer("seen", torch.zeros(1).expand(3), persistent=persistent)


class Talkative(nn.Linear):
    def get_extra_state(self) -> Any:
        return {"said": 1}

    def set_extra_state(self, state: Any) -> None:
        pass


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (Expanded(True), "seen of Expanded: expected a tensor that has a shape, .*, found an expanded one"),
        (Expanded(False), "seen of Expanded: expected a tensor that has a shape, .*, found an expanded one"),
        (Talkative(2, 2), "_extra_state of Talkative: expected a tensor that has a shape, .*, found dict"),
        (nn.Sequential(nn.Linear(2, 2), nn.LazyBatchNorm1d()), "1.weight of Sequential: .* found a lazy layer before"),
    ],
)
def test_a_state_that_cannot_be_put_back_is_refused(model: nn.Module, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        Search(model, torch.optim.SGD(model.parameters(), lr=0.1), levels=1)


@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.RMSprop])
def test_a_loop_that_draws_the_weights_anew_is_caught_under_any_optimiser(kind: Any) -> None:  # M8
    model = network()
    optimizer = kind(model.parameters(), lr=0.01)
    with pytest.raises(GuardLost, match="expected every pruned weight to be 0"):
        for _ in Search(model, optimizer, levels=1, rate=0.5):
            model.middle.reset_parameters()
            Loop(model, optimizer)()


def test_gradients_of_0_are_none() -> None:  # M8
    """An optimiser may step along zeros, when a copy is trained in the model's place."""
    model = network()
    optimizer = momentum(model)
    Loop(model, optimizer)(1)
    optimizer.zero_grad(set_to_none=False)
    with pytest.raises(GuardLost, match="level 0: expected gradients of the model's own parameters, found none in 12"):
        for _ in Search(model, optimizer, levels=1):
            twin = copy.deepcopy(model)
            for _ in range(STEPS):
                optimizer.zero_grad(set_to_none=False)
                twin(INPUTS).sum().backward()
                optimizer.step()


def test_parameters_that_are_added_on_the_way_are_told() -> None:
    model = network()
    optimizer = torch.optim.SGD(list(model.parameters())[:-1], lr=0.1)
    with pytest.raises(BadInput, match=r"numbers of parameters in the optimizer's groups .*: \[7\], found \[7, 1\]"):
        for level in Search(model, optimizer, levels=1):
            Loop(model, optimizer)()
            if level.number == 0:
                optimizer.add_param_group({"params": [model.output.bias]})


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"accuracy": 97.3}, r"level.report\(accuracy=...\): expected a fraction from 0 to 1, found 97.3"),
        ({"loss": torch.ones(2)}, r"level.report\(loss=...\): expected one number, found tensor"),
        ({"loss": None}, r"level.report\(loss=...\): expected one number, found None"),
    ],
)
def test_what_is_no_number_is_not_reported(wrong: Any, message: str) -> None:
    model = network()
    search = Search(model, momentum(model), levels=1)
    level = search.begin()
    with pytest.raises(BadInput, match=message):
        level.report(**wrong)
    level.report(accuracy=1.0000001, loss=float("nan"))
    assert len(search.history) == 1


def test_epochs_are_counted_in_steps() -> None:
    model = network()
    search = Search(model, momentum(model), levels=2, rewind="2ep", epoch_iterations=PER_EPOCH)
    assert repr(search) == "Search(Net, 0 of 3 levels finished, rewind 8it)"


def test_an_embedding_with_sparse_gradients_is_refused() -> None:
    model = nn.Sequential(nn.Embedding(4, 2, sparse=True), nn.Linear(2, 2))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(BadInput, match=r"0\.weight: expected dense gradients, found an embedding with sparse=True"):
        Search(model, optimizer, levels=1)
    Search(model, optimizer, levels=1, keep=["0.weight"])


def test_a_copy_of_a_model_under_way_is_a_plain_one() -> None:  # S10
    model = network()
    optimizer = momentum(model)
    for level in Search(model, optimizer, levels=1, rate=0.5):
        Loop(model, optimizer)()
        if level.number:
            twin = copy.deepcopy(model)
            assert same(weights.of(twin), weights.of(model)) and not twin.conv.weight._backward_hooks


def test_tied_weights_are_pruned_once() -> None:  # P7
    model = nn.Sequential(nn.Linear(4, 4, bias=False), nn.ReLU(), nn.Linear(4, 4, bias=False))
    model[2].weight = model[0].weight
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    search = Search(model, optimizer, levels=1, rate=0.5)
    for _ in search:
        optimizer.zero_grad()
        model(torch.ones(2, 4)).square().sum().backward()
        optimizer.step()
    assert list(search.mask(1)) == ["0.weight"] and search.mask(1).alive == 8
    assert int(search.trained(1)["2.weight"].count_nonzero()) == 8


@pytest.mark.filterwarnings("ignore:All 4 levels of search.safetensors are finished")  # which the page goes on with
def test_the_python_of_the_page_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    page = Path(__file__).parents[1] / "docs" / "own-loop.md"
    torch.manual_seed(0)
    names: dict[str, Any] = {}
    for example in re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL):
        exec(example, names)
    said = capsys.readouterr().out
    assert re.findall(r"level (\d)  density (\d.\d\d)", said) == [
        ("0", "1.00"),
        ("1", "0.63"),
        ("2", "0.40"),
        ("3", "0.26"),
    ]
    assert all(float(found) > 0.9 for found in re.findall(r"accuracy (0\.\d+)\n", said))
    assert "this is about this ticket, not about others" in said
    assert (tmp_path / "ticket.safetensors").exists() and len(names["search"].history) == 24


def test_groups_that_somebody_holds_stay_the_optimisers() -> None:  # R5
    model = network()
    optimizer = momentum(model)
    group, seen = optimizer.param_groups[0], []
    for _ in Search(model, optimizer, levels=1, rewind="2it"):
        for step in range(4):
            group["lr"] = 0.1 / (step + 1)
            Loop(model, optimizer)(1)
            seen.append(optimizer.param_groups[0]["lr"])
    assert seen[:4] == seen[4:] and optimizer.param_groups[0] is group


@pytest.mark.parametrize("name", ["conv.weight", "conv.bias"])
def test_what_is_frozen_on_the_way_is_free_again_at_the_start(name: str) -> None:  # R3
    model = network()
    optimizer = momentum(model)
    for _ in Search(model, optimizer, levels=1):
        assert model.get_parameter(name).requires_grad
        Loop(model, optimizer)(2)
        model.get_parameter(name).requires_grad_(False)
        Loop(model, optimizer)(2)


def test_a_level_that_cannot_begin_leaves_no_hooks() -> None:
    class Refusing(dict[str, Any]):
        """An average that takes no masked state."""

        loads = 0

        def state_dict(self) -> dict[str, Any]:
            return dict(self)

        def load_state_dict(self, state: Any) -> None:
            self.loads += 1
            if any(not value.all() for value in state.values()):
                raise ZeroDivisionError

    model = network()
    optimizer = momentum(model)
    average = Refusing({name: value.detach().abs() + 1 for name, value in model.named_parameters()})
    with pytest.raises(ZeroDivisionError):
        for _ in Search(model, optimizer, levels=1, also=[average]):
            Loop(model, optimizer)()
            average.update({name: value + 1 for name, value in average.items()})
    assert not optimizer._optimizer_step_pre_hooks and not optimizer._optimizer_step_post_hooks
    assert not optimizer._optimizer_load_state_dict_post_hooks and not model.conv.weight._backward_hooks


def test_a_buffer_that_comes_later_is_named() -> None:
    model = network()
    optimizer = momentum(model)
    with pytest.raises(BadInput, match=r"expected the buffers that it began the search with: \{'seen': \(\)\}, found"):
        for _ in Search(model, optimizer, levels=1):
            Loop(model, optimizer)()
            model.register_buffer("late", torch.zeros(2), persistent=False)


def test_a_model_that_moves_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    model = network()
    optimizer = momentum(model)
    with pytest.raises(BadInput, match=r"expected the GPUs that it began the search with: \[\], found \['cuda:0'\]"):
        for _ in Search(model, optimizer, levels=1):
            Loop(model, optimizer)()
            monkeypatch.setattr("tombola.search.state.Loop._gpus", lambda self: ["cuda:0"])


def test_a_score_may_work_in_place_and_is_asked_of_what_lives() -> None:
    model = network()
    optimizer = momentum(model)

    def change(scored: Scored) -> dict[str, Tensor]:
        state = scored.weights
        return {name: state[name].abs_() / (state[name] != 0) for name in scored.mask}  # 0 / 0 where it is pruned

    search = Search(model, optimizer, levels=2, rate=0.5, score=change)
    for level in search:
        Loop(model, optimizer)()
        if level.number == 1:
            kept = weights.of(model)
    assert weights.equal(search.trained(1), kept)
    with pytest.raises(BadInput, match=r"score of conv\.weight: expected a finite number for each living weight"):
        for _ in Search(
            model, optimizer, levels=1, score=lambda scored: {n: scored.weights[n] / 0 for n in scored.mask}
        ):
            Loop(model, optimizer)()


def test_a_report_after_its_level_is_refused() -> None:
    model = network()
    optimizer = momentum(model)
    (level,) = [(level, Loop(model, optimizer)())[0] for level in Search(model, optimizer, levels=0)]
    with pytest.raises(BadInput, match=r"level\.report: expected the level to be under way, found level 0"):
        level.report(accuracy=0.9)


def test_one_name_is_a_list_of_one() -> None:
    model = network()
    assert "output.weight" not in Search(model, momentum(model), levels=1, keep="output").mask(0)


@pytest.mark.parametrize(
    ("layer", "found"),
    [(nn.LazyLinear(3), "a lazy layer"), (nn.utils.parametrizations.weight_norm(nn.Linear(3, 3)), "a parametrisation")],
)
def test_weights_that_are_no_parameters_are_refused(layer: nn.Module, found: str) -> None:
    model = nn.Sequential(nn.Linear(3, 3), layer)
    with pytest.raises(BadInput, match=f"1.weight of Sequential: expected a .*found {found}"):
        Search(model, momentum(model), levels=1)


def test_a_scheduler_that_is_not_handed_in_is_missed() -> None:  # R5
    model = nn.Linear(4, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 10)
    with pytest.raises(BadInput, match="found none, though one has been made for it"):
        Search(model, optimizer, levels=1)
    for given in (scheduler, [scheduler], []):
        Search(model, optimizer, levels=1, scheduler=given)


def test_an_optimizer_of_another_model_is_called_that() -> None:
    optimizer = torch.optim.SGD(nn.Linear(4, 2).parameters(), lr=0.1)
    with pytest.raises(BadInput, match="found those of another one"):
        Search(nn.Linear(4, 2), optimizer, levels=1)


@pytest.mark.parametrize(("lengths", "warned"), [((6, 3, 12), []), ((6, 2), [1]), ((2, 5, 2), [1]), ((9, 9, 1), [2])])
def test_levels_of_other_lengths_are_warned_of(lengths: tuple[int, ...], warned: list[int], tmp_path: Path) -> None:
    path, said = tmp_path / "search", list[str]()
    for at in range(len(lengths)):  # as if interrupted after each level: what level 0 took is in the file
        model = nn.Linear(8, 4)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        search = Search.resume(path, model, optimizer) if at else Search(model, optimizer, levels=2, path=path)
        level = search.begin()
        with warnings.catch_warnings(record=True) as found:
            warnings.simplefilter("always")
            for _ in range(lengths[level.number]):
                optimizer.zero_grad()
                model(torch.randn(3, 8)).square().mean().backward()
                optimizer.step()
            search.finish()
        said += [str(each.message) for each in found]
    assert [one.partition(" ended")[0] for one in said] == [f"level {level}" for level in warned]


def test_a_layer_in_which_nothing_is_alive_any_more_is_warned_of_once() -> None:
    model = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    search = Search(model, optimizer, levels=3, rate={"0.*": 1.0, "*": 0.2})
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        for _ in search:
            optimizer.zero_grad()
            model(torch.randn(3, 4)).square().mean().backward()
            optimizer.step()
    assert all(each.filename == __file__ for each in found)
    assert [str(each.message) for each in found] == [
        "level 1: nothing is alive any more in 0.weight. Lower the rate, or stop here."
    ]


def test_gradients_of_before_the_search_are_in_no_level() -> None:  # R7
    """As in a loop that zeroes them after each step, and not before it."""
    model = nn.Linear(4, 3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model(torch.ones(2, 4)).sum().backward()
    search = Search(model, optimizer, levels=1, rate=0.0)
    for _ in search:
        for _ in range(3):
            model(torch.randn(5, 4)).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()
    assert weights.equal(search.trained(0), search.trained(1))


@pytest.mark.parametrize("replay", [True, False])
def test_a_loop_that_keeps_its_best_weights_asks_whether_they_are_the_levels(replay: bool) -> None:
    model = network()
    optimizer = momentum(model)
    for level in Search(model, optimizer, levels=1, rate=0.5, rewind="3it", replay=replay):
        loop, held, best = Loop(model, optimizer), [], None
        for _ in range(level.begin, 6):
            loop(1)
            held.append(level.held)
            best = best or (weights.of(model) if level.held else None)
        assert held == ([False, False, True, True, True, True] if level.number and replay else [True] * len(held))
        assert best
        weights.put(model, best)
        level.report(accuracy=0.5)
    search = Search(model, optimizer, levels=1, rate=0.5, rewind="3it")
    with pytest.raises(
        GuardLost, match=r"found a dense network's: \d+ of \d+ are not. The loop has loaded weights from"
    ):
        for _ in search:
            loop = Loop(model, optimizer)
            loop(1)
            best = weights.of(model)
            loop(5)
            weights.put(model, best)


class Annealed(nn.Module):
    """Three numbers that a forward pass changes, and one that it keeps."""

    kept = 2.0

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 2)
        self.temperature, self.calls, self.ready = 1.0, 0, False
        self.mean = torch.zeros(4)
        self.set_by_the_loop = 0
        self.width = 4

    def forward(self, inputs: Tensor) -> Tensor:
        self.temperature *= 0.9
        self.calls += 1
        self.ready = True
        self.set_by_the_loop += 1
        self.mean = 0.9 * self.mean + 0.1 * inputs.mean(0)
        self.last = inputs
        outputs: Tensor = self.layer(inputs) / self.temperature
        return outputs


@pytest.mark.parametrize(("k", "replay"), [(0, True), (2, True), (2, False)])
def test_numbers_in_modules_that_nobody_registered_are_warned_of(k: int, replay: bool) -> None:
    torch.manual_seed(0)
    model = Annealed()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    calls = (lambda: model.calls, lambda calls: setattr(model, "calls", calls))
    also = [calls] if replay else []
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        for level in Search(model, optimizer, levels=2, rewind=f"{k}it", also=also, replay=replay):
            model.set_by_the_loop = level.begin
            for _ in range(level.begin, 4):
                optimizer.zero_grad()
                model(torch.randn(3, 4)).square().mean().backward()
                optimizer.step()
    said = [str(warning.message).split(" is not what it was")[0] for warning in found]
    expected = ["temperature", "ready", "mean"] if replay else ["temperature", "calls", "mean", "last"]
    assert said == [f"level 1: {name} of Annealed" for name in expected]


class Stored(nn.Module):
    """Numbers in containers, and one that the first forward pass makes."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 2)
        self.scale, self.several = {"scale": 1.0, "width": 4}, [(torch.zeros(4), 3)]
        self.losses: list[float] = []

    def forward(self, inputs: Tensor) -> Tensor:
        self.scale["scale"] *= 0.9
        self.several[0][0].add_(inputs.mean(0))
        self.made = getattr(self, "made", 1.0) * 0.9
        self.losses.append(0.5)
        outputs: Tensor = self.layer(inputs) * self.scale["scale"] * self.made
        return outputs


def test_numbers_in_containers_and_numbers_made_on_the_way_are_warned_of() -> None:
    torch.manual_seed(0)
    model = Stored()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        for _ in Search(model, optimizer, levels=2):
            optimizer.zero_grad()
            model(torch.randn(3, 4)).square().mean().backward()
            optimizer.step()
    said = [str(warning.message).split(" is not what it was")[0] for warning in found]
    assert said == ["level 1: scale['scale'] of Stored", "level 1: several[0][0] of Stored", "level 2: made of Stored"]


def loaded(seed: int, model: nn.Module, optimizer: torch.optim.Optimizer, generator: torch.Generator) -> None:
    dataset = torch.utils.data.TensorDataset(torch.randn(24, 4, generator=torch.Generator().manual_seed(seed)))
    for (inputs,) in torch.utils.data.DataLoader(dataset, batch_size=6, shuffle=True, generator=generator):
        optimizer.zero_grad()
        model(inputs).square().mean().backward()
        optimizer.step()


@pytest.mark.parametrize("k", [0, 2])
@pytest.mark.parametrize("rewound", [True, False])
def test_a_loaders_generator_that_is_not_rewound_is_warned_of(rewound: bool, k: int) -> None:
    torch.manual_seed(0)
    model, generator = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2)), torch.Generator().manual_seed(3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    search = Search(model, optimizer, levels=2, rewind=f"{k}it", also=[generator] if rewound else [])
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        for _ in search:
            loaded(0, model, optimizer, generator)
    said = [str(each.message).split(".")[0] for each in found]
    assert said == ([] if rewound else ["level 1: the first batch is not that of level 0"])


def test_a_look_leaves_nothing_in_copies_and_files(tmp_path: Path) -> None:
    model = nn.Linear(4, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in Search(model, optimizer, levels=1):
        torch.save(model, tmp_path / "model.pt")
        for each in (copy.deepcopy(model), torch.load(tmp_path / "model.pt", weights_only=False)):
            each(torch.ones(1, 4))
        model(torch.ones(1, 4)).sum().backward()
        assert not model._forward_pre_hooks
        optimizer.step()


@pytest.mark.parametrize("held", [
    float("nan"), np.array([np.nan]), torch.empty(2, device="meta"), torch.tensor([True]), 10**40,
    torch.ones(2).to(torch.float8_e4m3fn), torch.ones(2, dtype=torch.uint16), torch.ones(2, dtype=torch.complex64),
])  # fmt: skip
def test_what_a_module_holds_may_be_of_any_type(held: Any) -> None:
    model = nn.Linear(3, 2)
    model.held = held
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in Search(model, optimizer, levels=1):  # without a warning
        model(torch.ones(2, 3)).square().sum().backward()
        optimizer.step()
