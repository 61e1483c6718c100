"""Keys: where everything lies in a store (pure).

The layout is the same in a folder and in a bucket::

    manifest.json
    actions/{action_id}/config.json
    actions/{action_id}/sets/{set_id}/1.jpg … N.jpg [final.jpg] meta.json
    quarantine/{action_id}/{token}/actions/{action_id}/sets/0/1.jpg … meta.json

A run that was played live and is not yet approved of lies in quarantine, in a store of its own.
Nothing that looks for sets looks there, since those are all below ``actions/``.

A key is a relative path of plain names joined by ``/``. Names that begin with a dot are no
keys: they belong to the store itself (unfinished writes, locks) and to file managers
(``.DS_Store``, ``._1.jpg``), so a listing can leave all of them out by one rule.
"""

from __future__ import annotations

import re
import unicodedata
from typing import Final, NamedTuple, NewType

Key = NewType("Key", str)
"""A name in a store that `parse_key` let through. It can never lead out of a folder."""

MAX_KEY_BYTES: Final = 1024
"""Longest key, in bytes of UTF-8: what S3 allows."""

MAX_SEGMENT_BYTES: Final = 255
"""Longest name between two slashes, in bytes of UTF-8: what file systems allow."""

MAX_SET_ID: Final = 10**9
"""Set numbers are in ``range(MAX_SET_ID)``."""

ACTION_ID_PATTERN: Final = r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}"
"""An action id is safe as one segment of a key and of a URL, unescaped."""

MANIFEST: Final = Key("manifest.json")
CONFIG_NAME: Final = "config.json"
META_NAME: Final = "meta.json"
ACTIONS_PREFIX: Final = "actions/"
QUARANTINE_PREFIX: Final = "quarantine/"

_ACTION_ID = re.compile(ACTION_ID_PATTERN, re.ASCII)
_SET_ID = re.compile(r"0|[1-9][0-9]{0,8}", re.ASCII)
_SET_KEY = re.compile(
    rf"actions/({ACTION_ID_PATTERN})/sets/({_SET_ID.pattern})/([^/]+)", re.ASCII | re.DOTALL
)

_RUN: Final = r"[0-9]{8}T[0-9]{6}Z-[0-9a-f]{6}"
_QUARANTINE_KEY = re.compile(
    rf"quarantine/({ACTION_ID_PATTERN})/({_RUN})/(.+)", re.ASCII | re.DOTALL
)
_QUARANTINE_TOKEN = re.compile(_RUN, re.ASCII)


class BadKey(ValueError):
    """A text that cannot be a key.

    Attributes:
        text: what was given.
        reason: what is wrong with it, and what was expected.
    """

    def __init__(self, text: str, reason: str) -> None:
        super().__init__(f"{text[:200]!r} is no key: {reason}")
        self.text = text
        self.reason = reason


class SetPlace(NamedTuple):
    """What a key inside a set says: whose set, which one, and the file's name in it."""

    action_id: str
    set_id: int
    name: str


class QuarantinePlace(NamedTuple):
    """What a key in quarantine says: whose run, which one, and the key in its own store."""

    action_id: str
    token: str
    within: str


def parse_key(text: str) -> Key:
    """Let a text through as a key.

    Raises:
        BadKey: it is empty, too long, absolute, leaves its folder, has hidden or empty
            names, backslashes or control characters, or is not normalised Unicode (NFC).
    """
    reason = _why_no_key(text)
    if reason is not None:
        raise BadKey(text, reason)
    return Key(text)


def parse_prefix(text: str) -> str:
    """Let a text through as the beginning of keys: empty, or a key with or without a last ``/``.

    Raises:
        BadKey: no key can begin like this.
    """
    if text:
        parse_key(text.removesuffix("/"))
    return text


def is_key(text: str) -> bool:
    """Whether `parse_key` would let it through."""
    return _why_no_key(text) is None


def _why_no_key(text: str) -> str | None:
    """The reason why a text is no key, None if it is one."""
    if not text.isascii():
        try:
            encoded = text.encode()
        except UnicodeEncodeError:
            return "it is not valid Unicode"
        # macOS takes two spellings of one é for the same file; a bucket does not.
        if not unicodedata.is_normalized("NFC", text):
            return "expected normalised Unicode (NFC)"
    else:
        encoded = text.encode()
    if len(encoded) > MAX_KEY_BYTES:
        return f"it has {len(encoded)} bytes, expected at most {MAX_KEY_BYTES}"
    if "\\" in text:
        return "a backslash is not allowed, names are joined by '/'"
    if not text.isprintable() and any(unicodedata.category(char) == "Cc" for char in text):
        return "control characters are not allowed"
    return next((why for why in map(_why_no_segment, text.split("/")) if why), None)


def _why_no_segment(segment: str) -> str | None:
    if not segment:
        return "expected a relative path without empty names, such as actions/a/sets/0/1.jpg"
    if segment in {".", ".."}:
        return f"{segment!r} is not allowed as a name"
    if segment.startswith("."):
        return f"{segment[:80]!r} is hidden; names beginning with a dot are the store's own"
    if len(segment.encode()) > MAX_SEGMENT_BYTES:
        return f"a name has more than {MAX_SEGMENT_BYTES} bytes"
    return None


def is_action_id(text: str) -> bool:
    """Whether a text can be an action's id: see `ACTION_ID_PATTERN`."""
    return _ACTION_ID.fullmatch(text) is not None


def config_key(action_id: str) -> Key:
    """Where an action's own description lies.

    Raises:
        BadKey: `action_id` is no action id.
    """
    return Key(f"{action_prefix(action_id)}{CONFIG_NAME}")


def meta_key(action_id: str, set_id: int) -> Key:
    """Where a set's meta lies.

    Raises:
        BadKey: `action_id` is no action id, or `set_id` no set number.
    """
    return Key(f"{set_prefix(action_id, set_id)}{META_NAME}")


def image_key(action_id: str, set_id: int, name: str) -> Key:
    """Where one file of a set lies.

    Raises:
        BadKey: `action_id` is no action id, `set_id` no set number, or `name` not one name.
    """
    if "/" in name:
        raise BadKey(name, "expected one name, without a slash")
    return parse_key(f"{set_prefix(action_id, set_id)}{name}")


def action_prefix(action_id: str) -> str:
    """What the keys of all of an action begin with, the last ``/`` included.

    Raises:
        BadKey: `action_id` is no action id.
    """
    if not is_action_id(action_id):
        raise BadKey(action_id, f"expected an action id ({ACTION_ID_PATTERN})")
    return f"{ACTIONS_PREFIX}{action_id}/"


def set_prefix(action_id: str, set_id: int) -> str:
    """What the keys of a set begin with, the last ``/`` included.

    Raises:
        BadKey: `action_id` is no action id, or `set_id` no set number.
    """
    if not 0 <= set_id < MAX_SET_ID:
        raise BadKey(str(set_id), f"expected a set number from 0 to {MAX_SET_ID - 1}")
    return f"{action_prefix(action_id)}sets/{set_id}/"


def set_place(key: str) -> SetPlace | None:
    """Which set a key lies in, None for keys outside of sets.

    A set number written in another way than `set_prefix` does (``007``) is not a set.
    """
    match = _SET_KEY.fullmatch(key)
    return SetPlace(match[1], int(match[2]), match[3]) if match else None


def quarantine_prefix(action_id: str, token: str) -> str:
    """What the keys of a run in quarantine begin with, the last ``/`` included.

    Raises:
        BadKey: `action_id` is no action id, or `token` not when the run was kept and six
            hexadecimal digits, such as ``20261120T103000Z-0a1b2c``.
    """
    if not is_action_id(action_id):
        raise BadKey(action_id, f"expected an action id ({ACTION_ID_PATTERN})")
    if _QUARANTINE_TOKEN.fullmatch(token) is None:
        raise BadKey(token, "expected a token such as 20261120T103000Z-0a1b2c")
    return f"{QUARANTINE_PREFIX}{action_id}/{token}/"


def quarantine_place(key: str) -> QuarantinePlace | None:
    """Which run in quarantine a key lies in, None for all other keys."""
    match = _QUARANTINE_KEY.fullmatch(key)
    return QuarantinePlace(match[1], match[2], match[3]) if match else None
