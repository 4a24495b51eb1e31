"""The figures of the studies: error along a line, barrier against rewind step, distances, overlap of masks."""

from collections.abc import Sequence
from statistics import mean
from typing import Any

import altair as alt

from tombola.lab.findings import Alike, Connected, Finding, Stable
from tombola.lab.members import BUILT_IN
from tombola.mark import COLOURS as STEPS
from tombola.report.figures import Spec, styled

MARKS = BUILT_IN.marks


def study_figures(found: Sequence[Finding]) -> dict[str, tuple[Spec, str]]:
    """Every figure that the findings allow: name -> Vega-Lite specification and caption."""
    figures: dict[str, tuple[Spec, str]] = {}
    connected = [finding for finding in found if isinstance(finding, Connected)]
    stable = [finding for finding in found if isinstance(finding, Stable)]
    alike = [finding for finding in found if isinstance(finding, Alike)]
    if connected:
        figures["connectivity"] = (
            _lines(connected),
            "Test error on the straight line between the ends of two trainings that differ in data order alone, mean "
            "over initialisations and pairs. A hump is a barrier: the two do not lie in one valley.",
        )
    if len({finding.rewind for finding in connected}) > 1:
        figures["barriers"] = (
            _barriers(connected),
            "How far the test error rises on that line, against the step that both trainings start from; bars are "
            "intervals over initialisations. Below the dashed line, 2 points, a network counts as stable.",
        )
    if stable:
        figures["stability"] = (
            _distances(stable),
            "How far apart trainings end over the surviving weights, tickets beside random masks with the same "
            "layer-wise counts: from the dense network (pruning), and from each other (data order).",
        )
    if alike:
        figures["overlap"] = (
            _overlaps(alike),
            "How far the masks of different replicates' tickets overlap in each layer (bars), and how far masks of "
            "that size do by chance (ticks).",
        )
    return figures


def _names(found: Sequence[Connected]) -> list[str]:
    """What each finding is about, as far as it has to be said to tell them apart."""
    several = len({finding.rewind for finding in found}) > 1
    return [
        f"{finding.arm} {100 * finding.found.density:.3g} %" + (f", k = {finding.rewind:,}" if several else "")
        for finding in found
    ]


def _lines(found: Sequence[Connected]) -> Spec:
    here = [finding for finding in found if finding.on == "test"]
    names = dict(zip(map(id, here), _names(here), strict=True))
    order = list(dict.fromkeys(names.values()))
    panels = list(dict.fromkeys(finding.found.statistics for finding in here))
    data: dict[str, list[dict[str, Any]]] = {
        panel: [
            {"network": names[id(finding)], "alpha": alpha, "error": 100 * mean(line[place] for line in finding.lines)}
            for finding in here
            if finding.found.statistics == panel
            for place, alpha in enumerate(finding.alphas)
        ]
        for panel in panels
    }
    scale = alt.Scale(domain=order)
    charts = [
        alt.Chart(alt.NamedData(panel), title="" if panel == "none" else f"running statistics {panel}")
        .mark_line(strokeWidth=2)
        .encode(
            x=alt.X("alpha:Q", title="alpha, from one end to the other", axis=alt.Axis(tickCount=5)),
            y=alt.Y("error:Q", title="test error (%)", scale=alt.Scale(zero=False)),
            color=alt.Color("network:N", sort=order, title=None, scale=alt.Scale(domain=order, range=list(STEPS))),
            strokeDash=alt.StrokeDash("network:N", sort=order, title=None, scale=scale),
        )
        .properties(width=600 // len(panels) - 20, height=280)
        for panel in panels
    ]
    return styled(alt.hconcat(*charts), data)


def _barriers(found: Sequence[Connected]) -> Spec:
    here = [finding for finding in found if finding.on == "test"]
    points: list[dict[str, Any]] = []
    for finding in here:
        statistics = "" if finding.found.statistics == "none" else f", {finding.found.statistics}"
        risen = finding.found.barrier
        ends = (risen.low, risen.high) if risen.n > 1 else (risen.mean, risen.mean)
        points.append(
            {
                "network": f"{finding.arm} {100 * finding.found.density:.3g} %{statistics}",
                "step": finding.rewind,
                "barrier": 100 * risen.mean,
                "low": max(100 * ends[0], 0),
                "high": min(100 * ends[1], 100),
            }
        )
    order = list(dict.fromkeys(point["network"] for point in points))
    base = alt.Chart(alt.NamedData("points")).encode(
        x=alt.X("step:Q", title="step k that both trainings start from", axis=alt.Axis(tickCount=6)),
        color=alt.Color("network:N", sort=order, title=None, scale=alt.Scale(domain=order, range=list(STEPS))),
    )
    line = base.mark_line(strokeWidth=2).encode(
        y=alt.Y("barrier:Q", title="barrier, points of test error"),
        strokeDash=alt.StrokeDash("network:N", sort=order, title=None, scale=alt.Scale(domain=order)),
    )
    bars = base.mark_rule().encode(y="low:Q", y2="high:Q")
    dots = base.mark_point(filled=True, size=50, opacity=1).encode(y="barrier:Q")
    bound = alt.Chart(alt.NamedData("bound")).mark_rule(strokeDash=[3, 3], color="#444444").encode(y="barrier:Q")
    chart = alt.layer(bars, line, dots, bound).properties(width=600, height=300)
    return styled(chart, {"points": points, "bound": [{"barrier": 2}]})


def _distances(found: Sequence[Stable]) -> Spec:
    several = len({(finding.level, finding.rewind) for finding in found}) > 1
    records: list[dict[str, Any]] = []
    for finding in found:
        where = f", {100 * finding.found.density:.3g} %, k = {finding.rewind:,}" if several else ""
        for arm, ends in (("ticket", finding.found.ticket), ("random", finding.found.random)):
            records.append({"kind": finding.found.kind + where, "arm": arm, "l2": ends.l2, "degrees": ends.degrees})
    arms = ["ticket", "random"]
    charts = [
        alt.Chart(alt.NamedData("distances"))
        .mark_bar()
        .encode(
            x=alt.X("kind:N", title=None, sort=None, axis=alt.Axis(labelAngle=-30 if several else 0)),
            xOffset=alt.XOffset("arm:N", sort=arms),
            y=alt.Y(f"{field}:Q", title=title),
            color=alt.Color(
                "arm:N", sort=arms, title=None, scale=alt.Scale(domain=arms, range=[MARKS[arm].colour for arm in arms])
            ),
        )
        .properties(width=280, height=260)
        for field, title in (("l2", "L2 distance of the surviving weights"), ("degrees", "angle (degrees)"))
    ]
    return styled(alt.hconcat(*charts), {"distances": records})


def _overlaps(found: Sequence[Alike]) -> Spec:
    several = len({finding.rewind for finding in found}) > 1
    data, charts = {}, []
    for finding in found:
        name = f"{100 * finding.density:.3g} % remain" + (f", k = {finding.rewind:,}" if several else "")
        data[name] = [
            {"layer": layer.name.removesuffix(".weight"), "overlap": layer.overlap, "chance": layer.chance}
            for layer in finding.layers
        ]
        base = alt.Chart(alt.NamedData(name), title=name).encode(y=alt.Y("layer:N", sort=None, title=None))
        bars = base.mark_bar(color=MARKS["ticket"].colour).encode(
            x=alt.X("overlap:Q", title="overlap (Jaccard)", scale=alt.Scale(domain=[0, 1]))
        )
        ticks = base.mark_tick(color="#000000", thickness=2, size=12).encode(x="chance:Q")
        charts.append(alt.layer(bars, ticks).properties(width=220, height=14 * len(finding.layers)))
    return styled(alt.concat(*charts, columns=2), data)
