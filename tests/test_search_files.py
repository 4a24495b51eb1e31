"""A search that is interrupted goes on as if it had not been; its file executes nothing and is refused by others."""

import json
import multiprocessing
import os
import random
import re
import signal
from collections import Counter, OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load, save
from torch import Tensor, nn
from torch.nn import functional
from torch.optim.swa_utils import AveragedModel

from tombola import container, files, score, weights
from tombola.errors import BadInput, NoRoom
from tombola.pruning import Round
from tombola.score import Score
from tombola.search import Search, checkpoint
from tombola.search.codec import decode, encode
from tombola.ticket import Ticket

LEVELS, STEPS = 3, 8
RATES = {"output": 0.1, "*": 0.3}  # the first that fits holds, whatever a file makes of their order


def search_in(path: Path, k: str, seed: int, halt: Callable[[int, int], None]) -> dict[str, Any]:
    """A search with everything that there is to be rewound; `halt` is asked at every step whether to end here."""
    torch.manual_seed(seed)
    body = [nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.2), nn.Flatten(), nn.Linear(16, 3)]
    model = nn.Sequential(*body).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02, fused=True)
    scheduler = torch.optim.lr_scheduler.MultiStepLR(optimizer, [3, 6], 0.5)
    average, scaler, own = AveragedModel(model), torch.amp.GradScaler("cpu"), torch.Generator().manual_seed(seed)
    inputs, labels = torch.linspace(-1, 1, 512).view(32, 1, 4, 4), torch.arange(32) % 3
    also = [average, scaler, own]
    if path.exists():
        search = Search.resume(path, model, optimizer, scheduler=scheduler, also=also)
    else:
        search = Search(model, optimizer, levels=3, rate=RATES, rewind=k, path=path, scheduler=scheduler, also=also)
    for level in search:
        for step in range(STEPS):
            places = torch.randint(32, (8,), generator=own)
            optimizer.zero_grad()
            scaler.scale(functional.cross_entropy(model(inputs[places]), labels[places])).backward()
            scaler.step(optimizer)
            scaler.update()
            scheduler.step()
            average.update_parameters(model)
            level.report(rate=optimizer.param_groups[0]["lr"], scale=scaler.get_scale())
            halt(level.number, step)
    return {
        "trained": [search.trained(number) for number in range(LEVELS + 1)],
        "average": weights.of(average),
        "history": search.history,
    }


class Halted(Exception):
    """Whoever runs a search presses Ctrl-C."""


def halting(at: tuple[int, int]) -> Callable[[int, int], None]:
    def halt(level: int, step: int) -> None:
        if (level, step) == at:
            raise Halted

    return halt


def same(left: dict[str, Any], right: dict[str, Any]) -> bool:
    pairs = zip(left["trained"], right["trained"], strict=True)
    averages = weights.equal(left["average"], right["average"])
    return averages and left["history"] == right["history"] and all(weights.equal(*pair) for pair in pairs)


@pytest.mark.parametrize("k", ["0it", "3it", "8it"])
def test_interrupted_and_resumed_is_as_if_uninterrupted(k: str, tmp_path: Path) -> None:  # R9 S1 S2 S4 S5 S6
    whole = search_in(tmp_path / "whole", k, 5, halting((-1, 0)))
    for seed, at in ((5, (1, 2)), (6, (1, 7)), (7, (3, 7))):  # other initial weights: all comes from the file
        with pytest.raises(Halted):
            search_in(tmp_path / "parts", k, seed, halting(at))
    assert same(search_in(tmp_path / "parts", k, 8, halting((-1, 0))), whole)
    assert (tmp_path / "parts").read_bytes() == (tmp_path / "whole").read_bytes()


def killed(folder: str) -> None:
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)

    def halt(level: int, step: int) -> None:
        if (level, step) == (2, 5):
            os.kill(os.getpid(), signal.SIGKILL)

    search_in(Path(folder) / "killed", "3it", 5, halt)


def test_killed_and_resumed_is_as_if_uninterrupted(tmp_path: Path) -> None:  # R9 S2
    process = multiprocessing.get_context("spawn").Process(target=killed, args=(str(tmp_path),))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL and [path.name for path in tmp_path.iterdir()] == ["killed"]
    found = search_in(tmp_path / "killed", "3it", 6, halting((-1, 0)))
    assert same(found, search_in(tmp_path / "whole", "3it", 5, halting((-1, 0))))


def network(width: int = 8) -> nn.Sequential:
    torch.manual_seed(7)
    return nn.Sequential(nn.Linear(6, width), nn.BatchNorm1d(width), nn.ReLU(), nn.Linear(width, 3))


def train(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    for _ in range(4):
        optimizer.zero_grad()
        functional.cross_entropy(model(torch.randn(8, 6)), torch.arange(8) % 3).backward()
        optimizer.step()


def finished(path: Path, levels: int = 1, until: int | None = None, lr: float = 0.1, **options: Any) -> Search:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9)
    search = Search(model, optimizer, levels=levels, path=path, rewind="2it", **options)
    for level in search:
        if level.number == until:
            break
        train(model, optimizer)
        level.report(accuracy=0.5)
    return search


def test_a_finished_search_is_read_back_whole(tmp_path: Path) -> None:  # R9
    search = finished(tmp_path / "search", levels=2, keep=["output"], rate={"linear": 0.3})
    model = network()
    again = Search.resume(tmp_path / "search", model, torch.optim.SGD(model.parameters(), lr=0.3))
    assert repr(again) == repr(search) == "Search(Sequential, 3 of 3 levels finished, rewind 2it)"
    with pytest.warns(UserWarning, match="All 3 levels of search are finished: nothing is trained"):
        assert list(again) == []
    assert again.history == search.history
    for level in range(3):
        assert again.mask(level) == search.mask(level)
        assert weights.equal(again.trained(level), search.trained(level))
        assert list(again.trained(level)) == list(search.trained(level)) == list(model.state_dict())
        assert weights.equal(again.ticket(level).weights, search.ticket(level).weights)
        assert again.ticket(level).origin == search.ticket(level).origin


def test_a_finished_search_is_opened_with_any_optimiser(tmp_path: Path) -> None:
    """As a trainer's, which makes groups of its own."""
    search = finished(tmp_path / "search", levels=1)
    model = network()
    groups = [{"params": [value]} for value in model.parameters()]
    again = Search.resume(tmp_path / "search", model, torch.optim.AdamW(groups, lr=0.1))
    assert weights.equal(again.ticket(1).weights, search.ticket(1).weights)
    with pytest.raises(BadInput, match=r"expected a ticket's file, found the file of a search. Search.resume opens it"):
        Ticket.load(tmp_path / "search")


def test_a_search_whose_score_is_in_its_round_goes_on_with_that_score(tmp_path: Path) -> None:
    """Whatever its name: as the callbacks open it again."""
    largest = Score("magnitude", lambda scored: {name: -scored.weights[name].abs() for name in scored.mask})
    options: dict[str, Any] = {"round": Round(score=largest), "levels": 2, "rewind": "2it"}

    def opened(path: Path, until: int) -> Search:
        model = network()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        search = Search.opened(model, optimizer, None, {**options, "path": path})
        for level in search:
            if level.number == until:
                break
            train(model, optimizer)
        return search

    opened(tmp_path / "parts", until=1)
    again, whole = opened(tmp_path / "parts", until=3), opened(tmp_path / "whole", until=3)
    assert again.mask(2) == whole.mask(2)


def test_the_file_stays_where_it_was_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the loop goes to another folder."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "elsewhere").mkdir()
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in Search(model, optimizer, levels=1, path="search"):
        train(model, optimizer)
        monkeypatch.chdir(tmp_path / "elsewhere")
    monkeypatch.chdir(tmp_path)
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["search"]
    assert not Search.resume("search", model, optimizer).left
    assert not list((tmp_path / "elsewhere").iterdir())


def test_a_model_of_another_type_does_not_go_on(tmp_path: Path) -> None:
    finished(tmp_path / "search")
    model = network().double()
    with pytest.raises(BadInput, match=r"expected 0.weight of torch.float64, as in the model, found torch.float32"):
        Search.resume(tmp_path / "search", model, torch.optim.SGD(model.parameters(), lr=0.1))


def test_the_file_holds_one_line_of_json_and_no_pickle(tmp_path: Path) -> None:  # S3
    finished(tmp_path / "search")
    with safe_open(tmp_path / "search", framework="pt") as file:
        metadata = file.metadata()
    assert list(metadata) == ["tombola-search"] and json.loads(metadata["tombola-search"])["format"] == 3


def test_a_file_that_is_not_there_or_holds_no_search_is_named_so(tmp_path: Path) -> None:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with_both: tuple[Any, ...] = (model, optimizer)
    for beside in ((), with_both):
        with pytest.raises(BadInput, match=r"expected the file of a search, found no such file\. "):
            Search.resume(tmp_path / "missing", *beside)
    (tmp_path / "photo.jpg").write_bytes(b"\xff\xd8\xff\xe0\0\x10JFIF" + bytes(range(256)))
    with pytest.raises(BadInput, match=r"found one that is there already, and holds no search\. Name another one\.$"):
        Search(model, optimizer, levels=1, path=tmp_path / "photo.jpg")


def test_a_search_never_writes_over_another(tmp_path: Path) -> None:
    finished(tmp_path / "search")
    content = (tmp_path / "search").read_bytes()
    for change in ({"levels": 2}, {"keep": "output"}, {"also": [torch.Generator()]}):
        with pytest.raises(BadInput, match="expected a new file, or that of this search with all levels finished"):
            finished(tmp_path / "search", **change)
    with pytest.raises(BadInput, match="expected a new file, or that of this search with all levels finished"):
        Search(model := network(), torch.optim.SGD(model.parameters(), lr=0.1), levels=1, path=__file__)
    finished(tmp_path / "left", until=1)
    with pytest.raises(BadInput, match=r"Search\.resume goes on with the search that it holds"):
        finished(tmp_path / "left")
    assert (tmp_path / "search").read_bytes() == content


@pytest.mark.filterwarnings("ignore:All 2 levels")
def test_a_finished_search_of_other_settings_is_named_so(tmp_path: Path) -> None:
    finished(tmp_path / "search")
    said = r"search: the search in it had lr=0\.1, and this optimizer has lr=0\.01: the results are of the first"
    with pytest.warns(UserWarning, match=said):
        finished(tmp_path / "search", lr=0.01)


def test_a_script_whose_search_is_finished_runs_again_and_trains_nothing(tmp_path: Path) -> None:
    search = finished(tmp_path / "search")
    content = (tmp_path / "search").read_bytes()
    with pytest.warns(UserWarning, match="All 2 levels of search are finished: nothing is trained"):
        again = finished(tmp_path / "search")
    for found in (again, Search.resume(tmp_path / "search"), Search.resume(tmp_path / "search", network())):
        assert found.history == search.history and not found.left and str(found) == str(search)
        for level in range(2):
            assert weights.equal(found.trained(level), search.trained(level))
            assert found.ticket(level).origin == search.ticket(level).origin
            assert weights.equal(found.ticket(level).weights, search.ticket(level).weights)
    with pytest.raises(BadInput, match="expected the model and optimizer of the search, found none"):
        found.verify(lambda level: None, level=1)
    with pytest.raises(BadInput, match=r"0\.weight \(9, 6\)"):
        Search.resume(tmp_path / "search", network(9))
    assert (tmp_path / "search").read_bytes() == content
    finished(tmp_path / "left", until=1)
    with pytest.raises(BadInput, match="expected the search's model and optimizer, or all of its levels finished"):
        Search.resume(tmp_path / "left")


def test_a_search_prints_as_a_table_of_its_levels(tmp_path: Path) -> None:
    assert str(finished(tmp_path / "search", levels=2, until=2, rate=0.5)).splitlines() == [
        "Search(Sequential, 2 of 3 levels finished, rewind 2it)",
        "level  density  weights remaining         steps  accuracy",
        "    0   1.0000                 72             4       0.5",
        "    1   0.5000                 36             4       0.5",
        "    2   0.2500                 18  not finished",
    ]


def adam(model: nn.Module) -> dict[str, Any]:
    return {"optimizer": torch.optim.Adam(model.parameters())}


def scheduled(model: nn.Module) -> dict[str, Any]:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    return {"optimizer": optimizer, "scheduler": torch.optim.lr_scheduler.StepLR(optimizer, 1)}


def averaged(model: nn.Module) -> dict[str, Any]:
    return {"also": [AveragedModel(model)]}


def other_score(model: nn.Module) -> dict[str, Any]:
    return {"score": score.random}


@pytest.mark.parametrize(
    ("width", "changes", "message"),
    [
        (9, None, r"0\.weight \(8, 6\), 0\.bias \(8,\), 1\.weight \(8,\)"),
        (8, adam, "expected optimizer as in the search: SGD, found Adam"),
        (8, scheduled, r"expected schedulers as in the search: \[\], found \['StepLR'\]"),
        (8, averaged, r"expected also as in the search: \[\], found \['AveragedModel'\]"),
        (8, other_score, "expected score as in the search: magnitude, found random"),
    ],
)
def test_what_the_search_was_not_made_with_is_refused(width: int, changes: Any, message: str, tmp_path: Path) -> None:
    finished(tmp_path / "search", until=1)
    model = network(width)
    given = {"optimizer": torch.optim.SGD(model.parameters(), lr=0.1)} | (changes(model) if changes else {})
    with pytest.raises(BadInput, match=message):
        Search.resume(tmp_path / "search", model, given.pop("optimizer"), **given)


def damaged(content: bytes) -> bytes:
    return content[:-10]


def foreign(content: bytes) -> bytes:
    return save({"w": torch.zeros(1)})


def newer(content: bytes) -> bytes:
    tensors = load(content)
    return save(tensors, {"tombola-search": json.dumps({"format": 4})})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (damaged, "expected the file of a search, found something else"),
        (foreign, "expected the file of a search, found something else"),
        (newer, "expected format: 3, found 4. Another version of Tombola wrote it"),
        (None, "expected the file of a search, found no such file"),
    ],
)
def test_what_is_no_search_is_refused(change: Any, message: str, tmp_path: Path) -> None:
    path = tmp_path / "search"
    if change:
        finished(path)
        path.write_bytes(change(path.read_bytes()))
    model = network()
    with pytest.raises(BadInput, match=re.escape(str(path)) + ".*" + message):
        Search.resume(path, model, torch.optim.SGD(model.parameters(), lr=0.1))


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("about",), None),
        (("about", "plan"), {}),
        (("about", "plan", "levels"), "x"),
        (("about", "plan", "rewind"), 3),
        (("about", "plan", "keep"), None),
        (("about", "tied"), []),
        (("about", "model"), None),
        (("about", "parameters"), 5),
        (("shapes",), None),
        (("steps", 0), "x"),
        (("steps",), [1]),
        (("history", 0, "density"), None),
        (("history", 0, "metrics"), [1]),
        (("start",), None),
        (("start",), {}),
        (("start", "left"), {}),
        (("start", "left", "weights"), None),
        (("start", "left", "weights", "0.weight"), [30000, 60000]),
        (("rewind", "left", "weights", "0.weight"), 1),
        (("finished",), -1),
    ],
)
def test_a_file_that_says_something_else_is_refused(place: tuple[Any, ...], value: Any, tmp_path: Path) -> None:
    """Complete, with the right digest, and a value of another type: errors of Python's own came out of it."""
    path = tmp_path / "search"
    finished(path, levels=1)
    said = container.metadata(path.read_bytes(), checkpoint.KEY)
    holder = said
    for key in place[:-1]:
        holder = holder[key]
    holder[place[-1]] = value
    said["digest"] = files.ZEROS
    path.write_bytes(container.content(container.tensors(path.read_bytes()), checkpoint.KEY, said))
    for made in ((), (model := network(), torch.optim.SGD(model.parameters(), lr=0.1))):
        with pytest.raises(BadInput, match=r"expected the file of a search|levels: expected"):
            Search.resume(path, *made)


def test_a_full_disk_ends_the_search_and_keeps_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written = []

    def full(path: Path, content: bytes) -> None:
        written.append(path)
        if len(written) == 2:
            raise OSError(28, "No space left on device")
        files_replace(path, content)

    files_replace = files.replace
    monkeypatch.setattr(files, "replace", full)
    with pytest.raises(NoRoom, match="found: No space left on device"):
        finished(tmp_path / "search", levels=2)
    model = network()
    again = Search.resume(tmp_path / "search", model, torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9))
    assert repr(again) == "Search(Sequential, 1 of 3 levels finished, rewind 2it)"


class Odd:
    """Has a state that only pickle could hold."""

    def state_dict(self) -> dict[str, Any]:
        return {"inner": [1, {"function": print}]}

    def load_state_dict(self, state: Any) -> None:
        pass


def test_a_state_that_only_pickle_could_hold_is_refused_before_anything_is_done(tmp_path: Path) -> None:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(BadInput, match=r"start\.followed\.also\.0\.inner\.1\.function: .*found builtins\.builtin_func"):
        Search(model, optimizer, levels=1, also=[Odd()], path=tmp_path / "search")
    assert not (tmp_path / "search").exists()
    Search(model, optimizer, levels=1, also=[Odd()])


PLAIN = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_subnormal=False) | st.text()
KEYS = st.text() | st.integers() | st.sampled_from(["$tensor", "$dict"])
NAMES = st.sampled_from(["a", "b", "a.b", 0, "0", "b.a'"])
NESTED: st.SearchStrategy[Any] = st.recursive(
    PLAIN | st.sets(st.integers()) | st.builds(Counter, st.lists(st.integers())),
    lambda inner: st.lists(inner) | st.lists(inner).map(tuple) | st.dictionaries(KEYS, inner),
)


@given(NESTED)
def test_what_a_state_dict_holds_comes_back_equal_and_of_the_same_type(value: Any) -> None:
    tensors: dict[str, Tensor] = {}
    code = json.loads(json.dumps(encode(value, tensors, "it")))
    back = decode(code, tensors)
    assert back == value and types(back) == types(value)


def types(value: Any) -> Any:
    if isinstance(value, dict):
        return type(value), [(type(key), types(part)) for key, part in value.items()]
    return (type(value), [types(part) for part in value]) if isinstance(value, list | tuple) else type(value)


def test_tensors_and_arrays_come_back_as_they_were() -> None:
    image = torch.randn(2, 3, 4, 4).to(memory_format=torch.channels_last)
    value: dict[str, Any] = OrderedDict(
        half=torch.tensor([1.5, -0.0], dtype=torch.bfloat16), image=image, number=np.float32(1.5),
        scalar=torch.tensor(3), array=np.arange(4, dtype=np.uint32), flags=np.array([True, False]),
        empty=torch.zeros(0, 2), nan=float("nan"), shared=[image, image], turned=torch.arange(6).view(2, 3).t(),
    )  # fmt: skip
    tensors: dict[str, Tensor] = {}
    code = json.loads(json.dumps(encode(value, tensors, "it")))
    back = decode(code, load(save(tensors)))
    for name in ("half", "image", "scalar", "empty", "turned"):
        assert torch.equal(back[name], value[name]) and back[name].dtype == value[name].dtype
        assert back[name].stride() == value[name].stride()
    assert type(back["number"]) is np.float32 and back["number"] == 1.5 and back["nan"] != back["nan"]
    assert back["array"].dtype == np.uint32 and back["array"].tolist() == [0, 1, 2, 3]
    assert back["flags"].tolist() == [True, False] and torch.equal(back["shared"][1], image)


def test_only_dense_numbers_are_kept() -> None:
    with pytest.raises(BadInput, match="expected a dense tensor of numbers"):
        encode([torch.zeros(2).to_sparse()], {}, "it")


def test_a_folder_that_is_not_there_is_told_before_anything_is_done(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="expected a file in a folder that is there and can be written to"):
        finished(tmp_path / "none" / "search")


@given(st.recursive(st.integers(0, 9).map(torch.tensor), lambda inner: st.dictionaries(NAMES, inner, max_size=4)))
def test_tensors_under_names_alike_are_told_apart(value: Any) -> None:
    tensors: dict[str, Tensor] = {}
    assert decode(encode(value, tensors, "it"), tensors) == value


def test_generators_of_all_kinds_come_back_from_the_file(tmp_path: Path) -> None:  # R9
    own = [random.Random(4), np.random.default_rng(5), np.random.Generator(np.random.MT19937(6))]
    finished(tmp_path / "search", also=own)
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    assert Search.resume(tmp_path / "search", model, optimizer, also=own).left == 0


def test_a_changed_bit_anywhere_is_found_out(tmp_path: Path) -> None:
    """As long as what lies there can be read, a damaged weight is a number like any other."""
    path = tmp_path / "search"
    finished(path, levels=2)
    content = path.read_bytes()
    end = 8 + int.from_bytes(content[:8], "little")
    model = network()
    said = [content.index(some) + 1 for some in (b"0.5", b'\\"format', b'\\"digest\\": \\"', b"SGD")]
    for place in (*said, *range(end, len(content), max(1, (len(content) - end) // 25))):
        path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        with pytest.raises(BadInput, match="expected the file of a search, found something else, or a damaged one"):
            Search.resume(path, model, torch.optim.SGD(model.parameters(), lr=0.1))
    path.write_bytes(content)
    assert Search.resume(path, model, torch.optim.SGD(model.parameters(), lr=0.1)).left == 0


@pytest.mark.parametrize("path", ["", ".", Path("..")])
def test_a_folder_is_no_file(path: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    model = network()
    with pytest.raises(BadInput, match="expected a file's name, found a folder"):
        Search(model, torch.optim.SGD(model.parameters(), lr=0.1), levels=1, path=path)
