"""The table of an experiment's ways to a ticket, as `results/search.md` has it: accuracy and cost, density by density.

    python benchmarks/searches.py SPEC [--store FOLDER] [--at end] [--set PATH=VALUE ...]

Each cell is the mean test accuracy over replicates with half the width of its 95 % Student t interval, in points, and
the cost of search and training together, in dense trainings of an ideal sparse machine.
"""

import argparse
import csv
import io
from collections.abc import Sequence
from math import sqrt
from statistics import mean, stdev

from section import table, tombola

from tombola.lab.results import ACCURACY

Record = dict[str, str]


def records(spec: str, store: str, changes: Sequence[str]) -> list[Record]:
    """The rows of the experiment's table."""
    sets = [part for change in changes for part in ("--set", change)]
    return list(csv.DictReader(io.StringIO(tombola("table", spec, "--format", "csv", "--store", store, *sets))))


def by_arm(rows: Sequence[Record], accuracy: str) -> str:
    """One line for each arm, two columns for each density."""
    levels = sorted({int(row["level"]) for row in rows} - {0})
    densities = {level: mean(float(row["density"]) for row in rows if int(row["level"]) == level) for level in levels}
    head = ["", *(part for level in levels for part in (f"{100 * densities[level]:.3g} %: acc. %", "cost"))]
    lines = []
    for arm in dict.fromkeys(row["arm"] for row in rows):
        own = [row for row in rows if row["arm"] == arm]
        cells = [_cells([row for row in own if int(row["level"]) in (level, 0)], accuracy) for level in levels]
        lines.append([arm, *(part for pair in cells for part in pair)])
    return table(head, lines)


def _cells(rows: Sequence[Record], accuracy: str) -> tuple[str, str]:
    from scipy.special import stdtrit

    values = [100 * float(row[accuracy]) for row in rows]
    if not values:
        return "", ""
    n = len(values)
    half = f" ± {float(stdtrit(n - 1, 0.975)) * stdev(values) / sqrt(n):.2f}" if n > 1 else ""
    return f"{mean(values):.2f}{half}", f"{mean(float(row['dense_trainings']) for row in rows):.2f}"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("spec")
    parser.add_argument("--store", default="tombola-store")
    parser.add_argument("--at", choices=list(ACCURACY), default="early-stop")
    parser.add_argument("--set", action="append", default=[], dest="changes")
    asked = parser.parse_args()
    print(by_arm(records(asked.spec, asked.store, asked.changes), ACCURACY[asked.at]))


if __name__ == "__main__":
    main()
