"""What the Studio offers now: its actions are those of the cue sheet as it is on the disk.

A job for a cue draws the cue as it is when it is asked for. So whoever needs the actions looks
first whether the file is still the one that was read; a look costs no more than that.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import structlog

from cache.index import load_manifest
from cache.model.documents import FormatError
from cache.stores.port import NotFound, Store, StoreError
from generator.jobs.cost import OfferedEngine
from generator.jobs.request import Catalogue
from generator.sheet.cues import CueProblem, CueSheet, CueSheetError, format_time, parse_cues
from generator.sheet.plan import Finished, Plan
from generator.sheet.programs import DEFAULT_PROGRAM
from server.config.show import Show
from server.studio.catalogue import catalogue_of
from server.studio.sheet import SheetChange, SheetFile, SheetUnusable, SheetVersion
from server.studio.sheet_plan import plan_difference

_log = structlog.get_logger(__name__)

_VERSIONS = "sheet-versions"
"""The folder of the sheet's versions in the show's state folder."""


def sheet_of(show: Show) -> SheetFile:
    """The cue sheet of a show, with what was kept of it on this machine."""
    path = show.folder / show.settings.show.cues
    return SheetFile(path, show.state_folder / _VERSIONS, lambda data: checked_sheet(show, data))


def checked_sheet(show: Show, data: bytes) -> CueSheet:
    """Read a sheet that a show is to be loaded with later: all that `load_show` says of it.

    Raises:
        CueSheetError: with every problem.
    """
    source = str(show.folder / show.settings.show.cues)
    sheet = parse_cues(data, source, show.programs)
    problems = list(_pictures_missing(show, sheet))
    if not (show.settings.show.duration or sheet.duration):
        text = "the screening ends as it begins: its end is at 00:00:00"
        problems.append(CueProblem(None, None, text))
    if problems:
        raise CueSheetError(source, problems)
    return sheet


def _pictures_missing(show: Show, sheet: CueSheet) -> Sequence[CueProblem]:
    """Cues whose program begins from a picture that could not be read as the show was loaded."""
    names = [
        (index, cue, cue.program or DEFAULT_PROGRAM)
        for index, cue in enumerate(sheet.cues)
        if cue.generates
    ]
    return [
        CueProblem(
            index,
            format_time(cue.at),
            f"the program {name} has no base image: it could not be read as the Studio started",
        )
        for index, cue, name in names
        if show.programs[name].image_to_image and name not in show.base_images
    ]


@dataclass(frozen=True, slots=True)
class _Read:
    """A sheet that was read: what it can be known by again, and what it wants to be drawn."""

    etag: str
    sheet: CueSheet
    plan: Plan


class CurrentCatalogue:
    """The catalogue of a show, replaced as a whole when the sheet is another.

    Args:
        show: whose; its own sheet counts until the file was read.
        finished: of which recipes there are sets: it gives the actions their ids.
        store: where that is looked up anew for another sheet; while it is away, what was last
            known of it counts.
        file: the sheet.
        engines: what draws, slot by slot.
    """

    def __init__(
        self,
        show: Show,
        finished: Finished,
        store: Store,
        file: SheetFile,
        engines: Sequence[OfferedEngine],
    ) -> None:
        self._show = show
        self._finished = finished
        self._store = store
        self._file = file
        self._engines = engines
        self._one_looks = asyncio.Lock()
        self._stamp: tuple[int, ...] | None = None
        self._refused: str | None = None
        self._read: _Read | None = None
        self._present = catalogue_of(show, show.plan(finished), engines)

    @property
    def present(self) -> Catalogue:
        """The catalogue as it was when the file was looked at last."""
        return self._present

    async def look(self) -> Catalogue:
        """The catalogue of the sheet as it is on the disk now.

        A sheet that cannot be read or played leaves the one before, and the log says why.
        """
        async with self._one_looks:
            try:
                stamp = await self._file.stamp()
                if stamp != self._stamp:
                    # Looked at before it is read: what is written in between is read once more.
                    await self._take_up(await self._file.read())
                    self._stamp = stamp
            except SheetUnusable as error:
                self._refuse(str(error), str(error))
        return self._present

    async def difference(self, change: SheetChange) -> dict[str, Any]:
        """What a change of the sheet makes of what is drawn; see `plan_difference`."""
        finished = await self._finished_now()
        return await asyncio.to_thread(lambda: self._difference(change, finished))

    async def _finished_now(self) -> Finished:
        found = await finished_of(self._store)
        if found is not None:
            self._finished = found
        return self._finished

    def _difference(self, change: SheetChange, finished: Finished) -> dict[str, Any]:
        try:
            sheet = checked_sheet(self._show, change.before.data)
        except CueSheetError:  # somebody else had spoilt it; what counted is the last good one
            sheet = self._show.sheet if self._read is None else self._read.sheet
        before, after = self._plan(sheet, finished), self._plan(change.sheet, finished)
        return plan_difference(before, after, finished)

    async def _take_up(self, version: SheetVersion) -> None:
        if self._read is not None and version.etag == self._read.etag:
            return
        finished = await self._finished_now()
        try:
            read, catalogue = await asyncio.to_thread(lambda: self._catalogue(version, finished))
        except CueSheetError as error:
            self._refuse(version.etag, str(error))
            return
        # In one step: who is just reading a request reads it against one of both.
        self._read, self._present, self._refused = read, catalogue, None

    def _catalogue(self, version: SheetVersion, finished: Finished) -> tuple[_Read, Catalogue]:
        sheet = checked_sheet(self._show, version.data)
        plan = self._plan(sheet, finished)
        return _Read(version.etag, sheet, plan), catalogue_of(self._show, plan, self._engines)

    def _plan(self, sheet: CueSheet, finished: Finished) -> Plan:
        return replace(self._show, sheet=sheet).plan(finished)

    def _refuse(self, which: str, reason: str) -> None:
        if which != self._refused:  # once, and not with every job that is asked for
            _log.warning("sheet_not_taken_up", reason=reason)
        self._refused = which


async def finished_of(store: Store) -> Finished | None:
    """Of which recipes a store has sets; None where it cannot be read, and the log says why."""
    try:
        return (await load_manifest(store)).fingerprints
    except NotFound:
        return {}
    except (StoreError, FormatError) as error:
        _log.warning("manifest_not_read", reason=str(error))
        return None
