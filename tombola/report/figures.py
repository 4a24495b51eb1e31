"""The figures that people know from the papers, as Vega-Lite: on screen, and legible in print without colour."""

import re
from collections.abc import Collection, Mapping, Sequence
from statistics import mean
from typing import Any

import altair as alt

from tombola.charts import Figure, VegaLiteSpec, apart, arm_channels, arm_key, density_axis, styled
from tombola.lab.results import Result, Results, arms_of
from tombola.mark import Mark
from tombola.report.costs import cost_figure
from tombola.report.shown import MANY, few, living

PANELS = 3  # side by side
ARMS = 9  # whose curves are shown, each in a panel


def all_figures(results: Results, survivors: Sequence[tuple[float, list[list[float]]]]) -> dict[str, Figure]:
    """Every figure that the table's rows allow, by name.

    Where the verdict compares accuracy at the end of training, that figure comes first.

    Args:
        results: of the experiment, one finished row at least.
        survivors: (density, image of what is alive in the first layer relative to its mean) at a few levels, or none.
    """
    rows, marks = results.rows, results.experiment.members.marks(results.experiment.spec)
    measure = results.criteria.metric.label
    several = len({result.row.rewind for result in rows}) > 1
    dense = "each begins at its dense network" if several else "the black dashed line is the dense network"
    apart = "bars reach from smallest to largest, arms of one level stand side by side"
    spread = apart if len(_series(rows)) > MANY else "bands reach from smallest to largest"
    whose = f"lines are means, {spread}, {dense}"
    at_end = {
        "final-accuracy": Figure(
            _against_density(rows, "final_test_accuracy", f"test {measure} at the end of training (%)", 100, marks),
            f"Test {measure} after the last training step; {whose}.",
        )
    }
    figures: dict[str, Figure] = at_end if results.at == "end" else {}
    if several:
        figures |= {
            "rewinding": Figure(
                _rewinding(rows, results.accuracy, measure),
                f"Test {measure} of the tickets against the step that they were rewound to, at a few densities; lines "
                "are means, bars reach from smallest to largest.",
            )
        }
    figures |= {
        "accuracy": Figure(
            _against_density(rows, "early_stop_test_accuracy", f"test {measure} at early stop (%)", 100, marks),
            f"Test {measure} at the step of minimum validation loss, against the weights remaining; {whose}.",
        ),
        "early-stop": Figure(
            _against_density(rows, "early_stop_step", "early stop (training steps)", 1, marks),
            f"The step of minimum validation loss: how fast each network learns; {whose}.",
        ),
        **at_end,
    }
    if results.ways:
        figures["cost"] = cost_figure(results)
    if len(rows[0].values["curve"]["test_step"]) > 2:  # beginning and end alone are no curve
        series, shown = _series(rows), _best(_series(rows), results.accuracy)
        some = f" of the {len(shown)} best ones of the sparsest level" if len(shown) < len(series) else ""
        figures["curves"] = Figure(
            _curves(rows, shown, measure),
            f"Test {measure} during training, mean over replicates, at a few densities; each panel is an arm{some}.",
        )
    if survivors:
        step = f", rewound to step {min(result.row.rewind for result in rows):,}" if several else ""
        figures["survivors"] = Figure(
            _survivors(survivors),
            "What survives of the first layer, as an image of the input: living weights of each pixel, "
            f"relative to the layer's mean (replicate 0{step}).",
        )
    return figures


def study_figures(results: Results, taken: Collection[str] = ()) -> dict[str, Figure]:
    """The figures of each study that found something, by name as files can have it: if `taken`, after the study's."""
    members, figures = results.experiment.members, dict[str, Figure]()
    for study in members.studies.values():
        if own := [finding for finding in results.findings if finding.study == study.name]:
            for name, figure in study.figures(own, members.marks(results.experiment.spec)).items():
                file = re.sub(r"[^A-Za-z0-9_.-]+", "-", name)
                while file in {*taken, *figures}:
                    file = f"{study.name}-{file}"
                figures[file] = figure
    return figures


def _series(rows: Sequence[Result]) -> dict[str, list[Result]]:
    """The results of each arm at each rewind step, the dense network's of that step among them."""
    steps = sorted({result.row.rewind for result in rows})
    series = {}
    for arm in arms_of(rows) or ["dense"]:
        for step in steps:
            name = arm if len(steps) == 1 else f"{arm}, k = {step:,}"
            mine = [result for result in rows if result.row.rewind == step]
            series[name] = [result for result in mine if result.row.arm == arm or result.row.level == 0]
    return series


def _points(rows: Sequence[Result], name: str, scale: float) -> list[dict[str, Any]]:
    """Mean, smallest and largest value per series and level; every one begins at its dense network."""
    points = []
    for arm, group_of_arm in _series(rows).items():
        for level in sorted({result.row.level for result in group_of_arm}):
            group = [result for result in group_of_arm if result.row.level == level]
            values = [scale * result.values[name] for result in group]
            if values and group[0].values["alive"]:  # a log axis has no place for a density of 0
                density = 100 * mean(result.values["density"] for result in group)
                points.append(
                    {
                        "arm": arm,
                        "level": level,
                        "density": density,
                        "value": mean(values),
                        "low": min(values),
                        "high": max(values),
                    }
                )
    return points


def _against_density(
    rows: Sequence[Result], name: str, title: str, scale: float, marks: Mapping[str, Mark]
) -> VegaLiteSpec:
    points = _points(rows, name, scale)
    arms, densities = list(dict.fromkeys(point["arm"] for point in points)), [point["density"] for point in points]
    if many := len(arms) > MANY:  # the legend in the order of the lines' right ends, and points of a level side by side
        ends = {point["arm"]: point["value"] for point in points}  # those of the last level
        arms = sorted(arms, key=lambda arm: -ends[arm])
        points = apart(points, arms)
    x = density_axis(densities, [point["density"] for point in points])
    channels = arm_channels(arms, marks)
    base = alt.Chart(alt.NamedData("points")).encode(x=x)
    y = alt.Scale(zero=False)
    spread = base.mark_rule(opacity=0.5) if many else base.mark_area(opacity=0.15)
    spread = spread.encode(y=alt.Y("low:Q", scale=y, title=title), y2="high:Q", color=channels["color"])
    line = base.mark_line(strokeWidth=1.5 if many else 2).encode(
        y=alt.Y("value:Q", scale=y, title=title), color=channels["color"], strokeDash=channels["strokeDash"]
    )
    dots = base.mark_point(size=45, filled=True, opacity=1).encode(
        y=alt.Y("value:Q", scale=y), color=channels["color"], shape=channels["shape"]
    )
    rule = alt.Chart(alt.NamedData("dense")).mark_rule(strokeDash=[3, 3], color="#444444").encode(y="value:Q")
    whole = [point["value"] for point in points if point["level"] == 0]  # none where its training failed
    several = len({result.row.rewind for result in rows}) > 1  # each step has its own
    dense = [{"value": mean(whole)}] if whole and not several else []
    chart = alt.layer(spread, rule, line, dots).properties(width=600, height=440 if many else 320)
    key, names = arm_key(arms, marks, arms)
    return styled(alt.hconcat(chart, key), {"points": points, "dense": dense, **names})


def _best(series: Mapping[str, list[Result]], name: str) -> dict[str, list[Result]]:
    """The series whose curves are shown: the most accurate ones at the last level, where there are too many for all."""

    def at_last(arm: str) -> float:
        last = max(result.row.level for result in series[arm])
        return float(mean(result.values[name] for result in series[arm] if result.row.level == last))

    best = sorted(series, key=at_last, reverse=True)[:ARMS]
    return {arm: group for arm, group in series.items() if arm in best}


def _curves(rows: Sequence[Result], arms: Mapping[str, list[Result]], measure: str) -> VegaLiteSpec:
    levels = few(living(rows))
    curves = {arm: [_curve(results, arm, level) for level in levels] for arm, results in arms.items()}
    records = [record for of_arm in curves.values() for curve in of_arm for record in curve]
    order = list(dict.fromkeys(record["density"] for record in records))
    first, last = (which(record["step"] for record in records) for which in (min, max))
    ends = [record["accuracy"] for record in records if record["step"] == last]
    high = max(record["accuracy"] for record in records)
    low = max(min(ends) - 1, high - 15)  # the steep beginning would flatten everything that can be told apart
    seen = {arm: [record for curve in of_arm for record in _above(low, curve)] for arm, of_arm in curves.items()}
    charts = [
        alt.Chart(alt.NamedData(arm), title=arm)
        .mark_line(strokeWidth=1.8)
        .encode(
            x=alt.X(
                "step:Q",
                title="training steps",
                axis=alt.Axis(tickCount=5),
                scale=alt.Scale(domain=[first, last], nice=False),  # one for all panels, wherever their curves begin
            ),
            y=alt.Y("accuracy:Q", title=f"test {measure} (%)", scale=alt.Scale(domain=[low, high + 0.2], nice=False)),
            color=alt.Color(
                "density:N", sort=order, title="weights remaining", scale=alt.Scale(domain=order, scheme="viridis")
            ),
            strokeDash=alt.StrokeDash(
                "density:N", sort=order, title="weights remaining", scale=alt.Scale(domain=order)
            ),
            detail="piece:N",
        )
        .properties(width=680 // min(len(arms), PANELS) - 40, height=280)
        for arm in arms
    ]
    return styled(alt.concat(*charts, columns=PANELS), seen)


def _rewinding(rows: Sequence[Result], name: str, measure: str) -> VegaLiteSpec:
    points = []
    for level in few(living(rows)):
        here = [result for result in rows if result.row.level == level and result.row.arm in ("dense", "ticket")]
        if not here:
            continue
        density = f"{100 * mean(result.values['density'] for result in here):.3g} %"
        for step in sorted({result.row.rewind for result in here}):
            values = [100 * result.values[name] for result in here if result.row.rewind == step]
            spread = {"value": mean(values), "low": min(values), "high": max(values)}
            points.append({"density": density, "step": step, **spread})
    order = list(dict.fromkeys(point["density"] for point in points))
    colour = alt.Color(
        "density:N", sort=order, title="weights remaining", scale=alt.Scale(domain=order, scheme="viridis")
    )
    base = alt.Chart(alt.NamedData("points")).encode(
        x=alt.X("step:Q", title="rewind step k, training steps", axis=alt.Axis(tickCount=6)), color=colour
    )
    y = alt.Scale(zero=False)
    line = base.mark_line(strokeWidth=2).encode(
        y=alt.Y("value:Q", scale=y, title=f"test {measure} of the ticket (%)"),
        strokeDash=alt.StrokeDash("density:N", sort=order, title="weights remaining", scale=alt.Scale(domain=order)),
    )
    bars = base.mark_rule().encode(y=alt.Y("low:Q", scale=y), y2="high:Q")
    dots = base.mark_point(filled=True, size=50, opacity=1).encode(y=alt.Y("value:Q", scale=y))
    return styled(alt.layer(bars, line, dots).properties(width=600, height=320), {"points": points})


def _curve(rows: Sequence[Result], arm: str, level: int) -> list[dict[str, Any]]:
    """The mean test accuracy over a series' trainings at a level, point by point."""
    group = [result for result in rows if result.row.level == level]
    if not group:
        return []
    density = f"{100 * mean(result.values['density'] for result in group):.3g} %"
    curves = [result.values["curve"] for result in group]
    return [
        {
            "arm": arm,
            "density": density,
            "step": step,
            "accuracy": 100 * mean(each["test_accuracy"][place] for each in curves),
        }
        for place, step in enumerate(curves[0]["test_step"])
    ]


def _above(low: float, curve: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The pieces of a curve that lie above `low`, cut where they cross it.

    Cut here and not by the chart's own clipping, with which a PNG takes seven times as long.
    """
    kept: list[dict[str, Any]] = []
    piece = 0
    for before, point in zip([None, *curve], curve, strict=False):
        if before and (before["accuracy"] < low) != (point["accuracy"] < low):
            part = (low - before["accuracy"]) / (point["accuracy"] - before["accuracy"])
            crossing = before["step"] + part * (point["step"] - before["step"])
            piece += point["accuracy"] >= low
            kept.append({**point, "step": crossing, "accuracy": low, "piece": piece})
        if point["accuracy"] >= low:
            kept.append({**point, "piece": piece})
    return kept


def _survivors(images: Sequence[tuple[float, list[list[float]]]]) -> VegaLiteSpec:
    size = 680 // len(images) - 30
    most = max(value for _, image in images for row in image for value in row)
    cells = {
        f"image {place}": [
            {"x": x, "y": y, "alive": value} for y, row in enumerate(image) for x, value in enumerate(row)
        ]
        for place, (_, image) in enumerate(images)
    }
    charts = [
        alt.Chart(alt.NamedData(name), title=f"{100 * density:.1f} % remain")
        .mark_rect()
        .encode(
            x=alt.X("x:O", axis=None),
            y=alt.Y("y:O", axis=None),
            color=alt.Color(
                "alive:Q", scale=alt.Scale(range=["#ffffff", "#000000"], domain=[0, most]), title="times the mean"
            ),
        )
        .properties(width=size, height=size)
        for name, (density, _) in zip(cells, images, strict=True)
    ]
    return styled(alt.hconcat(*charts, spacing=12), cells)
