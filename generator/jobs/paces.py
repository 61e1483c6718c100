"""How long pictures took, learnt from real work and remembered from one start to the next.

A picture takes some time whatever its steps are (asking, encoding, keeping), and some more for
each of them. Where pictures of different numbers of steps were drawn, the two are told apart.
"""

from __future__ import annotations

import asyncio
import json
import math
from collections import deque
from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from contextlib import asynccontextmanager, suppress
from itertools import combinations
from statistics import median
from typing import Any, Final

import sqlalchemy as sa
import structlog

from cache.tasks import cancel_and_wait
from generator.jobs.database import DatabaseError
from generator.jobs.eta import WorkSize
from generator.jobs.schema import state
from generator.jobs.store import JobStore

_log = structlog.get_logger(__name__)

_LAST: Final = 16
"""How many pictures of a kind are remembered: what an engine did an hour ago is no news."""

_KINDS: Final = 512
"""How many kinds are remembered; those that were drawn longest ago are forgotten first."""

_REMEMBER_EVERY: Final = 30.0
_PACES: Final = "paces/"
"""What the names begin with under which each Studio remembers what it has learnt."""

_Kind = tuple[str, str, int, int]
"""Engine, model, width, height."""

_Run = tuple[int, float]
"""Steps, and seconds that they took."""


class Paces:
    """How long pictures took, by engine, model and size, of the last few of each.

    Attributes:
        version: grows with everything that is learnt.
    """

    def __init__(self) -> None:
        self.version = 0
        self._runs: dict[_Kind, deque[_Run]] = {}
        self._elsewhere: dict[_Kind, list[_Run]] = {}

    def learn(self, engine: str, size: WorkSize, seconds: float) -> None:
        """A picture was drawn in so many seconds, from asking for it to having kept it."""
        if seconds < 0 or not math.isfinite(seconds):
            return
        kind = (engine, size.model, size.width, size.height)
        # Put last, so that the first are those that were drawn longest ago.
        runs = self._runs.pop(kind, None) or deque(maxlen=_LAST)
        runs.append((size.steps, seconds))
        self._runs[kind] = runs
        if len(self._runs) > _KINDS:
            del self._runs[next(iter(self._runs))]
        self.version += 1

    def seconds(self, engine: str, size: WorkSize) -> float | None:
        """How long a picture will take on an engine; None where nothing like it was drawn."""
        kind = (engine, size.model, size.width, size.height)
        runs = self._runs.get(kind) or self._elsewhere.get(kind)
        return None if not runs else foretell(runs, size.steps)

    def document(self) -> Mapping[str, Any]:
        """What was learnt here, as it is remembered."""
        return {"runs": [[*kind, [[*run] for run in runs]] for kind, runs in self._runs.items()]}

    def recall(self, document: object) -> None:
        """Take up what was learnt here before; what is no such thing is left alone.

        Args:
            document: as `document` gave it, perhaps in another version of this program.
        """
        for kind, runs in _understood(document):
            known = self._runs.pop(kind, ())
            self._runs[kind] = deque([*runs, *known], maxlen=_LAST)

    def recall_elsewhere(self, documents: Iterable[object]) -> None:
        """Take up what other Studios have learnt; it counts where nothing was learnt here."""
        self._elsewhere = {
            kind: runs for document in documents for kind, runs in _understood(document)
        }


@asynccontextmanager
async def remembered_paces(
    store: JobStore,
    *,
    every: float = _REMEMBER_EVERY,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> AsyncIterator[Paces]:
    """What was learnt before; what is learnt until the context is left is remembered.

    Where the database is away, that is for the next time, and nobody need know.

    Args:
        store: where it is remembered, under the Studio's own name.
        every: seconds between two times.
        sleep: how to wait.
    """
    paces, kept = Paces(), 0

    async def look() -> None:
        documents = await store.database.read(_documents)
        if not paces.version:
            paces.recall(documents.pop(store.holder, None))
        paces.recall_elsewhere(each for name, each in documents.items() if name != store.holder)

    async def keep() -> None:
        nonlocal kept
        version = paces.version
        if version != kept:
            await store.remember(f"{_PACES}{store.holder}", paces.document())
            kept = version

    async def go_on() -> None:
        while True:
            await sleep(every)
            try:
                await keep()
                if store.database.is_shared:
                    await look()
            except DatabaseError as error:
                _log.warning("paces_not_kept", reason=str(error))

    with suppress(DatabaseError):
        await look()
    task = asyncio.create_task(go_on(), name="paces")
    try:
        yield paces
    finally:
        await cancel_and_wait(task)
        with suppress(DatabaseError):
            await keep()


def _documents(connection: sa.Connection) -> dict[str, object]:
    """What is remembered, by the name of the Studio that learnt it."""
    query = sa.select(state.c.name, state.c.value).where(state.c.name.startswith(_PACES))
    return {
        name.removeprefix(_PACES): json.loads(value) for name, value in connection.execute(query)
    }


def foretell(runs: Sequence[_Run] | deque[_Run], steps: int) -> float:
    """Seconds that a picture of so many steps takes, by what others of its kind took (pure).

    A line is laid through the runs by the median of the slopes between each two of them
    (Theil and Sen), which one slow run does not turn. Runs of one number of steps give no line;
    then each step is taken to cost the same, and nothing else to cost anything.
    """
    same = [seconds for made, seconds in runs if made == steps]
    slopes = [
        (later - sooner) / (more - fewer)
        for (fewer, sooner), (more, later) in combinations(runs, 2)
        if more != fewer
    ]
    per_step = median(seconds / max(1, made) for made, seconds in runs)
    if not slopes:
        return median(same) if same else per_step * max(1, steps)
    slope = max(0.0, median(slopes))
    fixed = median(seconds - slope * made for made, seconds in runs)
    return fixed + slope * steps if fixed >= 0 else per_step * steps


def _understood(document: object) -> Iterator[tuple[_Kind, list[_Run]]]:
    rows = document.get("runs") if isinstance(document, Mapping) else None
    for row in rows if isinstance(rows, list) else []:
        try:
            engine, model, width, height, runs = row
            kind = (str(engine), str(model), int(width), int(height))
            known = [(int(made), float(seconds)) for made, seconds in runs]
        except (TypeError, ValueError, OverflowError):
            continue
        if known and all(made >= 0 and 0 <= seconds < math.inf for made, seconds in known):
            yield kind, known
