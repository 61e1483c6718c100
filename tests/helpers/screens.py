"""A screen without a wall: it says hello, keeps its clock, and notes what comes when."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import httpx
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from server.stage.messages import decode_frame
from tests.helpers.servers import Address

Message = dict[str, Any]


@dataclass(frozen=True)
class Heard:
    """One message, and when it came: local monotonic seconds. `image` is a frame's, if binary."""

    at: float
    message: Message
    image: bytes | None = None

    @property
    def type(self) -> str:
        """What kind of message."""
        kind: str = self.message["type"]
        return kind


@dataclass
class ScreenClient:
    """One connected screen. `heard` has everything, welcome and sync replies included."""

    socket: ClientConnection
    heard: list[Heard] = field(default_factory=list)
    ahead: float = 0.0
    """Seconds from our monotonic clock to the server's."""
    _more: asyncio.Event = field(default_factory=asyncio.Event)
    _reader: asyncio.Task[None] | None = None

    def of(self, kind: str) -> list[Heard]:
        """Every message of a type."""
        return [heard for heard in self.heard if heard.type == kind]

    @property
    def frames(self) -> list[Heard]:
        """Every frame."""
        return self.of("frame")

    @property
    def runs(self) -> list[str]:
        """The tokens of the runs told, in order."""
        return [heard.message["run"] for heard in self.of("run")]

    @property
    def welcome(self) -> Message:
        """What it was welcomed with."""
        return self.of("welcome")[0].message

    @property
    def snapshot(self) -> Message:
        """What it was told of the stage on joining."""
        snapshot: Message = self.welcome["snapshot"]
        return snapshot

    def frames_of(self, run: str) -> list[Heard]:
        """The frames of one run."""
        return [heard for heard in self.frames if heard.message["run"] == run]

    def server_time(self, heard: Heard) -> float:
        """When a message came, by the server's clock."""
        return heard.at + self.ahead

    async def send(self, message: object) -> None:
        """Say something; text goes as it is."""
        await self.socket.send(
            message if isinstance(message, (str, bytes)) else json.dumps(message)
        )

    def listen(self) -> None:
        """Begin to note what comes."""
        self._reader = asyncio.create_task(self._read())

    def deaf(self) -> None:
        """Stop reading; the connection stays."""
        assert self._reader is not None
        self._reader.cancel()
        self._reader = None

    async def _read(self) -> None:
        with suppress(ConnectionClosed):
            async for raw in self.socket:
                at = time.monotonic()
                if isinstance(raw, str):
                    self.heard.append(Heard(at, json.loads(raw)))
                else:
                    self.heard.append(Heard(at, *decode_frame(raw)))
                self._more.set()
        self._more.set()

    async def until(
        self, enough: Callable[[ScreenClient], object], *, within: float = 15.0, why: str = ""
    ) -> None:
        """Wait until `enough` says so; fail if it takes too long or the line is lost."""
        try:
            async with asyncio.timeout(within):
                while not enough(self):
                    self._more.clear()
                    assert self._reader is None or not self._reader.done(), f"gone: {self.goodbye}"
                    await self._more.wait()
        except TimeoutError:
            told = [heard.type for heard in self.heard][-40:]
            raise AssertionError(f"{why or 'not'} within {within} s; told of {told}") from None

    async def closed(self, within: float = 15.0) -> int | None:
        """Wait for the server to close the socket; its code."""
        async with asyncio.timeout(within):
            await self.socket.wait_closed()
        return self.socket.close_code

    @property
    def goodbye(self) -> tuple[int | None, str | None]:
        """Why the server closed, if it did."""
        return self.socket.close_code, self.socket.close_reason

    async def hello(self, name: str, style: str = "binary", **extra: Any) -> None:
        """Say hello and wait for the welcome."""
        await self.send({"type": "hello", "protocol": 1, "screen": name, "frames": style, **extra})
        await self.until(lambda me: me.of("welcome"), why="no welcome")

    async def sync(self, samples: int = 10) -> None:
        """Learn the server's time: the best of some samples by their round trip."""
        best = float("inf")
        for _ in range(samples):
            before = len(self.of("sync"))
            await self.send({"type": "sync", "t0": time.monotonic()})
            await self.until(lambda me, n=before: len(me.of("sync")) > n, why="no answer to sync")  # type: ignore[misc]
            answer = self.of("sync")[-1]
            times = answer.message
            trip = answer.at - times["t0"] - (times["t2"] - times["t1"])
            if trip < best:
                best = trip
                self.ahead = (times["t1"] + times["t2"] - times["t0"] - answer.at) / 2


@asynccontextmanager
async def line(address: Address, **options: Any) -> AsyncIterator[ScreenClient]:
    """An open socket on which nothing has been said yet."""
    async with connect(
        address.screen, max_size=None, compression=None, proxy=None, **options
    ) as socket:
        client = ScreenClient(socket)
        client.listen()
        try:
            yield client
        finally:
            if client._reader is not None:
                client._reader.cancel()
                await asyncio.gather(client._reader, return_exceptions=True)


@asynccontextmanager
async def screen(
    address: Address, name: str = "wall", style: str = "binary", **hello: Any
) -> AsyncIterator[ScreenClient]:
    """A screen that has been welcomed and knows the time."""
    async with line(address) as client:
        await client.hello(name, style, **hello)
        await client.sync()
        yield client


@asynccontextmanager
async def web(address: Address, **options: Any) -> AsyncIterator[httpx.AsyncClient]:
    """An HTTP client of a server, that follows no proxy of the environment."""
    async with httpx.AsyncClient(
        base_url=address.http, trust_env=False, timeout=15, **options
    ) as client:
        yield client


async def command(address: Address, name: str, **arguments: Any) -> Message:
    """Give a command, as the technician at the machine."""
    async with web(address) as client:
        answer = await client.post(f"/api/control/{name}", json=arguments)
    assert answer.status_code == 200, answer.text
    result: Message = answer.json()["result"]
    return result
