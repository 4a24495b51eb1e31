"""What the benchmarks share: the machine's line, medians of interleaved competitors, and their places in a file.

Every ratio in a section comes from one run of one script, in which the competitors take turns (A B C A B C ...): a
machine that slows down or is shared then slows all of them alike, and the medians still compare.
"""

import argparse
import gc
import os
import platform
import re
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

ROOT = Path(__file__).resolve().parents[1]
SPEED = ROOT / "results" / "speed.md"
HEADING = "# Speed, memory and disk, measured\n\nEach section is printed by one script of `benchmarks/`.\n"

Measure = Callable[[], float]


@dataclass(frozen=True)
class Bar:
    """One promise: what was measured, and the limit that it has to keep."""

    about: str
    measured: float
    sign: str  # ">=", "<=" or "<"
    limit: float
    unit: str

    @property
    def kept(self) -> bool:
        return {
            ">=": self.measured >= self.limit,
            "<=": self.measured <= self.limit,
            "<": self.measured < self.limit,
        }[self.sign]

    @property
    def row(self) -> str:
        word = "pass" if self.kept else "**miss**"
        return f"| {self.about} | {self.measured:.3g}{self.unit} | {self.sign} {self.limit:g}{self.unit} | {word} |"


def options(about: str | None) -> argparse.ArgumentParser:
    """The options that all scripts have."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = os.environ.get("TOMBOLA_DATA")
    parser.add_argument("--data-dir", type=Path, default=Path(default) if default else None, help="where MNIST lies")
    parser.add_argument("--write", action="store_true", help="replace this script's sections in its page of results/")
    return parser


def cores() -> int:
    """Those that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def machine() -> str:
    """One line: the processor, its cores, the versions and the commit."""
    import torch

    from tombola.engine import kernels

    parts = [
        f"{_processor()}, {cores()} cores",
        f"instruction set {kernels.sets()[-1] if kernels.sets() else 'none (no compiled kernels)'}",
        f"{platform.system()} {platform.machine()}",
        f"Python {platform.python_version()}",
        f"torch {torch.__version__}",
        f"commit {_commit()}",
    ]
    return "; ".join(parts) + "."


def load_line(before: float) -> str:
    """How busy the machine was when the script began: numbers from a shared machine are worth less."""
    return f"Load average when it began: {before:.1f}."


def load() -> float:
    """Processes at work on the machine, averaged over the last minute."""
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else float("nan")


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:  # not Linux
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")


def _commit() -> str:
    git = ["git", "-C", str(ROOT)]
    try:
        commit = subprocess.run([*git, "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True, check=True)
        changed = subprocess.run([*git, "status", "--porcelain", "--", "tombola"], capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return commit.stdout.strip() + (" with changes" if changed.stdout else "")


def interleaved(competitors: Mapping[str, Measure], rounds: int, warm_up: int = 1) -> dict[str, float]:
    """The median of what each competitor measures, one of each per round; rounds that warm up do not count."""
    taken: dict[str, list[float]] = {name: [] for name in competitors}
    gc.disable()  # one competitor's rubbish is not collected in another one's time
    try:
        for number in range(warm_up + rounds):
            for name, measure in competitors.items():
                gc.collect(0)
                seconds = measure()
                if number >= warm_up:
                    taken[name].append(seconds)
    finally:
        gc.enable()
    return {name: median(seconds) for name, seconds in taken.items()}


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; all columns but the first are numbers."""
    lines = ["| " + " | ".join(head) + " |", "|---|" + "---:|" * (len(head) - 1)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)])


def bars(promises: Sequence[Bar]) -> str:
    """The table of what is promised and what came out."""
    return "\n".join(["| the bar | measured | promised | |", "|---|---:|---:|---|", *(one.row for one in promises)])


def publish(name: str, title: str, paragraphs: Sequence[str], write: bool, page: Path = SPEED) -> None:
    """Print a section; with `write`, put it between its markers in `page` too."""
    section = f"<!-- {name} -->\n## {title}\n\n" + "\n\n".join(paragraphs) + f"\n<!-- /{name} -->"
    print(section)
    if not write:
        return
    text = page.read_text(encoding="utf-8") if page.exists() else HEADING
    place = re.compile(f"<!-- {name} -->.*?<!-- /{name} -->", re.DOTALL)
    text = place.sub(lambda _: section, text) if place.search(text) else f"{text.rstrip()}\n\n{section}\n"
    page.parent.mkdir(exist_ok=True)
    page.write_text(text, encoding="utf-8")


def tombola(*arguments: object, **environment: str) -> str:
    """What the command `tombola` prints; it runs in a process of its own, from this checkout."""
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    done = subprocess.run(
        [sys.executable, "-m", "tombola", *map(str, arguments)],
        env=os.environ | {"PYTHONPATH": path} | environment,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise SystemExit(f"tombola {' '.join(map(str, arguments))} failed:\n{done.stderr}")
    return done.stdout


def spec(**changes: object) -> list[str]:
    """The preset lenet-mnist with changes, as the command line wants it; `recipe__length` is recipe.length."""
    changed = [("--set", f"{name.replace('__', '.')}={value}") for name, value in changes.items()]
    return ["lenet-mnist", *(part for pair in changed for part in pair)]


def from_folder(data_dir: Path | None) -> list[str]:
    """The option that names the data's folder, if there is one."""
    return ["--data-dir", str(data_dir)] if data_dir else []
