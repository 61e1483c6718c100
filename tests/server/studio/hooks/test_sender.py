"""Webhooks over real sockets: to receivers that are away, slow, gone, or rude."""

from __future__ import annotations

import asyncio
import itertools
import sys
import time
from collections.abc import Callable, Sequence

import pytest
import sqlalchemy as sa

from cache.stores.port import StoreUnavailable
from generator.hook_secrets import new_secret
from generator.jobs.hook_tables import deliveries, webhooks
from generator.jobs.model import Item, Job
from server.studio.hooks import deliveries as deliveries_module
from server.studio.hooks.deliveries import AT_ONCE_PER_HOST, KEPT_FOR
from server.studio.hooks.messages import BOTH_SIGN_FOR, SCHEDULE, HookImage
from server.studio.hooks.sender import AT_ONCE
from server.studio.hooks.webhooks import Delivery
from tests.helpers.servers import ROOT
from tests.server.studio.hooks.receivers import (
    CLOSES,
    HANGS,
    RESETS,
    Reply,
    receiving,
)
from tests.server.studio.hooks.studios import QUICKLY, HookStudio, hook_studio, pictures_of

EVERYTHING = [
    *("job.queued", "job.started", "item.running", "item.ready", "item.failed"),
    *("item.queued", "job.completed", "job.failed", "job.cancelled"),
]


def tried(times: int) -> Callable[[list[Delivery]], bool]:
    """Whether the newest delivery was tried so many times."""
    return lambda told: bool(told) and told[0].tries == times


async def test_a_job_that_ends_is_told_signed_and_with_its_pictures(url: sa.URL) -> None:
    async with receiving() as receiver, hook_studio(url) as studio:
        hook, secret = await studio.hook(receiver.url())
        receiver.secrets = [secret]
        job = await studio.accept(count=3)
        await studio.work(2, failed=1)
        (delivery,) = await studio.ended(hook)
        (got,) = receiver.got
        assert got.verified == (0,)
        assert got.id == delivery.id
        assert got.message["type"] == "job.completed"
        data = got.message["data"]
        assert (data["job"], data["status"], data["partial"]) == (job.id, "completed", True)
        assert [image["take"] for image in data["images"]] == [job.items[n].take for n in (0, 1)]
        assert [error["n"] for error in data["errors"]] == [2]
        assert (delivery.status, delivery.tries, delivery.next_at) == ("delivered", 1, None)
        assert (delivery.answer_status, delivery.answer) == (200, "said so")


async def test_each_event_is_told_to_its_owner_alone_and_from_then_on(url: sa.URL) -> None:
    async with receiving() as receiver, hook_studio(url) as studio:
        await studio.done()
        every, _ = await studio.hook(receiver.url("/every"), events=EVERYTHING)
        await studio.hook(receiver.url("/ben"), "ben", events=EVERYTHING)
        job = await studio.done()
        told = await studio.until(every, lambda told: len(told) == 5)
        assert {each.job for each in told} == {job.id}
        assert [each.type for each in reversed(told)] == [
            *("job.queued", "job.started", "item.running", "item.ready", "job.completed"),
        ]
        await studio.ended(every)
        assert {got.path for got in receiver.got} == {"/every"}


async def test_a_hook_that_comes_with_a_job_is_told_of_that_job_alone(url: sa.URL) -> None:
    async with receiving() as receiver, hook_studio(url) as studio:
        secret = new_secret().get_secret_value()
        receiver.secrets = [secret]
        wish = {"url": receiver.url(), "secret": secret, "events": ["job.queued", "job.completed"]}
        job = await studio.done(hook=wish)
        await studio.done()
        await studio.done(hook={"url": "http://10.0.0.1/"})  # the settings have changed since
        (hook,) = await studio.hooks.of("ada", job.id)
        told = await studio.until(hook, lambda told: len(told) == 2)
        await studio.ended(hook)
        assert {each.job for each in told} == {job.id}
        assert [got.verified for got in receiver.got] == [(0,), (0,)]
        assert await studio.hooks.of("ada") == []


@pytest.mark.parametrize(
    "reply",
    [
        Reply(500),
        Reply(404),
        Reply(400),
        Reply(301, ["location: /elsewhere"]),
        Reply(307, ["location: /elsewhere"]),
        Reply(304),
        RESETS,
        CLOSES,
    ],
)
async def test_what_failed_is_tried_again_under_the_same_id(url: sa.URL, reply: Reply) -> None:
    async with receiving(reply, reply) as receiver, hook_studio(url) as studio:
        hook, secret = await studio.hook(receiver.url())
        receiver.secrets = [secret]
        await studio.done()
        (delivery,) = await studio.ended(hook)
        assert (delivery.status, delivery.tries) == ("delivered", 3)
        assert {(got.id, got.body, got.verified) for got in receiver.got} == {
            (delivery.id, receiver.got[0].body, (0,))
        }
        assert {got.path for got in receiver.got} == {"/hook"}  # no redirect was followed


async def test_nobody_there_at_all_is_a_failure_like_others(url: sa.URL) -> None:
    async with receiving() as receiver:
        nobody = receiver.url()
    async with hook_studio(url) as studio:
        hook, _ = await studio.hook(nobody)
        await studio.done()
        (delivery,) = await studio.ended(hook)
        assert (delivery.status, delivery.tries) == ("failed", len(QUICKLY))
        assert delivery.answer_status is None
        assert delivery.answer


async def test_a_hook_that_was_never_reached_says_so_until_it_is(url: sa.URL) -> None:
    replies = [Reply(503)] * len(QUICKLY)
    async with receiving(*replies) as receiver, hook_studio(url) as studio:
        hook, _ = await studio.hook(receiver.url())
        await studio.done()
        (delivery,) = await studio.ended(hook)
        assert (delivery.status, delivery.answer_status) == ("failed", 503)
        (failing,) = await studio.hooks.of("ada")
        assert failing.status == "failing"
        assert failing.problem is not None
        assert "4 tries: said so" in failing.problem
        again = await studio.hooks.redeliver("ada", hook.id, delivery.id, time.time())
        assert (again.status, again.tries) == ("waiting", 0)
        studio.sender.nudge()
        (delivered,) = await studio.ended(hook)
        assert delivered.status == "delivered"
        assert {got.id for got in receiver.got} == {delivery.id}
        (well,) = await studio.hooks.of("ada")
        assert (well.status, well.problem) == ("active", None)


async def test_who_is_gone_is_told_nothing_more(url: sa.URL) -> None:
    async with receiving(Reply(410)) as receiver, hook_studio(url) as studio:
        hook, _ = await studio.hook(receiver.url())
        await studio.done()
        (delivery,) = await studio.ended(hook)
        assert (delivery.status, delivery.tries, delivery.answer_status) == ("failed", 1, 410)
        (disabled,) = await studio.hooks.of("ada")
        assert disabled.status == "disabled"
        witness, _ = await studio.hook(receiver.url("/witness"))
        await studio.done()
        await studio.ended(witness)
        assert await studio.told(hook) == [delivery]
        assert [got.path for got in receiver.got] == ["/hook", "/witness"]
        await studio.hooks.redeliver("ada", hook.id, delivery.id, time.time())
        studio.sender.nudge()
        await studio.ended(hook)
        found = next(each for each in await studio.hooks.of("ada") if each.id == hook.id)
        assert found.status == "active"


@pytest.mark.parametrize("status", [429, 503])
async def test_who_is_too_busy_is_left_alone_for_as_long_as_it_says(
    url: sa.URL, status: int
) -> None:
    later = 0.0

    def wall() -> float:
        return time.time() + later

    busy = Reply(status, ["retry-after: 3000"])
    async with receiving(busy) as receiver, hook_studio(url, wall=wall) as studio:
        hook, _ = await studio.hook(receiver.url())
        await studio.done()
        (delivery,) = await studio.until(hook, lambda told: told and told[0].tries)
        assert delivery.next_at is not None
        assert delivery.next_at - wall() == pytest.approx(3000, abs=60)
        witness, _ = await studio.hook(receiver.url("/witness"))
        # What it is to be told next waits as well, and other hooks do not.
        await studio.queue.take_note(wall())
        later = 2900.0
        studio.sender.nudge()
        await studio.done()
        await studio.ended(witness)
        assert [got.path for got in receiver.got].count("/witness") == 1
        waiting = [each for each in await studio.told(hook) if each.id == delivery.id]
        assert waiting == [delivery]
        later = 3100.0
        studio.sender.nudge()
        told = await studio.ended(hook)
        assert {each.status for each in told} == {"delivered"}
        assert max(each.tries for each in told) == 2


async def test_all_that_waits_for_who_is_too_busy_waits(url: sa.URL) -> None:
    replies = [Reply(429, ["retry-after: 3000"])]
    async with receiving(*replies) as receiver, hook_studio(url, sends=False) as studio:
        hook, _ = await studio.hook(receiver.url(), events=EVERYTHING)
        await studio.done()
        now = time.time()
        await studio.queue.take_note(now)
        first, *_ = await studio.queue.claim(now, 1)
        await studio.sender._send(first)
        told = await studio.told(hook)
        assert len(told) == 5
        assert all(each.next_at is not None and each.next_at > now + 2900 for each in told)
        assert await studio.queue.claim(now + 2900, 16) == []
        assert len(await studio.queue.claim(now + 3100, 16)) == AT_ONCE_PER_HOST


async def test_ten_tries_are_made_at_their_times(url: sa.URL) -> None:
    began = time.time()
    later = 0.0

    def wall() -> float:
        return began + later

    async with (
        receiving(*[Reply(500)] * len(SCHEDULE)) as receiver,
        hook_studio(url, wall=wall, chance=lambda: 0.5, schedule=SCHEDULE) as studio,
    ):
        hook, _ = await studio.hook(receiver.url())
        await studio.done()
        for tries, rest in enumerate(SCHEDULE[1:], 1):
            (delivery,) = await studio.until(hook, tried(tries))
            assert delivery.next_at == pytest.approx(wall() + rest, abs=0.001)
            later += rest - 0.5
            studio.sender.nudge()
            assert await studio.queue.claim(wall(), 1) == []
            later += 0.5
            studio.sender.nudge()
        (delivery,) = await studio.ended(hook)
        assert (delivery.status, delivery.tries) == ("failed", 10)
        stamps = [int(got.headers["webhook-timestamp"]) for got in receiver.got]
        gaps = [second - first for first, second in itertools.pairwise(stamps)]
        assert gaps == pytest.approx(SCHEDULE[1:], abs=1.0)
        assert {got.id for got in receiver.got} == {delivery.id}


async def test_for_a_day_a_new_secret_and_the_old_one_sign(url: sa.URL) -> None:
    later = 0.0

    def wall() -> float:
        return time.time() + later

    async with receiving() as receiver, hook_studio(url, wall=wall) as studio:
        hook, old = await studio.hook(receiver.url())
        new = (await studio.hooks.rotate("ada", hook.id, time.time() - 10.0)).get_secret_value()
        receiver.secrets = [old, new]
        await studio.done()
        await studio.ended(hook)
        verified = [got.verified for got in receiver.got]
        assert verified == [(0, 1)]
        (found,) = await studio.hooks.of("ada")
        assert found.old_secret_until == pytest.approx(time.time() + BOTH_SIGN_FOR, abs=60)
        await studio.hooks.rotate("ada", hook.id, time.time() - BOTH_SIGN_FOR - 1.0)
        await studio.done()
        await studio.until(hook, lambda told: len(told) == 2)
        await studio.ended(hook)
        verified = [got.verified for got in receiver.got]
        assert verified[1:] == [()]  # by one that neither of both is
        await studio.queue.sweep(time.time())
        row = await studio.database.read(
            lambda connection: connection.execute(sa.select(webhooks)).one()
        )
        assert (row.old_secret, row.old_until) == (None, None)


# ---------------------------------------------------------------- nothing is lost


async def test_what_happened_while_nobody_sent_is_told_by_who_comes_next(url: sa.URL) -> None:
    async with receiving() as receiver:
        async with hook_studio(url, sends=False) as studio:
            hook, _ = await studio.hook(receiver.url())
            jobs = [await studio.done() for _ in range(102)]  # more events than are read together
        async with hook_studio(url) as studio:
            await receiver.until(lambda receiver: len(receiver.got) >= len(jobs), within=60)
            await studio.ended(hook)
        told = [got.message["data"]["job"] for got in receiver.got]
        assert sorted(told) == sorted(job.id for job in jobs)


async def test_killed_in_the_middle_of_sending_it_is_sent_by_the_next(url: sa.URL) -> None:
    async with receiving(HANGS, HANGS) as receiver:
        async with hook_studio(url, sends=False) as studio:
            hook, _ = await studio.hook(receiver.url())
            await studio.done()
            await studio.done()
        address = url.render_as_string(hide_password=False)
        child = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tests.server.studio.hooks.studios", address), cwd=ROOT
        )
        try:
            await receiver.until(lambda receiver: len(receiver.got) == 2)
        finally:
            child.kill()
            await child.wait()
        async with hook_studio(url) as studio:
            told = await studio.until(
                hook, lambda told: len(told) == 2 and all(each.ended_at for each in told)
            )
        assert {each.status for each in told} == {"delivered"}
        assert len(receiver.got) == 4
        # At least once; whoever hears it twice knows it by its id, and it says the same.
        assert len({(got.id, got.body) for got in receiver.got}) == 2


async def test_ended_in_the_middle_of_sending_it_leaves_that_to_others(url: sa.URL) -> None:
    async with receiving(HANGS) as receiver:
        async with hook_studio(url) as studio:
            hook, _ = await studio.hook(receiver.url())
            await studio.done()
            await receiver.until(lambda receiver: receiver.got)
        async with hook_studio(url, "another") as studio:
            (delivery,) = await studio.ended(hook)
        assert (delivery.status, delivery.tries) == ("delivered", 1)


async def test_two_studios_on_one_database_send_each_message_once(url: sa.URL) -> None:
    async with (
        receiving() as receiver,
        hook_studio(url, "here") as here,
        hook_studio(url, "there") as there,
    ):
        hook, secret = await here.hook(receiver.url(), events=EVERYTHING)
        receiver.secrets = [secret]

        async def jobs(studio: HookStudio) -> None:
            for _ in range(12):
                await studio.accept()
                here.sender.nudge()
                there.sender.nudge()

        await asyncio.gather(jobs(here), jobs(there))
        await here.work(24)
        there.sender.nudge()
        await receiver.until(lambda receiver: len(receiver.got) >= 120, within=60)
        await here.ended(hook)
        assert len(receiver.got) == len({got.id for got in receiver.got}) == 120
        assert {got.verified for got in receiver.got} == {(0,)}
        assert receiver.most_at_once <= 2 * AT_ONCE_PER_HOST


async def test_two_who_claim_at_once_never_hold_the_same(url: sa.URL) -> None:
    async with (
        hook_studio(url, "here", sends=False) as here,
        hook_studio(url, "there", sends=False) as there,
    ):
        for owner in ("ada", "ben"):
            for n in range(8):
                await here.hook(f"https://{owner}-{n}.example/", owner)
            await here.done(owner)
        now = time.time()
        await here.queue.take_note(now)

        async def claim(studio: HookStudio) -> list[str]:
            return [due.id for _ in range(12) for due in await studio.queue.claim(now, 1)]

        claimed = await asyncio.gather(claim(here), claim(there))
        ids = [each for ours in claimed for each in ours]
        assert len(ids) == len(set(ids)) == 16
        assert all(claimed)


async def test_what_another_holds_is_left_to_it_until_its_lease_is_over(url: sa.URL) -> None:
    async with (
        hook_studio(url, "here", sends=False) as here,
        hook_studio(url, "there", sends=False) as there,
    ):
        await here.hook("https://hook.example/")
        await here.done()
        now = time.time()
        await here.queue.take_note(now)
        (due,) = await here.queue.claim(now, 16)
        assert await there.queue.claim(now + 1, 16) == []
        await there.queue.release()
        assert await there.queue.claim(now + 1, 16) == []
        (again,) = await there.queue.claim(now + deliveries_module.LEASE + 1, 16)
        assert again.id == due.id
        await here.queue.delivered(due, now, 200, "")  # too late: it is another's
        (row,) = await here.database.read(
            lambda connection: connection.execute(sa.select(deliveries)).all()
        )
        assert (row.status, row.holder) == ("waiting", "there")


# ---------------------------------------------------------------- one holds up no other


async def test_who_never_answers_holds_up_nobody_else(url: sa.URL) -> None:
    async with (
        receiving() as slow,
        receiving() as quick,
        hook_studio(url) as studio,
    ):
        slow.by_path["/hook"] = HANGS
        for _ in range(5):
            await studio.hook(slow.url(), events=EVERYTHING)
        for _ in range(4):
            await studio.done()
        await slow.until(lambda receiver: len(receiver.got) == AT_ONCE_PER_HOST)
        hook, _ = await studio.hook(quick.url(), events=EVERYTHING)
        for _ in range(4):
            await studio.done()
        await studio.until(hook, lambda told: len(told) == 20)
        await studio.ended(hook)
        assert len(quick.got) == 20
        assert len(slow.got) == slow.most_at_once == AT_ONCE_PER_HOST


async def test_so_many_are_sent_at_once_and_no_more(url: sa.URL) -> None:
    async with receiving() as receiver, hook_studio(url) as studio:
        receiver.by_path["/hook"] = HANGS
        for n in range(12):
            await studio.hook(receiver.url(host=f"127.0.0.{n + 1}"))
        for _ in range(2):
            await studio.done()
        await receiver.until(lambda receiver: receiver.at_once == AT_ONCE)
        assert await studio.queue.claim(time.time(), 100) != []  # more is due
        assert receiver.most_at_once == AT_ONCE


async def test_pictures_that_cannot_be_had_are_waited_for_and_hold_up_nobody(url: sa.URL) -> None:
    failing: set[str] = set()
    later = 0.0

    async def unreliable(job: Job, wanted: Sequence[Item]) -> Sequence[HookImage]:
        if job.id in failing:
            raise StoreUnavailable("", "the bucket is away")
        return await pictures_of(job, wanted)

    def wall() -> float:
        return time.time() + later

    async with (
        receiving() as receiver,
        hook_studio(url, pictures_of=unreliable, wall=wall) as studio,
    ):
        hook, _ = await studio.hook(receiver.url())
        job = await studio.accept()
        failing.add(job.id)
        await studio.work()
        other = await studio.done()
        told = await studio.until(
            hook,
            lambda told: (
                [each.status for each in told] == ["delivered", "waiting"]
                and (told[1].next_at or 0) > time.time() + 30
            ),
        )
        assert told[1].tries == 0
        assert [got.message["data"]["job"] for got in receiver.got] == [other.id]
        failing.clear()
        later = 120.0
        studio.sender.nudge()
        await studio.ended(hook)
        assert [got.message["data"]["job"] for got in receiver.got] == [other.id, job.id]


async def test_a_hook_deleted_while_it_is_told_harms_nothing(url: sa.URL) -> None:
    async with receiving() as receiver, hook_studio(url) as studio:
        receiver.by_path["/gone"] = HANGS
        hook, _ = await studio.hook(receiver.url("/gone"))
        await studio.done()
        await receiver.until(lambda receiver: receiver.got)
        await studio.hooks.delete("ada", hook.id)
        other, _ = await studio.hook(receiver.url("/there"))
        await studio.done()
        (delivery,) = await studio.ended(other)
        assert delivery.status == "delivered"


# ---------------------------------------------------------------- bounds


async def test_old_deliveries_are_forgotten(url: sa.URL) -> None:
    async with receiving() as receiver, hook_studio(url) as studio:
        hook, _ = await studio.hook(receiver.url())
        job = await studio.done(hook={"url": receiver.url()})
        await studio.ended(hook)
        (of_job,) = await studio.hooks.of("ada", job.id)
        await studio.ended(of_job)
        now = time.time()
        await studio.queue.sweep(now + KEPT_FOR - 60)
        assert len(await studio.told(hook)) == len(await studio.told(of_job)) == 1
        await studio.queue.sweep(now + KEPT_FOR + 60)
        assert await studio.told(hook) == []
        assert await studio.hooks.of("ada", job.id) == []
        assert await studio.hooks.of("ada") == [hook]


async def test_only_so_many_deliveries_are_kept(
    url: sa.URL, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deliveries_module, "MAX_KEPT", 3)
    async with receiving() as receiver, hook_studio(url) as studio:
        hook, _ = await studio.hook(receiver.url(), events=EVERYTHING)
        await studio.done()
        await studio.until(hook, lambda told: len(told) == 5)
        told = await studio.ended(hook)
        await studio.queue.sweep(time.time())
        assert await studio.told(hook) == told[:3]


async def test_a_hook_that_is_hopelessly_behind_is_disabled(
    url: sa.URL, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deliveries_module, "MAX_WAITING", 6)
    async with hook_studio(url, sends=False) as studio:
        hook, _ = await studio.hook("https://hook.example/", events=EVERYTHING)
        for _ in range(2):
            await studio.done()
            await studio.queue.take_note(time.time())
        (disabled,) = await studio.hooks.of("ada")
        assert disabled.status == "disabled"
        assert disabled.problem == "10 deliveries waited for it"
        assert {each.status for each in await studio.told(hook)} == {"failed"}
