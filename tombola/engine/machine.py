"""Where training happens: the devices of this machine, and the processes that train together."""

import os
from ctypes.util import find_library
from pathlib import Path
from typing import Literal

from tombola.errors import BadInput

Device = Literal["auto", "cpu", "cuda"]


def processes() -> int:
    """How many processes train together: those that `torchrun` has started, or this one."""
    world = int(os.environ.get("WORLD_SIZE", "1"))
    return world if {"RANK", "MASTER_ADDR"} <= os.environ.keys() else 1


def devices(choice: Device) -> tuple[str, ...]:
    """The devices that workers share: `cpu`, or every GPU that torch can use, where there is one and it is wanted.

    Raises:
        BadInput: `cuda` is asked for, and torch can use no GPU.
    """
    # torch takes two seconds to import: where there is no driver it need not be asked.
    driver = choice == "cuda" or find_library("cuda") or Path("/proc/driver/nvidia").exists() or os.name == "nt"
    if choice == "cpu" or not driver:
        return ("cpu",)
    import torch

    if torch.cuda.is_available():
        return tuple(f"cuda:{number}" for number in range(torch.cuda.device_count()))
    if choice == "cuda":
        raise BadInput(
            where="device",
            expected="a GPU that torch can use",
            found=f"none (torch {torch.__version__})",
            todo="--set device=cpu, or install torch for CUDA.",
        )
    return ("cpu",)


def device_facts(device: str) -> dict[str, str]:
    """What the record of a run says of where it ran: `device`, and of a GPU its name and the version of CUDA.

    >>> device_facts("cpu")
    {'device': 'cpu'}
    """
    if not device.startswith("cuda"):
        return {"device": device}
    import torch

    return {"device": device, "gpu": torch.cuda.get_device_name(device), "cuda": str(torch.version.cuda)}
