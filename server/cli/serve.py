"""`understudy serve`: play a show."""

from __future__ import annotations

from typing import Annotated

import typer

from server.app import create_app
from server.cli.common import ShowOption, StoreOption, fail, load
from server.core.clock import SystemClock
from server.core.host_process import HostProcess
from server.core.output import output_in_background
from server.network.serving import NotServed
from server.network.serving import serve as run_server
from server.setup import ShowSetup


def serve(
    *,
    show: ShowOption = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on.")] = None,
    port: Annotated[int | None, typer.Option(min=0, max=65535, help="Port; 0 for any.")] = None,
    mode: Annotated[str | None, typer.Option(help="static, live or hybrid.")] = None,
    store: StoreOption = None,
    log_level: Annotated[str, typer.Option(help="debug, info, warning or error.")] = "info",
) -> None:
    """Play a show: screens at /, probes at /healthz and /readyz."""
    with output_in_background():
        loaded = load(
            show,
            store=store,
            server={"host": host, "port": port},
            playback={"mode": mode},
        )
        try:
            process = HostProcess.of_this_server()
            app = create_app(ShowSetup(loaded, SystemClock()), process)
            run_server(loaded, app, loaded.title, process, log_level=log_level)
        except NotServed as error:
            fail(str(error), error.status)
