"""Progress while an experiment runs: a bar that redraws itself, or a line now and then."""

import time
from collections.abc import Callable, Sequence

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Column

from tombola.lab.plan import Plan
from tombola.lab.queue import Event
from tombola.lab.row import Row
from tombola.lab.runs import Run
from tombola.lab.studies import Question
from tombola.lab.time_left import TimeLeft
from tombola.report.text import duration

LINE_EVERY_S = 5
_TROUBLE = {
    "failed": "failed",
    "retried": "tried once more",
    "apart": "not in a stack but one by one",
    "halted": "goes on elsewhere",
    "waits": "waits",
}


def _names(plan: Plan) -> dict[str, str]:
    """What people call the trainings and lines of a plan, by key; what is in the table is called as it is there."""
    several = len(plan.experiment.spec.rewind) > 1
    names: dict[str, str] = {}

    def name(run: Run, what: str, of: Row | Question) -> None:
        rewound = f" rewound to {of.rewind:,}" if several else ""
        names.setdefault(run.key, f"{what} of replicate {of.replicate}{rewound}")

    for row in plan.rows:
        name(row.run, f"{row.arm} {row.level}", row)
        if row.run.mask:
            name(row.run.mask, f"mask of {row.arm} {row.level}", row)
    for row in plan.rows:
        of = "" if row.arm in ("dense", "ticket") else f" of {row.arm}"  # what an arm shares has a name by then
        names.setdefault(row.run.start.key, f"rewind point {row.rewind:,}{of} of replicate {row.replicate}")
    for question in plan.questions:
        name(question.run, question.name, question)
        for run, what in question.names:
            name(run, what, question)
    return names


class Watcher:
    """Live progress: runs done of all, the current losses, the time left.

    A bar that redraws itself on a terminal; elsewhere a line now and then that stays readable in a file.
    """

    def __init__(
        self,
        console: Console,
        runs: Sequence[Run],
        plan: Plan,
        run_seconds: Callable[[Run], float],
        workers: int,
    ) -> None:
        self._console = console
        self._names = _names(plan)
        self._time = TimeLeft(runs, run_seconds, workers)
        self._count, self._done = len(runs), 0
        self._now: dict[str, str] = {}
        self._spoke = time.monotonic()
        self._bar = Progress(
            TextColumn("{task.fields[runs]}", table_column=Column(min_width=len(f"{len(runs)}/{len(runs)} runs"))),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[rest]}"),
            console=console,
            transient=True,
        )
        self._task = self._bar.add_task("", total=1.0, runs="", rest="")

    def __enter__(self) -> "Watcher":
        if self._console.is_terminal:
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._console.is_terminal:
            self._bar.stop()

    def __call__(self, event: Event) -> None:
        """Take note of an event, and show it when it is time to."""
        key = event.run.key
        self._time(event)
        match event.what:
            case "looked":
                name = self._names.get(key, key)
                self._now[key] = f"{name}: {event.run.progress(event.done, event.total, event.loss)}"
            case "stored" | "failed" | "skipped":
                self._done += event.what == "stored"
                self._now.pop(key, None)
        if event.what in _TROUBLE:
            what = _TROUBLE[event.what]
            line = f"{what}: {self._names.get(key, key)}: {event.note}"
            place = Console(stderr=True) if event.what == "failed" else self._console
            place.print(line, style="yellow", highlight=False, markup=False, soft_wrap=True)
        self._show()

    def _show(self) -> None:
        speaks = not self._console.is_terminal and time.monotonic() - self._spoke >= LINE_EVERY_S
        if not (self._console.is_terminal or speaks):
            return
        runs, now = f"{self._done}/{self._count} runs", "; ".join(list(self._now.values())[:2])
        left = self._time.seconds()
        rest = f"{'longer than estimated' if left is None else f'about {duration(left)} left'}  {now}"
        if speaks:
            self._spoke = time.monotonic()
            self._console.print(f"{runs}, {rest}", highlight=False, soft_wrap=True, markup=False)
        else:
            self._bar.update(self._task, completed=self._time.share, runs=runs, rest=rest)
