"""Random inputs at every door: `python tests/fuzz/fuzz.py SEED DOOR=CASES ...`; each door is a function of this file.

A case is good if it is taken and right, or refused with the project's own error; it fails if anything else is raised,
if it takes more than `SECONDS`, or if it asks for more than `ROOM` beyond what the process had before. Its number is
printed, and `python tests/fuzz/fuzz.py NUMBER DOOR=1` does it again.
"""

import copy
import json
import random
import resource
import signal
import struct
import sys
import tempfile
import tomllib
import traceback
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save as write_tensors
from torch import Tensor, nn

from tombola import Search, Ticket, cash, data, files, mask, models, prunable, weights
from tombola.errors import BadInput, Diverged
from tombola.guard import Guard
from tombola.lab import presets
from tombola.lab.plan import plan
from tombola.lab.spec_file import read
from tombola.mask import Mask
from tombola.transfer import transfer

ROOM = 2**30  # bytes
SECONDS = 20

Random = random.Random


# ---------------------------------------------------------------- values that nobody expects


def strange(draw: Random) -> Any:
    """A value of JSON or TOML that is probably not what is meant."""
    return draw.choice(
        [
            0,
            1,
            -1,
            7,
            2**31,
            2**63 - 1,
            10**20,
            -(10**9),
            0.0,
            -0.5,
            0.3,
            1.5,
            1e30,
            True,
            False,
            "",
            "x",
            "0it",
            "3ep",
            "99999999999it",
            "lenet-99999-99999",
            "mnist",
            "digits-100",
            "*",
            "../..",
            "\x00",
            "é" * 50,
            [],
            [0],
            [30_000, 60_000],
            [10**9, 10**9],
            [-1, 4],
            ["ticket", "ticket"],
            {},
            {"name": "sgd"},
            {"name": "adam", "lr": -1},
            {"x": [1, {"y": None}]},
        ]
    )


def leaves(tree: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The paths of all entries of nested mappings and lists."""
    parts = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    return [*([path] if path else []), *(place for key, part in parts for place in leaves(part, (*path, key)))]


def changed(tree: Any, draw: Random) -> Any:
    """The tree with one or two entries replaced, removed, renamed or added."""
    tree = json.loads(json.dumps(tree))
    for _ in range(draw.choice([1, 1, 2])):
        places = leaves(tree)
        if not places:
            return strange(draw)
        *parents, last = draw.choice(places)
        holder = tree
        for key in parents:
            holder = holder[key]
        action = draw.choice(["replace", "replace", "replace", "remove", "rename", "scale"])
        if action == "remove":
            del holder[last]
        elif action == "rename" and isinstance(holder, dict):
            holder[draw.choice(["x", str(last) + "s", ""])] = holder.pop(last)
        elif action == "scale" and isinstance(holder[last], int | float):
            holder[last] = holder[last] * draw.choice([0, -1, 2, 1000, 10**9])
        else:
            holder[last] = strange(draw)
    return tree


# ---------------------------------------------------------------- files


def damaged(content: bytes, draw: Random) -> bytes:
    """A safetensors file with wrong bytes, a wrong length, or a header that says something else."""
    action = draw.choice(["flip", "cut", "more", "header", "header", "header", "noise"])
    if action == "flip":
        wrong = bytearray(content)
        for _ in range(draw.choice([1, 3, 20])):
            wrong[draw.randrange(len(wrong))] ^= 1 << draw.randrange(8)
        return bytes(wrong)
    if action == "cut":
        return content[: draw.randrange(len(content))]
    if action == "more":
        return content + draw.randbytes(draw.choice([1, 8, 4096]))
    if action == "noise":
        return draw.randbytes(draw.choice([0, 1, 8, 9, 300]))
    end = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:end])
    metadata = header.get("__metadata__", {})
    inner = next((key for key in ("tombola", "tombola-search", *metadata) if key in metadata), None)
    if inner and draw.random() < 0.8:
        said = json.loads(metadata[inner])
        said = changed(said, draw)
        if isinstance(said, dict) and "digest" in said and draw.random() < 0.9:
            said["digest"] = files.ZEROS
        metadata[inner] = json.dumps(said)
    else:
        header = changed(header, draw)
    text = json.dumps(header).encode()
    whole = struct.pack("<Q", len(text)) + text + content[end:]
    return files.sealed(whole) if files.ZEROS.encode() in whole else whole


def small() -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3))
    return model, torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)


def tickets(draw: Random, folder: Path) -> None:
    """`Ticket.load` of a damaged file."""
    model = models.build("lenet-9-5", (1, 4, 4), 3, "glorot-normal", init_seed=1)
    alive = Mask({name: torch.rand(each.shape) < 0.5 for name, each in prunable.full(model).items()})
    ticket = Ticket.of(model, alive, weights.of(model), {"model": "lenet-9-5", "versions": {"torch": "2"}})
    ticket.save(path := folder / "ticket.safetensors")
    path.write_bytes(damaged(path.read_bytes(), draw))
    loaded = Ticket.load(path)
    assert repr(loaded) and 0 <= loaded.mask.density <= 1
    loaded.apply(model)


def searches(draw: Random, folder: Path) -> None:
    """`Search.resume` of a damaged file."""
    path = folder / "search.safetensors"
    model, optimizer = small()
    for level in Search(model, optimizer, levels=2, rewind="1it", path=path):
        for _ in range(3):
            optimizer.zero_grad()
            model(torch.ones(4, 6)).square().mean().backward()
            optimizer.step()
        level.report(accuracy=0.5)
        if level.number == 1:
            break
    path.write_bytes(damaged(path.read_bytes(), draw))
    again = Search.resume(path, *small())
    assert 0 <= again.left <= 3
    again.mask(0)


def weight_files(draw: Random, folder: Path) -> None:
    """`cash.from_safetensors` of a damaged file."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(60, 50), nn.ReLU(), nn.Linear(50, 3))  # so large that zeros are left out
    half = {"0.weight": torch.rand(50, 60) < 0.1, "2.weight": torch.rand(3, 50) < 0.5}
    weights.put(model, mask.apply(weights.of(model), Mask(half)))
    cash.to_safetensors(model, path := folder / "weights.safetensors")
    path.write_bytes(damaged(path.read_bytes(), draw))
    made = cash.from_safetensors(model, path)
    # A file may be that of a smaller or larger model of the class, which reads other inputs.
    if all(each.shape == model.state_dict()[name].shape for name, each in made.state_dict().items()):
        made(torch.ones(2, 60))


def foreign_files(draw: Random, folder: Path) -> None:
    """Safetensors files of something else, at all three doors."""
    tensors = {
        draw.choice(["", "weight", "mask/0.weight", "weights/0.weight", "0.weight", "0.weight.flags"]): torch.zeros(
            draw.choice([(), (0,), (3,), (5, 6), (1, 1, 1)]),
            dtype=draw.choice([torch.float32, torch.uint8, torch.bool, torch.int64]),
        )
    }
    key = draw.choice(["tombola", "tombola-search", "format", "x"])
    said = draw.choice(["", "{}", "[]", "null", json.dumps(strange(draw)), '{"format": 2}'])
    path = folder / "file.safetensors"
    path.write_bytes(write_tensors(tensors, metadata={key: said}))
    model, optimizer = small()
    door: Callable[[], Any] = draw.choice(
        [
            lambda: Ticket.load(path),
            lambda: Search.resume(path, model, optimizer),
            lambda: cash.from_safetensors(model, path),
        ]
    )
    door()


# ---------------------------------------------------------------- specs


def toml(value: Any) -> str:
    if isinstance(value, dict):
        return (
            "{"
            + ", ".join(f"{json.dumps(key)} = {toml(each)}" for key, each in value.items() if each is not None)
            + "}"
        )
    if isinstance(value, list):
        return "[" + ", ".join(toml(each) for each in value if each is not None) + "]"
    return json.dumps(value)


def specs(draw: Random, folder: Path) -> None:
    """`read` of a preset with something wrong in it, and the plan of what is taken."""
    name = draw.choice(["digits", "lenet-mnist", "vgg11-cifar10-studies-quick", "gpt-shakespeare-quick", "bert-sst2"])
    table = changed(tomllib.loads(presets.text(name)), draw)
    if not isinstance(table, dict):
        return
    path = folder / "spec.toml"
    path.write_text("\n".join(f"{json.dumps(key)} = {toml(value)}" for key, value in table.items()), encoding="utf-8")
    spec = (experiment := read(str(path))).spec
    draws = len(spec.arms) * max(spec.reinits, spec.randoms) + 1
    if (
        spec.replicates * (spec.levels + 1) * len(spec.rewind) * draws < 20_000
    ):  # a million are allowed, and take minutes
        plan(experiment)


# ---------------------------------------------------------------- data


def png(width: int, height: int, rows: bytes) -> bytes:
    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def pictures(draw: Random, folder: Path) -> None:
    """A folder of photographs of which some are damaged, huge, or not what their names say."""
    size = (8, 8)
    for part in ("train", "val"):
        for label in ("a", "b"):
            (place := folder / part / label).mkdir(parents=True)
            for number in range(8 if part == "train" else 2):
                rows = b"".join(b"\x00" + draw.randbytes(3 * size[0]) for _ in range(size[1]))
                (place / f"{number}.png").write_bytes(png(*size, rows))
    victim = draw.choice(sorted(folder.rglob("*.png")))
    content = victim.read_bytes()
    action = draw.choice(["bomb", "flip", "cut", "name", "empty", "folder", "short"])
    if action == "bomb":
        side = draw.choice([30_000, 60_000, 2**31 - 1])
        victim.write_bytes(png(side, side, b"\x00" * 10_000))
    elif action == "short":
        victim.write_bytes(png(9, 9, b"\x00" * 10))
    elif action == "flip":
        wrong = bytearray(content)
        wrong[draw.randrange(len(wrong))] ^= 1 << draw.randrange(8)
        victim.write_bytes(bytes(wrong))
    elif action == "cut":
        victim.write_bytes(content[: draw.randrange(len(content))])
    elif action == "empty":
        victim.write_bytes(b"")
    elif action == "folder":
        victim.unlink()
        victim.mkdir()
    else:
        victim.rename(victim.with_suffix(draw.choice([".jpg", ".txt", ".PNG", ".jfif", ""])))
    dataset = data.load(f"folder:{folder}@8")
    images: Any = dataset.images
    found = images.index_select(0, torch.arange(len(images)))
    assert found.shape[1:] == (3, 8, 8) and torch.isfinite(dataset.inputs(found)).all()


def digit_files(draw: Random, folder: Path) -> None:
    """MNIST's files with something else in them: all of it is refused, as none has the right sum."""
    import gzip

    for name in data.mnist.FILES:
        bomb = draw.random() < 0.1
        content = b"\0" * 2**28 if bomb else struct.pack(">IIII", 2051, draw.choice([0, 10, 2**31]), 28, 28)
        content += b"" if bomb else draw.randbytes(200)
        packed = draw.random() < 0.5 or bomb
        (folder / (name + (".gz" if packed else ""))).write_bytes(gzip.compress(content, 1) if packed else content)
    try:
        data.load("mnist", folder)
    except BadInput:
        return
    raise AssertionError("expected files with other sums to be refused")


# ---------------------------------------------------------------- masks against models


def shared_memory(draw: Random) -> nn.Module:
    first, last = nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False)
    action = draw.choice(["tied", "same memory", "transposed", "apart"])
    if action == "tied":
        last.weight = first.weight
    elif action == "same memory":
        last.weight.data = first.weight.data
    elif action == "transposed":
        last.weight = nn.Parameter(first.weight.detach().t())
    return nn.Sequential(first, nn.Tanh(), last)


def masks(draw: Random, folder: Path) -> None:
    """A mask at each door of a model: taken at all of them where it is right, at none where it is not."""
    torch.manual_seed(draw.randrange(2**31))
    models_of: list[tuple[nn.Module, Tensor]] = [
        (nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3)), torch.randn(4, 6)),
        (
            nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(12, 2)),
            torch.randn(4, 2, 4, 4),
        ),
        (nn.Sequential(nn.Embedding(7, 4), nn.Linear(4, 7, bias=False)), torch.randint(7, (4, 3))),
        (shared_memory(draw), torch.randn(4, 4)),
    ]
    model, example = draw.choice(models_of)
    try:
        full = prunable.full(model)
    except BadInput:
        return  # two parameters over one memory, laid out otherwise: no door takes any mask of it
    alive = {name: torch.rand(each.shape) < 0.5 for name, each in full.items()}
    action = draw.choice(["right", "right", "part", "unknown", "shape", "rank", "broadcast", "prefix", "bias"])
    name = draw.choice(list(alive))
    shape = tuple(alive[name].shape)
    if action == "part" and len(alive) > 1:
        del alive[name]
    elif action == "unknown":
        alive["nothing.weight"] = torch.ones(2, 2, dtype=torch.bool)
    elif action == "shape":
        alive[name] = torch.ones(shape[0] + 1, *shape[1:], dtype=torch.bool)
    elif action == "rank":
        alive[name] = torch.ones(1, *shape, dtype=torch.bool)
    elif action == "broadcast":
        alive[name] = torch.ones(1, *shape[1:], dtype=torch.bool)
    elif action == "prefix":
        alive = {f"module.{key}": value for key, value in alive.items()}
    elif action == "bias":
        alive["2.bias"] = torch.ones(9, dtype=torch.bool)
    right = action in ("right", "part") or (action == "broadcast" and shape[0] == 1)
    chosen = Mask(alive)
    start = weights.of(model)

    def through_ticket() -> dict[str, Tensor]:
        return dict(Ticket.of(model, chosen, start).weights)

    def through_guard() -> dict[str, Tensor]:
        Guard(model, torch.optim.SGD(model.parameters(), lr=0.1), chosen).release()
        return weights.of(model)

    def through_transfer() -> dict[str, Tensor]:
        other = copy.deepcopy(model)
        found = transfer(chosen, mask.apply(start, chosen), other, "matching")
        assert all(torch.equal(found.mask[key], each) for key, each in chosen.items())
        return weights.of(other)

    def through_compacted() -> dict[str, Tensor]:
        cash.compact(model, chosen, example)
        return mask.apply(start, chosen)

    for door in (through_ticket, through_guard, through_transfer, through_compacted):
        try:
            found = door()
        except BadInput:
            assert not right, f"{door.__name__} refuses a mask of the model ({action})"
            continue
        assert right, f"{door.__name__} takes a mask of another model ({action})"
        assert all(not bool(found[key][~each].any()) for key, each in chosen.items())


# ---------------------------------------------------------------- optimisers against the guard


def optimisers(draw: Random, folder: Path) -> None:
    """Random optimisers with random options: pruned is 0 after each step, the living go as if masked by hand."""
    kind = draw.choice(
        ["SGD", "Adam", "AdamW", "NAdam", "RAdam", "Adamax", "Adagrad", "Adadelta", "ASGD", "RMSprop", "Rprop"]
    )
    options: dict[str, Any] = {"lr": draw.choice([1e-3, 0.05])}
    if draw.random() < 0.5 and kind != "Rprop":
        options["weight_decay"] = draw.choice([1e-4, 0.1])
    if kind in ("SGD", "RMSprop") and draw.random() < 0.6:
        options["momentum"] = 0.9
    if kind == "SGD" and options.get("momentum") and draw.random() < 0.5:
        options["nesterov"] = True
    if kind in ("Adam", "AdamW") and draw.random() < 0.3:
        options["amsgrad"] = True
    if draw.random() < 0.3:
        options["foreach"] = draw.random() < 0.5
    if draw.random() < 0.2:
        options["maximize"] = True
    seed, kept = draw.randrange(2**31), draw.choice([0.0, 0.3, 0.7, 1.0])
    before, steps = draw.randrange(3), draw.randrange(1, 5)
    dtype = draw.choice([torch.float64, torch.float32])

    def made() -> tuple[nn.Module, torch.optim.Optimizer, Tensor]:
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 2)).to(dtype)
        return model, getattr(torch.optim, kind)(model.parameters(), **options), torch.randn(6, 5, dtype=dtype)

    def step(model: nn.Module, optimizer: torch.optim.Optimizer, inputs: Tensor, dead: dict[str, Tensor]) -> None:
        optimizer.zero_grad()
        model(inputs).square().sum().backward()
        for name, each in dead.items():
            gradient = model.get_parameter(name).grad
            assert gradient is not None
            gradient[each] = 0
        optimizer.step()
        clear(model, optimizer, dead)

    def clear(model: nn.Module, optimizer: torch.optim.Optimizer, dead: dict[str, Tensor]) -> None:
        for name, each in dead.items():
            parameter = model.get_parameter(name)
            with torch.no_grad():
                parameter[each] = 0
            for value in optimizer.state.get(parameter, {}).values():
                if isinstance(value, Tensor) and value.shape == parameter.shape:
                    value[each] = 0

    model, optimizer, inputs = made()
    twin, by_hand, _ = made()
    torch.manual_seed(seed)
    alive = Mask({name: torch.rand(each.shape) < kept for name, each in prunable.full(model).items()})
    dead = {name: ~each for name, each in alive.items()}
    for _ in range(before):  # gathers what the pruning must not leave behind
        step(model, optimizer, inputs, {})
        step(twin, by_hand, inputs, {})
    guard = Guard(model, optimizer, alive)
    clear(twin, by_hand, dead)
    for _ in range(steps):
        step(model, optimizer, inputs, {})
        step(twin, by_hand, inputs, dead)
        try:
            guard.check()
        except Diverged:
            return
        for name, parameter in model.named_parameters():
            assert torch.equal(parameter, twin.get_parameter(name)), f"{kind} {options}: {name}"
    guard.release()


# ---------------------------------------------------------------- one case, and many

DOORS = {
    "tickets": tickets,
    "searches": searches,
    "weight-files": weight_files,
    "foreign-files": foreign_files,
    "specs": specs,
    "pictures": pictures,
    "digit-files": digit_files,
    "masks": masks,
    "optimisers": optimisers,
}


def late(*_: Any) -> None:
    raise TimeoutError(f"more than {SECONDS} s")


def bounded() -> None:
    """From here on the process may ask for no more than `ROOM`."""
    pages = int(Path("/proc/self/statm").read_text().split()[0]) if Path("/proc/self/statm").exists() else None
    if pages:
        _, most = resource.getrlimit(resource.RLIMIT_AS)
        resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + ROOM, most))


def tried(door: str, seed: int, cases: int) -> int:
    """How many of the cases at one door fail."""
    bounded()
    taken = failed = 0
    for number in range(seed, seed + cases):
        with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            signal.setitimer(signal.ITIMER_PROF, SECONDS)  # of the processor: whoever else is at work does not count
            try:
                DOORS[door](Random(number), Path(folder))
                taken += 1
            except BadInput as refusal:
                if len(str(refusal)) > 3000:
                    failed += 1
                    print(f"{door} {number}: a message of {len(str(refusal)):,} characters")
            except Exception:
                failed += 1
                print(f"{door} {number}: {traceback.format_exc(limit=-4)}")
            finally:
                signal.setitimer(signal.ITIMER_PROF, 0)
    print(f"{door}: {cases} cases, {taken} taken, {cases - taken - failed} refused, {failed} failed", flush=True)
    return failed


def main(seed: int, counts: dict[str, int]) -> int:
    torch.set_num_threads(1)
    signal.signal(signal.SIGPROF, late)
    return 1 if sum([tried(door, seed, cases) for door, cases in counts.items()]) else 0


if __name__ == "__main__":
    pairs = (each.split("=") for each in sys.argv[2:])
    raise SystemExit(main(int(sys.argv[1]), {door: int(cases) for door, cases in pairs}))
