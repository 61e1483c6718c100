"""A batch in a terminal: a line for each engine with its rate, and one for the whole."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from generator.sets.batch import Event, Left, Said
from server.cli.tally import Pace, Tally
from server.core.formatting import count, duration, rate

_REFRESH = 4
"""Times a second."""

_BAR, _NAME, _COUNT, _RATE = 24, 34, 10, 13
"""Widths in characters."""


@contextmanager
def batch_display(tally: Tally, console: Console) -> Iterator[None]:
    """Keep a batch's lines up to date while it runs; nothing where nobody looks at a terminal."""
    if not console.is_terminal or not tally.total:
        yield
        return
    with Live(
        get_renderable=lambda: picture(tally, time.monotonic()),
        console=console,
        refresh_per_second=_REFRESH,
        redirect_stdout=False,
    ):
        yield


def remark(event: Event, tally: Tally, console: Console) -> None:
    """Print what should stay to be read: which way pictures go, and engines that are lost."""
    match event:
        case Said(engine, text):
            console.print(f"{tally.line(engine).engine.name}: {text}", markup=False)
        case Left(engine, reason):
            name = tally.line(engine).engine.name
            why = reason.removeprefix(f"{name}: ")
            console.print(f"{name}: no further set is tried with it: {why}", markup=False)
        case _:
            pass


def picture(tally: Tally, now: float) -> Table:
    """The lines as they stand at `now`."""
    grid = Table.grid(padding=(0, 2), expand=True)
    # What is long gives way to what counts.
    grid.add_column(no_wrap=True, min_width=_BAR, max_width=_NAME)
    grid.add_column(no_wrap=True, min_width=_COUNT)
    grid.add_column(no_wrap=True, min_width=_RATE)
    grid.add_column(no_wrap=True, ratio=1)
    for line in tally.lines:
        grid.add_row(
            Text(line.engine.name, style="dim" if line.left else ""),
            count(line.pace.done, "set"),
            _rate(line.pace, now),
            Text(f"{line.doing}  {line.note}".strip(), style="dim"),
        )
    left = tally.seconds_left(now)
    grid.add_row(
        ProgressBar(total=tally.total, completed=tally.settled, width=_BAR),
        f"{tally.settled} of {tally.total}",
        _rate(tally.pace, now),
        "" if left is None else f"about {duration(left)} left",
    )
    return grid


def _rate(pace: Pace, now: float) -> str:
    per_second = pace.per_second(now)
    return "" if per_second is None else rate(per_second)
