"""What a bucket is asked with: an access key and its secret, out of the environment.

This module is light, so that settings can name the type without loading an S3 client.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

_R2_HOST: Final = ".r2.cloudflarestorage.com"


class BadCredentials(ValueError):
    """Credentials that cannot be read or do not make a pair. Its message repeats no secret."""


@dataclass(frozen=True, slots=True)
class S3Credentials:
    """An access key and its secret; none of it is ever shown by `repr`."""

    access_key_id: str = field(repr=False)
    secret_access_key: str = field(repr=False)
    session_token: str | None = field(default=None, repr=False)


def is_r2(endpoint_url: str | None) -> bool:
    """Whether an endpoint is Cloudflare's R2."""
    return (urlsplit(endpoint_url or "").hostname or "").endswith(_R2_HOST)


def credentials_from(
    environ: Mapping[str, str], *, endpoint_url: str | None = None
) -> S3Credentials | None:
    """Find the credentials for an endpoint.

    R2's are for R2 alone: another endpoint that stands in ``show.toml`` is not asked with
    them. Each variable may instead be named with ``_FILE`` and hold the path of a file.

    Args:
        environ: the environment.
        endpoint_url: who is to be asked; None for AWS.

    Returns:
        None where the environment names none. The S3 client then looks where others do:
        ``AWS_PROFILE``, ``~/.aws``, the role of the machine.

    Raises:
        BadCredentials: half of a pair is missing, or a file cannot be read.
    """
    if is_r2(endpoint_url) and (found := _pair(environ, "R2")):
        return S3Credentials(*found)
    if found := _pair(environ, "AWS"):
        return S3Credentials(*found, _value(environ, "AWS_SESSION_TOKEN"))
    return None


def _pair(environ: Mapping[str, str], whose: str) -> tuple[str, str] | None:
    names = (f"{whose}_ACCESS_KEY_ID", f"{whose}_SECRET_ACCESS_KEY")
    access_key_id, secret = (_value(environ, name) for name in names)
    if access_key_id and secret:
        return access_key_id, secret
    if access_key_id or secret:
        missing, given = names if secret else names[::-1]
        raise BadCredentials(f"expected {missing} with {given}; it is not set")
    return None


def _value(environ: Mapping[str, str], name: str) -> str | None:
    """A variable, or the content of the file that it names. Spaces around it are a slip."""
    if text := environ.get(name, "").strip():
        return text
    path = environ.get(f"{name}_FILE", "").strip()
    if not path:
        return None
    try:
        return Path(path).read_text(encoding="utf-8-sig").strip() or None
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "no text in UTF-8"
        raise BadCredentials(f"{name}_FILE: {path}: {reason}") from None
