"""What `tombola plan` says of three presets, over what `tombola run` then takes: the whole command, into a new store.

Twice: before the machine has been measured, when the plan guesses, and afterwards. What measuring takes counts as a
part of the command in the first case.

    python benchmarks/forecast.py [--data-dir DIR] [--replicates N] [--cifar NAME] [--write]
"""

import json
import os
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

from section import ROOT, Bar, bars, from_folder, load, load_line, machine, options, publish, table, tombola

from tombola.lab.plan import engine_of, plan
from tombola.lab.spec_file import read

PAGE = ROOT / "results" / "forecast.md"
PRESETS = ("digits", "lenet-mnist-quick", "conv2-cifar10-quick")


@dataclass(frozen=True)
class Compared:
    """Of one preset, in seconds: what was said, what it took, and what measuring took."""

    preset: str
    trainings: int
    guessed: float
    measured: float
    took: float
    measuring: float

    @property
    def times(self) -> tuple[float, ...]:
        """What is in the table."""
        return self.guessed, self.measured, self.took, self.measuring

    @property
    def by_guess(self) -> float:
        """What was said before the machine was measured, over what it took."""
        return self.guessed / (self.measuring + self.took)

    @property
    def by_times(self) -> float:
        """The same afterwards."""
        return self.measured / self.took


def compared(preset: str, changes: list[str], data_dir: Path | None) -> Compared:
    """Plan, measure, plan, run."""
    asked = [preset, *(part for change in changes for part in ("--set", change))]
    with tempfile.TemporaryDirectory() as folder:
        os.environ["XDG_CACHE_HOME"] = f"{folder}/cache"  # where nothing is known of the machine
        store = ["--store", f"{folder}/store"]
        before = json.loads(tombola("plan", *asked, *store, "--format", "json"))
        began = perf_counter()
        engine_of(plan(read(preset, changes)), measuring=True)
        measuring = perf_counter() - began
        after = json.loads(tombola("plan", *asked, *store, "--format", "json"))
        began = perf_counter()
        tombola("run", *asked, *store, *from_folder(data_dir))
        took = perf_counter() - began
    assert (before["estimated_by"], after["estimated_by"]) == ("guessed", "measured")
    trainings = before["runs"]["train"]["missing"]
    return Compared(preset, trainings, before["estimated_seconds"], after["estimated_seconds"], took, measuring)


def main(arguments: list[str]) -> None:
    parser = options(__doc__)
    parser.add_argument("--replicates", type=int, help="of each preset; by default as many as it has")
    parser.add_argument("--cifar", help="the data set in the place of CIFAR-10, where only its JPEG copy is at hand")
    given = parser.parse_args(arguments)
    busy, found = load(), list[Compared]()
    fewer = [f"replicates={given.replicates}"] if given.replicates else []
    for preset in PRESETS:
        other = [f"recipe.data={given.cifar}"] if given.cifar and "cifar10" in preset else []
        found.append(compared(preset, [*fewer, *other], given.data_dir))
        print(found[-1], file=sys.stderr, flush=True)
    head = ["preset", "trainings", "guessed", "as measured", "took", "measuring"]
    rows = [[f"`{one.preset}`", str(one.trainings), *(f"{each:.0f} s" for each in one.times)] for one in found]
    promises = [
        Bar(f"{one.preset}: {about}", ratio, sign, limit, "x")
        for one in found
        for about, ratio in (("guess over time", one.by_guess), ("estimate over time", one.by_times))
        for sign, limit in ((">=", 0.5), ("<=", 2.0))
    ]
    reduced = f" Replicates of each: {given.replicates}." if given.replicates else ""
    reduced += f" Images from `{given.cifar}` in the place of CIFAR-10." if given.cifar else ""
    paragraphs = [
        f"`python benchmarks/forecast.py`: {machine()} {load_line(busy)}",
        f"The whole command `tombola run` into a new store, and what `tombola plan` said of it before and after the "
        f"machine was measured.{reduced}",
        table(head, rows),
        bars(promises),
    ]
    publish("forecast", "What a plan says and what it takes", paragraphs, given.write, PAGE)


if __name__ == "__main__":
    main(sys.argv[1:])
