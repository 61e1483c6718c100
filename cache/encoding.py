"""JSON that goes out: to files, sockets, answers. It never fails, and says what it had to mend.

What came in through the border (`cache/untrusted.py`) can be written. What did not, such as a
duration that one of us divided by nothing, must not keep a technician from the state, nor the
state from the disk: it is written as well as it goes, and told once, then ever more seldom.
"""

from __future__ import annotations

import json
from collections import Counter

import structlog

from cache.untrusted import mended

_log = structlog.get_logger(__name__)

_mended: Counter[str] = Counter()
"""How often, by place; nothing decides by it but when it is told again."""


def json_text(value: object, *, place: str, indent: int | None = None) -> str:
    """A value as JSON that can be encoded in UTF-8, whatever it is.

    Args:
        value: what is written.
        place: where to, for the log where something had to be mended.
        indent: spaces; None for none, on one line.
    """
    separators = (",", ":") if indent is None else (",", ": ")
    try:
        text = json.dumps(
            value, ensure_ascii=False, allow_nan=False, indent=indent, separators=separators
        )
        if not text.isascii():
            text.encode()
    except (TypeError, ValueError, RecursionError) as error:
        _tell(place, error)
        return json.dumps(mended(value), ensure_ascii=False, indent=indent, separators=separators)
    return text


def _tell(place: str, error: Exception) -> None:
    _mended[place] += 1
    count = _mended[place]
    if count & (count - 1) == 0:  # the first, second, fourth, eighth …
        _log.error("json_mended", place=place, reason=str(error)[:200], times=count)
