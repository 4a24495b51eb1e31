"""What a ticket's forms are worth: differences, accuracy and sizes as they are, each checked by other means."""

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save
from torch import Tensor, nn

from tombola import data, models, prunable, weights
from tombola import mask as masks
from tombola.bayes import Gaussian
from tombola.cash import comparison, timing
from tombola.cash.compaction import Compacted, compact
from tombola.cash.comparison import CHUNK, prove, write
from tombola.cash.export import from_safetensors, onnx_session
from tombola.cash.form import Form, advice, notes, sentences
from tombola.cash.masking import masked
from tombola.cash.sparse_layers import SparseChain, SparseConv2d, prepared_bytes
from tombola.cash.sparsification import sparsify
from tombola.cash.timing import Timing
from tombola.engine import kernels
from tombola.errors import BadInput
from tombola.mask import Mask

SECONDS = {"sparse": 1e-4, "sparse int8": 1e-4}  # whatever the machine: 2e-4 for all else
needs_kernels = pytest.mark.skipif(not kernels.sets(), reason="no compiled kernels here")
Timed = list[tuple[list[str], list[int]]]


def lasting(*rounds: float) -> Timing:
    """What is timed where a call takes so long in each round."""
    return Timing(float(np.median(rounds)), (min(rounds), max(rounds)), rounds)


def fake_seconds(calls: Mapping[str, Callable[[], Tensor]]) -> dict[str, Timing]:
    return {name: lasting(SECONDS.get(name, 2e-4)) for name in calls}


def examples() -> tuple[Tensor, Tensor]:
    """More than two chunks of `digits`, the last of them uneven."""
    digits = data.load("digits", None)
    images, labels = digits.inputs(digits.images), digits.labels
    return images[: 2 * CHUNK + 101], labels[: 2 * CHUNK + 101]


def trained(name: str, density: float = 0.2) -> tuple[nn.Module, Mask]:
    """A network that a hundred steps taught something, pruned by magnitude and taught again."""
    model, (images, labels) = models.build(name, (1, 8, 8), 10, "kaiming-normal", init_seed=0), examples()
    optimiser = torch.optim.Adam(model.parameters(), lr=5e-3)
    alive = prunable.full(model)
    for step in range(120):
        if step == 60:
            parameters = dict(model.named_parameters())
            kept = {name: parameters[name].detach().abs() for name in alive}
            alive = Mask({name: value > value.quantile(1 - density) for name, value in kept.items()})
        weights.put(model, masks.apply(weights.of(model), alive))
        batch = torch.arange(50) + 50 * (step % 10)
        optimiser.zero_grad()
        F.cross_entropy(model(images[batch]), labels[batch]).backward()
        optimiser.step()
    return model.train(), alive


@pytest.fixture(scope="module")
def lenet() -> tuple[nn.Module, Mask]:
    return trained("lenet-30-20")


@pytest.fixture(scope="module")
def conv() -> tuple[nn.Module, Mask]:
    return trained("conv-2-w4")


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is timed."""
    monkeypatch.setattr(timing, "timed", fake_seconds)


@pytest.fixture
def without_onnx(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)


@pytest.fixture(scope="module")
def forms(conv: tuple[nn.Module, Mask]) -> Iterator[dict[str, Form]]:
    """All forms of a small convolutional ticket, by name."""
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(timing, "timed", fake_seconds)
        yield {form.name: form for form in prove(*conv, *examples())}


def by_name(found: Sequence[Form]) -> dict[str, Form]:
    return {form.name: form for form in found}


def outputs(model: nn.Module, inputs: Tensor) -> Tensor:
    with torch.inference_mode():
        found: Tensor = model(inputs)
    return found


# ---------------------------------------------------------------- which forms


@needs_kernels
def test_the_masked_model_comes_first_in_every_layout_and_runtime(forms: dict[str, Form]) -> None:
    baselines = ["dense", "dense, channels last", "dense, ONNX Runtime"]
    small = ["compact", "compact, ONNX Runtime", "sparse", "compact int8", "compact int8, ONNX Runtime", "sparse int8"]
    assert list(forms) == [*baselines, *small]
    assert [name for name, form in forms.items() if form.baseline] == baselines
    assert [name for name, form in forms.items() if form.model is None] == [
        "dense, ONNX Runtime",
        "compact, ONNX Runtime",
        "compact int8, ONNX Runtime",
    ]
    for name in ("sparse", "sparse int8"):
        model = forms[name].model
        assert model and any(isinstance(module, SparseConv2d | SparseChain) for module in model.modules())


@pytest.mark.usefixtures("quick", "without_onnx")
def test_a_form_that_cannot_be_made_here_is_left_out_with_the_reason(
    lenet: tuple[nn.Module, Mask], monkeypatch: pytest.MonkeyPatch
) -> None:
    if kernels.sets():
        assert list(by_name(prove(*lenet, *examples()))) == [
            "dense", "compact", "sparse", "compact int8", "sparse int8"
        ]  # fmt: skip
    monkeypatch.setattr(kernels, "sets", lambda: ())
    found = prove(*lenet, *examples())
    assert list(by_name(found)) == ["dense", "compact", "compact int8"]
    onnx = {"dense, ONNX Runtime", "compact, ONNX Runtime", "compact int8, ONNX Runtime"}
    assert set(found.left_out) == onnx | {"2:4, float16", "sparse", "sparse int8"}
    assert "pip install '.[export]'" in found.left_out["compact, ONNX Runtime"]
    assert "C compiler" in found.left_out["sparse"]


CPU = Path("/proc/cpuinfo")
VNNI = not CPU.exists() or "vnni" in CPU.read_text()


class Viewed(nn.Module):
    """As tutorials write them; of one other type of numbers, or of maps in the other layout, not every form can be."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.output = nn.Conv2d(1, 3, 3), nn.Linear(3 * 36, 10)

    def forward(self, images: Tensor) -> Tensor:
        maps = F.relu(self.conv(images))
        scores: Tensor = self.output(maps.view(maps.size(0), -1))
        return scores


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("kind", [torch.float32, torch.float64, torch.bfloat16])
def test_a_form_that_cannot_be_called_is_left_out(kind: torch.dtype) -> None:
    torch.manual_seed(0)
    model, (images, labels) = Viewed().to(kind), examples()
    proof = prove(model, prunable.full(model), images[:300], labels[:300])
    found = by_name(proof)
    assert "cannot be called with these inputs: RuntimeError (view size" in proof.left_out["dense, channels last"]
    assert proof.left_out["compact"] == "Nothing is dead under this mask."
    assert {"dense", "int8"} <= {*found} and not {"dense, channels last", "compact"} & {*found}
    assert ("sparse" in found) == ("sparse int8" in found) == (kind is torch.float32 and bool(kernels.sets()))
    # Without VNNI sums of two products may not fit into 16 bits in ONNX Runtime, as `to_onnx_int8` says.
    bounds = {"int8, ONNX Runtime": 0.05 if VNNI else 0.5}
    assert all(form.difference < bounds.get(name, 0.05) for name, form in found.items())


# ---------------------------------------------------------------- what is proved


def test_differences_and_accuracies_are_those_of_the_models_handed_out(
    forms: dict[str, Form], conv: tuple[nn.Module, Mask]
) -> None:
    images, labels = examples()
    wanted = outputs(masked(*conv), images)
    correct = int((wanted.argmax(dim=1) == labels).sum())
    assert 0.5 < correct / len(labels) < 1  # it has learned something, and not all
    assert forms["dense"].accuracy == float(Fraction(correct, len(labels)))  # E4 E5
    for name, form in forms.items():
        if form.model is None:
            continue
        found = outputs(form.model, images)
        assert form.difference == pytest.approx(float((found - wanted).abs().max()), abs=1e-5)
        assert form.accuracy == float(Fraction(int((found.argmax(dim=1) == labels).sum()), len(labels)))
        assert form.difference < 1e-4 or "int8" in name
    for name in ("compact int8", "compact int8, ONNX Runtime", "sparse int8"):
        assert 0 < forms[name].difference < 1
    assert all(form.difference < 1e-4 for name, form in forms.items() if "ONNX" in name and "int8" not in name)


class Wrong(nn.Module):
    """Gives something else for one input."""

    def __init__(self, model: nn.Module, one: Tensor) -> None:
        super().__init__()
        self.model = model
        self.register_buffer("one", one)

    def forward(self, values: Tensor) -> Tensor:
        hit = (values == self.get_buffer("one")).flatten(1).all(dim=1, keepdim=True)
        right: Tensor = self.model(values)
        return right + 100 * hit * F.one_hot(right.argmin(dim=1), 10)


@pytest.mark.usefixtures("quick", "without_onnx")
@pytest.mark.parametrize("place", [0, CHUNK, 2 * CHUNK + 100])
def test_a_form_that_is_wrong_on_one_input_is_found_out(
    place: int, lenet: tuple[nn.Module, Mask], monkeypatch: pytest.MonkeyPatch
) -> None:
    images, labels = examples()
    right = by_name(prove(*lenet, images, labels))
    wrong = lambda *given: Compacted(Wrong(compact(*given), images[place]), {})  # noqa: E731
    monkeypatch.setattr(comparison, "compacted", wrong)
    found = by_name(prove(*lenet, images, labels))
    alike = int((images == images[place]).flatten(1).all(dim=1).sum())
    for name in ("compact", "compact int8"):
        assert found[name].difference == pytest.approx(100, abs=5)
        before, after = right[name].accuracy, found[name].accuracy
        assert before is not None and after is not None
        assert abs(before - after) <= (alike + 1e-9) / len(images)
    others = ["dense", *(["sparse"] if kernels.sets() else [])]
    assert all(found[name].difference == right[name].difference < 1e-4 for name in others)


def test_what_is_no_mask_and_what_cannot_be_called_is_said(lenet: tuple[nn.Module, Mask]) -> None:
    images, labels = examples()
    with pytest.raises(BadInput, match=r"mask: expected a Mask, found str. A ticket's is ticket.mask."):
        prove(lenet[0], "ticket", images, labels)  # type: ignore[arg-type]
    with pytest.raises(BadInput, match=r"the example: expected what Sequential can be called with, found \(1, 7\)"):
        prove(*lenet, images.flatten(1)[:, :7], labels)


@pytest.mark.usefixtures("quick", "without_onnx")
def test_without_labels_there_is_no_accuracy_and_the_model_stays_as_it_was(lenet: tuple[nn.Module, Mask]) -> None:
    model, mask = lenet
    before, images = weights.of(model), examples()[0]
    assert [form.accuracy for form in prove(model, mask, images)] == [None] * (5 if kernels.sets() else 3)
    assert model.training and weights.equal(weights.of(model), before)


@pytest.mark.usefixtures("quick")
def test_fewer_inputs_than_the_largest_batch_are_refused(lenet: tuple[nn.Module, Mask]) -> None:
    with pytest.raises(BadInput, match=r"inputs: expected at least 64, .* found 63\. .*batches=\(1, 63\)\."):
        prove(*lenet, examples()[0][:63])
    with pytest.raises(BadInput, match="expected at least 9, "):
        prove(*lenet, examples()[0][:8], batches=(9, 1))


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(
    ("model", "inputs"),
    [
        (nn.TransformerEncoderLayer(4, 2, 6), torch.rand(9, 5, 4)),
        (nn.TransformerEncoderLayer(4, 2, 6), torch.rand(9, 2, 4)),
        (nn.Sequential(nn.Embedding(7, 4), nn.TransformerEncoderLayer(4, 2, 6)), torch.randint(7, (9, 5))),
    ],
)
def test_a_model_that_takes_time_first_is_refused_and_not_cut_in_time(model: nn.Module, inputs: Tensor) -> None:
    """Nine tokens of five texts were nine examples."""
    with pytest.raises(BadInput, match=r"inputs: expected examples along the first axis, found time, for .*self_attn"):
        prove(model.eval(), prunable.full(model), inputs, batches=(1,))


def test_other_mistakes_are_said_before_that_there_are_too_few_inputs(lenet: tuple[nn.Module, Mask]) -> None:
    (model, mask), (images, labels) = lenet, examples()
    with pytest.raises(BadInput, match="The mask belongs to another model"):
        prove(nn.Linear(3, 2), mask, images[:9], labels[:9])
    with pytest.raises(BadInput, match="labels: expected 9, one for each of the inputs, found 8"):
        prove(model, mask, images[:9], labels[:8])
    with pytest.raises(BadInput, match=r"inputs: expected one tensor, N x \.\.\., .* found an empty one"):
        prove(model, mask, images[:0], labels[:0])
    with pytest.raises(BadInput, match="the example: expected what Sequential can be called with"):
        prove(model, mask, images[:9].flatten(1)[:, :7])
    with pytest.raises(BadInput, match=r"labels: expected whole numbers, .* found torch\.int64, one number"):
        prove(model, mask, images[:9], labels[0])


class Giving(nn.Module):
    """A layer, and what a function makes of its outputs."""

    def __init__(self, function: Callable[[Tensor], object]) -> None:
        super().__init__()
        self.layer, self.function = nn.Linear(6, 4), function

    def forward(self, values: Tensor) -> object:
        return self.function(self.layer(values))


@pytest.mark.usefixtures("quick", "without_onnx")
@pytest.mark.parametrize(("function", "found"), [
    (lambda y: (y, y), "tuple"),
    (lambda y: {"y": y}, "dict"),
    (lambda y: y.mean(), r"torch\.float32, one number"),
    (lambda y: y[0], r"torch\.float32, 4"),
    (lambda y: y > 0, r"torch\.bool, 9 x 4"),
])  # fmt: skip
def test_a_model_that_gives_anything_but_one_tensor_is_refused(
    function: Callable[[Tensor], object], found: str
) -> None:
    model = Giving(function)
    with pytest.raises(BadInput, match=f"expected one tensor of numbers for 9 inputs, 9 x ..., found {found}"):
        prove(model, prunable.full(model), torch.ones(9, 6), batches=(1, 9))


@pytest.mark.usefixtures("quick", "without_onnx")
def test_inputs_labels_and_batches_that_do_not_go_together_are_refused() -> None:
    model, inputs = nn.Linear(6, 4), torch.ones(9, 6)
    classes = torch.arange(9) % 4
    for labels in (classes[:, None], F.one_hot(classes), classes.float(), classes > 1, classes.tolist()):
        with pytest.raises(BadInput, match=r"labels: expected whole numbers, N or N x T.*for outputs of 9 x 4"):
            prove(model, prunable.full(model), inputs, labels, batches=(1, 9))  # type: ignore[arg-type]
    with pytest.raises(BadInput, match=r"found torch\.int64, 9, for outputs of 9 x 1"):
        prove(nn.Linear(6, 1), prunable.full(nn.Linear(6, 1)), inputs, classes, batches=(1, 9))
    for several in ((), list(inputs), torch.tensor(1.0)):
        with pytest.raises(BadInput, match=r"inputs: expected one tensor, N x \.\.\., .* found (tuple|list|a number)"):
            prove(model, prunable.full(model), several, batches=(1,))  # type: ignore[arg-type]
    for batches in ((), (0,), (4, -1), 9, (1.5,), "ab"):
        with pytest.raises(BadInput, match=r"batches: expected one or more sizes, of 1 or more, found [(9']"):
            prove(model, prunable.full(model), inputs, batches=batches)  # type: ignore[arg-type]


@pytest.mark.usefixtures("without_onnx")
def test_calls_are_timed_at_the_asked_batches_all_in_one_run(
    conv: tuple[nn.Module, Mask], monkeypatch: pytest.MonkeyPatch
) -> None:
    timed: Timed = []

    def seconds(calls: Mapping[str, Callable[[], Tensor]]) -> dict[str, Timing]:
        timed.append((list(calls), [len(call()) for call in calls.values()]))
        return {name: lasting(len(timed) + place / 10) for place, name in enumerate(calls)}

    monkeypatch.setattr(timing, "timed", seconds)
    found = prove(*conv, examples()[0][:9], batches=(2, 9))
    for_layers, (first, second) = timed[:-2], timed[-2:]
    names = [form.name for form in found]
    assert first == (names, [2] * len(names)) and second == (names, [9] * len(names))
    assert all(set(sizes) == {9} for _, sizes in for_layers), "layers are chosen at the largest"
    for place, form in enumerate(found):
        assert form.latency_s == {2: len(timed) - 1 + place / 10, 9: len(timed) + place / 10}


# ---------------------------------------------------------------- how large


def conv_by_hand(model: nn.Module) -> int:
    """Multiply-adds of conv-2 on 8 x 8: two convolutions there, linear layers after the pooling."""
    return sum(
        value.numel() * (64 if value.dim() == 4 else 1)
        for name, value in model.named_parameters()
        if name.endswith("weight")
    )


def test_multiply_adds_are_those_of_the_formula(forms: dict[str, Form], conv: tuple[nn.Module, Mask]) -> None:
    model, mask = conv
    everything = conv_by_hand(model)
    living = sum(int(each.sum()) * (64 if each.dim() == 4 else 1) for each in mask.values())
    for name, form in forms.items():
        if form.baseline:
            assert form.multiply_adds == everything
        if name == "sparse":
            assert form.multiply_adds == living
    small = forms["compact"].model
    assert small and forms["compact"].multiply_adds == conv_by_hand(small) == forms["compact int8"].multiply_adds
    assert forms["compact, ONNX Runtime"].multiply_adds == forms["compact"].multiply_adds
    if "sparse int8" in forms:  # what is rounded to 0 is gone too
        assert 0.8 * living < forms["sparse int8"].multiply_adds <= living


@pytest.mark.usefixtures("quick", "without_onnx")
def test_weights_in_no_layer_of_their_own_stay_dense_and_are_counted() -> None:
    class Mixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gru, self.attention = nn.GRU(3, 8, batch_first=True), nn.MultiheadAttention(8, 2, batch_first=True)
            self.W, self.output = nn.Parameter(torch.randn(8, 6)), nn.Linear(6, 4)

        def forward(self, values: Tensor) -> Tensor:
            states = self.gru(values)[0]
            read = self.attention(states, states, states, need_weights=False)[0].mean(1)
            out: Tensor = self.output((read @ self.W).relu())
            return out

    torch.manual_seed(0)
    model = Mixed().eval()
    full = prunable.full(model, ["gru.weight_*", "W"])
    alive = Mask({name: torch.rand(flags.shape) < 0.3 for name, flags in full.items()})
    dense = next(iter(prove(model, alive, torch.randn(70, 5, 3))))
    recurrent, attention = 5 * 24 * (3 + 8), 5 * (4 * 8 * 8 + 2 * 5 * 8)
    assert dense.multiply_adds == recurrent + attention + 8 * 6 + 6 * 4  # by names that are no modules'


def test_memory_is_that_of_the_weights_as_they_are_held(forms: dict[str, Form], conv: tuple[nn.Module, Mask]) -> None:
    parameters = sum(value.numel() for value in conv[0].parameters())
    assert {form.memory_bytes for form in forms.values() if form.baseline} == {4 * parameters}
    small, rounded = forms["compact"].model, forms["compact int8"].model
    assert small and rounded
    held = sum(value.numel() * value.element_size() for value in small.state_dict().values())
    assert forms["compact"].memory_bytes == held < 4 * parameters
    eight = {name: value for name, value in rounded.state_dict().items() if value.dtype == torch.int8}
    outputs_of_all = sum(len(value) for value in eight.values())  # each has a scale and a bias, of four bytes
    beside = held - 4 * sum(value.numel() for value in eight.values()) - 4 * outputs_of_all
    assert forms["compact int8"].memory_bytes == sum(map(torch.numel, eight.values())) + 8 * outputs_of_all + beside
    if "sparse" in forms:
        model = forms["sparse"].model
        assert model and prepared_bytes(model) > 0
        state = sum(value.nbytes for value in model.state_dict().values())
        assert forms["sparse"].memory_bytes >= state + 4 * sum(map(int, (each.sum() for each in conv[1].values())))


def test_files_are_as_large_as_they_were_said_to_be_and_give_the_same_outputs(
    forms: dict[str, Form], conv: tuple[nn.Module, Mask], tmp_path: Path
) -> None:
    images, _ = examples()
    written = write(list(forms.values()), images[:2], tmp_path / "new" / "folder")
    assert sorted(written) == sorted((tmp_path / "new" / "folder").iterdir())
    sparse_ones = ["sparse.safetensors", "sparse-int8.safetensors"] if kernels.sets() else []
    assert {path.name for path in written} == {
        "compact.safetensors", "compact.onnx", "compact.pt2", "compact-int8.safetensors", "compact-int8.onnx",
        *sparse_ones
    }  # fmt: skip
    sizes = {path.stem: path.stat().st_size for path in written if path.suffix == ".safetensors"}
    assert sizes == {
        name.replace(" ", "-"): forms[name].disk_bytes for name in forms if name.replace(" ", "-") in sizes
    }
    plain = len(save(weights.of(conv[0])))
    onnx = next(path.stat().st_size for path in written if path.name == "compact.onnx")
    rounded = next(path for path in written if path.name == "compact-int8.onnx")
    session, eight = onnx_session(rounded, 1), forms["compact int8, ONNX Runtime"]
    assert eight.disk_bytes == rounded.stat().st_size < 0.5 * plain
    assert float((session(images) - outputs(masked(*conv), images)).abs().max()) == pytest.approx(eight.difference)
    for name, form in forms.items():
        assert form.baseline or form.disk_bytes <= form.plain_bytes
        if "ONNX" in name and "int8" not in name:  # another program's file, with all zeros
            assert form.disk_bytes == form.plain_bytes and form.disk_bytes > 0.9 * plain
        elif form.baseline:
            assert form.disk_bytes == form.plain_bytes == plain
    assert abs(forms["compact, ONNX Runtime"].disk_bytes - onnx) < 2000  # names differ, and how maps lay in memory
    assert forms["compact int8"].disk_bytes < forms["compact"].disk_bytes < plain / 2
    if kernels.sets():
        assert forms["sparse int8"].disk_bytes < forms["sparse"].disk_bytes < plain / 2

    fresh = models.build("conv-2-w4", (1, 8, 8), 10, "kaiming-normal", init_seed=9)
    for path in written:
        if path.suffix != ".safetensors":
            continue
        again, form = from_safetensors(fresh, path), forms[path.stem.replace("-int8", " int8")]
        assert form.model
        if path.stem.startswith("sparse"):
            again = sparsify(again, images[:2], everywhere=True)
        torch.testing.assert_close(outputs(again, images), outputs(form.model, images), rtol=1e-4, atol=1e-4)
    exported = torch.export.load(tmp_path / "new" / "folder" / "compact.pt2").module()
    torch.testing.assert_close(exported(images), outputs(masked(*conv), images), rtol=1e-4, atol=1e-4)


@pytest.mark.usefixtures("without_onnx")
def test_what_cannot_be_written_without_the_extra_is_left_out_and_a_bad_folder_refused(
    forms: dict[str, Form], tmp_path: Path
) -> None:
    one = [forms["dense"], forms["compact"]]
    written = write(one, examples()[0][:2], tmp_path)
    assert [path.name for path in written] == ["compact.safetensors", "compact.pt2"]
    (tmp_path / "file").touch()
    with pytest.raises(BadInput, match="file: expected a folder to write to, found File exists"):
        write(one, examples()[0][:2], tmp_path / "file")


# ---------------------------------------------------------------- in words


def form(name: str, disk_bytes: int, **latency_ms: float) -> Form:
    seconds = {int(batch[1:]): lasting(1e-3 * taken) for batch, taken in latency_ms.items()}
    return Form(name, None, None, 0.0, 1.0, None, disk_bytes, disk_bytes, 1, 1, seconds)


def test_sentences_compare_with_the_fastest_baseline_of_each_batch_and_say_so_where_nothing_is_won() -> None:
    dense, last = form("dense", 1000, b1=1.0, b64=9.0), form("dense, channels last", 1000, b1=2.0, b64=6.0)
    assert sentences([dense, last]) == []
    both = form("both", 100, b1=0.25, b64=2.0)
    assert sentences([dense, last, both]) == [
        "both: 10.0 times smaller; 4.0 times faster at batch 1 (0.250 ms; dense: 1.000 ms), "
        "3.0 times faster at batch 64 (2.000 ms; dense, channels last: 6.000 ms)."
    ]
    neither = form("neither", 1000, b1=0.96, b64=7.0)
    (said,) = sentences([dense, last, neither])
    assert said.startswith("neither: no smaller; no faster here at batch 1 (0.960 ms;")
    assert "no faster here at batch 64 (7.000 ms; dense, channels last: 6.000 ms)." in said
    one_of_two = replace(neither, timing={1: lasting(1e-3), 64: lasting(1e-3)})
    assert "no faster here at batch 1 " in sentences([dense, last, one_of_two])[0]
    assert "6.0 times faster at batch 64 " in sentences([dense, last, one_of_two])[0]


def test_where_rounds_disagree_about_who_is_faster_it_is_said() -> None:
    def of(name: str, *rounds_ms: float) -> Form:
        return replace(form(name, 100), timing={1: lasting(*(1e-3 * each for each in rounds_ms))})

    dense = of("dense", 2.0, 2.0, 2.0, 2.0)
    (said,) = sentences([dense, of("both", 1.0, 1.0, 1.0, 4.0)])
    assert "2.0 times faster at batch 1 (1.000 [1.000, 4.000] ms; dense: 2.000 ms)" in said
    (said,) = sentences([dense, of("neither", 1.0, 1.0, 4.0, 4.0)])
    assert "no faster here at batch 1 (2.500 [1.000, 4.000] ms; dense: 2.000 ms; rounds disagree: 2 of 4 bear" in said


@pytest.mark.usefixtures("quick", "without_onnx")
def test_a_proof_prints_a_table_with_what_was_left_out_and_a_form_does_not_print_its_model(
    lenet: tuple[nn.Module, Mask],
) -> None:
    proof = prove(*lenet, *examples())
    head, *rows = str(proof).splitlines()
    assert head.split()[:3] == ["form", "accuracy", "difference"]
    assert [row[: len(form.name)] for row, form in zip(rows, proof, strict=False)] == [form.name for form in proof]
    assert "dense, ONNX Runtime: left out. export to ONNX: expected" in str(proof)
    assert len(repr(proof[0])) < 200 and "Linear" not in repr(proof) + repr(proof[0])
    assert list(proof) == [proof[place] for place in range(len(proof))] and proof[:2] == proof.forms[:2]


# ---------------------------------------------------------------- what was built, and what was not


@pytest.mark.usefixtures("quick", "without_onnx")
def test_what_stays_dense_is_counted_as_dense_and_named_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    if not kernels.sets():
        pytest.skip("no compiled kernels here")

    class Own(nn.Linear):
        def forward(self, values: Tensor) -> Tensor:
            return super().forward(values) * 2

    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv1d(3, 8, 3, padding=1, padding_mode="circular"), nn.Flatten(), nn.Linear(8 * 9, 5), nn.Tanh(), Own(5, 4)
    )
    alive = Mask({name: torch.rand(flags.shape) < 0.2 for name, flags in prunable.full(model).items()})
    form = by_name(prove(model, alive, torch.randn(70, 3, 9)))["sparse"]
    assert form.multiply_adds == 9 * 8 * 3 * 3 + int(alive["2.weight"].sum()) + 5 * 4
    assert set(form.unchanged) == {"0", "4"}
    assert "pads" in form.unchanged["0"] and "class Own, which computes something of its own" in form.unchanged["4"]


@pytest.mark.usefixtures("quick", "without_onnx")
def test_a_form_that_changes_nothing_is_not_offered() -> None:
    model = nn.Sequential(nn.ConvTranspose3d(2, 3, (1, 1, 3)), nn.Flatten())
    proof = prove(model, prunable.full(model), torch.randn(70, 2, 1, 1, 9))
    assert [form.name for form in proof] == ["dense"]
    assert "0 (of class ConvTranspose3d: no form of it is made)" in proof.left_out["int8"]
    assert proof.left_out["compact"] == "Nothing is dead under this mask."
    if kernels.sets():
        assert "0 (of class ConvTranspose3d" in proof.left_out["sparse"]
    assert all(name in str(proof) for name in proof.left_out)


class Dropping(nn.Module):
    """Draws random numbers in eval mode too."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(64, 30), nn.Linear(30, 10)

    def forward(self, images: Tensor) -> Tensor:
        hidden = F.dropout(F.relu(self.one(images.flatten(1))), 0.5, training=True)
        scores: Tensor = self.two(hidden)
        return scores


@pytest.mark.usefixtures("quick", "without_onnx")
def test_exact_forms_of_a_model_that_draws_random_numbers_are_exact() -> None:
    torch.manual_seed(0)
    model, (images, labels) = Dropping(), examples()
    before = torch.get_rng_state()
    alive = Mask({name: torch.rand(flags.shape) < 0.2 for name, flags in prunable.full(model).items()})
    torch.set_rng_state(before)
    proof = prove(model, alive, images, labels)
    assert torch.equal(torch.get_rng_state(), before) and proof.itself == 0
    assert proof.drawn and "The model draws random numbers of torch in its forward" in str(proof)
    assert all(form.difference < 1e-4 for form in proof if "int8" not in form.name)
    assert kernels.sets() == () or "sparse" in by_name(proof)


class Counting(nn.Module):
    """Gives something else with every call, whatever torch's random numbers are."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.calls = nn.Linear(6, 4), 0

    def forward(self, values: Tensor) -> Tensor:
        self.calls += 1
        scores: Tensor = self.layer(values) + self.calls
        return scores


@pytest.mark.usefixtures("quick", "without_onnx")
def test_a_model_that_differs_from_itself_is_said_to() -> None:
    model = Counting()
    proof = prove(model, prunable.full(model), torch.ones(70, 6))
    assert proof.itself >= 1 and not proof.drawn and "draws" not in str(proof)
    assert "The masked model differs from itself by up to" in str(proof) and notes(proof)[-1] in str(proof)


# ---------------------------------------------------------------- metrics, several inputs, graphs, one logit


class Pairs(nn.Module):
    """Takes two tensors, a table that has no batch, and a number."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right, self.out = nn.Linear(6, 8), nn.Linear(5, 8), nn.Linear(8, 3)

    def forward(self, left: Tensor, right: Tensor, table: Tensor | None = None, scale: float = 1.0) -> Tensor:
        hidden = F.relu(self.left(left) + self.right(right))
        scores: Tensor = scale * self.out(hidden)
        return scores if table is None else scores @ table


@pytest.mark.usefixtures("quick", "without_onnx")
def test_several_inputs_may_be_a_tuple_or_have_names() -> None:
    torch.manual_seed(0)
    model = Pairs()
    alive = {name: flags.clone() for name, flags in prunable.full(model).items()}
    alive["out.weight"][:, ::2] = False
    left, right, table = torch.randn(300, 6), torch.randn(300, 5), torch.randn(3, 3)
    whole = masked(model, Mask(alive))
    ways: list[tuple[tuple[Tensor, ...] | dict[str, Tensor], Tensor]] = [
        ((left, right), whole(left, right)),
        ((left, right, table), whole(left, right, table)),
        ({"right": right, "left": left}, whole(left, right)),
        ({"scale": torch.tensor(2.0), "table": table, "right": right, "left": left}, whole(left, right, table, 2.0)),
    ]
    for inputs, wanted in ways:
        found = by_name(prove(model, Mask(alive), inputs, wanted.argmax(dim=1)))
        assert found["dense"].accuracy == 1 and found["compact"].accuracy == 1 and found["compact"].difference < 1e-5
    for wrong in ({"left": left}, {"left": left, "right": right, "middle": left}):
        with pytest.raises(
            BadInput, match=r"inputs: expected names that Pairs.forward takes.*: left, right, table, sc"
        ):
            prove(model, Mask(alive), wrong)


@pytest.mark.usefixtures("quick", "without_onnx")
def test_a_metric_of_ones_own_is_asked_of_every_form() -> None:
    torch.manual_seed(0)
    model, left, right = Pairs(), torch.randn(300, 6), torch.randn(300, 5)
    target = model(left, right).detach()

    def psnr(form: Callable[..., Tensor], left: Tensor, right: Tensor) -> Tensor:
        loss: Tensor = (form(right=right, left=left) - target).square().mean()
        return -10 * loss.log10()

    proof = prove(model, prunable.full(model), (left, right), metric=psnr)
    assert proof.metric == "psnr" and "psnr" in str(proof).splitlines()[0]
    form = by_name(proof)["int8"]
    assert form.model and form.metric == pytest.approx(float(psnr(form.model, left, right)), rel=1e-4)
    named = prove(model, prunable.full(model), {"left": left, "right": right}, metric=psnr)
    assert [each.metric for each in named] == [each.metric for each in proof]
    with pytest.raises(BadInput, match="metric psnr: expected one number, found 300 x 3"):
        prove(
            model, prunable.full(model), (left, right), metric=type("psnr", (), {"__call__": lambda s, f, *x: f(*x)})()
        )


@pytest.mark.usefixtures("quick", "without_onnx")
def test_what_is_no_metric_and_what_one_raises_is_said() -> None:
    model = nn.Linear(6, 3)

    def psnr(form: Callable[..., Tensor], values: Tensor) -> float:
        raise IndexError("no target here")

    with pytest.raises(BadInput, match=r"metric: expected a function, f\(form, \*inputs\), found 5\."):
        prove(model, prunable.full(model), torch.ones(9, 6), batches=(1,), metric=5)  # type: ignore[arg-type]
    with pytest.raises(BadInput, match=r"metric psnr: expected one number, found IndexError \(no target here\)"):
        prove(model, prunable.full(model), torch.ones(9, 6), batches=(1,), metric=psnr)


class Graph(nn.Module):
    """A graph network of two layers."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(6, 16), nn.Linear(16, 4)

    def forward(self, nodes: Tensor, beside: Tensor) -> Tensor:
        hidden = F.relu(self.one(nodes))
        scores: Tensor = torch.sparse.mm(beside, self.two(hidden))
        return scores


@pytest.mark.usefixtures("quick", "without_onnx")
@pytest.mark.parametrize("sparse_adjacency", [True, False])
def test_one_graph_is_proved_whole(sparse_adjacency: bool) -> None:
    torch.manual_seed(0)
    model, nodes = Graph(), torch.randn(300, 6)
    beside = (torch.rand(300, 300) < 0.02).float()
    alive = {name: flags.clone() for name, flags in prunable.full(model).items()}
    alive["two.weight"][:, ::2] = False
    wanted = masked(model, Mask(alive))(nodes, beside)
    labels = wanted.argmax(dim=1)
    labels[::2] = -100  # of a part of the nodes alone
    given = nodes, beside.to_sparse() if sparse_adjacency else beside
    with pytest.raises(BadInput, match=r"inputs: expected examples .*found 300 that it takes together.* whole=True\."):
        prove(model, Mask(alive), given, labels)
    proof = prove(model, Mask(alive), given, labels, whole=True)
    found = by_name(proof)
    assert list(found["compact"].timing) == [300] and found["compact"].accuracy == 1
    assert found["compact"].difference < 1e-4
    assert kernels.sets() == () or "sparse" in found
    assert all(len(why) < 1000 for why in proof.left_out.values())


@pytest.mark.usefixtures("quick", "without_onnx")
def test_one_logit_answers_by_its_sign() -> None:
    torch.manual_seed(0)
    inputs = torch.randn(90, 6)
    for model in (nn.Sequential(nn.Linear(6, 1)), nn.Sequential(nn.Linear(6, 1), nn.Flatten(0))):
        right = (model(inputs) > 0).reshape(-1)
        right[:9] = ~right[:9]
        for labels in (right.long(), right, right.float(), *([right.float()[:, None]] if len(model) == 1 else [])):
            assert prove(model, prunable.full(model), inputs, labels)[0].accuracy == pytest.approx(0.9)


def test_no_inputs_by_name_are_refused_where_the_model_needs_none() -> None:
    class Optional(nn.Linear):
        def forward(self, x: Tensor | None = None) -> Tensor:
            return super().forward(torch.zeros(9, 6) if x is None else x)

    model = Optional(6, 3)
    with pytest.raises(BadInput, match=r"inputs: expected one tensor, .* or mapping of them, found dict"):
        prove(model, prunable.full(model), {}, batches=(1, 9))


@pytest.mark.usefixtures("quick", "without_onnx")
def test_outputs_and_labels_that_prove_nothing_are_refused() -> None:
    model, inputs = nn.Sequential(nn.Linear(6, 3)), torch.ones(9, 6)
    with pytest.raises(BadInput, match="the model: expected outputs that are numbers, found infinities and NaN alone"):
        prove(model, prunable.full(model), inputs * torch.nan, batches=(1, 9))
    for label, found in ((3, "3 to 3"), (-1, "-1 to -1"), (-100, "-100 alone")):
        with pytest.raises(BadInput, match=rf"labels: expected classes from 0 to 2, .* found {found}\."):
            prove(model, prunable.full(model), inputs, torch.full((9,), label), batches=(1, 9))


def test_advice_knows_files_that_were_not_written_and_forms_that_are_no_smaller() -> None:
    dense, small = form("dense", 1000, b1=1.0), replace(form("compact", 1200, b1=2.0), stored=nn.Linear(1, 1))
    smallest, _, portable = advice([dense, small], "out", ["compact.onnx"])
    assert smallest == "Smallest: dense, 1,000 bytes: no form takes less."
    assert portable.endswith('torch.export.load("out/compact.pt2").module().')
    assert len(advice([dense, small], "out", ["compact.onnx", "compact.pt2"])) == 2


def test_advice_names_the_smallest_the_fastest_and_the_most_portable() -> None:
    dense, small = form("dense", 1000, b1=1.0), replace(form("compact", 100, b1=2.0), stored=nn.Linear(1, 1))
    quick = replace(form("sparse int8", 50, b1=0.5), stored=nn.Linear(1, 1))
    smallest, fastest, portable = advice([dense, small, quick], "out")
    assert smallest.startswith("Smallest: sparse int8, 50 bytes: ") and "out/sparse-int8.safetensors" in smallest
    assert fastest.startswith("Fastest at batch 1: sparse int8, 0.500 ms: cash.sparsify(") and "compact.pt2" in portable
    assert advice([dense]) == ["No form is worth more here than the masked network itself."]


def test_advice_names_no_onnx_file_where_the_compact_form_was_not_measured_in_onnx_runtime() -> None:
    dense, small = form("dense", 1000, b1=1.0), replace(form("compact", 100, b1=2.0), stored=nn.Linear(1, 1))
    assert "onnx" not in advice([dense, small])[-1] and "compact.pt2" in advice([dense, small])[-1]
    there = form("compact, ONNX Runtime", 100, b1=2.0)
    assert advice([dense, small, there])[-1].endswith(", or compact.onnx in ONNX Runtime.")
    assert "onnx" not in advice([dense, small, there], left_out=["compact.onnx"])[-1]
    assert "onnx" in advice([dense, small], left_out=[])[-1]


def test_advice_says_how_the_fastest_is_had_in_onnx_runtime() -> None:
    dense, small = form("dense", 1000, b1=1.0), replace(form("compact", 100, b1=2.0), stored=nn.Linear(1, 1))
    there = form("compact, ONNX Runtime", 100, b1=0.5)
    assert advice([dense, small, there], "out")[1].endswith(" ms: out/compact.onnx in ONNX Runtime.")
    plain = form("dense, ONNX Runtime", 1000, b1=0.25)
    for left_out in ([], ["compact.onnx"]):
        fastest = advice([dense, small, there, plain], "out", left_out)[1]
        assert fastest.endswith(' ms: cash.to_onnx(network, example, "out/dense.onnx").')
    assert advice([dense, small, there], "out", ["compact.onnx"])[1].endswith(" 0.500 ms.")


def test_advice_of_forms_as_fast_as_each_other_is_the_exact_one() -> None:
    def took(median_ms: float, low_ms: float, high_ms: float) -> dict[int, Timing]:
        return {1: Timing(1e-3 * median_ms, (1e-3 * low_ms, 1e-3 * high_ms), (1e-3 * median_ms,))}

    dense = form("dense", 1000, b1=1.0)
    exact = replace(form("sparse", 100, b1=1.0), stored=nn.Linear(1, 1), difference=3e-6, largest=20.8)
    lossy = replace(exact, name="sparse int8", difference=0.04, timing=took(0.0349, 0.035, 0.036))
    fastest = advice([dense, replace(exact, timing=took(0.0352, 0.035, 0.036)), lossy])[1]
    assert fastest.startswith(
        "Fastest at batch 1: sparse, 0.035 [0.035, 0.036] ms, as fast as sparse int8 and closer to the masked network: "
        'cash.sparsify(cash.from_safetensors(network, "FOLDER/sparse.safetensors"), '
    )
    slower = replace(exact, timing=took(0.038, 0.037, 0.039))
    assert advice([dense, slower, lossy])[1].startswith("Fastest at batch 1: sparse int8, 0.035 [0.035, 0.036] ms: ")


@pytest.mark.usefixtures("quick")
def test_a_gaussian_network_has_one_form_and_says_why() -> None:
    model = Gaussian(nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2)), samples=2).eval()
    proof = prove(model, prunable.full(model), torch.randn(70, 4))
    assert [form.name for form in proof] == ["dense"] and all("model.means()" in why for why in proof.left_out.values())
    assert {"compact", "sparse", "int8"} <= set(proof.left_out)
    assert str(proof[0]).splitlines()[0].startswith("form") and len(str(proof[0]).splitlines()) == 2
