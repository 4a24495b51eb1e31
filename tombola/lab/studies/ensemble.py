"""Ensembles: what are several tickets worth together, and what is one network out of several?

The numbers are those of `tombola.study.ensemble`, `calibration` and `lottery_pools`.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import inf
from statistics import mean
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field

from tombola import data, macs, mark, models
from tombola.at_once import Scoring
from tombola.charts import BARS, ROOM, Drawn, Figure, interval, lines, ticks
from tombola.data.facts import Facts
from tombola.dynamics.rewiring import Escape, RigL
from tombola.errors import Fault
from tombola.lab.fields import Levels
from tombola.lab.kinds import Average, Measured, Measurement, Pool, Prune, Seen, Train
from tombola.lab.runs import Network, Run
from tombola.lab.studies import checks
from tombola.lab.studies.study import Answer, Evidence, Finding, Marks, Question, Series, Setting, Study, grouped
from tombola.mark import COLOURS, MORE_COLOURS, Mark
from tombola.pruning import SCOPES
from tombola.recipe import with_dynamics
from tombola.value import Count, Value, listed

if TYPE_CHECKING:
    from torch import Tensor, nn

    from tombola.mask import Mask
    from tombola.study.at_equal_cost import Asked, Best
    from tombola.study.paired import Estimate

DENSE, TICKET, ONE = "dense", "ticket", "one"
EXPLORATION = 0.6  # of a training, before the first member is refined: 150 of 250 epochs in the paper
FRACTION = 0.5  # of living weights that move at once, as in the paper


ANEW = (
    "Its running statistics are computed anew, which makes another network of the ticket, too: the kind `statistics` "
    "is that alone"
)


class Together(Measurement):
    """How good a network and all further ones are on the test set, each and together, and what they cost."""

    name: Literal["together"] = "together"

    def of(self, seen: Seen) -> dict[str, Any]:
        """Scores of each and of all, how far they differ, and what they are made of."""
        from dataclasses import asdict

        from torch import Tensor

        from tombola.data.facts import IGNORED
        from tombola.evaluate import outputs
        from tombola.study.ensemble import judge

        data, precision, labels = seen.dataset, seen.recipe.precision, _labels(seen)
        asked = labels != IGNORED
        answers, costs = list[Tensor](), list[tuple[int, int]]()
        for model, network, mask in _members(seen):
            answers.append(outputs(model, data, data.test_images, seen.test, precision))
            costs.append(_cost(model, network, mask.counts if mask else {}))
        found = judge([each.flatten(0, -2)[asked] for each in answers], labels[asked])
        return {
            **asdict(found),
            "parameters": sum(parameters for parameters, _ in costs),
            "macs": sum(multiplied for _, multiplied in costs),
            "statistics": any("running_mean" in name for name in seen.weights),
            "dense": dict(zip(("parameters", "macs"), _cost(seen.model, seen.network, {}), strict=True)),
        }

    def examples(self, facts: Facts) -> int:
        return facts.test


def _members(seen: Seen) -> "Iterator[tuple[nn.Module, Network, Mask | None]]":
    """Each network that answers, and what is alive of it; None for all."""
    yield seen.model, seen.network, seen.mask
    for name in seen.others:
        yield seen.modelled(name), seen.networks[name], seen.masks.get(name)


def _labels(seen: Seen) -> "Tensor":
    """The labels of the test set, in a row."""
    labels = seen.dataset.test_labels
    return labels.index_select(0, seen.test.to(labels.device)).flatten().cpu()


def _cost(model: "nn.Module", network: Network, living: Mapping[str, int]) -> tuple[int, int]:
    """Living parameters, biases and all, and the multiply-adds of one example: of Gaussian weights, of all draws."""
    from tombola.bayes import Gaussian, noise_of

    layers = models.layers(network.model, network.shape, network.classes)
    products = models.products(network.model, network.shape)
    noise = {noise_of(name): count for name, count in living.items()}  # a pruned weight has none
    parameters = sum({**living, **noise}.get(name, value.numel()) for name, value in model.named_parameters())
    once = macs.forward(layers, models.multiplied(network.model, layers, living), products)
    return parameters, once * (model.samples if isinstance(model, Gaussian) else 1)


Members = Callable[[Series, int, int], list[Train]]  # of so many, at a level


@dataclass(frozen=True)
class Kind:
    """Where the networks come from that answer together.

    Attributes:
        title: as sentences have it, with the number of members and the level's density to be filled in.
        least: the first level that it can be asked at, given the number of members.
        trained: its members.
        one: what becomes one network of them; None where they answer together.
        aside: what whoever only sees a figure is told further.
        by_weight: whether it keeps as many single weights as the ticket has, of which no group is left whole.
    """

    title: str
    trained: Members
    least: Callable[[int], int] = lambda members: 1
    one: Callable[[Sequence[Train]], Run] | None = None
    aside: str = ""
    by_weight: bool = False


def _orders(series: Series, level: int, members: int) -> list[Train]:
    ticket = series.tickets[level]
    return [series.replicate.reordered(ticket, order) for order in range(members)]


def _levels(series: Series, level: int, members: int) -> list[Train]:
    return list(series.tickets[level - members + 1 : level + 1])[::-1]


def _replicates(series: Series, level: int, members: int) -> list[Train]:
    """Those of this replicate and of the ones before it; none but where a group of replicates ends."""
    if (series.replicate.number + 1) % members:
        return []
    found: list[Train] = []
    earlier: Series | None = series
    while earlier and len(found) < members:
        found.append(earlier.tickets[level])
        earlier = earlier.earlier()
    return found


def _dense(series: Series, level: int, members: int) -> list[Train]:
    return _orders(series, 0, members)


def _dynamic(series: Series, level: int, number: int, dynamics: RigL) -> Train:
    """A sparse training from weights and a random mask of its own, of the level's density."""
    replicate = series.replicate
    again = f" {number}" if number else ""
    start = replicate.rewind_point(f"init{again}")
    mask = replicate.prune_at_once(start, level, Scoring("random", "erk"))
    mask = replace(mask, score_seed=replicate.seed(f"score{again}"))
    training = replicate.train(start, mask=mask, recipe=with_dynamics(replicate.recipe, dynamics))
    return replicate.reordered(training, number)


def _dst(series: Series, level: int, members: int) -> list[Train]:
    return [_dynamic(series, level, number, RigL(fraction=FRACTION)) for number in range(members)]


def _edst(series: Series, level: int, members: int) -> list[Train]:
    """One training that is left again and again by a large move, from the end of its exploration on."""
    first = _dynamic(series, level, 0, RigL(fraction=FRACTION, decay="constant"))
    found, recipe = [first], with_dynamics(series.replicate.recipe, Escape(fraction=FRACTION))
    refined = first.begin + round(EXPLORATION * first.steps)
    for number in range(1, members):
        last = found[-1]
        following = replace(first, start=last, mask=last, recipe=recipe, begin=refined, optimizer_state="fresh")
        found.append(series.replicate.reordered(following, number))
    return found


def _alone(series: Series, level: int, members: int) -> list[Train]:
    return [series.tickets[level]]


def _chain(series: Series, level: int, members: int) -> list[Train]:
    """The ticket and its neighbours in the chain, the nearest first, sparser ones after denser ones."""
    places = range(len(series.tickets))
    return [series.tickets[place] for place in sorted(places, key=lambda place: (abs(place - level), place))]


def _pooled(trained: Sequence[Train]) -> Run:
    target, *neighbours = trained
    mask = target.mask
    together = isinstance(mask, Prune) and SCOPES[mask.scope].pooled
    return Pool(target, tuple(neighbours), together, target.recipe, target.split_seed)


KINDS: dict[str, Kind] = {
    "orders": Kind("{members} trainings of the ticket at {density} in other data orders", _orders),
    "levels": Kind("{members} levels of one chain down to {density}", _levels, lambda members: members - 1),
    "replicates": Kind("the tickets at {density} of {members} replicates", _replicates),
    "dense": Kind("{members} dense networks in other data orders", _dense),
    "dst": Kind("{members} dynamic sparse trainings at {density}", _dst, by_weight=True),
    "edst": Kind("{members} stations of one dynamic sparse training at {density}", _edst, by_weight=True),
    "average": Kind("the average of {members} trainings of the ticket at {density}", _orders, one=Average.of),
    "pool": Kind(
        "the lottery pool at {density}",
        _chain,
        one=_pooled,
        aside=", the ticket averaged with those tickets of its chain that leave it no worse on validation data",
        by_weight=True,
    ),
    "statistics": Kind("the ticket at {density} with running statistics computed anew", _alone, one=Average.of),
}
if TYPE_CHECKING:
    KindName = str
else:  # so that a spec's readers are told the names
    KindName = Literal[*KINDS]


class EnsembleSpec(Value):
    """What several networks are worth together, and one out of several: `study.ensemble`.

    Attributes:
        levels: of the tickets.
        kinds: where members come from.
        members: how many; not of `pool`, which tries all levels, and `statistics`.
    """

    levels: Levels = Field(min_length=1)
    kinds: Annotated[tuple[KindName, ...], BeforeValidator(listed), Field(min_length=1)] = (
        "orders",
        "levels",
        "replicates",
        "dense",
        "average",
        "pool",
    )
    members: Count = Field(default=3, ge=2, le=100)


def faults(table: EnsembleSpec, setting: Setting) -> Iterator[Fault]:
    """What of the table the experiment cannot answer."""
    spec = setting.spec
    yield from checks.levels("ensemble", table.levels, setting, least=1, of_trained=True)
    yield from checks.repeated("study.ensemble.kinds", "kind", table.kinds)
    if spec.facts.answers != "class":
        yield Fault(
            "study.ensemble",
            "answers that are classes, one for each example",
            f"{spec.recipe.data}, whose answers are {spec.facts.answers}",
            "leave the study out",
        )
    for kind in table.kinds:
        for level in table.levels:
            if level < (least := KINDS[kind].least(table.members)):
                todo = "of fewer members, or at a later level"
                yield Fault("study.ensemble.levels", f"levels from {least} on for {kind!r}", str(level), todo)
    for kind in table.kinds if spec.scope in SCOPES and SCOPES[spec.scope].grouped else ():
        if KINDS[kind].by_weight:
            todo = f"leave {kind} out: it keeps single weights, as many as the ticket has"
            yield Fault("study.ensemble.kinds", f"kinds of whole groups in the scope {spec.scope}", repr(kind), todo)
    if "replicates" in table.kinds:
        yield from _of_replicates(table, setting)
    if spec.recipe.dynamics or not setting.rewinds:
        for kind in ("dst", "edst", "average", "pool", "statistics"):
            if kind in table.kinds:
                found = "dynamics of their own" if spec.recipe.dynamics else repr(setting.method.name)
                expected = f"tickets that are trained under the mask they are given, for {kind!r}"
                yield Fault("study.ensemble.kinds", expected, found, "leave it out")


def _of_replicates(table: EnsembleSpec, setting: Setting) -> Iterator[Fault]:
    spec = setting.spec
    if spec.all_replicates < table.members:
        found = f"replicates = {spec.all_replicates}"
        yield Fault(
            "study.ensemble.members", "no more than there are replicates, for 'replicates'", found, "or leave it out"
        )
    if spec.recipe.inputs:
        expected = "inputs that all replicates have in common, for 'replicates'"
        yield Fault("study.ensemble.kinds", expected, f"recipe.inputs = {list(spec.recipe.inputs)}", "leave it out")
    elif data.is_table(spec.recipe.data):
        expected = "inputs that all replicates have in common, for 'replicates'"
        found = "a table, standardised by each replicate's training set"
        yield Fault("study.ensemble.kinds", expected, found, "leave it out")


def questions(table: EnsembleSpec, series: Series) -> Iterator[Question]:
    """The dense network alone, and at each level the ticket alone and each kind's networks."""
    yield _question(series, DENSE, 0, ONE, series.tickets[0], [])
    for kind in table.kinds:
        if kind == DENSE:
            first, *others = _dense(series, 0, table.members)
            yield _question(series, DENSE, 0, kind, first, others)
    for level in table.levels:
        yield _question(series, TICKET, level, ONE, series.tickets[level], [])
        for kind in table.kinds:
            if kind != DENSE:
                yield from _asked(series, level, kind, table.members)


def _asked(series: Series, level: int, name: str, members: int) -> Iterator[Question]:
    kind = KINDS[name]
    trained = kind.trained(series, level, members)
    if not trained:
        return
    if kind.one is None:
        first, *others = trained
        yield _question(series, TICKET, level, name, first, others)
        return
    made, ticket = kind.one(trained), series.tickets[level]
    run = Measured(Together(), made, made, ticket.recipe, ticket.split_seed, 0)
    yield Question("ensemble", TICKET, series.replicate.number, level, series.replicate.rewind_step, run, ticket, name)


def _question(series: Series, arm: str, level: int, kind: str, first: Train, others: Sequence[Train]) -> Question:
    further = {str(place): training for place, training in enumerate(others, 1)}
    run = Measured.of(Together(), first, 0, further)
    names = tuple((training, f"member {place} of {kind} of {arm} {level}") for place, training in further.items())
    replicate = series.replicate
    return Question("ensemble", arm, replicate.number, level, replicate.rewind_step, run, first, kind, names)


@dataclass(frozen=True)
class EnsembleFinding(Finding):
    """What one kind's networks are worth at one level and rewind step.

    Attributes:
        kind: `one` for a network alone.
        levels: that it is at; of dense networks all that the study is asked at.
        density: P_m of the ticket.
        asked: the numbers.
        means: by score, over replicates, each with an interval for itself.
        dense: the same of the dense network.
        disagreement, kl, js: how far members differ, means over replicates.
    """

    study: ClassVar[str] = "ensemble"
    kind: str
    levels: tuple[int, ...]
    density: float
    asked: "Asked"
    means: "Mapping[str, Estimate]"
    dense: "Mapping[str, Estimate]"
    disagreement: float
    kl: float
    js: float


@dataclass(frozen=True)
class BestFinding(Finding):
    """Which is best at no more than the dense network's cost, of all that the study is asked about at a rewind step."""

    study: ClassVar[str] = "ensemble"
    levels: tuple[int, ...]
    best: "Best | None"


def findings(table: EnsembleSpec, evidence: Evidence) -> Iterator[EnsembleFinding | BestFinding]:
    """Each kind at each level beside the dense network, and which is best at no more than that one's cost."""
    from tombola.study.at_equal_cost import best, sentence

    grain = evidence.spec.facts.grain(evidence.spec.facts.test)
    for rewind, answers in grouped(evidence.answers, lambda question: question.rewind).items():
        dense = {one.question.replicate: one.values for one in answers if _is(one, DENSE, ONE)}
        kinds = grouped(answers, lambda question: (question.arm, question.level, question.part))
        found = [
            _finding(table, evidence, own, dense, kinds.get((TICKET, level, ONE), []))
            for (arm, level, part), own in kinds.items()
            if (arm, part) != (DENSE, ONE)
        ]
        if found:
            chosen = best([each.asked for each in found], evidence.confidence, grain)
            yield BestFinding(table.levels, chosen, rewind=rewind, reason=f"{sentence(chosen)}.")
        yield from found


def _is(answer: Answer, arm: str, part: str) -> bool:
    return (answer.question.arm, answer.question.part) == (arm, part)


def _finding(
    table: EnsembleSpec,
    evidence: Evidence,
    answers: Sequence[Answer],
    dense: Mapping[int, Mapping[str, Any]],
    tickets: Sequence[Answer],
) -> EnsembleFinding:
    from tombola.study.at_equal_cost import told

    first = answers[0].question
    kind, grain = first.part, evidence.spec.facts.grain(evidence.spec.facts.test)
    density = mean(answer.density for answer in answers)
    known = _known(_title(kind, first.arm, table.members, density), table, answers, dense)
    asked = known if kind == ONE else replace(known, alone=_alone_scores(answers if known.members > 1 else tickets))
    differences = {name: mean(answer.values[name] for answer in answers) for name in ("disagreement", "kl", "js")}
    reason = f"{asked.name[0].upper()}{asked.name[1:]}: {told(asked, evidence.confidence, grain)}"
    if asked.members > 1:
        reason += f". Two of them give other answers to {differences['disagreement']:.2%} of the test set"
        reason += f" (KL {differences['kl']:.3g}, JS {differences['js']:.3g} nats)"
    if kind in ("average", "pool") and answers[0].values["statistics"]:
        reason += f". {ANEW}"
    if kind == "replicates" and len(answers) > 1:
        reason += f"; n counts groups of {table.members} replicates"
    levels = table.levels if first.arm == DENSE else (first.level,)
    means, alone = (_means(scores, evidence.confidence) for scores in (asked.scores, asked.dense))
    return EnsembleFinding(
        kind, levels, density, asked, means, alone, **differences, rewind=first.rewind, reason=f"{reason}."
    )


def _means(scores: Mapping[str, Mapping[int, float]], confidence: float) -> "dict[str, Estimate]":
    from tombola.study.paired import paired

    return {score: paired(list(values.values()), confidence) for score, values in scores.items() if values}


def _alone_scores(answers: Sequence[Answer]) -> dict[str, dict[int, float]]:
    """The mean over the members of each answer, by score and replicate."""
    from tombola.study.at_equal_cost import SCORES

    members = {answer.question.replicate: answer.values["members"] for answer in answers}
    return {score: {number: mean(one[score] for one in each) for number, each in members.items()} for score in SCORES}


def _title(kind: str, arm: str, members: int, density: float) -> str:
    if kind == ONE:
        return f"the {arm} alone at {density:.1%}"
    return KINDS[kind].title.format(members=members, density=f"{density:.1%}")


def _known(
    name: str, table: EnsembleSpec, answers: Sequence[Answer], dense: Mapping[int, Mapping[str, Any]]
) -> "Asked":
    from tombola.study.at_equal_cost import SCORES, Asked

    values = {answer.question.replicate: answer.values for answer in answers}
    # A group of replicates stands beside the mean of their dense networks.
    size = table.members if answers[0].question.part == "replicates" else 1
    groups = {number: range(number - size + 1, number + 1) for number in values}
    known = {number: group for number, group in groups.items() if all(each in dense for each in group)}
    return Asked(
        name,
        len(answers[0].values["members"]),
        mean(one["parameters"] / one["dense"]["parameters"] for one in values.values()),
        mean(one["macs"] / one["dense"]["macs"] for one in values.values()),
        {score: {number: one["whole"][score] for number, one in values.items()} for score in SCORES},
        {
            score: {number: mean(dense[each]["whole"][score] for each in group) for number, group in known.items()}
            for score in SCORES
        },
    )


CALLED = {ONE: TICKET, DENSE: "dense networks"}  # in figures, where `dense` is one network; else a kind's own name
PANELS: dict[str, tuple[str, float, tuple[float, float]]] = {
    "accuracy": ("test accuracy (%)", 100, (0, 1)),
    "nll": ("negative log-likelihood (nats)", 1, (0, inf)),
    "ece": ("calibration error (%)", 100, (0, 1)),
    "brier": ("Brier score", 1, (0, 2)),
}  # score -> title, scale, and the least and the largest value


def figures(findings: Sequence[EnsembleFinding | BestFinding], marks: Marks) -> dict[str, Figure]:
    """Each score against the multiply-adds, one line for each kind, and a point for the dense network."""
    order = [ONE, *KINDS]
    found = sorted(
        (each for each in findings if isinstance(each, EnsembleFinding)), key=lambda each: order.index(each.kind)
    )
    if not found:
        return {}
    panels: dict[str, list[dict[str, Any]]] = {}
    for each in found:
        step = f", k = {each.rewind:,}" if each.rewind else ""
        for score, (title, scale, within) in PANELS.items():
            panel = panels.setdefault(f"{title}{step}", [])
            if not panel and score in each.dense:
                panel.append({"arm": DENSE, "macs": 1.0, **interval("value", each.dense[score], scale, within)})
            values = interval("value", each.means[score], scale, within)
            panel.append({"arm": CALLED.get(each.kind, each.kind), "macs": each.asked.macs, **values})
    drawn = lines(panels, _costs(panels), Drawn("value", "mean over replicates", {"zero": False}), _looks())
    return {"ensemble": Figure(drawn, _explained(found))}


def _costs(panels: Mapping[str, Sequence[Mapping[str, Any]]]) -> Any:
    import altair as alt

    costs = [record["macs"] for records in panels.values() for record in records]
    low, high = min(costs) / 1.05, max(costs) * 1.05
    return alt.X(
        "macs:Q",
        scale=alt.Scale(type="log", domain=[low, high], nice=False, padding=ROOM),
        axis=alt.Axis(values=ticks(low, high), format="~g"),
        title="multiply-adds (dense network: 1), log scale",
    )


def _looks() -> dict[str, Mark]:
    """The dense network and the ticket as everywhere, and kinds in colours that neither of them has."""
    names = [CALLED.get(kind, kind) for kind in KINDS]
    given = mark.marks(dict.fromkeys(names))
    free = [each for each in (*COLOURS, *MORE_COLOURS) if each not in (mark.DENSE.colour, mark.TICKET.colour)]
    return given | {name: replace(given[name], colour=colour) for name, colour in zip(names, free, strict=False)}


def _explained(found: Sequence[EnsembleFinding]) -> str:
    """The caption, with the kinds that there are."""
    most = max(each.asked.members for each in found)
    members = str(most) if most > 1 else "several"
    kinds = {each.kind: KINDS[each.kind] for each in found if each.kind != ONE}
    told = [
        f"{CALLED.get(name, name)}: {kind.title.format(members=members, density='each level')}{kind.aside}"
        for name, kind in kinds.items()
    ]
    densities = sorted({f"{100 * each.density:.3g}": each.density for each in found if each.kind == ONE}.items())
    levels = ", ".join(name for name, _ in sorted(densities, key=lambda pair: -pair[1]))
    over = f" ({levels} % of the weights remain)" if levels else ""
    return (
        "What several networks are worth together, and one network out of several, against what they cost. Each line "
        f"goes over the levels, from the densest at its right end to the sparsest at its left one{over}; points are "
        f"means over replicates, {BARS}. {'; '.join(['ticket: one ticket alone', *told])}."
    )


STUDY = Study(
    name="ensemble",
    table=EnsembleSpec,
    questions=questions,
    findings=findings,
    figures=figures,
    faults=faults,
    about="What are tickets worth in an ensemble, and averaged into one network, at the dense network's cost?",
    paper="[Deep Ensembling with No Overhead](https://arxiv.org/abs/2106.14568)",
    year=2022,
    example="study.ensemble={levels=[5],members=2}",
)
