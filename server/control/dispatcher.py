"""The one dispatcher for everything a technician can ask, however it arrives.

Adapters (the control socket, HTTP, OSC, through the first a terminal) find out who speaks
and pass on a command's name and arguments; every caller hears the outcome. What the words
mean is told in other rooms (`show_commands.py` and its like), which hand in their handlers.

What is promised here holds for all of them: a command whose time is over is not carried
out, the same id twice takes effect once, and who asked for what is written down.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Mapping, MutableMapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import structlog
from cachetools import TTLCache

from cache.untrusted import clean_text, mended
from server.access import Role
from server.clock import Clock
from server.timeline.playhead import PlayheadError

_log = structlog.get_logger(__name__)

REMEMBERED = 600.0
"""Seconds for which the reply to an id is kept, for those who did not hear it."""

MAX_ID = 128
"""Characters of a command's id: thousands of them are remembered."""

_MOST_REMEMBERED = 4096
_LOGGED = 200
_MOST_EXACT = 2**53

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


@dataclass(frozen=True, slots=True)
class Envelope:
    """How a command is to be taken.

    Attributes:
        id: the caller's own name for this one command; sent again, it takes effect once.
        ttl: seconds after which it is worth nothing any more; None for never.
        sent_at: steady time at which it was given; what came by itself came now.
    """

    id: str | None = None
    ttl: float | None = None
    sent_at: float | None = None

    def too_old(self, now: float) -> bool:
        """Whether its time is over."""
        if self.ttl is None:
            return False
        age = 0.0 if self.sent_at is None else max(0.0, now - self.sent_at)
        return age >= self.ttl


@dataclass(frozen=True, slots=True)
class Logged:
    """One command, who gave it, and what became of it.

    Attributes:
        number: counts up from 1.
        at: Unix time, by the machine's time of day.
        code: why it was not carried out; None where it was.
    """

    number: int
    at: float
    sender: str
    role: Role
    command: str
    args: Mapping[str, Any]
    code: str | None = None
    message: str | None = None

    def plain(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            "number": self.number,
            "at": round(self.at, 3),
            "sender": self.sender,
            "role": self.role,
            "command": self.command,
            "args": dict(self.args),
            "ok": self.code is None,
            "code": self.code,
            "message": self.message,
        }


@dataclass
class CommandLog:
    """The commands of late, newest last; the whole log is the server's."""

    entries: deque[Logged] = field(default_factory=lambda: deque(maxlen=_LOGGED))
    count: int = 0

    def add(
        self, at: float, caller: Caller, command: str, args: Args, problem: CommandError | None
    ) -> None:
        """Write one down."""
        self.count += 1
        self.entries.append(
            Logged(
                number=self.count,
                at=at,
                sender=caller.name,
                role=caller.role,
                command=f"{command:.60}",
                args=_shortened(args),
                code=problem.code if problem else None,
                message=str(problem) if problem else None,
            )
        )

    def newest(self, limit: int) -> list[dict[str, Any]]:
        """The last `limit` of them, newest first."""
        return [entry.plain() for entry in list(self.entries)[::-1][:limit]]


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


@dataclass(frozen=True, slots=True)
class _Once:
    """A command that was given under an id, and the outcome, as soon as there is one."""

    command: str
    args: str
    outcome: asyncio.Future[dict[str, Any] | CommandError]


class Dispatcher:
    """Carries out commands.

    Args:
        rooms: who knows what they mean; no two know the same word.
        clock: what their age is measured by.
        log: where they are written down.
        changed: called after each command that may have changed something.
    """

    def __init__(
        self,
        rooms: Iterable[Commands],
        clock: Clock,
        log: CommandLog | None = None,
        changed: Callable[[], None] = lambda: None,
    ) -> None:
        self._handlers: dict[str, Handler] = {}
        self._read_only: set[str] = set()
        for room in rooms:
            double = self._handlers.keys() & room.handlers.keys()
            if double:
                raise ValueError(f"two rooms know the command {min(double)!r}")
            self._handlers |= room.handlers
            self._read_only |= room.read_only
        self._clock = clock
        self._log = log if log is not None else CommandLog()
        self.changed = changed
        self._once: MutableMapping[tuple[str, str], _Once] = TTLCache(
            _MOST_REMEMBERED, REMEMBERED, timer=clock.now
        )

    @property
    def commands(self) -> tuple[str, ...]:
        """What may be asked."""
        return tuple(self._handlers)

    @property
    def read_only(self) -> frozenset[str]:
        """What a viewer may ask."""
        return frozenset(self._read_only)

    def open_to(self, role: Role) -> list[str]:
        """What somebody of that role may ask."""
        return [name for name in self._handlers if role == "operator" or name in self._read_only]

    async def dispatch(
        self, command: str, args: Args, caller: Caller, envelope: Envelope | None = None
    ) -> dict[str, Any]:
        """Carry out `command` for `caller`.

        Raises:
            CommandError: it was not carried out, and why.
        """
        envelope = envelope or Envelope()
        # The adapters' borders have cleaned them; here pass those of every adapter, of OSC and of
        # whoever comes next as well, so that the command log and the state can always be told.
        command = clean_text(command)
        args = mended({name: value for name, value in args.items() if value is not None})
        may = caller.role == "operator" and command in self._handlers
        # What is refused anyway is not remembered: nobody may fill the memory with it.
        if envelope.id is None or command in self._read_only or not may:
            return await self._carry_out(command, args, caller, envelope)
        key = caller.name, envelope.id
        # Its hash: thousands of them are remembered, and each may be as long as a message.
        given = hashlib.sha256(json.dumps(args, sort_keys=True).encode()).hexdigest()
        before = self._once.get(key)
        if before is not None:
            if (before.command, before.args) != (command, given):
                message = f"the id {envelope.id!r:.40} was another command's; give each its own"
                raise CommandError("id_reused", message)
            return _told(await asyncio.shield(before.outcome))
        once = _Once(command, given, asyncio.get_running_loop().create_future())
        self._once[key] = once
        outcome: dict[str, Any] | CommandError = CommandError(
            "interrupted", "its caller went away while it was carried out"
        )
        try:
            outcome = await self._carry_out(command, args, caller, envelope)
        except CommandError as error:
            outcome = error
        finally:
            once.outcome.set_result(outcome)
        return _told(outcome)

    async def _carry_out(
        self, command: str, args: Args, caller: Caller, envelope: Envelope
    ) -> dict[str, Any]:
        problem: CommandError | None = None
        result: dict[str, Any] = {}
        try:
            result = await self._handler(command, args, caller, envelope)(args, caller)
        except PlayheadError as error:
            problem = CommandError(error.code, str(error))
        except CommandError as error:
            problem = error
        except Exception:  # noqa: BLE001 - a command that breaks must not take its adapter along
            _log.exception("command_failed", command=command, sender=caller.name)
            problem = CommandError("internal", f"{command} failed; the server's log says why")
        if problem is None and command in self._read_only:
            return result
        self._log.add(self._clock.wall(), caller, command, args, problem)
        note: dict[str, Any] = {"ok": True} if problem is None else {"ok": False}
        if problem is not None:
            note["code"] = problem.code
        _log.info("command", command=command, args=_shortened(args), sender=caller.name, **note)
        self.changed()
        if problem is not None:
            raise problem
        return result

    def _handler(self, command: str, args: Args, caller: Caller, envelope: Envelope) -> Handler:
        handler = self._handlers.get(command)
        if handler is None:
            known = ", ".join(sorted(self._handlers))
            raise CommandError("unknown_command", f"unknown command {command!r:.40}: try {known}")
        if caller.role != "operator" and command not in self._read_only:
            raise CommandError("forbidden", f"{command} needs the operator's token")
        if envelope.too_old(self._clock.now()):
            raise CommandError("expired", f"{command} came after its ttl of {envelope.ttl:g} s")
        if None in args.values():
            # Never taken for one that is not there: a `go` to such a cue is not a `go`.
            raise CommandError("bad_args", "expected numbers that are finite and within 64 bits")
        return handler


def _told(outcome: dict[str, Any] | CommandError) -> dict[str, Any]:
    if isinstance(outcome, CommandError):
        # Another one each time: an exception that is raised twice grows its traceback.
        raise CommandError(outcome.code, str(outcome))
    return outcome


def _shortened(args: Args) -> dict[str, Any]:
    """Arguments for the log, as JSON values: the beginning of what is long."""
    return {f"{name:.40}": _short(value) for name, value in list(args.items())[:12]}


def _short(value: object) -> Any:  # noqa: ANN401 - a JSON value
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, (int, float)) and abs(value) < _MOST_EXACT:  # false for NaN
        return value
    return f"{value!s:.200}"


def kept_or_not(why_not: str | None) -> dict[str, Any]:
    """Whether what a command did survives a restart, for its result: `kept`, and why not."""
    return {"kept": True} if why_not is None else {"kept": False, "not_kept": why_not}


def expect(args: Args, *known: str) -> None:
    """Refuse arguments that a command does not take.

    Raises:
        CommandError: `bad_args`.
    """
    unknown = sorted(set(args) - set(known))
    if unknown:
        takes = ", ".join(known) if known else "no arguments"
        raise CommandError("bad_args", f"unknown argument {unknown[0]!r:.40}: it takes {takes}")
