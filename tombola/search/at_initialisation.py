"""Pruning a model of one's own before it is trained, or as it is: a mask, and nothing else."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from tombola import mask, weights
from tombola.at_once import Amount, AtOnce
from tombola.errors import BadInput
from tombola.mask import Mask
from tombola.prunable import prunable
from tombola.prune import count
from tombola.pruning import SCOPES, Round
from tombola.score import Scored, cross_entropy, scores
from tombola.search import arguments, counted
from tombola.search.arguments import AnyScore
from tombola.search.scoring import Examples, Loss, apart


def prune_at_init(
    model: nn.Module,
    score: AnyScore,
    density: float,
    batches: Iterable[Any] | None = None,
    *,
    loss: Loss = cross_entropy,
    scope: str = "global",
    keep: str | Sequence[str] = (),
    prune: str | Sequence[str] = (),
    iterations: int = 1,
    returning: bool = False,
    seed: int = 0,
) -> Mask:
    """The mask that is left when the weights that score lowest go at once, until `density` is reached to the last
    weight.

    The model is scored as it is, at initialisation where it is new, and stays as it is; nothing is trained.
    `Search(model, optimizer, levels=0, mask=...)` trains under the mask.

    Args:
        model: any module; what torch.compile or DistributedDataParallel wrap around it is looked through.
        score: one number per weight, the lowest go: a name in `scores.SCORES`, a `score.Score`, or a function of what
            it sees, as for `Search`.
        density: the fraction of the prunable weights that is left, in (0, 1].
        batches: of the training set, (inputs, labels) each, for a score that sees them; it sees all. One batch is what
            SNIP's paper takes: `batches=[next(iter(loader))]`.
        loss: for such a score, what the training will make small: `(model, batch) -> tensor`.
        scope: `global`: all layers are ranked together; `layer`: each is left with that density; `er`, `erk`: each with
            its share by Erdős-Rényi, or Erdős-Rényi-Kernel.
        keep, prune: as for `Search`.
        iterations: in how many steps, each of which scores what the one before has left; 100 is SynFlow's own.
        returning: whether weights may come back in a later step, as in FORCE: each chooses among all.
        seed: what a score is given to draw from.

    Raises:
        BadInput: something of this does not fit; or the score gives no number for a weight.

    Source: SNIP: Single-shot Network Pruning based on Connection Sensitivity (Lee, Ajanthan & Torr, 2019); Pruning
    Neural Networks without Any Data by Iteratively Conserving Synaptic Flow (Tanaka et al., 2020).

    >>> import torch
    >>> model = nn.Sequential(nn.Linear(4, 10), nn.ReLU(), nn.Linear(10, 2))
    >>> batch = torch.rand(8, 4), torch.randint(2, (8,))
    >>> prune_at_init(model, "snip", 0.25, [batch])
    Mask(60 weights, density 0.25)
    """
    original = weights.bare(model)
    examples = Examples(arguments.lasting(batches), loss)
    amount = Round(scope=scope, keep=arguments.patterns(keep, "keep"), include=arguments.patterns(prune, "prune"))
    chosen = arguments.score_of(score, batches)
    _check(scope, density, iterations)
    everything = counted.of_model(original, amount)
    if everything.total and count(1 - density, everything.total) == everything.total:
        raise _nothing_left(density, everything.total)
    dense, copy = weights.of(original), apart(original)

    def ranked(alive: Mask, among: Mask) -> Mapping[str, Tensor]:
        weights.put(copy, mask.apply(dense, alive))
        seen = Scored(copy, dense, among, examples.on(copy), seed, loss, initial=dense)
        return scores(chosen, seen)

    at_once = AtOnce(amount, Amount(amount, density), iterations, returning)
    return at_once.mask(everything, ranked, prunable(original, amount.include), weights.ties(original))


def _nothing_left(density: float, total: int) -> BadInput:
    expected = f"a density at which a weight is left of {total:,}"
    return BadInput(where="density", expected=expected, found=f"{density:g}", todo=f"{1 / total:.2g} leaves one.")


def _check(scope: str, density: object, iterations: object) -> None:
    if SCOPES[scope].shares is None:
        raise BadInput(
            where="scope",
            expected=f"one of {', '.join(name for name, known in SCOPES.items() if known.shares)}",
            found=repr(scope),
            todo="Search prunes in it.",
        )
    if isinstance(density, bool) or not isinstance(density, int | float) or not 0 < density <= 1:
        todo = "0.05 leaves a twentieth of the weights."
        raise BadInput(where="density", expected="a fraction in (0, 1]", found=repr(density), todo=todo)
    if type(iterations) is not int or iterations < 1:
        raise BadInput(
            where="iterations", expected="a whole number, 1 or more", found=repr(iterations), todo="100, say."
        )
