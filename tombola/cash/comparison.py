"""What each form of a trained ticket is worth: that it computes the same, how large it is, and how fast.

All forms are measured in one run, where the model is: on a CPU on as many threads as torch has, beside the masked
model itself in PyTorch and, where it is installed, in ONNX Runtime; on a GPU beside it in PyTorch, in float16 too.
"""

import copy
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from operator import index
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn

from tombola import files, prunable, weights
from tombola.bayes import Gaussian
from tombola.cash import equivalence, export, timing
from tombola.cash.compaction import Compacted, compacted
from tombola.cash.ensemble import Ensemble, check_classes
from tombola.cash.factors import factorize
from tombola.cash.form import PORTABLE, Form, Proof, file_name, listed, pays, stacked_pace
from tombola.cash.masking import masked
from tombola.cash.onnx_quantization import to_onnx_int8
from tombola.cash.quantization import QuantisedLayer, quantize
from tombola.cash.replaceable import cloned, first_line, in_batch, takes
from tombola.cash.semi_structured import held_bytes, semi_structured, semi_structured_layers
from tombola.cash.size import sizes, time_first
from tombola.cash.sparse_layers import has_kernels, prepared_bytes
from tombola.cash.sparsification import sparsify
from tombola.cash.stacking import stack
from tombola.cash.unchanged import dense_layers, float_layers, sparse_layers
from tombola.errors import BadInput, shown
from tombola.mask import Mask
from tombola.seeding import seeded

BATCHES = (1, 64)
CALIBRATION = 250  # inputs on which the ranges of activations are seen that are rounded to int8
CHUNK = 250  # inputs whose outputs are computed at once
IGNORED = nn.CrossEntropyLoss().ignore_index  # a label of which nothing is asked
CPU = "cpu"  # where layers are worth being sparse, and ONNX Runtime is asked
CHANNELS_LAST = "dense, channels last"

ModelInputs = Tensor | tuple[Any, ...] | Mapping[str, Any]
MetricFunction = Callable[..., float | Tensor]


def prove(
    model: nn.Module,
    mask: Mask,
    inputs: ModelInputs,
    labels: Tensor | None = None,
    batches: Sequence[int] = BATCHES,
    *,
    metric: MetricFunction | None = None,
    whole: bool = False,
) -> Proof:
    """The forms of a trained ticket, each compared with the masked model and measured; printed, a table.

    A form that cannot be made here, cannot be called with these inputs, or changes nothing is in `left_out` with the
    reason. Of an `Ensemble` the forms that call all members at once are measured too, and left out where they are no
    faster than those that call one after another. Random numbers that a model draws are the same for every form: each
    chunk of inputs begins at a seed.

    Args:
        model: trained under `mask`, f(x; m ⊙ theta), on the device to be measured on; it is left as it was.
        mask: of the ticket.
        inputs: real ones, N x ..., as many as the proof is to be about; a tuple where the model takes several, a
            mapping where it takes them by name. Those whose first axis is as long as the first's are cut into batches.
        labels: N, or N x T of a running text; of a model with one logit 0 and 1; None where no accuracy is asked for.
        batches: sizes at which calls are timed, on the first inputs; at the largest it is decided which layers become
            sparse.
        metric: f(form, *inputs), or f(form, **inputs) where these are a mapping: one number, from calls of `form` with
            whatever inputs. Its `__name__` heads its column.
        whole: whether `inputs` are one example that is not cut, as a graph is; then `batches` are not asked for.

    Raises:
        BadInput: there are no inputs, fewer than the largest of `batches`, or not as many labels; the mask is another
            model's; the model gives anything but one tensor, N x ..., or with labels N x classes, N x T x classes, N or
            N x 1; or the metric is no function, raises anything on the masked model, or gives no number.
    """
    given = _given(model, inputs, whole)
    if metric is not None and not callable(metric):
        raise _no_metric(metric)
    batches = (given.count,) if whole else _sizes(batches)
    _belong_together(given, labels)
    with seeded(0):  # a model may draw random numbers in eval mode too
        return _proved(masked(model, mask), given, labels, batches, metric and _CallersMetric(metric, model, inputs))


def _no_metric(metric: object) -> BadInput:
    return BadInput(
        where="metric",
        expected="a function, f(form, *inputs)",
        found=shown(repr(metric)),
        todo="It is handed each form, and returns one number.",
    )


def _proved(
    model: nn.Module,
    given: "_Given",
    labels: Tensor | None,
    batches: Sequence[int],
    metric: "_CallersMetric | None",
) -> Proof:
    dense = _Measured("dense", model, model, model)
    drawn = _takes_one(dense, given)
    _cuts_no_time(dense, given)
    expected = _outputs(dense, given)
    _are_numbers(expected)
    if isinstance(model, Ensemble):
        check_classes(expected)
    correct = None if labels is None else _marker(labels, expected)
    _fill_a_batch(given, batches)
    itself = equivalence.apart(expected, _outputs(dense, given))

    def compared_with_dense(one: _Measured, outputs: Tensor) -> _Compared:
        accuracy = None if correct is None else correct(outputs)
        return _Compared(equivalence.apart(expected, outputs), accuracy, metric(one) if metric else None)

    compared, left_out = {dense: compared_with_dense(dense, expected)}, dict[str, str]()
    for name, made in _others(dense, given, max(batches)):
        if isinstance(made, str):
            left_out[name] = made
            continue
        try:
            for batch in batches:
                _call(made, given.first(batch))
            compared[made] = compared_with_dense(made, _outputs(made, given))
        except Exception as error:  # it runs the model's own code, which may raise anything
            left_out[name] = f"It cannot be called with these inputs: {type(error).__name__} ({first_line(error)})."
    taken = {batch: _times([*compared], given.first(batch)) for batch in batches}
    forms = [
        Form(
            name=one.name,
            model=one.model,
            stored=one.stored if one.model else None,
            difference=comparison.difference,
            largest=float(expected.abs().max()),
            accuracy=comparison.accuracy,
            disk_bytes=one.disk_bytes,
            plain_bytes=one.plain_bytes,
            memory_bytes=one.memory_bytes,
            multiply_adds=one.multiply_adds(given.first(1)),
            timing={batch: taken[batch][one.name] for batch in batches},
            metric=comparison.metric,
            unchanged=one.unchanged,
            onnx=one.onnx if "int8" in one.name else b"",
        )
        for one, comparison in compared.items()
    ]
    slower = {form.name: stacked_pace(form, forms) for form in forms if not pays(form, forms)}
    taken_up = tuple(form for form in forms if form.name not in slower)
    return Proof(taken_up, left_out | slower, itself, metric.name if metric else "", drawn)


# ---- what is handed in


@dataclass(frozen=True)
class _Given:
    """What the model is called with: positional arguments, and which of them are cut along their first axis."""

    values: tuple[Any, ...]
    cut: tuple[bool, ...]
    count: int

    def part(self, begin: int, end: int) -> tuple[Any, ...]:
        return tuple(each[begin:end] if cut else each for each, cut in zip(self.values, self.cut, strict=True))

    def first(self, size: int) -> tuple[Any, ...]:
        return self.part(0, size)

    def chunks(self) -> Iterator[tuple[int, tuple[Any, ...]]]:
        """Each with how many examples it has."""
        step = CHUNK if any(self.cut) else self.count
        for begin in range(0, self.count, step):
            yield min(step, self.count - begin), self.part(begin, begin + step)


def _given(model: nn.Module, inputs: ModelInputs, whole: bool) -> _Given:
    values = _positional(model, inputs) if isinstance(inputs, Mapping) else inputs
    values = values if isinstance(values, tuple) else (values,)
    first = next((each for each in values if isinstance(each, Tensor)), None)
    if first is None or not first.dim() or not len(first):
        empty = "an empty one" if first is not None and first.dim() else "a number"
        raise BadInput(
            where="inputs",
            expected="one tensor, N x ..., or a tuple or mapping of them",
            found=type(inputs).__name__ if first is None else empty,
            todo="Hand in all inputs at once, as the model takes them: a tensor, a tuple, or a dict of names.",
        )
    return _Given(values, tuple(of and not whole for of in in_batch(values)), len(first))


def _positional(model: nn.Module, inputs: Mapping[str, Any], first: tuple[Any, ...] = ()) -> tuple[Any, ...]:
    """Arguments behind the `first` in the order of `forward`, those between that are not given as by default."""
    takes = {
        name: each
        for name, each in inspect.signature(model.forward).parameters.items()
        if each.kind is each.POSITIONAL_OR_KEYWORD
    }
    inputs = {**dict(zip(takes, first, strict=False)), **inputs}
    values = {name: inputs.get(name, each.default) for name, each in takes.items()}
    if set(inputs) - set(takes) or any(value is inspect.Parameter.empty for value in values.values()):
        raise BadInput(
            where="inputs",
            expected=f"names that {type(model).__name__}.forward takes, all that it needs: {', '.join(takes)}",
            found=", ".join(map(str, inputs)),
            todo="Wrap the model in a module that takes these.",
        )
    last = max((place for place, name in enumerate(takes) if name in inputs), default=-1)
    return tuple(values.values())[: last + 1]


def _sizes(batches: Sequence[int]) -> tuple[int, ...]:
    try:
        sizes = tuple(map(index, batches))
    except TypeError:  # a bare number, or none
        sizes = ()
    if not sizes or min(sizes) < 1:
        raise BadInput(
            where="batches",
            expected="one or more sizes, of 1 or more",
            found=repr(batches),
            todo="Leave them out for 1 and 64.",
        )
    return sizes


def _belong_together(given: _Given, labels: Tensor | None) -> None:
    if any(given.cut) and isinstance(labels, Tensor) and labels.dim() and len(labels) != given.count:
        raise BadInput(
            where="labels",
            expected=f"{given.count}, one for each of the inputs",
            found=str(len(labels)),
            todo="Hand in those that belong to them.",
        )


def _cuts_no_time(dense: "_Measured", given: _Given) -> None:
    first = next(each for each in given.values if isinstance(each, Tensor))
    size = 1 if first.shape[1:2] == (2,) else 2  # not as many as there are on the second axis
    layer = time_first(dense.stored, dense.laid_out(given.first(size))) if any(given.cut) else None
    if layer:
        raise BadInput(
            where="inputs",
            expected="examples along the first axis",
            found=f"time, for {layer}, which takes them as they are without batch_first=True",
            todo="Make the layer with batch_first=True, or wrap the model in a module that hands on x.transpose(0, 1).",
        )


def _fill_a_batch(given: _Given, batches: Sequence[int]) -> None:
    if given.count < max(batches):
        raise BadInput(
            where="inputs",
            expected=f"at least {max(batches)}, the largest of the `batches` that are timed",
            found=str(given.count),
            todo=f"Hand in more of them, or smaller batches: batches=(1, {given.count}).",
        )


def _takes_one(dense: "_Measured", given: _Given) -> bool:
    """Make sure that the model can be called with one example; whether it draws random numbers of torch in that."""
    before = equivalence.random_states()
    try:
        takes(dense.stored, dense.laid_out(given.first(1)))
    except BadInput as error:
        if any(given.cut) and given.count > 1 and _taken(dense, given.values):
            raise BadInput(
                where="inputs",
                expected=f"examples along the first axis, each of which {type(dense.stored).__name__} takes by itself",
                found=f"{given.count} that it takes together alone",
                todo="If they are one example, as a graph is, prove it with whole=True.",
            ) from error
        raise
    after = equivalence.random_states()  # of more GPUs, where the call was the first to use one
    return any(not torch.equal(*pair) for pair in zip(before, after, strict=False))


def _taken(dense: "_Measured", values: tuple[Any, ...]) -> bool:
    try:
        takes(dense.stored, dense.laid_out(values))
    except BadInput:
        return False
    return True


# ---- what is asked of outputs


def _are_numbers(outputs: Tensor) -> None:
    """Raises: BadInput, where no output is: all forms would agree that there is none."""
    if not outputs.isfinite().any():
        raise BadInput(
            where="the model",
            expected="outputs that are numbers",
            found="infinities and NaN alone" if outputs.numel() else "none at all",
            todo="Look for them among the inputs and the trained weights.",
        )


def _marker(labels: Tensor, outputs: Tensor) -> Callable[[Tensor], float]:
    """Outputs -> correct answers as a fraction of those asked for: one for each example, or for each of its tokens.

    One logit answers by its sign, where labels are 0 and 1; several by the largest.
    """
    tensor = isinstance(labels, Tensor)
    if tensor and _one_logit(labels, outputs):
        right = labels.reshape(-1).cpu() > 0.5
        return lambda found: float(((found.reshape(-1) > 0) == right).double().mean())
    numbers = tensor and not labels.is_floating_point() and labels.dtype is not torch.bool
    if not numbers or labels.shape != outputs.shape[:-1] or outputs.shape[-1] < 2:
        raise BadInput(
            where="labels",
            expected="whole numbers, N or N x T: of each of the model's outputs, N or N x T x classes, the class; or 0 "
            "and 1 for outputs N or N x 1, one logit each",
            found=f"{f'{labels.dtype}, {_shape(labels)}' if tensor else type(labels).__name__}, "
            f"for outputs of {_shape(outputs)}",
            todo="Flatten or argmax them; without labels no accuracy is asked for.",
        )
    classes, count = labels.cpu(), outputs.shape[-1]
    asked = classes != IGNORED
    if not asked.any() or bool(((classes < 0) | (classes >= count))[asked].any()):
        raise BadInput(
            where="labels",
            expected=f"classes from 0 to {count - 1}, or {IGNORED} where nothing is asked",
            found=f"{int(classes[asked].min())} to {int(classes[asked].max())}" if asked.any() else f"{IGNORED} alone",
            todo="Hand in the labels of this model's classes; without labels no accuracy is asked for.",
        )
    return lambda found: float((found.argmax(dim=-1) == classes)[asked].double().mean())


def _one_logit(labels: Tensor, outputs: Tensor) -> bool:
    one_each = len(outputs) == outputs.numel() == labels.numel() and labels.dim() in (1, outputs.dim())
    return one_each and bool(((labels == 0) | (labels == 1)).all())


def _shape(values: Tensor) -> str:
    return " x ".join(map(str, values.shape)) or "one number"


@dataclass(frozen=True)
class _CallersMetric:
    """The caller's own metric, and what it is handed beside a form."""

    function: MetricFunction
    model: nn.Module
    inputs: ModelInputs

    @property
    def name(self) -> str:
        name = getattr(self.function, "__name__", type(self.function).__name__)
        return "metric" if name == "<lambda>" else str(name)

    def __call__(self, one: "_Measured") -> float:
        def form(*values: Any, **named: Any) -> Tensor:
            values = _positional(self.model, named, values) if named else values
            return _call(one, values).cpu()

        named = self.inputs if isinstance(self.inputs, Mapping) else {}
        args = self.inputs if isinstance(self.inputs, tuple) else () if named else (self.inputs,)
        with seeded(0), torch.inference_mode():
            try:
                found = self.function(form, *args, **named)
            except BadInput:
                raise
            except Exception as error:  # the caller's own code may raise anything
                raise BadInput(
                    where=f"metric {self.name}",
                    expected="one number",
                    found=f"{type(error).__name__} ({first_line(error)})",
                    todo="It is called as f(form, *inputs), or f(form, **inputs) where these are a mapping.",
                ) from error
        try:
            return float(found)
        except (TypeError, ValueError, RuntimeError) as error:
            raise BadInput(
                where=f"metric {self.name}",
                expected="one number",
                found=_shape(found) if isinstance(found, Tensor) else type(found).__name__,
                todo="Return a float: the mean over the inputs, for instance.",
            ) from error


@dataclass(frozen=True)
class _Compared:
    difference: float
    accuracy: float | None
    metric: float | None


def _call(one: "_Measured", values: tuple[Any, ...]) -> Tensor:
    with torch.inference_mode():
        return one.call(*one.laid_out(values))


def _outputs(one: "_Measured", given: _Given) -> Tensor:
    """Of all inputs, each chunk under random numbers of its own, the same ones for every form."""
    outputs = []
    for seed, (size, chunk) in enumerate(given.chunks()):
        with seeded(seed):
            outputs.append(_of_each(_call(one, chunk), size if any(given.cut) else None))
    return torch.cat(outputs)


def _of_each(outputs: Tensor, size: int | None) -> Tensor:
    numbers = isinstance(outputs, Tensor) and outputs.dtype is not torch.bool
    if not numbers or not outputs.dim() or (size is not None and len(outputs) != size):
        raise BadInput(
            where="the model",
            expected="one tensor of numbers" + (f" for {size} inputs, {size} x ..." if size else ", N x ..."),
            found=f"{outputs.dtype}, {_shape(outputs)}" if isinstance(outputs, Tensor) else type(outputs).__name__,
            todo="Wrap it in a module that gives the one that matters; its mask has other names then.",
        )
    return outputs.cpu()


def _times(candidates: Sequence["_Measured"], values: tuple[Any, ...]) -> dict[str, timing.Timing]:
    """A call is over when its outputs are there; a GPU returns before."""

    def timed(one: "_Measured") -> Callable[[], object]:
        laid_out = one.laid_out(values)

        def awaited() -> None:
            one.call(*laid_out)
            torch.accelerator.synchronize(one.place)

        return awaited if one.place.type != CPU else lambda: one.call(*laid_out)

    with torch.inference_mode():
        return timing.timed({one.name: timed(one) for one in candidates})


# ---- the forms


@dataclass(frozen=True, eq=False)
class _Measured:
    """A form to be measured: what is called, whose weights its file holds, layers of 2 in 4, sparse ones.

    `counted` is the model whose layers these are and whose products are counted, where its file holds another one's.
    """

    name: str
    call: Callable[..., Tensor]
    stored: nn.Module
    model: nn.Module | None = None
    onnx: bytes = b""
    halved: frozenset[str] = frozenset()
    sparse: frozenset[str] = frozenset()
    unchanged: Mapping[str, str] = field(default_factory=dict)
    counted: nn.Module | None = None

    @property
    def plain_bytes(self) -> int:
        return len(self.onnx) or len(export.stored(self.stored, zeros=True))

    @property
    def disk_bytes(self) -> int:
        if self.onnx or self.name.startswith("dense"):
            return self.plain_bytes
        return len(export.stored(self.stored))

    @property
    def memory_bytes(self) -> int:
        held = self.model or self.stored
        distinct = {weights.place(value): value for value in held.state_dict(keep_vars=True).values()}
        return sum(held_bytes(value) for value in distinct.values()) + prepared_bytes(held)

    def multiply_adds(self, example: tuple[Any, ...]) -> int:
        """Of layers that are sparse in what was built those of living weights; of all others all of them."""
        return sum(
            layer.living_multiply_adds
            if {name, name.rpartition(".")[0]} & self.sparse  # "lstm.weight_ih_l0" is one of "lstm"
            else layer.multiply_adds // (2 if name in self.halved else 1)
            for name, layer in sizes(self.counted or self.stored, self.laid_out(example)).items()
        )

    @property
    def place(self) -> torch.device:
        return self._number.device

    @property
    def _number(self) -> Tensor:
        """One of those that it computes with."""
        values = self.stored.state_dict(keep_vars=True).values()
        return next((value for value in values if value.is_floating_point()), torch.empty(0))

    def laid_out(self, values: tuple[Any, ...]) -> tuple[Any, ...]:
        """As this form takes them: where its weights are, and in their type; a copy, which it may overwrite."""
        return cloned(tuple(self._laid_out(each) for each in values))

    def _laid_out(self, value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        value = value.to(self.place, self._number.dtype if value.is_floating_point() else None)
        if value.layout is not torch.strided:
            return value
        if self.name == CHANNELS_LAST and value.dim() == 4:
            return value.contiguous(memory_format=torch.channels_last)
        return value.clone(memory_format=torch.contiguous_format)  # maps of one channel are contiguous in any layout


Made = tuple[str, _Measured | str]  # a form, or why there is none
_DRAWN = (
    "A Gaussian network draws its weights anew in every call, and answers with the mean of several; its network of "
    "means, `model.means()`, is a plain one that has all forms and answers otherwise."
)


def _others(whole: _Measured, given: _Given, batch: int) -> Iterator[Made]:
    dense, example, on_cpu = whole.stored, whole.laid_out(given.first(2)), whole.place.type == CPU
    if isinstance(dense, Gaussian):
        yield from ((name, _DRAWN) for name in ("compact", "sparse", "int8", "dense, ONNX Runtime"))
        return
    maps = any(isinstance(each, Tensor) and each.dim() == 4 for each in example)
    if maps and any(isinstance(module, nn.Conv2d) for module in dense.modules()):
        last = copy.deepcopy(dense).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        yield CHANNELS_LAST, _Measured(CHANNELS_LAST, last, dense, last)
    axes = None if any(given.cut) else (None,) * len(example)
    elsewhere = f"It is measured on CPUs, and the model is on {whole.place}."
    if on_cpu:
        yield _in_onnx("dense", dense, example, axes)
        yield "2:4, float16", "It is for GPUs, and the model is on the CPU."
    else:
        yield "dense, ONNX Runtime", elsewhere
        yield from _on_gpu(dense)
    timed = whole.laid_out(given.first(batch))
    small = _compacted(dense, timed)  # so many may reach all experts of a mixture
    if isinstance(small, str):
        yield "compact", small
        yield "compact, ONNX Runtime", "There is no compact form."
    else:
        yield "compact", _Measured("compact", small.model, small.model, small.model, unchanged=small.left)
        yield _in_onnx("compact", small.model, example, axes) if on_cpu else ("compact, ONNX Runtime", elsewhere)
    base = dense if isinstance(small, str) else small.model
    yield from _of_low_rank(base)
    yield _in_kernels("sparse", dense, timed) if on_cpu else ("sparse", elsewhere)
    if isinstance(dense, Ensemble):
        yield from _side_by_side(base if isinstance(base, Ensemble) else dense, example, timed, axes, on_cpu)
    name = "int8" if base is dense else "compact int8"
    rounded = quantize(base)
    unchanged = float_layers(base, rounded)
    if not _has_eight_bits(rounded):
        yield name, f"No weight has become int8: {listed(unchanged)}."
        yield "sparse int8", "No weight has become int8."
        return
    yield name, _Measured(name, rounded, rounded, rounded, unchanged=unchanged)
    in_onnx = f"{name}, ONNX Runtime"
    seen = whole.laid_out(given.first(CALIBRATION))
    yield _in_onnx_int8(in_onnx, base, rounded, seen, axes) if on_cpu else (in_onnx, elsewhere)
    yield _in_kernels("sparse int8", quantize(dense), timed) if on_cpu else ("sparse int8", elsewhere)


def _has_eight_bits(model: nn.Module) -> bool:
    return any(isinstance(module, QuantisedLayer) for module in model.modules())


def _compacted(dense: nn.Module, example: tuple[Any, ...]) -> Compacted | str:
    try:
        small = compacted(dense, prunable.full(dense), example)
    except BadInput as error:
        return str(error)
    shapes = [{name: value.shape for name, value in each.state_dict().items()} for each in (dense, small.model)]
    if shapes[0] != shapes[1]:
        return small
    return f"What is dead stays: {listed(small.left)}." if small.left else "Nothing is dead under this mask."


def _of_low_rank(base: nn.Module) -> Iterator[Made]:
    """Nothing where no layer is of a rank so low that two would be smaller."""
    factored = factorize(base)
    if sum(value.numel() for value in factored.parameters()) < sum(value.numel() for value in base.parameters()):
        yield "low-rank", _Measured("low-rank", factored, factored, factored)


def _side_by_side(
    ensemble: Ensemble, example: tuple[Any, ...], timed: tuple[Any, ...], axes: export.Axes | None, on_cpu: bool
) -> Iterator[Made]:
    """An ensemble whose members are called at once. Its file is that of the members, of which it is made anew."""
    try:
        beside = stack(ensemble, *example)
    except BadInput as error:
        yield "stacked", str(error)
        return
    yield "stacked", _Measured("stacked", beside, ensemble, beside, counted=beside)
    if not on_cpu:
        return
    yield _in_onnx("stacked", beside, example, axes)
    name, made = _in_kernels("stacked sparse", beside, timed)
    yield name, made if isinstance(made, str) else replace(made, stored=ensemble, counted=beside)


def _in_kernels(name: str, model: nn.Module, example: tuple[Any, ...]) -> Made:
    try:
        found = sparsify(model, example)
    except BadInput as error:
        return name, str(error)
    unchanged = dense_layers(model, found)
    if not has_kernels(found):
        return name, f"No layer has become sparse: {listed(unchanged) or 'it has none'}."
    layers = sparse_layers(model, found)
    return name, _Measured(name, found, model, found, sparse=layers, unchanged=unchanged)


def _on_gpu(dense: nn.Module) -> Iterator[Made]:
    """In float16, which 2:4 is measured in: the type has a row of its own."""
    half = copy.deepcopy(dense).half()
    name = "2:4, float16"
    try:
        converted = semi_structured(half)
    except BadInput as error:
        yield name, str(error)
        return
    yield "dense, float16", _Measured("dense, float16", half, half, half)
    yield name, _Measured(name, converted, half, converted, halved=semi_structured_layers(converted))


def _in_onnx(name: str, model: nn.Module, example: tuple[Any, ...], axes: export.Axes | None) -> Made:
    """The model in ONNX Runtime."""
    name = f"{name}, ONNX Runtime"
    with TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        try:
            export.to_onnx(model, example, path, batch_axes=axes)
        except BadInput as error:
            return name, str(error)
        session, content = export.onnx_session(path, torch.get_num_threads()), path.read_bytes()
    return name, _Measured(name, session, model, onnx=content)


def _in_onnx_int8(
    name: str, model: nn.Module, rounded: nn.Module, seen: tuple[Any, ...], axes: export.Axes | None
) -> Made:
    """In ONNX Runtime, activations rounded too in the ranges that they have on the inputs that were `seen`."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        try:
            to_onnx_int8(model, seen, path, batch_axes=axes)
        except BadInput as error:
            return name, str(error)
        session, content = export.onnx_session(path, torch.get_num_threads()), path.read_bytes()
    return name, _Measured(name, session, rounded, onnx=content)


# ---- files


@dataclass(frozen=True)
class Files(Sequence[Path]):
    """The files that `write` has written.

    Attributes:
        paths: of them.
        left_out: names of files that were not written, and why.
    """

    paths: tuple[Path, ...]
    left_out: Mapping[str, str]

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, place: Any) -> Any:
        return self.paths[place]


def write(
    forms: Sequence[Form],
    example: Tensor | tuple[Any, ...],
    folder: str | Path,
    *,
    batch_axes: export.Axes | None = None,
) -> Files:
    """Write the weights of all forms into `folder`, the compact one and the stacked one also as ONNX, where that is
    installed, and for `torch.export`; the files.

    A sparse form's file holds the weights of the whole network, without its zeros: `export.from_safetensors` reads it
    back, and `sparsify` makes the layers anew, as which of them pay depends on the machine.

    Args:
        example: what the model is called with.
        batch_axes: as `export.to_onnx` takes them.

    Raises:
        BadInput: a file cannot be written.
    """
    folder = Path(folder)
    values = example if isinstance(example, tuple) else (example,)
    values = tuple(each.cpu() if isinstance(each, Tensor) else each for each in values)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadInput(
            where=str(folder), expected="a folder to write to", found=str(error.strerror), todo="Name another one."
        ) from error
    written, left_out = [], {}
    for form in forms:
        if form.onnx:
            written.append(folder / file_name(form))
            files.deliver(written[-1], form.onnx)
        if form.stored is None or form.baseline:
            continue
        stored = copy.deepcopy(form.stored).cpu()
        written.append(folder / file_name(form))
        export.to_safetensors(stored, written[-1])
        if form.name in PORTABLE and form.model is not None:
            portable = copy.deepcopy(form.model).cpu()
            for ending, exported in ((".onnx", export.to_onnx), (".pt2", export.to_torch_export)):
                name = form.name + ending
                try:
                    exported(portable, values, folder / name, batch_axes=batch_axes)
                except BadInput as error:  # without the extra, or a model that torch.export cannot follow
                    left_out[name] = str(error)
                else:
                    written.append(folder / name)
    return Files(tuple(written), left_out)
