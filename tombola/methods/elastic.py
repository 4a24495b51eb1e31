"""A method that searches another network of the family, and stretches or squeezes its tickets to the spec's own."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar

from tombola import elastic as rule
from tombola import models
from tombola.errors import BadInput, Fault
from tombola.mark import Mark
from tombola.method import Found, Method, SearchOptions
from tombola.methods.rewinding import iterative
from tombola.models import variants
from tombola.pruning import Round
from tombola.replicate import MethodReplicate, T


class ElasticOptions(SearchOptions):
    """What `elastic` lets one choose.

    Attributes:
        source: the network that is searched, of the family of the spec's own; by default that one itself, whose tickets
            are then those of the iterative search.
        map: which of its blocks go where: `appended`, `interpolated`, or a map like `0:0;1:1,3;2:2,4`.
    """

    ignored: ClassVar[frozenset[str]] = frozenset({"data", "length", "batch", "precision", "lr"})
    why_ignored: ClassVar[str] = "source and network are trained alike, from one rewind step on"

    source: str | None = None
    map: str = "appended"

    def taken(self, spec: Any) -> Mapping[str, str]:
        """Which weight of the source each weight of the spec's network is a copy of.

        Raises:
            BadInput: the one can not be stretched or squeezed to the other.
        """
        facts, source = spec.facts, self.source or spec.recipe.model
        theirs, ours = (models.shapes(model, facts.shape, facts.classes) for model in (source, spec.recipe.model))
        return rule.taken(theirs, ours, self.map)

    def copies(self, spec: Any) -> bool:
        """Whether a weight of the source has several copies."""
        taken = self.taken(spec)
        return len(set(taken.values())) < len(taken)

    def faults(self, spec: Any) -> Iterable[Fault]:
        """A source that is no network for these data, or that the map does not lead from; what both cannot share."""
        if self.retrain:
            todo = "its tickets are trained in full anyway, from the source's early weights"
            yield Fault("retrain", "no such choice of elastic", "true", todo)
        if self.source is None:
            return
        try:
            models.check(self.source, spec.facts.shape, spec.facts.classes)
        except ValueError as error:
            yield Fault("source", str(error), repr(self.source))
            return
        if variants.parts(self.source)[1] != variants.parts(spec.recipe.model)[1]:
            expected = f"a network whose weights are made as those of {spec.recipe.model}"
            yield Fault("source", expected, repr(self.source))
            return
        try:
            taken = self.taken(spec)
        except BadInput as error:
            yield Fault("map", f"{error.expected} ({error.where})", error.found, error.todo)
            return
        yield from self._unshared(spec, taken)

    def _unshared(self, spec: Any, taken: Mapping[str, str]) -> Iterable[Fault]:
        """What is of one network only, where two take part."""
        theirs, ours = (_kept(model, spec) for model in (self.source or spec.recipe.model, spec.recipe.model))
        for name, source in taken.items():
            if (name in ours) != (source in theirs):
                expected = f"a network in which prune.keep leaves {source} as it leaves {name} of {spec.recipe.model}"
                todo = "name layers by patterns or kinds: keep = ['output']"
                yield Fault("source", expected, repr(self.source), todo)
                return
        teacher = spec.recipe.objective and spec.recipe.objective.teacher_file
        for what, given, todo in (
            ("prune.basis", spec.prune.basis, "coordinates are copied as weights only where both have one basis"),
            ("a model of coordinates", models.mixes(spec.recipe.model), "layers of one shape may have several bases"),
            ("prune.include", spec.prune.include, "parameters beside the weights of layers stay dense in both"),
            ("carry_optimizer", spec.carry_optimizer, "no optimizer's state is stretched: let all arms start afresh"),
            ("the file of a teacher", teacher, "without it each network has a teacher of its own, itself when dense"),
        ):
            if given:
                yield Fault("source", f"none beside {what}", repr(self.source), todo)


def _kept(model: str, spec: Any) -> set[str]:
    """The weights that `prune.keep` leaves dense."""
    kinds = models.kinds(model, spec.facts.shape, spec.facts.classes)
    return set(Round(keep=spec.prune.keep).kept(kinds))


def elastic(replicate: MethodReplicate[T], levels: int) -> Iterator[T]:
    """Search the source: train, prune, rewind to step k, repeat; stretch or squeeze its tickets, and train them."""
    options: ElasticOptions = replicate.options
    yield replicate.train(replicate.rewind_point())
    source = replicate.of_model(options.source) if options.source else replicate
    _, *tickets = iterative(source, levels)
    for ticket in tickets:
        start, mask = replicate.stretched(ticket, options.map)
        yield replicate.train(start, mask=mask)


def _says(found: Sequence[Found]) -> list[str]:
    """From where its tickets come, and at which density it is as the map has it, level by level."""
    stretched = [each for each in found if "source" in each.values]
    if not stretched:
        return ["its source is the network itself, so that its tickets are those of the iterative search."]
    last = max(stretched, key=lambda each: each.level)
    source, density = last.values["source"], last.values["source_density"]
    return [
        f"its masks are those of {source} by the map {last.values['map']}; what that leaves is their density, "
        f"{last.density:.2%} at level {last.level}, where {source} keeps {density:.2%}: arms are compared level by "
        "level, after as many rounds of pruning, and those densities are named below the table."
    ]


METHODS: dict[str, Method] = {
    "elastic": Method(
        name="elastic",
        search=elastic,
        about="Search a shallower or deeper network of the family, and replicate or drop blocks of its tickets",
        paper="[The Elastic Lottery Ticket Hypothesis](https://arxiv.org/abs/2103.16547)",
        year=2021,
        options=ElasticOptions,
        says=_says,
        mark=Mark("#009988", (9, 3, 3, 3), "triangle-right"),
    ),
}
