"""Performing runs, for real, on digits: what a training starts from, what it makes, and what it is measured on."""

import random
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tombola import data, mask, models, prunable, prune, score, weights
from tombola.errors import BadInput, Diverged, StoreError
from tombola.evaluate import evaluate
from tombola.lab.attempt import do
from tombola.lab.kinds import Init, Prune, Train
from tombola.lab.plan import Plan, plan
from tombola.lab.plan import _densities as foreseen_densities
from tombola.lab.replicate import Replicate
from tombola.lab.runs import Run, ancestry
from tombola.lab.spec import Experiment, Spec
from tombola.lab.store import Store
from tombola.lab.tickets import ticket_of
from tombola.lab.worker import Worker
from tombola.method import Method
from tombola.methods import METHODS
from tombola.objective import Objective
from tombola.optimizers import optimizer_of
from tombola.recipe import Recipe, learning_rate
from tombola.study.overlap import overlaps
from tombola.ticket import Ticket
from tombola.train import Span, losses, train

OPTIMIZERS: dict[str, dict[str, Any]] = {
    "sgd": {"name": "sgd", "lr": 0.1},
    "momentum": {"name": "sgd", "lr": 0.1, "momentum": 0.9},
    "adam": {"name": "adam", "lr": 1e-2},
}
RECIPE: dict[str, Any] = {
    "model": "lenet-20-10",
    "data": "digits",
    "length": "40it",
    "batch": 60,
    "optimizer": OPTIMIZERS["adam"],
}
SPEC: dict[str, Any] = {
    "replicates": 1,
    "levels": 3,
    "arms": ["ticket"],
    "recipe": RECIPE,
    "prune": {"rate": 0.4, "output_rate": 0.2},
    "evaluate": {"every": "5it", "test_every": "10it"},
}
Lab = Callable[..., tuple[Plan, Worker]]


def planned(**changes: Any) -> Plan:
    return plan(Experiment(name="tiny", spec=Spec.model_validate(SPEC | changes)))


def accomplish(runs: list[Run], worker: Worker) -> None:
    for run in ancestry(runs):
        assert do(run, worker, lambda *seen: None) == ("stored",)


@pytest.fixture
def worker(tmp_path: Path) -> Worker:
    return Worker(Store(tmp_path / "store").open(), None, "reference")


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    """Performs a spec, each once for all tests of this file; its plan, and the worker with its finished store."""
    finished: dict[str, tuple[Plan, Worker]] = {}

    def performed(**changes: Any) -> tuple[Plan, Worker]:
        if str(changes) not in finished:
            wanted, worker = (
                planned(**changes),
                Worker(Store(tmp_path_factory.mktemp("store") / "store").open(), None, "reference"),
            )
            accomplish(list(wanted.runs), worker)
            finished[str(changes)] = wanted, worker
        return finished[str(changes)]

    return performed


def outcomes(store: Store) -> dict[str, bytes]:
    """Every file whose bytes must not depend on how the store came about."""
    return {
        str(path.relative_to(store.root)): path.read_bytes()
        for path in (store.root / "runs").rglob("*")
        if path.is_file() and path.name != "provenance.json"
    }


def tickets(wanted: Plan) -> list[Train]:
    return [row.run for row in wanted.rows]


def starts_of(run: Train, worker: Worker) -> dict[str, Tensor]:
    """m ⊙ theta_k: what the training of `run` has to start from, put together by hand."""
    start = worker.store.weights(run.start)
    return mask.apply(start, worker.store.mask(run.mask)) if run.mask else start


def first_look(run: Train, worker: Worker) -> float:
    loss: float = worker.store.values(run)["curve"]["validation_loss"][0]
    return loss


def loss_of(state: dict[str, Tensor], run: Train, worker: Worker) -> float:
    """The validation loss of these weights."""
    dataset = worker.dataset("digits")
    model = models.build(run.recipe.model, dataset.facts.shape, dataset.facts.classes, "glorot-normal", init_seed=0)
    weights.put(model, state)
    _, validation = worker.split(
        run.recipe, run.split_seed
    )  # in its order: on some processors a sum's last bits have it
    assert sorted(validation.tolist()) == sorted(data.split(dataset, run.split_seed)[1].tolist())
    return evaluate(model, dataset, dataset.images, dataset.labels, validation).loss


def scramble(seed: int) -> None:
    """Leave every process-wide generator somewhere else."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


# ---------------------------------------------------------------- the initial weights


def test_the_initial_weights_are_those_of_a_freshly_built_model(lab: Lab) -> None:  # K7 K12
    wanted, worker = lab()
    (init,) = (run for run in wanted.runs if isinstance(run, Init))
    built = models.build("lenet-20-10", (1, 8, 8), 10, "glorot-normal", init_seed=init.init_seed)
    assert weights.equal(worker.store.weights(init), weights.of(built))


@pytest.mark.parametrize("seed", [0, 1, 2**63 - 1])
def test_a_seed_decides_the_weights_and_0_is_one(worker: Worker, seed: int) -> None:  # K9 K11 K13
    init = Init(planned().rows[0].run.start.network, "glorot-normal", init_seed=seed)  # type: ignore[attr-defined]
    made = []
    for scrambled in (1, 2):
        scramble(scrambled)
        made.append(init.perform(worker).tensors["weights"])
    other = replace(init, init_seed=3).perform(worker).tensors["weights"]
    assert weights.equal(made[0], made[1]) and not weights.equal(made[0], other)


# ---------------------------------------------------------------- rewinding


@pytest.mark.parametrize("rewind", ["0it", "8it"])
def test_every_level_starts_from_the_rewind_runs_bytes(lab: Lab, rewind: str) -> None:  # R1 R2 R6 R12
    wanted, worker = lab(rewind=rewind)
    (start,) = {run.start for run in tickets(wanted)}
    before = {path: content for path, content in outcomes(worker.store).items() if start.key in path}
    for run in tickets(wanted):
        assert first_look(run, worker) == loss_of(starts_of(run, worker), run, worker)
        fresh = run.perform(worker)  # once more, after all the others have been trained from the same start
        assert weights.equal(fresh.tensors["weights"], worker.store.tensors(run, "weights"))
    assert before == {path: content for path, content in outcomes(worker.store).items() if start.key in path}
    assert len({first_look(run, worker) for run in tickets(wanted)}) == len(tickets(wanted)), "each mask is another"


@pytest.mark.parametrize("k", [1, 8, 17, 39])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_the_rewound_state_is_that_after_exactly_k_steps(worker: Worker, optimizer: str, k: int) -> None:  # R3 R6
    """Compared with the loop alone, without any lab."""
    wanted = planned(rewind=f"{k}it", levels=0, recipe=RECIPE | {"optimizer": OPTIMIZERS[optimizer], "warmup": "3it"})
    point = wanted.rows[0].run.start
    assert isinstance(point, Train)
    accomplish([point], worker)

    dataset = data.load("digits")
    model = models.build("lenet-20-10", (1, 8, 8), 10, "glorot-normal", init_seed=point.start.init_seed)  # type: ignore[attr-defined]
    batches = data.Batches(dataset, data.split(dataset, point.split_seed)[0], 60, point.order_seed)
    rate = lambda step: learning_rate(point.recipe, step, 17)  # noqa: E731
    train(
        model,
        optimizer_of(point.recipe.optimizer, model),
        prunable.full(model),
        losses(model, batches),
        Span(0, k, rate),
        lambda step: None,
    )
    assert weights.equal(worker.store.weights(point), weights.of(model))


@pytest.mark.parametrize("k", [8, 17])
@pytest.mark.parametrize("carried", [False, True], ids=["fresh", "carried"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_in_two_parts_is_in_one_go_where_the_optimiser_is_carried_over(
    worker: Worker, optimizer: str, carried: bool, k: int
) -> None:  # R5 R7 R8 R9 R12 R13
    """Weights, batches, learning rates: all go on at step k. A fresh optimiser has forgotten its momentum."""
    recipe = RECIPE | {
        "optimizer": OPTIMIZERS[optimizer],
        "schedule": {"name": "step", "milestones": ["6it", "20it"], "factor": 0.5},
        "warmup": "10it",
    }
    whole = planned(recipe=recipe, levels=0).rows[0].run
    parts = planned(recipe=recipe, levels=0, rewind=f"{k}it", carry_optimizer=carried).rows[0].run
    accomplish([whole, parts], worker)
    same = weights.equal(worker.store.weights(whole), worker.store.weights(parts))
    assert same == (carried or optimizer == "sgd"), "plain SGD has nothing to forget"
    if same:
        curves = [worker.store.values(run)["curve"] for run in (whole, parts)]
        later = [dict(zip(curve["step"], curve["validation_loss"], strict=True)) for curve in curves]
        assert later[1].items() <= later[0].items() | {(k, later[1][k])}


def test_the_same_start_gives_levels_the_same_training_where_nothing_is_pruned(worker: Worker) -> None:  # R1 R5 R11
    """With a rate of 0 every level is the dense training again: so nothing is left over from one to the next."""
    wanted = planned(prune={"rate": 0})
    accomplish(list(wanted.runs), worker)
    dense, *levels = (worker.store.tensors(run, "weights") for run in tickets(wanted))
    for level in levels:
        assert level.keys() == dense.keys() and all(torch.equal(level[name], dense[name].flatten()) for name in level)


# ---------------------------------------------------------------- pruned is pruned


# Whose levels are searched for one by one, each in several steps or in a training of its own.
NEST_NOT: tuple[str, ...] = ("iterative-snip", "force", "synflow", "gradual", "set", "rigl")
NEST_NOT += ("dual-iterative", "edge-popup", "supermask", "signed-supermask", "gem-miner")


@pytest.mark.parametrize("method", METHODS)
def test_pruned_weights_are_0_and_masks_nest(lab: Lab, method: str) -> None:  # M1 R10
    short = {"search": {"penalty_step": 0.25, "hold": 5}} if method.startswith("dual") else {}
    wanted, worker = lab(method=method, **short)
    assert wanted.rows[0].run.mask is None
    kept = None
    for run in tickets(wanted)[1:]:
        own = worker.store.masked_by(run)
        assert own
        living, state, stored = worker.store.mask(own), worker.store.weights(run), worker.store.tensors(run, "weights")
        for name, alive in living.items():
            assert (state[name][~alive] == 0).all()
            # What has just been grown is 0 until it takes a step.
            assert (state[name][alive] != 0).all() or method in ("set", "rigl")
            assert stored[name].numel() == alive.sum(), "the dead take no room"
        nested = kept is None or all(bool((kept[name] | ~alive).all()) for name, alive in living.items())
        assert nested or method in NEST_NOT
        assert (
            worker.store.values(run)["alive"] == living.alive and worker.store.values(run)["density"] == living.density
        )
        kept = living


def test_counts_are_exact_and_those_of_one_shot_and_iterative_the_same(lab: Lab) -> None:
    """fc1 64 x 20, fc2 20 x 10, output 10 x 10; of n living weights floor(rate n + 1/2) go."""
    expected = [{"fc1.weight": 768, "fc2.weight": 120, "output.weight": 80}]
    expected.append({"fc1.weight": 461, "fc2.weight": 72, "output.weight": 64})
    expected.append({"fc1.weight": 277, "fc2.weight": 43, "output.weight": 51})
    found = {}
    for method in ("iterative", "one-shot"):
        wanted, worker = lab(method=method)
        masks = [worker.store.mask(run.mask) for run in tickets(wanted) if run.mask]
        assert [kept.counts for kept in masks] == expected
        found[method] = masks
    assert found["iterative"][0] == found["one-shot"][0] and found["iterative"][2] != found["one-shot"][2]


def test_a_mask_keeps_the_largest_of_the_training_before(lab: Lab) -> None:
    wanted, worker = lab()
    for before, after in zip(tickets(wanted), tickets(wanted)[1:], strict=False):
        assert isinstance(after.mask, Prune)
        trained, living = worker.store.weights(before), worker.store.mask(after.mask)
        alive_before = worker.store.mask(before.mask) if before.mask else None
        for name, alive in living.items():
            size = trained[name].reshape(alive.shape).abs()
            gone = ~alive if alive_before is None else alive_before[name] & ~alive
            assert size[alive].min() >= size[gone].max()


def test_in_the_global_scope_layers_compete(worker: Worker) -> None:
    wanted = planned(prune={"scope": "global", "rate": 0.5, "keep": ["output"]}, levels=1)
    accomplish(list(wanted.runs), worker)
    run = tickets(wanted)[1]
    assert run.mask
    living, trained = worker.store.mask(run.mask), worker.store.weights(tickets(wanted)[0])
    sizes = torch.cat([trained[name].flatten().abs() for name in ("fc1.weight", "fc2.weight")])
    assert set(living) == {"fc1.weight", "fc2.weight"} and living.alive == 1480 // 2
    kept = torch.cat([living[name].flatten() for name in living])
    assert sizes[kept].min() >= sizes[~kept].max()
    assert worker.store.weights(run)["output.weight"].count_nonzero() == 100, "what is kept is not pruned at all"


@pytest.mark.parametrize("scope", ["layer", "global"])
def test_parameters_that_are_included_are_pruned_counted_and_held(worker: Worker, scope: str) -> None:
    asked = {"rate": 0.5, "scope": scope, "keep": ["fc2.*"], "include": ["fc1.bias", "fc2.bias"]}
    wanted = planned(prune=asked, levels=2)
    accomplish(list(wanted.runs), worker)
    total = {"fc1.weight": 1280, "fc1.bias": 20, "output.weight": 100}
    dense, *sparse = tickets(wanted)
    assert dense.mask and worker.store.mask(dense.mask).counts == total
    for level, run in enumerate(sparse, start=1):
        assert run.mask
        living = worker.store.mask(run.mask)
        assert living.counts.keys() == total.keys() and living.alive == 1400 // 2**level
        if scope == "layer":
            assert living.counts["fc1.bias"] == 20 // 2**level
        assert not any(worker.store.weights(run)[name][~alive].any() for name, alive in living.items())


@pytest.mark.parametrize("keep", [["output", "*.shortcut.*"], ["stage[12].*", "output.weight"], ["conv"], []])
def test_kinds_names_and_patterns_keep_weights_out_of_the_masks(worker: Worker, keep: list[str]) -> None:
    recipe = RECIPE | {"model": "resnet-20-w1", "length": "2it"}
    wanted = planned(recipe=recipe, prune={"rate": 0.5, "keep": keep, "scope": "global"}, levels=1)
    accomplish(list(wanted.runs), worker)
    run = tickets(wanted)[1]
    assert run.mask
    living = worker.store.mask(run.mask)
    left_out: dict[str, Callable[[str], bool]] = {
        "output": lambda name: name == "output.weight",
        "output.weight": lambda name: name == "output.weight",
        "*.shortcut.*": lambda name: ".shortcut." in name,
        "stage[12].*": lambda name: name.startswith(("stage1.", "stage2.")),
        "conv": lambda name: name != "output.weight",
    }
    everything = models.weight_counts("resnet-20-w1", (1, 8, 8), 10)
    expected = [name for name in everything if not any(left_out[entry](name) for entry in keep)]
    assert set(living) == set(expected) and living.total == sum(everything[name] for name in expected)
    assert living.alive == living.total // 2
    densities = foreseen_densities(wanted.experiment.spec, 1)
    assert densities == {name: 0.5 if name in expected else 1.0 for name in everything}, "the plan knows as much"


def test_every_round_prunes_in_the_models_order_of_layers(worker: Worker) -> None:
    """Not in that of the files, the alphabet's, which decides otherwise what a seed draws and which of equals goes."""
    recipe = RECIPE | {"model": "resnet-20-w1", "length": "2it"}
    wanted = planned(recipe=recipe, prune={"scope": "global", "score": "random", "rate": 0.5}, levels=2)
    accomplish(list(wanted.runs), worker)
    run = tickets(wanted)[2].mask
    assert isinstance(run, Prune) and run.mask
    names = list(models.weight_counts("resnet-20-w1", (1, 8, 8), 10))
    assert names != sorted(names)
    before, after = worker.store.mask(run.mask), worker.store.mask(run)
    living = mask.Mask({name: before[name] for name in names})
    scored = score.Scored(run.network.build(), worker.store.weights(run.trained), living, seed=run.score_seed)
    expected = prune.globally(score.random(scored), living, 0.5)
    assert dict(after.counts) == dict(expected.counts) and overlaps(after, expected)[-1].overlap == 1


def test_the_ticket_is_the_mask_on_the_rewind_weights_not_on_the_trained(lab: Lab, tmp_path: Path) -> None:  # R10
    wanted, worker = lab()
    for level in range(4):
        made = ticket_of(wanted, worker.store, level, 0)
        run = tickets(wanted)[level]
        assert weights.equal(made.weights, starts_of(run, worker)), f"level {level}"
        made.save(tmp_path / "ticket.safetensors")
        back = Ticket.load(tmp_path / "ticket.safetensors")
        assert back.mask == made.mask and weights.equal(back.weights, made.weights)
    for level, replicate in ((4, 0), (-1, 0), (0, 1)):
        with pytest.raises(BadInput, match="expected 0 to"):
            ticket_of(wanted, worker.store, level, replicate)


def test_a_ticket_says_how_its_own_training_goes(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which a method may have go otherwise than the spec says."""

    def small(replicate: Replicate, levels: int) -> Iterator[Train]:
        recipe = replicate.recipe.model_copy(update={"batch": 30})
        yield from (replicate.train(replicate.rewind_point(), recipe=recipe) for _ in range(levels + 1))

    monkeypatch.setitem(METHODS, "small", Method("small", small, "Smaller batches"))  # type: ignore[arg-type]
    wanted = planned(method="small", levels=0)
    accomplish([tickets(wanted)[0].start], worker)
    assert ticket_of(wanted, worker.store, 0, 0).origin["recipe"]["batch"] == 30


# ---------------------------------------------------------------- the same again


@pytest.mark.parametrize("changes", [{}, {"prune": {"score": "random"}}], ids=["magnitude", "random"])
def test_doing_it_twice_gives_the_same_bytes(lab: Lab, worker: Worker, changes: dict[str, Any]) -> None:  # K11 K12 K13
    wanted, once = lab(arms=["ticket", "reinit", "random", "shuffle"], **changes)
    for number, run in enumerate(wanted.runs):
        scramble(number)  # the process-wide generators have no say
        assert do(run, worker, lambda *seen: None) == ("stored",)
    assert outcomes(worker.store) == outcomes(once.store)


def test_what_was_done_before_in_the_process_makes_no_difference(lab: Lab, worker: Worker) -> None:
    """The last ticket alone, its inputs deepest first, in a process that has just done other things."""
    wanted, once = lab(arms=["ticket", "reinit", "random", "shuffle"])
    accomplish([tickets(planned(seed=5, levels=1))[1]], worker)
    last = tickets(wanted)[-1]
    accomplish([last], worker)
    both = outcomes(worker.store)
    assert all(outcomes(once.store)[path] == both[path] for path in both if last.key in path)


# ---------------------------------------------------------------- early stop and evaluation


def test_the_early_stop_is_the_first_minimum_of_the_validation_loss(lab: Lab) -> None:  # E1 E8
    wanted, worker = lab(recipe=RECIPE | {"optimizer": {"name": "adam", "lr": 0.1}}, evaluate={"every": "1it"})
    inside = 0
    for run in tickets(wanted):
        values = worker.store.values(run)
        losses, steps = values["curve"]["validation_loss"], values["curve"]["step"]
        assert steps == list(range(41)) and len(losses) == 41
        lowest = min(losses)
        assert values["early_stop_step"] == next(
            step for step, loss in zip(steps, losses, strict=True) if loss == lowest
        )
        assert values["early_stop_validation_loss"] == lowest and values["final_validation_loss"] == losses[-1]
        inside += 0 < values["early_stop_step"] < 40
    assert inside, "with this learning rate some stop lies inside"


def test_accuracies_at_the_early_stop_are_those_of_the_weights_at_that_step(lab: Lab, worker: Worker) -> None:  # E1 E11
    """The same training, ended at the early stop: its last weights are the other's at that step."""
    wanted, whole = lab(recipe=RECIPE | {"optimizer": {"name": "adam", "lr": 0.1}}, evaluate={"every": "1it"})
    for run in tickets(wanted)[:2]:
        values = whole.store.values(run)
        ended = replace(run, until=values["early_stop_step"])
        accomplish([ended], worker)
        found = worker.store.values(ended)
        assert found["final_validation_loss"] == values["early_stop_validation_loss"]
        assert found["final_test_accuracy"] == values["early_stop_test_accuracy"]
        assert found["final_train_accuracy"] == values["early_stop_train_accuracy"]
        assert values["final_test_accuracy"] == evaluated(whole, run)


def evaluated(worker: Worker, run: Train) -> float:
    """Test accuracy of the stored weights, every one of the 597 examples counted once."""
    dataset = worker.dataset("digits")
    model = models.build("lenet-20-10", (1, 8, 8), 10, "glorot-normal", init_seed=0)
    state = worker.store.weights(run)
    weights.put(model, {name: state[name].reshape(own.shape) for name, own in model.state_dict().items()})
    correct = int((model(dataset.inputs(dataset.test_images)).argmax(dim=1) == dataset.test_labels).sum())
    return correct / 597


def test_looks_come_when_asked_for_and_at_both_ends(worker: Worker) -> None:
    run = planned(levels=0, evaluate={"every": "7it", "test_every": "15it"}).rows[0].run
    seen: list[tuple[int, int, float]] = []
    accomplish([run.start], worker)
    curve = run.perform(worker, lambda *said: seen.append(said)).values["curve"]
    assert curve["step"] == [0, 7, 14, 21, 28, 35, 40] and curve["test_step"] == [0, 15, 30, 40]
    assert all(len(curve[name]) == 7 for name in ("validation_loss", "validation_accuracy"))
    assert [(done, total) for done, total, _ in seen] == [(step, 40) for step in curve["step"]]
    assert [loss for *_, loss in seen] == curve["validation_loss"]


def test_training_validation_and_test_examples_are_apart(worker: Worker) -> None:  # E2
    dataset = worker.dataset("digits")
    splits = [data.split(dataset, tickets(planned(replicates=3))[row].split_seed) for row in (0, 4, 8)]
    for training, validation in splits:
        assert (len(training), len(validation)) == (1000, 200)
        assert sorted([*training.tolist(), *validation.tolist()]) == list(range(1200))
    assert len({tuple(validation.tolist()) for _, validation in splits}) == 3, "each replicate holds out its own"
    pool = {image.numpy().tobytes() for image in dataset.images}
    assert not pool & {image.numpy().tobytes() for image in dataset.test_images}


@pytest.mark.parametrize("which", ["test", "validation"])
def test_what_is_held_out_does_not_touch_the_weights(lab: Lab, tmp_path: Path, which: str) -> None:  # E1 E2
    """With other test answers only test accuracies change; with other validation answers the early stop may, too."""
    wanted, worker = lab()
    run = tickets(wanted)[0]
    dataset = data.load("digits")
    if which == "test":
        dataset.test_labels.copy_(dataset.test_labels.flip(0))
    else:
        places = data.split(dataset, run.split_seed)[1]
        dataset.labels[places] = dataset.labels[places].flip(0)
        dataset.images[places] = 16 - dataset.images[places]
    other = Worker(worker.store, tmp_path, "reference")
    other.dataset = lambda name: dataset  # type: ignore[method-assign]
    outcome, before = run.perform(other), worker.store.values(run)
    assert weights.equal(outcome.tensors["weights"], worker.store.tensors(run, "weights"))
    changed = {name for name in before if outcome.values[name] != before[name]}
    assert changed and all(which in name or name == "curve" or "early_stop" in name for name in changed)
    if which == "test":
        assert changed == {"early_stop_test_accuracy", "final_test_accuracy", "curve"}
        curves = outcome.values["curve"], before["curve"]
        assert {name for name in curves[0] if curves[0][name] != curves[1][name]} == {"test_accuracy"}


# ---------------------------------------------------------------- what goes wrong


def test_a_training_that_diverges_says_when_and_what_to_do(worker: Worker) -> None:
    run = planned(levels=0, recipe=RECIPE | {"optimizer": {"name": "sgd", "lr": 1e30}}).rows[0].run
    accomplish([run.start], worker)
    with pytest.raises(Diverged, match=r"the validation loss is (nan|inf) after 5 steps.*Lower recipe\.optimizer\.lr"):
        run.perform(worker)
    what, reason, log = do(run, worker, lambda *seen: None)
    assert what == "failed" and "after 5 steps" in reason and "Diverged" in log
    assert not worker.store.has(run) and not list((worker.store.root / "tmp").iterdir())


def test_an_input_that_is_not_there_stops_everything(worker: Worker) -> None:
    run = planned(levels=0).rows[0].run
    what, error = do(run, worker, lambda *seen: None)
    assert what == "stop" and isinstance(error, StoreError) and run.start.key in error.where


def test_a_bug_of_ours_fails_one_run_and_is_logged(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError("oh")

    monkeypatch.setattr(Init, "perform", broken)
    what, reason, log = do(planned().runs[0], worker, lambda *seen: None)
    assert (what, reason) == ("failed", "ZeroDivisionError: oh") and re.search(r"in broken\n.*\n.*oh", log)


def test_no_room_is_no_failure_of_the_run(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    init = planned().runs[0]
    with monkeypatch.context() as patched:
        patched.setattr("os.fsync", lambda handle: (_ for _ in ()).throw(OSError(28, "No space left on device")))
        what, error = do(init, worker, lambda *seen: None)
    assert what == "stop" and "No space left on device" in str(error) and "run the same command again" in str(error)
    assert not worker.store.has(init) and not list((worker.store.root / "tmp").iterdir())
    assert do(init, worker, lambda *seen: None) == ("stored",)


def test_what_another_process_has_claimed_is_left_to_it(worker: Worker) -> None:
    init = planned().runs[0]
    with Store(worker.store.root).claim(init):
        assert do(init, worker, lambda *seen: None) == ("elsewhere",)
    assert do(init, worker, lambda *seen: None) == ("stored",)


def test_what_is_stored_is_not_done_again(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    init = planned().runs[0]
    assert do(init, worker, lambda *seen: None) == ("stored",)
    monkeypatch.setattr(Init, "perform", lambda *_: pytest.fail("done again"))
    assert do(init, worker, lambda *seen: None) == ("stored",)


def test_how_it_came_about_is_recorded_beside_the_outcome(lab: Lab) -> None:
    wanted, worker = lab()
    run = tickets(wanted)[0]
    found = worker.store.provenance(run)
    assert found["seconds"] > 0 and found["threads"] == 1 and found["device"] == "cpu"
    assert found["torch"] == torch.__version__ and {"tombola", "git", "python", "machine", "finished"} <= found.keys()
    assert not found.keys() & worker.store.values(run).keys(), "none of it is in what must not change"


# ---------------------------------------------------------------- further inputs


class Imitation(Objective):
    """|theta - theta_teacher|^2 / 2: whose gradient step of length 1 ends at the teacher."""

    name: Literal["imitation"] = "imitation"

    def loss(
        self, model: nn.Module, batch: tuple[Tensor, Tensor], inputs: Mapping[str, Mapping[str, Tensor]]
    ) -> Tensor:
        teacher = inputs["teacher"]
        return sum(((mine - teacher[name]) ** 2).sum() / 2 for name, mine in model.named_parameters())  # type: ignore[return-value]


@pytest.mark.parametrize("engine", ["auto", "reference", "stacked"])
def test_a_training_hands_what_else_it_was_given_to_its_objective(engine: Any, tmp_path: Path) -> None:
    dense = planned(levels=0).rows[0].run
    table = RECIPE | {"optimizer": {"name": "sgd", "lr": 1.0}, "length": "1it", "objective": Imitation()}
    teacher = replace(dense, order_seed=9)
    pupil = replace(dense, recipe=Recipe.model_validate(table), until=1, further=(("teacher", teacher),))
    assert teacher in pupil.inputs and pupil.key != replace(pupil, further=(("teacher", dense),)).key
    worker = Worker(Store(tmp_path / "store").open(), None, engine)
    accomplish([pupil], worker)
    ours, theirs = worker.store.weights(pupil), worker.store.weights(teacher)
    assert all(torch.allclose(ours[name], theirs[name], atol=1e-6) for name in theirs)
    assert not weights.equal(worker.store.weights(pupil.start), ours)
