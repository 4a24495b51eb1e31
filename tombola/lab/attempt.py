"""One attempt at a run, in this process: perform it, store its outcome and how it came about, or say why not."""

import errno
import platform
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, suppress
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tombola.code import place
from tombola.engine import kernels
from tombola.errors import DataError, NoRoom, StoreError, StoreLost, TombolaError
from tombola.lab.checkpoints import Halted
from tombola.lab.runs import Outcome, Run, Tell, data_sets
from tombola.lab.store import Store

if TYPE_CHECKING:
    from tombola.lab.worker import Worker

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM)


def one_thread() -> None:
    """Set this process up to compute: one thread, on which the bits depend, and numbers too small for 32 bits become 0.

    Without the latter a step takes three times as long as soon as gradients of dying units reach 1e-38.
    """
    import torch

    torch.set_num_threads(1)
    torch.set_flush_denormal(True)


def do(
    run: Run, worker: "Worker", looked: Tell, performing: Callable[[Run, "Worker", Tell], Outcome] | None = None
) -> tuple[Any, ...]:
    """Perform one run in this process and store its outcome; what is to be said of it, and why.

    Args:
        performing: how; by default as its kind does it.

    Returns:
        What became of the run - `stored`, `elsewhere` (another process is at it), `halted` (the worker is leaving),
        `failed` or `stop` (nothing more can be done) - and the details.
    """
    if worker.leaving():
        return ("halted",)
    try:
        with worker.store.claim(run) as ours:
            if not ours:
                return ("elsewhere",)
            if worker.store.has(run):
                worker.store.settle()
            else:
                for name in run.data:
                    worker.dataset(name)  # read once per worker: not part of any run's time
                began = time.perf_counter()
                outcome = performing(run, worker, looked) if performing else run.perform(worker, looked)
                _save(run, outcome, time.perf_counter() - began, worker.store)
            return ("stored",)
    except Halted:
        return ("halted",)
    except Exception as error:  # a bug of ours must not take the other runs with it
        return _ended(error, worker.store)


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
    if isinstance(error, DataError | StoreError | StoreLost):
        return "stop", error
    if isinstance(error, OSError) and error.errno in _NO_ROOM:
        return "stop", no_room(error, store)
    name = "" if isinstance(error, TombolaError | OSError) else f"{type(error).__name__}: "
    where = f" ({at})" if (at := place(error)) else ""
    return "failed", f"{name}{error}{where}", "".join(traceback.format_exception(error))


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


def do_all(runs: Sequence[Run], worker: "Worker", say: Callable[..., None]) -> None:
    """Do what a worker was given, at once where it is more than one run; say of each run what `do` would say.

    Args:
        say: is told a run and what is said of it: `looked`, done, total, loss; `apart`, why it could not be done at
            once with the others; or how it ended.
    """

    left = _do_stack(runs, worker, say) if len(runs) > 1 else runs
    for run in left:  # it is elsewhere or done, or will be done now
        say(run, *do(run, worker, _looked(run, say)))


def _looked(run: Run, say: Callable[..., None]) -> Tell:
    return lambda *seen: say(run, "looked", *seen)


def _do_stack(runs: Sequence[Run], worker: "Worker", say: Callable[..., None]) -> list[Run]:
    """Do runs of one `Run.stack` at once; return those that have not ended by that, to be done one by one."""
    ended: set[Run] = set()
    with ExitStack() as claims:
        claimed = [run for run in runs if claims.enter_context(worker.store.claim(run))]
        ours = [run for run in claimed if not worker.store.has(run)]
        try:
            for run, *what in _stack(ours, worker, say) if ours else ():
                ended.add(run)
                say(run, *what)
        except Halted:  # all alike, and each as `do` will say it
            pass
        except Exception as error:
            what, *details = _ended(error, worker.store)
            first = next(run for run in ours if run not in ended)
            if what == "stop":
                say(first, what, *details)
                return []
            sys.stderr.write(details[-1])
            say(first, "apart", details[0])  # too little memory for so many, say: each may do alone
    return [run for run in runs if run not in ended]


def _stack(runs: Sequence[Run], worker: "Worker", say: Callable[..., None]) -> Iterator[tuple[Any, ...]]:
    """Each run that a stack does, its outcome stored or not, and what is to be said of it."""
    for name in data_sets(runs):
        worker.dataset(name)
    began = time.perf_counter()
    outcomes = type(runs[0]).perform_stack(runs, worker, [_looked(run, say) for run in runs])
    share = (time.perf_counter() - began) / max(sum(map(bool, outcomes)), 1)  # so that seconds add up
    for run, outcome in zip(runs, outcomes, strict=True):
        if isinstance(outcome, TombolaError):
            yield run, *_ended(outcome, worker.store)
        elif outcome is not None:
            _save(run, outcome, share, worker.store)
            yield run, "stored"


def no_room(error: OSError, store: Store) -> NoRoom:
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
        "git": commit(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}",
        "processor": kernels.processor(),
    }


@cache
def commit() -> str | None:
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
