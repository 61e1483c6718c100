"""Rehearsing in the background of a running show: one at a time, asked for, watched, ended.

The show knows nothing of it. Whatever becomes of a rehearsal (it dies, it hangs, the disk is
full) is told in its state and in the log, and nowhere else.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, TypeVar

import anyio
import structlog

from cache.threads import write_in_thread
from server.clock import Clock, timeout_at
from server.diagnostics.findings import Finding, Level
from server.rehearsal.backstage import Backstage, BackstageError, RehearsalEnded
from server.rehearsal.request import RehearsalRequest
from server.reports.archive import HTML, JSON, Digest, RehearsalOutcome, ReportArchive
from server.words import duration

T = TypeVar("T")

_log = structlog.get_logger(__name__)

LIMIT: Final = 1800.0
"""Seconds after which a rehearsal is taken to hang. A week of screenings takes a few minutes."""

_WORST: Final = 5
_KEPT_FINDINGS: Final = 100
_WORDS: Final = 300
_FOUND_SOMETHING: Final = frozenset({0, 1})
"""Exit statuses with which there is a report."""

Status = Literal["none", "running", "done", "failed", "cancelled"]


class RehearsalJobError(Exception):
    """Something that cannot be done now; `code` is a stable word for why."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True, slots=True)
class _RehearsalJob:
    """One rehearsal, from when it was asked for.

    Attributes:
        by: who asked.
        request: for what.
        since: steady time at which it began.
        status: how it stands.
        finished_at: Unix time at which it ended, however it did.
        reason: why it failed, or who cancelled it.
    """

    by: str
    request: RehearsalRequest
    since: float
    status: Status = "running"
    finished_at: float | None = None
    reason: str = ""


@dataclass(frozen=True, slots=True)
class _Published:
    """The newest report.

    Attributes:
        outcome: what it says.
        key: lets whoever was told the state open it: a link in a page carries no token.
    """

    outcome: RehearsalOutcome
    key: str


class RehearsalJobs:
    """Owns the rehearsal in the background, and its reports. Opened with `open`.

    Args:
        backstage: where it runs.
        archive: where reports are kept.
        clock: the time.
        limit: seconds after which it is ended.
    """

    def __init__(
        self, backstage: Backstage, archive: ReportArchive, clock: Clock, *, limit: float = LIMIT
    ) -> None:
        self.changed: Callable[[], None] = lambda: None
        self._backstage = backstage
        self._archive = archive
        self._clock = clock
        self._limit = limit
        self._attempt: _RehearsalJob | None = None
        self._task: asyncio.Task[None] | None = None
        self._newest: _Published | None = None
        self._cancelled_by = ""
        self._disk = anyio.CapacityLimiter(1)

    @asynccontextmanager
    async def open(self) -> AsyncIterator[RehearsalJobs]:
        """Know the last report; end what is under way on leaving."""
        newest = await self._on_disk(self._archive.newest)
        if newest is not None:
            self._newest = _published(newest)
        try:
            yield self
        finally:
            if self._task is not None:
                self._task.cancel()
                await asyncio.gather(self._task, return_exceptions=True)

    # ------------------------------------------------------------ somebody decides

    def start(self, request: RehearsalRequest, by: str) -> None:
        """Begin to rehearse.

        Raises:
            RehearsalJobError: `rehearsing`: one is under way.
        """
        if self._task is not None:
            raise RehearsalJobError(
                "rehearsing", "a rehearsal is under way: wait for it, or cancel it"
            )
        self._attempt = attempt = _RehearsalJob(by, request, self._clock.now())
        self._cancelled_by = ""
        self._task = asyncio.create_task(self._rehearse(attempt), name="rehearsal")
        _log.info("rehearsal_began", by=by, asked=request.plain())

    async def cancel(self, by: str) -> None:
        """End the one that is under way; when this returns, nothing of it is left.

        Raises:
            RehearsalJobError: `not_rehearsing`.
        """
        task = self._task
        if task is None:
            raise RehearsalJobError("not_rehearsing", "no rehearsal is under way")
        self._cancelled_by = by
        task.cancel()
        await asyncio.wait((task,))

    # ------------------------------------------------------------ what it knows

    def state(self) -> dict[str, Any]:
        """As JSON values: the rehearsal that was asked for last, and the last report before it."""
        attempt, newest = self._attempt, self._newest
        if attempt is None:
            told = _nothing() if newest is None else self._report(newest)
            status: Status = "none" if newest is None else "done"
            return {"status": status, "since": None, "reason": "", **told, "previous": None}
        done = attempt.status == "done" and newest is not None
        shown = self._report(newest) if done and newest is not None else _nothing()
        return {
            "status": attempt.status,
            "since": attempt.since,
            "reason": attempt.reason,
            **shown,
            "by": attempt.by,
            "asked": attempt.request.plain(),
            "finished_at": attempt.finished_at,
            "previous": None if done or newest is None else self._report(newest),
        }

    def result(self) -> dict[str, Any]:
        """The state, with every finding that is kept."""
        newest = self._newest
        findings = () if newest is None else newest.outcome.findings
        return {**self.state(), "findings": [_plain(each) for each in findings]}

    def opens(self, key: str | None) -> bool:
        """Whether `key` is the newest report's."""
        newest = self._newest
        return (
            newest is not None
            and key is not None
            and secrets.compare_digest(key.encode(errors="surrogatepass"), newest.key.encode())
        )

    async def read(self, file: Literal["report.html", "report.json"]) -> bytes | None:
        """A file of the newest report, None where there is none."""
        if self._newest is None:
            return None
        try:
            name = self._newest.outcome.name
            return await asyncio.to_thread(self._archive.read, name, file)
        except OSError:
            return None

    def _report(self, newest: _Published) -> dict[str, Any]:
        outcome = newest.outcome
        file = HTML if outcome.html else JSON
        return {
            "by": outcome.by,
            "asked": outcome.asked,
            "finished_at": outcome.finished_at,
            "seconds": outcome.seconds,
            "verdict": outcome.verdict,
            "errors": outcome.errors,
            "warnings": outcome.warnings,
            "notes": outcome.notes,
            "worst": [_plain(each) for each in outcome.findings[:_WORST]],
            "report": f"/rehearsal/{file}?key={newest.key}",
        }

    # ------------------------------------------------------------ the rehearsal

    async def _rehearse(self, attempt: _RehearsalJob) -> None:
        status: Status = "failed"
        reason = ""
        try:
            self._newest = _published(await self._performed(attempt))
            status = "done"
        except asyncio.CancelledError:
            status = "cancelled"
            by = self._cancelled_by
            reason = f"cancelled by {by}" if by else "the server was stopped"
        except TimeoutError:
            reason = f"it had not come to its end after {duration(self._limit)}"
        except BackstageError as error:
            reason = str(error)
        except OSError as error:
            reason = f"its report cannot be kept: {error.strerror or error}"
        except Exception as error:  # noqa: BLE001 - a dry run must not cost the show a word
            _log.exception("rehearsal_broke")
            reason = f"{type(error).__name__}; the server's log says more"
        finally:
            self._task = None
            self._attempt = _RehearsalJob(
                attempt.by,
                attempt.request,
                attempt.since,
                status,
                self._clock.wall(),
                f"the rehearsal failed: {reason}" if status == "failed" else reason,
            )
            self._tell(status, reason)
            self.changed()

    async def _performed(self, attempt: _RehearsalJob) -> RehearsalOutcome:
        """Rehearse, and keep the report.

        Raises:
            TimeoutError: it hangs.
            BackstageError: there is no report.
            OSError: the disk.
        """
        began = self._clock.now()
        wall = self._clock.wall()
        folder = await self._on_disk(lambda: self._archive.begin(wall))
        try:
            async with timeout_at(self._clock, began + self._limit):
                ended = await self._backstage.rehearse(attempt.request, folder)
            if ended.status not in _FOUND_SOMETHING:
                raise BackstageError(_how(ended))
            try:
                digest = await self._on_disk(lambda: self._archive.digest(folder))
            except (ValueError, FileNotFoundError) as error:
                raise BackstageError(_how(ended)) from error
            html = await self._on_disk((folder / HTML).exists)
            outcome = self._outcome(attempt, folder, digest, html=html)
            await self._on_disk(lambda: self._archive.keep(folder, outcome))
        finally:
            # What was kept has another name by now. Cancelled once more, it is waited for as well.
            await self._on_disk(lambda: self._archive.drop(folder))
        return outcome

    async def _on_disk(self, work: Callable[[], T]) -> T:
        """Beside the event loop; cancelled, it is waited for: nothing is left half done."""
        return await write_in_thread(work, self._disk)

    def _outcome(
        self, attempt: _RehearsalJob, folder: Path, digest: Digest, *, html: bool
    ) -> RehearsalOutcome:
        def count(level: Level) -> int:
            return sum(finding.level == level for finding in digest.findings)

        return RehearsalOutcome(
            name=self._archive.name_of(folder),
            by=attempt.by,
            asked=attempt.request.plain(),
            finished_at=self._clock.wall(),
            seconds=round(self._clock.now() - attempt.since, 3),
            verdict=digest.verdict,
            errors=count("error"),
            warnings=count("warning"),
            notes=count("note"),
            findings=digest.findings[:_KEPT_FINDINGS],
            html=html,
        )

    def _tell(self, status: Status, reason: str) -> None:
        if status == "done" and self._newest is not None:
            outcome = self._newest.outcome
            _log.info(
                "rehearsal_done",
                verdict=outcome.verdict,
                errors=outcome.errors,
                warnings=outcome.warnings,
                seconds=outcome.seconds,
            )
        elif status == "failed":
            _log.warning("rehearsal_failed", reason=reason)
        else:
            _log.info("rehearsal_cancelled", reason=reason)


def _published(outcome: RehearsalOutcome) -> _Published:
    return _Published(outcome, secrets.token_urlsafe(16))


def _nothing() -> dict[str, Any]:
    """A report's fields where there is none."""
    empty = dict.fromkeys(("by", "finished_at", "seconds", "verdict", "report"))
    return {**empty, "asked": {}, "errors": 0, "warnings": 0, "notes": 0, "worst": []}


def _plain(finding: Finding) -> dict[str, Any]:
    return finding.model_dump(mode="json")


def _how(ended: RehearsalEnded) -> str:
    """How a rehearsal came to nothing: the last that it said, or how it was ended."""
    if ended.status < 0:
        return f"it was killed by signal {-ended.status}"
    lines = ended.words.splitlines()
    said = lines[-1].strip()[:_WORDS] if lines else ""
    return said or f"it ended with status {ended.status} and no report"
