"""`understudy pull`: the sets of a store to a folder, for a venue without a network."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.filesize import decimal
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from cache.index import load_manifest
from cache.model.documents import FormatError
from cache.model.keys import MANIFEST
from cache.model.manifest import Manifest
from cache.pull import PARALLEL, PullReport, pull
from cache.stores.folder import FolderStore
from cache.stores.port import NotFound, Store, StoreError
from server.cli.common import (
    JsonOption,
    ShowOption,
    StoreOption,
    errors,
    fail,
    load,
    named_store,
    run_to_end,
)
from server.config.show import Show
from server.core.logs import configure_logs


def pull_store(
    *,
    to: Annotated[Path, typer.Option("--to", help="The folder to bring it to.")],
    show: ShowOption = None,
    store: StoreOption = None,
    needed: Annotated[
        bool, typer.Option("--needed", help="Only the sets of this show's cues.")
    ] = False,
    parallel: Annotated[
        int, typer.Option(min=1, max=64, help="Files under way at once.")
    ] = PARALLEL,
    as_json: JsonOption = False,
) -> None:
    """Bring the whole store to a folder, checked. Stopped at any moment, it resumes."""
    loaded = load(show, store=store)
    target = _target(to, loaded)
    configure_logs("warning")  # to standard error: what is asked for goes to the other
    try:
        report, without = run_to_end(_pull(loaded, target, parallel, needed=needed))
    except (StoreError, FormatError) as error:
        fail(f"{error}\nwhat was brought stays, and the same command goes on from here", 1)
    if as_json:
        typer.echo(json.dumps(_as_json(report, target, without), indent=2, ensure_ascii=False))
    else:
        _say(report, target, without)
    raise SystemExit(1 if report.broken else 0)


def _target(to: Path, show: Show) -> FolderStore:
    """The folder to pull to, or the end of the program with why it cannot be that one."""
    folder = to.expanduser().resolve()
    source = named_store(show)
    state = show.state_folder
    if folder.exists() and not folder.is_dir():
        fail(f"--to {to}: expected a folder, found a file", 2)
    if isinstance(source, FolderStore):
        root = source.root.resolve()
        if folder == root:
            fail(f"--to {to}: that is the store itself; expected another folder", 2)
        if folder.is_relative_to(root) or root.is_relative_to(folder):
            fail(f"--to {to}: it and the store {root} lie one in the other; keep them apart", 2)
        for other in (each.resolve() for each in source.follow):
            if folder.is_relative_to(other) or other.is_relative_to(folder):
                fail(f"--to {to}: it and [store] follow {other} lie one in the other", 2)
    if folder.is_relative_to(state):
        fail(f"--to {to}: it lies in [cache] dir {state}, whose copies come and go", 2)
    if state.is_relative_to(folder) and not any(
        part.startswith(".") for part in state.relative_to(folder).parts
    ):
        fail(f"--to {to}: [cache] dir {state} lies in it and would be taken for sets", 2)
    return FolderStore(folder)


async def _pull(
    show: Show, target: FolderStore, parallel: int, *, needed: bool
) -> tuple[PullReport, list[str]]:
    """Pull, with a bar where people look.

    Returns:
        The report, and the show's actions that the store has no set of, if it was asked.
    """
    columns = (
        TextColumn("pulling"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("sets  {task.fields[amount]}  {task.fields[rate]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=errors, disable=not sys.stderr.isatty()) as bar:
        task = bar.add_task("pulling", total=None, amount="", rate="")

        def progress(report: PullReport) -> None:
            elapsed = bar.tasks[0].elapsed or 0.0
            rate = report.bytes_fetched / elapsed if elapsed > 1 else 0.0
            bar.update(
                task,
                total=report.sets_wanted,
                completed=report.sets_whole + len(report.broken),
                amount=decimal(report.bytes_fetched),
                rate=f"{decimal(int(rate))}/s" if rate else "",
            )

        async with named_store(show) as source, target:
            manifest = await _manifest_of(source)
            only, without = _needed_actions(show, manifest) if needed else (None, [])
            report = await pull(source, target, only=only, parallel=parallel, progress=progress)
    return report, without


async def _manifest_of(source: Store) -> Manifest:
    """What a store has, or the end of the program if there is nothing to pull."""
    try:
        return await load_manifest(source)
    except NotFound:
        fail(
            f"{source.url} has no {MANIFEST}: nothing was drawn there, or it is another prefix; "
            "understudy generate reindex makes one from the sets",
            1,
        )


def _needed_actions(show: Show, manifest: Manifest) -> tuple[dict[str, str], list[str]]:
    """Of which recipe each action's sets must be, and the actions that the store has none of."""
    wanted = show.plan(manifest.fingerprints).wanted
    without = [each for each, recipe in wanted.items() if not manifest.set_ids(each, recipe)]
    return wanted, without


def _as_json(report: PullReport, target: FolderStore, without: list[str]) -> dict[str, object]:
    return {
        "to": str(target.root),
        "sets": report.sets_whole,
        "files_fetched": report.files_fetched,
        "bytes_fetched": report.bytes_fetched,
        "files_present": report.files_present,
        "broken": [
            {"action_id": left.action_id, "set_id": left.set_id, "reason": left.reason}
            for left in report.broken
        ],
        "left_alone": report.left_alone,
        "without_sets": without,
    }


def _say(report: PullReport, target: FolderStore, without: list[str]) -> None:
    for left in report.broken:
        errors.print(f"broken at the source: {left}", markup=False)
    for action_id in without:
        errors.print(f"{action_id}: the store has no set of it", markup=False)
    typer.echo(
        f"{report.sets_whole} sets in {target.root}: {report.files_fetched} files fetched "
        f"({decimal(report.bytes_fetched)}), {report.files_present} were there already"
    )
    if report.left_alone:
        typer.echo(
            f"{report.left_alone} sets that the store does not list are left alone, and not played"
        )
