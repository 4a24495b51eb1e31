"""Which weights of a model are meant: by kind, by name, by a pattern of names."""

from collections.abc import Collection, Iterable, Iterator, Mapping
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


def covering(names: Collection[str], others: Iterable[str]) -> list[str]:
    """Few names and patterns, as `named` takes them, that fit all of `names` and none of `others`.

    >>> covering(["a.0.lora_A.weight", "a.1.lora_A.weight", "head.weight"], ["a.0.weight", "a.1.weight"])
    ['*.lora_A.*', 'head.weight']
    """
    fits: dict[str, set[str]] = {}
    for name in names:
        for pattern in (name, *_patterns(name)):
            fits.setdefault(pattern, set()).add(name)
    for other in others:
        for pattern in _patterns(other):
            fits.pop(pattern, None)
    left = dict.fromkeys(names)
    chosen: list[str] = []
    while left:
        # Of those that fit equally many a whole name is the plainest, then what is short.
        best = max(fits, key=lambda pattern: (len(fits[pattern] & left.keys()), "*" not in pattern, -len(pattern)))
        chosen.append(best)
        for name in fits[best]:
            left.pop(name, None)
    return chosen


def _patterns(name: str) -> Iterator[str]:
    """All that begins or ends as `name` does, or has a part of it within."""
    parts = name.split(".")
    for place in range(1, len(parts)):
        yield ".".join([*parts[:place], "*"])
        yield ".".join(["*", *parts[place:]])
        if place < len(parts) - 1 and not parts[place].isdigit():
            yield f"*.{parts[place]}.*"


def few(names: Iterable[str]) -> str:
    """Return the first of `names`, and how many more there are, for a message.

    >>> few(["a", "b", "c", "d", "e"])
    'a, b, c and 2 more'
    """
    first, *more = names
    return ", ".join([first, *more[:2]]) + (f" and {len(more) - 2} more" if len(more) > 2 else "")
