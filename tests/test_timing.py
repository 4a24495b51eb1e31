"""Calls that are compared have their turns one after the other, and the median counts."""

from collections.abc import Callable, Iterator, Mapping

import pytest

from tombola.cash import timing


class Clock:
    """Time that passes only where a call says so, and the calls in their order."""

    def __init__(self) -> None:
        self.now, self.made = 100.0, list[str]()

    def call(self, name: str, *lasts: float) -> Callable[[], None]:
        """A call that takes so many seconds; the last of them from then on."""

        def times() -> Iterator[float]:
            yield from lasts
            while True:
                yield lasts[-1]

        following = times()

        def call() -> None:
            self.now += next(following)
            self.made.append(name)

        return call


def timed(calls: Mapping[str, Callable[[], object]], rounds: int, round_s: float) -> dict[str, float]:
    return {name: taken.median_s for name, taken in timing.timed(calls, rounds, round_s).items()}


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(timing, "perf_counter", lambda: clock.now)
    return clock


def test_calls_have_their_turns_round_by_round_each_as_often_as_fits(clock: Clock) -> None:
    calls = {"short": clock.call("s", 0.25), "long": clock.call("l", 0.5), "longer": clock.call("L", 3.0)}
    found = timed(calls, rounds=3, round_s=1.0)
    assert found == {"short": 0.25, "long": 0.5, "longer": 3.0}
    # Two of each to see how long it takes; two at the beginning of each turn that do not count.
    assert "".join(clock.made) == "ssllLL" + 3 * ("ss" + "ssss" + "ll" + "ll" + "LL" + "L")


def test_the_first_call_prepares_and_is_not_counted(clock: Clock) -> None:
    found = timed({"lazy": clock.call("z", 50.0, 0.5)}, rounds=1, round_s=1.0)
    assert found == {"lazy": 0.5} and "".join(clock.made) == "zz" + "zz" + "zz"


def test_what_the_turns_of_others_left_behind_is_not_counted(clock: Clock) -> None:
    """Such as memory given back to the system, for which the second call has to ask again."""
    own, other = [9.0, 7.0, 1.0], [0.5] * 3
    found = timed({"own": clock.call("o", 1.0, 1.0, *3 * own), "other": clock.call("x", *other)}, 3, 1.0)
    assert found == {"own": 1.0, "other": 0.5}


def test_a_round_in_which_the_machine_was_busy_decides_nothing(clock: Clock) -> None:
    rounds = [(9.0, 9.0, counted) for counted in (1.0, 70.0, 1.0, 2.0, 1.5)]
    disturbed = clock.call("d", 1.0, 1.0, *(seconds for one in rounds for seconds in one))
    found = timed({"disturbed": disturbed, "other": clock.call("o", 1.25)}, rounds=5, round_s=1.0)
    assert found == {"disturbed": 1.5, "other": 1.25}  # of 1, 70, 1, 2, 1.5


def test_a_call_too_short_for_the_clock_is_timed_all_the_same(clock: Clock) -> None:
    assert timed({"none": clock.call("n", 0.0)}, rounds=2, round_s=1e-7) == {"none": 0.0}
    assert 2 * 99 <= len(clock.made) - 2 - 2 * timing.LEAD <= 2 * 100


def test_a_single_call_that_was_interrupted_moves_neither_the_median_nor_its_round(clock: Clock) -> None:
    often = [*[0.25] * 3, 90.0]  # in each round of four counted calls the system does something else in one
    found = timing.timed({"own": clock.call("o", 0.25, 0.25, *([0.25] * 2 + often) * 3)}, rounds=3, round_s=1.0)
    assert found["own"].median_s == 0.25 and found["own"].rounds_s == (0.25, 0.25, 0.25)


def test_quartiles_are_those_of_single_calls_and_rounds_keep_their_order(clock: Clock) -> None:
    rounds = [(9.0, 9.0, 1.0), (9.0, 9.0, 5.0), (9.0, 9.0, 2.0), (9.0, 9.0, 3.0), (9.0, 9.0, 4.0)]
    own = clock.call("o", 1.0, 1.0, *(each for one in rounds for each in one))
    found = timing.timed({"own": own}, rounds=5, round_s=1.0)["own"]
    assert (found.median_s, found.quartiles_s, found.rounds_s) == (3.0, (2.0, 4.0), (1.0, 5.0, 2.0, 3.0, 4.0))
    assert found.text == "3000.000 [2000.000, 4000.000]"
