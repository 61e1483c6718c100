"""What has to be done although whoever asked for it is being cancelled."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any


async def to_its_end(work: Coroutine[Any, Any, None]) -> None:
    """Do what tidies up, to its end, however often the current task is cancelled meanwhile.

    Args:
        work: it bounds its own time, as nobody else can.

    Raises:
        CancelledError: somebody cancelled meanwhile; the work is done nevertheless.
        BaseException: what the work raised.
    """
    task = asyncio.create_task(work)
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        if not task.cancelled():
            task.exception()  # nobody is there to hear of it
        raise cancelled
    task.result()
