"""The report, put into words and places for the template (pure)."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Final

from server.core.formatting import count
from server.diagnostics.findings import Finding
from server.diagnostics.report import RehearsalOptions, RehearsedRun, Report
from server.reports.contact_sheets import Contact, ContactSheet
from server.reports.formatting import Fact, clock, factor, facts, listed, seconds, some
from server.reports.timeline import Numbered, Staff, compose_timeline, run_anchor

_ALIKE: Final = 6
"""More findings of one kind in a row are folded away, but for the first few."""

_SHOWN: Final = 3


@dataclass(frozen=True, slots=True)
class FindingRow:
    """A finding with its number, and its ways to other places on the page: text and address."""

    number: int
    finding: Finding
    time: str
    links: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class FindingGroup:
    """Findings of one kind in a row; those beyond the first few are folded."""

    rows: tuple[FindingRow, ...]
    folded: tuple[FindingRow, ...]


@dataclass(frozen=True, slots=True)
class Print:
    """One set's picture, with when it was played and further figures, in words."""

    contact: Contact
    played: str
    figures: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class SheetRow:
    """An action's contact sheet, in words."""

    sheet: ContactSheet
    time: str
    cue: int | None
    says: str
    program: str
    first: str
    troubled: str
    prints: tuple[Print, ...]


@dataclass(frozen=True, slots=True)
class ScreeningView:
    """One screening: its timeline and its runs."""

    number: int
    title: str
    staves: tuple[Staff, ...]
    runs: tuple[RehearsedRun, ...]
    summary: str


@dataclass(frozen=True, slots=True)
class ReportView:
    """Everything that the template puts on the page, beside the report itself."""

    title: str
    facts: tuple[Fact, ...]
    findings: tuple[FindingGroup, ...]
    screenings: tuple[ScreeningView, ...]
    sheets: tuple[SheetRow, ...]
    pictured: frozenset[str]
    per_row: int
    again: str


def view_of(report: Report, contacts: Mapping[str, ContactSheet]) -> ReportView:
    """Put a report and its pictures into words and places."""
    rows = _sheet_rows(report, contacts)
    pictured = frozenset(row.sheet.action_id for row in rows)
    numbered = list(enumerate(report.findings, 1))
    by_cue: dict[int, list[Numbered]] = defaultdict(list)
    for number, finding in numbered:
        if finding.cue is not None:
            by_cue[finding.cue].append((number, finding))
    return ReportView(
        title=report.show.title if report.show else "The show could not be loaded",
        facts=tuple(facts(report)),
        findings=tuple(_groups(report, numbered, pictured)),
        screenings=tuple(_screenings(report, by_cue)),
        sheets=rows,
        pictured=pictured,
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
    report: Report, numbered: Sequence[Numbered], pictured: Collection[str]
) -> Iterable[FindingGroup]:
    def kind(each: Numbered) -> tuple[str, str]:
        return each[1].level, each[1].code

    times = {cue.cue: cue.at for cue in report.sheet}
    for _, alike in groupby(numbered, kind):
        rows = tuple(
            FindingRow(
                number, finding, _time_of(finding, times), tuple(_ways(report, finding, pictured))
            )
            for number, finding in alike
        )
        shown = len(rows) if len(rows) <= _ALIKE else _SHOWN
        yield FindingGroup(rows[:shown], rows[shown:])


def _time_of(finding: Finding, times: Mapping[int, float]) -> str:
    """As the sheet has it, whoever made the finding."""
    at = None if finding.cue is None else times.get(finding.cue)
    return finding.time or ("" if at is None else clock(at))


def _ways(report: Report, finding: Finding, pictured: Collection[str]) -> Iterable[tuple[str, str]]:
    if finding.cue is not None:
        run = _run_of(report, finding)
        if run is not None:
            yield "timeline", f"#{run_anchor(run)}"
        elif report.screenings and _on_timeline(report, finding.cue):
            yield "timeline", f"#c{finding.cue}"
    if finding.action_id in pictured:
        yield "pictures", f"#a-{finding.action_id}"


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
    report: Report, by_cue: Mapping[int, Sequence[Numbered]]
) -> Iterable[ScreeningView]:
    for place, screening in enumerate(report.screenings):
        runs = [run for run in report.cues if run.screening == screening.number]
        starts = "" if screening.starts is None else f", {screening.starts.replace('T', ' ')}"
        yield ScreeningView(
            screening.number,
            f"Screening {screening.number}{starts}",
            compose_timeline(report, screening, by_cue, compact=place > 0),
            tuple(runs),
            _played(runs),
        )


def _played(runs: Sequence[RehearsedRun]) -> str:
    """``123 runs: 120 completed, 3 cut``."""
    outcomes = Counter(run.outcome for run in runs)
    told = sorted(outcomes.items(), key=lambda each: (-each[1], each[0]))
    if not told:
        return "no runs"
    return f"{count(len(runs), 'run')}: {listed([f'{number} {name}' for name, number in told])}"


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
                sheet=sheet,
                time="" if position is None else clock(position),
                cue=cue.cue if cue else first.cue if first else None,
                says=first.prompt if first else cue.label if cue else "",
                program=first.program if first else "",
                first=_first(first),
                troubled=_troubled(sheet, mine),
                prints=tuple(_print(each, mine, report) for each in sheet.contacts),
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
    plays, many = [run for run in runs if run.set_id == contact.set_id], len(report.screenings) > 1
    recorded = [
        "" if contact.steps is None else f"{contact.steps} steps",
        "" if contact.seconds is None else seconds(contact.seconds),
    ]
    figures = [_screenings_of(plays) if many else "", " · ".join(filter(None, recorded))]
    return Print(contact, _when(plays, many=many), tuple(filter(None, figures)))


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
