"""Puts a show on the network: uvicorn, its settings, and a clear word when it cannot."""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import uvicorn
from starlette.applications import Starlette

from cache.stores.urls import BadStoreAddress
from server.config.sections import ServerSection, is_loopback
from server.config.show import Show
from server.config.stores import store_of
from server.core.host_process import STATUS, HostProcess
from server.core.logs import configure_logs
from server.network.access import Access
from server.network.connections import ConnectionLimits, Connections
from server.network.descriptors import raise_descriptor_limit, room_for_connections
from server.network.protocols import bounded_by
from server.network.responses import CloseAfterError
from server.network.reverse_proxy import ReverseProxies

MAX_MESSAGE = 1024 * 1024
"""Bytes: a longer message closes its socket before it is read."""

_KEEP_ALIVE = 75
"""Seconds that an idle connection is kept: longer than programs poll, and than proxies keep theirs
(nginx 60). Who asks at the very moment of its end gets no answer, and uvicorn's own 5 seconds are
what many poll by. Where room is needed, idle ones are the first to go, so they cost nobody else."""

_GRACE = 5
"""Seconds that connections have to end when the server is told to stop."""

_NO_GRACE = 0
"""The same, where it stops because the show cannot go on: it has a second for everything."""


class NotServed(Exception):
    """It does not serve, or no longer; `status` is the program's exit status."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class RefusedToServe(NotServed):
    """It will not or cannot listen there."""


class ShowStopped(NotServed):
    """It served until the show could not go on."""


class AddressTaken(RefusedToServe):
    """Something listens there already."""


def serve(
    show: Show,
    app: Starlette,
    title: str,
    process: HostProcess,
    *,
    log_level: str = "info",
    over: Callable[[], bool] = lambda: False,
) -> None:
    """Serve `app` where `show` wants to be served, until SIGINT or SIGTERM.

    Args:
        show: whose address, and whose rules about who may.
        app: what is served.
        title: what it is called where it says its address.
        process: what it runs in, as the application knows it.
        log_level: what is logged.
        over: asked ten times a second; once it says so, serving ends by itself.

    Raises:
        RefusedToServe: the address is not to be listened on, or not to be had.
        ShowStopped: the show could not go on.
    """
    settings = show.settings
    try:
        store_of(show)  # its address is looked at before anything is begun
    except BadStoreAddress as error:
        raise RefusedToServe(f"[store] url: {error}", 1) from error
    refusal = Access(settings.tokens, settings.server).refuses_to_listen()
    if refusal is not None:
        raise RefusedToServe(refusal, 2)
    serve_app(settings.server, app, title, process, log_level=log_level, over=over)


def serve_app(
    section: ServerSection,
    app: Starlette,
    title: str,
    process: HostProcess,
    *,
    log_level: str = "info",
    over: Callable[[], bool] = lambda: False,
) -> None:
    """Serve `app` where `section` says, until SIGINT or SIGTERM; whoever calls has leave to.

    Args:
        section: its address, and how many connections it may have.
        app: what is served.
        title: what it is called where it says its address.
        process: what it runs in, as the application knows it.
        log_level: what is logged.
        over: asked ten times a second; once it says so, serving ends by itself.

    Raises:
        RefusedToServe: the address is not to be had, or the application could not start.
        ShowStopped: it could not go on.
    """
    host, port = section.host, section.port
    configure_logs(log_level)
    listener = listen(host, port)
    connections = connections_of(section)
    app.state.connections = connections  # which says how it does where the server says it
    config = uvicorn_config(app, connections)
    name = f"[{host}]" if ":" in host else host
    shown = "localhost" if host in {"127.0.0.1", "::1"} else name
    with listener:
        address = f"http://{shown}:{listener.getsockname()[1]}/"
        server = AnnouncingServer(config, f"{title}: {address}", process, over)
        server.run(sockets=[listener])
    if process.failure is not None:
        raise ShowStopped(f"the server has ended: {process.failure}", STATUS)
    if not server.started:
        raise RefusedToServe("the server could not start; the log above says why", 1)


def connections_of(section: ServerSection) -> Connections:
    """The connections that a server may have, after this process was let open what it may."""
    limit = raise_descriptor_limit()
    most = room_for_connections(section.max_connections, limit)
    proxies = ReverseProxies(section.trusted_proxies)
    return Connections(
        ConnectionLimits(
            most,
            min(most, section.max_connections_per_address),
            exempt=lambda host: is_loopback(host) or proxies.trusts(host),
        )
    )


def uvicorn_config(app: Starlette, connections: Connections) -> uvicorn.Config:
    """How uvicorn serves an application of ours.

    Args:
        app: what is served.
        connections: which there are and may be.
    """
    http, websocket = bounded_by(connections)
    return uvicorn.Config(
        CloseAfterError(app),
        http=http,
        ws=websocket,
        ws_max_size=MAX_MESSAGE,
        ws_per_message_deflate=False,  # it would block the loop 6.6 ms for each picture
        timeout_keep_alive=_KEEP_ALIVE,
        timeout_graceful_shutdown=_GRACE,
        access_log=False,
        log_config=None,
        server_header=False,
        proxy_headers=False,  # it believes everybody on this machine; we have rules of our own
    )


class AnnouncingServer(uvicorn.Server):
    """Says where it is once it really listens, for people and for programs that wait for it.

    Args:
        config: what is served, and how.
        announcement: what it says.
        process: what it runs in; where that is to end, the server stops, and nobody is waited for.
        over: asked again and again; once it says so, the server stops by itself.
    """

    def __init__(
        self,
        config: uvicorn.Config,
        announcement: str,
        process: HostProcess | None = None,
        over: Callable[[], bool] = lambda: False,
    ) -> None:
        super().__init__(config)
        self._announcement = announcement
        self._process = process or HostProcess()
        self._over = over

    async def on_tick(self, counter: int) -> bool:
        """Whether to stop; asked by uvicorn ten times a second."""
        if self._process.failure is not None:
            self.config.timeout_graceful_shutdown = _NO_GRACE
            return True
        return await super().on_tick(counter) or self._over()

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
            self._process.notifier.ready()
            print(self._announcement, flush=True)  # noqa: T201 - it is what was asked for

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Say that it ends, then end."""
        self._process.stopping()
        await super().shutdown(sockets)
        self._process.leave()


def listen(host: str, port: int) -> socket.socket:
    """A socket bound to `host` and `port`, 0 for any.

    Raises:
        AddressTaken: something listens there already.
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
        where = f"cannot listen on {host} port {port}"
        if code == errno.EADDRINUSE:
            raise AddressTaken(f"{where}: something listens there already", 1) from error
        raise RefusedToServe(f"{where}: {error}", 1) from error
    return listener
