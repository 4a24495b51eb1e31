"""Methods that transform weights towards a mask that was drawn first: Random Sparse Network Transformation (RST).

Dual Lottery Ticket Hypothesis (Bai, Wang, Tao, Li & Fu, 2022): the mask is random, uniform in each layer, and the dense
network is trained while a rising penalty draws it out of the weights that are to go; then the cut, then the training.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, ClassVar, Literal

from pydantic import Field

from tombola.at_once import Scoring
from tombola.errors import Fault
from tombola.extrusion import Extrusion, Penalty
from tombola.mark import Mark
from tombola.method import Found, Method, SearchOptions
from tombola.recipe import SGD, Constant, Recipe
from tombola.replicate import MethodReplicate, T
from tombola.steps import Step
from tombola.value import Count

DRAWN_OUT = 1e-2  # of the kept weights' norm: what is larger before the cut was not drawn out


class ExtrusionOptions(SearchOptions, Penalty):
    """What the transformation of weights lets one choose: how lambda rises, and how the network is trained meanwhile.

    Attributes:
        optimizer: of the extrusion, whose learning rate stays.
        extrusion_batch: examples per step of it.
    """

    by_rounds: ClassVar[bool] = False
    # It is trained as its own choices say, and a mask of it without its weights is a random mask.
    ignored: ClassVar[frozenset[str]] = frozenset({"rate", "score", "scope", "length", "lr", "batch"})

    optimizer: SGD = SGD(name="sgd", lr=1e-3, momentum=0.9, weight_decay=5e-4)
    extrusion_batch: Count = Field(default=64, gt=0)

    def faults(self, spec: Any) -> Iterable[Fault]:
        """Recipes that are more than cross-entropy under a mask that stays; batches that are larger than the data."""
        for what in ("objective", "dynamics"):
            if chosen := getattr(spec.recipe, what):
                todo = "leave it out: weights are transformed by cross-entropy and a penalty, under masks that stay"
                yield Fault(f"recipe.{what}", "none beside dual and dual-iterative", repr(chosen.name), todo)
        if self.extrusion_batch > spec.facts.train:
            expected = f"at most the {spec.facts.train:,} training examples of {spec.facts.name}"
            yield Fault("extrusion_batch", expected, str(self.extrusion_batch))
        if self.apart:
            todo = "leave them out: early weights under its mask are what method = 'random-uniform' trains"
            yield Fault("retrain", "no data, precision or retrain of the search's own", "some", todo)

    def recipe(self, recipe: Recipe) -> Recipe:
        """The recipe of the extrusion of a network that `recipe` trains."""
        objective = Extrusion(**{name: getattr(self, name) for name in Penalty.model_fields})
        changes = {"objective": objective, "optimizer": self.optimizer, "batch": self.extrusion_batch}
        plain = {"length": Step(f"{self.steps}it"), "schedule": Constant(), "warmup": Step("0it")}
        return recipe.model_copy(update={**changes, **plain})


class DualOptions(ExtrusionOptions):
    """What the one-shot transformation lets one choose.

    Attributes:
        pick: what is sacrificed: weights drawn at random, as the paper has it; or the smallest of theta_k in each
            layer, as the authors' code does where it is not told otherwise.
    """

    pick: Literal["random", "smallest"] = "random"


class DualIterativeOptions(ExtrusionOptions):
    """What the transformation in cycles lets one choose.

    Attributes:
        cycles: n. After cycle k there are d^(k / n) of the weights left for a density d.
    """

    every: Count = Field(default=1, gt=0)
    hold: Count = Field(default=10_000, ge=0)
    cycles: Count = Field(default=5, gt=0)


def dual(replicate: MethodReplicate[T], levels: int) -> Iterator[T]:
    """Draw a mask, train the dense network while it is drawn out of the rest, cut, and train what is left.

    Each level begins at theta_k again, with a mask of its own.
    """
    options: DualOptions = replicate.options
    scoring = Scoring("random" if options.pick == "random" else "magnitude", scope="layer")
    start, recipe = replicate.rewind_point(), options.recipe(replicate.recipe)
    yield replicate.train(start)
    for level in range(1, levels + 1):
        mask = replicate.prune_at_once(start, level, scoring)
        extruded = replicate.extruded(start, mask, recipe)
        yield replicate.train(replicate.cut(extruded, mask), mask=mask)


def dual_iterative(replicate: MethodReplicate[T], levels: int) -> Iterator[T]:
    """The same in n cycles, each of which sacrifices more; nothing is cut between them, and lambda begins at 0 again.

    A cycle sacrifices as many weights as the one before did, those that are smallest by then, and others at random.
    """
    options: DualIterativeOptions = replicate.options
    start, recipe = replicate.rewind_point(), options.recipe(replicate.recipe)
    yield replicate.train(start)
    for level in range(1, levels + 1):
        extruded, mask = start, None
        for cycle in range(1, options.cycles + 1):
            mask = replicate.resampled(extruded, level, cycle, options.cycles)
            extruded = replicate.extruded(extruded, mask, recipe)
        yield replicate.train(replicate.cut(extruded, mask), mask=mask)


def drawn_out(found: Sequence[Found]) -> list[str]:
    """How small sacrificed weights were before the cut, and what it changed, level by level."""
    levels: dict[int, list[Found]] = {}
    for each in found:
        levels.setdefault(each.level, []).append(each)
    said = [f"at {each[0].density:.1%} {max(map(_ratio, each)):.2g}" for each in levels.values()]
    moved = max((_moved(each) for each in found), key=abs)
    sentences = [
        f"the sacrificed weights' norm before the cut, as a part of the kept ones', was at most: {', '.join(said)}.",
        f"the cut moved the validation accuracy by {moved:+.2%} at most.",
    ]
    if missed := [f"{each[0].density:.1%}" for each in levels.values() if max(map(_ratio, each)) >= DRAWN_OUT]:
        why = f"at {', '.join(missed)} weights of {DRAWN_OUT:.0%} or more were cut away"
        sentences.append(f"{why}: they were not drawn out (a longer hold, or a higher ceiling, draws more).")
    return sentences


def _ratio(found: Found) -> float:
    kept: float = found.values["kept_norm"]
    return found.values["sacrificed_norm"] / kept if kept else float("inf")


def _moved(found: Found) -> float:
    moved: float = found.values["validation_accuracy_after"] - found.values["validation_accuracy_before"]
    return moved


_PAPER = "[Dual Lottery Ticket Hypothesis](https://arxiv.org/abs/2203.04248)"

METHODS: dict[str, Method] = {
    "dual": Method(
        name="dual",
        search=dual,
        about="Draw a random mask, train the dense network out of the other weights by a rising penalty, cut, train on",
        paper=_PAPER,
        year=2022,
        rewinds=False,
        options=DualOptions,
        says=drawn_out,
        mark=Mark("#882255", (7, 2), "wedge"),
    ),
    "dual-iterative": Method(
        name="dual-iterative",
        search=dual_iterative,
        about="The same in five cycles, each with a larger sacrifice, the smallest weights of the last one among it",
        paper=_PAPER,
        year=2022,
        rewinds=False,
        options=DualIterativeOptions,
        says=drawn_out,
        mark=Mark("#cc6677", (7, 2, 2, 2), "wedge"),
    ),
}
