"""What a rehearsal is asked for, how the command line says it, and what of it cannot be had."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from contextlib import suppress
from itertools import chain
from typing import Annotated, Any, Final

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from cache.library import Library
from cache.model.documents import FormatError
from cache.stores.port import StoreError
from generator.sheet.cues import format_time, parse_time
from generator.sheet.plan import Plan
from server.config.sections import BitsPerSecond
from server.config.show import Show
from server.config.stores import store_of
from server.core.refusal import Refused

MOST_SCREENINGS: Final = 100
"""More than a week of them belongs in a terminal, where nobody else waits."""

_LONGEST_LATENCY: Final = 60.0
_MOST_FAILING: Final = 32
_MANIFEST_WITHIN: Final = 5.0
"""Seconds in which a store must have said what it has: only names are asked for."""

_SEPARATORS: Final = re.compile(r"[,\s]+")


def _position(value: object) -> object:
    """A position as it is written, or in seconds."""
    return parse_time(value) if isinstance(value, str) else value


def _names(value: object) -> object:
    """Names in a list, or in one text, apart by commas or spaces."""
    return tuple(filter(None, _SEPARATORS.split(value))) if isinstance(value, str) else value


Position = Annotated[float, BeforeValidator(_position), Field(ge=0, allow_inf_nan=False)]
Name = Annotated[str, Field(min_length=1, max_length=120, pattern=r"^[^\s,-][^\s,]*$")]


class RehearsalRequest(BaseModel):
    """What is asked for in the background; OSC gives it in the order of the fields.

    They mean what they do in `RehearsalOptions`; None stands for what the show has, or the line.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    screenings: Annotated[int, Field(ge=1, le=MOST_SCREENINGS)] = 1
    bandwidth: Annotated[BitsPerSecond, Field(gt=0)] | None = None
    fail: Annotated[tuple[Name, ...], BeforeValidator(_names), Field(max_length=_MOST_FAILING)] = ()
    latency: Annotated[float, Field(ge=0, le=_LONGEST_LATENCY, allow_inf_nan=False)] | None = None
    seed: Annotated[int, Field(ge=0)] | None = None
    from_: Position | None = Field(default=None, alias="from")
    to: Position | None = None
    deep: bool = False

    def arguments(self) -> list[str]:
        """The same, for `understudy rehearse`."""
        given = {
            "--screenings": None if self.screenings == 1 else self.screenings,
            "--bandwidth": self.bandwidth,
            "--latency": None if self.latency is None else f"{self.latency:g}",
            "--seed": self.seed,
            "--from": None if self.from_ is None else format_time(self.from_),
            "--to": None if self.to is None else format_time(self.to),
        }
        options = [(name, str(value)) for name, value in given.items() if value is not None]
        options += [("--fail", name) for name in self.fail]
        return [*chain.from_iterable(options), *(["--deep"] if self.deep else [])]

    def plain(self) -> dict[str, Any]:
        """What differs from a rehearsal of the show as it is, as JSON values."""
        return self.model_dump(mode="json", by_alias=True, exclude_defaults=True)


class CannotRehearse(Refused):
    """Something is asked for that the show does not have: `from`, `to` or `fail`, and why."""


def check_asked(show: Show, *, from_: float, to: float | None, fail: Sequence[str] = ()) -> None:
    """Refuse what cannot be rehearsed. Not to be called in an event loop.

    Args:
        show: what is rehearsed.
        from_: position at which each screening begins.
        to: position at which each ends; None for its end.
        fail: what is to fail.

    Raises:
        CannotRehearse: `out_of_range` or `unknown_failure`.
    """
    if from_ >= show.duration:
        text = f"from: the show is over after {show.duration:g} s"
        raise CannotRehearse("out_of_range", text)
    if to is not None and to <= from_:
        raise CannotRehearse("out_of_range", "to: expected a time after from")
    unknown = fail_names(show, fail)
    if unknown:
        engines = [each.name for each in show.settings.engines if each.plays_live]
        known = ", ".join(["store", "engines", *engines, "or an action such as prompt_001"])
        text = f"fail: nothing is called {unknown[0]!r:.70}: expected one of {known}"
        raise CannotRehearse("unknown_failure", text)


def fail_names(show: Show, asked: Sequence[str]) -> list[str]:
    """The names in `asked` of nothing that could fail. Not to be called in an event loop."""
    engines = {engine.name for engine in show.settings.engines if engine.plays_live}
    known = {"store", "engines", *engines, *_ids(show.plan({}))}
    if not known.issuperset(asked):
        # A set that was drawn for an older sheet has kept its id: the manifest knows it.
        known |= asyncio.run(_ids_of_sets(show))
    return [name for name in asked if name not in known]


def _ids(plan: Plan) -> set[str]:
    return {action.action_id for action in plan.actions}


async def _ids_of_sets(show: Show) -> set[str]:
    with suppress(StoreError, FormatError, TimeoutError):
        async with asyncio.timeout(_MANIFEST_WITHIN), store_of(show) as store:
            manifest = await Library(store).refresh()
            return _ids(show.plan(manifest.fingerprints))
    return set()
