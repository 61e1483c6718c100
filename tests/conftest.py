"""What every test may rely on."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest
import structlog
from _pytest.terminal import TerminalReporter

os.environ.setdefault("OMP_NUM_THREADS", "1")  # of models this small, threads only cost

SLOWEST = ("test_benchmarks.py", "test_drawing.py", "test_live_engines.py", "test_diffusers.py")
"""Files that are begun first, or the last worker would sit over one of them alone."""


def _log_plainly() -> None:
    """The log as it comes, tracebacks without the values of their variables.

    structlog's own default draws those as well: seconds for each, on the loop of whatever runs.
    """
    structlog.reset_defaults()
    *before, _renderer = structlog.get_config()["processors"]
    plain = structlog.dev.ConsoleRenderer(
        colors=False, exception_formatter=structlog.dev.plain_traceback
    )
    structlog.configure(processors=[*before, plain])


_log_plainly()


@pytest.fixture(autouse=True)
def logs_as_they_come() -> Iterator[None]:
    """Whoever sets up logging in this process, as our commands do, does it for one test."""
    yield
    _log_plainly()


def pytest_configure() -> None:
    # A shell that begins us in the background has us ignore Ctrl-C, and so would our children.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with what takes longest; what needs the machine's pace is run again up to twice."""
    items.sort(key=lambda item: item.path.name not in SLOWEST)
    for item in items:
        if item.get_closest_marker("pace") is not None:
            item.add_marker(pytest.mark.flaky(reruns=2))


def pytest_terminal_summary(terminalreporter: TerminalReporter) -> None:
    """Say what was run again: often the same test, and it is the test or the code that is wrong."""
    again = sorted({report.nodeid for report in terminalreporter.getreports("rerun")})
    if again:
        tests = "1 test" if len(again) == 1 else f"{len(again)} tests"
        terminalreporter.write_line(f"{tests} of pace were run again: {', '.join(again)}")
