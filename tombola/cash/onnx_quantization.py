"""ONNX files whose layers multiply int8 by int8: activations are rounded too, in ranges that were seen on inputs.

Weights have one scale for each output, activations one for each tensor: x ~ s (q - z), q in 0 to 255, where s and z
span what the tensor was on the inputs that it was made with. What is pruned stays exactly 0. A processor with VNNI or
AMX instructions multiplies such numbers two to five times as fast as float32.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tombola import files
from tombola.cash import equivalence, export
from tombola.cash.replaceable import cloned, copied, first_line, in_batch, tensors
from tombola.errors import BadInput

CHUNK = 50  # inputs that are called at once


def to_onnx_int8(
    model: nn.Module,
    example: Tensor | tuple[Tensor, ...],
    path: str | Path,
    *,
    batch_axes: export.Axes | None = None,
) -> float:
    """Write `model` as an ONNX file of int8 weights and activations; how far its outputs are from the model's own.

    On processors without VNNI sums of two products may not fit into 16 bits there: compare what it gives on the machine
    that is to use it.

    Args:
        model: exported in eval mode; it is left as it was.
        example: real inputs, a hundred or more: activations are rounded in the ranges that they have on these.
        path: of the file.
        batch_axes: as `export.to_onnx` takes them.

    Returns:
        The largest absolute difference between outputs on `example`.

    Raises:
        BadInput: as `export.to_onnx`; or ONNX Runtime cannot quantise the file.
    """
    inputs = example if isinstance(example, tuple) else (example,)
    with TemporaryDirectory() as folder:
        plain, rounded = Path(folder) / "plain.onnx", Path(folder) / "int8.onnx"
        two = tuple(each[:2] if of else each for each, of in zip(inputs, in_batch(inputs), strict=True))
        export.to_onnx(model, two if batch_axes is None else inputs, plain, batch_axes=batch_axes)
        try:
            with _quiet():
                _quantise(plain, rounded, inputs, batch_axes)
            content = rounded.read_bytes()
            run = export.onnx_session(rounded, 1)
        except Exception as error:  # ONNX Runtime raises anything
            raise _not_quantised(model, error) from error
        with torch.no_grad():
            own = tensors(copied(model)(*cloned(inputs)))[0]
        difference = equivalence.apart(own, run(*(each.cpu() for each in inputs)))
    files.deliver(path, content)
    return difference


def _quantise(plain: Path, rounded: Path, inputs: tuple[Tensor, ...], batch_axes: export.Axes | None) -> None:
    """Raises: anything, where ONNX Runtime cannot."""
    import onnxruntime
    from onnxruntime.quantization import QuantFormat, QuantType, quant_pre_process, quantize_static

    ready = plain.with_name("ready.onnx")
    quant_pre_process(str(plain), str(ready), skip_symbolic_shape=True)
    session = onnxruntime.InferenceSession(str(plain), providers=["CPUExecutionProvider"])
    names = [each.name for each in session.get_inputs()]
    quantize_static(
        str(ready),
        str(rounded),
        _Chunks(names, inputs, batch_axes),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        weight_type=QuantType.QInt8,
        activation_type=QuantType.QUInt8,  # with QInt8 a ResNet took as long as in float32
    )


class _Chunks:
    """The inputs, some at a time, as ONNX Runtime asks for them."""

    def __init__(self, names: list[str], inputs: tuple[Tensor, ...], batch_axes: export.Axes | None) -> None:
        cut = in_batch(inputs) if batch_axes is None else tuple(axis == 0 for axis in batch_axes)
        count = len(next((each for each, of in zip(inputs, cut, strict=True) if of), torch.empty(1)))
        self._chunks = iter(
            {
                name: (each[begin : begin + CHUNK] if of else each).cpu().numpy()
                for name, each, of in zip(names, inputs, cut, strict=True)
            }
            for begin in range(0, count, CHUNK)
        )

    def get_next(self) -> dict[str, NDArray[np.generic]] | None:
        """The next ones, or None."""
        return next(self._chunks, None)

    def __iter__(self) -> Iterator[dict[str, NDArray[np.generic]]]:
        return self._chunks

    def set_range(self, start_index: int, end_index: int) -> None:
        """ONNX Runtime may ask for a part of them, which is not needed here."""


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what ONNX Runtime's quantiser says about steps that were taken."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)


def _not_quantised(model: nn.Module, error: Exception) -> BadInput:
    return BadInput(
        where=type(model).__name__,
        expected="an ONNX file that ONNX Runtime can quantise",
        found=f"{type(error).__name__} ({first_line(error)})",
        todo="`to_onnx` writes it in float32, `quantize` makes int8 weights alone.",
    )
