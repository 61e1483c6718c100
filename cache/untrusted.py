"""The border: JSON, text and numbers from outside, made fit for everything behind it (pure).

What has passed can be encoded, printed, logged, stored and sent by everybody: no text has half
of a surrogate pair or a control character, no number is infinite or beyond 64 bits, nothing is
nested deeper than anybody's recursion goes. Nobody behind the border asks again.

There is one function for each kind of sender:

- `decode_message`: a program that speaks to us now (commands, sockets, requests). What is
  ambiguous is refused; texts are cleaned, for half of an emoji in a reason is no reason to
  leave a command undone. A field that is null is as good as not there.
- `decode_answer`: an engine. What cannot be used is null, and whoever reads it knows what to do.
- `decode_document`: a file. As an answer, but foreign texts and whole numbers stay as they
  are, because the file is written again with all that was in it.
- `decode_sheet`: a file that a person wrote and will mend: all is left to be told by its place.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Final, cast

from pydantic import Field

MAX_DEPTH: Final = 64
"""Objects and arrays within one another. Python's own encoders give up at some hundreds."""

UNIX_TIME_LIMIT: Final = float(2**33)
"""Seconds: the year 2242. What lies beyond was never the time of day."""

UnixTime = Annotated[float, Field(ge=0, le=UNIX_TIME_LIMIT, allow_inf_nan=False)]
"""A time of day that somebody wrote down, in seconds."""

REPLACEMENT: Final = "\N{REPLACEMENT CHARACTER}"

_MOST_DIGITS: Final = 20
_LEAST, _MOST = -(2**63), 2**64 - 1
_DIGITS: Final = re.compile(r"[0-9]{1,18}", re.ASCII)
# Tabs and line ends are text; the other controls move a terminal's cursor or end a C string.
_UNFIT: Final = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff]")
_PLAIN: Final = re.compile(r"[\t\n\r -~]*")
"""All of a text such as a picture in base64, which is known by it three times as fast."""


class Unfit(ValueError):
    """Something from outside that cannot be taken; the message says what was expected."""


class NotJson(Unfit):
    """Bytes that are no JSON at all, or such that nobody could read."""


def clean_text(text: str) -> str:
    """A text with a replacement character for each that nothing can draw, send or print."""
    return _UNFIT.sub(REPLACEMENT, text)


def one_line(text: str, most: int) -> str:
    """What a person wrote (a name, a reason), cleaned, in one line of `most` characters."""
    return " ".join(clean_text(text).split())[:most].rstrip()


def whole_number(text: str, low: int, high: int) -> int | None:
    """A whole number out of an address or a query, from `low` to `high`; None for none."""
    digits = text.removeprefix("-")
    if _DIGITS.fullmatch(digits) is None:
        return None
    number = int(text)
    return number if low <= number <= high else None


def decode_message(data: bytes | str) -> Any:  # noqa: ANN401 - whatever JSON holds
    """Read JSON of a program that speaks to us: strictly, texts cleaned, nulls left out.

    Raises:
        Unfit: it is no JSON in Unicode, names a field twice, is nested deeper than
            `MAX_DEPTH`, or has a number that is infinite, none, or beyond 64 bits.
    """
    value = _loaded(
        _text_of(data),
        parse_constant=_refused,
        parse_float=_finite,
        parse_int=_within_64_bits,
        object_pairs_hook=_unambiguous,
    )
    return _walked(value, clean=True, nulls=False)


def fit_json(data: bytes | str) -> bytes:
    """The same as `decode_message`, as JSON again: for models that read JSON themselves.

    Raises:
        Unfit: see there.
    """
    return json.dumps(decode_message(data), separators=(",", ":")).encode()


def decode_answer(data: bytes | str) -> Any:  # noqa: ANN401 - whatever JSON holds
    """Read JSON of an engine: texts cleaned, numbers that are none or too large are null.

    Raises:
        Unfit: it is no JSON, or nested deeper than `MAX_DEPTH`.
    """
    value = _loaded(
        _text_of(data),
        parse_constant=lambda _: None,
        parse_float=_finite_or_none,
        parse_int=_within_64_bits_or_none,
    )
    return _walked(value, clean=True, nulls=True)


def decode_document(text: str) -> Any:  # noqa: ANN401 - whatever JSON holds
    """Read JSON of a file; NaN and infinities, which are not JSON, are null.

    Raises:
        Unfit: it is no JSON, or nested deeper than `MAX_DEPTH`.
    """
    value = _loaded(
        text.removeprefix("\ufeff"),
        parse_constant=lambda _: None,
        parse_float=_finite_or_none,
    )
    return _walked(value, clean=False, nulls=True)


def decode_sheet(text: str) -> tuple[Any, list[str]]:
    """Read JSON that a person wrote, and is told by its place what is wrong in it.

    So nothing is mended; that it is not nested too deep is all that is sure.

    Returns:
        The value, and the names of fields that stand twice in one object: the last counts.

    Raises:
        Unfit: it is no JSON, or nested deeper than `MAX_DEPTH`.
    """
    twice: list[str] = []

    def noted(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        fields = dict(pairs)
        if len(fields) != len(pairs):
            names = [name for name, _ in pairs]
            twice.extend(name for name in fields if names.count(name) > 1)
        return fields

    value = _loaded(text.removeprefix("\ufeff"), object_pairs_hook=noted)
    return _walked(value, clean=False, nulls=True), twice


def mended(value: object, depth: int = 0) -> Any:  # noqa: ANN401, PLR0911 - a JSON value; a case each
    """Anything at all, as a JSON value that every encoder takes.

    For writers that must not fail: what they cannot write, they write as well as it goes.
    """
    match value:
        case None | bool():
            return value
        case str():
            return clean_text(value)
        case int():
            return int(value) if _LEAST <= value <= _MOST else None
        case float():
            return value if math.isfinite(value) else None
        case dict() | list() | tuple() | set() | frozenset() if depth > MAX_DEPTH:
            return "…"
        case Mapping():
            fields = cast("Mapping[object, object]", value).items()
            return {clean_text(str(key)): mended(each, depth + 1) for key, each in fields}
        case list() | tuple() | set() | frozenset():
            return [mended(each, depth + 1) for each in cast("list[object]", value)]
        case _:
            return clean_text(f"{value!r:.200}")


# ---------------------------------------------------------------- how it is read


def _text_of(data: bytes | str) -> str:
    if isinstance(data, str):
        return data.removeprefix("\ufeff")
    encoding = json.detect_encoding(data)  # knows byte order marks
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        raise NotJson(f"expected JSON in UTF-8; byte {error.start} is not") from None


def _loaded(text: str, **hooks: Callable[[Any], Any]) -> Any:  # noqa: ANN401 - whatever JSON holds
    try:
        return json.loads(text, **hooks)  # type: ignore[arg-type]
    except Unfit:
        raise
    except json.JSONDecodeError as error:
        place = f"line {error.lineno}, column {error.colno}"
        raise NotJson(f"no JSON: {place}: {error.msg}") from None
    except RecursionError:
        raise _too_deep() from None
    except ValueError as error:  # a number of more digits than Python reads
        raise NotJson(f"no JSON: {error}") from None


def _too_deep() -> Unfit:
    return NotJson(f"nested too deeply: expected {MAX_DEPTH} objects within one another at most")


def _walked(value: Any, *, clean: bool, nulls: bool) -> Any:  # noqa: ANN401 - whatever JSON holds
    """The value with its depth looked at, and what is unfit in it mended in place."""
    if isinstance(value, str):
        return clean_text(value) if clean else value
    waiting: list[tuple[Any, int]] = [(value, 1)] if isinstance(value, dict | list) else []
    while waiting:
        here, depth = waiting.pop()
        if depth > MAX_DEPTH:
            raise _too_deep()
        if isinstance(here, dict):
            _mend_fields(here, clean=clean, nulls=nulls)
        # The size of `here` stays: it may be changed while it is walked through.
        for place, item in here.items() if isinstance(here, dict) else enumerate(here):
            if isinstance(item, dict | list):
                waiting.append((item, depth + 1))
            elif clean and isinstance(item, str) and _is_unfit(item):
                here[place] = clean_text(item)
    return value


def _is_unfit(text: str) -> bool:
    return _PLAIN.fullmatch(text) is None and _UNFIT.search(text) is not None


def _mend_fields(fields: dict[str, Any], *, clean: bool, nulls: bool) -> None:
    """Take out fields that are null, and clean names, where that is asked for."""
    if not nulls and None in fields.values():
        for name in [name for name, item in fields.items() if item is None]:
            del fields[name]
    if clean and any(_is_unfit(name) for name in fields):
        renamed = [(clean_text(name), item) for name, item in fields.items()]
        fields.clear()
        fields.update(renamed)


def _refused(word: str) -> None:
    raise Unfit(f"expected a number, found {word}, which is not JSON")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise Unfit(f"expected a number within the range of floating point, found {text:.40}")
    return number


def _finite_or_none(text: str) -> float | None:
    number = float(text)
    return number if math.isfinite(number) else None


def _within_64_bits(text: str) -> int:
    number = _within_64_bits_or_none(text)
    if number is None:
        raise Unfit(f"expected a number within 64 bits, found {text:.40}")
    return number


def _within_64_bits_or_none(text: str) -> int | None:
    if len(text) > _MOST_DIGITS:
        return None
    number = int(text)
    return number if _LEAST <= number <= _MOST else None


def _unambiguous(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        twice = Counter(name for name, _ in pairs).most_common(1)[0][0]
        raise Unfit(f"the field {clean_text(twice)!r:.60} stands twice in one object")
    return fields
