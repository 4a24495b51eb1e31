"""What settings are made of: frozen records that are checked when they are made, and the numbers in them."""

import json
from functools import lru_cache
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


class Same:
    """One object, however many equal it: 0.0 equals -0.0 and is written otherwise. It is held: its id stays its own."""

    def __init__(self, of: Any) -> None:
        self.of = of

    def __hash__(self) -> int:
        return id(self.of)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Same) and self.of is other.of


def sorted_text(value: BaseModel) -> str:
    """A record as JSON text for keys: names in their order, nothing between them, what is None absent.

    A plan has one recipe in thousands of runs, so what was made of a frozen object is kept for a while.

    >>> from tombola.recipe import Constant
    >>> sorted_text(Constant())
    '{"name":"constant"}'
    """
    return _sorted_text(Same(value)) if value.model_config.get("frozen") else _as_sorted_text(value)


@lru_cache(maxsize=256)
def _sorted_text(same: Same) -> str:
    return _as_sorted_text(same.of)


def _as_sorted_text(value: BaseModel) -> str:
    return json.dumps(value.model_dump(mode="json", exclude_none=True), sort_keys=True, separators=(",", ":"))


def text(value: BaseModel) -> str:
    """A record as JSON text, kept for a while as `sorted_text` is.

    >>> from tombola.recipe import Constant
    >>> text(Constant())
    '{"name":"constant"}'
    """
    return _text(Same(value))


@lru_cache(maxsize=256)
def _text(same: Same) -> str:
    written: str = same.of.model_dump_json()
    return written


def listed(value: Any) -> Any:
    """A list where one value, or several with commas between them, mean one: `--set arms=ticket,reinit`."""
    if isinstance(value, str):
        return [part.strip() for part in value.split(",")]
    return [value] if isinstance(value, int | float) else value
