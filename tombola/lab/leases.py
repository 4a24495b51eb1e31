"""Claims on an object store. They expire, as nobody takes back what a killed process or a lost machine has claimed.

claims/KEY.N    who has claimed a run for the Nth time; the highest N counts, the others are over

Whoever holds a claim writes it anew from time to time, and it is alive while the last time is not long ago by the
server's clock. Whoever finds it expired writes the next number, on the condition that nobody has: so of several one
gets it. A claim only saves work: where two hold one after all, both make the same outcome, and the first is kept.
"""

import json
import threading
import time
import uuid
from contextlib import suppress

from tombola.errors import TombolaError
from tombola.lab.objects import Objects

LASTS_S = 90.0
RENEWED_EVERY_S = 20.0
REMEMBERED_S = 3.0  # that another one holds it: who waits asks every fifth of a second


class Leases:
    """The claims of this process.

    Args:
        owner: says which machine it is. On it locks say who is alive, so that a claim of its own that nobody holds
            there is one of a dead process, and is not waited for.
    """

    def __init__(self, objects: Objects, owner: str) -> None:
        self._objects, self._owner = objects, owner
        self._held: dict[str, float] = {}  # by name: when it was last written
        self._others: dict[str, float] = {}  # by key: when it was last seen
        self._lock = threading.Lock()  # of what is noted here
        self._writing = threading.Lock()  # so that no claim is written anew that has just been given back
        self._renewing = False

    def take(self, key: str) -> str | None:
        """Claim a run: the name by which to give it back; None if another one has it."""
        if time.monotonic() - self._others.get(key, -REMEMBERED_S) < REMEMBERED_S:
            return None
        number = 0
        if not self._write(name := f"claims/{key}.{number}"):
            entries = self._objects.entries("claims", f"{key}.")
            numbers = {int(each.rpartition(".")[2]): entry for each, entry in entries.items()}
            number = max(numbers, default=-1)
            if numbers and not self._is_over(f"claims/{key}.{number}", numbers[number].modified):
                self._others[key] = time.monotonic()
                return None
            if not self._write(name := f"claims/{key}.{number + 1}"):
                return None
        with self._lock:
            self._held[name] = time.monotonic()
            if not self._renewing:
                self._renewing = True
                threading.Thread(target=self._renew, daemon=True).start()
        return name

    def give_back(self, name: str) -> None:
        """End a claim, and those before it."""
        with self._writing:
            with self._lock:
                written = self._held.pop(name)
            if time.monotonic() - written < LASTS_S:  # else another one may have it by now, and must stay the highest
                key, _, number = name.rpartition(".")
                self._objects.delete(f"{key}.{each}" for each in range(int(number), -1, -1))

    def _write(self, name: str) -> bool:
        return self._objects.put_new(name, self._content())

    def _content(self) -> bytes:
        return json.dumps({"owner": self._owner, "token": uuid.uuid4().hex}).encode()

    def _is_over(self, name: str, written: float) -> bool:
        if self._objects.now() - written > LASTS_S:
            return True
        content = self._objects.get(name)
        return content is None or f'"{self._owner}"'.encode() in content

    def _renew(self) -> None:
        while True:
            time.sleep(RENEWED_EVERY_S / 2)
            with self._lock:
                names = list(self._held)
                if not names:
                    self._renewing = False
                    return
            for name in names:
                # What fails here is found out by the work itself, or does not matter to it.
                with suppress(TombolaError, OSError, RuntimeError), self._writing:
                    if time.monotonic() - self._held.get(name, float("inf")) > RENEWED_EVERY_S / 2:
                        self._objects.put(name, self._content())
                        with self._lock:
                            self._held[name] = time.monotonic()
