"""Stores in a bucket.

Here an address becomes one, and no more: the S3 client is loaded only where a bucket is named.
"""

from __future__ import annotations

import os
import re
from typing import Final
from urllib.parse import unquote, urlsplit

from cache.model.keys import BadKey, parse_prefix
from cache.stores.credentials import BadCredentials, credentials_from
from cache.stores.port import Store
from cache.stores.urls import BadStoreAddress, StoreOptions

_BUCKET: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,253}[A-Za-z0-9]", re.ASCII)
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


def open_address(address: str, options: StoreOptions) -> Store:
    """The store in a bucket: ``s3://bucket/prefix``.

    Raises:
        BadStoreAddress: the address, the endpoint or the credentials cannot be used.
    """
    address = address.partition(":")[2]
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
    endpoint_url = options.endpoint_url or next(filter(None, named), None)
    if endpoint_url is not None:
        _check_endpoint(endpoint_url, bucket)
    try:
        credentials = options.credentials or credentials_from(environ, endpoint_url=endpoint_url)
    except BadCredentials as error:
        raise BadStoreAddress(str(error)) from None

    # The S3 client takes half a second to load; who plays from a folder does not wait for it.
    from cache.stores.s3.store import S3Store  # noqa: PLC0415 - see above

    return S3Store(
        bucket,
        prefix,
        endpoint_url=endpoint_url,
        region=options.region,
        credentials=credentials,
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
