"""The figure of costs: what each way to a ticket takes, and how accurate its tickets are."""

from collections.abc import Sequence
from math import ceil, floor, log10, sqrt
from statistics import mean
from typing import Any

import altair as alt

from tombola.charts import Figure, styled
from tombola.lab.results import Results
from tombola.report.shown import arms_scale, few
from tombola.study.front import Way, front

PANELS = 3  # side by side
BESIDE = 0.03  # of a panel's width: how far apart points stand that cost the same


def cost_figure(results: Results) -> Figure:
    """Accuracy against the cost of search and training together, a panel for each of a few levels.

    Args:
        results: with several ways to a ticket.
    """
    levels = few(list(results.ways))
    names = list(dict.fromkeys(way.name for level in levels for way in results.ways[level]))
    costs = [way.cost for level in levels for way in results.ways[level]]
    ends = min(costs) / 1.25, max(costs) * 1.25
    datasets: dict[str, list[dict[str, Any]]] = {}
    panels = [_panel(results, level, ends, names, datasets) for level in levels]
    caption = (
        "Test accuracy of the tickets against what they cost, search and training together, in dense trainings of an "
        "ideal sparse machine; points are means over replicates, bars reach from smallest to largest, and what costs "
        "the same stands side by side. The grey line is the Pareto front: what is named on it is more accurate, on "
        "average, than all that costs as much or less. The dashed line is the dense network."
    )
    return Figure(styled(alt.concat(*panels, columns=PANELS), datasets), caption)


def _panel(
    results: Results,
    level: int,
    ends: tuple[float, float],
    names: Sequence[str],
    datasets: dict[str, list[dict[str, Any]]],
) -> Any:
    ways, best = results.ways[level], front(results.ways[level])
    step, middle = (ends[1] / ends[0]) ** BESIDE, sqrt(ends[0] * ends[1])
    points = [
        _point(way, way.cost * step ** (place - (len(group) - 1) / 2))
        for group in _alike(ways, step)
        for place, way in enumerate(group)
    ]
    named = [point for point in points if point["arm"] in {way.name for way in best}]
    drawn = {
        "ways": points,
        "front": [*(_point(way, way.cost) for way in best), _point(best[-1], ends[1])],
        "left": [point for point in named if point["cost"] < middle],
        "right": [point for point in named if point["cost"] >= middle],
        "dense": [{"accuracy": 100 * mean(results.accuracies(0))}],
    }
    datasets |= {f"{part} {level}": points for part, points in drawn.items()}

    def chart(part: str) -> Any:
        return alt.Chart(alt.NamedData(f"{part} {level}"))

    channels = arms_scale(names, results.experiment.members.marks(results.experiment.spec))
    x = alt.X(
        "cost:Q",
        scale=alt.Scale(type="log", domain=list(ends), nice=False),
        axis=alt.Axis(values=_ticks(*ends), format="~g"),
        title="cost (dense trainings), log scale",
    )
    y = alt.Y("accuracy:Q", scale=alt.Scale(zero=False), title="test accuracy (%)")
    text = {"fontSize": 11, "dy": -9}
    layers = [
        chart("dense").mark_rule(strokeDash=[3, 3], color="#444444").encode(y=y),
        chart("front").mark_line(interpolate="step-after", color="#999999", strokeWidth=1.5).encode(x=x, y=y),
        chart("ways").mark_rule(opacity=0.6).encode(x=x, y=alt.Y("low:Q"), y2="high:Q", color=channels["color"]),
        chart("ways")
        .mark_point(size=60, filled=True, opacity=1)
        .encode(x=x, y=y, color=channels["color"], stroke=channels["color"], shape=channels["shape"]),
        chart("left").mark_text(align="left", dx=4, **text).encode(x=x, y=y, text="arm:N"),
        chart("right").mark_text(align="right", dx=-4, **text).encode(x=x, y=y, text="arm:N"),
    ]
    density = mean(results.densities(level))
    title = f"{100 * density:.3g} % of the weights"
    return alt.layer(*layers, title=title).properties(width=680 // PANELS - 40, height=240)


def _alike(ways: Sequence[Way], step: float) -> list[list[Way]]:
    """Groups of ways that cost about the same, less than a step apart from one to the next."""
    groups: list[list[Way]] = []
    for way in sorted(ways, key=lambda way: way.cost):
        if groups and way.cost < groups[-1][-1].cost * step:
            groups[-1].append(way)
        else:
            groups.append([way])
    return groups


def _ticks(low: float, high: float) -> list[float]:
    """1, 2 and 5 in each power of ten; between two and a dozen."""
    return [digit * 10.0**power for power in range(floor(log10(low)), ceil(log10(high))) for digit in (1, 2, 5)]


def _point(way: Way, cost: float) -> dict[str, Any]:
    values = [100 * accuracy for accuracy in way.accuracies.values()]
    spread = {"accuracy": mean(values), "low": min(values), "high": max(values)}
    return {"arm": way.name, "cost": cost, **spread}
