"""What can be asked for, as a page: each method, control, score, objective, ... and study, and where it comes from."""

from tombola.lab.members import Members

# Kind -> its heading, and how one of its members is named.
KINDS = {
    "methods": ("Methods", 'The `method` of a spec, as in `method = "one-shot"`, or one of its `arms`.'),
    "controls": ("Controls", "One of the `arms` of a spec; many also of the `controls` of `Search.verify`."),
    "scores": ("Scores", 'What pruning goes by: `prune = {score = "random"}` in a spec, `score` of `Search`.'),
    "objectives": (
        "Objectives",
        'What is made small: `objective = {name = "l1", strength = 1e-5}` of a recipe.',
    ),
    "dynamics": (
        "Dynamics",
        'What moves the mask, or makes the weights, in a training: `dynamics = {name = "rigl"}` of a recipe.',
    ),
    "studies": ("Studies", "A table of the spec, like `[study.overlap]`, and what `tombola study` says."),
}


def page(members: Members) -> str:
    """Markdown, a table of each kind below its heading."""
    parts = ["# What there is", "This page is written by `python benchmarks/methods.py`, from the tables of the code."]
    for kind, (heading, named) in KINDS.items():
        parts += [f"## {heading}", named, table(members, kind)]
    return "\n\n".join(parts) + "\n"


def table(members: Members, *kinds: str) -> str:
    """A table in Markdown of the members of some kinds.

    >>> from tombola.lab.members import BUILT_IN
    >>> rows = table(BUILT_IN, "methods", "controls").splitlines()
    >>> next(row for row in rows if "`shuffle`" in row).split(" | 2020")[0]
    "| control | `shuffle` | The ticket's mask shuffled inside each layer"
    """
    several = len(kinds) > 1
    head = (["kind"] if several else []) + ["name", "what it does", "year", "paper"]
    rows: list[list[str]] = [head, ["---" for _ in head]]
    for kind in kinds:
        for name, member in members.tables[kind].items():
            cells = [f"`{name}`", member.about.removesuffix("."), str(member.year or ""), member.paper]
            rows.append(([kind.removesuffix("s")] if several else []) + cells)
    escaped = ([cell.replace("|", r"\|") for cell in row] for row in rows)
    return "\n".join(f"| {' | '.join(row)} |" for row in escaped)
