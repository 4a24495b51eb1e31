"""A spec as it is written: a TOML file and `--set`, read once, every fault told at once with its path and a hint."""

import difflib
import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from tombola.errors import BadInput, Fault, SpecError
from tombola.lab import presets
from tombola.lab.extension import load
from tombola.lab.members import Members, extended
from tombola.lab.spec import Experiment, spec_model
from tombola.lab.spec_checks import contradictions, unknown_names
from tombola.method import SearchOptions
from tombola.recipe import Optimizer, Schedule


def read(source: str, changes: Iterable[str] = (), extend: Iterable[str | Path] = ()) -> Experiment:
    """The experiment that `source` names, with `changes` made to it.

    Args:
        source: a preset's name, or the path of a TOML file.
        changes: `path=value` each, like `recipe.length=1000it`; values are written as in TOML, quotes may be left out.
        extend: files of members that the spec may name beside the built-in ones, executed here: see `lab.extension`.

    Raises:
        SpecError: it has faults; all of them are listed.
        BadInput: there is no such preset or file, or it is not TOML; a file to extend with cannot be used.
    """
    name, text = _text(source)
    extensions = tuple(map(load, dict.fromkeys(map(str, extend))))
    members = extended(extensions)
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
        spec = spec_model(members).model_validate(table, context=members.tables)
    except ValidationError as error:
        details = error.errors()
        # A list of which every element is wrong is not also too short.
        elements = {detail["loc"][:-1] for detail in details if isinstance(detail["loc"][-1], int)}
        real = [detail for detail in details if not (detail["type"] == "too_short" and detail["loc"] in elements)]
        # An arm whose own table has faults is not also an unknown one.
        own = [detail["loc"][1] for detail in real if detail["loc"][0] == "arm" and len(detail["loc"]) > 1]
        real = [detail for detail in real if not (detail["loc"][0] == "arms" and detail["input"] in own)]
        known = _Known.of(members)
        raise SpecError(source, [*(_fault(detail, table, known) for detail in real), *unknown_names(table)]) from None
    faults = list(unknown_names(table)) or list(contradictions(spec, members))
    if faults:
        raise SpecError(source, faults)
    return Experiment(name=name, spec=spec, changes=changes, source=source, extensions=extensions, members=members)


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
        raise _no_spec(source, reason, todo) from error


def _no_spec(source: str, reason: str, todo: str) -> BadInput:
    return BadInput(
        where=source,
        expected="a preset or a TOML file",
        found=reason,
        todo=todo,
    )


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


@dataclass(frozen=True)
class _Known:
    """The fields that a spec may have.

    Attributes:
        tables: path -> model.
        named: field of the recipe -> name -> model, of tables that are told apart by their `name`.
        methods: name -> the model of what a method lets one choose, in `search` and in the tables of arms.
    """

    tables: Mapping[str, type[BaseModel]]
    named: Mapping[str, Mapping[str, type[BaseModel]]]
    methods: Mapping[str, type[BaseModel]]

    @staticmethod
    def of(members: Members) -> "_Known":
        """With those that come of the members."""
        spec = spec_model(members)
        fields: dict[str, Any] = {name: field.annotation for name, field in spec.model_fields.items()}
        tables = {name: model for name, model in fields.items() if _is_model(model) and name != "search"}
        studies = {f"study.{name}": study.table for name, study in members.studies.items()}
        named = {"optimizer": _by_name(Optimizer), "schedule": _by_name(Schedule), "objective": members.objectives}
        named["dynamics"] = members.dynamics
        methods = {name: method.options for name, method in members.methods.items()}
        return _Known({"": spec, **tables, **studies}, named, methods)

    @property
    def paths(self) -> Iterable[str]:
        """The path of every field."""
        for parent, model in self.tables.items():
            yield from (f"{parent}.{name}".lstrip(".") for name in model.model_fields)
        for field, models in self.named.items():
            yield from (f"recipe.{field}.{name}" for model in models.values() for name in model.model_fields)

    def below(self, parents: Sequence[str], table: Mapping[str, Any]) -> set[str]:
        """The fields below `parents`, as far as that can be told."""
        if ".".join(parents) in self.tables:
            return set(self.tables[".".join(parents)].model_fields)
        if parents[0] in ("search", "arm"):
            return self._chosen(parents, table)
        inner = table.get("recipe", {}).get(parents[-1], {})
        models = self.named.get(parents[-1], {})
        chosen = models.get(inner.get("name", "") if isinstance(inner, dict) else "")
        return set(chosen.model_fields) if chosen else set()

    def _chosen(self, parents: Sequence[str], table: Mapping[str, Any]) -> set[str]:
        """The fields of what is chosen of a method: the spec's own, or that of an arm."""
        if parents[0] == "search":
            return set(self._options(table.get("method", "iterative")).model_fields)
        own = table["arm"][parents[1]]
        return {"method", "control", *self._options(own.get("method", parents[1])).model_fields}

    def _options(self, method: object) -> type[BaseModel]:
        """Those of a method; what all methods have, where there is none of that name."""
        return self.methods.get(str(method), SearchOptions)


def _is_model(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def _by_name(union: Any) -> Mapping[str, type[BaseModel]]:
    """name -> model of a union whose members are told apart by their `name`."""
    return {get_args(member.model_fields["name"].annotation)[0]: member for member in get_args(get_args(union)[0])}


def _fault(detail: Any, table: Mapping[str, Any], known: _Known) -> Fault:
    """One of pydantic's errors in our words."""
    # Inside a union pydantic's path holds the member's tag, which the reader never wrote.
    where = [
        str(part)
        for place, part in enumerate(detail["loc"])
        if not (place and part in known.named.get(detail["loc"][place - 1], {}))
    ]
    path, found = ".".join(where), repr(detail["input"])
    match detail["type"]:
        case "missing":
            return Fault(path, "a value", "nothing", _example(path))
        case "extra_forbidden":
            return Fault(path, "a known field", f"the unknown field {where[-1]!r}", _hint(where, table, known))
        case "union_tag_invalid" | "union_tag_not_found":
            return Fault(
                f"{path}.name",
                detail["ctx"].get("expected_tags", "a name, like {name = 'adam', lr = 1.2e-3}").replace("'", ""),
                repr(detail["input"].get("name")) if isinstance(detail["input"], dict) else found,
            )
        case "literal_error":
            return Fault(path, "one of " + detail["ctx"]["expected"].replace("'", ""), found, _other_name(where, table))
        case "value_error":
            return Fault(path, str(detail["ctx"]["error"]), found)
        case "model_type" | "model_attributes_type" | "dict_type":
            named = known.named.get(path.removeprefix("recipe."), {})
            written = isinstance(detail["input"], str) and detail["input"] in named
            example = _example(path)
            if written:  # the name alone
                example = re.sub('name = "[^"]*"', f'name = "{detail["input"]}"', example)
            return Fault(path, "a table", found, example)
        case "tuple_type":
            return Fault(path, "a list", found)
        case "too_short":
            return Fault(path, "a list with at least one entry", found)
    message = detail["msg"].removeprefix("Input should be ")
    for words, sign in _SIGNS.items():
        message = message.replace(words, f"a number {sign}")
    return Fault(path, message.split(",")[0].replace("a valid integer", "an integer").replace("a valid", "a"), found)


def _other_name(where: list[str], table: Mapping[str, Any]) -> str:
    """How an arm gets a name of its own."""
    match where:
        case ["arms", _]:
            return "or an arm of your own, which a table [arm.NAME] with its method declares"
        case ["arm", "ticket", _]:
            return _OF_TICKET
        case ["arm", name, "method"] if "method" not in table["arm"][name]:
            return f'the name of the arm, as its table names no method: [arm.{name}] method = "snip", say'
    return ""


_OF_TICKET = "[search] is what is chosen of the ticket's method"
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
        "recipe.objective": 'objective = {name = "label-smoothing"}',
        "recipe.dynamics": 'dynamics = {name = "rigl"}',
    }
    return examples.get(path, "")


def _hint(where: list[str], table: Mapping[str, Any], known: _Known) -> str:
    """What somebody may have meant by an unknown field: one nearby of a similar name, or one of its name elsewhere."""
    *parents, name = where
    fields = known.below(parents, table)
    if name == "momentum" and "betas" in fields:
        return "Adam's is the first of betas, 0.9 in betas = [0.9, 0.999]"
    if parents and parents[0] in ("search", "arm"):
        return _OF_TICKET if parents == ["arm", "ticket"] else _choice(name, fields)
    if name in _SYNONYMS:
        return f"did you mean {_SYNONYMS[name]}?"
    deepest_first = sorted(known.paths, key=lambda path: -path.count("."))
    paths = {path.rpartition(".")[2]: path for path in deepest_first} | _SYNONYMS
    if close := difflib.get_close_matches(name, fields, n=1):
        return f"did you mean {close[0]}?"
    if elsewhere := difflib.get_close_matches(name.lower(), set(paths) - {"name"}, n=1, cutoff=0.9):
        meant = paths[elsewhere[0]]
        return f"did you mean {meant}{', at the top' if parents and '.' not in meant else ''}?"
    return "known are " + ", ".join(sorted(fields))


def _choice(name: str, fields: set[str]) -> str:
    """What somebody may have meant by a choice that a method does not offer: no field of another table."""
    meant = _SYNONYMS.get(name, "").rpartition(".")[2]
    close = [meant] if meant in fields else difflib.get_close_matches(name, fields, n=1)
    return f"did you mean {close[0]}?" if close else "known are " + ", ".join(sorted(fields))


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
