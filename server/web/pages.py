"""The kiosk page with the still image it falls back on, and the technician's page."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

from server.web.responses import cacheable, etag_of
from server.web.services import services

STATIC: Final = Path(__file__).parent / "static"
_NO_CACHE: Final = {"cache-control": "no-cache"}
# Read once: a page must not be newer than the server that it talks to.
_KIOSK: Final = (STATIC / "kiosk.html").read_bytes()
_CONTROL: Final = (STATIC / "control.html").read_bytes()


class PageFiles(StaticFiles):
    """What the pages load. A browser asks each time whether it has the newest.

    A page of which some modules are of an older release does not run.
    """

    def file_response(
        self,
        full_path: str | os.PathLike[str],
        stat_result: os.stat_result,
        scope: Scope,
        status_code: int = 200,
    ) -> Response:
        """See `StaticFiles`."""
        response = super().file_response(full_path, stat_result, scope, status_code)
        response.headers.update(_NO_CACHE)
        return response


async def kiosk(_request: Request) -> Response:
    """`GET /`."""
    return Response(_KIOSK, media_type="text/html", headers=_NO_CACHE)


async def control(_request: Request) -> Response:
    """`GET /control`."""
    return Response(_CONTROL, media_type="text/html", headers=_NO_CACHE)


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
