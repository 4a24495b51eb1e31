"""What all figures share: one style, and one way to files."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from tombola.mark import Mark

VegaLiteSpec = dict[str, Any]


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
        )
        .configure_title(fontSize=13, fontWeight="normal")
        .configure_view(stroke="#bbbbbb")
    )
    # Not validated: that takes longer than all the rest. The tests do it.
    return {**styled.to_dict(validate=False), "datasets": datasets}


def by_density(
    panels: dict[str, list[dict[str, Any]]], field: str, title: str, marks: Mapping[str, Mark]
) -> VegaLiteSpec:
    """One line for each arm against the weights remaining, in a panel for each data set.

    Args:
        panels: title -> records, each with `arm`, `density` in percent, and the field that is drawn.
        field, title: what is drawn, and what stands beside its axis.
        marks: by arm, whose colours the lines have.
    """
    import altair as alt

    arms = list(dict.fromkeys(record["arm"] for records in panels.values() for record in records))
    colours = alt.Scale(domain=arms, range=[marks[arm].colour for arm in arms])
    charts = [
        alt.Chart(alt.NamedData(name), title=name)
        .mark_line(point=True)
        .encode(
            x=alt.X("density:Q", title="weights remaining (%)", scale=alt.Scale(type="log", reverse=True)),
            y=alt.Y(f"{field}:Q", title=title),
            color=alt.Color("arm:N", sort=arms, title=None, scale=colours),
        )
        .properties(width=280, height=220)
        for name in panels
    ]
    return styled(alt.concat(*charts, columns=2), panels)


def render(spec: VegaLiteSpec) -> tuple[str, bytes]:
    """A figure as SVG and as PNG at twice the screen's resolution."""
    import vl_convert

    svg = vl_convert.vegalite_to_svg(spec)
    # Without this, light shines between the pixels of an image.
    svg = svg.replace('<g class="mark-rect', '<g shape-rendering="crispEdges" class="mark-rect')
    return svg, vl_convert.svg_to_png(svg, scale=2)
