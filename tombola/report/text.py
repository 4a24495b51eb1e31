"""Results and plans in words: the table, the verdict, what a study found, what a plan will cost."""

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from statistics import mean
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from tombola.data.folder import counted
from tombola.lab.results import COLUMNS, Result, Results, of_tickets
from tombola.study.records import contrast_record, criteria_record, record
from tombola.study.sequential import Looks
from tombola.study.standing import Standing
from tombola.study.verdict import ACCURACY, contrasts


def summary_table(results: Results, width: int | None = None) -> Table:
    """One line per rewind step and level: the tickets' density, each arm's mean accuracy and early stop, the verdict.

    Accuracies are those that the verdict is about; where they are those at the end of training no stop is shown. Where
    several methods are compared each one's cost is shown, in dense trainings. Where `width` characters do not hold all,
    the last columns of early stops are left out, then those of costs, and a line below names them; where they do not
    hold all accuracies either, arms have lines and levels columns, as `arms_table` has it.
    """
    measure = _measure(results)
    shown = {
        measure: results.arms,
        "cost": results.searches if len(results.searches) > 1 else [],
        "stop": results.arms if results.at == "early-stop" else [],
    }
    table, left_out = _summary_table(results, shown), list[str]()
    others = _other_densities(results)
    accuracies_alone = {measure: results.arms, "cost": [], "stop": []}
    if width and len(results.arms) > 1 and _width(_summary_table(results, accuracies_alone)) > width:
        return arms_table(results, width)
    while width and len(shown[measure]) > 1 and _width(table) > width:
        what = next(what for what in ("stop", "cost", measure) if shown[what])
        left_out.insert(0, f"{shown[what][-1]} {what}")
        shown[what] = shown[what][:-1]
        table = _summary_table(results, shown)
    return _captioned(table, left_out, others)


def _captioned(table: Table, left_out: Sequence[str], others: Sequence[str]) -> Table:
    """The table, with lines below it that name what it has no room for, and say which arms have other densities."""
    room = f"No room for {', '.join(left_out)}: `tombola table` has all." if left_out else ""
    lines = [*others, *([room] if room else [])]
    if lines:
        table.caption, table.caption_justify = "\n".join(lines), "left"
    return table


def _other_densities(results: Results) -> list[str]:
    """Which arms have other densities than the tickets, whose the table has, level by level; those alike together."""
    alike: dict[str, list[str]] = {}
    for arm, densities in results.other_densities.items():
        alike.setdefault(", ".join(f"{each:.1%}" for each in densities), []).append(arm)
    return [f"Density of {', '.join(arms)}, level by level: {told}." for told, arms in alike.items()]


def arms_table(results: Results, width: int) -> Table:
    """One line per rewind step and arm: at each density its mean test accuracy and its cost, in dense trainings.

    Where `width` characters do not hold all, costs are left out, then densities, the highest first.
    """
    levels = sorted({result.row.level for result in results.rows} - {0})
    table, shown, costs = _arms_table(results, levels, costs=True), levels, True
    while _width(table) > width and (costs or len(shown) > 1):
        costs, shown = False, shown if costs else shown[1:]
        table = _arms_table(results, shown, costs)
    left = ([] if costs else ["costs"]) + ([f"the first {len(levels) - len(shown)} levels"] if shown != levels else [])
    return _captioned(table, left, _other_densities(results))


def _arms_table(results: Results, levels: Sequence[int], costs: bool) -> Table:
    steps = sorted({result.row.rewind for result in results.rows})
    table = Table(title=results.network, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False, padding=0)
    if len(steps) > 1:
        table.add_column("rewind\nstep", justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    for level in levels:
        table.add_column(
            f"{100 * mean(results.densities(level)):.3g}%\n{_measure(results)} %", justify="right", no_wrap=True
        )
        if costs:
            table.add_column("\ncost", justify="right", no_wrap=True)
    for step in steps:
        for arm in results.arms if results.arms == ["dense"] else ["dense", *results.arms]:
            rows = [result for result in results.rows if (result.row.rewind, result.row.arm) == (step, arm)]
            cells: list[str] = []
            for level in levels:
                group = [result for result in rows if result.row.level == (0 if arm == "dense" else level)]
                cells.append(_mean(group, results.accuracy, 100, ".2f"))
                cells += [_cost(group, results)] if costs else []
            table.add_row(*([f"{step:,}"] if len(steps) > 1 else []), arm, *cells)
    return table


def _measure(results: Results) -> str:
    """`acc.`, or the whole name of what is measured in its place."""
    measure = results.criteria.metric
    return "acc." if measure == ACCURACY else measure.label


def _width(table: Table) -> int:
    return Console(width=10_000).measure(table).maximum


def _summary_table(results: Results, shown: Mapping[str, Sequence[str]]) -> Table:
    """The table with these columns: `acc.`, or R2, `cost` and `stop`, and of which arms."""
    measure = _measure(results)
    rows, words = results.rows, {(verdict.rewind, verdict.level): verdict.label for verdict in results.verdicts}
    places = sorted({(result.row.rewind, result.row.level) for result in rows})
    several = len({rewind for rewind, _ in places}) > 1
    table = Table(title=results.network, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False, padding=0)
    names = [*(["rewind\nstep"] if several else []), "level", "dens-\nity %"]
    names += [f"{arm}\n{measure} %" for arm in shown[measure]]
    names += [f"{arm}\n{what}" for what in ("cost", "stop") for arm in shown[what]]
    for name in names:
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("verdict", no_wrap=True)
    for rewind, level in places:
        here = [result for result in rows if (result.row.rewind, result.row.level) == (rewind, level)]
        groups = {arm: [each for each in here if level == 0 or each.row.arm == arm] for arm in results.arms}
        table.add_row(
            *([f"{rewind:,}"] if several else []),
            str(level),
            f"{100 * mean(result.values['density'] for result in of_tickets(here)):.1f}",
            *(_mean(groups[arm], results.accuracy, 100, ".2f") for arm in shown[measure]),
            *(_cost(groups[arm], results) for arm in shown["cost"]),
            *(_mean(groups[arm], "early_stop_step", 1, ",.0f") for arm in shown["stop"]),
            words.get((rewind, level), "dense" if level == 0 else ""),
        )
    return table


def _cost(group: Sequence[Result], results: Results) -> str:
    return f"{results.dense_trainings(group):.2f}" if group else "-"


def _mean(group: Sequence[Result], name: str, scale: float, form: str) -> str:
    return format(scale * mean(result.values[name] for result in group), form) if group else "-"


def records_text(records: Sequence[dict[str, Any]], form: str) -> str:
    """The table's records as `csv`, `json` or `text`."""
    if form == "json":
        return json.dumps(list(records), indent=1)
    first = records[0] if records else {}
    renamed = {column: column.replace("accuracy", "R2") for column in COLUMNS}  # where there is no accuracy
    columns = [new if new in first else column for column, new in renamed.items()]
    if form == "csv":
        stream = io.StringIO()
        writer = csv.DictWriter(stream, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(records)
        return stream.getvalue().rstrip("\n")
    cells = [columns, *([_cell(record.get(name)) for name in columns] for record in records)]
    widths = [max(len(row[place]) for row in cells) for place in range(len(columns))]
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
        "method": f"paired differences, {'repeated ' if criteria.looks else ''}Student t interval",
        **({"rule": _rule(criteria.looks, results.experiment.spec.verdict.confidence)} if criteria.looks else {}),
        "criteria": criteria_record(criteria),
        "sentences": results.sentences,
        "contrasts": [contrast_record(contrast, criteria.metric) for contrast in contrasts(verdicts, criteria)],
        "levels": [record(verdict, criteria.metric) for verdict in verdicts],
        **({"questions": [_question(each) for each in results.standings]} if criteria.looks else {}),
        "others": {
            way: {
                "contrasts": [contrast_record(contrast, criteria.metric) for contrast in contrasts(others, criteria)],
                "levels": [record(verdict, criteria.metric) for verdict in others],
            }
            for way, others in results.other_verdicts.items()
        },
    }
    return json.dumps(_finite(content), indent=1, allow_nan=False)


def _rule(looks: Looks, confidence: float) -> dict[str, Any]:
    """By which rule replicates were added, and what its intervals are worth."""
    return {
        "name": "Pocock's boundary, repeated confidence intervals",
        "looks": list(range(looks.first, looks.last + 1)),
        "confidence_of_all_looks_together": confidence,
        "confidence_of_one_look_at_one_comparison": 1 - looks.nominal(1 - confidence),
        "several_comparisons": "the error is shared out evenly, and corrected in each share by Holm",
    }


def _question(standing: Standing) -> dict[str, Any]:
    content = asdict(standing)
    return {**content.pop("place"), **content}


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
        f"{summary['experiment']}: {rows:,} training{'s' if rows != 1 else ''} compared, "
        f"{runs:,} run{'s' if runs != 1 else ''} in all"
    ]
    lines += _runs_text(summary["runs"])
    if summary["files_passed_over"]:
        lines.append(f"Not taken for images: {counted(summary['files_passed_over'])}.")
    lines += [f"Note: {note}" for note in summary["notes"]]
    if summary["failed_last_time"]:
        lines.append(f"{summary['failed_last_time']} of them failed last time and are tried again.")
    if summary["total"]["missing"]:
        lines.append(_engine_text(**summary["engine"]))
        lines += [
            f"Engine of {', '.join(other['arms'])}: {other['name']}" + (f" ({other['why']})." if other["why"] else ".")
            for other in summary["other_engines"]
        ]
        lines[:0] = [_cost_text(summary), *_least_text(summary), *([summary["on"]] if "on" in summary else [])]
    else:
        lines.append("Nothing to do: everything is stored.")
    lines += _expected_text(summary["expected_costs"])
    return "\n".join(lines)


def _runs_text(runs: dict[str, dict[str, int]]) -> list[str]:
    """How many runs there are of each kind, in columns."""
    kinds = max([8, *map(len, runs)])
    heads = {"asked for": "asked", "distinct": "wanted", "stored": "stored", "to do": "missing"}
    width = max([4, *(len(f"{count[name]:,}") for count in runs.values() for name in heads.values())])
    return [
        f"  {kind:<{kinds}} " + "  ".join(f"{head} {count[name]:>{width},}" for head, name in heads.items())
        for kind, count in runs.items()
    ]


FEW = 3  # costs that a sentence can hold


def _expected_text(costs: Sequence[dict[str, Any]]) -> list[str]:
    """What a row of the last level costs, arms that cost the same together; nothing where none is pruned."""
    last, alike = max(cost["level"] for cost in costs), dict[str, list[str]]()
    for cost in costs if last else ():
        if cost["level"] == last:
            search, training = (cost[part] / cost["dense_training_macs"] for part in ("search_macs", "training_macs"))
            alike.setdefault(f"{search:.2f} + {training:.2g}", []).append(cost["arm"])
    about = f"Search + training at level {last}, in dense trainings of an ideal sparse machine:"
    if len(alike) <= FEW:
        told = "; ".join(f"{', '.join(arms)} {cost}" for cost, arms in alike.items())
        return [f"{about} {told}."] if last else []
    width = max(map(len, alike))
    return [about, *(f"  {cost:<{width}}  {', '.join(arms)}" for cost, arms in alike.items())]


def _least_text(summary: dict[str, Any]) -> list[str]:
    """Where replicates are added until it is decided, what the first of them cost."""
    if "least" not in summary:
        return []
    least = summary["least"]
    return [
        f"That is the most, {summary['replicates']} replicates. Replicates are added until all is decided or given up; "
        f"the first look is after {least['replicates']}: {_counted_runs(least['missing'])} to do, about "
        f"{duration(least['estimated_seconds'])}."
    ]


def _counted_runs(count: int) -> str:
    return f"{count:,} run{'' if count == 1 else 's'}"


GPU_FROM_S = 3 * 24 * 3600
BY = {
    "finished": "as trainings that are done took",
    "measured": "as its layers were measured here",
    "guessed": "guessed from the model's size",
}  # what an estimate goes by


def _cost_text(summary: dict[str, Any]) -> str:
    """What is to be done and how long it takes, which is what a person asks first."""
    trainings, lengths = summary["runs"].get("train", {}).get("missing", 0), summary["training_lengths_missing"]
    what = f"{_counted_runs(summary['total']['missing'])} to do"
    if trainings:
        steps = f"{lengths[-1]:,} steps" if len(lengths) == 1 else f"{lengths[0]:,} to {lengths[-1]:,} steps"
        what = f"{trainings:,} training{'s' if trainings > 1 else ''} of {steps} to do"
    text = (
        f"{what}: about {duration(summary['estimated_seconds'])} with {summary['workers']} "
        f"worker{'s' if summary['workers'] > 1 else ''} on a machine that is idle, {BY[summary['estimated_by']]}."
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
