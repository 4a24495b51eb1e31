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
from tombola.engine.data_parallel.crew import leave
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


@pytest.mark.parametrize("k", [0, 3])
@pytest.mark.parametrize("kind", [Ema, None], ids=["Ema", "Shadow"])
def test_averages_of_other_forms_are_held_from_step_k_on(kind: Any, shadow: Any, k: int) -> None:  # R3
    model = network()
    optimizer, average = OPTIMISERS["adam"](model.parameters()), (kind or shadow)(model)
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


class ActorAndCritic(nn.Module):
    """Two heads over one encoder."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(7)
        self.encoder, self.actor, self.critic = nn.Linear(6, 8), nn.Linear(8, 3), nn.Linear(8, 1)

    def trained_by(self, head: nn.Module) -> list[nn.Parameter]:
        return [*self.encoder.parameters(), *head.parameters()]

    def forward(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        hidden = self.encoder(inputs).tanh()
        return self.actor(hidden), self.critic(hidden)


def in_turns(model: nn.Module, actor: torch.optim.Optimizer, critic: torch.optim.Optimizer) -> list[float]:
    """Each has a forward pass, and a noise, of its own."""
    losses = []
    for inputs, labels in batches():
        for optimizer, place in ((actor, 0), (critic, 1)):
            optimizer.zero_grad()
            outputs = model(inputs + 0.1 * torch.randn_like(inputs))[place]
            loss = outputs.square().mean() if place else functional.cross_entropy(outputs, labels)
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    return losses


def both_before_both(model: nn.Module, actor: torch.optim.Optimizer, critic: torch.optim.Optimizer) -> list[float]:
    """Both have their gradients before either steps."""
    losses = []
    for inputs, labels in batches():
        model.zero_grad()
        scores, value = model(inputs)
        loss = functional.cross_entropy(scores, labels) + value.square().mean()
        loss.backward()
        actor.step()
        critic.step()
        losses.append(loss.item())
    return losses


def critic_first(model: nn.Module, actor: torch.optim.Optimizer, critic: torch.optim.Optimizer) -> list[float]:
    return in_turns(model, critic, actor)


def pair(model: ActorAndCritic) -> tuple[torch.optim.Optimizer, torch.optim.Optimizer]:
    actor = torch.optim.Adam(model.trained_by(model.actor), lr=0.02)
    return actor, torch.optim.SGD(model.trained_by(model.critic), lr=0.1, momentum=0.9, weight_decay=0.1)


@pytest.mark.parametrize("k", [0, 1, 3])
@pytest.mark.parametrize("loop", [in_turns, both_before_both, critic_first])
@pytest.mark.parametrize("listed", [True, False])
def test_two_optimisers_over_one_encoder_are_both_held_and_rewound(listed: bool, loop: Any, k: int) -> None:
    # M1 M2 R1 R3
    model = ActorAndCritic()
    actor, critic = pair(model)
    seen: list[int] = []  # how many pruned weights were alive, in each forward pass
    keep = () if listed else ("critic.weight",)
    given: Any = {"optimizer": [actor, critic]} if listed else {"optimizer": actor, "also": [critic]}
    search = Search(model, levels=2, rate=0.5, rewind=f"{k}it", keep=keep, **given)
    for level in search:

        def look(*_: object, living: Mask = level.mask) -> None:
            seen.append(sum(int(model.get_parameter(n)[~alive].count_nonzero()) for n, alive in living.items()))

        handle = model.register_forward_pre_hook(look)
        loop(model, actor, critic)
        handle.remove()
        passes = len(seen) // STEPS
        alive = [sum(seen[step * passes : (step + 1) * passes]) for step in range(STEPS)]
        assert not any(alive[k:]) and (not level.number or all(alive[:k]))
        for optimizer in (actor, critic):
            own = {parameter for group in optimizer.param_groups for parameter in group["params"]}
            check_zeros(
                model, optimizer, Mask({n: alive for n, alive in level.mask.items() if model.get_parameter(n) in own})
            )
        seen.clear()


@pytest.mark.parametrize("k", [0, 1, 3])
@pytest.mark.parametrize("loop", [in_turns, both_before_both, critic_first])
def test_where_nothing_is_pruned_a_level_is_level_0_to_the_bit(loop: Any, k: int, tmp_path: Path) -> None:
    # R1 R2 R3 R6
    model = ActorAndCritic()
    optimizers = pair(model)
    search = Search(model, optimizers, levels=2, rate=0.0, rewind=f"{k}it", path=tmp_path / "search")
    losses = []
    for level in search:
        losses.append(loop(model, *optimizers))
        if level.number == 1:
            break
    model = ActorAndCritic()
    optimizers = pair(model)
    search = Search.resume(tmp_path / "search", model, optimizers)
    losses += [loop(model, *optimizers) for _ in search]
    assert losses[0] == losses[1] == losses[2] == losses[3]
    assert all(weights.equal(search.trained(0), search.trained(level)) for level in (1, 2))


@pytest.mark.parametrize("loop", [in_turns, both_before_both])
def test_a_ticket_of_two_optimisers_begins_with_what_both_left_at_step_k(loop: Any) -> None:  # R1 R6
    model = ActorAndCritic()
    actor, critic = pair(model)
    left: list[dict[str, Tensor]] = []
    search = Search(model, [actor, critic], levels=1, rate=0.5, rewind="3it")
    critic.register_step_post_hook(lambda *_: left.append(weights.of(model)))
    for _ in search:
        loop(model, actor, critic)
    assert weights.equal(dict(search.ticket(0).weights), left[2])
    assert weights.equal(mask.apply(left[2], search.mask(1)), left[STEPS + 2])


def test_adam_first_and_lbfgs_after_it() -> None:  # M1 M2
    model = network()
    for module in model:
        module.train(False)  # L-BFGS takes one function
    adam, lbfgs = OPTIMISERS["adam"](model.parameters()), OPTIMISERS["lbfgs"](model.parameters())

    def descend(first: int) -> list[float]:
        for _ in range(first):
            adam.zero_grad()
            loss_of(model, INPUTS, LABELS).backward()
            adam.step()

        def closure() -> Tensor:
            lbfgs.zero_grad()
            loss = loss_of(model, INPUTS, LABELS)
            loss.backward()
            return loss

        return [lbfgs.step(closure).item() for _ in range(4)]  # type: ignore[attr-defined, arg-type]

    found = []
    for _ in Search(model, [adam, lbfgs], levels=2, rate=0.0, rewind="3it"):
        found.append(descend(STEPS))
    assert found[0] == found[1] == found[2]
    lbfgs.state.clear()
    for level in Search(model, [adam, lbfgs], levels=2, rate=0.5, rewind="3it"):
        descend(STEPS)
        check_zeros(model, adam, level.mask)
    lbfgs.state.clear()
    with pytest.raises(BadInput, match="an L-BFGS that has not stepped by step 8"):
        for _ in Search(model, [adam, lbfgs], levels=1, rewind="8it"):
            descend(STEPS)
    with pytest.raises(BadInput, match="an L-BFGS that has not stepped by step 0"):
        Search(model, [adam, lbfgs], levels=1)


def test_an_optimiser_that_nobody_named_is_warned_of_where_it_goes_on() -> None:
    model, other = network(), nn.Linear(2, 2)
    optimizer, unnamed = OPTIMISERS["sgd"](model.parameters()), OPTIMISERS["adam"](other.parameters())

    def both(second: torch.optim.Optimizer) -> None:
        plain(model, optimizer)
        second.step()

    with pytest.warns(UserWarning, match=r"not given, Adam, steps in the loop and trains 2 that are none") as caught:
        for _ in Search(model, optimizer, levels=2):
            both(unnamed)
    assert len(caught) == 1
    with pytest.warns(UserWarning, match=r"not given, AdamW, steps in the loop and trains 8 parameters of the model"):
        for _ in Search(model, optimizer, levels=0):
            both(OPTIMISERS["adamw"](model.parameters()))
    for _ in Search(model, optimizer, levels=2):  # each made in the loop, for what was made there
        both(OPTIMISERS["adam"](nn.Linear(2, 2).parameters()))
    for _ in Search(model, [optimizer, unnamed], levels=2):
        both(unnamed)


@pytest.mark.parametrize("k", [0, 3])
def test_what_an_optimiser_trains_outside_of_every_module_is_rewound(k: int, tmp_path: Path) -> None:  # R3
    model, balance = network(), torch.ones(2, requires_grad=True)
    optimizer = torch.optim.Adam([*model.parameters(), balance], lr=0.02)

    def weighted() -> list[list[float]]:
        seen = []
        for inputs, labels in batches():
            seen.append(balance.tolist())
            optimizer.zero_grad()
            (loss_of(model, inputs, labels) * balance[0].exp() + balance.square().sum()).backward()
            optimizer.step()
        return seen

    found = []
    for _ in Search(model, optimizer, levels=1, rate=0.5, rewind=f"{k}it", path=tmp_path / "search"):
        found.append(weighted())
    assert found[1][: k + 1] == found[0][: k + 1] and found[0][0] == [1.0, 1.0] != found[0][-1]


@pytest.mark.parametrize("k", [0, 3])
def test_an_optimiser_keeps_its_state_in_the_type_that_it_has(k: int) -> None:  # R3
    """Weights in bfloat16 with a momentum in float32, as master copies have it."""
    model = nn.Sequential(nn.Linear(6, 3)).to(torch.bfloat16)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    def stepped(sgd: torch.optim.Optimizer, *_: object) -> None:
        for parameter in model.parameters():
            momentum = sgd.state[parameter].setdefault("master", torch.zeros(parameter.shape))
            momentum.mul_(0.9).add_(torch.randn(momentum.shape))

    optimizer.register_step_post_hook(stepped)
    found: list[list[Tensor]] = []
    for _ in Search(model, optimizer, levels=1, rate=0.0, rewind=f"{k}it"):
        for inputs, labels in batches():
            optimizer.zero_grad()
            loss_of(model, inputs, labels).backward()
            optimizer.step()
            found.append([state["master"].clone() for state in optimizer.state.values()])
    for first, second in zip(found[:STEPS], found[STEPS:], strict=True):
        assert all(torch.equal(left, right) for left, right in zip(first, second, strict=True))
        assert all(value.dtype is torch.float32 for value in second)


@pytest.mark.filterwarnings("ignore:.*torch.jit")
def test_a_compiled_step_goes_on_at_every_level() -> None:  # S10
    torch.compiler.reset()
    model = nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 3))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.02)
    step = torch.compile(optimizer.step, backend="eager")
    for level in Search(model, optimizer, levels=6, rewind="2it"):
        for inputs, labels in batches(4):
            optimizer.zero_grad()
            loss_of(model, inputs, labels).backward()
            step()
        check_zeros(model, optimizer, level.mask)


class Sam(torch.optim.Optimizer):
    """Sharpness-aware minimisation in two parts, as it is published: its base optimiser takes the step."""

    def __init__(self, parameters: Any, base: Any, **options: Any) -> None:
        super().__init__(parameters, {})
        self.base_optimizer = base(self.param_groups, **options)
        self.param_groups = self.base_optimizer.param_groups

    @torch.no_grad()
    def first_step(self) -> None:
        for parameter in self.param_groups[0]["params"]:
            self.state[parameter]["old"] = parameter.clone()
            parameter.add_(parameter.grad, alpha=0.05)

    @torch.no_grad()
    def second_step(self) -> None:
        for parameter in self.param_groups[0]["params"]:
            parameter.copy_(self.state[parameter]["old"])
        self.base_optimizer.step()


@pytest.mark.parametrize("k", [0, 3])
def test_an_optimiser_in_two_parts_is_searched_by_the_one_that_steps(k: int) -> None:
    model = network()
    sam = Sam(model.parameters(), torch.optim.SGD, lr=0.1, momentum=0.9)

    def sharp() -> None:
        for inputs, labels in batches():
            for part in (sam.first_step, sam.second_step):
                sam.zero_grad()
                loss_of(model, inputs, labels).backward()
                part()

    with pytest.raises(GuardLost, match=r"found none. SGD in `also` stepped: search that one, as sam.base_optimizer"):
        for _ in Search(model, sam, levels=1, also=[sam.base_optimizer]):
            sharp()
    search = Search(model, sam.base_optimizer, levels=1, rate=0.5, rewind=f"{k}it", also=[sam])
    for level in search:
        sharp()
        check_zeros(model, sam.base_optimizer, level.mask)


class Noisy(torch.optim.SGD):
    """0 does not stay 0."""

    def step(self, closure: Any = None) -> Any:
        with torch.no_grad():
            for parameter in self.param_groups[0]["params"]:
                parameter.add_(0.1 - 0.1 * parameter.grad)


@pytest.mark.parametrize("k", [0, 3])
def test_hooks_of_the_users_own_see_what_is_pruned_at_0(k: int) -> None:  # M1
    model = network()
    optimizer = Noisy(model.parameters(), lr=0.1)
    alive: list[int] = []
    pruned: dict[str, Tensor] = {}
    optimizer.register_step_post_hook(
        lambda *_: alive.append(sum(int(model.get_parameter(n)[gone].count_nonzero()) for n, gone in pruned.items()))
    )
    for level in Search(model, optimizer, levels=1, rate=0.5, rewind=f"{k}it"):
        pruned.update({name: ~living for name, living in level.mask.items()})
        plain(model, optimizer)
    assert not any(alive[:STEPS]) and not any(alive[STEPS + max(k - 1, 0) :]) and all(alive[STEPS : STEPS + k - 1])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64, torch.complex64, torch.complex128])
def test_the_gradient_of_what_is_pruned_is_0_as_it_is_made_even_where_it_is_infinite(dtype: torch.dtype) -> None:  # M9
    model = nn.Linear(8, 4, bias=False, dtype=dtype)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    factors = torch.randn(4, 8).to(dtype)
    for level in Search(model, optimizer, levels=1, rate=0.5):
        dead, made = ~level.mask["weight"], factors.clone()
        (model.weight * factors).sum().abs().backward()
        optimizer.step()
        if level.number:
            optimizer.zero_grad()
            made.masked_fill_(dead, -torch.inf)
            model.weight.backward(made)
            assert model.weight.grad is not None and not model.weight.grad[dead].any()
            assert torch.equal(model.weight.grad[~dead], factors[~dead])
            (first,) = torch.autograd.grad(model.weight.abs().pow(3).sum(), model.weight, create_graph=True)
            assert first.requires_grad and not first[dead].any()
            (second,) = torch.autograd.grad(first.abs().sum(), model.weight)
            assert second[~dead].any() and not second[dead].any()
            model.weight.grad.zero_()


def test_of_several_steps_of_another_optimiser_the_first_one_belongs_to_step_k() -> None:  # R1 R6
    model = ActorAndCritic()
    actor, critic = pair(model)
    left: list[dict[str, Tensor]] = []
    critic.register_step_post_hook(lambda *_: left.append(weights.of(model)))
    search = Search(model, [actor, critic], levels=1, rate=0.0, rewind="3it")
    for _ in search:
        for inputs, labels in batches():
            for optimizer, place in ((actor, 0), (critic, 1), (critic, 1)):
                optimizer.zero_grad()
                outputs = model(inputs)[place]
                loss = outputs.square().mean() if place else functional.cross_entropy(outputs, labels)
                loss.backward()
                optimizer.step()
    assert weights.equal(dict(search.ticket(0).weights), left[2 * 2])
    assert all(weights.equal(*both) for both in zip(left[: 2 * STEPS], left[2 * STEPS :], strict=True))


def test_state_that_comes_back_in_another_type_is_masked_in_it() -> None:  # M2 R3
    model = ActorAndCritic().to(torch.bfloat16)
    actor = torch.optim.SGD(model.trained_by(model.actor), lr=0.1)
    critic = torch.optim.SGD(model.trained_by(model.critic), lr=0.1, momentum=0.9)

    def widened(*_: object) -> None:
        for state in critic.state.values():
            state["momentum_buffer"] = state["momentum_buffer"].float()

    critic.register_step_post_hook(widened)
    for level in Search(model, [actor, critic], levels=1, rate=0.5, rewind="3it"):
        for inputs, _ in batches():
            for optimizer, place in ((actor, 0), (critic, 1)):
                optimizer.zero_grad()
                model(inputs.bfloat16())[place].square().mean().backward()
                optimizer.step()
        momentum = critic.state[model.encoder.weight]["momentum_buffer"]
        assert momentum.dtype is torch.float32 and not momentum[~level.mask["encoder.weight"]].any()


def test_a_state_that_is_not_known_is_warned_of_once() -> None:
    """Also where an optimiser has some before its first step."""

    class Marked(torch.optim.Optimizer):
        def __init__(self, parameters: Any) -> None:
            super().__init__(parameters, {})
            for group in self.param_groups:
                for parameter in group["params"]:
                    self.state[parameter]["marks"] = torch.rand_like(parameter)

        @torch.no_grad()
        def step(self, closure: Any = None) -> Any:
            for parameter, state in self.state.items():
                parameter -= 0.1 * state["marks"] * parameter.grad

    for k in (2, 0):
        model = nn.Linear(4, 2)
        optimizer = Marked(model.parameters())
        with pytest.warns(UserWarning, match="Marked: what its state holds") as found:
            for _ in Search(model, optimizer, levels=1, rewind=f"{k}it"):
                for _ in range(4):
                    optimizer.zero_grad()
                    model(torch.randn(3, 4)).square().mean().backward()
                    optimizer.step()
        assert len(found) == 1 and f"left it at step {k}" in str(found[0].message)
        assert ("rewind='0it' leave none" in str(found[0].message)) == (k > 0), "else it is made anew already"
