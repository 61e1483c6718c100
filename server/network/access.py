"""Who may come in: tokens and roles, and which web pages may speak to us.

A browser sends the `Origin` of the page that speaks; every socket and every command
checks it. Without a token, control answers on loopback alone, and only where the page
was loaded by a loopback name: a foreign name that resolves to this machine is no friend.
Nor is what comes through a reverse proxy on this machine: all the world comes from loopback
then. Who is refused is told which setting helps, and so is the log.
"""

from __future__ import annotations

import hmac
from dataclasses import dataclass
from typing import Literal
from urllib.parse import urlsplit

import structlog
from pydantic import SecretStr
from starlette.requests import HTTPConnection

from server.config.sections import ServerSection, Tokens, is_loopback
from server.core.refusal import Refused
from server.network.reverse_proxy import came_through_a_proxy

_log = structlog.get_logger(__name__)

_ANOTHER_NAME = (
    "this server answers to its loopback name only. Where a reverse proxy shows it under another, "
    'say so in show.toml: [server] public_url = "https://venue.example/", and trusted_proxies'
)
_BEHIND_A_PROXY = (
    "this came through a reverse proxy, so that nobody can be known by sitting at the machine: "
    "set UNDERSTUDY_OPERATOR_TOKEN, and bring it"
)

Role = Literal["viewer", "operator"]


class AccessDenied(Refused):
    """Not let in; `code` is `unauthorized` (who are you?) or `forbidden` (not you)."""


def _same(given: str | None, secret: SecretStr | None) -> bool:
    if given is None or secret is None:
        return False
    ours = secret.get_secret_value()
    # JSON may bring half a surrogate pair, which plain UTF-8 has no bytes for.
    expected = ours.encode(errors="surrogatepass")
    if hmac.compare_digest(given.encode(errors="surrogatepass"), expected):
        return True
    # A header is given to us as Latin-1, as browsers send it; programs send what is not ASCII in
    # UTF-8, and then these are its bytes.
    try:
        return hmac.compare_digest(given.encode("latin-1"), expected)
    except UnicodeEncodeError:
        return False


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
        server: where it listens, and what it says of proxies and of other pages.
    """

    tokens: Tokens
    server: ServerSection

    @property
    def open_to_loopback(self) -> bool:
        """Whether, for want of tokens, whoever sits at the machine may operate."""
        return self.tokens.operator is None and self.tokens.viewer is None

    @property
    def _is_behind_a_proxy(self) -> bool:
        return bool(self.server.public_url or self.server.trusted_proxies)

    def refuses_to_listen(self) -> str | None:
        """Why it must not listen on `host`; None if it may."""
        if self.tokens.operator is not None:
            return None
        if self._is_behind_a_proxy:
            return (
                "refusing to be shown by a reverse proxy ([server] public_url, trusted_proxies) "
                "without an operator token: set UNDERSTUDY_OPERATOR_TOKEN (or "
                "UNDERSTUDY_OPERATOR_TOKEN_FILE)"
            )
        if is_loopback(self.server.host):
            return None
        return (
            f"refusing to listen on {self.server.host} without an operator token: set "
            "UNDERSTUDY_OPERATOR_TOKEN (or UNDERSTUDY_OPERATOR_TOKEN_FILE), or listen on 127.0.0.1"
        )

    def check_origin(self, connection: HTTPConnection) -> None:
        """Refuse a web page that is not ours.

        Raises:
            AccessDenied: `forbidden`.
        """
        host = connection.headers.get("host", "").lower()
        public, public_name = _address(self.server.public_url)
        name = _address(f"//{host}")[1]
        elsewhere = not is_loopback(name) and (not name or name != public_name)
        if is_loopback(self.server.host) and elsewhere:
            raise self._refused(connection, _ANOTHER_NAME)
        origin = connection.headers.get("origin")
        if origin is None or origin in self.server.origins:
            return
        theirs, _ = _address(origin)
        if not theirs or theirs not in {host, public}:
            text = (
                f"a page from elsewhere ({origin:.100}) may not connect. Where it is ours, name "
                "its address in show.toml: [server] public_url, or origins"
            )
            raise self._refused(connection, text)

    def _refused(
        self,
        connection: HTTPConnection,
        message: str,
        code: Literal["unauthorized", "forbidden"] = "forbidden",
    ) -> AccessDenied:
        """That somebody is refused for a reason that settings may mend: the log says so, too."""
        _log.warning(
            "access_refused",
            reason=message,
            path=connection.scope.get("path"),
            host=connection.headers.get("host"),
            origin=connection.headers.get("origin"),
            client=connection.client.host if connection.client else None,
        )
        return AccessDenied(code, message)

    def check_screen(self, token: str | None) -> None:
        """Let a screen in, where screens need a token.

        Raises:
            AccessDenied: `unauthorized`.
        """
        if self.tokens.screen is not None and not _same(token, self.tokens.screen):
            raise AccessDenied("unauthorized", "this show wants its screens to bring a token")

    def may_see(self, connection: HTTPConnection) -> None:
        """Let see what may hang on the wall: every role, and a screen by its token.

        It is brought as a bearer's, or as ``?token=…``, as a screen's page has it.

        Raises:
            AccessDenied: `unauthorized`, or `forbidden` for a foreign page.
        """
        for token in (_bearer(connection), connection.query_params.get("token")):
            if _same(token, self.tokens.screen):
                return self.check_origin(connection)
        self.role_of(connection)
        return None

    def role(self, token: str | None, client_host: str | None, *, direct: bool = True) -> Role:
        """Who somebody is who speaks from `client_host` and brings `token`.

        Args:
            token: what was brought.
            client_host: the address of who asks.
            direct: whether nothing says that there is a proxy between.

        Raises:
            AccessDenied: `unauthorized`.
        """
        if _same(token, self.tokens.operator):
            return "operator"
        if _same(token, self.tokens.viewer):
            return "viewer"
        if (
            direct
            and self.open_to_loopback
            and not self._is_behind_a_proxy
            and client_host is not None
            and is_loopback(client_host)
        ):
            return "operator"
        raise AccessDenied("unauthorized", "a token is needed: Authorization: Bearer …")

    def role_of(self, connection: HTTPConnection) -> Role:
        """Who sends this request, by its bearer token and address.

        Raises:
            AccessDenied: `unauthorized`, or `forbidden` for a foreign page.
        """
        return self.role_on(connection, _bearer(connection))

    def role_on(self, connection: HTTPConnection, token: str | None) -> Role:
        """Who is on a connection and brings `token`.

        Raises:
            AccessDenied: `unauthorized`, or `forbidden` for a foreign page.
        """
        self.check_origin(connection)
        client = connection.client.host if connection.client else None
        proxied = came_through_a_proxy(connection)
        try:
            return self.role(token, client, direct=not proxied)
        except AccessDenied:
            if proxied and self.open_to_loopback:
                raise self._refused(connection, _BEHIND_A_PROXY, "unauthorized") from None
            raise


def _bearer(connection: HTTPConnection) -> str | None:
    scheme, _, token = connection.headers.get("authorization", "").partition(" ")
    return token if scheme.lower() == "bearer" else None
