"""A report as a file: its page, with the pictures that are on this machine."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from cache.durable import SHARED, write_durably
from cache.library import Library
from cache.model.documents import FormatError
from cache.model.keys import Key
from cache.stores.port import StoreError
from server.config.show import Show
from server.config.stores import store_of
from server.diagnostics.report import Report
from server.reports.contact_sheets import contact_sheets, everything
from server.reports.html import render_page
from server.supply.inventory import looked_through
from server.supply.sources import copies_of, read_in_place

_SETS_REMEMBERED = 1024


async def build_page(show: Show, report: Report) -> str:
    """The report's page. Of a store behind a line it shows what this machine has copies of.

    Args:
        show: whose store it is.
        report: of its rehearsal.

    Raises:
        BadStoreAddress: `[store]` names no store.
    """
    async with _at_hand(show) as (library, at_hand):
        with suppress(StoreError, FormatError):  # the report says so: then there are no pictures
            manifest = await library.refresh()
            library.want(show.plan(manifest.fingerprints).wanted)
        contacts = await contact_sheets(library, report, at_hand=at_hand)
    return await asyncio.to_thread(render_page, report, contacts)


def write_page(path: Path, page: str) -> None:
    """Write it beside its place, and then in one step into it.

    Raises:
        OSError: it cannot be written there.
    """
    data = page.encode(errors="replace")  # half a character is no reason to have no report
    write_durably(path, data, mode=SHARED, make_folder=False)


@asynccontextmanager
async def _at_hand(show: Show) -> AsyncIterator[tuple[Library, Callable[[Key], bool]]]:
    """The show's sets, and which of their files can be read without fetching them."""
    store = store_of(show)
    if read_in_place(store, show):
        async with store:
            yield Library(store, sets_remembered=_SETS_REMEMBERED), everything
        return
    async with copies_of(show, store) as cache:
        await looked_through(cache)
        yield Library(cache, sets_remembered=_SETS_REMEMBERED), cache.holds
