"""Engines that answer without end, compressed or drop by drop: bounded in bytes and time."""

from __future__ import annotations

import asyncio
import io
import os
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Final

import httpx
import pytest
from PIL import Image
from pydantic import SecretStr
from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed
from websockets.protocol import State

from cache.model.images import BadImage, decode_check
from cache.model.keys import Key
from cache.stores.credentials import S3Credentials
from cache.stores.port import StoreError
from cache.stores.s3.client import RetryPolicy
from cache.stores.s3.store import S3Store
from cache.tasks import cancel_and_wait
from generator.engines.callback.engine import CallbackEngine
from generator.engines.callback.settings import CallbackSection
from generator.engines.comfyui.engine import ComfyUIEngine
from generator.engines.comfyui.listening import Heard, HeardQueue, listening
from generator.engines.inbox import Inbox
from generator.engines.older_wire.engine import OlderWireEngine
from generator.engines.pictures import fitted_preview
from generator.engines.port import DrawingFailed, Engine, EngineError, EngineUnavailable
from generator.engines.remote.engine import RemoteEngine
from generator.engines.replicate.engine import ReplicateEngine
from generator.engines.replicate.settings import ReplicateSection
from generator.outgoing import Client, ask, bounded_lines, open_socket, outgoing_client
from generator.sheet.recipe import Recipe
from generator.worker import event
from tests.generator.engines.comfyui_server import workflow
from tests.helpers.hostile import HARMS, SOCKET_HARMS, Harm, SocketHarm, hostile

RECIPE = Recipe(model="none", prompt="a lamp", steps=4, width=160, height=96, seed=1)
MOST_TAKEN: Final = 64 * 2**20
"""Bytes that anybody may take off a hostile server: the bound, and what is in the kernel."""

MOST_HELD: Final = 160 * 2**20
"""Bytes of memory that a socket's messages may take: what follows a refusal is read and dropped."""

WITHIN: Final = 12.0


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@asynccontextmanager
async def modest() -> AsyncIterator[None]:
    """Memory never grows by more than `MOST_HELD` meanwhile."""
    before = most = resident()

    async def watch() -> None:
        nonlocal most
        while True:
            most = max(most, resident())
            await asyncio.sleep(0.01)

    task = asyncio.create_task(watch())
    try:
        yield
    finally:
        task.cancel()
    assert most - before < MOST_HELD


def worker(client: Client, url: str) -> Engine:
    return RemoteEngine(client, url, silence=0.3)


def comfyui(client: Client, url: str) -> Engine:
    return ComfyUIEngine(client, url, workflow(), silence=0.3, give_up=1.0)


def replicate(client: Client, url: str) -> Engine:
    section = ReplicateSection(name="cloud", model="a/b", url=url)
    return ReplicateEngine(client, section, token=SecretStr("t"), wait=1, deadline=2.0)


def callback(client: Client, url: str) -> Engine:
    section = CallbackSection(name="modal", url=url, answers_to=url, within=0.5)
    return CallbackEngine(client, section, Inbox())


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("generator.outgoing.CONNECT_WITHIN", 0.3)
    monkeypatch.setattr("generator.engines.comfyui.engine._ANSWER_WITHIN", 0.3)
    monkeypatch.setattr("generator.engines.replicate.engine._MARGIN", -0.7)
    monkeypatch.setattr("generator.engines.replicate.engine._FIRST_PAUSE", 0.05)


async def draw(engine: Engine) -> None:
    async with asyncio.timeout(WITHIN), engine.render(RECIPE) as images:
        async for _ in images:
            pass


@pytest.mark.parametrize("harm", HARMS)
@pytest.mark.parametrize("make", [worker, comfyui, replicate, callback])
async def test_over_http(make: Callable[[Client, str], Engine], harm: Harm) -> None:
    async with hostile(harm) as it, outgoing_client() as client:
        with pytest.raises(EngineError):
            await draw(make(client, it.url))
        assert it.asked
        assert it.sent < MOST_TAKEN


@pytest.mark.parametrize("harm", SOCKET_HARMS)
async def test_the_older_wire(harm: SocketHarm) -> None:
    async with hostile(socket_harm=harm) as it, modest():
        with pytest.raises(EngineError):
            await draw(OlderWireEngine(it.url.replace("http", "ws"), silence=0.3))
        assert it.asked


@pytest.mark.parametrize("harm", ["endless headers", "drip head"])
async def test_a_handshake_that_does_not_end(harm: Harm) -> None:
    async with hostile(harm) as it, modest():
        it.shakes_hands = False
        with pytest.raises(EngineError):
            await draw(OlderWireEngine(it.url.replace("http", "ws"), connect_within=0.5))
        assert it.asked


@pytest.mark.parametrize("harm", SOCKET_HARMS)
async def test_comfyuis_socket(harm: SocketHarm) -> None:
    async with hostile(socket_harm=harm) as it, modest():
        with suppress(EngineUnavailable):  # it may be lost as soon as it is opened
            async with listening(it.url.replace("http", "ws"), {}, 0.3):
                await asyncio.sleep(0.7)  # nobody looks at what is heard
        assert it.asked


async def test_what_comfyui_says_faster_than_it_is_looked_at_is_bounded() -> None:
    queue = HeardQueue(most=10_000)
    for number in range(1000):
        queue.put(Heard(float(number), b"A" * 1000))
    heard = []
    while True:
        try:
            async with asyncio.timeout(0.01):
                heard.append(await queue.get())
        except TimeoutError:
            break
    assert len(heard) <= 10
    assert heard[-1].message is None  # a loss is told, once: the run is then asked after
    queue.put(Heard(1.0, b"again"))
    assert (await queue.get()).message == b"again"


async def test_an_engine_that_never_comes_to_an_end() -> None:
    step = event(
        "step",
        {"step": 1, "timestep": 1, "duration": 0.1, "media_type": "image/jpeg", "image": "AAAA"},
    )

    async def forever() -> AsyncIterator[bytes]:
        while True:
            yield step

    def answer(_request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, content=forever())

    async with httpx.AsyncClient(transport=httpx.MockTransport(answer)) as client:
        with pytest.raises(DrawingFailed, match="more than 140 pictures for 4 steps"):
            await draw(RemoteEngine(client, "http://gpu"))


async def test_lines_are_what_they_were() -> None:
    async def pieces() -> AsyncIterator[bytes]:
        for piece in (b"a\r", b"\nb\n\n", b"\xc3", b"\xa9\nend"):
            yield piece

    response = httpx.Response(200, content=pieces())
    lines = [line async for line in bounded_lines(response, limit=100, within=1)]
    assert lines == ["a", "b", "", "é", "end"]


@pytest.mark.parametrize("harm", HARMS)
async def test_a_store(harm: Harm) -> None:
    retry = RetryPolicy(silence=0.5, attempt=1.0, total=2.0, attempts=1)
    async with hostile(harm) as it:
        store = S3Store(
            "bucket", endpoint_url=it.url, credentials=S3Credentials("a", "b"), retry=retry
        )
        async with store:
            async with asyncio.timeout(WITHIN):
                with pytest.raises(StoreError):
                    [entry async for entry in store.list()]
            assert it.sent < MOST_TAKEN
            if harm in {"endless error", "drip"}:
                with pytest.raises(StoreError):
                    await store.get(Key("manifest.json"))
                assert it.sent < 2 * MOST_TAKEN


async def test_an_object_that_does_not_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cache.stores.s3.bucket.MAX_CONTENT", 2**20)
    async with hostile("endless body") as it:
        store = S3Store("bucket", endpoint_url=it.url, credentials=S3Credentials("a", "b"))
        async with store, asyncio.timeout(WITHIN):
            with pytest.raises(StoreError, match="at most 1048576 bytes"):
                await store.get(Key("manifest.json"))
        assert it.sent < 16 * 2**20


def bomb() -> bytes:
    """A few kilobytes of PNG that say that they are 20000 x 20000."""
    buffer = io.BytesIO()
    Image.new("1", (20_000, 4)).save(buffer, "PNG")
    data = bytearray(buffer.getvalue())
    data[16:24] = struct.pack(">II", 20_000, 20_000)
    return bytes(data)


def test_pictures_that_are_far_larger_than_was_asked_for_are_not_decoded() -> None:
    assert fitted_preview(bomb(), (160, 96)) is None
    large = io.BytesIO()
    Image.new("L", (4000, 4000)).save(large, "PNG")
    assert fitted_preview(large.getvalue(), (160, 96)) is None
    with pytest.raises(BadImage, match="expected at most 100000 pixels, found 4000 x 4000"):
        decode_check(large.getvalue(), most_pixels=100_000)


async def test_whole_answers_are_bounded() -> None:
    async with hostile("endless body") as it, outgoing_client() as client:
        with pytest.raises(httpx.HTTPError, match="more than 1000 bytes"):
            await ask(client, "GET", it.url, within=2, limit=1000)


async def test_a_socket_takes_no_message_that_is_too_large() -> None:
    async with (
        hostile(socket_harm="huge message") as it,
        open_socket(it.url.replace("http", "ws"), max_size=1000) as socket,
    ):
        with pytest.raises(ConnectionClosed, match="1009"):
            await socket.recv()


async def test_a_goodbye_that_is_cancelled_leaves_nothing_open() -> None:
    async with hostile(socket_harm="silence") as it:
        opened: asyncio.Future[ClientConnection] = asyncio.get_running_loop().create_future()

        async def visit() -> None:
            async with open_socket(it.url.replace("http", "ws")) as socket:
                opened.set_result(socket)

        visitor = asyncio.create_task(visit())
        socket = await opened
        while socket.state is State.OPEN:  # noqa: ASYNC110 - nobody tells of it
            await asyncio.sleep(0)
        assert not visitor.done()  # nobody answers its goodbye
        await cancel_and_wait(visitor)
        assert socket.transport.is_closing()
