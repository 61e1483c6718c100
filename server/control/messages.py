"""The control wire, protocol 1: what passes between the server and a technician (pure).

Beside the messages of every JSON socket (`server/sockets/messages.py`). `at` of a logged command
is Unix time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, Field

from cache.encoding import json_text
from cache.untrusted import one_line
from server.network.access import Role
from server.sockets.messages import BY_TYPE, Hello, MessageDecoder, SyncRequest, WireMessage

PROTOCOL = 1
MAX_TEXT_BYTES = 64 * 1024
"""Longest message a technician may send."""

_MAX_NAME = 64


class TechnicianHello(Hello):
    """The first message: who it is. The name is for people, and scopes the ids of commands."""

    name: Annotated[
        str, Field(max_length=_MAX_NAME), AfterValidator(lambda name: one_line(name, _MAX_NAME))
    ] = ""


class CommandMessage(WireMessage):
    """Something to be done; see `Envelope` for how it is to be taken."""

    type: Literal["command"] = "command"
    id: Annotated[str, Field(max_length=128)] | int | None = None
    command: str = Field(max_length=128)
    args: Mapping[str, Any] = Field(default_factory=dict)
    ttl: float | None = Field(default=None, allow_inf_nan=False)
    sent_at: float | None = Field(default=None, allow_inf_nan=False)


FromTechnician = Annotated[TechnicianHello | CommandMessage | SyncRequest, BY_TYPE]
decode: Final[MessageDecoder[FromTechnician]] = MessageDecoder(FromTechnician, MAX_TEXT_BYTES)
"""Reads one message of a technician."""


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


def _encode(message: Mapping[str, Any]) -> str:
    return json_text(message, place="control")
