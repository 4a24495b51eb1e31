"""One training by several processes together: of each batch every process has a share, and all have the same weights.

torch's DistributedDataParallel averages the gradients; a loss scaled by how many answers the batch asks for makes that
the mean over all of them, whatever the shares are. Batch normalisations take the statistics of the whole batch. What
comes out is, up to the order of sums, what one process makes of the same batches.
"""

import gc
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from inspect import signature
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.autograd.function import once_differentiable
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel

from tombola.data import Batches, share
from tombola.engine.reference import Reference
from tombola.errors import BadInput, TombolaError
from tombola.evaluate import Evaluation, sums
from tombola.train import computing, cross_entropy, descend

PATIENCE = timedelta(days=1)  # the first process prunes, waits for others' runs and reports while the rest waits for it

# Whether running statistics are broadcast at each step, which would only take time: they are the same everywhere as it
# is. The newer name is of torch 2.13 or somewhat earlier.
_OPTIONS: dict[str, Any] = {
    name: False
    for name in ("forward_sync_buffers", "broadcast_buffers")
    if name in signature(DistributedDataParallel.__init__).parameters
}
if len(_OPTIONS) > 1:
    del _OPTIONS["broadcast_buffers"]


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

    def hear(self, said: Any = None) -> Any:
        """What the leader says, to all; the leader is asked with what it has to say."""
        content = [said]
        distributed.broadcast_object_list(content, src=0)
        return content[0]

    def agree(self, value: Any, what: str) -> None:
        """Wait for all, and make sure that all have the same `value`.

        Raises:
            TombolaError: they have not; all of them raise it.
        """
        values: list[Any] = [None] * self.world
        distributed.all_gather_object(values, value)
        if any(each != value for each in values):
            raise TombolaError(
                f"{what}: expected the same of all {self.world} processes, found {values}. They need one store, on a "
                "file system that all machines share, and the same version of everything."
            )


@contextmanager
def joined(devices: Sequence[str]) -> Iterator[Crew]:
    """Meet the other processes that `torchrun` has started, each with a GPU of its own or all on the CPU.

    Args:
        devices: of this machine, as `engine.devices` has them.

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


class Parallel(Reference):
    """One training of `model` by a whole crew: every process makes one with the same arguments but its own device.

    The guard holds the weights of the model itself, with gradients that have been averaged already.
    """

    def __init__(self, crew: Crew, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._crew = crew

    def train(
        self,
        batches: Batches,
        learning_rate: Callable[[int], float],
        begin: int,
        until: int,
        looks: Sequence[int],
        watch: Callable[[int], None],
    ) -> None:
        """As `Reference.train`; `batches` has this process's part of each."""
        wanted, device = set(looks), torch.device(self._crew.device)
        model = DistributedDataParallel(self._model, device_ids=[device] if device.type == "cuda" else None, **_OPTIONS)

        def loss(step: int) -> Tensor:
            inputs, labels = batches(step)
            with computing(device, self._precision):
                ours = cross_entropy(model(inputs.to(device)), labels.to(device), "sum")
            # The gradients' average is then their mean over all answers.
            return ours * self._crew.world / batches.answers(step)

        def look(step: int) -> None:
            if step in wanted:
                watch(step)

        with whole_batches(self._model):
            descend(self._model, self._optimizer, self._mask, loss, learning_rate, begin, until, look)

    def evaluate(self, images: Tensor, labels: Tensor, places: Tensor | None = None) -> Evaluation:
        """Loss and accuracy on `images` at `places`, every process a share of them; all get the same numbers."""
        places = torch.arange(len(labels)) if places is None else places
        ours = places[share(len(places), self._crew.rank, self._crew.world)]
        found = torch.stack(
            [each.double() for each in sums(self._model, self._dataset, images, labels, ours, self._precision)]
        )
        distributed.all_reduce(found)  # counts stay exact in float64
        loss, correct, total = found.tolist()
        return Evaluation(loss / total, int(correct), int(total))


@contextmanager
def whole_batches(model: nn.Module) -> Iterator[None]:
    """Meanwhile the batch normalisations of `model` take their statistics from all processes' shares in training.

    Nothing of the model is replaced or renamed, and afterwards nothing is left of it.
    """
    norms = [module for module in model.modules() if isinstance(module, _BatchNorm)]
    for norm in norms:
        norm.forward = _forward_of(norm)  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        for norm in norms:
            del norm.forward  # the class's own is behind it


def _forward_of(norm: _BatchNorm) -> Callable[[Tensor], Tensor]:
    alone = norm.forward

    def forward(inputs: Tensor) -> Tensor:
        if not norm.training:
            return alone(inputs)
        norm._check_input_dim(inputs)
        outputs, mean, variance, count = _Normalised.apply(  # type: ignore[no-untyped-call]
            inputs, norm.weight, norm.bias, norm.eps
        )
        seen = norm.num_batches_tracked
        if norm.running_mean is not None and norm.running_var is not None and seen is not None:
            seen.add_(1)
            rate = norm.momentum if norm.momentum is not None else 1 / seen.to(variance.dtype)
            unbiased = variance * (count / (count - 1))
            with torch.no_grad():
                for running, of_batch in ((norm.running_mean, mean), (norm.running_var, unbiased)):
                    running.mul_(1 - rate).add_(of_batch.to(running.dtype) * rate)
        normalised: Tensor = outputs
        return normalised

    return forward


class _Normalised(torch.autograd.Function):
    """(x - mean) / sqrt(variance + eps) * weight + bias, per channel; mean and variance over all processes' examples.

    torch's SyncBatchNorm does the same on GPUs only. The gradient of the inputs needs two sums over all examples; those
    of weight and bias are this process's part, as those of all other parameters are.
    """

    @staticmethod
    def forward(
        ctx: Any, inputs: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        exact = inputs.float() if inputs.dtype in (torch.bfloat16, torch.float16) else inputs
        number = exact.new_full((1,), exact.numel() / exact.shape[1])
        # First the mean, then the squares around it: half the accuracy would be lost with both at once.
        sums = torch.cat([exact.sum(_but_channels(exact)), number])
        distributed.all_reduce(sums)
        mean, count = sums[:-1] / sums[-1], sums[-1]
        squares = (exact - _wide(mean, exact)).square().sum(_but_channels(exact))
        distributed.all_reduce(squares)
        variance = squares / count
        inverse = (variance + eps).rsqrt()
        outputs = (exact - _wide(mean, exact)) * _wide(inverse if weight is None else inverse * weight, exact)
        outputs = outputs if bias is None else outputs + _wide(bias, exact)
        ctx.save_for_backward(inputs, weight, mean, inverse, count)
        ctx.has_bias = bias is not None
        ctx.mark_non_differentiable(mean, variance, count)
        return outputs.to(inputs.dtype), mean, variance, count

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        inputs, weight, mean, inverse, count = ctx.saved_tensors
        exact = gradient.to(mean.dtype)
        standard = (inputs.to(mean.dtype) - _wide(mean, exact)) * _wide(inverse, exact)
        sums = torch.stack([exact.sum(_but_channels(exact)), (exact * standard).sum(_but_channels(exact))])
        of_bias, of_weight = sums.clone()
        distributed.all_reduce(sums)
        along, across = sums / count
        of_inputs = exact - _wide(along, exact) - standard * _wide(across, exact)
        of_inputs = of_inputs * _wide(inverse if weight is None else inverse * weight, exact)
        return (
            of_inputs.to(inputs.dtype),
            of_weight if weight is not None else None,
            of_bias if ctx.has_bias else None,
            None,
        )


def _but_channels(values: Tensor) -> list[int]:
    return [0, *range(2, values.dim())]


def _wide(per_channel: Tensor, values: Tensor) -> Tensor:
    return per_channel.view(-1, *[1] * (values.dim() - 2))
