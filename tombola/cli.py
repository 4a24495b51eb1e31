"""The command `tombola`.

Exit status: 0 done (a losing ticket is an answer), 1 something failed, 2 bad input, 130 interrupted and resumable.
"""

import errno
import os
import signal
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import App, CycloptsError, Parameter, UnknownCommandError, UnusedCliTokensError
from rich.console import Console

from tombola import __version__, data, files
from tombola.code import place
from tombola.engine import machine
from tombola.errors import BadInput, DataError, StoreError, TombolaError
from tombola.lab import presets as preset_files
from tombola.lab.executor import Resources
from tombola.lab.plan import Plan, complete, engine_of, for_devices, missing, of_first, run_seconds, summary
from tombola.lab.plan import plan as planned
from tombola.lab.runs import data_sets
from tombola.lab.spec_file import read
from tombola.lab.store import Store
from tombola.lab.stores import store_at

if TYPE_CHECKING:
    from tombola.lab.executor import Executor, Offer, Team
    from tombola.lab.queue import Tally
    from tombola.lab.results import Results

# Endings that say of a file what it is.
_TEXTS = {".csv", ".html", ".json", ".md", ".png", ".svg", ".toml", ".txt"}
_MODEL_FILES = {".bin", ".ckpt", ".h5", ".npy", ".npz", ".onnx", ".pkl", ".pt", ".pt2", ".pth"}  # beside safetensors

app = App(
    name="tombola",
    help="Find winning lottery tickets, prove them, show why, and cash them in.",
    version=__version__,
    result_action="return_value",
    suppress_keyboard_interrupt=False,
    help_epilogue="Start with: tombola run digits",
)


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Common:
    """What every command about an experiment takes.

    Parameters
    ----------
    set
        Change a field of the spec: --set recipe.length=1000it. May be repeated.
    extend
        Execute a Python file, whose METHODS, CONTROLS, SCORES, OBJECTIVES, DYNAMICS and STUDIES the spec may then name.
        May be repeated.
    store
        The folder of finished runs, or their address in a bucket: s3://bucket/prefix.
    until
        `decided`: add replicates, from five on, until each verdict and each control's sentence is decided at every
        level, or given up. Short for --set verdict.until=decided.
    most_replicates
        How many there may be then, by default 20. Short for --set verdict.most_replicates=20.
    """

    set: Annotated[tuple[str, ...], Parameter(name="--set", negative=())] = ()
    extend: Annotated[tuple[str, ...], Parameter(name="--extend", negative=())] = ()
    store: Annotated[str, Parameter(name="--store", env_var="TOMBOLA_STORE")] = "tombola-store"
    until: Annotated[Literal["decided"] | None, Parameter(name="--until")] = None
    most_replicates: Annotated[int | None, Parameter(name="--most-replicates")] = None

    @property
    def changes(self) -> tuple[str, ...]:
        """All changes to the spec."""
        short = {"verdict.until": self.until, "verdict.most_replicates": self.most_replicates}
        return (*self.set, *(f"{path}={value}" for path, value in short.items() if value is not None))


_UNWRITTEN = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
MOST_FINDINGS = 20  # that a run ends with; the rest is in the report

DataDir = Annotated[Path | None, Parameter(name="--data-dir", env_var="TOMBOLA_DATA")]
Workers = Annotated[int | None, Parameter(name="--workers")]
On = Annotated[str | None, Parameter(name="--on", env_var="TOMBOLA_ON")]
With = Annotated[tuple[str, ...], Parameter(name="--with", negative=())]


@app.command
def run(
    spec: str,
    /,
    *,
    common: Common = Common(),
    data_dir: DataDir = None,
    workers: Workers = None,
    on: On = None,
    options: With = (),
    log: str | None = None,
) -> int:
    """Do what is missing of an experiment, then print its table and verdict and write its report.

    Run it again at any time: what is stored is not done again.

    Parameters
    ----------
    spec
        A preset's name (see `tombola presets`) or a TOML file.
    data_dir
        Where data sets lie, or are downloaded to. `digits` needs none.
    workers
        Processes at work at once, one thread each. By default one per core, or one per GPU.
    on
        Who does it: NAME or NAME:ADDRESS. By default worker processes on this machine.
    options
        What else is asked of who does it: --with NAME=VALUE. May be repeated.
    log
        Tell a tracker of it meanwhile, as `tombola log` does afterwards: mlflow, mlflow=http://localhost:5000.
    """
    plan = planned(read(spec, common.changes, common.extend))
    executor, resources = _who(plan, common, data_dir, workers, on, options)
    if machine.processes() > 1:
        engine_of(plan)  # before they meet: what they cannot share out each of them refuses by itself
    console = _Patient(stderr=False)
    logged = _logged(spec, common, log, console)
    with executor.team(resources) as team:
        if team is None:
            return 0
        with logged(team) as team:
            return _run(for_devices(plan, team.offer.devices), resources, team, console)


def _logged(
    spec: str, common: Common, log: str | None, console: Console
) -> "Callable[[Team], AbstractContextManager[Team]]":
    """What makes of a team one that tells a tracker of what it does, where one is asked for."""
    if log is None:
        return nullcontext
    from tombola.trackers import live

    order = live.ordered(spec, common.changes, common.extend, common.store, log)
    say = partial(console.print, highlight=False, markup=False, soft_wrap=True)
    return lambda team: live.beside(order, team, say)


class _Patient(Console):
    def on_broken_pipe(self) -> None:
        """Nobody reads on, as after `| head`: what was asked for is done all the same, its report too."""
        _silence()


def _who(
    plan: Plan, common: Common, data_dir: Path | None, workers: int | None, on: str | None, options: Sequence[str]
) -> "tuple[Executor, Resources]":
    """Who does what a plan lacks, and with what."""
    from tombola.lab import executors

    spec, (executor, address) = plan.experiment.spec, executors.choose(on)
    theirs = executor.elsewhere and spec.device == "cuda"
    return executor, Resources(
        store=store_at(common.store),
        data_dir=data_dir,
        engine=spec.engine,
        devices=("cuda:0",) if theirs else machine.devices(spec.device),
        workers=workers,
        extensions=plan.experiment.extensions,
        address=address,
        options=executors.options(executor, options),
    )


def _run(plan: Plan, resources: Resources, team: "Team", console: Console) -> int:
    from tombola.report.text import plan_text

    store, data_dir, looks = resources.store.open(), resources.data_dir, plan.experiment.spec.looks
    part = of_first(plan, max(looks.first, complete(plan, store))) if looks else plan
    if lacking := missing(part, store):
        if engine_of(plan).unmeasured:
            for name in data_sets(lacking):
                data.load(name, data_dir)  # that they are not there should not be found out half a minute later
            console.print("Measuring, once, how fast this machine trains such layers: up to half a minute.")
        engine_of(plan, measuring=True)  # while the machine is quiet, and before the plan shows it
    console.print(plan_text(_summary(plan, store, team.offer)), highlight=False, markup=False)
    if looks:
        store.note_until(plan.rows[0].run)
    tally = _execute(part, store, team, console)
    if tally and looks:
        tally = _until_decided(plan, part, tally, store, team, console)
    if tally is None:
        return 130
    results = _results(plan, store, allow_none=bool(tally.failed))
    if results.rows:
        _show(results, console)
    return 1 if tally.failed else 0


def _summary(plan: Plan, store: Store, offer: "Offer") -> dict[str, Any]:
    """What a plan amounts to, and who would do it."""
    return summary(plan, store, offer.processes) | ({"on": offer.about} if offer.about else {})


def _execute(plan: Plan, store: Store, team: "Team", console: Console) -> "Tally | None":
    """Do what is missing of a plan, and say what failed; None where somebody interrupted it."""
    from tombola.lab.queue import Tally
    from tombola.report.progress import Watcher

    if not (lacking := missing(plan, store)):
        return Tally()
    try:
        with _stoppable(), Watcher(console, lacking, plan, run_seconds(plan, store), team.offer.processes) as watcher:
            result = team.execute(lacking, watcher)
    except KeyboardInterrupt:
        left = len(missing(plan, store))
        sys.stderr.write(
            f"\ninterrupted: {_counted(len(lacking) - left, 'run')} finished and kept, {left} left. The same "
            "command goes on; a training that was under way goes on from its last checkpoint, of which there is "
            "one every three minutes.\n"
        )
        return None
    if result.failed:  # why is said when it happens
        sys.stderr.write(
            f"{len(result.failed)} of {len(lacking)} runs failed, "
            f"{len(result.skipped)} that need them were left out, {result.done} are done. "
            "The same command tries again.\n"
        )
    for failure in result.failed.values():
        sys.stderr.write(f"  log: {failure.log}\n")
    return result


def _until_decided(
    plan: Plan, part: Plan, tally: "Tally", store: Store, team: "Team", console: Console
) -> "Tally | None":
    """Add replicates to those of `part`, which are done, until no question is open; what failed in all of them.

    As many are added at once as the team can be busy with: each has one training under way in each arm.
    """
    arms = {(row.arm, row.draw, row.rewind) for row in plan.rows if row.arm != "dense"}
    at_once = max(1, team.offer.processes // max(1, len(arms)))
    from tombola.lab.queue import Tally

    looks, failed = plan.experiment.spec.looks, dict(tally.failed)
    assert looks
    while True:
        count, standings = 1 + max(row.replicate for row in part.rows), _results(plan, store, allow_none=True).standings
        states = Counter(each.state for each in standings)
        more = min(at_once, looks.last - count) if states["open"] else 0
        stuck = bool(tally.failed) and not tally.done
        ending = f"{_counted(more, 'more replicate')}" if more and not stuck else "no more"
        console.print(
            f"After {count} replicates: {states['decided']} of {_counted(len(standings), 'question')} decided, "
            f"{states['given up']} given up, {states['open']} open: {ending}.",
            highlight=False,
        )
        if not more or stuck:
            return Tally(failed=failed)
        part = of_first(plan, count + more)
        done = _execute(part, store, team, console)
        if done is None:
            return None
        tally = done
        failed |= tally.failed


@app.command(name="plan")
def plan_command(
    spec: str,
    /,
    *,
    common: Common = Common(),
    workers: Workers = None,
    on: On = None,
    options: With = (),
    format: Literal["text", "json"] = "text",
) -> int:
    """List what an experiment wants, what of it is stored, and what the rest will cost; nothing is started.

    Parameters
    ----------
    spec
        A preset's name or a TOML file.
    workers
        For how many processes to estimate the time.
    on
        Who would do it: NAME or NAME:ADDRESS. By default worker processes on this machine.
    options
        What else is asked of who would do it: --with NAME=VALUE. May be repeated.
    format
        For people or for programs.
    """
    import json

    from tombola.report.text import plan_text

    store = store_at(common.store)
    store.check()
    plan = planned(read(spec, common.changes, common.extend))
    executor, resources = _who(plan, common, None, workers, on, options)
    offer = executor.offer(resources)
    content = _summary(for_devices(plan, offer.devices), store, offer)
    print(json.dumps(content, indent=1) if format == "json" else plan_text(content))
    return 0


@app.command
def table(
    spec: str,
    /,
    *,
    common: Common = Common(),
    format: Literal["text", "csv", "json"] = "text",
) -> int:
    """Print one row per replicate, arm and level of what is finished; accuracies are fractions.

    Where several measurements of the engine or several processors made the trainings, standard error says so.

    Parameters
    ----------
    spec
        A preset's name or a TOML file.
    format
        Text for people; csv or json for programs.
    """
    from tombola.report.text import records_text

    results = _results(*_existing(spec, common))
    print(records_text(results.table, format))
    if several := results.made_by_several():
        sys.stderr.write(f"{several}\n")
    return 0


@app.command
def verdict(
    spec: str,
    /,
    *,
    common: Common = Common(),
    format: Literal["text", "json"] = "text",
) -> int:
    """Say whether the tickets win, by how much and how surely, and what they owe it to.

    Parameters
    ----------
    spec
        A preset's name or a TOML file.
    format
        Sentences for people; json has every paired difference with its interval.
    """
    from tombola.report.text import verdict_json, verdict_text

    results = _results(*_existing(spec, common))
    print(verdict_json(results) if format == "json" else verdict_text(results))
    return 0


@app.command
def study(
    spec: str,
    /,
    *,
    common: Common = Common(),
    format: Literal["text", "json"] = "text",
) -> int:
    """Say what the studies of an experiment found.

    Parameters
    ----------
    spec
        A preset's name or a TOML file with a [study] table (see docs/spec.md).
    format
        Sentences for people; json has every number behind them.
    """
    from tombola.lab.results import results as finished
    from tombola.report.text import findings_json

    results = finished(*_existing(spec, common))
    if not results.findings:
        name = results.experiment.asked_by
        asked = any(study for _, study in results.experiment.spec.study)
        raise BadInput(
            where=name,
            expected="finished studies",
            found="none" if asked else "no [study] table in the spec",
            todo=f"`tombola run {name}` makes them." if asked else f"--set {_example(results.plan)}, say.",
        )
    sentences = [*results.unanswered, *(finding.sentence for finding in results.findings)]
    print(findings_json(results) if format == "json" else "\n".join(sentences))
    return 0


def _example(plan: Plan) -> str:
    """A change that asks for the last study of the table, the cheapest."""
    return next(study.example for study in reversed(plan.experiment.members.studies.values()) if study.example)


@app.command
def report(spec: str, /, *, common: Common = Common()) -> int:
    """Write the report of what is finished: one HTML file, and the figures as PNG and SVG.

    Parameters
    ----------
    spec
        A preset's name or a TOML file.
    """
    from tombola.report import folder

    print(folder.write(_results(*_existing(spec, common))))
    return 0


@app.command(name="log")
def log_command(
    spec: str,
    /,
    *,
    to: str,
    files: Literal["none", "first", "all"] = "first",
    live: bool = False,
    common: Common = Common(),
) -> int:
    """Tell a tracker of what is finished: curves, numbers, masks, verdicts, the report.

    Run it again at any time: what is there already is not told again, and what was interrupted is completed.

    Parameters
    ----------
    spec
        A preset's name or a TOML file.
    to
        Which tracker, and where, if not where it keeps its runs by itself: mlflow, mlflow=http://localhost:5000.
    files
        Of which replicates the masks and the tickets' files go along: of the first one, of all, or of none.
    live
        Follow an experiment that another process runs on the same store, until all of it is finished. `tombola run
        --log` tells of trainings while they go on, too.
    """
    from tombola.report import folder
    from tombola.trackers import TRACKERS
    from tombola.trackers.live import Follower, follow
    from tombola.trackers.telling import alone, tell, told_text
    from tombola.trackers.tracker import asked

    chosen, (plan, store) = asked(to, "--to", TRACKERS), _existing(spec, common)
    if live:
        follower = Follower(plan, store, chosen, files, _said)
        there, of = len(store.keys() & follower.keys), len(follower.keys)
        print(
            f"{there} of {of} trainings are finished in {common.store}. Waiting for the others; Ctrl-C ends it.",
            flush=True,
        )
        follow(follower, store)
        return 0
    results = _results(plan, store)
    with alone(chosen, results.experiment.name, store, _said) as log:
        told = tell(results, log, files, lambda: folder.write(results).parent, _said)
        print(told_text(told, chosen.tracker.name, log.where))
    return 0


def _said(line: str) -> None:
    print(f"  {line}", flush=True)


@app.command
def explore(
    spec: str,
    /,
    *,
    output: Annotated[Path | None, Parameter(name=["--output", "-o"])] = None,
    common: Common = Common(),
    data_dir: DataDir = None,
    shape: str = "",
) -> int:
    """Write a page in which people can look at the networks, level by level: one HTML file that loads nothing.

    Parameters
    ----------
    spec
        A preset's name or a TOML file; or the file of a ticket or of a `Search`.
    output
        The page to write; by default `explorer.html` in the report's folder, or beside the file.
    data_dir
        Where data sets lie, for the examples that excite a unit most. `digits` needs none.
    shape
        Of a file: channels, height and width of the images that the network reads, 1,28,28.
    """
    from tombola.explorer import experiment, one_file, page
    from tombola.report import folder

    if spec not in preset_files.names() and not spec.endswith(".toml") and Path(spec).is_file():
        made = one_file.page(Path(spec), _sizes(shape))
        target = output or Path(spec).with_suffix(".html")
    else:
        if shape:
            raise _shape_of_experiment(shape)
        results = _results(*_existing(spec, common))
        load = partial(_loaded, data_dir)
        recipe = results.experiment.spec.recipe
        made = experiment.page(results, load, data.words(recipe.data, data_dir) if load(recipe.data) else ())
        target = output or folder.of(results) / "explorer.html"
    files.deliver(target, page.text(made).encode())
    print(target)
    return 0


def _loaded(data_dir: Path | None, name: str) -> "data.Dataset | None":
    """The data set, or None, and why on standard error, where it is not there: the page is without examples."""
    try:
        return data.load(name, data_dir)
    except DataError as error:
        sys.stderr.write(f"tombola: no examples: {error}\n")
        return None


def _sizes(shape: str) -> tuple[int, ...]:
    sizes = shape.split(",") if shape else []
    if sizes and (len(sizes) != 3 or not all(size.strip().isdecimal() and int(size) for size in sizes)):
        raise BadInput(
            where="--shape", expected="channels,height,width", found=shape, todo="1,28,28 is a grey image of 28 x 28."
        )
    return tuple(map(int, sizes))


def _shape_of_experiment(shape: str) -> BadInput:
    todo = "Leave it out: the data set of an experiment says it."
    return BadInput(where="--shape", expected="none, of an experiment", found=shape, todo=todo)


@app.command
def ticket(
    spec: str,
    /,
    *,
    level: int,
    replicate: int = 0,
    output: Annotated[Path, Parameter(name=["--output", "-o"])],
    as_seed: Annotated[bool, Parameter(negative=())] = False,
    of: Literal["ticket", "average", "pool"] = "ticket",
    to: str | None = None,
    map: str | None = None,
    common: Common = Common(),
) -> int:
    """Write a ticket - its mask and the weights its survivors return to - as one safetensors file.

    Parameters
    ----------
    spec
        A preset's name or a TOML file.
    level
        How many rounds of pruning; 0 is the dense network.
    replicate
        Which repetition, from 0.
    output
        The file to write.
    as_seed
        Leave the weights out and keep the seed that remakes them, where the ticket returns to step 0: smaller, but of
        use only where torch and the processor draw the same numbers.
    of
        `average` or `pool` writes one network out of several, whose weights are trained, where study.ensemble made it.
    to
        A deeper or shallower model of the same family, to which the ticket is stretched or squeezed.
    map
        Which blocks go where: `appended`, which it is by default, `interpolated`, or a map like 0:0;1:1,3;2:2,4.
    """
    from tombola.lab.tickets import one_of, stretched_to, ticket_of

    if output.suffix.lower() in _TEXTS | _MODEL_FILES:
        raise BadInput(
            where="--output",
            expected="the name of a safetensors file",
            found=str(output),
            todo=f"{output.suffix} stands for another format: -o {output.with_suffix('.safetensors')}.",
        )
    if map is not None and to is None:
        todo = "--to names the deeper or shallower model; without it the ticket is the network's own, and has no map."
        raise BadInput(where="--map", expected="--to MODEL beside it", found=map, todo=todo)
    plan, store = _existing(spec, common)
    try:
        found = ticket_of if of == "ticket" else partial(one_of, kind=of)
        made = found(plan, store, level, replicate)
    except StoreError as error:
        raise _outside(plan, error) from error
    made = stretched_to(made, plan, to, map or "appended") if to else made
    made.save(output, as_seed=as_seed)
    print(f"{made!r} -> {output}")
    return 0


@app.command
def show(file: str, /, *, format: Literal["text", "json"] = "text") -> int:
    """Say what a ticket's file holds: density layer by layer, where it comes from, and how small it is.

    Parameters
    ----------
    file
        The file of a ticket, or hub:USER/NAME, or hub:USER/NAME@REVISION.
    format
        For people or for programs.
    """
    import json

    from tombola import hub
    from tombola import ticket as tickets
    from tombola.report.tickets import ticket_record, ticket_text

    preset = file in preset_files.names()
    if preset or (Path(file).suffix.lower() in _TEXTS and not file.startswith("hub:")):
        made_of = file if preset or file.endswith(".toml") else "SPEC"
        raise _no_ticket_file(file, preset, made_of)
    repo, _, revision = file.removeprefix("hub:").partition("@")
    path = hub.pull(repo, tickets.FILE, revision=revision or None) if file.startswith("hub:") else Path(file)
    loaded = tickets.Ticket.load(path)
    record = ticket_record(loaded, file, path.stat().st_size, tickets.about(path))
    print(json.dumps(record, indent=1) if format == "json" else ticket_text(record))
    return 0


def _no_ticket_file(file: str, preset: bool, made_of: str) -> BadInput:
    return BadInput(
        where=file,
        expected="a ticket's file, which is one of safetensors",
        found="a preset" if preset else f"a {Path(file).suffix} file",
        todo=f"`tombola ticket {made_of} --level 5 -o ticket.safetensors` writes one.",
    )


@app.command
def cash(
    spec: str,
    /,
    *,
    level: Annotated[tuple[int, ...], Parameter(negative=())],
    replicate: Annotated[tuple[int, ...], Parameter(negative=())] = (0,),
    ensemble: str | None = None,
    output: Annotated[Path | None, Parameter(name=["--output", "-o"])] = None,
    threads: int = 1,
    device: Literal["cpu", "cuda"] = "cpu",
    common: Common = Common(),
    data_dir: DataDir = None,
    format: Literal["text", "json"] = "text",
) -> int:
    """Make a trained ticket smaller and faster, and measure by how much: compact, sparse, int8, ONNX.

    Each form is compared with the masked network on the whole test set, and timed beside it, in PyTorch and, where it
    is installed, in ONNX Runtime. A form that cannot be made, or changes nothing, is listed with the reason. At the end
    stand the smallest, the fastest and the most portable one, and how each is loaded. Several levels or replicates are
    an ensemble, which answers with the mean of their probabilities.

    Parameters
    ----------
    spec
        A preset's name or a TOML file.
    level
        How many rounds of pruning; 0 is the dense network. May be repeated, for an ensemble.
    replicate
        Which repetition, from 0. May be repeated: an ensemble has all these replicates of all these levels.
    ensemble
        In place of one network those that [study.ensemble] asks as one there: orders, levels, replicates, ...
    output
        A folder for the files of all forms.
    threads
        Of everything that is timed.
    device
        Where it is timed; sparse forms and ONNX Runtime are for CPUs.
    data_dir
        Where data sets lie, or are downloaded to. `digits` needs none.
    format
        For people or for programs.
    """
    import json

    import torch

    from tombola.cash.comparison import prove, write
    from tombola.cash.ensemble import Ensemble
    from tombola.lab.tickets import coordinates_of, members_of, networks_of
    from tombola.models import is_gaussian
    from tombola.report.tickets import forms_record, forms_text

    if spec.endswith(".safetensors"):
        raise _no_experiment(spec)
    if output is not None and output.suffix.lower() in _MODEL_FILES | {".safetensors"}:
        raise _no_folder(output)
    plan, store = _existing(spec, common)
    place = _timed_on(device)
    if not 1 <= threads <= (os.cpu_count() or 1):
        raise _no_such_cores(threads)
    if ensemble is None:
        networks = networks_of(plan, store, level, replicate)
    elif len(level) == len(replicate) == 1:
        networks = members_of(plan, store, level[0], replicate[0], ensemble)
    else:
        raise _no_one_place(level, replicate)
    models, masks, runs = zip(*networks, strict=True)
    model = models[0] if len(models) == 1 else Ensemble(models, masks)
    alive = model.mask if isinstance(model, Ensemble) else masks[0]
    recipe = runs[0].recipe
    dataset = data.load(recipe.data, data_dir).normalised(recipe.normalise)
    inputs, labels = dataset.inputs(dataset.test_images), dataset.test_labels
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        proof = prove(model.to(place), alive, inputs, labels)
        written = write(proof, inputs[:2], output) if output else None
    finally:
        torch.set_num_threads(before)
    keys = [run.key for run in runs]
    record = forms_record(proof, keys, alive.density, len(labels), threads, written)
    if coordinates := coordinates_of(plan, store, runs[0]):
        record["coordinates"] = dict(zip(("basis", "density"), coordinates, strict=True))
    if is_gaussian(runs[0].recipe.model):
        record["weights"] = "means"
    print(json.dumps(record, indent=1) if format == "json" else forms_text(record, proof, written))
    return 0


def _no_one_place(levels: Sequence[int], replicates: Sequence[int]) -> BadInput:
    return BadInput(
        where="--ensemble",
        expected="one level and one replicate, at which the study asks it",
        found=f"levels {', '.join(map(str, levels))} and replicates {', '.join(map(str, replicates))}",
        todo="The study's ensembles have the members that the spec says; leave --ensemble out to choose them yourself.",
    )


def _no_experiment(spec: str) -> BadInput:
    return BadInput(
        where=spec,
        expected="a preset's name or a TOML file, whose trained tickets are in the store",
        found="a file of weights",
        todo="For models of your own, ensembles too, there is `cash.prove` in Python: docs/cashing-in.md.",
    )


def _no_folder(output: Path) -> BadInput:
    return BadInput(
        where="--output",
        expected="a folder, in which each form has its file",
        found=f"the name of a file, {output.name}",
        todo=f"Name a folder: -o {output.with_suffix('')}.",
    )


def _no_such_cores(threads: int) -> BadInput:
    return BadInput(
        where="--threads",
        expected=f"1 to {os.cpu_count() or 1}, the cores there are",
        found=str(threads),
        todo="Leave it out for one.",
    )


def _timed_on(device: Literal["cpu", "cuda"]) -> str:
    """Where `cash` times its forms: a flag of the command, not part of an experiment."""
    try:
        return machine.devices(device)[0]
    except BadInput as error:
        raise BadInput(
            where="--device",
            expected="a GPU that torch can use",
            found="none",
            todo="Leave it out for the CPU, or install torch for CUDA.",
        ) from error


@app.command
def presets(name: str | None = None, /) -> int:
    """List the experiments that come with Tombola, or print one as TOML to start from.

    Parameters
    ----------
    name
        The preset to print.
    """
    if name is None:
        width = max(map(len, preset_files.names()))
        for each in preset_files.names():
            print(f"{each:<{width}}  {preset_files.about(each)}")
        return 0
    if name not in preset_files.names():
        read(name)  # says which there are
    print(preset_files.text(name), end="")
    return 0


def _outside(plan: Plan, error: StoreError) -> BadInput:
    """What to say where runs are not there: of a sweep, that the step asked for is none of it, if it is so."""
    experiment = plan.experiment
    others = [change for change in experiment.changes if change.partition("=")[0].strip() != "rewind"]
    extend = [extension.path for extension in experiment.extensions]
    swept = read(experiment.source or experiment.name, others, extend).spec.rewind
    if len(swept) < 2 or set(experiment.spec.rewind) <= set(swept):
        return error
    return BadInput(
        where="--set rewind",
        expected=f"a step of the sweep: {', '.join(map(str, swept))}",
        found=", ".join(map(str, experiment.spec.rewind)),
        todo=f"Take one of these, or `tombola run` {experiment.asked_by} with this --set first.",
    )


def _counted(number: int, thing: str) -> str:
    return f"{number} {thing}{'' if number == 1 else 's'}"


def _existing(spec: str, common: Common) -> tuple[Plan, Store]:
    plan, store = planned(read(spec, common.changes, common.extend)), store_at(common.store)
    store.check()
    return plan, store


def _results(plan: Plan, store: Store, allow_none: bool = False) -> "Results":
    from tombola.lab.results import results

    finished = results(plan, store)
    if not finished.rows and not allow_none:
        name = plan.experiment.asked_by
        raise StoreError(
            where=store.address,
            expected=f"finished runs of {plan.experiment.name}",
            found="none",
            todo=f"`tombola run {name}` makes them; give the same --set and --store here.",
        )
    return finished


def _show(results: "Results", console: Console) -> None:
    from tombola.report import folder
    from tombola.report.text import summary_table

    console.print(summary_table(results, console.width))
    first = [finding for finding in results.findings if finding.headline][:MOST_FINDINGS]
    for line in [*results.sentences, *(finding.sentence for finding in first)]:
        console.print(line, highlight=False, markup=False)
    if rest := len(results.findings) - len(first):
        console.print(f"{_counted(rest, 'finding')} more: `tombola study SPEC`, and the report.", highlight=False)
    console.print(f"\nReport: {folder.write(results)}", highlight=False, markup=False, soft_wrap=True)


@contextmanager
def _stoppable() -> Iterator[None]:
    """Let a polite `kill` end things as Ctrl-C does."""

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _silence() -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _misread(error: CycloptsError) -> str:
    """What is wrong with a command line, with what may have been meant."""
    first, *_ = error.unused_tokens or [""]
    if isinstance(error, UnusedCliTokensError):
        return (
            f"expected one SPEC, and options, found {' '.join(error.unused_tokens or [])!r} besides. Each change takes "
            "a --set of its own, and quotes where it has spaces: --set levels=3 --set 'about=two words'."
        )
    if isinstance(error, UnknownCommandError) and (first in preset_files.names() or first.endswith(".toml")):
        return f"{first}: expected a command, found an experiment. Did you mean `tombola run {first}`?"
    return str(error)


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; the exit status."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if arguments[:1] == ["help"]:
        arguments = [*arguments[1:], "--help"]
    try:
        status = app(arguments, exit_on_error=False, print_error=False)
        print(end="", flush=True)  # while it can still be told that it fails
        return status if isinstance(status, int) else 0
    except CycloptsError as error:
        sys.stderr.write(f"tombola: {_misread(error)}\nSee tombola --help.\n")
        return 2
    except BadInput as error:
        sys.stderr.write(f"tombola: {error}\n")
        return 2
    except TombolaError as error:
        sys.stderr.write(f"tombola: {error}\n")
        return 1
    except KeyboardInterrupt:
        sys.stderr.write("\ninterrupted; what is finished is kept\n")
        return 130
    except BrokenPipeError:
        _silence()
        return 0
    except OSError as error:
        if error.filename is not None or error.errno not in _UNWRITTEN:  # it is about something else
            raise
        _silence()
        sys.stderr.write(f"tombola: the output cannot be written: {error.strerror}. What is finished is kept.\n")
        return 1
    except Exception as error:
        if not (where := place(error)):
            raise  # it is ours
        sys.stderr.write(f"tombola: {where}: expected code that runs, found {type(error).__name__}: {error}.\n")
        return 2
