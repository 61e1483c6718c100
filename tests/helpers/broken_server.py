"""A real server with a mistake of ours built in.

::

    python -m tests.helpers.broken_server FAULT[+FAULT…] serve …

The mistake is laid over the code before the program starts, so that what is tried out is
otherwise the whole program: its command line, its loop, its shutdown.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Callable
from typing import Any, NoReturn

from cache.prefetch.prefetcher import Prefetcher
from server.asrun.log import AsRunLog
from server.cli.main import main
from server.control import state_feed
from server.modes.manager import ModeManager
from server.performance.cue_messages import CueMessages
from server.performance.performer import Performer
from server.performance.playback import Playback
from server.performance.runs import Runs
from server.stage.stage import Stage
from server.timeline.playhead import Playhead

Method = Callable[..., Any]


class Planted(Exception):
    """The mistake."""


def _raises(_method: Method) -> Method:
    def raises(*_: Any, **__: Any) -> NoReturn:
        raise Planted("planted")

    return raises


def _raises_once(call: int) -> Callable[[Method], Method]:
    """A method whose call of that number, from 1, raises."""

    def wrap(method: Method) -> Method:
        count = 0

        def counts(*args: Any, **kwargs: Any) -> Any:
            nonlocal count
            count += 1
            if count == call:
                raise Planted("planted")
            return method(*args, **kwargs)

        return counts

    return wrap


def _raises_after(seconds: float) -> Callable[[Method], Method]:
    """A method that raises once so long after it was called first."""

    def wrap(method: Method) -> Method:
        since: list[float] = []

        def waits(*args: Any, **kwargs: Any) -> Any:
            since.append(time.monotonic())
            if since[-1] - since[0] >= seconds:
                raise Planted("planted")
            return method(*args, **kwargs)

        return waits

    return wrap


def _returns(_method: Method) -> Method:
    async def returns(*_: Any) -> None:
        await asyncio.sleep(1.0)

    return returns


def _is_cancelled(_method: Method) -> Method:
    """As where a future of somebody else's, which was cancelled, is awaited."""

    async def cancelled(*_: Any) -> None:
        await asyncio.sleep(1.0)
        raise asyncio.CancelledError

    return cancelled


def _raises_when_awaited(_method: Method) -> Method:
    async def raises(*_: Any, **__: Any) -> NoReturn:
        raise Planted("planted")

    return raises


def _hangs(_method: Method) -> Method:
    async def hangs(*_: Any, **__: Any) -> None:
        await asyncio.Event().wait()

    return hangs


def _blocks_the_loop(_method: Method) -> Method:
    async def blocks(*_: Any) -> None:
        await asyncio.sleep(1.0)
        time.sleep(600)  # noqa: ASYNC251 - it is the fault

    return blocks


FAULTS: dict[str, tuple[object, str, Callable[[Method], Method]]] = {
    "playhead-raises-once": (Playhead, "tick", _raises_once(5)),
    "playhead-raises-after-a-while": (Playhead, "tick", _raises_after(4.0)),
    "playback-returns": (Playback, "run", _returns),
    "playback-is-cancelled": (Playback, "run", _is_cancelled),
    "loop-blocked": (Playback, "run", _blocks_the_loop),
    "feed-raises-once": (state_feed, "first_of", _raises_once(3)),
    "feed-raises": (state_feed, "first_of", _raises),
    "fetcher-raises-once": (Prefetcher, "_arrived", _raises_once(3)),
    "forces-raise": (ModeManager, "keep_time", _raises_when_awaited),
    "performer-raises": (Performer, "perform", _raises),
    "runs-raise": (Runs, "perform", _raises_when_awaited),
    "runs-hang": (Runs, "perform", _hangs),
    "stage-raises": (Stage, "begin", _raises),
    "messages-raise": (CueMessages, "of", _raises),
    "asrun-writer-raises-once": (AsRunLog, "_take", _raises_once(4)),
    "screens-raise": (Stage, "presented", _raises),
    "shutdown-hangs": (AsRunLog, "close", _hangs),
}
"""By name: whose function, and what takes its place."""


def plant(name: str) -> None:
    """Lay a mistake over the code of this process."""
    owner, method, make = FAULTS[name]
    setattr(owner, method, make(getattr(owner, method)))


if __name__ == "__main__":
    for fault in sys.argv[1].split("+"):
        plant(fault)
    main(sys.argv[2:])
