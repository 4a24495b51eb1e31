"""Executing plans: workers die, parents die, disks fill up, and what comes out are the same bytes."""

import errno
import json
import multiprocessing
import os
import platform
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tombola import data, engine, mask, models, weights
from tombola.allocator import TUNABLES, VARIABLE
from tombola.data import Dataset
from tombola.engine import kernels
from tombola.engine.native import calibrate, inspected
from tombola.engine.training import Start, Training
from tombola.errors import TombolaError
from tombola.lab.attempt import do
from tombola.lab.executor import Offer, Resources
from tombola.lab.interrupts import unheard
from tombola.lab.kinds import Train
from tombola.lab.plan import Plan, missing, plan, run_seconds
from tombola.lab.pool import Pool, timed_shapes
from tombola.lab.queue import Event, RunQueue, Tally
from tombola.lab.results import results
from tombola.lab.runs import Outcome, Run
from tombola.lab.serving import Equipment
from tombola.lab.spec import Experiment, Spec
from tombola.lab.spec_file import read
from tombola.lab.store import Store
from tombola.lab.tickets import ticket_of, trained_of
from tombola.lab.worker import Worker
from tombola.lab.workers import Processes, execute
from tombola.prunable import full
from tombola.sparse.times import Times

SPEC: dict[str, Any] = {
    "replicates": 1,
    "levels": 2,
    "arms": ["ticket", "reinit", "shuffle"],
    "recipe": {
        "model": "lenet-20-10",
        "data": "digits",
        "length": "40it",
        "batch": 60,
        "optimizer": {"name": "adam", "lr": 2e-3},
    },
    "evaluate": {"every": "5it", "test_every": "20it"},
}
DEADLINE_S = 600
posix = pytest.mark.skipif(os.name != "posix", reason="signals")

# Another process that executes plans and says what happens: event, run, steps.
DRIVER = """
import sys
from pathlib import Path
from tombola.lab.executor import Resources
from tombola.lab.workers import execute
from tombola.lab.plan import missing, plan
from tombola.lab.spec import Experiment, Spec
from tombola.lab.spec_file import read
from tombola.lab.store import Store

def tell(event):
    print(event.what, event.run.key, event.done, flush=True)

root, workers, *specs = sys.argv[1:]
store = Store(Path(root)).open()
plans = [plan(Experiment(name="tiny", spec=Spec.model_validate_json(spec))) for spec in specs]
lacking = {run.key: run for wanted in plans for run in missing(wanted, store)}
result = execute(Resources(store=store, workers=int(workers)), lacking.values(), tell)
print("end", len(result.failed), len(result.skipped), flush=True)
"""


def planned(**changes: Any) -> Plan:
    return plan(Experiment(name="tiny", spec=Spec.model_validate(SPEC | changes)))


def outcomes(root: Path) -> dict[str, bytes]:
    """Every file of finished runs whose bytes must not depend on how they came about."""
    return {
        str(path.relative_to(root)): path.read_bytes()
        for path in (root / "runs").rglob("*")
        if path.is_file() and path.name != "provenance.json"
    }


@pytest.fixture(autouse=True)
def deadline() -> Iterator[None]:
    """What waits for something that never comes fails, and says where it waits."""

    def late(*_: object) -> None:
        pytest.fail(f"not over after {DEADLINE_S} s")

    if not hasattr(signal, "setitimer"):
        yield
        return
    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, DEADLINE_S)
    yield
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store").open()


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The bytes of the plan's outcomes, made here in this process, one run after the other."""
    worker = Worker(Store(tmp_path_factory.mktemp("expected") / "store").open(), None)
    for run in planned().runs:
        assert do(run, worker, lambda *seen: None) == ("stored",)
    return outcomes(worker.store.root)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers that come from a server which has torch already: all the rest is the same, and 3 s each are saved."""
    if "forkserver" in multiprocessing.get_all_start_methods():
        context = multiprocessing.get_context("forkserver")
        # torch.optim imports torch._dynamo, with all that it needs, when the first optimiser is made.
        context.set_forkserver_preload(["tombola.lab.worker", "sklearn.datasets", "torch._dynamo"])
        monkeypatch.setattr(multiprocessing, "get_context", lambda method=None: context)


def kill_a_worker() -> None:
    (child,) = multiprocessing.active_children()
    assert child.pid
    os.kill(child.pid, signal.SIGKILL)


def quietly(event: Event) -> None:
    """Nobody listens."""


def tidy(store: Store) -> bool:
    """Whether nothing is left of the work, no process, no file, and the store is as one that was never disturbed."""
    return not multiprocessing.active_children() and not list((store.root / "tmp").iterdir())


# ---------------------------------------------------------------- undisturbed


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("workers", [1, 2])
def test_results_do_not_depend_on_the_number_of_workers(store: Store, expected: dict[str, bytes], workers: int) -> None:
    wanted, events = planned(), list[Event]()
    result = execute(Resources(store=store, workers=workers), missing(wanted, store), events.append)
    assert result == Tally(done=len(wanted.runs)) and outcomes(store.root) == expected and tidy(store)
    assert missing(wanted, store) == [] and not list((store.root / "failed").iterdir())

    told = Counter((event.what, event.run) for event in events if event.what != "looked")
    assert told == Counter([(what, run) for run in wanted.runs for what in ("started", "stored")])
    over: set[Run] = set()
    for event in events:
        assert event.what != "started" or over.issuperset(event.run.inputs), "inputs first"
        over |= {event.run} if event.what == "stored" else set()
    for run in wanted.runs:
        looks = [(event.done, event.total) for event in events if event.what == "looked" and event.run == run]
        assert looks == ([(step, 40) for step in range(0, 41, 5)] if isinstance(run, Train) else [])


def test_nothing_to_do_is_done_without_a_worker(store: Store) -> None:
    assert execute(Resources(store=store, workers=2), [], quietly) == Tally() and tidy(store)


@pytest.mark.usefixtures("quick")
def test_more_levels_later_cost_only_themselves(store: Store, expected: dict[str, bytes]) -> None:  # S5 S7
    first = planned(levels=1)
    execute(Resources(store=store, workers=1), missing(first, store), quietly)
    lacking = missing(planned(), store)
    assert execute(Resources(store=store, workers=1), lacking, quietly) == Tally(
        done=len(planned().runs) - len(first.runs)
    )
    assert outcomes(store.root) == expected


# ---------------------------------------------------------------- workers that die


class AcceleratorError(RuntimeError):
    """As newer versions of torch name it."""


REFUSED = [
    torch.OutOfMemoryError("CUDA out of memory"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    RuntimeError("cuDNN error: CUDNN_STATUS_NOT_SUPPORTED"),
    ValueError("CUDA error"),
]
LOST = [
    RuntimeError("CUDA error: an illegal memory access was encountered"),
    RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"),
    AcceleratorError("device-side assert triggered"),
]


@pytest.mark.parametrize("error", [*LOST, *REFUSED], ids=str)
def test_where_a_gpu_is_lost_its_process_ends_and_burns_no_other_runs(error: Exception, store: Store) -> None:
    """Whatever it asks of that GPU now fails: the runs it still has would all be called failures."""
    run, worker = planned().runs[0], Worker(store, None)

    def performed(*_: Any) -> Outcome:
        raise error

    if error in LOST:
        with pytest.raises(type(error)):
            do(run, worker, lambda *seen: None, performed)
        assert store.failed() == set()
    else:
        what, reason, _ = do(run, worker, lambda *seen: None, performed)
        assert what == "failed" and str(error) in reason


@posix
@pytest.mark.usefixtures("quick")
def test_a_killed_worker_costs_one_retry_and_a_second_death_the_run(
    store: Store, expected: dict[str, bytes]
) -> None:  # R9 S2 S4
    """The ticket's worker is killed once: the same bytes. A control's is killed twice: it failed, the rest goes on."""
    wanted = planned()
    by_row = {(row.arm, row.level): row.run for row in wanted.rows}
    unlucky, doomed = by_row["ticket", 1], by_row["shuffle", 2]
    deaths: Counter[Run] = Counter({unlucky: 1, doomed: 2})
    events: list[Event] = []

    def tell(event: Event) -> None:
        events.append(event)
        if event.what == "looked" and event.done == 20 and deaths[event.run]:
            deaths[event.run] -= 1
            kill_a_worker()

    result = execute(Resources(store=store, workers=1), missing(wanted, store), tell)
    (failure,) = result.failed.values()
    assert list(result.failed) == [doomed] and result.skipped == [] and result.done == len(wanted.runs) - 1
    assert failure.reason == "its worker was killed by SIGKILL, twice" and "SIGKILL" in failure.log.read_text()
    kept = json.loads((store.root / "failed" / doomed.key / "outcome.json").read_text())
    assert (kept["status"], kept["reason"]) == ("failed", failure.reason)
    assert [(event.run, event.note) for event in events if event.what == "retried"] == [
        (unlucky, "its worker was killed by SIGKILL"),
        (doomed, "its worker was killed by SIGKILL"),
    ]
    assert [event.run for event in events if event.what == "failed"] == [doomed]
    assert missing(wanted, store) == [doomed], "failed is not done"

    assert execute(Resources(store=store, workers=1), [doomed], quietly) == Tally(done=1), (
        "the next time it is tried again"
    )
    assert outcomes(store.root) == expected and not list((store.root / "failed").iterdir())
    Store(store.root).open()
    assert tidy(store)


@pytest.mark.usefixtures("quick")
def test_a_run_that_fails_takes_its_dependants_along_and_no_others(store: Store, expected: dict[str, bytes]) -> None:
    """A learning rate of 1e30 beside a good one, in one go."""
    recipe = SPEC["recipe"] | {"optimizer": {"name": "sgd", "lr": 1e30}}
    good, bad = planned(), planned(recipe=recipe)
    both = {run.key: run for run in (*bad.runs, *good.runs)}
    events: list[Event] = []
    result = execute(Resources(store=store, workers=2), both.values(), events.append)
    dense = bad.rows[0].run
    assert list(result.failed) == [dense]
    assert "after 5 steps; expected a finite number. Lower recipe.optimizer.lr" in result.failed[dense].reason
    assert "Diverged" in result.failed[dense].log.read_text()
    # All of the bad plan but its initial weights, which it shares with the good one, needs the dense training.
    assert {run.key for run in result.skipped} == {run.key for run in bad.runs if run not in good.runs} - {dense.key}
    assert len(result.skipped) == len({run.key for run in result.skipped})
    assert {event.run for event in events if event.what == "skipped"} == set(result.skipped)
    assert result.done == len(good.runs) and outcomes(store.root) == expected and tidy(store)


# ---------------------------------------------------------------- stopped


@posix
@pytest.mark.usefixtures("quick")
def test_ctrl_c_passes_on_and_what_is_done_is_kept(store: Store, expected: dict[str, bytes]) -> None:  # S6
    wanted, stored = planned(), list[Run]()

    def tell(event: Event) -> None:
        stored.extend([event.run] if event.what == "stored" else [])
        if event.what == "looked" and event.done == 20 and event.run == wanted.rows[1].run:
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        execute(Resources(store=store, workers=2), missing(wanted, store), tell)
    assert not multiprocessing.active_children(), "no worker goes on alone"
    assert store.keys() >= {run.key for run in stored} and 0 < len(stored) < len(wanted.runs)
    assert outcomes(store.root).items() <= expected.items()
    execute(Resources(store=Store(store.root).open(), workers=2), missing(wanted, store), quietly)
    assert outcomes(store.root) == expected and tidy(store)


@contextmanager
def hired(store: Store) -> Iterator[Any]:
    """The process of one worker, which is dismissed at the end."""
    queue = RunQueue([planned().runs[0]], store, quietly)
    resources = Resources(store=store, engine="reference", workers=1)
    staff = Processes(Equipment(resources, store.root, {}))
    with Pool(staff, Offer(1, ("cpu",)), queue, "reference") as pool:
        pool.fill()
        yield pool.posts[0].worker.process


@posix
def test_a_worker_does_not_hear_ctrl_c_even_before_it_can_say_so(
    store: Store, capfd: pytest.CaptureFixture[str]
) -> None:
    """From its first instant on, as the terminal sends it to the whole group."""
    with hired(store) as process:
        for _ in range(100):
            os.kill(process.pid, signal.SIGINT)
            time.sleep(0.02)
        alive = process.is_alive()
    assert alive and capfd.readouterr().err == ""


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="the system does not show it")
@pytest.mark.parametrize(
    "given", [None, "", "glibc.malloc.check=0:glibc.malloc.hugetlb=0"], ids=("none", "empty", "off")
)
def test_a_worker_is_started_with_cheap_memory_and_what_the_user_set_stays(
    given: str | None, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, given) if given is not None else monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.setattr(platform, "libc_ver", lambda: ("glibc", "2.36"))
    with hired(store) as process:
        shown, told = Path(f"/proc/{process.pid}/environ"), set[str]()
        end = time.monotonic() + DEADLINE_S
        while not told and time.monotonic() < end:  # until then it is the parent's image
            text = shown.read_text().replace("\0", ":")  # as the C library itself cuts it
            told = {each.removeprefix(f"{VARIABLE}=") for each in text.split(":") if "glibc." in each}
    ours = {f"{name}={value}" for name, value in TUNABLES.items()}
    assert told == (ours - {"glibc.malloc.hugetlb=1"} | set(given.split(":")) if given else ours)
    assert os.environ.get(VARIABLE) == given


@posix
def test_ctrl_c_that_comes_while_a_worker_is_hired_is_heard_afterwards() -> None:
    seen = []
    with pytest.raises(KeyboardInterrupt), unheard():
        signal.raise_signal(signal.SIGINT)
        seen.append("the rest of it")
    assert seen == ["the rest of it"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, ())


@posix
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_full_disk_stops_everything_and_leaves_nothing_half_written(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:  # S2
    """The workers are forked here, so that the disk of theirs can be full: from the second outcome on."""
    wanted, context, sync = planned(), multiprocessing.get_context("fork"), os.fsync

    def fsync(handle: int) -> None:
        if len(list((store.root / "runs").iterdir())) == 1:
            raise OSError(errno.ENOSPC, "No space left on device")
        sync(handle)

    with monkeypatch.context() as patched:
        patched.setattr(multiprocessing, "get_context", lambda method=None: context)
        patched.setattr(os, "fsync", fsync)
        inits = [run for run in wanted.runs if run.kind == "init"]
        with pytest.raises(TombolaError, match="No space left on device") as caught:
            execute(Resources(store=store, workers=1), inits, quietly)
    assert "What is finished is kept" in str(caught.value)
    assert len(store.keys()) == 1 and tidy(store) and not list((store.root / "failed").iterdir())
    assert do(missing(wanted, store)[0], Worker(store, None), lambda *seen: None) == ("stored",), (
        "it goes on from there"
    )


@pytest.mark.usefixtures("quick")
def test_a_damaged_store_stops_everything(store: Store) -> None:
    wanted = planned()
    init = wanted.rows[0].run.start
    assert do(init, Worker(store, None), lambda *seen: None) == ("stored",)
    (store.root / "runs" / init.key / "weights.safetensors").write_bytes(b"")
    with pytest.raises(TombolaError, match=rf"{init.key}.*found a damaged one.*Remove the folder"):
        execute(Resources(store=store, workers=1), missing(wanted, store), quietly)
    assert tidy(store)


# ---------------------------------------------------------------- others on the same store


@pytest.mark.usefixtures("quick")
def test_a_run_that_another_process_has_is_waited_for(store: Store, expected: dict[str, bytes]) -> None:
    """The dense training is claimed elsewhere for a while; everything else goes on, then it is done."""
    wanted = planned()
    dense, reinit = wanted.rows[0].run, next(run for run in wanted.runs if run.kind == "init" and run != wanted.runs[0])
    with ExitStack() as elsewhere:
        assert elsewhere.enter_context(Store(store.root).claim(dense))
        tries = Counter[Run]()

        def tell(event: Event) -> None:
            tries[event.run] += event.what == "started"
            if event.what == "stored" and event.run == reinit:
                elsewhere.close()

        result = execute(Resources(store=store, workers=1), missing(wanted, store), tell)
    assert result == Tally(done=len(wanted.runs)) and tries[dense] == 1 and outcomes(store.root) == expected


def start(root: Path, *specs: dict[str, Any], workers: int) -> "subprocess.Popen[str]":
    command = [sys.executable, "-c", DRIVER, str(root), str(workers), *map(json.dumps, specs)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finish(process: "subprocess.Popen[str]", within_s: float) -> list[str]:
    """What else it says; returns when it and all of its workers, which hold the same pipe, are gone."""
    said, complaints = process.communicate(timeout=within_s)
    assert complaints == ""
    return said.splitlines()


@posix
def test_after_kill_9_two_processes_at_once_go_on_and_make_the_bytes_of_an_undisturbed_run(
    tmp_path: Path, expected: dict[str, bytes]
) -> None:  # R9 S1 S2 S4 S5
    """A parent is killed while one of its workers is in a training of minutes; then two others finish the rest."""
    root, moment = tmp_path / "store", random.Random(1).randrange(10, 60)
    endless = SPEC["recipe"] | {"length": "1000000it"}
    long = SPEC | {"recipe": endless, "evaluate": {"every": "1000000it", "test_every": "1000000it"}}
    process, lines = start(root, SPEC, long, workers=2), list[str]()
    assert process.stdout
    while len(lines) < moment or not any(
        line.startswith(f"looked {planned(**long).rows[0].run.key}") for line in lines
    ):
        lines.append(process.stdout.readline())
        assert lines[-1], "it lives"
    process.kill()
    finish(process, within_s=30)
    assert process.returncode == -signal.SIGKILL
    before = outcomes(root)
    assert before and before.items() <= expected.items()

    said = [finish(process, within_s=500) for process in [start(root, SPEC, workers=1), start(root, SPEC, workers=1)]]
    assert [lines[-1] for lines in said] == ["end 0 0", "end 0 0"] and outcomes(root) == expected
    begun = Counter(
        line.split()[1] for lines in said for line in lines if line.startswith("looked") and line.endswith(" 0")
    )
    undone = [run for run in planned().runs if isinstance(run, Train) and f"runs/{run.key}/outcome.json" not in before]
    assert begun == Counter(run.key for run in undone), "each once in all"
    assert tidy(Store(root)) and not list((root / "failed").iterdir())


# ---------------------------------------------------------------- one measurement


ALWAYS = {form: Times(dense, (1.0,) * 4, 9.0, 9.0) for form, dense in (("dense", 0.5), ("sparse", 2.0))}


def faked(form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on this process measures that `form` is the faster one; others find what is kept."""
    monkeypatch.setattr(calibrate, "times", lambda shapes: dict.fromkeys(shapes, ALWAYS[form]))


@pytest.mark.skipif(not kernels.sets(), reason="the kernels were not compiled here")
@pytest.mark.parametrize("form", ["dense", "sparse"])
def test_workers_go_by_the_measurement_of_the_command(
    form: str, store: Store, quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    faked(form, monkeypatch)
    wanted = planned(levels=1, arms=["ticket"])
    execute(Resources(store=store, workers=2), missing(wanted, store), quietly)
    hows = [store.provenance(row.run) for row in wanted.rows]
    assert len(hows) == 2
    for how in hows:
        assert how["engine"].endswith(f"fc1 {form}, fc2 {form}, output {form}")
        assert how["measurement"] == hows[0]["measurement"] and how["processor"] == hows[0]["processor"]
    assert hows[0]["measurement"]["seconds"]["64 to 20, first, batch 60"]["dense"] == ALWAYS[form].dense


@pytest.mark.skipif(not kernels.sets(), reason="the kernels were not compiled here")
def test_a_table_of_several_measurements_says_so(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = planned(levels=1, arms=["ticket"])
    said = {}
    for form, levels in (("dense", 0), ("sparse", 1)):
        faked(form, monkeypatch)
        worker = Worker(
            store, None, measured=calibrate.times(timed_shapes([wanted.experiment.spec.recipe], "auto", ("cpu",)))
        )
        for run in planned(levels=levels, arms=["ticket"]).runs:
            do(run, worker, lambda *seen: None)
        found = results(wanted, store)
        said[form] = found.sentences[-1]
    assert said["sparse"].startswith("These trainings were made by 2 measurements of the engine: the same training")
    assert "measurements of the engine" not in said["dense"]
    rows = [replace(each, how=each.how | {"processor": f"number {each.row.level}"}) for each in found.rows]
    found = replace(found, rows=rows)
    said["both"] = found.sentences[-1]
    assert "made by 2 measurements of the engine and 2 processors: " in said["both"]


@pytest.mark.skipif(not kernels.sets(), reason="the kernels were not compiled here")
@pytest.mark.parametrize("model", ["lenet-20-10", "conv-2", "conv-4", "conv-6"])
def test_what_the_driver_measures_is_what_the_kernels_ask_for(model: str) -> None:
    """A shape that was not sent along would be assumed, not measured."""
    recipe = planned(recipe=SPEC["recipe"] | {"model": model, "data": "cifar10"}).experiment.spec.recipe
    built = models.build(model, (3, 32, 32), 10, recipe.init, 0)
    images, labels = torch.zeros((3, 3, 32, 32), dtype=torch.uint8), torch.arange(3)
    dataset = Dataset(data.facts("cifar10"), images, labels, images, labels)
    training = inspected(Training(optimizer=recipe.optimizer, batch=recipe.batch), Start(built, full(built), dataset))
    assert training.sequential
    assert set(timed_shapes([recipe], "auto", ("cpu",))) == set(engine.shapes(training))


def test_whether_a_stack_pays_is_measured_once_by_all_workers(store: Store, tmp_path: Path) -> None:
    answers = iter([True, False, False])
    workers = [Worker(store, None, shared=tmp_path) for _ in range(2)]
    assert [worker.pays("recipe", 4, lambda: next(answers)) for worker in workers] == [True, True]
    assert not workers[0].pays("recipe", 5, lambda: next(answers)), "another stack is measured by itself"


def test_hosts_whose_locks_do_not_see_each_other_agree_whether_a_stack_pays(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both measure at once, and find opposite answers: the one that is there first counts for both."""
    monkeypatch.setattr("tombola.files.FileLock", lambda path: nullcontext())
    one, other = (Worker(store, None, shared=tmp_path) for _ in range(2))

    def meanwhile() -> bool:
        assert not other.pays("recipe", 4, lambda: False)
        return True

    assert not one.pays("recipe", 4, meanwhile)
    assert sorted(path.suffix for path in tmp_path.iterdir() if path.is_file()) == [".json", ".lock"]


# ---------------------------------------------------------------- extensions

EXTENSION = '''
from dataclasses import dataclass, replace

from tombola import mask_codec
from tombola.lab.kinds import mask_outcome
from tombola.lab.runs import Outcome, Run
from tombola.mask import Mask


@dataclass(frozen=True, eq=False, repr=False)
class Mean(Run):
    """The mean of the weights of several runs: as many inputs as one likes."""

    kind = "mean"
    version = 1

    of: tuple[Run, ...]

    def perform(self, worker, tell=lambda done, total, loss: None):
        states = [worker.store.weights(run) for run in self.of]
        return Outcome({}, {"weights": {name: sum(each[name] for each in states) / len(states) for name in states[0]}})


@dataclass(frozen=True, eq=False, repr=False)
class Halved(Run):
    """Every second weight of a run, under a mask of its own, as of a search that changes it while it trains."""

    kind = "halved"
    version = 1

    of: Run
    like: Run

    def perform(self, worker, tell=lambda done, total, loss: None):
        own = {name: alive.clone() for name, alive in worker.store.mask(self.like).items()}
        for alive in own.values():
            alive.view(-1)[1::2] = False
        made = mask_outcome(Mask(own))
        kept = mask_codec.compress(worker.store.weights(self.of), Mask(own))
        return Outcome(made.values, {**made.tensors, "weights": kept})


def flipped(mask, seed):
    return Mask({name: alive.flip(-1) for name, alive in mask.items()})


CONTROLS = {
    "soup": lambda replicate, ticket, level, draw: replace(
        ticket, start=Mean((ticket.start, replicate.rewind_point(init="soup")))
    ),
    "halved": lambda replicate, ticket, level, draw: replace(ticket, start=Halved(ticket.start, ticket.mask)),
    "flipped": lambda replicate, ticket, level, draw: replace(
        ticket, mask=replicate.derived(flipped, ticket.mask, "flipped")
    ),
}
'''


@pytest.mark.usefixtures("quick")
def test_kinds_of_runs_from_outside_are_planned_done_by_workers_and_stored(store: Store, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(EXTENSION)
    small = ["levels=1", "replicates=1", "recipe.length=10it", "rewind=0it", "arms=ticket,soup,halved,flipped"]
    experiment = read("digits", small, [tmp_path / "mine.py"])
    wanted = plan(experiment)
    rows = {row.arm: row.run for row in wanted.rows}
    soup, halved = rows["soup"].start, rows["halved"].start
    assert set(soup.inputs) == {rows["ticket"].start, *soup.inputs} and len(soup.inputs) == 2
    assert {"mean", "halved", "derived"} <= {run.kind for run in wanted.runs}
    assert soup.described["kind_code"] == halved.described["kind_code"] == experiment.extensions[0].sha256
    (tmp_path / "mine.py").unlink()  # workers have its text

    resources = Resources(store=store, workers=2, extensions=experiment.extensions)
    assert execute(resources, missing(wanted, store), quietly) == Tally(done=len(wanted.runs)) and tidy(store)
    one, other = map(store.weights, soup.inputs)
    assert weights.equal(store.weights(soup), {name: (one[name] + other[name]) / 2 for name in one})
    before, own = store.weights(rows["ticket"].start), store.mask(halved)
    ticket_mask, flipped = store.living(rows["ticket"]), store.living(rows["flipped"])
    assert ticket_mask and flipped and 0 < own.alive < ticket_mask.alive and store.living(halved) == own
    assert weights.equal(store.weights(halved), mask.apply(before, own)), "by its own mask"
    assert all(torch.equal(alive, ticket_mask[name].flip(-1)) for name, alive in flipped.items())
    assert missing(wanted, store) == []


DWINDLING = '''
from dataclasses import dataclass, fields

from tombola import mask_codec, weights
from tombola.lab.kinds import Train, mask_outcome
from tombola.lab.runs import Outcome
from tombola.mask import Mask


@dataclass(frozen=True, eq=False, repr=False)
class Dwindling(Train):
    """A training that ends under a mask of its own: every second of the weights that it was given."""

    kind = "dwindling"
    version = 1

    def perform(self, worker, tell=lambda done, total, loss: None):
        ended = super().perform(worker, tell)
        trained = ended.tensors["weights"]
        if self.mask:
            trained = mask_codec.expand(trained, worker.store.mask(self.mask))
        own = {name: value != 0 for name, value in trained.items() if name.endswith("weight")}
        for alive in own.values():
            alive.view(-1)[alive.view(-1).nonzero().flatten()[1::2]] = False
        made = mask_outcome(Mask(own))
        kept = {"weights": mask_codec.compress(trained, Mask(own))}
        return Outcome({**ended.values, **made.values}, {**ended.tensors, **made.tensors, **kept}, ended.how)


def dwindling(replicate, levels):
    training = None
    for level in range(levels + 1):
        plain = replicate.train(replicate.rewind_point(), mask=training)
        training = Dwindling(**{each.name: getattr(plain, each.name) for each in fields(plain) if each.init})
        yield training


METHODS = {"dwindling": dwindling}
'''


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("engine", ["auto", "stacked"])
def test_a_training_may_end_under_a_mask_of_its_own_which_the_next_one_is_given(
    engine: str, store: Store, tmp_path: Path
) -> None:
    (tmp_path / "mine.py").write_text(DWINDLING)
    small = ["levels=2", "replicates=2", "recipe.length=10it", "rewind=0it", "method=dwindling", "arms=ticket"]
    changes = [*small, "study.overlap.levels=1,2", f"engine={engine}"]
    experiment = read("digits-lenet", changes, [tmp_path / "mine.py"])
    wanted = plan(experiment)
    kinds = {row.run.kind for row in wanted.rows}
    assert kinds == {"dwindling"} and not any(run.data_parallel or run.stack for run in wanted.runs)
    resources = Resources(store=store, workers=2, engine=experiment.spec.engine, extensions=experiment.extensions)
    assert execute(resources, missing(wanted, store), quietly).failed == {}
    alive = {(row.replicate, row.level): store.values(row.run)["alive"] for row in wanted.rows}
    for (replicate, level), count in alive.items():
        assert not level or abs(count - alive[replicate, level - 1] / 2) <= 3, "half of what there was, layer by layer"
    for row in wanted.rows:
        state, living = store.weights(row.run), store.living(row.run)
        assert living and all(((state[name] != 0) <= kept).all() for name, kept in living.items())
        assert living.alive == store.values(row.run)["alive"]
    finished = results(wanted, store)
    assert len(finished.rows) == len(wanted.rows)
    for row in wanted.rows:
        ticket = ticket_of(wanted, store, row.level, row.replicate)
        _, alive_at_end, _ = trained_of(wanted, store, row.level, row.replicate)
        assert ticket.mask == alive_at_end == store.living(row.run), "what the table counts"
        assert ticket.origin["keys"] == {"start": row.run.start.key, "mask": row.run.key}
    for level, finding in enumerate(finished.findings, start=1):
        densities = [store.values(row.run)["density"] for row in wanted.rows if row.level == level]
        assert finding.values["density"] == pytest.approx(sum(densities) / 2), "the masks at the end"
    assert len(finished.findings) == 2
    assert run_seconds(wanted, store)(wanted.rows[0].run) > 0


# ---------------------------------------------------------------- scheduling


def calls_to_schedule(replicates: int, together: int, store: Store) -> tuple[int, int]:
    """How many runs there are, and how many functions are called, to give them all out and hear that they are stored.

    The comparisons of runs in lists are among the calls, and the steps of generators.
    """
    wanted = planned(replicates=replicates, levels=1)
    calls = 0

    def count(frame: object, event: str, argument: object) -> None:
        nonlocal calls
        calls += event in ("call", "c_call")

    sys.setprofile(count)
    try:
        work = RunQueue(list(wanted.runs), store, quietly)
        while given := work.next(lambda run: together):
            for run in given:
                work.stored(run)
    finally:
        sys.setprofile(None)
    assert work.over and work.result.done == len(wanted.runs)
    return len(wanted.runs), calls


@pytest.mark.parametrize("together", [1, 16])
def test_a_run_costs_the_scheduler_the_same_however_many_there_are(together: int, store: Store) -> None:
    few, calls_of_few = calls_to_schedule(4, together, store)
    many, calls_of_many = calls_to_schedule(64, together, store)
    assert calls_of_many / many < 1.5 * calls_of_few / few


def test_workers_leave_nothing_of_the_system_behind(tmp_path: Path) -> None:
    """Units are followed by torch.fx, which makes a lock of the system; whoever kills its process leaves it there."""
    asked = ["run", "digits-lenet", "--store", str(tmp_path / "store"), "--workers", "1"]
    changes = ["levels=1", "replicates=1", "recipe.length=8it", "arms=ticket,rebasin"]
    sets = [part for change in changes for part in ("--set", change)]
    done = subprocess.run([sys.executable, "-m", "tombola", *asked, *sets], capture_output=True, text=True)
    assert done.returncode == 0 and "leaked" not in done.stderr, done.stderr
