"""Who may ask, and for how many pictures."""

from __future__ import annotations

import asyncio
import uuid
from pathlib import Path

import pytest
import sqlalchemy as sa

from generator.jobs.database import open_database
from generator.jobs.members import BadMemberName, Member, MemberExists, Members, member_name
from generator.jobs.store import JobStore, NewItem, NewJob, QuotaExceeded

DAY = 86400.0


def new(owner: str, count: int, key: str | None = None) -> NewJob:
    items = [NewItem(seed, {}) for seed in range(count)]
    return NewJob(str(uuid.uuid4()), "draw", owner, items, {"n": count}, key=key)


async def test_a_token_lets_in_who_it_was_made_for(bare: sa.URL) -> None:
    async with open_database(bare) as database:
        members = Members(database)
        cem, token = await members.add(" Cem ", "client", 20)
        dora, other = await members.add("Dora", "artist")
        assert token.startswith("ust_")
        assert len(token) == 47
        assert token != other
        assert cem == Member(cem.id, "Cem", "client", 20)
        for _ in range(2):  # looked up, and known
            assert await members.by_token(token) == cem
            assert await members.by_token(other) == dora
        assert await members.all() == [cem, dora]
        for wrong in ("", "ust_", token[:-1], token + "A", "ust_" + "A" * 43, "ü" * 47):
            assert await members.by_token(wrong) is None
    async with open_database(bare) as database:
        assert await Members(database).by_token(token) == cem


async def test_no_token_is_in_the_file(tmp_path: Path) -> None:
    file = tmp_path / "studio.sqlite"
    async with open_database(sa.URL.create("sqlite", database=str(file))) as database:
        _, token = await Members(database).add("cem", "client")
        written = b"".join(path.read_bytes() for path in tmp_path.iterdir())
        assert b"cem" in written
        assert token.encode() not in written
        assert token.removeprefix("ust_").encode() not in written


async def test_who_is_removed_is_out_at_once_and_its_jobs_stay(bare: sa.URL) -> None:
    async with open_database(bare) as database:
        members, store = Members(database), JobStore(database, "here")
        cem, token = await members.add("Cem", "client")
        job, _ = await store.accept(new(cem.id, 1), 0.0)
        assert await members.by_token(token) == cem
        await members.remove("Cem")
        assert await members.by_token(token) is None
        assert await members.all() == []
        assert await store.get(job.id) == job
        with pytest.raises(LookupError):
            await store.accept(new(cem.id, 1), 1.0)
        for gone in (members.remove("Cem"), members.renew_token("Cem")):
            with pytest.raises(LookupError, match="Cem"):
                await gone
        again, _ = await members.add("Cem", "client")
        assert again.id != cem.id
        assert await store.find(owner=again.id) == []


async def test_another_token_ends_the_one_before(bare: sa.URL) -> None:
    async with open_database(bare) as database:
        members = Members(database)
        cem, token = await members.add("Cem", "client")
        assert await members.by_token(token) == cem
        renewed = await members.renew_token("Cem")
        assert await members.by_token(token) is None
        assert await members.by_token(renewed) == cem


async def test_what_another_process_ended_is_over_within_seconds(bare: sa.URL) -> None:
    now = 0.0
    async with open_database(bare) as database:
        serving, by_hand = Members(database, now=lambda: now), Members(database)
        cem, token = await serving.add("Cem", "client")
        assert await serving.by_token(token) == cem
        await by_hand.remove("Cem")
        now = 10.0
        assert await serving.by_token(token) is None


async def test_who_is_removed_while_it_is_looked_up_is_not_remembered(bare: sa.URL) -> None:
    async with open_database(bare) as database:
        members = Members(database)
        for number in range(20):
            _, token = await members.add(f"m{number}", "client")
            await asyncio.gather(members.by_token(token), members.remove(f"m{number}"))
            assert await members.by_token(token) is None


@pytest.mark.parametrize("name", ["", "  ", "a" * 65, "a\nb", "a\x00", "\u202eabc", "a\u200b"])
def test_a_name_that_cannot_be_printed_is_none(name: str) -> None:
    with pytest.raises(BadMemberName, match="1 to 64"):
        member_name(name)


async def test_one_name_is_one_member(bare: sa.URL) -> None:
    async with open_database(bare) as database:
        members = Members(database)
        await members.add("Zo\u00eb", "client")
        with pytest.raises(MemberExists):
            await members.add("Zoe\u0308", "artist")  # the same, written in two characters
        with pytest.raises(ValueError, match="pictures_a_day"):
            await members.add("Cem", "client", 0)
        assert [member.name for member in await members.all()] == ["Zo\u00eb"]


async def test_the_artist_on_this_machine_needs_no_token(bare: sa.URL) -> None:
    async with open_database(bare) as database:
        members, store = Members(database), JobStore(database, "here")
        artist = await members.ensure_implicit(5.0)
        assert artist == await members.ensure_implicit(6.0)
        assert (artist.id, artist.role) == ("artist", "artist")
        await store.accept(new(artist.id, 1), 7.0)
        assert await members.all() == []
        named, _ = await members.add("artist", "artist")
        assert named.id != artist.id
        with pytest.raises(LookupError):
            await members.remove(artist.name)


async def test_a_day_has_so_many_pictures(bare: sa.URL) -> None:
    async with open_database(bare) as database:
        members, store = Members(database), JobStore(database, "here")
        cem, _ = await members.add("Cem", "client", 10)
        first, _ = await store.accept(new(cem.id, 6, "first"), 0.0)
        with pytest.raises(QuotaExceeded, match="4 are left"):
            await store.accept(new(cem.id, 5), 10.0)
        await store.accept(new(cem.id, 4), 10.0)
        assert await store.accept(new(cem.id, 6, "first"), 11.0) == (first, False)
        with pytest.raises(QuotaExceeded):
            await store.accept(new(cem.id, 1), DAY - 1)
        await store.accept(new(cem.id, 6), DAY + 1)
        with pytest.raises(QuotaExceeded, match="0 are left"):
            await store.accept(new(cem.id, 1), DAY + 1)


async def test_a_crowd_at_once_gets_no_more_than_that(bare: sa.URL) -> None:
    async with open_database(bare) as database:
        cem, _ = await Members(database).add("Cem", "client", 10)
        store = JobStore(database, "here")
        results = await asyncio.gather(
            *(store.accept(new(cem.id, 3), 0.0) for _ in range(20)), return_exceptions=True
        )
        assert sum(not isinstance(each, QuotaExceeded) for each in results) == 3
        with pytest.raises(QuotaExceeded, match="1 are left"):
            await store.accept(new(cem.id, 3), 0.0)
