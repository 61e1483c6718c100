"""What the Studio's endpoints answer from: its parts, as the lifespan gives them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

from starlette.requests import HTTPConnection

from cache.stores.port import Store
from generator.engines.callback.inbox import CallbackInbox
from generator.guarded_outgoing import Reach
from generator.jobs.database import Database
from generator.jobs.outlook import QueueOutlook
from generator.jobs.paces import Paces
from generator.jobs.request import Catalogue
from generator.jobs.scheduler import Scheduler
from generator.jobs.store import JobStore
from server.config.show import Show
from server.core.conditions import Conditions
from server.core.metrics import ProcessMetrics
from server.studio.access import StudioAccess
from server.studio.current_catalogue import CurrentCatalogue
from server.studio.documents import JobDocuments
from server.studio.feed import Feed
from server.studio.hooks.sender import HookSender
from server.studio.hooks.webhooks import Webhooks
from server.studio.large_bodies import LargeBodies
from server.studio.previews import LivePreviews
from server.studio.sheet import SheetFile
from server.studio.show_link import ShowLink
from server.studio.socket import StudioSocket


@dataclass(frozen=True, slots=True, kw_only=True)
class StudioServices:
    """The parts of one Studio that its endpoints ask. Nothing but an endpoint reads this.

    Attributes:
        wall: Unix time.
        offered: what may be asked for; it follows the sheet.
        callbacks: where generators answer that call back; None where none may.
        recipes, answers: room for the large bodies of members, and of generators. Each has its
            own, so that who is nobody keeps no member waiting.
        reach: what webhooks may reach although it is not public.
    """

    show: Show
    wall: Callable[[], float]
    store: Store
    database: Database
    jobs: JobStore
    access: StudioAccess
    sheet: SheetFile
    offered: CurrentCatalogue
    scheduler: Scheduler
    outlook: QueueOutlook
    paces: Paces
    documents: JobDocuments
    feed: Feed
    previews: LivePreviews
    socket: StudioSocket
    webhooks: Webhooks
    sender: HookSender
    show_link: ShowLink
    reach: Reach
    callbacks: CallbackInbox | None
    recipes: LargeBodies
    answers: LargeBodies
    metrics: ProcessMetrics
    conditions: Conditions

    @property
    def catalogue(self) -> Catalogue:
        """What may be asked for; whoever needs the actions asks `offered.look` instead."""
        return self.offered.present

    def changed(self) -> None:
        """Something was written: whoever works, listens or tells others looks again."""
        self.scheduler.wake()
        self.feed.nudge()
        self.sender.nudge()


def studio_services(connection: HTTPConnection) -> StudioServices:
    """Those of the Studio that a request or a socket has come to."""
    return cast("StudioServices", connection.state.services)
