"""Getting objects as the one before was got.

aiobotocore finds out for each object anew how its bucket is addressed, asks dozens of hooks, and
makes a typed answer of every header: that takes a third of the time that fetching a file takes a
processor (`benchmarks/cache.py`). Here its own endpoint signs and sends, with the client's
credentials, time limits, proxy and TLS, what differs from the request before by the key alone.

What is not answered with a content is asked for once more by aiobotocore itself: it alone knows of
other regions, and what a refusal means is found out in one place.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import Any, NamedTuple
from urllib.parse import quote

import aiohttp

from cache.stores.s3.client import S3Client


class _Example(NamedTuple):
    """A request that was answered with a content; all of it aiobotocore's, which has no types."""

    endpoint: Any
    operation: Any
    request: dict[str, Any]

    async def ask(self, key: str) -> aiohttp.ClientResponse | None:
        """The answer for another key; None for one without a content."""
        old, new = self.request["url_path"], f"/{quote(key, safe='/~')}"
        like = {
            **self.request,
            **{name: self.request[name].removesuffix(old) + new for name in ("url", "auth_path")},
            "url_path": new,
            # Signing writes into it, and an attempt's number and name would be those of another.
            "context": {**self.request["context"], "retries": {}},
        }
        signed = await self.endpoint.create_request(like, self.operation)
        answer = await self.endpoint.http_session.send(signed)
        content: aiohttp.ClientResponse = answer.raw
        if answer.status_code < HTTPStatus.MULTIPLE_CHOICES:
            return content
        content.release()  # nobody reads what a refusal says here, and it holds a connection
        return None


class FastGet:
    """Gets objects of one bucket.

    Attributes:
        client: what all else is asked with.
    """

    def __init__(self, client: S3Client, bucket: str) -> None:
        self.client = client
        self._bucket = bucket
        self._example: _Example | None = None
        # The one hook that is told of an answer together with what was asked, and by whom.
        client.meta.events.register("needs-retry.s3.GetObject", self._learn)

    async def get(self, key: str) -> aiohttp.ClientResponse:
        """The answer for a key, of which the content is still to be read; to be closed then.

        Raises:
            Exception: one of `cache.stores.s3.client.FOREIGN`.
        """
        if self._example is not None:
            content = await self._example.ask(key)
            if content is not None:
                return content
            self._example = None
        answer = await self.client.get_object(Bucket=self._bucket, Key=key)
        slow: aiohttp.ClientResponse = answer["Body"].raw_stream
        return slow

    def _learn(
        self,
        *,
        response: Any,  # noqa: ANN401 - botocore's, which has no types
        endpoint: Any,  # noqa: ANN401 - likewise
        operation: Any,  # noqa: ANN401 - likewise
        request_dict: dict[str, Any],
        **_: object,
    ) -> None:
        """Remember how an object was got. To be asked again, which this hook is for, is no need."""
        got = response is not None and response[0].status_code == HTTPStatus.OK
        # rclone answers with that status, too, where only a part was asked for.
        whole = "Range" not in request_dict["headers"]
        if got and whole and request_dict["url"].endswith(request_dict["url_path"]):
            self._example = _Example(endpoint, operation, request_dict)
