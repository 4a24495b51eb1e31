"""One training of scores, beside which weights stay as they were drawn.

The recipe's optimizer trains a score for each weight, and the mask is what the scores say: in each layer, or in all
together, the weights of the highest rank, as many as the level leaves. The training's input `target` is a mask with
those counts. `tombola.supermask` has the rules. Biases and the parameters of normalisations stay as they are too; only
running statistics move.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from tombola.dynamics.base import Course, Setting
from tombola.errors import BadInput

if TYPE_CHECKING:
    from torch import Generator, Tensor
    from torch.optim import Optimizer

    from tombola.mask import Mask
    from tombola.supermask import Groups, Scored

Frozen = Literal["initial", "signed-constant", "signed-deviation"]
TARGET = "target"  # the input that says how many weights stay
LOOK = 1  # the number of the noise with which a network is looked at; steps have the numbers that follow


@dataclass(frozen=True)
class Rule:
    """How scores become a mask.

    Attributes:
        draw: (shape, generator) -> the scores to begin with.
        soft: what the mask is taken for backwards.
        rank: by what weights are kept.
        hard: (scores, kept) -> the mask, in {-1, 0, 1}, at a step of the optimizer.
        settled: (scores, kept) -> the mask where the network is looked at, and at the end.
        factor: of the mask, what living weights are multiplied by.
        noisy: whether chance has a part: logistic noise is added to scores, for each step anew, for all looks once.
        counted: whether steps have a mask of the level's count too.
        between: the least and the largest score; None for any.
        chance: of the scores, how probable each weight is in the mask that was learned; None where that is the mask.
    """

    draw: "Callable[[tuple[int, ...], Generator], Tensor]"
    soft: "Callable[[Tensor], Tensor]"
    rank: "Callable[[Tensor], Tensor]"
    hard: "Callable[[Tensor, Tensor], Tensor]"
    settled: "Callable[[Tensor, Tensor], Tensor]"
    factor: "Callable[[Tensor], Tensor | float]"
    noisy: bool = False
    counted: bool = True
    between: tuple[float, float] | None = None
    chance: "Callable[[Tensor], Tensor] | None" = None


class ScoreCourse(Course):
    """One training of scores.

    Args:
        setting: what it begins with; `inputs["target"]` is a mask with as many weights as shall stay.
        rule: how scores become a mask.
        weights: what the frozen ones are.
        scope: whether a layer's scores are ranked among themselves, or all together.
        freezings: of the groups and the timeline, the steps after which only so many scores stay open; None for never.
    """

    def __init__(
        self,
        setting: Setting,
        rule: Rule,
        weights: Frozen,
        scope: str,
        freezings: "Callable[[Groups, Groups], dict[int, Groups]] | None" = None,
    ) -> None:
        import torch

        from tombola import prunable, supermask

        super().__init__(setting)
        self._rule, self._groups = rule, _groups(setting, scope)
        self._freezings = freezings(_sizes(setting, self._groups), self._groups) if freezings else {}
        model, generator = setting.model, torch.Generator().manual_seed(setting.seed)
        names = [name for group in self._groups for name in group]
        parameters = dict(model.named_parameters())
        with torch.no_grad():
            for name in prunable.prunable(model) if weights != "initial" else ():
                parameters[name].copy_(_frozen(weights)(parameters[name]))
        drawn = {name: rule.draw(tuple(parameters[name].shape), generator) for name in names}
        self._scored: dict[str, Scored] = {
            name: supermask.Scored(
                torch.empty_like(parameters[name]).copy_(drawn[name]),
                rule.soft,
                rule.factor,
                partial(self._settled, name),
            )
            for name in names
        }
        self._open = {name: setting.mask[name].to(parameters[name].device) for name in names}
        self._step = setting.timeline.begin
        self._looked: dict[str, Tensor] = {}
        self._took = 0  # multiply-adds of the last step
        supermask.parametrise(model, self._scored)
        self._move()

    @property
    def mask(self) -> "Mask":
        """What is alive where the network is looked at."""
        from tombola.mask import Mask

        return Mask(self._looks())

    def advance(self, optimizer: "Optimizer", step: int) -> None:
        """Take the step, keep scores within their bounds, freeze what is due, and let the scores make the next mask."""
        import torch

        optimizer.step()
        self._took, self._step = self._takes(), step + 1
        if self._rule.between:
            with torch.no_grad():
                for each in self._scored.values():
                    each.scores.clamp_(*self._rule.between)
        if self._step in self._freezings:
            self._open = self._highest(self._noisy(LOOK), self._freezings[self._step])
        self._move()

    def _noisy(self, draw: int) -> "dict[str, Tensor]":
        """The scores, with noise of this number where chance has a part."""
        import torch

        scores = {name: each.scores.detach() for name, each in self._scored.items()}
        if not self._rule.noisy:
            return scores
        # A function of seed and number, drawn on the CPU wherever the network is: a training that is resumed draws
        # what it would have drawn.
        generator = torch.Generator().manual_seed((self.setting.seed + draw) % 2**63)

        def noise(like: "Tensor") -> "Tensor":
            return torch.rand(like.shape, generator=generator).logit().to(like.device)

        return {name: each + noise(each) for name, each in scores.items()}

    def _highest(self, scores: "Mapping[str, Tensor]", groups: "Groups") -> "dict[str, Tensor]":
        """Of the open scores so many of the highest rank."""
        from tombola import supermask

        ranks = {name: self._rule.rank(each) for name, each in scores.items()}
        ranked = {name: each.masked_fill(~self._open[name], -float("inf")) for name, each in ranks.items()}
        return supermask.highest_of(ranked, groups)

    def _move(self) -> None:
        """Let the scores make the mask of the step to come; the one to look at is made when somebody looks."""
        self._looked = {}
        if self._rule.noisy:
            scores = self._noisy(LOOK + 1 + self._step)
            kept = self._highest(scores, self._groups) if self._rule.counted else scores
        else:
            scores, kept = self._noisy(LOOK), self._looks()
        for name, each in self._scored.items():
            open_ = self._open[name]
            each.hard = (self._rule.hard(scores[name], kept[name]) * open_).to(scores[name].dtype)
            each.open = None if bool(open_.all()) else open_.to(scores[name].dtype)

    def _looks(self) -> "dict[str, Tensor]":
        """Which weights are kept where the network is looked at."""
        self._looked = self._looked or self._highest(self._noisy(LOOK), self._groups)
        return self._looked

    def _settled(self, name: str) -> "Tensor":
        """The mask of these weights where the network is looked at, in {-1, 0, 1}."""
        scores = self._scored[name].scores.detach()
        return self._rule.settled(scores, self._looks()[name]).to(scores.dtype)

    @property
    def numbers(self) -> dict[str, Any]:
        """The density that was learned: the mean probability of all weights, where the mask is not all there is."""
        if self._rule.chance is None:
            return {}
        chances = [self._rule.chance(each.scores.detach()) * self._open[name] for name, each in self._scored.items()]
        return {"learned_density": float(sum(each.double().sum() for each in chances)) / self.setting.mask.total}

    def multiply_adds(self, step: int) -> int:
        """2 f for the mask of the step, forward and back to the inputs, and f for the gradients of all open scores."""
        return self._took

    def _takes(self) -> int:
        hard = {name: int((each.hard != 0).sum()) for name, each in self._scored.items()}
        trained = {name: int(self._open[name].sum()) if name in self._open else 0 for name in self.setting.layers}
        return 2 * self.setting.forward(hard) + self.setting.forward(trained)

    def weights(self) -> "dict[str, Tensor]":
        """The weights as the network computes with them where it is looked at, under the names of a plain one."""
        from tombola import weights

        plain = weights.of(self.setting.model)
        for name, each in self._scored.items():
            path, _, own = name.rpartition(".")
            inside = f"{path}.parametrizations.{own}".removeprefix(".")
            frozen = plain.pop(f"{inside}.original")
            del plain[f"{inside}.0.scores"]
            plain[name] = each.settled_weight(frozen.to(each.scores.device)).detach().cpu()
        return plain

    def state(self) -> "dict[str, Tensor]":
        """Which scores are open, and the step; the scores themselves are in the model's state_dict."""
        import torch

        opened = {f"open/{name}": each.detach().cpu().clone() for name, each in self._open.items()}
        return opened | {"step": torch.tensor(self._step)}

    def load(self, state: "Mapping[str, Tensor]") -> None:
        """Stand where `state` was taken, once the model has its scores."""
        self._step = int(state["step"])
        self._open = {name: state[f"open/{name}"].to(each.device) for name, each in self._open.items()}
        self._move()


def _groups(setting: Setting, scope: str) -> "Groups":
    """How many weights stay in each group of layers that are ranked together.

    Raises:
        BadInput: nobody says it.
    """
    counts = setting.inputs.get(TARGET)
    if counts is None:
        raise BadInput(
            where="dynamics that train scores",
            expected=f"an input {TARGET!r}, a mask with as many weights as shall stay",
            found=f"inputs named {', '.join(setting.inputs) or 'nothing'}",
            todo=f"replace(training, further=(({TARGET!r}, replicate.prune_at_once(start, level, scoring)),)).",
        )
    # In the order of the model, whatever that of the mask: among equal scores its earlier layers go first.
    names = [name for name, _ in setting.model.named_parameters() if name in setting.mask]
    stay = {name: int(counts[name].sum()) for name in names}
    return {tuple(stay): sum(stay.values())} if scope == "global" else {(name,): count for name, count in stay.items()}


def _sizes(setting: Setting, groups: "Groups") -> "Groups":
    return {names: sum(int(setting.mask[name].sum()) for name in names) for names in groups}


def _frozen(name: str) -> "Callable[[Tensor], Tensor]":
    from tombola import supermask

    return {"signed-constant": supermask.signed_constant, "signed-deviation": supermask.signed_deviation}[name]
