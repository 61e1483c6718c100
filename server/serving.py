"""Puts a show on the network: uvicorn, its settings, and a clear word when it cannot."""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn

from cache.urls import BadStoreAddress
from server.access import Access
from server.app import create_app
from server.config.show import Show
from server.config.stores import store_of
from server.logs import configure_logs

MAX_MESSAGE = 1024 * 1024
"""Bytes: a longer message closes its socket before it is read."""

_GRACE = 5
"""Seconds that connections have to end when the server is told to stop."""


class RefusedToServe(Exception):
    """It will not or cannot listen there; `status` is the program's exit status."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


def serve_show(show: Show, *, log_level: str = "info") -> None:
    """Serve `show` until SIGINT or SIGTERM.

    Raises:
        RefusedToServe: the address is not to be listened on, or not to be had.
    """
    settings = show.settings
    host, port = settings.server.host, settings.server.port
    try:
        store_of(show)  # its address is looked at before anything is begun
    except BadStoreAddress as error:
        raise RefusedToServe(f"[store] url: {error}", 1) from error
    refusal = Access(settings.tokens, host).refuses_to_listen()
    if refusal is not None:
        raise RefusedToServe(refusal, 2)
    configure_logs(log_level)
    listener = listen(host, port)
    config = uvicorn.Config(
        create_app(show),
        ws="websockets-sansio",
        ws_max_size=MAX_MESSAGE,
        ws_per_message_deflate=False,  # it would block the loop 6.6 ms for each picture
        timeout_graceful_shutdown=_GRACE,
        access_log=False,
        log_config=None,
        server_header=False,
    )
    name = f"[{host}]" if ":" in host else host
    shown = "localhost" if host in {"127.0.0.1", "::1"} else name
    with listener:
        address = f"http://{shown}:{listener.getsockname()[1]}/"
        server = AnnouncingServer(config, f"{show.title}: {address}")
        server.run(sockets=[listener])
    if not server.started:
        raise RefusedToServe("the server could not start; the log above says why", 1)


class AnnouncingServer(uvicorn.Server):
    """Says where it is once it really listens, for people and for programs that wait for it."""

    def __init__(self, config: uvicorn.Config, announcement: str) -> None:
        super().__init__(config)
        self._announcement = announcement

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Obey SIGINT and SIGTERM and end with status 0: uvicorn would raise them once more."""
        with super().capture_signals():
            yield
            self._captured_signals.clear()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen, then say so."""
        await super().startup(sockets)
        if not self.should_exit:
            print(self._announcement, flush=True)  # noqa: T201 - it is what was asked for


def listen(host: str, port: int) -> socket.socket:
    """A socket bound to `host` and `port`, 0 for any.

    Raises:
        RefusedToServe: it is not to be had.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except (OSError, OverflowError) as error:
        listener.close()
        code = getattr(error, "errno", None)
        reason = "something listens there already" if code == errno.EADDRINUSE else str(error)
        raise RefusedToServe(f"cannot listen on {host} port {port}: {reason}", 1) from error
    return listener
