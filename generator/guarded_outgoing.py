"""Asking addresses that somebody else named: a webhook of a member's, a picture to begin from.

Whoever names an address would have this machine ask it, from where this machine stands. So it is
asked only what anybody could ask from anywhere: over https, at a public address. A name is looked
up once, everything that it leads to is checked, and the connection goes to what was checked and
nowhere else: a name that means another address a moment later gains nothing. No proxy stands in
between, no redirect is followed, no cookie is kept, and nothing of ours is sent along.

What is meant to be reached although it is near, `[studio] hooks_may_reach` names.
"""

from __future__ import annotations

import asyncio
import re
import socket
import ssl
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from http.cookiejar import CookieJar, DefaultCookiePolicy
from ipaddress import (
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    ip_address,
    ip_network,
)
from typing import Any, Final

import anyio
import httpx

from cache.threads import read_in_thread
from generator.outgoing import CONNECT_WITHIN, Client, ask

IN_ALL: Final = 15.0
"""Seconds for everything: looking the name up, connecting, sending, and reading."""

MAX_BRIEF: Final = 64 * 2**10
"""Bytes of a webhook's answer that are read."""

MAX_PICTURE: Final = 20 * 2**20
"""Bytes of a picture that is fetched."""

MAX_ADDRESS: Final = 2048
"""Characters of an address."""

_MOST_TRIED: Final = 4
"""Addresses of one name that are tried after one another."""

_LOOKED_UP_AT_ONCE: Final = 16

_PLAIN_NAME: Final = re.compile(
    r"(?=.{1,253}\Z)[a-z0-9_](?:[a-z0-9_-]{0,62})(?:\.[a-z0-9_](?:[a-z0-9_-]{0,62}))*", re.ASCII
)
_NUMBER_AT_END: Final = re.compile(r"(?:.*\.)?(?:[0-9]+|0x[0-9a-f]*)", re.ASCII)
"""What the system reads as an IPv4 address, in whichever of its old notations."""

_IPV6_IN_USE: Final = IPv6Network("2000::/3")
_NOT_FOR_ANYBODY: Final = (
    IPv4Network("192.88.99.0/24"),  # relays of 6to4, given up
    IPv4Network("168.63.129.16/32"),  # a public number that inside Azure is the machine's host
    IPv6Network("3fff::/20"),  # for examples; Python does not know yet
)
_NAT64: Final = IPv6Network("64:ff9b::/96")

Address = IPv4Address | IPv6Address
Resolve = Callable[[str, int], Awaitable[Sequence[str]]]
"""Gives the addresses of a host and port, as text; raises `OSError` where there are none."""


class AddressRefused(httpx.ConnectError):
    """An address that is not to be asked; nothing was sent, and nothing connected."""


@dataclass(frozen=True, slots=True)
class Reach:
    """What may be asked although it is not public, and over http; `reach_of` reads one.

    Attributes:
        hosts: names, lower case; wherever they lead.
        networks: addresses.
    """

    hosts: frozenset[str] = frozenset()
    networks: tuple[IPv4Network | IPv6Network, ...] = ()

    def has_host(self, host: str) -> bool:
        """Whether a name is meant."""
        return host in self.hosts

    def has(self, address: Address) -> bool:
        """Whether an address is meant."""
        return any(address in network for network in self.networks)


NOWHERE_ELSE: Final = Reach()
"""Public addresses over https alone."""


def reach_of(entries: Iterable[str]) -> Reach:
    """Read `hooks_may_reach`: names of hosts, addresses, and networks (``10.1.0.0/16``).

    Raises:
        ValueError: an entry is none of these.
    """
    hosts: set[str] = set()
    networks: list[IPv4Network | IPv6Network] = []
    for entry in entries:
        text = entry.strip().lower().removesuffix(".")
        try:
            networks.append(ip_network(text.strip("[]")))
        except ValueError as error:
            if "/" in text or not _is_name(text):
                raise ValueError(
                    f"expected a host, an address, or a network such as 10.1.0.0/16;"
                    f" found {entry!r:.80} ({error})"
                ) from None
            hosts.add(text)
    return Reach(frozenset(hosts), tuple(networks))


def is_public(address: Address) -> bool:
    """Whether an address is one machine's that anybody can reach from anywhere (pure).

    One that only wraps another, as NAT64 and 6to4 do, is what it leads to. Teredo, and what was
    once «compatible» with IPv4, are never public.
    """
    if any(address in network for network in _NOT_FOR_ANYBODY):
        return False
    if isinstance(address, IPv4Address):
        return address.is_global and not (address.is_multicast or address.is_reserved)
    if address.scope_id is not None:
        return False
    if address in _NAT64 or address.ipv4_mapped is not None:
        return is_public(IPv4Address(int(address) & 0xFFFFFFFF))
    if address.sixtofour is not None and not is_public(address.sixtofour):
        return False
    # A list of what is not public would be short of what is given out tomorrow.
    return address in _IPV6_IN_USE and address.is_global


def checked_address(url: str, reach: Reach = NOWHERE_ELSE) -> httpx.URL:
    """An address as far as it can be checked before its name is looked up.

    Args:
        url: as somebody gave it.
        reach: what else may be asked.

    Raises:
        AddressRefused: it is not to be asked; the message says what was expected.
    """
    if len(url) > MAX_ADDRESS:
        raise AddressRefused(f"expected an address of at most {MAX_ADDRESS} characters")
    try:
        parts = httpx.URL(url)
        host = parts.raw_host.decode("ascii").removesuffix(".")
    except (httpx.InvalidURL, ValueError):
        raise _no_address() from None
    if parts.scheme not in {"http", "https"}:
        raise AddressRefused("expected an address that begins with https://")
    if parts.userinfo:
        raise AddressRefused("expected an address without a user and a password in it")
    if parts.port is not None and not 0 < parts.port < 2**16:
        raise AddressRefused("expected a port from 1 to 65535")
    written = _literal(host)
    if written is None and not _is_name(host):
        raise AddressRefused(
            "expected the name of a host, or its address in the usual notation"
            " (four decimal numbers, or IPv6 without a zone)"
        )
    if written is not None:
        _check(written, parts.scheme, reach)
    elif parts.scheme == "http" and not (reach.has_host(host) or reach.networks):
        raise _not_public("http")
    return parts


def system_resolver() -> Resolve:
    """Look names up as this machine does."""
    limiter = anyio.CapacityLimiter(_LOOKED_UP_AT_ONCE)

    async def resolve(host: str, port: int) -> list[str]:
        def look() -> list[str]:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
            return [str(place[0]) for *_, place in found]

        return await read_in_thread(look, limiter)

    return resolve


class GuardedTransport(httpx.AsyncBaseTransport):
    """Sends each request to an address that was checked, on a connection of its own.

    Args:
        reach: what may be asked although it is not public.
        resolve: looks names up.
        tls: whose certificates are believed; None for those that everybody believes.
    """

    def __init__(self, reach: Reach, resolve: Resolve, tls: ssl.SSLContext | None) -> None:
        self._reach = reach
        self._resolve = resolve
        # Connections are never kept: two names may lead to one address, and what was proved of
        # the one says nothing of the other.
        self._direct = httpx.AsyncHTTPTransport(
            verify=True if tls is None else tls,
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=0),
        )

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """See `httpx.AsyncBaseTransport`.

        Raises:
            AddressRefused: it is not to be asked.
            httpx.HTTPError: it cannot be had.
        """
        url = checked_address(str(request.url), self._reach)
        host = url.raw_host.decode("ascii").removesuffix(".")
        *others, last = (await self._checked(url, host))[:_MOST_TRIED]
        for address in others:
            with suppress(httpx.ConnectError, httpx.ConnectTimeout):
                return await self._direct.handle_async_request(_aimed(request, host, address))
        return await self._direct.handle_async_request(_aimed(request, host, last))

    async def aclose(self) -> None:
        """Close all connections."""
        await self._direct.aclose()

    async def _checked(self, url: httpx.URL, host: str) -> list[Address]:
        """The addresses of a host, all of which may be asked; at least one."""
        written = _literal(host)
        found = [written] if written is not None else await self._look_up(url, host)
        for address in found:
            if not self._reach.has_host(host):
                _check(address, url.scheme, self._reach)
        return found

    async def _look_up(self, url: httpx.URL, host: str) -> list[Address]:
        try:
            texts = await self._resolve(host, url.port or (443 if url.scheme == "https" else 80))
            # A zone says which of our own networks is meant: none of anybody else's business.
            found = [_unwrapped(ip_address(text)) for text in texts if "%" not in text]
        except (OSError, ValueError) as error:
            raise httpx.ConnectError(f"the name cannot be looked up: {error}") from error
        if not found:
            raise httpx.ConnectError("the name leads to no address")
        return list(dict.fromkeys(found))


def guarded_client(
    reach: Reach = NOWHERE_ELSE,
    *,
    resolve: Resolve | None = None,
    tls: ssl.SSLContext | None = None,
) -> Client:
    """The client for every address that somebody else named; to be entered.

    Args:
        reach: what may be asked although it is not public, and over http.
        resolve: looks names up; None for the system's.
        tls: whose certificates are believed; None for those that everybody believes.
    """
    refuses_all = CookieJar(DefaultCookiePolicy(allowed_domains=[]))
    return Client(
        transport=GuardedTransport(reach, resolve or system_resolver(), tls),
        trust_env=False,
        follow_redirects=False,
        cookies=refuses_all,
        headers={"user-agent": "understudy-studio", "connection": "close"},
    )


async def ask_guarded(
    client: Client,
    method: str,
    url: str,
    *,
    within: float = IN_ALL,
    limit: int = MAX_PICTURE,
    **request: Any,  # noqa: ANN401 - httpx's
) -> httpx.Response:
    """Send one request and read its whole answer, all of it within so many seconds.

    Args:
        client: see `guarded_client`.
        method: of HTTP.
        url: whom.
        within: seconds.
        limit: bytes of an answer, beyond which it is refused.
        **request: what `httpx.AsyncClient.build_request` takes.

    Raises:
        AddressRefused: it is not to be asked.
        AnswerRefused: the answer is too large, or compressed.
        httpx.HTTPError: it cannot be had.
    """
    try:
        async with asyncio.timeout(within):
            return await ask(client, method, url, within=within, limit=limit, **request)
    except httpx.InvalidURL:
        raise _no_address() from None
    except TimeoutError:
        raise httpx.ReadTimeout(f"no whole answer in {within:g} s") from None


@dataclass(frozen=True, slots=True)
class BriefAnswer:
    """An answer of which little matters.

    Attributes:
        status: of HTTP.
        headers: all of them.
        beginning: what came of its body within `MAX_BRIEF` bytes; packed where it was.
    """

    status: int
    headers: httpx.Headers
    beginning: bytes


async def tell(
    client: Client, url: str, content: bytes, headers: dict[str, str], *, within: float = IN_ALL
) -> BriefAnswer:
    """Post something to whom only its status is to be known of.

    Once the head of an answer has come, whoever it is has taken note: that the rest of it is
    too long, packed, breaks off or drips is of no interest.

    Args:
        client: see `guarded_client`.
        url: whom.
        content: what is posted.
        headers: of the request.
        within: seconds for all.

    Raises:
        AddressRefused: it is not to be asked; nothing was sent.
        httpx.HTTPError: no answer came.
    """
    try:
        request = client.build_request(
            "POST",
            url,
            content=content,
            headers={**headers, "accept-encoding": "identity"},
            timeout=httpx.Timeout(within, connect=CONNECT_WITHIN),
        )
    except httpx.InvalidURL:
        raise _no_address() from None
    response: httpx.Response | None = None
    beginning = bytearray()
    try:
        async with asyncio.timeout(within):
            response = await client.send(request, stream=True)
            with suppress(httpx.HTTPError):
                async for chunk in response.aiter_raw():  # never unpacked
                    beginning += chunk[: MAX_BRIEF - len(beginning)]
                    if len(beginning) == MAX_BRIEF:
                        break
    except TimeoutError:
        if response is None:
            raise httpx.ReadTimeout(f"no answer in {within:g} s") from None
    finally:
        if response is not None:
            await response.aclose()
    return BriefAnswer(response.status_code, response.headers, bytes(beginning))


# ---------------------------------------------------------------- addresses


def _is_name(host: str) -> bool:
    return _PLAIN_NAME.fullmatch(host) is not None and _NUMBER_AT_END.fullmatch(host) is None


def _literal(host: str) -> Address | None:
    """The address that a host is written as, in the usual notation and without a zone."""
    try:
        address = ip_address(host)
    except ValueError:
        return None
    if isinstance(address, IPv6Address) and address.scope_id is not None:
        return None
    return _unwrapped(address)


def _unwrapped(address: Address) -> Address:
    """The IPv4 address that a connection to its form in IPv6 really goes to."""
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address


def _check(address: Address, scheme: str, reach: Reach) -> None:
    if not reach.has(address) and (scheme != "https" or not is_public(address)):
        raise _not_public(scheme)


def _no_address() -> AddressRefused:
    return AddressRefused("expected an address such as https://host/path")


def _not_public(scheme: str) -> AddressRefused:
    # Which address it was is not told: that would be a map of the network that we stand in.
    what = "over https at a public address" if scheme == "https" else "over https"
    return AddressRefused(
        f"it may be asked only {what}, or where [studio] hooks_may_reach names its host"
    )


def _aimed(request: httpx.Request, host: str, address: Address) -> httpx.Request:
    """A request for a name, to be sent to an address; who is meant stays the same."""
    headers = request.headers.copy()
    headers["host"] = request.url.netloc.decode("ascii")
    return httpx.Request(
        request.method,
        request.url.copy_with(host=str(address)),
        headers=headers,
        stream=request.stream,
        extensions={**request.extensions, "sni_hostname": host},
    )
