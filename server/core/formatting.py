"""Figures and lists as people read them: durations, sizes, rates, counts, moments (pure)."""

from __future__ import annotations

from collections.abc import Iterable
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


def bit_rate(bits_per_second: float) -> str:
    """``10 Mbit/s``, ``2.5 Gbit/s``, as lines are sold."""
    for unit in ("bit/s", "kbit/s", "Mbit/s"):
        if bits_per_second < _STEP:
            return f"{bits_per_second:.3g} {unit}"
        bits_per_second /= _STEP
    return f"{bits_per_second:.3g} Gbit/s"


def count(number: int, one: str, many: str = "") -> str:
    """``1 set``, ``2 sets``; with another plural than an s: ``1 cue has``, ``2 cues have``."""
    return f"{number} {one if number == 1 else many or f'{one}s'}"


def first_few(names: Iterable[object], limit: int = 5) -> str:
    """``1, 4, 9``; of more than `limit` the first of them: ``1, 2, 3, 4, 5, …``."""
    named = [str(name) for name in names]
    return ", ".join([*named[:limit], "…"] if len(named) > limit else named)


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
