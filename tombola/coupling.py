"""Channels that live and die together: which weights make them, which read them, and which of them go.

A *channel* is one output of a linear layer or convolution, as it flows on. Where the channels of several layers are
added, they are one; so are those at one place of every group of a grouped convolution, and the rows of an attention
head. A channel takes along all weights that make it and all that read it: then the network without it, made of smaller
layers, computes what the masked one does.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import gcd, lcm

import torch
from torch import Tensor

from tombola.amounts import count
from tombola.errors import BadInput
from tombola.layer_patterns import few
from tombola.mask import Mask
from tombola.mask_checks import check_finite
from tombola.prune import lowest


@dataclass(frozen=True, eq=False)
class Along:
    """One axis of a tensor whose entries are channels.

    Attributes:
        name: of the parameter.
        axis: of it.
        channels: the number of the channel that each entry of the axis belongs to.
    """

    name: str
    axis: int
    channels: Tensor

    @property
    def repeats(self) -> bool:
        """Whether a channel is several entries, as a head is."""
        return len(self.channels.unique()) < len(self.channels)

    def per_channel(self, values: Tensor, into: Tensor) -> None:
        """Add to `into`, [channels], the sums of `values` over all other axes."""
        others = [axis for axis in range(values.dim()) if axis != self.axis]
        into.index_add_(0, self.channels, (values.sum(dim=others) if others else values).to(into))

    def spread(self, values: Tensor, shape: Sequence[int]) -> Tensor:
        """What each entry of a tensor of `shape` has by its channel."""
        return values[self.channels].view([-1 if axis == self.axis else 1 for axis in range(len(shape))]).expand(*shape)


@dataclass(frozen=True, eq=False)
class Coupling:
    """The channels of a network.

    Attributes:
        makes: weights by the channels that they make; of a depthwise convolution, those that it hands on.
        reads: weights by the channels that they read.
        scales: weights of batch normalisations by the channels that they scale.
        whole: of each channel, whether nobody can take it out: an input, an answer, or what flows into a layer that is
            not known.
        alone: why the channels of a layer all stay, by the name of its weight.

    >>> two = Coupling((Along("a", 0, torch.tensor([1, 2])),), (Along("b", 1, torch.tensor([1, 2])),), (),
    ...     torch.tensor([True, False, False]), {"b": "the model's answer"})
    >>> whole = Mask({"a": torch.ones(2, 3, dtype=torch.bool), "b": torch.ones(1, 2, dtype=torch.bool)})
    >>> two.without(whole, torch.tensor([False, True, False])).counts
    {'a': 3, 'b': 1}
    """

    makes: tuple[Along, ...]
    reads: tuple[Along, ...]
    scales: tuple[Along, ...]
    whole: Tensor
    alone: Mapping[str, str]

    @property
    def size(self) -> int:
        """How many channels there are."""
        return len(self.whole)

    @cached_property
    def makers(self) -> tuple[tuple[str, ...], ...]:
        """Of each channel the weights that make it: channels with the same ones are a *set*, a width of the network."""
        found: list[list[str]] = [[] for _ in range(self.size)]
        for along in self.makes:
            for channel in along.channels.unique().tolist():
                found[channel].append(along.name)
        return tuple(map(tuple, found))

    def may_go(self, mask: Mask) -> Tensor:
        """Of each channel, whether it can be taken out where `mask` says which weights are pruned at all."""
        free = [bool(names) and all(name in mask for name in names) for names in self.makers]
        return torch.tensor(free, dtype=torch.bool) & ~self.whole

    def alive(self, mask: Mask) -> Tensor:
        """Of each channel that can be taken out, whether a weight that makes it lives."""
        living = torch.zeros(self.size, dtype=torch.int64)
        for along in self.makes:
            if along.name in mask:
                along.per_channel(mask[along.name].cpu().long(), living)
        return (living > 0) & self.may_go(mask)

    @cached_property
    def rows(self) -> tuple[tuple[int, ...], ...]:
        """Of each channel how many rows it is of each of its `makers`: a head is as many as it is wide."""
        found: list[list[int]] = [[] for _ in range(self.size)]
        for along in self.makes:
            for channel, rows in zip(
                *(each.tolist() for each in along.channels.unique(return_counts=True)), strict=True
            ):
                found[channel].append(rows)
        return tuple(map(tuple, found))

    def sets(self, mask: Mask) -> Iterator[tuple[tuple[str, ...], Tensor]]:
        """The names of the weights of each set with the numbers of its channels, those that can be taken out.

        Channels that are of different numbers of rows are apart, so that all of a set cost the same.
        """
        places: dict[tuple[tuple[str, ...], tuple[int, ...]], list[int]] = {}
        for channel in self.may_go(mask).nonzero().flatten().tolist():
            places.setdefault((self.makers[channel], self.rows[channel]), []).append(channel)
        yield from ((names, torch.tensor(channels)) for (names, _), channels in places.items())

    def step(self, channel: int, multiple: int) -> int:
        """How many channels like this one make a multiple of `multiple` rows in each weight that makes it."""
        return lcm(*(multiple // gcd(multiple, rows) for rows in self.rows[channel]))

    def without(self, mask: Mask, gone: Tensor) -> Mask:
        """`mask` less all weights that make or read a channel that is `gone`, [channels]."""
        kept = {name: alive.clone() for name, alive in mask.items()}
        for along in (*self.makes, *self.reads):
            if along.name in kept:
                alive = kept[along.name]
                alive &= along.spread(~gone, alive.shape).to(alive.device)
        return Mask(kept)

    def widths(self, mask: Mask) -> dict[tuple[str, ...], tuple[int, int]]:
        """(living, all) channels of each set."""
        alive, found = self.alive(mask), dict[tuple[str, ...], tuple[int, int]]()
        for names, channels in self.sets(mask):
            living, every = found.get(names, (0, 0))
            found[names] = living + int(alive[channels].sum()), every + len(channels)
        return found

    def living(self, mask: Mask) -> "Living":
        """Which channels there are under `mask`.

        Raises:
            BadInput: it keeps single weights of a channel.
        """
        if not made_of_channels(mask, self):
            raise _single_weights(mask, self)
        return Living(self.alive(mask), tuple((names, channels) for names, channels in self.sets(mask)))


@dataclass(frozen=True, eq=False)
class Living:
    """The channels of a mask.

    Attributes:
        alive: of each channel, whether it lives and can be taken out.
        sets: as `Coupling.sets` has them.
    """

    alive: Tensor
    sets: tuple[tuple[tuple[str, ...], Tensor], ...]


# ---- what a channel is worth


def _mean(scores: Mapping[str, Tensor], mask: Mask, coupling: Coupling) -> Tensor:
    """The mean score of the living weights that make or read a channel: of |w| its l1 norm, per weight."""
    return _summed(scores, mask, (*coupling.makes, *coupling.reads), coupling.size, power=1)


def _root(scores: Mapping[str, Tensor], mask: Mask, coupling: Coupling) -> Tensor:
    """The root of the mean squared score of the living weights that make or read a channel: its l2 norm, per weight."""
    return _summed(scores, mask, (*coupling.makes, *coupling.reads), coupling.size, power=2).sqrt()


def _made(scores: Mapping[str, Tensor], mask: Mask, coupling: Coupling) -> Tensor:
    """The mean score of the weights that make a channel, which have one number where the score is of the channel."""
    return _summed(scores, mask, coupling.makes, coupling.size, power=1)


def _summed(scores: Mapping[str, Tensor], mask: Mask, places: Sequence[Along], size: int, power: int) -> Tensor:
    total, living = torch.zeros(size, dtype=torch.float64), torch.zeros(size, dtype=torch.float64)
    for along in places:
        if along.name in mask:
            alive = mask[along.name].cpu()
            along.per_channel(scores[along.name].cpu().double().where(alive, 0) ** power, total)
            along.per_channel(alive.double(), living)
    return total / living.clamp(min=1)


TOGETHER = {"mean": _mean, "root-mean-square": _root, "made": _made}


def spread(coupling: Coupling, numbers: Tensor, mask: Mask) -> dict[str, Tensor]:
    """A number of each channel as a score: every weight that makes the channel has it, all others have 0."""
    scores = {name: torch.zeros(alive.shape, dtype=torch.float64) for name, alive in mask.items()}
    for along in coupling.makes:
        if along.name in mask:
            scores[along.name] = along.spread(numbers.double(), mask[along.name].shape).clone()
    return scores


# ---- which channels go


def by_set(worth: Tensor, living: Living, coupling: Coupling, rates: Mapping[str, float], multiple: int = 1) -> Tensor:
    """The channels that go where each set loses its rate of its living ones, those of least worth, [channels].

    Args:
        worth: of each channel, finite.
        living: the channels that there are before.
        rates: the fraction in [0, 1] by weight; one for all weights of a set.
        multiple: how many rows are left of a weight divides by it; where that takes more channels away, more go. A set
            that is as small as `multiple`, or smaller, stays as it is. Of every set one channel stays in any case.

    Raises:
        BadInput: the weights of a set have several rates.
    """
    check_rates(rates, living)
    alive, gone = living.alive, torch.zeros(coupling.size, dtype=torch.bool)
    for names, channels in living.sets:
        there = int(alive[channels].sum())
        stay = _stay(there - count(rates[names[0]], there), there, coupling.step(int(channels[0]), multiple))
        gone[channels] = ~lowest(worth[channels], alive[channels], there - stay)
    return gone


def check_rates(rates: Mapping[str, float], living: Living) -> None:
    """Make sure that the weights of a set have one rate.

    Raises:
        BadInput: they have not.
    """
    for names, _ in living.sets:
        if len({rates[name] for name in names}) > 1:
            raise BadInput(
                where="rate",
                expected="one rate for weights whose channels are one, as they are added or stand in groups",
                found=", ".join(f"{rates[name]:g} for {name}" for name in names),
                todo="Give them all the same; tombola.cash.coupling(model, example).widths(mask) shows which are one.",
            )


def all_sets(worth: Tensor, living: Living, coupling: Coupling, rate: float, multiple: int = 1) -> Tensor:
    """The channels that go where all sets are pooled and lose `rate` of the living ones, those of least worth.

    Of each set the best channel stays in any case, or the best `multiple` rows of channels: a layer never dies.
    """
    alive, safe = living.alive, torch.zeros(coupling.size, dtype=torch.bool)
    for _, channels in living.sets:
        there = int(alive[channels].sum())
        least = min(there, coupling.step(int(channels[0]), multiple))
        safe[channels] = lowest(worth[channels], alive[channels], there - least)
    remove = min(count(rate, int(alive.sum())), int((alive & ~safe).sum()))
    gone = alive & ~safe & ~lowest(worth, alive & ~safe, remove)
    for _, channels in living.sets:  # a multiple may take more of them
        there, stay = int(alive[channels].sum()), int((alive & ~gone)[channels].sum())
        stay = _stay(stay, there, coupling.step(int(channels[0]), multiple))
        gone[channels] = ~lowest(worth[channels], alive[channels], there - stay)
    return gone


def _stay(asked: int, living: int, step: int) -> int:
    """How many channels of a set stay: a multiple of `step`, no more than asked but one step at least."""
    return min(living, max(step, asked - asked % step))


def relative(worth: Tensor, living: Living) -> Tensor:
    """The worth of each channel, divided by the mean of the living ones of its set."""
    alive, scaled = living.alive, worth.clone()
    for _, channels in living.sets:
        mean = float(worth[channels][alive[channels]].mean()) if alive[channels].any() else 0.0
        scaled[channels] = worth[channels] / mean if mean else worth[channels]
    return scaled


def worth(scores: Mapping[str, Tensor], mask: Mask, coupling: Coupling, together: str) -> Tensor:
    """What each channel is worth, [channels], by the scores of its weights.

    Args:
        together: how these become one number: a name in `TOGETHER`.
    """
    check_finite(scores)
    return TOGETHER[together](scores, mask, coupling)


def known(coupling: Coupling | None, mask: Mask) -> Coupling:
    """`coupling`, once there is one, with channels that can be taken out.

    Raises:
        BadInput: there is none, or no channel can go.
    """
    if coupling is None:
        raise BadInput(
            where="coupling",
            expected="the channels of the network, in a scope of channels",
            found="None",
            todo="tombola.cash.coupling(model, example) finds them.",
        )
    if not coupling.may_go(mask).any():
        reasons = [f"{name} ({why})" for name, why in coupling.alone.items()]
        raise BadInput(
            where="scope 'channel'",
            expected="a layer whose channels can be taken out",
            found=f"none: {few(reasons)}" if reasons else "none",
            todo="Prune single weights, in the scope 'layer'; docs/structured.md says what channels flow through.",
        )
    return coupling


# ---- controls


def random_like(mask: Mask, coupling: Coupling, mask_seed: int) -> Mask:
    """A random mask of whole channels, of each set as many as `mask` keeps; masks drawn with one seed nest.

    Raises:
        BadInput: `mask` keeps single weights of a channel, and a mask of whole ones would be denser.
    """
    living, gone = coupling.living(mask), torch.zeros(coupling.size, dtype=torch.bool)
    generator = torch.Generator().manual_seed(mask_seed)
    for _, channels in living.sets:
        order = channels[torch.randperm(len(channels), generator=generator)]
        gone[order[int(living.alive[channels].sum()) :]] = True
    return coupling.without(_whole(mask), gone)


def shuffle(mask: Mask, coupling: Coupling, mask_seed: int) -> Mask:
    """The channels of each set permuted, with all their weights.

    Raises:
        BadInput: as in `random_like`.
    """
    living, gone = coupling.living(mask), torch.zeros(coupling.size, dtype=torch.bool)
    generator = torch.Generator().manual_seed(mask_seed)
    for _, channels in living.sets:
        gone[channels] = ~living.alive[channels][torch.randperm(len(channels), generator=generator)]
    return coupling.without(_whole(mask), gone)


def made_of_channels(mask: Mask, coupling: Coupling) -> bool:
    """Whether a mask keeps whole channels, and nothing else."""
    return _of_whole_ones(mask, coupling) == mask


def _of_whole_ones(mask: Mask, coupling: Coupling) -> Mask:
    return coupling.without(_whole(mask), coupling.may_go(mask) & ~coupling.alive(mask))


def _whole(mask: Mask) -> Mask:
    return Mask({name: torch.ones_like(kept) for name, kept in mask.items()})


def _single_weights(mask: Mask, coupling: Coupling) -> BadInput:
    channels = _of_whole_ones(mask, coupling)
    apart = [name for name, alive in mask.items() if not torch.equal(alive, channels[name])]
    return BadInput(
        where="mask",
        expected="whole channels",
        found=f"single weights of them, in {few(apart)}",
        todo="Begin with a mask of whole channels, as cash.shrunk_mask makes, or prune on in the scope 'layer'.",
    )
