"""What a webhook may be: checked before it is kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import httpx
from pydantic import SecretStr

from generator.guarded_outgoing import NOWHERE_ELSE, AddressRefused, Reach, checked_address
from generator.hook_secrets import WANTED, is_secret, new_secret
from generator.jobs.store import EventType
from server.studio.hooks.messages import EVENT_TYPES, USUAL_EVENTS

_FIELDS: Final = frozenset({"url", "secret", "events"})
_DEFAULT_PORT: Final = {"http": 80, "https": 443}


class BadHook(ValueError):
    """A hook that cannot be kept; the message says what was expected.

    Attributes:
        field: which of its fields is wrong, None for the whole.
    """

    def __init__(self, field: str | None, message: str) -> None:
        super().__init__(message)
        self.field = field


@dataclass(frozen=True, slots=True)
class NewHook:
    """A hook that was checked.

    Attributes:
        url: whom it tells.
        host: of that, with its port.
        events: of what.
        secret: signs what is sent.
    """

    url: str
    host: str
    events: tuple[EventType, ...]
    secret: SecretStr


def checked_hook(document: object, reach: Reach = NOWHERE_ELSE) -> NewHook:
    """Read a hook as a member gives it: ``{"url": …, "secret"?: …, "events"?: […]}``.

    Without a secret it gets one of its own.

    Args:
        document: decoded JSON.
        reach: `[studio] hooks_may_reach`.

    Raises:
        BadHook: it cannot be kept.
    """
    if not isinstance(document, Mapping):
        raise BadHook(None, 'expected {"url": "https://…"}')
    for name in document:
        if name not in _FIELDS:
            raise BadHook(str(name), f"expected {', '.join(sorted(_FIELDS))} and nothing else")
    url = document.get("url")
    if not isinstance(url, str):
        raise BadHook("url", "expected an address such as https://host/path")
    try:
        parts = checked_address(url, reach)
    except AddressRefused as error:
        raise BadHook("url", str(error)) from None
    return NewHook(
        url=url,
        host=_host_of(parts),
        events=_events(document.get("events")),
        secret=_secret(document.get("secret")),
    )


def _host_of(parts: httpx.URL) -> str:
    host = parts.raw_host.decode("ascii").removesuffix(".")
    return f"{host}:{parts.port or _DEFAULT_PORT[parts.scheme]}"


def _events(value: object) -> tuple[EventType, ...]:
    if value is None:
        return USUAL_EVENTS
    known = {name: name for name in EVENT_TYPES}
    if not isinstance(value, Sequence) or isinstance(value, str | bytes) or not value:
        raise BadHook("events", f"expected a list of: {', '.join(sorted(known))}")
    for name in value:
        if not isinstance(name, str) or name not in known:
            raise BadHook(
                "events", f"expected some of: {', '.join(sorted(known))}; found {name!r:.60}"
            )
    return tuple(sorted({known[name] for name in value}))


def _secret(value: object) -> SecretStr:
    if value is None:
        return new_secret()
    text = value.get_secret_value() if isinstance(value, SecretStr) else value
    if not isinstance(text, str) or not is_secret(text):
        raise BadHook("secret", WANTED)
    return SecretStr(text)
