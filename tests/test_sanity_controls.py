"""Inverted masks, and masks of searches on corrupted data: what each differs in, and when it is refused."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tombola import prune
from tombola.controls import CONTROLS
from tombola.errors import BadInput
from tombola.going import first_to_go
from tombola.lab import spec_file
from tombola.lab.attempt import do
from tombola.lab.kinds import InvertedMask, Prune, Train
from tombola.lab.plan import Plan, plan
from tombola.lab.replicate import Replicate
from tombola.lab.spec import Experiment, Spec
from tombola.lab.store import Store
from tombola.lab.worker import Worker
from tombola.mask import Mask

SPEC: dict[str, Any] = {
    "replicates": 1,
    "densities": [0.6, 0.4, 0.1],
    "recipe": {
        "model": "lenet-20-10",
        "data": "digits-300",
        "length": "12it",
        "batch": 60,
        "optimizer": {"name": "adam", "lr": 1e-2},
    },
    "evaluate": {"every": "6it", "test_every": "12it"},
}


def planned(**changes: Any) -> Plan:
    return plan(Experiment(name="tiny", spec=Spec.model_validate(SPEC | changes)))


def runs(wanted: Plan, arm: str) -> list[Train]:
    return [row.run for row in wanted.rows if row.arm == arm]


def performed(wanted: Plan, folder: Path) -> Store:
    worker = Worker(Store(folder / "store").open(), None)
    for run in wanted.runs:
        assert do(run, worker, lambda *seen: None) == ("stored",)
    return worker.store


def masks(store: Store, trainings: list[Train]) -> list[Mask]:
    return [store.mask(run.mask) for run in trainings if run.mask]


# ---------------------------------------------------------------- the order in which weights go


@settings(deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 4), st.booleans())
def test_what_pruning_lets_go_is_what_comes_first(seed: int, rounds: int, whole: bool) -> None:
    """Of the order in which weights go, the first are those that pruning has removed, to the last tie."""
    draw = torch.Generator().manual_seed(seed)
    shapes = {"a": (4, 5), "b": (3, 3)}
    mask = Mask({name: torch.ones(shape, dtype=torch.bool) for name, shape in shapes.items()})
    full, steps = mask, []
    for _ in range(rounds):
        scores = {name: torch.randint(6, shape, generator=draw).double() for name, shape in shapes.items()}  # with ties
        steps.append((mask, scores))
        mask = prune.globally(scores, mask, 0.4) if whole else prune.by_layer(scores, mask, dict.fromkeys(shapes, 0.4))
    gone = Mask({name: ~alive for name, alive in mask.items()})
    assert first_to_go(steps, gone) == gone
    inverse = first_to_go(steps, mask)
    assert inverse.counts == mask.counts
    for name, alive in full.items():
        if 2 * mask.counts[name] <= alive.numel():
            assert not (inverse[name] & mask[name]).any()


@given(st.permutations(range(12)), st.integers(0, 12))
def test_of_one_step_the_inverse_is_the_mask_of_the_inverted_score(order: list[int], kept: int) -> None:
    scores = torch.tensor(order).double()
    alive = Mask({"w": torch.ones(12, dtype=torch.bool)})
    like = Mask({"w": torch.arange(12) < kept})
    (pruned,) = (prune.by_layer({"w": -scores}, alive, {"w": 1 - kept / 12}),)
    assert first_to_go([(alive, {"w": scores})], like) == pruned


# ---------------------------------------------------------------- in the lab


@pytest.mark.parametrize(
    ("method", "prune_spec"),
    [
        ("iterative", {}),
        ("iterative", {"scope": "global"}),
        ("one-shot", {}),
        ("magnitude-init", {}),
        ("magnitude-init", {"keep": ["output"]}),
    ],
)
def test_an_inverse_has_the_counts_of_its_ticket_and_none_of_its_weights(
    method: str, prune_spec: dict[str, Any], tmp_path: Path
) -> None:
    wanted = planned(method=method, arms=["ticket", "invert"], prune=prune_spec)
    store = performed(wanted, tmp_path)
    pairs = zip(masks(store, runs(wanted, "ticket")), masks(store, runs(wanted, "invert")), strict=True)
    for ticket, inverse in pairs:
        assert inverse.counts == ticket.counts and inverse.keys() == ticket.keys()
        for name, alive in ticket.items():
            if 2 * ticket.counts[name] <= alive.numel():
                assert not (alive & inverse[name]).any()
            else:  # as few in both as there can be
                assert int((alive & inverse[name]).sum()) == 2 * ticket.counts[name] - alive.numel()


def test_the_inverse_of_a_network_pruned_at_once_are_its_smallest_weights(tmp_path: Path) -> None:
    wanted = planned(method="magnitude-init", arms=["ticket", "invert"])
    store = performed(wanted, tmp_path)
    start = store.weights(runs(wanted, "ticket")[0].start)
    for inverse in masks(store, runs(wanted, "invert")):
        for name, alive in inverse.items():
            sizes = start[name].abs()
            assert int(alive.sum()) > 0 and sizes[alive].max() < sizes[~alive].min()


def test_the_inverse_of_rounds_begins_with_the_first_round(tmp_path: Path) -> None:
    """What the first round lets go is kept first, then what the second one lets go."""
    wanted = planned(arms=["ticket", "invert"], prune={"scope": "global"})
    store = performed(wanted, tmp_path)
    mask = runs(wanted, "ticket")[-1].mask
    chain = []
    while isinstance(mask, Prune):
        chain.append(store.mask(mask))
        mask = mask.mask
    whole = Mask({name: torch.ones_like(alive) for name, alive in chain[0].items()})
    (*_, inverse) = masks(store, runs(wanted, "invert"))
    for before, after in pairwise([whole, *reversed(chain)]):
        for name in inverse:
            late = after[name] & inverse[name]  # kept, though it goes later
            early = before[name] & ~after[name] & ~inverse[name]  # not kept, though it goes now
            assert not (late.any() and early.any())


def test_an_inverse_names_its_rounds_and_costs_nothing() -> None:
    wanted = planned(arms=["ticket", "invert"])
    (*_, last) = runs(wanted, "invert")
    assert isinstance(last.mask, InvertedMask) and last.mask.like == runs(wanted, "ticket")[-1].mask
    rounds = [run for run in wanted.runs if type(run) is Prune]
    assert last.mask.earlier and len(last.mask.earlier) == len(rounds) - 1


@pytest.mark.parametrize("arm", ["random-labels", "shuffled-pixels", "half-data"])
def test_a_search_on_corrupted_data_is_the_same_but_for_its_data(arm: str) -> None:
    wanted = planned(arms=["ticket", arm])
    for ticket, run in zip(runs(wanted, "ticket"), runs(wanted, arm), strict=True):
        assert isinstance(ticket.mask, Prune) and isinstance(run.mask, Prune)
        ours, theirs = run.mask.trained, ticket.mask.trained
        assert isinstance(ours, Train) and isinstance(theirs, Train)
        assert (ours.recipe.data, theirs.recipe.data) == (f"digits-300+{CONTROLS[arm].data[0]}", "digits-300")
        assert ours.recipe.model_copy(update={"data": "digits-300"}) == theirs.recipe
        assert ours.start == theirs.start and ours.split_seed == theirs.split_seed
        assert run.recipe == ticket.recipe and run.start == ticket.start, "the ticket is trained on the true data"


def test_two_draws_of_half_data_are_the_two_halves() -> None:
    wanted = planned(arms=["ticket", "half-data"], draws={"half-data": 2})
    names = {run.recipe.data for run in wanted.runs if isinstance(run, Train)}
    assert names == {"digits-300", "digits-300+first-half", "digits-300+second-half"}
    with pytest.raises(BadInput, match="the same training in several of 3 draws"):
        planned(arms=["ticket", "half-data"], draws={"half-data": 3})


def test_a_declared_arm_corrupts_the_data_of_its_own_search() -> None:
    own = {"fast": {"method": "one-shot", "control": "random-labels", "data": "digits-200", "length": "6it"}}
    wanted = planned(arms=["ticket", "fast"], arm=own)
    searched = [run for run in wanted.runs if isinstance(run, Train) and "+" in run.recipe.data]
    assert [(run.recipe.data, run.until) for run in searched] == [("digits-200+random-labels", 6)]
    assert {run.recipe.data for run in runs(wanted, "fast")} == {"digits-300"}


def test_a_search_that_looks_at_no_data_is_refused() -> None:
    with pytest.raises(BadInput, match="magnitude-init, which finds the same mask whatever the data"):
        planned(method="magnitude-init", arms=["ticket", "random-labels"])


def test_a_mask_that_no_score_has_made_has_no_inverse() -> None:
    replicate, (ticket, *_) = Replicate(Spec.model_validate(SPEC), 0), runs(planned(arms=["ticket"]), "ticket")
    assert ticket.mask
    with pytest.raises(BadInput, match="expected a mask that pruning by a score has made, found random-"):
        replicate.inverted_mask(replicate.random_mask(ticket.mask, "one"))


def test_data_that_cannot_be_corrupted_are_refused_before_anything_is_planned(tmp_path: Path) -> None:
    def told(*changes: str) -> str:
        with pytest.raises(BadInput) as refused:
            spec_file.read("digits-lenet", [f"arms=ticket,{arm}" if i == 0 else arm for i, arm in enumerate(changes)])
        return str(refused.value)

    assert "so many examples that first-half leaves 10 of each class" in told("half-data", "recipe.data=digits-100")
    said = told("half-data", "recipe.data=digits-300", "recipe.batch=200")
    assert "arms: expected controls whose data make one batch of 200, found 'half-data'" in said
    assert "leave half-data out, or let batches have 125 examples at most" in said
