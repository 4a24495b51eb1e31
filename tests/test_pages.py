"""Each page of docs/ that says how to add something is followed to the letter, in a copy of the package.

Comments above a page's code blocks, which no reader sees, say what the words around them say:

    <!-- file PATH -->          the block is this file: of the package if its path begins with tombola/, else of the
                                folder where the commands are typed
    <!-- import PATH -->        the block goes below the docstring of this file of the package
    <!-- entry PATH TABLE -->   the block goes into this table of that file
    <!-- above PATH TABLE -->   the block goes above this table of that file
    <!-- type -->               the lines are typed, one after another
    <!-- output -->             what the last of these lines prints, where `...` stands for anything
"""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from concurrent.futures import Future
from pathlib import Path

import pytest

import tombola

PACKAGE = Path(tombola.__file__).parent
DOCS = PACKAGE.parent / "docs"
STEP = re.compile(r"<!-- (file|import|entry|above|type|output) ?([^\n]*?) ?-->\n```\w*\n(.*?)```", re.DOTALL)
PAGES = [
    *sorted(page.stem for page in DOCS.glob("adding-a*.md")),
    "tables",
    "corruption",
    "distillation",
    "bayesian",
    "dual",
    "elastic",
    "uses",
]


class Reader:
    """Somebody who does what a page says.

    Args:
        folder: where it is done; `tombola` in it is the copy of the package.
        environment: of the commands that are typed.
    """

    def __init__(self, folder: Path, environment: Mapping[str, str]) -> None:
        programs = os.pathsep.join((str(Path(sys.executable).parent), environment["PATH"]))  # the reader's environment
        own = {"PYTHONPATH": str(folder), "COLUMNS": "120", "TOMBOLA_STORE": "tombola-store", "PATH": programs}
        self._folder, self._environment, self._printed = folder, {**environment, **own}, ""
        half_written = shutil.ignore_patterns("*.pyc.*")  # by the tests that run meanwhile
        shutil.copytree(PACKAGE, folder / "tombola", ignore=half_written)

    def follow(self, page: str) -> None:
        for what, where, block in STEP.findall(page):
            match what:
                case "file":
                    (self._folder / where).write_text(block)
                case "import":
                    self._below_docstring(self._folder / where, block)
                case "entry":
                    path, table = where.split()
                    self._at(self._folder / path, table, f"\\1\n{block}")
                case "above":
                    path, table = where.split()
                    self._at(self._folder / path, table, f"{block}\n\n\\1")
                case "type":
                    self._printed = "".join(map(self._type, block.splitlines()))
                case "output":
                    self._printed_has(block)

    def _printed_has(self, block: str) -> None:
        parts = [r"\s+".join(map(re.escape, part.split())) for part in block.split("...")]
        assert re.search(r"[\s\S]*".join(parts), self._printed), f"{block}\n{self._printed}"

    def _below_docstring(self, path: Path, block: str) -> None:
        head, docstring, rest = path.read_text().split('"""', 2)
        path.write_text(f'{head}"""{docstring}"""\n{block}{rest}')

    def _at(self, path: Path, table: str, with_block: str) -> None:
        """Put `with_block` in place of the line at which a table begins, which is `\\1` in it."""
        line = rf"(^{table}\b[^\n]* = [^\n]*[{{(\[](?: +#[^\n]*)?)$"
        text, times = re.subn(line, with_block, path.read_text(), flags=re.MULTILINE)
        assert times == 1, f"{path} has no table {table} that begins on a line of its own"
        path.write_text(text)

    def _type(self, line: str) -> str:
        words = line.replace("tombola ", f"{sys.executable} -m tombola ", 1)
        done = subprocess.run(
            words, shell=True, cwd=self._folder, env=self._environment, capture_output=True, text=True, timeout=300
        )
        assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"
        return done.stdout


def followed(page: str, folder: Path, environment: Mapping[str, str]) -> None:
    """Follow a page of docs/ in `folder`; conftest.py has it done beside the first tests."""
    text = (DOCS / f"{page}.md").read_text()
    assert STEP.search(text), "a page on adding something has steps that can be followed"
    Reader(folder, environment).follow(text)
    reports = list(folder.glob("tombola-store/reports/*/report.html"))
    assert reports and all(report.stat().st_size for report in reports)


@pytest.mark.parametrize("page", PAGES)
def test_a_page_on_adding_something_can_be_followed_to_the_letter(
    page: str, readers: Mapping[str, "Future[None]"]
) -> None:
    readers[page].result()


def test_a_step_that_fails_is_not_passed_over(tmp_path: Path) -> None:
    reader = Reader(tmp_path, os.environ)
    with pytest.raises(AssertionError, match="no such file"):
        reader.follow("<!-- type -->\n```sh\ntombola plan nothing.toml\n```")
    with pytest.raises(AssertionError, match="no table"):
        reader.follow("<!-- entry tombola/models/__init__.py NOTHING -->\n```python\n```")
    with pytest.raises(AssertionError):
        reader.follow("<!-- type -->\n```sh\necho one\n```\n<!-- output -->\n```text\ntwo\n```")
