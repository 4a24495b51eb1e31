"""Sparse layers are the modules that they were: the same objects, the same numbers, plain in every copy and file."""

import copy
import io
import os
import pickle
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any
from unittest.mock import Mock, patch

import pytest
import torch
from torch import Tensor, distributed, nn
from torch.func import functional_call, grad, vmap
from torch.multiprocessing.spawn import spawn
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils import parametrizations, parametrize
from torch.nn.utils import prune as torch_prune
from torch.optim.swa_utils import AveragedModel
from torch.utils.checkpoint import checkpoint

from tombola import mask, models, prunable, weights
from tombola.errors import BadInput
from tombola.mask import Mask
from tombola.models import Initialisation
from tombola.sparse import functional, layers
from tombola.train import guarded


class Net(nn.Module):
    """A strided convolution, a grouped one, a linear layer of many leading axes, one without a bias."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, 8, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU(),
            nn.Conv2d(8, 8, (3, 1), padding="same", dilation=2, groups=2), nn.ReLU(), nn.Conv2d(8, 6, 1),
        )  # fmt: skip
        self.tokens = nn.Linear(16, 12)
        self.output = nn.Linear(6 * 12, 4, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        maps: Tensor = self.body(x).flatten(2)
        scores: Tensor = self.output(self.tokens(maps).relu().flatten(1))
        return scores


INPUTS = torch.randn(5, 3, 8, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def masked(model: nn.Module, density: float = 0.3) -> Mask:
    """A random mask, under which `model` is put."""
    draw = torch.Generator().manual_seed(2)
    living = Mask({name: torch.rand(a.shape, generator=draw) < density for name, a in prunable.full(model).items()})
    weights.put(model, mask.apply(weights.of(model), living))
    return living


def pair(dtype: torch.dtype = torch.float64) -> tuple[Net, Net]:
    """A network under a mask, and the same with sparse layers."""
    torch.manual_seed(0)
    model = Net().to(dtype)
    living = masked(model)
    other = copy.deepcopy(model)
    put_on(other, living)
    return model, other


def put_on(model: nn.Module, living: Mask) -> None:
    able, _ = layers.candidates(model, living)
    for each in able.values():
        each.put_on()


def answers(model: nn.Module, inputs: Tensor = INPUTS) -> dict[str, Tensor]:
    """What a network gives, and the gradients of all that it has."""
    model.zero_grad()
    inputs = inputs.clone().requires_grad_()
    given = model(inputs.to(next(model.parameters()).dtype))
    given.square().sum().backward()
    found = {name: each.grad.clone() for name, each in model.named_parameters() if each.grad is not None}
    assert inputs.grad is not None
    return found | {"answers": given.detach(), "inputs": inputs.grad}


def near(left: dict[str, Tensor], right: dict[str, Tensor], within: float = 1e-9) -> bool:
    pairs = [(left[name].detach(), right[name].detach()) for name in left.keys() & right.keys()]
    return left.keys() == right.keys() and all(
        float((one - other).abs().max()) <= within * max(1, float(other.abs().max())) for one, other in pairs
    )


def living_only(found: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Gradients of pruned weights at 0, as a guard leaves them."""
    alive = {name: each.detach() != 0 for name, each in model.named_parameters() if each.dim() > 1}
    return {name: value * alive[name] if name in alive else value for name, value in found.items()}


def test_they_give_the_same_answers_and_gradients_of_living_weights_only() -> None:
    plain, sparse = pair()
    names = [name for name, _ in layers.sparse_layers(sparse)]
    assert names == ["body.0", "body.3", "body.5", "tokens", "output"]
    assert near(answers(sparse), living_only(answers(plain), plain))
    assert not near(answers(sparse), answers(plain)), "gradients of pruned weights"


def test_the_modules_their_parameters_and_names_are_the_same_objects() -> None:
    torch.manual_seed(0)
    model = Net()
    living, called = masked(model), []
    before = dict(model.named_parameters()), dict(model.named_modules()), list(model.state_dict())
    model.tokens.register_forward_hook(lambda *_: called.append("forward"))
    put_on(model, living)
    after = dict(model.named_parameters()), dict(model.named_modules()), list(model.state_dict())
    assert all(before[at][name] is after[at][name] for at in (0, 1) for name in before[at])  # type: ignore[index]
    assert before[2] == after[2] and isinstance(model.tokens, nn.Linear) and isinstance(model.body[0], nn.Conv2d)
    model(INPUTS.float())
    assert called == ["forward"]
    for _, module in list(layers.sparse_layers(model)):
        layers.dense(module)
    assert type(model.tokens) is nn.Linear and not [*layers.sparse_layers(model)]
    assert model.tokens.__dict__.keys() == nn.Linear(1, 1).__dict__.keys()


def saved(model: nn.Module, folder: Path) -> Any:
    torch.save(model, folder / "model.pt")
    return torch.load(folder / "model.pt", weights_only=False)


COPIES: dict[str, Callable[[nn.Module, Path], Any]] = {
    "deepcopy": lambda model, _: copy.deepcopy(model),
    "pickle": lambda model, _: pickle.loads(pickle.dumps(model)),
    "torch.save": saved,
    "an average": lambda model, _: AveragedModel(model).module,
    "a copy of a copy": lambda model, _: copy.deepcopy(copy.copy(model)),
}


@pytest.mark.parametrize("way", COPIES)
def test_copies_and_files_are_plain(way: str, tmp_path: Path) -> None:
    plain, sparse = pair()
    made = COPIES[way](sparse, tmp_path)
    assert type(made.tokens) is nn.Linear and type(made.body[0]) is nn.Conv2d
    assert not [*layers.sparse_layers(made)] and [*layers.sparse_layers(sparse)]
    assert near(answers(made), answers(plain))


def test_a_file_of_a_model_names_nothing_of_ours() -> None:
    _, sparse = pair()
    written = io.BytesIO()
    torch.save(sparse.get_submodule("tokens"), written)
    assert b"tombola" not in written.getvalue()


def test_a_state_dict_goes_in_and_out() -> None:
    plain, sparse = pair()
    other = {name: value * 2 for name, value in plain.state_dict().items()}
    plain.load_state_dict(other), sparse.load_state_dict(other)
    assert near(answers(sparse), living_only(answers(plain), plain))


def test_other_weights_in_their_place_are_computed_with_as_they_are() -> None:
    """Of a functional call, of gradients by examples, of noise that a loop adds for a while, of a dense network."""
    plain, sparse = pair()
    noisy = {name: each + 0.1 for name, each in plain.named_parameters()}
    assert torch.equal(functional_call(sparse, noisy, (INPUTS,)), functional_call(plain, noisy, (INPUTS,)))

    def loss(parameters: dict[str, Tensor], example: Tensor, model: nn.Module) -> Tensor:
        given: Tensor = functional_call(model, parameters, (example[None],)).square().sum()
        return given

    plain.eval(), sparse.eval()
    each = vmap(grad(loss), in_dims=(None, 0, None))
    own = {name: each.detach() for name, each in plain.named_parameters()}
    assert near(each(own, INPUTS, sparse), each(own, INPUTS, plain))
    with torch.no_grad():
        for model in (plain, sparse):
            for parameter in model.parameters():
                parameter.data += 0.1
    assert torch.equal(sparse(INPUTS), plain(INPUTS))


def test_another_ticket_of_as_many_weights_is_computed_with_as_it_is() -> None:
    """Also where pruned weights come alive while as many living ones are 0, as after a proximal step."""
    torch.manual_seed(0)
    layer, alive = nn.Linear(16, 8), torch.rand(8, 16) < 0.3
    layer.weight.data.mul_(alive)
    layers.put_on(layer, alive)
    x = torch.randn(5, 16)
    other = torch.zeros(128).scatter_(0, torch.randperm(128)[: int(alive.sum())], 1.0).view(8, 16)
    zeros = torch.where(alive, torch.zeros(8, 16), torch.rand(8, 16) < 0.1)
    zeros[alive.nonzero()[0, 0], alive.nonzero()[0, 1]] = 1.0
    for given in (other * torch.randn(8, 16), zeros):
        layer.load_state_dict({"weight": given, "bias": torch.randn(8)})
        assert torch.allclose(layer(x), nn.functional.linear(x, given, layer.bias), atol=1e-5)


def test_checkpointing_and_clipping_see_the_same_numbers() -> None:
    plain, sparse = pair()
    norms = []
    for model in (plain, sparse):
        assert isinstance(model, Net)
        body = checkpoint(model.body, INPUTS.clone().requires_grad_(), use_reentrant=False)
        model.output(model.tokens(body.flatten(2)).relu().flatten(1)).square().sum().backward()
        for parameter in model.parameters():
            if parameter.grad is not None:
                parameter.grad.mul_(parameter.detach() != 0)
        norms.append(float(nn.utils.clip_grad_norm_(model.parameters(), 1.0)))
    assert norms[0] == pytest.approx(norms[1], rel=1e-9)


def test_they_are_traced_and_compiled_as_plain_ones() -> None:
    plain, sparse = pair()
    traced = torch.fx.symbolic_trace(sparse)
    assert [node.target for node in traced.graph.nodes if node.op == "call_module"] == [
        node.target for node in torch.fx.symbolic_trace(plain).graph.nodes if node.op == "call_module"
    ]
    assert near({"": traced(INPUTS).detach()}, {"": plain(INPUTS).detach()})
    compiled: Any = torch.compile(sparse, backend="eager", fullgraph=True)
    found = {name.removeprefix("_orig_mod."): value for name, value in answers(compiled).items()}
    assert near(found, answers(plain))
    exported = torch.export.export(sparse.eval(), (INPUTS,)).module()
    assert near({"": exported(INPUTS).detach()}, {"": plain.eval()(INPUTS).detach()})


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
def test_script_and_trace_give_what_they_give_of_a_plain_model() -> None:
    """What is scripted is plain from then on, the same objects, since torch.jit.script puts what it read in place."""
    plain, sparse = pair()
    traced = torch.jit.trace(sparse.eval(), INPUTS)
    assert [*layers.sparse_layers(sparse)] and "tombola" not in str(traced.inlined_graph)
    assert near({"": traced(INPUTS).detach()}, {"": plain.eval()(INPUTS).detach()})
    before = [*sparse.modules()]
    scripted = torch.jit.script(sparse)
    assert near({"": scripted(INPUTS).detach()}, {"": plain(INPUTS).detach()})
    assert [*sparse.modules()] == before and not [*layers.sparse_layers(sparse)]
    assert near(answers(sparse), answers(plain)) and scripted.tokens.weight is sparse.tokens.weight


CHANGES: dict[str, tuple[Callable[[nn.Module], Any], float, bool]] = {
    "half": (nn.Module.half, 2e-2, False),
    "bfloat16": (nn.Module.bfloat16, 1e-1, False),
    "float": (nn.Module.float, 1e-4, True),
    "there and back": (lambda model: model.half().double(), 1e-9, True),
    "share_memory": (nn.Module.share_memory, 1e-9, True),
    "channels last": (lambda model: model.to(memory_format=torch.channels_last), 1e-9, True),  # type: ignore[call-overload]
    "frozen": (lambda model: model.requires_grad_(False).tokens.requires_grad_(), 1e-9, True),
}


@pytest.mark.parametrize("way", CHANGES)
def test_a_model_that_is_changed_midway_computes_as_a_plain_one_that_is(way: str) -> None:
    change, within, sparsely = CHANGES[way]
    plain, sparse = pair()
    for model in (plain, sparse):
        change(model.eval())
    found = answers(sparse)
    expected = answers(plain)
    assert near(living_only(found, plain), living_only(expected, plain), within)
    taken = {type(each._living) for _, each in layers.sparse_layers(sparse) if each._living and each._living.computed}
    assert bool(taken) == sparsely, "and with its living weights wherever the kernels have the type"


def test_gradients_add_up_over_backward_passes() -> None:
    plain, sparse = pair()
    for model in (plain, sparse):
        model.eval()
        for part in INPUTS.split(2):
            model(part).square().sum().backward()
    found, expected = ({name: each.grad for name, each in model.named_parameters()} for model in (sparse, plain))
    assert near(found, living_only(expected, plain))  # type: ignore[arg-type]


def test_an_empty_batch_and_one_example_go_through() -> None:
    plain, sparse = pair()
    plain.eval(), sparse.eval()
    assert sparse(INPUTS[:0]).shape == (0, 4)
    assert near({"": sparse(INPUTS[:1]).detach()}, {"": plain(INPUTS[:1]).detach()})
    tokens, maps = torch.ones(16, dtype=torch.float64), INPUTS[0]
    assert near({"": sparse.tokens(tokens).detach()}, {"": plain.tokens(tokens).detach()})
    assert near({"": sparse.body[0](maps).detach()}, {"": plain.body[0](maps).detach()})


class Own(nn.Linear):
    """A class of the user's own that computes what torch's does."""

    def shout(self) -> str:
        return "!"


class Scaled(nn.Linear):
    """One that computes something else."""

    def forward(self, input: Tensor) -> Tensor:
        return 2 * super().forward(input)


def test_a_class_of_ones_own_keeps_all_it_has_and_one_with_a_forward_of_its_own_is_left_alone() -> None:
    own, living = Own(4, 3), torch.eye(3, 4).bool()
    with torch.no_grad():
        own.weight *= living
    before = own(torch.ones(2, 4))
    layers.put_on(own, living)
    assert isinstance(own, Own) and isinstance(own, layers.SparseLinear) and own.shout() == "!"
    assert torch.allclose(own(torch.ones(2, 4)), before) and type(copy.deepcopy(own)) is Own
    layers.dense(own)
    assert type(own) is Own
    with pytest.raises(BadInput, match="its forward is not torch's own"):
        layers.put_on(Scaled(4, 3), living)


class Packed(nn.Linear):
    """One that is copied in a way of its own."""

    def __reduce__(self) -> tuple[Any, ...]:
        return nn.Linear, (self.in_features, self.out_features)


def pruned_by_torch() -> nn.Module:
    layer = nn.Linear(4, 3)
    torch_prune.random_unstructured(layer, "weight", 0.5)
    return layer


LEFT: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "weight norm": (lambda: parametrizations.weight_norm(nn.Linear(4, 3)), "computed from others"),
    "pruned by torch": (pruned_by_torch, "computed from others"),
    "half": (lambda: nn.Linear(4, 3).half(), "float16"),
    "meta": (lambda: nn.Linear(4, 3, device="meta"), "no numbers yet"),
    "lazy": (lambda: nn.LazyLinear(3), "no numbers yet"),
    "depthwise": (lambda: nn.Conv2d(4, 4, 3, groups=4), "depthwise"),
    "reflecting": (lambda: nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect"), "reflect"),
    "copied otherwise": (lambda: Packed(4, 3), "a way of its own to be copied"),
    "projection of attention": (lambda: nn.MultiheadAttention(4, 2).out_proj, "attention multiplies with its weights"),
    "one dimension": (lambda: nn.Conv1d(4, 4, 3), "no linear layer and no 2d convolution"),
}


@pytest.mark.parametrize("which", LEFT)
def test_what_is_left_alone_is_told_with_the_reason(which: str) -> None:
    build, reason = LEFT[which]
    assert reason in layers.hindrance(build())


def test_a_parametrization_that_comes_later_is_computed_with() -> None:
    layer: Any = nn.Linear(4, 3)
    living = torch.eye(3, 4).bool()
    with torch.no_grad():
        layer.weight *= living
    layers.put_on(layer, living)
    parametrizations.weight_norm(layer)
    with torch.no_grad():
        layer.parametrizations["weight"].original1 += 1
    assert torch.allclose(layer(torch.ones(1, 4)), nn.functional.linear(torch.ones(1, 4), layer.weight, layer.bias))
    layers.dense(layer)
    parametrize.remove_parametrizations(layer, "weight")
    with torch.no_grad():
        layer.weight.fill_(1)
    assert torch.allclose(layer(torch.ones(1, 4)), layer.bias + 4), "and nothing of the mask is left when it goes"
    assert not list(layers.sparse_layers(layer))


FOLLOWED: dict[str, tuple[tuple[int, ...], int, Initialisation]] = {
    "resnet-8-w4": ((3, 8, 8), 10, "kaiming-normal"),
    "vgg-11-w2": ((3, 32, 32), 10, "kaiming-normal"),
    "gpt-1-16": ((8, 20), 20, "normal-0.02"),
}


def batch(name: str, shape: tuple[int, ...], classes: int, draw: torch.Generator) -> tuple[Tensor, Tensor]:
    if name.startswith("gpt"):
        tokens = torch.randint(0, classes, (4, shape[0] + 1), generator=draw)
        return tokens[:, :-1], tokens[:, 1:]
    return torch.randn(8, *shape, generator=draw, dtype=torch.float64), torch.randint(0, classes, (8,), generator=draw)


@pytest.mark.parametrize("name", FOLLOWED)
def test_200_steps_follow_the_plain_loop(name: str) -> None:
    """In float64, where rounding has not grown past 1e-6 by then; the pruned weights are 0 all the way."""
    shape, classes, how = FOLLOWED[name]
    ends = []
    for sparse in (False, True):
        model = models.build(name, shape, classes, how, 0).double()
        living, draw = masked(model, 0.2), torch.Generator().manual_seed(3)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9, weight_decay=1e-3)
        if sparse:
            put_on(model, living)
            assert len([*layers.sparse_layers(model)]) > 5
        with guarded(model, optimizer, living) as guard:
            for _ in range(200):
                inputs, labels = batch(name, shape, classes, draw)
                optimizer.zero_grad()
                nn.functional.cross_entropy(model(inputs).flatten(0, -2), labels.flatten()).backward()
                optimizer.step()
            guard.check()
        ends.append(weights.of(model))
    assert near(ends[1], ends[0], within=1e-6)
    start = models.build(name, shape, classes, how, 0).double().state_dict()
    assert not near(ends[1], {key: start[key] for key in ends[1]}, within=1e-2), "it learned"


def one_of_two(rank: int, folder: str) -> None:
    """A process whose gradients are the means of both: the second step goes through the buckets that the first made."""
    torch.set_num_threads(1)
    meeting, limit = f"file://{folder}/meeting", timedelta(seconds=60)
    distributed.init_process_group("gloo", init_method=meeting, rank=rank, world_size=2, timeout=limit)
    halves = INPUTS[:2], INPUTS[2:4]
    for views in (False, True):
        plain, sparse = pair()
        parallel = DistributedDataParallel(sparse, gradient_as_bucket_view=views)
        calls = Mock(wraps=functional.conv2d)
        for _ in range(2):
            with patch.object(functional, "conv2d", calls):
                found = answers(parallel, halves[rank])
            each = [living_only(answers(plain, half), plain) for half in halves]
            means = {f"module.{name}": (each[0][name] + each[1][name]) / 2 for name, _ in plain.named_parameters()}
            assert near({name: found[name] for name in means}, means)
            assert near(
                {name: found[name] for name in ("answers", "inputs")},
                {name: each[rank][name] for name in ("answers", "inputs")},
            )
        assert calls.call_count == 6
    distributed.barrier()
    os._exit(0)  # the end of a group waits for ever now and then, where what was shared by it outlives it


@pytest.mark.skipif(not distributed.is_available() or not distributed.is_gloo_available(), reason="no gloo")
def test_processes_that_share_their_gradients_get_those_of_the_plain_layers(tmp_path: Path) -> None:
    spawn(one_of_two, (str(tmp_path),), nprocs=2)
