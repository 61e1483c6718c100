"""The time zone that `timezone = "local"` means: TZ, else what this machine is set to."""

from __future__ import annotations

import io
import struct
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from zoneinfo import ZoneInfo

NAMELESS = "local"
"""What a zone is called of which nobody knows the name; browsers know none of that name."""

_ETC = Path("/etc")


class BadZone(Exception):
    """Nothing that says where this machine is can be read as a time zone."""


def local_zone(environ: Mapping[str, str], etc: Path = _ETC) -> ZoneInfo:
    """The zone that programs on this machine take for local time, by its name where it has one.

    As the C library has it: TZ first, be it a name, a path or a rule such as
    ``CET-1CEST,M3.5.0,M10.5.0/3``; then `/etc/localtime`. UTC where there is neither.

    Args:
        environ: the environment.
        etc: where the machine's settings are.

    Raises:
        BadZone: TZ says something that is no time zone. The C library would take it for UTC
            without a word, and the show would open hours off.
    """
    if "TZ" in environ:
        return _of_environment(environ["TZ"])
    link = etc / "localtime"
    named = [_below_zoneinfo(link), _first_line(etc / "timezone")]
    of_file = _of_file(link)
    for name in named:
        zone = _named(name) if name else None
        # What Debian writes beside the link may be older than the link.
        if zone is not None and (of_file is None or name == named[0] or _alike(zone, of_file)):
            return zone
    return of_file or ZoneInfo("UTC")


def _of_environment(text: str) -> ZoneInfo:
    told = text.removeprefix(":")
    if not told:
        return ZoneInfo("UTC")
    path = Path(told)
    if path.is_absolute():
        name = _below_zoneinfo(path)
        zone = (_named(name) if name else None) or _of_file(path)
    else:
        zone = _named(told) or _of_rule(told)
    if zone is None:
        raise BadZone(
            f"local means what TZ says, and TZ is {text!r:.70}: expected a name such as "
            "Europe/Berlin. Set TZ, or name the zone here"
        )
    return zone


def _named(name: str) -> ZoneInfo | None:
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError):  # `ZoneInfoNotFoundError` is a KeyError
        return None


def _of_file(path: Path) -> ZoneInfo | None:
    try:
        with path.open("rb") as file:
            return ZoneInfo.from_file(file, key=NAMELESS)
    except (OSError, ValueError):
        return None


def _of_rule(rule: str) -> ZoneInfo | None:
    """A zone that nobody named, by the rule in which POSIX writes it."""
    if not rule.isascii() or not any(letter.isdigit() for letter in rule):
        return None
    # A file as the zone compiler writes it, with nothing in it but the rule in its footer.
    header = b"TZif2" + bytes(15) + struct.pack(">6l", 0, 0, 0, 0, 1, 4)
    block = struct.pack(">lbb", 0, 0, 0) + b"UTC\0"
    data = header + block + header + block + b"\n" + rule.encode() + b"\n"
    try:
        return ZoneInfo.from_file(io.BytesIO(data), key=NAMELESS)
    except ValueError:
        return None


def _below_zoneinfo(path: Path) -> str:
    """``Europe/Berlin`` of a file or a link to one in a folder called zoneinfo; else nothing."""
    try:
        parts = path.resolve().parts
    except (OSError, RuntimeError):  # a link that leads to itself
        return ""
    if "zoneinfo" not in parts:
        return ""
    below = parts[parts.index("zoneinfo") + 1 :]
    return "/".join(below[1:] if below[:1] in {("posix",), ("right",)} else below)


def _first_line(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii").partition("\n")[0].strip()
    except (OSError, UnicodeDecodeError):
        return ""


def _alike(one: ZoneInfo, other: ZoneInfo) -> bool:
    """Whether two zones have the same hour in the winters and summers of some years."""
    return all(
        datetime(year, month, 1, tzinfo=one).utcoffset()
        == datetime(year, month, 1, tzinfo=other).utcoffset()
        for year in range(2020, 2031, 5)
        for month in (1, 7)
    )
