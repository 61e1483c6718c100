"""Figures and sentences of the page (pure)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from server.core.formatting import bit_rate, count, duration, size
from server.diagnostics.findings import LEVELS, count_of
from server.diagnostics.report import Fetched, LineReport, RehearsalOptions, Report

_FEW: Final = 6
_AS_RECORDED: Final = 0.005


def clock(position: float) -> str:
    """``00:06:51``; what lies before the start has a minus sign."""
    whole = round(abs(position))
    sign = "\N{MINUS SIGN}" if position < 0 and whole else ""
    return f"{sign}{whole // 3600:02d}:{whole % 3600 // 60:02d}:{whole % 60:02d}"


def seconds(length: float) -> str:
    """``9.2 s``."""
    return f"{length:.1f}\N{NO-BREAK SPACE}s"


def factor(squeeze: float) -> str:
    """The factor behind a multiplication sign; empty where nothing was squeezed."""
    if abs(squeeze - 1) < _AS_RECORDED:
        return ""
    return f"\N{MULTIPLICATION SIGN}{squeeze:.2f}"


def listed(parts: Sequence[str]) -> str:
    """``a``, ``a and b``, ``a, b and c``."""
    if len(parts) <= 1:
        return "".join(parts)
    return f"{', '.join(parts[:-1])} and {parts[-1]}"


def some(numbers: Sequence[int]) -> str:
    """``1, 4 and 9``; of many the first few: ``1, 2, 3, 4, 5, 6 …``."""
    if len(numbers) > _FEW:
        return f"{', '.join(map(str, numbers[:_FEW]))} \N{HORIZONTAL ELLIPSIS}"
    return listed([str(number) for number in numbers])


def short(text: str, room: int) -> str:
    """As much of a text as has room, in characters; broken between words where it can be."""
    text = " ".join(text.split())
    if len(text) <= room:
        return text
    if room < 2:  # noqa: PLR2004 - a letter and what says that it is not all
        return ""
    cut = text[: room - 1]
    at = cut.rfind(" ")
    if at > room // 2:
        cut = cut[:at]
    return cut.rstrip(" ,;:.-\N{EN DASH}\N{EM DASH}") + "\N{HORIZONTAL ELLIPSIS}"


def summary(report: Report) -> str:
    """What was played and what was found, in one or two sentences."""
    found = [count(n, level) for level in LEVELS if (n := count_of(report.findings, level))]
    said = f"{listed(found)}." if found else "Nothing was found."
    if not report.screenings:
        return said
    played = f"{count(len(report.screenings), 'screening')}, {count(len(report.cues), 'run')}"
    return f"{played}: {said[0].lower()}{said[1:]}"


def meaning(report: Report) -> str:
    """What the verdict means for whoever opens the doors."""
    if report.verdict == "not ready":
        return "Visitors would see it. What is marked as an error keeps the show from opening."
    if count_of(report.findings, "warning"):
        return "The show can open. Visitors would notice nothing of what is marked as a warning."
    return "The show can open."


@dataclass(frozen=True, slots=True)
class Fact:
    """What was asked for, or what was there."""

    term: str
    lines: tuple[str, ...]


def facts(report: Report) -> Iterable[Fact]:
    """What was asked for, and what was there."""
    asked, line, show = report.asked, report.line, report.show
    if show is not None:
        yield Fact(
            "Show",
            (
                f"{show.sheet}: {count(show.cues, 'cue')}, {show.actions} of them draw",
                f"{duration(show.duration)} a screening, mode {show.mode}",
                f"time zone {show.timezone}",
                f"sets in {show.store}",
            ),
        )
    yield Fact("Asked for", tuple(_asked(asked)))
    if line is not None:
        yield Fact("Line and copies", tuple(_line(line, report.fetched)))
    elif show is not None:
        yield Fact("Line and copies", ("The sets are on this machine: nothing is fetched.",))


def _asked(asked: RehearsalOptions) -> Iterable[str]:
    part = ""
    if asked.from_ or asked.to is not None:
        end = "the end" if asked.to is None else clock(asked.to)
        part = f", from {clock(asked.from_)} to {end}"
    yield f"{count(asked.screenings, 'screening')}{part}"
    yield f"seed {asked.seed}"
    if asked.bandwidth is not None:
        yield f"a line of {bit_rate(asked.bandwidth)}"
    if asked.latency:
        yield f"{asked.latency:g} s latency"
    if asked.fail:
        yield f"made to fail: {listed(asked.fail)}"
    yield "every image decoded wholly" if asked.deep else "images checked, not decoded wholly"


def _line(line: LineReport, fetched: Iterable[Fetched]) -> Iterable[str]:
    speed = "as fast as it goes"
    if line.bits_per_second is not None:
        speed = bit_rate(line.bits_per_second)
    yield f"{speed}, {line.latency:g} s a request"
    yield f"{size(line.here_bytes)} here at the beginning, {size(line.fetched_bytes)} fetched"
    early = [each for each in fetched if each.at < 0]
    if early:
        begun = clock(min(each.at for each in early))
        what = f"{count(len(early), 'set')}, {size(sum(each.bytes for each in early))}"
        yield f"before the start, from {begun} on: {what}"
    yield f"room for {size(line.room_bytes)} of copies"
    if line.ready_at is None:
        yield "what was needed was never all here"
    elif line.ready_at <= 0:
        yield "all that was needed was here before the start"
    else:
        yield f"from {clock(line.ready_at)} on, all that was needed was here"
