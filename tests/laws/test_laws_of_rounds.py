"""A spec's [prune] table and a Search's arguments are two ways to write one round: they make the same masks."""

import random
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from tombola import mask_codec, prunable, weights
from tombola.lab.attempt import do
from tombola.lab.kinds import Init, Prune, Train
from tombola.lab.plan import plan
from tombola.lab.replicate import Replicate
from tombola.lab.runs import ancestry
from tombola.lab.spec import Experiment, Spec
from tombola.lab.spec_checks import contradictions
from tombola.lab.store import Store
from tombola.lab.worker import Worker
from tombola.mask import Mask
from tombola.objective import Objective
from tombola.pruning import SCOPES, Round
from tombola.recipe import Recipe
from tombola.score import Score, Scored
from tombola.scores import SCORES
from tombola.search import Search

RECIPE: dict[str, Any] = {
    "model": "resnet-20-w2",
    "data": "digits",
    "length": "4it",
    "batch": 60,
    "optimizer": {"name": "sgd", "lr": 0.1},
}
ENTRIES = ("conv", "output", "*.conv1.weight", "*.shortcut.*", "blocks.*", "linear")


def snip(scored: Scored) -> dict[str, Tensor]:
    """|g * theta| of one batch (SNIP, Lee, Ajanthan & Torr, 2019)."""
    named = dict(scored.model.named_parameters())
    batch = next(iter(scored.batches))
    gradients = torch.autograd.grad(scored.loss(scored.model, batch), [named[name] for name in scored.mask])
    return {name: (g * named[name]).abs() for name, g in zip(scored.mask, gradients, strict=True)}


SNIP = Score("snip", snip, "|g * theta|: how much the loss would miss a weight", "SNIP (Lee et al.)", 2019, True)


@pytest.fixture(scope="module")
def worker(tmp_path_factory: pytest.TempPathFactory) -> Worker:
    return Worker(Store(tmp_path_factory.mktemp("store") / "store").open(), None, "reference")


def spec_of(prune: dict[str, Any], model: str = "resnet-20-w2", **changes: Any) -> Spec:
    values = {"levels": 1, "replicates": 1, "arms": ["ticket"], "recipe": RECIPE | {"model": model}, "prune": prune}
    return Spec.model_validate(values | changes)


def dense(spec: Spec) -> Train:
    return next(iter(plan(Experiment(name="tiny", spec=spec)).rows)).run


def by_lab(spec: Spec, worker: Worker, trained: Init | None = None) -> Mask:
    """What one round of the spec leaves of its initial weights, or of others that they are taken to have become."""
    replicate = Replicate(spec, 0)
    start = replicate.rewind_point()
    made = replicate.prune(dense(spec), replicate.full_mask)
    at_once = Prune(**{name: getattr(made, name) for name in made.names} | {"trained": trained or start})
    for run in ancestry([start, at_once]):
        if not worker.store.has(run):
            do(run, worker, lambda *seen: None)
    return worker.store.mask(at_once)


def by_search(spec: Spec, worker: Worker, trained: Init | None = None, **options: Any) -> Mask:
    """What one round of a Search leaves of the same weights, in a loop that changes nothing but to the others."""
    start = Replicate(spec, 0).rewind_point()
    assert isinstance(start, Init)
    model = start.network.build()
    weights.put(model, worker.store.weights(start))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    search = Search(model.train(), optimizer, levels=1, score_seed=Replicate(spec, 0).seed("score"), **options)
    for level in search:
        functional.cross_entropy(model(torch.rand(4, *spec.facts.shape)), torch.arange(4)).backward()
        optimizer.step()
        if trained and not level.number:
            weights.put(model, worker.store.weights(trained))
    return search.mask(1)


def batches_of(spec: Spec, worker: Worker) -> list[tuple[Tensor, Tensor]]:
    """Those of the first epoch."""
    batches = worker.batches(dense(spec))
    return [batches(number) for number in range(spec.facts.epoch_iterations(spec.recipe.batch))]


def same(left: Mask, right: Mask) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


@st.composite
def tables(draw: st.DrawFn) -> dict[str, Any]:
    scope = draw(st.sampled_from(sorted(SCOPES)))
    table: dict[str, Any] = {
        "scope": scope,
        "score": draw(st.sampled_from(sorted(name for name in SCORES if not SCORES[name].of_channels))),
    }
    table["keep"] = draw(st.lists(st.sampled_from(ENTRIES[1:4]), max_size=2, unique=True))
    fractions = st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.9])
    if scope == "n_of_m":
        return table | draw(st.sampled_from([{"n": 2, "m": 4}, {"n": 1, "m": 2}]))
    table["rate"] = draw(fractions)
    return table | ({"conv_rate": draw(fractions), "output_rate": draw(fractions)} if SCOPES[scope].by_kind else {})


@pytest.mark.filterwarnings("ignore:.*nothing is alive any more")  # of a small layer, as both have it
@settings(max_examples=25)
@given(table=tables())
def test_a_spec_and_a_search_make_the_same_mask(worker: Worker, table: dict[str, Any]) -> None:
    spec = spec_of(table, model="resnet-8-w2")
    if any(contradictions(spec, Experiment(name="tiny", spec=spec).members)):
        return
    trained = Replicate(spec, 0).rewind_point(init="trained")
    assert isinstance(trained, Init)
    theirs = by_lab(spec, worker, trained)
    score = SCORES[table["score"]]
    parts = {"scope": table["scope"], "keep": table["keep"], "score": table["score"]}
    seen: dict[str, Any] = {"batches": batches_of(spec, worker) if score.sees_batches else None, "trained": trained}
    if table["scope"] == "n_of_m":
        keep = tuple(table["keep"])
        whole = Round("n_of_m", keep=keep, n=table["n"], m=table["m"], score=score)
        assert same(by_search(spec, worker, round=whole, **seen), theirs)
        return
    rates = {"conv": table.get("conv_rate"), "output": table.get("output_rate"), "*": table["rate"]}
    rate = table["rate"] if table["scope"] == "global" else rates
    assert same(by_search(spec, worker, rate=rate, **parts, **seen), theirs)


def test_what_is_written_in_a_table_is_the_round_that_is_performed() -> None:
    for table in ({"rate": 0.3, "conv_rate": 0.1}, {"scope": "global"}, {"scope": "n_of_m", "n": 2, "m": 4}):
        spec = spec_of(table)
        assert Replicate(spec, 0).prune(dense(spec), None).round(SCORES) == spec.prune.round


def by_hand(spec: Spec, worker: Worker, rate: float) -> Mask:
    """SNIP step by step: the gradient of the first batch, times the weights; the lowest go."""
    run = dense(spec)
    start = run.start
    assert isinstance(start, Init)
    model = start.network.build().train()
    weights.put(model, worker.store.weights(start))
    inputs, labels = worker.batches(run)(0)
    functional.cross_entropy(model(inputs), labels).backward()
    sizes = {name: (each.grad * each).abs() for name, each in model.named_parameters() if each.grad is not None}
    full = prunable.full(model)
    return Round(rates=(("*", rate),)).next(full, {name: sizes[name] for name in full}, prunable.prunable(model))


def test_snip_is_ten_lines_and_runs_in_the_lab(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SCORES, "snip", SNIP)
    spec = spec_of({"score": "snip", "rate": 0.5}, model="lenet-20-10")
    run = Replicate(spec, 0).prune(dense(spec), None)
    assert run.data == ("digits",) and "sample" in run.described and "code" not in run.described
    assert same(by_lab(spec, worker), by_hand(spec, worker, 0.5))


def test_a_score_may_go_through_its_batches_twice(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a search: each time from the first one on."""
    passes: list[list[Tensor]] = []

    def twice(scored: Scored) -> dict[str, Tensor]:
        next(iter(scored.batches))
        passes.extend([labels for _, labels in scored.batches] for _ in range(2))
        return {name: scored.weights[name].abs() for name in scored.mask}

    monkeypatch.setitem(SCORES, "twice", Score("twice", twice, sees_batches=True))
    by_lab(spec_of({"score": "twice", "rate": 0.5}, model="lenet-20-10"), worker)
    first, second = passes
    assert len(first) == len(second) == 17
    assert all(torch.equal(one, other) for one, other in zip(first, second, strict=True))


def test_what_a_score_draws_is_decided_by_its_seed(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:  # K11 K13
    """Whatever was drawn before in the process, which draws on as if nothing had been drawn in between."""

    def drawing(scored: Scored) -> dict[str, Tensor]:
        noise = np.random.rand() + random.random()
        return {name: torch.rand(alive.shape) + noise for name, alive in scored.mask.items()}

    for name, sees in (("drawing", False), ("drawing-too", True)):
        monkeypatch.setitem(SCORES, name, Score(name, drawing, sees_batches=sees))
        spec = spec_of({"score": name, "rate": 0.5}, model="lenet-20-10")
        first = by_lab(spec, worker)
        run = replace(Replicate(spec, 0).prune(dense(spec), None), trained=Replicate(spec, 0).rewind_point())
        for seed in (1, 2):
            random.seed(seed), np.random.seed(seed), torch.manual_seed(seed)
            drawn = random.random(), np.random.rand(), torch.rand(1).item()
            random.seed(seed), np.random.seed(seed), torch.manual_seed(seed)
            outcome = run.perform(worker)
            again = mask_codec.unpack(outcome.tensors["mask"], {name: alive.shape for name, alive in first.items()})
            assert same(again, first)
            assert (random.random(), np.random.rand(), torch.rand(1).item()) == drawn


def test_a_score_sees_the_loss_of_an_objective_with_further_inputs(
    worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A teacher's weights, for one: they are inputs of the pruning too, and in its key."""

    class Imitation(Objective):
        name: Literal["imitation"] = "imitation"

        def loss(
            self, model: nn.Module, batch: tuple[Tensor, Tensor], inputs: Mapping[str, Mapping[str, Tensor]]
        ) -> Tensor:
            teacher = inputs["teacher"]
            apart = (((own - teacher[name]) ** 2).sum() for name, own in model.named_parameters())
            return torch.stack(list(apart)).sum()

    monkeypatch.setitem(SCORES, "snip", SNIP)
    spec = spec_of({"score": "snip", "rate": 0.5}, model="lenet-20-10")
    replicate = Replicate(spec, 0)
    teacher, start = replicate.rewind_point(init="teacher"), replicate.rewind_point()
    recipe = Recipe.model_validate(RECIPE | {"model": "lenet-20-10", "objective": Imitation()})
    pupil = replace(replicate.train(start, recipe=recipe), further=(("teacher", teacher),))
    pruned = replicate.prune(pupil, None)
    assert teacher in pruned.inputs and pruned.key != replace(pruned, further=(("teacher", start),)).key
    at_once = replace(pruned, trained=start)
    for run in ancestry([at_once]):
        assert worker.store.has(run) or do(run, worker, lambda *seen: None) == ("stored",)
    own, other = worker.store.weights(start), worker.store.weights(teacher)
    assert isinstance(start, Init)
    model = start.network.build()
    sizes = {name: (2 * (own[name] - other[name]) * own[name]).abs() for name in prunable.full(model)}
    by_hand = Round(rates=(("*", 0.5),)).next(prunable.full(model), sizes, prunable.prunable(model))
    assert same(worker.store.mask(at_once), by_hand)


def test_snip_runs_in_a_search(worker: Worker) -> None:
    spec = spec_of({"rate": 0.5}, model="lenet-20-10")
    by_lab(spec, worker)  # for its initial weights
    first = [worker.batches(dense(spec))(0)]
    assert same(by_search(spec, worker, rate=0.5, score=SNIP, batches=first), by_hand(spec, worker, 0.5))
    assert same(by_search(spec, worker, rate=0.5, score=snip, batches=first), by_hand(spec, worker, 0.5))


def test_a_score_that_sees_no_batches_has_the_key_that_it_always_had() -> None:
    spec = spec_of({"rate": 0.5}, model="lenet-20-10")
    assert Replicate(spec, 0).prune(dense(spec), None).described.keys().isdisjoint({"sample", "code", "n", "m"})


def test_a_score_is_given_batches_as_they_are() -> None:
    """Of named inputs too, which the loss of the loop takes apart."""
    model = nn.Linear(2, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    batches: list[Any] = [{"inputs": [torch.ones(1, 2)], "name": "a"}, (torch.ones(1, 2), torch.ones(1))]
    seen: list[Any] = []

    def looking(scored: Scored) -> dict[str, Tensor]:
        seen.extend(scored.batches)
        return {name: scored.weights[name].abs() for name in scored.mask}

    for _ in Search(model, optimizer, levels=1, score=looking, batches=batches):
        model(torch.ones(1, 2)).sum().backward()
        optimizer.step()
    assert str(seen) == str(batches)


@pytest.mark.parametrize("code", ["of another file", None])
def test_a_mask_is_made_by_the_score_that_is_in_its_key_or_not_at_all(worker: Worker, code: str | None) -> None:  # S9
    """Not by another one of its name: two plans on one store may have two files."""
    spec = spec_of({"rate": 0.5}, model="lenet-20-10")
    by_spec, start = Replicate(spec, 0).prune(dense(spec), None), Replicate(spec, 0).rewind_point()
    run = replace(by_spec, trained=start, score_seed=1, code=code)
    mine = replace(worker, scores={"magnitude": replace(SCORES["magnitude"], code="of this file")})
    by_lab(spec, worker)  # for its initial weights
    what, reason, _ = do(run, mine, lambda *seen: None)
    assert what == "failed" and "score of prune-" in reason


def greedy(scored: Scored) -> dict[str, Tensor]:
    """It computes gradients, moves running means and draws."""
    for batch in scored.batches:
        scored.loss(scored.model, batch).backward()
    torch.rand(7)
    with torch.no_grad():
        for parameter in scored.model.parameters():
            parameter.zero_()
    return {name: scored.weights[name].abs() for name in scored.mask}


@pytest.mark.parametrize("at", ["end", "rewind"])
@pytest.mark.parametrize("score", [greedy, *(name for name, score in SCORES.items() if not score.of_gaussian)])
def test_a_score_changes_nothing_in_the_loop(score: Any, at: str) -> None:
    """It works on a copy, and as if nobody had drawn."""

    def left(**options: Any) -> tuple[dict[str, Tensor], Tensor, list[Tensor]]:
        """What the first level leaves: the model, what is drawn next, the gradients."""
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(8, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 3))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        search = Search(model, optimizer, levels=1, **options)
        search.begin()
        for _ in range(3):
            optimizer.zero_grad()
            functional.cross_entropy(model(torch.randn(12, 8)), torch.arange(12) % 3).backward()
            optimizer.step()
        search.finish()
        return weights.of(model), torch.rand(5), [p.grad for p in model.parameters() if p.grad is not None]

    examples = TensorDataset(torch.randn(10, 8), torch.arange(10) % 3)
    loader = DataLoader(examples, batch_size=5, shuffle=True)
    scope = "channel" if score in SCORES and SCORES[score].of_channels else "global"
    plain, seeing = left(), left(score=score, batches=loader, score_at=at, scope=scope)
    assert weights.equal(plain[0], seeing[0]) and torch.equal(plain[1], seeing[1])
    assert plain[2] and all(map(torch.equal, plain[2], seeing[2]))
