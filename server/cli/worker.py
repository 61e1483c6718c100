"""`understudy worker`: an engine behind HTTP, on a GPU box or as a child process."""

from __future__ import annotations

import asyncio
import os
import sys
from contextlib import suppress
from typing import Annotated

import typer
from pydantic import SecretStr

from cache.outgoing import redacted
from cache.stores.port import Store
from cache.untrusted import fit_json
from generator.engines.port import EngineError, draw_for_nobody
from generator.engines.registry import UnknownEngine, find_engine
from generator.engines.settings import LocalSection
from generator.sheet.programs import DEFAULT_PROGRAM
from generator.sheet.recipe import Recipe
from generator.worker import Worker
from server.cli.common import (
    LogLevelOption,
    ShowOption,
    StoreOption,
    errors,
    fail,
    load,
    named_store,
    reading,
)
from server.config.sections import ServerSection, is_loopback
from server.config.show import Show
from server.core.child_process import end_with_parent, give_way
from server.core.logs import configure_logs
from server.core.output import output_in_background
from server.engines.child import TOKEN_VARIABLE, ChildAssignment
from server.network.serving import (
    AnnouncingServer,
    RefusedToServe,
    connections_of,
    listen,
    uvicorn_config,
)

_PROBE_SIZE = 256
_PROBE_STEPS = 2


def worker(
    *,
    show: ShowOption = None,
    engine: Annotated[str, typer.Option(help="Engine by name or kind.")] = "diffusers",
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 for any.")] = 9000,
    store: StoreOption = None,
    supervised: Annotated[
        bool,
        typer.Option(
            "--supervised",
            help="Be a server's child: the engine comes on standard input; end when that closes.",
        ),
    ] = False,
    log_level: LogLevelOption = "info",
) -> None:
    """Serve one engine: POST /generate, POST /action-sets, GET /health."""
    if supervised:
        # Without the queue, which a crash would lose, and with it the lines that say why. The
        # server reads at all times, so that nothing waits here.
        _be_supervised(host, port)
        return
    with output_in_background():
        configure_logs(log_level)
        _be_on_its_own(load(show, store=store), engine, host, port)


def _be_on_its_own(loaded: Show, engine: str, host: str, port: int) -> None:
    """Serve an engine of a show, to whoever may."""
    token = loaded.settings.tokens.engines.get("worker")
    if not is_loopback(host) and token is None:
        fail(f"refusing to listen on {host} without a token: set UNDERSTUDY_WORKER_TOKEN", 2)
    try:
        section = find_engine(loaded.settings.engines, engine)
    except UnknownEngine as error:
        fail(str(error), 2)
    if not isinstance(section, LocalSection):
        fail(f"{redacted(engine)} draws elsewhere already: it is a {section.kind}", 2)
    _serve(section, probe_of(loaded), host, port, token=token, store=named_store(loaded))


def _be_supervised(host: str, port: int) -> None:
    """Serve what standard input asks for, to who knows the token, and no longer than it is open."""
    line = sys.stdin.buffer.readline()
    end_with_parent()
    give_way()
    token = os.environ.pop(TOKEN_VARIABLE, "")
    if not token:
        fail(f"a supervised worker wants {TOKEN_VARIABLE}", 2)
    with reading("standard input: expected an assignment"):
        told = ChildAssignment.model_validate_json(fit_json(line))
    if not isinstance(told.engine, LocalSection):
        fail(f"{told.engine.name} draws elsewhere already", 2)
    configure_logs()
    _serve(
        told.engine,
        told.probe,
        host,
        port,
        token=SecretStr(token),
        draw_first=True,
        wait=told.wait,
    )


def _serve(
    section: LocalSection,
    probe: Recipe,
    host: str,
    port: int,
    *,
    token: SecretStr | None,
    store: Store | None = None,
    draw_first: bool = False,
    wait: bool = True,
) -> None:
    ended: list[EngineError] = []

    def poisoned(error: EngineError) -> None:
        ended.append(error)
        server.should_exit = True

    with section.open(wait=wait) as drawing:
        if draw_first:
            # Then all is loaded that may stop the interpreter for longer than a heartbeat. Whoever
            # is served hears what is wrong with it.
            with suppress(EngineError):
                asyncio.run(draw_for_nobody(drawing, probe))
        serving = Worker(drawing, probe=probe, store=store, token=token, poisoned=poisoned)
        config = uvicorn_config(serving.app(), connections_of(ServerSection()))
        try:
            with listen(host, port) as listener:
                where = f"http://{host}:{listener.getsockname()[1]}"
                server = AnnouncingServer(config, f"{drawing.name}: {where}")
                server.run(sockets=[listener])
        except RefusedToServe as error:
            fail(str(error), error.status)
    if ended:
        errors.print(f"the engine can draw no more in this process: {ended[0]}", markup=False)
        raise SystemExit(1)


def probe_of(show: Show) -> Recipe:
    """Something small to draw with the show's first program, to prove that drawing works."""
    program = show.programs[DEFAULT_PROGRAM]
    small = {"width": _PROBE_SIZE, "height": _PROBE_SIZE, "steps": _PROBE_STEPS}
    base_image = show.base_images.get(DEFAULT_PROGRAM)
    return program.model_copy(update=small).recipe("a lamp", base_image=base_image)
