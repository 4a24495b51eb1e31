"""One thread, no denormals, the same examples every time; and the folder with MNIST, where there is one."""

import os
from pathlib import Path

import pytest
import torch
from hypothesis import settings

from tombola.data.mnist import FILES

torch.set_num_threads(1)
torch.set_flush_denormal(True)

settings.register_profile("tombola", derandomize=True, deadline=None, max_examples=50)
settings.load_profile("tombola")


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
