"""Overlap: how alike are the masks of two replicates' tickets, layer by layer, beside chance?

The numbers are those of `tombola.study.overlap`, whose page has the formulas. The masks are those of the table, so
nothing is asked that would need a run of its own.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import mean
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from tombola.charts import Figure, styled
from tombola.errors import Fault
from tombola.lab.fields import Levels
from tombola.lab.studies import checks
from tombola.lab.studies.study import Evidence, Finding, Marks, Question, Series, Setting, Study
from tombola.value import Value

if TYPE_CHECKING:
    from tombola.study.overlap import Overlap


class OverlapSpec(Value):
    """How alike the masks of two replicates' tickets are, layer by layer, beside chance: `study.overlap`."""

    levels: Levels = Field(min_length=1)


def faults(table: OverlapSpec, setting: Setting) -> Iterator[Fault]:
    """What of the table the experiment cannot answer."""
    yield from checks.levels("overlap", table.levels, setting, least=1)
    if (replicates := setting.spec.all_replicates) < 2:
        yield Fault("study.overlap", "two replicates at least, whose masks are compared", str(replicates))


def questions(table: OverlapSpec, series: Series) -> Iterator[Question]:
    """Nothing beside the masks that the table has anyway."""
    yield from ()


@dataclass(frozen=True)
class OverlapFinding(Finding):
    """How far the masks of every two replicates' tickets overlap at one level and rewind step, layer by layer."""

    study: ClassVar[str] = "overlap"
    level: int
    density: float
    layers: "tuple[Overlap, ...]"


def findings(table: OverlapSpec, evidence: Evidence) -> Iterator[OverlapFinding]:
    """How far the masks overlap, wherever two replicates have theirs."""
    from tombola.study.overlap import averaged, overlaps, sentence

    for level in table.levels:
        for step in map(evidence.spec.iterations, evidence.spec.rewind):
            masks = evidence.masks("ticket", level, step)
            pairs = [overlaps(left, right) for left, right in combinations(masks, 2)]
            if pairs:
                density = mean(mask.density for mask in masks)
                reason = sentence("tickets of different replicates", density, pairs)
                yield OverlapFinding(level, density, tuple(averaged(pairs)), rewind=step, reason=reason)


def figures(findings: Sequence[OverlapFinding], marks: Marks) -> dict[str, Figure]:
    """The overlap of each layer as a bar, and that of chance as a tick."""
    caption = (
        "How far the masks of different replicates' tickets overlap in each layer (bars), and how far masks of "
        "that size do by chance (ticks)."
    )
    return {"overlap": Figure(_bars(findings, marks["ticket"].colour), caption)}


def _bars(findings: Sequence[OverlapFinding], colour: str) -> dict[str, Any]:
    import altair as alt

    several = len({finding.rewind for finding in findings}) > 1
    data, charts = {}, []
    for finding in findings:
        name = f"{100 * finding.density:.3g} % remain" + (f", k = {finding.rewind:,}" if several else "")
        data[name] = [
            {"layer": layer.name.removesuffix(".weight"), "overlap": layer.overlap, "chance": layer.chance}
            for layer in finding.layers
        ]
        base = alt.Chart(alt.NamedData(name), title=name).encode(y=alt.Y("layer:N", sort=None, title=None))
        bars = base.mark_bar(color=colour).encode(
            x=alt.X("overlap:Q", title="overlap (Jaccard)", scale=alt.Scale(domain=[0, 1]))
        )
        ticks = base.mark_tick(color="#000000", thickness=2, size=12).encode(x="chance:Q")
        charts.append(alt.layer(bars, ticks).properties(width=220, height=14 * len(finding.layers)))
    return styled(alt.concat(*charts, columns=2), data)


STUDY = Study(
    name="overlap",
    table=OverlapSpec,
    questions=questions,
    findings=findings,
    figures=figures,
    faults=faults,
    about="How far do the masks of two replicates' tickets overlap in each layer, and how far would they by chance?",
    paper="[How Many Winning Tickets Are There in One DNN?](https://arxiv.org/abs/2006.07014)",
    year=2020,
    example="study.overlap.levels=5",
)
