"""`understudy rehearse`: the whole show on a virtual clock, and what would go wrong tonight.

With `--speed`, the show's own screens play it instead, and people watch.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Final, NoReturn

import httpx
import typer
from pydantic import TypeAdapter
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from cache.stores.urls import BadStoreAddress
from cache.untrusted import fit_json
from generator.sheet.cues import parse_time
from server.app import create_app
from server.cli.common import (
    JsonOption,
    ShowOption,
    StoreOption,
    errors,
    fail,
    is_wrong_use,
    load,
    load_or_raise,
    reading,
)
from server.config.sections import bits_per_second
from server.config.show import Show, ShowError
from server.core.child_process import end_with_parent, give_way
from server.core.clock import SystemClock
from server.core.host_process import HostProcess
from server.core.logs import configure_logs
from server.core.output import output_in_background
from server.diagnostics.findings import ranked
from server.diagnostics.report import ProbedEngine, RehearsalOptions, Report
from server.diagnostics.show import unloadable
from server.network.serving import AddressTaken, NotServed, RefusedToServe, serve
from server.rehearsal.live_rehearsal import LiveRehearsal
from server.rehearsal.rehearsal import rehearse, seed_of
from server.rehearsal.request import CannotRehearse, check_asked
from server.reports.html import render_page
from server.reports.report_file import build_page, write_page
from server.reports.terminal import WIDTH, print_report

_SLOWEST: Final = 0.25
_FASTEST: Final = 60.0
"""Seconds of the show in a real one, where it is watched."""

_ASKED_WITHIN: Final = 1.0
_MOST_SCREENINGS = 1000
_FORETELLING = {"bandwidth", "latency", "fail", "deep"}
_ENGINES = TypeAdapter(tuple[ProbedEngine, ...])
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
        min=_SLOWEST,
        max=_FASTEST,
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
    with reading("--from"):
        start = 0.0 if from_ is None else parse_time(from_)
    with reading("--to"):
        end = None if to is None else parse_time(to)
    with reading("--bandwidth"):
        rate = None if bandwidth is None else _rate(bandwidth)
    with reading("--engines"):
        known = () if engines is None else _ENGINES.validate_json(fit_json(engines))
    asked = RehearsalOptions(
        seed=seed or 0,
        from_=start,
        to=end,
        screenings=screenings,
        bandwidth=rate,
        latency=latency,
        fail=tuple(failing or ()),
        deep=deep,
    )
    if speed is not None:
        foretelling = {"json": as_json, "html": html, **asked.model_dump(include=_FORETELLING)}
        _refuse_with("--speed", foretelling, "watches, and foretells nothing")
        loaded = load(show, store=store, server={"host": host, "port": port})
        _watch(loaded, _checked(loaded, asked, seed), speed)
        return
    _refuse_with("a rehearsal without --speed", {"host": host, "port": port}, "serves nobody")
    configure_logs("error")  # what went wrong is in the report
    try:
        loaded = load_or_raise(show, store=store)
    except ShowError as error:
        report = _unloadable(error, asked)
        _tell(report, lambda: render_page(report, {}), html, as_json=as_json)
    report = _foretold(loaded, _checked(loaded, asked, seed), known)
    _tell(report, lambda: asyncio.run(build_page(loaded, report)), html, as_json=as_json)


def _checked(show: Show, asked: RehearsalOptions, seed: int | None) -> RehearsalOptions:
    """What is asked, with the seed that counts; or the end of the program where it cannot be."""
    try:
        check_asked(show, from_=asked.from_, to=asked.to, fail=asked.fail)
    except CannotRehearse as error:
        fail(f"--{error}", 2)
    except BadStoreAddress as error:  # a name that is unknown is looked for in the store
        fail(f"[store] url: {error}", 1)
    return asked.model_copy(update={"seed": seed_of(show, seed)})


def _watch(show: Show, asked: RehearsalOptions, speed: float) -> None:
    with output_in_background():
        try:
            rehearse_live(show, asked, speed=speed)
        except NotServed as error:
            fail(str(error), error.status)


def _foretold(show: Show, asked: RehearsalOptions, known: tuple[ProbedEngine, ...]) -> Report:
    try:
        with _progress() as progress:
            return rehearse(show, asked, wall=time.time(), known=known, progress=progress)
    except KeyboardInterrupt:
        fail("stopped; nothing was changed", 130)
    except BadStoreAddress as error:
        fail(f"[store] url: {error}", 1)


def _rate(text: str) -> float:
    rate = bits_per_second(text)
    if not isinstance(rate, int) or rate <= 0:
        raise ValueError(f"expected more than nothing, such as 10M, not {text!r}")
    return float(rate)


def _refuse_with(what: str, options: Mapping[str, object], why: str) -> None:
    """End the program where options are given that mean nothing here."""
    given = [name for name, value in options.items() if value]
    if given:
        fail(f"--{given[0]}: {what} {why}", 2)


def rehearse_live(show: Show, asked: RehearsalOptions, *, speed: float) -> None:
    """Rehearse `show` on its screens until the last screening is over, or SIGINT or SIGTERM.

    Args:
        show: the show, with the address that it is to be rehearsed at.
        asked: which part of it, and with which seed.
        speed: seconds of the show in a real one.

    Raises:
        RefusedToServe: it cannot be watched there.
        ShowStopped: it could not go on.
    """
    process = HostProcess.of_this_server()
    rehearsal = LiveRehearsal(show, SystemClock(), asked, speed=speed)
    app = create_app(rehearsal, process)
    title = f"Rehearsal of {show.title}, {speed:g} times as fast"
    try:
        serve(show, app, title, process, over=rehearsal.over)
    except AddressTaken as error:
        raise RefusedToServe(f"{error}{_the_show(show)}; rehearse on another --port", 1) from error


def _the_show(show: Show) -> str:
    """Who listens there, where that is a show; else nothing."""
    server = show.settings.server
    everywhere = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - asked, not listened on
    host = everywhere.get(server.host, server.host)
    address = f"http://[{host}]" if ":" in host else f"http://{host}"
    try:
        answer = httpx.get(  # noqa: TID251 - ourselves
            f"{address}:{server.port}/healthz", timeout=_ASKED_WITHIN, trust_env=False
        )
        ours = "healthy" in answer.json()
    except (httpx.HTTPError, ValueError):
        ours = False
    return " (a show is running there)" if ours else ""


def _unloadable(error: ShowError, asked: RehearsalOptions) -> Report:
    """The report of a show that cannot be loaded; of what was asked, little counts then.

    The end of the program where nothing but the command line is wrong.
    """
    if is_wrong_use(error):
        fail("\n".join(error.problems), 2)
    asked = RehearsalOptions(seed=asked.seed, fail=asked.fail)
    findings = ranked(unloadable(error))
    return Report(verdict="not ready", findings=findings, show=None, asked=asked)


def _tell(report: Report, page: Callable[[], str], html: Path | None, *, as_json: bool) -> NoReturn:
    """Tell the report, as a page too where one is wanted, and end the program by its verdict."""
    if html is not None:
        content = page()
        try:
            write_page(html, content)
        except OSError as error:
            fail(f"--html {html}: {error.strerror or error}", 2)
    if as_json:
        typer.echo(report.to_json(), nl=False)
    else:
        console = Console(highlight=False)
        console.width = min(console.width, WIDTH) if console.is_terminal else WIDTH
        print_report(report, console)
    raise SystemExit(0 if report.verdict == "ready" else 1)


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
