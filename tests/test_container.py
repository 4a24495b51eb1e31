"""What is loaded executes nothing, and asks for no more of the machine than its bytes allow."""

import json
import os
import resource
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load, save
from torch import Tensor, nn

from tombola import container, files, mask_codec, models, prunable, weights
from tombola.cash import export
from tombola.errors import BadInput, StoreError
from tombola.lab.kinds import Init
from tombola.lab.runs import Network, Outcome, Stored
from tombola.lab.store import Store
from tombola.mask import Mask
from tombola.search import Search
from tombola.search.codec import decode, encode
from tombola.ticket import Seed, Ticket

MIB = 2**20


@contextmanager
def within(room: int) -> Iterator[None]:
    """No more than `room` bytes beside what the process has."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + room, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


pytestmark = pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="memory is limited as Linux does it")


def changed(path: Path, key: str, change: Callable[[dict[str, Any]], object]) -> None:
    """What is said in the header of a file, made otherwise; the digest is right."""
    content = path.read_bytes()
    said = container.metadata(content, key)
    change(said)
    sealed = "digest" in said
    again = save(load(content), metadata={key: json.dumps(said | ({"digest": files.ZEROS} if sealed else {}))})
    path.write_bytes(files.sealed(again) if sealed else again)


def ticket(path: Path, net: nn.Module | None = None) -> Path:
    net = net or nn.Sequential(nn.Linear(5, 4), nn.Linear(4, 2))
    Ticket.of(net, prunable.full(net), weights.of(net)).save(path)
    return path


SHAPES: list[tuple[list[Any], str]] = [
    ([30_000, 60_000], r"1,800,\d+,\d+ weights in a file of"),
    ([2**40, 2**40], "weights in a file of"),
    ([-3, -7], "where a shape should be"),
    ([1e9], "where a shape should be"),
]


@pytest.mark.parametrize("shape, said", SHAPES)
def test_a_small_ticket_of_a_huge_mask_is_refused(shape: list[Any], said: str, tmp_path: Path) -> None:
    text = {"digest": files.ZEROS, "format": 2, "masks": [["w", shape]], "origin": {}, "seed": None, "tied": {},
            "weights": ["w"]}  # fmt: skip
    tensors = {"mask/w": torch.zeros(0, dtype=torch.uint8), "weights/w": torch.zeros(0)}
    (tmp_path / "it").write_bytes(container.content(tensors, "tombola", text))
    with within(64 * MIB), pytest.raises(BadInput, match=f"damaged one.*{said}"):
        Ticket.load(tmp_path / "it")


def seeded(path: Path) -> None:
    seed = Seed("lenet-20-10", (1, 8, 8), 10, "glorot-normal", 0)
    built = models.build("lenet-20-10", (1, 8, 8), 10, "glorot-normal", 0)
    made = Ticket.of(built, prunable.full(built), weights.of(built))
    Ticket(made.mask, made.weights, {}, seed).save(path, as_seed=True)


@pytest.mark.parametrize(
    "change, said",
    [
        ({"model": "lenet-99999-99999"}, "weights in a file of"),
        ({"model": "lenet-21-10"}, "lenet-21-10 has 1,344 weights in fc1.weight, its mask 1,280"),
        ({"classes": 10**9}, "weights in a file of"),
        ({"shape": [1, 8, 8e9]}, "expected sizes"),
        ({"shape": [1, 2**20, 2**20]}, "weights in a file of"),
        ({"model": "gpt-1-32", "shape": [10**9, 10]}, "weights in a file of"),
        ({"model": "vgg-19-w9999", "shape": [3, 32, 32]}, "weights in a file of"),
        ({"model": "lenet"}, "hidden widths"),
        ({"init": "none"}, "none"),
    ],
)
def test_a_seed_of_a_huge_network_or_another_is_refused_before_it_is_built(
    change: dict[str, Any], said: str, tmp_path: Path
) -> None:
    seeded(tmp_path / "it")
    changed(tmp_path / "it", "tombola", lambda about: about["seed"].update(change))
    with within(64 * MIB), pytest.raises(BadInput, match=f"damaged one.*{said}"):
        Ticket.load(tmp_path / "it")


@pytest.mark.parametrize("origin", [[1, 2], "mine", 3, None])
def test_an_origin_that_is_no_mapping_is_refused_where_it_is_given_and_where_it_is_read(
    origin: Any, tmp_path: Path
) -> None:
    net = nn.Linear(3, 1)
    with pytest.raises(BadInput, match="the ticket's origin: expected a mapping"):
        Ticket(prunable.full(net), weights.of(net), origin)
    if origin is not None:
        with pytest.raises(BadInput, match="the ticket's origin: expected a mapping"):
            Ticket.of(net, prunable.full(net), weights.of(net), origin)
    ticket(tmp_path / "it")
    changed(tmp_path / "it", "tombola", lambda about: about.update(origin=origin))
    with pytest.raises(BadInput, match=r"expected a ticket's file, found something else, or a damaged file .origin"):
        Ticket.load(tmp_path / "it")


@pytest.mark.parametrize("dead", [True, False])
def test_a_ticket_of_which_next_to_nothing_lives_is_read_again(dead: bool, tmp_path: Path) -> None:
    shape = (5000, 4000)  # more than a file may claim whose code has no byte
    alive = torch.zeros(shape, dtype=torch.bool)
    alive[0, 0] = not dead
    made = Ticket(Mask({"w": alive}), {"w": alive.to(torch.float16)})
    made.save(tmp_path / "it")
    again = Ticket.load(tmp_path / "it")
    assert again.mask == made.mask and weights.equal(again.weights, made.weights)
    export.to_safetensors(nn.ParameterDict({"w": alive.to(torch.float16)}), tmp_path / "model")
    assert (tmp_path / "model").stat().st_size < alive.numel()
    read = export.from_safetensors(nn.ParameterDict({"w": torch.ones(shape, dtype=torch.float16)}), tmp_path / "model")
    assert weights.equal(weights.of(read), made.weights)


@given(st.lists(st.tuples(st.integers(1, 2**13), st.integers(1, 2**13)), max_size=3), st.integers(0, 2**20))
def test_what_a_file_may_claim_goes_by_its_bytes(shapes: list[tuple[int, int]], size: int) -> None:
    count = sum(rows * columns for rows, columns in shapes)
    if count <= mask_codec.LEAST + mask_codec.PER_BYTE * size:
        mask_codec.affordable(shapes, size)
    else:
        with pytest.raises(ValueError, match=f"{count:,} weights in a file of {size:,} bytes"):
            mask_codec.affordable(shapes, size)


# ---------------------------------------------------------------- searches


def searched(path: Path, net: nn.Module | None = None) -> tuple[nn.Module, torch.optim.SGD]:
    """A search of one pruning, begun; model and optimizer."""
    net = net or nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2)).to(torch.float64)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    if not path.exists():
        for _ in Search(net, optimizer, levels=1, path=path):
            first = next(iter(net.parameters()))
            net(torch.ones(2, 4, dtype=first.dtype)).abs().sum().backward()
            optimizer.step()
    return net, optimizer


@pytest.mark.parametrize(
    "change",
    [
        lambda said: said.update(finished=10**12),
        lambda said: said.update(finished="many"),
        lambda said: said.update(shapes={}),
        lambda said: said["shapes"].update({"0.weight": [2**20, 2**20]}),
        lambda said: said["shapes"].update({"0.weight": [2**32, 2**32]}),
        lambda said: said["start"]["left"]["weights"].update(
            {"0.weight": {"$tensor": "start.left.weights.0.weight", "$stride": [2**30, 1]}}
        ),
    ],
)
def test_a_search_that_claims_more_than_it_has_is_refused(change: Callable[..., object], tmp_path: Path) -> None:
    searched(tmp_path / "it")
    changed(tmp_path / "it", "tombola-search", change)
    begun = searched(tmp_path / "it")
    with within(64 * MIB), pytest.raises(BadInput, match="expected the file of a search") as refused:
        Search.resume(tmp_path / "it", *begun)
    assert not isinstance(refused.value.__cause__, MemoryError | RuntimeError)  # before anything was asked for


def test_the_file_of_a_search_is_read_once(tmp_path: Path) -> None:
    searched(tmp_path / "it")
    content = (tmp_path / "it").read_bytes()
    (tmp_path / "it").unlink()
    os.mkfifo(tmp_path / "it")  # of which each byte is read once
    writer = threading.Thread(target=(tmp_path / "it").write_bytes, args=(content,), daemon=True)
    writer.start()
    assert Search.resume(tmp_path / "it", *searched(tmp_path / "it")).left == 0
    writer.join()


@given(st.lists(st.integers(1, 4), min_size=1, max_size=4), st.randoms())
def test_the_layout_of_a_tensor_comes_back(shape: list[int], random: Any) -> None:
    order = random.sample(range(len(shape)), len(shape))
    value = torch.rand(shape, dtype=torch.complex64).permute(order)
    tensors: dict[str, Tensor] = {}
    again = decode(encode(value, tensors, "it"), tensors)
    assert torch.equal(again, value) and again.stride() == torch.empty_like(value).stride()


# ---------------------------------------------------------------- complex weights


class Rotated(nn.Module):
    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.turn, self.layer = nn.Parameter(torch.rand(4, dtype=dtype)), nn.Linear(4, 2, dtype=dtype)

    def forward(self, values: Tensor) -> Tensor:
        return self.layer(self.turn * values)  # type: ignore[no-any-return]


@pytest.mark.parametrize("dtype", [torch.complex64, torch.complex128])
def test_complex_weights_are_kept_in_tickets_and_searches_alike(dtype: torch.dtype, tmp_path: Path) -> None:
    net = Rotated(dtype)
    alive = Mask({"layer.weight": torch.tensor([[True, False, True, False]] * 2)})
    made = Ticket.of(net, alive, weights.of(net))
    made.save(tmp_path / "ticket")
    again = Ticket.load(tmp_path / "ticket")
    assert weights.equal(again.weights, made.weights) and again.weights["turn"].dtype is dtype
    trained, optimizer = searched(tmp_path / "search", net)
    resumed = Search.resume(tmp_path / "search", net, optimizer)
    assert resumed.left == 0 and weights.equal(resumed.trained(1), weights.of(trained))


@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor")
def test_a_type_that_no_file_holds_is_refused_with_what_to_do(tmp_path: Path) -> None:
    odd = Ticket(Mask({}), {"w": torch.quantize_per_tensor(torch.ones(2), 1.0, 0, torch.qint8)})
    with pytest.raises(BadInput, match=r"qint8. Convert it first"):
        odd.save(tmp_path / "it")
    assert not list(tmp_path.iterdir())


# ---------------------------------------------------------------- models and stores


@pytest.mark.parametrize("shape", [[30_000, 60_000], [2**40, 2**40], [-1, 5], ["x"]])
def test_a_small_model_file_of_a_huge_weight_is_refused(shape: list[Any], tmp_path: Path) -> None:
    net = nn.Linear(40, 40)
    torch.nn.init.zeros_(net.weight)
    export.to_safetensors(net, tmp_path / "it")
    changed(tmp_path / "it", "tombola-model", lambda said: said["sparse"].update(weight=shape))
    with within(64 * MIB), pytest.raises(BadInput, match="expected a safetensors file, found something else"):
        export.from_safetensors(net, tmp_path / "it")


def stored(store: Store, shape: list[Any]) -> Stored:
    run = Init(Network("lenet-20-10", (1, 8, 8), 10), "glorot-normal", init_seed=0)
    bits = mask_codec.pack(Mask({"w": torch.ones(3, 5, dtype=torch.bool)}))
    store.save(run, Outcome({"shapes": {"w": shape}}, {"mask": bits}), {})
    return Stored.of(run)


def test_an_outcome_whose_mask_is_larger_than_its_file_is_a_damaged_one(tmp_path: Path) -> None:
    good = Store(tmp_path / "good").open()
    assert good.mask(stored(good, [3, 5])).total == 15
    for number, shape in enumerate(([30_000, 60_000], [2**40, 2**40], [3, 6], [1, 1])):
        store = Store(tmp_path / str(number)).open()
        run = stored(store, shape)
        with within(64 * MIB), pytest.raises(StoreError, match="expected a complete outcome, found a damaged one"):
            store.mask(run)


# ---------------------------------------------------------------- the header


@given(st.binary(max_size=60))
def test_a_header_is_read_or_refused(content: bytes) -> None:
    for each in (content, len(content).to_bytes(8, "little") + content):
        try:
            metadata, names = container.header(each)
        except ValueError:
            continue
        assert isinstance(metadata, dict) and isinstance(names, list)


def test_a_header_that_announces_more_than_there_is_asks_for_nothing(tmp_path: Path) -> None:
    (tmp_path / "it").write_bytes((2**60).to_bytes(8, "little") + b"{}")
    with within(64 * MIB):
        assert len(container.beginning(tmp_path / "it")) == 10
        with pytest.raises(ValueError, match="10 bytes where its first eight announce"):
            container.header(container.beginning(tmp_path / "it"))
        deep = b"[" * 200_000
        with pytest.raises(ValueError):
            container.header(len(deep).to_bytes(8, "little") + deep)
