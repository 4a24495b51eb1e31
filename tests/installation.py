"""Tries an installation of Tombola from a wheel or a source distribution, away from the checkout that this file is in.

    python tests/installation.py --kernels yes

The gate and the building of wheels run it. It ends with an AssertionError at what is wrong.
"""

import argparse
import subprocess
import sys
import tempfile
from importlib.metadata import files
from pathlib import Path, PurePosixPath

import tombola
from tombola import engine, sparse

CHECKOUT = Path(__file__).resolve().parent.parent
TINY = ["replicates=2", "levels=1", 'arms=["ticket"]', "recipe.length=20it"]
COMPILED_FROM = (".c", ".h", ".so")


def in_checkout() -> set[str]:
    """What an installation has of the package: all but what kernels are compiled from, and with."""
    tree = (path for path in (CHECKOUT / "tombola").rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return {path.relative_to(CHECKOUT).as_posix() for path in tree if path.suffix not in COMPILED_FROM}


def installed() -> set[str]:
    """What there is of the package."""
    paths = (PurePosixPath(path) for path in files("tombola") or [])
    return {str(path) for path in paths if path.parts[0] == "tombola" and path.suffix != ".pyc"}


def command(*words: str, folder: str) -> str:
    """What `tombola` prints, typed in a folder."""
    program = Path(sys.executable).parent / "tombola"
    done = subprocess.run([program, *words], cwd=folder, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, f"tombola {' '.join(words)}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def main(kernels: bool) -> None:
    """Look at the files, then use the command.

    Args:
        kernels: whether they were compiled.
    """
    assert CHECKOUT not in Path(tombola.__file__).resolve().parents[:2], "this is the checkout, and no installation"
    compiled = {f"tombola/{room}/_kernels.so" for room in ("engine", "sparse")} if kernels else set()
    wanted, found = in_checkout() | compiled, installed()
    assert found == wanted, f"missing: {sorted(wanted - found)}; of no use: {sorted(found - wanted)}"
    assert bool(engine.kernels.sets()) == bool(sparse.kernels.sets()) == kernels

    with tempfile.TemporaryDirectory() as folder:
        settings = [word for setting in TINY for word in ("--set", setting)]
        assert "digits-lenet" in command("presets", folder=folder)
        assert ("the kernels were not compiled" in command("plan", "digits", folder=folder)) == (not kernels)
        command("run", "digits", *settings, "--store", "store", folder=folder)
        (report,) = Path(folder).glob("store/reports/*/report.html")
        assert report.stat().st_size
    print(f"{tombola.__file__}: {len(found)} files, {'with' if kernels else 'without'} kernels; `digits` was run.")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--kernels", choices=["yes", "no"], required=True, help="whether there must be kernels")
    main(parser.parse_args().kernels == "yes")
