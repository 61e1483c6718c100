"""How much is measured: the whole of it, for figures, or a little, to see that it still works.

`BENCHMARKS_SHORT=1` asks for a little; its figures mean nothing.
"""

from __future__ import annotations

import os
from typing import TypeVar

T = TypeVar("T")

SHORT = os.environ.get("BENCHMARKS_SHORT", "") == "1"


def length(whole: T, short: T) -> T:
    """What a benchmark goes by: `whole`, or `short` where only a little is asked for."""
    return short if SHORT else whole
