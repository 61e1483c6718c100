"""How many files and sockets the process may have open, and how many of them are for visitors."""

from __future__ import annotations

import sys
from typing import Final

import structlog

if sys.platform != "win32":
    import resource

_log = structlog.get_logger(__name__)

MOST: Final = 65_536
"""Descriptors that are asked for, at most: some libraries look at every one there might be."""

FOR_THE_SHOW: Final = 256
"""Descriptors that are kept for sets, the log, the store, engines: no visitor gets them."""


def raise_descriptor_limit(most: int = MOST) -> int | None:
    """Let this process open as much as it may, `most` at the most; how much that is.

    None where the system sets no such limit.
    """
    if sys.platform == "win32":
        return None
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = most if hard == resource.RLIM_INFINITY else min(most, hard)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return None if soft == resource.RLIM_INFINITY else soft
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    except (OSError, ValueError):  # a system that says one thing and does another
        return soft
    return wanted


def room_for_connections(wanted: int, limit: int | None) -> int:
    """How many connections there may be of those `wanted`, where so much may be open.

    What does not fit is told in the log: the show's own come first.
    """
    room = wanted if limit is None else max(16, limit - FOR_THE_SHOW)
    if room >= wanted:
        return wanted
    _log.warning(
        "descriptors_few",
        limit=limit,
        needed=wanted + FOR_THE_SHOW,
        connections=room,
        remedy="raise the limit of open files: LimitNOFILE= in the unit, ulimit -n",
    )
    return room
