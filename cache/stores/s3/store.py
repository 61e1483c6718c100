"""A store in a bucket: AWS, Cloudflare R2, MinIO, Ceph, or whatever else speaks S3.

**Compare-and-swap.** A server is asked once, before the first `replace`, whether it keeps to
``If-None-Match: *`` and ``If-Match``; the answer is seen from writes to a hidden key, never
from a content of ours. If it does (AWS, R2, MinIO, Ceph since Squid), `replace` is atomic,
whoever else writes. One that finds exactly the content there that it was to write counts as
done: after an answer was lost, it was most likely our own.

If it does not, or ignores them silently (rclone), writers take turns. Each writes a hidden
claim for the key and lists the claims; only who finds no other goes on: reads, compares,
writes, reads again to see that its content is there, and withdraws the claim. Of two that see
each other the first in order waits and the other withdraws. Guaranteed then, on a server whose
reads and listings show every write that was confirmed (all that we know):

- between writers that all use this class, nothing is lost, and exactly one of those who
  expect the same version wins;
- a writer that died, or never heard how its write ended, holds the others up for `LEASE`
  seconds at most: ages are told by the server's own clock alone. A live one ends its write
  within half of that, or gives it up and leaves its claim to lapse.

What remains: a write whose connection we closed, and that the server carries out all the same
half a lease later, or after its repetition was done and the next writer had its turn; and
writers that do not take part.
"""

from __future__ import annotations

import asyncio
import hashlib
import random
import secrets
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

import anyio
import structlog

from cache.model.keys import Key, is_key, parse_key, parse_prefix
from cache.stores.credentials import S3Credentials
from cache.stores.file_reader import SourceFile
from cache.stores.port import (
    Conflict,
    Entry,
    NotFound,
    StoreCorrupt,
    StoreDenied,
    StoreError,
    StoreFull,
    StoreUnavailable,
    Version,
    Versioned,
)
from cache.stores.s3.bucket import Bucket, etag_of, hash_of
from cache.stores.s3.client import BucketAccess, RetryPolicy
from cache.stores.s3.multipart import FilePart
from cache.threads import read_in_thread

_log = structlog.get_logger(__name__)

OWN_PREFIX: Final = ".understudy/"
"""Hidden keys within the prefix, for the store itself; never listed, safe to delete when idle."""

LEASE: Final = 20.0
"""Seconds after which a claim counts for nothing."""

PART: Final = 8 * 2**20
"""Bytes. AWS takes no parts below 5 MiB but the last."""

_READERS: Final = 4
_PROBE: Final = f"{OWN_PREFIX}conditional-writes"
_NO_ETAG: Final = f'"{"0" * 32}"'
_SHORTEST_LOOK: Final = 0.02
_LONGEST_LOOK: Final = 0.2
_LAST_WORD: Final = 2.0
"""Seconds for withdrawing a claim while being cancelled."""


class S3Store:
    """A store in a bucket, under an optional prefix.

    A content is written in one request, or in parts that are seen by nobody until all have
    come, so a key always holds a whole one. A bucket that does not exist is not made: requests
    raise `StoreDenied`.
    """

    def __init__(
        self,
        bucket: str,
        prefix: str = "",
        *,
        endpoint_url: str | None = None,
        region: str | None = None,
        credentials: S3Credentials | None = None,
        connections: int = 32,
        part_size: int = PART,
        retry: RetryPolicy | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """Choose the bucket; nothing is asked yet.

        Args:
            bucket: its name.
            prefix: what our keys begin with in it, without a last ``/``.
            endpoint_url: whom to ask; None for AWS. Its buckets are addressed by path.
            region: None for what the environment or the endpoint suggests.
            credentials: None to look where other S3 programs do.
            connections: how many requests may be under way at once.
            part_size: bytes of a file that are put in one request; a larger one is put in parts
                of that size.
            retry: how long to wait and how often to ask.
            sleep: how to wait between attempts.
        """
        self._sleep = sleep
        self._part_size = part_size
        self._readers: anyio.CapacityLimiter | None = None
        self._objects = Bucket(
            BucketAccess(
                bucket=bucket,
                endpoint_url=endpoint_url,
                region=region,
                credentials=credentials,
                connections=connections,
                retry=retry or RetryPolicy(),
                sleep=sleep,
            ),
            f"{parse_prefix(prefix.rstrip('/'))}/" if prefix else "",
        )
        self._probing = asyncio.Lock()
        self._conditional: bool | None = None
        self._one_by_one = asyncio.Lock()

    def __repr__(self) -> str:
        return f"S3Store({self.url!r})"

    @property
    def url(self) -> str:
        """``s3://bucket/prefix``."""
        return self._objects.url

    @property
    def address(self) -> str:
        """See `SharedStore.address`. Another name for the same server is another address."""
        return self._objects.address

    async def __aenter__(self) -> Self:
        await self._objects.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._objects.close()

    async def get(self, key: Key) -> bytes:
        """See `Store.get`."""
        return (await self._objects.read(parse_key(key))).data

    async def put(self, key: Key, data: bytes) -> None:
        """See `Store.put`."""
        await self._objects.write(parse_key(key), data)

    async def put_file(self, key: Key, path: Path) -> None:
        """See `Store.put_file`."""
        parse_key(key)
        readers = self._readers = self._readers or anyio.CapacityLimiter(_READERS)
        with SourceFile(path) as file:

            async def part(start: int, size: int) -> FilePart:
                return await read_in_thread(lambda: FilePart.of(file.part(start, size)), readers)

            size = await read_in_thread(file.look, readers)
            if size > self._part_size:
                await self._objects.upload(key).send(size, self._part_size, part)
            else:
                await self._objects.write(key, (await part(0, size)).body.getvalue())

    async def size(self, key: Key) -> int:
        """See `Store.size`."""
        return await self._objects.size(parse_key(key))

    async def stream(
        self, key: Key, start: int = 0, stop: int | None = None
    ) -> AsyncGenerator[bytes, None]:
        """See `Store.stream`."""
        async with aclosing(self._objects.stream(parse_key(key), start, stop)) as pieces:
            async for piece in pieces:
                yield piece

    async def link(self, key: Key, good_for: float) -> str:
        """See `Store.link`. With the credentials of a role it is over when they are."""
        return await self._objects.link(parse_key(key), good_for)

    async def get_versioned(self, key: Key) -> Versioned:
        """See `Store.get_versioned`."""
        return (await self._objects.read(parse_key(key))).versioned()

    async def replace(self, key: Key, data: bytes, *, expected: Version | None) -> Version:
        """See `Store.replace`, and the head of this module for what is guaranteed where."""
        parse_key(key)
        if not await self._keeps_conditions():
            async with self._one_by_one:  # within a process nobody needs a claim to wait
                return await self._replace_in_turn(key, data, expected)
        if expected is None:
            return await self._objects.write(key, data, IfNoneMatch="*")
        etag = etag_of(expected)
        if etag is None:
            etag = etag_of(await self._expect(key, expected))
        if etag is None:
            raise StoreCorrupt(key, "the server keeps to ETags, and gave this content none")
        try:
            return await self._objects.write(key, data, IfMatch=etag)
        except NotFound:
            raise Conflict(key, "removed by another writer meanwhile") from None

    async def delete(self, key: Key) -> None:
        """See `Store.delete`."""
        await self._objects.delete(parse_key(key))

    async def list(self, prefix: str = "") -> AsyncIterator[Entry]:
        """See `Store.list`. It is read whole first: not every server sorts it.

        Nor does every server name a key once: rclone names it twice while it is being written.
        """
        parse_prefix(prefix)
        sizes = {
            Key(path): int(item.get("Size", 0))
            async for path, item in self._objects.listing(prefix)
            if is_key(path)
        }
        for key in sorted(sizes):
            yield Entry(key, sizes[key])

    async def _expect(self, key: Key, expected: Version | None) -> Version | None:
        """Read what is there.

        Raises:
            Conflict: it is not what was expected.
        """
        present = await self._objects.present(key)
        version = None if present is None else present.version
        if hash_of(version) != hash_of(expected):
            raise Conflict(key)
        return version

    # Whether the server can compare and swap.

    async def _keeps_conditions(self) -> bool:
        async with self._probing:
            if self._conditional is None:
                self._conditional = await self._probe()
                _log.info("store_conditional_writes", store=self.url, supported=self._conditional)
            return bool(self._conditional)

    async def _probe(self) -> bool | None:
        """Write where the condition does not hold, and see who minds.

        Each write differs, so that a repeated one can be told from another's.

        Returns:
            None where it was refused; then it is tried again next time, lest a clock that
            was wrong for a moment had us take turns among writers that rely on conditions.
        """
        try:
            with suppress(Conflict):
                await self._objects.write(_PROBE, _anything(), IfNoneMatch="*")
            for condition in ({"IfNoneMatch": "*"}, {"IfMatch": _NO_ETAG}):
                try:
                    await self._objects.write(_PROBE, _anything(), **condition)
                except (Conflict, NotFound):
                    continue
                return False
            present = await self._objects.present(_PROBE)
            return present is not None and etag_of(present.version) is not None
        except StoreDenied:
            return None

    # Taking turns, where it cannot.

    async def _replace_in_turn(self, key: Key, data: bytes, expected: Version | None) -> Version:
        now = asyncio.get_running_loop().time
        async with self._turn(key) as turn:
            await self._expect(key, expected)
            late = StoreUnavailable(key, f"not written within {LEASE / 2:.0f} s, given up")
            if now() >= turn.lapses:
                raise late
            turn.unsure = True
            try:
                async with asyncio.timeout_at(turn.lapses):
                    await self._objects.write(key, data)
            except TimeoutError as error:
                raise late from error
            except (StoreDenied, StoreFull):
                turn.unsure = False
                raise
            turn.unsure = False
            present = await self._objects.present(key)
            if present is None or present.data != data:
                raise Conflict(key)
            return present.version

    @asynccontextmanager
    async def _turn(self, key: Key) -> AsyncIterator[_Turn]:
        """Be the only writer of a key.

        Raises:
            Conflict: others came first again and again.
        """
        now = asyncio.get_running_loop().time
        folder = f"{OWN_PREFIX}claims/{hashlib.sha256(key.encode()).hexdigest()[:32]}/"
        deadline = now() + 2 * LEASE
        while now() < deadline:
            claim = f"{folder}{secrets.token_hex(8)}"
            made = now()
            turn = _Turn(lapses=made + LEASE / 2)
            try:
                await self._objects.write(claim, b"a writer's claim")
                if await self._is_first(folder, claim, until=made + LEASE / 4):
                    yield turn
                    return
            finally:
                # Also while being cancelled: a claim that is left holds up the others. So it
                # should, if our write may still arrive.
                if not turn.unsure:
                    with suppress(StoreError, TimeoutError):
                        async with asyncio.timeout(_LAST_WORD):
                            await self._objects.delete(claim)
            await self._sleep(random.uniform(_SHORTEST_LOOK, _LONGEST_LOOK))
        raise Conflict(key, f"other writers came first for {2 * LEASE:.0f} s")

    async def _is_first(self, folder: str, claim: str, *, until: float) -> bool:
        """Wait to be alone. False if another goes first, or does not go.

        Raises:
            StoreUnavailable: the claim is not listed, so nobody can be seen.
        """
        now = asyncio.get_running_loop().time
        listed = False
        while now() < until:
            claims = {path: item async for path, item in self._objects.listing(folder)}
            if claim not in claims:
                # A server that remembers listings may be a moment behind: rclone's is, now and
                # then, where another writer takes its claim away.
                await self._sleep(random.uniform(_SHORTEST_LOOK, _LONGEST_LOOK))
                continue
            listed = True
            mine = claims.pop(claim)["LastModified"]
            for path, item in list(claims.items()):
                if (mine - item["LastModified"]).total_seconds() > LEASE:
                    del claims[path]  # its writer has given up, or died
                    with suppress(StoreError):
                        await self._objects.delete(path)
            if not claims:
                return True
            if min(claims) < claim:
                return False
            await self._sleep(random.uniform(_SHORTEST_LOOK, _LONGEST_LOOK))
        if not listed:
            raise StoreUnavailable(folder, "the server does not list what it was given")
        return False


@dataclass(slots=True)
class _Turn:
    """A time of being alone.

    Attributes:
        lapses: until when that is sure, by the loop's clock.
        unsure: whether a write was begun and it is not known how it ended.
    """

    lapses: float
    unsure: bool = False


def _anything() -> bytes:
    return f"Whether conditional writes work is tried here: {secrets.token_hex(8)}".encode()
