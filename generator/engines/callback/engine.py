"""A generator that answers later, as an engine: asked by a POST, answered by a signed webhook.

It is told `job_id`, `prompt`, `negative_prompt`, `width`, `height`, `seed`, `steps`, perhaps
`style`, and `webhook_url`, and answers with a 2xx. Then it posts to that address, signed, `job_id`,
`status` (``completed`` or ``failed``), `image_base64` or `error`, perhaps `processing_time_ms`.
One that answers its request with those fields has answered, too.

Every drawing has an id of its own that nobody had before: what comes for one that was cancelled,
given up or drawn by a process that is no more finds nobody who waits for it (`Inbox`).
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, aclosing
from dataclasses import KW_ONLY, dataclass, field
from typing import Any, ClassVar, Final

import httpx
from pydantic import SecretStr

from cache.model.images import BadImage, MediaType, check_image, decode_check
from cache.outgoing import reason_of, redacted
from cache.threads import offload_large
from cache.untrusted import Unfit, one_line
from generator.engines.callback.answer import MAX_BODY, SHOWN, answer_of, read_fields
from generator.engines.callback.settings import CallbackSection
from generator.engines.inbox import Inbox, LateAnswer
from generator.engines.pictures import FLOOR, base_itself
from generator.engines.port import (
    DrawingFailed,
    EngineDenied,
    EngineError,
    EngineUnavailable,
    RecipeRefused,
    StepImage,
    Timing,
)
from generator.engines.settings import BadEngine, EngineAccess
from generator.outgoing import Client, ask, bearer
from generator.sheet.recipe import Recipe

MAX_PIXELS: Final = 40_000_000
"""Of a picture that is asked for, and that is decoded."""

_TOLD: Final = ("prompt", "negative_prompt", "width", "height", "seed", "steps")
_DENIED: Final = frozenset({401, 402, 403})  # 402: nobody has paid
_AWAY: Final = frozenset({404, 405, 408, 410, 425, 429})
"""Refusals that say nothing of the recipe: nobody draws there, or not now."""


def connect_engine(settings: CallbackSection, access: EngineAccess) -> CallbackEngine:
    """See `RemoteSection.connect`."""
    if access.inbox is None:
        raise BadEngine(
            f"{settings.called} answers by a webhook, which the Studio takes in (understudy "
            f"studio), and by its signature alone: set {settings.secret_variable}"
        )
    return CallbackEngine(access.client, settings, access.inbox, token=access.token)


@dataclass(eq=False)
class CallbackEngine:
    """Draws with a generator that answers by a webhook; only the final image is seen.

    Its one duration is measured: by the generator (`processing_time_ms`), or here, where it does
    not say, or says more than has passed. What a recipe has and the generator is not told of (a
    base image, a scheduler, LoRAs) is refused; guidance and model are the generator's own.

    Args:
        client: entered and closed by its owner; several engines may share one.
        settings: where it is, among others.
        inbox: where its answers arrive.
        token: what it is brought; none is in any message.
        now: steady seconds.
    """

    client: Client = field(repr=False)
    settings: CallbackSection
    inbox: Inbox = field(repr=False)
    _: KW_ONLY
    token: SecretStr | None = None
    now: Callable[[], float] = time.perf_counter
    timing: ClassVar[Timing] = "measured"

    def __post_init__(self) -> None:
        self.url = self.settings.url

    @property
    def name(self) -> str:
        """Where it is: it does not say what it is."""
        return f"{self.settings.kind} {redacted(self.url)}"

    def render(self, recipe: Recipe) -> AbstractAsyncContextManager[AsyncIterator[StepImage]]:
        """Draw `recipe`. Leaving the context waits no longer; the generator has no word for it.

        Raises:
            EngineUnavailable: it cannot be reached, is busy, or its picture is lost.
            EngineDenied: it refuses the token, or wants to be paid.
            RecipeRefused: it cannot be asked for it, or refuses it.
            DrawingFailed: it failed, or what it sent is not the picture.
        """
        return aclosing(base_itself(recipe) if recipe.is_base_itself else self._images(recipe))

    async def _images(self, recipe: Recipe) -> AsyncGenerator[StepImage, None]:
        _check_recipe(self.name, recipe)
        drawing, begun = str(uuid.uuid4()), self.now()
        within = self.settings.within
        # The webhook may be faster than the answer to the request: it is waited for before.
        with self.inbox.expecting(drawing) as coming:
            try:
                async with asyncio.timeout(within):
                    answer = await self._answered(self._body(drawing, recipe), coming)
            except TimeoutError:
                raise EngineUnavailable(
                    f"{self.name}: no picture in {within:g} s; can it reach "
                    f"{redacted(self.settings.answers_to)}, and does it sign?"
                ) from None
        waited = self.now() - begun
        if answer.image is None:
            raise DrawingFailed(f"{self.name}: {self._without_token(answer.error)}")
        media_type = await asyncio.to_thread(_check_picture, self.name, answer.image, recipe)
        told = answer.seconds
        duration = told if told is not None and told <= waited else waited
        yield StepImage(1, 1, True, None, max(duration, FLOOR), answer.image, media_type)

    def _body(self, drawing: str, recipe: Recipe) -> dict[str, Any]:
        body = {"job_id": drawing, **{name: getattr(recipe, name) for name in _TOLD}}
        if self.settings.style:
            body["style"] = self.settings.style
        return {**body, "webhook_url": self.settings.answers_to}

    async def _answered(
        self, body: dict[str, Any], coming: asyncio.Future[LateAnswer]
    ) -> LateAnswer:
        """What became of a drawing, whichever way it is told."""
        try:
            at_once = await self._ask(body)
        except EngineUnavailable:
            if not coming.done():
                raise
            at_once = None  # the line broke behind a picture that is here
        return await coming if at_once is None else at_once

    async def _ask(self, body: dict[str, Any]) -> LateAnswer | None:
        """Ask for a drawing; what became of it, where that is answered at once.

        Raises:
            EngineError: it is not taken on.
        """
        try:
            response = await ask(
                self.client,
                "POST",
                self.url,
                within=self.settings.within,
                limit=MAX_BODY,
                json=body,
                headers=bearer(self.token),
            )
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise EngineUnavailable(f"{self.name}: {reason_of(error, self.url)}") from error
        if not response.is_success:
            raise self._refusal(response)
        content, media_type = response.content, response.headers.get("content-type", "")
        if "html" in media_type.lower():
            raise EngineUnavailable(f"{self.name} answered with a page, not with JSON")
        try:
            return await offload_large(len(content), lambda: answer_of(read_fields(content)))
        except Unfit as error:
            if content.lstrip().startswith(b"{"):
                raise DrawingFailed(f"{self.name}: {error}") from None
            return None  # "ok", or nothing at all: it is taken on

    def _refusal(self, response: httpx.Response) -> EngineError:
        """What a refusal means, by its status."""
        status = response.status_code
        text = f"{self.name} answered {status}"
        try:
            fields = read_fields(response.content)
        except Unfit:
            fields = {}
        for said in (fields.get(name) for name in ("error", "detail", "message")):
            if isinstance(said, str) and said:
                text += f": {self._without_token(one_line(said, SHOWN))}"
                break
        later = one_line(response.headers.get("retry-after", ""), SHOWN)
        if later:
            text += f" (to be asked again after {self._without_token(later)})"
        if status in _DENIED:
            return EngineDenied(text)
        refused = response.is_client_error and status not in _AWAY
        return (RecipeRefused if refused else EngineUnavailable)(text)

    def _without_token(self, text: str) -> str:
        return text if self.token is None else text.replace(self.token.get_secret_value(), "…")


def _check_recipe(name: str, recipe: Recipe) -> None:
    """Refuse what the picture depends on and the generator is not told of.

    Raises:
        RecipeRefused: it would draw another picture.
    """
    untold = [
        field
        for field in ("base_image", "scheduler", "strength")
        if getattr(recipe, field) is not None
    ]
    if recipe.loras:
        untold.append("loras")
    if untold:
        raise RecipeRefused(f"{name} is not told of {', '.join(untold)}")
    if recipe.width * recipe.height > MAX_PIXELS:
        size = f"{recipe.width} x {recipe.height}"
        raise RecipeRefused(f"{name} is asked for {MAX_PIXELS} pixels at most, not for {size}")


def _check_picture(name: str, image: bytes, recipe: Recipe) -> MediaType:
    """Decode a picture; what kind it is.

    Raises:
        DrawingFailed: it is none, or of another size.
    """
    try:
        decoded = decode_check(image, most_pixels=MAX_PIXELS)
    except BadImage as error:
        raise DrawingFailed(f"{name}: {error}") from error
    if (decoded.width, decoded.height) != (recipe.width, recipe.height):
        wanted, found = (f"{each.width} x {each.height}" for each in (recipe, decoded))
        raise DrawingFailed(f"{name}: expected a picture of {wanted} pixels, found {found}")
    return check_image(image)
