"""Tell a tracker of an experiment while it runs, from a process of its own.

The search never waits for the tracker: what happens goes into a queue, a thread carries it to the process, and where
that is slow or gone, looks are left out. Nothing is lost by it: a training that is finished is told from the store, and
in the end the process does what `tombola log` does, which adds whatever is not there. A tracker that fails is
complained of once, and asked again later.

The two ends of the pipe speak JSON, a line each: first an `Order`, then `{"look": [key, step, loss]}` and
`{"stored": key}`; its end says that the experiment is over. What the process prints is said to the person.
"""

import json
import math
import os
import queue
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Set
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from typing import IO

from tombola.errors import TombolaError, shown
from tombola.lab.executor import Team
from tombola.lab.plan import Plan
from tombola.lab.plan import plan as planned
from tombola.lab.queue import Announce, Event, Tally
from tombola.lab.results import Result, results
from tombola.lab.row import Row
from tombola.lab.runs import Run
from tombola.lab.spec_file import read
from tombola.lab.store import Store
from tombola.lab.stores import store_at
from tombola.report import folder
from tombola.trackers import TRACKERS
from tombola.trackers.entry import Curve
from tombola.trackers.record import Files, begun, training
from tombola.trackers.telling import PATIENCE_S, Told, alone, tell, told_text
from tombola.trackers.tracker import Asked, Log, asked

WAITING = 10_000  # lines that wait to be carried; of looks no more are taken then
AGAIN_S = 30.0  # after which a tracker that failed is asked again
SILENCE_S = 120.0  # for which the end waits at most without a word
HURRY_S = 5.0  # the same after Ctrl-C, or a failure: who waits for it wants to go
POLL_S = 2.0


@dataclass(frozen=True)
class Order:
    """What the process is to do.

    Attributes:
        spec, changes, extend: the experiment, as the command was given it.
        store: its address.
        to: which tracker, and where.
        files: of which replicates masks and tickets go along.
    """

    spec: str
    changes: tuple[str, ...]
    extend: tuple[str, ...]
    store: str
    to: str
    files: Files = "first"


def ordered(spec: str, changes: tuple[str, ...], extend: tuple[str, ...], store: str, to: str) -> Order:
    """The order of a command.

    Raises:
        BadInput: there is no such tracker, or its library is missing.
    """
    asked(to, "--log", TRACKERS)
    return Order(spec, changes, extend, store, to)


# ---------------------------------------------------------------- in the process of the search


@contextmanager
def beside(order: Order, team: Team, say: Callable[[str], None]) -> Iterator[Team]:
    """The same team, of whose events another process tells a tracker.

    Args:
        team: that does the search.
        say: is given what there is to say to the person, from another thread.
    """
    with tempfile.TemporaryFile() as trouble:
        process = subprocess.Popen(
            [sys.executable, "-m", "tombola.trackers.live"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=trouble,
            start_new_session=True,  # Ctrl-C is for the search
        )
        assert process.stdin and process.stdout
        lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        lines.put(json.dumps(asdict(order)))
        heard = _Heard(process.stdout, say)
        carrier = threading.Thread(target=_carry, args=(lines, process.stdin), daemon=True)
        for thread in (heard, carrier):
            thread.start()
        search = _Search(team, lambda event: _put(event, lines))
        try:
            yield replace(team, execute=search.execute)
        finally:
            lines.put(None)
            try:
                heard.wait(HURRY_S if search.broken else SILENCE_S)
            finally:
                _end(process)
                heard.join()  # what it has said is said before what follows
                process.stdout.close()
            if process.returncode:
                trouble.seek(0)
                words = trouble.read().decode(errors="replace").strip().splitlines() or ["there was no more time"]
                say(f"Logging ended early: {shown(words[-1].rstrip('.'), 300)}. `tombola log` completes it.")


class _Heard(threading.Thread):
    """Says what the process prints, and notes when it did."""

    def __init__(self, lines: IO[bytes], say: Callable[[str], None]) -> None:
        super().__init__(daemon=True)
        self._lines, self._say, self._last = lines, say, time.monotonic()

    def run(self) -> None:
        for line in self._lines:
            self._last = time.monotonic()
            if text := line.decode(errors="replace").rstrip():
                self._say(text)

    def wait(self, patience: float) -> None:
        """Until the process has ended, or has said nothing for so many seconds."""
        self._last = time.monotonic()
        while self.is_alive() and time.monotonic() < self._last + patience:
            self.join(0.1)


class _Search:
    """What a team does, of which somebody else is told too.

    Attributes:
        broken: whether it was interrupted, or failed.
    """

    def __init__(self, team: Team, announce: Announce) -> None:
        self._team, self._announce, self.broken = team, announce, False

    def execute(self, runs: Iterable[Run], tell: Announce) -> Tally:
        """Do the runs."""

        def both(event: Event) -> None:
            tell(event)
            self._announce(event)

        try:
            return self._team.execute(runs, both)
        except BaseException:
            self.broken = True
            raise


def _put(event: Event, lines: "queue.SimpleQueue[str | None]") -> None:
    if event.what == "looked" and lines.qsize() < WAITING:
        lines.put(json.dumps({"look": [event.run.key, event.done, event.loss]}))
    elif event.what == "stored":
        lines.put(json.dumps({"stored": event.run.key}))


def _carry(lines: "queue.SimpleQueue[str | None]", pipe: IO[bytes]) -> None:
    with suppress(OSError), pipe:  # it is gone: why is said at the end
        while (line := lines.get()) is not None:
            pipe.write(f"{line}\n".encode())
            pipe.flush()


def _end(process: "subprocess.Popen[bytes]") -> None:
    process.terminate()
    try:
        process.wait(5)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


# ---------------------------------------------------------------- in the process of the tracker


class Follower:
    """Tells a tracker of trainings while they go on, and of those that are finished.

    Args:
        plan: whose trainings they are.
        to: which tracker, and where.
        say: is given what there is to say.
    """

    def __init__(self, plan: Plan, store: Store, to: Asked, files: Files, say: Callable[[str], None]) -> None:
        self._plan, self._store, self._asked, self._files, self._say = plan, store, to, files, say
        self._rows: dict[str, list[Row]] = {}
        for row in plan.rows:
            self._rows.setdefault(row.run.key, []).append(row)
        self._finished: dict[str, None] = {}  # keys that are to be told, in their order
        self._looks: dict[str, dict[int, float]] = {}  # of those that go on: losses by step
        self._open = ExitStack()
        self._log: Log | None = None
        self._complained, self._again = False, 0.0

    @property
    def keys(self) -> Set[str]:
        """Of the trainings that it tells of."""
        return self._rows.keys()

    def looked(self, key: str, done: int, loss: float) -> None:
        """Note a look at a training, after so many of its steps."""
        if key in self._rows and key not in self._finished and math.isfinite(loss):
            self._looks.setdefault(key, {})[self._rows[key][0].run.begin + done] = loss

    def stored(self, key: str) -> None:
        """Note that a run is finished."""
        self._looks.pop(key, None)
        if key in self._rows:
            self._finished[key] = None

    def tell(self) -> None:
        """Tell what is noted, as far as the tracker takes it."""
        while self._finished and self._attempt(self._tell_finished):
            pass
        while self._looks and self._attempt(self._tell_looks):
            pass

    def finish(self) -> None:
        """Tell of all that is not there yet, and of the whole, as `tombola log` does.

        Raises:
            TombolaError: the tracker cannot be reached, or another process tells it of the same.
        """
        found = results(self._plan, self._store)
        if found.rows:
            log = self._ready(PATIENCE_S)
            told = tell(found, log, self._files, lambda: folder.write(found).parent, self._say)
            self._say(told_text(Told(told.logged + told.there, 0), self._asked.tracker.name, log.where))
        self.close()

    def close(self) -> None:
        """Leave the tracker as it is."""
        opened, self._open, self._log = self._open, ExitStack(), None
        with suppress(TombolaError):
            opened.close()

    def _ready(self, patience: float = 0.0) -> Log:
        if self._log is None:
            opened = alone(self._asked, self._plan.experiment.name, self._store, self._say, patience)
            self._log = self._open.enter_context(opened)
        return self._log

    def _attempt(self, what: Callable[[Log], None]) -> bool:
        """Whether the tracker took it; one that failed is complained of once, and not asked for a while."""
        if time.monotonic() < self._again:
            return False
        try:
            what(self._ready())
        except TombolaError as error:
            self.close()
            self._again = time.monotonic() + AGAIN_S
            if not self._complained:
                self._say(f"Not logged: {error} The search goes on, and the tracker is asked again from time to time.")
            self._complained = True
            return False
        return True

    def _tell_finished(self, log: Log) -> None:
        key = next(iter(self._finished))
        for row in self._rows[key]:
            result = Result(row, self._store.values(row.run), self._store.provenance(row.run))
            entry = training(result, self._plan, self._store, self._files)
            if entry.id not in log.complete:
                log.write(entry)
        del self._finished[key]

    def _tell_looks(self, log: Log) -> None:
        key = next(iter(self._looks))
        losses = sorted(self._looks[key].items())
        curve = Curve("validation_loss", tuple(step for step, _ in losses), tuple(loss for _, loss in losses))
        for row in self._rows[key]:
            entry = replace(begun(row), curves=(curve,))
            if entry.id not in log.complete:
                log.grow(entry)
        del self._looks[key]


def follow(follower: Follower, store: Store) -> None:
    """Tell of what appears in a store, until all trainings are there.

    Raises:
        TombolaError: the tracker cannot be reached when all is finished.
    """
    seen: set[str] = set()
    while True:
        new = (store.keys() & follower.keys) - seen
        for key in sorted(new):
            follower.stored(key)
        seen |= new
        follower.tell()
        if len(seen) == len(follower.keys):
            return follower.finish()
        time.sleep(POLL_S)


def main() -> int:
    """Do what the first line of standard input orders, until its end."""
    with suppress(OSError, AttributeError):
        os.nice(10)  # the search comes first
    order = Order(**json.loads(sys.stdin.readline()))
    plan = planned(read(order.spec, order.changes, order.extend))
    wanted = asked(order.to, "--log", TRACKERS)
    follower = Follower(plan, store_at(order.store), wanted, order.files, _say)
    lines: queue.SimpleQueue[str] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(lines,), daemon=True).start()
    try:
        while _noted(follower, lines):
            follower.tell()
        follower.finish()
    except TombolaError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def _listen(lines: "queue.SimpleQueue[str]") -> None:
    for line in sys.stdin:
        lines.put(line)
    lines.put("")


def _noted(follower: Follower, lines: "queue.SimpleQueue[str]") -> bool:
    """Note all that has been said, which may take a while to come; whether there may be more."""
    with suppress(queue.Empty):
        line = lines.get(timeout=POLL_S)
        while line:
            match json.loads(line):
                case {"look": [key, done, loss]}:
                    follower.looked(key, done, loss)
                case {"stored": key}:
                    follower.stored(key)
            line = lines.get_nowait()
        return False
    return True


if __name__ == "__main__":
    sys.exit(main())
