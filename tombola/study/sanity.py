"""What is said of a ticket that is no better than its control: what the control changed was of no use to it.

Sanity-Checking Pruning Methods: Random Tickets can Win the Jackpot (Su et al., 2020) and Pruning Neural Networks at
Initialization: Why are We Missing the Mark? (Frankle et al., 2021) ask this of masks: is one more than the number of
weights that each layer keeps? A difference that is not shown is no answer, as few replicates show nothing: the answer
is a difference that is shown to be small.
"""

from dataclasses import dataclass

from tombola.control import Control


@dataclass(frozen=True)
class Words:
    """An arm beside the ticket, in words: `claim`, `what` and `otherwise` as `Control` has them."""

    claim: str
    what: str
    otherwise: str = ""

    @classmethod
    def of(cls, name: str, control: Control | None) -> "Words":
        """Those of a control; of another arm its name, which claims nothing."""
        return cls(control.claim, control.what, control.otherwise) if control else cls("", name)


def as_good(words: Words, good: str, margin: str, where: str) -> str:
    """The sentence on an arm that is shown to be as good as the ticket, within the margin.

    >>> words = Words("it matters where", "a shuffled mask", "its mask carries no more than layer-wise counts")
    >>> as_good(words, "as accurate", "0.2 points", "at 2.0% (+0.02 [-0.05, +0.09] points)")
    'Its mask carries no more than layer-wise counts: a shuffled mask is as accurate as the ticket, within ...points).'
    """
    sentence = f"{words.what} is {good} as the ticket, within {margin}, {where}."
    sentence = f"{words.otherwise}: {sentence}" if words.otherwise else sentence
    return sentence[0].upper() + sentence[1:]
