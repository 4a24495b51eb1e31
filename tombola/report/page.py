"""The report, one HTML file that needs nothing else: verdict, figures, table, spec, how it came about."""

import html
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean

from altair.utils.schemapi import debug_mode

from tombola import charts, files, models
from tombola.lab.results import ACCURACY, Result, Results, of_tickets
from tombola.lab.studies import Finding, Study
from tombola.report import figures
from tombola.report.text import duration, records_text
from tombola.study.anatomy import input_survivors
from tombola.study.verdict import Criteria, Verdict, margin_of
from tombola.study.written import points, written

IMAGES = 5  # levels whose first layer is shown


def write(results: Results, folder: Path) -> Path:
    """Write `report.html`, and the figures as SVG and PNG, into `folder`; the path of the page.

    Raises:
        OSError: the folder cannot be written.
    """
    (folder / "figures").mkdir(parents=True, exist_ok=True)
    drawn = []
    with debug_mode(False):  # altair's checks of every part against its schema take longer than all the rest
        drawings = figures.all_figures(results, _survivors(results))
        drawings |= figures.study_figures(results, taken=drawings)
    for name, (spec, caption) in drawings.items():
        svg, png = charts.render(spec)
        files.replace(folder / "figures" / f"{name}.svg", svg.encode())
        files.replace(folder / "figures" / f"{name}.png", png)
        drawn.append((name, svg, caption))
    files.replace(folder / "table.csv", (records_text(results.table, "csv") + "\n").encode())
    page = folder / "report.html"
    files.replace(page, _page(results, drawn).encode())
    return page


def _survivors(results: Results) -> list[tuple[float, list[list[float]]]]:
    step = min((result.row.rewind for result in results.rows), default=0)  # one search: that of the first rewind step
    place = ("ticket", 0, step)
    tickets = [one for one in results.rows if (one.row.arm, one.row.replicate, one.row.rewind) == place]
    spread = sorted({round(place * (len(tickets) - 1) / (IMAGES - 1)) for place in range(IMAGES)}) if tickets else []
    images = []
    for ticket in (tickets[place] for place in spread):
        mask = results.store.masked_by(ticket.row.run)
        if mask is None or not results.store.has(mask) or models.mixes(ticket.row.run.recipe.model):
            continue  # coordinates are of no pixel
        first = next(iter(results.store.alive(mask).values()))
        alive = input_survivors(first, results.experiment.spec.facts.shape)
        if alive is not None and float(alive.mean()) > 0:
            images.append((ticket.values["density"], (alive / alive.mean()).tolist()))
    return images


def _page(results: Results, drawn: Sequence[tuple[str, str, str]]) -> str:
    experiment, count, whole = results.experiment, len(results.rows), len(results.plan.rows)
    state = (
        ""
        if count == whole
        else f"<p class=partial>{count} of {whole} trainings are done, the rest is not in this report.</p>"
    )
    sentences = "".join(f"<li>{html.escape(sentence)}</li>" for sentence in results.sentences)
    pictures = "".join(
        f"<figure id={name}>{svg}<figcaption>{html.escape(caption)} "
        f"<a href='figures/{name}.png'>PNG</a> <a href='figures/{name}.svg'>SVG</a></figcaption></figure>"
        for name, svg, caption in drawn
    )
    title = f"{experiment.name}: {results.network}"
    spec = json.dumps(experiment.record, indent=1)
    return f"""<!doctype html>
<html lang=en><meta charset=utf-8><meta name=viewport content="width=device-width, initial-scale=1">
<title>{html.escape(title)} - Tombola</title>
<style>{_STYLE}</style>
<main>
<h1>{html.escape(title)}</h1>
<p class=about>{html.escape(experiment.spec.about)}</p>
{state}
<h2>Verdict</h2>
<ul>{sentences}</ul>
{_studies(results.findings, experiment.members.studies)}
{_costs(results)}
<h2>Figures</h2>
{pictures}
<h2>Table</h2>
<p>{_told(results)}
Each single training is in <a href=table.csv>table.csv</a>.</p>
{_table(results)}
<h2>Why each verdict</h2>
{_reasons(results.verdicts, results.criteria)}
<h2>Spec</h2>
<details open><summary>Every value, defaults too</summary><pre>{html.escape(spec)}</pre></details>
<h2>How it came about</h2>
{_environment(results)}
</main></html>
"""


def _studies(findings: Sequence[Finding], studies: Mapping[str, Study]) -> str:
    """What studies found, that which a person wants first in sight."""
    first, rest = ([each for each in findings if each.headline is headline] for headline in (True, False))
    told, more = ("".join(f"<li>{html.escape(each.sentence)}</li>" for each in some) for some in (first, rest))
    about = "; ".join(study.rest for study in studies.values() if any(each.study == study.name for each in rest))
    summary = f"<summary>{len(rest)} more: {html.escape(about)}</summary>"
    folded = f"<details>{summary}<ul>{more}</ul></details>" if rest else ""
    return f"<h2>Studies</h2><ul>{told}</ul>{folded}" if findings else ""


def _costs(results: Results) -> str:
    """Which ways to a ticket nothing cheaper beats, level by level; nothing where there is one way only."""
    told = "".join(f"<li>{html.escape(sentence)}</li>" for sentence in results.fronts.values())
    note = (
        "Search and training together, in multiply-adds of an ideal sparse machine. What is compared here was chosen "
        "by how it came out: intervals are not corrected for that."
    )
    return f"<h2>Cost</h2><p>{note}</p><ul>{told}</ul>" if told else ""


def _told(results: Results) -> str:
    at, costs, measure = results.at, len(results.searches) > 1, results.criteria.metric.label
    where = "at the end of training" if at == "end" else "at the step of minimum validation loss"
    steps = "" if at == "end" else "; under it the step, likewise"
    cost = "; below what search and training cost, in trainings of the dense network" if costs else ""
    density = "; the density where it is not the ticket's, whose the row has" if results.other_densities else ""
    return f"Test {measure} (%) {where}, mean (smallest - largest){steps}{density}{cost}."


def _table(results: Results) -> str:
    arms = results.arms
    words = {(verdict.rewind, verdict.level): verdict for verdict in results.verdicts}
    places = sorted({(result.row.rewind, result.row.level) for result in results.rows})
    several = len({rewind for rewind, _ in places}) > 1
    rows = []
    for rewind, level in places:
        here = [result for result in results.rows if (result.row.rewind, result.row.level) == (rewind, level)]
        groups = [[result for result in here if level == 0 or result.row.arm == arm] for arm in arms]
        density, alive = (mean(result.values[name] for result in of_tickets(here)) for name in ("density", "alive"))
        cells = "".join(_cell(group, results.at) + _density(group, density) + _cost(group, results) for group in groups)
        verdict = words.get((rewind, level))
        word = _word(verdict) if verdict else f"<td>{'dense' if level == 0 else ''}"
        step = f"<td>{rewind:,}" if several else ""
        rows.append(f"<tr>{step}<td>{level}<td>{density:.1%}<td>{alive:,.0f}{cells}{word}")
    head = "".join(f"<th>{html.escape(arm)}" for arm in arms)
    head = f"{'<th>rewind step' if several else ''}<th>level<th>density<th>weights{head}<th>verdict"
    return f"<div class=wide><table><thead><tr>{head}<tbody>{''.join(rows)}</table></div>"


def _word(verdict: Verdict) -> str:
    return f"<td class='{verdict.verdict.replace(' ', '-')}'>{verdict.label}"


def _cell(group: Sequence[Result], at: str) -> str:
    if not group:
        return "<td>-"
    accuracies = [100 * result.values[ACCURACY[at]] for result in group]
    steps = [result.values["early_stop_step"] for result in group]
    pace = f"<br>{mean(steps):,.0f} <small>({min(steps):,} - {max(steps):,})</small>" if at == "early-stop" else ""
    return f"<td>{mean(accuracies):.2f} <small>({min(accuracies):.2f} - {max(accuracies):.2f})</small>{pace}"


def _density(group: Sequence[Result], tickets: float) -> str:
    """That of a group of trainings, where it is not the tickets'."""
    own = f"{mean(result.values['density'] for result in group):.1%}" if group else ""
    return f"<br><small>density</small> {own}" if own not in ("", f"{tickets:.1%}") else ""


def _cost(group: Sequence[Result], results: Results) -> str:
    """What a group of trainings cost on average, where several ways to a ticket are compared."""
    if not group or len(results.searches) < 2:
        return ""
    return f"<br><small>cost</small> {results.dense_trainings(group):.2f}"


def _reasons(verdicts: Sequence[Verdict], criteria: Criteria) -> str:
    lines = []
    several = len({verdict.rewind for verdict in verdicts}) > 1
    for verdict in verdicts:
        controls = "; ".join(
            f"ticket minus {html.escape(control.against)}: {criteria.metric.label} {points(control.accuracy)} points"
            + (f", early stop {written(control.steps, '+,.0f')} steps" if criteria.paced else "")
            + f" ({control.result}; Holm: {control.result_holm})"
            for control in verdict.controls
        )
        step = f"{verdict.rewind:,}: " if several else ""
        lines.append(
            f"<tr><td>{step}{verdict.density:.1%}{_word(verdict)}<td>{html.escape(verdict.reason)}<td>{controls}"
        )
    return (
        f"<div class=wide><table class=reasons><thead><tr><th>{'rewind step: ' if several else ''}density<th>verdict"
        f"<th>against the dense network (margin {html.escape(margin_of(criteria))})"
        "<th>ticket against its controls (the level by itself; then with Holm's correction for all levels)"
        f"<tbody>{''.join(lines)}</table></div>"
    )


def _environment(results: Results) -> str:
    provenances = [result.how for result in results.rows]
    names = ("tombola", "git", "torch", "python", "machine", "device", "threads", "engine")
    lines = [
        f"<tr><td>{name}<td>{html.escape(_several(Counter(str(each.get(name)) for each in provenances)))}"
        for name in names
    ]
    seconds = sum(each["seconds"] for each in provenances)
    memory = max((each["peak_memory_mb"] or 0 for each in provenances), default=0)
    lines.append(f"<tr><td>training time<td>{duration(seconds)} in all, {len(results.rows)} trainings")
    lines.append(f"<tr><td>peak memory of a worker<td>{memory:.0f} MB")
    lines.append(
        f"<tr><td>runs<td>{len(results.plan.runs)} in the plan; keys and seeds of each in the store's outcome.json"
    )
    return f"<table>{''.join(lines)}</table>"


def _several(counts: Counter[str]) -> str:
    if len(counts) == 1:
        return next(iter(counts))
    return ", ".join(f"{value} ({count})" for value, count in counts.most_common())


_STYLE = """
body{font:16px/1.5 system-ui,Helvetica,Arial,sans-serif;color:#1a1a1a;background:#fff;margin:0}
main{max-width:800px;margin:2rem auto;padding:0 1rem}
h1{margin-bottom:0}h2{margin-top:2.2rem;border-bottom:1px solid #ccc}
.about{color:#555;margin-top:.2rem}.partial{background:#fff3cd;padding:.5rem .8rem}
figure{margin:1.5rem 0}figure svg{max-width:100%;height:auto}figcaption{color:#444;font-size:.9rem}
table{border-collapse:collapse;font-size:.85rem;font-variant-numeric:tabular-nums}
td,th{padding:.25rem .6rem;text-align:right;border-bottom:1px solid #e4e4e4;vertical-align:top}
th{border-bottom:2px solid #999}.reasons td:nth-child(n+3){text-align:left}
small{color:#666}.wide{overflow-x:auto}pre{background:#f6f6f6;padding:.8rem;overflow-x:auto;font-size:.8rem}
.winning{color:#00643c;font-weight:600}.matching{color:#00509e;font-weight:600}.losing{color:#a03000}.not-decided,.not-learned{color:#666}
@media print{main{max-width:none;margin:0}figure,tr{break-inside:avoid}details{display:block}}
"""
