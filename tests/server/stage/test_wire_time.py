"""The border between a show's time and its screens': every message, at any speed."""

from __future__ import annotations

import json
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from server.core.timescale import REAL_TIME, TimeScale
from server.sockets.messages import ErrorReply, WireMessage
from server.stage import messages as wire
from server.stage.wire_time import to_real_time, to_show_time

NOON = 1_800_000_000.0

moments = st.floats(NOON - 1e5, NOON + 1e5)
lengths = st.floats(0, 1e5)
time_scales = st.builds(TimeScale, st.floats(0.25, 60), st.floats(NOON - 1e4, NOON))
texts = st.text(max_size=8)
numbers = st.integers(1, 40)
flags = st.booleans()

screenings = st.builds(
    wire.Screening,
    status=st.sampled_from(("waiting", "active", "closed")),
    next=st.none() | moments,
    started_at=st.none() | moments,
)
scenes = st.builds(wire.Scene, route=texts)
fades = st.builds(wire.Fade, black=flags, seconds=lengths, at=moments)
words = st.builds(wire.CaptionWord, word=texts, start=moments, end=moments)
captions = st.builds(
    wire.Caption, text=texts, words=st.lists(words, max_size=3), at=moments, until=moments
)
typings = st.builds(
    wire.Typing,
    text=texts,
    erase=flags,
    delay=st.builds(wire.TypingDelay, base=lengths, variance=lengths),
    at=moments,
    seed=numbers,
)
sliders = st.builds(
    wire.Slider, from_=st.floats(0, 100), to=st.floats(0, 100), seconds=lengths, at=moments
)
runs = st.builds(wire.RunStarted, run=texts, cue=texts, prompt=texts, steps=numbers)
_HEADER = {
    "run": texts,
    "cue": texts,
    "step": numbers,
    "steps": numbers,
    "final": flags,
    "present_at": moments,
    "media_type": st.just("image/jpeg"),
}
frames = st.builds(wire.FrameHeader, **_HEADER)
frames_by_url = st.builds(wire.FrameByUrl, **_HEADER, url=texts)
shows = st.builds(wire.ShowInfo, title=texts, timezone=texts, duration=lengths) | st.builds(
    wire.RehearsedShow,
    title=texts,
    timezone=texts,
    duration=lengths,
    rehearsal=st.builds(wire.Rehearsal, speed=st.floats(0.25, 60)),
)
displays = st.builds(
    wire.Display, crossfade=lengths, fade=lengths, captions=flags, progress=flags, badge=flags
)
snapshots = st.builds(
    wire.Snapshot,
    screening=screenings,
    scene=st.none() | scenes,
    fade=st.none() | fades,
    caption=st.none() | captions,
    typing=st.none() | typings,
    slider=st.none() | sliders,
    run=st.none() | runs,
    frame=st.none() | frames_by_url,
    picture=st.none() | frames_by_url,
)
welcomes = st.builds(
    wire.Welcome,
    screen=texts,
    server_time=moments,
    show=shows,
    display=displays,
    snapshot=snapshots,
)
KINDS: dict[type[WireMessage], st.SearchStrategy[Any]] = {
    wire.Welcome: welcomes,
    wire.Screening: screenings,
    wire.Scene: scenes,
    wire.Fade: fades,
    wire.Caption: captions,
    wire.Typing: typings,
    wire.Slider: sliders,
    wire.RunStarted: runs,
    wire.FrameHeader: frames,
    wire.FrameByUrl: frames_by_url,
    wire.RunEnd: st.builds(wire.RunEnd, run=texts, outcome=st.just("cut")),
    wire.Hold: st.just(wire.Hold()),
    wire.Identify: st.just(wire.Identify()),
    wire.Reload: st.just(wire.Reload()),
    ErrorReply: st.builds(ErrorReply, code=texts, message=texts),
}
MOMENTS = {"at", "until", "start", "end", "present_at", "server_time", "started_at", "next"}
SECONDS = {"seconds", "base", "variance", "crossfade", "duration"}
PLAIN = {"from_", "to", "speed", "t0", "t1", "t2"}
"""Numbers of the wire that tell no time of the show, by their names."""


def by_name(value: Any, time_scale: TimeScale) -> Any:
    """A message as it should be told, from nothing but the names on the wire."""
    if isinstance(value, list):
        return [by_name(each, time_scale) for each in value]
    if not isinstance(value, dict):
        return value
    turned = {}
    for name, inner in value.items():
        if isinstance(inner, float) and name in MOMENTS:
            turned[name] = time_scale.anchor + (inner - time_scale.anchor) / time_scale.speed
        elif isinstance(inner, float) and (name in SECONDS or name == "fade"):
            turned[name] = inner / time_scale.speed
        else:
            turned[name] = by_name(inner, time_scale)
    return turned


def as_sent(message: WireMessage) -> Any:
    return json.loads(message.encode())


def test_every_message_to_a_screen_is_tried_here() -> None:
    messages = {
        each
        for each in vars(wire).values()
        if getattr(each, "__module__", "") == wire.__name__
        and "type" in getattr(each, "model_fields", ())
    }
    assert KINDS.keys() - {ErrorReply} == messages - {
        wire.StageMessage,
        *get_args(get_args(wire.FromScreen)[0]),
    }


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: str(kind.__name__))
@settings(deadline=None, max_examples=60)
@given(data=st.data(), time_scale=time_scales)
def test_times_are_told_as_real_ones_and_nothing_else_changes(
    kind: type[WireMessage], data: st.DataObject, time_scale: TimeScale
) -> None:
    message = data.draw(KINDS[kind])
    sent = to_real_time(message, time_scale)
    assert type(sent) is kind
    assert as_sent(sent) == by_name(as_sent(message), time_scale)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: str(kind.__name__))
@settings(deadline=None, max_examples=60)
@given(data=st.data())
def test_a_show_tells_the_very_message(kind: type[WireMessage], data: st.DataObject) -> None:
    message = data.draw(KINDS[kind])
    assert to_real_time(message, REAL_TIME) is message


@settings(deadline=None, max_examples=60)
@given(moments, time_scales)
def test_what_a_screen_reports_comes_back_in_the_shows_time(
    at: float, time_scale: TimeScale
) -> None:
    report = wire.Presented(run="r", step=3, at=time_scale.to_real(at))
    assert to_show_time(report, time_scale).at == pytest.approx(at, abs=1e-4)
    assert to_show_time(report, REAL_TIME) is report


@settings(deadline=None, max_examples=60)
@given(moments, moments, time_scales)
def test_what_comes_before_comes_before(one: float, other: float, time_scale: TimeScale) -> None:
    assert (time_scale.to_real(one) <= time_scale.to_real(other)) or one > other


def test_no_number_on_the_wire_is_left_out() -> None:
    """A message that is added tomorrow must say which of its numbers are times."""
    models = {
        model
        for model in vars(wire).values()
        if isinstance(model, type) and issubclass(model, WireMessage)
    }
    for model in models:
        for name, hint in get_type_hints(model, include_extras=True).items():
            if name not in PLAIN:
                assert not _bare_float(hint), f"{model.__name__}.{name}: a Moment, or Seconds?"


def _bare_float(hint: Any) -> bool:
    if get_origin(hint) is Annotated:
        return not {wire.MOMENT, wire.SECONDS} & set(get_args(hint)[1:]) and _bare_float(
            get_args(hint)[0]
        )
    return hint is float or any(_bare_float(part) for part in get_args(hint))
