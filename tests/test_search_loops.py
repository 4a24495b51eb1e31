"""Loops as people write them: what is pruned is 0 in all of them, down to averages, and all that they do is rewound."""

import copy
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, distributed, nn
from torch.multiprocessing.spawn import spawn
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils import prune as torch_prune
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from tombola import mask, weights
from tombola.engine.parallel import leave
from tombola.errors import BadInput, GuardLost, TombolaError
from tombola.mask import Mask
from tombola.search import Search

STEPS = 8
INPUTS = torch.randn(32, 6, generator=torch.Generator().manual_seed(1))
LABELS = torch.arange(32) % 3


def network() -> nn.Sequential:
    torch.manual_seed(7)
    return nn.Sequential(
        nn.Linear(6, 12), nn.BatchNorm1d(12), nn.ReLU(), nn.Dropout(0.1), nn.Linear(12, 8), nn.ReLU(), nn.Linear(8, 3)
    )


def batches(steps: int = STEPS) -> Iterator[tuple[Tensor, Tensor]]:
    for _ in range(steps):
        places = torch.randint(len(INPUTS), (8,))
        yield INPUTS[places], LABELS[places]


def loss_of(model: nn.Module, inputs: Tensor, labels: Tensor) -> Tensor:
    return functional.cross_entropy(model(inputs.to(next(model.parameters()).dtype)), labels)


def plain(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    for inputs, labels in batches():
        optimizer.zero_grad()
        loss_of(model, inputs, labels).backward()
        optimizer.step()


def accumulating(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    for place, (inputs, labels) in enumerate(batches(2 * STEPS + 1)):  # the last one's gradient is left over
        (loss_of(model, inputs, labels) / 2).backward()
        if place % 2:
            optimizer.step()
            optimizer.zero_grad(set_to_none=False)


def clipping(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    for inputs, labels in batches():
        optimizer.zero_grad()
        loss_of(model, inputs, labels).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        optimizer.step()


def with_a_closure(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    for inputs, labels in batches():

        def closure() -> Any:
            optimizer.zero_grad()
            loss = loss_of(model, inputs, labels)  # noqa: B023
            loss.backward()
            return loss

        optimizer.step(closure)


def in_half_precision(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    for inputs, labels in batches():
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = loss_of(model, inputs, labels)
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        scaler.step(optimizer)
        scaler.update()


def compiled(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    plain(torch.compile(model, backend="eager"), optimizer)  # type: ignore[arg-type]


LOOPS = {f.__name__: f for f in (plain, accumulating, clipping, with_a_closure, in_half_precision, compiled)}
OPTIMISERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=0.01),
    "adam": lambda p: torch.optim.Adam(p, lr=0.02),
    "adam, fused": lambda p: torch.optim.Adam(p, lr=0.02, fused=True),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.02, weight_decay=0.1),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=0.01, momentum=0.5),
    "adagrad": lambda p: torch.optim.Adagrad(p, lr=0.1, initial_accumulator_value=0.1),
    "nadam": lambda p: torch.optim.NAdam(p, lr=0.02),
    "lbfgs": lambda p: torch.optim.LBFGS(p, lr=0.1, max_iter=3),
}


def check_zeros(model: nn.Module, optimizer: torch.optim.Optimizer, living: Mask) -> None:
    """Weights, gradients and what of the optimiser's state has a weight's shape."""
    for name, alive in living.items():
        parameter = model.get_parameter(name)
        state = [value for value in optimizer.state[parameter].values() if getattr(value, "shape", 0) == alive.shape]
        for value in (parameter.detach(), parameter.grad, *state):
            assert value is None or value[~alive].count_nonzero() == 0


@pytest.mark.parametrize("k", [0, 3])
@pytest.mark.parametrize("optimiser", OPTIMISERS)
@pytest.mark.parametrize("loop", LOOPS)
def test_pruned_is_pruned_and_a_ticket_trains_as_it_does_alone(loop: str, optimiser: str, k: int) -> None:
    # M1 M2 M4 M9 M10 M11 R1 R2 R3 R7
    """Alone: torch's own pruning of a fresh model that holds the ticket, a fresh optimiser, and no search."""
    if loop != "with_a_closure" and optimiser == "lbfgs":
        pytest.skip("L-BFGS takes a closure")
    if k and optimiser == "lbfgs":
        with pytest.raises(BadInput, match=r"rewind: expected step 0 with L-BFGS.*found 3it"):
            Search(model := network(), OPTIMISERS[optimiser](model.parameters()), levels=2, rewind="3it")
        return
    # Sums in another order differ in the last bits, which some optimisers blow up.
    dtype = torch.float32 if loop == "in_half_precision" else torch.float64
    model = network().to(dtype)
    optimizer = OPTIMISERS[optimiser](model.parameters())
    torch.manual_seed(3)
    search = Search(model, optimizer, levels=2, rate=0.5, rewind=f"{k}it")
    for level in search:
        LOOPS[loop](model, optimizer)
        check_zeros(model, optimizer, level.mask)
    for number in (1, 2) if k == 0 else ():
        alone, ticket = network().to(dtype), search.ticket(number)
        ticket.apply(alone)
        for name, alive in ticket.mask.items():
            torch_prune.custom_from_mask(alone.get_submodule(name.removesuffix(".weight")), "weight", alive)
        torch.manual_seed(3)
        LOOPS[loop](alone, OPTIMISERS[optimiser](alone.parameters()))
        state = alone.state_dict()
        for name, value in search.trained(number).items():
            own = state[f"{name}_orig" if name in ticket.mask else name]
            torch.testing.assert_close(value, own)


def test_clipping_sees_the_gradient_of_the_ticket() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    search = Search(model, optimizer, levels=1, rate=0.5)
    for level in search:
        plain(model, optimizer)
        if level.number:
            optimizer.zero_grad()
            functional.cross_entropy(model(INPUTS), LABELS).backward()
            found = nn.utils.clip_grad_norm_(model.parameters(), 1e9)
            twin = copy.deepcopy(model)
            twin.zero_grad()
            functional.cross_entropy(twin(INPUTS), LABELS).backward()
    whole = {name: parameter.grad.clone() for name, parameter in twin.named_parameters() if parameter.grad is not None}
    own = torch.stack([value.norm() for value in mask.apply(whole, search.mask(1)).values()]).norm()
    assert torch.isclose(found, own) and not torch.isclose(
        own, torch.stack([value.norm() for value in whole.values()]).norm()
    )


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("k", [0, 2, 3])
def test_a_step_that_the_scaler_skips_is_no_step(fused: bool, k: int) -> None:  # M11 R6
    model = network()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02, fused=fused)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**16, growth_interval=3)
    search = Search(model, optimizer, levels=1, rewind=f"{k}it", also=[scaler])
    scales: list[list[float]] = []
    for level in search:
        scales.append([])
        for place, (inputs, labels) in enumerate(batches()):
            optimizer.zero_grad()
            loss = functional.cross_entropy(model(inputs), labels)
            scaler.scale(loss * (torch.inf if place in (0, 2) else 1)).backward()
            scaler.step(optimizer)
            scaler.update()
            scales[-1].append(scaler.get_scale())
            level.report(loss=loss)
    steps = [row.step for row in search.history]
    assert steps[:STEPS] == [0, 1, 1, 2, 3, 4, 5, 6] and steps[STEPS:] == [step for step in steps[:STEPS] if step >= k]
    assert scales[0] == scales[1] and len(set(scales[0])) > 1


@pytest.mark.parametrize("k", [0, 3])
@pytest.mark.parametrize("kind", ["averaged", "copy"])
def test_an_average_is_masked_and_rewound(kind: str, k: int) -> None:  # R3
    model = network()
    optimizer = OPTIMISERS["adam"](model.parameters())
    average: Any = (
        AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.8)) if kind == "averaged" else copy.deepcopy(model)
    )
    inner = average.module if kind == "averaged" else average
    search = Search(model, optimizer, levels=2, rate=0.5, rewind=f"{k}it", also=[average])
    seen: list[list[dict[str, Tensor]]] = []
    for level in search:
        seen.append([])
        for place, (inputs, labels) in enumerate(batches()):
            if k == 0 and place == 0:
                expected = mask.apply(seen[0][0], level.mask) if level.number else weights.of(inner)
                assert weights.equal(weights.of(inner), expected)
            if place == 0:
                seen[-1].append(weights.of(inner))
            optimizer.zero_grad()
            functional.cross_entropy(model(inputs), labels).backward()
            optimizer.step()
            if k and place == k:  # the step after the rewind point has begun with the average of that point
                known = seen[0][k] if level.number else weights.of(inner)
                assert weights.equal(weights.of(inner), mask.apply(known, level.mask))
            if kind == "averaged":
                average.update_parameters(model)
            else:
                with torch.no_grad():
                    for left, right in zip(average.parameters(), model.parameters(), strict=True):
                        left.lerp_(right, 0.2)
            seen[-1].append(weights.of(inner))
        for name, alive in level.mask.items():
            assert inner.get_parameter(name)[~alive].count_nonzero() == 0
    inner.load_state_dict(model.state_dict())
    with pytest.raises(GuardLost, match="expected 0 where it is pruned in an average too"):
        for _ in Search(model, optimizer, levels=1, rate=0.5, also=[average]):
            plain(model, optimizer)
            nn.init.ones_(inner.get_parameter("0.weight"))


def test_another_module_is_rewound_and_left_whole() -> None:
    model, other = network(), nn.Linear(6, 12)
    optimizer = OPTIMISERS["sgd"](model.parameters())
    start = weights.of(other)
    for _ in Search(model, optimizer, levels=1, rate=0.5, also=[other]):
        assert weights.equal(weights.of(other), start)
        plain(model, optimizer)
        nn.init.ones_(other.weight)
    assert other.weight.count_nonzero() == other.weight.numel()


@pytest.mark.filterwarnings("ignore:level 1. the first batch is not that of level 0")
def test_a_replay_that_goes_astray_ends_in_step_k_all_the_same() -> None:  # R6 R8
    """Where the replay is not what level 0 did, as sums on a GPU may not be, the state of step k is put in place."""
    model = network()
    optimizer = OPTIMISERS["adam"](model.parameters())
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.8))
    scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=0, factor=0.5)
    search = Search(model, optimizer, levels=2, rate=0.5, rewind="3it", scheduler=scheduler, also=[average])
    found: list[Any] = []
    for level in search:
        for place, (inputs, labels) in enumerate(batches()):
            if level.number and place < 3:
                inputs = inputs + torch.rand(())
            optimizer.zero_grad()
            functional.cross_entropy(model(inputs), labels).backward()
            if place == 3:
                before = [parameter.detach().clone() for parameter in model.parameters()]
            optimizer.step()
            if place == 3:
                found.append((inputs, before, optimizer.param_groups[0]["lr"], scheduler.state_dict(),
                              weights.of(average.module)))  # fmt: skip
            average.update_parameters(model)
            scheduler.step(float(place + level.number) if place < 3 else 0.0)
    for level_number in (1, 2):
        inputs, before, rate, state, averaged = found[level_number]
        assert torch.equal(inputs, found[0][0]) and (rate, state) == found[0][2:4]
        living = search.mask(level_number)
        assert weights.equal(averaged, mask.apply(found[0][4], living))
        for (name, _), now, then in zip(model.named_parameters(), before, found[0][1], strict=True):
            assert torch.equal(now, then.masked_fill(~living[name], 0) if name in living else then)


def test_a_compiled_model_is_looked_through() -> None:  # S10
    straight, inner = network(), network()
    found = []
    for model in (straight, torch.compile(inner, backend="aot_eager")):
        optimizer = OPTIMISERS["adam"](model.parameters())  # type: ignore[attr-defined]
        torch.manual_seed(3)
        search = Search(model, optimizer, levels=1, rate=0.5, rewind="2it")  # type: ignore[arg-type]
        for _ in search:
            plain(model, optimizer)  # type: ignore[arg-type]
        found.append((search.mask(1), search.trained(1)))
    assert list(found[1][0]) == ["0.weight", "4.weight", "6.weight"]
    assert found[0][0].counts == found[1][0].counts
    for name, value in found[0][1].items():
        torch.testing.assert_close(found[1][1][name], value, rtol=1e-4, atol=1e-5)


WORLD = 2


def one_of_two(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=WORLD)
    found = {}
    for name, stops in (("straight", [None]), ("interrupted", [1, None])):
        for stop in stops:
            found[name] = searched_by_two(rank, Path(folder) / name, stop)
    torch.save(found, f"{folder}/found-{rank}")
    other = nn.Linear(4, 2)
    nn.init.uniform_(other.weight)  # each its own
    alone = torch.optim.SGD(other.parameters(), lr=0.1)
    with pytest.raises(TombolaError, match="the mask of the next level: expected the same of all 2 processes"):
        for _ in Search(other, alone, levels=1, rate=0.5):
            other(torch.ones(1, 4)).sum().backward()
            alone.step()
    distributed.barrier()  # whoever leaves first takes the connections with it
    leave()


def searched_by_two(rank: int, path: Path, stop: int | None) -> dict[str, Any]:
    """What one of two processes sees of a search, which ends in the midst of level `stop`."""
    first, last = nn.Linear(6, 12), nn.Linear(12, 3)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in (*first.parameters(), *last.parameters()):
            parameter.copy_(torch.randn(parameter.shape, generator=generator) / 3)
    parallel = DistributedDataParallel(nn.Sequential(first, nn.ReLU(), last))
    optimizer = OPTIMISERS["sgd"](parallel.parameters())
    torch.manual_seed(rank)
    if path.exists():
        torch.manual_seed(99)
        search = Search.resume(path, parallel, optimizer)
    else:
        distributed.barrier()
        search = Search(parallel, optimizer, levels=2, rate=0.5, rewind="2it", path=path)
    drawn = []
    for level in search:
        for step in range(STEPS):
            places = torch.randint(16, (4,)) + 16 * rank  # each its own half
            drawn.append(places.tolist())
            optimizer.zero_grad()
            functional.cross_entropy(parallel(INPUTS[places]), LABELS[places]).backward()
            assert first.weight.grad is not None
            assert step < 2 or not first.weight.grad[~level.mask["0.weight"]].any()
            optimizer.step()
        if level.number == stop:
            return {}
    return {"drawn": drawn, "trained": [search.trained(n) for n in range(3)], "mask": dict(search.mask(2))}


def test_two_processes_search_together_and_resume(tmp_path: Path) -> None:  # M7 R9 S2
    spawn(one_of_two, (str(tmp_path),), nprocs=WORLD)
    found = [torch.load(tmp_path / f"found-{rank}", weights_only=True) for rank in range(WORLD)]
    first, second = (each["straight"] for each in found)
    assert weights.equal(first["mask"], second["mask"])
    for left, right in zip(first["trained"], second["trained"], strict=True):
        assert weights.equal(left, right)
    assert first["drawn"] != second["drawn"] and first["drawn"][:STEPS] == first["drawn"][STEPS : 2 * STEPS]
    for each in found:
        straight, resumed = each["straight"], each["interrupted"]
        assert resumed["drawn"] == straight["drawn"][STEPS:]
        for left, right in zip(straight["trained"], resumed["trained"], strict=True):
            assert weights.equal(left, right)
    model = network()
    with pytest.raises(BadInput, match="expected a search of as many processes: 1, found 2"):
        Search.resume(tmp_path / "straight", model, torch.optim.SGD(model.parameters(), lr=0.1))


def test_sharded_parameters_are_refused(tmp_path: Path) -> None:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import DTensor

    distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/meeting", rank=0, world_size=1)
    try:
        mesh = init_device_mesh("cpu", (1,))
        model = nn.Linear(4, 2)
        model.weight = nn.Parameter(DTensor.from_local(model.weight.detach(), mesh))
        with pytest.raises(BadInput, match=r"found parameters in shards \(FSDP or DTensor\)"):
            Search(model, torch.optim.SGD(model.parameters(), lr=0.1), levels=1)
    finally:
        leave()


class Inherited(torch.optim.Adam):
    """Its step is its parent's, which has hooks of its own; on request it fails in the midst of it."""

    fails = False

    def step(self, closure: Any = None) -> Any:
        found = super().step(closure)
        if self.fails:
            raise FloatingPointError
        return found


def test_a_step_within_a_step_is_one_step() -> None:  # R6
    OPTIMISERS["adam"](network().parameters())  # torch gives a class its hooks when the first one is made
    model = network()
    optimizer = Inherited(model.parameters(), lr=0.02)
    search = Search(model, optimizer, levels=1, rate=0.5, rewind="4it")
    seen: list[Tensor] = []
    for level in search:
        for place, (inputs, labels) in enumerate(batches()):
            if place in (2, 5):
                optimizer.fails = True
                with pytest.raises(FloatingPointError):
                    optimizer.step()
                optimizer.fails = False
            optimizer.zero_grad()
            loss_of(model, inputs, labels).backward()
            optimizer.step()
            seen.append(model.get_parameter("0.weight").detach().clone())
            level.report(accuracy=0.0)
    assert [row.step for row in search.history] == [*range(1, STEPS + 1), *range(4, STEPS + 1)]
    assert torch.equal(search.ticket(0).weights["0.weight"], seen[3])


class Ema(nn.Module):
    """An average as timm has it: a copy in a module of its own."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.module = copy.deepcopy(model)

    def update(self, model: nn.Module) -> None:
        with torch.no_grad():
            for left, right in zip(self.module.parameters(), model.parameters(), strict=True):
                left.lerp_(right, 0.2)

    def table(self) -> dict[str, Tensor]:
        return dict(self.module.named_parameters())

    def begin(self, model: nn.Module) -> None:
        self.module.load_state_dict(model.state_dict())


class Shadow:
    """An average as everybody writes it: a dict of tensors."""

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


@pytest.mark.parametrize("k", [0, 3])
@pytest.mark.parametrize("kind", [Ema, Shadow])
def test_averages_of_other_forms_are_held_from_step_k_on(kind: Any, k: int) -> None:  # R3
    model = network()
    optimizer, average = OPTIMISERS["adam"](model.parameters()), kind(model)
    search = Search(model, optimizer, levels=2, rate=0.5, rewind=f"{k}it", also=[average])
    seen: list[dict[str, Tensor]] = []
    for level in search:
        for place, (inputs, labels) in enumerate(batches()):
            optimizer.zero_grad()
            loss_of(model, inputs, labels).backward()
            optimizer.step()
            average.update(model)
            table = {name: value.detach().clone() for name, value in average.table().items()}
            if place + 1 == k:  # as it is measured at the end of an epoch
                seen = seen or [table]
                assert weights.equal(table, mask.apply(seen[0], level.mask))
            if place + 1 >= k:
                assert weights.equal(table, mask.apply(table, level.mask))
                level.report(accuracy=0.0)
        assert table["0.weight"].any()
    average.begin(model)
    with pytest.raises(GuardLost, match="expected 0 where it is pruned in an average too"):
        for level in Search(model, optimizer, levels=1, rate=0.5, also=[average]):
            plain(model, optimizer)
            average.update(model)
            if level.number:
                with torch.no_grad():
                    average.table()["0.weight"].fill_(1.0)


def test_tied_weights_are_one_tensor_in_a_ticket(tmp_path: Path) -> None:  # P7
    model = nn.Sequential(nn.Embedding(9, 4), nn.Linear(4, 9, bias=False))
    model[1].weight = model[0].weight
    optimizer = OPTIMISERS["adam"](model.parameters())
    search = Search(model, optimizer, levels=1, rate=0.5)
    for _ in search:
        functional.cross_entropy(model(torch.arange(9)), torch.arange(9)).backward()
        optimizer.step()
    ticket = search.ticket(1)
    assert ticket.weights["0.weight"] is ticket.weights["1.weight"]
    assert ticket.weights["1.weight"].count_nonzero() == 18
