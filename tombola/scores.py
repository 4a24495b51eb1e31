"""The scores that there are.

To add one: write a function of what is scored beside its kind and declare it here; docs/adding-a-score.md.
"""

from tombola.score import MAGNITUDE, RANDOM, Score

SCORES: dict[str, Score] = {
    "magnitude": MAGNITUDE,
    "random": RANDOM,
}
