"""What may be set of a generator that answers by a webhook."""

from __future__ import annotations

from typing import Annotated, ClassVar, Final, Literal

import httpx
from pydantic import Field, field_validator

from cache.outgoing import has_password, redacted
from generator.engines.settings import (
    MAX_WORD,
    PROBE_WITHIN,
    Address,
    EngineAccess,
    NotReady,
    RemoteSection,
)
from generator.outgoing import ask, bearer

_NOBODY_THERE: Final = frozenset({401, 402, 403, 404, 410})


class CallbackSection(RemoteSection):
    """A generator that takes a request on at once, and posts the picture to a webhook of ours.

    Attributes:
        answers_to: the address of the Studio's webhook, as the generator reaches it.
        style: what it is told of the style; empty for nothing.
        within: seconds after which a picture counts as lost.
        at_once: drawings that it is asked for at once.
    """

    live_unless_told: ClassVar[bool] = False
    token_variable: ClassVar[str | None] = "UNDERSTUDY_CALLBACK_TOKEN"
    secret_variable: ClassVar[str | None] = "UNDERSTUDY_CALLBACK_SECRET"
    needs: ClassVar[tuple[str, ...]] = ("url", "answers_to")

    kind: Literal["callback"] = "callback"
    answers_to: Address = ""
    style: Annotated[str, Field(max_length=200)] = ""
    within: Annotated[float, Field(gt=0, le=86_400)] = 300.0
    at_once: Annotated[int, Field(ge=1, le=64)] = 1

    @field_validator("answers_to")
    @classmethod
    def _can_be_passed_on(cls, address: str) -> str:
        if not address.startswith("http") or has_password(address):
            raise ValueError(
                "expected where the generator reaches /api/generate/webhook of the Studio, "
                "https://… without user or password; what it sends is known by its signature"
            )
        return address

    def beside_each_other(self, cores: int) -> int:
        """As many as may be under way."""
        del cores
        return self.at_once

    async def _reach(self, access: EngineAccess) -> None:
        if access.inbox is None:
            raise NotReady("it answers the Studio alone: understudy studio")
        answer = await ask(
            access.client,
            "GET",
            self.url,
            within=PROBE_WITHIN,
            limit=MAX_WORD,
            headers=bearer(access.token),
        )
        # It has no address that asks nothing of it: that it wants a POST (405) is a good answer.
        status = answer.status_code
        if status in _NOBODY_THERE or status >= httpx.codes.INTERNAL_SERVER_ERROR:
            raise NotReady(f"{redacted(self.url)} answers {status} {answer.reason_phrase}")
