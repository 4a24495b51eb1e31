"""Seconds of a whole search, LeNet-300-100 on MNIST in 21 levels: Tombola, a plain loop, a loop fed image by image.

All do the same: at every level the same number of steps of Adam on batches of 60, the validation loss (5,000 images) at
step 0, every 100 steps and at the end, the test accuracy (10,000) every 1,000 steps likewise and at the early stop,
loss and accuracy on the 55,000 training images at the early stop and at the end, then pruning by magnitude, the same
exact counts, and back to the initial weights.

- Tombola: the wall time of `tombola run lenet-mnist` with the length changed and the arm `ticket` alone, into a fresh
  store, one worker per core: start of processes, reading of data, evaluation, store and report included. Which form of
  a layer is faster is measured once per machine and kept; it counts here only if it was never measured before.
- Plain loop: see lenet.py; replicates one after another, on one thread or on all, whichever is faster. One replicate is
  measured and multiplied. Importing torch and reading the data are left out, in its favour.
- Per-image loader: the same loop, fed by a torch DataLoader over a data set that converts and normalises one image at a
  time in the way of torchvision's MNIST, ToTensor and Normalize: from a tensor in memory to a picture, and back; one
  thread, no loader processes. Some steps and some evaluated images are measured, dense, and scaled.

    pip install pillow
    python benchmarks/search.py [--data-dir DIR] [--steps 2000] [--replicates 5] [--write]
"""

import json
import sys
import tempfile
from functools import partial
from pathlib import Path
from statistics import fmean

import lenet
import numpy as np
import torch
from PIL import Image
from section import (
    Bar,
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
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset, Subset

from tombola import data, prunable, prune, score, weights
from tombola.data.facts import Facts

SAMPLE = 2000  # images on which the per-image loader's evaluation is measured


def tombola_search(steps: int, levels: int, replicates: int, data_dir: Path | None, accuracies: list[float]) -> float:
    """Seconds of the command; what its last level reached at the end goes into `accuracies`."""
    wanted = spec(recipe__length=f"{steps}it", levels=levels, replicates=replicates, arms="ticket")
    with tempfile.TemporaryDirectory() as folder:
        store = ["--store", folder]
        taken = lenet.clocked(lambda: tombola("run", *wanted, *store, *from_folder(data_dir), "--workers", cores()))
        rows = json.loads(tombola("table", *wanted, *store, "--format", "json"))
    accuracies.append(fmean(row["final_test_accuracy"] for row in rows if row["level"] == levels))
    return taken


def evaluate(network: nn.Module, images: Tensor, labels: Tensor, chunk: int) -> tuple[float, float]:
    """Loss and accuracy, as the plain loop has them."""
    loss, correct = 0.0, 0
    with torch.no_grad():
        for x, y in zip(images.split(chunk), labels.split(chunk), strict=True):
            outputs = network(x)
            loss += float(functional.cross_entropy(outputs, y, reduction="sum"))
            correct += int((outputs.argmax(dim=1) == y).sum())
    return loss / len(labels), correct / len(labels)


class PlainSearch:
    """The search by the plain loop: `replicate` does one.

    Attributes:
        on_train: seconds of the last replicate that went into evaluation on the training images.
        accuracy: what the last replicate's last level reached at the end.
    """

    def __init__(self, floats: lenet.Floats, steps: int, levels: int, threads: int) -> None:
        self._floats, self._steps, self._levels, self._threads = floats, steps, levels, threads
        self._chunk = 250 if threads == 1 else 1000  # what a core's cache holds is fastest on one thread
        self.on_train, self.accuracy = 0.0, 0.0

    def replicate(self) -> float:
        """Seconds of one replicate."""
        torch.set_num_threads(self._threads)
        try:
            return lenet.clocked(self._search)
        finally:
            torch.set_num_threads(1)

    def _search(self) -> None:
        self.on_train = 0.0
        network = lenet.model()
        initial = weights.of(network)
        living = prunable.full(network)
        for level in range(self._levels + 1):
            weights.put(network, initial)
            self._train(lenet.Plain(network, living if level else None))
            living = prune.by_layer(score.magnitude(score.Scored.of(network, living)), living, lenet.RATES)

    def _train(self, loop: lenet.Plain) -> None:
        network, batches = loop.network, lenet.batches(*self._floats.train)
        losses: list[float] = []
        best: dict[str, Tensor] = {}
        for step in range(self._steps + 1):
            if step % lenet.VALIDATE_EVERY == 0 or step == self._steps:
                loss, _ = evaluate(network, *self._floats.validation, self._chunk)
                if not losses or loss < min(losses):
                    best = weights.of(network)
                losses.append(loss)
            if step % lenet.TEST_EVERY == 0 or step == self._steps:
                _, self.accuracy = evaluate(network, *self._floats.test, self._chunk)
            if step < self._steps:
                loop.step(*batches(step))
        self._finish(network, best)

    def _finish(self, network: nn.Module, best: dict[str, Tensor]) -> None:
        """What a level's row has beside its curve: at the early stop and at the end."""
        final = weights.of(network)
        on_train = partial(evaluate, network, *self._floats.train, self._chunk)
        self.on_train += lenet.clocked(on_train)
        weights.put(network, best)
        self.on_train += lenet.clocked(on_train)
        evaluate(network, *self._floats.test, self._chunk)
        weights.put(network, final)


class OneByOne(Dataset[tuple[Tensor, int]]):
    """Images as bytes, converted and normalised when asked for, one at a time: what the usual example does."""

    def __init__(self, images: Tensor, labels: Tensor, facts: Facts) -> None:
        self._images, self._labels, self._mean, self._std = images, labels, facts.mean, facts.std

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, place: int) -> tuple[Tensor, int]:
        # MNIST: a picture, as all data sets give one.
        picture, label = Image.fromarray(self._images[place].numpy()), int(self._labels[place])
        # ToTensor: a copy, height x width x channels to channels first, [0, 1] floats.
        pixels = torch.from_numpy(np.array(picture, np.uint8, copy=True)).view(picture.height, picture.width, 1)
        scaled = pixels.permute(2, 0, 1).contiguous().to(torch.float32).div(255)
        # Normalize: not in place, mean and deviation made tensors each time.
        normal = scaled.clone()
        mean = torch.as_tensor(self._mean, dtype=normal.dtype).view(-1, 1, 1)
        std = torch.as_tensor(self._std, dtype=normal.dtype).view(-1, 1, 1)
        return normal.sub_(mean).div_(std), label


class ByImage:
    """The plain loop fed image by image: `search` estimates a whole search of one replicate from some steps.

    Attributes:
        on_train: seconds of it that go into evaluation on the training images.
    """

    def __init__(self, dataset: data.Dataset, train: Tensor, steps: int, levels: int, measured: int) -> None:
        images = OneByOne(dataset.images[:, 0], dataset.labels, dataset.facts)
        self._train, self._evaluated = Subset(images, train.tolist()), Subset(images, range(SAMPLE))
        self._steps, self._levels, self._measured = steps, levels, measured
        self._facts, self.on_train = dataset.facts, 0.0

    def search(self) -> float:
        """Seconds of one replicate: all levels at the time of the dense one's steps."""
        loop = lenet.Plain(lenet.model(), None)
        step = lenet.clocked(lambda: self._some_steps(loop)) / self._measured
        image = lenet.clocked(lambda: self._evaluate(loop.network)) / SAMPLE
        facts, levels = self._facts, self._levels + 1
        images = looked(self._steps, lenet.VALIDATE_EVERY) * facts.validation
        images += (looked(self._steps, lenet.TEST_EVERY) + 1) * facts.test
        self.on_train = levels * 2 * facts.train * image
        return levels * (self._steps * step + images * image) + self.on_train

    def _some_steps(self, loop: lenet.Plain) -> None:
        done = 0
        while done < self._measured:
            for inputs, labels in DataLoader(self._train, batch_size=lenet.BATCH, shuffle=True):
                loop.step(inputs, labels)
                done += 1
                if done == self._measured:
                    return

    def _evaluate(self, network: nn.Module) -> None:
        with torch.no_grad():
            for inputs, labels in DataLoader(self._evaluated, batch_size=250):
                outputs = network(inputs)
                float(functional.cross_entropy(outputs, labels, reduction="sum"))
                int((outputs.argmax(dim=1) == labels).sum())


def looked(steps: int, every: int) -> int:
    """How many of the steps from 0 to `steps` are looked at, both ends included."""
    return len({*range(0, steps + 1, every), steps})


def rows(taken: dict[str, float], on_train: dict[str, float]) -> list[list[str]]:
    """The table: name, seconds, without the training images, and each in times of Tombola's."""

    def both(seconds: float) -> list[str]:
        return [f"{seconds:.1f}", f"{seconds / taken['Tombola']:.2f}x"]

    return [
        [name, *both(seconds), *(both(seconds - on_train[name]) if name in on_train else ["", ""])]
        for name, seconds in taken.items()
    ]


def promises(taken: dict[str, float], on_train: dict[str, float]) -> list[Bar]:
    """The bar, with all that Tombola's rows hold and without what a plain loop might not look at."""
    less = {name: seconds - on_train[name] for name, seconds in taken.items() if name in on_train}
    found = []
    for seconds, what in ((taken, "the same evaluations"), (less, "training images not evaluated, but by Tombola")):
        plain = min(value for name, value in seconds.items() if name.startswith("plain"))
        found += [
            Bar(f"better plain loop over Tombola: {what}", plain / taken["Tombola"], ">=", 6, "x"),
            Bar(
                f"per-image loader over Tombola: {what}", seconds["per-image loader"] / taken["Tombola"], ">=", 80, "x"
            ),
        ]
    return found


def warm_up(dataset: data.Dataset) -> None:
    """Torch imports half of itself at the first step, which is no loop's time."""
    loop = lenet.Plain(lenet.model(), None)
    loop.step(dataset.inputs(dataset.images[:60]), dataset.labels[:60])


def main(arguments: list[str]) -> None:
    parser = options(__doc__)
    parser.add_argument("--steps", type=int, default=2000, help="per level")
    parser.add_argument("--levels", type=int, default=lenet.LEVELS, help="of pruning, after the dense one")
    parser.add_argument("--replicates", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=3, help="of which the median is taken")
    parser.add_argument("--loader-steps", type=int, default=300, help="that are measured of the per-image loader")
    parser.add_argument("--one-thread", action="store_true", help="only: for trials on a machine that is not idle")
    given = parser.parse_args(arguments)
    busy = load()
    lenet.one_thread()
    dataset, train, validation = lenet.load(given.data_dir)
    floats = lenet.floats(dataset, train, validation)
    single, threaded = (PlainSearch(floats, given.steps, given.levels, threads) for threads in (1, cores()))
    by_image = ByImage(dataset, train, given.steps, given.levels, given.loader_steps)
    loops = {
        "plain loop, one thread": (single, single.replicate),
        f"plain loop, {cores()} threads": (threaded, threaded.replicate),
        "per-image loader": (by_image, by_image.search),
    }
    if given.one_thread:
        del loops[f"plain loop, {cores()} threads"]
    warm_up(dataset)
    reached: list[float] = []
    command = partial(tombola_search, given.steps, given.levels, given.replicates, given.data_dir, reached)
    taken = interleaved(
        {"Tombola": command, **{name: replicate for name, (_, replicate) in loops.items()}}, given.rounds, warm_up=0
    )
    taken = {name: seconds * (given.replicates if name in loops else 1) for name, seconds in taken.items()}
    on_train = {name: given.replicates * search.on_train for name, (search, _) in loops.items()}
    paragraphs = [
        f"`python benchmarks/search.py`: {machine()} {load_line(busy)}",
        f"Seconds of a search of LeNet-300-100 on MNIST: {given.levels + 1} levels of {given.steps:,} steps, "
        f"{given.replicates} replicates; medians of {given.rounds} rounds, taking turns. Tombola: the whole command "
        f"with {cores()} workers. Plain loop: one replicate measured, times {given.replicates}. Per-image loader: "
        f"{given.loader_steps} steps and {SAMPLE:,} evaluated images measured, scaled. Every row of Tombola's table "
        "has loss and accuracy on the 55,000 training images, twice: the last two columns leave them out of the "
        "others' time, and leave them in Tombola's.",
        table(["", "seconds", "times Tombola's", "without training images", "times Tombola's"], rows(taken, on_train)),
        f"Test accuracy at the end of the last level: Tombola {fmean(reached):.2%}, plain loop {single.accuracy:.2%}.",
        bars(promises(taken, on_train)),
    ]
    publish("search", "A whole search", paragraphs, given.write)


if __name__ == "__main__":
    main(sys.argv[1:])
