"""A ticket of YOUR model in YOUR loop: it runs level by level, and everything it changes is rewound in between."""

import hashlib
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from tombola import effective, mask, mask_codec, score, weights
from tombola.control import Control
from tombola.coupling import Coupling
from tombola.errors import BadInput, TombolaError
from tombola.mask import Mask
from tombola.models.in_basis import InBasis
from tombola.prunable import prunable
from tombola.pruning import SCOPES, Round
from tombola.search import arguments, averages, checkpoint, counted, distributed, participants
from tombola.search.arguments import AnyScore, Rate
from tombola.search.averages import Average
from tombola.search.channels import Channels
from tombola.search.checkpoint import Progress
from tombola.search.engine import DEFAULT, Computed
from tombola.search.further_metrics import with_further
from tombola.search.heads import Heads
from tombola.search.level_run import Course, Level, Report, Rewinding, StepCallbacks, first
from tombola.search.options import Options
from tombola.search.scoring import Examples, Loss, ranked
from tombola.search.state import Loop, Moment
from tombola.search.strangers import Strangers
from tombola.search.verdict_settings import VerdictSettings
from tombola.search.verification import Verification
from tombola.search.verify import Arms, verify
from tombola.search.watch import Watch
from tombola.steps import Step
from tombola.study.verdict import Criteria, Metric
from tombola.ticket import Ticket
from tombola.weights import Weights

UNLIKE = 2  # trainings of which one takes so many times as long as the other

__all__ = ["Search", "Level", "Report", "Verification"]


class Search:
    """Iterative magnitude pruning with rewinding around your own training loop, which stays as it is.

    Train, prune, return the survivors to step k, repeat. On the way into each level everything that the loop changes is
    put back: weights, buffers, optimiser, schedulers, learning rates, random states. For k > 0 the loop runs from its
    own beginning all the same: its first k steps are a replay of the dense network's, at the end of which the state of
    step k is put in place under the level's mask.

    Args:
        model: any module; what torch.compile or DistributedDataParallel wrap around it is looked through.
        optimizer: any of torch.optim, over all weights that may be pruned. Its steps are seen by hooks. Or a list of
            all that step in the loop, which train these weights together: the steps of the first are counted, and
            what the others do after its step k and before the next belongs to step k.
        levels: how many times to prune; the loop runs `levels + 1` times.
        rate: the fraction of the living weights that each pruning removes, in [0, 1]; or one for each kind, name or
            pattern of names, of which the first that fits holds: `{"output": 0.1, "*": 0.2}`. The kind `output` is the
            linear layer registered last; where the first forward pass shows another one, the search warns.
        rewind: step k, as `500it` or `2ep`; 0 is the original hypothesis.
        scheduler: one or several.
        scope: `layer`: each layer loses its rate; `global`: all together do; `channel`: each layer loses its rate of
            channels, with all weights that make and read them, `channel_global`: all together do; others in
            `pruning.SCOPES`.
        keep: kinds, names or patterns of names that stay dense and are not counted; of what `prune` names, too.
        prune: parameters that are pruned and counted beside the weights of linear, convolution, embedding and attention
            layers: names or patterns of names of matrices, `["gru.*", "*.W"]`; a vector by its whole name. Their kind
            is `named`.
        stacks: names or patterns of names of weights like [experts, outputs, inputs], of which each leading index is a
            layer of its own: in the scope `layer` it loses its own rate, and random controls keep its count.
        score: one number per weight, the lowest go: a name in `scores.SCORES`, a `score.Score`, or a function of what
            it sees, `scored -> name -> tensor`; see `score.Scored`.
        also: what else is to be rewound: averaged models, gradient scalers, other optimisers (held like those in the
            list, where they train what is pruned), anything with a state_dict; the generators
            (of torch, NumPy or random) that decide about batches; and pairs of functions `(get, set)`, of which one
            returns a state and the other takes it back. Averages of the model, or of a part of it, are held at 0 where
            it is pruned: tensors that no optimiser trains, that begin with the numbers of a weight and change in
            level 0, here or in the model itself; all of torch's AveragedModel; and mappings of the model's names that
            are made on the way. A teacher, which does not change, and a twin, which is in an optimiser, are left whole.
        epoch_iterations: optimiser steps in one epoch, for a `rewind` in epochs.
        path: a file to save the search to at the end of each level, for `resume`.
        score_seed: what `score` is given to draw from.
        score_at: when `score` sees the network: at the `end` of a level's training, or as it was at the `rewind` point,
            at initialisation where that is 0. Then a ticket's mask asks for no training but its k steps, and level 0 is
            what it is compared to.
        replay: False for a loop that starts by itself at `level.begin`, which saves the replay.
        mask: what is alive in level 0; None is all that may be pruned. The network under it is then what tickets are
            compared to, where otherwise the dense one is. Weights that it does not name stay dense and uncounted.
        batches: of the training set, (inputs, labels) each, for a score that sees them, which goes through them after
            each level anew: a loader, for one.
        loss: what the loop makes small, for such a score: `(model, batch) -> tensor`.
        round: rate, scope, keep, prune, stacks and score as one value, in their place:
            `Round(scope="n_of_m", n=2, m=4)`.
        engine: how pruned linear layers and 2d convolutions compute, in the same modules: `dense`; `sparse`, with their
            living weights only; `auto`, so where it is measured to be faster on this machine, from the second step
            after the rewind point on. `computed` says which did.

    Raises:
        BadInput: something of this does not fit; nothing was changed.

    The Lottery Ticket Hypothesis (Frankle & Carbin, 2019); Stabilizing the Lottery Ticket Hypothesis (Frankle,
    Dziugaite, Roy & Carbin, 2019).

    >>> model = nn.Linear(10, 1)
    >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    >>> for level in Search(model, optimizer, levels=2):
    ...     for _ in range(3):
    ...         optimizer.zero_grad()
    ...         model(torch.ones(4, 10)).square().mean().backward()
    ...         optimizer.step()
    ...     print(level.number, level.density, int(model.weight.count_nonzero()))
    0 1.0 10
    1 0.8 8
    2 0.6 6
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer | Sequence[Optimizer],
        *,
        levels: int,
        rate: Rate = 0.2,
        rewind: str | Step = "0it",
        scheduler: Any = None,
        scope: str = "layer",
        keep: str | Sequence[str] = (),
        prune: str | Sequence[str] = (),
        stacks: str | Sequence[str] = (),
        score: AnyScore = score.magnitude,
        also: Sequence[Any] = (),
        epoch_iterations: int | None = None,
        path: str | Path | None = None,
        score_seed: int = 0,
        score_at: str = "end",
        replay: bool = True,
        mask: Mask | None = None,
        batches: Iterable[Any] | None = None,
        loss: Loss = score.cross_entropy,
        round: Round | None = None,
        engine: str = DEFAULT,
    ) -> None:
        self._options = arguments.options(
            {
                "levels": levels, "rate": rate, "rewind": rewind, "epoch_iterations": epoch_iterations, "scope": scope,
                "keep": keep, "prune": prune, "stacks": stacks, "score": score, "score_seed": score_seed,
                "score_at": score_at, "replay": replay, "round": round, "batches": batches,
                "engine": engine,
            }
        )  # fmt: skip
        self._examples = Examples(batches, loss)
        loop = participants.loop_of(model, optimizer, scheduler, also)
        self._given: Loop | None = replace(loop, engine=engine)
        full = counted.full(self._loop, self._options.round, mask)
        counted.warn_of_others(self._loop.model, self._options.round)
        effective.warn(self._loop.model, full, stacklevel=2)
        participants.trained(self._loop, full)
        participants.rewindable(self._loop, self._options.rewind)
        if not self._options.rewind:  # else it is looked at there
            participants.gathered(self._loop, full, 0)
        self._path = None if path is None else Path(path).absolute()  # wherever the loop may go
        self._progress = Progress((full,))
        coupled = SCOPES[self._options.round.scope].coupled
        self._channels = Channels(self._loop.model, full, self._options.round) if coupled else None
        self._course: Course | None = None
        self._watch = Watch(self._loop)
        self._heads: Heads | None = None
        self._held: list[Weights] = []  # what level 0 began with, while it is under way
        self._masked: list[Average] = []  # what its mask has changed of that
        self._about = self._asked()
        self._strangers = Strangers()
        if self._path is None:
            return
        arguments.check_path(self._path, given=path, writes=distributed.rank() == 0)
        if self._path.exists():
            self._progress = self._finished_in(self._path, given=mask)
        else:  # better now than at the end of level 0
            checkpoint.content(self._about, Progress((full,), start=self._loop.moment()), [])

    def _finished_in(self, path: Path, given: Mask | None) -> Progress:
        """The progress of this very search, from the file that it wrote when the same script ran before."""
        try:
            about, progress = checkpoint.read(path, distributed.rank(), distributed.world())
            asked = all(about[what] == found for what, found in self._asked().items())
            levels = about["plan"]["levels"] + 1
        except BadInput:
            asked, levels = False, 0
        if not asked or len(progress.trained) < levels or given not in (None, progress.masks[0]):
            raise arguments.file_in_the_way(path, holds_search=checkpoint.holds(path))
        arguments.same_types(weights.of(self._loop.model), progress.weights, str(path))
        assert progress.start
        arguments.warn_of_settings(self._loop, progress.start.followed["groups"], path.name)
        return progress

    @staticmethod
    def resume(
        path: str | Path,
        model: nn.Module | None = None,
        optimizer: Optimizer | Sequence[Optimizer] | None = None,
        *,
        scheduler: Any = None,
        score: AnyScore = score.magnitude,
        also: Sequence[Any] = (),
        batches: Iterable[Any] | None = None,
        loss: Loss = score.cross_entropy,
    ) -> "Search":
        """Go on with the search that `path` holds, at its first unfinished level, as if it had not been interrupted.

        Args:
            path: as it was given to `Search`, which wrote it; it will be written again.
            model, optimizer, scheduler, score, also, batches, loss: made anew, as they were; their states come from the
                file. Of a search whose levels are all finished, `verify` alone wants model and optimizer.

        Raises:
            BadInput: it is no search's file, or is one of another model, whose first tensors that differ are named.
        """
        about, progress = checkpoint.read(Path(path), distributed.rank(), distributed.world())
        if model is None or optimizer is None:
            if model is not None:
                arguments.same_types(weights.of(weights.bare(model)), progress.weights, str(path))
            return Search._read(Path(path), about, progress)
        arguments.same_types(weights.of(weights.bare(model)), progress.weights, str(path))
        begun = progress.masks[0]
        asked = Options.of(about["plan"], arguments.score_of(score, batches))
        search = Search(
            model, optimizer, scheduler=scheduler, also=also, mask=begun, batches=batches, loss=loss,
            levels=asked.levels, round=asked.round, rewind=f"{asked.rewind}it", score_seed=asked.score_seed,
            score_at=asked.score_at, replay=asked.replay, engine=asked.engine,
        )  # fmt: skip
        finished = len(progress.trained) > search._options.levels
        for what, found in search._about.items():
            if found != about[what] and not (finished and what not in ("plan", "model")):
                raise BadInput(
                    where=str(path),
                    expected=f"{what} as in the search: {about[what]}",
                    found=str(found),
                    todo="Make everything as it was made for the search.",
                )
        search._progress, search._path = progress, Path(path).absolute()
        return search

    @staticmethod
    def _read(path: Path, about: dict[str, Any], progress: Progress) -> "Search":
        """A finished search, from its file alone."""
        left = about["plan"]["levels"] + 1 - len(progress.trained)
        if left:
            raise BadInput(
                where=str(path),
                expected="the search's model and optimizer, or all of its levels finished",
                found=f"{left} that are not",
                todo="Search.resume(path, model, optimizer) goes on with it.",
            )
        search = Search.__new__(Search)
        search._options, search._given = Options.of(about["plan"]), None
        search._progress, search._about, search._path = progress, about, path.absolute()
        search._course = search._heads = search._channels = None
        return search

    @property
    def _loop(self) -> Loop:
        if self._given is None:
            raise BadInput(
                where="Search",
                expected="the model and optimizer of the search",
                found="none, as its file was opened without them",
                todo="Search.resume(path, model, optimizer) opens it with both.",
            )
        return self._given

    @staticmethod
    def opened(
        model: nn.Module, optimizer: Optimizer | Sequence[Optimizer], scheduler: Any, options: Mapping[str, Any]
    ) -> "Search":
        """The search that the file `options["path"]` holds, gone on with; a new one where there is none.

        Raises:
            BadInput: an option does not fit, or is another than the file's.
        """
        path = options.get("path")
        if not path or not Path(path).exists():
            return Search(model, optimizer, scheduler=scheduler, **options)
        asked = Search(model, optimizer, scheduler=scheduler, **{**options, "path": None})
        made = {name: options[name] for name in ("also", "batches", "loss") if name in options}
        search = Search.resume(path, model, optimizer, scheduler=scheduler, score=asked._options.round.score, **made)
        arguments.same_options(str(path), search._options, asked._options)
        return search

    def __iter__(self) -> Iterator[Level]:
        """The levels that are not finished, each to be trained in the body of the loop."""
        if not self.left:
            of = f" of {self._path.name}" if self._path else ""
            warnings.warn(
                f"All {self._options.levels + 1} levels{of} are finished: nothing is trained, and the results are "
                "those that it has. A new search is a new Search, with another path.",
                stacklevel=2,
            )
        while self.left:
            level = self.begin()
            try:
                yield level
                self._finish()
            finally:
                self.leave()

    def begin(self, optimizer: Optimizer | Sequence[Optimizer] | None = None, scheduler: Any = None) -> Level:
        """Put everything in place for the first unfinished level; `finish` ends it. For loops in other hands.

        Args:
            optimizer, scheduler: where they are made anew for each level, those of this one, made as the first ones
                were; both or none.
        """
        if self._course:
            raise arguments.under_way("Search.begin", self._course.level.number, "Call finish first.")
        number = len(self._progress.trained)
        if number > self._options.levels:
            raise arguments.none_left(self._options.levels)
        if optimizer is not None:
            old = self._loop
            loop = participants.loop_of(old.model, optimizer, scheduler, [*old.also[old.listed :], *old.generators])
            if loop.listed != old.listed:
                raise arguments.other_optimizers(old.listed + 1, loop.listed + 1)
            self._given = replace(loop, engine=old.engine)
            participants.trained(self._loop, self.mask(0))
        self._course = self._next(number) if number else self._first()
        if self._channels:
            self._channels.wait(self._loop.optimizer)
        self._watch.look(number, self._course.level.begin)
        return self._course.level

    def _next(self, number: int) -> Course:
        return self._rewinding().course(self._loop, number, self.mask(number), calls=self._calls(number))

    def _calls(self, number: int) -> StepCallbacks:
        """A look at the batch after step k, and at the optimisers that nobody handed over."""
        k, unnamed = self._options.rewind, self._strangers.at(number, self._loop.model)
        return StepCallbacks(done=lambda: self._watch.look(number, k), unnamed=unnamed)

    def finish(self) -> None:
        """End the level under way: check that nothing escaped, keep what it trained, prune, save.

        Raises:
            GuardLost: a pruned weight was found alive, or the loop stepped another optimiser.
        """
        self._finish()

    def _finish(self) -> None:
        course = self._course
        if course is None:
            raise BadInput(
                where="Search.finish", expected="a level under way", found="none", todo="Call begin before it."
            )
        course.end(self._options.rewind)
        computed = course.computed
        self.leave()
        if course.level.number == 0:
            self._follow()
        trained = weights.of(self._loop.model)
        following = self._pruned(trained, course.level.mask) if course.level.number < self._options.levels else None
        self._progress = checkpoint.finished(self._progress, trained, following, course, computed)
        self._save()
        if distributed.rank() == 0:
            self._warn()

    def _follow(self) -> None:
        """Sort, after level 0, what follows the weights from what only looks as if it did."""
        own, before = self._loop.model.state_dict(), self._held
        names = {name: own[name] for name in self.mask(0)}
        followers = averages.followed(self._progress.averages, self._loop, before, names)
        self._progress, self._held = replace(self._progress, averages=followers), []
        if teachers := [average for average in self._masked if average not in followers]:
            raise BadInput(
                where=f"mask=..., {averages.place_of(teachers[0], self._loop)}",
                expected="an average, which begins with the numbers of the weights and follows them",
                found="what stays as it is, as a teacher does: where the mask of level 0 prunes, it was held at 0",
                todo="Leave it out of the model and out of `also`: what does not change needs no rewinding.",
            )
        for what, whose in averages.unlike(followers, self._loop, before).items():
            warnings.warn(
                f"{what} has the names and shapes {whose}, changed in level 0 and is in no optimiser, but began with "
                "other weights: it is not taken for an average, and is not held at 0. If it is one, let it begin with "
                "the same weights.",
                stacklevel=4,
            )

    def _warn(self) -> None:
        """Of what is no mistake by itself, and makes what comes after it worthless where it is one."""
        living, steps = self._progress.masks, self._progress.steps
        level = len(steps) - 1
        shorter, longer = sorted((steps[0], steps[level]))
        if longer > UNLIKE * shorter:
            warnings.warn(
                f"level {level} ended after {steps[level]} optimiser steps and level 0 after {steps[0]}: networks that "
                "were trained so differently long say little about each other.",
                stacklevel=4,  # where the loop is, or `finish` is called
            )
        if len(living) > level + 1:
            ended = [name for name, alive in living[-1].items() if living[-2][name].any() and not alive.any()]
            if ended:
                message = f"level {level + 1}: nothing is alive any more in {', '.join(ended)}."
                warnings.warn(f"{message} Lower the rate, or stop here.", stacklevel=4)

    def leave(self) -> None:
        """Give up the level under way, if there is one: it is as if it had not begun."""
        if self._heads:
            self._heads.release()
            self._heads = None
        if self._channels:
            self._channels.release()
        if self._course:
            self._course.release()
            self._watch.release()
            self._course = None

    def _first(self) -> Course:
        """Level 0: as everything is, the first time; step k is noted on the way."""
        start = self._progress.start
        if start:  # it has been left before its end
            self._loop.put(start)
        else:
            participants.trained(self._loop, self.mask(0))  # as it may have been changed since
            start = self._loop.moment()
            self._loop.forget_gradients()  # as at every later level: they belong to what came before
        k, begun = self._options.rewind, averages.begun(self._loop, list(self.mask(0)))
        self._progress = replace(self._progress, start=start, rewind=None if k else start, averages=begun)
        before = averages.held(begun, self._loop)
        course = first(self._loop, self.mask(0), begun, k, self._reached, self._calls(0))
        self._masked = [average for average in begun if averages.has_moved(average, self._loop, before)]
        self._held = averages.held(begun, self._loop)
        if self._options.asks_for_output and distributed.rank() == 0:
            self._heads = Heads(self._loop.model)
        return course

    def _reached(self, moment: Moment) -> None:
        participants.gathered(self._loop, self.mask(0), self._options.rewind)
        self._progress = replace(self._progress, rewind=moment)

    def _rewinding(self) -> Rewinding:
        start, moment = self._progress.start, self._progress.rewind
        if start is None or moment is None:
            raise BadInput(
                where="Search",
                expected=f"level 0 to have come past step {self._options.rewind}",
                found="that it has not",
                todo="Let the loop run first.",
            )
        options, progress = self._options, self._progress
        return Rewinding(start, moment, options.rewind, options.replay, progress.masks[0], progress.averages)

    def _pruned(self, trained: Weights, living: Mask) -> Mask:
        loop, round = self._loop, self._options.round
        kinds, ties = prunable(loop.model, round.include), weights.ties(loop.model)
        early = self._options.score_at == "rewind"
        scores = ranked(round.score, loop, self._scored(self._early(living) if early else trained, living), early)
        following = round.next(living, scores, kinds, ties, self._coupling)
        distributed.agree(_digest(mask_codec.pack(following)), "the mask of the next level")
        return following

    @property
    def _coupling(self) -> Coupling | None:
        return self._channels.found if self._channels else None

    def _scored(self, seen: Weights, living: Mask) -> score.Scored:
        """What the score sees: these weights, and those with which the training began that has led to them."""
        model, options, way = self._loop.model, self._options, self._rewinding()
        batches = self._examples.on(model) if options.round.score.sees_batches else ()
        began = way.start if options.score_at == "rewind" else way.moment
        loss = self._examples.loss
        initial = began.left["weights"]
        return score.Scored(model, seen, living, batches, options.score_seed, loss, initial, self._coupling)

    def _early(self, living: Mask) -> dict[str, Tensor]:
        """m ⊙ theta_k, and all else that the model's state_dict holds at step k."""
        early = mask.apply(self._rewinding().moment.left["weights"], living)
        return {name: early[self._about["tied"].get(name, name)] for name in early}

    def _save(self) -> None:
        if self._path is None:
            return
        randoms = distributed.gathered(checkpoint.random_states(self._progress))
        failure: TombolaError | None = None
        if distributed.rank() == 0:
            try:
                checkpoint.write(self._path, checkpoint.content(self._about, self._progress, randoms))
            except TombolaError as error:
                failure = error
        first = distributed.gathered(failure)[0]
        if first:  # on all processes, lest the others wait for the one that writes
            raise first

    def _asked(self) -> dict[str, Any]:
        """What the search is of, as JSON has it."""
        loop = self._loop
        return {
            "plan": self._options.values(),
            "model": _kind(loop.model),
            "tied": weights.ties(loop.model),
            "optimizer": type(loop.optimizer).__name__,
            "parameters": [len(group["params"]) for group in loop.optimizer.param_groups],
            "schedulers": [type(each).__name__ for each in loop.schedulers],
            "also": [type(each).__name__ for each in loop.also],
            "generators": len(loop.generators),
            "score": self._options.round.score.name,
        }

    def verify(
        self,
        train: Callable[[Level], object],
        *,
        level: int,
        replicates: int = 5,
        controls: Sequence[str | Control] = ("reinit", "random"),
        build: Callable[[], nn.Module] | None = None,
        metric: str | Metric = "accuracy",
        higher_is_better: bool | None = None,
        margin: float | None = None,
        examples: int | None = None,
        chance: float | None = None,
        criteria: Criteria | None = None,
        also: Sequence[str | Metric] = (),
        seed: int = 0,
    ) -> Verification:
        """Is the ticket of `level` a winning one? Train it, the dense network and controls, and judge.

        In each replicate all of these train from one seed for everything random, above all the data order, and differ
        in nothing but the declared factor. The replicates are data orders of this one initialisation: the verdict is
        about this ticket. The model and all the rest are afterwards as they were.

        Args:
            train: the body of the loop over the search: trains the model that the search was given and reports
                `metric`, and `validation_loss` at the same steps where there is an early stop to be found; where
                not every arm has two such steps, the metric is that at the end.
            controls: `reinit`: the mask on newly drawn weights; `random`: a random mask with the same layer-wise
                counts; `shuffle`: the mask shuffled in each layer; others of `tombola.controls.CONTROLS`, or a
                `Control` of your own.
            build: makes the model anew, with weights newly drawn; for `reinit`, and others that start elsewhere.
            metric: the name under which `level.report` gets what is judged.
            higher_is_better: which way is better; known of `accuracy` and of what is called a loss, else to be stated.
            margin: how much worse than dense, in the metric's own unit, is as good; by default 0.002, that is 0.2
                points, of accuracy, else to be stated. For the early stop it is one interval between two reports.
            examples: in the test set: how exactly the metric is known, where it is a fraction of them. By default
                that is seen from the values that were reported.
            chance: the metric of guessing, in its own unit; of accuracy the share of the most frequent class. A dense
                network that is no better learned nothing, and no ticket of it gets a verdict.
            criteria: all of this at once, with the confidence, in place of metric, higher_is_better, margin and chance.
            also: further numbers that `train` reports, of which the arms are compared, too, each with intervals and a
                sentence: names that end in accuracy, loss, nll, brier, ece or error, or metrics. The verdict does not
                change with them.
            seed: decides all data orders, masks and draws.

        Raises:
            BadInput: nothing that could be judged: the metric was not reported, or it is not known which way it is
                better or by how much; the replicates do not differ, or `build` does not draw weights anew.
        """
        if self._course:
            todo = "Call it after the loop over the search, not in it."
            raise arguments.under_way("Search.verify", self._course.level.number, todo)
        if type(level) is not int or level < 1:
            raise BadInput(
                where="level", expected="1 or more", found=repr(level), todo="Level 0 is the dense network itself."
            )
        model, round = self._loop.model, self._options.round
        stacks = frozenset(round.stacked(prunable(model, round.include), weights.ties(model)))
        trained = self.trained(level) if level < len(self._progress.trained) else None
        arms = Arms(
            self._loop, self._rewinding(), level, self.mask(0), self.mask(level), trained, seed, stacks, self._coupling
        )
        reported = list(dict.fromkeys(name for report in self.history for name in report.metrics))
        first = VerdictSettings.of(metric, higher_is_better, margin, examples, chance, criteria, reported)
        settings = with_further(first, also, reported)
        return verify(arms, train, replicates, controls, build, settings)

    @property
    def left(self) -> int:
        """How many levels are not finished."""
        return self._options.levels + 1 - len(self._progress.trained)

    @property
    def history(self) -> tuple[Report, ...]:
        """All that was reported, in order."""
        return (*self._progress.history, *(self._course.reports if self._course else ()))

    def mask(self, level: int) -> Mask:
        """The mask under which `level` is trained; known once the level before it is finished."""
        self._known(level, len(self._progress.masks), "whose mask is known")
        return self._progress.masks[level]

    def trained(self, level: int) -> dict[str, Tensor]:
        """The weights at the end of a finished level: all that the model's state_dict holds."""
        self._known(level, len(self._progress.trained), "that is finished")
        values = mask_codec.expand(self._progress.trained[level], self._progress.masks[level])
        return {name: values[name] for name in self._progress.weights}  # a file has an order of its own

    def ticket(self, level: int) -> Ticket:
        """The ticket that `level` trains: its mask, m ⊙ theta_k, and where they come from."""
        living = self.mask(level)
        rewind, asked = self._rewinding().moment, self._options.values()
        count = ("n", "m") if SCOPES[self._options.round.scope].counted else ("rate",)
        origin = {
            "model": self._about["model"],
            "level": level,
            "density": living.density,
            "rewind": asked["rewind"],
            **{name: asked[name] for name in (*count, "scope")},
            "key": _digest(rewind.left["weights"])[:20],
        }
        return Ticket(living, self._early(living), origin)

    def computed(self, level: int) -> Computed:
        """How the layers of a finished level computed: which with their living weights only, and what a step took.

        Raises:
            BadInput: the level is not finished, or the search's file does not say how it computed.
        """
        self._known(level, len(self._progress.trained), "that is finished")
        computed = self._progress.computed[level] if level < len(self._progress.computed) else None
        if computed is None and self._options.engine != DEFAULT:
            raise BadInput(
                where=f"level {level}",
                expected="a level of which the file says how it computed",
                found="one of which it does not",
                todo="Another version of Tombola wrote it: only levels that are trained from now on are known.",
            )
        return computed or Computed()

    def _known(self, level: int, number: int, which: str) -> None:
        if type(level) is not int or not 0 <= level < number:
            raise BadInput(
                where="level",
                expected=f"one from 0 to {number - 1} {which}" if number else f"one {which}; there is none yet",
                found=repr(level),
                todo="A level is finished when the loop over the search comes round again, not by `break`.",
            )

    def __repr__(self) -> str:
        done = len(self._progress.trained)
        of, k = f"{done} of {self._options.levels + 1} levels finished", self._options.rewind
        return f"Search({self._about['model']}, {of}, rewind {k}it)"

    def __str__(self) -> str:
        """A table of its levels, with what was reported last in each."""
        last = {row.level: row.metrics for row in self.history}
        names = list(dict.fromkeys(name for metrics in last.values() for name in metrics))
        rows = [["level", "density", "weights remaining", "steps", *names]]
        for level, living in enumerate(self._progress.masks):
            done = level < len(self._progress.steps)
            steps = f"{self._progress.steps[level]:,}" if done else "not finished"
            metrics = last.get(level, {})
            numbers = [f"{metrics[name]:.4g}" if name in metrics else "" for name in names]
            rows.append([str(level), f"{living.density:.4f}", f"{living.alive:,}", steps, *numbers])
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
        computed = self._progress.computed
        pruned = [(level, each) for level, each in enumerate(computed) if each and (each.sparse or each.dense)]
        lines += [f"level {level}: {each.sentence(computed[0])}" for level, each in pruned]
        return "\n".join([repr(self), *(line.rstrip() for line in lines)])


def _kind(model: nn.Module) -> str:
    """The class of a model; where its parameters are coordinates, in which basis too: a state is of one."""
    return f"{type(model).__name__} {model.name}" if isinstance(model, InBasis) else type(model).__name__


def _digest(tensors: Weights) -> str:
    digest = hashlib.sha256()
    for name, value in tensors.items():
        digest.update(name.encode())
        digest.update(value.contiguous().view(-1).view(torch.uint8).numpy().tobytes() if value.numel() else b"")
    return digest.hexdigest()
