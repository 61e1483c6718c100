"""Rehearsing in the background of a running show: one at a time, asked for, watched, ended.

The show knows nothing of it. Whatever becomes of a rehearsal (it dies, it hangs, the disk is
full) is told in its state and in the log, and nowhere else.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Literal, TypeVar

import anyio
import structlog

from cache.threads import write_in_thread
from server.core.child_process import exit_in_words
from server.core.clock import Clock, timeout_at
from server.core.formatting import duration
from server.core.refusal import Refused
from server.diagnostics.findings import Finding, count_of
from server.rehearsal.backstage import Backstage, BackstageError, RehearsalEnded
from server.rehearsal.request import RehearsalRequest
from server.reports.archive import HTML, JSON, Digest, RehearsalOutcome, ReportArchive

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


class RehearsalRefused(Refused):
    """Something that cannot be done now."""


@dataclass(frozen=True, slots=True)
class _BackgroundRehearsal:
    """One rehearsal, from when it was asked for.

    Attributes:
        since: steady time at which it began.
        finished_at: Unix time at which it ended, however it did.
        reason: why it failed, or who cancelled it.
    """

    by: str
    request: RehearsalRequest
    since: float
    status: Status = "running"
    finished_at: float | None = None
    reason: str = ""


class BackgroundRehearsals:
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
        self._job: _BackgroundRehearsal | None = None
        self._task: asyncio.Task[None] | None = None
        self._newest: RehearsalOutcome | None = None
        self._key = ""
        self._cancelled_by = ""
        self._disk = anyio.CapacityLimiter(1)

    @asynccontextmanager
    async def open(self) -> AsyncIterator[BackgroundRehearsals]:
        """Know the last report; end what is under way on leaving."""
        self._publish(await self._on_disk(self._archive.newest))
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
            RehearsalRefused: `rehearsing`: one is under way.
        """
        if self._task is not None:
            raise RehearsalRefused(
                "rehearsing", "a rehearsal is under way: wait for it, or cancel it"
            )
        self._job = job = _BackgroundRehearsal(by, request, self._clock.now())
        self._cancelled_by = ""
        self._task = asyncio.create_task(self._rehearse(job), name="rehearsal")
        _log.info("rehearsal_began", by=by, asked=request.plain())

    async def cancel(self, by: str) -> None:
        """End the one that is under way; when this returns, nothing of it is left.

        Raises:
            RehearsalRefused: `not_rehearsing`.
        """
        task = self._task
        if task is None:
            raise RehearsalRefused("not_rehearsing", "no rehearsal is under way")
        self._cancelled_by = by
        task.cancel()
        await asyncio.wait((task,))

    # ------------------------------------------------------------ what it knows

    def state(self) -> dict[str, Any]:
        """As JSON values: the rehearsal that was asked for last, and the last report before it."""
        job, newest = self._job, self._report()
        if job is None:
            status: Status = "none" if newest is None else "done"
            told = newest or _nothing()
            return {"status": status, "since": None, "reason": "", **told, "previous": None}
        done = job.status == "done"
        return {
            "status": job.status,
            "since": job.since,
            "reason": job.reason,
            **((newest if done else None) or _nothing()),
            "by": job.by,
            "asked": job.request.plain(),
            "finished_at": job.finished_at,
            "previous": None if done else newest,
        }

    def result(self) -> dict[str, Any]:
        """The state, with every finding that is kept."""
        findings = () if self._newest is None else self._newest.findings
        return {**self.state(), "findings": [_plain(each) for each in findings]}

    def opens(self, key: str | None) -> bool:
        """Whether `key` is the newest report's: a link in a page carries no token."""
        if self._newest is None or key is None:
            return False
        return secrets.compare_digest(key.encode(errors="surrogatepass"), self._key.encode())

    async def read(self, file: Literal["report.html", "report.json"]) -> bytes | None:
        """A file of the newest report, None where there is none."""
        if self._newest is None:
            return None
        try:
            return await asyncio.to_thread(self._archive.read, self._newest.name, file)
        except OSError:
            return None

    def _publish(self, outcome: RehearsalOutcome | None) -> None:
        """Show it from now on, under a key of its own."""
        self._newest, self._key = outcome, secrets.token_urlsafe(16)

    def _report(self) -> dict[str, Any] | None:
        outcome = self._newest
        if outcome is None:
            return None
        return {
            **outcome.model_dump(mode="json", exclude={"name", "findings", "html"}),
            "worst": [_plain(each) for each in outcome.findings[:_WORST]],
            "report": f"/rehearsal/{HTML if outcome.html else JSON}?key={self._key}",
        }

    # ------------------------------------------------------------ the rehearsal

    async def _rehearse(self, job: _BackgroundRehearsal) -> None:
        status: Status = "failed"
        reason = ""
        try:
            self._publish(await self._performed(job))
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
            self._job = replace(
                job,
                status=status,
                finished_at=self._clock.wall(),
                reason=f"the rehearsal failed: {reason}" if status == "failed" else reason,
            )
            self._tell(status, reason)
            self.changed()

    async def _performed(self, job: _BackgroundRehearsal) -> RehearsalOutcome:
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
                ended = await self._backstage.rehearse(job.request, folder)
            if ended.status not in _FOUND_SOMETHING:
                raise BackstageError(_how(ended))
            try:
                digest = await self._on_disk(lambda: self._archive.digest(folder))
            except (ValueError, FileNotFoundError) as error:
                raise BackstageError(_how(ended)) from error
            html = await self._on_disk((folder / HTML).exists)
            outcome = self._outcome(job, folder, digest, html=html)
            await self._on_disk(lambda: self._archive.keep(folder, outcome))
        finally:
            # What was kept has another name by now. Cancelled once more, it is waited for as well.
            await self._on_disk(lambda: self._archive.drop(folder))
        return outcome

    async def _on_disk(self, work: Callable[[], T]) -> T:
        """Beside the event loop; cancelled, it is waited for: nothing is left half done."""
        return await write_in_thread(work, self._disk)

    def _outcome(
        self, job: _BackgroundRehearsal, folder: Path, digest: Digest, *, html: bool
    ) -> RehearsalOutcome:
        return RehearsalOutcome(
            name=self._archive.name_of(folder),
            by=job.by,
            asked=job.request.plain(),
            finished_at=self._clock.wall(),
            seconds=round(self._clock.now() - job.since, 3),
            verdict=digest.verdict,
            errors=count_of(digest.findings, "error"),
            warnings=count_of(digest.findings, "warning"),
            notes=count_of(digest.findings, "note"),
            findings=digest.findings[:_KEPT_FINDINGS],
            html=html,
        )

    def _tell(self, status: Status, reason: str) -> None:
        if status == "done" and self._newest is not None:
            told = {"verdict", "errors", "warnings", "seconds"}
            _log.info("rehearsal_done", **self._newest.model_dump(include=told))
        elif status == "failed":
            _log.warning("rehearsal_failed", reason=reason)
        else:
            _log.info("rehearsal_cancelled", reason=reason)


def _nothing() -> dict[str, Any]:
    """A report's fields where there is none."""
    empty = dict.fromkeys(("by", "finished_at", "seconds", "verdict", "report"))
    return {**empty, "asked": {}, "errors": 0, "warnings": 0, "notes": 0, "worst": []}


def _plain(finding: Finding) -> dict[str, Any]:
    return finding.model_dump(mode="json")


def _how(ended: RehearsalEnded) -> str:
    """How a rehearsal came to nothing: the last that it said, or how it was ended."""
    if ended.status < 0:
        return exit_in_words(ended.status)
    lines = ended.words.splitlines()
    said = lines[-1].strip()[:_WORDS] if lines else ""
    return said or f"it ended with status {ended.status} and no report"
