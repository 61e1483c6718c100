"""The control wire, protocol 1: what passes between the server and a technician (pure).

All messages are JSON objects with a `type`. Times are seconds on the server's steady clock,
but for `at` of a logged command, which is Unix time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from cache.encoding import json_text
from cache.untrusted import NotJson, Unfit, fit_json, one_line
from server.access import Role
from server.stage.messages import MessageError

PROTOCOL = 1
MAX_TEXT_BYTES = 64 * 1024
"""Longest message a technician may send."""

_MAX_NAME = 64


class _Message(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class TechnicianHello(_Message):
    """The first message: who it is. The name is for people, and scopes the ids of commands."""

    type: Literal["hello"] = "hello"
    protocol: int
    token: str | None = Field(default=None, max_length=512, repr=False)
    name: Annotated[
        str, Field(max_length=_MAX_NAME), AfterValidator(lambda name: one_line(name, _MAX_NAME))
    ] = ""


class Command(_Message):
    """Something to be done.

    Attributes:
        id: the sender's own name for this one command.
        command: what is to be done.
        args: with what.
        ttl: seconds after which it is worth nothing any more; None for never.
        sent_at: when it was given, on the server's clock; None for just now.
    """

    type: Literal["command"] = "command"
    id: Annotated[str, Field(max_length=128)] | int | None = None
    command: str = Field(max_length=128)
    args: Mapping[str, Any] = Field(default_factory=dict)
    ttl: float | None = Field(default=None, allow_inf_nan=False)
    sent_at: float | None = Field(default=None, allow_inf_nan=False)


class TechnicianSyncRequest(_Message):
    """One sample of clock synchronisation, and a question whether the line is alive."""

    type: Literal["sync"] = "sync"
    t0: float = Field(allow_inf_nan=False)


FromTechnician = TechnicianHello | Command | TechnicianSyncRequest
_FROM_TECHNICIAN: TypeAdapter[FromTechnician] = TypeAdapter(
    Annotated[FromTechnician, Field(discriminator="type")]
)


def decode(text: str) -> FromTechnician:
    """Read one message of a technician.

    Raises:
        MessageError: `too_large`, `malformed` (no JSON object), `unknown_type` or `invalid`.
    """
    size = len(text.encode(errors="surrogatepass"))
    if size > MAX_TEXT_BYTES:
        raise MessageError("too_large", f"a message may have {MAX_TEXT_BYTES} bytes, not {size}")
    try:
        return _FROM_TECHNICIAN.validate_json(fit_json(text))
    except NotJson as error:
        raise MessageError("malformed", f"expected a JSON object with a type: {error}") from None
    except Unfit as error:
        raise MessageError("invalid", str(error)) from None
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        kind, place = first["type"], ".".join(str(part) for part in first["loc"])
        if kind.startswith("union_tag"):
            raise MessageError("unknown_type", "expected type hello, command or sync") from None
        if kind == "json_invalid" or not first["loc"]:
            raise MessageError("malformed", "expected a JSON object with a type") from None
        raise MessageError("invalid", f"{place}: {first['msg']}") from None


def welcome(role: Role, name: str, epoch: str, server_time: float, commands: Sequence[str]) -> str:
    """The answer to hello; `commands` are those that this technician may give."""
    return _encode(
        {
            "type": "welcome",
            "protocol": PROTOCOL,
            "role": role,
            "name": name,
            "epoch": epoch,
            "server_time": server_time,
            "commands": commands,
        }
    )


def state(epoch: str, seq: int, value: Mapping[str, Any]) -> str:
    """The whole state; a higher `seq` is newer, and another `epoch` is another server."""
    return _encode({"type": "state", "epoch": epoch, "seq": seq, "state": value})


def reply(command_id: str | int | None, result: Mapping[str, Any]) -> str:
    """A command was carried out."""
    return _encode({"type": "reply", "id": command_id, "ok": True, "result": result})


def refusal(command_id: str | int | None, code: str, message: str) -> str:
    """A command was not carried out; `code` is a stable word for why."""
    problem = {"code": code, "message": message}
    return _encode({"type": "reply", "id": command_id, "ok": False, "error": problem})


def sync(t0: float, t1: float, t2: float) -> str:
    """`t1` is when the server had the request, `t2` when it answered."""
    return _encode({"type": "sync", "t0": t0, "t1": t1, "t2": t2})


def error(code: str, message: str) -> str:
    """What was sent was not taken, and why."""
    return _encode({"type": "error", "code": code, "message": message})


def _encode(message: Mapping[str, Any]) -> str:
    return json_text(message, place="control")
