"""Weights & Biases: a run for each training, in a project of the experiment's name, and one for what they say together.

Runs are written offline, into a folder, and `wandb sync` carries them to a server; where WANDB_MODE is `online` they go
there directly. A run's id is made of its key, so a server never has a training twice. In W&B's folder,
`tombola-logged` has a file for each run that is complete, with its digest, written last; an offline run without one was
interrupted and is written anew.
"""

import os
import re
import shlex
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tombola import files
from tombola.errors import BadInput, TombolaError
from tombola.trackers.entry import Entry
from tombola.trackers.tracker import Tracker

STEP = "step"  # rows of curves may come in any order, which W&B's own steps may not
LOGGED = "tombola-logged"


class _Project:
    """One project of W&B.

    Args:
        folder: in which W&B makes its folder `wandb`.
        mode: W&B's: `offline`, `online`, ...
    """

    def __init__(self, folder: Path, project: str, mode: Any) -> None:
        self._folder, self._project, self._mode = folder, _name(project), mode
        self._runs: dict[str, Any] = {}  # those that go on, by id
        self._told: dict[str, set[tuple[str, int]]] = {}
        self._marks = folder / "wandb" / LOGGED / self._project
        self.where = (
            f"wandb sync {shlex.quote(str(folder))}/wandb/offline-run-*" if mode == "offline" else "your project at W&B"
        )
        try:
            self._marks.mkdir(parents=True, exist_ok=True)
            self.complete = {each.name: each.read_text() for each in self._marks.iterdir() if each.name[0] != "."}
        except OSError as error:
            raise BadInput(
                where="--to wandb",
                expected="a folder that can be written",
                found=f"{folder}: {error.strerror}",
                todo="Name another one: --to wandb=FOLDER.",
            ) from error

    def grow(self, entry: Entry) -> None:
        """Add to the curves of a training that goes on."""
        with self._reached():
            self._log(entry, self._begun(entry))

    def write(self, entry: Entry) -> None:
        """Write its run; an offline one in place of an earlier one."""
        with self._reached():
            self.complete.pop(entry.id, None)
            (self._marks / entry.id).unlink(missing_ok=True)
            run = self._begun(entry)
            self._log(entry, run)
            run.config.update(dict(entry.tags), allow_val_change=True)
            run.summary.update(dict(entry.metrics))
            if entry.text:
                run.notes = entry.text
            self._attach(run, entry)
            self._runs.pop(entry.id).finish()
            del self._told[entry.id]
            files.replace(self._marks / entry.id, entry.digest.encode())
            self.complete[entry.id] = entry.digest

    def _begun(self, entry: Entry) -> Any:
        import wandb

        if entry.id not in self._runs:
            if self._mode == "offline":
                for earlier in (self._folder / "wandb").glob(f"offline-run-*-{entry.id}"):
                    shutil.rmtree(earlier)
            run = wandb.init(
                project=self._project,
                id=entry.id,
                name=entry.name,
                group=entry.path[0],
                tags=[each[:64] for each in entry.path],
                config=dict(entry.params),
                dir=str(self._folder),
                mode=self._mode,
                resume="allow",
                reinit="create_new",
                settings=_settings(),
            )
            run.define_metric(STEP, hidden=True)
            run.define_metric("*", step_metric=STEP)
            self._runs[entry.id], self._told[entry.id] = run, set()
        return self._runs[entry.id]

    def _log(self, entry: Entry, run: Any) -> None:
        """What it does not have of the curves, all values of a step together."""
        told, rows = self._told[entry.id], dict[int, dict[str, float]]()
        for curve in entry.curves:
            for step, value in zip(curve.steps, curve.values, strict=True):
                if (curve.name, step) not in told:
                    rows.setdefault(step, {})[curve.name] = value
                    told.add((curve.name, step))
        for step in sorted(rows):
            run.log({STEP: step, **rows[step]})

    def _attach(self, run: Any, entry: Entry) -> None:
        """Pictures are shown with the run; all other files are an artifact of it."""
        import wandb

        folder, pictures, others = Path(run.dir) / "tombola", {}, []
        for attachment in entry.files:
            path = folder / attachment.name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(attachment.content())
            if path.suffix == ".png":
                pictures[attachment.name.removesuffix(".png")] = wandb.Image(str(path))
            else:
                others.append(attachment.name)
        if pictures:
            run.log(pictures)
        if others:
            artifact = wandb.Artifact(entry.id, type="report" if entry.alters else "ticket")
            for name in others:
                artifact.add_file(str(folder / name), name=name, policy="immutable", skip_cache=True)
            run.log_artifact(artifact)

    def close(self) -> None:
        """What goes on is left as it is; it has no mark, and is told anew."""
        for run in self._runs.values():
            run.finish(exit_code=1)

    @contextmanager
    def _reached(self) -> Iterator[None]:
        import wandb

        try:
            yield
        except (wandb.Error, OSError) as error:
            raise TombolaError(f"wandb in {self._folder}: {error}") from error


def _name(text: str) -> str:
    """A project's name as W&B takes it.

    >>> _name("digits/mine: k=5%")
    'digits-mine- k=5-'
    """
    return re.sub(r"[/\\#?%:]", "-", text)[:128]


def _settings() -> Any:
    """Nothing is recorded but what it is told."""
    import wandb

    return wandb.Settings(
        console="off",
        disable_code=True,
        disable_git=True,
        save_code=False,
        silent=True,
        x_disable_machine_info=True,
        x_disable_meta=True,
        x_disable_stats=True,
    )


@contextmanager
def _opened(address: str | None, project: str) -> Iterator[_Project]:
    own = {name: value for name, value in {"WANDB_ERROR_REPORTING": "false"}.items() if name not in os.environ}
    os.environ |= own
    try:
        folder = Path(address or os.environ.get("WANDB_DIR") or ".").absolute()
        opened = _Project(folder, project, os.environ.get("WANDB_MODE") or "offline")
        try:
            yield opened
        finally:
            opened.close()
    finally:
        for name in own:
            os.environ.pop(name, None)


TRACKER = Tracker(
    name="wandb",
    about="Weights & Biases: a folder of offline runs, ./wandb if no other is named",
    library="wandb",
    opens=_opened,
)
