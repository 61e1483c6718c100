"""Whether there is room on a disk for what will be made."""

from __future__ import annotations

import shutil
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path
from typing import Final

import anyio

from cache.threads import read_in_thread

KEEP_FREE: Final = 2**30
"""Bytes that stay free on the disks that the Studio writes to."""


def room_on_disks(
    folders: Iterable[Path], keep_free: int = KEEP_FREE
) -> Callable[[], Awaitable[bool]]:
    """What `Scheduler.has_room` asks, for folders that are written to.

    Args:
        folders: the store's, and that of the database; they need not be there yet.
        keep_free: bytes that stay free on the disk of each.
    """
    wanted = [folder.absolute() for folder in folders]
    limiter = anyio.CapacityLimiter(1)  # a disk that hangs holds up one thread and no more

    def look() -> bool:
        return all(_free_bytes(folder) >= keep_free for folder in wanted)

    async def has_room() -> bool:
        return await read_in_thread(look, limiter)

    return has_room


def _free_bytes(folder: Path) -> int:
    """Bytes that are free where a folder is, or will be."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return shutil.disk_usage(folder).free
