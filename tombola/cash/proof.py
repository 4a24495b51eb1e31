"""What each form of a trained ticket is worth: that it computes the same, how large it is, and how fast.

All forms are measured in one run, where the model is: on a CPU on as many threads as torch has, beside the masked
model itself in PyTorch and, where it is installed, in ONNX Runtime; on a GPU beside it in PyTorch, in float16 too.
"""

import copy
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor, nn

from tombola import mask as masks
from tombola.cash import export, timing
from tombola.cash.compact import compact, masked
from tombola.cash.layers import prepared_bytes
from tombola.cash.plain import takes
from tombola.cash.quantise import quantise
from tombola.cash.semi_structured import held_bytes, semi_structured, semi_structured_layers
from tombola.cash.size import sizes
from tombola.cash.sparse import sparse
from tombola.errors import BadInput
from tombola.mask import Mask

BATCHES = (1, 64)
CHUNK = 250  # inputs whose outputs are computed at once
IGNORED = nn.CrossEntropyLoss().ignore_index  # a label of which nothing is asked
CPU = "cpu"  # where layers are worth being sparse, and ONNX Runtime is asked
NO_FASTER = 1.05  # less than this is no difference


@dataclass(frozen=True)
class Form:
    """One form of a ticket, measured.

    Attributes:
        name: `compact`, `sparse`, `int8`, ...; baselines are called `dense`.
        model: to be used; None where ONNX Runtime runs it.
        stored: the model whose weights its file holds; None where it is another form's.
        difference: the largest absolute one between its outputs and the masked model's, over all inputs.
        accuracy: a fraction; None where there are no labels.
        largest: the largest absolute output of the masked model on them: what a difference is to be seen beside.
        disk_bytes: of its file: that of `write`, without zeros where that is less, or an ONNX file.
        plain_bytes: of the same file with all zeros; they differ by what is owed to the way of storing alone.
        memory_bytes: of its weights while it is at work.
        multiply_adds: for one example.
        latency_s: batch -> median seconds of a call.
    """

    name: str
    model: nn.Module | None
    stored: nn.Module | None
    difference: float
    largest: float
    accuracy: float | None
    disk_bytes: int
    plain_bytes: int
    memory_bytes: int
    multiply_adds: int
    latency_s: Mapping[int, float]

    @property
    def baseline(self) -> bool:
        """Whether it is the masked model, which has nothing of its zeros."""
        return self.name.startswith("dense")


def prove(
    model: nn.Module, mask: Mask, inputs: Tensor, labels: Tensor | None = None, batches: Sequence[int] = BATCHES
) -> list[Form]:
    """The forms of a trained ticket, each compared with the masked model and measured; those that are dense first.

    A form that cannot be made here, or cannot be called with these inputs, is left out: compact ones where `model`
    cannot be followed (`compact` says why), sparse ones without compiled kernels or for numbers other than float32,
    those of ONNX Runtime where that is not installed or cannot take the model, 2:4 where no layer is of that pattern,
    or no GPU multiplies it.

    Args:
        model: trained under `mask`, f(x; m ⊙ theta), on the device to be measured on; it is left as it was.
        mask: of the ticket.
        inputs: real ones, N x ..., as many as the proof is to speak for.
        labels: N, or N x T of a running text; None where no accuracy is asked for.
        batches: sizes at which calls are timed, on the first inputs; at the largest it is decided which layers become
            sparse.

    Raises:
        BadInput: there are no inputs, fewer than the largest of `batches`, or not as many labels; the mask is another
            model's; or the model gives anything but one tensor, N x ..., or with labels N x classes or N x T x classes.
    """
    _belong_together(inputs, labels, batches)
    whole = masked(model, mask)
    dense = _Candidate("dense", whole, whole, whole)
    takes(whole, (dense.laid_out(inputs[:1]),))
    wanted = _outputs(dense, inputs)
    if labels is not None:
        _name_classes(labels, wanted)
    _fill_a_batch(inputs, batches)
    compared = {dense: _Compared(0.0, None if labels is None else _accuracy(wanted, labels))}
    for one in _others(dense, inputs, max(batches)):
        found = _compared(one, wanted, inputs, labels, batches)
        if found:
            compared[one] = found
    latency: dict[int, dict[str, float]] = {}
    for batch in batches:
        given = {one.name: one.laid_out(inputs[:batch]) for one in compared}
        with torch.inference_mode():
            latency[batch] = timing.seconds({one.name: _timed(one, given[one.name]) for one in compared})
    return [
        Form(
            name=one.name,
            model=one.model,
            stored=one.stored if one.model else None,
            difference=found.difference,
            largest=float(wanted.abs().max()),
            accuracy=found.accuracy,
            disk_bytes=one.disk_bytes,
            plain_bytes=one.plain_bytes,
            memory_bytes=one.memory_bytes,
            multiply_adds=one.multiply_adds(inputs[:1]),
            latency_s={batch: latency[batch][one.name] for batch in batches},
        )
        for one, found in compared.items()
    ]


def _belong_together(inputs: Tensor, labels: Tensor | None, batches: Sequence[int]) -> None:
    if not isinstance(inputs, Tensor) or not inputs.dim() or not len(inputs):
        empty = "an empty one" if isinstance(inputs, Tensor) and inputs.dim() else "a number"
        raise BadInput(
            where="inputs",
            expected="one tensor, N x ...",
            found=empty if isinstance(inputs, Tensor) else type(inputs).__name__,
            todo="Hand in one tensor of all of them; a model of several inputs is compared form by form.",
        )
    if not batches or min(batches) < 1:
        raise BadInput(
            where="batches",
            expected="one or more sizes, of 1 or more",
            found=str(tuple(batches)),
            todo="Leave them out for 1 and 64.",
        )
    if isinstance(labels, Tensor) and labels.dim() and len(labels) != len(inputs):
        raise BadInput(
            where="labels",
            expected=f"{len(inputs)}, one for each of the inputs",
            found=str(len(labels)),
            todo="Hand in those that belong to them.",
        )


def _fill_a_batch(inputs: Tensor, batches: Sequence[int]) -> None:
    if len(inputs) < max(batches):
        raise BadInput(
            where="inputs",
            expected=f"at least {max(batches)}, the largest of the `batches` that are timed",
            found=str(len(inputs)),
            todo=f"Hand in more of them, or smaller batches: batches=(1, {len(inputs)}).",
        )


def _name_classes(labels: Tensor, outputs: Tensor) -> None:
    whole = isinstance(labels, Tensor) and not labels.is_floating_point() and labels.dtype is not torch.bool
    if not whole or labels.shape != outputs.shape[:-1] or outputs.shape[-1] < 2:
        kind = f"{labels.dtype}, {_shape(labels)}" if isinstance(labels, Tensor) else type(labels).__name__
        raise BadInput(
            where="labels",
            expected="whole numbers, N or N x T: of each of the model's outputs, N or N x T x classes, the class",
            found=f"{kind}, for outputs of {_shape(outputs)}",
            todo="Flatten or argmax them; without labels no accuracy is asked for.",
        )


def _shape(values: Tensor) -> str:
    return " x ".join(map(str, values.shape)) or "one number"


@dataclass(frozen=True)
class _Candidate:
    """A form to be measured: what is called, the model whose weights its file holds, and its layers of 2 in 4."""

    name: str
    call: Callable[[Tensor], Tensor]
    stored: nn.Module
    model: nn.Module | None = None
    onnx_bytes: int = 0
    halved: frozenset[str] = frozenset()

    @property
    def plain_bytes(self) -> int:
        return self.onnx_bytes or len(export.stored(self.stored, zeros=True))

    @property
    def disk_bytes(self) -> int:
        if self.onnx_bytes or self.name.startswith("dense"):
            return self.plain_bytes
        return len(export.stored(self.stored))

    @property
    def memory_bytes(self) -> int:
        held = self.model or self.stored
        distinct = {id(value): value for value in held.state_dict(keep_vars=True).values()}
        return sum(held_bytes(value) for value in distinct.values()) + prepared_bytes(held)

    def multiply_adds(self, example: Tensor) -> int:
        found = sizes(self.stored, self.laid_out(example))
        if self.name.startswith("sparse"):
            return sum(layer.living_multiply_adds for layer in found.values())
        return sum(layer.multiply_adds // (2 if name in self.halved else 1) for name, layer in found.items())

    @property
    def place(self) -> torch.device:
        return self._number.device

    @property
    def _number(self) -> Tensor:
        """One of those that it computes with."""
        values = self.stored.state_dict(keep_vars=True).values()
        return next((value for value in values if value.is_floating_point()), torch.empty(0))

    def laid_out(self, inputs: Tensor) -> Tensor:
        """As this form takes them: where its weights are, and in their type."""
        inputs = inputs.to(self.place, self._number.dtype if inputs.is_floating_point() else None)
        if self.name == CHANNELS_LAST:
            return inputs.contiguous(memory_format=torch.channels_last)
        return inputs.clone(memory_format=torch.contiguous_format)  # maps of one channel are contiguous in any layout


CHANNELS_LAST = "dense, channels last"


def _others(whole: _Candidate, inputs: Tensor, batch: int) -> Iterator[_Candidate]:
    dense, example, on_cpu = whole.stored, whole.laid_out(inputs[:2]), whole.place.type == CPU
    if inputs.dim() == 4 and any(isinstance(module, nn.Conv2d) for module in dense.modules()):
        last = copy.deepcopy(dense).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        yield _Candidate(CHANNELS_LAST, last, dense, last)
    if on_cpu:
        yield from _in_onnx("dense", dense, example)
    else:
        yield from _on_gpu(dense)
    small = _followed(dense, example)
    if small:
        yield _Candidate("compact", small, small, small)
        if on_cpu:
            yield from _in_onnx("compact", small, example)
    timed = whole.laid_out(inputs[:batch])
    if on_cpu:
        yield from _in_kernels("sparse", dense, timed)
    rounded = quantise(small or dense)
    yield _Candidate("compact int8" if small else "int8", rounded, rounded, rounded)
    if on_cpu:
        yield from _in_kernels("sparse int8", quantise(dense), timed)


def _in_kernels(name: str, model: nn.Module, example: Tensor) -> Iterator[_Candidate]:
    with suppress(BadInput):
        found = sparse(model, example)
        yield _Candidate(name, found, model, found)


def _followed(dense: nn.Module, example: Tensor) -> nn.Module | None:
    with suppress(BadInput):
        return compact(dense, masks.full(dense), example)
    return None


def _on_gpu(dense: nn.Module) -> Iterator[_Candidate]:
    """In float16, which 2:4 is measured in: what is owed to the type is told apart."""
    half = copy.deepcopy(dense).half()
    with suppress(BadInput):
        converted = semi_structured(half)
        yield _Candidate("dense, float16", half, half, half)
        yield _Candidate("2:4, float16", converted, half, converted, halved=semi_structured_layers(converted))


def _in_onnx(name: str, model: nn.Module, example: Tensor) -> Iterator[_Candidate]:
    session, size = _session(model, example)
    if session:
        yield _Candidate(f"{name}, ONNX Runtime", session, model, onnx_bytes=size)


def _session(model: nn.Module, example: Tensor) -> tuple[Callable[[Tensor], Tensor] | None, int]:
    """The model in ONNX Runtime and the size of its file; None where that is not installed."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        try:
            export.to_onnx(model, example, path)
        except BadInput:
            return None, 0
        return export.onnx_session(path, torch.get_num_threads()), path.stat().st_size


def _timed(one: _Candidate, inputs: Tensor) -> Callable[[], object]:
    """A call that is over when its outputs are there; a GPU returns before."""

    def awaited() -> None:
        one.call(inputs)
        torch.accelerator.synchronize(one.place)

    return awaited if one.place.type != CPU else lambda: one.call(inputs)


def _accuracy(outputs: Tensor, labels: Tensor) -> float:
    """Correct answers as a fraction of those asked for: one for each example, or for each of its tokens."""
    labels = labels.cpu()
    asked = labels != IGNORED
    return float((outputs.argmax(dim=-1) == labels)[asked].double().mean())


@dataclass(frozen=True)
class _Compared:
    difference: float
    accuracy: float | None


def _compared(
    one: _Candidate, wanted: Tensor, inputs: Tensor, labels: Tensor | None, batches: Sequence[int]
) -> _Compared | None:
    """None where it cannot be called with all of them: a `view`, for instance, does not fit every layout of memory."""
    try:
        outputs = _outputs(one, inputs)
        for batch in batches:
            _outputs(one, inputs[:batch])
        difference = float((outputs - wanted).abs().max())
    except Exception:  # it runs the model's own code, which may raise anything
        return None
    return _Compared(difference, None if labels is None else _accuracy(outputs, labels))


def _outputs(one: _Candidate, inputs: Tensor) -> Tensor:
    with torch.inference_mode():
        return torch.cat([_of_each(one.call(one.laid_out(chunk)), chunk) for chunk in inputs.split(CHUNK)])


def _of_each(outputs: Tensor, inputs: Tensor) -> Tensor:
    numbers = isinstance(outputs, Tensor) and outputs.dtype is not torch.bool
    if not numbers or not outputs.dim() or len(outputs) != len(inputs):
        raise BadInput(
            where="the model",
            expected=f"one tensor of numbers for {len(inputs)} inputs, {len(inputs)} x ...",
            found=f"{outputs.dtype}, {_shape(outputs)}" if isinstance(outputs, Tensor) else type(outputs).__name__,
            todo="Wrap it in a module that gives the one that matters; its mask has other names then.",
        )
    return outputs.cpu()


def write(forms: Sequence[Form], example: Tensor, folder: str | Path) -> list[Path]:
    """Write the weights of all forms into `folder`, the compact one also as ONNX, where that is installed, and for
    `torch.export`; the files.

    A sparse form's file holds the weights of the whole network, without its zeros: `export.from_safetensors` reads it
    back, and `sparse` makes the layers anew, as which of them pay depends on the machine.

    Raises:
        BadInput: a file cannot be written.
    """
    folder = Path(folder)
    example = example.cpu()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadInput(
            where=str(folder), expected="a folder to write to", found=str(error.strerror), todo="Name another one."
        ) from error
    written = []
    for form in forms:
        if form.stored is None or form.baseline:
            continue
        stored = copy.deepcopy(form.stored).cpu()
        written.append(folder / f"{re.sub('[^a-z0-9]+', '-', form.name)}.safetensors")
        export.to_safetensors(stored, written[-1])
        if form.name == "compact":
            for name, exported in (("compact.onnx", export.to_onnx), ("compact.pt2", export.to_torch_export)):
                with suppress(BadInput):  # without the extra, or a model that torch.export cannot follow
                    exported(stored, example, folder / name)
                    written.append(folder / name)
    return written


def sentences(forms: Sequence[Form]) -> list[str]:
    """What was found, in words: of each form its size, and how much faster it is than the fastest baseline.

    >>> dense = Form("dense", None, None, 0.0, 9.0, 0.98, 1000, 1000, 1000, 500, {1: 2e-5})
    >>> small = Form("compact", None, None, 1e-7, 9.0, 0.98, 100, 500, 500, 250, {1: 2e-5})
    >>> sentences([dense, small])
    ['compact: 10.0 times smaller (2.0 with its zeros); no faster here at batch 1 (0.020 ms; dense: 0.020 ms).']
    """
    baselines = [form for form in forms if form.baseline]
    return [
        f"{form.name}: {_smaller(form, baselines)}; {_faster(form, baselines)}." for form in forms if not form.baseline
    ]


def _smaller(form: Form, baselines: Sequence[Form]) -> str:
    ratio, plain = (baselines[0].plain_bytes / size for size in (form.disk_bytes, form.plain_bytes))
    zeros = f" ({plain:.1f} with its zeros)" if form.plain_bytes != form.disk_bytes else ""
    return f"{ratio:.1f} times smaller{zeros}" if ratio > 1 else "no smaller"


def _faster(form: Form, baselines: Sequence[Form]) -> str:
    said = []
    for batch, taken in form.latency_s.items():
        best = min(baselines, key=lambda one: one.latency_s[batch])
        ratio = best.latency_s[batch] / taken
        what = f"{ratio:.1f} times faster" if ratio >= NO_FASTER else "no faster here"
        said.append(
            f"{what} at batch {batch} ({1e3 * taken:.3f} ms; {best.name}: {1e3 * best.latency_s[batch]:.3f} ms)"
        )
    return ", ".join(said)
