"""The continuous preflight: the cheap part of a rehearsal, again and again while nobody looks.

It looks through everything every few minutes, and once more within the ten minutes before a
screening; sooner again where something is wrong. It takes one small step at a time, and none
while a picture is being drawn or is soon due: the show goes first. Its verdict is told when it
changes, not each time.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Final, Protocol

import structlog

from server.clock import Clock, timeout_at
from server.diagnostics.report import Finding, Verdict, ranked, verdict_of
from server.timeline.playhead import Playhead

_log = structlog.get_logger(__name__)

EVERY: Final = 300.0
"""Seconds from one preflight to the next, while all is well."""

EVERY_IN_NEED: Final = 60.0
"""Seconds where it is not: what was mended is not to be called broken for long."""

BEFORE: Final = 600.0
"""Seconds before a screening within which everything is looked through once more."""

QUIET_FOR: Final = 3.0
"""Seconds for which nothing may be due when a step begins."""

PATIENT_FOR: Final = 120.0
"""Seconds after which, in a show without pauses, any moment without a run will do."""

STEP_WITHIN: Final = 10.0
"""Seconds that a step may take: a disk may fall silent."""

LOOK_IN: Final = 1.0

_TOLD: Final = 20
"""Findings that the state tells; there may be hundreds where a store is gone."""

_NAMED: Final = 5

_TOLD_BY_READINESS: Final = frozenset(
    {
        "no_sets",
        "not_here",
        "store_silent",
        "copies_stopped",
        "cache_too_small",
        "late",
    }
)
"""What is known as of now, and told there, need not be told as it was minutes ago."""


class Look(Protocol):
    """One thing that is looked at, in steps; each brings what it found."""

    def __call__(self) -> AsyncGenerator[Sequence[Finding], None]:
        """Look once, from the beginning."""
        ...


@dataclass(frozen=True, slots=True)
class Result:
    """What one preflight found.

    Attributes:
        at: steady time at which it was done.
        wall: the same, by the machine's time of day.
        findings: the worst first.
        verdict: whether the show can go on.
    """

    at: float
    wall: float
    findings: tuple[Finding, ...]
    verdict: Verdict

    def count(self, level: str) -> int:
        """How many findings of a level there are."""
        return sum(finding.level == level for finding in self.findings)


def due_at(last: Result | None, next_screening: float | None) -> float:
    """Steady time at which everything is to be looked through again (pure)."""
    if last is None:
        return float("-inf")
    due = last.at + (EVERY if last.verdict == "ready" else EVERY_IN_NEED)
    if next_screening is not None and last.at < next_screening - BEFORE:
        due = min(due, next_screening - BEFORE)
    return due


class Preflight:
    """Looks through everything while nobody looks.

    Args:
        looks: what it looks at, in this order.
        playhead: where the show is, and when the next screening begins.
        quiet_for: whether the stage is quiet now and for some seconds to come.
        clock: the time.
        begins: whether it may begin at all: the sets must have been looked through once.
        noted: called with each result, for whoever counts.
    """

    def __init__(
        self,
        looks: Sequence[Look],
        playhead: Playhead,
        quiet_for: Callable[[float], bool],
        clock: Clock,
        *,
        begins: Callable[[], bool] = lambda: True,
        noted: Callable[[Result], None] = lambda _result: None,
    ) -> None:
        self.changed: Callable[[], None] = lambda: None
        self._looks = tuple(looks)
        self._playhead = playhead
        self._quiet_for = quiet_for
        self._clock = clock
        self._begins = begins
        self._noted = noted
        self._last: Result | None = None
        self._next_at: float | None = None

    async def run(self) -> None:
        """Look, and look again, until cancelled."""
        while not self._begins():
            await self._rest()
        while True:
            due = due_at(self._last, self._playhead.next_at)
            self._next_at = due if self._last is not None else None
            if self._clock.now() < due:
                await self._rest(due)
                continue
            self._judge(await self._look())

    def state(self) -> dict[str, Any]:
        """As JSON values. `at` is Unix time, `next_at` steady."""
        last = self._last
        return {
            "verdict": None if last is None else last.verdict,
            "at": None if last is None else last.wall,
            "findings": []
            if last is None
            else [each.model_dump(mode="json") for each in last.findings[:_TOLD]],
            "errors": 0 if last is None else last.count("error"),
            "warnings": 0 if last is None else last.count("warning"),
            "notes": 0 if last is None else last.count("note"),
            "next_at": self._next_at,
        }

    def problems(self) -> list[str]:
        """The errors that are about coming cues, in words, the first of them named."""
        return _in_words(
            each
            for each in self._found("error")
            if each.cue is not None and self._is_coming(each.cue)
        )

    def notes(self) -> list[str]:
        """What else is wrong, in words."""
        errors = (each for each in self._found("error") if each.cue is None)
        return [*_in_words(errors), *_in_words(self._found("warning"))]

    def _is_coming(self, cue: int) -> bool:
        """Whether a cue will still be fired, as far as is known."""
        again = self._playhead.status != "active" or self._playhead.next_at is not None
        return again or cue >= self._playhead.cursor

    def _found(self, level: str) -> list[Finding]:
        """Findings of a level that nobody else tells."""
        found = () if self._last is None else self._last.findings
        return [
            each for each in found if each.level == level and each.code not in _TOLD_BY_READINESS
        ]

    # ------------------------------------------------------------ looking

    async def _look(self) -> tuple[Finding, ...]:
        findings: list[Finding] = []
        for look in self._looks:
            try:
                async with aclosing(look()) as steps:
                    while True:
                        await self._until_quiet()
                        async with timeout_at(self._clock, self._clock.now() + STEP_WITHIN):
                            findings += await anext(steps)
            except StopAsyncIteration:
                continue
            except TimeoutError:
                findings.append(_unanswered(look))
            except Exception as error:  # noqa: BLE001 - one look must not end the looking
                _log.exception("preflight_broke", look=_name(look))
                findings.append(_broken(look, error))
        return ranked(findings)

    async def _until_quiet(self) -> None:
        since = self._clock.now()
        while True:
            patient = self._clock.now() - since < PATIENT_FOR
            if self._quiet_for(QUIET_FOR if patient else 0.0):
                return
            await self._rest()

    async def _rest(self, until: float | None = None) -> None:
        now = self._clock.now()
        soon = now + LOOK_IN
        await self._clock.sleep_until(soon if until is None else min(until, soon))

    def _judge(self, findings: tuple[Finding, ...]) -> None:
        before, verdict = self._last, verdict_of(findings)
        self._last = Result(self._clock.now(), self._clock.wall(), findings, verdict)
        self._noted(self._last)
        if before is None or before.verdict != verdict:
            log = _log.info if verdict == "ready" else _log.warning
            log(
                "preflight",
                verdict=verdict,
                errors=self._last.count("error"),
                warnings=self._last.count("warning"),
                first=[_short(each) for each in findings[:_NAMED] if each.level == "error"],
            )
        self.changed()


def _name(look: Look) -> str:
    return getattr(look, "__name__", type(look).__name__)


def _unanswered(look: Look) -> Finding:
    return Finding(
        level="warning",
        code="no_answer",
        message=f"looking at the {_name(look)} took longer than {STEP_WITHIN:g} s",
        remedy="see whether the disk and the store answer",
    )


def _broken(look: Look, error: Exception) -> Finding:
    """Not looked at is not well."""
    return Finding(
        level="warning",
        code="not_looked_at",
        message=f"looking at the {_name(look)} failed: {error!r:.200}",
        remedy="see the server's log, and report it",
    )


def _short(finding: Finding) -> str:
    where = [finding.time, finding.action_id]
    return " ".join([finding.code, *(each for each in where if each)])


def _in_words(findings: Iterable[Finding]) -> list[str]:
    """One sentence for each kind, which names the first few that it is about."""
    by_code: dict[str, list[Finding]] = {}
    for each in findings:
        by_code.setdefault(each.code, []).append(each)
    said = []
    for alike in by_code.values():
        first = alike[0]
        named = list(dict.fromkeys(each.action_id for each in alike if each.action_id))
        about = ", ".join(named[:_NAMED]) + (", …" if len(named) > _NAMED else "")
        more = f" (and {len(alike) - 1} more)" if len(alike) > 1 else ""
        said.append(f"{about}: {first.message}{more}" if about else f"{first.message}{more}")
    return said
