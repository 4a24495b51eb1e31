"""A ticket and its file: nothing but mask and early weights, loaded without executing anything."""

import io
import json
import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save
from torch import Tensor, nn

from tombola import files, mask, mask_codec, models, prunable, prune, score, ticket, weights
from tombola.engine.data_parallel.crew import leave
from tombola.errors import BadInput
from tombola.guard import Guard
from tombola.mask import Mask
from tombola.ticket import Seed, Ticket

LENET = Seed("lenet-300-100", (1, 28, 28), 10, "glorot-normal", 3)


def network() -> nn.Sequential:
    return nn.Sequential(nn.Linear(9, 7), nn.BatchNorm1d(7), nn.ReLU(), nn.Linear(7, 3))


class Tied(nn.Module):
    """A language model in small: what reads the words also writes them."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(11, 6)
        self.inner = nn.Linear(6, 6)
        self.head = nn.Linear(6, 11, bias=False)
        self.head.weight = self.words.weight

    def forward(self, x: Tensor) -> Tensor:
        made: Tensor = self.head(self.inner(self.words(x)))
        return made


def pruned(net: nn.Module, rate: float = 0.7, **origin: Any) -> Ticket:
    start = weights.of(net)
    full = prunable.full(net)
    alive = prune.globally(score.magnitude(score.Scored.of(net, full)), full, rate)
    return Ticket.of(net, alive, start, origin)


@pytest.fixture
def made() -> Ticket:
    return pruned(network(), model="mine", rewind="0it", key="train-1")


def lenet(rounds: int = 15) -> Ticket:
    """The ticket of LeNet's initial weights after 15 rounds of 20 %, 10 % in the last layer: 3.6 % of the weights."""
    start = LENET.weights()
    alive = Mask(
        {name: torch.ones_like(start[name], dtype=torch.bool) for name in ("fc1.weight", "fc2.weight", "output.weight")}
    )
    rates = {"fc1.weight": 0.2, "fc2.weight": 0.2, "output.weight": 0.1}
    for _ in range(rounds):
        alive = prune.by_layer(score.magnitude(score.Scored(nn.Module(), start, alive)), alive, rates)
    return Ticket(alive, mask.apply(start, alive), {"model": LENET.model}, LENET)


def same(left: Ticket, right: Ticket) -> bool:
    """Bit for bit, the sign of 0 and NaNs too, in the same order, with the same ties."""
    return (
        left.mask == right.mask
        and list(left.weights) == list(right.weights)
        and all(alike(left.weights[name], right.weights[name]) for name in left.weights)
        and ties(left) == ties(right)
        and (left.origin, left.seed) == (right.origin, right.seed)
    )


def alike(left: Tensor, right: Tensor) -> bool:
    def raw(value: Tensor) -> bytes:
        return value.clone(memory_format=torch.contiguous_format).view(-1).view(torch.uint8).numpy().tobytes()

    return (left.dtype, left.shape, raw(left)) == (right.dtype, right.shape, raw(right))


def ties(made: Ticket) -> list[tuple[str, str]]:
    items = [(name, value) for name, value in made.weights.items() if value.numel()]
    return [(a, b) for a, left in items for b, right in items if a < b and left.data_ptr() == right.data_ptr()]


# ---------------------------------------------------------------- what is saved is what is loaded

DTYPES = [torch.float32, torch.float16, torch.bfloat16, torch.float64]
NAMES = st.text('abc._é"\\', min_size=1, max_size=6)
SHAPES = st.lists(st.integers(0, 9), max_size=3).map(tuple)


@st.composite
def tickets(draw: st.DrawFn) -> Ticket:
    """Any mask over any weights: of all dtypes, scalars and empty tensors, strided, tied; and others beside them."""
    full: dict[str, Tensor] = {}
    alive: dict[str, Tensor] = {}
    for name in draw(st.lists(NAMES, unique=True, max_size=5)):
        random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
        shape, dtype = draw(SHAPES), draw(st.sampled_from([*DTYPES, torch.int64, torch.bool]))
        numbers = np.asarray(3 * random.standard_normal(shape))
        numbers.flat[:1] = (
            draw(st.sampled_from([1.0, -0.0, float("inf"), float("nan")])) if dtype.is_floating_point else 1
        )
        value = torch.from_numpy(numbers).to(dtype)
        if draw(st.booleans()):
            value = value.movedim(0, -1) if value.ndim else value
        if value.is_floating_point() and draw(st.booleans()):
            density = draw(st.sampled_from([0.0, 0.02, 0.5, 1.0]))
            alive[name] = torch.from_numpy(np.asarray(random.random(value.shape) < density))
            value = value.masked_fill(~alive[name], 0)
        full[name] = value
        if draw(st.booleans()):
            full.setdefault(f"{name}.tied", value)
    origin = draw(st.dictionaries(st.text(max_size=4), st.sampled_from([0, 1.5, "0" * 64, "é", None, [1, {"a": 2}]])))
    return Ticket(Mask(alive), full, origin)


@given(tickets())
def test_what_is_saved_is_loaded_bit_for_bit(tmp_path_factory: pytest.TempPathFactory, made: Ticket) -> None:
    one, two = (tmp_path_factory.getbasetemp() / name for name in ("one", "two"))
    made.save(one)
    loaded = Ticket.load(one)
    assert same(loaded, made)
    loaded.save(two)
    assert one.read_bytes() == two.read_bytes()


def test_a_header_of_any_length_is_no_pickle(tmp_path: Path) -> None:
    """The first byte of a file is the low one of its header's length: 128 in one of 32 files, as in a pickle."""
    for extra in range(0, 256, 8):
        Ticket(Mask({}), {"w": torch.ones(1)}, {"extra": "x" * extra}).save(tmp_path / "t")
        assert Ticket.load(tmp_path / "t").origin == {"extra": "x" * extra}


def test_the_order_of_masks_is_kept_as_ties_go_by_it(tmp_path: Path) -> None:  # C19
    full = {name: torch.ones(2) for name in ("b", "a", "c.10", "c.9")}
    alive = Mask({name: torch.tensor([True, False]) for name in full})
    Ticket(alive, mask.apply(full, alive)).save(tmp_path / "t")
    assert list(Ticket.load(tmp_path / "t").mask) == ["b", "a", "c.10", "c.9"]


def test_the_same_ticket_is_the_same_bytes_and_nothing_else_is_left(made: Ticket, tmp_path: Path) -> None:  # S2
    for name in ("a", "b"):
        made.save(tmp_path / name)
    replace(made, origin=dict(reversed(list(made.origin.items())))).save(tmp_path / "c")
    assert len({(tmp_path / name).read_bytes() for name in ("a", "b", "c")}) == 1
    assert {path.name for path in tmp_path.iterdir()} == {"a", "b", "c"}


def test_an_alive_weight_that_is_0_stays_alive(tmp_path: Path) -> None:  # C8 C14
    alive = Mask({"weight": torch.tensor([[True, True, False]])})
    Ticket(alive, {"weight": torch.tensor([[0.0, 1.0, 0.0]])}, {}).save(tmp_path / "t")
    assert Ticket.load(tmp_path / "t").mask == alive


def test_tied_weights_are_stored_once_and_masked_under_both_names(tmp_path: Path) -> None:  # P7
    made = pruned(Tied())
    assert ties(made) == [("head.weight", "words.weight")] and list(made.mask) == ["words.weight", "inner.weight"]
    assert bool((made.weights["head.weight"][~made.mask["words.weight"]] == 0).all())
    made.save(tmp_path / "tied")
    replace(made, weights={name: value.clone() for name, value in made.weights.items()}).save(tmp_path / "twice")
    assert (tmp_path / "twice").stat().st_size - (tmp_path / "tied").stat().st_size > 4 * 11 * 6
    again = Tied()
    Ticket.load(tmp_path / "tied").apply(again)
    assert weights.equal(weights.of(again), made.weights)


def test_a_ticket_of_3_6_percent_takes_a_fifteenth_of_the_dense_weights(tmp_path: Path) -> None:
    made = lenet()
    made.save(tmp_path / "t")
    made.save(tmp_path / "seed", as_seed=True)
    dense = sum(value.numel() * value.element_size() for value in made.weights.values())
    assert made.mask.density == pytest.approx(0.036, abs=5e-4)
    assert (tmp_path / "t").stat().st_size < dense / 20
    assert (tmp_path / "seed").stat().st_size < dense / 90


# ---------------------------------------------------------------- the seed in place of the weights


def test_a_seed_remakes_the_weights(tmp_path: Path) -> None:
    made = lenet(rounds=3)
    made = replace(made, weights=dict(sorted(made.weights.items(), reverse=True)))  # in whatever order they come
    made.save(tmp_path / "t", as_seed=True)
    assert same(Ticket.load(tmp_path / "t"), made)
    Ticket.load(tmp_path / "t").save(tmp_path / "again", as_seed=True)
    assert (tmp_path / "t").read_bytes() == (tmp_path / "again").read_bytes()


@pytest.mark.parametrize("model", ["gpt-1-32", "bert-1-32"])
@pytest.mark.parametrize("rate", [0.0, 0.7])
def test_a_seed_remakes_weights_that_are_tied(model: str, rate: float, tmp_path: Path) -> None:
    seed = Seed(model, (8, 11), 11 if model.startswith("gpt") else 2, "glorot-normal", 3)
    built = models.build(seed.model, seed.shape, seed.classes, seed.init, seed.init_seed)
    made = replace(pruned(built, rate), seed=seed)
    made.save(tmp_path / "t", as_seed=True)
    loaded = Ticket.load(tmp_path / "t")
    assert same(loaded, made)
    loaded.save(tmp_path / "again", as_seed=True)
    assert (tmp_path / "t").read_bytes() == (tmp_path / "again").read_bytes()


def test_a_torch_that_draws_other_numbers_is_found_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lenet(rounds=3).save(tmp_path / "t", as_seed=True)
    drawn = models.build("lenet-300-100", (1, 28, 28), 10, "glorot-normal", 3)
    largest = drawn.get_parameter("fc2.weight").data.view(-1)
    largest[largest.abs().argmax()] *= 1 + 1e-6
    monkeypatch.setattr(models, "build", lambda *arguments: drawn)
    with pytest.raises(
        BadInput, match=r"t: expected the weights whose SHA-256 .* drawn by torch .*Load it with the torch"
    ):
        Ticket.load(tmp_path / "t")


def test_a_ticket_of_weights_of_eight_bits_is_saved_and_loaded(tmp_path: Path) -> None:
    model = nn.Linear(4, 2).to(torch.float8_e4m3fn)
    alive = Mask({"weight": torch.tensor([[True, False, True, True], [False, True, True, False]])})
    made = Ticket.of(model, alive, weights.of(model))
    made.save(tmp_path / "ticket")
    loaded = Ticket.load(tmp_path / "ticket").weights["weight"]
    assert loaded.dtype == torch.float8_e4m3fn and alike(loaded, made.weights["weight"])
    assert not loaded.float()[~alive["weight"]].any()


def test_a_name_of_any_length_is_shown_in_part() -> None:
    long = "lenet-" + "9" * 40_000
    made = Ticket(Mask({}), {}, {"model": long, "key": long})
    assert len(repr(made)) < 300 and "lenet-999" in repr(made)
    with pytest.raises(ValueError, match="expected a model of Tombola's own, found hf:lenet-999") as found:
        Seed(f"hf:{long}", (1, 8, 8), 10, "kaiming-normal", 0)
    assert len(str(found.value)) < 200
    with pytest.raises(BadInput, match="expected a mapping of names to JSON values") as refused:
        Ticket(Mask({}), {}, long)  # type: ignore[arg-type]
    assert len(str(refused.value)) < 300


def test_a_seed_that_does_not_remake_the_weights_is_not_saved_for_them(made: Ticket, tmp_path: Path) -> None:  # R10
    later = lenet(rounds=3)
    changed = {name: value * 2 for name, value in later.weights.items()}
    for wrong, said in ((made, "without one"), (replace(later, weights=changed), "a seed that makes other weights")):
        with pytest.raises(BadInput, match=said):
            wrong.save(tmp_path / "t", as_seed=True)
    assert list(tmp_path.iterdir()) == []
    replace(later, weights=changed).save(tmp_path / "t")  # with the weights it is what it is
    assert weights.equal(Ticket.load(tmp_path / "t").weights, changed)


# ---------------------------------------------------------------- what is no ticket, or no longer one


@pytest.fixture(scope="module")
def intact() -> bytes:
    with torch.random.fork_rng(), TemporaryDirectory() as folder:
        torch.manual_seed(0)
        pruned(network(), model="mine", rewind="0it").save(Path(folder) / "t")
        return (Path(folder) / "t").read_bytes()


@settings(max_examples=500)
@given(st.data())
def test_a_flipped_bit_anywhere_is_found(
    tmp_path_factory: pytest.TempPathFactory, intact: bytes, data: st.DataObject
) -> None:
    content = bytearray(intact)
    content[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    path = tmp_path_factory.getbasetemp() / "flipped"
    path.write_bytes(content)
    with pytest.raises(BadInput, match="flipped: expected a ticket's file"):
        Ticket.load(path)


def test_a_part_of_a_file_is_refused_however_much_it_is(made: Ticket, tmp_path: Path) -> None:  # S2
    made.save(tmp_path / "t")
    content = (tmp_path / "t").read_bytes()
    for length in [*range(0, 40), *range(40, len(content), 37), len(content) - 1]:
        (tmp_path / "part").write_bytes(content[:length])
        with pytest.raises(BadInput, match="part: expected a ticket's file"):
            Ticket.load(tmp_path / "part")
    (tmp_path / "part").write_bytes(content + b"\0")
    with pytest.raises(BadInput, match="part: expected a ticket's file"):
        Ticket.load(tmp_path / "part")


class Bomb:
    """Unpickled, it would leave a file behind."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return Path.touch, (self.path,)


def foreign(folder: Path) -> dict[str, tuple[bytes, str]]:
    buffer = io.BytesIO()
    torch.save({"weight": Bomb(folder / "exploded")}, buffer)
    header = json.dumps({"__metadata__": {"tombola": "[]"}}).encode()
    return {
        "text": (b"something else entirely", "something else, or a damaged file"),
        "empty": (b"", "something else, or a damaged file"),
        "safetensors": (save({"fc.weight": torch.ones(2)}), r"a safetensors file of something else \(fc.weight\)"),
        "pickle": (pickle.dumps(Bomb(folder / "exploded")), "a pickle.*execute"),
        "torch.save": (buffer.getvalue(), "a pickle.*execute"),
        "no table": (len(header).to_bytes(8, "little") + header, "something else, or a damaged file"),
    }


@pytest.mark.parametrize("name", ["text", "empty", "safetensors", "pickle", "torch.save", "no table"])
def test_what_is_no_ticket_is_refused_and_not_executed(name: str, tmp_path: Path) -> None:  # S3
    content, said = foreign(tmp_path)[name]
    (tmp_path / "it").write_bytes(content)
    with pytest.raises(BadInput, match=f"it: expected a ticket's file, found {said}"):
        Ticket.load(tmp_path / "it")
    assert not (tmp_path / "exploded").exists()


def test_what_is_not_there_is_named(made: Ticket, tmp_path: Path) -> None:
    for path, said in ((tmp_path / "no", "no such file"), (tmp_path, "is a directory")):
        with pytest.raises(BadInput, match=f"expected a ticket's file, found none .*{said}"):
            Ticket.load(path)
    with pytest.raises(BadInput, match="expected a file that can be written"):
        made.save(tmp_path / "no" / "t")


def test_an_origin_that_is_no_json_is_refused(made: Ticket, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"origin: expected JSON values, found .* not JSON"):
        replace(made, origin={"path": tmp_path}).save(tmp_path / "t")


def test_a_newer_format_is_named_as_such(made: Ticket, tmp_path: Path) -> None:
    made.save(tmp_path / "t")
    content = (tmp_path / "t").read_bytes().replace(rb"\"format\": 2", rb"\"format\": 3")
    (tmp_path / "t").write_bytes(content)
    with pytest.raises(BadInput, match=r"format 2 or older, found format 3\. A newer version"):
        Ticket.load(tmp_path / "t")


def test_files_of_format_1_are_read(made: Ticket, tmp_path: Path) -> None:
    """As Tombola 0.1.0 wrote them at first."""
    tensors = {f"mask/{name}": bits for name, bits in mask_codec.pack(made.mask).items()}
    tensors |= {f"weights/{name}": value for name, value in mask_codec.compress(made.weights, made.mask).items()}
    shapes = {name: list(alive.shape) for name, alive in made.mask.items()}
    text = json.dumps({"format": 1, "shapes": shapes, "origin": made.origin}, sort_keys=True)
    (tmp_path / "t").write_bytes(save(tensors, metadata={"tombola": text}))
    loaded = Ticket.load(tmp_path / "t")
    assert loaded.mask == made.mask and loaded.origin == made.origin
    assert weights.equal(loaded.weights, made.weights)
    assert ticket.about(tmp_path / "t")["format"] == 1


# ---------------------------------------------------------------- into a model


def test_applying_it_restores_everything_a_state_dict_holds(made: Ticket) -> None:  # R3 R4
    model = network()
    model(torch.randn(5, 9))
    made.apply(model)
    assert weights.equal(weights.of(model), made.weights)


def test_training_leaves_the_ticket_as_it_was(made: Ticket) -> None:  # R1 R2
    before = {name: value.clone() for name, value in made.weights.items()}
    for _ in range(3):
        model = network()
        made.apply(model)
        model(torch.randn(5, 9)).sum().backward()
        torch.optim.SGD(model.parameters(), lr=1.0).step()
        assert weights.equal(made.weights, before)


def test_another_model_is_refused_and_the_difference_named(made: Ticket) -> None:
    with pytest.raises(BadInput, match=r"0\.weight \(4, 9\).*0\.weight \(7, 9\)"):
        made.apply(nn.Sequential(nn.Linear(9, 4)))


def test_models_that_are_wrapped_take_it_like_bare_ones(made: Ticket) -> None:

    def compiled(model: nn.Module) -> nn.Module:
        wrapped = torch.compile(model, backend="eager")
        assert isinstance(wrapped, nn.Module) and wrapped is not model
        return wrapped

    for wrap in (nn.DataParallel, compiled, lambda model: compiled(nn.DataParallel(model))):
        model = network()
        made.apply(wrap(model))
        assert weights.equal(weights.of(model), made.weights)


def test_a_model_in_several_processes_takes_it_like_a_bare_one(made: Ticket, tmp_path: Path) -> None:
    model = network()
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path / 'group'}", rank=0, world_size=1)
    try:
        made.apply(nn.parallel.DistributedDataParallel(model))
    finally:
        leave()
    assert weights.equal(weights.of(model), made.weights)


def test_shapes_that_no_memory_holds_are_refused(tmp_path: Path) -> None:
    said = {"digest": "0" * 64, "format": 2, "masks": [["w", [2**43]]], "origin": {}, "seed": None, "tied": {},
            "weights": ["w"]}  # fmt: skip
    tensors = {"mask/w": torch.zeros(0, dtype=torch.uint8), "weights/w": torch.zeros(0)}
    content = save(tensors, metadata={"tombola": json.dumps(said)})
    (tmp_path / "huge").write_bytes(files.sealed(content))
    with pytest.raises(BadInput, match="found a damaged one"):
        Ticket.load(tmp_path / "huge")


def test_what_stands_in_the_wrong_place_is_named() -> None:
    model: Any = nn.Linear(3, 1)
    alive: Any = Mask({"weight": torch.ones(1, 3, dtype=torch.bool)})
    optimizer: Any = torch.optim.SGD(model.parameters(), lr=0.1)
    made: Any = Ticket.of(model, alive, weights.of(model))
    no_mask, no_model = "expected a Mask, found {}. A ticket's is", "expected a model, an nn.Module, found {}"
    calls: list[tuple[Callable[[], object], str]] = [
        (lambda: Guard(model, optimizer, made), no_mask.format("Ticket")),
        (lambda: Guard(optimizer, model, alive), no_model.format("a SGD")),
        (
            lambda: Ticket.of(model, {"weight": 1}, weights.of(model)),  # type: ignore[arg-type]
            r"expected a Mask, found dict. tombola.Mask\(it\) makes one",
        ),
        (lambda: made.transfer(nn.Linear), no_model.format("the class Linear")),
        (lambda: made.apply(made.weights), no_model.format("a dict")),
        (lambda: Mask({"weight": "x"}), "expected a tensor of bool, found 'x'"),  # type: ignore[dict-item]
        (lambda: made.transfer(nn.Linear(4, 1)), "A layer takes a mask of its own shape alone"),
    ]
    for call, message in calls:
        with pytest.raises(BadInput, match=message):
            call()
