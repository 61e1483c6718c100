"""Images from a drawing thread to an event loop: bounded, and either end may give up."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from typing import Generic, TypeVar

T = TypeVar("T")


class Cancelled(Exception):
    """Nobody wants the drawing any more. Never leaves the engine."""


class Channel(Generic[T]):
    """A bounded queue that a thread fills and a coroutine empties.

    Args:
        loop: the loop of the coroutine.
        limit: items waiting at most; beyond it `put` blocks.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, limit: int) -> None:
        self._loop = loop
        self._limit = limit
        self._items: deque[T] = deque()
        self._changed = threading.Condition()
        self._abandoned = False
        self._ended = False
        self._error: Exception | None = None
        self._ready = asyncio.Event()

    @property
    def abandoned(self) -> bool:
        """Whether the coroutine has given up."""
        return self._abandoned

    def put(self, item: T) -> None:
        """Add an item, from a thread; blocks while the channel is full.

        Raises:
            Cancelled: the coroutine has given up.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._abandoned or len(self._items) < self._limit)
            if self._abandoned:
                raise Cancelled
            self._items.append(item)
        self._wake()

    def end(self, error: Exception | None = None) -> None:
        """Say, from a thread, that nothing more comes, and why where it broke off."""
        with self._changed:
            self._ended, self._error = True, error
        self._wake()

    def abandon(self) -> None:
        """Give up, from the coroutine's side: whatever `put` waits is let go."""
        with self._changed:
            self._abandoned = True
            self._items.clear()
            self._changed.notify_all()

    async def get(self) -> T | None:
        """The next item; None at the end.

        Raises:
            Exception: what `end` was given, once the items before it are taken.
        """
        while True:
            with self._changed:
                if self._items:
                    item = self._items.popleft()
                    self._changed.notify_all()
                    return item
                if self._ended:
                    if self._error is not None:
                        raise self._error
                    return None
                self._ready.clear()
            await self._ready.wait()

    def _wake(self) -> None:
        if not self._abandoned:
            self._loop.call_soon_threadsafe(self._ready.set)
