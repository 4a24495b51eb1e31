"""2 of 4 consecutive weights, which GPUs since 2020 multiply faster than all of them: torch's semi-structured tensors.

This has not been tried on a GPU: tests do it with torch's own code on a CPU, but for the product of two matrices.
"""

import torch
from torch import Tensor, nn

from tombola import weights
from tombola.cash.replaceable import copied, kind_of, uses
from tombola.errors import BadInput

_Converted = torch.sparse.SparseSemiStructuredTensor
CAPABILITY = (8, 0)  # of the first GPUs with such products


def fits(weight: Tensor, n: int = 2, m: int = 4) -> bool:
    """Whether of every m consecutive weights along the inputs, the second axis, at most n are not 0.

    >>> fits(torch.tensor([[1.0, 0.0, 0.0, 2.0]])), fits(torch.tensor([[1.0, 0.0, 3.0, 2.0]]))
    (True, False)
    """
    if weight.dim() < 2 or weight.shape[1] % m:
        return False
    groups = (weight != 0).movedim(1, -1).unflatten(-1, (-1, m))
    return bool((groups.sum(dim=-1) <= n).all())


def semi_structured(model: nn.Module) -> nn.Module:
    """A copy of `model`, in eval mode, whose linear layers of 2 in 4 weights hold these alone, for a GPU to multiply.

    Layers stay dense whose weights do not fit, are shared with another layer, or are not of a type and of sizes that
    torch takes: float16 and bfloat16 in multiples of 32 outputs and 64 inputs, on most GPUs. Such a copy infers; it is
    neither trained nor saved. Source: Accelerating Sparse Deep Neural Networks (Mishra et al., 2021),
    https://arxiv.org/abs/2104.08378.

    Args:
        model: on a CUDA device of capability 8.0 or higher, its weights m ⊙ theta; `n_of_m.n_of_m` makes such a mask.

    Raises:
        BadInput: there is no such device, the model is not on it, or none of its layers can be converted.
    """
    _device(model)
    small = copied(model)
    times = uses(small)
    refused: dict[str, str] = {}
    converted = 0
    for name, layer in small.named_modules():
        if kind_of(layer) is not nn.Linear:
            continue
        if not fits(layer.weight):
            refused[name] = "more than 2 of 4 weights are not 0"
        elif times[weights.place(layer.weight)] > 1:
            refused[name] = "its weight is another layer's too"
        else:
            try:
                weight = torch.sparse.to_sparse_semi_structured(layer.weight.detach().contiguous())
            except torch.OutOfMemoryError:
                raise
            except (RuntimeError, ValueError) as error:  # its type or sizes: torch's rules differ by GPU and version
                refused[name] = str(error)
            else:
                layer.weight = nn.Parameter(weight, requires_grad=False)
                layer.register_forward_pre_hook(_in_line)
                converted += 1
    if not converted:
        name, why = next(iter(refused.items()), (type(model).__name__, "it has no linear layers"))
        raise _no_layer(name, why)
    return small


def _no_layer(name: str, why: str) -> BadInput:
    return BadInput(
        where="semi_structured",
        expected="a linear layer of 2 in 4 weights, of a type and of sizes that torch takes",
        found=f"none; {name}: {why}",
        todo="`n_of_m.n_of_m` makes such masks; `.half()` gives the weights a type that fits.",
    )


def _in_line(_: nn.Module, given: tuple[Tensor, ...]) -> Tensor:
    """Torch's product of such weights takes nothing that lies across memory."""
    return given[0].contiguous()


def semi_structured_layers(model: nn.Module) -> frozenset[str]:
    """The names of its layers that `semi_structured` has converted."""
    return frozenset(
        name for name, layer in model.named_modules() if isinstance(getattr(layer, "weight", None), _Converted)
    )


def held_bytes(value: Tensor) -> int:
    """Of the numbers that a tensor holds: of a converted one of those alone that live, and their places."""
    if not isinstance(value, _Converted):
        return int(value.nbytes)
    return sum(int(getattr(value, part).nbytes) for part in value.__tensor_flatten__()[0])


def _device(model: nn.Module) -> None:
    """That the model is where such products are.

    Raises:
        BadInput: it is not.
    """
    todo = "On a CPU `cash.sparsify` is what makes zeros pay."
    if not torch.cuda.is_available():
        found = "no CUDA device"
    else:
        device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
        if device.type != "cuda":
            found, todo = f"a model on {device}", "Move it: model.cuda()."
        elif (has := torch.cuda.get_device_capability(device)) < CAPABILITY:
            found = f"capability {has[0]}.{has[1]}"
        else:
            return
    raise BadInput(
        where="semi_structured",
        expected=f"a model on a CUDA device of capability {CAPABILITY[0]}.{CAPABILITY[1]} or higher",
        found=found,
        todo=todo,
    )
