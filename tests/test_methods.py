"""Search methods: the runs that each is made of are wired as its paper says."""

from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest

from tombola.control import Control
from tombola.controls import CONTROLS
from tombola.errors import BadInput
from tombola.lab.kinds import AlignedMask, EarlyBird, Init, Prune, Sample, Train
from tombola.lab.plan import plan
from tombola.lab.replicate import Replicate
from tombola.lab.runs import Run, ancestry
from tombola.lab.spec import Experiment, Spec
from tombola.methods import METHODS
from tombola.methods.colt import ColtOptions
from tombola.methods.early_bird import EarlyBirdOptions
from tombola.methods.rewinding import iterative
from tombola.objective import Slimming
from tombola.recipe import Constant, learning_rate
from tombola.steps import Step

RECIPE: dict[str, Any] = {
    "model": "lenet-20-10",
    "data": "digits",
    "length": "40it",
    "batch": 60,
    "optimizer": {"name": "sgd", "lr": 0.1},
    "schedule": {"name": "step", "milestones": ["20it", "30it"], "factor": 0.1},
    "warmup": "2it",
}
LEVELS = 4
every_method = pytest.mark.parametrize("method", METHODS)
every_rewind = pytest.mark.parametrize("rewind", ["0it", "8it", "1ep"])


def replicate(number: int = 0, **changes: Any) -> Replicate:
    return Replicate(Spec.model_validate({"recipe": RECIPE, "levels": LEVELS} | changes), number)


def search(method: str, **changes: Any) -> list[Train]:
    own = replace(replicate(**changes), options=METHODS[method].options())
    return list(METHODS[method].search(own, LEVELS))


def mask_of(run: Train) -> Prune:
    """What it trains under, or is pruned towards."""
    mask = run.mask.like if isinstance(run.mask, AlignedMask) else run.mask or dict(run.further or ())["target"]
    assert isinstance(mask, Prune)
    return mask


def made_mask(run: Train) -> Prune | EarlyBird:
    return run.mask if isinstance(run.mask, EarlyBird) else mask_of(run)


def without(run: Run, *names: str) -> dict[str, Any]:
    return {name: value for name, value in run.described.items() if name not in names}


def seeds_of(runs: list[Run]) -> dict[str, set[int]]:
    """The values of every seed among the runs, by name."""
    found: dict[str, set[int]] = {}
    for run in ancestry(runs):
        for name, value in run.described.items():
            if name.endswith("_seed"):
                found.setdefault(f"{run.kind}.{name}", set()).add(value)
    return found


# ---------------------------------------------------------------- what all methods share


@every_rewind
@every_method
def test_level_0_is_the_dense_network_from_the_rewind_point(method: str, rewind: str) -> None:
    own, levels = replicate(rewind=rewind), search(method, rewind=rewind)
    own = own.in_basis("dct") if method == "generalised" else own  # whose dense network is trained in coordinates
    assert len(levels) == LEVELS + 1
    assert levels[0].start == own.rewind_point() and levels[0].mask is None and levels[0].recipe == own.recipe
    assert levels[0] == next(iterative(own, 0)), "one dense training for all methods"


@every_rewind
@every_method
def test_every_level_is_a_training_from_step_k_to_the_end(method: str, rewind: str) -> None:  # R5 R13
    k = {"0it": 0, "8it": 8, "1ep": 17}[rewind]
    assert {(run.begin, run.until) for run in search(method, rewind=rewind)} == {(k, 40)}


@every_method
def test_levels_differ_in_start_mask_and_recipe_alone(method: str) -> None:  # K8 R12
    first, *rest = (without(run, "start", "mask", "recipe", "further", "dynamics_seed") for run in search(method))
    assert all(other == first for other in rest)


@every_method
def test_nothing_comes_after_the_last_training(method: str) -> None:  # R11
    """The last ticket is trained and not pruned again, and no run is made that no row needs."""
    levels = search(method)
    everything = list(ancestry(list(levels)))
    prunings = [run for run in everything if isinstance(run, Prune | EarlyBird)]
    # Where a mask is drawn in cycles there is one for each, and one of what the cycle before it has made small.
    cycles: int = getattr(METHODS[method].options(), "cycles", 1)
    assert len(prunings) == LEVELS * (2 * cycles - 1)
    assert levels[-1] not in [needed for run in prunings for needed in run.inputs]
    needed = {needed.key for run in everything for needed in run.inputs} | {run.key for run in levels}
    assert needed == {run.key for run in everything}


@every_method
def test_each_mask_is_what_was_left_of_the_one_before(method: str) -> None:
    _, *tickets = search(method)
    masks = [made_mask(run) for run in tickets]
    if masks[0].rounds is not None:  # at once, each level from the whole network
        assert [mask.rounds for mask in masks] == list(range(1, len(masks) + 1))
        start = replicate().rewind_point()
        if method != "dual-iterative":  # whose later cycles see what the earlier ones have trained
            assert all(mask.inputs == (start,) for mask in masks), "from the weights of step k, and under no mask"
    else:
        chain = [mask_of(run) for run in tickets]
        assert chain[0].mask is None and all(later.mask == earlier for earlier, later in pairwise(chain))
        assert len({mask.score for mask in chain}) == 1
    assert len({(mask.rates, mask.scope, mask.keep) for mask in masks}) == 1


@every_method
def test_fewer_levels_are_the_first_of_more(method: str) -> None:  # S5
    own = replace(replicate(), options=METHODS[method].options())
    assert list(METHODS[method].search(own, 2)) == search(method)[:3]
    assert list(METHODS[method].search(own, 0)) == search(method)[:1]


# ---------------------------------------------------------------- the rewind point


def test_the_original_hypothesis_rewinds_to_the_initial_weights() -> None:
    point = replicate(rewind="0it").rewind_point()
    assert isinstance(point, Init) and point.init_seed == replicate().seed("init")
    assert replicate(rewind="0ep").rewind_point() == point


@pytest.mark.parametrize(("rewind", "k"), [("1it", 1), ("8it", 8), ("1ep", 17), ("2ep", 34)])
def test_a_later_rewind_point_is_the_dense_training_until_step_k(rewind: str, k: int) -> None:  # R6
    made = replicate(rewind=rewind)
    point, dense = made.rewind_point(), next(METHODS["iterative"].search(made, 0))
    assert isinstance(point, Train) and isinstance(point.start, Init) and point.mask is None
    assert (point.begin, point.until) == (0, k) == (0, dense.begin)
    assert without(point, "start", "begin", "until") == without(dense, "start", "begin", "until")
    assert point.recipe.length == Step("40it"), "the schedule spans the whole training"


@pytest.mark.parametrize("carried", [False, True])
def test_the_optimiser_starts_fresh_unless_the_spec_carries_it(carried: bool) -> None:  # M4 R5 R7
    point = replicate(rewind="8it", carry_optimizer=carried).rewind_point()
    assert isinstance(point, Train) and point.keep_optimizer == carried and point.optimizer_state == "fresh"
    expected = "carried" if carried else "fresh"
    assert {run.optimizer_state for run in search("iterative", rewind="8it", carry_optimizer=carried)} == {expected}
    assert {run.optimizer_state for run in search("iterative", carry_optimizer=carried)} == {"fresh"}, (
        "nothing at step 0"
    )
    reinit = CONTROLS["reinit"].make(replicate(rewind="8it", carry_optimizer=carried), search("iterative")[1], 1, 0)
    assert isinstance(reinit.start, Train) and reinit.start.keep_optimizer == carried


# ---------------------------------------------------------------- each method


@every_rewind
def test_iterative_every_level_starts_from_the_same_rewind_run(rewind: str) -> None:  # R1 R2
    """Strategy 1: train, prune, reset, repeat (Frankle & Carbin, 2019)."""
    levels = search("iterative", rewind=rewind)
    assert {run.start for run in levels} == {replicate(rewind=rewind).rewind_point()}
    for before, after in pairwise(levels):
        assert mask_of(after).trained == before, "masks come from the training of the level before"
    assert {run.recipe for run in levels} == {levels[0].recipe}


def test_continued_prunes_a_training_that_is_never_reset() -> None:
    """Strategy 2: only the ticket at the end is reset (Frankle & Carbin, 2019, Appendix B)."""
    point, levels = replicate().rewind_point(), search("continued")
    assert {run.start for run in levels} == {point}
    trained = levels[0]
    for ticket in levels[1:]:
        assert mask_of(ticket).trained == trained
        trained = replicate().train(trained, mask=ticket.mask)
    assert levels[1] == search("iterative")[1] and levels[2] != search("iterative")[2]


def test_one_shot_takes_every_mask_from_the_dense_training() -> None:
    dense, *tickets = search("one-shot")
    assert {run.start for run in tickets} == {replicate().rewind_point()}
    assert {mask_of(run).trained for run in tickets} == {dense}
    assert tickets[0] == search("iterative")[1]
    trainings = [run for run in ancestry([tickets[-1]]) if isinstance(run, Train)]
    assert trainings == [dense, tickets[-1]], "the last ticket needs none of those before it"


def test_lr_rewind_keeps_the_weights_and_takes_the_learning_rates_again() -> None:
    """Renda, Frankle & Carbin, 2020."""
    levels = search("lr-rewind", rewind="8it")
    for before, after in pairwise(levels):
        assert after.start == before and mask_of(after).trained == before
    assert {run.recipe for run in levels} == {levels[0].recipe}
    assert {(run.begin, run.until) for run in levels} == {(8, 40)}, "the rates from step k on"


def test_fine_tune_keeps_the_weights_at_the_last_learning_rate_throughout() -> None:
    """Renda, Frankle & Carbin, 2020."""
    dense, *tickets = search("fine-tune")
    for before, after in pairwise([dense, *tickets]):
        assert after.start == before and mask_of(after).trained == before
    (slow,) = {run.recipe for run in tickets}
    assert dense.recipe.schedule != Constant() == slow.schedule
    last = learning_rate(dense.recipe, 39, epoch_iterations=17)
    assert last == pytest.approx(0.001)
    assert {learning_rate(slow, step, epoch_iterations=17) for step in range(40)} == {last}
    others = {"optimizer": dense.recipe.optimizer, "schedule": dense.recipe.schedule, "warmup": dense.recipe.warmup}
    assert slow.model_copy(update=others) == dense.recipe, "nothing else is another"


@every_rewind
def test_early_bird_ends_the_dense_training_early(rewind: str) -> None:
    """You et al., 2020; rewound, or continued from the weights of the moment."""
    point, levels = replicate(rewind=rewind).rewind_point(), search("early-bird", rewind=rewind)
    dense = levels[0]
    for ticket, on in zip(levels[1:], search("early-bird-continued", rewind=rewind)[1:], strict=True):
        bird = made_mask(ticket)
        assert isinstance(bird, EarlyBird) and ticket.start == bird.start == point
        assert bird.sample == Sample.of(dense) and (bird.begin, bird.until) == (dense.begin, dense.until)
        assert on.start == on.mask == bird and without(on, "start") == without(ticket, "start")


def test_a_search_that_slims_trains_as_before() -> None:
    options = EarlyBirdOptions(slimming=1e-4)
    dense, ticket, *_ = METHODS["early-bird"].search(replace(replicate(), options=options), LEVELS)
    bird = made_mask(ticket)
    assert isinstance(bird, EarlyBird) and bird.sample.recipe.objective == Slimming(strength=1e-4)
    assert ticket.recipe == dense.recipe and dense.recipe.objective is None


@pytest.mark.parametrize(
    ("split", "halves"),
    [("classes", ("first-classes", "second-classes")), ("examples", ("first-half", "second-half"))],
)
def test_colt_keeps_what_two_halves_of_the_data_agree_on(split: str, halves: tuple[str, str]) -> None:
    """Hossain et al., 2022."""
    options = ColtOptions.model_validate({"split": split})
    point, levels = replicate().rewind_point(), [*METHODS["colt"].search(replace(replicate(), options=options), LEVELS)]
    assert {run.start for run in levels} == {point} and {run.recipe.data for run in levels} == {"digits"}
    for before, after in pairwise(levels):
        mask = mask_of(after)
        both = [mask.trained, *(mask.beside or ())]
        assert [each.recipe.data for each in both if isinstance(each, Train)] == [f"digits+{half}" for half in halves]
        assert {each.start for each in both if isinstance(each, Train)} == {point}
        assert {each.mask for each in both if isinstance(each, Train)} == {before.mask}
        assert {each.until for each in both if isinstance(each, Train)} == {40}


# ---------------------------------------------------------------- seeds


def test_a_seed_depends_on_its_name_the_specs_seed_and_the_replicate() -> None:  # K9 K10
    names = ["init", "order", "split", "score", "random mask", "reinit 0", "shuffled mask 1"]
    made = [replicate(number, seed=seed).seed(name) for name in names for seed in (0, 1) for number in (0, 1, 10)]
    assert len(set(made)) == len(made) and all(0 <= seed < 2**63 for seed in made)
    assert replicate(seed=0).seed("init") == replicate(seed=0).seed("init") == replicate().seed("init")


def controls_of(method: str) -> list[str]:
    """The controls that can be made of a method's tickets: not all masks have been made by a score."""
    made, ticket = replicate(rewind="8it"), search(method, rewind="8it")[2]

    def able(control: Control) -> bool:
        try:
            return control.refuses is None and bool(control.make(made, ticket, 2, 0))
        except BadInput:
            return False

    found = [name for name, control in CONTROLS.items() if able(control)] if ticket.mask else []
    assert {"reinit", "random", "shuffle"} <= set(found) or not ticket.mask
    return found


@every_method
def test_replicates_differ_in_all_seeds(method: str) -> None:  # K9 K10
    controls = controls_of(method)
    arms = ["ticket", *controls, *(other for other in METHODS if other != method)]
    spec = {
        "replicates": 3,
        "arms": arms,
        "method": method,
        "reinits": 2,
        "rewind": "8it",
        "recipe": RECIPE,
        "levels": 2,
    }
    wanted = plan(Experiment(name="tiny", spec=Spec.model_validate(spec)))
    found = [seeds_of([row.run for row in wanted.rows if row.replicate == number]) for number in range(3)]
    assert found[0].keys() >= {
        "init.init_seed",
        "train.order_seed",
        "train.split_seed",
        "prune.score_seed",
        *(["random.mask_seed", "shuffle.mask_seed"] if controls else []),
    }
    for name in found[0]:
        assert len(set.union(*(seeds[name] for seeds in found))) == sum(len(seeds[name]) for seeds in found), name


@every_method
def test_arms_of_a_replicate_share_data_order_and_split(method: str) -> None:  # K10 R12
    made = replicate(1, rewind="8it")
    ticket = search(method, number=1, rewind="8it")[2]
    able = [CONTROLS[name] for name in controls_of(method)]
    controls = [control.make(made, ticket, 2, draw) for control in able for draw in (0, 1)]
    found = seeds_of([ticket, *controls])
    assert found["train.order_seed"] == {made.seed("order")} and found["train.split_seed"] == {made.seed("split")}
    # One draw of theta_0 for the ticket, one for each draw of the reinit arm, and one where masks come from elsewhere.
    drawn = found["init.init_seed"] - {made.seed("elsewhere")}
    assert drawn == {made.seed(name) for name in ("init", *(["reinit 0", "reinit 1"] if controls else []))}


def test_the_masks_of_the_random_arm_share_one_seed_and_the_shuffled_ones_do_not() -> None:
    """One order for all levels nests the random masks; each level's permutation is its own."""
    made, tickets = replicate(), search("iterative")[1:]
    seeds = {
        arm: {
            CONTROLS[arm].make(made, ticket, level, 0).described["mask"]
            for level, ticket in enumerate(tickets, start=1)
        }
        for arm in ("random", "shuffle")
    }
    assert len(seeds["random"]) == len(seeds["shuffle"]) == LEVELS
    random = seeds_of([CONTROLS["random"].make(made, ticket, 0, 0) for ticket in tickets])["random.mask_seed"]
    shuffled = seeds_of([CONTROLS["shuffle"].make(made, ticket, level, 0) for level, ticket in enumerate(tickets)])
    assert len(random) == 1 and len(shuffled["shuffle.mask_seed"]) == LEVELS


# ---------------------------------------------------------------- without training weights


SCORES = ["edge-popup", "supermask", "signed-supermask", "gem-miner"]


@pytest.mark.parametrize("method", SCORES)
def test_scores_are_trained_by_their_own_optimiser_on_weights_that_have_the_level_s_counts(method: str) -> None:
    for level, run in enumerate(search(method)[1:], start=1):
        assert run.recipe.dynamics is not None and run.recipe.dynamics.name == method
        assert run.start == replicate().rewind_point() and run.optimizer_state == "fresh"
        assert run.recipe.optimizer != replicate().recipe.optimizer and run.recipe.warmup == Step("0it")
        assert mask_of(run).rounds == level and run.mask is None and not run.keeps_mask
        assert run.recipe.length == replicate().recipe.length
    carried = search(method, rewind="8it", carry_optimizer=True)
    assert [run.optimizer_state for run in carried[:2]] == ["carried", "fresh"], "a state of weights is none of scores"


@pytest.mark.parametrize("method", SCORES)
def test_what_is_chosen_of_a_method_that_trains_scores_is_in_its_keys(method: str) -> None:
    choices: list[dict[str, Any]] = [
        {},
        {"weights": "initial"},
        {"scope": "erk"},
        {"scope": "global" if method != "gem-miner" else "layer"},
        {"optimizer": {"name": "adam", "lr": 1e-2}},
        {"schedule": {"name": "linear"}},
    ]
    more: dict[str, list[dict[str, Any]]] = {
        "supermask": [{"begin": "level"}, {"begin": 0.4}, {"counted": True}, {"rescaled": True}],
        "gem-miner": [{"every": "7it"}],
    }
    choices += more.get(method, [{"scaled": True}])
    found = METHODS[method]
    levels = [
        list(found.search(replace(replicate(), options=found.options.model_validate(chosen)), 1))[1]
        for chosen in choices
    ]
    assert len({run.key for run in levels}) == len(choices)


def test_masks_that_scores_have_found_are_trained_where_that_is_asked_for() -> None:
    spec = {
        "replicates": 1,
        "levels": 2,
        "method": "edge-popup",
        "search": {"retrain": True},
        "arms": ["ticket", "reinit", "shuffle"],
        "rewind": "8it",
        "recipe": RECIPE,
    }
    rows = plan(Experiment(name="gems", spec=Spec.model_validate(spec))).rows
    for row in rows:
        if row.arm == "ticket":
            assert row.run.recipe.dynamics is None and row.run.begin == 8
            found = row.run.mask
            assert isinstance(found, Train) and found.recipe.dynamics is not None and found.start == row.run.start
