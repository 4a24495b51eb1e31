"""Random inputs at every door are taken and right, or refused in words, in bounded memory and time."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

FUZZ = Path(__file__).with_name("fuzz.py")
# Of a thousand cases, how many go to each door: those that train take longer.
SHARES = {
    "tickets": 200,
    "searches": 100,
    "weight-files": 150,
    "foreign-files": 100,
    "specs": 150,
    "pictures": 50,
    "digit-files": 10,
    "masks": 140,
    "optimisers": 100,
}


@pytest.fixture(scope="module")
def counts(request: pytest.FixtureRequest) -> dict[str, int]:
    """How many cases each door gets whose test was asked for."""
    cases = int(request.config.getoption("--fuzz-cases"))
    asked = {
        item.callspec.params["door"]
        for item in request.session.items
        if item.path == Path(__file__) and hasattr(item, "callspec")
    }
    return {door: max(1, share * cases // 1000) for door, share in SHARES.items() if door in asked}


@pytest.fixture(scope="module")
def output(counts: dict[str, int], request: pytest.FixtureRequest) -> str:
    """What one process, which is bounded in memory, prints of all of them."""
    seed = request.config.getoption("--fuzz-seed")
    command = [sys.executable, str(FUZZ), str(seed), *(f"{door}={count}" for door, count in counts.items())]
    patience = sum(60 + 20 * count for count in counts.values())
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=patience)
    return done.stdout + done.stderr


@pytest.mark.parametrize("door", SHARES)
def test_random_inputs_are_right_or_refused(door: str, counts: dict[str, int], output: str) -> None:
    assert re.search(rf"^{door}: {counts[door]} cases, .* 0 failed$", output, re.MULTILINE), output[-4000:]


def test_there_are_a_thousand() -> None:
    assert sum(SHARES.values()) == 1000
