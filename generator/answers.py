"""Answers over HTTP that cannot fail on what they are given."""

from __future__ import annotations

from typing import Any

from starlette.responses import JSONResponse

from cache.encoding import json_text


class JsonResponse(JSONResponse):
    """An answer in JSON; what has no form in it is mended, and told in the log."""

    def render(self, content: Any) -> bytes:  # noqa: ANN401 - as in starlette
        """The body."""
        return json_text(content, place="http").encode()
