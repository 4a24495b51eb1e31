"""The kernels of sparse layers under sanitizers (kernels/sparse.c), each buffer just as large as it must be."""

import ctypes
import os
import random
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from tombola.sparse import kernels
from tombola.sparse.kernels import RUN, SEGMENT, ListStruct, MapStruct
from tombola.sparse.layout import Layout, abreast, layout
from tombola.sparse.pattern import Pattern

SEED, CASES = 1, 12  # of each instruction set and number type
SOURCE = Path(__file__).parent / "kernels" / "sparse.c"
Array = NDArray[Any]


def held(address: int | None, count: int, kind: Any) -> bytes:
    """The bytes of an array that a structure points to."""
    return ctypes.string_at(address, count * np.dtype(kind).itemsize) if address and count else b""


def numbers(*values: int) -> bytes:
    """As sparse.c reads them."""
    return np.array(values, np.int64).tobytes()


def map_bytes(one: MapStruct, width: int) -> bytes:
    """`map` of kernels.c with what it points to."""
    orders = -(-one.places // width)
    names = ("channels", "planes", "places", "n_gaps", "plane", "pitch", "first", "rows", "across")
    arrays = held(one.place, one.places, np.int32) + held(one.order, orders, np.uint8) + held(one.gaps, one.n_gaps, RUN)
    return numbers(*(getattr(one, name) for name in names), orders) + arrays


def list_bytes(one: ListStruct) -> bytes:
    """`list` of kernels.c with what it points to."""
    block = held(one.block, one.blocks + 1, np.int32)
    segments = int(np.frombuffer(block, np.int32)[-1])
    arrays = [held(one.segments, segments, SEGMENT), *(held(at, one.count, np.int32) for at in (one.offset, one.place))]
    return numbers(one.blocks, one.count, one.reach, segments) + block + b"".join(arrays)


def draw_case(draw: random.Random, one: kernels.Kernels) -> tuple[Layout, Pattern, tuple[int, ...]]:
    """A layer and the shape of its inputs."""
    while True:
        low, high = draw.choice([(1, 1), (1, 4)]), draw.choice([1, 3, 9])
        kwargs: dict[str, Any] = {
            "stride": (draw.randint(*low), draw.randint(1, 2)),
            "padding": (draw.randint(0, 2), draw.randint(0, 2)),
            "dilation": (draw.randint(1, 2), draw.randint(1, 2)),
            "groups": draw.choice([1, 1, 2]),
        }
        window = draw.choice([(1, 1), (3, 3), (2, 3)])
        weight = (draw.randint(1, high) * kwargs["groups"], draw.randint(1, 20), *window)
        density = draw.choice([0.0, 0.1, 0.5, 1.0])
        pattern = Pattern.of(torch.rand(weight) < density, **kwargs)
        size = draw.choice([(1, 1), (draw.randint(1, 6), draw.randint(1, 20))])
        examples = draw.choice([1, one.width, draw.randint(1, 3 * one.width), 9 * one.width])
        beside = abreast(pattern, size[1], examples, one.width)
        found = layout(pattern, size, beside, one, weight_last=False)
        if found is not None:
            return found, pattern, (examples, weight[1] * kwargs["groups"], *size)


def bits(mask: torch.Tensor) -> bytes:
    """A bit for each weight, 64 to a word."""
    flat = mask.flatten().tolist() + [False] * (-mask.numel() % 64)
    return numbers(
        *(
            sum(alive << place for place, alive in enumerate(flat[at : at + 63])) - (flat[at + 63] << 63)
            for at in range(0, len(flat), 64)
        )
    )


def wanted(pattern: Pattern, *given: torch.Tensor) -> list[torch.Tensor]:
    """Outputs and gradients of torch's own convolution, in float64."""
    x, weight, bias, dy = (one.double().requires_grad_() for one in given)
    rows, columns = pattern.padding[0][0], pattern.padding[1][0]
    y = nn.functional.conv2d(
        x, weight * pattern.mask, bias, pattern.stride, (rows, columns), pattern.dilation, pattern.groups
    )
    dx, dw, db = torch.autograd.grad(y, [x, weight, bias], dy.detach())
    return [y.detach(), dx, dw * pattern.mask, db]


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory, sanitized: list[str]) -> Path:
    """sparse.c with sanitizers."""
    compiler = shutil.which(os.environ.get("CC", "cc").split()[0])
    if not compiler or not kernels.sets():
        pytest.skip("no C compiler, or no kernels")
    found = tmp_path_factory.mktemp("sparse") / "sparse"
    nothing = found.with_suffix(".c")
    nothing.write_text("int main(void) { return 0; }\n", encoding="utf-8")
    trial = subprocess.run([compiler, *sanitized, "-o", str(found), str(nothing)], capture_output=True, text=True)
    if trial.returncode or subprocess.run([str(found)], capture_output=True).returncode:
        pytest.skip(f"no sanitizers with this compiler: {trial.stderr.strip()[-200:]}")
    done = subprocess.run(
        [compiler, *sanitized, "-o", str(found), str(SOURCE), "-lm"], capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr
    return found


@pytest.mark.parametrize("wide", [False, True])
@pytest.mark.parametrize("name", kernels.sets())
def test_random_layers_touch_no_byte_beside_their_buffers(name: str, wide: bool, program: Path, tmp_path: Path) -> None:
    torch.manual_seed(SEED)
    draw, one, dtype = random.Random(SEED), kernels.load(name, wide), torch.float64 if wide else torch.float32
    written, answers = [numbers(CASES)], []
    for _ in range(CASES):
        found, pattern, shape = draw_case(draw, one)
        struct, last = found.struct, draw.choice([0, 1])
        given = [torch.randn(size, dtype=dtype) for size in (shape, tuple(pattern.mask.shape), (len(pattern.mask),))]
        given.append(torch.randn(shape[0], len(pattern.mask), *found.size, dtype=dtype))
        written += [numbers(*one.instance, last, shape[0], pattern.mask.numel(), struct.abreast)]
        written += [map_bytes(struct.inputs, one.width), map_bytes(struct.outputs, one.width)]
        written += [list_bytes(struct.forward), list_bytes(struct.backward)]
        laid = [maps.permute(0, 2, 3, 1) if last and maps.dim() == 4 else maps for maps in given]
        written += [maps.contiguous().numpy().tobytes() for maps in (laid[0], given[1], laid[2], laid[3])]
        written += [bits(pattern.mask)]
        answers.append((bool(pattern.mask.all()), last, wanted(pattern, *given)))
    cases, results = tmp_path / "cases", tmp_path / "results"
    cases.write_bytes(b"".join(written))
    done = subprocess.run([str(program), str(cases), str(results)], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    near = 1e-9 if wide else 1e-3
    with results.open("rb") as came:
        for full, last, wants in answers:
            assert np.fromfile(came, np.int32, 2).tolist() == [1, int(full)]
            for number, want in enumerate(wants):
                flat = (want.permute(0, 2, 3, 1) if last and number < 2 else want).reshape(-1)
                got = np.fromfile(came, np.float64 if wide else np.float32, flat.numel())
                torch.testing.assert_close(torch.from_numpy(got).double(), flat, rtol=near, atol=near)
        assert not came.read()
