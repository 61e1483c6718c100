"""Objects of one bucket under one prefix: read, write, delete and list, by path.

Paths are keys, and the store's own hidden ones; nothing here looks at them.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AsyncExitStack, closing, suppress
from http import HTTPStatus
from typing import Final, NamedTuple
from urllib.parse import urlsplit

import aiohttp
from botocore.exceptions import ClientError, IncompleteReadError  # type: ignore[import-untyped]

from cache.stores.port import (
    PIECE,
    Conflict,
    NotFound,
    StoreCorrupt,
    Version,
    Versioned,
    content_version,
)
from cache.stores.s3.client import (
    AWS,
    FOREIGN,
    Answer,
    Attempt,
    BucketAccess,
    Refusal,
    Requests,
    body_of,
    connect,
    not_s3,
)
from cache.stores.s3.fast_get import FastGet
from cache.stores.s3.multipart import MultipartUpload

_PORTS: Final = {"http": 80, "https": 443}
MAX_CONTENT: Final = 256 * 2**20
"""Bytes of one object that are read into memory."""

_FIRST_WINDOW: Final = PIECE
_LARGEST_WINDOW: Final = 4 * 2**20
_LONGEST_LINK: Final = 7 * 24 * 3600
"""Seconds. S3 knows no links that are good for longer than a week."""

_RANGE: Final = re.compile(r"bytes (\d+)-(\d+)/(\d+)", re.ASCII)


class ObjectContent(NamedTuple):
    """What an object holds, and the server's tag for it."""

    data: bytes
    etag: str

    def version(self) -> Version:
        """A hash, which can always be compared, and the ETag, which If-Match wants."""
        if self.etag.startswith("W/"):  # a weak one matches nothing
            return content_version(self.data)
        return Version(f"{content_version(self.data)} {self.etag}")

    def versioned(self) -> Versioned:
        """The content with its version."""
        return Versioned(self.data, self.version())


class ObjectWindow(NamedTuple):
    """A part of an object.

    Attributes:
        pieces: its bytes, in order.
        total: bytes that the object has.
        etag: the server's tag for it; empty where there is nothing from `start` on.
    """

    pieces: deque[bytes]
    total: int
    etag: str


def hash_of(version: Version | None) -> str | None:
    """The part of a version that stands for the content alone."""
    return None if version is None else version.partition(" ")[0]


def etag_of(version: Version | None) -> str | None:
    """The ETag in a version, if it has one that If-Match can use."""
    return (version or "").partition(" ")[2] or None


def _etag_in(answer: Answer) -> str:
    """The ETag, which every S3 server gives to every content."""
    etag = answer.get("ETag")
    if not etag:
        raise not_s3("an ETag")
    return str(etag)


def _range_of(answer: aiohttp.ClientResponse, start: int, stop: int) -> tuple[int, int]:
    """How many bytes an answer brings, and of how many."""
    # Its status tells nothing: rclone answers 200 with a part.
    found, length = answer.headers.get("Content-Range"), answer.content_length
    if found is None and start == 0 and length is not None and length <= stop:
        return length, length  # the whole, where it is no longer than the part
    matched = _RANGE.fullmatch(found or "")
    if matched is not None:
        first, last, total = map(int, matched.groups())
        if first == start and last == min(stop, total) - 1:
            return last + 1 - first, total
    raise not_s3("the range that was asked for")


def _check_size(path: str, size: int) -> None:
    if size > MAX_CONTENT:
        raise StoreCorrupt(path, f"expected at most {MAX_CONTENT} bytes, found {size} or more")


class Bucket:
    """Objects of one bucket under one prefix. To be opened before use."""

    def __init__(self, access: BucketAccess, prefix: str) -> None:
        self._access = access
        self._bucket = access.bucket
        self._prefix = prefix
        self._requests = Requests(access)
        self._stack: AsyncExitStack | None = None
        self._asked: FastGet | None = None

    @property
    def url(self) -> str:
        """``s3://bucket/prefix``."""
        return f"s3://{self._bucket}/{self._prefix}".rstrip("/")

    @property
    def address(self) -> str:
        """The endpoint's, then ``/bucket/prefix``."""
        parts = urlsplit(self._access.endpoint_url or AWS)
        port = "" if parts.port in {None, _PORTS.get(parts.scheme)} else f":{parts.port}"
        path = f"{parts.path.rstrip('/')}/{self._bucket}/{self._prefix}".rstrip("/")
        return f"{parts.scheme}://{parts.hostname}{port}{path}"

    async def open(self) -> None:
        """Make the client; nothing is asked yet."""
        async with AsyncExitStack() as stack:
            client = await stack.enter_async_context(connect(self._access))
            self._asked = FastGet(client, self._bucket)
            self._stack = stack.pop_all()

    async def close(self) -> None:
        """Close all connections."""
        stack, self._stack, self._asked = self._stack, None, None
        if stack is not None:
            await stack.aclose()

    def _ready(self) -> FastGet:
        if self._asked is None:
            raise RuntimeError(f"{self.url} is to be entered before use")
        return self._asked

    async def read(self, path: str) -> ObjectContent:
        """One object, whole.

        Raises:
            NotFound: there is none.
        """
        fast = self._ready()

        async def request(attempt: Attempt) -> ObjectContent:
            with closing(await fast.get(self._prefix + path)) as answer:
                length = answer.content_length
                attempt.allow(length or 0)
                _check_size(path, length or 0)
                pieces, size = [], 0
                async for piece, _ in answer.content.iter_chunks():
                    pieces.append(piece)
                    size += len(piece)
                    _check_size(path, size)
                if length is not None and size != length:
                    raise IncompleteReadError(actual_bytes=size, expected_bytes=length)
                return ObjectContent(b"".join(pieces), _etag_in(answer.headers))

        return await self._requests.ask(path, request)

    async def size(self, path: str) -> int:
        """Bytes of one object.

        Raises:
            NotFound: there is none.
        """
        fast = self._ready()
        place = self._place(path)

        async def request(_: Attempt) -> int:
            try:
                answer = await fast.client.head_object(**place)
            except ClientError:
                # The answer to a HEAD has no body: why it was refused is told to a GET alone.
                with closing(await fast.get(place["Key"])) as found:
                    length = found.content_length
            else:
                _etag_in(answer)
                length = answer.get("ContentLength")
            if length is None:
                raise not_s3("a length")
            return int(length)

        return await self._requests.ask(path, request)

    async def stream(self, path: str, start: int, stop: int | None) -> AsyncGenerator[bytes, None]:
        """One object, or a part of it, window by window.

        Each is a request of its own, with all the patience of one, and read to its end at once:
        so whoever reads slowly holds no connection, and what he leaves is not left open. The
        first are small, for who wants a few bytes is not to wait for many.

        Raises:
            NotFound: there is none.
            Conflict: it was changed or removed meanwhile.
        """
        if stop is not None and stop <= start:
            await self.size(path)
            return
        at, size, etag = start, _FIRST_WINDOW, ""
        while stop is None or at < stop:
            end = at + size if stop is None else min(at + size, stop)
            try:
                window = await self._window(path, at, end, etag)
            except NotFound:
                if not etag:
                    raise
                raise Conflict(path, "removed while it was read") from None
            if etag not in {"", window.etag}:
                raise Conflict(path, "changed while it was read")
            etag = window.etag
            stop = window.total if stop is None else min(stop, window.total)
            while window.pieces:  # which are let go of one by one
                piece = window.pieces.popleft()
                at += len(piece)
                yield piece
            size = min(2 * size, _LARGEST_WINDOW)

    async def _window(self, path: str, start: int, stop: int, etag: str) -> ObjectWindow:
        """A part of one object, of the content that the ETag stands for where one is given."""
        client = self._ready().client
        part = {"Range": f"bytes={start}-{stop - 1}"}
        if etag and not etag.startswith("W/"):  # a weak one matches nothing
            part["IfMatch"] = etag

        async def request(attempt: Attempt) -> ObjectWindow:
            try:
                answer = await client.get_object(**self._place(path), **part)
            except ClientError as error:
                if Refusal.of(error).status == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
                    return ObjectWindow(deque(), start, "")
                raise
            raw: aiohttp.ClientResponse = answer["Body"].raw_stream
            with closing(raw) as content:
                length, total = _range_of(content, start, stop)
                attempt.allow(length)
                pieces: deque[bytes] = deque()
                came = 0
                async for piece in content.content.iter_chunked(PIECE):
                    pieces.append(piece)
                    came += len(piece)
                    if came > length:
                        raise not_s3("an end")
                if came != length:
                    raise IncompleteReadError(actual_bytes=came, expected_bytes=length)
                return ObjectWindow(pieces, total, _etag_in(content.headers))

        return await self._requests.ask(path, request)

    async def link(self, path: str, good_for: float) -> str:
        """An address that opens one object for so many seconds. Nobody is asked for it."""
        client = self._ready().client
        seconds = max(1, min(int(good_for), _LONGEST_LINK))

        async def request(_: Attempt) -> str:
            return await client.generate_presigned_url(
                "get_object", Params=self._place(path), ExpiresIn=seconds
            )

        return await self._requests.ask(path, request)

    def upload(self, path: str) -> MultipartUpload:
        """A way to write one object in parts."""
        return MultipartUpload(self._ready().client, self._requests, path, self._place(path))

    def _place(self, path: str) -> dict[str, str]:
        return {"Bucket": self._bucket, "Key": self._prefix + path}

    async def write(self, path: str, data: bytes, **conditions: str) -> Version:
        """Write one object; conditions are those of `S3Client.put_object`.

        Raises:
            Conflict: a condition does not hold, and what is there is not `data` either.
            NotFound: If-Match, and nothing is there.
        """
        client = self._ready().client

        async def request(_: Attempt) -> Version:
            answer = await client.put_object(**self._place(path), Body=body_of(data), **conditions)
            return ObjectContent(data, _etag_in(answer)).version()

        try:
            return await self._requests.ask(path, request, size=len(data))
        except Conflict:
            # Our own content may be what is in the way: an attempt before was done, and its
            # answer lost. It cannot be counted on to have been ours: aiohttp repeats, too.
            present = await self.present(path)
            if present is None or present.data != data:
                raise
            return present.version

    async def delete(self, path: str) -> None:
        """Remove one object, if it is there."""
        client = self._ready().client
        place = self._place(path)

        async def is_there() -> bool:
            try:
                await client.head_object(**place)
            except FOREIGN as error:
                return Refusal.of(error).status != HTTPStatus.NOT_FOUND
            return True

        async def request(_: Attempt) -> None:
            try:
                await client.delete_object(**place)
            except ClientError as error:
                # rclone fails to delete what is a folder on its disk. It is no key.
                failed = Refusal.of(error).status >= HTTPStatus.INTERNAL_SERVER_ERROR
                if not failed or await is_there():
                    raise

        with suppress(NotFound):
            await self._requests.ask(path, request)

    async def listing(self, prefix: str) -> AsyncIterator[tuple[str, Answer]]:
        """What lies in the bucket, page by page: paths that begin so, and what is told of them."""
        client = self._ready().client
        token: dict[str, str] = {}

        async def request(_: Attempt) -> Answer:
            page = await client.list_objects_v2(
                Bucket=self._bucket, Prefix=self._prefix + prefix, **token
            )
            if "IsTruncated" not in page:
                raise not_s3("an end")
            return page

        while True:
            page = await self._requests.ask(prefix, request)
            for item in page.get("Contents", ()):
                yield str(item["Key"]).removeprefix(self._prefix), item
            if not page["IsTruncated"]:
                return
            following = page.get("NextContinuationToken")
            if not following or following == token.get("ContinuationToken"):
                raise StoreCorrupt(prefix, "the server's listing does not go on, nor end")
            token["ContinuationToken"] = following

    async def present(self, path: str) -> Versioned | None:
        """One object, or None."""
        try:
            return (await self.read(path)).versioned()
        except NotFound:
            return None
