"""Random inputs at every door are taken and right, or refused in words, in bounded memory and time."""

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


@pytest.mark.parametrize("door", SHARES)
def test_random_inputs_are_right_or_refused(door: str, request: pytest.FixtureRequest) -> None:
    cases, seed = request.config.getoption("--fuzz-cases"), request.config.getoption("--fuzz-seed")
    count = max(1, SHARES[door] * int(cases) // 1000)
    command = [sys.executable, str(FUZZ), door, str(seed), str(count)]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=60 + 20 * count)
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
    assert f"{count} cases" in done.stdout


def test_there_are_a_thousand() -> None:
    assert sum(SHARES.values()) == 1000
