"""What the JSON sockets have in common on the wire: reading a message, hello, sync, error (pure).

All messages are JSON objects with a `type`. Times are in seconds on the server's steady clock.
A socket's own messages extend `WireMessage`; those that come in stand in one union, which a
`MessageDecoder` reads.
"""

from __future__ import annotations

from typing import Any, Final, Generic, Literal, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from cache.encoding import json_text
from cache.untrusted import NotJson, Unfit, fit_json
from server.core.refusal import Refused

M = TypeVar("M", bound="WireMessage")

BY_TYPE: Final = Field(discriminator="type")
"""Tells the messages of a union apart."""


class MessageError(Refused):
    """A message that cannot be taken."""


class WireMessage(BaseModel):
    """A message or a part of one; compared by value, sent without its empty fields' noise."""

    model_config = ConfigDict(frozen=True, populate_by_name=True, extra="ignore")

    def encode(self) -> str:
        """The text that goes over the wire."""
        try:
            return self.model_dump_json(by_alias=True)
        except ValueError:  # half a character: a message that is mended is better than none
            return json_text(self.model_dump(by_alias=True), place="sockets")


class Hello(WireMessage):
    """The first message on a socket: which protocol is spoken, and what lets the sender in."""

    type: Literal["hello"] = "hello"
    protocol: int
    token: str | None = Field(default=None, max_length=512, repr=False)


class SyncRequest(WireMessage):
    """One sample of clock synchronisation; `t0` is the sender's own time, sent back as it came."""

    type: Literal["sync"] = "sync"
    t0: float = Field(allow_inf_nan=False)


class SyncReply(WireMessage):
    """`t1` is when the server had the request, `t2` when it answered."""

    type: Literal["sync"] = "sync"
    t0: float
    t1: float
    t2: float


class ErrorReply(WireMessage):
    """What was sent was not taken, and why; `code` is a stable word for it."""

    type: Literal["error"] = "error"
    code: str
    message: str


class MessageDecoder(Generic[M]):
    """Reads the messages of one kind of sender, told apart by their `type`.

    Args:
        union: the messages, as ``Annotated[One | Other, BY_TYPE]``.
        max_bytes: the longest text.
    """

    def __init__(self, union: Any, max_bytes: int) -> None:  # noqa: ANN401 - a union is no class
        self._adapter: TypeAdapter[M] = TypeAdapter(union)
        self._max_bytes = max_bytes
        types = [each.model_fields["type"].default for each in get_args(get_args(union)[0])]
        self._types = f"{', '.join(types[:-1])} or {types[-1]}"

    def __call__(self, text: str) -> M:
        """Read one message.

        Raises:
            MessageError: `too_large`, `malformed` (no JSON object), `unknown_type` or `invalid`.
        """
        size = len(text.encode(errors="surrogatepass"))
        if size > self._max_bytes:
            raise MessageError(
                "too_large", f"a message may have {self._max_bytes} bytes, not {size}"
            )
        expected = "expected a JSON object with a type"
        try:
            return self._adapter.validate_json(fit_json(text))
        except NotJson as error:
            raise MessageError("malformed", f"{expected}: {error}") from None
        except Unfit as error:
            raise MessageError("invalid", str(error)) from None
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False, include_context=False)[0]
            kind, place = first["type"], ".".join(str(part) for part in first["loc"])
            if kind.startswith("union_tag"):
                raise MessageError("unknown_type", f"expected type {self._types}") from None
            if kind == "json_invalid" or not place:
                raise MessageError("malformed", expected) from None
            raise MessageError("invalid", f"{place}: {first['msg']}") from None
