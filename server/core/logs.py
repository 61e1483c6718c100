"""Logging: one line an event, for people in a terminal and as JSON elsewhere.

Everything passes one border on its way out, whoever caused it: texts lose their control
characters and what is too long, and of each event only so many lines a minute are written. The
rest is counted, and one line says how many there were.
"""

from __future__ import annotations

import logging
import re
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final, TextIO

import structlog
from prometheus_client.core import CounterMetricFamily, Metric
from structlog.typing import EventDict

from server.core.metrics import sampled

LINES_A_MINUTE: Final = 60
"""Lines of one event that are written in a minute."""

LINES_OF_EVENT: Final[Mapping[str, int]] = {"command": 1200}
"""Events of which more are: who did what is to be found, also at a desk of quick buttons."""

LINES_OF_ONE: Final[Mapping[str, tuple[str, int]]] = {
    "screen_says": ("screen", 20),
    "command": ("sender", 600),
}
"""Events of which one sender may write only so many in a minute, and the field that names it."""

_OUR_OWN: Final = frozenset({"output_written_again", "log_lines_left_out"})
_MINUTE: Final = 60.0
_MOST_SENDERS: Final = 1000
_LONGEST_TEXT: Final = 4000
_LONGEST_TRACEBACK: Final = 16_000
_HAVE_LINES: Final = frozenset({"exception", "stack"})
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")
_CONTROL_BUT_LINES: Final = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")


@dataclass(slots=True)
class _Minute:
    """What there was of one event since its minute began."""

    ends: float
    lines: int = 0
    left_out: int = 0


class LogBudget:
    """So many lines a minute of each event, whoever causes them; the rest is counted.

    Args:
        lines_a_minute: of one event.
        monotonic: what minutes are measured by, in seconds.
        later: calls something after so many seconds, in any thread.
        tell: says of an event how many of its lines were left out.
    """

    def __init__(
        self,
        lines_a_minute: int = LINES_A_MINUTE,
        *,
        monotonic: Callable[[], float] = time.monotonic,
        later: Callable[[float, Callable[[], None]], None] | None = None,
        tell: Callable[[str, int], None] | None = None,
    ) -> None:
        self.left_out: dict[str, int] = {}
        self._lines_a_minute = lines_a_minute
        self._monotonic = monotonic
        self._later = later or _in_a_thread
        self._tell = tell or _tell_left_out
        self._minutes: dict[tuple[str, str], _Minute] = {}
        self._untold: dict[str, int] = {}
        self._waking = False
        self._lock = threading.RLock()  # a finaliser may log while its own thread is in here

    def admits(self, event: str, fields: Mapping[str, Any]) -> bool:
        """Whether one more line of `event` is within the budget; one that is not is counted."""
        if event in _OUR_OWN:
            return True
        with self._lock:
            now, within = self._monotonic(), True
            if event in LINES_OF_ONE:
                # First, or one who is loud would use up what all may say together.
                field, most = LINES_OF_ONE[event]
                within = self._take((event, str(fields.get(field))[:64]), most, now)
            most_of_all = LINES_OF_EVENT.get(event, self._lines_a_minute)
            within = within and self._take((event, ""), most_of_all, now)
            if not within:
                self.left_out[event] = self.left_out.get(event, 0) + 1
                if not self._waking:
                    self._waking = True
                    self._later(_MINUTE, self.sum_up)
            return within

    def sum_up(self) -> None:
        """Tell what was left out of the minutes that are over."""
        with self._lock:
            now, self._waking = self._monotonic(), False
            for key in [key for key, minute in self._minutes.items() if now >= minute.ends]:
                self._close(key)
            told, self._untold = self._untold, {}
            if any(minute.left_out for minute in self._minutes.values()):
                self._waking = True
                self._later(_MINUTE, self.sum_up)
        for event, count in told.items():
            self._tell(event, count)

    def _take(self, key: tuple[str, str], most: int, now: float) -> bool:
        minute = self._minutes.get(key)
        if minute is not None and now >= minute.ends:
            self._close(key)
            minute = None
        if minute is None:
            if key[1] and len(self._minutes) >= _MOST_SENDERS:
                return True  # so many names are one stranger's: what all may say is the bound
            minute = self._minutes[key] = _Minute(now + _MINUTE)
        if minute.lines >= most:
            minute.left_out += 1
            return False
        minute.lines += 1
        return True

    def _close(self, key: tuple[str, str]) -> None:
        minute = self._minutes.pop(key)
        if minute.left_out:
            self._untold[key[0]] = self._untold.get(key[0], 0) + minute.left_out


def _in_a_thread(seconds: float, call: Callable[[], None]) -> None:
    timer = threading.Timer(seconds, call)
    timer.daemon = True
    timer.start()


def _tell_left_out(event: str, count: int) -> None:
    structlog.get_logger(__name__).warning("log_lines_left_out", of=event, lines=count)


LOG_BUDGET: Final = LogBudget()
"""This process's: there is one log."""


def within_budget(_logger: object, _method: str, entry: EventDict) -> EventDict:
    """Let a line pass that is within `LOG_BUDGET` (a processor)."""
    if not LOG_BUDGET.admits(str(entry.get("event")), entry):
        raise structlog.DropEvent
    return entry


def cleaned(_logger: object, _method: str, entry: EventDict) -> EventDict:
    """Take from every text what would move a terminal's cursor, and what is too long."""
    for key, value in entry.items():
        if isinstance(value, str):
            entry[key] = _cleaned(value, lines=key in _HAVE_LINES)
    return entry


def _cleaned(text: str, *, lines: bool) -> str:
    longest = _LONGEST_TRACEBACK if lines else _LONGEST_TEXT
    if len(text) > longest:  # a traceback's last lines say what it was
        text = f"…{text[-longest:]}" if lines else f"{text[:longest]}…"
    return (_CONTROL_BUT_LINES if lines else _CONTROL).sub("\ufffd", text.rstrip("\r\n"))


class QuietLogger:
    """Writes lines to a stream, and never raises: a show does not stop for want of a log.

    Standard error goes away with the terminal or the pipe it led to; a disk is full.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def msg(self, message: str) -> None:
        """Write one line, if that can be done."""
        with suppress(OSError, ValueError):
            self._stream.write(message + "\n")
            self._stream.flush()

    log = debug = info = warn = warning = error = critical = exception = fatal = msg


class _LibrariesHandler(logging.Handler):
    """What libraries log, on what is standard error at that moment."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write one line, if that can be done."""
        if sys.stderr is not None:
            with suppress(Exception):  # whatever a library cannot put into words
                QuietLogger(sys.stderr).msg(self.format(record))


def _library_within_budget(record: logging.LogRecord) -> bool:
    return LOG_BUDGET.admits(f"{record.name} {record.levelname.lower()}", {})


def configure_logs(level: str = "info") -> None:
    """Send our own log and that of the libraries to standard error."""
    terminal = sys.stderr is not None and sys.stderr.isatty()
    number = logging.getLevelNamesMapping()[level.upper()]
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="%H:%M:%S" if terminal else "iso", utc=not terminal),
        structlog.processors.StackInfoRenderer(),
        *([] if terminal else [structlog.processors.format_exc_info]),
        cleaned,
    ]
    renderer: structlog.typing.Processor = (
        # Not with the values of a traceback's variables: there are secrets among them.
        structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)
        if terminal
        else structlog.processors.JSONRenderer()
    )
    structlog.configure(
        processors=[within_budget, *shared, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=lambda *_: QuietLogger(sys.stderr),
    )
    handler = _LibrariesHandler()
    handler.addFilter(_library_within_budget)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        )
    )
    logging.raiseExceptions = False  # the same for what libraries log
    logging.captureWarnings(capture=True)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)


def log_metrics() -> Iterable[Metric]:
    """Lines beyond their budget, by event."""
    family = CounterMetricFamily(
        "understudy_log_lines_left_out",
        "Lines of the log that were more of one event than a minute admits.",
        labels=["event"],
    )
    yield sampled(family, dict(LOG_BUDGET.left_out))
