"""The values of an experiment: a `Spec`, and the `Experiment` that it becomes with a name."""

import hashlib
import re
import shlex
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    InstanceOf,
    SerializeAsAny,
    SerializerFunctionWrapHandler,
    ValidationInfo,
    create_model,
    model_serializer,
    model_validator,
)
from pydantic_core import PydanticCustomError

from tombola import bases, data, models
from tombola.bases import BASES
from tombola.data import variants
from tombola.data.facts import Facts
from tombola.engine import Choice
from tombola.engine.machine import Device
from tombola.lab import presets
from tombola.lab.extension import Extension
from tombola.lab.fields import MOST, fractions
from tombola.lab.members import BUILT_IN, Members
from tombola.lab.studies import study_table
from tombola.method import Method, SearchOptions
from tombola.pruning import SCOPES, Round, by_kind
from tombola.recipe import Recipe
from tombola.steps import Step
from tombola.study.sequential import FIRST, LAST, Looks
from tombola.value import Count, Number, Proportion, StepField, Value, listed

if TYPE_CHECKING:
    StudySpec = Value
else:
    StudySpec = study_table(BUILT_IN.studies)

_LATER = ("draws", "densities", "arm")  # absent where empty
MOST_LOOKS = 100  # replicates: their boundary takes a second for every hundred
MOST_MARGIN = 0.1  # of accuracy: whoever asks for more means points


def _points(value: Any) -> Any:
    # `1pt` is one percentage point: 0.01.
    if isinstance(value, str) and (match := re.fullmatch(r"([0-9]*\.?[0-9]+) *pt", value)):
        value = float(match[1]) / 100
    if isinstance(value, int | float) and not isinstance(value, bool) and value > MOST_MARGIN:
        raise ValueError(f"a fraction of at most {MOST_MARGIN:g} (0.01 is one point), or points like 1pt")
    return value


def _member(kind: str) -> AfterValidator:
    """A name that a member of the kind has, of those that the spec is read with."""

    def known(name: str, info: ValidationInfo) -> str:
        return _among(list((info.context or BUILT_IN.tables)[kind]), name)

    return AfterValidator(known)


def _arm(name: str, info: ValidationInfo) -> str:
    """The name of an arm: the ticket, a control of it, a method, one that the spec declares."""
    tables = info.context or BUILT_IN.tables
    return _among(["ticket", *tables["controls"], *tables["methods"], *info.data.get("arm", ())], name)


def _among(names: Sequence[str], name: str) -> str:
    if name not in names:
        *others, last = map(repr, names)
        either = f"{', '.join(others)} or {last}"
        raise PydanticCustomError("literal_error", "Input should be {expected}", {"expected": either})
    return name


def _scope_of_basis(table: Any) -> Any:
    """A basis in which groups go together is a scope of the weights themselves, under either name."""
    basis = table.get("basis") if isinstance(table, dict) else None
    if not isinstance(basis, str) or basis not in BASES or not (scope := BASES[basis].scope):
        return table
    if table.get("scope", scope) != scope:
        raise ValueError(f"no other scope beside basis = {basis!r}, which is scope = {scope!r}")
    return {name: value for name, value in table.items() if name != "basis"} | {"scope": scope}


class PruneSpec(Value):
    """How much goes in each round, and where.

    Attributes:
        scope: `layer`: each layer loses its rate of its living weights; `global`: all layers together lose `rate`;
            `n_of_m`: of every m weights along a layer's inputs n stay, at once; `channel`: each layer loses its rate of
            its living channels, with all weights that make and read them; `channel_global`: all layers together lose
            `rate` of theirs; more in `pruning.SCOPES`.
        rate: of linear layers, and of the whole in the global scope.
        conv_rate, output_rate: of convolutions and of the last linear layer; like `rate` where absent; layer scope.
        keep: kinds (`output`, `conv`, ...), names of weights or patterns of names (`*.shortcut.*`) that are never
            pruned and not counted.
        include: parameters that are pruned and counted beside the weights of layers, at `rate`: names, or patterns of
            names of matrices; what `keep` names too stays dense.
        score: what decides.
        n, m: of the scope `n_of_m`.
        multiple: of the scopes of channels: what their number in a layer divides by afterwards; None for anything.
        basis: in which the numbers are taken that are pruned, as `bases` has them; None, and in words `identity`, for
            the weights themselves.
    """

    scope: Annotated[str, AfterValidator(partial(_among, list(SCOPES)))] = "layer"
    rate: Proportion = 0.2
    conv_rate: Proportion | None = None
    output_rate: Proportion | None = None
    keep: Annotated[tuple[str, ...], BeforeValidator(listed)] = ()
    include: Annotated[tuple[str, ...], BeforeValidator(listed)] = ()
    score: Annotated[str, _member("scores")] = "magnitude"
    n: Annotated[Count, Field(ge=1)] | None = None
    m: Annotated[Count, Field(ge=2, le=MOST)] | None = None
    multiple: Annotated[Count, Field(ge=2, le=MOST)] | None = None
    basis: Annotated[str | None, AfterValidator(lambda name: name and bases.chosen(name))] = None

    _groups = model_validator(mode="before")(_scope_of_basis)

    def in_basis(self, basis: str) -> "PruneSpec":
        """The same on other coordinates, or on other groups, as a basis of this name has them."""
        scope, name = BASES[basis].scope, bases.chosen(basis)
        return self.model_copy(update={"scope": scope, "basis": None} if scope else {"basis": name})

    @property
    def rates(self) -> tuple[tuple[str, float], ...]:
        """(kind, rate) of every kind of layer, nothing left open."""
        conv = self.rate if self.conv_rate is None else self.conv_rate
        output = self.rate if self.output_rate is None else self.output_rate
        return (("linear", self.rate), ("conv", conv), ("embedding", self.rate), ("output", output))

    @property
    def round(self) -> Round:
        """What goes in each round, but for the score, which is one of the members'."""
        rates = by_kind(dict(self.rates), self.scope)
        return Round(self.scope, rates, self.keep, self.include, n=self.n, m=self.m, multiple=self.multiple or 1)

    @model_serializer(mode="wrap")
    def _serialized(self, plain: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # Fields that came later are absent where None: a changed spec's folder is named by its values.
        values: dict[str, Any] = plain(self)
        later = ("n", "m", "multiple", "basis")
        return {name: value for name, value in values.items() if name not in later or value is not None}


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
        until: `decided`: replicates are added to the first five until each question is decided or given up, or there
            are `most_replicates`. Intervals and words are then those of `study.sequential`.
        most_replicates: by default 20, or `replicates` where these are more.
    """

    at: Literal["early-stop", "end"] = "early-stop"
    accuracy_margin: Annotated[Number, BeforeValidator(_points)] = Field(default=0.002, ge=0, le=MOST_MARGIN)
    step_margin: StepField | None = None
    confidence: Number = Field(default=0.95, gt=0.5, lt=1)
    until: Literal["decided"] | None = None
    most_replicates: Count | None = Field(default=None, ge=FIRST, le=MOST_LOOKS)

    @model_serializer(mode="wrap")
    def _serialized(self, plain: SerializerFunctionWrapHandler) -> dict[str, Any]:
        values: dict[str, Any] = plain(self)
        later = ("until", "most_replicates")  # as in `PruneSpec`
        return {name: value for name, value in values.items() if name not in later or value is not None}


def _options(table: Any, method: str, methods: Mapping[str, Method]) -> SearchOptions:
    """What a table says of the choices that a method leaves; of a method that there is not, those of all."""
    known = methods[method].options if isinstance(method, str) and method in methods else SearchOptions
    return table if isinstance(table, SearchOptions) else known.model_validate(table)


def _search(table: Any, info: ValidationInfo) -> SearchOptions:
    return _options(table, info.data.get("method", ""), (info.context or BUILT_IN.tables)["methods"])


class ArmSpec(Value):
    """An arm of its own: a method with what is chosen of it, or a control of that method's tickets.

    Attributes:
        method: by default the one of the arm's name.
        control: None for the method's tickets themselves.
        search: what is chosen of what the method lets one choose; written beside the other two.
    """

    method: Annotated[str, _member("methods")]
    control: Annotated[str, _member("controls")] | None = None
    search: SerializeAsAny[SearchOptions] = SearchOptions()


def _named_arms(tables: Any) -> Any:
    """Tables of arms, each with the method of its name where it names none."""
    if not isinstance(tables, dict):
        return tables
    return {name: {"method": name, **table} if isinstance(table, dict) else table for name, table in tables.items()}


def _arm_spec(table: Any, info: ValidationInfo) -> Any:
    if not isinstance(table, dict) or "search" in table:
        return table
    known = info.context or BUILT_IN.tables
    own = {field: value for field, value in table.items() if field not in ("method", "control")}
    search = _options(own, table["method"], known["methods"])
    return {field: table[field] for field in ("method", "control") if field in table} | {"search": search}


def _levels_of_densities(table: Any) -> Any:
    """As many levels as densities, where these are given."""
    densities = fractions(table.get("densities")) if isinstance(table, dict) else None
    if not densities or not isinstance(densities, list | tuple) or "levels" in table:
        return table
    return {**table, "levels": len(densities)}


class Spec(Value):
    """One experiment; `docs/spec.md` explains each field."""

    about: str = ""
    replicates: Count = Field(default=3, ge=1, le=MOST)
    levels: Count = Field(default=20, ge=0, le=MOST)
    densities: Annotated[tuple[Annotated[Number, Field(gt=0, lt=1)], ...], BeforeValidator(fractions)] = ()
    arm: Annotated[dict[str, Annotated[ArmSpec, BeforeValidator(_arm_spec)]], BeforeValidator(_named_arms)] = Field(
        default={}
    )
    arms: Annotated[tuple[Annotated[str, AfterValidator(_arm)], ...], BeforeValidator(listed)] = Field(
        default=("ticket", "reinit", "random"), min_length=1
    )
    method: Annotated[str, _member("methods")] = "iterative"
    search: Annotated[SerializeAsAny[SearchOptions], BeforeValidator(_search)] = SearchOptions()
    rewind: Annotated[tuple[StepField, ...], BeforeValidator(listed)] = Field(default=(Step("0it"),), min_length=1)
    reinits: Count = Field(default=1, ge=1, le=MOST)
    randoms: Count = Field(default=1, ge=1, le=MOST)
    draws: dict[str, Annotated[Count, Field(ge=1, le=MOST)]] = Field(default={})
    seed: Count = Field(default=0, ge=0)
    carry_optimizer: bool = False
    engine: Choice = "auto"
    device: Device = "auto"
    recipe: Recipe
    prune: PruneSpec = PruneSpec()
    evaluate: EvaluateSpec = EvaluateSpec()
    verdict: VerdictSpec = VerdictSpec()
    study: StudySpec = StudySpec()

    _levels = model_validator(mode="before")(_levels_of_densities)

    @model_serializer(mode="wrap")
    def _serialized(self, plain: SerializerFunctionWrapHandler) -> dict[str, Any]:
        values: dict[str, Any] = plain(self)
        if not self.search.model_fields_set:
            del values["search"]
        return {name: value for name, value in values.items() if name not in _LATER or value}  # as in `PruneSpec`

    @property
    def looks(self) -> Looks | None:
        """After which replicates it is looked at, where they are added until it is decided."""
        if self.verdict.until is None:
            return None
        return Looks(FIRST, self.verdict.most_replicates or min(max(LAST, self.replicates), MOST_LOOKS))

    @property
    def all_replicates(self) -> int:
        """How many replicates there may be."""
        return self.looks.last if self.looks else self.replicates

    @property
    def facts(self) -> Facts:
        """Of the data set that the recipe names, changed as it says; the same in each replicate but for its name."""
        return self.facts_of(self.recipe.data)

    @property
    def scope(self) -> str:
        """In which its ticket is pruned."""
        return self.search.scope or self.prune.scope

    @property
    def mixes(self) -> bool:
        """Whether the parameters that it prunes are coordinates, of which each weight is made of many."""
        basis = self.prune.basis
        return models.mixes(self.recipe.model) or bool(basis and BASES[basis].variant)

    def facts_of(self, name: str, part: str = "") -> Facts:
        """Of a data set as trainings of this spec would have it, or of a part or variant of that.

        Raises:
            ValueError: there is no such data set; says what was expected.
            DataError: it is a folder that is not laid out as it should be.
        """
        changed = variants.named(name, self.recipe.inputs or (), self.recipe.label_noise)
        return data.facts(variants.MARK.join([changed, part]) if part else changed)

    def iterations(self, step: Step) -> int:
        """`step` in optimiser steps of this experiment."""
        return step.iterations(self.facts.epoch_iterations(self.recipe.batch))


def spec_model(members: Members) -> type[Spec]:
    """The model of a spec in which `members` may be named: the studies are fields of its `study` table."""
    if members.studies.keys() == StudySpec.model_fields.keys():
        return Spec
    table = study_table(members.studies)
    fields: dict[str, Any] = {"study": (table, table())}
    return create_model("Spec", __base__=Spec, __doc__=Spec.__doc__, **fields)


class Experiment(Value):
    """A spec with its name, the changes that were made to it, and what it was asked for by: a preset's name, a path.

    Attributes:
        extensions: files that were executed for it.
        members: those that the spec was read with, the extensions' too.
    """

    name: str
    spec: Spec
    changes: tuple[str, ...] = ()
    source: str = ""
    extensions: tuple[InstanceOf[Extension], ...] = Field(default=(), exclude=True)
    members: InstanceOf[Members] = Field(default_factory=lambda: BUILT_IN, exclude=True, repr=False)

    @property
    def asked_by(self) -> str:
        """What to type for it."""
        return " ".join([self.source or self.name, *(f"--extend {shlex.quote(each.path)}" for each in self.extensions)])

    @property
    def record(self) -> dict[str, Any]:
        """The spec as JSON values, and which files were executed for it."""
        executed = [{"path": each.path, "sha256": each.sha256} for each in self.extensions]
        return self.spec.model_dump(mode="json") | ({"extensions": executed} if executed else {})

    @property
    def origin(self) -> str:
        """What tells it from others of its name: where its file lies; a preset's name."""
        source = self.source or self.name
        return source if source in presets.names() else str(Path(source).resolve())

    @property
    def folder(self) -> str:
        """Where its report goes: a changed or extended one does not write over the report of the one it came from."""
        name = self.name.lstrip(".") or "spec"  # never `..`, as a file `...toml` would have it, nor hidden
        if not self.changes and not self.extensions:
            return name
        parts = [self.spec.model_dump_json(), *(each.sha256 for each in self.extensions)]
        return f"{name}-{hashlib.sha256(''.join(parts).encode()).hexdigest()[:8]}"
