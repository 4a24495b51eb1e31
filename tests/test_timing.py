"""Calls that are compared have their turns one after the other, and the median counts."""

from collections.abc import Callable, Iterator

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


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(timing, "perf_counter", lambda: clock.now)
    return clock


def test_calls_have_their_turns_round_by_round_each_as_often_as_fits(clock: Clock) -> None:
    calls = {"short": clock.call("s", 0.25), "long": clock.call("l", 0.5), "longer": clock.call("L", 3.0)}
    found = timing.seconds(calls, rounds=3, round_s=1.0)
    assert found == {"short": 0.25, "long": 0.5, "longer": 3.0}
    # Two of each to see how long it takes; two at the beginning of each turn that do not count.
    assert "".join(clock.made) == "ssllLL" + 3 * ("ss" + "ssss" + "ll" + "ll" + "LL" + "L")


def test_the_first_call_prepares_and_is_not_counted(clock: Clock) -> None:
    found = timing.seconds({"lazy": clock.call("z", 50.0, 0.5)}, rounds=1, round_s=1.0)
    assert found == {"lazy": 0.5} and "".join(clock.made) == "zz" + "zz" + "zz"


def test_what_the_turns_of_others_left_behind_is_not_counted(clock: Clock) -> None:
    """Such as memory given back to the system, for which the second call has to ask again."""
    own, other = [9.0, 7.0, 1.0], [0.5] * 3
    found = timing.seconds({"own": clock.call("o", 1.0, 1.0, *3 * own), "other": clock.call("x", *other)}, 3, 1.0)
    assert found == {"own": 1.0, "other": 0.5}


def test_a_round_in_which_the_machine_was_busy_decides_nothing(clock: Clock) -> None:
    rounds = [(9.0, 9.0, counted) for counted in (1.0, 70.0, 1.0, 2.0, 1.5)]
    disturbed = clock.call("d", 1.0, 1.0, *(seconds for one in rounds for seconds in one))
    found = timing.seconds({"disturbed": disturbed, "other": clock.call("o", 1.25)}, rounds=5, round_s=1.0)
    assert found == {"disturbed": 1.5, "other": 1.25}  # of 1, 70, 1, 2, 1.5


def test_a_call_too_short_for_the_clock_is_timed_all_the_same(clock: Clock) -> None:
    assert timing.seconds({"none": clock.call("n", 0.0)}, rounds=2, round_s=1e-7) == {"none": 0.0}
    assert 2 * 99 <= len(clock.made) - 2 - 2 * timing.LEAD <= 2 * 100
