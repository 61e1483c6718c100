"""Output through a queue: nothing waits for whoever should read it, and what is lost is told."""

from __future__ import annotations

import errno
import io
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import TextIO, cast

import pytest
import structlog

from server.core.output import (
    STUCK_AFTER,
    BackgroundStream,
    output_conditions,
    output_in_background,
    output_metrics,
)


class Pipe(io.StringIO):
    """A stream that takes nothing while nobody reads, or while its disk is full."""

    def __init__(self) -> None:
        super().__init__()
        self.read = threading.Event()  # type: ignore[assignment]
        self.read.set()  # type: ignore[attr-defined]
        self.full = False

    def fileno(self) -> int:
        raise io.UnsupportedOperation

    def write(self, text: str) -> int:
        self.read.wait()  # type: ignore[attr-defined]
        if self.full:
            raise OSError(errno.ENOSPC, "No space left on device")
        return super().write(text)


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    pipe = Pipe()
    yield pipe
    pipe.full = False
    pipe.read.set()  # type: ignore[attr-defined]


def until(true: Callable[[], object], within: float = 5.0) -> None:
    ends = time.monotonic() + within
    while not true():
        assert time.monotonic() < ends
        time.sleep(0.005)


def test_a_print_is_there_in_the_end_whole_and_in_order(pipe: Pipe) -> None:
    stream = BackgroundStream(pipe, "standard output")
    print("first", "line", file=cast(TextIO, stream))
    stream.write("second ")
    stream.write("line\nhalf a \ud83d pair\nand no end")
    assert stream.drain(5)
    assert pipe.getvalue() == "first line\nsecond line\nhalf a \\ud83d pair\nand no end"
    assert stream.trouble() is None
    stream.end()


def test_nobody_reads_and_nobody_waits_and_the_rest_is_counted(pipe: Pipe) -> None:
    now = [0.0]
    stream = BackgroundStream(
        pipe, "standard error", most_bytes=100, monotonic=lambda: now[0], wall=lambda: 0.0
    )
    pipe.read.clear()  # type: ignore[attr-defined]
    for number in range(20):
        stream.write(f"line {number:4}\n")
    until(lambda: stream._writing_since is not None)
    assert stream.lost_lines == 10
    trouble = stream.trouble()
    assert trouble is not None
    assert (trouble.reason, trouble.lost) == ("nobody reads it", 10)
    with structlog.testing.capture_logs() as told:
        pipe.read.set()  # type: ignore[attr-defined]
        assert stream.drain(5)
        until(lambda: told)
    assert pipe.getvalue().splitlines() == [f"line {number:4}" for number in range(10)]
    assert told[0]["event"] == "output_written_again"
    assert (told[0]["stream"], told[0]["lines_lost"]) == ("standard error", 10)
    assert stream.trouble() is None
    stream.end()


def test_a_line_that_takes_too_long_is_told_before_anything_is_lost(pipe: Pipe) -> None:
    now = [0.0]
    stream = BackgroundStream(pipe, "standard error", monotonic=lambda: now[0])
    pipe.read.clear()  # type: ignore[attr-defined]
    stream.write("a line\n")
    until(lambda: stream._writing_since is not None)
    assert stream.trouble() is None
    now[0] = STUCK_AFTER
    trouble = stream.trouble()
    assert trouble is not None
    assert trouble.lost == 0
    assert not stream.drain(0.01)
    stream.end()


def test_a_disk_that_was_full_gets_what_waited(pipe: Pipe, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("server.core.output._TRY_AGAIN", 0.01)
    pipe.full = True
    stream = BackgroundStream(pipe, "standard output")
    stream.write("a line\nanother\n")
    until(stream.trouble)
    trouble = stream.trouble()
    assert trouble is not None
    assert trouble.reason == "no space left on device"
    pipe.full = False
    until(lambda: stream.trouble() is None)
    assert pipe.getvalue() == "a line\nanother\n"
    assert stream.lost_lines == 0
    stream.end()


def test_the_end_of_the_program_does_not_wait_for_a_reader(
    pipe: Pipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("server.core.output.FLUSHED_WITHIN", 0.05)
    monkeypatch.setattr("server.core.output.STUCK_AFTER", 0.0)
    monkeypatch.setattr(sys, "stderr", pipe)
    with output_in_background():
        pipe.read.clear()  # type: ignore[attr-defined]
        print("never read", file=sys.stderr)
        until(lambda: list(output_conditions()))
        (condition,) = output_conditions()
        assert condition.code == "output_not_written"
        assert "standard error has not been written since" in condition.message
    assert sys.stderr is not pipe  # what is said now, by the interpreter's end too, would wait
    print("nor is this", file=sys.stderr)
    assert list(output_conditions()) == []


def test_afterwards_the_streams_are_what_they_were() -> None:
    before = sys.stdout, sys.stderr
    with output_in_background():
        ours = sys.stdout
        with output_in_background():
            assert sys.stdout is ours
        (family,) = output_metrics()
        assert [sample.value for sample in family.samples] == [0, 0]
    assert (sys.stdout, sys.stderr) == before


def test_there_may_be_no_streams_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    monkeypatch.setattr(sys, "stderr", None)
    with output_in_background():
        print("to nobody")
        print("to nobody", file=sys.stderr)
        assert list(output_conditions()) == []
