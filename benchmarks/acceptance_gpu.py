"""What only a GPU can show, in ten minutes at most: tests, stacks, images per second, precisions, 2:4, torchrun, AMP.

Each section is a process of its own with a limit in seconds: one that fails, hangs or takes the driver down with it
leaves the others as they are, and says in the page what came. Networks have random weights, images are random bytes
(`digits` where a search is run): nothing is downloaded. What is compared takes turns in one process.

    python benchmarks/acceptance_gpu.py --write                      # on a GPU: results/gpu.md
    python benchmarks/acceptance_gpu.py --device cpu --small         # every line of it, on a CPU: no number of use

Exits with 2 where there is no CUDA device, with 1 where a section failed.
"""

import argparse
import copy
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from images import OPTIMIZER, at_once, now, ours
from section import ROOT, cores, interleaved, machine, table
from torch import Tensor, nn
from torch.nn import functional

import tombola
from tombola import cash, data, models, n_of_m, prunable
from tombola.data.facts import Facts

PAGE = ROOT / "results" / "gpu.md"
GPU_TESTS = ("tests/test_stacked.py", "tests/test_augment.py", "tests/test_semi_structured.py")
SHAPE = (3, 32, 32)
SLACK = 10  # times as long may a dry run take, on a CPU that others use too
LARGEST = 4096  # units of the linear layers that are to be 2 of 4

Paragraphs = list[str]


@dataclass(frozen=True)
class Setting:
    """Where it is measured, and how much of it.

    Attributes:
        device: of torch.
        small: whether the sizes are those of a dry run.
    """

    device: str
    small: bool

    @property
    def steps(self) -> int:
        return 2 if self.small else 100

    @property
    def rounds(self) -> int:
        return 1 if self.small else 5

    @property
    def batch(self) -> int:
        return 8 if self.small else 128

    @property
    def networks(self) -> tuple[str, ...]:
        return ("resnet-8-w4",) if self.small else ("resnet-20", "resnet-56", "vgg-16")


def dataset(examples: int) -> data.Dataset:
    """Random images of CIFAR-10's shape."""
    facts = Facts("random", SHAPE, 10, examples, 0, 16, (0.5,) * 3, (0.25,) * 3, 255)
    drawn = torch.Generator().manual_seed(0)
    images = torch.randint(256, (examples + 16, *SHAPE), generator=drawn, dtype=torch.uint8)
    labels = torch.randint(10, (examples + 16,), generator=drawn)
    return data.Dataset(facts, images[:-16], labels[:-16], images[-16:], labels[-16:])


def network(name: str, setting: Setting) -> nn.Module:
    built: nn.Module = models.build(name, SHAPE, 10, "kaiming-normal", init_seed=0)
    return built.to(setting.device)


def step_of(
    model: nn.Module, setting: Setting, precision: torch.dtype | None = None
) -> tuple[Callable[[], Tensor], torch.optim.Optimizer]:
    """One step of a plain loop on one batch that lies on the device, and its optimiser; the step gives the loss."""
    inputs = torch.randn(setting.batch, *SHAPE, generator=torch.Generator().manual_seed(1)).to(setting.device)
    labels = torch.arange(setting.batch, device=setting.device) % 10
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=1e-4)
    kind = torch.device(setting.device).type

    def step() -> Tensor:
        optimizer.zero_grad()
        with torch.autocast(kind, dtype=precision or torch.bfloat16, enabled=precision is not None):
            loss = functional.cross_entropy(model(inputs), labels)
        loss.backward()
        optimizer.step()
        return loss

    return step, optimizer


def seconds_of(step: Callable[[], object], setting: Setting) -> Callable[[], float]:
    def seconds() -> float:
        begin = now(setting.device)
        for _ in range(setting.steps):
            step()
        return now(setting.device) - begin

    return seconds


# ---- the sections


def tests(setting: Setting) -> Paragraphs:
    """Those that a CPU leaves out or does without a GPU."""
    wanted = "cuda or device or gpu or semi" if not setting.small else "every_device or move_with_the_model"
    asked = ["-m", "pytest", "-q", "-p", "no:cacheprovider", *GPU_TESTS, "-k", wanted]
    done = subprocess.run([sys.executable, *asked], cwd=ROOT, capture_output=True, text=True)
    last = done.stdout.strip().splitlines()[-30:]
    if done.returncode not in (0, 5):  # 5: none was chosen
        raise RuntimeError("\n".join(last))
    return [f"`python -m pytest {' '.join(GPU_TESTS)} -k '{wanted}'`: {last[-1].strip('= ')}."]


def stacks(setting: Setting) -> Paragraphs:
    """Several trainings in one program against one after another."""
    random, rows = dataset(40 * setting.batch), []
    train = torch.arange(len(random.labels))
    wanted = {"lenet-300-100": (2, 16), "conv-2": (2, 4), "resnet-20": (2, 8, 16)}
    for name, sizes in ({"lenet-20-10": (2,)} if setting.small else wanted).items():
        one = ours(name, setting.batch, random, train, setting.device, setting.steps)
        together = {
            str(many): at_once(name, setting.batch, many, random, train, setting.device, setting.steps)
            for many in sizes
        }
        taken = interleaved({"one": one, **together}, setting.rounds)
        for many in sizes:
            gain = many * taken["one"] / taken[str(many)]
            rows.append([name, str(many), *(f"{1e3 * taken[each] / setting.steps:.3f}" for each in ("one", str(many)))])
            rows[-1].append(f"{gain:.2f}x")
    return [
        f"Milliseconds of a step of batch {setting.batch}, {OPTIMIZER.name}, flips and crops included; the gain is "
        "that of all of the stack over as many trainings one after another.",
        table(["network", "trainings", "one alone", "the stack", "gain"], rows),
    ]


def images(setting: Setting) -> Paragraphs:
    """A run's training, and a loop under `Search`, against a plain loop on the same data."""
    random, rows = dataset(40 * setting.batch), []
    train = torch.arange(len(random.labels))
    for name in setting.networks:
        plain, _ = step_of(network(name, setting), setting)
        searched = network(name, setting)
        guarded, optimizer = step_of(searched, setting)
        search = tombola.Search(searched, optimizer, levels=1, rate=0.9, rewind="0it")
        levels = iter(search)
        for _ in range(2):
            next(levels)
            guarded()
        competitors = {
            "plain": seconds_of(plain, setting),
            "Search": seconds_of(guarded, setting),
            "run": ours(name, setting.batch, random, train, setting.device, setting.steps),
        }
        taken = interleaved(competitors, setting.rounds)
        count = setting.steps * setting.batch
        rows.append([name, *(f"{count / taken[each]:,.0f}" for each in competitors)])
        rows[-1] += [f"{taken['plain'] / taken[each]:.2f}x" for each in ("Search", "run")]
    return [
        f"Images per second in training, float32, batch {setting.batch}: a plain loop whose one batch lies on the "
        "device, the same under `tombola.Search` at 10 % of the weights, and a run of the lab, which draws, flips and "
        "crops its batches.",
        table(["network", "plain loop", "Search", "run", "Search against plain", "run against plain"], rows),
    ]


def precisions(setting: Setting) -> Paragraphs:
    """How fast, and how far from float64."""
    rows = []
    for name in setting.networks:
        steps: dict[str, Callable[[], float]] = {}
        errors: dict[str, float] = {}
        exact = network(name, setting).eval()
        inputs = torch.randn(setting.batch, *SHAPE, generator=torch.Generator().manual_seed(2)).to(setting.device)
        with torch.no_grad():
            expected = copy.deepcopy(exact).double()(inputs.double())
        for kind, (tf32, precision) in {
            "float32": (False, None),
            "TF32": (True, None),
            "bfloat16": (True, torch.bfloat16),
            "float16": (True, torch.float16),
        }.items():
            step, _ = step_of(network(name, setting), setting, precision)
            steps[kind] = seconds_of(_with_tf32(step, tf32), setting)
            error = partial(_error, exact, inputs, expected, precision, setting)
            errors[kind] = _with_tf32(error, tf32)()
        taken = interleaved(steps, setting.rounds)
        for kind in steps:
            speed = f"{setting.steps * setting.batch / taken[kind]:,.0f}"
            rows.append([f"{name}, {kind}", speed, f"{taken['float32'] / taken[kind]:.2f}x", f"{errors[kind]:.1e}"])
    return [
        "Images per second of a plain loop; the error is the largest one of an output against float64, of the largest "
        "output. Half precisions are under `torch.autocast`.",
        table(["network", "images/s", "against float32", "error"], rows),
    ]


def _with_tf32(call: Callable[[], Any], on: bool) -> Callable[[], float]:
    def switched() -> float:
        before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = on
        try:
            return float(torch.as_tensor(call()).detach())
        finally:
            torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before

    return switched


def _error(
    model: nn.Module, inputs: Tensor, expected: Tensor, precision: torch.dtype | None, setting: Setting
) -> float:
    kind = torch.device(setting.device).type
    with torch.no_grad(), torch.autocast(kind, dtype=precision or torch.bfloat16, enabled=precision is not None):
        found = model(inputs)
    return float((found.double() - expected).abs().max() / expected.abs().max())


def two_of_four(setting: Setting) -> Paragraphs:
    """The forms of a ticket whose weights are of the pattern that GPUs multiply faster."""
    width = 128 if setting.small else LARGEST
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 64))
    scores = {name: weight.detach().abs() for name, weight in model.named_parameters() if weight.dim() > 1}
    half = n_of_m.n_of_m(scores, prunable.full(model), 2, 4)
    batches = (1, 8) if setting.small else (1, 64, 1024)
    inputs = torch.randn(max(batches), width)
    forms = cash.prove(model.to(setting.device), half, inputs, batches=batches)
    return [f"Linear layers {width}-{width}-{width}-64:", f"```text\n{forms}\n```"]


def one_process(setting: Setting) -> Paragraphs:
    """A search by `torchrun`, beside the same one without."""
    changes = ["replicates=1", "levels=1", "arms=ticket", f"device={setting.device}"]
    changes += ["recipe.length=10it", "recipe.model=lenet-20-10"] if setting.small else ["recipe.length=200it"]
    asked = ["run", "digits-lenet", *(part for change in changes for part in ("--set", change))]
    launchers = {
        "torchrun": [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "1"],
        "alone": [sys.executable],
    }
    seconds = {}
    with TemporaryDirectory() as folder:
        for name, launcher in launchers.items():
            begin = time.perf_counter()
            command = [*launcher, "-m", "tombola", *asked, "--store", str(Path(folder) / name)]
            done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
            if done.returncode:
                raise RuntimeError(f"{name}: {(done.stderr or done.stdout)[-1500:]}")
            seconds[name] = time.perf_counter() - begin
    said = ", ".join(f"{name} {took:.1f} s" for name, took in seconds.items())
    return [f"`torchrun --nproc-per-node 1 -m tombola {' '.join(asked)}` ended as the same command without it: {said}."]


def scaler(setting: Setting) -> Paragraphs:
    """A loop of one's own under `Search` with float16 and a `GradScaler`: what is pruned stays 0."""
    kind = torch.device(setting.device).type
    model = network(setting.networks[0], setting)
    step_count = 5 if setting.small else 60
    inputs = torch.randn(setting.batch, *SHAPE, device=setting.device)
    labels = torch.arange(setting.batch, device=setting.device) % 10
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    scaling = torch.amp.GradScaler(kind, init_scale=2.0**10)
    search = tombola.Search(model, optimizer, levels=2, rate=0.7, rewind="0it")
    rows = []
    for number, _ in enumerate(search):
        for _ in range(step_count):
            optimizer.zero_grad()
            with torch.autocast(kind, dtype=torch.float16 if kind == "cuda" else torch.bfloat16):
                loss = functional.cross_entropy(model(inputs), labels)
            scaling.scale(loss).backward()
            scaling.step(optimizer)
            scaling.update()
        last = float(loss.detach())
        alive, held = search.mask(number), dict(model.named_parameters())
        revived = sum(int((held[name].detach().cpu()[~flags] != 0).sum()) for name, flags in alive.items())
        if revived or not math.isfinite(last):
            raise RuntimeError(f"level {number}: {revived} pruned weights are not 0, the loss is {last}")
        rows.append([str(number), f"{alive.density:.1%}", f"{last:.3f}", str(revived)])
    return [
        f"{setting.networks[0]}, {step_count} steps a level on one batch:",
        table(["level", "weights", "loss", "pruned weights that are not 0"], rows),
    ]


SECTIONS: dict[str, tuple[str, Callable[[Setting], Paragraphs], int]] = {  # the heading, what does it, seconds at most
    "tests": ("The tests that only a GPU can run", tests, 120),
    "stacks": ("Stacked trainings against one after another", stacks, 110),
    "images": ("Images per second", images, 100),
    "precisions": ("TF32, bfloat16, float16", precisions, 80),
    "two-of-four": ("2 of 4", two_of_four, 50),
    "torchrun": ("One process of torchrun", one_process, 60),
    "scaler": ("Mixed precision with a scaler", scaler, 40),
}


# ---- all of them


@dataclass(frozen=True)
class Outcome:
    """What came of a section."""

    text: str
    failed: bool
    seconds: float

    @property
    def word(self) -> str:
        return "no" if self.failed else "yes"


def carried_out(name: str, setting: Setting) -> Outcome:
    """A section in a process of its own."""
    limit = SECTIONS[name][2] * (SLACK if setting.small else 1)
    command = [sys.executable, __file__, "--section", name, "--device", setting.device]
    paths = [str(ROOT), str(ROOT / "benchmarks"), os.environ.get("PYTHONPATH", "")]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))}
    begin = time.perf_counter()
    with subprocess.Popen(  # a session of its own: what it starts ends with it
        [*command, *["--small"] * setting.small],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        start_new_session=True,
    ) as process:
        try:
            out, error = process.communicate(timeout=limit)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            return Outcome(f"**Stopped** after {limit} s.", True, time.perf_counter() - begin)
    took = time.perf_counter() - begin
    if process.returncode:
        said = "\n".join((error.strip() or out.strip()).splitlines()[-15:])
        return Outcome(f"**Failed** ({process.returncode}):\n\n```text\n{said}\n```", True, took)
    return Outcome(out.strip(), False, took)


def page(setting: Setting, outcomes: Mapping[str, Outcome]) -> str:
    """Of all sections."""
    where = torch.cuda.get_device_name(setting.device) if setting.device.startswith("cuda") else "a CPU, to try it out"
    parts = [
        "# On a GPU, measured",
        f"`python benchmarks/acceptance_gpu.py --write` on {where}, CUDA {torch.version.cuda}; {machine()} Medians of "
        f"{setting.rounds} rounds of {setting.steps} steps, taking turns, caches warm.",
        table(
            ["section", "seconds", "came to an end"],
            [
                [SECTIONS[name][0], f"{one.seconds:.0f}", "no" if one.failed else "yes"]
                for name, one in outcomes.items()
            ],
        ),
        *(f"## {SECTIONS[name][0]}\n\n{one.text}" for name, one in outcomes.items()),
    ]
    return "\n\n".join(parts) + "\n"


def main(arguments: list[str]) -> int:
    """The exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="write results/gpu.md")
    parser.add_argument("--device", default="cuda", help="cpu, to try it out")
    parser.add_argument("--small", action="store_true", help="sizes of a dry run")
    parser.add_argument("--section", choices=SECTIONS, help="one of them, in this process")
    given = parser.parse_args(arguments)
    torch.set_num_threads(1 if given.device == "cpu" else cores())
    setting = Setting(given.device, given.small)
    if setting.device.startswith("cuda") and not torch.cuda.is_available():
        print("no CUDA device", file=sys.stderr)
        return 2
    if given.section:
        print("\n\n".join(SECTIONS[given.section][1](setting)))
        return 0
    outcomes = {}
    for name in SECTIONS:
        outcomes[name] = carried_out(name, setting)
        print(f"{name}: {outcomes[name].seconds:.0f} s{', failed' if outcomes[name].failed else ''}", file=sys.stderr)
    text = page(setting, outcomes)
    print(text)
    if given.write:
        PAGE.write_text(text, encoding="utf-8")
    return int(any(one.failed for one in outcomes.values()))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
