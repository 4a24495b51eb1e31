"""Memory that a process frees stays for its next step, where its allocator is glibc's and the user has said nothing."""

import os
import platform
import subprocess
import sys

import pytest

from tombola import allocator

FAULTS = """
import resource, sys
from tombola.allocator import keep

def step():
    some = [b"x" * (1 << 24) for _ in range(6)]
    last = some.pop()
    some.clear()  # the end of the heap is free last, and all of it at once

step()
kept = keep() if sys.argv[1] == "now" else None
for _ in range(8):
    step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(4):
    step()
print(kept, (resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) // 4)
"""
glibc = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another allocator")


@pytest.mark.parametrize("given", ["glibc.rtld.nns=2:", ":glibc.rtld.nns=2", "glibc.rtld.nns=2::", ":"])
def test_empty_parts_of_what_the_user_set_are_left_out(given: str) -> None:
    """Where one part is malformed newer ones of glibc read none."""
    parts = allocator.tunables(given).split(":")
    assert all("=" in part for part in parts) and ("glibc.rtld.nns=2" in parts) == ("nns" in given)


def faults(how: str, **environment: str) -> list[str]:
    """Whether the process keeps its memory, and how many pages each of its steps has to get."""
    plain = {name: value for name, value in os.environ.items() if name[:7] not in ("MALLOC_", "GLIBC_T")}
    command = [sys.executable, "-c", FAULTS, how]
    done = subprocess.run(command, env=plain | environment, capture_output=True, text=True, timeout=300, check=True)
    return done.stdout.split()


@glibc
def test_a_step_gets_no_pages_where_the_process_keeps_them() -> None:
    assert int(faults("not")[1]) > 1000, "of 4 KiB, without"
    kept, now = faults("now")
    assert kept == "True" and int(now) < 100
    with allocator.thrifty():
        started = os.environ.get(allocator.VARIABLE, "")
    if "hugetlb=1" in started:  # else this very process has been told something
        assert int(faults("not", GLIBC_TUNABLES=started)[1]) < 100


@glibc
@pytest.mark.parametrize("told", ["MALLOC_TRIM_THRESHOLD_=0", "GLIBC_TUNABLES=glibc.malloc.trim_threshold=4096"])
def test_what_the_user_has_told_the_allocator_stays(told: str) -> None:
    name, _, value = told.partition("=")
    kept, now = faults("now", **{name: value})
    assert kept == "False" and int(now) > 1000


def test_where_the_allocator_is_another_nothing_is_touched(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "libc_ver", lambda: ("", ""))
    before = dict(os.environ)
    with allocator.thrifty():
        assert os.environ == before
    assert not allocator.keep()
