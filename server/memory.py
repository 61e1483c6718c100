"""What the server must remember across a restart, in one small file.

Losing it costs a repeated set and a forced mode, so nothing here ever stops the show: a
file that cannot be read is set aside, one that cannot be written is tried again later.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import structlog
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from server.modes.forces import Forces
from server.providers.shuffle import Bag

_log = structlog.get_logger(__name__)

STATE = "state.json"
"""Its name, in the show's state folder."""

_DELAY = 0.5
"""Seconds within which changes are written together."""


class Panic(BaseModel):
    """That the wall was made black, and by whom.

    `at` is Unix time, by the machine's time of day.
    """

    model_config = ConfigDict(frozen=True)

    by: str
    at: float


class Remembered(BaseModel):
    """What is remembered.

    Attributes:
        seed: what is left to chance follows from it; None before the first start.
        loop_anchor: Unix time at which an endless loop began.
        alive_at: Unix time at which the show was last known to play.
        bags: the shuffle bag of each action.
        forces: the modes that technicians force.
        panic: set while the wall is to stay black, whatever the schedule says.
        screens: those expected to come back, and since when each is gone, in Unix time; None
            for one that is there.
    """

    model_config = ConfigDict(extra="ignore")

    seed: int | None = None
    loop_anchor: float | None = None
    alive_at: float | None = None
    bags: dict[str, Bag] = Field(default_factory=dict)
    forces: Forces = ()
    panic: Panic | None = None
    screens: dict[str, float | None] = Field(default_factory=dict)


class Memory:
    """`content`, loaded on opening and saved soon after each `touch`; without a path, never.

    Saving is a job, `keep_saving`, which its owner runs and minds.
    """

    def __init__(self, path: Path | None, content: Remembered) -> None:
        self._path = path
        self.content = content
        self._changed = asyncio.Event()
        self._saving = asyncio.Lock()
        self._failed = False

    @classmethod
    @asynccontextmanager
    async def open(cls, path: Path) -> AsyncIterator[Memory]:
        """Load what is remembered at `path`; what was touched last is saved on leaving."""
        memory = cls(path, await asyncio.to_thread(_load, path))
        try:
            yield memory
        finally:
            if memory._changed.is_set():
                await memory._save()

    @classmethod
    @asynccontextmanager
    async def unwritten(cls, content: Remembered) -> AsyncIterator[Memory]:
        """One that is gone with its object: for a rehearsal, which leaves no trace."""
        yield cls(None, content)

    def touch(self) -> None:
        """`content` has changed."""
        self._changed.set()

    async def save_now(self, within: float) -> bool:
        """Do not wait with saving; return whether it is on disk within some seconds."""
        self._changed.set()
        try:
            async with asyncio.timeout(within):
                await self._save()
        except TimeoutError:
            return False  # a disk that hangs: it is tried again like any other change
        return not self._failed

    async def keep_saving(self) -> None:
        """Save what was touched, until cancelled."""
        while True:
            await self._changed.wait()
            await asyncio.sleep(_DELAY)
            self._changed.clear()
            try:
                await self._save()
            except BaseException:
                self._changed.set()  # it is not on disk: whoever saves next has it still to do
                raise

    async def _save(self) -> None:
        async with self._saving:  # two at once would write into one another's file
            await self._write()

    async def _write(self) -> None:
        if self._path is None:
            return
        data = self.content.model_dump_json(indent=1).encode()
        try:
            await asyncio.to_thread(_write, self._path, data)
        except OSError as error:
            if not self._failed:
                _log.warning("memory_not_saved", path=str(self._path), reason=error.strerror)
            self._failed = True
        else:
            self._failed = False


def remembered(path: Path) -> Remembered | None:
    """What is remembered at `path`, for one who only looks; None where there is nothing to read."""
    try:
        return Remembered.model_validate_json(path.read_bytes())
    except (OSError, ValidationError):
        return None


def _load(path: Path) -> Remembered:
    try:
        return Remembered.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return Remembered()
    except (OSError, ValidationError) as error:
        aside = path.with_suffix(".unreadable")
        with suppress(OSError):
            path.replace(aside)
        _log.warning(
            "memory_unreadable", path=str(path), kept_as=str(aside), reason=str(error)[:200]
        )
        return Remembered()


def _write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    with beside.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)
