"""Asks a running Studio over HTTP, as its terminal commands do, and reads what it answers.

What answers may be another program, or a Studio of another release: of an answer only what is
needed is read, and what cannot be read is said in one line.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from typing import Annotated, Any, Final, TypeVar
from urllib.parse import urlsplit

import httpx
import typer
from pydantic import BaseModel, ConfigDict, SecretStr, ValidationError

from cache.outgoing import has_password, reason_of, redacted
from cache.untrusted import Unfit, decode_answer, one_line
from generator.outgoing import Client, ask, bearer, bounded_lines, outgoing_client, stream
from server.cli.common import fail, reading, token_of
from server.config.environment import STUDIO_TOKEN, why_no_token

A = TypeVar("A", bound=BaseModel)
T = TypeVar("T")

UrlOption = Annotated[
    str, typer.Option(help=f"Where the Studio is; a token comes from {STUDIO_TOKEN}.")
]
STUDIO_URL: Final = "http://127.0.0.1:8100"

_WITHIN: Final = 60.0
"""Seconds; longer than a Studio lets anybody wait for a job."""

_MAX_ANSWER: Final = 16 * 2**20
_MAX_PICTURE: Final = 64 * 2**20
_MAX_LINE: Final = 2**20
_MAX_SAID: Final = 600
_DATA: Final = "data: "
_SUFFIXES: Final = {"image/jpeg": ".jpg", "image/png": ".png", "image/webp": ".webp"}

_AWAY: Final = frozenset({502, 503, 504})
"""What it answers, or a reverse proxy before it, while it cannot."""

_WRONG_USE: Final = frozenset({"bad_request", "too_large"})
ENDED: Final = frozenset({"completed", "failed", "cancelled"})


class StudioFailed(Exception):
    """A Studio does not do what it was asked to.

    Attributes:
        status: of the program: 2 where it was asked for what cannot be.
    """

    def __init__(self, message: str, status: int = 1) -> None:
        super().__init__(message)
        self.status = status


class StudioAway(StudioFailed):
    """It cannot be reached, or cannot answer now; a while later it may."""


class StudioAnswer(BaseModel):
    """So much of an answer as is needed; what else there is in it is passed over."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class ProblemAnswer(StudioAnswer):
    """Why something failed, or waits."""

    code: str = ""
    message: str = ""


class ItemAnswer(StudioAnswer):
    """One picture of a job."""

    n: int
    status: str
    seed: int
    url: str | None = None
    error: ProblemAnswer | None = None


class JobAnswer(StudioAnswer):
    """What the terminal reads of a job; `server/studio/documents.py` writes it."""

    id: str
    status: str
    total: int
    done: int
    failed: int = 0
    eta_seconds: float | None = None
    items: tuple[ItemAnswer, ...] = ()
    error: ProblemAnswer | None = None
    request: Mapping[str, Any] = {}

    @property
    def short(self) -> str:
        """So much of its id as tells it from the others."""
        return self.id[:8]


class JobsAnswer(StudioAnswer):
    """A page of one's jobs."""

    jobs: tuple[JobAnswer, ...]


class _RefusedField(StudioAnswer):
    message: str
    field: str = ""

    @property
    def line(self) -> str:
        """Where something is wrong, and what was expected, in one line."""
        return one_line(f"{self.field}: {self.message}" if self.field else self.message, _MAX_SAID)


class _ErrorAnswer(StudioAnswer):
    code: str
    message: str
    problems: tuple[_RefusedField, ...] = ()

    @property
    def line(self) -> str:
        """What is wrong, in one line."""
        return one_line(self.message, _MAX_SAID)


class _RefusalAnswer(StudioAnswer):
    error: _ErrorAnswer


@dataclass(frozen=True, slots=True)
class FetchedPicture:
    """A picture's bytes, and what a file of them ends in."""

    data: bytes
    suffix: str


def studio_address(url: str) -> str:
    """The address of a Studio as it was typed, without what stands behind its path.

    Raises:
        ValueError: it is none; no password is told.
    """
    url = url if "://" in url else f"http://{url}"
    if has_password(url):
        raise ValueError(f"without a user and a password; a token comes from {STUDIO_TOKEN}")
    parts = urlsplit(url)
    host, _ = parts.hostname, parts.port  # a port that is no number is told here
    if parts.scheme not in {"http", "https"} or not host:
        raise ValueError(f"expected an address such as http://10.0.0.5:8100, not {redacted(url)!r}")
    return f"{parts.scheme}://{parts.netloc}{parts.path}".rstrip("/")


@dataclass(frozen=True)
class StudioClient:
    """Asks one Studio.

    Args:
        client: to be entered and left by its owner.
        url: where it is, as of `studio_address`.
        token: who asks; None for whoever sits at the machine.
    """

    client: Client
    url: str
    token: SecretStr | None

    async def json(
        self,
        method: str,
        path: str,
        body: object = None,
        headers: Mapping[str, str] | None = None,
    ) -> Any:  # noqa: ANN401 - whatever JSON holds
        """What it answers.

        Raises:
            StudioAway: it cannot be reached, or cannot answer now.
            StudioFailed: with what it says.
        """
        request: dict[str, Any] = {} if body is None else {"json": body}
        answer = await self._ask(method, path, _MAX_ANSWER, headers or {}, request)
        try:
            found = decode_answer(answer.content)
        except Unfit:
            raise self._no_studio(answer.status_code) from None
        if not answer.is_success:
            raise self._refused(answer.status_code, found)
        return found

    def read(self, kind: type[A], document: object) -> A:
        """What is needed of an answer.

        Raises:
            StudioFailed: it is no Studio's.
        """
        try:
            return kind.model_validate(document)
        except ValidationError:
            raise self._no_studio(httpx.codes.OK) from None

    async def picture(self, path: str) -> FetchedPicture:
        """A picture.

        Raises:
            StudioAway: the Studio cannot be reached, or cannot answer now.
            StudioFailed: it has none.
        """
        answer = await self._ask("GET", path, _MAX_PICTURE, {}, {})
        if answer.status_code != httpx.codes.OK:
            kind = StudioAway if answer.status_code in _AWAY else StudioFailed
            raise kind(f"{path.partition('?')[0]}: it answers {answer.status_code}")
        media_type = answer.headers.get("content-type", "").partition(";")[0]
        return FetchedPicture(answer.content, _SUFFIXES.get(media_type, ".jpg"))

    async def events(self, path: str) -> AsyncGenerator[Mapping[str, Any], None]:
        """What it tells as server-sent events, until it has nothing more to say.

        Raises:
            StudioAway: it cannot be listened to, or breaks off.
        """
        try:
            async with stream(
                self.client, "GET", f"{self.url}{path}", within=_WITHIN, headers=bearer(self.token)
            ) as response:
                if response.status_code != httpx.codes.OK:
                    return  # such as where too many listen already
                async with aclosing(
                    bounded_lines(response, limit=_MAX_LINE, within=_WITHIN)
                ) as lines:
                    async for line in lines:
                        if line.startswith(_DATA):
                            message = decode_answer(line.removeprefix(_DATA))
                            if isinstance(message, dict):
                                yield message
        except (httpx.HTTPError, Unfit) as error:
            raise StudioAway(f"{redacted(self.url)}: {reason_of(error, self.url)}") from error

    async def _ask(
        self,
        method: str,
        path: str,
        limit: int,
        headers: Mapping[str, str],
        request: Mapping[str, Any],
    ) -> httpx.Response:
        try:
            return await ask(
                self.client,
                method,
                f"{self.url}{path}",
                within=_WITHIN,
                limit=limit,
                headers={**headers, **bearer(self.token)},
                **request,
            )
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            where, reason = redacted(self.url), reason_of(error, self.url)
            text = f"{where}: {reason}. Is it running? understudy studio starts one, or say --url"
            raise StudioAway(text) from error

    def _no_studio(self, status: int) -> StudioFailed:
        kind = StudioAway if status in _AWAY else StudioFailed
        return kind(f"{redacted(self.url)} answers {status}, and not as a Studio does: see --url")

    def _refused(self, status: int, document: object) -> StudioFailed:
        try:
            error = _RefusalAnswer.model_validate(document).error
        except ValidationError:
            return self._no_studio(status)
        if error.code == "unauthorized":
            return StudioFailed(self._unauthorized(error.message))
        said = "\n".join(each.line for each in error.problems or (error,))
        if status in _AWAY:
            return StudioAway(said)
        return StudioFailed(said, 2 if error.code in _WRONG_USE else 1)

    def _unauthorized(self, message: str) -> str:
        if self.token is None:
            remedy = f"set {STUDIO_TOKEN}; understudy studio member add NAME makes one"
            return f"unauthorized: this Studio wants a token: {remedy}"
        remedy = f"understudy studio member token NAME gives another for {STUDIO_TOKEN}"
        return f"unauthorized: {one_line(message, _MAX_SAID)}: {remedy}"


def with_studio(
    url: str,
    work: Callable[[StudioClient], Awaitable[T]],
    stopped: Callable[[], str] = lambda: "stopped",
) -> T:
    """Ask the Studio at `url`, or end the program with what is wrong."""
    with reading("--url"):
        address = studio_address(url)
    token = token_of(STUDIO_TOKEN)
    if token and (why_not := why_no_token(token, sent=True)) is not None:
        fail(f"{STUDIO_TOKEN}: {why_not}", 2)

    async def asked() -> T:
        async with outgoing_client() as client:
            return await work(StudioClient(client, address, SecretStr(token) if token else None))

    try:
        return asyncio.run(asked())
    except StudioFailed as error:
        fail(str(error), error.status)
    except KeyboardInterrupt:
        fail(stopped(), 130)
