"""A program that speaks the older wire, as the piece's first GPU program did, over real sockets.

Facts: ``ready`` on connect; per step ``p:s=<from 0>:t=<descending>`` and, but for P0, a binary
preview; the final image; ``done``; ``unknown command: …``; ``ping`` is answered ``pong``. One
drawing at a time per client, a new one cancels the one before, closing the socket, too.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.exceptions import ConnectionClosed

from generator.engine import StepImage
from generator.engines.sketch import SketchEngine
from generator.recipe import Recipe
from tests.generator.engine_contract import base_image, from_base, recipe

KNOWN = ("P0:", "P2:", "P2B:", "P3", "P3B:", "P4:")


@dataclass
class OlderProgram:
    """What it is asked, and how it misbehaves.

    Attributes:
        steps: how many it draws of a text; of a picture, as many as the strength leaves.
        script: sent instead of a drawing, message by message; None among them hangs up.
        greets: whether it says ``ready``.
        pause: seconds before each step, or message of the script.
        asked: every command that came.
        drawing: how many drawings are being made.
        left: how many were left before their end.
    """

    steps: int = 4
    script: list[str | bytes | None] | None = None
    greets: bool = True
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
                if self.greets:
                    await socket.send("ready")
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
            await socket.send(f"p:s={image.step - 1}:t={image.timestep:.0f}")
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
