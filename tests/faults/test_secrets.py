"""Secrets in addresses are told nowhere: not in probes, states, logs, errors, reports."""

from __future__ import annotations

import asyncio
import base64
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import httpx
import pytest

from cache.model.keys import Key
from cache.stores.credentials import S3Credentials
from cache.stores.port import StoreDenied, StoreError
from cache.stores.s3.client import RetryPolicy
from cache.stores.s3.store import S3Store
from cache.stores.urls import BadStoreAddress, StoreOptions, open_store
from generator.engines.older_wire.engine import OlderWireEngine
from generator.engines.port import EngineError
from generator.engines.remote.engine import RemoteEngine
from generator.outgoing import outgoing_client
from generator.sheet.recipe import Recipe
from server.cli.main import main
from server.config.show import ShowError, load_show
from server.rehearsal.simulated_engines import probe_engines
from tests.helpers.hostile import hostile
from tests.helpers.servers import server_process
from tests.helpers.shows import MANUAL, Rhythm, cue, line, make_show

SECRET = "s3cr3t"
CUES = [cue(0, "start"), line(0, "a lamp is lit", id="lamp"), cue(60, "end")]
ENGINES = f"""
[[engines]]
name = "first"
kind = "older-wire"
url = "ws://127.0.0.1:9/ws?token={SECRET}"
"""


def a_show(folder: Path, engines: str = ENGINES) -> Path:
    folder.mkdir()
    rhythm = Rhythm(previews=2, step=0.1)
    toml = MANUAL + '[playback]\nmode = "live"\n' + engines
    return make_show(folder, CUES, rhythm=rhythm, toml=toml).folder


def test_nothing_tells_the_token_in_an_engines_address(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("generator.sets.batch.REST", 0.01)
    folder = a_show(tmp_path / "show")
    told: list[str] = []
    with server_process(folder, arguments=["--log-level", "debug"]) as server:
        server.control("go")
        for _ in range(100):
            if (server.state()["now"] or {}).get("outcome"):
                break
            time.sleep(0.05)
        told.append(json.dumps(server.state()))
        paths = ("/readyz", "/metrics", "/api/cues", "/api/asrun", "/api/asrun?format=csv")
        with httpx.Client(base_url=server.address.http, trust_env=False) as client:
            told += [client.get(path).text for path in paths]
        told.append(json.dumps([server.control("engines"), server.control("log")]))
    told.append(server.log.read_text())
    report = tmp_path / "report.html"
    for arguments in (
        ["rehearse", "--json", "--html", str(report)],
        ["generate", "batch", "--engine", "first", "--sets", "9"],
        ["generate", "batch", "--engine", f"http://me:{SECRET}@127.0.0.1:9"],
        ["worker", "--engine", f"ws://127.0.0.1:9/?token={SECRET}"],
    ):
        with suppress(SystemExit):
            main([*arguments, "--show", str(folder)])
        told += capsys.readouterr()
    told.append(report.read_text())
    assert "127.0.0.1:9" in "".join(told)  # where it is, is told
    assert SECRET not in "".join(told)


@pytest.mark.parametrize(
    ("kind", "url", "helps"),
    [
        ("worker", f"http://me:{SECRET}@gpu.example:9000", "UNDERSTUDY_WORKER_TOKEN"),
        ("older-wire", f"ws://{SECRET}@gpu.example/ws", "UNDERSTUDY_WORKER_TOKEN"),
        ("worker", f"http://gpu.example/?token={SECRET}", "without ? and #"),
        ("worker", f"htp://me:{SECRET}@gpu.example", "url"),
        ("sketch", f"http://gpu.example/{SECRET}", "only these have a url"),
        ("older-wire", f"http://gpu.example/{SECRET}", "begins with ws"),
    ],
)
def test_a_password_in_an_engines_address_is_refused(
    tmp_path: Path, kind: str, url: str, helps: str
) -> None:
    engines = f'[[engines]]\nname = "gpu"\nkind = "{kind}"\nurl = "{url}"\n'
    (tmp_path / "show.toml").write_text(engines)
    (tmp_path / "cues.json").write_text("[]")
    with pytest.raises(ShowError) as refused:
        load_show(tmp_path, {}, {})
    assert helps in str(refused.value)
    assert SECRET not in str(refused.value)
    assert SECRET not in repr(refused.value)


@pytest.mark.parametrize(
    ("endpoint", "refused"),
    [
        ("https://account.r2.cloudflarestorage.com/art", True),
        ("https://account.r2.cloudflarestorage.com/art/", True),
        ("https://art.s3.eu-central-1.amazonaws.com", True),
        ("https://art.fra1.digitaloceanspaces.com", True),
        ("https://account.r2.cloudflarestorage.com", False),
        ("https://minio.example/artful", False),
        ("https://art.example", False),
    ],
)
def test_an_endpoint_with_the_buckets_name(endpoint: str, *, refused: bool) -> None:
    if not refused:
        open_store("s3://art/show", StoreOptions(endpoint_url=endpoint))
        return
    with pytest.raises(BadStoreAddress, match="without the bucket's name"):
        open_store("s3://art/show", StoreOptions(endpoint_url=endpoint))


@asynccontextmanager
async def proxy() -> AsyncIterator[tuple[str, list[str]]]:
    """A proxy that refuses everything, and what it was asked."""
    asked: list[str] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        asked.append(head)
        writer.write(b"HTTP/1.1 403 No\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield f"http://me:{SECRET}@127.0.0.1:{server.sockets[0].getsockname()[1]}", asked


async def test_all_that_is_far_goes_through_one_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = Recipe(model="none", prompt="a lamp", steps=1, width=64, height=64)
    async with proxy() as (url, asked), outgoing_client() as client:
        for name in ("HTTP_PROXY", "HTTPS_PROXY"):
            monkeypatch.setenv(name, url)
        errors: list[Exception] = []
        for engine in (
            RemoteEngine(client, "http://gpu.example:9000"),
            OlderWireEngine("ws://gpu.example:8000/ws"),
        ):
            with pytest.raises(EngineError) as failed:
                async with engine.render(recipe) as images:
                    await anext(aiter(images))
            errors.append(failed.value)
        store = S3Store(
            "art",
            endpoint_url="http://s3.example",
            credentials=S3Credentials("a", "b"),
            retry=RetryPolicy(attempts=1),
        )
        async with store:
            with pytest.raises(StoreError) as denied:
                await store.get(Key("manifest.json"))
        errors.append(denied.value)
        firsts = [head.split("\r\n")[0].rsplit(" ", 1)[0] for head in asked]
        assert firsts == [
            "POST http://gpu.example:9000/generate",
            "CONNECT gpu.example:8000",
            "GET http://s3.example/art/manifest.json",
        ]
        token = base64.b64encode(f"me:{SECRET}".encode()).decode()
        assert all(f"basic {token}".lower() in head.lower() for head in asked)
        assert not any(SECRET in f"{error} {error!r}" for error in errors)
        asked.clear()
        # What is near goes straight, and fails there.
        for near in (RemoteEngine(client, "http://127.0.0.1:9"), OlderWireEngine("ws://[::1]:9")):
            with pytest.raises(EngineError):
                async with near.render(recipe) as images:
                    await anext(aiter(images))
        assert asked == []


@pytest.mark.parametrize(
    ("operation", "right"),
    [("get", "s3:GetObject"), ("put", "s3:PutObject"), ("list", "s3:ListBucket")],
)
async def test_a_bucket_that_refuses_is_told_with_the_right_that_is_missing(
    operation: str, right: str
) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        body = b"<Error><Code>AccessDenied</Code><Message>no</Message></Error>"
        head = f"HTTP/1.1 403 No\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
        writer.write(head.encode() + body)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        store = S3Store(
            "art",
            endpoint_url=f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}",
            credentials=S3Credentials("a", "b"),
        )

        async def ask() -> object:
            match operation:
                case "get":
                    return await store.get(Key("manifest.json"))
                case "put":
                    await store.put(Key("manifest.json"), b"{}")
                    return None
                case _:
                    return [entry async for entry in store.list()]

        async with store:
            with pytest.raises(StoreDenied, match=right):
                await ask()


async def test_a_rehearsal_asks_an_older_program_for_no_greeting(tmp_path: Path) -> None:
    """The piece's own programs say nothing, or other words, before they have a command."""
    async with hostile(socket_harm="silence") as it:
        engines = ENGINES.replace("ws://127.0.0.1:9", it.url.replace("http", "ws"))
        show = load_show(a_show(tmp_path / "show", engines), {}, {})
        (probed,) = await probe_engines(show)
    assert (probed.state, probed.detail) == ("ready", "it answers")
    (dead,) = await probe_engines(load_show(a_show(tmp_path / "other"), {}, {}))
    assert dead.state == "dead"
    assert dead.detail.startswith("ws://127.0.0.1:9/ws?…: ")
