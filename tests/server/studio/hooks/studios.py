"""A Studio as far as its webhooks go: a real database, real jobs, and a sender that runs."""

from __future__ import annotations

import asyncio
import sys
import time
import uuid
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from cache.tasks import cancel_and_wait
from generator.guarded_outgoing import guarded_client, reach_of
from generator.jobs.database import Database, open_database
from generator.jobs.hook_tables import deliveries, webhooks
from generator.jobs.migrations import upgrade
from generator.jobs.model import Item, Job, Problem
from generator.jobs.schema import events, items, jobs, members, refusals, state
from generator.jobs.store import JobStore, NewItem, NewJob
from server.studio.hooks.deliveries import DeliveryQueue
from server.studio.hooks.messages import HookImage
from server.studio.hooks.registration import checked_hook
from server.studio.hooks.sender import HookSender
from server.studio.hooks.webhooks import Delivery, Hook, Webhooks

NEAR = reach_of(["127.0.0.0/8"])
QUICKLY = (0.0, 0.02, 0.03, 0.04)
"""Seconds before each of four tries."""


async def pictures_of(_job: Job, wanted: Sequence[Item]) -> Sequence[HookImage]:
    return [
        HookImage(item.n, item.take, item.seed, f"http://studio/takes/{item.take}/image", "ab" * 32)
        for item in wanted
    ]


@dataclass
class HookStudio:
    """What tests do with it."""

    database: Database
    store: JobStore
    hooks: Webhooks
    queue: DeliveryQueue
    sender: HookSender

    async def hook(self, url: str, owner: str = "ada", **fields: Any) -> tuple[Hook, str]:
        new = checked_hook({"url": url, **fields}, NEAR)
        hook, secret = await self.hooks.add(owner, new, time.time())
        return hook, secret.get_secret_value()

    async def accept(
        self, owner: str = "ada", count: int = 1, hook: Mapping[str, Any] | None = None
    ) -> Job:
        request = {"n": count} if hook is None else {"n": count, "hook": hook}
        new = NewJob(
            id=str(uuid.uuid4()),
            kind="draw",
            owner=owner,
            items=[NewItem(1000 + n, {}) for n in range(count)],
            request=request,
        )
        job, _ = await self.store.accept(new, time.time())
        self.sender.nudge()
        return job

    async def work(self, ready: int = 1, failed: int = 0) -> None:
        """Work on whatever is queued."""
        for n in range(ready + failed):
            claimed = await self.store.claim("gpu", time.time(), lease=60.0)
            assert claimed is not None
            if n < ready:
                await self.store.ready(claimed, time.time(), seconds=1.0, cost=0.0)
            else:
                await self.store.failed(claimed, Problem("failed", "it broke off"), time.time())
        self.sender.nudge()

    async def done(self, owner: str = "ada", hook: Mapping[str, Any] | None = None) -> Job:
        """A job that has just come to its end."""
        job = await self.accept(owner, hook=hook)
        await self.work()
        return job

    async def told(self, hook: Hook) -> list[Delivery]:
        return await self.hooks.deliveries(hook.owner, hook.id)

    async def until(
        self, hook: Hook, enough: Callable[[list[Delivery]], object], within: float = 30.0
    ) -> list[Delivery]:
        """Wait until the deliveries of a hook are as `enough` says."""
        told: list[Delivery] = []
        try:
            async with asyncio.timeout(within):
                while True:
                    told = await self.told(hook)
                    if enough(told):
                        return told
                    await asyncio.sleep(0.01)
        except TimeoutError:
            raise AssertionError(f"not within {within} s; told {told}") from None

    async def ended(self, hook: Hook) -> list[Delivery]:
        """Wait until something was told, and nothing waits any more."""
        return await self.until(
            hook, lambda told: told and all(each.status != "waiting" for each in told)
        )


@asynccontextmanager
async def hook_studio(
    url: sa.URL, name: str = "here", *, sends: bool = True, **options: Any
) -> AsyncIterator[HookStudio]:
    """A Studio until the context is left.

    Args:
        url: of its database.
        name: its own.
        sends: whether its sender runs.
        **options: of `HookSender`.
    """
    async with open_database(url) as database, guarded_client(NEAR) as client:
        store = JobStore(database, name)
        queue = DeliveryQueue(database, name, NEAR)
        options = {"pictures_of": pictures_of, "schedule": QUICKLY, **options}
        sender = HookSender(queue, client, store.get, **options)
        studio = HookStudio(database, store, Webhooks(database), queue, sender)
        if not sends:
            yield studio
            return
        running = asyncio.create_task(sender.run())
        try:
            yield studio
        finally:
            failed = running.done()
            await cancel_and_wait(running)
            if failed:
                running.result()


def empty(url: sa.URL) -> None:
    """A database with all tables, two members, and nothing else."""
    engine = sa.create_engine(url)
    with engine.begin() as connection:
        upgrade(connection)
        for table in (deliveries, webhooks, refusals, items, events, jobs, state, members):
            connection.execute(sa.delete(table))
        connection.execute(
            sa.insert(members),
            [
                {"id": name, "name": name, "role": "client", "created_at": 0.0}
                for name in ("ada", "ben")
            ],
        )
    engine.dispose()


async def _send_until_killed(url: str) -> None:
    async with hook_studio(sa.make_url(url)):
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(_send_until_killed(sys.argv[1]))
