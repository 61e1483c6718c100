from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from server.control import messages as control
from server.sockets.messages import (
    ErrorReply,
    MessageDecoder,
    MessageError,
    SyncReply,
    SyncRequest,
    WireMessage,
)
from server.stage import messages as wire
from server.stage.messages import decode, encode_frame
from tests.helpers.screens import decode_frame

CODES = {"too_large", "malformed", "unknown_type", "invalid"}

FRAME = wire.FrameHeader(
    run="r", cue="lamp", step=1, steps=5, final=False, present_at=1.5, media_type="image/jpeg"
)

SENT: list[WireMessage] = [
    wire.Screening(status="active", next=None, started_at=1_795_000_000.25),
    wire.Scene(route="/studio"),
    wire.Fade(black=True, seconds=5.0, at=1.25),
    wire.Caption(
        text="nöch, 詩",
        words=(wire.CaptionWord(word=" nöch", start=1.0, end=1.5),),
        at=1.0,
        until=3.0,
    ),
    wire.Typing(
        text='a\n"b"', erase=True, delay=wire.TypingDelay(base=0.1, variance=0.04), at=2.0, seed=7
    ),
    wire.Slider(from_=60.0, to=40.0, seconds=1.5, at=3.0),
    wire.RunStarted(run="r", cue="lamp", prompt="a lamp", steps=5),
    FRAME,
    wire.FrameByUrl(**FRAME.model_dump(), url=wire.frame_url("r", 1)),
    wire.RunEnd(run="r", outcome="completed"),
    wire.Hold(),
    wire.Identify(),
    wire.Reload(),
    SyncReply(t0=1.0, t1=2.0, t2=3.0),
    ErrorReply(code="malformed", message="expected"),
    wire.Welcome(
        screen="wall",
        server_time=5.0,
        show=wire.ShowInfo(title="T", timezone="UTC", duration=60.0),
        display=wire.Display(crossfade=3, fade=5, captions=True, progress=True, badge=False),
        snapshot=wire.Snapshot(screening=wire.Screening(status="waiting")),
    ),
]


@pytest.mark.parametrize("message", SENT, ids=lambda message: type(message).__name__)
def test_what_is_sent_can_be_read_back(message: WireMessage) -> None:
    text = message.encode()
    assert type(message).model_validate_json(text) == message
    assert json.loads(text)["type"] == message.type  # type: ignore[attr-defined]


def test_a_slider_is_sent_under_the_names_of_the_contract() -> None:
    sent = json.loads(wire.Slider(from_=1.0, to=2.0, seconds=3.0, at=4.0).encode())
    assert sent == {"type": "slider", "from": 1.0, "to": 2.0, "seconds": 3.0, "at": 4.0}


@pytest.mark.parametrize(
    "message",
    [
        wire.ScreenHello(protocol=1, screen="wall", frames="url", token="t"),
        wire.ScreenHello(protocol=9, screen="x" * 64),
        SyncRequest(t0=-1.5),
        wire.Presented(run="r", step=0, at=1.0),
        wire.Log(level="error", message=""),
    ],
)
def test_what_a_screen_says_is_understood(message: wire.FromScreen) -> None:
    assert decode(message.encode()) == message


def test_defaults_of_a_short_hello_and_unknown_fields() -> None:
    hello = decode('{"type": "hello", "protocol": 1, "screen": "wall", "colour": "red"}')
    assert hello == wire.ScreenHello(protocol=1, screen="wall", frames="binary")


def test_a_token_is_not_shown() -> None:
    hello = decode('{"type": "hello", "protocol": 1, "screen": "w", "token": "sesame"}')
    assert "sesame" not in repr(hello)
    assert "sesame" not in str(hello)


def of(kind: str, **fields: object) -> str:
    return json.dumps({"type": kind, **fields})


NONSENSE = [
    ("", "malformed"),
    ("hello?", "malformed"),
    ("[1]", "malformed"),
    ("7", "malformed"),
    ("{", "malformed"),
    ("null", "malformed"),
    ('"hello"', "malformed"),
    ("[" * 4000 + "]" * 4000, "malformed"),
    ("[" * 8000, "malformed"),
    ('{"type": "hello"', "malformed"),
    ('{"type": "sync", "t0": 1e}', "malformed"),
    ("{}", "unknown_type"),
    ('{"Type": "hello"}', "unknown_type"),
    ('{"type": null}', "unknown_type"),
    ('{"type": {}}', "unknown_type"),
    ('{"type": ["sync"]}', "unknown_type"),
    (of("shutdown"), "unknown_type"),
    (of("frame", run="x"), "unknown_type"),
    (of("hello", protocol=1.5, screen="x"), "invalid"),
    (of("sync"), "invalid"),
    (of("sync", t0="soon"), "invalid"),
    ('{"type": "sync", "t0": NaN}', "invalid"),
    ('{"type": "sync", "t0": 1e999}', "invalid"),
    ('{"type": "sync", "t0": 1, "t0": 2}', "invalid"),
]
"""What no socket takes, and the code that says why."""


@pytest.mark.parametrize(
    ("decode", "text", "code"),
    [
        *((decode, *case) for decode in (wire.decode, control.decode) for case in NONSENSE),
        (wire.decode, "\ud800", "malformed"),
        (wire.decode, '"\ud800"', "malformed"),
        (wire.decode, of("hello", protocol=1), "invalid"),
        (wire.decode, of("presented", run="r", step=-1, at=0), "invalid"),
        (wire.decode, of("presented", run="r", step=10**30, at=1.0), "invalid"),
        (wire.decode, of("presented", run="r" * 65, step=1, at=1.0), "invalid"),
        (wire.decode, of("log", message="x" * 2001), "invalid"),
        (wire.decode, of("log", level="fatal", message=""), "invalid"),
        (wire.decode, "x" * (wire.MAX_TEXT_BYTES + 1), "too_large"),
        (wire.decode, "é" * (wire.MAX_TEXT_BYTES // 2 + 1), "too_large"),
        (control.decode, of("fire"), "unknown_type"),
        (control.decode, of("command"), "invalid"),
        (control.decode, of("command", command="go", args=[]), "invalid"),
        (control.decode, of("command", command="go", id={}), "invalid"),
        (control.decode, of("command", command="go", ttl="soon"), "invalid"),
        (control.decode, "x" * (control.MAX_TEXT_BYTES + 1), "too_large"),
    ],
)
def test_what_cannot_be_taken_has_a_stable_code(
    decode: MessageDecoder[Any], text: str, code: str
) -> None:
    with pytest.raises(MessageError) as refused:
        decode(text)
    assert refused.value.code == code
    assert str(refused.value)


def test_the_types_that_are_expected_are_told() -> None:
    with pytest.raises(MessageError, match=r"type hello, sync, presented, log or glyphs$"):
        wire.decode("{}")
    with pytest.raises(MessageError, match=r"type hello, command or sync$"):
        control.decode("{}")


def test_the_longest_message_is_taken() -> None:
    text = json.dumps({"type": "sync", "t0": 1.0}).ljust(wire.MAX_TEXT_BYTES)
    assert decode(text) == SyncRequest(t0=1.0)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=30),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=8,
)
_NAMES = ("protocol", "screen", "frames", "token", "t0", "run", "step", "at", "level", "message")
_nearly = st.fixed_dictionaries(
    {"type": st.sampled_from(["hello", "sync", "presented", "log", "frame", ""])},
    optional=dict.fromkeys(_NAMES, VALUES),
)


def understood(text: str) -> wire.FromScreen | None:
    try:
        return decode(text)
    except MessageError as error:
        refused = error
    assert refused.code in CODES
    assert len(str(refused)) < 500
    return None


@given(st.text(alphabet=st.characters()) | VALUES.map(json.dumps) | _nearly.map(json.dumps))
@settings(max_examples=250)
def test_decoding_raises_nothing_but_its_own_error(text: str) -> None:
    message = understood(text)
    assert message is None or decode(message.encode()) == message


@given(_nearly.map(json.dumps), st.integers(0, 200), st.text(max_size=3))
def test_decoding_survives_damage(text: str, place: int, damage: str) -> None:
    understood(text[:place] + damage + text[place + 1 :])


@given(st.binary(max_size=300), st.text(max_size=40), st.floats(allow_nan=False))
def test_a_frame_comes_apart_as_it_was_put_together(image: bytes, cue: str, at: float) -> None:
    header = FRAME.model_copy(update={"cue": cue, "present_at": at if abs(at) < 1e300 else 0.0})
    message = encode_frame(header, image)
    told, picture = decode_frame(message)
    assert wire.FrameHeader(**told) == header
    assert picture == image


def test_an_address_of_a_frame_tells_nothing_else() -> None:
    assert wire.frame_url("abc-_1", 12) == "/frames/abc-_1/12"
