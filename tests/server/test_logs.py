"""The log: a line an event, and nothing that could stop the show."""

from __future__ import annotations

import errno
import io
import json
import logging
import sys
from collections.abc import Iterator

import pytest
import structlog

from server.logs import configure_logs


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
