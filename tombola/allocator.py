"""How the C library is told to keep the memory of a training step for the next one.

A step frees and asks again for the same megabytes. Left to itself glibc's allocator gives them back to the system in
between and gets them anew in pages of 4 KiB, each of which takes about as long as to fill it.
"""

import ctypes
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager

VARIABLE = "GLIBC_TUNABLES"
BLOCK = 32 << 20  # bytes: larger blocks come from the system, each by itself; no larger ones may be named here
KEPT = (1 << 31) - 1  # bytes at the heap's end that stay when they are free, where a step at its largest had as many
TUNABLES = {
    "glibc.malloc.mmap_threshold": str(BLOCK),
    "glibc.malloc.trim_threshold": str(KEPT),
    "glibc.malloc.hugetlb": "1",  # pages of 2 MiB, where the system gives them to those who ask; only at a start
}
OPTIONS = {-3: BLOCK, -1: KEPT}  # M_MMAP_THRESHOLD and M_TRIM_THRESHOLD of malloc.h


def tunables(given: str) -> str:
    """The variable tells a process what the user has set there, and ours of which the user says nothing.

    >>> tunables("glibc.malloc.trim_threshold=0").split(":")[:2]
    ['glibc.malloc.trim_threshold=0', 'glibc.malloc.mmap_threshold=33554432']
    """
    settings = [each for each in given.split(":") if each]
    own = {one.partition("=")[0] for one in settings}
    return ":".join(settings + [f"{name}={value}" for name, value in TUNABLES.items() if name not in own])


@contextmanager
def thrifty() -> Iterator[None]:
    """Processes that are started in here keep their memory."""
    before = os.environ.get(VARIABLE)
    if _told_nothing():
        os.environ[VARIABLE] = tunables(before or "")
    try:
        yield
    finally:
        if before is None:
            os.environ.pop(VARIABLE, None)
        else:
            os.environ[VARIABLE] = before


def keep() -> bool:
    """This process keeps its memory from now on, unless the user has told the allocator something; whether it does."""
    if not _told_nothing() or "glibc.malloc." in os.environ.get(VARIABLE, ""):
        return False
    option = ctypes.CDLL(None).mallopt
    return all([option(name, value) for name, value in OPTIONS.items()])


def _told_nothing() -> bool:
    """Whether the allocator is glibc's, and none of its older variables is set, which tunables would overrule."""
    return platform.libc_ver()[0] == "glibc" and not any(name.startswith("MALLOC_") for name in os.environ)
