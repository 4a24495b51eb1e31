"""How many dimensions the features of a network use, softly counted."""

import torch
from torch import Tensor, nn


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


def features(model: nn.Module, inputs: Tensor) -> Tensor:
    """What the last linear layer of `model` is handed, one row for each example, or each token.

    >>> features(nn.Sequential(nn.ReLU(), nn.Linear(2, 1)), torch.tensor([[1.0, -1.0]])).tolist()
    [[1.0, 0.0]]
    """
    *_, last = (module for module in model.modules() if isinstance(module, nn.Linear))
    kept: list[Tensor] = []
    hook = last.register_forward_pre_hook(lambda layer, handed: kept.append(handed[0].detach()))
    try:
        with torch.no_grad():
            model(inputs)
    finally:
        hook.remove()
    return kept[0].flatten(0, -2)
