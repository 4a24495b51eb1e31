"""One number per weight: the higher, the longer it lives.

A score says nothing about how many weights go or where: `pruning.Round` decides that. To add one: write a function like
`magnitude` and declare it in `scores.SCORES`; docs/adding-a-score.md.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from tombola.errors import BadInput
from tombola.macs import GRADIENT
from tombola.objective import CrossEntropy

if TYPE_CHECKING:  # `tombola plan` reads which scores there are, and touches no tensor
    from torch import Tensor, nn

    from tombola.coupling import Coupling
    from tombola.mask import Mask

Batch = tuple[Any, Any]


def cross_entropy(model: "nn.Module", batch: Batch) -> "Tensor":
    """-log p(label), averaged over a batch of (inputs, labels).

    Raises:
        BadInput: the batch is no such pair.
    """
    if not (isinstance(batch, tuple | list) and len(batch) == 2):
        raise _no_pair(batch)
    return CrossEntropy().loss(model, batch, {})


def _no_pair(batch: object) -> BadInput:
    found = f"a tensor of shape {tuple(batch.shape)}" if hasattr(batch, "shape") else f"a {type(batch).__name__}"
    todo = "batches=[batch] are those of one batch; batches of another kind go with a `loss` of their own"
    return BadInput(where="batches", expected="(inputs, labels) in each batch", found=found, todo=f"{todo}.")


@dataclass(frozen=True)
class Scored:
    """What a score sees.

    Attributes:
        model: the network, in training mode, with the trained weights in it.
        weights: theta, the trained weights by name, on the CPU; pruned ones are 0.
        mask: m, what is alive; its names are those to be scored.
        batches: of the training set, (inputs, labels) each, each time from the first one on; empty for a score that
            does not ask for them.
        seed: for a score that draws.
        loss: what the training made small, of the model and a batch.
        initial: theta_0, the weights at the beginning of the training that ended with `weights`, by name, on the CPU:
            those of the rewind point where it began there. None where they are not known.
        coupling: which channels live and die together; None where single weights are pruned.
    """

    model: "nn.Module"
    weights: "Mapping[str, Tensor]"
    mask: "Mask"
    batches: Iterable[Batch] = ()
    seed: int = 0
    loss: "Callable[[nn.Module, Batch], Tensor]" = cross_entropy
    initial: "Mapping[str, Tensor] | None" = None
    coupling: "Coupling | None" = None

    @staticmethod
    def of(model: "nn.Module", mask: "Mask", seed: int = 0) -> "Scored":
        """Return what a score sees of `model` as it is now, for rounds of pruning by hand.

        Args:
            model: any module; its weights are copied.
            mask: what is alive of it.
            seed: for a score that draws.
        """
        from tombola import weights

        return Scored(model, weights.of(model), mask, seed=seed)


@dataclass(frozen=True)
class Score:
    """A way to rank weights.

    Attributes:
        name: by which a spec names it, as `prune.score`.
        of: scored -> one number for each weight that the mask names, in tensors of the weights' shapes.
        about: what it ranks by, in one sentence.
        paper, year: where it comes from.
        sees_batches: whether it asks for batches of the training set.
        sees_initial: whether it asks for the weights at the beginning of the training.
        reads_text: whether it can rank the weights of a network that reads text.
        of_gaussian: whether it asks for Gaussian weights, each with a sigma.
        of_channels: whether it ranks whole channels alone.
        together: how the numbers of the weights of a channel become the channel's: a name in `coupling.TOGETHER`.
        comparable: whether channels of different layers may be compared by it as it is; else each is compared to the
            mean of its own layers.
        code: SHA-256 of the file that it comes from; None for Tombola's own. It is in the keys of the runs that use it.
        macs: (f, batches) -> the multiply-adds of scoring once, in proportion to f, which an example takes forwards;
            `batches` are how many examples each batch has. None for a gradient of every example, 3 f each, of a score
            that sees batches.
    """

    name: str
    of: "Callable[[Scored], Mapping[str, Tensor]]"
    about: str = ""
    paper: str = ""
    year: int = 0
    sees_batches: bool = False
    sees_initial: bool = False
    reads_text: bool = True
    of_gaussian: bool = False
    of_channels: bool = False
    together: str = "mean"
    comparable: bool = False
    code: str | None = None
    macs: Callable[[int, Sequence[int]], int] | None = None

    def cost(self, forward: int, batches: Sequence[int]) -> int:
        """Return the multiply-adds of scoring once.

        Args:
            forward: f, those of one example forwards.
            batches: how many examples are in each that it may see.

        >>> RANDOM.cost(266_200, batches=[60, 40])
        0
        """
        if not self.sees_batches:
            return 0
        return self.macs(forward, batches) if self.macs else GRADIENT * forward * sum(batches)


def magnitude(scored: Scored) -> "dict[str, Tensor]":
    """|theta_i|, the size of each trained weight (The Lottery Ticket Hypothesis, Frankle & Carbin, 2019).

    >>> from torch import nn, tensor
    >>> from tombola import prunable
    >>> layer = nn.Linear(2, 1)
    >>> layer.weight.data = tensor([[-2.0, 1.0]])
    >>> magnitude(Scored.of(layer, prunable.full(layer)))
    {'weight': tensor([[2., 1.]])}
    """
    return {name: scored.weights[name].abs() for name in scored.mask}


def random(scored: Scored) -> "dict[str, Tensor]":
    """A uniform number per weight, drawn from `scored.seed`: pruning that knows nothing."""
    import torch

    generator = torch.Generator().manual_seed(scored.seed)
    return {
        name: torch.rand(alive.shape, generator=generator, dtype=torch.float64) for name, alive in scored.mask.items()
    }


MAGNITUDE = Score(
    "magnitude",
    magnitude,
    "The size |theta_i| of each trained weight",
    "The Lottery Ticket Hypothesis: Finding Sparse, Trainable Neural Networks (Frankle & Carbin)",
    2019,
)
RANDOM = Score(
    "random",
    random,
    "A random number: pruning that knows nothing",
    "The Lottery Ticket Hypothesis: Finding Sparse, Trainable Neural Networks (Frankle & Carbin)",
    2019,
)


def scores(score: Score, scored: Scored) -> "dict[str, Tensor]":
    """Return the numbers that `score` gives the weights of a mask: on the CPU, 0 where they are pruned.

    What it draws from Python, NumPy and torch is decided by `scored.seed`, and nobody's random state is disturbed.
    It is given copies of the weights and of the mask, and may work in place.

    Raises:
        BadInput: it gives no number for a weight, or one that cannot be compared.
    """
    import torch

    from tombola.mask import Mask
    from tombola.seeding import seeded

    copies = {name: value.clone() for name, value in scored.weights.items()}
    initial = scored.initial and {name: value.clone() for name, value in scored.initial.items()}
    own = replace(scored, weights=copies, mask=Mask(scored.mask), initial=initial)
    with seeded(scored.seed):  # it may draw from generators of the whole process, and so may the network, for dropout
        given = score.of(own)
    if not isinstance(given, Mapping):
        raise _no_mapping(given)
    ranked: dict[str, Tensor] = {}
    for name, alive in scored.mask.items():
        numbers = given.get(name)
        if not isinstance(numbers, torch.Tensor) or numbers.shape != alive.shape:
            raise _no_scores(name, numbers, name in given, tuple(alive.shape))
        numbers = numbers.detach().cpu()
        if score != MAGNITUDE and not bool(numbers[alive].isfinite().all()):  # whose is where the training diverged
            raise _not_finite(name)
        ranked[name] = numbers.masked_fill(~alive, 0)
    return ranked


def _no_mapping(given: object) -> BadInput:
    return BadInput(
        where="score",
        expected="a function that returns a mapping from names of weights to tensors of their shapes",
        found=f"one that returns {type(given).__name__}",
        todo="return {name: scored.weights[name].abs() for name in scored.mask} is that of score.magnitude.",
    )


def _no_scores(name: str, numbers: object, there: bool, shape: tuple[int, ...]) -> BadInput:
    import torch

    found = str(tuple(numbers.shape)) if isinstance(numbers, torch.Tensor) else type(numbers).__name__
    return BadInput(
        where=f"score of {name}",
        expected=f"a tensor of shape {shape}",
        found=found if there else "none",
        todo="A score is one number for each weight.",
    )


def _not_finite(name: str) -> BadInput:
    return BadInput(
        where=f"score of {name}",
        expected="a finite number for each living weight",
        found="NaN or infinity",
        todo="Let the score give numbers that can be compared.",
    )
