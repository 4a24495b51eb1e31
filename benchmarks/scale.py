"""It grows straight: plans, schedules, lists, tables and tiny runs, at 1,000, 10,000 and 100,000 runs.

The preset digits, 23 runs to a replicate, with as many replicates as give that many runs. Each size has a process of
its own, and each command that is timed too: seconds of the clock and of the processor, and the most memory that it had.
Tiny runs are initial weights of LeNet-20-10, which take under a millisecond each: what is measured is all else.

    python benchmarks/scale.py [--sizes 1000 10000 100000] [--tiny 1000 10000] [--on workers ray] [--write]
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

from section import ROOT, Bar, bars, cores, load, load_line, machine, options, publish, table, tombola

PAGE = ROOT / "results" / "scale.md"
RUNS_OF_ONE = 23
SAVES = 60
LINKS = 30_000  # to a file; ext4 allows 65,000
WORKERS = 2


@dataclass(frozen=True)
class Taken:
    """What something took: seconds of the clock and of the processor, and, of a process, its memory at the most."""

    wall_s: float
    cpu_s: float
    memory_mb: float = 0.0


def replicates(size: int) -> int:
    return -(-size // RUNS_OF_ONE)


def clocked(act: Callable[[], object]) -> Taken:
    began, busy = time.perf_counter(), time.process_time()
    act()
    return Taken(time.perf_counter() - began, time.process_time() - busy)


def command(*arguments: object) -> Taken:
    """`tombola` with these arguments, in a process of its own."""
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    began = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", "tombola", *map(str, arguments)],
        env=os.environ | {"PYTHONPATH": path},
        stdout=subprocess.DEVNULL,
    )
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"tombola {' '.join(map(str, arguments))} failed")
    return Taken(time.perf_counter() - began, used.ru_utime + used.ru_stime, used.ru_maxrss / 2**10)


def one_size(size: int) -> None:
    """Measure one size, and print what came of it as JSON; this process does nothing else."""
    from tombola.lab.plan import missing, plan
    from tombola.lab.queue import RunQueue
    from tombola.lab.runs import Run
    from tombola.lab.spec_file import read
    from tombola.lab.store import Store

    made: dict[str, Taken] = {}
    experiment = read("digits", (f"replicates={replicates(size)}",))
    made["planned"] = clocked(lambda: plan(experiment))
    wanted = plan(experiment)
    with tempfile.TemporaryDirectory(dir=os.environ.get("TOMBOLA_SCRATCH")) as folder:
        store = Store(Path(folder) / "store").open()
        runs = missing(wanted, store)

        def schedule() -> None:
            queue, out = RunQueue(runs, store, lambda event: None), list[Run]()
            while not queue.over:
                out += queue.next(idle=WORKERS)
                run = out.pop(0)
                queue.looked(run, 1, 2, 0.5)
                queue.stored(run)

        made["scheduled"] = clocked(schedule)
        pretend(store.root, wanted.runs, {(row.run.key): (row.arm, row.level) for row in wanted.rows})
        made["listed"] = clocked(store.keys)
        left: list[Run] = []
        made["missing"] = clocked(lambda: left.extend(missing(wanted, store)))
        assert not left, "all is there"
        spec = ["digits", "--set", f"replicates={replicates(size)}", "--store"]
        made["tombola plan, nothing done"] = command("plan", *spec, Path(folder) / "none")
        made["tombola plan, all done"] = command("plan", *spec, store.root)
        made["tombola table --format csv"] = command("table", *spec, store.root, "--format", "csv")
    print(json.dumps({"runs": len(wanted.runs)} | {name: vars(taken) for name, taken in made.items()}))


def pretend(root: Path, runs: Sequence[Any], places: dict[str, tuple[str, int]]) -> None:
    """Fill a store with outcomes of all runs, those of one short replicate by another name: links, few copies."""
    from tombola.lab.plan import plan
    from tombola.lab.spec_file import read

    with tempfile.TemporaryDirectory(dir=root.parent) as folder:
        short = ("replicates=1", "recipe.length=20it")
        tombola("run", "digits", *(part for change in short for part in ("--set", change)), "--store", folder)
        done = plan(read("digits", short))
        of = {run.kind: run.key for run in done.runs} | {(row.arm, row.level): row.run.key for row in done.rows}
        templates: dict[Path, tuple[Path, int]] = {}  # the file to link to next, and how often it has been linked to
        for run in runs:
            template = Path(folder) / "runs" / of.get(places.get(run.key, run.kind), of[run.kind])
            place = root / "runs" / run.key
            place.mkdir()
            for name in ("outcome.json", "provenance.json"):
                source, links = templates.get(template / name, (template / name, LINKS))
                if links < LINKS:
                    os.link(source, place / name)
                else:
                    shutil.copyfile(source, place / name)
                templates[template / name] = (source, links + 1) if links < LINKS else (place / name, 1)


def tiny(size: int, on: str) -> Taken:
    """So many tiny runs by an executor, into a new store, from the first that is stored on: no start is in it."""
    from tombola.lab.executor import Resources
    from tombola.lab.executors import choose
    from tombola.lab.kinds import Init
    from tombola.lab.queue import Event
    from tombola.lab.runs import Network
    from tombola.lab.store import Store

    network = Network("lenet-20-10", (1, 8, 8), 10)
    runs = [Init(network, "glorot-normal", init_seed=number) for number in range(size)]
    stored: list[tuple[float, float]] = []

    def hear(event: Event) -> None:
        if event.what == "stored":
            stored.append((time.perf_counter(), time.process_time()))

    with tempfile.TemporaryDirectory(dir=os.environ.get("TOMBOLA_SCRATCH")) as folder:
        store = Store(Path(folder) / "store").open()
        executor, address = choose(on)
        with executor.team(Resources(store=store, workers=WORKERS, address=address)) as team:
            assert team
            team.execute(runs, hear)
    (began, busy), (ended, last) = stored[0], stored[-1]
    return Taken(ended - began, last - busy)


@contextmanager
def unsynced(counted: list[int]) -> Iterator[None]:
    """The disk is waited for nowhere in here; counts how often it would have been."""
    sync = os.fsync
    os.fsync = counted.append  # type: ignore[assignment]
    try:
        yield
    finally:
        os.fsync = sync


def saving() -> str:
    """What storing a tiny outcome takes, and how much of it is the disk."""
    import torch

    from tombola import files
    from tombola.lab.kinds import Init
    from tombola.lab.runs import Network, Outcome
    from tombola.lab.store import Store

    outcome = Outcome({"loss": 0.1}, {"weights": {"a": torch.ones(300)}})
    network, counted = Network("lenet-20-10", (1, 8, 8), 10), list[int]()
    taken: dict[str, list[float]] = {"as it is": [], "one after the other": [], "without": []}
    together = files.fill

    def one_by_one(folder: Path, contents: Iterable[tuple[str, bytes]]) -> None:
        folder.mkdir()
        for name, content in contents:
            files.write(folder / name, content)
        files.settle(folder)

    with tempfile.TemporaryDirectory(dir=os.environ.get("TOMBOLA_SCRATCH")) as folder:
        store, number = Store(Path(folder) / "store").open(), 0
        for _ in range(SAVES):
            for name, times in taken.items():
                number += 1
                run = Init(network, "glorot-normal", init_seed=number)
                files.fill = one_by_one if name == "one after the other" else together
                if name == "without":
                    with unsynced(counted):
                        times.append(clocked(partial(store.save, run, outcome, {})).wall_s)
                else:
                    times.append(clocked(partial(store.save, run, outcome, {})).wall_s)
    files.fill = together
    ms = {name: median(times) * 1e3 for name, times in taken.items()}
    return (
        f"Storing a tiny outcome - three files, their folder and its new name: {len(counted) / SAVES:.0f} fsyncs - "
        f"takes {ms['as it is']:.1f} ms where all but the last are asked for at the same time, as it is; "
        f"{ms['one after the other']:.1f} ms where they are asked for one after the other; {ms['without']:.1f} ms "
        f"without any. Taking turns, medians of {SAVES}."
    )


def row(name: str, sizes: Sequence[dict[str, Any]], write: Callable[[Taken, int], str]) -> list[str]:
    return [name, *(write(Taken(**one[name]), one["runs"]) for one in sizes)]


def both(taken: Taken, runs: int) -> str:
    return f"{taken.wall_s:.2f} s, {taken.cpu_s:.2f} s"


def one_run(taken: Taken, runs: int) -> str:
    return f"{taken.wall_s / runs * 1e6:.0f} µs, {taken.cpu_s / runs * 1e6:.0f} µs a run"


def whole(taken: Taken, runs: int) -> str:
    return f"{both(taken, runs)}, {taken.memory_mb:.0f} MB"


def promises(most: dict[str, Any]) -> list[Bar]:
    found = {name: Taken(**taken) for name, taken in most.items() if name != "runs"}
    runs = most["runs"]
    about = f"of {runs:,} runs"
    return [
        Bar(f"planned, {about}: processor", found["planned"].cpu_s, "<=", 15, " s"),
        Bar(f"`tombola plan`, {about}: processor", found["tombola plan, nothing done"].cpu_s, "<=", 15, " s"),
        Bar(f"scheduled, {about}: processor", found["scheduled"].cpu_s / runs * 1e3, "<=", 0.1, " ms a run"),
        Bar(f"listed, {about}: processor", found["listed"].cpu_s + found["missing"].cpu_s, "<=", 1, " s"),
        Bar(f"`tombola plan`, {about}: memory", found["tombola plan, nothing done"].memory_mb, "<=", 500, " MB"),
    ]


def plans(sizes: Sequence[int], head: str, write: bool) -> None:
    """The section of plans, of so many runs about."""
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    measured = [
        json.loads(
            subprocess.check_output(
                [sys.executable, __file__, "--one", str(size)], env=os.environ | {"PYTHONPATH": path}, text=True
            ).splitlines()[-1]
        )
        for size in sizes
    ]
    rows = [
        row("planned", measured, both),
        row("scheduled", measured, one_run),
        row("listed", measured, both),
        row("missing", measured, both),
        *(row(name, measured, whole) for name in measured[0] if name.startswith("tombola")),
    ]
    about = (
        "Seconds of the clock, then of the processor, which depend less on what else a machine does; of commands also "
        "the most memory. `listed` is the set of all keys in the store, `missing` what of the plan is not there when "
        "all is."
    )
    tabled = table(["", *(f"{one['runs']:,} runs" for one in measured)], rows)
    publish("plans", "Plans", [head, about, tabled, bars(promises(measured[-1]))], write, PAGE)


def tiny_runs(sizes: Sequence[int], on: str, head: str, write: bool) -> None:
    """The section of tiny runs by one executor."""
    lines = []
    for size in sizes:
        taken = tiny(size, on)
        wall_ms, cpu_ms = (seconds / size * 1e3 for seconds in (taken.wall_s, taken.cpu_s))
        lines.append([f"{size:,}", f"{taken.wall_s:.1f} s", f"{wall_ms:.2f} ms", f"{cpu_ms:.3f} ms"])
    name = on.partition(":")[0]
    columns = table(["runs", "all stored after", "a run", "of it the scheduling process"], lines)
    about = f"{WORKERS} workers on {cores()} cores, `--on {on}`, into a folder; without the start of the workers."
    publish(f"tiny-{name}", f"Tiny runs by {name}", [head, about, columns], write, PAGE)


def main(arguments: list[str]) -> None:
    parser = options(__doc__)
    parser.add_argument("--sizes", type=int, nargs="*", default=[1_000, 10_000, 100_000], help="of plans, in runs")
    parser.add_argument("--tiny", type=int, nargs="*", default=[1_000, 10_000], help="how many tiny runs are done")
    parser.add_argument("--on", nargs="*", default=["workers"], help="by which executors")
    parser.add_argument("--one", type=int, help="measure this size alone, and print JSON")
    given = parser.parse_args(arguments)
    if given.one:
        return one_size(given.one)
    head = f"`python benchmarks/scale.py`: {machine()} {load_line(load())}"
    if given.sizes:
        plans(given.sizes, head, given.write)
    publish("disk", "What is waited for on the disk", [head, saving()], given.write, PAGE)
    for on in given.on:
        tiny_runs(given.tiny, on, head, given.write)


if __name__ == "__main__":
    main(sys.argv[1:])
