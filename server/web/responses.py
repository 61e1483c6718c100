"""How a refusal of the show's server is answered."""

from __future__ import annotations

from typing import cast

from starlette.requests import Request
from starlette.responses import Response

from generator.answers import JsonResponse
from server.control.command import CODES
from server.core.refusal import Refused


async def refusal(_request: Request, error: Exception) -> Response:
    """Why something was not done, as JSON, with the HTTP status that fits its code."""
    code = cast("Refused", error).code
    body = {"ok": False, "error": {"code": code, "message": str(error)}}
    return JsonResponse(body, status_code=CODES[code][0])
