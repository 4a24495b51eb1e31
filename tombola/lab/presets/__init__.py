"""Experiments that come with Tombola: each is a TOML file in this folder."""

from functools import cache
from importlib.resources import files


@cache
def names() -> tuple[str, ...]:
    """The presets' names, in alphabetical order."""
    return tuple(
        sorted(entry.name.removesuffix(".toml") for entry in files(__name__).iterdir() if entry.name.endswith(".toml"))
    )


def text(name: str) -> str:
    """The TOML of a preset."""
    return (files(__name__) / f"{name}.toml").read_text(encoding="utf-8")
