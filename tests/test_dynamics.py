"""Dynamics: masks that move, and weights that are made of others, while a network trains."""

import itertools
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from tombola import prunable, weights
from tombola.cli import main
from tombola.data import Batches
from tombola.dynamics import DYNAMICS, Course, Dynamics, Setting, Timeline
from tombola.dynamics.gradual import Gradual
from tombola.dynamics.rewiring import SET, Escape, RigL
from tombola.engine.reference.moving import Moving
from tombola.engine.training import Start
from tombola.errors import BadInput, SpecError
from tombola.lab import recorder
from tombola.lab.attempt import do
from tombola.lab.kinds import Init, Prune, Train
from tombola.lab.plan import plan
from tombola.lab.runs import Network, Outcome, Run, ancestry
from tombola.lab.spec_file import read
from tombola.lab.store import Store
from tombola.lab.worker import Worker
from tombola.mask import Mask
from tombola.recipe import Recipe
from tombola.train import Span

NETWORK = Network("lenet-20-10", (1, 8, 8), 10)
INIT = Init(NETWORK, "glorot-normal", init_seed=3)
OPTIMIZERS: dict[str, dict[str, Any]] = {
    "momentum": {"name": "sgd", "lr": 0.1, "momentum": 0.9, "weight_decay": 1e-3},
    "adam": {"name": "adam", "lr": 1e-2, "weight_decay": 1e-3},
}
SPARSE = Prune(NETWORK, INIT, None, "random", "layer", (("linear", 0.8), ("output", 0.5)), (), score_seed=3)


class Halfway(Dynamics):
    """Scores are trained, weights are frozen; those of the higher half of a layer's scores live."""

    name: Literal["halfway"] = "halfway"

    def settles(self, timeline: Timeline) -> int:
        return timeline.length // 2

    def course(self, setting: Setting) -> Course:
        return HalfwayCourse(setting)


class Higher(torch.autograd.Function):
    """1 for the higher half of scores; its gradient goes straight through."""

    @staticmethod
    def forward(scores: Tensor) -> Tensor:
        return (scores >= scores.median()).to(scores.dtype)

    @staticmethod
    def setup_context(*_: Any) -> None:
        """Nothing is kept."""

    @staticmethod
    def backward(_: Any, gradient: Tensor) -> Tensor:
        return gradient


def higher(scores: Tensor) -> Tensor:
    """h(s)."""
    made: Tensor = Higher.apply(scores)  # type: ignore[no-untyped-call]
    return made


class Scored(nn.Module):
    """w * h(s)."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.scores = nn.Parameter(weight.detach().abs().clone())

    def forward(self, weight: Tensor) -> Tensor:
        return weight * higher(self.scores)


class HalfwayCourse(Course):
    """The course of `Halfway`."""

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        self.layers: dict[str, Scored] = {}
        for name in setting.mask:
            layer: Any = setting.model.get_submodule(name.rpartition(".")[0])
            self.layers[name] = Scored(layer.weight)
            parametrize.register_parametrization(layer, "weight", self.layers[name])
            layer.parametrizations.weight.original.requires_grad_(False)

    @property
    def mask(self) -> Mask:
        return Mask({name: higher(layer.scores).bool() for name, layer in self.layers.items()})

    def weights(self) -> dict[str, Tensor]:
        held = {name: value for name, value in weights.of(self.setting.model).items() if "parametrizations" not in name}
        layers: dict[str, Any] = {
            name: self.setting.model.get_submodule(name.rpartition(".")[0]) for name in self.layers
        }
        return held | {name: layer.weight.detach().clone() for name, layer in layers.items()}


@pytest.fixture(autouse=True)
def stops(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recorder, "STOPS", 4)


def training(dynamics: dict[str, Any] | Dynamics | None, optimizer: str = "momentum", **changes: Any) -> Train:
    recipe = {"model": "lenet-20-10", "data": "digits", "length": "24it", "batch": 60, "dynamics": dynamics}
    made = Train(
        start=INIT,
        mask=None,
        recipe=Recipe.model_validate(recipe | {"optimizer": OPTIMIZERS[optimizer]}),
        data_fingerprint="85eb",
        split_seed=1,
        order_seed=2,
        begin=0,
        until=24,
        evaluate_every=3,
        test_every=6,
        dynamics_seed=5 if dynamics else None,
    )
    return replace(made, **changes)


def gradual(**changes: Any) -> Train:
    values = {"name": "gradual", "every": 4, "end": "17it"} | changes
    return training(values, further=(("target", SPARSE),))


def scored(optimizer: str = "momentum", **values: Any) -> Train:
    return training(values, optimizer, further=(("target", SPARSE),))


def rewiring(name: str, optimizer: str = "momentum", **changes: Any) -> Train:
    return training({"name": name, "every": 4} | changes, optimizer, mask=SPARSE)


def softened() -> Train:
    """A network with normalisations."""
    made = training({"name": "aws"})
    network = replace(NETWORK, model="resnet-8-w2")
    mask = Prune(network, INIT, None, "random", "layer", (("linear", 0.5), ("conv", 0.5)), (), score_seed=3)
    recipe = made.recipe.model_copy(update={"model": network.model})
    start = Init(network, "kaiming-normal", init_seed=3)
    return replace(made, start=start, mask=replace(mask, trained=start), recipe=recipe)


CASES: dict[str, Callable[[], Train]] = {
    "gradual": gradual,
    "gradual, global": lambda: gradual(scope="global"),
    "set": lambda: rewiring("set"),
    "set, adam": lambda: rewiring("set", "adam"),
    "rigl": lambda: rewiring("rigl"),
    "rigl, adam": lambda: rewiring("rigl", "adam"),
    "escape": lambda: rewiring("escape"),
    "escape, adam": lambda: rewiring("escape", "adam"),
    "halfway": lambda: training(Halfway()),
    "sign-in": lambda: training({"name": "sign-in", "every": "5it"}, mask=SPARSE),
    "sign-in, adam": lambda: training({"name": "sign-in", "every": "1it", "beta": 0.5}, "adam", mask=SPARSE),
    "aws": softened,
    "frozen": lambda: training({"name": "frozen"}, mask=SPARSE),
    "frozen, adam": lambda: training({"name": "frozen"}, "adam", mask=SPARSE),
    **{
        f"{name}, {optimizer}, {choices}": partial(scored, optimizer, name=name, **choices)
        for optimizer in OPTIMIZERS
        for name, choices in (
            ("edge-popup", {}),
            ("edge-popup", {"scope": "global", "scaled": True, "weights": "initial"}),
            ("supermask", {"rescaled": True, "weights": "initial"}),
            ("supermask", {"counted": True, "begin": "level"}),
            ("signed-supermask", {}),
            ("gem-miner", {"every": "5it"}),
        )
    },
}


def performed(run: Run, root: Path) -> Store:
    """A store that has it."""
    worker = Worker(Store(root).open(), None, "reference")
    for each in ancestry([run]):
        if not worker.store.has(each):
            assert do(each, worker, lambda *seen: None) == ("stored",)
    return worker.store


def outcomes(store: Store) -> dict[str, bytes]:
    found = (path for path in (store.root / "runs").rglob("*") if path.is_file() and path.name != "provenance.json")
    return {str(path.relative_to(store.root)): path.read_bytes() for path in found}


# ---------------------------------------------------------------- of all dynamics


class Stopped(BaseException):
    """What no code catches: as near to `kill -9` as a test in one process comes."""


@pytest.mark.parametrize("case", CASES)
def test_a_training_that_is_stopped_again_and_again_has_the_bytes_of_an_undisturbed_one(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # S2 S4 R9
    run = CASES[case]()
    undisturbed = performed(run, tmp_path / "whole")
    store, kept, at = performed(SPARSE, tmp_path / "parts"), Store.keep, list[int]()
    undisturbed = performed(SPARSE, undisturbed.root)
    for needed in run.inputs:
        performed(needed, store.root)

    def keep(self: Store, run: Any, state: Outcome) -> None:
        kept(self, run, state)
        at.append(state.values["step"])
        raise Stopped

    monkeypatch.setattr(Store, "keep", keep)
    ticks = itertools.count()
    while not store.has(run):
        try:
            late = Worker(store, None, "reference", clock=lambda: 1000.0 * next(ticks))
            assert do(run, late, lambda *seen: None) == ("stored",)
        except Stopped:
            continue
    assert at == [3, 4, 6, 8, 9, 12, 15, 16, 18, 20, 21]
    assert outcomes(store) == outcomes(undisturbed)


@pytest.mark.parametrize("case", CASES)
def test_the_outcome_has_the_mask_at_the_end_and_its_weights(case: str, tmp_path: Path) -> None:
    run = CASES[case]()
    store = performed(run, tmp_path)
    values, mask, trained = store.values(run), store.mask(run), store.weights(run)
    assert not run.keeps_mask and store.masked_by(run) == run
    assert values["alive"] == mask.alive and values["counts"] == mask.counts and values["density"] == mask.density
    assert isinstance(values["macs"], int) and values["macs"] > 0
    assert set(trained) == set(store.weights(run.start)), "the names are those of a plain network"
    held = store.weights(run.start) if store.holds(run, "held") else {name: trained[name] * 0 for name in mask}
    for name, alive in mask.items():
        assert torch.equal(trained[name][~alive], held[name][~alive]) and 0 < int(alive.sum()) < alive.numel()


@pytest.mark.parametrize("case", CASES)
def test_an_early_stop_waits_for_the_mask_to_settle(case: str, tmp_path: Path) -> None:
    run = CASES[case]()
    dynamics = run.recipe.dynamics
    assert dynamics is not None
    settled = dynamics.settles(Timeline(0, 24, 24, 20))
    values = performed(run, tmp_path).values(run)
    curve = values["curve"]
    allowed = {s: v for s, v in zip(curve["step"], curve["validation_loss"], strict=True) if s >= settled}
    assert values["early_stop_step"] == min(allowed, key=lambda step: allowed[step])


def begun(run: Train, root: Path) -> tuple[Moving, Batches, Store]:
    """The trainer of a training that is about to begin, its batches, and a store that has what it needs."""
    store = Store(root).open()
    for each in run.inputs:
        performed(each, root)
    worker = Worker(store, None, "reference")
    model = NETWORK.build()
    weights.put(model, store.weights(run.start))
    living = store.mask(run.mask) if run.mask else prunable.full(model)
    dataset = worker.placed(run.recipe)
    inputs = {name: dict(store.mask(each)) for name, each in run.further or ()}
    start = Start(model, living, dataset, {}, inputs, Timeline(0, 24, 24, 20), run.dynamics_seed or 0)
    return Moving(worker.training(run.recipe), start), worker.batches(run), store


def walked(run: Train, root: Path) -> Iterator[tuple[int, Mask, dict[str, Tensor], dict[str, Tensor]]]:
    """(step, mask, weights, optimiser's state) before each step of a training and after the last one."""
    trainer, batches, _ = begun(run, root)
    seen: list[tuple[int, Mask, dict[str, Tensor], dict[str, Tensor]]] = []

    def look(step: int) -> None:
        seen.append((step, trainer.moved.mask, trainer.weights(), trainer.optimizer_state()))

    trainer.train(batches, Span(0, run.until, lambda step: 0.1, range(run.until + 1)), look)
    yield from seen


MASKS_MOVE = [case for case in CASES if case.startswith(("gradual", "set", "rigl", "escape"))]
SPARSE_ALWAYS = [case for case in CASES if case.startswith(("set", "rigl", "escape"))]


# ---------------------------------------------------------------- of masks that move


@pytest.mark.parametrize("case", MASKS_MOVE)
def test_what_is_dead_now_is_0_with_its_state_after_every_step(case: str, tmp_path: Path) -> None:  # M1 M4
    masks = []
    for step, mask, held, state in walked(CASES[case](), tmp_path):
        masks.append(mask)
        for name, alive in mask.items():
            assert not held[name][~alive].any(), f"{name} after {step} steps"
            kept = [value for path, value in state.items() if path.endswith(f"/{name}") and value.shape == alive.shape]
            assert all(not value[~alive].any() for value in kept) and (kept or step <= 1)
    assert sum(before != after for before, after in pairwise(masks)) >= 4, "it moves"


@pytest.mark.parametrize("case", SPARSE_ALWAYS)
def test_each_layer_has_as_many_living_weights_throughout(case: str, tmp_path: Path) -> None:
    counts = [mask.counts for _, mask, _, _ in walked(CASES[case](), tmp_path)]
    assert all(each == counts[0] for each in counts)
    assert {name: n / s for (name, n), s in zip(counts[0].items(), (1280, 200, 100), strict=True)} == {
        "fc1.weight": 0.2, "fc2.weight": 0.2, "output.weight": 0.5
    }  # fmt: skip


@pytest.mark.parametrize("case", SPARSE_ALWAYS)
def test_what_comes_to_life_starts_from_0_with_fresh_state(case: str, tmp_path: Path) -> None:
    seen, came = list(walked(CASES[case](), tmp_path)), 0
    for (_, before, _, _), (_, after, held, state) in pairwise(seen):
        for name in after:
            new = after[name] & ~before[name]
            came += int(new.sum())
            assert not held[name][new].any()
            assert not any(value[new].any() for path, value in state.items() if path == f"momentum_buffer/{name}")
            assert not any(value[new].any() for path, value in state.items() if path == f"exp_avg_sq/{name}")
    assert came > 100


@pytest.mark.parametrize("name", ["set", "rigl", "escape"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_where_nothing_moves_it_is_the_training_of_a_static_mask_bit_for_bit(
    name: str, optimizer: str, tmp_path: Path
) -> None:
    moving = rewiring(name, optimizer, fraction=0.0, **({"escape": 0.0} if name == "escape" else {}))
    static = training(None, optimizer, mask=SPARSE)
    store = performed(static, performed(moving, tmp_path).root)
    values, plain = store.values(moving), store.values(static)
    assert {name: values[name] for name in plain} == plain and store.mask(moving) == store.mask(SPARSE)
    assert weights.equal(store.weights(moving), store.weights(static))


def test_an_escape_moves_most_weights_at_its_first_step_and_thereafter_as_rigl_does() -> None:
    timeline, living = Timeline(10, 24, 24, 20), {"a": 10, "b": 3}
    escape, later = Escape(every=4, fraction=0.5, escape=0.8), RigL(every=4, fraction=0.5, decay="constant")
    assert escape.moving(10, timeline, living) == {"a": 8, "b": 2}, "also where dT does not divide the step"
    for step in range(11, 24):
        assert escape.moving(step, timeline, living) == later.moving(step, timeline, living)
    assert later.moving(12, timeline, living) == {"a": 5, "b": 2} and not later.moving(10, timeline, living)


def test_layers_are_in_the_models_order_whatever_a_file_has(tmp_path: Path) -> None:
    """What is drawn, and which of equal weights goes, depends on it: after a checkpoint it is as before."""
    model = nn.Sequential(OrderedDict(z=nn.Linear(3, 2), a=nn.Linear(2, 2)))
    full = prunable.full(model)
    course = SET().course(Setting(model, Mask({name: full[name] for name in sorted(full)}), Timeline(0, 9, 9, 3)))
    assert list(course.mask) == ["z.weight", "a.weight"]
    course.load({name: full[name] for name in sorted(full)})
    assert list(course.mask) == ["z.weight", "a.weight"]


def test_a_move_of_rigl_is_that_of_an_oracle(tmp_path: Path) -> None:
    """The first one, at step 0, from the gradient of a network in plain arithmetic, weight by weight."""
    run = rewiring("rigl", fraction=0.2)
    trainer, batches, store = begun(run, tmp_path)
    mask, held = store.mask(SPARSE), store.weights(INIT)
    leaves = {name: (value * mask[name] if name in mask else value).requires_grad_() for name, value in held.items()}
    inputs, labels = batches(0)
    hidden = inputs.flatten(1)
    for layer in ("fc1", "fc2"):
        hidden = (hidden @ leaves[f"{layer}.weight"].T + leaves[f"{layer}.bias"]).relu()  # whose slope at 0 is 0
    scores = hidden @ leaves["output.weight"].T + leaves["output.bias"]
    loss = (scores.logsumexp(1) - scores[torch.arange(len(labels)), labels]).mean()
    gradients = dict(zip(leaves, torch.autograd.grad(loss, list(leaves.values())), strict=True))

    trainer.train(batches, Span(0, 1, lambda step: 0.1), lambda step: None)
    for name, alive in mask.items():
        sizes, slopes = held[name].abs().flatten().tolist(), gradients[name].abs().flatten().tolist()
        living = [place for place, lives in enumerate(alive.flatten().tolist()) if lives]
        count = int(0.2 * len(living) + 0.5)
        stays = set(sorted(living, key=lambda place: (sizes[place], place))[count:])
        after = set(trainer.moved.mask[name].flatten().nonzero().flatten().tolist())
        assert stays < after and len(after) == len(living) and count > 0
        others = set(range(alive.numel())) - after
        least = min(slopes[place] for place in after - stays)
        assert least >= max(slopes[place] for place in others) - 1e-7 and least > 0
    # No step was taken: what stayed is as it was, what came starts from 0.
    wanted = {n: v * (trainer.moved.mask[n] & mask[n]) if n in mask else v for n, v in held.items()}
    assert weights.equal(trainer.weights(), wanted)


@pytest.mark.parametrize("curve", ["cubic", "linear"])
@pytest.mark.parametrize("scope", ["layer", "global"])
def test_gradual_pruning_has_the_counts_of_its_formula(curve: str, scope: str, tmp_path: Path) -> None:
    """s_t = s_f + (s_i - s_f) (1 - (t - t0) / (n dt))^3, in floating point; what is gone stays gone."""
    run = gradual(curve=curve, scope=scope, begin="1it")  # after 5, 9, 13 and 17 steps
    seen = {step: mask for step, mask, _, _ in walked(run, tmp_path)}
    first, last = seen[0], Store(tmp_path).mask(SPARSE)

    def wanted(step: int, whole: int, end: int) -> float:
        share = min(max((step - 1) // 4, 0), 4) / 4
        sparsity = (1 - end / whole) * (1 - (1 - share) ** (3 if curve == "cubic" else 1))
        return whole * (1 - sparsity)

    for step, mask in seen.items():
        if scope == "global":
            assert abs(mask.alive - wanted(step, first.alive, last.alive)) <= 0.5
        for name, alive in mask.counts.items() if scope == "layer" else ():
            assert abs(alive - wanted(step, first.counts[name], last.counts[name])) <= 0.5 + 1e-9
    assert all(not (after[name] & ~before[name]).any() for before, after in pairwise(seen.values()) for name in after)
    assert seen[24].alive == last.alive and (scope == "global" or seen[24].counts == last.counts)
    assert scope == "layer" or seen[24].counts != last.counts, "layers are compared with each other"


@pytest.mark.parametrize("case", MASKS_MOVE)
def test_a_mask_has_settled_when_as_many_live_as_at_the_end(case: str, tmp_path: Path) -> None:
    run = CASES[case]()
    assert run.recipe.dynamics
    alive = {step: mask.alive for step, mask, _, _ in walked(run, tmp_path)}
    settled = run.recipe.dynamics.settles(Timeline(0, 24, 24, 20))
    assert settled == min(step for step in alive if all(alive[later] == alive[24] for later in range(step, 25)))


def test_gradual_pruning_removes_the_smallest(tmp_path: Path) -> None:
    seen = list(walked(gradual(), tmp_path))
    for (_, before, _, _), (_, after, held, _) in pairwise(seen):
        for name in after:
            gone = before[name] & ~after[name]
            assert not gone.any() or not held[name][gone].any()
    sizes = {step: held for step, _, held, _ in seen}
    after, before = seen[4][1], seen[3][1]
    name = "fc1.weight"
    gone = before[name] & ~after[name]
    # Between 3 and 4 steps weights move a little; what went had been small among all.
    assert sizes[3][name][gone].abs().median() < sizes[3][name][after[name]].abs().median()


# ---------------------------------------------------------------- what it takes


def test_what_a_training_takes_is_counted_step_by_step(tmp_path: Path) -> None:
    """3 f_S for each example of a step, 2 f_S + f_D of a move of RigL; each weight of these layers is used once."""
    dense, sparse = 64 * 20 + 20 * 10 + 10 * 10, 256 + 40 + 50
    batch = [60] * 24
    batch[16] = 1000 % 60  # the last batch of the first epoch: there are 1,000 training images
    for name in ("set", "rigl", "escape"):
        run = rewiring(name)
        moves = set() if name == "set" else {0, 4, 8, 12, 16}
        wanted = sum(n * (2 * sparse + dense if step in moves else 3 * sparse) for step, n in enumerate(batch))
        assert performed(run, tmp_path).values(run)["macs"] == wanted
    run = gradual()
    thinned = {step: mask.alive for step, mask, _, _ in walked(run, tmp_path)}
    assert performed(run, tmp_path).values(run)["macs"] == sum(n * 3 * thinned[step] for step, n in enumerate(batch))


# ---------------------------------------------------------------- where it is refused


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"end": "28it"}, "found prunings every 4 steps from step 0 to step 28"),
        ({"every": 30}, "found prunings every 30 steps from step 0 to step 17"),
        ({"begin": "30it"}, "found prunings every 4 steps from step 30 to step 17"),
    ],
)
def test_gradual_pruning_that_prunes_at_no_time_is_refused(changes: dict[str, Any], found: str) -> None:
    with pytest.raises(BadInput, match=found):
        Gradual.model_validate({"every": 4, "end": "17it"} | changes).prunings(Timeline(0, 24, 24, 20))


def test_gradual_pruning_needs_counts_to_prune_towards(tmp_path: Path) -> None:
    store = Store(tmp_path).open()
    performed(INIT, tmp_path)
    status, reason, *_ = do(training({"name": "gradual", "every": 4}), Worker(store, None), lambda *seen: None)
    assert status == "failed" and "further input `target`, found none" in reason


def test_processes_that_train_together_refuse_it_before_they_meet(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"WORLD_SIZE": "2", "RANK": "1", "MASTER_ADDR": "localhost"}.items():
        monkeypatch.setenv(name, value)
    store = tmp_path / "store"
    changes = ["--set", "recipe.dynamics={name = 'rigl'}", "--set", "device=cpu"]
    assert main(["run", "digits-lenet", "--store", str(store), *changes]) == 2
    assert "found the dynamics rigl" in capsys.readouterr().err.replace("\n", " ") and not store.exists()


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ("recipe.dynamics=rigl", "recipe.dynamics: expected a table, found 'rigl'"),
        ("recipe.dynamics={name = 'riggl'}", f"recipe.dynamics.name: expected {', '.join(DYNAMICS)}"),
        ("recipe.dynamics={name = 'rigl', fraction = 1.0}", "recipe.dynamics.fraction: expected a number < 1"),
        ("recipe.dynamics={name = 'rigl', fracton = 0.1}", "did you mean fraction?"),
        ("recipe.dynamics={name = 'gradual', end = '3'}", "recipe.dynamics.end: expected"),
        ("recipe.dynamics={name = 'gradual'}", "recipe.dynamics: expected dynamics that ask for no more than a recipe"),
        ("recipe.dynamics={name = 'gem-miner'}", "method = 'gem-miner' gives its trainings a mask"),
    ],
)
def test_a_fault_is_told_with_its_path(change: str, fault: str) -> None:
    with pytest.raises(SpecError) as told:
        read("digits-lenet", [change])
    assert fault in str(told.value).replace("\n", " ")


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        (["method=gradual", "search.end=500it"], "search.end: expected a last pruning between the steps 0 and 400"),
        (["method=gradual", "rewind=350it"], "search.every: expected a last pruning between the steps 350 and 400"),
        (["method=gradual", "search.score=random"], "search.score: expected no such choice of gradual"),
        (["method=gradual", "prune={scope='n_of_m', n=2, m=4}", "levels=1"], "search.scope: expected one of layer"),
        (["method=set", "search.end=500it"], "search.end: expected a mask that moves between the steps 0 and 400"),
        (["method=rigl", "search.every=300", "rewind=1it"], "found moves every 300 steps until step 300"),
        (["method=rigl", "search.scope=n_of_m"], "search.scope: expected one of layer, global, er, erk"),
        (["method=rigl", "search.rate=0.5"], "search.rate: expected no such choice of rigl"),
        (["method=rigl", "search.fraction=1.5"], "fraction: expected a number < 1"),
        (["method=rigl", "arms=ticket,random"], "rigl does not train early weights"),
    ],
)
def test_what_a_method_cannot_do_is_refused_before_anything_is_trained(changes: list[str], fault: str) -> None:
    with pytest.raises(SpecError) as told:
        read("digits-lenet", [*changes, *([] if "arms" in str(changes) else ["arms=ticket"])])
    assert fault in str(told.value).replace("\n", " ")


@pytest.mark.parametrize("method", ["gradual", "set", "rigl"])
def test_what_is_found_is_trained_again_where_that_is_asked_for(method: str) -> None:
    """Under the mask at the end of the training that moved it, from the rewind point, and with all controls."""
    changes = [f"method={method}", "search.retrain=true", "levels=1", "replicates=1", "arms=ticket,random,reinit"]
    wanted = plan(read("digits-lenet", [*changes, "recipe.model=lenet-20-10"]))
    (ticket,) = (row.run for row in wanted.rows if row.arm == "ticket")
    assert isinstance(ticket.mask, Train) and ticket.mask.recipe.dynamics is not None
    assert ticket.recipe.dynamics is None and ticket.start == ticket.mask.start


@pytest.mark.parametrize("method", ["iterative", "lr-rewind", "continued", "fine-tune"])
def test_a_round_prunes_what_lives_at_the_end_of_a_training_that_moved_its_mask(tmp_path: Path, method: str) -> None:
    """Not what lived at its beginning: what came to life meanwhile may stay, and what has gone is gone."""
    changes = [f"method={method}", "densities=0.5,0.49", "levels=none", "replicates=1", "arms=ticket"]
    changes += [
        "recipe.model=lenet-20-10",
        "prune={rate=0.6}",
        "recipe.dynamics={name='rigl', every=4}",
        "recipe.length=24it",
    ]
    wanted, store = plan(read("digits-lenet", changes)), Store(tmp_path).open()
    for run in wanted.runs:
        assert do(run, Worker(store, None), lambda *seen: None) == ("stored",)
    first, second = (row.run for row in wanted.rows if row.arm == "ticket")
    assert isinstance(second.mask, Prune)
    before = second.mask.mask
    assert isinstance(before, Train) and before.mask
    given, moved, left = (store.mask(run) for run in (before.mask, before, second.mask))
    assert not weights.equal(given, moved)
    assert all(bool((alive <= moved[name]).all()) for name, alive in left.items())
    assert any(bool((alive & ~given[name]).any()) for name, alive in left.items()), "of what came, some stays"
    assert left.alive == pytest.approx(0.49 * left.total, abs=3) and store.living(first) is not None
