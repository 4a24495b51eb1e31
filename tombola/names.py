"""Which weights of a model are meant: by kind, by name, by a pattern of names."""

from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase


def named(entries: Iterable[str], kinds: Mapping[str, str]) -> set[str]:
    """The weights whose kind or name is among `entries`, or whose name has a form among them.

    Args:
        entries: kinds, names, or patterns of names: `*` stands for anything, `?` for one character, `[ab]` for a or b.
        kinds: the kind of each weight by its name.

    >>> sorted(named(("output", "*.shortcut.*"), {"a.conv": "conv", "a.shortcut.conv": "conv", "b": "output"}))
    ['a.shortcut.conv', 'b']
    """
    return {
        name
        for name, kind in kinds.items()
        if any(entry in (kind, name) or fnmatchcase(name, entry) for entry in entries)
    }
