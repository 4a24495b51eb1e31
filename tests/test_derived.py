"""Masks and weights that a function makes of others, as controls ask for them: of an extension, and of the package."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tombola import mask, mask_codec, weights
from tombola.code import attribute
from tombola.errors import BadInput
from tombola.lab.attempt import do
from tombola.lab.kinds import DerivedMask, DerivedWeights, Train, mask_outcome
from tombola.lab.plan import Plan, plan
from tombola.lab.replicate import Replicate
from tombola.lab.runs import Stored
from tombola.lab.spec_file import read
from tombola.lab.store import Store
from tombola.lab.worker import Worker
from tombola.mask import Mask
from tombola.methods import METHODS

FLIPPED = """
from dataclasses import replace

import torch


def flip(weights, seed):
    draw = torch.Generator().manual_seed(seed)
    signs = {name: torch.randint(2, each.shape, generator=draw) * 2 - 1 for name, each in weights.items()}
    return {name: each * signs[name] for name, each in weights.items()}


def flipped(replicate, ticket, level, draw):
    return replace(ticket, start=replicate.derived_weights(flip, ticket.start, f"flipped {draw}"))


def grown(weights, trained, mask, seed):
    return {**weights, **{name: trained[name] * alive * (seed / 2**63) for name, alive in mask.items()}}


def signed(replicate, ticket, level, draw):
    beside = ticket, ticket.mask
    return replace(ticket, start=replicate.derived_weights(grown, ticket.start, "signed", beside))


def slip(replicate, ticket, level, draw):
    return replace(ticket, mask=replicate.derived(flip, ticket.start, "slip"))


def other_slip(replicate, ticket, level, draw):
    return replace(ticket, start=replicate.derived_weights(flip, ticket.mask, "slip"))


def again(replicate, levels):
    start = replicate.derived_weights(flip, replicate.rewind_point(), "again")
    yield replicate.train(start)
    yield replicate.train(start, replicate.prune(replicate.train(start), None))


CONTROLS = {"flipped": flipped, "signed": signed, "slip": slip, "other-slip": other_slip}
METHODS = {"again": again}
"""
CHANGES = ["levels=1", "replicates=1", "recipe.model=lenet-20-10", "recipe.length=24it", "evaluate.every=12it"]


def planned(folder: Path, *changes: str) -> Plan:
    (folder / "mine.py").write_text(FLIPPED)
    return plan(read("digits-lenet", [*CHANGES, "evaluate.test_every=24it", *changes], [folder / "mine.py"]))


def rows_of(wanted: Plan) -> dict[str, Train]:
    return {row.arm: row.run for row in wanted.rows}


@pytest.mark.parametrize(("step", "carries"), [("0it", False), ("6it", False), ("6it", True)])
def test_signs_flipped_at_random_are_a_control_of_the_weights(tmp_path: Path, step: str, carries: bool) -> None:  # K4
    changes = ["arms=ticket,flipped", "draws.flipped=2", f"rewind={step}", f"carry_optimizer={str(carries).lower()}"]
    wanted, worker = planned(tmp_path, *changes), Worker(Store(tmp_path / "store").open(), None)
    for run in wanted.runs:
        assert do(run, worker, lambda *_: None) == ("stored",)
    ticket, store = rows_of(wanted)["ticket"], worker.store
    starts = []
    for run in (row.run for row in wanted.rows if row.arm == "flipped"):
        assert isinstance(run.start, DerivedWeights) and run.start.of == ticket.start and run.mask == ticket.mask
        own, others = store.weights(ticket.start), store.weights(run.start)
        assert own.keys() == others.keys()
        for name, value in others.items():
            assert torch.equal(value.abs(), own[name].abs())
            signs = (value != own[name])[own[name] != 0].float()
            assert len(signs) < 50 or 0.4 < signs.mean() < 0.6
        assert (run.optimizer_state == "carried") == store.holds(run.start, "optimizer") == carries
        if carries:
            assert weights.equal(store.tensors(run.start, "optimizer"), store.tensors(ticket.start, "optimizer"))
        assert not weights.equal(store.weights(run), store.weights(ticket))
        starts.append(others)
    assert not weights.equal(*starts)


def test_a_function_of_weights_is_handed_the_weights_and_masks_beside_them(tmp_path: Path) -> None:  # K4
    wanted, worker = planned(tmp_path, "arms=ticket,signed"), Worker(Store(tmp_path / "store").open(), None)
    for run in wanted.runs:
        assert do(run, worker, lambda *_: None) == ("stored",)
    (ticket, made), store = (rows_of(wanted)[arm] for arm in ("ticket", "signed")), worker.store
    assert isinstance(made.start, DerivedWeights) and made.start.inputs == (ticket.start, ticket, ticket.mask)
    trained, start, found = (store.weights(run) for run in (ticket, ticket.start, made.start))
    for name, value in found.items():
        expected = trained[name] * (made.start.weights_seed / 2**63) if name.endswith("weight") else start[name]
        assert torch.equal(value, expected)


def test_a_method_that_starts_from_derived_weights_carries_the_optimizer_over_too(tmp_path: Path) -> None:
    wanted = planned(tmp_path, "arms=ticket,again", "rewind=6it", "carry_optimizer=true")
    assert {run.optimizer_state for run in rows_of(wanted).values()} == {"carried"}


@pytest.mark.parametrize(
    ("arm", "message"),
    [
        ("slip", "expected the run of a mask, as ticket.mask is, found init-[0-9a-f]*, which makes weights"),
        ("other-slip", "expected the run of weights, as ticket.start is, found prune-[0-9a-f]*, which makes a mask"),
    ],
)
def test_weights_for_a_mask_and_the_reverse_are_refused_when_planning(tmp_path: Path, arm: str, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        planned(tmp_path, f"arms=ticket,{arm}")


# ---------------------------------------------------------------- functions of the package


def replicate() -> tuple[Replicate, Train]:
    made = Replicate(read("digits-lenet", CHANGES).spec, 0)
    return made, list(METHODS["iterative"].search(made, 1))[1]


def test_a_function_of_the_package_is_found_by_its_name_alone(tmp_path: Path) -> None:
    made, ticket = replicate()
    assert ticket.mask
    run = made.derived(mask.shuffle, ticket.mask, "other places")
    assert run == DerivedMask(ticket.mask, "tombola.mask:shuffle", None, made.seed("other places"))
    worker, like = Worker(Store(tmp_path / "store").open(), None), Mask({"w": torch.arange(99) < 40})
    worker.store.save(Stored("like"), mask_outcome(like), {})
    packed = replace(run, like=Stored("like")).perform(worker).tensors["mask"]
    assert weights.equal(packed, mask_codec.pack(mask.shuffle(like, run.mask_seed)))
    with pytest.raises(LookupError, match="json is no module of the package"):
        attribute("json:dumps", None)


class Outside:
    @staticmethod
    def function(living: Any, seed: int) -> Any: ...


def outside(living: Any, seed: int) -> Any: ...


@pytest.mark.parametrize("function", [lambda living, seed: living, Outside.function, outside, json.dumps, 3])
def test_what_workers_would_not_find_is_refused(function: Any) -> None:
    made, ticket = replicate()
    asking: list[tuple[Any, Any]] = [(made.derived, ticket.mask), (made.derived_weights, ticket.start)]
    for derived, of in asking:
        with pytest.raises(BadInput, match="expected a function at the top level of an extension, or of a module of t"):
            derived(function, of, "other")


# ---------------------------------------------------------------- what a function of weights may return


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (None, "what made makes: expected tensors by name, found NoneType"),
        ({"w": 1}, "what made makes: expected tensors by name, found dict"),
        ({}, r"what made makes: expected w \(2,\), found no w"),
        ({"w": torch.ones(2), "v": torch.ones(2)}, r"what made makes: expected no v, found v \(2,\)"),
        ({"w": torch.ones(3)}, r"what made makes: expected w \(2,\), found w \(3,\)"),
        ({"w": torch.ones(2).double()}, "w of what made makes: expected finite numbers of type torch.float32, found t"),
        ({"w": torch.tensor([1, torch.inf])}, "w of what made makes: expected .*, found NaN or infinity. Return all"),
    ],
)
def test_what_is_no_such_weights_is_refused(made: Any, message: str) -> None:
    def function(start: dict[str, Tensor], seed: int) -> Any:
        return made

    function.__name__ = "made"
    with pytest.raises(BadInput, match=message):
        weights.derived(function, {"w": torch.zeros(2)}, 0)


def test_the_weights_that_others_are_made_of_stay_and_what_is_drawn_begins_at_the_seed() -> None:  # K9 K11
    start = {"w": torch.zeros(2)}

    def drawn(start: dict[str, Tensor], seed: int) -> dict[str, Tensor]:
        start["w"] += torch.rand(2)
        return start

    made = [weights.derived(drawn, start, seed)["w"] for seed in (1, 1, 2)]
    assert torch.equal(made[0], made[1]) and not torch.equal(made[0], made[2]) and not start["w"].any()
