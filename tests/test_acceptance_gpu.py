"""The command for the day on which there is a GPU: every line of it is run here, on the CPU, with small sizes."""

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch

ROOT = Path(__file__).resolve().parents[1]
SECTIONS = ("tests", "stacks", "images", "precisions", "two-of-four", "torchrun", "scaler")


@pytest.fixture(scope="module")
def acceptance() -> Iterator[ModuleType]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT / "benchmarks")
        found = importlib.util.spec_from_file_location("acceptance_gpu", ROOT / "benchmarks" / "acceptance_gpu.py")
        assert found and found.loader
        module = importlib.util.module_from_spec(found)
        patch.setitem(sys.modules, "acceptance_gpu", module)
        found.loader.exec_module(module)
        yield module


def test_without_a_gpu_it_says_so(acceptance: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is one")
    threads = torch.get_num_threads()
    try:
        assert acceptance.main([]) == 2
    finally:
        torch.set_num_threads(threads)
    assert "no CUDA device" in capsys.readouterr().err


def test_it_ends_in_ten_minutes(acceptance: ModuleType) -> None:
    assert set(acceptance.SECTIONS) == set(SECTIONS)
    assert sum(limit for _, _, limit in acceptance.SECTIONS.values()) <= 570


@pytest.mark.parametrize("name", SECTIONS)
def test_each_section_runs_on_a_cpu(acceptance: ModuleType, name: str) -> None:
    paragraphs = acceptance.SECTIONS[name][1](acceptance.Setting("cpu", small=True))
    assert paragraphs and all(isinstance(each, str) and each for each in paragraphs)


def test_a_section_that_fails_or_hangs_leaves_the_others(
    acceptance: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In the place of the script one whose sections do so."""
    script = tmp_path / "acceptance.py"
    script.write_text(
        "import sys, time\n"
        "name = sys.argv[2]\n"
        "if name == 'hangs': time.sleep(60)\n"
        "if name == 'fails': sys.exit('Sorry.')\n"
        "print('Fine.')\n"
    )
    monkeypatch.setattr(acceptance, "__file__", str(script))
    monkeypatch.setattr(acceptance, "PAGE", tmp_path / "gpu.md")
    made = {name: (name.capitalize(), None, 1 if name == "hangs" else 60) for name in ("fails", "hangs", "works")}
    monkeypatch.setattr(acceptance, "SECTIONS", made)
    threads = torch.get_num_threads()
    try:
        assert acceptance.main(["--device", "cpu", "--write"]) == 1
    finally:
        torch.set_num_threads(threads)
    page = (tmp_path / "gpu.md").read_text()
    assert page in capsys.readouterr().out
    assert "**Failed** (1):\n\n```text\nSorry." in page and "**Stopped** after 1 s." in page and "Fine." in page
    assert "| Fails |" in page and "| Works |" in page
