"""Models as files: ONNX, torch.export, safetensors. What is exported is run and compared before it is kept.

A file appears complete or not at all. In a safetensors file a tensor of which much is 0 is two: `NAME.flags`, which of
its numbers are not 0 (`tombola.mask_codec`), and `NAME.values`, these; its shape is in the metadata.
"""

import io
import json
import logging
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor, nn

from tombola import container, files, mask_codec, weights
from tombola.cash import equivalence
from tombola.cash.compaction import fitted
from tombola.cash.replaceable import cloned, copied, first_line, in_batch, line_of, tensors
from tombola.cash.sparse_layers import has_kernels, not_exported
from tombola.errors import BadInput, not_installed, shown
from tombola.mask import Mask
from tombola.seeding import seeded

FORMAT = 1
KEY = "tombola-model"  # in the metadata; "tombola" is a ticket's
FLAGS, VALUES = ".flags", ".values"
ENTRY = 256  # bytes that two entries take more than one; so a file of few zeros is one that any program reads
SPARSE_BELOW = 1 / 3  # of the weights: a sparse one takes 4 bytes and 8 for its place, a dense one 4


Example = Tensor | tuple[Tensor, ...]
Axes = Sequence[int | None]


def to_onnx(
    model: nn.Module, example: Example, path: str | Path, *, sparse: bool = False, batch_axes: Axes | None = None
) -> float:
    """Write `model` as one ONNX file for batches of any size; how far ONNX Runtime's outputs are from its own.

    They are compared on `example` and on batches of other sizes made of it.

    Args:
        model: exported in eval mode; it is left as it was.
        example: what it is called with.
        batch_axes: of each input the axis that is the batch, or None where it has none; left out, the first axis of
            each input that is as long as that of the first. (None,) is for a graph that is one example: its size stays.
        sparse: whether tensors with less than a third of their numbers alive are stored as sparse initializers. The
            file is smaller; ONNX Runtime makes them dense when it loads them, so it is as fast and as large in memory.

    Returns:
        The largest absolute difference.

    Raises:
        BadInput: the extra `export` is not installed, the model cannot be exported, the file would compute something
            else, or it cannot be written.
    """
    onnxruntime = _onnxruntime()
    model = copied(model)
    inputs = _ExampleInputs.of(example, batch_axes)
    with _exporting(model):
        program = torch.onnx.export(
            model,
            inputs.two(),
            dynamo=True,
            dynamic_shapes=inputs.any_batch(),
            external_data=False,
            verbose=False,
        )
        assert program is not None
        proto = program.model_proto
        if sparse:
            _make_sparse(proto)
        content = proto.SerializeToString()
        session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
        names = [given.name for given in session.get_inputs()]

        def run(*given: Tensor) -> list[Tensor]:
            fed = {name: value.cpu().numpy() for name, value in zip(names, given, strict=True)}
            return [torch.from_numpy(value) for value in session.run(None, fed)]

        difference = _largest_difference(model, run, inputs, "the ONNX file")
    files.deliver(path, content)
    return difference


def onnx_session(path: str | Path, threads: int) -> Callable[..., Tensor]:
    """An ONNX file in ONNX Runtime, as a function of its inputs, on the CPU, that gives its first output.

    Raises:
        BadInput: the extra `export` is not installed.
    """
    onnxruntime = _onnxruntime()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    names = [given.name for given in session.get_inputs()]

    def run(*values: Tensor) -> Tensor:
        fed = {name: value.numpy() for name, value in zip(names, values, strict=True)}
        return torch.from_numpy(session.run(None, fed)[0])

    return run


def to_torch_export(model: nn.Module, example: Example, path: str | Path, *, batch_axes: Axes | None = None) -> float:
    """Write `model` with `torch.export.save` for batches of any size; how far the reloaded one is from it.

    Load it with `torch.export.load(path).module()`: the class of the model is not needed.

    Args, Returns, Raises: as for `to_onnx`, without the extra.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     to_torch_export(nn.Linear(3, 2), torch.ones(4, 3), Path(folder) / "model.pt2")
    0.0
    """
    buffer = io.BytesIO()
    model = copied(model)
    inputs = _ExampleInputs.of(example, batch_axes)
    with _exporting(model):
        program = torch.export.export(model, inputs.two(), dynamic_shapes=inputs.any_batch())
        torch.export.save(program, buffer)
        buffer.seek(0)
        reloaded = torch.export.load(buffer).module()
        difference = _largest_difference(model, reloaded, inputs, "the torch.export file")
    files.deliver(path, buffer.getvalue())
    return difference


def to_safetensors(model: nn.Module, path: str | Path) -> None:
    """Write all that the state_dict of `model` holds; shared tensors once, zeros not at all where that is less.

    Of a sparse model, which `sparsify` makes, the one that it was made of is to be written: layers of other names and
    sizes came of it, those that pay on this machine.

    Raises:
        BadInput: the model is a sparse one or none, or the file cannot be written.
    """
    weights.check(model)
    if has_kernels(model):
        raise _not_stored(model)
    files.deliver(path, stored(model))


def _not_stored(model: nn.Module) -> BadInput:
    return BadInput(
        where=type(model).__name__,
        expected="a model without sparse layers, whose weights its own class can read",
        found="sparse ones, of which some names are gone",
        todo="Write the model that they were made of, without its zeros too, and make them anew of what is read: "
        "`cash.sparsify`.",
    )


def stored(model: nn.Module, *, zeros: bool = False) -> bytes:
    """The content of the file that `to_safetensors` writes; with `zeros`, of one that any program can read."""
    values, first = weights.of(model), _first_names(model)
    tensors: dict[str, Tensor] = {}
    shapes: dict[str, list[int]] = {}
    # -0 comes back as 0: a product with a mask is full of them
    alive = {} if zeros else {name: values[name] != 0 for name in dict.fromkeys(first.values())}
    flags = mask_codec.encoded(alive)
    for name in dict.fromkeys(first.values()):
        value = values[name]
        if zeros or len(flags[name]) + int(alive[name].sum()) * value.itemsize + ENTRY >= value.nbytes:
            tensors[name] = value
        else:
            tensors[name + FLAGS], tensors[name + VALUES] = flags[name], value[alive[name]]
            shapes[name] = list(value.shape)
    about = {"format": FORMAT, "sparse": shapes}
    return save(tensors, metadata={KEY: json.dumps(about, sort_keys=True)} if shapes else None)


def from_safetensors(model: nn.Module, path: str | Path) -> nn.Module:
    """A copy of `model`, in eval mode, with the weights of a file, and as compacted and quantised as they are.

    Args:
        model: of the class that was compacted, of any size; it is left as it was.

    Raises:
        BadInput: there is no such file, or it holds the weights of another model.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     to_safetensors(nn.Sequential(nn.Linear(3, 2), nn.ReLU()), Path(folder) / "small.safetensors")
    ...     from_safetensors(nn.Sequential(nn.Linear(30, 20), nn.ReLU()), Path(folder) / "small.safetensors")[0]
    Linear(in_features=3, out_features=2, bias=True)
    """
    try:
        content = Path(path).read_bytes()
        shapes, values = _sparse(content), container.tensors(content)
        mask_codec.affordable(shapes.values(), len(content))
        for name, shape in shapes.items():
            alive, living = mask_codec.decode(values.pop(name + FLAGS), shape), values.pop(name + VALUES)
            values |= mask_codec.expand({name: living}, Mask({name: alive}))
    except (OSError, *container.DAMAGED) as error:
        raise _no_weights(path, error) from error
    small = fitted(model, values)
    first = _first_names(small)
    weights.put(small, values | {name: values[one] for name, one in first.items() if one in values})
    return small


def _no_weights(path: str | Path, error: Exception) -> BadInput:
    return BadInput(
        where=str(path),
        expected="a safetensors file",
        found=f"something else ({error})",
        todo="`tombola.cash.export.to_safetensors` makes one.",
    )


def _sparse(content: bytes) -> dict[str, Any]:
    """The shapes of the tensors that a file has as two, by their names: none in a file of another program's.

    Raises:
        ValueError: it is a ticket, of another version, or no safetensors file.
    """
    try:
        about = container.metadata(content, KEY)
    except container.Foreign as other:
        if "tombola" in other.keys:
            ticket = "a ticket, which `Ticket.load` reads: its weights are those before the training"
            raise ValueError(ticket) from other
        return {}
    if about.get("format", FORMAT) != FORMAT:
        raise ValueError(f"of format {about['format']}, from another version of Tombola; this one reads {FORMAT}")
    shapes: dict[str, Any] = about.get("sparse", {})
    return shapes


def _first_names(model: nn.Module) -> dict[str, str]:
    """Each name in the state_dict, and the first one of the same tensor."""
    state = model.state_dict(keep_vars=True)
    seen: dict[int, str] = {}
    return {name: seen.setdefault(id(value), name) for name, value in state.items()}


# ---- how it is exported, compared, written


def _onnxruntime() -> Any:
    try:
        import onnx  # noqa: F401
        import onnxruntime
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise not_installed("export to ONNX", "onnx, onnxscript and onnxruntime", "export") from error
    return onnxruntime


_FIXED_BATCH = ("Constraints violated", "Got invalid dimensions", "inferred to be a constant")
_FREE_BATCH = (
    "Its code takes the size of the batch for one number: write `x.shape[0]` for `len(x)`, and -1 or `x.shape[0]` for "
    "numbers in a `view`; `batch_axes` says which inputs have a batch at all. "
)
_TALKATIVE = (
    "torch.onnx._internal.exporter._registration",  # that torchvision is not installed
    "torch.onnx._internal.exporter._core",  # that an output is None: a file has none of these
    "onnxscript.optimizer._constant_folding",  # what it could not compute ahead: it is left to be computed
    "torch.fx.experimental.symbolic_shapes",  # where a call decides by values, which the error says too
)


@contextmanager
def _exporting(model: nn.Module) -> Iterator[None]:
    """Whatever is raised in it is one error that says so."""
    if has_kernels(model):
        raise not_exported(type(model).__name__)
    try:
        with _quiet():
            yield
    except BadInput:
        raise
    except Exception as error:  # it runs the model's own code, which may raise anything
        raise _not_exported(model, error) from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what torch's exporters say about themselves: nothing that a user could change."""
    loggers = [logging.getLogger(name) for name in _TALKATIVE]
    disabled = [logger.disabled for logger in loggers]
    for logger in loggers:
        logger.disabled = True
    try:
        with warnings.catch_warnings():
            # torch.onnx copies its own structures in a way that torch has deprecated.
            warnings.filterwarnings("ignore", message=r"`isinstance\(treespec, LeafSpec\)`", category=FutureWarning)
            # Where the axis of the batch is that of several inputs it has one name.
            warnings.filterwarnings("ignore", message=r"# The axis name: ", category=UserWarning)
            # What cannot be exported it prints, as far as it came.
            with redirect_stderr(io.StringIO()):
                yield
    finally:
        for logger, before in zip(loggers, disabled, strict=True):
            logger.disabled = before


@dataclass(frozen=True)
class _ExampleInputs:
    """What a model is called with, and of each the axis that is the batch."""

    values: tuple[Tensor, ...]
    axes: tuple[int | None, ...]

    @staticmethod
    def of(example: Example, axes: Axes | None) -> "_ExampleInputs":
        """Raises: BadInput, where they are no tensors, or the axes are not theirs."""
        values = example if isinstance(example, tuple) else (example,)
        _are_tensors(values)
        if axes is None:
            return _ExampleInputs(values, tuple(0 if of else None for of in in_batch(values)))
        if not isinstance(axes, Sequence) or not all(axis is None or type(axis) is int for axis in axes):
            raise _no_axes(values, axes)
        if not _of_one_size(values, axes):
            raise _no_axes(values, tuple(axes))
        places = (None if axis is None else axis % each.dim() for each, axis in zip(values, axes, strict=True))
        return _ExampleInputs(values, tuple(places))

    @property
    def size(self) -> int:
        """Of the batch; 1 where there is none."""
        return next(
            (each.shape[axis] for each, axis in zip(self.values, self.axes, strict=True) if axis is not None), 1
        )

    def batch(self, size: int) -> tuple[Tensor, ...]:
        """The first `size` examples, from the start again where there are fewer."""
        return tuple(
            each if axis is None else each.index_select(axis, torch.arange(size, device=each.device) % self.size)
            for each, axis in zip(self.values, self.axes, strict=True)
        )

    def two(self) -> tuple[Tensor, ...]:
        """Two examples at least: torch.export takes a batch of one for a model that knows no other."""
        return self.batch(max(2, self.size))

    def any_batch(self) -> tuple[dict[int, Any], ...]:
        batch = torch.export.Dim("batch", max=2**31 - 1)  # torch 2.6 otherwise finds the largest number left out
        return tuple({} if axis is None else {axis: batch} for axis in self.axes)


def _are_tensors(values: tuple[Any, ...]) -> None:
    other = next((place for place, each in enumerate(values) if not isinstance(each, Tensor)), None)
    if other is not None or not values:
        raise BadInput(
            where="the example",
            expected="a tensor or a tuple of tensors",
            found=f"{type(values[other]).__name__} as input {other}" if other is not None else "nothing",
            todo="Wrap the model in a module that fixes what is no tensor: `return self.model(x, 0.5)`.",
        )


def _of_one_size(values: tuple[Tensor, ...], axes: Axes) -> bool:
    """Whether each input has its axis, and these are of one size."""
    if len(axes) != len(values):
        return False
    pairs = [(each, axis) for each, axis in zip(values, axes, strict=True) if axis is not None]
    if not all(-each.dim() <= axis < each.dim() for each, axis in pairs):
        return False
    return len({each.shape[axis] for each, axis in pairs}) <= 1


def _no_axes(values: tuple[Tensor, ...], found: object) -> BadInput:
    return BadInput(
        where="batch_axes",
        expected=f"for each of the {len(values)} inputs the axis of the batch, of one size in all, or None",
        found=f"{shown(repr(found))} for {', '.join(str(tuple(each.shape)) for each in values)}",
        todo="Leave them out where the batch is the first axis.",
    )


def _largest_difference(model: nn.Module, other: Callable[..., Any], inputs: _ExampleInputs, what: str) -> float:
    """max |model(x) - other(x)| over batches of three sizes.

    Raises:
        BadInput: it is more than `equivalence` allows.
    """
    largest, outputs = 0.0, 0.0
    with torch.no_grad():
        for batch in (inputs.batch(count) for count in (inputs.size, 1, inputs.size + 1)):
            with seeded(0):
                expected = tensors(model(*cloned(batch)))
            with seeded(0):
                given = tensors(other(*cloned(batch)))
            for own, theirs in zip(expected, given, strict=True):
                largest = max(largest, equivalence.apart(own, theirs))
                outputs = max(outputs, float(own.double().nan_to_num(0, 0, 0).abs().max()))
    allowed = equivalence.allowed(model, outputs)
    if largest > allowed:
        gap = f"a difference of {largest:.2g}, of outputs up to {outputs:.2g}"
        raise _other_outputs(model, f"outputs of {what} within {allowed:.1g} of the model's own", gap)
    return largest


def _other_outputs(model: nn.Module, expected: str, found: str) -> BadInput:
    return BadInput(
        where=type(model).__name__,
        expected=expected,
        found=found,
        todo="Nothing was written: the exporter translates some call of this model to another one, or the model "
        "draws random numbers. `to_safetensors` writes its weights all the same.",
    )


def _make_sparse(proto: Any) -> None:
    """Store tensors that are mostly 0 by their living numbers and where they stand."""
    import numpy as np
    from onnx import helper, numpy_helper

    for tensor in list(proto.graph.initializer):
        values = numpy_helper.to_array(tensor)
        places = np.flatnonzero(values)
        if values.dtype == np.float32 and len(places) < SPARSE_BELOW * values.size:
            living = numpy_helper.from_array(values.ravel()[places], tensor.name)
            where = numpy_helper.from_array(places.astype(np.int64), f"{tensor.name}.places")
            proto.graph.sparse_initializer.append(helper.make_sparse_tensor(living, where, list(values.shape)))
            proto.graph.initializer.remove(tensor)


def _not_exported(model: nn.Module, error: BaseException) -> BadInput:
    while error.__cause__:
        error = error.__cause__
    said = re.sub(r"\x1b\[[\d;]*m", "", first_line(error)).removesuffix(".")  # torch colours what it says
    fixed = any(sign in str(error) for sign in _FIXED_BATCH)
    place, code = line_of(error)
    return BadInput(
        where=type(model).__name__,
        expected="a model that torch.export can follow, for batches of any size",
        found=f"{type(error).__name__}: {said}{place and f' ({place}: `{code}`)'}",
        todo=f"{_FREE_BATCH if fixed else ''}`to_safetensors` writes its weights all the same.",
    )
