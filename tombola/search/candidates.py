"""The networks that a verification trains: a ticket, and what controls make of it, drawn from named seeds."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import nn

from tombola import coupling, mask, weights
from tombola.coupling import Coupling
from tombola.errors import BadInput
from tombola.mask import Mask
from tombola.mask_checks import rearranged
from tombola.objective import Objective
from tombola.search.level_run import Rewinding
from tombola.search.state import Loop
from tombola.seeding import seeded
from tombola.stacks import join, split
from tombola.weights import Weights


@dataclass(frozen=True)
class Candidate:
    """A network that is to be trained, as `tombola.replicate.PlannedTraining` has it.

    Attributes:
        start: initial weights drawn anew; others that take the place of those of step k; None for the search's own.
        mask: what is alive.
    """

    start: "Weights | AtRewindPoint | None"
    mask: Mask


@dataclass(frozen=True, eq=False)
class AtRewindPoint:
    """Weights that take the place of those of step k, where k > 0."""

    weights: Weights


@dataclass(frozen=True)
class SearchReplicate:
    """One repetition, as controls see it: `tombola.replicate.Draws`, of which a mask is a mask and weights are weights.

    Attributes:
        level: of the ticket.
        stacks: weights of which each leading index is a layer of its own.
        trained: the ticket's mask, and what the search trained under it; None where that level is not finished.
        base: the seed of the verification.
        number: from 0.
        control: the one that asks.
        coupling: the channels that live and die together, where channels were pruned.
    """

    loop: Loop
    rewinding: Rewinding
    level: int
    stacks: frozenset[str]
    trained: tuple[Mask, Weights] | None
    base: int
    number: int
    drawn: "Drawn"
    control: str = ""
    coupling: Coupling | None = None

    def of(self, ticket: object) -> "SearchReplicate":
        """The same: here a mask is a mask."""
        return self

    def seed(self, name: str) -> int:
        """The seed that governs `name` in this replicate, of all its arms; 0 <= seed < 2^63."""
        # There is one draw, and one level: our own controls' names, and so their seeds, are older than both.
        older = {"reinit 0": "reinit", "random mask 0": "random mask", f"shuffled mask {self.level}": "shuffled mask"}
        digest = hashlib.sha256(f"{older.get(name, name)}/{self.base}/{self.number}".encode()).digest()
        return int.from_bytes(digest[:8], "big") >> 1

    def rewind_point(self, init: str = "init") -> Weights | None:
        """The search's own weights, or initial weights newly drawn, which the loop trains for k steps first.

        Raises:
            BadInput: there is no `build` to draw with, or the loop does not begin at step 0.
        """
        if init == "init":
            return None
        if self.rewinding.k and not self.rewinding.replay:
            raise BadInput(
                where="verify",
                expected=f"a loop that starts at step 0, where newly drawn weights are, for the control {self.control}",
                found=f"one that starts at step {self.rewinding.k}",
                todo="Search with replay=True, or pass controls=['random'].",
            )
        build, seed = self.drawn.builder(self.control), self.seed(init)
        if seed not in self.drawn.by_seed:  # several controls may be made of one draw
            self.loop.seed(seed)
            self.drawn.by_seed[seed] = self.drawn.another(build, weights.of(self.loop.model), self.control)
        return self.drawn.by_seed[seed]

    def random_mask(self, like: Mask, name: str) -> Mask:
        """A random mask with the layer-wise counts of `like`."""
        if self.coupling:
            return coupling.random_like(like, self.coupling, self.seed(name))
        return self.derived(mask.random_like, like, name)

    def shuffled_mask(self, like: Mask, name: str) -> Mask:
        """The mask `like` with its entries permuted inside each layer."""
        if self.coupling:
            return coupling.shuffle(like, self.coupling, self.seed(name))
        return self.derived(mask.shuffle, like, name)

    def inverted_mask(self, like: Mask) -> Mask:
        """Nothing: a search keeps the masks of its levels, and not the scores.

        Raises:
            BadInput: always.
        """
        raise _of_a_spec(self.control, "the scores of its pruning, which a search does not keep")

    def frozen(self, ticket: "Candidate") -> "Candidate":
        """Nothing: what holds pruned weights, in a loop that is not ours, holds them at 0.

        Raises:
            BadInput: always.
        """
        raise _of_a_spec(self.control, "pruned weights that are not 0, while your loop holds them there")

    def descending(self, ticket: "Candidate", objective: Objective) -> "Candidate":
        """Nothing: what is made small is the loop's.

        Raises:
            BadInput: always.
        """
        todo = "Let your loop descend distillation.loss(...) in a second search, and compare the two tickets."
        raise _of_a_spec(self.control, f"the objective {objective.name}, while the loss is your loop's", todo)

    def as_long(self, ticket: "Candidate") -> "Candidate":
        """Nothing: a search extrudes no weights.

        Raises:
            BadInput: always.
        """
        raise _of_a_spec(self.control, "an extrusion, which no search makes")

    def unpenalised(self, ticket: "Candidate", mask: Mask) -> Weights:
        """Nothing: a search extrudes no weights.

        Raises:
            BadInput: always.
        """
        raise _of_a_spec(self.control, "an extrusion, which no search makes")

    def largest(self, ticket: "Candidate") -> Mask:
        """Nothing: a search extrudes no weights.

        Raises:
            BadInput: always.
        """
        raise _of_a_spec(self.control, "an extrusion, which no search makes")

    def pruned_by(self, like: Mask) -> list[Weights]:
        """Nothing: a search keeps the trained weights of one level.

        Raises:
            BadInput: always.
        """
        raise _of_a_spec(self.control, "the trained weights of all levels, which a search does not keep")

    def searched_on(self, variant: str, ticket: "Candidate", level: int) -> Mask:
        """Nothing: the data are the loop's.

        Raises:
            BadInput: always.
        """
        todo = "Search once more with a loader of such data, and compare the two tickets."
        raise _of_a_spec(self.control, "a search on other data, which are your loop's", todo)

    def own_ticket(self, ticket: "Candidate", level: int) -> "tuple[Weights, Mask]":
        """Nothing: a search has the tickets of one network.

        Raises:
            BadInput: always.
        """
        raise _of_a_spec(self.control, "tickets that were stretched from another network")

    def derived(self, function: Callable[[Mask, int], Mask], like: Mask, name: str) -> Mask:
        """What `function` makes of `like` and the seed of `name`, at which all that it draws begins.

        Raises:
            BadInput: it is no mask of the layers of `like`, with as many living weights.
        """
        Mask.check(like)
        seed, parts = self.seed(name), Mask(split(like, self.stacks))
        with seeded(seed):
            made = function(Mask(parts), seed)  # a copy, as it may work in place
        joined = join(rearranged(made, parts, f"derived(..., {name!r})"), like, self.stacks)
        if self.coupling and not coupling.made_of_channels(joined, self.coupling):
            raise _of_a_spec(self.control, "single weights, while whole channels were pruned", "Leave it out.")
        return joined

    def derived_weights(
        self,
        function: Callable[..., Weights],
        start: "Weights | AtRewindPoint | None",
        name: str,
        beside: Sequence["Candidate | Weights | AtRewindPoint | None"] = (),
    ) -> "Weights | AtRewindPoint":
        """What `function` makes of `start` and the seed of `name`; what the optimizer carries over stays as it is.

        Args:
            function: `function(weights, seed)`; `function(weights, *others, seed)` with others `beside` them.
            start: weights.
            name: of what is random in it.
            beside: further weights and masks; the ticket itself stands for what the search trained it to.

        Raises:
            BadInput: it makes no such weights; or it is to make some of drawn ones after the first k steps, which are
                known only when these are trained; or of a ticket that the search has not trained.
        """
        if isinstance(start, Mask):
            todo = "derived(function, ticket.mask, name) makes a mask of a mask."
            raise BadInput(where=name, expected="weights, as ticket.start is", found="a mask", todo=todo)
        others = [self._handed(each) for each in beside]
        made = weights.derived(function, self._known(start), self.seed(name), *others)
        return AtRewindPoint(made) if self.rewinding.k else made

    def _handed(self, each: "Candidate | Weights | AtRewindPoint | None") -> Weights | Mask:
        """A copy of what stands beside the weights that a function is given."""
        if isinstance(each, Mask):
            return Mask(each)
        if not isinstance(each, Candidate):
            return {name: value.clone() for name, value in self._known(each).items()}
        if self.trained is None or each.start is not None or each.mask is not self.trained[0]:
            raise BadInput(
                where="verify",
                expected=f"the ticket of a level that is finished, whose trained weights {self.control} is made of",
                found=f"level {self.level}, which is not" if self.trained is None else "another network",
                todo="Verify once the loop over the search is at its end, or leave the control out.",
            )
        return {name: value.clone() for name, value in self.trained[1].items()}

    def _known(self, start: "Weights | AtRewindPoint | None") -> Weights:
        """The weights at step k; refused where they are newly drawn, to be trained for k steps by the loop."""
        if self.rewinding.k and start is not None and not isinstance(start, AtRewindPoint):
            raise BadInput(
                where="verify",
                expected=f"a control of the ticket's own weights at step {self.rewinding.k}",
                found=f"{self.control}, which derives its weights from newly drawn ones",
                todo="Search with rewind='0it', or leave the control out.",
            )
        own: Weights = self.rewinding.moment.left["weights"]
        return start.weights if isinstance(start, AtRewindPoint) else own if start is None else start


def _of_a_spec(control: str, asked: str, todo: str = "Leave it out; tombola run has it.") -> BadInput:
    expected = "a control of masks and weights that are there"
    return BadInput(where="verify", expected=expected, found=f"{control}, which asks for {asked}", todo=todo)


@dataclass
class Drawn:
    """The weights that `build` has drawn.

    Attributes:
        names: of the weights that are pruned.
        initial: those at the start of the search, and all that were drawn so far.
        later: others that `build` may have kept, which were trained.
        build: makes the model anew; None where nobody gave it.
        fixed: by control, names of weights that are the same at each call, though others are not: an initialisation
            that draws nothing, as of an identity, or a part that is pre-trained.
        by_seed: what was drawn.
    """

    names: Sequence[str]
    initial: list[Weights]
    later: list[Weights]
    build: Callable[[], nn.Module] | None = None
    fixed: dict[str, tuple[str, ...]] = field(default_factory=dict)
    by_seed: dict[int, Weights] = field(default_factory=dict)

    def builder(self, control: str) -> Callable[[], nn.Module]:
        """What makes the model anew, for a control that asks for it.

        Raises:
            BadInput: there is none.
        """
        if not callable(self.build) or isinstance(self.build, nn.Module):
            raise BadInput(
                where="verify",
                expected=f"build, which makes your model with weights newly drawn, for the control {control}",
                found="none" if self.build is None else f"a {type(self.build).__name__}",
                todo="Pass build=lambda: Net(...), or controls=['random'].",
            )
        return self.build

    def another(self, build: Callable[[], nn.Module], now: Weights, control: str) -> Weights:
        """New initial weights, unlike all earlier ones, to which they are added.

        Args:
            build: makes the model anew.
            now: the model's weights: a copy of them is none that is drawn.
            control: the control that asks.

        Raises:
            BadInput: `build` seeds, loads or copies.
        """
        fresh = weights.of(weights.bare(build()))
        weights.fit(self.initial[0], fresh, "what build makes")
        varied = [name for name in self.names if bool((fresh[name] != fresh[name].flatten()[0]).any())]
        names = varied or self.names  # a weight that begins as a constant is none that is drawn
        known = [name for name in names if _among(self.initial, name, fresh)]
        trained = [name for name in names if name not in known and _among([*self.later, now], name, fresh)]
        if trained or len(known) == len(names):
            raise BadInput(
                where=f"{(trained or known)[0]} of what build makes",
                expected="weights newly drawn at each call",
                found="the same as before",
                todo="build must neither seed, load nor copy anything; where all weights begin as fixed numbers there "
                f"is no control {control}.",
            )
        if known:
            self.fixed[control] = tuple(dict.fromkeys([*self.fixed.get(control, ()), *known]))
        self.initial.append(fresh)
        return fresh


def _among(several: Sequence[Weights], name: str, fresh: Weights) -> bool:
    return any(torch.equal(fresh[name], other[name]) for other in several)
