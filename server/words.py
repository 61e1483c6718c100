"""Figures for people: durations, sizes, rates, moments (pure)."""

from __future__ import annotations

from datetime import datetime, tzinfo

_MINUTE, _HOUR, _DAY = 60, 3600, 86400
_SIZES = ("bytes", "kB", "MB", "GB", "TB")
_STEP = 1000


def duration(seconds: float) -> str:
    """``8 s``, ``12 min``, ``3 h 20 min``, ``2 d 4 h``: as exact as anybody wants it."""
    if seconds < 2 * _MINUTE:
        return f"{seconds:.0f} s"
    if seconds < 2 * _HOUR:
        return f"{seconds / _MINUTE:.0f} min"
    if seconds < 2 * _DAY:
        hours, minutes = divmod(round(seconds / _MINUTE), _MINUTE)
        return f"{hours} h {minutes} min" if minutes else f"{hours} h"
    days, hours = divmod(round(seconds / _HOUR), 24)
    return f"{days} d {hours} h" if hours else f"{days} d"


def size(count: float) -> str:
    """``340 MB``, in thousands, as disks and buckets are sold."""
    for unit in _SIZES:
        if count < _STEP or unit == _SIZES[-1]:
            return f"{count:.0f} {unit}" if unit in _SIZES[:3] else f"{count:.1f} {unit}"
        count /= _STEP
    raise AssertionError(count)  # pragma: no cover - the last unit takes whatever is left


def rate(per_second: float) -> str:
    """``4.2 a minute``, ``3.1 a second``, ``2.0 an hour``."""
    if per_second >= 1:
        return f"{per_second:.1f} a second"
    if per_second * _MINUTE >= 1:
        return f"{per_second * _MINUTE:.1f} a minute"
    return f"{per_second * _HOUR:.1f} an hour"


def count(number: int, noun: str) -> str:
    """``1 set``, ``2 sets``."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def moment(at: float, now: float, zone: tzinfo | None) -> str:
    """``14:03``; with the day where that is not today: ``Mon 30 Nov 14:03``.

    Args:
        at: Unix time.
        now: Unix time at which it is read.
        zone: of the show; None for the machine's.
    """
    try:
        then, today = datetime.fromtimestamp(at, zone), datetime.fromtimestamp(now, zone)
    except (ValueError, OverflowError, OSError):
        return "a moment that no calendar has"  # a clock that is far out
    return then.strftime("%H:%M" if then.date() == today.date() else "%a %-d %b %H:%M")
