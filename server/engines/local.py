"""The local GPU: an engine in a supervised child process, so that nothing there touches the show.

The child is started, warmed up with the show's own recipes before it is used, asked for
proof between drawings, replaced before it grows old, killed when it hangs, and started again
when it dies. While it is not ready, `render` says so at once and the ladder goes on.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine, Sequence
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import dataclass
from typing import Any, Literal, Self, TypeVar

import structlog

from cache.tasks import being_cancelled, cancel_and_wait, first_of
from generator.engines.port import (
    EngineError,
    EngineOccupied,
    EnginePreempted,
    EngineStarting,
    EngineUnavailable,
    RecipeRefused,
    StepImage,
    Timing,
    draw_for_nobody,
    render_proof,
)
from generator.sheet.recipe import PipelineKind, Recipe
from server.core.child_process import ChildFailed
from server.core.clock import Clock, timeout_at
from server.engines.child import Child, StartChild
from server.engines.supervision import (
    Kill,
    Life,
    Prove,
    Recycle,
    Supervision,
    Wait,
    next_move,
    pause_after,
)

_log = structlog.get_logger(__name__)

State = Literal["starting", "warming", "ready", "drawing", "restarting", "rested", "stopped"]
"""Where a local engine is.

``starting``: its process is. ``warming``: it loads its models and draws for practice.
``ready`` and ``drawing``: it can be used. ``restarting``: it failed and is about to be
started again. ``rested``: it failed too often and is left alone for long. ``stopped``: the
show is over, or has not begun.
"""

_ON_ITS_WAY = frozenset({"starting", "warming"})
_WARM_UP_STEPS = 2
_RESTS_AT_LEAST = 5.0
"""Seconds before another child, where not even the pause could be found out."""

_LAST_BREATH = 0.25
"""Seconds between a child's line breaking and the system telling that it has ended."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class LocalStatus:
    """What a technician wants to know of a local engine.

    Attributes:
        state: where it is.
        reason: why, in words; empty where the state says it all.
        pid: of its process, None while there is none.
        restarts: how often it was started again because it had failed.
        since: steady time since when it has been there.
        runs: drawings that this process has begun.
        memory: bytes that its process has; None while there is none, or nobody can tell.
        ready_in: seconds until it should be ready, where it is on its way and has been before.
    """

    state: State
    reason: str
    pid: int | None
    restarts: int
    since: float
    runs: int
    memory: int | None
    ready_in: float | None = None


def warm_up_recipes(recipes: Sequence[Recipe]) -> tuple[Recipe, ...]:
    """A short drawing for each model, size and adapter among `recipes`.

    The first recipe's comes last: what was drawn last is what a GPU with little memory has
    still loaded when the show begins.
    """
    found: dict[object, Recipe] = {}
    for recipe in recipes:
        image_to_image = recipe.kind is PipelineKind.IMAGE_TO_IMAGE
        changes: dict[str, Any] = {"steps": _WARM_UP_STEPS, "seed": 0}
        if image_to_image:
            changes["strength"] = 1.0  # less would leave no step
        sort = (recipe.kind, recipe.model, recipe.width, recipe.height, recipe.loras)
        short = Recipe.model_validate(recipe.model_dump() | changes)
        found.setdefault((*sort, recipe.scheduler), short)
    return tuple(reversed(found.values()))


class LocalEngine:
    """An engine in a child process, supervised while the context lasts.

    Entering it returns at once; the child opens when it is ready.

    Args:
        name: what it is called in `[[engines]]`.
        start: starts its child.
        warm_up: what it draws before it opens; the last of them is also what proves it later.
        clock: what all times are told by.
        policy: what it is held to.

    Attributes:
        name: what draws, with its version; before it first opened, what it is called.
        timing: how the durations of its last drawing came about.
    """

    def __init__(
        self,
        name: str,
        start: StartChild,
        *,
        warm_up: Sequence[Recipe],
        clock: Clock,
        policy: Supervision | None = None,
    ) -> None:
        self._title = name
        self._start = start
        self._warm_up = warm_up
        self._proof: Recipe | None = None
        self._clock = clock
        self._policy = policy or Supervision()
        self.name = f"{name}, not yet opened"
        self.timing: Timing = "measured"
        self._state: State = "stopped"
        self._reason, self._since = "", clock.now()
        self._begun: float | None = None
        self._took: float | None = None
        self._restarts = 0
        self._failures: list[float] = []
        self._process: Child | None = None  # from its start
        self._child: Child | None = None  # once it is open
        self._life: Life | None = None
        self._proving: asyncio.Task[None] | None = None
        self._supervising: asyncio.Task[None] | None = None
        self._drawing_changed = asyncio.Event()
        self._state_changed = asyncio.Event()
        self._wanted_at_once = asyncio.Event()

    # ------------------------------------------------------------ as an engine

    @asynccontextmanager
    async def render(self, recipe: Recipe) -> AsyncIterator[AsyncIterator[StepImage]]:
        """Draw `recipe` in the child.

        Raises:
            EngineStarting: it is on its way.
            EngineUnavailable: it is not ready, with the reason; or its process was lost.
            EnginePreempted: it was taken for the show.
            RecipeRefused: it cannot draw this.
            DrawingFailed: it broke off.
        """
        child, life = self._usable()
        if self._proving is not None:
            self._proving.cancel()  # the show goes first
        async with aclosing(self._drawn(child, life, recipe)) as images:
            yield images

    @asynccontextmanager
    async def render_proof(self, recipe: Recipe) -> AsyncIterator[AsyncIterator[StepImage]]:
        """See `SharedEngine.render_proof`; raises as `render`, too."""
        child, life = self._usable()
        async with aclosing(self._drawn(child, life, recipe, proof=True)) as images:
            yield images

    def _usable(self) -> tuple[Child, Life]:
        child, life = self._child, self._life
        if child is None or life is None:
            reason = f": {self._reason}" if self._reason else ""
            kind = EngineStarting if self._state in _ON_ITS_WAY else EngineUnavailable
            raise kind(f"{self._title} is {self._state}{reason}")
        if life.lost is not None:
            raise EngineUnavailable(f"{self._title} is lost: {life.lost}")
        return child, life

    # ------------------------------------------------------------ for technicians

    def status(self) -> LocalStatus:
        """How it is."""
        child, life = self._process, self._life
        state = self._state
        if state == "ready" and life is not None and life.drawing and self._proving is None:
            state = "drawing"
        return LocalStatus(
            state=state,
            reason=self._reason,
            pid=child.pid if child else None,
            restarts=self._restarts,
            since=self._since,
            runs=life.runs if life else 0,
            memory=child.memory() if child else None,
            ready_in=self._ready_in(),
        )

    def _ready_in(self) -> float | None:
        """Judged by how long it took before."""
        if self._state not in _ON_ITS_WAY or self._took is None or self._begun is None:
            return None
        return max(0.0, self._begun + self._took - self._clock.now())

    def reset(self) -> None:
        """Forget that it failed; where it waits to be started again, that is now."""
        self._failures.clear()
        self._wanted_at_once.set()

    async def until(self, *states: State) -> LocalStatus:
        """Wait until it is in one of `states`; that it draws is part of being ``ready``."""
        while self._state not in states:
            await self._state_changed.wait()
        return self.status()

    # ------------------------------------------------------------ its process

    async def __aenter__(self) -> Self:
        self._become("starting")
        self._supervising = asyncio.create_task(self._supervise(), name=f"engine {self._title}")
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        if self._supervising is not None:
            await cancel_and_wait(self._supervising)
        self._become("stopped")

    async def _supervise(self) -> None:
        """One child after another, for as long as the show lasts."""
        while True:
            try:
                await self._one_child()
            except asyncio.CancelledError:
                if being_cancelled():
                    raise
                await self._supervision_failed("something of ours was cancelled")
            except Exception as error:  # noqa: BLE001 - a fault of ours must not cost the show its GPU
                await self._supervision_failed(f"{type(error).__name__}: {error}")

    async def _one_child(self) -> None:
        try:
            reason = await self._live()
        except ChildFailed as error:
            await self._recover(str(error))
        else:
            _log.info("engine_replaced", engine=self._title, reason=reason)
            self._become("starting", f"replaced: {reason}")

    async def _supervision_failed(self, reason: str) -> None:
        """A mistake of ours: recover as from a child that failed, and where that fails, rest."""
        _log.exception("engine_supervision_failed", engine=self._title)
        try:
            await self._recover(reason)
        except Exception:  # noqa: BLE001 - without a rest it would go round and round
            _log.exception("engine_supervision_failed", engine=self._title)
            self._become("restarting", reason)
            await asyncio.sleep(_RESTS_AT_LEAST)

    async def _recover(self, reason: str) -> None:
        """Wait as long as the failures so far call for."""
        now, policy = self._clock.now(), self._policy.restarts
        self._failures = [*(at for at in self._failures if now - at < policy.within), now]
        pause = pause_after(self._failures, now, policy)
        if pause.rest:
            failures = len(self._failures)
            _log.error(
                "engine_rested",
                engine=self._title,
                reason=reason,
                failures=failures,
                pause=pause.seconds,
            )
            self._become("rested", f"it failed {failures} times, at last: {reason}")
        else:
            _log.warning("engine_lost", engine=self._title, reason=reason, pause=pause.seconds)
            self._become("restarting", reason)
        self._wanted_at_once.clear()
        await first_of(self._clock.sleep_until(now + pause.seconds), self._wanted_at_once.wait())
        self._restarts += 1
        self._become("starting", reason)

    async def _live(self) -> str:
        """A child's whole life; why it was replaced.

        Raises:
            ChildFailed: it could not be started, died, or had to be killed.
        """
        begun = self._begun = self._clock.now()
        async with AsyncExitStack() as stack:
            try:
                async with timeout_at(self._clock, begun + self._policy.start_within):
                    child = await stack.enter_async_context(self._start())
                    self._process = child
                    stack.callback(self._forget)
                    ended = await stack.enter_async_context(_task(child.ended()))
                    self._become("warming", self._reason)
                    await self._warm(child, ended)
            except TimeoutError:
                within = f"{self._policy.start_within:g} s"
                raise ChildFailed(f"it was not ready within {within}") from None
            self.name, self.timing = child.engine.name, child.engine.timing
            memory = child.memory()
            life = Life(self._clock.now(), had=memory, now_has=memory)
            self._took = self._clock.now() - begun
            took = round(self._took, 1)
            _log.info("engine_ready", engine=self._title, pid=child.pid, seconds=took)
            self._child, self._life = child, life
            self._become("ready")
            try:
                return await self._look_after(child, life, ended)
            finally:
                self._child = self._life = None  # at once: nobody may begin a drawing now

    def _forget(self) -> None:
        self._process = None

    async def _warm(self, child: Child, ended: asyncio.Task[str]) -> None:
        """Draw everything in short, so that the show's first pictures are like the others."""
        refused = ""
        self._proof = None
        for recipe in self._warm_up:
            try:
                await draw_for_nobody(child.engine, recipe)
            except RecipeRefused as error:
                # One program that cannot be drawn here is no reason to lose the others.
                refused = str(error)
                _log.warning("engine_refuses", engine=self._title, reason=refused)
            except EnginePreempted:
                self._proof = recipe  # it draws for the show, which is what it warms up for
            except EngineError as error:
                raise await self._failure(ended, f"it cannot draw: {error}") from error
            else:
                self._proof = recipe
        if self._warm_up and self._proof is None:
            raise ChildFailed(f"it refuses all that the show draws: {refused}")

    async def _look_after(self, child: Child, life: Life, ended: asyncio.Task[str]) -> str:
        """Watch over a child that is open; why it is to be replaced.

        Raises:
            ChildFailed: it died, or had to be killed.
        """
        while True:
            self._drawing_changed.clear()
            life.now_has = child.memory()
            if ended.done():
                raise ChildFailed(ended.result())
            match next_move(life, self._clock.now(), self._policy):
                case Wait(until):
                    sleep = self._clock.sleep_until(until)
                    await first_of(sleep, self._drawing_changed.wait(), asyncio.wait([ended]))
                case Prove():
                    await self._prove(child, life, ended)
                case Recycle(reason):
                    return reason
                case Kill(reason):
                    life.lost = reason
                    failure = await self._failure(ended, reason)
                    child.kill()
                    raise failure

    async def _failure(self, ended: asyncio.Task[str], reason: str) -> ChildFailed:
        """Why a child is lost: how it ended, if it did, for its line breaks a moment before."""
        at_last = self._clock.now() + _LAST_BREATH
        await first_of(asyncio.wait([ended]), self._clock.sleep_until(at_last))
        return ChildFailed(ended.result() if ended.done() else reason)

    async def _prove(self, child: Child, life: Life, ended: asyncio.Task[str]) -> None:
        """Have it draw something small, unless the show wants it meanwhile."""
        now = self._clock.now()
        if self._proof is None:  # a show that draws nothing
            life.gives(now)
            return
        due = (now if life.owes_since is None else life.owes_since) + self._policy.hang_after
        async with _task(self._proven(child, life, self._proof)) as proving:
            self._proving = proving
            try:
                either = asyncio.wait([proving, ended], return_when=asyncio.FIRST_COMPLETED)
                await first_of(either, self._clock.sleep_until(due))
            finally:
                self._proving = None
            if not proving.done() and not ended.done():
                life.lost = f"it hangs: no proof within {self._policy.hang_after:g} s"

    async def _proven(self, child: Child, life: Life, recipe: Recipe) -> None:
        finished = False
        try:
            async with aclosing(self._drawn(child, life, recipe, proof=True)) as images:
                async for image in images:
                    finished = image.final
        except (EnginePreempted, EngineOccupied):
            pass  # it draws, and is asked again if no picture of that comes
        except EngineError as error:
            life.lost = f"it cannot draw: {error}"
        else:
            life.lost = None if finished else "it cannot draw: it ended without a final image"

    async def _drawn(
        self, child: Child, life: Life, recipe: Recipe, *, proof: bool = False
    ) -> AsyncGenerator[StepImage, None]:
        """A drawing of the child's, and what it proves of it."""
        life.begins(self._clock.now(), proof=proof)
        self._drawing_changed.set()
        well = False
        engine = child.engine
        try:
            drawing = render_proof(engine, recipe) if proof else engine.render(recipe)
            async with drawing as images:
                async for image in images:
                    life.gives(self._clock.now())
                    well = image.final
                    yield image
            self.name, self.timing = child.engine.name, child.engine.timing
        except RecipeRefused:
            well = True  # it answered
            raise
        except (EnginePreempted, EngineOccupied):
            life.excused()
            raise
        except EngineUnavailable as error:
            life.lost = str(error)
            raise EngineUnavailable(f"{self._title} was lost: {error}") from error
        finally:
            life.left(self._clock.now(), well=well)
            self._drawing_changed.set()

    def _become(self, state: State, reason: str = "") -> None:
        if state != self._state:
            self._since = self._clock.now()
        self._state, self._reason = state, reason
        changed, self._state_changed = self._state_changed, asyncio.Event()
        changed.set()


@asynccontextmanager
async def _task(work: Coroutine[Any, Any, T]) -> AsyncIterator[asyncio.Task[T]]:
    """Run `work` beside the body, and not beyond it; whoever wants its outcome asks for it."""
    task = asyncio.create_task(work)
    try:
        yield task
    finally:
        await cancel_and_wait(task)
