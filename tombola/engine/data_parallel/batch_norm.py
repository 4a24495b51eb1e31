"""Batch normalisation over the whole batch, of which every process has a share."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.autograd.function import once_differentiable
from torch.nn.modules.batchnorm import _BatchNorm


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
