"""Experiments that come with Tombola: each is a TOML file in this folder."""

import tomllib
from functools import cache
from importlib.resources import files


@cache
def names() -> tuple[str, ...]:
    """The presets' names, in alphabetical order."""
    return tuple(
        sorted(entry.name.removesuffix(".toml") for entry in files(__name__).iterdir() if entry.name.endswith(".toml"))
    )


def about(name: str) -> str:
    """What a preset is, in a sentence; whether its data are there does not matter."""
    about: str = tomllib.loads(text(name))["about"]
    return about


def text(name: str) -> str:
    """The TOML of a preset."""
    return (files(__name__) / f"{name}.toml").read_text(encoding="utf-8")
