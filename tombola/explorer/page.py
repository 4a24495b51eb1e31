"""A record as one HTML file that needs nothing else and asks nobody for anything."""

import base64
import hashlib
import html
import json
from importlib.resources import files

from tombola.explorer.record import Page


def text(page: Page) -> str:
    """The HTML: markup, style, script, the record and its parts; a policy that forbids any request."""
    style, script = _asset("explorer.css"), _asset("explorer.js")
    # In JSON only inside of strings: no record can end the element that it stands in.
    record = json.dumps(page.record, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")
    parts = "".join(f'<script type="text/plain" id="part-{n}">{part}</script>\n' for n, part in enumerate(page.parts))
    filled = {
        "POLICY": f"default-src 'none'; script-src '{_hash(script)}'; style-src '{_hash(style)}'; "
        "base-uri 'none'; form-action 'none'",
        "TITLE": html.escape(page.title),
        "ABOUT": html.escape(page.about),
        "STYLE": style,
        "SCRIPT": script,
        "RECORD": record,
        "PARTS": parts,
    }
    pieces = _asset("page.html").split("@@")
    return "".join(filled[piece] if place % 2 else piece for place, piece in enumerate(pieces))


def _asset(name: str) -> str:
    return (files("tombola.explorer") / name).read_text(encoding="utf-8")


def _hash(content: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}"
