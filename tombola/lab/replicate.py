"""One repetition of an experiment: its seeds, and the runs that methods and controls build with them."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Literal

from tombola import bases, data, elastic, models
from tombola.at_once import AtOnce, Scoring, course
from tombola.code import named
from tombola.data import variants
from tombola.data.facts import Facts
from tombola.dynamics import Frozen
from tombola.early_bird import Settling
from tombola.errors import BadInput
from tombola.lab import extruding
from tombola.lab.kinds import (
    AlignedMask,
    Alignment,
    Cut,
    DerivedMask,
    DerivedWeights,
    EarlyBird,
    FullMask,
    Init,
    InvertedMask,
    Loaded,
    MatchedMask,
    Means,
    Prune,
    RandomMask,
    Sample,
    ShuffledMask,
    Stretch,
    StretchedMask,
    StretchedWeights,
    Train,
)
from tombola.lab.kinds.masks import left_at_once
from tombola.lab.members import BUILT_IN, Arm, Members
from tombola.lab.runs import Network, Run
from tombola.lab.searches import trainings
from tombola.lab.spec import Spec
from tombola.method import Method, SearchOptions
from tombola.methods.rewinding import iterative
from tombola.objective import TEACHER, Objective, objective_of
from tombola.pruning import SCOPES
from tombola.recipe import Recipe, on_data, stretched, with_dynamics
from tombola.replicate import PlannedTraining
from tombola.score import MAGNITUDE
from tombola.steps import Step

if TYPE_CHECKING:
    from tombola.mask import Mask
    from tombola.weights import Weights


@dataclass(frozen=True)
class Replicate:
    """One independent repetition of a spec: its own seeds, and the runs built with them.

    Attributes:
        number: from 0.
        rewind: the step k that its tickets return to; by default the spec's first.
        members: those that the spec was read with.
        options: what has been chosen of the method that is asked.
        method: that one; None for the spec's.
        ticket: of which a control is asked; None elsewhere.
        other_model: the name of its model, where that is another one than the spec's; None elsewhere.
    """

    spec: Spec
    number: int
    rewind: Step | None = None
    members: Members = field(default=BUILT_IN, repr=False)
    options: SearchOptions = field(default_factory=SearchOptions)
    method: Method | None = field(default=None, repr=False)
    ticket: PlannedTraining | None = field(default=None, repr=False)
    other_model: str | None = None

    def asking(self, arm: Arm) -> "Replicate":
        """The same with what has been chosen of an arm's method."""
        return replace(self, options=arm.options, method=arm.method)

    def of(self, ticket: PlannedTraining) -> "Replicate":
        """The same where a control of `ticket` is asked, with its network.

        Of a run that made a mask and weights, its mask is meant.
        """
        same = self.of_model(ticket.recipe.model) if isinstance(ticket, Train) else self
        return replace(same, ticket=ticket)

    @property
    def earlier(self) -> "Replicate | None":
        """The repetition before this one; None of the first."""
        return replace(self, number=self.number - 1, other_model=None) if self.number else None

    @property
    def searching(self) -> "Replicate":
        """The same where its method searches with another recipe than the one that tickets are trained with."""
        options, recipe = self.options, self.spec.recipe
        changed: dict[str, object] = dict(options.of_recipe)
        if options.lr is not None:
            changed["optimizer"] = recipe.optimizer.model_copy(update={"lr": options.lr})
        spec = self.spec.model_copy(update={"recipe": recipe.model_copy(update=changed)})
        return replace(self, spec=spec)

    def as_means(self, weights: Run) -> Run:
        """These weights, which are numbers, as means of a network's that is Gaussian; the same where none is."""
        return Means(self.network, weights) if models.is_gaussian(self.network.model) else weights

    def on(self, data: str) -> "Replicate":
        """The same, its trainings on the data set of this name: a part or a variant of its own."""
        return replace(self, spec=self.spec.model_copy(update={"recipe": on_data(self.spec.recipe, data)}))

    def of_model(self, model: str) -> "Replicate":
        """The same with another network; one whose weights are numbers, where the spec's are not, by cross-entropy.

        What it makes after that, its teacher and other weights, too, is of this network.
        """
        spec, recipe = self.spec, self.spec.recipe
        made = self if model == self.model else replace(self, other_model=model)
        if models.is_gaussian(model) or not models.is_gaussian(recipe.model):
            return made
        changed: dict[str, object] = {"recipe": recipe.model_copy(update={"objective": None})}
        if self.members.scores[spec.prune.score].of_gaussian:
            changed["prune"] = spec.prune.model_copy(update={"score": MAGNITUDE.name})
        return replace(made, spec=spec.model_copy(update=changed))

    def stretched(self, ticket: Train, how: str) -> tuple[Run, Run]:
        """The early weights and the mask that another network's ticket has for this one, by a map of its blocks.

        Of a ticket of this network itself its own, where each of its blocks is itself.

        Raises:
            BadInput: the map is not one of these networks.
        """
        mask, networks = (
            _given(ticket.mask, "stretched"),
            (replace(self.network, model=ticket.recipe.model), self.network),
        )
        source, target = (models.shapes(each.model, each.shape, each.classes) for each in networks)
        if source == target and all(name == other for name, other in elastic.taken(source, target, how).items()):
            return ticket.start, mask
        stretch = Stretch(*networks, elastic.written(source, target, how))
        return StretchedWeights(stretch, ticket.start), StretchedMask(stretch, mask)

    def in_basis(self, basis: str) -> "Replicate":
        """The same, its masks on coordinates in the basis of this name."""
        changed = self.spec.model_copy(update={"prune": self.spec.prune.in_basis(basis)})
        return replace(self, spec=changed, other_model=None)

    def with_inputs(self, change: str) -> "Replicate":
        """The same, its inputs changed further: by a change as `recipe.inputs` has it, with this replicate's seed."""
        recipe = self.spec.recipe
        changed = recipe.model_copy(update={"inputs": (*(recipe.inputs or ()), change)})
        return replace(self, spec=self.spec.model_copy(update={"recipe": changed}))

    def seed(self, name: str) -> int:
        """The seed that governs `name` in this replicate; 0 <= seed < 2^63."""
        return _seed(name, self.spec.seed, self.number)

    @cached_property
    def recipe(self) -> Recipe:
        """How its trainings go, on the data that are this replicate's where the spec has them changed."""
        recipe = on_data(self.spec.recipe, self.drawn(self.spec.recipe.data))
        return recipe if recipe.model == self.model else recipe.model_copy(update={"model": self.model})

    @cached_property
    def facts(self) -> Facts:
        """Of the data set of its spec, the same in each replicate."""
        return self.spec.facts

    @cached_property
    def data_fingerprint(self) -> str:
        """Of its own data set."""
        return data.facts(self.recipe.data).fingerprint

    @cached_property
    def model(self) -> str:
        """The name of its model, whose parameters are coordinates where the spec prunes in a basis."""
        if self.other_model is not None:
            return self.other_model
        spec, init = self.spec, self.spec.recipe.init
        return bases.model_in(spec.prune.basis, spec.recipe.model, self.seed("basis"), init, self.seed("init"))

    def drawn(self, whole: str) -> str:
        """The name of a data set as this replicate has it: inputs and labels changed as the spec asks, by its seeds."""
        inputs, noise = self.spec.recipe.inputs or (), self.spec.recipe.label_noise
        return variants.named(whole, inputs, noise, self.seed("inputs"), self.seed("split"))

    @cached_property
    def epoch_iterations(self) -> int:
        """The optimiser steps of one pass over the training set."""
        return self.facts.epoch_iterations(self.recipe.batch)

    @cached_property
    def network(self) -> Network:
        facts, model = self.facts, self.model
        return Network(model, facts.shape, facts.classes, models.checkpoint(model))

    @property
    def rewind_step(self) -> int:
        """k, in optimiser steps."""
        return self.iterations(self.rewind or self.spec.rewind[0])

    def iterations(self, step: Step) -> int:
        """`step` in optimiser steps."""
        return step.iterations(self.epoch_iterations)

    def rewind_point(self, init: str = "init") -> Run:
        """theta_k: the initial weights, trained for k steps without a mask; for k = 0 the initial weights alone."""
        how = self.spec.recipe.init
        # Whatever the seed, pre-trained weights would be the same again: other ones have to be drawn.
        start = Init(self.network, how if init == "init" else models.drawn(how), init_seed=self.seed(init))
        if self.rewind_step == 0:
            return start
        return replace(self.train(start), begin=0, until=self.rewind_step, keep_optimizer=self.spec.carry_optimizer)

    @property
    def full_mask(self) -> Run | None:
        """What level 0 trains under: nothing, unless `prune.keep` or `prune.include` changes what is counted."""
        keep, include = self.spec.prune.keep, self.spec.prune.include
        return FullMask(self.network, keep, include or None) if keep or include else None

    def train(self, start: Run, mask: Run | None = None, recipe: Recipe | None = None) -> Train:
        """From `start`, taken as the state at step k, to the end under `mask`, by default under the full one."""
        spec, carried = self.spec, isinstance(start, Train | DerivedWeights) and start.keep_optimizer
        recipe = recipe or self.recipe
        return Train(
            start=start,
            mask=mask or self.full_mask,
            recipe=recipe,
            data_fingerprint=self.data_fingerprint,
            split_seed=self.seed("split"),
            order_seed=self.seed("order"),
            begin=self.rewind_step,
            until=self.iterations(spec.recipe.length),
            evaluate_every=self.iterations(spec.evaluate.every),
            test_every=self.iterations(spec.evaluate.test_every),
            optimizer_state="carried" if carried else "fresh",
            augment_seed=self.seed("augment") if recipe.draws else None,
            further=self._beside(recipe.objective),
            dynamics_seed=self.seed("dynamics") if recipe.dynamics else None,
        )

    def _beside(self, objective: Objective | None) -> tuple[tuple[str, Run], ...] | None:
        """What else an objective asks for, as `Train.further` has it."""
        if objective is None or not objective.taught:
            return None
        path = objective.teacher_file
        return ((TEACHER, Loaded.of(self.network, path) if path else self.teacher),)

    @property
    def teacher(self) -> Train:
        """The dense network of this replicate, trained from its rewind point; of one that is taught itself, untaught.

        A recipe whose own objective asks for a teacher has one that made cross-entropy small.
        """
        recipe = self.spec.recipe
        if not (recipe.objective and recipe.objective.taught):
            return self.train(self.rewind_point())
        untaught = self.spec.model_copy(update={"recipe": recipe.model_copy(update={"objective": None})})
        return replace(self, spec=untaught).teacher

    def descending(self, ticket: Train, objective: Objective) -> Train:
        """The ticket, where its training makes another objective small: one that asks for a teacher has `teacher`.

        Raises:
            BadInput: its training has a teacher already.
        """
        if (own := ticket.recipe.objective) and own.taught:
            raise BadInput(
                where=f"the objective {objective.name}",
                expected="a ticket that is trained without a teacher",
                found=f"one with the objective {own.name}",
                todo="Leave the control out of `arms`, or the objective out of the recipe.",
            )
        recipe = ticket.recipe.model_copy(update={"objective": objective_of(objective)})
        further = (*(ticket.further or ()), *(self._beside(objective) or ()))
        draws = self.seed("augment") if recipe.draws and ticket.augment_seed is None else ticket.augment_seed
        return replace(ticket, recipe=recipe, further=further or None, augment_seed=draws)

    def reordered(self, training: Train, order: int) -> Train:
        """The same training in another data order, with other augmentation; order 0 is the training itself."""
        if not order:
            return training
        augment = self.seed(f"augment {order}") if training.augment_seed is not None else None
        return replace(training, order_seed=self.seed(f"order {order}"), augment_seed=augment)

    def prune(self, trained: Train, mask: Run | None) -> Prune:
        """One round more: what is left of `mask` after the lowest-scoring weights of `trained` have gone."""
        prune, options = self.spec.prune, self.options
        how = Scoring(options.score or prune.score, options.scope)
        density = self.course[_rounds(mask)] if self.spec.densities else None
        return self._pruned(trained, trained, how, mask, density)

    def prune_in_common(self, trained: Sequence[Train], mask: Run | None) -> Prune:
        """One round more: what each of `trained` would keep of `mask`, pruned as much as that takes.

        Raises:
            BadInput: the score sees batches, of which each training has its own.
        """
        first, *others = trained
        made = self.prune(first, mask)
        if made.sample is not None:
            raise BadInput(
                where="prune.score",
                expected="a score of the weights alone, where several trainings are compared",
                found=f"{made.score!r}, which sees batches",
                todo="score = 'magnitude', for one.",
            )
        return replace(made, beside=tuple(others))

    def prune_at_once(self, weights: Run, level: int, scoring: Scoring) -> Prune:
        """The mask that is left when `weights`, of step k, lose at once all that the levels up to `level` lose."""
        density, rounds, counted = self._left(level)
        return replace(
            self._pruned(weights, self.train(weights), scoring),
            density=density,
            rounds=rounds,
            counted=counted,
            iterations=scoring.iterations if scoring.iterations > 1 else None,
            returning=scoring.returning or None,
        )

    def extruded(self, start: Run, mask: Run, recipe: Recipe) -> Train:
        """The dense network from `start`, as `recipe` trains it from first step to last, told what `mask` keeps."""
        return extruding.extruding(self.train(start, recipe=recipe), mask)

    def cut(self, trained: Train, mask: Run) -> Cut:
        """The weights of `trained` that `mask` keeps, biases and running statistics as they are."""
        return Cut.of(trained, mask)

    def resampled(self, weights: Run, level: int, cycle: int, cycles: int) -> Prune:
        """A random mask of d^(cycle / cycles) of the weights, d being the density of a level, uniform in each layer.

        What it does not keep are the smallest of `weights`, as many as the cycle before did not keep, and others.
        """

        def pruned(score: str, done: int) -> Prune:
            whole = self.prune_at_once(weights, level, Scoring(score, scope="layer"))
            if done == cycles:
                return whole
            return replace(whole, density=self._density(whole) ** (done / cycles), rounds=None, counted=None)

        if cycle == 1:
            return pruned("random", cycle)
        small = pruned("magnitude", cycle - 1)
        return replace(pruned("random", cycle), mask=small, score_seed=self.seed(f"score {cycle}"))

    def as_long(self, ticket: Train) -> Train:
        """The mask of a ticket whose weights were transformed towards it, trained from early ones for as long.

        Raises:
            BadInput: they were not.
        """
        until = extruding.as_long(ticket, self.facts.train)
        recipe = stretched(ticket.recipe, until, self.epoch_iterations)
        made = self.train(self.rewind_point(), ticket.mask, recipe)
        return replace(made, until=until, optimizer_state=ticket.optimizer_state)

    def unpenalised(self, ticket: Train, mask: Run) -> Cut:
        """The dense network, trained as a ticket's extrusion trains it but without its penalty, cut at a mask."""
        return Cut.of(extruding.unpenalised(ticket), mask)

    def largest(self, ticket: Train) -> Prune:
        """The mask of the largest weights of that dense network, with the layer-wise counts of the ticket."""
        return extruding.largest(ticket)

    def _left(self, level: int) -> tuple[float | None, int | None, str | None]:
        """How much is left at once at a level: a density; or what so many rounds leave, in which scope."""
        if self.spec.densities:
            return self.course[level - 1], None, None
        return None, level, self.spec.prune.scope

    def _density(self, pruned: Prune) -> float:
        """What a mask that is drawn at once keeps of the whole network, about, where rounds say how much that is."""
        if pruned.density is not None:
            return pruned.density
        network, amount = self.network, pruned.amount
        assert amount
        layers = models.layers(network.model, network.shape, network.classes)
        left = left_at_once(AtOnce(pruned.round(self.members.scores), amount), layers)
        return sum(left.values()) / sum(layers[name].weights for name in left)

    def _pruned(
        self, weights: Run, seen: Train, scoring: Scoring, mask: Run | None = None, density: float | None = None
    ) -> Prune:
        """A round of pruning of `weights` under `mask`, whose score sees the batches of the training `seen`."""
        prune, score = self.spec.prune, self.members.scores[scoring.score]
        examples = scoring.seen(self.facts.classes, self.recipe.batch)
        began = weights.start if isinstance(weights, Train) else weights
        return Prune(
            self.network,
            weights,
            mask,
            score.name,
            scoring.scope or prune.scope,
            prune.rates,
            prune.keep,
            density=density,
            score_seed=self.seed("score"),
            include=prune.include or None,
            n=prune.n,
            m=prune.m,
            code=score.code,
            sample=Sample.of(seen, examples) if score.sees_batches else None,
            further=seen.further if score.sees_batches else None,
            initial=began if score.sees_initial else None,
            multiple=prune.multiple if SCOPES[scoring.scope or prune.scope].coupled else None,
        )

    def settled(self, training: Train, level: int, rule: Settling) -> EarlyBird:
        """The mask of `level` that `training`, done until then, has settled on, and the weights of that moment."""
        prune, (density, rounds, counted) = self.spec.prune, self._left(level)
        return EarlyBird(
            self.network,
            training.start,
            Sample.of(training),
            training.begin,
            training.until,
            self.options.scope or prune.scope,
            prune.rates,
            prune.keep,
            density=density,
            rounds=rounds,
            counted=counted,
            rule=rule,
            include=prune.include or None,
            further=training.further,
        )

    @property
    def course(self) -> list[float]:
        """The density after each round, where the spec has `densities`."""
        return course(self.spec.densities, self.options.rate or self.spec.prune.rate)

    @property
    def rounds(self) -> list[int]:
        """How many rounds of pruning each level has behind it, level 0 first."""
        if not self.spec.densities:
            return list(range(self.spec.levels + 1))
        after = self.course
        return [0, *(after.index(density) + 1 for density in self.spec.densities)]

    def mask_of(self, trained: Train) -> Run | None:
        """The mask that a training ends under: the one that it was given, or its own where it changes it."""
        return trained.mask if trained.keeps_mask else trained

    def random_mask(self, like: Run, name: str) -> RandomMask:
        """A random mask with the layer-wise counts of `like`, from the seed of `name`."""
        return RandomMask(_given(like, name), mask_seed=self.seed(name), network=self._network_of_channels)

    def shuffled_mask(self, like: Run, name: str) -> ShuffledMask:
        """The mask `like` with its entries permuted inside each layer, by the seed of `name`."""
        return ShuffledMask(_given(like, name), mask_seed=self.seed(name), network=self._network_of_channels)

    @property
    def _network_of_channels(self) -> Network | None:
        """The network, where whole channels are pruned."""
        return self.network if SCOPES[self.options.scope or self.spec.prune.scope].coupled else None

    def inverted_mask(self, like: Run) -> InvertedMask:
        """Of each layer as many weights as the mask `like` keeps: those that its pruning lets go first.

        Raises:
            BadInput: no pruning made it.
        """
        if not isinstance(last := _given(like, "inverted mask"), Prune):
            raise BadInput(
                where="inverted mask",
                expected="a mask that pruning by a score has made",
                found=f"{last.key}, which was made in another way",
                todo="Leave the control out of `arms`, or take a method that prunes by a score.",
            )
        of_last = {name: getattr(last, name) for name in last.names}
        return InvertedMask(**of_last, like=like, earlier=_earlier(last))

    def own_ticket(self, ticket: Train, level: int) -> tuple[Run, MatchedMask]:
        """The early weights and the mask of this network's own search at a level, with as many weights as `ticket`.

        Raises:
            BadInput: its search prunes by no score.
        """
        *_, own = iterative(self, self.rounds[level])
        if not isinstance(last := own.mask, Prune):
            raise BadInput(
                where="own ticket",
                expected="a search whose masks a pruning by a score makes",
                found=f"{own.key}, which moves its mask while it trains",
                todo="Leave the control out of `arms`, or the dynamics out of the recipe.",
            )
        of_last = {name: getattr(last, name) for name in last.names}
        return own.start, MatchedMask(**of_last, like=ticket.mask, earlier=_earlier(last))

    def frozen(self, ticket: Train) -> Train:
        """The ticket beside its pruned weights, which stay at those of its start, instead of 0.

        Raises:
            BadInput: its training has other dynamics.
        """
        if ticket.recipe.dynamics:
            raise BadInput(
                where="frozen weights",
                expected="a ticket that is trained without dynamics",
                found=f"one with {ticket.recipe.dynamics.name}",
                todo="Leave the control out of `arms`, or take retrain = true for its method.",
            )
        return replace(ticket, recipe=with_dynamics(ticket.recipe, Frozen()))

    def pruned_by(self, like: Run) -> list[Run]:
        """The trained networks by whose weights the mask `like` was pruned, the first first.

        Raises:
            BadInput: no trained network's weights were, or those of several at once.
        """
        found = list[Run]()
        mask: Run | None = _given(like, "trained networks")
        while isinstance(mask, Prune) and mask.beside is None:
            found.append(mask.trained)
            mask = mask.mask
        if (
            isinstance(mask, Prune)
            or not found
            or not all(isinstance(each, Train) and each.until > self.rewind_step for each in found)
        ):
            raise BadInput(
                where="trained networks",
                expected="a mask that was pruned by the weights of one trained network after another",
                found=f"{like.key}, which was not",
                todo="Leave the control out of `arms`: nothing has grown or shrunk before the network was pruned.",
            )
        return found[::-1]

    def searched_on(self, variant: str, ticket: Train, level: int) -> Run:
        """The mask that the same search finds at a level on a variant of its data set, as `data.variants` has them.

        Raises:
            BadInput: it is the ticket's, as the search looks at no data.
        """
        spec = self.spec
        arm = Arm("", self.method, self.options) if self.method else self.members.arm("ticket", spec)
        name = variants.MARK.join([self.drawn(arm.options.data or spec.recipe.data), variant])
        options = arm.options.model_copy(update={"data": name})
        other = replace(arm, options=options)
        found = trainings(other, self.on(self.recipe.data).asking(other))[level].mask
        if found is None or found == ticket.mask:
            raise BadInput(
                where=f"the search on {name}",
                expected="a search that looks at its data",
                found=f"{arm.method.name}, which finds the same mask whatever the data",
                todo="Leave the control out of `arms`: that it is no worse is known.",
            )
        return found

    def derived(self, function: "Callable[[Mask, int], Mask]", like: Run, name: str) -> DerivedMask:
        """The mask that a function makes of the mask `like` and the seed of `name`.

        Raises:
            BadInput: workers could not find the function by its name; or `like` is the run of no mask.
        """
        mask = _given(like, name)
        if isinstance(like, Init | DerivedWeights) or (isinstance(like, Train) and like.keeps_mask):
            raise BadInput(
                where=f"derived(..., {name!r})",
                expected="the run of a mask, as ticket.mask is",
                found=f"{like.key}, which makes weights",
                todo="derived_weights(function, ticket.start, name) makes weights of weights.",
            )
        return DerivedMask(mask, *_found_again(function, f"derived(..., {name!r})"), mask_seed=self.seed(name))

    def aligned(self, mask: Run | None, theirs: Train, ours: Train, examples: int) -> AlignedMask:
        """The mask of `theirs`, its units in the order of those of `ours` that they are like on so many examples.

        They are the first ones of the training, in whole batches, and an epoch at most.
        """
        batches = min(self.epoch_iterations, -(-examples // self.recipe.batch))
        alignment = Alignment(self.network, theirs, ours, Sample.of(ours), batches)
        return AlignedMask(self.network, _given(mask, "aligned"), alignment)

    def derived_weights(
        self, function: "Callable[..., Weights]", start: Run, name: str, beside: Sequence[Run] = ()
    ) -> DerivedWeights:
        """The weights that a function makes of the weights `start` and the seed of `name`, to begin with at step k.

        An optimizer's state that is carried over goes with them, as it is.

        Args:
            function: `function(weights, seed)`; `function(weights, *others, seed)` with others `beside` them.
            start: the run of weights.
            name: of what is random in it.
            beside: runs of further weights, a ticket's trained ones, say, and of masks.

        Raises:
            BadInput: workers could not find the function by its name; or `start` is the run of a mask.
        """
        where = f"derived_weights(..., {name!r})"
        if start is None or isinstance(start, _MASKS):
            raise BadInput(
                where=where,
                expected="the run of weights, as ticket.start is",
                found=f"{start.key}, which makes a mask" if start else "None",
                todo="derived(function, ticket.mask, name) makes a mask of a mask.",
            )
        read = tuple(self._read(run, where) for run in beside) or None
        return DerivedWeights(start, *_found_again(function, where), weights_seed=self.seed(name), beside=read)

    def _read(self, run: Run, where: str) -> tuple[Literal["weights", "mask"], Run]:
        """Which of its outcome is meant where a run stands for what it made."""
        # An early bird, or a training that has moved its mask, made both.
        mask = isinstance(run, _MASKS) or (self.ticket is not None and run == self.ticket.mask)
        return ("mask" if mask else "weights", _given(run, where))


_MASKS = (AlignedMask, Prune, FullMask, RandomMask, ShuffledMask, DerivedMask, StretchedMask)


def _earlier(last: Prune) -> tuple[tuple[Run, Run | None], ...] | None:
    """The rounds before a pruning, from the first on, as (weights that were scored, mask before); None for none."""
    found: list[tuple[Run, Run | None]] = []
    before = last.mask
    while isinstance(before, Prune | Train):  # a training that has moved its mask let nothing go by a score
        if isinstance(before, Prune):
            found.append((before.trained, before.mask))
        before = before.mask
    return tuple(reversed(found)) or None


def _rounds(mask: Run | None) -> int:
    """How many rounds of pruning a mask has behind it."""
    rounds = 0
    while mask is not None:
        rounds += isinstance(mask, Prune)
        mask = mask.mask if isinstance(mask, Prune | Train) else getattr(mask, "like", None)
    return rounds


def _found_again(function: Callable[..., object], where: str) -> tuple[str, str | None]:
    """The name and the code of a function that workers find by them."""
    if called := named(function):
        return called
    raise BadInput(
        where=where,
        expected="a function at the top level of an extension, or of a module of tombola",
        found=f"{getattr(function, '__qualname__', 'a part of another one')}, which is none",
        todo="Define it in the file that --extend names, outside of other functions.",
    )


def _given(like: Run | None, name: str) -> Run:
    if like is None:
        raise BadInput(
            where=name,
            expected="a ticket that was given a mask",
            found="one without, which may have one of its own at its end",
            todo="Leave the control out of `arms`, or let the method give its trainings a mask.",
        )
    return like


@lru_cache(maxsize=1024)  # the same dozen names, again and again in each replicate
def _seed(name: str, seed: int, number: int) -> int:
    digest = hashlib.sha256(f"{name}/{seed}/{number}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1
