"""`understudy generate approve`: runs that were harvested, into sets that mode B replays."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from cache.library import Library
from cache.model.documents import FormatError
from cache.stores.port import Store, StoreError
from generator.sets import quarantine
from generator.sets.adoption import NotAdopted
from generator.sets.quarantine import Harvested
from server.cli.common import (
    JsonOption,
    ShowOption,
    StoreOption,
    errors,
    fail,
    load,
    named_store,
)
from server.config.show import Show
from server.core.formatting import count


def approve(
    runs: Annotated[
        list[str] | None,
        typer.Argument(help="Runs by name, or an action's id for all of its runs."),
    ] = None,
    *,
    show: ShowOption = None,
    store: StoreOption = None,
    everything: Annotated[bool, typer.Option("--all", help="Every run that waits.")] = False,
    only_list: Annotated[bool, typer.Option("--list", help="Say what waits; the default.")] = False,
    reject: Annotated[bool, typer.Option("--reject", help="Throw them away instead.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Make sets of runs that were harvested while they played live, or throw them away."""
    names = runs or []
    if everything and names:
        fail("name runs, or say --all", 2)
    if only_list and (everything or reject):
        fail("--list changes nothing: it goes without --all and --reject", 2)
    if reject and not everything and not names:
        fail("--reject: name runs, or say --all", 2)
    loaded = load(show, store=store)
    listing = only_list or not (everything or names)
    try:
        if listing:
            status = asyncio.run(_list(loaded, names, as_json=as_json))
        else:
            status = asyncio.run(_settle(loaded, names, reject=reject, as_json=as_json))
    except (StoreError, FormatError) as error:
        fail(str(error), 1)
    raise SystemExit(status)


async def _list(show: Show, names: Sequence[str], *, as_json: bool) -> int:
    async with named_store(show) as store:
        chosen = await _chosen(show, store, names)
    if as_json:
        rows = [
            {
                "run": run.name,
                "action_id": run.action_id,
                "prompt": run.entry.prompt,
                "steps": run.meta.total_steps,
                "seconds": run.meta.total_duration,
                "engine": run.meta.engine,
                "seed": run.meta.seed,
                "stale": stale,
            }
            for run, stale in chosen
        ]
        typer.echo(json.dumps({"waiting": rows}, indent=2, ensure_ascii=False))
    else:
        table = Table(box=None, pad_edge=False)
        for heading in ("run", "steps", "seconds", "engine", "prompt"):
            table.add_column(heading, no_wrap=heading != "prompt", overflow="fold")
        for run, stale in chosen:
            name = f"{run.name} (stale)" if stale else run.name
            seconds = f"{run.meta.total_duration or 0:.1f}"
            engine, prompt = run.meta.engine or "", run.entry.prompt or ""
            steps = str(run.meta.total_steps)
            table.add_row(name, steps, seconds, engine, prompt)
        if chosen:
            Console(highlight=False).print(table)
        typer.echo(f"{count(len(chosen), 'run')} waiting for approval in {store.url}")
    return 0


async def _settle(show: Show, names: Sequence[str], *, reject: bool, as_json: bool) -> int:
    """Approve or reject; the program's exit status."""
    done: list[dict[str, str | int]] = []
    left: list[dict[str, str]] = []
    async with named_store(show) as store:
        for run, stale in await _chosen(show, store, names):
            if reject:
                await quarantine.reject(store, run)
                done.append({"run": run.name})
            elif stale:
                reason = "it was drawn from another recipe than the show's; reject it"
                left.append({"run": run.name, "reason": reason})
            else:
                try:
                    set_id = await quarantine.approve(store, run)
                except NotAdopted as error:
                    left.append({"run": run.name, "reason": str(error)})
                else:
                    done.append({"run": run.name, "set_id": set_id})
        await quarantine.sweep(store, datetime.now(UTC))
    what = "rejected" if reject else "approved"
    if as_json:
        typer.echo(json.dumps({what: done, "left": left}, indent=2))
    else:
        for each in done if not reject else ():
            typer.echo(f"{each['run']} is set {each['set_id']}")
        for lost in left:
            errors.print(f"{lost['run']}: {lost['reason']}", markup=False)
        typer.echo(f"{count(len(done), 'run')} {what}, {len(left)} left")
    return 1 if left else 0


async def _chosen(show: Show, store: Store, names: Sequence[str]) -> list[tuple[Harvested, bool]]:
    """The runs that were named, all where none were, and whether the show has another recipe now.

    The end of the program where nothing of a name waits.
    """
    found = await quarantine.waiting(store)
    for remark in found.remarks:
        errors.print(remark, markup=False)
    known = {run.name for run in found.runs} | {run.action_id for run in found.runs}
    unknown = [name for name in names if name not in known]
    if unknown:
        fail(f"nothing waits for approval under {', '.join(unknown)}", 2)
    manifest = await Library(store).refresh()
    wanted = show.plan(manifest.fingerprints).wanted
    return [
        (run, run.meta.fingerprint != wanted.get(run.action_id))
        for run in found.runs
        if not names or run.name in names or run.action_id in names
    ]
