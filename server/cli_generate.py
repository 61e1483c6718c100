"""`understudy generate`: plan, and draw, the sets that mode B replays."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from cache.documents import FormatError
from cache.index import reindex
from cache.keys import meta_key
from cache.library import Library
from cache.manifest import Manifest
from cache.store import StoreError
from generator.batch import Failure, Holding, Job, jobs_for, run_batch, take_stock
from generator.importer import ImportReport, NothingToImport, import_sets
from generator.verify import Finding, verify_sets
from server.cli_approve import approve
from server.cli_common import (
    JsonOption,
    ShowOption,
    StoreOption,
    errors,
    fail,
    load,
    named_store,
)
from server.engines import UnknownEngine, find_engine, recording_engines
from server.show import Show

generate = typer.Typer(help="Draw the sets that mode B replays.", no_args_is_help=True)
generate.command()(approve)


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
    engine: Annotated[
        list[str] | None,
        typer.Option(help="Engine by name, kind or address of a worker; several work together."),
    ] = None,
    sets: Annotated[int | None, typer.Option(min=1, help="Sets per action.")] = None,
    parallel: Annotated[int | None, typer.Option(min=0, help="At once; 0: one a core.")] = None,
    only: Annotated[list[str] | None, typer.Option(help="Only these action ids.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Draw again what is there.")] = False,
    rate: Annotated[float | None, typer.Option(min=0.01, help="Sets begun a minute.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Draw the sets that are missing or stale. Stopped at any moment, it resumes."""
    loaded = load(show, store=store, generate={"sets_per_action": sets, "parallel": parallel})
    try:
        work = _draw(loaded, engine or [], only or [], force=force, rate=rate, as_json=as_json)
        status = asyncio.run(work)
    except KeyboardInterrupt:
        fail("stopped; the same command goes on from here", 130)
    raise SystemExit(status)


@generate.command()
def verify(
    *,
    show: ShowOption = None,
    store: StoreOption = None,
    only: Annotated[list[str] | None, typer.Option(help="Only these action ids.")] = None,
    repair: Annotated[bool, typer.Option("--repair", help="Draw again what is wrong.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Open every set: files, hashes, sizes, fingerprints, pictures that are all one colour."""
    loaded = load(show, store=store)
    findings = asyncio.run(_verify(loaded, only or []))
    if as_json:
        rows = [
            {"action_id": f.action_id, "set_id": f.set_id, "code": f.code, "message": f.message}
            for f in findings
        ]
        typer.echo(json.dumps({"findings": rows}, indent=2, ensure_ascii=False))
    else:
        for finding in findings:
            typer.echo(str(finding))
        typer.echo("every set is whole" if not findings else f"{len(findings)} findings")
    if repair and findings:
        drawn = asyncio.run(_repair(loaded, findings))
        raise SystemExit(drawn)
    raise SystemExit(1 if findings else 0)


@generate.command(name="reindex")
def reindex_store(*, show: ShowOption = None, store: StoreOption = None) -> None:
    """Make the manifest anew from the sets that are there."""
    loaded = load(show, store=store)
    manifest = asyncio.run(_reindex(loaded))
    for remark in manifest.remarks:
        errors.print(remark, markup=False)
    typer.echo(f"{manifest.total_actions} actions, {manifest.total_sets} sets")


@generate.command(name="import")
def import_older(
    source: Annotated[Path, typer.Argument(help="The folder with cues/ in it.")],
    *,
    show: ShowOption = None,
    store: StoreOption = None,
) -> None:
    """Take over sets of the older layout, {version}/cues/{kind}_{index}_{HH_MM_SS}."""
    loaded = load(show, store=store)
    try:
        report = asyncio.run(_import(loaded, source))
    except NothingToImport as error:
        fail(str(error), 1)
    for line in (*report.left, *report.remarks):
        errors.print(str(line), markup=False)
    typer.echo(
        f"{len(report.imported)} sets imported, {len(report.present)} were there already, "
        f"{len(report.left)} left"
    )
    raise SystemExit(1 if report.left else 0)


async def _verify(show: Show, only: list[str]) -> list[Finding]:
    holdings = await _stock(show)
    actions = [h.action for h in holdings if not only or h.action.action_id in only]
    try:
        async with named_store(show) as opened:
            library = Library(opened)
            await library.refresh()
            return [finding async for finding in verify_sets(library, actions)]
    except (StoreError, FormatError) as error:
        fail(str(error), 1)


async def _repair(show: Show, findings: list[Finding]) -> int:
    async with named_store(show) as opened:
        for finding in findings:
            # What has no meta does not exist, so that it is drawn again.
            await opened.delete(meta_key(finding.action_id, finding.set_id))
    broken = sorted({finding.action_id for finding in findings})
    return await _draw(show, [], broken, force=False, rate=None, as_json=False)


async def _reindex(show: Show) -> Manifest:
    try:
        async with named_store(show) as opened:
            return await reindex(opened)
    except (StoreError, FormatError) as error:
        fail(str(error), 1)


async def _import(show: Show, source: Path) -> ImportReport:
    actions = [holding.action for holding in await _stock(show)]
    try:
        async with named_store(show) as opened:
            return await import_sets(source, opened, actions)
    except (StoreError, FormatError) as error:
        fail(str(error), 1)


async def _stock(show: Show) -> list[Holding]:
    try:
        async with named_store(show) as opened:
            library = Library(opened)
            manifest = await library.refresh()
            known = {name: entry.fingerprint for name, entry in manifest.actions.items()}
            return await take_stock(library, show.plan(known).actions)
    except (StoreError, FormatError) as error:
        fail(str(error), 1)


async def _draw(
    show: Show,
    names: list[str],
    only: list[str],
    *,
    force: bool,
    rate: float | None,
    as_json: bool,
) -> int:
    holdings = await _stock(show)
    known = {holding.action.action_id for holding in holdings}
    unknown = [name for name in only if name not in known]
    if unknown:
        fail(f"--only: no action {', '.join(unknown)} in this show", 2)
    wanted = show.settings.generate.sets_per_action
    chosen = [h for h in holdings if not only or h.action.action_id in only]
    if force:
        chosen = [Holding(holding.action, ()) for holding in chosen]
    jobs = jobs_for(chosen, wanted)
    count = min(show.settings.generate.parallel or os.cpu_count() or 1, len(jobs))
    try:
        sections = [find_engine(show.settings, name) for name in names] or [
            find_engine(show.settings, None)
        ]
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

        async with (
            recording_engines(sections, count, show.settings.tokens.worker) as engines,
            named_store(show) as opened,
        ):
            outcome = await run_batch(jobs, engines, opened, done, per_minute=rate)
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
