"""What somebody probably meant by a name that there is not (pure)."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def nearest(name: str, known: Iterable[str]) -> str:
    """``; did you mean UNDERSTUDY_PLAYBACK_MODE?``, or nothing where no name is near."""
    close = difflib.get_close_matches(name, sorted(known), n=1, cutoff=0.7)
    return f"; did you mean {close[0]}?" if close else ""
