"""One thread, no denormals, the same examples every time; and the folders with images, where they are."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import settings
from torch import Tensor, nn

from tombola.data import cifar10_jpeg
from tombola.data.mnist import FILES

np.finfo(np.float32), np.finfo(np.float64)  # NumPy 2.0 looks for denormals once, and warns where there are none
torch.set_num_threads(1)
torch.set_flush_denormal(True)

# -O0: half the time to compile, and no read is optimised away before the sanitizers see it.
SANITIZED = ["-g1", "-O0", "-w", "-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-ffp-contract=off"]

settings.register_profile("tombola", derandomize=True, deadline=None, max_examples=50)
settings.load_profile("tombola")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--fuzz-cases", type=int, default=1000, help="random inputs for tests/fuzz, in all")
    parser.addoption("--fuzz-seed", type=int, default=0, help="the first one's seed")


@pytest.fixture(scope="session", autouse=True)
def fuzzer(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Path, "subprocess.Popen[str]"] | None]:
    """The program of kernels/fuzz.c and who compiles it, beside the first tests: it takes a core 15 s."""
    compiler = shutil.which(os.environ.get("CC", "cc").split()[0])
    if not compiler or not any(item.path.name == "test_kernels.py" for item in request.session.items):
        yield None
        return
    program = tmp_path_factory.mktemp("kernels") / "fuzz"
    command = [compiler, *SANITIZED, "-o", str(program), str(Path(__file__).parent / "kernels" / "fuzz.c"), "-lm"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        yield program, process
        process.kill()


@pytest.fixture(scope="session")
def sanitized() -> list[str]:
    """What makes a C compiler watch every read and write."""
    return SANITIZED


@pytest.fixture(scope="session", autouse=True)
def cache_of_its_own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What the engines measure is kept for this session, and not among the user's own caches."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session", autouse=True)
def readers(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, cache_of_its_own: None
) -> Iterator[dict[str, "Future[None]"]]:
    """Who follows each page on adding something, one after another, beside the first tests: a core's minute."""
    items = [item for item in request.session.items if item.path.name == "test_pages.py"]
    asked = sorted({item.callspec.params["page"] for item in items if hasattr(item, "callspec")})
    environment = dict(os.environ)  # as it is now, whatever a test changes meanwhile
    pool = ThreadPoolExecutor(1, initializer=_on_the_last_core)
    try:
        yield {
            page: pool.submit(items[0].module.followed, page, tmp_path_factory.mktemp(page), environment)  # type: ignore[attr-defined]
            for page in asked
        }
    finally:
        pool.shutdown(cancel_futures=True)


def _on_the_last_core() -> None:
    """What this thread starts takes one core, and thus one worker: mostly it imports."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})


class _Named(nn.Linear):
    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs)
        self.tag = "first"


class _Scaled(nn.Linear):
    def forward(self, values: Tensor) -> Tensor:
        return 2 * super().forward(values)


class _Shadow:
    def __init__(self, model: nn.Module) -> None:
        self.shadow = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}

    def update(self, model: nn.Module) -> None:
        for name, parameter in model.named_parameters():
            self.shadow[name].lerp_(parameter.detach(), 0.2)

    def table(self) -> dict[str, Tensor]:
        return self.shadow

    def begin(self, model: nn.Module) -> None:
        """Where it ended, as a mapping of the model's names says what it is."""

    def state_dict(self) -> dict[str, Any]:
        return {"shadow": self.shadow, "decay": 0.8}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.shadow = {name: value.clone() for name, value in state["shadow"].items()}


@pytest.fixture
def named() -> type[nn.Linear]:
    """A subclass of a linear layer that adds nothing to what is computed."""
    return _Named


@pytest.fixture
def scaled() -> type[nn.Linear]:
    """A subclass of a linear layer that computes something else."""
    return _Scaled


@pytest.fixture
def shadow() -> type[_Shadow]:
    """An average as everybody writes it: a dict of tensors, which are wherever those are that it is given."""
    return _Shadow


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Chromium, headless; without it, or the package that drives it, the test is skipped."""
    playwright = pytest.importorskip("playwright.sync_api", reason="needs the package playwright")
    path = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if path is None:
        pytest.skip("needs Chromium")
    with playwright.sync_playwright() as started:
        opened = started.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture
def mnist_dir() -> Path:
    """The folder that TOMBOLA_DATA names, if the four files of MNIST are in it; otherwise the test is skipped."""
    return folder_with(FILES, "", "mnist")


@pytest.fixture
def fashion_dir() -> Path:
    """The same of Fashion-MNIST, whose files have the same names."""
    return folder_with(FILES, "fashion-mnist", "FashionMNIST/raw")


def folder_with(files: Iterable[str], *places: str) -> Path:
    named = os.environ.get("TOMBOLA_DATA")
    if not named:
        pytest.skip("TOMBOLA_DATA names no folder, and the tests download nothing")
    folder = Path(named)
    for name in files:
        if not any((folder / place / (name + suffix)).is_file() for place in places for suffix in ("", ".gz")):
            pytest.skip(f"TOMBOLA_DATA is {folder}, where {name} is neither found plain nor as .gz")
    return folder


@pytest.fixture(scope="session")
def cifar_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the JPEG copy of CIFAR-10, unpacked; otherwise the test is skipped.

    TOMBOLA_DATA names it, or has it packed, beside the script that unpacks it: that takes 20 s, once for all tests.
    """
    named = os.environ.get("TOMBOLA_DATA")
    if not named:
        pytest.skip("TOMBOLA_DATA names no folder, and the tests download nothing")
    folder = Path(named)
    if any((place / cifar10_jpeg.FOLDER).is_dir() for place in (folder, folder / "cifar10")):
        return folder
    script = folder / "cifar10" / "unpack.py"
    if not script.is_file():
        pytest.skip(f"TOMBOLA_DATA is {folder}, where CIFAR-10 is neither unpacked nor beside an unpack.py")
    unpacked = tmp_path_factory.mktemp("cifar10")
    subprocess.run([sys.executable, str(script), str(unpacked)], check=True, stdout=subprocess.DEVNULL)
    return unpacked
