"""What `pip install tombola` and `pip install tombola[all]` bring, and what is published."""

import os
import re
import tomllib
from itertools import chain
from pathlib import Path
from typing import Any

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


def test_all_of_it_is_tested() -> None:
    assert own("test") == {"all"}
    packages = {re.split(r"[<>=\[; ]", requirement)[0] for extra in own("all") for requirement in EXTRAS[extra]}
    twice = packages & {re.split(r"[<>=\[; ]", requirement)[0] for requirement in EXTRAS["test"]}
    assert not twice, f"the extra `test` has {sorted(twice)} through those of users"


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


def workflow(name: str) -> Any:
    yaml = pytest.importorskip("yaml")
    return yaml.safe_load((ROOT / ".github" / "workflows" / name).read_text(encoding="utf-8"))


def commands_of(script: str) -> set[str]:
    """The checks among a script's lines."""
    return {
        line.rpartition("/")[2] if line.startswith(".ci/") else "pytest"
        for line in script.splitlines()
        if line.startswith(".ci/") or line.endswith("python -m pytest") or "test-command" in line
    }


def test_the_public_ci_does_what_the_gate_does() -> None:
    gate = commands_of((ROOT / ".ci" / "run").read_text(encoding="utf-8"))
    steps = workflow("ci.yml")["jobs"]["tests"]["steps"]
    assert gate == commands_of("\n".join(step.get("run", "") for step in steps)) == {"pytest", "lint", "wheel"}
    assert all(os.access(ROOT / ".ci" / name, os.X_OK) for name in gate - {"pytest"})


def test_the_public_ci_tries_each_python_the_lowest_versions_and_both_systems() -> None:
    rows = workflow("ci.yml")["jobs"]["tests"]["strategy"]["matrix"]["include"]
    classified = [name.rpartition(" ")[2] for name in PROJECT["classifiers"] if "Python :: 3." in name]
    assert sorted({row["python"] for row in rows}) == classified
    assert PROJECT["requires-python"] == f">={classified[0]}"
    lowest = {"system": "ubuntu-latest", "python": classified[0], "versions": "--resolution lowest-direct"}
    assert lowest in rows
    for system in ("ubuntu", "macos"):
        assert {"-c constraints.txt", "--upgrade"} <= {row["versions"] for row in rows if system in row["system"]}


def test_released_wheels_are_tried_as_the_gate_tries_its_own() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["cibuildwheel"]
    tried = settings["test-command"].removeprefix("python {project}/")
    assert tried in (ROOT / ".ci" / "wheel").read_text(encoding="utf-8") and (ROOT / tried.split()[0]).is_file()
    systems = workflow("wheels.yml")["jobs"]["wheels"]["strategy"]["matrix"]["system"]
    assert len(settings["build"]) == len(systems), "each platform is built on its own machine"
