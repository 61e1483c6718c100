"""The secrets that webhooks are signed with, as Standard Webhooks has them.

Source: the specification of Standard Webhooks, «Signature scheme»: ``whsec_`` and 24 to 64 random
bytes in base64.
"""

from __future__ import annotations

import base64
import binascii
import secrets
from typing import Final

from pydantic import SecretStr

_PREFIX: Final = "whsec_"
_BYTES: Final = range(24, 65)
_NEW: Final = 32
"""Bytes of a secret that we make."""

WANTED: Final = f"expected {_PREFIX} and {_BYTES[0]} to {_BYTES[-1]} bytes in base64"
"""What is said where a text is no secret; the text itself is never said."""


def new_secret() -> SecretStr:
    """A secret that nobody has yet."""
    return SecretStr(_PREFIX + base64.b64encode(secrets.token_bytes(_NEW)).decode())


def is_secret(text: str) -> bool:
    """Whether a text is such a secret."""
    if not text.startswith(_PREFIX):
        return False
    try:
        key = base64.b64decode(text.removeprefix(_PREFIX), validate=True)
    except (binascii.Error, ValueError):  # the latter, where it is not even ASCII
        return False
    return len(key) in _BYTES
