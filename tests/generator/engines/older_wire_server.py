"""A program that speaks the older wire, as the piece's own GPU programs do, over real sockets.

What it does is read off their sources (heypoom/archival-intelligences: `api/server.py`,
`api/utils/ws.py`, `api/utils/pipeline_manager.py`, `serverless/live/*.py`,
`exhibition_with_realtime_noise.py`), not off our description of them, which was wrong once.
This one is `api/server.py` at its last commit: nothing on connect; ``ready`` after a command; per
step ``p:s=<from 0>:t=<a tensor's number, in full precision>`` and, but for P0, a binary preview;
the final image; ``done``; ``unknown command: …``. `DIALECTS` has what the others send.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.exceptions import ConnectionClosed

from generator.engines.port import StepImage
from generator.engines.sketch.engine import SketchEngine
from generator.sheet.recipe import Recipe
from tests.cache.samples import picture
from tests.contracts.engine_contract import base_image, from_base, recipe

KNOWN = ("P0:", "P2:", "P2B:", "P3", "P3B:", "P4:")


PREVIEW, OTHER, FINAL = (picture("jpg", seed) for seed in range(3))
FINAL_PNG = picture("png", 3)

_STEPS: list[str | bytes | None] = [
    "p:s=0:t=999.0",
    PREVIEW,
    "p:s=1:t=964.2857055664062",
    OTHER,
]
_RECEIVED = "Received prompt: 'P2:0.40'. Starting generation (Run ID: 1732540000)..."

DIALECTS: dict[str, tuple[str | None, str, list[str | bytes | None], list[bytes]]] = {
    "api/server.py": (None, "P4:x", ["ready", *_STEPS, FINAL, "done"], [PREVIEW, OTHER, FINAL]),
    "api/server.py, P0": (
        None,
        "P0:x",
        ["ready", "p:s=0:t=999.0", "p:s=1:t=964.2857055664062", FINAL, "done"],
        [FINAL],
    ),
    # `return_image` yields no None, so that nobody says done
    "api/server.py as it was, P0": (None, "P0:x", ["ready", FINAL], [FINAL]),
    # `while not task.done()` may leave the None in the queue
    "api/server.py as it was": (None, "P4:x", ["ready", *_STEPS, FINAL], [PREVIEW, OTHER, FINAL]),
    "live_text_to_image.py": (
        "pong",
        "P4:x",
        [*_STEPS, FINAL_PNG, "done"],
        [PREVIEW, OTHER, FINAL_PNG],
    ),
    "live_text_to_image.py, P0": ("pong", "P0:x", [FINAL_PNG, "done"], [FINAL_PNG]),
    "live_image_to_image.py": (
        "websocket connected!",
        "P2:0.40",
        [_RECEIVED, *_STEPS, "preview generation finished.", FINAL_PNG, "done"],
        [PREVIEW, OTHER, FINAL_PNG],
    ),
    # its listener runs only once the blocking call.get() has returned
    "live_image_to_image.py, previews last": (
        "websocket connected!",
        "P2:0.40",
        [_RECEIVED, FINAL_PNG, *_STEPS, "done", "preview generation finished."],
        [FINAL_PNG],
    ),
    "exhibition_with_realtime_noise.py": (
        "websocket connected!",
        "P4:x",
        [_RECEIVED, "preview count: 1", "preview generation finished.", "done", FINAL],
        [FINAL],
    ),
    "websocket_adapter.py": (
        None,
        "P4:x",
        ["p:s=0:t=999", PREVIEW, "p:s=1:t=964", OTHER, FINAL_PNG, "done"],
        [PREVIEW, OTHER, FINAL_PNG],
    ),
    # a batch of two: the first is the picture
    "live_text_to_image.py, two pictures": (
        "pong",
        "P4:x",
        [*_STEPS, FINAL_PNG, OTHER, "done"],
        [PREVIEW, OTHER, FINAL_PNG],
    ),
}
"""What each of the piece's programs sends: on connect, asked what, thereupon; and the images."""


@dataclass
class OlderProgram:
    """What it is asked, and how it misbehaves.

    Attributes:
        steps: how many it draws of a text; of a picture, as many as the strength leaves.
        script: sent instead of a drawing, message by message; None among them hangs up.
        greeting: what it says on connect, if anything; ``ready`` comes after a command.
        pause: seconds before each step, or message of the script.
        asked: every command that came.
        drawing: how many drawings are being made.
        left: how many were left before their end.
    """

    steps: int = 4
    script: list[str | bytes | None] | None = None
    greeting: str | None = None
    pause: float = 0.0
    asked: list[str] = field(default_factory=list)
    drawing: int = 0
    left: int = 0
    _seeds: itertools.count[int] = field(default_factory=lambda: itertools.count(1))

    async def serve_client(self, socket: ServerConnection) -> None:
        """Serve one client until it goes."""
        work: asyncio.Task[None] | None = None
        try:
            with suppress(ConnectionClosed):
                if self.greeting is not None:
                    await socket.send(self.greeting)
                async for message in socket:
                    text = str(message)
                    if text == "ping":
                        await socket.send("pong")
                        continue
                    self.asked.append(text)
                    await _ended(work)
                    work = asyncio.create_task(self._answer(socket, text))
        finally:
            await _ended(work)

    async def _answer(self, socket: ServerConnection, text: str) -> None:
        self.drawing += 1
        whole = False
        try:
            with suppress(ConnectionClosed):
                if self.script is not None:
                    await self._play(socket, self.script)
                elif ":" in text and not text.startswith(KNOWN):
                    await socket.send(f"unknown command: {text}")
                else:
                    await socket.send("ready")
                    await self._draw(socket, text)
                whole = True
        finally:
            self.drawing -= 1
            self.left += 0 if whole else 1

    async def _play(self, socket: ServerConnection, script: list[str | bytes | None]) -> None:
        for message in script:
            await asyncio.sleep(self.pause)
            if message is None:
                socket.transport.abort()
            else:
                await socket.send(message)

    async def _draw(self, socket: ServerConnection, text: str) -> None:
        program, _, argument = text.partition(":")
        engine = SketchEngine(wait=False)
        async with engine.render(self._recipe(program, argument)) as images:
            async for image in images:
                await asyncio.sleep(self.pause)
                await self._send(socket, program, image)
        await socket.send("done")

    async def _send(self, socket: ServerConnection, program: str, image: StepImage) -> None:
        if not image.final:
            await socket.send(f"p:s={image.step - 1}:t={image.timestep}")
        if image.final or program != "P0":
            await socket.send(image.image)

    def _recipe(self, program: str, argument: str) -> Recipe:
        if program in {"P2", "P2B"}:
            drawn = from_base(float(argument), base=base_image())
        else:
            drawn = recipe(prompt=argument or program, steps=self.steps)
        return drawn.with_seed(next(self._seeds))


async def _ended(work: asyncio.Task[None] | None) -> None:
    if work is not None:
        work.cancel()
        await asyncio.gather(work, return_exceptions=True)


@asynccontextmanager
async def older_program(program: OlderProgram | None = None) -> AsyncIterator[str]:
    """Serve it on loopback; where."""
    program = program or OlderProgram()
    server: Server
    async with serve(program.serve_client, "127.0.0.1", 0, compression=None) as server:
        port = next(iter(server.sockets)).getsockname()[1]
        yield f"ws://127.0.0.1:{port}/ws"
