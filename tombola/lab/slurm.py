"""Workers that are jobs of Slurm: a few long-lived ones, which take runs through a folder that all machines see.

Jobs are submitted, as one array, through submitit. Each is one process with one thread, which speaks with this command
through its mailbox. Before its time limit a job keeps a checkpoint of what it is at and hands it back; another one is
submitted, as long as there is work. When the command ends, or is gone without a word, the jobs end.

`--on slurm:local` has submitit start the same jobs as processes of this machine, and `--on slurm:debug` does what they
would do in this process: for trying out, and for a debugger.
"""

import os
import platform
import re
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import tombola
from tombola.errors import BadInput, StoreError, not_installed
from tombola.lab import mailbox, pool
from tombola.lab.attempt import do_all
from tombola.lab.executor import Executor, Offer, Resources, Team
from tombola.lab.interrupts import unheard
from tombola.lab.mailbox import Receiver, Sender
from tombola.lab.pool import Gone
from tombola.lab.queue import Announce, Tally
from tombola.lab.remote_store import RemoteStore
from tombola.lab.runs import Run
from tombola.lab.serving import READY, Equipment, Message, equipped, serve
from tombola.lab.store import Store

if TYPE_CHECKING:
    from tombola.lab.worker import Worker

JOBS = 8  # where nobody says how many
NOTICE_S = 120  # before its time limit, when a job is told of it
SILENT_S = 180.0  # a file system may show late that the command still lives
GRACE_S = 20.0  # for a job to keep a checkpoint when the command ends
ASK_S = 20.0  # between two questions to Slurm about the jobs
POLL_S = (0.05, 1.0)  # between two looks into a mailbox: at first, and where nothing has come for long
WATCH_S = 0.5  # between two looks of a worker at whether the command lives
LOOKED_S = 1.0  # between two lines on how runs go
REFUSALS = 10  # how often jobs may be refused one after another while others are at work
LOG_TAIL = 4000

Place = Literal["slurm", "local", "debug"]
OPTIONS = {
    "jobs": f"how many, by default {JOBS}",
    "time": "of each, in minutes or D-HH:MM:SS; by default the partition's",
    "partition": "where they run",
    "account": "who pays",
    "qos": "a quality of service",
    "constraint": "features that nodes must have",
    "mem": "memory of each, in GB",
    "cpus": "cores of each, by default 1; more only give it their memory",
    "gpus": "of each, 0 or 1, by default 1 where device is cuda or this machine has one",
    "folder": "for what jobs and command say to each other, seen by all machines; by default in the store",
}
_TO_SLURM = ("partition", "account", "qos", "constraint")  # as they are


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What is asked of Slurm.

    Attributes:
        place: Slurm, or what stands for it.
        jobs: how many.
        minutes: of each; None for what Slurm gives.
        gigabytes: of memory of each; None for what Slurm gives.
        cpus, gpus: of each.
        named: options that Slurm is told as they are: partition, account, qos, constraint.
        folder: for mailboxes; None for one in the store.
    """

    place: Place = "slurm"
    jobs: int = JOBS
    minutes: int | None = None
    gigabytes: int | None = None
    cpus: int = 1
    gpus: int = 0
    named: Mapping[str, str] = field(default_factory=dict)
    folder: Path | None = None

    @property
    def notice_s(self) -> int:
        """How long before its end a job is told of it."""
        return min(NOTICE_S, 60 * self.minutes // 4) if self.minutes else NOTICE_S

    @property
    def about(self) -> str:
        """It, in a sentence."""
        each = [f"{self.cpus} core{'s' * (self.cpus > 1)}"]
        each += [f"{self.gigabytes} GB"] if self.gigabytes else []
        each += ["a GPU"] if self.gpus else []
        each += [f"at most {self.minutes} minutes, after which another one goes on"] if self.minutes else []
        jobs = f"{self.jobs} job{'s' * (self.jobs > 1)}"
        match self.place:
            case "debug":
                return "Slurm's part is played by this process: one run at a time."
            case "local":
                return f"Slurm's part is played by this machine: {jobs} as processes, one run at a time each."
        named = "".join(f", {name} {value}" for name, value in self.named.items())
        return f"Slurm gets an array of {jobs}{named}: one run at a time each, with {', '.join(each)}."


def asked(resources: Resources) -> Asked:
    """What `--on slurm:ADDRESS` and `--with` ask for.

    Raises:
        BadInput: an option that is none, or has no such value.
    """
    place, options = _parts(resources.address)
    options |= resources.options
    if resources.workers is not None and "jobs" in options:
        raise _bad("jobs", "one of --workers and jobs", f"jobs={options['jobs']} beside --workers {resources.workers}")
    jobs = resources.processes if resources.workers is not None else _count("jobs", options.get("jobs"), JOBS)
    named = {name: value for name, value in options.items() if name in _TO_SLURM}
    for name, value in named.items():
        if value != value.strip() or not value.isprintable():
            raise _bad(name, "a name that Slurm knows", repr(value))
    gpus = _count("gpus", options.get("gpus"), int(resources.devices != ("cpu",)), least=0, most=1)
    return Asked(
        place=place,
        jobs=1 if place == "debug" else jobs,
        minutes=_minutes(options["time"]) if "time" in options else None,
        gigabytes=_count("mem", options["mem"].removesuffix("GB").removesuffix("G"), 1) if "mem" in options else None,
        cpus=_count("cpus", options.get("cpus"), 1),
        gpus=gpus,
        named=named,
        folder=Path(options["folder"]).absolute() if "folder" in options else None,
    )


def _parts(address: str) -> tuple[Place, dict[str, str]]:
    """What an address says: `slurm:local,jobs=2` is short for `slurm:local --with jobs=2`."""
    places, options = [], {}
    for part in filter(None, address.split(",")):
        name, equals, value = part.partition("=")
        if equals and (name not in OPTIONS or not value):
            known = "; ".join(f"{option} ({meaning})" for option, meaning in OPTIONS.items())
            raise BadInput(
                where="--on slurm",
                expected=f"options NAME=VALUE out of {known}",
                found=repr(part),
                todo="Leave it out; what Slurm itself reads from the environment, SBATCH_..., holds too.",
            )
        if equals:
            options[name] = value
        else:
            places.append(part)
    match places:
        case []:
            return "slurm", options
        case ["local"]:
            return "local", options
        case ["debug"]:
            return "debug", options
    raise BadInput(
        where="--on slurm",
        expected="slurm, slurm:local (processes of this machine) or slurm:debug (this process)",
        found=f"slurm:{address}",
        todo="What Slurm is asked for has a name: --on slurm:partition=gpu,time=60.",
    )


def _count(name: str, value: str | None, otherwise: int, least: int = 1, most: int = 1000) -> int:
    if value is None:
        return otherwise
    if not (value.isascii() and value.isdigit() and least <= int(value) <= most):
        raise _bad(name, f"a whole number from {least} to {most}", repr(value))
    return int(value)


def _minutes(time: str) -> int:
    """Slurm's way to say a time, in whole minutes.

    >>> _minutes("90"), _minutes("01:30:00"), _minutes("1-12:00:00")
    (90, 90, 2160)
    """
    total = 0
    if match := re.fullmatch(r"(?:(?:(\d+)-)?(\d+):(\d\d):(\d\d)|(\d+))", time, re.ASCII):
        days, hours, minutes, seconds, alone = (int(part or 0) for part in match.groups())
        total = (days * 24 + hours) * 60 + minutes + -(-seconds // 60) + alone
    if total < 1:
        raise _bad("time", "minutes, HH:MM:SS or D-HH:MM:SS, a minute at least", repr(time))
    return total


def _bad(name: str, expected: str, found: str) -> BadInput:
    return BadInput(where=f"--with {name}", expected=expected, found=found, todo=f"It is {OPTIONS[name]}.")


def offer(resources: Resources) -> Offer:
    """What would be asked of Slurm; it is not asked yet."""
    wanted = asked(resources)
    return Offer(wanted.jobs, ("cuda:0",) if wanted.gpus else ("cpu",), wanted.about)


@contextmanager
def _team(resources: Resources) -> Iterator[Team]:
    wanted, offered = asked(resources), offer(resources)
    if isinstance(resources.store, RemoteStore):
        if wanted.place == "slurm" and wanted.folder is None:
            raise BadInput(
                where="--on slurm",
                expected="a folder that all machines see, for what jobs and command say to each other",
                found=f"a store that is none, {resources.store.address}",
                todo="Name one: --with folder=/path/on/a/shared/file/system.",
            )
    else:
        store = Store(resources.store.root.absolute())
        store.tell = resources.store.tell
        resources = replace(resources, store=store)
    resources = replace(resources, data_dir=resources.data_dir and resources.data_dir.absolute())
    if wanted.place != "debug":
        _check_installed(wanted.place)

    def execute(runs: Iterable[Run], tell: Announce) -> Tally:
        with ExitStack() as stack:
            folder = stack.enter_context(_folder(wanted, resources))
            mail = folder / "mail"
            mail.mkdir(mode=0o700)  # what is in it is unpickled
            stack.enter_context(mailbox.beating(mail / "pulse"))
            hired = InThisProcess if wanted.place == "debug" else partial(Jobs, wanted)
            scratch = partial(_within, folder)
            return pool.execute(partial(hired, mail), resources, offered, runs, tell, scratch)

    yield Team(offered, execute)


@contextmanager
def _folder(wanted: Asked, resources: Resources) -> Iterator[Path]:
    """A folder for all that jobs need beside the store; gone afterwards."""
    if wanted.folder is None:
        with resources.store.scratch("slurm") as folder:
            yield folder
        return
    folder = wanted.folder / f"tombola-{socket.gethostname()}-{os.getpid()}-{time.monotonic_ns()}"
    try:
        folder.mkdir(parents=True)
    except OSError as error:
        raise _bad("folder", "one that can be written", f"{error.strerror}: {error.filename}") from error
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _within(folder: Path, name: str) -> Iterator[Path]:
    """A new folder in another one, gone afterwards."""
    made = folder / name
    made.mkdir()
    try:
        yield made
    finally:
        shutil.rmtree(made, ignore_errors=True)


def _check_installed(place: Place) -> None:
    try:
        import submitit  # noqa: F401
    except ImportError:
        raise not_installed("--on slurm", "submitit, which submits the jobs", "slurm") from None
    if place == "slurm" and not (shutil.which("sbatch") and shutil.which("srun")):
        raise BadInput(
            where="--on slurm",
            expected="Slurm's commands, sbatch and srun",
            found="none on this machine",
            todo="Use a machine that submits jobs; --on slurm:local tries things out without Slurm.",
        )


SLURM = Executor(
    name="slurm",
    about="Jobs of Slurm, through submitit, which take run after run; slurm:local and slurm:debug try that out",
    applies=lambda: False,
    offer=offer,
    team=_team,
    options=OPTIONS,
    elsewhere=True,
)


# ------------------------------------------------------------------------------------------------- the command's side


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
            time.sleep(_pause(waited, len(workers)))

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


@dataclass(eq=False)
class Helper:
    """A worker that is this process."""

    to: Sender
    asked: Receiver
    says: Sender
    of: Receiver
    worker: "Worker"
    ready: bool = False


class InThisProcess:
    """A worker that does in this process what a job would do: whatever happens, a debugger sees it.

    Args:
        folder: for its mailbox.
        equipment: what it is given.
    """

    def __init__(self, folder: Path, equipment: Equipment) -> None:
        self._folder, self._equipment = folder, equipment

    def hire(self, device: str) -> Helper:
        """The only one."""
        to, of = mailbox.made(self._folder / "1")
        return Helper(to, *mailbox.opened(self._folder / "1"), of, equipped(self._equipment, device))

    def give(self, worker: Helper, runs: list[Run]) -> None:
        """Write it into its mailbox."""
        worker.to.send(mailbox.runs_sent(runs))

    def listen(self, workers: Sequence[Helper], timeout: float | None) -> Iterable[tuple[Helper, Message | Gone]]:
        """What it says of what it has been given, which it does now."""
        for worker in workers:
            if not worker.ready:
                worker.ready = True
                return [(worker, READY)]
            _do_given(worker)
            if said := [(worker, mailbox.heard(message)) for message in worker.of.new()]:
                return said
        time.sleep(timeout or 0)
        return []

    def dismiss(self, idle: Sequence[Helper], busy: Sequence[Helper]) -> None:
        """There is nothing to end."""


def _do_given(helper: Helper) -> None:
    for message in helper.asked.new():
        do_all(
            mailbox.runs_received(message),
            helper.worker,
            lambda run, *said: helper.says.send(mailbox.said((run.key, *said))),
        )


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


def _pause(waited: float, workers: int) -> float:
    """How long to wait before looking again: short at first, and not too short for a file server."""
    return min(POLL_S[1], max(POLL_S[0], waited / 10, workers / 200))


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


def facts() -> dict[str, str]:
    """What must be alike on all machines."""
    return {"Python": ".".join(platform.python_version_tuple()[:2]), "Tombola": tombola.__version__}


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


# -------------------------------------------------------------------------------------------------- the worker's side

_WHYS = {"SIGUSR2": "its job's time limit was near", "SIGTERM": "its job was told to end"}


def live(folder: Path, place: int, equipment: Equipment, device: str, silent_s: float) -> None:
    """A job's life: take runs from its mailbox, do them and say so, until there are no more, or its time is over.

    Args:
        folder: of the mailboxes.
        place: its number.
        silent_s: how long the command may be silent until it counts as gone.
    """
    asked, says = mailbox.opened(folder / str(place))
    leaving = _Leaving(says)
    for name in _WHYS:
        signal.signal(getattr(signal, name), leaving.heard)
    threading.Thread(target=leaving.watch, args=(mailbox.Pulse(folder / "pulse", silent_s),), daemon=True).start()
    store = equipment.resources.store
    seen = isinstance(store, RemoteStore) or (store.root / "runs").is_dir()
    sees = {"host": socket.gethostname(), "pid": os.getpid(), "store": seen}
    says.send(["", "here", facts() | sees])
    take = partial(next, _asked(asked, leaving), None)
    serve(equipment, device, folder / str(place) / "log", take, _Saying(says, leaving), leaving)
    with suppress(OSError):
        says.send(["", "gone", leaving.why or "there was no more to do"])


class _Leaving:
    """Whether a worker is to leave, and why."""

    def __init__(self, says: Sender) -> None:
        self._says, self.why = says, ""

    def __call__(self) -> bool:
        return bool(self.why)

    def heard(self, number: int, frame: object) -> None:
        """Slurm has sent a signal: some time before the limit, or when somebody wants the place, or the job away."""
        self.why = self.why or _WHYS[signal.Signals(number).name]

    def watch(self, pulse: mailbox.Pulse) -> None:
        """Say it when the worker is to leave, as it may be killed before it can; leave when the command is gone."""
        told = False
        while pulse.beats():
            if self.why and not told:
                with suppress(OSError):
                    self._says.send(["", "leaving", self.why])
                told = True
            time.sleep(WATCH_S)
        self.why = self.why or "the command was gone"
        time.sleep(GRACE_S)  # in which the run may keep a checkpoint
        os._exit(1)


def _asked(asked: Receiver, leaving: _Leaving) -> Iterator[Sequence[Run]]:
    """The runs that a worker is to do, as they come, until there are no more or it is to leave."""
    since = time.monotonic()
    while not leaving():
        with suppress(OSError):
            for message in asked.new():
                if message is None:
                    return
                yield mailbox.runs_received(message)
                since = time.monotonic()
        time.sleep(_pause(time.monotonic() - since, workers=1))


class _Saying:
    """How a worker says things: what becomes of a run in any case, and how it goes at first, and now and then."""

    def __init__(self, says: Sender, leaving: _Leaving) -> None:
        self._says, self._leaving = says, leaving
        self._looked: dict[str, float] = {}  # by key: when it was last said how it goes

    def __call__(self, message: Message) -> None:
        if message[1] == "looked":
            if time.monotonic() - self._looked.get(message[0], -LOOKED_S) < LOOKED_S:
                return
            self._looked[message[0]] = time.monotonic()
        else:
            self._looked.pop(message[0], None)
        while not self._said(message) and not self._leaving():
            time.sleep(WATCH_S)

    def _said(self, message: Message) -> bool:
        try:
            self._says.send(mailbox.said(message))
        except OSError:  # the file system is not there for a moment, or the command is gone, as will be seen
            return False
        return True
