"""The list of what there is, as the docs have it: docs/methods.md, and the table in README.md.

python benchmarks/methods.py
"""

import re
from pathlib import Path

from tombola.lab.members import BUILT_IN
from tombola.report import members

ROOT = Path(__file__).parents[1]
BLOCK = re.compile(r"(?<=<!-- methods -->\n).*?(?=<!-- end -->)", re.DOTALL)  # of README.md


def pages() -> dict[str, str]:
    """What each file is to hold."""
    readme, table = (ROOT / "README.md").read_text(encoding="utf-8"), members.table(BUILT_IN, "methods", "controls")
    return {"docs/methods.md": members.page(BUILT_IN), "README.md": BLOCK.sub(lambda _: f"{table}\n", readme)}


if __name__ == "__main__":
    for name, text in pages().items():
        (ROOT / name).write_text(text, encoding="utf-8")
