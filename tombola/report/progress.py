"""Progress while an experiment runs: a bar that redraws itself, or a line now and then."""

import time
from collections.abc import Callable, Sequence

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from tombola.lab.plan import Plan
from tombola.lab.queue import Event
from tombola.lab.row import Row
from tombola.lab.runs import Run
from tombola.lab.studies import Question
from tombola.report.text import duration

LINE_EVERY_S = 5
_TROUBLE = {"failed": "failed", "retried": "tried once more", "apart": "not in a stack but one by one"}


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
        self._console, self._workers = console, workers
        self._names = _names(plan)
        # In seconds as they were estimated: a step at a low density is a fraction of one at a high density.
        self._expected = {run.key: run_seconds(run) for run in runs}
        self._left = dict(self._expected)
        self._sum = sum(self._left.values())  # kept up to date: there may be a hundred thousand of them
        self._all = max(self._sum, 1e-9)
        self._count, self._done = len(runs), 0
        self._now: dict[str, str] = {}
        self._began = self._spoke = time.monotonic()
        self._bar = Progress(
            TextColumn("{task.fields[runs]}"),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[rest]}"),
            console=console,
            transient=True,
        )
        self._task = self._bar.add_task("", total=self._all, runs="", rest="")

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
        match event.what:
            case "looked":
                self._leaves(key, self._expected[key] * (1 - event.done / max(event.total, 1)))
                name = self._names.get(key, key)
                self._now[key] = f"{name}: {event.run.progress(event.done, event.total, event.loss)}"
            case "stored" | "failed" | "skipped":
                self._done += event.what == "stored"
                self._leaves(key, 0.0)
                self._now.pop(key, None)
        if event.what in _TROUBLE:
            what = _TROUBLE[event.what]
            line = f"{what}: {self._names.get(key, key)}: {event.note}"
            place = Console(stderr=True) if event.what == "failed" else self._console
            place.print(line, style="yellow", highlight=False, markup=False, soft_wrap=True)
        self._show()

    def _leaves(self, key: str, left: float) -> None:
        self._sum += left - self._left.get(key, 0.0)
        self._left[key] = left

    def _show(self) -> None:
        left = max(self._sum, 0.0)
        runs = f"{self._done}/{self._count} runs"
        rest = f"{self._left_text(left)}  {'; '.join(list(self._now.values())[:2])}"
        if self._console.is_terminal:
            self._bar.update(self._task, completed=self._all - left, runs=runs, rest=rest)
        elif time.monotonic() - self._spoke >= LINE_EVERY_S:
            self._spoke = time.monotonic()
            self._console.print(f"{runs}, {rest}", highlight=False, soft_wrap=True, markup=False)

    def _left_text(self, left: float) -> str:
        elapsed, done = time.monotonic() - self._began, self._all - left
        # The estimate counts until a twentieth is measured, or until it has been seen to be wrong.
        if done <= 0.05 * self._all and elapsed > self._all / self._workers:
            return "longer than estimated"
        each = elapsed / done if done > 0.05 * self._all else 1 / self._workers
        return f"about {duration(each * left)} left"
