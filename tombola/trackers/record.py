"""The entries of an experiment: one for each finished training, and one for what they say together."""

import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from functools import partial
from pathlib import Path
from statistics import mean
from typing import Any, Literal

from tombola.lab.plan import Plan
from tombola.lab.results import Result, Results
from tombola.lab.row import Row
from tombola.lab.runs import Run
from tombola.lab.store import Store
from tombola.lab.tickets import ticket_of_row
from tombola.study.verdict import Comparison, Verdict
from tombola.trackers.entry import Attachment, Curve, Entry
from tombola.trackers.mask_images import picture, png

Files = Literal["none", "first", "all"]  # of which replicates masks and tickets go along
MOST_LAYERS = 24  # whose masks are shown, the largest ones
HOW = ("tombola", "git", "torch", "python", "machine", "processor", "gpu", "device", "engine", "finished")


def begun(row: Row) -> Entry:
    """What can be told of a training that goes on."""
    return Entry(_id(row), _path(row), _params(row))


def trainings(results: Results, files: Files) -> Iterator[Entry]:
    """The finished trainings, in the table's order."""
    words = _words(results)
    for result in results.rows:
        yield training(result, results.plan, results.store, files, words)


def training(
    result: Result, plan: Plan, store: Store, files: Files = "none", words: Mapping[tuple[str, int, int], Verdict] = {}
) -> Entry:
    """A finished training.

    Args:
        words: the verdicts, by arm, rewind step and level.
    """
    row, measure = result.row, plan.experiment.spec.facts.measure
    numbers = {name: value for name, value in result.values.items() if _is_number(value)}
    ended = _seconds(result.how.get("finished"))
    verdict = words.get((row.arm, row.rewind, row.level))
    told = {"verdict": verdict.label, "verdict.reason": verdict.reason} if verdict else {}
    return Entry(
        id=_id(row),
        path=_path(row),
        params=_params(row),
        tags={**{name: str(result.how[name]) for name in HOW if result.how.get(name)}, **told},
        metrics={name.replace("accuracy", measure): float(value) for name, value in numbers.items()}
        | {"seconds": result.seconds},
        curves=_curves(result.values["curve"], measure),
        files=tuple(_files(row, plan, store)) if files == "all" or (files == "first" and not row.replicate) else (),
        began=ended - result.seconds,
        ended=ended,
    )


def summary(results: Results) -> Entry:
    """What an experiment's finished trainings say together; its files are those of `report_files`."""
    experiment, verdicts = results.experiment, [verdict for each in _all_verdicts(results) for verdict in each]
    sentences = [*results.sentences, *(finding.sentence for finding in results.findings)]
    tags = {f"verdict.{_place(verdict)}": verdict.label for verdict in verdicts}
    if sentences:
        tags["verdict"] = next(iter(results.sentences), sentences[0])
    ended = [_seconds(result.how.get("finished")) for result in results.rows]
    return Entry(
        id="experiment-" + _hash([experiment.name, experiment.record]),
        path=("experiment",),
        params=dict(_flat(experiment.record)),
        tags={**tags, "network": results.network, "trainings": f"{len(results.rows)} of {len(results.plan.rows)}"},
        metrics={f"difference.{_place(one)}": one.dense.accuracy.mean for one in verdicts if _known(one.dense)},
        curves=tuple(_over_levels(results)),
        text="\n".join(f"- {sentence}" for sentence in sentences),
        began=min(end - result.seconds for end, result in zip(ended, results.rows, strict=True)),
        ended=max(ended),
        alters=True,
    )


def _id(row: Row) -> str:
    """The key of its training, and which row it is: two arms may share a training."""
    return f"{row.run.key}-{_hash([row.arm, row.replicate, row.level, row.draw, row.rewind])[:6]}"


def _hash(values: Any) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:20]


def _path(row: Row) -> tuple[str, ...]:
    path = (row.arm, f"level {row.level}", f"replicate {row.replicate}")
    rewound = (f"rewound to {row.rewind}",) if row.rewind else ()
    return (*path, *rewound, *((f"draw {row.draw}",) if row.draw else ()))


def _params(row: Row) -> dict[str, str | int | float]:
    place = {name: getattr(row, name) for name in ("arm", "replicate", "level", "draw", "rewind")}
    return {**place, "key": row.run.key, **dict(_flat(row.run.described))}


def _flat(values: Mapping[str, Any], within: str = "") -> Iterator[tuple[str, str | int | float]]:
    """Nested values by names with dots; what is None is left out."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{within}{name}.")
        elif value is not None:
            plain = isinstance(value, str | int | float) and not isinstance(value, bool)
            yield f"{within}{name}", value if plain else json.dumps(value)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _seconds(finished: str | None) -> float:
    return datetime.fromisoformat(finished).timestamp() if finished else 0.0


def _curves(curve: Mapping[str, Sequence[Any]], measure: str) -> tuple[Curve, ...]:
    """The curves that the recorder keeps: what is looked at often, and what is tested, which has steps of its own."""
    names = [name for name in curve if name not in ("step", "test_step")]
    return tuple(_curve(name.replace("accuracy", measure), _steps_of(name, curve), curve[name]) for name in names)


def _steps_of(name: str, curve: Mapping[str, Sequence[int]]) -> Sequence[int]:
    return curve["test_step" if name.startswith("test_") else "step"]


def _curve(name: str, steps: Sequence[int], values: Sequence[Any]) -> Curve:
    known = [(step, float(value)) for step, value in zip(steps, values, strict=True) if _is_number(value)]
    return Curve(name, tuple(step for step, _ in known), tuple(value for _, value in known))


def _files(row: Row, plan: Plan, store: Store) -> Iterator[Attachment]:
    """The masks of its layers as pictures, and of a ticket the file."""
    if mask := store.masked_by(row.run):
        yield from _masks(mask, store)
    members, spec = plan.experiment.members, plan.experiment.spec
    if row.arm == "ticket" and members.arm("ticket", spec).rewinds and store.has(row.run.start):
        yield Attachment("ticket.safetensors", lambda: ticket_of_row(plan, store, row).content())


def _masks(mask: Run, store: Store) -> Iterator[Attachment]:
    shapes: Mapping[str, Sequence[int]] = store.values(mask)["shapes"]
    largest = sorted(shapes, key=lambda name: -math.prod(shapes[name]))[:MOST_LAYERS]
    for name in shapes:
        if name in largest:
            yield Attachment(f"masks/{name}.png", partial(_mask_image, store, mask, name))


def _mask_image(store: Store, mask: Run, name: str) -> bytes:
    return png(picture(store.alive(mask)[name]))


def report_files(folder: Path) -> tuple[Attachment, ...]:
    """The files of a report that is written, in the order of their names."""
    kept = [folder / "report.html", folder / "table.csv", *sorted((folder / "figures").glob("*.png"))]
    return tuple(Attachment(f"report/{each.relative_to(folder)}", each.read_bytes) for each in kept if each.is_file())


def _all_verdicts(results: Results) -> list[Sequence[Verdict]]:
    return [results.verdicts, *results.other_verdicts.values()]


def _words(results: Results) -> dict[tuple[str, int, int], Verdict]:
    return {(one.arm, one.rewind, one.level): one for each in _all_verdicts(results) for one in each}


def _place(verdict: Verdict) -> str:
    rewound = f", rewound to {verdict.rewind}" if verdict.rewind else ""
    return f"{verdict.arm}.level {verdict.level}{rewound}"


def _known(comparison: Comparison) -> bool:
    return math.isfinite(comparison.accuracy.mean)


def _over_levels(results: Results) -> Iterator[Curve]:
    """The mean of what the verdict is about, arm by arm, level by level."""
    measure = results.accuracy.replace("accuracy", results.experiment.spec.facts.measure)
    groups: dict[tuple[str, int], dict[int, list[float]]] = {}
    for result in results.rows:
        row = result.row
        groups.setdefault((row.arm, row.rewind), {}).setdefault(row.level, []).append(result.values[results.accuracy])
    for (arm, rewind), levels in groups.items():
        rewound = f", rewound to {rewind}" if rewind else ""
        steps = tuple(sorted(levels))
        yield Curve(f"{measure}.{arm}{rewound}", steps, tuple(mean(levels[level]) for level in steps))
