"""The pictures of takes over HTTP: while they are drawn, and afterwards from the store."""

from __future__ import annotations

import asyncio
import re
from typing import Final

from starlette.requests import Request
from starlette.responses import Response

from cache.library import BrokenSet
from cache.model.documents import FormatError
from cache.stores.port import NotFound, StoreError
from cache.thumbnails import MEDIA_TYPE, thumbnail
from generator.jobs.drawing import open_take
from server.network.responses import cacheable, etag_of
from server.studio.byte_ranges import in_range
from server.studio.previews import Step
from server.studio.refusals import StudioRefused, no_such
from server.studio.requests import id_in_path, query_number, refusing
from server.studio.services import StudioServices, studio_services

_FOREVER: Final = "private, max-age=31536000, immutable"
_ASKED_EACH_TIME: Final = "private, no-cache"
"""Of a drawing that goes on: one that fails is drawn once more, in the same place."""
_NAME: Final = re.compile(r"([1-9][0-9]{0,4}|final)(?:\.(?:jpg|png|webp))?", re.ASCII)
_READ_WITHIN: Final = 20.0
_WIDTHS: Final = (16, 2048)
_THUMB: Final = 320


async def _picture(request: Request) -> Response:
    """`GET /takes/{id}/{name}`: ``image``, ``final.jpg``, ``7.jpg``, or ``thumb?w=320``."""
    parts = studio_services(request)
    take, name = id_in_path(request, "picture"), request.path_params["name"]
    member = await parts.access.viewer_of(request, f"/takes/{take}/{name}")
    step: Step = "final" if name in {"image", "thumb"} else _step(name)
    data, media_type, kept = await _find(parts, take, step, member)
    if name == "thumb":
        width = query_number(request, "w", _THUMB, *_WIDTHS)
        small = await asyncio.to_thread(thumbnail, data, name, width=width)
        data, media_type = small.data, MEDIA_TYPE
    etag = await asyncio.to_thread(etag_of, data)
    return in_range(
        request, cacheable(request, data, media_type, _FOREVER if kept else _ASKED_EACH_TIME, etag)
    )


picture: Final = refusing(_picture)


def _step(name: str) -> Step:
    found = _NAME.fullmatch(name)
    if found is None:
        raise no_such("picture")
    if found[1] == "final":
        return "final"
    return int(found[1])


async def _find(
    parts: StudioServices, take: str, step: Step, member: str
) -> tuple[bytes, str, bool]:
    """A picture of a member's own take, its media type, and whether it stays as it is.

    Raises:
        StudioRefused: `not_found`: there is none, or it is somebody else's.
    """
    drawn = parts.previews.get(take, step)
    if drawn is not None:
        if drawn.owner != member:
            raise no_such("picture")
        return drawn.image, drawn.media_type, False
    if not await parts.jobs.owns_take(take, member):
        raise no_such("picture")
    try:
        async with asyncio.timeout(_READ_WITHIN):
            found = await open_take(parts.store, take)
            steps = found.image_set.steps
            number = len(steps) if step == "final" else step
            if number > len(steps):
                raise no_such("picture")
            shown = steps[number - 1]
            data = await found.library.image(shown)
    except (NotFound, BrokenSet):
        raise no_such("picture") from None
    except (StoreError, FormatError, TimeoutError) as error:
        raise StudioRefused("unavailable", f"the store cannot be read now: {error}") from error
    return data, shown.media_type, True
