"""An experiment in words: a TOML file, read and checked once, every fault reported at once with its path."""

import difflib
import hashlib
import re
import tomllib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, BeforeValidator, Field, ValidationError

from tombola import data, models
from tombola.data import subset, tokenised
from tombola.data.facts import Facts
from tombola.engine import Choice, Device
from tombola.errors import BadInput, DataError, Fault, SpecError
from tombola.lab import presets
from tombola.models import hf
from tombola.names import named
from tombola.recipe import Count, Number, Optimizer, Rate, Recipe, Schedule, StepField, Value
from tombola.steps import Step

Method = Literal["iterative", "continued", "one-shot", "lr-rewind", "fine-tune"]
Control = Literal["reinit", "random", "shuffle"]
Arm = Literal["ticket", "reinit", "random", "shuffle", "iterative", "continued", "one-shot", "lr-rewind", "fine-tune"]

# Their levels go on from trained weights: no tickets in the formal sense, and the controls, which ask what the early
# weights and the mask are worth by themselves, ask nothing of them.
KEEP_TRAINED_WEIGHTS: tuple[Method, ...] = ("lr-rewind", "fine-tune")

MOST = 1_000_000  # of anything that is counted, and of trainings and measurements in one plan
MOST_STEPS = 100_000_000  # of one training


MOST_MARGIN = 0.1  # of accuracy: whoever asks for more means points


def _listed(value: Any) -> Any:
    # `--set arms=ticket` and `--set arms=ticket,reinit` mean a list.
    if isinstance(value, str):
        return [part.strip() for part in value.split(",")]
    return [value] if isinstance(value, int | float) else value


def _numbers(value: Any) -> Any:
    # `--set study.overlap.levels=3` and `=3,4` mean a list.
    if isinstance(value, str) and all(part.strip().isdecimal() for part in value.split(",")):
        return [int(part) for part in value.split(",")]
    return [value] if isinstance(value, int) and not isinstance(value, bool) else value


def _points(value: Any) -> Any:
    # `1pt` is one percentage point: 0.01.
    if isinstance(value, str) and (found := re.fullmatch(r"([0-9]*\.?[0-9]+) *pt", value)):
        value = float(found[1]) / 100
    if isinstance(value, int | float) and not isinstance(value, bool) and value > MOST_MARGIN:
        raise ValueError(f"a fraction of at most {MOST_MARGIN:g} (0.01 is one point), or points like 1pt")
    return value


class PruneSpec(Value):
    """How much goes in each round, and where.

    Attributes:
        scope: `layer`: each layer loses its rate of its living weights; `global`: all layers together lose `rate`.
        rate: of linear layers, and of the whole in the global scope.
        conv_rate, output_rate: of convolutions and of the last linear layer; like `rate` where absent; layer scope.
        keep: kinds (`output`, `conv`, ...), names of weights or patterns of names (`*.shortcut.*`) that are never
            pruned and not counted.
        include: parameters that are pruned and counted beside the weights of layers, at `rate`: names, or patterns of
            names of matrices; what `keep` names too stays dense.
        score: what decides.
    """

    scope: Literal["layer", "global"] = "layer"
    rate: Rate = 0.2
    conv_rate: Rate | None = None
    output_rate: Rate | None = None
    keep: Annotated[tuple[str, ...], BeforeValidator(_listed)] = ()
    include: Annotated[tuple[str, ...], BeforeValidator(_listed)] = ()
    score: Literal["magnitude", "random"] = "magnitude"

    @property
    def rates(self) -> tuple[tuple[str, float], ...]:
        """(kind, rate) of every kind of layer, nothing left open."""
        conv = self.rate if self.conv_rate is None else self.conv_rate
        output = self.rate if self.output_rate is None else self.output_rate
        return (("linear", self.rate), ("conv", conv), ("embedding", self.rate), ("output", output))


class EvaluateSpec(Value):
    """When a training is looked at: the validation loss every `every`, the curves' test accuracy every `test_every`."""

    every: StepField = Step("100it")
    test_every: StepField = Step("500it")


class VerdictSpec(Value):
    """What counts as as good, and as fast.

    Attributes:
        at: where in a training accuracy is compared: at the `early-stop`, whose step is compared too, or at the `end`,
            where learning rates fall late and the two cannot be told apart (VGG and ResNets in the papers).
        accuracy_margin: test accuracy (a fraction; `1pt` is 0.01) that a ticket may lie below the dense network and
            still match it.
        step_margin: steps by which its early stop may come later; by default one interval between two looks, as an
            early stop is not known more exactly.
        confidence: of every interval.
    """

    at: Literal["early-stop", "end"] = "early-stop"
    accuracy_margin: Annotated[Number, BeforeValidator(_points)] = Field(default=0.002, ge=0, le=MOST_MARGIN)
    step_margin: StepField | None = None
    confidence: Number = Field(default=0.95, gt=0.5, lt=1)


Levels = Annotated[tuple[Annotated[int, Field(strict=True, ge=0)], ...], BeforeValidator(_numbers)]


class StabilitySpec(Value):
    """Where two trainings of a ticket end, and where a ticket ends beside the dense network: `study.stability`.

    Attributes:
        levels: of the tickets.
        orders: trainings of each, in as many data orders: the ticket's own and others.
    """

    levels: Levels = Field(min_length=1)
    orders: Count = Field(default=2, ge=2, le=MOST)


class ConnectivitySpec(Value):
    """How high the error rises between two trainings from one start in different data orders: `study.connectivity`.

    Attributes:
        levels: of the networks; 0 is the dense one.
        arms: which networks at these levels, beside the ticket's.
        orders: trainings of each; every two of them are a pair.
        points: on the line between two, its ends included.
        examples: of the training set and of the test set each, at which the error is measured; None for all.
    """

    levels: Levels = Field(min_length=1)
    arms: Annotated[tuple[Literal["ticket", "random", "reinit"], ...], BeforeValidator(_listed)] = Field(
        default=("ticket",), min_length=1
    )
    orders: Count = Field(default=3, ge=2, le=MOST)
    points: Count = Field(default=30, ge=2, le=MOST)
    examples: Annotated[Count, Field(gt=0, le=MOST_STEPS)] | None = None


class OverlapSpec(Value):
    """How alike the masks of two replicates' tickets are, layer by layer, beside chance: `study.overlap`."""

    levels: Levels = Field(min_length=1)


class StudySpec(Value):
    """What else is asked of an experiment's networks."""

    stability: StabilitySpec | None = None
    connectivity: ConnectivitySpec | None = None
    overlap: OverlapSpec | None = None


class Spec(Value):
    """One experiment; `docs/spec.md` explains each field."""

    about: str = ""
    replicates: Count = Field(default=3, ge=1, le=MOST)
    levels: Count = Field(default=20, ge=0, le=MOST)
    arms: Annotated[tuple[Arm, ...], BeforeValidator(_listed)] = Field(
        default=("ticket", "reinit", "random"), min_length=1
    )
    method: Method = "iterative"
    rewind: Annotated[tuple[StepField, ...], BeforeValidator(_listed)] = Field(default=(Step("0it"),), min_length=1)
    reinits: Count = Field(default=1, ge=1, le=MOST)
    randoms: Count = Field(default=1, ge=1, le=MOST)
    seed: Count = Field(default=0, ge=0)
    carry_optimizer: bool = False
    engine: Choice = "auto"
    device: Device = "auto"
    recipe: Recipe
    prune: PruneSpec = PruneSpec()
    evaluate: EvaluateSpec = EvaluateSpec()
    verdict: VerdictSpec = VerdictSpec()
    study: StudySpec = StudySpec()

    @property
    def facts(self) -> Facts:
        """Of the data set that the recipe names."""
        return data.facts(self.recipe.data)

    def iterations(self, step: Step) -> int:
        """`step` in optimiser steps of this experiment."""
        return step.iterations(self.facts.epoch_iterations(self.recipe.batch))


class Experiment(Value):
    """A spec with its name, the changes that were made to it, and what it was asked for by: a preset's name, a path."""

    name: str
    spec: Spec
    changes: tuple[str, ...] = ()
    source: str = ""

    @property
    def asked_by(self) -> str:
        """What to type for it."""
        return self.source or self.name

    @property
    def origin(self) -> str:
        """What tells it from others of its name: where its file lies; a preset's name."""
        return self.asked_by if self.asked_by in presets.names() else str(Path(self.asked_by).resolve())

    @property
    def folder(self) -> str:
        """Where its report goes: a changed spec does not write over the report of the one it came from."""
        name = self.name.lstrip(".") or "spec"  # never `..`, as a file `...toml` would have it, nor hidden
        if not self.changes:
            return name
        return f"{name}-{hashlib.sha256(self.spec.model_dump_json().encode()).hexdigest()[:8]}"


def read(source: str, changes: Iterable[str] = ()) -> Experiment:
    """The experiment that `source` names, with `changes` made to it.

    Args:
        source: a preset's name, or the path of a TOML file.
        changes: `path=value` each, like `recipe.length=1000it`; values are written as in TOML, quotes may be left out.

    Raises:
        SpecError: it has faults; all of them are listed.
        BadInput: there is no such preset or file, or it is not TOML.
    """
    name, text = _text(source)
    changes = tuple(changes)
    try:
        table = tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # too many digits and too many brackets are none of TOML's own
        raise BadInput(
            where=source, expected="TOML", found=f"a syntax error: {error}", todo="See docs/spec.md for an example."
        ) from error
    faults = [fault for change in changes if (fault := _change(table, change))] or list(_undone(changes))
    if faults:
        raise SpecError(source, faults)
    try:
        spec = Spec.model_validate(table)
    except ValidationError as error:
        details = error.errors()
        # A list of which every element is wrong is not also too short.
        elements = {detail["loc"][:-1] for detail in details if isinstance(detail["loc"][-1], int)}
        real = [detail for detail in details if not (detail["type"] == "too_short" and detail["loc"] in elements)]
        raise SpecError(source, [*(_fault(detail, table) for detail in real), *_unknown(table)]) from None
    faults = list(_unknown(table)) or list(_contradictions(spec))
    if faults:
        raise SpecError(source, faults)
    return Experiment(name=name, spec=spec, changes=changes, source=source)


def _text(source: str) -> tuple[str, str]:
    path = Path(source)
    if source in presets.names():
        return source, presets.text(source)
    try:
        return path.stem, path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        todo = "`tombola presets` lists the experiments that come along"
        if close := difflib.get_close_matches(source.lower(), presets.names(), n=1):
            todo = f"Did you mean {close[0]}? {todo}."
        else:
            todo += "." if path.suffix or path.parent.name else ": " + ", ".join(presets.names()) + "."
        kinds = {
            FileNotFoundError: "no such file",
            IsADirectoryError: "a folder",
            UnicodeDecodeError: "a file that is not text",
        }
        reason = kinds.get(type(error), str(error))
        raise BadInput(
            where=source,
            expected="a preset or a TOML file",
            found=reason,
            todo=todo,
        ) from error


def _change(table: dict[str, Any], change: str) -> Fault | None:
    path, equals, text = change.partition("=")
    if not equals or not path.strip():
        return Fault(f"--set {change}", "path=value", repr(change), "like --set recipe.length=1000it")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except (ValueError, RecursionError):
        value = text.strip()
    *parents, last = path.strip().split(".")
    for parent in parents:
        table = table.setdefault(parent, {})
        if not isinstance(table, dict):
            return Fault(path, f"a table at {parent}", repr(table), "only tables have fields")
    if value == "none":  # TOML has no word for what is absent
        table.pop(last, None)
    else:
        table[last] = value
    return None


def _undone(changes: Sequence[str]) -> Iterable[Fault]:
    """Changes that a later one takes back: one of the same field, or of the table that it is in."""
    paths = [change.partition("=")[0].strip() for change in changes]
    for number, path in enumerate(paths):
        for earlier, change in zip(paths[:number], changes, strict=False):
            if earlier == path or earlier.startswith(f"{path}."):
                yield Fault(f"--set {path}", "one value", f"--set {change} before it", "leave one of them out")


_MODELS: dict[str, type[BaseModel]] = {
    "": Spec,
    "recipe": Recipe,
    "prune": PruneSpec,
    "evaluate": EvaluateSpec,
    "verdict": VerdictSpec,
    "study": StudySpec,
    "study.stability": StabilitySpec,
    "study.connectivity": ConnectivitySpec,
    "study.overlap": OverlapSpec,
}


def _members(union: Any) -> dict[str, type[BaseModel]]:
    """name -> model of a union whose members are told apart by their `name`."""
    return {get_args(member.model_fields["name"].annotation)[0]: member for member in get_args(get_args(union)[0])}


_MEMBERS = {"optimizer": _members(Optimizer), "schedule": _members(Schedule)}


def _fault(detail: Any, table: Mapping[str, Any]) -> Fault:
    """One of pydantic's errors in our words."""
    # Inside a union pydantic's path holds the member's tag, which the reader never wrote.
    where = [
        str(part)
        for place, part in enumerate(detail["loc"])
        if not (place and part in _MEMBERS.get(detail["loc"][place - 1], {}))
    ]
    path, found = ".".join(where), repr(detail["input"])
    match detail["type"]:
        case "missing":
            return Fault(path, "a value", "nothing", _example(path))
        case "extra_forbidden":
            return Fault(path, "a known field", f"the unknown field {where[-1]!r}", _hint(where, table))
        case "union_tag_invalid" | "union_tag_not_found":
            return Fault(
                f"{path}.name",
                detail["ctx"].get("expected_tags", "a name, like {name = 'adam', lr = 1.2e-3}").replace("'", ""),
                repr(detail["input"].get("name")) if isinstance(detail["input"], dict) else found,
            )
        case "literal_error":
            return Fault(path, "one of " + detail["ctx"]["expected"].replace("'", ""), found)
        case "value_error":
            return Fault(path, str(detail["ctx"]["error"]), found)
        case "model_type" | "model_attributes_type" | "dict_type":
            return Fault(path, "a table", found, _example(path))
        case "tuple_type":
            return Fault(path, "a list", found)
        case "too_short":
            return Fault(path, "a list with at least one entry", found)
    message = detail["msg"].removeprefix("Input should be ")
    for words, sign in _SIGNS.items():
        message = message.replace(words, f"a number {sign}")
    return Fault(path, message.split(",")[0].replace("a valid integer", "an integer").replace("a valid", "a"), found)


_SIGNS = {
    "greater than or equal to": ">=",
    "less than or equal to": "<=",
    "greater than": ">",
    "less than": "<",
}


def _example(path: str) -> str:
    examples = {
        "recipe": "a table like that of `tombola presets digits`",
        "recipe.model": 'model = "lenet-300-100"',
        "recipe.data": 'data = "mnist"',
        "recipe.length": 'length = "5000it"',
        "recipe.batch": "batch = 60",
        "recipe.optimizer": 'optimizer = {name = "adam", lr = 1.2e-3}',
        "recipe.schedule": 'schedule = {name = "cosine"}',
    }
    return examples.get(path, "")


def _hint(where: list[str], table: Mapping[str, Any]) -> str:
    """What somebody may have meant by an unknown field: one nearby of a similar name, or one of its name elsewhere."""
    *parents, name = where
    fields = _fields(parents, table)
    if name == "momentum" and "betas" in fields:
        return "Adam's is the first of betas, 0.9 in betas = [0.9, 0.999]"
    if name in _SYNONYMS:
        return f"did you mean {_SYNONYMS[name]}?"
    paths = {path.rpartition(".")[2]: path for path in sorted(_paths(), key=lambda path: -path.count("."))} | _SYNONYMS
    if close := difflib.get_close_matches(name, fields, n=1):
        return f"did you mean {close[0]}?"
    if elsewhere := difflib.get_close_matches(name.lower(), set(paths) - {"name"}, n=1, cutoff=0.9):
        meant = paths[elsewhere[0]]
        return f"did you mean {meant}{', at the top' if parents and '.' not in meant else ''}?"
    return "known are " + ", ".join(sorted(fields))


# What other programs call it.
_SYNONYMS = {
    "batch_size": "recipe.batch",
    "dataset": "recipe.data",
    "epochs": "recipe.length",
    "iterations": "recipe.length",
    "learning_rate": "recipe.optimizer.lr",
    "rewind_step": "rewind",
    "rounds": "levels",
    "seeds": "replicates",
    "steps": "recipe.length",
}


def _paths() -> Iterable[str]:
    """The path of every field that a spec can have."""
    for parent, model in _MODELS.items():
        yield from (f"{parent}.{name}".lstrip(".") for name in model.model_fields)
    for field, members in _MEMBERS.items():
        yield from (f"recipe.{field}.{name}" for member in members.values() for name in member.model_fields)


def _fields(parents: list[str], table: Mapping[str, Any]) -> set[str]:
    """The fields known below `parents`, as far as that can be told."""
    if ".".join(parents) in _MODELS:
        return set(_MODELS[".".join(parents)].model_fields)
    inner = table.get("recipe", {}).get(parents[-1], {})
    chosen = _MEMBERS.get(parents[-1], {}).get(inner.get("name", "") if isinstance(inner, dict) else "")
    return set(chosen.model_fields) if chosen else set()


def _unknown(table: Mapping[str, Any]) -> Iterable[Fault]:
    """Names in the recipe, as it was written, that no data set and no model has; a model that the data do not fit."""
    recipe = table.get("recipe")
    name, model = (recipe.get("data"), recipe.get("model")) if isinstance(recipe, dict) else (None, None)
    facts, what = None, ""
    if isinstance(name, str):
        try:
            facts = data.facts(name)
            what = f"an input of {facts.name} is {_by(facts.shape)}"
        except ValueError as error:
            yield Fault("recipe.data", str(error), repr(name), _meant(name))
        except DataError as error:
            yield Fault("recipe.data", f"{error.expected} in {error.where}", error.found, error.todo)
    if isinstance(model, str):
        try:
            models.check(model, *((facts.shape, facts.classes) if facts else models.taken(model)))
        except ValueError as error:
            meant = models.meant(model)
            yield Fault("recipe.model", str(error), repr(model), f"did you mean {meant}?" if meant else what)


def _meant(name: str) -> str:
    """Which data set somebody who wrote `name` may have meant; of as many examples, where it asks for a part."""
    if name.lower() in ("imagenet", "imagenet-1k", "ilsvrc2012"):
        return (
            "ImageNet is not downloaded: recipe.data=folder:PATH reads PATH/train/CLASS/*.jpg and PATH/val/CLASS/*.jpg"
        )
    whole, size = subset.parts(name)
    same = {_bare(source): source for source in data.SOURCES}
    if _bare(name) in same:  # cifar-10 is no part of ten examples
        return f"did you mean {same[_bare(name)]}?"
    close = (
        [same[_bare(whole)]] if _bare(whole) in same else difflib.get_close_matches(whole.lower(), data.SOURCES, n=1)
    )
    meant = close[0] + (f"-{size}" if size else "") if close else ""
    return f"did you mean {meant}?" if meant not in ("", name) else ""


def _bare(name: str) -> str:
    return re.sub(r"[-_ ]", "", name.lower())


def _by(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))


def _contradictions(spec: Spec) -> Iterable[Fault]:
    """What each field alone allows and all together do not."""
    recipe, facts = spec.recipe, spec.facts
    length = spec.iterations(recipe.length)
    if not 0 < length <= MOST_STEPS:
        bound = "at least one step" if length == 0 else f"at most {MOST_STEPS:,} steps"
        yield Fault("recipe.length", bound, repr(str(recipe.length)))
    yield from _endless(spec)
    yield from _foreign(recipe)
    if recipe.augment and recipe.augment not in (known := data.augmentations(recipe.data)):
        yield Fault(
            "recipe.augment",
            " or ".join(known) or "none, as texts are not changed",
            repr(recipe.augment),
            "resized-crop is for folders of pictures",
        )
    if recipe.normalise and facts.text:
        yield Fault("recipe.normalise", "none, as texts are not changed", repr(recipe.normalise))
    for milestone in getattr(recipe.schedule, "milestones", ()):
        if spec.iterations(milestone) >= max(length, 1):
            yield Fault(
                "recipe.schedule.milestones", f"steps before recipe.length, {recipe.length}", repr(str(milestone))
            )
    if recipe.batch > facts.train:
        yield Fault("recipe.batch", f"at most the {facts.train:,} training examples of {facts.name}", str(recipe.batch))
    points = [spec.iterations(step) for step in spec.rewind]
    for text, step in zip(spec.rewind, points, strict=True):
        if step >= max(length, 1):
            yield Fault("rewind", f"steps before the end of the training, {recipe.length}", repr(str(text)))
    yield from _repeated("rewind", "step", points, "iterations ")
    if spec.iterations(recipe.warmup) > length:
        yield Fault("recipe.warmup", f"at most recipe.length, {recipe.length}", repr(str(recipe.warmup)))
    for name in ("every", "test_every"):
        if spec.iterations(getattr(spec.evaluate, name)) == 0:
            yield Fault(f"evaluate.{name}", "at least one step", repr(str(getattr(spec.evaluate, name))))
    if spec.carry_optimizer and 0 in points:
        yield Fault("carry_optimizer", "false where rewind is 0it", "true", "before the first step there is no state")
    yield from _misnamed_layers(spec)
    if spec.method in KEEP_TRAINED_WEIGHTS:
        for control in (arm for arm in spec.arms if arm in get_args(Control)):
            why = f"{spec.method} goes on from trained weights, of which this control would ask nothing"
            yield Fault("arms", "only ticket and other methods", repr(control), why)
    if spec.prune.scope == "global":
        for name in ("conv_rate", "output_rate"):
            if getattr(spec.prune, name) is not None:
                yield Fault(
                    f"prune.{name}",
                    "absent in the global scope",
                    str(getattr(spec.prune, name)),
                    f"--set prune.{name}=none leaves it out; prune.keep leaves layers dense",
                )
    if recipe.optimizer.name == "sgd" and recipe.optimizer.nesterov and recipe.optimizer.momentum == 0:
        yield Fault("recipe.optimizer.momentum", "more than 0, as Nesterov's step needs it", "0.0")
    yield from _misplaced_studies(spec)
    if "ticket" not in spec.arms:
        yield Fault("arms", "ticket among them", repr(list(spec.arms)), "the other arms are compared with it")
    yield from _repeated("arms", "arm", spec.arms)
    if spec.method in spec.arms:
        yield Fault(
            "arms",
            "other methods than the one of the ticket arm",
            repr(spec.method),
            f"method = {spec.method!r} is what `ticket` is",
        )


def _endless(spec: Spec) -> Iterable[Fault]:
    """A plan that nobody could carry out, nor even list."""
    tables = spec.replicates * len(spec.rewind)
    draws = {"reinit": spec.reinits, "random": spec.randoms}
    rows = tables * (1 + spec.levels * sum(draws.get(arm, 1) for arm in spec.arms))
    if rows > MOST:
        counts = {name: getattr(spec, name) for name in ("replicates", "levels", "reinits", "randoms")}
        largest = max(counts, key=counts.__getitem__)
        yield Fault(
            largest,
            f"a plan of at most {MOST:,} trainings",
            f"{counts[largest]:,}, with which there are {rows:,}",
            "they are counted over replicates, rewind steps, levels, arms and their draws",
        )
    for name in ("stability", "connectivity"):
        study = getattr(spec.study, name)
        if study is None:
            continue
        arms = 2 if name == "stability" else len(study.arms)
        asked = tables * len(study.levels) * arms * (study.orders * (study.orders - 1) // 2)
        if asked > MOST:
            yield Fault(
                f"study.{name}.orders",
                f"a study of at most {MOST:,} measurements",
                f"{study.orders:,}, with which there are {asked:,}",
                "every two data orders are a measurement, at each level, in each replicate",
            )


def _repeated(path: str, what: str, given: Sequence[str | int], unit: str = "") -> Iterable[Fault]:
    """What a list has several times: its answers would count as several, too."""
    for one, times in Counter(given).items():
        if times > 1:
            yield Fault(path, f"each {what} once", f"{one} {unit}{times} times")


def _foreign(recipe: Recipe) -> Iterable[Fault]:
    """Checkpoints of other libraries, their tokens and their weights, which belong together."""
    source = models.source(recipe.model)
    tokens = recipe.data.partition("@")[2] if data.is_tokenised(recipe.data) else None
    if source != tokens:
        yield Fault(
            "recipe.data",
            f"sentences in the tokens of its model, like sst2@{source}" if source else "a data set without a tokenizer",
            repr(recipe.data),
            "" if source else f"or model = 'hf:{tokens}', whose tokens these are",
        )
    elif source and (padding := tokenised.padding(recipe.data)) != (masked := hf.padding(recipe.model)):
        yield Fault("recipe.model", f"pad_token_id {padding} in its config.json, as its tokenizer pads", str(masked))
    if recipe.init == "pretrained" and source is None:
        yield Fault("recipe.init", "a way to draw weights", "'pretrained'", f"{recipe.model} has no checkpoint")


def _misnamed_layers(spec: Spec) -> Iterable[Fault]:
    """What `prune.include` and `prune.keep` name that the model does not have; or all that it has."""
    try:
        kinds = models.kinds(spec.recipe.model, spec.facts.shape, spec.facts.classes, spec.prune.include)
    except BadInput as error:
        yield Fault("prune.include", error.expected, error.found, error.todo)
        return
    layers = list(kinds)
    known = [kind for kind, _ in spec.prune.rates]
    first, *_, last = layers
    if named(spec.prune.keep, kinds) == kinds.keys():
        found = f"{', '.join(spec.prune.keep)}, which keeps all {len(layers)} layers"
        yield Fault("prune.keep", "a layer that is left to prune", found, "--set prune.keep=none prunes all layers")
    for entry in spec.prune.keep:
        if entry in known or named([entry], kinds):
            continue
        longer = (f"{entry}.weight", f"{entry}*", f"*{entry}*")
        fitting = [wider for wider in longer if named([wider], kinds) not in (set(), kinds.keys())]
        close = fitting[:1] or difflib.get_close_matches(entry, [*known, *layers], n=1)
        meant = f"did you mean {close[0]}?" if close else "* stands for anything, as in *.conv1.weight"
        yield Fault(
            "prune.keep",
            f"kinds ({', '.join(known)}), or weights of the model ({first}, ..., {last}) or patterns of their names",
            repr(entry),
            meant if entry else "--set prune.keep=none prunes all layers",
        )


def _misplaced_studies(spec: Spec) -> Iterable[Fault]:
    """Studies of levels or arms that the experiment does not have."""
    for name, study in spec.study:
        if study is None:
            continue
        least = 0 if name == "connectivity" else 1
        if spec.levels < least:
            yield Fault(f"study.{name}", "a spec with levels >= 1, as it is about tickets", f"levels = {spec.levels}")
            continue
        for level in study.levels:
            if not least <= level <= spec.levels:
                yield Fault(f"study.{name}.levels", f"levels from {least} to {spec.levels}, the spec's", str(level))
        yield from _repeated(f"study.{name}.levels", "level", study.levels)
        if spec.method in KEEP_TRAINED_WEIGHTS:
            yield Fault(f"study.{name}", "a method that rewinds to early weights", repr(spec.method), "or no study")
    if spec.study.connectivity:
        yield from _repeated("study.connectivity.arms", "arm", spec.study.connectivity.arms)
    if spec.study.overlap and spec.replicates < 2:
        yield Fault("study.overlap", "two replicates at least, whose masks are compared", str(spec.replicates))
