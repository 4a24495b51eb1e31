"""What runs on the CPU runs on another device unchanged: nothing is left behind, nothing is computed in two places.

A GPU is nowhere near most of those who change this code, so one is made up. It knows nothing of CUDA's kernels or of
its speed; it knows what a GPU refuses: inside `Elsewhere()` the tensors of `DEVICE` do not meet the CPU's, only copies
go from one to the other. What they compute is the CPU's arithmetic.
"""

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils import backend_registration
from torch.utils._python_dispatch import TorchDispatchMode

import tombola
from tombola import cash
from tombola.cash import timing
from tombola.lab.attempt import do_all, one_thread
from tombola.lab.kinds import Train
from tombola.lab.plan import Plan, plan
from tombola.lab.runs import Run
from tombola.lab.spec import Experiment, Spec
from tombola.lab.store import Store
from tombola.lab.worker import Worker

NAME = "elsewhere"
DEVICE = f"{NAME}:0"
CPU = torch.device("cpu")
_COPIES = (torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default)
_setup: Any = getattr(backend_registration, "_setup_privateuseone_for_python_backend", None)
POSSIBLE = _setup is not None  # torch has it from 2.10 on or so


class There(Tensor):
    """A tensor of the device; `held` has its numbers."""

    held: Tensor
    __torch_function__: Any = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls: type["There"], inner: Tensor) -> "There":
        made: Any = Tensor._make_wrapper_subclass(
            cls,
            inner.size(),
            inner.stride(),
            inner.storage_offset(),
            dtype=inner.dtype,
            device=torch.device(DEVICE),
        )
        made.held = inner
        return made  # type: ignore[no-any-return]

    @classmethod
    def __torch_dispatch__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # type: ignore[override]
        return _call(function, args, kwargs or {})

    def tolist(self) -> Any:
        """What torch's own refuses for tensors that are no plain ones."""
        return self.held.tolist()

    def data_ptr(self) -> int:
        """Else all of them would seem to be in one place."""
        return self.held.data_ptr()

    def __deepcopy__(self, memo: dict[int, Any]) -> "There | nn.Parameter":
        """Torch's own would copy the memory at `data_ptr`."""
        made = There(self.held.clone())
        return nn.Parameter(made, self.requires_grad) if isinstance(self, nn.Parameter) else made


class Elsewhere(TorchDispatchMode):
    """The context in which the device is there."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]

    def __enter__(self) -> "Elsewhere":
        torch.__future__.set_overwrite_module_params_on_conversion(True)  # else a layout changes outside, not inside
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(self, *why: Any) -> None:
        super().__exit__(*why)  # type: ignore[no-untyped-call]
        torch.__future__.set_overwrite_module_params_on_conversion(False)

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        return _call(function, args, kwargs or {})


def _call(function: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    leaves = list(_leaves((args, kwargs)))
    tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
    there = [tensor for tensor in tensors if isinstance(tensor, There)]
    here = [tensor for tensor in tensors if not isinstance(tensor, There)]
    # Numbers of no dimension are let through, as torch does for most of its functions.
    if there and function not in _COPIES and any(tensor.dim() for tensor in here):
        shapes = [(tuple(tensor.shape), str(tensor.device)) for tensor in tensors]
        raise RuntimeError(f"{function}: expected all tensors to be on the same device, found {shapes}")
    asked = [leaf for leaf in leaves if isinstance(leaf, torch.device)]
    onto_it = asked[0].type == NAME if asked else bool(there)
    made = function(*_mapped(_inner, args), **_mapped(_inner, dict(kwargs)))
    if function is torch.ops.aten.copy_.default:
        return args[0]
    known: dict[int, Tensor] = {id(tensor.held): tensor for tensor in there if onto_it}
    if not asked:  # what goes from one to the other is another tensor there
        known |= {id(tensor): tensor for tensor in here}

    def outer(leaf: Any) -> Any:
        return known.get(id(leaf), There(leaf) if onto_it else leaf) if isinstance(leaf, Tensor) else leaf

    return _mapped(outer, made)


def _inner(leaf: Any) -> Any:
    return leaf.held if isinstance(leaf, There) else CPU if isinstance(leaf, torch.device) else leaf


def _leaves(value: Any) -> Iterator[Any]:
    """What arguments consist of; torch's own `tree_leaves` asks far more of each, a hundred thousand times."""
    if isinstance(value, (list, tuple)):
        for each in value:
            yield from _leaves(each)
    elif isinstance(value, Mapping):
        yield from _leaves(list(value.values()))
    else:
        yield value


def _mapped(function: Callable[[Any], Any], value: Any) -> Any:
    if isinstance(value, list):
        return [_mapped(function, each) for each in value]
    if isinstance(value, tuple):
        return tuple(_mapped(function, each) for each in value)
    if isinstance(value, dict):
        return {name: _mapped(function, each) for name, each in value.items()}
    return function(value)


class _Module(backend_registration._DummyBackendModule if POSSIBLE else object):  # type: ignore[misc]
    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        """What torch asks of a device even where mixed precision is off."""
        return [torch.bfloat16]


def made_up() -> None:
    """Make the device known to torch."""
    one_thread()
    _setup(NAME, backend_module=_Module())


pytestmark = pytest.mark.skipif(not POSSIBLE, reason="this torch has no way to make up a device")

CONNECTIVITY = {"connectivity": {"levels": [1], "orders": 2, "points": 2}}
STUDIES = {"adam": {"stability": {"levels": [1]}, **CONNECTIVITY}, "norms": CONNECTIVITY}  # statistics matter on lines
RECIPES: dict[str, dict[str, Any]] = {
    "adam": {"model": "lenet-20-10", "optimizer": {"name": "adam", "lr": 1e-2}},
    "convolutions": {"model": "conv-2-w2", "optimizer": {"name": "adamw", "lr": 1e-2}},
    "norms": {
        "model": "resnet-8-w2",
        "optimizer": {"name": "sgd", "lr": 0.05, "momentum": 0.9, "weight_decay": 1e-4},
        "augment": "flip-crop",
    },
}


def planned(recipe: str) -> Plan:
    whole = {"data": "digits", "length": "6it", "batch": 50} | RECIPES[recipe]
    spec: dict[str, Any] = {
        "replicates": 2,
        "levels": 1,
        "arms": ["ticket"],
        "rewind": "2it",
        "carry_optimizer": True,
        "recipe": whole,
        "prune": {"rate": 0.4, "scope": "global", "keep": ["output"]},
        "evaluate": {"every": "2it", "test_every": "4it"},
        "study": STUDIES.get(recipe, {}),
    }
    return plan(Experiment(name="tiny", spec=Spec.model_validate(spec)))


def refuses() -> None:
    with Elsewhere():
        there = torch.ones(2, 3).to(DEVICE)
        assert isinstance(there, There) and isinstance(torch.zeros(2, device=DEVICE), There)
        assert (there + there).tolist() == [[2, 2, 2], [2, 2, 2]] and there.device == torch.device(DEVICE)
        with pytest.raises(RuntimeError, match="expected all tensors to be on the same device"):
            _ = there + torch.ones(2, 3)
        with pytest.raises(RuntimeError, match="expected all tensors to be on the same device"):
            there.index_select(0, torch.tensor([1]))
        assert not isinstance(there.cpu(), There)


@pytest.fixture(scope="module")
def elsewhere() -> Iterator[ProcessPoolExecutor]:
    """A process in which torch knows the device, as all that looks for one would find it here."""
    with ProcessPoolExecutor(1, get_context("spawn"), made_up) as process:
        yield process


def test_the_made_up_device_refuses_what_a_gpu_refuses(elsewhere: ProcessPoolExecutor) -> None:
    elsewhere.submit(refuses).result()


@pytest.mark.parametrize("recipe", RECIPES)
def test_on_another_device_everything_is_as_on_the_cpu(  # S12
    recipe: str, tmp_path: Path, elsewhere: ProcessPoolExecutor
) -> None:
    """One by one, and in stacks."""
    elsewhere.submit(on_both, recipe, tmp_path).result()


def test_a_search_and_its_forms_are_there_as_on_the_cpu(
    tmp_path: Path, shadow: Any, elsewhere: ProcessPoolExecutor
) -> None:
    """Around a loop of one's own: rewound with all its state, averages included, and proved where the model is."""
    elsewhere.submit(searched_on_both, tmp_path, shadow).result()


def searched_on_both(folder: Path, shadow: Any) -> None:
    here = searched("cpu", folder / "here", shadow)
    with Elsewhere():
        there = searched(DEVICE, folder / "there", shadow)
    close(here, there)


def searched(device: str, path: Path, shadow_of: Any) -> dict[str, Any]:
    """All that a search gives, as numbers."""
    torch.manual_seed(3)
    images, labels = torch.rand(90, 12), torch.arange(90) % 4
    model = nn.Sequential(nn.Linear(12, 30), nn.BatchNorm1d(30), nn.ReLU(), nn.Linear(30, 4)).to(device)
    average, shadow = copy.deepcopy(model), shadow_of(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.2, momentum=0.9)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 4, 0.5)
    options: dict[str, Any] = {"levels": 2, "rate": {"0.*": 0.6, "*": 0.3}, "rewind": "2it"}
    search = tombola.Search(model, optimizer, scheduler=scheduler, also=[average, shadow], path=path, **options)

    def evaluated() -> float:
        model.eval()
        with torch.no_grad():
            return float((model(images.to(device)).argmax(dim=1) == labels.to(device)).double().mean())

    def train(level: tombola.search.Level) -> None:
        model.train()
        for places in torch.randperm(90).split(15):
            optimizer.zero_grad()
            functional.cross_entropy(model(images[places].to(device)), labels[places].to(device)).backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            scheduler.step()
            with torch.no_grad():
                for kept, new in zip(average.parameters(), model.parameters(), strict=True):
                    kept.lerp_(new, 0.3)
            shadow.update(model)
        level.report(accuracy=evaluated(), validation_loss=1 - evaluated())

    for level in search:
        train(level)
        if level.number == 1:
            break  # and it goes on from its file
    search = tombola.Search.resume(path, model, optimizer, scheduler=scheduler, also=[average, shadow])
    for level in search:
        train(level)
    ticket, last = search.ticket(level=2), search.trained(level=2)
    fresh = copy.deepcopy(model)
    ticket.apply(fresh)
    model.load_state_dict(last)
    awaited: list[torch.device] = []

    def timed(calls: dict[str, Callable[[], object]]) -> dict[str, timing.Timing]:
        taken = {name: float(call() is None) for name, call in calls.items()}
        return {name: timing.Timing(each, (each, each), (each,)) for name, each in taken.items()}

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(timing, "timed", timed)
        patch.setattr(torch.accelerator, "synchronize", awaited.append)
        forms = {form.name: form for form in cash.prove(model, search.mask(level=2), images, labels)}
    assert awaited == ([torch.device(device)] * 2 * len(forms) if device == DEVICE else [])
    same = {"dense", "compact", "compact int8"}
    assert same <= forms.keys() and (device == "cpu" or same == forms.keys()), forms
    files = cash.write([forms[name] for name in sorted(same)], images[:2], path.with_suffix(".forms"))
    verdict = search.verify(train, level=2, replicates=2, controls=["random"])
    return {
        "ticket": {name: value.tolist() for name, value in ticket.weights.items()},
        "applied": {name: value.tolist() for name, value in fresh.state_dict().items()},
        "trained": {name: value.tolist() for name, value in last.items()},
        "averages": [value.tolist() for value in [*average.parameters(), *shadow.shadow.values()]],
        "masks": {name: alive.tolist() for name, alive in search.mask(level=2).items()},
        "reported": [[row.level, row.step, *row.metrics.values()] for row in search.history],
        "forms": [[forms[name].accuracy, forms[name].memory_bytes, forms[name].multiply_adds] for name in sorted(same)],
        "files": [file.name for file in files],
        "verdict": str(verdict),
    }


def on_both(recipe: str, folder: Path) -> None:
    for together in (False, True):
        compare(planned(recipe), together, folder / str(together))


def compare(wanted: Plan, together: bool, folder: Path) -> None:
    folder.mkdir()
    here = Worker(Store(folder / "here").open(), None, "stacked" if together else "reference")
    there = Worker(Store(folder / "there").open(), None, "stacked" if together else "auto", device=DEVICE)
    perform_all(wanted, here, together)
    with Elsewhere():
        perform_all(wanted, there, together)
    for run in wanted.runs:
        close(here.store.values(run), there.store.values(run))


def perform_all(wanted: Plan, worker: Worker, together: bool) -> None:
    for group in groups(wanted, together):
        said: list[Any] = []
        do_all(group, worker, lambda run, what, *why, said=said: said.append((what, *why)))
        assert [what for what, *_ in said if what != "looked"] == ["stored"] * len(group), said
        for run in (run for run in group if isinstance(run, Train)):
            how = worker.store.provenance(run)
            engine = f"stacked {len(group)} x reference" if len(group) > 1 else "reference"
            assert (how["engine"], how["device"]) == (engine, worker.device)


def groups(wanted: Plan, together: bool) -> list[list[Run]]:
    """One by one, or those that can go together, in an order in which inputs come first."""
    if not together:
        return [[run] for run in wanted.runs]
    found: list[list[Run]] = []
    left = list(wanted.runs)
    while left:
        ready = [run for run in left if not set(run.inputs) & set(left)]
        trainings = [run for run in ready if isinstance(run, Train)]
        same: list[Run] = [run for run in trainings if run.stack == trainings[0].stack]
        found.append([ready[0]] if ready[0] not in same else same)
        left = [run for run in left if run not in found[-1]]
    return found


def close(expected: Any, found: Any) -> None:
    """The same numbers; sums of floats may have been taken in another order."""
    if isinstance(expected, dict):
        assert expected.keys() == found.keys()
        for name in expected:
            close(expected[name], found[name])
    elif isinstance(expected, list):
        assert len(expected) == len(found)
        for left, right in zip(expected, found, strict=True):
            close(left, right)
    elif isinstance(expected, float):
        assert found == pytest.approx(expected, rel=1e-5, abs=1e-7)
    else:
        assert found == expected
