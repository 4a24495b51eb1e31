"""Imports only go down, and only the faces print."""

import ast
import re
from collections.abc import Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import tombola

PACKAGE = Path(tombola.__file__).parent

# A room may import the rooms of the floors below its own in this drawing, and those to its left on its own.
DRAWING = re.search(
    r"<!-- floors -->\n```text\n(.*?)```", (PACKAGE.parent / "docs" / "architecture.md").read_text(), re.S
)
assert DRAWING
FLOORS = [floor.split()[1:] for floor in re.sub(r"\n +", " ", DRAWING[1]).splitlines()]  # the name, then its rooms
HEIGHT = {room: height for height, room in enumerate(room for floor in reversed(FLOORS) for room in floor)}

FORBIDDEN = {
    "study": {"lab", "data"},
    "cash": {"lab", "data"},
}  # handed tensors and numbers, knows no store and no data set
MAY_PRINT = {"report", "cli"}


def modules() -> dict[str, ast.Module]:
    """Every module of the package, by its dotted name below `tombola`: `mask`, `data.mnist`, `data.__init__`."""
    paths = {
        path.relative_to(PACKAGE).with_suffix("").as_posix().replace("/", "."): path for path in PACKAGE.rglob("*.py")
    }
    return {name: ast.parse(path.read_text(encoding="utf-8")) for name, path in sorted(paths.items())}


def imported(tree: ast.Module) -> Iterator[tuple[str, str]]:
    """(module, name) of each import from tombola anywhere in `tree`, also inside functions.

    After a plain `import tombola` the names are those that the module then takes from it: `tombola.__version__`.
    """
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, "") for alias in node.names if alias.name.startswith("tombola."))
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "tombola":
            yield "tombola", node.attr
        elif isinstance(node, ast.ImportFrom) and node.level:
            yield "a relative import", ""
        elif isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "tombola":
            yield from ((node.module, alias.name) for alias in node.names)


def room_of(module: str, name: str) -> str:
    """The room that `from module import name` reaches into."""
    parts = module.split(".")
    if parts[0] != "tombola":
        return module
    if len(parts) > 1:
        return parts[1]
    return name if name in HEIGHT else "__init__"


def faults(trees: Mapping[str, ast.Module]) -> list[str]:
    """Each import that does not go down, as a line to read."""
    found = []
    for place, tree in trees.items():
        room = place.split(".")[0]
        if room not in HEIGHT:
            found.append(f"{place}: the room {room} has no place in docs/architecture.md")
            continue
        for module, name in imported(tree):
            other = room_of(module, name)
            line = f"{place} imports {module}{'.' + name if name else ''}"
            if other not in HEIGHT:
                found.append(f"{line}, and {other} has no place in docs/architecture.md")
            elif (module, name) == ("tombola", "__version__") or other == room:
                continue
            elif HEIGHT[other] > HEIGHT[room]:
                found.append(f"{line}, which is above it")
            elif other in FORBIDDEN.get(room, set()):
                found.append(f"{line}, which it must not know")
    return found


def test_imports_go_down() -> None:
    assert faults(modules()) == []


@pytest.mark.parametrize(
    ("place", "source", "fault"),
    [
        ("mask", "from tombola.prune import count", "mask imports tombola.prune.count, which is above it"),
        ("errors", "import tombola.mask", "errors imports tombola.mask, which is above it"),
        ("prune", "def late():\n    from tombola import lab", "prune imports tombola.lab, which is above it"),
        (
            "study.verdict",
            "from tombola.lab.store import Store",
            "study.verdict imports tombola.lab.store.Store, which is above it",
        ),
        ("study.verdict", "from tombola import data", "study.verdict imports tombola.data, which it must not know"),
        ("models.lenet", "import tombola.recipe", "models.lenet imports tombola.recipe, which is above it"),
        ("lab.plan", "from tombola import Ticket", "lab.plan imports tombola.Ticket, which is above it"),
        ("lab.plan", "import tombola\ntombola.cli.main()", "lab.plan imports tombola.cli, which is above it"),
        (
            "lab.plan",
            "from .store import Store",
            "lab.plan imports a relative import, and a relative import has no place in docs/architecture.md",
        ),
        ("utils", "", "utils: the room utils has no place in docs/architecture.md"),
    ],
)
def test_an_import_that_does_not_go_down_is_seen(place: str, source: str, fault: str) -> None:
    assert faults({place: ast.parse(source)}) == [fault]


def test_imports_that_go_down_are_no_faults() -> None:
    sources = {
        "recipe": "from tombola.models import Initialisation",
        "models.lenet": "from tombola import mask",
        "lab.plan": "import tombola\nfrom tombola.lab import store\nname = tombola.__version__",
        "__init__": "from tombola.lab.plan import plan",
    }
    assert faults({name: ast.parse(source) for name, source in sources.items()}) == []


def test_no_two_modules_import_each_other() -> None:
    trees = modules()

    def module_of(module: str, name: str) -> str:
        path = ".".join(module.split(".")[1:])
        inner = f"{path}.{name}" if path else name
        return next(
            (known for known in (inner, path, f"{inner}.__init__", f"{path}.__init__") if known in trees), "__init__"
        )

    graph = {place: {module_of(*target) for target in imported(tree)} - {place} for place, tree in trees.items()}
    assert graph["data.idx"] >= {"data.arrays", "data.download", "errors"}
    try:
        list(TopologicalSorter(graph).static_order())
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


def prints(tree: ast.Module) -> list[int]:
    """The lines where `print` is named."""
    return [node.lineno for node in ast.walk(tree) if isinstance(node, ast.Name) and node.id == "print"]


def test_only_the_faces_print() -> None:
    loud = {
        place: lines
        for place, tree in modules().items()
        if place.split(".")[0] not in MAY_PRINT and (lines := prints(tree))
    }
    assert loud == {}


def test_a_print_is_seen() -> None:
    assert prints(ast.parse("def f(x):\n    # print(1)\n    print(x)")) == [3]


def test_the_hypothesis_reads_in_under_600_lines() -> None:
    files = ("mask", "prune", "guard", "train", "methods/rewinding")
    assert sum(len((PACKAGE / f"{name}.py").read_text(encoding="utf-8").splitlines()) for name in files) < 600
