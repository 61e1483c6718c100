"""A rehearsal on real screens: everything of the show but its time, its traces and its engines."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from cache.library import Library
from cache.prefetch.availability import EverythingAvailable
from cache.stores.memory import MemoryStore
from server.app import create_app
from server.asrun.log import AsRun
from server.cli.main import app
from server.cli.rehearse import rehearse_live
from server.config.show import Show
from server.core.clock import ScaledClock, SystemClock, VirtualClock
from server.core.metrics import Metrics
from server.core.random_streams import RandomStreams
from server.diagnostics.report import RehearsalOptions
from server.network.serving import RefusedToServe
from server.performance.playback import LOOK_IN
from server.performance.state_file import Panic, PersistedState
from server.providers.shuffle import Bag, ShuffleBag
from server.rehearsal.live_rehearsal import LINGERS, LOBBY, NOT_SPENT, LiveRehearsal
from server.rehearsal.rehearsal import seed_of
from server.rehearsal.screening_window import in_a_row
from server.runtime import Dependencies, Runtime, build_runtime
from server.stage.stage import StageFrame
from server.supply.sources import Supply
from tests.helpers.house import at_once
from tests.helpers.rehearsals import rehearsal_process
from tests.helpers.screens import ScreenClient, command, screen, web
from tests.helpers.servers import Address, serving, serving_app
from tests.helpers.shows import (
    LOOP,
    MANUAL,
    Rhythm,
    TinyShow,
    cue,
    line,
    make_show,
    prompt,
    store_contents,
    write_show,
)

CUES = [
    cue(0, "start"),
    line(1, "somebody paints the sea", id="sea"),
    prompt(9, "a lamp", id="lamp", delay={"base": 80, "variance": 40}),
    cue(16, "set-fade-status", fade=True),
    cue(20, "end"),
]
RHYTHM = Rhythm(previews=4, step=0.8)
SEED = "[playback]\nseed = 5\n"
AT_TEN = '[schedule]\nkind = "screenings"\nscreenings = ["10:00"]\n'


def written(tmp_path: Path, toml: str = LOOP, **more: Any) -> TinyShow:
    return make_show(tmp_path / "show", CUES, rhythm=RHYTHM, toml=toml + SEED, **more)


def options(show: Show, **asked: Any) -> RehearsalOptions:
    return RehearsalOptions(seed=seed_of(show, None), **asked)


@asynccontextmanager
async def watched(
    tiny: TinyShow, speed: float, outside: VirtualClock | None = None, **more: Any
) -> AsyncIterator[tuple[Address, LiveRehearsal]]:
    show = tiny.load()
    rehearsal = LiveRehearsal(show, outside or SystemClock(), options(show, **more), speed=speed)
    async with serving_app(create_app(rehearsal)) as address:
        yield address, rehearsal


async def state_of(address: Address) -> Any:
    async with web(address) as client:
        return (await client.get("/api/state")).json()


async def rows_of(address: Address) -> list[Any]:
    async with web(address) as client:
        rows = (await client.get("/api/asrun?format=json")).json()
    return sorted(rows, key=lambda row: float(row["started_at"]))


def closed(me: ScreenClient) -> bool:
    return me.of("screening")[-1:] != [] and me.of("screening")[-1].message["status"] == "closed"


def on_stage(me: ScreenClient) -> bool:
    """Whether it was told of a run, or found one."""
    welcomes = [each.message["snapshot"] for each in me.of("welcome")]
    return bool(me.of("run")) or any(snapshot["run"] for snapshot in welcomes)


def everything(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Every file, what is in it, and when it was written."""
    return {
        str(path.relative_to(folder)): (path.stat().st_mtime_ns, path.read_bytes())
        for path in folder.rglob("*")
        if path.is_file()
    }


# ---------------------------------------------------------------- another time


async def test_frames_are_with_the_screens_before_their_time(tmp_path: Path) -> None:
    tiny, outside = written(tmp_path), VirtualClock(1_800_000_000.0)
    opened = outside.now()
    async with (
        watched(tiny, 8, outside) as (address, _),
        screen(address) as wall,
        screen(address, "fetches", "url") as other,
    ):
        assert wall.welcome["server_time"] == opened
        await outside.advance(1 / 8)  # the first line is spoken; and no more time passes
        await wall.until(lambda me: len(me.frames) == RHYTHM.frames, why="not the whole run")
        due = [frame.message["present_at"] for frame in wall.frames]
        assert due == pytest.approx(
            [opened + (1 + RHYTHM.due(step)) / 8 for step in range(1, RHYTHM.frames + 1)], abs=1e-5
        )
        assert min(due) > outside.now()
        await other.until(lambda me: len(me.frames) == RHYTHM.frames, why="not the whole run")
        assert [frame.message["present_at"] for frame in other.frames] == due

        # What it paints is reported by the screens' own time, and written down in the show's.
        frame = wall.frames[1].message
        await outside.advance(0.25)
        report = {"run": frame["run"], "step": frame["step"], "at": frame["present_at"]}
        await wall.send({"type": "presented", **report})
        await wall.send({"type": "sync", "t0": 1.0})
        await wall.until(lambda me: me.of("sync")[-1].message["t0"] == 1.0)
        assert wall.of("sync")[-1].message["t1"] == outside.now()
        row = (await rows_of(address))[0]
        assert row["presented"]["wall"]["2"] == pytest.approx(row["planned"]["2"], abs=1e-5)
        assert row["activation"] == "rehearsal"


async def test_the_state_says_how_fast_it_is(tmp_path: Path) -> None:
    tiny, outside = written(tmp_path, AT_TEN), VirtualClock(1_800_000_000.0)
    opened = outside.now()
    async with watched(tiny, 8, outside) as (address, _), screen(address):
        await outside.advance(1.0)  # whatever the time of the day
        state = await state_of(address)
        assert (state["activation"], state["speed"]) == ("rehearsal", 8)
        assert state["server_time"] == outside.now()
        assert state["screening"]["started_at"] == opened
        assert state["position"] == pytest.approx(8.0)
        assert state["standby"]["due"] == pytest.approx(opened + 9 / 8, abs=1e-5)
        assert state["screens"][0]["joined_at"] == pytest.approx(opened, abs=1e-5)


async def test_the_run_of_a_whole_screening_is_the_shows_only_faster(tmp_path: Path) -> None:
    tiny = written(tmp_path)
    async with watched(tiny, 8) as (address, _), screen(address) as wall:
        info = wall.welcome["show"]
        assert info["rehearsal"] == {"speed": 8}
        assert "Rehearsal" in info["title"]  # for screens that know of no rehearsals
        assert info["duration"] == 20 / 8
        assert wall.welcome["display"]["crossfade"] == 3 / 8
        await wall.until(closed, why="it has not ended")
        started = wall.welcome["snapshot"]["screening"]["started_at"]
        assert [run.message["cue"] for run in wall.of("run")] == ["sea", "lamp"]
        for run, at in zip(wall.runs, (1, 9), strict=True):
            due = [frame.message["present_at"] for frame in wall.frames_of(run)]
            assert due[-1] == pytest.approx(started + (at + RHYTHM.seconds) / 8, abs=1e-5)
            steps = [after - before for before, after in itertools.pairwise(due)]
            assert all(step >= RHYTHM.step / 8 - 1e-5 for step in steps)
        (typing,) = wall.of("typing")
        assert typing.message["at"] == pytest.approx(started + 9 / 8, abs=1e-5)
        assert typing.message["delay"] == {"base": 0.01, "variance": 0.005}
        fades = [fade.message for fade in wall.of("fade") if fade.message["black"]]
        assert [fade["seconds"] for fade in fades] == [5 / 8]


async def test_a_part_is_played_so_many_times_and_then_it_is_over(tmp_path: Path) -> None:
    tiny, outside = written(tmp_path, MANUAL), VirtualClock(1_800_000_000.0)
    opened = outside.now()
    async with (
        watched(tiny, 10, outside, from_=9.0, to=12.0, screenings=2) as (address, rehearsal),
        screen(address) as wall,
    ):
        for opens in (0.0, 0.3 + LOBBY):
            await outside.advance_to(opened + opens + 0.001)
            # What is due where it is entered begins there, and is not joined in its middle.
            await wall.until(on_stage, why="no run")
            assert (await state_of(address))["position"] == pytest.approx(9.0, abs=0.02)
            await outside.advance(0.3)
            assert (await state_of(address))["position"] is None
            assert not rehearsal.over()
            wall.heard.clear()
        assert (await state_of(address))["screening"]["status"] == "closed"
        await outside.advance(LINGERS)
        assert rehearsal.over()
        rows = await rows_of(address)
        assert [row["action_id"] for row in rows] == ["lamp", "lamp"]
        assert [row["position"] for row in rows] == [9.0, 9.0]


async def test_a_slow_disk_is_no_slower_for_a_show_that_flies(tmp_path: Path) -> None:
    """A file takes 0.4 s: at this speed 24 of the show, in which it would have been given up."""
    outside = VirtualClock(1_800_000_000.0)
    cues = [cue(0, "start"), line(1, "the sea", id="sea"), cue(600, "end")]
    async with in_haste(tmp_path, cues, Rhythm(previews=3, step=20.0), outside, 0.4) as haste:
        sent: list[int] = []

        async def look() -> None:
            with haste.runtime.stage.join("wall", "binary") as wall:
                while True:
                    if isinstance(item := await wall.mailbox.take(), StageFrame):
                        sent.append(item.header.step)

        looking = asyncio.create_task(look())
        await outside.advance(9.9)
        looking.cancel()
        await asyncio.gather(looking, return_exceptions=True)
        (row,) = await haste.log.rows()
    assert (row["outcome"], row["provider"], row["failovers"]) == ("completed", "static", [])
    # The first was over when it could have been read; the others are late, and are shown.
    assert sent == [2, 3, 4]


async def test_a_moment_lost_is_no_time_lost(tmp_path: Path) -> None:
    """Half a second of a busy machine is half a minute at this speed, and passes nothing over."""
    outside = VirtualClock(1_800_000_000.0)
    cues = [cue(0, "start"), line(1, "the sea", id="sea"), prompt(20, "a lamp", id="lamp")]
    rhythm = Rhythm(previews=2, step=2.0)
    async with in_haste(tmp_path, [*cues, cue(600, "end")], rhythm, outside) as haste:
        for _ in range(2):
            await outside.advance(0.1)
            outside.jump(0.5)
            await outside.advance(9.4)
        rows = (await haste.log.rows())[::-1]
    assert [row["action_id"] for row in rows] == ["sea", "lamp", "sea", "lamp"]
    assert {row["outcome"] for row in rows} == {"completed"}
    assert {row["set_id"] for row in rows if row["action_id"] == "lamp"} == {0, 1}
    assert not [row for row in rows if "set here" in row["why"] or "joined" in row["why"]]


@dataclass(frozen=True)
class Haste:
    runtime: Runtime
    log: AsRun


@asynccontextmanager
async def in_haste(
    folder: Path, cues: list[Any], rhythm: Rhythm, outside: VirtualClock, latency: float = 0.0
) -> AsyncIterator[Haste]:
    """Those who play, at sixty times the speed, from a store of so many seconds a file."""
    clock = ScaledClock(outside, 60)
    show = TinyShow(write_show(folder, cues, SEED + 'mode = "live"\n'), rhythm, {}).load()
    plan = show.plan({})
    store = MemoryStore(store_contents(plan.actions, rhythm), sleep=outside.sleep)
    library = Library(store)
    await library.refresh()
    store.latency = latency
    streams, log = RandomStreams(1), AsRun()
    runtime = build_runtime(
        show,
        plan,
        Supply(store, library, EverythingAvailable()),
        Dependencies(
            clock=clock,
            schedule=in_a_row(show, clock.wall(), 2, gap=0.0),
            streams=streams,
            bag=ShuffleBag(streams),
            asrun=log,
            metrics=Metrics(),
            offload=at_once,
            look_in=clock.stretch(LOOK_IN),
            activation="rehearsal",
            time_scale=clock.time_scale,
        ),
    )
    playing = asyncio.create_task(runtime.playback.run())
    try:
        yield Haste(runtime, log)
    finally:
        playing.cancel()
        await asyncio.gather(playing, return_exceptions=True)


async def test_behind_a_line_its_copies_come_in_time(tmp_path: Path) -> None:
    tiny = written(tmp_path, LOOP + '[cache]\ncopies = "always"\n')
    async with watched(tiny, 20, from_=5.0) as (address, _), screen(address) as wall:
        await wall.until(closed, why="it has not ended")
        rows = await rows_of(address)
        supply = (await state_of(address))["coverage"]["supply"]
    lamp = rows[-1]
    assert (lamp["action_id"], lamp["provider"], lamp["outcome"]) == ("lamp", "static", "completed")
    assert supply["copies"]["fetched_bytes"] > 0
    assert {path.name for path in tiny.state.iterdir()} == {"copies"}


# ---------------------------------------------------------------- no trace


async def test_it_leaves_the_show_as_it_was(tmp_path: Path) -> None:
    tiny = written(tmp_path)
    tiny.state.mkdir()
    bags = {"sea": Bag(coming=(1,), played=(0,), round=1)}
    memory = PersistedState(seed=5, bags=bags, loop_anchor=7.0, panic=Panic(by="somebody", at=7.0))
    (tiny.state / "state.json").write_text(memory.model_dump_json())
    (tiny.state / "asrun.sqlite").write_bytes(b"what was really played")
    before = everything(tiny.folder)
    async with watched(tiny, 20) as (address, _), screen(address) as wall:
        state = await state_of(address)
        assert state["panic"] is None  # it was the show's
        await command(address, "mode.force", mode="hybrid", until="released")
        await wall.until(closed, why="it has not ended")
        rows = await rows_of(address)
        await command(address, "panic")
    assert (rows[0]["action_id"], rows[0]["set_id"]) == ("sea", 1)  # the show's own bag goes on
    assert {row["activation"] for row in rows} == {"rehearsal"}
    assert everything(tiny.folder) == before
    assert not list(tiny.folder.glob("**/*.unreadable"))


async def test_a_show_that_was_never_played_is_not_begun_by_it(tmp_path: Path) -> None:
    tiny = written(tmp_path)
    before = everything(tiny.folder)
    async with watched(tiny, 60) as (address, _), screen(address) as wall:
        await wall.until(closed, why="it has not ended")
    assert everything(tiny.folder) == before
    assert not tiny.state.exists()


@asynccontextmanager
async def engine_that_counts() -> AsyncIterator[tuple[str, list[bytes]]]:
    """The address of something that draws nothing, and who asked it to."""
    calls: list[bytes] = []

    async def called(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        calls.append(await reader.readline())
        writer.close()

    listener = await asyncio.start_server(called, "127.0.0.1", 0)
    async with listener:
        yield f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}", calls


def drawn_live(tmp_path: Path, address: str, more: str = "") -> TinyShow:
    engine = f'[[engines]]\nname = "gpu"\nkind = "worker"\nurl = "{address}"\n'
    toml = LOOP + SEED + 'mode = "live"\nharvest = true\n' + engine + more
    return make_show(tmp_path / "show", CUES, rhythm=RHYTHM, toml=toml)


async def test_engines_are_left_alone(tmp_path: Path) -> None:
    local = '[[engines]]\nname = "here"\nkind = "diffusers"\n'
    async with engine_that_counts() as (url, calls):
        tiny = drawn_live(tmp_path, url, local)
        async with watched(tiny, 20) as (address, _), screen(address) as wall:
            state = await state_of(address)
            assert {each["reason"] for each in state["engines"]} == {NOT_SPENT}
            assert [each["name"] for each in state["engines"]] == ["gpu", "here"]
            assert {each["process"] for each in state["engines"]} == {None}
            await wall.until(closed, why="it has not ended")
            rows = await rows_of(address)
    assert calls == []
    assert [row["provider"] for row in rows] == ["static", "static"]
    assert all(NOT_SPENT in row["why"] for row in rows)


async def test_a_desk_that_is_wired_to_the_show_moves_no_rehearsal(tmp_path: Path) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    tiny = written(tmp_path, LOOP + f"[server]\nosc_port = {port}\n")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as ours:
        async with watched(tiny, 20):
            ours.bind(("127.0.0.1", port))


# ---------------------------------------------------------------- where, and how long


async def test_a_show_says_nothing_of_rehearsals(tmp_path: Path) -> None:
    tiny = written(tmp_path, MANUAL)
    async with serving(tiny.load()) as address, screen(address) as wall:
        assert "rehears" not in json.dumps(wall.welcome).lower()
        state = await state_of(address)
        assert (state["activation"], state["speed"]) == ("show", 1)


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        (["--speed", "61"], "less than or equal to 60"),
        (["--speed", "0.1"], "greater than or equal to 0.25"),
        (["--speed", "nan"], "less than or equal to 60"),
        (["--speed", "2", "--from", "00:00:20"], "--from: the show is over after 20 s"),
        (["--speed", "2", "--from", "00:00:05", "--to", "00:00:05"], "--to: expected a time after"),
    ],
)
def test_what_cannot_be_watched_is_refused(tmp_path: Path, asked: list[str], says: str) -> None:
    refused = CliRunner().invoke(app, ["rehearse", "--show", str(written(tmp_path).folder), *asked])
    assert refused.exit_code == 2
    assert says in refused.stderr


async def test_where_the_show_runs_it_names_another_port(tmp_path: Path) -> None:
    tiny = written(tmp_path, MANUAL)
    async with serving(tiny.load()) as address:
        show = tiny.load(server={"port": address.port})
        with pytest.raises(RefusedToServe, match=r"a show is running there.*--port") as refused:
            await asyncio.to_thread(rehearse_live, show, options(show), speed=4)
    assert refused.value.status == 1


def test_where_others_may_come_it_wants_a_token_as_the_show_does(tmp_path: Path) -> None:
    show = written(tmp_path).load(server={"host": "0.0.0.0"})
    with pytest.raises(RefusedToServe, match="operator token"):
        rehearse_live(show, options(show), speed=4)


def test_it_ends_by_itself(tmp_path: Path) -> None:
    tiny = written(tmp_path, AT_TEN)
    with rehearsal_process(tiny.folder, speed=60.0, screenings=1) as rehearsal:
        assert rehearsal.wait() == 0
    log = [json.loads(text) for text in (tmp_path / "rehearsal.log").read_text().splitlines()]
    events = [each["event"] for each in log]
    assert events.count("screening_started") == 1
    assert events.index("screening_over") > events.index("screening_started")
    assert not {each["level"] for each in log} & {"warning", "error"}, os.linesep.join(
        map(str, log)
    )
