"""A network whose parameters are the coordinates of its weights in an orthonormal basis: theta = B^T c."""

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from tombola.mask import Mask
from tombola.orthonormal import Basis
from tombola.reparametrised import Reparametrised


class InBasis(Reparametrised):
    """The network `plain` in coordinates: at the beginning c = B theta of the weights that it has.

    Args:
        plain: is taken over.
        bases: of the weights of these names; all others stay what they are. An attribute, too.
        name: of the variant that it is, `orthogonal~7`, by which one set of bases is told from another; "" for bases of
            one's own. An attribute, too.

    >>> from tombola.orthonormal import dct
    >>> net = nn.Sequential(nn.Linear(4, 4))
    >>> images, before = torch.ones(1, 4), net(torch.ones(1, 4))
    >>> turned = InBasis(net, {"0.weight": dct((4, 4))})
    >>> torch.allclose(turned(images), before, atol=1e-6), list(dict(turned.named_parameters()))
    (True, ['0.weight', '0.bias'])
    """

    def __init__(self, plain: nn.Module, bases: Mapping[str, Basis], name: str = "") -> None:
        super().__init__(plain)
        self.name = name
        self.bases = dict(bases)
        self._placed: dict[str, tuple[torch.device, torch.dtype, Basis]] = {}
        with torch.no_grad():
            for name, basis in bases.items():
                parameter = plain.get_parameter(name)
                parameter.copy_(basis.coordinates(parameter.double()))

    def carried_out(self, mask: Mask) -> tuple[nn.Module, Mask]:
        """The plain network with the weights theta = B^T (m * c), and what may be alive of these.

        Args:
            mask: m, on the coordinates; layers that it does not name are whole.
        """
        plain, alive = copy.deepcopy(self.plain), dict(mask)
        with torch.no_grad():
            for name in mask:
                plain.get_parameter(name).mul_(mask[name])
            for name, basis in self.bases.items():
                c = self.get_parameter(name).detach()
                kept = mask.get(name, torch.ones_like(c, dtype=torch.bool))
                plain.get_parameter(name).copy_(basis.to(c.device, torch.float64).weight(c.double() * kept))
                if name in mask:
                    alive[name] = basis.reached(kept)
        return plain, Mask(alive)

    def forward(self, *inputs: Any) -> Any:
        """What the plain network gives with the weights theta."""
        return functional_call(self.plain, self.made(), inputs)

    def made(self) -> dict[str, Tensor]:
        """theta = B^T c of each weight that has a basis."""
        weights = dict[str, Tensor]()
        for name in self.bases:
            path, _, own = name.rpartition(".")
            c = getattr(self.get_submodule(path), own)  # no parameter where a functional call puts in another tensor
            with torch.autocast(c.device.type, enabled=False):  # products of weights with B are not the network's own
                weights[name] = self._like(name, c).weight(c)
        return weights

    def _like(self, name: str, c: Tensor) -> Basis:
        """The basis of a weight where its coordinates are, and of their type."""
        if name not in self._placed or self._placed[name][:2] != (c.device, c.dtype):
            self._placed[name] = c.device, c.dtype, self.bases[name].to(c.device, c.dtype)
        return self._placed[name][2]
