"""`understudy generate`: plan, and draw, the sets that mode B replays."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import aclosing
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from cache.index import reindex
from cache.library import Library
from cache.model.keys import ACTIONS_PREFIX, MANIFEST, META_NAME, Key, set_place
from cache.model.manifest import Manifest
from cache.stores.port import Store
from generator.engines.registry import AnyEngine, UnknownEngine, find_engine, recording_engines
from generator.engines.settings import BadEngine
from generator.sets.batch import BatchOutcome, Event, run_batch
from generator.sets.importer import NothingToImport, import_sets
from generator.sets.inventory import Holding, MissingSet, jobs_for, take_inventory
from generator.sets.prune import Unwanted, remove_sets, unwanted_sets
from generator.sets.verify import SetFinding, verify_sets
from generator.sheet.estimate import Experience
from generator.sheet.plan import Plan
from server.cli.approve import approve
from server.cli.batch_progress import Tally, batch_display, remark
from server.cli.common import (
    JsonOption,
    LogLevelOption,
    ShowOption,
    StoreOption,
    errors,
    fail,
    in_store,
    load,
    named_store,
    run_to_end,
)
from server.cli.draft import Draft
from server.cli.reject import reject, restore
from server.config.show import Show
from server.core.formatting import count, size
from server.core.logs import configure_logs

EngineOption = Annotated[
    list[str] | None,
    typer.Option(
        "--engine", help="Engine by name, kind or address of a worker; several work together."
    ),
]
SetsOption = Annotated[int | None, typer.Option("--sets", min=1, help="Sets per action.")]
ParallelOption = Annotated[
    int | None, typer.Option("--parallel", min=0, help="At once; 0: one a core.")
]
OnlyOption = Annotated[list[str] | None, typer.Option("--only", help="Only these action ids.")]

generate = typer.Typer(help="Draw the sets that mode B replays.", no_args_is_help=True)
generate.command()(approve)
generate.command()(reject)
generate.command()(restore)


@generate.callback()
def prepare(*, log_level: LogLevelOption = "warning") -> None:
    """Draw the sets that mode B replays."""
    configure_logs(log_level)


@generate.command()
def plan(
    *,
    show: ShowOption = None,
    store: StoreOption = None,
    engine: EngineOption = None,
    sets: SetsOption = None,
    parallel: ParallelOption = None,
    only: OnlyOption = None,
    as_json: JsonOption = False,
) -> None:
    """What would be drawn and why, and the time and room that it takes."""
    loaded = load(show, store=store, generate={"sets_per_action": sets, "parallel": parallel})
    sections = _sections(loaded, engine or [])
    holdings = _stock(loaded)
    chosen = _chosen(holdings, only or [])
    wanted = loaded.settings.generate.sets_per_action
    draft = Draft(
        chosen,
        wanted,
        experience=Experience(meta for held in holdings for meta in held.metas.values()),
        engines=_kinds(sections),
        beside=sum(section.beside_each_other(_parallel(loaded)) for section in sections),
    )
    if as_json:
        typer.echo(json.dumps(draft.as_json(), indent=2, ensure_ascii=False))
        return
    Console(highlight=False).print(draft.as_table())
    for line in (*draft.remarks(), *draft.summary()):
        typer.echo(line)


@generate.command()
def batch(
    *,
    show: ShowOption = None,
    store: StoreOption = None,
    engine: EngineOption = None,
    sets: SetsOption = None,
    parallel: ParallelOption = None,
    only: OnlyOption = None,
    force: Annotated[bool, typer.Option("--force", help="Draw again what is there.")] = False,
    rate: Annotated[float | None, typer.Option(min=0.01, help="Sets begun a minute.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Draw the sets that are missing or stale. Stopped at any moment, it resumes."""
    loaded = load(show, store=store, generate={"sets_per_action": sets, "parallel": parallel})
    sections = _sections(loaded, engine or [])
    chosen = _chosen(_stock(loaded), only or [])
    kept = 0 if force else sum(len(holding.present) for holding in chosen)
    if force:
        chosen = [holding.afresh() for holding in chosen]
    jobs = jobs_for(chosen, loaded.settings.generate.sets_per_action)
    outcome = run_to_end(_draw(loaded, sections, jobs, force=force, rate=rate))
    _tell(outcome, kept, as_json=as_json)
    raise SystemExit(1 if outcome.failed else 0)


@generate.command()
def verify(
    *,
    show: ShowOption = None,
    store: StoreOption = None,
    engine: EngineOption = None,
    only: OnlyOption = None,
    repair: Annotated[bool, typer.Option("--repair", help="Draw again what is wrong.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Open every set: files, hashes, sizes, fingerprints, pictures that are all one colour."""
    loaded = load(show, store=store)
    sections = _sections(loaded, engine or [])
    chosen = _chosen(_stock(loaded), only or [])
    findings, where = in_store(loaded, partial(_verify, chosen))
    flawed = {finding.action_id for finding in findings}
    absent = [h for h in chosen if not h.present and h.action.action_id not in flawed]
    wrong = len(findings) + len(absent)
    rows: list[dict[str, Any]] = [
        {"action_id": f.action_id, "set_id": f.set_id, "code": f.code, "message": f.message}
        for f in findings
    ]
    rows += [
        {"action_id": h.action.action_id, "set_id": None, "code": "absent", "message": _absent(h)}
        for h in absent
    ]
    if not as_json:
        for finding in findings:
            typer.echo(str(finding))
        for line in _absences(absent, chosen, where):
            typer.echo(line)
        whole = "every set is whole" if chosen else "this show draws nothing: it needs no sets"
        typer.echo(count(wrong, "finding") if wrong else whole)
    if not (repair and wrong):
        if as_json:
            typer.echo(json.dumps({"findings": rows}, indent=2, ensure_ascii=False))
        raise SystemExit(1 if wrong else 0)
    repairs = _repairs(chosen, findings, absent, loaded.settings.generate.sets_per_action)
    outcome = run_to_end(_draw(loaded, sections, repairs, force=True))
    if any(finding.code == "stale" for finding in findings):
        in_store(loaded, reindex)  # each is listed under its own recipe from now on
    if as_json:
        told = {"findings": rows, **_as_json(outcome, 0)}
        typer.echo(json.dumps(told, indent=2, ensure_ascii=False))
    else:
        _tell(outcome, 0, as_json=False)
    raise SystemExit(1 if outcome.failed else 0)


def _absent(holding: Holding) -> str:
    others = count(len(holding.stale), "set")
    kept = f" ({others} of other recipes are kept)" if holding.stale else ""
    return f"there is no set of it{kept}: understudy generate batch draws them"


def _absences(absent: Sequence[Holding], chosen: Sequence[Holding], where: str) -> list[str]:
    """Which actions have no set at all; where none has, that is said once."""
    if absent and len(absent) == len(chosen):
        return [f"there is no set of any of the {count(len(chosen), 'action')} in {where}"]
    return [f"{held.action.action_id}: {_absent(held)}" for held in absent]


def _repairs(
    chosen: Sequence[Holding],
    findings: Sequence[SetFinding],
    absent: Sequence[Holding],
    wanted: int,
) -> list[MissingSet]:
    """What is broken is drawn again in its place; for what is stale, or not there, new sets."""
    held = {holding.action.action_id: holding for holding in chosen}
    places = dict.fromkeys((f.action_id, f.set_id) for f in findings if f.code != "stale")
    jobs = [MissingSet(held[action_id].action, set_id) for action_id, set_id in places]
    lacking = {f.action_id: held[f.action_id] for f in findings if f.code == "stale"}
    lacking |= {holding.action.action_id: holding for holding in absent}
    return jobs + [job for job in jobs_for([*lacking.values()], wanted) if job not in jobs]


@generate.command()
def prune(
    *,
    show: Annotated[
        list[Path] | None,
        typer.Option("--show", help="A sheet that is to be played again; several may be named."),
    ] = None,
    store: StoreOption = None,
    yes: Annotated[bool, typer.Option("--yes", help="Remove them, without a question.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Remove the sets that none of the named sheets wants. Without --yes it only says which."""
    named: Sequence[Path | None] = show or [None]
    shows = [load(path, store=store) for path in named]
    addresses = {named_store(each).url for each in shows}
    if len(addresses) > 1:
        fail(f"--show: these have different stores ({', '.join(sorted(addresses))}): name one", 2)
    plans = partial(_plans, shows)
    found, anything = in_store(shows[0], partial(_unwanted, plans))
    if not as_json:
        for line in _unwanted_told(found):
            typer.echo(line)
    amount = f"{count(len(found), 'set')}, {size(sum(each.size for each in found))}"
    asks = not (yes or as_json or not found) and sys.stdin.isatty()
    removes = bool(found) and (yes or (asks and typer.confirm(f"Remove {amount}?")))
    if removes:
        in_store(shows[0], lambda store: remove_sets(store, found, plans), resumes=True)
    if as_json:
        rows = [
            {"action_id": f.action_id, "set_id": f.set_id, "why": f.why, "bytes": f.size}
            for f in found
        ]
        told = {"unwanted": rows, "removed": len(found) if removes else 0}
        typer.echo(json.dumps(told, indent=2, ensure_ascii=False))
    elif not found:
        whole = "every set in {} is wanted" if anything else "there is no set in {}"
        typer.echo(whole.format(addresses.pop()))
    elif removes:
        typer.echo(f"removed: {amount}")
    else:
        typer.echo(f"nothing was removed; with --yes: {amount}")


def _unwanted_told(found: Sequence[Unwanted]) -> list[str]:
    groups: dict[tuple[str, str], list[Unwanted]] = {}
    for each in found:
        groups.setdefault((each.action_id, each.why), []).append(each)
    words = {"other recipe": "of recipes that no named sheet has", "rejected": "rejected"}
    return [
        f"{action_id}: set {', '.join(str(each.set_id) for each in sets)}, {words[why]}, "
        f"{size(sum(each.size for each in sets))}"
        for (action_id, why), sets in groups.items()
    ]


async def _unwanted(
    plans: Callable[[Manifest], Sequence[Plan]], store: Store
) -> tuple[list[Unwanted], bool]:
    """The sets that no sheet wants, and whether there are any at all."""
    found = await unwanted_sets(store, plans)
    metas = [each async for each in store.list(ACTIONS_PREFIX) if _is_meta(each.key)]
    return found, bool(metas)


def _is_meta(key: Key) -> bool:
    place = set_place(key)
    return place is not None and place.name == META_NAME


def _plans(shows: Sequence[Show], known: Manifest) -> list[Plan]:
    return [show.plan(known.fingerprints) for show in shows]


@generate.command(name="reindex")
def reindex_store(*, show: ShowOption = None, store: StoreOption = None) -> None:
    """Make the manifest anew from the sets that are there."""
    loaded = load(show, store=store)
    manifest = in_store(loaded, reindex)
    for told in manifest.remarks:
        errors.print(told, markup=False)
    found = f"{count(manifest.total_actions, 'action')}, {count(manifest.total_sets, 'set')}"
    typer.echo(f"{found} in {named_store(loaded).url}")


@generate.command(name="import")
def import_older(
    source: Annotated[Path, typer.Argument(help="The folder with cues/ in it.")],
    *,
    show: ShowOption = None,
    store: StoreOption = None,
) -> None:
    """Take over sets of the older layout, {version}/cues/{kind}_{index}_{HH_MM_SS}."""
    loaded = load(show, store=store)
    actions = [holding.action for holding in _stock(loaded)]
    try:
        report = in_store(loaded, lambda opened: import_sets(source, opened, actions))
    except NothingToImport as error:
        fail(str(error), 1)
    for line in (*report.left, *report.remarks):
        errors.print(str(line), markup=False)
    typer.echo(
        f"{len(report.imported)} sets imported, {len(report.present)} were there already, "
        f"{len(report.left)} left"
    )
    raise SystemExit(1 if report.left else 0)


async def _draw(
    show: Show,
    sections: Sequence[AnyEngine],
    jobs: Sequence[MissingSet],
    *,
    force: bool,
    rate: float | None = None,
) -> BatchOutcome:
    """Draw sets into the show's store, with progress where there is a terminal."""
    parallel = min(_parallel(show), len(jobs))
    tokens = show.settings.tokens.engines
    try:
        async with (
            recording_engines(sections, parallel, folder=show.folder, tokens=tokens) as engines,
            named_store(show) as store,
        ):
            tally = Tally(engines, len(jobs))

            def watch(event: Event) -> None:
                tally.take(event, time.monotonic())
                remark(event, tally, errors)

            with batch_display(tally, errors):
                return await run_batch(jobs, engines, store, watch, anew=force, per_minute=rate)
    except BadEngine as error:
        fail(str(error), 1)


def _tell(outcome: BatchOutcome, kept: int, *, as_json: bool) -> None:
    """Say what a batch has done: what failed, to people; the counts, to who asked."""
    for text in failures_told(outcome):
        errors.print(text, style="red", markup=False)
    if as_json:
        typer.echo(json.dumps(_as_json(outcome, kept), ensure_ascii=False))
        return
    there = kept + len(outcome.found)
    typer.echo(
        f"{count(len(outcome.drawn), 'set')} drawn, {there} were there already, "
        f"{len(outcome.failed)} failed"
    )


def failures_told(outcome: BatchOutcome) -> list[str]:
    """Every set that was not drawn, a line for each reason: an engine that is lost fails many."""
    by_reason: dict[str, dict[str, list[str]]] = {}
    for failure in outcome.failed:
        sets = by_reason.setdefault(failure.reason, {})
        sets.setdefault(failure.job.action.action_id, []).append(str(failure.job.set_id))
    lines = []
    for reason, sets in by_reason.items():
        named = "; ".join(f"{action_id} set {', '.join(ids)}" for action_id, ids in sets.items())
        lines.append(f"not drawn: {named}: {reason}")
    return lines


def _as_json(outcome: BatchOutcome, kept: int) -> dict[str, Any]:
    failed = [
        {"action_id": f.job.action.action_id, "set_id": f.job.set_id, "reason": f.reason}
        for f in outcome.failed
    ]
    kept += len(outcome.found)
    return {"drawn": len(outcome.drawn), "kept": kept, "failed": failed}


def _sections(show: Show, names: Sequence[str]) -> list[AnyEngine]:
    """The engines that are meant; without a name the show's first."""
    try:
        return [find_engine(show.settings.engines, name) for name in names or (None,)]
    except UnknownEngine as error:
        fail(str(error), 2)


def _kinds(sections: Sequence[AnyEngine]) -> set[str] | None:
    """What metas call these engines; None where a worker might have any."""
    kinds = {section.drawn_by for section in sections}
    return None if None in kinds else {kind for kind in kinds if kind is not None}


def _parallel(show: Show) -> int:
    return show.settings.generate.parallel or os.cpu_count() or 1


def _chosen(holdings: Sequence[Holding], only: Sequence[str]) -> list[Holding]:
    known = {holding.action.action_id for holding in holdings}
    unknown = [name for name in only if name not in known]
    if unknown:
        fail(f"--only: no action {', '.join(unknown)} in this show", 2)
    return [holding for holding in holdings if not only or holding.action.action_id in only]


async def _verify(holdings: Sequence[Holding], store: Store) -> tuple[list[SetFinding], str]:
    """What is wrong with sets, and where they were looked for."""
    columns = (
        TextColumn("looking through"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("sets"),
        TimeRemainingColumn(),
    )
    actions = [holding.action for holding in holdings]
    library = Library(store)
    await library.refresh()
    library.want({action.action_id: action.fingerprint for action in actions})
    where = store.url + ("" if library.found else f", which has no {MANIFEST}")
    total = sum(len(library.set_ids(action.action_id)) for action in actions)
    with Progress(*columns, console=errors, disable=not errors.is_terminal) as bar:
        task = bar.add_task("", total=total)
        async with aclosing(verify_sets(library, actions, lambda: bar.advance(task))) as findings:
            return [finding async for finding in findings], where


def _stock(show: Show) -> list[Holding]:
    """What the show's store has of each of its actions."""

    async def look(store: Store) -> list[Holding]:
        library = Library(store)
        manifest = await library.refresh()
        return await take_inventory(library, show.plan(manifest.fingerprints).actions)

    return in_store(show, look)
