"""Gradient norms and the way back to the pruned solution: the numbers, the sentences, the study on real digits."""

import copy
from math import sqrt
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tombola import mask as masks
from tombola import models, prunable
from tombola.cli import main
from tombola.errors import SpecError
from tombola.lab.kinds import Measured, Train, Watched
from tombola.lab.plan import plan
from tombola.lab.results import results
from tombola.lab.spec_file import read
from tombola.lab.store import Store
from tombola.mask import Mask
from tombola.study.gradients import Nearness, flow_sentence, flows, gradient_norm, nearness, return_sentence, returns


def masked(name: str = "lenet-20-10") -> tuple[nn.Module, Mask, torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(0)
    model = models.build(name, (1, 16, 16), 10, "glorot-normal", init_seed=0)
    alive = masks.random_like(
        Mask({one: torch.rand(kept.shape, generator=draw) < 0.3 for one, kept in prunable.full(model).items()}), 1
    )
    with torch.no_grad():
        for one, parameter in model.named_parameters():
            parameter.mul_(alive[one]) if one in alive else parameter.normal_(generator=draw)
    return model, alive, torch.randn(40, 1, 16, 16, generator=draw), torch.randint(10, (40,), generator=draw)


@pytest.mark.parametrize("name", ["lenet-20-10", "lenet-5", "resnet-20-w4"])
def test_the_norm_is_that_of_the_masked_loss_in_float64(name: str) -> None:
    model, alive, inputs, labels = masked(name)
    found = gradient_norm(model, alive, inputs, labels)
    exact = copy.deepcopy(model).double().train()
    loss = nn.functional.cross_entropy(exact(inputs.double()), labels)
    named = dict(exact.named_parameters())
    gradients = dict(zip(named, torch.autograd.grad(loss, list(named.values())), strict=True))
    kept = {one: each * alive[one] if one in alive else each for one, each in gradients.items()}
    assert found.all == pytest.approx(sqrt(sum(float(each.square().sum()) for each in kept.values())), rel=1e-4)
    assert dict(found.layers) == pytest.approx({one: float(kept[one].norm()) for one in alive}, rel=1e-3)
    assert found.all < sqrt(sum(float(each.square().sum()) for each in gradients.values())), "pruned weights count"


def test_the_network_is_left_as_it_was() -> None:
    model, alive, inputs, labels = masked("resnet-20-w4")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    gradient_norm(model.eval(), alive, inputs, labels)
    nearness(model, before, list(alive), inputs, (inputs, labels))
    assert not model.training and all(one.grad is None for one in model.parameters())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_network_is_at_no_distance_from_itself() -> None:
    model, alive, inputs, labels = masked()
    same = nearness(model, model.state_dict(), list(alive), inputs, (inputs, labels))
    assert same == Nearness(0.0, 0.0, 0.0, 0.0)


def test_distances_disagreement_and_barrier_are_those_of_a_second_way() -> None:
    model, alive, inputs, labels = masked()
    other = models.build("lenet-20-10", (1, 16, 16), 10, "glorot-normal", init_seed=1)
    found = nearness(model, other.state_dict(), list(alive), inputs, (inputs, labels))
    squares = sum(float((model.state_dict()[one] - other.state_dict()[one]).double().square().sum()) for one in alive)
    assert found.l2 == pytest.approx(sqrt(squares))
    assert found.disagreement == float((model(inputs).argmax(1) != other(inputs).argmax(1)).double().mean())
    between, errors = copy.deepcopy(model), []
    for step in range(11):
        ours, theirs = model.state_dict(), other.state_dict()
        between.load_state_dict({one: ours[one] + step / 10 * (theirs[one] - ours[one]) for one in ours})
        errors.append(float((between(inputs).argmax(1) != labels).double().mean()))
    assert found.barrier == pytest.approx(max(errors) - (errors[0] + errors[-1]) / 2, abs=0.026)


# ---------------------------------------------------------------- sentences


def norms(**arms: float) -> dict[str, dict[int, float]]:
    return {arm: {number: norm * (1 + 0.01 * number) for number in range(3)} for arm, norm in arms.items()}


@pytest.mark.parametrize(("ticket", "word"), [(4.0, "for."), (0.5, "against."), (1.0, "not shown.")])
def test_larger_gradients_than_new_weights_speak_for_and_smaller_ones_against(ticket: float, word: str) -> None:
    even = {**norms(ticket=ticket, reinit=1.0, random=1.0)}
    if word == "not shown.":
        even["ticket"][0] = 1.5
    assert f"at 5.0%: {word}" in flow_sentence(0.05, flows(even, even, 0.95))


def test_one_replicate_decides_nothing() -> None:
    one = {"ticket": {0: 9.0}, "reinit": {0: 1.0}}
    assert "one replicate decides nothing" in flow_sentence(0.05, flows(one, one, 0.95))
    near = {"ticket": {0: Nearness(1, 1, 0, 0)}, "reinit": {0: Nearness(9, 9, 1, 1)}}
    assert "one replicate decides nothing" in return_sentence(0.05, returns(near, 0.95))


def test_more_arms_widen_each_interval() -> None:
    few, many = norms(ticket=2.0, reinit=1.0), norms(ticket=2.0, reinit=1.0, random=1.0, other=1.0)
    few["ticket"][0] = many["ticket"][0] = 1.5
    (alone,), (beside, *_) = flows(few, few, 0.95), flows(many, many, 0.95)
    assert beside.start.low < alone.start.low and alone.start.mean == beside.start.mean


def test_the_way_back_needs_both_a_shorter_distance_and_a_lower_barrier() -> None:
    near = {number: Nearness(1.0 + number / 100, 9, 0.01, 0.0) for number in range(3)}
    far = {number: Nearness(4.0, 60, 0.05, 0.4 + number / 100) for number in range(3)}
    level = {number: Nearness(4.0, 60, 0.05, 0.0) for number in range(3)}
    shown = return_sentence(0.05, returns({"ticket": near, "reinit": far, "random": level}, 0.95))
    assert "shown against reinit, not against random" in shown


# ---------------------------------------------------------------- the study


SPEC = """
replicates = 2
levels = 2
arms = ["ticket", "reinit", "sparse-init"]
rewind = ["6it"]
recipe = {model = "lenet-20-10", data = "digits", length = "40it", batch = 60, optimizer = {name = "adam", lr = 1e-2}}
prune = {rate = 0.4}
evaluate = {every = "8it", test_every = "20it"}
study.gradients = {levels = [2], arms = ["ticket", "reinit"], every = "10it", examples = 200}
"""


def test_the_study_watches_every_arm_and_measures_where_it_ends(tmp_path: Path) -> None:
    (tmp_path / "tiny.toml").write_text(SPEC)
    assert main(["run", str(tmp_path / "tiny.toml"), "--store", str(tmp_path / "store")]) == 0
    wanted = plan(read(str(tmp_path / "tiny.toml")))
    asked = [question for question in wanted.questions]
    watched = [each.run for each in asked if isinstance(each.run, Watched)]
    assert {each.looks for each in watched} == {(6, 10, 20, 30, 40)}
    assert {each.arm for each in asked} == {"dense", "ticket", "reinit", "pruned"}
    store = Store(tmp_path / "store")
    for each in asked:
        if each.part == "end" and each.arm == "ticket":
            assert isinstance(each.run, Measured) and isinstance(each.run.trained, Train)
            pruned, kept = (run for _, run in each.run.further or ())
            solution = masks.apply(store.weights(pruned), store.mask(kept))
            ended = store.weights(each.run.trained)
            apart = sum(float((ended[name] - solution[name]).double().square().sum()) for name in store.mask(kept))
            assert store.values(each.run)["l2"] == pytest.approx(sqrt(apart))
    sentences = [each.finding.sentence if hasattr(each, "finding") else each.sentence for each in found(wanted, store)]
    assert any("Favourable gradients at 36" in one for one in sentences)
    assert any("Back to the pruned solution at 36" in one for one in sentences)


def found(wanted: Any, store: Store) -> list[Any]:
    return list(results(wanted, store).findings)


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ("{levels = [0]}", "levels from 1 to 2"),
        ("{levels = [1], arms = ['random']}", "arms of the spec"),
        ("{levels = [1], arms = ['reinit']}", "the ticket, which all others are held against"),
        ("{levels = [1], every = '0it'}", "at least one step"),
        ("{levels = [1], examples = 0}", "expected a number >= 1"),
    ],
)
def test_what_cannot_be_is_refused(tmp_path: Path, table: str, words: str) -> None:
    (tmp_path / "tiny.toml").write_text(
        SPEC.replace(SPEC[SPEC.index("study.gradients") :], f"study.gradients = {table}")
    )
    with pytest.raises(SpecError, match=words):
        read(str(tmp_path / "tiny.toml"))


def test_the_norm_of_numbers_and_of_tasks_is_that_of_their_loss() -> None:
    draw = torch.Generator().manual_seed(0)
    model, inputs = nn.Sequential(nn.Linear(3, 2)), torch.randn(9, 3, generator=draw)
    alive = prunable.full(model)
    tasks, numbers = torch.randint(2, (9, 2), generator=draw), torch.randn(9, generator=draw)
    one = nn.Sequential(nn.Linear(3, 1))
    losses = {"numbers": (one, numbers), "tasks": (model, tasks)}
    wanted = {
        "numbers": (one(inputs).squeeze(1) - numbers).square().mean(),
        "tasks": nn.functional.binary_cross_entropy_with_logits(model(inputs), tasks.float(), reduction="sum") / 9,
    }
    for kind, (network, labels) in losses.items():
        gradients = torch.autograd.grad(wanted[kind], list(network.parameters()))
        found = gradient_norm(network, prunable.full(network), inputs, labels).all
        assert found == pytest.approx(sqrt(sum(float(each.square().sum()) for each in gradients)), rel=1e-4)
    solution = {name: -value for name, value in model.state_dict().items()}  # the other answer, always
    assert nearness(model, solution, list(alive), inputs, (inputs, tasks)).disagreement == 1


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        (["method=snip"], {"course"}),  # theta_k is where the ticket begins, and no solution
        (["method=colt"], {"course"}),  # pruned by two networks, each of half of the classes
        (["method=one-shot"], {"course", "end", "pruned"}),
        (["recipe.data=table:diabetes"], {"course", "pruned"}),  # numbers are never the same
    ],
)
def test_only_a_solution_of_answers_to_be_counted_is_gone_back_to(changes: list[str], parts: set[str]) -> None:
    asked = ["recipe.model=lenet-20-10", "levels=1", "replicates=1", "rewind=6it", "study.gradients.levels=1"]
    wanted = plan(read("digits-lenet", ["arms=ticket", "recipe.length=60it", *asked, *changes]))
    assert {question.part for question in wanted.questions} == parts
