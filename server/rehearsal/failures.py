"""Refuses what cannot be rehearsed: a part that the show lacks, the failure of what it lacks."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from typing import Final

from cache.library import Library
from cache.model.documents import FormatError
from cache.stores.port import StoreError
from generator.sheet.plan import Plan
from server.config.show import Show
from server.config.stores import store_of
from server.core.refusal import Refused

_MANIFEST_WITHIN: Final = 5.0
"""Seconds in which a store must have said what it has: only names are asked for."""


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
