"""Members from outside the package: a Python file that adds methods, controls, scores, objectives, dynamics, studies.

    METHODS = {"mine": generator of (replicate, levels)}
    CONTROLS = {"moved": function of (replicate, ticket, level, draw)}
    SCORES = {"gradient": function of what is scored}
    OBJECTIVES = {"focal": class below tombola.objective.Objective}
    DYNAMICS = {"thaw": class below tombola.dynamics.Dynamics}
    STUDIES = {"norms": tombola.lab.studies.Study}

A function is a member without words; a `Method`, `Control` or `Score` brings its own. A spec alone executes nothing:
whoever wants a file executed names it, `--extend mine.py`.
"""

import ast
import hashlib
import inspect
import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import ModuleType
from typing import Any

from pydantic.errors import PydanticInvalidForJsonSchema, PydanticSchemaGenerationError

from tombola.code import BYTE_ORDER_MARK, code_of, module_of, place
from tombola.control import Control
from tombola.dynamics import Dynamics
from tombola.errors import BadInput
from tombola.lab.members import Members
from tombola.lab.runs import Run
from tombola.lab.studies import Study
from tombola.method import Method
from tombola.objective import Objective
from tombola.score import Score
from tombola.value import Value

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]*")  # as it stands in a TOML file, in --set and in figures
_KIND = re.compile(r"[A-Za-z][A-Za-z0-9_-]*")  # as the names of folders begin
_PARAMETERS = "parameters that are numbers, texts, or lists of these"


@dataclass(frozen=True)
class Extension:
    """A file that was loaded. It pickles as its text, and is loaded where it is unpickled.

    Attributes:
        path: where it was read.
        sha256: of its bytes.
        text: what it says.
        members: those that it adds.
    """

    path: str
    sha256: str
    text: str = field(repr=False)
    members: Members = field(repr=False, compare=False)

    def where(self, kind: str, name: str) -> str:
        """The file, and the line that names a member."""
        return f"{self.path}, line {_line_in(self.text, kind, name)}"

    def __reduce__(self) -> tuple[Callable[[str, str], "Extension"], tuple[str, str]]:
        return made, (self.path, self.text)


def load(path: str | Path) -> Extension:
    """Read and execute a file of members.

    Raises:
        BadInput: there is no such file, it cannot be executed, or what it lists is no member; with file and line.
    """
    try:
        text = Path(path).read_bytes().decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reasons: dict[type, str] = {FileNotFoundError: "no such file", IsADirectoryError: "a folder"}
        reason, todo = reasons.get(type(error), str(error)), "--extend takes the path of one"
        if isinstance(error, UnicodeDecodeError):
            reason, todo = f"one that is not UTF-8, from byte {error.start} on", "Save it as UTF-8"
        raise _bad(str(path), "a Python file", reason, todo) from error
    return made(str(path), text)


def made(path: str, text: str) -> Extension:
    """The extension that `text`, read at `path`, is."""
    sha256 = hashlib.sha256(text.encode()).hexdigest()
    try:
        module = module_of(sha256, path, text)
    except (Exception, SystemExit) as error:
        where = place(error) or path
        if isinstance(error, SyntaxError) and error.filename == path:
            where = f"{path}, line {error.lineno}"
        if isinstance(error, PydanticSchemaGenerationError):
            found = f"one of {error.message.partition(' schema for ')[2].partition('. ')[0] or 'another type'}"
            raise _bad(where, _PARAMETERS, found, _PAGES["objectives"]) from error
        raise _bad(
            where, "Python that can be executed", f"{type(error).__name__}: {error}", _PAGES["methods"]
        ) from error
    _check_kinds(module, path, sha256, text)
    tables = {kind: _members(_Table(kind, module, path, sha256, text)) for kind in _MAKERS}
    if not any(tables.values()):
        raise _bad(path, f"one of {', '.join(map(str.upper, _MAKERS))}", "none of them", _PAGES["methods"])
    return Extension(path, sha256, text, Members(**tables))


@dataclass(frozen=True)
class _Table:
    """One of the tables of a file."""

    kind: str
    module: ModuleType
    path: str
    sha256: str
    text: str

    def where(self, name: str = "") -> str:
        """The place of an entry, or of the whole table."""
        return f"{self.path}, line {_line_in(self.text, self.kind, name)}"

    def bad(self, name: str, expected: str, found: str) -> BadInput:
        """What to raise of an entry, or of the whole table."""
        return _bad(self.where(name), expected, found, _PAGES[self.kind])


def _members(table: _Table) -> dict[str, Any]:
    listed = getattr(table.module, table.kind.upper(), {})
    if not isinstance(listed, Mapping):
        raise table.bad("", f"{table.kind.upper()}, a dict of name: member", f"a {type(listed).__name__}")
    members = {}
    for name, value in listed.items():
        if not (isinstance(name, str) and _NAME.fullmatch(name)) or name in ("dense", "ticket"):
            expected = "a name of letters, digits, -, _, + and ., and neither dense nor ticket"
            raise table.bad(str(name), expected, repr(name))
        if name == "none" or _is_toml(name):
            raise table.bad(name, "a name that --set reads as a text", f"{name!r}, which it reads as another value")
        try:
            member = _MAKERS[table.kind](name, value, table.sha256)
        except TypeError as error:
            raise table.bad(name, str(error), f"{name!r}, {_kind_of(value)}") from error
        if getattr(member, "name", name) != name:
            raise table.bad(name, f"a member of the name {name!r}", repr(member.name))
        members[name] = member
    return members


def _method(name: str, value: Any, code: str) -> Method:
    method = value if isinstance(value, Method) else Method(name, value, about=_about(value))
    _need(method.search, 2, "a function of (replicate, levels), or a Method")
    return replace(method, code=code)


def _control(name: str, value: Any, code: str) -> Control:
    control = value if isinstance(value, Control) else Control(name, value, claim="", what=name, about=_about(value))
    _need(control.make, 4, "a function of (replicate, ticket, level, draw), or a Control")
    if control.draws:
        raise TypeError(f"a Control without draws, as a spec says how many there are: draws = {{{name} = 3}}")
    return replace(control, code=code)


def _score(name: str, value: Any, code: str) -> Score:
    score = value if isinstance(value, Score) else Score(name, value, about=_about(value))
    _need(score.of, 1, "a function of one argument, a score.Scored, or a Score")
    return replace(score, code=code)


def _objective(name: str, value: Any, code: str) -> type[Objective]:
    if not (isinstance(value, type) and issubclass(value, Objective)) or inspect.isabstract(value):
        raise TypeError("a class below tombola.objective.Objective, with a loss")
    _check_value(name, value, code, "an objective")
    _need(value.loss, 4, "an objective whose loss is a function of (self, model, batch, inputs)")
    return value


def _dynamics(name: str, value: Any, code: str) -> type[Dynamics]:
    if not (isinstance(value, type) and issubclass(value, Dynamics)) or inspect.isabstract(value):
        raise TypeError("a class below tombola.dynamics.Dynamics, with a course")
    _check_value(name, value, code, "dynamics")
    _need(value.course, 2, "dynamics whose course is a function of (self, setting)")
    return value


def _check_value(name: str, value: type[Value], code: str, what: str) -> None:
    """Make sure of a class whose objects are named by a table in a recipe."""
    if "name" not in value.model_fields or value.model_fields["name"].default != name:
        raise TypeError(f"{what} whose name is {name!r} by default: name: Literal[{name!r}] = {name!r}")
    if code_of(value) != code:
        raise TypeError("a class that this file defines, as its SHA-256 is in the keys of what is trained with it")
    try:
        value.model_json_schema()
    except PydanticInvalidForJsonSchema:
        raise TypeError(f"{what} with {_PARAMETERS}") from None


def _study(name: str, value: Any, code: str) -> Study:
    if not isinstance(value, Study):
        raise TypeError("a tombola.lab.studies.Study")
    if hasattr(Value, name):
        raise TypeError("a study by another name, as that is one of every table's own")
    return replace(value, code=code)


_MAKERS: dict[str, Callable[[str, Any, str], Any]] = {
    "methods": _method,
    "controls": _control,
    "scores": _score,
    "objectives": _objective,
    "dynamics": _dynamics,
    "studies": _study,
}


_PAGES = {
    "methods": "docs/adding-a-method.md has an example",
    "controls": "docs/adding-a-control.md has an example",
    "scores": "docs/adding-a-score.md has an example",
    "objectives": "docs/adding-an-objective.md has an example",
    "dynamics": "docs/adding-dynamics.md has an example",
    "studies": "docs/adding-a-study.md has an example",
}


def _check_kinds(module: ModuleType, path: str, sha256: str, text: str) -> None:
    """Make sure that each kind of run in the file says what the keys and folders of its runs are made of."""
    own = [each for each in vars(module).values() if isinstance(each, type) and code_of(each) == sha256]
    for kind in (each for each in own if issubclass(each, Run) and not each.__subclasses__()):
        name, version = getattr(kind, "kind", None), getattr(kind, "version", None)
        if not (isinstance(name, str) and _KIND.fullmatch(name)):
            expected, found = "a kind of run whose `kind` is a name of letters, digits, - and _", name
        elif type(version) is not int:
            expected, found = "a kind of run whose `version` is a whole number", version
        else:
            continue
        where, has = f"{path}, line {_line_of_class(text, kind.__name__)}", "none" if found is None else repr(found)
        raise _bad(where, expected, f"{kind.__name__}, which has {has}", _PAGES["studies"])


def _is_toml(name: str) -> bool:
    """Whether a name without quotes is a value in TOML: a number, true, a date."""
    try:
        return bool(tomllib.loads(f"name = {name}"))
    except ValueError:
        return False


def _need(value: Any, arguments: int, what: str) -> None:
    """Make sure that `value` is what can be called with so many arguments."""
    try:
        inspect.signature(value).bind(*range(arguments))
    except (TypeError, ValueError):
        raise TypeError(what) from None


def _about(function: Callable[..., Any]) -> str:
    """The first line of a function's docstring."""
    return (inspect.getdoc(function) or "").partition("\n")[0].removesuffix(".")


def _kind_of(value: Any) -> str:
    if inspect.isfunction(value):
        return f"a function of {inspect.signature(value)}"
    return f"the class {value.__name__}" if isinstance(value, type) else f"a {type(value).__name__}"


def _line_in(text: str, kind: str, name: str) -> int:
    """The line where a table names a member, or begins; 1 where it is made in another way."""
    line = 1
    for node in ast.walk(_parsed(text)):
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        if not any(isinstance(target, ast.Name) and target.id == kind.upper() for target in targets):
            continue
        line = getattr(node, "lineno", line)
        keys = getattr(getattr(node, "value", None), "keys", [])
        return next((key.lineno for key in keys if isinstance(key, ast.Constant) and key.value == name), line)
    return line


def _line_of_class(text: str, name: str) -> int:
    """The line where a class begins; 1 where it is made in another way."""
    return next(
        (each.lineno for each in ast.walk(_parsed(text)) if isinstance(each, ast.ClassDef) and each.name == name), 1
    )


def _parsed(text: str) -> ast.Module:
    return ast.parse(text.removeprefix(BYTE_ORDER_MARK))


def _bad(where: str, expected: str, found: str, todo: str) -> BadInput:
    return BadInput(where=where, expected=expected, found=found, todo=f"{todo}.")
