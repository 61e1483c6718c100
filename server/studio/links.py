"""Addresses that open a picture for whoever has them: they carry who, until when, and a seal.

An `<img>` and a webhook's receiver bring no token. The path of a picture stays for as long as
the picture does; only the seal behind the question mark changes, once an hour, so that a page
that is drawn anew shows the same addresses, and the browser its copies.
"""

from __future__ import annotations

import hashlib
import hmac
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import urlencode

_GOOD_FOR: Final = 24 * 3600
"""Seconds for which an address is good at the least."""

_RENEWED_EACH: Final = 3600
_SEAL: Final = 32


@dataclass(frozen=True, slots=True)
class SealedLinks:
    """Seals addresses and knows them again.

    Args:
        secret: known to this Studio alone, or to all that share its database.
        wall: Unix time.
        base: what stands before the path where others are to find it, such as
            ``https://studio.example``; empty for addresses that are relative to the Studio.
    """

    secret: bytes = field(repr=False)
    wall: Callable[[], float]
    base: str = ""

    def sealed(
        self, path: str, member: str, *, absolute: bool = False, good_for: int = _GOOD_FOR
    ) -> str:
        """An address of `path` by which it is seen as that member sees it.

        Args:
            path: of a picture.
            member: the member's id.
            absolute: whether `base` stands before it.
            good_for: seconds for which it is good at the least.
        """
        until = (math.ceil(self.wall() / _RENEWED_EACH) * _RENEWED_EACH) + good_for
        query = urlencode(
            {"member": member, "until": until, "seal": self._seal(path, member, until)}
        )
        return f"{self.base if absolute else ''}{path}?{query}"

    def member_of(self, path: str, query: Mapping[str, str]) -> str | None:
        """Whose address this is; None where it bears no seal of ours, or an old one."""
        member, until, seal = (query.get(name, "") for name in ("member", "until", "seal"))
        if not (until.isascii() and until.isdecimal() and len(until) < _SEAL):
            return None
        if not hmac.compare_digest(seal.encode(), self._seal(path, member, int(until)).encode()):
            return None
        return member if int(until) > self.wall() else None

    def _seal(self, path: str, member: str, until: int) -> str:
        message = f"{path}\n{member}\n{until}".encode(errors="replace")
        return hmac.new(self.secret, message, hashlib.sha256).hexdigest()[:_SEAL]
