from __future__ import annotations

import asyncio
import gc
import logging
import os
import subprocess
import sys
import time
import traceback
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import replace
from datetime import UTC
from functools import cache as cache_calls
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import botocore.loaders  # type: ignore[import-untyped]
import pytest
from botocore.utils import parse_timestamp  # type: ignore[import-untyped]
from structlog.testing import capture_logs

import cache.stores.s3.multipart
import cache.stores.s3.store
from cache.index import load_manifest, update_manifest
from cache.model.keys import MANIFEST, parse_key
from cache.model.manifest import Manifest, ManifestAction
from cache.stores.credentials import S3Credentials
from cache.stores.file_reader import FileReader
from cache.stores.folder import FolderStore
from cache.stores.port import (
    Conflict,
    Entry,
    NotFound,
    SharedStore,
    Store,
    StoreDenied,
    StoreError,
    StoreFull,
    StoreUnavailable,
    UnreadableFile,
    content_version,
)
from cache.stores.s3.client import RetryPolicy, read_time
from cache.stores.s3.store import S3Store
from tests.cache.s3_servers import (
    KEY_ID,
    LOST,
    RESET,
    SECRET,
    SILENT,
    TOKEN,
    TRICKLE,
    TRUNCATED,
    FaultyProxy,
    Request,
    S3Server,
    answer,
    refusal,
)
from tests.contracts.store_contract import StoreContract, listed, some_bytes, streamed

REPOSITORY = Path(__file__).parents[3]
KEY = parse_key("actions/a/sets/0/1.jpg")
CLIP = parse_key("actions/a/sets/0/1.mp4")
HASTE = RetryPolicy(
    connect=0.5,
    silence=0.3,
    attempt=0.6,
    total=1.5,
    attempts=3,
    first_pause=0.01,
    longest_pause=0.02,
)
CALM = replace(HASTE, silence=20.0, attempt=30.0, total=90.0)
"""For servers that answer: a busy machine is not one that keeps silent."""

BRISK = replace(CALM, silence=1.0)
"""For servers that keep silent once, and are then to be waited for."""

TRUSTED = S3Credentials(KEY_ID, SECRET, TOKEN)
SLOW_DOWN = refusal("503 Slow Down", "SlowDown")


@pytest.fixture(scope="module", autouse=True)
def one_loader() -> Iterator[None]:
    """A hundred stores are opened here; each would parse the same megabyte of JSON."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            botocore.loaders, "create_loader", cache_calls(botocore.loaders.create_loader)
        )
        yield


def store_on(server: S3Server, bucket: str, prefix: str = "", **options: Any) -> S3Store:
    options = {
        "endpoint_url": server.endpoint_url,
        "credentials": server.credentials,
        **options,
    }
    return S3Store(bucket, prefix, **options)


class TestOverRclone(StoreContract):
    connections = 8
    has_links = True

    @pytest.fixture
    async def store(self, rclone_server: S3Server) -> AsyncIterator[Store]:
        async with store_on(rclone_server, rclone_server.new_bucket(), "shows/één") as store:
            yield store


class TestOverMoto(StoreContract):
    connections = 8
    has_links = True

    @pytest.fixture
    async def store(self, moto_server: S3Server) -> AsyncIterator[Store]:
        async with store_on(moto_server, moto_server.new_bucket()) as store:
            yield store


# Whose keys are whose.


async def test_prefixes_know_nothing_of_each_other(server: S3Server) -> None:
    bucket = server.new_bucket()
    async with (
        store_on(server, bucket) as whole,
        store_on(server, bucket, "show") as show,
        store_on(server, bucket, "shows") as shows,
    ):
        await show.put(KEY, b"1")
        await shows.put(KEY, b"22")
        assert await show.get(KEY) == b"1"
        assert await listed(show) == [Entry(KEY, 1)]
        assert await listed(shows, "actions/") == [Entry(KEY, 2)]
        assert [entry.key for entry in await listed(whole)] == [f"show/{KEY}", f"shows/{KEY}"]
        await show.delete(KEY)
        assert await shows.get(KEY) == b"22"


async def test_what_is_no_key_of_ours_is_not_listed(server: S3Server) -> None:
    async with store_on(server, server.new_bucket(), "show") as store:
        await store.put(KEY, b"1")
        foreign = [".DS_Store", "actions/._1.jpg", ".git/HEAD"]
        if server.keeps_everything:
            foreign += ["actions/empty/", "actions//x", "actions/a\\b"]
        for path in foreign:
            await store._objects.write(path, b"")
        assert await listed(store) == [Entry(KEY, 1)]
        assert await listed(store, "actions/e") == []


async def test_a_key_that_the_server_names_twice_is_listed_once(proxy: FaultyProxy) -> None:
    # As rclone does it, now and then, while the file is being replaced.
    named = "<Contents><Key>manifest.json</Key><Size>7</Size></Contents>"
    page = f"<ListBucketResult><IsTruncated>false</IsTruncated>{named * 2}</ListBucketResult>"
    proxy.rule = lambda _: answer("200 OK", page.encode())
    async with through(proxy, "bucket") as store:
        assert await listed(store) == [Entry(MANIFEST, 7)]


async def test_the_address_says_bucket_and_prefix_alone(server: S3Server) -> None:
    store = store_on(server, "bucket", "a/b/")
    assert store.url == "s3://bucket/a/b"
    assert repr(store) == "S3Store('s3://bucket/a/b')"
    assert store_on(server, "bucket").url == "s3://bucket"


@pytest.mark.parametrize(
    ("endpoint_url", "prefix", "address"),
    [
        (None, "", "https://s3.amazonaws.com/bucket"),
        ("https://S3.Example:443/", "a/b", "https://s3.example/bucket/a/b"),
        ("http://127.0.0.1:9000", "show", "http://127.0.0.1:9000/bucket/show"),
        ("http://minio:80/under", "", "http://minio/under/bucket"),
    ],
)
def test_its_address_is_the_same_on_every_machine(
    endpoint_url: str | None, prefix: str, address: str
) -> None:
    store = S3Store("bucket", prefix, endpoint_url=endpoint_url)
    assert isinstance(store, SharedStore)
    assert store.address == address
    assert not isinstance(FolderStore(Path()), SharedStore)


async def test_it_is_to_be_entered_and_may_be_again(server: S3Server) -> None:
    store = store_on(server, server.new_bucket())
    with pytest.raises(RuntimeError, match="entered"):
        await store.get(KEY)
    for _ in range(2):
        async with store:
            await store.put(KEY, b"x")
    with pytest.raises(RuntimeError, match="entered"):
        await store.get(KEY)


# Compare-and-swap.


async def claims_in(store: S3Store) -> list[str]:
    return [
        path
        async for path, _ in store._objects.listing(f"{cache.stores.s3.store.OWN_PREFIX}claims/")
    ]


async def test_it_finds_out_whether_the_server_keeps_conditions(
    rclone_server: S3Server, moto_server: S3Server
) -> None:
    for server, keeps in ((rclone_server, False), (moto_server, True)):
        bucket = server.new_bucket()
        for _ in range(2):  # the first time, and when the hidden key is there
            async with store_on(server, bucket) as store:
                assert await store._keeps_conditions() is keeps
                assert await listed(store) == []


@pytest.mark.parametrize(
    "no", [refusal("501 No", "NotImplemented"), refusal("400 Bad", "InvalidArgument")]
)
async def test_a_server_that_refuses_conditions_makes_writers_take_turns(
    moto_server: S3Server, proxy: FaultyProxy, no: bytes
) -> None:
    proxy.rule = lambda request: no if "if-none-match" in request.headers else None
    async with through(proxy, moto_server.new_bucket()) as store:
        version = await store.replace(MANIFEST, b"1", expected=None)
        await store.replace(MANIFEST, b"2", expected=version)
        assert store._conditional is None  # it is asked again
        assert await store.get(MANIFEST) == b"2"
        with pytest.raises(Conflict):
            await store.replace(MANIFEST, b"3", expected=version)
        assert [path async for path, _ in store._objects.listing("")] == [MANIFEST]


@pytest.mark.parametrize("behind", [2, 1_000_000])
async def test_a_listing_that_is_behind_is_asked_again_and_given_up_in_the_end(
    rclone_server: S3Server, monkeypatch: pytest.MonkeyPatch, behind: int
) -> None:
    if behind > 2:
        monkeypatch.setattr(cache.stores.s3.store, "LEASE", 2.0)
    async with store_on(rclone_server, rclone_server.new_bucket()) as store:
        listing, left = store._objects.listing, iter(range(behind))

        async def late(prefix: str) -> AsyncIterator[Any]:
            if next(left, None) is None:
                async for item in listing(prefix):
                    yield item

        monkeypatch.setattr(store._objects, "listing", late)
        if behind > 2:
            with pytest.raises(StoreUnavailable, match="does not list"):
                await store.replace(MANIFEST, b"1", expected=None)
        else:
            await store.replace(MANIFEST, b"1", expected=None)
            assert await store.get(MANIFEST) == b"1"


async def test_a_server_that_is_down_while_asked_is_asked_later(
    moto_server: S3Server, proxy: FaultyProxy
) -> None:
    async with through(proxy, moto_server.new_bucket()) as store:
        proxy.rule = lambda _: SLOW_DOWN
        with pytest.raises(StoreUnavailable):
            await store.replace(MANIFEST, b"1", expected=None)
        proxy.rule = lambda _: None
        await store.replace(MANIFEST, b"1", expected=None)
        assert store._conditional is True


@pytest.mark.parametrize("first", [True, False])
async def test_a_write_whose_answer_was_lost_is_known_for_ours(
    moto_server: S3Server, proxy: FaultyProxy, first: bool
) -> None:
    async with through(proxy, moto_server.new_bucket()) as store:
        version = None if first else await store.replace(MANIFEST, b"1", expected=None)
        await store._keeps_conditions()
        proxy.next.append(LOST)
        version = await store.replace(MANIFEST, b"2", expected=version)
        assert await store.get_versioned(MANIFEST) == (b"2", version)
        assert [each.method for each in proxy.seen[-4:]] == ["PUT", "PUT", "GET", "GET"]


async def test_a_write_that_was_lost_to_another_writer_is_a_conflict(
    moto_server: S3Server, proxy: FaultyProxy
) -> None:
    bucket = moto_server.new_bucket()
    async with through(proxy, bucket) as store, store_on(moto_server, bucket) as other:
        version = await store.replace(MANIFEST, b"1", expected=None)
        await other.replace(MANIFEST, b"2", expected=version)
        proxy.next.append(RESET)
        with pytest.raises(Conflict):
            await store.replace(MANIFEST, b"3", expected=version)
        assert await store.get(MANIFEST) == b"2"


async def test_409_of_two_conditions_at_once_is_a_conflict(
    moto_server: S3Server, proxy: FaultyProxy
) -> None:
    async with through(proxy, moto_server.new_bucket()) as store:
        await store._keeps_conditions()
        proxy.next.append(refusal("409 Conflict", "ConditionalRequestConflict"))
        with pytest.raises(Conflict):
            await store.replace(MANIFEST, b"1", expected=None)


async def test_a_version_without_an_etag_will_do(moto_server: S3Server) -> None:
    async with store_on(moto_server, moto_server.new_bucket()) as store:
        version = await store.replace(MANIFEST, b"1", expected=None)
        plain = content_version(b"1")
        assert version.startswith(plain)
        version = await store.replace(MANIFEST, b"2", expected=plain)
        with pytest.raises(Conflict):
            await store.replace(MANIFEST, b"3", expected=plain)


async def test_many_writers_that_take_turns_lose_nothing(server: S3Server) -> None:
    bucket = server.new_bucket()

    async def register(writer: int) -> None:
        async with store_on(server, bucket) as store:
            for set_id in range(3):
                number = 10 * writer + set_id
                await update_manifest(
                    store,
                    lambda m, number=number: m.with_set("a", ManifestAction(), number),  # type: ignore[misc]  # mypy infers no lambda with a default
                )

    await asyncio.gather(*(register(writer) for writer in range(4)))
    async with store_on(server, bucket) as store:
        found = (await load_manifest(store)).set_ids("a")
        assert found == (0, 1, 2, 10, 11, 12, 20, 21, 22, 30, 31, 32)
        assert await claims_in(store) == []


REGISTRAR = """
import asyncio, sys
from cache.index import update_manifest
from cache.model.manifest import ManifestAction
from cache.stores.urls import StoreOptions, open_store

async def main():
    url, endpoint_url, name = sys.argv[1:]
    async with open_store(url, StoreOptions(endpoint_url=endpoint_url)) as store:
        for set_id in range(6):
            await update_manifest(store, lambda m: m.with_set(name, ManifestAction(), set_id))
            await update_manifest(store, lambda m: m.with_set("both", ManifestAction(), set_id))

asyncio.run(main())
"""


def test_two_processes_lose_nothing(server: S3Server) -> None:
    bucket = server.new_bucket()
    environ = {
        **os.environ,
        "AWS_ACCESS_KEY_ID": server.credentials.access_key_id,
        "AWS_SECRET_ACCESS_KEY": server.credentials.secret_access_key,
    }
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", REGISTRAR, f"s3://{bucket}/p", server.endpoint_url, name],
            cwd=REPOSITORY,
            env=environ,
        )
        for name in ("a", "b")
    ]
    assert [writer.wait(40) for writer in writers] == [0, 0]

    async def load() -> Manifest:
        async with store_on(server, bucket, "p") as store:
            return await load_manifest(store)

    manifest = asyncio.run(load())
    for name in ("a", "b", "both"):
        assert manifest.set_ids(name) == tuple(range(6))


async def test_a_writer_that_died_holds_the_others_up_for_a_lease_only(
    rclone_server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache.stores.s3.store, "LEASE", 1.0)
    async with store_on(rclone_server, rclone_server.new_bucket()) as store:
        version = await store.replace(MANIFEST, b"1", expected=None)
        async with store._turn(MANIFEST):
            (claim,) = await claims_in(store)
        folder = claim.rpartition("/")[0]
        await store._objects.write(f"{folder}/0000", b"dead")
        start = time.monotonic()
        await store.replace(MANIFEST, b"2", expected=version)
        assert 0.8 < time.monotonic() - start < 10
        assert await claims_in(store) == []


@pytest.mark.pace
async def test_a_writer_that_lives_is_waited_for_a_bounded_time(
    rclone_server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache.stores.s3.store, "LEASE", 4.0)
    bucket = rclone_server.new_bucket()
    async with store_on(rclone_server, bucket) as store, store_on(rclone_server, bucket) as other:
        await store._keeps_conditions()

        async def claim_for_ever(folder: str) -> None:
            while True:
                await other._objects.write(f"{folder}/0000", b"alive")
                await asyncio.sleep(0.05)

        async with store._turn(MANIFEST):
            (claim,) = await claims_in(store)
        busy = asyncio.create_task(claim_for_ever(claim.rpartition("/")[0]))
        await asyncio.sleep(0.1)
        with pytest.raises(Conflict, match="other writers"):
            await store.replace(MANIFEST, b"1", expected=None)
        busy.cancel()
        await asyncio.gather(busy, return_exceptions=True)


async def test_a_turn_that_lapses_is_given_up_and_its_claim_left(
    rclone_server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache.stores.s3.store, "LEASE", 1.0)
    async with (
        FaultyProxy(rclone_server.port) as proxy,
        through(proxy, rclone_server.new_bucket(), retry=RetryPolicy()) as store,
    ):
        proxy.rule = lambda request: (
            SILENT if request.method == "PUT" and request.path.endswith(MANIFEST) else None
        )
        with pytest.raises(StoreUnavailable, match="given up"):
            await store.replace(MANIFEST, b"1", expected=None)
        assert len(await claims_in(store)) == 1  # it may still arrive
        proxy.rule = lambda _: None
        await store.replace(MANIFEST, b"2", expected=None)
        assert await claims_in(store) == []


@pytest.mark.parametrize("method", ["GET", "PUT"])
async def test_a_writer_that_is_cancelled_withdraws_its_claim_unless_it_wrote(
    rclone_server: S3Server, method: str
) -> None:
    reached = asyncio.Event()

    def rule(request: Request) -> str | None:
        if request.path.endswith(MANIFEST) and request.method == method:
            reached.set()
            return SILENT
        return None

    async with (
        FaultyProxy(rclone_server.port) as proxy,
        through(proxy, rclone_server.new_bucket()) as store,
    ):
        proxy.rule = rule
        task = asyncio.create_task(store.replace(MANIFEST, b"1", expected=None))
        await reached.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert len(await claims_in(store)) == (method == "PUT")


async def test_a_write_that_is_refused_holds_nobody_up(rclone_server: S3Server) -> None:
    async with (
        FaultyProxy(rclone_server.port) as proxy,
        through(proxy, rclone_server.new_bucket()) as store,
    ):
        proxy.rule = lambda request: (
            refusal("507 Full", "StorageFull")
            if request.method == "PUT" and request.path.endswith(MANIFEST)
            else None
        )
        with pytest.raises(StoreFull):
            await store.replace(MANIFEST, b"1", expected=None)
        assert await claims_in(store) == []


# Faults.


@pytest.fixture
async def proxy(moto_server: S3Server) -> AsyncIterator[FaultyProxy]:
    async with FaultyProxy(moto_server.port) as proxy:
        yield proxy


def through(
    proxy: FaultyProxy,
    bucket: str,
    *,
    retry: RetryPolicy = CALM,
    credentials: S3Credentials = TRUSTED,
    **options: Any,
) -> S3Store:
    return S3Store(
        bucket,
        endpoint_url=proxy.endpoint_url,
        retry=retry,
        credentials=credentials,
        **options,
    )


Call = Callable[[S3Store], Any]
CALLS: dict[str, Call] = {
    "get": lambda store: store.get(KEY),
    "put": lambda store: store.put(KEY, b"y" * 300_000),
    "replace": lambda store: store.replace(MANIFEST, b"y", expected=None),
    "size": lambda store: store.size(KEY),
    "stream": lambda store: streamed(store, KEY),
    "put_file": lambda store: store.put_file(CLIP, Path(__file__)),
    "list": listed,
    "delete": lambda store: store.delete(KEY),
}


@pytest.mark.pace
@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (SILENT, "does not answer in time"),
        (RESET, "cannot be reached, or hung up"),
        (SLOW_DOWN, "answered 503 SlowDown"),
        (answer("500 Oh"), "answered 500"),
        (answer("502 Bad Gateway", b"<html>bad</html>", "text/html"), "answered 502"),
        (refusal("400 Bad", "RequestTimeout"), "400 RequestTimeout"),
        (refusal("429 Many", "TooManyRequests"), "429 TooManyRequests"),
    ],
    ids=lambda value: value if isinstance(value, str) else value[9:12].decode(),
)
async def test_a_fault_that_stays_is_told_in_bounded_time_and_passes(
    moto_server: S3Server, proxy: FaultyProxy, fault: str | bytes, message: str
) -> None:
    async with through(proxy, moto_server.new_bucket(), retry=HASTE) as store:
        await store.put(KEY, b"x")
        proxy.seen.clear()
        proxy.rule = lambda _: fault
        start = time.monotonic()
        for error in await asyncio.gather(
            *(call(store) for call in CALLS.values()), return_exceptions=True
        ):
            assert isinstance(error, StoreUnavailable)
            assert message in str(error)
            assert error.__cause__ is not None
        assert time.monotonic() - start < HASTE.total + 30  # it does not hang
        # Deleting looks whether it is there, and aiohttp repeats once what was reset.
        assert 2 * len(CALLS) <= len(proxy.seen) <= 2 * len(CALLS) * HASTE.attempts
        proxy.rule = lambda _: None
        for call in CALLS.values():
            await call(store)


@pytest.mark.parametrize("fault", [SILENT, RESET, SLOW_DOWN, TRUNCATED, LOST])
async def test_a_fault_that_passes_is_not_noticed(
    moto_server: S3Server, proxy: FaultyProxy, fault: str | bytes
) -> None:
    async with through(proxy, moto_server.new_bucket(), retry=BRISK) as store:
        await store.put(KEY, b"x" * 50_000)
        for _ in range(2):  # by the second time it is known how the first was got
            proxy.next.append(fault)
            assert await store.get(KEY) == b"x" * 50_000


async def test_a_content_that_always_breaks_off_is_never_given_out(
    moto_server: S3Server, proxy: FaultyProxy
) -> None:
    # As often as it may, however slow this machine is today: not in haste.
    async with through(proxy, moto_server.new_bucket()) as store:
        await store.put(KEY, b"x" * 50_000)
        proxy.seen.clear()
        proxy.rule = lambda _: TRUNCATED
        with pytest.raises(StoreUnavailable, match="broke off"):
            await store.get(KEY)
        assert len(proxy.seen) == CALM.attempts


async def test_a_line_that_only_trickles_is_given_up(
    moto_server: S3Server, proxy: FaultyProxy
) -> None:
    async with through(proxy, moto_server.new_bucket(), retry=HASTE) as store:
        await store.put(KEY, b"x" * 1000)
        proxy.rule = lambda _: TRICKLE
        start = time.monotonic()
        with pytest.raises(StoreUnavailable, match="in time"):
            await store.get(KEY)
        assert time.monotonic() - start < HASTE.total + 30  # it does not hang


async def test_a_server_that_is_gone_and_comes_back(
    moto_server: S3Server, proxy: FaultyProxy
) -> None:
    async with through(proxy, moto_server.new_bucket()) as store:
        await store.put(KEY, b"x")
        await proxy.stop()
        with pytest.raises(StoreUnavailable, match="cannot be reached"):
            await store.get(KEY)
        await proxy.start()
        assert await store.get(KEY) == b"x"


async def test_pauses_grow_are_random_and_bounded(
    moto_server: S3Server, proxy: FaultyProxy
) -> None:
    pauses: list[float] = []

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)

    retry = RetryPolicy(attempts=8, first_pause=0.1, longest_pause=0.5)
    async with through(proxy, moto_server.new_bucket(), retry=retry, sleep=sleep) as store:
        proxy.rule = lambda _: SLOW_DOWN
        with pytest.raises(StoreUnavailable):
            await store.get(KEY)
    assert len(pauses) == 7
    limits = [0.1, 0.2, 0.4, 0.5, 0.5, 0.5, 0.5]
    assert all(0 <= pause <= limit for pause, limit in zip(pauses, limits, strict=True))
    assert len(set(pauses)) == 7


REFUSALS: list[tuple[bytes, type[StoreError], str]] = [
    (refusal("403 No", "AccessDenied"), StoreDenied, "no right to do this in the bucket"),
    (refusal("403 No", "InvalidAccessKeyId"), StoreDenied, "not accept our credentials"),
    (refusal("403 No", "RequestTimeTooSkewed"), StoreDenied, "clock"),
    (refusal("403 No", "QuotaExceeded"), StoreFull, "403 QuotaExceeded"),
    (refusal("507 Full", "XMinioStorageFull"), StoreFull, "507"),
    (refusal("400 Bad", "KeyTooLongError"), StoreDenied, "400 KeyTooLongError"),
    (refusal("400 Bad", f"{SECRET}!"), StoreDenied, "400 without a reason"),
    (refusal("404 No", "NoSuchBucket"), StoreDenied, "there is no bucket 'bucket"),
    (answer("404 No", b"<html>", "text/html"), StoreDenied, "is the endpoint one of S3"),
    (refusal("404 No", "NoSuchKey"), NotFound, "not in the store"),
    (refusal("501 No", "NotImplemented"), StoreDenied, "501 NotImplemented"),
]


async def test_a_refusal_is_told_at_once(moto_server: S3Server, proxy: FaultyProxy) -> None:
    async with through(proxy, moto_server.new_bucket()) as store:
        for fault, kind, message in REFUSALS:
            proxy.seen.clear()
            proxy.rule = lambda _, fault=fault: fault  # type: ignore[misc]  # mypy infers no lambda with a default
            with pytest.raises(kind, match=message) as caught:
                await store.put(KEY, b"x")
            assert len(proxy.seen) == 1
            assert SECRET not in "".join(traceback.format_exception(caught.value))
            assert caught.value.key == KEY


async def test_what_is_not_s3_is_not_believed(moto_server: S3Server, proxy: FaultyProxy) -> None:
    async with through(proxy, moto_server.new_bucket()) as store:
        await store._keeps_conditions()
        for page in (b"<html><p>Welcome to our WLAN", b"<html><p>Log in</p></html>", b""):
            proxy.rule = lambda _, page=page: answer("200 OK", page, "text/html")  # type: ignore[misc]  # mypy infers no lambda with a default
            for name in ("get", "put", "replace", "list", "size", "stream", "put_file"):
                with pytest.raises(StoreUnavailable, match=r"not S3|answered 500"):
                    await CALLS[name](store)


async def test_wrong_credentials_are_refused(rclone_server: S3Server) -> None:
    bucket = rclone_server.new_bucket()
    for wrong in (S3Credentials(KEY_ID, "wrong"), S3Credentials("nobody", SECRET)):
        async with store_on(rclone_server, bucket, credentials=wrong) as store:
            for call in CALLS.values():
                with pytest.raises(StoreDenied, match="credentials"):
                    await call(store)


async def test_no_credentials_are_asked_for(
    rclone_server: S3Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in list(os.environ):
        if name.startswith("AWS_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    async with store_on(rclone_server, "bucket", credentials=None) as store:
        with pytest.raises(StoreDenied, match="set AWS_ACCESS_KEY_ID"):
            await store.get(KEY)


async def test_a_bucket_that_is_missing_is_named(server: S3Server) -> None:
    async with store_on(server, "missing", "p") as store:
        for call in CALLS.values():
            with pytest.raises(StoreDenied, match="there is no bucket 'missing'"):
                await call(store)


# Large files.

PART = 5 * 2**20
"""Bytes. moto takes no smaller parts either."""


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    path = tmp_path / "clip.mp4"
    path.write_bytes(some_bytes(2 * PART + 1))
    return path


async def unfinished(store: S3Store) -> list[str]:
    client: Any = store._objects._ready().client
    found = await client.list_multipart_uploads(Bucket=store._objects._bucket)
    return [each["Key"] for each in found.get("Uploads", ())]


def is_part(request: Request, number: int) -> bool:
    return request.method == "PUT" and f"partNumber={number}" in request.path


def steps(proxy: FaultyProxy) -> list[str]:
    """What was asked: the methods, and of what the addresses say besides the place, the names."""
    return [
        " ".join(
            [each.method, *sorted(parse_qs(urlsplit(each.path).query, keep_blank_values=True))]
        )
        for each in proxy.seen
    ]


async def test_a_large_file_goes_in_parts_and_a_small_one_in_one_request(
    moto_server: S3Server, proxy: FaultyProxy, clip: Path
) -> None:
    async with through(proxy, moto_server.new_bucket(), retry=CALM, part_size=PART) as store:
        await store.put_file(CLIP, clip)
        assert steps(proxy)[0] == "POST uploads"
        assert sorted(steps(proxy)[1:4]) == ["PUT partNumber uploadId"] * 3
        assert steps(proxy)[4:] == ["POST uploadId"]
        assert all("content-md5" in each.headers for each in proxy.seen[1:4])
        assert await streamed(store, CLIP) == clip.read_bytes()
        proxy.seen.clear()
        os.truncate(clip, PART)
        await store.put_file(CLIP, clip)
        assert steps(proxy) == ["PUT"]
        assert await store.size(CLIP) == PART


@pytest.mark.parametrize("fault", [RESET, SLOW_DOWN, LOST])
async def test_a_part_that_fails_is_sent_again_by_itself(
    moto_server: S3Server, proxy: FaultyProxy, clip: Path, fault: str | bytes
) -> None:
    left = [fault]
    proxy.rule = lambda request: left.pop() if left and is_part(request, 2) else None
    async with through(proxy, moto_server.new_bucket(), retry=CALM, part_size=PART) as store:
        await store.put_file(CLIP, clip)
        assert [sum(is_part(each, n) for each in proxy.seen) for n in (1, 2, 3)] == [1, 2, 1]
        assert await streamed(store, CLIP) == clip.read_bytes()
        assert await unfinished(store) == []


async def test_an_upload_whose_last_answer_was_lost_is_known_for_done(
    moto_server: S3Server, proxy: FaultyProxy, clip: Path
) -> None:
    left = [LOST]
    proxy.rule = lambda request: (
        left.pop() if left and request.method == "POST" and "uploadId" in request.path else None
    )
    async with through(proxy, moto_server.new_bucket(), retry=CALM, part_size=PART) as store:
        await store.put_file(CLIP, clip)
        assert not left
        assert await streamed(store, CLIP) == clip.read_bytes()


async def test_an_upload_that_another_ended_is_no_success(
    moto_server: S3Server, proxy: FaultyProxy, clip: Path
) -> None:
    gone = refusal("404 No", "NoSuchUpload")
    proxy.rule = lambda request: (
        gone if request.method == "POST" and "uploadId" in request.path else None
    )
    async with through(proxy, moto_server.new_bucket(), retry=CALM, part_size=PART) as store:
        await store.put(CLIP, b"old")
        with pytest.raises(StoreDenied, match="somebody else has ended the upload"):
            await store.put_file(CLIP, clip)
        assert await store.get(CLIP) == b"old"


async def test_an_error_in_an_answer_that_says_200_is_an_error(
    moto_server: S3Server, proxy: FaultyProxy, clip: Path
) -> None:
    # So AWS does it where putting the parts together takes long, and then fails.
    proxy.rule = lambda request: (
        refusal("200 OK", "InternalError")
        if request.method == "POST" and "uploadId" in request.path
        else None
    )
    retry = replace(CALM, attempts=2)
    async with through(proxy, moto_server.new_bucket(), retry=retry, part_size=PART) as store:
        with pytest.raises(StoreUnavailable, match="InternalError"):
            await store.put_file(CLIP, clip)
        assert await unfinished(store) == []
        with pytest.raises(NotFound):
            await store.size(CLIP)


@pytest.mark.parametrize("number", [1, 2, 3])
async def test_an_upload_that_fails_leaves_nothing_in_the_bucket(
    moto_server: S3Server, proxy: FaultyProxy, clip: Path, number: int
) -> None:
    proxy.rule = lambda request: refusal("507", "Full") if is_part(request, number) else None
    async with through(proxy, moto_server.new_bucket(), retry=CALM, part_size=PART) as store:
        await store.put(CLIP, b"old")
        with pytest.raises(StoreFull) as caught:
            await store.put_file(CLIP, clip)
        assert caught.value.key == CLIP
        assert await unfinished(store) == []
        assert await store.get(CLIP) == b"old"


async def test_a_file_that_shrinks_in_the_middle_leaves_nothing_in_the_bucket(
    moto_server: S3Server, clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    really_read = FileReader.read

    def read_then_shrink(self: FileReader, start: int, size: int) -> bytes:
        found = really_read(self, start, size)
        os.truncate(clip, PART)
        return found

    monkeypatch.setattr(FileReader, "read", read_then_shrink)
    async with store_on(moto_server, moto_server.new_bucket(), part_size=PART) as store:
        with pytest.raises(UnreadableFile, match="changed while it was read"):
            await store.put_file(CLIP, clip)
        assert await unfinished(store) == []
        assert await listed(store) == []


@pytest.mark.parametrize("where", ["beginning", "a part", "completing"])
async def test_an_upload_that_is_cancelled_leaves_nothing_in_the_bucket(
    moto_server: S3Server, proxy: FaultyProxy, clip: Path, where: str
) -> None:
    reached, go_on = asyncio.Event(), asyncio.Event()
    whole = proxy._ask

    async def held(head: bytes, body: bytes) -> bytes:
        line = head.partition(b"\r\n")[0]
        here = {
            "beginning": line.startswith(b"POST") and b"uploads" in line,
            "a part": b"partNumber=2" in line,
            "completing": line.startswith(b"POST") and b"uploadId" in line,
        }[where]
        if here and where == "beginning":
            found = await whole(head, body)  # the server has begun, and we do not know it yet
            reached.set()
            await go_on.wait()
            return found
        if here:
            reached.set()
            await go_on.wait()
        return await whole(head, body)

    proxy._ask = held  # type: ignore[method-assign]
    async with through(proxy, moto_server.new_bucket(), retry=CALM, part_size=PART) as store:
        await store.put(CLIP, b"old")
        task = asyncio.create_task(store.put_file(CLIP, clip))
        await reached.wait()
        assert await unfinished(store) == [CLIP]
        task.cancel()
        await asyncio.sleep(0)
        task.cancel()  # more than once, as a server does it that is shut down
        if where == "beginning":
            go_on.set()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await unfinished(store) == []
        assert await store.get(CLIP) == b"old"
    gc.collect()  # a connection left open would warn now, and a warning is an error


async def test_giving_an_upload_up_takes_a_bounded_time_and_is_told_where_it_fails(
    moto_server: S3Server,
    proxy: FaultyProxy,
    clip: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(cache.stores.s3.multipart, "_LAST_WORD", 0.2)
    reached = asyncio.Event()

    def rule(request: Request) -> str | None:
        if is_part(request, 2):
            reached.set()
        return SILENT if is_part(request, 2) or request.method == "DELETE" else None

    proxy.rule = rule
    async with through(
        proxy, moto_server.new_bucket(), retry=RetryPolicy(), part_size=PART
    ) as store:
        task = asyncio.create_task(store.put_file(CLIP, clip))
        await reached.wait()
        task.cancel()
        with capture_logs() as logs, pytest.raises(asyncio.CancelledError):
            async with asyncio.timeout(30):  # not for as long as the server keeps silent
                await task
        assert await unfinished(store) == [CLIP]
    assert [(each["event"], each["key"]) for each in logs] == [("upload_not_aborted", CLIP)]


async def test_a_window_that_breaks_off_is_asked_for_again(
    moto_server: S3Server, proxy: FaultyProxy
) -> None:
    data = some_bytes(3 * 2**20)
    async with through(proxy, moto_server.new_bucket(), retry=CALM) as store:
        await store.put(CLIP, data)
        proxy.seen.clear()
        proxy.next.extend([TRUNCATED, None, SLOW_DOWN, RESET])
        assert await streamed(store, CLIP) == data
    ranges = [each.headers["range"] for each in proxy.seen]
    assert len(ranges) > len(set(ranges)) == 4
    first, *others = proxy.seen[2:]
    assert "if-match" in first.headers
    assert len({each.headers["if-match"] for each in others}) == 1


async def test_a_stream_whose_content_is_removed_meanwhile_says_so(server: S3Server) -> None:
    async with store_on(server, server.new_bucket()) as store:
        await store.put(CLIP, some_bytes(3 * 2**20))
        stream = store.stream(CLIP)
        await anext(stream)
        await store.delete(CLIP)
        with pytest.raises(Conflict, match="removed while it was read"):
            async for _ in stream:
                pass


async def test_a_stream_that_is_read_slowly_keeps_no_connection_from_others(
    moto_server: S3Server,
) -> None:
    async with store_on(moto_server, moto_server.new_bucket(), connections=1) as store:
        await store.put(CLIP, some_bytes(3 * 2**20))
        slow = [store.stream(CLIP) for _ in range(4)]
        for stream in slow:
            await anext(stream)
            assert await store.size(CLIP) == 3 * 2**20
        for stream in slow:
            await stream.aclose()


async def test_a_server_that_gives_another_part_is_not_believed(
    moto_server: S3Server, proxy: FaultyProxy
) -> None:
    async with through(proxy, moto_server.new_bucket(), retry=HASTE) as store:
        for head in ("", "Content-Range: bytes 0-4/9\r\n", "Content-Range: bytes 5-8/*\r\n"):
            given = f'HTTP/1.1 206 Partial\r\nETag: "x"\r\n{head}Content-Length: 4\r\n\r\nabcd'
            proxy.rule = lambda _, given=given: given.encode()  # type: ignore[misc]  # mypy infers no lambda with a default
            with pytest.raises(StoreUnavailable, match="not S3"):
                await streamed(store, CLIP, 5)


# Links.


def fetched(address: str, **headers: str) -> tuple[int, bytes]:
    request = urllib.request.Request(address, headers=headers)
    try:
        with urllib.request.urlopen(request) as found:
            return found.status, found.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, b""


async def test_a_link_opens_one_key_for_anybody(server: S3Server) -> None:
    odd = parse_key("actions/a/sets/0/é +&~=%2F?#.mp4")
    async with store_on(server, server.new_bucket(), "shows/één") as store:
        for key in (CLIP, odd):
            await store.put(key, b"0123456789")
            address = await store.link(key, 60.9)
            assert "X-Amz-Expires=60" in address
            assert server.credentials.secret_access_key not in address
            assert await asyncio.to_thread(fetched, address) == (200, b"0123456789")
            _, part = await asyncio.to_thread(fetched, address, Range="bytes=2-4")
            assert part == b"234"


async def test_a_link_opens_nothing_else_and_not_for_ever(rclone_server: S3Server) -> None:
    # rclone, as moto looks at no signature.
    async with store_on(rclone_server, rclone_server.new_bucket()) as store:
        await store.put(CLIP, b"x")
        await store.put(KEY, b"secret")
        address = await store.link(CLIP, 1)
        other = address.replace("1.mp4?", "1.jpg?")
        longer = address.replace("X-Amz-Expires=1&", "X-Amz-Expires=3600&")
        unsigned = address.partition("?")[0]
        assert len({address, other, longer, unsigned}) == 4
        for wrong in (other, longer, unsigned):
            status, _ = await asyncio.to_thread(fetched, wrong)
            assert status in {400, 403}, wrong
        status = 200
        for _ in range(300):
            status, _ = await asyncio.to_thread(fetched, address)
            if status != 200:
                break
            await asyncio.sleep(0.1)
        assert status in {400, 403}


@pytest.mark.parametrize(
    ("bucket", "endpoint_url", "begins"),
    [
        ("shows", None, "https://shows.s3.eu-central-1.amazonaws.com/p/actions/"),
        ("shows", "https://minio.example:9000", "https://minio.example:9000/shows/p/actions/"),
    ],
)
async def test_a_link_is_for_the_host_that_it_is_signed_for(
    bucket: str, endpoint_url: str | None, begins: str
) -> None:
    async with S3Store(
        bucket, "p", endpoint_url=endpoint_url, region="eu-central-1", credentials=TRUSTED
    ) as store:
        address = await store.link(CLIP, 10 * 24 * 3600)
        assert address.startswith(begins)
        assert "X-Amz-Algorithm=AWS4-HMAC-SHA256" in address
        assert "X-Amz-Expires=604800" in address
        assert TOKEN in address


async def test_a_link_without_credentials_is_refused_in_words(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in list(os.environ):
        if name.startswith("AWS_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    async with S3Store("bucket", endpoint_url="http://127.0.0.1:1") as store:
        with pytest.raises(StoreDenied, match="set AWS_ACCESS_KEY_ID"):
            await store.link(KEY, 60)


# Cancelling, connections, secrets.


@pytest.mark.pace
async def test_what_is_cancelled_leaves_nothing_open(
    moto_server: S3Server, proxy: FaultyProxy
) -> None:
    async with through(proxy, moto_server.new_bucket(), retry=RetryPolicy()) as store:
        await store.put(KEY, b"x" * 1000)
        for fault in (SILENT, TRICKLE):
            proxy.rule = lambda _, fault=fault: fault  # type: ignore[misc]  # mypy infers no lambda with a default
            for call in CALLS.values():
                task = asyncio.create_task(call(store))
                await asyncio.sleep(0.08)
                start = time.monotonic()
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
                assert time.monotonic() - start < 0.5
        proxy.rule = lambda _: None
        await store.put(KEY, b"x")
        assert await store.get(KEY) == b"x"
    gc.collect()  # a connection left open would warn now, and a warning is an error


async def test_connections_are_few_and_their_queue_is_not_the_servers_silence(
    moto_server: S3Server,
) -> None:
    most = open_now = 0

    async with FaultyProxy(moto_server.port) as proxy:
        whole = proxy._ask

        async def counted(head: bytes, body: bytes) -> bytes:
            nonlocal most, open_now
            open_now += 1
            most = max(most, open_now)
            await asyncio.sleep(0.1)
            open_now -= 1
            return await whole(head, body)

        proxy._ask = counted  # type: ignore[method-assign]
        retry = RetryPolicy(attempt=0.8, total=0.8, attempts=1)
        bucket = moto_server.new_bucket()
        async with through(proxy, bucket, retry=retry, connections=3) as store:
            # Each has its own key: moto answers 500 where two write the same at once.
            keys = [parse_key(f"actions/a/sets/0/{number}.jpg") for number in range(1, 37)]
            await asyncio.gather(*(store.put(key, b"x") for key in keys))
    assert most == 3


async def test_an_upload_waits_for_no_permission(moto_server: S3Server, proxy: FaultyProxy) -> None:
    async with through(proxy, moto_server.new_bucket()) as store:
        await store.put(KEY, b"x")
    (request,) = proxy.seen
    assert "expect" not in request.headers
    assert not [name for name in request.headers if "checksum" in name or "trailer" in name]


# Getting like the one before.


async def test_an_object_is_asked_for_as_the_one_before_was(
    moto_server: S3Server, proxy: FaultyProxy
) -> None:
    odd = parse_key("actions/a/sets/0/é +&~=%2F?#.jpg")
    async with through(proxy, moto_server.new_bucket()) as store:
        await store.put(KEY, b"one")
        await store.put(odd, b"odd")
        proxy.seen.clear()
        for _ in range(2):
            assert await store.get(odd) == b"odd"
        assert await store.get(KEY) == b"one"
    slow, fast, other = proxy.seen
    assert fast.path == slow.path
    assert other.path == slow.path.rpartition("/")[0] + "/1.jpg"
    of_the_attempt = {"amz-sdk-invocation-id", "amz-sdk-request"}
    assert set(fast.headers) == set(slow.headers) - of_the_attempt
    signed = {"x-amz-date", "authorization", *of_the_attempt}
    assert {name: fast.headers[name] for name in fast.headers if name not in signed} == {
        name: slow.headers[name] for name in slow.headers if name not in signed
    }


async def test_what_has_no_content_is_asked_for_once_more_the_whole_way(
    moto_server: S3Server, proxy: FaultyProxy
) -> None:
    async with through(proxy, moto_server.new_bucket()) as store:
        await store.put(KEY, b"x")
        for fault, kind, message in REFUSALS:
            proxy.rule = lambda _: None
            for _ in range(2):
                assert await store.get(KEY) == b"x"
            proxy.seen.clear()
            proxy.rule = lambda _, fault=fault: fault  # type: ignore[misc]  # mypy infers no lambda with a default
            with pytest.raises(kind, match=message) as caught:
                await store.get(KEY)
            assert len(proxy.seen) == 2
            assert SECRET not in "".join(traceback.format_exception(caught.value))
            # By now it is known: nothing is asked twice that goes on being refused.
            proxy.seen.clear()
            with pytest.raises(kind):
                await store.get(KEY)
            assert len(proxy.seen) == 1


async def test_secrets_are_told_nowhere(
    moto_server: S3Server,
    proxy: FaultyProxy,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    caplog.set_level(logging.DEBUG)
    told: list[str] = []
    async with through(proxy, moto_server.new_bucket(), retry=BRISK) as store:
        told += [repr(store), repr(store.__dict__), store.url]
        await store.put(KEY, b"x")
        await store.replace(MANIFEST, b"x", expected=None)
        assert await store.get(KEY) == b"x"  # so that the next is asked for in the same way
        assert "Signature=" in await store.link(KEY, 60)
        for fault in (SILENT, RESET, SLOW_DOWN, TRUNCATED, refusal("403", "SignatureDoesNotMatch")):
            proxy.rule = lambda _, fault=fault: fault  # type: ignore[misc]  # mypy infers no lambda with a default
            with pytest.raises(StoreError) as caught:
                await store.get(KEY)
            told += [repr(caught.value), repr(caught.value.__cause__)]
            if not isinstance(fault, bytes) or b"403" not in fault:
                told += traceback.format_exception(caught.value)
    told += [caplog.text, *capfd.readouterr()]
    whole = "\n".join(told)
    assert "store_asked_again" in whole  # our own log is among it
    for secret in (SECRET, TOKEN, KEY_ID, "Signature=", "AWS4-HMAC", "authorization"):
        assert secret not in whole


# Start-up.


def test_a_folder_is_opened_without_loading_the_client() -> None:
    program = (
        "import sys, cache.stores.urls; cache.stores.urls.open_store('.');"
        "print([name for name in sys.modules if 'boto' in name or 'aiohttp' in name])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    assert done.stdout == "[]\n"


@pytest.mark.parametrize(
    "text",
    [
        "2026-11-25T03:04:05.678Z",
        "2026-11-25T03:04:05.678000+00:00",
        "Wed, 25 Nov 2026 03:04:05 GMT",
        "2026-11-25T03:04:05",
        "1795575845",
        1795575845,
        "20261125T030405Z",
    ],
)
def test_times_are_read_as_botocore_reads_them(text: str | float) -> None:
    theirs = parse_timestamp(text)
    ours = read_time(text)
    assert ours.tzinfo is not None
    assert ours == (theirs if theirs.tzinfo else theirs.replace(tzinfo=UTC))


def test_what_is_no_time_is_refused() -> None:
    with pytest.raises(ValueError, match="not a time"):
        read_time("not a time")
