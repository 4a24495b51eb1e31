"""TensorBoard: a folder for each training, in a folder of the experiment's name, and one for what they say together.

All that is told of a training is in one file of events, which appears completely or not at all and has its digest in
its name: what is there is known by looking, and telling it again writes the same bytes. What goes along besides, a
ticket, a report, lies beside it.
"""

import re
import shlex
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from tombola import files
from tombola.errors import BadInput, TombolaError
from tombola.trackers.entry import Entry
from tombola.trackers.tracker import Tracker

if TYPE_CHECKING:
    from tensorboard.compat.proto.event_pb2 import Event

FOLDER = "runs"  # where torch's own writer puts them
EVENTS = "events.out.tfevents"  # the beginning by which TensorBoard knows its files
GOING_ON = "going-on"
FINISHED = re.compile(rf"{re.escape(EVENTS)}\.\d+\.([\w-]+)\.([0-9a-f]+)")


class _Folder:
    """The folder of an experiment."""

    def __init__(self, root: Path, project: str) -> None:
        self._root = root / _name(project)
        self._going_on: dict[str, IO[bytes]] = {}  # by id
        self.where = f"tensorboard --logdir {shlex.quote(str(root))}"
        try:
            self._root.mkdir(parents=True, exist_ok=True)
            found = [FINISHED.fullmatch(each.name) for each in self._root.rglob(f"{EVENTS}.*")]
        except OSError as error:
            raise BadInput(
                where="--to tensorboard",
                expected="a folder that can be written",
                found=f"{root}: {error.strerror}",
                todo="Name another one: --to tensorboard=FOLDER.",
            ) from error
        self.complete = {match[1]: match[2] for match in found if match}

    def grow(self, entry: Entry) -> None:
        """Add to the curves of a training that goes on: at the end of a file that goes when it is finished."""
        with _written(self._root):
            if entry.id not in self._going_on:
                folder = self._folder(entry)
                folder.mkdir(parents=True, exist_ok=True)
                name = f"{EVENTS}.{int(time.time())}.{entry.id}.{GOING_ON}"
                self._going_on[entry.id] = (folder / name).open("wb")
                self._going_on[entry.id].write(b"".join(map(_record, _head(time.time()))))
            file = self._going_on[entry.id]
            file.write(b"".join(map(_record, _scalars(entry, time.time()))))
            file.flush()

    def write(self, entry: Entry) -> None:
        """Write its file, in place of an earlier one."""
        with _written(self._root):
            folder = self._folder(entry)
            folder.mkdir(parents=True, exist_ok=True)
            for attachment in entry.files:
                if not attachment.name.endswith(".png"):
                    path = folder / attachment.name
                    path.parent.mkdir(parents=True, exist_ok=True)
                    files.replace(path, attachment.content())
            name = f"{EVENTS}.{int(entry.ended)}.{entry.id}.{entry.digest}"
            earlier = [each for each in folder.glob(f"{EVENTS}.*.{entry.id}.*") if each.name != name]
            files.replace(folder / name, b"".join(map(_record, _events(entry))))
            if entry.id in self._going_on:
                self._going_on.pop(entry.id).close()
            for each in earlier:
                each.unlink(missing_ok=True)
        self.complete[entry.id] = entry.digest

    def _folder(self, entry: Entry) -> Path:
        """Experiments of one name have trainings of the same path: what tells them apart is in the last folder."""
        *path, last = map(_name, entry.path)
        return self._root.joinpath(*path, f"{last}, {entry.id.rpartition('-')[2][:6]}")

    def close(self) -> None:
        for file in self._going_on.values():
            file.close()


def _name(text: str) -> str:
    """A folder's name.

    >>> _name("../mine: k=5")
    '-.-mine- k=5'
    """
    return re.sub(r"[^\w\-., =]|^\.", "-", text)


@contextmanager
def _written(root: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise TombolaError(f"tensorboard in {root}: {error}") from error


def _record(event: "Event") -> bytes:
    """An event as TensorBoard's files have it: with its length, and checksums of both."""
    from tensorboard.summary.writer.record_writer import RecordWriter

    buffer = BytesIO()
    RecordWriter(buffer).write(event.SerializeToString())
    return buffer.getvalue()


def _event(when: float, step: int, *values: Any) -> "Event":
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import Summary

    return Event(wall_time=when, step=step, summary=Summary(value=values))


def _head(when: float) -> Iterator["Event"]:
    """The beginning of a file: what a reader has of an earlier file of the same folder is to be forgotten."""
    from tensorboard.compat.proto.event_pb2 import Event, SessionLog

    yield Event(wall_time=when, file_version="brain.Event:2")
    yield Event(wall_time=when, step=0, session_log=SessionLog(status=SessionLog.START))


def _events(entry: Entry) -> Iterator["Event"]:
    yield from _head(entry.ended)
    yield from _hyperparameters(entry)
    yield from _scalars(entry, entry.ended)
    last = max((step for curve in entry.curves for step in curve.steps), default=0)
    for name, value in entry.metrics.items():
        yield _event(entry.ended, last, _scalar(f"result/{name}", value))
    for attachment in entry.files:
        if attachment.name.endswith(".png"):
            yield _event(entry.ended, last, _image(attachment.name.removesuffix(".png"), attachment.content()))
    lines = [f"{name}: {value}" for name, value in entry.tags.items()]
    yield _event(entry.ended, last, _text("about", "\n\n".join([entry.text, *lines]).strip()))


def _scalars(entry: Entry, when: float) -> Iterator["Event"]:
    for curve in entry.curves:
        for step, value in zip(curve.steps, curve.values, strict=True):
            yield _event(when, step, _scalar(curve.name, value))


def _hyperparameters(entry: Entry) -> Iterator["Event"]:
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.plugins.hparams import plugin_data_pb2, summary_v2

    shown = {name: value for name, value in entry.params.items() if value != ""}
    summary = summary_v2.hparams_pb(shown, entry.id, entry.began)
    plugin = summary.value[0].metadata.plugin_data  # in which they are in another order in each process
    data = plugin_data_pb2.HParamsPluginData.FromString(plugin.content)
    plugin.content = data.SerializeToString(deterministic=True)
    yield Event(wall_time=entry.ended, summary=summary)


def _scalar(name: str, value: float) -> Any:
    from tensorboard.compat.proto.summary_pb2 import Summary

    return Summary.Value(tag=name, simple_value=value)


def _image(name: str, content: bytes) -> Any:
    """A PNG file, which says its width and height after the sixteen bytes that all of them begin with."""
    from tensorboard.compat.proto.summary_pb2 import Summary

    width, height = struct.unpack(">II", content[16:24])
    return Summary.Value(
        tag=name, image=Summary.Image(width=width, height=height, colorspace=1, encoded_image_string=content)
    )


def _text(name: str, text: str) -> Any:
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.plugins.text import metadata
    from tensorboard.util.tensor_util import make_tensor_proto

    return Summary.Value(
        tag=name,
        metadata=metadata.create_summary_metadata(display_name=name, description=""),
        tensor=make_tensor_proto([text.encode()]),
    )


@contextmanager
def _opened(address: str | None, project: str) -> Iterator[_Folder]:
    folder = _Folder(Path(address or FOLDER).absolute(), project)
    try:
        yield folder
    finally:
        folder.close()


TRACKER = Tracker(
    name="tensorboard",
    about="TensorBoard: a folder of its files, ./runs if no other is named",
    library="tensorboard",
    opens=_opened,
)
