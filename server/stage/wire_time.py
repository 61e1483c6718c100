"""The border between a show's time and its screens', who live in real time (pure).

Screens synchronise to a clock that runs as theirs do. So whatever is told to them is put in
real time as it leaves, and what they say is put in the show's as it comes in. In a show both
are the same, and messages pass untouched.

Which fields are moments and which are lengths of time is known from their types: see
`server/stage/messages.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from types import UnionType
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin, get_type_hints

from server.core.timescale import TimeScale
from server.sockets.messages import WireMessage
from server.stage.messages import MOMENT, SECONDS

M = TypeVar("M", bound=WireMessage)

Turn = Callable[[float], float]
_Change = Callable[[Any, Turn, Turn], Any]
"""Another value for a field: given how to turn its moments, and its lengths of time."""


def to_real_time(message: M, time_scale: TimeScale) -> M:
    """A message to a screen, its show's times as real ones."""
    if time_scale.speed == 1.0:
        return message
    return _turned(message, time_scale.to_real, time_scale.real_seconds)


def to_show_time(message: M, time_scale: TimeScale) -> M:
    """A message from a screen, its real times as the show's."""
    if time_scale.speed == 1.0:
        return message
    return _turned(message, time_scale.to_show, time_scale.show_seconds)


def _turned(message: M, moment: Turn, seconds: Turn) -> M:
    changes = {
        name: change(value, moment, seconds)
        for name, change in _timed(type(message))
        if (value := getattr(message, name)) is not None
    }
    return message.model_copy(update=changes) if changes else message


@cache
def _timed(model: type[WireMessage]) -> tuple[tuple[str, _Change], ...]:
    """The fields of a message in which there are times, and how they are changed."""
    hints = get_type_hints(model, include_extras=True)
    changes = ((name, _change(hints[name])) for name in model.model_fields)
    return tuple((name, change) for name, change in changes if change is not None)


def _change(hint: Any) -> _Change | None:  # noqa: ANN401 - a type, of any kind
    """How a field of this type is changed; None where there is no time in it."""
    origin, parts = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return next((_KINDS[word] for word in parts[1:] if word in _KINDS), _change(parts[0]))
    if origin in {Union, UnionType}:
        # Of several messages each knows its own fields; all else is one kind of time, or None.
        return next((found for part in parts if (found := _change(part)) is not None), None)
    if origin is tuple and (inner := _change(parts[0])) is not None:
        return lambda value, moment, seconds: tuple(inner(each, moment, seconds) for each in value)
    return _turned if isinstance(hint, type) and issubclass(hint, WireMessage) else None


_KINDS: Mapping[object, _Change] = {
    MOMENT: lambda value, moment, _: moment(value),
    SECONDS: lambda value, _, seconds: seconds(value),
}
