"""The screen wire, protocol 1: every message that passes between server and kiosk (pure).

Text messages are those of every JSON socket (`server/sockets/messages.py`); a frame is one
binary message: a 4-byte big-endian length, a JSON header of that many bytes, then the encoded
picture. `at` is when something begins: a screen that learns of it late joins in the middle of it.

What is a moment and what a length of time is told by its type: in a rehearsal that is watched
they pass at another speed here than inside (`server/stage/wire_time.py`).
"""

from __future__ import annotations

import struct
from typing import Annotated, ClassVar, Final, Literal

from pydantic import Field

from server.config.screen_names import MAX_NAME, ScreenName
from server.sockets.messages import (
    BY_TYPE,
    Hello,
    MessageDecoder,
    SyncRequest,
    WireMessage,
)

PROTOCOL = 1
MAX_TEXT_BYTES = 16 * 1024
"""Longest text message a screen may send."""

MOMENT = "moment"
SECONDS = "seconds"

Moment = Annotated[float, MOMENT]
"""A moment, in seconds on the steady clock."""

Seconds = Annotated[float, SECONDS]
"""How long something takes."""

_HEADER_LENGTH = struct.Struct(">I")
_MAX_LOG = 2000


# ---------------------------------------------------------------- screen -> server


class ScreenHello(Hello):
    """The first message of a screen: who it is and how it takes its frames."""

    screen: ScreenName
    frames: Literal["binary", "url"] = "binary"


class Presented(WireMessage):
    """A frame reached the display, `at` by the server's clock as the screen knows it."""

    type: Literal["presented"] = "presented"
    run: str = Field(max_length=MAX_NAME)
    step: int = Field(ge=0, le=100_000)
    at: Moment = Field(allow_inf_nan=False)


class Log(WireMessage):
    """Something a screen wants in the server's log."""

    type: Literal["log"] = "log"
    level: Literal["debug", "info", "warning", "error"] = "info"
    message: str = Field(max_length=_MAX_LOG)


class Glyphs(WireMessage):
    """Characters of the show that a screen cannot draw: some of them, and how many there are."""

    type: Literal["glyphs"] = "glyphs"
    missing: str = Field(default="", max_length=MAX_NAME)
    count: int = Field(default=0, ge=0, le=100_000)


FromScreen = Annotated[ScreenHello | SyncRequest | Presented | Log | Glyphs, BY_TYPE]
decode: Final[MessageDecoder[FromScreen]] = MessageDecoder(FromScreen, MAX_TEXT_BYTES)
"""Reads one text message of a screen."""


# ---------------------------------------------------------------- server -> screen


class StageMessage(WireMessage):
    """What stands on the stage until another of its type takes its place.

    A screen that joins is told the last of each: see `Snapshot`.
    """

    clears: ClassVar[tuple[str, ...]] = ()
    """Types of which nothing stands any more once it is told."""

    type: str


class ShowInfo(WireMessage):
    """What a screen needs to know of the show before it starts.

    `characters` has each character that it shows which a font may lack, once: a screen measures
    them, and tells in `glyphs` which it cannot draw.
    """

    title: str
    timezone: str
    duration: Seconds
    characters: str = ""


class Rehearsal(WireMessage):
    """That this is no show; `speed` is how many seconds of it pass in one."""

    speed: float


class RehearsedShow(ShowInfo):
    """The same of a rehearsal: whoever shows it is to say so, whatever else is on the wall."""

    rehearsal: Rehearsal


class Display(WireMessage):
    """How the show wants its pictures shown.

    Attributes:
        crossfade: seconds from a run's last preview (or the picture before) to its final image.
        fade: seconds a fade to or from black takes unless a cue says otherwise.
        captions: whether transcripts are shown.
        progress: whether a quiet progress line is shown while a picture is drawn.
        badge: whether a step counter is shown beside it.
        still: address of the show's own still image, empty for none.
        language: of the lobby's words, as BCP 47 has it: its days and hours are written so.
        direction: in which that language is written.
        hours: whether the day has 24 hours, or twice 12.
        texts: what the lobby says, by name; ``{time}``, ``{day}`` and ``{left}`` stand for the
            hour, the day and the time until then.
    """

    crossfade: Seconds
    fade: Seconds
    captions: bool
    progress: bool
    badge: bool
    still: str = ""
    language: str = "en"
    direction: Literal["ltr", "rtl"] = "ltr"
    hours: Literal["24", "12"] = "24"
    texts: dict[str, str] = Field(default_factory=dict)


class CaptionWord(WireMessage):
    """One word of a caption and when it is spoken."""

    word: str
    start: Moment
    end: Moment


class Screening(StageMessage):
    """Whether a screening is on, and when the next one starts; None for never.

    `next` is the moment to count down to. It is on the steady clock, which may be hours off the
    time of day: what is printed is `next_local`, day and hour in the show's time zone, such as
    ``2026-11-21T10:00:00+01:00``.
    """

    type: Literal["screening"] = "screening"
    status: Literal["waiting", "active", "closed"]
    next: Moment | None = None
    next_local: str | None = None
    started_at: Moment | None = None


class Scene(StageMessage):
    """The show moved to another scene; what was typed before is gone."""

    clears = ("typing", "slider")

    type: Literal["scene"] = "scene"
    route: str


class Fade(StageMessage):
    """The whole screen goes to black, or comes back, over `seconds` from `at`."""

    type: Literal["fade"] = "fade"
    black: bool
    seconds: Seconds
    at: Moment


class Caption(StageMessage):
    """A line of transcript, word by word, shown from `at` until `until`."""

    type: Literal["caption"] = "caption"
    text: str
    words: tuple[CaptionWord, ...] = ()
    at: Moment
    until: Moment


class TypingDelay(WireMessage):
    """Seconds per character: drawn from `base` plus or minus `variance`."""

    base: Seconds
    variance: Seconds


class Typing(StageMessage):
    """`text` is typed in place of what stands (`from`).

    That is erased down to the beginning that both have in common, and the rest typed; with
    `erase`, all of it is then erased.
    `seed` makes every screen type in the same rhythm; it takes `seconds` to the last key.
    """

    type: Literal["typing"] = "typing"
    text: str
    erase: bool
    delay: TypingDelay
    at: Moment
    seed: int
    from_: str = Field(default="", alias="from")
    seconds: Seconds | None = None


class Slider(StageMessage):
    """The slider moves between two values (0 to 100) over `seconds` from `at`."""

    type: Literal["slider"] = "slider"
    from_: float = Field(alias="from")
    to: float
    seconds: Seconds
    at: Moment


class RunStarted(WireMessage):
    """A picture begins to be drawn; it voids every run before it."""

    type: Literal["run"] = "run"
    run: str
    cue: str
    prompt: str
    steps: int


class FrameHeader(WireMessage):
    """Header of a frame. `step` counts from 1; the last, `final`, is step `steps`."""

    type: Literal["frame"] = "frame"
    run: str
    cue: str
    step: int
    steps: int
    final: bool
    present_at: Moment
    media_type: str


class FrameByUrl(FrameHeader):
    """A frame for screens that fetch: the same header, and where the picture is."""

    url: str


class RunEnd(WireMessage):
    """No more frames of this run will come; the picture stays."""

    type: Literal["run_end"] = "run_end"
    run: str
    outcome: Literal["completed", "cut", "held"]


class Hold(WireMessage):
    """Keep the picture as it is."""

    type: Literal["hold"] = "hold"


class Identify(WireMessage):
    """Show for some seconds which screen this is: the name by which it is known now."""

    type: Literal["identify"] = "identify"
    screen: str = ""


class Reload(WireMessage):
    """Load the page anew."""

    type: Literal["reload"] = "reload"


class Snapshot(WireMessage):
    """Everything a screen needs to look right at once: the last message of each type.

    `run` is the current run and `frame` its newest frame due, which follows in binary for
    a screen that asked for that, as do the frames still to come. `picture` is what is on
    the wall where the current run has no frame due yet: the end of the run before it.
    """

    screening: Screening
    scene: Scene | None = None
    fade: Fade | None = None
    caption: Caption | None = None
    typing: Typing | None = None
    slider: Slider | None = None
    run: RunStarted | None = None
    frame: FrameByUrl | None = None
    picture: FrameByUrl | None = None


class Welcome(WireMessage):
    """The answer to hello."""

    type: Literal["welcome"] = "welcome"
    protocol: int = PROTOCOL
    screen: str
    server_time: Moment
    show: RehearsedShow | ShowInfo
    display: Display
    snapshot: Snapshot


def frame_url(run: str, step: int) -> str:
    """Where a frame can be fetched; it tells nothing of where it came from."""
    return f"/frames/{run}/{step}"


def numbered_name(name: str, number: int) -> str:
    """``left-2``: what a further screen is called that wants the same name."""
    suffix = f"-{number}"
    return name[: MAX_NAME - len(suffix)] + suffix


def encode_frame(header: FrameHeader, image: bytes) -> bytes:
    """One binary message: header length, header, picture."""
    head = header.encode().encode()
    return b"".join((_HEADER_LENGTH.pack(len(head)), head, image))
