"""Frames on stage, and images of sets.

A frame's address is known to those alone who were told it: its run's token is drawn at
random. What lies in the store is shown to roles and screens, from what is on this machine:
nothing is fetched for them, whoever asks and however often, for the line is the show's.
"""

from __future__ import annotations

import asyncio
from typing import Final

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from cache.model.formats import MAX_STEPS
from cache.model.images import BadImage, check_image, media_type_for
from cache.model.keys import MAX_SET_ID, BadKey, image_key, is_action_id
from cache.stores.port import StoreError
from cache.untrusted import whole_number
from server.network.responses import cacheable, etag_of
from server.web.services import services

_FOREVER: Final = "public, max-age=31536000, immutable"
_READ_WITHIN: Final = 10.0
_RETRY_AFTER: Final = "30"


async def frame(request: Request) -> Response:
    """`GET /frames/{run}/{step}`: a frame of the run that is, or just was, on stage."""
    step = whole_number(request.path_params["step"], 1, MAX_STEPS)
    stage = services(request).stage
    found = None if step is None else stage.frame(request.path_params["run"], step)
    if found is None:
        raise HTTPException(404)
    return Response(
        bytes(found.image),
        media_type=found.header.media_type,
        headers={"cache-control": _FOREVER},
    )


async def asset(request: Request) -> Response:
    """`GET /assets/{action_id}/{set_id}/{file}`, where it is on this machine.

    503 with `Retry-After` for one that is in the store and not here yet.
    """
    parts = services(request)
    parts.access.may_see(request)
    params, supply = request.path_params, parts.supply
    action_id, name = params["action_id"], params["file"]
    media_type = media_type_for(name)
    set_id = whole_number(params["set_id"], 0, MAX_SET_ID - 1)
    if media_type is None or set_id is None or not is_action_id(action_id):
        raise HTTPException(404)
    try:
        key = image_key(action_id, set_id, name)
        async with parts.reading, asyncio.timeout(_READ_WITHIN):
            data = await supply.at_hand(key)
            if data is not None:
                check_image(data, name)
                etag = await asyncio.to_thread(etag_of, data)
                return cacheable(request, data, media_type, _FOREVER, etag)
    except (BadKey, BadImage):
        raise HTTPException(404) from None
    except (StoreError, TimeoutError):
        return _not_here("the store cannot be read")
    if supply.is_here or set_id not in supply.library.set_ids(action_id):
        raise HTTPException(404)
    return _not_here("it is in the store, and not on this machine yet")


def _not_here(reason: str) -> Response:
    return Response(
        f"{reason}\n", 503, media_type="text/plain", headers={"retry-after": _RETRY_AFTER}
    )
