"""Do tickets win because their gradients are larger, or because they go back to a solution that was there before?

The gradient norm of a network with mask m and weights theta is

    ||g||_2, g = m ⊙ dL/dtheta on the weights that the mask names, and dL/dtheta on all other parameters,

of the mean loss L on a fixed set of training examples, weight decay left out. Its square is the gradient flow: how much
the loss falls per unit of learning rate in a small step along -g. Where it is small, training is slow.

The solution that a ticket was pruned from is m ⊙ theta_T, the trained weights whose magnitudes made the mask. A network
has gone back to it where it ends near, on one valley's floor (no error barrier on the line between), with the same
answers.

Gradient Flow in Sparse Neural Networks and How Lottery Tickets Win (Evci, Ioannou, Keskin & Dauphin, 2022).
"""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import log, sqrt
from statistics import mean
from typing import Literal

import torch
from torch import Tensor, nn

from tombola import weights as states
from tombola.objective import asked, loss_of_answers
from tombola.study import connectivity
from tombola.study.paired import Difference, Ratio, paired, ratio
from tombola.study.stability import distances
from tombola.study.written import points, times
from tombola.weights import Weights

Word = Literal["larger", "smaller", "not shown"]
POINTS = 11  # on the line to the pruned solution
CHUNK = 500


@dataclass(frozen=True)
class GradientNorm:
    """||g||_2 of all parameters, and of each weight that the mask names, by its name."""

    all: float
    layers: Mapping[str, float]


def gradient_norm(model: nn.Module, mask: Mapping[str, Tensor], inputs: Tensor, labels: Tensor) -> GradientNorm:
    """The norm of the gradient of the mean loss on these examples, in training mode, summed in float64.

    The model stays as it is, its running statistics too.

    Args:
        model: pruned weights at 0.
        mask: by the name of a weight, a bool tensor of its shape, True where it survives.
        inputs, labels: of the examples, where the model is.

    >>> model, alive = nn.Sequential(nn.Linear(2, 2, bias=False)), {"0.weight": torch.eye(2) > 0}
    >>> with torch.no_grad():
    ...     _ = model[0].weight.zero_()
    >>> found = gradient_norm(model, alive, torch.tensor([[2.0, 0.0]]), torch.tensor([0]))
    >>> found.all, dict(found.layers)
    (1.0, {'0.weight': 1.0})
    """
    own = copy.deepcopy(model).train()
    # A batch norm's statistics are those of all the examples, so they are seen at once.
    loss_of_answers(own(inputs), labels).backward()
    squares: dict[str, float] = {}
    for name, parameter in own.named_parameters():
        if parameter.grad is not None:
            kept = parameter.grad[mask[name].to(parameter.device)] if name in mask else parameter.grad
            squares[name] = float(kept.double().square().sum())
    return GradientNorm(sqrt(sum(squares.values())), {name: sqrt(squares[name]) for name in mask if name in squares})


@dataclass(frozen=True)
class Nearness:
    """How near a network has come to a solution.

    Attributes:
        l2: between the two weights, pruned ones 0.
        degrees: the angle between them.
        disagreement: the share of the examples that get another answer.
        barrier: how far the error on training examples rises on the line between them, above the mean of the ends.
    """

    l2: float
    degrees: float
    disagreement: float
    barrier: float


def nearness(
    model: nn.Module, solution: Weights, names: Sequence[str], test: Tensor, train: tuple[Tensor, Tensor]
) -> Nearness:
    """How near `model` is to `solution`: in weights, in answers, along the line between.

    Running statistics are computed anew from the training inputs at every point of the line, the ends too.

    Args:
        model: in evaluation mode; stays as it is.
        solution: weights of the same architecture, pruned ones 0.
        names: of the weights that distances are taken over.
        test: inputs of which the answers are compared.
        train: inputs and labels on which the errors of the line are counted: classes, or several times yes or no.
    """
    own = copy.deepcopy(model).eval()
    ours = states.own(model)
    theirs = {name: solution[name].to(value.device) for name, value in ours.items()}
    every = {name: torch.ones_like(ours[name], dtype=torch.bool) for name in names}
    apart = distances(ours, theirs, every)
    with torch.no_grad():
        several = asked(own(train[0][:1]), train[1][:1]) == "tasks"
    answers = _answers(own, test, several)
    states.put(own, theirs)
    disagreement = float((answers != _answers(own, test, several)).double().mean())
    errors = []
    for alpha in connectivity.alphas(POINTS):
        states.put(own, states.interpolate(ours, theirs, alpha))
        if any("running_mean" in name for name in ours):
            connectivity.recompute_statistics(own, train[0].split(CHUNK))
        errors.append(float((_answers(own, train[0], several) != train[1]).double().mean()))
    return Nearness(apart.l2, apart.degrees, disagreement, connectivity.barrier(errors))


def _answers(model: nn.Module, inputs: Tensor, several: bool) -> Tensor:
    with torch.no_grad():
        outputs = map(model, inputs.split(CHUNK))
        return torch.cat([part > 0 if several else part.argmax(dim=-1) for part in outputs])


# ---------------------------------------------------------------- what the numbers of several replicates come to


@dataclass(frozen=True)
class Flow:
    """The gradient norms of tickets against those of another arm.

    Attributes:
        arm: whose.
        start: ||g|| of the ticket over that of the arm, before the first step, paired by replicate.
        early: the same of the mean over the first tenth of the training.
        word: whether the ticket's are larger, by the whole intervals of both.
    """

    arm: str
    start: Ratio
    early: Ratio
    word: Word


def flows(
    start: Mapping[str, Mapping[int, float]], early: Mapping[str, Mapping[int, float]], confidence: float
) -> tuple[Flow, ...]:
    """The ticket against all other arms; the intervals hold all together, each being that of 1 - alpha / arms.

    Args:
        start, early: gradient norms by arm, and by replicate.
        confidence: in (0.5, 1).
    """
    others = [arm for arm in start if arm != "ticket" and start[arm].keys() & start.get("ticket", {}).keys()]
    each = 1 - (1 - confidence) / max(len(others), 1)
    return tuple(
        Flow(arm, at_start, at_first, _word(at_start, at_first))
        for arm in others
        for at_start, at_first in [(_ratio(start, arm, each), _ratio(early, arm, each))]
    )


def _ratio(norms: Mapping[str, Mapping[int, float]], arm: str, confidence: float) -> Ratio:
    ours, theirs = norms["ticket"], norms[arm]
    both = [number for number in ours if number in theirs and ours[number] > 0 and theirs[number] > 0]
    return ratio([log(ours[number] / theirs[number]) for number in both] or [0.0], confidence)


def _word(start: Ratio, early: Ratio) -> Word:
    if start.low > 1 and early.low > 1:
        return "larger"
    return "smaller" if start.high < 1 and early.high < 1 else "not shown"


_WORDS: dict[Word, str] = {
    "larger": "larger than those of",
    "smaller": "smaller than those of",
    "not shown": "not shown to be larger or smaller than those of",
}


def flow_sentence(density: float, found: Sequence[Flow], solution: float | None = None) -> str:
    """What the gradient norms say for and against favourable gradients.

    Args:
        density: P_m, in (0, 1].
        found: as `flows` gives them, one at least.
        solution: the norm at the pruned solution, if it is known.

    >>> even = {"ticket": {0: 1.0, 1: 1.1}, "reinit": {0: 2.0, 1: 2.2}}
    >>> flow_sentence(0.05, flows(even, even, 0.95))
    "Favourable gradients at 5.0%: against. The ticket's gradients are smaller than those of reinit (0.50 [0.50,
    0.50] times before the first step, 0.50 [0.50, 0.50] times in the first tenth); n = 2."
    """
    reinit = next((each for each in found if each.arm == "reinit"), None)
    n = min(each.start.n for each in found)
    if n < 2:
        verdict = "one replicate decides nothing"
    elif reinit is None:
        verdict = "open, as nothing is known of the same mask on new weights (reinit)"
    else:
        verdict = {"larger": "for", "smaller": "against", "not shown": "not shown"}[reinit.word]
    parts = [
        f"{_WORDS[each.word] if n > 1 else 'beside those of'} {each.arm} ({times(each.start)} before the first step, "
        f"{times(each.early)} in the first tenth)"
        for each in found
    ]
    norms = f"The ticket's gradients are {'; '.join(parts)}; {_at(solution)}n = {n}."
    return f"Favourable gradients at {density:.1%}: {verdict}. {norms}"


def _at(solution: float | None) -> str:
    return "" if solution is None else f"at the pruned solution the norm is {solution:.2g}; "


@dataclass(frozen=True)
class Return:
    """How near an arm ends to the solution that the ticket was pruned from.

    Attributes:
        arm: whose.
        l2, disagreement, barrier: means over the replicates, with their intervals.
        nearer: how much nearer the ticket ends, as a ratio of distances, paired by replicate; None for the ticket.
        less: how much less the ticket disagrees; None for the ticket.
        lower: how much lower the ticket's barrier is; None for the ticket.
    """

    arm: str
    l2: Difference
    disagreement: Difference
    barrier: Difference
    nearer: Ratio | None
    less: Difference | None
    lower: Difference | None


def returns(found: Mapping[str, Mapping[int, Nearness]], confidence: float) -> tuple[Return, ...]:
    """How near all arms end, the ticket first; intervals of comparisons hold all together.

    Args:
        found: by arm, and by replicate.
        confidence: in (0.5, 1).
    """
    ticket = found.get("ticket", {})
    each = 1 - (1 - confidence) / max(len(found) - 1, 1)
    made = []
    for arm, own in found.items():
        both = [(ticket[number], own[number]) for number in own if number in ticket] if arm != "ticket" else []
        logs = [log(ours.l2 / theirs.l2) for ours, theirs in both if ours.l2 and theirs.l2]
        made.append(
            Return(
                arm,
                paired([one.l2 for one in own.values()], confidence),
                paired([one.disagreement for one in own.values()], confidence),
                paired([one.barrier for one in own.values()], confidence),
                ratio(logs, each) if logs else None,
                paired([ours.disagreement - theirs.disagreement for ours, theirs in both], each) if both else None,
                paired([ours.barrier - theirs.barrier for ours, theirs in both], each) if both else None,
            )
        )
    return tuple(made)


def return_sentence(density: float, found: Sequence[Return]) -> str:
    """Whether the ticket goes back to the solution that it was pruned from, and the others do not.

    >>> near, far = Nearness(1.0, 10.0, 0.01, 0.0), Nearness(4.0, 60.0, 0.05, 0.5)
    >>> return_sentence(0.05, returns({"ticket": {0: near, 1: near}, "reinit": {0: far, 1: far}}, 0.95))
    'Back to the pruned solution at 5.0%: shown against reinit. ticket ends 1.0 from it, barrier 0.0%, other answers on
    1.00%; reinit ends 4.0 from it, barrier 50.0%, other answers on 5.00% (0.25 [0.25, 0.25] times as far, barrier -50.0
    [-50.0, -50.0] points); n = 2.'
    """
    n = min(each.l2.n for each in found)
    others = [each for each in found if each.nearer is not None]
    shown = [each.arm for each in others if each.nearer and each.lower and each.nearer.high < 1 and each.lower.high < 0]
    if n < 2:
        verdict = "one replicate decides nothing"
    elif not others:
        verdict = "open, as there is no arm beside it"
    else:
        verdict = f"shown against {', '.join(shown)}" if shown else "not shown"
        verdict += f", not against {_rest(others, shown)}" if shown and len(shown) < len(others) else ""
    parts = [
        f"{each.arm} ends {each.l2.mean:.1f} from it, barrier {each.barrier.mean:.1%}, other answers on "
        f"{each.disagreement.mean:.2%}{_compared(each)}"
        for each in found
    ]
    return f"Back to the pruned solution at {density:.1%}: {verdict}. {'; '.join(parts)}; n = {n}."


def _rest(others: Sequence[Return], shown: Sequence[str]) -> str:
    return ", ".join(each.arm for each in others if each.arm not in shown)


def _compared(each: Return) -> str:
    if each.nearer is None or each.lower is None or each.nearer.n < 2:
        return ""
    return f" ({times(each.nearer)} as far, barrier {points(each.lower, 1)} points)"


def early(steps: Sequence[int], norms: Sequence[float]) -> float:
    """The mean gradient norm over the first tenth of a training, looks at its steps weighing alike.

    >>> early([0, 10, 20, 200], [1.0, 2.0, 3.0, 9.0])
    2.0
    """
    last = steps[0] + (steps[-1] - steps[0]) / 10
    return mean(norm for step, norm in zip(steps, norms, strict=True) if step <= last)
