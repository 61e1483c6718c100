from __future__ import annotations

import asyncio
import gc
import json
import weakref
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from server.core.clock import VirtualClock, settle
from server.stage import messages as wire
from server.stage import stage as stage_module
from server.stage.stage import (
    MAX_WAITING,
    Performance,
    ScreenMailbox,
    ScreenTooSlow,
    Stage,
    StageFrame,
)
from tests.helpers.house import as_message, waiting

STEPS = 5


def make_stage(clock: VirtualClock, **options: Any) -> Stage:
    return Stage(
        clock,
        wire.ShowInfo(title="T", timezone="UTC", duration=60.0),
        wire.Display(crossfade=3, fade=5, captions=True, progress=True, badge=False),
        **options,
    )


@pytest.fixture
def clock() -> VirtualClock:
    return VirtualClock(1000.0)


@pytest.fixture
def stage(clock: VirtualClock) -> Stage:
    return make_stage(clock)


def run(name: str = "one", steps: int = STEPS) -> wire.RunStarted:
    return wire.RunStarted(run=name, cue=f"cue-{name}", prompt="a lamp", steps=steps)


def frame(name: str, step: int, due: float, steps: int = STEPS) -> StageFrame:
    header = wire.FrameHeader(
        run=name,
        cue=f"cue-{name}",
        step=step,
        steps=steps,
        final=step == steps,
        present_at=due,
        media_type="image/jpeg",
    )
    return StageFrame.of(header, f"{name}/{step}".encode())


def perform(stage: Stage, name: str, start: float, steps: int = STEPS) -> Performance:
    """A whole run, a second a step, as a static provider hands it over: all at once."""
    performance = stage.begin(run(name, steps))
    for step in range(1, steps + 1):
        performance.add(frame(name, step, start + step, steps), stage.clock.now())
    return performance


def brief(items: list[str | StageFrame]) -> list[str]:
    """``run one``, ``frame one 2``, ``run_end one cut`` and so on."""
    told = []
    for message in map(as_message, items):
        parts = [message["type"], message.get("run"), message.get("step"), message.get("outcome")]
        told.append(" ".join(str(part) for part in parts if part is not None))
    return told


async def test_a_screen_that_keeps_up_is_told_everything_in_order(
    stage: Stage, clock: VirtualClock
) -> None:
    with stage.join("a", "binary") as screen:
        performance = perform(stage, "one", clock.now())
        performance.end("completed")
        told = brief(await waiting(screen.mailbox))
        assert told == [
            "welcome",
            "run one",
            *(f"frame one {step}" for step in range(1, STEPS + 1)),
            "run_end one completed",
        ]
        assert screen.mailbox.skipped == 0


async def test_a_frame_is_taken_as_soon_as_it_is_there(stage: Stage, clock: VirtualClock) -> None:
    with stage.join("a", "binary") as screen:
        performance = stage.begin(run())
        await waiting(screen.mailbox)
        taking = asyncio.ensure_future(screen.mailbox.take())
        await settle()
        assert not taking.done()
        performance.add(frame("one", 1, clock.now() + 1), clock.now())
        await settle()
        assert brief([taking.result()]) == ["frame one 1"]


async def test_who_is_late_skips_what_is_past_and_never_the_final(
    stage: Stage, clock: VirtualClock
) -> None:
    with stage.join("a", "binary") as screen:
        await waiting(screen.mailbox)
        performance = perform(stage, "one", clock.now())
        clock.jump(3.5)
        told = await waiting(screen.mailbox)
        assert brief(told) == ["run one", "frame one 3", "frame one 4", "frame one 5"]
        assert screen.mailbox.skipped == 2
        clock.jump(100)
        performance.end("completed")
        assert brief(await waiting(screen.mailbox)) == ["run_end one completed"]


async def test_who_is_very_late_gets_the_final_alone(stage: Stage, clock: VirtualClock) -> None:
    with stage.join("a", "binary") as screen:
        await waiting(screen.mailbox)
        perform(stage, "one", clock.now()).end("completed")
        clock.jump(1000)
        told = brief(await waiting(screen.mailbox))
        assert told == ["run one", "frame one 5", "run_end one completed"]
        assert screen.mailbox.skipped == STEPS - 1


async def test_one_slow_screen_changes_nothing_for_another(
    stage: Stage, clock: VirtualClock
) -> None:
    with stage.join("slow", "binary") as slow, stage.join("good", "binary") as good:
        told: list[str] = []
        for number in range(20):
            performance = perform(stage, f"r{number}", clock.now())
            told += brief(await waiting(good.mailbox))
            clock.jump(STEPS + 1.0)
            performance.end("completed")
            told += brief(await waiting(good.mailbox))
        assert [line for line in told if line.startswith("frame")] == [
            f"frame r{number} {step}" for number in range(20) for step in range(1, STEPS + 1)
        ]
        late = brief(await waiting(slow.mailbox))
        assert [line for line in late if line.startswith("frame")] == [f"frame r19 {STEPS}"]
        assert late[-1] == "run_end r19 completed"


async def test_a_new_run_voids_the_one_before(stage: Stage, clock: VirtualClock) -> None:
    with stage.join("a", "binary") as screen:
        old = perform(stage, "one", clock.now())
        first = await screen.mailbox.take()
        assert as_message(first)["type"] == "welcome"
        assert brief([await screen.mailbox.take(), await screen.mailbox.take()]) == [
            "run one",
            "frame one 1",
        ]
        new = stage.begin(run("two"))
        old.add(frame("one", 6, clock.now()), clock.now())
        old.end("completed")
        new.add(frame("two", 1, clock.now() + 1), clock.now())
        told = brief(await waiting(screen.mailbox))
        assert told == ["run_end one cut", "run two", "frame two 1"]
        assert old.outcome == "cut"


async def test_cut_is_told_once(stage: Stage, clock: VirtualClock) -> None:
    with stage.join("a", "binary") as screen:
        performance = perform(stage, "one", clock.now())
        await waiting(screen.mailbox)
        stage.cut()
        stage.cut()
        performance.end("cut")
        assert brief(await waiting(screen.mailbox)) == ["run_end one cut"]
        stage.begin(run("two"))
        assert brief(await waiting(screen.mailbox)) == ["run two"]


async def test_let_go_a_screen_has_all_frames_and_hears_of_no_end(
    stage: Stage, clock: VirtualClock
) -> None:
    with stage.join("wall", "binary") as screen:
        await waiting(screen.mailbox)
        perform(stage, "one", clock.now())
        stage.let_go()
        stage.cut()
        stage.hold()
        perform(stage, "two", clock.now())
        assert brief(await waiting(screen.mailbox)) == [
            "run one",
            *(f"frame one {step}" for step in range(1, STEPS + 1)),
        ]


async def test_a_run_that_is_over_is_not_cut_as_well(stage: Stage, clock: VirtualClock) -> None:
    with stage.join("a", "binary") as screen:
        perform(stage, "one", clock.now()).end("completed")
        assert brief(await waiting(screen.mailbox))[-1] == "run_end one completed"
        stage.cut()
        assert await waiting(screen.mailbox) == []


async def test_held_is_told_after_the_frames_there_were(stage: Stage, clock: VirtualClock) -> None:
    with stage.join("a", "binary") as screen:
        performance = stage.begin(run())
        performance.add(frame("one", 1, clock.now() + 1), clock.now())
        performance.end("held")
        told = brief(await waiting(screen.mailbox))
        assert told[1:] == ["run one", "frame one 1", "run_end one held"]


async def test_who_never_reads_is_sent_away(stage: Stage) -> None:
    with stage.join("a", "binary") as screen, stage.join("b", "binary") as other:
        for number in range(MAX_WAITING - 1):
            stage.tell(wire.Scene(route=f"/{number}"))
        assert await other.mailbox.take()  # one that reads has room again
        stage.hold()
        stage.hold()
        with pytest.raises(ScreenTooSlow):
            await screen.mailbox.take()
        with pytest.raises(ScreenTooSlow):
            await screen.mailbox.take()
    assert stage.screens == ()


async def test_waiting_messages_are_bounded(stage: Stage) -> None:
    with stage.join("a", "binary") as screen:
        for _ in range(10 * MAX_WAITING):
            stage.hold()
        assert len(screen.mailbox._messages) <= MAX_WAITING


async def test_who_waits_hears_of_an_overflow(stage: Stage) -> None:
    with stage.join("a", "binary") as screen:
        for _ in range(MAX_WAITING + 5):
            screen.mailbox.post(wire.Hold())
        taking = asyncio.ensure_future(screen.mailbox.take())
        await asyncio.gather(taking, return_exceptions=True)
        assert isinstance(taking.exception(), ScreenTooSlow)


# ---------------------------------------------------------------- joining


def snapshot_of(items: list[str | StageFrame]) -> dict[str, Any]:
    message = as_message(items[0])
    assert message["type"] == "welcome"
    snapshot: dict[str, Any] = message["snapshot"]
    return snapshot


async def test_joining_before_anything(stage: Stage, clock: VirtualClock) -> None:
    with stage.join("a", "binary") as screen:
        (welcome,) = await waiting(screen.mailbox)
        assert as_message(welcome)["server_time"] == clock.now()
        snapshot = snapshot_of([welcome])
        assert snapshot.pop("screening")["status"] == "waiting"
        assert set(snapshot.values()) == {None}


async def test_joining_hears_the_last_of_each_kind(stage: Stage, clock: VirtualClock) -> None:
    now = clock.now()
    stage.tell(wire.Screening(status="active", started_at=now))
    stage.tell(wire.Typing(text="old", erase=False, delay=DELAY, at=now, seed=1))
    stage.tell(wire.Scene(route="/old"))
    stage.tell(wire.Scene(route="/new"))
    stage.tell(wire.Slider(from_=1, to=2, seconds=1, at=now))
    stage.tell(wire.Fade(black=True, seconds=5, at=now))
    stage.tell(wire.Fade(black=False, seconds=5, at=now + 1))
    stage.tell(wire.Caption(text="line", at=now, until=now + 4))
    stage.hold()
    snapshot = stage.snapshot()
    assert snapshot.scene == wire.Scene(route="/new")
    assert snapshot.typing is None
    assert snapshot.slider is not None
    assert snapshot.slider.to == 2
    assert snapshot.fade is not None
    assert snapshot.fade.black is False
    assert snapshot.caption is not None
    clock.jump(5)
    assert stage.snapshot().caption is None
    stage.open_screening(clock.now())
    assert stage.snapshot() == wire.Snapshot(
        screening=wire.Screening(status="active", started_at=clock.now())
    )


DELAY = wire.TypingDelay(base=0.1, variance=0)


async def test_joining_before_the_first_frame_is_due_has_the_picture_before(
    stage: Stage, clock: VirtualClock
) -> None:
    perform(stage, "one", clock.now()).end("completed")
    clock.jump(STEPS + 1.0)
    perform(stage, "two", clock.now())
    with stage.join("a", "binary") as screen:
        items = await waiting(screen.mailbox)
        snapshot = snapshot_of(items)
        assert snapshot["run"]["run"] == "two"
        assert snapshot["frame"] is None
        picture = snapshot["picture"]
        assert (picture["run"], picture["step"]) == ("one", STEPS)
        found = stage.frame(picture["run"], picture["step"])
        assert found is not None
        assert bytes(found.image) == b"one/5"
        assert brief(items[1:]) == [f"frame two {step}" for step in range(1, STEPS + 1)]


async def test_joining_in_the_middle_has_the_newest_due_and_what_is_to_come(
    stage: Stage, clock: VirtualClock
) -> None:
    perform(stage, "one", clock.now())
    clock.jump(3.2)
    with stage.join("a", "binary") as screen:
        items = await waiting(screen.mailbox)
        snapshot = snapshot_of(items)
        assert snapshot["run"] == json.loads(run("one").encode())
        assert snapshot["frame"]["step"] == 3
        assert snapshot["frame"]["url"] == "/frames/one/3"
        assert snapshot["picture"] is None
        assert brief(items[1:]) == ["frame one 3", "frame one 4", "frame one 5"]


async def test_joining_after_a_run_has_its_final(stage: Stage, clock: VirtualClock) -> None:
    perform(stage, "one", clock.now()).end("completed")
    clock.jump(100)
    with stage.join("a", "binary") as screen:
        items = await waiting(screen.mailbox)
        assert snapshot_of(items)["frame"]["final"] is True
        assert brief(items[1:]) == ["frame one 5", "run_end one completed"]


async def test_joining_after_a_cut_has_the_picture_that_was_left(
    stage: Stage, clock: VirtualClock
) -> None:
    perform(stage, "one", clock.now())
    clock.jump(2.5)
    stage.cut()
    clock.jump(60)
    with stage.join("a", "binary") as screen:
        items = await waiting(screen.mailbox)
        snapshot = snapshot_of(items)
        assert snapshot["run"] is None
        assert snapshot["frame"] is None
        assert snapshot["picture"]["url"] == "/frames/one/2"
        assert items[1:] == []
        assert stage.frame("one", 2) is not None


async def test_a_run_cut_before_its_first_frame_leaves_the_picture_before_it(
    stage: Stage, clock: VirtualClock
) -> None:
    perform(stage, "one", clock.now()).end("completed")
    clock.jump(10)
    for name in ("two", "three", "four"):
        perform(stage, name, clock.now())
        clock.jump(0.1)
    stage.cut()
    picture = stage.snapshot().picture
    assert picture is not None
    assert (picture.run, picture.step) == ("one", STEPS)
    found = stage.frame("one", STEPS)
    assert found is not None
    assert bytes(found.image) == b"one/5"


async def test_frames_can_be_had_while_their_run_is_or_was_on_stage(
    stage: Stage, clock: VirtualClock
) -> None:
    perform(stage, "one", clock.now())
    assert stage.frame("one", 2) is not None
    assert stage.frame("one", 6) is None
    assert stage.frame("nobody", 1) is None
    perform(stage, "two", clock.now())
    assert stage.frame("one", 2) is not None
    perform(stage, "three", clock.now())
    assert stage.frame("one", 2) is None
    stage.open_screening(clock.now())
    assert stage.frame("three", 1) is None


async def test_of_a_very_long_run_what_is_over_is_let_go(
    stage: Stage, clock: VirtualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = len(frame("one", 1, 0.0, 1000).message)
    monkeypatch.setattr(stage_module, "KEEP_BYTES", 10 * size)
    with stage.join("slow", "binary") as slow, stage.join("good", "binary") as good:
        told: list[str] = []
        performance = stage.begin(run(steps=1000))
        for step in range(1, 1001):
            performance.add(frame("one", step, clock.now() + 1, 1000), clock.now())
            told += brief(await waiting(good.mailbox)) if step % 5 == 0 else []
            clock.jump(1.0)
        performance.end("completed")
        assert len(performance) == 1000
        assert len(performance._frames) <= 20
        assert performance._bytes <= 20 * size
        assert [line for line in told if line.startswith("frame")][-1] == "frame one 1000"
        late = brief(await waiting(slow.mailbox))
        assert late[-2:] == ["frame one 1000", "run_end one completed"]
        with stage.join("joins", "binary") as joins:
            items = await waiting(joins.mailbox)
            assert snapshot_of(items)["frame"]["step"] == 1000


async def test_what_waits_far_ahead_is_bounded(
    stage: Stage, clock: VirtualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = len(frame("one", 1, 0.0).message)
    monkeypatch.setattr(stage_module, "AHEAD_BYTES", 2 * size + 10)
    performance = stage.begin(run())
    start = clock.now()
    for step in (1, 2):
        performance.add(frame("one", step, start + step), start)
        assert performance.full_until(start) is None
    performance.add(frame("one", 3, start + 3), start)
    assert performance.full_until(start) == start + 1
    assert performance.full_until(start + 1) is None


async def test_a_frame_is_kept_once_for_all_screens() -> None:
    made = frame("one", 1, 0.0)
    assert bytes(made.image) == b"one/1"
    assert made.image.obj is made.message
    assert made.by_url().model_dump(exclude={"url"}) == made.header.model_dump()


async def test_painted_is_passed_on_and_noted(clock: VirtualClock) -> None:
    heard: list[tuple[str, int]] = []
    stage = make_stage(clock, painted=lambda screen, said: heard.append((screen.name, said.step)))
    with stage.join("a", "url") as screen:
        stage.presented(screen, wire.Presented(run="one", step=3, at=7.0))
        assert heard == [("a", 3)]
        assert (screen.painted, screen.painted_at) == (("one", 3), 7.0)


async def test_only_the_named_are_addressed(stage: Stage) -> None:
    with (
        stage.join("a", "url") as one,
        stage.join("a", "url") as same,
        stage.join("b", "url") as other,
    ):
        assert [screen.name for screen in stage.screens] == ["a", "a-2", "b"]
        assert stage.identify("a") == 1
        assert stage.reload("c") == 0
        for screen, kinds in ((one, 2), (same, 1), (other, 1)):
            assert len(await waiting(screen.mailbox)) == kinds


async def test_a_screen_leaves_however_it_ends(stage: Stage) -> None:
    def fall(name: str) -> None:
        with stage.join(name, "binary"):
            assert len(stage.screens) == 1
            raise RuntimeError(name)

    with pytest.raises(RuntimeError):
        fall("a")
    assert stage.screens == ()


# ---------------------------------------------------------------- any order of things

_deeds = st.lists(
    st.one_of(
        st.just(("begin", 0.0)),
        st.just(("add", 0.0)),
        st.just(("end", 0.0)),
        st.just(("cut", 0.0)),
        st.just(("take", 0.0)),
        st.just(("hold", 0.0)),
        st.tuples(st.just("wait"), st.floats(0.1, 4.0)),
    ),
    max_size=60,
)


class _Story:
    """What happened on a stage, and what one screen was told of it."""

    def __init__(self) -> None:
        self.clock = VirtualClock(0.0)
        self.stage = make_stage(self.clock)
        self.told: list[dict[str, Any]] = []
        self.count = 0
        self.step = 0
        self.performance: Performance | None = None

    async def do(self, deed: str, seconds: float, mailbox: ScreenMailbox) -> None:
        current = self.performance
        match deed:
            case "begin":
                self.count, self.step = self.count + 1, 0
                self.performance = self.stage.begin(run(f"r{self.count}"))
            case "add" if current is not None and self.step < STEPS:
                self.step += 1
                due = self.clock.now() + 1.0
                current.add(frame(current.run.run, self.step, due), self.clock.now())
            case "end" if current is not None and self.step == STEPS:
                current.end("completed")
            case "cut":
                self.stage.cut()
            case "hold":
                self.stage.hold()
            case "wait":
                self.clock.jump(seconds)
            case "take":
                self.told += map(as_message, await waiting(mailbox))


@given(_deeds)
@settings(max_examples=60)
def test_in_any_order_of_things_the_rules_hold(deeds: list[tuple[str, float]]) -> None:
    async def play() -> _Story:
        story = _Story()
        with story.stage.join("a", "binary") as screen:
            for deed, seconds in deeds:
                await story.do(deed, seconds, screen.mailbox)
            await story.do("take", 0.0, screen.mailbox)
        return story

    story = asyncio.run(play())
    newest, last_step, over = 0, 0, False
    for message in story.told:
        name = message.get("run")
        if name is None:
            continue
        number = int(name.removeprefix("r"))
        match message["type"]:
            case "run":
                assert number > newest, "an older run after a newer"
                newest, last_step, over = number, 0, False
            case "frame":
                assert (number, over) == (newest, False), "a frame of a run that is void or over"
                assert message["step"] > last_step, "steps go forward"
                last_step = message["step"]
            case "run_end":
                assert (number, over) == (newest, False), "an end of another run, or a second"
                over = True
    current = story.performance
    if current is not None:
        assert newest == story.count, "the newest run was told"
        assert over == (current.outcome is not None)
        if story.step == STEPS and current.outcome != "cut":
            assert last_step == STEPS, "the final was lost"


async def test_a_screen_that_leaves_while_it_waits_keeps_no_picture(
    stage: Stage, clock: VirtualClock
) -> None:
    """A cancelled wait is a circle of asyncio's own: what hangs on it lies about for minutes."""
    gc.collect()
    gc.disable()
    try:
        with stage.join("wall", "binary") as screen:
            kept = weakref.ref(perform(stage, "one", clock.now()))

            async def send() -> None:
                while True:
                    await screen.mailbox.take()

            sending = asyncio.create_task(send())
            await settle(50)
            sending.cancel()
            await asyncio.gather(sending, return_exceptions=True)
        for name in ("two", "three"):  # one is the current, one was
            perform(stage, name, clock.now())
        assert kept() is None
    finally:
        gc.enable()
