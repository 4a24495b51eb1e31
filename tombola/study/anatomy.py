"""What a ticket looks like inside."""

from torch import Tensor

from tombola.mask import Mask


def input_survivors(mask: Mask, shape: tuple[int, int, int]) -> Tensor | None:
    """How many living weights of the first layer each input has, as an image.

    Args:
        mask: its first layer is units x inputs.
        shape: channels, height, width of an input.

    Returns:
        height x width, the mean over units (and sum over channels) of what is alive, so 1 per channel in a dense layer;
        None where the first layer does not see the whole input, like a convolution.

    App. F.6 of The Lottery Ticket Hypothesis (Frankle & Carbin, 2019).
    """
    first = next(iter(mask.values()))
    channels, height, width = shape
    if first.dim() != 2 or first.shape[1] != channels * height * width:
        return None
    return first.float().mean(dim=0).view(channels, height, width).sum(dim=0)
