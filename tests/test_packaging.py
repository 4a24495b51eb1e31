"""What `pip install tombola` and `pip install tombola[all]` bring, and what is published."""

import re
import tomllib
from itertools import chain
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS: dict[str, list[str]] = PROJECT["optional-dependencies"]
NAMED = re.compile(r"tombola\[(.*)\]")


def own(extra: str) -> set[str]:
    """The extras of Tombola that an extra names."""
    found = [NAMED.fullmatch(requirement) for requirement in EXTRAS[extra]]
    return {name for match in found if match for name in match[1].split(",")}


def test_all_is_every_extra_of_users() -> None:
    assert own("all") == set(EXTRAS) - {"all", "test"}
    assert len(EXTRAS["all"]) == 1, "a package stands in the extra that has a use for it"


def test_what_is_tested_is_all_of_it() -> None:
    assert own("test") == {"all"}
    packages = {re.split(r"[<>=\[; ]", requirement)[0] for extra in own("all") for requirement in EXTRAS[extra]}
    twice = packages & {re.split(r"[<>=\[; ]", requirement)[0] for requirement in EXTRAS["test"]}
    assert not twice, f"the extra `test` has {sorted(twice)} through `all`"


@pytest.mark.parametrize("extra", sorted(EXTRAS))
def test_each_dependency_has_its_reason(extra: str) -> None:
    reasons = (ROOT / "docs" / "dependencies.md").read_text(encoding="utf-8")
    assert extra in ("all", "test") or f"`{extra}`" in reasons
    for requirement in EXTRAS[extra]:
        name = re.split(r"[<>=\[; ]", requirement)[0]
        assert name == "tombola" or name.replace("_", "-") in reasons.replace("_", "-"), name


@pytest.mark.parametrize("requirement", [*PROJECT["dependencies"], *chain(*EXTRAS.values())])
def test_each_dependency_has_a_lowest_version_and_no_highest(requirement: str) -> None:
    assert NAMED.fullmatch(requirement) or re.fullmatch(r"[\w-]+(\[[\w,-]+\])?>=[\d.]+( *;.*)?", requirement)
