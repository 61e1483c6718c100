"""Writing a large object in parts, of which the bucket keeps nothing unless all have come."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import io
import itertools
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from typing import Final, NamedTuple

import structlog
from botocore.exceptions import ClientError  # type: ignore[import-untyped]  # it has no types

from cache.stores.port import StoreError
from cache.stores.s3.client import (
    FOREIGN,
    NO_UPLOAD_CODE,
    Answer,
    Attempt,
    Refusal,
    Requests,
    S3Client,
    not_s3,
)
from cache.stores.to_its_end import to_its_end
from cache.tasks import cancel_and_wait

_log = structlog.get_logger(__name__)

_AT_ONCE: Final = 3
"""Parts under way: so many are in memory."""

_MOST_PARTS: Final = 10_000
_LAST_WORD: Final = 5.0
"""Seconds for giving an upload up while being cancelled."""


class FilePart(NamedTuple):
    """A part of a file, as it is sent.

    Attributes:
        body: its bytes; the only ones: what is made of bytes that are held elsewhere is copied
            by aiohttp.
        size: how many.
        md5: of them.
    """

    body: io.BytesIO
    size: int
    md5: bytes

    @classmethod
    def of(cls, data: bytes) -> FilePart:
        """Hash it: for threads, as it takes milliseconds."""
        md5 = hashlib.md5(data, usedforsecurity=False).digest()
        return cls(io.BytesIO(data), len(data), md5)


class MultipartUpload:
    """One upload: begun, sent and completed by `send`, or given up.

    Whoever is killed leaves what he had sent in the bucket, where nobody sees it, and it is
    paid for: a rule of the bucket's that aborts unfinished uploads after a day tidies up.

    Args:
        client: what the server is asked with.
        requests: how patiently.
        path: what errors tell of.
        place: the bucket and the key in it.
    """

    def __init__(
        self, client: S3Client, requests: Requests, path: str, place: Mapping[str, str]
    ) -> None:
        self._client = client
        self._requests = requests
        self._path = path
        self._place = place

    async def send(
        self, size: int, part_size: int, read: Callable[[int, int], Awaitable[FilePart]]
    ) -> None:
        """Send a content; cancelled or failed, it leaves nothing unless it was complete already.

        Args:
            size: bytes that it has; more than none.
            part_size: bytes of each part but the last. They are larger where there would be more
                than S3 takes.
            read: reads so many bytes from a place on.
        """
        part_size = max(part_size, -(-size // _MOST_PARTS))
        starts = range(0, size, part_size)
        # Cancelled while it begins, it may have begun on the server. So the answer, which has the
        # name to give it up by, is waited for in any case.
        beginning = asyncio.create_task(self._begin())
        try:
            upload = await asyncio.shield(beginning)
            sent: dict[int, tuple[str, bytes]] = {}
            following = enumerate(starts, 1)

            async def send_one(number: int, start: int) -> None:
                part = await read(start, min(part_size, size - start))
                sent[number] = (await self._send_part(upload, number, part), part.md5)

            async def send_on() -> None:
                for number, start in following:  # one part is let go of before the next is read
                    await send_one(number, start)

            senders = [asyncio.create_task(send_on()) for _ in itertools.repeat(None, _AT_ONCE)]
            try:
                await asyncio.gather(*senders)
            finally:
                await cancel_and_wait(*senders)
            await self._complete(upload, [sent[number] for number in sorted(sent)], size)
        except BaseException:  # a cancel, too: parts of an upload that nobody ends cost money
            await to_its_end(self._give_up(beginning))
            raise

    async def _begin(self) -> str:
        async def request(_: Attempt) -> str:
            answer = await self._client.create_multipart_upload(**self._place)
            if not answer.get("UploadId"):
                raise not_s3("an upload's name")
            return str(answer["UploadId"])

        return await self._requests.ask(self._path, request)

    async def _send_part(self, upload: str, number: int, part: FilePart) -> str:
        """Send one part; its ETag."""
        # The server compares it. It also spares us, over TLS, to hash the body for the signature,
        # which would be done on the event loop.
        md5 = base64.b64encode(part.md5).decode()

        async def request(_: Attempt) -> str:
            part.body.seek(0)
            answer = await self._client.upload_part(
                **self._place,
                UploadId=upload,
                PartNumber=number,
                Body=part.body,
                ContentMD5=md5,
            )
            if not answer.get("ETag"):
                raise not_s3("an ETag")
            return str(answer["ETag"])

        return await self._requests.ask(self._path, request, size=part.size)

    async def _complete(self, upload: str, sent: list[tuple[str, bytes]], size: int) -> None:
        parts = [{"PartNumber": number, "ETag": etag} for number, (etag, _) in enumerate(sent, 1)]
        whole = hashlib.md5(b"".join(md5 for _, md5 in sent), usedforsecurity=False).hexdigest()

        async def request(attempt: Attempt) -> None:
            try:
                answer = await self._client.complete_multipart_upload(
                    **self._place, UploadId=upload, MultipartUpload={"Parts": parts}
                )
            except ClientError as error:
                # An attempt before may have been done, and its answer lost.
                again = attempt.number > 1 and Refusal.of(error).code == NO_UPLOAD_CODE
                if again and await self._etag_there() == f'"{whole}-{len(sent)}"':
                    return
                raise
            if not answer.get("ETag"):
                raise not_s3("an ETag")

        await self._requests.ask(self._path, request, size=size)

    async def _etag_there(self) -> str | None:
        """The ETag of the object that is there now, if one can be had."""
        with suppress(*FOREIGN):
            answer: Answer = await self._client.head_object(**self._place)
            return str(answer.get("ETag"))
        return None

    async def _give_up(self, beginning: asyncio.Task[str]) -> None:
        """Have the server forget the upload, if it knows of one; for some seconds at most."""
        try:
            async with asyncio.timeout(_LAST_WORD):
                with suppress(StoreError):
                    await beginning
                if beginning.exception() is None:
                    await self._requests.ask(self._path, self._abort(beginning.result()))
        except (StoreError, TimeoutError) as error:
            reason = str(error) or f"no answer within {_LAST_WORD:g} s"
            _log.warning("upload_not_aborted", key=self._path, reason=reason)

    def _abort(self, upload: str) -> Callable[[Attempt], Awaitable[None]]:
        async def request(_: Attempt) -> None:
            try:
                await self._client.abort_multipart_upload(**self._place, UploadId=upload)
            except ClientError as error:
                if Refusal.of(error).code != NO_UPLOAD_CODE:  # it came to its end otherwise
                    raise

        return request
