"""What becomes of a trained ticket: a smaller, faster model, with proof that it computes the same.

The public names are those of `__all__`, and the modules they come from; what is done is a verb, `cash.compact`, and its
module a noun, `cash.compaction`. They are imported when they are first used, as `tombola`'s are.

>>> from torch import nn
>>> from tombola import cash
>>> cash.quantize(nn.Linear(3, 2))
QuantisedLinear(in_features=3, out_features=2, bias=True)
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tombola.cash.compaction import compact
    from tombola.cash.comparison import prove, write
    from tombola.cash.coupled import coupling
    from tombola.cash.ensemble import Ensemble
    from tombola.cash.export import from_safetensors, to_onnx, to_safetensors, to_torch_export
    from tombola.cash.factors import factorize
    from tombola.cash.form import Form, Proof, advice, sentences
    from tombola.cash.onnx_quantization import to_onnx_int8
    from tombola.cash.quantization import quantize
    from tombola.cash.semi_structured import fits
    from tombola.cash.semi_structured import semi_structured as on_gpu
    from tombola.cash.shrinking import Importance, shrink, shrunk_mask
    from tombola.cash.size import Size, compare, sizes
    from tombola.cash.sparsification import sparsify
    from tombola.cash.stacking import stack

__all__ = [
    "prove",
    "Proof",
    "Form",
    "sentences",
    "advice",
    "write",
    "compact",
    "coupling",
    "shrink",
    "shrunk_mask",
    "Importance",
    "sparsify",
    "Ensemble",
    "stack",
    "factorize",
    "quantize",
    "on_gpu",
    "fits",
    "to_onnx",
    "to_onnx_int8",
    "to_torch_export",
    "to_safetensors",
    "from_safetensors",
    "Size",
    "sizes",
    "compare",
]

_HOMES = {
    "prove": "comparison",
    "Proof": "form",
    "Form": "form",
    "sentences": "form",
    "advice": "form",
    "write": "comparison",
    "compact": "compaction",
    "coupling": "coupled",
    "shrink": "shrinking",
    "shrunk_mask": "shrinking",
    "Importance": "shrinking",
    "sparsify": "sparsification",
    "Ensemble": "ensemble",
    "stack": "stacking",
    "factorize": "factors",
    "quantize": "quantization",
    "on_gpu": "semi_structured.semi_structured",
    "fits": "semi_structured",
    "to_onnx": "export",
    "to_onnx_int8": "onnx_quantization",
    "to_torch_export": "export",
    "to_safetensors": "export",
    "from_safetensors": "export",
    "Size": "size",
    "sizes": "size",
    "compare": "size",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'tombola.cash' has no attribute {name!r}")
    home, _, there = _HOMES[name].partition(".")
    return getattr(import_module(f"tombola.cash.{home}"), there or name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
