"""Anatomy: where the surviving weights began, how far they move, how they are spread over units and layers.

The numbers are those of `tombola.study.anatomy`. How many signs change is asked by the study of signs.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import mean
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from tombola import models
from tombola.charts import Figure, VegaLiteSpec, arm_colour, styled
from tombola.errors import Fault
from tombola.lab.fields import Arms, Levels
from tombola.lab.kinds import Measured, Measurement, Seen
from tombola.lab.studies import checks
from tombola.lab.studies.signs import beginnings
from tombola.lab.studies.study import (
    Answer,
    Evidence,
    Finding,
    Marks,
    Question,
    Series,
    Setting,
    Study,
    grouped,
)
from tombola.mark import Mark
from tombola.value import Value

if TYPE_CHECKING:
    from tombola.study.anatomy import Beside

MOST_DRAWN = 6  # layers side by side
INPUTS = "inputs"
ERK, UNIFORM = "Erdős-Rényi-Kernel", "uniform"


class Anatomy(Measurement):
    """What App. F of The Lottery Ticket Hypothesis counts in each layer of a network, and its dead ends."""

    name: Literal["anatomy"] = "anatomy"

    def of(self, seen: Seen) -> dict[str, Any]:
        """By layer, and of the inputs; what lies on a path where that is known."""
        from tombola.layers import layouts
        from tombola.study import anatomy

        matrices = {name: alive.numpy() for name, alive in seen.mask.items() if alive.ndim > 1 and alive.any()}
        laid_out, densities = layouts(seen.model), anatomy.layer_densities(matrices)
        layers: dict[str, Any] = {}
        for name, alive in matrices.items():
            initial, dense, trained = (
                seen.others[which][name].double().numpy() for which in ("initial", "dense initial", "dense")
            )
            density = densities[name]
            layers[name] = {
                "begin": anatomy.beginnings(initial, alive),
                "moves": None if alive.all() else anatomy.moves(dense, trained, alive, float(initial.std()) or 1.0),
                "degrees": anatomy.degrees(alive, laid_out[name]) if name in laid_out else None,
                "density": [density["density"], density["ERK"]],
                "uniform": density["uniform"],
            }
        if models.chain(seen.recipe.model):
            _add_paths(layers, seen)
        return {"layers": layers}


def _add_paths(layers: dict[str, Any], seen: Seen) -> None:
    """Add the shares of living weights that lie on a path, and of units that lie on none, the inputs too."""
    from tombola.mask import random_like
    from tombola.study import anatomy, paths

    masks = seen.mask, random_like(seen.mask, seen.seed)
    links = [paths.of_model(mask, seen.model) for mask in masks]
    on = [
        anatomy.on_paths({name: mask[name].numpy() for name in mask if name in each}, each)
        for mask, each in zip(masks, links, strict=True)
    ]
    dead = [anatomy.dead_units(list(each.values())) for each in links]
    for name in layers:
        layers[name]["effective"] = [each[name] for each in on]
    for place, name in enumerate([INPUTS, *links[0]]):
        layers.setdefault(name, {})["dead"] = [each[place] for each in dead]


class AnatomySpec(Value):
    """Where surviving weights began, how far they move, how they are spread over units and layers: `study.anatomy`.

    Attributes:
        arms: whose networks, the first beside all others; those of the spec, of controls the first draw.
    """

    levels: Levels = Field(min_length=1)
    arms: Arms = Field(default=("ticket",), min_length=1)


def faults(table: AnatomySpec, setting: Setting) -> Iterator[Fault]:
    """What of the table the experiment cannot answer."""
    yield from checks.levels("anatomy", table.levels, setting, least=1, of_trained=True)
    yield from checks.arms("anatomy", table.arms, setting)


def questions(table: AnatomySpec, series: Series) -> Iterator[Question]:
    """Look into each network: beside what it began with, and how the dense network went."""
    replicate, dense = series.replicate, series.tickets[0]
    k = replicate.rewind_step
    for level in table.levels:
        for arm in table.arms:
            training = series.training(arm, level)
            (*_, (_, initial)), (*_, (_, first)) = beginnings(training, k), beginnings(dense, k)
            further = {"initial": initial, "dense initial": first, "dense": dense}
            run = Measured.of(Anatomy(), training, replicate.seed(f"anatomy {arm} {level}"), further)
            yield Question("anatomy", arm, replicate.number, level, k, run, training)


@dataclass(frozen=True)
class AnatomyFinding(Finding):
    """What one thing that is asked of all layers comes to, of one arm at one level and rewind step.

    Attributes:
        aspect: what is asked.
        leading: whether it is what people want first: of the first arm at the last level.
        drawn: by layer, what is drawn of it: histograms over all replicates, quantiles, densities.
    """

    study: ClassVar[str] = "anatomy"
    aspect: str
    arm: str
    level: int
    density: float
    layers: "tuple[Beside, ...]"
    drawn: Mapping[str, Any]
    leading: bool

    @property
    def headline(self) -> bool:
        return self.leading


def findings(table: AnatomySpec, evidence: Evidence) -> Iterator[AnatomyFinding]:
    """All that is asked, wherever an arm has answers."""
    from tombola.study.anatomy import ASPECTS, compared, sentence

    groups = grouped(evidence.answers, lambda question: (question.rewind, question.level, question.arm))
    last, first = max(table.levels), table.arms[0]
    for (rewind, level, arm), answers in groups.items():
        density, found = mean(answer.density for answer in answers), _layers(answers)
        other = {} if arm == first else _layers(groups.get((rewind, level, first), []))
        for aspect in ASPECTS:
            layers = compared(aspect, found, evidence.confidence, other)
            if layers:
                drawn = _DRAWN[aspect.name](list(found.values())) if aspect.name in _DRAWN else {}
                reason = sentence(aspect, density, arm, layers, first)
                leading = level == last and arm == first
                yield AnatomyFinding(
                    aspect.name, arm, level, density, layers, drawn, leading, rewind=rewind, reason=reason
                )


def _layers(answers: Sequence[Answer]) -> dict[int, dict[str, Any]]:
    return {answer.question.replicate: answer.values["layers"] for answer in answers}


# ---------------------------------------------------------------- what is drawn


def _by_layer(found: Sequence[Mapping[str, Any]], part: str) -> dict[str, list[Any]]:
    """What the replicates that have it counted of each layer."""
    layers = dict.fromkeys(name for each in found for name in each)
    counted = {name: [each[name][part] for each in found if each.get(name, {}).get(part)] for name in layers}
    return {name: some for name, some in counted.items() if some}


def _begun(found: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    from tombola.study.anatomy import pooled

    each = _by_layer(found, "begin")
    return {name: asdict(pooled([one["histogram"] for one in some])) for name, some in each.items()}


def _moved(name: str, found: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    from tombola.study.anatomy import pooled

    each = _by_layer(found, "moves")
    return {layer: asdict(pooled([one["histograms"][name] for one in some])) for layer, some in each.items()}


def _spread(side: str, found: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    from tombola.study.anatomy import averaged

    each = _by_layer(found, "degrees")
    return {
        layer: {part: averaged([one[side][part] for one in some]) for part in ("kept", "chance")}
        for layer, some in each.items()
    }


def _uniform(found: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    return {layer: {"uniform": mean(some)} for layer, some in _by_layer(found, "uniform").items()}


_DRAWN = {
    "beginnings": _begun,
    "moved": lambda found: _moved("moved", found),
    "grown": lambda found: _moved("grown", found),
    "in-degrees": lambda found: _spread("into", found),
    "out-degrees": lambda found: _spread("out of", found),
    "density": _uniform,
}


_SIDES = {"in-degrees": "into units", "out-degrees": "out of inputs"}


def figures(findings: Sequence[AnatomyFinding], marks: Marks) -> dict[str, Figure]:
    """Small multiples, a panel for each arm, level and layer; and the densities of the layers."""
    by_aspect = {name: [each for each in findings if each.aspect == name and each.drawn] for name in _DRAWN}
    made = {
        "anatomy": (
            _histograms(by_aspect["beginnings"], marks, "initial weight, in deviations of its layer"),
            "Where the weights of each layer begin that a mask keeps (bars), and all others (line).",
        ),
        "anatomy-moves": (
            _histograms(by_aspect["moved"], marks, "distance from the initial weight, in deviations"),
            "How far weights move when the dense network is trained: those that a mask keeps (bars), and all others "
            "(line).",
        ),
        "anatomy-growth": (
            _histograms(by_aspect["grown"], marks, "growth of the magnitude, in deviations"),
            "By how much magnitudes grow when the dense network is trained: of the weights that a mask keeps (bars), "
            "and of all others (line).",
        ),
        "anatomy-degrees": (
            _degrees(by_aspect["in-degrees"] + by_aspect["out-degrees"], marks),
            "What share of its weights each unit of a layer keeps, and each of its inputs, in order (lines), and what "
            "they keep in a random mask (dashed).",
        ),
        "anatomy-density": (
            _densities(by_aspect["density"], marks),
            "The density of each layer, from the inputs on, beside Erdős-Rényi-Kernel and the same for all layers.",
        ),
    }
    return {name: Figure(spec, caption) for name, (spec, caption) in made.items() if spec["datasets"]}


def _titled(finding: AnatomyFinding, several: bool) -> str:
    step = f", k = {finding.rewind:,}" if several else ""
    return f"{finding.arm}, {100 * finding.density:.3g} %{step}"


def _several(findings: Sequence[AnatomyFinding]) -> bool:
    return len({finding.rewind for finding in findings}) > 1


def _some(layers: Mapping[str, Any]) -> list[str]:
    """At most `MOST_DRAWN` of the layers, the first and the last ones among them."""
    names = list(layers)
    return names if len(names) <= MOST_DRAWN else [*names[: MOST_DRAWN // 2], *names[-MOST_DRAWN // 2 :]]


def _histograms(findings: Sequence[AnatomyFinding], marks: Marks, title: str) -> VegaLiteSpec:
    import altair as alt

    data: dict[str, list[dict[str, Any]]] = {}
    rows = []
    for finding in findings:
        row = []
        for layer in _some(finding.drawn):
            name = f"{_titled(finding, _several(findings))}: {layer.removesuffix('.weight')}"
            data[name] = _bins(finding.drawn[layer])
            base = alt.Chart(alt.NamedData(name), title=name).encode(x=alt.X("from:Q", title=title))
            bars = base.mark_area(color=marks[finding.arm].colour, opacity=0.6, interpolate="step-after").encode(
                y=alt.Y("kept:Q", title="share in each bin (%)")
            )
            line = base.mark_line(color="#000000", interpolate="step-after", strokeWidth=1).encode(y="rest:Q")
            row.append(alt.layer(bars, line).properties(width=200, height=110))
        rows.append(alt.hconcat(*row))
    return styled(alt.vconcat(*rows), data)


def _bins(histogram: Mapping[str, Any]) -> list[dict[str, float]]:
    """Where each bin begins, and the share in percent that lies in it, of what is kept and of the rest."""
    bins, low = len(histogram["kept"]), histogram["low"]
    width = (histogram["high"] - low) / bins
    totals = {part: max(sum(histogram[part]), 1) for part in ("kept", "rest")}
    return [
        {"from": low + width * place} | {part: 100 * histogram[part][place] / total for part, total in totals.items()}
        for place in range(bins)
    ]


def _degrees(findings: Sequence[AnatomyFinding], marks: Marks) -> VegaLiteSpec:
    """All arms in one panel for each level and layer, and chance beside the first."""
    import altair as alt

    colour = arm_colour(list(dict.fromkeys(finding.arm for finding in findings)), marks)
    data: dict[str, list[dict[str, Any]]] = {}
    rows: dict[tuple[str, int, int], list[str]] = {}
    for finding in findings:
        step = f", k = {finding.rewind:,}" if _several(findings) else ""
        for layer in _some(finding.drawn):
            of = f"{_SIDES[finding.aspect]} of {layer.removesuffix('.weight')}"
            name = f"{100 * finding.density:.3g} %{step}: {of}"
            row = rows.setdefault((finding.aspect, finding.rewind, finding.level), [])
            row += [name] if name not in row else []
            kept, chance = finding.drawn[layer]["kept"], finding.drawn[layer]["chance"]
            data.setdefault(name, []).extend(
                {"arm": finding.arm, "units": 100 * (place + 0.5) / len(kept), "kept": 100 * one, "chance": 100 * other}
                for place, (one, other) in enumerate(zip(kept, chance, strict=True))
            )

    def panel(name: str) -> alt.LayerChart | alt.FacetChart:
        base = alt.Chart(alt.NamedData(name), title=name).encode(
            x=alt.X("units:Q", title="the least connected first (%)")
        )
        line = base.mark_line().encode(y=alt.Y("kept:Q", title="weights kept (%)"), color=colour)
        dashed = base.mark_line(color="#000000", strokeDash=[3, 3]).encode(y=alt.Y("mean(chance):Q"))
        return alt.layer(line, dashed, width=200, height=110)

    return styled(alt.vconcat(*(alt.hconcat(*map(panel, names)) for names in rows.values())), data)


def _densities(findings: Sequence[AnatomyFinding], marks: Marks) -> VegaLiteSpec:
    import altair as alt

    data: dict[str, list[dict[str, Any]]] = {}
    for finding in findings:
        step = f", k = {finding.rewind:,}" if _several(findings) else ""
        panel = data.setdefault(f"level {finding.level}: {100 * finding.density:.3g} % remain{step}", [])
        for each in finding.layers:
            layer = each.layer.removesuffix(".weight")
            beside = {ERK: each.beside.mean, UNIFORM: finding.drawn[each.layer]["uniform"]}
            named = {finding.arm: each.own.mean} | (beside if finding.arm == findings[0].arm else {})
            panel += [{"layer": layer, "of": name, "density": 100 * value} for name, value in named.items() if value]
    arms = {name: marks[name] for name in dict.fromkeys(finding.arm for finding in findings)}
    lines = arms | {ERK: Mark("#888888", (1, 0), "square"), UNIFORM: Mark("#bbbbbb", (1, 0), "square")}
    colours = alt.Scale(domain=list(lines), range=[mark.colour for mark in lines.values()])
    dashes = alt.Scale(domain=list(lines), range=[mark.dash for mark in lines.values()])
    charts = [
        alt.Chart(alt.NamedData(name), title=name)
        .mark_line(point=True)
        .encode(
            x=alt.X("layer:N", sort=None, title=None),
            y=alt.Y("density:Q", title="weights remaining (%)", scale=alt.Scale(type="log", nice=False)),
            color=alt.Color("of:N", sort=list(lines), title=None, scale=colours),
            strokeDash=alt.StrokeDash("of:N", sort=list(lines), title=None, scale=dashes),
        )
        .properties(width=280, height=200)
        for name in data
    ]
    return styled(alt.concat(*charts, columns=2), data)


STUDY = Study(
    name="anatomy",
    table=AnatomySpec,
    questions=questions,
    findings=findings,
    figures=figures,
    faults=faults,
    about="Where did the weights begin that survive, how far do they move, and how are they spread over the network?",
    paper="[The Lottery Ticket Hypothesis](https://arxiv.org/abs/1803.03635), App. F",
    year=2019,
    rest="the anatomy of the other arms, and at the other levels",
    example="study.anatomy.levels=5",
    of_weights=True,
)
