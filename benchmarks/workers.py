"""Two workers over one: the trainings that either gets done in the same time.

The preset lenet-mnist with 2 replicates and 3 levels, arm `ticket`: 6 trainings, in two chains of 3. Timed is the
command `tombola run`, into a new store; from that is taken off what the same command takes once more, when there is
nothing left to train: start of Python, plan, verdict, report.

    python benchmarks/workers.py [--data-dir DIR] [--write]
"""

import sys
import tempfile
from functools import partial
from pathlib import Path

import lenet
from section import Bar, bars, from_folder, interleaved, load, load_line, machine, options, publish, spec, tombola


def search(data_dir: Path | None, steps: int, workers: int) -> float:
    """Seconds of the trainings."""
    changes = spec(recipe__length=f"{steps}it", replicates=2, levels=2, arms="ticket")
    with tempfile.TemporaryDirectory() as folder:
        command = ["run", *changes, "--store", folder, "--workers", str(workers), *from_folder(data_dir)]
        first, again = (lenet.clocked(lambda: tombola(*command)) for _ in range(2))
    return first - again


def main(arguments: list[str]) -> None:
    parser = options(__doc__)
    parser.add_argument("--steps", type=int, default=10_000, help="per training")
    parser.add_argument("--rounds", type=int, default=3, help="of which the median is taken")
    given = parser.parse_args(arguments)
    busy = load()
    by = {str(count): partial(search, given.data_dir, given.steps, count) for count in (1, 2)}
    taken = interleaved(by, given.rounds, warm_up=0)
    times = taken["1"] / taken["2"]
    paragraphs = [
        f"`python benchmarks/workers.py`: {machine()} {load_line(busy)}",
        f"6 trainings of LeNet-300-100 on MNIST, {given.steps:,} steps each: {taken['1']:.1f} s by 1 worker, "
        f"{taken['2']:.1f} s by 2, taking turns, medians of {given.rounds} rounds; without what the command takes when "
        "nothing is left to train.",
        bars([Bar("throughput of 2 workers over that of 1", times, ">=", 1.8, "x")]),
    ]
    publish("workers", "A second worker", paragraphs, given.write)


if __name__ == "__main__":
    main(sys.argv[1:])
