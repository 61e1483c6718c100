"""Who may come in: tokens and roles, and which web pages may speak to us.

A browser sends the `Origin` of the page that speaks; every socket and every command
checks it. Without a token, control answers on loopback alone, and only where the page
was loaded by a loopback name: a foreign name that resolves to this machine is no friend.
"""

from __future__ import annotations

import hmac
import ipaddress
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Literal
from urllib.parse import urlsplit

from pydantic import SecretStr
from starlette.requests import HTTPConnection

from server.config.sections import Tokens

Role = Literal["viewer", "operator"]


class AccessDenied(Exception):
    """Not let in; `code` is `unauthorized` (who are you?) or `forbidden` (not you)."""

    def __init__(self, code: Literal["unauthorized", "forbidden"], message: str) -> None:
        super().__init__(message)
        self.code = code


def is_loopback(host: str) -> bool:
    """Whether `host` (a name or an address) is this machine and nothing else."""
    host = host.strip("[]")
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _same(given: str | None, secret: SecretStr | None) -> bool:
    if given is None or secret is None:
        return False
    ours = secret.get_secret_value()
    # JSON may bring half a surrogate pair, which plain UTF-8 has no bytes for.
    one, other = (text.encode(errors="surrogatepass") for text in (given, ours))
    return hmac.compare_digest(one, other)


def _address(url: str) -> tuple[str, str]:
    """Host with port, and host alone, of an address; empty where it is none."""
    try:
        parts = urlsplit(url)
        return parts.netloc.lower(), parts.hostname or ""
    except ValueError:
        return "", ""


@dataclass(frozen=True, slots=True)
class Access:
    """The rules of one server.

    Args:
        tokens: who was given which.
        host: the address it listens on.
        origins: pages beside its own that may connect, such as ``https://foh.example``.
    """

    tokens: Tokens
    host: str
    origins: Sequence[str] = ()

    @property
    def open_to_loopback(self) -> bool:
        """Whether, for want of tokens, whoever sits at the machine may operate."""
        return self.tokens.operator is None and self.tokens.viewer is None

    def refuses_to_listen(self) -> str | None:
        """Why it must not listen on `host`; None if it may."""
        if is_loopback(self.host) or self.tokens.operator is not None:
            return None
        return (
            f"refusing to listen on {self.host} without an operator token: set "
            "UNDERSTUDY_OPERATOR_TOKEN (or UNDERSTUDY_OPERATOR_TOKEN_FILE), or listen on 127.0.0.1"
        )

    def check_origin(self, connection: HTTPConnection) -> None:
        """Refuse a web page that is not ours.

        Raises:
            AccessDenied: `forbidden`.
        """
        host = connection.headers.get("host", "")
        if is_loopback(self.host) and not is_loopback(_address(f"//{host}")[1]):
            raise AccessDenied("forbidden", "this server answers to its loopback name only")
        origin = connection.headers.get("origin")
        if origin is None or origin in self.origins:
            return
        theirs, _ = _address(origin)
        if not theirs or theirs != host.lower():
            raise AccessDenied("forbidden", "a page from elsewhere may not connect")

    def check_screen(self, token: str | None) -> None:
        """Let a screen in, where screens need a token.

        Raises:
            AccessDenied: `unauthorized`.
        """
        if self.tokens.screen is not None and not _same(token, self.tokens.screen):
            raise AccessDenied("unauthorized", "this show wants its screens to bring a token")

    def role(self, token: str | None, client_host: str | None) -> Role:
        """Who somebody is who speaks from `client_host` and brings `token`.

        Raises:
            AccessDenied: `unauthorized`.
        """
        if _same(token, self.tokens.operator):
            return "operator"
        if _same(token, self.tokens.viewer):
            return "viewer"
        if self.open_to_loopback and client_host is not None and is_loopback(client_host):
            return "operator"
        raise AccessDenied("unauthorized", "a token is needed: Authorization: Bearer …")

    def role_of(self, connection: HTTPConnection) -> Role:
        """Who sends this request, by its bearer token and address.

        Raises:
            AccessDenied: `unauthorized`, or `forbidden` for a foreign page.
        """
        self.check_origin(connection)
        scheme, _, token = connection.headers.get("authorization", "").partition(" ")
        client = connection.client.host if connection.client else None
        if scheme.lower() != "bearer":
            return self.role(None, client)
        # Programs send what is not ASCII in UTF-8, browsers in Latin-1, as which we are given it.
        with suppress(AccessDenied, UnicodeDecodeError):
            return self.role(token.encode("latin-1").decode(), client)
        return self.role(token, client)
