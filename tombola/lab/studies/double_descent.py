"""Double descent: does the test accuracy at the end fall, rise above the dense network's and fall again as weights go?

The numbers are in the table. Where a share of the training labels is false, `recipe.label_noise`, dense networks learn
the false ones, too; the study asks at which densities that ends, and what comes before.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import mean
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import Field

from tombola.charts import Figure, arm_colour, density_axis, styled
from tombola.data.label_noise import number_false
from tombola.errors import Fault
from tombola.lab.fields import Arms, Levels
from tombola.lab.row import Row
from tombola.lab.studies import checks
from tombola.lab.studies.study import Evidence, Finding, Marks, Question, Series, Setting, Study
from tombola.value import Value

if TYPE_CHECKING:
    from tombola.study.double_descent import Descent

LEAST = 2  # levels behind the dense network: a dip and a peak


class DoubleDescentSpec(Value):
    """Whether accuracy falls, rises and falls again as weights go: `study.double_descent`.

    Attributes:
        levels: of the curve, beside the dense network; None for all.
        arms: whose curves; those of the spec, of controls the first draw.
    """

    levels: Annotated[Levels, Field(min_length=1)] | None = None
    arms: Arms = ("ticket",)


def faults(table: DoubleDescentSpec, setting: Setting) -> Iterator[Fault]:
    """What of the table the experiment cannot answer."""
    given = _levels(table, setting.spec.levels)
    yield from checks.levels("double_descent", given, setting, least=1, of_trained=True)
    if len(given) < LEAST <= setting.spec.levels:
        yield Fault("study.double_descent.levels", "two levels at least, for a dip and a peak", str(list(given)))
    elif setting.spec.levels < LEAST:
        yield Fault("study.double_descent", "a spec with levels >= 2", f"levels = {setting.spec.levels}")
    yield from checks.arms("double_descent", table.arms, setting)


def _levels(table: DoubleDescentSpec, most: int) -> tuple[int, ...]:
    return tuple(range(1, most + 1)) if table.levels is None else tuple(sorted(table.levels))


def questions(table: DoubleDescentSpec, series: Series) -> Iterator[Question]:
    """Nothing beside the trainings that the table has anyway."""
    yield from ()


@dataclass(frozen=True)
class DescentFinding(Finding):
    """The curve of an arm at one rewind step.

    Attributes:
        levels: of the curve, beside the dense network.
        densities: P_m of each level, the dense network first.
        test, training: mean accuracies at the end.
        clean: the share of the training labels that is true; None where all are.
        measure: accuracy, or what stands in its place.
    """

    study: ClassVar[str] = "double_descent"
    arm: str
    levels: tuple[int, ...]
    densities: tuple[float, ...]
    training: tuple[float, ...]
    clean: float | None
    descent: "Descent"
    measure: str


def findings(table: DoubleDescentSpec, evidence: Evidence) -> Iterator[DescentFinding]:
    """Each arm's curve, by the replicates that have all of its levels."""
    from tombola.study.double_descent import descent, sentence

    spec = evidence.spec
    levels, grain = (0, *_levels(table, spec.levels)), spec.facts.grain(spec.facts.test)
    for rewind in map(spec.iterations, spec.rewind):
        for arm in table.arms:
            curves = _curves(evidence, arm, rewind, levels)
            if curves:
                test = {number: [row["final_test_accuracy"] for row in rows] for number, rows in curves.items()}
                trained, densities = (
                    tuple(mean(row[name] for row in level) for level in zip(*curves.values(), strict=True))
                    for name in ("final_train_accuracy", "density")
                )
                found, clean = descent(test, evidence.confidence, grain), _clean(evidence)
                said = sentence(found, densities, trained, arm, clean, spec.facts.measure)
                yield DescentFinding(
                    arm,
                    levels[1:],
                    densities,
                    trained,
                    clean,
                    found,
                    spec.facts.measure,
                    rewind=rewind,
                    reason=said,
                )


def _curves(evidence: Evidence, arm: str, rewind: int, levels: Sequence[int]) -> dict[int, list[dict[str, Any]]]:
    """By replicate that has them all, what the trainings of each level came to."""
    found: dict[int, dict[int, dict[str, Any]]] = {}
    for row in evidence.rows:
        if row.run.key in evidence.done and row.draw == 0 and row.rewind == rewind and _of_curve(row, arm):
            values = evidence.store.values(row.run)
            found.setdefault(row.replicate, {})[row.level] = {**values, "density": values["alive"] / values["total"]}
    return {
        number: [own[level] for level in levels] for number, own in found.items() if all(each in own for each in levels)
    }


def _of_curve(row: Row, arm: str) -> bool:
    return row.arm == ("dense" if row.level == 0 else arm)


def _clean(evidence: Evidence) -> float | None:
    facts = evidence.spec.facts
    false = number_false(facts)
    return 1 - false / facts.train if false else None


def figures(findings: Sequence[DescentFinding], marks: Marks) -> dict[str, Figure]:
    """Test and training accuracy against the density, with the dense network's and the share of true labels."""
    caption = (
        "Accuracy at the end of training, as means over replicates. Dashed: the dense network's test accuracy. "
        "Dotted: the share of training labels that is true."
    )
    return {"double_descent": Figure(_lines(findings, marks), caption)}


def _lines(findings: Sequence[DescentFinding], marks: Marks) -> dict[str, Any]:
    import altair as alt

    colour = arm_colour(list(dict.fromkeys(finding.arm for finding in findings)), marks)
    data: dict[str, list[dict[str, Any]]] = {}
    charts = []
    for rewind in dict.fromkeys(finding.rewind for finding in findings):
        for what in ("test", "training"):
            name = f"{what}, k = {rewind:,}" if rewind else what
            own = [finding for finding in findings if finding.rewind == rewind]
            data[name] = [
                {"arm": finding.arm, "density": 100 * density, "accuracy": 100 * accuracy}
                for finding in own
                for density, accuracy in zip(finding.densities, _accuracies(finding, what), strict=True)
            ]
            level = own[0].descent.curve[0] if what == "test" else own[0].clean
            data[f"{name}, held against"] = [] if level is None else [{"accuracy": 100 * level}]
            line = (
                alt.Chart(alt.NamedData(name), title=name)
                .mark_line(point=True)
                .encode(
                    x=density_axis([record["density"] for record in data[name]]),
                    y=alt.Y("accuracy:Q", title=f"{what} {own[0].measure} at the end (%)", scale=alt.Scale(zero=False)),
                    color=colour,
                )
            )
            dash = [4, 4] if what == "test" else [1, 3]
            rule = alt.Chart(alt.NamedData(f"{name}, held against")).mark_rule(strokeDash=dash).encode(y="accuracy:Q")
            charts.append((line + rule).properties(width=360, height=260))
    return styled(alt.concat(*charts, columns=2), data)


def _accuracies(finding: DescentFinding, what: str) -> Sequence[float]:
    return finding.descent.curve if what == "test" else finding.training


STUDY = Study(
    name="double_descent",
    table=DoubleDescentSpec,
    questions=questions,
    findings=findings,
    figures=figures,
    faults=faults,
    about="Does the test accuracy at the end fall, rise above the dense network's and fall again as weights go?",
    paper="[Sparse Double Descent](https://arxiv.org/abs/2206.08684)",
    year=2022,
    example="study.double_descent.levels=1,2,5",
)
