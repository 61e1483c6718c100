"""From a store's address to the store.

An address is ``scheme:…``. The module of that name in `cache/stores/` has the function
``open_address(address, options)``, which gets all of it and raises `BadStoreAddress` where it
cannot be used. So a kind of store is added by its module alone; it is loaded when first named.
"""

from __future__ import annotations

import importlib
import importlib.util
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cache.stores.credentials import S3Credentials
from cache.stores.port import Store

SCHEME: Final = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):", re.ASCII)
"""How an address begins that is no path."""

SUPPORTED: Final = (
    "file:relative/folder, file:///absolute/folder, the path of a folder, or s3://bucket/prefix"
)

_HOMES: Final = {"file": "cache.stores.folder"}
"""Where a module's name is not that of the scheme."""


class BadStoreAddress(ValueError):
    """An address that no store can be opened by. Its message repeats nothing secret."""


@dataclass(frozen=True, slots=True)
class StoreOptions:
    """What an address does not say; each kind of store takes what concerns it.

    Attributes:
        base: the folder that relative ones are taken from; by default the current one.
        follow: for folders, those below which links may lead out of them.
        endpoint_url: for buckets, whom to ask; by default what ``AWS_ENDPOINT_URL_S3`` or
            ``AWS_ENDPOINT_URL`` says, else AWS.
        region: for buckets; by default ``AWS_REGION`` or ``AWS_DEFAULT_REGION``, or the
            one that the endpoint is known to want.
        credentials: for buckets; by default see `cache.stores.credentials.credentials_from`.
    """

    base: Path = Path()
    follow: Sequence[str] = ()
    endpoint_url: str | None = None
    region: str | None = None
    credentials: S3Credentials | None = None


def open_store(url: str, options: StoreOptions | None = None) -> Store:
    """Find the store for an address; it is reached only when entered.

    Args:
        url: ``file:relative``, ``file:///absolute``, or a plain path, ``~`` allowed; or
            ``s3://bucket`` with an optional ``/prefix``.
        options: what it does not say.

    Raises:
        BadStoreAddress: it is empty, or of a kind that is not supported; or the endpoint or
            the credentials in the environment cannot be used.
    """
    named = SCHEME.match(url)
    scheme = "file" if named is None else named[1].lower()
    home = _HOMES.get(scheme, f"cache.stores.{scheme}")
    opener: Callable[[str, StoreOptions], Store] | None = None
    known = scheme in _HOMES or (scheme.isidentifier() and home not in _HOMES.values())
    if known and importlib.util.find_spec(home) is not None:
        opener = getattr(importlib.import_module(home), "open_address", None)
    if opener is None:
        raise BadStoreAddress(f"stores of kind {scheme}: are not supported, use {SUPPORTED}")
    return opener(url, options or StoreOptions())
