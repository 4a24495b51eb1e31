"""The types of a spec's fields that its tables share, those of the studies among them."""

from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from tombola.value import listed

MOST = 1_000_000  # of anything that is counted, and of trainings and measurements in one plan
MOST_STEPS = 100_000_000  # of one training


def numbers(value: Any) -> Any:
    """A list of numbers where one, or several with commas between them, mean one: `--set study.overlap.levels=3,4`."""
    if isinstance(value, str) and all(part.strip().isdecimal() for part in value.split(",")):
        return [int(part) for part in value.split(",")]
    return [value] if isinstance(value, int) and not isinstance(value, bool) else value


def fractions(value: Any) -> Any:
    """The same of numbers with a point in them: `--set densities=0.2,0.05`."""
    if isinstance(value, str):
        try:
            return [float(part) for part in value.split(",")]
        except ValueError:
            return listed(value)
    return listed(value)


Levels = Annotated[tuple[Annotated[int, Field(strict=True, ge=0)], ...], BeforeValidator(numbers)]
Arms = Annotated[tuple[str, ...], BeforeValidator(listed)]
