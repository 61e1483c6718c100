"""A screen without a wall: it says hello, keeps its clock, and notes what comes when."""

from __future__ import annotations

import json
import struct
import time
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx

from tests.helpers.servers import Address
from tests.helpers.sockets import Message, SocketClient


def decode_frame(message: bytes) -> tuple[Message, bytes]:
    """What `encode_frame` made, taken apart: header and picture."""
    (length,) = struct.unpack_from(">I", message)
    end = 4 + length
    return json.loads(message[4:end]), message[end:]


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
class ScreenClient(SocketClient[Heard]):
    """One connected screen; sync replies are heard too."""

    ahead: float = 0.0
    """Seconds from our monotonic clock to the server's."""

    def note(self, raw: str | bytes) -> Heard:
        """See `SocketClient.note`."""
        at = time.monotonic()
        return Heard(at, json.loads(raw)) if isinstance(raw, str) else Heard(at, *decode_frame(raw))

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
            await self.until(lambda me, n=before: len(me.of("sync")) > n, why="no answer to sync")  # type: ignore[misc]  # mypy infers no lambda with a default
            answer = self.of("sync")[-1]
            times = answer.message
            trip = answer.at - times["t0"] - (times["t2"] - times["t1"])
            if trip < best:
                best = trip
                self.ahead = (times["t1"] + times["t2"] - times["t0"] - answer.at) / 2


def line(address: Address, **options: Any) -> AbstractAsyncContextManager[ScreenClient]:
    """An open socket on which nothing has been said yet."""
    return ScreenClient.line(address.screen, **options)


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
