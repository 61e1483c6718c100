"""What the Studio adds to drawing: each picture is shown as it comes, and webhooks tell of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from cache.library import BrokenSet
from cache.stores.port import NotFound, Store
from generator.engines.port import StepImage
from generator.jobs.cost import cost_by_settings
from generator.jobs.drawing import DrawingPlace, open_take
from generator.jobs.model import Item, Job
from generator.jobs.paces import Paces
from generator.jobs.scheduler import Workplace
from generator.jobs.store import Claimed
from server.studio.feed import Feed
from server.studio.hooks.messages import HookImage
from server.studio.links import SealedLinks
from server.studio.previews import LivePreviews, ShownPlace
from server.studio.slots import StudioEngine

_TOLD_FOR: Final = 5 * 86400
"""Seconds for which an address in a webhook is good: longer than its last try may be away."""


@dataclass(frozen=True)
class Drawings:
    """Makes the slots that draw.

    Args:
        store: where takes go.
        previews: keeps what is being drawn, for who looks.
        feed: tells who listens.
        paces: learns how long it takes.
    """

    store: Store
    previews: LivePreviews
    feed: Feed
    paces: Paces

    def place(self, engine: StudioEngine) -> Workplace:
        """The slot of an engine."""
        place = DrawingPlace(
            engine.name,
            engine.engine,
            self.store,
            look=self._show,
            learn=self.paces.learn,
            cost_of=cost_by_settings(engine.section),
        )
        return ShownPlace(place, self.previews, self.feed.drawing_over)

    def _show(self, claimed: Claimed, image: StepImage) -> None:
        self.previews.show(claimed, image)
        self.feed.show_preview(claimed, image)


async def hook_images(
    store: Store, links: SealedLinks, job: Job, ready: Sequence[Item]
) -> Sequence[HookImage]:
    """The pictures of some items of a job, as webhooks tell of them.

    Raises:
        StoreError, FormatError: one cannot be read.
    """
    images: list[HookImage] = []
    for item in ready:
        try:
            final = (await open_take(store, item.take)).image_set.steps[-1]
        except (NotFound, BrokenSet):
            continue  # it was there, and somebody has removed it since: nobody can have it
        path = f"/takes/{item.take}/final.jpg"
        url = links.sealed(path, job.owner, absolute=True, good_for=_TOLD_FOR)
        images.append(HookImage(item.n, item.take, item.seed, url, final.sha256 or ""))
    return images
