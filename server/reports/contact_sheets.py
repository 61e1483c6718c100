"""Contact sheets: every action's pictures, small, as a photographer lays them out.

What cannot be shown is laid out too, with the reason: an empty place in a contact sheet is
what a technician looks for.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from contextlib import aclosing
from dataclasses import dataclass
from typing import Final

from cache.library import BrokenSet, Library
from cache.model.formats import ImageSet, Step
from cache.model.images import BadImage
from cache.model.keys import Key, meta_key
from cache.parallel import in_order
from cache.stores.port import StoreError
from cache.thumbnails import Thumbnail, thumbnail
from server.diagnostics.report import Report

STRIP: Final = 6
"""Pictures from noise to the finished one."""

AWAY: Final = "not on this machine"

_AT_ONCE: Final = 4
"""Actions that are read at once: two cores decode while two disks or lines are waited for."""

_FEW: Final = 150
"""Pictures. So many may be large without making the page heavy."""

_LARGE: Final = (288, 192)
_SMALL: Final = (176, 112)
"""Pixels across: a final image's, and one of a strip's."""


@dataclass(frozen=True, slots=True)
class ContactPicture:
    """One place in a contact sheet.

    Attributes:
        small: what is there; None where it cannot be shown.
        trouble: why not, in words; empty where it can.
    """

    small: Thumbnail | None
    trouble: str = ""


@dataclass(frozen=True, slots=True)
class Contact:
    """One set, by its final image; what is not known is None.

    Attributes:
        steps: how many images it has.
        seconds: as long as it takes as recorded.
        seed: of the random generator.
    """

    set_id: int
    picture: ContactPicture
    steps: int | None = None
    seconds: float | None = None
    seed: int | None = None


@dataclass(frozen=True, slots=True)
class ContactFrame:
    """One picture of a strip: the step's number is from 1, the finished one is the last."""

    step: int
    final: bool
    picture: ContactPicture


@dataclass(frozen=True, slots=True)
class ContactSheet:
    """One action's pictures.

    Attributes:
        action_id: whose.
        contacts: its sets, by number.
        strip_of: the set of which `strip` is: the first one played.
        strip: a few of its steps, from noise to the finished picture.
    """

    action_id: str
    contacts: tuple[Contact, ...] = ()
    strip_of: int | None = None
    strip: tuple[ContactFrame, ...] = ()


def everything(key: Key) -> bool:
    """All of it is at hand: a store on this machine."""
    del key
    return True


async def contact_sheets(
    library: Library,
    report: Report,
    *,
    at_hand: Callable[[Key], bool] = everything,
) -> dict[str, ContactSheet]:
    """Lay out every action that a report speaks of, in the order of the show.

    Nothing is fetched: what is not at hand is said to be away. Images are decoded beside the
    event loop, a few actions at once. Cancelled, it leaves nothing behind.

    Args:
        library: where the sets are; refreshed before by its owner.
        report: names the actions, and which set of each was played first.
        at_hand: whether a file can be had at once: `Availability.holds`.
    """
    first = _first_played(report)
    actions = tuple(dict.fromkeys(_actions(report)))
    pictures = sum(len(library.set_ids(action_id)) + STRIP for action_id in actions)
    maker = _SheetMaker(library, at_hand, *(_LARGE if pictures <= _FEW else _SMALL))

    async def lay_out(action_id: str) -> ContactSheet:
        return await maker.lay_out(action_id, first.get(action_id))

    async with aclosing(in_order(lay_out, actions, at_once=_AT_ONCE)) as ready:
        return {sheet.action_id: sheet async for sheet in ready}


def _actions(report: Report) -> Iterable[str]:
    yield from (cue.action_id for cue in report.sheet if cue.action_id is not None)
    yield from (run.action_id for run in report.cues)
    yield from (variety.action_id for variety in report.variety)


def _first_played(report: Report) -> dict[str, int]:
    first: dict[str, int] = {}
    for run in report.cues:
        if run.set_id is not None:
            first.setdefault(run.action_id, run.set_id)
    return first


@dataclass(frozen=True)
class _SheetMaker:
    """Where sheets are laid out; widths are in pixels."""

    library: Library
    at_hand: Callable[[Key], bool]
    wide: int
    narrow: int

    async def lay_out(self, action_id: str, first: int | None) -> ContactSheet:
        contacts: list[Contact] = []
        chosen: ImageSet | None = None
        for set_id in self.library.set_ids(action_id):
            opened = await self._open(action_id, set_id)
            if isinstance(opened, str):
                contacts.append(Contact(set_id, ContactPicture(None, opened)))
                continue
            contacts.append(await self._contact(opened))
            # A run that was drawn live played none: then the first that can be opened.
            if set_id == first or (chosen is None and first is None):
                chosen = opened
        return ContactSheet(
            action_id,
            tuple(contacts),
            None if chosen is None else chosen.set_id,
            () if chosen is None else await self._strip(chosen),
        )

    async def _open(self, action_id: str, set_id: int) -> ImageSet | str:
        """A set, or why it cannot be opened."""
        if not self.at_hand(meta_key(action_id, set_id)):
            return AWAY
        try:
            return await self.library.open_set(action_id, set_id)
        except BrokenSet as error:
            return error.reason
        except StoreError as error:
            return str(error)

    async def _contact(self, opened: ImageSet) -> Contact:
        durations = [step.duration for step in opened.steps]
        known = [duration for duration in durations if duration is not None]
        return Contact(
            opened.set_id,
            await self._picture(opened.steps[-1], self.wide),
            steps=len(opened.steps),
            seconds=sum(known) if len(known) == len(durations) else None,
            seed=opened.meta.seed,
        )

    async def _strip(self, opened: ImageSet) -> tuple[ContactFrame, ...]:
        return tuple(
            [
                ContactFrame(step.number, step.final, await self._picture(step, self.narrow))
                for step in spread(opened.steps)
            ]
        )

    async def _picture(self, step: Step, width: int) -> ContactPicture:
        if not self.at_hand(step.key):
            return ContactPicture(None, AWAY)
        try:
            data = await self.library.image(step)
            return ContactPicture(await asyncio.to_thread(thumbnail, data, step.name, width=width))
        except BrokenSet as error:
            return ContactPicture(None, error.reason)
        except (BadImage, StoreError) as error:
            return ContactPicture(None, str(error))


def spread(steps: tuple[Step, ...], count: int = STRIP) -> tuple[Step, ...]:
    """A few of many, evenly; the first and the last among them."""
    if len(steps) <= count:
        return steps
    last = len(steps) - 1
    return tuple(steps[round(place * last / (count - 1))] for place in range(count))
