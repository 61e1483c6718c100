"""Replicate as an engine: one of its models draws, and only the final image is seen.

The predictions API, as Replicate's documentation has it (replicate.com/docs/topics/predictions,
replicate.com/docs/reference/http): `POST /v1/predictions` with a version, or
`/v1/models/{owner}/{name}/predictions`, holds the request for up to 60 seconds (``Prefer:
wait``) and answers with a prediction, finished or not. `urls.get` asks again, `urls.cancel`
cancels. Its statuses are ``starting``, ``processing``, ``succeeded``, ``failed``, ``canceled``
and ``aborted``. ``Cancel-After`` makes Replicate itself cancel what nobody came back for.
Output files are deleted after an hour, so they are fetched at once.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import email.utils
import itertools
import math
import random
import time
import urllib.parse
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, aclosing, suppress
from dataclasses import KW_ONLY, dataclass, field
from datetime import UTC, datetime
from functools import partial
from typing import Any, ClassVar, Final

import anyio
import httpx
from pydantic import SecretStr

from cache.model.images import sniff
from cache.outgoing import reason_of
from cache.untrusted import Unfit, decode_answer
from generator.engines.pictures import FLOOR, base_itself, base_of, encoded
from generator.engines.port import (
    DrawingFailed,
    EngineDenied,
    EngineError,
    EngineUnavailable,
    RecipeRefused,
    StepImage,
    Timing,
)
from generator.engines.replicate.settings import DEFAULT_INPUT, ReplicateSection
from generator.engines.settings import BadEngine, EngineAccess
from generator.outgoing import Client, ask, bearer, begun_there
from generator.sheet.recipe import Recipe

DEADLINE: Final = 300.0
"""Seconds in all, after which a drawing is given up. A cold model takes minutes to start."""

WAIT: Final = 2
"""Seconds that Replicate is asked to hold the request, 1 to 60. It does not say a prediction's
name before it answers, so this is also how long leaving may take."""

_BASE_QUALITY: Final = 90
_MARGIN: Final = 10.0
_CANCEL_WITHIN: Final = 3.0
_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 5.0
_BUSY_ATTEMPTS: Final = 4
_SHOWN: Final = 400
_ENDED: Final = frozenset({"succeeded", "failed", "canceled", "aborted"})
_LEAST_CANCEL_AFTER: Final = 5
_DENIED: Final = frozenset({401, 402, 403})  # 402: nobody has paid
_REFUSALS: Final = frozenset({400, 404, 405, 413, 422})


def connect_engine(settings: ReplicateSection, access: EngineAccess) -> ReplicateEngine:
    """See `RemoteSection.connect`."""
    if access.token is None:
        variable = settings.token_variable
        raise BadEngine(f"{settings.called} needs a token of Replicate: set {variable}")
    return ReplicateEngine(access.client, settings, token=access.token)


@dataclass(slots=True)
class _Prediction:
    """A prediction as last heard of; empty before the first answer."""

    data: Mapping[str, Any]

    @property
    def status(self) -> str:
        return str(self.data.get("status", ""))

    @property
    def ended(self) -> bool:
        return self.status in _ENDED

    def url(self, name: str) -> str:
        urls = self.data.get("urls")
        found = urls.get(name) if isinstance(urls, dict) else None
        return found if isinstance(found, str) else ""


@dataclass(eq=False)
class ReplicateEngine:
    """Draws with a model on Replicate.

    Its one duration is measured: by Replicate (`metrics.predict_time`, without queue and cold
    start) or, where it does not say, here. What a recipe has and `settings.inputs` has no name for
    is refused where the picture would be another without it: a negative prompt, a scheduler, loras,
    a base image. Steps, guidance and size may be the model's own.

    Args:
        client: entered and closed by its owner; several engines may share one.
        settings: the model, among others. The recipe's `model` is not looked at: names there
            are not ours.
        token: of the account; it goes to Replicate alone, and into no message.
        wait: seconds, 1 to 60: see `WAIT`.
        deadline: seconds in all.
    """

    client: Client = field(repr=False)
    settings: ReplicateSection
    _: KW_ONLY
    token: SecretStr
    wait: int = WAIT
    deadline: float = DEADLINE
    timing: ClassVar[Timing] = "measured"

    def __post_init__(self) -> None:
        self.url = self.settings.url.rstrip("/")

    @property
    def name(self) -> str:
        """Replicate and the model."""
        return f"replicate {self.settings.model}"

    def render(self, recipe: Recipe) -> AbstractAsyncContextManager[AsyncIterator[StepImage]]:
        """Draw `recipe`; leaving the context before it is drawn cancels the prediction.

        Raises:
            EngineUnavailable: Replicate cannot be reached, or is busy.
            EngineDenied: it refuses the token, or wants to be paid.
            RecipeRefused: the model cannot be asked for it, or refuses its inputs.
            DrawingFailed: the prediction failed, took too long, or its output is no image.
        """
        return aclosing(base_itself(recipe) if recipe.is_base_itself else self._images(recipe))

    async def _images(self, recipe: Recipe) -> AsyncGenerator[StepImage, None]:
        base = None
        if recipe.base_image is not None:
            base = await asyncio.to_thread(lambda: encoded(base_of(recipe), "JPEG", _BASE_QUALITY))
        body = self._body(recipe, base)
        prediction, begun = _Prediction({}), time.perf_counter()
        try:
            async with (
                asyncio.timeout(self.deadline),
                begun_there(self._create(body, prediction), partial(self._cancel, prediction)),
            ):
                await self._finished(prediction)
                waited = time.perf_counter() - begun
                image = await self._output(prediction)
        except TimeoutError:
            raise DrawingFailed(f"Replicate took longer than {self.deadline:g} s") from None
        media_type = sniff(image)
        if media_type is None:
            raise DrawingFailed("Replicate's output is no jpg, png or webp")
        duration = _predict_time(prediction) or max(waited, FLOOR)
        yield StepImage(1, 1, True, None, duration, image, media_type)

    def _body(self, recipe: Recipe, base: bytes | None) -> dict[str, Any]:
        """What is posted.

        Raises:
            RecipeRefused: the model has no name for something that the picture depends on.
        """
        model, names = self.settings.model, self.settings.inputs or DEFAULT_INPUT
        values: dict[str, Any] = {
            name: value
            for name in DEFAULT_INPUT.keys() - {"base_image"}
            if (value := getattr(recipe, name)) is not None
        }
        demanded: set[str] = {name for name in ("scheduler", "strength") if name in values}
        if recipe.negative_prompt:
            demanded.add("negative_prompt")
        else:
            del values["negative_prompt"]
        if base is not None:
            demanded.add("base_image")
            values["base_image"] = f"data:image/jpeg;base64,{base64.b64encode(base).decode()}"
        missing = sorted(demanded - names.keys())
        if recipe.loras:
            missing.append("loras")
        if missing:
            raise RecipeRefused(f"{self.name} is not told of {', '.join(missing)} (inputs)")
        inputs = {theirs: values[ours] for ours, theirs in names.items() if ours in values}
        body: dict[str, Any] = {"input": {**self.settings.extra_inputs, **inputs}}
        if "/" not in model or ":" in model:
            body["version"] = model.rpartition(":")[2]
        return body

    async def _create(self, body: dict[str, Any], prediction: _Prediction) -> None:
        """Have a prediction made."""
        of_model = "" if "version" in body else f"/models/{self.settings.model}"
        address = f"{self.url}/v1{of_model}/predictions"
        headers = {
            "prefer": f"wait={self.wait}",
            "cancel-after": f"{max(_LEAST_CANCEL_AFTER, math.ceil(self.deadline))}s",
        }
        for attempt in itertools.count(1):
            response = await self._ask("POST", address, json=body, headers=headers)
            busy = response.status_code == httpx.codes.TOO_MANY_REQUESTS
            pause = _retry_after(response)
            if pause is None:
                pause = _FIRST_PAUSE * 2**attempt * random.uniform(0.5, 1)
            # Where it says itself that waiting is of no use, another engine is asked at once.
            if not busy or attempt == _BUSY_ATTEMPTS or pause > self.deadline:
                self._take(response, prediction)
                return
            await asyncio.sleep(pause)

    async def _finished(self, prediction: _Prediction) -> None:
        """Ask after a prediction until it has ended.

        Raises:
            EngineUnavailable: nobody answers, several times running.
            DrawingFailed: it did not end well.
        """
        pause, unanswered = _FIRST_PAUSE, 0
        while not prediction.ended:
            await asyncio.sleep(pause)
            pause = min(1.5 * pause, _LONGEST_PAUSE)
            try:
                response = await self._ask("GET", self._url_of(prediction, "get"))
                if response.status_code == httpx.codes.TOO_MANY_REQUESTS:
                    pause = _retry_after(response) or pause
                else:
                    self._take(response, prediction)
                    unanswered = 0
            except EngineUnavailable:
                unanswered += 1
                if unanswered >= _BUSY_ATTEMPTS:
                    raise
        if prediction.status != "succeeded":
            why = self._without_token(str(prediction.data.get("error") or "it does not say why"))
            raise DrawingFailed(f"Replicate: the prediction is {prediction.status}: {why}")

    async def _output(self, prediction: _Prediction) -> bytes:
        """The first file of the output."""
        output = prediction.data.get("output")
        first = output[0] if isinstance(output, list) and output else output
        if not isinstance(first, str):
            raise DrawingFailed("Replicate's output is no file's address")
        if first.startswith("data:"):
            try:
                return base64.b64decode(first.partition(",")[2], validate=True)
            except binascii.Error:
                raise DrawingFailed("Replicate's output is a data URL that is not base64") from None
        try:
            response = await ask(
                self.client,
                "GET",
                first,
                within=self.wait + _MARGIN,
                headers=self._headers_for(first),
                follow_redirects=True,
            )
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            reason = reason_of(error, first)
            raise DrawingFailed(f"Replicate's output cannot be fetched: {reason}") from error
        if response.status_code != httpx.codes.OK:
            raise DrawingFailed(
                f"Replicate's output cannot be fetched: answered {response.status_code}"
            )
        return response.content

    async def _cancel(self, prediction: _Prediction, posting: asyncio.Task[None]) -> None:
        if prediction.ended:
            return
        with anyio.move_on_after(self.wait + _CANCEL_WITHIN):
            # It has no name before Replicate has answered. What slips by ends at Cancel-After.
            await asyncio.wait({posting})
            if prediction.data and not prediction.ended:
                with suppress(EngineError):
                    await self._ask("POST", self._url_of(prediction, "cancel"))

    # ------------------------------------------------------------ questions and answers

    def _url_of(self, prediction: _Prediction, name: str) -> str:
        """Where to ask after a prediction, or to cancel it; never anywhere but at the API."""
        url = prediction.url(name)
        if _origin(url) == _origin(self.url):
            return url
        suffix = {"get": "", "cancel": "/cancel"}[name]
        return f"{self.url}/v1/predictions/{prediction.data.get('id')}{suffix}"

    def _headers_for(self, url: str) -> dict[str, str]:
        return bearer(self.token if _origin(url) == _origin(self.url) else None)

    async def _ask(
        self,
        method: str,
        url: str,
        *,
        json: object = None,
        headers: Mapping[str, str] | None = None,
    ) -> httpx.Response:
        try:
            response = await ask(
                self.client,
                method,
                url,
                within=self.wait + _MARGIN,
                json=json,
                headers={**self._headers_for(url), **(headers or {})},
            )
        except httpx.HTTPError as error:
            reason = reason_of(error, url)
            raise EngineUnavailable(f"Replicate: {reason}") from error
        return response

    def _take(self, response: httpx.Response, prediction: _Prediction) -> None:
        """Take in an answer.

        Raises:
            EngineUnavailable, EngineDenied, RecipeRefused: it is a refusal, by its status.
        """
        try:
            data = decode_answer(response.content)
        except Unfit:
            data = None
        if response.is_success and isinstance(data, dict) and "status" in data:
            prediction.data = data
            return
        detail = data.get("detail") or data.get("title") if isinstance(data, dict) else None
        text = f"Replicate answered {response.status_code}"
        if detail:
            text += f": {self._without_token(str(detail))}"
        if response.status_code in _DENIED:
            raise EngineDenied(text)
        refused = response.status_code in _REFUSALS
        raise (RecipeRefused if refused else EngineUnavailable)(text)

    def _without_token(self, text: str) -> str:
        return text.replace(self.token.get_secret_value() or "\0", "…")[:_SHOWN]


def _origin(url: str) -> tuple[str, str | None, int | None]:
    try:
        parts = urllib.parse.urlsplit(url)
        port = parts.port
    except ValueError:
        return "", None, None
    return parts.scheme, parts.hostname, port


def _retry_after(response: httpx.Response) -> float | None:
    """Seconds to wait, from a number of seconds or a date; None if it does not say."""
    text = response.headers.get("retry-after", "").strip()
    if text.isdecimal():
        return float(text)
    try:
        date = email.utils.parsedate_to_datetime(text)
    except ValueError:
        return None
    # A span by their clock alone: ours may be years off.
    try:
        now = email.utils.parsedate_to_datetime(response.headers.get("date", ""))
    except ValueError:
        now = datetime.now(UTC)
    date, now = (each if each.tzinfo else each.replace(tzinfo=UTC) for each in (date, now))
    return max(0.0, (date - now).total_seconds())


def _predict_time(prediction: _Prediction) -> float | None:
    metrics = prediction.data.get("metrics")
    seconds = metrics.get("predict_time") if isinstance(metrics, dict) else None
    usable = isinstance(seconds, int | float) and math.isfinite(seconds) and seconds > 0
    return float(seconds) if usable and seconds is not None else None
