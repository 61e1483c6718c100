"""A rehearsal's report for a terminal: a table of runs, the findings, and the verdict last."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from generator.sheet.cues import format_time
from server.core.formatting import count
from server.diagnostics.findings import LEVELS, Finding, Level, count_of
from server.diagnostics.report import RehearsedRun, Report, Variety
from server.reports.formatting import facts

WIDTH: Final = 100
"""Columns that it takes at most."""

_STYLES: Final[dict[Level, str]] = {"error": "bold red", "warning": "yellow", "note": "cyan"}
_OTHERS_SHOWN: Final = 40
"""Notes that are told one by one; warnings and errors always are."""


def print_report(report: Report, console: Console) -> None:
    """Print it; `console` should be `WIDTH` wide at most."""
    if report.show is not None:
        console.print(Text(report.show.title, style="bold"))
        for fact in facts(report):
            console.print(Text(f"{fact.term}: {' · '.join(fact.lines)}", style="dim"))
        first = [run for run in report.cues if run.screening == 1]
        if first:
            console.print(_runs(first))
        if len(report.screenings) > 1:
            console.print(_screenings(report))
            console.print(_variety(report.variety))
    for engine in report.engines:
        style = _STYLES["error"] if engine.state == "dead" else ""
        console.print(Text(f"engine {engine.name}: {engine.state}, {engine.detail}", style=style))
    _print_findings(report.findings, console)
    console.print(verdict_line(report))


def verdict_line(report: Report) -> Text:
    """``READY``, or not, and how much there is to say about it."""
    told = ", ".join(count(count_of(report.findings, level), level) for level in LEVELS)
    ready = report.verdict == "ready"
    style = "bold black on green" if ready else "bold white on red"
    return Text.assemble((f" {report.verdict.upper()} ", style), f"  {told}")


def _runs(runs: Iterable[RehearsedRun]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, expand=True, pad_edge=False)
    table.add_column("at", no_wrap=True)
    table.add_column("cue", no_wrap=True, justify="right")
    table.add_column("action", no_wrap=True, max_width=22, overflow="ellipsis")
    table.add_column("from", no_wrap=True, max_width=18, overflow="ellipsis")
    table.add_column("steps", no_wrap=True, justify="right")
    table.add_column("takes", no_wrap=True, justify="right")
    table.add_column("of", no_wrap=True, justify="right")
    table.add_column("", overflow="fold")
    for run in runs:
        shown = len(run.due) - run.left_out
        table.add_row(
            format_time(round(run.at)),
            str(run.cue),
            Text(run.action_id if run.cycle == 1 else f"{run.action_id} ·{run.cycle}"),
            Text(_source(run)),
            f"{shown}" if not run.left_out else f"{shown}/{len(run.due)}",
            f"{run.length:.1f} s" if run.due else "—",
            f"{run.slot:.1f} s" if run.slot is not None else "",
            Text(_remark(run)),
        )
    return table


def _source(run: RehearsedRun) -> str:
    if run.provider == "static":
        return f"set {run.set_id}"
    return run.provider if run.engine is None else f"{run.provider} {run.engine.split(':')[0]}"


def _remark(run: RehearsedRun) -> str:
    remarks = []
    if run.squeeze < 1:
        remarks.append(f"{1 / run.squeeze:.1f}x as fast")
    if run.outcome != "completed":
        remarks.append(run.outcome)
    remarks += [f"{setback.from_} → {setback.to}" for setback in run.setbacks]
    if run.readiness not in {None, "all"}:
        remarks.append(f"{run.readiness} here")
    return ", ".join(remarks)


def _screenings(report: Report) -> Table:
    table = Table(box=box.SIMPLE_HEAD, expand=True, pad_edge=False)
    for title in ("screening", "starts", "runs", "held", "failed over", "left out"):
        table.add_column(title, no_wrap=True, justify="left" if title == "starts" else "right")
    for screening in report.screenings:
        runs = [run for run in report.cues if run.screening == screening.number]
        table.add_row(
            str(screening.number),
            screening.starts or "",
            str(screening.runs),
            str(sum(run.outcome == "held" for run in runs)),
            str(sum(run.outcome == "failed over" for run in runs)),
            str(sum(run.left_out for run in runs)),
        )
    return table


def _variety(variety: Iterable[Variety]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, expand=True, pad_edge=False)
    table.add_column("action", no_wrap=True)
    table.add_column("sets", no_wrap=True, justify="right")
    table.add_column("played, in order", overflow="fold")
    for each in variety:
        played = " ".join(str(number) for number in each.played)
        table.add_row(Text(each.action_id), str(each.sets), played)
    return table


def _print_findings(findings: Iterable[Finding], console: Console) -> None:
    table = Table(box=box.SIMPLE_HEAD, expand=True, pad_edge=False, show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    notes = 0
    for finding in findings:
        notes += finding.level == "note"
        if finding.level == "note" and notes > _OTHERS_SHOWN:
            continue
        message = Text(finding.message)
        if finding.action_id is not None:
            place = finding.action_id
            if finding.set_id is not None:
                place += f" set {finding.set_id}"
            message = Text.assemble((place, "bold"), " ", message)
        if finding.count > 1:
            message.append(f" ({finding.count} times)", style="dim")
        message.append(f"\n→ {finding.remedy}", style="dim")
        where = "" if finding.cue is None else f"cue {finding.cue}"
        if finding.time is not None:
            where += f"\n{finding.time}"
        table.add_row(Text(finding.level, style=_STYLES[finding.level]), where, message)
    if table.row_count:
        console.print(table)
    if notes > _OTHERS_SHOWN:
        console.print(f"and {notes - _OTHERS_SHOWN} more notes: see --json or --html", style="dim")
