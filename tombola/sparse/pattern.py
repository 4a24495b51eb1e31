"""Which weights of a layer live, and what they meet: all that the sparse kernels need to know, made once a level."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from torch import Tensor

from tombola.errors import BadInput

Sizes = int | Sequence[int]
Padding = Sizes | Literal["same", "valid"] | str
Pair = tuple[int, int]
KEPT = 9  # things made of a pattern: its bits, and layouts as large as its living weights for 8 sizes of maps


@dataclass(frozen=True, eq=False)
class Pattern:
    """The living weights of a fully connected or a convolutional layer, and how its window moves.

    Attributes:
        mask: booleans as the weight, (outputs, inputs) or (outputs, inputs / groups, rows, columns): where it lives.
        stride: places from a window to the next, down and across.
        padding: rows of zeros above and below the map, and columns left and right of it.
        dilation: places between neighbouring weights of the window, down and across.
        groups: parts of the channels that do not meet.
        layouts: what `functional` has made of it for the maps that it met last; no copy and no file has them.
    """

    mask: Tensor
    stride: Pair = (1, 1)
    padding: tuple[Pair, Pair] = ((0, 0), (0, 0))
    dilation: Pair = (1, 1)
    groups: int = 1
    layouts: dict[Any, Any] = field(default_factory=dict, init=False, repr=False)

    @classmethod
    def of(
        cls, mask: Tensor, stride: Sizes = 1, padding: Padding = 0, dilation: Sizes = 1, groups: int = 1
    ) -> "Pattern":
        """The pattern of a mask, with the rest as `torch.nn.Conv2d` names it.

        Args:
            mask: booleans or numbers, of two dimensions for `linear`, of four for `conv2d`; what is not 0 lives.
            stride: one number or one for each direction.
            padding: likewise, or `"same"`, or `"valid"`.
            dilation: likewise.
            groups: parts of the channels that do not meet.

        Raises:
            BadInput: where the mask is neither a matrix nor the windows of a convolution over maps.

        Examples:
            >>> import torch
            >>> Pattern.of(torch.eye(3)).count
            3
        """
        if mask.dim() not in (2, 4):
            raise BadInput(
                where="the mask of a sparse layer",
                expected="2 dimensions (fully connected) or 4 (a convolution over maps)",
                found=f"{mask.dim()}",
                todo="Leave this layer dense.",
            )
        window = mask.shape[2:] if mask.dim() == 4 else (1, 1)
        spread = _pair(dilation)
        return cls(mask.detach() != 0, _pair(stride), _border(padding, window, spread), spread, groups)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "layouts": {}}

    def kept(self, key: Any, make: Callable[[], Any]) -> Any:
        """What was made of it under this key, made anew where it is not among the last few."""
        found = self.layouts.pop(key, False)  # what another thread has in hand meanwhile is made twice at worst
        if found is False:
            found = make()
        self.layouts[key] = found
        for oldest in list(self.layouts)[:-KEPT]:
            self.layouts.pop(oldest, None)
        return found

    @property
    def count(self) -> int:
        """Living weights."""
        return int(self.mask.sum())

    @property
    def density(self) -> float:
        """The share of the weights that lives."""
        return self.count / max(1, self.mask.numel())


def _pair(sizes: Sizes) -> Pair:
    down, across = (sizes, sizes) if isinstance(sizes, int) else sizes
    return int(down), int(across)


def _border(padding: Padding, window: Sequence[int], dilation: Pair) -> tuple[Pair, Pair]:
    if padding == "valid":
        padding = 0
    if padding == "same":
        reach = [gap * (size - 1) for size, gap in zip(window, dilation, strict=True)]
        down, across = ((one // 2, one - one // 2) for one in reach)
        return down, across
    assert not isinstance(padding, str)
    rows, columns = _pair(padding)
    return (rows, rows), (columns, columns)
