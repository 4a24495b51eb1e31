"""Results in a terminal or a file: the table, the verdict, the plan, and progress while running."""

import csv
import io
import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from statistics import mean
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Table

from tombola.data.folder import counted
from tombola.lab.plan import Plan
from tombola.lab.queue import Event
from tombola.lab.results import COLUMNS, Result, Results
from tombola.lab.row import Row
from tombola.lab.runs import Run
from tombola.lab.studies import Question
from tombola.study.verdict import contrast_record, contrasts, record

if TYPE_CHECKING:  # it needs torch, which takes two seconds to import
    from torch import Tensor

    from tombola.cash.comparison import Files
    from tombola.cash.form import Proof
    from tombola.ticket import Ticket

LINE_EVERY_S = 5
_TROUBLE = {"failed": "failed", "retried": "tried once more", "apart": "not in a stack but one by one"}


def summary_table(results: Results, width: int | None = None) -> Table:
    """One line per rewind step and level: density, each arm's mean test accuracy, its mean early stop, the verdict.

    Accuracies are those that the verdict is about; where they are those at the end of training no stop is shown. Where
    `width` characters do not hold all, the last columns of early stops are left out, then those of accuracies, and a
    line below names them.
    """
    arms, stops = results.arms, results.arms if results.at == "early-stop" else []
    table, left_out = _summary_table(results, arms, stops), list[str]()
    while width and len(arms) > 1 and _width(table) > width:
        left_out.insert(0, f"{stops[-1]} stop" if stops else f"{arms[-1]} acc.")
        arms, stops = (arms, stops[:-1]) if stops else (arms[:-1], stops)
        table = _summary_table(results, arms, stops)
    if left_out:
        table.caption, table.caption_justify = f"No room for {', '.join(left_out)}: `tombola table` has all.", "left"
    return table


def _width(table: Table) -> int:
    return Console(width=10_000).measure(table).maximum


def _summary_table(results: Results, arms: Sequence[str], stops: Sequence[str]) -> Table:
    rows, words = results.rows, {(verdict.rewind, verdict.level): verdict.label for verdict in results.verdicts}
    places = sorted({(result.row.rewind, result.row.level) for result in rows})
    several = len({rewind for rewind, _ in places}) > 1
    table = Table(title=results.network, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False, padding=0)
    names = [*(["rewind\nstep"] if several else []), "level", "dens-\nity %", *(f"{arm}\nacc. %" for arm in arms)]
    for name in (*names, *(f"{arm}\nstop" for arm in stops)):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("verdict", no_wrap=True)
    for rewind, level in places:
        here = [result for result in rows if (result.row.rewind, result.row.level) == (rewind, level)]
        groups = [[result for result in here if level == 0 or result.row.arm == arm] for arm in arms]
        table.add_row(
            *([f"{rewind:,}"] if several else []),
            str(level),
            f"{100 * mean(result.values['density'] for result in here):.1f}",
            *(_mean(group, results.accuracy, 100, ".2f") for group in groups),
            *(_mean(group, "early_stop_step", 1, ",.0f") for group in groups[: len(stops)]),
            words.get((rewind, level), "dense" if level == 0 else ""),
        )
    return table


def _mean(group: Sequence[Result], name: str, scale: float, form: str) -> str:
    return format(scale * mean(result.values[name] for result in group), form) if group else "-"


def records_text(records: Sequence[dict[str, Any]], form: str) -> str:
    """The table's records as `csv`, `json` or `text`."""
    if form == "json":
        return json.dumps(list(records), indent=1)
    if form == "csv":
        stream = io.StringIO()
        writer = csv.DictWriter(stream, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(records)
        return stream.getvalue().rstrip("\n")
    cells = [list(COLUMNS), *([_cell(record.get(name)) for name in COLUMNS] for record in records)]
    widths = [max(len(row[place]) for row in cells) for place in range(len(COLUMNS))]
    return "\n".join(
        "  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells
    )


def _cell(value: Any) -> str:
    return f"{value:.4f}" if isinstance(value, float) else str(value)


def verdict_json(results: Results) -> str:
    """The verdict for programs: per level the paired differences with intervals, n, the word, the reason."""
    verdicts, criteria = results.verdicts, results.criteria
    content = {
        "experiment": results.experiment.name,
        "network": results.network,
        "model": results.rows[0].row.run.recipe.model,
        "weights": results.weights,
        "method": "paired differences, Student t interval",
        "criteria": asdict(criteria),
        "sentences": results.sentences,
        "contrasts": [contrast_record(contrast, criteria.metric) for contrast in contrasts(verdicts, criteria)],
        "levels": [record(verdict, criteria.metric) for verdict in verdicts],
    }
    return json.dumps(_finite(content), indent=1, allow_nan=False)


def verdict_text(results: Results) -> str:
    """The verdict for people: a line for each rewind step and level, and what they come to in sentences."""
    verdicts = results.verdicts
    several, width = len({one.rewind for one in verdicts}) > 1, max((len(one.label) for one in verdicts), default=0)
    steps = [f"k = {one.rewind:<7,}  " if several else "" for one in verdicts]
    lines = [
        f"{step}{one.density:>7.1%}  {one.label:<{width}}  {one.reason}"
        for step, one in zip(steps, verdicts, strict=True)
    ]
    return "\n".join([f"{results.experiment.name}: {results.network}", "", *lines, "", *results.sentences])


def findings_json(results: Results) -> str:
    """What the studies found, for programs: each with its numbers, intervals, verdict and sentence; what is lacking."""
    findings = [{"study": one.study, "sentence": one.sentence, **one.values} for one in results.findings]
    whole = {"experiment": results.experiment.name, "lacking": results.unanswered, "findings": _finite(findings)}
    return json.dumps(whole, indent=1, allow_nan=False)


def _finite(value: Any) -> Any:
    # JSON has no infinity: an interval without ends has null for them.
    if isinstance(value, dict):
        return {name: _finite(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def plan_text(summary: dict[str, Any]) -> str:
    """What a plan amounts to, for people."""
    rows, runs = summary["rows"], summary["total"]["wanted"]
    lines = [
        f"{summary['experiment']}: {rows} training{'s' if rows != 1 else ''} compared, "
        f"{runs} run{'s' if runs != 1 else ''} in all"
    ]
    lines += [
        f"  {kind:<8} asked for {count['asked']:>6,}   distinct {count['wanted']:>6,}   "
        f"stored {count['stored']:>6,}   to do {count['missing']:>6,}"
        for kind, count in summary["runs"].items()
    ]
    if summary["files_passed_over"]:
        lines.append(f"Not taken for images: {counted(summary['files_passed_over'])}.")
    if summary["failed_last_time"]:
        lines.append(f"{summary['failed_last_time']} of them failed last time and are tried again.")
    if summary["total"]["missing"]:
        lines.append(_engine_text(**summary["engine"]))
        lines.insert(0, _cost_text(summary))
    else:
        lines.append("Nothing to do: everything is stored.")
    return "\n".join(lines)


GPU_FROM_S = 3 * 24 * 3600


def _cost_text(summary: dict[str, Any]) -> str:
    """What is to be done and how long it takes, which is what a person asks first."""
    trainings, lengths = summary["runs"].get("train", {}).get("missing", 0), summary["training_lengths_missing"]
    what = f"{summary['total']['missing']:,} run{'s' if summary['total']['missing'] > 1 else ''} to do"
    if trainings:
        steps = f"{lengths[-1]:,} steps" if len(lengths) == 1 else f"{lengths[0]:,} to {lengths[-1]:,} steps"
        what = f"{trainings:,} training{'s' if trainings > 1 else ''} of {steps} to do"
    guessed = "by the plain loop " if summary["engine"]["unmeasured"] else ""
    text = (
        f"{what}: {guessed}about {duration(summary['estimated_seconds'])} with {summary['workers']} "
        f"worker{'s' if summary['workers'] > 1 else ''} on a machine that is idle."
    )
    if summary["estimated_seconds"] >= GPU_FROM_S and summary["devices"] == ["cpu"]:
        text += "\nAn experiment of this size is for a GPU, and torch finds none here. Presets in -quick are for CPUs."
    return text


def _engine_text(name: str, why: str, unmeasured: bool, sparse_below: dict[str, float]) -> str:
    text = f"Engine: {name}" + (f" ({why})" if why else "")
    if unmeasured or not sparse_below:
        return text + "."
    layers = ", ".join(f"{layer.removesuffix('.weight')} {density:.0%}" for layer, density in sparse_below.items())
    return f"{text}; a layer is held sparse below the density at which that is faster here: {layers}."


def forms_record(
    proof: "Proof", key: str, density: float, examples: int, threads: int, written: "Files | None"
) -> dict[str, Any]:
    """What `tombola cash` found, as JSON values.

    Args:
        key: of the training whose end the forms are made of.
        density: of its mask.
        examples: on which outputs were compared and accuracy counted.
    """
    return {
        "key": key,
        "density": density,
        "examples": examples,
        "threads": threads,
        "forms": [
            {
                "name": form.name,
                "difference": form.difference,
                "largest_output": form.largest,
                "accuracy": form.accuracy,
                "disk_bytes": form.disk_bytes,
                "plain_bytes": form.plain_bytes,
                "memory_bytes": form.memory_bytes,
                "multiply_adds": form.multiply_adds,
                "latency_s": {str(batch): taken for batch, taken in form.latency_s.items()},
                "quartiles_s": {str(batch): timing.quartiles_s for batch, timing in form.timing.items()},
                "rounds_s": {str(batch): timing.rounds_s for batch, timing in form.timing.items()},
                "unchanged": dict(form.unchanged),
                "examples_per_s": {str(batch): batch / taken for batch, taken in form.latency_s.items()},
            }
            for form in proof
        ],
        "left_out": dict(proof.left_out) | (dict(written.left_out) if written else {}),
        "itself": proof.itself,
        "drawn": proof.drawn,
        "files": [str(path) for path in written or ()],
    }


def forms_text(record: dict[str, Any], proof: "Proof", written: "Files | None") -> str:
    """The same for people: a table, what was found in words, what was left out and why, and what to take."""
    from tombola.cash.form import advice, notes, sentences, table

    threads = f"{record['threads']} thread{'' if record['threads'] == 1 else 's'}"
    largest = f"outputs up to {proof[0].largest:.3g}"
    where = (
        f"{record['key']}, density {record['density']:.2%}; {record['examples']:,} test examples, {largest}; {threads}"
    )
    left_out = written.left_out if written else None
    missing = [f"{name}: not written. {why}" for name, why in (left_out or {}).items()]
    files = [f"-> {path}" for path in written or ()]
    folder = str(written[0].parent) if written else "FOLDER"
    blocks = [[where], table(proof), sentences(proof), notes(proof) + missing, advice(proof, folder, left_out), files]
    return "\n\n".join("\n".join(block) for block in blocks if block)


def _columns(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a table: names to the left, numbers to the right."""
    widths = [max(len(row[place]) for row in [head, *rows]) for place in range(len(head))]
    return [
        "  ".join(
            cell.ljust(width) if place == 0 else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in [head, *rows]
    ]


def ticket_record(ticket: "Ticket", file: str, size: int, about: dict[str, Any]) -> dict[str, Any]:
    """What `tombola show` says of a ticket, as JSON values.

    Args:
        ticket: that the file holds.
        file: its name, for people.
        size: the file's length in bytes.
        about: what the file says of itself.
    """
    listed = ticket.origin.get("layouts")
    layouts = listed if isinstance(listed, dict) else {}
    idle = {name: _idle(alive, layouts.get(name, {})) for name, alive in ticket.mask.items()}
    layers = [
        {
            "name": name,
            "shape": list(alive.shape),
            "alive": int(alive.sum()),
            "total": alive.numel(),
            "density": int(alive.sum()) / alive.numel() if alive.numel() else 1.0,
            "idle_outputs": idle[name][0],
            "unread_inputs": idle[name][1],
        }
        for name, alive in ticket.mask.items()
    ]
    distinct = {id(value): value for value in ticket.weights.values()}  # tied weights are one tensor
    return {
        "ticket": repr(ticket),
        "file": file,
        "format": about["format"],
        "holds": "seed" if "weights_sha256" in about else "weights",
        "bytes": size,
        "dense_bytes": sum(value.numel() * value.element_size() for value in distinct.values()),
        "alive": ticket.mask.alive,
        "total": ticket.mask.total,
        "density": ticket.mask.density,
        "layers": layers,
        "origin": dict(ticket.origin),
    }


def _idle(alive: "Tensor", fields: Any) -> tuple[int | None, int | None]:
    """Idle outputs and unread inputs of a layer; None where it has none, or what the file says of them is no layout.

    Args:
        fields: of its weight's layout, those of an ordinary one left out; None if it is not known.
    """
    from tombola.layers import Layout
    from tombola.study.anatomy import idle

    try:
        layout = Layout(**fields)
        if alive.ndim < 2 or {layout.inputs, layout.outputs} != {0, 1}:
            return None, None
        return idle(alive.numpy(), layout)
    except (TypeError, ValueError, ZeroDivisionError):
        return None, None


_PLACE = ("experiment", "model", "data", "method", "rewind", "level", "replicate", "made")


def ticket_text(record: dict[str, Any]) -> str:
    """The record of a ticket for people."""
    origin, size, dense = record["origin"], record["bytes"], record["dense_bytes"]
    held = "the living weights" if record["holds"] == "weights" else "the seed of the weights"
    lines = [
        record["ticket"],
        f"{record['file']}: format {record['format']}, mask and {held}, {size:,} bytes; dense {dense:,}: "
        f"{dense / size:.1f} times as many",
        *(f"  {name:<10} {origin[name]}" for name in _PLACE if origin.get(name) is not None),
        *(f"  {name:<10} {version}" for name, version in origin.get("versions", {}).items()),
        "",
    ]
    head = ["layer", "shape", "alive", "of", "density", "idle outputs", "unread inputs"]
    rows = [
        [
            layer["name"],
            " x ".join(map(str, layer["shape"])),
            f"{layer['alive']:,}",
            f"{layer['total']:,}",
            f"{layer['density']:.2%}",
            *("-" if layer[name] is None else f"{layer[name]:,}" for name in ("idle_outputs", "unread_inputs")),
        ]
        for layer in record["layers"]
    ]
    rows.append(["all", "", f"{record['alive']:,}", f"{record['total']:,}", f"{record['density']:.2%}", "", ""])
    lines += _columns(head, rows)
    return "\n".join(lines)


def duration(seconds: float) -> str:
    """A length of time for people.

    >>> [duration(seconds) for seconds in (8, 75, 7260, 1e6)]
    ['8 s', '1 min 15 s', '2 h 1 min', '12 days']
    """
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes} min {rest} s" if rest else f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours < 72 else f"{round(hours / 24)} days"


def _names(plan: Plan) -> dict[str, str]:
    """What people call the trainings and lines of a plan, by key; what is in the table is called as it is there."""
    several = len(plan.experiment.spec.rewind) > 1
    names: dict[str, str] = {}

    def name(run: Run, what: str, of: Row | Question) -> None:
        rewound = f" rewound to {of.rewind:,}" if several else ""
        names.setdefault(run.key, f"{what} of replicate {of.replicate}{rewound}")

    for row in plan.rows:
        name(row.run, f"{row.arm} {row.level}", row)
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
