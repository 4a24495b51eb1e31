"""What settings are made of: frozen records that are checked when they are made, and the numbers in them."""

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


class _Same:
    """One object, however many equal it: 0.0 equals -0.0 and is written otherwise."""

    def __init__(self, of: BaseModel) -> None:
        self.of = of

    def __hash__(self) -> int:
        return id(self.of)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and self.of is other.of


def plain(value: BaseModel) -> dict[str, Any]:
    """A record as plain JSON, not to be changed; what is None is absent.

    A plan has one recipe in thousands of runs, so what was made of an object is kept for a while.

    >>> from tombola.recipe import Constant
    >>> plain(Constant())
    {'name': 'constant'}
    """
    return _plain(_Same(value))


@lru_cache(maxsize=256)
def _plain(same: _Same) -> dict[str, Any]:
    return same.of.model_dump(mode="json", exclude_none=True)


def text(value: BaseModel) -> str:
    """A record as JSON text, kept for a while as `plain` is.

    >>> from tombola.recipe import Constant
    >>> text(Constant())
    '{"name":"constant"}'
    """
    return _text(_Same(value))


@lru_cache(maxsize=256)
def _text(same: _Same) -> str:
    return same.of.model_dump_json()


def listed(value: Any) -> Any:
    """A list where one value, or several with commas between them, mean one: `--set arms=ticket,reinit`."""
    if isinstance(value, str):
        return [part.strip() for part in value.split(",")]
    return [value] if isinstance(value, int | float) else value
