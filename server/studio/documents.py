"""A job as the Studio answers it: what was asked, how far it is, and where its pictures are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from cache.threads import offload_large
from generator.jobs.model import ENDED, Item, Job, Problem, progress_of
from generator.jobs.outlook import Prospect, QueueOutlook
from generator.jobs.request import public_request
from generator.jobs.scheduler import Scheduler
from server.studio.links import SealedLinks

_MANY: Final = 200
"""Items: to seal the addresses of more takes some milliseconds."""


@dataclass(frozen=True)
class JobDocuments:
    """Writes them.

    Args:
        outlook: when what waits will be done.
        scheduler: how far what is being drawn is.
        links: addresses of pictures.
        currency: what costs are in.
    """

    outlook: QueueOutlook
    scheduler: Scheduler
    links: SealedLinks
    currency: str

    async def of(self, job: Job, *, absolute: bool = False) -> dict[str, Any]:
        """A job; its pictures' addresses with the Studio's own before them where `absolute`."""
        return (await self.of_all([job], absolute=absolute))[0]

    async def of_all(self, jobs: Sequence[Job], *, absolute: bool = False) -> list[dict[str, Any]]:
        """Several jobs, as `of` has each; in a thread where they have many items."""
        waiting = any(job.status not in ENDED for job in jobs)
        prospects = await self.outlook.look() if waiting else {}
        drawn = [
            sum(
                self.scheduler.progress_of(job.id, item.n)
                for item in job.items
                if item.status == "running"
            )
            for job in jobs
        ]

        def write() -> list[dict[str, Any]]:
            return [
                self._document(job, prospects.get(job.id), so_far, absolute=absolute)
                for job, so_far in zip(jobs, drawn, strict=True)
            ]

        return await offload_large(sum(len(job.items) for job in jobs), write, large=_MANY)

    def _document(
        self, job: Job, prospect: Prospect | None, drawn: float, *, absolute: bool
    ) -> dict[str, Any]:
        items = [self._item(job, item, absolute=absolute) for item in job.items]
        return {
            "id": job.id,
            "job_id": job.id,
            "kind": job.kind,
            "status": job.status,
            "progress": round(progress_of((item.status for item in job.items), drawn), 4),
            "position": prospect.position if prospect else None,
            "eta_seconds": _seconds(prospect.eta_seconds if prospect else None),
            "priority": job.priority,
            "attempt": job.attempt,
            "total": len(job.items),
            "done": job.done,
            "failed": job.failed,
            "partial": job.partial,
            "items": items,
            "result_url": next((each["url"] for each in items if each["url"]), None),
            "cost": {"amount": job.cost, "currency": self.currency, "seconds": job.seconds},
            "error": problem_document(job.problem),
            "request": public_request(job.request),
            "metadata": job.metadata,
            "created_at": timestamp(job.created_at),
            "started_at": timestamp(job.started_at),
            "completed_at": timestamp(job.completed_at),
        }

    def _item(self, job: Job, item: Item, *, absolute: bool) -> dict[str, Any]:
        ready = item.status == "ready"
        path = f"/takes/{item.take}"
        return {
            "n": item.n,
            "status": item.status,
            "seed": item.seed,
            "take": item.take,
            "engine": item.engine,
            "seconds": item.seconds,
            "error": problem_document(item.problem),
            "url": self._sealed(f"{path}/final.jpg", job, absolute=absolute) if ready else None,
            "thumb": self._sealed(f"{path}/thumb", job, absolute=absolute) if ready else None,
        }

    def _sealed(self, path: str, job: Job, *, absolute: bool) -> str:
        return self.links.sealed(path, job.owner, absolute=absolute)


def problem_document(problem: Problem | None) -> Mapping[str, str] | None:
    """Why something failed, or waits."""
    return None if problem is None else {"code": problem.code, "message": problem.message}


def timestamp(unix: float | None) -> str | None:
    """A Unix time as others read it: ISO 8601, UTC, to the millisecond."""
    if unix is None:
        return None
    moment = datetime.fromtimestamp(unix, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _seconds(value: float | None) -> float | None:
    return None if value is None else round(value, 1)
