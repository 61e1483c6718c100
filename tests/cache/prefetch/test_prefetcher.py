"""The prefetcher on a virtual clock, over a store behind a line that is as slow as asked."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from itertools import pairwise

import pytest

from cache.library import Library
from cache.local.cache import LocalCache
from cache.model.formats import dump_meta, image_set
from cache.model.keys import Key, image_key, meta_key
from cache.model.manifest import Manifest, ManifestAction, dump_manifest
from cache.prefetch.plan import FINAL
from cache.prefetch.prefetcher import MARGIN, Need, Prefetcher, _files
from cache.stores.memory import MemoryStore
from cache.stores.port import StoreUnavailable
from server.core.clock import VirtualClock, settle
from tests.cache.samples import WHEN, meta_of, picture
from tests.helpers.pictures import picture as padded

PREVIEWS = 15
STEP = 0.5
RUN = (PREVIEWS + 1) * STEP


def names() -> list[str]:
    return [*(f"{step}.jpg" for step in range(1, PREVIEWS + 1)), "final.jpg"]


def one_set(action_id: str, set_id: int, size: int) -> dict[str, bytes]:
    """A set whose files have `size` bytes each, by key."""
    images = {
        name: padded(f"{action_id}/{set_id}/{name}", size) if size else picture()
        for name in names()
    }
    meta = meta_of(
        images, cue_id=action_id, set_id=set_id, total_steps=PREVIEWS, total_duration=RUN
    )
    files: dict[str, bytes] = {
        image_key(action_id, set_id, name): data for name, data in images.items()
    }
    return files | {meta_key(action_id, set_id): dump_meta(meta)}


@dataclass
class Bench:
    """A prefetcher, what it is told to need, and what it did."""

    clock: VirtualClock
    store: MemoryStore
    cache: LocalCache
    library: Library
    prefetcher: Prefetcher
    needs: list[Need] = field(default_factory=list)

    async def pass_time(self, seconds: float) -> None:
        """Let time pass in steps, and everybody act."""
        end = self.clock.now() + seconds
        while self.clock.now() < end - 1e-9:
            await self.clock.advance(min(0.25, end - self.clock.now()))
            await settle(40)

    def need(self, action_id: str, set_id: int, start: float, *, end: float | None = None) -> Need:
        """Need a set `start` seconds from now."""
        now = self.clock.now()
        need = Need(action_id, set_id, now + start, None if end is None else now + end)
        self.needs.append(need)
        return need

    def here(self, action_id: str, set_id: int) -> list[str]:
        """Which files of a set are here."""
        return [name for name in names() if self.cache.holds(image_key(action_id, set_id, name))]

    def whole(self, action_id: str, set_id: int) -> bool:
        return self.here(action_id, set_id) == names()


@asynccontextmanager
async def bench(
    actions: Iterable[str] = ("a", "b", "c"),
    *,
    sets: int = 2,
    size: int = 2000,
    line: float = 0.0,
    latency: float = 0.05,
    room: int = 64 * 2**20,
    budget: float = 0.0,
    run: bool = True,
) -> AsyncIterator[Bench]:
    clock = VirtualClock()

    async def sleep(seconds: float) -> None:
        await clock.sleep_until(clock.now() + seconds)

    manifest = Manifest(generated_at=WHEN)
    contents: dict[str, bytes] = {}
    for action_id in actions:
        for set_id in range(sets):
            contents |= one_set(action_id, set_id, size)
            manifest = manifest.with_set(action_id, ManifestAction(), set_id)
    contents["manifest.json"] = dump_manifest(manifest)
    store = MemoryStore(contents, latency=0.0, sleep=sleep)
    async with LocalCache(store, None, disk_bytes=0, memory_bytes=room) as cache:
        library = Library(cache, sets_remembered=1000, reread=cache.refresh)
        await library.refresh()
        store.latency, store.bytes_per_second = latency, line
        needs: list[Need] = []
        prefetcher = Prefetcher(
            cache,
            library,
            lambda: needs,
            clock,
            bits_per_second=budget,
            uniform=lambda _low, high: high,
        )
        one = Bench(clock, store, cache, library, prefetcher, needs)
        before = asyncio.all_tasks()
        task = asyncio.create_task(prefetcher.run()) if run else None
        try:
            yield one
        finally:
            if task is not None:
                task.cancel()
                with suppress(asyncio.CancelledError):
                    await task
            await settle(20)
            assert asyncio.all_tasks() == before


async def until(one: Bench, condition: Callable[[], bool], within: float) -> float:
    """Seconds until a condition holds."""
    begun = one.clock.now()
    while not condition():
        assert one.clock.now() - begun < within, "it never came"
        await one.pass_time(0.25)
    return one.clock.now() - begun


async def test_what_is_needed_comes_and_nothing_else() -> None:
    async with bench() as one:
        one.need("a", 1, 30)
        one.need("b", 0, 40)
        one.prefetcher.nudge()
        await one.pass_time(5)
        assert one.whole("a", 1)
        assert one.whole("b", 0)
        assert not one.here("a", 0)
        assert not one.here("c", 0)
        assert one.prefetcher.outlook().missing_files == 0
        assert one.prefetcher.coverage("a") == "all"
        assert one.prefetcher.coverage("c") is None


async def test_the_earlier_run_is_served_first() -> None:
    # 17 files of 2 kB a set, at 8 kB a second: some four seconds each.
    async with bench(line=8_000) as one:
        one.need("a", 0, 60)
        one.need("b", 0, 15)
        one.prefetcher.nudge()
        await until(one, lambda: one.whole("b", 0), 15)
        assert not one.whole("a", 0)
        await until(one, lambda: one.whole("a", 0), 45)


async def test_of_a_set_that_cannot_come_whole_the_most_telling_files_come_first() -> None:
    # 34 kB in 20 s at 1 kB a second, once it is known that it is so slow.
    async with bench(line=1_000, latency=0.0) as one:
        one.need("a", 0, 12)
        one.prefetcher.nudge()
        await one.pass_time(12)
        came = one.here("a", 0)
        assert "final.jpg" in came
        assert 3 <= len(came) < 10
        await one.pass_time(RUN)
        places = [names().index(name) for name in one.here("a", 0)]
        late = [place for place in places if place > 3]  # the first were on their way already
        assert max(b - a for a, b in pairwise(late)) <= 5


async def test_on_a_slow_line_every_run_has_its_final_image_and_few_previews() -> None:
    actions = [f"a{number:02d}" for number in range(12)]
    # Every 10 s a run of 16 files of 20 kB: 32 kB a second are wanted, 8 are there.
    async with bench(actions, sets=1, size=20_000, line=8_000, latency=0.05) as one:
        begin = one.clock.now() + 20
        for number, action_id in enumerate(actions):
            one.need(action_id, 0, 20 + 10 * number, end=20 + 10 * number + RUN)
        one.prefetcher.nudge()
        await one.pass_time(10)
        outlook = one.prefetcher.outlook()
        assert outlook.measured
        assert outlook.rate == pytest.approx(8_000, rel=0.2)
        assert outlook.late_files > 20
        thinned = 0
        for number, action_id in enumerate(actions):
            await one.pass_time(begin + 10 * number - one.clock.now())
            came = one.here(action_id, 0)
            assert "final.jpg" in came, f"{action_id} has no final image at its time"
            thinned += len(came) < len(names())
            assert one.prefetcher.coverage(action_id) in {"thin", "all"}
        assert thinned >= len(actions) // 2


async def test_while_the_store_fails_it_rests_longer_and_longer_then_catches_up() -> None:
    async with bench() as one:
        one.store.fail_next(*[StoreUnavailable("k", "away")] * 12, on="get")
        one.need("a", 0, 300)
        one.prefetcher.nudge()
        await one.pass_time(2)
        assert one.prefetcher.outlook().resting == "k: away"
        asked = one.store.calls["get"]
        await one.pass_time(28)
        # After the first few that were under way at once, one at a time, with rests between.
        assert one.store.calls["get"] - asked <= 6
        await until(one, lambda: one.whole("a", 0), 260)
        assert one.prefetcher.outlook().resting is None


async def test_a_store_that_was_away_all_night_is_caught_up_with() -> None:
    async with bench() as one:
        one.prefetcher._failures = 2000  # some twelve hours of rests
        one.store.fail_next(*[StoreUnavailable("k", "away")] * 12, on="get")
        one.need("a", 0, 600)
        one.prefetcher.nudge()
        await until(one, lambda: one.whole("a", 0), 600)
        assert one.prefetcher.stumbles == 0
        assert one.prefetcher.outlook().resting is None


async def test_a_store_that_is_silent_blocks_nobody_and_is_caught_up_with() -> None:
    async with bench() as one:
        one.need("a", 0, 100)
        one.store.answering.clear()
        one.prefetcher.nudge()
        await one.pass_time(20)
        assert one.here("a", 0) == []
        one.store.answering.set()
        await until(one, lambda: one.whole("a", 0), 30)


async def test_the_budget_is_kept() -> None:
    async with bench(size=10_000, budget=8 * 20_000, latency=0.0) as one:
        one.need("a", 0, 60)
        one.need("b", 0, 70)
        one.prefetcher.nudge()
        begun = one.clock.now()
        last = 0
        for _ in range(40):
            await one.pass_time(0.5)
            carried = sum(10_000 * len(one.here(action_id, 0)) for action_id in ("a", "b"))
            assert carried <= 20_000 * (one.clock.now() - begun) + 2 * 10_000
            last = carried
        assert last == 2 * 16 * 10_000


async def test_the_shows_own_reading_goes_first() -> None:
    async with bench(line=2_000, latency=0.0) as one:
        one.need("a", 0, 60)
        one.prefetcher.nudge()
        await one.pass_time(3)
        reading = asyncio.create_task(one.cache.get(image_key("c", 0, "1.jpg")))
        await settle(20)
        before = len(one.here("a", 0))
        await until(one, reading.done, 10)
        # What was on its way is finished; nothing new is begun meanwhile.
        assert len(one.here("a", 0)) - before <= 4
        await until(one, lambda: one.whole("a", 0), 60)


async def test_one_set_of_every_action_before_a_second_of_any() -> None:
    size = 10_000
    room = int(3.5 * 17 * size / 0.9)
    async with bench(size=size, room=room, latency=0.0) as one:
        one.need("a", 0, 200)
        one.need("a", 1, 210)
        one.need("b", 0, 220)
        one.need("c", 0, 230)
        one.prefetcher.nudge()
        await one.pass_time(10)
        assert [one.whole(action_id, 0) for action_id in "abc"] == [True, True, True]
        assert not one.here("a", 1)
        outlook = one.prefetcher.outlook()
        assert outlook.crowded_out == 1
        assert one.prefetcher.coverage("a") == "one"
        assert one.prefetcher.coverage("b") == "all"


async def test_what_is_soon_goes_before_everybodys_last_resort() -> None:
    size = 10_000
    room = int(2.5 * 17 * size / 0.9)
    async with bench(size=size, room=room, latency=0.0) as one:
        one.need("a", 0, 10)
        one.need("a", 1, 30)
        one.need("b", 0, 220)
        one.prefetcher.nudge()
        await one.pass_time(5)
        assert one.whole("a", 0)
        assert one.whole("a", 1)
        assert not one.whole("b", 0)


async def test_what_is_pinned_is_not_evicted_by_what_is_read() -> None:
    size = 10_000
    room = int(2.5 * 17 * size)
    async with bench([f"a{n}" for n in range(8)], size=size, room=room, latency=0.0) as one:
        one.need("a0", 0, 30)
        one.need("a1", 0, 40)
        one.prefetcher.nudge()
        await one.pass_time(5)
        for number in range(2, 8):
            for name in names():
                await one.cache.get(image_key(f"a{number}", 0, name))
        assert one.whole("a0", 0)
        assert one.whole("a1", 0)
        assert one.cache.stats.memory_bytes <= room


async def test_what_the_store_has_not_is_not_asked_for_again_and_again() -> None:
    async with bench() as one:
        del one.store.contents[image_key("a", 0, "3.jpg")]
        one.need("a", 0, 100)
        one.prefetcher.nudge()
        await one.pass_time(40)
        assert one.here("a", 0) == [name for name in names() if name != "3.jpg"]
        # Each file once, and the missing one once a minute.
        assert one.store.calls["get"] <= 1 + 1 + len(names())
        assert one.prefetcher.coverage("a") == "thin"


async def test_a_set_without_a_meta_spoils_nothing() -> None:
    async with bench() as one:
        del one.store.contents[meta_key("a", 0)]
        one.need("a", 0, 10)
        one.need("b", 0, 20)
        one.prefetcher.nudge()
        await one.pass_time(8)
        assert one.whole("b", 0)
        assert one.prefetcher.coverage("a") == "none"
        assert one.prefetcher.coverage("b") == "all"


async def test_a_run_that_is_on_still_gets_the_previews_to_come() -> None:
    async with bench(line=20_000, latency=0.0) as one:
        one.need("a", 0, -2.0, end=6.0)
        one.prefetcher.nudge()
        await one.pass_time(3)
        came = one.here("a", 0)
        assert "final.jpg" in came
        assert "15.jpg" in came
        assert "1.jpg" not in came, "nobody will see it any more"


async def test_who_waits_for_a_file_hears_when_it_has_come() -> None:
    async with bench(line=4_000, latency=0.0) as one:
        one.need("a", 0, 20)
        key = image_key("a", 0, "1.jpg")
        waiting = asyncio.create_task(one.prefetcher.arrival(key))
        given_up = asyncio.create_task(one.prefetcher.arrival(key))
        await settle(10)
        given_up.cancel()
        one.prefetcher.nudge()
        await until(one, waiting.done, 20)
        assert one.prefetcher.holds(key)
        await asyncio.wait_for(one.prefetcher.arrival(key), 1)


async def test_a_new_plan_leads_to_other_files_at_once() -> None:
    async with bench(line=4_000, latency=0.0) as one:
        one.need("a", 0, 60)
        one.prefetcher.nudge()
        await one.pass_time(2)
        assert one.here("a", 0)
        one.needs.clear()
        one.need("b", 0, 4)
        one.prefetcher.nudge()
        await until(one, lambda: "final.jpg" in one.here("b", 0), 4 - MARGIN + 0.5)
        before = len(one.here("a", 0))
        await until(one, lambda: len(one.here("b", 0)) > 8, 20)
        assert len(one.here("a", 0)) == before


def test_the_final_image_is_wanted_before_its_run_begins() -> None:
    images = {name: picture() for name in names()}
    found = image_set("a", 0, meta_of(images, total_steps=PREVIEWS, total_duration=RUN))
    wanted = {w.key: w for w in _files(found, Need("a", 0, 100.0, 104.0))}
    final = wanted[Key("actions/a/sets/0/final.jpg")]
    assert final.rank == FINAL
    assert final.deadline < 100 - MARGIN
    assert final.by[1] == 100 - MARGIN
    assert final.latest == pytest.approx(104)
    # Squeezed to half its length: the eighth of sixteen images is due in the middle of four s.
    assert wanted[Key("actions/a/sets/0/8.jpg")].latest == pytest.approx(102)


# ---------------------------------------------------------------- mistakes of ours


class Planted(Exception):
    pass


@pytest.mark.parametrize("mistake", [Planted("a mistake"), asyncio.CancelledError()])
async def test_a_mistake_with_one_file_ends_nothing_and_is_told_until_the_file_has_come(
    monkeypatch: pytest.MonkeyPatch, mistake: BaseException
) -> None:
    async with bench() as one:
        poison, rightly, tries = image_key("a", 0, "3.jpg"), one.cache.fetch, list[float]()

        async def fetch(key: Key) -> int:
            if key == poison and len(tries) < 3:
                tries.append(one.clock.now())
                raise mistake
            return await rightly(key)

        monkeypatch.setattr(one.cache, "fetch", fetch)
        one.need("a", 0, 120.0)
        one.need("b", 0, 150.0)
        await one.pass_time(4.0)
        assert one.whole("b", 0)
        assert one.here("a", 0) == [name for name in names() if name != "3.jpg"]
        assert poison in (one.prefetcher.stumbled or "")
        await one.pass_time(30.0)
        assert one.whole("a", 0)
        assert one.prefetcher.stumbled is None
        assert one.prefetcher.stumbles == len(tries) == 3
        first, second = (later - earlier for earlier, later in pairwise(tries))
        assert 1.0 <= first < second, "the pauses grow"


async def test_where_every_file_fails_it_is_asked_ever_more_seldom(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with bench() as one:
        rightly, tries = one.cache.fetch, list[float]()

        async def fetch(_key: Key) -> int:
            tries.append(one.clock.now())
            raise Planted("a mistake")

        monkeypatch.setattr(one.cache, "fetch", fetch)
        one.need("a", 0, 600.0)
        await one.pass_time(120.0)
        assert 4 <= len(tries) < 20
        monkeypatch.setattr(one.cache, "fetch", rightly)
        await one.pass_time(60.0)
        assert one.whole("a", 0)
        assert one.prefetcher.stumbled is None


@pytest.mark.parametrize("method", ["_next", "plan"])
async def test_a_mistake_before_anything_is_asked_for_is_told_and_passes(
    monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    async with bench() as one:
        rightly, calls = getattr(one.prefetcher, method), 0

        async def fails_at_first() -> object:
            nonlocal calls
            calls += 1
            if calls <= 6:
                raise Planted("a mistake")
            return await rightly()

        monkeypatch.setattr(one.prefetcher, method, fails_at_first)
        one.prefetcher.nudge()
        one.prefetcher._landed.set()
        one.need("a", 0, 120.0)
        one.need("b", 0, 150.0)
        await one.pass_time(100.0)
        assert one.whole("a", 0)
        assert one.whole("b", 0)
        assert calls > 6
        assert one.prefetcher.stumbled is None
