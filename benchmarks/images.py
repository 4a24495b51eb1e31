"""Images per second in training: each deep network by Tombola, and by a plain PyTorch loop with a DataLoader.

CIFAR-10, SGD with momentum and weight decay, flips and crops, batch 128 (60 for Conv-N, as in the papers), in training
alone, without evaluation. The plain loop is what tutorials have: a Dataset that changes image by image, a DataLoader
(workers: none on a CPU, whose cores are all wanted for the network; all cores on a GPU), the network as built, no mask.

On the CPU both have one thread, as Tombola's workers do. On a GPU small networks are trained several at once, too, as a
run's replicates and arms are (`engine.at_once`): images of all of them count.

    python benchmarks/images.py [--data-dir DIR] [--data cifar10-jpeg] [--device cuda] [--write]
"""

import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from section import Bar, bars, cores, interleaved, load, load_line, machine, options, publish, table
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from tombola import data, engine, models, prunable
from tombola.engine.stacked.trainer import Stacked
from tombola.engine.training import Start, Training
from tombola.recipe import SGD
from tombola.train import Span

NETWORKS = {"conv-2": 60, "conv-4": 60, "conv-6": 60, "resnet-20": 128, "resnet-56": 128, "vgg-16": 128, "vgg-19": 128}
SMALL = ("conv-2", "conv-4", "conv-6", "resnet-20")
NARROW = {"resnet-20-w4": 128, "vgg-11-w8": 64}
STACKS = ("at once", "Tombola, at once", "gain, at once")
RATE = 0.01
OPTIMIZER = SGD(name="sgd", lr=RATE, momentum=0.9, weight_decay=1e-4)


class Pictures(TorchDataset[tuple[Tensor, Tensor]]):
    """One picture at a time: padded, cropped, mirrored, normalised."""

    def __init__(self, dataset: data.Dataset, train: Tensor) -> None:
        self._images, self._labels = dataset.images[train], dataset.labels[train]
        self._mean = torch.tensor(dataset.facts.mean).view(-1, 1, 1)
        self._std = torch.tensor(dataset.facts.std).view(-1, 1, 1)

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, place: int) -> tuple[Tensor, Tensor]:
        image = functional.pad(self._images[place], (4, 4, 4, 4))
        top, left = int(torch.randint(9, ())), int(torch.randint(9, ()))
        image = image[:, top : top + 32, left : left + 32]
        if torch.rand(()) < 0.5:
            image = image.flip(2)
        return (image.float() / 255 - self._mean) / self._std, self._labels[place]


def forever(loader: "DataLoader[tuple[Tensor, Tensor]]") -> Iterator[tuple[Tensor, Tensor]]:
    while True:
        yield from loader


def plain(name: str, batch: int, dataset: data.Dataset, train: Tensor, device: str, steps: int) -> Callable[[], float]:
    """Seconds of `steps` steps of the tutorials' loop."""
    model = models.build(name, dataset.facts.shape, dataset.facts.classes, "kaiming-normal", 0).to(device)
    on_gpu = device != "cpu"
    workers: dict[str, Any] = {"num_workers": cores(), "persistent_workers": True, "pin_memory": True} if on_gpu else {}
    loader = forever(DataLoader(Pictures(dataset, train), batch, shuffle=True, drop_last=True, **workers))
    optimizer = torch.optim.SGD(model.parameters(), lr=RATE, momentum=0.9, weight_decay=1e-4)

    def seconds() -> float:
        begin = now(device)
        for _ in range(steps):
            inputs, labels = next(loader)
            loss = functional.cross_entropy(model(inputs.to(device)), labels.to(device))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        return now(device) - begin

    return seconds


def ours(name: str, batch: int, dataset: data.Dataset, train: Tensor, device: str, steps: int) -> Callable[[], float]:
    """Seconds of `steps` steps as a run of Tombola has them."""
    placed = dataset.to(device)
    model: nn.Module = models.build(name, dataset.facts.shape, dataset.facts.classes, "kaiming-normal", 0)
    described = Training(optimizer=OPTIMIZER, batch=batch, augmented=True, device=device)
    training = engine.begin(described, [Start(model, prunable.full(model), placed)]).trainings
    batches = data.Batches(placed, train, batch, 0, "flip-crop", 0, device=device)

    def seconds() -> float:
        times: list[float] = []
        looks = [0, steps]
        training.train([batches], Span(0, steps, lambda _: RATE, looks), [lambda _: times.append(now(device))])
        return times[1] - times[0]

    return seconds


def at_once(
    name: str, batch: int, many: int, dataset: data.Dataset, train: Tensor, device: str, steps: int
) -> Callable[[], float]:
    """Seconds of `steps` steps of `many` networks in one stack."""
    placed = dataset.to(device)
    networks: list[nn.Module] = [
        models.build(name, dataset.facts.shape, dataset.facts.classes, "kaiming-normal", seed) for seed in range(many)
    ]
    starts = [Start(network, prunable.full(network), placed) for network in networks]
    stack = Stacked(Training(optimizer=OPTIMIZER, batch=batch, device=device), starts)
    batches = [data.Batches(placed, train, batch, seed, "flip-crop", seed, device=device) for seed in range(many)]

    def seconds() -> float:
        times: list[float] = []
        watches: list[Callable[[int], None]] = [lambda _: None for _ in range(many)]
        watches[0] = lambda _: times.append(now(device))
        stack.train(batches, Span(0, steps, lambda _: RATE, [0, steps]), watches)
        return times[1] - times[0]

    return seconds


def now(device: str) -> float:
    if device != "cpu":
        torch.cuda.synchronize()
    return time.perf_counter()


def main(arguments: list[str]) -> None:
    parser = options(__doc__)
    parser.add_argument("--data", default="cifar10", help="or a copy of it")
    parser.add_argument("--device", default="cpu", help="or cuda")
    parser.add_argument("--rounds", type=int, default=5, help="of which the median is taken")
    parser.add_argument("--steps", type=int, default=0, help="of a measurement; by default 1 on a CPU, 100 on a GPU")
    given = parser.parse_args(arguments)
    busy, device = load(), given.device
    torch.set_num_threads(1 if device == "cpu" else cores())
    torch.set_flush_denormal(True)
    steps = given.steps or (1 if device == "cpu" else 100)
    dataset = data.load(given.data, given.data_dir)
    train, _ = data.split(dataset, 0)
    rows, gains, together = [], dict[str, float](), dict[str, float]()
    for name, batch in (NETWORKS | NARROW).items():
        layers = models.layers(name, dataset.facts.shape, dataset.facts.classes)
        many = engine.at_once(Training(optimizer=OPTIMIZER, batch=batch, layers=layers, device=device))
        competitors = {
            "tombola": ours(name, batch, dataset, train, device, steps),
            "plain": plain(name, batch, dataset, train, device, steps),
        }
        if many > 1:
            competitors["stack"] = at_once(name, batch, many, dataset, train, device, steps)
        taken = interleaved(competitors, given.rounds)
        gains[name] = taken["plain"] / taken["tombola"]
        each = [f"{steps * batch / taken[one]:,.0f}" for one in ("tombola", "plain")]
        rows.append([name, str(batch), *each, f"{gains[name]:.2f}x"])
        if many > 1:
            together[name] = many * taken["plain"] / taken["stack"]
            rows[-1] += [str(many), f"{many * steps * batch / taken['stack']:,.0f}", f"{together[name]:.2f}x"]
        elif device != "cpu":
            rows[-1] += ["1", "", ""]
    option = f" --data {given.data}" + (f" --device {device}" if device != "cpu" else "")
    where = f" on {torch.cuda.get_device_name()}" if device != "cpu" else ""
    paragraphs = [
        f"`python benchmarks/images.py{option}`{where}: {machine()} {load_line(busy)}",
        f"Images per second in training on {given.data}, flips and crops included; medians of {given.rounds} rounds of "
        f"{steps} step{'s' if steps > 1 else ''}, taking turns.",
        table(["network", "batch", "Tombola", "plain loop", "gain", *(STACKS if device != "cpu" else ())], rows),
    ]
    promises = [Bar("the slowest network against the plain loop", min(gains.values()), ">=", 1.0, "x")]
    if device != "cpu":
        # A run has the stack only where it pays.
        least = min(max(gains[name], together.get(name, 0.0)) for name in SMALL)
        promises.append(
            Bar("the small networks, the better of one and several at once, against it", least, ">=", 3.0, "x")
        )
    name = "images" if device == "cpu" else "images-gpu"
    publish(
        name, f"Images per second{' on a GPU' if device != 'cpu' else ''}", [*paragraphs, bars(promises)], given.write
    )


if __name__ == "__main__":
    main(sys.argv[1:])
