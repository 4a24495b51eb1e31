"""The compiled kernels: against plain loops under sanitizers (kernels/fuzz.c), and what Python asks of them."""

import subprocess
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from tombola.engine import kernels

SEED, CASES = 1, 60
DTYPES = (np.float32, np.float64)
needs_kernels = pytest.mark.skipif(not kernels.sets(), reason="no compiled kernels here")


def instances() -> list[Any]:
    """Every instance of the kernels, as a parameter."""
    return [pytest.param(name, kind, id=f"{name}-{kind.__name__}") for name in kernels.sets() for kind in DTYPES]


def run(*command: str | Path) -> subprocess.CompletedProcess[str]:
    """Runs a command and keeps what it prints."""
    return subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=600)


def test_random_networks_against_plain_loops(
    tmp_path: Path, fuzzer: tuple[Path, "subprocess.Popen[str]"] | None
) -> None:
    """All instruction sets of this processor, float and double: no byte beside a buffer, and the same weights."""
    if fuzzer is None:
        pytest.skip("no C compiler")
    program, compiler = fuzzer
    command = [str(part) for part in list(compiler.args)[:-4]]  # type: ignore[arg-type]
    nothing = tmp_path / "nothing.c"
    nothing.write_text("int main(void) { return 0; }\n", encoding="utf-8")
    trial = run(*command, "-o", tmp_path / "nothing", nothing)
    if trial.returncode or run(tmp_path / "nothing").returncode:
        pytest.skip(f"no sanitizers with this compiler: {trial.stderr.strip()[-200:]}")
    _, printed = compiler.communicate(timeout=600)
    assert compiler.returncode == 0, printed
    done = run(program, str(SEED), str(CASES))
    assert done.returncode == 0, done.stdout + done.stderr
    assert int(done.stdout.split()[0]) >= 2 * CASES


@needs_kernels
def test_sets_are_in_order_and_begin_with_the_portable_one() -> None:
    assert kernels.sets() == kernels.SETS[: len(kernels.sets())]


@needs_kernels
@pytest.mark.parametrize(("name", "kind"), instances())
def test_a_vector_is_as_wide_as_its_instruction_set(name: str, kind: type) -> None:
    one = kernels.load(name, kind)
    size = {"portable": 16, "avx2": 32, "avx512": 64}[name]
    assert one.width == size // np.dtype(kind).itemsize
    assert one.panel == 4 * one.width


def images_of(data: st.DataObject) -> NDArray[np.uint8]:
    """A few images of any number of pixels, multiples of 16 and their neighbours among them."""
    pixels = data.draw(st.one_of(st.integers(1, 70), st.sampled_from([15, 16, 17, 31, 32, 33, 47, 48, 49])))
    seed = data.draw(st.integers(0, 2**32 - 1))
    return np.random.default_rng(seed).integers(0, 256, (data.draw(st.integers(1, 9)), pixels), np.uint8)


@needs_kernels
@pytest.mark.parametrize("name", kernels.sets())
@given(data=st.data())
def test_packed_images_are_the_images_without_what_none_of_them_has(name: str, data: st.DataObject) -> None:
    one, images = kernels.load(name), images_of(data)
    count, pixels = images.shape
    random = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    images[:, random.random(pixels) < data.draw(st.sampled_from([0, 0.3, 0.9, 1]))] = 0
    inputs = np.flatnonzero(random.random(pixels) < 0.8).astype(np.int32)
    drawn = data.draw(st.lists(st.integers(0, count - 1), min_size=1, max_size=one.panel))
    held = np.zeros((pixels, one.panel), np.uint8)
    network = kernels.NetworkStruct(inputs=len(inputs), pixels=pixels, pixel=inputs.ctypes.data, bytes=held.ctypes.data)

    position, used, words = one.packed(network, images.ctypes.data, np.array(drawn, np.int64))

    assert used.tolist() == np.flatnonzero(images[drawn][:, inputs].any(axis=0)).tolist()
    assert np.flatnonzero(position >= 0).tolist() == used.tolist()
    assert position[used].tolist() == list(range(len(used)))
    halves = np.stack([words & np.uint32(0xFFFF0000), words << np.uint32(16)], axis=2).view(np.float32)
    lanes = [*drawn, *[drawn[-1]] * (one.panel - len(drawn))]
    assert np.array_equal(halves.reshape(len(used), one.panel), images[lanes][:, inputs[used]].T)


def arranged(alive: NDArray[np.bool_], tile: int) -> tuple[NDArray[Any], NDArray[np.int32], NDArray[np.int32]]:
    """The rows and columns of living weights, tile by tile and row by row, and the runs of one row in one tile."""
    row, column = np.nonzero(alive)
    order = np.lexsort((column, row, column // tile))
    row, column = row[order], column[order]
    new = [k for k in range(len(row)) if not k or (row[k], column[k] // tile) != (row[k - 1], column[k - 1] // tile)]
    segments = np.zeros(len(new), kernels.SEGMENT)
    segments["row"], segments["begin"], segments["end"] = row[new], new, [*new[1:], len(row)][: len(new)]
    return segments, row.astype(np.int32), column.astype(np.int32)


@needs_kernels
@given(data=st.data())
def test_sifted_keeps_each_weight_that_meets_a_column_once(data: st.DataObject) -> None:
    rows, columns = data.draw(st.integers(1, 8)), data.draw(st.integers(1, 40))
    tile = data.draw(st.integers(1, columns + 3))
    random = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    alive = random.random((rows, columns)) < data.draw(st.sampled_from([0, 0.1, 0.5, 1]))
    used = random.random(columns) < data.draw(st.sampled_from([0, 0.3, 0.8, 1]))
    position = np.where(used, np.cumsum(used) - 1, -1).astype(np.int32)
    segments, row, column = arranged(alive, tile)

    layer = kernels.LayerStruct(outputs=rows, count=len(column), n_segments=len(segments))
    layer.column, layer.segments = column.ctypes.data, segments.ctypes.data

    left, place, new = kernels.load("portable").sifted(layer, position)

    assert sorted(place.tolist()) == np.flatnonzero(position[column] >= 0).tolist()
    assert new.tolist() == position[column[place]].tolist()
    edges = [0, *left["end"].tolist()]
    assert left["begin"].tolist() == edges[:-1] and edges[-1] == len(place)
    assert sorted(left["row"].tolist()) == list(range(rows)), "a segment for every row"
    assert np.diff(edges).tolist() == sorted(np.diff(edges).tolist()), "by length"
    for of_one, (begin, end) in zip(left["row"].tolist(), pairwise(edges), strict=True):
        assert set(row[place[begin:end]].tolist()) <= {of_one} and (np.diff(new[begin:end]) > 0).all()


@given(
    shape=st.one_of(st.integers(0, 100), st.tuples(st.integers(0, 9), st.integers(0, 9), st.integers(1, 9))),
    kind=st.sampled_from([np.float32, np.float64, np.int32, np.uint8]),
)
def test_aligned_arrays_are_zeros_at_the_start_of_a_vector(shape: int | tuple[int, ...], kind: type) -> None:
    array = kernels.aligned(shape, kind)
    if array.size:  # numpy gives an empty array any address
        assert array.ctypes.data % kernels.ALIGNMENT == 0
    assert array.shape == (shape if isinstance(shape, tuple) else (shape,)) and array.dtype == kind
    assert not array.any() and array.flags.c_contiguous and array.flags.writeable
