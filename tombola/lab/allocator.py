"""How the memory of worker processes is made cheap: glibc's allocator takes its orders from the environment.

A training step gives back and asks again for the same megabytes. Left to itself the allocator returns them to the
system and gets them anew in pages of 4 KiB, each of which costs about as much as to write it.
"""

import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager

VARIABLE = "GLIBC_TUNABLES"
TUNABLES = {
    "glibc.malloc.hugetlb": "1",  # pages of 2 MiB, where the system gives them to those who ask
}


def tunables(given: str) -> str:
    """The variable tells a worker what the user has set there, and ours of which the user says nothing.

    >>> tunables("glibc.malloc.hugetlb=0:glibc.malloc.check=3")
    'glibc.malloc.hugetlb=0:glibc.malloc.check=3'
    """
    settings = given.split(":") if given else []
    own = {one.partition("=")[0] for one in settings}
    return ":".join(settings + [f"{name}={value}" for name, value in TUNABLES.items() if name not in own])


@contextmanager
def thrifty() -> Iterator[None]:
    """Processes that are started in here have such memory, where the system's allocator is glibc's."""
    before = os.environ.get(VARIABLE)
    if platform.libc_ver()[0] == "glibc":
        os.environ[VARIABLE] = tunables(before or "")
    try:
        yield
    finally:
        if before is None:
            os.environ.pop(VARIABLE, None)
        else:
            os.environ[VARIABLE] = before
