"""Residual blocks as modules; in a file of their own, as their base class cannot be named without importing torch."""

from collections import OrderedDict
from collections.abc import Sequence

from torch import Tensor, nn

from tombola.models.residual import ResidualBlock


def convolution(inputs: int, outputs: int, window: int, stride: int = 1) -> nn.Conv2d:
    """One that keeps the size of its map, or halves it with stride 2; without bias, as a normalisation follows."""
    return nn.Conv2d(inputs, outputs, window, stride, padding=window // 2, bias=False)


def shortcut(block: ResidualBlock) -> nn.Module:
    """What the sum at the end of `block` adds: its input, projected where its shape is another."""
    if not block.projects:
        return nn.Identity()
    conv = convolution(block.inputs, block.outputs, 1, block.stride)
    return nn.Sequential(OrderedDict(conv=conv, norm=nn.BatchNorm2d(block.outputs)))


class Basic(nn.Module):
    """relu(norm(conv(relu(norm(conv(x))))) + shortcut(x)), 3 x 3 convolutions."""

    def __init__(self, block: ResidualBlock) -> None:
        super().__init__()
        self.conv1 = convolution(block.inputs, block.inner, 3, block.stride)
        self.norm1 = nn.BatchNorm2d(block.inner)
        self.conv2 = convolution(block.inner, block.outputs, 3)
        self.norm2 = nn.BatchNorm2d(block.outputs)
        self.shortcut = shortcut(block)

    def forward(self, maps: Tensor) -> Tensor:
        """[N, inputs, H, W] -> [N, outputs, H / stride, W / stride]."""
        inner = self.norm1(self.conv1(maps)).relu()
        total: Tensor = self.norm2(self.conv2(inner)) + self.shortcut(maps)
        return total.relu()


class Bottleneck(nn.Module):
    """Like `Basic`, of 1 x 1, 3 x 3 and 1 x 1 convolutions, the first two with fewer channels."""

    def __init__(self, block: ResidualBlock) -> None:
        super().__init__()
        self.conv1 = convolution(block.inputs, block.inner, 1)
        self.norm1 = nn.BatchNorm2d(block.inner)
        self.conv2 = convolution(block.inner, block.inner, 3, block.stride)
        self.norm2 = nn.BatchNorm2d(block.inner)
        self.conv3 = convolution(block.inner, block.outputs, 1)
        self.norm3 = nn.BatchNorm2d(block.outputs)
        self.shortcut = shortcut(block)

    def forward(self, maps: Tensor) -> Tensor:
        """[N, inputs, H, W] -> [N, outputs, H / stride, W / stride]."""
        inner = self.norm1(self.conv1(maps)).relu()
        inner = self.norm2(self.conv2(inner)).relu()
        total: Tensor = self.norm3(self.conv3(inner)) + self.shortcut(maps)
        return total.relu()


def network(stem: nn.Module, blocks: Sequence[ResidualBlock], classes: int) -> nn.Module:
    """`stem`, the stages of `blocks`, the mean of each map, and a fully connected layer."""
    stages: dict[str, OrderedDict[str, nn.Module]] = {}
    for block in blocks:
        stage, name = block.path.split(".")
        stages.setdefault(stage, OrderedDict())[name] = Bottleneck(block) if block.bottleneck else Basic(block)
    parts: OrderedDict[str, nn.Module] = OrderedDict(stem=stem)
    parts |= {stage: nn.Sequential(inside) for stage, inside in stages.items()}
    parts |= {"average": nn.AdaptiveAvgPool2d(1), "flatten": nn.Flatten()}
    parts["output"] = nn.Linear(blocks[-1].outputs, classes)
    return nn.Sequential(parts)
