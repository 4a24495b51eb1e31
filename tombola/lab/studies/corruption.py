"""Corruption: do tickets lose more or less than dense networks and controls where test images are corrupted?

The images are those of `tombola.study.corruption`, the numbers those of `tombola.study.corruption.error`.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from importlib.util import find_spec
from math import inf
from pathlib import Path
from statistics import mean
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field

from tombola import data
from tombola.charts import BARS, Figure, by_density, in_panels, interval
from tombola.data.facts import Facts
from tombola.errors import DataError, Fault
from tombola.lab.fields import Arms, Levels, numbers
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
from tombola.value import Count, Value, listed

if TYPE_CHECKING:
    from torch import Tensor

    from tombola.data import Dataset
    from tombola.study.corruption.error import Compared, Cost
    from tombola.study.corruption.published import Published

DENSE, JPEG = "dense", "jpeg_compression"
KEPT = 1 << 28  # bytes of corrupted images that a process keeps for the next network

Severities = dict[str, tuple[int, ...]]  # of each corruption
Asked = tuple[tuple[str, tuple[int, ...]], ...]  # the same as a field of a run


class CorruptedTest(Measurement):
    """How good, and how well calibrated, a network is on corrupted test images.

    Attributes:
        corruptions: each with its severities.
        count: of the test set's images so many, evenly spread over it.
    """

    name: Literal["corrupted-test"] = "corrupted-test"
    corruptions: Asked
    count: Count = Field(ge=1)

    def of(self, seen: Seen) -> dict[str, Any]:
        """Accuracy, likelihood, Brier score and calibration error, of clean images and under each corruption."""
        made, places = _columns if seen.dataset.facts.real else _images, seen.spread_test(self.count)
        return _compared(seen, places, made(seen, places, self.corruptions))

    def examples(self, facts: Facts) -> int:
        return _looks(self.corruptions, self.count, facts)  # forwards alone, and the corruption itself


class PublishedTest(Measurement):
    """The same as `CorruptedTest`, on the images that the authors of the benchmark have published.

    Attributes:
        corruptions, count: as there.
        folder: where the images lie.
        sha256: of each corruption's file.
    """

    name: Literal["published-test"] = "published-test"
    corruptions: Asked
    count: Count = Field(ge=1)
    folder: str
    sha256: tuple[str, ...]

    def of(self, seen: Seen) -> dict[str, Any]:
        """As `CorruptedTest` has it."""
        places, published = seen.spread_test(self.count), _published(self.folder, seen.dataset.facts)
        made = (
            (name, severity, published.images(name, severity, places.tolist()))
            for name, severities in self.corruptions
            for severity in severities
        )
        return _compared(seen, places, made)

    def examples(self, facts: Facts) -> int:
        return _looks(self.corruptions, self.count, facts)


def _looks(corruptions: Asked, count: int, facts: Facts) -> int:
    return (1 + sum(len(severities) for _, severities in corruptions)) * min(count, facts.test)


def _compared(seen: Seen, places: "Tensor", made: "Iterable[tuple[str, int, Tensor]]") -> dict[str, Any]:
    """What a network is worth on the test examples at `places`, and on each corruption of them."""
    clean, labels = seen.test_images(places)
    found: dict[str, dict[str, Any]] = {}
    for name, severity, images in made:
        found.setdefault(name, {})[str(severity)] = _judged(seen, images.to(clean.device), labels)
    return {"clean": _judged(seen, clean, labels), "corrupted": found}


def _judged(seen: Seen, images: "Tensor", labels: "Tensor") -> dict[str, Any]:
    import torch

    from tombola.evaluate import outputs
    from tombola.study.calibration import calibration

    answers = outputs(seen.model, seen.dataset, images, torch.arange(len(images)), seen.recipe.precision)
    return asdict(calibration(answers, labels))


def _columns(seen: Seen, places: "Tensor", corruptions: Asked) -> "Iterator[tuple[str, int, Tensor]]":
    """The test examples at `places` under each corruption, numbers as the network is given them."""
    from tombola.study.corruption.columns import apply_to_columns

    inputs, _ = seen.test_inputs(places)
    training, _ = seen.inputs(seen.train)
    rows, known = inputs.flatten(1), training.flatten(1)
    for name, severities in corruptions:
        for severity in severities:
            made = apply_to_columns(rows, name, severity, seen.seed, known, places.tolist())
            yield name, severity, made.view_as(inputs)


def _images(seen: Seen, places: "Tensor", corruptions: Asked) -> "Iterator[tuple[str, int, Tensor]]":
    """The test images at `places` under each corruption, as bytes; they are kept for the next network if they fit."""
    dataset, chosen = seen.dataset, tuple(places.tolist())
    if dataset.test_images[0].numel() * len(chosen) * sum(len(each) for _, each in corruptions) <= KEPT:
        yield from _kept(dataset, chosen, corruptions, seen.seed)
    else:
        yield from _made(dataset, chosen, corruptions, seen.seed)


def _made(
    dataset: "Dataset", places: tuple[int, ...], corruptions: Asked, seed: int
) -> "Iterator[tuple[str, int, Tensor]]":
    import torch

    from tombola.study.corruption import apply

    held, white = dataset.test_images, dataset.facts.white
    pixels = dataset.pixels(held.index_select(0, torch.tensor(places, device=held.device)))
    for name, severities in corruptions:
        for severity in severities:
            yield name, severity, (apply(pixels, name, severity, seed, places) * white).round().byte()


@lru_cache(maxsize=1)  # a worker measures the networks of one experiment one after the other
def _kept(
    dataset: "Dataset", places: tuple[int, ...], corruptions: Asked, seed: int
) -> "list[tuple[str, int, Tensor]]":
    return list(_made(dataset, places, corruptions, seed))


class CorruptionSpec(Value):
    """What corruption of the test images costs: `study.corruption`.

    Attributes:
        levels: the tickets; the dense network stands beside them.
        arms: whose networks; the ticket among them.
        corruptions: None for those of MNIST-C where images are grey, of CIFAR-10-C where they are coloured; of numbers,
            as in a table, all that there are.
        severities: of each corruption those among these that it has; None for the benchmark's.
        examples: of the test set, evenly spread over it; None for all.
        seed: what is drawn for the corruptions is drawn from, the same for all networks.
        published: the folder of the benchmark's own images, in the place of those that are made here.
    """

    levels: Levels = Field(min_length=1)
    arms: Arms = ("ticket",)
    corruptions: Annotated[tuple[str, ...] | None, BeforeValidator(listed)] = None
    severities: Annotated[tuple[Count, ...] | None, BeforeValidator(numbers)] = None
    examples: Count | None = Field(default=None, ge=1)
    seed: Count = Field(default=0, ge=0)
    published: str | None = None

    def asked(self, known: Facts) -> Asked:
        """The corruptions of such examples that are asked for, each with its severities."""
        has, of_benchmark = self.available(known)
        asked = {name: has[name] for name in self.corruptions} if self.corruptions else of_benchmark
        if self.severities is not None:
            asked = {name: tuple(each for each in has[name] if each in self.severities) for name in asked}
        return tuple((name, severities) for name, severities in asked.items() if severities)

    def available(self, known: Facts) -> tuple[Severities, Severities]:
        """All corruptions of such examples with all their severities; and those that the benchmark has."""
        if self.published is None:
            return _available(known)
        available = _published(self.published, known).available
        return available, available

    def measurement(self, known: Facts) -> Measurement:
        """What each network is judged by."""
        asked, count = self.asked(known), self.examples or known.test
        if self.published is None:
            return CorruptedTest(corruptions=asked, count=count)
        published = _published(self.published, known)
        digests = tuple(_digest(published.path(name)) for name, _ in asked)
        return PublishedTest(corruptions=asked, count=count, folder=self.published, sha256=digests)


def _published(folder: str, known: Facts) -> "Published":
    from tombola.study.corruption.published import Published

    return Published(Path(folder).expanduser(), known.shape, known.test)


@lru_cache(maxsize=64)
def _digest(file: Path) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def _available(known: Facts) -> tuple[Severities, Severities]:
    """All corruptions of such examples with all their severities; and those, and at which, that a benchmark has."""
    from tombola.study.corruption import CORRUPTIONS, standard
    from tombola.study.corruption.columns import COLUMN_CORRUPTIONS

    if known.real:
        columns = {name: each.severities for name, each in COLUMN_CORRUPTIONS.items()}
        return columns, columns
    channels = known.shape[0]
    images = {name: each.severities(channels) for name, each in CORRUPTIONS.items() if each.severities(channels)}
    return images, standard(channels)


def faults(table: CorruptionSpec, setting: Setting) -> Iterator[Fault]:
    """What of the table the experiment cannot answer."""
    yield from checks.levels("corruption", table.levels, setting, least=1, of_trained=True)
    yield from checks.arms("corruption", table.arms, setting)
    yield from checks.repeated("study.corruption.corruptions", "corruption", table.corruptions or ())
    yield from checks.repeated("study.corruption.severities", "severity", table.severities or ())
    if "ticket" not in table.arms:
        yield Fault("study.corruption.arms", "the ticket, which all others are held against", repr(table.arms))
    known = setting.spec.facts
    recipe = setting.spec.recipe
    if recipe.inputs and not data.is_table(recipe.data):
        expected = "images that are not changed otherwise, as a corruption is one of pictures"
        yield Fault("study.corruption", expected, f"recipe.inputs = {list(recipe.inputs)}")
        return
    if why := _lacking(known):
        found = f"{recipe.data}, whose answers are {known.answers}" if known.answers != "class" else recipe.data
        yield Fault("study.corruption", why, found, "leave the study out, or take other data")
        return
    if table.published is not None and (why := _not_published(recipe.data, known)):
        yield Fault("study.corruption.published", why, table.published)
        return
    if table.examples and table.examples > known.test:
        yield Fault("study.corruption.examples", f"at most the {known.test:,} of the test set", f"{table.examples:,}")
    unknown = list(_unknown(table, known))
    yield from unknown
    if unknown:
        return
    asked = [name for name, _ in table.asked(known)]
    if not asked:
        yield Fault("study.corruption.severities", "severities that a corruption has", repr(table.severities))
    if table.published is not None:
        yield from _unpublished(table.published, asked, known)
    elif JPEG in asked and find_spec("PIL") is None:
        todo = "pip install '.[images]' in a clone, or name other corruptions"
        yield Fault("study.corruption.corruptions", f"pillow, which makes {JPEG}", "no such package", todo)


def _lacking(known: Facts) -> str:
    """What examples would have to be that they are not; empty where they can be corrupted."""
    if known.answers != "class":
        return "answers that are classes"
    if known.text:
        return "images, or numbers"
    if not known.real and (known.shape[0] not in (1, 3) or known.shape[1] != known.shape[2]):
        return "images as high as wide, of one channel or of three"
    return ""


def _not_published(name: str, known: Facts) -> str:
    """What data would have to be that they are not; empty where a benchmark has published corrupted images of them."""
    whole = None if known.real else {1: "mnist", 3: "cifar10"}.get(known.shape[0])
    if whole is None or data.source_of(name) != whole:
        return "data of which corrupted images are published, mnist or cifar10"
    return ""


def _unpublished(folder: str, asked: Sequence[str], known: Facts) -> Iterator[Fault]:
    for name in asked:
        try:
            _published(folder, known).check(name)
        except DataError as error:
            yield Fault("study.corruption.published", f"{error.expected} in {error.where}", error.found, error.todo)
            return


def _unknown(table: CorruptionSpec, known: Facts) -> Iterator[Fault]:
    has, _ = table.available(known)
    for place, name in enumerate(table.corruptions or ()):
        if name not in has:
            yield Fault(f"study.corruption.corruptions.{place}", f"one of {', '.join(has)}", repr(name))
    for place, severity in enumerate(table.severities or ()):
        if not 1 <= severity <= 5:
            yield Fault(f"study.corruption.severities.{place}", "a severity from 1 to 5", str(severity))


def questions(table: CorruptionSpec, series: Series) -> Iterator[Question]:
    """Judge the dense network, the ticket and the other arms on the same corrupted images."""
    replicate, dense = series.replicate, series.tickets[0]
    known = data.facts(dense.recipe.data)
    measurement = table.measurement(known)
    trainings = {(arm, level): series.training(arm, level) for level in table.levels for arm in table.arms}
    for (arm, level), training in ({(DENSE, 0): dense} | trainings).items():
        run = Measured.of(measurement, training, table.seed)
        yield Question("corruption", arm, replicate.number, level, replicate.rewind_step, run, training)


@dataclass(frozen=True)
class CorruptionFinding(Finding):
    """What corruption costs tickets beside another arm, at one level and rewind step.

    Attributes:
        arm: the other one.
        density, other_density: P_m of either.
        cost: errors, likelihood and calibration of both.
    """

    study: ClassVar[str] = "corruption"
    level: int
    arm: str
    density: float
    other_density: float
    cost: "Cost"


def findings(table: CorruptionSpec, evidence: Evidence) -> Iterator[CorruptionFinding]:
    """The ticket beside each other arm, wherever both have answers."""
    from tombola.study.corruption.error import compared, sentence

    known = evidence.spec.facts
    examples = table.examples or known.test
    grain = known.grain(examples)
    groups = grouped(evidence.answers, lambda question: (question.level, question.rewind, question.arm))
    for (level, rewind, arm), tickets in groups.items():
        if arm != "ticket":
            continue
        for other in (*table.arms, DENSE):
            theirs = groups.get((0 if other == DENSE else level, rewind, other), [])
            cost = compared(_tables(tickets), _tables(theirs), evidence.confidence, grain)
            if cost and other != "ticket":
                densities = mean(each.density for each in tickets), mean(each.density for each in theirs)
                reason = sentence(densities[0], other, densities[1], cost, examples)
                yield CorruptionFinding(level, other, *densities, cost, rewind=rewind, reason=reason)


def _tables(answers: Sequence[Answer]) -> dict[int, Mapping[str, Any]]:
    return {answer.question.replicate: answer.values for answer in answers}


def figures(findings: Sequence[CorruptionFinding], marks: Marks) -> dict[str, Figure]:
    """Errors against the density, of clean and of all corrupted inputs; and of each corruption by itself."""
    from tombola.study.corruption.error import CLEAN, CORRUPTED, ECE, MACE, NLL, RELATIVE

    titles = {
        CLEAN: "clean error (%)",
        CORRUPTED: "corrupted error (%)",
        RELATIVE: "relative error (points)",
        ECE: "calibration error (%)",
        MACE: "mean calibration error of bins (%)",
        NLL: "negative log-likelihood (nats)",
    }
    shown = f"Points are means over replicates, {BARS}; the dense network is at 100 %."
    whole = _panels(
        findings, lambda cost: {titles[name]: cost.numbers[name] for name in titles if name in cost.numbers}
    )
    each = _panels(findings, lambda cost: cost.corruptions)
    return {
        "corruption": Figure(
            by_density(whole, "value", "mean over replicates", marks),
            "The error on the test set as it is, and under corruption, as a mean over all corruptions and severities. "
            "The relative error is what corruption adds: the second less the first. Calibration error (ECE, 15 bins) "
            f"and likelihood are those under corruption, too. {shown}",
        ),
        "corruptions": Figure(
            by_density(each, "value", "error (%)", marks),
            f"The error under each corruption, as a mean over its severities. {shown}",
        ),
    }


def _panels(
    findings: Sequence[CorruptionFinding], shown: "Callable[[Cost], Mapping[str, Compared]]"
) -> dict[str, list[dict[str, Any]]]:
    points = []
    for finding in findings:
        step = f", k = {finding.rewind:,}" if finding.rewind else ""
        for name, each in shown(finding.cost).items():
            scale, within = (1, (0, inf)) if "nats" in name else (100, (0, 1))
            ours, theirs = (interval("value", one, scale, within) for one in (each.ticket, each.other))
            points.append((f"{name}{step}", "ticket", 100 * finding.density, ours))
            points.append((f"{name}{step}", finding.arm, 100 * finding.other_density, theirs))
    return in_panels(points)


STUDY = Study(
    name="corruption",
    table=CorruptionSpec,
    questions=questions,
    findings=findings,
    figures=figures,
    faults=faults,
    about="Do tickets lose more or less than dense networks where test images are corrupted, and know it?",
    paper="[MNIST-C](https://arxiv.org/abs/1906.02337)",
    year=2019,
    example="study.corruption.levels=5",
)
