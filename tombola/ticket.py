"""A ticket - a mask, the weights its survivors return to, and where they come from - and its file.

docs/tickets.md writes the file down byte by byte. It stands above `models` and not among the values below them, because
a file may hold, in place of weights, the seed from which `models.build` remakes them: a loader that had to be handed a
builder would make everybody who loads a ticket know which of the two kinds it is.
"""

import hashlib
import json
import os
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tombola import card, container, elastic, files, hub, mask, mask_codec, models, prunable, weights
from tombola.errors import BadInput, shown
from tombola.layers import Layout, layouts
from tombola.mask import Mask
from tombola.models import Initialisation, variants
from tombola.models.in_basis import InBasis
from tombola.transfer import Rule, Transfer, transfer
from tombola.weights import Weights

FORMAT = 2
KEY = "tombola"  # of what is said in the header
LONGEST = 300  # characters of what a file says of itself, in a message
FILE = "ticket.safetensors"  # its name in a repository of the hub


@dataclass(frozen=True)
class Seed:
    """What remakes the weights of step 0: the arguments of `models.build`."""

    model: str
    shape: tuple[int, ...]
    classes: int
    init: Initialisation
    init_seed: int

    def __post_init__(self) -> None:
        # A file that somebody loads must not make it fetch a checkpoint of the file's choosing.
        if models.source(self.model):
            raise ValueError(f"expected a model of Tombola's own, found {shown(self.model)}")
        sizes = (*self.shape, self.classes)
        if not all(type(size) is int and size > 0 for size in sizes):
            raise ValueError(f"expected sizes, found {shown(sizes)}")

    def counts(self) -> dict[str, int]:
        """How many weights each layer that may be pruned has, without the model being built.

        Raises:
            ValueError: there is no such model.
        """
        models.check(self.model, self.shape, self.classes)
        return models.weight_counts(self.model, self.shape, self.classes)

    def weights(self) -> dict[str, Tensor]:
        """theta_0, drawn anew; before any mask."""
        return weights.of(self._model())

    def masked(self, alive: Mask) -> Weights:
        """m ⊙ theta_0 as a ticket has it: tied weights, of which the model tells, are masked and shared."""
        model = self._model()
        return Ticket.of(model, alive, weights.of(model)).weights

    def _model(self) -> nn.Module:
        return models.build(self.model, self.shape, self.classes, self.init, self.init_seed)


@dataclass(frozen=True, eq=False)
class Ticket:
    """A sparse subnetwork with its original early weights: f(x; m ⊙ theta_k), before any training of its own.

    Attributes:
        mask: m, True = alive.
        weights: m ⊙ theta_k, all that the model's state_dict holds; pruned weights are 0. Tied weights are one tensor
            under each of its names, as `of` makes them.
        origin: where it comes from, as JSON: model, data, density, rewind, level, replicate, the keys of its runs.
        seed: what remakes theta_k, known only where k = 0 and the model is one of Tombola's.

    Raises:
        BadInput: the mask is not one of these weights, one of them is sparse, or the origin is no mapping.
    """

    mask: Mask
    weights: Weights
    origin: Mapping[str, Any] = field(default_factory=dict)
    seed: Seed | None = None

    def __post_init__(self) -> None:
        mask.suits(self.mask, self.weights)
        for name, value in self.weights.items():
            weights.check_dense("the ticket", name, value)
        if not isinstance(self.origin, Mapping):
            raise BadInput(
                where="the ticket's origin",
                expected="a mapping of names to JSON values",
                found=shown(repr(self.origin)),
                todo='{"model": "mine"}, for one.',
            )

    def __repr__(self) -> str:
        origin = self.origin
        model, rewind, key = (shown(origin.get(name, "?")) for name in ("model", "rewind", "key"))
        return f"Ticket({model}, density {self.mask.density:.3g}, rewind {rewind}, from {key})"

    @staticmethod
    def of(model: nn.Module, alive: Mask, early: Weights, origin: Mapping[str, Any] | None = None) -> "Ticket":
        """The ticket of `model` that has the mask `alive` and returns to the weights `early`.

        Args:
            model: whose they are. It tells which names are tied, and so take what the first of them says.
            alive: m.
            early: theta_k, masked or not: `weights.of(model)` at step k.
            origin: what to remember of where it comes from; JSON values.

        Raises:
            BadInput: the weights or the mask are those of another model.

        >>> model = nn.Linear(3, 1)
        >>> start = weights.of(model)
        >>> Ticket.of(model, Mask({"weight": torch.tensor([[True, False, False]])}), start, {"model": "mine"})
        Ticket(mine, density 0.333, rewind ?, from ?)
        """
        alive, model = prunable.checked(alive, model), weights.bare(model)
        own, tied = model.state_dict(), weights.ties(model)
        weights.fit(own, early, f"weights of {type(model).__name__}")
        masked = mask.apply(early, alive)
        made = Ticket(alive, {name: masked[tied.get(name, name)] for name in own}, {} if origin is None else origin)
        own_basis = {"basis": model.name} if isinstance(model, InBasis) and model.name else {}
        return replace(made, origin={**made.origin, **_laid_out(model, alive), **own_basis})

    def apply(self, model: nn.Module) -> None:
        """Put the ticket's weights into `model`, by copy; train it under `mask` from there.

        Args:
            model: as it is, compiled, or wrapped for several processes.

        Raises:
            BadInput: it is another model, whose first tensors that differ are named; or one that cannot be written to;
                or its parameters are coordinates in another basis than the ticket's, of which one may be that of the
                weights themselves.
        """
        self._same_numbers(weights.bare(model))
        weights.put(weights.bare(model), self.weights)

    def transfer(self, model: nn.Module, rule: Rule = "matching", *, values: bool = True) -> Transfer:
        """Carry the ticket over to another model, layer by layer by an explicit rule; see `tombola.transfer`.

        Raises:
            BadInput: nothing matches, or what the rule names is not there or of another shape; or the model's
                parameters are coordinates in another basis than the ticket's; or it is a random one, or one of theta_0,
                and a layer of the model would take what belongs to another.
        """
        self._same_numbers(weights.bare(model))
        if rule != "matching" or not _alike(self.weights, weights.own(weights.bare(model))):
            self._moves(weights.bare(model), rule)
        return transfer(self.mask, self.weights, weights.bare(model), rule, values=values)

    def _same_numbers(self, model: nn.Module) -> None:
        """Raise BadInput where numbers in one basis would be taken for those in another: names and shapes are equal."""
        ours, theirs = self.basis, _basis_of(model)
        if ours is not None and theirs is not None and ours != theirs:
            raise _other_basis(ours, theirs, model, self.origin.get("model"))

    def _moves(self, model: nn.Module, rule: Rule) -> None:
        """Raise BadInput where axes belong to a layer, or to a whole network, and the ticket's are to go to another."""
        named = variants.variant(f"ticket+{self.basis}") if self.basis else None
        if named is None or not (named.variant.of_init or (named.variant.seed and rule != "matching")):
            return
        raise BadInput(
            where=f"a ticket for {type(model).__name__}",
            expected="layers of the same names in a network of the same shapes"
            if named.variant.of_init
            else "layers of the same names, rule='matching'",
            found=f"coordinates in {self.basis}, other axes for each layer",
            todo="Its carried_out(mask) gives the plain network, whose weights go anywhere.",
        )

    @property
    def basis(self) -> str | None:
        """Which coordinates its numbers are, `dct`; "" for the weights themselves, None where it does not say."""
        name = self.origin.get("model")
        if isinstance(written := self.origin.get("basis"), str):
            name = f"ticket{variants.MARK}{written}"
        try:
            return (variants.parts(name)[1] if models.mixes(name) else "") if isinstance(name, str) else None
        except ValueError:  # a model that is not one of ours
            return None

    def stretch(self, to: nn.Module, map: str = "appended", *, blocks: Sequence[str] = (), name: str = "") -> "Ticket":
        """The ticket that a deeper network of the family has by copies of this one's blocks; see `tombola.elastic`.

        Weights, normalisations with their statistics, and masks are copied by one rule; what is in no block goes to its
        namesake. The density is whatever comes of it.

        Args:
            to: the deeper network, of which only names and shapes matter.
            map: which blocks go where: `appended`, the blocks in their order again and again; `interpolated`, copies
                beside each other; or a map like `0:0;1:1,3;2:2,4`, source block : target blocks in each stage.
            blocks: how the names of blocks begin, {} for their numbers: `["encoder.{}"]`, `["layer{}.{}"]` with stages;
                by default as in Tombola's own ResNets, VGGs, transformers and fully connected networks.
            name: of the network, to be remembered in the ticket's origin; by default that of its class.

        Raises:
            BadInput: a tensor of the target has no source, or one of another shape; the map is none of these networks;
                the target is shallower; or numbers are coordinates in a basis, of this ticket or of the target.

        >>> flat, deep = (models.build(f"lenet-{widths}", (4,), 2, "glorot-normal", 0) for widths in ("9-9", "9-9-9"))
        >>> Ticket.of(flat, prunable.full(flat), weights.of(flat)).stretch(deep).origin["elastic"]["map"]
        '0:0;1:1,2'
        """
        return self._elastic(to, map, blocks, name, deeper=True)

    def squeeze(self, to: nn.Module, map: str = "appended", *, blocks: Sequence[str] = (), name: str = "") -> "Ticket":
        """The ticket that a shallower network of the same family has without some of this one's blocks.

        Args:
            to, blocks, name: as in `stretch`.
            map: which blocks stay and where they go: `appended`, the first ones; `interpolated`, as evenly spread as
                can be; or a map, which leaves the others out. Each undoes the stretching of its name.

        Raises:
            BadInput: as in `stretch`; the target is deeper.
        """
        return self._elastic(to, map, blocks, name, deeper=False)

    def _elastic(self, to: nn.Module, how: str, blocks: Sequence[str], name: str, deeper: bool) -> "Ticket":
        model = weights.bare(to)
        if self.basis or isinstance(model, InBasis):
            raise _stretched_in_basis(self.basis or "", model)
        source, target = (
            {key: tuple(each.shape) for key, each in of.items()} for of in (self.weights, weights.own(model))
        )
        if (len(target) < len(source)) == deeper and len(target) != len(source):
            raise _other_way(model, len(target), len(source), deeper)
        taken = elastic.taken(source, target, how, blocks)
        alive = elastic.mask(taken, self.mask)
        before = {key: self.origin[key] for key in ("model", "elastic") if key in self.origin}
        came = {**before, "density": self.mask.density, "map": elastic.written(source, target, how, blocks)}
        kept = {key: value for key, value in self.origin.items() if key != "layouts"}
        origin = {**kept, "model": name or type(model).__name__, "density": alive.density, "elastic": came}
        return Ticket.of(model, alive, elastic.weights(taken, self.weights), origin)

    def save(self, path: str | os.PathLike[str], *, as_seed: bool = False) -> None:
        """Write one safetensors file: the mask in bits or gaps, the living weights, the origin as JSON.

        The file appears complete or not at all; the same ticket is the same bytes.

        Args:
            path: the file.
            as_seed: leave the weights out and keep the seed that remakes them: smaller, but of use only where torch
                and the processor draw the same numbers, which loading checks.

        Raises:
            BadInput: the file cannot be written, the origin is not JSON, or no seed remakes the weights.
        """
        files.deliver(path, self.content(as_seed=as_seed))

    def content(self, *, as_seed: bool = False) -> bytes:
        """What `save` writes.

        Raises:
            BadInput: the origin is not JSON, or no seed remakes the weights.
        """
        living, tied = _stored(self.weights, self.mask)
        codes = mask_codec.encoded(self.mask)
        tensors = {f"mask/{name}": code for name, code in codes.items()}
        if not as_seed:
            tensors |= {f"weights/{name}": value for name, value in living.items()}
        metadata = {
            # The first key in the order of the alphabet, so that its zeros are the first ones in the file.
            "digest": files.ZEROS,
            "format": FORMAT,
            "masks": [[name, list(alive.shape)] for name, alive in self.mask.items()],
            "origin": dict(self.origin),
            "seed": asdict(self.seed) if self.seed else None,
            "tied": tied,
            "weights": list(self.weights),
        }
        if as_seed:
            metadata["weights_sha256"] = self._remade()
        try:
            json.dumps(metadata, sort_keys=True)
        except (TypeError, ValueError) as error:
            raise BadInput(
                where="the ticket's origin", expected="JSON values", found=str(error), todo="Convert or leave it out."
            ) from error
        return container.content(tensors, KEY, metadata, sort_keys=True)

    def _remade(self) -> str:
        own = _sha256(self.weights, self.mask)
        if self.seed is None:
            found = "a ticket without one"
        elif _sha256(self.seed.masked(self.mask), self.mask) != own:
            found = "a seed that makes other weights"
        else:
            return own
        raise BadInput(
            where=repr(self),
            expected="a seed that remakes its weights",
            found=found,
            todo="Only tickets of step 0 of Tombola's own models have one: save the weights.",
        )

    @staticmethod
    def load(path: str | os.PathLike[str]) -> "Ticket":
        """Read a ticket's file, of this format or an older one; nothing in it is executed.

        Raises:
            BadInput: it is no ticket, is damaged, a newer version wrote it, or its seed makes other weights here.
        """
        return _parsed(_read(path), str(path))

    def push(
        self, repo: str, *, revision: str | None = None, private: bool = False, endpoint: str | None = None
    ) -> str:
        """Publish the ticket's file and a model card in the repository `repo` of the Hugging Face hub.

        Args:
            repo: `user/name`. Made where it is not there yet.
            revision: the branch, which must exist; by default the main one.
            private: whether a new repository is hidden from others.
            endpoint: another hub than the library's own.

        Returns:
            The address of the commit.

        Raises:
            BadInput: there is no such user or branch, or no token that may write there; the extra `hub` is missing.
            TombolaError: the hub cannot be reached.
        """
        content = {FILE: self.content(), "README.md": card.card(repo, repr(self), self.mask, self.origin).encode()}
        return hub.push(repo, content, repr(self), revision=revision, private=private, endpoint=endpoint)

    @staticmethod
    def pull(repo: str, *, revision: str | None = None, endpoint: str | None = None) -> "Ticket":
        """Load the ticket in the repository `repo` of the Hugging Face hub; its file stays in the library's cache.

        Args:
            repo: `user/name`.
            revision: a branch, a tag or a commit; by default the newest of the main branch.
            endpoint: another hub than the library's own.

        Raises:
            BadInput: there is no such repository or revision, it holds no ticket, or the extra `hub` is missing.
            TombolaError: the hub cannot be reached.
        """
        return Ticket.load(hub.pull(repo, FILE, revision=revision, endpoint=endpoint))


def _basis_of(model: nn.Module) -> str | None:
    """As `Ticket.basis`; None of bases of one's own."""
    return (model.name or None) if isinstance(model, InBasis) else ""


def _alike(ours: Weights, theirs: Weights) -> bool:
    return {name: each.shape for name, each in ours.items()} == {name: each.shape for name, each in theirs.items()}


def _other_basis(ours: str, theirs: str, model: nn.Module, named: object) -> BadInput:
    def said(basis: str) -> str:
        return f"whose parameters are coordinates in {basis}" if basis else "whose parameters are weights"

    return BadInput(
        where=f"a ticket for {type(model).__name__}",
        expected=f"a network {said(ours)}, as the numbers of the ticket are",
        found=f"one {said(theirs)}",
        todo=f"models.build({shown(named)!r}, ...) makes one like the ticket's"
        + ("; its carried_out(mask) gives the plain network." if ours else "."),
    )


def _stretched_in_basis(ours: str, model: nn.Module) -> BadInput:
    return BadInput(
        where=f"stretch or squeeze to {type(model).__name__}",
        expected="a ticket, and a network, of weights: coordinates are of one layer, each of which has its own axes",
        found=f"a ticket in {ours or 'weights'}, a network of {_basis_of(model) or 'weights'}",
        todo="carried_out(mask) of a network of coordinates gives the plain network and its mask, for Ticket.of.",
    )


def _other_way(model: nn.Module, ours: int, theirs: int, deeper: bool) -> BadInput:
    return BadInput(
        where=f"{'stretch' if deeper else 'squeeze'} to {type(model).__name__}",
        expected=f"a network that is {'deeper' if deeper else 'shallower'} than the ticket's, with {theirs} tensors",
        found=f"one with {ours}",
        todo=f"ticket.{'squeeze' if deeper else 'stretch'} goes the other way.",
    )


def about(path: str | os.PathLike[str]) -> dict[str, Any]:
    """What a ticket's file says of itself, unchecked: its format, shapes, origin, and what it holds.

    Raises:
        BadInput: it is no ticket.
    """
    return _about(_read(path), str(path))


def _read(path: str | os.PathLike[str]) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise _no_ticket(str(path), f"none ({str(error.strerror).lower()})", "Name the file of a ticket.") from error


def _no_ticket(where: str, found: str, todo: str = "`tombola ticket` makes one.") -> BadInput:
    return BadInput(where=where, expected="a ticket's file", found=found, todo=todo)


def _about(content: bytes, where: str) -> dict[str, Any]:
    """What is written under `tombola` in the header."""
    if content[8:9] != b"{" and content.startswith((b"\x80", b"PK")):
        raise _no_ticket(where, "a pickle, as torch.save writes it", "Tombola reads none: they execute what they hold.")
    try:
        metadata = container.metadata(content, KEY)
        if not isinstance(metadata["format"], int):
            raise TypeError(f"format {metadata['format']!r}")
        if not isinstance(metadata["origin"], dict):
            raise TypeError(f"origin {metadata['origin']!r:.60}")
        return metadata
    except container.Foreign as other:
        if "tombola-search" in other.keys:
            search = "Search.resume opens it; its `ticket(level)` is one."
            raise _no_ticket(where, "the file of a search", search) from other
        raise _no_ticket(where, f"{other} ({', '.join(other.names[:3])})") from other
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise _no_ticket(where, f"something else, or a damaged file ({shown(error, LONGEST)})") from error


def _parsed(content: bytes, where: str) -> Ticket:
    metadata = _about(content, where)
    if not 1 <= metadata["format"] <= FORMAT:
        raise _newer(where, metadata["format"])
    try:
        return _version_1(metadata, content) if metadata["format"] == 1 else _version_2(metadata, content, where)
    except container.DAMAGED as error:
        raise _no_ticket(where, f"a damaged one ({shown(error, LONGEST)})", "Get it anew.") from error


def _newer(where: str, version: int) -> BadInput:
    return BadInput(
        where=where,
        expected=f"a ticket's file of format {FORMAT} or older",
        found=f"format {version}",
        todo="A newer version of Tombola wrote it: use that one.",
    )


def _version_1(metadata: dict[str, Any], content: bytes) -> Ticket:
    shapes = {name: tuple(shape) for name, shape in metadata["shapes"].items()}
    mask_codec.affordable(shapes.values(), len(content))
    tensors = container.tensors(content)
    alive = mask_codec.unpack(weights.below("mask/", tensors), shapes)
    return Ticket(alive, mask_codec.expand(weights.below("weights/", tensors), alive), metadata["origin"])


def _version_2(metadata: dict[str, Any], content: bytes, where: str) -> Ticket:
    tensors = container.sealed(content, metadata)
    mask_codec.affordable((shape for _, shape in metadata["masks"]), len(content))
    seed = Seed(**metadata["seed"] | {"shape": tuple(metadata["seed"]["shape"])}) if metadata["seed"] else None
    remade = seed if "weights_sha256" in metadata else None
    if remade:
        _remakes(remade, dict(metadata["masks"]), len(content))
    alive = Mask({name: mask_codec.decode(tensors[f"mask/{name}"], shape) for name, shape in metadata["masks"]})
    if remade:
        values = remade.masked(alive)
        if _sha256(values, alive) != metadata["weights_sha256"]:
            raise _other_weights(
                where, remade, shown(metadata["origin"].get("versions", {}).get("torch", "of its time"))
            )
    else:
        # Of a tied weight that has a mask under each of its names the values are there once; older files have such.
        stored = Mask({name: each for name, each in alive.items() if name not in metadata["tied"]})
        values = mask_codec.expand(weights.below("weights/", tensors), stored)
    return Ticket(
        alive,
        {name: values[metadata["tied"].get(name, name)] for name in metadata["weights"]},
        metadata["origin"],
        seed,
    )


def _other_weights(where: str, seed: Seed, by: str) -> BadInput:
    return BadInput(
        where=where,
        expected="the weights whose SHA-256 the file has",
        found=f"others, drawn by torch {torch.__version__} on this processor from {shown(seed, LONGEST)}",
        todo=f"Load it with the torch ({by}) and on the kind of processor that made it, and save the weights.",
    )


def _remakes(seed: Seed, shapes: Mapping[str, list[int]], size: int) -> None:
    """Raise ValueError, before anything is built, unless the model of `seed` has the layers of these masks."""
    counts = seed.counts()
    mask_codec.affordable([(count,) for count in counts.values()], size)
    for name, shape in shapes.items():
        if counts.get(name) != prod(shape):
            raise ValueError(
                f"{shown(seed.model)} has {counts.get(name, 0):,} weights in {name}, its mask {prod(shape):,}"
            )


def _laid_out(model: nn.Module, alive: Mask) -> dict[str, Any]:
    """How those weights are laid out that are not outputs x inputs, if there are any: their shapes do not show it.

    None stands for a weight of which it is not known, as that of a layer of the user's own.
    """
    known = layouts(model)
    matrices = [name for name, each in alive.items() if each.dim() > 1]
    other = {name: known.get(name) for name in matrices if known.get(name) != Layout()}
    return {"layouts": {name: layout and asdict(layout) for name, layout in other.items()}} if other else {}


def _stored(full: Weights, alive: Mask) -> tuple[dict[str, Tensor], dict[str, str]]:
    """What of the weights goes into a file, each tensor of its own memory; and which names are others' tensors."""
    first: dict[Hashable, str] = {}
    tied: dict[str, str] = {}
    # A mask stands under one of the names of a tied weight, which is the one that is kept.
    for name in sorted(full, key=lambda name: name not in alive):
        place = weights.place(full[name])
        if full[name].numel() and first.setdefault(place, name) != name and name not in alive:
            tied[name] = first[place]
    living = mask_codec.compress({name: value for name, value in full.items() if name not in tied}, alive)
    return {
        name: value.detach().cpu().clone(memory_format=torch.contiguous_format) for name, value in living.items()
    }, tied


def _sha256(full: Weights, alive: Mask) -> str:
    """Of what a file with weights would hold of them, one after the other by name."""
    found = hashlib.sha256()
    for _, value in sorted(_stored(full, alive)[0].items()):
        found.update(value.view(-1).view(torch.uint8).numpy().tobytes())
    return found.hexdigest()
