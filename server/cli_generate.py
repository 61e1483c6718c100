"""`understudy generate`: plan, and draw, the sets that mode B replays."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from cache.documents import FormatError
from cache.library import Library
from cache.store import Store, StoreError
from cache.urls import BadStoreAddress, open_store
from generator.batch import Failure, Holding, Job, jobs_for, run_batch, take_stock
from server.cli_common import JsonOption, ShowOption, StoreOption, errors, fail, load
from server.engines import UnknownEngine, find_engine, recording_engines
from server.show import Show

generate = typer.Typer(help="Draw the sets that mode B replays.", no_args_is_help=True)


@generate.command()
def plan(
    *, show: ShowOption = None, store: StoreOption = None, as_json: JsonOption = False
) -> None:
    """What would be drawn: every action, the sets it has and the sets it wants."""
    loaded = load(show, store=store)
    wanted = loaded.settings.generate.sets_per_action
    holdings: list[Holding] = asyncio.run(_stock(loaded))
    actions = [
        {
            "action_id": holding.action.action_id,
            "type": holding.action.type,
            "program": holding.action.program,
            "prompt": holding.action.prompt,
            "fingerprint": holding.action.fingerprint,
            "sets_present": len(holding.present),
            "sets_wanted": wanted,
            "stale": bool(holding.stale),
        }
        for holding in holdings
    ]
    missing = sum(len(holding.missing(wanted)) for holding in holdings)
    totals = {
        "actions": len(actions),
        "sets_present": sum(len(holding.present) for holding in holdings),
        "sets_wanted": wanted * len(actions),
        "sets_missing": missing,
        "stale_actions": sum(1 for holding in holdings if holding.stale),
    }
    if as_json:
        typer.echo(json.dumps({"actions": actions, "totals": totals}, indent=2, ensure_ascii=False))
        return
    table = Table(box=None, pad_edge=False)
    for heading in ("action", "program", "sets", "prompt"):
        table.add_column(heading, no_wrap=heading != "prompt", overflow="ellipsis")
    for row in actions:
        stale = " stale" if row["stale"] else ""
        table.add_row(
            str(row["action_id"]),
            str(row["program"]),
            f"{row['sets_present']}/{wanted}{stale}",
            str(row["prompt"]),
        )
    Console(highlight=False).print(table)
    typer.echo(f"{len(actions)} actions, {missing} sets to draw")


@generate.command()
def batch(
    *,
    show: ShowOption = None,
    store: StoreOption = None,
    engine: Annotated[str | None, typer.Option(help="sketch or testcard.")] = None,
    sets: Annotated[int | None, typer.Option(min=1, help="Sets per action.")] = None,
    parallel: Annotated[int | None, typer.Option(min=0, help="At once; 0: one a core.")] = None,
    only: Annotated[list[str] | None, typer.Option(help="Only these action ids.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Draw the sets that are missing or stale. Stopped at any moment, it resumes."""
    loaded = load(show, store=store, generate={"sets_per_action": sets, "parallel": parallel})
    try:
        status = asyncio.run(_draw(loaded, engine, only or [], as_json=as_json))
    except KeyboardInterrupt:
        fail("stopped; the same command goes on from here", 130)
    raise SystemExit(status)


def _open(show: Show) -> Store:
    try:
        return open_store(show.settings.store.url, base=show.folder)
    except BadStoreAddress as error:
        fail(f"[store] url: {error}", 1)


async def _stock(show: Show) -> list[Holding]:
    try:
        async with _open(show) as opened:
            library = Library(opened)
            manifest = await library.refresh()
            known = {name: entry.fingerprint for name, entry in manifest.actions.items()}
            return await take_stock(library, show.plan(known).actions)
    except (StoreError, FormatError) as error:
        fail(str(error), 1)


async def _draw(show: Show, engine_name: str | None, only: list[str], *, as_json: bool) -> int:
    holdings = await _stock(show)
    known = {holding.action.action_id for holding in holdings}
    unknown = [name for name in only if name not in known]
    if unknown:
        fail(f"--only: no action {', '.join(unknown)} in this show", 2)
    wanted = show.settings.generate.sets_per_action
    chosen = [h for h in holdings if not only or h.action.action_id in only]
    jobs = jobs_for(chosen, wanted)
    count = min(show.settings.generate.parallel or os.cpu_count() or 1, len(jobs))
    try:
        section = find_engine(show.settings, engine_name)
    except UnknownEngine as error:
        fail(str(error), 2)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("sets"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=errors, disable=not jobs or not sys.stderr.isatty()) as bar:
        task = bar.add_task("drawing", total=len(jobs))

        def done(job: Job, failure: Failure | None) -> None:
            bar.update(task, advance=1, description=f"{job.action.action_id} set {job.set_id}")
            if failure is not None:
                bar.console.print(f"{job.action.action_id} set {job.set_id}: {failure.reason}")

        with recording_engines(section, count) as engines:
            async with _open(show) as opened:
                outcome = await run_batch(jobs, engines, opened, done)
    kept = sum(len(h.present) for h in chosen)
    if as_json:
        failed = [
            {"action_id": f.job.action.action_id, "set_id": f.job.set_id, "reason": f.reason}
            for f in outcome.failed
        ]
        typer.echo(json.dumps({"drawn": len(outcome.drawn), "kept": kept, "failed": failed}))
    else:
        typer.echo(
            f"{len(outcome.drawn)} sets drawn, {kept} were there already, "
            f"{len(outcome.failed)} failed"
        )
    return 1 if outcome.failed else 0
