"""The log: a line an event, and nothing that could stop the show."""

from __future__ import annotations

import errno
import io
import json
import logging
import sys
from collections.abc import Callable, Iterator

import pytest
import structlog

from server.core.logs import LogBudget, configure_logs


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    structlog.reset_defaults()
    root.handlers[:], root.level = handlers, level
    logging.raiseExceptions = True


class FullDisk(io.StringIO):
    def write(self, _text: str) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")


def test_elsewhere_than_in_a_terminal_each_event_is_a_line_of_json(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    configure_logs()
    structlog.get_logger("a").warning("set_skipped", set_id=3)
    structlog.get_logger("a").debug("not shown")
    logging.getLogger("library").error("of a library")
    first, second = map(json.loads, stream.getvalue().splitlines())
    assert (first["event"], first["set_id"], first["level"]) == ("set_skipped", 3, "warning")
    assert (second["event"], second["level"]) == ("of a library", "error")


@pytest.mark.parametrize("stream", [FullDisk(), io.StringIO()])
def test_a_log_that_cannot_be_written_is_no_reason_to_stop(
    stream: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stderr", stream)
    configure_logs()
    log = structlog.get_logger("b")
    log.info("bound while it could be")
    stream.close()
    log.error("the terminal is gone", reason="closed")
    log.error("and so is the traceback", exc_info=ValueError("x"))
    logging.getLogger("library").error("of a library")


class Minutes:
    """A budget on a clock of its own."""

    def __init__(self, lines_a_minute: int = 3) -> None:
        self.now = 0.0
        self.told: list[tuple[str, int]] = []
        self.due: list[tuple[float, Callable[[], None]]] = []
        self.budget = LogBudget(
            lines_a_minute,
            monotonic=lambda: self.now,
            later=lambda seconds, call: self.due.append((self.now + seconds, call)),
            tell=lambda event, count: self.told.append((event, count)),
        )

    def pass_(self, seconds: float) -> None:
        self.now += seconds
        due = [call for at, call in self.due if at <= self.now]
        self.due = [(at, call) for at, call in self.due if at > self.now]
        for call in due:
            call()

    def admitted(self, event: str, times: int, **fields: str) -> int:
        return sum(self.budget.admits(event, fields) for _ in range(times))


def test_of_one_event_so_many_lines_a_minute_and_the_rest_is_told_in_one() -> None:
    minutes = Minutes()
    assert minutes.admitted("screen_closed", 1000) == 3
    assert minutes.admitted("panic", 1) == 1, "another event has a budget of its own"
    assert minutes.told == []
    minutes.pass_(60)
    assert minutes.told == [("screen_closed", 997)]
    assert minutes.admitted("screen_closed", 5) == 3
    assert minutes.budget.left_out == {"screen_closed": 999}
    minutes.pass_(60)
    assert minutes.told[1:] == [("screen_closed", 2)]
    minutes.pass_(600)
    assert len(minutes.told) == 2
    assert minutes.due == [], "where nothing is left out nothing wakes up"


def test_a_loud_screen_leaves_the_others_their_say() -> None:
    minutes = Minutes(60)
    assert minutes.admitted("screen_says", 500, screen="loud") == 20
    assert minutes.admitted("screen_says", 5, screen="wall") == 5
    names = sum(minutes.admitted("screen_says", 1, screen=f"screen {n}") for n in range(5000))
    assert names == 35, "names cost nothing: together they have sixty"
    assert len(minutes.budget._minutes) <= 1000


def test_every_command_of_a_desk_of_buttons_is_logged() -> None:
    minutes = Minutes(60)
    for second in range(120):  # ten presses a second, and somebody who presses for all he can
        assert minutes.admitted("command", 10, sender="osc 10.0.0.7 (operator)") == 10, second
        minutes.admitted("command", 100, sender="viewer")
        minutes.pass_(1.0)
    assert minutes.admitted("command", 1, sender="foh-tablet (operator)") == 1


def test_what_comes_from_outside_moves_no_cursor_and_is_not_long(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    stream = Terminal()
    monkeypatch.setattr(sys, "stderr", stream)
    configure_logs()
    structlog.get_logger("c").warning(
        "screen_says", message="\x1b[2J\x1b]0;x\x07\u202e\n" + "y" * 9000
    )
    logging.getLogger("library").error("bad \x1b[2J request\n")

    def breaks(secret: str) -> None:
        del secret
        raise KeyError("y")

    try:
        breaks("do-not-" + "print")
    except KeyError:
        structlog.get_logger("c").exception("broken")
    said = stream.getvalue()
    assert "do-not-print" not in said  # a variable's value
    assert "KeyError" in said
    for line in said.replace("\x1b[0m", "").splitlines():
        assert len(line) < 4300
        assert "\x1b[2J" not in line
        assert "\x1b]" not in line
        assert "\u202e" not in line
