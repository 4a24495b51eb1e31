"""Early-bird tickets: when a mask has settled, and the training that ends there."""

from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import pytest
import torch
from torch import nn

from tombola import weights
from tombola.early_bird import Drawn, Settling, Wiring, apart_by_chance, covered, distance, importance, kept_channels
from tombola.errors import SpecError
from tombola.lab.attempt import do, do_all
from tombola.lab.kinds import EarlyBird
from tombola.lab.replicate import Replicate
from tombola.lab.runs import Run, ancestry
from tombola.lab.spec import Spec
from tombola.lab.spec_file import read
from tombola.lab.store import Store
from tombola.lab.worker import Worker
from tombola.mask import Mask
from tombola.method import Found
from tombola.methods.early_bird import settled

R = TypeVar("R", bound=Run)
RECIPE: dict[str, Any] = {
    "model": "lenet-20-10",
    "data": "digits",
    "length": "200it",
    "batch": 60,
    "optimizer": {"name": "adam", "lr": 2e-3},
}
RULE = Settling(every="10it", within=0.05)


def masks(*flips: int) -> list[Mask]:
    """Masks over 100 weights, each with as many places flipped, from the first on, as is said."""
    made = [torch.arange(100) < 50 for _ in flips]
    for flags, count in zip(made, flips, strict=True):
        flags[:count] = ~flags[:count]
    return [Mask({"a": flags[:40].clone(), "b": flags[40:].view(6, 10).clone()}) for flags in made]


def settled_at(sequence: list[Mask], remembered: int, within: float) -> int | None:
    drawn = Drawn(remembered)
    for number, mask in enumerate(sequence, start=1):
        drawn = drawn.then(mask)
        if drawn.within(within):
            return number
    return None


def test_a_mask_has_settled_when_the_newest_is_near_all_that_are_remembered() -> None:  # E7
    # The distances from each to the last are 40, 30, 20, 10, 8, 6, 4, 2 and 0 hundredths.
    moving = masks(40, 30, 20, 10, 8, 6, 4, 2, 0)
    assert [distance(mask, moving[-1]) for mask in moving] == [0.4, 0.3, 0.2, 0.1, 0.08, 0.06, 0.04, 0.02, 0.0]
    assert settled_at(moving, 5, 0.1) == 8  # the fifth, to the eighth: 10 - 2 = 8 hundredths; before, 20 - 4 = 16
    assert settled_at(moving, 5, 0.08) == 8 and settled_at(moving, 5, 0.0799) is None
    assert settled_at(moving, 3, 0.1) == 6 and settled_at(moving[:4], 5, 1.0) is None
    still = masks(*[0] * 9)
    assert settled_at(still, 5, 0.0) == 5, "not before there are as many as are compared"
    back_and_forth = masks(*[0, 50] * 6)
    assert settled_at(back_and_forth, 5, 0.1) is None, "near to every other one only"


def test_two_random_masks_are_apart_as_chance_says() -> None:
    for density in (0.5, 0.1, 0.02):
        one, other = (
            Mask({"w": torch.rand(1_000_000, generator=torch.Generator().manual_seed(seed)) < density})
            for seed in (0, 1)
        )
        assert distance(one, other) == pytest.approx(apart_by_chance(density), abs=1e-3)
    assert Settling().reached(0.02) == 0.1 > apart_by_chance(0.02), "the paper's distance says nothing there"
    assert Settling(distance="chance", within=0.25).reached(0.5) == 0.125


def test_a_channel_goes_with_all_of_its_weights() -> None:
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Conv2d(4, 6, 3),
        nn.BatchNorm2d(6),
        nn.Flatten(),
        nn.Linear(6, 3),
    )
    gammas = {
        "1.weight": torch.tensor([0.4, -0.1, 0.3, -0.9]),
        "4.weight": torch.tensor([0.2, 0.5, 0.6, 0.7, 0.8, 0.05]),
    }
    state = model.state_dict() | gammas
    names = ["0.weight", "3.weight", "6.weight"]
    whole = Mask({name: torch.ones_like(state[name], dtype=torch.bool) for name in names})
    ranked = importance(model, dict.fromkeys(whole, "conv"), state)
    assert {name: values.tolist() for name, values in ranked.items()} == {
        "0.weight": gammas["1.weight"].abs().tolist(),
        "3.weight": gammas["4.weight"].tolist(),
    }
    numbers = torch.arange(10)
    wiring = Wiring({"0.weight": numbers[:4], "3.weight": numbers[4:]}, {"3.weight": numbers[:4]})
    rows = kept_channels(whole, ranked, whole.alive - 2 * 36 - 9 - 4 * 9, wiring)  # .05, .1 and .2 go, in this order
    assert rows["3.weight"].tolist() == [False, True, True, True, True, False]
    assert rows["0.weight"].tolist() == [True, False, True, True]
    left = covered(whole, rows, wiring)
    assert left.alive == whole.alive - 2 * 36 - 9 - 4 * 9, "rows of each, and what is left of the column of one"
    assert not left["3.weight"][:, 1].any() and left["6.weight"].all()
    more = kept_channels(whole, ranked, left.alive + 1, wiring)
    assert covered(whole, more, wiring).alive > left.alive, "never below what is asked"
    assert [int(flags.sum()) for flags in kept_channels(whole, ranked, 0, wiring).values()] == [1, 1]


def test_what_is_added_is_read_as_long_as_one_of_it_is_made() -> None:
    whole = Mask({name: torch.ones(2, 2, dtype=torch.bool) for name in "abc"})
    numbers = torch.tensor([0, 1])
    wiring = Wiring({"a": numbers, "b": numbers}, {"c": numbers})  # c reads a + b
    first, second = torch.tensor([True, False]), torch.tensor([False, True])
    assert covered(whole, {"a": first, "b": second}, wiring)["c"].all()
    assert covered(whole, {"a": first, "b": first}, wiring)["c"].tolist() == [[True, False], [True, False]]


def test_without_normalisations_a_unit_counts_by_its_weights() -> None:
    model = nn.Sequential(nn.Linear(3, 2), nn.ReLU(), nn.Linear(2, 2))
    state = {"0.weight": torch.tensor([[3.0, 4.0, 0.0], [0.0, 0.0, 1.0]]), "2.weight": torch.ones(2, 2)}
    ranked = importance(model, {"0.weight": "linear", "2.weight": "output"}, state)
    assert {name: values.tolist() for name, values in ranked.items()} == {"0.weight": [5.0, 1.0]}


# ---------------------------------------------------------------- the run


def replicate(**changes: Any) -> Replicate:
    values = {"levels": 4, "replicates": 1, "arms": ["ticket"], "recipe": RECIPE, "prune": {"rate": 0.4}}
    return Replicate(Spec.model_validate(values | changes), 0)


def search(level: int, settling: Settling = RULE, **changes: Any) -> EarlyBird:
    own = replicate(**changes)
    return own.settled(own.train(own.rewind_point()), level, settling)


def fresh(folder: Path, **options: Any) -> Worker:
    return Worker(Store(folder).open(), None, **{"engine": "reference"} | options)


def done(run: R, worker: Worker) -> R:
    for each in ancestry([run]):
        if not worker.store.has(each):
            assert do(each, worker, lambda *seen: None) == ("stored",)
    return run


def bytes_of(run: Run, worker: Worker) -> dict[str, bytes]:
    folder = worker.store.root / "runs" / run.key
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "provenance.json"}


@pytest.mark.parametrize("engine", ["reference", "auto"])
def test_the_search_is_the_dense_training_until_the_mask_has_settled(tmp_path: Path, engine: str) -> None:
    worker = fresh(tmp_path, engine=engine)
    run = done(search(2), worker)
    values = worker.store.values(run)
    step = values["settled_step"]
    assert step and 50 <= step < 200 and step % 10 == 0 and values["trained_steps"] == step
    dense = replicate().train(replicate().rewind_point())
    until = done(replace(dense, until=step), worker)
    mask, kept, whole = worker.store.mask(run), worker.store.weights(run), worker.store.weights(until)
    assert all(torch.equal(kept[name], whole[name] * mask[name] if name in mask else whole[name]) for name in whole)
    by_hand = worker.store.mask(done(replicate().prune(until, None), worker))
    once_more = replicate().prune(until, replicate().prune(until, None))
    assert weights.equal(worker.store.mask(done(once_more, worker)), mask) and by_hand.alive > mask.alive
    looks = [at for at, _ in values["distances"]]
    assert looks == list(range(50, step + 1, 10)) and values["distances"][-1][1] <= 0.05
    assert all(apart > 0.05 for _, apart in values["distances"][:-1])


def test_levels_that_are_one_training_are_what_each_is_by_itself(tmp_path: Path) -> None:
    levels = [search(level) for level in (1, 2, 3, 4)]
    alone, together = fresh(tmp_path / "alone"), fresh(tmp_path / "together")
    for run in levels:
        done(run, alone)
    done(levels[0].start, together)
    told: list[tuple[Any, ...]] = []
    do_all(levels, together, lambda run, *what: told.append((run.key, *what)))
    assert {what for _, what, *_ in told} == {"looked", "stored"}
    assert all(bytes_of(run, alone) == bytes_of(run, together) for run in levels)
    steps = [alone.store.values(run)["settled_step"] for run in levels]
    assert len(set(steps)) > 1, "each level settles at a step of its own"
    assert len({run.stack for run in levels}) == 1 and search(1, rule(every="5it")).stack != levels[0].stack


def rule(**changes: Any) -> Settling:
    return Settling.model_validate(RULE.model_dump() | changes)


class Stopped(Exception):
    pass


@pytest.mark.parametrize("by", ["weight", "channel"])
@pytest.mark.parametrize("levels", [(2,), (1, 2, 4)], ids=["alone", "together"])
def test_a_search_that_was_interrupted_ends_as_if_it_had_not_been(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, levels: tuple[int, ...], by: str
) -> None:
    # Where all levels have settled the training ends, and nothing is kept any more.
    runs = [search(level, rule(every="15it", by=by, within=0.05 if by == "weight" else 0.0)) for level in levels]
    whole, broken = fresh(tmp_path / "whole"), fresh(tmp_path / "broken")
    for run in runs:
        done(run, whole)
    seconds = iter(range(0, 1_000_000, 200))
    done(runs[0].start, broken)
    interrupted = replace(broken, clock=lambda: float(next(seconds)))
    kept: list[int] = []

    def keep(self: Store, run: Run, state: Any, keep: Any = Store.keep) -> None:
        keep(self, run, state)
        kept.append(state.values["step"])
        if len(kept) == 2 * len(runs):
            raise Stopped

    with monkeypatch.context() as patch:
        patch.setattr(Store, "keep", keep)
        with pytest.raises(Stopped):
            EarlyBird.perform_stack(runs, interrupted, [lambda *seen: None] * len(runs))
    assert sorted(set(kept)) == [50, 100]
    do_all(runs, broken, lambda *seen: None)
    assert all(broken.store.provenance(run)["resumed"] == [100] for run in runs)
    assert all(bytes_of(run, whole) == bytes_of(run, broken) for run in runs)


def test_a_mask_that_does_not_settle_is_that_of_the_end(tmp_path: Path) -> None:
    worker = fresh(tmp_path)
    run = done(search(3, rule(within=0.001)), worker)
    values = worker.store.values(run)
    assert values["settled_step"] is None and values["trained_steps"] == 200 and values["distances"][-1][0] == 200
    trained = done(replicate().train(replicate().rewind_point()), worker)
    mask: Any = None
    for _ in range(3):
        mask = replicate().prune(trained, mask)
    assert weights.equal(worker.store.mask(done(mask, worker)), worker.store.mask(run)), "that of one-shot pruning"


def test_channels_settle_too(tmp_path: Path) -> None:
    worker = fresh(tmp_path)
    recipe = RECIPE | {"model": "resnet-20-w2", "length": "12it"}
    run = done(search(2, Settling(every="2it", by="channel", within=0.3), recipe=recipe), worker)
    mask, values = worker.store.mask(run), worker.store.values(run)
    assert all(
        bool((alive.flatten(1).any(1) == alive.flatten(2).all(2).any(1)).all())
        for alive in mask.values()
        if alive.dim() > 2
    )
    single = done(search(2, Settling(every="2it"), recipe=recipe), worker)
    exact = worker.store.values(single)["alive"]
    assert exact <= values["alive"] < exact + 200, "as many as whole channels allow"
    dead = [name for name, alive in mask.items() if not alive.flatten(1).any(1).all()]
    assert dead and mask["output.weight"].any(1).all() and "output.weight" not in dead
    block, reader = mask["stage1.block1.conv1.weight"], mask["stage1.block1.conv2.weight"]
    made = block.flatten(1).any(1)
    assert not reader[:, ~made].any(), "who reads a channel that has gone has no weight for it"


def test_a_search_that_is_rewound_sees_no_mask_before_it_trains(tmp_path: Path) -> None:  # E7
    worker = fresh(tmp_path)
    run = done(search(1, rule(every="20it"), rewind="40it"), worker)
    values = worker.store.values(run)
    assert run.begin == 40 and values["distances"][0][0] == 40 + 5 * 20


def test_a_search_carries_the_optimizer_over_as_the_dense_training_does(tmp_path: Path) -> None:  # K8
    changes: dict[str, Any] = {"rewind": "40it", "carry_optimizer": True}
    worker = fresh(tmp_path)
    run = done(search(1, **changes), worker)
    own, stop = replicate(**changes), run.begin + worker.store.values(run)["trained_steps"]
    dense = done(replace(own.train(own.rewind_point()), until=stop), worker)
    mask, kept, whole = worker.store.mask(run), worker.store.weights(run), worker.store.weights(dense)
    assert dense.optimizer_state == "carried"
    assert all(torch.equal(kept[name], whole[name] * mask[name] if name in mask else whole[name]) for name in whole)


def test_every_choice_of_the_rule_is_in_the_key() -> None:
    changes = {"every": "5it", "remembered": 4, "within": 0.2, "distance": "chance", "by": "channel"}
    assert changes.keys() == Settling.model_fields.keys()
    keys = {search(1).key, *(search(1, rule(**{name: value})).key for name, value in changes.items())}
    assert len(keys) == 1 + len(changes)


# ---------------------------------------------------------------- what is said of it


def found(level: int, density: float, step: int | None) -> Found:
    values = {"settled_step": step, "within": 0.1, "apart_by_chance": apart_by_chance(density)}
    return Found(level, density, values)


def test_it_is_said_when_masks_had_settled_and_where_that_says_nothing() -> None:
    both = [found(1, 0.2, 500), found(1, 0.2, 700), found(2, 0.1, None), found(2, 0.1, 600), found(3, 0.05, 500)]
    assert settled(both) == [
        "masks had settled after these steps of the search: at 20.0% 500 to 700, at 10.0% 600, at 5.0% 500.",
        "a mask did not settle at 10.0% in 1 of 2 replicates and is that of the search's end.",
        "at 5.0% any two random masks are as near as was asked: that a mask settled says nothing there "
        "(distance = 'chance' asks for more).",
    ]
    assert settled([found(1, 0.2, None)])[0].endswith("at 20.0% none.")


# ---------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        (
            {"every": "41it"},
            "search.every: expected 5 masks before the end of the search, 200it, found 4, one every 41it",
        ),
        ({"every": "40it", "length": "199it"}, "search.every: expected 5 masks before the end of the search, 199it"),
        ({"every": "1ep"}, ""),
        ({"every": "0it"}, "search.every: expected at least one step"),
        ({"every": "5it", "score": "random"}, "search.score: expected no such choice of early-bird"),
        ({"every": "5it", "remembered": 1}, "search.remembered: "),
        ({"every": "5it", "within": 1.5}, "search.within: "),
        ({"every": "5it", "by": "filter"}, "search.by: "),
        ({"every": "5it", "evry": 1}, "search.evry: expected a known field"),
    ],
)
def test_what_no_search_can_do_is_refused_before_it_begins(tmp_path: Path, changes: dict[str, Any], told: str) -> None:
    path = tmp_path / "early.toml"
    path.write_text(SPEC)
    written = [f"search.{name}={value}" for name, value in changes.items()]
    if not told:
        read(str(path), written)
        return
    with pytest.raises(SpecError) as refused:
        read(str(path), written)
    assert told in str(refused.value)


SPEC = """
method = "early-bird"
levels = 2
replicates = 1
arms = ["ticket"]
[recipe]
model = "lenet-20-10"
data = "digits"
length = "200it"
batch = 60
optimizer = {name = "adam", lr = 2e-3}
"""


@pytest.mark.parametrize(
    ("method", "changes", "told"),
    [
        ("early-bird", ["prune={scope='n_of_m', n=2, m=4}", "levels=1"], "search.scope: expected one in which a whole"),
        ("early-bird", ["search.slimming=1e-4", "recipe.objective={name='l1', strength=1e-5}"], "search.slimming: "),
        ("early-bird", ["recipe.dynamics={name='gradual'}"], "search.every: expected a network that is whole until"),
        ("colt", ["recipe.data=sst2", "recipe.model=bert-2-32"], "search.split: expected data with such halves: "),
    ],
)
def test_what_does_not_go_with_the_rest_is_refused(tmp_path: Path, method: str, changes: list[str], told: str) -> None:
    path = tmp_path / "early.toml"
    path.write_text(SPEC)
    with pytest.raises(SpecError) as refused:
        read(str(path), [f"method={method}", *changes])
    assert told in str(refused.value)
