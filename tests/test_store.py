"""The store: present means complete, whatever happens while it is written, and by how many."""

import errno
import json
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from tombola.errors import StoreError
from tombola.lab.kinds import Init, Prune, Train
from tombola.lab.runs import Network, Outcome
from tombola.lab.store import Store
from tombola.mask import Mask
from tombola.mask_codec import compress, pack
from tombola.recipe import Recipe

NETWORK = Network("lenet-20-10", (1, 8, 8), 10)
RUN = Init(NETWORK, "glorot-normal", init_seed=0)
DESCRIBED = json.loads(json.dumps(RUN.described))
OUTCOME = Outcome(
    {"loss": 0.1, "curve": [1, 2.5], "name": "x"},
    {"weights": {"b": torch.arange(5.0), "a": torch.ones(2, 3)}, "mask": {"a": torch.tensor([7], dtype=torch.uint8)}},
)
PROVENANCE = {"seconds": 1.5, "device": "cpu"}
FILES = {"outcome.json", "provenance.json", "weights.safetensors", "mask.safetensors"}

posix = pytest.mark.skipif(not hasattr(os, "fork"), reason="children are forked")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store").open()


def files(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def complete(store: Store) -> bool:
    """Whether the run is there with all of its files; if it is not there, nothing at all of it may be visible."""
    if not store.has(RUN):
        assert store.keys() == set() and not list((store.root / "runs").iterdir())
        return False
    assert {path.name for path in (store.root / "runs" / RUN.key).iterdir()} == FILES
    assert store.values(RUN) == OUTCOME.values and store.provenance(RUN) == PROVENANCE
    assert all(store.tensors(RUN, name).keys() == tensors.keys() for name, tensors in OUTCOME.tensors.items())
    return True


def at_the_nth_sync(monkeypatch: pytest.MonkeyPatch, number: int, act: Callable[[], None]) -> None:
    """Act when something is brought to disk for the `number`th time: that is how `save` goes from file to file."""
    counted = iter(range(1000))
    sync = os.fsync

    def fsync(handle: int) -> None:
        if next(counted) == number:
            act()
        sync(handle)

    monkeypatch.setattr(os, "fsync", fsync)


@contextmanager
def child(act: Callable[[], None]) -> Iterator[int]:
    """A process of its own that does `act`; its number. It is gone, at the latest, when the block ends."""
    process = os.fork()
    if process == 0:
        try:
            act()
        finally:
            os._exit(0)
    try:
        yield process
    finally:
        os.kill(process, signal.SIGKILL)
        os.waitpid(process, 0)


def full() -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def interrupted() -> None:
    raise KeyboardInterrupt


# ---------------------------------------------------------------- there and back


def test_what_is_saved_comes_back(store: Store) -> None:  # S8
    assert not store.has(RUN) and store.keys() == set()
    store.save(RUN, OUTCOME, PROVENANCE)
    assert complete(store) and store.keys() == {RUN.key} and Store(store.root).has(RUN)
    back = store.tensors(RUN, "weights")
    assert torch.equal(back["a"], torch.ones(2, 3)) and torch.equal(back["b"], torch.arange(5.0))


def test_the_outcome_holds_the_description_and_nothing_of_how_it_came_about(store: Store) -> None:
    store.save(RUN, OUTCOME, PROVENANCE)
    content = json.loads((store.root / "runs" / RUN.key / "outcome.json").read_text())
    assert content == {"run": DESCRIBED, "values": OUTCOME.values}


def test_the_same_outcome_is_the_same_bytes(store: Store, tmp_path: Path) -> None:
    other = Store(tmp_path / "other").open()
    turned = Outcome(
        dict(reversed([*OUTCOME.values.items()])),
        {name: dict(reversed([*tensors.items()])) for name, tensors in reversed([*OUTCOME.tensors.items()])},
    )
    store.save(RUN, OUTCOME, PROVENANCE)
    other.save(RUN, turned, PROVENANCE)
    assert files(store.root) == files(other.root)


def test_no_pickle_is_written(store: Store) -> None:  # S3
    store.save(RUN, OUTCOME, PROVENANCE)
    assert {Path(name).suffix for name in files(store.root)} == {".json", ".safetensors"}


def test_tensors_come_back_in_memory_of_their_own(store: Store) -> None:  # R1 K5
    """Aligned as torch's own is, on which the last bits of a matrix product depend, and free to be changed."""
    store.save(RUN, OUTCOME, PROVENANCE)
    first, second = store.tensors(RUN, "weights"), store.tensors(RUN, "weights")
    assert all(value.data_ptr() % 64 == 0 for value in first.values())
    first["b"].zero_()
    assert torch.equal(second["b"], torch.arange(5.0)) and torch.equal(store.tensors(RUN, "weights")["b"], second["b"])


def test_weights_of_a_masked_training_come_back_whole_with_exact_zeros(store: Store) -> None:  # R10
    recipe = {
        "model": "lenet-20-10",
        "data": "digits",
        "length": "4it",
        "batch": 4,
        "optimizer": {"name": "sgd", "lr": 1},
    }
    prune = Prune(NETWORK, RUN, None, "magnitude", "layer", (("linear", 0.2),), (), score_seed=0)
    train = Train(RUN, prune, Recipe.model_validate(recipe), "85eb", 1, 2, 0, 4, 1, 1)
    mask = Mask({"w": torch.tensor([[True, False, True], [False, False, True]])})
    whole = {"w": torch.tensor([[1.0, 9.0, 0.0], [9.0, 9.0, -3.0]]), "b": torch.tensor([5.0])}
    store.save(prune, Outcome({"shapes": {"w": [2, 3]}}, {"mask": pack(mask)}), {})
    store.save(train, Outcome({}, {"weights": compress(whole, mask)}), {})
    assert store.mask(prune) == mask
    assert store.tensors(train, "weights")["w"].shape == (3,), "only what lives is stored"
    assert store.weights(train)["w"].tolist() == [[1.0, 0.0, 0.0], [0.0, 0.0, -3.0]]
    assert store.weights(train)["b"].tolist() == [5.0]


def test_a_number_that_is_not_finite_is_not_written(store: Store) -> None:
    with pytest.raises(ValueError, match="JSON compliant"):
        store.save(RUN, Outcome({"loss": float("nan")}), PROVENANCE)
    assert not complete(store) and not list((store.root / "tmp").iterdir())


# ---------------------------------------------------------------- present means complete


@pytest.mark.parametrize("act", [full, interrupted])
@pytest.mark.parametrize("number", range(6))
def test_an_exception_between_any_two_writes_leaves_all_or_nothing(
    store: Store, monkeypatch: pytest.MonkeyPatch, number: int, act: Callable[[], None]
) -> None:  # S1 S2 S6
    with monkeypatch.context() as patched:
        at_the_nth_sync(patched, number, act)
        with pytest.raises((OSError, KeyboardInterrupt)):
            store.save(RUN, OUTCOME, PROVENANCE)
    # Two tensor files, two of JSON and the folder come before the renaming, and one sync after it.
    assert complete(store) == (number == 5)
    assert not list((store.root / "tmp").iterdir()), "nothing half-written stays"
    store.save(RUN, OUTCOME, PROVENANCE)
    assert complete(store)


@posix
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("number", range(7))
def test_kill_9_between_any_two_writes_leaves_all_or_nothing(
    store: Store, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:  # S1 S2
    def save() -> None:
        at_the_nth_sync(monkeypatch, number, lambda: os.kill(os.getpid(), signal.SIGKILL))
        store.save(RUN, OUTCOME, PROVENANCE)

    with child(save) as process:
        os.waitid(os.P_PID, process, os.WEXITED | os.WNOWAIT)
    assert complete(store) == (number >= 5)
    assert bool(list((store.root / "tmp").iterdir())) == (number < 5), "kill leaves no time to tidy up"
    Store(store.root).open()
    assert not list((store.root / "tmp").iterdir()), "what the dead left behind goes when the store is opened"
    store.save(RUN, OUTCOME, PROVENANCE)
    assert complete(store)


@posix
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_what_a_living_process_is_writing_stays(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    (reached, tell), (go, wake) = os.pipe(), os.pipe()

    def pause() -> None:
        os.write(tell, b"x")
        os.read(go, 1)

    def save() -> None:
        at_the_nth_sync(monkeypatch, 2, pause)
        with store.claim(RUN):
            store.save(RUN, OUTCOME, PROVENANCE)

    with child(save) as process:
        os.read(reached, 1)
        before = files(store.root / "tmp")
        Store(store.root).open()
        assert before and files(store.root / "tmp") == before and not complete(store)
        os.write(wake, b"x")
        os.waitid(os.P_PID, process, os.WEXITED | os.WNOWAIT)
    assert complete(store)
    for handle in (reached, tell, go, wake):
        os.close(handle)


def test_scratch_stays_while_it_is_used_and_is_gone_afterwards(store: Store) -> None:  # S2
    with store.scratch("data") as folder:
        (folder / "log").write_text("")
        assert Store(store.root).open() and (folder / "log").exists()
    assert not folder.exists() and not list((store.root / "processes").iterdir())


def test_who_comes_second_drops_his(store: Store) -> None:
    store.save(RUN, OUTCOME, PROVENANCE)
    before = files(store.root)
    store.save(RUN, Outcome({"loss": 99}), {"seconds": 9})
    assert files(store.root) == before


def test_an_outcome_that_was_removed_can_be_made_again(store: Store) -> None:
    store.save(RUN, OUTCOME, PROVENANCE)
    for path in (store.root / "runs" / RUN.key).iterdir():
        path.unlink()
    (store.root / "runs" / RUN.key).rmdir()
    assert not complete(store)
    store.save(RUN, OUTCOME, PROVENANCE)
    assert complete(store)


# ---------------------------------------------------------------- failures


def test_a_failure_is_kept_with_its_log_until_the_run_succeeds(store: Store) -> None:
    first, second = store.fail(RUN, "once", "log of once"), store.fail(RUN, "again", "log of again")
    assert (first.reason, second.reason, second.log.read_text()) == ("once", "again", "log of again")
    content = json.loads((second.log.parent / "outcome.json").read_text())
    assert content == {"run": DESCRIBED, "status": "failed", "reason": "again"}
    assert not complete(store), "a failed run is not done"
    store.save(RUN, OUTCOME, PROVENANCE)
    assert complete(store) and not second.log.parent.exists()


# ---------------------------------------------------------------- which folders


def test_opening_makes_a_store_and_opening_again_changes_nothing(tmp_path: Path) -> None:
    store = Store(tmp_path / "a" / "b").open()
    store.save(RUN, OUTCOME, PROVENANCE)
    before = files(store.root)
    assert json.loads(before["store.json"]) == {"format": 1}
    assert Store(store.root).open().has(RUN) and files(store.root) == before
    (tmp_path / "empty").mkdir()
    assert Store(tmp_path / "empty").open().keys() == set()


def test_to_look_at_a_store_that_is_not_there_makes_none(tmp_path: Path) -> None:
    store = Store(tmp_path / "none")
    store.check()
    assert store.keys() == set() and not store.has(RUN) and not store.root.exists()


@pytest.mark.parametrize("act", ["check", "open"])
def test_a_newer_format_is_refused(store: Store, act: str) -> None:
    (store.root / "store.json").write_text('{"format": 2}')
    before = files(store.root)
    with pytest.raises(StoreError, match=r"expected a store of format 1, found format 2\. A newer version") as caught:
        getattr(Store(store.root), act)()
    assert "--store" in caught.value.todo and files(store.root) == before


@pytest.mark.parametrize("found", ["0", "-1", '"two"', "null", "1.5"])
def test_a_format_that_never_was_is_not_called_newer(store: Store, found: str) -> None:
    (store.root / "store.json").write_text(f'{{"format": {found}}}')
    with pytest.raises(StoreError, match=r"That format is unknown: correct store\.json; or name another folder"):
        store.check()


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", "3", "[" * 100_000])
def test_a_damaged_marker_is_told(store: Store, text: str) -> None:
    (store.root / "store.json").write_text(text)
    with pytest.raises(StoreError, match=r"store\.json: expected the store's format, found an unreadable file"):
        Store(store.root).open()


def test_a_folder_of_other_things_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    for act in (Store(tmp_path).check, Store(tmp_path).open):
        with pytest.raises(StoreError, match="expected a store or an empty folder, found something else"):
            act()
    assert files(tmp_path) == {"thesis.tex": b"years of work"}


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="expected a store or an empty folder"):
        Store(tmp_path / "file").open()
    with pytest.raises(StoreError, match="expected a folder that can be written") as caught:
        Store(tmp_path / "file" / "below").open()
    assert "--store" in caught.value.todo


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_the_right_to_write_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir(mode=0o500)
    with pytest.raises(StoreError, match="expected a folder that can be written, found Permission denied"):
        Store(tmp_path / "mine").open()


# ---------------------------------------------------------------- damage


@pytest.mark.parametrize("name", ["outcome.json", "provenance.json"])
@pytest.mark.parametrize("damage", ["truncated", "removed", "[" * 100_000, "[]", "3"])
def test_a_damaged_outcome_says_which_and_what_to_do(store: Store, name: str, damage: str) -> None:
    store.save(RUN, OUTCOME, PROVENANCE)
    path = store.root / "runs" / RUN.key / name
    text = path.read_text()[:10] if damage == "truncated" else damage
    path.unlink() if damage == "removed" else path.write_text(text)
    with pytest.raises(StoreError, match="expected a complete outcome, found a damaged one") as caught:
        store.values(RUN) if name == "outcome.json" else store.provenance(RUN)
    assert caught.value.where == str(path) and f"Remove the folder {path.parent}" in caught.value.todo


@pytest.mark.parametrize("damage", ["truncated", "removed"])
def test_damaged_tensors_say_which_and_what_to_do(store: Store, damage: str) -> None:
    store.save(RUN, OUTCOME, PROVENANCE)
    path = store.root / "runs" / RUN.key / "weights.safetensors"
    path.write_bytes(path.read_bytes()[:-1]) if damage == "truncated" else path.unlink()
    with pytest.raises(StoreError, match="expected a complete outcome, found a damaged one") as caught:
        store.weights(RUN)
    assert caught.value.where == str(path) and f"Remove the folder {path.parent}" in caught.value.todo


# ---------------------------------------------------------------- claims


def test_a_claim_keeps_others_out_until_it_ends(store: Store) -> None:
    other, another_run = Store(store.root), Init(NETWORK, "glorot-normal", init_seed=1)
    with store.claim(RUN) as ours:
        assert ours
        with other.claim(RUN) as theirs, other.claim(another_run) as free:
            assert not theirs and free
        with store.claim(RUN) as again:
            assert not again, "not even the same process twice"
    with other.claim(RUN) as theirs:
        assert theirs
    assert not list((store.root / "claims").iterdir()) and not list((store.root / "processes").iterdir())


def test_a_claim_ends_with_an_exception(store: Store) -> None:
    with pytest.raises(KeyboardInterrupt), store.claim(RUN):
        raise KeyboardInterrupt
    with store.claim(RUN) as ours:
        assert ours


@posix
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_claim_ends_with_its_process(store: Store) -> None:
    reached, tell = os.pipe()

    def hold() -> None:
        with store.claim(RUN) as ours:
            os.write(tell, b"y" if ours else b"n")
            signal.pause()

    with child(hold):
        assert os.read(reached, 1) == b"y"
        with store.claim(RUN) as ours:
            assert not ours
    with store.claim(RUN) as ours:
        assert ours, "kill -9 took the claim back"
    os.close(reached)
    os.close(tell)
