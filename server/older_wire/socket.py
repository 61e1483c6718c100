"""The older wire's socket, `/ws`: serves the piece's first browser program, unmodified.

It asks for pictures itself. What it asks for is found among the show's actions by its recipe,
and the same ladder of providers serves it, at the recorded pace; the stage knows nothing of
it. One picture at a time for each client: another one cancels the one before.
"""

from __future__ import annotations

import asyncio
import io
from collections.abc import Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial

import structlog
from PIL import Image
from starlette.websockets import WebSocket

from cache.model.images import on_black
from cache.tasks import cancel_and_wait
from generator.sheet.plan import Action, Plan
from generator.sheet.programs import Program
from generator.sheet.recipe import Recipe
from server.config.show import Show
from server.core.clock import Clock, timeout_at
from server.core.random_streams import RandomStreams, new_seed
from server.network.access import Access
from server.network.connections import identified
from server.older_wire import messages as wire
from server.providers.base import Frame, FrameStream, Provider, ProviderError, Slot
from server.providers.shuffle import ShuffleBag
from server.providers.static import StaticProvider
from server.runtime import Runtime
from server.sockets.connection import (
    TRY_AGAIN_LATER,
    InboundLimiter,
    PendingHandshakes,
    SocketConnection,
    TooManyMessages,
)
from server.supply.sources import Supply
from server.timeline.playhead import Playhead

_log = structlog.get_logger(__name__)

MOST_CLIENTS = 64
"""Clients at once that have asked for something, and as many that have not."""

_ALIKE = 0.0005
_QUALITY = 92
_RATE, _BURST = 20.0, 60.0


@dataclass(frozen=True, slots=True)
class Repertoire:
    """Finds the action that a request of the older wire means."""

    plan: Plan
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


class OlderWireSocket:
    """The endpoint; where screens need a token, a client brings it as `/ws?token=…`."""

    def __init__(
        self, show: Show, runtime: Runtime, supply: Supply, clock: Clock, access: Access
    ) -> None:
        self._repertoire = Repertoire(
            runtime.plan, show.programs, show.base_images, runtime.playhead
        )
        self._settings = show.settings.playback
        self._modes = runtime.modes
        # Out of a bag of its own: who plays with this wire must not turn the show's round.
        streams = RandomStreams(new_seed())
        self._sets = StaticProvider(
            supply.library,
            ShuffleBag(streams),
            clock,
            streams,
            self._settings.fit,
            availability=supply.availability,
        )
        self._clock = clock
        self._access = access
        self._clients = 0
        # Only asking costs us anything: who has asked for nothing yet may have to make room.
        self._silent = PendingHandshakes(MOST_CLIENTS)
        # One at a time: the threads are there for the show's own pictures.
        self._transcoding = asyncio.Semaphore(1)
        # Nor may a crowd that types keep an engine from the show: one drawing for all of it.
        self._drawing = asyncio.Semaphore(1)

    async def serve(self, websocket: WebSocket) -> None:
        """Serve one client until it goes."""
        connection = SocketConnection(websocket, InboundLimiter(self._clock, _RATE, _BURST))
        await connection.serve(partial(self._check, websocket), partial(self._attend, connection))

    def _check(self, websocket: WebSocket) -> None:
        self._access.check_origin(websocket)
        self._access.check_screen(websocket.query_params.get("token"))

    async def _attend(self, connection: SocketConnection) -> int:
        try:
            async with self._silent.wait(None):
                await connection.send(wire.READY)
                ask = await self._next_ask(connection)
            if self._clients < MOST_CLIENTS:
                identified(connection.websocket)
                self._clients += 1
                try:
                    while True:
                        ask = await self._draw_until_next(connection, ask)
                finally:
                    self._clients -= 1
        except (TooManyMessages, TimeoutError):
            pass
        reason = "too many messages, too many clients, or it does not read"
        _log.warning("older_client_closed", reason=reason)
        return TRY_AGAIN_LATER

    async def _next_ask(self, connection: SocketConnection) -> wire.Ask:
        """Answer what it says, until it asks for a picture."""
        while True:
            text = await connection.receive_text()
            said = (
                wire.Unknown("(binary)")
                if text is None
                else wire.parse(text, self._repertoire.programs)
            )
            match said:
                case wire.Ask():
                    return said
                case wire.Ping():
                    await connection.send(wire.PONG)
                case wire.Unknown():
                    await connection.send(said.answer)

    async def _draw_until_next(self, connection: SocketConnection, ask: wire.Ask) -> wire.Ask:
        """Draw a picture, or as much of it as there is time for; what is asked for next."""
        listening = asyncio.create_task(self._next_ask(connection))
        drawing = asyncio.create_task(self._draw(connection, ask), name=f"older wire {ask.program}")
        try:
            await asyncio.wait((listening, drawing), return_when=asyncio.FIRST_COMPLETED)
            if drawing.done():
                drawing.result()  # a client that does not read is found here
            return await listening
        finally:
            await cancel_and_wait(listening, drawing)

    async def _draw(self, connection: SocketConnection, ask: wire.Ask) -> None:
        """Serve one picture; where there is none to be had, the client keeps what it has."""
        action = self._repertoire.find(ask)
        for rung in self._modes.decide(action).rungs:
            provider = self._sets if rung.engine is None else self._modes.provider(rung)
            try:
                await self._draw_with(provider, action, connection, ask.program)
            except ProviderError as error:
                _log.warning("older_wire", action_id=action.action_id, reason=str(error))
            else:
                break
        await connection.send(wire.DONE)

    async def _draw_with(
        self, provider: Provider, action: Action, connection: SocketConnection, program: str
    ) -> None:
        start, timeouts = self._clock.now(), self._settings.first_frame_timeout
        seconds = timeouts.static if provider.name == "static" else timeouts.live
        async with AsyncExitStack() as stack:
            try:
                async with timeout_at(self._clock, start + self._clock.stretch(seconds)):
                    if provider.name == "live":
                        await stack.enter_async_context(self._drawing)
                    stream = await stack.enter_async_context(provider.open(action, Slot(start)))
                    frame = await _next_frame(stream)
            except TimeoutError:
                raise ProviderError("no frame in time") from None
            while True:
                await self._clock.sleep_until(frame.due)
                await self._send(connection, frame, program)
                if frame.final:
                    return
                try:
                    gap = self._clock.stretch(self._settings.frame_gap_timeout)
                    async with timeout_at(self._clock, max(self._clock.now(), frame.due) + gap):
                        frame = await _next_frame(stream)
                except (ProviderError, TimeoutError) as error:
                    # It has begun: another picture in its place would be no help to anybody.
                    _log.warning("older_wire", action_id=action.action_id, reason=str(error))
                    return

    async def _send(self, connection: SocketConnection, frame: Frame, program: str) -> None:
        if not frame.final:
            await connection.send(wire.step_line(frame.step, frame.steps))
            if program in wire.WITHOUT_PREVIEWS:
                return
        image = frame.image
        if frame.media_type != "image/jpeg":
            async with self._transcoding:
                image = await asyncio.to_thread(as_jpeg, image)
        await connection.send(image)


def as_jpeg(image: bytes) -> bytes:
    """A picture of another kind as the JPEG that this wire knows."""
    buffer = io.BytesIO()
    with Image.open(io.BytesIO(image)) as opened:
        on_black(opened).save(buffer, "JPEG", quality=_QUALITY)
    return buffer.getvalue()


async def _next_frame(stream: FrameStream) -> Frame:
    try:
        return await anext(stream.frames)
    except StopAsyncIteration:
        raise ProviderError("it ended without a final image") from None
