"""Picks over HTTP: a take becomes a set of the show, and the show is told."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import Response

from cache.library import BrokenSet
from cache.model.documents import FormatError
from cache.stores.port import NotFound, StoreError, StoreFull
from generator.answers import JsonResponse
from generator.jobs.drawing import NO_ACTION, open_take
from generator.jobs.members import Member
from generator.jobs.picking import StaleTake, pick_take, unpick_take
from generator.sets.adoption import NotAdopted
from generator.sheet.plan import Action
from server.studio.refusals import FieldRefusal, StudioRefused, no_such
from server.studio.requests import for_artists, id_in_path, object_of
from server.studio.services import StudioServices

_FIELDS: Final = frozenset({"cue"})


@for_artists
async def pick(request: Request, parts: StudioServices, member: Member) -> Response:
    """`POST /api/takes/{id}/pick {"cue"?}`: make it the next set of a cue's action."""
    take, cue = await _asked(request, parts, member)
    with _told():
        action = await _action(parts, take, cue)
        set_id = await pick_take(
            parts.store, take, action, datetime.fromtimestamp(parts.wall(), UTC)
        )
    return JsonResponse(await _answer(parts, action.action_id, set_id))


@for_artists
async def unpick(request: Request, parts: StudioServices, member: Member) -> Response:
    """`POST /api/takes/{id}/unpick {"cue"?}`: have the set that it became shown no more."""
    take, cue = await _asked(request, parts, member)
    with _told():
        action = await _action(parts, take, cue)
        set_id = await unpick_take(parts.store, take, action.action_id)
    if set_id is None:
        raise StudioRefused("conflict", f"it was not picked for {action.action_id}")
    return JsonResponse(await _answer(parts, action.action_id, set_id))


async def _asked(request: Request, parts: StudioServices, member: Member) -> tuple[str, str | None]:
    """The member's own take that is meant, and the cue, where one is named.

    Raises:
        StudioRefused: `not_found`, `bad_request`.
    """
    take = id_in_path(request, "take")
    asked = await object_of(request)
    for name in asked.keys() - _FIELDS:
        raise StudioRefused("bad_request", f"{name}: no such field; expected cue", field=name)
    cue = asked.get("cue")
    if cue is not None and not isinstance(cue, str):
        raise StudioRefused("bad_request", "cue: expected the id of an action", field="cue")
    if not await parts.jobs.owns_take(take, member.id):
        raise no_such("take")
    return take, cue


async def _action(parts: StudioServices, take: str, cue: str | None) -> Action:
    """The action that a cue is meant by; the take's own where none is named.

    Raises:
        StudioRefused: `unknown_cue`, or `bad_request` where it is of none.
        NotFound: it is not drawn yet.
    """
    if cue is None:
        cue = (await open_take(parts.store, take)).image_set.action_id
        if cue == NO_ACTION:
            text = "cue: it was drawn for none; say for which action it is picked"
            raise StudioRefused("bad_request", text, field="cue")
    action = (await parts.offered.look()).actions.get(cue)
    if action is None:
        raise StudioRefused("unknown_cue", f"cue: the sheet has no action {cue!r:.80}", field="cue")
    return action


@contextmanager
def _told() -> Iterator[None]:
    """What goes wrong with a take or a store is told as a refusal."""
    try:
        yield
    except StaleTake as error:
        problems = [FieldRefusal("conflict", "cue", each) for each in error.changes]
        raise StudioRefused("conflict", str(error), field="cue", problems=problems) from error
    except (NotAdopted, BrokenSet) as error:
        raise StudioRefused("refused", f"the take cannot be used: {error}") from error
    except NotFound:
        raise StudioRefused("conflict", "it is not drawn, or not yet") from None
    except StoreFull as error:
        raise StudioRefused("disk_full", f"the store is full: {error.reason}") from error
    except (StoreError, FormatError) as error:
        raise StudioRefused("unavailable", f"the store cannot be used now: {error}") from error


async def _answer(parts: StudioServices, action_id: str, set_id: int) -> Mapping[str, Any]:
    why_not = await parts.show_link.refresh_sets()
    show = {"told": why_not is None, "reason": why_not}
    return {"action_id": action_id, "set_id": set_id, "show": show}
