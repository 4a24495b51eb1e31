"""A moment in training carries its unit."""

import pytest

from tombola.steps import Step


@pytest.mark.parametrize(
    ("text", "iterations"),
    [("0it", 0), ("1it", 1), ("500it", 500), ("0ep", 0), ("1ep", 917), ("2ep", 1834), ("60ep", 55_020)],
)
def test_iterations_and_epochs_become_optimiser_steps(text: str, iterations: int) -> None:
    assert Step(text).iterations(epoch_iterations=917) == iterations


def test_iterations_do_not_depend_on_the_epoch() -> None:
    assert Step("500it").iterations(1) == Step("500it").iterations(917) == 500


@pytest.mark.parametrize(
    "text", ["500", "it", "", "-1it", "1.5ep", "5 it", "5it ", "5it\n", "5IT", "5epochs", "1e3it", "5it5ep"]
)
def test_anything_else_is_refused_with_an_example(text: str) -> None:  # C11 C12
    with pytest.raises(
        ValueError, match=r"^a whole number with a unit, like '500it' \(iterations\) or '2ep' \(epochs\)$"
    ):
        Step(text)


@pytest.mark.parametrize("number", [500, 500.0, None, True])
def test_a_bare_number_is_refused_since_its_unit_would_be_a_guess(number: object) -> None:  # C11 C12
    with pytest.raises(ValueError, match="a whole number with a unit"):
        Step(number)  # type: ignore[arg-type]


def test_a_step_is_a_value() -> None:
    step = Step("500it")
    assert (step.count, step.unit, str(step)) == (500, "it", "500it")
    assert step == Step("500it") and hash(step) == hash(Step("500it")) and step != Step("500ep")
    with pytest.raises(AttributeError, match="cannot assign to field 'text'"):
        step.text = "1it"  # type: ignore[misc]
