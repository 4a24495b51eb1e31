"""Workers that are jobs of Slurm: a few long-lived ones, which take runs through a folder that all machines see.

Jobs are submitted, as one array, through submitit. Each is one process with one thread, which speaks with this command
through its mailbox. Before its time limit a job keeps a checkpoint of what it is at and hands it back; another one is
submitted, as long as there is work. When the command ends, or is gone without a word, the jobs end.

`--on slurm:local` has submitit start the same jobs as processes of this machine, and `--on slurm:debug` does what they
would do in this process: for trying out, and for a debugger.
"""

import os
import shutil
import socket
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

from tombola.errors import BadInput, not_installed
from tombola.lab import mailbox, pool
from tombola.lab.executor import Executor, Offer, Resources, Team
from tombola.lab.queue import Announce, Tally
from tombola.lab.runs import Run
from tombola.lab.slurm.asked import OPTIONS, Asked, Place, asked, bad
from tombola.lab.slurm.debugging import InThisProcess
from tombola.lab.slurm.jobs import Jobs


def offer(resources: Resources) -> Offer:
    """What would be asked of Slurm; it is not asked yet."""
    wanted = asked(resources)
    return Offer(wanted.jobs, ("cuda:0",) if wanted.gpus else ("cpu",), wanted.about)


@contextmanager
def _team(resources: Resources) -> Iterator[Team]:
    wanted, offered = asked(resources), offer(resources)
    if wanted.place == "slurm" and wanted.folder is None and not resources.store.is_folder:
        raise BadInput(
            where="--on slurm",
            expected="a folder that all machines see, for what jobs and command say to each other",
            found=f"a store that is none, {resources.store.address}",
            todo="Name one: --with folder=/path/on/a/shared/file/system.",
        )
    data_dir = resources.data_dir and resources.data_dir.absolute()
    resources = replace(resources, store=resources.store.absolute(), data_dir=data_dir)
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
        raise bad("folder", "one that can be written", f"{error.strerror}: {error.filename}") from error
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
