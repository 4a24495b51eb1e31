"""MLflow: a run for each training, in an experiment of the same name, and one run for what they say together.

Runs are found again by the tag `tombola.id`. The tag `tombola.logged`, the digest of what was told, is set last: a run
without it was interrupted, and what it lacks is added. Runs are flat, so that a search finds them by what they are,
`params.arm = "ticket" and metrics.density < 0.1`; nested ones, whose trainings two experiments share, would have two
parents.
"""

import logging
import os
import re
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tombola.errors import BadInput, TombolaError, not_installed, shown
from tombola.trackers.entry import Entry
from tombola.trackers.tracker import Tracker

ID, LOGGED, NOTE = "tombola.id", "tombola.logged", "mlflow.note.content"
METRICS, PARAMS = 1000, 100  # that one call may have; of tags as many as of parameters
LONGEST = 5000  # characters of a value
PAGE = 1000  # runs at once
SETTINGS = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",  # by itself it asks a server that is gone for minutes
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",  # by itself it prints two lines for each run of a server
}

Point = tuple[str, int]  # a metric and a step


class _Runs:
    """The runs of one experiment of MLflow.

    Args:
        client: of the server, or of the data base.
        experiment: its id.
        where: what to type to look at it.
        reached: in which everything is asked.
    """

    def __init__(self, client: Any, experiment: str, where: str, reached: Callable[[], Any]) -> None:
        self._client, self._experiment, self.where, self._reached = client, experiment, where, reached
        self._runs: dict[str, str] = {}  # by id
        self._told: dict[str, set[Point]] = {}  # what runs have that are not complete
        self.complete: dict[str, str] = {}
        for run in sorted(self._found(), key=lambda run: (not run.data.tags.get(LOGGED), run.info.run_id)):
            tags = run.data.tags
            if tags[ID] in self._runs:  # a server whose answer was lost has made it twice
                self._client.delete_run(run.info.run_id)
                continue
            self._runs[tags[ID]] = run.info.run_id
            if tags.get(LOGGED):
                self.complete[tags[ID]] = tags[LOGGED]

    def _found(self) -> Iterator[Any]:
        token = None
        while True:
            of_ours = f"tags.`{ID}` LIKE '%'"
            page = self._client.search_runs([self._experiment], of_ours, max_results=PAGE, page_token=token)
            yield from page
            if not (token := page.token):
                return

    def grow(self, entry: Entry) -> None:
        """Add to the curves of a training that goes on."""
        with self._reached():
            run, told = self._begun(entry)
            self._log(run, told, _points(entry), time.time())

    def write(self, entry: Entry) -> None:
        """Add what its run lacks; where its numbers may become others, as an experiment's, a new run replaces it."""
        with self._reached():
            if entry.alters and entry.id in self._runs:
                self._client.delete_run(self._runs.pop(entry.id))
                self.complete.pop(entry.id, None)
                self._told.pop(entry.id, None)
            whole = self.complete.pop(entry.id, None)
            run, told = (self._runs[entry.id], set[Point]()) if whole else self._begun(entry)
            if whole:
                self._client.set_tag(run, LOGGED, "")
            else:
                values = [((_name(name), 0), value) for name, value in entry.metrics.items()]
                self._log(run, told, [*values, *_points(entry)], entry.ended)
            self._tag(run, entry)
            self._attach(run, entry, self._files(run) if whole else set())
            self._client.set_terminated(run, end_time=int(1000 * entry.ended))
            self._client.set_tag(run, LOGGED, entry.digest)
            self.complete[entry.id] = entry.digest
            self._told.pop(entry.id, None)

    def _begun(self, entry: Entry) -> tuple[str, set[Point]]:
        """Its run, which is made where there is none, and what it has."""
        from mlflow.entities import Param

        if entry.id not in self._runs:
            began = int(1000 * (entry.began or time.time()))
            made = self._client.create_run(self._experiment, began, {ID: entry.id}, run_name=entry.name)
            self._runs[entry.id], self._told[entry.id] = made.info.run_id, set()
            self._params(made.info.run_id, [Param(_name(name), _value(each)) for name, each in entry.params.items()])
        run = self._runs[entry.id]
        if entry.id not in self._told:
            found = self._client.get_run(run).data
            self._told[entry.id] = {
                (metric, each.step) for metric in found.metrics for each in self._client.get_metric_history(run, metric)
            }
            lacking = {_name(name): each for name, each in entry.params.items() if _name(name) not in found.params}
            self._params(run, [Param(name, _value(each)) for name, each in lacking.items()])
        return run, self._told[entry.id]

    def _params(self, run: str, params: Sequence[Any]) -> None:
        for some in _parts(params, PARAMS):
            self._client.log_batch(run, params=some)

    def _log(self, run: str, told: set[Point], values: Sequence[tuple[Point, float]], when: float) -> None:
        from mlflow.entities import Metric

        lacking = [(point, value) for point, value in values if point not in told]
        for some in _parts(lacking, METRICS):
            metrics = [Metric(name, value, int(1000 * when), step) for (name, step), value in some]
            self._client.log_batch(run, metrics=metrics)
            told.update(point for point, _ in some)

    def _tag(self, run: str, entry: Entry) -> None:
        from mlflow.entities import RunTag

        told = {**entry.tags, **({NOTE: entry.text} if entry.text else {})}
        tags = [RunTag(name if name == NOTE else _name(name), _value(each)) for name, each in told.items()]
        for some in _parts(tags, PARAMS):
            self._client.log_batch(run, tags=some)

    def _attach(self, run: str, entry: Entry, there: set[str]) -> None:
        with tempfile.TemporaryDirectory() as folder:
            for attachment in entry.files:
                if attachment.name not in there:
                    path = Path(folder) / attachment.name
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.write_bytes(attachment.content())
            if any(Path(folder).iterdir()):
                self._client.log_artifacts(run, folder)

    def _files(self, run: str, within: str | None = None) -> set[str]:
        """The names of the files that it has."""
        found: set[str] = set()
        for each in self._client.list_artifacts(run, within):
            found |= self._files(run, each.path) if each.is_dir else {each.path}
        return found


def _points(entry: Entry) -> list[tuple[Point, float]]:
    return [
        ((_name(curve.name), step), value)
        for curve in entry.curves
        for step, value in zip(curve.steps, curve.values, strict=True)
    ]


def _parts(values: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    for place in range(0, len(values), size):
        yield values[place : place + size]


def _name(text: str) -> str:
    """A name as MLflow takes it.

    >>> _name("test_accuracy.mine, k=5")
    'test_accuracy.mine- k-5'
    """
    return re.sub(r"[^\w\-./ ]", "-", text)


def _value(value: object) -> str:
    return shown(value, LONGEST)


@contextmanager
def _opened(address: str | None, project: str) -> Iterator[_Runs]:
    with _settled():
        import mlflow

        uri = address or mlflow.get_tracking_uri()

        @contextmanager
        def reached() -> Iterator[None]:
            try:
                yield
            except ImportError as error:  # of what only some addresses need
                raise _absent(error) from error
            except _troubles() as error:
                raise TombolaError(_lost(uri, error)) from error

        with reached():
            runs = _runs(uri, project, reached)
        yield runs


def _runs(uri: str, project: str, reached: Callable[[], Any]) -> _Runs:
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    remote = uri.startswith(("http:", "https:"))
    try:
        client = MlflowClient(uri)
        found = client.get_experiment_by_name(project)
    except (MlflowException, OSError) as error:
        if remote:
            raise
        raise _no_address(uri, error) from error
    if found and found.lifecycle_stage != "active":
        raise BadInput(
            where=f"mlflow at {uri}",
            expected=f"an experiment {project!r}, or none",
            found="a deleted one",
            todo="Restore it there, or let `mlflow gc` remove it for good.",
        )
    experiment = found.experiment_id if found else client.create_experiment(project)
    where = f"{uri.rstrip('/')}/#/experiments/{experiment}" if remote else f"mlflow ui --backend-store-uri {uri}"
    return _Runs(client, experiment, where, reached)


def _troubles() -> tuple[type[Exception], ...]:
    """What its library raises where it reaches nobody, or cannot write."""
    from mlflow.exceptions import MlflowException

    try:
        from sqlalchemy.exc import SQLAlchemyError
    except ImportError:
        return (MlflowException, OSError)
    return (MlflowException, OSError, SQLAlchemyError)


def _lost(uri: str, error: Exception) -> str:
    """What is said of a trouble: of a data base's the data base's own words, without the question that it was asked."""
    words = getattr(error, "orig", None) or getattr(error.__cause__, "orig", None) or error
    return f"mlflow at {uri}: {shown(str(words).splitlines()[0], 300)}"


def _absent(error: ImportError) -> BadInput:
    return not_installed("--to mlflow", f"{error.name or 'mlflow'}, which MLflow needs", "mlflow")


def _no_address(uri: str, error: Exception) -> BadInput:
    return BadInput(
        where="--to mlflow",
        expected="the address of an MLflow server or of a data base, http://localhost:5000 or sqlite:///mlflow.db",
        found=uri,
        todo=f"MLflow says: {shown(str(error).splitlines()[0], 300)}",
    )


@contextmanager
def _settled() -> Iterator[None]:
    """With the settings that nobody has made otherwise, and without a word of what MLflow prepares, nor of its errors,
    which it raises besides."""
    own = {name: value for name, value in SETTINGS.items() if name not in os.environ}
    loggers = [logging.getLogger(name) for name in ("mlflow", "alembic")]
    before = [logger.level for logger in loggers]
    os.environ |= own
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for name in own:
            os.environ.pop(name, None)
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)


TRACKER = Tracker(
    name="mlflow",
    about="MLflow: a server by its address, or a data base of one's own",
    library="mlflow",
    opens=_opened,
)
