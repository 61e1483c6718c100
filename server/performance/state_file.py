"""What the server must remember across a restart, in two small files.

`state.json` costs a repeated set and a forced mode where it is lost, so nothing in it ever stops
the show: what cannot be read of it is left out, field by field, and the file before it stands in
for one that cannot be read at all. That the wall was made black is kept apart, in `panic.json`:
it is written before anything else, read whatever became of the other, and gone once light is
wanted again. Whoever asked for either hears whether it is on the disk.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Final

import structlog
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from cache.durable import KeptFile, left_over, make_private, write_durably
from cache.encoding import json_text
from cache.model.documents import FormatError, read_object
from cache.untrusted import UNIX_TIME_LIMIT, UnixTime, mended, one_line
from server.core.conditions import Condition
from server.modes.forces import Forces
from server.providers.shuffle import Bag

_log = structlog.get_logger(__name__)

STATE: Final = "state.json"
"""Its name, in the show's state folder."""

PANIC: Final = "panic.json"
"""Beside it, for as long as the wall is to stay black."""

KEPT_WITHIN: Final = 2.0
"""Seconds that whoever asked for something waits for the disk to have it."""

_DELAY = 0.5
"""Seconds within which changes are written together."""

_PATIENCE: Final = 5.0
"""Seconds that a write may take before it is told."""

_CLOSE_WITHIN: Final = 5.0
_MAX_BYTES: Final = 16 * 2**20
_MAX_NAME: Final = 120


class Panic(BaseModel):
    """That the wall was made black, and by whom.

    `at` is Unix time, by the machine's time of day.
    """

    model_config = ConfigDict(frozen=True)

    by: Annotated[str, AfterValidator(lambda name: one_line(name, _MAX_NAME))]
    at: float = Field(allow_inf_nan=False)  # no bounds: a wrong clock must not refuse a panic


class PersistedState(BaseModel):
    """What is remembered.

    Attributes:
        seed: what is left to chance follows from it; None before the first start.
        loop_anchor: Unix time at which an endless loop began.
        alive_at: Unix time at which the show was last known to play.
        bags: the shuffle bag of each action.
        forces: the modes that technicians force.
        panic: set while the wall is to stay black, whatever the schedule says; not part of
            `state.json`, but for those that an older release wrote.
        screens: those expected to come back, and since when each is gone, in Unix time; None
            for one that is there.
    """

    model_config = ConfigDict(extra="ignore")

    seed: int | None = Field(default=None, ge=0, lt=2**128)
    loop_anchor: UnixTime | None = None
    alive_at: UnixTime | None = None
    bags: dict[str, Bag] = Field(default_factory=dict)
    forces: Forces = ()
    panic: Panic | None = None
    screens: dict[str, UnixTime | None] = Field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _LoadedState:
    """What was found on the disk, and what is to be told of it."""

    content: PersistedState
    conditions: tuple[Condition, ...] = ()
    to_move: bool = False


class StateFile:
    """`content`, loaded on opening and saved soon after each `touch`; without files, never."""

    def __init__(
        self,
        content: PersistedState,
        state: KeptFile | None = None,
        panic: KeptFile | None = None,
        found: Iterable[Condition] = (),
    ) -> None:
        self.content = content
        self._state = state
        self._panic = panic
        self._found = tuple(found)
        self._due: asyncio.TimerHandle | None = None

    @classmethod
    @asynccontextmanager
    async def open(cls, path: Path) -> AsyncIterator[StateFile]:
        """Load what is remembered at `path`; what was touched last is saved on leaving."""
        loaded = await asyncio.to_thread(_load, path)
        state = KeptFile(path, previous=_previous(path), told=partial(_tell, path))
        beside = path.with_name(PANIC)
        panic = KeptFile(beside, told=partial(_tell, beside))
        state_file = cls(loaded.content, state, panic, loaded.conditions)
        if loaded.to_move:  # from an older release's file, or from one that was not finished
            await state_file.keep_panic(loaded.content.panic, KEPT_WITHIN)
            await state_file.keep(KEPT_WITHIN)
        try:
            yield state_file
        finally:
            await state_file._close()

    @classmethod
    @asynccontextmanager
    async def unwritten(cls, content: PersistedState) -> AsyncIterator[StateFile]:
        """One that is gone with its object: for a rehearsal, which leaves no trace."""
        yield cls(content)

    def touch(self) -> None:
        """`content` has changed."""
        # A timer and no task: there is nothing that could end and leave all later changes unsaved.
        if self._state is not None and self._due is None:
            self._due = asyncio.get_running_loop().call_later(_DELAY, self._put)

    async def keep(self, within: float) -> str | None:
        """Do not wait with saving.

        Args:
            within: seconds to wait for the disk.

        Returns:
            Why it is not on the disk yet; None where it is. What is not is tried again.
        """
        if self._state is None:
            return None
        return await self._state.kept(self._put(twice=True), within)

    async def keep_panic(self, panic: Panic | None, within: float) -> str | None:
        """Remember that the wall is to be black, or not to be; as `keep`."""
        self.content.panic = panic
        if self._panic is None:
            return None
        data = None if panic is None else panic.model_dump_json(indent=1).encode()
        return await self._panic.kept(self._panic.put(data), within)

    def conditions(self) -> Iterable[Condition]:
        """What a technician should know: what is not on the disk, what could not be read."""
        trouble = None if self._panic is None else self._panic.trouble(KEPT_WITHIN)
        if trouble is not None:
            now = "black" if self.content.panic is not None else "lit again"
            yield Condition(
                "panic_not_saved",
                "degraded",
                f"after a restart nobody would know that the wall is {now}: {trouble}; "
                "it is tried again: free the disk, or keep the server running",
            )
        trouble = None if self._state is None else self._state.trouble(_PATIENCE)
        if trouble is not None:
            yield Condition(
                "state_not_saved",
                "degraded",
                f"a restart would forget forced modes and which sets were played: {trouble}; "
                "it is tried again: free the disk, or keep the server running",
            )
        yield from self._found

    def _put(self, *, twice: bool = False) -> int:
        """Hand the content as it is now to its writer; the number to ask for it by."""
        assert self._state is not None  # noqa: S101 - for the type checker; both callers looked
        if self._due is not None:
            self._due.cancel()
            self._due = None
        return self._state.put(_encoded(self.content), twice=twice)

    async def _close(self) -> None:
        if self._due is not None:
            self._put()
        for file in (self._panic, self._state):
            trouble = None if file is None else await asyncio.to_thread(file.close, _CLOSE_WITHIN)
            if trouble is not None and file is not None:
                _log.error("memory_not_saved", path=str(file.path), reason=trouble)


def read_state(path: Path) -> PersistedState | None:
    """What is remembered at `path`, for one who only looks; None where there is nothing to read."""
    for place in (path, _previous(path)):
        with suppress(OSError, FormatError):
            return _read(place)[0]
    return None


def _tell(path: Path, trouble: str | None) -> None:
    if trouble is not None:
        _log.warning("memory_not_saved", path=str(path), reason=trouble)
    else:
        _log.info("memory_saved_again", path=str(path))


def _previous(path: Path) -> Path:
    return path.with_name(f"{path.name}.previous")


def _encoded(content: PersistedState) -> bytes:
    fields = content.model_dump(mode="python", exclude={"panic"})
    return json_text(fields, place=STATE, indent=1).encode()


def _load(path: Path) -> _LoadedState:
    for each in (path, path.with_name(PANIC), _previous(path)):
        make_private(each)
    for unfinished in (*left_over(path), *left_over(_previous(path))):
        with suppress(OSError):
            unfinished.unlink()
    panic, to_move = _load_panic(path.with_name(PANIC)), False
    if panic is None and (left := left_over(path.with_name(PANIC))):
        # Somebody panicked, and the server was killed before the disk was done with it.
        panic, to_move = _load_panic(left[-1]), True
    loaded = _load_state(path)
    if panic is None:
        return loaded
    loaded.content.panic = panic
    return _LoadedState(loaded.content, loaded.conditions, to_move=to_move)


def _load_state(path: Path) -> _LoadedState:
    try:
        content, left_out = _read(path)
    except (FileNotFoundError, NotADirectoryError):
        return _LoadedState(PersistedState())
    except (OSError, FormatError) as error:
        aside = path.with_suffix(".unreadable")
        with suppress(OSError):
            path.replace(aside)
        reason = str(error)[:200]
        _log.warning("memory_unreadable", path=str(path), kept_as=str(aside), reason=reason)
        try:
            content, _ = _read(_previous(path))
        except (OSError, FormatError):
            text = f"{reason}; forced modes and sets played are forgotten; kept as {aside}"
            return _LoadedState(
                PersistedState(), (Condition("state_unreadable", "degraded", text),)
            )
        content.panic = None  # it was moved to its own file when this became the previous one
        text = f"{reason}; what was saved before it is used; kept as {aside}"
        return _LoadedState(content, (Condition("state_unreadable", "note", text),))
    told: tuple[Condition, ...] = ()
    if left_out:
        aside = path.with_suffix(".unreadable")
        with suppress(OSError):
            write_durably(aside, path.read_bytes())
        reason = "; ".join(left_out)[:300]
        _log.warning("memory_unreadable", path=str(path), kept_as=str(aside), reason=reason)
        text = f"{path}: left out: {reason}; the file is kept as {aside}"
        told = (Condition("state_unreadable", "note", text),)
    return _LoadedState(content, told, to_move=content.panic is not None)


def _read(path: Path) -> tuple[PersistedState, list[str]]:
    """What a file remembers, and what of it cannot be understood.

    Raises:
        OSError: it cannot be read.
        FormatError: it is no JSON object.
    """
    with path.open("rb") as file:
        data = file.read(_MAX_BYTES + 1)
    if len(data) > _MAX_BYTES:
        raise FormatError(str(path), [f"expected {_MAX_BYTES} bytes at most"])
    raw = mended(read_object(data, str(path))[0])
    left_out: list[str] = []
    while True:
        try:
            return PersistedState.model_validate(raw), left_out
        except ValidationError as error:
            # Each field, bag and force for itself: one that is bad must not cost the others.
            places = {each["loc"][:2]: each["msg"] for each in error.errors(include_url=False)}
            for place in sorted(places, key=str, reverse=True):
                left_out.append(f"{'.'.join(map(str, place))}: {places[place]}")
                _leave_out(raw, place)


def _leave_out(raw: dict[str, Any], place: tuple[int | str, ...]) -> None:
    name, *within = place
    holder = raw.get(str(name)) if name in {"bags", "forces", "screens"} else None
    if within and isinstance(holder, dict | list):
        holder.pop(within[0])  # type: ignore[arg-type]  # a list's places are numbers
    else:
        raw.pop(str(name), None)


def _load_panic(path: Path) -> Panic | None:
    """The panic that is on. A file that cannot be read is one: somebody wanted the wall black."""
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_BYTES)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        reason = error.strerror or str(error)
    else:
        try:
            panic = Panic.model_validate(read_object(data, str(path))[0])
        except (FormatError, ValidationError) as error:
            reason = str(error)[:200]
        else:
            return panic.model_copy(update={"at": min(max(0.0, panic.at), UNIX_TIME_LIMIT)})
    _log.error("panic_unreadable", path=str(path), reason=reason)
    at = 0.0
    with suppress(OSError):
        at = max(0.0, path.stat().st_mtime)
    return Panic(by=f"somebody: {PANIC} cannot be read", at=at)
