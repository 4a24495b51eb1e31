"""The page of an experiment's finished runs."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, cast

from tombola import data, models, prunable, weights
from tombola.data.facts import Facts
from tombola.explorer.coding import Blobs
from tombola.explorer.filling import Answers, Line, Look, Network, fill
from tombola.explorer.layers import chained, layer, one_after_another
from tombola.explorer.record import Level, Page
from tombola.explorer.shown import Shown
from tombola.lab.results import Result, Results
from tombola.layers import Layout, layouts
from tombola.models.in_basis import InBasis
from tombola.recipe import Recipe
from tombola.reparametrised import Reparametrised
from tombola.study.units import excitement, reading
from tombola.study.verdict import Verdict, amount

if TYPE_CHECKING:
    from torch import Tensor, nn

    from tombola.data import Dataset
    from tombola.lab.runs import Run
    from tombola.mask import Mask
    from tombola.weights import Weights

ROOM = 13_500_000  # characters of binary parts: with markup, script and numbers a page stays below 15 MB
COLUMNS = {
    "early_stop_test_accuracy": ("test accuracy at the early stop", "percent"),
    "early_stop_step": ("early-stopping step", "count"),
    "final_test_accuracy": ("test accuracy at the end", "percent"),
    "final_train_accuracy": ("training accuracy at the end", "percent"),
    "final_validation_loss": ("validation loss at the end", "number"),
}

NO_EXAMPLES = "The data set is not there, so there are no examples that excite a unit."
COORDINATES = (
    "{arms}: what is pruned is coordinates in a basis, and the numbers of a level count these; weights are those that "
    "they make."
)
ROUNDED = "Weights are rounded to 1/127 of the largest in their layer; all other numbers are those of the table."

Load = Callable[[str], "Dataset | None"]
MOST_TOKENS = 2**16  # of which each is two bytes


def page(results: Results, load: Load, words: Sequence[str] = (), room: int = ROOM) -> Page:
    """The page of what is finished.

    Args:
        results: some, at least.
        load: the data set of a name, for examples; None where it is not there.
        words: what each token of its texts stands for.
        room: for how many characters of binary parts.
    """
    facts, blobs = results.experiment.spec.facts, Blobs(room)
    model, shown = _model(results), Shown(blobs)
    network = _network(model, _first_mask(results) or prunable.full(model))
    lines = [_line(name, rows, results, (load, shown, model)) for name, rows in _lines(results).items()]
    series, notes = fill(sorted(lines, key=lambda line: line.replicate), network, blobs)
    inputs = next((shown.of(dataset)[1] for dataset in map(load, _data(results)) if dataset), None)
    seen = excitement(model, [each.name for each in network.layers], inputs[:1], 1) if inputs is not None else {}
    return Page(
        title=f"{results.experiment.name}: {results.network}",
        about=results.experiment.spec.about,
        shape=facts.shape,
        chained=one_after_another(model) and chained(network.layers),
        layers=network.layers,
        columns={name: words for name, words in _columns(facts).items() if name in results.rows[0].values},
        series=tuple(series),
        parts=tuple(blobs.parts),
        examples=tuple(shown.sets),
        excited=tuple(place for place, each in enumerate(network.layers) if each.name in seen),
        words=tuple(words),
        inputs=tuple(data.input_names(_data(results)[0])) if shown.sets else (),
        notes=[*_draws(results), *_coordinates(results), *notes, *([] if shown.sets else [NO_EXAMPLES]), ROUNDED],
    )


def _columns(facts: Facts) -> dict[str, tuple[str, str]]:
    """`COLUMNS`; where answers are numbers, R2 stands in the place of accuracy."""
    return {name: (said.replace("accuracy", facts.measure), how) for name, (said, how) in COLUMNS.items()}


def _model(results: Results) -> "nn.Module":
    return _built(results, _recipe(results))


def _built(results: Results, recipe: Recipe) -> "nn.Module":
    facts = results.experiment.spec.facts
    model = models.build(recipe.model, facts.shape, facts.classes, recipe.init, init_seed=0).eval()
    # Gaussian weights at their means, where each layer has one answer; of coordinates the weights made of them.
    return model.plain if isinstance(model, Reparametrised) else model


def _recipe(results: Results) -> Recipe:
    return results.rows[0].row.run.recipe


def _network(model: "nn.Module", mask: "Mask") -> Network:
    kinds, known = prunable.prunable(model), layouts(model)
    names = [*(name for name in kinds if name in mask), *(name for name in mask if name not in kinds)]
    layers = [layer(name, kinds.get(name, "named"), mask[name].shape, known.get(name, Layout())) for name in names]
    return Network(tuple(layers), known)


def _first_mask(results: Results) -> "Mask | None":
    masks = (results.store.living(result.row.run) for result in results.rows)
    return next((mask for mask in masks if mask is not None), None)


def _data(results: Results) -> list[str]:
    return list(dict.fromkeys(result.row.run.recipe.data for result in results.rows))


def _lines(results: Results) -> dict[tuple[str, int], list[Result]]:
    """By arm and replicate the rows of their first draws, from the dense network on."""
    several = len({result.row.rewind for result in results.rows}) > 1
    first = [result for result in results.rows if not result.row.draw]
    dense = {(one.row.replicate, one.row.rewind): [one] for one in first if one.row.arm == "dense"}
    dense = dense if results.arms != ["dense"] else {}
    lines: dict[tuple[str, int], list[Result]] = {}
    for result in first:
        row = result.row
        if dense and row.arm == "dense":
            continue
        name = f"{row.arm}, k = {row.rewind:,}" if several else row.arm
        before = dense.get((row.replicate, row.rewind), [])
        lines.setdefault((name, row.replicate), [*before]).append(result)
    return lines


def _line(name: tuple[str, int], rows: Sequence[Result], results: Results, with_examples: "_Examples") -> Line:
    arm, number = name
    ordered = sorted(rows, key=lambda one: one.row.level)
    looks = [_look(result, results) for result in ordered]
    load, shown, model = with_examples
    dataset = load(rows[0].row.run.recipe.data)
    if dataset is None:
        return Line(arm, number, looks)
    text = dataset.facts.shape if dataset.facts.text else ()
    examples, inputs = shown.of(dataset.normalised(rows[0].row.run.recipe.normalise))
    main = _recipe(results).model
    for place, other in enumerate(result.row.run.recipe for result in ordered):
        if other.model != main:  # weights of another kind, say, where others have noise
            own = partial(_answers, _built(results, other), text, inputs)
            looks[place] = replace(looks[place], answers=own)
    return Line(arm, number, looks, partial(_answers, model, text, inputs), examples)


_Examples = tuple[Load, Shown, "nn.Module"]


def _answers(model: "nn.Module", text: tuple[int, ...], inputs: "Tensor", trained: "Weights") -> Answers:
    """Of a network with these weights; `text` is the length of texts and how many kinds of tokens there are."""
    weights.put(model, trained)
    names = list(prunable.prunable(model))
    read = reading(model, names, vocabulary=text[1], length=text[0]) if text and text[1] <= MOST_TOKENS else {}
    return Answers(excitement(model, names, inputs), read)


def _look(result: Result, results: Results) -> Look:
    run, values, store = result.row.run, result.values, results.store
    level = Level(
        result.row.level,
        values["density"],
        values["alive"],
        {name: values[name] for name in COLUMNS if name in values},
        _sentence(result, results),
    )

    def mask() -> "Mask":
        living = store.living(run)
        return prunable.full(_model(results)) if living is None else living

    if not models.mixes(run.recipe.model):
        return Look(level, mask, partial(store.weights, run), partial(store.weights, run.start))

    def made(of: "Run") -> "tuple[Weights, Mask]":
        facts, recipe = results.experiment.spec.facts, run.recipe
        model = models.build(recipe.model, facts.shape, facts.classes, recipe.init, init_seed=0)
        weights.put(model, store.weights(of))
        plain, reached = cast(InBasis, model).carried_out(mask())
        return weights.of(plain), reached

    return Look(level, lambda: made(run)[1], lambda: made(run)[0], lambda: made(run.start)[0])


def _sentence(result: Result, results: Results) -> str:
    """The verdict on its level, or what it is a control of shows."""
    row = result.row
    for verdict in _verdicts(results):
        if (verdict.rewind, verdict.level) != (row.rewind, row.level):
            continue
        if verdict.arm == row.arm:
            return f"Verdict: {verdict.label}. {verdict.reason[:1].upper()}{verdict.reason[1:]}."
        control = next((one for one in verdict.controls if one.against == row.arm), None)
        if control:
            return (
                f"{verdict.arm} less {row.arm}: {amount(control.accuracy, results.criteria.metric)} "
                f"({verdict.arm} {control.result})."
            )
    return "The dense network." if row.arm == "dense" else ""


def _verdicts(results: Results) -> Iterator[Verdict]:
    yield from results.verdicts
    for others in results.other_verdicts.values():
        yield from others


def _coordinates(results: Results) -> list[str]:
    arms = dict.fromkeys(one.row.arm for one in results.rows if models.mixes(one.row.run.recipe.model))
    return [COORDINATES.format(arms=", ".join(arms))] if arms else []


def _draws(results: Results) -> list[str]:
    further = sum(1 for result in results.rows if result.row.draw)
    said = f"Of controls that are drawn several times only the first draw is here: {further} are not."
    return [said] if further else []
