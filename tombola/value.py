"""What settings are made of: frozen records that are checked when they are made, and the numbers in them."""

from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, InstanceOf, PlainSerializer

from tombola.steps import Step

# Strict: true is not 1.0, and "0.3" is not 0.3.
Number = Annotated[float, Field(strict=True)]
Proportion = Annotated[Number, Field(ge=0, le=1)]
Count = Annotated[int, Field(strict=True)]


def _step(value: Any) -> Any:
    return Step(value) if not isinstance(value, Step) else value


StepField = Annotated[InstanceOf[Step], BeforeValidator(_step), PlainSerializer(str, return_type=str)]


class Value(BaseModel):
    """A frozen record that refuses unknown names and numbers that are not finite."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


def listed(value: Any) -> Any:
    """A list where one value, or several with commas between them, mean one: `--set arms=ticket,reinit`."""
    if isinstance(value, str):
        return [part.strip() for part in value.split(",")]
    return [value] if isinstance(value, int | float) else value
