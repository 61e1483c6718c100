"""Harvesting: what was drawn live, and came to its end, is kept beside the playing.

A tee lets an engine's images pass as they come and remembers them; a run that is whole is
handed to a writer of its own. The show neither waits for the store nor hears of its troubles:
whatever cannot be kept soon enough is dropped, and the log says so.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import KW_ONLY, dataclass, field, replace
from datetime import datetime
from functools import partial
from typing import Final, Self

import structlog

from cache.model.documents import FormatError
from cache.stores.port import Store, StoreError
from cache.tasks import being_cancelled, cancel_and_wait
from generator.engines.observed import Look, ObservedEngine
from generator.engines.port import Engine, EngineError, StepImage
from generator.sets import quarantine
from generator.sets.recorder import latency_of, now_in_seconds
from generator.sheet.plan import Action
from generator.sheet.recipe import Recipe

_log = structlog.get_logger(__name__)

RUN_BYTES: Final = 64 * 2**20
"""Bytes that the images of one run may have."""

RUNS_WAITING: Final = 2
"""Runs that may wait for the store; more than that are dropped."""

KEEP_WITHIN: Final = 60.0
"""Seconds that keeping one run may take."""

MOST_PER_ACTION: Final = 20
"""Runs of an action that wait for approval; a show that nobody looks after fills no disk."""


@dataclass(frozen=True, slots=True)
class _HarvestedRun:
    """A whole run, and what drew it."""

    action: Action
    recipe: Recipe
    images: Sequence[StepImage]
    engine: Engine


@dataclass(eq=False)
class Harvester:
    """Keeps whole runs in quarantine for as long as its context lasts.

    Args:
        store: where; entered and left by its owner.
        actions: what is kept: runs of their recipes, asked for anew for each run, as ids may
            change. Where two actions share a recipe, it is the first one's.
        now: the time of day, for metas.
        run_bytes: bytes that the images of one run may have.
        keep_within: seconds that keeping one may take.
        most: how many runs of an action may wait for approval.
    """

    store: Store
    actions: Callable[[], Iterable[Action]]
    _: KW_ONLY
    now: Callable[[], datetime] = now_in_seconds
    run_bytes: int = RUN_BYTES
    keep_within: float = KEEP_WITHIN
    most: int = MOST_PER_ACTION

    def __post_init__(self) -> None:
        self._waiting: asyncio.Queue[_HarvestedRun] = asyncio.Queue(RUNS_WAITING)
        self._writer: asyncio.Task[None] | None = None
        self._counts: Counter[str] = Counter()

    async def __aenter__(self) -> Self:
        self._writer = asyncio.create_task(self._write(), name="harvester")
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        if self._writer is not None:
            await cancel_and_wait(self._writer)

    def tee(self, engine: Engine) -> Engine:
        """`engine`, with what it draws for the show kept as well."""
        return ObservedEngine(engine, partial(self._observe, engine))

    @contextmanager
    def _observe(self, engine: Engine, recipe: Recipe) -> Iterator[Look]:
        """See a run pass, and keep it if it was whole."""
        passed = _Passed(self.run_bytes, time.monotonic())
        try:
            yield passed.look
        finally:
            # Also where the next cue cut it: after its final image it was whole.
            if passed.whole:
                self.offer(recipe, passed.images, engine)

    def offer(self, recipe: Recipe, images: Sequence[StepImage], engine: Engine) -> None:
        """Keep a whole run, if there is room for it; returns at once."""
        wanted = recipe.fingerprint
        action = next((each for each in self.actions() if each.fingerprint == wanted), None)
        if action is None:
            return  # a probe, or a recipe of somebody else's
        try:
            self._waiting.put_nowait(_HarvestedRun(action, recipe, images, engine))
        except asyncio.QueueFull:
            _dropped(action, "the store is too slow")

    async def settled(self) -> None:
        """Wait until all that was offered is kept or dropped."""
        await self._waiting.join()

    async def _write(self) -> None:
        while True:
            run = await self._waiting.get()
            try:
                async with asyncio.timeout(self.keep_within):
                    await self._keep(run)
            except TimeoutError:
                _dropped(run.action, f"the store took more than {self.keep_within:g} s")
            except (EngineError, StoreError, FormatError) as error:
                _dropped(run.action, str(error))
            except asyncio.CancelledError:
                if being_cancelled():
                    raise
                _log.exception("harvest_failed", action=run.action.action_id)
            except Exception:  # noqa: BLE001 - the next run may be kept all the same
                _log.exception("harvest_failed", action=run.action.action_id)
            finally:
                self._waiting.task_done()

    async def _keep(self, run: _HarvestedRun) -> None:
        action_id = run.action.action_id
        if self._counts[action_id] == 0 or self._counts[action_id] >= self.most:
            # Counted anew only here: somebody may have approved of some.
            self._counts[action_id] = await quarantine.count(self.store, action_id)
        if self._counts[action_id] >= self.most:
            _dropped(run.action, f"{self.most} runs wait for approval already")
            return
        token = await quarantine.keep(
            self.store,
            run.action,
            run.recipe,
            run.images,
            engine=run.engine,
            now=self.now(),
        )
        self._counts[action_id] += 1
        _log.info("harvested", run=f"{action_id}/{token}", images=len(run.images))


def _dropped(action: Action, reason: str) -> None:
    _log.warning("harvest_dropped", action=action.action_id, reason=reason)


@dataclass
class _Passed:
    """What has passed of a run; nothing more is remembered of one of more bytes than are left.

    Attributes:
        left: bytes that its images may still have.
        asked: steady seconds at which it was asked for.
    """

    left: int
    asked: float
    images: list[StepImage] = field(default_factory=list)
    whole: bool = False

    def look(self, image: StepImage) -> None:
        """Remember an image in passing."""
        self.left -= len(image.image)
        if self.left < 0:
            self.images.clear()
            self.whole = False
            return
        if image.step == 1:  # from its images alone nobody could tell any more
            elapsed = time.monotonic() - self.asked
            image = replace(image, latency=latency_of(image, elapsed))
        self.images.append(image)
        self.whole = image.final
