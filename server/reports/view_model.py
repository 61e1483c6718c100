"""The report, put into words and places for the template (pure)."""

from __future__ import annotations

import base64
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Final

from cache.thumbnails import MEDIA_TYPE
from server.core.formatting import count
from server.diagnostics.findings import Finding, Level
from server.diagnostics.report import RehearsalOptions, RehearsedRun, Report
from server.reports.contact_sheets import Contact, ContactPicture, ContactSheet
from server.reports.formatting import Fact, clock, factor, facts, listed, seconds, some
from server.reports.timeline import Numbered, Timeline, compose_timeline, run_anchor

_ALIKE: Final = 6
"""More findings of one kind in a row are folded away, but for the first few."""

_SHOWN: Final = 3


@dataclass(frozen=True, slots=True)
class Link:
    """A way to another place on the page."""

    text: str
    href: str


@dataclass(frozen=True, slots=True)
class FindingRow:
    """A finding with its number and its ways."""

    number: int
    finding: Finding
    time: str
    links: tuple[Link, ...]


@dataclass(frozen=True, slots=True)
class FindingGroup:
    """Findings of one kind in a row; those beyond the first few are folded."""

    level: Level
    rows: tuple[FindingRow, ...]
    folded: tuple[FindingRow, ...]


@dataclass(frozen=True, slots=True)
class Print:
    """One picture, ready for the page."""

    uri: str
    width: int
    height: int
    trouble: str
    alt: str
    caption: str
    played: str = ""
    figures: tuple[str, ...] = ()
    seed: int | None = None


@dataclass(frozen=True, slots=True)
class SheetRow:
    """An action's contact sheet."""

    anchor: str
    action_id: str
    time: str
    cue: int | None
    says: str
    program: str
    first: str
    troubled: str
    prints: tuple[Print, ...]
    strip_of: int | None
    strip: tuple[Print, ...]


@dataclass(frozen=True, slots=True)
class RunRow:
    """A run, in the table."""

    run: RehearsedRun
    at: str
    sheet: str
    bar: str
    played: str
    took: str
    slot: str
    squeeze: str
    shown: str
    troubles: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ScreeningView:
    """One screening: its timeline and its runs."""

    number: int
    title: str
    timeline: Timeline | None
    runs: tuple[RunRow, ...]
    summary: str


@dataclass(frozen=True, slots=True)
class ReportView:
    """Everything that the template puts on the page."""

    report: Report
    title: str
    facts: tuple[Fact, ...]
    findings: tuple[FindingGroup, ...]
    screenings: tuple[ScreeningView, ...]
    sheets: tuple[SheetRow, ...]
    per_row: int
    again: str


def view_of(report: Report, contacts: Mapping[str, ContactSheet]) -> ReportView:
    """Put a report and its pictures into words and places."""
    rows = _sheet_rows(report, contacts)
    sheets = {row.action_id: row.anchor for row in rows}
    numbered = list(enumerate(report.findings, 1))
    by_cue: dict[int, list[Numbered]] = defaultdict(list)
    for number, finding in numbered:
        if finding.cue is not None:
            by_cue[finding.cue].append(Numbered(number, finding.level, finding.message))
    return ReportView(
        report=report,
        title=report.show.title if report.show else "The show could not be loaded",
        facts=tuple(facts(report)),
        findings=tuple(_groups(report, numbered, sheets)),
        screenings=tuple(_screenings(report, by_cue, sheets)),
        sheets=rows,
        per_row=min(8, max([2, *(len(row.prints) for row in rows)])),
        again=_again(report.asked),
    )


# ------------------------------------------------------------------ what was asked, what was there


def _again(asked: RehearsalOptions) -> str:
    """The command that makes this report."""
    words = ["understudy rehearse", f"--seed {asked.seed}"]
    if asked.screenings != 1:
        words.append(f"--screenings {asked.screenings}")
    if asked.bandwidth is not None:
        words.append(f"--bandwidth {asked.bandwidth / 1e6:g}M")
    if asked.latency:
        words.append(f"--latency {asked.latency:g}")
    words += [f"--fail {what}" for what in asked.fail]
    if asked.from_:
        words.append(f"--from {clock(asked.from_)}")
    if asked.to is not None:
        words.append(f"--to {clock(asked.to)}")
    if asked.deep:
        words.append("--deep")
    return " ".join(words)


# ------------------------------------------------------------------ findings


def _groups(
    report: Report, numbered: Sequence[tuple[int, Finding]], sheets: Mapping[str, str]
) -> Iterable[FindingGroup]:
    def kind(each: tuple[int, Finding]) -> tuple[str, str]:
        return each[1].level, each[1].code

    times = {cue.cue: cue.at for cue in report.sheet}
    for _, alike in groupby(numbered, kind):
        rows = tuple(
            FindingRow(
                number, finding, _time_of(finding, times), tuple(_ways(report, finding, sheets))
            )
            for number, finding in alike
        )
        shown = len(rows) if len(rows) <= _ALIKE else _SHOWN
        yield FindingGroup(rows[0].finding.level, rows[:shown], rows[shown:])


def _time_of(finding: Finding, times: Mapping[int, float]) -> str:
    """As the sheet has it, whoever made the finding."""
    at = None if finding.cue is None else times.get(finding.cue)
    return finding.time or ("" if at is None else clock(at))


def _ways(report: Report, finding: Finding, sheets: Mapping[str, str]) -> Iterable[Link]:
    if finding.cue is not None:
        run = _run_of(report, finding)
        if run is not None:
            yield Link("timeline", f"#{run_anchor(run)}")
        elif report.screenings and _on_timeline(report, finding.cue):
            yield Link("timeline", f"#c{finding.cue}")
    if finding.action_id is not None and finding.action_id in sheets:
        yield Link("pictures", f"#{sheets[finding.action_id]}")


def _run_of(report: Report, finding: Finding) -> RehearsedRun | None:
    """The first run that a finding is about: with its set, if there is one."""
    about = [run for run in report.cues if run.cue == finding.cue]
    of_set = [run for run in about if run.set_id == finding.set_id]
    return next(iter(of_set or about), None)


def _on_timeline(report: Report, cue: int) -> bool:
    first = report.screenings[0]
    return any(
        each.cue == cue and first.from_ <= each.at <= max(first.to, first.from_ + 1)
        for each in report.sheet
    )


# ------------------------------------------------------------------ screenings


def _screenings(
    report: Report, by_cue: Mapping[int, Sequence[Numbered]], sheets: Mapping[str, str]
) -> Iterable[ScreeningView]:
    for place, screening in enumerate(report.screenings):
        runs = [run for run in report.cues if run.screening == screening.number]
        timeline = compose_timeline(report, screening, by_cue, compact=place > 0)
        starts = "" if screening.starts is None else f", {screening.starts.replace('T', ' ')}"
        yield ScreeningView(
            screening.number,
            f"Screening {screening.number}{starts}",
            timeline if timeline.staves else None,
            tuple(_run_row(run, sheets) for run in runs),
            _played(runs),
        )


def _played(runs: Sequence[RehearsedRun]) -> str:
    """``123 runs: 120 completed, 3 cut``."""
    outcomes: dict[str, int] = {}
    for run in runs:
        outcomes[run.outcome] = outcomes.get(run.outcome, 0) + 1
    told = sorted(outcomes.items(), key=lambda each: (-each[1], each[0]))
    if not told:
        return "no runs"
    return f"{count(len(runs), 'run')}: {listed([f'{number} {name}' for name, number in told])}"


def _run_row(run: RehearsedRun, sheets: Mapping[str, str]) -> RunRow:
    shown = len(run.due) - run.left_out
    return RunRow(
        run,
        clock(run.at),
        f"#{sheets[run.action_id]}" if run.action_id in sheets else "",
        f"#{run_anchor(run)}",
        run.engine or "" if run.set_id is None else f"set {run.set_id}",
        seconds(run.length),
        "" if run.slot is None else seconds(run.slot),
        factor(run.squeeze),
        f"{shown} of {len(run.due)}" if run.left_out else str(shown),
        tuple(f"{back.from_} → {back.to}: {back.reason}" for back in run.setbacks),
    )


# ------------------------------------------------------------------ pictures


def _sheet_rows(report: Report, contacts: Mapping[str, ContactSheet]) -> tuple[SheetRow, ...]:
    cues = {cue.action_id: cue for cue in report.sheet if cue.action_id is not None}
    runs: dict[str, list[RehearsedRun]] = defaultdict(list)
    for run in report.cues:
        runs[run.action_id].append(run)
    rows = []
    for action_id in dict.fromkeys([*cues, *runs, *contacts]):
        sheet = contacts.get(action_id, ContactSheet(action_id))
        cue, mine = cues.get(action_id), runs.get(action_id, [])
        first = mine[0] if mine else None
        position = cue.at if cue else first.at if first else None
        rows.append(
            SheetRow(
                anchor=f"a-{action_id}",
                action_id=action_id,
                time="" if position is None else clock(position),
                cue=cue.cue if cue else first.cue if first else None,
                says=first.prompt if first else cue.label if cue else "",
                program=first.program if first else "",
                first=_first(first),
                troubled=_troubled(sheet, mine),
                prints=tuple(_print(each, mine, report) for each in sheet.contacts),
                strip_of=sheet.strip_of,
                strip=tuple(
                    _small(
                        frame.picture,
                        f"step {frame.step}" if not frame.final else "the finished picture",
                        "final" if frame.final else str(frame.step),
                    )
                    for frame in sheet.strip
                ),
            )
        )
    return tuple(rows)


def _first(run: RehearsedRun | None) -> str:
    """How an action's first run went, in figures."""
    if run is None:
        return "not played"
    by = f" by {run.engine}" if run.engine and run.set_id is None else ""
    which = "" if run.set_id is None else f", set {run.set_id}"
    slot = "" if run.slot is None else f" in a slot of {seconds(run.slot)}"
    squeeze = factor(run.squeeze)
    parts = [f"{run.provider}{by}{which}", f"{seconds(run.length)}{slot}"]
    if squeeze:
        parts.append(f"squeezed {squeeze}")
    if run.outcome != "completed":
        parts.append(run.outcome)
    return " · ".join(parts)


def _troubled(sheet: ContactSheet, runs: Sequence[RehearsedRun]) -> str:
    """Why there is nothing to see, or nothing else."""
    if sheet.contacts:
        return ""
    drawn = sum(run.provider == "live" for run in runs)
    return f"No sets; drawn live {drawn} \N{MULTIPLICATION SIGN}." if drawn else "No sets."


def _print(contact: Contact, runs: Sequence[RehearsedRun], report: Report) -> Print:
    plays = [run for run in runs if run.set_id == contact.set_id]
    recorded = [
        "" if contact.steps is None else f"{contact.steps} steps",
        "" if contact.seconds is None else seconds(contact.seconds),
    ]
    figures = [
        _screenings_of(plays) if len(report.screenings) > 1 else "",
        " · ".join(each for each in recorded if each),
    ]
    small = _small(contact.picture, f"set {contact.set_id}", f"set {contact.set_id}")
    return replace(
        small,
        seed=contact.seed,
        played=_when(plays, many=len(report.screenings) > 1),
        figures=tuple(each for each in figures if each),
    )


def _when(plays: Sequence[RehearsedRun], *, many: bool) -> str:
    if not plays:
        return ""
    times = f"{len(plays)} \N{MULTIPLICATION SIGN}"
    if many:
        return times
    return clock(plays[0].at) if len(plays) == 1 else f"{times} from {clock(plays[0].at)}"


def _screenings_of(plays: Sequence[RehearsedRun]) -> str:
    numbers = sorted({run.screening for run in plays})
    if not numbers:
        return ""
    return f"screening{'s' if len(numbers) > 1 else ''} {some(numbers)}"


def _small(picture: ContactPicture, alt: str, caption: str) -> Print:
    small = picture.small
    if small is None:
        return Print("", 16, 9, picture.trouble, alt, caption)
    data = base64.b64encode(small.data).decode()
    return Print(f"data:{MEDIA_TYPE};base64,{data}", small.width, small.height, "", alt, caption)
