"""What members do with their hooks."""

from __future__ import annotations

import asyncio
import time
import uuid

import pytest
import sqlalchemy as sa

from generator.jobs.hook_tables import deliveries, webhooks
from generator.jobs.schema import members
from server.studio.hooks.registration import checked_hook
from server.studio.hooks.webhooks import MAX_HOOKS, TooManyHooks
from tests.server.studio.hooks.studios import hook_studio

URL = "https://hook.example/told"


async def test_a_hook_is_found_by_its_member_without_its_secret(url: sa.URL) -> None:
    async with hook_studio(url, sends=False) as studio:
        hook, secret = await studio.hook(URL, events=["job.failed"])
        assert await studio.hooks.of("ada") == [hook]
        assert (hook.status, hook.events, hook.problem) == ("active", ("job.failed",), None)
        assert secret.startswith("whsec_")
        assert secret not in repr(await studio.hooks.of("ada"))


async def test_what_is_anothers_is_as_what_was_never_there(url: sa.URL) -> None:
    async with hook_studio(url, sends=False) as studio:
        hook, _ = await studio.hook(URL)
        await studio.done()
        await studio.queue.take_note(0.0)
        (delivery,) = await studio.told(hook)
        answers: list[list[str]] = []
        for name in (hook.id, str(uuid.uuid4())):
            told = []
            for ask in (
                studio.hooks.delete("ben", name),
                studio.hooks.rotate("ben", name, 0.0),
                studio.hooks.deliveries("ben", name),
                studio.hooks.redeliver("ben", name, delivery.id, 0.0),
            ):
                with pytest.raises(LookupError) as error:
                    await ask
                told.append(str(error.value))
            answers.append(told)
        assert answers[0] == answers[1]
        assert await studio.hooks.of("ben") == []
        assert await studio.hooks.of("ada") == [hook]
        assert await studio.told(hook) == [delivery]


async def test_a_delivery_of_another_hook_is_none_of_this_one(url: sa.URL) -> None:
    async with hook_studio(url, sends=False) as studio:
        hook, _ = await studio.hook(URL)
        other, _ = await studio.hook(URL, "ben")
        await studio.done()
        await studio.queue.take_note(0.0)
        (delivery,) = await studio.told(hook)
        with pytest.raises(LookupError):
            await studio.hooks.redeliver("ben", other.id, delivery.id, 0.0)


async def test_of_many_who_ask_at_once_only_so_many_get_a_hook(url: sa.URL) -> None:
    async with hook_studio(url, sends=False) as here, hook_studio(url, "there", sends=False) as two:
        new = checked_hook({"url": URL})
        tries = [studio.hooks.add("ada", new, 0.0) for studio in (here, two) for _ in range(15)]
        results = await asyncio.gather(*tries, return_exceptions=True)
        assert sum(isinstance(each, TooManyHooks) for each in results) == 30 - MAX_HOOKS
        hooks = await here.hooks.of("ada")
        assert len(hooks) == MAX_HOOKS
        await here.hooks.delete("ada", hooks[0].id)
        await here.hooks.add("ada", new, 0.0)
        await here.hooks.add("ben", new, 0.0)
        with pytest.raises(LookupError):
            await here.hooks.add("nobody", new, 0.0)


async def test_a_hook_that_is_deleted_takes_what_waits_for_it_along(url: sa.URL) -> None:
    async with hook_studio(url, sends=False) as studio:
        hook, _ = await studio.hook(URL)
        await studio.hook(URL)
        await studio.done()
        await studio.queue.take_note(0.0)
        await studio.hooks.delete("ada", hook.id)
        count = sa.select(sa.func.count()).select_from(deliveries)
        assert await studio.database.read(lambda connection: connection.scalar(count)) == 1


async def test_deliveries_are_read_page_by_page(url: sa.URL) -> None:
    async with hook_studio(url, sends=False) as studio:
        hook, _ = await studio.hook(URL, events=["job.queued", "job.started", "job.completed"])
        for _ in range(3):
            await studio.done()
        await studio.queue.take_note(0.0)
        told = await studio.told(hook)
        assert [each.type for each in told] == ["job.completed", "job.started", "job.queued"] * 3
        pages = [await studio.hooks.deliveries("ada", hook.id, limit=4)]
        while pages[-1]:
            last = pages[-1][-1].id
            pages.append(await studio.hooks.deliveries("ada", hook.id, before=last, limit=4))
        assert [each for page in pages for each in page] == told


async def test_who_is_no_member_any_more_is_told_nothing(url: sa.URL) -> None:
    async with hook_studio(url, sends=False) as studio:
        await studio.hook(URL)
        bens, _ = await studio.hook(URL, "ben")
        for owner in ("ada", "ben"):
            await studio.done(owner)
        now = time.time()
        await studio.queue.take_note(now)
        await studio.accept(hook={"url": URL, "events": ["job.queued"]})
        gone = sa.update(members).where(members.c.id == "ada").values(removed_at=now)
        await studio.database.write(lambda connection: connection.execute(gone))
        while await studio.queue.take_note(now):
            pass
        assert [due.hook for due in await studio.queue.claim(now, 16)] == [bens.id]
        with pytest.raises(LookupError):
            await studio.hook(URL)
        await studio.queue.sweep(now)
        left = sa.select(webhooks.c.id)
        found = await studio.database.read(lambda connection: connection.scalars(left).all())
        assert found == [bens.id]
