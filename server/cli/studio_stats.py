"""`understudy studio stats`: how the last hours of a running Studio went."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import typer

from server.cli.common import JsonOption, print_json, print_table
from server.cli.studio_client import STUDIO_URL, StudioAnswer, StudioClient, UrlOption, with_studio
from server.core.formatting import duration


class EngineStatistics(StudioAnswer):
    """What an engine drew."""

    pictures: int
    seconds: float
    cost: float | None


class MemberStatistics(StudioAnswer):
    """What a member asked for, and what came of it."""

    jobs: int
    pictures: int
    cost: float | None


class StatisticsAnswer(StudioAnswer):
    """What the terminal reads of them; `generator/jobs/statistics.py` says what is what."""

    hours: int
    currency: str
    jobs: Mapping[str, int]
    pictures: int
    failed: Mapping[str, int]
    success_rate: float | None
    p50_seconds: float | None
    p95_seconds: float | None
    cost: float | None
    waiting: int
    running: int
    engines: Mapping[str, EngineStatistics]
    members: Mapping[str, MemberStatistics]


def stats(
    *,
    hours: Annotated[int, typer.Option(min=1, help="How far to look back.")] = 24,
    url: UrlOption = STUDIO_URL,
    as_json: JsonOption = False,
) -> None:
    """How the last hours went, for everybody."""

    async def look(studio: StudioClient) -> tuple[Any, StatisticsAnswer]:
        found = await studio.json("GET", f"/api/stats?hours={hours}")
        return found, studio.read(StatisticsAnswer, found)

    document, found = with_studio(url, look)
    if as_json:
        print_json(document)
    else:
        _show_statistics(found)


def _show_statistics(found: StatisticsAnswer) -> None:
    jobs = ", ".join(f"{number} {status}" for status, number in found.jobs.items()) or "none"
    if found.success_rate is not None:
        jobs += f", {found.success_rate:.0%} of what ended did not fail"
    pictures = str(found.pictures)
    if found.p50_seconds is not None and found.p95_seconds is not None:
        half, most = duration(found.p50_seconds), duration(found.p95_seconds)
        pictures += f", half of them within {half}, 95 of 100 within {most}"
    failed = ", ".join(f"{number} {code}" for code, number in found.failed.items()) or "none"
    facts = [
        ("jobs", jobs),
        ("pictures", pictures),
        ("failed", failed),
        ("cost", _money(found.cost, found.currency)),
        ("now", f"{found.waiting} wait, {found.running} are being drawn"),
    ]
    print_table((f"last {found.hours} h", ""), facts)
    engines = [
        (name, each.pictures, duration(each.seconds), _money(each.cost))
        for name, each in found.engines.items()
    ]
    members = [
        (name, each.jobs, each.pictures, _money(each.cost)) for name, each in found.members.items()
    ]
    if engines:
        typer.echo()
        print_table(("engine", "pictures", "took", "cost"), engines)
    if members:
        typer.echo()
        print_table(("member", "jobs", "pictures", "cost"), members)


def _money(amount: float | None, currency: str = "") -> str:
    """An amount, or that nobody has said what drawing costs."""
    return "not known" if amount is None else f"{amount:.2f} {currency}".rstrip()
