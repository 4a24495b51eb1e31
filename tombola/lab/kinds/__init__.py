"""The kinds of run there are: each a frozen value that says how it is performed, what it needs and what it costs."""

from tombola.lab.kinds.alignment import AlignedMask, Alignment
from tombola.lab.kinds.averaged import Average, Pool
from tombola.lab.kinds.cut import Cut
from tombola.lab.kinds.distance import Distance
from tombola.lab.kinds.early import EarlyBird
from tombola.lab.kinds.flips import Flips
from tombola.lab.kinds.init import Init
from tombola.lab.kinds.inverted import InvertedMask
from tombola.lab.kinds.line import Line
from tombola.lab.kinds.loaded import Loaded
from tombola.lab.kinds.masks import DerivedMask, FullMask, Prune, RandomMask, Sample, ShuffledMask, mask_outcome
from tombola.lab.kinds.means import Means
from tombola.lab.kinds.measured import Measured, Measurement, Seen, Watched
from tombola.lab.kinds.stretched import MatchedMask, Stretch, StretchedMask, StretchedWeights
from tombola.lab.kinds.training import Train
from tombola.lab.kinds.tree import Tree
from tombola.lab.kinds.weights import DerivedWeights

__all__ = [
    "AlignedMask",
    "Alignment",
    "Average",
    "Cut",
    "DerivedMask",
    "DerivedWeights",
    "Distance",
    "EarlyBird",
    "Flips",
    "FullMask",
    "Init",
    "InvertedMask",
    "Line",
    "Loaded",
    "Means",
    "MatchedMask",
    "Measured",
    "Measurement",
    "Pool",
    "Prune",
    "RandomMask",
    "Sample",
    "Seen",
    "ShuffledMask",
    "Stretch",
    "StretchedMask",
    "StretchedWeights",
    "Train",
    "Tree",
    "Watched",
    "mask_outcome",
]
