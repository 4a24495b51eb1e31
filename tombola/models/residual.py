"""Stages of residual blocks: what `resnet.py` and `imagenet.py` are made of.

Deep Residual Learning for Image Recognition (He, Zhang, Ren & Sun, 2016), with a projection (1 x 1 convolution and
batch normalisation) on every shortcut whose ends differ in shape. No convolution has a bias, as a batch normalisation
follows each. In the first block of a stage the first 3 x 3 convolution halves the map.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from tombola.models.layer import Layer

BOTTLENECK = 4  # the channels of a bottleneck's end, to those inside


@dataclass(frozen=True)
class ResidualBlock:
    """One residual block: two 3 x 3 convolutions, or as a bottleneck 1 x 1, 3 x 3 and 1 x 1.

    Attributes:
        path: its name in the network, `stage2.block1`.
        inputs, inner: channels that it reads, and that its 3 x 3 convolutions give.
        stride: 2 where the map is halved, else 1.
    """

    path: str
    inputs: int
    inner: int
    stride: int
    bottleneck: bool

    @property
    def outputs(self) -> int:
        """Channels of the sum at its end."""
        return self.inner * (BOTTLENECK if self.bottleneck else 1)

    @property
    def projects(self) -> bool:
        """Whether the two sides of the sum differ in shape, so that the shortcut is a convolution."""
        return self.stride > 1 or self.inputs != self.outputs


def blocks(depths: Sequence[int], first: int, bottleneck: bool = False) -> list[ResidualBlock]:
    """The blocks of stages with `depths` blocks each and `first`, 2 `first`, ... channels inside.

    >>> [(block.path, block.inputs, block.outputs, block.stride) for block in blocks((1, 2), first=16)]
    [('stage1.block1', 16, 16, 1), ('stage2.block1', 16, 32, 2), ('stage2.block2', 32, 32, 1)]
    """
    found: list[ResidualBlock] = []
    for stage, depth in enumerate(depths, start=1):
        for number in range(1, depth + 1):
            inputs = found[-1].outputs if found else first
            stride = 2 if number == 1 < stage else 1
            path = f"stage{stage}.block{number}"
            found.append(ResidualBlock(path, inputs, first * 2 ** (stage - 1), stride, bottleneck))
    return found


def halved(size: int) -> int:
    """The side of what a window with stride 2, centred on every other position, makes of a map with side `size`."""
    return -(-size // 2)


def layers(blocks: Sequence[ResidualBlock], height: int, width: int, classes: int) -> dict[str, Layer]:
    """The layers of `blocks`, which read maps of `height` x `width`, and of the output after them."""
    found: dict[str, Layer] = {}
    for block in blocks:
        inputs, inner, outputs, before = block.inputs, block.inner, block.outputs, (height, width)
        if block.stride > 1:
            height, width = halved(height), halved(width)
        after = height, width
        if block.bottleneck:
            found[f"{block.path}.conv1.weight"] = Layer("conv", inputs, inner, 1, *before)
            found[f"{block.path}.conv2.weight"] = Layer("conv", inner, inner, 3, *after)
            found[f"{block.path}.conv3.weight"] = Layer("conv", inner, outputs, 1, *after)
        else:
            found[f"{block.path}.conv1.weight"] = Layer("conv", inputs, inner, 3, *after)
            found[f"{block.path}.conv2.weight"] = Layer("conv", inner, outputs, 3, *after)
        if block.projects:
            found[f"{block.path}.shortcut.conv.weight"] = Layer("conv", inputs, outputs, 1, *after)
    return found | {"output.weight": Layer("output", blocks[-1].outputs, classes)}
