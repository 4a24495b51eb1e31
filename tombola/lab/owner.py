"""Who writes into a store: one process of one host, told from every other, of this host and of those that share it."""

import hashlib
import os
import re
import secrets
import socket
import sys
import uuid
from dataclasses import dataclass
from functools import cache
from pathlib import Path

_NAME = re.compile(r"([0-9a-f]{12})-([1-9][0-9]{0,8})-([0-9]{1,20})-([0-9a-f]{16})")
_ENDED = ("Z", "X", "x")  # what has ended, and only waits for its parent to ask how


@dataclass(frozen=True)
class Owner:
    """One process, while it holds something of a store.

    Attributes:
        host: tells the machine, since when it is up, and the container: a host's name and a process's number may be
            the same in two containers.
        pid: the process's number there.
        began: when that process began, in the system's own unit, as numbers are given again; 0 where it is not told.
        token: tells this time from all others.
    """

    host: str
    pid: int
    began: int
    token: str

    @staticmethod
    def new() -> "Owner":
        """This process, from now on."""
        return Owner(_host(), os.getpid(), _stat(os.getpid())[1], secrets.token_hex(8))

    @staticmethod
    def parsed(name: str) -> "Owner | None":
        """The owner of that name; None if it is the name of none.

        >>> owner = Owner.new()
        >>> Owner.parsed(owner.name) == owner, Owner.parsed("lost+found")
        (True, None)
        """
        found = _NAME.fullmatch(name)
        return Owner(found[1], int(found[2]), int(found[3]), found[4]) if found else None

    @property
    def name(self) -> str:
        """All of it, fit for the name of a file on any file system."""
        return f"{self.host}-{self.pid}-{self.began}-{self.token}"

    @property
    def here(self) -> bool:
        """Whether it is of this host, so that `running` can be asked."""
        return self.host == _host()

    @property
    def running(self) -> bool:
        """Whether that process of this host still runs."""
        if self.pid == os.getpid() and os.name == "nt":  # the only one of its host there, and to ask would end it
            return True
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return False
        except OSError:
            pass  # another user's, which runs
        state, began = _stat(self.pid)
        return state not in _ENDED and (not self.began or not began or began == self.began)


@cache
def _host() -> str:
    """What only processes that see each other's numbers have in common."""
    try:
        if str(Path("/proc/self").readlink()) != str(os.getpid()):
            raise OSError("/proc shows the processes of another container")
        up_since = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        facts = [up_since, str(Path("/proc/self/ns/pid").readlink())]
    except OSError:
        # Where processes cannot be asked for, each is a host of its own, whose end shows by its age alone.
        facts = [socket.gethostname(), hex(uuid.getnode())] if sys.platform == "darwin" else [secrets.token_hex(16)]
    return hashlib.sha256(" ".join(facts).encode()).hexdigest()[:12]


def _stat(pid: int) -> tuple[str, int]:
    """The state of a process, and when it began; "" and 0 where the system does not tell."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        return fields[0], int(fields[19])
    except (OSError, IndexError, ValueError):
        return "", 0
