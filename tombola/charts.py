"""What all figures share: one style, and one way to files."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from tombola.mark import Mark

VegaLiteSpec = dict[str, Any]
NEAR = 1.05  # densities that differ by less are those of one level


class Figure(NamedTuple):
    """A figure as a Vega-Lite specification that holds its data, and its caption."""

    spec: VegaLiteSpec
    caption: str


def styled(chart: Any, datasets: dict[str, list[dict[str, Any]]]) -> VegaLiteSpec:
    """The chart, in which data sets are only named, as a specification that holds them: altair would copy each many
    times over."""
    styled = (
        chart.configure(font="Helvetica, Arial, sans-serif", background="white")
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
    # Not validated: that takes longer than all the rest. The tests do it.
    return {**styled.to_dict(validate=False), "datasets": datasets}


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
        ),
        axis=alt.Axis(values=thin, format="~r", grid=True),
        title="weights remaining (%), log scale",
    )


def arm_colour(arms: Sequence[str], marks: Mapping[str, Mark]) -> Any:
    """The field `arm` as a colour, with a legend in this order."""
    import altair as alt

    return alt.Color(
        "arm:N", sort=arms, title=None, scale=alt.Scale(domain=arms, range=[marks[arm].colour for arm in arms])
    )


def lines(
    panels: Mapping[str, list[dict[str, Any]]], x: Any, y: Any, marks: Mapping[str, Mark], points: bool = True
) -> VegaLiteSpec:
    """One line for each arm, in a panel for each data set.

    Args:
        panels: title -> records, each with `arm` and the fields of the axes.
        x, y: the axes, of altair.
        marks: by arm, whose colours the lines have.
        points: whether each record is a dot on its line.
    """
    import altair as alt

    arms = list(dict.fromkeys(record["arm"] for records in panels.values() for record in records))
    charts = [
        alt.Chart(alt.NamedData(name), title=name)
        .mark_line(point=points)
        .encode(x=x, y=y, color=arm_colour(arms, marks))
        .properties(width=280, height=220)
        for name in panels
    ]
    return styled(alt.concat(*charts, columns=2), dict(panels))


def by_density(
    panels: Mapping[str, list[dict[str, Any]]],
    field: str,
    title: str,
    marks: Mapping[str, Mark],
    **scale: Any,
) -> VegaLiteSpec:
    """One line for each arm against the weights remaining, in a panel for each data set.

    Args:
        panels: title -> records, each with `arm`, `density` in percent, and the field that is drawn.
        field, title: what is drawn, and what stands beside its axis.
        marks: by arm, whose colours the lines have.
        scale: of altair, of what is drawn: `domain=[0, 100]` or `zero=False`, say.
    """
    import altair as alt

    x = density_axis([record["density"] for records in panels.values() for record in records], most=6)
    return lines(panels, x, alt.Y(f"{field}:Q", title=title, scale=alt.Scale(**scale)), marks)


def in_panels(points: Iterable[tuple[str, str, float, float]], field: str) -> dict[str, list[dict[str, Any]]]:
    """The records that `by_density` draws, of (panel, arm, density in percent, value): each arm once at each density.

    >>> in_panels([("gap", "ticket", 20.0, 1.0), ("gap", "ticket", 20.0, 1.0)], "value")
    {'gap': [{'arm': 'ticket', 'density': 20.0, 'value': 1.0}]}
    """
    panels: dict[str, dict[tuple[str, float], float]] = {}
    for title, arm, density, value in points:
        panels.setdefault(title, {})[arm, density] = value
    return {
        title: [{"arm": arm, "density": density, field: value} for (arm, density), value in own.items()]
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
