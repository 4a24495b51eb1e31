"""Weights that a file has: a teacher's that was trained elsewhere."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tombola import files
from tombola.errors import BadInput
from tombola.lab.runs import Network, Outcome, Run, Tell, untold

if TYPE_CHECKING:
    from tombola.lab.worker import Worker

LONGEST = 100_000_000  # bytes of a header, as safetensors has it


@dataclass(frozen=True, eq=False, repr=False)
class Loaded(Run):
    """The weights of a network that a safetensors file has, under the names of its state_dict.

    Attributes:
        network: whose weights they are.
        path: of the file, as it was written.
        sha256: of its content.
    """

    kind = "loaded"
    version = 1

    network: Network
    path: str
    sha256: str

    @classmethod
    def of(cls, network: Network, path: str) -> "Loaded":
        """The weights that the file at `path` has now.

        Raises:
            BadInput: there is no such file.
        """
        return cls(network, path, hashlib.sha256(_content(path)).hexdigest())

    def perform(self, worker: "Worker", tell: Tell = untold) -> Outcome:
        """Read them."""
        from safetensors.torch import load

        from tombola import weights

        content = _content(self.path)
        if hashlib.sha256(content).hexdigest() != self.sha256:
            raise BadInput(
                where=self.path,
                expected=f"the file with SHA-256 {self.sha256[:16]}...",
                found="another one",
                todo="Somebody changed it while this was at work: run the same command again.",
            )
        found = load(content)
        weights.fit(weights.of(self.network.build()), found, self.path)
        if odd := sorted(name for name, value in found.items() if not bool(value.isfinite().all())):
            raise BadInput(
                where=self.path,
                expected="finite weights of a teacher",
                found=f"nan or inf in {', '.join(odd[:3])}",
                todo="Take the weights from before its training went wrong.",
            )
        return Outcome(values={}, tensors={"weights": found})


def shapes(path: str) -> dict[str, tuple[int, ...]]:
    """The shape of each tensor of a safetensors file, by name, from its header alone.

    Raises:
        BadInput: there is no such file.
    """
    try:
        size = int.from_bytes(files.beginning(Path(path), 8), "little")
        header = files.parsed(files.beginning(Path(path), 8 + min(size, LONGEST))[8:])
        return {name: tuple(about["shape"]) for name, about in header.items() if name != "__metadata__"}
    except OSError as error:
        raise _no_weights(path, error.strerror or "none") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise _no_weights(path, "another file") from error


def _content(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise _no_weights(path, error.strerror or "none") from error


def _no_weights(path: str, found: str) -> BadInput:
    todo = "safetensors.torch.save_file(model.state_dict(), path) writes one."
    return BadInput(where=path, expected="a safetensors file of weights", found=found, todo=todo)
