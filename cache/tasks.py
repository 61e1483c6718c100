"""What is the same wherever tasks of ours wait, and are cancelled."""

from __future__ import annotations

import asyncio


def being_cancelled() -> bool:
    """Whether somebody has cancelled the current task.

    A `CancelledError` alone does not say so: it also comes out of a future of somebody else's
    that was cancelled, and then it is a failure like any other. A loop that is meant to go on
    for months and takes it for its own end would end without a word.
    """
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
