"""Code by its name, as in keys: of an extension, whose file is a module of its own, and of the package."""

import importlib
import inspect
import linecache
import sys
import traceback
from types import ModuleType
from typing import Any

BYTE_ORDER_MARK = "\ufeff"  # which some editors begin a file with
_PREFIX = "tombola_extension_"


def code_of(thing: Any) -> str | None:
    """The SHA-256 of the extension that a class or a function is defined in; None for all that is installed.

    >>> code_of(code_of) is None
    True
    """
    module = getattr(thing, "__module__", None) or ""
    return module.removeprefix(_PREFIX) if module.startswith(_PREFIX) else None


def place(error: BaseException) -> str:
    """The file and line of an extension at which `error` came up, the innermost one; empty where it is of none."""
    mine = [
        (path, line)
        for frame, line in traceback.walk_tb(error.__traceback__)
        if frame.f_globals.get("__name__", "").startswith(_PREFIX)
        and (path := frame.f_code.co_filename) == frame.f_globals["__file__"]  # not what dataclasses made for it
    ]
    return f"{mine[-1][0]}, line {mine[-1][1]}" if mine else ""


def defined_at(thing: Any) -> str:
    """The file and line of an extension at which a class or a function begins; empty where it is of none.

    >>> defined_at(defined_at)
    ''
    """
    code = code_of(thing)
    if code is None:
        return ""
    path = sys.modules[f"{_PREFIX}{code}"].__file__
    try:
        return f"{path}, line {inspect.getsourcelines(inspect.unwrap(thing))[1]}"
    except (OSError, TypeError):  # one that is an object, or made by other code
        return str(path)


def named(function: Any) -> tuple[str, str | None] | None:
    """The name and the code by which `attribute` finds a function again, in other processes too; None where it is not.

    >>> named(code_of), named(lambda: None)
    (('tombola.code:code_of', None), None)
    """
    code, name = code_of(function), getattr(function, "__qualname__", "")
    if code is None:
        name = f"{getattr(function, '__module__', None)}:{name}"
    try:
        return (name, code) if attribute(name, code) is function else None
    except LookupError:
        return None


def attribute(name: str, code: str | None) -> Any:
    """The function at the top level of an extension or of a module of the package; None if there is none of the name.

    Args:
        name: `mirrored`, or `tombola.mask:shuffle` of the package.
        code: the SHA-256 of the extension, which is loaded; None for the package.

    Raises:
        LookupError: there is no such extension or module.

    >>> attribute("tombola.code:attribute", None) is attribute
    True
    """
    if code is not None:
        module = sys.modules.get(f"{_PREFIX}{code}")
        if module is None:
            raise LookupError(f"no extension {code} is loaded")
        return getattr(module, name, None)
    place, _, name = name.partition(":")
    if place.partition(".")[0] != "tombola":
        raise LookupError(f"{place} is no module of the package")
    try:
        return getattr(importlib.import_module(place), name, None)
    except ModuleNotFoundError as error:
        raise LookupError(f"there is no module {place}") from error


def module_of(sha256: str, path: str, text: str) -> ModuleType:
    """The module that `text` becomes, executed once in a process; its classes and functions pickle by name.

    Args:
        sha256: of the text.
        path: where it was read, for messages.
        text: Python.
    """
    name = f"{_PREFIX}{sha256}"
    if name in sys.modules:
        return sys.modules[name]
    # Tracebacks and inspect show its lines, on other machines too, where there is no such file.
    linecache.cache[path] = (len(text), None, text.splitlines(keepends=True), path)
    module = ModuleType(name)
    module.__file__ = path
    sys.modules[name] = module  # dataclasses look for their module while it is executed
    try:
        exec(compile(text.removeprefix(BYTE_ORDER_MARK), path, "exec"), module.__dict__)
    except BaseException:
        del sys.modules[name]
        raise
    return module
