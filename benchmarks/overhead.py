"""What a search costs besides training: evaluation, planning, store and report, memory, disk.

- Evaluation share: with the weights and masks of a short real search, the seconds of 100 steps, of a look at the 5,000
  validation images (with the copy of the weights that is kept when the loss is the best so far) and of a look at the
  10,000 test images, one thread. "Between looks": validation every 100 steps and test every 1,000. "Whole run": the
  preset's 50,000 steps with everything before and after them too - the packing of the images, loss and accuracy on the
  training images at the early stop and at the end.
- A search of about 3 minutes: the preset lenet-mnist, arm `ticket`, with as many looks as the preset takes (501 and 51)
  spread over fewer steps, so that its outcomes have the preset's size. From its store: what a run's folder weighs,
  the peak memory of a worker beyond that of a process that imports torch, and what planning, storing and reporting
  take: the same `tombola run` once more, which finds all trainings done - start of Python, plan, verdict, figures and
  report -, and every outcome saved once more.
- A plan of 10,000 runs, and one of 10,000 trainings (more runs, with masks and initial weights): `tombola plan`.

    python benchmarks/overhead.py [--data-dir DIR] [--write]
"""

import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from statistics import fmean, median

import lenet
import torch
from section import (
    Bar,
    Measure,
    bars,
    cores,
    from_folder,
    interleaved,
    load,
    load_line,
    machine,
    options,
    publish,
    spec,
    table,
    tombola,
)
from torch import Tensor

from tombola import data
from tombola.engine.native.image_order import image_order
from tombola.lab.kinds import Train
from tombola.lab.plan import Plan, plan
from tombola.lab.runs import Outcome, Run
from tombola.lab.spec_file import read
from tombola.lab.store import Store

LEVELS = (0, 1, 3, 5, 7, 10, 12, 15, 18, 20)
PRESET = "lenet-mnist"
MANY = 10_000  # runs of the long plan
SHORT = 180  # seconds of the search that planning, store and report are a share of

Looks = dict[str, float]


# ---- evaluation


def evaluation(dataset: data.Dataset, train: Tensor, validation: Tensor, searched: int, rounds: int) -> list[Looks]:
    """Per level of `LEVELS`: seconds of 100 steps and of each kind of look, and the density."""
    levels = lenet.levels(dataset, train, searched)
    measures: dict[str, Measure] = {}
    packing: dict[int, float] = {}
    ordered = validation[
        torch.from_numpy(image_order(dataset.images.numpy()[validation.numpy()]))
    ]  # as a worker does once
    tests = torch.from_numpy(image_order(dataset.test_images.numpy()))
    for level in LEVELS:
        training = lenet.engine_of(dataset, levels[level][1], levels[level][0])
        batches = data.Batches(dataset, train, lenet.BATCH, 0)
        began = time.perf_counter()
        on_validation = training.repeatedly(dataset.images, dataset.labels, ordered)
        on_test = training.repeatedly(dataset.test_images, dataset.test_labels, tests)
        packing[level] = time.perf_counter() - began
        acts: dict[str, Callable[[], object]] = {
            "steps": partial(training.train, batches, lambda _: lenet.RATE, 0, 100, [], lambda _: None),
            "validation": on_validation,
            "snapshot": training.snapshot,
            "test": on_test,
            "train": partial(training.evaluate, dataset.images, dataset.labels, train),
        }
        measures |= {f"{name} @ {level}": partial(lenet.clocked, act) for name, act in acts.items()}
    taken = interleaved(measures, rounds)
    return [
        {name: taken[f"{name} @ {level}"] for name in ("steps", "validation", "snapshot", "test", "train")}
        | {"packing": packing[level], "density": levels[level][1].density}
        for level in LEVELS
    ]


def between_looks(taken: Looks) -> float:
    """The share of the looks while the training goes on."""
    looks = taken["validation"] + taken["snapshot"] + taken["test"] * lenet.VALIDATE_EVERY / lenet.TEST_EVERY
    return looks / (looks + taken["steps"])


def whole_run(taken: Looks, length: int) -> float:
    """The share of everything but steps in a run of `length` steps."""
    looks = (length // lenet.VALIDATE_EVERY + 1) * (taken["validation"] + taken["snapshot"])
    looks += (length // lenet.TEST_EVERY + 2) * taken["test"] + 2 * taken["train"] + taken["packing"]
    return looks / (looks + taken["steps"] * length / 100)


def evaluation_table(measured: Sequence[Looks], length: int) -> str:
    head = ["weights left", "100 steps", "validation", "test", "training images", "between looks", "whole run"]
    rows = [
        [
            f"{one['density']:.1%}",
            *(f"{1e3 * one[name]:.2f}" for name in ("steps", "validation", "test", "train")),
            f"{between_looks(one):.1%}",
            f"{whole_run(one, length):.1%}",
        ]
        for one in measured
    ]
    return table(head, rows)


# ---- a real search


class StoredSearch:
    """A finished search of the preset's arm `ticket`, with the preset's number of looks in fewer steps."""

    def __init__(self, folder: Path, data_dir: Path | None, spread: int, replicates: int) -> None:
        preset = read(PRESET).spec
        looks, tests = (
            preset.iterations(preset.recipe.length) // preset.iterations(every)
            for every in (preset.evaluate.every, preset.evaluate.test_every)
        )
        changes = {
            "recipe__length": f"{looks * spread}it",
            "evaluate__every": f"{spread}it",
            "evaluate__test_every": f"{looks * spread // tests}it",
            "replicates": replicates,
            "arms": "ticket",
        }
        changed = spec(**changes)
        self.preset = preset
        self._run = partial(
            tombola, "run", *changed, "--store", str(folder), *from_folder(data_dir), "--workers", cores()
        )
        self.seconds = lenet.clocked(self._run)
        self.store = Store(folder)
        self.plan: Plan = plan(read(PRESET, changed[2::2]))

    def folder(self, run: Run) -> int:
        """Bytes of a run's folder."""
        return sum(file.stat().st_size for file in (self.store.root / "runs" / run.key).iterdir())

    def weigh(self) -> tuple[float, float, float]:
        """Bytes of all that the preset's search stores, and of a training's folder on average and at most.

        A ticket and its reinitialisations weigh the same: as many weights live in each.
        """
        sizes: dict[tuple[str, int], list[int]] = defaultdict(list)
        for row in self.plan.rows:
            sizes["train", row.level].append(self.folder(row.run))
            if row.run.mask:
                sizes["mask", row.level].append(self.folder(row.run.mask))
            sizes["start", 0].append(self.folder(row.run.start))
        full = plan(read(PRESET))
        trainings = [fmean(sizes["train", row.level]) for row in full.rows]
        masks = {row.run.mask.key: fmean(sizes["mask", row.level]) for row in full.rows if row.run.mask}
        starts = {row.run.start.key: fmean(sizes["start", 0]) for row in full.rows}
        return sum(trainings) + sum(masks.values()) + sum(starts.values()), fmean(trainings), max(trainings)

    def report_size(self) -> int:
        """Bytes of the report and its figures."""
        return sum(file.stat().st_size for file in (self.store.root / "reports").rglob("*") if file.is_file())

    def peak_memory(self) -> float:
        """MB of the worker that took most."""
        runs = [run for run in self.plan.runs if isinstance(run, Train)]
        return max(float(self.store.provenance(run)["peak_memory_mb"]) for run in runs)

    def run_again(self) -> float:
        """Seconds of the command where all trainings are done."""
        return lenet.clocked(self._run)

    def save_again(self) -> float:
        """Seconds of storing all of its outcomes, claims included, into a new store."""
        outcomes = [(run, self._outcome(run), self.store.provenance(run)) for run in self.plan.runs]
        with tempfile.TemporaryDirectory() as folder:
            store = Store(Path(folder)).open()

            def save() -> None:
                for run, outcome, provenance in outcomes:
                    with store.claim(run):
                        if not store.has(run):
                            store.save(run, outcome, provenance)

            return lenet.clocked(save)

    def _outcome(self, run: Run) -> Outcome:
        files = (self.store.root / "runs" / run.key).glob("*.safetensors")
        return Outcome(self.store.values(run), {file.stem: self.store.tensors(run, file.stem) for file in files})


def torch_memory() -> float:
    """MB that a process has taken at most when it has imported torch."""
    # Not getrusage: a process starts with the peak of the one that started it, and this one is big.
    code = (
        "import torch; print(next(line for line in open('/proc/self/status') if line.startswith('VmHWM')).split()[1])"
    )
    peaks = [
        int(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)
        for _ in range(3)
    ]
    return median(peaks) / 2**10


# ---- plans


def long_plan(replicates: int) -> tuple[float, int, int]:
    """Seconds of `tombola plan` for the preset, how many trainings that lists, and how many runs in all."""
    changes = spec(replicates=replicates)
    wanted = plan(read(PRESET, changes[2::2]))
    with tempfile.TemporaryDirectory() as folder:
        store = Path(folder) / "store"
        seconds = median(lenet.clocked(lambda: tombola("plan", *changes, "--store", store)) for _ in range(5))
    return seconds, len(wanted.rows), len(wanted.runs)


def long_plans() -> tuple[tuple[float, int, int], tuple[float, int, int]]:
    """`long_plan` for at least `MANY` runs of all kinds, and for at least as many trainings."""
    one = plan(read(PRESET, ["replicates=1"]))
    return long_plan(-(-MANY // len(one.runs))), long_plan(-(-MANY // len(one.rows)))


def main(arguments: list[str]) -> None:
    parser = options(__doc__)
    parser.add_argument("--rounds", type=int, default=9, help="of which medians are taken")
    parser.add_argument("--search-steps", type=int, default=500, help="per level of the search that gives real masks")
    parser.add_argument("--spread", type=int, default=4, help="steps between two looks of the 3-minute search")
    parser.add_argument("--replicates", type=int, default=5, help="of the 3-minute search")
    given = parser.parse_args(arguments)
    busy = load()
    lenet.one_thread()
    (planned, some, runs), (planned_more, more, more_runs) = long_plans()
    with tempfile.TemporaryDirectory() as folder:
        search = StoredSearch(Path(folder), given.data_dir, given.spread, given.replicates)
        acts = {"run": search.run_again, "store": search.save_again}
        costs = interleaved(acts, 3, warm_up=0)
        (stored, one, largest), reported, peak = search.weigh(), search.report_size(), search.peak_memory()
        dataset, train, validation = lenet.load(given.data_dir)
    measured = evaluation(dataset, train, validation, given.search_steps, given.rounds)
    length = search.preset.iterations(search.preset.recipe.length)
    overhead, beyond = sum(costs.values()), peak - torch_memory()
    n = len(plan(read(PRESET)).rows)
    paragraphs = [
        f"`python benchmarks/overhead.py`: {machine()} {load_line(busy)}",
        f"Milliseconds with the masks of a real search ({given.search_steps} steps a level), one thread, medians of "
        f"{given.rounds} rounds, and the share of evaluation: between looks (validation every 100 steps, test every "
        f"1,000), and in a whole run of {length:,} steps, with packing and the training images at the end.",
        evaluation_table(measured, length),
        f"A search of {search.seconds:.0f} s ({len(search.plan.rows)} trainings, {cores()} workers). The same command "
        f"once more, which only plans, judges and writes the report: {costs['run']:.2f} s. Storing all "
        f"{len(search.plan.runs)} outcomes: {costs['store']:.2f} s. Together {overhead / search.seconds:.1%} of that "
        f"search; {overhead / SHORT:.1%} of one of {SHORT} s.",
        f"A training's folder: {one / 1e3:.0f} kB on average. The preset's {n} trainings with their masks and initial "
        f"weights: {stored / 1e6:.0f} MB, report {reported / 1e6:.1f} MB. {n} folders of the dense training, the "
        f"largest: {n * largest / 1e6:.0f} MB.",
        f"A worker's peak memory: {peak:.0f} MB, {beyond:.0f} MB beyond importing torch.",
        f"A plan of {runs:,} runs ({some:,} trainings, their masks and initial weights) is listed in {planned:.2f} s; "
        f"one of {more_runs:,} runs ({more:,} trainings) in {planned_more:.2f} s.",
        bars(
            [
                Bar("evaluation between looks, worst density", 100 * max(map(between_looks, measured)), "<", 15, " %"),
                Bar(f"planning, store and report in {SHORT} s", 100 * overhead / SHORT, "<", 3, " %"),
                Bar("peak memory of a worker beyond torch", beyond, "<", 250, " MB"),
                Bar(f"store of {n} trainings, report included", (stored + reported) / 1e6, "<", 300, " MB"),
                Bar(f"`tombola plan` of {runs:,} runs", planned, "<", 2, " s"),
            ]
        ),
    ]
    publish("overhead", "Besides the steps", paragraphs, given.write)


if __name__ == "__main__":
    main(sys.argv[1:])
