"""A ticket - a mask, the weights its survivors return to, and where they come from - and its file."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from tombola import files, mask, weights
from tombola.errors import BadInput
from tombola.mask import Mask
from tombola.weights import Weights

FORMAT = 1


@dataclass(frozen=True, eq=False)
class Ticket:
    """A sparse subnetwork with its original early weights: f(x; m ⊙ theta_k), before any training of its own.

    Attributes:
        mask: m, True = alive.
        weights: m ⊙ theta_k, all that the model's state_dict holds; pruned weights are 0.
        origin: where it comes from: model, data, density, rewind, level, replicate, the keys of its runs.
    """

    mask: Mask
    weights: Weights
    origin: Mapping[str, Any]

    def __repr__(self) -> str:
        origin = self.origin
        model, rewind, key = (origin.get(name, "?") for name in ("model", "rewind", "key"))
        return f"Ticket({model}, density {self.mask.density:.3g}, rewind {rewind}, from {key})"

    def apply(self, model: nn.Module) -> None:
        """Put the ticket's weights into `model`, by copy; train it under `mask` from there.

        Raises:
            BadInput: it is another model; the first tensors that differ are named.
        """
        weights.put(model, self.weights)

    def save(self, path: Path) -> None:
        """Write one safetensors file: a bit per prunable weight, the living weights, the origin as JSON.

        The file appears complete or not at all.
        """
        tensors = {f"mask/{name}": bits for name, bits in mask.pack(self.mask).items()}
        tensors |= {f"weights/{name}": value for name, value in mask.compress(self.weights, self.mask).items()}
        about = {
            "format": FORMAT,
            "shapes": {name: list(alive.shape) for name, alive in self.mask.items()},
            "origin": dict(self.origin),
        }
        # One key of metadata: with more, the file's bytes depend on the order of a hash map.
        content = save(tensors, metadata={"tombola": json.dumps(about, sort_keys=True)})
        try:
            files.replace(path, content)
        except OSError as error:
            raise BadInput(
                where=str(path),
                expected="a file that can be written",
                found=str(error.strerror),
                todo="Name another one.",
            ) from error

    @staticmethod
    def load(path: Path) -> "Ticket":
        """Read a ticket's file; nothing in it is executed.

        Raises:
            BadInput: it is no ticket, is damaged, or a newer version wrote it.
        """
        try:
            with safe_open(path, framework="pt") as file:
                about = json.loads((file.metadata() or {})["tombola"])
                names = list(file.keys())
                tensors: dict[str, Tensor] = {name: file.get_tensor(name).clone() for name in names}
            if about["format"] != FORMAT:
                raise BadInput(
                    where=str(path),
                    expected=f"format {FORMAT}",
                    found=f"format {about['format']}",
                    todo="A newer version of Tombola wrote it.",
                )
            shapes = {name: tuple(shape) for name, shape in about["shapes"].items()}
            alive = mask.unpack(_below("mask/", tensors), shapes)
            return Ticket(alive, mask.expand(_below("weights/", tensors), alive), about["origin"])
        except (OSError, SafetensorError, KeyError, TypeError, ValueError, RuntimeError) as error:
            raise BadInput(
                where=str(path),
                expected="a ticket's file",
                found=f"something else ({error})",
                todo="`tombola ticket` makes one.",
            ) from error


def _below(prefix: str, tensors: Weights) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
