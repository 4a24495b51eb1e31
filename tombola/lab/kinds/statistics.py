"""Running statistics that are computed anew, for weights that no training has ended with."""

from typing import TYPE_CHECKING

from tombola import data
from tombola.recipe import Recipe

if TYPE_CHECKING:
    from torch import Tensor, nn

    from tombola.lab.worker import Worker


def recompute(model: "nn.Module", recipe: Recipe, train: "Tensor", worker: "Worker") -> None:
    """Compute a model's running statistics from the training images at `train`; nothing where it has none.

    Args:
        model: on the worker's device, as it is used.
        recipe: of its training: the batches are of its size, the last one left out if it is smaller.
    """
    import torch

    from tombola.study import connectivity
    from tombola.train import computing

    dataset, chunks = worker.placed(recipe), train.split(recipe.batch)
    whole = [chunk for chunk in chunks if len(chunk) == recipe.batch] or chunks
    with computing(torch.device(worker.device), recipe.precision):  # as the network is used
        images = (each.to(worker.device) for each in data.each(dataset.images, whole))  # as bytes
        connectivity.recompute_statistics(model, map(dataset.inputs, images))
