"""Asking programs on other machines: bounded in bytes and time, whatever they answer.

Engines are other people's programs, and what stands in front of them may be anything. So no
answer is unpacked, every line and every body has a length beyond which it is not read on, and
nothing that drips is waited for without end. Which proxy is used, `cache.outgoing` says.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Awaitable,
    Callable,
    Coroutine,
    Mapping,
    Sequence,
)
from contextlib import asynccontextmanager
from typing import Any, Final

import anyio
import httpx
from pydantic import SecretStr
from websockets.asyncio.client import ClientConnection, connect  # noqa: TID251 - the one place

from cache.outgoing import proxy_for
from cache.tasks import cancel_and_wait

CONNECT_WITHIN: Final = 5.0
"""Seconds for a connection."""

MAX_ANSWER: Final = 32 * 2**20
"""Bytes of an answer that is read whole."""

MAX_MESSAGE: Final = 32 * 2**20
"""Bytes of a socket's message: a preview may be a PNG of the whole picture."""

SLOWEST: Final = 32 * 1024
"""Bytes a second that a line must carry while something is on its way."""

_GONE_AFTER: Final = {"TCP_KEEPIDLE": 15, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 3}
"""Seconds of silence, seconds between questions, and unanswered ones, after which a machine that
was switched off is noticed in the middle of a request."""

_GOODBYE_WITHIN: Final = 1.0
"""Seconds for the closing of a socket."""

_FRAMES_WAITING: Final = 4
"""Parts of messages that a socket takes before somebody reads: each may be of the full size."""

Client = httpx.AsyncClient  # noqa: TID251 - the one place
"""What asks over HTTP; see `outgoing_client`."""

SocketOptions = Sequence[tuple[int, int, int]]


class AnswerRefused(httpx.RemoteProtocolError):
    """An answer that is larger than anything of use, or compressed though nobody asked for it."""


class ProxyTransport(httpx.AsyncBaseTransport):
    """Sends each request directly, or through the proxy that `cache.outgoing` says."""

    def __init__(self, socket_options: SocketOptions | None = None) -> None:
        self._options = socket_options
        self._direct = httpx.AsyncHTTPTransport(socket_options=socket_options)
        self._through: dict[str, httpx.AsyncHTTPTransport] = {}

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """See `httpx.AsyncBaseTransport`."""
        proxy = proxy_for(str(request.url))
        if proxy is None:
            return await self._direct.handle_async_request(request)
        if proxy not in self._through:
            self._through[proxy] = httpx.AsyncHTTPTransport(
                proxy=httpx.Proxy(proxy), socket_options=self._options
            )
        return await self._through[proxy].handle_async_request(request)

    async def aclose(self) -> None:
        """Close all connections."""
        for transport in (self._direct, *self._through.values()):
            await transport.aclose()


def outgoing_client(socket_options: SocketOptions | None = None) -> Client:
    """The client for everything that is asked over HTTP; to be entered."""
    # Its own view of the environment's proxies is not ours, and does not know what is near.
    return Client(transport=ProxyTransport(socket_options), trust_env=False)


def client_for_engines() -> Client:
    """A client whose connections notice a machine that has vanished; to be entered."""
    options = [(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)]
    options += [
        (socket.IPPROTO_TCP, getattr(socket, name), value)
        for name, value in _GONE_AFTER.items()
        if hasattr(socket, name)
    ]
    return outgoing_client(options)


def bearer(token: SecretStr | None) -> dict[str, str]:
    """The header that brings a token; none where there is no token."""
    return {} if token is None else {"authorization": f"Bearer {token.get_secret_value()}"}


@asynccontextmanager
async def stream(
    client: Client,
    method: str,
    url: str,
    *,
    within: float,
    follow_redirects: bool = False,
    **request: Any,  # noqa: ANN401 - httpx's
) -> AsyncIterator[httpx.Response]:
    """Send a request; entered once the head of the answer is there, left by closing it.

    What is compressed is refused: a few hundred bytes of gzip become a gigabyte, and the library
    unpacks before it asks. The head is bounded by the library: 100 kB, in however many lines.

    Args:
        client: see `outgoing_client`.
        method: of HTTP.
        url: whom.
        within: seconds to the head, and as many more as what is sent takes at `SLOWEST`; then
            seconds of silence between two parts of the body.
        follow_redirects: whether to go where it points.
        **request: what `httpx.AsyncClient.build_request` takes.

    Raises:
        AnswerRefused: it is compressed.
        httpx.HTTPError: it cannot be had.
    """
    timeout = httpx.Timeout(within, connect=CONNECT_WITHIN)
    built = client.build_request(method, url, timeout=timeout, **request)
    built.headers["accept-encoding"] = "identity"
    size = int(built.headers.get("content-length", "0"))
    try:
        async with asyncio.timeout(CONNECT_WITHIN + within + size / SLOWEST):
            response = await client.send(built, stream=True, follow_redirects=follow_redirects)
    except TimeoutError:
        raise httpx.ReadTimeout(f"no answer in {within:g} s") from None
    try:
        encoding = response.headers.get("content-encoding", "").strip().lower()
        if encoding not in {"", "identity"}:
            raise AnswerRefused("it answered in compressed form, which was not asked for")
        yield response
    finally:
        await response.aclose()


async def read_whole(response: httpx.Response, within: float, limit: int = MAX_ANSWER) -> bytes:
    """The body of an answer.

    Args:
        response: see `stream`.
        within: seconds, and as many more as its bytes take at `SLOWEST`.
        limit: bytes beyond which it is not read on.

    Raises:
        AnswerRefused: it is too large.
        httpx.HTTPError: it breaks off, or drips.
    """
    data = bytearray()
    try:
        async with asyncio.timeout(within) as deadline:
            async for chunk in response.aiter_bytes():
                data += chunk
                if len(data) > limit:
                    raise AnswerRefused(f"it answered with more than {limit} bytes")
                when = deadline.when()
                if when is not None:
                    deadline.reschedule(when + len(chunk) / SLOWEST)
    except TimeoutError:
        raise httpx.ReadTimeout(f"no whole answer in {within:g} s") from None
    return bytes(data)


async def ask(
    client: Client,
    method: str,
    url: str,
    *,
    within: float,
    limit: int = MAX_ANSWER,
    **request: Any,  # noqa: ANN401 - httpx's
) -> httpx.Response:
    """Send one request and read its whole answer: `stream`, then `read_whole`.

    Raises:
        AnswerRefused: it is too large, or compressed.
        httpx.HTTPError: it cannot be had.
    """
    async with stream(client, method, url, within=within, **request) as response:
        return httpx.Response(
            response.status_code,
            headers=response.headers,
            content=await read_whole(response, within, limit),
            request=response.request,
            extensions={"reason_phrase": response.reason_phrase.encode()},
        )


@asynccontextmanager
async def begun_there(
    post: Coroutine[Any, Any, None], stop: Callable[[asyncio.Task[None]], Awaitable[None]]
) -> AsyncIterator[None]:
    """Have something begun elsewhere that goes on by itself; on leaving, `stop` is awaited.

    `post` is never broken off: it may be taken although nobody waits for the answer any more.
    """
    posting = asyncio.create_task(post, name="begun there")
    try:
        await asyncio.shield(posting)
        yield
    finally:
        with anyio.CancelScope(shield=True):
            await stop(posting)
            await cancel_and_wait(posting)


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
    async for chunk in response.aiter_bytes():
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


@asynccontextmanager
async def open_socket(
    url: str,
    *,
    headers: Mapping[str, str] | None = None,
    max_size: int = MAX_MESSAGE,
    open_within: float = CONNECT_WITHIN,
) -> AsyncIterator[ClientConnection]:
    """A web socket to somebody else's program; however it is left, nothing stays open.

    Args:
        url: ``ws`` or ``wss``.
        headers: for the handshake.
        max_size: bytes that a message may have.
        open_within: seconds for connection and handshake.

    Raises:
        OSError, WebSocketException, TimeoutError: on entering, it cannot be opened.
    """
    socket = await connect(
        url,
        additional_headers=dict(headers or {}),
        max_size=max_size,
        max_queue=_FRAMES_WAITING,
        compression=None,
        open_timeout=open_within,
        close_timeout=_GOODBYE_WITHIN,
        proxy=proxy_for(url),
    )
    try:
        async with socket:
            yield socket
    finally:
        # A goodbye that is cancelled half-way leaves it open for as long as the other side talks.
        socket.transport.abort()
