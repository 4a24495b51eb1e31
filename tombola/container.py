"""One file of tensors and of what is said of them: safetensors, sealed by the SHA-256 of all of its bytes.

Reading one executes nothing, and takes memory by the bytes that are there: what the header claims beyond them is for
who knows its meaning to check, before anything is made of it (`mask_codec.affordable`).
"""

import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from tombola import files
from tombola.errors import BadInput

# What it raises where a file is not what it says, when it is read and when its content is made something of.
DAMAGED = (SafetensorError, KeyError, TypeError, ValueError, AttributeError, RuntimeError, MemoryError, OverflowError)
PAIRS = "pairs"  # the names of tensors of complex numbers, which are stored as real and imaginary parts


class Foreign(ValueError):
    """A safetensors file that says nothing under the key of its reader.

    Attributes:
        keys: under which it says something, so that it can be told whose file it is.
        names: of its tensors.
    """

    def __init__(self, keys: Collection[str], names: Sequence[str]) -> None:
        super().__init__("a safetensors file of something else")
        self.keys, self.names = keys, names


def content(tensors: Mapping[str, Tensor], key: str, metadata: Mapping[str, Any], *, sort_keys: bool = False) -> bytes:
    """The bytes of a file that holds `tensors`, and `metadata` as JSON under `key` in its header.

    Args:
        metadata: its first string of 64 zeros, `files.ZEROS`, is the place of the digest.

    Raises:
        BadInput: a tensor has a type that no such file holds.
    """
    pairs = [name for name, value in tensors.items() if value.is_complex()]
    if pairs:
        tensors = {name: torch.view_as_real(value) if name in pairs else value for name, value in tensors.items()}
        metadata = {**metadata, PAIRS: pairs}
    # One key of metadata: with more, the file's bytes depend on the order of a hash map.
    text = json.dumps(metadata, sort_keys=sort_keys)
    try:
        return files.sealed(save(dict(tensors), metadata={key: text}))
    except KeyError as error:
        raise BadInput(
            where="a tensor to be written",
            expected="real or complex numbers, whole numbers or flags",
            found=str(error.args[0]),
            todo="Convert it first.",
        ) from error


def header(content: bytes) -> tuple[dict[str, str], list[str]]:
    """What stands under `__metadata__` in the header of a safetensors file, and the names of its tensors.

    Args:
        content: of the file, or its beginning, as `beginning` reads it.

    Raises:
        ValueError: it has no such header.
    """
    end = 8 + int.from_bytes(content[:8], "little")
    if end > len(content):
        raise ValueError(f"{len(content)} bytes where its first eight announce {end} or more")
    found = files.parsed(content[8:end])
    metadata = found.pop("__metadata__", {}) if isinstance(found, dict) else None
    if not isinstance(metadata, dict):
        raise ValueError("a header that is no table")
    return metadata, list(found)


def metadata(content: bytes, key: str) -> dict[str, Any]:
    """What a file says of itself under `key`.

    Args:
        content: of the file, or its beginning, as `beginning` reads it.

    Raises:
        Foreign: nothing is said there.
        ValueError: what is said is no table, or it is no safetensors file.
    """
    entries, names = header(content)
    if key not in entries:
        raise Foreign(entries.keys(), names)
    try:
        values = files.parsed(entries[key])
    except TypeError as error:
        raise ValueError(f"nothing to be read under {key} in its header") from error
    if not isinstance(values, dict):
        raise ValueError(f"{key} in its header is no table")
    return values


def sealed(content: bytes, metadata: Mapping[str, Any]) -> dict[str, Tensor]:
    """The tensors of a file that `content` made, of which it says `metadata`.

    Raises:
        ValueError: a byte of it is another than when it was made.
        SafetensorError, KeyError, TypeError, RuntimeError: it is damaged otherwise.
    """
    if not files.intact(content, metadata["digest"]):
        raise ValueError("its SHA-256 is another than it says")
    found = tensors(content)
    return found | {name: torch.view_as_complex(found[name]) for name in metadata.get(PAIRS, ())}


def tensors(content: bytes) -> dict[str, Tensor]:
    """The tensors of any safetensors file.

    Raises:
        SafetensorError: it is none.
    """
    # clone: torch's own memory is aligned, on which the last bits of a matrix product depend.
    return {name: value.clone() for name, value in load(content).items()}


def beginning(path: Path) -> bytes:
    """The header of a safetensors file, which `header` reads; as much of the file as its first eight bytes announce."""
    with path.open("rb") as file:
        size = file.read(8)
        announced = int.from_bytes(size, "little")
        return size + file.read(min(announced, path.stat().st_size))
