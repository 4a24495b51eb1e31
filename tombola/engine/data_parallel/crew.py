"""The processes that train together: they meet, hear their leader, and leave."""

import gc
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
from torch import distributed

from tombola.errors import BadInput, TombolaError

PATIENCE = timedelta(days=1)  # the first process prunes, waits for others' runs and reports while the rest waits for it


@dataclass(frozen=True)
class Crew:
    """The processes that train together.

    Attributes:
        rank: which one this is; 0 leads.
        world: how many they are.
        device: where this one computes.
    """

    rank: int
    world: int
    device: str

    def hear(self, message: Any = None) -> Any:
        """What the leader says, to all; the leader is asked with what it has to say."""
        content = [message]
        distributed.broadcast_object_list(content, src=0)
        return content[0]

    def agree(self, value: Any, what: str) -> None:
        """Wait for all, and make sure that all have the same `value`.

        Raises:
            TombolaError: they have not; all of them raise it.
        """
        values: list[Any] = [None] * self.world
        distributed.all_gather_object(values, value)
        todo = "They need one store, on a file system that all machines share, and the same version of everything."
        check_same(values, what, todo)


def check_same(values: Sequence[Any], what: str, todo: str) -> None:
    """Raise TombolaError, which says what to do, unless all processes have the same value."""
    if any(each != values[0] for each in values):
        raise TombolaError(f"{what}: expected the same of all {len(values)} processes, found {values}. {todo}")


@contextmanager
def joined(devices: Sequence[str]) -> Iterator[Crew]:
    """Meet the other processes that `torchrun` has started, each with a GPU of its own or all on the CPU.

    Args:
        devices: of this machine, as `machine.devices` has them.

    Raises:
        BadInput: there are fewer GPUs than processes on this machine.
    """
    local = int(os.environ.get("LOCAL_RANK", 0))
    on_gpus = devices[0] != "cpu"
    if on_gpus and local >= len(devices):
        raise BadInput(
            where="torchrun --nproc-per-node",
            expected=f"at most {len(devices)}, as many as there are GPUs",
            found=f"a process number {local + 1}",
            todo="Start fewer, or --set device=cpu.",
        )
    if on_gpus:
        torch.cuda.set_device(devices[local])  # else every process would hold memory of the first one
    # Objects and the processes' agreements go over gloo, whatever carries the gradients.
    distributed.init_process_group("cpu:gloo,cuda:nccl" if on_gpus else "gloo", timeout=PATIENCE)
    yield Crew(distributed.get_rank(), distributed.get_world_size(), devices[local] if on_gpus else "cpu")
    # Not where something went wrong: the others may wait in the midst of something, and torchrun ends them all.
    leave()


def leave() -> None:
    """Leave the others, and wait for the threads that talked to them.

    What still refers to them, such as a training's buckets in a circle of references, would keep them alive until
    Python itself ends; a thread that then asks for Python's lock ends the process with SIGABRT.
    """
    gc.collect()
    distributed.destroy_process_group()
