"""What the Studio refuses, and with which status."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, cast

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from generator.answers import JsonResponse
from server.core.refusal import Refused

STATUSES: Final[Mapping[str, int]] = {
    "unauthorized": 401,
    "forbidden": 403,
    "not_found": 404,
    "not_allowed": 405,
    "bad_request": 400,
    "too_large": 413,
    "unsupported_media": 415,
    "unknown_cue": 400,
    "unknown_program": 400,
    "unknown_style": 400,
    "unknown_engine": 400,
    "unknown_take": 400,
    "unknown_input": 400,
    "refused": 422,
    "too_many": 429,
    "budget_exceeded": 429,
    "disk_full": 507,
    "conflict": 409,
    "precondition": 412,
    "not_cancellable": 409,
    "nothing_to_retry": 409,
    "bad_signature": 401,
    "expired": 401,
    "not_configured": 501,
    "unavailable": 503,
    "internal": 500,
}
"""Every code that a request may be refused with, and its status over HTTP."""

_BY_STATUS: Final[Mapping[int, str]] = {404: "not_found", 405: "not_allowed"}
_SAID: Final[Mapping[str, str]] = {
    "not_found": "there is no such address",
    "not_allowed": "this address is not asked in this way; Allow says how",
}


@dataclass(frozen=True, slots=True)
class FieldRefusal:
    """One of several things that are wrong with a request: where, and what was expected."""

    code: str
    field: str
    message: str


class StudioRefused(Refused):
    """Something that was asked of the Studio and is not done; `code` is out of `STATUSES`.

    Attributes:
        field: which field of the request it is about; None for none.
        problems: all that is wrong with the request, where that was looked at field by field.
    """

    def __init__(
        self,
        code: str,
        message: str,
        *,
        field: str | None = None,
        problems: Sequence[FieldRefusal] = (),
    ) -> None:
        super().__init__(code, message)
        self.field = field
        self.problems = tuple(problems)

    @property
    def document(self) -> dict[str, Any]:
        """As it is answered, over HTTP and over the socket."""
        error: dict[str, Any] = {"code": self.code, "message": str(self)}
        if self.field is not None:
            error["field"] = self.field
        if self.problems:
            error["problems"] = [
                {"code": each.code, "field": each.field, "message": each.message}
                for each in self.problems
            ]
        return {"ok": False, "error": error}


def no_such(what: str) -> StudioRefused:
    """What is somebody else's answers exactly like what never was."""
    return StudioRefused("not_found", f"there is no such {what}")


def no_member() -> StudioRefused:
    """A token that lets nobody in."""
    return StudioRefused("unauthorized", "nobody has this token (any more)")


async def studio_refusal(_request: Request, error: Exception) -> Response:
    """Why something was not done, as JSON."""
    refused = cast("Refused", error)
    if isinstance(refused, StudioRefused):
        body = refused.document
    else:
        body = {"ok": False, "error": {"code": refused.code, "message": str(refused)}}
    return JsonResponse(body, status_code=STATUSES.get(refused.code, 400))


async def http_refusal(_request: Request, error: Exception) -> Response:
    """What is answered where no address of ours is asked, or not in a way that it knows."""
    raised = cast("HTTPException", error)
    code = _BY_STATUS.get(raised.status_code, "bad_request")
    message = _SAID.get(code, raised.detail)
    return JsonResponse(
        StudioRefused(code, message).document,
        status_code=STATUSES[code],
        headers=raised.headers,
    )


async def broke_off(_request: Request, _error: Exception) -> Response:
    """What is answered where the program has an error; the log has it."""
    refused = StudioRefused("internal", "an error of the program; its log says more")
    return JsonResponse(refused.document, status_code=STATUSES["internal"])
