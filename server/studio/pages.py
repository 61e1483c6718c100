"""The Studio's page. Its files lie beside the other pages', whose typefaces it shares."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from starlette.requests import Request
from starlette.responses import Response

from server.network.responses import NO_CACHE

STATIC: Final = Path(__file__).parents[1] / "web" / "static"
# Read once: the page must not be newer than the server that it talks to.
_STUDIO: Final = (STATIC / "studio.html").read_bytes()


async def studio(_request: Request) -> Response:
    """`GET /`."""
    return Response(_STUDIO, media_type="text/html", headers=NO_CACHE)


async def studio_below(_request: Request) -> Response:
    """`GET /studio/`: a slip; the page's own addresses would not be right there."""
    return Response(status_code=307, headers={"location": "../"})
