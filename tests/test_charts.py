"""What figures that studies share show: each arm by colour, dash and shape, means with bars, room around points."""

from typing import Any

import altair as alt
import pytest

from tombola.charts import Drawn, apart, by_density, interval, lines, ticks
from tombola.controls import CONTROLS
from tombola.lab.studies import ensemble
from tombola.mark import DENSE, TICKET, Mark, marks
from tombola.methods import METHODS
from tombola.study.paired import paired

ARMS = marks({"random": CONTROLS["random"].mark, "reinit": CONTROLS["reinit"].mark})
PANEL = [
    {"arm": arm, "density": density, "value": 50 + place + density / 10, "low": 40.0, "high": 70.0}
    for place, arm in enumerate(("ticket", "random", "reinit"))
    for density in (50.0, 20.0)
] + [{"arm": "dense", "density": 100.0, "value": 60.0}]


def everything(value: Any, name: str) -> list[Any]:
    """All that has this name, however deep it lies."""
    if isinstance(value, list):
        return [found for one in value for found in everything(one, name)]
    if not isinstance(value, dict):
        return []
    own = [value[name]] if name in value else []
    return own + [found for one in value.values() for found in everything(one, name)]


def layers(spec: dict[str, Any], mark: str) -> list[dict[str, Any]]:
    """The layers with marks of a kind, of all panels and the key."""
    found = [layer for parts in everything(spec, "layer") for layer in parts]
    return [layer for layer in found if layer["mark"]["type"] == mark]


def test_arms_differ_by_colour_dash_and_shape_and_the_key_shows_all_three() -> None:
    spec = by_density({"one": PANEL, "other": PANEL}, "value", "value", ARMS)
    alt.Chart.from_dict(spec, validate=True)
    channels = [one for name in ("color", "strokeDash", "shape") for one in everything(spec, name)]
    drawn = [one for one in channels if isinstance(one, dict)]  # the rest are constants
    assert drawn and all(one["legend"] is None for one in drawn), "the key is the legend"
    for name, parts in (("strokeDash", "dash"), ("shape", "shape"), ("color", "colour")):
        expected = [getattr(ARMS[arm], parts) for arm in ("ticket", "random", "reinit", "dense")]
        ranges = [one["scale"]["range"] for one in everything(spec, name) if isinstance(one, dict)]
        assert len(ranges) > 2 and all(
            range_ == [list(e) if parts == "dash" else e for e in expected] for range_ in ranges
        )
    assert spec["datasets"]["key"] == [{"arm": arm} for arm in ("ticket", "random", "reinit", "dense")]
    assert {"arm": "dense"} not in spec["datasets"]["key of lines"], "a point alone has no line"
    assert not any(layer["mark"]["filled"] for layer in layers(spec, "point")), "one under another one is seen"


@pytest.mark.parametrize("other", [METHODS["lr-rewind"].mark, CONTROLS["distilled"].mark, CONTROLS["random"].mark])
def test_smoothed_has_a_colour_that_none_of_those_beside_it_has(other: Mark | None) -> None:
    mine = CONTROLS["smoothed"].mark
    assert mine and other
    one, two = ([int(mark.colour[place : place + 2], 16) for place in (1, 3, 5)] for mark in (mine, other))
    assert sum(abs(a - b) for a, b in zip(one, two, strict=True)) > 100


@pytest.mark.parametrize(("values", "known"), [([0.5, 0.7], True), ([0.5], False)])
def test_a_bar_is_the_interval_where_it_is_known_and_ends_where_values_do(values: list[float], known: bool) -> None:
    mean = paired(values, 0.95)
    drawn = interval("share", mean, 100, within=(0, 1))
    assert drawn["share"] == pytest.approx(100 * sum(values) / len(values))
    assert {"low", "high"} <= drawn.keys() if known else drawn.keys() == {"share"}
    if known:
        assert (drawn["low"], drawn["high"]) == (0, 100), "n = 2 knows little"
        assert interval("share", mean)["high"] == mean.high > 1


def test_bars_far_longer_than_the_others_do_not_flatten_them() -> None:
    records = [
        {"arm": "ticket", "x": x, "value": 10.0 + x, "low": 9.0 + x - wide, "high": 11.0 + x + wide}
        for x, wide in ((1, 0), (2, 0), (3, 100))
    ]
    spec = lines({"panel": records}, alt.X("x:Q"), Drawn("value", "value"), ARMS)
    bars = [(one["low"], one["high"]) for one in spec["datasets"]["panel"]]
    assert bars == [(10, 12), (11, 13), (10, 13)]


def test_arms_of_one_level_stand_side_by_side_and_far_from_the_next_one() -> None:
    moved = apart(PANEL)
    for density, low, high in ((50.0, 50 / 1.08, 50 * 1.08), (20.0, 20 / 1.08, 20 * 1.08)):
        own = [after["density"] for before, after in zip(PANEL, moved, strict=True) if before["density"] == density]
        assert len(set(own)) == 3 and low < min(own) < density < max(own) < high
    assert moved[-1] == PANEL[-1], "dense is dense"
    assert apart(PANEL[:2]) == PANEL[:2], "alone"


@pytest.mark.parametrize(("across", "scale", "drawn"), [(65, {}, True), (5, {}, True), (95, {}, False)])
def test_a_line_across_is_drawn_where_the_panel_reaches_around_it(across: float, scale: Any, drawn: bool) -> None:
    spec = by_density({"panel": PANEL}, "value", "value", ARMS, across, **scale)
    assert any(layer.get("data") == {"name": "across"} for layer in layers(spec, "rule")) is drawn
    narrow = by_density({"panel": PANEL}, "value", "value", ARMS, across, zero=False)
    assert any(layer.get("data") == {"name": "across"} for layer in layers(narrow, "rule")) is (across == 65)
    whole = by_density({"panel": PANEL}, "value", "value", ARMS, across, domain=[0, 100])
    assert any(layer.get("data") == {"name": "across"} for layer in layers(whole, "rule"))


@pytest.mark.parametrize(("low", "high"), [(0.1, 2.0), (2.5, 6.2), (4.9, 5.1), (0.004, 30), (0.97, 1.03)])
def test_ticks_are_round_and_several(low: float, high: float) -> None:
    found = ticks(low, high)
    assert 3 <= len(found) <= 13 and low <= found[0] and found[-1] <= high
    assert found == sorted(set(found)) and (1 in found or not low <= 1 <= high)


def test_the_dense_network_and_the_ticket_look_among_ensembles_as_everywhere() -> None:
    looks = ensemble._looks()
    kinds = [looks[ensemble.CALLED.get(kind, kind)] for kind in ensemble.KINDS]
    assert (looks["dense"], looks["ticket"]) == (DENSE, TICKET)
    assert len({look.colour for look in (DENSE, TICKET, *kinds)}) == 2 + len(ensemble.KINDS)
