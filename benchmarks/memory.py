"""What it saves to keep a training step's memory: seconds of a step and peak memory, as the allocator is and as told.

Each figure is of a process of its own, which takes turns with the others: started as it would be, or as `tombola run`
starts its workers. A step of SGD with momentum in an ordinary dense loop, on random images; and one of the compiled
kernels on LeNet-300-100. The thread's own seconds, as machines are shared.

    python benchmarks/memory.py [--rounds 3] [--write]
"""

import json
import subprocess
import sys
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from statistics import median

import torch
from section import Bar, bars, load, load_line, machine, options, publish, table

from tombola.allocator import thrifty

NETWORKS = ("resnet-20", "conv-4", "lenet-300-100, native")
STEPS, BEFORE = 7, 6
NATIVE = 300  # steps that are measured together, as each takes less than a millisecond
STARTS = {"as it is": nullcontext, "told to keep": thrifty}
LEVEL = 3  # of LeNet's search
LEAST = 0.95  # of the time as it is: not slower, but for what measuring adds


def step_of(name: str, data_dir: Path | None) -> Callable[[], float]:
    """Seconds of a step."""
    import sparse_networks

    row = next((row for row in sparse_networks.ROWS if row.name == name), None)
    if row is not None:
        return sparse_networks.stepping(row, torch.contiguous_format, None)[0]
    import lenet
    from step import tombola

    from tombola import data

    dataset = data.load("mnist", data_dir)
    start, living = lenet.random_levels()[LEVEL]
    trained = lenet.engine_of(dataset, living, start, "native")
    return tombola(trained, dataset, torch.arange(6000), NATIVE)


def one(name: str, data_dir: Path | None) -> None:
    """Say what a step takes in this process, and how much memory it has had at most."""
    import resource

    torch.set_num_threads(1)
    step = step_of(name, data_dir)
    for _ in range(BEFORE):
        step()
    seconds = median(step() for _ in range(STEPS))
    print(json.dumps([seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024]))


def alone(name: str, start: str, data_dir: Path | None) -> tuple[float, float]:
    """The same of a process that is started so."""
    where = ["--data-dir", str(data_dir)] if data_dir else []
    with STARTS[start]():
        done = subprocess.run(
            [sys.executable, __file__, "--one", name, *where], capture_output=True, text=True, check=True
        )
    seconds, megabytes = json.loads(done.stdout.splitlines()[-1])
    return seconds, megabytes


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--rounds", type=int, default=3, help="of which the medians are taken")
    parser.add_argument("--one", help="measure this network in this process")
    asked = parser.parse_args()
    if asked.one:
        one(asked.one, asked.data_dir)
        return
    busy, rows, promises = load(), [], []
    for name in NETWORKS:
        taken: dict[str, list[tuple[float, float]]] = {start: [] for start in STARTS}
        for _ in range(asked.rounds):
            for start, each in taken.items():
                each.append(alone(name, start, asked.data_dir))
        (plain, plain_peak), (kept, kept_peak) = (
            (median(seconds for seconds, _ in each), median(peak for _, peak in each)) for each in taken.values()
        )
        times = [f"{1000 * seconds:.4g} ms" for seconds in (plain, kept)]
        rows.append([name, *times, f"{plain / kept:.2f}x", f"{plain_peak:.0f} MB", f"{kept_peak:.0f} MB"])
        promises.append(Bar(f"{name}: as it is over told to keep", plain / kept, ">=", LEAST, "x"))
        print(rows[-1], flush=True)
    publish(
        "memory",
        "Memory that a training step keeps",
        [
            f"`python benchmarks/memory.py`: {machine()} {load_line(busy)}",
            "A dense step of SGD with momentum in an ordinary loop, one thread (its own seconds), and one of the "
            f"kernels on LeNet-300-100; medians of {STEPS} steps after {BEFORE} others, of {asked.rounds} processes "
            "that take turns: glibc's allocator as it is, and told to keep what is freed as `tombola run` tells its "
            "workers.",
            table(["step", *STARTS, "gain", *(f"peak, {start}" for start in STARTS)], rows),
            bars(promises),
        ],
        asked.write,
    )


if __name__ == "__main__":
    main()
