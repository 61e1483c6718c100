"""What may be set of a worker."""

from __future__ import annotations

from typing import ClassVar, Literal

from generator.engines.settings import RemoteSection


class WorkerSection(RemoteSection):
    """An engine behind `understudy worker`."""

    token_variable: ClassVar[str | None] = "UNDERSTUDY_WORKER_TOKEN"
    schemes: ClassVar[frozenset[str]] = frozenset({"http", "https"})
    health_path: ClassVar[str] = "/health"

    kind: Literal["worker"] = "worker"

    @property
    def drawn_by(self) -> str | None:
        """Whatever it is that the worker draws with."""
        return None
