"""The Pareto front of cost and accuracy: against its definition, and in words."""

from random import Random

from hypothesis import given
from hypothesis import strategies as st

from tombola.study.front import Way, front, sentence

costs, accuracies = st.integers(1, 400).map(lambda cents: cents / 100), st.integers(0, 20).map(lambda part: part / 20)


@given(st.lists(st.tuples(costs, accuracies), min_size=1, max_size=12))
def test_on_the_front_is_what_nothing_as_cheap_beats(drawn: list[tuple[float, float]]) -> None:
    ways = [Way(str(number), cost, {0: accuracy}) for number, (cost, accuracy) in enumerate(drawn)]
    best = front(ways)
    for way in ways:
        beaten = [
            other
            for other in ways
            if (other.cost <= way.cost and other.accuracy > way.accuracy)
            or (other.cost < way.cost and other.accuracy >= way.accuracy)
        ]
        of_its_kind = [each for each in best if (each.cost, each.accuracy) == (way.cost, way.accuracy)]
        assert bool(of_its_kind) != bool(beaten) and len(of_its_kind) <= 1
    assert [way.cost for way in best] == sorted(way.cost for way in best)


def test_what_differs_by_less_than_a_hundredth_costs_the_same() -> None:
    cheaper, better = Way("cheaper", 2.801, {0: 0.8}), Way("better", 2.804, {0: 0.9})
    assert front([cheaper, better]) == [better]


def test_the_sentence_says_what_is_shown_and_what_is_not() -> None:
    ways = [
        Way("random", 0.1, {0: 0.70, 1: 0.72, 2: 0.71}),
        Way("snip", 0.2, {0: 0.72, 1: 0.71, 2: 0.73}),
        Way("late", 2.9, {0: 0.80, 1: 0.80, 2: 0.80}),
        Way("ticket", 2.8, {0: 0.90, 1: 0.91, 2: 0.92}),
    ]
    said = sentence(0.05, ways, 0.95)
    assert "At 5.0% of the weights, of 4 ways compared" in said and "late" not in said
    assert "random (71.00% for 0.10), snip (72.00% for 0.20), ticket (91.00% for 2.80)" in said
    assert "is shown for ticket only" in said and "nothing that costs less than 2.80 dense trainings (ticket" in said
    assert "so that no difference is shown" in sentence(0.05, ways[:2], 0.95)
    assert "nothing is cheaper than snip" in sentence(0.05, [ways[1], Way("poor", 0.3, {0: 0.5})], 0.95)


def test_that_the_best_of_many_ways_is_chosen_afterwards_shows_nothing() -> None:
    """Of ways that do not differ, one of which is always the most accurate, hardly ever one is shown to be."""
    draw, claimed = Random(0), 0
    costs = [1, *(5 + number % 3 for number in range(27))]
    for _ in range(400):
        ways = [Way(f"{place}", cost, {n: draw.gauss(0.9, 0.01) for n in range(5)}) for place, cost in enumerate(costs)]
        said = sentence(0.05, ways, 0.95)
        claimed += not any(
            words in said for words in ("is shown for none", "no difference is shown", "nothing is chea")
        )
    assert claimed <= 0.05 * 400


def test_ways_without_a_replicate_in_common_show_nothing() -> None:
    said = sentence(0.1, [Way("one", 1.0, {0: 0.5}), Way("other", 2.0, {1: 0.9})], 0.95)
    assert "no difference is shown" in said
