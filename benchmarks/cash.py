"""What cashing in saves: trained tickets in all their forms, and one sparse convolution.

- LeNet: tickets of the preset lenet-mnist, from a store where it is finished, each form as `tombola cash` measures it:
  compared on all 10,000 test images, timed at batch 1 and 64 beside the masked network in PyTorch and ONNX Runtime.
- A convolution, 64 -> 64 channels, 3x3 on 32x32, random weights and masks: `SparseConv2d` beside torch's, its maps
  contiguous and channels last, and ONNX Runtime.
- A convolutional network: tickets of the preset conv2-cifar10-quick, as LeNet's.

One thread each; all that is compared takes turns, medians.

    python benchmarks/cash.py [--store DIR] [--data-dir DIR] [--conv-store DIR] [--conv-data-dir DIR] [--write]
"""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import lenet
import torch
from section import ROOT, Bar, bars, load, load_line, machine, options, publish, table
from torch import Tensor, nn

from tombola import data
from tombola.cash import export, timing
from tombola.cash.comparison import BATCHES, prove
from tombola.cash.form import Form
from tombola.cash.sparse_layers import SparseConv2d
from tombola.lab.plan import plan
from tombola.lab.spec_file import read
from tombola.lab.store import Store
from tombola.lab.tickets import trained_of

PAGE = ROOT / "results" / "cash.md"
LEVELS = (7, 10, 13, 15, 18, 20)  # 21, 11, 5.5, 3.6, 1.9 and 1.2 % of LeNet's weights
AT = 15  # the level that the bar is about
CONV = ["recipe.data=cifar10-jpeg-10000"]
CONV_LEVELS = (2, 4, 6)
CHANNELS, WINDOW, SIDE = 64, 3, 32
DENSITIES = (0.2, 0.1, 0.05, 0.02)

Proofs = list[Sequence[Form]]  # of one level: a proof for each replicate


def proofs(
    spec: str, changes: Sequence[str], level: int, replicates: int, store: Path, data_dir: Path | None
) -> tuple[float, Proofs]:
    """The density of a level, and what its forms are worth."""
    wanted, density, found = plan(read(spec, tuple(changes))), 0.0, []
    for replicate in range(replicates):
        model, alive, run = trained_of(wanted, Store(store), level, replicate)
        dataset = data.load(run.recipe.data, data_dir)
        density = alive.density
        found.append(prove(model, alive, dataset.inputs(dataset.test_images), dataset.test_labels))
    return density, found


def of(found: Proofs, name: str, value: Callable[[Form], float]) -> float:
    """The median of a value of a form over the replicates."""
    return median(value(next(form for form in forms if form.name == name)) for forms in found)


def fastest(forms: Sequence[Form], batch: int) -> float:
    """Seconds of the fastest of the dense baselines."""
    return min(form.latency_s[batch] for form in forms if form.baseline)


def gain(found: Proofs, name: str, batch: int) -> float:
    """How much faster a form is than the fastest dense one, median over the replicates."""
    return median(
        fastest(forms, batch) / form.latency_s[batch] for forms in found for form in forms if form.name == name
    )


def smaller(found: Proofs, name: str) -> float:
    """How much smaller a form's file is than the dense one."""
    return of(found, "dense", lambda form: form.disk_bytes) / of(found, name, lambda form: form.disk_bytes)


def tickets(levels: dict[float, Proofs]) -> list[str]:
    """Two tables: what is kept and saved, and how long calls take."""
    names = [form.name for form in next(iter(levels.values()))[0]]
    forms = [name for name in names if not name.startswith("dense") and "ONNX" not in name]
    kept, timed = [], []
    for density, found in levels.items():
        for name in ["dense", *forms]:
            kept.append(
                [
                    f"{density:.1%}",
                    name,
                    f"{of(found, name, lambda form: form.accuracy or 0):.2%}",
                    f"{of(found, name, lambda form: form.difference):.1g}",
                    f"{of(found, name, lambda form: form.disk_bytes):,.0f}",
                    f"{smaller(found, name):.1f}x",
                    f"{of(found, name, lambda form: form.memory_bytes):,.0f}",
                    f"{of(found, name, lambda form: form.multiply_adds):,.0f}",
                ]
            )
        for batch in BATCHES:
            gains = [f"{gain(found, name, batch):.2f}x" for name in forms]
            times = [f"{1e3 * of(found, name, lambda form, at=batch: form.latency_s[at]):.3f}" for name in names]
            timed.append([f"{density:.1%}", str(batch), *times, *gains])
    return [
        table(["weights left", "form", "accuracy", "difference", "file", "smaller", "memory", "multiply-adds"], kept),
        "Milliseconds of a call, and by how much each form is faster than the fastest dense one of its row:",
        table(["weights left", "batch", *names, *(f"{name}: gain" for name in forms)], timed),
    ]


def convolution(density: float, batch: int, rounds: int) -> dict[str, float]:
    """Seconds of a call of each competitor."""
    torch.manual_seed(0)
    layer = nn.Conv2d(CHANNELS, CHANNELS, WINDOW, padding=WINDOW // 2).eval()
    with torch.no_grad():
        layer.weight *= torch.rand_like(layer.weight) < density
    sparse, maps = SparseConv2d(layer), torch.randn(batch, CHANNELS, SIDE, SIDE)
    last = nn.Conv2d(CHANNELS, CHANNELS, WINDOW, padding=WINDOW // 2).eval()
    last.load_state_dict(layer.state_dict())
    last = last.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    maps_last = maps.contiguous(memory_format=torch.channels_last)
    with TemporaryDirectory() as folder, torch.inference_mode(False):
        export.to_onnx(layer, maps[:2], Path(folder) / "layer.onnx")
        session: Callable[[Tensor], Tensor] = export.onnx_session(Path(folder) / "layer.onnx", torch.get_num_threads())
    with torch.inference_mode():
        torch.testing.assert_close(sparse(maps), layer(maps), rtol=1e-3, atol=1e-4)
        calls: dict[str, Callable[[], object]] = {
            "sparse": lambda: sparse(maps),
            "contiguous": lambda: layer(maps),
            "channels last": lambda: last(maps_last),
            "ONNX Runtime": lambda: session(maps),
        }
        return {name: taken.median_s for name, taken in timing.timed(calls, rounds).items()}


def convolution_gain(taken: dict[str, float]) -> float:
    """How much faster the sparse form is than the fastest other."""
    return min(seconds for name, seconds in taken.items() if name != "sparse") / taken["sparse"]


def verdict(promises: Sequence[Bar]) -> str:
    """Which of the promises were kept, in a sentence."""
    kept = [one.about for one in promises if one.kept]
    missed = [one.about for one in promises if not one.kept]
    said = [f"Reached: {'; '.join(kept)}." if kept else "None was reached."]
    return " ".join([*said, *([f"Not reached: {'; '.join(missed)}."] if kept and missed else [])])


def main(arguments: list[str]) -> None:
    parser = options(__doc__)
    parser.add_argument("--store", type=Path, default=Path("tombola-store"), help="where lenet-mnist is finished")
    parser.add_argument("--conv-store", type=Path, help="where conv2-cifar10-quick is finished, if not there")
    parser.add_argument("--conv-data-dir", type=Path, help="where CIFAR-10 lies, if not beside MNIST")
    parser.add_argument("--replicates", type=int, default=1, help="of which medians are taken")
    parser.add_argument("--rounds", type=int, default=timing.ROUNDS, help="of the convolution's timing")
    parser.add_argument("--levels", type=int, nargs="+", default=LEVELS, help="of lenet-mnist")
    given = parser.parse_args(arguments)
    busy = load()
    lenet.one_thread()
    head = f"`python benchmarks/cash.py`: {machine()} {load_line(busy)}"
    found = {
        level: proofs("lenet-mnist", [], level, given.replicates, given.store, given.data_dir)
        for level in sorted({*given.levels, AT})
    }
    publish("lenet", "LeNet-300-100 on MNIST", [head, *tickets(dict(found.values()))], given.write, PAGE)

    rows, gains = [], {}
    for batch in sorted(BATCHES, reverse=True):
        for density in DENSITIES:
            taken = convolution(density, batch, given.rounds)
            gains[batch, density] = convolution_gain(taken)
            times = [f"{1e3 * seconds:.3f}" for seconds in taken.values()]
            rows.append([f"{density:.0%}", str(batch), *times, f"{gains[batch, density]:.2f}x"])
    tabled = table(["weights left", "batch", *taken, "gain"], rows)
    said = "Milliseconds of a call; the gain is over the fastest of the other three."
    publish("convolution", "One convolution", [head, said, tabled], given.write, PAGE)

    store, folder = given.conv_store or given.store, given.conv_data_dir or given.data_dir
    levels = dict(proofs("conv2-cifar10-quick", CONV, level, given.replicates, store, folder) for level in CONV_LEVELS)
    publish("conv-2", "A convolutional ticket: a narrow Conv-2", [head, *tickets(levels)], given.write, PAGE)

    density, at = found[AT]
    promises = [
        Bar(f"LeNet at {density:.1%}, batch 64, sparse", gain(at, "sparse", 64), ">=", 4, "x"),
        Bar(f"LeNet at {density:.1%}, batch 1, sparse", gain(at, "sparse", 1), ">=", 2, "x"),
        Bar(f"LeNet at {density:.1%}, file of the sparse form", smaller(at, "sparse"), ">=", 15, "x"),
        Bar("the convolution at 5%, batch 64", gains[64, 0.05], ">=", 4, "x"),
        Bar("the convolution at 10%, batch 64", gains[64, 0.1], ">=", 2, "x"),
    ]
    publish("bars", "The bar", [bars(promises), verdict(promises)], given.write, PAGE)


if __name__ == "__main__":
    main(sys.argv[1:])
