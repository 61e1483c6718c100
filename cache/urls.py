"""From a store's address to the store."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Final
from urllib.parse import unquote, urlsplit

from cache.credentials import BadCredentials, S3Credentials, credentials_from
from cache.folder import FolderStore
from cache.keys import BadKey, parse_prefix
from cache.store import Store

_SCHEME: Final = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):", re.ASCII)
_BUCKET: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,253}[A-Za-z0-9]", re.ASCII)
_SUPPORTED: Final = (
    "file:relative/folder, file:///absolute/folder, the path of a folder, or s3://bucket/prefix"
)

_HOSTS_OF_BUCKETS: Final = (
    ".amazonaws.com",
    ".backblazeb2.com",
    ".digitaloceanspaces.com",
    ".r2.cloudflarestorage.com",
    ".scw.cloud",
    ".wasabisys.com",
    ".your-objectstorage.com",
)
"""Providers that know a bucket by its host name, too."""


class BadStoreAddress(ValueError):
    """An address that no store can be opened by. Its message repeats nothing secret."""


def open_store(
    url: str,
    *,
    base: Path | None = None,
    endpoint_url: str | None = None,
    region: str | None = None,
    credentials: S3Credentials | None = None,
    follow: Iterable[str] = (),
) -> Store:
    """Find the store for an address; it is reached only when entered.

    Args:
        url: ``file:relative``, ``file:///absolute``, or a plain path, ``~`` allowed; or
            ``s3://bucket`` with an optional ``/prefix``.
        base: the folder that relative ones are taken from; by default the current one.
        endpoint_url: for buckets, whom to ask; by default what ``AWS_ENDPOINT_URL_S3`` or
            ``AWS_ENDPOINT_URL`` says, else AWS.
        region: for buckets; by default ``AWS_REGION`` or ``AWS_DEFAULT_REGION``, or the
            one that the endpoint is known to want.
        credentials: for buckets; by default see `cache.credentials.credentials_from`.
        follow: for folders, those below which links may lead out of them.

    Raises:
        BadStoreAddress: it is empty, or of a kind that is not supported; or the endpoint or
            the credentials in the environment cannot be used.
    """
    scheme = _SCHEME.match(url)
    if scheme is not None and scheme[1].lower() == "s3":
        return _open_bucket(url[scheme.end() :], endpoint_url, region, credentials)
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
    base = base or Path()
    others = [base / Path(each).expanduser() for each in follow]
    return FolderStore(base / folder, follow=others)


def _open_bucket(
    address: str, endpoint_url: str | None, region: str | None, credentials: S3Credentials | None
) -> Store:
    bucket, _, prefix = address.removeprefix("//").partition("/")
    # What is wrong is not repeated: people put keys where they do not belong.
    if not address.startswith("//") or not _BUCKET.fullmatch(bucket):
        raise BadStoreAddress(
            "expected s3://bucket/prefix with a plain bucket name, without user or password"
        )
    try:
        prefix = parse_prefix(prefix.strip("/"))
    except BadKey as error:
        raise BadStoreAddress(f"s3://{bucket}/…: the prefix is no key: {error.reason}") from None
    if {"?", "#"} & set(prefix):
        raise BadStoreAddress(f"s3://{bucket}/…: expected no ? or # in the prefix")
    environ = os.environ
    # What surrounds a variable (a carriage return, from a file written on Windows) is a slip.
    named = (environ.get(f"AWS_ENDPOINT_URL{end}", "").strip() for end in ("_S3", ""))
    endpoint_url = endpoint_url or next(filter(None, named), None)
    if endpoint_url is not None:
        _check_endpoint(endpoint_url, bucket)
    try:
        credentials = credentials or credentials_from(environ, endpoint_url=endpoint_url)
    except BadCredentials as error:
        raise BadStoreAddress(str(error)) from None

    # The S3 client takes half a second to load; who plays from a folder does not wait for it.
    from cache.s3 import S3Store  # noqa: PLC0415

    return S3Store(
        bucket, prefix, endpoint_url=endpoint_url, region=region, credentials=credentials
    )


def _check_endpoint(endpoint_url: str, bucket: str) -> None:
    try:
        parts = urlsplit(endpoint_url)
        plain = parts.scheme in {"http", "https"} and parts.hostname and parts.port != 0
    except ValueError:
        parts, plain = urlsplit(""), False
    if not plain or parts.username or parts.password or parts.query or parts.fragment:
        raise BadStoreAddress(
            "endpoint_url: expected https://host or http://host:port, without user or password"
        )
    # Providers show both in one address. The bucket would be asked for within the bucket, and
    # every file of it not be found.
    host, last = parts.hostname or "", parts.path.rstrip("/").rpartition("/")[2]
    if unquote(last) == bucket or (
        host.startswith(f"{bucket.lower()}.") and host.endswith(_HOSTS_OF_BUCKETS)
    ):
        raise BadStoreAddress(
            f"endpoint_url: expected the server alone, without the bucket's name: {bucket!r} "
            f"stands in s3://{bucket} already"
        )
