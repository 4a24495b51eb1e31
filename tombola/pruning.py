"""What goes in one round of pruning, as one value: of which weights, how many, and by which score.

A spec's `[prune]` table and the arguments of a `Search` are two ways to write a `Round`. How scores become a mask is
`prune`'s.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from tombola import layerwise
from tombola.amounts import check_fraction, check_n_of_m, count
from tombola.errors import BadInput
from tombola.layer_patterns import few, named
from tombola.layerwise import Shape
from tombola.score import MAGNITUDE, Score

if TYPE_CHECKING:  # `tombola plan` reads rounds, and touches no tensor
    from torch import Tensor, nn

    from tombola.coupling import Coupling, Living
    from tombola.mask import Mask

    Pruned = Callable[["Round", Mapping[str, Tensor], Mask, Mapping[str, float], Coupling | None], Mask]

Rates = tuple[tuple[str, float], ...]  # (kind, name or pattern of names, fraction)
Left = dict[tuple[str, ...], int]  # groups of layers, and how many weights of each stay
Ties = Mapping[str, str]  # other names of tied weights, each with the first


@dataclass(frozen=True)
class Round:
    """What one round of pruning removes of a network.

    Attributes:
        scope: where weights are ranked against each other, and how many go: a name in `SCOPES`.
        rates: the fraction in [0, 1] of its living weights that each layer loses, by kind, name or pattern of names: of
            the entries that fit a layer the first holds.
        keep: kinds, names or patterns of names of what stays dense and is not counted.
        include: names, or patterns of names of matrices, that are pruned beside the weights of layers.
        stacks: names or patterns of names of weights of which each leading index is a layer of its own.
        n, m: in the scope `n_of_m`, how many stay of how many.
        score: what decides; the lowest go.
        multiple: in the scopes of channels, what their number in a layer is to divide by afterwards: 8 or 16 suit GPUs.

    Raises:
        BadInput: a rate is no fraction, or does not go with the scope; there is no such scope; the score ranks channels
            where single weights go.

    >>> fifth = Round(rates=(("output", 0.1), ("*", 0.2)), keep=("conv",))
    >>> fifth.rates_of({"a.weight": "conv", "b.weight": "linear", "c.weight": "output"})
    {'b.weight': 0.2, 'c.weight': 0.1}
    """

    scope: str = "layer"
    rates: Rates = (("*", 0.2),)
    keep: tuple[str, ...] = ()
    include: tuple[str, ...] = ()
    stacks: tuple[str, ...] = ()
    n: int | None = None
    m: int | None = None
    score: Score = MAGNITUDE
    multiple: int = 1

    def __post_init__(self) -> None:
        if self.scope not in SCOPES:
            raise _no_scope(self.scope)
        for _, rate in self.rates:
            check_fraction(rate, "rate")
        SCOPES[self.scope].check(self)
        if not SCOPES[self.scope].coupled:
            _check_weights(self)

    def kept(self, kinds: Mapping[str, str], ties: Ties | None = None) -> set[str]:
        """Return the weights that stay dense and are not counted.

        Args:
            kinds: the kind of each weight that may be pruned, by its name: `prunable.prunable`, `models.kinds`.
            ties: other names under which `keep` may mean them.
        """
        return meant(self.keep, kinds, ties)

    def stacked(self, kinds: Mapping[str, str], ties: Ties | None = None) -> set[str]:
        """Return the weights that are stacks, and are not kept dense."""
        return meant(self.stacks, kinds, ties) - self.kept(kinds, ties)

    def rates_of(self, kinds: Mapping[str, str], ties: Ties | None = None) -> dict[str, float]:
        """Return the rate of each weight that is not kept dense: that of the first entry that means it.

        Raises:
            BadInput: no entry means a weight.
        """
        rates: dict[str, float] = {}
        for entry, rate in self.rates:
            rates = dict.fromkeys(meant([entry], kinds, ties), rate) | rates
        dense = self.kept(kinds, ties)
        pruned = [name for name in kinds if name not in dense]
        if without := [name for name in pruned if name not in rates]:
            raise _no_rate(without)
        return {name: rates[name] for name in pruned}

    def densities(self, kinds: Mapping[str, str], rounds: int) -> dict[str, float]:
        """Return the density of each weight after so many rounds; in the scope `global` what it is on average."""
        rates, density = self.rates_of(kinds), SCOPES[self.scope].density
        return {name: density(self, rates[name], rounds) if name in rates else 1.0 for name in kinds}

    def full(self, model: "nn.Module", ties: Ties | None = None) -> "Mask":
        """Return the mask of level 0: all weights of `model` that may be pruned and are not kept dense.

        Raises:
            BadInput: one of them is computed from others; `include` names nothing.
        """
        from tombola import prunable

        kinds = prunable.prunable(model, self.include)
        dense = self.kept(kinds, ties)
        return prunable.full_over(model, [name for name in kinds if name not in dense])

    def next(
        self,
        mask: "Mask",
        scores: "Mapping[str, Tensor]",
        kinds: Mapping[str, str],
        ties: Ties | None = None,
        coupling: "Coupling | None" = None,
    ) -> "Mask":
        """Return what is left of `mask` after this round: what is alive and scores low goes.

        Args:
            mask: what is alive before, over weights that are not kept dense.
            scores: a number per weight, finite where it is alive.
            kinds, ties: as in `kept`.
            coupling: which channels live and die together, in a scope of channels.

        >>> import torch
        >>> from tombola.mask import Mask
        >>> all_alive = Mask({"w": torch.ones(5, dtype=torch.bool)})
        >>> Round().next(all_alive, {"w": torch.tensor([3.0, 1.0, 2.0, 1.0, 5.0])}, {"w": "linear"})["w"]
        tensor([ True, False,  True,  True,  True])
        """
        from tombola.mask import Mask
        from tombola.stacks import join, split

        rates, stacks = self.rates_of(kinds, ties), self.stacked(kinds, ties)
        rate = {part: rates[name] for name in mask for part in split({name: mask[name]}, stacks)}
        layers = {name: scores[name] for name in mask}
        pruned = SCOPES[self.scope].prune(self, split(layers, stacks), Mask(split(mask, stacks)), rate, coupling)
        return join(pruned, mask, stacks)

    def total(self, sizes: Mapping[str, int], rates: Mapping[str, float], rounds: int) -> int:
        """Return how many weights so many rounds leave: the count that a search by rounds has, to the last weight.

        Args:
            sizes: how many weights each layer has.
            rates: what it loses in each round, as `rates_of` has it.

        >>> Round().total({"w": 5}, {"w": 0.2}, 2)
        3
        """
        return sum(SCOPES[self.scope].left(self, sizes, rates, rounds).values())


@dataclass(frozen=True)
class Scope:
    """Where weights are ranked against each other, and how many go.

    Whole units, channels and heads are scopes too: their `prune` ranks the rows of a weight and takes whole ones away.

    Attributes:
        about: what it does, in one sentence.
        prune: (round, scores, mask, rate of each layer, coupled channels) -> the mask after the round.
        left: (round, sizes, rates, number of rounds) -> how many weights of each group of layers so many rounds leave.
        shares: (shapes, rates, how many weights stay of all) -> how many of each group of layers; None where
            `left` says all.
        density: (round, rate, number of rounds) -> the density of a layer after so many.
        check: raises BadInput where a round does not go with it.
        by_kind: whether layers have rates of their own.
        counted: whether n of m say how many stay, and no rate.
        grouped: whether groups of weights go together: then a rate says how many groups, and no density can be met.
        once: whether a second round removes nothing more.
        whole: whether it is for networks that are pruned at once, and never for a round.
        coupled: whether channels go, with all weights that make and read them: it asks for the network's coupling.
    """

    about: str
    prune: "Pruned"
    density: Callable[[Round, float, int], float]
    check: Callable[[Round], None]
    left: "Callable[[Round, Mapping[str, int], Mapping[str, float], int], Left]"
    shares: "Callable[[Mapping[str, Shape], Mapping[str, float], int], Left] | None" = None
    by_kind: bool = True
    counted: bool = False
    grouped: bool = False
    once: bool = False
    whole: bool = False
    coupled: bool = False

    @property
    def pooled(self) -> bool:
        """Whether the weights of all layers are ranked against each other."""
        return not self.by_kind and not self.counted


def _by_layer(
    round: Round, scores: "Mapping[str, Tensor]", mask: "Mask", rates: Mapping[str, float], _: "Coupling | None"
) -> "Mask":
    from tombola import prune

    return prune.by_layer(scores, mask, rates)


def _globally(
    round: Round, scores: "Mapping[str, Tensor]", mask: "Mask", rates: Mapping[str, float], _: "Coupling | None"
) -> "Mask":
    from tombola import prune

    return prune.globally(scores, mask, round.rates[0][1])


def _n_of_m(
    round: Round, scores: "Mapping[str, Tensor]", mask: "Mask", rates: Mapping[str, float], _: "Coupling | None"
) -> "Mask":
    from tombola.n_of_m import n_of_m

    assert round.n is not None and round.m is not None  # as `check` has seen
    return n_of_m(scores, mask, round.n, round.m)


def _in_groups(grouping: str) -> "Pruned":
    def pruned(
        round: Round, scores: "Mapping[str, Tensor]", mask: "Mask", rates: Mapping[str, float], _: "Coupling | None"
    ) -> "Mask":
        from tombola import groups

        return groups.by_groups(scores, mask, rates, {"units": groups.units, "blocks": groups.blocks}[grouping])

    return pruned


def _channels(
    round: Round, scores: "Mapping[str, Tensor]", mask: "Mask", rates: Mapping[str, float], known: "Coupling | None"
) -> "Mask":
    from tombola import coupling

    found = coupling.known(known, mask)
    living = found.living(mask)
    worth = worth_of_channels(round, scores, mask, living, found)
    return found.without(mask, channels_that_go(round, worth, living, found, rates))


def worth_of_channels(
    round: Round, scores: "Mapping[str, Tensor]", mask: "Mask", living: "Living", found: "Coupling"
) -> "Tensor":
    """Return what each channel is worth, [channels], beside those that it is ranked with in the round's scope."""
    from tombola import coupling

    worth = coupling.worth(scores, mask, found, round.score.together)
    if round.score.comparable or not SCOPES[round.scope].pooled:
        return worth
    return coupling.relative(worth, living)


def channels_that_go(
    round: Round, worth: "Tensor", living: "Living", found: "Coupling", rates: Mapping[str, float]
) -> "Tensor":
    """Return the channels that go in the round, [channels]."""
    from tombola import coupling

    if SCOPES[round.scope].pooled:
        return coupling.all_sets(worth, living, found, round.rates[0][1], round.multiple)
    return coupling.by_set(worth, living, found, rates, round.multiple)


def channels_in_common(
    round: Round, scores: "Sequence[Mapping[str, Tensor]]", mask: "Mask", found: "Coupling"
) -> "tuple[Round, dict[str, Tensor]]":
    """Return the round by the lowest rank that each channel has among several scores, and these ranks as scores.

    What is left of a set is then the intersection of what each score would keep of it, each as much as it takes: that
    of `intersection.lowest_ranks`, whose members are channels here.

    Args:
        round: what goes, but for the score.
        scores: a number per weight, each time.
        mask: what is alive, whole channels.
        found: the channels of the network.
    """
    import torch

    from tombola import coupling
    from tombola.intersection import lowest_ranks
    from tombola.mask import Mask

    living = found.living(mask)
    sets = {str(number): channels for number, (_, channels) in enumerate(living.sets)}
    worths = [worth_of_channels(round, each, mask, living, found) for each in scores]
    alive = Mask({name: living.alive[channels] for name, channels in sets.items()})
    groups = [list(sets)] if SCOPES[round.scope].pooled else [[name] for name in sets]
    lowest = lowest_ranks([{name: worth[sets[name]] for name in sets} for worth in worths], alive, groups)
    ranks = torch.zeros(found.size, dtype=torch.float64)
    for name, channels in sets.items():
        ranks[channels] = lowest[name].double()
    by_ranks = replace(round.score, together="made", comparable=True)
    return replace(round, score=by_ranks), coupling.spread(found, ranks, mask)


def _left_of(size: int, rate: float, rounds: int) -> int:
    for _ in range(rounds):
        size -= count(rate, size)
    return size


def _each_left(round: Round, sizes: Mapping[str, int], rates: Mapping[str, float], rounds: int) -> Left:
    return {(name,): _left_of(size, rates[name], rounds) for name, size in sizes.items()}


def _pool_left(round: Round, sizes: Mapping[str, int], rates: Mapping[str, float], rounds: int) -> Left:
    return {tuple(sizes): _left_of(sum(sizes.values()), round.rates[0][1], rounds)}


def _pooled(shapes: Mapping[str, Shape], rates: Mapping[str, float], total: int) -> Left:
    return {tuple(shapes): total}


def _singly(
    rule: "Callable[[Mapping[str, Shape], Mapping[str, float], int], dict[str, int]]",
) -> "Callable[[Mapping[str, Shape], Mapping[str, float], int], Left]":
    def shares(shapes: Mapping[str, Shape], rates: Mapping[str, float], total: int) -> Left:
        return {(name,): count for name, count in rule(shapes, rates, total).items()}

    return shares


def _at_once_only(
    round: Round, scores: "Mapping[str, Tensor]", mask: "Mask", rates: Mapping[str, float], _: "Coupling | None"
) -> "Mask":
    raise BadInput(
        where=f"scope {round.scope!r}",
        expected="layer or global, where a network is pruned round by round",
        found=repr(round.scope),
        todo="It shares out what stays of a whole network that is pruned at once: method='random-erk', for one.",
    )


def _geometric(round: Round, rate: float, rounds: int) -> float:
    """(1 - rate)^rounds: each round removes a fraction of what is left."""
    return (1 - rate) ** rounds


def _of_both_ends(round: Round, rate: float, rounds: int) -> float:
    """(1 - rate)^(2 rounds), of a layer both of whose ends lose channels."""
    return (1 - rate) ** (2 * rounds)


def _n_over_m(round: Round, rate: float, rounds: int) -> float:
    """n / m after the first round, of a layer whose inputs divide by m."""
    return (round.n or 0) / (round.m or 1) if rounds else 1.0


def _by_rounds_only(round: Round, sizes: Mapping[str, int], rates: Mapping[str, float], rounds: int) -> Left:
    raise BadInput(
        where=f"scope {round.scope!r}",
        expected="rounds of pruning after trainings",
        found="a network that is pruned at once",
        todo="Take the scope layer or global.",
    )


def _check_rates(round: Round) -> None:
    if (round.n, round.m) != (None, None):
        raise BadInput(
            where="n, m",
            expected=f"none in the scope {round.scope!r}",
            found=f"{round.n} of {round.m}",
            todo="They are of the scope 'n_of_m'.",
        )


def _check_channels(round: Round) -> None:
    _check_rates(round)
    if type(round.multiple) is not int or round.multiple < 1:
        raise BadInput(
            where="multiple",
            expected="a whole number, 1 or more",
            found=repr(round.multiple),
            todo="8 and 16 suit GPUs.",
        )
    if round.stacks or round.include:
        raise BadInput(
            where="stacks" if round.stacks else "prune",
            expected=f"none in the scope {round.scope!r}, where the channels of layers go",
            found=", ".join(round.stacks or round.include),
            todo="Leave it out: biases go with their channels.",
        )


def _check_all_channels(round: Round) -> None:
    _check_channels(round)
    _check_one_rate(round)


def _check_weights(round: Round) -> None:
    if round.multiple != 1:
        raise BadInput(
            where="multiple",
            expected=f"none in the scope {round.scope!r}",
            found=str(round.multiple),
            todo="It is of the scopes 'channel' and 'channel_global'.",
        )
    if round.score.of_channels:
        raise BadInput(
            where="score",
            expected=f"a score of single weights in the scope {round.scope!r}",
            found=repr(round.score.name),
            todo="It ranks whole channels: take scope='channel', or the score 'magnitude'.",
        )


def _check_one_rate(round: Round) -> None:
    _check_rates(round)
    if len(round.rates) != 1 or round.rates[0][0] != "*":
        raise BadInput(
            where="rate",
            expected="one number in the global scope, where all layers are pruned together",
            found=f"rates for {', '.join(entry for entry, _ in round.rates)}",
            todo="Give one number, or scope='layer'.",
        )


def _check_n_of_m(round: Round) -> None:
    check_n_of_m(round.n, round.m, "prune")


SCOPES: dict[str, Scope] = {
    "layer": Scope(
        about="each layer loses its rate of its living weights",
        prune=_by_layer,
        density=_geometric,
        check=_check_rates,
        left=_each_left,
        shares=_singly(layerwise.evenly),
    ),
    "global": Scope(
        about="all layers together lose one rate",
        prune=_globally,
        density=_geometric,
        check=_check_one_rate,
        left=_pool_left,
        shares=_pooled,
        by_kind=False,
    ),
    "er": Scope(
        about="layers keep shares that go as (n_in + n_out) / (n_in n_out) (Erdős-Rényi), at once",
        prune=_at_once_only,
        density=_geometric,
        check=_check_rates,
        left=_each_left,
        shares=_singly(layerwise.erdos_renyi),
        whole=True,
    ),
    "erk": Scope(
        about="layers keep shares that go as the sum of their axes over the product (Erdős-Rényi-Kernel), at once",
        prune=_at_once_only,
        density=_geometric,
        check=_check_rates,
        left=_each_left,
        shares=_singly(layerwise.erdos_renyi_kernel),
        whole=True,
    ),
    "n_of_m": Scope(
        about="n of every m weights along a layer's inputs stay",
        prune=_n_of_m,
        density=_n_over_m,
        check=_check_n_of_m,
        left=_by_rounds_only,
        by_kind=False,
        counted=True,
        once=True,
    ),
    "units": Scope(
        about="each layer loses its rate of its living units or filters, with all that comes into them",
        prune=_in_groups("units"),
        density=_geometric,
        check=_check_rates,
        left=_by_rounds_only,
        grouped=True,
    ),
    "blocks": Scope(
        about="each layer loses its rate of its living 4 x 4 blocks",
        prune=_in_groups("blocks"),
        density=_geometric,
        check=_check_rates,
        left=_by_rounds_only,
        grouped=True,
    ),
    "channel": Scope(
        about="each layer loses its rate of its living channels, with all weights that make and read them",
        prune=_channels,
        density=_of_both_ends,
        check=_check_channels,
        left=_by_rounds_only,
        grouped=True,
        coupled=True,
    ),
    "channel_global": Scope(
        about="all layers together lose one rate of their channels; of none all go",
        prune=_channels,
        density=_of_both_ends,
        check=_check_all_channels,
        left=_by_rounds_only,
        by_kind=False,
        grouped=True,
        coupled=True,
    ),
}


def by_kind(rates: Mapping[str, float], scope: str) -> Rates:
    """Return the rates of a spec, which has one for each kind: those of kinds without one are that of `linear`.

    >>> by_kind({"linear": 0.2, "output": 0.1}, "layer")
    (('output', 0.1), ('*', 0.2))
    """
    apart = ((kind, rate) for kind, rate in rates.items() if kind != "linear")
    return (*(apart if SCOPES[scope].by_kind else ()), ("*", rates["linear"]))


def meant(entries: Iterable[str], kinds: Mapping[str, str], ties: Ties | None = None) -> set[str]:
    """Return the weights whose kind or name is among `entries`, or fits a pattern there, under any of their names.

    >>> sorted(meant(["head.*"], {"embed.weight": "output"}, ties={"head.weight": "embed.weight"}))
    ['embed.weight']
    """
    ties = ties or {}
    also = {name: kinds[first] for name, first in ties.items() if first in kinds}
    return {ties.get(name, name) for name in named(entries, {**kinds, **also})}


def _no_scope(scope: str) -> BadInput:
    known = ", ".join(map(repr, SCOPES))
    return BadInput(where="scope", expected=f"one of {known}", found=repr(scope), todo="Name one.")


def _no_rate(names: Sequence[str]) -> BadInput:
    return BadInput(
        where="rate",
        expected="a rate for every weight that is not in `keep`",
        found=f"none for {few(names)}",
        todo="'*', as the last entry, stands for all others.",
    )
