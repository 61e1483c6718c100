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
from contextlib import aclosing, asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any, Final

import anyio
import httpx
from pydantic import SecretStr

from cache.model.images import sniff
from cache.outgoing import reason_of
from cache.untrusted import Unfit, decode_answer
from generator.engine import (
    DrawingFailed,
    EngineDenied,
    EngineError,
    EngineUnavailable,
    RecipeRefused,
    StepImage,
    Timing,
)
from generator.engines._pictures import FLOOR, base_itself, base_of, encoded
from generator.outgoing import Client, ask
from generator.recipe import Recipe

API: Final = "https://api.replicate.com"

DEFAULT_INPUT: Final[Mapping[str, str]] = MappingProxyType(
    {
        "prompt": "prompt",
        "negative_prompt": "negative_prompt",
        "seed": "seed",
        "steps": "num_inference_steps",
        "guidance_scale": "guidance_scale",
        "width": "width",
        "height": "height",
        "strength": "prompt_strength",
        "base_image": "image",
        "scheduler": "scheduler",
    }
)
"""How the inputs of Replicate's Stable Diffusion models are called, by our fields."""

DEADLINE: Final = 300.0
"""Seconds in all, after which a drawing is given up. A cold model takes minutes to start."""

_FIELDS: Final = frozenset(DEFAULT_INPUT)
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


class ReplicateEngine:
    """Draws with a model on Replicate.

    Its one duration is measured: by Replicate (`metrics.predict_time`, without queue and cold
    start) or, where it does not say, here. What a recipe has and `input_map` has no name for is
    refused where the picture would be another without it: a negative prompt, a scheduler, loras,
    a base image. Steps, guidance and size may be the model's own.

    Args:
        client: entered and closed by its owner; several engines may share one.
        model: ``owner/name`` for the model's newest version, ``owner/name:version``, or a
            version's id. The recipe's `model` is not looked at: names there are not ours.
        token: of the account; it goes to Replicate alone, and into no message.
        input_map: the model's name for each of our fields that it takes.
        extra_input: further inputs, as they are.
        url: of the API.
        wait: seconds, 1 to 60: see `WAIT`.
        deadline: seconds in all.

    Raises:
        ValueError: `input_map` has a field that recipes have not, or lacks prompt or seed.
    """

    def __init__(
        self,
        client: Client,
        model: str,
        *,
        token: SecretStr,
        input_map: Mapping[str, str] = DEFAULT_INPUT,
        extra_input: Mapping[str, Any] | None = None,
        url: str = API,
        wait: int = WAIT,
        deadline: float = DEADLINE,
    ) -> None:
        if not {"prompt", "seed"} <= input_map.keys() <= _FIELDS:
            raise ValueError(
                f"input_map: expected prompt, seed and any of {', '.join(sorted(_FIELDS))},"
                f" found {', '.join(sorted(input_map))}"
            )
        self._client = client
        self._model = model
        self._token = token
        self._input_map = dict(input_map)
        self._extra_input = dict(extra_input or {})
        self._url = url.rstrip("/")
        self._wait = wait
        self._deadline = deadline

    @property
    def name(self) -> str:
        """Replicate and the model."""
        return f"replicate {self._model}"

    @property
    def timing(self) -> Timing:
        """Always ``measured``."""
        return "measured"

    @asynccontextmanager
    async def render(self, recipe: Recipe) -> AsyncIterator[AsyncIterator[StepImage]]:
        """Draw `recipe`; leaving the context before it is drawn cancels the prediction.

        Raises:
            EngineUnavailable: Replicate cannot be reached, or is busy.
            EngineDenied: it refuses the token, or wants to be paid.
            RecipeRefused: the model cannot be asked for it, or refuses its inputs.
            DrawingFailed: the prediction failed, took too long, or its output is no image.
        """
        async with aclosing(self._images(recipe)) as images:
            yield images

    async def _images(self, recipe: Recipe) -> AsyncGenerator[StepImage, None]:
        if recipe.strength is not None and int(recipe.steps * recipe.strength) < 1:
            yield await asyncio.to_thread(base_itself, recipe)
            return
        base = None
        if recipe.base_image is not None:
            base = await asyncio.to_thread(lambda: encoded(base_of(recipe), "JPEG", _BASE_QUALITY))
        body = self._body(recipe, base)
        begun = time.perf_counter()
        try:
            async with asyncio.timeout(self._deadline), self._predicting(body) as prediction:
                await self._finished(prediction)
                waited = time.perf_counter() - begun
                image = await self._output(prediction)
        except TimeoutError:
            raise DrawingFailed(f"Replicate took longer than {self._deadline:g} s") from None
        media_type = sniff(image)
        if media_type is None:
            raise DrawingFailed("Replicate's output is no jpg, png or webp")
        yield StepImage(
            step=1,
            steps=1,
            final=True,
            timestep=None,
            duration=_predict_time(prediction) or max(waited, FLOOR),
            image=image,
            media_type=media_type,
        )

    def _body(self, recipe: Recipe, base: bytes | None) -> dict[str, Any]:
        """What is posted.

        Raises:
            RecipeRefused: `input_map` has no name for something that the picture depends on.
        """
        values: dict[str, Any] = {
            name: value
            for name in _FIELDS - {"base_image"}
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
        missing = sorted(demanded - self._input_map.keys())
        if recipe.loras:
            missing.append("loras")
        if missing:
            raise RecipeRefused(f"{self.name} is not told of {', '.join(missing)} (input_map)")
        inputs = {
            theirs: values[ours] for ours, theirs in self._input_map.items() if ours in values
        }
        body: dict[str, Any] = {"input": {**self._extra_input, **inputs}}
        if "/" not in self._model or ":" in self._model:
            body["version"] = self._model.rpartition(":")[2]
        return body

    @asynccontextmanager
    async def _predicting(self, body: dict[str, Any]) -> AsyncIterator[_Prediction]:
        """Have a prediction made; on leaving before its end, it is cancelled."""
        prediction = _Prediction({})
        posting = asyncio.create_task(self._create(body, prediction), name="replicate prediction")
        try:
            await asyncio.shield(posting)
            yield prediction
        finally:
            with anyio.CancelScope(shield=True):
                if not prediction.ended:
                    await self._cancel(posting, prediction)
                posting.cancel()
                await asyncio.gather(posting, return_exceptions=True)

    async def _create(self, body: dict[str, Any], prediction: _Prediction) -> None:
        path = "/v1/predictions" if "version" in body else f"/v1/models/{self._model}/predictions"
        headers = {
            "prefer": f"wait={self._wait}",
            "cancel-after": f"{max(_LEAST_CANCEL_AFTER, math.ceil(self._deadline))}s",
        }
        for attempt in itertools.count(1):
            response = await self._ask("POST", self._url + path, json=body, headers=headers)
            busy = response.status_code == httpx.codes.TOO_MANY_REQUESTS
            pause = _retry_after(response)
            if pause is None:
                pause = _FIRST_PAUSE * 2**attempt * random.uniform(0.5, 1)
            # Where it says itself that waiting is of no use, another engine is asked at once.
            if not busy or attempt == _BUSY_ATTEMPTS or pause > self._deadline:
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
                self._client,
                "GET",
                first,
                within=self._within,
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

    async def _cancel(self, posting: asyncio.Task[None], prediction: _Prediction) -> None:
        with anyio.move_on_after(self._wait + _CANCEL_WITHIN):
            # It has no name before Replicate has answered. What slips by ends at Cancel-After.
            await asyncio.wait({posting})
            if prediction.data and not prediction.ended:
                with suppress(EngineError):
                    await self._ask("POST", self._url_of(prediction, "cancel"))

    # ------------------------------------------------------------ questions and answers

    @property
    def _within(self) -> float:
        return self._wait + _MARGIN

    def _url_of(self, prediction: _Prediction, name: str) -> str:
        """Where to ask after a prediction, or to cancel it; never anywhere but at the API."""
        url = prediction.url(name)
        if _origin(url) == _origin(self._url):
            return url
        suffix = {"get": "", "cancel": "/cancel"}[name]
        return f"{self._url}/v1/predictions/{prediction.data.get('id')}{suffix}"

    def _headers_for(self, url: str) -> dict[str, str]:
        if _origin(url) != _origin(self._url):
            return {}
        return {"authorization": f"Bearer {self._token.get_secret_value()}"}

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
                self._client,
                method,
                url,
                within=self._within,
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
        return text.replace(self._token.get_secret_value() or "\0", "…")[:_SHOWN]


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
