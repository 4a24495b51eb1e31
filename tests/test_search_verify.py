"""Controls are the result: they differ from the ticket in what they declare, and in nothing else."""

import copy
import hashlib
import itertools
import json
import random
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from tombola import mask, prunable, weights
from tombola.control import Control
from tombola.controls import CONTROLS
from tombola.errors import BadInput
from tombola.mask import Mask
from tombola.replicate import Draws, T
from tombola.search import Level, Report, Search, Verification
from tombola.search.grain import grain
from tombola.search.verdict_settings import VerdictSettings, criteria_of, trial_of
from tombola.study.further import Numbers, further
from tombola.study.paired import paired
from tombola.study.verdict import Criteria, Metric, judge

STEPS = 6
INPUTS = torch.randn(64, 6, generator=torch.Generator().manual_seed(1))
LABELS = (INPUTS[:, 0] > 0).long() + (INPUTS[:, 1] > 0).long()


def network() -> nn.Sequential:
    return nn.Sequential(nn.Linear(6, 12), nn.BatchNorm1d(12), nn.ReLU(), nn.Dropout(0.1), nn.Linear(12, 3))


class Lab:
    """A search that is done, its loop, and all that the loop saw."""

    def __init__(self, rewind: str = "0it", rate: float = 0.5, levels: int = 2, **options: Any) -> None:
        torch.manual_seed(7)
        self.model = network()
        self.start = weights.of(self.model)
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=0.02)
        self.scheduler = torch.optim.lr_scheduler.StepLR(self.optimizer, 2, 0.5)
        self.accuracy: Callable[[Level], float] | None = None
        self.seen: list[dict[str, Any]] = []
        self.search = Search(
            self.model, self.optimizer, levels=levels, rate=rate, rewind=rewind, scheduler=self.scheduler, **options
        )
        for level in self.search:
            self.train(level)
        self.seen = []

    def train(self, level: Level) -> None:
        note: dict[str, Any] = {"mask": level.mask, "batches": [], "states": [weights.of(self.model)], "rates": []}
        self.seen.append(note)
        self.model.train()
        for step in range(level.begin, STEPS):
            places = torch.randint(len(INPUTS), (16,))
            note["batches"].append(places.tolist())
            note["rates"].append(self.optimizer.param_groups[0]["lr"])
            self.optimizer.zero_grad()
            functional.cross_entropy(self.model(INPUTS[places]), LABELS[places]).backward()
            self.optimizer.step()
            note["states"].append(weights.of(self.model))
            self.scheduler.step()
            if step % 2:
                self.evaluate(level)

    def evaluate(self, level: Level) -> None:
        self.model.eval()
        with torch.no_grad():
            outputs = self.model(INPUTS)
        self.model.train()
        accuracy = self.accuracy(level) if self.accuracy else (outputs.argmax(1) == LABELS).float().mean()
        level.report(accuracy=accuracy, validation_loss=functional.cross_entropy(outputs, LABELS))

    def verify(self, **options: Any) -> Verification:
        given: dict[str, Any] = {"level": 2, "replicates": 2, "build": network} | options
        return self.search.verify(self.train, **given)


ARMS = ("dense", "ticket", "reinit", "random", "shuffle")
EVERY = ("reinit", "random", "shuffle")


@pytest.mark.parametrize("k", [0, 3])
def test_arms_share_all_but_what_they_declare(k: int) -> None:  # K1 K2 K3 K4 K5 K7 K8 K10 K11 K12 K13
    lab = Lab(f"{k}it")
    found = lab.verify(controls=EVERY)
    assert [(trial.arm, trial.replicate) for trial in found.trials] == [(arm, n) for n in (0, 1) for arm in ARMS]
    ticket, theta = lab.search.mask(2), lab.search.ticket(0).weights
    replicates = [dict(zip(ARMS, lab.seen[5 * n : 5 * n + 5], strict=True)) for n in (0, 1)]
    for arms in replicates:
        for arm in ARMS:
            assert arms[arm]["batches"] == arms["dense"]["batches"] and arms[arm]["rates"] == arms["dense"]["rates"]
        begun = {arm: arms[arm]["states"][k] for arm in ARMS}
        assert weights.equal(begun["dense"], theta)
        assert weights.equal(begun["ticket"], mask.apply(theta, ticket))
        for arm in ("random", "shuffle"):
            other = arms[arm]["mask"]
            assert other.counts == ticket.counts and other != ticket  # K1: other places, as many
            assert weights.equal(begun[arm], mask.apply(theta, other))
        drawn = arms["reinit"]["states"]
        assert arms["reinit"]["mask"] == ticket
        for name, alive in ticket.items():
            assert not (begun["reinit"][name][~alive] != 0).any() and (begun["reinit"][name][alive] != 0).all()
            # K4: not the old weights at other places
            old = set(lab.start[name].flatten().tolist())
            assert not old & set(drawn[0][name][drawn[0][name] != 0].flatten().tolist())
        if k:  # K7: built anew, name by name, and trained for k steps itself
            assert not weights.equal(drawn[0], drawn[k]) and weights.equal(arms["ticket"]["states"][0], lab.start)
            for name, alive in ticket.items():
                moved = (drawn[k][name] - drawn[0][name])[alive].abs().max()
                assert 0 < moved < 0.1 and not torch.equal(drawn[k][name], begun["ticket"][name])
            assert torch.equal(drawn[0]["1.weight"], torch.ones(12)) and drawn[0]["0.weight"].count_nonzero() == 72
    first, second = replicates
    assert first["dense"]["batches"] != second["dense"]["batches"]
    for arm in ("random", "shuffle"):
        assert first[arm]["mask"] != second[arm]["mask"]
    assert not torch.equal(first["reinit"]["states"][0]["0.weight"], second["reinit"]["states"][0]["0.weight"])


def test_a_loop_that_starts_at_step_k_is_verified_from_there() -> None:
    lab = Lab("3it", replay=False)
    lab.verify(controls=["random"], build=None)
    dense, ticket, chance = lab.seen[:3]
    assert dense["batches"] == ticket["batches"] == chance["batches"] and len(dense["batches"]) == 3
    assert weights.equal(ticket["states"][0], lab.search.ticket(2).weights)


def test_a_control_that_is_the_ticket_is_not_found_different() -> None:
    lab = Lab(rate=0.0, levels=2)
    found = lab.verify(controls=["random", "shuffle"], replicates=3, margin=0.02)
    by_arm = {
        arm: [(t.accuracy, t.step) for t in found.trials if t.arm == arm] for arm in ("dense", "ticket", "random")
    }
    assert by_arm["dense"] == by_arm["ticket"] == by_arm["random"]
    for control in found.verdict.controls:
        assert control.result == "not shown" and control.accuracy.mean == 0
    assert found.verdict.verdict in ("matching", "winning")
    assert "a random mask with the same layer-wise counts is as accurate as the ticket, within 2 points" in str(found)


def planted(lab: Lab, good: Mask) -> Callable[[Level], float]:
    """Only dense and `good` networks are accurate, all replicates by some luck that their arms share."""

    def accuracy(level: Level) -> float:
        luck = torch.initial_seed() % 1000 / 20_000
        return luck + (0.9 if level.number == 0 or level.mask == good else 0.5)

    return accuracy


def test_a_ticket_that_is_better_than_chance_is_found_so() -> None:  # K15
    lab = Lab()
    lab.accuracy = planted(lab, lab.search.mask(2))
    found = lab.verify(controls=["random"], replicates=3)
    assert found.verdict.verdict in ("matching", "winning") and found.verdict.dense.accuracy.n == 3
    assert [(control.against, control.result) for control in found.verdict.controls] == [("random", "better")]
    lines = str(found).splitlines()
    assert "It matters which weights are kept: the ticket is more accurate than a random mask" in " ".join(lines)
    assert lines[-1] == (
        "The replicates are 3 data orders of one initialisation: this is about this ticket, not about others."
    )
    lab.accuracy = planted(lab, mask.random_like(lab.search.mask(2), 0))
    assert lab.verify(controls=["random"], replicates=3).verdict.verdict == "losing"


def turned(living: Mask, seed: int) -> Mask:
    """The mask with the places of each layer in reverse order."""
    return Mask({name: alive.flatten().flip(0).view_as(alive) for name, alive in living.items()})


def test_a_control_of_ones_own_is_made_as_the_labs_are_and_speaks_for_itself() -> None:
    def mirror(replicate: Draws, ticket: T, level: int, draw: int) -> T:
        return replace(ticket, mask=replicate.derived(turned, ticket.mask, "mirror"))

    def redrawn(replicate: Draws, ticket: T, level: int, draw: int) -> T:
        return replace(ticket, start=replicate.rewind_point(init="redrawn"))

    mirrored = Control("mirror", mirror, claim="it matters where", what="a mirrored mask", about="")
    again = Control("redrawn", redrawn, claim="", what="other weights", about="")
    lab = Lab()
    lab.accuracy = planted(lab, lab.search.mask(2))
    found = lab.verify(controls=[mirrored, "random"], build=None, replicates=3)
    assert [control.against for control in found.verdict.controls] == ["mirror", "random"]
    assert [note["mask"] for note in lab.seen[2::4]] == [turned(lab.search.mask(2), 0)] * 3
    assert "It matters where: the ticket is more accurate than a mirrored mask" in " ".join(str(found).split())
    lab.seen = []
    lab.verify(controls=[again, "reinit"], replicates=1)
    _, ticket, other, reinit = lab.seen
    assert ticket["mask"] == other["mask"] == reinit["mask"]
    starts = [note["states"][0] for note in (ticket, other, reinit)]
    assert all(not weights.equal(left, right) for left, right in itertools.combinations(starts, 2))
    with pytest.raises(BadInput, match="for the control redrawn, found none"):
        lab.verify(controls=[again], build=None)
    with pytest.raises(BadInput, match="expected controls of different names, none of them dense or ticket, found ran"):
        lab.verify(controls=["random", replace(mirrored, name="random")])


@pytest.mark.parametrize(
    ("change", "differs"),
    [
        (lambda replicate, ticket: ticket, "one that differs in nothing"),
        (lambda replicate, ticket: replace(ticket, mask=ticket.mask), "one that differs in nothing"),
        (lambda replicate, ticket: replace(ticket, mask=None), "one whose mask is None"),
        (
            lambda replicate, ticket: replace(
                ticket,
                start=replicate.rewind_point(init="again"),
                mask=replicate.shuffled_mask(ticket.mask, "again"),
            ),
            "one that differs in mask, start",
        ),
        (lambda replicate, ticket: ticket.mask, "a Mask"),
    ],
)
def test_a_control_of_a_verification_differs_in_its_start_or_its_mask(change: Any, differs: str) -> None:  # K8
    bold = Control("bold", lambda replicate, ticket, level, draw: change(replicate, ticket), "", "", "")
    with pytest.raises(BadInput, match=f"control bold: expected a training that differs .*, found {differs}"):
        Lab().verify(controls=[bold], replicates=1)


def first_layer(living: Mask, seed: int) -> Mask:
    return Mask({name: living[name] for name in list(living)[:1]})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda replicate, like: replicate.derived(first_layer, like, "m"),
            "expected a mask of the layers that there are, 4.weight",
        ),
        (lambda replicate, like: replicate.derived(lambda like, seed: dict(like), like, "m"), "expected a Mask, found"),
        (
            lambda replicate, like: replicate.derived(lambda like, seed: None, like, "m"),
            "expected a Mask, found a None",
        ),
        (lambda replicate, like: prunable.full(network()), "control bold: expected a mask that keeps 27 weights"),
    ],
)
def test_a_control_of_a_verification_keeps_as_many_weights(change: Any, message: str) -> None:  # K6
    def bold(replicate: Draws, ticket: T, level: int, draw: int) -> T:
        return replace(ticket, mask=change(replicate, ticket.mask))

    with pytest.raises(BadInput, match=message):
        Lab().verify(controls=[Control("bold", bold, "", "", "")], replicates=1)


def flip(start: weights.Weights, seed: int) -> weights.Weights:
    """Other signs of what has two dimensions."""
    draw = torch.Generator().manual_seed(seed)
    signs = {name: torch.randint(2, value.shape, generator=draw) * 2 - 1 for name, value in start.items()}
    return {name: value * signs[name] if value.dim() == 2 else value for name, value in start.items()}


@pytest.mark.parametrize(("k", "replay"), [(0, True), (3, True), (3, False)])
def test_a_control_of_the_weights_begins_at_step_k_with_what_its_function_makes(k: int, replay: bool) -> None:  # K4
    def flipped(replicate: Draws, ticket: T, level: int, draw: int) -> T:
        return replace(ticket, start=replicate.derived_weights(flip, ticket.start, "flipped"))

    lab = Lab(f"{k}it", replay=replay)
    theta, alive = lab.search.ticket(0).weights, lab.search.mask(2)
    control = Control("flipped", flipped, claim="signs matter", what="other signs", about="", changes="start")
    lab.verify(controls=[control], build=None)
    ends = []
    for ticket, other in (lab.seen[1:3], lab.seen[4:6]):
        assert ticket["mask"] == other["mask"] and ticket["batches"] == other["batches"]
        begun, own = (note["states"][k if replay else 0] for note in (other, ticket))
        assert weights.equal(own, mask.apply(theta, alive))
        for name, value in begun.items():
            assert torch.equal(value.abs(), own[name].abs())
            assert torch.equal(value, own[name]) == (name not in alive)
        if replay and k:
            assert weights.equal(other["states"][0], ticket["states"][0]), "the way to step k is the ticket's"
        assert not weights.equal(other["states"][-1], ticket["states"][-1])
        ends.append(begun)
    assert not weights.equal(*ends), "other signs in each replicate"


@pytest.mark.parametrize("k", [0, 3])
def test_noise_is_on_the_survivors_of_step_k(k: int) -> None:
    lab = Lab(f"{k}it", replay=True)
    theta, alive = lab.search.ticket(0).weights, lab.search.mask(2)
    lab.verify(controls=["noisy-0.5", "noisy-3"], build=None)
    ticket, half, three = (note["states"][k] for note in lab.seen[1:4])
    for name, value in ticket.items():
        off, more = half[name] - value, three[name] - value
        assert torch.allclose(more, 6 * off, atol=1e-5)
        assert torch.equal(off != 0, alive[name]) if name in alive else torch.equal(value, half[name])
        assert name not in alive or not theta[name].equal(half[name])


def test_weights_for_a_mask_and_the_reverse_are_refused_in_a_verification() -> None:
    def slip(replicate: Draws, ticket: T, level: int, draw: int) -> T:
        return replace(ticket, mask=replicate.derived(turned, ticket.start, "slip"))

    def other(replicate: Draws, ticket: T, level: int, draw: int) -> T:
        return replace(ticket, start=replicate.derived_weights(flip, ticket.mask, "slip"))

    for make, message in (
        (slip, "mask: expected a Mask, found NoneType"),
        (other, "slip: expected weights, as"),
    ):
        with pytest.raises(BadInput, match=message):
            Lab().verify(controls=[Control("slip", make, claim="", what="a slip", about="")])


def test_weights_derived_from_drawn_ones_are_put_before_the_first_step_alone() -> None:
    def both(replicate: Draws, ticket: T, level: int, draw: int) -> T:
        start = replicate.derived_weights(flip, replicate.rewind_point(init="both"), "both")
        return replace(ticket, start=start)

    control, lab = Control("both", both, claim="", what="both", about=""), Lab()
    lab.verify(controls=[control], replicates=1)
    assert not weights.equal(lab.seen[2]["states"][0], lab.seen[1]["states"][0])
    with pytest.raises(BadInput, match="expected a control of the ticket's own weights at step 3, found both, which"):
        Lab("3it").verify(controls=[control])


def test_masks_and_draws_of_a_verification_stay_those_of_its_seed() -> None:
    """Verdicts that were reported once can be made again."""
    lab = Lab()
    lab.verify(controls=EVERY, replicates=1)
    ticket = lab.search.mask(2)
    reinit, chance, shuffled = lab.seen[2:]

    def seed(name: str) -> int:
        return int.from_bytes(hashlib.sha256(f"{name}/0/0".encode()).digest()[:8], "big") >> 1

    assert chance["mask"] == mask.random_like(ticket, seed("random mask"))
    assert shuffled["mask"] == mask.shuffle(ticket, seed("shuffled mask"))
    torch.manual_seed(seed("reinit"))
    assert weights.equal(reinit["states"][0], mask.apply(weights.of(network()), ticket))


def test_one_replicate_decides_nothing() -> None:  # K15
    found = Lab().verify(replicates=1, controls=["random"])
    assert found.verdict.verdict == "not decided" and "One replicate decides nothing" in str(found)


def test_the_early_stop_is_the_step_of_minimum_validation_loss() -> None:
    lab = Lab()
    losses = iter([3.0, 1.0, 2.0, 3.0, 2.0, 1.0] * 2)
    lab.evaluate = lambda level: level.report(  # type: ignore[method-assign]
        accuracy=(loss := next(losses)) / 10, validation_loss=loss
    )
    found = lab.verify(controls=[], replicates=2)
    stops = [(trial.arm, trial.step, round(trial.accuracy, 3), trial.censored) for trial in found.trials]
    assert stops == [("dense", 4, 0.1, False), ("ticket", 6, 0.1, True)] * 2
    assert found.criteria == Criteria(0.002, 2, accuracy_grain=0.1, step_grain=2, paced=True)
    lab.evaluate = lambda level: level.report(accuracy=0.5)  # type: ignore[method-assign]
    unpaced = lab.verify(controls=[], replicates=2)
    assert not unpaced.criteria.paced and {trial.step for trial in unpaced.trials} == {STEPS}


def test_afterwards_all_is_as_it_was() -> None:
    lab = Lab("3it")
    functional.cross_entropy(lab.model(INPUTS), LABELS).backward()
    gradients = [copy.deepcopy(parameter.grad) for parameter in lab.model.parameters()]

    def everything() -> Any:
        states: Any = lab.optimizer.state_dict()["state"]
        flat: dict[str, Tensor] = {f"{at}.{name}": value for at, each in states.items() for name, value in each.items()}
        return weights.of(lab.model) | {name: value.clone() for name, value in flat.items()}, (
            copy.deepcopy(lab.scheduler.state_dict()), lab.optimizer.param_groups[0]["lr"], lab.model.training,
            random.getstate(), np.random.get_state(legacy=False)["state"]["pos"], torch.get_rng_state().tolist(),
            repr(lab.search), lab.search.history,
        )  # fmt: skip

    tensors, rest = everything()
    lab.verify()
    again, same = everything()
    assert weights.equal(tensors, again) and rest == same
    for parameter, gradient in zip(lab.model.parameters(), gradients, strict=True):
        assert parameter.grad is not None and gradient is not None and torch.equal(parameter.grad, gradient)
    lab.accuracy = lambda level: 1 / 0
    with pytest.raises(ZeroDivisionError):
        lab.verify()
    assert weights.equal(tensors, everything()[0]) and not lab.model[0].weight._backward_hooks


def the_same() -> nn.Module:
    torch.manual_seed(7)
    return network()


def once_more() -> nn.Module:
    torch.manual_seed(8)
    return network()


def seeding(lab: Lab) -> None:
    plain = lab.train

    def train(level: Level) -> None:
        torch.manual_seed(0)
        plain(level)

    lab.train = train  # type: ignore[method-assign]


def silent(lab: Lab) -> None:
    lab.evaluate = lambda level: level.report(validation_loss=1.0)  # type: ignore[method-assign]


def nothing(lab: Lab) -> None:
    lab.evaluate = lambda level: level.report()  # type: ignore[method-assign]


def also_psnr(lab: Lab) -> None:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    lab.search = Search(model, optimizer, levels=2)
    for level in lab.search:
        functional.cross_entropy(model(INPUTS), LABELS).backward()
        optimizer.step()
        level.report(psnr=20.0)


EACH = ", ".join(CONTROLS)
LISTED = f"verify: expected a list of controls, each of {EACH}, or a tombola.controls.Control, found "


@pytest.mark.parametrize(
    ("options", "change", "message"),
    [
        ({"build": None}, None, "verify: expected build, which makes your model with weights newly drawn"),
        ({"build": the_same}, None, "0.weight of what build makes: expected weights newly drawn at each call"),
        ({"build": once_more}, None, "0.weight of what build makes: expected weights newly drawn at each call"),
        ({"build": lambda: nn.Linear(2, 2)}, None, "what build makes: expected 0.weight (12, 6)"),
        ({"level": 0}, None, "level: expected 1 or more, found 0"),
        ({"level": 3}, None, "level: expected one from 0 to 2 whose mask is known, found 3"),
        ({"replicates": 0}, None, "verify: expected one replicate or more"),
        ({"controls": "random"}, None, f"{LISTED}'random', in no list. "),
        ({"controls": CONTROLS["random"]}, None, f"{LISTED}'random', in no list. "),
        ({"level": "2"}, None, "level: expected 1 or more, found '2'"),
        ({"controls": ["rand"]}, None, f"{LISTED}['rand']. Did you mean controls=['random']?"),
        ({"controls": 3}, None, f"{LISTED}3."),
        ({}, seeding, "verify: expected trainings that depend on the data order"),
        ({}, silent, "verify: expected level.report(accuracy=...) in what is to train, found only validation_loss"),
        ({}, nothing, "verify: expected level.report(accuracy=...) in what is to train, found none. Report it after"),
        ({"metric": "acuracy"}, None, "verify(metric=...): expected the name of a metric that was reported "
         "(accuracy, validation_loss), or higher_is_better=True or False beside another, found 'acuracy'. Did you me"),
        ({"metric": "psnr"}, also_psnr, "verify(metric='psnr'): expected higher_is_better=True or False"),
        ({"metric": "psnr", "higher_is_better": 1}, None, "verify(metric='psnr'): expected higher_is_better=True or"),
        ({"metric": "loss"}, None, "verify(metric='loss', margin=...): expected how much worse than dense is as good"),
        ({"metric": "loss", "margin": -0.1}, None, "verify(metric='loss', margin=...): expected how much worse"),
        ({"metric": "loss", "margin": float("nan")}, None, "verify(metric='loss', margin=...): expected how much"),
        ({"metric": ""}, None, "verify(metric=...): expected the name under which level.report gets it, found ''"),
        ({"margin": 2}, None, "verify(metric='accuracy', margin=...): expected a fraction from 0 to 1, found 2"),
        ({"examples": 0}, None, "verify(examples=...): expected the number of examples in the test set, found 0"),
        ({"examples": 200.0}, None, "verify(examples=...): expected the number of examples in the test set"),
        ({"metric": "loss", "margin": 1, "chance": float("nan")}, None, "verify(chance=...): expected the loss of gu"),
        ({"chance": 10}, None, "verify(chance=...): expected the accuracy of guessing, a fraction from 0 to 1"),
        ({"criteria": Criteria(0.1, 2), "margin": 0.2}, None, "verify(criteria=...): expected criteria alone"),
        ({"metric": "loss", "margin": 1, "controls": []}, None, "verify: expected level.report(loss=...) in what is"),
    ],
)  # fmt: skip
def test_what_cannot_be_judged_is_refused(options: Any, change: Any, message: str) -> None:  # K9 K11
    lab = Lab()
    if change:
        change(lab)
    with pytest.raises(BadInput, match=f"^{re.escape(message)}"):
        lab.verify(**options)


def test_a_control_that_the_loop_cannot_train_is_refused() -> None:
    with pytest.raises(BadInput, match=r"expected a loop that starts at step 0.* found one that starts at step 3"):
        Lab("3it", replay=False).verify()


def test_nothing_is_verified_within_a_level() -> None:
    lab = Lab()
    search = Search(lab.model, lab.optimizer, levels=1, scheduler=lab.scheduler)
    search.begin()
    with pytest.raises(BadInput, match="expected no level under way, found level 0"):
        search.verify(lab.train, level=1)


def test_seed_0_is_a_seed_and_another_is_another() -> None:  # K9
    lab = Lab()
    found: list[list[Any]] = []
    for seed in (0, 0, 1):
        lab.seen = []
        lab.verify(controls=["random"], seed=seed)
        found.append([(note["batches"], note["mask"].counts) for note in lab.seen])
    assert found[0] == found[1] != found[2]


def test_numbers_are_kept_as_they_came() -> None:
    lab = Lab()
    search = Search(lab.model, lab.optimizer, levels=0, scheduler=lab.scheduler)
    level = search.begin()
    level.report(
        accuracy=0.9,
        steps=10**15 + 1,
        psnr=np.float64(0.1),
        hits=np.array([0.3]).mean(),
        loss=torch.tensor(0.1).double(),
    )
    single = torch.tensor(0.9, requires_grad=True)
    level.report(accuracy=single, loss=torch.tensor([0.7], dtype=torch.float64))
    assert [report.metrics for report in search.history] == [
        {"accuracy": 0.9, "steps": 1e15 + 1, "psnr": 0.1, "hits": 0.3, "loss": float(torch.tensor(0.1))},
        {"accuracy": float(single.detach()), "loss": 0.7},
    ]
    for bad in ("0.9", [0.9, 0.8], torch.zeros(2), np.zeros(3), None, 1j, torch.zeros(1, device="meta")):
        with pytest.raises(BadInput, match=r"level.report\(psnr=...\): expected one number"):
            level.report(psnr=bad)  # type: ignore[arg-type]


def reporting(lab: Lab, rows: list[dict[str, float]]) -> None:
    """Whatever the loop learns, it reports `rows`, one at each of its looks."""
    looks = iter(rows * 100)
    lab.evaluate = lambda level: level.report(**next(looks))  # type: ignore[method-assign]


def test_an_early_stop_needs_loss_and_accuracy_at_one_step() -> None:
    lab = Lab()
    reporting(lab, [{"validation_loss": 3.0}, {"validation_loss": 1.0}, {"validation_loss": 2.0, "accuracy": 0.5}])
    found = lab.verify(controls=[], replicates=2, criteria=Criteria(0.01, 2))
    assert not found.criteria.paced and {(trial.step, trial.accuracy) for trial in found.trials} == {(STEPS, 0.5)}
    assert "Accuracy is that at the end of training" in str(found)


def test_a_loss_that_is_no_number_is_no_minimum() -> None:
    lab, nan = Lab(), float("nan")
    reporting(lab, [{"validation_loss": loss, "accuracy": 1 / step} for step, loss in ((2, nan), (4, 1.0), (5, 2.0))])
    found = lab.verify(controls=[], replicates=2)
    assert found.criteria.paced and {(trial.step, trial.accuracy) for trial in found.trials} == {(4, 0.25)}


def test_what_is_reported_of_one_step_is_one_row() -> None:
    lab = Lab()
    losses = iter([3.0, 1.0, 2.0] * 100)

    def evaluate(level: Level) -> None:
        level.report(validation_loss=next(losses))
        level.report(accuracy=0.5)

    lab.evaluate = evaluate  # type: ignore[method-assign]
    found = lab.verify(controls=[], replicates=2)
    assert found.criteria.paced and {(trial.step, trial.censored) for trial in found.trials} == {(4, False)}


def test_a_head_that_begins_at_zero_is_newly_drawn_all_the_same() -> None:
    def build() -> nn.Module:
        model = network()
        nn.init.zeros_(model[4].weight)  # type: ignore[arg-type]
        return model

    assert Lab().verify(build=build, controls=["reinit"]).trials


def identity() -> nn.Sequential:
    model = network()
    nn.init.eye_(model[0].weight)  # type: ignore[arg-type]
    return model


def all_fixed() -> nn.Sequential:
    model = identity()
    nn.init.eye_(model[4].weight)  # type: ignore[arg-type]
    return model


def test_an_initialisation_that_draws_nothing_is_no_copy() -> None:
    found = Lab().verify(build=identity, controls=["reinit"])
    assert "The control reinit leaves 0.weight as at the start: `build` makes the same at each call." in found.sentences
    assert not Lab().verify(controls=["reinit"]).notes, "all is drawn"
    with pytest.raises(BadInput, match=r"expected weights newly drawn at each call, found the same as before"):
        Lab().verify(build=all_fixed, controls=["reinit"])


def test_a_part_that_was_trained_is_a_copy_though_another_is_drawn() -> None:
    lab = Lab()
    trained = lab.model.get_parameter("0.weight").detach().clone()

    def build() -> nn.Module:
        model = network()
        with torch.no_grad():
            model.get_parameter("0.weight").copy_(trained)
        return model

    with pytest.raises(BadInput, match=r"0.weight of what build makes: expected weights newly drawn at each call"):
        lab.verify(build=build, controls=["reinit"])


def copies(lab: Lab) -> Callable[[], nn.Module]:
    return lambda: copy.deepcopy(lab.model)


def itself(lab: Lab) -> Callable[[], nn.Module]:
    return lambda: lab.model


def the_trained(lab: Lab) -> Callable[[], nn.Module]:
    trained = copy.deepcopy(lab.model)
    return lambda: trained


def the_rewound(lab: Lab) -> Callable[[], nn.Module]:
    model = network()
    lab.search.ticket(0).apply(model)
    return lambda: model


@pytest.mark.parametrize("built", [copies, itself, the_trained, the_rewound])
@pytest.mark.parametrize("controls", [["reinit"], ["random", "reinit"]])
def test_a_copy_of_what_is_there_is_not_newly_drawn(built: Any, controls: Any) -> None:  # K4
    lab = Lab("3it")
    with pytest.raises(BadInput, match=r"expected weights newly drawn at each call, found the same as before"):
        lab.verify(build=built(lab), controls=controls, replicates=1)


def test_the_model_itself_may_be_drawn_anew_in_place() -> None:
    lab = Lab()

    def build() -> nn.Module:
        for layer in lab.model:
            getattr(layer, "reset_parameters", lambda: None)()
        return lab.model

    assert lab.verify(build=build, controls=["reinit"]).trials


def test_what_is_handed_over_in_place_of_a_function_is_said() -> None:
    lab = Lab()
    with pytest.raises(BadInput, match=r"expected build, which makes your model .*, found a Sequential"):
        lab.verify(build=network())
    for train in (None, lambda: None, 5):
        with pytest.raises(BadInput, match=r"expected train, a function of a level"):
            lab.search.verify(train, level=2, controls=[])  # type: ignore[arg-type]


# ---------------------------------------------------------------- how exactly a metric is known


def reports(values: Sequence[float], level: int) -> list[Report]:
    return [Report(level, 1.0, 1, step, {"accuracy": value}) for step, value in enumerate(values)]


def share_of_statements(grained: bool, examples: int = 200, replicates: int = 2) -> float:
    """How often a ticket that is as good as the dense network is called better or worse, in simulated replicates.

    Networks disagree about an answer or two of a test set that all share.
    """
    draw = np.random.default_rng(0)
    settings, stated, times = VerdictSettings.of("accuracy", None, None, None, None, None), 0, 400
    for _ in range(times):
        shared = np.round(0.93 * examples + draw.normal(size=(replicates, 1, 1)))
        right = np.minimum(shared + np.round(draw.normal(size=(replicates, 2, 6))), examples)
        rows = {
            (arm, replicate): reports((right[replicate, number] / examples).tolist(), 1)
            for replicate in range(replicates)
            for number, arm in enumerate(("dense", "ticket"))
        }
        criteria = criteria_of(settings, list(rows.values()))
        criteria = criteria if grained else replace(criteria, accuracy_grain=0.0)
        trials = [trial_of(*at, of_one, criteria) for at, of_one in rows.items()]
        (verdict,) = judge(trials, criteria)
        stated += verdict.dense.result != "not shown"
    return stated / times


def test_two_equal_differences_of_whole_answers_are_no_certainty() -> None:
    assert share_of_statements(grained=False) > 0.08 and share_of_statements(grained=True) < 0.015
    lab = Lab()
    answers = {"dense": iter([160, 170, 181] * 2), "ticket": iter([160, 170, 183] * 2)}
    lab.accuracy = lambda level: next(answers["ticket" if level.number else "dense"]) / 200
    found = lab.verify(controls=[], replicates=2)
    assert found.criteria.accuracy_grain == 1 / 200
    assert found.verdict.dense.result == "not shown" and found.verdict.dense.accuracy.p > 0.05


@pytest.mark.parametrize("examples", [1, 7, 64, 200, 400, 10_000, 99_991])
@pytest.mark.parametrize("single", [False, True])
def test_the_grain_is_one_example(examples: int, single: bool) -> None:
    counts = np.random.default_rng(0).integers(0, examples + 1, 30)
    values = (counts.astype(np.float32) / np.float32(examples) if single else counts / examples).astype(float)
    assert grain([*values, 1.0]) == 1 / examples
    few = [float(value) for value in values[:2]]
    assert grain(few, examples=examples) == 1 / examples, "as stated, though few values would show less"


def test_what_comes_in_no_steps_has_no_grain() -> None:
    draw = np.random.default_rng(0)
    assert grain(draw.normal(30, 1, 40).tolist()) == 0 and grain(draw.normal(0, 1e9, 40).tolist()) == 0
    assert grain([195.0, 200.0, 21.0]) == 1, "returns, counted in whole steps"
    assert grain([0.123, 0.7071067], examples=50) == 1 / 50, "means over batches of unequal sizes"


# ---------------------------------------------------------------- any metric


def scoring(lab: Lab, score: Callable[[Level], dict[str, float]]) -> None:
    lab.evaluate = lambda level: level.report(**score(level))  # type: ignore[method-assign]


def luck() -> float:
    return torch.initial_seed() % 1009 / 1009


@pytest.mark.parametrize(
    ("metric", "options", "sign"),
    [
        ("psnr", {"higher_is_better": True, "margin": 0.2}, 1),
        ("loss", {"margin": 0.2}, -1),
        ("validation_loss", {"margin": 0.2}, -1),
        ("error", {"higher_is_better": False, "margin": 0.2}, -1),
    ],
)
def test_any_metric_is_judged_in_its_direction(metric: str, options: Any, sign: int) -> None:
    lab = Lab()
    ticket = lab.search.mask(2)
    for ticket_is_good, word in ((True, "matching"), (False, "losing")):
        scoring(lab, lambda level, good=ticket_is_good: {  # type: ignore[misc]
            metric: 30 + sign * (3 + luck() + (0.1 if level.mask == ticket and good else 0)) * (
                1 if level.number == 0 or (level.mask == ticket and good) else 0.1)
        })  # fmt: skip
        found = lab.verify(metric=metric, controls=["random"], replicates=3, **options)
        assert found.verdict.verdict == word and found.criteria.metric.name == metric
        assert found.criteria.metric.higher_is_better == (sign > 0)
        assert found.criteria.paced == (metric == "validation_loss"), "which has a minimum to stop at"
        (control,) = found.verdict.controls
        assert (control.result == "better") == ticket_is_good


def test_an_early_stop_is_looked_for_whatever_the_metric() -> None:
    lab = Lab()
    reporting(lab, [{"validation_loss": loss, "psnr": 20 + step} for step, loss in ((2, 2.0), (4, 1.0), (6, 2.0))])
    found = lab.verify(metric="psnr", higher_is_better=True, margin=0.2, controls=[])
    assert found.criteria.paced and {(trial.step, trial.accuracy) for trial in found.trials} == {(4, 24.0)}


def test_criteria_may_name_the_metric() -> None:
    lab = Lab()
    scoring(lab, lambda level: {"psnr": 30 + luck()})
    criteria = Criteria(0.2, 0, confidence=0.9, metric=Metric("psnr", unit="dB"))
    found = lab.verify(criteria=criteria, controls=[])
    assert (
        found.criteria == replace(criteria, paced=False, accuracy_grain=found.criteria.accuracy_grain)
        and "psnr dB" in str(found).splitlines()[0]
    )
    assert lab.verify(metric=Metric("psnr", unit="dB"), margin=0.2, controls=[]).criteria.metric.unit == "dB"


def test_what_ended_in_no_number_is_left_out_aloud() -> None:
    lab = Lab()
    worst: dict[str, float] = {"random": float("nan")}
    ticket = lab.search.mask(2)
    scoring(lab, lambda level: {"loss": luck() if level.mask in (ticket, lab.search.mask(0)) else worst["random"]})
    found = lab.verify(metric="loss", margin=0.2, controls=["random"], replicates=2)
    assert {trial.arm for trial in found.trials} == {"dense", "ticket"}
    assert "2 of 2 trainings of random ended in no number, and are left out of every comparison." in found.sentences
    scoring(lab, lambda level: {"loss": float("inf") if level.mask == ticket else luck()})
    with pytest.raises(
        BadInput, match=r"the loss of ticket and dense network is a number, found 2 of ticket that is no"
    ):
        lab.verify(metric="loss", margin=0.2, controls=["random"], replicates=2)


@pytest.mark.parametrize(
    ("metric", "value", "options"),
    [
        ("accuracy", 0.0, {}),
        ("accuracy", 0.1, {"chance": 0.1}),
        ("dice", 1e-8, {"higher_is_better": True, "margin": 0.01}),
        ("loss", 4.25, {"margin": 0.01, "chance": 4.17}),
    ],
)
def test_where_nothing_was_learned_there_is_no_verdict(metric: str, value: float, options: Any) -> None:
    lab = Lab()
    scoring(lab, lambda level: {metric: value, "validation_loss": luck()})
    found = lab.verify(metric=metric, controls=["random"], **options)
    assert found.verdict.verdict == "not learned"
    assert found.sentences[0].startswith("No verdict: the dense network learned nothing in 2 of 2 replicates")


def test_a_metric_that_is_as_before_training_has_learned_nothing() -> None:
    lab = Lab()
    plain = lab.train

    def train(level: Level) -> None:
        if level.begin == 0:
            level.report(returns=21.0 + luck())
        plain(level)

    scoring(lab, lambda level: {"returns": 21.0 + luck()})
    found = lab.search.verify(
        train, level=2, replicates=2, controls=[], metric="returns", higher_is_better=True, margin=1
    )
    assert found.verdict.verdict == "not learned" and "no better than before training" in found.verdict.reason


def test_a_second_reading_of_the_early_stop_is_there_where_the_curve_is_long_enough() -> None:
    lab = Lab()
    curve = [1.0, 0.2, *[0.6, 0.55, 0.5, 0.45, 0.4, 0.45] * 3]
    looks = iter([{"accuracy": 0.5 + step / 100, "validation_loss": loss} for step, loss in enumerate(curve)] * 4)

    def train(level: Level) -> None:
        for _ in curve:
            lab.optimizer.zero_grad()
            places = torch.randint(len(INPUTS), (16,))
            functional.cross_entropy(lab.model(INPUTS[places]), LABELS[places]).backward()
            lab.optimizer.step()
            level.report(**next(looks))

    found = lab.search.verify(train, level=2, replicates=2, controls=[])
    assert all(trial.step == 2 and not trial.first and trial.smoothed for trial in found.trials)
    assert found.verdict.dense.second and "Second reading, on which no word rests" in str(found)


def test_a_verification_is_a_table_then_sentences_and_json() -> None:
    lab = Lab()
    lab.accuracy = planted(lab, lab.search.mask(2))
    found = lab.verify(controls=["random"], replicates=3)
    head, *rows = str(found).split("\n\n")[0].splitlines()
    assert head.split() == ["arm", "accuracy", "%", "early", "stop", "n"]
    assert [row.split()[0] for row in rows] == ["dense", "ticket", "random"]
    for row, means in zip(rows, found.means, strict=True):
        values = [trial.accuracy for trial in found.trials if trial.arm == means.arm]
        assert means.metric == pytest.approx(sum(values) / 3) and row.split()[-1] == "3" == str(means.n)
        assert row.split()[1] == f"{100 * means.metric:.2f}"
    record = json.loads(json.dumps(found.record(), allow_nan=False))
    assert record["verdict"]["verdict"] == found.verdict.verdict and record["means"][0]["arm"] == "dense"
    assert record["verdict"]["dense"]["correction"] == {"result": "none"}
    assert record["sentences"] == list(found.sentences) and len(record["trials"]) == 9
    one = lab.verify(controls=[], replicates=1)
    assert json.loads(json.dumps(one.record(), allow_nan=False))["verdict"]["dense"]["accuracy"]["low"] is None


def test_a_test_set_too_small_for_the_margin_is_said() -> None:
    found = Lab().verify(controls=[], replicates=2)
    assert found.criteria.accuracy_grain == 1 / 64
    said = "The accuracy is known in steps of 1.56 points, wider than the margin of 0.2 points"
    assert any(sentence.startswith(said) for sentence in found.sentences)


def test_afterwards_gradients_beside_the_model_are_as_they_were() -> None:
    head, scale = nn.Linear(12, 3), nn.Parameter(torch.ones(1))
    body = nn.Sequential(nn.Linear(6, 12), nn.ReLU())
    optimizer = torch.optim.SGD([*body.parameters(), *head.parameters(), scale], lr=0.1)
    search = Search(body, optimizer, levels=1, also=[head])

    def train(level: Level) -> None:
        for _ in range(2):
            places = torch.randint(len(INPUTS), (16,))
            optimizer.zero_grad()
            (scale * functional.cross_entropy(head(body(INPUTS[places])), LABELS[places])).backward()
            optimizer.step()
        level.report(accuracy=0.5)

    for level in search:
        train(level)
    beside = [*head.parameters(), scale]
    before = [copy.deepcopy(parameter.grad) for parameter in beside]
    search.verify(train, level=1, replicates=1, controls=["random"])
    for parameter, gradient in zip(beside, before, strict=True):
        assert parameter.grad is not None and gradient is not None and torch.equal(parameter.grad, gradient)


# ---------------------------------------------------------------- made of what the search trained


def ends_of(start: weights.Weights, *beside: weights.Weights | int) -> weights.Weights:
    trained, begun, living, _ = beside
    assert isinstance(living, Mask) and isinstance(trained, dict) and isinstance(begun, dict)
    return {name: trained[name] + begun[name] if name in living else value for name, value in start.items()}


def trained_on(replicate: Draws, ticket: T, level: int, draw: int) -> T:
    beside = ticket, ticket.start, ticket.mask
    return replace(ticket, start=replicate.derived_weights(ends_of, ticket.start, "trained on", beside))


TRAINED_ON = Control("trained-on", trained_on, "it matters", "the trained weights", "Trained weights", changes="start")


@pytest.mark.parametrize("k", [0, 3])
def test_a_control_may_be_made_of_the_weights_that_the_search_trained(k: int) -> None:  # K4
    lab = Lab(f"{k}it")
    theta, trained, living = lab.search.ticket(0).weights, lab.search.trained(2), lab.search.mask(2)
    lab.verify(controls=[TRAINED_ON])
    begun = lab.seen[2]["states"][k]
    for name, alive in living.items():
        assert torch.equal(begun[name], (trained[name] + theta[name]) * alive)
    assert weights.equal(lab.search.trained(2), trained)


def test_weights_of_a_level_that_is_not_trained_are_refused() -> None:
    lab = Lab()
    search = Search(lab.model, lab.optimizer, levels=1, scheduler=lab.scheduler)
    for level in search:
        lab.train(level)
        if level.number == 1:
            break
    with pytest.raises(BadInput, match=r"expected the ticket of a level that is finished.*found level 1, which is not"):
        search.verify(lab.train, level=1, controls=[TRAINED_ON])


def test_the_four_arms_of_signs_and_magnitudes_are_made_of_one_draw() -> None:  # K4 K9
    lab = Lab()
    trained, living = lab.search.trained(2), lab.search.mask(2)
    lab.verify(controls=["reinit", "sign", "magnitude", "trained"])
    reinit, sign, magnitude, kept = (lab.seen[2 + place]["states"][0] for place in range(4))
    for name, alive in living.items():
        drawn, ended = reinit[name][alive], trained[name][alive]
        assert torch.equal(sign[name][alive], drawn.abs() * ended.sign())
        assert torch.equal(magnitude[name][alive], ended.abs() * drawn.sign())
        assert torch.equal(kept[name], trained[name])


def test_signs_on_weights_that_the_first_steps_are_still_to_train_are_refused() -> None:
    with pytest.raises(BadInput, match=r"found sign, which derives its weights from newly drawn ones.*rewind='0it'"):
        Lab("3it").verify(controls=["sign"])


# ---------------------------------------------------------------- further numbers


def looked_at(lab: Lab, further: Callable[[Level], dict[str, float]], every: bool = True) -> None:
    """As ever, and further numbers at each look, or at the first of three alone."""
    plain, looks = lab.evaluate, itertools.count(1)

    def evaluate(level: Level) -> None:
        plain(level)
        if every or next(looks) % 3 == 1:
            level.report(**further(level))

    lab.evaluate = evaluate  # type: ignore[method-assign]


def planted_ece(ticket: Mask) -> Callable[[Level], dict[str, float]]:
    """A calibration error that is smaller under this mask, by more than what the data order makes of it."""
    return lambda level: {"ece": (0.02 if level.mask == ticket else 0.05) + 0.003 * luck(), "robust_accuracy": luck()}


@pytest.mark.parametrize("every", [True, False])
def test_further_numbers_are_judged_and_leave_the_verdict_as_it_is(every: bool) -> None:
    lab = Lab()
    alone = lab.verify(controls=["random"], replicates=3)
    looked_at(lab, planted_ece(lab.search.mask(2)), every)
    found = lab.verify(controls=["random"], replicates=3, also=["ece", "robust_accuracy"])
    assert (found.verdict, found.trials, found.criteria) == (alone.verdict, alone.trials, alone.criteria)
    ece, robust = found.further
    assert (ece.metric.higher_is_better, robust.metric.higher_is_better, robust.metric.unit) == (False, True, "points")
    assert ece.at == robust.at == ("the verdict's step" if every else "the last report")
    assert [(each.against, each.effect) for each in ece.beside] == [("dense", "better"), ("random", "better")]
    assert [each.effect for each in robust.beside] == ["not shown"] * 2, "luck of the order, which arms share"
    (said,) = [line for line in found.sentences if line.startswith(f"At {ece.at}, ece is 0.02")]
    assert ", better than in dense (-0.03" in said and said.endswith("; n = 3.")
    assert any(
        "about accuracy alone" in line and "hold together at 95% (Holm), but not" in line for line in found.sentences
    )
    head, dense, *_ = str(found).splitlines()
    assert head.split() == ["arm", "accuracy", "%", "early", "stop", "ece", "robust", "accuracy", "%", "n"]
    assert dense.split()[3] == f"{ece.means['dense']:.5g}"
    record = json.loads(json.dumps(found.record(), allow_nan=False))
    assert [each["metric"]["name"] for each in record["further"]] == ["ece", "robust_accuracy"]
    assert "further" not in alone.record() and alone.sentences == tuple(
        line for line in found.sentences if line in alone.sentences
    )


def test_intervals_of_further_numbers_hold_together() -> None:
    """By hand: of two numbers that are alike each interval is one of 97.5 %."""
    orders = {number: 0.01 * number**2 for number in range(4)}
    values = {"ticket": orders, "dense": dict.fromkeys(orders, 0.05)}
    one, two = (
        Numbers(Metric("ece", False), "the last report", values),
        Numbers(Metric("nll", False), "the last report", values),
    )
    differences = [value - 0.05 for value in orders.values()]
    (alone,) = further([one], 0.95)
    assert alone.beside[0].more == paired(differences, 0.95)
    for each in further([one, two], 0.95):
        assert each.beside[0].more.low == pytest.approx(paired(differences, 0.975).low)


def test_further_numbers_are_taken_where_the_verdict_is() -> None:
    lab = Lab()
    rows = [{"validation_loss": 2.0, "psnr": 1.0}, {"validation_loss": 1.0, "psnr": 2.0}, {"validation_loss": 2.0}]
    reporting(lab, [row | {"accuracy": 0.5, "ece": place + 0.5} for place, row in enumerate(rows)])
    found = lab.verify(controls=[], also=["ece", Metric("psnr", unit="dB")])
    ece, psnr = found.further
    assert (ece.at, ece.means) == ("the verdict's step", {"dense": 1.5, "ticket": 1.5})
    assert psnr.means == {"dense": 2.0, "ticket": 2.0} and "psnr is 2 dB in ticket" in psnr.sentence


def test_what_is_not_reported_or_no_number_is_said_and_costs_no_verdict() -> None:
    lab = Lab()
    ticket = lab.search.mask(2)
    looked_at(lab, lambda level: {"nll": float("inf") if level.mask == ticket else 1.0})
    found = lab.verify(controls=[], also=["nll", "ece"])
    (nll,) = found.further
    assert nll.beside == () and nll.sentence == (
        "At the verdict's step, nll is a number in no training of the ticket. It is no number in 2 of ticket."
    )
    assert "No ece was reported in some training of dense, ticket, so nothing is said of it." in found.notes
    assert json.dumps(found.record(), allow_nan=False) and " - " in str(found)
    (one,) = lab.verify(controls=[], replicates=1, also=["nll", "validation_loss"]).further[1:]
    assert one.sentence.endswith("; n = 1, which decides nothing.") and one.beside[0].effect == "not shown"


@pytest.mark.parametrize(
    ("also", "message"),
    [
        ("ece", "verify(also=...): expected a list of names under which level.report gets further numbers"),
        ([3], "verify(also=...): expected a list of names"),
        (["acuracy"], "verify(also=...): expected the name of a number that is reported (accuracy, validation_loss)"),
        (["psnr"], "verify(also=...): expected a name that ends in accuracy, loss, nll, brier, ece, error, or a metr"),
        (["accuracy"], "verify(also=...): expected each number once, and not the one that the verdict is about"),
        (["ece", "ece"], "verify(also=...): expected each number once"),
    ],
)
def test_further_numbers_whose_direction_is_not_known_are_refused(also: Any, message: str) -> None:
    lab = Lab()
    with pytest.raises(BadInput, match=f"^{re.escape(message)}"):
        lab.verify(also=also)
    assert lab.seen == [], "before anything is trained"
