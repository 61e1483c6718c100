"""What a screen may call itself, in the settings and on the wire (pure)."""

from __future__ import annotations

from typing import Annotated, Final

from pydantic import AfterValidator, Field

from cache.untrusted import one_line

MAX_NAME: Final = 64
"""Characters of a screen's name."""


def _readable(text: str) -> str:
    name = one_line(text, MAX_NAME)
    if not name:
        raise ValueError("expected a name that can be read")
    return name


ScreenName = Annotated[str, Field(min_length=1, max_length=MAX_NAME), AfterValidator(_readable)]
"""What a screen calls itself, in one line: it is shown to people, logged, and asked for."""
