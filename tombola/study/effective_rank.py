"""How many dimensions the features of a network use, softly counted."""

import torch
from torch import Tensor


def effective_rank(features: Tensor) -> float:
    """exp of the entropy of p_i = s_i / sum s, s the singular values: 1 for one direction, d for d equal ones.

    Args:
        features: examples x dimensions, not centred.

    Returns:
        In [1, min(examples, dimensions)]; 0 where all features are 0.

    The Effective Rank: A Measure of Effective Dimensionality (Roy & Vetterli, 2007).

    >>> round(effective_rank(torch.eye(3)), 4), round(effective_rank(torch.ones(4, 3)), 4)
    (3.0, 1.0)
    """
    values = torch.linalg.svdvals(features.double())
    if not float(values.sum()):
        return 0.0
    shares = values / values.sum()
    return float(torch.special.entr(shares).sum().exp())
