"""One thread, no denormals, the same examples every time; and the folder with MNIST, where there is one."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import settings

from tombola.data.mnist import FILES

torch.set_num_threads(1)
torch.set_flush_denormal(True)

settings.register_profile("tombola", derandomize=True, deadline=None, max_examples=50)
settings.load_profile("tombola")


@pytest.fixture(scope="session", autouse=True)
def cache_of_its_own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What the engines measure is kept for this session, and not among the user's own caches."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture
def mnist_dir() -> Path:
    """The folder that TOMBOLA_DATA names, if the four files of MNIST are in it; otherwise the test is skipped."""
    named = os.environ.get("TOMBOLA_DATA")
    if not named:
        pytest.skip("TOMBOLA_DATA names no folder, and the tests download nothing")
    folder = Path(named)
    for name in FILES:
        if not any(
            (place / (name + suffix)).is_file() for place in (folder, folder / "mnist") for suffix in ("", ".gz")
        ):
            pytest.skip(f"TOMBOLA_DATA is {folder}, where {name} is neither found plain nor as .gz")
    return folder
