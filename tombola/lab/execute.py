"""Do what a plan lacks: worker processes with one thread each, one run at a time, nothing finished ever lost.

A worker gets one run, performs it, writes the outcome into the store and asks for the next. It claims the run first, so
that two plans on one store never do the same run twice. If it dies, its run is tried once more; if the run itself
fails, that is its outcome, the runs that need it are left out and the rest goes on.
"""

import errno
import faulthandler
import multiprocessing
import os
import platform
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from functools import cache
from itertools import chain, islice
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, Protocol

from tombola import data, models
from tombola.data.shared import publish
from tombola.engine import Choice, at_once, kernels, measure, shapes_of
from tombola.engine.forms import Shape, Times
from tombola.errors import DataError, NoRoom, StoreError, TombolaError
from tombola.lab.runs import Line, Run, Stored, Train, data_sets, shallow
from tombola.lab.store import Failure, Outcome, Store
from tombola.recipe import Recipe

BUSY_POLL_S = 0.2
GRACE_S = 5
LOG_TAIL = 4000
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM)


@dataclass(frozen=True)
class Event:
    """Something that happened to a run.

    Attributes:
        what: `started`, `looked` (there is something to tell of how it goes), `stored`, `retried` (its worker died),
            `failed`, `skipped` (an input failed), `apart` (its stack did not work, and each of it is done alone).
        done, total: steps of a training or points of a line, where that is known.
        loss: the latest validation loss, of a line the latest test error.
        note: why, for what went wrong.
    """

    what: str
    run: Run
    done: int = 0
    total: int = 0
    loss: float | None = None
    note: str = ""


Tell = Callable[[Event], None]


@dataclass
class Result:
    """What came of it: how many runs were done, which failed and which were left out because of those."""

    done: int = 0
    failed: dict[Run, Failure] = field(default_factory=dict)
    skipped: list[Run] = field(default_factory=list)


class Execute(Protocol):
    """As `execute`."""

    def __call__(
        self,
        runs: Iterable[Run],
        store: Store,
        data_dir: Path | None,
        workers: int,
        tell: Tell,
        engine: Choice = "auto",
        devices: tuple[str, ...] = ("cpu",),
    ) -> Result:
        """Perform `runs` and store their outcomes."""


@dataclass(frozen=True)
class _Place:
    """Where workers find what they need."""

    root: Path
    data_dir: Path | None
    engine: Choice
    shared: Path
    devices: tuple[str, ...]
    measured: Mapping[Shape, Times]


@dataclass(eq=False)
class _Worker:
    process: Any
    pipe: "Connection[Any, Any]"
    log: Path
    device: str
    runs: dict[str, Run] = field(default_factory=dict)  # by key: those it has not answered for


def execute(
    runs: Iterable[Run],
    store: Store,
    data_dir: Path | None,
    workers: int,
    tell: Tell,
    engine: Choice = "auto",
    devices: tuple[str, ...] = ("cpu",),
) -> Result:
    """Perform `runs`, inputs before what needs them, and store their outcomes.

    Args:
        runs: those that are missing, inputs first.
        workers: processes at work at once, >= 1.
        tell: is told of every event, in this process.
        engine: `auto`, `reference` for the plain loop, or `stacked`; see `engine.at_once`.
        devices: where; workers share them evenly.

    Raises:
        NoRoom, StoreError, DataError: nothing more can be done - the disk is full, the data are damaged. What is
            done is kept.
        KeyboardInterrupt: passed on after the workers have been stopped.
    """
    work = Work(list(runs), store, tell)
    crew: list[_Worker] = []
    with ExitStack() as stack:
        stack.callback(_dismiss, crew)
        try:
            shared = stack.enter_context(store.scratch("data"))
            # Here, and sent along: a second measurement may choose other forms, which give other last bits.
            measured = measure.times(_shapes(work.recipes, engine, devices))
            place = _Place(store.root, data_dir, engine, shared, devices, measured)
            _fill(crew, work, workers, place)
            for name in work.data_sets:  # once for all workers, while they start
                publish(name, data_dir, shared)
        except OSError as error:
            raise _no_room(error, store) from error
        while not work.over:
            _fill(crew, work, workers, place)
            for worker in list(crew):
                idle = sum(not each.runs for each in crew)
                if not worker.runs and (given := work.next(_most(engine, worker.device), idle)):
                    worker.runs = {run.key: run for run in given}
                    try:
                        worker.pipe.send([shallow(run) for run in given])
                    except OSError:
                        _bury(worker, crew, work)
            _listen(crew, work)
        return work.result


def _most(engine: Choice, device: str) -> Callable[[Train], int]:
    """How many like a training a worker of that device does at once."""

    def most(run: Train) -> int:
        recipe = run.recipe
        if data.is_folder(recipe.data) or models.source(recipe.model):
            return 1
        facts = data.facts(recipe.data)
        return at_once(engine, device, models.layers(recipe.model, facts.shape, facts.classes), recipe.batch)

    return most


def _shapes(recipes: Iterable[Recipe], engine: Choice, devices: tuple[str, ...]) -> list[Shape]:
    """What the kernels may be asked to train, where they may be asked."""
    if engine != "auto" or "cpu" not in devices or not kernels.sets():
        return []
    shapes: list[Shape] = []
    for recipe in recipes:
        if not (recipe.augment or recipe.precision or data.is_folder(recipe.data) or models.source(recipe.model)):
            facts = data.facts(recipe.data)
            layers = models.chain(recipe.model, facts.shape, facts.classes)
            shapes += shapes_of(layers, recipe.batch).values()
    return shapes


def alike(run: Train) -> tuple[Any, ...]:
    """What trainings have in common that can be done at once: all but where they start, their masks and their seeds."""
    recipe = run.recipe.model_dump_json()
    looks = run.evaluate_every, run.test_every
    return recipe, run.data_fingerprint, run.begin, run.until, *looks, run.optimizer_state, run.keep_optimizer


def _dismiss(crew: list[_Worker]) -> None:
    for worker in crew:
        worker.process.terminate()
    for worker in crew:
        worker.process.join()
        worker.log.unlink(missing_ok=True)


def _fill(crew: list[_Worker], work: "Work", workers: int, place: "_Place") -> None:
    while len(crew) < min(workers, work.left) and work.ready:
        busy = [worker.device for worker in crew]
        with _unheard():
            crew.append(_hire(place, min(place.devices, key=busy.count)))


@contextmanager
def _unheard() -> Iterator[None]:
    """A Ctrl-C in here is heard at the end; processes that are started in here never hear one.

    It reaches the whole group, and a new process would die of it, loudly, before its first line could ignore it.
    """
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    resource_tracker.ensure_running()  # which unblocks SIGINT when it starts
    came: list[int] = []
    handler = signal.signal(signal.SIGINT, lambda number, frame: came.append(number))  # of what other threads receive
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # which children inherit, unlike the handler
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        signal.signal(signal.SIGINT, handler)
    if came:
        signal.raise_signal(signal.SIGINT)


_Queue = OrderedDict[str, Run]  # by key


class _Ready:
    """The runs that can be done now, in the order in which they go; nothing in here looks at all of them.

    Those whose worker died go first, then what others wait for - so that the many controls at the end fill every worker
    evenly -, then all else, and last what another process is at, once it is time to look again.
    """

    def __init__(self) -> None:
        # Ordered, as the first of a plain dict is found by walking over all that was there before it.
        self._again = _Queue()
        self._needed = _Queue()
        self._leaves = _Queue()
        self._quick = _Queue()  # of the needed and the leaves, all that is no training
        self._trainings: dict[tuple[Any, ...], _Queue] = {}  # of the same, by what is alike
        self._elsewhere: OrderedDict[str, tuple[Run, float]] = OrderedDict()  # and when to look again, earliest first

    def __bool__(self) -> bool:
        return bool(self._again or self._needed or self._leaves or self._elsewhere)

    def add(self, run: Run, leaf: bool) -> None:
        (self._leaves if leaf else self._needed)[run.key] = run
        if isinstance(run, Train):
            self._trainings.setdefault(alike(run), _Queue())[run.key] = run
        else:
            self._quick[run.key] = run

    def again(self, run: Run) -> None:
        """Its worker died."""
        self._again[run.key] = run
        self._again.move_to_end(run.key, last=False)

    def elsewhere(self, run: Run) -> None:
        """Another process is at it."""
        self._elsewhere[run.key] = run, time.monotonic() + BUSY_POLL_S

    @property
    def is_elsewhere(self) -> bool:
        """Whether another process is at any of them."""
        return bool(self._elsewhere)

    def first(self) -> Run | None:
        """The one that goes first; None if all are elsewhere."""
        for queue in (self._again, self._needed, self._leaves):
            if queue:
                return next(iter(queue.values()))
        return next(self._back(), None)

    def _back(self) -> Iterator[Run]:
        now = time.monotonic()
        for run, until in self._elsewhere.values():
            if until > now:
                return
            yield run

    def quick(self) -> Run | None:
        """One that is no training."""
        return next(iter(self._quick.values()), None)

    def like(self, run: Train) -> tuple[int, Iterator[Run]]:
        """How many other trainings are alike, but for those whose worker died, and which."""
        same = self._trainings.get(alike(run), _Queue())
        back = [each for each in self._back() if isinstance(each, Train) and alike(each) == alike(run)]
        others = (each for each in chain(same.values(), back) if each != run)
        return len(same) - (run.key in same) + len(back) - (run in back), others

    def take(self, run: Run) -> bool:
        """Take it out; whether it was elsewhere before."""
        for queue in (self._again, self._needed, self._leaves, self._quick):
            queue.pop(run.key, None)
        if isinstance(run, Train):
            self._trainings.get(alike(run), _Queue()).pop(run.key, None)
        return self._elsewhere.pop(run.key, None) is not None


class Work:
    """Which runs are waiting, ready, out and over."""

    def __init__(self, runs: list[Run], store: Store, tell: Tell) -> None:
        self._store, self._tell = store, tell
        self._waiting = {run.key: run for run in runs}
        self._inputs = {run.key: {needed.key for needed in run.inputs} & self._waiting.keys() for run in runs}
        self._dependants: dict[str, list[Run]] = {run.key: [] for run in runs}
        for run in runs:
            for needed in self._inputs[run.key]:
                self._dependants[needed].append(run)
        self.ready = _Ready()
        for run in runs:
            if not self._inputs[run.key]:
                self._is_ready(run)
        self._tried: set[str] = set()
        self.result = Result()

    def _is_ready(self, run: Run) -> None:
        self.ready.add(run, leaf=not self._dependants[run.key])

    @property
    def left(self) -> int:
        return len(self._waiting)

    @property
    def data_sets(self) -> list[str]:
        """The names of those that trainings need."""
        return data_sets(self._waiting.values())

    @property
    def recipes(self) -> list[Recipe]:
        """The recipes of trainings."""
        return list(dict.fromkeys(run.recipe for run in self._waiting.values() if isinstance(run, Train)))

    @property
    def over(self) -> bool:
        return not self._waiting

    @property
    def pause_s(self) -> float | None:
        """How long to listen: until something happens, or until a run that another process has may be done."""
        return BUSY_POLL_S if self.ready.is_elsewhere else None

    def next(self, most: Callable[[Train], int] = lambda run: 1, idle: int = 1) -> list[Run]:
        """What to do now: a run, or trainings that are `alike`, `most` of them at most; nothing if all are elsewhere.

        They are shared among as many workers as are `idle`. Where trainings may be done at once all else goes first, so
        that many are ready. One whose worker died is done alone: if it was to blame, it takes no others along a second
        time.
        """
        first = self.ready.first()
        if first is None:
            return []
        given = [first]
        if isinstance(first, Train) and first.key not in self._tried and (count := most(first)) > 1:
            if quick := self.ready.quick():
                given = [quick]
            else:
                number, same = self.ready.like(first)
                share = -(-(1 + number) // idle)
                untried = (run for run in same if run.key not in self._tried)
                given = [first, *islice(untried, min(count, share) - 1)]
        for run in given:
            if not self.ready.take(run):
                self._tell(Event("started", run))
        return given

    def elsewhere(self, run: Run) -> None:
        """Another process is at it: look again a little later."""
        self.ready.elsewhere(run)

    def looked(self, run: Run, done: int, total: int, loss: float) -> None:
        self._tell(Event("looked", run, done, total, loss))

    def apart(self, run: Run, reason: str) -> None:
        self._tell(Event("apart", run, note=reason))

    def stored(self, run: Run) -> None:
        del self._waiting[run.key]
        self.result.done += 1
        self._tell(Event("stored", run))
        for dependant in self._dependants[run.key]:
            self._inputs[dependant.key].discard(run.key)
            if not self._inputs[dependant.key] and dependant.key in self._waiting:
                self._is_ready(dependant)

    def died(self, run: Run, reason: str, log: str) -> None:
        if run.key in self._tried:
            self.failed(run, f"{reason}, twice", log)
            return
        self._tried.add(run.key)
        self._tell(Event("retried", run, note=reason))
        self.ready.again(run)

    def failed(self, run: Run, reason: str, log: str) -> None:
        try:
            self.result.failed[run] = self._store.fail(run, reason, log)
        except OSError as error:
            raise _no_room(error, self._store) from error
        self._tell(Event("failed", run, note=reason))
        del self._waiting[run.key]
        lost = list(self._dependants[run.key])
        while lost:
            dependant = lost.pop()
            if self._waiting.pop(dependant.key, None):
                self.result.skipped.append(dependant)
                self._tell(Event("skipped", dependant, note=f"needs {run.key}, which failed"))
                lost.extend(self._dependants[dependant.key])


def _listen(crew: list[_Worker], work: Work) -> None:
    """Wait until some worker has something to say, or is dead, and act on it."""
    at_work = [worker for worker in crew if worker.runs]
    sources = [source for worker in at_work for source in (worker.pipe, worker.process.sentinel)]
    if not sources:
        time.sleep(BUSY_POLL_S)
        return
    heard = wait(sources, timeout=work.pause_s)
    for worker in at_work:
        if worker.pipe in heard:
            try:
                message = worker.pipe.recv()
            except (EOFError, OSError):
                _bury(worker, crew, work)
            else:
                _hear(worker, work, *message)
        elif worker.process.sentinel in heard:
            _bury(worker, crew, work)


def _hear(worker: _Worker, work: Work, key: str, what: str, *details: Any) -> None:
    if what == "looked":
        work.looked(worker.runs[key], *details)
        return
    if what == "apart":
        work.apart(worker.runs[key], *details)
        return
    run = worker.runs.pop(key)
    match what:
        case "stored":
            work.stored(run)
        case "elsewhere":
            work.elsewhere(run)
        case "failed":
            work.failed(run, *details)
        case "stop":
            raise details[0]


def _bury(worker: _Worker, crew: list[_Worker], work: Work) -> None:
    crew.remove(worker)
    worker.process.join(timeout=GRACE_S)
    worker.process.kill()  # of no effect on one that is gone, as nearly all are by now
    worker.process.join()
    code = worker.process.exitcode
    reason = (
        f"its worker was killed by {signal.Signals(-code).name}"
        if code < 0
        else f"its worker ended with exit status {code}"
    )
    log = worker.log.read_text(errors="replace")[-LOG_TAIL:] if worker.log.exists() else ""
    worker.log.unlink(missing_ok=True)
    for run in worker.runs.values():
        work.died(run, reason, f"{reason}\n{log}")


def _hire(place: _Place, device: str) -> _Worker:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    log = place.root / "tmp" / f"worker-{os.getpid()}-{time.monotonic_ns()}"
    process = context.Process(target=_serve, args=(theirs, place, device, log), daemon=True)
    process.start()
    theirs.close()
    return _Worker(process, ours, log, device)


def _serve(pipe: "Connection[Any, Any]", place: _Place, device: str, log: Path) -> None:
    """A worker's life: take a run, do it, say so, until the pipe closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # for good, and where `_unheard` could not see to it
    threading.Thread(target=_leave_with_parent, daemon=True).start()
    store = Store(place.root)
    with store.claim(Stored(log.name)):  # else another process would take the log for a leftover
        with log.open("w") as file:
            os.dup2(file.fileno(), sys.stderr.fileno())
        faulthandler.enable()
        one_thread()
        if device != "cpu":
            import torch

            torch.cuda.set_device(device)  # else what asks for no device in particular would ask the first one
        if place.engine == "reference":
            _warm_up()
        from tombola.lab.perform import Bench

        bench = Bench(
            store,
            place.data_dir,
            place.engine,
            place.shared,
            device,
            time.perf_counter,
            measured=place.measured,
        )
        while True:
            try:
                runs = pipe.recv()
            except EOFError:
                return
            do_all(runs, bench, lambda run, *said: pipe.send((run.key, *said)))


def _warm_up() -> None:
    """One training step of nothing: torch imports half of itself at the first one, which is no run's time."""
    import torch

    model = torch.nn.Linear(1, 1)
    optimizer = torch.optim.Adam(model.parameters(), fused=True)
    model(torch.zeros(1, 1)).sum().backward()
    optimizer.step()


def one_thread() -> None:
    """Set this process up to compute: one thread, on which the bits depend, and numbers too small for 32 bits become 0.

    Without the latter a step takes three times as long as soon as gradients of dying units reach 1e-38.
    """
    import torch

    torch.set_num_threads(1)
    torch.set_flush_denormal(True)


Looked = Callable[[int, int, float], None]


def do(
    run: Run, bench: Any, looked: Looked, performing: Callable[[Run, Any, Looked], Outcome] | None = None
) -> tuple[Any, ...]:
    """Perform one run in this process and store its outcome; what is to be said of it, and why.

    Args:
        performing: how; by default as `lab.perform` does it.
    """
    from tombola.lab.perform import perform

    try:
        with bench.store.claim(run) as ours:
            if not ours:
                return ("elsewhere",)
            if not bench.store.has(run):
                if isinstance(run, Train | Line):
                    bench.dataset(run.recipe.data)  # read once per worker: not part of any run's time
                began = time.perf_counter()
                outcome = (performing or perform)(run, bench, looked)
                _save(run, outcome, time.perf_counter() - began, bench.store)
            return ("stored",)
    except Exception as error:  # a bug of ours must not take the other runs with it
        return _ended(error, bench.store)


def _save(run: Run, outcome: Outcome, seconds: float, store: Store) -> None:
    """Store an outcome that took `seconds` now, and those before an interruption."""
    how = dict(outcome.how)
    store.save(run, outcome, provenance(seconds + how.pop("seconds_before", 0.0)) | how)


def _ended(error: Exception, store: Store) -> tuple[Any, ...]:
    """What is to be said of a run that ended so: it failed, or nothing more can be done.

    Raises:
        Exception: `error`, where the GPU is lost, and this process with it.
    """
    if _gpu_is_lost(error):
        raise error
    if isinstance(error, DataError | StoreError):
        return "stop", error
    if isinstance(error, OSError) and error.errno in _NO_ROOM:
        return "stop", _no_room(error, store)
    name = "" if isinstance(error, TombolaError | OSError) else f"{type(error).__name__}: "
    return "failed", f"{name}{error}", "".join(traceback.format_exception(error))


def _gpu_is_lost(error: Exception) -> bool:
    """Whether the device failed, and not only the run: whatever this process asks of it now would fail.

    The process has to end. Its runs are then tried once more by another one, as where it is killed.
    """
    if type(error).__name__ == "AcceleratorError":  # which newer versions of torch have
        return True
    text = str(error)
    refused = ("ALLOC_FAILED", "NOT_SUPPORTED", "BAD_PARAM", "out of memory")  # of one call; the device is well
    lost = "CUDA error" in text or any(
        f"CUDNN_STATUS_{what}" in text for what in ("EXECUTION_FAILED", "INTERNAL_ERROR")
    )
    return type(error) is RuntimeError and lost and not any(word in text for word in refused)


def do_all(runs: Sequence[Run], bench: Any, say: Callable[..., None]) -> None:
    """Do what a worker was given, at once where it is more than one training; say of each run what `do` would say.

    Args:
        say: is told a run and what is said of it: `looked`, done, total, loss; `apart`, why it could not be done at
            once with the others; or how it ended.
    """
    from tombola.lab.perform import perform_together

    def looked(run: Run) -> Looked:
        return lambda *seen: say(run, "looked", *seen)

    left = list(runs)
    if len(runs) > 1:
        with ExitStack() as claims:
            claimed = [run for run in runs if claims.enter_context(bench.store.claim(run))]
            ours = [run for run in claimed if isinstance(run, Train) and not bench.store.has(run)]
            try:
                for name in {run.recipe.data for run in ours}:
                    bench.dataset(name)
                began = time.perf_counter()
                outcomes = perform_together(ours, bench, [looked(run) for run in ours])
                stacked = sum(outcome is not None for outcome in outcomes)
                share = (time.perf_counter() - began) / max(stacked, 1)  # so that seconds add up
                for run, outcome in zip(ours, outcomes, strict=True):
                    if outcome is None:
                        continue
                    if isinstance(outcome, TombolaError):
                        say(run, *_ended(outcome, bench.store))
                    else:
                        _save(run, outcome, share, bench.store)
                        say(run, "stored")
                    left.remove(run)
            except Exception as error:
                what, *details = _ended(error, bench.store)
                if what == "stop":
                    say(left[0], what, *details)
                    return
                sys.stderr.write(details[-1])
                # Too little memory for so many, say: each may do alone.
                say(next(run for run in ours if run in left), "apart", details[0])
    for each in left:  # it is elsewhere or done, or will be done now
        say(each, *do(each, bench, looked(each)))


def _no_room(error: OSError, store: Store) -> NoRoom:
    where = error.filename or store.root
    return NoRoom(f"{error.strerror}: {where}. What is finished is kept: see to it and run the same command again.")


def provenance(seconds: float) -> dict[str, Any]:
    """How an outcome came about: everything that must not change it."""
    import torch

    import tombola

    return {
        "seconds": seconds,
        "peak_memory_mb": _peak_memory_mb(),
        "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "device": "cpu",
        "threads": torch.get_num_threads(),
        "tombola": tombola.__version__,
        "git": _commit(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}",
        "processor": kernels.processor(),
    }


@cache
def _commit() -> str | None:
    """The commit of the checkout that Tombola runs from, `+` where it differs from it; None where it is installed."""
    folder = Path(__file__).parents[2]
    if not (folder / ".git").exists():
        return None
    git = ["git", "-C", str(folder)]
    try:
        commit = subprocess.run([*git, "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True, check=True)
        changed = subprocess.run(
            [*git, "status", "--porcelain", "--untracked-files=no"], capture_output=True, text=True
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return commit.stdout.strip() + ("+" if changed.stdout else "")


def _peak_memory_mb() -> float | None:
    # Where Linux says it, not getrusage: there a process starts with the peak of the one that started it.
    with suppress(OSError, StopIteration):
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
        return round(int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) / 2**10, 1)
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / (2**20 if sys.platform == "darwin" else 2**10), 1)


def _leave_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent:
        wait([parent.sentinel])
        os._exit(1)
