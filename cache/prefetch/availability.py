"""What is at hand: the port through which a player asks before it reaches for a file.

A store answers sooner or later; this says what can be had at once, and when something
that was on its way has come. So a run never waits for a preview that the line is late with.
"""

from __future__ import annotations

from collections.abc import Collection
from contextlib import AbstractContextManager, nullcontext
from typing import Protocol

from cache.model.keys import Key


class Availability(Protocol):
    """Knows what is at hand. Asking costs nothing and fetches nothing."""

    def holds(self, key: Key) -> bool:
        """Whether a file can be had at once, as far as is known."""
        ...

    def expects(self, key: Key) -> bool:
        """Whether a file that is not at hand may be in time, as far as is known."""
        ...

    async def arrival(self, key: Key) -> None:
        """Return once a file is at hand; perhaps never, so bound the wait."""
        ...

    def holding(self, keys: Collection[Key]) -> AbstractContextManager[None]:
        """Keep files at hand while the context lasts: they are being played."""
        ...


class EverythingAvailable:
    """Everything is at hand: a store on this machine."""

    def holds(self, key: Key) -> bool:
        """See `Availability.holds`."""
        del key
        return True

    def expects(self, key: Key) -> bool:
        """See `Availability.expects`."""
        del key
        return True

    async def arrival(self, key: Key) -> None:
        """See `Availability.arrival`."""
        del key

    def holding(self, keys: Collection[Key]) -> AbstractContextManager[None]:
        """See `Availability.holding`."""
        del keys
        return nullcontext()


class PartlyAvailable(EverythingAvailable):
    """For tests: everything is at hand but what is said not to be, and nothing more comes."""

    def __init__(self, missing: Collection[Key]) -> None:
        self.missing = set(missing)
        self.expected: set[Key] = set()

    def holds(self, key: Key) -> bool:
        """See `Availability.holds`."""
        return key not in self.missing

    def expects(self, key: Key) -> bool:
        """See `Availability.expects`."""
        return key in self.expected
