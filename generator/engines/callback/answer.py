"""What a generator says of a drawing, in its webhook or at once (pure)."""

from __future__ import annotations

import base64
import binascii
import math
from typing import Any, Final

from cache.untrusted import Unfit, decode_answer, one_line
from generator.engines.inbox import LateAnswer

MAX_IMAGE: Final = 20 * 2**20
"""Bytes of an encoded picture."""

MAX_BODY: Final = MAX_IMAGE * 4 // 3 + 2**16
"""Bytes of an answer: a picture in base64, and what is said beside it."""

SHOWN: Final = 400
"""Characters of what a generator says that are told."""


def read_fields(data: bytes) -> dict[str, Any]:
    """The fields of an answer.

    Raises:
        Unfit: it is no JSON object.
    """
    fields = decode_answer(data)
    if not isinstance(fields, dict):
        raise Unfit(f"expected a JSON object, found {type(fields).__name__}")
    return fields


def answer_of(fields: dict[str, Any]) -> LateAnswer | None:
    """What became of the drawing; None where it has not come to an end.

    Raises:
        Unfit: it is said to be completed, and there is no image that could be decoded.
    """
    status, image = fields.get("status"), fields.get("image_base64")
    if status == "failed":
        return LateAnswer(error=_reason(fields.get("error")))
    if status == "completed" or (status is None and image is not None):
        return LateAnswer(_decoded(image), seconds=_seconds(fields.get("processing_time_ms")))
    return None


def _reason(error: object) -> str:
    return (one_line(error, SHOWN) if isinstance(error, str) else "") or "it does not say why"


def _decoded(text: object) -> bytes:
    if not isinstance(text, str) or not text:
        raise Unfit("image_base64: expected the picture in base64, found none")
    if text.startswith("data:"):
        text = text.partition(",")[2]
    try:
        image = base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError):  # the latter, where it is not even ASCII
        raise Unfit("image_base64: expected the picture in base64, found other signs") from None
    if len(image) > MAX_IMAGE:
        raise Unfit(f"image_base64: expected at most {MAX_IMAGE} bytes, found {len(image)}")
    return image


def _seconds(milliseconds: object) -> float | None:
    if isinstance(milliseconds, bool) or not isinstance(milliseconds, int | float):
        return None
    return milliseconds / 1000 if math.isfinite(milliseconds) and milliseconds > 0 else None
