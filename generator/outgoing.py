"""Asking programs on other machines: bounded in bytes and time, whatever they answer.

Engines are other people's programs, and what stands in front of them may be anything. So no
answer is unpacked, every line and every body has a length beyond which it is not read on, and
nothing that drips is waited for without end. Which proxy is used, `cache.outgoing` says.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Any, Final

import httpx
from websockets.asyncio.client import connect

from cache.outgoing import proxy_for

CONNECT_WITHIN: Final = 5.0
"""Seconds for a connection."""

MAX_ANSWER: Final = 32 * 2**20
"""Bytes of an answer that is read whole."""

MAX_MESSAGE: Final = 32 * 2**20
"""Bytes of a socket's message: a preview may be a PNG of the whole picture."""

SLOWEST: Final = 8 * 1024
"""Bytes a second that a line must carry while something is on its way."""

_FRAMES_WAITING: Final = 4
"""Parts of messages that a socket takes before somebody reads: each may be of the full size."""

SocketOptions = Sequence[tuple[int, int, int]]


class AnswerRefused(httpx.RemoteProtocolError):
    """An answer that is larger than anything of use, or compressed though nobody asked for it."""


class BoundedTransport(httpx.AsyncBaseTransport):
    """Sends requests directly or through the environment's proxy, and refuses what is compressed.

    A few hundred bytes of gzip become a gigabyte, and the library unpacks before it asks. The
    head of an answer is bounded by the library: 100 kB, however many lines it has.
    """

    def __init__(self, socket_options: SocketOptions | None = None) -> None:
        self._options = socket_options
        self._direct = httpx.AsyncHTTPTransport(socket_options=socket_options)
        self._through: dict[str, httpx.AsyncHTTPTransport] = {}

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """See `httpx.AsyncBaseTransport`."""
        request.headers["accept-encoding"] = "identity"
        response = await self._transport(str(request.url)).handle_async_request(request)
        encoding = response.headers.get("content-encoding", "").strip().lower()
        if encoding not in {"", "identity"}:
            await response.aclose()
            raise AnswerRefused("it answered in compressed form, which was not asked for")
        return response

    def _transport(self, url: str) -> httpx.AsyncHTTPTransport:
        proxy = proxy_for(url)
        if proxy is None:
            return self._direct
        if proxy not in self._through:
            self._through[proxy] = httpx.AsyncHTTPTransport(
                proxy=httpx.Proxy(proxy), socket_options=self._options
            )
        return self._through[proxy]

    async def aclose(self) -> None:
        """Close all connections."""
        for transport in (self._direct, *self._through.values()):
            await transport.aclose()


def outgoing_client(socket_options: SocketOptions | None = None) -> httpx.AsyncClient:
    """The client for everything that is asked over HTTP; to be entered."""
    # Its own view of the environment's proxies is not ours, and does not know what is near.
    return httpx.AsyncClient(transport=BoundedTransport(socket_options), trust_env=False)  # noqa: TID251 - the one place


async def ask(
    client: httpx.AsyncClient,
    method: str,
    url: str,
    *,
    within: float,
    limit: int = MAX_ANSWER,
    **request: Any,  # noqa: ANN401 - httpx's
) -> httpx.Response:
    """Send one request and read its whole answer.

    Args:
        client: see `outgoing_client`.
        method: of HTTP.
        url: whom.
        within: seconds to the whole answer, and as many more as its bytes take at `SLOWEST`.
        limit: bytes beyond which it is not read on.
        **request: what `httpx.AsyncClient.stream` takes.

    Raises:
        AnswerRefused: it is too large, or compressed.
        httpx.HTTPError: it cannot be had.
    """
    timeout = httpx.Timeout(within, connect=CONNECT_WITHIN)
    try:
        async with (
            asyncio.timeout(within) as deadline,
            client.stream(method, url, timeout=timeout, **request) as response,
        ):
            data = bytearray()
            async for chunk in response.aiter_raw():
                data += chunk
                if len(data) > limit:
                    raise AnswerRefused(f"it answered with more than {limit} bytes")
                when = deadline.when()
                if when is not None:
                    deadline.reschedule(when + len(chunk) / SLOWEST)
            return httpx.Response(
                response.status_code,
                headers=response.headers,
                content=bytes(data),
                request=response.request,
                history=response.history,
                extensions={"reason_phrase": response.reason_phrase.encode()},
            )
    except TimeoutError:
        raise httpx.ReadTimeout(f"no whole answer in {within:g} s") from None


async def bounded_lines(
    response: httpx.Response, *, limit: int, within: float
) -> AsyncGenerator[str, None]:
    """The lines of an answer as they come, without their ends.

    Args:
        response: whose body is being streamed.
        limit: bytes that a line may have.
        within: seconds from a line's first byte to its end, and as many more as its bytes take
            at `SLOWEST`.

    Raises:
        AnswerRefused: a line is too long.
        httpx.ReadTimeout: it drips.
        httpx.HTTPError: it breaks off.
    """
    now = asyncio.get_running_loop().time
    rest, began = bytearray(), now()
    async for chunk in response.aiter_raw():
        if not rest:
            began = now()
        *whole, behind = chunk.split(b"\n")
        for part in whole:
            rest += part
            if len(rest) > limit:
                break
            yield rest.removesuffix(b"\r").decode(errors="replace")
            rest.clear()
            began = now()
        else:
            rest += behind
        if len(rest) > limit:
            raise AnswerRefused(f"it sent a line of more than {limit} bytes")
        if rest and now() - began > within + len(rest) / SLOWEST:
            raise httpx.ReadTimeout("it sends a line too slowly")
    if rest:
        yield rest.decode(errors="replace")


def open_socket(
    url: str,
    *,
    headers: Mapping[str, str] | None = None,
    max_size: int = MAX_MESSAGE,
    open_within: float = CONNECT_WITHIN,
    close_within: float = 1.0,
) -> connect:
    """A web socket to somebody else's program, to be awaited or entered.

    Args:
        url: ``ws`` or ``wss``.
        headers: for the handshake.
        max_size: bytes that a message may have.
        open_within: seconds for connection and handshake.
        close_within: seconds for a goodbye.

    Raises:
        OSError, WebSocketException, TimeoutError: on entering, it cannot be opened.
    """
    return connect(  # noqa: TID251 - the one place
        url,
        additional_headers=dict(headers or {}),
        max_size=max_size,
        max_queue=_FRAMES_WAITING,
        compression=None,
        open_timeout=open_within,
        close_timeout=close_within,
        proxy=proxy_for(url),
    )
