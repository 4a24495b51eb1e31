"""What a variant of a model is: a way to make its weights of other parameters. Those there are stand in `variants`."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class Plain:
    """The plain model that a variant is made of.

    Attributes:
        name: as `models.build` knows it.
        shape, classes: what goes in, and how many answers there are.
        shapes: of its prunable weights, by name.
        drawn: (how weights are drawn, seed) -> the plain network with such weights.
    """

    name: str
    shape: tuple[int, ...]
    classes: int
    shapes: dict[str, tuple[int, ...]]
    drawn: "Callable[[str, int], nn.Module]"


@dataclass(frozen=True)
class Variant:
    """A way to make the weights of a model of other parameters.

    Attributes:
        name: what stands behind the `+`, up to a seed.
        about: what it is, in one sentence.
        wrap: (the plain network with its weights, what is known of it, the variant as it is named) -> the variant,
            which computes the same function.
        seed: whether a seed belongs to its name: `orthogonal~7`.
        number: what a number is of that may stand in its name: `gaussian-3`; "" where none does.
        usual: that number where a name has none.
        of_init: whether what draws the weights belongs there too, as it is about theta_0: `svd-glorot-normal~7`.
        dense: whether a pruned parameter leaves weights that are all other than 0.
        first: whether only the first layer's weights are made of others.
        gaussian: whether its weights are drawn anew each time, and its parameters are their means.
        refuses: why it is not for a model; "" where it is.
    """

    name: str
    about: str
    wrap: "Callable[[nn.Module, Plain, Named], nn.Module]"
    seed: bool = False
    number: str = ""
    usual: int = 0
    of_init: bool = False
    dense: bool = False
    first: bool = False
    gaussian: bool = False
    refuses: Callable[[Plain], str] = lambda plain: ""

    @property
    def form(self) -> str:
        """What its name is made of."""
        number = f"[-{self.number}]" if self.number else ""
        return self.name + number + ("-INIT" if self.of_init else "") + ("~SEED" if self.seed else "")


@dataclass(frozen=True)
class Named:
    """A variant with what its name says.

    Attributes:
        seed: 0 where its name has none.
        init: how theta_0 is drawn; "" where its name does not say it.
        number: None where its name has none.
    """

    variant: Variant
    seed: int = 0
    init: str = ""
    number: int | None = None

    @property
    def name(self) -> str:
        """What stands behind the `+`."""
        variant = self.variant
        number = "" if self.number is None else f"-{self.number}"
        return (
            variant.name
            + number
            + (f"-{self.init}" if variant.of_init else "")
            + (f"~{self.seed}" if variant.seed else "")
        )
