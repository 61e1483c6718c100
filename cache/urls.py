"""From a store's address to the store."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final
from urllib.parse import unquote

from cache.folder import FolderStore
from cache.store import Store

_SCHEME: Final = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):", re.ASCII)
_SUPPORTED: Final = "file:relative/folder, file:///absolute/folder, or the path of a folder"


class BadStoreAddress(ValueError):
    """An address that no store can be opened by. Its message repeats nothing secret."""


def open_store(url: str, *, base: Path | None = None) -> Store:
    """Find the store for an address; it is reached only when entered.

    Args:
        url: ``file:relative``, ``file:///absolute``, or a plain path, ``~`` allowed.
        base: the folder that relative ones are taken from; by default the current one.

    Raises:
        BadStoreAddress: it is empty, or of a kind that is not supported.
    """
    scheme = _SCHEME.match(url)
    if scheme is None:
        path = url
    elif scheme[1].lower() == "file":
        path = unquote(url[scheme.end() :])
        if path.startswith("//"):
            host, slash, rest = path[2:].partition("/")
            if host not in {"", "localhost"} or not slash:
                raise BadStoreAddress(
                    f"a file: address names no host, expected {_SUPPORTED}; found host {host!r}"
                )
            path = f"/{rest}"
    else:
        raise BadStoreAddress(f"stores of kind {scheme[1]}: are not supported, use {_SUPPORTED}")
    if not path or "\0" in path:
        raise BadStoreAddress(f"expected {_SUPPORTED}, found {'nothing' if not path else 'a NUL'}")
    folder = Path(path).expanduser() if path.startswith("~") else Path(path)
    return FolderStore((base or Path()) / folder)
