"""What can be made to fail in a rehearsal: the store, engines, actions."""

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

_MANIFEST_WITHIN: Final = 5.0
"""Seconds in which a store must have said what it has: only names are asked for."""


def fail_names(show: Show, asked: Sequence[str]) -> list[str]:
    """Those of `asked` that name nothing which could fail. Not to be called in an event loop."""
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
