"""The older wire's socket, `/ws`: serves the piece's first browser program, unmodified.

It asks for pictures itself. What it asks for is found among the show's actions by its recipe,
and the same ladder of providers serves it, at the recorded pace; the stage knows nothing of
it. One picture at a time for each client: another one cancels the one before.
"""

from __future__ import annotations

import asyncio
import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import structlog
from PIL import Image
from starlette.websockets import WebSocket, WebSocketDisconnect

from cache.model.images import on_black
from generator.plan import Action, Planned
from generator.programs import Program
from generator.recipe import Recipe
from server.access import Access, AccessDenied
from server.clock import Clock, timeout_at
from server.config.sections import PlaybackSection
from server.connections import identified
from server.older import messages as wire
from server.providers.base import Frame, Provider, ProviderError, Slot, Take
from server.sockets import (
    TRY_AGAIN_LATER,
    Abuse,
    Antechamber,
    InboundLimiter,
    close,
    refuse,
)
from server.timeline.playhead import Playhead

_log = structlog.get_logger(__name__)

MOST_CLIENTS = 64
"""Clients at once that have asked for something, and as many that have not."""

READS_WITHIN = 30.0
"""Seconds in which a client must have read what it was sent, or it is let go."""

_ALIKE = 0.0005
_QUALITY = 92
_RATE, _BURST = 20.0, 60.0


@dataclass(frozen=True, slots=True)
class Repertoire:
    """Finds the action that a request of the older wire means."""

    plan: Planned
    programs: Mapping[str, Program]
    base_images: Mapping[str, bytes]
    playhead: Playhead

    def find(self, ask: wire.Ask) -> Action:
        """The show's action of that recipe; a new one, with no sets, where it has none."""
        recipe = self._recipe(ask)
        of_program = [action for action in self.plan.actions if action.program == ask.program]
        for action in of_program:
            if action.fingerprint == recipe.fingerprint:
                return action
        for action in of_program:  # drawn with an override, or in a number of steps of its own
            same_text = " ".join(action.prompt.split()) == " ".join((ask.prompt or "").split())
            if ask.prompt is not None and same_text:
                return action
        return Action(
            action_id=f"wire_{recipe.fingerprint.removeprefix('sha256:')[:16]}",
            type="slider" if ask.prompt is None else "prompt",
            cue_index=-1,
            at=0.0,
            program=ask.program,
            prompt=ask.prompt or "",
            override=None,
            recipe=recipe,
        )

    def _recipe(self, ask: wire.Ask) -> Recipe:
        if ask.prompt is None and (last := self._last(ask.program, ask.strength)) is not None:
            # As a slider does: what the program drew last, with another strength.
            # (A copy would bring the fingerprint along that was worked out before.)
            return Recipe.model_validate({**last.recipe.model_dump(), "strength": ask.strength})
        return self.programs[ask.program].recipe(
            ask.prompt or "",
            strength=ask.strength,
            base_image=self.base_images.get(ask.program),
        )

    def _last(self, program: str, strength: float | None) -> Action | None:
        """The program's action that was on last, of that strength if there is one at all."""
        candidates = [action for action in self.plan.actions if action.program == program]
        alike = [
            action
            for action in candidates
            if strength is not None and abs((action.recipe.strength or 0) - strength) < _ALIKE
        ]
        candidates = alike or candidates
        past = [action for action in candidates if action.cue_index < self.playhead.cursor]
        return past[-1] if past else next(iter(candidates), None)


Ladder = Callable[[Action], Sequence[Provider]]
"""The providers for an action, in the order in which they are tried."""


class OlderSocket:
    """The endpoint.

    Args:
        repertoire: what can be asked for.
        ladder: the providers for an action, in the order they are tried.
        settings: their timeouts.
        clock: what frames are due by.
        access: who may; a client brings a screen's token as `/ws?token=…` where one is needed.
    """

    def __init__(
        self,
        repertoire: Repertoire,
        ladder: Ladder,
        settings: PlaybackSection,
        clock: Clock,
        access: Access,
    ) -> None:
        self._repertoire = repertoire
        self._ladder = ladder
        self._settings = settings
        self._clock = clock
        self._access = access
        self._clients = 0
        self._silent = Antechamber(MOST_CLIENTS)
        # One at a time: the threads are there for the show's own pictures.
        self._transcoding = asyncio.Semaphore(1)
        # Nor may a crowd that types keep an engine from the show: one drawing for all of it.
        self._drawing = asyncio.Semaphore(1)

    async def serve(self, websocket: WebSocket) -> None:
        """Serve one client until it goes."""
        try:
            self._access.check_origin(websocket)
            self._access.check_screen(websocket.query_params.get("token"))
        except AccessDenied as error:
            await refuse(websocket, error)
            return
        await websocket.accept()
        try:
            # Only asking costs us anything: who has asked for nothing yet may have to make room.
            async with asyncio.timeout(None) as stays:
                with ExitStack() as seat:
                    seat.enter_context(self._silent.wait(stays))
                    await self._attend(websocket, seat)
        except WebSocketDisconnect:
            return
        except (Abuse, TimeoutError):
            reason = "too many messages, too many clients, or it does not read"
            _log.warning("older_client_closed", reason=reason)
            await close(websocket, TRY_AGAIN_LATER)

    @contextmanager
    def _asks(self) -> Iterator[None]:
        """Be one of those who have asked for something.

        Raises:
            Abuse: there are too many already.
        """
        if self._clients >= MOST_CLIENTS:
            raise Abuse
        self._clients += 1
        try:
            yield
        finally:
            self._clients -= 1

    async def _attend(self, websocket: WebSocket, seat: ExitStack) -> None:
        has_asked = False
        patience = InboundLimiter(self._clock, _RATE, _BURST)
        drawing: asyncio.Task[None] | None = None
        await self._say(websocket, wire.READY)
        listening = asyncio.ensure_future(websocket.receive())
        try:
            while True:
                waiting = {listening} if drawing is None else {listening, drawing}
                await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                if drawing is not None and drawing.done():
                    drawing.result()  # a client that does not read is found here
                    drawing = None
                if not listening.done():
                    continue
                asked = self._asked(listening.result(), patience)
                listening = asyncio.ensure_future(websocket.receive())
                match asked:
                    case wire.Ping():
                        await self._say(websocket, wire.PONG)
                    case wire.Unknown():
                        await self._say(websocket, asked.answer)
                    case wire.Ask():
                        if not has_asked:
                            has_asked = True
                            seat.close()
                            seat.enter_context(self._asks())
                            identified(websocket)
                        await _ended(drawing)
                        drawing = asyncio.create_task(
                            self._draw(websocket, asked), name=f"older wire {asked.program}"
                        )
        finally:
            listening.cancel()
            await _ended(drawing)

    def _asked(
        self, event: Mapping[str, Any], patience: InboundLimiter
    ) -> wire.Ask | wire.Ping | wire.Unknown:
        if event["type"] == "websocket.disconnect":
            raise WebSocketDisconnect(event.get("code", 1005))
        if not patience.message():
            raise Abuse
        text = event.get("text")
        if text is None:
            return wire.Unknown("(binary)")
        return wire.parse(text, self._repertoire.programs)

    async def _draw(self, websocket: WebSocket, ask: wire.Ask) -> None:
        """Serve one picture; where there is none to be had, the client keeps what it has."""
        action = self._repertoire.find(ask)
        for provider in self._ladder(action):
            try:
                await self._draw_with(provider, action, websocket, ask.program)
            except ProviderError as error:
                _log.warning("older_wire", action_id=action.action_id, reason=str(error))
            else:
                break
        await self._say(websocket, wire.DONE)

    async def _draw_with(
        self, provider: Provider, action: Action, websocket: WebSocket, program: str
    ) -> None:
        start, patience = self._clock.now(), self._settings.first_frame_timeout
        seconds = patience.static if provider.name == "static" else patience.live
        async with AsyncExitStack() as stack:
            try:
                async with timeout_at(self._clock, start + self._clock.stretch(seconds)):
                    if provider.name == "live":
                        await stack.enter_async_context(self._drawing)
                    take = await stack.enter_async_context(provider.open(action, Slot(start)))
                    frame = await _next_frame(take)
            except TimeoutError:
                raise ProviderError("no frame in time") from None
            while True:
                await self._clock.sleep_until(frame.due)
                await self._send(websocket, frame, program)
                if frame.final:
                    return
                try:
                    gap = self._clock.stretch(self._settings.frame_gap_timeout)
                    async with timeout_at(self._clock, max(self._clock.now(), frame.due) + gap):
                        frame = await _next_frame(take)
                except (ProviderError, TimeoutError) as error:
                    # It has begun: another picture in its place would be no help to anybody.
                    _log.warning("older_wire", action_id=action.action_id, reason=str(error))
                    return

    async def _send(self, websocket: WebSocket, frame: Frame, program: str) -> None:
        if not frame.final:
            await self._say(websocket, wire.step_line(frame.step, frame.steps))
            if program in wire.WITHOUT_PREVIEWS:
                return
        image = frame.image
        if frame.media_type != "image/jpeg":
            async with self._transcoding:
                image = await asyncio.to_thread(as_jpeg, image)
        async with asyncio.timeout(READS_WITHIN):
            await websocket.send_bytes(image)

    async def _say(self, websocket: WebSocket, text: str) -> None:
        async with asyncio.timeout(READS_WITHIN):
            await websocket.send_text(text.encode(errors="replace").decode())


def as_jpeg(image: bytes) -> bytes:
    """A picture of another kind as the JPEG that this wire knows."""
    buffer = io.BytesIO()
    with Image.open(io.BytesIO(image)) as opened:
        on_black(opened).save(buffer, "JPEG", quality=_QUALITY)
    return buffer.getvalue()


async def _next_frame(take: Take) -> Frame:
    try:
        return await anext(take.frames)
    except StopAsyncIteration:
        raise ProviderError("it ended without a final image") from None


async def _ended(task: asyncio.Task[None] | None) -> None:
    if task is not None:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
