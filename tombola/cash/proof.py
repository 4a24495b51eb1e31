"""What each form of a trained ticket is worth: that it computes the same, how large it is, and how fast.

All forms are measured in one run, on as many threads as torch has, beside the masked model itself: in PyTorch and,
where it is installed, in ONNX Runtime.
"""

import copy
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
from tombola.cash.quantise import quantise
from tombola.cash.size import sizes
from tombola.cash.sparse import sparse
from tombola.engine import kernels
from tombola.errors import BadInput
from tombola.mask import Mask

BATCHES = (1, 64)
CHUNK = 250  # inputs whose outputs are computed at once
IGNORED = nn.CrossEntropyLoss().ignore_index  # a label of which nothing is asked
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

    Args:
        model: trained under `mask`, f(x; m ⊙ theta); it is left as it was.
        mask: of the ticket.
        inputs: real ones, N x ..., as many as the proof is to speak for.
        labels: N, or N x T of a running text; None where no accuracy is asked for.
        batches: sizes at which calls are timed, on the first inputs; at the largest it is decided which layers become
            sparse.

    Raises:
        BadInput: there are fewer inputs than the largest batch, or `model` cannot be followed (see `compact`).
    """
    if len(inputs) < max(batches):
        raise BadInput(
            where="inputs",
            expected=f"at least {max(batches)}, the largest batch that is timed",
            found=str(len(inputs)),
            todo="Hand in more of them, or smaller batches.",
        )
    if labels is not None and len(labels) != len(inputs):
        raise BadInput(
            where="labels",
            expected=f"{len(inputs)}, one for each of the inputs",
            found=str(len(labels)),
            todo="Hand in those that belong to them.",
        )
    dense = masked(model, mask)
    candidates = list(_candidates(dense, inputs, max(batches)))
    latency: dict[int, dict[str, float]] = {}
    with torch.inference_mode():
        wanted = _outputs(dense, inputs)
        for batch in batches:
            given = {one.name: one.laid_out(inputs[:batch]) for one in candidates}
            calls = {one.name: _call(one.call, given[one.name]) for one in candidates}
            latency[batch] = timing.seconds(calls)
        return [
            Form(
                name=one.name,
                model=one.model,
                stored=one.stored if one.model else None,
                difference=float((outputs - wanted).abs().max()),
                largest=float(wanted.abs().max()),
                accuracy=None if labels is None else _accuracy(outputs, labels),
                disk_bytes=one.disk_bytes,
                plain_bytes=one.plain_bytes,
                memory_bytes=one.memory_bytes,
                multiply_adds=one.multiply_adds(inputs[:1]),
                latency_s={batch: latency[batch][one.name] for batch in batches},
            )
            for one in candidates
            for outputs in [_outputs(one.call, inputs)]
        ]


@dataclass(frozen=True)
class _Candidate:
    """A form to be measured: what is called, and the model whose weights its file holds."""

    name: str
    call: Callable[[Tensor], Tensor]
    stored: nn.Module
    model: nn.Module | None = None
    onnx_bytes: int = 0

    @property
    def plain_bytes(self) -> int:
        return self.onnx_bytes or len(export.stored(self.stored, zeros=True))

    @property
    def disk_bytes(self) -> int:
        if self.onnx_bytes or self.name.startswith("dense"):
            return self.plain_bytes
        return len(export.stored(self.stored))

    @property
    def visits_all(self) -> bool:
        return not self.name.startswith("sparse")

    @property
    def memory_bytes(self) -> int:
        held = self.model or self.stored
        distinct = {id(value): value for value in held.state_dict(keep_vars=True).values()}
        return sum(int(value.nbytes) for value in distinct.values()) + prepared_bytes(held)

    def multiply_adds(self, example: Tensor) -> int:
        found = sizes(self.stored, example).values()
        return sum(layer.multiply_adds if self.visits_all else layer.living_multiply_adds for layer in found)

    def laid_out(self, inputs: Tensor) -> Tensor:
        if self.name == CHANNELS_LAST:
            return inputs.contiguous(memory_format=torch.channels_last)
        return inputs.contiguous()


CHANNELS_LAST = "dense, channels last"


def _candidates(dense: nn.Module, inputs: Tensor, batch: int) -> Iterator[_Candidate]:
    example = inputs[:2]
    small = compact(dense, masks.full(dense), example)
    yield _Candidate("dense", dense, dense, dense)
    if inputs.dim() == 4 and any(isinstance(module, nn.Conv2d) for module in dense.modules()):
        last = copy.deepcopy(dense).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        yield _Candidate(CHANNELS_LAST, last, dense, last)
    session, size = _session(dense, example)
    if session:
        yield _Candidate("dense, ONNX Runtime", session, dense, onnx_bytes=size)
    yield _Candidate("compact", small, small, small)
    session, size = _session(small, example)
    if session:
        yield _Candidate("compact, ONNX Runtime", session, small, onnx_bytes=size)
    if kernels.sets():
        found = sparse(dense, inputs[:batch])
        yield _Candidate("sparse", found, dense, found)
    rounded = quantise(small)
    yield _Candidate("compact int8", rounded, rounded, rounded)
    if kernels.sets():
        rounded = quantise(dense)
        found = sparse(rounded, inputs[:batch])
        yield _Candidate("sparse int8", found, rounded, found)


def _session(model: nn.Module, example: Tensor) -> tuple[Callable[[Tensor], Tensor] | None, int]:
    """The model in ONNX Runtime and the size of its file; None where that is not installed."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        try:
            export.to_onnx(model, example, path)
        except BadInput:
            return None, 0
        return export.onnx_session(path, torch.get_num_threads()), path.stat().st_size


def _call(function: Callable[[Tensor], Tensor], inputs: Tensor) -> Callable[[], Tensor]:
    return lambda: function(inputs)


def _accuracy(outputs: Tensor, labels: Tensor) -> float:
    """Correct answers as a fraction of those asked for: one for each example, or for each of its tokens."""
    asked = labels != IGNORED
    return float((outputs.argmax(dim=-1) == labels)[asked].double().mean())


def _outputs(function: Callable[[Tensor], Tensor], inputs: Tensor) -> Tensor:
    return torch.cat([function(chunk.contiguous()) for chunk in inputs.split(CHUNK)])


def write(forms: Sequence[Form], example: Tensor, folder: str | Path) -> list[Path]:
    """Write the weights of all forms into `folder`, the compact one also as ONNX, where that is installed, and for
    `torch.export`; the files.

    A sparse form's file holds the weights of the whole network, without its zeros: `export.from_safetensors` reads it
    back, and `sparse` makes the layers anew, as which of them pay depends on the machine.

    Raises:
        BadInput: a file cannot be written.
    """
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadInput(
            where=str(folder), expected="a folder to write to", found=str(error.strerror), todo="Name another one."
        ) from error
    written = []
    for form in forms:
        if form.stored is not None and not form.baseline:
            written.append(folder / f"{form.name.replace(' ', '-')}.safetensors")
            export.to_safetensors(form.stored, written[-1])
        if form.name == "compact" and form.stored is not None:
            for name, exported in (("compact.onnx", export.to_onnx), ("compact.pt2", export.to_torch_export)):
                with suppress(BadInput):  # without the extra, or a model that torch.export cannot follow
                    exported(form.stored, example, folder / name)
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
