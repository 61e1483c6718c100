"""`understudy worker`: an engine behind HTTP, on a GPU box or as a child process."""

from __future__ import annotations

from typing import Annotated

import typer
import uvicorn
from pydantic import SecretStr

from generator.engine import EngineError
from generator.plan import DEFAULT_PROGRAM
from generator.recipe import Recipe
from generator.worker import Worker
from server.access import is_loopback
from server.cli_common import (
    LogLevelOption,
    ShowOption,
    StoreOption,
    errors,
    fail,
    load,
    named_store,
)
from server.engines import UnknownEngine, find_engine, local_engine
from server.engines_elsewhere import ELSEWHERE
from server.logs import configure_logs
from server.serving import RefusedToServe, listen
from server.show import Show

_PROBE_SIZE = 256
_PROBE_STEPS = 2


def worker(
    *,
    show: ShowOption = None,
    engine: Annotated[str, typer.Option(help="Engine by name or kind.")] = "diffusers",
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 for any.")] = 9000,
    store: StoreOption = None,
    log_level: LogLevelOption = "info",
) -> None:
    """Serve one engine: POST /generate, POST /action-sets, GET /health."""
    loaded = load(show, store=store)
    token = loaded.settings.tokens.worker
    if not is_loopback(host) and token is None:
        fail(f"refusing to listen on {host} without a token: set UNDERSTUDY_WORKER_TOKEN", 2)
    try:
        section = find_engine(loaded.settings, engine)
    except UnknownEngine as error:
        fail(str(error), 2)
    if section.kind in ELSEWHERE:
        fail(f"{engine} draws elsewhere already: it is a {section.kind}", 2)
    configure_logs(log_level)
    drawing, close = local_engine(section, wait=True)
    ended: list[EngineError] = []

    def poisoned(error: EngineError) -> None:
        ended.append(error)
        server.should_exit = True

    serving = Worker(
        drawing,
        probe=probe_of(loaded),
        store=named_store(loaded),
        token=token if isinstance(token, SecretStr) else None,
        poisoned=poisoned,
    )
    config = uvicorn.Config(
        serving.app(), access_log=False, log_config=None, timeout_graceful_shutdown=5
    )
    server = uvicorn.Server(config)
    try:
        with listen(host, port) as listener:
            where = f"http://{host}:{listener.getsockname()[1]}"
            typer.echo(f"{drawing.name}: {where}")
            server.run(sockets=[listener])
    except RefusedToServe as error:
        fail(str(error), error.status)
    finally:
        close()
    if ended:
        errors.print(f"the engine can draw no more in this process: {ended[0]}", markup=False)
        raise SystemExit(1)


def probe_of(show: Show) -> Recipe:
    """Something small to draw with the show's first program, to prove that drawing works."""
    program = show.programs[DEFAULT_PROGRAM]
    small = {"width": _PROBE_SIZE, "height": _PROBE_SIZE, "steps": _PROBE_STEPS}
    return program.model_copy(update=small).recipe("a lamp")
