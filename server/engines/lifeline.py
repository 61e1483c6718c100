"""A child that does not outlive whoever started it, even where that is killed with SIGKILL.

Two ways, because each alone leaves a gap. The parent keeps the other end of our standard
input: it closes with the parent, on every system, but a process that is stopped or stuck
does not notice. Linux kills us with the thread that started us, stopped or not, but not
where that died before we could ask for it.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import Final

_PR_SET_PDEATHSIG: Final = 1
NICENESS: Final = 5
_OOM_SCORE: Final = "500"


def end_with_parent(descriptor: int = 0) -> None:
    """End this process, at once, when `descriptor` closes or the parent dies."""
    if sys.platform == "linux":
        # Where the C library is another one, the pipe alone must do.
        with suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    threading.Thread(target=_watch, args=(descriptor,), name="lifeline", daemon=True).start()


def give_way(niceness: int = NICENESS) -> None:
    """Let the show go first: on the processor, on the disk, and when memory runs out."""
    with suppress(OSError):
        os.nice(niceness)  # Linux ranks the disk by it too
    with suppress(OSError):  # Linux only
        Path("/proc/self/oom_score_adj").write_text(_OOM_SCORE)


def _watch(descriptor: int) -> None:
    with suppress(OSError):
        while os.read(descriptor, 4096):
            pass
    # Nothing here is worth a farewell, and a drawing thread would not let go.
    os._exit(1)
