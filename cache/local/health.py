"""How the parts of a cache are: its disk, its origin, the line between them."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Final, Literal

import structlog

from cache.backoff import back_off

_log = structlog.get_logger(__name__)

DiskCondition = Literal["ok", "full", "read-only", "failing", "off"]

_SOON: Final = 1.0
"""Seconds until a disk that is not well is tried again first; then twice as long each time. Most
often it is another server that keeps the copies, and is about to end."""

_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_READ_ONLY: Final = frozenset({errno.EROFS, errno.EACCES, errno.EPERM})


_RETRY_AFTER: Final = 60.0
"""Seconds between two attempts to write to a disk that is not well, at most."""


@dataclass(frozen=True, slots=True)
class DiskState:
    """Whether copies can be kept on disk.

    Attributes:
        condition: ``off`` where there is to be none.
        reason: what is wrong, for people; empty where nothing is.
        since: time of day, in seconds, when it became so.
    """

    condition: DiskCondition
    reason: str = ""
    since: float | None = None


@dataclass(frozen=True, slots=True)
class OriginState:
    """Whether the origin answers.

    Attributes:
        reachable: None before it was first asked.
        reason: why it is not, for people; empty where it is.
        since: time of day, in seconds, when it became so.
    """

    reachable: bool | None = None
    reason: str = ""
    since: float | None = None


class DiskHealth:
    """Remembers what is wrong with a disk, so that it is not tried with every file.

    Args:
        off: whether there is none.
        now: steady seconds.
        wall: the time of day in seconds.
    """

    def __init__(self, *, off: bool, now: Callable[[], float], wall: Callable[[], float]) -> None:
        self._now = now
        self._wall = wall
        self._retry_at = 0.0
        self._tried = 0
        self.state = DiskState("off") if off else DiskState("ok", "", wall())

    def may_write(self) -> bool:
        """Whether it is worth trying now. While it is not well, that is now and then."""
        if self.state.condition == "ok":
            return True
        if self.state.condition == "off" or self._now() < self._retry_at:
            return False
        self._tried += 1
        self._try_later()
        return True

    def well(self) -> None:
        """It was written."""
        self._tried = 0
        if self.state.condition != "ok":
            _log.info("copies_kept_again")
            self.state = DiskState("ok", "", self._wall())

    def ill(self, condition: DiskCondition, reason: str) -> None:
        """It could not be written."""
        self._try_later()
        if self.state.condition != condition:
            _log.warning("copies_not_kept", condition=condition, reason=reason)
            self.state = DiskState(condition, reason, self._wall())
        else:
            self.state = replace(self.state, reason=reason)

    def _try_later(self) -> None:
        # By attempts: several files that fail at once are one of them.
        self._retry_at = self._now() + back_off(self._tried + 1, _SOON, _RETRY_AFTER)

    def failed(self, error: OSError) -> None:
        """The operating system said why not."""
        full, read_only = error.errno in _FULL, error.errno in _READ_ONLY
        condition: DiskCondition = "full" if full else "read-only" if read_only else "failing"
        self.ill(condition, error.strerror or str(error))


class OriginHealth:
    """Remembers whether the origin answers, and counts what came from it.

    Args:
        now: steady seconds.
        wall: the time of day in seconds.
    """

    def __init__(self, *, now: Callable[[], float], wall: Callable[[], float]) -> None:
        self._now = now
        self._wall = wall
        self._under_way = 0
        self._busy_since = 0.0
        self._busy = 0.0
        self.state = OriginState()
        self.bytes = 0

    @property
    def busy_seconds(self) -> float:
        """How long at least one request was under way; `bytes` over this is the line's rate."""
        return self._busy + (self._now() - self._busy_since if self._under_way else 0.0)

    @contextmanager
    def request(self) -> Iterator[None]:
        """Count the time of a request."""
        if not self._under_way:
            self._busy_since = self._now()
        self._under_way += 1
        try:
            yield
        finally:
            self._under_way -= 1
            if not self._under_way:
                self._busy += self._now() - self._busy_since

    def answered(self, size: int = 0) -> None:
        """It answered, with so many bytes."""
        self.bytes += size
        if not self.state.reachable:
            if self.state.reachable is False:
                _log.info("store_reachable")
            self.state = OriginState(reachable=True, since=self._wall())

    def failed(self, reason: str) -> None:
        """It did not answer, or refused."""
        if self.state.reachable is not False:
            _log.warning("store_unreachable", reason=reason)
            self.state = OriginState(reachable=False, reason=reason, since=self._wall())
        else:
            self.state = replace(self.state, reason=reason)
