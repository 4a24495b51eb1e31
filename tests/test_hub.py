"""The hub, through its own library, against a server that speaks as much of its language as a push and a pull take."""

import base64
import hashlib
import json
import os
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from torch import nn

from tombola import hub, mask, weights
from tombola.errors import BadInput, TombolaError
from tombola.ticket import FILE, Ticket

constants = pytest.importorskip("huggingface_hub.constants")
TOKEN = "hf_of_the_test"


class StandIn(ThreadingHTTPServer):
    """A hub with repositories in memory: name -> revision -> file -> content. All of a user belongs to TOKEN."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answers)
        self.repos: dict[str, dict[str, dict[str, bytes]]] = {}
        self.created: list[dict[str, str]] = []

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Answers(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: StandIn

    def log_message(self, *_: object) -> None:
        pass

    def answer(self, status: int, content: bytes = b"{}", **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.path == "/api/validate-yaml":
            return self.answer(200, b'{"warnings": [], "errors": []}')
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self.answer(401, X_Error_Message="Invalid credentials in Authorization header")
        if self.path == "/api/repos/create":
            asked = json.loads(body)
            name = f"{asked['organization']}/{asked['name']}"
            if asked["organization"] != "user":
                return self.answer(403, b'{"error": "no rights there"}')
            address = json.dumps({"url": f"{self.server.address}/{name}"}).encode()
            if name in self.server.repos:
                return self.answer(409, address)
            self.server.created.append(asked)
            self.server.repos[name] = {"main": {}, "draft": {}}
            return self.answer(200, address)
        name, what, revision = re.fullmatch(r"/api/models/([^/]+/[^/]+)/(\w+)/(.+)", self.path).groups()  # type: ignore[union-attr]
        branch = self.server.repos[name].get(revision)
        if branch is None:
            return self.answer(404, X_Error_Code="RevisionNotFound")
        if what == "preupload":
            paths = [file["path"] for file in json.loads(body)["files"]]
            modes = [{"path": path, "uploadMode": "regular", "shouldIgnore": False} for path in paths]
            return self.answer(200, json.dumps({"files": modes}).encode())
        for line in map(json.loads, body.splitlines()):
            if line["key"] == "file":
                branch[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
        done = {"commitUrl": f"{self.server.address}/{name}/commit/{commit(branch)}", "commitOid": commit(branch)}
        self.answer(200, json.dumps(done).encode())

    def do_GET(self) -> None:
        if self.path.startswith("/api/models/"):  # is it there? asked after a refusal
            return self.answer(404, X_Error_Code="RepoNotFound")
        found = re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", self.path)
        assert found, self.path
        name, revision, file = found.groups()
        if name not in self.server.repos:
            return self.answer(401, X_Error_Code="RepoNotFound")
        branches = self.server.repos[name]
        branch = branches.get(revision) or next((b for b in branches.values() if commit(b) == revision), None)
        if branch is None:
            return self.answer(404, X_Error_Code="RevisionNotFound")
        if file not in branch:
            return self.answer(404, X_Error_Code="EntryNotFound", X_Repo_Commit=commit(branch))
        etag = f'"{hashlib.sha1(branch[file]).hexdigest()}"'
        self.answer(200, branch[file], X_Repo_Commit=commit(branch), ETag=etag)

    do_HEAD = do_GET


def commit(branch: dict[str, bytes]) -> str:
    return hashlib.sha1(repr(sorted(branch.items())).encode()).hexdigest()


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[StandIn]:
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setenv("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    with StandIn() as standing:
        thread = threading.Thread(target=standing.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield standing
        standing.shutdown()
        thread.join()


@pytest.fixture
def ticket() -> Ticket:
    model = nn.Sequential(nn.Linear(8, 5), nn.Linear(5, 2))
    alive = mask.random_like(
        mask.Mask({"0.weight": torch.arange(40).view(5, 8) < 9, "1.weight": torch.ones(2, 5, dtype=torch.bool)}), 0
    )
    return Ticket.of(model, alive, weights.of(model), {"model": "mine", "rewind": "7it", "key": "train-1"})


def test_what_is_pushed_is_pulled(server: StandIn, ticket: Ticket) -> None:
    address = ticket.push("user/lenet", endpoint=server.address)
    assert address.startswith(f"{server.address}/user/lenet/commit/")
    assert server.created[0]["name"] == "lenet"
    loaded = Ticket.pull("user/lenet", endpoint=server.address)
    assert loaded.mask == ticket.mask and weights.equal(loaded.weights, ticket.weights)
    assert loaded.origin == ticket.origin


def test_the_card_says_what_it_is_and_how_to_load_it(server: StandIn, ticket: Ticket) -> None:
    ticket.push("user/lenet", endpoint=server.address)
    card = server.repos["user/lenet"]["main"]["README.md"].decode()
    assert card.startswith("---\nlibrary_name: tombola\n")
    assert "# Ticket(mine, density 0.38, rewind 7it, from train-1)" in card
    assert "| `0.weight` | 9 | 40 | 22.50% |" in card and "| all | 19 | 50 | 38.00% |" in card
    assert 'Ticket.pull("user/lenet")' in card


def test_a_revision_is_a_branch_or_a_commit(server: StandIn, ticket: Ticket) -> None:
    first = ticket.push("user/lenet", endpoint=server.address).rpartition("/")[2]
    other = Ticket(ticket.mask, ticket.weights, {"model": "another"})
    other.push("user/lenet", revision="draft", endpoint=server.address)
    for revision, said in (("draft", "another"), ("main", "mine"), (first, "mine"), (None, "mine")):
        pulled = Ticket.pull("user/lenet", revision=revision, endpoint=server.address)
        assert pulled.origin["model"] == said
    with pytest.raises(BadInput, match="user/lenet@none: expected a branch, tag or commit"):
        Ticket.pull("user/lenet", revision="none", endpoint=server.address)
    with pytest.raises(BadInput, match="a branch to push to must exist"):
        ticket.push("user/lenet", revision="none", endpoint=server.address)


def test_what_is_pushed_again_takes_the_place_of_the_first(server: StandIn, ticket: Ticket) -> None:
    for model in ("mine", "another"):
        Ticket(ticket.mask, ticket.weights, {"model": model}).push("user/lenet", endpoint=server.address, private=True)
        assert Ticket.pull("user/lenet", endpoint=server.address).origin["model"] == model
    assert len(server.created) == 1 and server.created[0]["visibility"] == "private"


def test_a_pull_comes_from_the_cache_where_there_is_no_network(
    server: StandIn, ticket: Ticket, monkeypatch: pytest.MonkeyPatch
) -> None:
    ticket.push("user/lenet", endpoint=server.address)
    Ticket.pull("user/lenet", endpoint=server.address)
    nowhere = closed()
    monkeypatch.setattr(time, "sleep", lambda seconds: pytest.fail("the library waits, to try again"))
    assert Ticket.pull("user/lenet", endpoint=nowhere).origin == ticket.origin
    for call in (
        lambda: Ticket.pull("user/other", endpoint=nowhere),
        lambda: ticket.push("user/lenet", endpoint=nowhere),
    ):
        with pytest.raises(TombolaError, match="the hub cannot be reached for user/") as caught:
            call()
        assert not isinstance(caught.value, BadInput)


def closed() -> str:
    """An address at which nobody answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return f"http://127.0.0.1:{server.getsockname()[1]}"


def test_a_checkpoint_that_cannot_be_fetched_is_said_at_once(
    server: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(time, "sleep", lambda seconds: pytest.fail("the library waits, to try again"))
    monkeypatch.setattr(constants, "ENDPOINT", closed())
    monkeypatch.setattr(
        constants, "HUGGINGFACE_CO_URL_TEMPLATE", constants.ENDPOINT + "/{repo_id}/resolve/{revision}/{filename}"
    )
    with pytest.raises(
        BadInput,
        match=r"the hub's user/none: expected a, found no copy of it here, and no way to the hub \(.*refused.*\)",
    ):
        hub.located("user/none", "a")


@pytest.mark.parametrize("offline", [{}, {"HF_HUB_OFFLINE": "1"}])
def test_without_a_network_show_says_it_in_a_sentence(tmp_path: Path, offline: dict[str, str]) -> None:
    command = [sys.executable, "-m", "tombola", "show", "hub:user/none"]
    place = {"HF_ENDPOINT": closed(), "HF_HUB_CACHE": str(tmp_path)}
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=os.environ | place | offline)
    assert done.returncode == 1
    begins = "tombola: the hub cannot be reached for user/none, and nothing of it is kept here: "
    assert done.stderr.startswith(begins) and done.stderr.count("\n") == 1


def test_what_the_hub_refuses_is_said_with_what_to_do(
    server: StandIn, ticket: Ticket, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(BadInput, match="user/none: expected a repository, found none that you may see"):
        Ticket.pull("user/none", endpoint=server.address)
    server.repos["user/empty"] = {"main": {"a": b""}}
    with pytest.raises(BadInput, match="expected a ticket's file, found a repository without one"):
        Ticket.pull("user/empty", endpoint=server.address)
    server.repos["user/wrong"] = {"main": {FILE: b"no ticket"}}
    with pytest.raises(BadInput, match=rf"{FILE}: expected a ticket's file, found something else"):
        Ticket.pull("user/wrong", endpoint=server.address)
    with pytest.raises(BadInput, match="expected user/name, found a/b/c"):
        Ticket.pull("a/b/c", endpoint=server.address)
    with pytest.raises(BadInput, match=r"a refusal \(403\)"):
        ticket.push("somebody/else", endpoint=server.address)
    monkeypatch.setenv("HF_TOKEN", "wrong")
    with pytest.raises(BadInput, match=r"a refusal \(401\).*`hf auth login` or HF_TOKEN"):
        ticket.push("user/lenet", endpoint=server.address)
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(BadInput, match="`hf auth login` or HF_TOKEN"):
        ticket.push("user/lenet", endpoint=server.address)
    assert "user/lenet" not in server.repos


def test_show_reads_from_the_hub(server: StandIn, ticket: Ticket) -> None:
    ticket.push("user/lenet", revision=None, endpoint=server.address)
    Ticket(ticket.mask, ticket.weights, {"model": "another"}).push(
        "user/lenet", revision="draft", endpoint=server.address
    )
    for name, said in (("hub:user/lenet", "Ticket(mine,"), ("hub:user/lenet@draft", "Ticket(another,")):
        command = [sys.executable, "-m", "tombola", "show", name]
        place = {"HF_ENDPOINT": server.address, "HF_HUB_CACHE": constants.HF_HUB_CACHE}
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=os.environ | place)
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith(said) and f"\n{name}: format 2" in done.stdout


def test_without_the_extra_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(BadInput, match=r"pip install '\.\[hub\]'"):
        hub.pull("user/lenet", FILE)
