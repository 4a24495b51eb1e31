"""A fully connected and a convolutional layer of which only the living weights are computed, with their gradients."""

from typing import Any

import torch
from torch import Tensor, nn
from torch._C._functorch import is_legacy_batchedtensor
from torch.autograd import forward_ad
from torch.nn import functional

from tombola.sparse import kernels
from tombola.sparse.compute import Form, backward, forward
from tombola.sparse.layout import Layout, abreast, layout
from tombola.sparse.pattern import Pair, Pattern


def linear(x: Tensor, weight: Tensor, bias: Tensor | None, pattern: Pattern) -> Tensor:
    """The function computes y = x (m ⊙ w)^T + b from the living weights alone.

    Args:
        x: (..., inputs).
        weight: (outputs, inputs); what it holds where the pattern has no weight is not read.
        bias: (outputs,), or None.
        pattern: where m is 1.

    Returns:
        (..., outputs). The gradient of `weight` has its shape and is exactly 0 where the pattern has no weight.

    Examples:
        >>> linear(torch.ones(1, 2), torch.tensor([[1.0, 2.0]]), None, Pattern.of(torch.tensor([[0, 1]])))
        tensor([[2.]])
    """
    return _layer(x, weight, bias, pattern)


def conv2d(x: Tensor, weight: Tensor, bias: Tensor | None, pattern: Pattern) -> Tensor:
    """The function convolves x with m ⊙ w, from the living weights alone.

    Args:
        x: (examples, channels, rows, columns) or (channels, rows, columns), in any memory format.
        weight: (outputs, channels / groups, rows, columns of the window).
        bias: (outputs,), or None.
        pattern: where m is 1, and stride, padding, dilation and groups.

    Returns:
        The maps of the outputs. The gradient of `weight` is exactly 0 where the pattern has no weight.

    Examples:
        >>> window = torch.ones(1, 1, 3, 3)
        >>> conv2d(torch.ones(1, 1, 3, 3), window, None, Pattern.of(window, padding=1))[0, 0, 1]
        tensor([6., 9., 6.])
    """
    return _layer(x, weight, bias, pattern)


def _layer(x: Tensor, weight: Tensor, bias: Tensor | None, pattern: Pattern) -> Tensor:
    if _EXPORTING() or not isinstance(x, Tensor):  # what is exported or traced goes where the kernels are not
        return _densely(x, weight, bias, pattern)
    y: Tensor = _by_itself(x, weight, bias, pattern)
    return y


# ---- dense: where the kernels are absent, and for gradients of gradients


def _living(weight: Tensor, pattern: Pattern) -> Tensor:
    """m ⊙ w, whose gradient is m ⊙ dw even where dw is infinite."""
    return torch.where(pattern.mask.to(weight.device), weight, 0.0)


def _linear(x: Tensor, weight: Tensor, bias: Tensor | None, pattern: Pattern) -> Tensor:
    return functional.linear(x, _living(weight, pattern), bias)


def _convolution(x: Tensor, weight: Tensor, bias: Tensor | None, pattern: Pattern) -> Tensor:
    (top, bottom), (left, right) = pattern.padding
    if (top, left) != (bottom, right):
        x, top, left = functional.pad(x, (left, right, top, bottom)), 0, 0
    return functional.conv2d(
        x, _living(weight, pattern), bias, pattern.stride, (top, left), pattern.dilation, pattern.groups
    )


def _densely(x: Tensor, weight: Tensor, bias: Tensor | None, pattern: Pattern) -> Tensor:
    return (_linear if weight.dim() == 2 else _convolution)(x, weight, bias, pattern)


# ---- sparse


def compiled(x: Tensor, weight: Tensor, bias: Tensor | None) -> bool:
    """Whether the kernels may take these: plain tensors in main memory, which nothing follows step by step."""
    if not kernels.sets() or torch._C._is_tracing() or _followed() or forward_ad._current_level >= 0:
        return False
    tensors = [one for one in (x, weight, bias) if one is not None]
    if not all(map(_plain, tensors)):
        return False
    kinds = {one.dtype for one in tensors}
    if torch.is_autocast_enabled("cpu"):
        return kinds <= {torch.float32, torch.bfloat16, torch.float16}
    return len(kinds) == 1 and kinds <= {torch.float32, torch.float64}


def _followed() -> bool:
    """Whether something sees each of torch's operations: a transformation of functions, a counter, fake tensors."""
    return torch._C._are_functorch_transforms_active() or torch._C._len_torch_dispatch_stack() > 0


def _plain(tensor: Tensor) -> bool:
    """Whether its numbers are in main memory as it has them."""
    in_memory = tensor.device.type == "cpu" and tensor.layout is torch.strided
    return type(tensor) in (Tensor, nn.Parameter) and in_memory and not tensor.is_neg()


def _sparsely(x: Tensor, weight: Tensor, bias: Tensor | None, pattern: Pattern) -> Tensor:
    """The kernels' outputs; under autocast they compute in float32 and give what the dense layer would."""
    if torch.is_autocast_enabled("cpu"):
        given = torch.get_autocast_dtype("cpu")
        with torch.autocast("cpu", enabled=False):
            narrow = None if bias is None else bias.float()
            y: Tensor = _sparsely(x.float(), weight.float(), narrow, pattern)
            return y.to(given)
    flat = x.reshape(-1, x.shape[-1], 1, 1) if weight.dim() == 2 else x if x.dim() == 4 else x[None]
    fitting = _layout(flat, weight, pattern)
    if fitting is None or (bias is not None and bias.shape != weight.shape[:1]):
        return _densely(x, weight, bias, pattern)
    if not flat.is_contiguous(memory_format=torch.channels_last):
        flat = flat.contiguous()
    if not weight.is_contiguous() and not _channels_last(weight):
        weight = weight.contiguous()
    y = _apply(flat, weight, bias, pattern, fitting)
    return y.reshape(*x.shape[:-1], len(weight)) if weight.dim() == 2 else y if x.dim() == 4 else y[0]


def _channels_last(tensor: Tensor) -> bool:
    return tensor.dim() == 4 and tensor.is_contiguous(memory_format=torch.channels_last) and not tensor.is_contiguous()


def _layout(x: Tensor, weight: Tensor, pattern: Pattern) -> Layout | None:
    """How the kernels compute x, or None if they cannot."""
    channels = pattern.mask.shape[1] * pattern.groups
    if x.dim() != 4 or x.shape[1] != channels or weight.shape != pattern.mask.shape or not x.numel():
        return None  # the dense layer says what is wrong
    one = kernels.load(kernels.sets()[-1], x.dtype == torch.float64)
    size: Pair = (x.shape[2], x.shape[3])
    beside, last = abreast(pattern, size[1], len(x), one.width), _channels_last(weight)
    found: Layout | None = pattern.kept((*size, beside, one, last), lambda: layout(pattern, size, beside, one, last))
    return found


class _Sparse(torch.autograd.Function):
    """The kernels' layer over maps, (examples, channels, rows, columns)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, pattern: Pattern, fitting: Layout) -> Tensor:
        of_x, of_weight, _ = ctx.needs_input_grad[:3]
        ctx.save_for_backward(x if of_weight else None, weight if of_x else None)  # others may change meanwhile
        ctx.forms, ctx.pattern, ctx.fitting = (Form.of(x), Form.of(weight)), pattern, fitting
        return forward(fitting, x, weight, bias)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None, None, None]:
        wanted = ctx.needs_input_grad[:3]
        if torch.is_grad_enabled() or _followed() or is_legacy_batchedtensor(dy):
            dx, dw, db = _by_torch(ctx, dy, wanted)
        else:
            dx, dw, db = backward(ctx.fitting, ctx.saved_tensors, ctx.forms, dy, wanted)
        return dx, dw, db, None, None


def _by_torch(ctx: Any, dy: Tensor, wanted: tuple[bool, bool, bool]) -> list[Tensor | None]:
    """The gradients by torch's own operations, which have gradients themselves.

    What was not saved has no part in the gradients that are wanted: the outputs are linear in it.
    """
    again = torch.is_grad_enabled()
    with torch.enable_grad():
        forms = (*ctx.forms, Form(ctx.forms[1].shape[:1], last=False, dtype=ctx.forms[1].dtype))
        x, weight, bias = (
            torch.zeros(form.shape, dtype=form.dtype, device="cpu").requires_grad_(needed) if one is None else one
            for one, form, needed in zip((*ctx.saved_tensors, None), forms, wanted, strict=True)
        )
        y = _densely(x.flatten(1) if weight.dim() == 2 else x, weight, bias, ctx.pattern)
        y = y[..., None, None] if weight.dim() == 2 else y
    some = [one for one, needed in zip((x, weight, bias), wanted, strict=True) if needed]
    found = iter(torch.autograd.grad(y, some, dy, create_graph=again))
    return [next(found) if needed else None for needed in wanted]


def _chosen(x: Tensor, weight: Tensor, bias: Tensor | None, pattern: Pattern) -> Tensor:
    return (_sparsely if compiled(x, weight, bias) else _densely)(x, weight, bias, pattern)


_apply: Any = _Sparse.apply
_by_itself: Any = torch.compiler.disable(_chosen)  # a compiled graph ends before the layer and goes on behind it
_EXPORTING = getattr(torch.compiler, "is_exporting", bool)  # torch 2.6 has none and answers False
