"""Bringing a file home from servers that do, do not, and half do what one asks. Nothing leaves this machine."""

import errno
import hashlib
import platform
import re
import socket
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from tombola.data.download import cache_dir, fetch
from tombola.errors import DataError

CONTENT = bytes(place * 7 % 256 for place in range(200_000))
NAME = "numbers.gz"
HOST = re.sub(r"[^\w.-]", "-", platform.node())
PART = f"{NAME}.{HOST}.part"


@dataclass
class Server:
    """Homes of a file, each with its own manners, and what was asked of them: (home, Range header)."""

    address: str = ""
    asked: list[tuple[str, str | None]] = field(default_factory=list)

    def home(self, manners: str) -> str:
        return f"{self.address}/{manners}/"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """Homes: `good` knows Range, `plain` does not; `absent` says 404, `broken` 500; `other` sends another file.

    And `breaks` hangs up after half of it.
    """
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    known = Server()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            manners, wanted = self.path.split("/")[1], self.headers.get("Range")
            known.asked.append((manners, wanted))
            start = int(wanted.removeprefix("bytes=").removesuffix("-")) if wanted and manners == "good" else 0
            if manners in ("absent", "broken"):
                self.send_error({"absent": 404, "broken": 500}[manners])
            elif start >= len(CONTENT):
                self.send_error(416)
            else:
                body = b"<html>please log in</html>" if manners == "other" else CONTENT[start:]
                self.send_response(206 if start else 200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body[: len(body) // 2] if manners == "breaks" else body)

        def log_message(self, format: str, *args: object) -> None:
            """Quiet."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        known.address = f"http://127.0.0.1:{http.server_port}"
        thread = Thread(target=http.serve_forever, args=(0.01,))
        thread.start()
        yield known
        http.shutdown()
        thread.join()


@pytest.fixture
def nobody() -> str:
    """A home where nobody answers."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{free.getsockname()[1]}/"


def check(path: Path) -> None:
    content = path.read_bytes()
    if hashlib.sha256(content).digest() != hashlib.sha256(CONTENT).digest():
        raise DataError(
            where=str(path), expected="the numbers", found=f"{len(content):,} other bytes", todo="Remove it."
        )


def fetched(homes: list[str], data_dir: Path) -> Path:
    return fetch("numbers", NAME, homes, data_dir, check)


def left_in(folder: Path) -> set[str]:
    """The files below `folder`, without locks."""
    return {
        path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file() and path.suffix != ".lock"
    }


def begun(folder: Path, content: bytes) -> Path:
    """A `.part` that an earlier try left."""
    part = folder / "numbers" / PART
    part.parent.mkdir(parents=True)
    part.write_bytes(content)
    return part


def test_the_file_is_brought_home_whole(server: Server, tmp_path: Path) -> None:
    path = fetched([server.home("good")], tmp_path)
    assert path == tmp_path / "numbers" / NAME and path.read_bytes() == CONTENT
    assert server.asked == [("good", None)] and left_in(tmp_path) == {f"numbers/{NAME}"}


def test_a_file_that_is_there_is_not_asked_for(server: Server, tmp_path: Path) -> None:
    first = fetched([server.home("good")], tmp_path)
    assert fetched([server.home("good")], tmp_path) == first and len(server.asked) == 1


def test_a_part_is_continued_where_it_ends(server: Server, tmp_path: Path) -> None:
    begun(tmp_path, CONTENT[:70_000])
    assert fetched([server.home("good")], tmp_path).read_bytes() == CONTENT
    assert server.asked == [("good", "bytes=70000-")]


def test_a_server_that_ignores_the_range_sends_the_whole_file_once(server: Server, tmp_path: Path) -> None:
    begun(tmp_path, CONTENT[:70_000])
    assert fetched([server.home("plain")], tmp_path).read_bytes() == CONTENT
    assert server.asked == [("plain", "bytes=70000-")]


def test_a_part_that_is_already_complete_is_taken(server: Server, tmp_path: Path) -> None:
    begun(tmp_path, CONTENT)
    assert fetched([server.home("good")], tmp_path).read_bytes() == CONTENT


def test_a_part_of_another_file_is_thrown_away_and_the_next_home_starts_anew(server: Server, tmp_path: Path) -> None:
    begun(tmp_path, b"x" * 70_000)
    assert fetched([server.home("good"), server.home("plain")], tmp_path).read_bytes() == CONTENT
    assert server.asked == [("good", "bytes=70000-"), ("plain", None)]


@pytest.mark.parametrize("first", ["absent", "broken", "other"])
def test_the_second_home_is_asked_when_the_first_has_not_got_it(server: Server, tmp_path: Path, first: str) -> None:
    assert fetched([server.home(first), server.home("good")], tmp_path).read_bytes() == CONTENT
    assert [home for home, _ in server.asked] == [first, "good"]
    assert left_in(tmp_path) == {f"numbers/{NAME}"}


def test_the_second_home_is_asked_when_nobody_answers_at_the_first(server: Server, tmp_path: Path, nobody: str) -> None:
    assert fetched([nobody, server.home("good")], tmp_path).read_bytes() == CONTENT


def test_another_file_is_refused_and_removed(server: Server, tmp_path: Path) -> None:
    message = f"{server.home('other')}: sent another file (26 other bytes)"
    with pytest.raises(DataError, match=re.escape(message)):
        fetched([server.home("other")], tmp_path)
    assert left_in(tmp_path) == set()


def test_the_error_names_folder_file_and_what_each_home_answered(server: Server, tmp_path: Path, nobody: str) -> None:
    begins = (
        f"numbers: expected {NAME} in {tmp_path / 'numbers'}, found no such file there, and no download: "
        f"{server.home('absent')}: answered 404; {server.home('broken')}: answered 500; {nobody}: not reached ("
    )
    with pytest.raises(DataError, match=f"^{re.escape(begins)}") as caught:
        fetched([server.home("absent"), server.home("broken"), nobody], tmp_path)
    assert str(caught.value).endswith(
        "Put the file into that folder by hand, or name a folder that has it with --data-dir or TOMBOLA_DATA."
    )
    assert "refused" in str(caught.value).lower() and left_in(tmp_path) == set()


def test_a_part_outlives_a_try_without_network(tmp_path: Path, nobody: str) -> None:
    part = begun(tmp_path, CONTENT[:70_000])
    with pytest.raises(DataError, match="not reached"):
        fetched([nobody], tmp_path)
    assert part.read_bytes() == CONTENT[:70_000]


def test_a_folder_that_cannot_be_made_is_named(server: Server, tmp_path: Path) -> None:
    (tmp_path / "numbers").write_text("a file where the folder should be")
    folder = tmp_path / "numbers"
    message = (
        f"numbers: expected {NAME} in {folder}, found no such file there, and no download: {folder} cannot be written ("
    )
    with pytest.raises(DataError, match=f"^{re.escape(message)}"):
        fetched([server.home("good")], tmp_path)
    assert server.asked == []


def test_several_workers_that_want_the_same_file_fetch_it_once(server: Server, tmp_path: Path) -> None:
    found: list[Path] = []
    workers = [Thread(target=lambda: found.append(fetched([server.home("good")], tmp_path))) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [path.read_bytes() == CONTENT for path in found] == [True] * 4
    assert server.asked == [("good", None)]


def test_without_a_folder_the_users_cache_is_the_place(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_dir() == tmp_path / "tombola"
    assert fetch("numbers", NAME, [server.home("good")], None, check) == tmp_path / "tombola" / "numbers" / NAME
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    assert cache_dir() == tmp_path / ".cache" / "tombola"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_dir() == tmp_path / ".cache" / "tombola"


def test_the_first_home_that_has_it_is_enough(server: Server, tmp_path: Path) -> None:
    assert fetched([server.home("good"), server.home("plain")], tmp_path).read_bytes() == CONTENT
    assert server.asked == [("good", None)]


@pytest.mark.parametrize("second", ["other", "plain", "absent"])
def test_a_later_home_cannot_spoil_what_an_earlier_one_gave(server: Server, tmp_path: Path, second: str) -> None:
    assert fetched([server.home("good"), server.home(second)], tmp_path).read_bytes() == CONTENT


def test_a_connection_that_breaks_leaves_a_part_to_continue(server: Server, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="numbers: expected"):
        fetched([server.home("breaks")], tmp_path)
    assert left_in(tmp_path) == {f"numbers/{PART}"}
    assert fetched([server.home("good")], tmp_path).read_bytes() == CONTENT
    assert server.asked[-1] == ("good", "bytes=100000-")


# ---------------------------------------------------------------- several hosts and one folder


@pytest.mark.parametrize("locks", ["of another host", "absent", "no such call"])
def test_two_at_once_whose_locks_do_nothing_do_not_write_into_one_file(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, locks: str
) -> None:
    """While the one has brought a half of it, the other comes and goes."""
    fcntl = pytest.importorskip("fcntl")

    def flock(*_: object) -> None:
        raise OSError({"absent": errno.ENOLCK, "no such call": errno.ENOSYS}[locks], "No locks available")

    if locks == "of another host":
        monkeypatch.setattr("tombola.files.FileLock", lambda path: nullcontext())
    else:
        monkeypatch.setattr(fcntl, "flock", flock)
    came: list[bytes] = []

    def met(path: Path) -> None:
        if not came:
            came.append(b"")
            if locks == "of another host":
                monkeypatch.setattr(platform, "node", lambda: "the other/one")
            came.append(fetched([server.home("breaks"), server.home("plain")], tmp_path).read_bytes())
        check(path)

    path = fetch("numbers", NAME, [server.home("good")], tmp_path, met)
    assert came[1] == path.read_bytes() == CONTENT and left_in(tmp_path) == {f"numbers/{NAME}"}


def test_what_nobody_would_go_on_with_does_not_stay(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fcntl = pytest.importorskip("fcntl")

    def flock(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", flock)
    with pytest.raises(DataError, match="broke off"):
        fetched([server.home("breaks")], tmp_path)
    assert left_in(tmp_path) == set()
