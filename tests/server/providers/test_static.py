from __future__ import annotations

import asyncio
import hashlib
import itertools
import json
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from cache.library import Library
from cache.model.images import Decoded
from cache.model.keys import image_key, meta_key
from cache.prefetch.availability import PartlyAvailable
from cache.stores.memory import MemoryStore
from cache.stores.port import StoreUnavailable
from generator.sheet.plan import Action
from server.config.show import load_show
from server.core.clock import VirtualClock
from server.core.random_streams import RandomStreams
from server.providers.base import Frame, FrameStream, ProviderError, Slot
from server.providers.shuffle import Bag, ShuffleBag
from server.providers.static import StaticProvider
from server.providers.timing import UNKNOWN_DURATION, final_by
from tests.cache.samples import plain
from tests.helpers.house import at_once
from tests.helpers.pictures import picture
from tests.helpers.shows import Rhythm, cue, prompt, set_files, store_contents, write_show

RHYTHM = Rhythm(previews=4, step=1.0, sets=4)


class Bench:
    """A provider over a store in memory, and one action."""

    def __init__(self, folder: Path, rhythm: Rhythm = RHYTHM, seed: int = 1) -> None:
        write_show(folder, [prompt(0, "a lamp", id="lamp"), cue(60, "end")])
        (self.action,) = load_show(folder, {}, {}).plan({}).actions
        self.rhythm = rhythm
        self.store = MemoryStore(store_contents([self.action], rhythm))
        self.library = Library(self.store)
        self.clock = VirtualClock(1000.0)
        self.bag = ShuffleBag(RandomStreams(seed))
        self.availability = PartlyAvailable(())
        self.static = StaticProvider(
            self.library,
            self.bag,
            self.clock,
            RandomStreams(seed),
            fit="squeeze",
            availability=self.availability,
            offload=at_once,
        )

    def image(self, number: int, step: int) -> bytes:
        files = set_files(self.action, number, self.rhythm)
        stem = "final" if step == self.rhythm.frames else str(step)
        return files[image_key("lamp", number, f"{stem}.jpg")]

    async def play(self, start: float | None = None) -> tuple[FrameStream, list[Frame]]:
        slot = Slot(self.clock.now() if start is None else start)
        async with self.static.open(self.action, slot) as stream:
            return stream, [frame async for frame in stream.frames]

    async def chosen(self) -> int | None:
        async with self.static.open(self.action, Slot(self.clock.now())) as stream:
            return stream.source.set_id

    def spoil(self, number: int, name: str, data: bytes | None = None) -> None:
        key = meta_key("lamp", number) if name == "meta.json" else image_key("lamp", number, name)
        if data is None:
            del self.store.contents[key]
        else:
            self.store.contents[key] = data


@pytest.fixture
async def bench(tmp_path: Path) -> Bench:
    made = Bench(tmp_path / "show")
    await made.library.refresh()
    return made


@contextmanager
def skipped() -> Iterator[list[dict[str, Any]]]:
    """What is logged of sets that are passed over."""
    told: list[dict[str, Any]] = []
    with capture_logs() as logs:
        yield told
    told += [dict(entry) for entry in logs if entry["event"] == "set_skipped"]


# ---------------------------------------------------------------- what is at hand


async def test_a_whole_set_goes_before_one_whose_previews_are_missing(bench: Bench) -> None:
    coming = bench.static.coming("lamp", 9)
    other = coming[1]
    for number in set(coming) - {other}:
        bench.availability.missing |= {image_key("lamp", number, "2.jpg")}
    assert await bench.chosen() == other
    # It has just been played: now rather fewer previews than the same picture again.
    assert await bench.chosen() != other


async def test_a_set_whose_previews_are_on_their_way_keeps_its_turn(bench: Bench) -> None:
    (first, *_) = bench.static.coming("lamp", 9)
    bench.availability.missing |= {image_key("lamp", first, "2.jpg")}
    bench.availability.expected |= bench.availability.missing
    assert await bench.chosen() == first


async def test_a_set_that_can_be_begun_goes_before_one_that_cannot(bench: Bench) -> None:
    first, other, *_ = bench.static.coming("lamp", 9)
    everything = {image_key("lamp", n, "2.jpg") for n in bench.static.coming("lamp", 9)}
    bench.availability.missing |= everything | {image_key("lamp", first, "final.jpg")}
    assert await bench.chosen() == other


# ---------------------------------------------------------------- a whole run


async def test_a_set_is_played_as_it_was_recorded(bench: Bench) -> None:
    start = bench.clock.now()
    stream, frames = await bench.play()
    number = stream.source.set_id
    assert number is not None
    assert stream.source.provider == "static"
    assert (stream.source.engine, stream.source.seed) == ("tests 1", number)
    assert stream.source.set_hash is not None
    assert stream.steps == 5
    assert stream.planned == tuple((step, start + step) for step in range(1, 6))
    assert stream.ends_at == start + 5
    assert [(f.step, f.steps, f.final, f.due) for f in frames] == [
        (step, 5, step == 5, start + step) for step in range(1, 6)
    ]
    assert [f.image for f in frames] == [bench.image(number, step) for step in range(1, 6)]
    assert {f.media_type for f in frames} == {"image/jpeg"}


async def test_a_run_that_would_be_cut_off_is_squeezed(bench: Bench) -> None:
    start = bench.clock.now()
    end = final_by(start, start + 4.0, crossfade=3.0)
    assert end == start + 3.0
    async with bench.static.open(bench.action, Slot(start, end)) as stream:
        assert stream.source.squeeze == pytest.approx(0.6)
        assert stream.ends_at == pytest.approx(end)
    bench.static.fit = "recorded"
    async with bench.static.open(bench.action, Slot(start, end)) as stream:
        assert (stream.source.squeeze, stream.ends_at) == (1.0, start + 5)


async def test_missing_durations_are_made_up_anew_each_time(tmp_path: Path) -> None:
    bench = Bench(tmp_path / "show", Rhythm(previews=4, sets=1, durations=False))
    await bench.library.refresh()
    plans = set()
    for _ in range(5):
        start = bench.clock.now()
        stream, frames = await bench.play()
        assert len(frames) == 5
        due = [start, *(at for _, at in stream.planned)]
        gaps = [round(after - before, 6) for before, after in itertools.pairwise(due)]
        low, high = UNKNOWN_DURATION
        assert all(low <= gap <= high for gap in gaps)
        assert stream.source.set_hash is None  # the meta names no hashes
        plans.add(tuple(gaps))
    assert len(plans) == 5


# ---------------------------------------------------------------- which set


async def test_all_are_played_before_any_is_repeated_and_none_twice_running(bench: Bench) -> None:
    played = [await bench.chosen() for _ in range(40)]
    rounds = [played[begin : begin + 4] for begin in range(0, 40, 4)]
    assert all(sorted(one) == [0, 1, 2, 3] for one in rounds)  # type: ignore[type-var]
    assert all(one != other for one, other in itertools.pairwise(played))
    assert len({tuple(one) for one in rounds}) > 1, "always the same order is no shuffling"


async def test_the_bag_is_remembered(bench: Bench, tmp_path: Path) -> None:
    first = [await bench.chosen() for _ in range(2)]
    kept = {"lamp": Bag.model_validate_json(bench.bag.bags["lamp"].model_dump_json())}
    after = Bench(tmp_path / "again", seed=99)
    await after.library.refresh()
    after.bag.bags.update(kept)
    assert sorted([*first, *[await after.chosen() for _ in range(2)]]) == [0, 1, 2, 3]  # type: ignore[type-var]


async def test_a_set_that_appears_joins_the_round_and_one_that_vanishes_leaves_it() -> None:
    changes: list[int] = []
    bag = ShuffleBag(RandomStreams(3), changed=lambda: changes.append(1))
    drawn = [bag.draw("a", [0, 1]) for _ in range(2)]
    assert sorted(drawn) == [0, 1]  # type: ignore[type-var]
    assert bag.peek("a", [0, 1, 2]) == bag.draw("a", [0, 1, 2])
    rest = [bag.draw("a", [2]) for _ in range(3)]
    assert set(rest) == {2}
    assert bag.draw("a", []) is None
    assert bag.draw("nobody", []) is None
    assert bag.last("nobody") is None
    assert len(changes) == 6


async def test_with_one_set_it_is_played_again_and_again(tmp_path: Path) -> None:
    bench = Bench(tmp_path / "show", Rhythm(previews=1, sets=1))
    await bench.library.refresh()
    assert [await bench.chosen() for _ in range(3)] == [0, 0, 0]


# ---------------------------------------------------------------- faults

BROKEN: dict[str, tuple[str, bytes | None]] = {
    "no meta": ("meta.json", None),
    "a meta that is no JSON": ("meta.json", b"{"),
    "no final": ("final.jpg", None),
    "a final cut short": ("final.jpg", picture("x")[:900]),
    "a final that is empty": ("final.jpg", b""),
    "another picture as final": ("final.jpg", picture("another")),
    "no picture as final": ("final.jpg", b"<html>"),
}


@pytest.mark.parametrize(("name", "data"), BROKEN.values(), ids=BROKEN)
async def test_a_broken_set_is_passed_over_and_told_once(
    bench: Bench, name: str, data: bytes | None
) -> None:
    for number in (0, 2, 3):
        bench.spoil(number, name, data)
    with skipped() as told:
        assert {await bench.chosen() for _ in range(12)} == {1}
    assert Counter(entry["set_id"] for entry in told) == {0: 1, 2: 1, 3: 1}
    assert {entry["action_id"] for entry in told} == {"lamp"}
    assert all(entry["reason"] for entry in told)
    assert bench.static.usable("lamp") == (1,)
    assert set(bench.static.faults) == {("lamp", 0), ("lamp", 2), ("lamp", 3)}


def blacken(bench: Bench, number: int) -> None:
    """Let a set's final image be black, and its meta tell of exactly that."""
    black = plain("jpg", (0, 0, 0))
    bench.spoil(number, "final.jpg", black)
    key = meta_key("lamp", number)
    meta = json.loads(bench.store.contents[key])
    digest = hashlib.sha256(black).hexdigest()
    meta["files"]["final.jpg"] = {"bytes": len(black), "sha256": digest}
    bench.store.contents[key] = json.dumps(meta).encode()


async def test_a_final_image_that_is_all_one_colour_is_never_shown(bench: Bench) -> None:
    for number in (0, 2, 3):
        blacken(bench, number)
    with skipped() as told:
        assert {await bench.chosen() for _ in range(12)} == {1}
    assert {entry["reason"] for entry in told} == {"final.jpg is all one colour"}
    assert bench.static.usable("lamp") == (1,)


async def test_sets_are_proven_beforehand_and_each_once(bench: Bench) -> None:
    looked: list[Decoded] = []

    async def counted(function: Callable[[], Decoded]) -> Decoded:
        looked.append(function())
        return looked[-1]

    bench.static.offload = counted
    blacken(bench, 2)
    with skipped() as told:
        await bench.static.prove([bench.action])
        await bench.static.prove([bench.action])
    assert [entry["set_id"] for entry in told] == [2]
    assert bench.static.usable("lamp") == (0, 1, 3)
    assert len(looked) == 4
    await bench.play()
    assert len(looked) == 4, "what is proven is not looked at again"


async def test_a_stale_set_is_passed_over(bench: Bench, tmp_path: Path) -> None:
    write_show(tmp_path / "changed", [prompt(0, "another lamp", id="lamp"), cue(60, "end")])
    (changed,) = load_show(tmp_path / "changed", {}, {}).plan({}).actions
    for number in (0, 1):
        meta = set_files(changed, number, RHYTHM)[meta_key("lamp", number)]
        bench.spoil(number, "meta.json", meta)
    with skipped() as told:
        assert {await bench.chosen() for _ in range(8)} == {2, 3}
    assert {entry["set_id"] for entry in told} == {0, 1}
    assert all("stale" in entry["reason"] for entry in told)


async def test_with_no_set_left_it_says_so(bench: Bench) -> None:
    for number in range(4):
        bench.spoil(number, "final.jpg")
    with pytest.raises(ProviderError, match="lamp"):
        await bench.chosen()
    with pytest.raises(ProviderError, match="lamp"):
        await bench.chosen()


async def test_an_action_that_nobody_drew(bench: Bench, tmp_path: Path) -> None:
    write_show(tmp_path / "other", [prompt(0, "x", id="unknown"), cue(60, "end")])
    (unknown,) = load_show(tmp_path / "other", {}, {}).plan({}).actions
    with pytest.raises(ProviderError, match="unknown"):
        async with bench.static.open(unknown, Slot(0.0)):
            pytest.fail("there is nothing to open")


async def test_a_mended_set_is_played_again(bench: Bench) -> None:
    whole = dict(bench.store.contents)
    for number in range(4):
        bench.spoil(number, "final.jpg")
    with pytest.raises(ProviderError):
        await bench.chosen()
    bench.store.contents = whole
    await bench.static.survey([bench.action])
    await bench.static.prove([bench.action])
    with skipped() as told:
        assert {await bench.chosen() for _ in range(8)} == {0, 1, 2, 3}
    assert told == []
    assert bench.static.faults == {}


async def test_a_set_that_breaks_again_is_told_again_only_if_it_was_well(bench: Bench) -> None:
    bench.spoil(0, "meta.json")
    with skipped() as told:
        for _ in range(3):
            await bench.static.survey([bench.action])
    assert len(told) == 1


@pytest.mark.parametrize("spoiled", [None, b"", picture("cut")[:500], b"\0" * 4000])
async def test_a_broken_preview_is_left_out_and_the_run_goes_on(
    tmp_path: Path, spoiled: bytes | None
) -> None:
    bench = Bench(tmp_path / "show", Rhythm(previews=4, step=1.0, sets=1))
    await bench.library.refresh()
    bench.spoil(0, "2.jpg", spoiled)
    with skipped() as told:
        _, frames = await bench.play()
    assert [frame.step for frame in frames] == [1, 3, 4, 5]
    assert [frame.due - bench.clock.now() for frame in frames] == [1.0, 3.0, 4.0, 5.0]
    assert frames[-1].image == bench.image(0, 5)
    assert len(told) == 1
    assert "2.jpg" in told[0]["reason"]


# ---------------------------------------------------------------- the store fails


async def test_a_store_that_fails_at_the_first_set_is_asked_for_the_next(bench: Bench) -> None:
    bench.store.fail_next(StoreUnavailable("x", "away"), on="get")
    with skipped() as told:
        stream, frames = await bench.play()
    assert len(frames) == stream.steps
    assert told == [], "the store's fault is not held against the set"
    assert bench.static.usable("lamp") == (0, 1, 2, 3)


async def test_a_store_that_is_away_has_nothing_to_give(bench: Bench) -> None:
    bench.store.fail_next(*[StoreUnavailable("x", "away")] * 20)
    with pytest.raises(ProviderError):
        await bench.chosen()
    bench.store._failures.clear()
    assert await bench.chosen() is not None


async def test_a_store_that_fails_in_the_middle_costs_previews_and_not_the_final(
    bench: Bench,
) -> None:
    async with bench.static.open(bench.action, Slot(bench.clock.now())) as stream:
        frames = [await anext(stream.frames)]
        bench.store.fail_next(*[StoreUnavailable("x", "away")] * 20)
        frames += [frame async for frame in stream.frames]
    assert [frame.step for frame in frames] == [1, 5]
    assert frames[-1].final


async def test_leaving_in_the_middle_leaves_nothing_behind(bench: Bench) -> None:
    before = asyncio.all_tasks()
    async with bench.static.open(bench.action, Slot(bench.clock.now())) as stream:
        await anext(stream.frames)
    assert asyncio.all_tasks() == before
    with pytest.raises(StopAsyncIteration):
        await anext(stream.frames)


async def test_a_store_that_never_answers_can_be_left(bench: Bench) -> None:
    bench.store.answering.clear()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await bench.play()


# ---------------------------------------------------------------- joined in the middle


async def test_joined_in_the_middle_the_newest_due_comes_first(bench: Bench) -> None:
    now = bench.clock.now()
    stream, frames = await bench.play(start=now - 3.4)
    assert [frame.step for frame in frames] == [3, 4, 5]
    assert [round(frame.due - now, 3) for frame in frames] == [-0.4, 0.6, 1.6]
    assert stream.planned[0] == (1, now - 2.4)


async def test_joined_after_its_end_the_final_comes_alone(bench: Bench) -> None:
    _, frames = await bench.play(start=bench.clock.now() - 500)
    assert [(frame.step, frame.final) for frame in frames] == [(5, True)]


async def test_joined_in_the_middle_the_last_set_is_kept(bench: Bench) -> None:
    last: int | None = None
    for _ in range(6):
        last = await bench.chosen()
        stream, _ = await bench.play(start=bench.clock.now() - 2.0)
        assert stream.source.set_id == last
    fresh, _ = await bench.play()
    assert fresh.source.set_id != last


async def test_joined_in_the_middle_with_the_last_set_broken_takes_another(bench: Bench) -> None:
    last = await bench.chosen()
    assert last is not None
    bench.spoil(last, "final.jpg")
    stream, _ = await bench.play(start=bench.clock.now() - 2.0)
    assert stream.source.set_id not in {None, last}


def test_an_action_has_what_the_tests_say(tmp_path: Path) -> None:
    action: Action = Bench(tmp_path / "show").action
    assert (action.action_id, action.program) == ("lamp", "P4")


# ---------------------------------------------------------------- taking over


async def taken_over(bench: Bench, share: float, start: float, end: float | None = None) -> Any:
    slot = Slot(start, end, share)
    async with bench.static.open(bench.action, slot) as stream:
        return stream, [frame async for frame in stream.frames]


@pytest.mark.parametrize(
    ("share", "steps"),
    [(0.1, [1, 2, 3, 4, 5]), (0.2, [2, 3, 4, 5]), (0.5, [3, 4, 5]), (0.8, [5]), (0.99, [5])],
)
async def test_taking_over_it_gives_what_comes_after_the_share(
    bench: Bench, share: float, steps: list[int]
) -> None:
    stream, frames = await taken_over(bench, share, bench.clock.now())
    assert [frame.step for frame in frames] == steps
    assert [frame.steps for frame in frames] == [5] * len(steps)
    assert [step for step, _ in stream.planned] == steps
    assert stream.steps == 5


async def test_taking_over_it_keeps_the_rhythm_of_what_came_before(bench: Bench) -> None:
    now = bench.clock.now()
    _, frames = await taken_over(bench, 0.5, now - 0.4)
    assert [frame.due - now for frame in frames] == pytest.approx([0.6, 1.6, 2.6])


async def test_taking_over_what_stood_still_it_comes_at_once(bench: Bench) -> None:
    now = bench.clock.now()
    _, frames = await taken_over(bench, 0.5, now - 5.0)
    assert [frame.due - now for frame in frames] == pytest.approx([0.1, 1.1, 2.1])


async def test_taking_over_it_ends_in_time(bench: Bench) -> None:
    now = bench.clock.now()
    _, frames = await taken_over(bench, 0.5, now, now + 1.5)
    assert [frame.due - now for frame in frames] == pytest.approx([0.5, 1.0, 1.5])
