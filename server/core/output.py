"""Standard output and standard error through a bounded queue and a thread of their own.

A log is written where something else must read or store it: a pipe, a journal, a terminal, a
disk. Any of these can stop, and a write to it then waits for as long as it pleases. So while a
server serves, `sys.stdout` and `sys.stderr` only queue their lines, and a thread for each of
them writes. What finds no room in the queue, or cannot be written, is lost and counted;
`conditions` tells it while it is so, and one line in the log once it is over.

Whoever writes to the descriptors past Python (`faulthandler`, a C library) is not in the queue.
"""

from __future__ import annotations

import errno
import io
import os
import select
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final, TextIO, cast

import structlog
from prometheus_client.core import CounterMetricFamily, Metric

from server.core.conditions import Condition
from server.core.formatting import count as counted
from server.core.metrics import sampled

_log = structlog.get_logger(__name__)

MOST_BYTES: Final = 4 * 2**20
"""Bytes that wait to be written, at most; about twenty thousand lines."""

FLUSHED_WITHIN: Final = 1.0
"""Seconds that the end of the program waits for what is still in the queues."""

STUCK_AFTER: Final = 2.0
"""Seconds that one line may take to be written before it is said that nobody reads them."""

_LONGEST_LINE: Final = 65536
_NOBODY_READS: Final = "nobody reads it"
_TRY_AGAIN: Final = 1.0
_CANNOT_WRITE: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EPIPE, errno.EBADF, errno.EIO})


@dataclass(frozen=True, slots=True)
class OutputTrouble:
    """Why a stream is not written at this moment.

    Attributes:
        stream: its name.
        reason: why, in words.
        since: Unix time of the first line that was not written.
        lost: lines that are lost since then.
    """

    stream: str
    reason: str
    since: float
    lost: int


class BackgroundStream(io.TextIOBase):
    """A text stream that never waits: a thread writes what is in its queue.

    Lines are kept whole. Where the queue is full it is the new line that is lost: the first
    ones say how it began.

    Args:
        target: where the lines go in the end; its descriptor is written to, if it has one.
        name: what it is called where its losses are told.
        most_bytes: how much may wait.
        monotonic: what waiting is measured by, in seconds.
        wall: Unix time, to say since when.
    """

    def __init__(
        self,
        target: TextIO,
        name: str,
        *,
        most_bytes: int = MOST_BYTES,
        monotonic: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self.target = target
        self.name = name
        self.lost_lines = 0
        self._put = _writer_to(target)
        self._most_bytes = most_bytes
        self._monotonic, self._wall = monotonic, wall
        self._partial = ""
        self._queue: deque[bytes] = deque()
        self._waiting = 0
        self._writing_since: float | None = None
        self._writing_since_wall = 0.0
        self._trouble: OutputTrouble | None = None
        self._ending = False
        # A signal's handler or a finaliser may write within one of our own methods: the lock
        # of a condition can be taken again by its own thread.
        self._changed = threading.Condition()
        # Nothing keeps the process for a thread that waits for somebody to read.
        self._thread = threading.Thread(target=self._run, name=f"{name} writer", daemon=True)
        self._thread.start()

    # ------------------------------------------------------------ as a stream

    @property
    def encoding(self) -> str:  # type: ignore[override]
        """Always UTF-8."""
        return "utf-8"

    @property
    def errors(self) -> str:  # type: ignore[override]
        """What UTF-8 has no bytes for, half a surrogate pair, is written as an escape."""
        return "backslashreplace"

    def writable(self) -> bool:
        """It is."""
        return True

    def isatty(self) -> bool:
        """Whether people read it in a terminal."""
        with suppress(ValueError, OSError):
            return self.target.isatty()
        return False

    def fileno(self) -> int:
        """The descriptor that is written to in the end."""
        return self.target.fileno()

    def write(self, text: str) -> int:
        """Queue whole lines; the beginning of one waits for its end, or for `flush`."""
        with self._changed:
            whole, newline, rest = (self._partial + text).rpartition("\n")
            self._partial = rest
            if newline:
                self._enqueue(whole + newline)
            if len(rest) > _LONGEST_LINE:
                self.flush()
        return len(text)

    def flush(self) -> None:
        """Queue what has no end of line yet; it waits for nothing."""
        with self._changed:
            if self._partial:
                text, self._partial = self._partial, ""
                self._enqueue(text)

    # ------------------------------------------------------------ how it does

    def trouble(self) -> OutputTrouble | None:
        """Why it is not written at this moment; None if it is."""
        with self._changed:
            begun = self._writing_since
            stuck = begun is not None and self._monotonic() - begun >= STUCK_AFTER
            if self._trouble is None and stuck:
                return OutputTrouble(self.name, _NOBODY_READS, self._writing_since_wall, 0)
            return self._trouble

    def drain(self, within: float) -> bool:
        """Wait until all is written, `within` seconds at most; whether it was."""
        self.flush()
        with self._changed:
            return self._changed.wait_for(lambda: not self._pending, timeout=within)

    def end(self) -> None:
        """Let the thread end once it has written what is there."""
        with self._changed:
            self._ending = True
            self._changed.notify_all()

    # ------------------------------------------------------------

    @property
    def _pending(self) -> bool:
        return bool(self._queue) or self._writing_since is not None

    def _enqueue(self, text: str) -> None:
        data = text.encode(errors="backslashreplace")
        if self._ending or self._waiting + len(data) > self._most_bytes:
            self._lose(data, "it is over" if self._ending else _NOBODY_READS)
            return
        self._queue.append(data)
        self._waiting += len(data)
        self._changed.notify_all()

    def _lose(self, data: bytes, reason: str) -> None:
        lines = max(1, data.count(b"\n"))
        self.lost_lines += lines
        self._in_trouble(reason, lines)

    def _in_trouble(self, reason: str, lines: int = 0) -> None:
        before = self._trouble
        if before is None:
            self._trouble = OutputTrouble(self.name, reason, self._wall(), lines)
        else:  # why it began is told: that the queue is full then follows
            self._trouble = replace(before, lost=before.lost + lines)

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._queue or self._ending)
                if not self._queue:
                    return
                data = self._queue.popleft()
                self._writing_since, self._writing_since_wall = self._monotonic(), self._wall()
            written = self._write_or_lose(data)
            with self._changed:
                self._waiting -= len(data)
                self._writing_since = None
                over = None
                if written and not self._queue:
                    over, self._trouble = self._trouble, None
                self._changed.notify_all()
            if over is not None:
                _log.warning(
                    "output_written_again",
                    stream=over.stream,
                    lines_lost=over.lost,
                    since=_time_of_day(over.since),
                    reason=over.reason,
                )

    def _write_or_lose(self, data: bytes) -> bool:
        """Write, however long it takes and however often it must be tried; whether it was."""
        rest = memoryview(data)
        while True:
            try:
                while rest:
                    rest = rest[self._put(rest) :]
            except (OSError, ValueError) as error:  # of a stream that was closed, a ValueError
                reason = getattr(error, "strerror", None) or str(error)
                with self._changed:
                    self._in_trouble(reason.lower())
                    if self._changed.wait_for(lambda: self._ending, timeout=_TRY_AGAIN):
                        self._lose(data, reason)
                        return False
            else:
                return True


def _writer_to(target: TextIO) -> Callable[[memoryview], int]:
    """Writes some bytes, and says how many."""
    try:
        descriptor = target.fileno()
    except (OSError, ValueError, AttributeError):

        def write_text(data: memoryview) -> int:
            target.write(bytes(data).decode())
            target.flush()
            return len(data)

        return write_text

    def write_bytes(data: memoryview) -> int:
        try:
            return os.write(descriptor, data)
        except BlockingIOError:  # somebody who shares it has set it so
            select.select([], [descriptor], [], _TRY_AGAIN)
            return 0

    return write_bytes


def occupy_standard_descriptors() -> None:
    """Open nothing at all where whoever started us left 0, 1 or 2 closed.

    Else the next file that is opened is descriptor 2, and takes in what a library complains of.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest that is free
    if sys.stdout is None:  # a command that has an answer finds that nobody hears it
        sys.stdout = cast(TextIO, _Closed())


def unwritten_output(ended: BaseException) -> str | None:
    """Why a command's output could not all be written, in words; None if it was.

    What Python still holds of it is written now, and never again at its own end.

    Args:
        ended: what the command ended with.
    """
    error: BaseException | None = None
    if isinstance(ended, OSError) and ended.filename is None and ended.errno in _CANNOT_WRITE:
        error = ended
    try:
        sys.stdout.flush()
    except (OSError, ValueError) as found:
        error = found
    if error is None:
        return None
    # Python flushes once more as it ends, and would end with status 120.
    with suppress(OSError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    sys.stdout = cast(TextIO, _Nowhere())
    return (getattr(error, "strerror", None) or str(error)).lower()


def _streams() -> tuple[BackgroundStream, ...]:
    """Those that are in use now."""
    return tuple(each for each in (sys.stdout, sys.stderr) if isinstance(each, BackgroundStream))


@contextmanager
def output_in_background() -> Iterator[None]:
    """Queue whatever this process writes, while the body lasts.

    At the end what waits is written, within `FLUSHED_WITHIN`, and what is written after that is
    written as ever. Within another one it does nothing.
    """
    if _streams():
        yield
        return
    before = (sys.stdout, sys.stderr)
    # Where the parent closed a descriptor, Python has no stream for it.
    ours = [
        None if stream is None or isinstance(stream, _Closed) else BackgroundStream(stream, name)
        for stream, name in zip(before, ("standard output", "standard error"), strict=True)
    ]
    sys.stdout, sys.stderr = (cast(TextIO, mine or _Nowhere()) for mine in ours)
    try:
        yield
    finally:
        until = time.monotonic() + FLUSHED_WITHIN
        for stream in ours:
            if stream is not None:
                stream.drain(max(0.0, until - time.monotonic()))
                stream.end()
        sys.stdout, sys.stderr = (
            cast(TextIO, stream if mine is None or mine.trouble() is None else _Nowhere())
            for stream, mine in zip(before, ours, strict=True)
        )


class _Nowhere(io.TextIOBase):
    """A stream that nobody reads."""

    def write(self, text: str) -> int:
        """Let it go."""
        return len(text)


class _Closed(io.TextIOBase):
    """Standard output that whoever started us has closed: Python has no stream for it."""

    def __init__(self) -> None:
        self._refused = False

    def write(self, text: str) -> int:
        """Refuse it."""
        self._refused = True
        self.flush()
        return len(text)

    def flush(self) -> None:
        """Refuse it again, once there was anything."""
        if self._refused:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))


def output_conditions() -> Iterable[Condition]:
    """What is not written at this moment, as a source for `Conditions`."""
    for stream in _streams():
        trouble = stream.trouble()
        if trouble is None:
            continue
        lost = f"; {counted(trouble.lost, 'line')} lost so far" if trouble.lost else ""
        yield Condition(
            "output_not_written",
            "degraded",
            f"{trouble.stream} has not been written since {_time_of_day(trouble.since)}: "
            f"{trouble.reason}{lost}. The show goes on without: look at what takes the log "
            "(journald, a pipe, the disk)",
        )


def output_metrics() -> Iterable[Metric]:
    """Lines that could not be written, by stream."""
    family = CounterMetricFamily(
        "understudy_output_lines_lost",
        "Lines of the log and of other output that could not be written.",
        labels=["stream"],
    )
    yield sampled(family, {stream.name: stream.lost_lines for stream in _streams()})


def _time_of_day(wall: float) -> str:
    return datetime.fromtimestamp(wall).astimezone().strftime("%H:%M:%S")
