"""README's first look: what `tombola run digits` came to, kept number by number, and printed as the command prints it.

    tombola run digits --store STORE
    python benchmarks/first_look.py --store STORE --write

writes results/digits.json, from which a test makes README's block again: so its sentences are those of today's code.
"""

import argparse
import json
import re
from io import StringIO
from pathlib import Path
from typing import Any

from rich.console import Console

from tombola.lab.plan import plan
from tombola.lab.results import Result, Results, results
from tombola.lab.spec_file import read
from tombola.lab.store import Store
from tombola.report.text import summary_table

ROOT = Path(__file__).resolve().parents[1]
KEPT = ROOT / "results" / "digits.json"
WIDTH = 100  # of README's block
BLOCK = re.compile(r"(?<=```text\n).*?(?=```)", re.DOTALL)  # the first one in README.md


def kept(store: Store) -> list[dict[str, Any]]:
    """Of each training what table and verdict read, in the plan's order."""
    finished = results(plan(read("digits")), store)
    count, whole = len(finished.rows), len(finished.plan.rows)
    if count < whole:
        raise SystemExit(f"expected {whole} finished trainings, found {count}: tombola run digits")
    names = ("density", "total", "early_stop_step", "early_stop_test_accuracy")
    return [
        {
            **{name: result.values[name] for name in names},
            "validation_loss": [round(loss, 5) for loss in result.values["curve"]["validation_loss"]],
            "first_test_accuracy": result.values["curve"]["test_accuracy"][0],
        }
        for result in finished.rows
    ]


def printed(records: list[dict[str, Any]], store: Store) -> str:
    """What the command prints of these trainings, as `WIDTH` characters hold it."""
    wanted = plan(read("digits"))
    every = wanted.experiment.spec.iterations(wanted.experiment.spec.evaluate.every)
    rows = [
        Result(
            row,
            record
            | {
                "curve": {
                    "step": [every * place for place in range(len(record["validation_loss"]))],
                    "validation_loss": record["validation_loss"],
                    "test_step": [0],
                    "test_accuracy": [record["first_test_accuracy"]],
                }
            },
            {"seconds": 0.0},
        )
        for row, record in zip(wanted.rows, records, strict=True)
    ]
    finished = Results(wanted, store, rows)
    console = Console(file=(text := StringIO()), width=WIDTH)
    console.print(summary_table(finished, WIDTH))
    for line in finished.sentences:
        console.print(line, highlight=False, markup=False)
    lines = [line.rstrip() for line in text.getvalue().splitlines()]
    return "\n".join(lines).strip("\n") + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", type=Path, default=Path("tombola-store"))
    parser.add_argument("--write", action="store_true", help="into results/digits.json and README.md")
    asked = parser.parse_args()
    store = Store(asked.store).open()
    block = printed(records := kept(store), store)
    print(block)
    if asked.write:
        KEPT.write_text("[\n" + ",\n".join(map(json.dumps, records)) + "\n]\n", encoding="utf-8")
        readme = ROOT / "README.md"
        readme.write_text(BLOCK.sub(lambda _: block, readme.read_text(encoding="utf-8"), count=1), encoding="utf-8")


if __name__ == "__main__":
    main()
