"""Code from outside the package: the file of an extension as a module of its own, and its name in keys."""

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


def attribute(name: str, code: str | None) -> Any:
    """The function of an extension that is loaded, by its name and the SHA-256 of the extension; None if it has none.

    Raises:
        LookupError: no such extension is loaded.
    """
    module = sys.modules.get(f"{_PREFIX}{code}")
    if module is None:
        raise LookupError(f"no extension {code} is loaded")
    return getattr(module, name, None)


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
