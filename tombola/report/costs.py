"""The figure of costs: what each way to a ticket takes, and how accurate its tickets are."""

from collections.abc import Sequence
from math import exp, inf, log
from statistics import mean
from typing import Any

import altair as alt

from tombola.charts import Figure, arm_channels, arm_key, styled, ticks
from tombola.lab.results import Results
from tombola.report.shown import few
from tombola.study.front import Way, front

PANELS, WIDTH, HEIGHT = 2, 270, 240  # side by side; of each, in pixels
BESIDE, BESIDE_EACH = 0.025, 3  # of a panel's width: how far apart points stand that cost the same; more are closer
LETTER, LINE = 6.2, 13  # pixels that a letter takes at most, and a line of letters


def cost_figure(results: Results) -> Figure:
    """Accuracy against the cost of search and training together, a panel for each of a few levels.

    Args:
        results: with several ways to a ticket.
    """
    levels = few(list(results.ways))
    names = list(dict.fromkeys(way.name for level in levels for way in results.ways[level]))
    costs = [way.cost for level in levels for way in results.ways[level]]
    ends = min(costs) / 2, max(costs) * 1.25  # with room for names to the left
    datasets: dict[str, list[dict[str, Any]]] = {}
    panels = [_panel(results, level, ends, names, datasets) for level in levels]
    caption = (
        f"Test {results.criteria.metric.label} of the tickets against what they cost, search and training together, in "
        "dense trainings of an ideal sparse machine; points are means over replicates, bars reach from smallest to "
        "largest, and what costs the same stands side by side. The grey line is the Pareto front: what is named on it "
        "is better, on average, than all that costs as much or less. The dashed line is the dense network. "
        "Controls are left out: they are made of a ticket, and no way to one."
    )
    key, of_key = arm_key(names, results.experiment.members.marks(results.experiment.spec))
    return Figure(styled(alt.hconcat(alt.concat(*panels, columns=PANELS), key), datasets | of_key), caption)


def _panel(
    results: Results,
    level: int,
    ends: tuple[float, float],
    names: Sequence[str],
    datasets: dict[str, list[dict[str, Any]]],
) -> Any:
    ways, best = results.ways[level], front(results.ways[level])
    step = (ends[1] / ends[0]) ** BESIDE
    points = [
        _point(way, way.cost * step ** ((place - (len(group) - 1) / 2) / max(1, len(group) / BESIDE_EACH)))
        for group in _alike(ways, step)
        for place, way in enumerate(group)
    ]
    dense = 100 * mean(results.accuracies(0)) if results.accuracies(0) else points[0]["high"]
    heights = [dense, *(point[name] for point in points for name in ("low", "high"))]
    named = {way.name for way in best}
    frame, labels = labelled([each for each in points if each["arm"] in named], ends, (min(heights), max(heights)))
    datasets |= {
        f"ways {level}": points,
        f"front {level}": [*(_point(way, way.cost) for way in best), _point(best[-1], ends[1])],
        f"labels {level}": labels,
        f"dense {level}": [{"accuracy": dense}],
    }

    def chart(part: str) -> Any:
        return alt.Chart(alt.NamedData(f"{part} {level}"))

    channels = arm_channels(names, results.experiment.members.marks(results.experiment.spec))
    x = alt.X(
        "cost:Q",
        scale=alt.Scale(type="log", domain=list(ends), nice=False),
        axis=alt.Axis(values=ticks(*ends), format="~g"),
        title="cost (dense trainings), log scale",
    )
    y = alt.Y(
        "accuracy:Q",
        scale=alt.Scale(domain=list(frame), nice=False),
        axis=alt.Axis(labelExpr="datum.value > 100 ? '' : datum.label"),  # names need room above, where nothing can be
        title=f"test {results.criteria.metric.label} (%)",
    )
    layers = [
        chart("dense").mark_rule(strokeDash=[3, 3], color="#444444").encode(y=y),
        chart("front").mark_line(interpolate="step-after", color="#999999", strokeWidth=1.5).encode(x=x, y=y),
        chart("labels").mark_rule(color="#bbbbbb").encode(x=x, y=y, x2="to cost:Q", y2="to accuracy:Q"),
        chart("ways").mark_rule(opacity=0.5).encode(x=x, y=alt.Y("low:Q"), y2="high:Q", color=channels["color"]),
        chart("ways")
        .mark_point(size=60, filled=True, opacity=1)
        .encode(x=x, y=y, color=channels["color"], shape=channels["shape"]),
        chart("labels").mark_text(align="right", fontSize=11).encode(x=x, y=y, text="arm:N"),
    ]
    title = f"{100 * mean(results.densities(level)):.3g} % of the weights"
    return alt.layer(*layers, title=title).properties(width=WIDTH, height=HEIGHT)


def labelled(
    points: Sequence[dict[str, Any]], ends: tuple[float, float], heights: tuple[float, float]
) -> tuple[tuple[float, float], list[dict[str, Any]]]:
    """The ends of the axis of accuracies, and a label for each point of the front, its right end, none over another.

    Above and to the left of a front there is nothing: there the names go, from the lowest point upwards, as far up as
    those below them push them; the axis is made longer until there is room.

    Args:
        points: of the front, the cheapest first.
        ends: of the axis of costs.
        heights: the lowest and the highest accuracy that is drawn.
    """
    across = WIDTH / log(ends[1] / ends[0])
    low = heights[0] - 0.04 * (heights[1] - heights[0])
    for longer in range(1, 30):
        high = heights[1] + 0.04 * longer * (heights[1] - heights[0] or 1)
        labels, top = [], -inf
        for point in points:
            wide = LETTER * len(point["arm"])
            right = max(log(point["cost"] / ends[0]) * across - 7, wide + 3)
            over = max((point["accuracy"] - low) / (high - low) * HEIGHT + 9, top + LINE)
            top = over
            labels.append(
                {
                    "arm": point["arm"],
                    "cost": ends[0] * exp(right / across),
                    "accuracy": low + over / HEIGHT * (high - low),
                    "to cost": point["cost"],
                    "to accuracy": point["accuracy"],
                }
            )
        if top < HEIGHT - LINE / 2:
            break
    return (low, high), labels


def _alike(ways: Sequence[Way], step: float) -> list[list[Way]]:
    """Groups of ways whose points would lie on each other: of costs within half a step of the first one's."""
    groups: list[list[Way]] = []
    for way in sorted(ways, key=lambda way: way.cost):
        if groups and way.cost < groups[-1][0].cost * step**0.5:
            groups[-1].append(way)
        else:
            groups.append([way])
    return groups


def _point(way: Way, cost: float) -> dict[str, Any]:
    values = [100 * accuracy for accuracy in way.accuracies.values()]
    spread = {"accuracy": mean(values), "low": min(values), "high": max(values)}
    return {"arm": way.name, "cost": cost, **spread}
