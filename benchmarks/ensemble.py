"""Ensembles of tickets as one model: what members at once save over one after another, in every form of both.

Tickets of LeNet-300-100 from a finished experiment, and convolutional networks of random weights under random masks, as
what a call costs does not depend on them. All forms of a row take turns in one run; each is compared with the masked
members before it is timed, and what is sparse was chosen at the row's batch.

    tombola run lenet-mnist-quick --set replicates=5 --set arms=ticket --set levels=18
    python benchmarks/ensemble.py --write
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import lenet
import torch
from section import ROOT, load, load_line, machine, options, publish, table
from torch import Tensor, nn

from tombola import cash, data, models, prunable
from tombola.cash import equivalence, export, timing
from tombola.cash.ensemble import Ensemble
from tombola.errors import BadInput
from tombola.lab.plan import plan
from tombola.lab.spec_file import read
from tombola.lab.store import Store
from tombola.lab.tickets import networks_of
from tombola.mask import Mask

PAGE = ROOT / "results" / "cash.md"
SPEC = ("lenet-mnist-quick", ["replicates=5", "arms=ticket", "levels=18"])
MEMBERS = 5
LEVELS = (7, 10, 15, 18)  # 21, 11, 3.6 and 1.9 % of LeNet's weights
BATCHES = (1, 16, 64, 256)
CONVOLUTIONAL = ("conv-2-w16", (3, 32, 32))
DENSITIES = (0.2, 0.1, 0.05)
FORMS = ("dense", "compact", "sparse", "ONNX Runtime")
PAIRS = {"stacked": ("dense", "compact"), "stacked sparse": ("sparse",), "stacked, ONNX Runtime": ("ONNX Runtime",)}

Call = Callable[[Tensor], Tensor]


def tickets(level: int, store: Path, data_dir: Path | None) -> tuple[float, Ensemble, Tensor]:
    """The density of a level, the ensemble of its replicates, and test images."""
    networks = networks_of(plan(read(SPEC[0], SPEC[1])), Store(store), [level], range(MEMBERS))
    dataset = data.load(networks[0][2].recipe.data, data_dir)
    trained, masks = [model for model, _, _ in networks], [alive for _, alive, _ in networks]
    return masks[0].density, Ensemble(trained, masks), dataset.inputs(dataset.test_images[: max(BATCHES)])


def random(density: float) -> tuple[Ensemble, Tensor]:
    """An ensemble of convolutional networks nobody has trained, and random images."""
    name, shape = CONVOLUTIONAL
    generator = torch.Generator().manual_seed(0)
    networks = [models.build(name, shape, 10, "kaiming-normal", init_seed=seed) for seed in range(MEMBERS)]
    masks = [
        Mask(
            {each: torch.rand(flags.shape, generator=generator) < density for each, flags in prunable.full(one).items()}
        )
        for one in networks
    ]
    return Ensemble(networks, masks), torch.rand(max(BATCHES), *shape, generator=generator)


def in_onnx(model: nn.Module, inputs: Tensor) -> Call | None:
    """The model in ONNX Runtime, where that is installed."""
    with TemporaryDirectory() as folder, torch.inference_mode(False):
        try:
            export.to_onnx(model, inputs[:2], Path(folder) / "model.onnx")
        except BadInput:
            return None
        return export.onnx_session(Path(folder) / "model.onnx", torch.get_num_threads())


def forms(ensemble: Ensemble, inputs: Tensor, onnx: bool = True) -> dict[str, Call | None]:
    """All forms that do not depend on the batch."""
    small = cash.compact(ensemble, ensemble.mask, inputs[:2])
    members = small if isinstance(small, Ensemble) else ensemble
    beside = cash.stack(members, inputs[:2])
    return {
        "dense": ensemble,
        "compact": small,
        "ONNX Runtime": in_onnx(small, inputs) if onnx else None,
        "stacked": beside,
        "stacked, ONNX Runtime": in_onnx(beside, inputs) if onnx else None,
    }


def row(made: dict[str, Call | None], inputs: Tensor, rounds: int) -> dict[str, timing.Timing]:
    """How long each form takes for one batch; those that answer something else are an error."""
    found = {name: form for name, form in made.items() if form is not None}
    found["sparse"] = cash.sparsify(made["dense"], inputs)  # type: ignore[arg-type]
    found["stacked sparse"] = cash.sparsify(made["stacked"], inputs)  # type: ignore[arg-type]
    with torch.inference_mode():
        expected = found["dense"](inputs)
        for name, form in found.items():
            apart = equivalence.apart(expected, form(inputs))
            if apart > equivalence.allowed(made["dense"], float(expected.abs().max())):  # type: ignore[arg-type]
                raise SystemExit(f"{name}: outputs differ by {apart}")
        return timing.timed({name: lambda form=form: form(inputs) for name, form in found.items()}, rounds)  # type: ignore[misc]


def gains(taken: dict[str, timing.Timing]) -> dict[str, float]:
    """How much faster members at once are than one after another, in the fastest form of the same kind."""
    return {
        name: min(taken[other].median_s for other in others) / taken[name].median_s
        for name, others in PAIRS.items()
        if name in taken
    }


def section(rows: Sequence[tuple[float, int, dict[str, timing.Timing]]]) -> list[str]:
    """Two tables: milliseconds of a call, and the gains."""
    names = [name for name in (*FORMS, *PAIRS) if name in rows[0][2]]
    paired = list(gains(rows[0][2]))
    timed, gained = [], []
    for density, batch, taken in rows:
        timed.append([f"{density:.1%}", str(batch), *(f"{1e3 * taken[name].median_s:.3f}" for name in names)])
        found = gains(taken)
        gained.append([f"{density:.1%}", str(batch), *(f"{found[name]:.2f}x" for name in paired)])
    return [
        "Milliseconds of a call:",
        table(["weights left", "batch", *names], timed),
        "How much faster members at once are than the fastest form of the same kind that calls one after another:",
        table(["weights left", "batch", *paired], gained),
    ]


def main(arguments: list[str]) -> None:
    parser = options(__doc__)
    parser.add_argument("--store", type=Path, default=Path("tombola-store"), help="where the experiment is finished")
    parser.add_argument("--rounds", type=int, default=timing.ROUNDS)
    parser.add_argument("--levels", type=int, nargs="+", default=LEVELS)
    parser.add_argument("--densities", type=float, nargs="+", default=DENSITIES)
    given: argparse.Namespace = parser.parse_args(arguments)
    head = f"`python benchmarks/ensemble.py`: {machine()} {load_line(load())}"
    lenet.one_thread()
    rows = []
    for level in given.levels:
        density, ensemble, images = tickets(level, given.store, given.data_dir)
        made = forms(ensemble, images)
        rows += [(density, batch, row(made, images[:batch], given.rounds)) for batch in BATCHES]
    about = f"{MEMBERS} tickets of LeNet-300-100 on MNIST, one of each replicate."
    publish("ensembles", "Ensembles: five tickets as one model", [head, about, *section(rows)], given.write, PAGE)

    rows = []
    for density in given.densities:
        ensemble, images = random(density)
        made = forms(ensemble, images, onnx=False)
        rows += [(density, batch, row(made, images[:batch], given.rounds)) for batch in BATCHES[:3]]
    about = f"{MEMBERS} networks of {CONVOLUTIONAL[0]}, random weights and masks."
    publish("conv-ensembles", "Ensembles of convolutional networks", [head, about, *section(rows)], given.write, PAGE)


if __name__ == "__main__":
    main(sys.argv[1:])
