"""What the time of day is at a steady moment, and whether it can be believed.

Everything that plays is due by the steady clock, which is called Unix time only for the moment
at which it was anchored: where the time of day was wrong then, or is set later, the two part for
good. So nothing is printed, and no hour is kept, by the steady clock: it goes through here.
The rule for the whole house is in `docs/architecture.md`, under "Two clocks".
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Final

import structlog

from server.core.clock import Clock
from server.core.conditions import Condition

_log = structlog.get_logger(__name__)

STEP: Final = 1.0
"""Seconds by which the time of day must jump to be believed to have been set."""

_DRIFTED: Final = 0.25
"""Seconds by which it must have been slewed to be taken over: what is told stands still else."""

_TOLD_FOR: Final = 3600.0
"""Seconds for which a technician is told that the clock was set."""

_LOOK_EVERY: Final = 1.0
_READINGS: Final = 3
_EARLIEST: Final = datetime(2026, 1, 1, tzinfo=UTC)
"""This release was made later: a machine that says less has lost its clock."""

_LATEST: Final = datetime(2100, 1, 1, tzinfo=UTC)
_HELP: Final = "timedatectl tells, and `timedatectl set-ntp true` sets it from the network"


def read(clock: Clock) -> tuple[float, float]:
    """Both clocks as at one moment: steady seconds, and Unix time.

    They can only be read in turn, and whoever else runs in between puts them apart: of some
    readings the closest counts.
    """
    best, found = math.inf, (0.0, 0.0)
    for _ in range(_READINGS):
        now, wall = clock.now(), clock.wall()
        took = clock.now() - now
        if took < best:
            best, found = took, (now, wall)
    return found


def offset_of(clock: Clock) -> float:
    """Seconds from the steady clock to the time of day at this moment."""
    now, wall = read(clock)
    return wall - now


def asleep() -> float:
    """Seconds for which this machine has been suspended since it was started, where it can tell."""
    boot = getattr(time, "CLOCK_BOOTTIME", None)
    return 0.0 if boot is None else time.clock_gettime(boot) - time.monotonic()


def local_text(unix: float, zone: tzinfo | None) -> str | None:
    """``2026-11-21T10:00:00+01:00``: day and hour of a Unix time, to print; None beyond all dates.

    To the nearest second: a start that is a hair before its minute is at its minute.
    """
    try:
        moment = datetime.fromtimestamp(math.floor(unix + 0.5), UTC)
        return moment.astimezone(zone).isoformat(timespec="seconds")
    except (ValueError, OverflowError, OSError):
        return None


class TimeOfDay:
    """The one who knows how far the time of day is from the steady clock.

    Args:
        clock: both.
        zone: in which hours are told; None for the machine's.
        slept: seconds for which the machine has been suspended, which is no fault of its clock.
        last_seen: Unix time at which the show was last known to play, from before a restart.
    """

    def __init__(
        self,
        clock: Clock,
        zone: tzinfo | None = None,
        *,
        slept: Callable[[], float] = lambda: 0.0,
        last_seen: float | None = None,
    ) -> None:
        self._clock = clock
        self.zone = zone
        self._slept = slept
        self._asleep = slept()
        self._offset = offset_of(clock)
        self._set: tuple[float, float] | None = None
        self._listeners: list[Callable[[float], None]] = []
        wall = clock.wall()
        if last_seen is not None and last_seen - wall > _TOLD_FOR:
            # Which of both was wrong nobody can say, so nothing follows from it but a word.
            self._set = (wall - last_seen, clock.now())
            _log.warning("clock_went_back", by=round(last_seen - wall, 1))

    def on_step(self, listener: Callable[[float], None]) -> None:
        """Call `listener` with the seconds by which the time of day was set, each time it is."""
        self._listeners.append(listener)

    def look(self) -> None:
        """Compare the two clocks; one that was set is told of."""
        offset = offset_of(self._clock)
        by = offset - self._offset
        if abs(by) < _DRIFTED:
            return
        self._offset = offset
        if abs(by) <= STEP:
            return
        asleep = self._slept()
        slept, self._asleep = asleep - self._asleep, asleep
        if abs(by - slept) <= STEP:
            _log.info("machine_slept", seconds=round(slept, 1))
        else:
            self._set = (by, self._clock.now())
            _log.warning("clock_stepped", by=round(by, 3), now=self.text(self._clock.wall()))
        for listener in self._listeners:
            listener(by)

    async def run(self) -> None:
        """Look again and again, until cancelled."""
        while True:
            self.look()
            await self._clock.sleep_until(self._clock.now() + _LOOK_EVERY)

    # ------------------------------------------------------------ what it is

    @property
    def offset(self) -> float:
        """Seconds from the steady clock to the time of day, as of the last look."""
        return self._offset

    def unix(self, moment: float) -> float:
        """The Unix time of a steady moment, as the machine has the time of day now."""
        return moment + self._offset

    def steady(self, unix: float) -> float:
        """The steady moment of a Unix time, as the machine has the time of day now."""
        return unix - self._offset

    def hour(self, moment: float) -> str:
        """``14:03:20`` of a steady moment, to the nearest second."""
        text = local_text(self.unix(moment), self.zone)
        return "?" if text is None else text[11:19]

    def text(self, unix: float) -> str:
        """``2026-11-21 10:00:00`` of a Unix time."""
        text = local_text(unix, self.zone)
        return f"{unix:.0f}" if text is None else text[:19].replace("T", " ")

    def utc_offset(self) -> float:
        """Seconds by which the zone is ahead of UTC now."""
        try:
            moment = datetime.fromtimestamp(self._clock.wall(), UTC).astimezone(self.zone)
        except (ValueError, OverflowError, OSError):
            return 0.0
        return (moment.utcoffset() or timedelta()).total_seconds()

    # ------------------------------------------------------------ whether it is believed

    @property
    def plausible(self) -> bool:
        """Whether the time of day is one at which this program can be running."""
        return _EARLIEST.timestamp() <= self._clock.wall() < _LATEST.timestamp()

    def conditions(self) -> Iterable[Condition]:
        """What is wrong with the time of day, or was not long ago."""
        wall = self._clock.wall()
        if not self.plausible:
            yield Condition(
                "clock_implausible",
                "degraded",
                f"this machine's clock says {self.text(wall)}, which cannot be: the hours of the "
                f"schedule and of the as-run log are wrong. {_HELP}",
            )
        if self._set is None or self._clock.now() - self._set[1] >= _TOLD_FOR:
            return
        by, at = self._set
        yield Condition(
            "clock_stepped",
            "note",
            f"at {self.hour(at)} this machine's clock was set {'forward' if by > 0 else 'back'} "
            f"by {_in_words(abs(by))}: the show is where its schedule says by the clock as it is "
            "now",
        )


def _in_words(seconds: float) -> str:
    for unit, name in ((86_400.0, "days"), (3600.0, "hours"), (60.0, "minutes")):
        if seconds >= 2 * unit:
            return f"{seconds / unit:.1f} {name}"
    return f"{seconds:.1f} seconds"
