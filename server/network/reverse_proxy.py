"""Behind a reverse proxy: who really asks, under which name, and below which path.

What a proxy says of the client (`X-Forwarded-For` and its like, `Forwarded`) is believed of
trusted proxies alone. That somebody says it at all is noted of everybody: who comes through a
proxy does not sit at this machine, though the connection comes from it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Final
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Receive, Scope, Send

FORWARDED: Final = "understudy.forwarded"
"""Key of the scope: whether a request came through a proxy, as far as can be told."""

UNKNOWN: Final = "unknown"
"""A client that a proxy does not name in a way that can be read."""

_SIGNS: Final = (
    "forwarded",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-proto",
    "x-forwarded-port",
    "x-forwarded-server",
    "x-real-ip",
    "via",
)
_FOR: Final = re.compile(r'(?:^|[;,\s])for=(?:"([^"]*)"|([^;,\s]*))', re.IGNORECASE)
_HOST: Final = re.compile(r'(?:^|[;,\s])host=(?:"([^"]*)"|([^;,\s]*))', re.IGNORECASE)
_PROTO: Final = re.compile(r'(?:^|[;,\s])proto=(?:"([^"]*)"|([^;,\s]*))', re.IGNORECASE)
_MOST_HOPS: Final = 32
_WITHOUT_PORT: Final = re.compile(r"\[([^\]]+)\](?::\d+)?|([^:]+):\d+")

Address = IPv4Address | IPv6Address


def came_through_a_proxy(connection: HTTPConnection) -> bool:
    """Whether a request came through a proxy, trusted or not, as far as can be told."""
    return bool(connection.scope.get(FORWARDED, False))


@dataclass(frozen=True, slots=True)
class Forwarded:
    """What a proxy says of a request; None where it does not say."""

    client: str | None = None
    host: str | None = None
    scheme: str | None = None


class ReverseProxies:
    """Which proxies are trusted, and what they show this server as.

    Args:
        trusted: their addresses and networks.
        public_url: the address by which browsers know this server; empty for its own.
    """

    def __init__(self, trusted: Sequence[str] = (), public_url: str = "") -> None:
        self._trusted = tuple(ip_network(each, strict=False) for each in trusted)
        self.prefix = urlsplit(public_url).path.rstrip("/")

    def trusts(self, host: str) -> bool:
        """Whether what comes from an address is believed."""
        address = _address(host)
        return address is not None and any(address in network for network in self._trusted)

    def read(self, headers: Headers) -> Forwarded:
        """What the headers of a trusted proxy say.

        Of a chain the right-most hop counts that is not trusted itself: what stands before it
        anybody can have written. `X-Forwarded-…` go before `Forwarded`.
        """
        hops = _listed(headers, "x-forwarded-for") or _found(_FOR, headers)
        hosts = _listed(headers, "x-forwarded-host") or _found(_HOST, headers)
        schemes = _listed(headers, "x-forwarded-proto") or _found(_PROTO, headers)
        scheme = schemes[-1].lower() if schemes else None
        return Forwarded(
            client=self._client(hops) if hops else None,
            host=hosts[-1] if hosts else None,
            scheme=scheme if scheme in {"http", "https"} else None,
        )

    def _client(self, hops: Sequence[str]) -> str:
        client = UNKNOWN
        for hop in reversed(hops[-_MOST_HOPS:]):
            address = _address(hop)
            if address is None:
                return UNKNOWN
            client = str(address)
            if not self.trusts(client):
                return client
        return client


class BehindProxies:
    """Middleware: puts into the scope who asks, by what name, and a path without our prefix."""

    def __init__(self, app: ASGIApp, rules: ReverseProxies) -> None:
        self._app = app
        self._rules = rules

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] not in {"http", "websocket"}:
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        # nginx speaks HTTP/1.0 to those behind it unless it is told otherwise; browsers and
        # today's tools never do.
        forwarded = any(name in headers for name in _SIGNS) or scope.get("http_version") == "1.0"
        scope = {**scope, FORWARDED: forwarded}
        client = scope.get("client")
        if forwarded and client and self._rules.trusts(client[0]):
            self._believe(scope, self._rules.read(headers))
        prefix, path = self._rules.prefix, scope["path"]
        if prefix and path == prefix and scope["type"] == "http":
            await _redirect(f"{prefix.rpartition('/')[2]}/", scope, send)
            return
        if prefix and path.startswith(f"{prefix}/"):
            scope["path"] = path[len(prefix) :]
            if scope.get("raw_path"):
                scope["raw_path"] = scope["raw_path"][len(prefix) :]
        await self._app(scope, receive, send)

    def _believe(self, scope: Scope, said: Forwarded) -> None:
        if said.client is not None:
            scope["client"] = (said.client, 0)
        if said.scheme is not None:
            secure = said.scheme == "https"
            plain = "ws" if scope["type"] == "websocket" else "http"
            scope["scheme"] = f"{plain}s" if secure else plain
        if said.host is not None:
            others = [(name, text) for name, text in scope["headers"] if name != b"host"]
            scope["headers"] = [(b"host", said.host.encode("latin-1", "replace")), *others]


async def _redirect(to: str, scope: Scope, send: Send) -> None:
    """Where the pages' own relative addresses are right."""
    query = scope.get("query_string", b"")
    location = to.encode() + (b"?" + query if query else b"")
    await send(
        {
            "type": "http.response.start",
            "status": 307,
            "headers": [(b"location", location), (b"content-length", b"0")],
        }
    )
    await send({"type": "http.response.body", "body": b""})


def _listed(headers: Headers, name: str) -> list[str]:
    texts = ",".join(headers.getlist(name)).split(",")
    return [text for text in map(str.strip, texts) if text]


def _found(pattern: re.Pattern[str], headers: Headers) -> list[str]:
    text = ",".join(headers.getlist("forwarded"))
    return [found[1] or found[2] for found in pattern.finditer(text) if found[1] or found[2]]


def _address(text: str) -> Address | None:
    """An address as proxies write it: with a port, in brackets, or IPv4 within IPv6."""
    found = _WITHOUT_PORT.fullmatch(text)
    try:
        address = ip_address((found[1] or found[2]) if found is not None else text)
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return mapped or address


def network_of(host: str) -> str:
    """What stands for one client: an IPv4 address, or the /64 in which an IPv6 one changes."""
    address = _address(host)
    if address is None:
        return host[:64]
    if isinstance(address, IPv6Address):
        return str(IPv6Network((int(address) >> 64 << 64, 64)))
    return str(address)
