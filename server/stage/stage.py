"""The stage: what is to be seen now, told to every screen through a small mailbox of its own.

Frames are never queued. The stage keeps the pictures of the current run once, and each
screen walks through them at its own pace: what it is too late for it skips, the final
image never. So a screen that stops reading costs the others nothing and memory is bounded
by one run, however many screens there are.
"""

from __future__ import annotations

import asyncio
import itertools
from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal, TypeVar

from server.core.clock import Clock
from server.core.timescale import REAL_TIME, TimeScale
from server.sockets.messages import WireMessage
from server.stage import messages as wire
from server.stage.liveness import Liveness
from server.stage.wire_time import to_real_time, to_show_time

StageMessageT = TypeVar("StageMessageT", bound=wire.StageMessage)

Ending = Literal["completed", "cut", "held"]
FrameStyle = Literal["binary", "url"]

KEEP_BYTES = 96 * 2**20
"""Bytes of one run beyond which frames that are over are let go."""

AHEAD_BYTES = 64 * 2**20
"""Bytes of frames not due yet beyond which a run waits before it hands over more."""

MAX_WAITING = 256
"""Messages a screen may be behind before it is sent away to come back for a snapshot."""


class ScreenTooSlow(Exception):
    """A screen has not read for so long that only a fresh start can bring it up to date."""


@dataclass(frozen=True, slots=True)
class StageFrame:
    """A frame ready for the wire: its header, and the whole binary message once for all screens.

    The header is in the show's time, the message in that of the screens.
    """

    header: wire.FrameHeader
    message: bytes
    image_at: int

    @classmethod
    def of(
        cls, header: wire.FrameHeader, image: bytes, time_scale: TimeScale = REAL_TIME
    ) -> StageFrame:
        """Encode it, once."""
        message = wire.encode_frame(to_real_time(header, time_scale), image)
        return cls(header, message, len(message) - len(image))

    @property
    def image(self) -> memoryview:
        """The encoded picture, without a copy."""
        return memoryview(self.message)[self.image_at :]

    @property
    def url(self) -> str:
        """Where it can be fetched while its run is on stage."""
        return wire.frame_url(self.header.run, self.header.step)

    def by_url(self) -> wire.FrameByUrl:
        """Its header, for a screen that fetches."""
        fields = self.header.model_dump(by_alias=False)
        return wire.FrameByUrl(**fields, url=self.url)


class Performance:
    """One run on stage. Whoever performs it adds frames; screens read on from where they are.

    Frames are counted from 0 in the order they were added. Of a very long run, those that
    are over are let go, so that what is kept is bounded by `KEEP_BYTES` and what is ahead.
    """

    def __init__(self, run: wire.RunStarted, wake: Callable[[], None]) -> None:
        self.run = run
        self.outcome: Ending | None = None
        self._frames: list[StageFrame] = []
        self._let_go = 0
        self._bytes = 0
        self._wake = wake

    def __len__(self) -> int:
        """How many frames have been added."""
        return self._let_go + len(self._frames)

    def add(self, frame: StageFrame, now: float) -> None:
        """Hand over the next frame; after the end it is dropped, for the run is void."""
        if self.outcome is not None:
            return
        self._frames.append(frame)
        self._bytes += len(frame.message)
        over = self._count_due(now) - 1
        while over > 0 and self._bytes > KEEP_BYTES:
            self._bytes -= len(self._frames.pop(0).message)
            self._let_go += 1
            over -= 1
        self._wake()

    def end(self, outcome: Ending) -> None:
        """No more frames will come; the first word counts."""
        if self.outcome is None:
            self.outcome = outcome
            self._wake()

    def frame(self, index: int) -> StageFrame:
        """Frame `index`, or the oldest that is kept, if that is newer."""
        return self._frames[max(0, index - self._let_go)]

    def of_step(self, step: int) -> StageFrame | None:
        """The frame of a step, while it is kept."""
        return next((frame for frame in self._frames if frame.header.step == step), None)

    def newest_due(self, now: float) -> int | None:
        """Number of the frame that should be on the wall at `now`; None before the first."""
        due = self._count_due(now)
        return self._let_go + due - 1 if due else None

    def full_until(self, now: float) -> float | None:
        """Steady time at which there is room for more; None if there is now."""
        ahead = self._frames[self._count_due(now) :]
        waiting = sum(len(frame.message) for frame in ahead)
        return ahead[0].header.present_at if waiting > AHEAD_BYTES else None

    def _count_due(self, now: float) -> int:
        return bisect_right(self._frames, now, key=lambda frame: frame.header.present_at)


class ScreenMailbox:
    """What one screen has still to be told: a few messages, then the run's next frame."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._messages: deque[str] = deque()
        self._performance: Performance | None = None
        self._next = 0
        self._end_told = False
        self._overflowed = False
        self._closing = False
        self._ready = asyncio.Event()
        self.skipped = 0

    def let_go(self) -> None:
        """The server ends: send what there is of the run, and say nothing more, not even its end.

        A screen that has the frames of a run brings it to its end by itself.
        """
        self._closing = self._end_told = True

    def close(self) -> None:
        """The screen has gone: keep nothing for it, for its remains may lie about for long."""
        self._performance = None
        self._messages.clear()

    def post(self, message: WireMessage) -> None:
        """Leave a message; what a screen cannot keep up with sends it away."""
        if self._closing:
            return
        if len(self._messages) >= MAX_WAITING:
            self._overflowed = True
        else:
            self._messages.append(message.encode())
        self._ready.set()

    def follow(self, performance: Performance, first: int = 0) -> None:
        """Walk through the frames of `performance` from index `first`; older ones are void."""
        if self._closing:
            return
        self._performance, self._next, self._end_told = performance, first, False
        self._ready.set()

    def void(self) -> None:
        """The run followed was cut: say so at once, and send nothing more of it."""
        if self._closing:
            return
        if self._performance is not None and not self._end_told:
            self.post(wire.RunEnd(run=self._performance.run.run, outcome="cut"))
        self._performance = None

    def wake(self) -> None:
        """There may be more."""
        self._ready.set()

    async def take(self) -> str | StageFrame:
        """The next thing to send, as soon as there is one.

        Raises:
            ScreenTooSlow: messages were lost because the screen did not read.
        """
        while True:
            if self._overflowed:
                raise ScreenTooSlow
            if self._messages:
                return self._messages.popleft()
            found = self._take_frame() or self._take_end()
            if found is not None:
                return found
            # Nothing of a run is held by name here: a wait that is cancelled is a circle of
            # asyncio's own (its future has the error, the error this frame), and what hangs on
            # it lies about until the collector comes by, minutes later.
            self._ready.clear()
            await self._ready.wait()

    def _take_frame(self) -> StageFrame | None:
        performance = self._performance
        if performance is None or self._next >= len(performance):
            return None
        newest = performance.newest_due(self._clock.now())
        if newest is not None and newest > self._next:
            self.skipped += newest - self._next
            self._next = newest
        self._next += 1
        return performance.frame(self._next - 1)

    def _take_end(self) -> str | None:
        performance = self._performance
        if performance is None or not performance.outcome or self._end_told:
            return None
        # Only now: to this screen, too, no frame of the run will come any more.
        self._end_told = True
        return wire.RunEnd(run=performance.run.run, outcome=performance.outcome).encode()


@dataclass(eq=False)
class Screen:
    """One connected kiosk, and what it last told of itself.

    Attributes:
        name: unique among those connected.
        asked: the name by which it wanted to be known.
        frames: how it takes its frames.
        mailbox: what it has still to be told.
        joined_at: steady time.
        liveness: what it owes, in real time.
        painted: the frame that it last said has reached its display.
        painted_at: steady time at which that was.
        frames_sent: how many it was sent.
        lacks: some of the characters of the show that it cannot draw.
        lacks_count: how many there are.
        dismissed: set once another is to have its place: it is to go.
    """

    name: str
    asked: str
    frames: FrameStyle
    mailbox: ScreenMailbox
    joined_at: float
    liveness: Liveness
    painted: tuple[str, int] | None = None
    painted_at: float | None = None
    frames_sent: int = 0
    lacks: str = ""
    lacks_count: int = 0
    dismissed: asyncio.Event = field(default_factory=asyncio.Event)


class Scenery:
    """The last message of each type that still stands, in the order in which their types came."""

    def __init__(self, *messages: wire.StageMessage) -> None:
        self._last: dict[str, wire.StageMessage] = {}
        for message in messages:
            self.take(message)

    def __iter__(self) -> Iterator[wire.StageMessage]:
        """What stands."""
        return iter(self._last.values())

    def take(self, message: wire.StageMessage) -> None:
        """One more is told."""
        for cleared in message.clears:
            self._last.pop(cleared, None)
        self._last[message.type] = message

    def last(self, kind: type[StageMessageT]) -> StageMessageT | None:
        """What stands of one type."""
        return next((message for message in self if isinstance(message, kind)), None)


Painted = Callable[[Screen, wire.Presented], None]


@dataclass
class Stage:
    """All screens, and the one truth about what they should show.

    Args:
        clock: the steady clock that frames are due by.
        show: what a screen must know of the show.
        display: how the show wants its pictures shown.
        painted: called for each frame that a screen says has reached its display.
        time_scale: how fast the clock runs beside that of the screens.
    """

    clock: Clock
    show: wire.ShowInfo
    display: wire.Display
    painted: Painted | None = None
    time_scale: TimeScale = REAL_TIME
    _scenery: Scenery = field(default_factory=Scenery, init=False)
    _screens: list[Screen] = field(default_factory=list, init=False)
    _current: Performance | None = field(default=None, init=False)
    _before: Performance | None = field(default=None, init=False)
    _picture: StageFrame | None = field(default=None, init=False)
    _dark: wire.Fade | None = field(default=None, init=False)

    @property
    def screens(self) -> tuple[Screen, ...]:
        """Who is connected, in the order they came."""
        return tuple(self._screens)

    @property
    def screening(self) -> wire.Screening:
        """What the screens were last told of the screening."""
        return self._scenery.last(wire.Screening) or wire.Screening(status="waiting")

    @property
    def black(self) -> bool:
        """Whether the show has the stage faded to black, or on its way there."""
        fade = self._scenery.last(wire.Fade)
        return fade is not None and fade.black

    @property
    def caption(self) -> str:
        """The line that is being spoken now; empty for none."""
        caption = self._scenery.last(wire.Caption)
        return caption.text if caption is not None and caption.until > self.clock.now() else ""

    @property
    def dark(self) -> bool:
        """Whether every screen is to stay black, whatever the show says."""
        return self._dark is not None

    @property
    def current(self) -> Performance | None:
        """The run that began last, over or not."""
        return self._current

    @contextmanager
    def join(self, name: str, frames: FrameStyle) -> Iterator[Screen]:
        """A screen comes in: its mailbox begins with a welcome that makes it look right.

        No two have one name. A newcomer takes over that of a screen which has lost its beat: a
        kiosk that comes back while its old socket is half open. Beside one that is alive it gets
        a name with a number, until the other goes.
        """
        asked, name = name, self._free_name(name)
        now = self.clock.now()
        alive = Liveness(self.time_scale.to_real(now))
        screen = Screen(
            name, asked, frames, ScreenMailbox(self.clock), joined_at=now, liveness=alive
        )
        welcome = wire.Welcome(
            screen=name,
            server_time=now,
            show=self.show,
            display=self.display,
            snapshot=self.snapshot(),
        )
        screen.mailbox.post(to_real_time(welcome, self.time_scale))
        if self._current is not None and self._current.outcome != "cut":
            screen.mailbox.follow(self._current, self._current.newest_due(now) or 0)
        self._screens.append(screen)
        try:
            yield screen
        finally:
            screen.mailbox.close()
            if screen in self._screens:  # else another has its name already
                self._screens.remove(screen)
                self._pass_on(screen.name)

    def snapshot(self) -> wire.Snapshot:
        """What the stage looks like at this moment."""
        now = self.clock.now()
        stands: dict[str, WireMessage] = {"screening": self.screening}
        stands |= {each.type: each for each in self._scenery}
        if self._dark is not None:
            stands["fade"] = self._dark
        caption = self._scenery.last(wire.Caption)
        if caption is not None and caption.until <= now:
            del stands["caption"]
        if self._current is not None and self._current.outcome != "cut":
            stands["run"] = self._current.run
            newest = self._current.newest_due(now)
            if newest is not None:
                stands["frame"] = self._current.frame(newest).by_url()
        if self._picture is not None and "frame" not in stands:
            stands["picture"] = self._picture.by_url()
        return wire.Snapshot.model_validate(stands)

    def on_the_wall(self) -> StageFrame | None:
        """The picture that should be seen now, be it behind a curtain."""
        current = self._current
        if current is not None and current.outcome != "cut":
            newest = current.newest_due(self.clock.now())
            if newest is not None:
                return current.frame(newest)
        return self._picture

    def frame(self, run: str, step: int) -> StageFrame | None:
        """The frame of a run that is, or just was, on stage."""
        if self._picture is not None and self._picture.url == wire.frame_url(run, step):
            return self._picture
        for performance in (self._current, self._before):
            if performance is not None and performance.run.run == run:
                return performance.of_step(step)
        return None

    def tell(self, message: wire.StageMessage) -> None:
        """Tell every screen, and remember it for those that join later."""
        self._scenery.take(message)
        if self._dark is None or not isinstance(message, wire.Fade):
            # A fade in the dark is remembered: it is how the show wants it once there is light.
            self._tell_all(message)

    def hold(self) -> None:
        """Tell every screen to keep its picture as it is."""
        self._owe_nothing_more()
        self._tell_all(wire.Hold())

    def darken(self, seconds: float) -> None:
        """Black on every screen, from now and for those that join, until `lighten`."""
        if self._dark is None:
            self._dark = wire.Fade(black=True, seconds=seconds, at=self.clock.now())
            self._tell_all(self._dark)

    def lighten(self, at: float, seconds: float) -> None:
        """Back, from `at`, to what the show wants to be seen, be that black as well."""
        if self._dark is None:
            return
        self._dark = None
        self.tell(wire.Fade(black=self.black, seconds=seconds, at=at))

    def open_screening(self, started_at: float) -> None:
        """A screening begins: on an empty stage, unless it follows another without a pause."""
        follows = self.screening.status == "active"
        self.cut()
        self._current = self._before = None
        if not follows:
            self._picture = None
        self._scenery = Scenery()
        self.tell(wire.Screening(status="active", started_at=started_at))

    def begin(self, run: wire.RunStarted) -> Performance:
        """A run begins; it voids the one before it, on every screen, at once."""
        self.cut()
        performance = Performance(run, self._wake)
        self._before, self._current = self._current, performance
        for screen in self._screens:
            screen.mailbox.post(run)
            screen.mailbox.follow(performance)
        return performance

    def cut(self) -> None:
        """End what is being drawn; the last picture that was due stays on the wall."""
        performance = self._current
        if performance is None:
            return
        newest = performance.newest_due(self.clock.now())
        if newest is not None:
            self._picture = performance.frame(newest)
        if performance.outcome is None:
            performance.end("cut")
            for screen in self._screens:
                screen.mailbox.void()
            self._owe_nothing_more()

    def let_go(self) -> None:
        """The server ends: screens keep the picture, and end the run that is on by themselves."""
        for screen in self._screens:
            screen.mailbox.let_go()

    def identify(self, name: str) -> int:
        """Ask a screen to say who it is; how many of that name there are."""
        return self._post_to(name, wire.Identify(screen=name))

    def reload(self, name: str) -> int:
        """Ask a screen to load its page anew; how many of that name there are."""
        return self._post_to(name, wire.Reload())

    def sent(self, screen: Screen, frame: StageFrame) -> None:
        """A screen was sent a frame; it owes it, unless its run was cut on the way."""
        current, header = self._current, frame.header
        if current is not None and current.run.run == header.run and current.outcome != "cut":
            due = self.time_scale.to_real(header.present_at)
            now = self.time_scale.to_real(self.clock.now())
            screen.liveness.sent(header.run, header.step, due, now)

    def _owe_nothing_more(self) -> None:
        """What is not due yet will not be seen."""
        now = self.time_scale.to_real(self.clock.now())
        for screen in self._screens:
            screen.liveness.void(now)

    def presented(self, screen: Screen, message: wire.Presented) -> None:
        """A screen says that a frame has reached its display, and when by its own clock."""
        message = to_show_time(message, self.time_scale)
        screen.painted, screen.painted_at = (message.run, message.step), message.at
        screen.liveness.presented(message.run, message.step)
        if self.painted is not None:
            self.painted(screen, message)

    def _free_name(self, asked: str) -> str:
        """A name that nobody has; `asked` itself where its holder has fallen silent."""
        names = {screen.name: screen for screen in self._screens}
        holder = names.get(asked)
        if holder is None:
            return asked
        if holder.liveness.is_stale(self.time_scale.to_real(self.clock.now())):
            self._screens.remove(holder)
            holder.dismissed.set()
            return asked
        numbered = (wire.numbered_name(asked, number) for number in itertools.count(2))
        return next(name for name in numbered if name not in names)

    def _pass_on(self, name: str) -> None:
        """A name is free: the screen that asked for it first has it."""
        heir = next((each for each in self._screens if each.asked == name != each.name), None)
        if heir is not None:
            heir.name = name

    def _post_to(self, name: str, message: wire.Identify | wire.Reload) -> int:
        addressed = [screen for screen in self._screens if screen.name == name]
        for screen in addressed:
            screen.mailbox.post(message)
        return len(addressed)

    def _tell_all(self, message: WireMessage) -> None:
        message = to_real_time(message, self.time_scale)
        for screen in self._screens:
            screen.mailbox.post(message)

    def _wake(self) -> None:
        for screen in self._screens:
            screen.mailbox.wake()
