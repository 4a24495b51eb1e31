"""Jobs of Slurm: what is asked for, and that whatever befalls jobs and command, the same bytes come out.

Most tests have submitit start the jobs as processes of this machine. For what Slurm itself says there is a Slurm of a
few lines, whose commands stand first in the PATH.
"""

import json
import os
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tombola.cli import main
from tombola.errors import BadInput, NoRoom, StoreError
from tombola.lab import mailbox, slurm
from tombola.lab.attempt import do
from tombola.lab.executor import Resources
from tombola.lab.mailbox import Pulse, Receiver, Sender
from tombola.lab.plan import Plan, missing, plan
from tombola.lab.pool import Post
from tombola.lab.queue import Event, RunQueue, Tally
from tombola.lab.runs import Outcome, Run, Stored
from tombola.lab.serving import Equipment
from tombola.lab.slurm import jobs as jobs_of_slurm
from tombola.lab.slurm.asked import JOBS, NOTICE_S, Asked
from tombola.lab.slurm.asked import asked as asked_for
from tombola.lab.slurm.job import facts
from tombola.lab.slurm.jobs import Jobs
from tombola.lab.spec import Experiment, Spec
from tombola.lab.store import Store
from tombola.lab.worker import Worker

pytest.importorskip("submitit", reason="the extra slurm")
pytestmark = pytest.mark.skipif(not Path("/proc/self").exists(), reason="jobs are looked for in /proc")

SPEC = """
replicates = 1
levels = 1
arms = ["ticket", "reinit"]

[recipe]
model = "lenet-20-10"
data = "digits"
length = "3000it"
batch = 60
optimizer = {name = "adam", lr = 2e-3}

[evaluate]
every = "50it"
test_every = "1000it"
"""
DEADLINE_S = 240.0


def planned() -> Plan:
    return plan(Experiment(name="tiny", spec=Spec.model_validate(tomllib.loads(SPEC))))


def outcomes(root: Path) -> dict[str, bytes]:
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

    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, DEADLINE_S)
    yield
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The bytes of the plan's outcomes, made here in this process, one run after the other."""
    worker = Worker(Store(tmp_path_factory.mktemp("expected") / "store").open(), None)
    for run in planned().runs:
        assert do(run, worker, lambda *seen: None) == ("stored",)
    return outcomes(worker.store.root)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store").open()


def execute(store: Store, on: str, tell: Callable[[Event], None] = lambda event: None) -> Tally:
    wanted = planned()
    with slurm.SLURM.team(Resources(store=store, address=on)) as team:
        assert team
        return team.execute(missing(wanted, store), tell)


def pids(store: Store) -> list[int]:
    """The processes of the jobs, in the order of their mailboxes."""
    boxes = sorted(store.root.glob("tmp/**/mail/[0-9]*"), key=lambda box: int(box.name))
    first = [(box / "said").read_text().splitlines()[:1] for box in boxes]
    return [json.loads(line)[2]["pid"] for lines in first for line in lines]


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def wait_for(what: Callable[[], Any], why: str) -> Any:
    until = time.monotonic() + DEADLINE_S / 2
    while not (found := what()):
        assert time.monotonic() < until, why
        time.sleep(0.05)
    return found


def tidy(store: Store) -> bool:
    """Whether nothing is left of the work, but for what goes when the store is opened."""
    Store(store.root).open()
    return not any(list((store.root / folder).iterdir()) for folder in ("tmp", "claims", "checkpoints", "failed"))


# ---------------------------------------------------------------- what is asked for


def asked(on: str, **resources: Any) -> Asked:
    return asked_for(Resources(store=Store(Path("nowhere")), address=on, **resources))


def test_what_slurm_is_asked_for_is_said_by_name() -> None:
    wanted = asked("partition=gpu,time=1-00:00:00,jobs=3,mem=4G", options={"account": "us", "cpus": "2"})
    assert wanted.place == "slurm" and wanted.named == {"partition": "gpu", "account": "us"}
    assert (wanted.jobs, wanted.minutes, wanted.gigabytes, wanted.cpus) == (3, 1440, 4, 2)
    assert wanted.notice_s == NOTICE_S and asked("time=1").notice_s == 15
    assert asked("").jobs == JOBS and asked("", workers=5).jobs == 5
    assert asked("local,jobs=2").place == "local" and asked("debug,jobs=2").jobs == 1


@pytest.mark.parametrize(
    ("on", "said"),
    [
        ("moon", "processes of this machine"),
        ("local,debug", "found slurm:local,debug"),
        ("speed=high", "options NAME=VALUE out of jobs"),
        ("partition=", "found 'partition='"),
        ("jobs=0", "a whole number from 1 to 1000, found '0'"),
        ("jobs=many", "found 'many'"),
        ("time=1:30", "a minute at least, found '1:30'"),
        ("time=-5", "found '-5'"),
        ("time=0", "found '0'"),
        ("gpus=2", "from 0 to 1"),
        ("partition=a\n#SBATCH --uid=0", "a name that Slurm knows"),
    ],
)
def test_what_slurm_cannot_be_asked_for_is_bad_input(on: str, said: str) -> None:
    with pytest.raises(BadInput) as raised:
        asked(on)
    assert said in str(raised.value)


def test_jobs_are_counted_once_and_a_gpu_is_asked_for() -> None:
    with pytest.raises(BadInput, match="one of --workers and jobs"):
        asked("jobs=2", workers=3)
    for on, here, devices in [
        ("", ("cpu",), ("cpu",)),
        ("", ("cuda:0", "cuda:1"), ("cuda:0",)),  # each job has one, which is its first
        ("gpus=1", ("cpu",), ("cuda:0",)),  # from a machine without one, as where people log in
        ("gpus=0", ("cuda:0",), ("cpu",)),
    ]:
        assert slurm.offer(Resources(store=Store(Path("nowhere")), address=on, devices=here)).devices == devices


def test_a_plan_is_for_the_device_of_the_jobs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def told(*more: str) -> tuple[int, str, str]:
        status = main(["plan", "digits", "--format", "json", "--store", str(tmp_path / "store"), *more])
        return status, *capsys.readouterr()

    for words in (["--set", "device=cuda"], ["--with", "gpus=1"]):
        status, out, _ = told("--on", "slurm", *words)
        content = json.loads(out)
        assert status == 0 and content["devices"] == ["cuda:0"] and content["engine"]["name"] == "stacked"
    status, _, err = told("--on", "slurm", "--with", "gpus=1", "--set", "device=cpu")
    assert status == 2 and "device: expected cuda or auto" in err
    status, _, err = told("--on", "slurm", "--with", "gpus=0", "--set", "device=cuda")
    assert status == 2 and "device: expected cpu or auto" in err


def test_a_plan_says_what_slurm_would_be_given(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = ["--on", "slurm:partition=gpu,time=60,jobs=4", "--with", "mem=8", "--store", str(tmp_path / "store")]
    assert main(["plan", "digits", *given]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert (
        "Slurm gets an array of 4 jobs, partition gpu: one run at a time each, with 1 core, 8 GB, at most 60 minutes, "
        "after which another one goes on."
    ) in said and "with 4 workers" in said
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize(
    ("without", "on", "where", "said"),
    [
        ("sbatch", "slurm", "store", "expected Slurm's commands, sbatch and srun, found none"),
        ("submitit", "slurm:local", "store", "pip install '.[slurm]'"),
        ("a shared folder", "slurm", "s3://bucket/here", "--with folder="),
    ],
)
def test_what_is_missing_is_said_at_once(
    without: str,
    on: str,
    where: str,
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    if without == "submitit":
        monkeypatch.setitem(sys.modules, "submitit", None)
    if "://" in where:
        pytest.importorskip("s3fs")
    assert main(["run", "digits", "--set", "replicates=1", "--set", "levels=0", "--store", where, "--on", on]) == 2
    assert said in capsys.readouterr().err


def test_a_folder_that_cannot_be_written_is_bad_input(store: Store) -> None:
    with pytest.raises(BadInput, match="expected one that can be written"):
        execute(store, "local,folder=/proc/here")
    assert tidy(store)


# ---------------------------------------------------------------- mail


def test_a_message_is_read_once_and_when_it_is_complete(tmp_path: Path) -> None:
    path = tmp_path / "said"
    path.touch()
    sender, receiver = Sender(path), Receiver(path)
    sender.send(["a"])
    sender.send(["b", 1.5])
    assert receiver.new() == [["a"], ["b", 1.5]] and receiver.new() == []
    with path.open("ab") as file:
        file.write(b'["c')
    assert receiver.new() == []
    with path.open("ab") as file:
        file.write(b'"]\n\0\0\0\0\n')  # what a file system may show for a moment of what another machine writes
    assert receiver.new() == [["c"]]
    path.write_bytes(path.read_bytes().replace(b"\0\0\0\0", b"1234"))
    assert receiver.new() == [1234]


@pytest.mark.parametrize(
    "error",
    [
        StoreError(where="a", expected="b", found="c", todo="d"),
        BadInput(where="a", expected="b", found="c", todo="d"),
        NoRoom("No space left on device"),
    ],
)
def test_an_error_that_stops_everything_arrives_as_it_was(error: Exception) -> None:
    key, what, found = mailbox.heard(json.loads(json.dumps(mailbox.said(("k", "stop", error)))))
    assert (key, what) == ("k", "stop") and type(found) is type(error) and str(found) == str(error)


def test_a_command_is_gone_when_its_pulse_stands_still_or_its_folder_is_gone(tmp_path: Path) -> None:
    path = tmp_path / "pulse"
    path.write_text("0")
    patient, hasty = Pulse(path, 3600), Pulse(path, 0.0)
    assert patient.beats() and not hasty.beats()
    path.unlink()
    assert not patient.beats()


@pytest.mark.parametrize(
    ("change", "error", "said"),
    [
        ({"store": False}, StoreError, "expected a store that all machines see, found nothing of it on n7"),
        ({"Tombola": "0.0.1"}, BadInput, "Tombola on n7: expected "),
        ({"Python": "3.9"}, BadInput, "Python on n7: expected "),
    ],
)
def test_a_machine_that_is_not_like_this_one_is_refused(
    change: dict[str, Any], error: type[BadInput], said: str, tmp_path: Path
) -> None:
    jobs = Jobs(asked("local"), tmp_path, Equipment(Resources(store=Store(tmp_path)), tmp_path, {}))
    job = jobs.hire("cpu")
    Sender(tmp_path / "1" / "said").send(["", "here", facts() | {"host": "n7", "pid": 1, "store": True} | change])
    with pytest.raises(error, match=said):
        list(jobs._said(job))


# ---------------------------------------------------------------- no run goes on for ever


def test_a_run_that_gets_no_further_in_a_whole_job_twice_has_failed(store: Store) -> None:
    run, events = Stored("run"), list[Event]()
    queue = RunQueue([run], store, events.append)

    def leave(step: int | None, whole: bool) -> None:
        assert queue.next() == [run]
        if step is not None:
            store.keep(run, Outcome({"step": step}))
        queue.halted(run, "its worker had to leave", "", whole)

    for step in (100, 200, 300):
        leave(step, whole=True)
    for _ in range(5):
        leave(300, whole=False)  # other runs have had its time
    assert [event.what for event in events] == ["started", "halted"] * 8 and not queue.over
    assert events[1].note == "its worker had to leave; it goes on from step 100"
    leave(300, whole=True)
    leave(300, whole=False)
    assert not queue.over, "what others had most of is not held against it, after a whole job neither"
    leave(400, whole=True)
    leave(400, whole=True)
    assert events[-1].what == "halted" and not queue.over
    leave(400, whole=True)
    (failure,) = queue.result.failed.values()
    assert failure.reason == "its worker had to leave, and it got no further, twice" and queue.over


def test_a_run_had_most_of_a_workers_time_where_the_worker_neither_idled_nor_did_others_for_longer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for given, had_most in ((101.0, True), (129.0, True), (131.0, False)):
        monkeypatch.setattr(time, "monotonic", lambda: 160.0)
        assert Post(None, "cpu", since=100.0, given=given).had_most is had_most


def test_a_run_without_any_checkpoint_is_tried_twice(store: Store) -> None:
    run = Stored("run")
    queue = RunQueue([run], store, lambda event: None)
    for _ in range(2):
        assert queue.next() == [run] and not queue.over
        queue.halted(run, "its worker had to leave", "", whole=True)
    assert queue.over and run in queue.result.failed


# ---------------------------------------------------------------- tried out


def test_in_this_process_the_bytes_are_the_same(store: Store, expected: dict[str, bytes]) -> None:
    events: list[Event] = []
    assert execute(store, "debug", events.append) == Tally(done=len(planned().runs))
    assert outcomes(store.root) == expected and tidy(store)
    assert {"started", "looked", "stored"} == {event.what for event in events}


def test_jobs_that_are_killed_or_out_of_time_cost_no_more_than_time(store: Store, expected: dict[str, bytes]) -> None:
    """The ticket's job is killed; others are told that their time is near its end, until one is in mid-training."""
    ticket, events = planned().rows[1].run, list[Event]()

    def send(number: int) -> None:
        os.kill(max(filter(alive, pids(store))), number)

    def tell(event: Event) -> None:
        before = {(each.what, each.run) for each in events}
        events.append(event)
        if event.what == "started" and event.run == ticket and (event.what, event.run) not in before:
            send(signal.SIGKILL)  # before it has been given the run, so that it cannot be done by then
        if event.what == "looked" and (event.what, event.run) not in before and not resumed():
            send(signal.SIGUSR2)

    def resumed() -> list[Run]:
        return [
            each.run
            for each in events
            if "had to leave, as its job's time limit was near; it goes on from step" in each.note
        ]

    assert execute(store, "local,jobs=1", tell).failed == {}
    assert outcomes(store.root) == expected and tidy(store)
    (step,) = store.provenance(resumed()[0])["resumed"]
    assert 0 < step < 3000 and step % 50 == 0
    assert {event.what for event in events} >= {"halted", "retried"}
    (retried,) = [event for event in events if event.what == "retried"]
    assert retried.run == ticket and "its worker ended before it was done (job " in retried.note


DRIVER = """
import sys
from tombola.lab import mailbox
from tombola.lab.slurm import jobs
mailbox.PULSE_S, jobs.SILENT_S, jobs.GRACE_S = 0.2, 4.0, 100.0
from tombola.cli import main
sys.exit(main(sys.argv[1:]))
"""


def start(store: Store) -> "subprocess.Popen[str]":
    spec = store.root.parent / "tiny.toml"
    spec.write_text(SPEC)
    return subprocess.Popen(
        [sys.executable, "-c", DRIVER, "run", str(spec), "--store", str(store.root), "--on", "slurm:local,jobs=1"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip


def test_jobs_end_with_the_command_however_it_ends_and_the_same_command_goes_on(
    store: Store, expected: dict[str, bytes]
) -> None:
    """Ctrl-C, then a kill that cannot be heard, then to the end."""
    process = start(store)
    jobs = wait_for(lambda: pids(store), "the job is there")
    os.killpg(process.pid, signal.SIGINT)
    _, complaints = process.communicate(timeout=DEADLINE_S / 2)
    assert process.returncode == 130 and "finished and kept" in complaints, complaints
    assert not any(map(alive, jobs)), "the command has waited for them"
    assert not list((store.root / "tmp").iterdir())

    process = start(store)
    jobs = wait_for(lambda: pids(store), "the job is there")
    process.kill()
    process.communicate(timeout=DEADLINE_S / 2)
    wait_for(lambda: not any(map(alive, jobs)), "they end by themselves")

    assert execute(store, "debug").failed == {}
    assert outcomes(store.root) == expected and tidy(store)


# ---------------------------------------------------------------- a Slurm of a few lines

COMMANDS = """
import json, os, re, signal, subprocess, sys
from pathlib import Path

here = Path(__file__).parent
name, arguments = Path(sys.argv[0]).name, sys.argv[1:]

def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False

def sbatch(path):
    if (here / "refuse").exists():
        sys.exit((here / "refuse").read_text())
    text = Path(path).read_text()
    (here / "scripts").open("a").write(text)
    number = 1 + len(list(here.glob("job-*")))
    array = re.search(r"--array=0-(\\d+)", text)
    tasks = [str(index) for index in range(int(array[1]) + 1)] if array else [""]
    for index in tasks:
        job = f"{number}_{index}" if index else str(number)
        environment = dict(os.environ, SLURM_JOB_ID=str(number), A=str(number), I=index)
        if index:
            environment |= {"SLURM_ARRAY_JOB_ID": str(number), "SLURM_ARRAY_TASK_ID": index}
        if (here / "hold").exists():
            state = {"state": "PENDING"}
        else:
            process = subprocess.Popen(["bash", path], env=environment, start_new_session=True, stdout=-3, stderr=-3)
            state = {"state": "RUNNING", "pid": process.pid}
        (here / f"job-{job}").write_text(json.dumps(state))
    print(f"Submitted batch job {number}")

def srun(*arguments):
    for file, stream in ((arguments[2], 1), (arguments[4], 2)):
        for sign, value in (("%A", "A"), ("%a", "I"), ("%j", "A")):
            file = file.replace(sign, os.environ[value])
        os.dup2(os.open(file.replace("%t", "0"), os.O_WRONLY | os.O_CREAT | os.O_APPEND), stream)
    os.execvp(arguments[5], arguments[5:])

def squeue(*arguments):
    asked = next(a for a in arguments if a.startswith("--jobs=")).partition("=")[2].split(",")
    for path in here.glob("job-*"):
        job, state = path.name[4:], json.loads(path.read_text())
        if job.partition("_")[0] in asked:
            over = state["state"] == "RUNNING" and not alive(state["pid"])
            lost = (here / "lost").exists() and over
            print(job, "NODE_FAIL" if lost else "COMPLETED" if over else state["state"], "Resources", sep="|")

def scancel(*jobs):
    for job in jobs:
        path = here / f"job-{job}"
        state = json.loads(path.read_text())
        (here / "cancelled").open("a").write(job + "\\\\n")
        if "pid" in state and alive(state["pid"]):
            os.killpg(state["pid"], signal.SIGTERM)
        elif "pid" not in state:
            path.write_text('{"state": "CANCELLED"}')

globals()[name](*arguments)
""".replace("\\\\n", "\\n")


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "cluster"
    folder.mkdir()
    (folder / "commands.py").write_text(f"#!{sys.executable}\n{COMMANDS}")
    (folder / "commands.py").chmod(0o755)
    for name in ("sbatch", "srun", "squeue", "scancel"):
        (folder / name).symlink_to("commands.py")
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr(jobs_of_slurm, "ASK_S", 0.5)
    return folder


def states(cluster: Path) -> list[str]:
    return [json.loads(path.read_text())["state"] for path in cluster.glob("job-*")]


def test_slurm_is_given_one_array_and_a_lost_node_costs_a_retry(
    store: Store, cluster: Path, expected: dict[str, bytes]
) -> None:
    dense, events = planned().rows[0].run, list[Event]()

    def tell(event: Event) -> None:
        events.append(event)
        if event.what == "started" and event.run == dense and not (cluster / "lost").exists():
            (cluster / "lost").touch()  # before it has been given the run, so that it cannot be done by then
            for path in cluster.glob("job-*"):
                os.killpg(json.loads(path.read_text())["pid"], signal.SIGKILL)

    tally = execute(store, "jobs=2,time=90,partition=cpu", tell)
    assert tally.failed == {} and outcomes(store.root) == expected and tidy(store)
    script = (cluster / "scripts").read_text()
    for line in ("array=0-1%2", "partition=cpu", "time=90", "no-requeue", "signal=USR2@120", "job-name=tombola"):
        assert f"#SBATCH --{line}\n" in script
    (why,) = [event.note for event in events if event.what == "retried" and event.run == dense]
    assert "its worker was lost with its node (job 1_" in why


def test_jobs_that_wait_are_told_of_and_taken_out_of_the_queue_at_the_end(store: Store, cluster: Path) -> None:
    (cluster / "hold").touch()
    events: list[Event] = []

    def tell(event: Event) -> None:
        events.append(event)
        if "Resources" in event.note:
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        execute(store, "jobs=3", tell)
    assert {event.what for event in events} == {"waits"}, "no run has been started"
    assert events[-1].note == "3 jobs wait for Slurm (Resources)"
    assert states(cluster) == ["CANCELLED"] * 3 and tidy(store)


def test_what_slurm_refuses_is_bad_input_in_its_own_words(
    store: Store, cluster: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (cluster / "refuse").write_text(
        "sbatch: error: invalid partition specified: moon\n"
        "sbatch: error: Batch job submission failed: Invalid partition name specified"
    )
    given = ["--set=levels=0", "--set=replicates=1", "--store", str(store.root), "--on", "slurm:partition=moon"]
    assert main(["run", "digits", *given]) == 2
    said = capsys.readouterr().err
    assert "found invalid partition specified: moon; Batch job submission failed: Invalid partition name" in said
    assert "--with partition=" in said and tidy(store)
