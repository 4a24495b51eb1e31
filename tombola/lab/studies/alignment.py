"""Alignment: which inputs do first layers keep, how near each other, and along which directions of the data?

What is measured on a network is `FirstLayer`, whose numbers are those of `tombola.study.survivors`, `locality` and
`directions`, each beside chance. `inputs` asks for the same search on inputs that are changed on purpose, one factor
each, with its own tickets and controls: what tickets lose there hangs on what was changed.
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from math import prod
from statistics import mean
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field

from tombola import data, models
from tombola.charts import Figure, by_density, styled
from tombola.data import variants
from tombola.errors import Fault
from tombola.lab.fields import Arms, Levels
from tombola.lab.kinds import Measured, Measurement, Seen
from tombola.lab.studies import checks
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
from tombola.recipe import InputsChange
from tombola.value import Count, Value, listed

if TYPE_CHECKING:
    from tombola.data.facts import Facts
    from tombola.study.alignment import Hanging, InArm, Quantity

LOOKED_AT = 10_000  # training examples at most, for their directions
TICKET = "ticket"
ACCURACY = {"early-stop": "early_stop_test_accuracy", "end": "final_test_accuracy"}
_FIRST_LAYER, _TRAINED = "first layer", "accuracy"
# What a change to the inputs takes from them, by the name that it begins with.
TAKEN = {
    "permuted": "where pixels lie",
    "rotated": "the data's axes",
    "gaussian": "more than each class's mean and covariance",
    "noise": "there being no inputs of noise",
}


class FirstLayer(Measurement):
    """What the first layer keeps of its inputs, where it sees them whole.

    Attributes:
        directions: d, how many of the data's first principal directions.
        within: which distance of two pixels is near.
    """

    name: Literal["first layer"] = "first layer"
    directions: Count = 20
    within: Count = 2

    def of(self, seen: Seen) -> dict[str, Any]:
        """Which inputs survive, how local, how aligned; and the maps of what was kept and of what varies."""
        from tombola.study import directions, locality, survivors

        facts = seen.dataset.facts
        name = first_layer(seen.recipe.model, facts)
        assert name
        mask = seen.mask[name] if name in seen.mask else seen.weights[name].new_ones(seen.weights[name].shape).bool()
        inputs = seen.inputs(seen.train[:LOOKED_AT])[0].flatten(1).cpu()
        found = directions.directions(inputs, min(self.directions, inputs.shape[1]))
        local = None
        if (shape := _laid_out(seen.recipe.data, facts)) is not None:
            local = locality.locality(mask, shape, seen.seed, within=self.within)
        aligned = directions.aligned(seen.weights[name], mask, found.first, seen.seed)
        return {
            "survivors": asdict(survivors.survivors(mask, found.variances, seen.seed)),
            "locality": asdict(local) if local else None,
            "aligned": {**asdict(aligned), "explained": found.explained},
            "degrees": mask.sum(0).tolist(),
            "variances": [float(f"{each:.4g}") for each in found.variances.tolist()],
        }

    def examples(self, facts: "Facts") -> int:
        return min(facts.train, LOOKED_AT)


def _laid_out(name: str, facts: "Facts") -> tuple[int, int, int] | None:
    """C x H x W of the inputs, or of the images that inputs of as many numbers have been made of; None of others."""
    whole = data.facts(variants.parts(name)[0]).shape if len(facts.shape) == 1 else facts.shape
    if len(whole) != 3 or prod(whole) != prod(facts.shape):
        return None
    channels, height, width = whole
    return channels, height, width


def first_layer(model: str, facts: "Facts") -> str | None:
    """The name of the weight whose units see whole examples, each number of these by a weight of its own; or None."""
    if facts.text:
        return None
    layers = models.layers(model, facts.shape, facts.classes)
    name, layer = next(iter(layers.items()))
    return name if layer.kind in ("linear", "output") and layer.inputs == prod(facts.shape) else None


class AlignmentSpec(Value):
    """Which inputs first layers keep, how near each other, along which directions: `study.alignment`.

    Attributes:
        arms: whose networks: those of the spec, and controls of its tickets, of which the first draw counts.
        inputs: what is done to the inputs, one at a time, for another search with tickets and controls of its own.
        directions: how many of the data's first principal directions the first layer is held against.
    """

    levels: Levels = Field(min_length=1)
    arms: Arms = Field(default=(TICKET, "random"), min_length=1)
    inputs: Annotated[tuple[InputsChange, ...], BeforeValidator(listed)] = ()
    directions: Annotated[Count, Field(ge=1)] = 20


def faults(table: AlignmentSpec, setting: Setting) -> Iterator[Fault]:
    """What of the table the experiment cannot answer."""
    spec = setting.spec
    yield from checks.levels("alignment", table.levels, setting, least=1)
    yield from checks.repeated("study.alignment.arms", "arm", table.arms)
    yield from checks.repeated("study.alignment.inputs", "change", table.inputs)
    if not first_layer(spec.recipe.model, spec.facts):
        yield Fault(
            "study.alignment",
            "a model whose first layer sees whole examples, as lenet-300-100 does",
            spec.recipe.model,
            "a convolution has the same weights everywhere, and a text no inputs that vary apart",
        )
    yield from _inputs_faults(table, setting)
    own = [TICKET, *setting.controls]
    for arm in table.arms:
        if arm not in (*own, *spec.arms):
            yield Fault("study.alignment.arms", f"{TICKET}, a control or an arm of the spec", repr(arm))
        elif table.inputs and arm not in own:
            yield Fault("study.alignment.arms", f"{TICKET} and controls alone, where inputs are changed", repr(arm))


def _inputs_faults(table: AlignmentSpec, setting: Setting) -> Iterator[Fault]:
    """What of changes to the inputs cannot be."""
    recipe, where = setting.spec.recipe, "study.alignment.inputs"
    if table.inputs and (TICKET not in table.arms or len(table.arms) < 2):
        yield Fault("study.alignment.arms", f"{TICKET} and a control, where inputs are changed", ", ".join(table.arms))
    if table.inputs and recipe.augment:
        yield Fault(where, "none beside recipe.augment", ", ".join(table.inputs), "changed inputs cannot be shifted")
    if table.inputs and data.is_folder(recipe.data):
        yield Fault(where, "none of data that are not held in memory", ", ".join(table.inputs))
    for change in table.inputs:
        if change in (recipe.inputs or ()):
            yield Fault(where, "changes that recipe.inputs has not made already", repr(change))


def questions(table: AlignmentSpec, series: Series) -> Iterator[Question]:
    """Measure each network; where inputs are changed, train the same search on these, and measure its networks."""
    for change in ("", *table.inputs):
        yield from _asked(table, series.changing(change) if change else series, change)


def _asked(table: AlignmentSpec, series: Series, change: str) -> Iterator[Question]:
    replicate, measured = series.replicate, FirstLayer(directions=table.directions)
    for level in table.levels:
        for arm in table.arms:
            training = series.training(arm, level)
            where = replicate.number, level, replicate.rewind_step
            run = Measured.of(measured, training, replicate.seed("alignment"))
            yield Question("alignment", arm, *where, run, training, _part(_FIRST_LAYER, change))
            if table.inputs:
                yield Question("alignment", arm, *where, training, training, _part(_TRAINED, change))


def _part(what: str, change: str) -> str:
    return f"{what} on {change} inputs" if change else what


@dataclass(frozen=True)
class QuantityFinding(Finding):
    """A number of the first layers of all arms, at one level and rewind step, on inputs as they are or changed.

    Attributes:
        inputs: what was done to them; empty where nothing was.
        maps: by name, a number for each input, as rows of an image where they are one; not among the values.
    """

    study: ClassVar[str] = "alignment"
    level: int
    density: float
    inputs: str
    quantity: str
    first: bool
    arms: "tuple[InArm, ...]"
    maps: dict[str, list[list[float]]]

    @property
    def headline(self) -> bool:
        return self.first and not self.inputs

    @property
    def values(self) -> dict[str, Any]:
        return {name: value for name, value in super().values.items() if name != "maps"}


@dataclass(frozen=True)
class ChangedFinding(Finding):
    """What is different on changed inputs, at one level and rewind step: of the ticket, and of what it is better by."""

    study: ClassVar[str] = "alignment"
    level: int
    density: float
    inputs: str
    what: str
    found: "Hanging"


def findings(table: AlignmentSpec, evidence: Evidence) -> Iterator[Finding]:
    """Each number of the first layers wherever an arm has it; then what changes to the inputs make of it."""
    answers = grouped(evidence.answers, lambda question: (question.level, question.rewind))
    for (level, rewind), here in answers.items():
        parts = grouped(here, lambda question: question.part)
        for change in ("", *table.inputs):
            yield from _quantities(parts.get(_part(_FIRST_LAYER, change), []), change, level, rewind, evidence)
        for change in table.inputs:
            yield from _changed(parts, change, level, rewind, evidence)


def _quantities(
    answers: Sequence[Answer], change: str, level: int, rewind: int, evidence: Evidence
) -> Iterator[QuantityFinding]:
    from tombola.study.alignment import QUANTITIES, in_arm, sentence

    for quantity in QUANTITIES.values():
        numbers = _numbers(answers, quantity)
        arms = tuple(in_arm(arm, list(own.values()), evidence.confidence) for arm, own in numbers.items() if own)
        if arms:
            density = mean(answer.density for answer in answers)
            reason = sentence(quantity, density, arms)
            if change:
                reason = f"On {change} inputs, {reason[0].lower()}{reason[1:]}"
            maps = _maps(answers, evidence) if quantity.name == "connected" else {}
            yield QuantityFinding(
                level, density, change, quantity.name, quantity.first, arms, maps, rewind=rewind, reason=reason
            )


def _numbers(answers: Sequence[Answer], quantity: "Quantity") -> dict[str, dict[int, tuple[float, float]]]:
    """What a quantity is and would be by chance, by arm and replicate."""
    found: dict[str, dict[int, tuple[float, float]]] = {}
    for answer in answers:
        number = quantity.of(answer.values)
        if number is not None:
            found.setdefault(answer.question.arm, {})[answer.question.replicate] = number
    return found


def _maps(answers: Sequence[Answer], evidence: Evidence) -> dict[str, list[list[float]]]:
    """How much each pixel varies, and how many units of the ticket keep it: means over replicates and channels."""
    own = [answer.values for answer in answers if answer.question.arm == TICKET]
    shape = evidence.spec.facts.shape
    if not own or len(shape) != 3:
        return {}
    return {
        name: _image([mean(numbers) for numbers in zip(*(values[name] for values in own), strict=True)], shape)
        for name in ("variances", "degrees")
    }


def _image(numbers: Sequence[float], shape: tuple[int, ...]) -> list[list[float]]:
    _, height, width = shape
    pixels = [mean(numbers[place :: height * width]) for place in range(height * width)]
    return [pixels[row * width : (row + 1) * width] for row in range(height)]


def _changed(
    parts: dict[str, list[Answer]], change: str, level: int, rewind: int, evidence: Evidence
) -> Iterator[ChangedFinding]:
    """The ticket's advantage over each control, and its locality, on changed inputs and on inputs as they are."""
    from tombola.study.alignment import QUANTITIES, hanging, hanging_sentence

    taken = TAKEN[change.split("-")[0]]
    layers = [parts.get(_part(_FIRST_LAYER, where), []) for where in (change, "")]
    accuracies = [_accuracies(parts.get(_part(_TRAINED, where), []), evidence) for where in (change, "")]
    density = mean(answer.density for answers in parts.values() for answer in answers)
    grain, measure = evidence.spec.facts.grain(evidence.spec.facts.test), evidence.spec.facts.measure
    for arm in accuracies[1]:
        if arm == TICKET:
            continue
        there, here = (_over(own, arm) for own in accuracies)
        if found := hanging(there, here, evidence.confidence, grain):
            what = f"the ticket's advantage over {arm} in points of test {measure} at {density:.1%}"
            reason = hanging_sentence(what, f"{change} inputs", taken, "+.2f", found, 100)
            yield ChangedFinding(level, density, change, f"advantage over {arm}", found, rewind=rewind, reason=reason)
    local = QUANTITIES["locality"]
    there, here = (
        {number: value for number, (value, _) in _numbers(own, local).get(TICKET, {}).items()} for own in layers
    )
    if found := hanging(there, here, evidence.confidence):
        what = f"the ticket's locality, as a multiple of chance, at {density:.1%}"
        reason = hanging_sentence(what, f"{change} inputs", taken, ".2f", found)
        yield ChangedFinding(level, density, change, "locality", found, rewind=rewind, reason=reason)


def _accuracies(answers: Sequence[Answer], evidence: Evidence) -> dict[str, dict[int, float]]:
    name = ACCURACY[evidence.spec.verdict.at]
    found: dict[str, dict[int, float]] = {}
    for answer in answers:
        found.setdefault(answer.question.arm, {})[answer.question.replicate] = answer.values[name]
    return found


def _over(accuracies: dict[str, dict[int, float]], arm: str) -> dict[int, float]:
    """The ticket's accuracy less that of an arm, by replicate."""
    ticket, other = accuracies.get(TICKET, {}), accuracies.get(arm, {})
    return {number: ticket[number] - other[number] for number in ticket if number in other}


def figures(findings: Sequence[Finding], marks: Marks) -> dict[str, Figure]:
    """The maps, the locality against the density, and what is left of the advantage on changed inputs."""
    seen = [each for each in findings if isinstance(each, QuantityFinding)]
    changed = [each for each in findings if isinstance(each, ChangedFinding) and each.what != "locality"]
    drawn = dict[str, Figure]()
    if maps := [each for each in seen if each.maps and not each.inputs]:
        caption = "How much each pixel varies in the training data, and how many units of the first layer keep it."
        drawn["alignment"] = Figure(_pictures(maps), caption)
    if local := [each for each in seen if each.quantity == "locality"]:
        caption = (
            "Near pairs of inputs that one unit keeps, as a multiple of those of random masks of the same degrees."
        )
        drawn["alignment-locality"] = Figure(_lines(local, marks), caption)
    if changed:
        caption = "What the ticket is better by on inputs as they are and on changed ones; bars are intervals."
        drawn["alignment-advantage"] = Figure(_advantages(changed), caption)
    return drawn


def _pictures(findings: Sequence[QuantityFinding]) -> dict[str, Any]:
    import altair as alt

    data: dict[str, list[dict[str, Any]]] = {}
    for finding in findings:
        rewind = f", k = {finding.rewind:,}" if finding.rewind else ""
        titles = {"variances": "variance", "degrees": f"kept at {100 * finding.density:.3g} %{rewind}"}
        for name, image in finding.maps.items():
            data.setdefault(titles[name], _pixels(image))
    charts = [
        alt.Chart(alt.NamedData(name), title=name)
        .mark_rect()
        .encode(
            x=alt.X("x:O", axis=None),
            y=alt.Y("y:O", axis=None),
            color=alt.Color("value:Q", scale=alt.Scale(scheme="greys"), legend=None),
        )
        .properties(width=140, height=140)
        for name in data
    ]
    return styled(alt.concat(*charts, columns=4).resolve_scale(color="independent"), data)


def _pixels(image: list[list[float]]) -> list[dict[str, Any]]:
    return [{"x": x, "y": y, "value": value} for y, row in enumerate(image) for x, value in enumerate(row)]


def _lines(findings: Sequence[QuantityFinding], marks: Marks) -> dict[str, Any]:
    data: dict[str, list[dict[str, Any]]] = {}
    for finding in findings:
        name = f"{finding.inputs or 'inputs as they are'}" + (f", k = {finding.rewind:,}" if finding.rewind else "")
        data.setdefault(name, []).extend(
            {"arm": each.arm, "density": 100 * finding.density, "locality": each.value.mean} for each in finding.arms
        )
    return by_density(data, "locality", "locality (chance is 1)", marks)


def _advantages(findings: Sequence[ChangedFinding]) -> dict[str, Any]:
    import altair as alt

    data: dict[str, list[dict[str, Any]]] = {}
    for finding in findings:
        rewind = f", k = {finding.rewind:,}" if finding.rewind else ""
        rows = data.setdefault(f"{finding.what}, {100 * finding.density:.3g} %{rewind}", [])
        both = {"as they are": finding.found.here, finding.inputs: finding.found.there}
        for name, each in both.items():
            if name not in {row["inputs"] for row in rows}:
                rows.append({"inputs": name, "mean": 100 * each.mean, **_ends(each)})
    charts = []
    for name in data:
        base = alt.Chart(alt.NamedData(name), title=name).encode(y=alt.Y("inputs:N", sort=None, title=None))
        bars = base.mark_rule(color="#555555").encode(
            x=alt.X("low:Q", title="what the ticket is better by (points)"), x2="high:Q"
        )
        points = base.mark_point(filled=True, color="#000000", size=60).encode(x="mean:Q")
        zero = alt.Chart(alt.NamedData(name)).mark_rule(strokeDash=[4, 4], color="#999999").encode(x=alt.datum(0))
        charts.append(alt.layer(zero, bars, points).properties(width=280, height=24 * len(data[name])))
    return styled(alt.concat(*charts, columns=2), data)


def _ends(each: Any) -> dict[str, float]:
    known = each.n > 1
    return {"low": 100 * (each.low if known else each.mean), "high": 100 * (each.high if known else each.mean)}


STUDY = Study(
    name="alignment",
    table=AlignmentSpec,
    questions=questions,
    findings=findings,
    figures=figures,
    faults=faults,
    about="Which inputs do first layers keep, how near each other, and along which directions of the data?",
    paper="[Sifting out the features by pruning](https://arxiv.org/abs/2104.13343)",
    year=2021,
    rest="further numbers of the first layers, and those on changed inputs",
    example="study.alignment.levels=5",
    of_weights=True,
)
