"""Changing one cue in the text of a cue sheet, all else staying as it was written (pure).

A sheet is somebody's file: its order, its unknown fields, the spelling of its numbers and its line
ends are theirs. So it is not read and written anew: the place of a field is found in the text, and
what stands there is exchanged.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from cache.untrusted import Unfit, decode_sheet

_SPACE: Final = re.compile(r"[ \t\r\n]*")
_MARK: Final = "\N{ZERO WIDTH NO-BREAK SPACE}"
"""What some editors put before a text: the byte order mark."""

_DECODER: Final = json.JSONDecoder()
_USUAL_STEP: Final = "  "


class NoSuchCue(LookupError):
    """The sheet has no cue of that number."""


class Span(NamedTuple):
    """A piece of a text: from the character `start` up to `stop`."""

    start: int
    stop: int

    def of(self, text: str) -> str:
        """What stands there."""
        return text[self.start : self.stop]


class _Field(NamedTuple):
    """A field of an object in a text: where its name and its value stand."""

    name: str
    key: Span
    value: Span


def cue_spans(text: str) -> list[Span]:
    """Where each cue of a sheet stands in its text, in their order.

    Raises:
        Unfit: it is no JSON, or holds no array of cues.
    """
    decode_sheet(text)  # from here on it is known to be JSON, and not too deep to be read
    at = _past_space(text, 1 if text.startswith(_MARK) else 0)
    if text[at] == "{":
        # Of a name that stands twice the last counts, as for whoever reads the sheet.
        found = [each.value.start for each in _fields(text, at) if each.name == "cues"]
        at = found[-1] if found else at
    if text[at] != "[":
        raise Unfit('expected an array of cues, or an object with an array "cues"')
    return _items(text, at)


def edit_cue(text: str, index: int, changes: Mapping[str, Any]) -> str:
    """The text of a sheet in which some fields of one cue are others.

    What a field had before its change and after it, and all other fields, stay character for
    character; so does all of the text outside of the cue. A value that is already there is not
    written again.

    Args:
        text: of the sheet, with or without a byte order mark.
        index: which cue, from 0.
        changes: new values by field; None takes a field away.

    Raises:
        NoSuchCue: there is none of that number, or it is no object.
        Unfit: the sheet is no JSON, or holds no array of cues.
        ValueError: a value has no form in JSON: a number that is infinite, or none.
    """
    spans = cue_spans(text)
    if not 0 <= index < len(spans) or text[spans[index].start] != "{":
        raise NoSuchCue(f"expected the number of a cue, from 0 to {len(spans) - 1}, not {index}")
    span = spans[index]
    layout = _Layout.of(text, span)
    cue = span.of(text)
    for name, value in changes.items():
        cue = _without(cue, name) if value is None else _with(cue, name, value, layout)
    return text[: span.start] + cue + text[span.stop :]


# ---------------------------------------------------------------- how it is written


@dataclass(frozen=True, slots=True)
class _Layout:
    """How whoever wrote a cue lays it out.

    Attributes:
        escapes: whether only characters of ASCII stand in the sheet, the others escaped.
        newline: how its lines end.
        margin: the white space that a line of one of the cue's fields begins with.
        step: by how much what is within something is further in.
    """

    escapes: bool
    newline: str
    margin: str
    step: str

    @classmethod
    def of(cls, text: str, span: Span) -> _Layout:
        """That of the cue at `span`."""
        cue = span.of(text)
        fields = _fields(cue, 0)
        margin = _indentation(cue[: fields[0].key.start]) if fields else None
        closing = _indentation(cue[:-1])
        step = None
        if margin is not None and closing is not None and margin.startswith(closing):
            step = margin.removeprefix(closing)
        return cls(
            escapes=text.isascii() and "\\u" in text,
            newline="\r\n" if "\r\n" in text else "\n",
            margin=margin or "",
            step=step or _USUAL_STEP,
        )

    def written(self, value: object, *, over_lines: bool) -> str:
        """A value as JSON.

        Args:
            value: what JSON holds.
            over_lines: whether an array or an object takes a line for each of its parts.
        """
        escapes = self.escapes or not _fits_utf8(value)
        if not over_lines:
            return json.dumps(value, ensure_ascii=escapes, allow_nan=False)
        lines = json.dumps(value, ensure_ascii=escapes, allow_nan=False, indent=self.step)
        # No text within has a raw line end: JSON escapes those.
        return lines.replace("\n", self.newline + self.margin)


def _fits_utf8(value: object) -> bool:
    """Whether it can be written as it is; what is odd in it is told by who reads the sheet."""
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False
    return True


def _indentation(text: str) -> str | None:
    """The white space of the last line of `text`; None where there is more on it than that."""
    line = re.split(r"[\r\n]", text)[-1]
    return line if line != text and not line.strip(" \t") else None


def _with(cue: str, name: str, value: object, layout: _Layout) -> str:
    fields = _fields(cue, 0)
    same = [each for each in fields if each.name == name]
    if same:
        place = same[-1].value  # of a name that stands twice the last counts
        before = place.of(cue)
        # By their spelling: 1 and 1.0 and true are equal, and not the same.
        if _spelling(_DECODER.decode(before)) == _spelling(value):
            return cue
        over_lines = "\n" in before or "\r" in before
        return cue[: place.start] + layout.written(value, over_lines=over_lines) + cue[place.stop :]
    written = layout.written(value, over_lines=False)
    key = json.dumps(name, ensure_ascii=layout.escapes or not _fits_utf8(name))
    if not fields:
        return f"{{{key}: {written}}}"
    last = fields[-1]
    colon = cue[last.key.stop : last.value.start]
    comma = cue[fields[-2].value.stop : last.key.start] if len(fields) > 1 else ", "
    at = last.value.stop
    return cue[:at] + comma + key + colon + written + cue[at:]


def _without(cue: str, name: str) -> str:
    while True:
        fields = _fields(cue, 0)
        found = [n for n, each in enumerate(fields) if each.name == name]
        if not found:
            return cue
        n = found[-1]
        if n + 1 < len(fields):
            start, stop = fields[n].key.start, fields[n + 1].key.start
        elif n > 0:  # the comma before it goes with it
            start, stop = fields[n - 1].value.stop, fields[n].value.stop
        else:
            start, stop = fields[n].key.start, fields[n].value.stop
        cue = cue[:start] + cue[stop:]


def _spelling(value: object) -> str:
    return json.dumps(value)


# ---------------------------------------------------------------- where things stand


def _items(text: str, at: int) -> list[Span]:
    """Where each item of the array stands that begins `at`."""
    found: list[Span] = []
    at = _past_space(text, at + 1)
    while text[at] != "]":
        _, stop = _DECODER.raw_decode(text, at)
        found.append(Span(at, stop))
        at = _past_comma(text, stop)
    return found


def _fields(text: str, at: int) -> list[_Field]:
    """The fields of the object that begins `at`."""
    found: list[_Field] = []
    at = _past_space(text, at + 1)
    while text[at] != "}":
        name, key_stop = _DECODER.raw_decode(text, at)
        value_start = _past_space(text, _past_space(text, key_stop) + 1)
        _, stop = _DECODER.raw_decode(text, value_start)
        found.append(_Field(name, Span(at, key_stop), Span(value_start, stop)))
        at = _past_comma(text, stop)
    return found


def _past_comma(text: str, at: int) -> int:
    at = _past_space(text, at)
    return _past_space(text, at + 1) if text[at] == "," else at


def _past_space(text: str, at: int) -> int:
    found = _SPACE.match(text, at)
    return at if found is None else found.end()
