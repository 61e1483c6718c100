"""A part of an answer, for who asks for one: a download that goes on, a player that skips."""

from __future__ import annotations

import re
from typing import Final

from starlette.requests import Request
from starlette.responses import Response

_OK: Final = 200
_KEPT: Final = frozenset({"etag", "cache-control", "accept-ranges"})
_RANGE: Final = re.compile(r"\s*bytes\s*=\s*([0-9]{0,18})\s*-\s*([0-9]{0,18})\s*", re.ASCII)


def in_range(request: Request, whole: Response) -> Response:
    """The part of an answer that a request asks for; all of it where it asks for no one part.

    Several parts at once are answered with the whole, as everybody may. So is who has a part of
    what is not the same any more (`If-Range`).

    Args:
        request: which may have a `Range`.
        whole: what it is answered without one; it says that there are parts to be had.
    """
    whole.headers["accept-ranges"] = "bytes"
    found = _RANGE.fullmatch(request.headers.get("range", ""))
    wanted = request.headers.get("if-range", whole.headers.get("etag"))
    if found is None or whole.status_code != _OK or wanted != whole.headers.get("etag"):
        return whole
    data = bytes(whole.body)
    size = len(data)
    first, last = found[1], found[2]
    if first:
        begin, end = int(first), min(int(last) + 1 if last else size, size)
        if last and int(last) < begin:
            return whole  # that is no range
    elif last:  # the last so many
        begin, end = max(0, size - int(last)), size
    else:
        return whole
    kept = {name: each for name, each in whole.headers.items() if name in _KEPT}
    if begin >= end:
        return Response(status_code=416, headers={**kept, "content-range": f"bytes */{size}"})
    kept["content-range"] = f"bytes {begin}-{end - 1}/{size}"
    return Response(data[begin:end], 206, kept, whole.media_type)
