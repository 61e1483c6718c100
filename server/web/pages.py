"""The kiosk page with the still image it falls back on, and the technician's page."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from server.network.responses import NO_CACHE, cacheable, etag_of
from server.web.services import services

STATIC: Final = Path(__file__).parent / "static"
# Read once: a page must not be newer than the server that it talks to.
_KIOSK: Final = (STATIC / "kiosk.html").read_bytes()
_CONTROL: Final = (STATIC / "control.html").read_bytes()


async def kiosk(_request: Request) -> Response:
    """`GET /`."""
    return Response(_KIOSK, media_type="text/html", headers=NO_CACHE)


async def control(_request: Request) -> Response:
    """`GET /control`."""
    return Response(_CONTROL, media_type="text/html", headers=NO_CACHE)


async def control_below(_request: Request) -> Response:
    """`GET /control/`: a slip; the page's own addresses would not be right there."""
    return Response(status_code=307, headers={"location": "../control"})


async def still(request: Request) -> Response:
    """`GET /still`: the show's own still image.

    Where screens have a token, they are told the image's address with a key in it.
    """
    show, access = services(request).show, services(request).access
    if show.still is None:
        raise HTTPException(404)
    locked = access.tokens.screen is not None
    if locked and request.query_params.get("key") != show.still_key:
        access.may_see(request)
    data = show.still.data
    return cacheable(request, data, show.still.media_type, "no-cache", etag_of(data))
