"""Two tells, the second: when the pictures of a run are seen says nothing of how it is played."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random
from typing import Any

import httpx
import pytest

from cache.model.documents import FormatError
from cache.model.formats import MAX_LATENCY, dump_meta, parse_meta
from cache.model.keys import meta_key
from cache.stores.memory import MemoryStore
from generator.engines.port import Engine, ScriptedEngine, StepImage, Timing
from generator.engines.remote.engine import RemoteEngine
from generator.engines.sketch.engine import SketchEngine, nominal_latency
from generator.sets import quarantine
from generator.sets.harvest import Harvester
from generator.sets.recorder import Recorder, latency_of
from generator.sheet.plan import Action
from generator.sheet.recipe import Recipe
from generator.worker import Worker
from server.config.show import load_show
from server.core.clock import VirtualClock
from server.performance.performer import REGENERATION_PAUSE
from server.providers.base import Slot
from server.providers.latency import UNKNOWN_LATENCY, Latencies
from server.providers.live import LiveEngine, LiveProvider
from server.providers.timing import TO_THE_WALL, LiveDates, due_times
from tests.cache.samples import images_of, meta_of
from tests.helpers.engines import drawing, live, scripted
from tests.helpers.house import at_once, house
from tests.helpers.shows import LOOP, Rhythm, cue, prompt, write_show

LEAD = 0.5
CUES = [
    cue(0, "start"),
    prompt(2, "a lamp", id="lamp", enter={"regen": True}),
    cue(120, "end"),
]
RECIPE = Recipe.model_validate(
    {
        "kind": "text-to-image",
        "model": "m",
        "prompt": "p",
        "steps": 3,
        "width": 64,
        "height": 64,
    }
)


@dataclass
class UnsteadyEngine:
    """An engine whose pictures come late, now more and now less, by a line and a busy machine.

    It measures itself what it took. What it will do in a run follows from the recipe's seed.
    """

    clock: VirtualClock
    name: str = "unsteady 1"
    timing: Timing = "measured"
    measures: bool = True
    made: list[tuple[float, list[float]]] = field(default_factory=list)

    @asynccontextmanager
    async def render(self, recipe: Recipe) -> AsyncIterator[AsyncIterator[StepImage]]:
        """Draw, on the virtual clock."""
        async with aclosing(self._images(recipe)) as images:
            yield images

    async def _images(self, recipe: Recipe) -> AsyncGenerator[StepImage, None]:
        dice = Random(recipe.seed)
        plain = drawing(str(recipe.seed), previews=6)
        latency = dice.uniform(0.02, 0.05)
        durations = [dice.uniform(0.2, 0.3) for _ in plain]
        self.made.append((latency, durations))
        done = self.clock.now() + latency
        for image, duration in zip(plain, durations, strict=True):
            done += duration
            await self.clock.sleep_until(done + dice.uniform(0.0, 0.3))  # decoding, the line
            mine = self.measures and image.step == 1
            yield replace(image, duration=duration, latency=latency if mine else None)


async def recorded_by(
    engine: Engine, clock: VirtualClock, action: Action, sets: int
) -> dict[str, bytes]:
    """What the recorder makes of an engine on a virtual clock."""
    store = MemoryStore()
    for number in range(sets):
        task = Recorder(engine, store).record(action, number)
        running = asyncio.ensure_future(task)
        while not running.done():
            await clock.advance(0.1)
            await asyncio.sleep(0.001)
        await running
    return {entry.key: await store.get(entry.key) async for entry in store.list()}


# ---------------------------------------------------------------- alike on the wall


async def played(
    tmp_path: Path, engine: UnsteadyEngine, mode: str, **how: Any
) -> list[list[float]]:
    toml = f'{LOOP}[playback]\nmode = "{mode}"\nlead = {LEAD}\n'
    engines = [LiveEngine("gpu", engine, local=False)]
    rhythm = Rhythm(sets=0)
    async with house(
        tmp_path, CUES, toml=toml, clock=engine.clock, engines=engines, rhythm=rhythm, **how
    ) as opened:
        await opened.play_to(40)
        rows = await opened.rows()
        assert {row["provider"] for row in rows} == {mode}
        found = []
        for row in rows:
            frames = opened.frames_of(row["run"])
            found.append([frame.message["present_at"] - row["started_at"] for frame in frames])
        pairs = itertools.pairwise(rows)
        pauses = [later["started_at"] - earlier["ended_at"] for earlier, later in pairs]
        assert pauses == pytest.approx([REGENERATION_PAUSE] * len(pauses), abs=0.01)
    return found


async def test_a_live_run_is_shown_as_its_engine_measured_it(tmp_path: Path) -> None:
    engine = UnsteadyEngine(VirtualClock())
    for shown, (latency, durations) in zip(
        await played(tmp_path, engine, "live"), engine.made, strict=False
    ):
        begins = LEAD + latency
        expected = [begins + total for total in itertools.accumulate(durations)]
        assert shown == pytest.approx(expected), "whenever its pictures came"


async def test_a_replay_is_shown_as_the_live_run_would_have_been(tmp_path: Path) -> None:
    write_show(tmp_path / "sheet", CUES)
    action = load_show(tmp_path / "sheet", {}, {}).plan({}).actions[0]
    clock = VirtualClock()
    engine = UnsteadyEngine(clock)
    contents = await recorded_by(engine, clock, action, sets=2)
    document = json.loads(contents[meta_key("lamp", 0)])
    assert document["latency"] == pytest.approx(engine.made[0][0], abs=1e-6)
    made = {tuple(round(each, 5) for each in (latency, *spent)) for latency, spent in engine.made}
    for shown in await played(tmp_path, engine, "static", contents=contents):
        first, *steps = [shown[0], *(b - a for a, b in itertools.pairwise(shown))]
        alike = [
            each
            for each in made
            if steps == pytest.approx(each[2:], abs=1e-4)
            and first == pytest.approx(LEAD + each[0] + each[1], abs=1e-4)
        ]
        assert alike, "one of the recorded runs, begun as late as it would be live"


# ---------------------------------------------------------------- dating live pictures


def test_a_picture_is_never_due_before_it_is_there() -> None:
    dates = LiveDates(LEAD, TO_THE_WALL)
    due = dates.due(0.2, begun=10.0, arrived=10.25, now=10.26)
    assert due == pytest.approx(10.7)
    stalled = dates.due(0.2, arrived=12.0, now=12.01)
    assert stalled == pytest.approx(12.01 + TO_THE_WALL)


def test_after_a_stall_the_rhythm_goes_on_and_little_by_little_it_catches_up() -> None:
    dates = LiveDates(LEAD, TO_THE_WALL)
    shown = [dates.due(0.2, begun=0.0, arrived=0.2, now=0.2)]
    now = 0.0
    for number in range(1, 200):
        now = max(now, 0.2 * (number + 1) + (1.0 if number == 5 else 0.0))
        shown.append(dates.due(0.2, arrived=now, now=now))
    gaps = [b - a for a, b in itertools.pairwise(shown)]
    assert max(gaps) == pytest.approx(0.2 + 1.0 - LEAD + TO_THE_WALL)
    after = gaps[5:]
    assert all(0.19 < gap < 0.2 + 1e-9 for gap in after), "no jump back"
    assert shown[-1] == pytest.approx(LEAD + 0.2 * 200), "on time again"


def test_an_engine_that_speaks_of_more_time_than_passes_is_not_waited_for() -> None:
    dates = LiveDates(LEAD, TO_THE_WALL)
    shown = [dates.due(2.0, arrived=0.1 * n, now=0.1 * n) for n in range(1, 20)]
    assert shown == sorted(shown)
    assert shown[-1] <= 1.9 + LEAD + 3.0


async def test_a_preview_left_out_leaves_its_time(tmp_path: Path) -> None:
    clock = VirtualClock(1000.0)
    images = drawing("lamp", previews=3)
    images[1] = replace(images[1], image=b"no picture")
    write_show(tmp_path, CUES)
    action = load_show(tmp_path, {}, {}).plan({}).actions[0]
    provider = LiveProvider(live(scripted(clock, images)), clock, lead=LEAD, offload=at_once)
    found: list[float] = []

    async def run() -> None:
        async with provider.open(action, Slot(clock.now())) as take:
            async for frame in take.frames:
                found.append(frame.due - 1000)  # noqa: PERF401 - as they come

    task = asyncio.ensure_future(run())
    await clock.advance(10)
    await task
    assert found == pytest.approx([1.0, 2.0, 2.5])


# ---------------------------------------------------------------- what preceded step 1


def test_a_squeezed_run_has_its_beginning_squeezed_too() -> None:
    due, squeeze = due_times([1.0, 1.0], Slot(10.0, 11.5), "squeeze", ahead=1.0)
    assert squeeze == pytest.approx(0.5)
    assert due == pytest.approx((11.0, 11.5))
    assert due_times([1.0, 1.0], Slot(10.0, 11.5), "recorded", ahead=1.0)[0] == (12.0, 13.0)


def test_a_set_that_tells_nothing_begins_as_its_engine_does() -> None:
    known = Latencies()
    low, high = UNKNOWN_LATENCY
    assert low <= known.of_set("gpu 1", None, Random(1)) <= high
    known.learn_run("worker at http://gpu:9000", 0.4)
    assert known.of_set("gpu 1", None, Random(1)) == 0.4, "what draws live here, if nothing better"
    known.learn_set("lamp", 0, "gpu 2", 0.3)
    assert known.of_set("gpu 1", None, Random(1)) == 0.3, "another version of it"
    known.learn_set("lamp", 1, "gpu 1", 0.1)
    known.learn_run("gpu 1", 0.12)
    assert {known.of_set("gpu 1", None, Random(seed)) for seed in range(20)} == {0.1, 0.12}
    assert known.of_set("gpu 1", 0.11, Random(1)) == 0.11


def test_a_set_drawn_by_an_engine_that_was_loading_begins_as_the_others() -> None:
    known = Latencies()
    for number, seconds in enumerate((0.1, 0.11, 0.12, 4.8)):
        known.learn_set("lamp", number, "gpu 1", seconds)
    assert known.of_set("gpu 1", 4.8, Random(1)) in {0.1, 0.11, 0.12}
    assert known.of_set("gpu 1", 0.12, Random(1)) == 0.12


def first(**facts: Any) -> StepImage:
    return replace(drawing("lamp")[0], **facts)


@pytest.mark.parametrize(
    ("image", "elapsed", "expected"),
    [
        (first(latency=0.03), 9.0, 0.03),
        (first(duration=0.5), 0.62, 0.12),
        (first(duration=0.5, waited=3.0), 3.6, 0.1),
        (first(duration=0.5), 0.001, None),
        (first(duration=0.5), 0.5 + MAX_LATENCY + 1, None),
    ],
)
def test_what_preceded_the_first_step(
    image: StepImage, elapsed: float, expected: float | None
) -> None:
    assert latency_of(image, elapsed) == (expected if expected is None else pytest.approx(expected))


def test_a_meta_keeps_it_and_does_without() -> None:
    images = images_of(3)
    told = meta_of(images, latency=0.123)
    assert parse_meta(dump_meta(told), "meta.json").latency == 0.123
    document = json.loads(dump_meta(meta_of(images)))
    assert "latency" not in document
    for nonsense in (-1, "soon", True, None, 1e9):
        odd = json.dumps({**document, "latency": nonsense}).encode()
        assert parse_meta(odd, "meta.json").latency is None
    with pytest.raises(FormatError, match="latency"):
        dump_meta(meta_of(images, latency=MAX_LATENCY + 1))


async def test_a_worker_says_what_preceded_the_first_step() -> None:
    images = drawing("lamp")
    images[0] = replace(images[0], latency=0.02, waited=0.3)
    worker = Worker(ScriptedEngine(images), probe=RECIPE)
    transport = httpx.ASGITransport(app=worker.app())
    async with (
        httpx.AsyncClient(transport=transport) as client,
        RemoteEngine(client, "http://127.0.0.1").render(RECIPE) as came,
    ):
        found = [image async for image in came]
    assert found[0].latency == 0.02
    assert found[0].waited == pytest.approx(0.3, abs=0.05)
    assert [image.latency for image in found[1:]] == [None] * (len(found) - 1)


async def test_what_was_drawn_live_is_kept_with_it(tmp_path: Path) -> None:
    write_show(tmp_path, CUES)
    action = load_show(tmp_path, {}, {}).plan({}).actions[0]
    store = MemoryStore()
    images = [replace(image, duration=0.01) for image in drawing("lamp")]
    async with Harvester(store, lambda: [action]) as harvester:
        engine = harvester.tee(ScriptedEngine(images, pause=0.0, first=0.1))
        async with engine.render(action.recipe.with_seed(5)) as came:
            passed = [image async for image in came]
        await harvester.settled()
    (run,) = (await quarantine.waiting(store)).runs
    assert run.meta.latency is not None
    assert 0.08 < run.meta.latency < MAX_LATENCY
    assert passed[0].latency is None, "the show hears what the engine said"


def test_an_engine_that_only_plays_at_drawing_says_it_too() -> None:
    assert SketchEngine().timing == "simulated"
    assert 0.02 < nominal_latency(RECIPE.with_seed(1)) < 0.2
    assert nominal_latency(RECIPE.with_seed(1)) != nominal_latency(RECIPE.with_seed(2))


async def test_a_set_that_takes_over_does_not_begin_anew(tmp_path: Path) -> None:
    clock = VirtualClock()
    toml = f'{LOOP}[playback]\nmode = "live"\nlead = {LEAD}\n'
    toml += "[playback.first_frame_timeout]\nlive = 3\n"
    silent = scripted(clock, [], hangs=True)
    rhythm = Rhythm(previews=3, step=0.5, latency=0.25)
    async with house(
        tmp_path, CUES, toml=toml, clock=clock, engines=[live(silent)], rhythm=rhythm
    ) as opened:
        await opened.play_to(10)
        (run,) = opened.of("run")
        due = [opened.due(frame) for frame in opened.frames_of(run.message["run"])]
        assert due[0] == pytest.approx(2 + 3 + 0.5, abs=0.01), "the wall has waited long enough"


async def test_joined_late_an_engine_is_asked_now(tmp_path: Path) -> None:
    engine = UnsteadyEngine(VirtualClock())
    toml = f'[schedule]\nkind = "manual"\n[playback]\nmode = "live"\nlead = {LEAD}\n'
    engines = [LiveEngine("gpu", engine, local=False)]
    async with house(
        tmp_path, CUES, toml=toml, clock=engine.clock, engines=engines, rhythm=Rhythm(sets=0)
    ) as opened:
        opened.playback.seek(60.0)
        await opened.play_to(5)
        latency, durations = engine.made[0]
        (run,) = opened.of("run")
        shown = [opened.due(frame) for frame in opened.frames_of(run.message["run"])]
        assert shown[0] == pytest.approx(LEAD + latency + durations[0])
