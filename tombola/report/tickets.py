"""What a ticket's file holds, and what cashing a ticket in comes to: as JSON values, and for people."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from tombola import elastic
from tombola.errors import BadInput

if TYPE_CHECKING:  # they need torch, which takes two seconds to import
    from torch import Tensor

    from tombola.cash.comparison import Files
    from tombola.cash.form import Proof
    from tombola.ticket import Ticket


def ticket_record(ticket: "Ticket", file: str, size: int, about: dict[str, Any]) -> dict[str, Any]:
    """What `tombola show` says of a ticket, as JSON values.

    Args:
        ticket: that the file holds.
        file: its name, for people.
        size: the file's length in bytes.
        about: what the file says of itself.
    """
    listed = ticket.origin.get("layouts")
    layouts = listed if isinstance(listed, dict) else {}
    of_weights = _of_weights(ticket.origin.get("model"))
    idle = {
        name: _idle(alive, layouts.get(name, {})) if of_weights else (None, None) for name, alive in ticket.mask.items()
    }
    layers = [
        {
            "name": name,
            "shape": list(alive.shape),
            "alive": int(alive.sum()),
            "total": alive.numel(),
            "density": int(alive.sum()) / alive.numel() if alive.numel() else 1.0,
            "idle_outputs": idle[name][0],
            "unread_inputs": idle[name][1],
        }
        for name, alive in ticket.mask.items()
    ]
    distinct = {id(value): value for value in ticket.weights.values()}  # tied weights are one tensor
    return {
        "ticket": repr(ticket),
        "file": file,
        "format": about["format"],
        "holds": "seed" if "weights_sha256" in about else "weights",
        "bytes": size,
        "dense_bytes": sum(value.numel() * value.element_size() for value in distinct.values()),
        "alive": ticket.mask.alive,
        "total": ticket.mask.total,
        "density": ticket.mask.density,
        "layers": layers,
        **_followed(ticket),
        "origin": dict(ticket.origin),
    }


def _of_weights(model: Any) -> bool:
    """Whether a mask says which units are connected: not where it is on coordinates in a basis."""
    from tombola import models

    try:
        return not models.mixes(str(model))
    except ValueError:  # a model that is not one of ours
        return True


def _followed(ticket: "Ticket") -> dict[str, Any]:
    """What lies on a path from an input to an output, and the parts of it; None where nobody knows what reads what."""
    import torch

    from tombola import models
    from tombola.mask import Mask
    from tombola.study import anatomy, components, paths

    try:
        if not models.chain(str(ticket.origin.get("model"))):
            return {"on_a_path": None, "parts": None}
        matrices = {name: value.shape for name, value in ticket.weights.items() if value.dim() > 1}
        dense = {name: torch.ones(shape, dtype=torch.bool) for name, shape in matrices.items()}
        whole = Mask({name: ticket.mask.get(name, alive) for name, alive in dense.items()})
        links = paths.chain(whole)
    except (ValueError, BadInput):  # the file says that it is of a model of ours, whose layers these are not
        return {"on_a_path": None, "parts": None}
    alive = {name: each.numpy() for name, each in ticket.mask.items() if name in links}
    shares, parts = anatomy.on_paths(alive, links), components.of_parts(components.components(whole))
    counts = {name: round(shares[name] * int(alive[name].sum())) for name in alive}
    return {"on_a_path": sum(counts.values()), "parts": parts["each"]}


def _idle(alive: "Tensor", fields: Any) -> tuple[int | None, int | None]:
    """Idle outputs and unread inputs of a layer; None where it has none, or what the file says of them is no layout.

    Args:
        fields: of its weight's layout, those of an ordinary one left out; None if it is not known.
    """
    from tombola.layers import Layout
    from tombola.study.anatomy import idle

    try:
        layout = Layout(**fields)
        if alive.ndim < 2 or {layout.inputs, layout.outputs} != {0, 1}:
            return None, None
        return idle(alive.numpy(), layout)
    except (TypeError, ValueError, ZeroDivisionError):
        return None, None


_PLACE = ("experiment", "model", "data", "method", "rewind", "level", "replicate", "made")


def ticket_text(record: dict[str, Any]) -> str:
    """The record of a ticket for people."""
    origin, size, dense = record["origin"], record["bytes"], record["dense_bytes"]
    held = "the living weights" if record["holds"] == "weights" else "the seed of the weights"
    lines = [
        record["ticket"],
        f"{record['file']}: format {record['format']}, mask and {held}, {size:,} bytes, "
        f"{size / dense:.1%} of the {dense:,} of all its numbers",
        *(f"  {name:<10} {origin[name]}" for name in _PLACE if origin.get(name) is not None),
        *(f"  {'elastic':<10} from {came}" for came in [elastic.said(origin)] if came),
        *(f"  {name:<10} {version}" for name, version in origin.get("versions", {}).items()),
        "",
    ]
    head = ["layer", "shape", "alive", "of", "density", "idle outputs", "unread inputs"]
    rows = [
        [
            layer["name"],
            " x ".join(map(str, layer["shape"])),
            f"{layer['alive']:,}",
            f"{layer['total']:,}",
            f"{layer['density']:.2%}",
            *("-" if layer[name] is None else f"{layer[name]:,}" for name in ("idle_outputs", "unread_inputs")),
        ]
        for layer in record["layers"]
    ]
    rows.append(["all", "", f"{record['alive']:,}", f"{record['total']:,}", f"{record['density']:.2%}", "", ""])
    lines += _columns(head, rows)
    if record["parts"] is not None:
        from tombola.study.components import parts_of, told

        lines += [
            "",
            f"{record['on_a_path']:,} of the {record['alive']:,} living weights lie on a path from an input to an "
            f"output. As a network {told(parts_of({'each': record['parts']}))}.",
        ]
    return "\n".join(lines)


def forms_record(
    proof: "Proof", keys: Sequence[str], density: float, examples: int, threads: int, written: "Files | None"
) -> dict[str, Any]:
    """What `tombola cash` found, as JSON values.

    Args:
        keys: of the training whose end the forms are made of; several of an ensemble.
        density: of its mask, or of all together.
        examples: on which outputs were compared and accuracy counted.
    """
    return {
        **({"key": keys[0]} if len(keys) == 1 else {"keys": list(keys)}),
        "density": density,
        "examples": examples,
        "threads": threads,
        "forms": [
            {
                "name": form.name,
                "difference": form.difference,
                "largest_output": form.largest,
                "accuracy": form.accuracy,
                "disk_bytes": form.disk_bytes,
                "plain_bytes": form.plain_bytes,
                "memory_bytes": form.memory_bytes,
                "multiply_adds": form.multiply_adds,
                "latency_s": {str(batch): taken for batch, taken in form.latency_s.items()},
                "quartiles_s": {str(batch): timing.quartiles_s for batch, timing in form.timing.items()},
                "rounds_s": {str(batch): timing.rounds_s for batch, timing in form.timing.items()},
                "unchanged": dict(form.unchanged),
                "examples_per_s": {str(batch): batch / taken for batch, taken in form.latency_s.items()},
            }
            for form in proof
        ],
        "left_out": dict(proof.left_out) | (dict(written.left_out) if written else {}),
        "itself": proof.itself,
        "drawn": proof.drawn,
        "files": [str(path) for path in written or ()],
    }


def forms_text(record: dict[str, Any], proof: "Proof", written: "Files | None") -> str:
    """The same for people: a table, what was found in words, what was left out and why, and what to take."""
    from tombola.cash.form import advice, notes, sentences, table

    threads = f"{record['threads']} thread{'' if record['threads'] == 1 else 's'}"
    largest = f"outputs up to {proof[0].largest:.3g}"
    networks = record.get("key") or f"ensemble of {len(record['keys'])}: {', '.join(record['keys'])}"
    where = f"{networks}, density {record['density']:.2%}; {record['examples']:,} test examples, {largest}; {threads}"
    if basis := record.get("coordinates"):
        where += (
            f"\n{basis['density']:.2%} of the coordinates in the basis {basis['basis']} are kept. They make "
            f"{record['density']:.2%} of the weights, which are what a machine multiplies with."
        )
    if record.get("weights") == "means":
        where += (
            "\nThe network at its means, without noise: one answer in the place of a mean over draws, and other "
            "accuracies than the table's."
        )
    left_out = written.left_out if written else None
    missing = [f"{name}: not written. {why}" for name, why in (left_out or {}).items()]
    files = [f"-> {path}" for path in written or ()]
    folder = str(written[0].parent) if written else "FOLDER"
    blocks = [[where], table(proof), sentences(proof), notes(proof) + missing, advice(proof, folder, left_out), files]
    return "\n\n".join("\n".join(block) for block in blocks if block)


def _columns(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a table: names to the left, numbers to the right."""
    widths = [max(len(row[place]) for row in [head, *rows]) for place in range(len(head))]
    return [
        "  ".join(
            cell.ljust(width) if place == 0 else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in [head, *rows]
    ]
