"""The one dispatcher for everything a technician can ask, however it arrives.

Adapters (HTTP now; a socket, OSC and a terminal speak the same words) find out who speaks
and pass on a command's name and arguments; every caller hears the outcome. What the words
mean is told in other rooms (`server/commands.py` and its like), which hand in their handlers.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import structlog

from server.access import Role
from server.playhead import PlayheadError

_log = structlog.get_logger(__name__)

Args = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Caller:
    """Who gives a command.

    Attributes:
        role: what they may.
        name: who they are, for logs and for other people: ``http 10.0.0.7 (operator)``.
    """

    role: Role
    name: str


Handler = Callable[[Args, Caller], Awaitable[dict[str, Any]]]


class CommandError(Exception):
    """A command that was not carried out; `code` is a stable word for why."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class Commands(Protocol):
    """A room that knows what some commands mean."""

    @property
    def handlers(self) -> Mapping[str, Handler]:
        """By name; a handler raises `CommandError` or `PlayheadError`, or answers."""
        ...

    @property
    def read_only(self) -> frozenset[str]:
        """Those of them that change nothing, which a viewer may give."""
        ...


class Dispatcher:
    """Carries out commands.

    Args:
        rooms: who knows what they mean; no two know the same word.
    """

    def __init__(self, rooms: Iterable[Commands]) -> None:
        self._handlers: dict[str, Handler] = {}
        self._read_only: set[str] = set()
        for room in rooms:
            double = self._handlers.keys() & room.handlers.keys()
            if double:
                raise ValueError(f"two rooms know the command {min(double)!r}")
            self._handlers |= room.handlers
            self._read_only |= room.read_only

    @property
    def commands(self) -> tuple[str, ...]:
        """What may be asked."""
        return tuple(self._handlers)

    @property
    def read_only(self) -> frozenset[str]:
        """What a viewer may ask."""
        return frozenset(self._read_only)

    async def dispatch(self, command: str, args: Args, caller: Caller) -> dict[str, Any]:
        """Carry out `command` for `caller`.

        Raises:
            CommandError: it was not carried out, and why.
        """
        handler = self._handlers.get(command)
        if handler is None:
            known = ", ".join(self._handlers)
            raise CommandError("unknown_command", f"unknown command {command!r:.40}: try {known}")
        if caller.role != "operator" and command not in self._read_only:
            raise CommandError("forbidden", f"{command} needs the operator's token")
        try:
            result = await handler(args, caller)
        except PlayheadError as error:
            problem = CommandError(error.code, str(error))
        except CommandError as error:
            problem = error
        else:
            if command not in self._read_only:
                _log.info("command", command=command, args=dict(args), sender=caller.name, ok=True)
            return result
        _log.info(
            "command",
            command=command,
            args=dict(args),
            sender=caller.name,
            ok=False,
            code=problem.code,
        )
        raise problem


def expect(args: Args, *known: str) -> None:
    """Refuse arguments that a command does not take.

    Raises:
        CommandError: `bad_args`.
    """
    unknown = sorted(set(args) - set(known))
    if unknown:
        takes = ", ".join(known) if known else "no arguments"
        raise CommandError("bad_args", f"unknown argument {unknown[0]!r:.40}: it takes {takes}")
