"""`understudy rehearse`: the whole show on a virtual clock, and what would go wrong tonight."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, NoReturn

import typer
from pydantic import TypeAdapter, ValidationError
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from cache.stores.urls import BadStoreAddress
from cache.untrusted import Unfit, fit_json
from generator.sheet.cues import parse_time
from server.cli.common import (
    JsonOption,
    ShowOption,
    StoreOption,
    errors,
    fail,
    is_wrong_use,
    load,
    load_or_raise,
)
from server.cli.live_rehearsal import FASTEST, SLOWEST, rehearse_live
from server.config.sections import bits_per_second
from server.config.show import Show, ShowError
from server.core.child_process import end_with_parent, give_way
from server.core.logs import configure_logs
from server.core.output import output_in_background
from server.diagnostics.findings import ranked
from server.diagnostics.report import ProbedEngine, RehearsalOptions, Report
from server.diagnostics.show import unloadable
from server.network.serving import NotServed
from server.rehearsal.rehearsal import rehearse, seed_of
from server.rehearsal.request import CannotRehearse, check_asked
from server.reports.html import render_page
from server.reports.report_file import build_page, write_page
from server.reports.terminal import WIDTH, print_report

_MOST_SCREENINGS = 1000
_ENGINES = TypeAdapter(tuple[ProbedEngine, ...])
_FORETELLING = {"bandwidth", "latency", "fail", "deep"}
_BESIDE_A_SHOW = 19
"""Niceness of a rehearsal in the background of a show that is on."""


SeedOption = Annotated[
    int | None, typer.Option(min=0, help="Of what is left to chance; by default the show's.")
]
ScreeningsOption = Annotated[
    int, typer.Option(min=1, max=_MOST_SCREENINGS, help="How many, one after another.")
]
FromOption = Annotated[
    str | None, typer.Option("--from", metavar="HH:MM:SS", help="Where each begins.")
]
ToOption = Annotated[str | None, typer.Option("--to", metavar="HH:MM:SS", help="Where each ends.")]
BandwidthOption = Annotated[
    str | None,
    typer.Option(metavar="RATE", help="What the line to the store carries: 10M is 10 Mbit/s."),
]
LatencyOption = Annotated[
    float, typer.Option(min=0, help="Seconds of each request over that line.")
]
FailOption = Annotated[
    list[str] | None,
    typer.Option(
        "--fail",
        metavar="NAME",
        help="What is to fail: store, engines, an engine, an action. May be repeated.",
    ),
]
DeepOption = Annotated[
    bool, typer.Option("--deep", help="Decode every image of every set, wholly.")
]
HtmlOption = Annotated[
    Path | None, typer.Option(metavar="FILE", help="Write the report as a page of its own.")
]
SpeedOption = Annotated[
    float | None,
    typer.Option(
        min=SLOWEST,
        max=FASTEST,
        help="Watch it on the show's own screens instead, so many times as fast.",
    ),
]
HostOption = Annotated[str | None, typer.Option(help="With --speed: address to listen on.")]
PortOption = Annotated[
    int | None, typer.Option(min=0, max=65535, help="With --speed: port; 0 for any.")
]
EnginesOption = Annotated[
    str | None,
    typer.Option(hidden=True, metavar="JSON", help="How engines do, as a server that plays knows."),
]
SupervisedOption = Annotated[
    bool,
    typer.Option(
        "--supervised",
        help="Be a server's child: give way to it, and end when standard input closes.",
    ),
]


def rehearse_show(
    *,
    show: ShowOption = None,
    store: StoreOption = None,
    seed: SeedOption = None,
    screenings: ScreeningsOption = 1,
    from_: FromOption = None,
    to: ToOption = None,
    bandwidth: BandwidthOption = None,
    latency: LatencyOption = 0.0,
    failing: FailOption = None,
    deep: DeepOption = False,
    as_json: JsonOption = False,
    html: HtmlOption = None,
    speed: SpeedOption = None,
    host: HostOption = None,
    port: PortOption = None,
    engines: EnginesOption = None,
    supervised: SupervisedOption = False,
) -> None:
    """Play the whole show in seconds, and tell what would go wrong tonight."""
    if supervised:
        end_with_parent()
        give_way(_BESIDE_A_SHOW)
    asked = RehearsalOptions(
        seed=seed or 0,
        from_=_position("--from", from_) or 0.0,
        to=_position("--to", to),
        screenings=screenings,
        bandwidth=_rate(bandwidth),
        latency=latency,
        fail=tuple(failing or ()),
        deep=deep,
    )
    if speed is not None:
        foretelling = {"json": as_json, "html": html, **asked.model_dump(include=_FORETELLING)}
        _refuse_with("--speed", foretelling, "watches, and foretells nothing")
        loaded = load(show, store=store)
        _rehearse_live(loaded, _seeded(asked, loaded, seed), speed, host, port)
    _refuse_with("a rehearsal without --speed", {"host": host, "port": port}, "serves nobody")
    configure_logs("error")  # what went wrong is in the report
    try:
        loaded = load_or_raise(show, store=store)
    except ShowError as error:
        report = _unloadable(error, asked)
        _write(html, lambda: render_page(report, {}))
    else:
        report = _foretold(loaded, _seeded(asked, loaded, seed), engines)
        _write(html, lambda: asyncio.run(build_page(loaded, report)))
    _tell(report, as_json=as_json)
    raise SystemExit(0 if report.verdict == "ready" else 1)


def _seeded(asked: RehearsalOptions, show: Show, seed: int | None) -> RehearsalOptions:
    return asked.model_copy(update={"seed": seed_of(show, seed)})


def _foretold(show: Show, asked: RehearsalOptions, engines: str | None) -> Report:
    """The report of a show, or the end of the program where what is asked for cannot be had."""
    try:
        check_asked(show, from_=asked.from_, to=asked.to, fail=asked.fail)
        with _progress() as progress:
            known = _known(engines)
            return rehearse(show, asked, wall=time.time(), known=known, progress=progress)
    except CannotRehearse as error:
        fail(f"--{error.option}: {error}", 2)
    except KeyboardInterrupt:
        fail("stopped; nothing was changed", 130)
    except BadStoreAddress as error:
        fail(f"[store] url: {error}", 1)


def _position(option: str, text: str | None) -> float | None:
    try:
        return None if text is None else parse_time(text)
    except ValueError as error:
        fail(f"{option}: {error}", 2)


def _known(engines: str | None) -> tuple[ProbedEngine, ...]:
    try:
        return () if engines is None else _ENGINES.validate_json(fit_json(engines))
    except Unfit as error:
        fail(f"--engines: {error}", 2)
    except ValidationError as error:
        fail(f"--engines: {error.errors(include_url=False)[0]['msg']}", 2)


def _rate(text: str | None) -> float | None:
    try:
        rate = None if text is None else bits_per_second(text)
    except ValueError as error:
        fail(f"--bandwidth: {error}", 2)
    if rate is None:
        return None
    if not isinstance(rate, (int, float)) or rate <= 0:
        fail(f"--bandwidth: expected more than nothing, such as 10M, not {text!r}", 2)
    return float(rate)


def _refuse_with(what: str, options: Mapping[str, object], why: str) -> None:
    """End the program where options are given that mean nothing here."""
    given = [name for name, value in options.items() if value]
    if given:
        fail(f"--{given[0]}: {what} {why}", 2)


def _rehearse_live(
    show: Show, asked: RehearsalOptions, speed: float, host: str | None, port: int | None
) -> NoReturn:
    """Play it on the show's own screens, and end the program."""
    with output_in_background():
        try:
            rehearse_live(show, asked, speed=speed, host=host, port=port)
        except NotServed as error:
            fail(str(error), error.status)
    raise SystemExit(0)


def _unloadable(error: ShowError, asked: RehearsalOptions) -> Report:
    """The report of a show that cannot be loaded, which is the end of all that was asked for."""
    if is_wrong_use(error):
        fail("\n".join(error.problems), 2)
    asked = RehearsalOptions(seed=asked.seed, fail=asked.fail)
    findings = ranked(unloadable(error))
    return Report(verdict="not ready", findings=findings, show=None, asked=asked)


def _write(path: Path | None, page: Callable[[], str]) -> None:
    if path is None:
        return
    text = page()
    try:
        write_page(path, text)
    except OSError as error:
        fail(f"--html {path}: {error.strerror or error}", 2)


def _tell(report: Report, *, as_json: bool) -> None:
    if as_json:
        typer.echo(report.to_json(), nl=False)
        return
    console = Console(highlight=False)
    console.width = min(console.width, WIDTH) if console.is_terminal else WIDTH
    print_report(report, console)


@contextmanager
def _progress() -> Iterator[Callable[[float], None]]:
    """A bar for people who wait; nothing where nobody looks at a terminal."""
    with Progress(
        TextColumn("rehearsing"),
        BarColumn(),
        TextColumn("{task.percentage:3.0f} %"),
        TimeElapsedColumn(),
        console=errors,
        transient=True,
        disable=not errors.is_terminal,
    ) as bar:
        task = bar.add_task("rehearsing", total=1.0)
        yield lambda share: bar.update(task, completed=share)
