"""What is asked of Slurm: how many jobs, for how long, and where."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from tombola.errors import BadInput
from tombola.lab.executor import Resources

JOBS = 8  # where nobody says how many
NOTICE_S = 120  # before its time limit, when a job is told of it

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
        raise bad("jobs", "one of --workers and jobs", f"jobs={options['jobs']} beside --workers {resources.workers}")
    jobs = resources.processes if resources.workers is not None else _count("jobs", options.get("jobs"), JOBS)
    named = {name: value for name, value in options.items() if name in _TO_SLURM}
    for name, value in named.items():
        if value != value.strip() or not value.isprintable():
            raise bad(name, "a name that Slurm knows", repr(value))
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
        raise bad(name, f"a whole number from {least} to {most}", repr(value))
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
        raise bad("time", "minutes, HH:MM:SS or D-HH:MM:SS, a minute at least", repr(time))
    return total


def bad(name: str, expected: str, found: str) -> BadInput:
    return BadInput(where=f"--with {name}", expected=expected, found=found, todo=f"It is {OPTIONS[name]}.")
