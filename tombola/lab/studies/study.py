"""What a study is: its table in the spec, the questions it asks, what it finds in the answers, how that is drawn.

A study asks more of an experiment's networks than its table of trainings shows: `Study` is one of them, declared once
with everything that plan, run, command line and report need of it. It is handed the experiment as

    Setting   the spec, its method and its controls            to say what of its table cannot be
    Series    one replicate's tickets at one rewind step       to ask its questions, each with the run that answers it
    Evidence  all that is finished                             to say what it found

Nothing here imports torch or altair: a plan needs the tables and the questions, and is made in a moment.
"""

from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import combinations
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol

from pydantic import SerializerFunctionWrapHandler, create_model, model_serializer

from tombola import replicate
from tombola.charts import Figure
from tombola.control import Control
from tombola.data.facts import Facts
from tombola.errors import Fault
from tombola.lab.kinds import Train
from tombola.lab.row import Row
from tombola.lab.runs import Run
from tombola.lab.store import Store
from tombola.mark import Mark
from tombola.method import Method, SearchOptions
from tombola.recipe import Recipe
from tombola.steps import Step
from tombola.value import Value

if TYPE_CHECKING:
    from tombola.mask import Mask


class Criterion(Protocol):
    """Where in a training the verdict compares accuracy."""

    @property
    def at(self) -> Literal["early-stop", "end"]: ...


class ExperimentSpec(Protocol):
    """What a study reads of a spec beside its own table."""

    @property
    def levels(self) -> int: ...
    @property
    def all_replicates(self) -> int: ...
    @property
    def rewind(self) -> tuple[Step, ...]: ...
    @property
    def arms(self) -> tuple[str, ...]: ...
    @property
    def recipe(self) -> Recipe: ...
    @property
    def search(self) -> SearchOptions: ...
    @property
    def scope(self) -> str: ...
    @property
    def verdict(self) -> Criterion: ...
    @property
    def facts(self) -> Facts: ...
    def iterations(self, step: Step, /) -> int: ...


class StudyReplicate(replicate.MethodReplicate[Train], Protocol):
    """What a study can ask of a replicate: what methods can, its number, step k, and trainings in other data orders."""

    @property
    def number(self) -> int: ...
    @property
    def rewind_step(self) -> int: ...
    @property
    def earlier(self) -> "StudyReplicate | None": ...
    def reordered(self, training: Train, order: int, /) -> Train: ...


Marks = Mapping[str, Mark]  # by the name of the arm


@dataclass(frozen=True)
class Setting:
    """The experiment that a study is part of.

    Attributes:
        method: that makes its tickets.
        controls: the names of those that can be made of them.
    """

    spec: ExperimentSpec
    method: Method
    controls: Sequence[str]

    @property
    def rewinds(self) -> bool:
        """Whether its tickets are trained from early weights."""
        return self.method.rewinds or self.spec.search.apart

    @property
    def tables(self) -> int:
        """How often a study is asked: in each replicate, at each rewind step."""
        return self.spec.all_replicates * len(self.spec.rewind)


@dataclass(frozen=True)
class Question:
    """One measurement on an experiment's networks, and the run that makes it.

    Attributes:
        study: that asks.
        arm: whose networks they are, `dense` at level 0.
        replicate, level: which repetition, how many rounds of pruning.
        rewind: k, the step that the networks start from, in optimiser steps.
        run: that answers.
        density_of: a training at whose density the answer holds.
        part: which of the study's measurements it is, where there are several.
        names: what people call the runs that it needs, where they are in no table.
    """

    study: str
    arm: str
    replicate: int
    level: int
    rewind: int
    run: Run
    density_of: Train
    part: str = ""
    names: tuple[tuple[Run, str], ...] = ()

    @property
    def name(self) -> str:
        """What people call the run that answers it."""
        return f"{self.part or self.study} of {self.arm} {self.level}"


@dataclass(frozen=True)
class TrainingPair:
    """Two trainings, and the data order of each."""

    left: Train
    right: Train
    orders: tuple[int, int]

    def names(self, arm: str, level: int) -> tuple[tuple[Run, str], ...]:
        """What people call the two, where they are in no table."""
        ends = zip((self.left, self.right), self.orders, strict=True)
        return tuple((run, f"{arm} {level} in data order {order}") for run, order in ends)


def _alone() -> "Series | None":
    return None


def _unchanging(change: str) -> "Series":
    raise NotImplementedError(f"a series on {change} inputs comes with a plan")


@dataclass(frozen=True)
class Series:
    """One replicate's tickets at one rewind step, level by level, the dense network first.

    Attributes:
        rows: of the table, by arm and level; of several draws the first one.
        changing: what is done to the inputs further, as `recipe.inputs` has it -> the tickets of the same replicate
            that the same search finds on these, without rows of a table.
        earlier: -> the tickets of the replicate before this one, without rows of a table; None of the first.
    """

    replicate: StudyReplicate
    tickets: Sequence[Train]
    controls: Mapping[str, Control]
    rows: Mapping[tuple[str, int], Train] = field(default_factory=dict)
    changing: "Callable[[str], Series]" = field(default=_unchanging, repr=False)
    earlier: "Callable[[], Series | None]" = field(default=_alone, repr=False)

    def training(self, arm: str, level: int) -> Train:
        """The training of an arm at a level: of one of the table, of the ticket or the dense network, of a control."""
        if (arm, level) in self.rows:
            return self.rows[arm, level]
        ticket = self.tickets[level]
        return self.controls[arm].training(self.replicate, ticket, level, 0) if arm in self.controls else ticket

    def pairs(self, training: Train, orders: int) -> Iterator[TrainingPair]:
        """Every two of `orders` trainings that differ in data order alone; order 0 is that of `training` itself."""
        for left, right in combinations(range(orders), 2):
            ends = self.replicate.reordered(training, left), self.replicate.reordered(training, right)
            yield TrainingPair(*ends, (left, right))


@dataclass(frozen=True)
class Answer:
    """A question and the values that its run made; the density of the networks, in (0, 1]."""

    question: Question
    density: float
    values: Mapping[str, Any]


@dataclass(frozen=True)
class Evidence:
    """What is finished of an experiment, for one of its studies.

    Attributes:
        rows: of the experiment's table, finished or not.
        answers: to the study's questions.
        confidence: of every interval, in (0.5, 1).
        done: the keys of all runs that are finished.
    """

    spec: ExperimentSpec
    rows: Sequence[Row]
    answers: Sequence[Answer]
    store: Store
    confidence: float
    done: frozenset[str] = field(repr=False)

    def masks(self, arm: str, level: int, rewind: int) -> "list[Mask]":
        """The masks of an arm at a level and a rewind step, one for each replicate that has its own by now.

        Of a training that has ended under a mask of its own it is that one, and none before it has.
        """
        trainings = [row.run for row in self.rows if (row.arm, row.level, row.rewind) == (arm, level, rewind)]
        made = [self.store.masked_by(run) for run in trainings if run.keeps_mask or run.key in self.done]
        return [self.store.mask(run) for run in made if run and run.key in self.done]


@dataclass(frozen=True)
class Finding:
    """One thing that a study found. A study derives a frozen dataclass from it, whose fields are the numbers behind.

    Attributes:
        rewind: the step that the networks were rewound to.
        reason: the finding in words, without that step.
    """

    study: ClassVar[str]
    rewind: int = field(default=0, kw_only=True)
    reason: str = field(kw_only=True)

    @property
    def sentence(self) -> str:
        """The finding in words."""
        return f"Rewound to step {self.rewind:,}: {self.reason}" if self.rewind else self.reason

    @property
    def headline(self) -> bool:
        """Whether a person wants it first; the rest is folded away."""
        return True

    @property
    def values(self) -> dict[str, Any]:
        """The numbers behind the sentence, as JSON values, and the sentence without the step, which is beside it."""
        values = asdict(self)
        return {**values, "sentence": values.pop("reason")}


def no_faults(table: Any, setting: Setting) -> Iterator[Fault]:
    """Every table whose fields are allowed is allowed."""
    yield from ()


def no_figures(findings: Sequence[Any], marks: Marks) -> dict[str, Figure]:
    """Findings that nothing is drawn of."""
    return {}


@dataclass(frozen=True)
class Study:
    """One study, declared once.

    Attributes:
        name: of its table in the spec, `[study.NAME]`.
        table: the model of that table; the study is asked for where the spec has it.
        questions: what is asked in one replicate at one rewind step, given the table and the series of its tickets.
        findings: what it finds, given the table and the evidence.
        figures: name -> figure of its findings, given these, one at least, and the marks of the arms by name.
        faults: what cannot be of a table whose fields are allowed one by one.
        about: one sentence on what it asks.
        paper, year: where it comes from.
        rest: what its findings that are no headlines are about.
        example: a change to a spec that asks for it.
        of_weights: whether it reads a mask as connections between units, which coordinates in a basis are not.
        of_numbers: whether it asks single layers of a network, which Gaussian weights have anew in each draw.
        code: the SHA-256 of the extension that it comes from; None for ours.
    """

    name: str
    table: type[Value]
    questions: Callable[[Any, Series], Iterable[Question]]
    findings: Callable[[Any, Evidence], Iterable[Finding]]
    about: str
    paper: str = ""
    year: int | None = None
    figures: Callable[[Sequence[Any], Marks], dict[str, Figure]] = no_figures
    faults: Callable[[Any, Setting], Iterable[Fault]] = no_faults
    rest: str = ""
    example: str = ""
    of_weights: bool = False
    of_numbers: bool = False
    code: str | None = None


def study_table(studies: Mapping[str, Study]) -> type[Value]:
    """The model of a spec's `study` table: a field for each study, None where it is not asked for."""
    fields: dict[str, Any] = {name: (study.table | None, None) for name, study in studies.items()}
    return create_model(
        "StudySpec", __base__=_StudyTable, __doc__="What else is asked of an experiment's networks.", **fields
    )


# A changed spec's folder is named by its values: a study that is not asked for is absent, but for those that were there
# when folders were first named.
_FIRST = frozenset({"stability", "connectivity", "overlap"})


class _StudyTable(Value):
    @model_serializer(mode="wrap")
    def _serialized(self, plain: SerializerFunctionWrapHandler) -> dict[str, Any]:
        values: dict[str, Any] = plain(self)
        return {name: value for name, value in values.items() if value is not None or name in _FIRST}


def asked(table: Value, studies: Mapping[str, Study]) -> Iterator[tuple[Study, Any]]:
    """The studies that a spec's `study` table asks for, each with its own table."""
    yield from ((study, own) for name, study in studies.items() if (own := getattr(table, name)) is not None)


def grouped(answers: Iterable[Answer], by: Callable[[Question], Hashable]) -> dict[Any, list[Answer]]:
    """Answers by what `by` says of their questions, in the order in which they come."""
    groups: dict[Any, list[Answer]] = {}
    for answer in answers:
        groups.setdefault(by(answer.question), []).append(answer)
    return groups


def by_replicate(answers: Iterable[Answer]) -> dict[int, list[Answer]]:
    """Answers by replicate, over which every interval is."""
    return grouped(answers, lambda question: question.replicate)
