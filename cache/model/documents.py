"""JSON documents in a store: read forgivingly, written strictly (pure).

What other programs wrote is taken as far as it can be understood; what could not be is
told in remarks rather than lost in silence. What we write is exactly to the contract.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final, TypeVar

from cache.untrusted import Unfit, clean_text, decode_document

T = TypeVar("T")

FINGERPRINT_PATTERN: Final = r"^sha256:[0-9a-f]{64}$"
FINGERPRINT: Final = re.compile(FINGERPRINT_PATTERN, re.ASCII)
SHA256_PATTERN: Final = r"^[0-9a-f]{64}$"

_SHOWN_LENGTH: Final = 60
_HEX: Final = frozenset("0123456789abcdef")


class FormatError(ValueError):
    """A document that cannot be understood, or may not be written like this.

    Attributes:
        place: its key or file.
        problems: one sentence each: where in it, what was expected, what was found.
    """

    def __init__(self, place: str, problems: Sequence[str]) -> None:
        super().__init__(f"{place}: {'; '.join(problems)}")
        self.place = place
        self.problems = tuple(problems)


class WrongVersion(FormatError):
    """A document of another major version: it may be right, but it is not for us to touch."""


class Fields:
    """The fields of a JSON object, taken out one by one.

    Each ``take_…`` removes a field and returns its value, or None where it is missing, null
    or unusable; the last leaves a remark. What is never taken is in `rest`.
    """

    def __init__(self, raw: Mapping[str, Any], where: str = "") -> None:
        """Begin with all fields there.

        Args:
            raw: the object; it is copied.
            where: put before each remark, to say in which part of a document it is.
        """
        self.rest = dict(raw)
        self.remarks: list[str] = []
        self._where = where

    def remark(self, name: str, expected: str, found: object) -> None:
        """Note that a field is unusable."""
        self.remarks.append(f"{self._where}{name}: expected {expected}, found {shown(found)}")

    def take(self, name: str) -> Any:  # noqa: ANN401  # whatever JSON holds
        """Take a field as it is."""
        return self.rest.pop(name, None)

    def take_text(self, name: str) -> str | None:
        """Take a text, cleaned: it is told, sent and written down by others."""
        return self._take(
            name, "a text", lambda value: clean_text(value) if isinstance(value, str) else None
        )

    def take_whole(self, name: str, low: int, high: int) -> int | None:
        """Take a whole number from `low` to `high`; a text that is one will do."""

        def within(value: object) -> int | None:
            number = whole(value)
            return number if number is not None and low <= number <= high else None

        return self._take(name, f"a whole number from {low} to {high}", within)

    def take_seconds(self, name: str) -> float | None:
        """Take a number of seconds, 0 or more."""

        def seconds(value: object) -> float | None:
            number = real(value)
            return number if number is not None and number >= 0 else None

        return self._take(name, "seconds", seconds)

    def take_time(self, name: str) -> datetime | None:
        """Take an ISO 8601 time, as UTC; one without a zone is taken for UTC."""
        return self._take(name, "a time such as 2026-11-20T10:30:00Z", _time)

    def take_fingerprint(self, name: str) -> str | None:
        """Take a fingerprint: ``sha256:`` and 64 lower-case hexadecimal digits."""

        def fingerprint(value: object) -> str | None:
            return value if isinstance(value, str) and FINGERPRINT.fullmatch(value) else None

        return self._take(name, "sha256: and 64 lower-case hexadecimal digits", fingerprint)

    def take_object(self, name: str) -> dict[str, Any]:
        """Take an object; where it is missing or unusable, an empty one."""
        value = self.rest.pop(name, None)
        if isinstance(value, dict):
            return value
        if value is not None:
            self.remark(name, "an object", value)
        return {}

    def _take(self, name: str, expected: str, read: Callable[[Any], T | None]) -> T | None:
        """Take a field as it is read, with a remark where it cannot be."""
        value = self.rest.pop(name, None)
        if value is None:
            return None
        taken = read(value)
        if taken is None:
            self.remark(name, expected, value)
        return taken


def _time(value: Any) -> datetime | None:  # noqa: ANN401 - whatever JSON holds
    try:
        time = datetime.fromisoformat(value)
        return time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)
    except (TypeError, ValueError, OverflowError):
        return None


def is_sha256(text: str) -> bool:
    """Whether a text is a SHA-256 in lower-case hexadecimal."""
    return len(text) == 64 and _HEX.issuperset(text)  # noqa: PLR2004  # 256 bits, 4 a digit


def real(value: object) -> float | None:
    """A finite number, from a number or a text that is one; None from anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def whole(value: object) -> int | None:
    """A whole number, from a number or a text that is one; None from anything else."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    if isinstance(value, str):
        try:
            return int(value)
        except ValueError:
            pass
    number = real(value)
    return int(number) if number is not None and number.is_integer() else None


def shown(value: object) -> str:
    """A value as messages show it: as Python writes it, shortened."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # an integer, or a nesting, beyond what repr takes
        text = type(value).__name__
    return text if len(text) <= _SHOWN_LENGTH else f"{text[:_SHOWN_LENGTH]}…"


def read_object(data: bytes, place: str) -> tuple[dict[str, Any], list[str]]:
    """Read a document that is one JSON object.

    UTF-8 is expected, with or without a byte order mark; UTF-16 and UTF-32 are recognised,
    and anything else is read as Windows' Western European with a remark, so that one
    é in a prompt loses no set. NaN and infinities, which are not JSON, become null.

    Returns:
        The object, and remarks.

    Raises:
        FormatError: it is not JSON, or not an object.
    """
    text, remarks = _decode(data)
    try:
        value = decode_document(text)
    except Unfit as error:
        raise FormatError(place, [f"expected a JSON object: {error}"]) from error
    if not isinstance(value, dict):
        raise FormatError(place, [f"expected a JSON object, found {shown(value)}"])
    return value, remarks


def write_object(fields: Mapping[str, Any], place: str) -> bytes:
    """Write a document: UTF-8, two spaces of indentation, fields as ordered, a last newline.

    Raises:
        FormatError: a value has no JSON form (NaN, a foreign type, nested too deep).
    """
    return f"{_json(fields, place, indent=2)}\n".encode()


def write_index(
    head: Mapping[str, Any], name: str, entries: Mapping[str, Any], place: str
) -> bytes:
    """Write a document whose last field holds many entries: one line each.

    So one more entry is one more line of difference, and 20,000 of them take no second.

    Args:
        head: the fields before.
        name: the last field.
        entries: what it holds.
        place: the document's key, for messages.

    Raises:
        FormatError: a value has no JSON form (NaN, a foreign type, nested too deep).
    """
    rows = [f"    {_json(key, place)}: {_json(value, place)}" for key, value in entries.items()]
    body = "{\n" + ",\n".join(rows) + "\n  }" if rows else "{}"
    fields = [f"  {_json(key, place)}: {_json(value, place)}" for key, value in head.items()]
    fields.append(f"  {_json(name, place)}: {body}")
    return ("{\n" + ",\n".join(fields) + "\n}\n").encode()


def _json(value: object, place: str, indent: int | None = None) -> str:
    """A value as JSON text that can be encoded in UTF-8."""
    try:
        text = json.dumps(value, indent=indent, ensure_ascii=False, allow_nan=False)
        # Half a surrogate pair, in a foreign field, can only be written as \u.
        if not text.isascii() and any("\ud800" <= character <= "\udfff" for character in text):
            text = json.dumps(value, indent=indent, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise FormatError(place, [f"cannot be written as JSON: {error}"]) from error
    return text


def utc_text(time: datetime) -> str:
    """A time as documents have it: ``2026-11-20T10:30:00Z``, with microseconds if it has any.

    Raises:
        ValueError: the time has no zone.
    """
    if time.tzinfo is None:
        raise ValueError(f"expected a time with a zone, found {time}")
    return time.astimezone(UTC).isoformat().removesuffix("+00:00") + "Z"


def _decode(data: bytes) -> tuple[str, list[str]]:
    encoding = json.detect_encoding(data)
    try:
        return data.decode(encoding), []
    except UnicodeDecodeError:
        text = data.decode("cp1252", errors="replace")
        return text, ["expected UTF-8, found other bytes: read as Windows-1252"]
