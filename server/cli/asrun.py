"""`understudy asrun`: what was really played."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

import typer

from server.asrun.file import AsRunUnreadable, read_rows, to_csv, to_json
from server.cli.common import JsonOption, ShowOption, fail, load


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
        moment = datetime.fromisoformat(since) if since else None
        # Without a zone of its own it is meant as the schedule is: in the show's.
        if moment is not None and moment.tzinfo is None:
            moment = moment.replace(tzinfo=loaded.timezone)
        after = None if moment is None else moment.timestamp()
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
