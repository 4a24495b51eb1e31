"""Which store a user names: a folder, or an address."""

from pathlib import Path
from urllib.parse import unquote, urlsplit

from tombola.lab.remote_store import remote_store
from tombola.lab.store import Store


def store_at(where: str) -> Store:
    """The store in a folder, or at an address like `s3://bucket/prefix`; nothing of it is looked at yet.

    Raises:
        BadInput: an address of a kind that no store can be at, or whose package is not installed.

    >>> store_at("tombola-store").root.name
    'tombola-store'
    """
    if "://" not in where:
        return Store(Path(where))
    if where.startswith("file://"):
        return Store(Path(unquote(urlsplit(where).path)))
    return remote_store(where)
