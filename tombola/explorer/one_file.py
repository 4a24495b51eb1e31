"""The page of one file: a ticket's, or a search's around a loop of one's own."""

from collections.abc import Mapping, Sequence
from functools import partial
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tombola import data, mask_codec, models, weights
from tombola.errors import BadInput, TombolaError, shown
from tombola.explorer.coding import Blobs
from tombola.explorer.experiment import COORDINATES, ROOM, ROUNDED
from tombola.explorer.filling import Line, Look, Network, fill
from tombola.explorer.layers import chained, layer
from tombola.explorer.record import Level, Page
from tombola.layers import Layout
from tombola.models.in_basis import InBasis
from tombola.search import checkpoint
from tombola.search.checkpoint import Progress
from tombola.ticket import Ticket

if TYPE_CHECKING:
    from tombola.mask import Mask

NO_EXAMPLES = "A file holds no data, so there are no examples that excite a unit."
FOLLOWING = "Layers are taken to follow each other, as their sizes fit; the file does not say whether they do."
NO_PLACE = "How an input is laid out as a picture is not in the file: --shape 1,28,28, say, tells it."


def page(path: Path, shape: Sequence[int] = (), room: int = ROOM) -> Page:
    """The page of a file.

    Args:
        path: of a ticket or a search.
        shape: channels, height, width of an input, where it is an image and the file does not say so.
        room: for how many characters of binary parts.

    Raises:
        BadInput: it is the file of neither; or no layer reads an image of this shape.
    """
    if checkpoint.holds(path):
        about, progress = checkpoint.read(path, 0, 1)
        return _of_search(path, about, progress, tuple(shape), room)
    return _of_ticket(path, Ticket.load(path), tuple(shape), room)


def _of_ticket(path: Path, ticket: Ticket, shape: tuple[int, ...], room: int) -> Page:
    known = shape or _shape_of(ticket)
    level, replicate = (value if type(value) is int else 0 for value in map(ticket.origin.get, ("level", "replicate")))
    numbers = Level(level, ticket.mask.density, ticket.mask.alive, {}, "A ticket, before any training of its own.")
    notes = ["Its weights are those that the survivors return to, pruned ones 0."]
    if ticket.basis:
        ticket, notes = _of_weights(path, ticket), [COORDINATES.format(arms=f"A ticket in {ticket.basis}")]
    line = Line("ticket", replicate, [Look(numbers, lambda: ticket.mask, start=lambda: ticket.weights)])
    network = _network(ticket.mask, _layouts(ticket.origin.get("layouts")))
    return _page(path.name, repr(ticket), (known, network, line), {}, notes, room)


def _of_weights(path: Path, ticket: Ticket) -> Ticket:
    """The ticket whose numbers are the weights that this one's coordinates make."""
    name, shape, classes = str(ticket.origin.get("model")), _shape_of(ticket), _classes_of(ticket)
    try:
        models.check(name, shape, classes)
        fits = models.weight_counts(name, shape, classes) == {key: each.numel() for key, each in ticket.mask.items()}
        model = models.build(name, shape, classes, "glorot-normal", init_seed=0) if fits else None
    except (ValueError, TombolaError):
        model = None
    if not isinstance(model, InBasis):
        raise _coordinates(path, ticket.basis or "")
    ticket.apply(model)
    plain, reached = model.carried_out(ticket.mask)
    return Ticket.of(plain, reached, weights.of(plain), {"layouts": ticket.origin.get("layouts")})


def _coordinates(path: Path, basis: str) -> BadInput:
    return BadInput(
        where=path.name,
        expected="masks and weights, or what to make weights of",
        found=f"coordinates in {basis}, of a network that the file does not tell whole",
        todo="`tombola explore` of its experiment shows the weights; `tombola show` has the numbers of the file.",
    )


def _of_search(path: Path, about: Mapping[str, Any], progress: Progress, shape: tuple[int, ...], room: int) -> Page:
    kind, _, basis = str(about["model"]).partition(" ")
    if basis and kind == InBasis.__name__:
        raise _coordinates(path, shown(basis))
    begun = progress.rewind or progress.start
    early = begun.left["weights"] if begun else None
    last = {report.level: report.metrics for report in progress.history}
    names = list(dict.fromkeys(name for metrics in last.values() for name in metrics))

    def look(number: int, living: "Mask") -> Look:
        finished = number < len(progress.trained)
        values = dict(last.get(number, {}))
        steps = {"steps": progress.steps[number]} if finished else {}
        said = "" if finished else "This level is not finished."
        level = Level(number, living.density, living.alive, {**_finite(values), **steps}, said)
        trained = partial(mask_codec.expand, progress.trained[number], living) if finished else None
        return Look(level, lambda: living, trained, (lambda: early) if early is not None else None)

    line = Line("search", 0, [look(number, living) for number, living in enumerate(progress.masks)])
    columns = {**{name: (name.replace("_", " "), "number") for name in names}, "steps": ("steps done", "count")}
    told = f"A search on {shown(about['model'])}, {len(progress.trained)} levels finished."
    return _page(path.name, told, (shape, _network(progress.masks[0], {}), line), columns, [], room)


def _page(
    title: str,
    about: str,
    drawn: tuple[tuple[int, ...], Network, Line],
    columns: Mapping[str, tuple[str, str]],
    notes: Sequence[str],
    room: int,
) -> Page:
    shape, network, line = drawn
    _fits(shape, network)
    blobs, follow = Blobs(room), chained(network.layers)
    series, left_out = fill([line], network, blobs)
    unknown = [NO_EXAMPLES, *([FOLLOWING] if follow else []), *([] if shape else [NO_PLACE])]
    return Page(
        title=title,
        about=about,
        shape=shape,
        chained=follow,
        layers=network.layers,
        columns=columns,
        series=tuple(series),
        parts=tuple(blobs.parts),
        notes=[*notes, *left_out, *unknown, ROUNDED],
    )


def _fits(shape: tuple[int, ...], network: Network) -> None:
    first = network.layers[0]
    if shape and first.inputs * first.groups not in (shape[0], prod(shape)):
        raise BadInput(
            where="--shape",
            expected=f"channels, height and width of what {first.name} reads, which has {first.inputs} inputs",
            found=",".join(map(str, shape)),
            todo="1,28,28 is a grey image of 28 x 28 pixels.",
        )


def _finite(values: Mapping[str, float]) -> dict[str, float | None]:
    return {name: value if abs(value) < float("inf") else None for name, value in values.items()}  # NaN is not less


def _network(mask: "Mask", known: Mapping[str, Layout]) -> Network:
    kinds = {name: "conv" if each.dim() > 2 else "linear" for name, each in mask.items()}
    layers = [layer(name, kinds[name], each.shape, known.get(name, Layout())) for name, each in mask.items()]
    return Network(tuple(layers), known)


def _layouts(listed: Any) -> dict[str, Layout]:
    """Those that a ticket's file says; what is no layout, anybody may have written, is as an ordinary one."""
    found: dict[str, Layout] = {}
    for name, fields in listed.items() if isinstance(listed, dict) else ():
        sizes = fields if isinstance(fields, dict) else {}
        groups = sizes.get("groups")
        if (sizes.get("inputs"), sizes.get("outputs")) in ((0, 1), (1, 0)) and type(groups) is int and groups > 0:
            found[name] = Layout(sizes["inputs"], sizes["outputs"], groups)
    return found


def _classes_of(ticket: Ticket) -> int:
    last = list(ticket.weights.values())[-1]
    return ticket.seed.classes if ticket.seed else last.shape[0] if last.dim() else 0


def _shape_of(ticket: Ticket) -> tuple[int, ...]:
    if ticket.seed:
        return ticket.seed.shape
    name = ticket.origin.get("data")
    if not isinstance(name, str) or data.is_folder(name) or data.is_tokenised(name):
        return ()  # what a file names is not looked for on this machine
    try:
        shape = data.facts(name).shape
    except (ValueError, TombolaError):
        return ()
    first = next(iter(ticket.mask.values()))
    return shape if first.dim() > 1 and first.shape[1] in (shape[0], prod(shape)) else ()
