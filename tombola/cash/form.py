"""The forms of a ticket as they were measured, and what to say of them: a table, sentences, which to take."""

from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass, field
from typing import overload

from torch import nn

from tombola.cash.ensemble import Ensemble
from tombola.cash.timing import AGREE, Timing

NO_FASTER = 1.05  # less than this is no difference
PORTABLE = ("compact", "stacked")  # of which there are files for ONNX Runtime and torch.export too
ONE_AFTER_ANOTHER = {  # what an ensemble whose members are called at once is to be faster than
    "stacked": ("dense", "dense, channels last", "compact"),
    "stacked, ONNX Runtime": ("dense, ONNX Runtime", "compact, ONNX Runtime"),
    "stacked sparse": ("dense", "dense, channels last", "compact", "sparse"),
}
ROUNDING = 1e-4  # of the largest output: forms that compute the same differ by less, int8 and float16 by more


@dataclass(frozen=True, repr=False)
class Form:
    """One form of a ticket, measured.

    Attributes:
        name: `compact`, `sparse`, `int8`, ...; baselines are called `dense`.
        model: to be used; None where ONNX Runtime runs it.
        stored: the model whose weights its file holds; None where it is another form's.
        difference: the largest absolute one between its outputs and the masked model's, over all inputs.
        largest: the largest absolute output of the masked model on them: what a difference is to be seen beside.
        accuracy: a fraction; None where there are no labels.
        disk_bytes: of its file: that of `write`, without zeros where that is less, or an ONNX file.
        plain_bytes: of the same file with all zeros; they differ by what is due to the way of storing alone.
        memory_bytes: of its weights while it is at work.
        multiply_adds: for one example.
        timing: batch -> how long a call takes.
        metric: what the caller's own metric gives; None where there is none.
        unchanged: layers that this form leaves as they were, and why.
        onnx: the file of a form of int8 that ONNX Runtime runs; other forms' are made anew.
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
    timing: Mapping[int, Timing]
    metric: float | None = None
    unchanged: Mapping[str, str] = field(default_factory=dict)
    onnx: bytes = b""

    @property
    def baseline(self) -> bool:
        """Whether it is the masked model, which has nothing of its zeros."""
        return self.name.startswith("dense")

    @property
    def exact(self) -> bool:
        """Whether its outputs are the masked model's up to the rounding of float32."""
        return self.difference <= ROUNDING * self.largest

    @property
    def latency_s(self) -> Mapping[int, float]:
        """Batch -> median seconds of a call."""
        return {batch: timing.median_s for batch, timing in self.timing.items()}

    def __repr__(self) -> str:
        times = ", ".join(f"batch {batch}: {timing.text} ms" for batch, timing in self.timing.items())
        return f"Form({self.name!r}, difference {self.difference:.1g}, {self.disk_bytes:,} bytes, {times})"

    def __str__(self) -> str:
        return "\n".join([*table([self]), *_unchanged([self])])


@dataclass(frozen=True, repr=False)
class Proof(Sequence[Form]):
    """The forms of one ticket, those that are dense first; printed, a table of them.

    Attributes:
        forms: that were measured.
        left_out: forms that were not made, or change nothing, and why.
        itself: the largest difference between two calls of the masked model under the same random numbers: where it is
            not 0, differences of its forms say no more than that.
        metric: the name of the caller's own metric, or "".
        drawn: whether the model draws random numbers of torch in a call, which are the same for every form.
    """

    forms: tuple[Form, ...]
    left_out: Mapping[str, str]
    itself: float = 0.0
    metric: str = ""
    drawn: bool = False

    def __len__(self) -> int:
        return len(self.forms)

    @overload
    def __getitem__(self, place: int) -> Form: ...
    @overload
    def __getitem__(self, place: slice) -> Sequence[Form]: ...
    def __getitem__(self, place: int | slice) -> Form | Sequence[Form]:
        return self.forms[place]

    def __repr__(self) -> str:
        return f"Proof({', '.join(repr(form.name) for form in self)})"

    def __str__(self) -> str:
        return "\n".join(
            [*table(self), *(f"\n{line}" if place == 0 else line for place, line in enumerate(notes(self)))]
        )


def table(forms: Sequence[Form]) -> list[str]:
    """Lines of a table: of each form what it computes, its sizes, and how long a call takes, with the quartiles."""
    metric = forms.metric if isinstance(forms, Proof) else ""
    columns: dict[str, Callable[[Form], str]] = {"form": lambda form: form.name}
    if forms[0].accuracy is not None:
        columns["accuracy"] = lambda form: f"{form.accuracy:.2%}"
    if metric:
        columns[metric] = lambda form: f"{form.metric:.6g}"
    columns |= {
        "difference": lambda form: f"{form.difference:.1g}",
        "on disk": lambda form: f"{form.disk_bytes:,}",
        "in memory": lambda form: f"{form.memory_bytes:,}",
        "mult.-adds": lambda form: f"{form.multiply_adds:,}",
    }
    for batch in forms[0].timing:
        columns[f"batch {batch}: ms"] = lambda form, batch=batch: form.timing[batch].text  # type: ignore[misc]
    rows = [[*columns], *([cell(form) for cell in columns.values()] for form in forms)]
    widths = [max(len(row[place]) for row in rows) for place in range(len(columns))]
    return [
        "  ".join(
            cell.rjust(width) if place else cell.ljust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def notes(proof: Proof) -> list[str]:
    """What a reader of the table has to know: what was not made, what stayed as it was, and why."""
    lines = [*_unchanged(proof)]
    lines += [f"{name}: left out. {why}" for name, why in proof.left_out.items()]
    if proof.drawn:
        lines.append(
            "The model draws random numbers of torch in its forward: every form is compared under the same ones."
        )
    if proof.itself:
        lines.append(
            f"The masked model differs from itself by up to {proof.itself:.1g} from call to call, under the same "
            "random numbers of torch: differences of this size say nothing about a form."
        )
    return lines


def _unchanged(forms: Sequence[Form]) -> list[str]:
    return [f"{form.name}: leaves as they were {listed(form.unchanged)}." for form in forms if form.unchanged]


def listed(reasons: Mapping[str, str]) -> str:
    """Layers by their reason, the first three of each by name.

    >>> listed({"a": "slow", "b": "slow", "c": "tied"})
    'a, b (slow); c (tied)'
    """
    by_reason: dict[str, list[str]] = {}
    for name, why in reasons.items():
        by_reason.setdefault(why, []).append(name or "the layer")
    return "; ".join(
        f"{', '.join(names[:3])}{f' and {len(names) - 3} more' if len(names) > 3 else ''} ({why})"
        for why, names in by_reason.items()
    )


def sentences(forms: Sequence[Form]) -> list[str]:
    """What was found, in words: of each form its size, and how much faster it is than the fastest baseline.

    A statement about speed that less than three quarters of the rounds bear out says that the rounds disagree.

    >>> def ms(*rounds): return {1: Timing(1e-3 * rounds[0], (1e-3 * rounds[0],) * 2, tuple(1e-3 * r for r in rounds))}
    >>> dense = Form("dense", None, None, 0.0, 9.0, 0.98, 1000, 1000, 1000, 500, ms(0.02, 0.02))
    >>> small = Form("compact", None, None, 1e-7, 9.0, 0.98, 100, 500, 500, 250, ms(0.01, 0.03))
    >>> sentences([dense, small])
    ['compact: 10.0 times smaller (2.0 with its zeros); 2.0 times faster at batch 1 (0.010 ms; dense: 0.020 ms; \
rounds disagree: 1 of 2 bear this out).']
    """
    baselines = [form for form in forms if form.baseline]
    return [
        f"{form.name}: {_smaller(form, baselines)}; {_faster(form, baselines)}.{_at_once(form, forms)}"
        for form in forms
        if not form.baseline
    ]


def _at_once(form: Form, forms: Sequence[Form]) -> str:
    pace = stacked_pace(form, forms)
    return f" {pace}" if pace else ""


def stacked_pace(form: Form, forms: Sequence[Form]) -> str:
    """How fast an ensemble whose members are called at once is beside the fastest that calls one after another.

    Nothing where `form` is none, or there is nothing to compare it with.
    """
    others = _apart(form, forms)
    return f"Members at once, not one after another: {_faster(form, others)}." if others else ""


def pays(form: Form, forms: Sequence[Form]) -> bool:
    """Whether calling members at once is faster than one after another, at some batch and in most rounds.

    Any other form is not asked for that.
    """
    others = _apart(form, forms)
    gains = [_gain(form, others, batch) for batch in form.timing if others]
    return not others or any(gain.faster and gain.agreed for gain in gains)


def _apart(form: Form, forms: Sequence[Form]) -> list[Form]:
    return [other for other in forms if other.name in ONE_AFTER_ANOTHER.get(form.name, ())]


def advice(forms: Sequence[Form], folder: str = "FOLDER", left_out: Container[str] | None = None) -> list[str]:
    """Which form is the smallest, which the fastest, which runs elsewhere, and how each is loaded.

    Of forms that are as fast as each other, as far as their quartiles show, one that is exact comes first.

    Args:
        folder: where `write` has put them.
        left_out: names of files that `write` has left out, as it returns them; by default the one for ONNX, unless the
            compact form was measured in ONNX Runtime.
    """
    if left_out is None:
        left_out = () if any(form.name == "compact, ONNX Runtime" for form in forms) else ("compact.onnx",)
    small = [form for form in forms if not form.baseline and form.stored is not None]
    if not small:
        return ["No form is worth more here than the masked network itself."]
    lines = [
        _smallest_line(forms, small, folder),
        *(_fastest_line(forms, batch, folder, left_out) for batch in forms[0].timing),
    ]
    portable = {
        "compact.pt2": f'torch.export.load("{folder}/compact.pt2").module()',
        "compact.onnx": "compact.onnx in ONNX Runtime",
    }
    there = [how for name, how in portable.items() if name not in left_out]
    if there and any(form.name == "compact" for form in forms):
        lines.append(f"Most portable: compact, without Tombola and the network's class: {', or '.join(there)}.")
    return lines


def _smallest_line(forms: Sequence[Form], small: Sequence[Form], folder: str) -> str:
    smallest = min(small, key=lambda form: form.disk_bytes)
    if smallest.disk_bytes < forms[0].disk_bytes:
        return f"Smallest: {smallest.name}, {smallest.disk_bytes:,} bytes: {_read_back(smallest, folder)}."
    return f"Smallest: {forms[0].name}, {forms[0].disk_bytes:,} bytes: no form takes less."


def _fastest_line(forms: Sequence[Form], batch: int, folder: str, left_out: Container[str]) -> str:
    fastest, tied = _fastest(forms, batch)
    how = ""
    if fastest.onnx:
        how = f": {folder}/{file_name(fastest)} in ONNX Runtime"
    elif fastest.name == "compact, ONNX Runtime" and "compact.onnx" not in left_out:
        how = f": {folder}/compact.onnx in ONNX Runtime"
    elif fastest.name == "dense, ONNX Runtime":  # which `write` does not write
        how = f': cash.to_onnx(network, example, "{folder}/dense.onnx")'
    elif fastest.name.startswith(("sparse", "stacked sparse")):
        how = f": cash.sparsify({_read_back(fastest, folder)}, example)"
    elif not fastest.baseline and fastest.stored is not None:
        how = f": {_read_back(fastest, folder)}"
    return f"Fastest at batch {batch}: {fastest.name}, {fastest.timing[batch].text} ms{tied}{how}."


def _read_back(form: Form, folder: str) -> str:
    """The call that reads a form's weights."""
    members = len(form.stored.members) if isinstance(form.stored, Ensemble) else 0
    network = f"cash.Ensemble([network] * {members})" if members else "network"
    read = f'cash.from_safetensors({network}, "{folder}/{file_name(form)}")'
    return f"cash.stack({read}, example)" if form.name.startswith("stacked") else read


def _fastest(forms: Sequence[Form], batch: int) -> tuple[Form, str]:
    """The fastest form, and what it is beside one of lower median whose quartiles overlap and which is not exact."""
    first, *others = sorted(forms, key=lambda form: form.latency_s[batch])
    if not first.exact:
        for other in others:
            if other.exact and other.timing[batch].overlaps(first.timing[batch]):
                return other, f", as fast as {first.name} and closer to the masked network"
    return first, ""


def file_name(form: Form) -> str:
    """Of the weights of a form.

    >>> file_name(Form("2:4, float16", None, None, 0.0, 1.0, None, 1, 1, 1, 1, {}))
    '2-4-float16.safetensors'
    """
    name = form.name.removesuffix(", ONNX Runtime")
    return "-".join("".join(each if each.isalnum() else " " for each in name).split()) + (
        ".onnx" if form.onnx else ".safetensors"
    )


def _smaller(form: Form, baselines: Sequence[Form]) -> str:
    ratio, plain = (baselines[0].plain_bytes / size for size in (form.disk_bytes, form.plain_bytes))
    zeros = f" ({plain:.1f} with its zeros)" if form.plain_bytes != form.disk_bytes else ""
    return f"{ratio:.1f} times smaller{zeros}" if ratio > 1 else "no smaller"


@dataclass(frozen=True)
class _Gain:
    """How much faster a form is than the fastest of others, at one batch.

    Attributes:
        over: the fastest of these.
        ratio: of the medians.
        bearing: of each round, whether it says of NO_FASTER what the medians do.
    """

    over: Form
    ratio: float
    bearing: tuple[bool, ...]

    @property
    def faster(self) -> bool:
        return self.ratio >= NO_FASTER

    @property
    def agreed(self) -> bool:
        return sum(self.bearing) >= AGREE * len(self.bearing)


def _gain(form: Form, others: Sequence[Form], batch: int) -> _Gain:
    best, own = min(others, key=lambda one: one.latency_s[batch]), form.timing[batch]
    ratio = best.timing[batch].median_s / own.median_s
    rounds = zip(best.timing[batch].rounds_s, own.rounds_s, strict=True)
    bearing = tuple((theirs >= NO_FASTER * ours) == (ratio >= NO_FASTER) for theirs, ours in rounds)
    return _Gain(best, ratio, bearing)


def _faster(form: Form, others: Sequence[Form]) -> str:
    lines = []
    for batch, taken in form.timing.items():
        gain = _gain(form, others, batch)
        what = f"{gain.ratio:.1f} times faster" if gain.faster else "no faster here"
        apart = f"; rounds disagree: {sum(gain.bearing)} of {len(gain.bearing)} bear this out"
        best = f"{gain.over.name}: {gain.over.timing[batch].text} ms{'' if gain.agreed else apart}"
        lines.append(f"{what} at batch {batch} ({taken.text} ms; {best})")
    return ", ".join(lines)
