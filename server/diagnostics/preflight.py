"""The continuous preflight: the cheap part of a rehearsal, again and again while nobody looks.

It looks through everything every few minutes, and once more within the ten minutes before a
screening; sooner again where something is wrong. It takes one small step at a time, and none
while a picture is being drawn or is soon due: the show goes first. Its verdict is told when it
changes, not each time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Final

import structlog

from server.core.clock import Clock, timeout_at
from server.diagnostics.findings import LEVELS, Finding, count_of, ranked, sentences, verdict_of
from server.diagnostics.live_checks import NO_ANSWER, LiveCheck, check_failed
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
"""Errors that the log names."""


@dataclass(frozen=True, slots=True)
class Result:
    """What one preflight found.

    Attributes:
        at: steady time at which it was done.
        wall: the same, by the machine's time of day.
        findings: the worst first.
        stepped: those of them that were found in steps.
    """

    at: float
    wall: float
    findings: tuple[Finding, ...]
    stepped: tuple[Finding, ...] = ()


def due_at(last: Result | None, next_screening: float | None) -> float:
    """Steady time at which everything is to be looked through again (pure)."""
    if last is None:
        return float("-inf")
    due = last.at + (EVERY if verdict_of(last.findings) == "ready" else EVERY_IN_NEED)
    if next_screening is not None and last.at < next_screening - BEFORE:
        due = min(due, next_screening - BEFORE)
    return due


class Preflight:
    """Checks everything while nobody looks.

    Args:
        checks: what it checks in steps, in this order.
        playhead: where the show is, and when the next screening begins.
        quiet_for: whether the stage is quiet now and for some seconds to come.
        clock: the time.
        now: what is wrong at this moment, which takes no steps.
        begins: whether it may begin at all: the sets must have been looked through once.
        noted: told how many errors there are, each time, for whoever counts.
    """

    def __init__(
        self,
        checks: Sequence[LiveCheck],
        playhead: Playhead,
        quiet_for: Callable[[float], bool],
        clock: Clock,
        *,
        now: Callable[[], Iterable[Finding]] = tuple,
        begins: Callable[[], bool] = lambda: True,
        noted: Callable[[int], None] = lambda _errors: None,
    ) -> None:
        self.changed: Callable[[], None] = lambda: None
        self._checks = tuple(checks)
        self._playhead = playhead
        self._quiet_for = quiet_for
        self._clock = clock
        self._now = now
        self._begins = begins
        self._noted = noted
        self._last: Result | None = None
        self._next_at: float | None = None

    async def run(self) -> None:
        """Check, and check again, until cancelled."""
        while not self._begins():
            await self._rest()
        while True:
            due = due_at(self._last, self._playhead.next_at)
            self._next_at = due if self._last is not None else None
            if self._clock.now() < due:
                await self._rest(due)
                continue
            self._judge(await self._check())

    def state(self) -> dict[str, Any]:
        """As JSON values. `at` is Unix time, `next_at` steady."""
        last, findings = self._last, () if self._last is None else self._last.findings
        return {
            "verdict": None if last is None else verdict_of(findings),
            "at": None if last is None else last.wall,
            "findings": [each.model_dump(mode="json") for each in findings[:_TOLD]],
            **{f"{level}s": count_of(findings, level) for level in LEVELS},
            "next_at": self._next_at,
        }

    def problems(self) -> list[str]:
        """The errors about coming cues that were found in steps, in words."""
        return sentences((each for each in self._stepped() if self._is_coming(each.cue)), "error")

    def notes(self) -> list[str]:
        """What else was found in steps, in words."""
        stepped = self._stepped()
        errors = (each for each in stepped if each.cue is None)
        return [*sentences(errors, "error"), *sentences(stepped, "warning")]

    def _stepped(self) -> tuple[Finding, ...]:
        """What is known as of now is told as it is now, not as it was minutes ago."""
        return () if self._last is None else self._last.stepped

    def _is_coming(self, cue: int | None) -> bool:
        """Whether a cue will still be fired, as far as is known."""
        again = self._playhead.status != "active" or self._playhead.next_at is not None
        return cue is not None and (again or cue >= self._playhead.cursor)

    # ------------------------------------------------------------ checking

    async def _check(self) -> tuple[Finding, ...]:
        findings: list[Finding] = []
        for check in self._checks:
            try:
                async with aclosing(check()) as steps:
                    while True:
                        await self._until_quiet()
                        async with timeout_at(self._clock, self._clock.now() + STEP_WITHIN):
                            findings += await anext(steps)
            except StopAsyncIteration:
                continue
            except TimeoutError:
                text = f"looking at the {check.__name__} took longer than {STEP_WITHIN:g} s"
                findings.append(NO_ANSWER(text))
            except Exception as error:  # noqa: BLE001 - one check must not end the others
                _log.exception("preflight_broke", look=check.__name__)
                findings.append(check_failed(check.__name__, error))
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

    def _judge(self, stepped: tuple[Finding, ...]) -> None:
        before, findings = self._last, ranked([*self._now(), *stepped])
        verdict, errors = verdict_of(findings), count_of(findings, "error")
        self._last = Result(self._clock.now(), self._clock.wall(), findings, stepped)
        self._noted(errors)
        if before is None or verdict_of(before.findings) != verdict:
            log = _log.info if verdict == "ready" else _log.warning
            log(
                "preflight",
                verdict=verdict,
                errors=errors,
                warnings=count_of(findings, "warning"),
                first=[_short(each) for each in findings[:_NAMED] if each.level == "error"],
            )
        self.changed()


def _short(finding: Finding) -> str:
    where = [finding.time, finding.action_id]
    return " ".join([finding.code, *(each for each in where if each)])
