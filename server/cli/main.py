"""The command line, also as `python -m server`.

Exit status: 0 well, 1 problems found, 2 wrong use.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from datetime import datetime
from io import TextIOWrapper
from pathlib import Path
from typing import Annotated

import typer

import cache
import generator
from server.asrun.log import AsRunUnreadable, read_rows, to_csv, to_json
from server.cli.common import JsonOption, ShowOption, StoreOption, fail, load
from server.cli.control import control
from server.cli.generate import generate
from server.cli.pull import pull_store
from server.cli.rehearse import rehearse_show
from server.cli.worker import worker
from server.control.command import command_help
from server.control.commands import COMMANDS
from server.output import occupy_standard_descriptors, output_in_background, unwritten_output
from server.serving import NotServed, serve_show

app = typer.Typer(
    name="understudy",
    help="Exhibition playback for AI-image pieces.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def main(args: Sequence[str] | None = None) -> None:
    """Run the program."""
    occupy_standard_descriptors()
    _check_packages()
    _print_what_can_be()
    try:
        app(args=list(args) if args is not None else None, prog_name="understudy")
    except (OSError, SystemExit) as ended:
        # Much of what was said is written only now; on a full disk, it is not.
        if (reason := unwritten_output(ended)) is not None:
            fail(f"output cannot be written: {reason}", 1)
        raise


def _print_what_can_be() -> None:
    """Write what a terminal has no character for as its number; it is no reason to end."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper) and stream.errors in {"strict", "surrogateescape"}:
            stream.reconfigure(errors="backslashreplace")


def _check_packages() -> None:
    """Our package names are common: make sure that all three are this checkout's."""
    here = Path(__file__).resolve().parents[2]
    for package in (cache, generator):
        found = Path(package.__file__ or "").resolve().parent.parent
        if found != here:
            fail(
                f"another package is in the way: expected {package.__name__} in {here}, found it "
                f"in {found}; run Understudy from an environment of its own (make run makes one)",
                2,
            )


@app.command()
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
            serve_show(loaded, log_level=log_level)
        except NotServed as error:
            fail(str(error), error.status)


@app.command()
def asrun(
    *,
    show: ShowOption = None,
    since: Annotated[
        str | None, typer.Option(help="Only runs since this ISO time, in the show's time zone.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1)] = 1000,
    csv: Annotated[bool, typer.Option("--csv", help="As a table for a spreadsheet.")] = False,
    as_json: JsonOption = False,
) -> None:
    """What was really played, newest first."""
    loaded = load(show)
    try:
        told = datetime.fromisoformat(since) if since else None
        # Without a zone of its own it is meant as the schedule is: in the show's.
        if told is not None and told.tzinfo is None:
            told = told.replace(tzinfo=loaded.timezone)
        after = None if told is None else told.timestamp()
    except (ValueError, OverflowError):
        fail(f"--since: expected a time such as 2026-11-20T10:00, not {since!r}", 2)
    try:
        rows = read_rows(loaded.state_folder / "asrun.sqlite", limit=limit, since=after)
    except AsRunUnreadable as error:
        fail(str(error), 1)
    if csv or not as_json:
        typer.echo(to_csv(rows), nl=False)
    else:
        typer.echo(to_json(rows))


app.command(epilog="\b\n" + command_help(COMMANDS.values()))(control)  # \b: a line each
app.command(name="rehearse")(rehearse_show)
app.command()(worker)
app.command(name="pull")(pull_store)
app.add_typer(generate, name="generate")
