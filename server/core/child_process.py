"""A child process: `understudy …` once more, started and ended by us, and never outliving us.

It leads a process group of its own, so that it is ended with all that it has started. Two things
end it with whoever started it, even where that is killed with SIGKILL, because each alone leaves
a gap. We keep the other end of its standard input: it closes with us, on every system, but a
process that is stopped or stuck does not notice. Linux kills it with the thread that started it,
stopped or not, but not where that died before the child could ask for it.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import re
import signal
import sys
import threading
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final

from server.core.clock import Clock, timeout_at

NICENESS: Final = 5

_GONE_WITHIN: Final = 5.0
"""Seconds until a killed child is gone. One that a driver holds never is."""

_PR_SET_PDEATHSIG: Final = 1
_OOM_SCORE: Final = "500"
_ROOT: Final = Path(__file__).resolve().parents[2]


class ChildFailed(Exception):
    """A child could not be started, or ended by itself, with the reason in words."""


# ---------------------------------------------------------------- for its parent


@dataclass(frozen=True)
class ChildProcess:
    """A child that was started."""

    process: asyncio.subprocess.Process

    @property
    def pid(self) -> int:
        """Its process id."""
        return self.process.pid

    def memory(self) -> int | None:
        """Bytes of resident memory that it has, on Linux; None where that cannot be told."""
        try:
            pages = Path(f"/proc/{self.pid}/statm").read_text().split()[1]
        except (OSError, IndexError):
            return None
        return int(pages) * os.sysconf("SC_PAGE_SIZE")

    def kill(self) -> None:
        """End it and its own children at once."""
        self.signal(signal.SIGKILL)

    def signal(self, number: signal.Signals) -> None:
        """Signal it, and whatever it started."""
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, number)

    async def gone(self, clock: Clock, within: float) -> bool:
        """Whether it has ended, and is reaped, within so many seconds."""
        with suppress(TimeoutError):
            async with timeout_at(clock, clock.now() + within):
                await self.process.wait()
        return self.process.returncode is not None


@asynccontextmanager
async def child_process(
    *arguments: str,
    environment: Mapping[str, str],
    clock: Clock,
    stuck: Callable[[int], object],
    term_within: float = 0.0,
    stdout: int | IO[bytes] = asyncio.subprocess.PIPE,
) -> AsyncIterator[ChildProcess]:
    """Run `understudy` with `arguments` until the context is left, however it is left.

    Args:
        arguments: of its command line; ``--supervised`` has it `end_with_parent`.
        environment: what it gets to know.
        clock: by which the time it is given to end is told.
        stuck: told the process id of one that cannot be killed.
        term_within: seconds between asking it to end and ending it.
        stdout: where its standard output goes; a pipe by default, as its others are.

    Raises:
        ChildFailed: it cannot be started.
    """
    try:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-P"),  # a folder named server where we stand is not ours
            *("-m", "server", *arguments),
            stdin=asyncio.subprocess.PIPE,
            stdout=stdout,
            stderr=asyncio.subprocess.PIPE,
            env=environment,
            start_new_session=True,
        )
    except OSError as error:
        raise ChildFailed(f"it cannot be started: {error.strerror}") from error
    child = ChildProcess(process)
    try:
        yield child
    finally:
        try:
            if term_within and process.returncode is None:
                child.signal(signal.SIGTERM)
                await child.gone(clock, term_within)
        finally:
            # Also where we are cancelled meanwhile; and its own children, if it left any.
            child.kill()
            if process.stdin is not None:
                process.stdin.close()
            if not await child.gone(clock, _GONE_WITHIN):
                stuck(process.pid)


def child_environment(
    environment: Mapping[str, str], without: re.Pattern[str], **more: str
) -> dict[str, str]:
    """What a child gets to know: where our packages are, and all but some of `environment`."""
    kept = {name: value for name, value in environment.items() if not without.fullmatch(name)}
    paths = [str(_ROOT), *filter(None, [kept.get("PYTHONPATH")])]
    return {**kept, "PYTHONPATH": os.pathsep.join(paths), **more}


def exit_in_words(status: int) -> str:
    """How a process ended, by its exit status."""
    return f"it was killed by signal {-status}" if status < 0 else f"it ended with status {status}"


# ---------------------------------------------------------------- for the child itself


def end_with_parent(descriptor: int = 0) -> None:
    """End this process, at once, when `descriptor` closes or the parent dies."""
    if sys.platform == "linux":
        # Where the C library is another one, the pipe alone must do.
        with suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    threading.Thread(target=_watch, args=(descriptor,), name="parent watch", daemon=True).start()


def _watch(descriptor: int) -> None:
    with suppress(OSError):
        while os.read(descriptor, 4096):
            pass
    # Nothing here is worth a farewell, and a drawing thread would not let go.
    os._exit(1)


def give_way(niceness: int = NICENESS) -> None:
    """Let the show go first: on the processor, on the disk, and when memory runs out."""
    with suppress(OSError):
        os.nice(niceness)  # Linux ranks the disk by it too
    with suppress(OSError):  # Linux only
        Path("/proc/self/oom_score_adj").write_text(_OOM_SCORE)
