"""What all figures share: one style, and one way to files."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cache
from itertools import pairwise
from math import ceil, floor, inf, isfinite, log10
from statistics import median
from typing import Any, NamedTuple, Protocol

from tombola.mark import COLOURS, Mark

VegaLiteSpec = dict[str, Any]
NEAR = 1.05  # densities that differ by less are those of one level
ROOM = 10  # pixels between the frame and what is drawn, so that no point is cut and no number lies above the frame
SAMPLE = 36  # pixels of a line in the legend
BAR = "M-1,-.25L1,-.25L1,.25L-1,.25Z"  # a stroke as a shape that can be filled
LONG = 3  # bars that are so many times longer than is usual end where the others do
BARS = "bars are the means' confidence intervals, cut short where they are far longer than the others"


class Figure(NamedTuple):
    """A figure as a Vega-Lite specification that holds its data, and its caption."""

    spec: VegaLiteSpec
    caption: str


class Estimate(Protocol):
    """A mean over replicates and the ends of its interval, infinite where nothing is known of it."""

    @property
    def mean(self) -> float: ...
    @property
    def low(self) -> float: ...
    @property
    def high(self) -> float: ...


class Drawn(NamedTuple):
    """What stands against an axis.

    Attributes:
        field: of the records.
        title: what stands beside the axis.
        scale: of altair, where it is another than a plain one from 0 on: `zero=False`, say.
        across: a value at which a thin line goes through the panels that reach around it, as guessing has it.
    """

    field: str
    title: str
    scale: Mapping[str, Any] = {}
    across: float | None = None


def styled(chart: Any, datasets: dict[str, list[dict[str, Any]]]) -> VegaLiteSpec:
    """The chart, in which data sets are only named, as a specification that holds them: altair would copy each many
    times over."""
    # Not validated: that takes longer than all the rest. The tests do it.
    return {**chart.to_dict(validate=False), "config": _style(), "datasets": datasets}


@cache
def _style() -> dict[str, Any]:
    """The configuration of all figures; asked of an empty one, as altair copies a whole chart at each `configure`."""
    import altair as alt

    empty = (
        alt.Chart(alt.NamedData("none"))
        .mark_point()
        .configure(font="Helvetica, Arial, sans-serif", background="white")
        .configure_axis(
            labelFontSize=12, titleFontSize=13, titleFontWeight="normal", gridColor="#e4e4e4", labelFlush=False
        )
        .configure_legend(
            labelFontSize=12,
            titleFontSize=12,
            titleFontWeight="normal",
            symbolSize=120,
            symbolOpacity=1,
            symbolStrokeWidth=2,
            labelLimit=0,
        )
        .configure_title(fontSize=13, fontWeight="normal")
        .configure_view(stroke="#bbbbbb")
    )
    config: dict[str, Any] = empty.to_dict(validate=False)["config"]
    return config


def density_axis(densities: Sequence[float], drawn: Sequence[float] = (), most: int = 9) -> Any:
    """Weights remaining, from many to few, with ticks at a few of the densities that there are.

    Args:
        densities: all there are, in percent.
        drawn: where points stand, if not there.
        most: ticks, about.
    """
    import altair as alt

    apart: list[float] = []
    for density in sorted(densities, reverse=True):
        apart += [density] if not apart or apart[-1] / density > NEAR else []
    ends = [min(drawn or densities) * 0.93, max(drawn or densities) * 1.07]
    thin = [float(f"{density:.3g}") for density in apart[:: max(1, round(len(apart) / most))]]
    return alt.X(
        "density:Q",
        scale=alt.Scale(
            type="log",
            reverse=True,
            domain=ends,
            nice=False,
            padding=ROOM / 2,
        ),
        axis=alt.Axis(values=thin, format="~r", grid=True),
        title="weights remaining (%), log scale",
    )


def ticks(low: float, high: float) -> list[float]:
    """Round numbers between the ends of a logarithmic axis: 1, 2 and 5 of each power of ten, or more if these are few.

    >>> ticks(0.08, 2.4), ticks(2.5, 6.2)
    ([0.1, 0.2, 0.5, 1.0, 2.0], [3.0, 4.0, 5.0, 6.0])
    """
    found: list[float] = []
    for digits in ((1, 2, 5), tuple(range(1, 10)), tuple(place / 10 for place in range(10, 100))):
        powers = range(floor(log10(low)), ceil(log10(high)) + 1)
        found = [float(f"{digit * 10.0**power:.2g}") for power in powers for digit in digits]
        found = [value for value in found if low <= value <= high]
        if len(found) > 2:
            break
    return found


def arm_colour(arms: Sequence[str], marks: Mapping[str, Mark]) -> Any:
    """The field `arm` as a colour, with a legend in this order."""
    import altair as alt

    return alt.Color(
        "arm:N", sort=arms, title=None, scale=alt.Scale(domain=arms, range=[marks[arm].colour for arm in arms])
    )


def arm_channels(arms: Sequence[str], marks: Mapping[str, Mark]) -> dict[str, Any]:
    """The channels by which arms are told apart: colour, dash and shape; `arm_key` is their legend."""
    import altair as alt

    # Of several rewind steps each has a colour, and the arms keep their dashes and shapes.
    steps = list(dict.fromkeys(arm.partition(", k = ")[2] for arm in arms))
    looks = [marks[arm.partition(", k = ")[0]] for arm in arms]
    if len(steps) > 1:
        colours = [COLOURS[steps.index(arm.partition(", k = ")[2]) % len(COLOURS)] for arm in arms]
        looks = [replace(look, colour=colour) for colour, look in zip(colours, looks, strict=True)]

    def scale(values: list[Any]) -> Any:
        return alt.Scale(domain=list(arms), range=values)

    shapes = [BAR if look.shape == "stroke" else look.shape for look in looks]
    return {
        "color": alt.Color("arm:N", scale=scale([look.colour for look in looks]), legend=None),
        "strokeDash": alt.StrokeDash("arm:N", scale=scale([list(look.dash) for look in looks]), legend=None),
        "shape": alt.Shape("arm:N", scale=scale(shapes), legend=None),
    }


def arm_key(
    arms: Sequence[str], marks: Mapping[str, Mark], lined: Iterable[str] = (), filled: bool = True, points: bool = True
) -> tuple[Any, dict[str, list[dict[str, Any]]]]:
    """A legend as a chart of its own, and its data: altair's would draw the dashes around the shapes.

    Args:
        arms: in this order, from above.
        lined: which of them have lines.
        filled: whether their points are.
        points: whether there are some.
    """
    import altair as alt

    channels, drawn = arm_channels(arms, marks), set(lined)
    y = alt.Y("arm:N", axis=None, scale=alt.Scale(domain=list(arms)), sort=list(arms))
    base = alt.Chart(alt.NamedData("key")).encode(y=y)
    parts = [
        alt.Chart(alt.NamedData("key of lines"))
        .mark_rule(strokeWidth=2)
        .encode(y=y, x=alt.value(0), x2=alt.value(SAMPLE), color=channels["color"], strokeDash=channels["strokeDash"]),
        base.mark_text(align="left", fontSize=12, limit=0).encode(x=alt.value(SAMPLE + 6), text="arm:N"),
    ]
    if points:
        dots = base.mark_point(size=60, filled=filled, opacity=1, strokeWidth=1.8)
        parts.append(dots.encode(x=alt.value(SAMPLE / 2), color=channels["color"], shape=channels["shape"]))
    chart = alt.layer(*parts, view=alt.ViewBackground(stroke=None)).properties(width=SAMPLE, height=alt.Step(18))
    names = [{"arm": arm} for arm in arms]
    return chart, {"key": names, "key of lines": [name for name in names if name["arm"] in drawn]}


def interval(
    field: str, value: Estimate, scale: float = 1.0, within: tuple[float, float] = (-inf, inf)
) -> dict[str, Any]:
    """The fields of a record that is drawn with its interval, which is left out where it is not known.

    Args:
        within: the least and the largest value that there can be, before it is scaled.
    """
    ends = {"low": max(value.low, within[0]), "high": min(value.high, within[1])}
    known = isfinite(value.low) and isfinite(value.high)
    return {field: scale * value.mean, **({name: scale * end for name, end in ends.items()} if known else {})}


def lines(
    panels: Mapping[str, list[dict[str, Any]]], x: Any, y: Drawn, marks: Mapping[str, Mark], points: bool = True
) -> VegaLiteSpec:
    """One line for each arm, in a panel for each data set.

    Args:
        panels: title -> records, each with `arm` and the fields of the axes, and `low` and `high` where there is a bar.
        x: the axis, of altair.
        y: what is drawn.
        marks: by arm, how the lines and points look.
        points: whether each record is a point on its line.
    """
    import altair as alt

    arms = list(dict.fromkeys(record["arm"] for records in panels.values() for record in records))
    data = {name: _cut(records, y.field) for name, records in panels.items()}
    charts = [_panel(name, records, x, y, arm_channels(arms, marks), points) for name, records in data.items()]
    rule = {} if y.across is None else {"across": [{"value": y.across}]}
    lined = {arm for records in panels.values() for arm in arms if sum(record["arm"] == arm for record in records) > 1}
    key, names = arm_key(arms, marks, lined, filled=False, points=points)
    return styled(alt.hconcat(alt.concat(*charts, columns=2), key), {**data, **rule, **names})


def _panel(
    name: str, records: Sequence[dict[str, Any]], x: Any, y: Drawn, channels: Mapping[str, Any], points: bool
) -> Any:
    import altair as alt

    scale = alt.Scale(**_with_room(y.scale))

    def against(field: str) -> Any:
        # Numbers near the frame's upper edge stay below it, else they would push the panel's title up.
        return alt.Y(f"{field}:Q", title=y.title, scale=scale, axis=alt.Axis(labelFlush=7))

    base = alt.Chart(alt.NamedData(name)).encode(x=x, color=channels["color"])
    layers = [base.mark_line(strokeWidth=1.8).encode(y=against(y.field), strokeDash=channels["strokeDash"])]
    if any("low" in record for record in records):
        bars = base.transform_filter("isValid(datum.low)").mark_rule(strokeWidth=1.2, opacity=0.7)
        layers.insert(0, bars.encode(y=against("low"), y2="high:Q"))
    if points:
        # Not filled: what lies under a point is seen, too.
        dots = base.mark_point(size=50, filled=False, strokeWidth=1.8, opacity=1)
        layers.append(dots.encode(y=against(y.field), shape=channels["shape"]))
    if y.across is not None and _reaches_around(y.across, records, y):
        rule = alt.Chart(alt.NamedData("across")).mark_rule(strokeDash=[3, 3], color="#777777")
        layers.insert(0, rule.encode(y=against("value")))
    return alt.layer(*layers, title=name).properties(width=280, height=220)


def _with_room(scale: Mapping[str, Any]) -> dict[str, Any]:
    """A scale that leaves room at the ends of what is drawn, from 0 on where it does not say something else."""
    whole = {"nice": False, "padding": ROOM, **scale}
    if "domain" in whole or whole.get("type") == "log" or not whole.get("zero", True):
        return whole
    return {**whole, "zero": False, "domain": {"unionWith": [0]}}  # `zero` alone would leave none below


def _reaches_around(value: float, records: Sequence[dict[str, Any]], y: Drawn) -> bool:
    from_zero = [] if "domain" in y.scale or not y.scale.get("zero", True) else [0.0]
    drawn = [record[name] for record in records for name in (y.field, "low", "high") if name in record]
    ends = [*y.scale.get("domain", ()), *from_zero, *drawn]
    return bool(min(ends) <= value <= max(ends))


def _cut(records: Sequence[dict[str, Any]], field: str) -> list[dict[str, Any]]:
    """The records, of whose bars none is so long that all the rest could not be told apart any more."""
    lengths = [record["high"] - record["low"] for record in records if "low" in record]
    if not lengths:
        return list(records)
    means = [record[field] for record in records]
    usual = LONG * max(median(lengths), max(means) - min(means))
    kept = [record for record in records if "low" in record and record["high"] - record["low"] <= usual]
    low = min([*means, *(record["low"] for record in kept)])
    high = max([*means, *(record["high"] for record in kept)])
    return [
        {**record, "low": max(record["low"], low), "high": min(record["high"], high)} if "low" in record else record
        for record in records
    ]


def by_density(
    panels: Mapping[str, list[dict[str, Any]]],
    field: str,
    title: str,
    marks: Mapping[str, Mark],
    across: float | None = None,
    **scale: Any,
) -> VegaLiteSpec:
    """One line for each arm against the weights remaining, in a panel for each data set.

    Args:
        panels: title -> records, each with `arm`, `density` in percent, the field that is drawn, and `low` and `high`
            where there is a bar.
        field, title: what is drawn, and what stands beside its axis.
        marks: by arm, how the lines and points look.
        across: as `Drawn` has it.
        scale: of altair, of what is drawn: `domain=[0, 100]` or `zero=False`, say.
    """
    densities = [record["density"] for records in panels.values() for record in records]
    if any("low" in record for records in panels.values() for record in records):
        panels = {name: apart(records) for name, records in panels.items()}
    drawn = [record["density"] for records in panels.values() for record in records]
    x = density_axis(densities, drawn, most=6)
    return lines(panels, x, Drawn(field, title, scale, across), marks)


def apart(records: Sequence[dict[str, Any]], arms: Sequence[str] = ()) -> list[dict[str, Any]]:
    """The records, those of a level side by side, arm by arm: by a third of the way to the next level at most.

    Args:
        records: with `arm` and `density` in percent; what is dense stays where it is.
        arms: in this order; that of the records if not given.
    """
    moved = [record for record in records if record["density"] < 100 / NEAR]
    order = list(arms or dict.fromkeys(record["arm"] for record in moved))
    densities = sorted({record["density"] for record in moved} | {100.0})
    nearest = min((high / low for low, high in pairwise(densities) if high / low > NEAR), default=1.5)

    def factor(arm: str) -> float:
        return float(min(nearest, 1.5) ** ((0.5 - order.index(arm) / max(len(order) - 1, 1)) / 3)) if order[1:] else 1.0

    return [
        {**record, "density": record["density"] * (factor(record["arm"]) if record["density"] < 100 / NEAR else 1.0)}
        for record in records
    ]


def in_panels(points: Iterable[tuple[str, str, float, Mapping[str, float]]]) -> dict[str, list[dict[str, Any]]]:
    """The records that `by_density` draws, of (panel, arm, density in percent, fields that are drawn), as `interval`
    has those: each arm once at each density.

    >>> in_panels([("gap", "ticket", 20.0, {"value": 1.0}), ("gap", "ticket", 20.0, {"value": 1.0})])
    {'gap': [{'arm': 'ticket', 'density': 20.0, 'value': 1.0}]}
    """
    panels: dict[str, dict[tuple[str, float], Mapping[str, float]]] = {}
    for title, arm, density, fields in points:
        panels.setdefault(title, {})[arm, density] = fields
    return {
        title: [{"arm": arm, "density": density, **fields} for (arm, density), fields in own.items()]
        for title, own in panels.items()
    }


def bars(
    records: Sequence[dict[str, Any]], x: Any, fields: Mapping[str, str], marks: Mapping[str, Mark]
) -> VegaLiteSpec:
    """A bar for each arm, side by side at each place of the axis, in a panel for each field.

    Args:
        records: each with `arm`, the field of the axis, and those that are drawn.
        x: the axis, of altair.
        fields: what is drawn -> what stands beside its axis.
        marks: by arm, whose colours the bars have.
    """
    import altair as alt

    arms = list(dict.fromkeys(record["arm"] for record in records))
    charts = [
        alt.Chart(alt.NamedData("bars"))
        .mark_bar()
        .encode(
            x=x,
            xOffset=alt.XOffset("arm:N", sort=arms),
            y=alt.Y(f"{field}:Q", title=title),
            color=arm_colour(arms, marks),
        )
        .properties(width=280, height=240)
        for field, title in fields.items()
    ]
    return styled(alt.hconcat(*charts), {"bars": list(records)})


def render(spec: VegaLiteSpec) -> tuple[str, bytes]:
    """A figure as SVG and as PNG at twice the screen's resolution."""
    import vl_convert

    svg = vl_convert.vegalite_to_svg(spec)
    # Without this, light shines between the pixels of an image.
    svg = svg.replace('<g class="mark-rect', '<g shape-rendering="crispEdges" class="mark-rect')
    return svg, vl_convert.svg_to_png(svg, scale=2)
