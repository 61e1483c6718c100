"""Asking an S3 server, patiently: time limits, repetition, and its errors in our words.

Everything foreign ends here. What `Requests.ask` raises is a `StoreError`, chained to what
was met; no message holds a key, a signature or a header.
"""

from __future__ import annotations

import asyncio
import io
import itertools
import logging
import random
import re
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import Any, Final, NamedTuple, Protocol, Self, TypeVar
from urllib.parse import urlsplit

import aiohttp
import structlog
from aiobotocore.config import AioConfig  # type: ignore[import-untyped]
from aiobotocore.httpsession import AIOHTTPSession  # type: ignore[import-untyped]
from aiobotocore.session import AioSession  # type: ignore[import-untyped]
from botocore.exceptions import (  # type: ignore[import-untyped]
    BotoCoreError,
    ClientError,
    ConnectionError,  # noqa: A004 - botocore's; it is none of the built-in one's kind
    CredentialRetrievalError,
    HTTPClientError,
    IncompleteReadError,
    NoCredentialsError,
    PartialCredentialsError,
    ReadTimeoutError,
    SSLError,
)
from botocore.handlers import add_expect_header  # type: ignore[import-untyped]
from botocore.parsers import ResponseParserError  # type: ignore[import-untyped]
from botocore.utils import parse_timestamp  # type: ignore[import-untyped]

from cache.backoff import back_off
from cache.outgoing import proxy_for
from cache.stores.credentials import S3Credentials, is_r2
from cache.stores.port import (
    Conflict,
    NotFound,
    StoreDenied,
    StoreError,
    StoreFull,
    StoreUnavailable,
)

T = TypeVar("T")
Answer = Mapping[str, Any]

_log = structlog.get_logger(__name__)

FOREIGN: Final = (
    ClientError,
    BotoCoreError,
    ResponseParserError,
    aiohttp.ClientError,
    OSError,  # TimeoutError among them
)
"""What asking may raise, before it is translated."""

_TRANSPORT: Final = (
    ConnectionError,
    HTTPClientError,
    IncompleteReadError,
    ReadTimeoutError,
    ResponseParserError,
    aiohttp.ClientError,
    OSError,
)
_NO_CREDENTIALS: Final = (NoCredentialsError, PartialCredentialsError, CredentialRetrievalError)

_UNKNOWN: Final = "without a reason"
_CODE: Final = re.compile(r"[A-Za-z][A-Za-z0-9.]{1,63}", re.ASCII)
_AGAIN_STATUS: Final = frozenset({408, 409, 425, 429})
_AGAIN_CODES: Final = frozenset(
    # Some servers say these with status 400.
    {"RequestTimeout", "SlowDown", "Throttling", "ThrottlingException", "TooManyRequests"}
)
_NO_KEY_CODES: Final = frozenset({"NoSuchKey", "NoSuchVersion", "NotFound"})
NO_UPLOAD_CODE: Final = "NoSuchUpload"
_RACE_CODE: Final = "ConditionalRequestConflict"
_FULL_CODE: Final = re.compile(r"StorageFull|QuotaExceeded")

_ELSEWHERE: Final = "the bucket {bucket!r} is in another region, set AWS_DEFAULT_REGION"
_NOT_ACCEPTED: Final = "it does not accept our credentials"
_NO_RIGHT: Final = "our credentials have no right to do this in the bucket {bucket!r}{right}"
_RIGHTS: Final[Mapping[str, str]] = {
    "GetObject": (
        ": s3:GetObject is missing (or the file is, and s3:ListBucket, without which a server"
        " does not tell the one from the other)"
    ),
    "HeadObject": ": s3:GetObject is missing",
    "CreateMultipartUpload": ": s3:PutObject is missing",
    "UploadPart": ": s3:PutObject is missing",
    "CompleteMultipartUpload": ": s3:PutObject is missing",
    "AbortMultipartUpload": ": s3:AbortMultipartUpload is missing",
    "ListObjectsV2": ": s3:ListBucket is missing",
    "PutObject": ": s3:PutObject is missing",
    "DeleteObject": ": s3:DeleteObject is missing",
}
"""What a policy has to allow, by what was asked."""

_WRONG_CLOCK: Final = "the clock of this machine is wrong, or that of the server"
_ADVICE_BY_CODE: Final[Mapping[str, str]] = {
    "AuthorizationHeaderMalformed": _ELSEWHERE,
    "ExpiredToken": _NOT_ACCEPTED,
    "IllegalLocationConstraintException": _ELSEWHERE,
    "InvalidAccessKeyId": _NOT_ACCEPTED,
    "InvalidToken": _NOT_ACCEPTED,
    "NoSuchBucket": "there is no bucket {bucket!r}",
    NO_UPLOAD_CODE: "somebody else has ended the upload",
    "PermanentRedirect": _ELSEWHERE,
    "RequestExpired": _WRONG_CLOCK,
    "RequestTimeTooSkewed": _WRONG_CLOCK,
    "SignatureDoesNotMatch": _NOT_ACCEPTED,
}
_ADVICE_BY_STATUS: Final[Mapping[int, str]] = {
    HTTPStatus.MOVED_PERMANENTLY: _ELSEWHERE,
    HTTPStatus.TEMPORARY_REDIRECT: _ELSEWHERE,
    HTTPStatus.UNAUTHORIZED: _NO_RIGHT,
    HTTPStatus.FORBIDDEN: _NO_RIGHT,
    HTTPStatus.NOT_FOUND: "is the endpoint one of S3?",
}

AWS: Final = "https://s3.amazonaws.com"
MAX_DOCUMENT: Final = 8 * 2**20
"""Bytes of an answer that is no object of ours: a page of a listing, an error."""

_PIECE: Final = 64 * 1024
_AT_ONCE: Final = 2**20
"""Bytes. aiohttp warns of more in one go."""

_HOST_LABEL: Final = re.compile(r"[a-z0-9][a-z0-9-]{1,61}[a-z0-9]", re.ASCII)

_CHATTY: Final = ("botocore", "aiobotocore")
_WARM: Final = 30.0
"""Seconds that an idle connection is kept."""


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How long to wait for a server, and how often to ask it. Times in seconds.

    A request takes at most `total` and the time that its content takes at `slowest`; time
    that it waits for one of our own connections to be free is not counted.

    Attributes:
        connect: to a connection.
        silence: between two parts of an answer.
        attempt: one attempt, besides its content.
        total: all attempts and the pauses between, besides the content of the last.
        attempts: how many at most.
        first_pause: at most this before the second attempt; twice that before each further.
        longest_pause: no pause is longer.
        slowest: bytes a second that a line must carry.
    """

    connect: float = 3.0
    silence: float = 8.0
    attempt: float = 12.0
    total: float = 30.0
    attempts: int = 5
    first_pause: float = 0.1
    longest_pause: float = 3.0
    slowest: float = 32 * 1024


@dataclass(frozen=True, slots=True)
class BucketAccess:
    """Whom to ask for which bucket, and how: what `S3Store` was told."""

    bucket: str
    endpoint_url: str | None
    region: str | None
    credentials: S3Credentials | None
    connections: int
    retry: RetryPolicy
    sleep: Callable[[float], Awaitable[None]]


class _BoundedSession(AIOHTTPSession):  # type: ignore[misc]
    """Reads what is no object, errors above all, up to a bound; the library has none."""

    async def send(self, request: Any) -> Any:  # noqa: ANN401 - botocore's, which has no types
        """Send one request."""
        is_object, request.stream_output = request.stream_output, True
        answer = await super().send(request)
        if not is_object or answer.status_code >= HTTPStatus.MULTIPLE_CHOICES:
            body, ended = bytearray(), False
            try:
                async for piece in answer.raw.content.iter_chunked(_PIECE):
                    body += piece
                    if len(body) > MAX_DOCUMENT:
                        raise not_s3("an end")
                ended = True
            finally:
                if not ended:  # also where the attempt took too long: nobody else closes it
                    answer.raw.close()
            answer._content = bytes(body)  # noqa: SLF001 - where its own reading keeps it
        return answer


class S3Client(Protocol):
    """As much of aiobotocore's client, which has no types, as is used here, in botocore's names."""

    meta: Any

    def get_object(self, *, Bucket: str, Key: str, **part: str) -> Awaitable[Answer]:
        """``GetObject``."""

    def head_object(self, *, Bucket: str, Key: str) -> Awaitable[Answer]:
        """``HeadObject``."""

    def put_object(
        self, *, Bucket: str, Key: str, Body: bytes | io.BytesIO, **conditions: str
    ) -> Awaitable[Answer]:
        """``PutObject``."""

    def create_multipart_upload(self, *, Bucket: str, Key: str) -> Awaitable[Answer]:
        """``CreateMultipartUpload``."""

    def upload_part(
        self,
        *,
        Bucket: str,
        Key: str,
        UploadId: str,
        PartNumber: int,
        Body: io.BytesIO,
        ContentMD5: str,
    ) -> Awaitable[Answer]:
        """``UploadPart``."""

    def complete_multipart_upload(
        self, *, Bucket: str, Key: str, UploadId: str, MultipartUpload: Mapping[str, Any]
    ) -> Awaitable[Answer]:
        """``CompleteMultipartUpload``."""

    def abort_multipart_upload(self, *, Bucket: str, Key: str, UploadId: str) -> Awaitable[Answer]:
        """``AbortMultipartUpload``."""

    def generate_presigned_url(
        self, ClientMethod: str, *, Params: Mapping[str, str], ExpiresIn: int
    ) -> Awaitable[str]:
        """An address that is signed beforehand."""

    def delete_object(self, *, Bucket: str, Key: str) -> Awaitable[Answer]:
        """``DeleteObject``."""

    def list_objects_v2(self, *, Bucket: str, Prefix: str, **token: str) -> Awaitable[Answer]:
        """``ListObjectsV2``."""


def connect(access: BucketAccess) -> AbstractAsyncContextManager[S3Client]:
    """Make a client; connections are made as they are needed, and closed on leaving."""
    # On DEBUG they log what they sign, a session's token and all headers.
    for name in _CHATTY:
        logger = logging.getLogger(name)
        logger.setLevel(max(logger.level, logging.INFO))
    endpoint_url, credentials = access.endpoint_url, access.credentials
    region = access.region or ("auto" if is_r2(endpoint_url) else None)
    session = AioSession()
    # It would have aiohttp wait for a permission to send the body, without any limit of time,
    # and some servers give none. It also costs a round trip.
    session.unregister("before-call.s3", add_expect_header)
    # Each answer has a date. Guessing its format costs as much as signing the request.
    session.get_component("response_parser_factory").set_parser_defaults(timestamp_parser=read_time)
    if region is None:
        # It takes the environment's as it stands there, be it with a carriage return behind it.
        named = session.get_config_variable("region")
        region = str(named or "").strip() or "us-east-1"  # where those without think they are
    proxy = proxy_for(endpoint_url or AWS)
    config = AioConfig(
        # Empty is none: left out, botocore would look into the environment by rules of its own.
        proxies={} if proxy is None else {"http": proxy, "https": proxy},
        http_session_cls=_BoundedSession,
        connect_timeout=access.retry.connect,
        read_timeout=access.retry.silence,
        max_pool_connections=access.connections,
        connector_args={"keepalive_timeout": _WARM},
        retries={"total_max_attempts": 1},  # `Requests` repeats; both would multiply
        s3={"addressing_style": _addressing(access)},
        # Left out, links would be signed in the old way, which R2 and AWS's newer regions refuse.
        signature_version="s3v4",
        # Servers other than AWS stumble over checksums that nothing asks for.
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
        parameter_validation=False,  # ours are typed; it is done for each request
        warm_up_loader_caches=True,  # in a thread: it reads megabytes of JSON
        user_agent="Understudy",  # one that botocore would not put together for each request
    )
    keys = (
        {}
        if credentials is None
        else {
            "aws_access_key_id": credentials.access_key_id,
            "aws_secret_access_key": credentials.secret_access_key,
            "aws_session_token": credentials.session_token,
        }
    )
    client: AbstractAsyncContextManager[S3Client] = session.create_client(
        "s3", endpoint_url=endpoint_url, region_name=region, config=config, **keys
    )
    return client


def _addressing(access: BucketAccess) -> str:
    """How a bucket is named in an address. Only AWS is sure to know it by its host name.

    With "auto" botocore makes links to AWS's global host, which sends whoever follows them on to
    the bucket's region, where the signature, made for another host, does not count.
    """
    if access.endpoint_url:
        return "path"
    return "virtual" if _HOST_LABEL.fullmatch(access.bucket) else "auto"


def body_of(data: bytes) -> bytes | io.BytesIO:
    """What to send, as aiohttp wants it: a large content in one go would hold up the loop."""
    return io.BytesIO(data) if len(data) > _AT_ONCE else data


def read_time(text: str | float) -> datetime:
    """A time as servers write it: of HTTP, of ISO 8601, or whatever else botocore can guess.

    Raises:
        ValueError: it is none.
    """
    if isinstance(text, str):
        for read in (datetime.fromisoformat, parsedate_to_datetime):
            try:
                time = read(text)
            except ValueError:
                continue
            return time if time.tzinfo is not None else time.replace(tzinfo=UTC)
    guessed: datetime = parse_timestamp(text)
    return guessed


class Attempt(NamedTuple):
    """One attempt of a request: the first has number 1."""

    number: int
    limit: asyncio.Timeout
    slowest: float

    def allow(self, size: int) -> None:
        """Give it the time that so many bytes may take."""
        when = self.limit.when()
        if when is not None:
            self.limit.reschedule(when + size / self.slowest)


class Refusal(NamedTuple):
    """An answer that says no: its HTTP status, and the server's word for what is wrong."""

    status: int
    code: str

    @classmethod
    def of(cls, error: Exception) -> Self:
        """Read botocore's error. Nothing else that a server says is ever repeated."""
        answer: Answer = getattr(error, "response", None) or {}
        status = answer.get("ResponseMetadata", {}).get("HTTPStatusCode")
        code = str(answer.get("Error", {}).get("Code"))
        return cls(
            status if isinstance(status, int) else 0, code if _CODE.fullmatch(code) else _UNKNOWN
        )

    @property
    def may_pass(self) -> bool:
        """Whether the same request may be answered otherwise in a moment."""
        return (
            self.status in _AGAIN_STATUS
            or self.code in _AGAIN_CODES
            or (
                self.status >= HTTPStatus.INTERNAL_SERVER_ERROR
                and self.status != HTTPStatus.NOT_IMPLEMENTED
            )
        )


def not_s3(what: str) -> Exception:
    """An error for `Requests.ask` to translate: a proxy or a hotel's network answered."""
    error: Exception = ResponseParserError(f"an answer without {what}")
    return error


class Requests:
    """Asks one server for one bucket, within limits of time and number."""

    def __init__(self, access: BucketAccess) -> None:
        self._access = access
        self._host = urlsplit(access.endpoint_url).netloc if access.endpoint_url else "AWS"
        self._slots = asyncio.Semaphore(access.connections)

    async def ask(
        self, key: str, request: Callable[[Attempt], Awaitable[T]], *, size: int = 0
    ) -> T:
        """Ask until there is an answer, or no hope of one.

        Args:
            key: what errors tell of.
            request: sends one attempt; it may be called several times.
            size: bytes that it sends.

        Raises:
            StoreError: of the kind that the last attempt met.
        """
        retry, now = self._access.retry, asyncio.get_running_loop().time
        left = retry.total
        for number in itertools.count(1):
            async with self._slots:  # waiting for our own turn is not the server's silence
                started = now()
                try:
                    async with asyncio.timeout(min(retry.attempt, left)) as limit:
                        attempt = Attempt(number, limit, retry.slowest)
                        attempt.allow(size)
                        return await request(attempt)
                except FOREIGN as error:
                    met, failure = error, self._translate(key, error)
                    # A store that does not answer is asked again; a wrong certificate stays wrong.
                    again = isinstance(failure, StoreUnavailable) and not isinstance(met, SSLError)
                left -= now() - started
            longest = back_off(number, retry.first_pause, retry.longest_pause)
            pause = random.uniform(0.0, longest)
            left -= pause
            if not again or number >= retry.attempts or left <= 0:
                raise failure from met
            _log.info("store_asked_again", key=key, attempt=number, reason=str(failure))
            await self._access.sleep(pause)
        raise AssertionError  # for the type checker: counting does not end

    def _translate(self, key: str, error: Exception) -> StoreError:
        if isinstance(error, BotoCoreError):
            error.kwargs.pop("request", None)  # it holds the signature
        if isinstance(error, ClientError):
            refusal = Refusal.of(error)
            # The rest of what servers say may be our key, or what they would have signed.
            error.args = (f"{error.operation_name}: {refusal.status} {refusal.code}",)
            return self._refused(key, refusal, error.operation_name)
        if isinstance(error, SSLError):
            return StoreUnavailable(key, f"no secure connection to {self._host}")
        if isinstance(error, _NO_CREDENTIALS):
            return StoreDenied(
                key,
                f"no credentials for {self._host}: set AWS_ACCESS_KEY_ID and "
                "AWS_SECRET_ACCESS_KEY, or those of R2",
            )
        if isinstance(error, _TRANSPORT):
            return StoreUnavailable(key, f"{self._host} {_what_happened(error)}")
        return StoreDenied(key, f"{self._host} cannot be asked ({type(error).__name__})")

    def _refused(self, key: str, refusal: Refusal, operation: str) -> StoreError:
        """What an answer means that says no."""
        status, code = refusal
        said = f"{self._host} answered {status} {code}"
        if status == HTTPStatus.NOT_FOUND and code in _NO_KEY_CODES:
            return NotFound(key)
        if status == HTTPStatus.PRECONDITION_FAILED or code == _RACE_CODE:
            return Conflict(key)
        if status == HTTPStatus.INSUFFICIENT_STORAGE or _FULL_CODE.search(code):
            return StoreFull(key, said)
        if refusal.may_pass:
            return StoreUnavailable(key, said)
        advice = _ADVICE_BY_CODE.get(code) or _ADVICE_BY_STATUS.get(status)
        if advice is not None:
            right = _RIGHTS.get(operation, "")
            said = f"{said}: {advice.format(bucket=self._access.bucket, right=right)}"
        return StoreDenied(key, said)


def _what_happened(error: Exception) -> str:
    if isinstance(error, ResponseParserError):
        return "answered with something that is not S3"
    if isinstance(error, IncompleteReadError | aiohttp.ClientPayloadError):
        return "broke off in the middle of a content"
    if isinstance(error, TimeoutError | ReadTimeoutError):
        return "does not answer in time"
    return "cannot be reached, or hung up"
