"""What is exported computes the same elsewhere, for batches of any size."""

import json
import re
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load, load_file, save, save_file
from torch import Tensor, nn
from torch.nn.utils import prune

from tombola import mask as masks
from tombola import models, prunable, weights
from tombola.cash import timing
from tombola.cash.compaction import compact
from tombola.cash.export import from_safetensors, stored, to_onnx, to_safetensors, to_torch_export
from tombola.cash.masking import masked
from tombola.cash.quantization import QuantisedLinear, quantize
from tombola.cash.sparsification import sparsify
from tombola.engine import kernels
from tombola.errors import BadInput
from tombola.mask import Mask
from tombola.ticket import Ticket

SHAPE = (3, 8, 8)


def built(name: str, init_seed: int = 0) -> nn.Module:
    return models.build(name, SHAPE, 10, "kaiming-normal", init_seed).eval()


def ticket(name: str, density: float = 0.1) -> tuple[nn.Module, nn.Module]:
    """A network under a random mask, and the same compacted."""
    model, generator = built(name), torch.Generator().manual_seed(0)
    alive = prunable.full(model)
    mask = Mask({name: torch.rand(each.shape, generator=generator) < density for name, each in alive.items()})
    weights.put(model, masks.apply(weights.of(model), mask))
    return model, compact(model, mask, examples(1))


def examples(size: int) -> Tensor:
    return torch.randn(size, *SHAPE, generator=torch.Generator().manual_seed(size))


class TwoInputs(nn.Module):
    """Reads a tuple and gives one; in training mode it gives something else."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.dropout = nn.Linear(5, 3), nn.Dropout(0.9)

    def forward(self, left: Tensor, right: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        return self.dropout(self.linear(left)), {"sum": left + right}


class Beside(nn.Module):
    """Gives what is no tensor beside one that is."""

    def __init__(self, other: object) -> None:
        super().__init__()
        self.linear, self.other = nn.Linear(3, 2), other

    def forward(self, values: Tensor) -> tuple[object, ...]:
        return self.other, self.linear(values)


class Undecided(nn.Module):
    def forward(self, values: Tensor) -> Tensor:
        return values if values.sum() > 0 else -values


def test_onnx_runtime_computes_the_same_for_any_batch(tmp_path: Path) -> None:
    import onnxruntime

    model = quantize(ticket("lenet-20-10")[1])
    assert to_onnx(model, examples(1), tmp_path / "model.onnx") < 1e-4
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    for size in (1, 2, 33):
        (found,) = session.run(None, {session.get_inputs()[0].name: examples(size).numpy()})
        assert torch.allclose(torch.from_numpy(found), model(examples(size)).detach(), atol=1e-5)
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]  # no second file for the weights


def test_sparse_initializers_make_the_file_smaller_and_nothing_else(tmp_path: Path) -> None:
    import onnx

    model, _ = ticket("conv-2-w8", density=0.02)
    assert to_onnx(model, examples(2), tmp_path / "model.onnx", sparse=True) < 1e-4
    assert (tmp_path / "model.onnx").stat().st_size < 4 * prunable.full(model).total / 8
    onnx.checker.check_model(onnx.load(tmp_path / "model.onnx"))


def test_torch_export_computes_the_same_for_any_batch(tmp_path: Path) -> None:
    _, small = ticket("conv-2-w8")
    small.train()
    assert to_torch_export(small, examples(1), tmp_path / "model.pt2") < 1e-5
    assert small.training and small.get_submodule("conv1").training  # as it was
    reloaded = torch.export.load(tmp_path / "model.pt2").module()
    assert torch.allclose(reloaded(examples(7)), small.eval()(examples(7)), atol=1e-5)


def test_several_inputs_and_outputs_are_compared(tmp_path: Path) -> None:
    inputs = torch.ones(1, 5), torch.zeros(1, 5)
    assert to_torch_export(TwoInputs(), inputs, tmp_path / "model.pt2") == 0


@pytest.mark.parametrize("other", [None, 7, (), {"none": None}])
def test_outputs_that_are_no_tensors_are_passed_over(other: object, tmp_path: Path) -> None:
    assert to_torch_export(Beside(other), torch.ones(2, 3), tmp_path / "model.pt2") == 0


def test_what_onnx_runtime_cannot_run_is_refused_with_its_cause_in_plain_text(tmp_path: Path) -> None:
    assert to_onnx(nn.Linear(3, 2), torch.ones(2, 3), tmp_path / "model.onnx") < 1e-6
    model = nn.Linear(3, 2).bfloat16()
    for one, cause in (
        (model, "bfloat16|NOT_IMPLEMENTED"),
        (Beside(7), "AttributeError|int"),
        (Undecided(), "guard|data-dep"),
    ):
        example = torch.ones(2, 3, dtype=torch.bfloat16 if one is model else torch.float32)
        with pytest.raises(BadInput, match=f"{type(one).__name__}: expected a model .*found .*({cause})") as error:
            to_onnx(one, example, tmp_path / "other.onnx")
        assert "\x1b" not in str(error.value)
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]


def test_what_cannot_be_copied_is_refused_with_what_to_do(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(3, 2))
    prune.random_unstructured(model[0], "weight", 0.5)
    model(torch.ones(2, 3))
    forms: list[Callable[[], object]] = [
        lambda: compact(model, Mask({}), torch.ones(2, 3)),
        lambda: quantize(model),
        *([lambda: sparsify(model, torch.ones(2, 3))] if kernels.sets() else []),
        lambda: to_torch_export(model, torch.ones(2, 3), tmp_path / "model.pt2"),
        lambda: to_onnx(model, torch.ones(2, 3), tmp_path / "model.onnx"),
    ]
    for form in forms:
        with pytest.raises(BadInput, match=r"Sequential, 0: expected a plain model, .*torch\.nn\.utils\.prune\.remove"):
            form()


def test_arguments_that_have_changed_places_are_said(tmp_path: Path) -> None:
    model, values = nn.Linear(3, 2), torch.ones(2, 3)
    mask: Any = prunable.full(model)
    forms: list[tuple[str, Callable[[], object]]] = [
        ("Mask", lambda: compact(mask, model, values)),  # type: ignore[arg-type]
        ("Tensor", lambda: quantize(values)),  # type: ignore[arg-type]
        ("Mask", lambda: to_torch_export(mask, values, tmp_path / "model.pt2")),
        (r"\w*Path", lambda: to_safetensors(tmp_path, model)),  # type: ignore[arg-type]
        *([("Tensor", lambda: sparsify(values, model))] if kernels.sets() else []),  # type: ignore[arg-type]
    ]
    for kind, form in forms:
        with pytest.raises(BadInput, match=rf"model: expected a model, an nn\.Module, found a {kind}\. .*comes first"):
            form()
    with pytest.raises(BadInput, match="mask: expected a Mask, found Tensor"):
        compact(model, values, mask)  # type: ignore[arg-type]
    with pytest.raises(BadInput, match=r"cash\.sparsify: expected a model and an example, .*`cash\.compact"):
        sparsify(model, mask)


def test_a_difference_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = nn.Linear(2, 2)
    load = torch.export.load

    def damaged(file: Any) -> Any:
        program = load(file)
        program.state_dict["bias"].data[0] += 0.5
        return program

    monkeypatch.setattr(torch.export, "load", damaged)
    with pytest.raises(BadInput, match=r"the torch\.export file within .* found a difference of 0\.5"):
        to_torch_export(model, torch.zeros(3, 2), tmp_path / "model.pt2")
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_computes_something_else_is_not_kept(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.AvgPool2d(2, divisor_override=3))  # which ONNX does not have
    with pytest.raises(BadInput, match=r"Sequential: expected outputs of the ONNX file within .* a difference of"):
        to_onnx(model, torch.rand(4, 1, 8, 8), tmp_path / "model.onnx")
    assert list(tmp_path.iterdir()) == []
    assert to_torch_export(model, torch.rand(4, 1, 8, 8), tmp_path / "model.pt2") < 1e-6


@pytest.mark.parametrize("export", [to_onnx, to_torch_export])
def test_a_number_among_the_inputs_is_refused(export: Callable[..., float], tmp_path: Path) -> None:
    example: Any = torch.ones(2, 5), 0.5
    with pytest.raises(BadInput, match=r"the example: .*found float as input 1\. .*self\.model\(x, 0\.5"):
        export(TwoInputs(), example, tmp_path / "model")
    assert list(tmp_path.iterdir()) == []


class Counted(nn.Module):
    """Takes its batch for a number."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 2)

    def forward(self, values: Tensor) -> Tensor:
        scores: Tensor = self.linear(values).view(len(values), 2)
        return scores


@pytest.mark.parametrize("export", [to_onnx, to_torch_export])
def test_a_batch_that_is_taken_for_a_number_is_said_with_what_to_write(
    export: Callable[..., float], tmp_path: Path
) -> None:
    with pytest.raises(BadInput, match=r"batches of any size.*write `x\.shape\[0\]` for `len\(x\)`"):
        export(Counted(), torch.zeros(4, 3), tmp_path / "model")
    assert list(tmp_path.iterdir()) == []


class Nodes(nn.Module):
    """A layer of a graph network: nodes, and which are beside which."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 2)

    def forward(self, values: Tensor, beside: Tensor) -> Tensor:
        found: Tensor = beside @ self.linear(values)
        return found


def test_only_inputs_that_have_the_batch_are_of_any_size(tmp_path: Path) -> None:
    graphs, table = torch.rand(6, 4, 3), torch.rand(4, 4)
    assert to_torch_export(Nodes(), (graphs, table), tmp_path / "model.pt2") < 1e-6
    reloaded = torch.export.load(tmp_path / "model.pt2").module()
    assert reloaded(torch.rand(9, 4, 3), table).shape == (9, 4, 2)
    assert to_torch_export(Nodes(), (graphs[0], table), tmp_path / "one.pt2", batch_axes=(None, None)) < 1e-6
    assert torch.export.load(tmp_path / "one.pt2").module()(graphs[1], table).shape == (4, 2)
    last = graphs.movedim(0, 2)  # 4 x 3 x N
    model = nn.Sequential(nn.Linear(3, 2), nn.Flatten(2, -1))
    assert to_torch_export(model, graphs.movedim(0, 1), tmp_path / "time-first.pt2", batch_axes=(1,)) < 1e-6
    assert torch.export.load(tmp_path / "time-first.pt2").module()(torch.rand(4, 9, 3)).shape == (4, 9, 2)
    for axes in ((0,), (0, 2), (0, 0), (3, None), ("a", 0), 5):
        with pytest.raises(BadInput, match="batch_axes: expected for each of the 2 inputs the axis of the batch"):
            to_torch_export(Nodes(), (last, torch.rand(6, 6)), tmp_path / "not.pt2", batch_axes=axes)  # type: ignore[arg-type]
    assert not (tmp_path / "not.pt2").exists()


def test_what_cannot_be_exported_is_refused_and_nothing_is_written(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"Undecided: expected a model that torch.export can follow"):
        to_torch_export(Undecided(), torch.zeros(2, 3), tmp_path / "model.pt2")
    with pytest.raises(BadInput, match="expected a file that can be written"):
        to_safetensors(nn.Linear(2, 2), tmp_path / "absent" / "model.safetensors")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not kernels.sets(), reason="no kernels were compiled")
@pytest.mark.parametrize("export", [to_onnx, to_torch_export])
def test_torch_says_nothing_on_the_way(
    export: Callable[..., float], tmp_path: Path, capfd: pytest.CaptureFixture[str], recwarn: pytest.WarningsRecorder
) -> None:
    """It printed sixty lines of graphs where a call decides by values, and warned of axes where inputs are two."""
    with pytest.raises(BadInput, match="data-dependent"):
        export(Undecided(), torch.ones(3, 2), tmp_path / "file")
    export(TwoInputs(), (torch.ones(3, 5), torch.ones(3, 5)), tmp_path / "file")
    assert capfd.readouterr() == ("", "") and not recwarn.list


def test_a_sparse_model_is_not_written_and_the_message_says_what_is(tmp_path: Path) -> None:
    model, values = nn.Sequential(nn.Conv2d(3, 2, 3), nn.Flatten(), nn.Linear(72, 4)), examples(2)
    for one in (model, model[:1]):
        fast = sparsify(one, values, everywhere=True)
        for export in (to_onnx, to_torch_export):
            with pytest.raises(BadInput, match=r"without sparse layers.* cannot be exported.*compact form.*t`\.$"):
                export(fast, values, tmp_path / "model")
        with pytest.raises(BadInput, match=r"without sparse layers.* Write the model that they were made of.*y`\.$"):
            to_safetensors(fast, tmp_path / "model")
    assert list(tmp_path.iterdir()) == []


def test_without_the_extra_onnx_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(BadInput, match=r"onnxruntime, found no such package. Install it: pip install '\.\[export\]'"):
        to_onnx(nn.Linear(2, 2), torch.zeros(1, 2), tmp_path / "model.onnx")


@pytest.mark.skipif(not kernels.sets(), reason="no compiled kernels here")
def test_the_examples_of_the_docs_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(timing, "timed", partial(timing.timed, rounds=1, round_s=0.001))
    page = Path(__file__).parents[1] / "docs" / "cashing-in.md"
    names: dict[str, Any] = {}
    own, read_back, one_form, ensemble, channels = re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL)
    exec(own, names)
    accuracy = {form.name: form.accuracy for form in names["forms"]}
    assert accuracy["dense"] > 0.9 and accuracy["compact"] == accuracy["sparse"] == accuracy["dense"]
    with torch.inference_mode():
        wanted = names["model"](names["images"])  # which has nothing of what is pruned: the search saw to it
        exec(read_back, names)
        for form in ("small", "again", "fast"):
            torch.testing.assert_close(names[form](names["images"]), wanted, rtol=1e-4, atol=1e-4)
    exec(one_form, names)
    assert names["difference"] < 1e-6
    assert names["small"].fc1.out_features == 150 and type(names["again"].fc1) is QuantisedLinear
    exec(ensemble, names)
    with torch.inference_mode():
        for form in ("ensemble", "beside", "fast", "again"):
            found = names[form](names["inputs"]).softmax(dim=1)
            torch.testing.assert_close(found, names["mean"], rtol=1e-4, atol=1e-6)
    exec(channels, names)
    assert f"{names['before']:,} -> {names['after']:,} parameters" in capsys.readouterr().out
    assert f"# {names['before']:,} -> {names['after']:,}" in channels
    images = torch.randn(5, 3, 32, 32)
    with torch.no_grad():
        wanted = masked(names["model"], names["channels"])(images)
        torch.testing.assert_close(names["small"](images), wanted, rtol=1e-4, atol=1e-4)


# ---------------------------------------------------------------- safetensors


@pytest.mark.parametrize("name", ["lenet-20-10", "conv-2-w8", "resnet-8-w4"])
@pytest.mark.parametrize("eight_bits", [False, True])
def test_a_compacted_model_comes_back_from_its_file_alone(name: str, eight_bits: bool, tmp_path: Path) -> None:  # R10
    model, small = ticket(name, density=0.03)
    small = quantize(small) if eight_bits else small
    to_safetensors(small, tmp_path / "model.safetensors")
    again = from_safetensors(built(name, init_seed=1), tmp_path / "model.safetensors")
    assert str(again) == str(small) and not again.training
    assert torch.equal(again(examples(3)), small(examples(3)))
    dense = sum(value.nbytes for value in weights.of(model).values())
    assert (tmp_path / "model.safetensors").stat().st_size < dense


def test_biases_that_were_created_and_depthwise_windows_come_back(tmp_path: Path) -> None:
    parts = [nn.Conv2d(3, 4, 1, bias=False), nn.Sigmoid(), nn.Conv2d(4, 4, 3, groups=4), nn.Conv2d(4, 2, 1, bias=False)]
    model = nn.Sequential(*parts)
    alive = {name: each.clone() for name, each in prunable.full(model).items()}
    alive["0.weight"][1] = False
    small = compact(model, Mask(alive), examples(1))
    assert small.get_parameter("2.weight").shape == (3, 1, 3, 3) and "3.bias" in small.state_dict()
    to_safetensors(small, tmp_path / "model.safetensors")
    again = from_safetensors(model, tmp_path / "model.safetensors")
    assert str(again) == str(small) and torch.equal(again(examples(3)), small(examples(3)))


def test_tied_weights_are_written_once_and_stay_tied(tmp_path: Path) -> None:
    def tied() -> nn.Module:
        model = nn.ModuleDict({"tokens": nn.Embedding(50, 30), "output": nn.Linear(30, 50, bias=False)})
        model["output"].weight = model["tokens"].weight
        return model

    one, other = tied(), tied()
    to_safetensors(one, tmp_path / "model.safetensors")
    assert (tmp_path / "model.safetensors").stat().st_size < 1.1 * 4 * 50 * 30
    again = from_safetensors(other, tmp_path / "model.safetensors")
    assert weights.equal(weights.of(again), weights.of(one))
    assert again.get_parameter("output.weight") is again.get_parameter("tokens.weight")


class Scaled(nn.Module):
    """With a `scale` of its own, as quantised layers have one."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.scale = nn.Linear(64, 30), nn.Linear(30, 10), nn.Parameter(torch.tensor([2.0]))

    def forward(self, values: Tensor) -> Tensor:
        result: Tensor = self.two(self.one(values).relu()) * self.scale
        return result


@pytest.mark.parametrize("change", [lambda small: small, quantize])
def test_a_model_with_a_scale_of_its_own_comes_back(tmp_path: Path, change: Callable[[nn.Module], nn.Module]) -> None:
    model, values = Scaled(), torch.randn(3, 64)
    alive = {name: each.clone() for name, each in prunable.full(model).items()}
    alive["two.weight"][:, :9] = False
    small = change(compact(model, Mask(alive), values))
    to_safetensors(small, tmp_path / "model.safetensors")
    again = from_safetensors(Scaled(), tmp_path / "model.safetensors")
    assert str(again) == str(small) and torch.equal(again(values), small(values))


def test_a_file_of_another_model_is_refused(tmp_path: Path) -> None:
    to_safetensors(ticket("lenet-20-10")[1], tmp_path / "gathered.safetensors")
    to_safetensors(nn.Sequential(nn.Conv2d(2, 2, 3)), tmp_path / "model.safetensors")
    others = [nn.Linear(2, 2), nn.Conv2d(2, 2, 5), nn.Conv1d(2, 2, 3), nn.Sequential(nn.Conv2d(2, 2, 3)), nn.ReLU()]
    for other in others:
        for name in ("model", "gathered"):
            with pytest.raises(BadInput, match="another model"):
                from_safetensors(nn.Sequential(other), tmp_path / f"{name}.safetensors")
    (tmp_path / "no.safetensors").write_bytes(b"something else")
    for name in ("no.safetensors", "absent.safetensors"):
        with pytest.raises(BadInput, match=f"{name}: expected a safetensors file"):
            from_safetensors(nn.Linear(2, 2), tmp_path / name)


# ---------------------------------------------------------------- zeros left out

KINDS = [torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int8, torch.int64, torch.uint8, torch.bool]
WORDS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


class Holder(nn.Module):
    """Nothing but tensors."""

    def __init__(self, *values: Tensor) -> None:
        super().__init__()
        for number, value in enumerate(values):
            self.register_buffer(f"value{number}", value)


def bits(value: Tensor) -> Tensor:
    """By which -0 is not 0, and NaN is NaN."""
    return value.view(WORDS[value.itemsize])


@st.composite
def tensors(draw: st.DrawFn) -> Tensor:
    """Of any type and shape, scalars and empty ones too, from no number that lives to all; a few that are unusual."""
    shape = draw(st.one_of(st.sampled_from([(), (0,), (3, 0, 2), (1,)]), st.tuples(*[st.integers(1, 40)] * 2)))
    kind, random = draw(st.sampled_from(KINDS)), torch.Generator().manual_seed(draw(st.integers(0, 999)))
    alive = torch.rand(shape, generator=random) < draw(st.sampled_from([0.0, 0.02, 0.1, 0.5, 1.0]))
    value = (torch.randn(shape, generator=random) * 100).to(kind) * alive.to(kind)
    if kind.is_floating_point:
        value = value + 0  # w * 0 is -0 where w < 0, which comes back as 0
        unusual = torch.tensor([0.0, float("nan"), float("inf"), 1e-45], dtype=torch.float32).to(kind)
        here = torch.rand(shape, generator=random) < draw(st.sampled_from([0.0, 0.01]))
        value = torch.where(here, unusual[torch.randint(4, shape, generator=random)], value)
    return value


@given(values=st.lists(tensors(), min_size=1, max_size=4))
def test_every_number_comes_back_in_no_more_bytes_than_a_plain_file_takes(
    tmp_path_factory: pytest.TempPathFactory, values: list[Tensor]
) -> None:
    path = tmp_path_factory.mktemp("packed") / "model.safetensors"
    to_safetensors(Holder(*values), path)
    again = weights.of(from_safetensors(Holder(*(torch.zeros_like(value) for value in values)), path))
    for number, value in enumerate(values):
        found = again[f"value{number}"]
        assert found.dtype == value.dtype and found.shape == value.shape
        assert torch.equal(bits(found), bits(value))
    with safe_open(path, framework="pt") as file:
        held = sum(file.get_tensor(name).nbytes for name in file.keys())  # noqa: SIM118
    assert held <= sum(value.nbytes for value in values)


def test_a_file_is_as_small_as_its_living_weights_and_their_places() -> None:
    alive = torch.rand(300, 784, generator=torch.Generator().manual_seed(0)) < 0.036
    model = nn.Linear(784, 300)
    with torch.no_grad():
        model.weight.mul_(alive)  # -0 where w < 0
    living, bias = int(alive.sum()), 4 * 300
    assert 4 * living + bias < len(stored(model)) < 5.1 * living + bias + 500
    assert len(stored(model)) < len(stored(model, zeros=True)) / 20
    model.weight = nn.Parameter(torch.zeros(300, 784))
    assert len(stored(model)) < bias + 500


def test_what_is_not_packed_is_read_by_any_program(tmp_path: Path) -> None:
    _, small = ticket("lenet-20-10", density=0.9)
    with torch.no_grad():
        for value in small.parameters():
            value.add_(value == 0)
    to_safetensors(small, tmp_path / "model.safetensors")
    assert weights.equal(load_file(tmp_path / "model.safetensors"), weights.of(small))
    with safe_open(tmp_path / "model.safetensors", framework="pt") as file:
        assert not file.metadata()
    thin, _ = ticket("lenet-20-10", density=0.1)
    assert weights.equal(load(stored(thin, zeros=True)), weights.of(thin))
    assert not weights.equal(load(stored(thin)), weights.of(thin))
    (tmp_path / "plain.safetensors").write_bytes(save(weights.of(thin)))  # of any other program
    again = from_safetensors(built("lenet-20-10", init_seed=3), tmp_path / "plain.safetensors")
    assert weights.equal(weights.of(again), weights.of(thin))


def test_the_same_weights_are_the_same_bytes() -> None:
    one, other = ticket("resnet-8-w4")[0], ticket("resnet-8-w4")[0]
    assert stored(one) == stored(other)


def packed(path: Path, change: Callable[[dict[str, Tensor], dict[str, Any]], object]) -> None:
    """A file of a thin layer, changed before it is written."""
    layer = nn.Linear(40, 30, bias=False)
    with torch.no_grad():
        layer.weight.masked_fill_(torch.eye(30, 40) == 0, 0)
    path.write_bytes(stored(layer))
    tensors = load_file(path)
    with safe_open(path, framework="pt") as file:
        about = json.loads(file.metadata()["tombola-model"])
    change(tensors, about)
    save_file(tensors, path, {"tombola-model": json.dumps(about)})


@pytest.mark.parametrize("change", [
    lambda tensors, about: tensors.pop("weight.flags"),
    lambda tensors, about: tensors.pop("weight.values"),
    lambda tensors, about: tensors.update({"weight.values": torch.ones(29)}),
    lambda tensors, about: tensors.update({"weight.values": torch.ones(31)}),
    lambda tensors, about: tensors.update({"weight.flags": torch.zeros(151, dtype=torch.uint8)}),
    lambda tensors, about: tensors.update({"weight.flags": torch.tensor([254] * 9, dtype=torch.uint8)}),
    lambda tensors, about: about["sparse"].update(weight=[30]),
    lambda tensors, about: about["sparse"].update(weight="many"),
    lambda tensors, about: about["sparse"].update(other=[2, 2]),
    lambda tensors, about: about.update(sparse=["weight"]),
    lambda tensors, about: about.update(format=99),
])  # fmt: skip
def test_a_damaged_file_is_refused(tmp_path: Path, change: Callable[..., object]) -> None:
    path = tmp_path / "model.safetensors"
    packed(path, lambda tensors, about: None)
    from_safetensors(nn.Linear(40, 30, bias=False), path)
    packed(path, change)
    with pytest.raises(BadInput, match=r"model\.safetensors: expected a safetensors file, found something else \(.+\)"):
        from_safetensors(nn.Linear(40, 30, bias=False), path)


def test_a_file_that_was_cut_off_is_refused(tmp_path: Path) -> None:
    content = stored(ticket("lenet-20-10")[0])
    for length in (0, 7, 100, len(content) // 2, len(content) - 1):
        (tmp_path / "cut.safetensors").write_bytes(content[:length])
        with pytest.raises(BadInput, match="expected a safetensors file"):
            from_safetensors(built("lenet-20-10"), tmp_path / "cut.safetensors")
    (tmp_path / "cut.safetensors").write_bytes(content)
    from_safetensors(built("lenet-20-10"), tmp_path / "cut.safetensors")


def test_a_ticket_is_no_trained_model_and_is_called_what_it_is(tmp_path: Path) -> None:
    model, small = ticket("lenet-20-10", density=0.05)
    Ticket.of(model, prunable.full(model), weights.of(model)).save(tmp_path / "ticket.safetensors")
    with pytest.raises(BadInput, match=r"found something else \(a ticket, which `Ticket.load` reads"):
        from_safetensors(model, tmp_path / "ticket.safetensors")
    to_safetensors(small, tmp_path / "small.safetensors")
    with pytest.raises(BadInput, match="expected a ticket's file, found a safetensors file of something else"):
        Ticket.load(tmp_path / "small.safetensors")
