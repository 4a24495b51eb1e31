"""int8 by int8 in ONNX Runtime, beside float32 there and in torch, and torch's own int8: how fast, and what it costs.

Each network is trained on real data for a while, pruned to a fifth of its weights by magnitude, and trained as long
again; what is rounded is that ticket, in the ranges that activations have on images or texts of the training.

- torch, ONNX: the ticket in float32.
- int8: `cash.to_onnx_int8`, weights and activations of 8 bits.
- dynamic: `torch.ao.quantization.quantize_dynamic`, which rounds what linear layers read, at each call.

Accuracy is that of the first test examples; `same answers` the share of them that int8 answers as float32 does. One
thread, all competitors of a row take turns, medians of single calls.

    python benchmarks/int8.py [--data-dir DIR] [--train-seconds S] [--rounds N] [--only NETWORK ...] [--write]
"""

import copy
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter

import lenet
import torch
from section import ROOT, load, load_line, machine, options, publish, table
from torch import Tensor, nn
from torch.nn import functional

from tombola import data, models, prunable, prune, weights
from tombola import mask as masks
from tombola.cash import export
from tombola.cash.onnx_quantization import to_onnx_int8
from tombola.cash.timing import timed
from tombola.guard import Guard

PAGE = ROOT / "results" / "cash.md"
NETWORKS = {  # name -> the data, and the initialisation
    "lenet-300-100": ("mnist", "glorot-normal"),
    "conv-4": ("cifar10-jpeg-5000", "glorot-normal"),
    "resnet-20": ("cifar10-jpeg-5000", "kaiming-normal"),
    "vgg-11": ("cifar10-jpeg-5000", "kaiming-normal"),
    "bert-2-128": ("sst2", "normal-0.02"),
}
BATCHES, KEPT, SEEN, TESTED, AT_ONCE = (1, 64), 0.2, 250, 1000, 64
NAMES = ("torch", "dynamic", "ONNX", "int8")

Form = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Examples:
    """What a network is trained on, and what it is tested on."""

    inputs: Tensor
    labels: Tensor
    tested: Tensor
    answers: Tensor


def examples(name: str, data_dir: Path | None) -> tuple[data.Dataset, Examples]:
    """Of a data set by its name."""
    found = data.load(name, data_dir)
    tested = found.inputs(found.test_images[:TESTED])
    return found, Examples(found.inputs(found.images), found.labels, tested, found.test_labels[:TESTED])


def descend(model: nn.Module, on: Examples, alive: masks.Mask, seconds: float) -> None:
    """Adam on batches of 64, drawn, with the pruned weights held at 0."""
    optimizer, generator = torch.optim.Adam(model.parameters(), lr=1e-3), torch.Generator().manual_seed(0)
    guard, begin = Guard(model.train(), optimizer, alive), perf_counter()
    while perf_counter() - begin < seconds:
        places = torch.randint(len(on.labels), (AT_ONCE,), generator=generator)
        optimizer.zero_grad()
        functional.cross_entropy(model(on.inputs[places]), on.labels[places]).backward()
        optimizer.step()
    guard.release()


def ticket(name: str, of: data.Dataset, on: Examples, seconds: float) -> nn.Module:
    """A trained network of which a fifth is left, in eval mode."""
    model = models.build(name, of.facts.shape, of.facts.classes, NETWORKS[name][1], init_seed=0)
    full = prunable.full(model)
    descend(model, on, full, seconds)
    size = {each: value.abs() for each, value in weights.of(model).items() if each in full}
    alive = prune.globally(size, full, 1 - KEPT)
    descend(model, on, alive, seconds)
    return model.eval()


def dynamic(model: nn.Module) -> nn.Module:
    """torch's own, which it means to give up."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made: nn.Module = torch.ao.quantization.quantize_dynamic(copy.deepcopy(model), {nn.Linear}, dtype=torch.qint8)
    return made


def forms(model: nn.Module, on: Examples, folder: Path) -> dict[str, Form]:
    """The competitors."""
    export.to_onnx(model, on.tested[:2], folder / "float.onnx")
    to_onnx_int8(model, on.inputs[:SEEN], folder / "int8.onnx")
    sessions = (export.onnx_session(folder / f"{each}.onnx", 1) for each in ("float", "int8"))
    return dict(zip(NAMES, (model, dynamic(model), *sessions), strict=True))


def called(form: Form, values: Tensor) -> Tensor:
    """Its outputs, of a hundred examples at once."""
    with torch.inference_mode():
        return torch.cat([form(part) for part in values.split(100)])


def rows(name: str, given: dict[str, Form], on: Examples, rounds: int) -> tuple[list[list[str]], list[str]]:
    """How long calls take at each batch, and what int8 answers."""
    timings = []
    for batch in BATCHES:
        values = on.tested[:batch].clone()
        with torch.inference_mode():
            taken = timed({each: partial(form, values) for each, form in given.items()}, rounds)
        times = [taken[each].text for each in NAMES]
        gain = taken["ONNX"].median_s / taken["int8"].median_s
        timings.append([name, str(batch), *times, f"{gain:.2f}x"])
    outputs = {each: called(form, on.tested) for each, form in given.items()}
    largest = float(outputs["torch"].abs().max())
    right = [f"{float((outputs[each].argmax(1) == on.answers).double().mean()):.1%}" for each in NAMES[:2] + NAMES[3:]]
    same = [
        f"{float((outputs[each].argmax(1) == outputs['torch'].argmax(1)).double().mean()):.1%}"
        for each in ("dynamic", "int8")
    ]
    apart = [f"{float((outputs[each] - outputs['torch']).abs().max()) / largest:.3f}" for each in ("dynamic", "int8")]
    return timings, [name, *right, *same, *apart]


def main(arguments: list[str]) -> None:
    parser = options(__doc__)
    parser.add_argument("--train-seconds", type=float, default=20.0, help="of each of the two trainings of a network")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    given = parser.parse_args(arguments)
    busy = load()
    lenet.one_thread()
    torch.manual_seed(0)
    head = f"`python benchmarks/int8.py --train-seconds {given.train_seconds:g}`: {machine()} {load_line(busy)}"
    timings, answers = [], []
    for name in given.only:
        of, on = examples(NETWORKS[name][0], given.data_dir)
        with TemporaryDirectory() as folder:
            made = forms(ticket(name, of, on, given.train_seconds), on, Path(folder))
            times, said = rows(name, made, on, given.rounds)
        timings += times
        answers.append(said)
        print(table(["", *map(str, range(len(times[0]) - 1))], times), said, flush=True)
    paragraphs = [
        head,
        "Tickets of a fifth of the weights, trained for so many seconds before and after pruning; caches as the turn "
        "before left them, the machine shared with other work. Milliseconds of a call, with the quartiles where they "
        "differ; the gain is of int8 over float32 in ONNX Runtime.",
        table(["network", "batch", *(f"{name}, ms" for name in NAMES), "int8 against ONNX"], timings),
        f"What rounding costs, on up to {TESTED:,} test examples: `difference` is the largest of an output, as a share "
        "of the largest output.",
        table(
            [
                *("network", "float32", "dynamic", "int8"),
                *("dynamic: same answers", "int8: same answers", "dynamic: difference", "int8: difference"),
            ],
            answers,
        ),
    ]
    publish("int8", "int8 by int8", paragraphs, given.write, PAGE)


if __name__ == "__main__":
    main(sys.argv[1:])
