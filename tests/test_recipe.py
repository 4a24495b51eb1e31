"""How one training goes: what a recipe refuses, and the learning rate of every step."""

from math import cos, pi
from typing import Any

import pytest
from pydantic import ValidationError

from tombola.recipe import SGD, Adam, AdamW, Constant, Recipe, at_final_rate, learning_rate
from tombola.steps import Step

FIELDS: dict[str, Any] = {
    "model": "lenet-300-100",
    "data": "mnist",
    "length": "100it",
    "batch": 60,
    "optimizer": {"name": "sgd", "lr": 0.5},
}


def recipe(**changes: Any) -> Recipe:
    return Recipe.model_validate(FIELDS | changes)


def rates(made: Recipe, steps: list[int], epoch_iterations: int = 10) -> list[float]:
    return [learning_rate(made, step, epoch_iterations) for step in steps]


# ---------------------------------------------------------------- the schedules, as tables


@pytest.mark.parametrize(
    ("changes", "table"),
    [
        ({}, {0: 0.5, 50: 0.5, 99: 0.5}),
        ({"schedule": {"name": "constant"}}, {0: 0.5, 99: 0.5}),
        ({"schedule": {"name": "step", "milestones": ["30it"]}}, {0: 0.5, 29: 0.5, 30: 0.05, 99: 0.05}),
        (
            {"schedule": {"name": "step", "milestones": ["3ep", "60it"], "factor": 0.5}},
            {29: 0.5, 30: 0.25, 59: 0.25, 60: 0.125, 99: 0.125},
        ),
        (
            {"schedule": {"name": "step", "milestones": ["60it", "3ep"], "factor": 0.5}},
            {29: 0.5, 30: 0.25, 59: 0.25, 60: 0.125},
        ),
        ({"schedule": {"name": "step", "milestones": ["0it"]}}, {0: 0.05, 1: 0.05}),
        ({"schedule": {"name": "linear"}}, {0: 0.5, 25: 0.375, 50: 0.25, 99: 0.005}),
        ({"schedule": {"name": "linear", "final": 0.2}}, {0: 0.5, 50: 0.3, 100: 0.1}),
        (
            {"schedule": {"name": "cosine"}},
            {0: 0.5, 25: 0.25 * (1 + cos(pi / 4)), 50: 0.25, 75: 0.25 * (1 - cos(pi / 4)), 100: 0.0},
        ),
        ({"schedule": {"name": "cosine", "final": 0.2}}, {0: 0.5, 50: 0.3, 100: 0.1}),
        ({"length": "10ep", "schedule": {"name": "linear"}}, {0: 0.5, 50: 0.25, 99: 0.005}),
        ({"warmup": "10it"}, {0: 0.0, 1: 0.05, 5: 0.25, 9: 0.45, 10: 0.5, 99: 0.5}),
        ({"warmup": "1ep"}, {0: 0.0, 5: 0.25, 10: 0.5}),
        (
            {"warmup": "10it", "schedule": {"name": "step", "milestones": ["5it"]}},
            {0: 0.0, 4: 0.2, 5: 0.025, 9: 0.045, 10: 0.05},
        ),
        ({"warmup": "10it", "schedule": {"name": "linear"}}, {0: 0.0, 5: 0.25 * 0.95, 10: 0.45, 50: 0.25}),
    ],
)
def test_the_rate_of_every_step_is_the_schedules(changes: dict[str, Any], table: dict[int, float]) -> None:  # R5 R13
    assert rates(recipe(**changes), list(table)) == pytest.approx(list(table.values()), abs=1e-12)


def test_the_papers_resnet_schedule() -> None:  # R5
    """0.1, 0.01, 0.001, divided at 20,000 and 25,000 of 30,000 steps (The Lottery Ticket Hypothesis, Figure 2)."""
    optimizer = {"name": "sgd", "lr": 0.1, "momentum": 0.9}
    made = recipe(
        length="30000it", optimizer=optimizer, schedule={"name": "step", "milestones": ["20000it", "25000it"]}
    )
    assert rates(made, [0, 19_999, 20_000, 24_999, 25_000, 29_999]) == pytest.approx(
        [0.1, 0.1, 0.01, 0.01, 0.001, 0.001]
    )


@pytest.mark.parametrize("name", ["constant", "linear", "cosine"])
def test_the_rate_is_a_function_of_the_step_alone(name: str) -> None:  # R5 R7 R13
    """Asked in any order, as a training rewound to step 40 asks: no counter goes on from round to round."""
    made = recipe(schedule={"name": name}, warmup="50it")
    whole = rates(made, list(range(100)))
    assert rates(made, list(range(40, 100))) == whole[40:] == rates(made, list(range(40, 100)))


def test_warm_up_counts_from_step_0_wherever_one_rewinds_to() -> None:  # R13
    made = recipe(warmup="50it")
    assert rates(made, [0, 20, 49, 50]) == pytest.approx([0.0, 0.2, 0.49, 0.5])


def test_fine_tuning_takes_the_last_rate_throughout() -> None:  # K8
    made = recipe(schedule={"name": "step", "milestones": ["50it", "90it"]}, warmup="10it")
    tuned = at_final_rate(made, epoch_iterations=10)
    assert rates(tuned, [0, 5, 50, 99]) == pytest.approx([0.005] * 4)
    assert tuned.schedule == Constant() and tuned.warmup == Step("0it")
    declared = {"optimizer", "schedule", "warmup"}
    assert tuned.model_dump(exclude=declared) == made.model_dump(exclude=declared), (
        "arms differ in the declared factor alone"
    )
    assert tuned.optimizer.model_dump(exclude={"lr"}) == made.optimizer.model_dump(exclude={"lr"})
    assert made.optimizer.lr == 0.5


def test_fine_tuning_a_linear_schedule_does_not_stand_still() -> None:
    assert rates(at_final_rate(recipe(schedule={"name": "linear"}), 10), [0, 99]) == pytest.approx([0.005, 0.005])


# ---------------------------------------------------------------- the value


def test_a_recipe_says_all_it_decides() -> None:  # K8 S9
    assert recipe().model_dump() == {
        "model": "lenet-300-100",
        "data": "mnist",
        "length": "100it",
        "batch": 60,
        "optimizer": {"name": "sgd", "lr": 0.5, "momentum": 0.0, "nesterov": False, "weight_decay": 0.0},
        "init": "glorot-normal",
        "schedule": {"name": "constant"},
        "warmup": "0it",
        "augment": None,
        "precision": None,
        "normalise": None,
    }


def test_a_recipe_is_read_back_as_it_was_written() -> None:
    made = recipe(
        optimizer={"name": "adamw", "lr": 1e-3}, schedule={"name": "step", "milestones": ["2ep"]}, warmup="1ep"
    )
    assert Recipe.model_validate_json(made.model_dump_json()) == made


@pytest.mark.parametrize(
    ("given", "kind", "decay"),
    [
        ({"name": "sgd", "lr": 0.1}, SGD, 0.0),
        ({"name": "adam", "lr": 0.1}, Adam, 0.0),
        ({"name": "adamw", "lr": 0.1}, AdamW, 0.01),
    ],
)
def test_the_name_says_which_optimiser(given: dict[str, Any], kind: type, decay: float) -> None:
    made = recipe(optimizer=given).optimizer
    assert type(made) is kind and made.weight_decay == decay


def test_a_recipe_takes_keywords_only() -> None:  # C3
    unchecked: Any = Recipe
    with pytest.raises(TypeError, match="positional argument"):
        unchecked("lenet-300-100", "mnist")


def test_a_recipe_never_changes() -> None:
    with pytest.raises(ValidationError, match="Instance is frozen"):
        recipe().batch = 1  # type: ignore[misc]


@pytest.mark.parametrize(
    ("changes", "path", "message"),
    [
        ({"batch": 0}, "batch", "greater than 0"),
        ({"batch": 60.5}, "batch", "valid integer"),
        ({"batch": True}, "batch", "valid integer"),
        ({"batch": "60"}, "batch", "valid integer"),
        ({"length": "100"}, "length", "a whole number with a unit, like '500it'"),
        ({"length": 100}, "length", "a whole number with a unit, like '500it'"),
        ({"warmup": 10}, "warmup", "a whole number with a unit, like '500it'"),
        (
            {"init": "glorot"},
            "init",
            "'glorot-normal', 'xavier-uniform', 'kaiming-normal', 'kaiming-uniform', 'normal-0.02', 'pretrained' or "
            "'glorot-truncated'",
        ),
        ({"optimiser": {}}, "optimiser", "Extra inputs are not permitted"),
        ({"optimizer": {"name": "sgd"}}, "optimizer.sgd.lr", "Field required"),
        ({"optimizer": {"name": "sgd", "lr": 0}}, "optimizer.sgd.lr", "greater than 0"),
        ({"optimizer": {"name": "sgd", "lr": float("nan")}}, "optimizer.sgd.lr", "finite number"),
        ({"optimizer": {"name": "sgd", "lr": float("inf")}}, "optimizer.sgd.lr", "finite number"),
        ({"optimizer": {"name": "sgd", "lr": "0,1"}}, "optimizer.sgd.lr", "valid number"),
        ({"optimizer": {"name": "sgd", "lr": 0.1, "momentum": 1}}, "optimizer.sgd.momentum", "less than 1"),
        (
            {"optimizer": {"name": "sgd", "lr": 0.1, "weight_decay": -1}},
            "optimizer.sgd.weight_decay",
            "greater than or equal to 0",
        ),
        (
            {"optimizer": {"name": "sgd", "lr": 0.1, "betas": [0.9, 0.99]}},
            "optimizer.sgd.betas",
            "Extra inputs are not permitted",
        ),
        ({"optimizer": {"name": "adam", "lr": 0.1, "betas": [0.9, 1.0]}}, "optimizer.adam.betas.1", "less than 1"),
        ({"optimizer": {"name": "lion", "lr": 0.1}}, "optimizer", "'sgd', 'adam', 'adamw'"),
        ({"schedule": {"name": "step"}}, "schedule.step.milestones", "Field required"),
        ({"schedule": {"name": "step", "milestones": []}}, "schedule.step.milestones", "at least 1 item"),
        ({"schedule": {"name": "step", "milestones": ["1it"], "factor": 0}}, "schedule.step.factor", "greater than 0"),
        ({"schedule": {"name": "cosine", "final": 1.5}}, "schedule.cosine.final", "less than or equal to 1"),
    ],
)
def test_a_bad_value_is_refused_with_its_path(changes: dict[str, Any], path: str, message: str) -> None:
    with pytest.raises(ValidationError) as caught:
        recipe(**changes)
    (fault,) = caught.value.errors()
    assert ".".join(str(part) for part in fault["loc"]) == path
    assert message in fault["msg"]


def test_the_normalisation_that_was_always_there_is_absent() -> None:
    """So that the keys of what was published stay, whether it is named or not."""
    assert recipe(normalise="standard") == recipe() != recipe(normalise="unit")
    assert "normalise" not in recipe(normalise="standard").model_dump(mode="json", exclude_none=True)


def test_every_missing_field_is_named_at_once() -> None:
    with pytest.raises(ValidationError) as caught:
        Recipe.model_validate({})
    assert [fault["loc"] for fault in caught.value.errors()] == [
        ("model",),
        ("data",),
        ("length",),
        ("batch",),
        ("optimizer",),
    ]
