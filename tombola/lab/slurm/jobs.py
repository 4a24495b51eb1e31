"""Workers that are jobs, as the command sees them: submitted, listened to, asked after, and ended."""

import os
import signal
import subprocess
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tombola.errors import BadInput, StoreError
from tombola.lab import mailbox
from tombola.lab.interrupts import unheard
from tombola.lab.mailbox import Receiver, Sender
from tombola.lab.pool import Gone
from tombola.lab.runs import Run
from tombola.lab.serving import LOG_TAIL, Equipment, Message
from tombola.lab.slurm.asked import Asked
from tombola.lab.slurm.job import GRACE_S, POLL_S, facts, live, pause

SILENT_S = 180.0  # a file system may show late that the command still lives
ASK_S = 20.0  # between two questions to Slurm about the jobs
REFUSALS = 10  # how often jobs may be refused one after another while others are at work

# What has become of a job that is over, by Slurm's name for it or submitit's, after "its worker".
_ENDED = {
    "COMPLETED": "ended before it was done",
    "FAILED": "failed",
    "CANCELLED": "was cancelled",
    "TIMEOUT": "ran out of time",
    "NODE_FAIL": "was lost with its node",
    "PREEMPTED": "had to make room for others",
    "OUT_OF_MEMORY": "was killed for want of memory",
    "BOOT_FAIL": "was lost as its node did not start",
    "DEADLINE": "could not end in time",
    "LAUNCH_FAILED": "could not be started",
    "FINISHED": "ended before it was done",
    "INTERRUPTED": "was killed",
}


@dataclass(eq=False)
class Job:
    """A worker that is a job, or will be one.

    Attributes:
        place: its number, and the name of its mailbox.
        submitted: as submitit has it; None where it is not submitted yet.
        state: as Slurm says it.
        why: Slurm's reason for it.
        here: whether it has said a word.
        leaving: why, where it has said that its time is over.
    """

    place: int
    device: str
    to: Sender
    of: Receiver
    submitted: Any = None
    state: str = ""
    why: str = ""
    here: bool = False
    leaving: str = ""
    unlisted: int = 0

    @property
    def waits(self) -> bool:
        """Whether Slurm has not started it."""
        return not self.here and self.state in ("", "PENDING", "CONFIGURING", "REQUEUED", "RESV_DEL_HOLD")


class Jobs:
    """Workers that are jobs.

    Args:
        wanted: what they are to be.
        folder: for mailboxes and logs.
        equipment: what each is given.
    """

    def __init__(self, wanted: Asked, folder: Path, equipment: Equipment) -> None:
        self._wanted, self._folder, self._equipment = wanted, folder, equipment
        self._count, self._told = 0, ""
        self._processes: list[Any] = []  # submitit's, all there were: none is left behind
        self._submitit = _executor(wanted, folder / "jobs")
        self._refused, self._again_at, self._ask_at = 0, 0.0, 0.0

    def hire(self, device: str) -> Job:
        """A new one; it is submitted together with the others that are hired by the time when they are listened to."""
        self._count += 1
        to, of = mailbox.made(self._folder / str(self._count))
        return Job(self._count, device, to, of)

    def give(self, worker: Job, runs: list[Run]) -> None:
        """Write it into its mailbox."""
        worker.to.send(mailbox.runs_sent(runs))

    def listen(self, workers: Sequence[Job], timeout: float | None) -> Iterable[tuple[Job, Message | Gone]]:
        """What is in their mailboxes; which of them are over, as Slurm says."""
        self._submit([worker for worker in workers if worker.submitted is None], alone=not any(w.here for w in workers))
        began = time.monotonic()
        while True:
            said = [(worker, message) for worker in workers for message in self._said(worker)]
            said += self._over(workers, {id(worker) for worker, message in said if isinstance(message, Gone)})
            if (news := self._news(workers)) and news != self._told:
                self._told = news
                said.append((workers[0], ("", "waits", news)))
            waited = time.monotonic() - began
            if said or (timeout is not None and waited >= timeout):
                return said
            time.sleep(pause(waited, len(workers)))

    def _said(self, worker: Job) -> Iterator[Message | Gone]:
        with suppress(OSError):  # not there for a moment, as file systems between machines sometimes are
            for message in map(mailbox.heard, worker.of.new()):
                match message:
                    case ("", "here", theirs):
                        worker.here = True
                        _check_alike(theirs, self._equipment.resources.store.root)
                    case ("", "leaving", why):
                        worker.leaving = why
                    case ("", "gone", why):
                        yield Gone(f"had to leave, as {why}", self._log(worker), out_of_time=True)
                    case _:
                        yield message

    def _over(self, workers: Sequence[Job], gone: set[int]) -> list[tuple[Job, Message | Gone]]:
        """Those that have ended without saying so."""
        alive = [worker for worker in workers if worker.submitted is not None and id(worker) not in gone]
        if self._wanted.place == "local":
            for worker in alive:
                worker.state = worker.submitted.state
        elif alive and time.monotonic() >= self._ask_at:
            self._ask_at = time.monotonic() + ASK_S
            _ask(alive)
        over: list[tuple[Job, Message | Gone]] = []
        for worker in alive:
            if worker.state in _ENDED or worker.unlisted > 1:
                last = list(self._said(worker))
                if not any(isinstance(each, Gone) for each in last):
                    last.append(self._ended(worker))
                over += [(worker, each) for each in last]
        return over

    def _ended(self, worker: Job) -> Gone:
        log = self._log(worker)
        if why := worker.leaving or ("its job's time was over" if worker.state == "TIMEOUT" else ""):
            return Gone(f"had to leave, as {why}", log, out_of_time=True)
        reason = _ENDED.get(worker.state, "is no longer known to Slurm")
        return Gone(f"{reason} (job {worker.submitted.job_id})", log, to_blame=worker.state != "PREEMPTED")

    def _log(self, worker: Job) -> str:
        """The end of what it wrote, and of what Slurm wrote about it."""
        paths = [self._folder / str(worker.place) / "log"]
        paths += [worker.submitted.paths.stderr] if worker.submitted is not None else []
        texts = [path.read_text(errors="replace") for path in paths if path.exists()]
        return "\n".join(filter(None, texts))[-LOG_TAIL:]

    def _news(self, workers: Sequence[Job]) -> str:
        """Which jobs wait, in words; nothing where none does."""
        waiting = [worker for worker in workers if worker.waits]
        if not waiting or self._wanted.place != "slurm":
            return ""
        whys = sorted({worker.why for worker in waiting} - {"", "None"})
        some = f"{len(waiting)} of {len(workers)}" if len(waiting) < len(workers) else str(len(waiting))
        jobs = "job waits" if len(waiting) == 1 == len(workers) else "jobs wait"
        return f"{some} {jobs} for Slurm" + (f" ({', '.join(whys)})" if whys else "")

    def _submit(self, workers: Sequence[Job], alone: bool) -> None:
        if not workers or time.monotonic() < self._again_at:
            return
        try:
            with unheard(), self._submitit.batch():
                jobs = [
                    self._submitit.submit(live, self._folder, worker.place, self._equipment, worker.device, SILENT_S)
                    for worker in workers
                ]
        except (RuntimeError, subprocess.CalledProcessError, OSError) as error:  # submitit's, of sbatch's words
            self._refused += 1
            self._again_at = time.monotonic() + ASK_S
            if alone or self._refused > REFUSALS:
                raise BadInput(
                    where="--on slurm",
                    expected="jobs that Slurm accepts",
                    found=_words(error),
                    todo="Change what is asked for: --with partition=..., --with time=... and so on; `sinfo` has the "
                    "partitions and their limits. What is finished is kept.",
                ) from error
            return
        self._refused = 0
        self._ask_at = time.monotonic() + 1.0
        for worker, job in zip(workers, jobs, strict=True):
            worker.submitted = job
        if self._wanted.place == "local":
            self._processes += jobs

    def dismiss(self, idle: Sequence[Job], busy: Sequence[Job]) -> None:
        """Tell them that there is no more to do; take those out of Slurm's queue that have not begun or do not end."""
        workers = [worker for worker in (*idle, *busy) if worker.submitted is not None]
        here = [worker for worker in workers if worker.here]
        for worker in here:
            with suppress(OSError):
                worker.to.send(None)
        self._cancel([worker for worker in workers if not worker.here])
        self._cancel(busy)  # which a worker hears at once, and then has Slurm's time to keep a checkpoint
        until = time.monotonic() + GRACE_S
        while here and time.monotonic() < until:
            here = [worker for worker in here if not any(isinstance(said, Gone) for said in self._said(worker))]
            time.sleep(POLL_S[0])
        self._cancel(here)
        for job in self._processes:
            _reap(job)

    def _cancel(self, workers: Sequence[Job]) -> None:
        jobs = [worker.submitted for worker in workers if worker.submitted is not None]
        if self._wanted.place == "local":
            for job in jobs:
                _end(job, signal.SIGTERM)  # which submitit passes on; its own `cancel` sends what they ignore
        elif jobs:
            with suppress(OSError, subprocess.TimeoutExpired):
                subprocess.run(["scancel", *(job.job_id for job in jobs)], capture_output=True, timeout=60)


def _end(job: Any, number: int) -> None:
    """Send a signal to the process that a job of submitit's is here, whose name is its number."""
    if job.state == "RUNNING":  # else it has been waited for, and another process may have its number
        with suppress(ProcessLookupError):
            os.kill(int(job.job_id), number)


def _reap(job: Any) -> None:
    """Wait for the end of a process that has been told to end, and see to it."""
    until = time.monotonic() + GRACE_S
    while job.state == "RUNNING":
        if time.monotonic() > until:
            _end(job, signal.SIGKILL)
        time.sleep(POLL_S[0])


def _ask(workers: Sequence[Job]) -> None:
    """Have Slurm say how the jobs are. Where it does not answer they are as they were."""
    ids = {worker.submitted.job_id: worker for worker in workers}
    listed = ",".join(sorted({name.partition("_")[0] for name in ids}))
    command = ["squeue", "--noheader", "--array", "--states=all", f"--jobs={listed}", "--format=%i|%T|%r"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return
    if answer.returncode and "Invalid job id" not in answer.stderr:
        return
    lines = dict(line.split("|", 1) for line in answer.stdout.splitlines() if "|" in line)
    for name, worker in ids.items():
        if name in lines:
            (worker.state, worker.why), worker.unlisted = lines[name].split("|", 1), 0
        else:
            worker.unlisted += 1


def _words(error: Exception) -> str:
    """What sbatch said, in a line."""
    lines = [line.strip() for line in str(error).splitlines() if "sbatch: error" in line or "srun: error" in line]
    found = "; ".join(line.partition("error: ")[2] for line in lines) or str(error).strip()
    return " ".join(found.split())[:500]


def _executor(wanted: Asked, folder: Path) -> Any:
    import submitit

    if wanted.place == "local":
        local = submitit.LocalExecutor(folder)
        minutes = wanted.minutes or 7 * 24 * 60
        local.update_parameters(timeout_min=minutes, signal_delay_s=wanted.notice_s, gpus_per_node=wanted.gpus)
        return local
    slurm = submitit.SlurmExecutor(folder)
    slurm.update_parameters(
        job_name="tombola",
        time=wanted.minutes,
        signal_delay_s=wanted.notice_s,
        cpus_per_task=wanted.cpus,
        mem=wanted.gigabytes,
        gpus_per_node=wanted.gpus or None,
        wckey=None,
        additional_parameters={"no_requeue": True},  # another one is submitted instead
        **wanted.named,
    )
    return slurm


def _check_alike(theirs: Mapping[str, Any], store: Path) -> None:
    """Make sure that a worker is one that can do what this command asks.

    Raises:
        StoreError: it does not see the store.
        BadInput: it has another version of something.
    """
    if not theirs["store"]:
        raise StoreError(
            where=str(store),
            expected="a store that all machines see",
            found=f"nothing of it on {theirs['host']}",
            todo="Name one on a file system that they share: --store.",
        )
    for what, version in facts().items():
        if theirs[what] != version:
            raise BadInput(
                where=f"{what} on {theirs['host']}",
                expected=f"{version}, as on this machine",
                found=str(theirs[what]),
                todo="Have the jobs use this command's environment, on a file system that all machines share. What is "
                "finished is kept.",
            )
